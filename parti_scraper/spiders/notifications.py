"""The spider `notifications`: channels as they go live, from the WebSocket; the live route fills the gaps."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from aiohttp import WSMsgType
from scrapy import Request
from scrapy.exceptions import CloseSpider
from scrapy.utils.asyncio import call_later

from parti_scraper import api
from parti_scraper.arguments import NotificationsArguments, parse_length
from parti_scraper.backoff import Reconnection, one_line, parse_retry_after
from parti_scraper.items import LiveNotification
from parti_scraper.middlewares import is_closing, retry_delay
from parti_scraper.normalize import (
    CategoryIndex,
    normalize_live_notifications,
    normalize_notification,
    timestamp_to_iso,
)
from parti_scraper.proxies import proxy_of
from parti_scraper.redact import redact_url
from parti_scraper.signals import checkpoint
from parti_scraper.spiders.base import LiveRouteSpider, Walk, describe_failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Hashable, Iterator, Mapping

    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from scrapy.settings import BaseSettings
    from scrapy.utils.asyncio import CallLaterResult
    from twisted.python.failure import Failure

    from parti_scraper.items import Category
    from parti_scraper.normalize import NormalizedPage
    from parti_scraper.windows import Ask

logger = logging.getLogger(__name__)

# How long a wait goes on before it looks whether the run is over, in seconds.
_SLICE = 0.4
_CONNECT_TIMEOUT = 30.0
# What is heard before they are known comes without `category_id`.
_CATEGORIES_TIMEOUT = 5.0
# Bytes; a notification has about a thousand.
_MAX_MESSAGE = 1024 * 1024
# Livestreams are remembered so long after they were last seen, in seconds: so memory does not grow for ever.
_REMEMBERED = 7 * 86_400.0
# After the live route could not be crawled, in seconds.
_FILL_AGAIN = 30.0
# The server does not say when it has read the subscription, so the live route is asked a little later, in seconds.
_SETTLE = 0.5
_SECONDS_BETWEEN_WARNINGS = 600.0


class SeenLately:
    """Identities, each remembered for some time after it was last added or asked for."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._moments: OrderedDict[Hashable, float] = OrderedDict()

    def __contains__(self, identity: Hashable) -> bool:
        """Tell whether the identity is remembered; it is for longer then."""
        if identity not in self._moments:
            return False
        self.add(identity)
        return True

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._moments)

    def add(self, identity: Hashable) -> None:
        """Remember an identity, and forget the oldest ones."""
        now = time.monotonic()
        self._moments[identity] = now
        self._moments.move_to_end(identity)
        while next(iter(self._moments.values())) < now - self._seconds:
            self._moments.popitem(last=False)

    def clear(self) -> None:
        """Forget all."""
        self._moments.clear()


class _LostError(Exception):
    """The connection ended; the text says how."""


class NotificationsSpider(LiveRouteSpider):
    """Listens to which channels go live, until it is stopped."""

    name = "notifications"
    arguments_class = NotificationsArguments
    item_class = LiveNotification
    collection = LiveNotification.collection
    repeatable = False

    arguments: NotificationsArguments  # type: ignore[assignment]

    def __init__(self, started_at: float | None = None, **raw_arguments: Any) -> None:
        """Parse the arguments, see `PartiSpider`."""
        super().__init__(started_at, **raw_arguments)
        self.part = _day_of(timestamp_to_iso(time.time()))
        self.seen = SeenLately(_REMEMBERED)
        self._noted_at = self._quiet_until = 0.0
        # From the first checkpoint on, no line is lost.
        self._is_new = True
        self._messages = 0
        # The walk through the live route that is under way; whether another is due after it; why the last one failed:
        # until one does not, channels may be missing.
        self._filling: Walk | None = None
        self._fill_again = False
        self._unfilled = ""
        self._timer: CallLaterResult | None = None
        # Set once the categories are known, or could not be had.
        self._told = asyncio.Event()
        # Why the connection was lost last.
        self._reason = ""

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> Self:
        """Build the spider and read the settings."""
        spider = super().from_crawler(crawler, *args, **kwargs)
        settings = crawler.settings
        spider.ws_url = api.check_ws_url(settings["PARTI_WS_URL"])
        spider.shown_url = redact_url(spider.ws_url)
        spider.idle_timeout = parse_length("PARTI_WS_IDLE_TIMEOUT", settings["PARTI_WS_IDLE_TIMEOUT"])
        spider.reconnection = Reconnection(retry_delay(settings, spider.ws_url))
        return spider

    @classmethod
    def check(cls, settings: BaseSettings, raw_arguments: Mapping[str, str]) -> None:
        """Check settings and arguments, and whether the proxy for the WebSocket can be used."""
        super().check(settings, raw_arguments)
        for url in settings["PARTI_WS_URL"].split(","):
            proxy_of(url.strip())

    ws_url: str
    # As it is logged and stored.
    shown_url: str
    idle_timeout: float
    reconnection: Reconnection

    @property
    def endless(self) -> bool:
        """It is meant to be stopped by a signal."""
        return True

    def part_of(self, item: LiveNotification) -> str:
        """Return the day on which the record was received."""
        return _day_of(item.received_at)

    # The beginning:

    async def start(self) -> AsyncIterator[Any]:
        """Ask for the categories, and listen whether they come or not."""
        yield self.request(
            api.categories_url(self.base_url), callback=self.parse_categories, errback=self.categories_failed
        )
        # In a callback: Scrapy 2.19 may hang at the end where items come from `start`.
        yield Request("data:,", callback=self.listen, dont_filter=True)

    def categories_received(self, page: NormalizedPage[Category]) -> Iterator[Any]:
        """Keep the categories."""
        self.index = CategoryIndex(page.items)
        self._told.set()
        yield from ()

    def categories_failed(self, failure: Failure) -> None:
        """Go on without: what happens meanwhile could not be had later."""
        self._told.set()
        self.note_gap(f"the categories could not be had, so `category_id` is unknown: {describe_failure(failure)}")

    async def _wait_for_categories(self) -> None:
        until = time.monotonic() + _CATEGORIES_TIMEOUT
        while not self._told.is_set() and time.monotonic() < until and not self._is_over():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), _SLICE)

    # The WebSocket:

    async def listen(self, _response: Response) -> AsyncIterator[Any]:
        """Stay connected until the run is over; yields notifications."""
        await self._note(at_once=True)
        await self._wait_for_categories()
        async with aiohttp.ClientSession(trust_env=True) as session:
            while not self._is_over():
                retry_after = None
                try:
                    async for result in self._connection(session):
                        yield result
                except aiohttp.WSServerHandshakeError as error:
                    header = error.headers.get("Retry-After", "") if error.headers else ""
                    retry_after = parse_retry_after(header, time.time())
                    self._trouble(f"HTTP {error.status} in answer to the handshake")
                except (aiohttp.ClientError, OSError, TimeoutError, _LostError) as error:
                    self._trouble(one_line(str(error).replace(self.ws_url, self.shown_url)) or type(error).__name__)
                if not self._is_over():
                    wait = self.reconnection.lost(time.monotonic(), random.random(), retry_after)  # noqa: S311
                    await self._sleep(wait)
        await self._note(at_once=True)
        if self._timer is not None:
            self._timer.cancel()
        self._say_unfilled()
        if not self.crawler.stats.get_value("parti/websocket/connections"):
            self.note_gap(f"no connection to {self.shown_url} came about{f': {self._reason}' if self._reason else ''}")
        if not self._told.is_set():
            self.note_gap("the categories did not come in time, so `category_id` is unknown")
            # Or the run would go on until they are given up.
            raise CloseSpider("finished")

    async def _connection(self, session: aiohttp.ClientSession) -> AsyncIterator[Any]:
        """Connect, subscribe, have the gap filled, and listen until silence or the end of the connection.

        Raises:
            _LostError, and what aiohttp raises: the connection was lost, or did not come about.
        """
        timeout = aiohttp.ClientWSTimeout(ws_close=1.0)
        connecting = session.ws_connect(
            self.ws_url, headers=api.WS_HEADERS, max_msg_size=_MAX_MESSAGE, timeout=timeout, autoping=True
        )
        socket = await self._unless_over(connecting)
        try:
            await socket.send_str(api.SUBSCRIBE)
            self._say_connected()
            self._fill_in(_SETTLE)
            async for result in self._messages_of(socket):
                yield result
        finally:
            await socket.close()

    async def _unless_over(
        self, connecting: Awaitable[aiohttp.ClientWebSocketResponse]
    ) -> aiohttp.ClientWebSocketResponse:
        """Wait for a connection. Raises TimeoutError where it takes too long, or the run is over."""
        task = asyncio.ensure_future(connecting)
        until = time.monotonic() + _CONNECT_TIMEOUT
        while not task.done() and time.monotonic() < until and not self._is_over():
            await asyncio.wait({task}, timeout=_SLICE)
        if not task.done():
            task.cancel()
            raise TimeoutError("no answer to the handshake")
        return task.result()

    async def _messages_of(self, socket: aiohttp.ClientWebSocketResponse) -> AsyncIterator[Any]:
        heard_at = time.monotonic()
        while not self._is_over():
            await self._note()
            try:
                message = await socket.receive(_SLICE)
            except TimeoutError:
                if time.monotonic() - heard_at < self.idle_timeout:
                    continue
                self.crawler.stats.inc_value("parti/websocket/idle")
                logger.info("Nothing was heard for %g s: connecting anew", self.idle_timeout)
                return
            heard_at = time.monotonic()
            if message.type not in {WSMsgType.TEXT, WSMsgType.BINARY}:
                raise _LostError(_ending_of(message))
            self.reconnection.heard()
            for item in self._received(message):
                yield item
            # It goes on from here: the next message may be long in coming.
            yield None

    def _received(self, message: aiohttp.WSMessage) -> Iterator[Any]:
        """Yield what a message says, or the message itself where it says nothing."""
        text = message.data if message.type is WSMsgType.TEXT else message.data.decode(errors="backslashreplace")
        page = normalize_notification(text, self.shown_url, timestamp_to_iso(time.time()), self.index, self._messages)
        self._messages += 1
        self._is_new = True
        self.crawler.stats.inc_value("parti/websocket/messages")
        self.crawler.stats.inc_value("parti/spider/served")
        self.quality.add(page, self.seen)
        yield from page.items
        yield from page.rejected

    def _say_connected(self) -> None:
        attempts = self.reconnection.attempts
        self.reconnection.connected(time.monotonic())
        self.crawler.stats.inc_value("parti/websocket/connections")
        if attempts > 1:
            logger.info("Connected to %s again, after %d attempts", self.shown_url, attempts)

    def _trouble(self, reason: str) -> None:
        """Count what went wrong; say it once in a while, or a troubled server would flood the log."""
        self._reason = reason
        self.crawler.stats.inc_value("parti/websocket/failures")
        now = time.monotonic()
        level = logging.DEBUG if now < self._quiet_until else logging.WARNING
        if level == logging.WARNING:
            self._quiet_until = now + _SECONDS_BETWEEN_WARNINGS
        failures = self.crawler.stats.get_value("parti/websocket/failures")
        logger.log(
            level, "No connection to %s: %s; trying again (failures so far: %d)", self.shown_url, reason, failures
        )

    async def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._is_over():
            await self._note()
            await asyncio.sleep(min(left, _SLICE))

    def _is_over(self) -> bool:
        duration = self.arguments.duration
        # By the clock on the wall, which goes on while a run that is to be finished was stopped.
        ended = duration is not None and time.time() >= self.started_at + duration
        return ended or self.truncated or is_closing(self.crawler)

    async def _note(self, *, at_once: bool = False) -> None:
        """Bring what is new to the files, within a second of its arrival."""
        now = time.monotonic()
        if not self._is_new or (now - self._noted_at < _SLICE and not at_once):
            return
        self._noted_at, self._is_new = now, False
        async with self._one_page:
            await self._records_came_through()
            self.crawler.signals.send_catch_log(checkpoint)

    # The live route:

    def _fill_in(self, seconds: float) -> None:
        """Set the timer for the next walk through the live route."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = call_later(seconds, self._on_timer)

    def _fill(self) -> Iterator[Request]:
        """Ask for the channels that are live; once more after that, where it is under way."""
        if self._filling is not None:
            self._fill_again = True
            return
        self._fill_again = False
        self._filling = Walk((), self.plan(()))
        self.walks.clear()
        yield from self.begin_walk(self._filling)

    def normalize(self, response: Response, walk: Walk, ask: Ask) -> NormalizedPage[LiveNotification]:
        """Return the channels of a page. Raises PageError."""
        return normalize_live_notifications(response.body, response.url, timestamp_to_iso(time.time()), self.index)

    def is_checkpoint_due(self) -> bool:
        """Leave it to the listening, which looks often."""
        self._is_new = True
        return False

    def end_walk(self, walk: Walk) -> Iterator[Request]:
        """Take note that the gap is filled, or try again later; listening goes on either way."""
        self._filling = None
        self._unfilled = walk.plan.gaps[0] if walk.plan.gaps else ""
        if self._is_over():
            self._say_unfilled()
        elif self._unfilled:
            logger.warning("The gap could not be filled (%s); again in %g s", self._unfilled, _FILL_AGAIN)
            self._fill_in(_FILL_AGAIN)
        elif self._fill_again:
            # The connection was made anew meanwhile.
            yield from self._fill()

    def _on_timer(self) -> None:
        self._timer = None
        if not self._is_over():
            for request in self._fill():
                self.crawler.engine.crawl(request)

    def _say_unfilled(self) -> None:
        if self._unfilled:
            self.note_gap(f"channels that went live unheard may be missing: {self._unfilled}")
            self._unfilled = ""


def _day_of(moment: str) -> str:
    return f".{moment[:10]}"


def _ending_of(message: aiohttp.WSMessage) -> str:
    """Return in a few words how the connection ended."""
    if message.type is WSMsgType.ERROR:
        return one_line(str(message.data))
    if message.type is WSMsgType.CLOSE:
        return f"closed by the server ({message.data}{f': {one_line(message.extra)}' if message.extra else ''})"
    return "closed"
