"""The ended livestreams, kept in order, so that a page of any window, category or channel is found at once."""

from __future__ import annotations

from bisect import bisect_left, insort
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from parti_scraper.mockserver.history import Channel, Event
    from parti_scraper.mockserver.query import Page, RecentQuery

# Orders that were asked for and are kept until the set changes; a crawl asks for few, each many times.
_MAX_KEPT = 64


class Index:
    """The set of ended livestreams. Lists are in ascending order and read from their ends.

    Attributes:
        events: every livestream, by end and then id.
        by_id: the same by event id.
    """

    def __init__(self, events: list[Event], channels: list[Channel]) -> None:
        self.events = events
        self.by_id = {event.event_id: event for event in events}
        self._channels = channels
        self._by_category: dict[int, list[Event]] = {}
        self._by_user: dict[int, list[Event]] = {}
        for event in events:
            self._by_category.setdefault(event.category_id, []).append(event)
            self._by_user.setdefault(channels[event.channel].user_id, []).append(event)
        self._kept: dict[object, list[Event]] = {}

    def add(self, event: Event) -> None:
        """Put one more livestream in its place."""
        self.by_id[event.event_id] = event
        for events in self._lists_of(event):
            insort(events, event)
        self._kept.clear()

    def remove(self, event_id: int) -> Event:
        """Take a livestream out. Raises KeyError where it is not in."""
        event = self.by_id.pop(event_id)
        for events in self._lists_of(event):
            del events[bisect_left(events, event)]
        self._kept.clear()
        return event

    def page(self, query: RecentQuery, page: Page, turn: int | None) -> list[Event]:
        """Return a page in the order asked for.

        Args:
            query: which livestreams, and in what order.
            page: which of those.
            turn: None for a stable order; else a number that changes the order of those that share a sort key.
        """
        events, low, high = self._view(query)
        if query.ascending and not query.by_views:
            first = min(low + page.offset, high)
            last = min(first + page.limit, high)
        else:
            last = max(high - page.offset, low)
            first = max(last - page.limit, low)
        if turn is None or first == last:
            chosen = events[first:last]
        else:
            chosen = _turned(events, (low, high), (first, last), _viewers if query.by_views else _end, turn)
        return chosen if query.ascending and not query.by_views else chosen[::-1]

    def _lists_of(self, event: Event) -> Iterable[list[Event]]:
        yield self.events
        yield self._by_category.setdefault(event.category_id, [])
        yield self._by_user.setdefault(self._channels[event.channel].user_id, [])

    def _view(self, query: RecentQuery) -> tuple[list[Event], int, int]:
        """Return a list and the part of it that the query is about."""
        events = self._pool(query.categories, query.user_id)
        if query.by_start:
            key = (query.categories, query.user_id, query.low, query.high)
            low, high = query.low, query.high
            events = self._keep(key, lambda: [event for event in events if low <= event.start < high])
            first, last = 0, len(events)
        else:
            # A tuple that is a beginning of another is less than it.
            first, last = bisect_left(events, (query.low,)), bisect_left(events, (query.high,))
            last = max(first, last)
        if not query.by_views:
            return events, first, last
        part = self._keep(query, lambda: sorted(events[first:last], key=_by_views))
        return part, 0, len(part)

    def _pool(self, categories: frozenset[int] | None, user_id: int | None) -> list[Event]:
        """Return all livestreams of some categories and a channel, by date."""
        if user_id is not None:
            events = self._by_user.get(user_id, [])
            return events if categories is None else [each for each in events if each.category_id in categories]
        if categories is None:
            return self.events
        lists = [self._by_category[each] for each in sorted(categories) if each in self._by_category]
        if len(lists) < 2:
            return lists[0] if lists else []
        return self._keep(categories, lambda: sorted(each for events in lists for each in events))

    def _keep(self, key: object, make: Callable[[], list[Event]]) -> list[Event]:
        kept = self._kept.get(key)
        if kept is None:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            kept = self._kept[key] = make()
        return kept


def _end(event: Event) -> int:
    return event.end


def _viewers(event: Event) -> int:
    return event.viewers


def _by_views(event: Event) -> tuple[int, int]:
    return event.viewers, event.event_id


def _turned(
    events: list[Event],
    whole: tuple[int, int],
    part: tuple[int, int],
    key: Callable[[Event], int],
    turn: int,
) -> list[Event]:
    """Return the part after every group of equal keys was rotated, those that cross its borders included."""
    first, last = part
    while first > whole[0] and key(events[first - 1]) == key(events[first]):
        first -= 1
    while last < whole[1] and key(events[last - 1]) == key(events[last]):
        last += 1
    turned: list[Event] = []
    for _, group in groupby(events[first:last], key):
        members = list(group)
        shift = turn % len(members)
        turned += members[shift:] + members[:shift]
    return turned[part[0] - first : part[1] - first]
