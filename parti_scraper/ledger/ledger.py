"""What runs have done, on disk: an SQLite database under `PARTI_STATE_DIR`, and the locks that keep runs apart.

For each run it holds the arguments as typed, the frozen window, how far it has come, and how long its files were then:
a run that was killed goes on from there, since what it did not note it can ask for again. For incremental runs it
holds where the next one starts, and a hash of each version of a livestream that was written.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sqlite3
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from parti_scraper.exceptions import LedgerError, LedgerFormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

FILE_NAME = "ledger.sqlite"
# PRAGMA user_version; another one is refused. Raise it with every change of the tables.
_VERSION = 1
# The state of a run that was left unfinished, and whose records a later one has written.
SUPERSEDED = "superseded"
_BUSY_TIMEOUT = 30.0
_WHAT_TO_DO = "move it away, or set PARTI_STATE_DIR to another folder"
_TABLES = """
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    filters TEXT NOT NULL UNIQUE,
    until INTEGER,      -- all that ended up to here was written, in Unix seconds
    known_from INTEGER  -- the versions of all that ended from here on are known
);
CREATE TABLE version (
    series INTEGER NOT NULL, event_id INTEGER NOT NULL, ended INTEGER, hash BLOB NOT NULL,
    PRIMARY KEY (series, event_id)
) WITHOUT ROWID;
CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    folder TEXT NOT NULL UNIQUE,
    spider TEXT NOT NULL,
    run_id TEXT NOT NULL,
    arguments TEXT NOT NULL, -- as typed, JSON
    started_at REAL NOT NULL,
    since INTEGER,
    until INTEGER,
    series INTEGER,
    moves_to INTEGER,        -- where the next run of the series starts after this one
    known_from INTEGER,
    state TEXT NOT NULL,     -- running, complete, incomplete, superseded
    host TEXT,
    progress TEXT,           -- of the last checkpoint, JSON
    counts TEXT,
    files TEXT
);
CREATE TABLE time_window ( -- those that are done; what is left is in the progress
    run INTEGER NOT NULL, walk INTEGER NOT NULL, high INTEGER NOT NULL, low INTEGER NOT NULL,
    pages INTEGER NOT NULL, records INTEGER NOT NULL
);
CREATE TABLE rejected (run INTEGER NOT NULL, mark BLOB NOT NULL);
CREATE TABLE written (run INTEGER NOT NULL, event_id INTEGER NOT NULL, ended INTEGER, hash BLOB NOT NULL);
"""
_OF_A_RUN = ("time_window", "rejected", "written")


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it was begun.

    Attributes:
        folder: the run's own.
        arguments: as typed, without `run_id`.
        started_at: Unix seconds.
        window: since and until in Unix seconds, frozen; None where the spider has none.
        series: what an incremental run belongs to.
        moves_to: where the next run of the series starts after this one, in Unix seconds; None: where it did before.
        known_from: the versions of what ended earlier are forgotten then.
        state: running, complete, incomplete or superseded.
        id: of the ledger; 0 before it was begun.
    """

    folder: str
    spider: str
    run_id: str
    arguments: Mapping[str, str]
    started_at: float
    window: tuple[int, int] | None = None
    series: int | None = None
    moves_to: int | None = None
    known_from: int | None = None
    state: str = "running"
    id: int = 0


@dataclass(frozen=True, slots=True)
class Series:
    """Incremental runs with the same filters.

    Attributes:
        id: of the ledger.
        until: all that ended up to here was written, in Unix seconds; None before the first complete run.
        known_from: the versions of all that ended from here on are known.
    """

    id: int
    until: int | None = None
    known_from: int | None = None

    def since(self, overlap: int) -> int | None:
        """Return where the next run starts, `overlap` seconds before the last one ended; None: at the beginning."""
        if self.until is None:
            return None
        # Not before what is known, or what is older would be written once more.
        return min(self.until, max(self.until - overlap, self.known_from or 0))


@dataclass(frozen=True, slots=True)
class WindowDone:
    """A window of time that was walked to its end: its walk's number, its bounds, and what it took."""

    walk: int
    high: int
    low: int
    pages: int
    records: int


@dataclass(frozen=True, slots=True)
class Version:
    """A livestream as it was written: its number, when it ended in Unix seconds, and a hash of its content."""

    event_id: int
    ended: int | None
    hash: bytes


@dataclass(slots=True)
class Checkpoint:
    """How far a run has come.

    Attributes:
        progress: the spider's own account.
        counts: what became of the records, by the names of stats.
        files: size in bytes and rows of each file in the run's folder, by name.
        host: scheme and host of the API.
        windows, rejected, written: what came since the checkpoint before: windows done, marks of rejected records,
            versions of livestreams.
    """

    progress: Any
    counts: dict[str, int]
    files: dict[str, tuple[int, int]]
    host: str = ""
    windows: list[WindowDone] = field(default_factory=list)
    rejected: list[bytes] = field(default_factory=list)
    written: list[Version] = field(default_factory=list)


def content_hash(row: Mapping[str, Any]) -> bytes:
    """Return a hash of a record but for the moment at which it was collected."""
    content = {name: value for name, value in row.items() if name != "scraped_at"}
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).digest()


class Lock:
    """A lock on a file or folder, which the system lets go of when the process ends, however it does."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    @classmethod
    def take(cls, path: Path, *, make: bool = False) -> Lock | None:
        """Return the lock, or None where another process has it.

        Raises:
            OSError: there is no such file.
        """
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644) if make else os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        return cls(handle)

    def release(self) -> None:
        """Let go of it."""
        os.close(self._handle)


class Ledger:
    """The database. Every method that writes does so in one transaction, which is on disk when it returns."""

    def __init__(self, folder: Path) -> None:
        """Open the database, and make it where there is none. Raises LedgerError."""
        self.path = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"the folder {folder} cannot be made: {error.strerror}") from None
        with self._told_apart():
            # Transactions are begun by hand: a reader that becomes a writer could not wait for another one.
            self._connection = sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT, isolation_level=None)
        with self._transaction():
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self._make_tables()
            elif version != _VERSION:
                raise LedgerFormatError(f"{self.path} is of version {version}, not {_VERSION}: {_WHAT_TO_DO}")
        # A checkpoint takes a tenth of the time where no journal is made and deleted. Where another process is at it,
        # this one goes on as the database is.
        with self._told_apart(), contextlib.suppress(sqlite3.OperationalError):
            self._connection.execute("PRAGMA journal_mode = WAL")
            # The default of most builds of SQLite, but not of all: what is noted is on the disk.
            self._connection.execute("PRAGMA synchronous = FULL")

    @classmethod
    def existing(cls, folder: Path) -> Self | None:
        """Return the ledger of a folder, or None where there is none. Raises LedgerError."""
        return cls(folder) if (folder / FILE_NAME).exists() else None

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    # Runs:

    def find(self, folder: Path) -> Run | None:
        """Return the run of a folder."""
        return next(self._runs("folder = ?", str(folder.absolute())), None)

    def running(self, spider: str) -> Iterator[Run]:
        """Return the runs of a spider that were begun and not finished, the last one first."""
        return self._runs("spider = ? AND state = 'running'", spider)

    def running_in(self, series: int) -> Iterator[Run]:
        """Return the runs of a series that were begun and not finished."""
        return self._runs("series = ? AND state = 'running'", series)

    def begin(self, run: Run) -> int:
        """Note a new run, in place of any other of this folder; return its id.

        An unfinished incremental run of the same series is superseded: both would write the same records.
        """
        with self._transaction():
            for old in self._connection.execute("SELECT id FROM run WHERE folder = ?", (run.folder,)).fetchall():
                self._clear(*old)
                self._connection.execute("DELETE FROM run WHERE id = ?", old)
            if run.series is not None:
                for old in self.running_in(run.series):
                    self._clear(old.id)
                    self._connection.execute("UPDATE run SET state = ? WHERE id = ?", (SUPERSEDED, old.id))
            values = {
                "folder": run.folder,
                "spider": run.spider,
                "run_id": run.run_id,
                "arguments": json.dumps(dict(run.arguments)),
                "started_at": run.started_at,
                "since": run.window and run.window[0],
                "until": run.window and run.window[1],
                "series": run.series,
                "moves_to": run.moves_to,
                "known_from": run.known_from,
                "state": run.state,
            }
            places = ", ".join("?" * len(values))
            statement = f"INSERT INTO run ({', '.join(values)}) VALUES ({places})"  # noqa: S608 - names of this module
            return int(self._connection.execute(statement, tuple(values.values())).lastrowid or 0)

    def checkpoint(self, run: int, checkpoint: Checkpoint) -> None:
        """Note how far a run has come; the files have to be on disk as far as it says."""
        with self._transaction():
            self._connection.execute(
                "UPDATE run SET progress = ?, counts = ?, files = ?, host = ? WHERE id = ?",
                (
                    json.dumps(checkpoint.progress),
                    json.dumps(checkpoint.counts),
                    json.dumps(checkpoint.files),
                    checkpoint.host,
                    run,
                ),
            )
            self._insert("time_window", run, (tuple(asdict(window).values()) for window in checkpoint.windows))
            self._insert("rejected", run, ((mark,) for mark in checkpoint.rejected))
            self._insert("written", run, ((each.event_id, each.ended, each.hash) for each in checkpoint.written))

    def last_checkpoint(self, run: int) -> Checkpoint | None:
        """Return how far a run has come, with all marks of rejected records; None where it has not begun to."""
        with self._told_apart():
            query = "SELECT progress, counts, files, host FROM run WHERE id = ? AND progress IS NOT NULL"
            row = self._connection.execute(query, (run,)).fetchone()
            if row is None:
                return None
            marks = self._connection.execute("SELECT mark FROM rejected WHERE run = ?", (run,)).fetchall()
        files = {name: (size, rows) for name, (size, rows) in json.loads(row[2]).items()}
        return Checkpoint(json.loads(row[0]), json.loads(row[1]), files, row[3], rejected=[mark for (mark,) in marks])

    def forget_progress(self, run: int) -> None:
        """Let a run begin from the start once more, with the same arguments and window."""
        with self._transaction():
            self._clear(run)
            self._connection.execute("UPDATE run SET progress = NULL WHERE id = ?", (run,))

    def finish(self, run: int, *, complete: bool, truncated: bool) -> None:
        """Note that a run has come to its end, and what it has written of its series. Twice does no harm."""
        state = "complete" if complete else "incomplete"
        with self._transaction():
            execute = self._connection.execute
            if not execute("UPDATE run SET state = ? WHERE id = ? AND state = 'running'", (state, run)).rowcount:
                return
            execute("UPDATE run SET progress = NULL WHERE id = ?", (run,))
            execute("DELETE FROM rejected WHERE run = ?", (run,))
            query = "SELECT series, moves_to, known_from FROM run WHERE id = ?"
            series, moves_to, known_from = execute(query, (run,)).fetchone()
            if series is None:
                return
            upsert = "INSERT OR REPLACE INTO version SELECT ?, event_id, ended, hash FROM written WHERE run = ?"
            execute(upsert, (series, run))
            execute("DELETE FROM written WHERE run = ?", (run,))
            if complete and not truncated and moves_to is not None:
                self._move(series, moves_to, known_from)

    # Series:

    def series(self, filters: Mapping[str, Any]) -> Series:
        """Return the series of these filters."""
        key = json.dumps(filters, sort_keys=True)
        with self._transaction():
            self._connection.execute("INSERT OR IGNORE INTO series (filters) VALUES (?)", (key,))
            query = "SELECT id, until, known_from FROM series WHERE filters = ?"
            return Series(*self._connection.execute(query, (key,)).fetchone())

    def lower(self, series: Series, now: int) -> Series:
        """Return a series that ended later than now, after a run whose clock was ahead, as it is to be gone on with.

        How far that run really came, the livestreams that were written tell: it starts where they are known from. It
        stays as it is where some of them ended later than now: then it is now that is wrong.
        """
        with self._transaction():
            newest = self._newest(series.id)
            if newest is not None and newest > now:
                return series
            # An earlier version of this module forgot them by the wrong clock too: all is to be looked at again.
            start = series.known_from if series.known_from is not None and series.known_from <= now else None
            self._connection.execute("UPDATE series SET until = ?1, known_from = ?1 WHERE id = ?2", (start, series.id))
        return Series(series.id, start, start)

    def known(self, series: int, event_id: int) -> bytes | None:
        """Return the hash of the last version of a livestream that an ended run has written."""
        query = "SELECT hash FROM version WHERE series = ? AND event_id = ?"
        with self._told_apart():
            row = self._connection.execute(query, (series, event_id)).fetchone()
        return row and bytes(row[0])

    # Inside:

    def _move(self, series: int, until: int, known_from: int) -> None:
        """Note that all up to here was written, and forget the versions that the next run does not come across."""
        newest = self._newest(series)
        if newest is not None:
            # Not by the clock alone, which may be ahead: the next run may have to start near the newest livestream.
            known_from = min(known_from, newest - (until - known_from))
        # What was forgotten once is not known again.
        move = (
            "UPDATE series SET until = ?1, known_from = max(coalesce(known_from, 0), ?2) "
            "WHERE id = ?3 AND coalesce(until, 0) <= ?1"
        )
        if self._connection.execute(move, (until, known_from, series)).rowcount:
            forget = "DELETE FROM version WHERE series = ?1 AND ended < (SELECT known_from FROM series WHERE id = ?1)"
            self._connection.execute(forget, (series,))

    def _newest(self, series: int) -> int | None:
        """Return when the livestream ended that ended last of those known."""
        row = self._connection.execute("SELECT max(ended) FROM version WHERE series = ?", (series,)).fetchone()
        return None if row[0] is None else int(row[0])

    def _make_tables(self) -> None:
        for statement in _TABLES.split(";\n"):
            self._connection.execute(statement)
        self._connection.execute(f"PRAGMA user_version = {_VERSION}")

    def _runs(self, where: str, *values: Any) -> Iterator[Run]:
        query = (
            "SELECT folder, spider, run_id, arguments, started_at, since, until, series, moves_to, known_from, state, "  # noqa: S608
            f"id FROM run WHERE {where} ORDER BY id DESC"
        )
        with self._told_apart():
            rows = self._connection.execute(query, values).fetchall()
        for folder, spider, run_id, arguments, started_at, since, until, *rest in rows:
            window = None if since is None else (since, until)
            yield Run(folder, spider, run_id, json.loads(arguments), started_at, window, *rest)

    def _insert(self, table: str, run: int, rows: Iterable[tuple[Any, ...]]) -> None:
        for row in rows:
            places = ", ".join("?" * (len(row) + 1))
            self._connection.execute(f"INSERT INTO {table} VALUES ({places})", (run, *row))  # noqa: S608 - names of this module

    def _clear(self, run: int) -> None:
        for table in _OF_A_RUN:
            self._connection.execute(f"DELETE FROM {table} WHERE run = ?", (run,))  # noqa: S608 - names of this module

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._told_apart():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._connection.in_transaction:  # A full disk has ended it.
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def _told_apart(self) -> Iterator[None]:
        """Make one kind of error, in one line, of all that SQLite raises."""
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "") in {"SQLITE_CORRUPT", "SQLITE_NOTADB"}:
                raise LedgerFormatError(f"{self.path} is damaged ({error}): {_WHAT_TO_DO}") from None
            raise LedgerError(f"{self.path} cannot be used: {error}") from None
