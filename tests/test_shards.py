"""Which stretches are to be crawled and in what pieces, also where the API fails for days."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from parti_scraper.api.times import DAY
from parti_scraper.dataset.coverage import Interval, clip, gaps, union
from parti_scraper.jobs.shards import (
    LEAST_SECONDS,
    LONGEST_BACKOFF,
    MOST_RECORDS,
    MOST_SECONDS,
    USUAL_SECONDS,
    Attempt,
    cut,
    cut_by_density,
    halve,
    in_vain,
    missing,
)

HOUR = 3_600
# The first second of a day.
NOW = 20_000 * DAY


def intervals_of(moments: st.SearchStrategy[int]) -> st.SearchStrategy[Interval]:
    """Return intervals between two moments."""
    return st.tuples(moments, moments).map(lambda ends: Interval(min(ends), max(ends)))


def seconds_of(intervals: Iterable[Interval]) -> set[int]:
    """Return every second of some intervals."""
    return {second for each in intervals for second in range(each.since, each.until + 1)}


# --- Pieces ------------------------------------------------------------------------------------------------------


@example(Interval(0, 9), 5)
@example(Interval(0, 10), 5)
@example(Interval(7, 7), 1)
@given(intervals_of(st.integers(0, 500)), st.integers(1, 200))
def test_pieces_of_one_length_are_the_window_the_newest_first(window: Interval, longest: int) -> None:
    pieces = cut(window, longest)
    assert (pieces[0].until, pieces[-1].since) == (window.until, window.since)
    assert all(newer.since - 1 == older.until for newer, older in pairwise(pieces))
    assert [each.seconds for each in pieces[:-1]] == [longest] * max(0, -(-(window.seconds - 1) // longest) - 1)
    # The second by which a window is longer than the time between its bounds is no piece of its own.
    assert 1 <= pieces[-1].seconds <= longest + 1


RECORDS = st.one_of(st.integers(0, 400), st.integers(0, 30_000), st.integers(0, 2_000_000))
WINDOWS = st.lists(intervals_of(st.integers(NOW, NOW + 500 * DAY)), max_size=4).map(union)
KNOWN = st.dictionaries(st.integers(NOW // DAY - 100, NOW // DAY + 600), RECORDS, min_size=1, max_size=30)


@example([Interval(NOW, NOW + 2 * HOUR - 1)], {NOW // DAY: 2_000_000})
@example([Interval(NOW, NOW + 2 * HOUR)], {NOW // DAY: 2_000_000})
@example([Interval(NOW, NOW + 4 * DAY - 1)], {NOW // DAY: MOST_RECORDS})
# The oldest 40 minutes are two thirds of a piece, and the month after them a third.
@example(
    [Interval(NOW - 2_400, NOW + 32 * DAY)],
    {NOW // DAY - 1: 24 * MOST_RECORDS} | {NOW // DAY + day: 0 for day in range(33)},
)
@given(WINDOWS, KNOWN)
def test_pieces_by_density_are_the_windows_and_neither_too_large_nor_too_small(
    windows: list[Interval], records_by_day: dict[int, int]
) -> None:
    pieces = cut_by_density(windows, records_by_day)
    assert pieces == sorted(pieces, reverse=True)
    # No piece reaches from one window into another, or overlaps one.
    assert sum(each.seconds for each in pieces) == sum(each.seconds for each in windows)
    for window in windows:
        own = clip(pieces, window.since, window.until)
        assert (set(own) <= set(pieces), union(own)) == (True, [window])
        assert all(each.seconds >= LEAST_SECONDS for each in own) or own == [window]
    for each in pieces:
        assert each.seconds <= MOST_SECONDS
        assert each.seconds < 2 * LEAST_SECONDS or expected_of(each, records_by_day) <= MOST_RECORDS


def expected_of(window: Interval, records_by_day: dict[int, int]) -> float:
    """Return how many records of known days a window is expected to have."""
    parts = ((day, clip([window], day * DAY, (day + 1) * DAY - 1)) for day in records_by_day)
    return sum(part.seconds * records_by_day[day] / DAY for day, found in parts for part in found)


def test_the_pieces_of_a_window_have_about_as_many_records() -> None:
    window = Interval(NOW, NOW + 100 * DAY - 1)
    records_by_day = {NOW // DAY + day: 100 + 60 * day for day in range(100)}
    pieces = cut_by_density([window], records_by_day)
    expected = [expected_of(each, records_by_day) for each in pieces]
    # 307,000 records.
    assert len(pieces) == 16
    assert min(expected) == pytest.approx(max(expected), rel=0.05)
    assert pieces[0].seconds < pieces[-1].seconds / 4


def test_windows_that_touch_stay_apart() -> None:
    windows = [Interval(NOW, NOW + 9), Interval(NOW + 10, NOW + 19)]
    assert cut_by_density(windows, {NOW // DAY: 1}) == cut_by_density(windows, {}) == windows[::-1]


def test_without_anything_known_pieces_are_of_a_usual_length() -> None:
    window = Interval(NOW, NOW + 2 * USUAL_SECONDS)
    assert [each.seconds for each in cut_by_density([window], {})] == [USUAL_SECONDS, USUAL_SECONDS + 1]


@example(Interval(0, 30 * DAY), [Interval(5, 5)])
@given(intervals_of(st.integers(0, 90 * DAY)), st.lists(intervals_of(st.integers(0, 90 * DAY)), max_size=5))
def test_what_was_tried_in_vain_is_cut_finer(piece: Interval, windows: list[Interval]) -> None:
    parts = halve([piece], [Attempt(window, 0.0) for window in windows])
    assert (union(parts), sum(each.seconds for each in parts)) == ([piece], piece.seconds)
    times = sum(1 for window in windows if clip([window], *piece))
    # One more, where the length is no multiple.
    assert len(parts) <= 2 ** min(times, 3) + 1
    assert all(part.seconds <= max(piece.seconds / 2 ** min(times, 3), LEAST_SECONDS) + 2 for part in parts)


@example([Interval(0, 4), Interval(5, 9)], [Interval(0, 9)])
@given(st.lists(intervals_of(st.integers(0, 40)), max_size=8), st.lists(intervals_of(st.integers(0, 40)), max_size=8))
def test_what_was_tried_in_vain_is_what_is_not_wholly_proved(proved: list[Interval], windows: list[Interval]) -> None:
    there = seconds_of(proved)
    expected = [each for each in windows if not seconds_of([each]) <= there]
    assert [each.window for each in in_vain([Attempt(window, NOW) for window in windows], proved)] == expected


def test_a_day_that_is_not_known_is_expected_to_be_as_those_around_it() -> None:
    today = NOW // DAY
    window = Interval(NOW, NOW + DAY - 1)
    dense = {today + day: 4 * MOST_RECORDS for day in range(-7, 8)}
    assert len(cut_by_density([window], dense)) == 4
    del dense[today]
    assert len(cut_by_density([window], dense)) == 4
    # Of all that is known, the nearest week counts on each side.
    far = dense | {today + day: 0 for day in (*range(-30, -7), *range(8, 30))}
    assert len(cut_by_density([window], far)) == 4
    assert len(cut_by_density([window], {today - 1: 0, today + 1: 4 * MOST_RECORDS})) == 2
    assert len(cut_by_density([window], {today - 50: 3 * MOST_RECORDS})) == 3


# --- What is missing ---------------------------------------------------------------------------------------------

SECONDS = st.integers(0, 40)
INTERVALS = st.lists(intervals_of(SECONDS), max_size=5)
AGES = st.integers(0, 8 * DAY) | st.sampled_from((0, 899, 900, 3_599, 3_600, 14_399, 14_400, 7 * DAY - 1, 7 * DAY))
ATTEMPTS = st.lists(st.builds(Attempt, intervals_of(SECONDS), AGES.map(lambda age: float(NOW - age))), max_size=9)
WAITS = (0, 900, 3_600, 14_400, 57_600, 230_400)


@given(INTERVALS, SECONDS, SECONDS, st.integers(0, 50), INTERVALS, ATTEMPTS)
def test_missing_is_each_second_that_is_neither_taken_nor_proved_long_ago_nor_waits(
    proved: list[Interval], since: int, until: int, overlap: int, taken: list[Interval], attempts: list[Attempt]
) -> None:
    there = seconds_of(clip(proved, since, until))

    def is_due(second: int) -> bool:
        if second in there:
            return second > max(there) - overlap
        ended = [each.ended_at for each in attempts if second in seconds_of([each.window])]
        wait = WAITS[len(ended)] if len(ended) < len(WAITS) else LONGEST_BACKOFF
        return not ended or max(ended) + wait <= NOW

    found = missing(iter(proved), since, until, overlap, iter(taken), iter(attempts), float(NOW))
    assert seconds_of(found) == {each for each in range(since, until + 1) if is_due(each)} - seconds_of(taken)
    assert union(found) == found
    # Who asks at once finds nothing more.
    assert missing(proved, since, until, overlap, [*taken, *found], attempts, float(NOW)) == []


@given(INTERVALS, INTERVALS, SECONDS, SECONDS, st.integers(0, 50), ATTEMPTS)
def test_a_second_caller_gets_nothing_that_the_first_one_got(
    proved: list[Interval], taken: list[Interval], until: int, later: int, overlap: int, attempts: list[Attempt]
) -> None:
    first = missing(proved, 0, until, overlap, taken, attempts, float(NOW))
    second = missing(proved, 0, until + later, overlap, taken + first, attempts, float(NOW + later))
    assert not seconds_of(first) & seconds_of(second)
    assert not seconds_of(taken) & seconds_of(second)


def test_what_comes_after_a_stretch_that_fails_is_there_at_once() -> None:
    proved = [Interval(NOW - 9 * DAY, NOW - 2 * HOUR)]
    failed = Attempt(Interval(NOW - DAY, NOW - HOUR), NOW - 600.0)
    found = missing(proved, NOW - 9 * DAY, NOW, DAY, [], [failed], NOW)
    overlap, fresh = Interval(NOW - 2 * HOUR - DAY + 1, NOW - 2 * HOUR), Interval(NOW - HOUR + 1, NOW)
    assert found == [overlap, fresh]
    # 15 minutes after its end it is its turn again, and all three touch.
    assert missing(proved, NOW - 9 * DAY, NOW, DAY, [], [failed], NOW + 299) == [overlap, fresh]
    assert missing(proved, NOW - 9 * DAY, NOW, DAY, [], [failed], NOW + 300) == [Interval(overlap.since, NOW)]


def test_nothing_waits_for_longer_than_a_week() -> None:
    window = Interval(NOW - HOUR, NOW)
    for number in (6, 7, 50):
        attempts = [Attempt(window, NOW - 60.0 * each) for each in range(number)]
        assert missing([], *window, 0, [], attempts, NOW + LONGEST_BACKOFF - 1) == []
        assert missing([], *window, 0, [], attempts, NOW + LONGEST_BACKOFF) == [window]


# --- A month -----------------------------------------------------------------------------------------------------


class Month:
    """Thirty days of hourly calls; a job has a few hours at most, and takes some minutes.

    Attributes:
        since: what is looked at begins a week before the first call.
        end: when the last job has ended.
        fails: whether a job fails, by its window and when it begins.
        proved: the windows of jobs that succeeded.
        attempts: the jobs that were in vain so far.
        number: how many jobs there were.
        failed: those that did not succeed.
    """

    longest = 6 * HOUR

    def __init__(self, fails: Callable[[Interval, int], bool]) -> None:
        self.since, self.end = NOW - 7 * DAY, NOW + 30 * DAY
        self.fails = fails
        self.proved: list[Interval] = []
        self.attempts: list[Attempt] = []
        self.number = 0
        self.failed: list[Interval] = []
        for now in range(NOW, self.end + 1, HOUR):
            self._crawl(now)

    def _crawl(self, now: int) -> None:
        windows = missing(self.proved, self.since, now, DAY, [], self.attempts, float(now))
        pieces = [piece for window in windows for piece in cut(window, self.longest)]
        for piece in halve(pieces, self.attempts):
            self.number += 1
            self.attempts.append(Attempt(piece, now + 300.0))
            if self.fails(piece, now):
                self.failed.append(piece)
            else:
                self.proved = union([*self.proved, piece])
        self.attempts = in_vain(self.attempts, self.proved)

    @property
    def gaps(self) -> list[Interval]:
        """What is missing at the end."""
        return gaps(self.proved, self.since, self.end)


def touches(one: Interval, other: Interval) -> bool:
    """Return whether two intervals have a second in common."""
    return bool(clip([one], *other))


def test_an_api_that_always_succeeds_leaves_no_gap() -> None:
    month = Month(lambda _window, _now: False)
    assert month.gaps == []
    # A week at once, then the overlap of a day and an hour, in five pieces.
    assert month.number == 28 + 720 * 5


@settings(max_examples=10)
@example(-3 * DAY, 1)
@example(DAY, 1)
@example(20 * DAY, 12 * HOUR)
@given(st.integers(-7 * DAY, 28 * DAY), st.integers(1, 12 * HOUR))
def test_a_stretch_that_always_fails_is_tried_rarely_and_all_else_is_proved(after: int, seconds: int) -> None:
    broken = Interval(NOW + after, NOW + after + seconds - 1)
    month = Month(lambda window, _now: touches(window, broken))
    around = Interval(broken.since - 2 * HOUR, broken.until + 2 * HOUR)
    assert month.gaps
    assert all(clip([gap], *around) == [gap] for gap in month.gaps)
    # Of 720 calls. Nine times each piece of what fails at first, fewer of what remains.
    assert len(month.failed) <= 9 * (seconds // HOUR + 3)


@settings(max_examples=10)
@example(DAY, 3 * DAY)
@given(st.integers(0, 20 * DAY), st.integers(1, 3 * DAY))
def test_after_an_outage_all_is_proved(after: int, seconds: int) -> None:
    outage = range(NOW + after, NOW + after + seconds)
    month = Month(lambda _window, now: now in outage)
    assert month.gaps == []
