"""A folder, or a place in an object store, with every table as Parquet.

Each part of a table is there twice, as one file with two names:

- `<table>/_versions/<part>-<hash>` never changes. `datapackage.json`, which is written last, names these, so who reads
  through it sees one export or the next, never something between. They are kept until the export after next.
- `<table>/month=2026-11/<table>.parquet` is replaced in one step when the part changes, for those who read by a pattern
  such as `livestreams/**/*.parquet`: no row is there twice.

Names that begin with `_` are passed over by Arrow, Spark and others that read a folder as a table.
"""

from __future__ import annotations

import json
import secrets
import uuid
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from parti_scraper.dataset.tables import Table, all_tables
from parti_scraper.dataset.targets.base import Meta
from parti_scraper.dataset.targets.parts import README, Content, Part, PartsSession, PartsTarget
from parti_scraper.exceptions import UsageError
from parti_scraper.run.datapackage import FILE_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from parti_scraper.dataset.targets.base import Changes, Load
    from parti_scraper.dataset.targets.parts import Store, Written

VERSIONS = "_versions"
_WHOLE = "all"
_MEDIA_TYPE = "application/vnd.apache.parquet"
_TYPES = {"BIGINT": "integer", "BOOLEAN": "boolean", "DOUBLE": "number", "TIMESTAMPTZ": "datetime", "VARCHAR": "string"}


@dataclass(slots=True)
class Manifest(Content):
    """What a data package says of an export.

    Attributes:
        before: files that the data package before it named.
    """

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


class FolderTarget(PartsTarget):
    """A folder, or a place in an object store."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._unsettled: set[str] = set()

    def _session(self) -> _Session:
        return _Session(self._store, self._unsettled)


class _Session(PartsSession[Manifest]):
    """A folder that is open.

    Args:
        store: where it is.
        unsettled: published names that were written without the data package, because another export was faster: what
            they are now is not known. Shared with the sessions after this one.
    """

    keeps_empty = True

    def __init__(self, store: Store, unsettled: set[str]) -> None:
        body = store.read_manifest()
        super().__init__(store, None if body is None else Manifest.read(body, store.shown))
        self._unsettled = unsettled

    def settle(self) -> None:
        """If nothing was loaded, publish what the data package names in place of what was published in vain.

        The data package is written too, though nothing in it is new: so an export that goes on at the same time
        cannot take its place without having seen this one.
        """
        if self._unsettled and self._content:
            self._publish(self._content, self._store.sizes())

    def load(self, load: Load) -> dict[str, Changes]:
        # What is there before anything is put: what others put meanwhile is not deleted.
        sizes = self._store.sizes()
        parts, changes = self._update(load)
        before = [each.path for each in self._content.parts] if self._content else []
        self._publish(Manifest(load.meta, parts, before), sizes)
        return changes

    def _describe(self, written: Written) -> Part:
        # A name is not used again: an export that still has to delete an old file must not delete a new one.
        label = f"{written.part or _WHOLE}-{written.sha256[:16]}-{secrets.token_hex(4)}"
        return Part(
            written.table.name,
            written.part,
            f"{written.table.name}/{VERSIONS}/{label}",
            written.rows,
            written.path.stat().st_size,
            written.sha256,
            written.keys,
        )

    def _publish(self, manifest: Manifest, sizes: Mapping[str, int]) -> None:
        """Make new parts those that are read, the data package last, and remove what is no longer needed."""
        public, was = _by_published(manifest), _by_published(self._content)
        gone = [name for name in sizes if is_published(name) and name not in public]
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


def is_published(name: str) -> bool:
    """Tell whether a file is one that exports replace."""
    table, _, rest = name.partition("/")
    return table in all_tables() and not rest.startswith(f"{VERSIONS}/") and rest.split("/")[-1] == f"{table}.parquet"


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
