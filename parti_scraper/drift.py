"""Where the site and this project have drifted apart: what the site's own requests say that the project does not know.

Pure: it is given what was seen, and what is configured. What is known of routes and parameters stands in `api`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from parti_scraper import api
from parti_scraper.exceptions import PageError
from parti_scraper.normalize import (
    CategoryIndex,
    normalize_categories,
    normalize_live,
    normalize_notification,
    normalize_recent,
)
from parti_scraper.redact import redact_url

if TYPE_CHECKING:
    from collections.abc import Iterable

    from parti_scraper.items import Category
    from parti_scraper.normalize import NormalizedPage

HTTP, WEBSOCKET = "http", "websocket"
# Of a site that names things at random only so many are told.
_MOST = 50
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
        route = api.route_of(self.url) if self.method == "GET" else None
        return route.name if route else None

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
            return _socket_of(call.url) in map(_socket_of, api.parse_ws_urls(self.ws_url))
        return api.origin_of(call.url) in map(api.origin_of, self.base_urls)

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
        page: NormalizedPage[Any]
        if route == api.CATEGORIES.name:
            page = normalize_categories(body, "", "")
        elif route == api.RECENT.name:
            page = normalize_recent(body, "", "", CategoryIndex())
        else:
            page = normalize_live(body, "", "", CategoryIndex(), snapshot_id="", offset=0)
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
    calls = [call for call in calls if not call.dropped]
    routes: dict[str, list[Call]] = {name: [] for name in (*(route.name for route in api.ROUTES), WEBSOCKET)}
    others: list[Call] = []
    for call in calls:
        (others if call.route is None else routes[call.route]).append(call)
    of_the_api = [call for call in others if _is_of_the_api(call, configuration)]
    known = [call for each in routes.values() for call in each]
    strange = [call for call in known + of_the_api if not configuration.has_host_of(call)]
    return Report(
        unknown_hosts=_told(api.origin_of(call.url) for call in strange),
        unknown_routes=_told(f"{call.method} {_address(call.url)}" for call in of_the_api),
        unknown_parameters=_parameters(routes, unknown=True),
        missing_parameters=_parameters(routes, unknown=False),
        unknown_fields={
            route: names
            for route, each in routes.items()
            if (names := _told({n for c in each for n in c.unknown_fields}))
        },
        routes_not_seen=[route for route, each in routes.items() if not each],
        routes_failed={route: why for route, each in routes.items() if (why := _failures(each))},
        settings=_settings(routes, configuration),
        other_hosts=_told(api.origin_of(call.url) for call in others if call not in of_the_api),
    )


def _is_of_the_api(call: Call, configuration: Configuration) -> bool:
    """Tell whether a call that is of no known route is one to the API all the same, and not to somebody else's."""
    if call.resource == WEBSOCKET:
        return configuration.has_host_of(call)
    return api.is_like_a_route(call.url) or (configuration.has_host_of(call) and call.is_json)


def _parameters(routes: dict[str, list[Call]], *, unknown: bool) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for route in api.ROUTES:
        sent = [
            {name for name, _ in parse_qsl(urlsplit(call.url).query, keep_blank_values=True)}
            for call in routes[route.name]
        ]
        seen = frozenset[str]().union(*sent)
        # A parameter that some requests leave out is not missing.
        names = seen - route.always - route.sometimes if unknown else route.always - seen
        if sent and names:
            found[route.name] = _told(names)
    return found


def _failures(calls: list[Call]) -> str:
    """Return how the calls of a route failed; empty where one of them did not."""
    failures = Counter(call.failure for call in calls)
    if not calls or failures[""]:
        return ""
    return ", ".join(f"{number} × {_shown(failure)}" for failure, number in failures.most_common())


def _settings(routes: dict[str, list[Call]], configuration: Configuration) -> list[str]:
    """Return the lines that make the project follow the site; only hosts that served known routes are in them."""
    served: dict[str, set[str]] = defaultdict(set)
    for route in api.ROUTES:
        for call in routes[route.name]:
            if not call.failure:
                served[api.origin_of(call.url)].add(route.name)
    lines = []
    if not served.keys() <= set(map(api.origin_of, configuration.base_urls)):
        # The host with most of the routes first; where they are spread, it takes several.
        hosts = sorted(served, key=lambda host: -len(served[host]))
        lines.append(f"PARTI_API_BASE_URLS={','.join(hosts)}")
    sockets = [call for call in routes[WEBSOCKET] if not call.failure]
    if sockets and not any(map(configuration.has_host_of, sockets)):
        lines.append(f"PARTI_WS_URL={_shown(redact_url(sockets[0].url))}")
    return lines


def _socket_of(url: str) -> tuple[str, str]:
    return api.origin_of(url), urlsplit(url).path or "/"


def _address(url: str) -> str:
    """Return a URL without query, and without the numbers in its path that make each another one."""
    parts = urlsplit(redact_url(url))
    return api.origin_of(url) + re.sub(r"(?<=/)\d+(?=/|$)", "{number}", parts.path)


def _told(names: Iterable[str]) -> list[str]:
    """Return each name once, in order, and not more than can be read."""
    return sorted({_shown(name) for name in names})[:_MOST]


def _shown(name: str) -> str:
    # The site decides what these are: a line break would forge a line of the log.
    text = "".join(character if character.isprintable() else "\ufffd" for character in name)
    return text if len(text) <= _LONGEST_NAME else text[:_LONGEST_NAME] + "…"
