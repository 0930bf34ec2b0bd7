"""Removes the record files that may go, once their records were found in the target.

The data package says so first, in one step, and then the files go. So a process may be killed at any moment: readers
know that the files are gone, or going, and the next `prune` removes the rest.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.dataset.holding import look_up
from parti_scraper.dataset.plan import LeftOut
from parti_scraper.exceptions import UsageError
from parti_scraper.ledger.locks import Lock
from parti_scraper.run import datapackage
from parti_scraper.run.entries import Status, one_line
from parti_scraper.run.series import finish_described

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from parti_scraper.dataset.targets.base import Session
    from parti_scraper.ledger.ledger import Ledger
    from parti_scraper.operations.prune import Candidate, Removal
    from parti_scraper.run.entries import File

# Bytes of records, and runs or days, that are looked up at once.
_AT_ONCE_BYTES = 256 << 20
_AT_ONCE = 2_000
_CHANGED = "it has just changed"
_AT_WORK = "a process is at work on it"


class _Kept(Exception):  # noqa: N818 - it is no error of this program
    """The files of a run stay; the text says why.

    Attributes:
        is_wrong: whether something is wrong with it.
    """

    def __init__(self, reason: str, *, is_wrong: bool = False) -> None:
        super().__init__(reason)
        self.is_wrong = is_wrong


@dataclass(slots=True)
class Removed:
    """What was removed of the runs of a spider, or would be.

    Attributes:
        runs: how many runs lost files.
        days: how many days of runs did.
        files: how many files.
        bytes: their sizes together.
    """

    runs: int = 0
    days: int = 0
    files: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Account:
    """What became of runs.

    Attributes:
        removed: what was removed, by spider.
        kept: what was not, though it is old.
        pruned: the folders of runs of which nothing is left but data packages.
    """

    removed: dict[str, Removed] = field(default_factory=dict)
    kept: list[LeftOut] = field(default_factory=list)
    pruned: list[Path] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Work:
    """How files are removed.

    Attributes:
        session: the target, which is open, so that no export changes it meanwhile.
        shown: its name.
        scratch: a folder for temporary files.
        now: Unix seconds.
        dry_run: whether everything stays as it is.
    """

    session: Session
    shown: str
    scratch: Path
    now: float
    dry_run: bool = False


def remove_all(removals: Iterable[Removal], work: Work, account: Account, advance: Callable[[int], None]) -> None:
    """Look runs up in the target, and remove the files of those that it has.

    Args:
        removals: what may go.
        work: how.
        account: to which what was done is added.
        advance: is called with the number of bytes that were read.

    Raises:
        TargetError: the target cannot be read.
    """
    for each, problems in _looked_up(removals, work, advance):
        _Remover(each, problems, work, account).remove()


def forget(ledger: Ledger, pruned: Iterable[Path]) -> None:
    """Let the ledger forget runs of which nothing is left but data packages. Raises LedgerError."""
    known = []
    for folder in pruned:
        run = ledger.find(folder)
        if run is None:
            continue
        known.append(folder)
        with suppress(UsageError):
            package = datapackage.read_finished(folder)
            if run.state == "running" and package:
                # It was killed before it could note that it had ended: its series is to know.
                finish_described(ledger, run.id, package)
    if known:
        ledger.forget_all(known)


def _looked_up(
    removals: Iterable[Removal], work: Work, advance: Callable[[int], None]
) -> Iterator[tuple[Removal, Mapping[str, _Kept]]]:
    """Yield each of them with what is wrong with its folders, once all of them were looked up."""
    waiting: list[Removal] = []
    candidates: list[Candidate] = []
    problems: dict[str, _Kept] = {}
    size = 0
    for removal in removals:
        for each in removal.candidates:
            candidates.append(each)
            size += sum(part.bytes for part in each.parts)
            if len(candidates) >= _AT_ONCE or size >= _AT_ONCE_BYTES:
                problems |= _problems(candidates, work, advance)
                candidates, size = [], 0
        waiting.append(removal)
        if not candidates:
            yield from ((each, problems) for each in waiting)
            waiting, problems = [], {}
    problems |= _problems(candidates, work, advance)
    yield from ((each, problems) for each in waiting)


def _problems(candidates: Sequence[Candidate], work: Work, advance: Callable[[int], None]) -> dict[str, _Kept]:
    """Return why files are to stay, by their folders."""
    runs = {each.entry.location: each.parts for each in candidates if each.parts}
    found = look_up(work.session, runs, work.scratch, advance) if runs else None
    lost = f"{work.shown} does not have all records that it says it has (export into a new target, or with --rebuild)"
    problems = {}
    for each in candidates:
        if found and any(part.key in found.lacking for part in each.parts):
            problems[each.entry.location] = _Kept(lost, is_wrong=True)
        elif changed := _changed(each):
            problem = f"{changed} is not what its data package says (SHA-256)"
            problems[each.entry.location] = _Kept(problem, is_wrong=True)
    if found:
        problems |= {each.folder: _Kept(each.reason, is_wrong=each.is_wrong) for each in found.left_out}
    return problems


def _changed(candidate: Candidate) -> str | None:
    """Return the name of a file that is not looked up, and is not what its data package says, if there is one."""
    looked_up = {each.path.name for each in candidate.parts}
    for file in candidate.files:
        path = candidate.entry.folder / file.name
        if file.name in looked_up or not os.path.lexists(path):
            continue
        try:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError:
            return file.name
        if digest != file.sha256:
            return file.name
    return None


class _Remover:
    """Removes the files of one run."""

    def __init__(self, removal: Removal, problems: Mapping[str, _Kept], work: Work, account: Account) -> None:
        self._removal, self._problems, self._work, self._account = removal, problems, work, account
        self._has_removed = self._has_kept = False

    def remove(self) -> None:
        """Remove what may go; the run is locked meanwhile, if it is not going on."""
        removal, folder = self._removal, self._removal.run.folder
        try:
            lock = Lock.take(folder)
        except OSError as error:
            self._keep(removal.candidates[0], _Kept(one_line(error)))
            return
        try:
            if lock is None and removal.run.status is not Status.UNFINISHED:
                self._keep(removal.candidates[0], _Kept(_AT_WORK))
            else:
                self._remove()
        finally:
            if lock:
                lock.release()

    def _remove(self) -> None:
        removal = self._removal
        good = [each for each in removal.candidates if not self._has_problem(each)]
        for each in good if len(good) == len(removal.candidates) or not removal.is_whole else ():
            if each is removal.own and not removal.is_whole and self._has_kept:
                # Some of its days stay.
                continue
            try:
                self._remove_files(each)
            except _Kept as kept:
                self._keep(each, kept)
                if removal.is_whole:
                    return
            else:
                self._count(each)

    def _has_problem(self, candidate: Candidate) -> bool:
        """Tell whether files are not as they should be, or not in the target, which is noted."""
        problem = self._problems.get(candidate.entry.location)
        if problem:
            self._keep(candidate, problem)
        return problem is not None

    def _remove_files(self, candidate: Candidate) -> None:
        """Let the data package say that the files are gone, and remove them. Raises _Kept."""
        folder = candidate.entry.folder
        try:
            package = _read_same(candidate)
            if self._work.dry_run:
                return
            if not datapackage.is_pruned(package):
                pruned = {"pruned": True, "pruned_at": timestamp_to_iso(self._work.now)}
                datapackage.write(folder, {**package, **pruned})
            for file in candidate.files:
                (folder / file.name).unlink(missing_ok=True)
            datapackage.sync_folder(folder)
        except UsageError as error:
            raise _Kept(str(error)) from None
        except OSError as error:
            raise _Kept(f"its files cannot be removed: {one_line(error)}", is_wrong=True) from None

    def _count(self, candidate: Candidate) -> None:
        removal = self._removal
        removed = self._account.removed.setdefault(removal.run.spider, Removed())
        removed.runs += not self._has_removed
        self._has_removed = True
        removed.days += candidate.entry.day is not None
        removed.files += len(candidate.files)
        removed.bytes += sum(each.bytes or 0 for each in candidate.files)
        if candidate is removal.own and not self._work.dry_run:
            self._account.pruned.append(removal.run.folder)

    def _keep(self, candidate: Candidate, kept: _Kept) -> None:
        entry = candidate.entry
        self._has_kept = True
        what = "days" if entry.day else "runs"
        self._account.kept.append(LeftOut(entry.location, str(kept), kept.is_wrong, what))


def _read_same(candidate: Candidate) -> dict[str, Any]:
    """Return the data package, which still says the same, as do the files. Raises _Kept, OSError, UsageError."""
    entry = candidate.entry
    package = datapackage.read(entry.folder)
    if package is None or datapackage.is_sealed(package) != (entry.status is Status.SEALED):
        raise _Kept(_CHANGED)
    said = {(each.get("path"), each.get("bytes"), each.get("hash")) for each in package["resources"]}
    for file in candidate.files:
        path = entry.folder / file.name
        if (file.name, file.bytes, f"sha256:{file.sha256}") not in said or _has_grown(path, file):
            raise _Kept(_CHANGED)
    return package


def _has_grown(path: Path, file: File) -> bool:
    return path.exists() and path.stat().st_size != file.bytes
