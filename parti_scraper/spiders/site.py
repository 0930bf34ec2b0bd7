"""The spider `site`: what the site's own page requests from the API today, seen in a real browser."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from scrapy.downloadermiddlewares.robotstxt import RobotsTxtMiddleware
from scrapy.exceptions import IgnoreRequest

from parti_scraper.api import routes, urls
from parti_scraper.api.drift import Configuration
from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.browser.chromium import CONTEXT_OPTIONS, check_browser, first_line, launch_options
from parti_scraper.browser.visit import AT_ONCE, MOST_CALLS, MOST_REPEATS, Visit
from parti_scraper.exceptions import BrowserError
from parti_scraper.items import ApiCall
from parti_scraper.network.source import says_so
from parti_scraper.redact import redact_url
from parti_scraper.run import datapackage
from parti_scraper.run.arguments import SiteArguments
from parti_scraper.run.datapackage import SCREENSHOT
from parti_scraper.scrapy_internals import is_closing
from parti_scraper.signals import send_storage_failed
from parti_scraper.spiders.base import PartiSpider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping

    from scrapy.http import Response
    from scrapy.settings import BaseSettings
    from twisted.python.failure import Failure

    from parti_scraper.api.drift import Report
    from parti_scraper.browser.visit import CallRow
    from parti_scraper.run.context import Run

logger = logging.getLogger(__name__)

# Seconds between two checks whether to end the visit early.
_WATCH = 0.2
_NO_CLICK = "no category was clicked"


class SiteSpider(PartiSpider):
    """Opens a page of the site in Chromium, and collects the API requests that it makes.

    Attributes:
        report: how the site differs from what this project knows; None before the end of the visit.
    """

    name = "site"
    arguments_class = SiteArguments
    item_class = ApiCall
    collection = ApiCall.collection
    uses = ("PARTI_SITE_URL",)

    arguments: SiteArguments

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.report: Report | None = None
        self._visit: Visit | None = None
        self._has_screenshot = False

    @classmethod
    def check(cls, settings: BaseSettings, raw: Mapping[str, str]) -> None:
        """Check settings and arguments, and that there is a browser. Raises as `PartiSpider` does, and BrowserError."""
        super().check(settings, raw)
        check_browser(settings)

    @classmethod
    def update_settings(cls, settings: BaseSettings) -> None:
        """Let scrapy-playwright start the browser. Raises BrowserError."""
        super().update_settings(settings)
        check_browser(settings)
        handler = "scrapy_playwright.handler.ScrapyPlaywrightDownloadHandler"
        for name, value in {
            # For the request of `start` alone; robots.txt is requested as in every run.
            "DOWNLOAD_HANDLERS": settings.getdict("DOWNLOAD_HANDLERS") | {"data": handler},
            "PLAYWRIGHT_BROWSER_PROVIDER": "parti_scraper.browser.chromium.BrowserProvider",
            "PLAYWRIGHT_LAUNCH_OPTIONS": launch_options(settings),
            "PLAYWRIGHT_ABORT_REQUEST": None,
            # The browser sends its own headers.
            "PLAYWRIGHT_PROCESS_REQUEST_HEADERS": None,
            "PLAYWRIGHT_DEFAULT_NAVIGATION_TIMEOUT": settings.getfloat("DOWNLOAD_TIMEOUT") * 1_000,
            "PLAYWRIGHT_CONTEXTS": {},
        }.items():
            settings.set(name, value, priority="spider")
        # At DEBUG it logs the address of every request, secrets included; its warnings are tracebacks of requests
        # that had not ended when their page was closed.
        logging.getLogger("scrapy-playwright").setLevel(logging.ERROR)

    @property
    def page_url(self) -> str:
        site_url = urls.check_site_url(self.settings["PARTI_SITE_URL"])
        return self.arguments.url or f"{site_url}{routes.CATEGORIES_PAGE}"

    async def start(self) -> AsyncIterator[Any]:
        """Let scrapy-playwright start the browser with an empty page.

        It reads the content of a page that it opens itself, for which Playwright may wait endlessly if the page leaves
        for another one.
        """
        yield self.request(
            "data:,",
            callback=self.visit,
            errback=self.not_started,
            meta={
                "playwright": True,
                "playwright_include_page": True,
                # Not a copy, since `BrowserProvider` adds to it.
                "playwright_context_kwargs": CONTEXT_OPTIONS,
            },
        )

    async def visit(self, response: Response) -> AsyncIterator[Any]:
        """Open the page and look around as a visitor would; yields the requests that it made."""
        base_urls = urls.parse_base_urls(self.settings["PARTI_API_BASE_URLS"])
        configuration = Configuration(base_urls, self.settings["PARTI_WS_URL"])
        self._visit = visit = Visit(response.meta["playwright_page"], configuration, partial(is_closing, self.crawler))
        await self._bounded(visit, self._see(visit))
        await visit.close()
        if not visit.opened:
            return
        for number, row in enumerate(visit.calls.rows):
            self.count_served(1)
            yield _item(row, known=configuration.knows(row.call))
            if number % AT_ONCE == 0:
                yield None
                await asyncio.sleep(0)
        if not is_closing(self.crawler):
            self._conclude(visit)

    async def _bounded(self, visit: Visit, work: Coroutine[Any, Any, None]) -> None:
        """Wait for a part of the visit, at most until the crawl ends or the browser is too slow."""
        task = asyncio.ensure_future(work)
        while not task.done() and not is_closing(self.crawler):
            if visit.is_hung:
                self._cut_short("the browser did not answer in time")
                break
            await asyncio.wait({task}, timeout=_WATCH)
        # It waits for the browser, which may never answer.
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def not_started(self, failure: Failure) -> None:
        if isinstance(failure.value, BrowserError):
            self.cannot_start(str(failure.value))
        else:
            self._not_opened(failure.value)

    async def _see(self, visit: Visit) -> None:
        """Open the page, and look around while the page and the browser respond."""
        from playwright.async_api import Error  # noqa: PLC0415 - an extra

        try:
            robots = self.crawler.get_downloader_middleware(RobotsTxtMiddleware)
            if robots is not None:
                await robots.process_request(self.request(self.page_url))
            await visit.open(self.page_url)
        except (Error, IgnoreRequest) as error:
            self._not_opened(error)
            return
        # A page of the site holds no data: it cannot show that a server is no mock.
        self.source.takes(self.page_url, says_mock=says_so(visit.headers), has_data=False)
        self.count_page()
        try:
            await self._look_around(visit)
        except Error as error:
            self._cut_short(first_line(error))

    async def _look_around(self, visit: Visit) -> None:
        await visit.wait_for_data()
        await self._save_screenshot(visit)
        await visit.scroll()
        # No faster than a crawl.
        await visit.click_categories(self.settings.getfloat("DOWNLOAD_DELAY"))
        self.crawler.stats.set_value("parti/site/clicks", visit.clicked)
        logger.info("Clicked on %d of %d categories", visit.clicked, len(visit.calls.categories))
        await visit.settle()

    async def _save_screenshot(self, visit: Visit) -> None:
        picture = await visit.take_screenshot()
        if picture is None:
            return
        path = self.run.folder.path / SCREENSHOT
        try:
            path.write_bytes(picture)
        except OSError as error:
            send_storage_failed(self.crawler, str(path), error)
        else:
            self._has_screenshot = True

    def _not_opened(self, error: BaseException | None) -> None:
        if not is_closing(self.crawler):
            self.run.problems.note_gap(f"{redact_url(self.page_url)} could not be opened: {first_line(error)}")

    def _cut_short(self, why: str) -> None:
        if not is_closing(self.crawler):
            self.run.problems.note_gap(f"the visit of {redact_url(self.page_url)} was cut short: {why}")

    def _conclude(self, visit: Visit) -> None:
        calls = visit.calls
        self.report = calls.comparison.report()
        self.run.quality.replace_unknown(calls.comparison.unknown_fields)
        if not calls.made:
            self.run.problems.note_gap(f"{visit.opened} asked for no data; see {SCREENSHOT}")
            return
        if calls.is_cut_off:
            self.run.problems.note_gap(
                f"{visit.opened} made {calls.made:,} requests, of which {len(calls.rows):,} have a row"
            )
        for line in self.report.lines():
            logger.warning("Drift: %s", line)
        for gap in self.report.gaps():
            self.run.problems.note_gap(gap)
        if self.report.agrees:
            logger.info("%s", _agreement(visit).capitalize())

    def remarks(self) -> list[str]:
        """Return the report for the summary; the gaps are in its reason."""
        lines = super().remarks() + [str(self.run.folder.path / SCREENSHOT)] * self._has_screenshot
        visit, report = self._visit, self.report
        if visit is None or report is None:
            return lines
        calls = visit.calls
        if calls.without_row:
            lines.append(
                f"{calls.without_row:,} of {calls.made:,} requests have no row: "
                f"the same one has at most {MOST_REPEATS:,}, all together {MOST_CALLS:,}"
            )
        if calls.workers:
            lines.append("the page has a worker; its very first requests may have no row")
        if 0 < visit.clicked < len(calls.categories):
            lines.append(f"clicked on {visit.clicked} of {len(calls.categories)} categories")
        if report.agrees:
            return [*lines, _agreement(visit)]
        if calls.made and not visit.clicked:
            lines.append(f"{_NO_CLICK}: only what the page asked for by itself was compared")
        return lines + report.lines()

    def description(self) -> dict[str, Any]:
        """Return the report for the data package, and the host of the page."""
        visit: dict[str, int] = {}
        if self._visit is not None:
            calls = self._visit.calls
            visit = {
                "requests": calls.made,
                "without_row": calls.without_row,
                "categories": len(calls.categories),
                "clicked": self._visit.clicked,
            }
        return {"host": urls.origin_of(self.page_url), "visit": visit, "drift": self.report and self.report.as_json()}

    def other_files(self) -> list[datapackage.File]:
        if not self._has_screenshot:
            return []
        return [
            datapackage.File(self.run.folder.path / SCREENSHOT, ApiCall, 0, form="png", encoding=None, is_table=False)
        ]


def _agreement(visit: Visit) -> str:
    agreement = "the site and this project agree"
    return agreement if visit.clicked else f"{agreement} in what the page asked for by itself: {_NO_CLICK}"


def _item(row: CallRow, *, known: bool) -> ApiCall:
    call = row.call
    parts = urlsplit(redact_url(call.url))
    return ApiCall(
        page_url=redact_url(row.page_url),
        method=call.method,
        host=parts.netloc,
        path=parts.path,
        query=parts.query,
        status=call.status,
        resource=call.resource,
        known=known,
        observed_at=timestamp_to_iso(row.began),
    )
