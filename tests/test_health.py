"""The rules of health, on made-up histories: each fires, is cleared, and never holds for ever."""

from __future__ import annotations

import math
import random
import re
import shlex
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.network.source import MOCK, REAL
from parti_scraper.operations.findings import RULES, Disk, Finding, Gap, Health, Known
from parti_scraper.operations.health import examine
from parti_scraper.operations.history import Account, PastRun, State, history, source_among
from parti_scraper.run.entries import Entry, Status, Window
from tests.support import ROOT

NOW = 1_790_000_000.0
MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
HOURLY = Known({"recent": 2 * HOUR})


def run(ago: float, spider: str = "recent", **about: Any) -> PastRun:
    """Return a run that began so many seconds ago, took a minute and was complete, unless it is said otherwise."""
    began = NOW - ago
    account = Account(began, began + MINUTE, complete=True, counts={"served": 100, "written": 100, "quarantined": 0})
    of_account = {name: about.pop(name) for name in list(about) if name in Account.__dataclass_fields__}
    account = replace(account, **of_account)
    state = about.pop("state", State.ENDED)
    good = account.ended_at if account.complete and state is State.ENDED else None
    window = Window("2021-08-03T00:00:00Z", timestamp_to_iso(began)) if spider == "recent" else None
    known = {"arguments": {}, "exit_code": 0, "good_until": good, "folder": "/f", "window": window} | about
    return PastRun(spider, f"run-{ago:.0f}", state=state, account=account, **known)


def bad(ago: float, spider: str = "recent", **about: Any) -> PastRun:
    """Return a run that ended without everything."""
    return run(ago, spider, **{"complete": False, "exit_code": 4, "reason": "a page failed"} | about)


def schedule(distance: float, number: int, spider: str = "recent", *, last: float = 0.0, **about: Any) -> list[PastRun]:
    """Return runs at a distance, the last of which began so many seconds ago, or now but for two minutes."""
    return [run(2 * MINUTE + last + distance * ago, spider, **about) for ago in reversed(range(number))]


def refused(ago: float, spider: str = "recent", **about: Any) -> PastRun:
    """Return a run that could not start."""
    about = {"complete": False, "exit_code": 2, "reason": "argument `x`: not known"} | about
    return run(ago, spider, state=State.NOT_STARTED, folder=None, window=None, **about)


def rules(runs: list[PastRun], known: Known | None = None, now: float = NOW) -> list[str]:
    """Return the rules by which something was found."""
    return [finding.rule for finding in found(runs, known, now)]


def found(runs: list[PastRun], known: Known | None = None, now: float = NOW) -> list[Finding]:
    ordered = sorted(runs, key=lambda each: each.account.began_at or 0)
    findings = examine(ordered, known or Known(), now).findings
    for each in findings:
        assert "\n" not in each.text
        assert each.rule in RULES
    return findings


def test_a_run_that_was_killed_before_it_asked_for_anything_is_of_every_source() -> None:
    mine = Entry("/f/1", Status.FINISHED, spider="recent", run_id="1", source=MOCK, host="http://127.0.0.1:9")
    left = Entry("/f/2", Status.SEALED, spider="recent", run_id="2", source=REAL)
    assert source_among([mine, left]) == MOCK
    assert source_among([mine, left, msgspec.structs.replace(left, host="https://api.parti.com")]) == REAL
    assert [each.run_id for each in history([mine, left], [], MOCK)] == ["1", "2"]


# --- Late --------------------------------------------------------------------------------------------------------


def test_a_named_spider_is_late_after_its_age() -> None:
    runs = [run(2 * HOUR + MINUTE)]
    # It ended two hours ago.
    assert rules(runs, HOURLY) == []
    assert rules(runs, HOURLY, NOW + 1) == ["late"]
    (finding,) = found(runs, HOURLY, NOW + 1)
    assert finding.since == NOW - 2 * HOUR
    assert finding.command == "scrapy crawl recent"
    assert finding.text.startswith(f"recent: no complete run since {timestamp_to_iso(NOW - 2 * HOUR)} (2h ago")


def test_a_named_spider_that_never_ran_is_late_but_not_while_it_runs_for_the_first_time() -> None:
    assert rules([], HOURLY) == ["late"]
    first = run(5 * HOUR, state=State.RUNNING, complete=False, ended_at=None)
    assert rules([first], HOURLY) == []
    assert rules([first], HOURLY, NOW + DAY) == ["late"]
    # The first of all, not any.
    assert rules([run(9 * HOUR), first], HOURLY) == ["late"]


def test_of_a_new_schedule_a_named_spider_is_late_only_after_its_age() -> None:
    daily = Known({"categories": 2 * DAY})
    new = schedule(HOUR, 5)
    since = new[0].account.began_at or 0.0
    assert rules(new, daily) == []
    assert rules(new, daily, since + 2 * DAY) == []
    assert rules(new, daily, since + 2 * DAY + 1) == ["late"]


def test_a_named_spider_whose_runs_all_failed_is_late_after_its_age() -> None:
    assert rules([bad(HOUR)], HOURLY) == ["incomplete"]
    assert rules([bad(3 * HOUR), bad(HOUR)], HOURLY) == ["late", "incomplete"]


def test_a_service_that_ended_is_judged_by_its_last_day() -> None:
    whole = Account(NOW - DAY, NOW - HOUR, complete=True, day="b")
    cut = replace(whole, began_at=NOW - 2 * DAY, ended_at=NOW - DAY, complete=False, day="a")
    known = Known({"live": 2 * HOUR})
    ended = bad(2 * DAY, "live", ended_at=NOW - HOUR, good_until=NOW - HOUR)
    assert rules([replace(ended, days=(cut, whole))], known) == []
    assert rules([replace(ended, days=(whole, cut))], known) == ["incomplete"]


def test_only_runs_without_filters_keep_a_named_spider_from_being_late_if_there_are_any() -> None:
    filtered = run(10 * MINUTE, arguments={"user_id": 5})
    assert rules([run(9 * HOUR), filtered], HOURLY) == ["late"]
    assert rules([run(9 * HOUR, arguments={"user_id": 5}), filtered], HOURLY) == []
    assert rules([run(9 * HOUR), run(10 * MINUTE, truncated=True)], HOURLY) == ["late"]


@pytest.mark.parametrize("distance", [5 * MINUTE, HOUR, DAY])
def test_a_series_of_five_is_late_after_three_times_its_usual_distance(distance: float) -> None:
    runs = schedule(distance, 6)
    assert rules(runs) == []
    assert rules(runs, now=NOW - MINUTE + 3 * distance) == []
    assert rules(runs, now=NOW - MINUTE + 3 * distance + 1) == ["late"]
    assert rules(runs[:4], now=NOW - MINUTE + 3 * distance + 1) == []


@given(st.text(min_size=1), st.text(min_size=1))
def test_the_command_of_a_late_series_is_the_one_that_was_typed_and_looks_in_the_same_folders(
    category: str, folder: str
) -> None:
    places = ["-s", f"PARTI_OUTPUT_DIR={folder}"]
    runs = schedule(HOUR, 6, "live", arguments={"categories": [category, "7"], "interval": 60.0})
    (finding,) = found(runs, Known(program="parti", places=places), NOW + 5 * HOUR)
    assert finding.command
    typed = ["-a", f"categories={category},7", "-a", "interval=60"]
    assert shlex.split(finding.command) == ["parti", "crawl", "live", *typed, *places]


def test_of_runs_of_the_first_format_the_end_stands_for_the_beginning() -> None:
    old = [run(ago * HOUR, began_at=None) for ago in reversed(range(1, 7))]
    assert rules(old) == []
    assert rules(old, now=NOW + 2 * HOUR + MINUTE + 1) == ["late"]
    assert rules(old, Known({"recent": 2 * HOUR, "categories": DAY})) == []


def test_what_nobody_runs_any_more_is_given_up() -> None:
    runs = schedule(HOUR, 24 * 10)
    assert rules(runs, now=NOW + 9 * DAY) == ["late"]
    assert rules(runs, now=NOW + 10 * DAY) == []
    years = schedule(DAY, 400)
    assert rules(years, now=NOW + 29 * DAY) == ["late"]
    assert rules(years, now=NOW + 31 * DAY) == []
    # A named one never is.
    assert rules(years, HOURLY, now=NOW + 31 * DAY) == ["late"]


def test_a_series_that_another_one_replaces_is_given_up_at_once() -> None:
    before = schedule(HOUR, 24 * 10, last=6 * HOUR)
    after = schedule(HOUR, 5, arguments={"incremental": True})
    assert rules(before) == ["late"]
    assert rules(before + after[:4], now=NOW - HOUR) == ["late"]
    assert rules(before + after) == []


def endless(spider: str, began: float, good: float, **about: Any) -> PastRun:
    """Return a run that goes on for days and was good so many seconds ago."""
    running = {"state": State.RUNNING, "complete": False, "ended_at": None, "exit_code": None, "window": None}
    return run(began, spider, **running | {"good_until": NOW - good, "today": Account(NOW - HOUR, None)} | about)


def test_a_run_that_goes_on_for_days_is_late_when_it_is_not_good_for_long() -> None:
    known = Known({"live": 15 * MINUTE})
    assert rules([endless("live", 9 * DAY, 5 * MINUTE)], known) == []
    assert rules([endless("live", 9 * DAY, 16 * MINUTE)], known) == ["late"]
    days = tuple(Account(NOW - n * DAY, NOW - (n - 1) * DAY, complete=True, day=f"d{n}") for n in range(6, 0, -1))
    service = endless("live", 6 * DAY, 29 * MINUTE, days=days, arguments={"interval": 300})
    assert rules([service]) == []
    assert rules([replace(service, good_until=NOW - 31 * MINUTE)]) == ["late"]


# --- Schedules ---------------------------------------------------------------------------------------------------

# A Monday at 00:00 UTC, the first of NOW's week or before.
MONDAY = NOW - (NOW - 4 * DAY) % (7 * DAY)


def office(weeks: int, *, days: int = 5) -> list[PastRun]:
    """Return hourly runs from 9 to 17 o'clock, on the first days of each of the weeks before `MONDAY`."""
    hours = [(week, day, hour) for week in range(weeks, 0, -1) for day in range(days) for hour in range(9, 18)]
    return [run(NOW - (MONDAY - 7 * DAY * week + day * DAY + hour * HOUR)) for week, day, hour in hours]


def until(runs: list[PastRun], now: float) -> list[PastRun]:
    """Return the runs that had begun at a time."""
    return [each for each in runs if (each.account.began_at or 0) < now]


def test_a_schedule_of_working_hours_is_healthy_by_night_and_at_the_weekend() -> None:
    runs = office(5)
    for hours in range(7 * 24 * 2):
        now = MONDAY - 14 * DAY + hours * HOUR + 10 * MINUTE
        assert rules(until(runs, now), now=now) == [], hours


def test_a_schedule_of_working_hours_that_dies_is_late_the_next_morning_and_stays_so() -> None:
    runs = office(5)
    dead = until(runs, MONDAY - 7 * DAY + DAY)
    for hours in range(11, 24 * 4):
        now = MONDAY - 6 * DAY + hours * HOUR + 10 * MINUTE
        assert rules(dead, now=now) == ["late"], hours


def test_a_schedule_that_never_pauses_is_late_whatever_the_hour() -> None:
    for hour in range(24):
        runs = schedule(HOUR, 24 * 20, last=hour * HOUR + 3 * HOUR)
        assert rules(runs) == ["late"]


def test_a_daily_run_on_working_days_may_be_a_little_late_on_mondays() -> None:
    daily = [each for each in office(6) if ((each.account.began_at or 0) - MONDAY) % DAY == 9 * HOUR]
    assert rules(daily, now=MONDAY + 9 * HOUR + 20 * MINUTE) == []
    assert rules(daily, now=MONDAY + 2 * DAY) == ["late"]


def test_a_single_run_without_filters_does_not_make_a_schedule_with_filters_late() -> None:
    filtered = schedule(HOUR, 24, arguments={"user_id": 5})
    assert rules([*filtered, run(9 * HOUR)], HOURLY) == []
    assert rules([*filtered, *schedule(HOUR, 5, last=9 * HOUR)], HOURLY) == ["late"]


def test_what_was_left_by_hand_counts_for_a_week_where_the_spider_is_named() -> None:
    left: dict[str, Any] = {
        "state": State.KILLED,
        "complete": False,
        "exit_code": None,
        "sealed": True,
        "arguments": {"user_id": 5},
    }
    incremental = schedule(HOUR, 9, arguments={"incremental": True}, window=None)
    for ago, found in [(6 * DAY, ["failed"]), (8 * DAY, [])]:
        # Another channel's runs bring nothing of it.
        others = [run(each * HOUR + MINUTE, arguments={"user_id": 6}) for each in range(3)]
        assert rules([run(ago, **left), *others], Known({"recent": 30 * DAY})) == ["failed"]
        assert rules([run(ago, **left), *others], HOURLY) == found
    assert rules([*incremental, run(8 * DAY, **left)], HOURLY) == []


def test_a_run_that_ended_in_the_future_by_a_wrong_clock_is_not_good_until_then() -> None:
    wrong = run(9 * HOUR, ended_at=NOW + 900 * DAY)
    assert rules([wrong], HOURLY) == ["late"]
    assert rules([wrong, run(HOUR)], HOURLY) == []
    assert rules([wrong, bad(HOUR), run(10 * MINUTE)], HOURLY) == []


# --- The last run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "rule"),
    [
        (bad(10 * MINUTE), "incomplete"),
        (run(10 * MINUTE, degraded=["user_name is absent from 90 of 100 records"]), "degraded"),
        (run(10 * MINUTE, state=State.KILLED, complete=False, exit_code=None, sealed=True), "failed"),
        (run(10 * MINUTE, state=State.KILLED, complete=False, exit_code=None), "abandoned"),
        (run(10 * MINUTE, state=State.STOPPED, complete=False, exit_code=3, sealed=True), "failed"),
        (run(10 * MINUTE, state=State.STOPPED, complete=False, exit_code=3), "abandoned"),
        (refused(10 * MINUTE), "failed"),
        (refused(10 * MINUTE, exit_code=1), "failed"),
    ],
)
@pytest.mark.parametrize("known", [HOURLY, Known()], ids=["named", "series"])
def test_a_last_run_that_did_not_end_well_is_found_until_a_good_one(last: PastRun, rule: str, known: Known) -> None:
    before = schedule(HOUR, 20, last=30 * MINUTE)
    assert rules([*before, last], known) == [rule]
    assert rules([*before, last, run(2 * MINUTE)], known) == []


def test_a_killed_run_names_the_command_that_goes_on_with_it() -> None:
    killed = run(10 * MINUTE, state=State.KILLED, complete=False, exit_code=None)
    (finding,) = found([killed], replace(HOURLY, max_ages={"recent": DAY}, program="parti"))
    assert (finding.rule, finding.command) == ("abandoned", "parti crawl recent -a run_id=run-600")
    command = found([run(HOUR), killed], replace(HOURLY, program="parti"))[0].command
    assert command == "parti crawl recent -a run_id=run-600"


def test_a_single_run_that_failed_is_found_for_a_week() -> None:
    runs = [bad(HOUR)]
    assert rules(runs) == ["incomplete"]
    assert rules(runs, now=NOW + 6 * DAY) == ["incomplete"]
    assert rules(runs, now=NOW + 7 * DAY) == []


def test_runs_that_are_refused_while_a_long_one_is_at_work_are_no_finding() -> None:
    long = run(9 * HOUR, ended_at=NOW - 2 * HOUR, arguments={"incremental": True})
    skipped = [refused(ago * HOUR + MINUTE, arguments={"incremental": True}) for ago in range(8, 2, -1)]
    known = Known({"recent": DAY})
    going = replace(long, state=State.RUNNING, account=replace(long.account, complete=False, ended_at=None))
    assert rules([replace(going, good_until=None), *skipped], known) == []
    assert rules([long, *skipped], known) == []
    assert rules([long, *skipped, refused(HOUR, arguments={"incremental": True})], known) == ["failed"]


def test_a_typing_error_is_no_finding_but_a_schedule_of_them_is() -> None:
    assert rules([refused(HOUR)]) == []
    assert rules([refused(HOUR), *schedule(HOUR, 9)]) == []
    assert "failed" in rules([refused(2 * MINUTE + n * HOUR) for n in range(5)])
    assert "failed" in rules([refused(HOUR)], HOURLY)


@pytest.mark.parametrize(
    ("failed", "later", "clears"),
    [
        ({}, {"arguments": {"user_id": 5}}, False),
        ({"arguments": {"user_id": 5}}, {}, True),
        ({"arguments": {"user_id": 5}}, {"arguments": {"user_id": 6}}, False),
        ({"arguments": {"categories": ["4"]}}, {"arguments": {"categories": ["4"], "limit": 7}}, True),
        ({}, {"truncated": True}, False),
        ({"window": Window("2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z")}, {"arguments": {"limit": 9}}, True),
        (
            {"arguments": {"limit": 9}, "window": Window("2022-01-01T00:00:00Z", "2022-02-01T00:00:00Z")},
            {"window": Window("2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z")},
            False,
        ),
    ],
)
def test_a_later_good_run_clears_only_what_it_covers(failed: Any, later: Any, clears: bool) -> None:
    runs = [bad(HOUR, **failed), run(10 * MINUTE, **later)]
    # Two series, unless they have the same arguments; then it is the last run that counts.
    if failed.get("arguments", {}) != later.get("arguments", {}):
        assert ("incomplete" not in rules(runs)) == clears


def test_an_hour_that_is_missing_from_filtered_runs_is_found_until_it_is_fetched() -> None:
    def hour(ago: int, make: Any = run) -> PastRun:
        window = Window(timestamp_to_iso(NOW - (ago + 1) * HOUR), timestamp_to_iso(NOW - ago * HOUR - 1))
        began = ago * HOUR - 5 * MINUTE if ago else MINUTE
        return make(began, arguments={"categories": ["7"], "since": str(ago)}, window=window)

    runs = [hour(ago) for ago in range(30, 9, -1)] + [hour(9, bad)] + [hour(ago) for ago in range(8, -1, -1)]
    assert rules(runs) == ["incomplete"]
    # Both halves together.
    middle = timestamp_to_iso(NOW - 9.5 * HOUR)
    window = runs[21].window
    assert window
    first = run(2 * MINUTE, arguments={"categories": ["7"]}, window=Window(window.since, middle))
    later = timestamp_to_iso(NOW - 9.5 * HOUR + 1)
    second = run(MINUTE, arguments={"categories": ["7"]}, window=Window(later, window.until))
    assert rules([*runs, first]) == ["incomplete"]
    assert rules([*runs, first, second]) == []
    assert rules([*runs, run(MINUTE)]) == []


def test_a_service_that_was_killed_and_goes_on_again_is_healthy() -> None:
    killed = endless("live", DAY, 20 * MINUTE, state=State.KILLED)
    assert "abandoned" in rules([killed], Known({"live": HOUR}))
    assert rules([killed, endless("live", 10 * MINUTE, MINUTE)], Known({"live": HOUR})) == []
    # As long as it has not been good since, it is not.
    waiting = endless("live", 10 * MINUTE, MINUTE, good_until=None)
    assert rules([killed, waiting], Known({"live": HOUR})) == ["abandoned"]


def test_a_day_of_a_service_that_is_degraded_is_found_at_once_and_until_the_next() -> None:
    flaw = ["viewers_count is absent from 900 of 1,000 records"]
    day = Account(NOW - 2 * DAY, NOW - DAY, complete=True, day="d", counts={"served": 1_000})
    today = Account(NOW - HOUR, None, counts={"served": 50})
    known = Known({"live": HOUR})
    assert rules([endless("live", 9 * DAY, MINUTE, days=(replace(day, degraded=flaw),))], known) == ["degraded"]
    service = endless("live", 9 * DAY, MINUTE, days=(replace(day, degraded=flaw),), today=today)
    assert rules([service], known) == []
    now = replace(service, days=(day,), today=replace(today, degraded=flaw))
    assert rules([now], known) == ["degraded"]
    assert rules([now], replace(known, expect_absent=frozenset({"viewers_count"}))) == []


# --- Content -----------------------------------------------------------------------------------------------------


def counts(written: float, **others: int) -> dict[str, int]:
    return {"written": round(written), "served": round(written)} | others


def by_hour(days: int, rate: float, seed: int, *, night: float = 0.2, weekend: float = 0.8) -> list[PastRun]:
    """Return hourly runs whose records follow the time of day and the week, by chance, after a first one of all."""
    chance = random.Random(seed)
    runs = [run(days * DAY + HOUR, counts=counts(1_000_000))]
    for ago in reversed(range(24 * days)):
        moment = NOW - ago * HOUR
        wave = night + (1 - night) * (1 + math.sin(moment / DAY * 2 * math.pi)) / 2
        mean = rate * wave * (weekend if int(moment // DAY) % 7 > 4 else 1.0)
        written = max(0, round(chance.gauss(mean, math.sqrt(mean))))
        runs.append(run(ago * HOUR + 2 * MINUTE, counts=counts(written, new=written)))
    return runs


@pytest.mark.parametrize(("rate", "weekend"), [(1, 0.8), (5, 0.8), (40, 0.8), (1_000, 0.8), (40, 0.4)])
def test_nights_weekends_and_chance_are_no_lack_of_records(rate: float, weekend: float) -> None:
    runs = by_hour(40, rate, seed=int(rate), weekend=weekend)
    first = len(runs) - 24 * 30
    for last in [*range(2, 24 * 4), *range(first, len(runs))]:
        began = runs[last].account.began_at or 0
        assert rules(runs[max(0, last - 24 * 20) : last + 1], now=began + 2 * MINUTE) == []


@pytest.mark.parametrize("rate", [40, 1_000])
def test_a_third_of_the_records_is_noticed_within_a_day(rate: float) -> None:
    runs = by_hour(20, rate, seed=3)
    less = [
        replace(each, account=replace(each.account, counts=counts(each.account.counts["written"] / 4)))
        for each in runs[-24:]
    ]
    assert rules(runs[:-24] + less) == ["few_records"]


def test_a_run_far_below_the_smallest_of_five_is_noticed() -> None:
    runs = [run(10 * MINUTE - n, counts=counts(200 + 10 * n)) for n in range(6)]
    assert rules([*runs, run(MINUTE, counts=counts(90))]) == ["few_records"]
    assert rules([*runs, run(MINUTE, counts=counts(101))]) == []
    assert rules([*runs[:4], run(MINUTE, counts=counts(90))]) == []
    few = [run(10 * MINUTE - n, counts=counts(8)) for n in range(6)]
    assert rules([*few, run(MINUTE, counts=counts(3))]) == []


def test_a_day_of_a_service_with_less_than_half_is_noticed_until_the_next() -> None:
    def day(ago: int, written: int) -> Account:
        end = NOW - HOUR - ago * DAY
        return Account(end - DAY, end, complete=True, day=f"d{ago}", counts=counts(written))

    known = Known({"live": HOUR})
    days = [day(n, 9_000 + 100 * n) for n in range(9, 0, -1)]
    assert rules([endless("live", 9 * DAY, MINUTE, days=(*days, day(0, 4_000)))], known) == ["few_records"]
    assert rules([endless("live", 9 * DAY, MINUTE, days=(*days, day(0, 5_000)))], known) == []
    # A day that was cut says nothing.
    short = replace(day(0, 4_000), began_at=NOW - 5 * HOUR)
    assert rules([endless("live", 9 * DAY, MINUTE, days=(*days, short))], known) == []


def test_more_records_set_aside_than_usual_are_found_until_a_run_without() -> None:
    clean = schedule(HOUR, 9, last=HOUR)
    assert rules([*clean, run(2 * MINUTE, counts=counts(100, quarantined=2))]) == []
    worse = run(2 * MINUTE, counts=counts(100, quarantined=3))
    assert rules([*clean, worse]) == ["set_aside"]
    assert rules([*clean, worse, run(MINUTE)]) == []
    usual = schedule(HOUR, 9, last=HOUR, counts=counts(100, quarantined=3))
    assert rules([*usual, run(2 * MINUTE, counts=counts(100, quarantined=12))]) == []
    assert rules([*usual, run(2 * MINUTE, counts=counts(100, quarantined=13))]) == ["set_aside"]
    # That few records had none says little.
    few = run(HOUR, counts=counts(3))
    assert rules([few, run(2 * MINUTE, counts=counts(500, quarantined=4))]) == []


def test_a_share_that_is_always_set_aside_is_no_finding() -> None:
    chance = random.Random(5)
    runs = []
    for ago in reversed(range(24 * 60)):
        aside = sum(chance.random() < 0.001 for _ in range(200))
        runs.append(run(ago * HOUR + 2 * MINUTE, counts=counts(200, quarantined=aside)))
    for last in range(24 * 30, len(runs), 3):
        now = (runs[last].account.began_at or 0) + 2 * MINUTE
        assert "set_aside" not in rules(runs[last - 24 * 10 : last + 1], now=now)


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        ({"unknown_fields": {"mood": 100}}, "fields that were unknown before: mood"),
        ({"unreadable_fields": {"avatar": 1}}, "fields that could be read before: avatar"),
        ({"vanished_fields": ["avatar"]}, "fields that no record has any more: avatar"),
    ],
)
def test_a_new_field_is_found_for_a_day(odd: dict[str, Any], says: str) -> None:
    before = schedule(HOUR, 9, last=HOUR)
    runs = [*before, run(2 * MINUTE, **odd)]
    (finding,) = found(runs, HOURLY)
    assert (finding.rule, finding.text) == ("fields", f"recent: {says}")
    later = [*runs, *(run(-n * HOUR, **odd) for n in range(1, 30))]
    assert rules(later[:30], HOURLY, NOW + 20 * HOUR) == ["fields"]
    assert rules(later, HOURLY, NOW + 25 * HOUR) == []
    # What the first run has is not new.
    assert rules([run(HOUR, **odd), run(2 * MINUTE, **odd)], HOURLY) == []


def test_a_field_that_is_unreadable_in_few_records_or_made_up_is_no_news() -> None:
    before = schedule(HOUR, 40, last=HOUR)
    assert rules([*before, run(2 * MINUTE, unreadable_fields={"avatar": 1}, counts=counts(101))], HOURLY) == []
    random_names = [run(2 * MINUTE + n * DAY, unknown_fields={f"x{n}": 1}) for n in range(29)]
    assert rules([run(29.5 * DAY), *random_names], HOURLY) == []


def test_names_of_fields_are_shown_without_control_characters_and_not_all() -> None:
    names = {f"\x1b[2J{'x' * 300}{n}": 100 for n in range(9)}
    (finding,) = found([*schedule(HOUR, 9, last=HOUR), run(2 * MINUTE, unknown_fields=names)], HOURLY)
    assert "\x1b" not in finding.text
    assert finding.text.endswith("and 4 more")
    assert len(finding.text) < 400


# --- The rest ----------------------------------------------------------------------------------------------------


def test_gaps_are_found_unless_a_run_is_filling_them() -> None:
    gap = Gap(NOW - 3 * DAY, NOW - 2 * DAY, "scrapy crawl recent -a since=x")
    known = replace(HOURLY, gaps=[gap, replace(gap, until=NOW - DAY)])
    first, *_ = found(schedule(HOUR, 9), known)
    assert (first.rule, first.command, first.since) == ("gaps", gap.command, gap.since)
    assert first.text.endswith("and 1 more gap, see scrapy coverage")
    filling = run(MINUTE, state=State.RUNNING, complete=False, window=Window("2021-01-01T00:00:00Z", "2100"))
    assert rules([*schedule(HOUR, 9), filling], known) == []
    elsewhere = replace(filling, window=Window("2021-01-01T00:00:00Z", "2022-01-01T00:00:00Z"))
    assert rules([*schedule(HOUR, 9), elsewhere], known) == ["gaps"]


def test_a_silence_of_more_than_ten_minutes_is_found_for_a_day() -> None:
    service = endless("notifications", 9 * DAY, MINUTE)
    begun = NOW - 40 * HOUR

    def heard(silence: float, now: float = NOW) -> list[str]:
        spans = [(begun, NOW - 5 * HOUR), (NOW - 5 * HOUR + silence, now)]
        runs = [replace(service, good_until=now)]
        return rules(runs, Known({"notifications": HOUR}, listened=spans), now)

    assert heard(10 * MINUTE) == []
    assert heard(11 * MINUTE) == ["not_listening"]
    assert heard(11 * MINUTE, NOW + 18 * HOUR) == ["not_listening"]
    assert heard(11 * MINUTE, NOW + 20 * HOUR) == []
    # Where nobody asked for notifications, nobody misses them.
    spans = [(NOW - 5 * HOUR, NOW - 4 * HOUR)]
    assert rules(schedule(HOUR, 9), replace(HOURLY, listened=spans)) == []


@pytest.mark.parametrize(
    ("disk", "full"),
    [
        (Disk("/o", 5, 100, 50, 100), False),
        (Disk("/o", 4, 100, 50, 100), True),
        (Disk("/o", 50, 100, 4, 100), True),
        (Disk("/o", 50, 100, 0, 0), False),
    ],
)
def test_a_disk_is_full_with_less_than_a_twentieth_free(disk: Disk, full: bool) -> None:
    assert rules(schedule(HOUR, 9), replace(HOURLY, disks=[disk])) == ["disk"] * full


def test_damaged_data_packages_and_unsent_alerts_are_found() -> None:
    damaged = [run(HOUR + n, state=State.UNREADABLE, complete=False, reason="bad\njson") for n in range(3)]
    (finding,) = found([*schedule(HOUR, 9), *damaged], HOURLY)
    assert finding.rule == "damaged"
    assert finding.text.startswith("recent: /f and 2 more cannot be read: bad")
    known = replace(HOURLY, alerts_failing=(NOW - DAY, "1 of 1 addresses failed"))
    (finding,) = found(schedule(HOUR, 9), known)
    assert (finding.rule, finding.since) == ("alerts", NOW - DAY)


def test_runs_of_the_future_say_nothing() -> None:
    future = run(-2 * DAY)
    assert rules([run(9 * HOUR), future], HOURLY) == ["late"]
    assert rules([*schedule(HOUR, 9), bad(-2 * DAY)], HOURLY) == []


# --- All together ------------------------------------------------------------------------------------------------

STATES = st.sampled_from(["good", "bad", "killed", "stopped", "refused", "degraded", "running"])
SPIDERS = st.sampled_from(["recent", "live", "categories", "notifications"])


@st.composite
def histories(draw: st.DrawFn) -> list[PastRun]:
    runs = []
    for _ in range(draw(st.integers(0, 12))):
        ago, spider, state = draw(st.floats(HOUR, 20 * DAY)), draw(SPIDERS), draw(STATES)
        arguments = draw(st.sampled_from([{}, {"user_id": 5}, {"interval": 300}]))
        made: dict[str, Any] = {
            "good": {},
            "bad": {"complete": False, "exit_code": 4},
            "killed": {"state": State.KILLED, "complete": False, "exit_code": None, "sealed": draw(st.booleans())},
            "stopped": {"state": State.STOPPED, "complete": False, "exit_code": 3},
            "refused": {"state": State.NOT_STARTED, "complete": False, "exit_code": 2, "folder": None},
            "degraded": {"degraded": ["user_name is absent"], "exit_code": 4},
            "running": {"state": State.RUNNING, "complete": False, "ended_at": None, "exit_code": None},
        }[state]
        runs.append(run(ago, spider, arguments=arguments, **made))
    return sorted(runs, key=lambda each: each.account.began_at or 0)


@given(histories())
def test_whatever_happened_a_schedule_that_goes_well_again_is_healthy(runs: list[PastRun]) -> None:
    past = [each for each in runs if each.state is not State.RUNNING]
    well = [
        each
        for spider, distance in (("recent", HOUR), ("live", 5 * MINUTE), ("categories", DAY), ("notifications", HOUR))
        for each in schedule(distance, 6, spider)
    ]
    again = sorted([*past, *well], key=lambda each: each.account.began_at or 0)
    named = Known({"recent": 2 * HOUR, "live": HOUR, "categories": 2 * DAY, "notifications": 2 * HOUR})
    # What was asked for with filters is covered by runs without.
    assert rules(again, named) == []


@given(histories())
def test_nothing_is_unhealthy_for_ever(runs: list[PastRun]) -> None:
    past = [each for each in runs if each.state is not State.RUNNING]
    assert rules(past, now=NOW + 31 * DAY) == []


@given(histories(), st.floats(0, 40 * DAY))
def test_any_history_can_be_examined(runs: list[PastRun], later: float) -> None:
    health = examine(runs, Known(), NOW + later)
    assert isinstance(health, Health)
    assert all(math.isfinite(each.since) for each in health.findings)


def test_the_document_has_every_rule() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)) >= set(RULES)
