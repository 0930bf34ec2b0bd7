"""The rules that look at what runs have brought: few_records, set_aside, fields. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING

from parti_scraper.api.times import DAY
from parti_scraper.operations.findings import Finding
from parti_scraper.operations.history import Account, State
from parti_scraper.operations.watched import RUNS_OF_A_SERIES
from parti_scraper.run.summary import printable
from parti_scraper.wording import number_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from parti_scraper.operations.watched import Series

# Seconds that rules look back which compare with what is usual.
USUAL_DAYS = 30 * DAY
# Half of the usual is few, unless chance explains it: so many standard deviations of a count.
FEW_SHARE, BY_CHANCE = 0.5, 3.0
# Of records set aside, too: that many standard deviations, and that many records, above what is usual.
ASIDE_BY_CHANCE, ASIDE_AT_LEAST = 4.0, 2
# Days before, and the share of a day's usual runs, that are needed to compare days.
DAYS_TO_COMPARE, DAYS_COMPARED, RUNS_TO_COMPARE = 3, 14, 0.8
# Seconds for which a field is new.
NEW_FOR = DAY
# A field that is unreadable in a smaller share of the records is no news.
UNREADABLE_SHARE = 0.01
# An API that makes up so many names of fields in a month has no news.
NAMES_MADE_UP = 20
_FIELDS_NAMED, _LONGEST_NAME = 5, 60


def _accounts(series: Series, now: float) -> list[Account]:
    """Return what runs of a series that were complete, or days of them, have found lately, oldest first."""
    found: list[Account] = []
    for run in series.runs:
        if run.days:
            found += run.days
        elif run.state is State.ENDED:
            found.append(run.account)
    return [each for each in found if each.began_at is not None and now - each.began_at <= USUAL_DAYS]


def few_records(series: Series, now: float) -> Finding | None:
    """Return that a series brings less than half of its usual records."""
    good = [each for each in _accounts(series, now) if each.complete and each.ended_at is not None]
    if not good or series.arguments.get("max_records"):
        return None
    last = good[-1]
    compared = _day_means(good, now) if last.day is None else _whole_days(good)
    if compared is None and last.day is None and len(good) > RUNS_OF_A_SERIES:
        compared = _written(last), min(map(_written, good[:-1]))
    if compared is None:
        return None
    written, usual = compared
    if written >= FEW_SHARE * usual or usual - written <= BY_CHANCE * math.sqrt(usual):
        return None
    what = f"{series.subject}: {written:,.0f} records a {'day' if last.day else 'run'}, usual are {usual:,.0f}"
    return Finding("few_records", series.subject, what, last.began_at or now)


def _written(account: Account) -> int:
    return account.counts.get("written", 0)


def _day_means(good: Sequence[Account], now: float) -> tuple[float, float] | None:
    """Return the mean records of the runs of the last 24 hours, and the median of such means of days before.

    None if there are too few days or runs to compare: it matters which hours of the day they are from.
    """
    days: defaultdict[int, list[int]] = defaultdict(list)
    for each in good:
        days[math.floor((now - (each.ended_at or now)) / DAY)].append(_written(each))
    before = [days[ago] for ago in range(1, DAYS_COMPARED + 1) if ago in days]
    if len(before) < DAYS_TO_COMPARE:
        return None
    usual_runs = median(map(len, before))
    today = days.get(0, [])
    if usual_runs < 2 or len(today) < RUNS_TO_COMPARE * usual_runs:
        return None
    means = {ago: sum(days[ago]) / len(days[ago]) for ago in days if len(days[ago]) >= RUNS_TO_COMPARE * usual_runs}
    now_mean = means.pop(0)
    return now_mean, _usual(means, now_mean)


def _usual(days: Mapping[int, float], of_now: float) -> float:
    """Return what is usual, by how many days ago it was: of all days, or of the same weekday if that is less."""
    same = [days[ago] for ago in (7, 14) if ago in days]
    return min([median(days.values()), *same]) if days else of_now


def _whole_days(good: Sequence[Account]) -> tuple[float, float] | None:
    """Return the records of the last whole day of a run that goes on for days, and the median of the days before."""
    whole = [each for each in good if each.day and (each.ended_at or 0) - (each.began_at or 0) >= 0.95 * DAY]
    if len(whole) <= DAYS_TO_COMPARE or whole[-1] is not good[-1]:
        return None
    before = {
        round(((whole[-1].began_at or 0) - (each.began_at or 0)) / DAY): float(_written(each))
        for each in whole[-DAYS_COMPARED - 1 : -1]
    }
    return _written(whole[-1]), _usual(before, _written(whole[-1]))


def set_aside(series: Series, now: float) -> Finding | None:
    """Return that the last run, or day, of a series has set more records aside than usual."""
    accounts = _accounts(series, now)
    if len(accounts) < 2:
        return None
    last = series.last.today or accounts.pop()
    before = accounts
    aside, served = (last.counts.get(name, 0) for name in ("quarantined", "served"))
    earlier = sum(each.counts.get("quarantined", 0) for each in before)
    served_earlier = sum(each.counts.get("served", 0) for each in before)
    # Half a record more than there were: that few records had none says little.
    expected = served * (earlier + 0.5) / (served_earlier + 1)
    if aside <= expected + ASIDE_BY_CHANCE * math.sqrt(expected) + ASIDE_AT_LEAST:
        return None
    share = earlier / max(1, served_earlier)
    what = f"{number_of(aside, 'records')} of {served:,} were set aside, usual are {share:.1%}; see quarantine.jsonl"
    return Finding("set_aside", series.subject, f"{series.subject}: {what}", last.began_at or now)


def new_fields(all_series: Sequence[Series], now: float) -> Iterator[Finding]:
    """Yield the fields that records of a spider have, or lack, for the first time."""
    accounts = sorted(
        (each for series in all_series for each in (*_accounts(series, now), *_going_on(series))),
        key=lambda each: each.began_at or 0,
    )
    first: dict[tuple[str, str], float] = {}
    is_first = True
    for each in accounts:
        for problem in _field_problems(each):
            # What the first run has is not new.
            first.setdefault(problem, 0.0 if is_first else each.began_at or 0.0)
        is_first = is_first and not each.counts.get("served", 0)
    earlier = sum(0 < moment < now - NEW_FOR for moment in first.values())
    new = {problem: moment for problem, moment in first.items() if moment and now - moment <= NEW_FOR}
    if not new or earlier > NAMES_MADE_UP:
        return
    spider = all_series[0].spider
    for kind in dict.fromkeys(kind for kind, _ in new):
        names = sorted(name for each, name in new if each == kind)
        shown = ", ".join(printable(name[:_LONGEST_NAME]) for name in names[:_FIELDS_NAMED])
        more = f" and {len(names) - _FIELDS_NAMED} more" if len(names) > _FIELDS_NAMED else ""
        yield Finding("fields", spider, f"{spider}: {kind}: {shown}{more}", min(new[kind, name] for name in names))


def _going_on(series: Series) -> Iterator[Account]:
    if series.last.state is State.RUNNING:
        yield series.last.today or series.last.account


def _field_problems(account: Account) -> Iterator[tuple[str, str]]:
    """Yield what is odd about fields: what, and which."""
    for name in account.unknown_fields:
        yield "fields that were unknown before", name
    served = account.counts.get("served", 0)
    for name, number in account.unreadable_fields.items():
        if number >= UNREADABLE_SHARE * served:
            yield "fields that could be read before", name
    for name in account.vanished_fields:
        yield "fields that no record has any more", name
