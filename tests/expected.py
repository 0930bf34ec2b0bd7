"""The rows expected for the mock server's records, by a second and simpler implementation."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from parti_scraper.feeds.exporters import harmless

COMMON = [
    "user_name",
    "event_title",
    "category_name",
    "event_file",
    "avatar_link",
    "user_avatar_id",
    "social_media",
    "social_username",
    "discord_discriminator",
]


def iso(ts: int) -> str:
    """Return Unix seconds as the files have them."""
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def category_id(record: dict[str, Any], categories: list[dict[str, Any]]) -> int | None:
    """Return the number of a record's category."""
    name = (record["category_name"] or "").lower()
    for field in ("name", "display_name"):
        for category in categories:
            if name and category[field].lower() == name:
                return int(category["category_id"])
    return None


def channel_url(record: dict[str, Any]) -> str:
    """Return the address of a record's channel."""
    return f"https://parti.com/{quote(record['user_name'], safe='')}"


def livestream(record: dict[str, Any], categories: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of an ended livestream, without `scraped_at`."""
    return {field: record[field] for field in COMMON} | {
        "event_id": record["event_id"],
        "user_id": record["user_id"],
        "category_id": category_id(record, categories),
        "event_start": iso(record["event_start_ts"]),
        "event_end": iso(record["event_end_ts"]),
        "duration_seconds": record["event_end_ts"] - record["event_start_ts"],
        "total_viewers": record["total_viewers"],
        "livestream_visibility_type": record["livestream_visibility_type"],
        "has_access_pass": record["has_access_pass"],
        "livestream_recording": record["livestream_recording"],
        "channel_url": channel_url(record),
        "video_url": f"https://parti.com/video/{record['event_id']}",
        "extra": {},
    }


def live_channel(record: dict[str, Any], categories: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of a live channel, without the fields of the snapshot and the address of the video."""
    return {field: record[field] for field in COMMON} | {
        "event_id": record["event_id"],
        "user_id": record["user_id"],
        "category_id": category_id(record, categories),
        "viewers_count": record["viewers_count"],
        "channel_arn": record["channel_arn"],
        "channel_url": channel_url(record),
        "extra": {},
    }


def scheduled(record: dict[str, Any], categories: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of an announced livestream, without `scraped_at`."""
    names = {row["category_id"]: row["name"] or row["display_name"] for row in categories}
    same = ("event_id", "user_id", "user_name", "event_title", "event_description", "category_id")
    return {field: record[field] for field in same} | {
        "category_name": names.get(record["category_id"]),
        "event_start": iso(record["event_start_ts"]),
        "event_end": iso(record["event_end_ts"]),
        "livestream_visibility_type": record["livestream_visibility_type"],
        "event_file": record["event_file"],
        "avatar_link": record["avatar_link"],
        "user_avatar_id": record["user_avatar_id"],
        "extra": {"livestream_recording": None, "total_viewers": None},
    }


def without(row: dict[str, Any], *fields: str) -> dict[str, Any]:
    """Return the row without some fields."""
    return {name: value for name, value in row.items() if name not in fields}


def as_csv(row: dict[str, Any]) -> dict[str, str]:
    """Return the CSV row of a row of JSON Lines."""
    cells = {None: "", True: "true", False: "false"}
    return {
        name: cells[value]
        if value is None or isinstance(value, bool)
        else harmless(value)
        if isinstance(value, str)
        else str(value)
        for name, value in row.items()
        if name != "extra"
    }
