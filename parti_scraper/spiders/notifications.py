"""The spider `notifications`: channels as they go live, from the WebSocket; the live route fills the gaps."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import socket
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from aiohttp import WSCloseCode, WSMsgType
from scrapy import Request
from scrapy.exceptions import CloseSpider
from yarl import URL

from parti_scraper.api import routes, urls
from parti_scraper.api.categories import CategoryIndex
from parti_scraper.api.normalize import normalize_live_notifications, normalize_notification
from parti_scraper.api.times import parse_length, timestamp_to_iso
from parti_scraper.items import LiveNotification, RejectedRecord
from parti_scraper.network.backoff import one_line, parse_retry_after
from parti_scraper.network.listener import Listener
from parti_scraper.network.proxies import proxy_of
from parti_scraper.network.retry import is_closing, retry_delay
from parti_scraper.redact import redact_text, redact_url
from parti_scraper.run.arguments import NotificationsArguments
from parti_scraper.signals import checkpoint
from parti_scraper.spiders.base import LiveRouteSpider, Walk, describe_failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Hashable, Iterator, Mapping

    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from scrapy.settings import BaseSettings
    from twisted.python.failure import Failure

    from parti_scraper.api.pages import NormalizedPage
    from parti_scraper.items import Category
    from parti_scraper.plan.history import Ask

logger = logging.getLogger(__name__)

# How long a wait goes on before it looks whether the run is over, in seconds.
_SLICE = 0.4
_CONNECT_TIMEOUT = 30.0
# For what is only polite: to answer a ping, and to close in both directions.
_COURTESY_TIMEOUT = 1.0
# What is heard before they are known comes without `category_id`.
_CATEGORIES_TIMEOUT = 5.0
# Bytes; a notification has about a thousand.
_MAX_MESSAGE = 16 * 1024 * 1024
# Livestreams are remembered so long after they were last seen, in seconds: so memory does not grow for ever.
_REMEMBERED = 7 * 86_400.0
_SECONDS_BETWEEN_WARNINGS = 600.0
# A dead line is silent, as a living one may be; with these, in seconds but for the count, the kernel tells them apart
# within a minute, unless something between answers in the server's place.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
# Where an error that comes in place of a notification says what it is.
_ERROR_FIELDS = ("error", "errors", "message", "detail", "reason")
# Until it has listened to its end.
_NEVER_LISTENED = "it did not come as far as to listen"
# What aiohttp closes a connection for, and what it says of the message.
_NOT_TAKEN: dict[int, str] = {
    WSCloseCode.MESSAGE_TOO_BIG: f"a message larger than {_MAX_MESSAGE} bytes",
    WSCloseCode.INVALID_TEXT: "a message that is not UTF-8",
}


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


class _NotTakenError(_LostError):
    """The connection was closed for a message that could not be taken; the text says what was wrong with it."""


class NotificationsSpider(LiveRouteSpider):
    """Listens to which channels go live, until it is stopped."""

    name = "notifications"
    arguments_class = NotificationsArguments
    item_class = LiveNotification
    collection = LiveNotification.collection
    repeatable = False
    uses = ("PARTI_WS_URL",)

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
        # How many channels of the fill under way nobody had told of.
        self._unheard = 0
        # Set once the categories are known, or could not be had.
        self._told = asyncio.Event()
        self.ws_failovers: list[dict[str, str]] = []
        self.gaps.append(_NEVER_LISTENED)

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> Self:
        """Build the spider and read the settings."""
        spider = super().from_crawler(crawler, *args, **kwargs)
        settings = crawler.settings
        spider.ws_urls = urls.parse_ws_urls(settings["PARTI_WS_URL"])
        spider.idle_timeout = parse_length("PARTI_WS_IDLE_TIMEOUT", settings["PARTI_WS_IDLE_TIMEOUT"])
        spider.reconnect_delay = retry_delay(settings, spider.ws_urls[0])
        spider.last_fill_timeout = settings.getfloat("DOWNLOAD_TIMEOUT")
        spider.listener = spider.new_listener()
        return spider

    @classmethod
    def check(cls, settings: BaseSettings, raw_arguments: Mapping[str, str]) -> None:
        """Check settings and arguments, and whether the proxy for the WebSocket can be used."""
        super().check(settings, raw_arguments)
        for url in urls.parse_ws_urls(settings["PARTI_WS_URL"]):
            proxy_of(url)

    ws_urls: tuple[str, ...]
    idle_timeout: float
    reconnect_delay: float
    last_fill_timeout: float
    listener: Listener

    @property
    def endless(self) -> bool:
        """It is meant to be stopped by a signal."""
        return True

    def part_of(self, item: LiveNotification) -> str:
        """Return the day on which the record was received."""
        return _day_of(item.received_at)

    @property
    def shown_url(self) -> str:
        """The address of the WebSocket, as it is logged and stored."""
        return redact_url(self.listener.address)

    def description(self) -> dict[str, Any]:
        """Return where the WebSocket was, and what was left for it."""
        return {"websocket": self.shown_url, "failovers": [*self.failovers, *self.ws_failovers]}

    def progress(self) -> Any:
        """Return how far the run has come, as JSON takes it."""
        return {**super().progress(), "ws_failovers": self.ws_failovers}

    def restore(self, progress: Any) -> None:
        """Go on from there, with the address that was used last."""
        super().restore(progress)
        self.ws_failovers = progress.get("ws_failovers", [])
        self.listener = self.new_listener()

    def new_listener(self) -> Listener:
        """Return one that begins with the address that was used last."""
        used = [each["to"] for each in self.ws_failovers[-1:]]
        position = next((place for place, url in enumerate(self.ws_urls) if redact_url(url) in used), 0)
        return Listener(self.ws_urls, self.reconnect_delay, self.idle_timeout, time.monotonic(), position)

    # The beginning:

    async def start(self) -> AsyncIterator[Any]:
        """Ask for the categories, and listen whether they come or not."""
        yield self.request(
            routes.categories_url(self.base_url), callback=self.parse_categories, errback=self.categories_failed
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
        async with aiohttp.ClientSession() as session:
            while not self._is_over():
                async for result in self._attempt(session):
                    yield result
        ended = time.monotonic()
        await self._fill_last(ended)
        await self._note(at_once=True)
        self._note_missed(ended)
        if not self._told.is_set():
            self.note_gap("the categories did not come in time, so `category_id` is unknown")
        if not self._told.is_set() or self.listener.is_filling:
            # Or the run would go on until they are given up.
            raise CloseSpider("finished")

    async def _attempt(self, session: aiohttp.ClientSession) -> AsyncIterator[Any]:
        """Connect and listen; where the connection ends before the run, wait for the time of the next one."""
        try:
            async for result in self._connection(session):
                yield result
            wait = 0.0 if self._is_over() else self.listener.closed(time.monotonic(), random.random())  # noqa: S311
        except aiohttp.ClientResponseError as error:
            where = (
                "from the proxy" if isinstance(error, aiohttp.ClientHttpProxyError) else "in answer to the handshake"
            )
            header = error.headers.get("Retry-After", "") if error.headers else ""
            wait = self._lost(f"HTTP {error.status} {where}", parse_retry_after(header, time.time()))
        except (aiohttp.ClientError, OSError, TimeoutError, _LostError) as error:
            text = str(error).replace(self.listener.address, self.shown_url)
            wait = self._lost(one_line(text) or type(error).__name__, by_us=isinstance(error, _NotTakenError))
        await self._sleep(wait)

    async def _connection(self, session: aiohttp.ClientSession) -> AsyncIterator[Any]:
        """Connect, subscribe, and listen until silence or the end of the connection.

        Raises:
            _LostError, and what aiohttp raises: the connection was lost, or failed.
        """
        # aiohttp by itself looks for WS_PROXY only.
        proxy = proxy_of(self.listener.address)
        connecting = session.ws_connect(
            self.listener.address,
            headers=routes.WS_HEADERS,
            # aiohttp takes what is smaller.
            max_msg_size=_MAX_MESSAGE + 1,
            timeout=aiohttp.ClientWSTimeout(ws_close=_COURTESY_TIMEOUT),
            # Or to receive would never end where more pings come than it waits for.
            autoping=False,
            proxy=proxy and URL(proxy.url).with_user(proxy.user or None).with_password(proxy.password or None),
        )
        connection = await self._unless_over(connecting)
        if connection is None:
            return
        try:
            _keep_alive(connection)
            await connection.send_str(routes.SUBSCRIBE)
            self._say_connected()
            async for result in self._messages_of(connection):
                yield result
        finally:
            # aiohttp waits for the answer anew with each message that still comes.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(connection.close(), _COURTESY_TIMEOUT)

    async def _unless_over(
        self, connecting: Awaitable[aiohttp.ClientWebSocketResponse]
    ) -> aiohttp.ClientWebSocketResponse | None:
        """Wait for a connection; None where the run is over. Raises TimeoutError where it takes too long."""
        task = asyncio.ensure_future(connecting)
        until = time.monotonic() + _CONNECT_TIMEOUT
        while not task.done() and time.monotonic() < until and not self._is_over():
            await asyncio.wait({task}, timeout=_SLICE)
            await self._tick()
        if task.done():
            return task.result()
        task.cancel()
        if self._is_over():
            return None
        raise TimeoutError("no answer to the handshake")

    async def _messages_of(self, connection: aiohttp.ClientWebSocketResponse) -> AsyncIterator[Any]:
        while not self._is_over():
            await self._tick()
            if self.listener.is_idle(time.monotonic()):
                self.crawler.stats.inc_value("parti/websocket/idle")
                logger.info("No notification for %g s: connecting again", self.idle_timeout)
                return
            try:
                message = await connection.receive(_SLICE)
            except TimeoutError:
                continue
            if message.type is WSMsgType.PING:
                await asyncio.wait_for(connection.pong(message.data), _COURTESY_TIMEOUT)
            if message.type in {WSMsgType.PING, WSMsgType.PONG}:
                continue
            for item in self._received(message):
                yield item
            # It goes on from here: the next message may be long in coming.
            yield None
            if reason := _reason_not_taken(message):
                raise _NotTakenError(reason)
            if message.type not in {WSMsgType.TEXT, WSMsgType.BINARY}:
                raise _LostError(_ending_of(message))

    def _received(self, message: aiohttp.WSMessage) -> Iterator[Any]:
        """Yield what a message says, or the message itself where it says nothing."""
        if message.type not in {WSMsgType.TEXT, WSMsgType.BINARY}:
            if reason := _reason_not_taken(message):
                yield RejectedRecord(reason, self.shown_url, self._messages, None)
                self._count_message()
            return
        text = message.data if message.type is WSMsgType.TEXT else message.data.decode(errors="backslashreplace")
        page = normalize_notification(text, self.shown_url, timestamp_to_iso(time.time()), self.index, self._messages)
        self._count_message()
        self.quality.add(page, self.seen)
        if page.items:
            is_new = any(item.identity not in self.seen for item in page.items)
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
        self.crawler.stats.inc_value("parti/spider/served")

    def _say_connected(self) -> None:
        left = self.listener.connected(time.monotonic())
        self.crawler.stats.inc_value("parti/websocket/connections")
        logger.info("Connected to %s", self.shown_url)
        if left:
            address, reason = redact_url(left[0]), left[1]
            self.ws_failovers.append({"from": address, "to": self.shown_url, "reason": reason})
            self.crawler.stats.inc_value("parti/websocket/failovers")
            logger.warning("%s from %s: going on with %s", reason, address, self.shown_url)

    def _lost(self, reason: str, retry_after: float | None = None, *, by_us: bool = False) -> float:
        """Return how long to wait; say once in a while what went wrong, or a troubled server would flood the log."""
        # The server may say what it likes.
        reason = redact_text(reason)
        address, now = self.shown_url, time.monotonic()
        wait = self.listener.lost(now, random.random(), reason, retry_after, by_us=by_us)  # noqa: S311
        self.crawler.stats.inc_value("parti/websocket/failures")
        level = logging.DEBUG if now < self._quiet_until else logging.WARNING
        if level == logging.WARNING:
            self._quiet_until = now + _SECONDS_BETWEEN_WARNINGS
        text = "No connection to %s: %s; trying again (failures so far: %d)"
        logger.log(level, text, address, reason, self.listener.failures)
        return wait

    async def _tick(self) -> None:
        """Do what is due, whatever else is waited for."""
        await self._note()
        if self.listener.is_fill_due(time.monotonic()) and not self._is_over():
            self._fill()

    async def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._is_over():
            await self._tick()
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

    def _fill(self) -> None:
        """Ask for the channels that are live."""
        self.listener.fill_began(time.monotonic())
        self._unheard = 0
        self.walks.clear()
        for request in self.begin_walk(Walk((), self.plan(()))):
            self.crawler.engine.crawl(request)

    async def _fill_last(self, ended: float) -> None:
        """Ask once more, since silence proves nothing; not for long, and not where the run is stopped."""
        self.listener.want_fill(ended)
        while not (self.listener.is_proved(ended) or self.truncated or is_closing(self.crawler)):
            if self.listener.is_fill_due(time.monotonic()):
                self._fill()
            elif not self.listener.is_filling or time.monotonic() > ended + self.last_fill_timeout:
                return
            await asyncio.sleep(_SLICE / 8)

    def normalize(self, response: Response, walk: Walk, ask: Ask) -> NormalizedPage[LiveNotification]:
        """Return the channels of a page. Raises PageError."""
        page = normalize_live_notifications(response.body, response.url, timestamp_to_iso(time.time()), self.index)
        self._unheard += sum(item.identity not in self.seen for item in page.items)
        return page

    def is_checkpoint_due(self) -> bool:
        """Leave it to the listening, which looks often."""
        self._is_new = True
        return False

    def end_walk(self, walk: Walk) -> Iterator[Request]:
        """Take note that the gap is filled, or is to be filled later; listening goes on either way."""
        if walk.plan.gaps:
            self.listener.fill_failed(time.monotonic(), walk.plan.gaps[0])
            logger.warning("The live route could not be asked who is live, so again later: %s", walk.plan.gaps[0])
        elif self.listener.filled(self._unheard):
            logger.info("Nothing is missing from before the connection; not heard of: %d", self._unheard)
        yield from ()

    def _note_missed(self, ended: float) -> None:
        """Note what may be missing, unless no more was wanted."""
        self.gaps.remove(_NEVER_LISTENED)
        if self.truncated:
            return
        missed = self.listener.missed(ended, stopped=is_closing(self.crawler))
        if not self.listener.connections:
            tried = ", ".join(map(redact_url, self.ws_urls))
            self.note_gap(f"no connection to {tried} came about: {self.listener.reason or 'the run was over before'}")
        if missed and (self.listener.connections or self.listener.unfilled):
            # The clock that never goes back says nothing to anybody else.
            offset = time.time() - time.monotonic()
            since, until = (timestamp_to_iso(moment + offset) for moment in (missed.since, missed.until))
            self.note_gap(f"not connected from {since} to {until}: {missed.reason}")


def _day_of(moment: str) -> str:
    return f".{moment[:10]}"


def _ending_of(message: aiohttp.WSMessage) -> str:
    """Return in a few words how the connection ended."""
    if message.type is WSMsgType.ERROR:
        return one_line(str(message.data))
    if message.type is WSMsgType.CLOSE:
        return f"closed by the server ({message.data}{f': {one_line(message.extra)}' if message.extra else ''})"
    return "closed"


def _reason_not_taken(message: aiohttp.WSMessage) -> str:
    """Return what is wrong with a message that aiohttp closed the connection for; empty where it was something else."""
    return _NOT_TAKEN.get(getattr(message.data, "code", 0), "") if message.type is WSMsgType.ERROR else ""


def _error_in(record: Any) -> str:
    """Return what an error says that came in place of a notification; empty where it is none."""
    said = next((record[name] for name in _ERROR_FIELDS if record.get(name)), "") if isinstance(record, dict) else ""
    return one_line(said if isinstance(said, str) else json.dumps(said, ensure_ascii=False))


def _keep_alive(connection: aiohttp.ClientWebSocketResponse) -> None:
    """Have the kernel look now and then whether the other end is there."""
    line = connection.get_extra_info("socket")
    if line is None:
        return
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
