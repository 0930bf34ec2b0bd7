"""The runs, and the days of runs, that are in output folders.

Of a finished run, only the data package is looked at, and it is read only if it is new or has changed; see `Cache`. No
links are followed below the output folders. Nothing in them is an error: what is not a run has an entry that says so.
"""

from __future__ import annotations

import operator
import os
import stat
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parti_scraper.api.quality import Quality
from parti_scraper.api.registry import specified_of
from parti_scraper.api.times import UnparsableError, timestamp_to_iso
from parti_scraper.ledger.ledger import SUPERSEDED
from parti_scraper.network.traffic import COUNTS as TRAFFIC
from parti_scraper.run import datapackage
from parti_scraper.run.catalog_cache import NOTHING, Cache, Package, Read
from parti_scraper.run.days import DAY
from parti_scraper.run.entries import (
    KINDS,
    Entry,
    File,
    Status,
    Window,
    arguments_of,
    entry_of,
    one_line,
    source_of,
)
from parti_scraper.run.parsers import folder_name
from parti_scraper.run.recovery import RECOVERED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from parti_scraper.ledger.ledger import Ledger, RunRecord

# How many folders of runs are looked up in the cache at once.
_AT_ONCE = 1_000
# Nanoseconds; a file that changes twice within this time may keep its time of change.
_SETTLED = 2_000_000_000
# The signature of what is not to be noted in the cache.
_UNSETTLED = (-1, -1)
# What unfinished runs leave beside records.
_LEFTOVERS = {RECOVERED, f"{datapackage.FILE_NAME}.tmp"}


class Catalog:
    """What is in output folders. Each iteration looks again.

    Entries are ordered by output folder, spider and run; the days of a run follow the run. An output folder that does
    not exist has no entries.
    """

    def __init__(
        self,
        output_dirs: Sequence[Path],
        cache_path: Path | None = None,
        ledger: Ledger | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            output_dirs: folders with a folder for each spider, such as PARTI_OUTPUT_DIR.
            cache_path: the file of the `Cache`; None: no cache.
            ledger: what it has of unfinished runs is added; None: only their files are known.
            clock: nanoseconds since 1970, by the clock that files get their times from.
        """
        self._output_dirs: dict[str, str] = {}
        for path in output_dirs:
            # Not resolved: the ledger has the folders as they were named.
            self._output_dirs.setdefault(os.path.realpath(path), str(path.absolute()))
        self._cache_path = cache_path
        self._ledger = ledger
        self._clock = clock

    def __iter__(self) -> Iterator[Entry]:
        """Yield an entry for each run, each day of a run, and everything else.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        with closing(Cache(self._cache_path)) as cache:
            cache.forget_gone()
            reader = _Reader(cache, self._ledger, self._clock)
            for location in self._output_dirs.values():
                yield from reader.output_dir(location)


def entries_of_run(folder: Path, ledger: Ledger | None) -> Sequence[Entry]:
    """Return the entry of a run, and those of its days; none if there is no such folder. Raises LedgerError."""
    folder = folder.absolute()
    with closing(Cache(None)) as cache:
        entries, _ = _Reader(cache, ledger, time.time_ns).run(str(folder.parent), folder.parent.name, folder.name)
    return entries


@dataclass(slots=True)
class _Listing:
    """What is in a folder, without hidden files and folders.

    Attributes:
        folders: names, sorted by their bytes.
        sizes: bytes of each file, by name.
        others: names of links, sockets and so on.
    """

    folders: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


class _Reader:
    """Reads output folders, with an open cache."""

    def __init__(self, cache: Cache, ledger: Ledger | None, clock: Callable[[], int]) -> None:
        self._cache = cache
        self._ledger = ledger
        self._clock = clock

    def output_dir(self, location: str) -> Iterator[Entry]:
        """Yield the entries of an output folder."""
        listing = _list(location)
        if isinstance(listing, OSError):
            if not isinstance(listing, FileNotFoundError):
                yield Entry(location, Status.UNREADABLE, one_line(listing))
            return
        for name in listing.folders:
            path = os.path.join(location, name)  # noqa: PTH118 - a hundred thousand of them
            if name in KINDS:
                yield from self._spider(path, name)
            else:
                yield Entry(path, Status.FOREIGN, "its name is not that of a spider")
        yield from _strays(location, listing, "")

    def _spider(self, location: str, spider: str) -> Iterator[Entry]:
        """Yield the entries of the folder of a spider."""
        listing = _list(location)
        if isinstance(listing, OSError):
            yield Entry(location, Status.UNREADABLE, one_line(listing), spider=spider)
            return
        names, after = listing.folders, ""
        for start in range(0, max(len(names), 1), _AT_ONCE):
            chunk = names[start : start + _AT_ONCE]
            last = chunk[-1] if start + _AT_ONCE < len(names) else None
            before = self._cache.read_before(location, after, last)
            changed = {}
            for name in chunk:
                was = before.pop(name, NOTHING)
                entries, read = self._run(f"{location}/{name}", spider, name, was)
                yield from entries
                if read is not was:
                    changed[name] = read
            self._cache.note(location, changed | dict.fromkeys(before, NOTHING))
            after = last or ""
        yield from _strays(location, listing, spider)

    def run(self, location: str, spider: str, name: str) -> tuple[Sequence[Entry], Read]:
        """Return the entries of a run in the folder of a spider, and what to note of it."""
        return self._run(f"{location}/{name}", spider, name, NOTHING)

    def _run(self, location: str, spider: str, name: str, was: Read) -> tuple[Sequence[Entry], Read]:
        """Return the entries of a run's folder, and what to note; that is `was` itself if nothing has changed."""
        own = self._package(location, spider, name, None, was.own)
        if own is None:
            return self._unfinished(location, spider, name, was)
        if own is was.own and not own.entry.days:
            return (own.entry,), was
        known: dict[str, Any] = {"spider": spider, "run_id": own.entry.run_id, "run_uuid": own.entry.run_uuid}
        days = [
            package
            or Entry(f"{location}/{day}", Status.UNREADABLE, "its data package does not exist", day=day, **known)
            for day, package in self._days(location, spider, name, own.entry.days, was)
        ]
        return _together(own, days, was)

    def _unfinished(self, location: str, spider: str, name: str, was: Read) -> tuple[Sequence[Entry], Read]:
        """Do the same as `_run` for a run without a data package."""
        listing = _list(location)
        if isinstance(listing, FileNotFoundError):  # It was removed in the meantime.
            return (), NOTHING
        if isinstance(listing, OSError):
            return (Entry(location, Status.UNREADABLE, one_line(listing), spider=spider, run_id=name),), NOTHING
        run = _Unfinished(location, spider, name, self._ledger)
        names = [name for name in listing.folders if DAY.fullmatch(name)]
        if not run.is_known and not names and not _may_be_a_run(name, spider, listing):
            return (Entry(location, Status.FOREIGN, "not a run of this project", spider=spider),), NOTHING
        days = [
            package or run.entry_of_day(day, _sizes(f"{location}/{day}"))
            for day, package in self._days(location, spider, name, names, was)
        ]
        return _together(run.entry(listing.sizes, names), days, was)

    def _days(
        self, location: str, spider: str, name: str, days: Sequence[str], was: Read
    ) -> Iterator[tuple[str, Package | None]]:
        """Yield each day of a run, with its data package if there is one."""
        before = {package.entry.day: package for package in was.days}
        for day in days:
            path = f"{location}/{day}"
            is_link = os.path.islink(path)  # noqa: PTH114 - as above
            yield day, None if is_link else self._package(path, spider, name, day, before.get(day))

    def _package(self, location: str, spider: str, name: str, day: str | None, was: Package | None) -> Package | None:
        """Return the data package of a folder, which is `was` if it has not changed; None if there is none."""
        path = f"{location}/{datapackage.FILE_NAME}"
        known: dict[str, Any] = {"spider": spider, "run_id": name, "day": day}
        try:
            found = os.lstat(path)
            if not stat.S_ISREG(found.st_mode):
                return Package(
                    _UNSETTLED, Entry(location, Status.UNREADABLE, f"{datapackage.FILE_NAME} is no file", **known)
                )
            is_same = was is not None and was.signature == (found.st_size, found.st_mtime_ns)
            if was is not None and is_same and was.entry.location == location:
                return was
            body, signature = self._read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            return Package(
                _UNSETTLED, Entry(location, Status.UNREADABLE, f"{datapackage.FILE_NAME}: {one_line(error)}", **known)
            )
        return Package(signature, entry_of(body, location, spider, name, day))

    def _read(self, path: str) -> tuple[bytes, tuple[int, int]]:
        """Return the bytes of a file, and the signature that shows whether it has changed. Raises OSError."""
        # It may have become a link or a pipe in the meantime.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, "rb") as stream:  # noqa: PTH123 - it is a handle
            found = os.fstat(handle)
            body = stream.read()
        is_settled = self._clock() - found.st_mtime_ns >= _SETTLED
        return body, (found.st_size, found.st_mtime_ns) if is_settled else _UNSETTLED


class _Unfinished:
    """A run without a data package: what the ledger knows of it, and its files.

    Attributes:
        is_known: whether the ledger has it.
    """

    def __init__(self, location: str, spider: str, name: str, ledger: Ledger | None) -> None:
        """Look it up in the ledger. Raises LedgerError."""
        record = ledger.find(Path(location)) if ledger else None
        self.is_known = record is not None
        self._location, self._kind = location, KINDS[spider]
        self._noted = ledger.last_checkpoint(record.id) if ledger and record else None
        self._progress: Mapping[str, Any] = self._noted.progress if self._noted else {}
        self._days: Mapping[str, Any] = self._progress.get("days", {})
        self._facts = {"spider": spider, "run_id": name} | (self._facts_of(record) if record else {})
        self._end = _end_of(record) if record else {}

    def entry(self, sizes: Mapping[str, int], days: Sequence[str]) -> Entry:
        """Return the entry of the run; `sizes` are the bytes of the files in its folder, by name."""
        counts = (self._noted.counts if self._noted else {}) | self._progress.get("traffic", {})
        known = self._facts | self._end | self._account(counts, self._progress.get("quality"))
        files = self._files(sizes)
        return Entry(self._location, Status.UNFINISHED, days=tuple(days), files=files, **known)

    def entry_of_day(self, day: str, sizes: Mapping[str, int]) -> Entry:
        """Return the entry of a day without a data package; `sizes` as above."""
        known, files = self._facts | self._noted_day(day), self._files(sizes, day)
        return Entry(f"{self._location}/{day}", Status.UNFINISHED, day=day, files=files, **known)

    def _noted_day(self, day: str) -> dict[str, Any]:
        """Return the fields that the last checkpoint has of a day, see `run.days.Day.as_json`."""
        for each in [self._days["current"], *self._days["over"]] if self._days else []:
            if each["name"] == day:
                began = {"started_at": timestamp_to_iso(each["started_at"])}
                noted = {"noted": tuple(each["observations"])}
                return began | noted | self._account(each["counts"], each["quality"])
        return {}

    def _account(self, counts: Mapping[str, int], noted: dict[str, Any] | None) -> dict[str, Any]:
        """Return the counts of the run or a day as an entry has them; for `noted` see `Quality.as_json`."""
        quality = Quality(specified_of(self._kind.item_class))
        if noted:
            quality.restore(noted)
        return {
            "counts": {name: number for name, number in counts.items() if name not in TRAFFIC},
            **{name: counts.get(name) for name in TRAFFIC},
            "unknown_fields": dict(quality.unknown),
            "unreadable_fields": dict(quality.unreadable),
            "degraded": tuple(quality.flaws(())),
            "vanished_fields": tuple(quality.vanished()),
        }

    def _files(self, sizes: Mapping[str, int], day: str = "") -> tuple[File, ...]:
        """Return the files of records, as far as they are noted.

        They are whole if nothing is noted, if they are shorter, and if the day had been described before that.
        """
        noted = self._noted.files if self._noted and day not in self._days.get("described", ()) else None
        files = []
        for name, size in sorted(sizes.items()):
            kind = self._kind.of_file(name)
            good, rows = (size, None) if noted is None else noted.get(f"{day}/{name}" if day else name, (0, 0))
            if kind is None or (noted is not None and not good):
                continue
            if good > size:
                good, rows = size, None
            files.append(File(name, name.rpartition(".")[2], kind, rows, good))
        return tuple(files)

    def _facts_of(self, record: RunRecord) -> dict[str, Any]:
        """Return what is known of the run and of each of its days."""
        host = self._noted.host if self._noted else ""
        # Checkpoints of earlier versions have no source.
        source = self._progress.get("source", {}).get("kind") or (source_of(host) if host else None)
        return {
            "run_id": record.run_id,
            "run_uuid": record.run_uuid,
            "started_at": timestamp_to_iso(record.started_at),
            "arguments": arguments_of(record),
            "window": record.window and Window(*map(timestamp_to_iso, record.window)),
            "host": host or None,
            "source": source,
        }


def _end_of(record: RunRecord) -> dict[str, Any]:
    """Return how a run was stopped; None in all fields if it is running or was killed."""
    is_superseded = record.state == SUPERSEDED
    return {
        "ended_at": None if record.ended_at is None else timestamp_to_iso(record.ended_at),
        "exit_code": record.exit_code,
        "reason": "a later run has written its records" if is_superseded else record.reason,
    }


def _together(own: Entry | Package, days: Sequence[Entry | Package], was: Read) -> tuple[list[Entry], Read]:
    """Return the entries of a run and of its days, and what of them to note; `was` itself if that is the same."""
    noted = [each for each in days if isinstance(each, Package) and each.signature != _UNSETTLED]
    read = Read(own if isinstance(own, Package) and own.signature != _UNSETTLED else None, tuple(noted))
    is_same = read.own is was.own and len(noted) == len(was.days) and all(map(operator.is_, noted, was.days))
    return [each.entry if isinstance(each, Package) else each for each in (own, *days)], was if is_same else read


def _may_be_a_run(name: str, spider: str, listing: _Listing) -> bool:
    """Tell whether a folder without days that is not in the ledger may be that of an unfinished run."""
    try:
        folder_name(name, 0)
    except UnparsableError:
        return False
    is_empty = not (listing.sizes or listing.folders or listing.others)
    return is_empty or any(KINDS[spider].of_file(each) or each in _LEFTOVERS for each in listing.sizes)


def _strays(location: str, listing: _Listing, spider: str) -> Iterator[Entry]:
    """Yield an entry for everything that is no folder, where only folders should be."""
    for name in sorted([*listing.sizes, *listing.others], key=os.fsencode):
        reason = "no folder" if name in listing.sizes else "no folder; links are not followed"
        yield Entry(os.path.join(location, name), Status.FOREIGN, reason, spider=spider)  # noqa: PTH118 - as above


def _list(location: str) -> _Listing | OSError:
    """Return what is in a folder, or why it cannot be read."""
    listing = _Listing()
    try:
        with os.scandir(location) as found:
            for each in found:
                if each.name.startswith("."):
                    continue
                if each.is_dir(follow_symlinks=False):
                    listing.folders.append(each.name)
                elif each.is_file(follow_symlinks=False):
                    listing.sizes[each.name] = each.stat(follow_symlinks=False).st_size
                else:
                    listing.others.append(each.name)
    except OSError as error:
        return error
    listing.folders.sort(key=os.fsencode)
    return listing


def _sizes(location: str) -> Mapping[str, int]:
    """Return the sizes of the files in a folder; none if it cannot be read."""
    listing = _list(location)
    return {} if isinstance(listing, OSError) else listing.sizes
