"""Series: the runs of a spider with the same arguments, which are expected to go on; and the rule `late`. Pure."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from parti_scraper.api.times import DAY, timestamp_to_iso
from parti_scraper.operations.findings import LONGEST_REASON, Finding, Watched
from parti_scraper.operations.history import PastRun, State
from parti_scraper.run.summary import printable
from parti_scraper.wording import length_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from parti_scraper.operations.findings import Known

# Runs, or days of runs, that make a series, which is then expected to go on.
RUNS_OF_A_SERIES = 5
# A series is late after so many times its usual distance, but never sooner than after so many seconds.
LATE_TIMES, LATE_AT_LEAST = 3, 300
# The usual distance, in seconds, of what a run that goes on for days observes, unless its interval is longer.
USUAL_OBSERVATIONS = 600
# Seconds after which a series that does not go on is given up: as long as it has lasted, but within these.
GIVEN_UP_AFTER = (DAY, 30 * DAY)
# Seconds for which a few runs that are no series yet are looked at.
FEW_RUNS_FOR = 7 * DAY
# A series has a usual break where it had one at the same time on so many days before, or in so many weeks.
USUAL_BREAKS = ((DAY, 3), (7 * DAY, 2))
# Seconds; no break is longer.
LONGEST_BREAK = 8 * DAY
# A run that is the first of its spider may last so many seconds.
FIRST_RUN_LASTS = DAY
# Arguments by which a run does not take everything.
FILTERS = ("categories", "user_id")
# What differs between runs of a series: `since=24h` is stored as the moment that it meant.
_MOVING = {"since", "until"}


@dataclass(slots=True)
class Series:
    """Runs of a spider with the same arguments, oldest first.

    Attributes:
        spider: its name.
        subject: the spider and the arguments.
        arguments: the arguments, without what differs from run to run.
        runs: those that are on disk, and those that were refused.
        usual: seconds from one to the next: the median of the distances between their starts, or what is usual for the
            snapshots of a run with days.
        is_watched: whether it is expected to go on.
        is_looked_at: whether what its last run did matters.
        is_replaced: whether another series goes on in its place.
    """

    spider: str
    subject: str
    arguments: Mapping[str, Any]
    runs: list[PastRun]
    usual: float = 0.0
    is_watched: bool = False
    is_looked_at: bool = False
    is_replaced: bool = False

    @property
    def size(self) -> int:
        """How many runs there are, or days of runs."""
        return sum(max(1, len(run.days)) for run in self.runs)

    @property
    def last(self) -> PastRun:
        return self.runs[-1]

    def good_at(self) -> float | None:
        """Return the last moment at which one of the runs had everything."""
        return max((run.good_until for run in self.runs if run.good_until is not None), default=None)


def series_of(runs: Sequence[PastRun], known: Known, now: float) -> list[Series]:
    by_key: dict[tuple[str, str], Series] = {}
    for run in runs:
        if run.state is State.UNREADABLE:
            continue
        key = series_key(run.arguments)
        series = by_key.get((run.spider, key))
        if series is None:
            arguments = {name: value for name, value in run.arguments.items() if name not in _MOVING}
            subject = printable(" ".join([run.spider, *_typed(arguments)]))[:LONGEST_REASON]
            series = by_key[run.spider, key] = Series(run.spider, subject, arguments, [])
        series.runs.append(run)
    found = list(by_key.values())
    for series in found:
        series.usual = _usual_distance(series)
    for series in found:
        if series.spider in known.max_ages or not known.max_ages:
            _watch(series, found, known.max_ages.get(series.spider), now)
    return found


def _watch(series: Series, others: Sequence[Series], max_age: float | None, now: float) -> None:
    """Set whether a series is watched and looked at; `max_age` is that of its spider, if it is named."""
    series.is_replaced = _is_replaced(series, others)
    silent = now - _last_sign(series)
    if series.size >= RUNS_OF_A_SERIES:
        is_given_up = silent > (max_age or 0.0) and _is_given_up(series, now)
        series.is_looked_at = not (is_given_up or series.is_replaced)
        series.is_watched = series.is_looked_at or max_age is not None
        return
    # Of a typing error at the keyboard nobody needs to hear.
    is_begun = max_age is not None or any(run.state is not State.NOT_STARTED for run in series.runs)
    series.is_looked_at = is_begun and silent <= max(FEW_RUNS_FOR, max_age or 0.0)
    series.is_watched = max_age is not None


def series_key(arguments: Mapping[str, Any]) -> str:
    """Return what is the same for the runs of a spider that make a series: their arguments, but for those that move."""
    kept = {name: value for name, value in arguments.items() if name not in _MOVING} if arguments else None
    return json.dumps(kept, sort_keys=True) if kept else ""


def _usual_distance(series: Series) -> float:
    if any(run.days or run.today for run in series.runs):
        interval = series.arguments.get("interval")
        return max(interval if isinstance(interval, (int, float)) else 0.0, USUAL_OBSERVATIONS)
    distances = [after.began - before.began for before, after in pairwise(series.runs[-50:])]
    return median(distances) if distances else 0.0


def _typed(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yield each argument as it is typed after `-a`."""
    for name, value in arguments.items():
        # A length of time is a number with a fraction, as it is stored.
        plain = int(value) if isinstance(value, float) and value.is_integer() else value
        text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(plain)
        yield f"{name}={text.lower() if isinstance(value, bool) else text}"


def _last_sign(series: Series) -> float:
    """Return when a series was last known to go on."""
    last = series.last
    return max(last.began, last.account.ended_at or 0.0, last.good_until or 0.0)


def _is_given_up(series: Series, now: float) -> bool:
    """Tell whether a series was silent for as long as it had lasted."""
    if any(run.state is State.RUNNING for run in series.runs):
        return False
    least, most = GIVEN_UP_AFTER
    lasted = _last_sign(series) - series.runs[0].began
    return now - _last_sign(series) > min(max(lasted, least), most)


def _is_replaced(series: Series, others: Iterable[Series]) -> bool:
    """Tell whether another series of the spider has begun after the last run of this one, and goes well."""
    for other in others:
        if other.spider == series.spider and other is not series:
            later = [run for run in other.runs if run.account.complete and run.began > _last_sign(series)]
            if len(later) >= RUNS_OF_A_SERIES and len(later) == sum(run.account.complete for run in other.runs):
                return True
    return False


def is_whole(run: PastRun) -> bool:
    """Tell whether a run was to take everything."""
    return not run.truncated and not any(name in run.arguments for name in FILTERS)


def judge_ages(
    spiders: Mapping[str, Sequence[Series]], known: Known, now: float
) -> Iterator[tuple[Watched, Finding | None]]:
    """Yield what is watched, and what is wrong where no run was good for too long."""
    begun = min((run.began for each in spiders.values() for series in each for run in series.runs), default=None)
    for spider, max_age in known.max_ages.items():
        runs = [run for series in spiders.get(spider, ()) for run in series.runs]
        goods = [run.good_until for run in _wanted(spiders.get(spider, ())) if run.good_until is not None]
        watched = Watched(spider, max(goods, default=None), max_age)
        if not runs and begun is not None and now - begun <= max_age:
            # The schedule is so new that its turn has not come.
            yield watched, None
            continue
        yield _judge_age(watched, runs, known.crawl(spider), now)
    for series in (each for all_series in spiders.values() for each in all_series):
        if series.is_watched and not known.max_ages:
            max_age = max(LATE_TIMES * series.usual, LATE_AT_LEAST)
            good_at = series.good_at()
            if good_at is not None and _is_on_break(series, good_at, max_age, now):
                yield Watched(series.subject, good_at, max_age), None
                continue
            command = known.crawl(series.spider, *(word for each in _typed(series.arguments) for word in ("-a", each)))
            yield _judge_age(Watched(series.subject, good_at, max_age), series.runs, command, now)


def _wanted(all_series: Iterable[Series]) -> Sequence[PastRun]:
    """Return the runs that keep a named spider from being late: those without filters, if they are not an exception."""
    begun = [(run, series) for series in all_series for run in series.runs if run.state is not State.NOT_STARTED]
    whole = [run for run, series in begun if is_whole(run) and not series.is_replaced]
    is_usual = len(whole) >= RUNS_OF_A_SERIES or 2 * len(whole) >= len(begun)
    return whole if is_usual else [run for run, _ in begun]


def _is_on_break(series: Series, good_at: float, max_age: float, now: float) -> bool:
    """Tell whether a series was silent as long only at times of the day or week at which it usually is."""
    if not good_at + max_age < now <= good_at + LONGEST_BREAK or any(run.days or run.today for run in series.runs):
        return False
    starts = sorted(run.began for run in series.runs)
    # The step is so small that none of the runs that were to come is stepped over.
    step = max(series.usual, LATE_AT_LEAST / LATE_TIMES) / 2
    moments = [good_at + max_age + step * number for number in range(math.ceil((now - good_at - max_age) / step))]
    return all(_is_usually_silent(starts, series.usual, max_age, good_at, moment) for moment in (*moments, now))


def _is_usually_silent(starts: Sequence[float], usual: float, max_age: float, good_at: float, moment: float) -> bool:
    """Tell whether nothing began before the same time on earlier days or in earlier weeks; a late start is no end."""
    for period, times in USUAL_BREAKS:
        # Only what was before the silence says what is usual.
        first = max(1, math.ceil((moment - good_at) / period))
        earlier = [moment - period * number for number in range(first, first + times)]
        if earlier[-1] - max_age < starts[0]:
            continue
        if all(bisect_right(starts, each - max_age) == bisect_right(starts, each - usual) for each in earlier):
            return True
    return False


def _judge_age(watched: Watched, runs: Sequence[PastRun], command: str, now: float) -> tuple[Watched, Finding | None]:
    good_at = watched.good_at
    if good_at is not None and now - good_at <= watched.max_age:
        return watched, None
    if good_at is None and any(run.state is State.RUNNING and now - run.began <= FIRST_RUN_LASTS for run in runs):
        return watched, None
    if good_at is None:
        what = "no run was ever complete" if runs else "it has never run"
        since = min((run.began for run in runs), default=now)
        if runs and now - since <= watched.max_age:
            # How they have ended is told by other rules.
            return watched, None
    else:
        what, since = f"no complete run since {timestamp_to_iso(good_at)}", good_at
    age = f"{length_of(math.floor(now - since))} ago, late after {length_of(math.floor(watched.max_age))}"
    going = ", one is going on" if any(run.state is State.RUNNING for run in runs) else ""
    text = f"{watched.subject}: {what} ({age}{going})" if runs else f"{watched.subject}: {what}"
    return watched, Finding("late", watched.subject, text, since, command)
