"""The runs, and the days of runs, that are in output folders: the one place that knows what is there.

A finished run costs one look at its data package, which is read only where it is new or has changed; see `Cache`. No
links are followed below the output folders, and nothing that is found in them is an error: what is no run of this
project is an entry that says so.
"""

from __future__ import annotations

import operator
import os
import stat
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from parti_scraper.api.times import UnparsableError
from parti_scraper.run import datapackage
from parti_scraper.run.catalog_cache import NOTHING, Cache, Package, Read
from parti_scraper.run.descriptors import DAY, entry_of, one_line, unreadable
from parti_scraper.run.entries import KINDS, Entry, Status
from parti_scraper.run.parsers import folder_name
from parti_scraper.run.unfinished import Unfinished, is_ours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from parti_scraper.run.unfinished import Lookup

# Folders of runs that are looked up in the cache at once.
_AT_ONCE = 1_000
# Nanoseconds: within less, a file may change twice and have the same time of change.
_SETTLED = 2_000_000_000
# Of what is not to be noted.
_UNSETTLED = (-1, -1)


class Catalog:
    """What there is in output folders. It may be iterated over again, and looks again then.

    The order is that of the output folders, then of the names of spiders and of runs; after the entry of a run those
    of its days. An output folder that is not there has no entries.
    """

    def __init__(
        self,
        output_dirs: Sequence[Path],
        cache_path: Path | None = None,
        ledger: Lookup | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Name what is looked at; nothing is read yet.

        Args:
            output_dirs: folders with a folder for each spider, such as PARTI_OUTPUT_DIR.
            cache_path: where what was read is noted, see `Cache`; None: nowhere.
            ledger: who knows of runs that did not finish; None: nobody.
            clock: nanoseconds since 1970, by the clock that files get their times from.
        """
        self._output_dirs: dict[str, str] = {}
        for path in output_dirs:
            # As they are named: by that the ledger knows their runs.
            self._output_dirs.setdefault(os.path.realpath(path), str(path.absolute()))
        self._cache_path = cache_path
        self._ledger = ledger
        self._clock = clock

    def __iter__(self) -> Iterator[Entry]:
        """Yield an entry for each run, each day of one, and whatever else there is.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        with closing(Cache.open(self._cache_path)) as cache:
            cache.forget_gone()
            reader = _Reader(cache, self._ledger, self._clock)
            for location in self._output_dirs.values():
                yield from reader.output_dir(location)


@dataclass(slots=True)
class _Listing:
    """What is in a folder, by kind; hidden files and folders are passed over.

    Attributes:
        folders: their names, in the order of their bytes.
        sizes: bytes of the files, by name.
        others: names of links, sockets and the like.
    """

    folders: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """All but the folders."""
        return sorted([*self.sizes, *self.others], key=os.fsencode)


class _Reader:
    """Reads what there is, with a cache that is open."""

    def __init__(self, cache: Cache, ledger: Lookup | None, clock: Callable[[], int]) -> None:
        self._cache = cache
        self._ledger = ledger
        self._clock = clock

    def output_dir(self, location: str) -> Iterator[Entry]:
        """Yield the entries of an output folder."""
        listing = _list(location)
        if isinstance(listing, OSError):
            if not isinstance(listing, FileNotFoundError):
                yield unreadable(location, one_line(listing), {})
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
            yield unreadable(location, one_line(listing), {"spider": spider})
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

    def _run(self, location: str, spider: str, name: str, was: Read) -> tuple[Sequence[Entry], Read]:
        """Return the entries of a folder of a run, and what to note; `was` itself where that is the same."""
        own = self._package(location, spider, name, None, was.own)
        if own is None:
            return self._unfinished(location, spider, name, was)
        if own is was.own and not own.entry.days:
            return (own.entry,), was
        days: list[Entry | Package] = []
        for day, before in _by_day(own.entry.days, was):
            path = f"{location}/{day}"
            is_link = os.path.islink(path)  # noqa: PTH114 - as above
            package = None if is_link else self._package(path, spider, name, day, before)
            known = {"spider": spider, "run_id": own.entry.run_id, "day": day, "run_uuid": own.entry.run_uuid}
            days.append(package or unreadable(path, "its data package is not there", known))
        return _together(own, days, was)

    def _unfinished(self, location: str, spider: str, name: str, was: Read) -> tuple[Sequence[Entry], Read]:
        """Do as `_run`, where there is no data package of the run."""
        listing = _list(location)
        if isinstance(listing, FileNotFoundError):  # It was removed meanwhile.
            return (), NOTHING
        if isinstance(listing, OSError):
            return (unreadable(location, one_line(listing), {"spider": spider, "run_id": name}),), NOTHING
        run = Unfinished(location, spider, name, self._ledger)
        names = [name for name in listing.folders if DAY.fullmatch(name)]
        if not run.is_known and not names and not _may_be_a_run(name, spider, listing):
            return (Entry(location, Status.FOREIGN, "no run of this project", spider=spider),), NOTHING
        days: list[Entry | Package] = []
        for day, before in _by_day(names, was):
            path = f"{location}/{day}"
            package = self._package(path, spider, name, day, before)
            days.append(package or run.entry_of_day(day, _sizes(path)))
        return _together(run.entry(listing.sizes, names), days, was)

    def _package(self, location: str, spider: str, name: str, day: str | None, was: Package | None) -> Package | None:
        """Return the data package of a folder, as it was where it has not changed; None where there is none."""
        path = f"{location}/{datapackage.FILE_NAME}"
        known = {"spider": spider, "run_id": name, "day": day}
        try:
            found = os.lstat(path)
            if not stat.S_ISREG(found.st_mode):
                return Package(_UNSETTLED, unreadable(location, f"{datapackage.FILE_NAME} is no file", known))
            is_same = was is not None and was.signature == (found.st_size, found.st_mtime_ns)
            if was is not None and is_same and was.entry.location == location:
                return was
            body, signature = self._read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            return Package(_UNSETTLED, unreadable(location, f"{datapackage.FILE_NAME}: {one_line(error)}", known))
        return Package(signature, entry_of(body, location, spider, name, day))

    def _read(self, path: str) -> tuple[bytes, tuple[int, int]]:
        """Return what is in a file, and by what to know that it has not changed. Raises OSError."""
        # It may have become a link or a pipe meanwhile.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, "rb") as stream:  # noqa: PTH123 - it is a handle
            found = os.fstat(handle)
            body = stream.read()
        is_settled = self._clock() - found.st_mtime_ns >= _SETTLED
        return body, (found.st_size, found.st_mtime_ns) if is_settled else _UNSETTLED


def _together(own: Entry | Package, days: Sequence[Entry | Package], was: Read) -> tuple[list[Entry], Read]:
    """Return the entries of a run and of its days, and what of them is to be noted: `was` where that is the same."""
    noted = [each for each in days if isinstance(each, Package) and each.signature != _UNSETTLED]
    read = Read(own if isinstance(own, Package) and own.signature != _UNSETTLED else None, tuple(noted))
    is_same = read.own is was.own and len(noted) == len(was.days) and all(map(operator.is_, noted, was.days))
    return [each.entry if isinstance(each, Package) else each for each in (own, *days)], was if is_same else read


def _by_day(days: Sequence[str], was: Read) -> Iterator[tuple[str, Package | None]]:
    """Yield each day, and its data package as it was."""
    before = {package.entry.day: package for package in was.days}
    for day in days:
        yield day, before.get(day)


def _may_be_a_run(name: str, spider: str, listing: _Listing) -> bool:
    """Tell whether a folder without days, which the ledger does not know, is that of a run that did not finish."""
    try:
        folder_name(name, 0)
    except UnparsableError:
        return False
    is_empty = not (listing.sizes or listing.folders or listing.others)
    return is_empty or any(is_ours(each, spider) for each in listing.sizes)


def _strays(location: str, listing: _Listing, spider: str) -> Iterator[Entry]:
    """Yield an entry for all that is no folder, where there should be folders alone."""
    for name in listing.names:
        reason = "no folder" if name in listing.sizes else "no folder; links are not followed"
        yield Entry(os.path.join(location, name), Status.FOREIGN, reason, spider=spider)  # noqa: PTH118 - as above


def _list(location: str) -> _Listing | OSError:
    """Return what is in a folder, or why that cannot be read."""
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
    """Return the sizes of the files in a folder; none where it cannot be read."""
    listing = _list(location)
    return {} if isinstance(listing, OSError) else listing.sizes
