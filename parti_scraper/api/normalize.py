"""From the bytes of a page to items, in one pass; what has no identity that can be read comes back with its reason.

Pages are parsed and checked by msgspec, in compiled code, at once where all is as known. What it does not take is read
again record by record, and field by field, by `reading`, which is more patient. A field that cannot be read costs
itself alone: it is null, and stands as it came in `extra`.

Pure: no Scrapy, no network, no clock.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, NamedTuple, TypeVar

import msgspec

from parti_scraper.api import routes
from parti_scraper.api.records import Unparsable, kind_of, parse_page
from parti_scraper.api.times import MAX_TS, read_timestamp, seconds_to_iso
from parti_scraper.api.values import MAX_INTEGER, MIN_INTEGER, read_boolean, read_integer, read_text
from parti_scraper.exceptions import PageError, RecordError
from parti_scraper.items import ApiRecord, Category, LiveChannel, LiveNotification, Livestream, RejectedRecord
from parti_scraper.redact import may_hide_secrets, redact, redact_text, redact_unparsed, redact_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from parti_scraper.api.categories import CategoryIndex

ItemT = TypeVar("ItemT", bound=ApiRecord)

# Characters that are kept of a record that is no JSON.
_LONGEST_KEPT = 10_000

Integer = Annotated[int, msgspec.Meta(ge=MIN_INTEGER, le=MAX_INTEGER)]
Timestamp = Annotated[int, msgspec.Meta(ge=0, le=MAX_TS)]


# Records as the API sends them, as far as this project knows their fields. What has no default is the identity.


class _Record(msgspec.Struct, kw_only=True):
    """What all have in common.

    Attributes:
        may_lack: fields that only some records have.
    """

    may_lack: ClassVar[frozenset[str]] = frozenset()


class _CategoryRecord(_Record, kw_only=True):
    category_id: Integer
    name: str | None = None
    display_name: str | None = None


class _ChannelRecord(_Record, kw_only=True):
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
    event_id: Integer
    viewers_count: Integer | None = None
    channel_arn: str | None = None
    playback_url: str | None = None


class _NotificationRecord(_ChannelRecord, kw_only=True):
    event_id: Integer
    livestream_id: Integer | None = None
    user_id: Integer | None = None
    viewers_count: Integer | None = None
    channel_arn: str | None = None


# The messages are documented by one example, and the records of the live route that fill gaps have other fields.
_NotificationRecord.may_lack = frozenset(_NotificationRecord.__struct_fields__)

RecordT = TypeVar("RecordT", bound=_Record)


class Remark(NamedTuple):
    """What is noteworthy about the fields of a record, by the API's names.

    Attributes:
        unknown: those that no item declares.
        unreadable: those whose value could not be read.
        absent: those that records are known to have, and this one has not.
    """

    unknown: frozenset[str]
    unreadable: frozenset[str]
    absent: frozenset[str]


@dataclass(frozen=True, slots=True)
class NormalizedPage(Generic[ItemT]):
    """What one page came to.

    Attributes:
        served: records on the page, whatever became of them.
        items: the normalized ones, in the order served.
        ends: of each item, when it ended in Unix seconds; None where that is not known.
        rejected: the others, with reason and position.
        rejected_ends: of each of those, likewise.
        remarks: by its place among the items, what is noteworthy about one.
    """

    served: int
    items: list[ItemT] = field(default_factory=list)
    ends: list[int | None] = field(default_factory=list)
    rejected: list[RejectedRecord] = field(default_factory=list)
    rejected_ends: list[int | None] = field(default_factory=list)
    remarks: dict[int, Remark] = field(default_factory=dict)

    @property
    def unknown_fields(self) -> Counter[str]:
        """Names of fields that no item declares, and how many records have them."""
        return Counter(name for remark in self.remarks.values() for name in remark.unknown)

    @property
    def unreadable_fields(self) -> Counter[str]:
        """Names of fields, and of how many records their value could not be read."""
        return Counter(name for remark in self.remarks.values() for name in remark.unreadable)


def normalize_categories(body: bytes, url: str, scraped_at: str) -> NormalizedPage[Category]:
    """Normalize the answer of the categories route. Raises PageError where it is no list of records."""

    def build(record: _CategoryRecord, extra: dict[str, Any], _position: int) -> Category:
        _remove_secrets(record)
        return Category(record.category_id, record.name, record.display_name, scraped_at, extra)

    return _normalize_page(body, url, _CategoryRecord, build)


def normalize_recent(body: bytes, url: str, scraped_at: str, categories: CategoryIndex) -> NormalizedPage[Livestream]:
    """Normalize a page of the recent route. Raises PageError where it is no list of records."""

    def build(record: _RecentRecord, extra: dict[str, Any], _position: int) -> Livestream:
        start, end = record.event_start_ts, record.event_end_ts
        category_id = record.category_id
        texts = (
            f"{record.livestream_recording}{record.event_file}{record.avatar_link}{record.event_title}"
            f"{record.user_name}{record.category_name}{record.livestream_visibility_type}"
            f"{record.social_media}{record.social_username}{record.discord_discriminator}"
        )
        # `may_hide_secrets`, here without the call: few have anything to hide, and there are many.
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

    return _normalize_page(body, url, _RecentRecord, build)


def normalize_live(
    body: bytes, url: str, observed_at: str, categories: CategoryIndex, *, snapshot_id: str, offset: int
) -> NormalizedPage[LiveChannel]:
    """Normalize a page of the live route, asked for from `offset`.

    Raises PageError where it is no list of records.
    """

    def build(record: _LiveRecord, extra: dict[str, Any], position: int) -> LiveChannel:
        _remove_secrets(record)
        return LiveChannel(
            snapshot_id=snapshot_id,
            observed_at=observed_at,
            rank=offset + position + 1,
            event_id=record.event_id,
            user_id=record.user_id,
            **_channel_fields(record, categories),
            viewers_count=record.viewers_count,
            channel_arn=record.channel_arn,
            playback_url=record.playback_url,
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
        records = parse_page(f"[{text}]".encode(errors="replace"))
    except PageError:
        records = []
    if len(records) != 1 or isinstance(records[0], Unparsable):
        # Not an object, but it may hold a secret all the same.
        rejected = RejectedRecord("not a JSON object", url, position, _as_it_came(Unparsable(text)))
        return NormalizedPage(1, rejected=[rejected], rejected_ends=[None])
    page = _normalize(records, url, _NotificationRecord, _notification("websocket", received_at, categories))
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
        _remove_secrets(record)
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
        "category_id": categories.find(record.category_name) if record.category_id is None else record.category_id,
        "category_name": record.category_name,
        "event_file": record.event_file,
        "avatar_link": record.avatar_link,
        "user_avatar_id": record.user_avatar_id,
        "social_media": record.social_media,
        "social_username": record.social_username,
        "discord_discriminator": record.discord_discriminator,
        "channel_url": routes.channel_url(record.user_name),
    }


# Texts that are an address and nothing else.
_ADDRESSES = frozenset({"livestream_recording", "event_file", "avatar_link", "playback_url"})


def _remove_secrets(record: _Record) -> None:
    """Take the secrets out of the addresses in the texts of a record."""
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if isinstance(value, str) and may_hide_secrets(value):
            setattr(record, name, redact_url(value) if name in _ADDRESSES else redact_text(value))


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
    """Return what reads a page of records that have all their fields, with their types, and no others."""
    types = {each.name: each.type for each in msgspec.structs.fields(record_class)}
    complete = msgspec.defstruct(
        f"{record_class.__name__}Complete",
        [(name, types[name]) for name in _expected(record_class)],
        bases=(record_class,),
        kw_only=True,
        forbid_unknown_fields=True,
    )
    return msgspec.json.Decoder(list[complete])  # type: ignore[valid-type]


@cache
def _expected(record_class: type[_Record]) -> frozenset[str]:
    """Return the fields that every record is known to have."""
    return frozenset(record_class.__struct_fields__) - record_class.may_lack


def _normalize(
    records: list[Any],
    url: str,
    record_class: type[RecordT],
    build: Callable[[RecordT, dict[str, Any], int], ItemT],
) -> NormalizedPage[ItemT]:
    page: NormalizedPage[ItemT] = NormalizedPage(served=len(records))
    known, expected = frozenset(record_class.__struct_fields__), _expected(record_class)
    for position, (served, read) in enumerate(zip(records, _read_all(records, record_class), strict=True)):
        if isinstance(read, RecordError):
            # Where the API redirects to may have a token.
            page.rejected.append(RejectedRecord(str(read), redact_url(url), position, _as_it_came(served)))
            page.rejected_ends.append(_end_of(served))
            continue
        record, unreadable = read
        extra: dict[str, Any] = {}
        if unreadable or not known.issuperset(served):
            # Without secrets, so not all of it need be left.
            kept = {name: value for name, value in served.items() if name not in known or name in unreadable}
            extra = _in_64_bits(redact(kept))
        remark = Remark(frozenset(extra.keys() - unreadable), unreadable, expected - served.keys())
        if any(remark):
            page.remarks[len(page.items)] = remark
        page.items.append(build(record, extra, position))
        page.ends.append(getattr(record, "event_end_ts", None))
    return page


def _read_all(
    records: list[Any], record_class: type[RecordT]
) -> Iterable[tuple[RecordT, frozenset[str]] | RecordError]:
    """Return each record with the names of its fields that cannot be read, or the reason why it is none.

    All at once where all have their types.
    """
    try:
        return [(record, frozenset()) for record in msgspec.convert(records, list[record_class])]  # type: ignore[valid-type]
    except msgspec.ValidationError:
        return [_read(record, record_class) for record in records]


def _read(record: Any, record_class: type[RecordT]) -> tuple[RecordT, frozenset[str]] | RecordError:
    if not isinstance(record, dict):
        what = "no JSON" if isinstance(record, Unparsable) else kind_of(record)
        return RecordError(f"not an object but {what}")
    values: dict[str, Any] = {}
    unreadable: set[str] = set()
    for each in msgspec.structs.fields(record_class):
        value = record.get(each.name)
        try:
            values[each.name] = None if value is None else _READERS[each.type](value)
        except RecordError as error:
            if each.required:
                return RecordError(f"{each.name}: {error}")
            values[each.name] = None
            unreadable.add(each.name)
        if value is None and each.required:
            return RecordError(f"{each.name}: missing")
    return record_class(**values), frozenset(unreadable)


_READERS: dict[Any, Callable[[Any], Any]] = {
    str | None: read_text,
    bool | None: read_boolean,
    Integer: read_integer,
    Integer | None: read_integer,
    Timestamp | None: read_timestamp,
}


def _as_it_came(served: Any) -> Any:
    """Return a record that is set aside, without secrets; of one that is no JSON, not more than the beginning."""
    if not isinstance(served, Unparsable):
        return redact(served)
    # Cut twice: within what is cut off first, a secret may not show as one.
    text = redact_unparsed(served.text[: 2 * _LONGEST_KEPT])
    cut = len(served.text) > 2 * _LONGEST_KEPT or len(text) > _LONGEST_KEPT
    return f"{text[:_LONGEST_KEPT]}… ({len(served.text):,} characters)" if cut else text


def _end_of(served: Any) -> int | None:
    """Return when a livestream ended whose record is set aside, so that time is seen to go on."""
    try:
        return read_timestamp(served["event_end_ts"])
    except (KeyError, TypeError, RecordError):
        return None


def _in_64_bits(value: Any) -> Any:
    """Return the value with longer numbers as texts."""
    if isinstance(value, dict):
        return {name: _in_64_bits(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_in_64_bits(inner) for inner in value]
    if isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER:
        return str(value)
    return value
