"""How far a run is: a line on a terminal, elsewhere a line a minute in the log, beside Scrapy's own."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from scrapy import signals
from scrapy.exceptions import NotConfigured
from scrapy.utils.asyncio import create_looping_call
from tqdm import tqdm

from parti_scraper.network.retry import RetryMiddleware
from parti_scraper.plan.outlook import Pace
from parti_scraper.scrapy_internals import root_handler
from parti_scraper.spiders.base import PartiSpider
from parti_scraper.wording import number_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scrapy.crawler import Crawler

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN = 0.25


class _AboveTheLine:
    """A stream that writes above the line instead of into it."""

    def write(self, text: str) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _Line(tqdm):  # type: ignore[type-arg] # it is used without an iterable
    """Records, speed, how far the run is, and pages; in place of these, what it waits for, and how long."""

    _waits_for: str | None = None

    def show(self, records: int, pages: int, parts: Sequence[str], waits_for: str | None) -> None:
        """Show the line, with as many of the parts as fit, the first ones first."""
        self._waits_for = waits_for
        self.update(records - self.n)
        for number in range(len(parts), -1, -1):
            self.set_postfix_str(", ".join([*parts[:number], number_of(pages, "pages")]), refresh=False)
            if self.ncols is None or len(str(self)) < self.ncols:
                break
        self.refresh()

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


class _Watch:
    """Looks at a spider while it runs, at intervals in seconds."""

    def __init__(self, crawler: Crawler, interval: float) -> None:
        self.crawler = crawler
        self._pace = Pace()
        self._interval = interval

    def show(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        # So that the next look shows a speed.
        self.parts()
        self._loop = create_looping_call(self.show)
        self._loop.start(self._interval, now=False)

    def stop(self) -> None:
        self._loop.stop()

    def parts(self) -> list[str]:
        """Return how far the run is, see `Pace.parts`; nothing where that is not known."""
        if isinstance(self.crawler.spider, PartiSpider):
            self._pace.note(self.crawler.spider.outlook(), time.monotonic())
        return self._pace.parts()

    def waits_for(self) -> str | None:
        """Return what the run waits for, and how long."""
        retry = self.crawler.get_downloader_middleware(RetryMiddleware)
        return retry.waits_for() if retry else None


class LoggedProgress(_Watch):
    """Logs how far a run is, without a terminal, as often as Scrapy logs its counts."""

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        interval = crawler.settings.getfloat("LOGSTATS_INTERVAL")
        if not interval or sys.stderr.isatty():
            raise NotConfigured
        progress = cls(crawler, interval)
        crawler.signals.connect(progress.start, signals.spider_opened)
        crawler.signals.connect(progress.stop, signals.spider_closed)
        return progress

    def show(self) -> None:
        """Log a line, if there is anything to say."""
        waits_for = self.waits_for()
        parts = [*self.parts(), *([f"waiting {waits_for}"] if waits_for else [])]
        if parts:
            logger.info("Progress: %s", ", ".join(parts))


class Progress(_Watch):
    """Shows how far a spider is while it runs, and what it waits for."""

    def __init__(self, crawler: Crawler) -> None:
        if not sys.stderr.isatty():
            raise NotConfigured
        super().__init__(crawler, _SECONDS_BETWEEN)
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
        self.start()

    def spider_closed(self) -> None:
        """Remove the line: the summary follows."""
        self.stop()
        self._bar.close()
        if self._handler is not None:
            self._handler.setStream(sys.stderr)

    def show(self) -> None:
        """Bring the line up to date."""
        stats = self.crawler.stats
        records, pages = (stats.get_value(name, 0) for name in ("item_scraped_count", "parti/spider/pages"))
        self._bar.show(records, pages, self.parts(), self.waits_for())
