"""When to try again, and when no longer: back-off, `Retry-After`, and the state of a host.

Pure: the time and the random number are passed in. Times are seconds of any one clock.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import inf

# The longest pause that a server's Retry-After is granted: what counts requests counts them by the minute.
MAX_RETRY_AFTER = 60.0
# Back-off doubles up to so many times the first delay.
_MAX_GROWTH = 16
# So many failures at the least give a host up, however long they took.
_MIN_FAILURES = 2
# A host that was given up gets another chance after so long: meant for runs that take snapshots for days.
SECOND_CHANCE_AFTER = 300.0
_BY_BROWSER = ", or through a browser with -s PARTI_TRANSPORT=browser"
_DETAIL_SHOWN = 200
# What to try, by the kind of failure that was met most.
_ADVICE = (
    (r"HTTP 429", "the server wants fewer requests: try again later, or with a larger DOWNLOAD_DELAY"),
    (r"HTTP \d+", "the server is in trouble: try again later"),
    (r"challenge page", "the server takes this client for a robot: try again later or from another network"),
    (r"site not open", "check the setting PARTI_SITE_URL"),
    (r"answer", "what arrives is not whole: try again later, or with a smaller `limit`"),
    (r"", "check the network, and the setting PARTI_API_BASE_URLS"),
)


def backoff_ceiling(attempt: int, delay: float) -> float:
    """Return the longest wait before a retry: `delay` before the first, doubled with each up to 16 times.

    Args:
        attempt: which retry, from 1.
        delay: seconds.
    """
    # Not 2 ** attempt alone, which no float holds after a thousand failures.
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
    """Return the pause of a whole host, arguments as in `full_jitter`: half the ceiling at the least."""
    return backoff_ceiling(attempt, delay) * (1 + random) / 2


def parse_retry_after(value: str, now: float) -> float | None:
    """Return the seconds that a `Retry-After` asks to wait, at most MAX_RETRY_AFTER; None where it is nonsense.

    Args:
        value: a number of seconds, or a date in any of the three forms of RFC 9110.
        now: Unix seconds.
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        # Not int(), which takes no more than 4,300 digits.
        return min(float(value), MAX_RETRY_AFTER)
    # Without a weekday it is none of the three forms, and the parser below takes nearly anything for a date.
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
    """What has become of a request so far.

    Attributes:
        since: when it failed first.
        kinds: how often it failed, by kind.
        not_before: when it may be sent again.
    """

    since: float
    kinds: Counter[str] = field(default_factory=Counter)
    not_before: float = -inf

    @property
    def number(self) -> int:
        """How often it failed."""
        return self.kinds.total()

    def failed(self, kind: str, not_before: float) -> Attempts:
        """Return the record with one more failure."""
        return Attempts(self.since, self.kinds + Counter([kind]), not_before)


@dataclass
class HostHealth:
    """What the requests to one host say about it.

    A success is a page that could be parsed, and nothing less: a host that answers everything with a web page
    and status 200 is as good as dead.

    Attributes:
        patience: seconds without a success, from the first failure on, after which the host is given up.
        transport: how requests are sent: http or browser.
        failures: failures since the last success, by kind.
        failing_since: when the first of these was; None where the last request succeeded.
        last_success: when.
        paused_until: before that moment nothing is to be sent.
        given_up_at: when it was given up; None where it was not.
        detail: the text of the last failure.
    """

    patience: float
    transport: str = "http"
    failures: Counter[str] = field(default_factory=Counter)
    failing_since: float | None = None
    last_success: float = -inf
    paused_until: float = -inf
    given_up_at: float | None = None
    detail: str = ""

    def succeeded(self, now: float) -> None:
        """Take note of a page."""
        self.last_success = now
        if self.given_up_at is None:
            self.failures.clear()
            self.failing_since = None

    def failed(self, kind: str, now: float, detail: str = "") -> None:
        """Take note of a failure; it may be the one that gives the host up."""
        if self.failing_since is None:
            self.failing_since = now
        self.failures[kind] += 1
        self.detail = one_line(detail)
        enough = self.failures.total() >= _MIN_FAILURES and now - self.failing_since >= self.patience
        if enough and self.given_up_at is None:
            self.given_up_at = now

    def is_given_up(self, now: float) -> bool:
        """Tell whether nothing is to be sent any more."""
        if self.given_up_at is None:
            return False
        if now - self.given_up_at < SECOND_CHANCE_AFTER:
            return True
        self.given_up_at = self.failing_since = None
        self.failures.clear()
        return False

    def pause(self, until: float, now: float) -> float:
        """Send nothing before `until`; return by how many seconds that is longer than before."""
        longer = max(0.0, until - max(now, self.paused_until))
        self.paused_until = max(self.paused_until, until)
        return longer

    def is_exhausted(self, attempts: Attempts, most: int) -> bool:
        """Tell whether a request has failed so often, while others succeeded, that it will never do.

        Where no other succeeds, it is for the host's patience to end it.
        """
        return attempts.number > most and self.last_success >= attempts.since

    def explain(self, host: str) -> str:
        """Say in one sentence why the host was given up, and what to try."""
        seconds = (self.given_up_at or 0.0) - (self.failing_since or 0.0)
        number = self.failures.total()
        detail = f"; the last: {self.detail}" if self.detail else ""
        return (
            f"gave up on {host} after {number} failures in {seconds:.0f} s without a single page "
            f"({listing(self.failures)}{detail}); {advice(self.failures, self.transport)}"
        )


def listing(kinds: Counter[str]) -> str:
    """Return the kinds of failure, the most frequent first, such as `3 × HTTP 500, 1 × timeout`."""
    return ", ".join(f"{number} × {kind}" for kind, number in kinds.most_common())


def advice(kinds: Counter[str], transport: str = "http") -> str:
    """Return what to try against the kind of failure that was met most, where requests are sent by `transport`."""
    worst = kinds.most_common(1)[0][0] if kinds else ""
    text = next(text for pattern, text in _ADVICE if re.match(pattern, worst))
    return text + (_BY_BROWSER if worst == "challenge page" and transport == "http" else "")


def one_line(text: str) -> str:
    """Return the text without line breaks, and without what is too much to read."""
    text = " ".join(text.split())
    return text if len(text) <= _DETAIL_SHOWN else text[:_DETAIL_SHOWN] + "…"


# A connection that held for so long, in seconds, or brought a message, was a good one.
_HELD = 30.0


@dataclass
class Reconnection:
    """When to connect again to a server that is to be listened to.

    Attributes:
        delay: longest wait before the first attempt, in seconds; doubled with each up to 64 times.
        attempts: failures in a row.
    """

    delay: float
    attempts: int = 0
    _connected_at: float | None = None

    def connected(self, now: float) -> None:
        """Take note of a connection."""
        self._connected_at = now

    def heard(self) -> None:
        """Take note of a message."""
        self.attempts = 0

    def lost(self, now: float, random: float, retry_after: float | None = None) -> float:
        """Return how long to wait after a connection was lost or did not come about, in seconds.

        Args:
            now: of any one clock.
            random: from 0 to 1.
            retry_after: what the server asks for.
        """
        if self._connected_at is not None and now - self._connected_at >= _HELD:
            self.attempts = 0
        self._connected_at = None
        self.attempts += 1
        wait = self.delay * 2.0 ** min(self.attempts - 1, 6) * random
        return max(wait, retry_after or 0.0)
