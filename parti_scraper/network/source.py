"""Where the data of a run come from: from parti.com, or made up by a mock server. The two must not be mixed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self, cast

from scrapy.exceptions import IgnoreRequest

from parti_scraper.api.urls import is_loopback, origin_of
from parti_scraper.exceptions import UsageError
from parti_scraper.network import meta
from parti_scraper.network.errors import is_challenge
from parti_scraper.scrapy_internals import close_spider

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scrapy import Request
    from scrapy.crawler import Crawler
    from scrapy.http import Response

# What a mock server sends in each of its answers.
HEADER, MOCK = "X-Parti-Source", "mock"
REAL = "parti.com"


class Source:
    """Where the data of a run come from, its earlier sessions included, as its answers show it.

    A server is a mock where it is on this machine or says so in an answer, whatever that is. Only an answer that holds
    data shows that one is none: anything between here and a mock may answer with a page of its own.

    Attributes:
        mixed: what was about to be mixed, in a sentence; empty as long as nothing was.
    """

    def __init__(self, *, is_here: bool = False) -> None:
        """Begin; `is_here` says that the servers that were configured are on this machine."""
        self.mixed = ""
        self._kind = MOCK if is_here else ""
        self._host = "this machine" if is_here else ""

    @property
    def name(self) -> str:
        """`mock`, or `parti.com` where nothing shows that it is one."""
        return self._kind or REAL

    def takes(self, url: str, *, says_mock: bool, has_data: bool) -> bool:
        """Note an answer; return whether it may be used.

        Args:
            url: where it came from.
            says_mock: whether it says that it comes from a mock server.
            has_data: whether it holds data.
        """
        kind = MOCK if says_mock or is_loopback(url) else REAL if has_data else ""
        if not kind or kind == self._kind:
            return True
        host = origin_of(url)
        if not self._kind:
            self._kind, self._host = kind, host
            return True
        what = (
            "made-up data, and what the run has is real"
            if kind == MOCK
            else "real data, and what the run has is made up"
        )
        self.mixed = self.mixed or f"{host} serves {what}, from {self._host}: the two must not be mixed"
        return False

    def as_json(self) -> dict[str, str]:
        """Return what another process continues from."""
        return {"kind": self._kind, "host": self._host}

    def restore(self, noted: Mapping[str, str] | None, served: list[str]) -> None:
        """Continue from what `as_json` has returned.

        Args:
            noted: what it has returned; None where the earlier process did not know of it yet.
            served: the hosts that had served pages by then, in scheme and host.

        Raises:
            UsageError: the data until now are real, and the servers that are configured now are on this machine.
        """
        if noted is None:
            kind = MOCK if any(map(is_loopback, served)) else REAL
            noted = {"kind": kind if served else "", "host": ", ".join(served)}
        if self._kind and noted["kind"] == REAL:
            raise UsageError.of(
                "setting",
                "PARTI_API_BASE_URLS",
                f"on this machine, where the data that the run has are real, from {noted['host']}",
                self._host,
                "another run_id, or the servers that the run was begun with",
            )
        if noted["kind"]:
            self._kind, self._host = noted["kind"], noted["host"]


class _Spider(Protocol):
    """What this module needs of the spider."""

    @property
    def source(self) -> Source:
        """Where the data of its run come from."""


class SourceMiddleware:
    """Looks at each answer for where it comes from; what would mix made-up and real data ends the run unread.

    Next to the downloader, so that it sees redirects too.
    """

    def __init__(self, crawler: Crawler) -> None:
        self._crawler = crawler

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        return cls(crawler)

    def process_response(self, request: Request, response: Response) -> Response:
        """Pass on the answer; raises IgnoreRequest where it is not to be used."""
        is_page = response.status == 200 and b"html" not in (response.headers.get("Content-Type") or b"").lower()
        says_mock = says_so({HEADER: (response.headers.get(HEADER) or b"").decode("latin-1")})
        has_data = is_page and meta.base_of(request) is not None and not is_challenge(response)
        if not takes_answer(self._crawler, response.url, says_mock=says_mock, has_data=has_data):
            refuse(self._crawler, request)
        return response


def says_so(headers: Mapping[str, str]) -> bool:
    """Tell whether the headers of an answer, in whatever case, say that it comes from a mock server."""
    return any(name.lower() == HEADER.lower() and value.strip().lower() == MOCK for name, value in headers.items())


def takes_answer(crawler: Crawler, url: str, *, says_mock: bool, has_data: bool) -> bool:
    """Note an answer as `Source.takes` does; close the spider where it is not to be used."""
    source = source_of(crawler)
    was_mixed = bool(source.mixed)
    is_taken = source.takes(url, says_mock=says_mock, has_data=has_data)
    if not is_taken and not was_mixed:
        close_spider(crawler, "mixed_sources")
    return is_taken


def refuse(crawler: Crawler, request: Request) -> NoReturn:
    """Drop a request whose answer is not to be used, like those that wait in the scheduler. Raises IgnoreRequest."""
    request.errback = None
    raise IgnoreRequest(source_of(crawler).mixed)


def source_of(crawler: Any) -> Source:
    """Return where the data of a crawler's run come from."""
    return cast("_Spider", crawler.spider).source
