"""Which stretches of ended livestreams are to be crawled, and in what pieces, so that machines share the work. Pure.

Moments are Unix seconds; a stretch is an `Interval`, both bounds of which belong to it.
"""

from __future__ import annotations

from bisect import bisect, bisect_left
from heapq import heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from parti_scraper.api.times import DAY
from parti_scraper.dataset.coverage import Interval, clip, gaps, union

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# What a job may have: what is lost if it fails, and what others cannot share.
MOST_RECORDS, MOST_SECONDS = 20_000, 90 * DAY
# Seconds of a piece where nothing is known, and the least.
USUAL_SECONDS, LEAST_SECONDS = 30 * DAY, 3_600
# The mean of so many known days before a day that is not known, and of as many after it, is what is expected of it: a
# week, because days of the week differ.
_DAYS_AROUND = 7
# What a piece may weigh. A second weighs as many as the records that are expected of its day, but so many at least that
# a piece of this weight is no longer than it may be.
_MOST_WEIGHT = MOST_RECORDS * DAY
_LEAST_OF_A_SECOND = -(-_MOST_WEIGHT // MOST_SECONDS)
# How often a piece is halved at a time.
_MOST_HALVINGS = 3
# Seconds after the end of an attempt until the next: after the first, how many times as long after each other, and the
# most.
BACKOFF, BACKOFF_TIMES, LONGEST_BACKOFF = 900, 4, 7 * DAY
# After how many times as long the most is reached.
_STEPS = 5


# --- Pieces ------------------------------------------------------------------------------------------------------


def cut(window: Interval, longest: int) -> list[Interval]:
    """Return a window in pieces of `longest` seconds, the newest first; the oldest may be shorter.

    Thirty days are three times ten: the last second, by which a window is longer, is no piece of its own.
    """
    ends = range(window.until, window.since, -longest) or [window.until]
    firsts = [until - longest + 1 for until in ends[:-1]] + [window.since]
    return list(map(Interval, firsts, ends))


def halve(pieces: Iterable[Interval], attempts: Iterable[Attempt]) -> list[Interval]:
    """Return pieces, those that were tried in vain in halves, in quarters after two attempts, at most in eighths.

    So the part that cannot be had is told from the rest of a piece, an hour at least.
    """
    windows = [each.window for each in attempts]
    found = []
    for piece in pieces:
        times = sum(1 for each in windows if clip([each], *piece))
        longest = -(-piece.seconds // 2 ** min(times, _MOST_HALVINGS))
        found += cut(piece, max(longest, LEAST_SECONDS))
    return found


def in_vain(attempts: Iterable[Attempt], proved: Iterable[Interval]) -> list[Attempt]:
    """Return the attempts of whose windows a part is still not proved."""
    there = union(proved)
    untils = [each.until for each in there]

    def is_proved(window: Interval) -> bool:
        # Those that touch are one, so one has all of a window that is proved.
        place = bisect_left(untils, window.until)
        return place < len(there) and there[place].since <= window.since

    return [each for each in attempts if not is_proved(each.window)]


def cut_by_density(windows: Iterable[Interval], records_by_day: Mapping[int, int]) -> list[Interval]:
    """Return windows in pieces that take about as long to crawl, the newest first.

    A piece has at most MOST_RECORDS that are expected and MOST_SECONDS, but is never shorter than LEAST_SECONDS unless
    its window is; so the densest, of less than twice that, may have more records.

    Args:
        windows: none overlaps another; those that touch stay apart.
        records_by_day: how many livestreams are known to have ended on a day (Unix time // 86400).
    """
    newest_first = sorted(windows, reverse=True)
    if not records_by_day:
        return [piece for window in newest_first for piece in cut(window, USUAL_SECONDS)]
    weights = _Weights(records_by_day)
    return [piece for window in newest_first for piece in weights.cut(window)]


class _Weights:
    """How much work the seconds of each day are."""

    def __init__(self, records_by_day: Mapping[int, int]) -> None:
        self._records_by_day = records_by_day
        self._known = sorted(records_by_day)

    def cut(self, window: Interval) -> Iterator[Interval]:
        """Yield the pieces of a window, the newest first, as like in weight as can be."""
        left, until = self._weight_of(window), window.until
        while left > _MOST_WEIGHT and until - window.since + 1 >= 2 * LEAST_SECONDS:
            pieces = -(-left // _MOST_WEIGHT)
            since = min(self._since(until, left // pieces), until - LEAST_SECONDS + 1)
            piece = Interval(max(since, window.since + LEAST_SECONDS), until)
            yield piece
            left, until = left - self._weight_of(piece), piece.since - 1
        yield Interval(window.since, until)

    def _weight_of(self, window: Interval) -> int:
        days = range(window.since // DAY, window.until // DAY + 1)
        parts = (clip([window], day * DAY, (day + 1) * DAY - 1) for day in days)
        return sum(part.seconds * self._of_a_second(day) for day, (part,) in zip(days, parts, strict=True))

    def _since(self, until: int, weight: int) -> int:
        """Return since when the seconds until a moment have a weight, or hardly less."""
        while True:
            day = until // DAY
            of_a_second = self._of_a_second(day)
            seconds = min(until - day * DAY + 1, weight // of_a_second)
            until, weight = until - seconds, weight - seconds * of_a_second
            if until // DAY == day:
                return until + 1

    def _of_a_second(self, day: int) -> int:
        records = self._records_by_day.get(day)
        if records is None:
            place = bisect(self._known, day)
            around = self._known[max(place - _DAYS_AROUND, 0) : place + _DAYS_AROUND]
            records = -(-sum(self._records_by_day[each] for each in around) // len(around))
        return max(records, _LEAST_OF_A_SECOND)


# --- What is missing ---------------------------------------------------------------------------------------------


class Attempt(NamedTuple):
    """A job that has ended, whether it failed or not, whose window is perhaps still missing.

    Attributes:
        window: what it was to crawl.
        ended_at: when it ended.
    """

    window: Interval
    ended_at: float


def missing(  # noqa: PLR0917 - what is known, all of it needed
    proved: Iterable[Interval],
    since: int,
    until: int,
    overlap: int,
    taken: Iterable[Interval],
    attempts: Iterable[Attempt],
    now: float,
) -> list[Interval]:
    """Return what is to be crawled now, sorted; none touches the next.

    What was tried in vain waits, the longer the more often it was tried. Only that does: the seconds that no attempt
    covered are there at once, also where they follow a stretch that never succeeds.

    Args:
        proved: what needs not be crawled, except for its end.
        since: the first second that is looked at.
        until: the last one.
        overlap: how many seconds before the end of what is proved are crawled again, for late and changed records.
        taken: what is queued or running.
        attempts: what has ended; only those in vain matter.
        now: the present.
    """
    there, queued = union(clip(proved, since, until)), union(taken)
    wanted = [*_due(gaps(there, since, until), attempts, now)]
    if there:
        end = there[-1].until
        wanted += clip(there, end - overlap + 1, end)
    return [part for each in union(wanted) for part in gaps(queued, each.since, each.until)]


def _due(stretches: Iterable[Interval], attempts: Iterable[Attempt], now: float) -> Iterator[Interval]:
    """Yield the parts that need not wait of stretches that are sorted, and of which none overlaps another."""
    to_come = sorted(attempts, reverse=True)
    untils = sorted(each.window.until for each in to_come)
    # The same attempts cover all seconds between two bounds.
    bounds = sorted({bound for each in to_come for bound in (each.window.since, each.window.until + 1)})
    # Of those that have begun, the one that ended last first.
    begun: list[tuple[float, int]] = []
    for stretch in stretches:
        within = bounds[bisect(bounds, stretch.since) : bisect(bounds, stretch.until)]
        for since, end in pairwise([stretch.since, *within, stretch.until + 1]):
            while to_come and to_come[-1].window.since <= since:
                attempt = to_come.pop()
                heappush(begun, (-attempt.ended_at, attempt.window.until))
            while begun and begun[0][1] < since:
                heappop(begun)
            times = len(untils) - len(to_come) - bisect_left(untils, since)
            if not times or now >= _wait(times) - begun[0][0]:
                yield Interval(since, end - 1)


def _wait(times: int) -> int:
    """Return how many seconds after so many attempts the next one may be made."""
    wait: int = BACKOFF * BACKOFF_TIMES ** min(times - 1, _STEPS)
    return min(wait, LONGEST_BACKOFF)
