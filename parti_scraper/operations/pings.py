"""Tells a watcher, in healthchecks.io's form, that a run begins and how it ended: what never comes is noticed there."""

from __future__ import annotations

import base64
import http.client
import logging
import threading
import time
from typing import TYPE_CHECKING, Self
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import Request, urlopen

from parti_scraper.redact import Secret

if TYPE_CHECKING:
    from scrapy.settings import BaseSettings

logger = logging.getLogger(__name__)

# Seconds: for both pings at the end of a run, and of these for the first, which began as the run did.
TIME_LIMIT = 10.0
_START_LIMIT = 5.0
# Bytes of the text that is sent with the second.
_LONGEST_TEXT = 10_000


class Pings:
    """The pings of one run; they are sent in threads, and never raise anything."""

    def __init__(self, url: str, rid: str) -> None:
        """Prepare them; nothing is sent yet.

        Args:
            url: what is asked, without `/start` and the like.
            rid: what a ping of the begin and one of the end have in common; a UUID.
        """
        self._url = url
        self._rid = rid
        self._start: _Ping | None = None

    @classmethod
    def from_settings(cls, settings: BaseSettings, spider: str, rid: str) -> Self | None:
        """Return the pings of a run of a spider; None if there is no address, with a warning if it is none."""
        secret = settings.get("PARTI_PING_URL")
        if not isinstance(secret, Secret) or not secret:
            return None
        url = secret.reveal().strip().replace("{spider}", quote(spider, safe=""))
        if not _is_http(url):
            logger.warning("PARTI_PING_URL is no address of http or https: nobody is told that a run begins or ends")
            return None
        return cls(url, rid)

    def began(self) -> None:
        """Tell that the run begins; does not wait."""
        self._start = _Ping(address_of(self._url, "start", self._rid), None, _START_LIMIT)

    def ended(self, exit_code: int, text: str, seconds: float = TIME_LIMIT) -> None:
        """Tell how the run ended, with a line of text, and wait for both pings, but no longer than so many seconds."""
        deadline = time.monotonic() + seconds
        pings = []
        if self._start is not None:
            # The other way round, the run would seem to go on.
            self._start.wait(seconds / 2)
            pings.append(self._start)
        body = text.encode(errors="replace")[:_LONGEST_TEXT]
        pings.append(_Ping(address_of(self._url, str(exit_code), self._rid), body, deadline - time.monotonic()))
        pings[-1].wait(deadline - time.monotonic())
        problems = [each.problem for each in pings if each.problem]
        if problems:
            logger.warning("A ping of PARTI_PING_URL failed: %s", problems[-1])


def address_of(url: str, what: str, rid: str) -> str:
    """Return the address of one ping: `what` is added to the path, and the query is kept."""
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, f"rid={rid}")))
    return parts._replace(path=f"{parts.path.rstrip('/')}/{what}", query=query, fragment="").geturl()


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


class _Ping:
    """A request in a thread of its own, which ends with the process."""

    def __init__(self, url: str, body: bytes | None, seconds: float) -> None:
        # Until it is known better.
        self.problem = "timeout"
        self._thread = threading.Thread(target=self._send, args=(url, body, max(seconds, 0.1)), daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        self._thread.join(max(seconds, 0))

    def _send(self, url: str, body: bytes | None, seconds: float) -> None:
        try:
            with urlopen(_request(url, body), timeout=seconds) as response:  # noqa: S310 - see `_is_http`
                response.read(1)
            self.problem = ""
        except Exception as error:  # noqa: BLE001 - whatever it is, a crawl goes on; its text may hold the address
            self.problem = _why(error)


def _request(url: str, body: bytes | None) -> Request:
    """Return the request; user and password of the address are sent as such, which urllib does not do."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    headers = {"User-Agent": "parti_scraper"}
    if body is not None:
        headers["Content-Type"] = "text/plain; charset=utf-8"
    request = Request(parts._replace(netloc=host).geturl(), body, headers)  # noqa: S310 - see `_is_http`
    if at:
        # Not for the host of a redirect.
        credentials = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {credentials}")
    return request


def _why(error: Exception) -> str:
    """Return what is wrong, without the address, which errors may name."""
    if isinstance(error, HTTPError):
        return f"HTTP {error.code}"
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, TimeoutError):
        return "timeout"
    if isinstance(reason, http.client.HTTPException):
        return "no answer of HTTP"
    return (isinstance(reason, OSError) and reason.strerror) or type(reason).__name__
