"""How the files of a stopped run are prepared, so that it can resume from its last checkpoint.

`plan` decides, and is pure: it takes what is in the folder and what the checkpoint noted. `carry_out` does it. After a
process was killed between any two steps, `plan` comes to the same result.
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

# Records that came after the last checkpoint, while their files are prepared.
RECOVERED = "recovered.jsonl"
_NOTHING = (0, 0)


class Obstacle(Enum):
    """Why a run cannot resume, and starts over."""

    NOTHING_NOTED = "it has not noted how far it has come"
    FEEDS_ELSEWHERE = "its records are not all written to plain files in its folder"
    FILES_CHANGED = "its files are not as they were left"


@dataclass(frozen=True, slots=True)
class RunFiles:
    """What the files of a run are.

    Attributes:
        collection: the stem of their names, except for the quarantine.
        quarantine: the name of the file of the records that were set aside.
        can_refetch: what came after the last checkpoint can be fetched again; else every whole line is kept.
        rotates: it starts a file a day.
        feeds: names of those that are written now; None where records go elsewhere, or not line by line.
    """

    collection: str
    quarantine: str
    can_refetch: bool
    rotates: bool
    feeds: frozenset[str] | None

    def is_feed(self, name: str) -> bool:
        """Tell whether a file in the folder holds records that were written, in any session."""
        return name.startswith(f"{self.collection}.")

    def has_tail(self, name: str) -> bool:
        """Tell whether the part of a file after the checkpoint is kept."""
        if self.can_refetch:
            return False
        return name in {self.quarantine, RECOVERED} or (self.is_feed(name) and name.endswith(".jsonl"))


@dataclass(frozen=True, slots=True)
class Found:
    """A file in the folder: its size in bytes, and the part after the checkpoint, where that is kept."""

    size: int
    tail: bytes = b""

    @property
    def lines(self) -> list[bytes]:
        """The whole lines of the tail; the last one may be torn."""
        return self.tail.split(b"\n")[:-1]


@dataclass(frozen=True, slots=True)
class Save:
    """The step that writes lines to `RECOVERED`, which it replaces."""

    lines: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Remove:
    """The step that removes a file, if it exists."""

    name: str


@dataclass(frozen=True, slots=True)
class Cut:
    """The step that cuts a file to a size in bytes."""

    name: str
    size: int


Step = Save | Remove | Cut


@dataclass(frozen=True, slots=True)
class Resume:
    """The run resumes from its last checkpoint.

    Attributes:
        steps: what is done to its files, in this order.
        rows: how many each file of records holds then, by name.
        tail: records after the checkpoint that cannot be fetched again, in the order written. They are in `RECOVERED`,
            and must be written and counted again, except for those that the files already hold: a process may have
            been killed after it wrote them.
        quarantined: how many records were set aside after the checkpoint; they stay there and must be counted.
    """

    steps: tuple[Step, ...]
    rows: Mapping[str, int]
    tail: tuple[Row, ...] = ()
    quarantined: int = 0


@dataclass(frozen=True, slots=True)
class StartOver:
    """The run starts over.

    Attributes:
        obstacle: why it cannot resume.
        loses_records: records would be deleted that cannot be fetched again, so it must not start at all.
        steps: how its folder is cleared.
    """

    obstacle: Obstacle
    loses_records: bool
    steps: tuple[Step, ...]


def plan(files: RunFiles, found: Mapping[str, Found], noted: Noted | None) -> Resume | StartOver:
    """Decide how a run resumes.

    Args:
        files: what its files are.
        found: what is in its folder, see `look`.
        noted: the files at its last checkpoint; None where there was none, as for a new run.

    Raises:
        ValueError: a whole line is not JSON.
    """
    if noted is None:
        return _start_over(files, found, Obstacle.NOTHING_NOTED)
    if obstacle := _obstacle(files, found, noted):
        return _start_over(files, found, obstacle)
    rows = {name: count for name, (_, count) in noted.items() if name.startswith(files.collection)}
    if files.can_refetch:
        return Resume((*_cuts(found, noted), *_unnoted(found, noted, [files.quarantine])), rows)
    lines = _lines_to_save(files, found)
    quarantine = found.get(files.quarantine, Found(0))
    feeds = {name: size_and_rows for name, size_and_rows in noted.items() if name != files.quarantine}
    steps: list[Step] = [
        # Before any file is cut.
        *([Save(lines)] if lines else []),
        *_unnoted(found, noted, filter(files.is_feed, sorted(found))),
        *_cuts(found, feeds),
        *_cut_to_lines(files.quarantine, quarantine),
    ]
    return Resume(tuple(steps), rows, tuple(map(json.loads, lines)), len(quarantine.lines))


def _obstacle(files: RunFiles, found: Mapping[str, Found], noted: Noted) -> Obstacle | None:
    """Return why the files cannot be continued: they lack what they held, or others are written now."""
    if files.feeds is None:
        return Obstacle.FEEDS_ELSEWHERE
    whole = all(found.get(name, Found(0)).size >= size for name, (size, _) in noted.items())
    # Where files rotate, new names are expected.
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
        # A killed process may have saved them and not yet cut them off, or have written them again.
        lines |= dict.fromkeys(found[name].lines)
    return tuple(lines)


def _unnoted(found: Mapping[str, Found], noted: Noted, names: Iterable[str]) -> Iterator[Remove]:
    return (Remove(name) for name in names if name in found and name not in noted)


def _cuts(found: Mapping[str, Found], noted: Noted) -> Iterator[Cut]:
    # What came after is fetched again, or was saved; the last line may be torn.
    return (Cut(name, size) for name, (size, _) in noted.items() if name in found and found[name].size > size)


def _cut_to_lines(name: str, file: Found) -> Iterator[Cut]:
    """Cut off a torn last line; what was set aside since the checkpoint is kept."""
    if torn := len(file.tail.rpartition(b"\n")[2]):
        yield Cut(name, file.size - torn)


def roll_back(names: Iterable[str], noted: Noted, quarantine: str) -> tuple[Step, ...]:
    """Return the steps that remove what came since a checkpoint, once the files are closed.

    Args:
        names: the existing files of the run.
        noted: the files at the checkpoint.
        quarantine: the name of the file of the records that were set aside.
    """
    cuts = [Cut(name, noted.get(name, _NOTHING)[0]) for name in names]
    return (*cuts, Remove(quarantine)) if not noted.get(quarantine, _NOTHING)[1] else tuple(cuts)


# From here on, the folder:


def look(folder: Path, files: RunFiles, noted: Noted | None) -> dict[str, Found]:
    """Return the run's own files in its folder. Raises OSError."""
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
    """Carry out a plan in a folder. Raises OSError; a part of the steps does no harm."""
    for step in steps:
        match step:
            case Save(lines):
                _save(folder, lines)
            case Remove(name):
                (folder / name).unlink(missing_ok=True)
            case Cut(name, size):
                os.truncate(folder / name, size)


def rows_before(folder: Path, recovered: Resume) -> Iterator[Row]:
    """Yield the records written until the checkpoint, once the plan was carried out. Raises OSError."""
    for name, rows in sorted(recovered.rows.items()):
        # A file without rows may not exist.
        if rows and name.endswith(".jsonl"):
            with (folder / name).open("rb") as lines:
                yield from (json.loads(line) for line in lines if line.endswith(b"\n"))


def forget_tail(folder: Path) -> None:
    """Remove `RECOVERED`, once a checkpoint notes that its lines are in the files again."""
    (folder / RECOVERED).unlink(missing_ok=True)


def _save(folder: Path, lines: Iterable[bytes]) -> None:
    """Bring all lines to the disk before anything is cut off elsewhere."""
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
