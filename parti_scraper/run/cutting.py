"""What is whole of files of records whose last part may be torn, since a process was killed or a disk was full."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


def whole_records(lines: Iterable[bytes], *, quoted: bool) -> Iterator[int]:
    """Yield where each whole record ends, in bytes; in CSV, a line end inside quotes ends none.

    Args:
        lines: from the start of a record, each with its line end.
        quoted: whether it is CSV.
    """
    position = quotes = 0
    for line in lines:
        position += len(line)
        quotes += line.count(b'"') if quoted else 0
        if line.endswith(b"\n") and quotes % 2 == 0:
            yield position


@dataclass(frozen=True, slots=True)
class Whole:
    """What is whole of a file of JSON Lines, or of CSV with a header.

    Attributes:
        path: where it is.
        start: where the records begin that were not noted, in bytes.
        noted: how many there are before that.
        ends: where each of the others ends, in bytes.
    """

    path: Path
    start: int
    noted: int
    ends: tuple[int, ...]

    @classmethod
    def of(cls, path: Path, noted: tuple[int, int]) -> Self:
        """Read a file from where it was noted, in bytes and rows; all of it where it is shorter. Raises OSError."""
        is_csv = path.suffix == ".csv"
        start, rows = noted if noted[0] <= path.stat().st_size else (0, 0)
        with path.open("rb") as file:
            file.seek(start)
            # After the machine has died, there may be anything.
            lines = itertools.takewhile(_may_be_csv if is_csv else _is_object, file)
            ends = [start + end for end in whole_records(lines, quoted=is_csv)]
        if is_csv and not start and ends:
            start = ends.pop(0)
        return cls(path, start, rows, tuple(ends))

    @property
    def rows(self) -> int:
        return self.noted + len(self.ends)

    def cut(self, most: int) -> int:
        """Cut the file to its whole records, and bring it to the disk; when it was last changed stays as it is.

        Args:
            most: how many are to be left, of those that were not noted.

        Returns:
            how many there are.

        Raises:
            OSError: it cannot be written.
        """
        kept = self.ends[: max(most - self.noted, 0)]
        with self.path.open("r+b") as file:
            found = os.fstat(file.fileno())
            file.truncate(kept[-1] if kept else self.start)
            os.utime(file.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))
            os.fsync(file.fileno())
        return self.noted + len(kept)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _may_be_csv(line: bytes) -> bool:
    return b"\0" not in line
