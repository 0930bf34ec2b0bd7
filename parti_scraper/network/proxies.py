"""Which proxy a request goes through: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` of the environment.

Lower-case names are allowed too, and come first. They apply to the API and to the WebSocket.
"""

from __future__ import annotations

import base64
import functools
import os
import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from scrapy.downloadermiddlewares.httpproxy import HttpProxyMiddleware

from parti_scraper.api import urls
from parti_scraper.exceptions import UsageError

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.settings import BaseSettings

_SECURE = {"https", "wss"}
_ACCEPTED = "http://host:port, https://host:port"


class Proxy(NamedTuple):
    """A proxy: its address, without the password, and user and password, empty where it asks for none."""

    url: str
    user: str = ""
    password: str = ""


def proxy_of(url: str) -> Proxy | None:
    """Return the proxy that the environment names for an address of HTTP or of a WebSocket; None: no proxy.

    Raises:
        UsageError: it is of a kind that cannot be used; the text never contains its password.
    """
    parts = urlsplit(url)
    proxies = getproxies_environment()
    kind = "https" if parts.scheme in _SECURE else "http"
    kind = kind if kind in proxies else "all"
    host = parts.hostname or ""
    # NO_PROXY may name a host with its port.
    names = (host, f"{host}:{parts.port}") if parts.port else (host,)
    if kind not in proxies or any(proxy_bypass(name, proxies) for name in names):
        return None
    return _parse(kind, proxies[kind])


def check_proxies(settings: BaseSettings) -> None:
    """Check the proxies of the environment that are for hosts of the API. Raises UsageError; it shows no password."""
    if settings.getbool("HTTPPROXY_ENABLED"):
        for base_url in urls.parse_base_urls(settings["PARTI_API_BASE_URLS"]):
            proxy_of(base_url)


class ProxyMiddleware(HttpProxyMiddleware):
    """Scrapy's, but `ALL_PROXY` applies too, and a proxy without a scheme is one of HTTP."""

    def __init__(self, auth_encoding: str | None = "latin-1") -> None:
        super().__init__(auth_encoding)
        # Reading the environment for each request would take too long.
        self._proxy_of = functools.cache(proxy_of)

    def process_request(self, request: Request) -> None:  # type: ignore[override]
        """Send the request through the proxy that the environment names for it, unless its meta names one."""
        if "proxy" in request.meta:
            super().process_request(request)
            return
        proxy = self._proxy_of(urls.origin_of(request.url))
        if proxy is None:
            self._set_proxy_and_creds(request, None, None, None)
            return
        login = f"{proxy.user}:{proxy.password}".encode(self.auth_encoding or "latin-1", "replace")
        creds = base64.b64encode(login) if proxy.user else None
        self._set_proxy_and_creds(request, proxy.url, creds, urlsplit(request.url).scheme)


def _parse(kind: str, text: str) -> Proxy:
    # Without a scheme it is one of HTTP, as in other programs.
    whole = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(whole)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise _error(kind, text) from None
    if not is_usable or re.search(r"[\s\x00-\x1f]", text):
        raise _error(kind, text)
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return Proxy(address, unquote(parts.username or ""), unquote(parts.password or ""))


def _error(kind: str, text: str) -> UsageError:
    """Return the error, which names the variable and shows only the scheme of its value."""
    names = (f"{kind}_proxy", f"{kind}_proxy".upper())
    name = next((name for name in names if os.environ.get(name)), names[1])
    scheme = re.match(r"[a-zA-Z][a-zA-Z0-9+.-]{0,20}://", text)
    if scheme:
        problem = "not a proxy that can be used"
        return UsageError.of("environment variable", name, problem, f"{scheme[0]}…", _ACCEPTED)
    return UsageError(
        f"environment variable `{name}`: not the address of a proxy; what it holds is not shown (accepted: {_ACCEPTED})"
    )
