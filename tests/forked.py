"""Crawls in processes that are forked from one that has imported everything: quick to begin, and real to kill."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from scrapy.cmdline import execute

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["scrapy.crawler", "tests.forked", "parti_scraper.commands.crawl"])


def crawl(arguments: list[str], env: dict[str, str], log: Path) -> BaseProcess:
    """Begin `scrapy crawl` with what was typed after it; what it prints goes to a file."""
    process = _context.Process(target=_crawl, args=(arguments, env, log))
    process.start()
    return process


def _crawl(arguments: list[str], env: dict[str, str], log: Path) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ.clear()
    os.environ.update(env)
    execute(["scrapy", "crawl", *arguments])
    sys.exit()
