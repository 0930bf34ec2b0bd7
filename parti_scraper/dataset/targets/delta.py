"""A folder, or a place in S3, with every table as a Delta table.

A Delta table has commits of its own, but an export changes many tables. So it first puts all files, and then writes
`export.json`, which names those of every table: that is the one step by which an export happens. Only then the logs of
the tables are brought to what it says. Whoever comes next does that for an export that was killed in between.

Nothing is locked in S3. The manifest is written on the condition that it is still the one that was read; where another
export was faster, this one begins again. A log is changed on the condition that it is still as it was read, and only if
the manifest was the newest one after that. So no log goes back to what an earlier manifest says.

Files that were replaced stay for a week, and with them the versions that had them.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parti_scraper.api.times import iso_to_timestamp, timestamp_to_iso
from parti_scraper.dataset import sql
from parti_scraper.dataset.engine import TargetError, connect, require
from parti_scraper.dataset.tables import Column, Table, all_tables
from parti_scraper.dataset.targets.base import Meta, Outdated
from parti_scraper.dataset.targets.local_folder import LocalFolder
from parti_scraper.dataset.targets.object_store import ObjectStore
from parti_scraper.dataset.targets.parts import Content, Part, PartsSession, PartsTarget
from parti_scraper.exceptions import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from parti_scraper.dataset.targets.base import Changes, Load
    from parti_scraper.dataset.targets.parts import Store, Written

PREFIX = "delta+"
ACCEPTED = f"{PREFIX}FOLDER/, {PREFIX}s3://BUCKET/PREFIX/"
FILE_NAME = "export.json"
RETENTION = timedelta(days=7)
# What belongs together, for readers who want one export and not the newest state of each table.
STATE = Table(
    "export_state",
    "A table as the last export has left it.",
    (
        Column("name", "VARCHAR", "The name of the table."),
        Column("version", "BIGINT", "The version of the Delta table."),
        Column("rows", "BIGINT", "How many rows it has."),
        Column("exported_at", "TIMESTAMPTZ", "When the export was."),
        Column("source", "VARCHAR", "Where its data come from: `parti.com` or `mock`."),
        Column("selection", "VARCHAR", "What of the dataset it holds, JSON; `{}`: everything.", is_json=True),
        Column("project_version", "VARCHAR", "The version of this project."),
        Column("schema_version", "BIGINT", "The version of the tables."),
    ),
    ("name",),
    "",
)
_LOG = "_delta_log"
_TYPES = {
    "BIGINT": "long",
    "BOOLEAN": "boolean",
    "DOUBLE": "double",
    "TIMESTAMPTZ": "timestamp",
    "VARCHAR": "string",
}
# Of these, the log says what is least and greatest in a file.
_COUNTED = ("BIGINT", "TIMESTAMPTZ")
_WEEK = f"interval {RETENTION.days} days"
_PROPERTIES = {
    "delta.checkpointInterval": "10",
    "delta.deletedFileRetentionDuration": _WEEK,
    "delta.logRetentionDuration": _WEEK,
}
# Other programs read it as this character.
_ESCAPED = re.compile(r"%[0-9A-Fa-f]{2}")
_PANIC = "PanicException"


def is_delta(text: str) -> bool:
    """Tell whether what was typed means Delta tables."""
    return text.startswith(PREFIX)


def store_of(text: str, scratch: Path | None = None) -> Store:
    """Return the place of Delta tables that was typed. Raises UsageError.

    Args:
        text: such as `delta+data/`.
        scratch: a folder for temporary files of places elsewhere; None: the system's.
    """
    place = text.removeprefix(PREFIX)
    if place.startswith("s3://") and not _ESCAPED.search(place):
        return ObjectStore(place, scratch, FILE_NAME)
    is_folder = "://" not in place and place and (place.endswith("/") or Path(place).is_dir())
    if is_folder and not _ESCAPED.search(str(Path(place).resolve())):
        return LocalFolder(Path(place), FILE_NAME)
    raise UsageError.of("argument", "TARGET", "not a place of Delta tables", text, ACCEPTED)


@dataclass(slots=True, kw_only=True)
class Manifest(Content):
    """What `export.json` says.

    Attributes:
        id: tells it from others.
        tables: the names of the tables that are held, also of those without rows.
        emptied: the names of tables that earlier exports have made, and that are not held.
        removed: files that are not needed any more but for earlier versions, and since when.
    """

    id: str
    tables: list[str]
    emptied: list[str]
    removed: dict[str, str]

    @classmethod
    def read(cls, body: bytes, shown: str) -> Manifest:
        """Do the reverse of `as_json`. Raises UsageError if it is not ours, or of a later version."""
        try:
            values = json.loads(body)
            meta = Meta.from_json(json.dumps(values.pop("export")), shown)
            parts = [Part(**each | {"keys": each["keys"] and tuple(each["keys"])}) for each in values.pop("parts")]
            return cls(meta=meta, parts=parts, **values)
        except UsageError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError):
            accepted = "an empty folder, or an earlier export"
            raise UsageError(f"{shown}{FILE_NAME} is none of this project's exports (accepted: {accepted})") from None

    def as_json(self) -> bytes:
        """Return it as a text."""
        values = {
            "id": self.id,
            "export": asdict(self.meta),
            "tables": self.tables,
            "emptied": self.emptied,
            "removed": self.removed,
            "parts": [asdict(part) for part in self.parts],
        }
        return json.dumps(values, ensure_ascii=False, indent=1).encode() + b"\n"

    @classmethod
    def after(cls, before: Manifest | None, meta: Meta, parts: list[Part], tables: list[str]) -> Manifest:
        """Return the one that takes the place of another, if there is one."""
        manifest = cls(meta=meta, parts=parts, id=secrets.token_hex(16), tables=tables, emptied=[], removed={})
        if before is not None:
            until = timestamp_to_iso(iso_to_timestamp(meta.exported_at) - int(RETENTION.total_seconds()))
            kept = {each.path for each in parts}
            gone = [before.state_files, *(each.path for each in before.parts if each.path not in kept)]
            manifest.removed = {path: since for path, since in before.removed.items() if since > until}
            manifest.removed |= dict.fromkeys(gone, meta.exported_at)
            manifest.emptied = sorted({*before.tables, *before.emptied} - {*tables})
        return manifest

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.tables)

    @property
    def state_files(self) -> str:
        """How the names of the files of `STATE` begin that this export has made."""
        return f"{STATE.name}/{self.id}"

    def unneeded(self, names: Iterable[str]) -> list[str]:
        """Return which of the files that exports have put here are neither needed now, nor for earlier versions."""
        needed = {self.state_files, *self.removed, *(each.path for each in self.parts)}
        return [each for each in names if _is_data(each) and needed.isdisjoint({each, each.rpartition("-")[0]})]


class DeltaTarget(PartsTarget):
    """Delta tables in a folder, or in a place in S3."""

    def __init__(self, store: Store) -> None:
        """Prepare. Raises ExtraMissing."""
        require("deltalake", "delta")
        super().__init__(store)
        self.shown = f"{PREFIX}{store.shown}"

    def _session(self) -> _Session:
        return _Session(self._store)


class _Session(PartsSession[Manifest]):
    """A place that is open."""

    keeps_empty = False

    def __init__(self, store: Store) -> None:
        super().__init__(store, _read(store))

    def load(self, load: Load) -> dict[str, Changes]:
        # What is there before anything is put: what others put meanwhile is not deleted.
        sizes = self._store.sizes()
        if self._content is None:
            _check_new(sizes, self._store.shown)
        parts, changes = self._update(load)
        manifest = Manifest.after(self._content, load.meta, parts, [rows.table.name for rows in load.rows])
        self._store.write_manifest(manifest.as_json())
        self._content = manifest
        self.settle()
        self._store.remove(manifest.unneeded(sizes))
        return changes

    def settle(self) -> None:
        """Bring the logs of the tables to what the newest manifest says."""
        while self._content and not self._is_settled(self._content):
            self._bring_logs(self._content)

    def _is_settled(self, manifest: Manifest) -> bool:
        """Tell whether it is noted that the logs are as the manifest says."""
        files = _Log(STATE, self._store).files()
        return any(f"{STATE.name}/{each}".startswith(manifest.state_files) for each in files)

    def _bring_logs(self, manifest: Manifest) -> None:
        """Bring all logs to what a manifest says, and note that, unless it is not the newest any more."""
        tables, versions = all_tables(), {}
        for name in (*manifest.tables, *manifest.emptied):
            parts = manifest.of(tables[name]).values() if name in manifest.tables else ()
            versions[name] = self._bring(_Log(tables[name], self._store), list(parts), manifest)
            if versions[name] is None:
                return
        state = self._write_state(manifest, versions)
        self._bring(_Log(STATE, self._store), [state], manifest)

    def _bring(self, log: _Log, parts: Sequence[Part], manifest: Manifest) -> int | None:
        """Let a table have these files; return its version, or None if there is a newer manifest."""
        return log.bring(parts, f"export of {manifest.meta.exported_at}", lambda: self._is_newest(manifest))

    def _is_newest(self, manifest: Manifest) -> bool:
        """Tell whether a manifest is the newest one, and take that which is."""
        newest = _read(self._store)
        if newest is None:
            raise Outdated(f"{self._store.shown}: {FILE_NAME} was deleted; run it again")
        if newest.id != manifest.id:
            self._content = newest
        return newest.id == manifest.id

    def _write_state(self, manifest: Manifest, versions: Mapping[str, int | None]) -> Part:
        """Put the file of `STATE`."""
        meta, tables = manifest.meta, all_tables()
        selection = json.dumps(meta.selection, ensure_ascii=False)
        rows = [
            (
                name,
                versions[name],
                sum(each.rows for each in manifest.of(tables[name]).values()),
                meta.exported_at,
                meta.source,
                selection,
                meta.project_version,
                meta.schema_version,
            )
            for name in manifest.tables
        ]
        path = self._store.scratch() / "state.parquet"
        with connect() as connection:
            connection.execute(f"CREATE TABLE state ({sql.typed(STATE.columns)})")
            connection.executemany(f"INSERT INTO state VALUES ({', '.join('?' * len(STATE.columns))})", rows)
            connection.execute(f"COPY state TO {sql.literal(str(path))} (FORMAT parquet, COMPRESSION zstd)")
        name = f"{manifest.state_files}-{secrets.token_hex(4)}.parquet"
        size = path.stat().st_size
        self._store.put(path, name)
        return Part(STATE.name, "", name, len(rows), size, "", stats=json.dumps({"numRecords": len(rows)}))

    def _describe(self, written: Written) -> Part:
        table, part = written.table, written.part
        folder = f"{table.name}/{table.partition}={part}" if table.partition else table.name
        return Part(
            table.name,
            part,
            # A name is not used again: an export that still has to delete an old file must not delete a new one.
            f"{folder}/{written.sha256[:16]}-{secrets.token_hex(4)}.parquet",
            written.rows,
            written.path.stat().st_size,
            written.sha256,
            written.keys,
            _stats(written),
        )


@dataclass(frozen=True, slots=True)
class _State:
    """A Delta table as it was read.

    Attributes:
        delta: the table; None: there is none.
        version: its version.
        files: the names of its files in its folder, and the size and the part of each.
        lacks: the columns that it does not have, because an earlier version of this project has made it.
    """

    delta: Any
    version: int = -1
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    lacks: Sequence[Any] = ()


class _Log:
    """The log of a Delta table."""

    def __init__(self, table: Table, store: Store) -> None:
        self._table, self._store = table, store
        self._uri, self._options = f"{store.uri}/{table.name}", dict(store.options)
        self._by = [str(table.partition)] if table.partition else []

    def files(self) -> set[str]:
        """Return the names of the files that the table has, in its folder."""
        return {*self._read().files}

    def bring(self, parts: Sequence[Part], note: str, is_newest: Callable[[], bool]) -> int | None:
        """Let the table have the files of these parts, and make it if it does not exist.

        Args:
            parts: of the table.
            note: is shown in the history of the table.
            is_newest: tells whether these are still the parts of the newest manifest.

        Returns:
            The version of the table; None if there is a newer manifest.
        """
        wanted = {each.path.removeprefix(f"{self._table.name}/"): each for each in parts}
        failed: tuple[int, Exception] | None = None
        while True:
            known = self._read()
            if failed and failed[0] == known.version:
                raise TargetError(f"{self._store.shown}: {self._store.reason(failed[1])}")
            if known.delta is not None and known.files.keys() == wanted.keys() and not known.lacks:
                return known.version
            if not is_newest():
                return None
            try:
                self._commit(known, wanted, note)
            except require("deltalake.exceptions", "delta").DeltaError as error:
                # Another export was faster, or else it says what is wrong.
                failed = known.version, error

    def _read(self) -> _State:
        """Return the table as it is now."""
        deltalake, errors = require("deltalake", "delta"), require("deltalake.exceptions", "delta")
        with self._told():
            try:
                delta = deltalake.DeltaTable(self._uri, storage_options=self._options)
            except errors.TableNotFoundError:
                return _State(None)
            names = {each.name for each in delta.schema().fields}
            lacks = [each for each in self._schema().fields if each.name not in names]
            return _State(delta, delta.version(), _files(delta), lacks)

    def _commit(self, known: _State, wanted: Mapping[str, Part], note: str) -> None:
        """Make one commit, unless the log has changed since it was read. Raises DeltaError."""
        transaction = require("deltalake.transaction", "delta")
        properties = transaction.CommitProperties(max_commit_retries=0, custom_metadata={"userMetadata": note})
        now = int(time.time() * 1_000)
        added = [
            transaction.AddAction(path, each.bytes, self._values(each.part), now, True, each.stats)
            for path, each in wanted.items()
            if path not in known.files
        ]
        removed = [
            transaction.RemoveAction(path, True, now, size, self._values(part))
            for path, (size, part) in known.files.items()
            if path not in wanted
        ]
        with self._told(passes=True):
            if known.delta is None:
                transaction.create_table_with_add_actions(
                    self._uri,
                    self._schema(),
                    added,
                    partition_by=self._by,
                    name=self._table.name,
                    description=self._table.description,
                    configuration=_PROPERTIES,
                    storage_options=self._options,
                    commit_properties=properties,
                )
            elif known.lacks:
                known.delta.alter.add_columns(known.lacks, commit_properties=properties)
            else:
                known.delta.create_write_transaction(
                    [*added, *removed], "append", known.delta.schema(), self._by, commit_properties=properties
                )

    def _values(self, part: str) -> dict[str, str]:
        return dict.fromkeys(self._by, part)

    def _schema(self) -> Any:
        """Return the columns as Delta has them; that of the parts is last, and not in the files."""
        schema = require("deltalake.schema", "delta")
        columns = [(each.name, _TYPES[each.type], each.description) for each in self._table.columns]
        columns += [(each, "string", "What the files of the table are cut by.") for each in self._by]
        return schema.Schema(
            [
                schema.Field(name, schema.PrimitiveType(kind), metadata={"comment": description})
                for name, kind, description in columns
            ]
        )

    @contextmanager
    def _told(self, *, passes: bool = False) -> Iterator[None]:
        """Say in one line what is wrong; `passes`: other than what Delta itself says, by DeltaError."""
        errors = require("deltalake.exceptions", "delta")
        try:
            yield
        except errors.TableNotFoundError:
            raise
        except (errors.DeltaError, OSError) as error:
            if passes and isinstance(error, errors.DeltaError):
                raise
            raise TargetError(f"{self._store.shown}: {self._store.reason(error)}") from None
        except BaseException as error:
            # It does not derive from Exception, and has no public name.
            if type(error).__name__ != _PANIC:
                raise
            raise TargetError(f"{self._store.shown}: deltalake has failed") from None


def _read(store: Store) -> Manifest | None:
    body = store.read_manifest()
    return None if body is None else Manifest.read(body, store.shown)


def _files(delta: Any) -> dict[str, tuple[int, str]]:
    """Return the files of a table; see `_State`."""
    actions = delta.get_add_actions(flatten=True)
    paths, sizes = (actions.column(name).to_pylist() for name in ("path", "size_bytes"))
    by = [f"partition.{each}" for each in delta.metadata().partition_columns]
    parts = actions.column(by[0]).to_pylist() if by else [""] * len(paths)
    return {path: (size, part) for path, size, part in zip(paths, sizes, parts, strict=True)}


def _check_new(names: Iterable[str], shown: str) -> None:
    """Raise UsageError if a table is there that no export has made."""
    for name in names:
        table, _, rest = name.partition("/")
        if rest.startswith(f"{_LOG}/"):
            raise UsageError(f"{shown} has a table `{table}` that no export has made (accepted: another target)")


def _is_data(name: str) -> bool:
    """Tell whether a file is one that exports make, and that never changes."""
    table, _, rest = name.partition("/")
    return (table in all_tables() or table == STATE.name) and rest.endswith(".parquet") and not rest.startswith(_LOG)


def _stats(written: Written) -> str:
    """Return what the log says of a file: so readers pass over those that have nothing for them."""
    kinds = {each.name: each.type for each in written.table.columns}
    names = [name for name in written.table.sorting if kinds[name] in _COUNTED]
    values = ", ".join(
        f"{_as_json(f'min({sql.name(name)})', kinds[name], 0)}, "
        # Of times, the log has milliseconds: one that is cut off would be too small.
        f"{_as_json(f'max({sql.name(name)})', kinds[name], 999)}, "
        f"count(*) - count({sql.name(name)})"
        for name in names
    )
    (row,) = written.query(values) if names else [()]
    found = {name: row[3 * number : 3 * number + 3] for number, name in enumerate(names)}
    stats = {
        "numRecords": written.rows,
        "minValues": {name: least for name, (least, _, _) in found.items() if least is not None},
        "maxValues": {name: greatest for name, (_, greatest, _) in found.items() if greatest is not None},
        "nullCount": {name: nulls for name, (_, _, nulls) in found.items()},
    }
    return json.dumps(stats)


def _as_json(value: str, kind: str, more: int) -> str:
    """Return the expression for a value in the log; to times, so many microseconds are added."""
    if kind != "TIMESTAMPTZ":
        return value
    return f"strftime({value} + INTERVAL {more} MICROSECOND, '%Y-%m-%dT%H:%M:%S.%gZ')"
