"""From the bytes of a page to items, in one pass; what cannot be normalized comes back with its reason.

Pure: no Scrapy, no network, no clock.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Generic, NoReturn, TypeVar

from parti_scraper import api
from parti_scraper.exceptions import PageError, RecordError
from parti_scraper.items import ApiRecord, Category, LiveChannel, LiveNotification, Livestream, RejectedRecord
from parti_scraper.redact import MAX_DEPTH, redact, redact_url

Record = Mapping[str, Any]
ItemT = TypeVar("ItemT", bound=ApiRecord)

# What a signed 64-bit number holds; a database or a spreadsheet takes no more.
_MAX_INTEGER = 2**63 - 1
_MAX_DIGITS = 19
_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# 9999-12-31T23:59:59Z; milliseconds, taken for seconds, are beyond it.
_MAX_TS = 253_402_300_799


@dataclass(frozen=True, slots=True)
class NormalizedPage(Generic[ItemT]):
    """What one page came to.

    Attributes:
        served: records on the page, whatever became of them.
        items: the normalized ones, in the order served.
        rejected: the others, with reason and position.
        unknown_fields: names of fields that no item declares.
    """

    served: int
    items: list[ItemT] = field(default_factory=list)
    rejected: list[RejectedRecord] = field(default_factory=list)
    unknown_fields: set[str] = field(default_factory=set)


class CategoryIndex:
    """Finds a category's number by a name, ignoring case: first by `name`, then by `display_name`.

    Several categories have no `name` (reported), so an empty name finds nothing.
    """

    def __init__(self, categories: Iterable[Category] = ()) -> None:
        self.ids: list[int] = []
        self._by_name: dict[str, int] = {}
        by_display_name: dict[str, int] = {}
        self._named: set[int] = set()
        self._names: list[str] = []
        for category in categories:
            self.ids.append(category.category_id)
            self._names.append(category.name or category.display_name or str(category.category_id))
            if category.name:
                self._named.add(category.category_id)
                self._by_name.setdefault(category.name.casefold(), category.category_id)
            if category.display_name:
                by_display_name.setdefault(category.display_name.casefold(), category.category_id)
        self._by_name = by_display_name | self._by_name

    def find(self, name: str | None) -> int | None:
        """Return the number of the category of this name, or None."""
        return self._by_name.get(name.casefold()) if name else None

    def names(self) -> list[str]:
        """Return the names that `find` knows, in the order of the route, each in its own case."""
        return list(self._names)

    def is_tellable(self, category_id: int) -> bool:
        """Tell whether a record of this category can be known by the name that it carries."""
        return category_id in self._named


def timestamp_to_iso(ts: float) -> str:
    """Return Unix seconds as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_to_timestamp(text: str) -> int:
    """Return the Unix seconds that `timestamp_to_iso` made the text of."""
    return int(datetime.fromisoformat(text).timestamp())


def parse_page(body: bytes) -> list[Any]:
    """Return the records of a page.

    Raises:
        PageError: the body is not a JSON list; the text says what it is instead.
    """
    try:
        page = json.loads(body, parse_constant=_reject_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        # A UnicodeDecodeError is a ValueError too, as is a number of more than 4,300 digits.
        what = "a web page" if body.lstrip()[:1] == b"<" else "empty" if not body.strip() else "broken JSON"
        raise PageError(f"the answer is no list of records but {what} ({len(body)} bytes)") from error
    if not isinstance(page, list):
        raise PageError(f"the answer is no list of records but {_kind(page)} ({len(body)} bytes)")
    # Half of a character, written as an escape or as bytes, is no text that UTF-8 can hold.
    return _mend(page) if _HALF_CHARACTER.search(body) else page


def normalize_categories(body: bytes, url: str, scraped_at: str) -> NormalizedPage[Category]:
    """Normalize the answer of the categories route. Raises PageError where it is no list of records."""

    def normalize(reader: _Reader, _position: int) -> Category:
        return Category(
            category_id=reader.required_integer("category_id"),
            name=reader.text("name"),
            display_name=reader.text("display_name"),
            scraped_at=scraped_at,
            extra=reader.extra(),
        )

    return _normalize(body, url, normalize)


def normalize_recent(body: bytes, url: str, scraped_at: str, categories: CategoryIndex) -> NormalizedPage[Livestream]:
    """Normalize a page of the recent route. Raises PageError where it is no list of records."""

    def normalize(reader: _Reader, _position: int) -> Livestream:
        event_id = reader.required_integer("event_id")
        start, end = reader.timestamp("event_start_ts"), reader.timestamp("event_end_ts")
        return Livestream(
            event_id=event_id,
            **_channel_fields(reader, categories),
            event_start=None if start is None else timestamp_to_iso(start),
            event_end=None if end is None else timestamp_to_iso(end),
            duration_seconds=None if start is None or end is None or end < start else end - start,
            total_viewers=reader.integer("total_viewers"),
            livestream_visibility_type=reader.text("livestream_visibility_type"),
            has_access_pass=reader.boolean("has_access_pass"),
            livestream_recording=reader.text("livestream_recording"),
            video_url=api.video_url(event_id),
            user_id=reader.integer("user_id"),
            scraped_at=scraped_at,
            extra=reader.extra(),
        )

    return _normalize(body, url, normalize)


def normalize_live(
    body: bytes, url: str, observed_at: str, categories: CategoryIndex, *, snapshot_id: str, offset: int
) -> NormalizedPage[LiveChannel]:
    """Normalize a page of the live route, asked for from `offset`.

    Raises PageError where it is no list of records.
    """

    def normalize(reader: _Reader, position: int) -> LiveChannel:
        playback_url = reader.text("playback_url")
        return LiveChannel(
            snapshot_id=snapshot_id,
            observed_at=observed_at,
            rank=offset + position + 1,
            event_id=reader.integer("event_id"),
            user_id=reader.required_integer("user_id"),
            **_channel_fields(reader, categories),
            viewers_count=reader.integer("viewers_count"),
            channel_arn=reader.text("channel_arn"),
            playback_url=None if playback_url is None else redact_url(playback_url),
            extra=reader.extra(),
        )

    return _normalize(body, url, normalize)


def normalize_notification(
    text: str, url: str, received_at: str, categories: CategoryIndex, position: int
) -> NormalizedPage[LiveNotification]:
    """Normalize a message of the WebSocket: one item, or what was received with the reason why it is none.

    Args:
        text: the message.
        url: where it came from.
        received_at: when, in ISO 8601.
        categories: finds a category's number.
        position: how many messages came before.
    """
    try:
        (record,) = parse_page(f"[{text}]".encode(errors="replace"))
    except (PageError, ValueError):
        # Not an object, but it may hold a secret all the same.
        return NormalizedPage(1, rejected=[RejectedRecord("not a JSON object", url, position, redact(text))])

    def normalize(reader: _Reader, _position: int) -> LiveNotification:
        return _notification(reader, "websocket", received_at, categories)

    page = _normalize_records([record], url, normalize)
    for rejected in page.rejected:
        rejected.position = position
    return page


def normalize_live_notifications(
    body: bytes, url: str, received_at: str, categories: CategoryIndex
) -> NormalizedPage[LiveNotification]:
    """Normalize a page of the live route as notifications. Raises PageError where it is no list of records."""

    def normalize(reader: _Reader, _position: int) -> LiveNotification:
        return _notification(reader, "live", received_at, categories)

    return _normalize(body, url, normalize)


def _notification(reader: _Reader, source: str, received_at: str, categories: CategoryIndex) -> LiveNotification:
    return LiveNotification(
        received_at=received_at,
        source=source,
        livestream_id=reader.integer("livestream_id"),
        event_id=reader.required_integer("event_id"),
        user_id=reader.integer("user_id"),
        **_channel_fields(reader, categories),
        viewers_count=reader.integer("viewers_count"),
        channel_arn=reader.text("channel_arn"),
        extra=reader.extra(),
    )


class _Reader:
    """Reads the fields of one record, each checked for its type; remembers which were read.

    A reason never quotes a value: it goes to logs, and the value may be a secret or hostile.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._left = dict(record)

    def text(self, name: str) -> str | None:
        value = self._left.pop(name, None)
        if value is None or isinstance(value, str):
            return value
        self._fail(name, "not a text", value)

    def boolean(self, name: str) -> bool | None:
        value = self._left.pop(name, None)
        if value is None or isinstance(value, bool):
            return value
        self._fail(name, "not true or false", value)

    def integer(self, name: str) -> int | None:
        value = self._left.pop(name, None)
        if value is None:
            return None
        if (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS) or (
            isinstance(value, float) and value.is_integer()
        ):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            self._fail(name, "not a whole number", value)
        if abs(value) > _MAX_INTEGER:
            raise RecordError(f"{name}: a number out of range")
        return value

    def required_integer(self, name: str) -> int:
        value = self.integer(name)
        if value is None:
            raise RecordError(f"{name}: missing")
        return value

    def timestamp(self, name: str) -> int | None:
        value = self.integer(name)
        if value is not None and not 0 <= value <= _MAX_TS:
            raise RecordError(f"{name}: not a time in Unix seconds")
        return value

    def extra(self) -> dict[str, Any]:
        """Return what was not read, without secrets."""
        extra: dict[str, Any] = redact(self._left) if self._left else {}
        return extra

    @staticmethod
    def _fail(name: str, problem: str, value: Any) -> NoReturn:
        raise RecordError(f"{name}: {problem} but {_kind(value)}")


def _channel_fields(reader: _Reader, categories: CategoryIndex) -> dict[str, Any]:
    """Read the fields that the recent and live routes have in common."""
    category_name = reader.text("category_name")
    social_media, social_username = reader.text("social_media"), reader.text("social_username")
    return {
        "user_name": reader.text("user_name"),
        "event_title": reader.text("event_title"),
        "category_id": categories.find(category_name),
        "category_name": category_name,
        "event_file": reader.text("event_file"),
        "avatar_link": reader.text("avatar_link"),
        "user_avatar_id": reader.integer("user_avatar_id"),
        "social_media": social_media,
        "social_username": social_username,
        "discord_discriminator": reader.text("discord_discriminator"),
        "channel_url": api.channel_url(social_media, social_username),
    }


def _normalize(body: bytes, url: str, normalize: Callable[[_Reader, int], ItemT]) -> NormalizedPage[ItemT]:
    return _normalize_records(parse_page(body), url, normalize)


def _normalize_records(
    records: list[Any], url: str, normalize: Callable[[_Reader, int], ItemT]
) -> NormalizedPage[ItemT]:
    page: NormalizedPage[ItemT] = NormalizedPage(served=len(records))
    for position, record in enumerate(records):
        try:
            if not isinstance(record, dict):
                raise RecordError(f"not an object but {_kind(record)}")  # noqa: TRY301
            item = normalize(_Reader(record), position)
        except RecordError as error:
            page.rejected.append(RejectedRecord(str(error), url, position, redact(record)))
        else:
            page.items.append(item)
            page.unknown_fields.update(item.extra)
    return page


def _mend(value: Any, depth: int = 0) -> Any:
    """Replace lone surrogates by U+FFFD; what is deeper than `redact` goes is left to it."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if depth > MAX_DEPTH:
        return value
    if isinstance(value, list):
        return [_mend(inner, depth + 1) for inner in value]
    if isinstance(value, dict):
        return {_mend(name): _mend(inner, depth + 1) for name, inner in value.items()}
    return value


def _reject_constant(name: str) -> NoReturn:
    # Python's parser takes NaN and Infinity; JSON has neither, and no reader of our files would take them.
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float | str:
    """Return the number, or its text where it is too large for one: infinity is not JSON either."""
    number = float(text)
    return number if isfinite(number) else text


def _kind(value: Any) -> str:
    names = {
        bool: "true or false",
        dict: "an object",
        float: "a fraction",
        int: "a number",
        list: "a list",
        str: "a text",
        type(None): "null",
    }
    return names[type(value)]
