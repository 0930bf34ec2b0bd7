"""Which host of the API is asked: how each of them does, when one is left for another, and when all are given up.

A host that has served nothing in this run is left as soon as it cannot be reached; one that has is asked a few times
more. One that is in trouble is left after half of the patience. From then on they are asked by turns, until one serves
a page, or none has for as long as the patience lasts. Pure: times are passed in, in seconds of any one clock.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

from parti_scraper.network.backoff import advice, listing, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# How often a request is sent to a host that has served pages before the host counts as gone; how often it is answered
# with 404, though the route is there, before that means that there is nothing.
TRIES = 3
UNREACHABLE = frozenset({"connection refused", "host name not found"})
# What no other host would do better.
OF_ALL_HOSTS = frozenset({"no connection to the proxy", "site not open"})
_MOVED = frozenset({"HTTP 404", "HTTP 410"})
# A single failure gives nothing up, however long it took.
_MIN_FAILURES = 2
# A host that was left is not come back to sooner while another one serves pages: for as long as it has been failing.
_SHORTEST_REST, _LONGEST_REST = 1.0, 300.0


@dataclass
class Host:
    """What the requests to one host say about it.

    A success is a page that could be parsed, and nothing less: a host that answers everything with a web page
    and status 200 is as good as dead.

    Attributes:
        served: it has had a success in this run.
        failures: failures since the last success, by kind.
        failing_since: when the first of these was; None where the last request succeeded.
        failed_at: when the last one was.
        paused_until: before that moment nothing is to be sent.
        rests_until: before that moment it is not come back to while another one serves pages.
        detail: the text of the last failure.
    """

    served: bool = False
    failures: Counter[str] = field(default_factory=Counter)
    failing_since: float | None = None
    failed_at: float = -inf
    paused_until: float = -inf
    rests_until: float = -inf
    detail: str = ""

    @property
    def is_well(self) -> bool:
        """Whether the last that was heard of it was a page."""
        return self.served and self.failing_since is None

    def succeeded(self) -> None:
        """Take note of a page."""
        self.served = True
        self.failures.clear()
        self.failing_since = None
        self.rests_until = -inf

    def failed(self, kind: str, now: float, detail: str = "") -> None:
        """Take note of a failure."""
        if self.failing_since is None:
            self.failing_since = now
        self.failures[kind] += 1
        self.failed_at = now
        self.detail = one_line(detail)

    def pause(self, until: float, now: float) -> float:
        """Send nothing before `until`; return by how many seconds that is longer than before."""
        longer = max(0.0, until - max(now, self.paused_until))
        self.paused_until = max(self.paused_until, until)
        return longer

    def rest(self, now: float) -> None:
        """Leave it alone for as long as it has been failing."""
        failing = 0.0 if self.failing_since is None else now - self.failing_since
        self.rests_until = now + min(max(failing, _SHORTEST_REST), _LONGEST_REST)


class Hosts:
    """The hosts of the API, of which one is used at a time.

    Args:
        urls: scheme and host of each, in the order in which they are preferred.
        patience: seconds without a page of any host, from the first failure on, after which all are given up.
        transport: how requests are sent: http or browser.

    Attributes:
        current: the host used now.
        given_up_at: when all were given up; None where they were not.
    """

    def __init__(self, urls: Sequence[str], patience: float, transport: str = "http") -> None:
        self.urls = tuple(dict.fromkeys(urls))
        self.current = self.urls[0]
        self.given_up_at: float | None = None
        self._patience = patience
        self._transport = transport
        self._hosts = {url: Host() for url in self.urls}
        # Since when no host has served a page, and which were left since then.
        self._failing_since: float | None = None
        self._left: set[str] = set()
        self._last_success = -inf
        # Whether the host used now has served a page since it was chosen, and since when it fails.
        self._is_proved = False
        self._current_failing_since: float | None = None

    def host(self, url: str) -> Host:
        """Return what is known of a host."""
        return self._hosts.setdefault(url, Host())

    def succeeded(self, url: str, now: float) -> None:
        """Take note of a page."""
        self.host(url).succeeded()
        self._last_success = now
        self._begin()
        if url == self.current:
            self._is_proved = True

    def failed(self, url: str, kind: str, attempt: int, now: float, detail: str = "") -> None:
        """Take note of a failure; the host may be left for it, or all of them given up.

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
            return
        if self._is_hopeless(kind):
            self.given_up_at = now
        elif url == self.current and self._is_to_be_left(kind, attempt, now):
            self.host(url).rest(now)
            self._left.add(url)
            self._choose(min((other for other in self.urls if other != url), key=self._rank))

    def begin_round(self, now: float) -> None:
        """Begin something new in a run without end: come back to an earlier host, or to all that were given up."""
        if self.given_up_at is not None:
            self._begin()
            self._choose(min(self.urls, key=self._rank))
        elif self._failing_since is None:
            earlier = self.urls[: self.urls.index(self.current)]
            self._choose(next((url for url in earlier if self.host(url).rests_until <= now), self.current))

    def may_be_sent_at(self, wait: float) -> float:
        """Return when the host used now may be asked, `wait` seconds after it failed last."""
        host = self.host(self.current)
        return -inf if host.is_well else host.failed_at + wait

    def is_exhausted(self, since: float) -> bool:
        """Tell whether others have succeeded since a request failed first: then it is the request that is at fault.

        Where no other succeeds, it is for the patience to end it.
        """
        return self._last_success >= since

    def explain(self) -> str:
        """Say in one sentence why all were given up, and what to try."""
        failed = {url: host for url in self.urls if (host := self.host(url)).failures}
        reasons = "; ".join(
            f"gave up on {url} after {host.failures.total()} failures in "
            f"{(self.given_up_at or 0.0) - (host.failing_since or 0.0):.0f} s without a single page "
            f"({listing(host.failures)}{f'; the last: {host.detail}' if host.detail else ''})"
            for url, host in failed.items()
        )
        kinds = sum((host.failures for host in failed.values()), Counter[str]())
        return f"{reasons}; {advice(kinds, self._transport)}"

    def as_json(self, now: float) -> dict[str, Any]:
        """Return what another process goes on from: the host used, those that served, and how long others rest."""
        failing = {url: host for url, host in self._hosts.items() if host.failing_since is not None}
        return {
            "current": self.current,
            "served": [url for url, host in self._hosts.items() if host.served],
            "rests": {url: max(host.rests_until - now, 0.0) for url, host in failing.items()},
        }

    def restore(self, noted: Mapping[str, Any], now: float) -> None:
        """Go on from there, as far as the hosts are still the same."""
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

    def _choose(self, url: str) -> None:
        if url != self.current:
            self.current = url
            self._is_proved = False
            self._current_failing_since = None

    def _is_hopeless(self, kind: str) -> bool:
        """Tell whether every host has failed after the patience had run out: one that served by then was found."""
        assert self._failing_since is not None  # noqa: S101 - `failed` sets it
        end = self._failing_since + self._patience
        hosts = [self.host(url) for url in ((self.current,) if kind in OF_ALL_HOSTS else self.urls)]
        return all(host.failed_at >= end and host.failures.total() >= _MIN_FAILURES for host in hosts)

    def _is_to_be_left(self, kind: str, attempt: int, now: float) -> bool:
        if kind in OF_ALL_HOSTS or len(self.urls) == 1:
            return False
        assert self._failing_since is not None  # noqa: S101 - `failed` sets both
        assert self._current_failing_since is not None  # noqa: S101
        another_is_well = any(self.host(url).is_well for url in self.urls if url != self.current)
        if another_is_well and not self._is_proved:
            # It was only looked whether this one is back.
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
        """Return a key by which the host to be asked next is the least: no host is asked twice before all were once."""
        host, was_left = self.host(url), url in self._left
        return not host.is_well, was_left, host.failed_at if was_left else not host.served
