"""Coverage: which stretches of time runs prove, which are missing, and that the printed commands leave no gap."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from parti_scraper.api.times import first_second, iso_to_timestamp, timestamp_to_iso
from parti_scraper.dataset.collected import Collected, collect
from parti_scraper.dataset.coverage import (
    LIVESTREAMS,
    Bounds,
    Interval,
    Proof,
    Series,
    coverage_of,
    crawl_for,
    gaps,
    looked,
    proved,
    union,
)
from parti_scraper.network.source import MOCK, REAL
from parti_scraper.run.catalog import Catalog
from parti_scraper.run.entries import Entry
from parti_scraper.wording import length_of
from tests.made_runs import category, live_channel, livestream, make_run, note_checkpoint, notification
from tests.support import ROOT, STILL, TIMEOUT, Run, Scrapy, Serve, environment_of, ids, read_lines

NOW = iso_to_timestamp("2024-12-01T00:00:00Z")
# When runs begin and end, unless it is said otherwise.
TIMES = {"started_at": "2024-11-30T00:00:00Z", "ended_at": "2024-11-30T00:05:00Z"}
DATA = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
GOLDEN = Path(__file__).parent / "golden" / "runs-1" / "output"


def documented(title: str) -> str:
    """Return the block of the document under a title."""
    match = re.search(rf"^\*\*{title}\.\*\*[^\n]*\n\n```\w+\n(.*?)```$", DATA, flags=re.MULTILINE | re.DOTALL)
    assert match
    return match[1]


# --- Intervals ---------------------------------------------------------------------------------------------------

SECONDS = st.integers(0, 40)
INTERVALS = st.lists(st.tuples(SECONDS, SECONDS).map(lambda ends: Interval(min(ends), max(ends))), max_size=6)


def seconds_of(intervals: list[Interval]) -> set[int]:
    """Return every second of some intervals."""
    return {second for each in intervals for second in range(each.since, each.until + 1)}


def runs_of(seconds: set[int]) -> list[Interval]:
    """Return the least number of intervals with these seconds, sorted."""
    starts = sorted(second for second in seconds if second - 1 not in seconds)
    ends = sorted(second for second in seconds if second + 1 not in seconds)
    return [Interval(*each) for each in zip(starts, ends, strict=True)]


@example([Interval(1, 5), Interval(6, 9)])
@example([Interval(1, 5), Interval(7, 9)])
@given(INTERVALS)
def test_a_union_has_the_seconds_of_its_intervals_and_joins_neighbours(intervals: list[Interval]) -> None:
    assert union(intervals) == runs_of(seconds_of(intervals))


@given(INTERVALS, SECONDS, SECONDS)
def test_gaps_are_the_seconds_in_no_interval(intervals: list[Interval], since: int, until: int) -> None:
    missing = set(range(since, until + 1)) - seconds_of(intervals)
    assert gaps(intervals, since, until) == runs_of(missing)


@given(INTERVALS, INTERVALS, st.none() | SECONDS, st.none() | SECONDS)
def test_what_is_proved_and_what_is_missing_are_all_that_is_looked_at(
    own: list[Interval], others: list[Interval], since: int | None, until: int | None
) -> None:
    if since is not None and until is not None and since > until:
        since, until = until, since
    found = coverage_of(LIVESTREAMS, union(own), Bounds(since, until, 40), others)
    within = {each for each in seconds_of(own) if each >= (since or 0) and each <= (40 if until is None else until)}
    first = since if since is not None else min(within, default=None)
    last = until if until is not None else max(within, default=None)
    if first is None or last is None:
        assert found is None
    else:
        looked_at = set(range(first, last + 1))
        there = looked_at & (seconds_of(own) | seconds_of(others))
        assert found
        assert (found.intervals, found.gaps) == (runs_of(there), runs_of(looked_at - there))


PROOFS = st.lists(
    st.builds(
        lambda ends, continues: Proof(LIVESTREAMS, min(ends), max(ends), continues),
        st.tuples(SECONDS, SECONDS),
        st.booleans(),
    ),
    max_size=8,
)


@given(PROOFS)
def test_an_incremental_run_counts_only_if_what_it_continues_is_proved(proofs: list[Proof]) -> None:
    counted = {(each.since, each.until) for each in proofs if not each.continues}
    while True:
        there = seconds_of([Interval(*each) for each in counted])
        if (more := counted | {(each.since, each.until) for each in proofs if each.since in there}) == counted:
            break
        counted = more
    assert proved(proofs) == {LIVESTREAMS: runs_of(there)}


# --- What a run proves -------------------------------------------------------------------------------------------


def prove(output: Path, run_id: str, since: str, until: str, **fields: Any) -> Path:
    """Write a run of `recent` with a window."""
    status = fields.pop("status", "finished")
    window = {"since": since, "until": until}
    return make_run(output, "recent", run_id, [livestream(1)], status=status, **TIMES | {"window": window} | fields)


def rewrite(folder: Path, **fields: Any) -> dict[str, Any]:
    """Change fields of a data package, and return it as it was."""
    path = folder / "datapackage.json"
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(known | fields), encoding="utf-8")
    return known


def collected(output: Path, source: str | None = None, now: int = NOW) -> Collected:
    """Return what the runs of an output folder have looked at."""
    return collect(Catalog([output]), now, source)[1]


def shown(intervals: list[Interval]) -> list[str]:
    """Return intervals as texts, without the parts of times that are 0."""
    return [" ".join(timestamp_to_iso(each).removesuffix("T00:00:00Z") for each in one) for one in intervals]


WHOLE = ["2024-10-01 2024-10-31"]
NOTHING: list[str] = []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, WHOLE),
        ({"status": "degraded"}, WHOLE),
        ({"arguments": {"limit": 50, "max_records": 100}}, WHOLE),
        ({"pruned": True}, WHOLE),
        ({"status": "incomplete"}, NOTHING),
        ({"status": "truncated"}, NOTHING),
        ({"status": "sealed"}, NOTHING),
        ({"status": "running"}, NOTHING),
        ({"window": None}, NOTHING),
        ({"window": {"since": "then", "until": "now"}}, NOTHING),
        ({"arguments": {"sort": "views"}}, NOTHING),
        ({"arguments": {"categories": ["NaN"]}}, NOTHING),
        ({"arguments": {"categories": ["all"]}}, NOTHING),
        ({"arguments": {"user_id": 5}}, NOTHING),
        # What ended after the run had begun may be missing.
        ({"started_at": "2024-10-20T00:00:00Z"}, ["2024-10-01 2024-10-20"]),
        ({"started_at": "2024-09-20T00:00:00Z"}, NOTHING),
        # An incremental run takes all only if nothing was taken before.
        ({"arguments": {"incremental": True}}, NOTHING),
        ({"arguments": {"incremental": True, "since": iso_to_timestamp("2024-10-01T00:00:00Z")}}, WHOLE),
    ],
    ids=str,
)
def test_a_run_proves_its_window_if_it_is_complete_and_takes_all(
    output: Path, fields: dict[str, Any], expected: list[str]
) -> None:
    prove(output, "run", "2024-10-01T00:00:00Z", "2024-10-31T00:00:00Z", **fields)
    assert shown(proved(collected(output).proofs)[LIVESTREAMS]) == expected


def test_a_run_whose_records_were_stored_elsewhere_proves_nothing(output: Path) -> None:
    folder = prove(output, "run", "2024-10-01T00:00:00Z", "2024-10-31T00:00:00Z")
    rewrite(folder, resources=[], feeds=[{"uri": "/x.csv", "format": "csv", "rows": 1}])
    assert collected(output).is_empty


def test_incremental_runs_prove_their_windows_as_far_back_as_the_first_is_there(output: Path) -> None:
    incremental = {"arguments": {"incremental": True}}
    first = prove(output, "1", "2021-08-03T00:00:00Z", "2024-10-03T00:00:00Z", **incremental)
    prove(output, "2", "2024-10-01T00:00:00Z", "2024-10-06T00:00:00Z", **incremental)
    prove(output, "3", "2024-10-04T00:00:00Z", "2024-10-08T00:00:00Z", **incremental)
    assert shown(proved(collected(output).proofs)[LIVESTREAMS]) == ["2021-08-03 2024-10-08"]
    shutil.rmtree(first)
    assert proved(collected(output).proofs) == {LIVESTREAMS: []}
    # As printed for the gap; what it proves is continued.
    prove(output, "4", "2021-08-03T00:00:00Z", "2024-10-07T00:00:00Z")
    assert shown(proved(collected(output).proofs)[LIVESTREAMS]) == ["2021-08-03 2024-10-08"]


def test_a_run_of_the_first_format_proves_what_was_past_a_day_before_its_end(tmp_path: Path) -> None:
    output = tmp_path / "output"
    shutil.copytree(GOLDEN, output)
    now = iso_to_timestamp(rewrite(output / "recent" / "whole")["created"])
    # Its window ends when it began.
    assert shown(proved(collected(output, now=now).proofs)[LIVESTREAMS]) == ["2021-08-03 2026-11-01T01:00:00Z"]
    rewrite(output / "recent" / "whole", arguments={"until": now})
    assert shown(proved(collected(output, now=now).proofs)[LIVESTREAMS]) == ["2021-08-03 2026-10-31T01:00:00Z"]


def test_a_snapshot_of_the_first_format_was_taken_when_its_run_ended(tmp_path: Path) -> None:
    output = tmp_path / "output"
    shutil.copytree(GOLDEN, output)
    ended = iso_to_timestamp(rewrite(output / "live" / "many", arguments={})["created"])
    _, live = collected(output, now=ended).coverages(Bounds(None, None, ended))
    assert (live.series, live.intervals) == (Series("live_channels"), [Interval(ended, ended)])


def test_a_filtered_series_has_its_own_runs_and_all_unfiltered_ones(output: Path) -> None:
    prove(output, "1", "2024-10-01T00:00:00Z", "2024-10-02T00:00:00Z", arguments={"categories": ["Gaming", "007"]})
    prove(output, "2", "2024-10-02T00:00:01Z", "2024-10-05T00:00:00Z")
    prove(output, "3", "2024-10-07T00:00:00Z", "2024-10-08T00:00:00Z", arguments={"categories": ["7", "gaming", "7"]})
    prove(output, "4", "2024-10-05T00:00:00Z", "2024-10-07T00:00:00Z", arguments={"categories": ["7"]})
    unfiltered, seven, both = collected(output).coverages(Bounds(None, None, NOW))
    assert (unfiltered.series.filters, shown(unfiltered.intervals)) == ({}, ["2024-10-02T00:00:01Z 2024-10-05"])
    assert (seven.series.filters, shown(seven.intervals)) == ({"categories": "7"}, ["2024-10-05 2024-10-07"])
    assert both.series.filters == {"categories": "7,gaming"}
    assert shown(both.intervals) == ["2024-10-01 2024-10-05", "2024-10-07 2024-10-08"]
    assert shown(both.gaps) == ["2024-10-05T00:00:01Z 2024-10-06T23:59:59Z"]


def test_a_run_that_began_in_the_future_is_left_out(output: Path) -> None:
    folder = prove(output, "run", "2024-10-01T00:00:00Z", "2024-12-02T00:00:00Z", started_at="2024-12-02T00:00:00Z")
    found = collected(output)
    assert found.is_empty
    (left_out,) = found.left_out
    assert (left_out.folder, left_out.reason) == (str(folder), "began in the future, by the clock of the machine")


def test_made_up_and_real_data_are_kept_apart_as_in_an_export(output: Path) -> None:
    prove(output, "mock", "2024-10-01T00:00:00Z", "2024-10-31T00:00:00Z", source="mock")
    assert collect(Catalog([output]), NOW)[0] == MOCK
    # It has no records, and does not count for an export either.
    make_run(output, "recent", "failed", [], status="incomplete", **TIMES)
    assert collect(Catalog([output]), NOW)[0] == MOCK
    make_run(output, "categories", "real", [category(1)], **TIMES)
    source, found = collect(Catalog([output]), NOW)
    assert (source, found.is_empty) == (REAL, True)
    assert not collected(output, MOCK).is_empty


# --- The command that fills a gap --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("since", "until", "series", "expected"),
    [
        (
            "2024-10-01",
            "2024-11-01",
            LIVESTREAMS,
            "crawl recent -a since=2024-10-01T00:00:00Z -a until=2024-11-01T00:00:00Z",
        ),
        ("2021-08-03", "2024-11-01", LIVESTREAMS, "crawl recent -a until=2024-11-01T00:00:00Z"),
        ("2024-10-01", "2024-12-01", LIVESTREAMS, "crawl recent -a since=2024-10-01T00:00:00Z"),
        ("2021-08-03", "2024-12-01", LIVESTREAMS, "crawl recent"),
        (
            "2021-08-03",
            "2024-12-01",
            Series.of("livestreams", {"categories": ["it's", "NaN"], "user_id": 5}),
            "crawl recent -a 'categories=NaN,it'\"'\"'s' -a user_id=5",
        ),
    ],
)
def test_the_command_takes_the_defaults_of_the_spider_where_they_are_meant(
    since: str, until: str, series: Series, expected: str
) -> None:
    gap = Interval(first_second(since, NOW), first_second(until, NOW))
    assert shlex.join(crawl_for(gap, series, NOW) or []) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(1, "1s"), (60, "1m"), (3_599, "59m 59s"), (90_000, "1d 1h"), (86_460, "1d"), (86_400_000, "1,000d")],
)
def test_a_length_is_told_in_its_two_greatest_units(seconds: int, expected: str) -> None:
    assert length_of(seconds) == expected


# --- Live channels and notifications -----------------------------------------------------------------------------


def at(text: str) -> int:
    """Return a time of day of 2024-11-01, or one of 2024-11 with its day, in Unix seconds."""
    return iso_to_timestamp(f"2024-11-{text if 'T' in text else f'01T{text}'}Z")


def every(seconds: int, since: str, until: str) -> range:
    """Return moments at a distance."""
    return range(at(since), at(until) + 1, seconds)


@pytest.mark.parametrize(
    ("moments", "expected"),
    [
        ({}, []),
        ({"a": [5]}, [Interval(5, 5)]),
        # Up to three times as long as usual.
        ({"a": [*every(60, "10:00:00", "11:00:00"), *every(60, "11:03:00", "12:00:00")]}, [("10:00:00", "12:00:00")]),
        (
            {"a": [*every(60, "10:00:00", "11:00:00"), *every(60, "11:03:01", "12:00:01")]},
            [("10:00:00", "11:00:00"), ("11:03:01", "12:00:01")],
        ),
        # Two runs side by side, a second apart, and one of them stops.
        (
            {"a": every(60, "10:00:00", "12:00:00"), "b": every(60, "10:00:01", "11:00:01")},
            [("10:00:00", "12:00:00")],
        ),
        # A slower one fills a gap only in part.
        (
            {
                "a": [*every(60, "10:00:00", "11:00:00"), *every(60, "13:00:00", "14:00:00")],
                "b": every(3_600, "10:00:30", "13:00:30"),
            },
            [("10:00:00", "11:00:30"), ("12:00:30", "12:00:30"), ("13:00:00", "14:00:00")],
        ),
        # Each day has its own usual distance.
        (
            {
                "a": [*every(3_600, "01T00:00:00", "01T20:00:00"), *every(60, "02T00:00:00", "02T01:00:00")],
                "b": every(60, "02T02:00:00", "02T03:00:00"),
            },
            [("01T00:00:00", "01T20:00:00"), ("02T00:00:00", "02T01:00:00"), ("02T02:00:00", "02T03:00:00")],
        ),
        # One a day: no day has a usual distance.
        (
            {"": [*every(86_400, "01T12:00:00", "05T12:00:00"), *every(86_400, "09T12:00:00", "11T12:00:00")]},
            [("01T12:00:00", "05T12:00:00"), ("09T12:00:00", "11T12:00:00")],
        ),
    ],
    ids=range(8),
)
def test_a_stretch_without_a_snapshot_for_more_than_three_times_the_usual_is_a_gap(
    moments: dict[str, Any], expected: list[Any]
) -> None:
    intervals = [each if isinstance(each, Interval) else Interval(*map(at, each)) for each in expected]
    assert looked(moments) == intervals


def snapshot(name: str, moment: int, **fields: Any) -> dict[str, Any]:
    """Return a snapshot as a data package has it."""
    started_at, ended_at = timestamp_to_iso(moment), timestamp_to_iso(moment + 5)
    known = {"snapshot_id": name, "started_at": started_at, "ended_at": ended_at, "channels": 1, "complete": True}
    return known | fields


def test_snapshots_are_those_of_days_and_of_runs_with_one(output: Path) -> None:
    taken = [snapshot(f"run-{number}", moment) for number, moment in enumerate(every(60, "10:00:00", "11:00:00"))]
    # A snapshot that is not complete does not count.
    taken += [snapshot("run-x", moment, complete=False) for moment in every(60, "11:01:00", "12:00:00")]
    day = {"day": "2024-11-01", "arguments": {"interval": 60.0}, "snapshots": taken} | TIMES
    make_run(output, "live", "run", [live_channel(1)], **day)
    for name, moment, status, arguments in [
        ("1", "11:02:00", "finished", {}),
        ("2", "13:00:00", "degraded", {}),
        ("3", "13:01:00", "finished", {}),
        ("4", "14:00:00", "incomplete", {}),
        ("5", "14:00:00", "truncated", {}),
        ("6", "15:00:00", "finished", {"categories": ["7"]}),
    ]:
        times = {"started_at": timestamp_to_iso(at(moment)), "ended_at": timestamp_to_iso(at(moment) + 5)}
        make_run(output, "live", name, [live_channel(1)], status=status, arguments=arguments, **times)
    _, unfiltered, seven = collected(output).coverages(Bounds(None, None, NOW))
    assert (unfiltered.series, seven.series) == (Series("live_channels"), Series("live_channels", "7"))
    assert unfiltered.intervals == [Interval(at("10:00:00"), at("11:02:00")), Interval(at("13:00:00"), at("13:01:00"))]
    assert unfiltered.gaps == [Interval(at("11:02:01"), at("12:59:59"))]
    assert (seven.intervals, seven.gaps) == ([Interval(at("15:00:00"), at("15:00:00"))], [])
    assert crawl_for(unfiltered.gaps[0], unfiltered.series, NOW) is None


def listen(output: Path, run_id: str, day: str, *spans: tuple[str, str], status: str = "finished") -> Path:
    """Write a day of a run that was connected at these times."""
    heard = [{"from": timestamp_to_iso(at(since)), "to": timestamp_to_iso(at(until))} for since, until in spans]
    fields = {"day": f"2024-11-{day}", "listened": heard} | TIMES
    return make_run(output, "notifications", run_id, [notification(1)], status=status, **fields)


def test_what_is_heard_is_the_union_of_all_runs_without_short_breaks(output: Path) -> None:
    listen(output, "1", "01", ("01T10:00:00", "01T23:59:59"))
    listen(output, "1", "02", ("02T00:00:00", "02T01:00:00"), ("02T01:01:00", "02T02:00:00"))
    listen(output, "2", "02", ("02T01:30:00", "02T03:00:00"), ("02T03:01:01", "02T04:00:00"), status="incomplete")
    listen(output, "3", "02", ("02T06:00:00", "02T07:00:00"), status="sealed")
    _, heard = collected(output).coverages(Bounds(None, None, NOW))
    assert heard.intervals == [
        Interval(at("01T10:00:00"), at("02T03:00:00")),
        Interval(at("02T03:01:01"), at("02T04:00:00")),
        Interval(at("02T06:00:00"), at("02T07:00:00")),
    ]
    assert heard.gaps == [
        Interval(at("02T03:00:01"), at("02T03:01:00")),
        Interval(at("02T04:00:01"), at("02T05:59:59")),
    ]


def test_the_present_day_of_a_run_that_goes_on_is_unknown_and_said_to_be(output: Path, tmp_path: Path) -> None:
    listen(output, "run", "01", ("01T10:00:00", "01T23:59:59"))
    today = make_run(output, "notifications", "run", [notification(1)], day="2024-11-02", status="running")
    note_checkpoint(tmp_path / "state", today.parent)
    found = collected(output)
    assert shown(found.coverages(Bounds(None, None, NOW))[1].intervals) == ["2024-11-01T10:00:00Z 2024-11-01T23:59:59Z"]
    reason = "not over, so it is not known what it has observed since its last whole day"
    assert [(each.folder, each.reason) for each in found.left_out] == [(str(today.parent), reason)]


def test_a_day_that_is_removed_while_it_is_read_is_left_out(output: Path) -> None:
    folder = listen(output, "run", "01", ("01T10:00:00", "01T23:59:59"))
    entries: list[Entry] = list(Catalog([output]))
    shutil.rmtree(folder.parent)
    _, found = collect(entries, NOW)
    assert found.is_empty
    reason = f"{folder}/datapackage.json does not exist any more, or cannot be read"
    assert [(each.folder, each.reason) for each in found.left_out] == [(str(folder), reason)]


# --- The command -------------------------------------------------------------------------------------------------

ACCEPTED = "2026-01-31, 2026-01-31T12:00Z, 1769860800, 7d, 2w, today, yesterday"
EARLIER = "accepted: at or before 2024-10-01T23:59:59Z"
RUNS = "accepted: a folder of runs such as output/"


def two_windows(output: Path) -> None:
    """Write two runs with a gap of two days between them."""
    prove(output, "1", "2024-10-01T00:00:00Z", "2024-10-02T23:59:59Z")
    prove(output, "2", "2024-10-05T00:00:00Z", "2024-10-06T00:00:00Z")


def test_each_gap_is_a_line_with_the_command_that_fills_it(scrapy: Scrapy, output: Path) -> None:
    two_windows(output)
    prove(output, "3", "2024-10-05T00:00:00Z", "2024-10-06T00:00:00Z", arguments={"user_id": 5})
    listen(output, "run", "01", ("01T10:00:00", "01T11:00:00"), ("01T11:02:00", "01T12:00:00"))
    (output / "recent" / "damaged").mkdir()
    (output / "recent" / "damaged" / "datapackage.json").write_text("[]", encoding="utf-8")
    run = scrapy("coverage")
    assert (run.returncode, run.stderr) == (4, "")
    own = "proved from 2024-10-05T00:00:00Z to 2024-10-06T00:00:00Z, 1 interval, 0 gaps"
    command = "scrapy crawl recent -a since=2024-10-03T00:00:00Z -a until=2024-10-04T23:59:59Z"
    heard = "listened from 2024-11-01T10:00:00Z to 2024-11-01T12:00:00Z, 2 intervals, 1 gap"
    assert set(documented("What it prints").splitlines()) < set(run.stdout.splitlines())
    assert run.stdout.splitlines() == [
        "livestreams of parti.com: proved from 2024-10-01T00:00:00Z to 2024-10-06T00:00:00Z, 2 intervals, 1 gap",
        f"  gap from 2024-10-03T00:00:00Z to 2024-10-04T23:59:59Z (2d): {command}",
        f"livestreams of parti.com, user_id=5: {own}",
        f"live_notifications of parti.com: {heard}",
        "  gap from 2024-11-01T11:00:01Z to 2024-11-01T11:01:59Z (1m 59s)",
        f"  left out: 1 run: datapackage.json: Expected `object`, got `array`: {output}/recent/damaged",
    ]


def test_json_has_the_same(scrapy: Scrapy, output: Path) -> None:
    two_windows(output)
    prove(output, "3", "2024-10-05T00:00:00Z", "2024-10-06T00:00:00Z", arguments={"user_id": 5})
    run = scrapy("coverage", "--json", "--until", "2024-10-05")
    assert (run.returncode, run.stderr) == (4, "")
    last = {"since": "2024-10-05T00:00:00Z", "until": "2024-10-05T23:59:59Z", "seconds": 86_400}
    gap = {"since": "2024-10-03T00:00:00Z", "until": "2024-10-04T23:59:59Z", "seconds": 172_800}
    assert json.loads(run.stdout) == {
        "source": "parti.com",
        "complete": False,
        "series": [
            {
                "collection": "livestreams",
                "filters": {},
                "intervals": [
                    {"since": "2024-10-01T00:00:00Z", "until": "2024-10-02T23:59:59Z", "seconds": 172_800},
                    last,
                ],
                "gaps": [
                    gap | {"command": "scrapy crawl recent -a since=2024-10-03T00:00:00Z -a until=2024-10-04T23:59:59Z"}
                ],
            },
            {"collection": "livestreams", "filters": {"user_id": "5"}, "intervals": [last], "gaps": []},
        ],
        "left_out": [],
    }


@pytest.mark.parametrize(
    ("typed", "setting", "code", "expected"),
    [
        (("--until", "2024-10-02"), "", 0, NOTHING),
        (("--since", "2024-10-05"), "", 0, NOTHING),
        (
            ("--since", "2024-10-04", "--until", "2024-10-07"),
            "",
            4,
            ["2024-10-04 2024-10-04T23:59:59Z", "2024-10-06T00:00:01Z 2024-10-07T23:59:59Z"],
        ),
        ((), "2024-09-30", 4, ["2024-09-30 2024-09-30T23:59:59Z", "2024-10-03 2024-10-04T23:59:59Z"]),
        (("--since", "2024-10-02"), "2024-09-30", 4, ["2024-10-03 2024-10-04T23:59:59Z"]),
        (("--until", "2024-09-01"), "2024-08-01", 4, ["2024-08-01 2024-09-01T23:59:59Z"]),
        (("--until", "2024-09-01"), "", 4, ["2021-08-03 2024-09-01T23:59:59Z"]),
    ],
)
def test_what_is_looked_at_ends_where_it_is_told_or_else_where_the_runs_do(
    scrapy: Scrapy, output: Path, typed: tuple[str, ...], setting: str, code: int, expected: list[str]
) -> None:
    two_windows(output)
    run = scrapy("coverage", "--json", *typed, env={"PARTI_COVERAGE_SINCE": setting})
    assert (run.returncode, run.stderr) == (code, "")
    (livestreams,) = json.loads(run.stdout)["series"]
    times = [Interval(*map(iso_to_timestamp, (gap["since"], gap["until"]))) for gap in livestreams["gaps"]]
    assert shown(times) == expected


def test_without_a_run_that_proves_anything_all_is_missing_up_to_now(scrapy: Scrapy, output: Path) -> None:
    prove(output, "run", "2024-10-01T00:00:00Z", "2024-10-02T00:00:00Z", status="incomplete")
    for typed, expected in [
        ((), "scrapy crawl recent"),
        (("--until", "today"), "scrapy crawl recent"),
        (("--since", "2024-10-01"), "scrapy crawl recent -a since=2024-10-01T00:00:00Z"),
    ]:
        run = scrapy("coverage", *typed)
        assert (run.returncode, run.stderr) == (4, "")
        heading, gap = run.stdout.splitlines()
        assert (heading, gap.partition(": ")[2]) == ("livestreams of parti.com: nothing proved", expected)


def test_runs_are_read_from_each_folder_that_is_named(scrapy: Scrapy, tmp_path: Path) -> None:
    prove(tmp_path / "a", "run", "2024-10-01T00:00:00Z", "2024-10-02T00:00:00Z")
    prove(tmp_path / "b", "run", "2024-10-02T00:00:01Z", "2024-10-03T00:00:00Z")
    run = scrapy("coverage", "--from", str(tmp_path / "a"), "--from", str(tmp_path / "b"))
    assert (run.returncode, run.stderr) == (0, "")
    times = "from 2024-10-01T00:00:00Z to 2024-10-03T00:00:00Z"
    assert run.stdout == f"livestreams of parti.com: proved {times}, 1 interval, 0 gaps\n"


@pytest.mark.parametrize(
    ("typed", "setting", "expected"),
    [
        (("x",), "", "unknown argument: 'x' (accepted: see scrapy coverage --help)"),
        (("--since", "x"), "", f"option `--since`: not a date or an age: 'x' (accepted: {ACCEPTED})"),
        (("--until", "x"), "", f"option `--until`: not a date or an age: 'x' (accepted: {ACCEPTED})"),
        (
            ("--since", "2024-10-02", "--until", "2024-10-01"),
            "",
            f"option `--since`: later than `--until`: '2024-10-02' ({EARLIER})",
        ),
        (
            ("--until", "2024-10-01"),
            "2024-10-02",
            f"setting `PARTI_COVERAGE_SINCE`: later than `--until`: '2024-10-02' ({EARLIER})",
        ),
        ((), "x", f"setting `PARTI_COVERAGE_SINCE`: not a date or an age: 'x' (accepted: {ACCEPTED})"),
        (
            ("--source", "moc"),
            "",
            "option `--source`: no such source: 'moc' (accepted: mock, parti.com); did you mean `mock`?",
        ),
        (
            ("--from", "s3://x/"),
            "",
            f"option `--from`: an export, which does not say what its runs prove: 's3://x/' ({RUNS})",
        ),
        (
            ("--jsn",),
            "",
            "unknown option: '--jsn' (accepted: --since, --until, --json, --from, --source); did you mean `--json`?",
        ),
    ],
)
def test_a_usage_error_is_one_line(scrapy: Scrapy, typed: tuple[str, ...], setting: str, expected: str) -> None:
    run = scrapy("coverage", *typed, env={"PARTI_COVERAGE_SINCE": setting})
    assert (run.returncode, run.stdout, run.stderr) == (2, "", f"scrapy coverage: {expected}\n")


# --- Real crawls -------------------------------------------------------------------------------------------------


def test_the_printed_commands_leave_no_gap(crawl: Run, scrapy: Scrapy, serve: Serve, output: Path) -> None:
    history: dict[str, Any] = STILL | {"now": "2024-11-01T00:00:00Z", "years": 0.5}
    server = serve(**history)
    for number, (since, until, arguments) in enumerate(
        [
            ("2024-09-01", "2024-09-20", {}),
            ("2024-09-21", "2024-09-25T10:00:00Z", {}),
            ("2024-10-01", "2024-10-03", {"categories": "Gaming"}),
            ("2024-10-06", "2024-10-07", {"categories": "gaming"}),
            ("2024-10-10", "2024-10-12", {"max_records": 1}),
            ("2024-10-20", "2024-10-31", {}),
        ]
    ):
        run = crawl("recent", server=server, run_id=f"run-{number}", since=since, until=until, **arguments)
        assert run.code == 0, run.stderr
    failed = crawl("recent", "-s", "PARTI_RETRY_PATIENCE=0.1", server=serve(**history, gone=True), since="2024-09-01")
    assert failed.code == 4
    before = scrapy("coverage", "--json")
    assert before.returncode == 4
    assert [gap["command"] for each in json.loads(before.stdout)["series"] for gap in each["gaps"]] == [
        "scrapy crawl recent -a since=2024-09-25T10:00:01Z -a until=2024-10-19T23:59:59Z",
        "scrapy crawl recent -a categories=gaming -a since=2024-10-04T00:00:00Z -a until=2024-10-05T23:59:59Z",
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = environment_of(output, server, {"PATH": path})
    subprocess.run(
        ["sh", "-ec", documented("How to fill all gaps")],
        cwd=ROOT,
        env=env,
        timeout=TIMEOUT,
        capture_output=True,
        check=True,
    )
    after = scrapy("coverage")
    own = "proved from 2024-10-01T00:00:00Z to 2024-10-07T23:59:59Z, 1 interval, 0 gaps"
    assert (after.returncode, after.stderr) == (0, "")
    assert after.stdout.splitlines() == [
        "livestreams of mock: proved from 2024-09-01T00:00:00Z to 2024-10-31T23:59:59Z, 1 interval, 0 gaps",
        f"livestreams of mock, categories=gaming: {own}",
    ]
    first, last = map(iso_to_timestamp, ("2024-09-01T00:00:00Z", "2024-10-31T23:59:59Z"))
    expected = {each["event_id"] for each in server.world.recent_at() if first <= each["event_end_ts"] <= last}
    assert {event for path in output.glob("recent/*/*.jsonl") for event in ids(read_lines(path))} == expected


def test_a_real_run_tells_when_it_listened_and_looked(crawl: Run, scrapy: Scrapy, serve: Serve) -> None:
    server = serve(**STILL | {"live": 3})
    assert crawl("live", server=server, run_id="one").code == 0
    assert crawl("live", server=server, run_id="many", interval=0.2, duration=1).code == 0
    assert crawl("notifications", server=server, duration=8).code == 0
    run = scrapy("coverage", "--json")
    assert run.returncode == 4
    found = {each["collection"]: (len(each["intervals"]), each["gaps"]) for each in json.loads(run.stdout)["series"]}
    assert found.pop("livestreams")[0] == 0
    assert found["live_notifications"] == (1, [])
    assert found["live_channels"][0] > 0
