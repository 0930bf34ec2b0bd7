"""The spider `site`: what the site's own page asks the API for today, seen in a real browser."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from scrapy.downloadermiddlewares.robotstxt import RobotsTxtMiddleware
from scrapy.exceptions import IgnoreRequest

from parti_scraper import api, datapackage, drift
from parti_scraper.arguments import SiteArguments
from parti_scraper.browser import CONTEXT_OPTIONS, Network, check_browser, first_line, launch_options
from parti_scraper.drift import WEBSOCKET, Call, Configuration
from parti_scraper.exceptions import BrowserError
from parti_scraper.items import ApiCall
from parti_scraper.middlewares import is_closing
from parti_scraper.normalize import timestamp_to_iso
from parti_scraper.redact import redact_url
from parti_scraper.signals import send_storage_failed
from parti_scraper.spiders.base import PartiSpider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from playwright.async_api import Locator, Page
    from scrapy.http import Response
    from scrapy.settings import BaseSettings
    from twisted.python.failure import Failure

    from parti_scraper.browser import Exchange
    from parti_scraper.drift import Report

logger = logging.getLogger(__name__)

SCREENSHOT = "screenshot.png"
_SUBSCRIPTION = "NewChannelLiveNotify"
_KINDS = {"Fetch", "XHR", "WebSocket"}
# In seconds: for the first request of the page, for a request after a click, for the answers to it; and for everything.
_FIRST_REQUEST, _NEXT_REQUEST, _ANSWERS, _VISIT = 15.0, 1.0, 10.0, 180.0
# The same for what may not be there to click on, or be behind something, in milliseconds.
_CLICK = 2_000
_SCROLLS, _SCREEN, _CLICKS = 5, 2_000, 50
# How much longer the browser may take, in seconds; a page that is busy with itself may answer nothing for ever.
_HUNG = 60.0
# The same for it to forget what it was to do with requests.
_UNROUTE = 2.0
# How long a wait goes on before it looks again.
_SLICE, _WATCH = 0.02, 0.2
# Messages of a WebSocket that are looked at.
_MESSAGES = 100


class Visit:
    """What a page has asked for so far.

    Attributes:
        calls: requests for data and WebSockets, in the order in which they were made, with where and when.
        earlier: how many of them pages made that were left for the one that is open now, or is about to be.
        categories: of each category that the page was told of, the names that it may show.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.calls: list[tuple[Call, str, float]] = []
        self.earlier = 0
        self.categories: list[tuple[str, ...]] = []
        self._network: Network | None = None
        # Of the page itself, and not of one within it.
        self._frame = ""
        self._calls: dict[str, Call] = {}
        self._waiting: set[str] = set()
        self._reading: set[asyncio.Task[None]] = set()
        self._messages = 0

    async def listen(self) -> None:
        """Have the browser tell of every request; to be called before the page is opened."""
        session = await self.page.context.new_cdp_session(self.page)
        self._network = Network(session, begun=self._begun, ended=self._ended, message=self._message)
        await self._network.enable()

    @property
    def is_waiting(self) -> bool:
        """Whether the page waits for an answer, or one is being read."""
        return bool(self._waiting or self._reading)

    def _begun(self, exchange: Exchange) -> None:
        if exchange.kind == "Document":
            self._frame = self._frame or exchange.frame
            if exchange.frame == self._frame:
                self._leave()
        if exchange.kind not in _KINDS or urlsplit(exchange.url).scheme not in {"http", "https", "ws", "wss"}:
            return
        is_socket = exchange.kind == "WebSocket"
        call = Call(exchange.method, exchange.url, WEBSOCKET if is_socket else drift.HTTP)
        self.calls.append((call, exchange.page_url or self.page.url, exchange.began))
        self._calls[exchange.id] = call
        if not is_socket:
            self._waiting.add(exchange.id)

    def _leave(self) -> None:
        """Wait no longer for what was under way: Chromium may never tell what came of it."""
        self.earlier = len(self.calls)
        for request_id in self._waiting:
            self._calls[request_id].dropped = True
        self._waiting.clear()

    def _ended(self, exchange: Exchange) -> None:
        self._waiting.discard(exchange.id)
        call = self._calls.pop(exchange.id, None)
        if call is None or call.resource == WEBSOCKET:
            return
        call.status = exchange.status
        # As where the page was left before the answer came.
        call.dropped = exchange.error == "net::ERR_ABORTED"
        call.is_json = "json" in exchange.media_type
        if exchange.error and not exchange.cors_error:
            call.problem = f"cut short, {exchange.error}"
        elif exchange.status == 200 and call.route is not None:
            task = asyncio.create_task(self._read(exchange.id, call))
            self._reading.add(task)
            task.add_done_callback(self._reading.discard)

    async def _read(self, request_id: str, call: Call) -> None:
        from playwright.async_api import Error  # noqa: PLC0415 - an extra

        assert self._network is not None  # noqa: S101 - or nothing would have ended
        assert call.route is not None  # noqa: S101 - `_ended`
        try:
            answer = await self._network.session.send("Network.getResponseBody", {"requestId": request_id})
        except Error:
            return  # The page was left, and the browser has forgotten it.
        # Chromium takes what it does not hold for text to be base64; JSON is text.
        body = answer["body"].encode(errors="replace")
        call.unknown_fields, call.problem = drift.read(call.route, body)
        if call.route == api.CATEGORIES.name:
            self.categories = drift.names_of_categories(body) or self.categories

    def _message(self, exchange: Exchange, text: str, was_sent: bool) -> None:
        call = self._calls.get(exchange.id)
        if call is None:
            return
        call.subscribed = call.subscribed or (was_sent and _SUBSCRIPTION in text)
        if call.subscribed and not was_sent and self._messages < _MESSAGES:
            self._messages += 1
            call.unknown_fields += drift.read_message(text)

    def take_open(self) -> None:
        """Note how the WebSockets are that are open, and what is known of requests whose page was left."""
        for request_id, call in self._calls.items():
            exchange = self._network.open.get(request_id) if self._network else None
            if exchange is not None and (call.resource == WEBSOCKET or call.dropped):
                call.status = exchange.status


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
        self._watching: asyncio.Task[None] | None = None
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
            "PLAYWRIGHT_BROWSER_PROVIDER": "parti_scraper.browser.BrowserProvider",
            "PLAYWRIGHT_LAUNCH_OPTIONS": launch_options(settings),
            "PLAYWRIGHT_ABORT_REQUEST": "parti_scraper.browser.is_unwanted",
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
        site_url = api.check_site_url(self.settings["PARTI_SITE_URL"])
        return self.arguments.url or f"{site_url}{api.CATEGORIES_PAGE}"

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

    async def _close_when_stopped(self, page: Page) -> None:
        """Close the page where the crawl is stopped, or the browser hangs: that ends every wait for it."""
        while not page.is_closed():
            if is_closing(self.crawler) or time.monotonic() > self._until + _HUNG:
                await _close(page)
                return
            await asyncio.sleep(_WATCH)

    async def visit(self, response: Response) -> AsyncIterator[Any]:
        """Open the page and look around as a visitor would; yields what was asked for."""
        visit = Visit(response.meta["playwright_page"])
        self._until = time.monotonic() + _VISIT
        self._watching = asyncio.ensure_future(self._close_when_stopped(visit.page))
        opened = await self._open(visit)
        if opened:
            await self._stay(visit)
        await _close(visit.page)
        if opened:
            for item in self._take(visit, opened):
                yield item

    def not_started(self, failure: Failure) -> None:
        """Note why there is no browser."""
        if isinstance(failure.value, BrowserError):
            self.cannot_start(str(failure.value))
        else:
            self._not_opened(failure.value)

    async def _open(self, visit: Visit) -> str:
        """Open the page; return what there is, as to be named to users, or nothing."""
        from playwright.async_api import Error  # noqa: PLC0415 - an extra

        try:
            robots = self.crawler.get_downloader_middleware(RobotsTxtMiddleware)
            if robots is not None:
                await robots.process_request(self.request(self.page_url))
            await visit.listen()
            # No further: what comes next may be another page already.
            answer = await visit.page.goto(self.page_url, wait_until="commit")
        except (Error, IgnoreRequest) as error:
            self._not_opened(error)
            return ""
        return f"{redact_url(answer.url)} (HTTP {answer.status})" if answer else redact_url(self.page_url)

    def _not_opened(self, error: BaseException | None) -> None:
        if not is_closing(self.crawler):
            self.note_gap(f"{redact_url(self.page_url)} could not be opened: {first_line(error)}")

    async def _stay(self, visit: Visit) -> None:
        """Look around, for as long as there is a page."""
        from playwright.async_api import Error  # noqa: PLC0415 - an extra

        self.crawler.stats.inc_value("parti/spider/pages")
        try:
            await visit.page.wait_for_load_state("domcontentloaded")
            await self._look_around(visit)
        except Error as error:
            if not is_closing(self.crawler):
                self.note_gap(f"the visit of {redact_url(visit.page.url)} was cut short: {first_line(error)}")
        visit.take_open()

    def _take(self, visit: Visit, page: str) -> Iterator[ApiCall]:
        configuration = Configuration(
            api.parse_base_urls(self.settings["PARTI_API_BASE_URLS"]), self.settings["PARTI_WS_URL"]
        )
        for call in visit.calls:
            self.crawler.stats.inc_value("parti/spider/served")
            yield _item(*call, known=configuration.knows(call[0]))
        if not is_closing(self.crawler):
            self._conclude(visit, page, configuration)

    async def _look_around(self, visit: Visit) -> None:
        await self._wait(lambda: len(visit.calls) > visit.earlier, _FIRST_REQUEST)
        await self._wait(lambda: not visit.is_waiting, _ANSWERS)
        await self._settle(visit, len(visit.calls), _NEXT_REQUEST)
        await self._take_screenshot(visit.page)
        size = visit.page.viewport_size or {"width": 0, "height": 0}
        await visit.page.mouse.move(size["width"] / 2, size["height"] / 2)
        for _ in range(_SCROLLS):
            before = len(visit.calls)
            await visit.page.mouse.wheel(0, _SCREEN)
            await self._settle(visit, before, _NEXT_REQUEST)
            if len(visit.calls) == before:
                break
        clicked = 0
        for names in visit.categories[:_CLICKS]:
            if self._is_over():
                break
            clicked += await self._click(visit, names)
            # A visitor is no faster than a crawl is.
            await asyncio.sleep(self.settings.getfloat("DOWNLOAD_DELAY"))
        self.crawler.stats.set_value("parti/site/clicks", clicked)
        logger.info("Clicked on %d of %d categories", clicked, len(visit.categories))
        await self._settle(visit, len(visit.calls), _NEXT_REQUEST)

    async def _settle(self, visit: Visit, before: int, seconds: float) -> None:
        """Wait for a request after the first `before`, for so long, and for the answers to all."""
        await self._wait(lambda: len(visit.calls) > before, seconds)
        await self._wait(lambda: not visit.is_waiting, _ANSWERS)

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

        page, address, before = visit.page, visit.page.url, len(visit.calls)
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
            await self._settle(visit, len(visit.calls), _NEXT_REQUEST)
        return True

    async def _take_screenshot(self, page: Page) -> None:
        path = self.run_dir / SCREENSHOT
        try:
            path.write_bytes(await page.screenshot())
        except OSError as error:
            send_storage_failed(self.crawler, str(path), error)
        else:
            self._has_screenshot = True

    def _conclude(self, visit: Visit, page: str, configuration: Configuration) -> None:
        """Say where site and project have drifted apart."""
        self.report = drift.compare((call for call, _, _ in visit.calls), configuration)
        self.quality.unknown = sum((call.unknown_fields for call, _, _ in visit.calls), Counter())
        if not visit.calls:
            self.note_gap(f"{page} asked for no data; see {SCREENSHOT}")
            return
        for line in self.report.lines():
            logger.warning("Drift: %s", line)
        for gap in self.report.gaps():
            self.note_gap(gap)
        if self.report.agrees:
            logger.info("The site and this project agree")

    def remarks(self) -> list[str]:
        """Return the report for the summary, whose reason names the gaps."""
        lines = [str(self.run_dir / SCREENSHOT)] if self._has_screenshot else []
        if self.report is None:
            return lines
        return lines + (["the site and this project agree"] if self.report.agrees else self.report.lines())

    def description(self) -> dict[str, Any]:
        """Return the report for the data package, and which host was asked for the page."""
        return {"host": api.origin_of(self.page_url), "drift": self.report and self.report.as_json()}

    def other_files(self) -> list[datapackage.File]:
        """Return the screenshot."""
        if not self._has_screenshot:
            return []
        return [datapackage.File(self.run_dir / SCREENSHOT, ApiCall, 0, form="png", encoding=None, is_table=False)]


async def _close(page: Page) -> None:
    """Close a page; requests that it has under way are no errors, nor is a browser that is gone."""
    from playwright.async_api import Error  # noqa: PLC0415 - an extra

    # It waits for a page that is busy, or whose server does not answer; to close it does not.
    with contextlib.suppress(Error, TimeoutError):
        await asyncio.wait_for(page.unroute_all(behavior="ignoreErrors"), _UNROUTE)
    with contextlib.suppress(Error):
        await page.close()


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
