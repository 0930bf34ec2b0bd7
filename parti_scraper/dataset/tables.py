"""The tables of the dataset: columns, keys, and which of several rows with one key is kept. Pure.

The columns of a table of records are those of its items. A spider that is not named here has a table too: by the key
of its route, or else by the run, the file and the line. What follows from other tables is in `derived_tables`; see
`derived` for how.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, get_args, get_origin, get_type_hints

from parti_scraper.api.registry import SOURCES
from parti_scraper.items import Livestream, RejectedRecord
from parti_scraper.run.entries import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Of the rows and columns as a whole, in every target. To be raised if a column is added.
SCHEMA_VERSION = 2

RUN_UUID: Final = "run_uuid"
CONTENT_HASH: Final = "content_hash"
FIRST_SCRAPED_AT: Final = "first_scraped_at"
LAST_SCRAPED_AT: Final = "last_scraped_at"
LAST_CONFIRMED_AT: Final = "last_confirmed_at"
MISSING_SINCE: Final = "missing_since"
LOADED_FILES: Final = "loaded_files"
QUARANTINE: Final = "quarantine"
RUNS: Final = "runs"
SNAPSHOTS: Final = "snapshots"
CONFIRMED: Final = "confirmed_livestreams"

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
        type: of its values: BIGINT, BOOLEAN, DOUBLE, TIMESTAMPTZ (in UTC) or VARCHAR.
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
        otherwise: columns with the time of a row that has none in `time`, in the order in which they are tried.
        replaces: whether a row that is loaded takes the place of that with the same key: it is worked out of all that
            is known.
        sources: tables that its rows follow from, beside the records.
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
    otherwise: tuple[str, ...] = ()
    replaces: bool = False
    sources: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def sorting(self) -> tuple[str, ...]:
        """The columns that the rows of a file are sorted by."""
        return tuple(dict.fromkeys([*self.times, *self.key]))

    @property
    def times(self) -> tuple[str, ...]:
        """The columns with the time of a row; the first that is not null counts."""
        return (self.time, *self.otherwise) if self.time else ()

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
_CONFIRMED = _added(
    LAST_CONFIRMED_AT,
    "TIMESTAMPTZ",
    "When the last run began that is proved complete over the livestream's end and has seen it.",
)
_MISSING = _added(
    MISSING_SINCE,
    "TIMESTAMPTZ",
    "When the first run began that is proved complete over the livestream's end and has not seen it any more: it was "
    "deleted or hidden. Null if it was seen since.",
)
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
    greatest: tuple[str, ...] = ()
    replaces: bool = False
    sources: tuple[str, ...] = ()


_NEWEST = ("scraped_at", CONTENT_HASH)
_RULES = {
    "categories": _Rule("A category, as last seen.", ("category_id",), _NEWEST, added=(_HASH,)),
    "livestreams": _Rule(
        "An ended livestream, its newest version.",
        ("event_id",),
        _NEWEST,
        time="event_end",
        partition=Partition.MONTH,
        added=(_FIRST, _CONFIRMED, _MISSING, _HASH),
        least=(FIRST_SCRAPED_AT,),
        greatest=(LAST_CONFIRMED_AT,),
        replaces=True,
        sources=(RUNS, CONFIRMED),
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
        rule.greatest,
        time=rule.time,
        partition=rule.partition,
        is_of_run=rule.is_of_run,
        replaces=rule.replaces,
        sources=rule.sources,
    )


def _versions(livestreams: Table) -> Table:
    """Return the table of all versions: when each was received first and last, then its fields."""
    times = (
        _added(FIRST_SCRAPED_AT, "TIMESTAMPTZ", "When the livestream was first received with this content."),
        _added(LAST_SCRAPED_AT, "TIMESTAMPTZ", "When the livestream was last received with this content."),
    )
    added = {FIRST_SCRAPED_AT, LAST_CONFIRMED_AT, MISSING_SINCE, "scraped_at"}
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


# --- What data packages say --------------------------------------------------------------------------------------

_FILTERS = Column(
    "filters", "VARCHAR", "The filters, JSON: `categories`, `user_id`; `{}` if there are none.", is_json=True
)
_RUN_UUID = Column(RUN_UUID, "VARCHAR", "The run: its `run_uuid`.")
_RUNS = Table(
    RUNS,
    "A run, or a day of one.",
    (
        _RUN_UUID,
        Column("day", "VARCHAR", "Of a run with a folder for each day, the day, such as 2026-11-27; empty: the run."),
        Column("spider", "VARCHAR", "The name of the spider."),
        Column("run_id", "VARCHAR", "The name of the run, and of its folder."),
        Column(
            "status",
            "VARCHAR",
            "`finished`; `sealed`: it was killed or stopped, and closed later; or `unfinished`: it is going on, or was "
            "killed or stopped.",
        ),
        Column("arguments", "VARCHAR", "The arguments that differ from the defaults, JSON.", is_json=True),
        Column("host", "VARCHAR", "Scheme and host of the API."),
        Column("source", "VARCHAR", "Where its data come from: `parti.com` or `mock`."),
        Column("version", "VARCHAR", "The version of this project."),
        Column("started_at", "TIMESTAMPTZ", "When it began."),
        Column("ended_at", "TIMESTAMPTZ", "When it ended or was stopped."),
        Column("duration_seconds", "DOUBLE", "How long it took, in seconds."),
        Column("exit_code", "BIGINT", "The exit code of `scrapy crawl`."),
        Column("complete", "BOOLEAN", "Whether every record is there that was asked for."),
        Column("degraded", "VARCHAR", "What most records lack, a JSON list of texts.", is_json=True),
        Column("truncated", "BOOLEAN", "Whether the argument `max_records` ended it."),
        Column("reason", "VARCHAR", "Why it did not end well, one line."),
        *(
            Column(name, "BIGINT", description)
            for name, description in {
                "pages": "Pages that were received.",
                "served": "Records on them.",
                "written": "Records that were written.",
                "duplicate": "Records that were there before.",
                "quarantined": "Records that were set aside.",
                "filtered": "Records that do not belong to what was asked for.",
                "dropped": "Records that a component of the user's has dropped.",
                "new": "Livestreams that no earlier incremental run of the series has written.",
                "changed": "Livestreams that an earlier incremental run of the series has written otherwise.",
                "retries": "Requests that were sent again.",
                "rate_limited": "Answers with status 429.",
            }.items()
        ),
        Column(
            "unknown_fields",
            "VARCHAR",
            "Fields of the API that no column takes, and in how many records, a JSON object.",
            is_json=True,
        ),
        Column(
            "unreadable_fields",
            "VARCHAR",
            "Fields that could not be read, and in how many records, a JSON object.",
            is_json=True,
        ),
        _FILTERS,
        Column("proved_since", "TIMESTAMPTZ", "From when on it has every ended livestream; null: it proves nothing."),
        Column("proved_until", "TIMESTAMPTZ", "Until when it has every ended livestream; null: it proves nothing."),
        Column(
            "continues",
            "BOOLEAN",
            "Whether it relies on earlier runs up to `proved_since`, whose livestreams it does not repeat.",
        ),
        Column(
            "knows_missing",
            "BOOLEAN",
            "Whether what it has not seen of that time was not there: it has no filters, nothing was set aside, and it "
            "is known what it has seen.",
        ),
        Column("is_over", "BOOLEAN", "Whether it has ended, as far as is known."),
        Column("as_of", "TIMESTAMPTZ", "When it was so: its end, or that of the export while it was going on."),
    ),
    (RUN_UUID, "day"),
    RUNS,
    ("is_over", "as_of"),
    time="started_at",
    partition=Partition.MONTH,
)
_SNAPSHOTS = Table(
    SNAPSHOTS,
    "A snapshot of the live channels.",
    (
        _RUN_UUID,
        Column("snapshot_id", "VARCHAR", "The snapshot, as in `live_channels`."),
        Column("started_at", "TIMESTAMPTZ", "When its first page was requested."),
        Column("ended_at", "TIMESTAMPTZ", "When its last page had been received."),
        Column("channels", "BIGINT", "How many channels it has; null if the run does not say."),
        Column("complete", "BOOLEAN", "Whether it has every channel that was asked for."),
        _FILTERS,
        Column("is_noted", "BOOLEAN", "Whether the run says so itself; else all this follows from its channels."),
    ),
    (RUN_UUID, "snapshot_id"),
    SNAPSHOTS,
    ("is_noted", "complete", "ended_at"),
    time="started_at",
    partition=Partition.MONTH,
    sources=(RUNS, "live_channels"),
)
_CONFIRMED_LIVESTREAMS = Table(
    CONFIRMED,
    "A livestream that an incremental run has seen unchanged, while no run that has written it is in the dataset.",
    (
        Column("event_id", "BIGINT", "The livestream."),
        Column(LAST_CONFIRMED_AT, "TIMESTAMPTZ", "When the last such run began."),
    ),
    ("event_id",),
    CONFIRMED,
    greatest=(LAST_CONFIRMED_AT,),
    replaces=True,
    sources=(RUNS, "livestreams"),
)

# --- What follows from others ------------------------------------------------------------------------------------

_SPECIFIED = {each.name: each for each in columns_of(Livestream)}


def _as_livestream(*names: str) -> tuple[Column, ...]:
    return tuple(replace(_SPECIFIED[name], is_added=False) for name in names)


_WEIGHTED = "weighted by time; see docs/data.md"
_STREAMS = Table(
    "streams",
    "A livestream, from all that is known of it.",
    (
        *_as_livestream("event_id", "user_id", "user_name", "event_title", "category_id", "category_name"),
        Column("started_at", "TIMESTAMPTZ", "When it began, as the site says once it has ended."),
        Column("ended_at", "TIMESTAMPTZ", "When it ended."),
        Column("announced_at", "TIMESTAMPTZ", "The start that the calendar announced."),
        *_as_livestream("duration_seconds", "total_viewers"),
        Column("snapshots", "BIGINT", "In how many snapshots it is."),
        Column("first_observed_at", "TIMESTAMPTZ", "When it was first seen in a snapshot."),
        Column("last_observed_at", "TIMESTAMPTZ", "When it was last seen in a snapshot."),
        Column("peak_viewers", "BIGINT", "The most viewers in a snapshot."),
        Column("peak_at", "TIMESTAMPTZ", "When these were first seen."),
        Column("average_viewers", "DOUBLE", f"Viewers on average, {_WEIGHTED}."),
        Column("viewer_hours", "DOUBLE", f"Hours that all viewers have watched together, {_WEIGHTED}."),
        Column("observed_seconds", "BIGINT", "How much time these two are made from, in seconds."),
        Column("longest_gap_seconds", "BIGINT", "The longest time between two snapshots of it, in seconds."),
        *_as_livestream("channel_url", "video_url"),
    ),
    ("event_id",),
    "",
    time="started_at",
    otherwise=("first_observed_at", "announced_at"),
    partition=Partition.MONTH,
    replaces=True,
    sources=("livestreams", "live_channels", "live_notifications", "scheduled_livestreams", SNAPSHOTS),
)
_CHANNELS = Table(
    "channels",
    "A channel.",
    (
        *_as_livestream("user_id"),
        Column("user_name", "VARCHAR", "Its name, as last seen."),
        Column("names", "VARCHAR", "All names that were seen, a sorted JSON list.", is_json=True),
        Column("streams", "BIGINT", "How many livestreams of it are known to have begun."),
        Column("hours", "DOUBLE", "How long these were together, in hours; of those that have not ended: observed."),
        Column("total_viewers", "BIGINT", "The sum of `total_viewers` of these."),
        Column("peak_viewers", "BIGINT", "The most viewers in a snapshot."),
        Column("average_viewers", "DOUBLE", f"Viewers on average, {_WEIGHTED}."),
        Column("viewer_hours", "DOUBLE", f"Hours that all viewers have watched together, {_WEIGHTED}."),
        Column("first_seen_at", "TIMESTAMPTZ", "The earliest time at which it was live, as far as is known."),
        Column("last_seen_at", "TIMESTAMPTZ", "The latest time at which it was live, as far as is known."),
        Column("top_category", "VARCHAR", "The category of most of its hours."),
    ),
    ("user_id",),
    "",
    replaces=True,
    sources=("streams",),
)
_HOURS = Table(
    "hours",
    "An hour and a category, from snapshots that are complete and have no filter.",
    (
        Column("hour", "TIMESTAMPTZ", "When the hour begins."),
        Column("category_id", "BIGINT", "The category; -1 if it is not known."),
        Column("category_name", "VARCHAR", "The name of the category."),
        Column("snapshots", "BIGINT", "How many such snapshots began in the hour, in whatever category."),
        Column("average_channels", "DOUBLE", "Channels live in a snapshot, on average."),
        Column("peak_channels", "BIGINT", "The most channels live in a snapshot."),
        Column("average_viewers", "DOUBLE", "Viewers in a snapshot, on average."),
        Column("peak_viewers", "BIGINT", "The most viewers in a snapshot."),
    ),
    ("hour", "category_id"),
    "",
    time="hour",
    partition=Partition.MONTH,
    replaces=True,
    sources=("live_channels", SNAPSHOTS),
)
_COVERAGE = Table(
    "coverage",
    "An interval of time that a run proves complete.",
    (
        Column("collection", "VARCHAR", "What: `livestreams`, `live_channels` or `live_notifications`."),
        _FILTERS,
        Column("since", "TIMESTAMPTZ", "The first second of the interval."),
        Column("until", "TIMESTAMPTZ", "The last second of the interval."),
        _RUN_UUID,
    ),
    ("collection", "filters", RUN_UUID, "since"),
    "",
    time="since",
    replaces=True,
    sources=(RUNS, SNAPSHOTS),
)


@cache
def record_tables() -> dict[str, Table]:
    """Return the tables whose rows are in the files of runs, by their names."""
    item_classes = {kind.collection: kind.item_class for kind in KINDS.values()} | {QUARANTINE: RejectedRecord}
    tables = {name: _table(name, item_class) for name, item_class in item_classes.items()}
    versions = _versions(tables["livestreams"])
    return {**tables, **{each.name: each for each in (versions, _RUNS, _SNAPSHOTS, _CONFIRMED_LIVESTREAMS)}}


@cache
def derived_tables() -> dict[str, Table]:
    """Return the tables that follow from others, by their names; each comes after those that it follows from."""
    return {each.name: each for each in (_STREAMS, _CHANNELS, _HOURS, _COVERAGE)}


@cache
def dataset_tables() -> dict[str, Table]:
    """Return the tables of the dataset, by their names."""
    return {**record_tables(), **derived_tables()}


def with_sources(names: Iterable[str]) -> list[Table]:
    """Return tables, and all that they follow from, in the order of `dataset_tables`."""
    wanted, left = set[str](), list(names)
    while left:
        name = left.pop()
        if name not in wanted:
            wanted.add(name)
            left += dataset_tables()[name].sources
    return [table for name, table in dataset_tables().items() if name in wanted]


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
    is_of_run=True,
    replaces=True,
)


def all_tables() -> dict[str, Table]:
    """Return all tables that a target may hold, by their names."""
    return {**dataset_tables(), LOADED.name: LOADED}
