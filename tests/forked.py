"""Crawls in processes that are forked from one that has imported everything: quick to begin, and real to kill."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from scrapy.cmdline import execute

from parti_scraper.ledger import Ledger

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["scrapy.crawler", "tests.forked", "parti_scraper.commands.crawl"])


def crawl(
    arguments: list[str], env: Mapping[str, str], log: Path, *, clock: float = 0, crash_at: int = 0
) -> BaseProcess:
    """Begin `scrapy crawl` with what was typed after it.

    Args:
        arguments: what was typed.
        env: the environment.
        log: where what it prints is added.
        clock: seconds that its clock is ahead.
        crash_at: kill it at this one of the moments in which something is brought to the disk, from 1; 0: never.
    """
    process = _context.Process(target=_crawl, args=(arguments, dict(env), log, clock, crash_at))
    process.start()
    return process


def _crawl(arguments: list[str], env: dict[str, str], log: Path, clock: float, crash_at: int) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ.clear()
    os.environ.update(env)
    if clock:
        true_time = time.time
        time.time = lambda: true_time() + clock
    if crash_at:
        _crash_at(crash_at)
    execute(["scrapy", "crawl", *arguments])
    sys.exit()


def _crash_at(number: int) -> None:
    moments = itertools.count(1)

    def crashing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(moments) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    os.fsync = crashing(os.fsync)
    for owner, name in ((Path, "replace"), (Ledger, "begin"), (Ledger, "checkpoint"), (Ledger, "finish")):
        setattr(owner, name, crashing(getattr(owner, name)))
