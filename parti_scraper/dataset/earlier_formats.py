"""Earlier exports that are read: folders, also in an object store, Delta tables, databases."""

from __future__ import annotations

import hashlib
import sqlite3
from abc import ABC, abstractmethod
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from parti_scraper.dataset import sql
from parti_scraper.dataset.engine import connect, require
from parti_scraper.dataset.scratch import scratch_folder
from parti_scraper.dataset.staging import insert_all
from parti_scraper.dataset.tables import LOADED, dataset_tables
from parti_scraper.dataset.targets import delta
from parti_scraper.dataset.targets.base import Meta, loaded_from, loaded_query
from parti_scraper.dataset.targets.database import META, meta_query
from parti_scraper.dataset.targets.delta import PREFIX, is_delta, store_of
from parti_scraper.dataset.targets.folder import Manifest
from parti_scraper.dataset.targets.local_folder import LocalFolder
from parti_scraper.dataset.targets.object_store import SCHEMES as STORES
from parti_scraper.dataset.targets.object_store import ObjectStore
from parti_scraper.dataset.targets.postgres import begin, columns_query, copy_out, database_error, rows_of
from parti_scraper.dataset.targets.postgres_address import SCHEMES, Address
from parti_scraper.exceptions import UsageError, quoted
from parti_scraper.run.datapackage import FILE_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import psycopg
    from duckdb import DuckDBPyConnection

    from parti_scraper.dataset.plan import Key, Loaded
    from parti_scraper.dataset.tables import Table
    from parti_scraper.dataset.targets.parts import Content, Store

_FILES = (".duckdb", ".sqlite")
ACCEPTED = (
    f"a folder of runs such as output/, or an earlier export: a folder, {PREFIX}FOLDER/, {', '.join(_FILES)}, "
    f"{SCHEMES[0]}"
)
# How many rows of SQLite are held in memory.
_BATCH = 20_000


class Held(ABC):
    """What an earlier export holds.

    Attributes:
        shown: its name for messages.
        meta: what it knows of itself.
        fingerprint: tells it from what it was before and will be later, and from others.
        tables: the names of its tables of records.
    """

    shown: str
    meta: Meta
    fingerprint: str
    tables: frozenset[str]

    @abstractmethod
    def loaded(self) -> dict[Key, Loaded]:
        """Return the files of runs that it has. Raises TargetError, duckdb.Error, sqlite3.Error, OSError."""

    @abstractmethod
    def rows(self, table: Table, connection: DuckDBPyConnection) -> str:
        """Return what the rows of a table are called in a database of DuckDB. Raises as `loaded`."""

    def problem(self) -> str | None:
        """Return what is wrong with its files, if so. Raises TargetError, OSError."""
        return None


def is_export(text: str) -> bool:
    """Tell whether what was typed is an earlier export, or is to be one."""
    return text.startswith((PREFIX, *SCHEMES, *(f"{each}://" for each in STORES))) or (
        (Path(text) / FILE_NAME).exists() if Path(text).is_dir() else text.endswith(_FILES) and Path(text).is_file()
    )


@contextmanager
def open_export(named: Address | str, scratch: Path) -> Iterator[Held]:
    """Open an earlier export.

    Args:
        named: as typed, see `is_export`; or the address of a database.
        scratch: a folder for temporary files.

    Raises:
        UsageError: it is none, or was made by a later version of this project.
        TargetError, duckdb.Error, sqlite3.Error, OSError: it cannot be read.
        ExtraMissing: a package is not installed.
    """
    if isinstance(named, Address):
        with scratch_folder(scratch) as folder, closing(_connect_to(named)) as connection:
            yield _Postgres(named, connection, folder)
    elif is_delta(named):
        store = store_of(named, scratch)
        # What is in a local folder is read as it is: to open it would be to write to it.
        with store.open() if "://" in named else nullcontext():
            yield _Folder(store, delta.Manifest.read)
    elif "://" in named:
        store = ObjectStore(named, scratch)
        with store.open():
            yield _Folder(store)
    elif Path(named).is_dir():
        yield _Folder(LocalFolder(Path(named)))
    elif named.endswith(".duckdb"):
        yield _DuckDb(Path(named))
    else:
        with closing(sqlite3.connect(f"file:{quote(named)}?mode=ro", uri=True, isolation_level=None)) as connection:
            yield _Sqlite(Path(named), connection)


def not_an_export(shown: str) -> UsageError:
    """Return what is raised for a place that is none of both."""
    return UsageError(f"neither a folder of runs nor an export: {quoted(shown)} (accepted: {ACCEPTED})")


class _Folder(Held):
    """A folder; its files do not change until the export after next. Those of Delta tables do not for a week.

    Args:
        store: where it is.
        read: reads its manifest.
    """

    def __init__(self, store: Store, read: Callable[[bytes, str], Content] = Manifest.read) -> None:
        self._store, self.shown = store, store.shown
        body = store.read_manifest()
        if body is None or b'"export"' not in body:
            raise not_an_export(store.shown)
        self._manifest = read(body, store.shown)
        self.meta = self._manifest.meta
        self.fingerprint = hashlib.sha256(body).hexdigest()
        self.tables = self._manifest.names & {*dataset_tables()}

    def loaded(self) -> dict[Key, Loaded]:
        with connect() as connection:
            return loaded_from(connection.execute(loaded_query(self.rows(LOADED, connection))).fetchall())

    def rows(self, table: Table, connection: DuckDBPyConnection) -> str:
        paths = ", ".join(sql.literal(self._store.local(each.path)) for each in self._manifest.of(table).values())
        if not paths:
            return f"(SELECT {sql.nothing(table)} WHERE false)"
        return f"read_parquet([{paths}], hive_partitioning=false, union_by_name=true)"

    def problem(self) -> str | None:
        for part in self._manifest.parts:
            with Path(self._store.local(part.path)).open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != part.sha256:
                    return f"{part.path} is not what its data package says (SHA-256)"
        return None


class _Database(Held):
    """A database, as `targets.database` makes it."""

    def __init__(self, shown: str) -> None:
        self.shown = shown
        names = {each for (each,) in self._query(self._names)}
        states = self._query(meta_query(META.name)) if META.name in names else ()
        if not states:
            raise not_an_export(self.shown)
        ((state,),) = states
        self.meta = Meta.from_json(state, self.shown)
        self.tables = frozenset(names & {*dataset_tables()})
        self._loaded = loaded_from(self._query(loaded_query(LOADED.name)))
        known = hashlib.sha256(state.encode())
        known.update(repr(sorted(self._loaded.items())).encode())
        self.fingerprint = known.hexdigest()

    # The query for the names of all tables.
    _names: str

    def loaded(self) -> dict[Key, Loaded]:
        return self._loaded

    @abstractmethod
    def _query(self, statement: str) -> Sequence[tuple[Any, ...]]:
        """Return the rows of a query."""


class _DuckDb(_Database):
    """A file of DuckDB."""

    _names = "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database()"

    def __init__(self, path: Path) -> None:
        self._path = path
        with connect() as self._connection:
            self._connection.execute(f"ATTACH {sql.literal(str(path))} AS earlier (READ_ONLY)")
            self._connection.execute("USE earlier")
            super().__init__(str(path))

    def _query(self, statement: str) -> Sequence[tuple[Any, ...]]:
        return self._connection.execute(statement).fetchall()

    def rows(self, table: Table, connection: DuckDBPyConnection) -> str:
        alias = sql.name(f"earlier {self.fingerprint}")
        connection.execute(f"ATTACH IF NOT EXISTS {sql.literal(str(self._path))} AS {alias} (READ_ONLY)")
        return f"{alias}.main.{sql.name(table.name)}"


class _Sqlite(_Database):
    """A file of SQLite; what is read of it is of one moment."""

    _names = "SELECT name FROM sqlite_schema WHERE type = 'table'"

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._connection.execute("BEGIN")
        super().__init__(str(path))

    def _query(self, statement: str) -> Sequence[tuple[Any, ...]]:
        return self._connection.execute(statement).fetchall()

    def rows(self, table: Table, connection: DuckDBPyConnection) -> str:
        """Copy them, as their types are declared: SQLite has neither times nor truths."""
        has = {each for (each,) in self._query(f"SELECT name FROM pragma_table_info({sql.literal(table.name)})")}
        columns = [each for each in table.columns if each.name in has]
        into = sql.name(f"earlier {table.name}")
        typed = sql.typed(columns)
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {into} ({typed})")
        names = sql.names(each.name for each in columns)
        cursor = self._connection.execute(f"SELECT {names} FROM {sql.name(table.name)}")
        while rows := cursor.fetchmany(_BATCH):
            insert_all(connection, into, rows)
        return into


def _connect_to(address: Address) -> psycopg.Connection:
    """Open a connection for reading, which no export waits for. Raises TargetError."""
    package = require("psycopg", "postgres")
    with _told(address):
        connection: psycopg.Connection = package.connect(**address.connection, prepare_threshold=None)
    connection.isolation_level = package.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    return connection


@contextmanager
def _told(address: Address) -> Iterator[None]:
    """Tell of an error of a database. Raises TargetError."""
    try:
        yield
    except require("psycopg", "postgres").Error as error:
        raise database_error(error, address, "SELECT on the tables of the dataset, and USAGE on their schema") from None


class _Postgres(_Database):
    """A schema of a PostgreSQL database; what is read of it is of one moment."""

    _names = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"

    def __init__(self, address: Address, connection: psycopg.Connection, folder: Path) -> None:
        self._address, self._connection, self._folder = address, connection, folder
        with _told(address):
            begin(connection)
            connection.execute(f"SET LOCAL search_path = {sql.name(address.schema)}")
        super().__init__(address.shown)

    def _query(self, statement: str) -> Sequence[tuple[Any, ...]]:
        with _told(self._address):
            return self._connection.execute(statement).fetchall()

    def rows(self, table: Table, connection: DuckDBPyConnection) -> str:
        """Copy them into a file."""
        of = sql.name(table.name)
        has = {name for name, _ in self._query(columns_query(of))}
        columns = [each for each in table.columns if each.name in has]
        names = sql.names(each.name for each in columns)
        path = self._folder / f"{table.name}.csv"
        with _told(self._address):
            copy_out(self._connection, f"SELECT {names} FROM {of}", path)
        return rows_of(path, columns)
