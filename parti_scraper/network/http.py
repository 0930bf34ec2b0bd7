"""How requests are sent: by aiohttp, in half of the time that Scrapy's own way through Twisted takes."""

from __future__ import annotations

import errno
import zlib
from contextlib import asynccontextmanager
from math import inf
from typing import TYPE_CHECKING, ClassVar, cast

import aiohttp
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

from parti_scraper.network.retry import NoConnectionError, NoProxyError, RetryMiddleware
from parti_scraper.signals import receivers

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
    (aiohttp.ClientSSLError, DownloadFailedError),
    (aiohttp.ClientConnectorError, NoConnectionError),
    (aiohttp.InvalidURL, UnsupportedURLSchemeError),
    (aiohttp.ClientError, DownloadFailedError),
)
# Behind a proxy, it is the proxy that these are about.
_OF_PROXIES = {CannotResolveHostError, DownloadConnectionRefusedError, NoConnectionError}
_PASSWORD_WANTED = 407
# In bytes; aiohttp's own limits are half of what servers and other clients take.
_LONGEST_HEADER = 16_384


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
        await self.hold(request)
        return await super().download_request(request)

    async def hold(self, request: Request) -> None:
        """Wait for the end of the host's pause. Raises IgnoreRequest where it is not to be asked any more."""
        retry = self.crawler.get_downloader_middleware(RetryMiddleware)
        if retry:
            await retry.hold(request)

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
            # The proxy sees no other headers than these.
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
                if cast("_ClientResponse", response)._peername is None:  # noqa: SLF001 - Scrapy wants it
                    raise DownloadFailedError("the connection was closed")
                yield cast("_ClientResponse", response)
        except TimeoutError as error:
            raise DownloadTimeoutError(f"Getting {request.url} took longer than {timeout} seconds") from error
        except aiohttp.ClientError as error:
            raise _as_scrapy_has_it(error, proxy) from error

    async def _read_response(self, response: _ClientResponse, request: Request) -> Response:
        """Read the body in one piece, and decompress it, where nobody wants to see its pieces."""
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
        """Tell whether somebody listens for the parts of an answer as they come."""
        watched = (signals.headers_received, signals.bytes_received)
        return any(receivers(self.crawler, signal) for signal in watched)


def _as_scrapy_has_it(error: aiohttp.ClientError, proxy: str | None) -> Exception:
    kind = next(ours for theirs, ours in _ERRORS if isinstance(error, theirs))
    text = str(error)
    if isinstance(error, aiohttp.ClientConnectorError):
        # Its own text shows an object of Python's.
        cause = getattr(error, "certificate_error", None) or error.os_error
        text = f"{error.host}:{error.port}: {cause}"
        # Where a name has several addresses, errors of all of them are in one text.
        if f"[Errno {errno.ECONNREFUSED}]" in text:
            kind = DownloadConnectionRefusedError
    elif isinstance(error, aiohttp.ServerDisconnectedError):
        # Its own text may be all headers that came until then.
        text = "the connection was closed"
    if proxy and isinstance(error, aiohttp.ClientHttpProxyError):
        # Unless it wants a password, it says of the host that there is no way to it.
        kind = NoProxyError if error.status == _PASSWORD_WANTED else NoConnectionError
        return kind(f"proxy: {text}")
    if proxy and kind in _OF_PROXIES:
        return NoProxyError(f"proxy: {text}")
    return kind(text or type(error).__name__)


def _gunzip(body: bytes, most: float) -> bytes | None:
    """Return what was compressed; None where it is damaged or too large, which others know what to say of."""
    decompressor = zlib.decompressobj(_GZIP)
    try:
        whole = decompressor.decompress(body, 0 if most == inf else int(most))
    except zlib.error:
        return None
    return whole if decompressor.eof and not decompressor.unused_data else None
