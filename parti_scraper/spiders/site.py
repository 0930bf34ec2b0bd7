"""The spider `site`: what the site's own page asks the API for today, seen in a real browser."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from scrapy.downloadermiddlewares.robotstxt import RobotsTxtMiddleware
from scrapy.exceptions import IgnoreRequest

from parti_scraper.api import drift, routes, urls
from parti_scraper.api.drift import WEBSOCKET, Call, Comparison, Configuration
from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.browser.chromium import (
    CONTEXT_OPTIONS,
    Background,
    Network,
    Workers,
    WorkerSession,
    check_browser,
    first_line,
    launch_options,
    refuse_unwanted,
)
from parti_scraper.exceptions import BrowserError
from parti_scraper.items import ApiCall
from parti_scraper.network.retry import is_closing
from parti_scraper.redact import redact_url
from parti_scraper.run import datapackage
from parti_scraper.run.arguments import SiteArguments
from parti_scraper.signals import send_storage_failed
from parti_scraper.spiders.base import PartiSpider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping

    from playwright.async_api import CDPSession, Locator, Page
    from scrapy.http import Response
    from scrapy.settings import BaseSettings
    from twisted.python.failure import Failure

    from parti_scraper.api.drift import Report
    from parti_scraper.browser.chromium import Exchange

logger = logging.getLogger(__name__)

SCREENSHOT = "screenshot.png"
_SUBSCRIPTION = "NewChannelLiveNotify"
_KINDS = {"Fetch", "XHR", "WebSocket"}
# In seconds: for the first request of the page, for a request after a click, for the answers to it; and for everything.
_FIRST_REQUEST, _NEXT_REQUEST, _ANSWERS, _VISIT = 15.0, 1.0, 10.0, 180.0
# The same for what may not be there to click on, or be behind something, in milliseconds.
_CLICK = 2_000
_SCROLLS, _SCREEN, _CLICKS = 5, 2_000, 50
# In milliseconds: a page that never stops moving is seen all the same, but for the picture.
_SCREENSHOT = 10_000
# How much longer the browser may take, in seconds; a page that is busy with itself may answer nothing for ever.
_HUNG = 45.0
# The same for it to close a page.
_CLOSE = 2.0
# How long a wait goes on before it looks again.
_SLICE, _WATCH = 0.02, 0.2
# How often the same request has a row, and how many rows there are. All others are compared and counted.
MOST_REPEATS, MOST_CALLS = 1_000, 20_000
# How many are taken before something else has its turn.
_AT_ONCE = 250
# Answers that are read: of so many addresses, each so many times; and messages of a WebSocket.
_ADDRESSES_READ, _TIMES_READ, _MESSAGES = 1_000, 20, 100


_NO_CLICK = "no category was clicked"


class Visit:
    """What a page has asked for so far, workers of it included.

    Attributes:
        page: the page; until `begin` the empty one with which the browser was started.
        opened: what was opened, as to be named to users; empty while nothing is.
        made: how many requests for data and WebSockets there were.
        earlier: how many of them pages made that were left for the one that is open now, or is about to be.
        calls: those that have a row, in the order in which they were made, with where and when.
        comparison: what all of them together say.
        categories: of each category that the page was told of, the names that it may show.
        clicked: how many of these were clicked.
        workers: how many workers the page had.
    """

    def __init__(self, page: Page, configuration: Configuration) -> None:
        self.page = page
        self.opened = ""
        self.made = self.earlier = self.clicked = self.workers = 0
        self.calls: list[tuple[Call, str, float]] = []
        self.comparison = Comparison(configuration)
        self.categories: list[tuple[str, ...]] = []
        self.waiting: set[Exchange] = set()
        # Of the page itself, and not of one within it.
        self._frame = ""
        self._calls: dict[Exchange, Call] = {}
        self._repeats: Counter[tuple[str, str]] = Counter()
        self._read_of: Counter[str] = Counter()
        self._background, self._reading = Background(), Background()
        self._messages = 0
        self._is_over = False

    async def begin(self) -> None:
        """Open an empty page, and have the browser tell of every request from now on."""
        # Not that of scrapy-playwright, which has Playwright tell of each request, and ask what is to become of it.
        context = self.page.context
        self.page = await context.new_page()
        # Nobody looks at others that it opens, and there may be any number.
        context.on("page", lambda page: self._background.begin(page.close()))
        session = await context.new_cdp_session(self.page)
        await self._listen(session)
        await refuse_unwanted(session, self._background)
        await Workers(session, self._background, self._listen_to_worker).enable()

    @property
    def is_waiting(self) -> bool:
        """Whether the page waits for an answer, or one is being read."""
        return bool(self.waiting or self._reading)

    async def _listen_to_worker(self, session: WorkerSession) -> None:
        self.workers += 1
        await self._listen(session)

    async def _listen(self, session: CDPSession | WorkerSession) -> None:
        begun = partial(self._begun, is_worker=isinstance(session, WorkerSession))
        ended = partial(self._ended, session)
        await Network(session, begun=begun, ended=ended, message=self._message).enable()

    def _begun(self, exchange: Exchange, *, is_worker: bool) -> None:
        if exchange.kind == "Document":
            self._frame = self._frame or exchange.frame
            if exchange.frame == self._frame:
                self._leave()
        if (
            self._is_over
            or exchange.kind not in _KINDS
            or urlsplit(exchange.url).scheme not in {"http", "https", "ws", "wss"}
        ):
            return
        is_socket = exchange.kind == "WebSocket"
        call = Call(exchange.method, exchange.url, WEBSOCKET if is_socket else drift.HTTP)
        self.made += 1
        same = call.method, call.url
        if len(self.calls) < MOST_CALLS and self._repeats[same] < MOST_REPEATS:
            self._repeats[same] += 1
            # To a worker, its script is the page.
            page_url = self.page.url if is_worker else exchange.page_url or self.page.url
            self.calls.append((call, page_url, exchange.began))
        self._calls[exchange] = call
        if not is_socket:
            self.waiting.add(exchange)

    def _leave(self) -> None:
        """Wait no longer for what was under way: Chromium may never tell what came of it."""
        self.earlier = self.made
        for exchange, call in self._calls.items():
            # What was answered by then counts, though the rest of it never comes; a WebSocket, where it was told what
            # it is for.
            call.status = exchange.status
            call.dropped = not call.subscribed if call.resource == WEBSOCKET else exchange.status is None
        self.waiting.clear()

    def _ended(self, session: CDPSession | WorkerSession, exchange: Exchange) -> None:
        self.waiting.discard(exchange)
        call = self._calls.pop(exchange, None)
        if call is None:
            return
        call.status = exchange.status
        if call.resource == drift.HTTP:
            # As where the page was left, or has seen enough of the answer.
            is_given_up = exchange.error == "net::ERR_ABORTED"
            call.dropped = is_given_up and call.status is None
            call.is_json = "json" in exchange.media_type
            if exchange.error and not exchange.cors_error and not is_given_up:
                call.problem = f"cut short, {exchange.error}"
            elif not exchange.error and self._is_to_be_read(call):
                self._reading.begin(self._read(session, exchange.id, call))
                return
        self.comparison.add(call)

    def _is_to_be_read(self, call: Call) -> bool:
        if call.status != 200 or call.route is None:
            return False
        if call.url not in self._read_of and len(self._read_of) >= _ADDRESSES_READ:
            return False
        self._read_of[call.url] += 1
        return self._read_of[call.url] <= _TIMES_READ

    async def _read(self, session: CDPSession | WorkerSession, request_id: str, call: Call) -> None:
        assert call.route is not None  # noqa: S101 - `_is_to_be_read`
        try:
            # That fails where the page was left, and the browser has forgotten it.
            answer = await session.send("Network.getResponseBody", {"requestId": request_id})
            # Chromium takes what it does not hold for text to be base64; JSON is text.
            body = answer["body"].encode(errors="replace")
            call.unknown_fields, call.problem = drift.read(call.route, body)
            if call.route == routes.CATEGORIES.name:
                self.categories = drift.names_of_categories(body) or self.categories
        finally:
            self.comparison.add(call)

    def _message(self, exchange: Exchange, text: str, was_sent: bool) -> None:
        call = self._calls.get(exchange)
        if call is None:
            return
        call.subscribed = call.subscribed or (was_sent and _SUBSCRIPTION in text)
        call.dropped = call.dropped and not call.subscribed
        if call.subscribed and not was_sent and self._messages < _MESSAGES:
            self._messages += 1
            call.unknown_fields += drift.read_message(text)

    async def close(self) -> None:
        """Close the page, and note what is known of requests and WebSockets that were open."""
        from playwright.async_api import Error  # noqa: PLC0415 - an extra

        self._is_over = True
        with contextlib.suppress(Error, TimeoutError):
            await asyncio.wait_for(self.page.close(), _CLOSE)
        await self._reading.finish(_CLOSE)
        for number, exchange in enumerate(list(self._calls)):
            if call := self._calls.pop(exchange, None):
                if call.resource == WEBSOCKET or call.dropped:
                    call.status = exchange.status
                self.comparison.add(call)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)


class SiteSpider(PartiSpider):
    """Opens a page of the site in Chromium, and collects the API requests that it makes."""

    name = "site"
    arguments_class = SiteArguments
    item_class = ApiCall
    collection = ApiCall.collection
    uses = ("PARTI_SITE_URL",)

    arguments: SiteArguments

    def __init__(self, started_at: float | None = None, **raw_arguments: Any) -> None:
        """Parse the arguments, see `PartiSpider`."""
        super().__init__(started_at, **raw_arguments)
        self.report: Report | None = None
        self._visit: Visit | None = None
        self._until = 0.0
        self._has_screenshot = False

    @classmethod
    def check(cls, settings: BaseSettings, raw_arguments: Mapping[str, str]) -> None:
        """Check settings and arguments, and that there is a browser. Raises as `PartiSpider` does, and BrowserError."""
        super().check(settings, raw_arguments)
        check_browser(settings)

    @classmethod
    def update_settings(cls, settings: BaseSettings) -> None:
        """Have the browser started by scrapy-playwright. Raises BrowserError."""
        super().update_settings(settings)
        check_browser(settings)
        handler = "scrapy_playwright.handler.ScrapyPlaywrightDownloadHandler"
        for name, value in {
            # For what `start` asks for; robots.txt goes as ever.
            "DOWNLOAD_HANDLERS": settings.getdict("DOWNLOAD_HANDLERS") | {"data": handler},
            "PLAYWRIGHT_BROWSER_PROVIDER": "parti_scraper.browser.chromium.BrowserProvider",
            "PLAYWRIGHT_LAUNCH_OPTIONS": launch_options(settings),
            "PLAYWRIGHT_ABORT_REQUEST": None,
            # The browser's own headers.
            "PLAYWRIGHT_PROCESS_REQUEST_HEADERS": None,
            "PLAYWRIGHT_DEFAULT_NAVIGATION_TIMEOUT": settings.getfloat("DOWNLOAD_TIMEOUT") * 1_000,
            "PLAYWRIGHT_CONTEXTS": {},
        }.items():
            settings.set(name, value, priority="spider")
        # At DEBUG it logs the address of every request, with the secrets in it; its warnings are tracebacks of
        # requests that a page had under way when it was closed.
        logging.getLogger("scrapy-playwright").setLevel(logging.ERROR)

    @property
    def page_url(self) -> str:
        """The page to open."""
        site_url = urls.check_site_url(self.settings["PARTI_SITE_URL"])
        return self.arguments.url or f"{site_url}{routes.CATEGORIES_PAGE}"

    async def start(self) -> AsyncIterator[Any]:
        """Have the browser started, with an empty page.

        Of a page that scrapy-playwright opens itself it wants the content. Playwright may wait for that without end
        where the page leaves for another one.
        """
        yield self.request(
            "data:,",
            callback=self.visit,
            errback=self.not_started,
            meta={
                "playwright": True,
                "playwright_include_page": True,
                # Itself, and no copy: see `BrowserProvider`.
                "playwright_context_kwargs": CONTEXT_OPTIONS,
            },
        )

    async def visit(self, response: Response) -> AsyncIterator[Any]:
        """Open the page and look around as a visitor would; yields what was asked for."""
        self._until = time.monotonic() + _VISIT
        base_urls = urls.parse_base_urls(self.settings["PARTI_API_BASE_URLS"])
        configuration = Configuration(base_urls, self.settings["PARTI_WS_URL"])
        self._visit = visit = Visit(response.meta["playwright_page"], configuration)
        await self._bounded(self._see(visit))
        await visit.close()
        if not visit.opened:
            return
        for number, call in enumerate(visit.calls):
            self.crawler.stats.inc_value("parti/spider/served")
            yield _item(*call, known=configuration.knows(call[0]))
            if number % _AT_ONCE == 0:
                yield None
                await asyncio.sleep(0)
        if not is_closing(self.crawler):
            self._conclude(visit)

    async def _bounded(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for something, but not longer than the crawl goes on, nor than the browser may take."""
        task = asyncio.ensure_future(work)
        while not task.done() and not is_closing(self.crawler):
            if time.monotonic() > self._until + _HUNG:
                self._cut_short("the browser did not answer in time")
                break
            await asyncio.wait({task}, timeout=_WATCH)
        # It waits for the browser, which may never answer.
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def not_started(self, failure: Failure) -> None:
        """Note why there is no browser."""
        if isinstance(failure.value, BrowserError):
            self.cannot_start(str(failure.value))
        else:
            self._not_opened(failure.value)

    async def _see(self, visit: Visit) -> None:
        """Open the page, and look around for as long as there is one."""
        from playwright.async_api import Error  # noqa: PLC0415 - an extra

        try:
            robots = self.crawler.get_downloader_middleware(RobotsTxtMiddleware)
            if robots is not None:
                await robots.process_request(self.request(self.page_url))
            await visit.begin()
            # No further: what comes next may be another page already.
            answer = await visit.page.goto(self.page_url, wait_until="commit")
        except (Error, IgnoreRequest) as error:
            self._not_opened(error)
            return
        visit.opened = redact_url(self.page_url)
        if answer:
            visit.opened = f"{redact_url(answer.url)} (HTTP {answer.status})"
        self.crawler.stats.inc_value("parti/spider/pages")
        try:
            await visit.page.wait_for_load_state("domcontentloaded")
            await self._look_around(visit)
        except Error as error:
            self._cut_short(first_line(error))

    def _not_opened(self, error: BaseException | None) -> None:
        if not is_closing(self.crawler):
            self.note_gap(f"{redact_url(self.page_url)} could not be opened: {first_line(error)}")

    def _cut_short(self, why: str) -> None:
        if not is_closing(self.crawler):
            self.note_gap(f"the visit of {redact_url(self.page_url)} was cut short: {why}")

    async def _look_around(self, visit: Visit) -> None:
        await self._settle(visit, visit.earlier, _FIRST_REQUEST)
        await self._settle(visit, visit.made, _NEXT_REQUEST)
        await self._take_screenshot(visit.page)
        size = visit.page.viewport_size or {"width": 0, "height": 0}
        await visit.page.mouse.move(size["width"] / 2, size["height"] / 2)
        for _ in range(_SCROLLS):
            before = visit.made
            await visit.page.mouse.wheel(0, _SCREEN)
            await self._settle(visit, before, _NEXT_REQUEST)
            if visit.made == before:
                break
        for names in visit.categories[:_CLICKS]:
            if self._is_over():
                break
            visit.clicked += await self._click(visit, names)
            # A visitor is no faster than a crawl is.
            await asyncio.sleep(self.settings.getfloat("DOWNLOAD_DELAY"))
        self.crawler.stats.set_value("parti/site/clicks", visit.clicked)
        logger.info("Clicked on %d of %d categories", visit.clicked, len(visit.categories))
        await self._settle(visit, visit.made, _NEXT_REQUEST)

    async def _settle(self, visit: Visit, before: int, seconds: float) -> None:
        """Wait for a request after the first `before`, for so long, and for the answers to all."""
        await self._wait(lambda: visit.made > before, seconds)
        # A page that never stops asking is waited for until it has what it has asked for by then.
        await self._wait(lambda: not visit.is_waiting, _NEXT_REQUEST)
        asked = set(visit.waiting)
        await self._wait(lambda: not visit.is_waiting or asked.isdisjoint(visit.waiting), _ANSWERS)

    async def _wait(self, happened: Callable[[], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._is_over():
            if happened():
                return
            await asyncio.sleep(_SLICE)

    def _is_over(self) -> bool:
        return is_closing(self.crawler) or time.monotonic() >= self._until

    async def _click(self, visit: Visit, names: tuple[str, ...]) -> bool:
        """Click on a category; tell whether it could be done."""
        from playwright.async_api import TimeoutError as PlaywrightTimeoutError  # noqa: PLC0415 - an extra

        page, address, before = visit.page, visit.page.url, visit.made
        target = await _find(page, names)
        if target is None:
            return False
        try:
            await target.click(timeout=_CLICK)
        except PlaywrightTimeoutError:
            return False  # Something is in front of it.
        await self._settle(visit, before, _NEXT_REQUEST)
        if page.url != address:
            await page.go_back(wait_until="domcontentloaded")
            await self._settle(visit, visit.made, _NEXT_REQUEST)
        return True

    async def _take_screenshot(self, page: Page) -> None:
        from playwright.async_api import Error  # noqa: PLC0415 - an extra

        path = self.run_dir / SCREENSHOT
        try:
            path.write_bytes(await page.screenshot(timeout=_SCREENSHOT))
        except Error as error:
            # As of a page that is busy, or just being left.
            logger.warning("There is no screenshot: %s", first_line(error))
        except OSError as error:
            send_storage_failed(self.crawler, str(path), error)
        else:
            self._has_screenshot = True

    def _conclude(self, visit: Visit) -> None:
        """Say where site and project have drifted apart."""
        self.report = visit.comparison.report()
        self.quality.unknown = visit.comparison.unknown_fields
        if not visit.made:
            self.note_gap(f"{visit.opened} asked for no data; see {SCREENSHOT}")
            return
        if len(visit.calls) == MOST_CALLS < visit.made:
            self.note_gap(f"{visit.opened} made {visit.made:,} requests, of which {MOST_CALLS:,} have a row")
        for line in self.report.lines():
            logger.warning("Drift: %s", line)
        for gap in self.report.gaps():
            self.note_gap(gap)
        if self.report.agrees:
            logger.info("%s", _agreement(visit).capitalize())

    def remarks(self) -> list[str]:
        """Return the report for the summary, whose reason names the gaps."""
        lines = [str(self.run_dir / SCREENSHOT)] if self._has_screenshot else []
        visit, report = self._visit, self.report
        if visit is None or report is None:
            return lines
        if left_out := visit.made - len(visit.calls):
            lines.append(
                f"{left_out:,} of {visit.made:,} requests have no row: the same one has {MOST_REPEATS:,} at the most, "
                f"all have {MOST_CALLS:,}"
            )
        if visit.workers:
            lines.append("the page has a worker; what that asks for at once, before it is heard, may have no row")
        if 0 < visit.clicked < len(visit.categories):
            lines.append(f"clicked on {visit.clicked} of {len(visit.categories)} categories")
        if report.agrees:
            return [*lines, _agreement(visit)]
        if visit.made and not visit.clicked:
            lines.append(f"{_NO_CLICK}: only what the page asked for by itself was compared")
        return lines + report.lines()

    def description(self) -> dict[str, Any]:
        """Return the report for the data package, and which host was asked for the page."""
        visit: dict[str, int] = {}
        if self._visit is not None:
            visit = {
                "requests": self._visit.made,
                "without_row": self._visit.made - len(self._visit.calls),
                "categories": len(self._visit.categories),
                "clicked": self._visit.clicked,
            }
        return {
            "host": urls.origin_of(self.page_url),
            "visit": visit,
            "drift": self.report and self.report.as_json(),
        }

    def other_files(self) -> list[datapackage.File]:
        """Return the screenshot."""
        if not self._has_screenshot:
            return []
        return [datapackage.File(self.run_dir / SCREENSHOT, ApiCall, 0, form="png", encoding=None, is_table=False)]


def _agreement(visit: Visit) -> str:
    agreement = "the site and this project agree"
    return agreement if visit.clicked else f"{agreement} in what the page asked for by itself: {_NO_CLICK}"


async def _find(page: Page, names: tuple[str, ...]) -> Locator | None:
    """Return what a category is clicked on: a button or a link of its name, or the name itself."""
    for name in names:
        by_role = page.get_by_role("button", name=name, exact=True).or_(page.get_by_role("link", name=name, exact=True))
        for locator in (by_role.first, page.get_by_text(name, exact=True).first):
            if await locator.is_visible():
                return locator
    return None


def _item(call: Call, page_url: str, began: float, *, known: bool) -> ApiCall:
    parts = urlsplit(redact_url(call.url))
    return ApiCall(
        page_url=redact_url(page_url),
        method=call.method,
        host=parts.netloc,
        path=parts.path,
        query=parts.query,
        status=call.status,
        resource=call.resource,
        known=known,
        observed_at=timestamp_to_iso(began),
    )
