"""How the files of a stopped run are prepared, so that it can resume from its last checkpoint.

`plan` decides, and is pure: it takes what is in the folder and what the checkpoint noted. `carry_out` does it. After a
process was killed between any two steps, `plan` comes to the same result.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from parti_scraper.run.datapackage import FILE_NAME, QUARANTINE, is_sealed, read, sync_folder
from parti_scraper.run.days import DAY

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
        collection: the stem of the names of those with records.
        can_refetch: what came after the last checkpoint can be fetched again; else every whole line is kept.
        by_day: it has a folder for each day.
        feeds: names of those that are to be written now; None where records go elsewhere, or not line by line.
        described: days that have a data package, to which nothing was added since.
        reopened: days with a data package to which records were added since, as the clock was set back.
    """

    collection: str
    can_refetch: bool
    by_day: bool
    feeds: frozenset[str] | None
    described: frozenset[str] = frozenset()
    reopened: frozenset[str] = frozenset()

    def is_feed(self, name: str) -> bool:
        """Tell whether a file in the folder is one of records that were written, by this session or another."""
        return self._is_own(name) and PurePosixPath(name).name.startswith(f"{self.collection}.")

    def is_quarantine(self, name: str) -> bool:
        """Tell whether a file in the folder is one of records that were set aside."""
        return self._is_own(name) and PurePosixPath(name).name == QUARANTINE

    def is_package(self, name: str) -> bool:
        """Tell whether a file in the folder is the data package of a day that is not to have one."""
        is_of_day = bool(day_in(name)) and not self.is_reopened(name)
        return is_of_day and self._is_own(name) and PurePosixPath(name).name == FILE_NAME

    def is_reopened(self, name: str) -> bool:
        """Tell whether a file belongs to a day that was reopened; without what was added its data package is right."""
        return day_in(name) in self.reopened

    def has_tail(self, name: str) -> bool:
        """Tell whether the part of a file after the checkpoint is kept."""
        if self.can_refetch:
            return False
        return self.is_quarantine(name) or name == RECOVERED or (self.is_feed(name) and name.endswith(".jsonl"))

    def _is_own(self, name: str) -> bool:
        day = day_in(name)
        return not day or (self.by_day and bool(DAY.fullmatch(day)) and day not in self.described)


def day_in(name: str) -> str:
    """Return the day that a file of the run belongs to; empty if it belongs to none."""
    return name.rpartition("/")[0]


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
        tail: records that came after the checkpoint and cannot be fetched again, in the order in which they were
            written. They are in `RECOVERED` and are to be written and counted again, except for those that the files
            hold: a process may have been killed after it had done so.
        quarantined: how many records were set aside after the checkpoint and stay there, by name of the file; they are
            to be counted.
    """

    steps: tuple[Step, ...]
    rows: Mapping[str, int]
    tail: tuple[Row, ...] = ()
    quarantined: Mapping[str, int] = field(default_factory=dict)


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
        # What was noted may be lost, while days were described.
        has_days = any(map(files.is_package, found))
        return _start_over(files, found, Obstacle.NOTHING_NOTED, loses_records=has_days)
    if obstacle := _obstacle(files, found, noted):
        # Of earlier days nothing can be fetched again.
        has_days = files.by_day and any(rows for _, rows in noted.values())
        return _start_over(files, found, obstacle, loses_records=has_days or bool(files.described))
    rows = {name: count for name, (_, count) in noted.items() if files.is_feed(name) and not files.is_reopened(name)}
    packages = _unnoted(found, noted, filter(files.is_package, sorted(found)))
    if files.can_refetch:
        unnoted = (
            name for name in sorted(found) if files.is_quarantine(name) or (day_in(name) and files.is_feed(name))
        )
        return Resume((*packages, *_cuts(found, noted), *_unnoted(found, noted, unnoted)), rows)
    lines = _lines_to_save(files, found)
    quarantines = {
        name: file for name, file in sorted(found.items()) if files.is_quarantine(name) and not files.is_reopened(name)
    }
    others = {name: size_and_rows for name, size_and_rows in noted.items() if name not in quarantines}
    unnoted = (name for name in sorted(found) if files.is_feed(name) or files.is_reopened(name))
    steps: list[Step] = [
        # Before any file is cut.
        *([Save(lines)] if lines else []),
        *packages,
        *_unnoted(found, noted, unnoted),
        *_cuts(found, others),
        *(step for name, file in quarantines.items() for step in _cut_to_lines(name, file)),
    ]
    quarantined = {name: len(file.lines) for name, file in quarantines.items() if file.lines}
    return Resume(tuple(steps), rows, tuple(map(json.loads, lines)), quarantined)


def _obstacle(files: RunFiles, found: Mapping[str, Found], noted: Noted) -> Obstacle | None:
    """Return why the files cannot be continued: they lack what they held, or others are written now."""
    if files.feeds is None:
        return Obstacle.FEEDS_ELSEWHERE
    whole = all(found.get(name, Found(0)).size >= size for name, (size, _) in noted.items())
    # Each day has files of its own.
    if not whole or (files.feeds - noted.keys() and not files.by_day):
        return Obstacle.FILES_CHANGED
    return None


def _start_over(files: RunFiles, found: Mapping[str, Found], obstacle: Obstacle, *, loses_records: bool) -> StartOver:
    feeds = sorted(filter(files.is_feed, found))
    if loses_records or (not files.can_refetch and any(found[name].size for name in feeds)):
        return StartOver(obstacle, loses_records=True, steps=())
    others = [name for name in sorted(found) if files.is_quarantine(name) or files.is_package(name)]
    return StartOver(obstacle, loses_records=False, steps=tuple(_unnoted(found, {}, [*feeds, *others])))


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


def roll_back(names: Iterable[str], noted: Noted, files: RunFiles) -> tuple[Step, ...]:
    """Return how what came since a checkpoint is left out, once the files are closed.

    Args:
        names: the existing files of the run.
        noted: the files at the checkpoint.
        files: what its files are.
    """
    return tuple(
        Remove(name)
        if name not in noted and (files.is_quarantine(name) or day_in(name))
        else Cut(name, noted.get(name, _NOTHING)[0])
        for name in names
    )


def unseal(packages: Iterable[str]) -> tuple[Step, ...]:
    """Return how a run is opened again that was sealed, with these data packages of days; before all other steps."""
    # That of the run first: it names those of the days.
    return (Remove(FILE_NAME), *map(Remove, packages))


# From here on, the folder:


def look(folder: Path, files: RunFiles, noted: Noted | None) -> dict[str, Found]:
    """Return what is in the folder of a run, as far as it is the run's own. Raises OSError."""
    names = {path.relative_to(folder).as_posix() for pattern in ("*", "*/*") for path in folder.glob(pattern)}
    names = {name for name in names if files.is_feed(name) or files.is_quarantine(name) or files.is_package(name)}
    names |= {name for name in {RECOVERED, *(noted or {})} if (folder / name).exists()}
    found = {}
    for name in names:
        path = folder / name
        offset = 0 if noted is None else noted.get(name, _NOTHING)[0]
        is_kept = noted is not None and files.has_tail(name)
        found[name] = Found(_size(path), tail(path, offset) if is_kept else b"")
    return found


def sealed_packages(folder: Path, files: RunFiles, found: Iterable[str]) -> list[str]:
    """Return which of the files are data packages of days that were written when the run was sealed.

    Raises:
        UsageError: one is of a later version of the project.
    """
    packages = filter(files.is_package, sorted(found))
    return [name for name in packages if is_sealed(read((folder / name).parent) or {})]


def carry_out(folder: Path, steps: Iterable[Step]) -> None:
    """Carry out a plan in a folder. Raises OSError; a part of the steps does no harm."""
    for step in steps:
        match step:
            case Save(lines):
                _save(folder, lines)
            case Remove(name):
                (folder / name).unlink(missing_ok=True)
                if day_in(name):
                    with contextlib.suppress(OSError):  # It may hold others.
                        (folder / name).parent.rmdir()
            case Cut(name, size):
                os.truncate(folder / name, size)


def reopened(folder: Path, described: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return the files of days with a data package that hold more than it says, as they were when it was written."""
    noted: dict[str, tuple[int, int]] = {}
    for day in described:
        package = read(folder / day)
        files = {
            f"{day}/{each['path']}": (each["bytes"], each.get("rows", 0))
            for each in (package["resources"] if package else [])
        }
        if any(_size(folder / name) > size for name, (size, _) in files.items()):
            noted |= files
    return noted


def rows_before(folder: Path, recovered: Resume, days: Iterable[str] = ()) -> Iterator[Row]:
    """Yield the records that the run had written at the checkpoint, once the plan was carried out.

    Args:
        folder: the run's.
        recovered: how it resumes.
        days: those with a data package whose records are wanted too.

    Raises:
        OSError: they cannot be read.
    """
    # One without rows may not have been made.
    names = [name for name, rows in recovered.rows.items() if rows and name.endswith(".jsonl")]
    described = [path for day in days for path in (folder / day).glob("*.jsonl") if path.name != QUARANTINE]
    for path in [*sorted(described), *(folder / name for name in sorted(names))]:
        with path.open("rb") as lines:
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


def tail(path: Path, offset: int) -> bytes:
    """Return the bytes of a file from an offset on. Raises OSError."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
