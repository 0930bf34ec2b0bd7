# `make help` says what each target does.
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup demo crawl deploy test lint bench format lock

help: ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: ## everything that a fresh machine needs; safe to repeat
	@PYTHON="$(PYTHON)" tools/setup.sh

demo: setup ## crawl the bundled mock server into output/, without network
	@python tools/main_job.py --mock

crawl: setup ## the same against the real API
	@python tools/main_job.py

deploy: setup ## upload the project to scrapyd; TARGET names a [deploy:TARGET] of scrapy.cfg
	@python tools/deploy.py $(TARGET)

test: setup ## every test; arguments for pytest in ARGS
	python -m pytest $(ARGS)

lint: setup ## static checks
	ruff check .
	ruff format --check .
	mypy

BENCH ?= throughput
bench: setup ## a benchmark against its peers, BENCH=throughput or notifications; arguments in ARGS
	PYTHONPATH=. python benchmarks/$(BENCH).py $(ARGS)

format: setup ## mend what the static checks can mend
	ruff check --fix .
	ruff format .

lock: setup ## make requirements.txt anew from pyproject.toml
	UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile pyproject.toml --all-extras --universal \
		--python-version 3.11 --upgrade --quiet --output-file requirements.txt
