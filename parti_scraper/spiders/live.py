"""The spider `live`: the channels that are live, once or at intervals."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from scrapy import signals
from scrapy.exceptions import DontCloseSpider
from scrapy.utils.asyncio import call_later

from parti_scraper.api.build import Context
from parti_scraper.api.registry import LIVE_CHANNELS
from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.items import LiveChannel
from parti_scraper.plan.passes import Passes
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
    from parti_scraper.plan.outlook import Outlook
    from parti_scraper.plan.plan import PageQuery
    from parti_scraper.run.arguments import Arguments
    from parti_scraper.run.context import Run

logger = logging.getLogger(__name__)


class LiveSpider(LiveRouteSpider):
    """Collects the channels that are live, a row per channel and snapshot.

    Attributes:
        snapshots: how many were started.
    """

    name = "live"
    arguments_class = LiveArguments
    item_class = LiveChannel
    collection = LiveChannel.collection
    observed = "snapshots"

    arguments: LiveArguments

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.snapshots = 0
        self._walks_left = 0
        interval, duration = self.arguments.interval, self.arguments.duration
        self._schedule = None if interval is None else SnapshotTimer(interval, duration)
        self._first_at = 0.0
        self._snapshot_began = 0.0
        self._timer: CallLaterResult | None = None
        # When it fires, by the monotonic clock.
        self._next_at = 0.0

    @classmethod
    def from_crawler(cls, crawler: Crawler, *, run: Run | None = None, **raw_arguments: Any) -> Self:
        """Build the spider; between snapshots it keeps Scrapy from closing it."""
        spider = super().from_crawler(crawler, run=run, **raw_arguments)
        crawler.signals.connect(spider.stay_open, signals.spider_idle)
        crawler.signals.connect(spider.cancel_timer, signals.spider_closed)
        return spider

    @classmethod
    def has_days(cls, arguments: Arguments) -> bool:
        """Tell whether snapshots are taken at intervals."""
        return isinstance(arguments, LiveArguments) and arguments.interval is not None

    @property
    def _snapshot_id(self) -> str:
        return f"{self.run_id}-{self.snapshots}"

    @property
    def until_stopped(self) -> bool:
        """A run at intervals may be stopped at any time."""
        return self.arguments.interval is not None

    def begin(self) -> Iterator[Request]:
        """Start the first snapshot; a resumed run keeps to its schedule."""
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

    def outlook(self) -> Outlook:
        """Return how far the run has come, and when the next snapshot is due where it waits for one."""
        wait = None if self._timer is None else max(self._next_at - time.monotonic(), 0.0)
        return replace(super().outlook(), next_in=wait)

    def progress(self) -> dict[str, Any]:
        # The next snapshot may have started.
        return {**super().progress(), "snapshots": self.snapshots - bool(self._walks_left)}

    def restore(self, progress: Any) -> None:
        """Take no snapshot twice."""
        super().restore(progress)
        self.snapshots = progress["snapshots"]

    @property
    def can_checkpoint(self) -> bool:
        """Whether no snapshot is under way."""
        return self.snapshots > 0 and not self._walks_left

    def is_checkpoint_due(self) -> bool:
        """Tell after each page whether a snapshot has ended."""
        return not self._walks_left

    def normalize(
        self, response: Response, walk: Walk, query: PageQuery, received_at: str
    ) -> NormalizedPage[LiveChannel]:
        context = Context(received_at, self.index, walk.snapshot_id, query.slice.offset)
        return LIVE_CHANNELS.normalize(response.body, response.url, context)

    def walk_ended(self, walk: Walk) -> None:
        """Wait for the next snapshot, once the walks of this one have all ended."""
        self._walks_left -= 1
        if self._walks_left:
            return
        self._observe()
        if not self.run.limit.is_reached:
            self._schedule_snapshot()

    def _observe(self) -> None:
        """Note the snapshot, whose walks have all ended."""
        plans = [walk.plan for walk in self.walks]
        self.run.observe(
            {
                "snapshot_id": self._snapshot_id,
                "started_at": timestamp_to_iso(self._snapshot_began),
                "ended_at": timestamp_to_iso(time.time()),
                "channels": sum(plan.count for plan in plans if isinstance(plan, Passes)),
                "complete": not (self.run.limit.is_reached or any(plan.gaps for plan in plans)),
            }
        )

    def _snapshot(self) -> Iterator[Request]:
        self.snapshots += 1
        self._snapshot_began = time.time()
        self._walks_left = 0
        self.walks.clear()
        self.crawler.stats.inc_value("parti/live/snapshots")
        # All are counted before the first can end.
        begun = [
            self.begin_walk(Walk(categories, self.plan(categories), self._snapshot_id)) for categories in self.groups
        ]
        for requests in begun:
            yield from requests

    def begin_walk(self, walk: Walk) -> Iterator[Request]:
        self._walks_left += 1
        return super().begin_walk(walk)

    def _schedule_snapshot(self) -> None:
        """Set the timer for the next time of the schedule, which does not depend on how long snapshots take."""
        due = None if self._schedule is None else self._schedule.next(time.monotonic() - self._first_at)
        if due is None:
            return
        if due.missed:
            self.crawler.stats.inc_value("parti/live/snapshots_missed", due.missed)
            logger.warning("A snapshot took longer than the interval; snapshots left out: %d", due.missed)
        if due.wait is not None:
            self._next_at = time.monotonic() + due.wait
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
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
