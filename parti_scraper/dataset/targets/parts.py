"""Tables as files of Parquet: what targets have in common that bring parts of tables up to date.

A part is one file with all rows of a month or a day, or of the whole table. It is written anew when a row comes to it,
changes or goes, and a row that moves to another part leaves the one that it was in.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from parti_scraper.dataset import sql
from parti_scraper.dataset.engine import TargetError, connect, one_line, require, with_memory
from parti_scraper.dataset.staging import REMOVED_FILES
from parti_scraper.dataset.tables import LOADED, SCHEMA_VERSION, all_tables
from parti_scraper.dataset.targets.base import Changes, Target, loaded_from, loaded_query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from duckdb import DuckDBPyConnection

    from parti_scraper.dataset.plan import Key, Loaded
    from parti_scraper.dataset.staging import Rows, Staging
    from parti_scraper.dataset.tables import Table
    from parti_scraper.dataset.targets.base import Load, Meta, Wanted

README = "README.md"
_FORMAT = "FORMAT parquet, COMPRESSION zstd"


class Store(Protocol):
    """Where the files are. Every method raises TargetError.

    Attributes:
        shown: its name for messages.
        uri: its address for other libraries.
    """

    shown: str
    uri: str

    @property
    def options(self) -> Mapping[str, str]:
        """What these have to know of it beside what is in the environment."""

    def open(self) -> AbstractContextManager[None]:
        """Wait for other exports, if the place knows of them, and remove what killed ones have left."""

    def scratch(self) -> Path:
        """Return a local folder for files that are to be put here."""

    def read_manifest(self) -> bytes | None:
        """Return the manifest, or None if there is none; later `write_manifest` replaces this one only."""

    def local(self, name: str) -> str:
        """Return the path of a local file with the content of a file that never changes."""

    def put(self, path: Path, name: str) -> None:
        """Move a local file here; no other file ever has this name."""

    def publish(self, name: str, public: str) -> None:
        """Give a file that was put here another name, in one step, in place of what has that name."""

    def write(self, public: str, content: bytes) -> None:
        """Write a small file, in one step."""

    def write_manifest(self, content: bytes) -> None:
        """Write the manifest, in one step. Raises Outdated if another export has since it was read."""

    def sizes(self) -> Mapping[str, int]:
        """Return the bytes of all files, by their names."""

    def remove(self, names: Sequence[str]) -> None:
        """Delete files, but for those that another export may just have put here."""

    def reason(self, error: Exception) -> str:
        """Return what an error of another library says of this place, in one line and without secrets."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a table: a file.

    Attributes:
        table: the name of the table.
        part: such as `2026-11` or `unknown`; empty if the table is one file.
        path: the name of the file that never changes.
        rows: how many rows it has.
        bytes: its size.
        sha256: of the file, in hexadecimal.
        keys: the least and the greatest key, if it is a number; None if unknown.
        stats: what its columns hold, as the log of a Delta table has it; empty in a folder.
    """

    table: str
    part: str
    path: str
    rows: int
    bytes: int
    sha256: str
    keys: tuple[int, int] | None = None
    stats: str = ""


@dataclass(slots=True)
class Content:
    """What is in a place.

    Attributes:
        meta: what the export knows of itself.
        parts: of all tables.
    """

    meta: Meta
    parts: list[Part] = field(default_factory=list)

    @property
    def names(self) -> frozenset[str]:
        """The names of the tables that are there."""
        return frozenset(each.table for each in self.parts)

    def of(self, table: Table) -> dict[str, Part]:
        """Return the parts of a table."""
        return {each.part: each for each in self.parts if each.table == table.name}


ContentT = TypeVar("ContentT", bound=Content)


def foreign(names: Iterable[str], manifest: str) -> list[str]:
    """Return which of the names in a folder are none of an export that describes itself in `manifest`."""
    ours = {*all_tables(), README, manifest}
    return sorted(each for each in names if each not in ours)


class PartsTarget(Target):
    """A folder, or a place in an object store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.shown = store.shown

    @contextmanager
    def open(self) -> Iterator[PartsSession[Any]]:
        """Open it, and wait for other exports into it. Raises TargetError, UsageError, ExtraMissing."""
        duckdb = require("duckdb", "dataset")
        with self._store.open():
            try:
                session = self._session()
                yield session
                session.settle()
            except duckdb.Error as error:
                raise TargetError(f"{self.shown}: {one_line(error)}") from None
            except OSError as error:
                raise TargetError(f"{self.shown} cannot be written: {error.strerror or error}") from None

    @abstractmethod
    def _session(self) -> PartsSession[Any]:
        """Return the place, which is open. Raises UsageError, TargetError, ExtraMissing."""


class PartsSession(Generic[ContentT]):
    """A place that is open.

    Attributes:
        keeps_empty: whether a table without rows is a file without rows.
    """

    keeps_empty: ClassVar[bool]

    def __init__(self, store: Store, content: ContentT | None) -> None:
        self._store, self._content = store, content

    @property
    def meta(self) -> Meta | None:
        """What the target knows of itself; None if it is new."""
        return self._content.meta if self._content else None

    def loaded(self) -> dict[Key, Loaded]:
        """Return what was loaded before."""
        paths = [self._store.local(each.path) for each in self._content.of(LOADED).values()] if self._content else []
        if not paths:
            return {}
        with connect() as connection:
            query = loaded_query("read_parquet($paths, hive_partitioning=false)")
            return loaded_from(connection.execute(query, {"paths": paths}).fetchall())

    def fetch(self, wanted: Wanted, staging: Staging) -> None:
        """Copy rows that were loaded before into the staging database."""
        parts = self._content.of(wanted.table) if self._content else {}
        taken = [each for name, each in parts.items() if wanted.parts is None or name in wanted.parts]
        condition = f"({wanted.condition})"
        if wanted.keys:
            name, relation = wanted.keys
            if name == wanted.table.key[0]:
                taken = [each for each in taken if _may_have_keys(each, name, relation, staging.connection)]
            condition += f" AND {sql.name(name)} IN (SELECT {sql.name(name)} FROM {relation})"
        if taken:
            rows = _rows_of(wanted.table, taken, self._store)
            names = sql.names(wanted.table.names)
            staging.connection.execute(f"INSERT INTO {wanted.into} SELECT {names} FROM ({rows}) WHERE {condition}")

    @abstractmethod
    def load(self, load: Load) -> dict[str, Changes]:
        """Bring rows into the target, all of them or none. Returns what was done to each table."""

    @abstractmethod
    def settle(self) -> None:
        """Finish what other exports have not, also if nothing was loaded."""

    @abstractmethod
    def _describe(self, written: Written) -> Part:
        """Return a part that was written, with the name that its file is to have, and that no other file ever has."""

    def _update(self, load: Load) -> tuple[list[Part], dict[str, Changes]]:
        """Write the parts that change. Returns all parts, and what was done to each table."""
        held = None if load.rebuild else self._content
        parts: list[Part] = []
        changes = {}
        for rows in load.rows:
            update = _Update(
                rows,
                held.of(rows.table) if held else {},
                self._store,
                load.staging.connection,
                self._describe,
                gone=load.gone.get(rows.table.name),
                # Files of an earlier version of the tables lack columns.
                is_outdated=bool(held and held.meta.schema_version < SCHEMA_VERSION),
                keeps_empty=self.keeps_empty,
            )
            table_parts, changes[rows.table.name] = update.run()
            parts += table_parts
        return parts, changes


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written, and is still to be put into a place.

    Attributes:
        table: whose part it is.
        part: the name of the part.
        path: where it is.
        rows: how many rows it has.
        sha256: of the file, in hexadecimal.
        connection: a database of DuckDB that can read it.
    """

    table: Table
    part: str
    path: Path
    rows: int
    sha256: str
    connection: DuckDBPyConnection

    @property
    def keys(self) -> tuple[int, int] | None:
        """The least and the greatest key in it, if there are any and they are numbers."""
        key = next(each for each in self.table.columns if each.name == self.table.key[0])
        if key.type != "BIGINT":
            return None
        ((least, greatest),) = self.query(f"min({sql.name(key.name)}), max({sql.name(key.name)})")
        return None if least is None else (least, greatest)

    def query(self, values: str) -> list[tuple[Any, ...]]:
        """Return values that are worked out of its rows."""
        return self.connection.execute(
            f"SELECT {values} FROM read_parquet({sql.literal(str(self.path))}, hive_partitioning=false)"
        ).fetchall()


def _rows_of(table: Table, parts: Sequence[Part], store: Store) -> str:
    """Return the query for the rows of parts, with the name of the part of each as `part`."""
    nothing = sql.nothing(table)
    if not parts:
        return f"SELECT {nothing}, '' AS part WHERE false"
    files = [(each.part, store.local(each.path)) for each in parts]
    each_file = ", ".join(sql.literal(path) for _, path in files)
    by_file = "MAP {" + ", ".join(f"{sql.literal(path)}: {sql.literal(name)}" for name, path in files) + "}"
    # Files of an earlier version of the tables may all lack a column.
    return (
        f"SELECT {sql.names(table.names)}, {by_file}[filename] AS part FROM ("
        f"SELECT * FROM read_parquet([{each_file}], filename=true, hive_partitioning=false, union_by_name=true) "
        f"UNION ALL BY NAME SELECT {nothing} WHERE false)"
    )


def _may_have_keys(part: Part, column: str, relation: str, connection: DuckDBPyConnection) -> bool:
    """Tell whether a part may have one of some keys; so most need not be read, which may be far away."""
    if part.keys is None:
        return True
    least, greatest = part.keys
    query = f"SELECT count(*) FROM {relation} WHERE {sql.name(column)} BETWEEN {least} AND {greatest}"
    ((count,),) = connection.execute(query).fetchall()
    return bool(count)


class _Update:
    """Brings the parts of one table up to date."""

    def __init__(
        self,
        rows: Rows,
        parts: Mapping[str, Part],
        store: Store,
        connection: DuckDBPyConnection,
        describe: Callable[[Written], Part],
        *,
        gone: str | None,
        is_outdated: bool,
        keeps_empty: bool,
    ) -> None:
        self._rows, self._table = rows, rows.table
        # The file without rows, which goes when some come.
        self._parts = {name: part for name, part in parts.items() if part.rows}
        self._empty = next((part for part in parts.values() if not part.rows), None)
        self._store, self._connection, self._describe = store, connection, describe
        self._gone, self._is_outdated, self._keeps_empty = gone, is_outdated, keeps_empty

    def run(self) -> tuple[list[Part], Changes]:
        """Write the parts that change, and return all parts of the table."""
        removed = {*self._parts} if self._is_outdated else self._parts_of_removed_rows()
        new = replaced = 0
        if self._rows.count or removed:
            self._find_old(removed)
            new, replaced = self._find_effective()
            self._merge()
            for part in self._changed_parts() | removed:
                self._write(part)
        if not self._parts and self._keeps_empty:
            self._parts[""] = self._empty or self._write_empty()
        parts = [self._parts[name] for name in sorted(self._parts)]
        return parts, Changes(sum(each.rows for each in parts), new, replaced)

    def _parts_of_removed_rows(self) -> set[str]:
        """Return the parts that have rows which are to go."""
        if not self._parts or not self._has_removed():
            return set()
        self._see_old([*self._parts])
        query = f"SELECT DISTINCT part FROM old_rows WHERE {self._is_removed('old_rows')}"
        return {part for (part,) in self._query(query)}

    def _has_removed(self) -> bool:
        """Tell whether rows of the table may have to go."""
        if self._gone is not None:
            return True
        if not self._table.is_of_run:
            return False
        ((count,),) = self._query(f"SELECT count(*) FROM {REMOVED_FILES}")
        return bool(count)

    def _see_old(self, parts: Sequence[str]) -> None:
        """Make a view of the rows that are there, with the part of each."""
        rows = _rows_of(self._table, [self._parts[name] for name in parts], self._store)
        self._run(f"CREATE OR REPLACE TEMP VIEW old_rows AS {rows}")

    def _find_old(self, removed: set[str]) -> None:
        """Make a table of the rows that are there and have the keys of new ones; not those of removed files."""
        parts = [*self._parts]
        if self._table.is_of_run and self._table.partition:
            # A row of a run stays in its part.
            in_new = {part for (part,) in self._query(f"SELECT DISTINCT {sql.PART} FROM {self._rows.relation}")}
            parts = [part for part in parts if part in in_new | removed]
        else:
            key = self._table.key[0]
            parts = [
                part for part in parts if _may_have_keys(self._parts[part], key, self._rows.relation, self._connection)
            ]
        self._see_old(parts)
        same = " AND ".join(f"old_rows.{sql.name(each)} = new.{sql.name(each)}" for each in self._table.key)
        kept = f"AND NOT {self._is_removed('old_rows')}" if removed else ""
        self._run(
            f"CREATE OR REPLACE TEMP TABLE old_same AS SELECT * FROM old_rows "
            f"WHERE EXISTS (SELECT 1 FROM {self._rows.relation} new WHERE {same}) {kept}"
        )

    def _is_removed(self, rows: str) -> str:
        """Return the condition for a row that is to go."""
        if self._table.is_of_run:
            return sql.is_removed(self._table, rows, REMOVED_FILES)
        if self._gone is None:
            return "false"
        return sql.is_gone(self._table, rows, self._gone)

    def _find_effective(self) -> tuple[int, int]:
        """Make a view of the new rows that change something; return how many rows are new, and how many replaced."""
        key, names = sql.names(self._table.key), sql.names(self._table.names, "new")
        ((known,),) = self._query("SELECT count(*) FROM old_same")
        if not known:
            self._run(f"CREATE OR REPLACE TEMP VIEW effective AS SELECT * FROM {self._rows.relation}")
            return self._rows.count, 0
        change = sql.is_change(self._table, "new", "old_same")
        self._run(
            f"CREATE OR REPLACE TEMP TABLE effective_rows AS SELECT {names}, new.{sql.PART} "
            f"FROM {self._rows.relation} new LEFT JOIN old_same USING ({key}) "
            f"WHERE old_same.part IS NULL OR ({change})"
        )
        self._run("CREATE OR REPLACE TEMP VIEW effective AS SELECT * FROM effective_rows")
        ((count,),) = self._query("SELECT count(*) FROM effective_rows")
        new = self._rows.count - known
        return new, count - new

    def _merge(self) -> None:
        """Make a view of what becomes of the new rows that change something, with the part of each."""
        ((known,),) = self._query("SELECT count(*) FROM old_same")
        if not known or self._table.replaces:
            self._run("CREATE OR REPLACE TEMP VIEW merged AS SELECT * FROM effective")
            return
        names, key = sql.names(self._table.names), sql.names(self._table.key)
        both = (
            f"(SELECT {names} FROM effective UNION ALL SELECT {names} FROM old_same SEMI JOIN effective USING ({key}))"
        )
        merged = sql.merge(self._table, both)
        self._run(
            f"CREATE OR REPLACE TEMP TABLE merged_rows AS "
            f"SELECT *, {sql.part_of(self._table)} AS {sql.PART} FROM ({merged})"
        )
        self._run("CREATE OR REPLACE TEMP VIEW merged AS SELECT * FROM merged_rows")

    def _changed_parts(self) -> set[str]:
        """Return the parts to which rows come, or from which they go."""
        key = sql.names(self._table.key)
        to = self._query(f"SELECT DISTINCT {sql.PART} FROM merged")
        away = self._query(f"SELECT DISTINCT part FROM old_same SEMI JOIN effective USING ({key})")
        return {part for (part,) in (*to, *away)}

    def _write(self, part: str) -> None:
        """Write a part: what was there and has not changed, and what comes to it."""
        names, key = sql.names(self._table.names), sql.names(self._table.key)
        rows = f"SELECT {names} FROM merged WHERE {sql.PART} = {sql.literal(part)}"
        if part in self._parts:
            self._see_old([part])
            kept = f"WHERE NOT {self._is_removed('old_rows')}"
            rows += f" UNION ALL SELECT {names} FROM (SELECT * FROM old_rows {kept}) ANTI JOIN effective USING ({key})"
        count = self._copy(f"{rows} ORDER BY {sql.names(self._table.sorting)}")
        self._parts.pop(part, None)
        if count:
            self._parts[part] = self._put(part, count)

    def _write_empty(self) -> Part:
        self._see_old([])
        return self._put("", self._copy(f"SELECT {sql.names(self._table.names)} FROM old_rows"))

    @property
    def _written(self) -> Path:
        """The file that is being written."""
        return self._store.scratch() / "part.parquet"

    def _copy(self, query: str) -> int:
        """Write the rows of a query, and return how many they are."""
        copy = f"COPY ({query}) TO {sql.literal(str(self._written))} ({_FORMAT})"
        ((count,),) = with_memory(self._connection, lambda: self._query(copy))
        return int(count)

    def _put(self, part: str, count: int) -> Part:
        """Put what was written into the store, as a part with so many rows."""
        path = self._written
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        made = self._describe(Written(self._table, part, path, count, digest, self._connection))
        self._store.put(path, made.path)
        return made

    def _run(self, statement: str) -> None:
        self._connection.execute(statement)

    def _query(self, statement: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement).fetchall()
