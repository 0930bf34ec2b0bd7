"""The ended livestreams in order, to find a page of any window, category or channel quickly."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from parti_scraper.mockserver.query import RecentQuery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from parti_scraper.mockserver.history import Channel, Event
    from parti_scraper.mockserver.query import Page

# Lists of earlier queries, kept up to date; a crawl sends few queries, each many times.
_MAX_KEPT = 64
_BY_DATE = attrgetter("end", "event_id")
_BY_VIEWS = attrgetter("viewers", "event_id")


class Index:
    """The set of ended livestreams. Its lists are in ascending order.

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
        self._longest = max((event.end - event.start for event in events), default=0)
        self._kept: dict[RecentQuery, list[Event]] = {}

    def add(self, event: Event) -> None:
        """Add a livestream."""
        self.by_id[event.event_id] = event
        self._longest = max(self._longest, event.end - event.start)
        for events in self._lists_of(event):
            insort(events, event)
        for query, events in self._kept_with(event):
            insort(events, event, key=_order(query))

    def remove(self, event_id: int) -> Event:
        """Remove a livestream and return it. Raises KeyError if there is none of this id."""
        event = self.by_id.pop(event_id)
        for events in self._lists_of(event):
            del events[bisect_left(events, event)]
        for query, events in self._kept_with(event):
            order = _order(query)
            del events[bisect_left(events, order(event), key=order)]
        return event

    def page(self, query: RecentQuery, page: Page, turn: int | None) -> list[Event]:
        """Return a page of a query.

        Args:
            query: which livestreams, and in what order.
            page: which of them.
            turn: changes the order of those with equal sort keys; None: their order is stable.
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
            key = attrgetter("viewers" if query.by_views else "end")
            chosen = _turned(events, (low, high), (first, last), key, turn)
        return chosen if query.ascending and not query.by_views else chosen[::-1]

    def count(self, query: RecentQuery) -> int:
        """Return how many livestreams match a query."""
        _, low, high = self._view(query)
        return high - low

    def _lists_of(self, event: Event) -> Iterable[list[Event]]:
        yield self.events
        yield self._by_category.setdefault(event.category_id, [])
        yield self._by_user.setdefault(self._channels[event.channel].user_id, [])

    def _kept_with(self, event: Event) -> Iterable[tuple[RecentQuery, list[Event]]]:
        """Yield the kept lists that a livestream belongs to."""
        user_id = self._channels[event.channel].user_id
        for query, events in self._kept.items():
            time = event.start if query.by_start else event.end
            if (
                query.low <= time < query.high
                and (query.categories is None or event.category_id in query.categories)
                and query.user_id in {None, user_id}
            ):
                yield query, events

    def _view(self, query: RecentQuery) -> tuple[list[Event], int, int]:
        """Return a list, and the part of it that matches the query."""
        if query.by_views:
            by_date = replace(query, by_views=False, ascending=False)
            part = self._keep(replace(query, ascending=False), lambda: sorted(self._part(by_date), key=_BY_VIEWS))
            return part, 0, len(part)
        if query.by_start:
            part = self._part(query)
            return part, 0, len(part)
        events = self._pool(query)
        return events, *_between(events, query.low, query.high)

    def _part(self, query: RecentQuery) -> list[Event]:
        """Return the livestreams that match a query, by date."""
        events = self._pool(query)
        if not query.by_start:
            first, last = _between(events, query.low, query.high)
            return events[first:last]
        # What started in the window ended in it, or soon after it. Only the two edges need a look at each start.
        first, last = _between(events, query.low, query.high + self._longest + 1)
        inner, outer = _between(events, query.low + self._longest, query.high)
        outer = max(inner, outer)
        return [
            *(event for event in events[first:inner] if query.low <= event.start < query.high),
            *events[inner:outer],
            *(event for event in events[outer:last] if query.low <= event.start < query.high),
        ]

    def _pool(self, query: RecentQuery) -> list[Event]:
        """Return all livestreams of the categories and the channel of a query, by date."""
        categories = query.categories
        if query.user_id is not None:
            events = self._by_user.get(query.user_id, [])
            return events if categories is None else [each for each in events if each.category_id in categories]
        if categories is None:
            return self.events
        lists = [self._by_category[each] for each in sorted(categories) if each in self._by_category]
        if len(lists) < 2:
            return lists[0] if lists else []
        return self._keep(
            RecentQuery(categories=categories), lambda: sorted(each for events in lists for each in events)
        )

    def _keep(self, query: RecentQuery, make: Callable[[], list[Event]]) -> list[Event]:
        events = self._kept.get(query)
        if events is None:
            events = make()
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            self._kept[query] = events
        return events


def _between(events: list[Event], low: int, high: int) -> tuple[int, int]:
    """Return the part of a list by date that ended from `low` to `high`, `high` excluded."""
    # A tuple is less than any longer one that begins with it.
    first, last = bisect_left(events, (low,)), bisect_left(events, (high,))
    return first, max(first, last)


def _order(query: RecentQuery) -> Callable[[Event], tuple[int, int]]:
    return _BY_VIEWS if query.by_views else _BY_DATE


def _turned(
    events: list[Event], whole: tuple[int, int], part: tuple[int, int], key: Callable[[Event], int], turn: int
) -> list[Event]:
    """Return the part with every group of equal keys rotated; a group may reach beyond the part."""
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
