"""When snapshots and checkpoints are due."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.plan.schedule import CheckpointTimer, Due, SnapshotTimer


def test_snapshots_that_take_no_time_are_an_interval_apart_until_the_duration_is_over() -> None:
    timer = SnapshotTimer(10, 35)
    assert [timer.next(elapsed) for elapsed in (0, 10, 20, 30)] == [Due(10, 0), Due(10, 0), Due(10, 0), Due(None, 0)]


def test_a_snapshot_longer_than_the_interval_skips_others_and_shifts_none() -> None:
    timer = SnapshotTimer(10)
    assert timer.next(1) == Due(9, 0)
    assert timer.next(34) == Due(6, 2)
    assert timer.next(41) == Due(9, 0)


def test_a_run_that_resumes_after_a_pause_keeps_its_schedule() -> None:
    assert SnapshotTimer(60).next(3_601) == Due(59, 60)
    # After ten snapshots.
    assert SnapshotTimer(60, tick=9).next(3_601) == Due(59, 51)


def test_moments_that_are_missed_at_the_end_of_the_duration_are_counted() -> None:
    assert SnapshotTimer(10, 35).next(33) == Due(None, 3)
    assert SnapshotTimer(10, 30).next(11) == Due(9, 1)
    assert SnapshotTimer(10, 5).next(0) == Due(None, 0)


@given(
    st.floats(0.1, 1e4),
    st.lists(st.floats(0, 1e5), max_size=30),
    st.none() | st.floats(0, 1e6),
)
def test_each_moment_comes_once_and_in_order_and_those_left_out_are_counted(
    interval: float, took: list[float], duration: float | None
) -> None:
    timer, elapsed, moments, missed = SnapshotTimer(interval, duration), 0.0, [0], 0
    for seconds in took:
        elapsed += seconds
        due = timer.next(elapsed)
        missed += due.missed
        if due.wait is None:
            assert duration is not None
            assert timer.tick * interval >= duration or timer.tick == pytest.approx(duration / interval)
            assert len(moments) + missed == timer.tick
            return
        assert due.wait >= 0
        elapsed += due.wait
        moments.append(timer.tick)
        assert elapsed == pytest.approx(timer.tick * interval)
    assert moments == sorted(set(moments))
    assert len(moments) + missed == moments[-1] + 1


def test_the_first_checkpoint_is_due_after_its_pages_and_the_others_after_a_time_too() -> None:
    timer = CheckpointTimer(pages=3, seconds=10)
    assert [timer.is_due(now) for now in (0, 0, 0)] == [False, False, True]
    # The pages are there, the time is not.
    assert [timer.is_due(now) for now in (1, 2, 3, 9.9)] == [False] * 4
    assert timer.is_due(10)
    # The time is there, the pages are not.
    assert [timer.is_due(now) for now in (100, 100, 100)] == [False, False, True]


@given(st.integers(1, 5), st.floats(0, 10), st.lists(st.floats(0, 5), max_size=50))
def test_checkpoints_are_so_many_pages_and_seconds_apart_and_no_more(
    pages: int, seconds: float, waits: list[float]
) -> None:
    timer = CheckpointTimer(pages, seconds)
    now, since, last = 0.0, 0, -1e9
    for wait in waits:
        now, since = now + wait, since + 1
        is_due = timer.is_due(now)
        assert is_due == (since >= pages and now - last >= seconds)
        if is_due:
            since, last = 0, now
