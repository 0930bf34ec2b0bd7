"""The transport `browser`: requests to the API from within a page of the site, in case plain HTTP is refused.

They have the browser's own headers, cookies and TLS. Everything else is as with plain HTTP: robots.txt, retries and
pauses, the rules for the token.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import logging
import time
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadCancelledError,
    DownloadConnectionRefusedError,
    DownloadFailedError,
    DownloadTimeoutError,
    IgnoreRequest,
    ResponseDataLossError,
)
from scrapy.http import Headers
from scrapy.responsetypes import responsetypes

from parti_scraper.api import routes, urls
from parti_scraper.browser.chromium import Chromium, first_line, launch_options
from parti_scraper.browser.requests import Network
from parti_scraper.exceptions import BrowserError
from parti_scraper.network.errors import SitePageError, is_challenge
from parti_scraper.network.http import HttpDownloadHandler
from parti_scraper.network.source import refuse, says_so, takes_answer

if TYPE_CHECKING:
    from playwright.async_api import Page
    from scrapy import Request
    from scrapy.crawler import Crawler
    from scrapy.http import Response

    from parti_scraper.browser.requests import Exchange

logger = logging.getLogger(__name__)

# In seconds: for the site's page to open, challenges included; for a challenge to let the browser in; for Chromium to
# report an answer that the page already has; between two checks.
_OPEN, _CHALLENGE, _REPORTED, _SLICE = 30.0, 8.0, 5.0, 0.05
# The fragment of a request made here. It is never sent, and distinguishes the request from those of the page.
_MARK = "#parti-"
# Headers that only the browser may set; those of the spider's request are left out.
_BROWSER_HEADERS = {
    b"Accept-Encoding",
    b"Connection",
    b"Cookie",
    b"Host",
    b"Origin",
    b"Proxy-Authorization",
    b"Referer",
    b"User-Agent",
}
# Of an answer: headers that do not describe the decoded body, and cookies, which are the browser's.
_DROPPED_HEADERS = {"content-encoding", "content-length", "transfer-encoding", "set-cookie"}
_ERRORS: dict[str, type[Exception]] = {
    "net::ERR_CONNECTION_REFUSED": DownloadConnectionRefusedError,
    "net::ERR_NAME_NOT_RESOLVED": CannotResolveHostError,
    "net::ERR_TIMED_OUT": DownloadTimeoutError,
    "net::ERR_CONNECTION_TIMED_OUT": DownloadTimeoutError,
    "net::ERR_CONTENT_LENGTH_MISMATCH": ResponseDataLossError,
    "net::ERR_INCOMPLETE_CHUNKED_ENCODING": ResponseDataLossError,
    "net::ERR_CONTENT_DECODING_FAILED": ResponseDataLossError,
}
# The browser decodes the body, which may be any bytes; so it is returned as base64.
_FETCH = """async ({url, method, headers, credentials, timeout, most}) => {
  try {
    const signal = AbortSignal.timeout(timeout);
    const answer = await fetch(url, {method, headers, credentials, signal, cache: "no-store", redirect: "manual"});
    const chunks = [];
    let size = 0;
    for (const reader = answer.body?.getReader(); reader; ) {
      const {done, value} = await reader.read();
      if (done) break;
      size += value.length;
      if (size > most) {
        await reader.cancel();
        return {error: "TooLarge"};
      }
      chunks.push(value);
    }
    const text = await new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => reject(reader.error);
      reader.readAsDataURL(new Blob(chunks));
    });
    return {body: text.slice(text.indexOf(",") + 1)};
  } catch (error) {
    return {error: error.name};
  }
}"""


class _Spider(Protocol):
    """What this module needs of the spider."""

    def cannot_start(self, reason: str) -> None: ...


class Tab:
    """A browser with one page of the site, in which requests are made.

    Attributes:
        lost: why it can no longer be used; empty as long as it can.
        loads: how often the page was loaded.
        is_open: whether the last attempt to load it succeeded.
        headers: of the last answer that was its page, or led to it.
    """

    def __init__(self, options: dict[str, Any], site_url: str) -> None:
        self.lost = ""
        self.loads = 0
        self.is_open = False
        self.headers: dict[str, str] = {}
        self._site_url = site_url
        self._chromium = Chromium({**options, "args": [*options["args"], "--blink-settings=imagesEnabled=false"]})
        self._page: Page | None = None
        self._gone = asyncio.Event()
        self._network: Network | None = None
        # The main frame of the page, and the status of its last answer.
        self._frame = ""
        self._status: int | None = None
        self._numbers = itertools.count(1)
        self._begun: dict[str, Exchange] = {}

    async def open(self) -> None:
        """Start the browser with an empty page. Raises BrowserError."""
        browser = await self._chromium.start()
        from playwright.async_api import Error  # noqa: PLC0415 - an extra, to be imported by `Chromium` first

        browser.on("disconnected", lambda _: self._lose("the browser has ended"))
        try:
            # Neither a service worker nor the site's content security policy may block or change the requests.
            context = await browser.new_context(
                service_workers="block", bypass_csp=True, user_agent=self._chromium.user_agent
            )
            self._page = page = await context.new_page()
            page.on("crash", lambda _: self._lose("the page has crashed"))
            page.on("close", lambda _: self._lose("the page was closed"))
            session = await context.new_cdp_session(page)
            self._network = Network(session, begun=self._request_begun, ended=self._request_ended)
            await self._network.enable()
            self._frame = (await session.send("Page.getFrameTree"))["frameTree"]["frame"]["id"]
        except Error as error:
            await self._chromium.close()
            raise BrowserError(f"Chromium could not be started: {first_line(error)}") from None

    async def load(self) -> None:
        """Load the page, or reload it, which renews expired cookies. Raises SitePageError."""
        from playwright.async_api import Error  # noqa: PLC0415 - an extra

        assert self._page is not None  # noqa: S101 - `open`
        self.loads += 1
        self.is_open = False
        try:
            async with asyncio.timeout(_OPEN):
                await self._load(self._page)
            self.is_open = True
        except TimeoutError:
            what = f"HTTP {self._status}" if self._status else "no answer"
            raise SitePageError(f"the page {self._site_url} could not be opened: {what} in {_OPEN:.0f} s") from None
        except Error as error:
            raise SitePageError(f"the page {self._site_url} could not be opened: {first_line(error)}") from None

    async def _load(self, page: Page) -> None:
        while True:
            self._status = None
            await page.goto(self._site_url, wait_until="domcontentloaded", timeout=_OPEN * 1_000)
            # A challenge is a page with a status of 400 or more, which checks the browser and then reloads itself.
            until = time.monotonic() + _CHALLENGE
            while time.monotonic() < until:
                if self._is_let_in():
                    await page.wait_for_load_state("domcontentloaded")
                    return
                await asyncio.sleep(_SLICE)

    async def fetch(self, argument: dict[str, Any]) -> tuple[Exchange, dict[str, str]]:
        """Make a request; return what the browser reports of it, and either the `body` in base64 or the `error`.

        Args:
            argument: what `_FETCH` takes.

        Raises:
            DownloadFailedError: the page or the browser was lost.
            DownloadTimeoutError: the page does not answer.
        """
        from playwright.async_api import Error  # noqa: PLC0415 - an extra

        mark = f"{_MARK}{next(self._numbers)}"
        call = asyncio.ensure_future(self._call({**argument, "url": argument["url"].partition("#")[0] + mark}))
        gone = asyncio.ensure_future(self._gone.wait())
        try:
            return await self._outcome(mark, call, gone, argument["timeout"] / 1_000 + _REPORTED)
        except (Error, KeyError, TimeoutError) as error:
            # For example, the page has left for another one.
            raise DownloadFailedError(f"lost with the page: {first_line(error)}") from None
        finally:
            self._begun.pop(mark, None)
            for task in (call, gone):
                task.cancel()
            await asyncio.gather(call, gone, return_exceptions=True)

    async def _outcome(
        self, mark: str, call: asyncio.Task[dict[str, str]], gone: asyncio.Task[Any], seconds: float
    ) -> tuple[Exchange, dict[str, str]]:
        """Return what `fetch` returns. Raises as that does; and Playwright's Error, KeyError or TimeoutError.

        Args:
            mark: the fragment of the request.
            call: makes the request.
            gone: ends when the page or the browser is lost.
            seconds: how long the call may take.
        """
        await asyncio.wait({call, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not call.done():
            if self.lost:
                raise DownloadFailedError(self.lost)
            self._lose("the page does not answer")
            raise DownloadTimeoutError(self.lost)
        result = call.result()
        exchange = self._begun[mark]
        async with asyncio.timeout(_REPORTED):
            await exchange.ended.wait()
        return exchange, result

    async def _call(self, argument: dict[str, Any]) -> dict[str, str]:
        """Run `_FETCH` in an isolated JavaScript world, in which no script of the page sees the token."""
        assert self._network is not None  # noqa: S101 - `open`
        session = self._network.session
        world = await session.send("Page.createIsolatedWorld", {"frameId": self._frame, "worldName": "parti_scraper"})
        answer = await session.send(
            "Runtime.callFunctionOn",
            {
                "functionDeclaration": _FETCH,
                "executionContextId": world["executionContextId"],
                "arguments": [{"value": argument}],
                "awaitPromise": True,
                "returnByValue": True,
            },
        )
        return dict(answer["result"]["value"])

    async def close(self) -> None:
        self._lose("the browser was closed")
        await self._chromium.close()

    def _lose(self, reason: str) -> None:
        self.lost = self.lost or reason
        self._gone.set()

    def _is_let_in(self) -> bool:
        return self._status is not None and self._status < 400

    def _request_begun(self, exchange: Exchange) -> None:
        # A request that follows a redirect has the same fragment, and so has a CORS preflight.
        if exchange.kind == "Fetch" and exchange.fragment.startswith(_MARK):
            self._begun.setdefault(exchange.fragment, exchange)

    def _request_ended(self, exchange: Exchange) -> None:
        if exchange.kind == "Document" and exchange.frame == self._frame:
            self._status, self.headers = exchange.status, exchange.headers


class BrowserDownloadHandler(HttpDownloadHandler):
    """Requests routes of the API from within a page of the site, and robots.txt by plain HTTP.

    A page of the site may not read the robots.txt of another host, and its rules are for this program, not the browser.
    """

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        settings = crawler.settings
        self._options = launch_options(settings)
        self._site_url = urls.check_site_url(settings["PARTI_SITE_URL"])
        self._timeout = settings.getfloat("DOWNLOAD_TIMEOUT")
        self._most = settings.getint("DOWNLOAD_MAXSIZE") or 2**31
        self._tab: Tab | None = None
        self._has_started = False
        self._opening: asyncio.Task[Tab] | None = None
        # How often the page had been loaded when an answer was still a challenge.
        self._refused_after = 0
        # For each host, the value of `credentials`: whether the site's cookies are sent there.
        self._credentials: dict[str, str] = {}

    async def download_request(self, request: Request) -> Response:
        """Download the request, after the host's pause if there is one."""
        if routes.base_of(request.url) is None:
            return await super().download_request(request)
        await self.wait_for_turn(request)
        tab = await self._open_tab()
        says_mock = says_so(tab.headers)
        if not takes_answer(self.crawler, self._site_url, says_mock=says_mock, has_data=False):
            refuse(self.crawler, request)
        began, loads = time.monotonic(), tab.loads
        response = await self._fetch(tab, request)
        # AutoThrottle reads it.
        request.meta["download_latency"] = time.monotonic() - began
        if is_challenge(response):
            self._refused_after = max(self._refused_after, loads)
        return response

    async def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._tab is not None:
            await self._tab.close()
        await super().close()

    async def _open_tab(self) -> Tab:
        """Return the page, opened first if necessary; concurrent callers share one attempt and its outcome.

        Raises:
            IgnoreRequest: there is no browser.
            SitePageError: the page cannot be opened.
        """
        if self._opening is None or (self._opening.done() and self._is_to_be_opened()):
            self._opening = asyncio.ensure_future(self._opened())
        return await asyncio.shield(self._opening)

    def _is_to_be_opened(self) -> bool:
        tab = self._tab
        return tab is None or bool(tab.lost) or not tab.is_open or self._refused_after >= tab.loads

    async def _opened(self) -> Tab:
        if self._tab is not None and self._tab.lost:
            logger.warning("The browser is started again: %s", self._tab.lost)
            await self._tab.close()
            self._tab = None
        if self._tab is None:
            self._tab = await self._started()
        self.crawler.stats.inc_value("parti/browser/page_loads")
        await self._tab.load()
        return self._tab

    async def _started(self) -> Tab:
        tab = Tab(self._options, self._site_url)
        self.crawler.stats.inc_value("parti/browser/starts")
        try:
            await tab.open()
        except BrowserError as error:
            if self._has_started:
                # It could be started once, so a retry may succeed.
                raise SitePageError(str(error)) from None
            cast("_Spider", self.crawler.spider).cannot_start(str(error))
            raise IgnoreRequest(str(error)) from None
        except BaseException:
            await tab.close()
            raise
        self._has_started = True
        return tab

    async def _fetch(self, tab: Tab, request: Request) -> Response:
        base_url = urls.origin_of(request.url)
        headers = {
            name.decode("latin-1"): b", ".join(values).decode("latin-1")
            for name, values in request.headers.items()
            if name not in _BROWSER_HEADERS
        }
        argument = {
            "url": request.url,
            "method": request.method,
            "headers": headers,
            "timeout": float(request.meta.get("download_timeout") or self._timeout) * 1_000,
            "most": self._most,
        }
        while True:
            credentials = self._credentials.get(base_url, "include")
            exchange, result = await tab.fetch({**argument, "credentials": credentials})
            if credentials == "include" and _refuses_cookies(exchange):
                self._credentials[base_url] = "same-origin"
                continue
            return self._response(request, exchange, result)

    def _response(self, request: Request, exchange: Exchange, result: dict[str, str]) -> Response:
        headers = Headers({n: v for n, v in exchange.headers.items() if n.lower() not in _DROPPED_HEADERS})
        status = exchange.status
        if "body" in result:
            body = base64.b64decode(result["body"])
        elif exchange.cors_error and status is not None and status >= 400:
            # The page may not read an error page without CORS headers; the other headers show what it is.
            body = b"<!-- withheld by the browser -->" if b"html" in (headers.get("Content-Type") or b"") else b""
        else:
            _fail(exchange, result, self._most)
        kind = responsetypes.from_args(headers=headers, url=request.url, body=body)
        return kind(request.url, status=status or 0, headers=headers, body=body, request=request, flags=["browser"])


def _refuses_cookies(exchange: Exchange) -> bool:
    """Return whether a host lets pages of the site read its answers to requests without cookies only."""
    return "Wildcard" in exchange.cors_error or "AllowCredentials" in exchange.cors_error


def _fail(exchange: Exchange, result: dict[str, str], most: int) -> NoReturn:
    if result["error"] == "TooLarge":
        raise DownloadCancelledError(f"the answer is larger than {most} bytes")
    if result["error"] == "TimeoutError":
        raise DownloadTimeoutError("no answer in time")
    if exchange.cors_error:
        raise DownloadFailedError(f"the host does not let pages of the site read its answers ({exchange.cors_error})")
    raise _ERRORS.get(exchange.error, DownloadFailedError)(exchange.error or result["error"])
