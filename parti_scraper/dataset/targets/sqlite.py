"""An SQLite database in a file.

While it is written it is in WAL mode: readers see what was there before, and are never in the way. In the end it is one
plain file again, unless another program has it open.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar

from parti_scraper.dataset import sql
from parti_scraper.dataset.engine import TargetError, one_line, require
from parti_scraper.dataset.staging import insert_all
from parti_scraper.dataset.targets.base import Target
from parti_scraper.dataset.targets.database import DatabaseSession, Upserted
from parti_scraper.dataset.targets.locked import locked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from parti_scraper.dataset.staging import Rows, Staging
    from parti_scraper.dataset.tables import Column, Table
    from parti_scraper.dataset.targets.base import Wanted

# Seconds to wait for another program that uses the file, and between two tries where SQLite must not wait itself.
_PATIENCE = 60
_PAUSE = 0.05
# Kilobytes of the file that are kept in memory, where keys are looked up.
_CACHE = 64 << 10
# How many rows are held in memory on their way out.
_FETCHED = 20_000


class SqliteTarget(Target):
    """A file `.sqlite`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shown = str(path)

    @contextmanager
    def open(self) -> Iterator[_Session]:
        """Open it, and wait for other exports into it. Raises TargetError, UsageError, ExtraMissing."""
        duckdb = require("duckdb", "dataset")
        with locked(self.path.resolve().parent, self.shown):
            try:
                with closing(sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)) as connection:
                    yield _Session(connection, self.shown)
            except (sqlite3.Error, duckdb.Error) as error:
                hint = f"another program has used it for {_PATIENCE} s: " if _is_busy(error) else ""
                raise TargetError(f"{self.shown}: {hint}{one_line(error)}") from None


class _Session(DatabaseSession):
    # A column that is an INTEGER and the key would be the number of the row. As it is not, the key is looked up in an
    # index of its own, which is fast, and counting the rows does not read all of them.
    types: ClassVar[Mapping[str, str]] = {
        "BIGINT": "BIGINT",
        "BOOLEAN": "BOOLEAN",
        "DOUBLE": "REAL",
        "TIMESTAMPTZ": "TEXT",
        "VARCHAR": "TEXT",
    }

    def __init__(self, connection: sqlite3.Connection, shown: str) -> None:
        super().__init__(shown)
        self._connection = connection

    def begin(self) -> None:
        self._begin_wal()
        self.execute(f"PRAGMA cache_size = -{_CACHE}")
        self.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self.execute("COMMIT")
        self._set_patience(0)
        # As far as readers allow.
        self.query("PRAGMA wal_checkpoint(TRUNCATE)")
        with suppress(sqlite3.OperationalError):
            self.query("PRAGMA journal_mode = DELETE")

    def rollback(self) -> None:
        """Close the file, which undoes the transaction."""
        self._connection.close()

    def columns(self, table: Table) -> set[str]:
        return {each for (each,) in self.query(f"SELECT name FROM pragma_table_info({sql.literal(table.name)})")}

    def execute(self, statement: str) -> int:
        return max(self._connection.execute(statement).rowcount, 0)

    def query(self, statement: str) -> Sequence[tuple[Any, ...]]:
        return self._connection.execute(statement).fetchall()

    def upsert(self, rows: Rows, staging: Staging) -> Upserted:
        table = rows.table
        columns = ", ".join(_value(each) for each in table.columns)
        given = ", ".join(f"? AS {sql.name(each)}" for each in table.names)
        statement = sql.upsert(table, self.into(table), f"(SELECT {given})")
        changed = 0
        for batch in staging.batches(f"SELECT {columns} FROM {rows.relation}"):
            changed += self._connection.executemany(statement, batch).rowcount
        return Upserted(changed)

    def bring(self, relation: str, columns: Sequence[Column], staging: Staging) -> str:
        into = sql.name(f"brought {relation.strip(chr(34))}")
        names = sql.names(each.name for each in columns)
        self.execute(f"DROP TABLE IF EXISTS temp.{into}")
        self.execute(f"CREATE TEMPORARY TABLE {into} ({names})")
        insert = f"INSERT INTO temp.{into} VALUES ({', '.join('?' * len(columns))})"
        for batch in staging.batches(f"SELECT DISTINCT {', '.join(map(_value, columns))} FROM {relation}"):
            self._connection.executemany(insert, batch)
        return f"temp.{into}"

    def copy_out(self, query: str, wanted: Wanted, staging: Staging) -> None:
        cursor = self._connection.execute(query)
        while rows := cursor.fetchmany(_FETCHED):
            insert_all(staging.connection, wanted.into, rows)

    def _begin_wal(self) -> None:
        """Change to WAL mode, for which nobody may read. If SQLite waited for that, it would let nobody begin to."""
        self._set_patience(0)
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self.query("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE)
            else:
                break
        self._set_patience(_PATIENCE)

    def _set_patience(self, seconds: float) -> None:
        self.query(f"PRAGMA busy_timeout = {int(seconds * 1000)}")


def _is_busy(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _value(column: Column) -> str:
    """Return the expression for a column as SQLite is to have it."""
    text = sql.name(column.name)
    return sql.as_text(text) if column.type == "TIMESTAMPTZ" else text
