"""What runs have done, on disk: an SQLite database under `PARTI_STATE_DIR`.

For each run it holds the arguments as typed, the frozen window, and the last checkpoint with the size of each file: a
run that was killed resumes from there. For incremental runs it holds where the next one starts, and a hash of each
version of a livestream that was written.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from parti_scraper.exceptions import LedgerError
from parti_scraper.ledger.database import Database
from parti_scraper.ledger.series import Series, Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

FILE_NAME = "ledger.sqlite"
# The state of an unfinished run whose records a later one has written.
SUPERSEDED = "superseded"
_OF_A_RUN = ("rejected", "written")
_COLUMNS = "folder, spider, run_id, arguments, started_at, since, until, series, next_since, versions_since, state"
_OUTCOME = "id, run_uuid, ended_at, exit_code, reason, host, sealed"
_FAILED_STARTS_KEPT = 1_000


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as it was begun.

    Attributes:
        folder: the run's own.
        arguments: as typed, without `run_id`.
        started_at: Unix seconds.
        window: since and until in Unix seconds, frozen; None if the spider has none.
        series: the id of the series of an incremental run.
        next_since: where the next run of the series starts, in Unix seconds; None: where this one started.
        versions_since: after this run, the versions of livestreams that ended earlier are deleted; Unix seconds.
        state: running, complete, incomplete or superseded.
        id: in the ledger; 0 before it was begun.
        run_uuid: unique on all machines.
        ended_at: when it ended or was stopped, in Unix seconds; None while it runs, if it was killed, and if version 2
            stored it: then its data package says when, and what follows.
        exit_code: the exit code then.
        reason: why that is not 0, one line.
        host: scheme and host of the API, as last noted.
        sealed: whether its folder was closed for it after it was killed or stopped.
    """

    folder: str
    spider: str
    run_id: str
    arguments: Mapping[str, str]
    started_at: float
    window: tuple[int, int] | None = None
    series: int | None = None
    next_since: int | None = None
    versions_since: int | None = None
    state: str = "running"
    id: int = 0
    run_uuid: str = ""
    ended_at: float | None = None
    exit_code: int | None = None
    reason: str | None = None
    host: str | None = None
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended.

    Attributes:
        ended_at: when, in Unix seconds.
        exit_code: the exit code; None where it is not known.
        reason: why it is not 0, one line.
    """

    ended_at: float
    exit_code: int | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class FailedStart:
    """A run that was asked for and not begun, so that it has no folder.

    Attributes:
        spider: the name of the spider.
        run_id: the name of the run; None where it was given none yet.
        arguments: as typed but for secrets, without `run_id`.
        at: when, in Unix seconds.
        exit_code: the exit code.
        reason: why, one line.
    """

    spider: str
    run_id: str | None
    arguments: Mapping[str, str]
    at: float
    exit_code: int
    reason: str


@dataclass(slots=True)
class Checkpoint:
    """A checkpoint of a run.

    Attributes:
        progress: what the spider needs to resume, as JSON takes it.
        counts: what became of the records, by the keys of `run.tally.Tally`.
        files: size in bytes and rows of each file in the run's folder, by name.
        host: scheme and host of the API.
        rejected, written: marks of rejected records, and versions of livestreams, since the last checkpoint.
    """

    progress: Any
    counts: dict[str, int]
    files: dict[str, tuple[int, int]]
    host: str = ""
    rejected: list[bytes] = field(default_factory=list)
    written: list[Version] = field(default_factory=list)


class Ledger:
    """What runs have done. Every method that writes does so in one transaction, which is on disk when it returns.

    Runs and series share it, since a run that ends updates its series in the same transaction.
    """

    def __init__(self, folder: Path) -> None:
        """Open the database, see `Database`. Raises LedgerError."""
        self.path = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"the folder {folder} cannot be made: {error.strerror}") from None
        self._database = Database(self.path)

    @classmethod
    @contextmanager
    def existing(cls, folder: Path) -> Iterator[Self | None]:
        """Open the ledger of a folder, or give None if there is none. Raises LedgerError."""
        ledger = cls(folder) if (folder / FILE_NAME).exists() else None
        try:
            yield ledger
        finally:
            if ledger:
                ledger.close()

    def again(self) -> Self:
        """Open the ledger again for another thread: neither waits while the other one writes. Raises LedgerError."""
        return type(self)(self.path.parent)

    def close(self) -> None:
        self._database.close()

    # Runs:

    def find(self, folder: Path) -> RunRecord | None:
        """Return the run of a folder, or None."""
        return next(self._runs("folder = ?", str(folder.absolute())), None)

    def running(self, spider: str) -> Iterator[RunRecord]:
        """Return the unfinished runs of a spider, the last one first."""
        return self._runs("spider = ? AND state = 'running'", spider)

    def running_in(self, series: int) -> Iterator[RunRecord]:
        """Return the unfinished runs of a series, the last one first."""
        return self._runs("series = ? AND state = 'running'", series)

    def last_complete(self, spider: str, number: int) -> Iterator[RunRecord]:
        """Return so many complete runs of a spider, the last one first."""
        return self._runs("spider = ? AND state = 'complete'", spider, number=number)

    def left_unsealed(self, spider: str | None) -> Iterator[RunRecord]:
        """Return the runs of a spider, or of all, that did not finish and are not sealed; some may be at work."""
        of_spider, values = ("", ()) if spider is None else (" AND spider = ?", (spider,))
        return self._runs(f"state IN ('running', '{SUPERSEDED}') AND sealed = 0{of_spider}", *values)

    def begin(self, run: RunRecord) -> int:
        """Store a new run, in place of any other of this folder; return its id.

        An unfinished incremental run of the same series is superseded: both would write the same records.
        """
        with self._database.transaction():
            for (old_id,) in self._database.execute("SELECT id FROM run WHERE folder = ?", (run.folder,)).fetchall():
                self._delete(old_id)
            if run.series is not None:
                for old in self.running_in(run.series):
                    self._clear(old.id)
                    self._database.execute("UPDATE run SET state = ? WHERE id = ?", (SUPERSEDED, old.id))
            begun = (run.folder, run.spider, run.run_id, json.dumps(dict(run.arguments)), run.started_at)
            window = run.window or (None, None)
            of_series = (run.series, run.next_since, run.versions_since)
            values = (*begun, *window, *of_series, run.state, run.run_uuid, run.host)
            places = ", ".join("?" * len(values))
            statement = f"INSERT INTO run ({_COLUMNS}, run_uuid, host) VALUES ({places})"  # noqa: S608 - names of this module
            return int(self._database.execute(statement, values).lastrowid or 0)

    def checkpoint(self, run: int, checkpoint: Checkpoint) -> None:
        """Store a checkpoint; the files have to be on disk as far as it says."""
        with self._database.transaction():
            self._database.execute(
                "UPDATE run SET progress = ?, counts = ?, files = ?, host = ? WHERE id = ?",
                (*map(json.dumps, (checkpoint.progress, checkpoint.counts, checkpoint.files)), checkpoint.host, run),
            )
            self._insert("rejected", run, ((mark,) for mark in checkpoint.rejected))
            self._insert("written", run, ((each.event_id, each.ended, each.hash) for each in checkpoint.written))

    def last_checkpoint(self, run: int) -> Checkpoint | None:
        """Return the last checkpoint of a run, with all marks of rejected records; None if there is none."""
        query = "SELECT progress, counts, files, host FROM run WHERE id = ? AND progress IS NOT NULL"
        for progress, counts, sizes, host in self._database.fetch(query, (run,)):
            marks = [mark for (mark,) in self._database.fetch("SELECT mark FROM rejected WHERE run = ?", (run,))]
            files = {name: (size, rows) for name, (size, rows) in json.loads(sizes).items()}
            return Checkpoint(json.loads(progress), json.loads(counts), files, host, rejected=marks)
        return None

    def resume(self, run: int) -> None:
        """Note that a run goes on: how it ended before counts no more."""
        with self._database.transaction():
            self._database.execute(
                "UPDATE run SET ended_at = NULL, exit_code = NULL, reason = NULL, sealed = 0 WHERE id = ?", (run,)
            )

    def forget_progress(self, run: int) -> None:
        """Let a run start again from its beginning, with the same arguments and window."""
        with self._database.transaction():
            self._clear(run)
            self._database.execute("UPDATE run SET progress = NULL WHERE id = ?", (run,))

    def stop(self, run: int, end: RunEnd) -> None:
        """Note how a run ended that was stopped; it may be resumed."""
        with self._database.transaction():
            self._note_end(run, end)

    def seal(self, run: int) -> None:
        """Note that the folder of a run was closed, which may be resumed all the same."""
        with self._database.transaction():
            self._database.execute("UPDATE run SET sealed = 1 WHERE id = ?", (run,))

    def forget(self, run: int) -> None:
        """Forget a run that has left nothing."""
        with self._database.transaction():
            self._delete(run)

    def forget_all(self, folders: Iterable[Path]) -> None:
        """Forget the runs of folders; what is known of their series stays."""
        with self._database.transaction():
            for folder in folders:
                query = "SELECT id FROM run WHERE folder = ?"
                for (run,) in self._database.execute(query, (str(folder.absolute()),)).fetchall():
                    self._delete(run)

    def finish(self, run: int, end: RunEnd, *, complete: bool, truncated: bool) -> None:
        """Note that a run has ended, and what it has written of its series. A second call changes nothing."""
        state = "complete" if complete else "incomplete"
        with self._database.transaction():
            execute = self._database.execute
            if not execute("UPDATE run SET state = ? WHERE id = ? AND state = 'running'", (state, run)).rowcount:
                return
            self._note_end(run, end)
            execute("UPDATE run SET progress = NULL WHERE id = ?", (run,))
            execute("DELETE FROM rejected WHERE run = ?", (run,))
            query = "SELECT series, next_since, versions_since FROM run WHERE id = ?"
            series, next_since, versions_since = execute(query, (run,)).fetchone()
            if series is None:
                return
            upsert = "INSERT OR REPLACE INTO version SELECT ?, event_id, ended, hash FROM written WHERE run = ?"
            execute(upsert, (series, run))
            execute("DELETE FROM written WHERE run = ?", (run,))
            if complete and not truncated and next_since is not None:
                self._move(series, next_since, versions_since)

    # Runs that were not begun:

    def note_failed_start(self, failed: FailedStart) -> None:
        """Note a run that was asked for and not begun; of many, the last ones are kept."""
        values = (
            failed.spider,
            failed.run_id,
            json.dumps(dict(failed.arguments)),
            failed.at,
            failed.exit_code,
            failed.reason,
        )
        with self._database.transaction():
            insert = (
                "INSERT INTO failed_start (spider, run_id, arguments, at, exit_code, reason) VALUES (?, ?, ?, ?, ?, ?)"
            )
            last = int(self._database.execute(insert, values).lastrowid or 0)
            self._database.execute("DELETE FROM failed_start WHERE id <= ?", (last - _FAILED_STARTS_KEPT,))

    def failed_starts(self, since: float = 0) -> Iterator[FailedStart]:
        """Return the runs that were not begun since a moment, in Unix seconds, the last one first."""
        query = (
            "SELECT spider, run_id, arguments, at, exit_code, reason FROM failed_start WHERE at >= ? ORDER BY id DESC"
        )
        for spider, run_id, arguments, *rest in self._database.fetch(query, (since,)):
            yield FailedStart(spider, run_id, json.loads(arguments), *rest)

    def forget_failed_starts(self, before: float) -> None:
        """Forget the runs that were not begun before a moment, in Unix seconds."""
        with self._database.transaction():
            self._database.execute("DELETE FROM failed_start WHERE at < ?", (before,))

    # Series:

    def series(self, filters: Mapping[str, Any]) -> Series:
        """Return the series of these filters, a new one if there is none."""
        key = json.dumps(filters, sort_keys=True)
        with self._database.transaction():
            self._database.execute("INSERT OR IGNORE INTO series (filters) VALUES (?)", (key,))
            query = "SELECT id, until, versions_since FROM series WHERE filters = ?"
            return Series(*self._database.execute(query, (key,)).fetchone())

    def lower(self, series: Series, now: int) -> Series:
        """Return a series whose `until` is later than now, since a clock was ahead, with a start to continue from.

        The series then starts where the versions of livestreams are known from. It stays as it is if some of these
        ended later than now: then `now` is wrong.
        """
        with self._database.transaction():
            newest = self._newest(series.id)
            if newest is not None and newest > now:
                return series
            # An earlier version of this module deleted versions by the wrong clock too: then the series starts again.
            known = series.versions_since
            start = known if known is not None and known <= now else None
            self._database.execute(
                "UPDATE series SET until = ?1, versions_since = ?1 WHERE id = ?2", (start, series.id)
            )
        return Series(series.id, start, start)

    def known(self, series: int, event_id: int) -> bytes | None:
        """Return the hash of the last version of a livestream that ended runs have written; None if there is none."""
        query = "SELECT hash FROM version WHERE series = ? AND event_id = ?"
        return next((bytes(version) for (version,) in self._database.fetch(query, (series, event_id))), None)

    # Inside:

    def _move(self, series: int, until: int, versions_since: int) -> None:
        """Store that all up to `until` was written, and delete the versions that the next run does not need."""
        newest = self._newest(series)
        if newest is not None:
            # Not by the clock alone, which may be ahead: the next run may have to start near the newest livestream.
            versions_since = min(versions_since, newest - (until - versions_since))
        # Versions that were deleted once do not come back.
        move = (
            "UPDATE series SET until = ?1, versions_since = max(coalesce(versions_since, 0), ?2) "
            "WHERE id = ?3 AND coalesce(until, 0) <= ?1"
        )
        if self._database.execute(move, (until, versions_since, series)).rowcount:
            forget = (
                "DELETE FROM version WHERE series = ?1 AND ended < (SELECT versions_since FROM series WHERE id = ?1)"
            )
            self._database.execute(forget, (series,))

    def _newest(self, series: int) -> int | None:
        """Return the latest end of the livestreams written, in Unix seconds; None if none is known."""
        row = self._database.execute("SELECT max(ended) FROM version WHERE series = ?", (series,)).fetchone()
        return None if row[0] is None else int(row[0])

    def _runs(self, where: str, *values: Any, number: int = -1) -> Iterator[RunRecord]:
        query = f"SELECT {_COLUMNS}, {_OUTCOME} FROM run WHERE {where} ORDER BY id DESC LIMIT ?"  # noqa: S608 - see above
        rows = self._database.fetch(query, (*values, number))
        for folder, spider, run_id, arguments, started_at, since, until, *rest, sealed in rows:
            window = None if since is None else (since, until)
            outcome = (*rest, bool(sealed))
            yield RunRecord(folder, spider, run_id, json.loads(arguments), started_at, window, *outcome)

    def _insert(self, table: str, run: int, rows: Iterable[tuple[Any, ...]]) -> None:
        for row in rows:
            places = ", ".join("?" * (len(row) + 1))
            self._database.execute(f"INSERT INTO {table} VALUES ({places})", (run, *row))  # noqa: S608 - names of this module

    def _note_end(self, run: int, end: RunEnd) -> None:
        self._database.execute(
            "UPDATE run SET ended_at = ?, exit_code = ?, reason = ? WHERE id = ?",
            (end.ended_at, end.exit_code, end.reason, run),
        )

    def _delete(self, run: int) -> None:
        self._clear(run)
        self._database.execute("DELETE FROM run WHERE id = ?", (run,))

    def _clear(self, run: int) -> None:
        for table in _OF_A_RUN:
            self._database.execute(f"DELETE FROM {table} WHERE run = ?", (run,))  # noqa: S608 - names of this module
