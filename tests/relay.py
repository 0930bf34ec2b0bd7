"""A relay between the project and a server: it can be frozen, and serves as a proxy too."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PIECE = 65_536


class Relay:
    """Passes bytes on to a port of this machine, for every requested host.

    Attributes:
        port: where it listens.
        asked: the first line of every connection.
        frozen: while set, received bytes are dropped, as by a connection that is lost without notice.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.asked: list[str] = []
        self.frozen = False
        self._target = target
        self._writers: list[asyncio.StreamWriter] = []
        self._started, self._stop = threading.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        assert self._started.wait(30)

    def stop(self) -> None:
        """Close everything."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        for writer in self._writers:
            writer.transport.abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Cancelled tasks close their connections.
        await asyncio.sleep(0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            first = await reader.readline()
            self.asked.append(first.decode().strip())
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers += [writer, far_writer]
            if first.startswith(b"CONNECT "):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                far_writer.write(first)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, far_writer))
                group.create_task(self._pass(far_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(_PIECE):
            if not self.frozen:
                writer.write(piece)
                await writer.drain()
        if not self.frozen:
            writer.close()


@contextmanager
def relay(target: int) -> Iterator[Relay]:
    """Run a relay."""
    running = Relay(target)
    running.start()
    try:
        yield running
    finally:
        running.stop()
