"""Which host of the API is asked: the health of each, when one is left for another, and when all are given up.

A host that has served nothing in this run is left as soon as it cannot be reached; one that has served pages is tried a
few times more. One that fails otherwise is left after half of the patience. Then all are asked in turn until one serves
a page, or none has for as long as the patience, which is shorter if none could be reached from the start. Times are
passed in, in seconds of any one clock.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from parti_scraper.network.backoff import advice, listing, one_line
from parti_scraper.wording import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# How often a request is sent to a host that has served pages before it counts as unreachable; and how often it is
# answered with 404, although the route exists, before that counts as an empty result.
TRIES = 3
UNREACHABLE = frozenset({"connection refused", "host name not found"})
# Failures that say nothing about the host, so that another one would not help.
OF_ALL_HOSTS = frozenset({"no connection to the proxy", "site not open"})
_MOVED = frozenset({"HTTP 404", "HTTP 410"})
# After a single failure no host is given up, however long it took.
_MIN_FAILURES = 2
# While another host serves pages, one that was left is tried again only after a rest as long as it has been failing.
_SHORTEST_REST, _LONGEST_REST = 1.0, 300.0
# A wait of fewer seconds is not shown.
SHORTEST_SHOWN = 1.0
# Why a host that was left is used again.
_RETURN = "an earlier host may be back"


@dataclass
class Host:
    """The health of one host, as its answers show it.

    Only a page that could be parsed is a success: a host that answers everything with a web page and status 200 is as
    useless as a dead one.

    Attributes:
        served: it has served a page in this run.
        failures: failures since the last success, by kind.
        failing_since: time of the first of these; None if the last request succeeded.
        failed_at: time of the last one.
        last_failure: the kind of the last one.
        paused_until: nothing is sent before that time.
        rests_until: it is not tried again before that time while another host serves pages.
        detail: the text of the last failure.
    """

    served: bool = False
    failures: Counter[str] = field(default_factory=Counter)
    failing_since: float | None = None
    failed_at: float = -inf
    last_failure: str = ""
    paused_until: float = -inf
    rests_until: float = -inf
    detail: str = ""

    @property
    def is_well(self) -> bool:
        """Whether its last answer was a page."""
        return self.served and self.failing_since is None

    def succeeded(self) -> None:
        self.served = True
        self.failures.clear()
        self.failing_since = None
        self.rests_until = -inf

    def failed(self, kind: str, now: float, detail: str = "") -> None:
        if self.failing_since is None:
            self.failing_since = now
        self.failures[kind] += 1
        self.failed_at = now
        self.last_failure = kind
        self.detail = one_line(detail)

    def pause(self, until: float, now: float) -> float:
        """Send nothing before `until`; return how many seconds that adds to the pause."""
        longer = max(0.0, until - max(now, self.paused_until))
        self.paused_until = max(self.paused_until, until)
        return longer

    def rest(self, now: float) -> None:
        """Do not try it again for as long as it has been failing."""
        failing = 0.0 if self.failing_since is None else now - self.failing_since
        self.rests_until = now + min(max(failing, _SHORTEST_REST), _LONGEST_REST)


class Failover(NamedTuple):
    """A move from one host to another.

    Attributes:
        left: the host used before.
        reason: why it was left.
        is_new: the same move, for the same reason, was not made before in this run.
    """

    left: str
    reason: str
    is_new: bool


class Hosts:
    """The hosts of the API, of which one is used at a time; spider, middleware and download handler share them.

    Args:
        urls: scheme and host of each, in the order in which they are preferred.
        patience: seconds without a page of any host, since the first failure, after which all are given up.
        transport: how requests are sent: http or browser.
        patience_unreachable: the same while no host could even be reached; None: as `patience`.

    Attributes:
        urls: scheme and host of each, without repetitions.
        current: the host used now.
        given_up_at: when all were given up; None if they were not.
        failovers: each failover once, as `{"from": …, "to": …, "reason": …}`.
    """

    def __init__(
        self, urls: Sequence[str], patience: float, transport: str = "http", patience_unreachable: float | None = None
    ) -> None:
        self.urls = tuple(dict.fromkeys(urls))
        self.current = self.urls[0]
        self.given_up_at: float | None = None
        self.failovers: list[dict[str, str]] = []
        self._patience = patience
        self._patience_unreachable = patience_unreachable
        self._transport = transport
        self._hosts = {url: Host() for url in self.urls}
        # Since when no host has served a page, and which were left since then.
        self._failing_since: float | None = None
        self._left: set[str] = set()
        self._last_success = -inf
        # Whether the host used now has served a page since it was chosen, and since when it has been failing.
        self._is_proved = False
        self._current_failing_since: float | None = None

    def host(self, url: str) -> Host:
        """Return what is known of a host."""
        return self._hosts.setdefault(url, Host())

    def succeeded(self, url: str, now: float) -> None:
        """Record a page."""
        self.host(url).succeeded()
        self._last_success = now
        self._begin()
        if url == self.current:
            self._is_proved = True

    def failed(self, url: str, kind: str, attempt: int, now: float, detail: str = "") -> Failover | None:
        """Record a failure; return the failover that it causes, if any. All hosts may be given up instead.

        Args:
            url: the host.
            kind: of failure.
            attempt: how often the request has failed at this host in a row.
            now: the time.
            detail: the text of the failure.
        """
        self.host(url).failed(kind, now, detail)
        if self._failing_since is None:
            self._failing_since = now
        if url == self.current and self._current_failing_since is None:
            self._current_failing_since = now
        if self.given_up_at is not None:
            return None
        if self._is_hopeless(kind):
            self.given_up_at = now
        elif url == self.current and self._is_to_be_left(kind, attempt, now):
            self.host(url).rest(now)
            self._left.add(url)
            return self._move(min((other for other in self.urls if other != url), key=self._rank), kind)
        return None

    def begin_round(self, now: float) -> Failover | None:
        """Begin a new round of an endless run: try an earlier host again, or all if they were given up.

        Returns:
            the failover, if another host is used from now on.
        """
        if self.given_up_at is not None:
            self._begin()
            return self._move(min(self.urls, key=self._rank), _RETURN)
        if self._failing_since is None:
            earlier = self.urls[: self.urls.index(self.current)]
            url = next((url for url in earlier if self.host(url).rests_until <= now), self.current)
            return self._move(url, _RETURN)
        return None

    def may_be_sent_at(self, wait: float) -> float:
        """Return when the current host may be asked: `wait` seconds after it failed last, or when the patience ends."""
        host = self.host(self.current)
        if host.is_well:
            return -inf
        at, end = host.failed_at + wait, self._end_if_unreachable()
        # Otherwise the last wait could be as long as all others together.
        return at if end is None else min(at, max(end, host.failed_at))

    def waits_for(self, not_before: float, now: float) -> str | None:
        """Return how long nothing is sent, and why, such as `12 s: HTTP 429 from api.example`; None: not for long.

        Args:
            not_before: when the first waiting request may be sent, apart from a pause of the host.
            now: the time.
        """
        host = self.host(self.current)
        # While the host serves other requests, a single one that waits does not matter.
        until = host.paused_until if host.failing_since is None else max(not_before, host.paused_until)
        if until - now < SHORTEST_SHOWN:
            return None
        return f"{until - now:.0f} s: {host.last_failure} from {urlsplit(self.current).netloc}"

    def is_exhausted(self, since: float) -> bool:
        """Return whether other requests have succeeded since this one failed first: then the cause is the request.

        If no other succeeds, it is retried until the patience ends.
        """
        return self._last_success >= since

    def explain(self) -> str:
        """Return in one sentence why all were given up, and what to try."""
        failed = {url: host for url in self.urls if (host := self.host(url)).failures}
        reasons = "; ".join(
            f"gave up on {url} after {number_of(host.failures.total(), 'failures')} in "
            f"{(self.given_up_at or 0.0) - (host.failing_since or 0.0):.0f} s without a single page "
            f"({listing(host.failures)}{f'; the last: {host.detail}' if host.detail else ''})"
            for url, host in failed.items()
        )
        kinds = sum((host.failures for host in failed.values()), Counter[str]())
        return f"{reasons}; {advice(kinds, self._transport)}"

    def as_json(self, now: float) -> dict[str, Any]:
        """Return the state for another process: the current host, those that served, and how long others rest."""
        failing = {url: host for url, host in self._hosts.items() if host.failing_since is not None}
        return {
            "current": self.current,
            "served": [url for url, host in self._hosts.items() if host.served],
            "rests": {url: max(host.rests_until - now, 0.0) for url, host in failing.items()},
        }

    def restore(self, noted: Mapping[str, Any] | None, now: float, failovers: Sequence[Mapping[str, str]] = ()) -> None:
        """Continue from what `as_json` returned, as far as the hosts are the same; None: nothing to continue from.

        Args:
            noted: what it returned.
            now: the time.
            failovers: those of the earlier process.
        """
        self.failovers = list(map(dict, failovers))
        if noted is None:
            return
        for url in self.urls:
            host = self.host(url)
            host.served = url in noted["served"]
            if url in noted["rests"]:
                host.failing_since, host.rests_until = now, now + noted["rests"][url]
        if noted["current"] in self.urls:
            self._choose(noted["current"])

    def _begin(self) -> None:
        self.given_up_at = self._failing_since = self._current_failing_since = None
        self._left.clear()

    def _move(self, url: str, reason: str) -> Failover | None:
        """Use a host from now on; return the failover, or None if it is used already."""
        left = self.current
        if url == left:
            return None
        self._choose(url)
        failover = {"from": left, "to": url, "reason": reason}
        is_new = failover not in self.failovers
        if is_new:
            self.failovers.append(failover)
        return Failover(left, reason, is_new)

    def _choose(self, url: str) -> None:
        if url != self.current:
            self.current = url
            self._is_proved = False
            self._current_failing_since = None

    def _is_hopeless(self, kind: str) -> bool:
        """Return whether every host has failed since the patience ended."""
        assert self._failing_since is not None  # noqa: S101 - `failed` sets it
        end = self._end_if_unreachable()
        if end is None:
            end = self._failing_since + self._patience
        hosts = [self.host(url) for url in ((self.current,) if kind in OF_ALL_HOSTS else self.urls)]
        return all(host.failed_at >= end and host.failures.total() >= _MIN_FAILURES for host in hosts)

    def _end_if_unreachable(self) -> float | None:
        """Return when the patience ends if every host was asked and none was ever reached, else None."""
        if self._failing_since is None or self._patience_unreachable is None:
            return None
        hosts = [self.host(url) for url in self.urls]
        if any(host.served or not host.failures or host.failures.keys() - UNREACHABLE for host in hosts):
            return None
        return self._failing_since + self._patience_unreachable

    def _is_to_be_left(self, kind: str, attempt: int, now: float) -> bool:
        if kind in OF_ALL_HOSTS or len(self.urls) == 1:
            return False
        assert self._failing_since is not None  # noqa: S101 - `failed` sets both
        assert self._current_failing_since is not None  # noqa: S101
        another_is_well = any(self.host(url).is_well for url in self.urls if url != self.current)
        if another_is_well and not self._is_proved:
            # This one was only tried again.
            return True
        if self.current in self._left or now - self._failing_since >= self._patience:
            return True
        has_served = self.host(self.current).served
        if kind in UNREACHABLE:
            return attempt >= (TRIES if has_served else 1)
        another_has_served = any(self.host(url).served for url in self.urls if url != self.current)
        if kind in _MOVED or (another_has_served and not has_served):
            return attempt >= TRIES
        return now - self._current_failing_since >= self._patience / 2

    def _rank(self, url: str) -> tuple[bool, bool, float]:
        """Return a sort key: the host with the least is asked next. Each is asked once before any is asked again."""
        host, was_left = self.host(url), url in self._left
        return not host.is_well, was_left, host.failed_at if was_left else not host.served
