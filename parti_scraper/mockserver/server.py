"""Runs the mock server in a thread of its own."""

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
    from types import TracebackType

    from parti_scraper.mockserver.sockets import SentNotification

# Nobody but this machine can connect.
_HOST = "127.0.0.1"


class MockServer:
    """The mock of the Parti API, as a context manager: it serves from entry to exit.

    Attributes:
        world: the ground truth of what is served.
        base_url: scheme, host and port, without a slash at the end.
        ws_url: the WebSocket's address.
        api_url: the same of the API; another port where it has moved.
    """

    def __init__(self, options: Options = Options(), *, port: int = 0) -> None:  # noqa: B008 - immutable
        self.world = World(options)
        self._options = options
        self.base_url = ""
        self.ws_url = self.api_url = ""
        self._site = Site(options, self.world)
        self._port = port
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._ready = threading.Event()

    @property
    def requests(self) -> list[ReceivedRequest]:
        """Every HTTP request received so far, in the order of arrival."""
        return self._site.requests

    @property
    def peak_in_flight(self) -> int:
        """The most requests that were being answered at the same time, WebSockets apart."""
        return self._site.peak_in_flight

    @property
    def notifications(self) -> list[SentNotification]:
        """Every WebSocket message sent so far."""
        return self._site.notifier.sent

    def start(self) -> None:
        """Start to serve. Raises OSError where the port is not to be had."""
        if self._thread is not None:
            raise RuntimeError("a mock server starts once; make a new one")
        listening = socket.create_server((_HOST, self._port))
        address = f"{_HOST}:{listening.getsockname()[1]}"
        self.base_url, self.ws_url = f"http://{address}", f"ws://{address}/"
        self.api_url = self.base_url
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
        """Stop to serve and wait for the end; does nothing where it has ended."""
        if self._thread is None or self._loop is None:
            return
        if self._thread.is_alive() and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # It may close in between.
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    async def _serve(self, sockets: list[socket.socket]) -> None:
        self._loop = asyncio.get_running_loop()
        # Half of a request's time would go into a log that is off; what hangs is cut off at once at the end.
        runner = web.AppRunner(self._site.application(), access_log=None, shutdown_timeout=0.1)
        try:
            await runner.setup()
            for listening in sockets:
                await web.SockSite(runner, listening).start()
            self._ready.set()
            await self._stop.wait()
            # asyncio would lose, open for good, a connection that it has accepted but not set up when it stops to
            # listen. So nothing more is accepted, and what was has some turns of the loop.
            for listening in sockets:
                self._loop.remove_reader(listening)
            for _ in range(3):
                await asyncio.sleep(0)
        finally:
            await runner.cleanup()
            self._ready.set()
