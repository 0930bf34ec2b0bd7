"""A visit of a page: it is opened, scrolled and clicked as by a visitor, and its requests are compared."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from parti_scraper.api import drift, routes
from parti_scraper.api.drift import HTTP, WEBSOCKET, Call, Comparison
from parti_scraper.browser.chromium import first_line
from parti_scraper.browser.requests import Background, Network, Workers, WorkerSession, refuse_unwanted
from parti_scraper.redact import redact_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.async_api import CDPSession, Locator, Page

    from parti_scraper.api.drift import Configuration
    from parti_scraper.browser.requests import Exchange

logger = logging.getLogger(__name__)

_KINDS = {"Fetch", "XHR", "WebSocket"}
_SCHEMES = {"http", "https", "ws", "wss"}
# In seconds: for the first request of the page, for a request after a click, for the answers to it, for everything.
_FIRST_REQUEST, _NEXT_REQUEST, _ANSWERS, _VISIT = 15.0, 1.0, 10.0, 180.0
# How long to try to click on something that may have disappeared or be covered, in milliseconds.
_CLICK = 2_000
_SCROLLS, _SCREEN, _CLICKS = 5, 2_000, 50
# In milliseconds. A page that never stops moving gets no picture, but the visit continues.
_SCREENSHOT = 10_000
# How much longer than the visit the browser may take, in seconds: a busy page may never answer.
_HUNG = 45.0
# How long the browser may take to close a page, in seconds.
_CLOSE = 2.0
# Seconds between two checks.
_SLICE = 0.02
# How many rows the same request has at most, and all together. Further requests are only compared and counted.
MOST_REPEATS, MOST_CALLS = 1_000, 20_000
# How many calls are handled before other tasks get a turn.
AT_ONCE = 250
# How many answers are read: from so many addresses, each so many times; and how many messages of WebSockets.
_ADDRESSES_READ, _TIMES_READ, _MESSAGES = 1_000, 20, 100


class CallRow(NamedTuple):
    """A call that becomes a record: the page that made it, and when, in Unix seconds."""

    call: Call
    page_url: str
    began: float


class CallLog:
    """What a page and its workers have requested so far; each call is compared when it has ended.

    Attributes:
        made: how many requests for data and WebSockets there were.
        earlier: how many of them earlier pages made, before they were left for the current one.
        rows: the calls that become records, in the order in which they were made.
        comparison: of all calls, with and without a row.
        categories: for each category that the page received, the names under which it may be shown.
        workers: how many workers the page had.
        waiting: requests without an answer.
    """

    def __init__(self, configuration: Configuration, page_url: Callable[[], str]) -> None:
        """Start without calls; they are compared with the configuration. `page_url` returns the open page's address."""
        self.made = self.earlier = self.workers = 0
        self.rows: list[CallRow] = []
        self.comparison = Comparison(configuration)
        self.categories: list[tuple[str, ...]] = []
        self.waiting: set[Exchange] = set()
        self._page_url = page_url
        # The main frame of the page.
        self._frame = ""
        self._calls: dict[Exchange, Call] = {}
        self._repeats: Counter[tuple[str, str]] = Counter()
        self._read_of: Counter[str] = Counter()
        self._reading = Background()
        self._messages = 0
        self._is_stopped = False

    @property
    def is_waiting(self) -> bool:
        """Whether the page waits for an answer, or one is being read."""
        return bool(self.waiting or self._reading)

    @property
    def without_row(self) -> int:
        return self.made - len(self.rows)

    @property
    def is_cut_off(self) -> bool:
        """Whether there were more calls than the limit of all rows."""
        return len(self.rows) == MOST_CALLS < self.made

    async def listen(self, session: CDPSession | WorkerSession) -> None:
        """Log the requests of a page or a worker from now on."""
        is_worker = isinstance(session, WorkerSession)
        self.workers += is_worker
        begun = partial(self._begun, is_worker=is_worker)
        ended = partial(self._ended, session)
        await Network(session, begun=begun, ended=ended, message=self._message).enable()

    def stop(self) -> None:
        self._is_stopped = True

    async def finish(self) -> None:
        """Compare requests and WebSockets that have not ended, as far as they are known."""
        await self._reading.finish(_CLOSE)
        for number, exchange in enumerate(list(self._calls)):
            if call := self._calls.pop(exchange, None):
                call.visit_ended(exchange.status)
                self.comparison.add(call)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)

    def _begun(self, exchange: Exchange, *, is_worker: bool) -> None:
        if exchange.kind == "Document":
            self._frame = self._frame or exchange.frame
            if exchange.frame == self._frame:
                self._leave()
        if self._is_stopped or exchange.kind not in _KINDS or urlsplit(exchange.url).scheme not in _SCHEMES:
            return
        is_socket = exchange.kind == "WebSocket"
        call = Call(exchange.method, exchange.url, WEBSOCKET if is_socket else HTTP)
        self.made += 1
        same = call.method, call.url
        if len(self.rows) < MOST_CALLS and self._repeats[same] < MOST_REPEATS:
            self._repeats[same] += 1
            # Of a request of a worker, Chromium names the worker's script as the page.
            page_url = self._page_url() if is_worker else exchange.page_url or self._page_url()
            self.rows.append(CallRow(call, page_url, exchange.began))
        self._calls[exchange] = call
        if not is_socket:
            self.waiting.add(exchange)

    def _leave(self) -> None:
        """Stop waiting for the requests of a page that was left: Chromium may never report how they ended."""
        self.earlier = self.made
        for exchange, call in self._calls.items():
            call.page_left(exchange.status)
        self.waiting.clear()

    def _ended(self, session: CDPSession | WorkerSession, exchange: Exchange) -> None:
        self.waiting.discard(exchange)
        call = self._calls.pop(exchange, None)
        if call is None:
            return
        call.answered(exchange.status, exchange.media_type, exchange.error, is_withheld=bool(exchange.cors_error))
        if call.resource == HTTP and not exchange.error and self._is_to_be_read(call):
            self._reading.begin(self._read(session, exchange.id, call))
        else:
            self.comparison.add(call)

    def _is_to_be_read(self, call: Call) -> bool:
        if call.status != 200 or call.route is None:
            return False
        if call.url not in self._read_of and len(self._read_of) >= _ADDRESSES_READ:
            return False
        self._read_of[call.url] += 1
        return self._read_of[call.url] <= _TIMES_READ

    async def _read(self, session: CDPSession | WorkerSession, request_id: str, call: Call) -> None:
        try:
            # This fails if the page was left, since the browser then drops the answer.
            answer = await session.send("Network.getResponseBody", {"requestId": request_id})
            # Chromium encodes in base64 what it does not take for text; JSON is text.
            body = answer["body"].encode(errors="replace")
            call.take_body(body)
            if call.route == routes.CATEGORIES.name:
                self.categories = drift.names_of_categories(body) or self.categories
        finally:
            self.comparison.add(call)

    def _message(self, exchange: Exchange, text: str, was_sent: bool) -> None:
        call = self._calls.get(exchange)
        if call is None:
            return
        if was_sent:
            call.take_sent(text)
        elif call.subscribed and self._messages < _MESSAGES:
            self._messages += 1
            call.take_received(text)


class Visit:
    """A visit of one page. Its methods raise Playwright's Error if the page or the browser does not respond.

    Attributes:
        page: the page; before `open`, the empty one of the started browser.
        opened: what was opened, as shown to users; empty before that.
        headers: of the answer that was the page, their names in small letters.
        clicked: how many categories were clicked.
        calls: what the page has requested.
    """

    def __init__(self, page: Page, configuration: Configuration, is_stopped: Callable[[], bool]) -> None:
        """Start the visit from an empty page, and its time; `is_stopped` returns whether to end it early."""
        self.page = page
        self.opened = ""
        self.headers: dict[str, str] = {}
        self.clicked = 0
        self.calls = CallLog(configuration, lambda: self.page.url)
        self._is_stopped = is_stopped
        self._until = time.monotonic() + _VISIT
        self._background = Background()

    @property
    def is_hung(self) -> bool:
        """Whether the visit takes so long that the browser must have stopped responding."""
        return time.monotonic() > self._until + _HUNG

    async def open(self, url: str) -> None:
        await self._open_tab()
        # Wait no longer than this: by then, the page may have left for another one.
        answer = await self.page.goto(url, wait_until="commit")
        self.opened = redact_url(url)
        if answer:
            self.headers = answer.headers
            self.opened = f"{redact_url(answer.url)} (HTTP {answer.status})"

    async def _open_tab(self) -> None:
        # In the tab of scrapy-playwright, Playwright intercepts each request.
        context = self.page.context
        self.page = await context.new_page()
        # Pages that this one opens are not needed, and may be many.
        context.on("page", lambda page: self._background.begin(page.close()))
        session = await context.new_cdp_session(self.page)
        await self.calls.listen(session)
        await refuse_unwanted(session, self._background)
        await Workers(session, self._background, self.calls.listen).enable()

    async def wait_for_data(self) -> None:
        """Wait until the page has loaded, and has made its first requests."""
        await self.page.wait_for_load_state("domcontentloaded")
        await self._settle(self.calls.earlier, _FIRST_REQUEST)
        await self.settle()

    async def take_screenshot(self) -> bytes | None:
        """Return a picture of the page as PNG; None if there is none, which is logged."""
        from playwright.async_api import Error  # noqa: PLC0415 - an extra

        try:
            return await self.page.screenshot(timeout=_SCREENSHOT)
        except Error as error:
            # The page may be busy, or just being left.
            logger.warning("There is no screenshot: %s", first_line(error))
            return None

    async def scroll(self) -> None:
        """Scroll down while the page requests more."""
        size = self.page.viewport_size or {"width": 0, "height": 0}
        await self.page.mouse.move(size["width"] / 2, size["height"] / 2)
        for _ in range(_SCROLLS):
            before = self.calls.made
            await self.page.mouse.wheel(0, _SCREEN)
            await self._settle(before, _NEXT_REQUEST)
            if self.calls.made == before:
                break

    async def click_categories(self, delay: float) -> None:
        """Click on the categories, with a delay in seconds after each."""
        for names in self.calls.categories[:_CLICKS]:
            if self._is_over():
                break
            self.clicked += await self._click(names)
            await asyncio.sleep(delay)

    async def settle(self) -> None:
        """Wait a moment for another request, and for the answers to all."""
        await self._settle(self.calls.made, _NEXT_REQUEST)

    async def close(self) -> None:
        """Close the page, and finish the log of its calls."""
        from playwright.async_api import Error  # noqa: PLC0415 - an extra

        self.calls.stop()
        with contextlib.suppress(Error, TimeoutError):
            await asyncio.wait_for(self.page.close(), _CLOSE)
        await self.calls.finish()

    async def _settle(self, before: int, seconds: float) -> None:
        """Wait, up to so many seconds, for a request after the first `before`; then for the answers to all."""
        calls = self.calls
        await self._wait(lambda: calls.made > before, seconds)
        # Of a page that never stops requesting, only the answers to the requests made by then are waited for.
        await self._wait(lambda: not calls.is_waiting, _NEXT_REQUEST)
        made = set(calls.waiting)
        await self._wait(lambda: not calls.is_waiting or made.isdisjoint(calls.waiting), _ANSWERS)

    async def _wait(self, happened: Callable[[], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._is_over():
            if happened():
                return
            await asyncio.sleep(_SLICE)

    def _is_over(self) -> bool:
        return self._is_stopped() or time.monotonic() >= self._until

    async def _click(self, names: tuple[str, ...]) -> bool:
        """Click on a category; return whether that was possible."""
        from playwright.async_api import TimeoutError as PlaywrightTimeoutError  # noqa: PLC0415 - an extra

        page, address, before = self.page, self.page.url, self.calls.made
        target = await _find(page, names)
        if target is None:
            return False
        try:
            await target.click(timeout=_CLICK)
        except PlaywrightTimeoutError:
            return False  # Something is in front of it.
        await self._settle(before, _NEXT_REQUEST)
        if page.url != address:
            await page.go_back(wait_until="domcontentloaded")
            await self.settle()
        return True


async def _find(page: Page, names: tuple[str, ...]) -> Locator | None:
    """Return what to click on for a category: a button or a link of its name, or the name itself."""
    for name in names:
        by_role = page.get_by_role("button", name=name, exact=True).or_(page.get_by_role("link", name=name, exact=True))
        for locator in (by_role.first, page.get_by_text(name, exact=True).first):
            if await locator.is_visible():
                return locator
    return None
