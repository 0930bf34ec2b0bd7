"""Which stretches of time runs prove, and what is missing between them. Pure.

Moments are whole Unix seconds. A run of `recent` proves that every livestream is there that had ended within its window
when it looked. What the site lists later, or changes, is found by runs that look at the same time again.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter
from statistics import median_low
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from parti_scraper.api.routes import FIRST_TS, NAN
from parti_scraper.api.times import DAY, iso_to_timestamp, timestamp_to_iso
from parti_scraper.items import Livestream
from parti_scraper.run.entries import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from parti_scraper.run.entries import Entry

Name = TypeVar("Name")

# Data packages of format 1 do not say when the run began, which was this long before its end at most, in seconds.
_LONGEST_OF_FORMAT_1 = DAY
# A stretch without a snapshot is a gap if it is more than so many times as long as the day's usual distance.
USUAL_TIMES = 3
# Seconds. When a run connects, it asks which channels are live, so a shorter break misses only livestreams that begin
# and end within it.
_LONGEST_BREAK = 60

# Of a hundred thousand runs, most begin when their window ends, and many where the one before ended.
_seconds = lru_cache(maxsize=1024)(iso_to_timestamp)


class Interval(NamedTuple):
    """A stretch of time; its first and last second belong to it."""

    since: int
    until: int

    @property
    def seconds(self) -> int:
        """How long it is."""
        return self.until - self.since + 1


def union(intervals: Iterable[Interval], within: int = 1) -> list[Interval]:
    """Return intervals sorted, and those joined that overlap, or begin at most `within` seconds after another ends."""
    joined: list[Interval] = []
    for since, until in sorted(intervals):
        if joined and since - joined[-1].until <= within:
            joined[-1] = Interval(joined[-1].since, max(joined[-1].until, until))
        else:
            joined.append(Interval(since, until))
    return joined


def gaps(intervals: Iterable[Interval], since: int, until: int) -> list[Interval]:
    """Return the stretches from `since` to `until` that are in none of the intervals, sorted."""
    found, start = [], since
    for each in union(clip(intervals, since, until)):
        if start < each.since:
            found.append(Interval(start, each.since - 1))
        start = each.until + 1
    return [*found, Interval(start, until)] if start <= until else found


def clip(intervals: Iterable[Interval], since: int, until: int) -> list[Interval]:
    """Return the parts of intervals that are within `since` and `until`."""
    parts = (Interval(max(each.since, since), min(each.until, until)) for each in intervals)
    return [each for each in parts if each.since <= each.until]


def interval_of(since: str, until: str) -> Interval | None:
    """Return an interval of two moments in ISO 8601; None if they are none, or in the wrong order."""
    try:
        interval = Interval(_seconds(since), _seconds(until))
    except ValueError:
        return None
    return interval if interval.since <= interval.until else None


# --- Series ------------------------------------------------------------------------------------------------------


class Series(NamedTuple):
    """What runs with the same filters collect.

    Attributes:
        collection: such as `livestreams`.
        categories: as in the argument of this name, but sorted, each once, in lower case and without leading zeros;
            order and spelling make no difference. A name and the number of the same category are two series.
        user_id: as in the argument of this name; empty: all channels.
    """

    collection: str
    categories: str = ""
    user_id: str = ""

    @classmethod
    def of(cls, collection: str, arguments: Mapping[str, Any]) -> Series:
        """Return the series of a run with these arguments, as its data package has them."""
        categories, user_id = arguments.get("categories"), arguments.get("user_id")
        if categories is None and user_id is None:
            return _series(collection)
        categories = [] if categories is None else categories
        names = {_canonical(str(each)) for each in (categories if isinstance(categories, list) else [categories])}
        return _series(collection, ",".join(sorted(names)), "" if user_id is None else str(user_id))

    @property
    def filters(self) -> dict[str, str]:
        """The filters, as arguments of a spider."""
        filters = {"categories": self.categories, "user_id": self.user_id}
        return {name: value for name, value in filters.items() if value}


# The same object for all runs.
_series = lru_cache(maxsize=1024)(Series)


def _canonical(category: str) -> str:
    if category.isascii() and category.isdigit():
        return category.lstrip("0") or "0"
    return category if category == NAN else category.casefold()


LIVESTREAMS = Series(Livestream.collection)


# --- Ended livestreams -------------------------------------------------------------------------------------------


class Proof(msgspec.Struct, frozen=True, gc=False):
    """What a run of `recent` proves; a Struct, so that a hundred thousand of them cost the garbage collector nothing.

    Attributes:
        series: its filters.
        since, until: every livestream that had ended from then to then is in the run, or in an earlier one.
        continues: whether it relies on earlier runs from its beginning on, whose livestreams it does not repeat.
    """

    series: Series
    since: int
    until: int
    continues: bool = False


def proof_of(entry: Entry) -> Proof | None:
    """Return what a run proves; None if nothing.

    A run by viewers proves nothing: nobody knows which livestreams the site has in that list.
    """
    is_whole = entry.status is Status.FINISHED and entry.complete and not entry.truncated
    if entry.spider != "recent" or not is_whole or entry.window is None or is_elsewhere(entry):
        return None
    window = interval_of(entry.window.since, entry.window.until)
    arguments = entry.arguments
    if window is None or arguments.get("sort", "date") != "date":
        return None
    until = min(window.until, _looked_at(entry, window))
    # The first one takes all from where it was told to; so does one after a long break.
    continues = bool(arguments.get("incremental")) and window.since != arguments.get("since", FIRST_TS)
    series = Series.of(Livestream.collection, arguments)
    return Proof(series, window.since, until, continues) if window.since <= until else None


def is_elsewhere(entry: Entry) -> bool:
    """Tell whether the user had the records stored elsewhere, so that they are not in the dataset."""
    return bool(entry.feeds) and not any(file.kind and file.kind != "quarantine" for file in entry.files)


def _looked_at(entry: Entry, window: Interval) -> int:
    """Return the last moment of a window that was past when the run began."""
    try:
        if entry.started_at is not None:
            return _seconds(entry.started_at)
        # In format 1, as now, a window ends at the start of the run unless it was told otherwise.
        if "until" not in entry.arguments:
            return window.until
        return _seconds(entry.ended_at or "") - _LONGEST_OF_FORMAT_1
    except ValueError:
        return window.since - 1


def proved(proofs: Iterable[Proof]) -> dict[Series, list[Interval]]:
    """Return what runs of one source prove for each series, without what unfiltered runs prove for filtered ones."""
    numbered = dict(enumerate(proofs))
    found: defaultdict[Series, list[Interval]] = defaultdict(list, {LIVESTREAMS: []})
    for each in numbered.values():
        found[each.series]
    for number in proved_by(numbered):
        each = numbered[number]
        found[each.series].append(Interval(each.since, each.until))
    return {series: union(intervals) for series, intervals in found.items()}


def proved_by(proofs: Mapping[Name, Proof]) -> list[Name]:
    """Return which runs of one source prove what they say; one that continues, only if what it continues is proved.

    Else the folders of earlier runs are elsewhere, and so are the livestreams that it did not repeat.
    """
    by_series: defaultdict[Series, dict[Name, Proof]] = defaultdict(dict)
    for name, each in proofs.items():
        by_series[each.series][name] = each
    found = _accepted(by_series.pop(LIVESTREAMS, {}), [])
    unfiltered = [Interval(proofs[name].since, proofs[name].until) for name in found]
    for of_series in by_series.values():
        found += _accepted(of_series, unfiltered)
    return found


def _accepted(proofs: Mapping[Name, Proof], others: Iterable[Interval]) -> list[Name]:
    """Return which runs of one series prove something, where others prove some intervals for it too."""
    found, reached = [], -1
    offered: list[tuple[int, bool, int, Name | None]] = [
        (each.since, each.continues, each.until, name) for name, each in proofs.items()
    ]
    offered += [(each.since, False, each.until, None) for each in others]
    for since, continues, until, name in sorted(offered, key=itemgetter(0, 1, 2)):
        if continues and since > reached:
            continue
        reached = max(reached, until)
        if name is not None:
            found.append(name)
    return found


# --- What is live ------------------------------------------------------------------------------------------------


def listened(spans: Iterable[Interval]) -> list[Interval]:
    """Return when at least one run was connected; breaks of up to a minute do not count."""
    return union(spans, _LONGEST_BREAK)


def looked(moments: Mapping[str, Iterable[int]]) -> list[Interval]:
    """Return the stretches in which snapshots were taken as often as usual.

    Usual is the median of the distances between two snapshots of a run on a day (UTC), or the least of them if there
    are several runs; on days without any, the median of all distances.

    Args:
        moments: when snapshots were taken, by run. Those of runs with a single snapshot belong together.
    """
    usual: dict[int, int] = {}
    for of_run in moments.values():
        for day, distance in _usual_distances(of_run):
            usual[day] = min(distance, usual.get(day, distance))
    every = sorted({moment for of_run in moments.values() for moment in of_run})
    otherwise = median_low([later - earlier for earlier, later in pairwise(every)] or [0])
    found: list[Interval] = []
    for moment in every:
        last = found[-1] if found else None
        if last and moment - last.until <= USUAL_TIMES * usual.get(last.until // DAY, otherwise):
            found[-1] = Interval(last.since, moment)
        else:
            found.append(Interval(moment, moment))
    return found


def _usual_distances(moments: Iterable[int]) -> list[tuple[int, int]]:
    """Return the median of the distances within each day, with the number of the day."""
    by_day: defaultdict[int, list[int]] = defaultdict(list)
    for earlier, later in pairwise(sorted(set(moments))):
        if earlier // DAY == later // DAY:
            by_day[earlier // DAY].append(later - earlier)
    return [(day, median_low(distances)) for day, distances in by_day.items()]


# --- What is missing ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is looked at.

    Attributes:
        since, until: first and last second; None: as far as the runs reach.
        now: nothing later is looked at.
    """

    since: int | None
    until: int | None
    now: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """What is proved of a series, and what is missing.

    Attributes:
        series: the series.
        intervals: what is proved, or when somebody looked or listened; sorted, and none touches the next.
        gaps: what is missing between them, and from there to the bounds; sorted.
    """

    series: Series
    intervals: list[Interval]
    gaps: list[Interval]


def coverage_of(
    series: Series,
    own: Iterable[Interval],
    bounds: Bounds,
    others: Iterable[Interval] = (),
    otherwise: Interval | None = None,
) -> Coverage | None:
    """Return what is proved of a series, and what is missing.

    Args:
        series: the series.
        own: what its runs prove, sorted.
        bounds: what is looked at.
        others: what other runs prove of it.
        otherwise: what is looked at where the bounds do not tell, and its runs prove nothing there; None: nothing.

    Returns:
        None if there is nothing to look at.
    """
    latest = bounds.now if bounds.until is None else bounds.until
    own = clip(own, bounds.since or 0, latest)
    reach = Interval(own[0].since, own[-1].until) if own else otherwise
    since = reach.since if bounds.since is None and reach else bounds.since
    until = reach.until if bounds.until is None and reach else bounds.until
    if since is None or until is None:
        return None
    found = union(clip([*own, *others], since, until))
    return Coverage(series, found, gaps(found, since, until))


def crawl_for(gap: Interval, series: Series, now: int) -> list[str] | None:
    """Return the words of the command that fills a gap, without the program; None if nothing can fill it."""
    if series.collection != LIVESTREAMS.collection:
        return None
    bounds = {
        "since": "" if gap.since == FIRST_TS else timestamp_to_iso(gap.since),
        "until": "" if gap.until >= now else timestamp_to_iso(gap.until),
    }
    typed = [("-a", f"{name}={value}") for name, value in (series.filters | bounds).items() if value]
    return ["crawl", "recent", *(word for pair in typed for word in pair)]
