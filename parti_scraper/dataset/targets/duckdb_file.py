"""A DuckDB database in a file.

DuckDB lets nobody write to a file that another process has open for reading. So a copy is brought up to date, which
then takes the place of the file: who reads is neither in the way nor sees half of an export.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from parti_scraper.dataset import sql
from parti_scraper.dataset.engine import TargetError, connect, one_line, require
from parti_scraper.dataset.targets.base import Target
from parti_scraper.dataset.targets.database import DatabaseSession, Upserted
from parti_scraper.dataset.targets.locked import locked, put_in_place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from duckdb import DuckDBPyConnection

    from parti_scraper.dataset.staging import Rows, Staging
    from parti_scraper.dataset.tables import Column, Table
    from parti_scraper.dataset.targets.base import Changes, Load, Wanted


class DuckDbTarget(Target):
    """A file `.duckdb`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shown = str(path)

    @contextmanager
    def open(self) -> Iterator[_Session]:
        """Open it, and wait for other exports into it. Raises TargetError, UsageError, ExtraMissing."""
        duckdb = require("duckdb", "dataset")
        with locked(self.path.parent, self.shown):
            try:
                session = _Session(self.path)
                yield session
            except duckdb.Error as error:
                raise TargetError(f"{self.path}: {one_line(error)}") from None
            except OSError as error:
                raise TargetError(f"{self.path} cannot be written: {error.strerror or error}") from None


class _Session(DatabaseSession):
    types: ClassVar[Mapping[str, str]] = {
        each: each for each in ("BIGINT", "BOOLEAN", "DOUBLE", "TIMESTAMPTZ", "VARCHAR")
    }

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._connection: DuckDBPyConnection = connect()
        if _log_of(path).exists():
            # Somebody else who wrote to it was killed: what is in the log belongs to this file, not to a copy of it.
            self._connection.execute(f"ATTACH {sql.literal(str(path))} AS target")
            self._connection.execute("DETACH target")
        if path.exists():
            self._connection.execute(f"ATTACH {sql.literal(str(path))} AS target (READ_ONLY)")
        else:
            self._connection.execute("ATTACH ':memory:' AS target")

    def load(self, load: Load) -> dict[str, Changes]:
        """Bring rows into a copy of the file, and put it in place of the file."""
        self._connection.close()
        temporary = self._path.with_name(f".{self._path.name}.export")
        _remove(temporary)
        self._connection = load.staging.connection
        try:
            changes = self._write(load, temporary)
            put_in_place(temporary, self._path)
        finally:
            _remove(temporary)
        return changes

    def _write(self, load: Load, temporary: Path) -> dict[str, Changes]:
        """Bring rows into a copy of the file. Raises OSError."""
        if self._path.exists():
            shutil.copyfile(self._path, temporary)
        # Readable by the versions of DuckDB that are in use.
        self._connection.execute(f"ATTACH {sql.literal(str(temporary))} AS target (STORAGE_VERSION 'v1.0.0')")
        try:
            changes = super().load(load)
            # It fails if the disk is full; in `DETACH`, that would go unnoticed.
            self._connection.execute("CHECKPOINT target")
        finally:
            self._connection.execute("DETACH target")
        return changes

    def into(self, table: Table) -> str:
        return f"target.main.{sql.name(table.name)}"

    def begin(self) -> None:
        self._connection.begin()

    def commit(self) -> None:
        self._connection.commit()

    def rollback(self) -> None:
        self._connection.rollback()

    def columns(self, table: Table) -> set[str]:
        query = "SELECT column_name FROM duckdb_columns() WHERE database_name = 'target' AND table_name = $name"
        return {each for (each,) in self._connection.execute(query, {"name": table.name}).fetchall()}

    def execute(self, statement: str) -> int:
        rows = self._connection.execute(statement).fetchall()
        return int(rows[0][0]) if rows and isinstance(rows[0][0], int) else 0

    def query(self, statement: str) -> Sequence[tuple[Any, ...]]:
        return self._connection.execute(statement).fetchall()

    def upsert(self, rows: Rows, staging: Staging) -> Upserted:
        return Upserted(self.execute(sql.upsert(rows.table, self.into(rows.table), rows.relation)))

    def bring(self, relation: str, columns: Sequence[Column], staging: Staging) -> str:
        return relation

    def fetch(self, wanted: Wanted, staging: Staging) -> None:
        """Copy rows that were loaded before; the file is opened once more, beside the rows."""
        if not self._path.exists():
            return
        own, self._connection = self._connection, staging.connection
        attach = f"ATTACH {sql.literal(str(self._path))} AS target (READ_ONLY)"
        staging.connection.execute(attach)
        try:
            super().fetch(wanted, staging)
        finally:
            staging.connection.execute("DETACH target")
            self._connection = own

    def copy_out(self, query: str, wanted: Wanted, staging: Staging) -> None:
        self.execute(f"INSERT INTO {wanted.into} {query}")

    def note_removed(self, removed: Sequence[tuple[str, ...]]) -> None:
        """Do nothing: the table is in the same database."""


def _log_of(path: Path) -> Path:
    """Return where DuckDB writes what is not yet in a file."""
    return path.with_name(f"{path.name}.wal")


def _remove(path: Path) -> None:
    for each in (path, _log_of(path)):
        each.unlink(missing_ok=True)
