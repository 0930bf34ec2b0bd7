"""How requests are sent and bodies decompressed: with aiohttp, twice as fast as Scrapy with Twisted."""

from __future__ import annotations

import errno
import zlib
from contextlib import asynccontextmanager
from math import inf
from typing import TYPE_CHECKING, ClassVar, cast

import aiohttp
from scrapy import signals
from scrapy.core.downloader.handlers._aiohttp import AiohttpDownloadHandler
from scrapy.downloadermiddlewares.httpcompression import HttpCompressionMiddleware
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadConnectionRefusedError,
    DownloadFailedError,
    DownloadTimeoutError,
    IgnoreRequest,
    ResponseDataLossError,
    UnsupportedURLSchemeError,
)
from scrapy.http import Headers
from scrapy.utils._download_handlers import make_response
from yarl import URL

from parti_scraper.network import meta
from parti_scraper.network.errors import NoConnectionError, NoProxyError
from parti_scraper.network.retry import RetryMiddleware
from parti_scraper.scrapy_internals import has_peer, receivers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scrapy import Request
    from scrapy.core.downloader.handlers._aiohttp import _ClientResponse
    from scrapy.crawler import Crawler
    from scrapy.http import Response

# zlib's number for data with gzip's header and checksum.
_GZIP = 31
# The first match counts.
_ERRORS: tuple[tuple[type[Exception], type[Exception]], ...] = (
    (aiohttp.ClientConnectorDNSError, CannotResolveHostError),
    (aiohttp.ClientSSLError, DownloadFailedError),
    (aiohttp.ClientConnectorError, NoConnectionError),
    (aiohttp.InvalidURL, UnsupportedURLSchemeError),
    (aiohttp.ClientError, DownloadFailedError),
)
# With a proxy, these are errors of the proxy.
_OF_PROXIES = {CannotResolveHostError, DownloadConnectionRefusedError, NoConnectionError}
_PASSWORD_WANTED = 407
# In bytes; aiohttp's own limits are half of what servers and other clients accept.
_LONGEST_HEADER = 16_384


class HttpDownloadHandler(AiohttpDownloadHandler):
    """Scrapy's on aiohttp, but faster; requests that were queued before a host asked for a pause wait for its end.

    Scrapy calls its own experimental; tests cover what this project expects of it. Unlike Scrapy's, this one
    distinguishes errors that matter for retries, and sends no headers of a body without a body.
    """

    experimental: ClassVar[bool] = False
    # Scrapy closes handlers only if the crawl has started, so this one is not built earlier.
    lazy = True

    async def download_request(self, request: Request) -> Response:
        """Download the request after the host's pause."""
        await self.wait_for_turn(request)
        return await super().download_request(request)

    async def wait_for_turn(self, request: Request) -> None:
        """Wait for the end of the host's pause. Raises IgnoreRequest if the host is no longer asked."""
        retry = self.crawler.get_downloader_middleware(RetryMiddleware)
        if retry:
            await retry.wait_for_turn(request)

    @asynccontextmanager
    async def _make_request(
        self,
        request: Request,
        timeout: float,  # noqa: ASYNC109 - the signature is Scrapy's
    ) -> AsyncIterator[_ClientResponse]:
        url = URL(request.url, encoded=True)
        proxy, authorization = self._extract_proxy(request)
        headers, for_tunnel = request.headers, None
        if proxy and url.scheme == "https":
            # The proxy sees only these headers.
            headers = self._request_headers(request)
            for_tunnel = {"User-Agent": (headers.get("User-Agent") or b"").decode("latin-1")}
            if authorization:
                for_tunnel["Proxy-Authorization"] = authorization
        try:
            async with self._session.request(
                request.method,
                url,
                data=request.body or None,
                headers=headers.to_tuple_list(),
                timeout=aiohttp.ClientTimeout(total=timeout),
                ssl=self._ssl_context,
                allow_redirects=False,
                proxy=proxy,
                proxy_headers=for_tunnel,
                max_line_size=_LONGEST_HEADER,
                max_field_size=_LONGEST_HEADER,
            ) as response:
                answer = cast("_ClientResponse", response)
                if not has_peer(answer):
                    raise DownloadFailedError("the connection was closed")
                yield answer
        except TimeoutError as error:
            raise DownloadTimeoutError(f"Getting {request.url} took longer than {timeout} seconds") from error
        except aiohttp.ClientError as error:
            raise as_scrapy_error(error, proxy) from error

    async def _read_response(self, response: _ClientResponse, request: Request) -> Response:
        """Read the body at once and decompress it, unless something listens for its parts."""
        most = min(
            request.meta.get("download_maxsize", self._default_maxsize) or inf,
            request.meta.get("download_warnsize", self._default_warnsize) or inf,
        )
        size = response.content_length
        fails_on_dataloss = request.meta.get("download_fail_on_dataloss", self._fail_on_dataloss)
        if size is None or size > most or self._is_watched() or not fails_on_dataloss or self._tls_verbose_logging:
            return await super()._read_response(response, request)
        try:
            body = await response.read()
        except aiohttp.ClientPayloadError as error:
            raise ResponseDataLossError(str(error)) from error
        headers = Headers(response.raw_headers)
        if headers.getlist("Content-Encoding") == [b"gzip"]:
            whole = _gunzip(body, most)
            if whole is not None:
                body = whole
                del headers["Content-Encoding"]
        return make_response(**self._build_base_response_args(response, request, headers), body=body)

    def _is_watched(self) -> bool:
        """Return whether a signal handler listens for the parts of an answer."""
        watched = (signals.headers_received, signals.bytes_received)
        return any(receivers(self.crawler, signal) for signal in watched)


class DecompressionMiddleware(HttpCompressionMiddleware):
    """Scrapy's, but a body that cannot be decompressed was cut short, and is asked for again."""

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
            if retry is None or not meta.base_of(request):
                raise
            if meta.is_control(request):
                return response
            return retry.retry(request, f"it cannot be decompressed: {error}")


def as_scrapy_error(error: aiohttp.ClientError, proxy: str | None) -> Exception:
    """Return Scrapy's error, or the project's own, for an error of aiohttp."""
    kind = next(ours for theirs, ours in _ERRORS if isinstance(error, theirs))
    text = str(error)
    if isinstance(error, aiohttp.ClientConnectorError):
        # Its own text shows a Python object.
        cause = getattr(error, "certificate_error", None) or error.os_error
        text = f"{error.host}:{error.port}: {cause}"
        # If a name has several addresses, the errors of all of them are in one text.
        if f"[Errno {errno.ECONNREFUSED}]" in text:
            kind = DownloadConnectionRefusedError
    elif isinstance(error, aiohttp.ServerDisconnectedError):
        # Its own text may be all headers received so far.
        text = "the connection was closed"
    if proxy and isinstance(error, aiohttp.ClientHttpProxyError):
        # Unless it asks for a password, it cannot reach the host.
        kind = NoProxyError if error.status == _PASSWORD_WANTED else NoConnectionError
        return kind(f"proxy: {text}")
    if proxy and kind in _OF_PROXIES:
        return NoProxyError(f"proxy: {text}")
    return kind(text or type(error).__name__)


def _gunzip(body: bytes, most: float) -> bytes | None:
    """Return the decompressed body; None if it is damaged or too large, which Scrapy's middleware reports."""
    decompressor = zlib.decompressobj(_GZIP)
    try:
        whole = decompressor.decompress(body, 0 if most == inf else int(most))
    except zlib.error:
        return None
    return whole if decompressor.eof and not decompressor.unused_data else None
