"""When to try again: back-off, `Retry-After`, and how often a request has failed.

The time and the random number are passed in. Times are seconds of any one clock.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import inf

# The longest pause, in seconds, that a Retry-After can ask for: rate limits count requests by the minute.
MAX_RETRY_AFTER = 60.0
# Back-off grows up to this multiple of the first delay.
_MAX_GROWTH = 16
_BY_BROWSER = ", or through a browser with -s PARTI_TRANSPORT=browser"
_DETAIL_SHOWN = 200
# What to try, by the most frequent kind of failure.
_ADVICE = (
    (r"HTTP 429", "the server wants fewer requests: try again later, or with a larger DOWNLOAD_DELAY"),
    (r"HTTP 4(04|10)", "it does not have this route: set PARTI_API_BASE_URLS to where the API is now"),
    (r"HTTP \d+", "the server is in trouble: try again later"),
    (r"challenge page", "the server takes this client for a robot: try again later or from another network"),
    (r"site not open", "check the setting PARTI_SITE_URL"),
    (r"answer", "what arrives is not whole: try again later, or with a smaller `limit`"),
    (r"no connection to the proxy", "check the proxy that the environment names (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY)"),
    (r"", "check the network, and the setting PARTI_API_BASE_URLS"),
)


def backoff_ceiling(attempt: int, delay: float) -> float:
    """Return the longest wait before a retry: `delay` before the first, doubled with each up to 16 times.

    Args:
        attempt: which retry, from 1.
        delay: seconds.
    """
    # Not 2 ** attempt alone, which no float can hold after a thousand failures.
    return delay * min(_MAX_GROWTH, 2.0 ** min(attempt - 1, 10))


def full_jitter(attempt: int, delay: float, random: float) -> float:
    """Return the wait before a retry of one request: anything up to the ceiling, so that retries spread.

    Args:
        attempt: which retry, from 1.
        delay: seconds.
        random: from 0 to 1.
    """
    return backoff_ceiling(attempt, delay) * random


def equal_jitter(attempt: int, delay: float, random: float) -> float:
    """Return the pause of a whole host, arguments as in `full_jitter`: at least half the ceiling."""
    return backoff_ceiling(attempt, delay) * (1 + random) / 2


def parse_retry_after(value: str, now: float) -> float | None:
    """Return the seconds that a `Retry-After` asks to wait, at most MAX_RETRY_AFTER; None if it is invalid.

    Args:
        value: a number of seconds, or a date in any of the three forms of RFC 9110.
        now: Unix seconds.
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        # Not int(), which takes no more than 4,300 digits.
        return min(float(value), MAX_RETRY_AFTER)
    # Without a weekday it is none of the three forms, and the parser below accepts nearly anything as a date.
    if not re.match(r"[A-Z][a-z]{2}", value):
        return None
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    moment = date if date.tzinfo else date.replace(tzinfo=UTC)
    return min(max(moment.timestamp() - now, 0.0), MAX_RETRY_AFTER)


@dataclass(frozen=True)
class Attempts:
    """How often a request has failed, and at which hosts.

    Attributes:
        since: when it failed first.
        kinds: how often it failed, by kind.
        not_before: when it may be sent again.
        by_host: how often it failed, by host.
        host: where it failed last.
        in_a_row: how often it failed there in a row, since the route was last seen to exist.
        contradicted: how often in a row the answer was that there is no such route, although there is.
    """

    since: float
    kinds: Counter[str] = field(default_factory=Counter)
    not_before: float = -inf
    by_host: Counter[str] = field(default_factory=Counter)
    host: str = ""
    in_a_row: int = 0
    contradicted: int = 0

    @property
    def number(self) -> int:
        """How often it failed."""
        return self.kinds.total()

    def failed(self, kind: str, host: str) -> Attempts:
        """Return the same with one more failure."""
        in_a_row = self.in_a_row + 1 if host == self.host else 1
        by_host = self.by_host + Counter([host])
        return Attempts(self.since, self.kinds + Counter([kind]), self.not_before, by_host, host, in_a_row)

    def was_contradicted(self, kind: str, host: str) -> Attempts:
        """Return the same with one more answer that there is no such route, although there is."""
        contradicted = self.contradicted + 1 if host == self.host else 1
        return replace(self.failed(kind, host), in_a_row=0, contradicted=contradicted)


def listing(kinds: Counter[str]) -> str:
    """Return the kinds of failure, the most frequent first, such as `3 × HTTP 500, 1 × timeout`."""
    return ", ".join(f"{number} × {kind}" for kind, number in kinds.most_common())


def advice(kinds: Counter[str], transport: str = "http") -> str:
    """Return what to try against the most frequent kind of failure, where requests are sent by `transport`."""
    worst = kinds.most_common(1)[0][0] if kinds else ""
    text = next(text for pattern, text in _ADVICE if re.match(pattern, worst))
    return text + (_BY_BROWSER if worst == "challenge page" and transport == "http" else "")


def one_line(text: str) -> str:
    """Return the text on one line, cut to a readable length."""
    text = " ".join(text.split())
    return text if len(text) <= _DETAIL_SHOWN else text[:_DETAIL_SHOWN] + "…"


def reconnect_wait(attempt: int, delay: float, random: float) -> float:
    """Return the wait before connecting again, arguments as in `full_jitter`; the ceiling doubles up to 64 times."""
    return delay * 2.0 ** min(attempt - 1, 6) * random
