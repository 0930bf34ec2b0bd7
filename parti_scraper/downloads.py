"""How requests are sent: by aiohttp, in half of the time that Scrapy's own way through Twisted takes."""

from __future__ import annotations

import errno
import zlib
from contextlib import asynccontextmanager
from math import inf
from typing import TYPE_CHECKING, ClassVar

import aiohttp
from pydispatch.dispatcher import getAllReceivers, liveReceivers
from scrapy import signals
from scrapy.core.downloader.handlers._aiohttp import AiohttpDownloadHandler
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadConnectionRefusedError,
    DownloadFailedError,
    DownloadTimeoutError,
    ResponseDataLossError,
    UnsupportedURLSchemeError,
)
from scrapy.http import Headers
from scrapy.utils._download_handlers import make_response
from yarl import URL

from parti_scraper.middlewares import NoConnectionError, RetryMiddleware

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scrapy import Request
    from scrapy.core.downloader.handlers._aiohttp import _ClientResponse
    from scrapy.http import Response

# zlib's number for what has gzip's header and checksum.
_GZIP = 31
# The first that fits counts.
_ERRORS: tuple[tuple[type[Exception], type[Exception]], ...] = (
    (aiohttp.ClientConnectorDNSError, CannotResolveHostError),
    (aiohttp.ClientProxyConnectionError, NoConnectionError),
    (aiohttp.ClientHttpProxyError, NoConnectionError),
    (aiohttp.ClientSSLError, DownloadFailedError),
    (aiohttp.ClientConnectorError, NoConnectionError),
    (aiohttp.InvalidURL, UnsupportedURLSchemeError),
    (aiohttp.ClientError, DownloadFailedError),
)


class HttpDownloadHandler(AiohttpDownloadHandler):
    """Scrapy's on aiohttp, but quicker, and what was queued for a host before it asked for a pause waits for its end.

    Scrapy calls its own experimental; what this project expects of it stands in the tests. Unlike that, this one tells
    errors apart that mean different things for a retry, and says nothing of a body where there is none.
    """

    experimental: ClassVar[bool] = False
    # What was made is closed only where the crawl got as far as to start.
    lazy = True

    async def download_request(self, request: Request) -> Response:
        """Download the request, later where it must be."""
        retry = self.crawler.get_downloader_middleware(RetryMiddleware)
        if retry:
            await retry.hold(request)
        return await super().download_request(request)

    @asynccontextmanager
    async def _make_request(
        self,
        request: Request,
        timeout: float,  # noqa: ASYNC109 - the signature is Scrapy's
    ) -> AsyncIterator[_ClientResponse]:
        proxy = self._extract_proxy_url_with_creds(request)
        # What is for the proxy alone is left out.
        headers = self._request_headers(request) if proxy else request.headers
        try:
            async with self._session.request(
                request.method,
                URL(request.url, encoded=True),
                data=request.body or None,
                headers=headers.to_tuple_list(),
                timeout=aiohttp.ClientTimeout(total=timeout),
                ssl=self._ssl_context,
                allow_redirects=False,
                proxy=proxy,
            ) as response:
                yield response  # type: ignore[misc]
        except TimeoutError as error:
            raise DownloadTimeoutError(f"Getting {request.url} took longer than {timeout} seconds") from error
        except aiohttp.ClientError as error:
            raise _as_scrapy_has_it(error) from error

    async def _read_response(self, response: _ClientResponse, request: Request) -> Response:
        """Read the body in one piece, and decompress it, where nobody wants to see its pieces."""
        most = min(
            request.meta.get("download_maxsize", self._default_maxsize) or inf,
            request.meta.get("download_warnsize", self._default_warnsize) or inf,
        )
        size = response.content_length
        if size is None or size > most or self._is_watched() or not self._fail_on_dataloss:
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
        """Tell whether somebody listens for the parts of an answer as they come."""
        watched = (signals.headers_received, signals.bytes_received)
        return any(any(liveReceivers(getAllReceivers(self.crawler, signal))) for signal in watched)


def _as_scrapy_has_it(error: aiohttp.ClientError) -> Exception:
    is_proxy = isinstance(error, aiohttp.ClientProxyConnectionError)
    if isinstance(error, aiohttp.ClientConnectorError) and error.errno == errno.ECONNREFUSED and not is_proxy:
        return DownloadConnectionRefusedError(str(error))
    return next(ours for theirs, ours in _ERRORS if isinstance(error, theirs))(str(error) or type(error).__name__)


def _gunzip(body: bytes, most: float) -> bytes | None:
    """Return what was compressed; None where it is damaged or too large, which others know what to say of."""
    decompressor = zlib.decompressobj(_GZIP)
    try:
        whole = decompressor.decompress(body, 0 if most == inf else int(most))
    except zlib.error:
        return None
    return whole if decompressor.eof and not decompressor.unused_data else None
