"""Which proxy of the environment a request goes through: `HTTPS_PROXY`, `HTTP_PROXY` and `ALL_PROXY`, less `NO_PROXY`.

Their names may be in small letters too, which count first. They hold for the API and for the WebSocket.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from parti_scraper.exceptions import UsageError

_SECURE = {"https", "wss"}
_ACCEPTED = "http://host:port, https://host:port"


class Proxy(NamedTuple):
    """A proxy: its address, which holds no password, and what it wants to be told; empty where that is nothing."""

    url: str
    user: str = ""
    password: str = ""


def proxy_of(url: str) -> Proxy | None:
    """Return the proxy that the environment names for an address of HTTP or of a WebSocket; None: straight there.

    Raises:
        UsageError: it is of a kind that cannot be used; the text never holds its password.
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


def _parse(kind: str, text: str) -> Proxy:
    # Without a scheme it is one of HTTP, as other programs have it.
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
    """Return the error, which names the variable, and shows no more of it than the scheme."""
    names = (f"{kind}_proxy", f"{kind}_proxy".upper())
    name = next((name for name in names if os.environ.get(name)), names[1])
    scheme = re.match(r"[a-zA-Z][a-zA-Z0-9+.-]{0,20}://", text)
    if scheme:
        problem = "not a proxy that can be used"
        return UsageError.of("environment variable", name, problem, f"{scheme[0]}…", _ACCEPTED)
    return UsageError(
        f"environment variable `{name}`: not the address of a proxy; what it holds is not shown (accepted: {_ACCEPTED})"
    )
