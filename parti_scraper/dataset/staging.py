"""Where the records of one export are read into, before they go to a target.

It is a database in memory; what is too much goes into a temporary folder. In a file, it would be written twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from parti_scraper.api.times import iso_to_timestamp, timestamp_to_iso
from parti_scraper.dataset import sql
from parti_scraper.dataset.engine import connect
from parti_scraper.dataset.tables import (
    CONTENT_HASH,
    FIRST_SCRAPED_AT,
    LAST_CONFIRMED_AT,
    LAST_SCRAPED_AT,
    MISSING_SINCE,
    Column,
)

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from duckdb import DuckDBPyConnection

    from parti_scraper.dataset.plan import Key, Part
    from parti_scraper.dataset.tables import Table

# The files whose rows are to be replaced; and its columns. Of a file of a day, the times of the day.
REMOVED_FILES = "removed_files"
REMOVED_COLUMNS = {"run_uuid": "VARCHAR", "file": "VARCHAR", "since": "TIMESTAMPTZ", "until": "TIMESTAMPTZ"}
_DAY = 86_400
_ALWAYS = ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z")
_NEVER = (_ALWAYS[0], _ALWAYS[0])
# How many rows are in memory at once on their way to a database.
_BATCH = 2_048
# Worked out later.
_NOT_STORED = {LAST_SCRAPED_AT, MISSING_SINCE}
# In the lines that are read: the number of their file, and of the line in it.
FILE_NUMBER = "_file"
LINE_NUMBER = "_line"


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a table that are ready to go to a target, each key once.

    Attributes:
        table: which.
        relation: the name of a view with the columns of the table, and `_part`.
        count: how many.
    """

    table: Table
    relation: str
    count: int


class Staging:
    """The records that were read, by what they are; `connection` is DuckDB's."""

    def __init__(self, folder: Path, tables: Iterable[Table]) -> None:
        """Open a database in a temporary folder. Raises ExtraMissing.

        Args:
            folder: an empty folder, which is deleted by the caller.
            tables: those that are to be filled.
        """
        self.folder = folder
        self.connection: DuckDBPyConnection = connect(scratch=folder / "scratch")
        self._tables: dict[str, list[Table]] = {}
        for table in tables:
            self._tables.setdefault(table.records, []).append(table)
        for records, of_them in self._tables.items():
            self.connection.execute(f"CREATE TABLE {_records(records)} ({_definition(of_them)})")
        columns = ", ".join(f"{name} {kind}" for name, kind in REMOVED_COLUMNS.items())
        self.connection.execute(f"CREATE TABLE {REMOVED_FILES} ({columns})")
        self._removed: list[tuple[str, str, str, str]] = []
        self.connection.execute(
            f"CREATE TABLE files ({FILE_NUMBER} INTEGER, run_uuid VARCHAR, file VARCHAR, "
            "confirms_since TIMESTAMPTZ, confirms_until TIMESTAMPTZ, confirmed_at TIMESTAMPTZ)"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def note_files(self, numbered: Mapping[int, Part]) -> None:
        """Note what the lines of a file are, that have its number: the run, the name, and what they confirm."""
        rows = [(number, *part.key, *_confirms(part)) for number, part in numbered.items()]
        insert_all(self.connection, "files", rows)

    def read(self, records: str, path: Path, expected: int) -> int:
        """Read JSON Lines, if there are as many as expected, and return how many there are.

        Raises duckdb.Error if a line cannot be read, or lacks what makes it a record.
        """
        of_them = self._tables[records]
        stored = _stored(of_them)
        is_numbered = any(table.is_of_run or LAST_CONFIRMED_AT in table.names for table in of_them)
        # Read as a text, what is a text in JSON would lose its quotes.
        columns = {each.name: "JSON" if each.is_json else each.type for each in _read(of_them)}
        if is_numbered:
            columns |= {FILE_NUMBER: "INTEGER", LINE_NUMBER: "BIGINT"}
        shape = "{" + ", ".join(f"{sql.literal(name)}: {sql.literal(kind)}" for name, kind in columns.items()) + "}"
        source = f"read_json($path, columns={shape}, format='newline_delimited')"
        if is_numbered:
            source += f" JOIN files USING ({FILE_NUMBER})"
        values = ", ".join(_value(each, of_them) for each in stored)
        into = _records(records)
        before = _number(self.connection.execute(f"SELECT coalesce(max(rowid), -1) + 1 FROM {into}"))
        query = f"INSERT INTO {into} SELECT {values} FROM {source}"
        count = _number(self.connection.execute(query, {"path": str(path)}))
        if count != expected:
            # There is no transaction to undo: with one, the same takes half as long again.
            self.connection.execute(f"DELETE FROM {into} WHERE rowid >= {before}")
        return count

    def add(self, records: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add records, with all of their columns."""
        insert_all(self.connection, _records(records), rows)

    def copy(self, table: Table, rows: str, condition: str) -> None:
        """Add records that say the same as rows of a table.

        Args:
            table: which.
            rows: the name of the rows, which may lack columns.
            condition: for the rows that are taken.
        """
        columns = [each.name for each in _stored(self._tables[table.records])]
        described = self.connection.execute(f"DESCRIBE FROM {rows}").fetchall()
        given = {name for name, *_ in described}
        taken = f"(SELECT * FROM {rows} rows WHERE {condition})"
        for query in sql.observations(table, taken, columns, given):
            self.connection.execute(f"INSERT INTO {_records(table.records)} {query}")

    def remove_files(self, files: Iterable[Key], mixed: Container[str] = ()) -> None:
        """Note files whose rows are to be replaced, in tables in which a row belongs to one run.

        Args:
            files: the run of each, and its name; "": all files of the run.
            mixed: runs with files of days and others. The rows of the others cannot be told from those of the days.
        """
        added = [(run, file, *(_NEVER if run in mixed and "/" not in file else _times_of(file))) for run, file in files]
        self._removed += added
        insert_all(self.connection, REMOVED_FILES, added)

    def removed_files(self) -> Sequence[tuple[str, str, str, str]]:
        """Return the rows of `REMOVED_FILES`, with times in ISO 8601."""
        return self._removed

    def read_of(self, table: Table) -> str:
        """Return the name of the relation with all records that a table is made of, as they were read."""
        return _records(table.records)

    def rows(self, table: Table) -> Rows:
        """Return the rows of a table, of which each key is there once."""
        records = _records(table.records)
        picks, ready = sql.name(f"picks {table.name}"), sql.name(f"new {table.name}")
        # A part is written at a time: if its rows are together, the others are not gone through.
        order = f" ORDER BY {sql.PART}, row" if table.partition else ""
        self.connection.execute(f"CREATE OR REPLACE TABLE {picks} AS {sql.pick(table, records)}{order}")
        self.connection.execute(f"CREATE OR REPLACE VIEW {ready} AS {sql.picked_rows(table, records, picks)}")
        return Rows(table, ready, self._count(picks))

    def filtered(self, rows: Rows, condition: str) -> Rows:
        """Return the rows of a table that meet a condition."""
        filtered = sql.name(f"filtered {rows.table.name}")
        self.connection.execute(f"CREATE VIEW {filtered} AS SELECT * FROM {rows.relation} rows WHERE {condition}")
        return Rows(rows.table, filtered, self._count(filtered))

    def _count(self, relation: str) -> int:
        return _number(self.connection.execute(f"SELECT count(*) FROM {relation}"))

    def batches(self, query: str) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the rows of a query in batches; meanwhile no other statement may be executed."""
        result = self.connection.execute(query)
        while batch := result.fetchmany(_BATCH):
            yield batch


def insert_all(connection: DuckDBPyConnection, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert many rows at once; each value by its own would take a hundred times as long."""
    if not rows:
        return
    columns = list(zip(*rows, strict=True))
    unnested = ", ".join(f"unnest(${number + 1})" for number in range(len(columns)))
    connection.execute(f"INSERT INTO {table} SELECT {unnested}", [list(each) for each in columns])


def _confirms(part: Part) -> tuple[str | None, str | None, str | None]:
    """Return from when until when the ends of livestreams are that a file confirms, and since when they are seen."""
    if part.confirms is None:
        return None, None, None
    (since, until), began = part.confirms
    return timestamp_to_iso(since), timestamp_to_iso(until), began


def _times_of(file: str) -> tuple[str, str]:
    """Return from when until when the rows of a file are, by the day that it is of."""
    day, _, _ = file.rpartition("/")
    if not day:
        return _ALWAYS
    since = f"{day}T00:00:00Z"
    return since, timestamp_to_iso(iso_to_timestamp(since) + _DAY)


def _records(records: str) -> str:
    return sql.name(f"read {records}")


def _read(tables: Sequence[Table]) -> list[Column]:
    """Return the columns that are in the lines of the files of these tables."""
    columns = {each.name: each for table in tables for each in table.columns if not each.is_added}
    if any(LAST_SCRAPED_AT in table.greatest for table in tables):
        columns.setdefault("scraped_at", Column("scraped_at", "TIMESTAMPTZ", ""))
    return list(columns.values())


def _stored(tables: Sequence[Table]) -> list[Column]:
    """Return the columns of the records of these tables: those of the lines, and those that are added."""
    added = {each.name: each for table in tables for each in table.columns if each.is_added}
    return _read(tables) + [each for each in added.values() if each.name not in _NOT_STORED]


def _definition(tables: Sequence[Table]) -> str:
    """Return the columns of the records of these tables as SQL declares them."""
    # Without these, a line is no record, and no target would take it.
    needed = {name for table in tables for name in (*table.key, *table.order, *table.least)}
    return ", ".join(
        f"{sql.name(each.name)} {each.type}{' NOT NULL' if each.name in needed else ''}" for each in _stored(tables)
    )


def _value(column: Column, tables: Sequence[Table]) -> str:
    """Return the expression for a stored column, by what is read."""
    if column.name == CONTENT_HASH:
        return sql.content_hash(_read(tables))
    if column.name == FIRST_SCRAPED_AT:
        return "scraped_at"
    if column.name == LAST_CONFIRMED_AT:
        return "CASE WHEN event_end BETWEEN confirms_since AND confirms_until THEN confirmed_at END"
    if column.name == "line":
        return LINE_NUMBER
    return sql.name(column.name)


def _number(result: DuckDBPyConnection) -> int:
    ((number,),) = result.fetchall()
    return int(number)
