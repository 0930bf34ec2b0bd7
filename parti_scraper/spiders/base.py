"""What the spiders have in common: arguments, settings, the categories route, and walking pages."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, cast

from scrapy import Request, Spider
from scrapy.exceptions import CloseSpider, IgnoreRequest
from scrapy.spidermiddlewares.httperror import HttpError
from scrapy.utils.defer import deferred_from_coro

from parti_scraper.api import routes, urls
from parti_scraper.api.categories import ALL, CategoryIndex, resolve_categories, unknown_ids
from parti_scraper.api.normalize import normalize_categories
from parti_scraper.api.quality import Quality, parse_expect_absent, parse_max_rejected
from parti_scraper.api.routes import NAN, LiveQuery
from parti_scraper.api.selection import Selection, select_categories
from parti_scraper.api.times import parse_length, timestamp_to_iso
from parti_scraper.browser.chromium import check_browser
from parti_scraper.exceptions import NothingToFinish, PageError, UsageError
from parti_scraper.items import RepeatedRecord
from parti_scraper.ledger.ledger import SUPERSEDED, Ledger
from parti_scraper.network.retry import OPTIONAL, RetryMiddleware, as_sent, check_proxies, check_settings
from parti_scraper.plan.history import Passes
from parti_scraper.plan.identities import Identities
from parti_scraper.plan.overlap import Key, Page, PageSize
from parti_scraper.redact import redact_text
from parti_scraper.run import datapackage
from parti_scraper.run.arguments import DEFAULT_LIMIT, LAST, without_run_id
from parti_scraper.run.folders import output_dir, state_dir
from parti_scraper.signals import checkpoint
from parti_scraper.spiders import components

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Container, Hashable, Iterator, Mapping, Sequence

    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from scrapy.settings import BaseSettings
    from twisted.python.failure import Failure

    from parti_scraper.api.pages import NormalizedPage
    from parti_scraper.items import Category, Item, RejectedRecord
    from parti_scraper.ledger.ledger import Run, Series, WindowDone
    from parti_scraper.plan.history import Ask, Plan
    from parti_scraper.run.arguments import Arguments, LiveArguments, RecentArguments

logger = logging.getLogger(__name__)

# Of the event loop, that a checkpoint waits for records on their way through the pipelines.
_MOST_TURNS = 1_000


class PartiSpider(Spider):
    """A spider of the API: it reads arguments and settings, and begins with the categories route.

    Attributes:
        arguments: the arguments, parsed.
        base_url: scheme and host of the API; another one after a failover.
        failovers: which host was left for which, and why.
        job: scrapyd's id of the job; None on the command line.
        run_id, run_dir: the run's name and folder.
        selection: the filters that the pipelines apply.
        ledger: what runs have done.
        begun: the run as the ledger has it, where this one is to finish it.
        resumed: its files are gone on with.
        window: the window of time that the run is about, in Unix seconds, frozen; None where there is none.
        series: what an incremental run belongs to.
        seen, rejected: identities of the records that were written, and marks of those set aside; of the snapshot at
            hand where there are snapshots.
        part: what distinguishes the files written now from those of the run before, where it rotates them.
        truncated: `max_records` was reached; nothing more is asked for.
        gaps: what could not be had, a part of a sentence each.
        usage_error: a wrong argument that only the API could show.
        start_error: why nothing can be asked for at all, which only the first request could show.
        quality: what is wrong with single fields of records.
        expect_absent: fields of which nothing is to be said where they are missing.
        max_rejected: the share of records that may be set aside.
    """

    arguments_class: ClassVar[type[Arguments]]
    item_class: ClassVar[type[Item]]
    # The stem of the files' names; the setting FEEDS reads it from here.
    collection: ClassVar[str]
    # Whether what came since the last checkpoint can be asked for again; else every whole line is kept.
    repeatable: ClassVar[bool] = True
    # Settings that name other servers than those of the API.
    uses: ClassVar[tuple[str, ...]] = ()

    base_url: str
    expect_absent: frozenset[str]
    max_rejected: float
    run_dir: Path
    ledger: Ledger

    def __init__(self, started_at: float | None = None, **raw_arguments: Any) -> None:
        """Parse the arguments. Raises UsageError; `scrapy crawl` has checked them before.

        Args:
            started_at: when the run was begun, in Unix seconds; None: now.
            raw_arguments: as typed.
        """
        super().__init__()
        self.started_at = time.time() if started_at is None else started_at
        raw = {name: str(value) for name, value in raw_arguments.items()}
        self.raw_arguments = without_run_id(raw)
        self.arguments = self.arguments_class.parse(raw, self.name, self.started_at)
        self.job = raw.get("_job")
        self.run_id = self.arguments.run_id or _default_run_id(self.job, self.started_at)
        self.begun: Run | None = None
        self.resumed = False
        self.part = ""
        self.window: tuple[int, int] | None = None
        self.series: Series | None = None
        self.seen: Seen = Identities()
        # Marks of the records that were set aside, of the snapshot at hand.
        self.rejected: set[bytes] = set()
        self.selection = Selection()
        self.truncated = False
        self.gaps: list[str] = []
        self.failovers: list[dict[str, str]] = []
        self.usage_error: str | None = None
        self.start_error: str | None = None
        self.quality = Quality()

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> Self:
        """Build the spider and read the settings; that of a run to be finished, as it was begun.

        Raises:
            UsageError: an argument or a setting is wrong.
            NothingToFinish: `run_id=last`, and there is none.
            LedgerError: the ledger cannot be used.
        """
        settings = crawler.settings
        raw = {name: str(value) for name, value in kwargs.items()}
        ledger = Ledger(state_dir(settings, raw))
        begun = cls.find_begun(settings, raw, ledger)
        if begun:
            kwargs |= {**begun.arguments, "run_id": begun.run_id, "started_at": begun.started_at}
        spider = super().from_crawler(crawler, *args, **kwargs)
        spider.ledger, spider.begun = ledger, begun
        spider.base_url = as_sent(urls.parse_base_urls(settings["PARTI_API_BASE_URLS"])[0])
        spider.expect_absent = parse_expect_absent(settings["PARTI_EXPECT_ABSENT"])
        spider.max_rejected = parse_max_rejected(settings["PARTI_MAX_REJECTED"])
        spider.run_dir = output_dir(settings, raw) / cls.name / spider.run_id
        return spider

    @classmethod
    def check(cls, settings: BaseSettings, raw_arguments: Mapping[str, str]) -> None:
        """Check settings and arguments without building a spider. Raises as `from_crawler` does.

        Args:
            settings: with those of the spider.
            raw_arguments: as typed.
        """
        urls.parse_base_urls(settings["PARTI_API_BASE_URLS"])
        components.check(settings)
        check_settings(settings)
        check_proxies(settings)
        cls.check_same_machine(settings)
        if settings["PARTI_TRANSPORT"] == "browser":
            check_browser(settings)
        for name in ("PARTI_INCREMENTAL_OVERLAP", "PARTI_WS_IDLE_TIMEOUT"):
            parse_length(name, settings[name])
        parse_expect_absent(settings["PARTI_EXPECT_ABSENT"])
        parse_max_rejected(settings["PARTI_MAX_REJECTED"])
        _check_batching(settings)
        ledger = Ledger.existing(state_dir(settings, raw_arguments))
        cls.find_begun(settings, raw_arguments, ledger)
        if ledger:
            ledger.close()

    @classmethod
    def check_same_machine(cls, settings: BaseSettings) -> None:
        """Check that all servers that the spider uses are on this machine, or all elsewhere. Raises UsageError."""
        names = {"PARTI_API_BASE_URLS", *cls.uses}
        if settings["PARTI_TRANSPORT"] == "browser":
            names.add("PARTI_SITE_URL")
        addresses = {
            "PARTI_API_BASE_URLS": urls.parse_base_urls(settings["PARTI_API_BASE_URLS"]),
            "PARTI_WS_URL": urls.parse_ws_urls(settings["PARTI_WS_URL"]),
            "PARTI_SITE_URL": (urls.check_site_url(settings["PARTI_SITE_URL"]),),
        }
        urls.check_same_machine({name: value for name, value in addresses.items() if name in names})

    @classmethod
    def find_begun(cls, settings: BaseSettings, raw: Mapping[str, str], ledger: Ledger | None) -> Run | None:
        """Return the unfinished run that the arguments name, and check that they are its own.

        Raises:
            UsageError: they are not, or one does not parse.
            NothingToFinish: `run_id=last`, and there is none.
        """
        arguments = cls.arguments_class.parse(raw, cls.name, time.time())
        output = output_dir(settings, raw) / cls.name
        run_id = arguments.run_id or (_default_run_id(raw["_job"], 0) if raw.get("_job") else None)
        run = None
        if run_id == LAST:
            runs = ledger.running(cls.name) if ledger else iter(())
            run = next(
                (each for each in runs if is_unfinished(each) and Path(each.folder).parent == output.absolute()), None
            )
            if run is None:
                raise NothingToFinish(f"{cls.name}: no run is unfinished; nothing was requested")
        elif run_id and ledger:
            run = ledger.find(output / run_id)
        if run is None or not is_unfinished(run):
            return None
        if run.state == SUPERSEDED:
            problem = "left unfinished, and a later incremental run has written what it was to write"
            raise UsageError.of("argument", "run_id", problem, run.run_id, "another name")
        cls.arguments_class.check_same(raw, run.arguments, run.run_id, cls.name, run.started_at)
        return run

    @classmethod
    def update_settings(cls, settings: BaseSettings) -> None:
        """Take the project's components, and lift the brakes where every server is on this machine.

        The command line still wins.
        """
        super().update_settings(settings)
        components.install(settings, is_run=cls.is_run())
        if all(map(urls.is_loopback, urls.parse_base_urls(settings["PARTI_API_BASE_URLS"]))):
            settings.set("AUTOTHROTTLE_ENABLED", False, priority="spider")
            # Not 0: see DOWNLOAD_DELAY in settings.py.
            settings.set("DOWNLOAD_DELAY", 0.001, priority="spider")
        if settings["PARTI_TRANSPORT"] == "browser":
            handler = "parti_scraper.browser.transport.BrowserDownloadHandler"
            settings.set("DOWNLOAD_HANDLERS", {"http": handler, "https": handler}, priority="spider")

    @classmethod
    def is_run(cls) -> bool:
        """Tell whether it collects records, and does not lend itself to `scrapy fetch`, `view` or `parse`."""
        # Those put a start of their own in place of the spider's.
        return not cls.start.__module__.startswith("scrapy.")

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

    def part_of(self, item: Any) -> str:
        """Return the part that a record belongs into; only of files in the run's folder."""
        return self.part

    @property
    def endless(self) -> bool:
        """Whether the run is meant to be stopped by a signal."""
        return False

    def window_as_json(self) -> dict[str, str] | None:
        """Return the frozen window, for the data package."""
        if self.window is None:
            return None
        since, until = self.window
        return {"since": timestamp_to_iso(since), "until": timestamp_to_iso(until)}

    @property
    def moves_to(self) -> int | None:
        """Where the next run of the series starts after this one, in Unix seconds; None: where it did before."""
        return None

    @property
    def known_from(self) -> int | None:
        """From when on that run knows the versions of what was written, in Unix seconds."""
        return None

    # What a spider that finds more than records adds:

    def remarks(self) -> list[str]:
        """Return lines for the summary."""
        return []

    def description(self) -> dict[str, Any]:
        """Return what is added to the data package."""
        return {}

    def other_files(self) -> list[datapackage.File]:
        """Return files in the run's folder that hold no records."""
        return []

    # What a spider that can go on where it was stopped adds:

    def progress(self) -> Any:
        """Return how far the run has come, as JSON takes it."""
        return {
            "failovers": self.failovers,
            "hosts": self.retry.progress(),
            "quality": self.quality.as_json(),
        }

    def restore(self, progress: Any) -> None:
        """Go on from there; called before anything is requested."""
        self.failovers = progress["failovers"]
        # Earlier versions had neither.
        if "hosts" in progress:
            self.retry.restore(progress["hosts"])
        if "quality" in progress:
            self.quality.restore(progress["quality"])

    def take_done(self) -> tuple[list[WindowDone], list[bytes]]:
        """Return the windows done and the marks of rejected records since the last call."""
        return [], []

    @property
    def at_rest(self) -> bool:
        """Whether a run could go on from here."""
        return False

    @property
    def has_begun(self) -> bool:
        """Whether a run that is to be finished could go on at all; else it stays unfinished."""
        return True

    async def start(self) -> AsyncIterator[Any]:
        """Ask for the categories."""
        yield self.request(routes.categories_url(self.base_url), callback=self.parse_categories)

    def request(self, url: str, **kwargs: Any) -> Request:
        """Return a request that fails into `failed`; the same page may be asked for again, to the letter."""
        kwargs.setdefault("errback", self.failed)
        kwargs.setdefault("meta", {"verbatim_url": True})
        return Request(url, dont_filter=True, **kwargs)

    def parse_categories(self, response: Response) -> Iterator[Any]:
        """Take the answer of the categories route."""
        try:
            page = normalize_categories(response.body, response.url, timestamp_to_iso(time.time()))
        except PageError as error:
            yield self.retry.again(_request_of(response), str(error))
            return
        if not page.served:
            # There are some twenty (reported), so this is no answer.
            yield self.retry.again(_request_of(response), "the list of categories is empty")
            return
        self.retry.parsed(_request_of(response))
        yield from self.categories_received(page)

    def categories_received(self, page: NormalizedPage[Category]) -> Iterator[Any]:
        """Go on with the categories; yields items or requests."""
        raise NotImplementedError

    def failed(self, failure: Failure) -> None:
        """Note that a request failed for good."""
        self.fail(failure.request.url, describe_failure(failure))  # type: ignore[attr-defined]

    def cannot_start(self, reason: str) -> None:
        """End the run, which has asked for nothing and cannot."""
        self.start_error = reason
        deferred_from_coro(self.crawler.engine.close_spider_async(reason="cannot_start"))

    def fail(self, url: str, reason: str) -> None:
        """Note what could not be had."""
        self.note_gap(f"{url} could not be had: {reason}")

    def note_gap(self, gap: str) -> None:
        """Note that the data set is not complete."""
        # The API may have redirected to an address with a token.
        gap = redact_text(gap)
        logger.error("Not complete: %s", gap)
        self.gaps.append(gap)

    def count(self, page: NormalizedPage[Any], seen: Container[Hashable] = ()) -> None:
        """Count a page and its records; `seen` has the identities of those that came before."""
        self.crawler.stats.inc_value("parti/spider/pages")
        self.crawler.stats.inc_value("parti/spider/served", page.served)
        self.quality.add(page, seen, self.selection.takes)


class Seen(Protocol):
    """Identities of records."""

    def __contains__(self, identity: Hashable, /) -> bool: ...

    def add(self, identity: Hashable, /) -> None:
        """Remember an identity."""

    def clear(self) -> None:
        """Forget all."""


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

    def __init__(self, started_at: float | None = None, **raw_arguments: Any) -> None:
        """Parse the arguments, see `PartiSpider`."""
        super().__init__(started_at, **raw_arguments)
        self.index = CategoryIndex()
        # Pages may differ in size between routes, not between walks.
        self.size = PageSize(getattr(self.arguments, "limit", DEFAULT_LIMIT))
        self.walks: list[Walk] = []
        # Marks of the records that were set aside since the last checkpoint.
        self._new_rejected: list[bytes] = []
        self._rejected_in = ""
        self._one_page = asyncio.Lock()
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
        if walk not in self.walks:
            self.walks.append(walk)
        return self.go_on(walk, walk.plan.start())

    def go_on(self, walk: Walk, asks: list[Ask]) -> Iterator[Request]:
        """Ask for what the plan says, unless `max_records` was reached; end the walk with its last page."""
        for ask in () if self.truncated else asks:
            walk.in_flight += 1
            request = self.request(
                self.url(walk, ask),
                callback=self.parse_control if ask.control else self.parse_page,
                errback=self.page_failed,
                cb_kwargs={"walk": walk, "ask": ask},
            )
            if ask.optional:
                request.meta[OPTIONAL] = True
            yield self.retry.later(request, ask.request.attempt) if ask.request.attempt else request
        if not walk.in_flight:
            yield from self.end_walk(walk)

    async def parse_page(self, response: Response, walk: Walk, ask: Ask) -> AsyncIterator[Any]:
        """Yield the records of a page, then the requests that follow from it.

        One page at a time: between two of them the files hold whole pages, so that the counts are right where a
        run goes on.
        """
        async with self._one_page:
            try:
                page = self.normalize(response, walk, ask)
            except PageError as error:
                yield self.retry.again(_request_of(response), str(error))
                return
            self.retry.parsed(_request_of(response))
            # Those of another snapshot are others.
            self.count(page, self.seen if walk.snapshot_id == self._rejected_in else ())
            for item in page.items:
                yield item
            for record in self.told_apart(page, walk.snapshot_id, ascending=ask.ascending):
                yield record
            # They go on together from here.
            yield None
            self.check_filters(walk, page)
            walk.in_flight -= 1
            requests = list(self.go_on(walk, walk.plan.page(ask, Page(_keys(page)))))
            if self.is_checkpoint_due():
                await self._records_came_through()
                self.crawler.signals.send_catch_log(checkpoint)
        for request in requests:
            yield request

    def parse_control(self, response: Response, walk: Walk, ask: Ask) -> Iterator[Request]:
        """Take a page that only shows whether the server serves anything; its records are not collected."""
        try:
            page = self.normalize(response, walk, ask)
        except PageError as error:
            yield self.retry.again(_request_of(response), str(error))
            return
        self.retry.parsed(_request_of(response))
        walk.in_flight -= 1
        ends = zip(page.items, page.ends, strict=True)
        belonging = [Key(item.identity, end) for item, end in ends if self.belongs(walk, item)]
        yield from self.go_on(walk, walk.plan.page(ask, Page(_keys(page), belonging)))

    def belongs(self, walk: Walk, item: Any) -> bool:
        """Tell whether a record is surely one of those that the walk asks for."""
        if walk.categories and str(item.category_id) not in walk.categories:
            # Nor with NaN, of which nobody knows what it means.
            return False
        return self.selection.user_id is None or item.user_id == self.selection.user_id

    @property
    def at_rest(self) -> bool:
        """Whether no page is half-way."""
        return not self._one_page.locked()

    def is_checkpoint_due(self) -> bool:
        """Tell after each page whether the run is to note how far it has come."""
        raise NotImplementedError

    async def _records_came_through(self) -> None:
        # Scrapy asks for a few items before it is done with the ones before. Where a pipeline of the user's takes
        # longer, the checkpoint finds that the counts do not add up, and is left to the next one.
        count = self.crawler.stats.get_value
        for _ in range(_MOST_TURNS):
            if count("item_scraped_count", 0) + count("item_dropped_count", 0) >= count("parti/spider/served", 0):
                return
            await asyncio.sleep(0)

    def told_apart(
        self, page: NormalizedPage[Any], snapshot_id: str, *, ascending: bool = False
    ) -> Iterator[RejectedRecord]:
        """Yield the records that could not be normalized, those as repeated that an earlier page had brought.

        Such a record is known by its content where that names an id, in whatever field is of use. Else it may be as
        little as `null`, and is known by either of the readable records that stand before and after it.

        Args:
            page: the page.
            snapshot_id: the snapshot that it belongs to.
            ascending: the page is in the other order.
        """
        sides = (b">", b"<") if ascending else (b"<", b">")
        if snapshot_id != self._rejected_in:
            self._rejected_in, self.rejected = snapshot_id, set()
            self._new_rejected.clear()
        keys = _keys(page) if page.rejected else []
        for record in page.rejected:
            content = json.dumps(record.record, sort_keys=True).encode()
            before = next((key.id for key in reversed(keys[: record.position]) if key and key.id is not None), None)
            after = next((key.id for key in keys[record.position + 1 :] if key and key.id is not None), None)
            marks = {
                _mark(side, id_, content) for side, id_ in zip(sides, (before, after), strict=True) if id_ is not None
            }
            if _names_an_id(record.record):
                # Where two windows meet, it may be the last of one page and the first of another.
                marks.add(_mark(b"=", None, content))
            repeated = not marks.isdisjoint(self.rejected)
            self._new_rejected += marks - self.rejected
            self.rejected |= marks
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


class LiveRouteSpider(PagedSpider):
    """A spider that walks the list of live channels, most viewers first."""

    def __init__(self, started_at: float | None = None, **raw_arguments: Any) -> None:
        """Parse the arguments, see `PartiSpider`."""
        super().__init__(started_at, **raw_arguments)
        # How many channels the last complete walk through these categories has found.
        self._lengths: dict[tuple[str, ...], int] = {}

    def begin_walk(self, walk: Walk) -> Iterator[Request]:
        """Return the first requests of a walk; in a run without end, of an earlier host where that is back."""
        if self.endless:
            self.retry.begin_round()
        return super().begin_walk(walk)

    def plan(self, categories: tuple[str, ...]) -> Plan:
        """Plan passes over the list, whose order changes all the time."""
        return Passes(self.size, "the live channels", lenient=True, before=self._lengths.get(categories, 0))

    def url(self, walk: Walk, ask: Ask) -> str:
        """Return the address of a page."""
        categories = () if ask.control else walk.categories
        return LiveQuery(categories).url(self.base_url, ask.request.offset, ask.request.limit)

    def end_walk(self, walk: Walk) -> Iterator[Request]:
        """Remember how long the list was, see `PagedSpider`."""
        if isinstance(walk.plan, Passes) and not walk.plan.gaps and not self.truncated:
            self._lengths[walk.categories] = walk.plan.count
        return super().end_walk(walk)


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


def _keys(page: NormalizedPage[Any]) -> Sequence[Key | None]:
    """Return what paging needs of each record of a page, in the order served."""
    keys = list(map(Key, [item.identity for item in page.items], page.ends))
    if not page.rejected:
        return keys
    ends = {record.position: end for record, end in zip(page.rejected, page.rejected_ends, strict=True)}
    following = iter(keys)
    return [_nameless(ends[position]) if position in ends else next(following) for position in range(page.served)]


def _nameless(end: int | None) -> Key | None:
    """Return what paging may know of a record without an identity: that time goes on."""
    return None if end is None else Key(None, end)


def _names_an_id(record: Any) -> bool:
    """Tell whether the content of a record that cannot be read is that of no other."""
    if not isinstance(record, dict):
        return False
    return any(str(record.get(name)).isdecimal() for name in ("event_id", "user_id"))


def _mark(side: bytes, neighbor: Hashable, content: bytes) -> bytes:
    """Return what a record that cannot be read is known by, the same in every process."""
    return hashlib.blake2b(side + repr(neighbor).encode() + content, digest_size=16).digest()


def _check_batching(settings: BaseSettings) -> None:
    try:
        settings.getbool("PARTI_BATCHING")
    except ValueError:
        raise UsageError.of(
            "setting", "PARTI_BATCHING", "neither true nor false", settings["PARTI_BATCHING"], "true, false"
        ) from None


def is_unfinished(run: Run) -> bool:
    """Tell whether the folder of a run is there, and has no data package."""
    folder = Path(run.folder)
    return folder.is_dir() and datapackage.read(folder) is None


def _request_of(response: Response) -> Request:
    # Scrapy sets it before it calls a callback.
    return cast("Request", response.request)


def _default_run_id(job: str | None, now: float) -> str:
    if job:
        return re.sub(r"[^A-Za-z0-9._-]", "_", job, flags=re.ASCII).lstrip("._-")[:100] or _default_run_id(None, now)
    return f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
