"""What all spiders have in common: a run, its arguments and settings, and the categories route."""

from __future__ import annotations

import time
from dataclasses import replace
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
from parti_scraper.plan.outlook import Outlook
from parti_scraper.run.arguments import without_run_id
from parti_scraper.run.context import Identity, Run, RunFolder, default_run_id
from parti_scraper.run.folders import output_dir, state_dir, typed_places
from parti_scraper.run.previous import find_previous
from parti_scraper.scrapy_internals import close_spider
from parti_scraper.spiders import components
from parti_scraper.spiders.checks import addresses, check_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Container, Hashable, Iterator, Mapping

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
    """A spider of the API: it collects the records of a run, and starts with the categories route.

    What it shares with pipelines and extensions is in its run. Most of its public methods are hooks for subclasses.
    """

    arguments_class: ClassVar[type[Arguments]]
    item_class: ClassVar[type[Item]]
    # The stem of the files' names; the setting FEEDS reads it from here.
    collection: ClassVar[str]
    # Whether what came since the last checkpoint can be fetched again; else every whole line is kept.
    can_refetch: ClassVar[bool] = True
    # For how long a record is remembered after it was written, in seconds, where the run has a folder for each day.
    remembered: ClassVar[float] = 0
    # What the data package calls the times at which it looked.
    observed: ClassVar[str] = ""
    # Settings that name other servers than those of the API.
    uses: ClassVar[tuple[str, ...]] = ()

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.arguments = run.identity.arguments

    @classmethod
    def from_crawler(cls, crawler: Crawler, *, run: Run | None = None, **raw_arguments: Any) -> Self:
        """Build the spider, with a run or with the arguments of a new one, see `new_run`, which may raise."""
        raw = {name: str(value) for name, value in raw_arguments.items()}
        run = run or cls.new_run(crawler.settings, raw)
        spider = super().from_crawler(crawler, run)
        spider.read_settings(crawler.settings)
        return spider

    @classmethod
    def new_run(cls, settings: BaseSettings, raw: Mapping[str, str]) -> Run:
        """Return the run that the arguments ask for: a new one, or an unfinished one as it was started.

        Args:
            settings: with those of the spider.
            raw: the arguments as typed.

        Raises:
            UsageError: an argument or a setting is wrong.
            NothingToFinish: `run_id=last`, and no run is unfinished.
            LedgerError: the ledger cannot be used.
        """
        now = time.time()
        folder = output_dir(settings, raw) / cls.name
        ledger = Ledger(state_dir(settings, raw))
        previous = find_previous(cls.arguments_class, raw, folder, ledger, now)
        if previous:
            now, raw = previous.started_at, {**raw, **previous.arguments, "run_id": previous.run_id}
        identity = cls.identify(raw, now)
        identity = replace(identity, places=typed_places(settings))
        if previous:
            identity = replace(identity, run_uuid=previous.run_uuid)
        run_folder = RunFolder(folder / identity.run_id, cls.collection, cls.item_class)
        run = Run(
            identity,
            run_folder,
            ledger,
            hosts_from(settings),
            cls.new_seen(),
            source=cls.new_source(settings),
            previous=previous,
            by_day=cls.has_days(identity.arguments),
        )
        cls.prepare(run, settings)
        return run

    @classmethod
    def new_source(cls, settings: BaseSettings) -> Source:
        """Return where the data of a run come from, as far as its servers' addresses show it. Raises UsageError."""
        configured = addresses(settings, cls.uses).values()
        return Source(is_here=any(urls.is_loopback(url) for each in configured for url in each))

    @classmethod
    def identify(cls, raw: Mapping[str, str], now: float) -> Identity:
        """Return the identity of a run with these arguments. Raises UsageError."""
        arguments = cls.arguments_class.parse(raw, cls.name, now)
        job = raw.get("_job")
        run_id = arguments.run_id or default_run_id(job, now)
        return Identity(cls.name, run_id, arguments, without_run_id(raw), now, job)

    @classmethod
    def check(cls, settings: BaseSettings, raw: Mapping[str, str]) -> None:
        """Check settings and arguments, so that `new_run` can only fail at the ledger. Takes and raises the same."""
        check_settings(settings, cls.uses)
        with Ledger.existing(state_dir(settings, raw)) as ledger:
            find_previous(cls.arguments_class, raw, output_dir(settings, raw) / cls.name, ledger, time.time())

    @classmethod
    def update_settings(cls, settings: BaseSettings) -> None:
        """Add the project's components; do without delays where every server is on this machine.

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
        """Tell whether it collects records; in `scrapy fetch`, `view` and `parse` it does not."""
        # They replace the spider's `start`.
        return not cls.start.__module__.startswith("scrapy.")

    # Hooks:

    @classmethod
    def has_days(cls, _arguments: Arguments) -> bool:
        """Tell whether a run with these arguments may last for days, and has a folder for each."""
        return False

    @classmethod
    def new_seen(cls) -> Seen:
        """Return what remembers the records that were written."""
        return Identities()

    @classmethod
    def prepare(cls, run: Run, settings: BaseSettings) -> None:
        """Complete a run once its arguments are known, such as with its window of time."""

    def read_settings(self, settings: BaseSettings) -> None:
        """Read the settings that the spider itself needs."""

    @property
    def until_stopped(self) -> bool:
        """Whether the run is meant to be stopped by a signal."""
        return False

    def categories_received(self, page: NormalizedPage[Category]) -> Iterator[Any]:
        """Continue with the categories; yields items or requests."""
        raise NotImplementedError

    def remarks(self) -> list[str]:
        """Return lines for the summary."""
        return self.run.problems.remarks

    def outlook(self) -> Outlook:
        """Return how far the run has come: by `max_records`, and by the time where it has a duration."""
        duration: float | None = getattr(self.arguments, "duration", None)
        limited = self.run.limit.share
        if not duration:
            return Outlook(limited)
        # By the wall clock, so that the time before a run was resumed counts too.
        passed = min(max(time.time() - self.started_at, 0.0), duration)
        return Outlook(max(passed / duration, limited or 0.0), left=duration - passed)

    def description(self) -> dict[str, Any]:
        """Return what is added to the data package."""
        return {}

    def other_files(self) -> list[datapackage.File]:
        """Return files in the run's folder that hold no records."""
        return []

    # Hooks of a spider that can resume:

    def progress(self) -> dict[str, Any]:
        """Return how far the run has come, as JSON takes it."""
        return self.run.progress()

    def restore(self, progress: Any) -> None:
        """Resume from there; called before anything is requested."""
        self.run.restore(progress)

    def drain_rejected(self) -> list[bytes]:
        """Return the marks of rejected records since the last call, for a run that resumes."""
        return []

    @property
    def can_checkpoint(self) -> bool:
        """Whether a run could resume from here."""
        return False

    @property
    def made_progress(self) -> bool:
        """Whether a resumed run could continue at all; else it stays unfinished."""
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
        """When the run was started, in Unix seconds."""
        return self.run.identity.started_at

    # For all spiders:

    async def start(self) -> AsyncIterator[Any]:
        yield self.request(routes.categories_url(self.run.hosts.current), callback=self.parse_categories)

    def request(self, url: str, **kwargs: Any) -> Request:
        """Return a request whose failure goes to `failed`; its address stays as it is, and may be requested again."""
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
            # There are some twenty (reported), so this answer is wrong.
            yield self.retry.retry(request_of(response), "the list of categories is empty")
            return
        self.retry.succeeded(request_of(response))
        yield from self.categories_received(page)

    def failed(self, failure: Failure) -> None:
        url, reason = failure.request.url, describe_failure(failure)  # type: ignore[attr-defined]
        self.run.problems.note_gap(f"{url} could not be fetched: {reason}")

    def cannot_start(self, reason: str) -> None:
        """End the run, which cannot request anything."""
        self.run.problems.note_start_error(reason)
        close_spider(self.crawler, "cannot_start")

    def count(self, page: NormalizedPage[Any], seen: Container[Hashable] = ()) -> None:
        """Count a page and its records; `seen` holds the identities of earlier records."""
        self.count_page()
        self.count_served(page.served)
        self.run.add_quality(page, seen)

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
