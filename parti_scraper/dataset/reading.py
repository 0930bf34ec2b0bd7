"""Reads the files of runs: checks them against their data packages, and puts them together.

DuckDB takes ten times as long for many small files as for a few large ones. While it reads those of one round, those of
the next one are checked and put together.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from parti_scraper.dataset.engine import TargetError, one_line, require
from parti_scraper.dataset.plan import LeftOut, Loaded
from parti_scraper.dataset.staging import FILE_NUMBER, LINE_NUMBER
from parti_scraper.dataset.tables import LAST_CONFIRMED_AT
from parti_scraper.exceptions import UsageError
from parti_scraper.run import datapackage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from parti_scraper.dataset.plan import Key, Part
    from parti_scraper.dataset.staging import Staging
    from parti_scraper.dataset.tables import Table

# Bytes of records that are read in one go; as much is written to the disk beside the database.
_ROUND = 256 << 20
_CHUNK = 4 << 20
# The file into which all were copied.
_IN_FILE = re.compile(r' in file "[^"]*"')


class _Mismatch(Exception):  # noqa: N818 - it is no error of this program
    """A file is not what its data package says; the text says how."""


@dataclass(slots=True)
class _Checked:
    """A file that is what it should be.

    Attributes:
        part: which.
        start: the byte from which it is read.
        first_line: the number of the line that begins there.
        loaded: what is loaded when that is done.
    """

    part: Part
    start: int
    first_line: int
    loaded: Loaded


@dataclass(frozen=True, slots=True)
class _Together:
    """Files of one kind that were put together.

    Attributes:
        records: what they hold.
        files: which, with the folder of the run of each.
        path: the file with their lines.
        first: the number of the first of them; the others follow.
        problem: why it is not whole.
    """

    records: str
    files: list[tuple[str, _Checked]]
    path: Path
    first: int
    problem: _Mismatch | None = None


@dataclass(slots=True)
class Reading:
    """What was read.

    Attributes:
        loaded: what of each file.
        left_out: runs that are not what their data packages say, or cannot be read.
        replaced: files that were loaded before and have not just grown since: all of their rows were read.
        accounts: what is said of runs, and is to be loaded; not of runs that are left out.
    """

    loaded: dict[Key, Loaded] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    replaced: set[Key] = field(default_factory=set)
    accounts: dict[Key, Part] = field(default_factory=dict)


def read_runs(
    runs: Mapping[str, Sequence[Part]], staging: Staging, tables: Iterable[Table], advance: Callable[[int], None]
) -> Reading:
    """Read the files of runs into a staging database.

    Args:
        runs: the files of each run, or day of one, by its folder.
        staging: where to.
        tables: those that are wanted.
        advance: is called with the number of bytes that were read.
    """
    return _Reader(staging, tables, advance).read(runs)


class _Reader:
    """Reads files in rounds."""

    def __init__(self, staging: Staging, tables: Iterable[Table], advance: Callable[[int], None]) -> None:
        self._staging = staging
        self._numbered = {
            table.records: table.is_numbered for table in tables if table.is_of_run or LAST_CONFIRMED_AT in table.names
        }
        self._advance = advance
        self._reading = Reading()
        self._number = 0
        self._numbering = Lock()

    def read(self, runs: Mapping[str, Sequence[Part]]) -> Reading:
        rounds = self._rounds(runs)
        with ThreadPoolExecutor(1) as thread:
            ready = thread.submit(self._prepare, rounds)
            while together := ready.result():
                ready = thread.submit(self._prepare, rounds)
                for each in together:
                    self._load(each)
        left_out = {each.folder for each in self._reading.left_out}
        accounts = [each for parts in runs.values() for each in parts if each.is_account]
        self._reading.accounts = {each.key: each for each in accounts if each.folder not in left_out}
        return self._reading

    def _rounds(self, runs: Mapping[str, Sequence[Part]]) -> Iterator[list[tuple[str, _Checked]]]:
        """Yield the files that are what they should be, as many at a time as are read in one go."""
        files: list[tuple[str, _Checked]] = []
        size = 0
        for folder, parts in runs.items():
            try:
                checked = [self._check(part) for part in parts if not part.is_account]
            except _Mismatch as problem:
                self._reading.left_out.append(_left_out(folder, parts, str(problem)))
                continue
            files += [(folder, each) for each in checked]
            size += sum(each.loaded.bytes - each.start for each in checked)
            if size >= _ROUND:
                yield files
                files, size = [], 0
        if files:
            yield files

    def _prepare(self, rounds: Iterator[list[tuple[str, _Checked]]]) -> list[_Together]:
        """Check the files of the next round, and put those of each kind together; none if there are no more."""
        of_kind: defaultdict[str, list[tuple[str, _Checked]]] = defaultdict(list)
        for folder, each in next(rounds, []):
            of_kind[each.part.records].append((folder, each))
        return [self._put_together(records, files) for records, files in of_kind.items()]

    # Checking:

    def _check(self, part: Part) -> _Checked:
        """Compare a file with what is said of it. Raises _Mismatch."""
        before = part.before if part.before and part.before.bytes <= part.bytes else None
        digest, rows, at_before = _digest(part.path, part.bytes, before.bytes if before else 0)
        if part.sha256 and digest != part.sha256:
            raise _Mismatch(f"{part.path.name} is not what its data package says (SHA-256)")
        if part.rows is not None and rows != part.rows:
            raise _Mismatch(f"{part.path.name} has {rows} rows, not {part.rows} as is said of it")
        loaded = Loaded(part.bytes, rows, digest)
        if before and at_before == before.sha256:
            return _Checked(part, before.bytes, before.rows + 1, loaded)
        return _Checked(part, 0, 1, loaded)

    # Reading:

    def _put_together(self, records: str, files: list[tuple[str, _Checked]]) -> _Together:
        """Copy files of one kind into one. Raises TargetError."""
        with self._numbering:
            first = self._number
            self._number += len(files)
        together = _Together(records, files, self._staging.folder / f"together-{first}.jsonl", first)
        try:
            with together.path.open("wb") as stream:
                for number, (_, each) in enumerate(files, first):
                    for chunk in self._lines(each, number, records):
                        stream.write(chunk)
        except _Mismatch as problem:
            return replace(together, problem=problem)
        except OSError as error:
            raise TargetError(f"{self._staging.folder} cannot be written: {error.strerror}") from None
        return together

    def _load(self, together: _Together) -> None:
        """Load files; where that fails, find out which, by halves. Raises TargetError, duckdb.Error."""
        duckdb = require("duckdb", "dataset")
        files = together.files
        try:
            self._load_all(together)
        except (
            duckdb.InvalidInputException,
            duckdb.ConversionException,
            duckdb.ConstraintException,
            _Mismatch,
        ) as error:
            if len(files) > 1:
                half = len(files) // 2
                self._load(self._put_together(together.records, files[:half]))
                self._load(self._put_together(together.records, files[half:]))
                return
            ((folder, bad),) = files
            problem = f"{bad.part.path.name} cannot be read: {_reason(error)}"
            self._reading.left_out.append(LeftOut(folder, problem))
            return
        finally:
            together.path.unlink(missing_ok=True)
        for _, each in files:
            self._advance(each.loaded.bytes - each.start)
        self._reading.loaded |= {each.part.key: each.loaded for _, each in files}
        self._reading.replaced |= {each.part.key for _, each in files if each.part.before and not each.start}

    def _load_all(self, together: _Together) -> None:
        """Load files. Raises duckdb.Error, and _Mismatch if they are not what they should be."""
        if together.problem:
            raise together.problem
        if together.records in self._numbered:
            numbered = enumerate(together.files, together.first)
            self._staging.note_files({number: each.part for number, (_, each) in numbered})
        expected = sum(each.loaded.rows - each.first_line + 1 for _, each in together.files)
        count = self._staging.read(together.records, together.path, expected)
        if count != expected:
            raise _Mismatch(f"it has {count} records, not {expected}")

    def _lines(self, checked: _Checked, number: int, records: str) -> Iterator[bytes]:
        """Yield what is to be loaded of a file, with the file's number in each line if that is needed."""
        chunks = _chunks(checked.part.path, checked.start, checked.loaded.bytes)
        if records not in self._numbered:
            yield from chunks
            return
        head = b'{"%s":%d,' % (FILE_NUMBER.encode(), number)
        numbers = itertools.count(checked.first_line)
        for lines in _whole_lines(chunks):
            if not self._numbered[records]:
                yield head + lines[1:].replace(b"\n{", b"\n" + head)
                continue
            for row in lines.splitlines(keepends=True):
                yield b'%s"%s":%d,%s' % (head, LINE_NUMBER.encode(), next(numbers), row[1:])


def _left_out(folder: str, parts: Iterable[Part], problem: str) -> LeftOut:
    """Return why a run is left out whose files are not what was said of them; maybe that is said no longer."""
    try:
        package = datapackage.read(Path(folder)) or {}
    except UsageError:
        package = {}
    if package.get("pruned"):
        return LeftOut(folder, "`prune` has just removed its files", is_wrong=False)
    said = {each.get("hash") for each in package.get("resources", [])}
    if all(f"sha256:{each.sha256}" in said for each in parts if not each.is_account):
        return LeftOut(folder, problem)
    return LeftOut(folder, "it has just changed, and is for the next export", is_wrong=False)


def _reason(error: Exception) -> str:
    """Return why a file cannot be read, in the words of DuckDB as far as they are about the file itself."""
    text = one_line(error)
    if isinstance(error, require("duckdb", "dataset").ConstraintException):
        column = text.rpartition(".")[2]
        return f"a record has no {column}"
    return _IN_FILE.sub("", text)


def _whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes, cut after lines."""
    rest = b""
    for chunk in chunks:
        lines, end, rest_of_chunk = chunk.rpartition(b"\n")
        if end:
            yield rest + lines + end
            rest = b""
        rest += rest_of_chunk
    if rest:
        yield rest


def _chunks(path: Path, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes of a file from one to another. Raises _Mismatch if they are not there."""
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            left = end - start
            while left > 0:
                chunk = stream.read(min(_CHUNK, left))
                if not chunk:
                    raise _Mismatch(f"{path.name} has {end - left} bytes, not {end} as is said of it")
                left -= len(chunk)
                yield chunk
    except OSError as error:
        raise _Mismatch(f"{path.name} cannot be read: {error.strerror}") from None


def _digest(path: Path, size: int, before: int) -> tuple[str, int, str]:
    """Return the SHA-256 of so many bytes of a file, how many lines they are, and the SHA-256 of the first of them."""
    digest, lines, at_before = hashlib.sha256(), 0, hashlib.sha256().hexdigest()
    for start, end in ((0, before), (before, size)):
        for chunk in _chunks(path, start, end):
            digest.update(chunk)
            lines += chunk.count(b"\n")
        if start == 0:
            at_before = digest.hexdigest()
    return digest.hexdigest(), lines, at_before
