"""How the files of a run that was stopped are put right, so that it can go on from its last checkpoint.

`plan` decides, and is pure: it is given what is in the folder and what was noted. `carry_out` does it. A process that
is killed between any two steps leaves a folder for which `plan` comes to the same end.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from parti_scraper.run.datapackage import sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    Row = dict[str, Any]
    # Size in bytes and rows of each file at the last checkpoint, by name.
    Noted = Mapping[str, tuple[int, int]]

# Records that came after the last checkpoint, while their files are put right.
RECOVERED = "recovered.jsonl"
_NOTHING = (0, 0)


class Obstacle(Enum):
    """Why a run cannot go on, and begins from the start."""

    NOTHING_NOTED = "it has not noted how far it has come"
    FEEDS_ELSEWHERE = "its records are not all written to plain files in its folder"
    FILES_CHANGED = "its files are not as they were left"


@dataclass(frozen=True, slots=True)
class RunFiles:
    """What the files of a run are.

    Attributes:
        collection: the stem of their names, but for the quarantine.
        quarantine: the name of the file of the records that were set aside.
        can_refetch: what came after the last checkpoint can be asked for again; else every whole line is kept.
        rotates: it begins a file a day.
        feeds: names of those that are to be written now; None where records go elsewhere, or not line by line.
    """

    collection: str
    quarantine: str
    can_refetch: bool
    rotates: bool
    feeds: frozenset[str] | None

    def is_feed(self, name: str) -> bool:
        """Tell whether a file in the folder is one of records that were written, by this session or another."""
        return name.startswith(f"{self.collection}.")

    def has_tail(self, name: str) -> bool:
        """Tell whether what a file holds after the checkpoint is kept."""
        if self.can_refetch:
            return False
        return name in {self.quarantine, RECOVERED} or (self.is_feed(name) and name.endswith(".jsonl"))


@dataclass(frozen=True, slots=True)
class Found:
    """A file in the folder: its size in bytes, and what it holds after the checkpoint, where that is kept."""

    size: int
    tail: bytes = b""

    @property
    def lines(self) -> list[bytes]:
        """The whole lines of the tail; the last one may be torn."""
        return self.tail.split(b"\n")[:-1]


@dataclass(frozen=True, slots=True)
class Save:
    """The step that puts lines aside in a file of their own, in place of what that held."""

    lines: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Remove:
    """The step that removes a file, where it is there."""

    name: str


@dataclass(frozen=True, slots=True)
class Cut:
    """The step that cuts a file to a size in bytes."""

    name: str
    size: int


Step = Save | Remove | Cut


@dataclass(frozen=True, slots=True)
class GoOn:
    """The run goes on from its last checkpoint.

    Attributes:
        steps: what is done to its files, in this order.
        rows: how many each file of records holds then, by name.
        tail: records that came after the checkpoint and cannot be asked for again, in the order in which they were
            written. They are in `RECOVERED` and are to be written and counted once more, but for those that the files
            hold: a process may have been killed after it had done so.
        quarantined: records that were set aside after the checkpoint and stay there; they are to be counted.
    """

    steps: tuple[Step, ...]
    rows: Mapping[str, int]
    tail: tuple[Row, ...] = ()
    quarantined: int = 0


@dataclass(frozen=True, slots=True)
class StartOver:
    """The run begins from the start.

    Attributes:
        obstacle: why it cannot go on.
        loses_records: records would be deleted that cannot be asked for again, so it must not begin either.
        steps: how its folder is cleared.
    """

    obstacle: Obstacle
    loses_records: bool
    steps: tuple[Step, ...]


def plan(files: RunFiles, found: Mapping[str, Found], noted: Noted | None) -> GoOn | StartOver:
    """Decide how a run goes on.

    Args:
        files: what its files are.
        found: what is in its folder, see `look`.
        noted: the files at its last checkpoint; None where there was none, as for a new run.

    Raises:
        ValueError: a whole line is no JSON.
    """
    if noted is None:
        return _start_over(files, found, Obstacle.NOTHING_NOTED)
    if obstacle := _obstacle(files, found, noted):
        return _start_over(files, found, obstacle)
    rows = {name: count for name, (_, count) in noted.items() if name.startswith(files.collection)}
    if files.can_refetch:
        return GoOn((*_cuts(found, noted), *_unnoted(found, noted, [files.quarantine])), rows)
    lines = _lines_to_save(files, found)
    quarantine = found.get(files.quarantine, Found(0))
    feeds = {name: size_and_rows for name, size_and_rows in noted.items() if name != files.quarantine}
    steps: list[Step] = [
        # First of all: from here on the lines may be cut off.
        *([Save(lines)] if lines else []),
        *_unnoted(found, noted, filter(files.is_feed, sorted(found))),
        *_cuts(found, feeds),
        *_cut_to_lines(files.quarantine, quarantine),
    ]
    return GoOn(tuple(steps), rows, tuple(map(json.loads, lines)), len(quarantine.lines))


def _obstacle(files: RunFiles, found: Mapping[str, Found], noted: Noted) -> Obstacle | None:
    """Return why the files cannot be gone on with: they lack what they held, or others are to be written now."""
    if files.feeds is None:
        return Obstacle.FEEDS_ELSEWHERE
    whole = all(found.get(name, Found(0)).size >= size for name, (size, _) in noted.items())
    # What rotates begins a file a day.
    if not whole or (files.feeds - noted.keys() and not files.rotates):
        return Obstacle.FILES_CHANGED
    return None


def _start_over(files: RunFiles, found: Mapping[str, Found], obstacle: Obstacle) -> StartOver:
    feeds = sorted(filter(files.is_feed, found))
    if not files.can_refetch and any(found[name].size for name in feeds):
        return StartOver(obstacle, loses_records=True, steps=())
    return StartOver(obstacle, loses_records=False, steps=tuple(_unnoted(found, {}, [*feeds, files.quarantine])))


def _lines_to_save(files: RunFiles, found: Mapping[str, Found]) -> tuple[bytes, ...]:
    """Return the whole lines that came after the checkpoint, each once."""
    lines = dict.fromkeys(found[RECOVERED].lines if RECOVERED in found else [])
    for name in sorted(filter(files.is_feed, found)):
        # A process that was killed may have saved them already, and not yet cut them off; or have written them again.
        lines |= dict.fromkeys(found[name].lines)
    return tuple(lines)


def _unnoted(found: Mapping[str, Found], noted: Noted, names: Iterable[str]) -> Iterator[Remove]:
    return (Remove(name) for name in names if name in found and name not in noted)


def _cuts(found: Mapping[str, Found], noted: Noted) -> Iterator[Cut]:
    # What came after was not noted, so it is asked for again, or was saved; the last line may be torn.
    return (Cut(name, size) for name, (size, _) in noted.items() if name in found and found[name].size > size)


def _cut_to_lines(name: str, file: Found) -> Iterator[Cut]:
    """Cut off a last line that is torn: what was set aside since the checkpoint is kept."""
    if torn := len(file.tail.rpartition(b"\n")[2]):
        yield Cut(name, file.size - torn)


def roll_back(names: Iterable[str], noted: Noted, quarantine: str) -> tuple[Step, ...]:
    """Return how what came since a checkpoint is left out, once the files are closed.

    Args:
        names: the files of the run that are there.
        noted: the files at the checkpoint.
        quarantine: the name of the file of the records that were set aside.
    """
    cuts = [Cut(name, noted.get(name, _NOTHING)[0]) for name in names]
    return (*cuts, Remove(quarantine)) if not noted.get(quarantine, _NOTHING)[1] else tuple(cuts)


# From here on, the folder:


def look(folder: Path, files: RunFiles, noted: Noted | None) -> dict[str, Found]:
    """Return what is in the folder of a run, as far as it is the run's own. Raises OSError."""
    names = {path.name for path in folder.glob(f"{files.collection}.*")}
    names |= {name for name in {files.quarantine, RECOVERED, *(noted or {})} if (folder / name).exists()}
    found = {}
    for name in names:
        path = folder / name
        offset = 0 if noted is None else noted.get(name, _NOTHING)[0]
        is_kept = noted is not None and files.has_tail(name)
        found[name] = Found(_size(path), _tail(path, offset) if is_kept else b"")
    return found


def carry_out(folder: Path, steps: Iterable[Step]) -> None:
    """Do in a folder what was planned.

    Raises:
        OSError: it cannot be done; what was done so far does no harm.
    """
    for step in steps:
        match step:
            case Save(lines):
                _save(folder, lines)
            case Remove(name):
                (folder / name).unlink(missing_ok=True)
            case Cut(name, size):
                os.truncate(folder / name, size)


def rows_before(folder: Path, recovered: GoOn) -> Iterator[Row]:
    """Yield the records that the run had written at the checkpoint, once the plan was carried out. Raises OSError."""
    for name, rows in sorted(recovered.rows.items()):
        # One without rows may not have been made.
        if rows and name.endswith(".jsonl"):
            with (folder / name).open("rb") as lines:
                yield from (json.loads(line) for line in lines if line.endswith(b"\n"))


def forget_tail(folder: Path) -> None:
    """Remove the lines that were put aside, once a checkpoint says that they are in the files again."""
    (folder / RECOVERED).unlink(missing_ok=True)


def _save(folder: Path, lines: Iterable[bytes]) -> None:
    """Write the lines so that they are on the disk, all of them, before anything is cut off elsewhere."""
    saved = folder / RECOVERED
    temporary = saved.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.writelines(line + b"\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(saved)
    sync_folder(folder)


def _tail(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
