"""Between the spiders and the network: proxies, retries, pauses, failover to another host, and the user's token.

Only requests for routes of the API are touched, but for robots.txt, whose failures are kept short and quiet.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import logging
import random
import re
import time
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import urlsplit

from scrapy import Request, signals
from scrapy.downloadermiddlewares.httpcompression import HttpCompressionMiddleware
from scrapy.downloadermiddlewares.httpproxy import HttpProxyMiddleware
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadConnectionRefusedError,
    DownloadFailedError,
    DownloadTimeoutError,
    IgnoreRequest,
    NotConfigured,
    ResponseDataLossError,
)
from scrapy.http.request import NO_CALLBACK
from twisted.internet.error import ConnectError, ConnectionClosed

from parti_scraper.api import routes, urls
from parti_scraper.api.registry import first_page_url
from parti_scraper.api.times import parse_length
from parti_scraper.exceptions import UsageError
from parti_scraper.network.backoff import (
    Attempts,
    advice,
    equal_jitter,
    full_jitter,
    listing,
    one_line,
    parse_retry_after,
)
from parti_scraper.network.hosts import TRIES, UNREACHABLE, Hosts
from parti_scraper.network.proxies import proxy_of
from parti_scraper.redact import Secret

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from scrapy.settings import BaseSettings

    from parti_scraper.spiders.base import PartiSpider

logger = logging.getLogger(__name__)


class NoConnectionError(DownloadFailedError):
    """The host cannot be reached, though it does not refuse. Raised by the download handler."""


class NoProxyError(DownloadFailedError):
    """The proxy cannot be reached, or lets nobody through. Raised by the download handler."""


class SitePageError(DownloadFailedError):
    """No page of the site can be had to make requests from. Raised by the transport `browser`."""


_KINDS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((DownloadConnectionRefusedError,), "connection refused"),
    ((CannotResolveHostError,), "host name not found"),
    ((DownloadTimeoutError,), "timeout"),
    ((ResponseDataLossError,), "answer cut short"),
    ((SitePageError,), "site not open"),
    ((NoProxyError,), "no connection to the proxy"),
    # Those of Twisted come of Scrapy's own handlers, where a user has set one.
    ((NoConnectionError, ConnectError), "no connection"),
    ((DownloadFailedError, ConnectionClosed), "connection lost"),
)
# What a request for whether a route is there may fail with: the network, or that it is not sent.
_NO_ANSWER: tuple[type[Exception], ...] = (IgnoreRequest, *(each for types, _ in _KINDS for each in types))
_MISSING = {404, 410}
# Answers to the request itself, which would be the same again. Their bodies are web pages where a proxy refuses.
_FINAL = {400, 401, 413, 414, 422}
# Before the first retry, in seconds; for a server on this machine, which need not be spared.
_DELAY, _LOOPBACK_DELAY = 0.5, 0.005
# Before what was no failure is asked for once more, in seconds.
_LEAST_WAIT = 0.1
# How long a wait goes on before it looks whether the crawl is closing.
_SLICE = 0.25
_SECONDS_BETWEEN_LOG_LINES = 10.0
# Nothing is sent to a host before its robots.txt is known, so a dead host must show it soon.
_ROBOTS_TIMEOUT = 10.0
_ATTEMPTS = "parti_attempts"
# In the meta of a request that is to show whether a route is there.
_IS_CONTROL = "parti_is_control"
# In the meta of a request at which a server may fail that is well otherwise.
OPTIONAL = "parti_optional"
# How often such a request is sent.
_OPTIONAL_TRIES = 4
# What Scrapy notes in a request on its way, and what does not hold for the next attempt.
_OF_ONE_ATTEMPT = {"download_slot", "download_latency"} | {
    f"redirect_{name}" for name in ("times", "ttl", "urls", "reasons")
}
# The same where a proxy of the environment was taken, which may not be that for the next host.
_OF_ONE_PROXY = {"proxy", "_auth_proxy", "_scheme_proxy"}
_TRANSPORTS = ("http", "browser")
_TOKEN = re.compile(r"[!-~]+")


def check_settings(settings: BaseSettings) -> None:
    """Check the settings of the middlewares. Raises UsageError, whose text never holds the token."""
    _token(settings)
    _patience(settings)
    _delay(settings)
    _transport(settings)


def check_proxies(settings: BaseSettings) -> None:
    """Check the proxies of the environment that are for hosts of the API. Raises UsageError; it shows no password."""
    if settings.getbool("HTTPPROXY_ENABLED"):
        for base_url in urls.parse_base_urls(settings["PARTI_API_BASE_URLS"]):
            proxy_of(base_url)


def is_challenge(response: Response) -> bool:
    """Tell whether an answer is a web page, where the API sends JSON."""
    return response.status not in _FINAL and response.body.lstrip()[:1] == b"<"


def is_closing(crawler: Crawler) -> bool:
    """Tell whether the crawl is coming to its end."""
    engine = crawler.engine
    slot = engine._slot  # noqa: SLF001 - needs_backout() is true too while the downloader is full
    return not engine.running or slot is None or slot.closing is not None


def retry_delay(settings: BaseSettings, url: str) -> float:
    """Return the longest wait before a first retry, in seconds. Raises UsageError."""
    return _delay_at(url, _delay(settings))


def as_sent(base_url: str) -> str:
    """Return the base URL as requests have it: Scrapy writes host names its own way."""
    return routes.base_of(Request(routes.categories_url(base_url)).url) or base_url


class RetryMiddleware:
    """Sends again what failed and may succeed, after a wait, for as long as a host may be alive.

    In place of Scrapy's, which neither waits nor reads `Retry-After`. `Hosts` decides which host of
    `PARTI_API_BASE_URLS` is asked. What the pages were, only the spiders know: they call `parsed` and `again`. A
    request that is given up fails with an IgnoreRequest that says why.
    """

    def __init__(self, crawler: Crawler) -> None:
        settings = crawler.settings
        self.crawler = crawler
        base_urls = urls.parse_base_urls(settings["PARTI_API_BASE_URLS"])
        self.delay = _delay(settings)
        self.transport = _transport(settings)
        # As they are in the URLs of requests.
        self.hosts = Hosts(list(map(as_sent, base_urls)), _patience(settings), self.transport)
        self.most_retries = settings.getint("RETRY_TIMES")
        # When the hosts were given up, as far as it was told why.
        self._explained: set[float | None] = set()
        self._paused = 0.0
        self._next_log_line = 0.0

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Read the settings; learn of every answer at once."""
        middleware = cls(crawler)
        crawler.signals.connect(middleware.response_downloaded, signals.response_downloaded)
        return middleware

    @property
    def spider(self) -> PartiSpider:
        """The spider of the run."""
        return cast("PartiSpider", self.crawler.spider)

    # What the spiders call:

    def parsed(self, request: Request) -> None:
        """Take note that the answer was what the API sends: the only thing that counts as a sign of life."""
        base_url = _base_of(request)
        if base_url:
            self.hosts.succeeded(base_url, time.monotonic())

    def again(self, request: Request, reason: str) -> Request:
        """Return the request that asks again for an answer that is not what the API sends.

        It is to be yielded by the callback. Where it is not to be sent any more, it fails into its errback.
        """
        return self._retry(request, "answer unreadable", reason)

    def later(self, request: Request, attempt: int) -> Request:
        """Return a request that waits before it is sent: its answer was no failure, but cannot be right.

        Args:
            request: what is to be asked for once more.
            attempt: how often it was asked for before; the wait doubles with each.
        """
        now = time.monotonic()
        attempts = Attempts(since=now, not_before=now + self._growing_wait(request, attempt))
        return request.replace(meta=request.meta | {_ATTEMPTS: attempts})

    def begin_round(self) -> None:
        """Come back to an earlier host, or to those that were given up: a run without end begins something new."""
        left = self.hosts.current
        self.hosts.begin_round(time.monotonic())
        if self.hosts.current != left:
            reason = "an earlier host may be back"
            self._moved(left, reason, reason)

    def progress(self) -> Any:
        """Return which hosts are used, as JSON takes it."""
        return self.hosts.as_json(time.monotonic())

    def restore(self, progress: Any) -> None:
        """Go on with the host that was used."""
        self.hosts.restore(progress, time.monotonic())
        self.spider.base_url = self.hosts.current

    # What Scrapy calls:

    async def process_request(self, request: Request) -> Request | None:
        """Hold the request back until it is its time; raises IgnoreRequest where that never comes."""
        if _is_robots(request):
            timeout = request.meta.get("download_timeout", _ROBOTS_TIMEOUT)
            request.meta["download_timeout"] = min(timeout, _ROBOTS_TIMEOUT)
            return None
        base_url = _base_of(request)
        if not base_url:
            return None
        attempts = _attempts_of(request, time.monotonic())
        if attempts.number > self.most_retries and self.hosts.is_exhausted(attempts.since):
            self.crawler.stats.inc_value("parti/retry/gave_up")
            raise IgnoreRequest(
                f"failed {attempts.number} times ({listing(attempts.kinds)}) while others succeeded; "
                f"{advice(attempts.kinds, self.transport)}"
            )
        await self.hold(request, attempts.not_before)
        if base_url in self.hosts.urls and base_url != self.hosts.current and not request.meta.get(_IS_CONTROL):
            # It was left while the request waited.
            return self._fresh(request, replace(attempts, not_before=-inf))
        return None

    async def process_response(self, request: Request, response: Response) -> Response | Request:
        """Pass on what the spider is to see, refused requests included."""
        if not _base_of(request) or request.meta.get(_IS_CONTROL):
            return response
        if response.status == 204:
            return _empty(response)
        if response.status in _MISSING:
            return await self._look_for_route(request, response)
        kind = _kind_of_response(response)
        if kind is None:
            return response
        if request.meta.get(OPTIONAL) and response.status >= 500:
            return self._retry_optional(request, response, kind)
        return self._retry(request, kind)

    def response_downloaded(self, request: Request, response: Response) -> None:
        """Pause the whole host where it asks for it, before the next request takes the place of this one."""
        base_url = _base_of(request)
        if not base_url or response.status not in {429, 503}:
            return
        header = response.headers.get("Retry-After") or b""
        wait = parse_retry_after(header.decode("latin-1"), time.time())
        if response.status == 503 and wait is None:
            return
        # A Retry-After of 0 would be an invitation to hammer.
        number = _attempts_of(request).number + 1
        wait = wait or equal_jitter(number, _delay_at(base_url, self.delay), random.random())  # noqa: S311
        now = time.monotonic()
        self._paused += self.hosts.host(base_url).pause(now + wait, now)
        self.crawler.stats.set_value("parti/retry/paused_seconds", round(self._paused, 3))

    def process_exception(self, request: Request, exception: Exception) -> Request | None:
        """Send again where the network failed."""
        kind = next((kind for types, kind in _KINDS if isinstance(exception, types)), None)
        if kind is None or request.meta.get(_IS_CONTROL):
            return None
        if _is_robots(request):
            # As Scrapy has it, no robots.txt forbids nothing; its own way to say so is a traceback.
            logger.info("No robots.txt could be had from %s: %s", urlsplit(request.url).netloc, kind)
            raise IgnoreRequest(kind)
        if not _base_of(request):
            return None
        return self._retry(request, kind, "" if kind in UNREACHABLE else str(exception))

    async def hold(self, request: Request, not_before: float = -inf) -> None:
        """Wait for the moment and for the end of the host's pause.

        Raises:
            IgnoreRequest: the hosts were given up, or the crawl is closing.
        """
        base_url = _base_of(request)
        if not base_url:
            return
        host = self.hosts.host(base_url)
        while True:
            self._check(request)
            wait = max(not_before, host.paused_until) - time.monotonic()
            if wait <= 0:
                return
            await asyncio.sleep(min(wait, _SLICE))

    # How it is done:

    def _check(self, request: Request) -> None:
        if is_closing(self.crawler):
            # It is dropped like those that wait in the scheduler: nothing failed.
            request.errback = None
            raise IgnoreRequest("the crawl is stopping")
        if self.hosts.given_up_at is None:
            return
        if request.meta.get(_IS_CONTROL):
            # The reason is for the request that it was made for.
            raise IgnoreRequest("the hosts were given up")
        self.crawler.stats.inc_value("parti/retry/gave_up")
        if self.hosts.given_up_at in self._explained:
            raise IgnoreRequest(f"{self.hosts.current} was given up")
        self._explained.add(self.hosts.given_up_at)
        raise IgnoreRequest(self.hosts.explain())

    def _retry(self, request: Request, kind: str, detail: str = "") -> Request:
        """Return the request to be sent again, no sooner than is right; whether at all is decided then."""
        now = time.monotonic()
        base_url = _base_of(request) or self.hosts.current
        attempts = _attempts_of(request, now).failed(kind, base_url)
        left = self.hosts.current
        self.hosts.failed(base_url, kind, attempts.in_a_row, now, detail)
        if self.hosts.current != left:
            self._moved(left, kind, f"{kind} from {left}")
        return self._later(request, attempts, f"{kind} ({one_line(detail)})" if detail else kind, kind)

    def _retry_optional(self, request: Request, response: Response, kind: str) -> Response | Request:
        """Send it a few times more, then let the spider have the error; it is not held against the host."""
        attempts = _attempts_of(request, time.monotonic()).failed(kind, _base_of(request) or "")
        if attempts.number >= _OPTIONAL_TRIES:
            return response
        self.crawler.stats.inc_value("parti/retry/count")
        self.crawler.stats.inc_value(f"parti/retry/reason_count/{kind.lower().replace(' ', '_')}")
        wait = self._growing_wait(request, attempts.number)
        return self._fresh(request, replace(attempts, not_before=time.monotonic() + wait))

    def _growing_wait(self, request: Request, attempt: int) -> float:
        return max(_delay_at(request.url, self.delay), _LEAST_WAIT) * 2.0 ** (attempt - 1)

    async def _look_for_route(self, request: Request, response: Response) -> Response | Request:
        """Tell a result that is empty from a route that is not there, by asking for the route's first page.

        One such answer may have come by accident, as from a server that is just being replaced. So it is believed only
        when it comes again and again while the host serves that page.
        """
        kind = f"HTTP {response.status}"
        base_url = _base_of(request) or ""
        if not await self._has_route(request):
            return self._retry(request, kind)
        now = time.monotonic()
        self.hosts.succeeded(base_url, now)
        attempts = _attempts_of(request, now).was_contradicted(kind, base_url)
        if attempts.contradicted < TRIES:
            return self._later(request, attempts, kind, kind)
        self.crawler.stats.inc_value("parti/retry/empty")
        return _empty(response)

    async def _has_route(self, request: Request) -> bool:
        """Ask the host for the first page of the route; tell whether it has one."""
        url = first_page_url(_first_url(request))
        if url is None:
            return False
        control = Request(url, callback=NO_CALLBACK, dont_filter=True, meta={"verbatim_url": True, _IS_CONTROL: True})
        try:
            answer = await self.crawler.engine.download_async(control)
        except _NO_ANSWER:
            return False
        return answer.status == 200 and answer.body.lstrip()[:1] == b"["

    def _later(self, request: Request, attempts: Attempts, failure: str, kind: str) -> Request:
        """Count a failure; return the request for the host used now, to be sent after a wait."""
        self.crawler.stats.inc_value("parti/retry/count")
        self.crawler.stats.inc_value(f"parti/retry/reason_count/{kind.lower().replace(' ', '_')}")
        current = self.hosts.current
        number = max(attempts.by_host[current], 1)
        wait = full_jitter(number, _delay_at(current, self.delay), random.random())  # noqa: S311
        now = time.monotonic()
        not_before = now + wait if attempts.contradicted else self.hosts.may_be_sent_at(wait)
        self._log(f"{failure} from {attempts.host}", max(not_before, self.hosts.host(current).paused_until) - now, now)
        return self._fresh(request, replace(attempts, not_before=not_before))

    def _log(self, failure: str, wait: float, now: float) -> None:
        """Log the first failure and then one every ten seconds, or a troubled host would flood the log."""
        if now < self._next_log_line:
            return
        self._next_log_line = now + _SECONDS_BETWEEN_LOG_LINES
        count = self.crawler.stats.get_value("parti/retry/count", 0)
        logger.warning("%s, again in %.2f s (failures so far: %d)", failure, max(wait, 0.0), count)

    def _moved(self, left: str, reason: str, text: str) -> None:
        """Have the spider ask the host used now, and note it; the same move again only in the stats."""
        self.spider.base_url = self.hosts.current
        self.crawler.stats.inc_value("parti/failover/count")
        move = {"from": left, "to": self.hosts.current, "reason": reason}
        if move not in self.spider.failovers:
            self.spider.failovers.append(move)
            logger.warning("%s: going on with %s", text, self.hosts.current)

    def _fresh(self, request: Request, attempts: Attempts) -> Request:
        """Return the request as the spider made it, path and query to the letter, for the host used now."""
        left_out, headers = _OF_ONE_ATTEMPT, request.headers
        if request.meta.get("_scheme_proxy"):
            left_out, headers = left_out | _OF_ONE_PROXY, headers.copy()
            headers.pop("Proxy-Authorization", None)
        meta = {name: value for name, value in request.meta.items() if name not in left_out} | {_ATTEMPTS: attempts}
        path = _first_url(request).removeprefix(_base_of(request) or "")
        return request.replace(url=self.hosts.current + path, meta=meta, headers=headers, dont_filter=True)


class ProxyMiddleware(HttpProxyMiddleware):
    """Scrapy's, but `ALL_PROXY` holds too, and a proxy without a scheme is one of HTTP."""

    def __init__(self, auth_encoding: str | None = "latin-1") -> None:
        super().__init__(auth_encoding)
        # To look through the environment for each request would take its time.
        self._proxy_of = functools.cache(proxy_of)

    def process_request(self, request: Request) -> None:  # type: ignore[override]
        """Send the request through the proxy that the environment names for it, unless its meta names one."""
        if "proxy" in request.meta:
            super().process_request(request)
            return
        proxy = self._proxy_of(urls.origin_of(request.url))
        if proxy is None:
            self._set_proxy_and_creds(request, None, None, None)
            return
        login = f"{proxy.user}:{proxy.password}".encode(self.auth_encoding or "latin-1", "replace")
        creds = base64.b64encode(login) if proxy.user else None
        self._set_proxy_and_creds(request, proxy.url, creds, urlsplit(request.url).scheme)


class DecompressionMiddleware(HttpCompressionMiddleware):
    """Scrapy's, but what cannot be decompressed was cut short on the way, and is asked for again."""

    def __init__(self, *, crawler: Crawler) -> None:
        super().__init__(crawler=crawler)
        self.crawler = crawler

    def process_response(self, request: Request, response: Response) -> Response | Request:  # type: ignore[override]
        """Decompress the body."""
        try:
            return super().process_response(request, response)
        except IgnoreRequest:
            raise
        except Exception as error:  # each encoding has errors of its own
            retry = self.crawler.get_downloader_middleware(RetryMiddleware)
            if retry is None or not _base_of(request):
                raise
            if request.meta.get(_IS_CONTROL):
                return response
            return retry.again(request, f"it cannot be decompressed: {error}")


class TokenMiddleware:
    """Sends the user's token, to the configured hosts of the API alone, over HTTPS or within this machine.

    Next to the downloader, so that no other component meets a request that holds the token.
    """

    def __init__(self, token: Secret, base_urls: tuple[str, ...]) -> None:
        self._header = b"Bearer " + token.reveal().encode("ascii")
        self._origins = {_origin(url) for url in base_urls if url.startswith("https:") or urls.is_loopback(url)}

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Read the settings; without a token there is nothing to do."""
        token = _token(crawler.settings)
        if not token:
            raise NotConfigured
        return cls(token, urls.parse_base_urls(crawler.settings["PARTI_API_BASE_URLS"]))

    def process_request(self, request: Request) -> None:
        """Add the token where it belongs."""
        if _origin(request.url) in self._origins:
            request.headers["Authorization"] = self._header

    def process_response(self, request: Request, response: Response) -> Response:
        """Take the token away again."""
        self._remove(request)
        return response

    def process_exception(self, request: Request, exception: Exception) -> None:
        """Take the token away again."""
        self._remove(request)

    def _remove(self, request: Request) -> None:
        if request.headers.get("Authorization") == self._header:
            del request.headers["Authorization"]


def _first_url(request: Request) -> str:
    """Return what the spider asked for, redirects apart."""
    return str(request.meta.get("redirect_urls", [request.url])[0])


def _base_of(request: Request) -> str | None:
    return routes.base_of(_first_url(request))


def _attempts_of(request: Request, now: float = 0.0) -> Attempts:
    return request.meta.get(_ATTEMPTS) or Attempts(since=now)


def _empty(response: Response) -> Response:
    """Return the page without records that the answer stands for."""
    return response.replace(status=200, body=b"[]")


def _is_robots(request: Request) -> bool:
    return request.callback is NO_CALLBACK and urlsplit(request.url).path == "/robots.txt"


def _kind_of_response(response: Response) -> str | None:
    """Return what is wrong with an answer that may be a better one the next time, or None."""
    status = response.status
    if status in {408, 429} or status >= 500:
        return f"HTTP {status}"
    return "challenge page" if is_challenge(response) else None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _token(settings: BaseSettings) -> Secret:
    token = settings.get("PARTI_TOKEN", Secret(""))
    if not isinstance(token, Secret):
        raise UsageError(
            "setting `PARTI_TOKEN`: not to be typed, since others on the machine can read it there "
            "(accepted: the environment variable PARTI_TOKEN)"
        )
    if token and not _TOKEN.fullmatch(token.reveal()):
        raise UsageError(
            "environment variable `PARTI_TOKEN`: not a token; what it holds is not shown "
            "(accepted: printable ASCII without spaces and line breaks)"
        )
    return token


def _transport(settings: BaseSettings) -> str:
    transport = str(settings.get("PARTI_TRANSPORT") or _TRANSPORTS[0])
    if transport not in _TRANSPORTS:
        raise UsageError.of("setting", "PARTI_TRANSPORT", "not one of the choices", transport, ", ".join(_TRANSPORTS))
    return transport


def _patience(settings: BaseSettings) -> float:
    patience = _seconds(settings, "PARTI_RETRY_PATIENCE")
    return 0.0 if patience is None else patience


def _delay(settings: BaseSettings) -> float | None:
    return _seconds(settings, "PARTI_RETRY_DELAY")


def _delay_at(url: str, delay: float | None) -> float:
    """Return the delay that is set, or the one for a server there."""
    if delay is not None:
        return delay
    return _LOOPBACK_DELAY if urls.is_loopback(url) else _DELAY


def _seconds(settings: BaseSettings, name: str) -> float | None:
    """Return the seconds of a setting that is a length of time, or 0; None where it is empty. Raises UsageError."""
    text = str(settings.get(name) or "")
    if not text:
        return None
    if re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text, re.ASCII):
        return float(text)
    try:
        return parse_length(name, text)
    except UsageError:
        raise UsageError.of("setting", name, "not a number of seconds", text, "such as 0.5 or 60") from None
