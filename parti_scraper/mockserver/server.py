"""Runs the mock server in its own thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Self

from aiohttp import web

from parti_scraper.mockserver.app import ReceivedRequest, Site
from parti_scraper.mockserver.options import Options
from parti_scraper.mockserver.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

    from parti_scraper.mockserver.sockets import SentNotification

# Only this machine can connect.
_HOST = "127.0.0.1"


class MockServer:
    """The mock of the Parti API, as a context manager: it serves from entry to exit.

    Attributes:
        world: the ground truth.
        requests: every HTTP request so far, in the order of arrival.
        notifications: every WebSocket message sent so far.
        base_url: scheme, host and port, without a slash at the end.
        ws_url: address of the WebSocket.
        api_url: like `base_url`, for the API; with `--api-moved` it has another port.
    """

    def __init__(self, options: Options = Options(), *, port: int = 0) -> None:  # noqa: B008 - immutable
        self.world = World(options)
        self.base_url = self.ws_url = self.api_url = ""
        self._options = options
        self._site = Site(options, self.world)
        self.requests: list[ReceivedRequest] = self._site.requests
        self.notifications: list[SentNotification] = self._site.notifier.sent
        self._port = port
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._ready = threading.Event()

    @property
    def peak_in_flight(self) -> int:
        """The most requests in flight at the same time, without WebSockets."""
        return self._site.peak_in_flight

    @property
    def held(self) -> Callable[[ReceivedRequest], bool] | None:
        """Tells of each request to the API whether it waits until this is another function, or None; may be set."""
        return self._site.held

    @held.setter
    def held(self, held: Callable[[ReceivedRequest], bool] | None) -> None:
        self._site.held = held

    def start(self) -> None:
        """Start to serve. Raises OSError if the port cannot be used."""
        if self._thread is not None:
            raise RuntimeError("a mock server starts once; make a new one")
        listening = socket.create_server((_HOST, self._port))
        address = f"{_HOST}:{listening.getsockname()[1]}"
        self.base_url = self.api_url = f"http://{address}"
        self.ws_url = f"ws://{address}/"
        sockets = [listening]
        if self._options.api_moved:
            sockets.append(socket.create_server((_HOST, 0)))
            self.api_url = self._site.api_url = f"http://{_HOST}:{sockets[1].getsockname()[1]}"
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(sockets)), name="mockserver", daemon=True
        )
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Stop serving and wait for the end; does nothing if it has ended."""
        if self._thread is None or self._loop is None:
            return
        if self._thread.is_alive() and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # The loop may close just now.
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    async def _serve(self, sockets: list[socket.socket]) -> None:
        self._loop = asyncio.get_running_loop()
        # An access log would take half of a request's time; at the end, requests that hang are cut off at once.
        runner = web.AppRunner(self._site.application(), access_log=None, shutdown_timeout=0.1)
        try:
            await runner.setup()
            for listening in sockets:
                await web.SockSite(runner, listening).start()
            self._ready.set()
            await self._stop.wait()
            # asyncio would never close a connection that is accepted but not set up when listening stops. So it first
            # accepts no more, and some turns of the loop set up what it has accepted.
            for listening in sockets:
                self._loop.remove_reader(listening)
            for _ in range(3):
                await asyncio.sleep(0)
        finally:
            await runner.cleanup()
            self._ready.set()
