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
from parti_scraper.network.settings import retry_delay
from parti_scraper.network.websocket import SLICE, WebSocket
from parti_scraper.redact import redact_url
from parti_scraper.run.arguments import NotificationsArguments
from parti_scraper.run.context import RunFolder
from parti_scraper.scrapy_internals import is_closing
from parti_scraper.spiders.base import describe_failure
from parti_scraper.spiders.paged import LiveRouteSpider, Walk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable, Iterator, Mapping
    from pathlib import Path

    from scrapy.http import Response
    from scrapy.settings import BaseSettings
    from twisted.python.failure import Failure

    from parti_scraper.api.pages import NormalizedPage
    from parti_scraper.items import Category
    from parti_scraper.network.websocket import Message
    from parti_scraper.plan.plan import PageQuery
    from parti_scraper.run.context import Run, Seen

logger = logging.getLogger(__name__)

# Seconds to wait for the categories; what is received before they are known has no `category_id`.
_CATEGORIES_TIMEOUT = 5.0
# How long a livestream is remembered after it was last seen, in seconds: it keeps memory from growing endlessly.
_REMEMBERED = 7 * 86_400.0
# Fields in which an error that comes in place of a notification may say what it is.
_ERROR_FIELDS = ("error", "errors", "message", "detail", "reason")
# A gap until the run has listened to its end.
_NEVER_LISTENED = "it did not come as far as to listen"


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

    It is large since what is heard and what the live route shows are one list of records: it is told of both.

    Attributes:
        ws_urls: addresses of the WebSocket, in the order in which they are tried.
        idle_timeout: after so many seconds of silence, a connection is opened again.
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
    uses = ("PARTI_WS_URL",)

    arguments: NotificationsArguments

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._noted_at = 0.0
        # Whether anything came since the last checkpoint; the first one is due at once, so that no line is lost.
        self._is_new = True
        self._messages = 0
        # How many channels of the fill under way no notification had told of.
        self._unheard = 0
        # Set once the categories are known, or could not be had.
        self._told = asyncio.Event()
        run.problems.presume_gap(_NEVER_LISTENED)

    @classmethod
    def check(cls, settings: BaseSettings, raw: Mapping[str, str]) -> None:
        """Check settings and arguments, and that the proxy for the WebSocket can be used; see `PartiSpider`."""
        super().check(settings, raw)
        for url in urls.parse_ws_urls(settings["PARTI_WS_URL"]):
            proxy_of(url)

    @classmethod
    def folder(cls, path: Path) -> RunFolder:
        """Return what the folder of a run is to hold: files for each day."""
        today = _day_of(timestamp_to_iso(time.time()))
        return RunFolder(path, cls.collection, cls.item_class, lambda item: _day_of(item.received_at), today)

    @classmethod
    def new_seen(cls) -> Seen:
        """Return what remembers livestreams, but not endlessly."""
        return SeenLately(_REMEMBERED)

    def read_settings(self, settings: BaseSettings) -> None:
        self.ws_urls = urls.parse_ws_urls(settings["PARTI_WS_URL"])
        self.idle_timeout = parse_length("PARTI_WS_IDLE_TIMEOUT", settings["PARTI_WS_IDLE_TIMEOUT"])
        self.reconnect_delay = retry_delay(settings, self.ws_urls[0])
        self.last_fill_timeout = settings.getfloat("DOWNLOAD_TIMEOUT")
        self._prepare_to_listen([])

    ws_urls: tuple[str, ...]
    idle_timeout: float
    reconnect_delay: float
    last_fill_timeout: float
    listener: Listener
    websocket: WebSocket

    @property
    def until_stopped(self) -> bool:
        return True

    def description(self) -> dict[str, Any]:
        return {"websocket": self.websocket.shown_url, "failovers": [*self.hosts.failovers, *self.websocket.failovers]}

    def progress(self) -> dict[str, Any]:
        return {**super().progress(), "ws_failovers": self.websocket.failovers}

    def restore(self, progress: Any) -> None:
        """Go on from there, with the address that was used last."""
        super().restore(progress)
        self._prepare_to_listen(progress.get("ws_failovers", []))

    def _prepare_to_listen(self, failovers: list[dict[str, str]]) -> None:
        """Prepare to connect, first to the address that was used last.

        Args:
            failovers: of the WebSocket until now.
        """
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

    # The beginning:

    async def start(self) -> AsyncIterator[Any]:
        """Ask for the categories, and listen even if they do not come."""
        yield self.request(
            routes.categories_url(self.hosts.current), callback=self.parse_categories, errback=self.categories_failed
        )
        # In a callback: Scrapy 2.19 may hang at the end if `start` yields items.
        yield Request("data:,", callback=self.listen, dont_filter=True)

    def categories_received(self, page: NormalizedPage[Category]) -> Iterator[Any]:
        self.index = CategoryIndex(page.items)
        self._told.set()
        yield from ()

    def categories_failed(self, failure: Failure) -> None:
        """Go on without them: what goes live now is not told again later."""
        self._told.set()
        self.run.problems.note_gap(
            f"the categories could not be had, so `category_id` is unknown: {describe_failure(failure)}"
        )

    async def _wait_for_categories(self) -> None:
        until = time.monotonic() + _CATEGORIES_TIMEOUT
        while not self._told.is_set() and time.monotonic() < until and not self._is_over():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), SLICE)

    # The WebSocket:

    async def listen(self, _response: Response) -> AsyncIterator[Any]:
        """Stay connected until the run is over; yields notifications."""
        await self._note(at_once=True)
        await self._wait_for_categories()
        async with contextlib.aclosing(self.websocket.messages()) as messages:
            async for message in messages:
                for record in self._received(message):
                    yield record
                # The records go on from here: the next message may be long in coming.
                yield None
        ended = time.monotonic()
        await self._fill_last(ended)
        await self._note(at_once=True)
        self._note_missed(ended)
        if not self._told.is_set():
            self.run.problems.note_gap("the categories did not come in time, so `category_id` is unknown")
        if not self._told.is_set() or self.listener.is_filling:
            # Otherwise the run would go on until the requests for them are given up.
            raise CloseSpider("finished")

    def _received(self, message: Message) -> Iterator[Any]:
        """Yield the record in a message, or a rejected one if there is none."""
        if message.problem:
            yield RejectedRecord(message.problem, self.websocket.shown_url, self._messages, None)
            self._count_message()
            return
        context = Context(timestamp_to_iso(time.time()), self.index, offset=self._messages)
        page = LIVE_NOTIFICATIONS.normalize_message(message.text, self.websocket.shown_url, context)
        self._count_message()
        self.run.quality.add(page, self.run.seen)
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
        """Write a checkpoint and ask the live route, if either is due."""
        await self._note()
        if self.listener.is_fill_due(time.monotonic()) and not self._is_over():
            self._fill()

    def _is_over(self) -> bool:
        duration = self.arguments.duration
        # By the wall clock: the time counts too during which the run was stopped before it was resumed.
        ended = duration is not None and time.time() >= self.started_at + duration
        return ended or self.run.limit.is_reached or bool(self.source.mixed) or is_closing(self.crawler)

    async def _note(self, *, at_once: bool = False) -> None:
        """Write what is new to the files, within a second of its arrival, and a checkpoint."""
        now = time.monotonic()
        if not self._is_new or (now - self._noted_at < SLICE and not at_once):
            return
        self._noted_at, self._is_new = now, False
        async with self._one_page:
            await self.take_checkpoint()

    # The live route:

    def _fill(self) -> None:
        self.listener.fill_began(time.monotonic())
        self._unheard = 0
        self.walks.clear()
        for request in self.begin_walk(Walk((), self.plan(()))):
            self.crawler.engine.crawl(request)

    async def _fill_last(self, ended: float) -> None:
        """Ask once more, since silence proves nothing; but not for long, and not if the run is stopped."""
        self.listener.want_fill(ended)
        while not (self.listener.is_proved(ended) or self.run.limit.is_reached or is_closing(self.crawler)):
            if self.listener.is_fill_due(time.monotonic()):
                self._fill()
            elif not self.listener.is_filling or time.monotonic() > ended + self.last_fill_timeout:
                return
            await asyncio.sleep(SLICE / 8)

    def normalize(self, response: Response, walk: Walk, query: PageQuery) -> NormalizedPage[LiveNotification]:
        context = Context(timestamp_to_iso(time.time()), self.index, source="live")
        page = LIVE_NOTIFICATIONS.normalize(response.body, response.url, context)
        self._unheard += sum(item.identity not in self.run.seen for item in page.items)
        return page

    def is_checkpoint_due(self) -> bool:
        """Leave checkpoints to `_tick`, which is called often."""
        self._is_new = True
        return False

    def end_walk(self, walk: Walk) -> Iterator[Request]:
        """Tell the listener that the gap is filled, or is to be filled later; listening goes on either way."""
        if walk.plan.gaps:
            self.listener.fill_failed(time.monotonic(), walk.plan.gaps[0])
            logger.warning("The live route could not be asked who is live, so again later: %s", walk.plan.gaps[0])
        elif self.listener.filled(self._unheard):
            logger.info("Nothing is missing from before the connection; not heard of: %d", self._unheard)
        yield from ()

    def _note_missed(self, ended: float) -> None:
        """Note what may be missing, unless no more was wanted."""
        self.run.problems.disprove_gap(_NEVER_LISTENED)
        if self.run.limit.is_reached:
            return
        missed = self.listener.missed(ended, stopped=is_closing(self.crawler))
        if not self.listener.connections:
            tried = ", ".join(map(redact_url, self.ws_urls))
            self.run.problems.note_gap(
                f"no connection to {tried} came about: {self.listener.reason or 'the run was over before'}"
            )
        if missed and (self.listener.connections or self.listener.unfilled):
            # The listener's times are of the monotonic clock, which means nothing to users.
            offset = time.time() - time.monotonic()
            since, until = (timestamp_to_iso(moment + offset) for moment in (missed.since, missed.until))
            self.run.problems.note_gap(f"not connected from {since} to {until}: {missed.reason}")


def _day_of(moment: str) -> str:
    return f".{moment[:10]}"


def _error_in(record: Any) -> str:
    """Return the text of an error that came in place of a notification; empty if the record is no error."""
    said = next((record[name] for name in _ERROR_FIELDS if record.get(name)), "") if isinstance(record, dict) else ""
    return one_line(said if isinstance(said, str) else json.dumps(said, ensure_ascii=False))
