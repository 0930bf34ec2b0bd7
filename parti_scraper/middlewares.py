"""Between the spiders and the network: retries, pauses, failover to another host, and the user's token.

Only requests for routes of the API are touched, but for robots.txt, whose failures are kept short and quiet.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from math import inf
from typing import TYPE_CHECKING, NoReturn, Self, cast
from urllib.parse import urlsplit

from scrapy import Request, signals
from scrapy.downloadermiddlewares.httpcompression import HttpCompressionMiddleware
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

from parti_scraper import api
from parti_scraper.arguments import parse_length
from parti_scraper.backoff import (
    Attempts,
    HostHealth,
    advice,
    equal_jitter,
    full_jitter,
    listing,
    one_line,
    parse_retry_after,
)
from parti_scraper.exceptions import UsageError
from parti_scraper.redact import Secret

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from scrapy.settings import BaseSettings

    from parti_scraper.spiders.base import PartiSpider

logger = logging.getLogger(__name__)


class NoConnectionError(DownloadFailedError):
    """The host, or the proxy before it, cannot be reached, though neither refuses. Raised by the download handler."""


class SitePageError(DownloadFailedError):
    """No page of the site can be had to make requests from. Raised by the transport `browser`."""


_KINDS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((DownloadConnectionRefusedError,), "connection refused"),
    ((CannotResolveHostError,), "host name not found"),
    ((DownloadTimeoutError,), "timeout"),
    ((ResponseDataLossError,), "answer cut short"),
    ((SitePageError,), "site not open"),
    # Those of Twisted come of Scrapy's own handlers, where a user has set one.
    ((NoConnectionError, ConnectError), "no connection"),
    ((DownloadFailedError, ConnectionClosed), "connection lost"),
)
_UNREACHABLE = {"connection refused", "host name not found"}
_MOVED = {404, 410}
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
# What Scrapy notes in a request on its way, and what does not hold for the next attempt.
_OF_ONE_ATTEMPT = {"download_slot", "download_latency"} | {
    f"redirect_{name}" for name in ("times", "ttl", "urls", "reasons")
}
_TRANSPORTS = ("http", "browser")
_TOKEN = re.compile(r"[!-~]+")


def check_settings(settings: BaseSettings) -> None:
    """Check the settings of the middlewares. Raises UsageError, whose text never holds the token."""
    _token(settings)
    _patience(settings)
    _delay(settings)
    _transport(settings)


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
    return api.base_of(Request(api.categories_url(base_url)).url) or base_url


class RetryMiddleware:
    """Sends again what failed and may succeed, after a wait, for as long as the host is alive.

    In place of Scrapy's, which neither waits nor reads `Retry-After`. A host that cannot be reached or no longer
    has the route is left for the next one of `PARTI_API_BASE_URLS`. What the pages were, only the spiders know:
    they call `parsed` and `again`. A request that is given up fails with an IgnoreRequest that says why.
    """

    def __init__(self, crawler: Crawler) -> None:
        settings = crawler.settings
        self.crawler = crawler
        base_urls = api.parse_base_urls(settings["PARTI_API_BASE_URLS"])
        # As they are in the URLs of requests, each once: what was left is not come back to.
        self.base_urls = tuple(dict.fromkeys(map(as_sent, base_urls)))
        self.patience = _patience(settings)
        self.delay = _delay(settings)
        self.transport = _transport(settings)
        self.most_retries = settings.getint("RETRY_TIMES")
        self._position = 0
        self._health: dict[str, HostHealth] = {}
        # Which hosts were given up, and when: the reasons are told once.
        self._explained: set[tuple[str, float | None]] = set()
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

    @property
    def base_url(self) -> str:
        """The host used now."""
        return self.base_urls[self._position]

    # What the spiders call:

    def parsed(self, request: Request) -> None:
        """Take note that the answer was what the API sends: the only thing that counts as a sign of life."""
        base_url = _base_of(request)
        if base_url:
            self._health_of(base_url).succeeded(time.monotonic())

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
        wait = max(_delay_at(request.url, self.delay), _LEAST_WAIT) * 2 ** (attempt - 1)
        return request.replace(meta=request.meta | {_ATTEMPTS: Attempts(since=now, not_before=now + wait)})

    # What Scrapy calls:

    async def process_request(self, request: Request) -> None:
        """Hold the request back until it is its time; raises IgnoreRequest where that never comes."""
        if _is_robots(request):
            timeout = request.meta.get("download_timeout", _ROBOTS_TIMEOUT)
            request.meta["download_timeout"] = min(timeout, _ROBOTS_TIMEOUT)
            return
        base_url = _base_of(request)
        if not base_url:
            return
        attempts = _attempts_of(request)
        if self._health_of(base_url).is_exhausted(attempts, self.most_retries):
            self.crawler.stats.inc_value("parti/retry/gave_up")
            raise IgnoreRequest(
                f"failed {attempts.number} times ({listing(attempts.kinds)}) while others succeeded; "
                f"{advice(attempts.kinds, self.transport)}"
            )
        await self.hold(request, attempts.not_before)

    def process_response(self, request: Request, response: Response) -> Response | Request:
        """Pass on what the spider is to see, refused requests included."""
        if not _base_of(request):
            return response
        if response.status in _MOVED:
            return self._move_on(request, f"HTTP {response.status}") or self._not_there(request, response.status)
        kind = _kind_of_response(response)
        if kind is None:
            return response
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
        wait = wait or equal_jitter(number, self._delay_of(base_url), random.random())  # noqa: S311
        now = time.monotonic()
        self._paused += self._health_of(base_url).pause(now + wait, now)
        self.crawler.stats.set_value("parti/retry/paused_seconds", round(self._paused, 3))

    def process_exception(self, request: Request, exception: Exception) -> Request | None:
        """Send again where the network failed."""
        kind = next((kind for types, kind in _KINDS if isinstance(exception, types)), None)
        if kind is None:
            return None
        if _is_robots(request):
            # As Scrapy has it, no robots.txt forbids nothing; its own way to say so is a traceback.
            logger.info("No robots.txt could be had from %s: %s", urlsplit(request.url).netloc, kind)
            raise IgnoreRequest(kind)
        if not _base_of(request):
            return None
        if kind in _UNREACHABLE and (moved := self._move_on(request, kind)):
            return moved
        return self._retry(request, kind, "" if kind in _UNREACHABLE else str(exception))

    async def hold(self, request: Request, not_before: float = -inf) -> None:
        """Wait for the moment and for the end of the host's pause.

        Raises:
            IgnoreRequest: the host was given up, or the crawl is closing.
        """
        base_url = _base_of(request)
        if not base_url:
            return
        health = self._health_of(base_url)
        while True:
            self._check(request, base_url, health)
            wait = max(not_before, health.paused_until) - time.monotonic()
            if wait <= 0:
                return
            await asyncio.sleep(min(wait, _SLICE))

    # How it is done:

    def _check(self, request: Request, base_url: str, health: HostHealth) -> None:
        if is_closing(self.crawler):
            # It is dropped like those that wait in the scheduler: nothing failed.
            request.errback = None
            raise IgnoreRequest("the crawl is stopping")
        if not health.is_given_up(time.monotonic()):
            return
        self.crawler.stats.inc_value("parti/retry/gave_up")
        occasion = (base_url, health.given_up_at)
        if occasion in self._explained:
            raise IgnoreRequest(f"{base_url} was given up")
        self._explained.add(occasion)
        before = "".join(f"; before that {each['from']}: {each['reason']}" for each in self.spider.failovers)
        raise IgnoreRequest(health.explain(base_url) + before)

    def _retry(self, request: Request, kind: str, detail: str = "") -> Request:
        """Return the request to be sent again, no sooner than is right; whether at all is decided then."""
        now = time.monotonic()
        base_url = _base_of(request) or self.base_url
        health, attempts = self._health_of(base_url), _attempts_of(request, now)
        health.failed(kind, now, detail)
        wait = full_jitter(attempts.number + 1, self._delay_of(base_url), random.random())  # noqa: S311
        self.crawler.stats.inc_value("parti/retry/count")
        self.crawler.stats.inc_value(f"parti/retry/reason_count/{kind.lower().replace(' ', '_')}")
        failure = f"{kind} ({one_line(detail)})" if detail else kind
        self._log(base_url, failure, max(wait, health.paused_until - now), now)
        return self._fresh(request, attempts.failed(kind, now + wait))

    def _log(self, base_url: str, failure: str, wait: float, now: float) -> None:
        """Log the first failure and then one every ten seconds, or a troubled host would flood the log."""
        if now < self._next_log_line:
            return
        self._next_log_line = now + _SECONDS_BETWEEN_LOG_LINES
        count = self.crawler.stats.get_value("parti/retry/count", 0)
        logger.warning("%s from %s, again in %.2f s (failures so far: %d)", failure, base_url, wait, count)

    def _move_on(self, request: Request, reason: str) -> Request | None:
        """Return the request for the host used now, after moving on to that if need be; None at the last one."""
        failed = self.base_url
        if _base_of(request) == failed:
            if self._position + 1 == len(self.base_urls):
                return None
            self._position += 1
            self.spider.base_url = self.base_url
            self.spider.failovers.append({"from": failed, "to": self.base_url, "reason": reason})
            self.crawler.stats.inc_value("parti/failover/count")
            logger.warning("%s from %s: going on with %s", reason, failed, self.base_url)
        return self._fresh(request, None)

    def _not_there(self, request: Request, status: int) -> NoReturn:
        raise IgnoreRequest(
            f"HTTP {status} from {_base_of(request)}: it does not have this route, and no other host is left "
            f"(tried: {', '.join(self.base_urls)}); set PARTI_API_BASE_URLS to where the API is now"
        )

    def _fresh(self, request: Request, attempts: Attempts | None) -> Request:
        """Return the request as the spider made it, path and query to the letter, for the host used now."""
        meta = {name: value for name, value in request.meta.items() if name not in _OF_ONE_ATTEMPT}
        path = _first_url(request).removeprefix(_base_of(request) or "")
        return request.replace(url=self.base_url + path, meta=meta | {_ATTEMPTS: attempts}, dont_filter=True)

    def _health_of(self, base_url: str) -> HostHealth:
        return self._health.setdefault(base_url, HostHealth(self.patience, self.transport))

    def _delay_of(self, base_url: str) -> float:
        return _delay_at(base_url, self.delay)


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
            return retry.again(request, f"it cannot be decompressed: {error}")


class TokenMiddleware:
    """Sends the user's token, to the configured hosts of the API alone, over HTTPS or within this machine.

    Next to the downloader, so that no other component meets a request that holds the token.
    """

    def __init__(self, token: Secret, base_urls: tuple[str, ...]) -> None:
        self._header = b"Bearer " + token.reveal().encode("ascii")
        self._origins = {_origin(url) for url in base_urls if url.startswith("https:") or api.is_loopback(url)}

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Read the settings; without a token there is nothing to do."""
        token = _token(crawler.settings)
        if not token:
            raise NotConfigured
        return cls(token, api.parse_base_urls(crawler.settings["PARTI_API_BASE_URLS"]))

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
    return api.base_of(_first_url(request))


def _attempts_of(request: Request, now: float = 0.0) -> Attempts:
    return request.meta.get(_ATTEMPTS) or Attempts(since=now)


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
    return _LOOPBACK_DELAY if api.is_loopback(url) else _DELAY


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
