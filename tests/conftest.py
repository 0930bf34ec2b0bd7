"""The fixtures that the tests share: a mock server at hand, and real crawls in processes of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from parti_scraper.mockserver import MockServer, Options

# Before they are imported: their assertions say what they compared, as those of the test files do.
pytest.register_assert_rewrite("tests.listening", "tests.support")

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

# The same examples on every run: a test that fails now and then would be a bug. Generation is slow where two
# cores are shared, which says nothing about the code.
settings.register_profile("project", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


@pytest.fixture
def crawl(tmp_path: Path) -> Run:
    """Return a function that runs `scrapy crawl` to its end, and holds the books against every one that ended."""

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
    """Kill what a test has begun and not ended."""
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
    """Return a function that starts a server which answers as a function says."""
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(closing(ScriptedServer(answer)))


@pytest.fixture
def scrapy(output: Path) -> Scrapy:
    """Return a function that runs a `scrapy` command just as it is typed."""

    def run(
        *typed: str,
        server: MockServer | None = None,
        env: Mapping[str, str] | None = None,
        preexec_fn: Callable[[], object] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        return run_to_its_end(list(typed), environment_of(output, server, env), preexec_fn)

    return run
