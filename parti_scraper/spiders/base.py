"""What the spiders have in common: arguments, settings, the categories route, and walking pages."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from scrapy import Request, Spider
from scrapy.exceptions import CloseSpider, IgnoreRequest
from scrapy.spidermiddlewares.httperror import HttpError

from parti_scraper import api
from parti_scraper.api import NAN
from parti_scraper.arguments import ALL
from parti_scraper.exceptions import PageError, UsageError
from parti_scraper.items import RepeatedRecord
from parti_scraper.middlewares import RetryMiddleware, check_settings
from parti_scraper.normalize import CategoryIndex, iso_to_timestamp, normalize_categories, timestamp_to_iso
from parti_scraper.paging import Key, Page, PageSize
from parti_scraper.selection import Selection, resolve_categories, select_categories, unknown_ids

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from scrapy.settings import BaseSettings
    from twisted.python.failure import Failure

    from parti_scraper.arguments import Arguments, LiveArguments, RecentArguments
    from parti_scraper.items import Category, Item, RejectedRecord
    from parti_scraper.normalize import NormalizedPage
    from parti_scraper.windows import Ask, Plan

logger = logging.getLogger(__name__)

# Of an API that names its fields at random only so many are remembered.
MAX_UNKNOWN_FIELDS = 100


class PartiSpider(Spider):
    """A spider of the API: it reads arguments and settings, and begins with the categories route.

    Attributes:
        arguments: the arguments, parsed.
        base_url: scheme and host of the API; another one after a failover.
        failovers: which host was left for which, and why.
        run_id, run_dir: the run's name and folder.
        selection: the filters that the pipelines apply.
        truncated: `max_records` was reached; nothing more is asked for.
        gaps: what could not be had, a part of a sentence each.
        usage_error: a wrong argument that only the API could show.
        unknown_fields: names of fields of the API that no item declares.
    """

    arguments_class: ClassVar[type[Arguments]]
    item_class: ClassVar[type[Item]]
    # The stem of the files' names; the setting FEEDS reads it from here.
    collection: ClassVar[str]

    base_url: str
    run_dir: Path

    def __init__(self, **raw_arguments: Any) -> None:
        """Parse the arguments. Raises UsageError; `scrapy crawl` has checked them before."""
        super().__init__()
        self.started_at = time.time()
        raw = {name: str(value) for name, value in raw_arguments.items()}
        self.arguments = self.arguments_class.parse(raw, self.name, self.started_at)
        self.run_id = self.arguments.run_id or _default_run_id(raw.get("_job"), self.started_at)
        self.selection = Selection()
        self.truncated = False
        self.gaps: list[str] = []
        self.failovers: list[dict[str, str]] = []
        self.usage_error: str | None = None
        self.unknown_fields: set[str] = set()

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> Self:
        """Build the spider and read the settings. Raises UsageError for either."""
        spider = super().from_crawler(crawler, *args, **kwargs)
        spider.base_url = api.parse_base_urls(crawler.settings["PARTI_API_BASE_URLS"])[0]
        spider.run_dir = Path(crawler.settings["PARTI_OUTPUT_DIR"]) / cls.name / spider.run_id
        return spider

    @classmethod
    def check(cls, settings: BaseSettings, raw_arguments: Mapping[str, str]) -> None:
        """Check settings and arguments without building a spider. Raises UsageError."""
        api.parse_base_urls(settings["PARTI_API_BASE_URLS"])
        check_settings(settings)
        cls.arguments_class.parse(raw_arguments, cls.name, time.time())

    @classmethod
    def update_settings(cls, settings: BaseSettings) -> None:
        """Lift the brakes where every server is on this machine; the command line still wins."""
        super().update_settings(settings)
        if all(map(api.is_loopback, api.parse_base_urls(settings["PARTI_API_BASE_URLS"]))):
            settings.set("AUTOTHROTTLE_ENABLED", False, priority="spider")
            # Not 0: see DOWNLOAD_DELAY in settings.py.
            settings.set("DOWNLOAD_DELAY", 0.001, priority="spider")

    @property
    def retry(self) -> RetryMiddleware:
        """The middleware that is told what the answers were."""
        return cast("RetryMiddleware", self.crawler.get_downloader_middleware(RetryMiddleware))

    @property
    def quarantine_path(self) -> Path:
        """Where records go that could not be normalized."""
        return self.run_dir / "quarantine.jsonl"

    @property
    def max_records(self) -> int | None:
        """After how many records to stop; None: never."""
        return getattr(self.arguments, "max_records", None)

    @property
    def endless(self) -> bool:
        """Whether the run is meant to be stopped by a signal."""
        return False

    def window_as_json(self) -> dict[str, str] | None:
        """Return the window of time that the run is about, for the data package."""
        return None

    async def start(self) -> AsyncIterator[Any]:
        """Ask for the categories."""
        yield self.request(api.categories_url(self.base_url), callback=self.parse_categories)

    def request(self, url: str, **kwargs: Any) -> Request:
        """Return a request that fails into `failed`; the same page may be asked for again."""
        kwargs.setdefault("errback", self.failed)
        return Request(url, dont_filter=True, **kwargs)

    def parse_categories(self, response: Response) -> Iterator[Any]:
        """Take the answer of the categories route."""
        try:
            page = normalize_categories(response.body, response.url, timestamp_to_iso(time.time()))
        except PageError as error:
            yield self.retry.again(_request_of(response), str(error))
            return
        self.retry.parsed(_request_of(response))
        yield from self.categories_received(page)

    def categories_received(self, page: NormalizedPage[Category]) -> Iterator[Any]:
        """Go on with the categories; yields items or requests."""
        raise NotImplementedError

    def failed(self, failure: Failure) -> None:
        """Note that a request failed for good."""
        self.fail(failure.request.url, describe_failure(failure))  # type: ignore[attr-defined]

    def fail(self, url: str, reason: str) -> None:
        """Note what could not be had."""
        self.note_gap(f"{url} could not be had: {reason}")

    def note_gap(self, gap: str) -> None:
        """Note that the data set is not complete."""
        logger.error("Not complete: %s", gap)
        self.gaps.append(gap)

    def count(self, page: NormalizedPage[Any]) -> None:
        """Count a page and its records."""
        self.crawler.stats.inc_value("parti/spider/pages")
        self.crawler.stats.inc_value("parti/spider/served", page.served)
        if len(self.unknown_fields) < MAX_UNKNOWN_FIELDS:
            self.unknown_fields |= page.unknown_fields


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


class PagedSpider(PartiSpider):
    """A spider that walks pages: of the categories asked for together, or of each category on its own."""

    arguments: RecentArguments | LiveArguments

    def __init__(self, **raw_arguments: Any) -> None:
        """Parse the arguments, see `PartiSpider`."""
        super().__init__(**raw_arguments)
        self.index = CategoryIndex()
        # Pages may differ in size between routes, not between walks.
        self.size = PageSize(self.arguments.limit)
        # Marks of the records that were set aside, of the snapshot at hand.
        self._rejected: set[int] = set()
        self._rejected_in = ""
        # What is asked for in one walk each: values of the parameter `categories`.
        self.groups: list[tuple[str, ...]] = []

    # What a spider adds to walking:

    def begin(self) -> Iterator[Request]:
        """Return the first requests, once the categories are known."""
        raise NotImplementedError

    def plan(self, categories: tuple[str, ...]) -> Plan:
        """Return the plan for a walk through these categories."""
        raise NotImplementedError

    def url(self, walk: Walk, ask: Ask) -> str:
        """Return the address of a page."""
        raise NotImplementedError

    def normalize(self, response: Response, walk: Walk, ask: Ask) -> NormalizedPage[Any]:
        """Return the records of a page. Raises PageError."""
        raise NotImplementedError

    def walk_ended(self, walk: Walk) -> None:
        """Go on after a walk, complete or not."""

    # The walk itself:

    def categories_received(self, page: NormalizedPage[Category]) -> Iterator[Any]:
        """Find the categories asked for and begin to walk."""
        self.index = CategoryIndex(page.items)
        if not page.items:
            self.note_gap("the categories route named no category")
            return
        try:
            values = resolve_categories(self.arguments.categories, self.index)
        except UsageError as error:
            self.usage_error = str(error)
            raise CloseSpider("usage_error") from None
        for value in unknown_ids(values, self.index):
            logger.warning("Category %s is not in the categories route; asked for all the same", value)
        self.selection = self.select(*select_categories(values, self.index))
        self.groups = [(value,) for value in values] if self.arguments.categories == (ALL,) else [values]
        yield from self.begin()

    def select(self, categories: frozenset[int] | None, unknown_category: bool) -> Selection:
        """Return the filters that the client applies."""
        return Selection(categories, unknown_category)

    def begin_walk(self, walk: Walk) -> Iterator[Request]:
        """Return the first requests of a walk."""
        return self.go_on(walk, walk.plan.start())

    def go_on(self, walk: Walk, asks: list[Ask]) -> Iterator[Request]:
        """Ask for what the plan says, unless `max_records` was reached; end the walk with its last page."""
        for ask in () if self.truncated else asks:
            walk.in_flight += 1
            yield self.request(
                self.url(walk, ask),
                callback=self.parse_page,
                errback=self.page_failed,
                cb_kwargs={"walk": walk, "ask": ask},
            )
        if not walk.in_flight:
            yield from self.end_walk(walk)

    def parse_page(self, response: Response, walk: Walk, ask: Ask) -> Iterator[Any]:
        """Yield the records of a page, then the requests that follow from it."""
        try:
            page = self.normalize(response, walk, ask)
        except PageError as error:
            yield self.retry.again(_request_of(response), str(error))
            return
        self.retry.parsed(_request_of(response))
        self.count(page)
        yield from page.items
        yield from self.told_apart(page, walk.snapshot_id)
        self.check_filters(walk, page)
        walk.in_flight -= 1
        yield from self.go_on(walk, walk.plan.page(ask, Page(_keys(page))))

    def told_apart(self, page: NormalizedPage[Any], snapshot_id: str) -> Iterator[RejectedRecord]:
        """Yield the records that could not be normalized, those as repeated that an earlier page had brought.

        Such a record has no identity that could be read, and may be as little as `null`: it is known by its content
        and by either of the readable records that stand before and after it.
        """
        if snapshot_id != self._rejected_in:
            self._rejected_in, self._rejected = snapshot_id, set()
        keys = _keys(page) if page.rejected else []
        for record in page.rejected:
            content = json.dumps(record.record, sort_keys=True)
            before = next((key.id for key in reversed(keys[: record.position]) if key), None)
            after = next((key.id for key in keys[record.position + 1 :] if key), None)
            marks = {hash((side, id_, content)) for side, id_ in ((0, before), (1, after)) if id_ is not None}
            repeated = not marks.isdisjoint(self._rejected)
            self._rejected |= marks
            yield RepeatedRecord(record.reason, record.url, record.position, record.record) if repeated else record

    def page_failed(self, failure: Failure) -> Iterator[Any]:
        """Go on after a request that failed for good."""
        kwargs = failure.request.cb_kwargs  # type: ignore[attr-defined]
        walk: Walk = kwargs["walk"]
        walk.in_flight -= 1
        error = failure.value
        status = error.response.status if isinstance(error, HttpError) else None
        yield from self.go_on(walk, walk.plan.failure(kwargs["ask"], describe_failure(failure), status))

    def check_filters(self, walk: Walk, page: NormalizedPage[Any]) -> None:
        """Say once a filter where the server sends what was not asked for; the pipelines drop it."""
        wanted, user_id = self.selection.categories, self.selection.user_id
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
            logger.warning("The server does not filter by `%s` as asked; what was not asked for is left out", name)
        self.crawler.stats.inc_value(stat)

    def end_walk(self, walk: Walk) -> Iterator[Request]:
        """Note how a walk ended; ask for categories one by one where the server may have left some out."""
        for gap in walk.plan.gaps:
            self.note_gap(gap)
        for warning in walk.plan.warnings:
            logger.warning("%s", warning)
        self.crawler.stats.inc_value("parti/paging/shifts", walk.plan.shifts)
        walks = [] if self.truncated or walk.plan.gaps else list(self.unseen(walk))
        for alone in walks:
            yield from self.begin_walk(alone)
        self.walk_ended(walk)

    def unseen(self, walk: Walk) -> Iterator[Walk]:
        """Yield a walk for each category of several that nothing came of: the server may heed the last one only."""
        categories = tuple(dict.fromkeys(walk.categories))
        if len(categories) < 2 or NAN in categories:
            return
        for category in categories:
            if int(category) not in walk.seen or not self.index.is_tellable(int(category)):
                logger.info("Category %s is asked for alone: nothing of it came with the others", category)
                self.crawler.stats.inc_value("parti/filter/asked_alone")
                yield Walk((category,), self.plan((category,)), walk.snapshot_id)


def describe_failure(failure: Failure) -> str:
    """Return in a few words why a request failed."""
    error = failure.value
    if isinstance(error, HttpError) and error.response.status == 401:
        return "HTTP 401: set the environment variable PARTI_TOKEN to a token that the API accepts"
    if isinstance(error, HttpError):
        return f"HTTP {error.response.status}"
    if isinstance(error, IgnoreRequest):
        return str(error) or "not allowed"
    return f"{type(error).__name__}: {error}"


def _keys(page: NormalizedPage[Any]) -> list[Key | None]:
    """Return what paging needs of each record of a page, in the order served."""
    rejected = {record.position for record in page.rejected}
    items = iter(page.items)
    keys: list[Key | None] = []
    for position in range(page.served):
        if position in rejected:
            keys.append(None)
            continue
        item = next(items)
        end = getattr(item, "event_end", None)
        keys.append(Key(item.identity, None if end is None else iso_to_timestamp(end)))
    return keys


def _request_of(response: Response) -> Request:
    # Scrapy sets it before it calls a callback.
    return cast("Request", response.request)


def _default_run_id(job: str | None, now: float) -> str:
    if job:
        return re.sub(r"[^A-Za-z0-9._-]", "_", job, flags=re.ASCII).lstrip("._-")[:100] or _default_run_id(None, now)
    return f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
