"""Crawls by virtual clocks that wait for each other: none passes a moment before it is allowed to.

So services that run for days go on beside jobs that take seconds, in the order of the time that they are told.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web
from twisted.internet.base import ReactorBase

from parti_scraper.mockserver.app import Site
from parti_scraper.mockserver.options import Options, instant_seconds
from parti_scraper.mockserver.world import World
from parti_scraper.network import websocket
from parti_scraper.spiders import notifications
from tests import forked
from tests.virtual import Act, Clock, _Selector, _wait_longer, _watch

# How often a service that listens looks whether there is something to do, in seconds.
_SLICE = 120.0
# Real seconds between two looks whether a process may go on.
LOOK = 0.003
_NUMBERS = 5


def _shared(place: int) -> Any:
    """Return a property of a gate that is in its file."""

    def read(gate: Gate) -> float:
        return float(gate._values[place])

    def write(gate: Gate, value: float) -> None:
        gate._values[place] = value

    return property(read, write)


class Gate:
    """What the driver and a process tell each other, in a file.

    Attributes:
        limit: up to when the process may go, in seconds since the start of the clock.
        parked: at which limit it waits.
        requests: how many the server has had from all processes of this gate.
        is_full: whether the disk is full.
        driver: the process of the driver; none goes on without it.
    """

    def __init__(self, path: Path) -> None:
        """Open the gate of a file, which is made where it is not there."""
        size = 8 * _NUMBERS
        with path.open("a+b") as file:
            file.truncate(size)
            self._values = memoryview(mmap.mmap(file.fileno(), size)).cast("d")

    limit, parked, requests, is_full, driver = map(_shared, range(_NUMBERS))

    def wait(self, is_woken: Callable[[], bool]) -> None:
        """Wait until the process may go on, or is woken by a signal."""
        limit = self.limit
        self.parked = limit
        while self.limit <= limit and not is_woken():
            os.kill(int(self.driver), 0)
            time.sleep(LOOK)


class Weather(NamedTuple):
    """What the server is like from one moment to another, in seconds since the start of the clock.

    Attributes:
        what: `dead`: no host answers; `moved`: the first one does not; `absent`: livestreams lack the fields; `new`:
            they have further ones.
        fields: the names of these.
    """

    since: float
    until: float
    what: str
    fields: tuple[str, ...] = ()


class _Changing(Site):
    """A server as the weather says; its hosts are told apart by their ports."""

    def __init__(self, options: Options, world: World, stage: GatedStage, first_port: int) -> None:
        super().__init__(options, world)
        self._weathers = stage.weathers
        self._clock, self._gate = stage.opened()
        self._first_port = str(first_port)

    def _now(self, what: str) -> list[Weather]:
        return [each for each in self._weathers if each.what == what and each.since <= self._clock.elapsed < each.until]

    def _is_gone(self, request: web.Request) -> bool:
        is_first = request.host.endswith(f":{self._first_port}")
        return bool(self._now("dead") or (is_first and self._now("moved")))

    def _refusal(self, request: web.Request) -> web.Response | None:
        self._gate.requests += 1
        if self._is_gone(request):
            return _cut(request)
        return super()._refusal(request)

    async def _root(self, request: web.Request) -> web.StreamResponse:
        if self._is_gone(request):
            return _cut(request)
        return await super()._root(request)

    def _response(self, request: web.Request, body: bytes) -> web.Response:
        absent = {name for each in self._now("absent") for name in each.fields}
        new = {name: 1 for each in self._now("new") for name in each.fields}
        if (absent or new) and not request.path.endswith("/categories"):
            records = [
                {name: value for name, value in record.items() if name not in absent} | new
                for record in json.loads(body)
            ]
            body = json.dumps(records).encode()
        return super()._response(request, body)

    async def close_in_time(self) -> None:
        """Close the connections of listeners whenever the host dies."""
        for each in sorted(self._weathers):
            if each.what == "dead" and each.until > self._clock.elapsed:
                await asyncio.sleep(max(each.since - self._clock.elapsed, 0))
                await self.notifier.shut_down(web.Application())


def _cut(request: web.Request) -> web.Response:
    """Close the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=503)


class _Gated(_Selector):
    """Stops the clock where the gate says so."""

    def __init__(self, clock: Clock, gate: Gate, in_flight: Any) -> None:
        # With something to do at last, it lets time pass also where nothing has a time at which it goes on.
        super().__init__(clock, [Act(float("inf"), "stop")], in_flight)
        self._gate = gate
        self._is_full = False

    def _pass(self, seconds: float | None) -> None:
        if self._gate.is_full and not self._is_full:
            self._is_full = True
            fill_disk()
        until = float("inf") if seconds is None else self._clock.elapsed + seconds
        if until <= self._gate.limit:
            super()._pass(seconds)
            return
        self._clock.move(self._gate.limit)
        self._gate.wait(lambda: bool(super(_Selector, self).select(0)))


def fill_disk() -> None:
    """Let the disk be full for this process."""
    forked.make_trouble(forked.Trouble(full_at=1))
    usage = shutil.disk_usage("/")
    shutil.disk_usage = lambda _: usage._replace(used=usage.total, free=0)  # type: ignore[assignment]


@dataclass(frozen=True)
class GatedStage:
    """What a crawl takes place in: a clock and a gate, and a server of its own with two hosts.

    Attributes:
        clock, gate: their files.
        options: of the server.
        weathers: what it is like.
        trouble: what else happens to the process.
    """

    clock: Path
    gate: Path
    options: Options
    weathers: Sequence[Weather] = ()
    trouble: forked.Trouble | None = None

    def opened(self) -> tuple[Clock, Gate]:
        """Return the clock and the gate."""
        return Clock(self.clock, instant_seconds(self.options.now)), Gate(self.gate)

    def enter(self) -> None:
        """Let this process live by the clock."""
        clock, gate = self.opened()
        time.time, time.monotonic = clock.told, clock.monotonic
        # It has a copy of its own.
        ReactorBase.seconds = staticmethod(clock.told)
        loop = asyncio.SelectorEventLoop(_Gated(clock, gate, _watch()))
        asyncio.set_event_loop(loop)
        _wait_longer()
        for module in (websocket, notifications):
            module.SLICE = _SLICE  # type: ignore[attr-defined]
        listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        ports = [each.getsockname()[1] for each in listening]
        os.environ["PARTI_API_BASE_URLS"] = ",".join(f"http://127.0.0.1:{port}" for port in ports)
        os.environ["PARTI_WS_URL"] = f"ws://127.0.0.1:{ports[1]}/"
        world = World(self.options)
        world.advance(clock.elapsed)
        site = _Changing(self.options, world, self, ports[0])
        # The loop would lose tasks that nobody holds.
        loop.serving = [  # type: ignore[attr-defined]
            loop.create_task(_serve(site, listening)),
            loop.create_task(site.close_in_time()),
        ]
        if self.trouble:
            forked.make_trouble(self.trouble)
        if gate.is_full:
            fill_disk()


async def _serve(site: Site, listening: Sequence[socket.socket]) -> None:
    runner = web.AppRunner(site.application(), access_log=None)
    await runner.setup()
    for each in listening:
        await web.SockSite(runner, each).start()


@dataclass(frozen=True)
class Told:
    """What a command that does not crawl takes place in: the time, and the disk.

    Attributes:
        now: Unix seconds.
        is_full: whether the disk is full.
    """

    now: float
    is_full: bool = False

    def enter(self) -> None:
        """Let this process be told the time."""
        time.time = lambda: self.now
        if self.is_full:
            fill_disk()
