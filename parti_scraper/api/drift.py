"""What has changed on the site and is not yet known here, by the requests of the site's own page.

It compares calls with a configuration. Which routes and parameters are known is in `routes`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus, urlsplit

from parti_scraper.api import registry, urls
from parti_scraper.api.build import Context
from parti_scraper.exceptions import PageError
from parti_scraper.redact import redact_url

if TYPE_CHECKING:
    from collections.abc import Iterable

    from parti_scraper.api.routes import Route

HTTP, WEBSOCKET = "http", "websocket"
# How many names of a kind are reported, and how many are remembered: a site may make them up at random.
_MOST, _MOST_REMEMBERED = 50, 1_000
_LONGEST_NAME = 300
# In the message with which a page subscribes to channels that go live.
_SUBSCRIPTION = "NewChannelLiveNotify"
# Chromium's error if the page cancelled a request, or was left.
_ABORTED = "net::ERR_ABORTED"


@dataclass(slots=True)
class Call:
    """A request that a page of the site made, or a WebSocket that it opened.

    Attributes:
        method: such as GET.
        url: as it was sent, with its secrets: it must not be stored.
        resource: `http` or `websocket`.
        status: of the answer, 101 of a WebSocket; None if there was none.
        dropped: the page did not wait for the answer.
        is_json: whether the answer claims to be JSON.
        subscribed: of a WebSocket: the page subscribed to channels that go live.
        unknown_fields: names of fields that no item declares, and how many of its records have them.
        problem: why the answer cannot be used, a part of a sentence.
    """

    method: str
    url: str
    resource: str = HTTP
    status: int | None = None
    dropped: bool = False
    is_json: bool = False
    subscribed: bool = False
    unknown_fields: Counter[str] = field(default_factory=Counter)
    problem: str = ""

    @property
    def route(self) -> str | None:
        """The name of its route, whatever the host; None if this project knows no such route."""
        if self.resource == WEBSOCKET:
            return WEBSOCKET if self.subscribed else None
        source = registry.source_of(self.url) if self.method == "GET" else None
        return source.route.name if source else None

    @property
    def failure(self) -> str:
        """What was wrong with the answer; empty if nothing was."""
        if self.status is None:
            return "no answer"
        return self.problem if self.status < 400 else f"HTTP {self.status}"

    def answered(self, status: int | None, media_type: str = "", error: str = "", *, is_withheld: bool = False) -> None:
        """Note how the request ended, or the WebSocket.

        Args:
            status: of the answer; None if there was none.
            media_type: of the answer.
            error: Chromium's name of what went wrong; empty if nothing did.
            is_withheld: the page may not read the answer.
        """
        self.status = status
        if self.resource != HTTP:
            return
        # The page was left, or has seen enough of the answer.
        is_cancelled = error == _ABORTED
        self.dropped = is_cancelled and status is None
        self.is_json = "json" in media_type
        if error and not is_withheld and not is_cancelled:
            self.problem = f"cut short, {error}"

    def page_left(self, status: int | None) -> None:
        """Note that the page was left before the end of the call: Chromium may never report the end of the call.

        A request counts if it was answered by then, even if the rest of the answer never comes; a WebSocket counts if
        the page has subscribed on it.

        Args:
            status: of the answer until then; None if there was none.
        """
        self.status = status
        self.dropped = not self.subscribed if self.resource == WEBSOCKET else status is None

    def visit_ended(self, status: int | None) -> None:
        """Note that the visit ended before the request, or the WebSocket, did; arguments as in `page_left`."""
        if self.resource == WEBSOCKET or self.dropped:
            self.status = status

    def take_body(self, body: bytes) -> None:
        """Read the body of the answer; the route of the call is a known one of HTTP."""
        assert self.route is not None  # noqa: S101 - see above
        self.unknown_fields, self.problem = read(self.route, body)

    def take_sent(self, text: str) -> None:
        """Take a message that the page sent on its WebSocket."""
        if _SUBSCRIPTION in text:
            self.subscribed, self.dropped = True, False

    def take_received(self, text: str) -> None:
        """Read a message that the page received on its WebSocket."""
        self.unknown_fields += registry.LIVE_NOTIFICATIONS.normalize_message(text, "", Context("")).unknown_fields


@dataclass(frozen=True, slots=True)
class Configuration:
    """Which hosts this project asks: the settings PARTI_API_BASE_URLS and PARTI_WS_URL."""

    base_urls: tuple[str, ...]
    ws_url: str

    def has_host_of(self, call: Call) -> bool:
        """Return whether the host of a call is one of them."""
        if call.resource == WEBSOCKET:
            return _socket_of(call.url) in _sockets(self.ws_url)
        return urls.origin_of(call.url) in _origins(self.base_urls)

    def knows(self, call: Call) -> bool:
        """Return whether this project could make such a call: to a known route of a configured host."""
        return call.route is not None and self.has_host_of(call)


@dataclass(frozen=True, slots=True)
class Report:
    """The differences; every list is empty if site and project agree.

    Attributes:
        unknown_hosts: hosts of the site's API that this project is not configured for.
        unknown_routes: method and address of requests to the API whose route is not known.
        unknown_parameters: by route, those that this project does not know.
        missing_parameters: by route, those that the site no longer sends.
        unknown_fields: by route, fields of records that no item declares.
        routes_not_seen: known routes that the page did not request.
        routes_failed: known routes that never answered as they should, with the reason.
        settings: lines to set, so that the project follows the site.
        other_hosts: other hosts that the page called, which is no difference.
    """

    unknown_hosts: list[str]
    unknown_routes: list[str]
    unknown_parameters: dict[str, list[str]]
    missing_parameters: dict[str, list[str]]
    unknown_fields: dict[str, list[str]]
    routes_not_seen: list[str]
    routes_failed: dict[str, str]
    settings: list[str]
    other_hosts: list[str]

    @property
    def agrees(self) -> bool:
        return not (self.lines() or self.gaps())

    def as_json(self) -> dict[str, Any]:
        """Return the report for the data package."""
        return {"agrees": self.agrees, **asdict(self)}

    def lines(self) -> list[str]:
        """Return the differences except the gaps, one line each; the settings come last."""
        lines = [f"host not configured: {host}" for host in self.unknown_hosts]
        lines += [f"route unknown: {route}" for route in self.unknown_routes]
        for text, by_route in (
            ("parameters unknown", self.unknown_parameters),
            ("parameters missing", self.missing_parameters),
            ("fields unknown", self.unknown_fields),
        ):
            lines += [f"{text}, route {route}: {', '.join(names)}" for route, names in by_route.items()]
        return lines + [f"to follow the site, set {line}" for line in self.settings]

    def gaps(self) -> list[str]:
        """Return which routes could not be compared, a part of a sentence each."""
        gaps = [f"route not seen: {route}" for route in self.routes_not_seen]
        return gaps + [f"route answered with errors: {route} ({why})" for route, why in self.routes_failed.items()]


def read(route: str, body: bytes) -> tuple[Counter[str], str]:
    """Return the unknown fields of the records in an answer, and why it cannot be used; the route is known."""
    try:
        page = registry.BY_NAME[route].normalize(body, "", Context(""))
    except PageError as error:
        return Counter(), str(error)
    # Single broken records are normal; if all are broken, the API has changed.
    useless = page.rejected[0].reason if page.rejected and not page.items else ""
    return page.unknown_fields, f"no record can be read, {useless}" if useless else ""


def names_of_categories(body: bytes) -> list[tuple[str, ...]]:
    """Return for each category the names under which a page may show it; none if the body has no categories."""
    try:
        categories = registry.CATEGORIES.normalize(body, "", Context("")).items
    except PageError:
        return []
    return [
        names
        for each in categories
        if (names := tuple(dict.fromkeys(name for name in (each.display_name, each.name) if name)))
    ]


class Comparison:
    """How the calls of the site's page differ from what this project knows and is configured for.

    A page may make any number of calls: memory is bounded.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._routes = {
            source.route.name: _Seen(source.route, is_on_page=source.is_on_page) for source in registry.SOURCES
        }
        self._unknown_hosts: set[str] = set()
        self._unknown_routes: set[str] = set()
        # WebSockets on which a page has subscribed: on another one to the same address it may not have done so yet.
        self._known_sockets: set[str] = set()
        self._other_hosts: set[str] = set()

    def add(self, call: Call) -> None:
        """Add a call that has ended."""
        if call.dropped:
            return
        has_host, route = self._configuration.has_host_of(call), call.route
        if route is not None:
            self._routes[route].add(call, has_host=has_host)
            if call.resource == WEBSOCKET:
                _remember(self._known_sockets, f"{call.method} {_address(call.url)}")
        elif _is_of_the_api(call, has_host=has_host):
            _remember(self._unknown_routes, f"{call.method} {_address(call.url)}")
        else:
            _remember(self._other_hosts, urls.origin_of(call.url))
            return
        if not has_host:
            _remember(self._unknown_hosts, urls.origin_of(call.url))

    def report(self) -> Report:
        routes = self._routes
        return Report(
            unknown_hosts=_listed(self._unknown_hosts),
            unknown_routes=_listed(self._unknown_routes - self._known_sockets),
            unknown_parameters={name: _listed(seen.unknown) for name, seen in routes.items() if seen.unknown},
            missing_parameters={
                name: _listed(seen.missing) for name, seen in routes.items() if seen.failures and seen.missing
            },
            unknown_fields={name: _listed(set(seen.fields)) for name, seen in routes.items() if seen.fields},
            routes_not_seen=[name for name, seen in routes.items() if seen.is_missed],
            routes_failed={name: why for name, seen in routes.items() if (why := seen.why_failed())},
            settings=self._settings(),
            other_hosts=_listed(self._other_hosts),
        )

    @property
    def unknown_fields(self) -> Counter[str]:
        """Fields of records that no item declares, and how many records have them."""
        return sum((seen.fields for seen in self._routes.values()), Counter())

    def _settings(self) -> list[str]:
        """Return the settings with which the project follows the site: with hosts that served known routes only."""
        numbers: Counter[str] = Counter()
        for name, seen in self._routes.items():
            if name != WEBSOCKET:
                numbers.update(seen.served.keys())
        lines = []
        if not numbers.keys() <= _origins(self._configuration.base_urls):
            # The host with most of the routes comes first; if no host has all of them, it takes several.
            lines.append(f"PARTI_API_BASE_URLS={','.join(host for host, _ in numbers.most_common())}")
        sockets = self._routes[WEBSOCKET].served
        if sockets and not any(sockets.values()):
            lines.append(f"PARTI_WS_URL={next(iter(sockets))}")
        return lines


class _Seen:
    """What was seen of one known route.

    Attributes:
        unknown: parameters that this project does not know.
        missing: parameters that the site always sends, as far as this project knows, and that no call had.
        fields: unknown fields of records.
        served: hosts, or addresses of WebSockets, that answered well, in order, and whether each is configured.
        failures: how many calls failed in which way; the empty text counts those that did not fail.
    """

    def __init__(self, route: Route, *, is_on_page: bool) -> None:
        self._is_on_page = is_on_page
        self._known = route.always | route.sometimes
        self._is_socket = route.name == WEBSOCKET
        self.unknown: set[str] = set()
        self.missing = set(route.always)
        self.fields: Counter[str] = Counter()
        self.served: dict[str, bool] = {}
        self.failures: Counter[str] = Counter()

    def add(self, call: Call, *, has_host: bool) -> None:
        failure = _printable(call.failure)
        if failure in self.failures or len(self.failures) < _MOST_REMEMBERED:
            self.failures[failure] += 1
        for unknown, number in call.unknown_fields.items():
            name = _printable(unknown)
            if name in self.fields or len(self.fields) < _MOST_REMEMBERED:
                self.fields[name] += number
        if not failure and len(self.served) < _MOST:
            where = _printable(redact_url(call.url)) if self._is_socket else urls.origin_of(call.url)
            self.served.setdefault(where, has_host)
        if not self._is_socket:
            names = _parameters(call.url)
            self.missing -= names
            for name in names - self._known:
                _remember(self.unknown, name)

    @property
    def is_missed(self) -> bool:
        """Whether there were no calls, though the page is known to make some."""
        return self._is_on_page and not self.failures

    def why_failed(self) -> str:
        """Return how the calls failed; empty if one of them did not, or there were none."""
        if self.failures[""]:
            return ""
        return ", ".join(f"{number} × {failure}" for failure, number in self.failures.most_common(_MOST))


def _is_of_the_api(call: Call, *, has_host: bool) -> bool:
    """Return whether a call to an unknown route is one to the site's API."""
    if call.resource == WEBSOCKET:
        return has_host
    return registry.is_like_a_route(call.url) or (has_host and call.is_json)


def _parameters(url: str) -> set[str]:
    query = urlsplit(url).query
    names = {pair.partition("=")[0] for pair in query.split("&") if pair}
    return set(map(unquote_plus, names)) if "%" in query or "+" in query else names


def _remember(names: set[str], name: str) -> None:
    if len(names) < _MOST_REMEMBERED:
        names.add(_printable(name))


@lru_cache
def _origins(base_urls: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(urls.origin_of, base_urls))


@lru_cache
def _sockets(ws_url: str) -> frozenset[tuple[str, str]]:
    return frozenset(_socket_of(url.strip()) for url in ws_url.split(","))


def _socket_of(url: str) -> tuple[str, str]:
    return urls.origin_of(url), urlsplit(url).path or "/"


def _address(url: str) -> str:
    """Return a URL without its query and with placeholders for numbers in its path, which differ from call to call."""
    parts = urlsplit(redact_url(url.partition("?")[0]))
    return urls.origin_of(url) + re.sub(r"(?<=/)\d+(?=/|$)", "{number}", parts.path)


def _listed(names: Iterable[str]) -> list[str]:
    """Return the names in order, at most 50."""
    return sorted(names)[:_MOST]


def _printable(name: str) -> str:
    # The site chooses these names: one with a line break could fake a line of the log.
    text = "".join(character if character.isprintable() else "\ufffd" for character in name)
    return text if len(text) <= _LONGEST_NAME else text[:_LONGEST_NAME] + "…"
