"""The connection to the WebSocket: connect, subscribe, receive, and reconnect as `Listener` decides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
from aiohttp import WSCloseCode, WSMsgType
from yarl import URL

from parti_scraper.api import routes
from parti_scraper.network.backoff import one_line, parse_retry_after
from parti_scraper.network.errors import kind_of_exception
from parti_scraper.network.hosts import UNREACHABLE
from parti_scraper.network.http import as_scrapy_error
from parti_scraper.network.proxies import proxy_of
from parti_scraper.network.source import says_so, takes_answer
from parti_scraper.redact import redact_text, redact_url

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from scrapy.crawler import Crawler

    from parti_scraper.network.listener import Listener

logger = logging.getLogger(__name__)

_Answered = aiohttp.TraceRequestEndParams | aiohttp.TraceRequestRedirectParams
# How often a wait checks whether the run is over and whether something else is due, in seconds.
SLICE = 0.4
_CONNECT_TIMEOUT = 30.0
# In seconds, for what is not essential: to answer a ping, and to close the connection in both directions.
_COURTESY_TIMEOUT = 1.0
# Bytes; a notification has about a thousand.
_MAX_MESSAGE = 16 * 1024 * 1024
_SWITCHING_PROTOCOLS = 101
_SECONDS_BETWEEN_WARNINGS = 600.0
# A dead connection is silent, as a good one may be. With these, in seconds except for the count, the kernel detects it
# within a minute, unless a proxy in between answers instead of the server.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
# Messages for which aiohttp closes a connection, and how they are described.
_NOT_TAKEN: dict[int, str] = {
    WSCloseCode.MESSAGE_TOO_BIG: f"a message larger than {_MAX_MESSAGE} bytes",
    WSCloseCode.INVALID_TEXT: "a message that is not UTF-8",
}


class Message(NamedTuple):
    """A message of the server: its text, or what was wrong with it, which also ends the connection."""

    text: str
    problem: str = ""


class _LostError(Exception):
    """The connection ended; the text is the reason. Raised and caught here."""


class _NotTakenError(_LostError):
    """The connection was closed on this side because of a message; the text is what was wrong with it."""


class WebSocket:
    """Stays connected to the server until the run is over.

    It reports each connection and its end to the listener; the caller reports what the messages contain.

    Attributes:
        failovers: each failover, as `{"from": …, "to": …, "reason": …}`, without secrets.
    """

    def __init__(
        self,
        listener: Listener,
        crawler: Crawler,
        failovers: list[dict[str, str]],
        *,
        idle_timeout: float,
        count_answer: Callable[[int], bool],
        is_over: Callable[[], bool],
        tick: Callable[[], Awaitable[None]],
    ) -> None:
        """Begin without a connection.

        Args:
            listener: decides where and when to connect, and when a connection was silent for too long.
            crawler: for the stats.
            failovers: those so far.
            idle_timeout: what is too long, in seconds, for the log.
            count_answer: called with the status of each answer; returns whether there were too many requests.
            is_over: returns whether to stop.
            tick: called at least every `SLICE` seconds.
        """
        self.failovers = list(failovers)
        self._listener = listener
        self._crawler = crawler
        self._idle_timeout = idle_timeout
        self._count_answer = count_answer
        self._is_over = is_over
        self._tick = tick
        self._quiet_until = 0.0

    @property
    def shown_url(self) -> str:
        """The address that is connected to, or tried next, without secrets."""
        return redact_url(self._listener.address)

    async def messages(self) -> AsyncGenerator[Message]:
        """Stay connected until the run is over; yields what is received."""
        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(self._answered)
        trace.on_request_end.append(self._answered)
        async with aiohttp.ClientSession(trace_configs=[trace]) as session:
            while not self._is_over():
                async for message in self._attempt(session):
                    yield message

    async def _attempt(self, session: aiohttp.ClientSession) -> AsyncIterator[Message]:
        """Connect and receive; if the connection ends before the run, wait before the next one."""
        try:
            async for message in self._connection(session):
                yield message
            wait = 0.0 if self._is_over() else self._listener.closed(time.monotonic(), random.random())  # noqa: S311
        except aiohttp.ClientResponseError as error:
            is_proxy = isinstance(error, aiohttp.ClientHttpProxyError)
            where = "from the proxy" if is_proxy else "in answer to the handshake"
            header = error.headers.get("Retry-After", "") if error.headers else ""
            wait = self._lost(f"HTTP {error.status} {where}", parse_retry_after(header, time.time()))
        except (aiohttp.ClientError, OSError, TimeoutError, _LostError) as error:
            text = _text_of(error, self._listener.address).replace(self._listener.address, self.shown_url)
            wait = self._lost(one_line(text) or type(error).__name__, by_us=isinstance(error, _NotTakenError))
        await self._sleep(wait)

    async def _answered(self, _session: object, _context: object, params: _Answered) -> None:
        """Look at an answer to a handshake, whatever it is, for where it comes from."""
        response = params.response
        if self._count_answer(response.status):
            self._crawler.stats.inc_value("parti/retry/rate_limited")
        is_open = response.status == _SWITCHING_PROTOCOLS
        takes_answer(self._crawler, str(params.url), says_mock=says_so(response.headers), has_data=is_open)

    async def _connection(self, session: aiohttp.ClientSession) -> AsyncIterator[Message]:
        """Connect, subscribe, and receive until the connection ends or is silent for too long.

        Raises:
            _LostError, and what aiohttp raises: the connection was lost, or failed.
        """
        connection = await self._unless_over(_connect(session, self._listener.address))
        if connection is None:
            return
        try:
            _keep_alive(connection)
            await connection.send_str(routes.SUBSCRIBE)
            self._connected()
            async for message in self._received(connection):
                yield message
        finally:
            # aiohttp's own time-out starts again with each message that still comes.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(connection.close(), _COURTESY_TIMEOUT)

    async def _unless_over(
        self, connecting: Awaitable[aiohttp.ClientWebSocketResponse]
    ) -> aiohttp.ClientWebSocketResponse | None:
        """Wait for a connection; None if the run is over. Raises TimeoutError if it takes too long."""
        task = asyncio.ensure_future(connecting)
        until = time.monotonic() + _CONNECT_TIMEOUT
        while not task.done() and time.monotonic() < until and not self._is_over():
            await asyncio.wait({task}, timeout=SLICE)
            await self._tick()
        if task.done():
            return task.result()
        task.cancel()
        if self._is_over():
            return None
        raise TimeoutError("no answer to the handshake")

    async def _received(self, connection: aiohttp.ClientWebSocketResponse) -> AsyncIterator[Message]:
        while not self._is_over():
            await self._tick()
            if self._listener.is_idle(time.monotonic()):
                self._crawler.stats.inc_value("parti/websocket/idle")
                logger.info("No notification for %g s: connecting again", self._idle_timeout)
                return
            try:
                message = await connection.receive(SLICE)
            except TimeoutError:
                continue
            if message.type is WSMsgType.PING:
                await asyncio.wait_for(connection.pong(message.data), _COURTESY_TIMEOUT)
            if message.type in {WSMsgType.PING, WSMsgType.PONG}:
                continue
            if message.type is WSMsgType.TEXT:
                yield Message(message.data)
            elif message.type is WSMsgType.BINARY:
                yield Message(message.data.decode(errors="backslashreplace"))
            elif problem := _problem_of(message):
                yield Message("", problem)
                raise _NotTakenError(problem)
            else:
                raise _LostError(_ending_of(message))

    def _connected(self) -> None:
        left = self._listener.connected(time.monotonic())
        self._crawler.stats.inc_value("parti/websocket/connections")
        logger.info("Connected to %s", self.shown_url)
        if left:
            address, reason = redact_url(left[0]), left[1]
            self.failovers.append({"from": address, "to": self.shown_url, "reason": reason})
            self._crawler.stats.inc_value("parti/websocket/failovers")
            logger.warning("%s from %s: continuing with %s", reason, address, self.shown_url)

    def _lost(self, reason: str, retry_after: float | None = None, *, by_us: bool = False) -> float:
        """Return how long to wait before the next attempt; arguments as in `Listener.lost`.

        Only some failures are logged as warnings, or a failing server would flood the log.
        """
        # The server chooses the text, which may contain anything.
        reason = redact_text(reason)
        address, now = self.shown_url, time.monotonic()
        wait = self._listener.lost(now, random.random(), reason, retry_after, by_us=by_us)  # noqa: S311
        self._crawler.stats.inc_value("parti/websocket/failures")
        level = logging.DEBUG if now < self._quiet_until else logging.WARNING
        if level == logging.WARNING:
            self._quiet_until = now + _SECONDS_BETWEEN_WARNINGS
        text = "No connection to %s: %s; trying again (failures so far: %d)"
        logger.log(level, text, address, reason, self._listener.failures)
        return wait

    async def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._is_over():
            await self._tick()
            await asyncio.sleep(min(left, SLICE))


def _connect(session: aiohttp.ClientSession, address: str) -> Awaitable[aiohttp.ClientWebSocketResponse]:
    """Connect, through the proxy of the environment if it names one."""
    # aiohttp by itself reads WS_PROXY only.
    proxy = proxy_of(address)
    return session.ws_connect(
        address,
        headers=routes.WS_HEADERS,
        # aiohttp accepts only messages that are smaller than this.
        max_msg_size=_MAX_MESSAGE + 1,
        timeout=aiohttp.ClientWSTimeout(ws_close=_COURTESY_TIMEOUT),
        # With it, `receive` would never return while pings come more often than its time-out.
        autoping=False,
        proxy=proxy and URL(proxy.url).with_user(proxy.user or None).with_password(proxy.password or None),
    )


def _text_of(error: Exception, address: str) -> str:
    """Return what an error says, in the words that are used for HTTP: aiohttp's show a Python object."""
    if not isinstance(error, aiohttp.ClientConnectorError):
        return str(error)
    proxy = proxy_of(address)
    known = as_scrapy_error(error, proxy.url if proxy else None)
    kind = kind_of_exception(known)
    return kind if kind in UNREACHABLE else str(known)


def _keep_alive(connection: aiohttp.ClientWebSocketResponse) -> None:
    """Have the kernel check regularly whether the other end is still there."""
    line = connection.get_extra_info("socket")
    if line is None:
        return
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _ending_of(message: aiohttp.WSMessage) -> str:
    """Return in a few words how the connection ended."""
    if message.type is WSMsgType.ERROR:
        return one_line(str(message.data))
    if message.type is WSMsgType.CLOSE:
        return f"closed by the server ({message.data}{f': {one_line(message.extra)}' if message.extra else ''})"
    return "closed"


def _problem_of(message: aiohttp.WSMessage) -> str:
    """Return what is wrong with a message for which aiohttp closed the connection; empty if it is no such message."""
    return _NOT_TAKEN.get(getattr(message.data, "code", 0), "") if message.type is WSMsgType.ERROR else ""
