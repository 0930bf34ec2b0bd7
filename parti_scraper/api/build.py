"""From a record of the API to an item.

A builder is called once a page, with what all its items have in common; it returns a function for single records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from parti_scraper.api import routes
from parti_scraper.api.categories import CategoryIndex
from parti_scraper.api.schema import (
    CategoryRecord,
    ChannelRecord,
    LiveRecord,
    NotificationRecord,
    RecentRecord,
    Record,
    RecordT,
    ScheduledRecord,
)
from parti_scraper.api.times import seconds_to_iso
from parti_scraper.items import ApiRecord, Category, LiveChannel, LiveNotification, Livestream, ScheduledLivestream
from parti_scraper.redact import may_hide_secrets, redact_text, redact_url

ItemT = TypeVar("ItemT", bound=ApiRecord)
# Makes an item of a record, its `extra`, and its place in the page, from 0.
Build = Callable[[RecordT, dict[str, Any], int], ItemT]

# Texts that are an address as a whole.
_ADDRESSES = frozenset({"livestream_recording", "event_file", "avatar_link", "playback_url"})


@dataclass(frozen=True, slots=True)
class Context:
    """What the items of a page say that its records do not.

    Attributes:
        received_at: when the page was received, in ISO 8601.
        categories: finds a category's number.
        snapshot_id: of the live route, the snapshot.
        offset: how many records came before the page, or messages before this one.
        source: of notifications, `websocket`, or `live` for the live route.
    """

    received_at: str
    categories: CategoryIndex = field(default_factory=CategoryIndex)
    snapshot_id: str = ""
    offset: int = 0
    source: str = "websocket"


def category_builder(context: Context) -> Build[CategoryRecord, Category]:
    """Return what makes an item of a record of the categories route."""
    scraped_at = context.received_at

    def build(record: CategoryRecord, extra: dict[str, Any], _position: int) -> Category:
        _remove_secrets(record)
        return Category(record.category_id, record.name, record.display_name, scraped_at, extra)

    return build


def livestream_builder(context: Context) -> Build[RecentRecord, Livestream]:
    """Return what makes an item of a record of the recent route: without further calls, to be fast."""
    scraped_at, categories = context.received_at, context.categories

    def build(record: RecentRecord, extra: dict[str, Any], _position: int) -> Livestream:
        start, end = record.event_start_ts, record.event_end_ts
        category_id = record.category_id
        texts = (
            f"{record.livestream_recording}{record.event_file}{record.avatar_link}{record.event_title}"
            f"{record.user_name}{record.category_name}{record.livestream_visibility_type}"
            f"{record.social_media}{record.social_username}{record.discord_discriminator}"
        )
        # As `may_hide_secrets`, for all texts at once and without a call: few records have secrets.
        if "=" in texts or "@" in texts or "eyJ" in texts:
            _remove_secrets(record)
        # By position, in the order of the class: with names it takes three times as long.
        return Livestream(
            record.event_id,
            record.user_id,
            record.user_name,
            record.event_title,
            categories.find(record.category_name) if category_id is None else category_id,
            record.category_name,
            None if start is None else seconds_to_iso(start),
            None if end is None else seconds_to_iso(end),
            None if start is None or end is None or end < start else end - start,
            record.total_viewers,
            record.livestream_visibility_type,
            record.has_access_pass,
            record.livestream_recording,
            record.event_file,
            record.avatar_link,
            record.user_avatar_id,
            record.social_media,
            record.social_username,
            record.discord_discriminator,
            routes.channel_url(record.user_name),
            routes.video_url(record.event_id),
            scraped_at,
            extra,
        )

    return build


def live_channel_builder(context: Context) -> Build[LiveRecord, LiveChannel]:
    """Return what makes an item of a record of the live route."""

    def build(record: LiveRecord, extra: dict[str, Any], position: int) -> LiveChannel:
        _remove_secrets(record)
        return LiveChannel(
            snapshot_id=context.snapshot_id,
            observed_at=context.received_at,
            rank=context.offset + position + 1,
            event_id=record.event_id,
            user_id=record.user_id,
            **_channel_fields(record, context.categories),
            viewers_count=record.viewers_count,
            channel_arn=record.channel_arn,
            playback_url=record.playback_url,
            extra=extra,
        )

    return build


def scheduled_builder(context: Context) -> Build[ScheduledRecord, ScheduledLivestream]:
    """Return what makes an item of a record of the route of scheduled livestreams."""
    categories = context.categories

    def build(record: ScheduledRecord, extra: dict[str, Any], _position: int) -> ScheduledLivestream:
        _remove_secrets(record)
        start, end = record.event_start_ts, record.event_end_ts
        category_id = _category_id(record, categories)
        return ScheduledLivestream(
            event_id=record.event_id,
            user_id=record.user_id,
            user_name=record.user_name,
            event_title=record.event_title,
            event_description=record.event_description,
            category_id=category_id,
            category_name=record.category_name or categories.name_of(category_id),
            event_start=None if start is None else seconds_to_iso(start),
            event_end=None if end is None else seconds_to_iso(end),
            livestream_visibility_type=record.livestream_visibility_type,
            event_file=record.event_file,
            avatar_link=record.avatar_link,
            user_avatar_id=record.user_avatar_id,
            scraped_at=context.received_at,
            extra=extra,
        )

    return build


def notification_builder(context: Context) -> Build[NotificationRecord, LiveNotification]:
    """Return what makes an item of a message of the WebSocket, or of a record of the live route."""

    def build(record: NotificationRecord, extra: dict[str, Any], _position: int) -> LiveNotification:
        _remove_secrets(record)
        return LiveNotification(
            received_at=context.received_at,
            source=context.source,
            livestream_id=record.livestream_id,
            event_id=record.event_id,
            user_id=record.user_id,
            **_channel_fields(record, context.categories),
            viewers_count=record.viewers_count,
            channel_arn=record.channel_arn,
            extra=extra,
        )

    return build


def _channel_fields(record: ChannelRecord, categories: CategoryIndex) -> dict[str, Any]:
    """Return the fields that live channels and notifications have in common."""
    return {
        "user_name": record.user_name,
        "event_title": record.event_title,
        "category_id": _category_id(record, categories),
        "category_name": record.category_name,
        "event_file": record.event_file,
        "avatar_link": record.avatar_link,
        "user_avatar_id": record.user_avatar_id,
        "social_media": record.social_media,
        "social_username": record.social_username,
        "discord_discriminator": record.discord_discriminator,
        "channel_url": routes.channel_url(record.user_name),
    }


def _category_id(record: ChannelRecord | ScheduledRecord, categories: CategoryIndex) -> int | None:
    """Return the number in a record, or else that of its category's name."""
    return categories.find(record.category_name) if record.category_id is None else record.category_id


def _remove_secrets(record: Record) -> None:
    """Take the secrets out of the addresses in the texts of a record."""
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if isinstance(value, str) and may_hide_secrets(value):
            setattr(record, name, redact_url(value) if name in _ADDRESSES else redact_text(value))
