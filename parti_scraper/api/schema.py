"""Records as the API sends them, with the API's names. A field without a default is part of the identity."""

from __future__ import annotations

from typing import Annotated, ClassVar, TypeVar

import msgspec

from parti_scraper.api.times import MAX_TS
from parti_scraper.api.values import MAX_INTEGER, MIN_INTEGER

Integer = Annotated[int, msgspec.Meta(ge=MIN_INTEGER, le=MAX_INTEGER)]
Timestamp = Annotated[int, msgspec.Meta(ge=0, le=MAX_TS)]


class Record(msgspec.Struct, kw_only=True):
    """The base of all records.

    Attributes:
        may_lack: fields that only some records have.
        in_extra: known fields that no item has: they go into `extra` and do not count as unknown.
    """

    may_lack: ClassVar[frozenset[str]] = frozenset()
    in_extra: ClassVar[frozenset[str]] = frozenset()


class CategoryRecord(Record, kw_only=True):
    """Of the categories route."""

    category_id: Integer
    name: str | None = None
    display_name: str | None = None


class ChannelRecord(Record, kw_only=True):
    """What the recent and live routes and the notifications have in common."""

    # No record had it in 2025.
    may_lack: ClassVar[frozenset[str]] = frozenset({"category_id"})

    user_name: str | None = None
    event_title: str | None = None
    category_id: Integer | None = None
    category_name: str | None = None
    event_file: str | None = None
    avatar_link: str | None = None
    user_avatar_id: Integer | None = None
    social_media: str | None = None
    social_username: str | None = None
    discord_discriminator: str | None = None


class RecentRecord(ChannelRecord, kw_only=True):
    """Of the recent route; an attribute for each field of the API."""

    event_id: Integer
    user_id: Integer | None = None
    event_start_ts: Timestamp | None = None
    event_end_ts: Timestamp | None = None
    total_viewers: Integer | None = None
    livestream_visibility_type: str | None = None
    has_access_pass: bool | None = None
    livestream_recording: str | None = None


class LiveRecord(ChannelRecord, kw_only=True):
    """Of the live route; an attribute for each field of the API."""

    user_id: Integer
    event_id: Integer
    viewers_count: Integer | None = None
    channel_arn: str | None = None
    playback_url: str | None = None


class ScheduledRecord(Record, kw_only=True):
    """Of the route of scheduled livestreams (reported)."""

    # The records seen name their category by its number alone.
    may_lack: ClassVar[frozenset[str]] = frozenset({"category_name"})
    # Null in all records seen, since nothing was streamed yet.
    in_extra: ClassVar[frozenset[str]] = frozenset({"livestream_recording", "total_viewers"})

    event_id: Integer
    user_id: Integer | None = None
    user_name: str | None = None
    event_title: str | None = None
    event_description: str | None = None
    category_id: Integer | None = None
    category_name: str | None = None
    event_start_ts: Timestamp | None = None
    event_end_ts: Timestamp | None = None
    livestream_visibility_type: str | None = None
    event_file: str | None = None
    avatar_link: str | None = None
    user_avatar_id: Integer | None = None


class NotificationRecord(ChannelRecord, kw_only=True):
    """A message of the WebSocket, or a record of the live route that fills a gap; an attribute for each field."""

    # Of records of the live route, where it is known.
    in_extra: ClassVar[frozenset[str]] = frozenset({"playback_url"})

    event_id: Integer
    livestream_id: Integer | None = None
    user_id: Integer | None = None
    viewers_count: Integer | None = None
    channel_arn: str | None = None


# The messages are documented by one example, and the records of the live route that fill gaps have other fields.
NotificationRecord.may_lack = frozenset(NotificationRecord.__struct_fields__)

RecordT = TypeVar("RecordT", bound=Record)
