"""The example for Spidermon works as it is written in the documents, in real crawls."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parti_scraper.mockserver import MockServer
from tests.support import ROOT, STILL, TIMEOUT, Serve, environment_of

SECTION = (
    (ROOT / "docs/operations.md").read_text(encoding="utf-8").partition("## Monitors of a run with Spidermon\n")[2]
)
BLOCKS = re.findall(r"^```(\w+)\n((?:(?!```).*\n)*)```$", SECTION.partition("\n## ")[0], flags=re.MULTILINE)
MONITORS, SETTINGS = (code for language, code in BLOCKS if language == "python")
(COMMAND,) = (code for language, code in BLOCKS if language == "sh")

Monitored = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def monitored(tmp_path: Path) -> Monitored:
    """Return a function that types the command of the example in a project that has its files, and more settings."""
    project = tmp_path / "project"
    project.mkdir()
    for name in ("scrapy.cfg", "parti_scraper"):
        (project / name).symlink_to(ROOT / name)
    (project / "monitors.py").write_text(MONITORS, encoding="utf-8")

    def run(server: MockServer, options: str = "", settings: str = "") -> subprocess.CompletedProcess[str]:
        (project / "monitored.py").write_text(SETTINGS + settings, encoding="utf-8")
        typed = COMMAND.replace(" scrapy ", f" {sys.executable} -m scrapy ").strip()
        return subprocess.run(
            ["sh", "-ec", f"{typed} -a run_id=run {options}"],
            cwd=project,
            env=environment_of(tmp_path / "output", server),
            capture_output=True,
            encoding="utf-8",
            timeout=TIMEOUT,
            check=False,
        )

    return run


def results(log: str) -> dict[str, str]:
    """Return how the monitors of a log ended, the last time that they were run."""
    return dict(re.findall(r"\[Spidermon\] \w+/(\w+)\.\.\. (OK|FAIL|ERROR)$", log, flags=re.MULTILINE))


ALL_WELL: dict[str, Any] = dict.fromkeys(
    ["test_there_are_records", "test_few_were_set_aside", "test_it_ended_by_itself", "test_it_is_complete"], "OK"
)


def test_the_monitors_of_the_example_pass_for_a_run_that_is_well(monitored: Monitored, serve: Serve) -> None:
    run = monitored(serve(**STILL))
    assert run.returncode == 0, run.stderr
    assert results(run.stderr) == ALL_WELL
    assert "Spider.log() is deprecated" in run.stderr


def test_a_monitor_that_fails_says_why_and_leaves_the_exit_code(monitored: Monitored, serve: Serve) -> None:
    run = monitored(serve(**STILL), "-a max_records=50")
    assert run.returncode == 0, run.stderr
    assert results(run.stderr) == ALL_WELL | {"test_there_are_records": "FAIL"}
    assert "AssertionError: 50 not greater than or equal to 100" in run.stderr


def test_a_monitor_sees_the_exit_code_of_a_run_that_is_not_complete(monitored: Monitored, serve: Serve) -> None:
    run = monitored(serve(**STILL, malformed=0.5))
    assert run.returncode == 4, run.stderr
    assert results(run.stderr) == ALL_WELL | {"test_few_were_set_aside": "FAIL", "test_it_is_complete": "FAIL"}


def test_when_the_spider_closes_it_is_known_why_but_not_yet_how_it_is_judged(
    monitored: Monitored, serve: Serve
) -> None:
    earlier = 'SPIDERMON_SPIDER_CLOSE_MONITORS = ["monitors.WhenItHasEnded"]\nSPIDERMON_ENGINE_STOP_MONITORS = []\n'
    run = monitored(serve(**STILL), settings=earlier)
    assert run.returncode == 0, run.stderr
    assert results(run.stderr) == ALL_WELL | {"test_it_is_complete": "ERROR"}
    assert "KeyError: 'parti/run/exit_code'" in run.stderr


def test_monitors_run_while_the_run_goes_on_and_fields_are_counted(monitored: Monitored, serve: Serve) -> None:
    more = 'SPIDERMON_PERIODIC_MONITORS = {"monitors.WhileItRuns": 0.2}\nSPIDERMON_ADD_FIELD_COVERAGE = True\n'
    run = monitored(serve(**STILL, latency=0.15), "-s LOG_LEVEL=DEBUG", more)
    assert run.returncode == 0, run.stderr
    before, _, after = run.stderr.partition("INFO: Closing spider (finished)")
    assert before.count("Records/test_there_are_records... ") > 1
    assert results(after) == ALL_WELL
    # Each record once, although those of a page come together.
    assert "'spidermon_item_scraped_count/Livestream': 300," in run.stderr
