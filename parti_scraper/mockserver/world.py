"""The synthetic world that the mock server serves: the ground truth, with its own clock, without network."""

from __future__ import annotations

import math
import threading
import time as real_time
from collections import Counter
from heapq import heappop
from typing import TYPE_CHECKING

from parti_scraper.mockserver.calendar import Calendar
from parti_scraper.mockserver.history import Event, Stream, build_history, choose_category, choose_viewers, mix, rng
from parti_scraper.mockserver.index import Index
from parti_scraper.mockserver.malformed import malformation
from parti_scraper.mockserver.options import EARLIEST, Options, instant_seconds
from parti_scraper.mockserver.query import Page, RecentQuery
from parti_scraper.mockserver.records import Record, RecordMaker, category_records
from parti_scraper.mockserver.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class World:
    """Channels with their ended and live streams; thread-safe.

    Every answer depends on the simulated clock, which starts at `--now` and runs at `--speed`. Records are dicts with
    the fields of the specification; `--malformed` does not change them here.

    The class is large because each answer needs history and live channels at the same moment.

    Attributes:
        options: of the server.
        started_at: where the simulated clock started, in Unix seconds.
        listeners: called without arguments after `advance`.
    """

    def __init__(self, options: Options = Options()) -> None:  # noqa: B008 - immutable
        self.options = options
        self.started_at = instant_seconds(options.now) if options.now else real_time.time()
        self.listeners: list[Callable[[], None]] = []
        self._lock = threading.RLock()
        self._zero = real_time.monotonic()
        self._moved = 0.0
        history = build_history(options, int(self.started_at))
        self._channels = history.channels
        self._records = RecordMaker(options, history.channels)
        # These are in every window of time.
        self._undated = [each for each in history.events if self._records.is_undated(each.event_id)]
        dated = [each for each in history.events if not self._records.is_undated(each.event_id)]
        self._index = Index(dated, history.channels)
        self._timeline = Timeline(options, history, self.started_at)
        # How many streams of the timeline have started; those that have not ended are on air.
        self._started = 0
        self._on_air: dict[int, Stream] = {}
        self._calendar = Calendar(options, history.channels, self.started_at)
        self._churn = rng(options.seed, "churn")
        self._inserted: dict[int, float] = {}
        self._deleted: list[tuple[Event, float]] = []
        # What was added to the recent set since the first request for it; None before.
        self._newcomers: set[int] | None = None
        self._turns: Counter[str] = Counter()
        self._settle()
        # Left out of every page.
        self._hidden = self._stretch([event.event_id for event in reversed(self._index.events)])
        ranked = self._ranked(self._on_air.values(), self.started_at)
        self._hidden |= self._stretch([stream.event_id for stream in ranked])

    # --- The clock -----------------------------------------------------------------------------------------

    def now(self) -> float:
        """Return the simulated time in Unix seconds."""
        with self._lock:
            return self.started_at + self._moved + (real_time.monotonic() - self._zero) * self.options.speed

    def advance(self, seconds: float) -> float:
        """Move the simulated clock forward, and send the notifications that are due. Returns the new time."""
        if seconds < 0:
            raise ValueError("the clock does not run backwards")
        with self._lock:
            self._moved += seconds
            now = self._settle()
        for listener in list(self.listeners):
            listener()
        return now

    # --- Ground truth --------------------------------------------------------------------------------------

    def categories(self) -> list[Record]:
        """Return the records of the categories route."""
        return category_records()

    def recent_at(self, time: float | None = None) -> list[Record]:
        """Return the livestreams that have ended at a time (default: now), in the order of the route by date."""
        with self._lock:
            time = self._settle() if time is None else time
            self._timeline.extend(time)
            events = [event for event in self._index.events if event.end <= time]
            events += [event for event, deleted_at in self._deleted if event.end <= time < deleted_at]
            events = [each for each in events if self._inserted.get(each.event_id, 0) <= time]
            events += [self._event_of(stream) for end, _, stream in self._timeline.ends if end <= time]
            events = sorted(self._undated, reverse=True) + sorted(events, reverse=True)
            return [self._records.recent(event) for event in events if event.event_id not in self._hidden]

    def live_at(self, time: float | None = None) -> list[Record]:
        """Return the live channels at a time not before the clock's start (default: now), most viewers first."""
        with self._lock:
            time = self._settle() if time is None else time
            self._timeline.extend(time)
            streams = [
                stream
                for stream in self._timeline.streams
                if stream.start <= time and (stream.end is None or time < stream.end)
            ]
            ranked = self._ranked(streams, time)
            return [self._records.live(stream, time) for stream in ranked if stream.event_id not in self._hidden]

    def scheduled_at(self, time: float | None = None) -> list[Record]:
        """Return the announced livestreams at a time (default: now), in the order of the route."""
        return [self._records.scheduled(event) for event in self._calendar.at(self.now() if time is None else time)]

    def notifications_between(self, after: float, until: float) -> list[Record]:
        """Return the notifications of the streams that start in (after, until]."""
        with self._lock:
            self._timeline.extend(until)
            streams = [stream for stream in self._timeline.streams if after < stream.start <= until]
            return [self._records.notification(stream) for stream in streams]

    def existed_throughout(self) -> set[int]:
        """Return the ids of livestreams in the recent set that were in it at the first recent request too."""
        with self._lock:
            self._settle()
            undated = {event.event_id for event in self._undated}
            return (set(self._index.by_id) | undated) - (self._newcomers or set()) - self._hidden

    @property
    def malformed_ids(self) -> set[int]:
        """The ids of livestreams, ended or live, whose records cannot be identified."""
        return {event_id for event_id in self._ids() if self._repairable(event_id) is False}

    @property
    def odd_ids(self) -> set[int]:
        """The ids of livestreams, ended or live, whose records are odd but can be identified."""
        return {event_id for event_id in self._ids() if self._repairable(event_id)}

    def lost_fields(self, event_id: int, route: str = "recent") -> frozenset[str]:
        """Return the fields of an odd record whose value cannot be read."""
        found = malformation(self.options, event_id, route)
        return found.lost if found else frozenset()

    # --- Changes -------------------------------------------------------------------------------------------

    def insert_now(self, end: int | None = None) -> Record:
        """Add an ended livestream, like a recording that is published late, and return its record.

        Args:
            end: when it ended; None: at random, as dense as the history.
        """
        with self._lock:
            now = self._settle()
            index = self._churn.randrange(len(self._channels))
            channel = self._channels[index]
            end = self._some_end(int(now)) if end is None else end
            start = max(end - self._churn.randrange(600, 20_000), EARLIEST)
            category_id = choose_category(self._churn, channel, self.options.uncategorized)
            viewers = choose_viewers(self._churn, channel)
            event = Event(end, self._free_id(start), start, index, category_id, viewers)
            self._timeline.used.add(event.event_id)
            self._inserted[event.event_id] = now
            self._add(event)
            return self._records.recent(event)

    def delete_now(self, event_id: int | None = None) -> int | None:
        """Delete a livestream from the recent set, without an id a random one.

        Returns:
            Its id; None if the set is empty.

        Raises:
            KeyError: the set has none of this id.
        """
        with self._lock:
            now = self._settle()
            if event_id is None:
                if not self._index.events:
                    return None
                event_id = self._churn.choice(self._index.events).event_id
            self._deleted.append((self._index.remove(event_id), now))
            return event_id

    def change_now(self, event_id: int) -> None:
        """Give a livestream of the recent set one more viewer. Raises KeyError if the set has none of this id."""
        with self._lock:
            now = self._settle()
            event = self._index.remove(event_id)
            self._deleted.append((event, now))
            self._inserted[event_id] = now
            self._index.add(event._replace(viewers=event.viewers + 1))

    # --- For the server ------------------------------------------------------------------------------------

    def recent_page(self, query: RecentQuery, page: Page) -> list[bytes]:
        """Return the records of a page of the recent route, and count it as a request."""
        with self._lock:
            self._settle()
            if self._newcomers is None:
                self._newcomers = set()
            events = self._page_with_undated(query, page, self._turn("recent"))
            encoded = [self._records.recent_json(event) for event in events if event.event_id not in self._hidden]
            self._churn_after(self._turns["recent"])
            return encoded

    def live_page(self, categories: frozenset[int] | None, page: Page) -> list[bytes]:
        """Return the records of a page of the live route."""
        with self._lock:
            now = self._settle()
            streams = [each for each in self._on_air.values() if categories is None or each.category_id in categories]
            ranked = self._ranked(streams, now, self._turn("live"))[page.offset : page.offset + page.limit]
            return [self._records.live_json(stream, now) for stream in ranked if stream.event_id not in self._hidden]

    def scheduled_page(self, page: Page) -> list[bytes]:
        """Return the records of a page of the route of scheduled livestreams."""
        with self._lock:
            return [self._records.scheduled_json(event) for event in self._calendar.page(page, self.now())]

    def started_count(self) -> int:
        """Return how many streams of the timeline have started so far."""
        with self._lock:
            self._settle()
            return self._started

    def started(self, place: int) -> list[Stream]:
        """Return the streams that have started so far, from number `place` on."""
        with self._lock:
            self._settle()
            return self._timeline.streams[place : self._started]

    def seconds_to_next_start(self) -> float:
        """Return the real seconds until the next stream starts; infinite if the clock does not run."""
        with self._lock:
            now = self._settle()
            streams = self._timeline.streams
            following = streams[self._started].start if self._started < len(streams) else self._timeline.next_start
            return (following - now) / self.options.speed if self.options.speed else math.inf

    def notification(self, stream: Stream) -> Record:
        """Return the notification that this stream starts."""
        return self._records.notification(stream)

    # --- Inside --------------------------------------------------------------------------------------------

    def _settle(self) -> float:
        """Start and end the streams that are due, and return the time."""
        now = self.now()
        self._timeline.extend(now)
        streams = self._timeline.streams
        while self._started < len(streams) and streams[self._started].start <= now:
            self._on_air[streams[self._started].event_id] = streams[self._started]
            self._started += 1
        while self._timeline.ends and self._timeline.ends[0][0] <= now:
            _, event_id, stream = heappop(self._timeline.ends)
            del self._on_air[event_id]
            self._add(self._event_of(stream))
        return now

    def _page_with_undated(self, query: RecentQuery, page: Page, turn: int | None) -> list[Event]:
        """Return a page of a list that has the livestreams without an end at its head or tail."""
        undated = [
            event
            for event in self._undated
            if (query.categories is None or event.category_id in query.categories)
            and query.user_id in {None, self._channels[event.channel].user_id}
        ]
        if not undated:
            return self._index.page(query, page, turn)
        last = page.offset + page.limit
        if self.options.nulls == "first":
            chosen = undated[page.offset : last]
            rest = Page(max(page.offset - len(undated), 0), page.limit - len(chosen))
            return chosen + self._index.page(query, rest, turn)
        count = self._index.count(query)
        chosen = self._index.page(query, page, turn)
        return chosen + undated[max(page.offset - count, 0) : max(last - count, 0)]

    def _stretch(self, ids: list[int]) -> set[int]:
        first = int(self.options.hidden_at * len(ids))
        return set(ids[first : first + self.options.hidden])

    def _add(self, event: Event) -> None:
        self._index.add(event)
        if self._newcomers is not None:
            self._newcomers.add(event.event_id)

    def _event_of(self, stream: Stream) -> Event:
        end = stream.start if stream.end is None else stream.end
        return Event(end, stream.event_id, stream.start, stream.channel, stream.category_id, stream.peak)

    def _ranked(self, streams: Iterable[Stream], time: float, turn: int | None = None) -> list[Stream]:
        """Order by viewers, most first; equal ones by id, or in another order each turn."""

        def key(stream: Stream) -> tuple[int, int]:
            tie = stream.event_id if turn is None else mix(turn, stream.event_id)
            return -self._records.viewers_count(stream, time), -tie

        return sorted(streams, key=key)

    def _turn(self, route: str) -> int | None:
        self._turns[route] += 1
        return self._turns[route] if self.options.tie_order == "unstable" else None

    def _churn_after(self, requests: int) -> None:
        if self.options.insert_every and requests % self.options.insert_every == 0:
            self.insert_now()
        if self.options.delete_every and requests % self.options.delete_every == 0:
            self.delete_now()

    def _some_end(self, now: int) -> int:
        events = self._index.events
        near = self._churn.choice(events).end if events else now
        return max(min(near + self._churn.randrange(-3_600, 3_600), now), EARLIEST + 60)

    def _free_id(self, start: int) -> int:
        """Return an unused id, close to those of streams that started at that time."""
        events = self._index.events
        earlier = self._index.page(RecentQuery(high=start + 1), Page(0, 1), None)
        event_id = earlier[0].event_id + 1 if earlier else (events[0].event_id if events else 1_000)
        while event_id in self._timeline.used:
            event_id += 1
        return event_id

    def _ids(self) -> list[int]:
        with self._lock:
            self._settle()
            return [*self._index.by_id, *(event.event_id for event in self._undated), *self._on_air]

    def _repairable(self, event_id: int) -> bool | None:
        found = malformation(self.options, event_id, "recent")
        return found.repairable if found else None
