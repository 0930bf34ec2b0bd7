"""The spider `recent`: livestreams that have ended."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from parti_scraper.api import RecentQuery
from parti_scraper.arguments import RecentArguments
from parti_scraper.items import Livestream
from parti_scraper.normalize import normalize_recent, timestamp_to_iso
from parti_scraper.selection import Selection
from parti_scraper.spiders.base import PagedSpider, Walk
from parti_scraper.windows import History, Passes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from scrapy import Request
    from scrapy.http import Response

    from parti_scraper.normalize import NormalizedPage
    from parti_scraper.windows import Ask, Plan


class RecentSpider(PagedSpider):
    """Collects livestreams that have ended."""

    name = "recent"
    arguments_class = RecentArguments
    item_class = Livestream
    collection = Livestream.collection

    arguments: RecentArguments

    def __init__(self, **raw_arguments: Any) -> None:
        """Parse the arguments and freeze the window: what ends while the crawl runs is the next one's."""
        super().__init__(**raw_arguments)
        until = self.arguments.until
        self.window = (self.arguments.since, math.floor(self.started_at) if until is None else until)

    def window_as_json(self) -> dict[str, str]:
        """Return the frozen window."""
        since, until = self.window
        return {"since": timestamp_to_iso(since), "until": timestamp_to_iso(until)}

    def begin(self) -> Iterator[Request]:
        """Begin a walk for each group of categories."""
        for categories in self.groups:
            yield from self.begin_walk(Walk(categories, self.plan(categories)))

    def plan(self, categories: tuple[str, ...]) -> Plan:
        """Plan windows of time, or for the order by viewers one list."""
        if self.arguments.sort == "views":
            return Passes(self.size, "the livestreams by viewers", lenient=False, window=self.window)
        alone = len(self.groups) == 1 and self.max_records is None
        width = self.crawler.settings.getint("CONCURRENT_REQUESTS_PER_DOMAIN") if alone else 1
        return History(*self.window, self.size, width)

    def url(self, walk: Walk, ask: Ask) -> str:
        """Return the address of a page."""
        query = RecentQuery(
            from_ts=ask.from_ts,
            to_ts=ask.to_ts,
            categories=walk.categories,
            user_id=self.arguments.user_id,
            top_views=self.arguments.sort == "views",
        )
        return query.url(self.base_url, ask.request.offset, ask.request.limit)

    def select(self, categories: frozenset[int] | None, unknown_category: bool) -> Selection:
        """Hold the window and the channel against each record too."""
        since, until = map(timestamp_to_iso, self.window)
        return Selection(categories, unknown_category, since, until, self.arguments.user_id)

    def normalize(self, response: Response, walk: Walk, ask: Ask) -> NormalizedPage[Livestream]:
        """Return the livestreams of a page. Raises PageError."""
        return normalize_recent(response.body, response.url, timestamp_to_iso(time.time()), self.index)
