"""From the bytes of a page to items, in one pass; a record whose identity cannot be read is returned with the reason.

msgspec parses and checks a whole page at once, in compiled code, if all fields are as expected. If not, the page is
read again record by record, and field by field, by `values` and `times`, which accept more. A field that cannot be read
affects no other: it is null, and its value is in `extra`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

import msgspec

from parti_scraper.api.build import ItemT
from parti_scraper.api.records import Unparsable, kind_of, parse_page
from parti_scraper.api.schema import Integer, Timestamp
from parti_scraper.api.times import read_timestamp
from parti_scraper.api.values import MAX_INTEGER, MIN_INTEGER, read_boolean, read_integer, read_text
from parti_scraper.exceptions import PageError, RecordError
from parti_scraper.items import RejectedRecord
from parti_scraper.redact import redact, redact_unparsed, redact_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from parti_scraper.api.build import Build
    from parti_scraper.api.schema import Record, RecordT

# Characters that are kept of a record that is no JSON.
_LONGEST_KEPT = 10_000


class Remark(NamedTuple):
    """What is noteworthy about the fields of a record, by the API's names.

    Attributes:
        unknown: those that no item declares.
        unreadable: those whose value could not be read.
        absent: those that records are known to have, and this one does not have.
    """

    unknown: frozenset[str]
    unreadable: frozenset[str]
    absent: frozenset[str]


@dataclass(frozen=True, slots=True)
class NormalizedPage(Generic[ItemT]):
    """The items of a page, and what was not made an item.

    Attributes:
        served: how many records were on the page.
        items: one of each record that could be read, in the order served.
        ends: of each item, when it ended in Unix seconds; None where that is not known.
        rejected: the others, with reason and position.
        rejected_ends: of each of those, when it ended.
        remarks: what is noteworthy about an item, by its place among the items.
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
        """Names of fields, and in how many records their value could not be read."""
        return Counter(name for remark in self.remarks.values() for name in remark.unreadable)


def normalize_page(
    body: bytes, url: str, record_class: type[RecordT], build: Build[RecordT, ItemT]
) -> NormalizedPage[ItemT]:
    """Normalize the body of an answer.

    Args:
        body: as it came.
        url: of the request, for the records that are set aside.
        record_class: the class of its records.
        build: makes an item of each.

    Raises:
        PageError: it is no list of records.
    """
    try:
        records = _decoder(record_class).decode(body)
    except (ValueError, RecursionError):
        # A field is unknown, missing or wrong.
        return _normalize_records(parse_page(body), url, record_class, build)
    items = [build(record, {}, position) for position, record in enumerate(records)]
    return NormalizedPage(len(records), items, [getattr(record, "event_end_ts", None) for record in records])


def normalize_message(
    text: str, url: str, record_class: type[RecordT], build: Build[RecordT, ItemT], position: int
) -> NormalizedPage[ItemT]:
    """Normalize a message of the WebSocket, before which `position` others came; else as `normalize_page`."""
    try:
        records = parse_page(f"[{text}]".encode(errors="replace"))
    except PageError:
        records = []
    if len(records) != 1 or isinstance(records[0], Unparsable):
        # Even if it is no object, it may contain a secret.
        rejected = RejectedRecord("not a JSON object", url, position, _as_it_came(Unparsable(text)))
        return NormalizedPage(1, rejected=[rejected], rejected_ends=[None])
    return _normalize_records(records, url, record_class, build, position)


@cache
def _decoder(record_class: type[RecordT]) -> msgspec.json.Decoder[list[RecordT]]:
    """Return the decoder of a page whose records have all their fields, of the right types, and no others."""
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
def _expected(record_class: type[Record]) -> frozenset[str]:
    """Return the fields that every record is known to have."""
    return frozenset(record_class.__struct_fields__) - record_class.may_lack


def _normalize_records(
    records: list[Any], url: str, record_class: type[RecordT], build: Build[RecordT, ItemT], first: int = 0
) -> NormalizedPage[ItemT]:
    """Normalize parsed records one by one; `first` is the position of the first, the rest as in `normalize_page`."""
    page: NormalizedPage[ItemT] = NormalizedPage(served=len(records))
    known, expected = frozenset(record_class.__struct_fields__), _expected(record_class)
    for position, (served, read) in enumerate(zip(records, _read_all(records, record_class), strict=True), first):
        if isinstance(read, RecordError):
            # The API may have redirected to a URL with a token.
            page.rejected.append(RejectedRecord(str(read), redact_url(url), position, _as_it_came(served)))
            page.rejected_ends.append(_end_of(served))
            continue
        record, unreadable = read
        extra: dict[str, Any] = {}
        if unreadable or not known.issuperset(served):
            # `redact` may leave some of it out.
            kept = {name: value for name, value in served.items() if name not in known or name in unreadable}
            extra = _in_64_bits(redact(kept))
        unknown = frozenset(extra.keys() - unreadable - record_class.in_extra)
        remark = Remark(unknown, unreadable, expected - served.keys())
        if any(remark):
            page.remarks[len(page.items)] = remark
        page.items.append(build(record, extra, position))
        page.ends.append(getattr(record, "event_end_ts", None))
    return page


def _read_all(
    records: list[Any], record_class: type[RecordT]
) -> Iterable[tuple[RecordT, frozenset[str]] | RecordError]:
    """Return each record with the names of its unreadable fields, or the reason why it cannot be used.

    They are converted at once if all of them have the right types.
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
    """Return a record that is set aside, without secrets; one that is no JSON is cut to its beginning."""
    if not isinstance(served, Unparsable):
        return redact(served)
    # Cut twice: a secret at the first cut may not be recognized, and the second one removes it.
    text = redact_unparsed(served.text[: 2 * _LONGEST_KEPT])
    cut = len(served.text) > 2 * _LONGEST_KEPT or len(text) > _LONGEST_KEPT
    return f"{text[:_LONGEST_KEPT]}… ({len(served.text):,} characters)" if cut else text


def _end_of(served: Any) -> int | None:
    """Return when a livestream ended whose record is set aside: the plan needs the times of all records."""
    try:
        return read_timestamp(served["event_end_ts"])
    except (KeyError, TypeError, RecordError):
        return None


def _in_64_bits(value: Any) -> Any:
    """Return the value, numbers of more than 64 bits as texts."""
    if isinstance(value, dict):
        return {name: _in_64_bits(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_in_64_bits(inner) for inner in value]
    if isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER:
        return str(value)
    return value
