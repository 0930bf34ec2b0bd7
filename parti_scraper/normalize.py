"""From the bytes of a page to items, in one pass; what cannot be normalized comes back with its reason.

Pages are parsed and checked by msgspec, in compiled code, at once where all is as known. What it does not take is read
again record by record, with what Python has, which is more patient, and can say what is wrong.

Pure: no Scrapy, no network, no clock.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, lru_cache
from math import floor, isfinite
from typing import TYPE_CHECKING, Annotated, Any, Generic, NoReturn, TypeVar

import msgspec

from parti_scraper import api
from parti_scraper.exceptions import PageError, RecordError
from parti_scraper.items import ApiRecord, Category, LiveChannel, LiveNotification, Livestream, RejectedRecord
from parti_scraper.redact import MAX_DEPTH, redact, redact_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ItemT = TypeVar("ItemT", bound=ApiRecord)

# What a signed 64-bit number holds; a database or a spreadsheet takes no more.
_MAX_INTEGER = 2**63 - 1
_MAX_DIGITS = 19
_SURROGATE = re.compile("[\ud800-\udfff]")
# 9999-12-31T23:59:59Z; milliseconds, taken for seconds, are beyond it.
_MAX_TS = 253_402_300_799

Integer = Annotated[int, msgspec.Meta(ge=-_MAX_INTEGER, le=_MAX_INTEGER)]
Timestamp = Annotated[int, msgspec.Meta(ge=0, le=_MAX_TS)]


# Records as the API sends them, as far as this project knows their fields:


class _CategoryRecord(msgspec.Struct, kw_only=True):
    category_id: Integer
    name: str | None = None
    display_name: str | None = None


class _ChannelRecord(msgspec.Struct, kw_only=True):
    """What the recent and live routes and the notifications have in common."""

    user_name: str | None = None
    event_title: str | None = None
    category_name: str | None = None
    event_file: str | None = None
    avatar_link: str | None = None
    user_avatar_id: Integer | None = None
    social_media: str | None = None
    social_username: str | None = None
    discord_discriminator: str | None = None


class _RecentRecord(_ChannelRecord, kw_only=True):
    event_id: Integer
    user_id: Integer | None = None
    event_start_ts: Timestamp | None = None
    event_end_ts: Timestamp | None = None
    total_viewers: Integer | None = None
    livestream_visibility_type: str | None = None
    has_access_pass: bool | None = None
    livestream_recording: str | None = None


class _LiveRecord(_ChannelRecord, kw_only=True):
    user_id: Integer
    event_id: Integer | None = None
    viewers_count: Integer | None = None
    channel_arn: str | None = None
    playback_url: str | None = None


class _NotificationRecord(_ChannelRecord, kw_only=True):
    event_id: Integer
    livestream_id: Integer | None = None
    user_id: Integer | None = None
    viewers_count: Integer | None = None
    channel_arn: str | None = None


RecordT = TypeVar("RecordT", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class NormalizedPage(Generic[ItemT]):
    """What one page came to.

    Attributes:
        served: records on the page, whatever became of them.
        items: the normalized ones, in the order served.
        ends: of each item, when it ended in Unix seconds; None where that is not known.
        rejected: the others, with reason and position.
        unknown_fields: names of fields that no item declares.
    """

    served: int
    items: list[ItemT] = field(default_factory=list)
    ends: list[int | None] = field(default_factory=list)
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
    minute, second = divmod(floor(ts), 60)
    day, minute = divmod(minute, _MINUTES_PER_DAY)
    return f"{_day_to_iso(day)}T{_MINUTES[minute]}:{_SECONDS[second]}Z"


_MINUTES_PER_DAY = 24 * 60
_MINUTES = [f"{minute // 60:02}:{minute % 60:02}" for minute in range(_MINUTES_PER_DAY)]
_SECONDS = [f"{second:02}" for second in range(60)]


# Writing the date is what takes the time, and the livestreams of a page ended on the same few days.
@lru_cache(maxsize=1024)
def _day_to_iso(day: int) -> str:
    return datetime.fromtimestamp(day * _MINUTES_PER_DAY * 60, UTC).strftime("%Y-%m-%d")


def iso_to_timestamp(text: str) -> int:
    """Return the Unix seconds that `timestamp_to_iso` made the text of."""
    return int(datetime.fromisoformat(text).timestamp())


def parse_page(body: bytes) -> list[Any]:
    """Return the records of a page.

    Raises:
        PageError: the body is not a JSON list; the text says what it is instead.
    """
    try:
        page = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        page = _parse_patiently(body)
    if not isinstance(page, list):
        raise PageError(f"the answer is no list of records but {_kind(page)} ({len(body)} bytes)")
    return page


def _parse_patiently(body: bytes) -> Any:
    """Parse what is nearly JSON: with half characters, numbers too large for any type, or in another encoding."""
    try:
        # Half of a character, written as an escape or as bytes, is no text that UTF-8 can hold.
        return _mend(json.loads(body, parse_constant=_reject_constant, parse_float=_finite))
    except (ValueError, RecursionError) as error:
        # A UnicodeDecodeError is a ValueError too, as is a number of more than 4,300 digits.
        what = "a web page" if body.lstrip()[:1] == b"<" else "empty" if not body.strip() else "broken JSON"
        raise PageError(f"the answer is no list of records but {what} ({len(body)} bytes)") from error


def normalize_categories(body: bytes, url: str, scraped_at: str) -> NormalizedPage[Category]:
    """Normalize the answer of the categories route. Raises PageError where it is no list of records."""

    def build(record: _CategoryRecord, extra: dict[str, Any], _position: int) -> Category:
        return Category(record.category_id, record.name, record.display_name, scraped_at, extra)

    return _normalize_page(body, url, _CategoryRecord, build)


def normalize_recent(body: bytes, url: str, scraped_at: str, categories: CategoryIndex) -> NormalizedPage[Livestream]:
    """Normalize a page of the recent route. Raises PageError where it is no list of records."""

    def build(record: _RecentRecord, extra: dict[str, Any], _position: int) -> Livestream:
        start, end = record.event_start_ts, record.event_end_ts
        # By position, in the order of the class: with names it takes three times as long.
        return Livestream(
            record.event_id,
            record.user_id,
            record.user_name,
            record.event_title,
            categories.find(record.category_name),
            record.category_name,
            None if start is None else timestamp_to_iso(start),
            None if end is None else timestamp_to_iso(end),
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
            api.channel_url(record.social_media, record.social_username),
            api.video_url(record.event_id),
            scraped_at,
            extra,
        )

    return _normalize_page(body, url, _RecentRecord, build)


def normalize_live(
    body: bytes, url: str, observed_at: str, categories: CategoryIndex, *, snapshot_id: str, offset: int
) -> NormalizedPage[LiveChannel]:
    """Normalize a page of the live route, asked for from `offset`.

    Raises PageError where it is no list of records.
    """

    def build(record: _LiveRecord, extra: dict[str, Any], position: int) -> LiveChannel:
        return LiveChannel(
            snapshot_id=snapshot_id,
            observed_at=observed_at,
            rank=offset + position + 1,
            event_id=record.event_id,
            user_id=record.user_id,
            **_channel_fields(record, categories),
            viewers_count=record.viewers_count,
            channel_arn=record.channel_arn,
            playback_url=None if record.playback_url is None else redact_url(record.playback_url),
            extra=extra,
        )

    return _normalize_page(body, url, _LiveRecord, build)


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
    page = _normalize([record], url, _NotificationRecord, _notification("websocket", received_at, categories))
    for rejected in page.rejected:
        rejected.position = position
    return page


def normalize_live_notifications(
    body: bytes, url: str, received_at: str, categories: CategoryIndex
) -> NormalizedPage[LiveNotification]:
    """Normalize a page of the live route as notifications. Raises PageError where it is no list of records."""
    return _normalize_page(body, url, _NotificationRecord, _notification("live", received_at, categories))


def _notification(
    source: str, received_at: str, categories: CategoryIndex
) -> Callable[[_NotificationRecord, dict[str, Any], int], LiveNotification]:
    def build(record: _NotificationRecord, extra: dict[str, Any], _position: int) -> LiveNotification:
        return LiveNotification(
            received_at=received_at,
            source=source,
            livestream_id=record.livestream_id,
            event_id=record.event_id,
            user_id=record.user_id,
            **_channel_fields(record, categories),
            viewers_count=record.viewers_count,
            channel_arn=record.channel_arn,
            extra=extra,
        )

    return build


def _channel_fields(record: _ChannelRecord, categories: CategoryIndex) -> dict[str, Any]:
    """Return the fields that live channels and notifications have in common."""
    return {
        "user_name": record.user_name,
        "event_title": record.event_title,
        "category_id": categories.find(record.category_name),
        "category_name": record.category_name,
        "event_file": record.event_file,
        "avatar_link": record.avatar_link,
        "user_avatar_id": record.user_avatar_id,
        "social_media": record.social_media,
        "social_username": record.social_username,
        "discord_discriminator": record.discord_discriminator,
        "channel_url": api.channel_url(record.social_media, record.social_username),
    }


def _normalize_page(
    body: bytes,
    url: str,
    record_class: type[RecordT],
    build: Callable[[RecordT, dict[str, Any], int], ItemT],
) -> NormalizedPage[ItemT]:
    try:
        records = _decoder(record_class).decode(body)
    except (ValueError, RecursionError):
        # A field that is not known, or something wrong.
        return _normalize(parse_page(body), url, record_class, build)
    items = [build(record, {}, position) for position, record in enumerate(records)]
    return NormalizedPage(len(records), items, [getattr(record, "event_end_ts", None) for record in records])


@cache
def _decoder(record_class: type[RecordT]) -> msgspec.json.Decoder[list[RecordT]]:
    """Return what reads a page of records that have their types and no other fields."""
    strict = msgspec.defstruct(f"{record_class.__name__}Only", (), bases=(record_class,), forbid_unknown_fields=True)
    return msgspec.json.Decoder(list[strict])  # type: ignore[valid-type]


def _normalize(
    records: list[Any],
    url: str,
    record_class: type[RecordT],
    build: Callable[[RecordT, dict[str, Any], int], ItemT],
) -> NormalizedPage[ItemT]:
    page: NormalizedPage[ItemT] = NormalizedPage(served=len(records))
    known = _known_fields(record_class)
    for position, (served, record) in enumerate(zip(records, _check(records, record_class), strict=True)):
        if isinstance(record, RecordError):
            page.rejected.append(RejectedRecord(str(record), url, position, redact(served)))
            continue
        extra: dict[str, Any] = {}
        if not known.issuperset(served):
            # Without secrets, so not all of it need be left.
            extra = redact({name: value for name, value in served.items() if name not in known})
            page.unknown_fields.update(extra)
        page.items.append(build(record, extra, position))
        page.ends.append(getattr(record, "event_end_ts", None))
    return page


def _check(records: list[Any], record_class: type[RecordT]) -> Iterable[RecordT | RecordError]:
    """Return each record with its types, or the reason why not: all at once where all are as they should be."""
    try:
        return msgspec.convert(records, list[record_class])  # type: ignore[valid-type]
    except msgspec.ValidationError:
        return [_check_one(record, record_class) for record in records]


def _check_one(record: Any, record_class: type[RecordT]) -> RecordT | RecordError:
    try:
        return msgspec.convert(record, record_class)
    except msgspec.ValidationError:
        pass
    if not isinstance(record, dict):
        return RecordError(f"not an object but {_kind(record)}")
    try:
        return record_class(**dict(_read(record, record_class)))
    except RecordError as error:
        return error


def _read(record: dict[str, Any], record_class: type[RecordT]) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a record, numbers in texts as numbers.

    A reason never quotes a value: it goes to logs, and the value may be a secret or hostile.

    Raises:
        RecordError: a field is not what it should be.
    """
    for each in msgspec.structs.fields(record_class):
        value = record.get(each.name)
        if value is None and each.required:
            raise RecordError(f"{each.name}: missing")
        yield each.name, None if value is None else _READERS[each.type](each.name, value)


def _read_text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    _fail(name, "not a text", value)


def _read_boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    _fail(name, "not true or false", value)


def _read_integer(name: str, value: Any) -> int:
    if (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS) or (
        isinstance(value, float) and value.is_integer()
    ):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        _fail(name, "not a whole number", value)
    if abs(value) > _MAX_INTEGER:
        raise RecordError(f"{name}: a number out of range")
    return value


def _read_timestamp(name: str, value: Any) -> int:
    number = _read_integer(name, value)
    if not 0 <= number <= _MAX_TS:
        raise RecordError(f"{name}: not a time in Unix seconds")
    return number


_READERS: dict[Any, Callable[[str, Any], Any]] = {
    str | None: _read_text,
    bool | None: _read_boolean,
    Integer: _read_integer,
    Integer | None: _read_integer,
    Timestamp | None: _read_timestamp,
}


def _fail(name: str, problem: str, value: Any) -> NoReturn:
    raise RecordError(f"{name}: {problem} but {_kind(value)}")


@cache
def _known_fields(record_class: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(record_class.__struct_fields__)


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
