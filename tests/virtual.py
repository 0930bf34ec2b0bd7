"""Crawls by a clock of their own, which goes on at once where they would wait: days of a schedule pass in seconds.

Crawl and mock server share one event loop, so it is known when neither has anything left to do. Then the clock is moved
to the next moment that something waits for. On the way it does what was planned: kills, a full disk, a wrong time.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor, thread
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import scrapy.core.engine
from aiohttp import web
from scrapy.core.downloader.handlers._aiohttp import AiohttpDownloadHandler
from twisted.internet.base import ReactorBase

from parti_scraper.mockserver.app import Site
from parti_scraper.mockserver.options import Options, instant_seconds
from parti_scraper.mockserver.world import World
from parti_scraper.network import websocket
from parti_scraper.spiders import notifications
from tests import forked

# How often a crawl that waits looks whether there is something to do, in seconds; it is less by far in earnest.
SLICE = 30.0
# Where `time.monotonic` begins.
_UPTIME = 1_000.0
# What each turn of the loop takes, in seconds.
_TICK = 1e-6
# Real seconds between two looks at what threads and sockets are doing.
_LOOK = 0.005


class Clock:
    """The true time and what the crawls are told, in a file: processes share it, and it outlives those killed.

    Attributes:
        start: where it begins, in Unix seconds.
    """

    def __init__(self, path: Path, start: float) -> None:
        """Open the clock of a file, which is made where it is not there."""
        self.start = start
        with path.open("a+b") as file:
            file.truncate(16)
            self._values = memoryview(mmap.mmap(file.fileno(), 16)).cast("d")

    @property
    def elapsed(self) -> float:
        """The true time, in seconds since the start."""
        return self._values[0]

    @property
    def error(self) -> float:
        """How many seconds what the crawls are told is ahead of the true time."""
        return self._values[1]

    @error.setter
    def error(self, seconds: float) -> None:
        self._values[1] = seconds

    def move(self, elapsed: float) -> None:
        """Move on to a time, in seconds since the start; it never goes back."""
        self._values[0] = max(elapsed, self._values[0])

    def told(self) -> float:
        """Return what `time.time` says: it jumps where somebody sets the clock."""
        return self.start + self._values[0] + self._values[1]

    def monotonic(self) -> float:
        """Return what `time.monotonic` says."""
        return _UPTIME + self._values[0]


@dataclass(frozen=True, order=True)
class Act:
    """Something that happens to a crawl.

    Attributes:
        at: when, in seconds since the start of the clock.
        what: `kill` and `stop` (SIGTERM) at once; `crash` and `full` are `crash_at` and `full_at` of
            `forked.Trouble`, counted from then on; `jump` sets the clock that it is told.
        value: the moment, or how far that clock is ahead from then on, in seconds.
    """

    at: float
    what: str
    value: float = 0

    def happen(self, clock: Clock) -> None:
        """Let it happen to this process."""
        match self.what:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGTERM)
            case "crash":
                forked.make_trouble(forked.Trouble(crash_at=int(self.value)))
            case "full":
                forked.make_trouble(forked.Trouble(full_at=int(self.value)))
            case "jump":
                clock.error = self.value


@dataclass(frozen=True)
class Change:
    """A livestream that was published late, watched once more, or deleted.

    Attributes:
        at: when, in seconds since the start of the clock.
        end: when it ended, in Unix seconds; 0: it is changed or deleted.
        event_id: which one is changed or deleted.
        is_deleted: whether it is deleted.
    """

    at: float
    end: int = 0
    event_id: int = 0
    is_deleted: bool = False

    def happen(self, world: World, elapsed: float) -> float:
        """Let it happen; takes and returns how far the world is moved, in seconds since the start."""
        world.advance(self.at - elapsed)
        if self.end:
            world.insert_now(self.end)
        elif self.is_deleted:
            world.delete_now(self.event_id)
        else:
            world.change_now(self.event_id)
        return self.at


@dataclass(frozen=True)
class Stage:
    """What a crawl takes place in.

    Attributes:
        clock: the file of the clock.
        options: of the server. With the same ones, and the same changes, it is always the same world.
        acts: what happens to the crawl.
        changes: what happened in the world so far beside what it does by itself.
    """

    clock: Path
    options: Options
    acts: tuple[Act, ...] = ()
    changes: tuple[Change, ...] = ()

    def enter(self) -> None:
        """Let this process live by the clock, with a server of its own."""
        clock = Clock(self.clock, instant_seconds(self.options.now))
        time.time, time.monotonic = clock.told, clock.monotonic
        # It has a copy of its own.
        ReactorBase.seconds = staticmethod(clock.told)
        loop = asyncio.SelectorEventLoop(_Selector(clock, sorted(self.acts), _watch()))
        asyncio.set_event_loop(loop)
        _wait_longer()
        listening = socket.create_server(("127.0.0.1", 0))
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        os.environ |= {"PARTI_API_BASE_URLS": f"http://{address}", "PARTI_WS_URL": f"ws://{address}/"}
        # The loop would lose a task that nobody holds.
        loop.serving = loop.create_task(_serve(self._world(clock), self.options, listening))  # type: ignore[attr-defined]

    def _world(self, clock: Clock) -> World:
        world, moved = World(self.options), 0.0
        for change in self.changes:
            moved = change.happen(world, moved)
        world.advance(clock.elapsed - moved)
        return world


class _InFlight:
    """Counts what is under way elsewhere than in the event loop: in threads, and between two sockets."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return self._count > 0

    def __enter__(self) -> Self:
        self.add(1)
        return self

    def __exit__(self, *_: object) -> None:
        self.add(-1)

    def add(self, number: int) -> None:
        """Count what begins, or with -1 what ends."""
        with self._lock:
            self._count += number


class _Selector(selectors.EpollSelector):
    """Moves the clock in place of waiting, as soon as nothing is in flight."""

    def __init__(self, clock: Clock, acts: list[Act], in_flight: _InFlight) -> None:
        super().__init__()
        self._clock = clock
        self._acts = acts
        self._in_flight = in_flight

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; where there is nothing, let so many seconds pass."""
        # A wait that is too short to be added to the time would be over only where time goes on by itself.
        self._clock.move(self._clock.elapsed + _TICK)
        if events := super().select(0):
            return events
        if timeout == 0:
            return []
        # What ends in a thread is told to the loop before it is no longer in flight.
        while self._in_flight:
            if events := super().select(_LOOK):
                return events
        if (events := super().select(0)) or (timeout is None and not self._acts):
            return events or super().select(_LOOK)
        self._pass(timeout)
        return []

    def _pass(self, seconds: float | None) -> None:
        """Let time pass up to the next thing that happens."""
        until = float("inf") if seconds is None else self._clock.elapsed + seconds
        if self._acts and self._acts[0].at <= until:
            act = self._acts.pop(0)
            self._clock.move(act.at)
            act.happen(self._clock)
        else:
            self._clock.move(until)


def _watch() -> _InFlight:
    """Return what counts the requests and threads of this process that are under way."""
    in_flight = _InFlight()
    submit, run = ThreadPoolExecutor.submit, thread._WorkItem.run

    def counted_submit(self: Any, *args: Any, **kwargs: Any) -> Any:
        in_flight.add(1)
        return submit(self, *args, **kwargs)

    def counted_run(self: Any) -> None:
        try:
            run(self)
        finally:
            in_flight.add(-1)

    def counted(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any) -> Any:
            with in_flight:
                return await function(*args)

        return call

    for owner, name, replacement in (
        (ThreadPoolExecutor, "submit", counted_submit),
        (thread._WorkItem, "run", counted_run),
        (AiohttpDownloadHandler, "download_request", counted(AiohttpDownloadHandler.download_request)),
        (websocket, "_connect", counted(websocket._connect)),
    ):
        setattr(owner, name, replacement)
    return in_flight


def _wait_longer() -> None:
    """Wake less often: nobody would notice, but each time takes as long as if somebody did."""
    for module in (websocket, notifications):
        module.SLICE = SLICE  # type: ignore[attr-defined]
    scrapy.core.engine.ExecutionEngine._SLOT_HEARTBEAT_INTERVAL = SLICE


async def _serve(world: World, options: Options, listening: socket.socket) -> None:
    runner = web.AppRunner(Site(options, world).application(), access_log=None)
    await runner.setup()
    await web.SockSite(runner, listening).start()
