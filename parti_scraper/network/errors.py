"""How a request can fail, and the kind of each failure, by which messages and counts name it.

Errors of this project, all of them kinds of Scrapy's `DownloadFailedError`:

    NoConnectionError   the host cannot be reached
    NoProxyError        the proxy cannot be reached or used
    SitePageError       there is no page of the site to send requests from
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadConnectionRefusedError,
    DownloadFailedError,
    DownloadTimeoutError,
    IgnoreRequest,
    ResponseDataLossError,
)
from twisted.internet.error import ConnectError, ConnectionClosed

if TYPE_CHECKING:
    from scrapy.http import Response


class NoConnectionError(DownloadFailedError):
    """The host cannot be reached, for another reason than a refusal. Raised by the download handler."""


class NoProxyError(DownloadFailedError):
    """The proxy cannot be reached, or refuses. Raised by the download handler."""


class SitePageError(DownloadFailedError):
    """No page of the site can be opened to send requests from. Raised by the transport `browser`."""


# The first match counts.
_KINDS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((DownloadConnectionRefusedError,), "connection refused"),
    ((CannotResolveHostError,), "host name not found"),
    ((DownloadTimeoutError,), "timeout"),
    ((ResponseDataLossError,), "answer cut short"),
    ((SitePageError,), "site not open"),
    ((NoProxyError,), "no connection to the proxy"),
    # Twisted's come from Scrapy's own handlers, if a user has set one.
    ((NoConnectionError, ConnectError), "no connection"),
    ((DownloadFailedError, ConnectionClosed), "connection lost"),
)
# How a request can fail without an answer: the network failed, or it was not sent.
NO_ANSWER: tuple[type[Exception], ...] = (IgnoreRequest, *(each for types, _ in _KINDS for each in types))
# Answers to the request itself, which would be the same again. If a proxy refuses, they are web pages.
_FINAL = {400, 401, 413, 414, 422}


def kind_of_exception(exception: Exception) -> str | None:
    """Return the kind of a failure of the network; None for any other exception."""
    return next((kind for types, kind in _KINDS if isinstance(exception, types)), None)


def kind_of_response(response: Response) -> str | None:
    """Return the kind of failure of an answer that is to be retried; None if it is to be passed on."""
    status = response.status
    if status in {408, 429} or status >= 500:
        return f"HTTP {status}"
    return "challenge page" if is_challenge(response) else None


def is_challenge(response: Response) -> bool:
    """Return whether an answer is a web page, although the API sends JSON."""
    return response.status not in _FINAL and response.body.lstrip()[:1] == b"<"
