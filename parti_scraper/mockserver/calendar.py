"""The announced livestreams: they depend only on the options and the start of the clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from parti_scraper.mockserver.history import DAY, choose_category, mix, rng

if TYPE_CHECKING:
    from parti_scraper.mockserver.history import Channel
    from parti_scraper.mockserver.options import Options
    from parti_scraper.mockserver.query import Page

# Far above the ids of other livestreams, which grow with their start.
_FIRST_ID = 100_000_000
_HALF_HOUR = 1_800
# Starts lie up to eighteen months ahead.
_AHEAD = 540 * DAY


class ScheduledEvent(NamedTuple):
    """An announced livestream. The first two fields are its place in the order of the route."""

    start: int
    event_id: int
    end: int
    channel: int
    category_id: int


class Calendar:
    """Announced livestreams by start, the next one first; one that has begun is no longer in it.

    Most begin at a full or half hour, many in the same one.
    """

    def __init__(self, options: Options, channels: list[Channel], now: float) -> None:
        generator = rng(options.seed, "calendar")
        first = int(now) // _HALF_HOUR + 2
        events = []
        for number in range(options.scheduled):
            # The nearer, the more there are.
            start = (first + int(generator.random() ** 4 * _AHEAD / _HALF_HOUR)) * _HALF_HOUR
            channel = generator.randrange(len(channels))
            category_id = choose_category(generator, channels[channel], options.uncategorized)
            length = generator.randrange(1, 13) * _HALF_HOUR
            events.append(ScheduledEvent(start, _FIRST_ID + 3 * number, start + length, channel, category_id))
        self._events = sorted(events)
        begin = int(options.hidden_at * len(events))
        self._hidden = {event.event_id for event in self._events[begin : begin + options.hidden]}
        self._is_stable = options.tie_order == "stable"
        self._turns = 0

    def at(self, time: float) -> list[ScheduledEvent]:
        """Return what the route serves at a time, in its order."""
        return self._served([event for event in self._events if event.start > time])

    def page(self, page: Page, time: float) -> list[ScheduledEvent]:
        """Return a page of the route at a time, and count it as a request."""
        self._turns += 1
        events = [event for event in self._events if event.start > time]
        if not self._is_stable:
            events.sort(key=lambda event: (event.start, mix(self._turns, event.event_id)))
        return self._served(events[page.offset : page.offset + page.limit])

    def _served(self, events: list[ScheduledEvent]) -> list[ScheduledEvent]:
        return [event for event in events if event.event_id not in self._hidden]
