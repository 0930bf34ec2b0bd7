"""A PostgreSQL database: the tables are in a schema of it.

An export is one transaction, which begins with a lock that other exports into the same schema wait for, before what was
loaded is read. It is held while runs are read; no other reader or writer waits for it.
"""

from __future__ import annotations

import hashlib
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from parti_scraper.dataset import sql
from parti_scraper.dataset.engine import TargetAway, TargetError, one_line, require
from parti_scraper.dataset.targets.base import Target
from parti_scraper.dataset.targets.database import DatabaseSession, Upserted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import psycopg

    from parti_scraper.dataset.staging import Rows, Staging
    from parti_scraper.dataset.tables import Column, Table
    from parti_scraper.dataset.targets.base import Wanted
    from parti_scraper.dataset.targets.postgres_address import Address

# They are for those who wait at a screen: an export may take its time. The last is known since PostgreSQL 17.
_TIMEOUTS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")
# What else a transaction begins with. If the machine of an export is gone, the server shall notice within two minutes.
_SETTINGS = {
    "datestyle": "ISO",
    "timezone": "UTC",
    "standard_conforming_strings": "on",
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "6",
}
_NO_RIGHTS = "42501"
OWNERSHIP = "CREATE on the database, or on the schema and ownership of its tables"
# PostgreSQL has no NUL in a text.
_REPLACEMENT = "\ufffd"


class PostgresTarget(Target):
    """A schema of a database.

    Attributes:
        session: makes what an export works with, of a connection and the address.
    """

    session: Callable[[psycopg.Connection, Address], PostgresSession]

    def __init__(self, address: Address, needed: str = OWNERSHIP) -> None:
        self._address = address
        self._needed = needed
        self.session = PostgresSession
        self.shown = address.shown

    @contextmanager
    def open(self) -> Iterator[PostgresSession]:
        """Connect, and wait for other exports into the schema. Raises TargetError, UsageError, ExtraMissing."""
        psycopg, duckdb = require("psycopg", "postgres"), require("duckdb", "dataset")
        try:
            with closing(psycopg.connect(**self._address.connection, prepare_threshold=None)) as connection:
                # What another export has written while this one waited must be seen.
                connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
                yield self.session(connection, self._address)
        except psycopg.Error as error:
            raise database_error(error, self._address, self._needed) from None
        except duckdb.Error as error:
            raise TargetError(f"{self.shown}: {one_line(error)}") from None


class PostgresSession(DatabaseSession):
    """A connection to a database, with the lock of a schema."""

    types: ClassVar[Mapping[str, str]] = {
        "BIGINT": "bigint",
        "BOOLEAN": "boolean",
        "DOUBLE": "double precision",
        "TIMESTAMPTZ": "timestamptz",
        "VARCHAR": "text",
    }
    until_commit = "ON COMMIT DROP"

    def __init__(self, connection: psycopg.Connection, address: Address) -> None:
        """Take the lock. Raises psycopg.Error, TargetError."""
        super().__init__(address.shown)
        self._connection = connection
        self._schema = address.schema
        begin(connection)
        ((encoding,),) = self.query("SHOW server_encoding")
        if encoding != "UTF8":
            raise TargetError(f"{self.shown}: the encoding of the database is {encoding} (accepted: UTF8)")
        self.query(f"SELECT pg_advisory_xact_lock({_lock_of(address.schema)})")

    def into(self, table: Table) -> str:
        return f"{sql.name(self._schema)}.{sql.name(table.name)}"

    def create(self, table: Table) -> None:
        super().create(table)
        self._comment(table)

    def begin(self) -> None:
        """Make the schema; the transaction has begun with the lock."""
        if not self.query(f"SELECT 1 FROM pg_namespace WHERE nspname = {sql.literal(self._schema)}"):
            self.execute(f"CREATE SCHEMA {sql.name(self._schema)}")

    def commit(self) -> None:
        self._connection.commit()

    def rollback(self) -> None:
        """Close the connection, which undoes the transaction, also if the server is gone."""
        self._connection.close()

    def columns(self, table: Table) -> set[str]:
        return {each for each, _ in self._columns(table)}

    def execute(self, statement: str) -> int:
        return max(self._connection.execute(statement).rowcount, 0)

    def query(self, statement: str) -> Sequence[tuple[Any, ...]]:
        return self._connection.execute(statement).fetchall()

    def upsert(self, rows: Rows, staging: Staging) -> Upserted:
        table, into = rows.table, self.into(rows.table)
        altered = _altered(rows, staging)
        if not self.query(f"SELECT 1 FROM {into} LIMIT 1"):
            changed = self._copy(rows, staging, into, altered)
        else:
            staged = self._temporary(f"new {table.name}", table.columns)
            self._copy(rows, staging, staged, altered)
            changed = self.execute(sql.upsert(table, into, staged))
            self.execute(f"DROP TABLE {staged}")
        return Upserted(changed, sum(altered.values()))

    def bring(self, relation: str, columns: Sequence[Column], staging: Staging) -> str:
        into = self._temporary(f"brought {relation.strip(chr(34))}", columns)
        self._copy_in(relation, columns, staging, into, {})
        self.execute(f"ANALYZE {into}")
        return into

    def copy_out(self, query: str, wanted: Wanted, staging: Staging) -> None:
        path = staging.folder / "fetched.csv"
        copy_out(self._connection, query, path)
        # Most of what small runs ask for is not there, and to read nothing takes as long as to read some.
        if path.stat().st_size:
            staging.connection.execute(f"INSERT INTO {wanted.into} FROM {rows_of(path, wanted.table.columns)}")
        path.unlink()

    def _temporary(self, name: str, columns: Sequence[Column]) -> str:
        """Make an empty table that goes with the transaction, and return its name."""
        into = f"pg_temp.{sql.name(name)}"
        typed = ", ".join(f"{sql.name(each.name)} {self.types[each.type]}" for each in columns)
        self.execute(f"DROP TABLE IF EXISTS {into}")
        self.execute(f"CREATE TEMPORARY TABLE {sql.name(name)} ({typed}) ON COMMIT DROP")
        return into

    def _copy(self, rows: Rows, staging: Staging, into: str, altered: Mapping[str, int]) -> int:
        """Copy rows into an empty table, and return how many there were."""
        return self._copy_in(rows.relation, rows.table.columns, staging, into, altered)

    def _copy_in(
        self, relation: str, columns: Sequence[Column], staging: Staging, into: str, altered: Mapping[str, int]
    ) -> int:
        values = ", ".join(_in_csv(each, is_altered=bool(altered.get(each.name))) for each in columns)
        query = f"SELECT concat_ws(',', {values}) || chr(10) FROM {relation}"
        cursor = self._connection.cursor()
        names = sql.names(each.name for each in columns)
        with cursor.copy(f"COPY {into} ({names}) FROM STDIN (FORMAT csv)") as copy:
            for batch in staging.batches(query):
                copy.write("".join(line for (line,) in batch))
        return cursor.rowcount

    def _comment(self, table: Table) -> None:
        """Let the table and its columns say what they are, as far as they do not."""
        into, said = self.into(table), dict(self._columns(table))
        query = f"SELECT obj_description(to_regclass({sql.literal(into)}), 'pg_class')"
        if self.query(query) != [(table.description,)]:
            self.execute(f"COMMENT ON TABLE {into} IS {sql.literal(table.description)}")
        for column in table.columns:
            if said[column.name] != column.description:
                target = f"{into}.{sql.name(column.name)}"
                self.execute(f"COMMENT ON COLUMN {target} IS {sql.literal(column.description)}")

    def _columns(self, table: Table) -> Sequence[tuple[str, str | None]]:
        """Return the columns that a table has, and what is said of them."""
        return self.query(columns_query(self.into(table)))


def columns_query(of: str) -> str:
    """Return the query for the columns that a table has, and what is said of them."""
    return (
        "SELECT attname, col_description(attrelid, attnum) FROM pg_attribute "
        f"WHERE attrelid = to_regclass({sql.literal(of)}) AND attnum > 0 AND NOT attisdropped"
    )


def begin(connection: psycopg.Connection) -> None:
    """Begin a transaction that may take its time, and has texts in the form that is read. Raises psycopg.Error."""
    timeouts = ", ".join(map(sql.literal, _TIMEOUTS))
    connection.execute(f"SELECT set_config(name, '0', true) FROM pg_settings WHERE name IN ({timeouts})")
    for name, value in _SETTINGS.items():
        connection.execute(f"SET LOCAL {name} = {sql.literal(value)}")


def copy_out(connection: psycopg.Connection, query: str, path: Path) -> None:
    """Write the rows of a query into a file. Raises psycopg.Error, OSError."""
    with path.open("wb") as stream, connection.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT csv)") as copy:
        for block in copy:
            stream.write(block)


def rows_of(path: Path, columns: Iterable[Column]) -> str:
    """Return what the rows of a file that `copy_out` has written are called in DuckDB."""
    typed = ", ".join(f"{sql.literal(each.name)}: {sql.literal(each.type)}" for each in columns)
    # What is not in quotes is null, as PostgreSQL writes it.
    return (
        f"read_csv({sql.literal(str(path))}, columns={{{typed}}}, auto_detect=false, header=false, "
        "delim=',', quote='\"', escape='\"', nullstr='', allow_quoted_nulls=false, parallel=false, "
        # Unless it is told, it takes the first line break for that between rows, which may be in a title.
        "new_line='\\n', max_line_size=1000000000)"
    )


def _lock_of(schema: str) -> int:
    """Return the number of the lock for a schema."""
    digest = hashlib.blake2b(f"parti_scraper {schema}".encode(), digest_size=8)
    return int.from_bytes(digest.digest(), signed=True)


def _altered(rows: Rows, staging: Staging) -> dict[str, int]:
    """Return how many texts of each column PostgreSQL could not hold."""
    texts = [each for each in rows.table.columns if each.type == "VARCHAR"]
    counts = ", ".join(f"count(*) FILTER (WHERE {_is_altered(each)})" for each in texts)
    (found,) = staging.connection.execute(f"SELECT {counts} FROM {rows.relation}").fetchall()
    return dict(zip((each.name for each in texts), found, strict=True))


def _is_altered(column: Column) -> str:
    """Return the condition for a text that PostgreSQL cannot hold."""
    text = sql.name(column.name)
    if column.is_json:
        return rf"contains({text}, '\u0000') AND {_storable(column)} <> {text}"
    return f"contains({text}, chr(0))"


def _storable(column: Column) -> str:
    """Return the expression for a text as PostgreSQL can hold it; of JSON also as `jsonb`."""
    text = sql.name(column.name)
    if not column.is_json:
        return f"replace({text}, chr(0), '{_REPLACEMENT}')"
    # Not where the backslash is one that was escaped: such pairs are put aside, as NUL, which no JSON has as it is.
    apart = rf"replace({text}, '\\', chr(0))"
    return rf"replace(replace({apart}, '\u0000', '{_REPLACEMENT}'), chr(0), '\\')"


def _in_csv(column: Column, *, is_altered: bool) -> str:
    """Return the expression for a column as it stands in CSV; without quotes, nothing is null."""
    text = _storable(column) if is_altered else sql.name(column.name)
    if column.type == "VARCHAR":
        text = f"""concat('"', replace({text}, '"', '""'), '"')"""
        return f"CASE WHEN {sql.name(column.name)} IS NULL THEN '' ELSE {text} END"
    return f"coalesce({text}::VARCHAR, '')"


def database_error(error: psycopg.Error, address: Address, needed: str) -> TargetError:
    """Return what is raised for an error of libpq or the server: one line, without the values of a row.

    Args:
        error: it.
        address: of the database.
        needed: the rights that are needed, said where it is about rights.
    """
    psycopg = require("psycopg", "postgres")
    line = " ".join((error.diag.message_primary or str(error)).split())
    line = f"{line} (needed: {needed})" if error.sqlstate == _NO_RIGHTS else line
    kind = TargetAway if isinstance(error, psycopg.OperationalError) else TargetError
    return kind(f"{address.shown}: {address.redact(line)}")
