"""What the catalog says of a run, or of a day of one."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from parti_scraper.exceptions import PartiError
from parti_scraper.items import ApiCall, Category, LiveChannel, LiveNotification, Livestream, ScheduledLivestream
from parti_scraper.ledger.locks import Lock
from parti_scraper.run import datapackage
from parti_scraper.run.arguments import (
    Arguments,
    CategoriesArguments,
    LiveArguments,
    NotificationsArguments,
    RecentArguments,
    ScheduledArguments,
    SiteArguments,
)

if TYPE_CHECKING:
    from parti_scraper.items import Item

QUARANTINE = "quarantine"


class CatalogError(PartiError):
    """A data package that the catalog names is no longer there, or no longer readable; the text is one line."""


class Status(StrEnum):
    """What there is of a run, or of a day of one.

    Members:
        FINISHED: it came to its end, or the day was over, and has a data package.
        SEALED: it was killed or stopped, and got its data package later.
        UNFINISHED: it has none: it is going on, or was killed or stopped.
        UNREADABLE: its data package is damaged, or its folder cannot be read.
        FOREIGN: no run of this project.
        TOO_NEW: it was made by a later version of this project.
    """

    FINISHED = "finished"
    SEALED = "sealed"
    UNFINISHED = "unfinished"
    UNREADABLE = "unreadable"
    FOREIGN = "foreign"
    TOO_NEW = "too_new"


@dataclass(frozen=True, slots=True)
class Kind:
    """What the runs of a spider are.

    Attributes:
        collection: the stem of the names of their record files.
        arguments: how their arguments are parsed.
    """

    collection: str
    arguments: type[Arguments]


def _kind(item_class: type[Item], arguments: type[Arguments]) -> Kind:
    return Kind(item_class.collection, arguments)


# The folders of runs are in folders with these names.
KINDS = {
    "categories": _kind(Category, CategoriesArguments),
    "live": _kind(LiveChannel, LiveArguments),
    "notifications": _kind(LiveNotification, NotificationsArguments),
    "recent": _kind(Livestream, RecentArguments),
    "scheduled": _kind(ScheduledLivestream, ScheduledArguments),
    "site": _kind(ApiCall, SiteArguments),
}


class Window(msgspec.Struct, frozen=True, gc=False):
    """A window of time, both bounds in ISO 8601; both belong to it."""

    since: str
    until: str


class File(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A file of a run.

    Attributes:
        name: in the folder of the entry.
        form: what it is written in: jsonl, csv, or another.
        kind: what it holds: a collection such as `livestreams`, or `quarantine`; None where it holds no records, or
            not as this project writes them by itself.
        rows: how many records; None where nothing says so.
        bytes: how long it is; of an unfinished run, how much of it is good: up to the last checkpoint where the ledger
            knows it, else all that is there, whose last line may be torn.
        sha256: of these bytes, in hexadecimal; None where nothing says so.
    """

    name: str
    form: str
    kind: str | None
    rows: int | None = None
    bytes: int | None = None
    sha256: str | None = None


class Snapshot(msgspec.Struct, frozen=True):
    """A snapshot of who is live: when it was taken, in ISO 8601, of how many channels, and whether of all."""

    snapshot_id: str
    started_at: str
    ended_at: str
    channels: int
    complete: bool


class Span(msgspec.Struct, frozen=True, rename={"since": "from", "until": "to"}):
    """From when to when a run was connected, in ISO 8601."""

    since: str
    until: str


class _Spans(msgspec.Struct):
    """The parts of a data package that an entry does not hold."""

    snapshots: tuple[Snapshot, ...] = ()
    listened: tuple[Span, ...] = ()


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A run, or a day of one. What is not known is None or empty; times are ISO 8601 in UTC, with `Z`.

    A run with days has an entry of its own, with `days` and without files, and one for each day with that day's: rows
    and counts of both are the same ones. A run that was copied has the same `run_uuid` twice.

    It is a Struct, because a hundred thousand of them come from the cache of the catalog in a second.

    Attributes:
        location: path of the folder that the files are in, absolute; see `folder`.
        status: what there is of it.
        reason: why it is not complete, or not readable, or not ours; a line.
        spider: its name; empty where the entry is not of a spider's folder.
        run_id: the name of the run; empty likewise.
        day: such as 2026-11-27; None for a whole run.
        days: those that the run has entries for.
        run_uuid: what distinguishes it from all other runs, wherever they were made.
        format_version: of the data package; 0 where there is none.
        version: of this project, that made it.
        source: `parti.com` or `mock`.
        host: scheme and host of the API.
        started_at: when it was begun.
        ended_at: when it ended.
        duration_seconds: how long it took.
        arguments: those that differ from the defaults, as JSON has them.
        window: what the run is about, frozen.
        exit_code: of `scrapy crawl`; None where there was none.
        complete: whether it holds all that was asked for.
        degraded: fields that most records lack, a part of a sentence each.
        truncated: whether `max_records` was reached.
        counts: what became of the records, by the names of `run.outcome.Counts`, and `new` and `changed`.
        retries: requests that were made once more.
        rate_limited: answers with status 429.
        unknown_fields: of the API, in how many records.
        unreadable_fields: of the records, in how many.
        files: what is in the folder; not there any more where it is pruned.
        pruned: its record files were removed on purpose.
    """

    location: str
    status: Status
    reason: str | None = None
    spider: str = ""
    run_id: str = ""
    day: str | None = None
    days: tuple[str, ...] = ()
    run_uuid: str | None = None
    format_version: int = 0
    version: str | None = None
    source: str | None = None
    host: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    duration_seconds: float | None = None
    arguments: dict[str, Any] = {}
    window: Window | None = None
    exit_code: int | None = None
    complete: bool = False
    degraded: tuple[str, ...] = ()
    truncated: bool = False
    counts: dict[str, int] = {}
    retries: int | None = None
    rate_limited: int | None = None
    unknown_fields: dict[str, int] = {}
    unreadable_fields: dict[str, int] = {}
    files: tuple[File, ...] = ()
    pruned: bool = False

    @property
    def folder(self) -> Path:
        """The folder that the files are in."""
        return Path(self.location)

    def package(self) -> dict[str, Any]:
        """Return the whole data package, read from the disk. Raises CatalogError."""
        descriptor = datapackage.read(self.folder)
        if not isinstance(descriptor, dict):
            raise CatalogError(f"{self.folder / datapackage.FILE_NAME} is not there any more, or cannot be read")
        return descriptor

    def snapshots(self) -> tuple[Snapshot, ...]:
        """Return the snapshots that a data package of the spider `live` lists. Raises CatalogError."""
        return self._spans().snapshots

    def listened(self) -> tuple[Span, ...]:
        """Return when a run of the spider `notifications` was connected. Raises CatalogError."""
        return self._spans().listened

    def is_at_work(self) -> bool:
        """Tell whether a process is at work on the run, which is locked for a moment if none is."""
        folder = self.folder.parent if self.day else self.folder
        try:
            lock = Lock.take(folder)
        except OSError:
            return False
        if lock is None:
            return True
        lock.release()
        return False

    def _spans(self) -> _Spans:
        try:
            return msgspec.convert(self.package(), _Spans)
        except msgspec.ValidationError as error:
            raise CatalogError(f"{self.folder / datapackage.FILE_NAME}: {error}") from None


def kind_of_file(name: str, collection: str) -> str | None:
    """Return what a file of that name holds, in the folder of a run whose record files have that stem."""
    stem, _, rest = name.partition(".")
    form = rest.rpartition(".")[2]
    if stem == collection and form in {"jsonl", "csv"}:
        return collection
    return QUARANTINE if name == f"{QUARANTINE}.jsonl" else None


def derived_uuid(spider: str, run_id: str, moment: str) -> str:
    """Return the `run_uuid` of a run that has none of its own.

    Args:
        spider: its name.
        run_id: the name of the run.
        moment: in ISO 8601, when its data package was created; where it has none, when it was begun.
    """
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"parti:{spider}/{run_id}/{moment}"))
