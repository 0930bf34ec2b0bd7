"""Commands in processes that are forked from one that has imported everything: they start fast, and can be killed."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from scrapy.cmdline import execute

from parti_scraper.exceptions import LedgerError
from parti_scraper.ledger.ledger import Ledger
from parti_scraper.spiders import recent

ROOT = Path(__file__).parent.parent

_context = multiprocessing.get_context("forkserver")
PRELOADED = ("tests.preloaded", "tests.forked")


def preload(*modules: str) -> None:
    """Have modules imported before anything is forked; of no effect once something was."""
    _context.set_forkserver_preload([*PRELOADED, *modules])


preload()


# Log lines at the start and the end of a slow moment.
SLOW, OVER = "the disk is slow", "the disk is slow no longer"
FULL = os.strerror(errno.ENOSPC)


@dataclass(frozen=True)
class Trouble:
    """What goes wrong in a process. Moments are its syncs to the disk, counted from 1; 0: never.

    Attributes:
        clock: seconds that its clock is ahead.
        crash_at: it is killed at this moment.
        full_at: the disk is full from this moment on.
        slow_at: this moment lasts until a file is there, and the log says so.
        fast_again: this file.
        eager: it takes a checkpoint every ten pages, without a minimal time between them.
        before: is called in the process before anything else of the command.
    """

    clock: float = 0
    crash_at: int = 0
    full_at: int = 0
    slow_at: int = 0
    fast_again: Path = Path()
    eager: bool = False
    before: Callable[[], object] | None = None


def crawl(arguments: list[str], env: Mapping[str, str], log: Path, **trouble: Any) -> BaseProcess:
    """Start `scrapy crawl` with arguments.

    Args:
        arguments: what was typed.
        env: the environment.
        log: where what it prints is added.
        trouble: see `Trouble`.
    """
    return command(["crawl", *arguments], env, log, **trouble)


def command(typed: list[str], env: Mapping[str, str], log: Path, **trouble: Any) -> BaseProcess:
    """Start a `scrapy` command that gets into trouble; see `crawl`."""
    return _begin(typed, env, (log, log), Trouble(**trouble))


class Scrapy:
    """A running `scrapy` command, with the methods of `subprocess.Popen` that the tests need."""

    def __init__(self, typed: list[str], env: Mapping[str, str], **trouble: Any) -> None:
        """Start it with the arguments of `scrapy` and its environment; for `trouble` see `Trouble`."""
        self._folder = tempfile.TemporaryDirectory()
        self._printed = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        self._process = _begin(typed, env, self._printed, Trouble(**trouble))
        self.pid = self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        """The exit code; None while it runs."""
        return self.poll()

    @property
    def stderr(self) -> str:
        """What it has printed there so far."""
        return self._text(self._printed[1])

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, and return the exit code."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("scrapy", timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait until it has ended, and return what it has printed."""
        self.wait(timeout)
        stdout, stderr = map(self._text, self._printed)
        self.close()
        return stdout, stderr

    def close(self) -> None:
        """Kill it if it still runs, and delete its output."""
        self.kill()
        self._process.join()
        self._folder.cleanup()

    def _text(self, path: Path) -> str:
        # Line breaks are not translated.
        return path.read_bytes().decode() if path.exists() else ""


def start(function: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Call a function in a process with the environment of this one."""
    process = _context.Process(target=_call, args=(function, arguments, dict(os.environ)))
    process.start()
    return process


def barrier(parties: int) -> Barrier:
    """Return what so many processes wait at for each other."""
    return _context.Barrier(parties)


def _call(function: Callable[..., None], arguments: Sequence[Any], env: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)
    function(*arguments)


def _begin(typed: list[str], env: Mapping[str, str], printed: Sequence[Path], trouble: Trouble) -> BaseProcess:
    process = _context.Process(target=_run, args=(typed, dict(env), printed, trouble))
    process.start()
    return process


def _run(typed: list[str], env: dict[str, str], printed: Sequence[Path], trouble: Trouble) -> None:
    for number, path in enumerate(printed, 1):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, number)
        os.close(handle)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(ROOT)
    sys.argv = ["scrapy", *typed]
    if trouble.clock:
        true_time = time.time
        time.time = lambda: true_time() + trouble.clock
    if trouble.eager:
        recent.CHECKPOINT_SECONDS = 0
    if trouble.crash_at or trouble.full_at or trouble.slow_at:
        make_trouble(trouble)
    if trouble.before:
        trouble.before()
    execute()
    sys.exit()


def make_trouble(trouble: Trouble) -> None:
    """Let this process go through it; its moments are counted from now on."""
    moments = itertools.count(1)

    def troubled(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            moment = next(moments)
            if moment == trouble.crash_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if 0 < trouble.full_at <= moment:
                raise LedgerError(FULL) if isinstance(args[0], Ledger) else OSError(errno.ENOSPC, FULL)
            if moment == trouble.slow_at:
                print(SLOW, file=sys.stderr, flush=True)
                while not trouble.fast_again.exists():
                    time.sleep(0.01)
                print(OVER, file=sys.stderr, flush=True)
            return function(*args, **kwargs)

        return call

    os.fsync = troubled(os.fsync)
    for owner, name in ((Path, "replace"), (Ledger, "begin"), (Ledger, "checkpoint"), (Ledger, "finish")):
        setattr(owner, name, troubled(getattr(owner, name)))
