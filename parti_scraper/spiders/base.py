"""What all spiders have in common: a run, its arguments and settings, and the categories route."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from scrapy import Request, Spider
from scrapy.exceptions import IgnoreRequest
from scrapy.spidermiddlewares.httperror import HttpError

from parti_scraper.api import routes, urls
from parti_scraper.api.build import Context
from parti_scraper.api.registry import CATEGORIES
from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.exceptions import PageError
from parti_scraper.ledger.ledger import Ledger
from parti_scraper.network.retry import RetryMiddleware
from parti_scraper.network.settings import hosts_from
from parti_scraper.network.source import Source
from parti_scraper.plan.identities import Identities
from parti_scraper.run.arguments import without_run_id
from parti_scraper.run.context import Identity, Run, RunFolder, default_run_id
from parti_scraper.run.folders import output_dir, state_dir
from parti_scraper.run.previous import find_previous
from parti_scraper.scrapy_internals import close_spider
from parti_scraper.spiders import components
from parti_scraper.spiders.checks import addresses, check_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Container, Hashable, Iterator, Mapping
    from pathlib import Path

    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from scrapy.settings import BaseSettings
    from twisted.python.failure import Failure

    from parti_scraper.api.pages import NormalizedPage
    from parti_scraper.items import Category, Item
    from parti_scraper.network.hosts import Hosts
    from parti_scraper.network.traffic import Traffic
    from parti_scraper.run import datapackage
    from parti_scraper.run.arguments import Arguments
    from parti_scraper.run.context import Seen


class PartiSpider(Spider):
    """A spider of the API: it collects the records of a run, and begins with the categories route.

    What it shares with pipelines and extensions is in its run. Its public methods are more than a dozen since most are
    what one kind of spider may do otherwise.

    Attributes:
        run: the run.
        arguments: what was asked for.
    """

    arguments_class: ClassVar[type[Arguments]]
    item_class: ClassVar[type[Item]]
    # The stem of the files' names; the setting FEEDS reads it from here.
    collection: ClassVar[str]
    # Whether what came since the last checkpoint can be asked for again; else every whole line is kept.
    can_refetch: ClassVar[bool] = True
    # Settings that name other servers than those of the API.
    uses: ClassVar[tuple[str, ...]] = ()

    def __init__(self, run: Run) -> None:
        """Collect the records of a run, see `new_run`."""
        super().__init__()
        self.run = run
        self.arguments = run.identity.arguments

    @classmethod
    def from_crawler(cls, crawler: Crawler, *, run: Run | None = None, **raw_arguments: Any) -> Self:
        """Build the spider.

        Args:
            crawler: Scrapy's.
            run: the run; None: a new one, see `new_run`, which may raise.
            raw_arguments: as typed, where there is no run yet.
        """
        raw = {name: str(value) for name, value in raw_arguments.items()}
        run = run or cls.new_run(crawler.settings, raw)
        spider = super().from_crawler(crawler, run)
        spider.read_settings(crawler.settings)
        return spider

    @classmethod
    def new_run(cls, settings: BaseSettings, raw: Mapping[str, str]) -> Run:
        """Return the run that the arguments ask for; where that is to be finished, as it was begun.

        Args:
            settings: with those of the spider.
            raw: the arguments as typed.

        Raises:
            UsageError: an argument or a setting is wrong.
            NothingToFinish: `run_id=last`, and there is none.
            LedgerError: the ledger cannot be used.
        """
        now = time.time()
        folder = output_dir(settings, raw) / cls.name
        ledger = Ledger(state_dir(settings, raw))
        previous = find_previous(cls.arguments_class, raw, folder, ledger, now)
        if previous:
            now, raw = previous.started_at, {**raw, **previous.arguments, "run_id": previous.run_id}
        identity = cls.identify(raw, now)
        run_folder = cls.folder(folder / identity.run_id)
        hosts, source = hosts_from(settings), cls.new_source(settings)
        run = Run(identity, run_folder, ledger, hosts, cls.new_seen(), source=source, previous=previous)
        cls.prepare(run, settings)
        return run

    @classmethod
    def new_source(cls, settings: BaseSettings) -> Source:
        """Return where the data of a run come from, as far as its servers' addresses show it. Raises UsageError."""
        configured = addresses(settings, cls.uses).values()
        return Source(is_here=any(urls.is_loopback(url) for each in configured for url in each))

    @classmethod
    def identify(cls, raw: Mapping[str, str], now: float) -> Identity:
        """Return what a run with these arguments is. Raises UsageError."""
        arguments = cls.arguments_class.parse(raw, cls.name, now)
        job = raw.get("_job")
        run_id = arguments.run_id or default_run_id(job, now)
        return Identity(cls.name, run_id, arguments, without_run_id(raw), now, job)

    @classmethod
    def check(cls, settings: BaseSettings, raw: Mapping[str, str]) -> None:
        """Check settings and arguments, so that `new_run` will not raise, but for the ledger. Raises as that does.

        Args:
            settings: with those of the spider.
            raw: the arguments as typed.
        """
        check_settings(settings, cls.uses)
        ledger = Ledger.existing(state_dir(settings, raw))
        find_previous(cls.arguments_class, raw, output_dir(settings, raw) / cls.name, ledger, time.time())
        if ledger:
            ledger.close()

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

    # What a spider may do otherwise:

    @classmethod
    def folder(cls, path: Path) -> RunFolder:
        """Return what the folder of a run is to hold."""
        return RunFolder(path, cls.collection, cls.item_class)

    @classmethod
    def new_seen(cls) -> Seen:
        """Return what is to remember the records that were written."""
        return Identities()

    @classmethod
    def prepare(cls, run: Run, settings: BaseSettings) -> None:
        """Add to a run what it is about, once its arguments are known."""

    def read_settings(self, settings: BaseSettings) -> None:
        """Read the settings that the spider itself needs."""

    @property
    def until_stopped(self) -> bool:
        """Whether the run is meant to be stopped by a signal."""
        return False

    def categories_received(self, page: NormalizedPage[Category]) -> Iterator[Any]:
        """Go on with the categories; yields items or requests."""
        raise NotImplementedError

    def remarks(self) -> list[str]:
        """Return lines for the summary."""
        return self.run.problems.remarks

    def description(self) -> dict[str, Any]:
        """Return what is added to the data package."""
        return {}

    def other_files(self) -> list[datapackage.File]:
        """Return files in the run's folder that hold no records."""
        return []

    # The same for a spider that can go on where it was stopped:

    def progress(self) -> dict[str, Any]:
        """Return how far the run has come, as JSON takes it."""
        return self.run.progress()

    def restore(self, progress: Any) -> None:
        """Go on from there; called before anything is requested."""
        self.run.restore(progress)

    def drain_rejected(self) -> list[bytes]:
        """Return the marks of rejected records since the last call, for a run that is to know them again."""
        return []

    @property
    def can_checkpoint(self) -> bool:
        """Whether a run could go on from here."""
        return False

    @property
    def made_progress(self) -> bool:
        """Whether a run that is to be finished could go on at all; else it stays unfinished."""
        return True

    @property
    def hosts(self) -> Hosts:
        """Which host of the API is asked; the middleware looks for it here."""
        return self.run.hosts

    @property
    def source(self) -> Source:
        """Where the data come from; what looks at the answers looks for it here."""
        return self.run.source

    @property
    def traffic(self) -> Traffic:
        """What the run has cost; the middleware looks for it here."""
        return self.run.traffic

    # What names of feeds may hold, beside the class attributes:

    @property
    def run_id(self) -> str:
        return self.run.identity.run_id

    @property
    def started_at(self) -> float:
        """When the run was begun, in Unix seconds."""
        return self.run.identity.started_at

    # What they do all:

    async def start(self) -> AsyncIterator[Any]:
        yield self.request(routes.categories_url(self.run.hosts.current), callback=self.parse_categories)

    def request(self, url: str, **kwargs: Any) -> Request:
        """Return a request that fails into `failed`; the same page may be asked for again, to the letter."""
        kwargs.setdefault("errback", self.failed)
        kwargs.setdefault("meta", {"verbatim_url": True})
        return Request(url, dont_filter=True, **kwargs)

    @property
    def retry(self) -> RetryMiddleware:
        """The middleware that is told what the answers were."""
        return cast("RetryMiddleware", self.crawler.get_downloader_middleware(RetryMiddleware))

    def parse_categories(self, response: Response) -> Iterator[Any]:
        try:
            page = CATEGORIES.normalize(response.body, response.url, Context(timestamp_to_iso(time.time())))
        except PageError as error:
            yield self.retry.retry(request_of(response), str(error))
            return
        if not page.served:
            # There are some twenty (reported), so this is no answer.
            yield self.retry.retry(request_of(response), "the list of categories is empty")
            return
        self.retry.succeeded(request_of(response))
        yield from self.categories_received(page)

    def failed(self, failure: Failure) -> None:
        url, reason = failure.request.url, describe_failure(failure)  # type: ignore[attr-defined]
        self.run.problems.note_gap(f"{url} could not be had: {reason}")

    def cannot_start(self, reason: str) -> None:
        """End the run, which has asked for nothing and cannot."""
        self.run.problems.note_start_error(reason)
        close_spider(self.crawler, "cannot_start")

    def count(self, page: NormalizedPage[Any], seen: Container[Hashable] = ()) -> None:
        """Count a page and its records; `seen` has the identities of those that came before."""
        self.count_page()
        self.count_served(page.served)
        self.run.quality.add(page, seen, self.run.selection.takes)

    def count_page(self) -> None:
        self.run.tally.add("pages")
        self.crawler.stats.inc_value("parti/spider/pages")

    def count_served(self, number: int) -> None:
        """Count records that are about to be yielded."""
        self.run.tally.add("served", number)
        self.crawler.stats.inc_value("parti/spider/served", number)


def describe_failure(failure: Failure) -> str:
    error = failure.value
    if isinstance(error, HttpError) and error.response.status == 401:
        return "HTTP 401: set the environment variable PARTI_TOKEN to a token that the API accepts"
    if isinstance(error, HttpError):
        return f"HTTP {error.response.status}"
    if isinstance(error, IgnoreRequest):
        return str(error) or "not allowed"
    return f"{type(error).__name__}: {error}"


def request_of(response: Response) -> Request:
    """Return the request of a response in a callback."""
    # Scrapy sets it before it calls one.
    return cast("Request", response.request)
