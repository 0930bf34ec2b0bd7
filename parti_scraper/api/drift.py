"""Where the site and this project have drifted apart: what the site's own requests say that the project does not know.

Pure: it is given what was seen, and what is configured. What is known of routes and parameters stands in `api`.
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
from parti_scraper.api.categories import CategoryIndex
from parti_scraper.api.normalize import normalize_categories, normalize_notification
from parti_scraper.exceptions import PageError
from parti_scraper.redact import redact_url

if TYPE_CHECKING:
    from collections.abc import Iterable

    from parti_scraper.api.routes import Route
    from parti_scraper.items import Category

HTTP, WEBSOCKET = "http", "websocket"
# Of a site that names things at random only so many are told, and only so many of a kind remembered.
_MOST, _MOST_REMEMBERED = 50, 1_000
_LONGEST_NAME = 300


@dataclass(slots=True)
class Call:
    """A request that a page of the site made, or a WebSocket that it opened.

    Attributes:
        method: such as GET.
        url: as it was sent, secrets included: it is not to be stored.
        resource: `http` or `websocket`.
        status: of the answer, 101 of a WebSocket; None where none came.
        dropped: the page did not wait for the answer.
        is_json: whether the answer says that it is JSON.
        subscribed: of a WebSocket: the page asked it who goes live.
        unknown_fields: names of fields that no item declares, and how many of its records have them.
        problem: why the answer is of no use, a part of a sentence.
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
        """The name of the route that it is of, whatever the host; None where this project knows none."""
        if self.resource == WEBSOCKET:
            return WEBSOCKET if self.subscribed else None
        source = registry.source_of(self.url) if self.method == "GET" else None
        return source.route.name if source else None

    @property
    def failure(self) -> str:
        """What was wrong with the answer; empty where nothing was."""
        if self.status is None:
            return "no answer"
        return self.problem if self.status < 400 else f"HTTP {self.status}"


@dataclass(frozen=True, slots=True)
class Configuration:
    """What this project would ask: the settings PARTI_API_BASE_URLS and PARTI_WS_URL."""

    base_urls: tuple[str, ...]
    ws_url: str

    def has_host_of(self, call: Call) -> bool:
        """Tell whether the host of a call is one of them."""
        if call.resource == WEBSOCKET:
            return _socket_of(call.url) in _sockets(self.ws_url)
        return urls.origin_of(call.url) in _origins(self.base_urls)

    def knows(self, call: Call) -> bool:
        """Tell whether this project would make such a call: a known route on a host that is configured."""
        return call.route is not None and self.has_host_of(call)


@dataclass(frozen=True, slots=True)
class Report:
    """What was found; every list is empty where site and project agree.

    Attributes:
        unknown_hosts: where the site has the API, and this project is not configured for.
        unknown_routes: method and address of requests to the API that are of no known route.
        unknown_parameters: by route, those that this project does not know.
        missing_parameters: by route, those that the site no longer sends.
        unknown_fields: by route, fields of records that no item declares.
        routes_not_seen: known routes that the page did not ask for.
        routes_failed: known routes that never answered as they should, with the reason.
        settings: lines to set, so that the project follows the site.
        other_hosts: other hosts that the page called; nothing is wrong with that.
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
        """Whether site and project agree."""
        return not (self.lines() or self.gaps())

    def as_json(self) -> dict[str, Any]:
        """Return the report for the data package."""
        return {"agrees": self.agrees, **asdict(self)}

    def lines(self) -> list[str]:
        """Return the findings but for the gaps, one line each; what to set comes last."""
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
        """Return what keeps the project from working as the site does, a part of a sentence each."""
        gaps = [f"route not seen: {route}" for route in self.routes_not_seen]
        return gaps + [f"route answered with errors: {route} ({why})" for route, why in self.routes_failed.items()]


def read(route: str, body: bytes) -> tuple[Counter[str], str]:
    """Return what an answer of a known route says: the unknown fields of its records, and why it is of no use."""
    try:
        page = registry.source_named(route).normalize(body, "", Context("", CategoryIndex()))
    except PageError as error:
        return Counter(), str(error)
    # A record here and there is broken; where all are, the API has changed.
    useless = page.rejected[0].reason if page.rejected and not page.items else ""
    return page.unknown_fields, f"no record can be read, {useless}" if useless else ""


def read_message(text: str) -> Counter[str]:
    """Return the unknown fields of a message of the WebSocket."""
    return normalize_notification(text, "", "", CategoryIndex(), 0).unknown_fields


def names_of_categories(body: bytes) -> list[tuple[str, ...]]:
    """Return of each category the names under which a page may show it; none where the body has no categories."""
    try:
        categories: list[Category] = normalize_categories(body, "", "").items
    except PageError:
        return []
    return [
        names
        for each in categories
        if (names := tuple(dict.fromkeys(name for name in (each.display_name, each.name) if name)))
    ]


def compare(calls: Iterable[Call], configuration: Configuration) -> Report:
    """Return where the calls of the site's page differ from what this project knows and is configured for."""
    comparison = Comparison(configuration)
    for call in calls:
        comparison.add(call)
    return comparison.report()


class Comparison:
    """The same for calls that come one by one: a page may make any number, and what is held of them is bounded."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._routes = {source.route.name: _Seen(source.route) for source in registry.SOURCES}
        self._unknown_hosts: set[str] = set()
        self._unknown_routes: set[str] = set()
        self._other_hosts: set[str] = set()

    def add(self, call: Call) -> None:
        """Take a call of which no more will be known."""
        if call.dropped:
            return
        has_host, route = self._configuration.has_host_of(call), call.route
        if route is not None:
            self._routes[route].add(call, has_host=has_host)
        elif _is_of_the_api(call, has_host=has_host):
            _remember(self._unknown_routes, f"{call.method} {_address(call.url)}")
        else:
            _remember(self._other_hosts, urls.origin_of(call.url))
            return
        if not has_host:
            _remember(self._unknown_hosts, urls.origin_of(call.url))

    def report(self) -> Report:
        """Return what was found."""
        routes = self._routes
        return Report(
            unknown_hosts=_told(self._unknown_hosts),
            unknown_routes=_told(self._unknown_routes),
            unknown_parameters={name: _told(seen.unknown) for name, seen in routes.items() if seen.unknown},
            missing_parameters={
                name: _told(seen.missing) for name, seen in routes.items() if seen.failures and seen.missing
            },
            unknown_fields={name: _told(set(seen.fields)) for name, seen in routes.items() if seen.fields},
            routes_not_seen=[name for name, seen in routes.items() if not seen.failures],
            routes_failed={name: why for name, seen in routes.items() if (why := seen.why_failed())},
            settings=self._settings(),
            other_hosts=_told(self._other_hosts),
        )

    @property
    def unknown_fields(self) -> Counter[str]:
        """Fields of records that no item declares, and how many records have them."""
        return sum((seen.fields for seen in self._routes.values()), Counter())

    def _settings(self) -> list[str]:
        """Return the lines that make the project follow the site; only hosts that served known routes are in them."""
        numbers: Counter[str] = Counter()
        for name, seen in self._routes.items():
            if name != WEBSOCKET:
                numbers.update(seen.served.keys())
        lines = []
        if not numbers.keys() <= _origins(self._configuration.base_urls):
            # The host with most of the routes first; where they are spread, it takes several.
            lines.append(f"PARTI_API_BASE_URLS={','.join(host for host, _ in numbers.most_common())}")
        sockets = self._routes[WEBSOCKET].served
        if sockets and not any(sockets.values()):
            lines.append(f"PARTI_WS_URL={next(iter(sockets))}")
        return lines


class _Seen:
    """What was seen of one known route.

    Attributes:
        unknown: parameters that this project does not know.
        missing: parameters that the site sends as far as is known, and that no call had; it may leave one out.
        fields: unknown fields of records.
        served: where it answered as it should, the first first, and whether this project is configured for that.
        failures: how many calls failed in what way; the empty text counts those that did not.
    """

    def __init__(self, route: Route) -> None:
        self._known = route.always | route.sometimes
        self._is_socket = route.name == WEBSOCKET
        self.unknown: set[str] = set()
        self.missing = set(route.always)
        self.fields: Counter[str] = Counter()
        self.served: dict[str, bool] = {}
        self.failures: Counter[str] = Counter()

    def add(self, call: Call, *, has_host: bool) -> None:
        """Take a call."""
        failure = _shown(call.failure)
        if failure in self.failures or len(self.failures) < _MOST_REMEMBERED:
            self.failures[failure] += 1
        for unknown, number in call.unknown_fields.items():
            name = _shown(unknown)
            if name in self.fields or len(self.fields) < _MOST_REMEMBERED:
                self.fields[name] += number
        if not failure and len(self.served) < _MOST:
            where = _shown(redact_url(call.url)) if self._is_socket else urls.origin_of(call.url)
            self.served.setdefault(where, has_host)
        if not self._is_socket:
            names = _parameters(call.url)
            self.missing -= names
            for name in names - self._known:
                _remember(self.unknown, name)

    def why_failed(self) -> str:
        """Return how the calls failed; empty where one of them did not, or there were none."""
        if self.failures[""]:
            return ""
        return ", ".join(f"{number} × {failure}" for failure, number in self.failures.most_common(_MOST))


def _is_of_the_api(call: Call, *, has_host: bool) -> bool:
    """Tell whether a call that is of no known route is one to the API all the same, and not to somebody else's."""
    if call.resource == WEBSOCKET:
        return has_host
    return registry.is_like_a_route(call.url) or (has_host and call.is_json)


def _parameters(url: str) -> set[str]:
    """Return the names of the parameters of a URL."""
    query = urlsplit(url).query
    names = {pair.partition("=")[0] for pair in query.split("&") if pair}
    return set(map(unquote_plus, names)) if "%" in query or "+" in query else names


def _remember(names: set[str], name: str) -> None:
    if len(names) < _MOST_REMEMBERED:
        names.add(_shown(name))


@lru_cache
def _origins(base_urls: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(urls.origin_of, base_urls))


@lru_cache
def _sockets(ws_url: str) -> frozenset[tuple[str, str]]:
    return frozenset(_socket_of(url.strip()) for url in ws_url.split(","))


def _socket_of(url: str) -> tuple[str, str]:
    return urls.origin_of(url), urlsplit(url).path or "/"


def _address(url: str) -> str:
    """Return a URL without query, and without the numbers in its path that make each another one."""
    parts = urlsplit(redact_url(url.partition("?")[0]))
    return urls.origin_of(url) + re.sub(r"(?<=/)\d+(?=/|$)", "{number}", parts.path)


def _told(names: Iterable[str]) -> list[str]:
    """Return each name once, in order, and not more than can be read."""
    return sorted(names)[:_MOST]


def _shown(name: str) -> str:
    # The site decides what these are: a line break would forge a line of the log.
    text = "".join(character if character.isprintable() else "\ufffd" for character in name)
    return text if len(text) <= _LONGEST_NAME else text[:_LONGEST_NAME] + "…"
