"""What the spiders have in common: arguments, settings, the categories route, and walking pages."""

from __future__ import annotations

import logging
import re
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from scrapy import Request, Spider
from scrapy.exceptions import CloseSpider, IgnoreRequest
from scrapy.spidermiddlewares.httperror import HttpError

from parti_scraper import api
from parti_scraper.arguments import ALL
from parti_scraper.exceptions import PageError, UsageError
from parti_scraper.middlewares import RetryMiddleware, check_settings
from parti_scraper.normalize import CategoryIndex, normalize_categories, timestamp_to_iso
from parti_scraper.paging import Incomplete, Page, PageRequest, Paging
from parti_scraper.selection import Selection, resolve_categories, select_categories, unknown_ids

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from scrapy.settings import BaseSettings
    from twisted.python.failure import Failure

    from parti_scraper.arguments import Arguments, LiveArguments, RecentArguments
    from parti_scraper.items import Category, Item
    from parti_scraper.normalize import NormalizedPage
    from parti_scraper.paging import Step

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
    """One sequence of pages.

    Attributes:
        query: what is asked for.
        paging: where in it the walk is.
        snapshot_id: of the live route: the snapshot that it belongs to.
    """

    query: api.RecentQuery | api.LiveQuery
    paging: Paging
    snapshot_id: str = ""


class PagedSpider(PartiSpider):
    """A spider that walks pages: of the categories asked for together, or of each category on its own."""

    arguments: RecentArguments | LiveArguments

    def __init__(self, **raw_arguments: Any) -> None:
        """Parse the arguments, see `PartiSpider`."""
        super().__init__(**raw_arguments)
        self.index = CategoryIndex()
        # What is asked for in one walk each: values of the parameter `categories`.
        self.groups: list[tuple[str, ...]] = []

    # What a spider adds to walking:

    def begin(self) -> Iterator[Request]:
        """Return the first requests, once the categories are known."""
        raise NotImplementedError

    def normalize(self, response: Response, walk: Walk, request: PageRequest) -> NormalizedPage[Any]:
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

    def page_request(self, walk: Walk, request: PageRequest) -> Request:
        """Return the HTTP request for a page."""
        return self.request(
            walk.query.url(self.base_url, request.offset, request.limit),
            callback=self.parse_page,
            errback=self.page_failed,
            cb_kwargs={"walk": walk, "request": request},
        )

    def parse_page(self, response: Response, walk: Walk, request: PageRequest) -> Iterator[Any]:
        """Yield the records of a page, then the request for the next one."""
        try:
            page = self.normalize(response, walk, request)
        except PageError as error:
            yield self.retry.again(_request_of(response), str(error))
            return
        self.retry.parsed(_request_of(response))
        self.count(page)
        yield from page.items
        yield from page.rejected
        ids = [item.identity for item in page.items]
        yield from self.next_step(walk, walk.paging.page(Page(page.served, ids)))

    def page_failed(self, failure: Failure) -> Iterator[Any]:
        """Go on after a request that failed for good."""
        walk: Walk = failure.request.cb_kwargs["walk"]  # type: ignore[attr-defined]
        yield from self.next_step(walk, walk.paging.failure(describe_failure(failure)))

    def next_step(self, walk: Walk, step: Step) -> Iterator[Request]:
        """Do what the paging says, unless `max_records` was reached."""
        if isinstance(step, PageRequest) and not self.truncated:
            yield self.page_request(walk, step)
            return
        if isinstance(step, Incomplete):
            self.note_gap(step.reason)
        self.walk_ended(walk)


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


def _request_of(response: Response) -> Request:
    # Scrapy sets it before it calls a callback.
    return cast("Request", response.request)


def _default_run_id(job: str | None, now: float) -> str:
    if job:
        return re.sub(r"[^A-Za-z0-9._-]", "_", job, flags=re.ASCII).lstrip("._-")[:100] or _default_run_id(None, now)
    return f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
