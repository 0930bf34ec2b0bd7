"""The days of a run: whatever the clock does, each count belongs to one day, and all days together have all."""

from __future__ import annotations

import json
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.run.days import Days, day_from, day_of

NOON = 1_795_780_800.0  # 2026-11-27T12:00:00Z
DAY = 86_400.0
HOUR = 3_600.0


def counted_by_day(days: Days) -> dict[str, int]:
    """Return what was written on each day."""
    by_day = {day.name: day.counts["written"] for day in (*days.over, days.current)} | days.described
    return {name: number for name, number in by_day.items() if number}


def test_a_run_is_in_one_day_until_the_clock_shows_another() -> None:
    days = Days((), NOON)
    assert (days.current.name, days.is_over(NOON + 11 * HOUR), days.is_over(NOON + 12 * HOUR)) == (
        "2026-11-27",
        False,
        True,
    )
    days.count({"written": 3}, ["a page is missing"], NOON + DAY)
    days.turn(NOON + DAY)
    assert days.names == ["2026-11-27", "2026-11-28"]
    (over,) = days.over
    assert (over.counts, over.gaps, over.ended_at) == ({"written": 3}, ["a page is missing"], NOON + 12 * HOUR)
    assert (days.current.counts, days.current.gaps, days.current.started_at) == ({}, [], NOON + DAY)


def test_a_day_on_which_a_run_was_killed_ends_when_it_was_last_seen() -> None:
    days = Days((), NOON)
    days.count({"written": 1}, [], NOON + HOUR)
    resumed = Days((), NOON + 3 * DAY)
    resumed.restore(json.loads(json.dumps(days.as_json())))
    resumed.count({"written": 1}, [], NOON + 3 * DAY)
    resumed.turn(NOON + 3 * DAY)
    assert [day.ended_at for day in resumed.over] == [NOON + HOUR]
    assert resumed.names == ["2026-11-27", "2026-11-30"]


def test_a_day_that_comes_again_continues_what_its_data_package_says() -> None:
    days = Days((), NOON)
    days.count({"written": 2}, [], NOON)
    days.turn(NOON + DAY)
    days.has_described(days.over[0])
    described = {
        "day": "2026-11-27",
        "started_at": "2026-11-27T12:00:00Z",
        "ended_at": "2026-11-27T12:00:01Z",
        "counts": {"served": 3, "written": 2, "quarantined": 1, "unknown_fields": 1},
        "unknown_fields": {"new": 2},
        "unreadable_fields": {},
        "complete": False,
        "reason": "a page is missing",
        "degraded": [],
        "snapshots": [{"snapshot_id": "run-1"}],
    }
    days.count({"written": 2}, [], NOON + DAY)
    days.turn(NOON, day_from(described, ()))
    days.count({"written": 7}, [], NOON)
    assert (days.current.counts["written"], days.current.gaps) == (7, ["a page is missing"])
    assert days.current.observations == [{"snapshot_id": "run-1"}]
    assert days.current.quality.unknown == {"new": 2}
    assert days.described == {}


# How far the clock moves in seconds, how many records are written then, and whether the process ends meanwhile.
MOVES = st.lists(st.tuples(st.floats(-2 * DAY, 3 * DAY), st.integers(0, 5), st.booleans(), st.booleans()), max_size=20)


@given(MOVES)
def test_each_record_is_counted_to_the_day_that_the_clock_showed(
    moves: list[tuple[float, int, bool, bool]],
) -> None:
    now, written = NOON, 0
    days = Days((), now)
    expected: Counter[str] = Counter()
    packages: dict[str, int] = {}
    for move, number, is_resumed, is_described in moves:
        now += move
        days.count({"written": written}, [], now)
        if days.is_over(now):
            before = packages.get(day_of(now)) if day_of(now) in days.described else None
            days.turn(now, None if before is None else day_from(package_of(day_of(now), before), ()))
        written += number
        expected[day_of(now)] += number
        if is_resumed:
            days.count({"written": written}, [], now)
            state = json.loads(json.dumps(days.as_json()))
            days = Days((), now)
            days.restore(state)
            days.skip({}, [])
        if is_described:
            for day in list(days.over):
                days.has_described(day)
                packages[day.name] = day.counts["written"]
    days.count({"written": written}, [], now)
    assert counted_by_day(days) == {name: number for name, number in expected.items() if number}
    assert set(expected) <= set(days.names)


def package_of(name: str, written: int) -> dict[str, object]:
    """Return the data package of a day."""
    return {
        "day": name,
        "started_at": f"{name}T00:00:00Z",
        "ended_at": f"{name}T00:00:00Z",
        "counts": {"served": written, "written": written, "quarantined": 0},
        "unknown_fields": {},
        "unreadable_fields": {},
        "complete": True,
        "degraded": [],
    }
