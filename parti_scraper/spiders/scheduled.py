"""The spider `scheduled`: livestreams that were announced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parti_scraper.api import routes
from parti_scraper.api.build import Context
from parti_scraper.api.registry import CATEGORIES, SCHEDULED_LIVESTREAMS
from parti_scraper.items import ScheduledLivestream
from parti_scraper.plan.passes import Passes
from parti_scraper.run.arguments import ScheduledArguments
from parti_scraper.spiders.paged import PagedSpider, Walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scrapy import Request
    from scrapy.http import Response

    from parti_scraper.api.pages import NormalizedPage
    from parti_scraper.plan.plan import PageQuery, Plan


class ScheduledSpider(PagedSpider):
    """Collects announced livestreams.

    There may be none: an empty list is accepted where it comes again after a wait while the categories route, which is
    the control page here, still has records.
    """

    name = "scheduled"
    arguments_class = ScheduledArguments
    item_class = ScheduledLivestream
    collection = ScheduledLivestream.collection

    @property
    def can_checkpoint(self) -> bool:
        """Whether a run could resume: no, a list of a few pages is walked from the start."""
        return False

    def is_checkpoint_due(self) -> bool:
        return False

    def begin(self) -> Iterator[Request]:
        for categories in self.groups:
            yield from self.begin_walk(Walk(categories, self.plan(categories)))

    def plan(self, _categories: tuple[str, ...]) -> Plan:
        """Plan one list, of which neither order nor filters are known."""
        return Passes(self.size, "the scheduled livestreams", lenient=False)

    def url(self, _walk: Walk, query: PageQuery) -> str:
        base_url = self.run.hosts.current
        if query.control:
            return routes.categories_url(base_url)
        return routes.scheduled_url(base_url, query.slice.offset, query.slice.limit)

    def normalize(self, response: Response, _walk: Walk, query: PageQuery, received_at: str) -> NormalizedPage[Any]:
        """Return the livestreams of a page, of a control page the categories. Raises PageError."""
        source = CATEGORIES if query.control else SCHEDULED_LIVESTREAMS
        context = Context(received_at, self.index)
        return source.normalize(response.body, response.url, context)

    def belongs(self, _walk: Walk, _item: Any) -> bool:
        """Tell whether a record of a control page is part of the list: none is."""
        return False
