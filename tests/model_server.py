"""The recent and live routes in a few lines of memory, as awkward as the contract allows."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from parti_scraper.paging import Key, Page

NOW = 1_800_000_000


@dataclass
class ModelServer:
    """A set of livestreams (id, start, end) that may change before any request is answered."""

    events: dict[int, tuple[int, int]]
    cap: int = 100
    above_cap: str = "clamp"
    offset: str = "honored"
    time_filter: str = "end"
    bounds: str = "closed"
    tie_order: str = "stable"
    timeless: bool = False
    unreadable: frozenset[int] = frozenset()
    change_every: int = 0
    by_chance: random.Random = field(default_factory=lambda: random.Random(1))
    requests: int = 0
    deleted: set[int] = field(default_factory=set)
    inserted: set[int] = field(default_factory=set)

    def answer(self, from_ts: int, to_ts: int, offset: int, limit: int) -> Page | int:
        """Return a page, or the status of a refusal."""
        self.requests += 1
        if self.change_every and self.requests % self.change_every == 0:
            self.change()
        if self.above_cap == "refuse" and limit > self.cap:
            return 400
        listed = sorted(
            (-end, self._tie(number), number)
            for number, (start, end) in self.events.items()
            if self._in_window(start, end, from_ts, to_ts)
        )
        first = 0 if self.offset == "ignored" else offset
        size = self.cap if self.above_cap == "ignore" else min(limit, self.cap)
        chosen = listed[first : first + size]
        return Page(
            [
                None if number in self.unreadable else Key(number, None if self.timeless else -end)
                for end, _, number in chosen
            ]
        )

    def change(self) -> None:
        """Delete a livestream, or the next time let another appear, anywhere."""
        if len(self.deleted) <= len(self.inserted):
            victim = self.by_chance.choice(sorted(self.events))
            del self.events[victim]
            self.deleted.add(victim)
            return
        number = 1_000_000 + self.requests
        end = self.by_chance.choice(sorted(self.events.values()))[1] + self.by_chance.randrange(-50, 50)
        self.events[number] = (end - self.by_chance.randrange(1, 5_000), end)
        self.inserted.add(number)

    def _tie(self, number: int) -> int:
        return number if self.tie_order == "stable" else hash((number, self.requests))

    def _in_window(self, start: int, end: int, from_ts: int, to_ts: int) -> bool:
        if self.time_filter == "ignored":
            return True
        ts = end if self.time_filter == "end" else start
        return from_ts <= ts <= to_ts if self.bounds == "closed" else from_ts < ts < to_ts


def history(
    count: int, by_chance: random.Random, *, ties: float = 0.1, span: int = 50_000_000
) -> dict[int, tuple[int, int]]:
    """Return so many livestreams, some of which end in the same second as others."""
    ends: list[int] = []
    while len(ends) < count:
        tied = ends and by_chance.random() < ties
        ends.append(ends[-1] if tied else NOW - by_chance.randrange(1, span))
    return {number: (end - by_chance.randrange(60, 40_000), end) for number, end in enumerate(ends, 1)}
