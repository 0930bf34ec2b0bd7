"""The independent computation of derived tables, against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.dataset_truth import Row
from tests.derived_truth import Known, Package, unchanged_ids
from tests.made_runs import live_channel, livestream, notification, scheduled

RUN = "run"
NONE: Row = {"complete": True, "truncated": False, "arguments": {}, "resources": [{}], "counts": {"quarantined": 0}}


def at(clock: str, day: int = 27) -> str:
    """Return a time of day of November."""
    return f"2026-11-{day:02}T{clock}:00Z"


def every_five_minutes(day: int = 27) -> list[str]:
    """Return the times of the example's snapshots."""
    return [at(f"{20 + minute // 60}:{minute % 60:02}", day) for minute in range(0, 61, 5)]


def package(run_uuid: str, spider: str, **fields: Any) -> Package:
    """Return the data package of a run, or of a day of one."""
    written = frozenset(fields.pop("written", ()))
    return Package(NONE | {"spider": spider, "run_uuid": run_uuid} | fields, written)


def looked(times: list[str], run_uuid: str = RUN, **fields: Any) -> Package:
    """Return the data package of a run that took complete snapshots at these times."""
    taken = [
        {"snapshot_id": each, "started_at": each, "ended_at": each, "channels": 1, "complete": True} for each in times
    ]
    return package(run_uuid, "live", snapshots=taken, **fields)


def seen(event_id: int, viewers: Mapping[str, int | None], run_uuid: str = RUN, **fields: Any) -> list[Row]:
    """Return the rows of a livestream, by the time of the snapshot."""
    return [
        live_channel(event_id, time, viewers_count=count, observed_at=time, **fields) | {"run_uuid": run_uuid}
        for time, count in viewers.items()
    ]


def known(*packages: Package, **tables: list[Row]) -> dict[str, list[Row]]:
    """Return the derived tables of what is known."""
    names = ("livestreams", "live_channels", "live_notifications", "scheduled_livestreams")
    found: dict[str, list[Row]] = {name: [] for name in names} | tables
    return Known(found, list(packages), found).all_tables_but_runs()


EXAMPLE: dict[str, int | None] = {at("20:00"): 10, at("20:05"): 20, at("20:10"): 30, at("20:40"): 100, at("20:45"): 50}


def test_the_example_of_the_document_has_the_numbers_that_are_said() -> None:
    tables = known(looked(every_five_minutes()), live_channels=seen(1, EXAMPLE))
    (stream,) = tables["streams"]
    expected = {
        "observed_seconds": 900,
        "longest_gap_seconds": 1_800,
        "viewer_hours": pytest.approx(34_500 / 3_600),
        "average_viewers": pytest.approx(34_500 / 900),
        "peak_viewers": 100,
        "peak_at": at("20:40"),
        "snapshots": 5,
    }
    assert {name: stream[name] for name in expected} == expected
    (hour,) = tables["hours"]
    assert (hour["hour"], hour["category_id"], hour["snapshots"]) == (at("20:00"), 7, 12)
    assert (hour["average_channels"], hour["average_viewers"]) == (pytest.approx(5 / 12), 17.5)
    assert (hour["peak_channels"], hour["peak_viewers"]) == (1, 100)
    (covered,) = tables["coverage"]
    assert (covered["since"], covered["until"]) == (at("20:00"), at("21:00"))


def test_of_snapshots_in_one_second_the_greater_number_counts_and_unknown_ones_do_not() -> None:
    rows = [
        *seen(1, {at("20:00"): 10, at("20:05"): None, at("20:10"): 30}),
        *seen(1, {at("20:00"): 40}, "other"),
    ]
    (stream,) = known(looked(every_five_minutes()), live_channels=rows)["streams"]
    # A stretch of 600 seconds from 40 to 30 viewers.
    assert (stream["observed_seconds"], stream["average_viewers"], stream["snapshots"]) == (600, 35, 4)
    assert (stream["peak_viewers"], stream["peak_at"], stream["longest_gap_seconds"]) == (40, at("20:00"), 600)


def test_a_day_with_one_snapshot_has_gaps_only() -> None:
    times = {at("23:00", 26): 10, at("00:10"): 30}
    (stream,) = known(looked([at("23:00", 26)], "a"), looked([at("00:10")], "b"), live_channels=seen(1, times))[
        "streams"
    ]
    assert (stream["observed_seconds"], stream["viewer_hours"], stream["average_viewers"]) == (0, None, 20)
    assert stream["longest_gap_seconds"] == 4_200


def test_a_stretch_over_midnight_is_judged_by_the_day_on_which_it_begins() -> None:
    taken = [at("23:50", 26), at("23:55", 26), at("00:08"), at("00:09"), at("00:10"), at("00:14")]
    rows = seen(1, dict.fromkeys(taken, 60))
    tables = known(looked(taken), live_channels=rows)
    (stream,) = tables["streams"]
    # Of the first day it is 300 seconds, so that 780 are none; of the second 60, so that 240 are one.
    assert (stream["observed_seconds"], stream["longest_gap_seconds"]) == (300 + 780 + 120, 780)
    assert [(row["since"], row["until"]) for row in tables["coverage"]] == [
        (at("23:50", 26), at("00:08")),
        (at("00:08"), at("00:10")),
        (at("00:14"), at("00:14")),
    ]


def test_runs_with_one_snapshot_are_one_run_and_the_least_median_counts() -> None:
    many = looked([at("10:00"), at("10:10"), at("10:20")], "many")
    singles = [looked([at(clock)], clock) for clock in ("10:01", "10:05", "10:09")]
    rows = seen(1, {at("10:00"): 6, at("10:12"): 6, at("10:25"): 6})
    (stream,) = known(many, *singles, live_channels=rows)["streams"]
    # 240 seconds, not 600: 720 are no gap, 780 are.
    assert (stream["observed_seconds"], stream["longest_gap_seconds"]) == (720, 780)


def test_a_channel_has_the_sums_of_its_livestreams_without_announced_ones() -> None:
    tables = known(
        looked(every_five_minutes()),
        livestreams=[livestream(1, user_id=3, user_name="new", total_viewers=5, category_name="B")],
        live_channels=seen(2, EXAMPLE, user_id=3, user_name="newest", category_name="A"),
        live_notifications=[notification(4, user_id=3, user_name="old", received_at=at("10:00", 1))],
        scheduled_livestreams=[scheduled(5, user_id=3, user_name="later", event_start=at("10:00", 30))],
    )
    (channel,) = tables["channels"]
    expected = {
        "streams": 3,
        "hours": pytest.approx(1.5 + 0.25),
        "total_viewers": 5,
        "user_name": "later",
        "names": ["later", "new", "newest", "old"],
        "first_seen_at": at("10:00", 1),
        "last_seen_at": at("20:45"),
        "top_category": "B",
        "peak_viewers": 100,
        "average_viewers": pytest.approx(34_500 / 900),
    }
    assert {name: channel[name] for name in expected} == expected


def proving(run_uuid: str, day: int, **fields: Any) -> Package:
    """Return the data package of a run of `recent` that looked from the first on."""
    began = at("12:00", day)
    window = {"since": fields.pop("since", at("00:00", 1)), "until": began}
    return package(run_uuid, "recent", started_at=began, window=window, **fields)


SCRAPED = at("12:01", 26)
STREAM = livestream(1, event_end=at("10:00", 25), scraped_at=SCRAPED)


@pytest.mark.parametrize(
    ("runs", "confirmed", "missing"),
    [
        ([], 26, None),
        ([proving("2", 27)], 26, 27),
        # Of several, the first that has not seen it any more.
        ([proving("2", 27), proving("3", 28)], 26, 27),
        ([proving("2", 27), proving("3", 28, written={1})], 28, None),
        ([proving("2", 27, unchanged="1 3", arguments={"incremental": True})], 27, None),
        ([proving("2", 27, unchanged="4 3", arguments={"incremental": True})], 26, 27),
        ([proving("2", 27, arguments={"incremental": True})], 26, None),
        ([proving("2", 27, since=at("10:01", 25))], 26, None),
        ([proving("2", 27, complete=False)], 26, None),
        ([proving("2", 27, truncated=True)], 26, None),
        ([proving("2", 27, counts={"quarantined": 1})], 26, None),
        ([proving("2", 27, arguments={"categories": ["7"]})], 26, None),
        ([proving("2", 27, arguments={"sort": "views"})], 26, None),
        ([proving("2", 27, written={1}, complete=False)], 26, None),
    ],
    ids=range(14),
)
def test_what_a_complete_run_over_its_end_has_not_seen_any_more_is_missing(
    runs: list[Package], confirmed: int, missing: int | None
) -> None:
    (row,) = known(proving("1", 26, written={1}), *runs, livestreams=[STREAM])["livestreams"]
    expected = (at("12:00", confirmed), at("12:00", missing) if missing else None)
    assert (row["last_confirmed_at"], row["missing_since"]) == expected


def test_a_run_that_continues_counts_only_if_what_it_continues_is_proved() -> None:
    later = {"arguments": {"incremental": True}, "unchanged": ""}
    first = proving("1", 10, since="2021-08-03T00:00:00Z", **later)
    second, far = proving("2", 20, since=at("12:00", 9), **later), proving("3", 30, since=at("12:01", 20), **later)
    assert [row["run_uuid"] for row in known(first, second, far)["coverage"]] == ["1", "2"]
    assert known(second, far)["coverage"] == []
    # What an unfiltered run proves counts for filtered ones, too.
    filtered = later | {"arguments": {"incremental": True, "categories": ["7"]}}
    assert len(known(first, proving("2", 20, since=at("12:00", 9), **filtered))["coverage"]) == 2


def test_numbers_are_the_sums_of_differences() -> None:
    assert unchanged_ids("80658 1 3") == {80_658, 80_659, 80_662}
    assert unchanged_ids("") == set()
