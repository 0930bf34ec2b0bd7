"""A small model of the recent and live routes, with all the difficulties that the specification allows."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from operator import itemgetter

from parti_scraper.plan.plan import Key, Page

NOW = 1_800_000_000

# Of a livestream: the end, negative so that the latest is first; the id; the start.
Listed = tuple[int, int, int]


@dataclass
class ModelServer:
    """A set of livestreams (id, start, end) that may change before each answer."""

    events: dict[int, tuple[int, int]]
    cap: int = 100
    above_cap: str = "clamp"
    offset: str = "honored"
    time_filter: str = "end"
    bounds: str = "closed"
    tie_order: str = "stable"
    timeless: bool = False
    unreadable: frozenset[int] = frozenset()
    # Left out of pages; without an end, at the head or the tail of every list.
    hidden: frozenset[int] = frozenset()
    undated: frozenset[int] = frozenset()
    nulls: str = "first"
    ascending: str = "ignored"
    # Times [from, until) of the model's clock: pages of at most that many records, or failures.
    short: tuple[tuple[float, float, int], ...] = ()
    # The same for single requests, by their number.
    short_at: dict[int, int] = field(default_factory=dict)
    # A request with an earlier `to_ts` gets no records.
    mute_before: int = 0
    change_every: int = 0
    by_chance: random.Random = field(default_factory=lambda: random.Random(1))
    requests: int = 0
    clock: float = 0.0
    deleted: set[int] = field(default_factory=set)
    inserted: set[int] = field(default_factory=set)
    _listed: list[Listed] = field(init=False)

    def __post_init__(self) -> None:
        """List them, latest end first."""
        listed = ((-end, number, start) for number, (start, end) in self.events.items())
        self._listed = sorted(each for each in listed if each[1] not in self.undated)

    def answer(
        self, from_ts: int, to_ts: int, offset: int, limit: int, wait: float = 0.0, *, ascending: bool = False
    ) -> Page | int:
        """Return a page, or the status of a refusal, after a wait of so many seconds."""
        self.requests += 1
        self.clock += wait + 0.01
        if self.change_every and self.requests % self.change_every == 0:
            self.change()
        if self.above_cap == "refuse" and limit > self.cap:
            return 400
        if ascending and self.ascending == "refused":
            return 422
        if to_ts < self.mute_before:
            return Page([])
        listed = self._in_window(from_ts, to_ts)
        if ascending and self.ascending == "honored":
            listed = listed[::-1]
        first = 0 if self.offset == "ignored" else offset
        size = self.cap if self.above_cap == "ignore" else min(limit, self.cap)
        undated = [(0, number, 0) for number in sorted(self.undated & self.events.keys())]
        if self.nulls == "first":
            chosen = undated[first : first + size]
            left = size - len(chosen)
            above = max(first - len(undated), 0)
            chosen += self._in_turn(listed, above, above + left) if left else []
        else:
            chosen = self._in_turn(listed, first, first + size)
            above = max(first - len(listed), 0)
            chosen += undated[above : above + size - len(chosen)]
        keys = [self._key(end, number) for end, number, _ in chosen if number not in self.hidden]
        return Page(keys[: self._most()])

    def _key(self, end: int, number: int) -> Key | None:
        if number in self.unreadable:
            return None
        return Key(number, None if self.timeless or number in self.undated else -end)

    def _most(self) -> int | None:
        """Return how many records a page has at most at this time."""
        moments = [most for low, high, most in self.short if low <= self.clock < high]
        return min(
            [*moments, *([self.short_at[self.requests]] if self.requests in self.short_at else [])], default=None
        )

    def change(self) -> None:
        """Delete a livestream, and the next time insert another one, anywhere."""
        if len(self.deleted) <= len(self.inserted):
            victim = self.by_chance.choice(sorted(self.events))
            start, end = self.events.pop(victim)
            if victim not in self.undated:
                self._listed.remove((-end, victim, start))
            self.deleted.add(victim)
            return
        number = 1_000_000 + self.requests
        end = self.by_chance.choice(sorted(self.events.values()))[1] + self.by_chance.randrange(-50, 50)
        start = end - self.by_chance.randrange(1, 5_000)
        self.events[number] = (start, end)
        insort(self._listed, (-end, number, start))
        self.inserted.add(number)

    def _in_window(self, from_ts: int, to_ts: int) -> list[Listed]:
        if self.time_filter == "ignored":
            return self._listed
        if self.bounds == "open":
            from_ts, to_ts = from_ts + 1, to_ts - 1
        if self.time_filter == "start":
            return [each for each in self._listed if from_ts <= each[2] <= to_ts]
        first = bisect_left(self._listed, -to_ts, key=itemgetter(0))
        return self._listed[first : bisect_right(self._listed, -from_ts, key=itemgetter(0))]

    def _in_turn(self, listed: list[Listed], first: int, last: int) -> list[Listed]:
        """Return a slice of a list in which ties are in the order of this request."""
        chosen = listed[first:last]
        if not chosen or self.tie_order == "stable" or chosen[0] > chosen[-1]:
            return chosen
        low = bisect_left(listed, chosen[0][0], key=itemgetter(0))
        high = bisect_right(listed, chosen[-1][0], key=itemgetter(0))
        return sorted(listed[low:high], key=self._turn)[first - low : last - low]

    def _turn(self, each: Listed) -> tuple[int, int]:
        return each[0], hash((each[1], self.requests))


def history(
    count: int, by_chance: random.Random, *, ties: float = 0.1, span: int = 50_000_000
) -> dict[int, tuple[int, int]]:
    """Return so many livestreams, some of which end in the same second as others."""
    ends: list[int] = []
    while len(ends) < count:
        tied = ends and by_chance.random() < ties
        ends.append(ends[-1] if tied else NOW - by_chance.randrange(1, span))
    return {number: (end - by_chance.randrange(60, 40_000), end) for number, end in enumerate(ends, 1)}
