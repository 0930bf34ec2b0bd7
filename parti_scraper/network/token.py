"""The user's token: read from the settings, and added to requests that may have it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from scrapy.exceptions import NotConfigured

from parti_scraper.api import urls
from parti_scraper.exceptions import UsageError
from parti_scraper.secret_settings import secret_from

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from scrapy.settings import BaseSettings

    from parti_scraper.redact import Secret

_TOKEN = re.compile(r"[!-~]+")


class TokenMiddleware:
    """Sends the user's token, only to the configured hosts of the API, over HTTPS or within this machine.

    It runs next to the downloader, so that no other component sees a request with the token.
    """

    def __init__(self, token: Secret, base_urls: tuple[str, ...]) -> None:
        self._header = b"Bearer " + token.reveal().encode("ascii")
        self._origins = {_origin(url) for url in base_urls if url.startswith("https:") or urls.is_loopback(url)}

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Read the settings. Raises NotConfigured if there is no token."""
        token = token_from(crawler.settings)
        if not token:
            raise NotConfigured
        return cls(token, urls.parse_base_urls(crawler.settings["PARTI_API_BASE_URLS"]))

    def process_request(self, request: Request) -> None:
        """Add the token if it may be sent."""
        if _origin(request.url) in self._origins:
            request.headers["Authorization"] = self._header

    def process_response(self, request: Request, response: Response) -> Response:
        self._remove(request)
        return response

    def process_exception(self, request: Request, exception: Exception) -> None:
        self._remove(request)

    def _remove(self, request: Request) -> None:
        if request.headers.get("Authorization") == self._header:
            del request.headers["Authorization"]


def token_from(settings: BaseSettings) -> Secret:
    """Return the token, empty if none is set. Raises UsageError, whose text never contains it."""
    token = secret_from(settings, "PARTI_TOKEN")
    if token and not _TOKEN.fullmatch(token.reveal()):
        raise UsageError(
            "environment variable `PARTI_TOKEN`: not a token; what it holds is not shown "
            "(accepted: printable ASCII without spaces and line breaks)"
        )
    return token


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
