"""The settings of retries and failover, each parsed once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from scrapy import Request

from parti_scraper.api import routes, urls
from parti_scraper.api.times import parse_length
from parti_scraper.exceptions import UsageError, did_you_mean
from parti_scraper.network.hosts import Hosts
from parti_scraper.network.token import token_from

if TYPE_CHECKING:
    from scrapy.settings import BaseSettings

# Seconds without a page before all hosts are given up; if none could be reached from the start, the run ends within
# ten seconds.
_PATIENCE, _PATIENCE_UNREACHABLE = 50.0, 8.0
# Longest wait before the first retry, in seconds; a server on this machine needs no long waits.
_DELAY, _LOOPBACK_DELAY = 0.5, 0.005
_TRANSPORTS = ("http", "browser")


@dataclass(frozen=True)
class RetrySettings:
    """How long to try, and how long to wait in between.

    Attributes:
        patience: seconds without a page of any host, after which all are given up.
        patience_unreachable: the same if none could be reached from the start; None: as `patience`.
        delay: longest wait before a first retry, in seconds; None: it depends on the host.
        transport: how requests are sent: http or browser.
    """

    patience: float
    patience_unreachable: float | None
    delay: float | None
    transport: str

    @classmethod
    def read(cls, settings: BaseSettings) -> Self:
        """Read the settings. Raises UsageError."""
        patience = _seconds(settings, "PARTI_RETRY_PATIENCE")
        delay = _seconds(settings, "PARTI_RETRY_DELAY")
        if patience is None:
            return cls(_PATIENCE, _PATIENCE_UNREACHABLE, delay, _transport(settings))
        return cls(patience, None, delay, _transport(settings))

    def delay_at(self, url: str) -> float:
        """Return the longest wait before a first retry at a server, in seconds."""
        if self.delay is not None:
            return self.delay
        return _LOOPBACK_DELAY if urls.is_loopback(url) else _DELAY


def check_settings(settings: BaseSettings) -> None:
    """Check the settings of the middlewares. Raises UsageError, whose text never contains the token."""
    token_from(settings)
    RetrySettings.read(settings)


def hosts_from(settings: BaseSettings) -> Hosts:
    """Return the hosts of the API. Raises UsageError."""
    base_urls = urls.parse_base_urls(settings["PARTI_API_BASE_URLS"])
    read = RetrySettings.read(settings)
    return Hosts(list(map(_as_sent, base_urls)), read.patience, read.transport, read.patience_unreachable)


def _as_sent(base_url: str) -> str:
    """Return the base URL as in the URLs of requests: Scrapy normalizes host names."""
    return routes.base_of(Request(routes.categories_url(base_url)).url) or base_url


def _transport(settings: BaseSettings) -> str:
    transport = str(settings.get("PARTI_TRANSPORT") or _TRANSPORTS[0])
    if transport not in _TRANSPORTS:
        accepted, hint = ", ".join(_TRANSPORTS), did_you_mean(transport, _TRANSPORTS)
        raise UsageError.of("setting", "PARTI_TRANSPORT", "not one of the choices", transport, accepted, hint=hint)
    return transport


def _seconds(settings: BaseSettings, name: str) -> float | None:
    """Return the seconds of a setting that is a length of time, or 0; None if it is empty. Raises UsageError."""
    text = str(settings.get(name) or "")
    if not text:
        return None
    if re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text, re.ASCII):
        return float(text)
    try:
        return parse_length("setting", name, text)
    except UsageError:
        raise UsageError.of("setting", name, "not a number of seconds", text, "such as 0.5 or 60") from None
