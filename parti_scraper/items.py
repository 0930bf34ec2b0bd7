"""What the spiders yield: typed records with documented fields, whose order is that of every file.

The descriptions go into `datapackage.json`, so they are written for the people who open the files.
Times are ISO 8601 in UTC, to the second, such as `2026-11-23T21:45:00Z`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar


def _field(description: str) -> Any:
    return field(metadata={"json_schema_extra": {"description": description}})


def _time(description: str) -> Any:
    return field(metadata={"json_schema_extra": {"description": description, "format": "date-time"}})


_EXTRA = (
    "Fields of the API without a declared field, and values that could not be read, as they came except for secrets; "
    "numbers of more than 64 bits as text."
)
_CATEGORY_ID = (
    "The category's number, as the record came with it, or else found by its name in the categories route; "
    "null where none matches."
)
_CHANNEL_URL = "The channel's page on the site, by its name."


@dataclass(slots=True)
class Category:
    """A category of livestreams, from the categories route."""

    collection: ClassVar[str] = "categories"

    category_id: int = _field("The category's number, as the `categories` parameter of the API takes it.")
    name: str | None = _field("The name that livestreams carry; empty for some categories.")
    display_name: str | None = _field("The name that the site shows; may differ from `name` in case.")
    scraped_at: str = _time("When this record was received.")
    extra: dict[str, Any] = _field(_EXTRA)

    @property
    def identity(self) -> int:
        return self.category_id


@dataclass(slots=True)
class Livestream:
    """A livestream that has ended, from the recent route; an attribute for each column of the files."""

    collection: ClassVar[str] = "livestreams"

    event_id: int = _field("The livestream's number.")
    user_id: int | None = _field("The number of the channel that streamed.")
    user_name: str | None = _field("The channel's name.")
    event_title: str | None = _field("The title, free text by the streamer.")
    category_id: int | None = _field(_CATEGORY_ID)
    category_name: str | None = _field("The category's name as the record came with it.")
    event_start: str | None = _time("When the livestream began.")
    event_end: str | None = _time("When the livestream ended.")
    duration_seconds: int | None = _field("From start to end, in seconds; null where the end is first.")
    total_viewers: int | None = _field("Viewers in total; 0 is possible.")
    livestream_visibility_type: str | None = _field('Who may watch: "Public" as far as seen.')
    has_access_pass: bool | None = _field("Whether watching takes an access pass.")
    livestream_recording: str | None = _field("Path or address of the recording (.m3u8), without tokens.")
    event_file: str | None = _field("Address of the livestream's picture.")
    avatar_link: str | None = _field("Address of the channel's picture.")
    user_avatar_id: int | None = _field("Number of the channel's picture.")
    social_media: str | None = _field("Where the channel's account comes from: parti, twitter, discord, telegram.")
    social_username: str | None = _field("The account's name there.")
    discord_discriminator: str | None = _field("The number behind a Discord name.")
    channel_url: str | None = _field(_CHANNEL_URL)
    video_url: str = _field("The livestream's page on the site.")
    scraped_at: str = _time("When this record was received.")
    extra: dict[str, Any] = _field(_EXTRA)

    @property
    def identity(self) -> int:
        return self.event_id


@dataclass(slots=True)
class LiveChannel:
    """A channel that is live, as seen in one snapshot of the live route; an attribute for each column of the files."""

    collection: ClassVar[str] = "live_channels"

    snapshot_id: str = _field("The snapshot: the run's name and the snapshot's number in it.")
    observed_at: str = _time("When the page with this channel was received.")
    rank: int = _field("The channel's place in the order of the route, most viewers first, from 1.")
    event_id: int = _field("The livestream's number.")
    user_id: int = _field("The channel's number.")
    user_name: str | None = _field("The channel's name.")
    event_title: str | None = _field("The title, free text by the streamer.")
    category_id: int | None = _field(_CATEGORY_ID)
    category_name: str | None = _field("The category's name as the record came with it.")
    viewers_count: int | None = _field("Viewers at that moment.")
    event_file: str | None = _field("Address of the livestream's picture.")
    avatar_link: str | None = _field("Address of the channel's picture.")
    user_avatar_id: int | None = _field("Number of the channel's picture.")
    social_media: str | None = _field("Where the channel's account comes from: parti, twitter, discord, telegram.")
    social_username: str | None = _field("The account's name there.")
    discord_discriminator: str | None = _field("The number behind a Discord name.")
    channel_arn: str | None = _field("The channel's resource name at the video service.")
    playback_url: str | None = _field("Address of the video, without the tokens of its query.")
    channel_url: str | None = _field(_CHANNEL_URL)
    extra: dict[str, Any] = _field(_EXTRA)

    @property
    def identity(self) -> tuple[int, int]:
        """What makes two records of one snapshot the same one: a channel may have two livestreams at once."""
        return self.user_id, self.event_id


@dataclass(slots=True)
class LiveNotification:
    """A channel that went live, from the WebSocket or the live route; an attribute for each column of the files."""

    collection: ClassVar[str] = "live_notifications"

    received_at: str = _time("When this record was received.")
    source: str = _field("`websocket`, or `live` where the live route showed a channel without a notification.")
    livestream_id: int | None = _field("A second number of the livestream, which only the WebSocket knows.")
    event_id: int = _field("The livestream's number.")
    user_id: int | None = _field("The channel's number.")
    user_name: str | None = _field("The channel's name.")
    event_title: str | None = _field("The title, free text by the streamer.")
    category_id: int | None = _field(_CATEGORY_ID)
    category_name: str | None = _field("The category's name as the record came with it.")
    viewers_count: int | None = _field("Viewers at that moment.")
    event_file: str | None = _field("Address of the livestream's picture.")
    avatar_link: str | None = _field("Address of the channel's picture.")
    user_avatar_id: int | None = _field("Number of the channel's picture.")
    social_media: str | None = _field("Where the channel's account comes from: parti, twitter, discord, telegram.")
    social_username: str | None = _field("The account's name there.")
    discord_discriminator: str | None = _field("The number behind a Discord name.")
    channel_arn: str | None = _field("The channel's resource name at the video service.")
    channel_url: str | None = _field(_CHANNEL_URL)
    extra: dict[str, Any] = _field(_EXTRA)

    @property
    def identity(self) -> int:
        return self.event_id


@dataclass(slots=True)
class ScheduledLivestream:
    """An announced livestream, from the route of scheduled ones; an attribute for each column of the files."""

    collection: ClassVar[str] = "scheduled_livestreams"

    event_id: int = _field("The livestream's number.")
    user_id: int | None = _field("The number of the channel that is to stream.")
    user_name: str | None = _field("The channel's name.")
    event_title: str | None = _field("The title, free text by the streamer.")
    event_description: str | None = _field("What is announced, free text by the streamer.")
    category_id: int | None = _field(_CATEGORY_ID)
    category_name: str | None = _field(
        "The category's name as the record came with it, or else found by its number in the categories route."
    )
    event_start: str | None = _time("When the livestream is to begin.")
    event_end: str | None = _time("When the livestream is to end.")
    livestream_visibility_type: str | None = _field('Who may watch: "Public" as far as seen.')
    event_file: str | None = _field("Address of the livestream's picture.")
    avatar_link: str | None = _field("Address of the channel's picture.")
    user_avatar_id: int | None = _field("Number of the channel's picture.")
    scraped_at: str = _time("When this record was received.")
    extra: dict[str, Any] = _field(_EXTRA)

    @property
    def identity(self) -> int:
        return self.event_id


@dataclass(slots=True)
class ApiCall:
    """A request to an API that a page of the site made, or a WebSocket that it opened."""

    collection: ClassVar[str] = "api_calls"

    page_url: str = _field("The page that made the request, without secrets.")
    method: str = _field("The method, such as GET.")
    host: str = _field("The host, with its port where that is not the usual one.")
    path: str = _field("The path.")
    query: str = _field("The query, without secrets; empty where there is none.")
    status: int | None = _field("The status of the answer, 101 of an open WebSocket; null where none came.")
    resource: str = _field("`http` or `websocket`.")
    known: bool = _field("Whether it is a route that this project uses, on a host that it is configured for.")
    observed_at: str = _time("When the request was made.")

    @property
    def identity(self) -> object:
        """What makes two records the same one: nothing, since every request counts."""
        return object()

    @property
    def name(self) -> str:
        """The name under which it is counted in the summary."""
        return f"{self.method} {self.host}{self.path}"


# What the API sends; and everything that the spiders yield.
ApiRecord = Category | Livestream | LiveChannel | LiveNotification | ScheduledLivestream
Item = ApiRecord | ApiCall


@dataclass(slots=True)
class RejectedRecord:
    """A record that could not be normalized: a line of `quarantine.jsonl`."""

    reason: str = _field("Why the record could not be normalized.")
    url: str = _field("The request that the record came with.")
    position: int = _field("The record's place in that page, from 0.")
    record: Any = _field("The record as it came, except for secrets; if it is not JSON, its text or the start of it.")


@dataclass(slots=True)
class RepeatedRecord(RejectedRecord):
    """A record that was set aside before, and came again on an overlapping page; it is counted, not written."""
