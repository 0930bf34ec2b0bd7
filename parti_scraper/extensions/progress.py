"""A line of progress on a terminal. Elsewhere Scrapy logs a line a minute."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Self

from scrapy import signals
from scrapy.exceptions import NotConfigured
from scrapy.utils.asyncio import create_looping_call
from tqdm import tqdm

from parti_scraper.network.retry import RetryMiddleware
from parti_scraper.scrapy_internals import root_handler
from parti_scraper.wording import number_of

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


class _Line(tqdm):  # type: ignore[type-arg] # it is used without an iterable
    """Records, pages and speed; in place of the speed, what the run waits for, and how long."""

    _waits_for: str | None = None

    def show(self, records: int, pages: int, waits_for: str | None) -> None:
        self._waits_for = waits_for
        self.update(records - self.n)
        self.set_postfix_str(number_of(pages, "pages"))

    @property
    def format_dict(self) -> Any:
        """What the line is made of; tqdm asks for it."""
        parts = super().format_dict
        if self._waits_for is None:
            return parts
        head = f"{parts['prefix']}: {parts['n']}{parts['unit']} [{self.format_interval(parts['elapsed'])}, "
        # A line that does not fit would not be removed.
        text = f"waiting {self._waits_for}]"[: max(parts["ncols"] - len(head) - 1, 0)]
        return {**parts, "bar_format": (head + text).replace("{", "{{").replace("}", "}}")}


class Progress:
    """Shows how far a spider is while it runs, and what it waits for."""

    def __init__(self, crawler: Crawler) -> None:
        if not sys.stderr.isatty():
            raise NotConfigured
        self.crawler = crawler
        self._bar: Any = None
        self._handler: Any = None

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        progress = cls(crawler)
        crawler.signals.connect(progress.spider_opened, signals.spider_opened)
        crawler.signals.connect(progress.spider_closed, signals.spider_closed)
        return progress

    def spider_opened(self) -> None:
        """Show the line, and write log lines above it."""
        # Some terminals have no size, and there tqdm shows nothing.
        columns, rows = os.get_terminal_size(sys.stderr.fileno())
        self._bar = _Line(
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
        """Remove the line: the summary follows."""
        self._loop.stop()
        self._bar.close()
        if self._handler is not None:
            self._handler.setStream(sys.stderr)

    def _show(self) -> None:
        stats = self.crawler.stats
        records, pages = (stats.get_value(name, 0) for name in ("item_scraped_count", "parti/spider/pages"))
        retry = self.crawler.get_downloader_middleware(RetryMiddleware)
        self._bar.show(records, pages, retry.waits_for() if retry else None)
