"""The fixtures of all tests: mock servers, and real crawls in their own processes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from parti_scraper.mockserver import MockServer, Options

pytest_plugins = ("tests.object_store", "tests.postgresql")

# Before their import: so their assertions show the compared values, like those of test files.
pytest.register_assert_rewrite("tests.folders", "tests.listening", "tests.support")

from tests.servers import Script, ScriptedServer  # noqa: E402
from tests.support import (  # noqa: E402
    Crawl,
    Run,
    RunningCrawl,
    Scrapy,
    Serve,
    check_books,
    environment_of,
    run_to_its_end,
    typed_of,
)

# The same examples on every run, because a test must not fail at random. Generation is slow if two
# cores are shared, which is no fault of the code.
settings.register_profile("project", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


@pytest.fixture
def crawl(tmp_path: Path) -> Run:
    """Return a function that runs `scrapy crawl` to its end, and checks the counts of every finished run."""

    def run(
        spider: str,
        *options: str,
        server: MockServer | None = None,
        run_id: str = "run",
        env: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> Crawl:
        output = tmp_path / "output"
        process = run_to_its_end(typed_of(spider, run_id, arguments, options), environment_of(output, server, env))
        crawl = Crawl(process.returncode, process.stdout, process.stderr, output, spider, run_id)
        check_books(crawl)
        return crawl

    return run


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Kill the processes that a test has left running."""
    yield
    while RunningCrawl.begun:
        RunningCrawl.begun.pop().close()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts a mock server with the given options."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(MockServer(Options(**options)))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return the PARTI_OUTPUT_DIR of `crawl`."""
    return tmp_path / "output"


@pytest.fixture
def script() -> Iterator[Script]:
    """Return a function that starts a server whose answers come from a function."""
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(closing(ScriptedServer(answer)))


@pytest.fixture
def scrapy(output: Path) -> Scrapy:
    """Return a function that runs a `scrapy` command unchanged."""

    def run(
        *typed: str,
        server: MockServer | None = None,
        env: Mapping[str, str] | None = None,
        preexec_fn: Callable[[], object] | None = None,
        before: Callable[[], object] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        return run_to_its_end(list(typed), environment_of(output, server, env), preexec_fn, before)

    return run
