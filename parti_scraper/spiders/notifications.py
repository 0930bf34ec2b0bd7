"""The spider `notifications`: channels as they go live, from the WebSocket; the live route fills the gaps."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from scrapy import Request
from scrapy.exceptions import CloseSpider

from parti_scraper.api import routes, urls
from parti_scraper.api.build import Context
from parti_scraper.api.categories import CategoryIndex
from parti_scraper.api.registry import LIVE_NOTIFICATIONS
from parti_scraper.api.times import parse_length, timestamp_to_iso
from parti_scraper.items import LiveNotification, RejectedRecord
from parti_scraper.network.backoff import one_line
from parti_scraper.network.listener import Listener
from parti_scraper.network.proxies import proxy_of
from parti_scraper.network.settings import RetrySettings
from parti_scraper.network.websocket import SLICE, WebSocket
from parti_scraper.redact import redact_url
from parti_scraper.run.arguments import NotificationsArguments
from parti_scraper.scrapy_internals import is_closing
from parti_scraper.spiders.base import describe_failure
from parti_scraper.spiders.paged import LiveRouteSpider, Walk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable, Iterator, Mapping

    from scrapy.http import Response
    from scrapy.settings import BaseSettings
    from twisted.python.failure import Failure

    from parti_scraper.api.pages import NormalizedPage
    from parti_scraper.items import Category
    from parti_scraper.network.websocket import Message
    from parti_scraper.plan.plan import PageQuery
    from parti_scraper.run.arguments import Arguments
    from parti_scraper.run.context import Run, Seen

logger = logging.getLogger(__name__)

# Seconds to wait for the categories; what is received before they are known has no `category_id`.
_CATEGORIES_TIMEOUT = 5.0
# How long a livestream is remembered after it was last seen, in seconds; the limit keeps memory from growing.
_REMEMBERED = 7 * 86_400.0
# Between two checkpoints while nothing is heard, in seconds: how long it has listened is known so far after a kill.
_SECONDS_BETWEEN_NOTES = 60.0
# What may pass between two looks at the connection, in seconds.
_LONGEST_SLICE = 60.0
# Fields in which an error that comes in place of a notification may say what it is.
_ERROR_FIELDS = ("error", "errors", "message", "detail", "reason")
# A gap until the run has listened to its end.
_NEVER_LISTENED = "the run never listened to the WebSocket"


class SeenLately:
    """Identities, each remembered for some time after it was last added or asked for."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._moments: OrderedDict[Hashable, float] = OrderedDict()

    def __contains__(self, identity: Hashable) -> bool:
        """Return whether the identity is remembered; if so, its time begins again."""
        if identity not in self._moments:
            return False
        self.add(identity)
        return True

    def __len__(self) -> int:
        return len(self._moments)

    def add(self, identity: Hashable) -> None:
        """Remember an identity, and forget the oldest ones."""
        now = time.monotonic()
        self._moments[identity] = now
        self._moments.move_to_end(identity)
        while next(iter(self._moments.values())) < now - self._seconds:
            self._moments.popitem(last=False)

    def clear(self) -> None:
        self._moments.clear()


class NotificationsSpider(LiveRouteSpider):
    """Listens to which channels go live, until it is stopped.

    Attributes:
        ws_urls: addresses of the WebSocket, in the order in which they are tried.
        idle_timeout: seconds of silence after which it reconnects.
        reconnect_delay: longest wait before the first new attempt, in seconds.
        last_fill_timeout: how long the walk through the live route at the end may take, in seconds.
        listener: what the run has proved, and what it may have missed.
        websocket: the connection.
    """

    name = "notifications"
    arguments_class = NotificationsArguments
    item_class = LiveNotification
    collection = LiveNotification.collection
    can_refetch = False
    remembered = _REMEMBERED
    observed = "listened"
    uses = ("PARTI_WS_URL",)

    arguments: NotificationsArguments

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._noted_at = 0.0
        # When it was connected last.
        self._listened_at: float | None = None
        # Whether anything came since the last checkpoint; the first one is due at once, so that no line is lost.
        self._is_new = True
        self._messages = 0
        # How many channels of the current fill had no notification.
        self._unheard = 0
        # Set once the categories are known, or could not be fetched.
        self._has_categories = asyncio.Event()
        run.problems.presume_gap(_NEVER_LISTENED)

    @classmethod
    def check(cls, settings: BaseSettings, raw: Mapping[str, str]) -> None:
        """Check settings and arguments, and that the proxy for the WebSocket can be used; see `PartiSpider`."""
        super().check(settings, raw)
        for url in urls.parse_ws_urls(settings["PARTI_WS_URL"]):
            proxy_of(url)

    @classmethod
    def has_days(cls, _arguments: Arguments) -> bool:
        """Tell that it may last for days."""
        return True

    @classmethod
    def new_seen(cls) -> Seen:
        """Return what remembers livestreams for a while."""
        return SeenLately(_REMEMBERED)

    def read_settings(self, settings: BaseSettings) -> None:
        self.ws_urls = urls.parse_ws_urls(settings["PARTI_WS_URL"])
        self.idle_timeout = parse_length("setting", "PARTI_WS_IDLE_TIMEOUT", settings["PARTI_WS_IDLE_TIMEOUT"])
        self.reconnect_delay = RetrySettings.read(settings).delay_at(self.ws_urls[0])
        self.last_fill_timeout = settings.getfloat("DOWNLOAD_TIMEOUT")
        self._prepare_to_listen([])

    @property
    def until_stopped(self) -> bool:
        return True

    def description(self) -> dict[str, Any]:
        return {"websocket": self.websocket.shown_url, "failovers": [*self.hosts.failovers, *self.websocket.failovers]}

    def progress(self) -> dict[str, Any]:
        return {**super().progress(), "ws_failovers": self.websocket.failovers}

    def restore(self, progress: Any) -> None:
        """Resume from there, with the address that was used last."""
        super().restore(progress)
        self._prepare_to_listen(progress.get("ws_failovers", []))

    def _prepare_to_listen(self, failovers: list[dict[str, str]]) -> None:
        """Prepare to connect, first to the address that the failovers of the WebSocket until now led to."""
        used = [each["to"] for each in failovers[-1:]]
        position = next((place for place, url in enumerate(self.ws_urls) if redact_url(url) in used), 0)
        self.listener = Listener(self.ws_urls, self.reconnect_delay, self.idle_timeout, time.monotonic(), position)
        self.websocket = WebSocket(
            self.listener,
            self.crawler,
            failovers,
            idle_timeout=self.idle_timeout,
            count_answer=self.run.traffic.answered,
            is_over=self._is_over,
            tick=self._tick,
        )

    # The start:

    async def start(self) -> AsyncIterator[Any]:
        """Request the categories, and listen even if they do not come."""
        yield self.request(
            routes.categories_url(self.hosts.current), callback=self.parse_categories, errback=self.categories_failed
        )
        # In a callback: Scrapy 2.19 may hang at the end if `start` yields items.
        yield Request("data:,", callback=self.listen, dont_filter=True)

    def categories_received(self, page: NormalizedPage[Category]) -> Iterator[Any]:
        self.index = CategoryIndex(page.items)
        self._has_categories.set()
        yield from ()

    def categories_failed(self, failure: Failure) -> None:
        """Continue without them: notifications are not sent again later."""
        self._has_categories.set()
        self.run.problems.note_gap(
            f"the categories could not be fetched, so `category_id` is unknown: {describe_failure(failure)}"
        )

    async def _wait_for_categories(self) -> None:
        until = time.monotonic() + _CATEGORIES_TIMEOUT
        while not self._has_categories.is_set() and time.monotonic() < until and not self._is_over():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._has_categories.wait(), SLICE)

    # The WebSocket:

    async def listen(self, _response: Response) -> AsyncIterator[Any]:
        """Stay connected until the run is over; yields notifications."""
        await self._note(at_once=True)
        await self._wait_for_categories()
        async with contextlib.aclosing(self.websocket.messages()) as messages:
            async for message in messages:
                for record in self._received(message, timestamp_to_iso(await self.enter_day())):
                    yield record
                # The batch ends here: the next message may take long.
                yield None
        ended = time.monotonic()
        await self._fill_last(ended)
        await self._note(at_once=True)
        self._note_missed(ended)
        if not self._has_categories.is_set():
            self.run.problems.note_gap("the categories did not come in time, so `category_id` is unknown")
        if not self._has_categories.is_set() or self.listener.fills.is_under_way:
            # Otherwise the run would last until the requests for them are given up.
            raise CloseSpider("finished")

    def _received(self, message: Message, received_at: str) -> Iterator[Any]:
        """Yield the record in a message, or a rejected one if there is none."""
        if message.problem:
            yield RejectedRecord(message.problem, self.websocket.shown_url, self._messages, None)
            self._count_message()
            return
        context = Context(received_at, self.index, offset=self._messages)
        page = LIVE_NOTIFICATIONS.normalize_message(message.text, self.websocket.shown_url, context)
        self._count_message()
        self.run.add_quality(page, self.run.seen)
        if page.items:
            is_new = any(item.identity not in self.run.seen for item in page.items)
            self.listener.heard(time.monotonic(), is_new=is_new)
        for rejected in page.rejected:
            if error := _error_in(rejected.record):
                self.listener.refused(time.monotonic(), error)
        yield from page.items
        yield from page.rejected

    def _count_message(self) -> None:
        self._messages += 1
        self._is_new = True
        self.crawler.stats.inc_value("parti/websocket/messages")
        self.count_served(1)

    async def _tick(self) -> None:
        """Note that it listens, write a checkpoint and ask the live route, if either is due."""
        self._note_listening()
        day = self.run.folder.day
        await self.enter_day()
        if self.run.folder.day != day:
            self._note_listening()
            # The day that is over is described with the next checkpoint.
            self._is_new = True
        await self._note()
        if self.listener.fills.is_due(time.monotonic()) and not self._is_over():
            self._fill()

    def _note_listening(self) -> None:
        now = time.time()
        if self.listener.is_connected:
            since = now if self._listened_at is None else self._listened_at
            # A machine that slept did not listen, nor does it while its clock is set.
            self.run.listened(since if 0 <= now - since < _LONGEST_SLICE else now, now)
        self._listened_at = now if self.listener.is_connected else None

    def _is_over(self) -> bool:
        duration = self.arguments.duration
        # By the wall clock, so that the time before a run was resumed counts too.
        ended = duration is not None and time.time() >= self.started_at + duration
        return ended or self.run.limit.is_reached or bool(self.source.mixed) or is_closing(self.crawler)

    async def _note(self, *, at_once: bool = False) -> None:
        """Write what is new to the files, within a second of its arrival, and a checkpoint."""
        now = time.monotonic()
        is_due = now - self._noted_at >= (SLICE if self._is_new else _SECONDS_BETWEEN_NOTES)
        if not is_due and not at_once:
            return
        self._noted_at, self._is_new = now, False
        async with self._one_page:
            await self.take_checkpoint()

    # The live route:

    def _fill(self) -> None:
        self.listener.fills.began(time.monotonic())
        self._unheard = 0
        self.walks.clear()
        for request in self.begin_walk(Walk((), self.plan(()))):
            self.crawler.engine.crawl(request)

    async def _fill_last(self, ended: float) -> None:
        """Fill a last time, since silence proves nothing; but not for long, and not if the run is stopped."""
        self.listener.fills.want(ended)
        while not (self.listener.is_proved(ended) or self.run.limit.is_reached or is_closing(self.crawler)):
            if self.listener.fills.is_due(time.monotonic()):
                self._fill()
            elif not self.listener.fills.is_under_way or time.monotonic() > ended + self.last_fill_timeout:
                return
            await asyncio.sleep(SLICE / 8)

    def normalize(
        self, response: Response, walk: Walk, query: PageQuery, received_at: str
    ) -> NormalizedPage[LiveNotification]:
        context = Context(received_at, self.index, source="live")
        page = LIVE_NOTIFICATIONS.normalize(response.body, response.url, context)
        self._unheard += sum(item.identity not in self.run.seen for item in page.items)
        return page

    def is_checkpoint_due(self) -> bool:
        """Leave checkpoints to `_tick`, which is called often."""
        self._is_new = True
        return False

    def end_walk(self, walk: Walk) -> Iterator[Request]:
        """Tell the listener whether the gap is filled or must be filled later; it keeps listening."""
        if walk.plan.gaps:
            self.listener.fills.failed(time.monotonic(), walk.plan.gaps[0])
            logger.warning("The live route could not be walked, so it is tried again later: %s", walk.plan.gaps[0])
        elif self.listener.filled(self._unheard):
            logger.info("Nothing is missing from before the connection; the live route added %d", self._unheard)
        yield from ()

    def _note_missed(self, ended: float) -> None:
        """Note what may be missing, unless `max_records` was reached."""
        self.run.problems.disprove_gap(_NEVER_LISTENED)
        if self.run.limit.is_reached:
            return
        missed = self.listener.missed(ended, stopped=is_closing(self.crawler))
        if not self.listener.connections:
            tried = ", ".join(map(redact_url, self.ws_urls))
            reason = self.listener.reason or "the run was over before"
            self.run.problems.note_gap(f"could not connect to {tried}: {reason}")
        if missed and (self.listener.connections or self.listener.fills.failure):
            # The listener's times are of the monotonic clock.
            offset = time.time() - time.monotonic()
            since, until = (timestamp_to_iso(moment + offset) for moment in (missed.since, missed.until))
            self.run.problems.note_gap(f"not connected from {since} to {until}: {missed.reason}")


def _error_in(record: Any) -> str:
    """Return the text of an error that came in place of a notification; empty if the record is no error."""
    said = next((record[name] for name in _ERROR_FIELDS if record.get(name)), "") if isinstance(record, dict) else ""
    return one_line(said if isinstance(said, str) else json.dumps(said, ensure_ascii=False))
