"""The routes of the API, a row each.

Items that come from no route (`ApiCall`, `RejectedRecord`) have no row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic
from urllib.parse import urlsplit

from parti_scraper.api import routes
from parti_scraper.api.build import (
    Build,
    Context,
    ItemT,
    category_builder,
    live_channel_builder,
    livestream_builder,
    notification_builder,
    scheduled_builder,
)
from parti_scraper.api.pages import normalize_message, normalize_page
from parti_scraper.api.quality import SPECIFIED
from parti_scraper.api.routes import FIRST_TS, LAST_TS, PROFILE, LiveQuery, RecentQuery, Route
from parti_scraper.api.schema import (
    CategoryRecord,
    LiveRecord,
    NotificationRecord,
    RecentRecord,
    RecordT,
    ScheduledRecord,
)
from parti_scraper.items import Category, LiveChannel, LiveNotification, Livestream, ScheduledLivestream

if TYPE_CHECKING:
    from collections.abc import Callable

    from parti_scraper.api.pages import NormalizedPage


@dataclass(frozen=True, slots=True)
class Source(Generic[RecordT, ItemT]):
    """A route, and what its records become.

    Attributes:
        route: where they come from.
        record_class: what they are.
        item_class: what becomes of them; its `collection` is the stem of the files' names.
        key: the fields of the item that make two the same one: the primary key in the data package. Within a
            snapshot, `identity` of the item is the same without `snapshot_id`.
        builder: how an item is made of a record.
        first_page: the URL of the page that the site asks for first, at a base URL; None if the route has one page.
        specified: fields of which most records are to be readable, or the run is degraded.
        is_on_page: whether the site's categories page asks for the route.
    """

    route: Route
    record_class: type[RecordT]
    item_class: type[ItemT]
    key: tuple[str, ...]
    builder: Callable[[Context], Build[RecordT, ItemT]]
    first_page: Callable[[str], str] | None = None
    specified: tuple[str, ...] = SPECIFIED
    is_on_page: bool = True

    def normalize(self, body: bytes, url: str, context: Context) -> NormalizedPage[ItemT]:
        """Normalize a page of the route. Raises PageError where it is no list of records."""
        return normalize_page(body, url, self.record_class, self.builder(context))

    def normalize_message(self, text: str, url: str, context: Context) -> NormalizedPage[ItemT]:
        """Normalize a message of the WebSocket: one item, or the message with the reason why it is set aside.

        Of the context, `offset` is how many messages came before.
        """
        return normalize_message(text, url, self.record_class, self.builder(context), context.offset)


CATEGORIES = Source(routes.CATEGORIES, CategoryRecord, Category, ("category_id",), category_builder)
LIVESTREAMS = Source(
    routes.RECENT,
    RecentRecord,
    Livestream,
    ("event_id",),
    livestream_builder,
    partial(RecentQuery(FIRST_TS, LAST_TS).url, offset=0, limit=15),
)
LIVE_CHANNELS = Source(
    routes.LIVE,
    LiveRecord,
    LiveChannel,
    ("snapshot_id", "user_id", "event_id"),
    live_channel_builder,
    partial(LiveQuery().url, offset=0, limit=12),
)
LIVE_NOTIFICATIONS = Source(routes.WEBSOCKET, NotificationRecord, LiveNotification, ("event_id",), notification_builder)
SCHEDULED_LIVESTREAMS = Source(
    routes.SCHEDULED,
    ScheduledRecord,
    ScheduledLivestream,
    ("event_id",),
    scheduled_builder,
    partial(routes.scheduled_url, offset=0, limit=100),
    # Its records name no category and have no viewers, and their end is only planned.
    specified=("user_name", "event_title"),
    is_on_page=False,
)
SOURCES: tuple[Source[Any, Any], ...] = (
    CATEGORIES,
    LIVESTREAMS,
    LIVE_CHANNELS,
    LIVE_NOTIFICATIONS,
    SCHEDULED_LIVESTREAMS,
)

BY_NAME = {source.route.name: source for source in SOURCES}
_BY_ITEM = {source.item_class: source for source in SOURCES}
# The WebSocket has none.
_BY_PATH = {source.route.path: source for source in SOURCES if source.route.path}


def source_of(url: str) -> Source[Any, Any] | None:
    """Return the row of the route of a URL, on any host; None if the route is unknown."""
    return _BY_PATH.get(urlsplit(url).path)


def specified_of(item_class: type) -> tuple[str, ...]:
    """Return the fields of which most records are to be readable where they become such items."""
    source = _BY_ITEM.get(item_class)
    return source.specified if source else ()


def first_page_url(url: str) -> str | None:
    """Return the URL of the first page that the site asks for, of the same route; None if the route has one page."""
    source = source_of(url)
    return source.first_page(routes.base_of(url) or "") if source and source.first_page else None


def is_like_a_route(url: str) -> bool:
    """Return whether a URL is probably of this API: an unknown route, or a known one that moved."""
    path = urlsplit(url).path
    return path.startswith(PROFILE) or any(path.endswith(f"/{known.removeprefix(PROFILE)}") for known in _BY_PATH)
