# `make help` says what each target does. Needs GNU make 3.81 or newer; macOS has 3.81.
BIN := .venv/bin
SETUP = PYTHON="$(PYTHON)" tools/setup.sh

.PHONY: help setup setup-dev demo demo-jobs crawl build deploy test lint bench format lock
# Two targets must not set up at the same time.
.NOTPARALLEL:
# With it, each of many processes would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-11s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## .venv with what crawls and exports need; safe to repeat
	@$(SETUP)

setup-dev: ## the same, and what tests, static checks and deployment need
	@$(SETUP) --dev

demo: setup ## crawl the bundled mock server into output/, without network
	@$(BIN)/python tools/main_job.py --mock

demo-jobs: setup-dev ## the same by two workers that share a queue, one of which is killed
	@$(BIN)/python tools/demo_jobs.py

crawl: setup ## the same against the real API
	@$(BIN)/python tools/main_job.py

build: setup-dev ## the wheel and the source distribution, into dist/
	@$(BIN)/python tools/build.py

deploy: setup-dev ## upload the project to scrapyd; TARGET names a [deploy:TARGET] of scrapy.cfg
	@$(BIN)/python tools/deploy.py $(TARGET)

test: setup-dev ## every test; arguments for pytest in ARGS
	$(BIN)/python -m pytest $(ARGS)

lint: setup-dev ## static checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

BENCH ?= throughput
bench: setup-dev ## a benchmark against its peers, BENCH=throughput, completeness, notifications, catalog, export or jobs; arguments in ARGS
	PYTHONPATH=. $(BIN)/python benchmarks/$(BENCH).py $(ARGS)

format: setup-dev ## fix what the static checks can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The developers' lock first: the users' lock takes its versions from it.
COMPILE = UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile pyproject.toml --universal \
	--python-version 3.11 --quiet
lock: setup-dev ## update requirements.txt and requirements-dev.txt from pyproject.toml
	$(COMPILE) --all-extras --upgrade --output-file requirements-dev.txt
	$(COMPILE) --extra dataset --extra report --extra operations --constraint requirements-dev.txt --upgrade --output-file requirements.txt
