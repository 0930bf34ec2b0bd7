"""The tables of the dataset: columns, keys, and which of several rows with one key is kept. Pure.

The columns of a table of records are those of its items. A spider that is not named here has a table too: by the key
of its route, or else by the run, the file and the line.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, get_args, get_origin, get_type_hints

from parti_scraper.api.registry import SOURCES
from parti_scraper.items import RejectedRecord
from parti_scraper.run.entries import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

# Of the rows and columns as a whole, in every target. To be raised if a column is added.
SCHEMA_VERSION = 1

RUN_UUID: Final = "run_uuid"
CONTENT_HASH: Final = "content_hash"
FIRST_SCRAPED_AT: Final = "first_scraped_at"
LAST_SCRAPED_AT: Final = "last_scraped_at"
LOADED_FILES: Final = "loaded_files"
QUARANTINE: Final = "quarantine"

_TYPES = {bool: "BOOLEAN", dict: "VARCHAR", int: "BIGINT", str: "VARCHAR"}


class Partition(StrEnum):
    """What the files of a large table are cut by."""

    MONTH = "month"
    DATE = "date"

    @property
    def pattern(self) -> str:
        """How the name of a part is made of a time, for `strftime`."""
        return "%Y-%m" if self is Partition.MONTH else "%Y-%m-%d"


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        name: its name.
        type: of its values: BIGINT, BOOLEAN, TIMESTAMPTZ (in UTC) or VARCHAR.
        description: what it holds.
        is_json: whether the text is JSON.
        is_added: whether it is not in the files of the runs, but added to what is.
    """

    name: str
    type: str
    description: str
    is_json: bool = False
    is_added: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        name: its name.
        description: what a row is.
        columns: all of them, in their order.
        key: no two rows have the same values in these columns.
        records: what is in the files that it is made of: a collection, `quarantine` or `loaded_files`.
        order: of rows with the same key, the one is kept with the greatest values in these columns; if there are none,
            or all values are the same, so are the rows.
        keeps_least: whether the one with the least values is kept instead.
        least, greatest: columns of rows with the same key of which the least and the greatest value are kept.
        time: the column with the time of a row; None: rows have none.
        partition: what its files are cut by; None: it is one file.
        is_of_run: whether a row belongs to one run only, that of its `run_uuid`.
    """

    name: str
    description: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    records: str
    order: tuple[str, ...] = ()
    keeps_least: bool = False
    least: tuple[str, ...] = ()
    greatest: tuple[str, ...] = ()
    time: str | None = None
    partition: Partition | None = None
    is_of_run: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def sorting(self) -> tuple[str, ...]:
        """The columns that the rows of a file are sorted by."""
        return tuple(dict.fromkeys([*([self.time] if self.time else []), *self.key]))

    @property
    def is_numbered(self) -> bool:
        """Whether the rows of a file are told apart by their lines."""
        return "line" in self.key


def columns_of(item_class: type) -> tuple[Column, ...]:
    """Return the columns of the files of an item."""
    hints = get_type_hints(item_class)
    return tuple(
        _column(each.name, hints[each.name], each.metadata["json_schema_extra"]) for each in fields(item_class)
    )


def _column(name: str, hint: Any, about: Mapping[str, str]) -> Column:
    alternatives = [get_origin(part) or part for part in (get_args(hint) if isinstance(hint, UnionType) else (hint,))]
    kind = next((part for part in alternatives if part in _TYPES), dict)
    type_ = "TIMESTAMPTZ" if about.get("format") == "date-time" else _TYPES[kind]
    return Column(name, type_, about["description"], is_json=kind is dict)


def _added(name: str, type_: str, description: str) -> Column:
    return Column(name, type_, description, is_added=True)


_HASH = _added(
    CONTENT_HASH,
    "VARCHAR",
    "MD5 of the record's content without the time at which it was received: tells versions apart.",
)
_FIRST = _added(FIRST_SCRAPED_AT, "TIMESTAMPTZ", "When the livestream was first received.")
_RUN = _added(RUN_UUID, "VARCHAR", "The run that the row comes from: its `run_uuid`.")
_IN_FILE = (
    _added("file", "VARCHAR", "The file in the folder of the run that the row comes from."),
    _added("line", "BIGINT", "The line of that file, from 1."),
)
_BY_LINE = (RUN_UUID, "file", "line")


@dataclass(frozen=True, slots=True)
class _Rule:
    """What is not known of a table from its items; attributes as those of `Table`."""

    description: str
    key: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    keeps_least: bool = False
    time: str | None = None
    partition: Partition | None = None
    is_of_run: bool = False
    added: tuple[Column, ...] = ()
    least: tuple[str, ...] = ()


_NEWEST = ("scraped_at", CONTENT_HASH)
_RULES = {
    "categories": _Rule("A category, as last seen.", ("category_id",), _NEWEST, added=(_HASH,)),
    "livestreams": _Rule(
        "An ended livestream, its newest version.",
        ("event_id",),
        _NEWEST,
        time="event_end",
        partition=Partition.MONTH,
        added=(_FIRST, _HASH),
        least=(FIRST_SCRAPED_AT,),
    ),
    "live_channels": _Rule(
        "A channel in a snapshot.",
        (RUN_UUID, "snapshot_id", "user_id", "event_id"),
        time="observed_at",
        partition=Partition.DATE,
        is_of_run=True,
        added=(_RUN,),
    ),
    "live_notifications": _Rule(
        "A livestream that has begun, as first heard of.",
        ("event_id",),
        ("received_at", CONTENT_HASH),
        keeps_least=True,
        time="received_at",
        partition=Partition.MONTH,
        added=(_HASH,),
    ),
    "scheduled_livestreams": _Rule(
        "A scheduled livestream, its newest version.", ("event_id",), _NEWEST, time="event_start", added=(_HASH,)
    ),
    "api_calls": _Rule("A request of the site's own page.", _BY_LINE, is_of_run=True, added=(_RUN, *_IN_FILE)),
    QUARANTINE: _Rule("A record that was set aside.", _BY_LINE, is_of_run=True, added=(_RUN, *_IN_FILE)),
}


def _default_rule(collection: str) -> _Rule:
    """Return the rule of a collection that has none of its own."""
    source = next((each for each in SOURCES if each.item_class.collection == collection), None)
    if source is not None and "scraped_at" in {each.name for each in fields(source.item_class)}:
        return _Rule(f"A record of {collection}, its newest version.", source.key, _NEWEST, added=(_HASH,))
    return _Rule(f"A record of {collection}.", _BY_LINE, is_of_run=True, added=(_RUN, *_IN_FILE))


def _table(collection: str, item_class: type) -> Table:
    rule = _RULES.get(collection) or _default_rule(collection)
    return Table(
        collection,
        rule.description,
        columns_of(item_class) + rule.added,
        rule.key,
        collection,
        rule.order,
        rule.keeps_least,
        rule.least,
        time=rule.time,
        partition=rule.partition,
        is_of_run=rule.is_of_run,
    )


def _versions(livestreams: Table) -> Table:
    """Return the table of all versions: when each was received first and last, then its fields."""
    times = (
        _added(FIRST_SCRAPED_AT, "TIMESTAMPTZ", "When the livestream was first received with this content."),
        _added(LAST_SCRAPED_AT, "TIMESTAMPTZ", "When the livestream was last received with this content."),
    )
    added = {FIRST_SCRAPED_AT, "scraped_at"}
    event_id, *others = (column for column in livestreams.columns if column.name not in added)
    return Table(
        "livestream_versions",
        "Each distinct content of an ended livestream.",
        (event_id, *times, *others),
        ("event_id", CONTENT_HASH),
        livestreams.records,
        least=(FIRST_SCRAPED_AT,),
        greatest=(LAST_SCRAPED_AT,),
        time=livestreams.time,
        partition=livestreams.partition,
    )


@cache
def record_tables() -> dict[str, Table]:
    """Return the tables of records, by their names."""
    item_classes = {kind.collection: kind.item_class for kind in KINDS.values()} | {QUARANTINE: RejectedRecord}
    tables = {name: _table(name, item_class) for name, item_class in item_classes.items()}
    versions = _versions(tables["livestreams"])
    return {**tables, versions.name: versions}


# What a target holds: each file of a run that was loaded, and how much of it.
LOADED = Table(
    LOADED_FILES,
    "A file of a run, or an earlier export, whose records are in this dataset.",
    (
        Column(RUN_UUID, "VARCHAR", _RUN.description),
        Column(
            "file", "VARCHAR", "Its path in the folder of the run; of an earlier export, what tells it from others."
        ),
        Column("bytes", "BIGINT", "How many of its bytes were loaded: of a run that is going on, not yet all."),
        Column("rows", "BIGINT", "How many records these are."),
        Column("sha256", "VARCHAR", "SHA-256 of these bytes."),
        Column("loaded_at", "TIMESTAMPTZ", "When they were loaded."),
    ),
    (RUN_UUID, "file"),
    LOADED_FILES,
    # A file grows; one that has changed otherwise is removed first. The clock may be set back.
    ("bytes",),
    is_of_run=True,
)


def all_tables() -> dict[str, Table]:
    """Return all tables that a target may hold, by their names."""
    return {**record_tables(), LOADED.name: LOADED}
