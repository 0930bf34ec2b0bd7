"""How far a run is, and how long it still takes: what is computed, and what a user sees of it."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.plan.outlook import Outlook, Pace, outlook_of
from parti_scraper.plan.plan import Span
from tests.support import (
    QUIET,
    STILL,
    Run,
    RunningCrawl,
    Serve,
    environment_of,
    hold,
    typed_of,
    wait_until,
)

LOGGED = re.compile(r"\[parti_scraper\.extensions\.progress\] INFO: Progress: (.*)$", re.MULTILINE)
OFTEN = ("-s", "LOGSTATS_INTERVAL=0.1")
# Many pages of few records.
LONG: dict[str, Any] = {**STILL, "events": 400, "page_cap": 20, "latency": 0.04}


def paces(outlooks: Sequence[Outlook], seconds: float = 1.0) -> Pace:
    """Return the pace after looks so many seconds apart."""
    pace = Pace()
    for number, outlook in enumerate(outlooks):
        pace.note(outlook, number * seconds)
    return pace


# --- The computation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("walks", "share", "reached"),
    [
        ([[(1_000, 0)]], 0.0, 1_000),
        ([[(500, 0)]], 0.5, 500),
        # Several windows at once: what is proved begins above the first of them.
        ([[(900, 800), (400, 300)]], 0.8, 900),
        ([[(500, 0)], []], 0.75, 500),
        ([[]], 1.0, 1),
        # What lies outside of the window does not count.
        ([[(2_000, 1_500), (100, -900)]], 0.9, 100),
    ],
)
def test_the_share_is_that_of_the_time_and_everything_later_than_reached_is_there(
    walks: list[list[Span]], share: float, reached: int
) -> None:
    outlook = outlook_of(1, 1_000, walks)
    assert outlook.share == pytest.approx(share)
    assert outlook.reached == reached


spans = st.lists(st.tuples(st.integers(-5, 120), st.integers(-5, 120)), max_size=5)


@given(st.lists(st.lists(spans, max_size=3), min_size=1), st.lists(st.floats(0, 500), min_size=30, max_size=30))
def test_what_is_shown_never_goes_back_and_is_never_all_before_the_end(
    walks: list[list[list[Span]]], waits: list[float]
) -> None:
    pace, now = Pace(), 0.0
    shown: list[tuple[int, int]] = []
    for each, wait in zip(walks, waits, strict=False):
        now += wait
        pace.note(outlook_of(1, 100, each), now)
        assert pace.reached is not None
        shown.append((int(pace.parts()[0].removesuffix("%")), -pace.reached))
        assert pace.left is None or pace.left >= 0
    assert shown == sorted(shown, key=lambda pair: pair[0]) == sorted(shown, key=lambda pair: pair[1])
    assert all(0 <= percent <= 99 for percent, _ in shown)


def test_the_time_left_follows_the_speed_of_late() -> None:
    steady = paces([Outlook(number / 1_000) for number in range(101)])
    assert steady.left == pytest.approx(900)
    # Ten times as fast since.
    for number in range(61):
        steady.note(Outlook(0.1 + number / 100), 100 + number * 5)
    assert steady.left == pytest.approx(150)


def test_without_progress_of_late_no_time_left_is_told() -> None:
    assert paces([]).left is None
    assert paces([Outlook(0.2)]).left is None
    assert paces([Outlook(None)] * 5).parts() == []
    assert paces([Outlook(0.2), *[Outlook(0.3)] * 400]).left is None


def test_many_looks_do_not_fill_the_memory() -> None:
    pace = Pace()
    for number in range(100_000):
        pace.note(Outlook(number / 100_000), number / 100)
    assert len(pace._looks) < 400
    assert pace.left == pytest.approx(0.0, abs=1)


def test_a_duration_and_a_snapshot_are_told_as_they_are_known() -> None:
    assert paces([Outlook(0.25, next_in=45.2, left=5_400)] * 2).parts() == [
        "25%",
        "next snapshot in 45s",
        "1h 30m left",
    ]
    assert paces([Outlook(next_in=0.2)]).parts() == ["next snapshot in 0s"]
    assert paces([Outlook(0.5, 1_767_225_600)]).parts() == ["50%", "back to 2026-01-01 00:00"]
    # Nothing is there yet.
    assert paces([Outlook(0.0, 1_767_225_600)]).parts() == ["0%"]


# --- What is seen ----------------------------------------------------------------------------------------------


def test_the_log_tells_how_far_a_run_of_recent_is(crawl: Run, serve: Serve) -> None:
    server = serve(**LONG)
    oldest = min(record["event_start_ts"] for record in server.world.recent_at())
    run = crawl("recent", *OFTEN, server=server, since=str(oldest), until=STILL["now"])
    assert run.code == 0
    lines = LOGGED.findall(run.stderr)
    percents = [int(line.partition("%")[0]) for line in lines]
    assert percents == sorted(percents)
    assert len(set(percents)) > 3
    assert 0 <= percents[0] < percents[-1] <= 99
    dates = re.findall(r", back to (2026-\d\d-\d\d \d\d:\d\d)", "\n".join(lines))
    assert dates == sorted(dates, reverse=True)
    assert len(set(dates)) > 2
    assert re.search(r"^\d+%, \S+ left, back to ", lines[-1])


def test_a_run_that_resumes_begins_where_it_stopped(serve: Serve, output: Path) -> None:
    server = serve(**LONG)
    oldest = min(record["event_start_ts"] for record in server.world.recent_at())
    env = environment_of(output, server)
    window = {"since": str(oldest), "until": STILL["now"]}
    hold(server, 10, "/recent")
    first = RunningCrawl(typed_of("recent", "run", window, OFTEN), env)
    wait_until(lambda: bool(re.search(r"Progress: [2-9]\d%", first.process.stderr)))
    first.process.send_signal(signal.SIGINT)
    server.held = None
    assert first.stop(0) == 3
    before = max(int(line.partition("%")[0]) for line in LOGGED.findall(first.stderr))
    again = RunningCrawl(typed_of("recent", "run", {}, OFTEN), env)
    wait_until(lambda: again.process.returncode is not None)
    again.stop()
    assert int(LOGGED.findall(again.stderr)[0].partition("%")[0]) >= before


def test_max_records_is_what_a_run_comes_closer_to(crawl: Run, serve: Serve) -> None:
    run = crawl("recent", *OFTEN, server=serve(**LONG), max_records=300)
    percents = [int(line.partition("%")[0]) for line in LOGGED.findall(run.stderr)]
    assert any(20 < percent < 99 for percent in percents)


def test_a_run_at_intervals_says_when_the_next_snapshot_is_due_and_when_it_ends(crawl: Run, serve: Serve) -> None:
    run = crawl("live", *OFTEN, server=serve(**STILL), interval=1, duration=1.5)
    assert any(re.fullmatch(r"\d+%, next snapshot in [01]s, [012]s left", line) for line in LOGGED.findall(run.stderr))


def test_a_listener_with_a_duration_says_when_it_ends(crawl: Run, serve: Serve) -> None:
    run = crawl("notifications", *OFTEN, server=serve(**STILL), duration=5)
    assert any(re.fullmatch(r"\d+%, [0-5]s left", line) for line in LOGGED.findall(run.stderr))


def test_where_nothing_can_be_computed_or_lines_are_off_none_is_logged(crawl: Run, serve: Serve) -> None:
    assert not LOGGED.search(crawl("categories", *OFTEN, server=serve(**STILL, latency=0.15)).stderr)
    silent = crawl("recent", "-s", "LOGSTATS_INTERVAL=0", server=serve(**LONG), run_id="silent", max_records=100)
    assert not LOGGED.search(silent.stderr)
    assert not LOGGED.search(crawl("recent", *QUIET, *OFTEN, server=serve(**STILL), run_id="quiet").stderr)
