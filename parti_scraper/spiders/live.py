"""The spider `live`: the channels that are live, once or at intervals."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from scrapy import signals
from scrapy.exceptions import DontCloseSpider
from scrapy.utils.asyncio import call_later

from parti_scraper.api.normalize import normalize_live
from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.items import LiveChannel
from parti_scraper.plan.schedule import SnapshotTimer
from parti_scraper.run.arguments import LiveArguments
from parti_scraper.spiders.paged import LiveRouteSpider, Walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scrapy import Request
    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from scrapy.utils.asyncio import CallLaterResult

    from parti_scraper.api.pages import NormalizedPage
    from parti_scraper.plan.plan import PageQuery
    from parti_scraper.run.context import Run

logger = logging.getLogger(__name__)


class LiveSpider(LiveRouteSpider):
    """Collects the channels that are live, a row per channel and snapshot.

    Its public methods are what `PagedSpider` leaves to a spider, and the handlers of two signals.

    Attributes:
        snapshots: how many were begun.
    """

    name = "live"
    arguments_class = LiveArguments
    item_class = LiveChannel
    collection = LiveChannel.collection

    arguments: LiveArguments

    def __init__(self, run: Run) -> None:
        """Collect the records of a run."""
        super().__init__(run)
        self.snapshots = 0
        self._walks_left = 0
        interval, duration = self.arguments.interval, self.arguments.duration
        self._schedule = None if interval is None else SnapshotTimer(interval, duration)
        self._first_at = 0.0
        self._timer: CallLaterResult | None = None

    @classmethod
    def from_crawler(cls, crawler: Crawler, *, run: Run | None = None, **raw_arguments: Any) -> Self:
        """Build the spider; between snapshots it keeps Scrapy from closing it."""
        spider = super().from_crawler(crawler, run=run, **raw_arguments)
        crawler.signals.connect(spider.stay_open, signals.spider_idle)
        crawler.signals.connect(spider.cancel_timer, signals.spider_closed)
        return spider

    @property
    def until_stopped(self) -> bool:
        """A run at intervals may be stopped at any time."""
        return self.arguments.interval is not None

    def begin(self) -> Iterator[Request]:
        """Begin the first snapshot; a run that goes on keeps to its schedule."""
        self._first_at = time.monotonic()
        if not self.snapshots:
            yield from self._snapshot()
            return
        elapsed = time.time() - self.started_at
        if self._schedule is not None:
            self._schedule = replace(self._schedule, tick=self.snapshots - 1)
            # Where the clock was set back meanwhile, the next one is not put off until it has caught up.
            elapsed = max(elapsed, self._schedule.tick * self._schedule.interval)
        self._first_at -= elapsed
        self._schedule_snapshot()

    def progress(self) -> dict[str, Any]:
        """Return how many snapshots were taken; the next one may have begun."""
        return {**super().progress(), "snapshots": self.snapshots - bool(self._walks_left)}

    def restore(self, progress: Any) -> None:
        """Take no snapshot twice."""
        super().restore(progress)
        self.snapshots = progress["snapshots"]

    @property
    def can_checkpoint(self) -> bool:
        """Whether no snapshot is half-way."""
        return self.snapshots > 0 and not self._walks_left

    def is_checkpoint_due(self) -> bool:
        """Tell it after each snapshot."""
        return not self._walks_left

    def normalize(self, response: Response, walk: Walk, query: PageQuery) -> NormalizedPage[LiveChannel]:
        """Return the channels of a page. Raises PageError."""
        return normalize_live(
            response.body,
            response.url,
            timestamp_to_iso(time.time()),
            self.index,
            snapshot_id=walk.snapshot_id,
            offset=query.slice.offset,
        )

    def walk_ended(self, walk: Walk) -> None:
        """Wait for the next snapshot, once the walks of this one have all ended."""
        self._walks_left -= 1
        if not self._walks_left and not self.run.limit.is_reached:
            self._schedule_snapshot()

    def _snapshot(self) -> Iterator[Request]:
        self.snapshots += 1
        self._walks_left = 0
        self.walks.clear()
        self.crawler.stats.inc_value("parti/live/snapshots")
        snapshot_id = f"{self.run_id}-{self.snapshots}"
        # All are counted before the first can end.
        begun = [self.begin_walk(Walk(categories, self.plan(categories), snapshot_id)) for categories in self.groups]
        for requests in begun:
            yield from requests

    def begin_walk(self, walk: Walk) -> Iterator[Request]:
        """Count the walk to its snapshot and begin it."""
        self._walks_left += 1
        return super().begin_walk(walk)

    def _schedule_snapshot(self) -> None:
        """Set the timer for the next moment of the schedule, which the time that snapshots take does not shift."""
        due = None if self._schedule is None else self._schedule.next(time.monotonic() - self._first_at)
        if due is None:
            return
        if due.missed:
            self.crawler.stats.inc_value("parti/live/snapshots_missed", due.missed)
            logger.warning("A snapshot took longer than the interval: %d left out", due.missed)
        if due.wait is not None:
            self._timer = call_later(due.wait, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        for request in self._snapshot():
            self.crawler.engine.crawl(request)

    def stay_open(self) -> None:
        """Keep Scrapy from closing the spider while it waits for the next snapshot."""
        if self._timer is not None:
            raise DontCloseSpider

    def cancel_timer(self) -> None:
        """Take no further snapshot."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
