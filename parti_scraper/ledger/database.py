"""The file of the ledger: opened, created or migrated, and written in transactions."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parti_scraper.exceptions import LedgerError, LedgerFormatError
from parti_scraper.ledger import schema
from parti_scraper.ledger.locks import Lock

if TYPE_CHECKING:
    from collections.abc import Iterator

_BUSY_TIMEOUT = 30.0
_WHAT_TO_DO = "move it away, or set PARTI_STATE_DIR to another folder"


class Database:
    """An SQLite database with the tables of the ledger; its errors are LedgerError in one line."""

    def __init__(self, path: Path) -> None:
        """Open it; create it if there is none, and migrate one of an earlier version. Raises LedgerError."""
        self._path = path
        with self._errors_in_one_line():
            # Transactions are begun explicitly: a reader that becomes a writer could not wait for another writer.
            # It may be opened in one thread and used in another, but by one at a time.
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
            )
        # Another process that opens it at the same time waits here, and finds the tables ready.
        with self.transaction():
            self._prepare()
        # A checkpoint takes a tenth of the time if no journal is created and deleted. If another process is using the
        # database, its mode stays as it is.
        with self._errors_in_one_line(), contextlib.suppress(sqlite3.OperationalError):
            self._connection.execute("PRAGMA journal_mode = WAL")
            # The default of most builds of SQLite, but not of all: what is committed is on the disk.
            self._connection.execute("PRAGMA synchronous = FULL")

    def close(self) -> None:
        self._connection.close()

    def execute(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """Execute a statement of a transaction; its errors are those of SQLite."""
        return self._connection.execute(statement, values)

    def fetch(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query, inside or outside a transaction. Raises LedgerError."""
        with self._errors_in_one_line():
            return self._connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Begin a transaction, which is on disk when the block has ended. Raises LedgerError."""
        with self._errors_in_one_line():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._connection.in_transaction:  # A full disk has ended it.
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _prepare(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            schema.create(self._connection)
        elif not 0 < version <= schema.VERSION:
            raise LedgerFormatError(f"{self._path} is of version {version}, not {schema.VERSION}: {_WHAT_TO_DO}")
        elif version < schema.VERSION:
            self._check_unused(version)
            schema.migrate(self._connection, version)

    def _check_unused(self, version: int) -> None:
        """Raise LedgerFormatError if a process of the older code is running: it could no longer write anything."""
        for run_id, folder in self.fetch("SELECT run_id, folder FROM run WHERE state = 'running'"):
            with contextlib.suppress(OSError):  # The folder may be gone.
                lock = Lock.take(Path(folder))
                if lock is None:
                    raise LedgerFormatError(
                        f"{self._path} is of version {version}, not {schema.VERSION}, and the run `{run_id}` is at "
                        "work with it: wait until it has ended, or stop it"
                    )
                lock.release()

    @contextlib.contextmanager
    def _errors_in_one_line(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "") in {"SQLITE_CORRUPT", "SQLITE_NOTADB"}:
                raise LedgerFormatError(f"{self._path} is damaged ({error}): {_WHAT_TO_DO}") from None
            raise LedgerError(f"{self._path} cannot be used: {error}") from None
