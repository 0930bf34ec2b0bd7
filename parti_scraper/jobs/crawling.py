"""A crawl as a process of a worker."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import parti_scraper
from parti_scraper.redact import Secret
from parti_scraper.secret_settings import SECRETS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scrapy.settings import BaseSettings

# Bytes of what a crawl prints that are kept; the last ones.
_KEPT = 65_536
# Seconds that a crawl has to end in once it was told to stop.
_PATIENCE = 60


class Crawl:
    """A `scrapy crawl` that goes on, and ends with this process and its heartbeats.

    Attributes:
        was_told: whether it was told to stop.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.was_told = False
        self._said = asyncio.create_task(self._read())
        self._ended = asyncio.create_task(process.wait())

    @classmethod
    async def start(
        cls, spider: str, arguments: Mapping[str, str], run_id: str, log: Path, environment: Mapping[str, str]
    ) -> Crawl:
        """Start it. Raises OSError."""
        log.parent.mkdir(parents=True, exist_ok=True)
        typed = [word for name, value in arguments.items() for word in ("-a", f"{name}={value}")]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "parti_scraper.jobs.child", str(os.getpid()), "crawl", spider),
            *(*typed, "-a", f"run_id={run_id}", "-s", f"LOG_FILE={log}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environment),
            # Not Ctrl-C: the worker tells it.
            start_new_session=True,
        )
        return cls(process)

    def beat(self) -> None:
        """Tell it that the database has taken a heartbeat of the worker."""
        stdin = self._process.stdin
        # It may have ended, or have stopped to read.
        if stdin and not stdin.is_closing() and stdin.transport.get_write_buffer_size() == 0:
            stdin.write(b".")

    async def wait(self, seconds: float | None = None) -> int | None:
        """Wait for its end, and return the exit code, or the negative signal; None if it goes on after the seconds."""
        await asyncio.wait([self._ended], timeout=seconds)
        return self._ended.result() if self._ended.done() else None

    async def stop(self) -> int:
        """Tell it to stop, unless it has ended, and wait for its end; it is killed if that takes too long."""
        self.tell()
        code = await self.wait(_PATIENCE)
        if code is None:
            self._signal(signal.SIGKILL)
            code = await self._ended
        return code

    def tell(self) -> None:
        """Tell it to stop, unless it has ended."""
        if not (self.was_told or self._ended.done()):
            self.was_told = True
            self._signal(signal.SIGTERM)

    async def said(self, begin: str) -> str:
        """Return how it has ended: its line that begins like this, else the last line that it has printed, if any."""
        lines = (await self._said).decode(errors="replace").strip().splitlines()
        silent = f"{begin} ended by {_name_of(self._ended.result())}, and said nothing"
        return next((line for line in lines if line.startswith(begin)), lines[-1] if lines else silent)

    async def _read(self) -> bytes:
        kept = b""
        while self._process.stderr and (block := await self._process.stderr.read(_KEPT)):
            kept = (kept + block)[-_KEPT:]
        return kept

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)


def _name_of(code: int) -> str:
    """Return what an exit code means, if it is negative the signal."""
    return f"a signal: {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"


def environment_of(settings: BaseSettings) -> dict[str, str]:
    """Return the environment of crawls: the settings of this machine, of the secrets only the token.

    Who is told of trouble is not among them: a crawl would judge by the runs of one machine what is the work of all.
    """
    environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
    for name in settings:
        value = settings[name]
        if name.startswith("PARTI_") and isinstance(value, str):
            environment[name] = value
    token = settings["PARTI_TOKEN"]
    if isinstance(token, Secret) and token:
        environment["PARTI_TOKEN"] = token.reveal()
    # Where the package is not installed, it is found from any folder.
    paths = [str(Path(parti_scraper.__file__).parent.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment
