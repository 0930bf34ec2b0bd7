"""The records of the API, with exactly the fields and types of the specification."""

from __future__ import annotations

import base64
import json
import math
from typing import TYPE_CHECKING, Any

from parti_scraper.mockserver.history import fraction, mix
from parti_scraper.mockserver.malformed import malformation
from parti_scraper.mockserver.words import CATEGORIES, DEFAULT_TITLE, HOSTILE_TITLES, NO_CATEGORY, PLAIN_TITLES

if TYPE_CHECKING:
    from parti_scraper.mockserver.calendar import ScheduledEvent
    from parti_scraper.mockserver.history import Channel, Event, Stream
    from parti_scraper.mockserver.options import Options

Record = dict[str, Any]
_DEMO_FIELDS = {
    "user_id", "user_name", "event_id", "event_title", "category_name", "total_viewers", "viewers_count",
}  # fmt: skip
# Encoded records that are kept at most, to limit memory.
_MAX_KEPT = 200_000
# json.dumps would make an encoder for each record.
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
# Addresses that may be signed.
_FILES = {"event_file", "avatar_link", "livestream_recording", "playback_url", "original_playback_url", "dvr_url"}
_SALT_TITLE, _SALT_MORE, _SALT_WAVE, _SALT_TOKEN, _SALT_UNDATED, _SALT_ANNOUNCED = 1, 2, 3, 4, 5, 6


def category_records() -> list[Record]:
    """Return the records of the categories route."""
    return [{"category_id": row.category_id, "name": row.name, "display_name": row.display_name} for row in CATEGORIES]


def encode(value: Any) -> bytes:
    """Return the value as compact JSON; bytes unchanged."""
    if isinstance(value, bytes):
        return value
    try:
        return _to_json(value).encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair can only be sent as an escape.
        return json.dumps(value, separators=(",", ":")).encode()


class RecordMaker:
    """Makes the records of livestreams; what it adds depends only on the seed and the event id."""

    def __init__(self, options: Options, channels: list[Channel]) -> None:
        self._options = options
        self._seed = options.seed
        self._channels = channels
        self._category_names: dict[int, str | None] = {NO_CATEGORY: None}
        for row in CATEGORIES:
            nameless = {"empty": "", "display_name": row.display_name, "null": None}[options.nameless]
            self._category_names[row.category_id] = row.name or nameless
        self._encoded: dict[Event, bytes] = {}
        self._signatures = 0
        # Since 2026, addresses that were relative are absolute.
        self._media = "https://media.parti.example/" if options.fields == "2026" else ""

    def recent(self, event: Event) -> Record:
        """Return the record of an ended livestream."""
        channel = self._channels[event.channel]
        bits = mix(self._seed, event.event_id, _SALT_MORE)
        return self._shaped(
            {
                **self._beginning(channel, event.event_id, bits),
                "event_start_ts": event.start,
                "event_end_ts": None if self.is_undated(event.event_id) else event.end,
                **self._category(event.category_id),
                "total_viewers": event.viewers,
                "livestream_visibility_type": "Public",
                "livestream_recording": (
                    f"{self._media}recordings/{channel.user_id}/{event.event_id}/media/hls/master.m3u8"
                    if bits & 7
                    else None
                ),
                "has_access_pass": (bits >> 3) % 25 == 0,
                **_social(channel),
                "discord_discriminator": channel.discriminator,
            }
        )

    def is_undated(self, event_id: int) -> bool:
        """Return whether the record of a livestream has no end."""
        rate = self._options.undated
        return bool(rate) and fraction(self._seed, event_id, _SALT_UNDATED) < rate

    def live(self, stream: Stream, time: float) -> Record:
        """Return the record of a channel that is live, as it is at `time`."""
        channel = self._channels[stream.channel]
        bits = mix(self._seed, stream.event_id, _SALT_MORE)
        url = self._playback_url(channel, stream.event_id, bits)
        return self._shaped(
            {
                **self._beginning(channel, stream.event_id, bits),
                **self._category(stream.category_id),
                "viewers_count": self.viewers_count(stream, time),
                **_social(channel),
                "discord_discriminator": channel.discriminator,
                "channel_arn": channel.arn,
                "playback_url": url,
                "playback_auth_token": self._token(stream.event_id, "playback"),
                **({"original_playback_url": url, "dvr_url": url} if self._options.fields == "2026" else {}),
            }
        )

    def scheduled(self, event: ScheduledEvent) -> Record:
        """Return the record of an announced livestream."""
        channel = self._channels[event.channel]
        bits = mix(self._seed, event.event_id, _SALT_ANNOUNCED)
        record = self._beginning(channel, event.event_id, bits)
        if bits % 8 == 0:
            record["event_title"] = "🎤"
        if record["event_file"] and (bits >> 3) % 5 == 0:
            # A scheme twice, as reported.
            record["event_file"] = f"https://{record['event_file']}"
        return self._shaped(
            {
                **record,
                "category_id": event.category_id or None,
                "event_description": HOSTILE_TITLES[(bits >> 8) % len(HOSTILE_TITLES)],
                "event_start_ts": event.start,
                "event_end_ts": event.end,
                "livestream_visibility_type": "Public",
                "livestream_recording": None,
                "total_viewers": None,
            }
        )

    def notification(self, stream: Stream) -> Record:
        """Return the notification that a channel goes live."""
        channel = self._channels[stream.channel]
        bits = mix(self._seed, stream.event_id, _SALT_MORE)
        known = (bits >> 9) % 5
        return self._shaped(
            {
                **self._beginning(channel, stream.event_id, bits),
                "category_name": self._category_names[stream.category_id] if known else None,
                "viewers_count": self.viewers_count(stream, stream.start) if known > 1 else None,
                **_social(channel),
                "channel_arn": channel.arn,
                "livestream_id": 700_000 + stream.event_id,
            }
        )

    def viewers_count(self, stream: Stream, time: float) -> int:
        """Return the viewers at `time`: they grow for a quarter of an hour, then change up and down within minutes."""
        period = 240 + 360 * fraction(self._seed, stream.event_id, _SALT_WAVE)
        phase = 2 * math.pi * fraction(self._seed, stream.event_id, _SALT_WAVE + 100)
        wave = 1 + 0.15 * math.sin(2 * math.pi * (time - stream.start) / period + phase)
        return int(stream.peak * min(1.0, 0.2 + max(time - stream.start, 0) / 900) * wave)

    def recent_json(self, event: Event) -> bytes:
        """Return the record as it is served, perhaps malformed."""
        encoded = self._encoded.get(event)
        if encoded is None or self._options.signed:
            if len(self._encoded) >= _MAX_KEPT:
                self._encoded.clear()
            encoded = self._encoded[event] = self._served(self.recent(event), event.event_id, "recent")
        return encoded

    def live_json(self, stream: Stream, time: float) -> bytes:
        """Return the record as it is served at `time`, perhaps malformed."""
        return self._served(self.live(stream, time), stream.event_id, "live")

    def scheduled_json(self, event: ScheduledEvent) -> bytes:
        """Return the record as it is served, perhaps malformed."""
        return self._served(self.scheduled(event), event.event_id, "scheduled")

    def _served(self, record: Record, event_id: int, route: str) -> bytes:
        if self._options.signed:
            record = record | {name: self._signed(url) for name, url in record.items() if name in _FILES and url}
        wrong = malformation(self._options, event_id, route)
        return encode(wrong.apply(record) if wrong else record)

    def _signed(self, url: str) -> str:
        """Return the address of a file with a new signature."""
        self._signatures += 1
        signature = mix(self._seed, self._signatures, _SALT_TOKEN)
        query = f"Expires={1_800_000_000 + self._signatures}&Signature={signature:016x}&Key-Pair-Id=KEYPAIR"
        return f"{url}{'&' if '?' in url else '?'}{query}"

    def _shaped(self, record: Record) -> Record:
        if self._options.drift in {"field", "all"}:
            record = record | {"stream_quality": "1080p60"}
        if self._options.fields == "demo":
            record = {name: value for name, value in record.items() if name in _DEMO_FIELDS}
        absent, unreadable = (
            names.split(",") if names else () for names in (self._options.absent, self._options.unreadable)
        )
        if absent or unreadable:
            record = {name: value for name, value in record.items() if name not in absent}
            record |= {name: {"value": record[name]} for name in unreadable if name in record}
        return record

    def _category(self, category_id: int) -> Record:
        named: Record = {"category_name": self._category_names[category_id]}
        has_number = self._options.category_ids and category_id != NO_CATEGORY
        return named | ({"category_id": category_id} if has_number else {})

    def _beginning(self, channel: Channel, event_id: int, bits: int) -> Record:
        """Return the fields at the beginning of every record."""
        return {
            "user_id": channel.user_id,
            "user_name": channel.name,
            "user_avatar_id": channel.avatar_id,
            "avatar_link": channel.avatar_link,
            "event_id": event_id,
            "event_title": self._title(event_id),
            "event_file": f"https://assets.parti.example/events/{event_id}.jpg" if (bits >> 20) % 4 else None,
        }

    def _title(self, event_id: int) -> str:
        bits = mix(self._seed, event_id, _SALT_TITLE)
        share, bits = bits % 100, bits >> 8
        if share < 25:
            return DEFAULT_TITLE
        if share < 80:
            return PLAIN_TITLES[bits % len(PLAIN_TITLES)].format((bits >> 8) % 400)
        return HOSTILE_TITLES[bits % len(HOSTILE_TITLES)]

    def _playback_url(self, channel: Channel, event_id: int, bits: int) -> str:
        url = f"https://playback.parti.example/api/video/v1/us-west-2.channel.{channel.user_id}.m3u8"
        query = (
            f"?token={self._token(event_id, 'viewer')}",
            f"?player_version=1.24.0&token={self._token(event_id, 'viewer')}&allow_source=true",
            "?player_version=1.24.0&allow_source=true",
            "",
        )
        return url + query[(bits >> 30) % 4]

    def _token(self, event_id: int, purpose: str) -> str:
        """Return what looks like a JSON Web Token, and is made up."""
        payload = f'{{"event":{event_id},"for":"{purpose}","exp":4102444800}}'
        signature = mix(self._seed, event_id, _SALT_TOKEN) | mix(self._seed, event_id, _SALT_TOKEN + 100) << 64
        parts = (b'{"alg":"ES384","typ":"JWT"}', payload.encode(), signature.to_bytes(16, "big"))
        return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def _social(channel: Channel) -> Record:
    return {"social_media": channel.social_media, "social_username": channel.social_username}
