"""How a run is judged: the exit codes of the interface."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from parti_scraper.run.outcome import Counts, Ending, ExitCode, judge

BALANCED = Counts(pages=3, served=10, written=5, duplicate=2, quarantined=1, filtered=2)


def ending(**changes: Any) -> Ending:
    """Return the ending of a successful run, with changes."""
    return Ending(**({"finish_reason": "finished", "counts": BALANCED} | changes))


@pytest.mark.parametrize(
    ("changes", "code", "reason"),
    [
        ({}, ExitCode.COMPLETE, None),
        ({"counts": Counts()}, ExitCode.COMPLETE, None),
        ({"finish_reason": "shutdown"}, ExitCode.STOPPED, "stopped before the end (shutdown)"),
        (
            {"finish_reason": "closespider_itemcount"},
            ExitCode.STOPPED,
            "stopped before the end (closespider_itemcount)",
        ),
        ({"finish_reason": "start_error"}, ExitCode.STOPPED, "stopped before the end (start_error)"),
        ({"finish_reason": "shutdown", "until_stopped": True}, ExitCode.COMPLETE, None),
        (
            {"finish_reason": "closespider_timeout", "until_stopped": True},
            ExitCode.STOPPED,
            "stopped before the end (closespider_timeout)",
        ),
        ({"exceptions": 2}, ExitCode.STOPPED, "2 exceptions, see the log"),
        ({"exceptions": 1}, ExitCode.STOPPED, "1 exception, see the log"),
        ({"gaps": ["a page is missing"]}, ExitCode.INCOMPLETE, "a page is missing"),
        (
            {"gaps": [str(number) for number in range(7)]},
            ExitCode.INCOMPLETE,
            "0; 1; 2; 3; 4; and 2 more",
        ),
        ({"set_aside": "9 of 20 records were set aside"}, ExitCode.INCOMPLETE, "9 of 20 records were set aside"),
        ({"set_aside": "9 of 20", "degraded": ["x"]}, ExitCode.INCOMPLETE, "9 of 20"),
        ({"gaps": ["a page"], "degraded": ["x"]}, ExitCode.INCOMPLETE, "a page"),
        ({"storage": ["no space"], "gaps": ["a page"]}, ExitCode.INCOMPLETE, "no space"),
        ({"storage": ["no folder"], "finish_reason": "storage"}, ExitCode.INCOMPLETE, "no folder"),
        ({"usage_error": "no such category", "finish_reason": "usage_error"}, ExitCode.USAGE, "no such category"),
        ({"gaps": ["a page"], "finish_reason": "shutdown"}, ExitCode.STOPPED, "stopped before the end (shutdown)"),
    ],
)
def test_the_exit_code_says_how_the_run_ended(changes: dict[str, Any], code: ExitCode, reason: str | None) -> None:
    verdict = judge(ending(**changes))
    assert (verdict.exit_code, verdict.reason) == (code, reason)
    assert verdict.complete is (code == 0)
    # A failure to store stops the run, unless it happens only at the end.
    assert verdict.ended is (code in {0, 4} and changes.get("finish_reason") != "storage")


def test_a_degraded_run_is_complete_with_exit_code_4() -> None:
    verdict = judge(ending(degraded=["user_name is absent from 20 of 20 records", "event_title is, too"]))
    assert verdict.exit_code is ExitCode.INCOMPLETE
    assert verdict.complete
    assert verdict.ended
    assert verdict.reason == "degraded: user_name is absent from 20 of 20 records; event_title is, too"


@pytest.mark.parametrize("name", ["served", "written", "duplicate", "quarantined", "filtered"])
def test_a_record_without_a_count_is_detected(name: str) -> None:
    counts = Counts(pages=3, served=10, written=5, duplicate=2, quarantined=1, filtered=2)
    counts = replace(counts, **{name: getattr(counts, name) + 1})
    verdict = judge(ending(counts=counts))
    assert verdict.exit_code is ExitCode.INCOMPLETE
    assert verdict.reason is not None
    assert verdict.reason.startswith("the counts do not balance: ")
