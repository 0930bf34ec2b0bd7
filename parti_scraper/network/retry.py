"""Retries with back-off, pauses of a whole host, and failover to another host.

Only requests for routes of the API are retried. For robots.txt the time-out is shorter, and a failure is no error.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import replace
from math import inf
from operator import itemgetter
from typing import TYPE_CHECKING, Protocol, Self, cast
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from scrapy import signals
from scrapy.exceptions import IgnoreRequest

from parti_scraper.api import registry
from parti_scraper.network import meta
from parti_scraper.network.backoff import (
    Attempts,
    advice,
    equal_jitter,
    full_jitter,
    listing,
    one_line,
    parse_retry_after,
)
from parti_scraper.network.errors import NO_ANSWER, kind_of_exception, kind_of_response
from parti_scraper.network.hosts import SHORTEST_SHOWN, TRIES, UNREACHABLE
from parti_scraper.network.settings import RetrySettings
from parti_scraper.scrapy_internals import is_closing
from parti_scraper.wording import number_of

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler
    from scrapy.http import Response

    from parti_scraper.network.hosts import Hosts
    from parti_scraper.network.traffic import Traffic

logger = logging.getLogger(__name__)

_MISSING = {404, 410}
# How often an optional request is sent; the least wait before a request that did not fail is repeated, in seconds.
_OPTIONAL_TRIES, _LEAST_WAIT = 4, 0.1
# How often a wait checks whether the crawl is closing, in seconds.
_SLICE = 0.25
_SECONDS_BETWEEN_LOG_LINES = 10.0
# Nothing is sent to a host before its robots.txt is known, so this must not take long.
_ROBOTS_TIMEOUT = 10.0


class _Spider(Protocol):
    """What this module needs of the spider."""

    @property
    def hosts(self) -> Hosts:
        """The hosts of the API."""

    @property
    def traffic(self) -> Traffic:
        """What its run has cost."""


class RetryMiddleware:
    """Retries requests that may succeed, after a wait, for as long as a host may be alive.

    It replaces Scrapy's, which neither waits nor reads `Retry-After`. The spider's `Hosts` decide which host of
    `PARTI_API_BASE_URLS` is asked. Only the spiders know whether a page is what the API sends: they call `succeeded`
    and `retry`. A request that is given up fails with an IgnoreRequest that says why.
    """

    def __init__(self, crawler: Crawler) -> None:
        self._crawler = crawler
        self._settings = RetrySettings.read(crawler.settings)
        self._most_retries = crawler.settings.getint("RETRY_TIMES")
        # When the hosts were given up, for each time that a request has reported why.
        self._explained: set[float | None] = set()
        self._paused = 0.0
        # When the waiting requests are to be sent, apart from a pause of the host.
        self._waiting: list[float] = []
        # When each request was sent that is not answered yet, and when the last answer or failure came.
        self._sent: WeakKeyDictionary[Request, float] = WeakKeyDictionary()
        self._last_heard = -inf
        self._next_log_line = 0.0

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Read the settings; connect to the signal of each answer, which comes before any middleware."""
        middleware = cls(crawler)
        crawler.signals.connect(middleware.response_downloaded, signals.response_downloaded)
        return middleware

    @property
    def _hosts(self) -> Hosts:
        # Not kept: in `scrapy shell` there is no spider yet when this is built.
        return cast("_Spider", self._crawler.spider).hosts

    @property
    def _traffic(self) -> Traffic:
        return cast("_Spider", self._crawler.spider).traffic

    # What the spiders call:

    def succeeded(self, request: Request) -> None:
        """Record that the answer was what the API sends: only this shows that a host is well."""
        base_url = meta.base_of(request)
        if base_url:
            self._hosts.succeeded(base_url, time.monotonic())

    def retry(self, request: Request, reason: str) -> Request:
        """Return the request that retries an answer that is not what the API sends; the callback yields it.

        If it is no longer sent, its errback is called.
        """
        return self._retry(request, "answer unreadable", reason)

    def later(self, request: Request, attempt: int) -> Request:
        """Return a request that waits before it is sent: its answer was no failure, but cannot be right.

        Args:
            request: what is to be asked for again.
            attempt: how often it was asked for before; the wait doubles each time.
        """
        now = time.monotonic()
        return meta.with_attempts(request, Attempts(since=now, not_before=now + self._growing_wait(request, attempt)))

    def begin_round(self) -> None:
        """Return to an earlier host, or to those that were given up: an endless run begins a new round."""
        failover = self._hosts.begin_round(time.monotonic())
        if failover:
            self._note_failover(failover.reason, is_new=failover.is_new)

    def waits_for(self) -> str | None:
        """Return how long nothing is sent, and why, see `Hosts`; or how long no host has answered, and which."""
        now = time.monotonic()
        if self._waiting and (paused := self._hosts.waits_for(min(self._waiting), now)):
            return paused
        request, since = min(self._sent.items(), key=itemgetter(1), default=(None, now))
        silence = now - max(since, self._last_heard)
        if request is None or silence < SHORTEST_SHOWN:
            return None
        return f"{silence:.0f} s for {urlsplit(request.url).netloc}"

    # What Scrapy calls:

    async def process_request(self, request: Request) -> Request | None:
        """Delay the request until it may be sent. Raises IgnoreRequest if it may never be."""
        instead = await self._delay(request)
        if instead is None:
            self._sent[request] = time.monotonic()
        return instead

    async def _delay(self, request: Request) -> Request | None:
        """Return, when the request may be sent, another one if that is to be sent instead."""
        if meta.is_robots(request):
            timeout = request.meta.get("download_timeout", _ROBOTS_TIMEOUT)
            request.meta["download_timeout"] = min(timeout, _ROBOTS_TIMEOUT)
            return None
        base_url = meta.base_of(request)
        if not base_url:
            return None
        attempts = meta.attempts_of(request, time.monotonic())
        if attempts.number > self._most_retries and self._hosts.is_exhausted(attempts.since):
            self._crawler.stats.inc_value("parti/retry/gave_up")
            raise IgnoreRequest(
                f"failed {number_of(attempts.number, 'times')} ({listing(attempts.kinds)}) while others succeeded; "
                f"{advice(attempts.kinds, self._settings.transport)}"
            )
        await self.wait_for_turn(request, attempts.not_before)
        current = self._hosts.current
        if base_url in self._hosts.urls and base_url != current and not meta.is_control(request):
            # There was a failover while the request waited.
            return meta.next_attempt(request, current, replace(attempts, not_before=-inf))
        return None

    async def process_response(self, request: Request, response: Response) -> Response | Request:
        """Pass on what the spider is to see, including answers that refuse the request."""
        if not meta.base_of(request) or meta.is_control(request):
            return response
        if response.status == 204:
            return _empty(response)
        if response.status in _MISSING:
            return await self._retry_or_empty(request, response)
        kind = kind_of_response(response)
        if kind is None:
            return response
        if request.meta.get(meta.OPTIONAL) and response.status >= 500:
            return self._retry_optional(request, response, kind)
        return self._retry(request, kind)

    def response_downloaded(self, request: Request, response: Response) -> None:
        """Pause the whole host if it asks for it, before the next request is sent."""
        self._heard(request)
        if self._traffic.answered(response.status):
            self._crawler.stats.inc_value("parti/retry/rate_limited")
        base_url = meta.base_of(request)
        if not base_url or response.status not in {429, 503}:
            return
        header = response.headers.get("Retry-After") or b""
        wait = parse_retry_after(header.decode("latin-1"), time.time())
        if response.status == 503 and wait is None:
            return
        # With a Retry-After of 0, every request would be sent again at once.
        number = meta.attempts_of(request).number + 1
        wait = wait or equal_jitter(number, self._settings.delay_at(base_url), random.random())  # noqa: S311
        now = time.monotonic()
        self._paused += self._hosts.host(base_url).pause(now + wait, now)
        self._crawler.stats.set_value("parti/retry/paused_seconds", round(self._paused, 3))

    def process_exception(self, request: Request, exception: Exception) -> Request | None:
        """Retry if the network failed."""
        self._heard(request)
        kind = kind_of_exception(exception)
        if kind is None or meta.is_control(request):
            return None
        if meta.is_robots(request):
            # As in Scrapy, a robots.txt that cannot be fetched forbids nothing; but Scrapy would log a traceback.
            logger.info("No robots.txt could be fetched from %s: %s", urlsplit(request.url).netloc, kind)
            raise IgnoreRequest(kind)
        if not meta.base_of(request):
            return None
        return self._retry(request, kind, "" if kind in UNREACHABLE else str(exception))

    # What the download handler calls too:

    async def wait_for_turn(self, request: Request, not_before: float = -inf) -> None:
        """Wait until `not_before` and the end of the host's pause.

        Raises:
            IgnoreRequest: the hosts were given up, or the crawl is closing.
        """
        base_url = meta.base_of(request)
        if not base_url:
            return
        host = self._hosts.host(base_url)
        self._waiting.append(not_before)
        try:
            while True:
                self._check(request)
                wait = max(not_before, host.paused_until) - time.monotonic()
                if wait <= 0:
                    return
                await asyncio.sleep(min(wait, _SLICE))
        finally:
            self._waiting.remove(not_before)

    def _check(self, request: Request) -> None:
        """Raise IgnoreRequest if nothing is to be sent any more."""
        if is_closing(self._crawler):
            # It is dropped like requests in the scheduler: it has not failed.
            request.errback = None
            raise IgnoreRequest("the crawl is stopping")
        given_up_at = self._hosts.given_up_at
        if given_up_at is None:
            return
        if meta.is_control(request):
            # The request that it was made for reports the reason.
            raise IgnoreRequest("the hosts were given up")
        self._crawler.stats.inc_value("parti/retry/gave_up")
        if given_up_at in self._explained:
            raise IgnoreRequest(f"{self._hosts.current} was given up")
        self._explained.add(given_up_at)
        raise IgnoreRequest(self._hosts.explain())

    def _heard(self, request: Request) -> None:
        self._sent.pop(request, None)
        self._last_heard = time.monotonic()

    # Retries:

    def _retry(self, request: Request, kind: str, detail: str = "") -> Request:
        """Return the request for the next attempt; `process_request` decides whether it is sent."""
        now = time.monotonic()
        base_url = meta.base_of(request) or self._hosts.current
        attempts = meta.attempts_of(request, now).failed(kind, base_url)
        failover = self._hosts.failed(base_url, kind, attempts.in_a_row, now, detail)
        if failover:
            self._note_failover(f"{kind} from {failover.left}", is_new=failover.is_new)
        return self._retry_later(request, attempts, kind, f"{kind} ({one_line(detail)})" if detail else kind)

    def _retry_optional(self, request: Request, response: Response, kind: str) -> Response | Request:
        """Retry a few times, then pass the error on to the spider; it does not count against the host."""
        attempts = meta.attempts_of(request, time.monotonic()).failed(kind, meta.base_of(request) or "")
        if attempts.number >= _OPTIONAL_TRIES:
            return response
        self._count_retry(kind)
        not_before = time.monotonic() + self._growing_wait(request, attempts.number)
        return meta.next_attempt(request, self._hosts.current, replace(attempts, not_before=not_before))

    async def _retry_or_empty(self, request: Request, response: Response) -> Response | Request:
        """Distinguish an empty result from a missing route, by asking for the route's first page.

        A single 404 may be an accident, such as during a deployment. So it counts as an empty result only if it comes
        several times in a row while the host serves that page.
        """
        kind = f"HTTP {response.status}"
        base_url = meta.base_of(request) or ""
        if not await self._has_route(request):
            return self._retry(request, kind)
        now = time.monotonic()
        self._hosts.succeeded(base_url, now)
        attempts = meta.attempts_of(request, now).was_contradicted(kind, base_url)
        if attempts.contradicted < TRIES:
            return self._retry_later(request, attempts, kind, kind)
        self._crawler.stats.inc_value("parti/retry/empty")
        return _empty(response)

    async def _has_route(self, request: Request) -> bool:
        """Ask the host for the first page of the route; return whether it serves one."""
        url = registry.first_page_url(meta.first_url(request))
        if url is None:
            return False
        try:
            answer = await self._crawler.engine.download_async(meta.control_request(url))
        except NO_ANSWER:
            return False
        return answer.status == 200 and answer.body.lstrip()[:1] == b"["

    def _retry_later(self, request: Request, attempts: Attempts, kind: str, failure: str) -> Request:
        """Count and log a failure; return the request for the current host, to be sent after a wait."""
        self._count_retry(kind)
        current = self._hosts.current
        number = max(attempts.by_host[current], 1)
        wait = full_jitter(number, self._settings.delay_at(current), random.random())  # noqa: S311
        now = time.monotonic()
        not_before = now + wait if attempts.contradicted else self._hosts.may_be_sent_at(wait)
        self._log(f"{failure} from {attempts.host}", max(not_before, self._hosts.host(current).paused_until) - now, now)
        return meta.next_attempt(request, current, replace(attempts, not_before=not_before))

    def _growing_wait(self, request: Request, attempt: int) -> float:
        return max(self._settings.delay_at(request.url), _LEAST_WAIT) * 2.0 ** (attempt - 1)

    def _count_retry(self, kind: str) -> None:
        self._traffic.retried()
        self._crawler.stats.inc_value("parti/retry/count")
        self._crawler.stats.inc_value(f"parti/retry/reason_count/{kind.lower().replace(' ', '_')}")

    def _log(self, failure: str, wait: float, now: float) -> None:
        """Log the first failure and then one every ten seconds, or a failing host would flood the log."""
        if now < self._next_log_line:
            return
        self._next_log_line = now + _SECONDS_BETWEEN_LOG_LINES
        count = self._crawler.stats.get_value("parti/retry/count", 0)
        logger.warning("%s, trying again in %.2f s (failures so far: %d)", failure, max(wait, 0.0), count)

    def _note_failover(self, reason: str, *, is_new: bool) -> None:
        """Count a failover, and log it the first time."""
        self._crawler.stats.inc_value("parti/failover/count")
        if is_new:
            logger.warning("%s: continuing with %s", reason, self._hosts.current)


def _empty(response: Response) -> Response:
    """Return a page without records in place of an answer."""
    return response.replace(status=200, body=b"[]")
