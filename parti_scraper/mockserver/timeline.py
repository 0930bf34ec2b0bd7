"""Which streams are live: they start and end as the simulated clock runs, the same for the same options."""

from __future__ import annotations

import math
from heapq import heappush
from typing import TYPE_CHECKING

from parti_scraper.mockserver.history import Stream, choose_category, choose_viewers, rng

if TYPE_CHECKING:
    from parti_scraper.mockserver.history import History
    from parti_scraper.mockserver.options import Options


class Timeline:
    """Generates the streams that start and end, up to the time that was asked for.

    For each stream that starts another one ends, so their number stays the same. Of two random streams the younger
    ends: most new streams end after minutes, and the others last for hours.

    Attributes:
        streams: every stream so far, by start.
        ends: the streams that have an end, as a heap of (end, event id, stream).
        used: every event id so far; new streams get others.
    """

    def __init__(self, options: Options, history: History, now: float) -> None:
        self.streams = list(history.on_air)
        self.ends: list[tuple[int, int, Stream]] = []
        self.used = {event.event_id for event in history.events} | {stream.event_id for stream in history.on_air}
        self._options = options
        self._channels = history.channels
        self._rng = rng(options.seed, "timeline")
        self._staying = list(history.on_air)
        self._busy = {stream.channel for stream in history.on_air}
        # When each channel's last stream since the start of the clock ended.
        self._rested: dict[int, int] = {}
        self._last_id = history.last_id
        self._next = now + self._interval()
        # A stream lasts a minute at least, or less if they start so often that it must.
        self._shortest = min(60, int(options.live * options.start_every / 4))

    @property
    def next_start(self) -> float:
        """When the first stream starts that is not in `streams` yet; infinite if none does."""
        return math.ceil(self._next) if math.isfinite(self._next) else math.inf

    def extend(self, until: float) -> None:
        """Make sure that every start and end up to `until` is known."""
        while self._next <= until:
            self._start(math.ceil(self._next))
            self._end_some(self._next)
            self._next += self._interval()

    def _interval(self) -> float:
        options = self._options
        if not options.live or not options.start_every:
            return math.inf
        return options.start_every * self._rng.uniform(0.5, 1.5)

    def _start(self, time: int) -> None:
        index = self._channel(time)
        channel = self._channels[index]
        self._last_id += self._rng.randrange(1, 4)
        while self._last_id in self.used:
            self._last_id += 1
        self.used.add(self._last_id)
        category_id = choose_category(self._rng, channel, self._options.uncategorized)
        stream = Stream(self._last_id, time, index, category_id, choose_viewers(self._rng, channel))
        self.streams.append(stream)
        self._staying.append(stream)
        self._busy.add(index)

    def _channel(self, time: int) -> int:
        """Return a channel that is not live, if possible since a minute or more."""
        for attempt in range(1_000):
            index = self._rng.randrange(len(self._channels))
            pause = 60 if attempt < 50 else 0
            if index not in self._busy and self._rested.get(index, 0) + pause <= time:
                return index
        return next(index for index in range(len(self._channels)) if index not in self._busy)

    def _end_some(self, time: float) -> None:
        """End the streams that are too many, each shortly after `time`."""
        while len(self._staying) > self._options.live:
            end = math.ceil(time + self._options.start_every * self._rng.random())
            place = self._leaving(end)
            stream = self._staying[place]
            self._staying[place] = self._staying[-1]
            self._staying.pop()
            stream.end = max(end, stream.start + 1)
            heappush(self.ends, (stream.end, stream.event_id, stream))
            self._busy.discard(stream.channel)
            self._rested[stream.channel] = stream.end

    def _leaving(self, end: int) -> int:
        """Return the place of a stream to end at `end`: the younger of two, unless it would be too short."""
        for _ in range(20):
            one, other = (self._rng.randrange(len(self._staying)) for _ in range(2))
            place = max(one, other, key=self._start_at)
            if end - self._start_at(place) >= max(1, self._shortest):
                return place
        return min(range(len(self._staying)), key=self._start_at)

    def _start_at(self, place: int) -> int:
        return self._staying[place].start
