"""A reader of the dataset's folder, as docs/data.md has it: by the data package, also while an export goes on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

_TABLES = {
    "livestreams": ("event_id",),
    "live_notifications": ("event_id",),
    "live_channels": ("run_uuid", "snapshot_id", "user_id", "event_id"),
}


@dataclass
class Reader:
    """Reads the folder again and again, and compares what it sees with what it saw.

    Attributes:
        reads: how often it has.
        lost, doubled: rows that it saw no more, or twice.
    """

    reads: int = 0
    lost: int = 0
    doubled: int = 0
    _seen: dict[str, set[int]] = field(default_factory=dict)

    def read(self, folder: Path) -> None:
        """Read every table that grows; before the first export there is none."""
        if not (folder / "datapackage.json").exists():
            return
        self.reads += 1
        with duckdb.connect(":memory:") as connection:
            for table, relation in _relations(folder).items():
                query = f"SELECT hash({', '.join(_TABLES[table])}) FROM {relation}"
                held = [key for (key,) in connection.execute(query).fetchall()]
                keys = set(held)
                self.doubled += len(held) - len(keys)
                self.lost += len(self._seen.get(table, set()) - keys)
                self._seen[table] = keys

    @staticmethod
    def newest(folder: Path, table: str, column: str) -> float:
        """Return the latest time in a column, in Unix seconds."""
        with duckdb.connect(":memory:") as connection:
            found = connection.execute(f'SELECT max(epoch("{column}")) FROM {_relations(folder)[table]}').fetchone()
        return float(found[0]) if found and found[0] is not None else 0.0


def _relations(folder: Path) -> dict[str, str]:
    """Return what the tables are read from, by their names."""
    package = json.loads((folder / "datapackage.json").read_text(encoding="utf-8"))
    relations = {}
    for table in _TABLES:
        paths = [f"'{folder / each['path']}'" for each in package["resources"] if each["table"] == table]
        if paths:
            relations[table] = f"read_parquet([{', '.join(paths)}], hive_partitioning = false)"
    return relations
