"""Which files of which runs are to be loaded, by what the catalog has and what was loaded before. Pure.

The same rules for every target: every run counts, complete or not, sealed or still going; of those that are going on,
what is there up to their last checkpoint.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from parti_scraper.dataset import facts
from parti_scraper.dataset.tables import RUNS, record_tables
from parti_scraper.items import Livestream
from parti_scraper.network.source import MOCK, REAL
from parti_scraper.run.entries import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from parti_scraper.dataset.coverage import Interval
    from parti_scraper.run.entries import Entry, File

# Run and file.
Key = tuple[str, str]
# Why a run is left out whose record files were removed.
PRUNED = "its files were removed by `prune`, and are not in this target"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was loaded of a file.

    Attributes:
        bytes: how many of its first bytes.
        rows: how many records these are.
        sha256: of these bytes, in hexadecimal.
    """

    bytes: int
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Part:
    """A file that is to be loaded, or what was added to it; or the account of a run, which is no file.

    Attributes:
        key: the run and the file.
        records: what it holds.
        folder: the folder that it is in.
        bytes: how many of its first bytes are good.
        rows: how many records these are; None if unknown.
        sha256: of these bytes; None if unknown.
        before: what was loaded of it before.
        confirms: within which interval the run confirms the livestreams in it, and when it began, in ISO 8601; None:
            it confirms none.
    """

    key: Key
    records: str
    folder: str
    bytes: int
    rows: int | None
    sha256: str | None
    before: Loaded | None = None
    confirms: tuple[Interval, str] | None = None

    @property
    def is_account(self) -> bool:
        """Whether it is what is said of the run, not records."""
        return self.records == RUNS

    @property
    def path(self) -> Path:
        """Where it is."""
        return Path(self.folder, self.key[1].rpartition("/")[2])


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A run, a day of one, or an earlier export that is not loaded.

    Attributes:
        folder: its folder.
        reason: why, a part of a sentence.
        is_wrong: whether something is wrong with it.
        what: what it is, in the plural.
    """

    folder: str
    reason: str
    is_wrong: bool = True
    what: str = "runs"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be loaded.

    Attributes:
        runs: the files of each run or day, by its folder.
        left_out: what is not loaded.
        source: where the data come from; None if there are none.
        pruned: runs that are not loaded and whose files were removed: by folder, the `run_uuid`.
    """

    runs: Mapping[str, list[Part]]
    left_out: Sequence[LeftOut] = ()
    source: str | None = None
    pruned: Mapping[str, str] = field(default_factory=dict)


class _Rank(NamedTuple):
    """How far a copy of a run's file has come; the greatest is taken."""

    has_files: bool
    is_finished: bool
    bytes: int


@dataclass(slots=True)
class _OfSource:
    """The files of one source: the best copy of each, and those of which the best copy was loaded before."""

    best: dict[Key, tuple[_Rank, Part | None]] = field(default_factory=dict)
    settled: set[Key] = field(default_factory=set)
    folders: list[str] = field(default_factory=list)
    has_records: bool = False

    def offer(self, entry: Entry, part: Part) -> None:
        """Take a file if it is the best copy so far."""
        self.has_records |= not part.is_account
        if part.key in self.settled:
            return
        rank = _Rank(not entry.pruned, entry.status is Status.FINISHED, part.bytes)
        is_loaded = part.before is not None and _is_loaded(entry, part, part.before)
        if is_loaded and rank.has_files and rank.is_finished:
            # Of a hundred thousand files that were loaded before, no more is kept than this.
            self.settled.add(part.key)
            self.best.pop(part.key, None)
            return
        if part.key not in self.best or rank > self.best[part.key][0]:
            self.best[part.key] = (rank, None if is_loaded else part)


def make_plan(
    entries: Iterable[Entry], records: Iterable[str], known: Mapping[Key, Loaded], source: str | None = None
) -> Plan:
    """Return what is to be loaded.

    Args:
        entries: of the catalog.
        records: what is in the files that are wanted.
        known: what was loaded before.
        source: what the data must come from; None: parti.com, or else a mock server if there are only made-up data.
    """
    wanted = frozenset(records)
    by_source: dict[str, _OfSource] = {}
    left_out: list[LeftOut] = []
    for entry in entries:
        problem = _problem(entry)
        if problem:
            left_out.append(problem)
        for part in () if problem else _parts(entry, wanted, known):
            of_source = by_source.setdefault(entry.source or REAL, _OfSource())
            of_source.offer(entry, part)
            if of_source.folders[-1:] != [entry.location]:
                of_source.folders.append(entry.location)
    source = source or _source_of(by_source)
    left_out += [
        LeftOut(folder, f"its data come from {other}, not {source}", is_wrong=False)
        for other, of_source in by_source.items()
        if other != source
        for folder in of_source.folders
    ]
    return _plan(by_source.get(source), left_out, source)


def _source_of(by_source: Mapping[str, _OfSource]) -> str:
    """Return which source is taken: parti.com, or else a mock server if only that has records."""
    there = [name for name, each in by_source.items() if each.has_records] or [*by_source]
    return REAL if REAL in there or not there else MOCK


def _plan(of_source: _OfSource | None, left_out: list[LeftOut], source: str) -> Plan:
    if of_source is None:
        return Plan({}, left_out)
    runs: defaultdict[str, list[Part]] = defaultdict(list)
    pruned: dict[str, str] = {}
    for rank, part in of_source.best.values():
        if part is None:
            continue
        if rank.has_files:
            runs[part.folder].append(part)
        else:
            pruned[part.folder] = part.key[0]
    left_out += [LeftOut(each, PRUNED) for each in pruned]
    return Plan(runs, left_out, source, pruned)


def held_parts(entry: Entry, known: Mapping[Key, Loaded]) -> list[Part] | None:
    """Return the files of a run that is over, or of a day of one, if exactly these were loaded; None if one was not.

    What is said of the run must have been loaded too: without it, it is not known what the files confirm.

    Args:
        entry: of the catalog.
        known: what was loaded.
    """
    parts = list(_parts(entry, frozenset(table.records for table in record_tables().values()), known))
    for part in parts:
        is_same = part.sha256 is not None and part.before is not None and part.before.sha256 == part.sha256
        if not is_same or not part.before or (part.before.bytes != part.bytes and not part.is_account):
            return None
    return [part for part in parts if not part.is_account]


def _is_loaded(entry: Entry, part: Part, before: Loaded) -> bool:
    if entry.pruned and part.is_account:
        # Nothing of it has changed but that its files are gone.
        return True
    if entry.status is Status.UNFINISHED:
        # A copy of the run that was made before is no news.
        return before.bytes >= part.bytes
    return (before.bytes, before.sha256) == (part.bytes, part.sha256 or before.sha256)


def _problem(entry: Entry) -> LeftOut | None:
    """Return why nothing of an entry can be loaded, if so."""
    if entry.status in {Status.UNREADABLE, Status.TOO_NEW}:
        return LeftOut(entry.location, entry.reason or entry.status)
    if entry.status is Status.UNFINISHED and entry.run_uuid is None and entry.files:
        return LeftOut(entry.location, "not finished, and in no ledger of this machine", is_wrong=False)
    if entry.feeds and not any(file.kind for file in entry.files):
        where = ", ".join(feed.uri for feed in entry.feeds)
        return LeftOut(entry.location, f"its records were stored elsewhere ({where})", is_wrong=False)
    return None


def _parts(entry: Entry, wanted: frozenset[str], known: Mapping[Key, Loaded]) -> Iterator[Part]:
    """Yield the files of an entry that are wanted, and what is said of the run."""
    head = f"{entry.day}/" if entry.day else ""
    account = _account(entry, known) if RUNS in wanted else None
    if account is not None:
        yield account
    for file in readable_files(entry):
        if file.kind in wanted:
            key = (entry.run_uuid or "", head + file.name)
            part = Part(key, file.kind, entry.location, file.bytes or 0, file.rows, file.sha256, known.get(key))
            yield part if account is None else _with_confirmations(part, account, entry)


def _account(entry: Entry, known: Mapping[Key, Loaded]) -> Part | None:
    """Return what is said of a run, or of a day of one; None if nothing is."""
    # A run that has just begun does not know its source.
    is_known = entry.source is not None or entry.status is not Status.UNFINISHED
    if entry.run_uuid is None or entry.status is Status.FOREIGN or not is_known:
        return None
    key = (entry.run_uuid, facts.name_of(entry))
    return Part(key, RUNS, entry.location, facts.size_of(entry), 1, facts.digest_of(entry), known.get(key))


def _with_confirmations(part: Part, account: Part, entry: Entry) -> Part:
    """Return a file with what it confirms; if that was not known when it was loaded, it is to be read again."""
    is_known = account.before is not None and account.before.sha256 == account.sha256
    if part.records != Livestream.collection or is_known:
        return part
    confirms = facts.confirms(entry)
    return replace(part, confirms=confirms, before=None) if confirms else part


def readable_files(entry: Entry) -> list[File]:
    """Return the files of an entry whose records can be loaded."""
    if entry.run_uuid is None or entry.status is Status.FOREIGN:
        return []
    return [file for file in entry.files if file.kind and file.form == "jsonl" and _is_readable(entry, file)]


def _is_readable(entry: Entry, file: File) -> bool:
    """Tell whether a file has records: of a run that is going on, only those up to a checkpoint count."""
    return bool(file.bytes) and (entry.status is not Status.UNFINISHED or file.rows is not None)
