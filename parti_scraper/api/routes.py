"""The Parti API: hosts, routes, queries and headers. This is the one place that knows the site.

Source of every fact here: the project's specification of the categories pages, or, where a line says
*reported*, public descriptions of the same API by other clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Sequence

BASE_URLS = (
    "https://api-backend.parti.com",
    # Reported: the API moved three times in eighteen months.
    "https://backend-prod-1053646558307.us-central1.run.app",
    "https://prod-api.parti.com",
    "https://api.parti.com",
)

# Characters of a channel's name.
_LONGEST_REMEMBERED = 100

# The site's own `from_ts` and `to_ts`: 2021-08-03, before the first livestream, and 2040-08-22.
FIRST_TS = 1_627_948_800
LAST_TS = 2_229_292_800

USER_AGENT = (
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/136.0.0.0 Safari/537.36"
)
HEADERS = {
    "Accept": "application/json, text/plain, */*",
    "Origin": "https://parti.com",
    "Referer": "https://parti.com/",
}

WS_URL = "wss://ws-backend.parti.com/"
# The second address is reported since 2026.
WS_URLS = (WS_URL, "wss://ws.parti.com/ws")
# What the WebSocket expects once before it sends who goes live.
SUBSCRIBE = '{"subscribe_options":{"NewChannelLiveNotify":{}}}'
WS_HEADERS = {"Origin": HEADERS["Origin"], "User-Agent": USER_AGENT}

# How the site spells "no category" in a query; what the server makes of it is unknown.
NAN = "NaN"

PROFILE = "/parti_v2/profile/"
SITE_URL = "https://parti.com"
# Where the site's pages that make these requests begin; its exact path was not reported.
CATEGORIES_PAGE = "/categories"


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the API that this project uses.

    Attributes:
        name: what this project calls it.
        path: within the host; empty where the address is a setting of its own.
        always: parameters that the site sends with every request.
        sometimes: other parameters that this project knows.
    """

    name: str
    path: str
    always: frozenset[str] = frozenset()
    sometimes: frozenset[str] = frozenset()


CATEGORIES = Route("categories", f"{PROFILE}livestream_calendar/events/categories")
RECENT = Route(
    "recent",
    f"{PROFILE}get_livestream_channel_info/recent",
    frozenset({"sort_by_date_desc", "from_ts", "to_ts", "followed_only", "offset", "limit", "top_views_sort"}),
    frozenset({"categories", "by_user_id"}),
)
LIVE = Route(
    "live", f"{PROFILE}get_livestream_channel_info/live", frozenset({"limit", "offset"}), frozenset({"categories"})
)
# Reported, as is all about this route; the site's categories page does not ask for it.
SCHEDULED = Route("scheduled", f"{PROFILE}livestream_calendar/events", frozenset({"offset", "limit"}))
# No request, but messages with who goes live; known by the name alone.
WEBSOCKET = Route("websocket", "")


def categories_url(base_url: str) -> str:
    return f"{base_url}{CATEGORIES.path}"


@dataclass(frozen=True, slots=True)
class RecentQuery:
    """Which ended livestreams to ask for.

    Attributes:
        from_ts, to_ts: Unix seconds. Unknown: whether the server holds them against the end or the start.
        categories: values of the repeated parameter, sent in this order.
        user_id: one channel only (reported parameter).
        top_views: most viewed first instead of last ended first (reported order).
        ascending: first ended first (not reported; the name of the parameter suggests it).
    """

    from_ts: int
    to_ts: int
    categories: tuple[str, ...] = ()
    user_id: int | None = None
    top_views: bool = False
    ascending: bool = False

    def url(self, base_url: str, offset: int, limit: int) -> str:
        """Return the URL of one page, its parameters in the site's own order."""
        parameters = [
            ("sort_by_date_desc", _boolean(not (self.top_views or self.ascending))),
            ("from_ts", str(self.from_ts)),
            ("to_ts", str(self.to_ts)),
            ("followed_only", "false"),
            *(("categories", category) for category in self.categories),
            ("offset", str(offset)),
            ("limit", str(limit)),
            ("top_views_sort", _boolean(self.top_views)),
        ]
        if self.user_id is not None:
            parameters.append(("by_user_id", str(self.user_id)))
        return _url(base_url, RECENT, parameters)


@dataclass(frozen=True, slots=True)
class LiveQuery:
    """Which live channels to ask for: of the given categories, or all."""

    categories: tuple[str, ...] = ()

    def url(self, base_url: str, offset: int, limit: int) -> str:
        """Return the URL of one page, its parameters in the site's own order."""
        parameters = [
            ("limit", str(limit)),
            ("offset", str(offset)),
            *(("categories", category) for category in self.categories),
        ]
        return _url(base_url, LIVE, parameters)


def scheduled_url(base_url: str, offset: int, limit: int) -> str:
    return _url(base_url, SCHEDULED, [("offset", str(offset)), ("limit", str(limit))])


def channel_url(user_name: str | None) -> str | None:
    """Return the address of a channel's page, or None if its name is not known.

    Reported: the form since December 2025, by which clients find a channel (`user_id_from_name/{name}`).
    """
    if not user_name:
        return None
    # The API may send any text: long ones must not fill the memory.
    return (_channel_url if len(user_name) <= _LONGEST_REMEMBERED else _channel_url.__wrapped__)(user_name)


# The same channels come repeatedly, and quoting is slow.
@lru_cache(maxsize=4096)
def _channel_url(user_name: str) -> str:
    return f"{SITE_URL}/{quote(user_name, safe='', errors='replace')}"


def video_url(event_id: int) -> str:
    """Return the address of a livestream's page (reported)."""
    return f"{SITE_URL}/video/{event_id}"


def base_of(url: str) -> str | None:
    """Return scheme and host of the URL of a route; None where it is no route of the API."""
    base_url, profile, _ = url.partition(PROFILE)
    return base_url if profile else None


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _url(base_url: str, route: Route, parameters: Sequence[tuple[str, str]]) -> str:
    # Numbers, `true`, `false` and `NaN`, which need no quoting.
    return f"{base_url}{route.path}?" + "&".join(f"{name}={value}" for name, value in parameters)
