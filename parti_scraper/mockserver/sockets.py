"""The WebSocket of the mock server: notifies subscribers of channels that go live."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import WSCloseCode, WSMsgType, web

from parti_scraper.mockserver.history import fraction, mix
from parti_scraper.mockserver.records import encode

if TYPE_CHECKING:
    from parti_scraper.mockserver.history import Stream
    from parti_scraper.mockserver.options import Options
    from parti_scraper.mockserver.world import World

_SALT_WHETHER, _SALT_WHICH, _SALT_REFUSED = 401, 402, 403
# Longer than any notification.
_OVERSIZED = "x" * 2_000_000
_UNAUTHORIZED = '{"error":"unauthorized"}'
# Seconds between two useless messages, or two pings.
_NONSENSE_EVERY = 0.05


@dataclass(frozen=True, slots=True)
class SentNotification:
    """One message to a subscriber.

    Attributes:
        event_id: of the livestream.
        text: the message; bytes if it is a binary one.
        malformed: whether something else was sent instead of the notification.
    """

    event_id: int
    text: str | bytes
    malformed: bool


class Notifier:
    """Serves every WebSocket connection.

    Attributes:
        sent: every message sent so far, over all connections.
    """

    def __init__(self, options: Options, world: World) -> None:
        self.sent: list[SentNotification] = []
        self._options = options
        self._world = world
        self._open: dict[web.WebSocketResponse, asyncio.Event] = {}
        self._handshakes = self._cuts = 0
        self._subscribed_at: float | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one connection until either side closes it."""
        self._handshakes += 1
        if fraction(self._options.seed, self._handshakes, _SALT_REFUSED) < self._options.ws_refused:
            return web.Response(status=(429, 503)[self._handshakes % 2])
        # aiohttp would answer pings; the real server is reported to answer none.
        connection = web.WebSocketResponse(autoping=False)
        await connection.prepare(request)
        loop = asyncio.get_running_loop()
        wake = self._open[connection] = asyncio.Event()

        def clock_moved() -> None:
            with contextlib.suppress(RuntimeError):  # The loop may be closed.
                loop.call_soon_threadsafe(wake.set)

        self._world.listeners.append(clock_moved)
        try:
            async with asyncio.timeout(self._options.ws_drop_after or None):
                await self._listen(connection, wake)
        except TimeoutError:
            await connection.close(code=WSCloseCode.GOING_AWAY, message=b"bye")
        finally:
            self._world.listeners.remove(clock_moved)
            del self._open[connection]
        return connection

    async def shut_down(self, _application: web.Application) -> None:
        """Close all connections; the server stops."""
        for connection in list(self._open):
            await connection.close(code=WSCloseCode.GOING_AWAY, message=b"server shutdown")

    async def _listen(self, connection: web.WebSocketResponse, wake: asyncio.Event) -> None:
        """Read what the client sends; once it has subscribed, notify it of channels that go live."""
        notifying: asyncio.Task[None] | None = None
        try:
            async for message in connection:
                if message.type is WSMsgType.PING and self._options.ws_ping == "answered":
                    await connection.pong(message.data)
                elif message.type is WSMsgType.TEXT and notifying is None and _is_subscription(message.data):
                    if self._options.ws_answer == "pings":
                        await _only_ping(connection)
                    notifying = asyncio.create_task(self._notify(connection, wake, self._world.started_count()))
        finally:
            if notifying is not None:
                notifying.cancel()
                # Errors do not matter any more: the connection is closed.
                await asyncio.gather(notifying, return_exceptions=True)

    async def _notify(self, connection: web.WebSocketResponse, wake: asyncio.Event, first: int) -> None:
        """Send a notification for every stream that starts, from number `first` on."""
        self._subscribed_at = self._subscribed_at or time.monotonic()
        if self._options.ws_answer != "notifications":
            await self._refuse(connection)
            return
        place = first
        while not connection.closed:
            wake.clear()
            for stream in self._world.started(place):
                place += 1
                if self._is_deaf():
                    continue
                await self._send(connection, stream)
                if self._options.ws_drop_every and place - first == self._options.ws_drop_every:
                    await self._cut(connection)
                    return
            seconds = self._world.seconds_to_next_start()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), None if math.isinf(seconds) else max(seconds, 0.001))

    async def _refuse(self, connection: web.WebSocketResponse) -> None:
        """Send a subscriber something else than notifications, as `--ws-answer` says."""
        answer = self._options.ws_answer
        while answer == "nonsense" and not connection.closed:
            await connection.send_str("[]")
            await asyncio.sleep(_NONSENSE_EVERY)
        if answer in {"error", "silence"}:
            await connection.send_str(_UNAUTHORIZED)
        if answer in {"error", "close"}:
            await connection.close()

    def _is_deaf(self) -> bool:
        after = self._options.ws_deaf_after
        return bool(after and self._subscribed_at) and time.monotonic() - (self._subscribed_at or 0.0) >= after

    async def _cut(self, connection: web.WebSocketResponse) -> None:
        """End a connection: in turn with a close frame and as a dropped connection."""
        self._cuts += 1
        if self._cuts % 2:
            await connection.close(code=WSCloseCode.SERVICE_RESTART, message=b"restart")
        elif (transport := connection.get_extra_info("socket")) is not None:
            transport.shutdown(socket.SHUT_RDWR)

    async def _send(self, connection: web.WebSocketResponse, stream: Stream) -> None:
        record = self._world.notification(stream)
        malformed = fraction(self._options.seed, stream.event_id, _SALT_WHETHER) < self._options.ws_malformed
        if self._options.ws_padding and not self.sent:
            record |= {"padding": "x" * (self._options.ws_padding - len(encode(record | {"padding": ""})))}
        text = self._malformed(record) if malformed else encode(record).decode()
        self.sent.append(SentNotification(stream.event_id, text, malformed))
        if isinstance(text, bytes):
            await connection.send_bytes(text)
        else:
            await connection.send_str(text)

    def _malformed(self, record: dict[str, Any]) -> str | bytes:
        """Return something that is no notification, always the same for the same stream."""
        whole = json.dumps(record)
        variants: tuple[str | bytes, ...] = (
            "hello",
            "",
            whole[: len(whole) // 2],
            "[]",
            json.dumps([record]),
            "null",
            "42",
            '"live"',
            "{}",
            '{"error":"internal"}',
            json.dumps({name: value for name, value in record.items() if name not in {"user_id", "event_id"}}),
            json.dumps(record | {"user_id": None, "event_id": "abc"}),
            b"\xff\xfe\x00",
            _OVERSIZED,
        )
        return variants[mix(self._options.seed, record["event_id"], _SALT_WHICH) % len(variants)]


async def _only_ping(connection: web.WebSocketResponse) -> None:
    """Ping until the connection is lost, and read nothing, not even the client's close frame."""
    with contextlib.suppress(ConnectionError):
        while True:
            await connection.ping()
            await asyncio.sleep(_NONSENSE_EVERY)


def _is_subscription(text: str) -> bool:
    """Return whether a message subscribes to the notifications."""
    try:
        message = json.loads(text)
    except ValueError:
        return False
    options = message.get("subscribe_options") if isinstance(message, dict) else None
    return isinstance(options, dict) and "NewChannelLiveNotify" in options
