"""The spider `recent`: livestreams that have ended."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from parti_scraper.api import routes, urls
from parti_scraper.api.build import Context
from parti_scraper.api.registry import LIVESTREAMS
from parti_scraper.api.routes import RecentQuery
from parti_scraper.api.selection import Selection
from parti_scraper.api.times import parse_length, timestamp_to_iso
from parti_scraper.items import Livestream
from parti_scraper.plan.history import History
from parti_scraper.plan.outlook import Outlook, outlook_of
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

# At least so many pages and seconds are between two checkpoints.
CHECKPOINT_PAGES = 10
CHECKPOINT_SECONDS = 1.0


class RecentSpider(PagedSpider):
    """Collects livestreams that have ended.

    Attributes:
        window: the window of time that the run collects, in Unix seconds.
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
        # Those of the resumed run, until `begin` continues them.
        self._previous_walks: list[dict[str, Any]] = []

    @classmethod
    def prepare(cls, run: Run, settings: BaseSettings) -> None:
        """Set the window, which ends when the run starts; an incremental run starts where the last one ended."""
        arguments, started_at = run.identity.arguments, run.identity.started_at
        assert isinstance(arguments, RecentArguments)  # noqa: S101 - `identify`
        until = arguments.until
        run.freeze_window(arguments.since, math.floor(started_at) if until is None else until)
        if arguments.incremental:
            filters = {
                # Servers on this machine have other records.
                "site": "this machine" if urls.is_loopback(run.hosts.current) else "parti.com",
                "categories": sorted(set(arguments.categories)),
                "user_id": arguments.user_id,
                "since": run.identity.raw_arguments.get("since"),
            }
            overlap = parse_length("setting", "PARTI_INCREMENTAL_OVERLAP", settings["PARTI_INCREMENTAL_OVERLAP"])
            join_series(run, filters, until, math.ceil(overlap))
        if run.previous and run.previous.window:
            run.freeze_window(*run.previous.window)
            if started_at > time.time():
                started = timestamp_to_iso(math.floor(started_at))
                run.problems.remark(f"the run was started at {started}, which is in the future; {WRONG_CLOCK}")

    def begin(self) -> Iterator[Request]:
        """Start a walk for each group of categories, or continue those of the resumed run."""
        for each in self._previous_walks:
            categories = tuple(each["categories"])
            self.walks.append(Walk(categories, self.plan(categories, each["remaining"]), seen=set(each["seen"])))
        if not self.walks:
            # All at once, or a checkpoint could know only the first of them.
            self.walks = [Walk(categories, self.plan(categories)) for categories in self.groups]
        for walk in tuple(self.walks):
            if walk.plan.remaining() != []:
                yield from self.begin_walk(walk)

    def progress(self) -> dict[str, Any]:
        walks = [
            {"categories": walk.categories, "remaining": walk.plan.remaining(), "seen": list(walk.seen)}
            for walk in self.walks
        ]
        # Without walks, the run was stopped again before it could continue those before.
        pages = {"limit": self.size.limit, "largest": self.size.largest}
        return {**super().progress(), "walks": walks or self._previous_walks, "pages": pages}

    def restore(self, progress: Any) -> None:
        super().restore(progress)
        self._previous_walks = progress["walks"]
        # Else the first page would be taken for a full one, however short. Earlier versions did not note it.
        pages = progress.get("pages", {})
        self.size.restore(pages.get("limit", self.size.limit), pages.get("largest", 0))

    @property
    def made_progress(self) -> bool:
        return bool(self.walks) or not self.run.folder.is_resumed

    def is_checkpoint_due(self) -> bool:
        """Tell after every few pages, at most once a second: so much is fetched again after a kill."""
        return self._checkpoint_timer.is_due(time.monotonic())

    def outlook(self) -> Outlook:
        """Return how far the run has come: by `max_records`, or by the time that was walked if that is more."""
        limited = super().outlook()
        ahead = [walk.plan.ahead() for walk in self.walks] or [each["remaining"] for each in self._previous_walks]
        spans = [each for each in ahead if each is not None]
        if self.arguments.sort == "views" or len(spans) < len(ahead):
            return limited
        walked = outlook_of(*self.window, spans or [[(self.window[1], self.window[0] - 1)]])
        return replace(walked, share=max(walked.share or 0.0, limited.share or 0.0))

    def drain_rejected(self) -> list[bytes]:
        return self.run.rejected.drain_new()

    def plan(self, categories: tuple[str, ...], remaining: list[tuple[int, int]] | None = None) -> Plan:
        """Plan windows of time, or one list for the order by viewers."""
        if self.arguments.sort == "views":
            return Passes(self.size, "the livestreams by viewers", lenient=False, window=self.window)
        alone = len(self.groups) == 1 and self.run.limit.most is None
        width = self.crawler.settings.getint("CONCURRENT_REQUESTS_PER_DOMAIN") if alone else 1
        # For Scrapy, 0 means no cap per host.
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
        """Filter by the window and the channel too."""
        since, until, first, last = map(timestamp_to_iso, (*self.window, *self._credible))
        return Selection(categories, unknown_category, since, until, self.arguments.user_id, (first, last))

    @property
    def _credible(self) -> tuple[int, int]:
        """The time within which an end is credible; an end of 0 would seem to be below every window."""
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
