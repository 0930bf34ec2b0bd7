"""What the network stores in the `meta` of a request, for one attempt or for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from scrapy import Request
from scrapy.http.request import NO_CALLBACK

from parti_scraper.api import routes
from parti_scraper.network.backoff import Attempts
from parti_scraper.scrapy_internals import PROXY_META, has_proxy_of_environment

if TYPE_CHECKING:
    from typing import Any

# Set by a spider: the server may fail at this request although it is well.
OPTIONAL = "parti_optional"
_ATTEMPTS = "parti_attempts"
_IS_CONTROL = "parti_is_control"
# What Scrapy writes for one attempt, and the next one must not have.
_OF_ONE_ATTEMPT = {"download_slot", "download_latency"} | {
    f"redirect_{name}" for name in ("times", "ttl", "urls", "reasons")
}


def first_url(request: Request) -> str:
    """Return the address that the spider asked for, before any redirect."""
    return str(request.meta.get("redirect_urls", [request.url])[0])


def base_of(request: Request) -> str | None:
    """Return scheme and host of a request for a route of the API; None for any other request."""
    return routes.base_of(first_url(request))


def is_robots(request: Request) -> bool:
    """Return whether Scrapy asks for a robots.txt."""
    return request.callback is NO_CALLBACK and urlsplit(request.url).path == "/robots.txt"


def control_request(url: str) -> Request:
    """Return a request that only shows whether the server has a route: it is sent once and never retried."""
    return Request(url, callback=NO_CALLBACK, dont_filter=True, meta={"verbatim_url": True, _IS_CONTROL: True})


def is_control(request: Request) -> bool:
    """Return whether a request was made by `control_request`."""
    return bool(request.meta.get(_IS_CONTROL))


def attempts_of(request: Request, now: float = 0.0) -> Attempts:
    """Return how often a request has failed; if it has not, a record that begins now."""
    return request.meta.get(_ATTEMPTS) or Attempts(since=now)


def with_attempts(request: Request, attempts: Attempts) -> Request:
    """Return the same request with another record of its attempts."""
    return request.replace(meta=request.meta | {_ATTEMPTS: attempts})


def next_attempt(request: Request, base_url: str, attempts: Attempts) -> Request:
    """Return the request for the next attempt, with path and query exactly as the spider wrote them.

    Args:
        request: as it was sent.
        base_url: scheme and host to ask now.
        attempts: the record of its attempts, the last one included.
    """
    left_out, headers = _OF_ONE_ATTEMPT, request.headers
    if has_proxy_of_environment(request):
        # The environment may name another one for the next host.
        left_out, headers = left_out | PROXY_META, headers.copy()
        headers.pop("Proxy-Authorization", None)
    meta: dict[str, Any] = {name: value for name, value in request.meta.items() if name not in left_out}
    path = first_url(request).removeprefix(base_of(request) or "")
    return request.replace(url=base_url + path, meta=meta | {_ATTEMPTS: attempts}, headers=headers, dont_filter=True)
