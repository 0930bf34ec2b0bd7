"""Addresses: where they lead, and whether the settings that hold some are right."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from parti_scraper.api.routes import BASE_URLS, SITE_URL, WS_URL
from parti_scraper.exceptions import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def parse_base_urls(text: str) -> tuple[str, ...]:
    """Split and check the value of `PARTI_API_BASE_URLS`.

    Raises:
        UsageError: it is empty, or a part of it is not `http(s)://host[:port]`.
    """
    urls = tuple(part.strip().rstrip("/") for part in text.split(",") if part.strip())
    for url in urls or ("",):
        if not _is_base_url(url):
            accepted = f"comma-separated, such as {BASE_URLS[0]}"
            raise UsageError.of("setting", "PARTI_API_BASE_URLS", _wrong_base_url(url), url, accepted)
    return urls


def parse_ws_urls(text: str) -> tuple[str, ...]:
    """Split and check the value of `PARTI_WS_URL`.

    Raises:
        UsageError: it is empty, or a part of it is not `ws(s)://host[:port][/path]`.
    """
    urls = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for url in urls or ("",):
        if not _is_ws_url(url):
            raise UsageError.of(
                "setting", "PARTI_WS_URL", "not the address of a WebSocket", url, f"comma-separated, such as {WS_URL}"
            )
    return urls


def check_site_url(url: str) -> str:
    """Return the value of `PARTI_SITE_URL`. Raises UsageError where it is not `http(s)://host[:port]`."""
    base_url = url.strip().rstrip("/")
    if not _is_base_url(base_url):
        raise UsageError.of("setting", "PARTI_SITE_URL", _wrong_base_url(url), url, f"such as {SITE_URL}")
    return base_url


def check_same_machine(settings: Mapping[str, Sequence[str]]) -> None:
    """Check that API, WebSocket and site are all on this machine or all elsewhere: made-up and real data must not mix.

    Args:
        settings: the addresses in each setting.

    Raises:
        UsageError: they are not.
    """
    first = ""
    for name, urls in settings.items():
        here = any(map(is_loopback, urls))
        if here != all(map(is_loopback, urls)):
            problem, accepted = "some on this machine, others elsewhere", "all on this machine, or all elsewhere"
            raise UsageError.of("setting", name, problem, ",".join(urls), accepted)
        first = first or name
        if here != any(map(is_loopback, settings[first])):
            where, other = ("on this machine", "elsewhere") if here else ("elsewhere", "on this machine")
            raise UsageError.of(
                "setting",
                name,
                f"{where}, where {first} is {other}",
                ",".join(urls),
                f"both on this machine, or both elsewhere; set {name} or {first}",
            )


def origin_of(url: str) -> str:
    """Return scheme, host and port of a URL, without the default port of the scheme."""
    parts = urlsplit(url)
    return _origin_of(parts.scheme, parts.netloc)


# A page of the site requests thousands of URLs of the same few hosts.
@lru_cache
def _origin_of(scheme: str, netloc: str) -> str:
    parts = SplitResult(scheme, netloc, "", "", "")
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    implied = {"http": 80, "https": 443, "ws": 80, "wss": 443}.get(parts.scheme)
    return f"{parts.scheme}://{host}" + ("" if parts.port in {None, implied} else f":{parts.port}")


def is_loopback(base_url: str) -> bool:
    """Return whether the host is this machine: requests to such a server need not be slow."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_ws_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"ws", "wss"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return valid and not re.search(r"[\s\x00-\x1f]", url)


def _wrong_base_url(url: str) -> str:
    """Return what is wrong with an address. The user's name is not shown, so it is said that there is one."""
    return "a user's name, not only a scheme and host" if "@" in url else "not a scheme and host"


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port_is_valid = parts.port != 0  # reading it raises where it is no port
    except ValueError:
        return False
    if re.search(r"\s", url):
        return False
    rest = parts.path or parts.query or parts.fragment or parts.username or parts.password
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and port_is_valid and not rest
