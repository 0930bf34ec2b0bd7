"""The spider `recent`: livestreams that have ended."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from parti_scraper.api import routes, urls
from parti_scraper.api.normalize import normalize_recent
from parti_scraper.api.routes import RecentQuery
from parti_scraper.api.selection import Selection
from parti_scraper.api.times import parse_length, timestamp_to_iso
from parti_scraper.items import Livestream
from parti_scraper.ledger.ledger import WindowDone
from parti_scraper.plan.history import History, Passes
from parti_scraper.run import datapackage
from parti_scraper.run.arguments import RecentArguments
from parti_scraper.spiders.base import PagedSpider, Walk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Self

    from scrapy import Request
    from scrapy.crawler import Crawler
    from scrapy.http import Response

    from parti_scraper.api.pages import NormalizedPage
    from parti_scraper.ledger.ledger import Series
    from parti_scraper.plan.history import Ask, Plan

# Pages between two checkpoints.
CHECKPOINT_PAGES = 10
WRONG_CLOCK = "the clock of this machine was ahead then"
BEHIND_CLOCK = "the clock of this machine is behind now"

logger = logging.getLogger(__name__)


class RecentSpider(PagedSpider):
    """Collects livestreams that have ended."""

    name = "recent"
    arguments_class = RecentArguments
    item_class = Livestream
    collection = Livestream.collection

    arguments: RecentArguments

    def __init__(self, started_at: float | None = None, **raw_arguments: Any) -> None:
        """Parse the arguments and freeze the window: what ends while the crawl runs is the next one's."""
        super().__init__(started_at, **raw_arguments)
        until = self.arguments.until
        self.window: tuple[int, int] = (self.arguments.since, math.floor(self.started_at) if until is None else until)
        self.overlap = 0
        self._pages_since_checkpoint = 0
        self._begun_walks: list[dict[str, Any]] = []
        self._remarks: list[str] = []

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> Self:
        """Build the spider, see `PartiSpider`; the window of an incremental run starts where the last one ended."""
        spider = super().from_crawler(crawler, *args, **kwargs)
        if spider.arguments.incremental:
            overlap = parse_length("PARTI_INCREMENTAL_OVERLAP", crawler.settings["PARTI_INCREMENTAL_OVERLAP"])
            spider.join_series(math.ceil(overlap))
        if spider.begun and spider.begun.window:
            spider.window = spider.begun.window
            if spider.started_at > time.time():
                begun = timestamp_to_iso(math.floor(spider.started_at))
                spider.remark(f"the run was begun at {begun}, which is still to come; {WRONG_CLOCK}")
        return spider

    def join_series(self, overlap: int) -> None:
        """Find the incremental runs with the same filters, and start where the last of them ended."""
        filters = {
            # What is found on this machine is made up, and says nothing about the real API.
            "site": "this machine" if urls.is_loopback(self.base_url) else "parti.com",
            "categories": sorted(set(self.arguments.categories)),
            "user_id": self.arguments.user_id,
            "since": self.raw_arguments.get("since"),
        }
        self.series = self.ledger.series(filters)
        for run in self.ledger.running_in(self.series.id):
            # Killed between its data package and its last note.
            if package := datapackage.read(Path(run.folder)):
                self.ledger.finish(run.id, complete=package["complete"], truncated=package["truncated"])
                self.series = self.ledger.series(filters)
        self.overlap = overlap
        since, until = self.window
        if self.begun is None and self.moves_to is not None and (self.series.until or 0) > self.moves_to:
            self._lower_series(self.series, self.moves_to)
        start = self.series.since(overlap)
        if start is not None and self.moves_to is not None:
            self.window = (min(max(since, start), until), until)

    def _lower_series(self, series: Series, now: int) -> None:
        """Start earlier than the last run ended, where that is still to come."""
        self.series = self.ledger.lower(series, now)
        ended = f"the incremental runs before came up to {timestamp_to_iso(series.until or 0)}, which is still to come"
        if self.series == series:
            self.remark(f"{ended}, and so do livestreams in them: {BEHIND_CLOCK}; nothing is collected until then")
            return
        start = self.series.until
        where = "from the beginning" if start is None else f"from {timestamp_to_iso(start)}"
        self.remark(f"{ended}; {WRONG_CLOCK}; this run looks at all {where} again")

    def remark(self, line: str) -> None:
        """Say something now, and in the summary."""
        logger.warning("%s", line[:1].upper() + line[1:])
        self._remarks.append(line)

    def remarks(self) -> list[str]:
        """Return what was said."""
        return self._remarks

    @property
    def moves_to(self) -> int | None:
        """The end of the window, or the start of the run if that is earlier; None for a window in the past."""
        until = self.arguments.until
        now = math.floor(self.started_at)
        return None if self.series is None or (until is not None and until < now) else min(self.window[1], now)

    @property
    def known_from(self) -> int | None:
        """The start of the next run, its overlap included."""
        return None if self.moves_to is None else self.moves_to - self.overlap

    def begin(self) -> Iterator[Request]:
        """Begin a walk for each group of categories, or go on with those of the run that is to be finished."""
        for each in self._begun_walks:
            categories = tuple(each["categories"])
            self.walks.append(Walk(categories, self.plan(categories, each["remaining"]), seen=set(each["seen"])))
        if not self.walks:
            # All at once: a checkpoint that knew only the first of them would lose the others.
            self.walks = [Walk(categories, self.plan(categories)) for categories in self.groups]
        for walk in tuple(self.walks):
            if walk.plan.remaining() != []:
                yield from self.begin_walk(walk)

    def progress(self) -> Any:
        """Return what is left of each walk."""
        walks = [
            {"categories": walk.categories, "remaining": walk.plan.remaining(), "seen": list(walk.seen)}
            for walk in self.walks
        ]
        # Those of the run that is to be finished, where it was stopped again before it could go on.
        pages = {"limit": self.size.limit, "largest": self.size.largest}
        return {**super().progress(), "walks": walks or self._begun_walks, "pages": pages}

    @property
    def has_begun(self) -> bool:
        """Whether a run that is to be finished could go on at all."""
        return bool(self.walks) or not self.resumed

    def restore(self, progress: Any) -> None:
        """Take what is left of each walk."""
        super().restore(progress)
        self._begun_walks = progress["walks"]
        # Without it, the first page would be taken for a full one, however short. Earlier versions did not have it.
        pages = progress.get("pages", {})
        self.size.limit = pages.get("limit", self.size.limit)
        self.size.largest = pages.get("largest", 0)

    def is_checkpoint_due(self) -> bool:
        """Tell it after every few pages, which is how many are asked for again at the most after a stop."""
        self._pages_since_checkpoint += 1
        if self._pages_since_checkpoint < CHECKPOINT_PAGES:
            return False
        self._pages_since_checkpoint = 0
        return True

    def take_done(self) -> tuple[list[WindowDone], list[bytes]]:
        """Return the windows done and the marks of rejected records since the last call."""
        windows = [
            WindowDone(number, done.high, done.low, done.pages, done.records)
            for number, walk in enumerate(self.walks)
            for done in walk.plan.done
        ]
        for walk in self.walks:
            walk.plan.done.clear()
        rejected = self._new_rejected.copy()
        self._new_rejected.clear()
        return windows, rejected

    def plan(self, categories: tuple[str, ...], remaining: list[tuple[int, int]] | None = None) -> Plan:
        """Plan windows of time, or for the order by viewers one list."""
        if self.arguments.sort == "views":
            return Passes(self.size, "the livestreams by viewers", lenient=False, window=self.window)
        alone = len(self.groups) == 1 and self.max_records is None
        width = self.crawler.settings.getint("CONCURRENT_REQUESTS_PER_DOMAIN") if alone else 1
        # 0 is what Scrapy takes for the cap of all hosts together.
        return History(*self.window, self.size, max(width, 1), remaining)

    def url(self, walk: Walk, ask: Ask) -> str:
        """Return the address of a page."""
        query = RecentQuery(
            from_ts=ask.from_ts,
            to_ts=ask.to_ts,
            categories=() if ask.control else walk.categories,
            user_id=None if ask.control else self.arguments.user_id,
            top_views=self.arguments.sort == "views",
            ascending=ask.ascending,
        )
        return query.url(self.base_url, ask.request.offset, ask.request.limit)

    def select(self, categories: frozenset[int] | None, unknown_category: bool) -> Selection:
        """Hold the window and the channel against each record too."""
        since, until, first, last = map(timestamp_to_iso, (*self.window, *self._credible))
        return Selection(categories, unknown_category, since, until, self.arguments.user_id, (first, last))

    @property
    def _credible(self) -> tuple[int, int]:
        """Between which a livestream may have ended; else one with the end 0 would seem to be below every window."""
        since, until = self.window
        return max(min(since, routes.FIRST_TS) - 1, 0), max(until, routes.LAST_TS)

    def normalize(self, response: Response, walk: Walk, ask: Ask) -> NormalizedPage[Livestream]:
        """Return the livestreams of a page. Raises PageError."""
        page = normalize_recent(response.body, response.url, timestamp_to_iso(time.time()), self.index)
        first, last = self._credible
        for ends in (page.ends, page.rejected_ends):
            ends[:] = [end if end is None or first <= end <= last else None for end in ends]
        return page
