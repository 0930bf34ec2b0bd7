"""A line of progress on a terminal. Elsewhere Scrapy's own log line a minute says as much."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Self

from scrapy import signals
from scrapy.exceptions import NotConfigured
from scrapy.utils.asyncio import create_looping_call
from tqdm import tqdm

from parti_scraper.scrapy_internals import root_handler

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

_SECONDS_BETWEEN = 0.25


class _AboveTheLine:
    """A stream that writes above the line instead of into it."""

    def write(self, text: str) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class Progress:
    """Shows records, pages and speed while a spider runs."""

    def __init__(self, crawler: Crawler) -> None:
        if not sys.stderr.isatty():
            raise NotConfigured
        self.crawler = crawler
        self._bar: Any = None
        self._handler: Any = None

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Connect to the beginning and the end of the run."""
        progress = cls(crawler)
        crawler.signals.connect(progress.spider_opened, signals.spider_opened)
        crawler.signals.connect(progress.spider_closed, signals.spider_closed)
        return progress

    def spider_opened(self) -> None:
        """Show the line, and make room for log lines above it."""
        # Some terminals have no size, and there tqdm shows nothing.
        columns, rows = os.get_terminal_size(sys.stderr.fileno())
        self._bar = tqdm(
            desc=self.crawler.spidercls.name,
            unit=" records",
            file=sys.stderr,
            leave=False,
            ncols=columns or 80,
            nrows=rows or 24,
        )
        handler = root_handler()
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr:
            self._handler = handler
            handler.setStream(_AboveTheLine())
        self._loop = create_looping_call(self._show)
        self._loop.start(_SECONDS_BETWEEN, now=False)

    def spider_closed(self) -> None:
        """Take the line away: the summary follows."""
        self._loop.stop()
        self._bar.close()
        if self._handler is not None:
            self._handler.setStream(sys.stderr)

    def _show(self) -> None:
        stats = self.crawler.stats
        self._bar.set_postfix_str(f"{stats.get_value('parti/spider/pages', 0)} pages", refresh=False)
        self._bar.update(stats.get_value("item_scraped_count", 0) - self._bar.n)
