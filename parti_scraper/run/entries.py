"""What the catalog says of a run, or of a day of one, and how that is read from data packages of every format.

Format 1 has no `format_version` and says less than format 2; what follows from the rest is added.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from parti_scraper.api import urls
from parti_scraper.exceptions import PartiError, UsageError
from parti_scraper.items import ApiCall, Category, LiveChannel, LiveNotification, Livestream, ScheduledLivestream
from parti_scraper.ledger.locks import Lock
from parti_scraper.ledger.uuids import run_uuid_of
from parti_scraper.network.source import MOCK, REAL
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
from parti_scraper.run.days import DAY
from parti_scraper.run.outcome import ExitCode, judge_fields
from parti_scraper.run.recovery import RECOVERED
from parti_scraper.run.unchanged import decode

if TYPE_CHECKING:
    from parti_scraper.items import Item
    from parti_scraper.ledger.ledger import RunRecord

_QUARANTINE = datapackage.QUARANTINE.partition(".")[0]
_DIGEST = "sha256:"
_NOT_A_LINE = re.compile(r"\s+")

_Number = Annotated[int, msgspec.Meta(ge=0)]


class CatalogError(PartiError):
    """A data package that the catalog names is no longer there, or no longer readable; the text is one line."""


class Status(StrEnum):
    """What there is of a run, or of a day of one.

    Members:
        FINISHED: the run or the day is over, and has a data package.
        SEALED: it was killed or stopped, and got its data package later. The run may still be resumed.
        UNFINISHED: it has no data package: it is running, or was killed or stopped.
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
        item_class: the kind of their records.
        arguments: how their arguments are parsed.
    """

    item_class: type[Item]
    arguments: type[Arguments]

    @property
    def collection(self) -> str:
        """The stem of the names of the record files."""
        return self.item_class.collection

    def of_file(self, name: str) -> str | None:
        """Return what a file with this name holds: the collection or `quarantine`; None for any other file."""
        stem, _, rest = name.partition(".")
        if (stem == self.collection and rest.rpartition(".")[2] in {"jsonl", "csv"}) or name == RECOVERED:
            return self.collection
        return _QUARANTINE if name == datapackage.QUARANTINE else None


# By the name of the spider, which is also the name of the folder that its runs are in.
KINDS = {
    "categories": Kind(Category, CategoriesArguments),
    "live": Kind(LiveChannel, LiveArguments),
    "notifications": Kind(LiveNotification, NotificationsArguments),
    "recent": Kind(Livestream, RecentArguments),
    "scheduled": Kind(ScheduledLivestream, ScheduledArguments),
    "site": Kind(ApiCall, SiteArguments),
}


class Window(msgspec.Struct, frozen=True, gc=False):
    """A window of time: its first and last moment, in ISO 8601."""

    since: str
    until: str


class File(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A file of a run.

    Attributes:
        name: in the folder of the entry.
        form: its format: jsonl, csv, or another.
        kind: what it holds: a collection such as `livestreams`, or `quarantine`; None for any other file.
        rows: how many records; None if unknown.
        bytes: its size. Of an unfinished run, how much of it may be read: up to the last checkpoint if the ledger has
            one, otherwise the whole file, whose last line may be torn.
        sha256: of these bytes, in hexadecimal; None if unknown.
    """

    name: str
    form: str
    kind: str | None
    rows: int | None = None
    bytes: int | None = None
    sha256: str | None = None


class Snapshot(msgspec.Struct, frozen=True):
    """A snapshot of the live channels: when it was taken (ISO 8601), how many channels it has, and whether all."""

    snapshot_id: str
    started_at: str
    ended_at: str
    channels: int
    complete: bool


class Span(msgspec.Struct, frozen=True, rename={"since": "from", "until": "to"}):
    """A time in which a run was connected: its start and end, in ISO 8601."""

    since: str
    until: str


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A run, or a day of one. What is unknown is None or empty; times are ISO 8601 in UTC, with `Z`.

    A run with days has an entry with the totals, and one for each day with the day's files and counts. If a run was
    copied, several entries have the same `run_uuid`.

    It is a Struct so that the cache can decode a hundred thousand of them in a second.

    Attributes:
        location: absolute path of the folder that the files are in; see `folder`.
        status: what there is of it.
        reason: why it is not complete, not readable, or not a run; one line.
        spider: its name; empty if the folder is not in that of a spider.
        run_id: the name of the run; empty likewise.
        day: such as 2026-11-27; None for the run itself.
        days: the days of a run, sorted; each has an entry.
        run_uuid: unique on all machines.
        format_version: of the data package; 0 if there is none.
        version: of this project, when it wrote the data package.
        source: `parti.com` or `mock`.
        host: scheme and host of the API.
        started_at: when it began.
        ended_at: when it ended or was stopped.
        duration_seconds: how long it took.
        arguments: those that differ from the defaults, as JSON has them.
        window: the window of time that it collects.
        exit_code: of `scrapy crawl`; None if there was none.
        complete: whether it has everything that was asked for.
        degraded: fields that most records lack, a part of a sentence each.
        truncated: whether `max_records` was reached.
        counts: what became of the records, by the names of `run.outcome.Counts`, and `new` and `changed`. Of an
            unfinished run: at the last checkpoint.
        retries: how many requests were sent again.
        rate_limited: how many answers had status 429.
        unknown_fields: fields of the API that no item declares, and in how many records.
        unreadable_fields: fields that could not be read, and in how many records.
        vanished_fields: fields that records are known to have, and that none had.
        files: the files in this folder. If `pruned`, record files among them were removed.
        feeds: what the user had stored elsewhere.
        pruned: whether its record files were removed on purpose.
        noted: of an unfinished day, its snapshots or stretches of listening up to the last checkpoint, as JSON has
            them.
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
    vanished_fields: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    feeds: tuple[datapackage.Feed, ...] = ()
    pruned: bool = False
    noted: tuple[dict[str, Any], ...] = ()

    @property
    def folder(self) -> Path:
        """The folder that the files are in."""
        return Path(self.location)

    def package(self) -> dict[str, Any]:
        """Return the whole data package, read from the disk. Raises CatalogError."""
        try:
            descriptor = datapackage.read(self.folder)
        except UsageError as error:
            raise CatalogError(str(error)) from None
        if descriptor is None:
            raise CatalogError(f"{self.folder / datapackage.FILE_NAME} does not exist any more, or cannot be read")
        return descriptor

    def snapshots(self) -> tuple[Snapshot, ...]:
        """Return the snapshots of a day, or of a run of `live` without days. Raises CatalogError."""
        if self.status is Status.UNFINISHED:
            return tuple(msgspec.convert(each, Snapshot) for each in self.noted)
        return self._observed().snapshots

    def listened(self) -> tuple[Span, ...]:
        """Return when a run of `notifications` was connected on a day. Raises CatalogError."""
        return self._observed().listened

    def unchanged(self) -> tuple[int, ...] | None:
        """Return the `event_id`s of the livestreams that an incremental run saw unchanged, in ascending order.

        None where the data package does not say. Only this is decoded of it: a hundred thousand may be asked for.

        Raises:
            CatalogError: it is gone, of a later format, or cannot be decoded.
        """
        path = self.folder / datapackage.FILE_NAME
        try:
            package = _unchanged.decode(path.read_bytes())
            event_ids = None if package.unchanged is None else decode(package.unchanged)
        except OSError:
            raise CatalogError(f"{path} does not exist any more, or cannot be read") from None
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise CatalogError(f"{path}: {one_line(error)}") from None
        if package.format_version > datapackage.FORMAT_VERSION:
            raise CatalogError(f"{path}: {_too_new(package.format_version)}")
        return event_ids

    def is_at_work(self) -> bool:
        """Tell whether a process works on the run. If none does, the run is locked for a moment."""
        folder = self.folder.parent if self.day else self.folder
        try:
            lock = Lock.take(folder)
        except OSError:
            return False
        if lock is None:
            return True
        lock.release()
        return False

    def _observed(self) -> _Observed:
        try:
            return msgspec.convert(self.package(), _Observed)
        except msgspec.ValidationError as error:
            raise CatalogError(f"{self.folder / datapackage.FILE_NAME}: {error}") from None


# Data packages:


class _Resource(msgspec.Struct):
    path: str
    format: str = ""
    rows: _Number | None = None
    bytes: _Number | None = None
    hash: str = ""


class _Version(msgspec.Struct):
    format_version: Annotated[int, msgspec.Meta(ge=1)] = 1


class _Observed(_Version):
    snapshots: tuple[Snapshot, ...] = ()
    listened: tuple[Span, ...] = ()


class _Unchanged(_Version):
    unchanged: str | None = None


class _Descriptor(_Observed, kw_only=True):
    """What is read of a data package."""

    spider: str
    run_id: str
    created: str
    arguments: dict[str, Any]
    counts: dict[str, int]
    complete: bool
    resources: list[_Resource]
    feeds: tuple[datapackage.Feed, ...] = ()
    host: str | None = None
    window: Window | None = None
    unknown_fields: dict[str, int] = {}
    unreadable_fields: dict[str, int] = {}
    vanished_fields: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()
    truncated: bool = False
    reason: str | None = None
    # Since format 2:
    run_uuid: str | None = None
    source: str | None = None
    project_version: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    duration_seconds: float | None = None
    exit_code: int | None = None
    retries: _Number | None = None
    rate_limited: _Number | None = None
    day: str | None = None
    days: tuple[str, ...] = ()
    sealed: bool = False
    pruned: bool = False


# Fields that entries have under the same name.
_SAME = [name for name in Entry.__struct_fields__ if name in _Descriptor.__struct_fields__]
_descriptors = msgspec.json.Decoder(_Descriptor)
_versions = msgspec.json.Decoder(_Version)
_unchanged = msgspec.json.Decoder(_Unchanged)


def entry_of(body: bytes, location: str, spider: str, name: str, day: str | None = None) -> Entry:
    """Return the entry for a data package, whatever its bytes are.

    Args:
        body: the data package.
        location: path of its folder.
        spider: the name of the folder that the run's folder is in.
        name: the name of the run's folder.
        day: the day that the folder is of; None for the run's own.
    """
    known: dict[str, Any] = {"spider": spider, "run_id": name, "day": day}
    try:
        version = _versions.decode(body).format_version
        if version > datapackage.FORMAT_VERSION:
            return Entry(location, Status.TOO_NEW, _too_new(version), format_version=version, **known)
        descriptor = _descriptors.decode(body)
        _check(descriptor, spider, day)
        return _entry(descriptor, location)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return Entry(location, Status.UNREADABLE, f"{datapackage.FILE_NAME}: {one_line(error)}", **known)


def arguments_of(run: RunRecord) -> dict[str, Any]:
    """Return the arguments of a run in the ledger as a data package has them."""
    try:
        return KINDS[run.spider].arguments.parse(run.arguments, run.spider, run.started_at).given()
    except UsageError:  # Another version understood them.
        return dict(run.arguments)


def one_line(error: Exception) -> str:
    """Return the text of an error as one line that can be stored."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _NOT_A_LINE.sub(" ", text).encode("utf-8", "replace").decode() or type(error).__name__


def source_of(host: str | None) -> str:
    """Return the source of records, as far as the host's address shows it."""
    try:
        return MOCK if host and urls.is_loopback(host) else REAL
    except ValueError:  # It is no address.
        return REAL


def _too_new(version: int) -> str:
    ours = f"this one reads up to {datapackage.FORMAT_VERSION}"
    return f"made by a later version of this project (format {version}, {ours})"


def _check(descriptor: _Descriptor, spider: str, day: str | None) -> None:
    """Raise ValueError if a data package does not belong in this folder, or names files outside of it."""
    if descriptor.spider != spider:
        raise ValueError(f"it is of the spider {descriptor.spider!r}")
    if descriptor.day != day:
        raise ValueError(f"it is of the day {descriptor.day!r}")
    if not all(map(DAY.fullmatch, descriptor.days)) or len(set(descriptor.days)) < len(descriptor.days):
        raise ValueError("its `days` are no days")
    for resource in descriptor.resources:
        folder, _, name = resource.path.rpartition("/")
        is_here = name not in {"", ".", ".."} and "\0" not in name and (not folder or folder in descriptor.days)
        # An absolute path is one of the user's own feeds.
        if not is_here and not resource.path.startswith("/"):
            raise ValueError(f"it names the file {resource.path!r}, which is not in its folder")


def _entry(descriptor: _Descriptor, location: str) -> Entry:
    each = descriptor
    same = {name: getattr(each, name) for name in _SAME}
    derived = {
        "days": tuple(sorted(each.days)),
        "run_uuid": each.run_uuid or run_uuid_of(each.spider, each.run_id, each.created),
        "version": each.project_version,
        "source": each.source or source_of(each.host),
        "ended_at": each.ended_at or each.created,
        "exit_code": _exit_code_of_format_1(each) if each.format_version == 1 else each.exit_code,
        "files": _files(each),
    }
    return Entry(location, _status(each), **same | derived)


def _status(descriptor: _Descriptor) -> Status:
    return Status.SEALED if descriptor.sealed else Status.FINISHED


def _exit_code_of_format_1(descriptor: _Descriptor) -> int:
    """Derive the exit code; runs that were stopped had no data package in format 1."""
    return int(judge_fields(list(descriptor.degraded)).exit_code if descriptor.complete else ExitCode.INCOMPLETE)


def _files(descriptor: _Descriptor) -> tuple[File, ...]:
    """Return the files in the folder itself, without those of days."""
    kind = KINDS[descriptor.spider]
    return tuple(
        File(
            each.path,
            each.format,
            kind.of_file(each.path),
            each.rows,
            each.bytes,
            each.hash.removeprefix(_DIGEST) if each.hash.startswith(_DIGEST) else None,
        )
        for each in descriptor.resources
        if "/" not in each.path
    )
