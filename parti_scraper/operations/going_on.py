"""Metrics of runs that may last for days, while they go on: their end, which others wait for, may never come."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Self

from scrapy.exceptions import NotConfigured

from parti_scraper.api.times import iso_to_timestamp
from parti_scraper.operations.metrics import Metrics, counts_of, write_metrics
from parti_scraper.run.context import run_of
from parti_scraper.signals import checkpoint

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

    from parti_scraper.run.context import Run
    from parti_scraper.run.days import Days

logger = logging.getLogger(__name__)

# At least so many seconds are between two files: node_exporter is asked every minute or so.
_SECONDS_BETWEEN = 60.0


class GoingOn:
    """Writes the metrics at checkpoints: one follows each snapshot, and many come while something is listened to."""

    def __init__(self, crawler: Crawler, run: Run, days: Days) -> None:
        self._crawler = crawler
        self._run = run
        self._days = days
        self._began = time.monotonic()
        self._written: float | None = None
        self._success: float | None = None
        self._problem: str | None = None

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Build the extension. Raises NotConfigured if no metrics are wanted, or the run is one with an end."""
        run = run_of(crawler)
        if run is None or run.days is None or not crawler.settings["PARTI_METRICS_DIR"]:
            raise NotConfigured
        going_on = cls(crawler, run, run.days)
        crawler.signals.connect(going_on.checkpoint, checkpoint)
        return going_on

    def checkpoint(self) -> None:
        """Write the metrics, unless that was done a moment ago; why that cannot be is said once."""
        now = time.monotonic()
        before, self._success = self._success, good_until(self._days, self._success)
        is_first = before is None and self._success is not None
        if self._written is not None and now - self._written < _SECONDS_BETWEEN and not is_first:
            return
        self._written = now
        try:
            problem = self._write(now)
        except Exception as error:  # noqa: BLE001 - an exception here would end the run as stopped
            problem = type(error).__name__
        if problem and problem != self._problem:
            logger.warning("No metrics are written: %s", problem)
        self._problem = problem

    def _write(self, now: float) -> str | None:
        metrics = Metrics(time.time(), now - self._began, None, counts_of(self._run), success=self._success)
        return write_metrics(self._crawler.settings, self._crawler.spidercls.name, metrics)


def good_until(days: Days, before: float | None) -> float | None:
    """Return until when everything is there, in Unix seconds: the last complete snapshot, or the end of listening.

    Args:
        days: of the run; those that were described are not among them.
        before: what was known before; None: nothing was.
    """
    observed = [each for day in (*days.over, days.current) for each in day.observations if each.get("complete", True)]
    texts = [each.get("to") or each["ended_at"] for each in observed[-1:]]
    return max([*map(iso_to_timestamp, texts), *([] if before is None else [before])], default=None)
