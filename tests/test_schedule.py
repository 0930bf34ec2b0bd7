"""When snapshots are due."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.schedule import Due, SnapshotTimer


def test_snapshots_that_take_no_time_are_an_interval_apart_until_the_duration_is_over() -> None:
    timer = SnapshotTimer(10, 35)
    assert [timer.next(elapsed) for elapsed in (0, 10, 20, 30)] == [Due(10, 0), Due(10, 0), Due(10, 0), None]


def test_a_snapshot_that_takes_longer_than_the_interval_leaves_out_others_and_shifts_none() -> None:
    timer = SnapshotTimer(10)
    assert timer.next(1) == Due(9, 0)
    assert timer.next(34) == Due(6, 2)
    assert timer.next(41) == Due(9, 0)


def test_a_run_that_goes_on_after_a_pause_keeps_to_its_schedule() -> None:
    assert SnapshotTimer(60).next(3_601) == Due(59, 60)


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
        if due is None:
            assert duration is not None
            assert timer.tick * interval >= duration
            return
        assert due.wait >= 0
        elapsed += due.wait
        missed += due.missed
        moments.append(timer.tick)
        assert elapsed == pytest.approx(timer.tick * interval)
    assert moments == sorted(set(moments))
    assert len(moments) + missed == moments[-1] + 1
