"""A folder, or a place in an object store, with every table as Parquet.

Each part of a table is there twice, as one file with two names:

- `<table>/_versions/<part>-<hash>` never changes. `datapackage.json`, which is written last, names these, so who reads
  through it sees one export or the next, never something between. They are kept until the export after next.
- `<table>/month=2026-11/<table>.parquet` is replaced in one step when the part changes, for those who read by a pattern
  such as `livestreams/**/*.parquet`: no row is there twice.

Names that begin with `_` are passed over by Arrow, Spark and others that read a folder as a table.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import uuid
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from parti_scraper.dataset import sql
from parti_scraper.dataset.engine import TargetError, connect, one_line, require, with_memory
from parti_scraper.dataset.staging import REMOVED_FILES
from parti_scraper.dataset.tables import LOADED, SCHEMA_VERSION, Table, all_tables
from parti_scraper.dataset.targets.base import Changes, Load, Meta, Target, loaded_from, loaded_query
from parti_scraper.exceptions import UsageError
from parti_scraper.run.datapackage import FILE_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from duckdb import DuckDBPyConnection

    from parti_scraper.dataset.plan import Key, Loaded
    from parti_scraper.dataset.staging import Rows, Staging
    from parti_scraper.dataset.targets.base import Wanted

README = "README.md"
VERSIONS = "_versions"
_WHOLE = "all"
_MEDIA_TYPE = "application/vnd.apache.parquet"
_TYPES = {"BIGINT": "integer", "BOOLEAN": "boolean", "DOUBLE": "number", "TIMESTAMPTZ": "datetime", "VARCHAR": "string"}
_FORMAT = "FORMAT parquet, COMPRESSION zstd"


class Store(Protocol):
    """Where the files are. Every method raises TargetError."""

    shown: str

    def open(self) -> AbstractContextManager[None]:
        """Wait for other exports, if the place knows of them, and remove what killed ones have left."""

    def scratch(self) -> Path:
        """Return a local folder for files that are to be put here."""

    def read_manifest(self) -> bytes | None:
        """Return the data package, or None if there is none; later `write_manifest` replaces this one only."""

    def local(self, name: str) -> str:
        """Return the path of a local file with the content of a file that never changes."""

    def put(self, path: Path, name: str) -> None:
        """Move a local file here; no other file ever has this name."""

    def publish(self, name: str, public: str) -> None:
        """Give a file that was put here another name, in one step, in place of what has that name."""

    def write(self, public: str, content: bytes) -> None:
        """Write a small file, in one step."""

    def write_manifest(self, content: bytes) -> None:
        """Write the data package, in one step. Raises Outdated if another export has since it was read."""

    def sizes(self) -> Mapping[str, int]:
        """Return the bytes of all files, by their names."""

    def remove(self, names: Sequence[str]) -> None:
        """Delete files, but for those that another export may just have put here."""


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
    """

    table: str
    part: str
    path: str
    rows: int
    bytes: int
    sha256: str
    keys: tuple[int, int] | None = None


@dataclass(slots=True)
class Manifest:
    """What a data package says of an export.

    Attributes:
        meta: what the export knows of itself.
        parts: of all tables.
        before: files that the data package before it named.
    """

    meta: Meta
    parts: list[Part] = field(default_factory=list)
    before: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, body: bytes, shown: str) -> Manifest:
        """Do the reverse of `as_json`. Raises UsageError if it is not ours, or of a later version."""
        try:
            package = json.loads(body)
            values, resources = package["export"], package["resources"]
            parts = [
                Part(
                    each["table"],
                    each["part"],
                    each["path"],
                    each["rows"],
                    each["bytes"],
                    each["hash"].removeprefix("sha256:"),
                    (each["keys"][0], each["keys"][1]) if each["keys"] else None,
                )
                for each in resources
            ]
            before = values.pop("before")
        except (ValueError, LookupError, TypeError, AttributeError):
            accepted = "an empty folder, or an earlier export"
            raise UsageError(f"{shown}{FILE_NAME} is none of this project's exports (accepted: {accepted})") from None
        return cls(Meta.from_json(json.dumps(values), shown), parts, before)

    def as_json(self) -> bytes:
        """Return the data package. No two are the same, so a store can tell whether it is another one."""
        package = {
            "id": str(uuid.uuid4()),
            "name": "parti-dataset",
            "title": "Livestreams of parti.com",
            "created": self.meta.exported_at,
            "export": asdict(self.meta) | {"before": self.before},
            "resources": [self._resource(part) for part in self.parts],
        }
        return json.dumps(package, ensure_ascii=False, indent=1).encode() + b"\n"

    def of(self, table: Table) -> dict[str, Part]:
        """Return the parts of a table."""
        return {each.part: each for each in self.parts if each.table == table.name}

    @staticmethod
    def _resource(part: Part) -> dict[str, Any]:
        table = all_tables()[part.table]
        return {
            "name": f"{part.table}-{part.part}".strip("-").replace("_", "-"),
            "table": part.table,
            "part": part.part,
            "path": part.path,
            "published": published(table, part.part),
            "type": "table",
            "format": "parquet",
            "mediatype": _MEDIA_TYPE,
            "bytes": part.bytes,
            "hash": f"sha256:{part.sha256}",
            "rows": part.rows,
            "keys": part.keys,
            "schema": _schema(table),
        }


def _schema(table: Table) -> dict[str, Any]:
    """Return the Table Schema of a table."""
    return {
        "fields": [
            {"name": each.name, "type": _TYPES[each.type], "description": each.description} for each in table.columns
        ],
        "primaryKey": list(table.key),
    }


def published(table: Table, part: str) -> str:
    """Return the name of a part for those who read by a pattern."""
    folder = f"{table.name}/{table.partition}={part}" if table.partition and part else table.name
    return f"{folder}/{table.name}.parquet"


def foreign(names: Iterable[str]) -> list[str]:
    """Return which of the names in a folder are none of an export."""
    ours = {*all_tables(), README, FILE_NAME}
    return sorted(each for each in names if each not in ours)


class FolderTarget(Target):
    """A folder, or a place in an object store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._unsettled: set[str] = set()
        self.shown = store.shown

    @contextmanager
    def open(self) -> Iterator[_Session]:
        """Open it, and wait for other exports into it. Raises TargetError, UsageError, ExtraMissing."""
        duckdb = require("duckdb", "dataset")
        with self._store.open():
            try:
                session = _Session(self._store, self._unsettled)
                yield session
                session.settle()
            except duckdb.Error as error:
                raise TargetError(f"{self.shown}: {one_line(error)}") from None
            except OSError as error:
                raise TargetError(f"{self.shown} cannot be written: {error.strerror or error}") from None


class _Session:
    """A folder that is open.

    Args:
        store: where it is.
        unsettled: published names that were written without the data package, because another export was faster: what
            they are now is not known. Shared with the sessions after this one.
    """

    def __init__(self, store: Store, unsettled: set[str]) -> None:
        self._store, self._unsettled = store, unsettled
        body = store.read_manifest()
        self._manifest = None if body is None else Manifest.read(body, store.shown)

    @property
    def meta(self) -> Meta | None:
        return self._manifest.meta if self._manifest else None

    def loaded(self) -> dict[Key, Loaded]:
        paths = [self._store.local(each.path) for each in self._manifest.of(LOADED).values()] if self._manifest else []
        if not paths:
            return {}
        with connect() as connection:
            query = loaded_query("read_parquet($paths, hive_partitioning=false)")
            return loaded_from(connection.execute(query, {"paths": paths}).fetchall())

    def settle(self) -> None:
        """If nothing was loaded, publish what the data package names in place of what was published in vain.

        The data package is written too, though nothing in it is new: so an export that goes on at the same time
        cannot take its place without having seen this one.
        """
        if self._unsettled and self._manifest:
            self._publish(self._manifest, self._store.sizes())

    def fetch(self, wanted: Wanted, staging: Staging) -> None:
        parts = self._manifest.of(wanted.table) if self._manifest else {}
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

    def load(self, load: Load) -> dict[str, Changes]:
        # What is there before anything is put: what others put meanwhile is not deleted.
        sizes = self._store.sizes()
        held = None if load.rebuild else self._manifest
        parts: list[Part] = []
        changes = {}
        for rows in load.rows:
            update = _Update(
                rows,
                held.of(rows.table) if held else {},
                self._store,
                load.staging.connection,
                load.gone.get(rows.table.name),
                # Files of an earlier version of the tables lack columns.
                is_outdated=bool(held and held.meta.schema_version < SCHEMA_VERSION),
            )
            table_parts, changes[rows.table.name] = update.run()
            parts += table_parts
        before = [each.path for each in self._manifest.parts] if self._manifest else []
        self._publish(Manifest(load.meta, parts, before), sizes)
        return changes

    def _publish(self, manifest: Manifest, sizes: Mapping[str, int]) -> None:
        """Make new parts those that are read, the data package last, and remove what is no longer needed."""
        public, was = _by_published(manifest), _by_published(self._manifest)
        gone = [name for name in sizes if _is_published(name) and name not in public]
        changed = [
            name
            for name, part in public.items()
            if was.get(name) != part or sizes.get(name) != part.bytes or name in self._unsettled
        ]
        # Parts that lose rows come first: who reads by a pattern while a row moves rather misses it than sees it twice.
        changed.sort(key=lambda name: public[name].rows - (was[name].rows if name in was else 0))
        self._unsettled.update(gone, changed)
        self._store.remove(gone)
        for name in changed:
            self._store.publish(public[name].path, name)
        self._store.write(README, _readme(manifest))
        self._store.write_manifest(manifest.as_json())
        self._unsettled.clear()
        kept = {*manifest.before, *(each.path for each in manifest.parts)}
        self._store.remove([name for name in sizes if _is_version(name) and name not in kept])


def _by_published(manifest: Manifest | None) -> dict[str, Part]:
    """Return the parts by their names for those who read by a pattern."""
    tables = all_tables()
    return {published(tables[each.table], each.part): each for each in manifest.parts} if manifest else {}


def _is_version(name: str) -> bool:
    """Tell whether a file is one that exports make, and that never changes."""
    table, _, rest = name.partition("/")
    return table in all_tables() and rest.startswith(f"{VERSIONS}/")


def _is_published(name: str) -> bool:
    """Tell whether a file is one that exports replace."""
    table, _, rest = name.partition("/")
    return table in all_tables() and not rest.startswith(f"{VERSIONS}/") and rest.split("/")[-1] == f"{table}.parquet"


def _rows_of(table: Table, parts: Sequence[Part], store: Store) -> str:
    """Return the query for the rows of parts, with the name of the part of each as `part`."""
    nothing = ", ".join(f"NULL::{each.type} AS {sql.name(each.name)}" for each in table.columns)
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
        gone: str | None = None,
        *,
        is_outdated: bool = False,
    ) -> None:
        self._rows, self._table = rows, rows.table
        # A table without rows is a file without rows, which goes when some come.
        self._parts = {name: part for name, part in parts.items() if part.rows}
        self._empty = next((part for part in parts.values() if not part.rows), None)
        self._store, self._connection = store, connection
        self._gone, self._is_outdated = gone, is_outdated

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
        if not self._parts:
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
        # A name is not used again: an export that still has to delete an old file must not delete a new one.
        name = f"{self._table.name}/{VERSIONS}/{part or _WHOLE}-{digest[:16]}-{secrets.token_hex(4)}"
        size, keys = path.stat().st_size, self._keys(path)
        self._store.put(path, name)
        return Part(self._table.name, part, name, count, size, digest, keys)

    def _keys(self, path: Path) -> tuple[int, int] | None:
        """Return the least and the greatest key in a file, if it has any and they are numbers."""
        key = next(each for each in self._table.columns if each.name == self._table.key[0])
        if key.type != "BIGINT":
            return None
        query = (
            f"SELECT min({sql.name(key.name)}), max({sql.name(key.name)}) FROM read_parquet({sql.literal(str(path))})"
        )
        ((least, greatest),) = self._query(query)
        return None if least is None else (least, greatest)

    def _run(self, statement: str) -> None:
        self._connection.execute(statement)

    def _query(self, statement: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement).fetchall()


def _readme(manifest: Manifest) -> bytes:
    """Return a text for people who come across the folder."""
    rows: dict[str, int] = {}
    for part in manifest.parts:
        rows[part.table] = rows.get(part.table, 0) + part.rows
    tables = all_tables()
    listed = "\n".join(f"| `{name}` | {count:,} | {tables[name].description} |" for name, count in sorted(rows.items()))
    source = "Made-up data of a mock server." if manifest.meta.source == "mock" else "Data of parti.com."
    return _README.format(exported_at=manifest.meta.exported_at, source=source, tables=listed).encode()


_README = """# Livestreams of parti.com

Made by `scrapy export` of parti_scraper, {exported_at}. {source}

| table | rows | one row is |
| --- | --- | --- |
{tables}

Every table is Parquet; times are UTC. `datapackage.json` describes each file and column. To read a table:

- `duckdb.sql("SELECT * FROM read_parquet('livestreams/**/*.parquet', hive_partitioning=false)")`
- `pandas.read_parquet("livestreams")`, `polars.read_parquet("livestreams/**/*.parquet")`

Files named in `datapackage.json` never change: read those if an export may be going on meanwhile.
"""
