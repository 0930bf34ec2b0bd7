"""The spider `recent`: livestreams that have ended."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from parti_scraper.api import routes, urls
from parti_scraper.api.build import Context
from parti_scraper.api.registry import LIVESTREAMS
from parti_scraper.api.routes import RecentQuery
from parti_scraper.api.selection import Selection
from parti_scraper.api.times import parse_length, timestamp_to_iso
from parti_scraper.items import Livestream
from parti_scraper.plan.history import History
from parti_scraper.plan.passes import Passes
from parti_scraper.plan.schedule import CheckpointTimer
from parti_scraper.run.arguments import RecentArguments
from parti_scraper.run.series import WRONG_CLOCK, join_series
from parti_scraper.spiders.paged import PagedSpider, Walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scrapy import Request
    from scrapy.http import Response
    from scrapy.settings import BaseSettings

    from parti_scraper.api.pages import NormalizedPage
    from parti_scraper.plan.plan import PageQuery, Plan
    from parti_scraper.run.context import Run

# Pages between two checkpoints, and seconds at the least.
CHECKPOINT_PAGES = 10
CHECKPOINT_SECONDS = 1.0


class RecentSpider(PagedSpider):
    """Collects livestreams that have ended.

    Its public methods are what `PagedSpider` leaves to a spider.

    Attributes:
        window: the window of time that the run is about, in Unix seconds.
    """

    name = "recent"
    arguments_class = RecentArguments
    item_class = Livestream
    collection = Livestream.collection

    arguments: RecentArguments

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        assert run.window is not None  # noqa: S101 - `prepare`
        self.window = run.window
        self._checkpoint_timer = CheckpointTimer(CHECKPOINT_PAGES, CHECKPOINT_SECONDS)
        # Those of the run that is to be finished, until they are gone on with.
        self._previous_walks: list[dict[str, Any]] = []

    @classmethod
    def prepare(cls, run: Run, settings: BaseSettings) -> None:
        """Freeze the window: what ends while the crawl runs is the next one's.

        That of an incremental run starts where the last one ended.
        """
        arguments, started_at = run.identity.arguments, run.identity.started_at
        assert isinstance(arguments, RecentArguments)  # noqa: S101 - `identify`
        until = arguments.until
        run.freeze_window(arguments.since, math.floor(started_at) if until is None else until)
        if arguments.incremental:
            filters = {
                # What is found on this machine is made up, and says nothing about the real API.
                "site": "this machine" if urls.is_loopback(run.hosts.current) else "parti.com",
                "categories": sorted(set(arguments.categories)),
                "user_id": arguments.user_id,
                "since": run.identity.raw_arguments.get("since"),
            }
            overlap = parse_length("PARTI_INCREMENTAL_OVERLAP", settings["PARTI_INCREMENTAL_OVERLAP"])
            join_series(run, filters, until, math.ceil(overlap))
        if run.previous and run.previous.window:
            run.freeze_window(*run.previous.window)
            if started_at > time.time():
                begun = timestamp_to_iso(math.floor(started_at))
                run.problems.remark(f"the run was begun at {begun}, which is still to come; {WRONG_CLOCK}")

    # Where it goes on:

    def begin(self) -> Iterator[Request]:
        """Begin a walk for each group of categories, or go on with those of the run that is to be finished."""
        for each in self._previous_walks:
            categories = tuple(each["categories"])
            self.walks.append(Walk(categories, self.plan(categories, each["remaining"]), seen=set(each["seen"])))
        if not self.walks:
            # All at once: a checkpoint that knew only the first of them would lose the others.
            self.walks = [Walk(categories, self.plan(categories)) for categories in self.groups]
        for walk in tuple(self.walks):
            if walk.plan.remaining() != []:
                yield from self.begin_walk(walk)

    def progress(self) -> dict[str, Any]:
        walks = [
            {"categories": walk.categories, "remaining": walk.plan.remaining(), "seen": list(walk.seen)}
            for walk in self.walks
        ]
        # Those of the run that is to be finished, where it was stopped again before it could go on.
        pages = {"limit": self.size.limit, "largest": self.size.largest}
        return {**super().progress(), "walks": walks or self._previous_walks, "pages": pages}

    def restore(self, progress: Any) -> None:
        super().restore(progress)
        self._previous_walks = progress["walks"]
        # Without it, the first page would be taken for a full one, however short. Earlier versions did not have it.
        pages = progress.get("pages", {})
        self.size.restore(pages.get("limit", self.size.limit), pages.get("largest", 0))

    @property
    def made_progress(self) -> bool:
        return bool(self.walks) or not self.run.folder.is_resumed

    def is_checkpoint_due(self) -> bool:
        """Tell it after every few pages, but once a second at the most: so much is asked for again after a kill."""
        return self._checkpoint_timer.is_due(time.monotonic())

    def drain_rejected(self) -> list[bytes]:
        return self.run.rejected.drain_new()

    # What it asks for:

    def plan(self, categories: tuple[str, ...], remaining: list[tuple[int, int]] | None = None) -> Plan:
        """Plan windows of time, or for the order by viewers one list."""
        if self.arguments.sort == "views":
            return Passes(self.size, "the livestreams by viewers", lenient=False, window=self.window)
        alone = len(self.groups) == 1 and self.run.limit.most is None
        width = self.crawler.settings.getint("CONCURRENT_REQUESTS_PER_DOMAIN") if alone else 1
        # 0 is what Scrapy takes for the cap of all hosts together.
        return History(*self.window, self.size, max(width, 1), remaining)

    def url(self, walk: Walk, query: PageQuery) -> str:
        of_page = RecentQuery(
            from_ts=query.from_ts,
            to_ts=query.to_ts,
            categories=() if query.control else walk.categories,
            user_id=None if query.control else self.arguments.user_id,
            top_views=self.arguments.sort == "views",
            ascending=query.ascending,
        )
        return of_page.url(self.run.hosts.current, query.slice.offset, query.slice.limit)

    def select(self, categories: frozenset[int] | None, unknown_category: bool) -> Selection:
        """Hold the window and the channel against each record too."""
        since, until, first, last = map(timestamp_to_iso, (*self.window, *self._credible))
        return Selection(categories, unknown_category, since, until, self.arguments.user_id, (first, last))

    @property
    def _credible(self) -> tuple[int, int]:
        """Between which a livestream may have ended; else one with the end 0 would seem to be below every window."""
        since, until = self.window
        return max(min(since, routes.FIRST_TS) - 1, 0), max(until, routes.LAST_TS)

    def normalize(
        self, response: Response, walk: Walk, query: PageQuery, received_at: str
    ) -> NormalizedPage[Livestream]:
        """Return the livestreams of a page. Raises PageError."""
        page = LIVESTREAMS.normalize(response.body, response.url, Context(received_at, self.index))
        first, last = self._credible
        for ends in (page.ends, page.rejected_ends):
            ends[:] = [end if end is None or first <= end <= last else None for end in ends]
        return page
