"""Walking pages: of the categories asked for together, or of each category on its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scrapy.exceptions import CloseSpider
from scrapy.spidermiddlewares.httperror import HttpError

from parti_scraper.api.categories import ALL, CategoryIndex, resolve_categories, unknown_ids
from parti_scraper.api.pages import NormalizedPage
from parti_scraper.api.routes import NAN, LiveQuery
from parti_scraper.api.selection import Selection, select_categories
from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.exceptions import PageError, UsageError
from parti_scraper.network.meta import OPTIONAL
from parti_scraper.plan.page_size import PageSize
from parti_scraper.plan.passes import Passes
from parti_scraper.plan.plan import Key, Page
from parti_scraper.run.arguments import DEFAULT_LIMIT
from parti_scraper.signals import checkpoint, send_storage_failed
from parti_scraper.spiders.base import PartiSpider, describe_failure, request_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from scrapy import Request
    from scrapy.http import Response
    from twisted.python.failure import Failure

    from parti_scraper.items import Category
    from parti_scraper.plan.plan import PageQuery, Plan
    from parti_scraper.run.context import Run

logger = logging.getLogger(__name__)

# Seconds that a checkpoint waits for records that are still in the pipelines.
_LONGEST_WAIT = 1.0


@dataclass(slots=True, eq=False)
class Walk:
    """A plan under way.

    Attributes:
        categories: values of the parameter `categories`.
        plan: which pages to ask for.
        snapshot_id: of the live route: the snapshot that it belongs to.
        in_flight: pages asked for and not answered.
        seen: numbers of the categories that records came with.
    """

    categories: tuple[str, ...]
    plan: Plan
    snapshot_id: str = ""
    in_flight: int = 0
    seen: set[int | None] = field(default_factory=set)

    def asked(self) -> None:
        self.in_flight += 1

    def answered(self) -> None:
        self.in_flight -= 1


class PagedSpider(PartiSpider):
    """A spider that walks pages: of the categories asked for together, or of each category on its own.

    Attributes:
        index: the categories, once they are known.
        size: how many records a page holds.
        walks: the walks of the run; with snapshots, of the current one.
        groups: for each walk, the values of the parameter `categories`.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.index = CategoryIndex()
        # Pages may differ in size between routes, not between walks.
        self.size = PageSize(getattr(run.identity.arguments, "limit", DEFAULT_LIMIT))
        self.walks: list[Walk] = []
        self.groups: list[tuple[str, ...]] = []
        self._one_page = asyncio.Lock()

    # Hooks:

    def begin(self) -> Iterator[Request]:
        """Return the first requests, once the categories are known."""
        raise NotImplementedError

    def plan(self, categories: tuple[str, ...]) -> Plan:
        """Return the plan for a walk through these categories."""
        raise NotImplementedError

    def url(self, walk: Walk, query: PageQuery) -> str:
        """Return the address of a page."""
        raise NotImplementedError

    def normalize(self, response: Response, walk: Walk, query: PageQuery, received_at: str) -> NormalizedPage[Any]:
        """Return the records of a page that came at a moment, in ISO 8601. Raises PageError."""
        raise NotImplementedError

    def walk_ended(self, walk: Walk) -> None:
        """Continue after a walk, complete or not."""

    def is_checkpoint_due(self) -> bool:
        """Tell after each page whether the run takes a checkpoint."""
        raise NotImplementedError

    def select(self, categories: frozenset[int] | None, unknown_category: bool) -> Selection:
        return Selection(categories, unknown_category)

    # The walk itself:

    @property
    def can_checkpoint(self) -> bool:
        """Whether no page is being processed."""
        return not self._one_page.locked()

    def categories_received(self, page: NormalizedPage[Category]) -> Iterator[Any]:
        """Find the categories asked for and begin to walk."""
        self.index = CategoryIndex(page.items)
        if not page.items:
            self.run.problems.note_gap("the categories route named no category")
            return
        asked: tuple[str, ...] = getattr(self.run.identity.arguments, "categories", ())
        try:
            values = resolve_categories(asked, self.index)
        except UsageError as error:
            self.run.problems.refuse(str(error))
            raise CloseSpider("usage_error") from None
        for value in unknown_ids(values, self.index):
            logger.warning("Category %s is not in the categories route; it is requested anyway", value)
        self.run.select(self.select(*select_categories(values, self.index)))
        self.groups = [(value,) for value in values] if asked == (ALL,) else [values]
        yield from self.begin()

    def begin_walk(self, walk: Walk) -> Iterator[Request]:
        if walk not in self.walks:
            self.walks.append(walk)
        return self.proceed(walk, walk.plan.start())

    def proceed(self, walk: Walk, queries: list[PageQuery]) -> Iterator[Request]:
        """Request what the plan says, unless `max_records` was reached; end the walk after its last page."""
        for query in () if self.run.limit.is_reached else queries:
            walk.asked()
            request = self.request(
                self.url(walk, query),
                callback=self.parse_control if query.control else self.parse_page,
                errback=self.page_failed,
                cb_kwargs={"walk": walk, "query": query},
            )
            if query.optional:
                request.meta[OPTIONAL] = True
            attempt = query.slice.attempt
            yield self.retry.later(request, attempt) if attempt else request
        if not walk.in_flight:
            yield from self.end_walk(walk)

    def read(self, response: Response, walk: Walk, query: PageQuery, moment: float) -> NormalizedPage[Any] | Request:
        """Return the records of a page, or the request that asks again where the answer is no page."""
        try:
            page = self.normalize(response, walk, query, timestamp_to_iso(moment))
        except PageError as error:
            return self.retry.retry(request_of(response), str(error))
        self.retry.succeeded(request_of(response))
        return page

    async def parse_page(self, response: Response, walk: Walk, query: PageQuery) -> AsyncIterator[Any]:
        """Yield the records of a page, then the requests that follow from it.

        One page at a time: between two pages, the files hold whole pages, so the counts of a checkpoint are right.
        """
        async with self._one_page:
            page = self.read(response, walk, query, await self.enter_day())
            if not isinstance(page, NormalizedPage):
                yield page
                return
            # Records of another snapshot do not count as seen.
            self.count(page, self.run.seen if walk.snapshot_id == self.run.rejected.snapshot_id else ())
            for item in page.items:
                yield item
            keys = _keys(page)
            identities = [None if key is None else key.id for key in keys] if page.rejected else []
            for record in self.run.rejected.mark_repeats(
                page.rejected, identities, walk.snapshot_id, ascending=query.ascending
            ):
                yield record
            # The batch ends here.
            yield None
            self.check_filters(walk, page)
            walk.answered()
            requests = list(self.proceed(walk, walk.plan.page(query, Page(keys))))
            if self.is_checkpoint_due():
                await self.take_checkpoint()
        for request in requests:
            yield request

    def parse_control(self, response: Response, walk: Walk, query: PageQuery) -> Iterator[Request]:
        """Take a page that only shows whether the server serves anything; its records are not collected."""
        page = self.read(response, walk, query, time.time())
        if not isinstance(page, NormalizedPage):
            yield page
            return
        walk.answered()
        ends = zip(page.items, page.ends, strict=True)
        matching = [Key(item.identity, end) for item, end in ends if self.belongs(walk, item)]
        yield from self.proceed(walk, walk.plan.page(query, Page(_keys(page), matching)))

    def belongs(self, walk: Walk, item: Any) -> bool:
        """Tell whether a record is certainly one of those that the walk asks for."""
        if walk.categories and str(item.category_id) not in walk.categories:
            # Also with NaN, whose meaning is not known.
            return False
        user_id = self.run.selection.user_id
        return user_id is None or item.user_id == user_id

    async def take_checkpoint(self) -> None:
        """Take a checkpoint, once the pipelines are done with the records before it.

        Where a pipeline of the user's takes long, the counts do not balance in time, and the checkpoint is left out.
        """
        if await self._are_through():
            await self.crawler.signals.send_catch_log_async(checkpoint)

    async def enter_day(self) -> float:
        """Return the moment, in Unix seconds, once the run is at its day: what is on its way belongs to the last."""
        while self.run.days is not None and self.run.days.is_over(time.time()):
            await self._are_through()
            try:
                if not self.run.enter_day(time.time()):
                    break
            except OSError as error:
                send_storage_failed(self.crawler, "a record", error)
                break
        return time.time()

    async def _are_through(self) -> bool:
        """Wait until all records have come through the pipelines, but not for long; tell whether they have."""
        through = asyncio.Event()
        self.run.tally.call_when_balanced(through.set)
        if not through.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(through.wait(), _LONGEST_WAIT)
        return through.is_set()

    def page_failed(self, failure: Failure) -> Iterator[Any]:
        """Continue after a request that failed for good."""
        kwargs = failure.request.cb_kwargs  # type: ignore[attr-defined]
        walk: Walk = kwargs["walk"]
        walk.answered()
        error = failure.value
        status = error.response.status if isinstance(error, HttpError) else None
        yield from self.proceed(walk, walk.plan.failure(kwargs["query"], describe_failure(failure), status))

    def check_filters(self, walk: Walk, page: NormalizedPage[Any]) -> None:
        """Warn once for each filter that the server does not apply; the pipelines do."""
        wanted, user_id = self.run.selection.categories, self.run.selection.user_id
        for item in page.items:
            walk.seen.add(item.category_id)
            if wanted is not None and item.category_id is not None and item.category_id not in wanted:
                self.warn_of_filter("categories")
            if user_id is not None and item.user_id not in {user_id, None}:
                self.warn_of_filter("user_id")

    def warn_of_filter(self, name: str) -> None:
        """Count a record that the server should not have sent."""
        stat = f"parti/filter/ignored_{name}"
        if not self.crawler.stats.get_value(stat):
            logger.warning("The server does not filter by `%s` as asked; the other records are filtered out here", name)
        self.crawler.stats.inc_value(stat)

    def end_walk(self, walk: Walk) -> Iterator[Request]:
        """Note how a walk ended; request categories one by one where the server may have left some out."""
        for gap in walk.plan.gaps:
            self.run.problems.note_gap(gap)
        for warning in walk.plan.warnings:
            logger.warning("%s", warning)
        self.crawler.stats.inc_value("parti/paging/shifts", walk.plan.shifts)
        walks = [] if self.run.limit.is_reached or walk.plan.gaps else list(self.unseen(walk))
        for alone in walks:
            yield from self.begin_walk(alone)
        self.walk_ended(walk)

    def unseen(self, walk: Walk) -> Iterator[Walk]:
        """Yield a walk for each of several categories that had no records: the server may apply only the last one."""
        categories = tuple(dict.fromkeys(walk.categories))
        if len(categories) < 2 or NAN in categories:
            return
        for category in categories:
            if int(category) not in walk.seen or not self.index.has_name(int(category)):
                logger.info("Category %s is requested alone: it had no records together with the others", category)
                self.crawler.stats.inc_value("parti/filter/asked_alone")
                yield Walk((category,), self.plan((category,)), walk.snapshot_id)


class LiveRouteSpider(PagedSpider):
    """A spider that walks the list of live channels, most viewers first."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        # By categories, how many channels the last complete walk found.
        self._lengths: dict[tuple[str, ...], int] = {}

    def begin_walk(self, walk: Walk) -> Iterator[Request]:
        """Return the first requests of a walk; a run without end then tries earlier hosts again."""
        if self.until_stopped:
            self.retry.begin_round()
        return super().begin_walk(walk)

    def plan(self, categories: tuple[str, ...]) -> Plan:
        """Plan passes over the list, whose order changes all the time."""
        return Passes(self.size, "the live channels", lenient=True, before=self._lengths.get(categories, 0))

    def url(self, walk: Walk, query: PageQuery) -> str:
        categories = () if query.control else walk.categories
        return LiveQuery(categories).url(self.run.hosts.current, query.slice.offset, query.slice.limit)

    def end_walk(self, walk: Walk) -> Iterator[Request]:
        """Remember how long the list was."""
        if isinstance(walk.plan, Passes) and not walk.plan.gaps and not self.run.limit.is_reached:
            self._lengths[walk.categories] = walk.plan.count
        return super().end_walk(walk)


def _keys(page: NormalizedPage[Any]) -> Sequence[Key | None]:
    """Return what paging needs of each record of a page, in the order served."""
    keys = list(map(Key, [item.identity for item in page.items], page.ends))
    if not page.rejected:
        return keys
    ends = {record.position: end for record, end in zip(page.rejected, page.rejected_ends, strict=True)}
    following = iter(keys)
    return [_nameless(ends[position]) if position in ends else next(following) for position in range(page.served)]


def _nameless(end: int | None) -> Key | None:
    """Return the key of a record without an identity: its end alone."""
    return None if end is None else Key(None, end)
