"""What the spiders call to make items of what they received: a function for each kind, with the arguments it needs.

`pages` does the work, as the row of the route in `registry` says. Pure: no Scrapy, no network, no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from parti_scraper.api.build import Context, notification_builder
from parti_scraper.api.categories import CategoryIndex
from parti_scraper.api.pages import NormalizedPage, as_it_came, normalize_page, normalize_records
from parti_scraper.api.records import Unparsable, parse_page
from parti_scraper.api.registry import CATEGORIES, LIVE_CHANNELS, LIVESTREAMS
from parti_scraper.api.schema import NotificationRecord
from parti_scraper.exceptions import PageError
from parti_scraper.items import RejectedRecord

if TYPE_CHECKING:
    from parti_scraper.items import Category, LiveChannel, LiveNotification, Livestream


def normalize_categories(body: bytes, url: str, scraped_at: str) -> NormalizedPage[Category]:
    """Normalize the answer of the categories route. Raises PageError where it is no list of records."""
    return CATEGORIES.normalize(body, url, Context(scraped_at, CategoryIndex()))


def normalize_recent(body: bytes, url: str, scraped_at: str, categories: CategoryIndex) -> NormalizedPage[Livestream]:
    """Normalize a page of the recent route. Raises PageError where it is no list of records."""
    return LIVESTREAMS.normalize(body, url, Context(scraped_at, categories))


def normalize_live(
    body: bytes, url: str, observed_at: str, categories: CategoryIndex, *, snapshot_id: str, offset: int
) -> NormalizedPage[LiveChannel]:
    """Normalize a page of the live route, asked for from `offset`.

    Raises PageError where it is no list of records.
    """
    return LIVE_CHANNELS.normalize(body, url, Context(observed_at, categories, snapshot_id, offset))


def normalize_notification(
    text: str, url: str, received_at: str, categories: CategoryIndex, position: int
) -> NormalizedPage[LiveNotification]:
    """Normalize a message of the WebSocket: one item, or the message with the reason why it is set aside.

    Args:
        text: the message.
        url: where it came from.
        received_at: when, in ISO 8601.
        categories: finds a category's number.
        position: how many messages came before.
    """
    try:
        records = parse_page(f"[{text}]".encode(errors="replace"))
    except PageError:
        records = []
    if len(records) != 1 or isinstance(records[0], Unparsable):
        # Even if it is no object, it may contain a secret.
        rejected = RejectedRecord("not a JSON object", url, position, as_it_came(Unparsable(text)))
        return NormalizedPage(1, rejected=[rejected], rejected_ends=[None])
    build = notification_builder(Context(received_at, categories))
    return normalize_records(records, url, NotificationRecord, build, position)


def normalize_live_notifications(
    body: bytes, url: str, received_at: str, categories: CategoryIndex
) -> NormalizedPage[LiveNotification]:
    """Normalize a page of the live route as notifications. Raises PageError where it is no list of records."""
    return normalize_page(body, url, NotificationRecord, notification_builder(Context(received_at, categories), "live"))
