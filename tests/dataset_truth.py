"""What a dataset is to hold, worked out in plain Python from the folders of runs, and what a target holds.

Nothing of the package is used, so that a misunderstanding in either of them shows.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import duckdb
import polars as pl

Row = dict[str, Any]

# How the names of folders with Delta tables end, in tests.
DELTA = ".delta"

COLLECTIONS = {
    "categories": "categories",
    "live": "live_channels",
    "notifications": "live_notifications",
    "recent": "livestreams",
    "scheduled": "scheduled_livestreams",
    "site": "api_calls",
}
# What tells the rows of a table apart.
KEYS: dict[str, tuple[str, ...]] = {
    "categories": ("category_id",),
    "livestreams": ("event_id",),
    # With the same times, they are in the order of their content.
    "livestream_versions": ("event_id", "first_scraped_at", "last_scraped_at"),
    "live_channels": ("run_uuid", "snapshot_id", "user_id", "event_id"),
    "live_notifications": ("event_id",),
    "scheduled_livestreams": ("event_id",),
    "quarantine": ("run_uuid", "file", "line"),
    "api_calls": ("run_uuid", "file", "line"),
}
TABLES = tuple(KEYS)
# Of tables that follow from others; `livestreams` has columns that do.
DERIVED_KEYS: dict[str, tuple[str, ...]] = {
    "livestreams": ("event_id",),
    "runs": ("run_uuid", "day"),
    "snapshots": ("run_uuid", "snapshot_id"),
    "streams": ("event_id",),
    "channels": ("user_id",),
    "hours": ("hour", "category_id"),
    "coverage": ("collection", "filters", "run_uuid", "since"),
}
DERIVED = tuple(DERIVED_KEYS)
_LATEST_FORMAT = 2
_JSON = ("extra", "record", "arguments", "degraded", "unknown_fields", "unreadable_fields", "filters", "names")
_TRUTHS = ("has_access_pass", "known", "complete", "truncated", "continues", "is_over", "knows_missing", "is_noted")
_TIMES = (
    "event_start",
    "event_end",
    "missing_since",
    "proved_since",
    "proved_until",
    "as_of",
    "hour",
    "since",
    "until",
)
# Columns of `livestreams` that `Truth` does not work out.
_DELETION = ("last_confirmed_at", "missing_since")
# What Delta tables are cut by.
_PARTS = ("month", "date")
_SECONDS = "%Y-%m-%dT%H:%M:%SZ"


# --- What runs have left -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """A file of records: those that count."""

    folder: Path
    run_uuid: str
    name: str
    records: str
    source: str
    is_described: bool
    is_finished: bool
    size: int
    rows: list[Row]


class _Damaged(Exception):  # noqa: N818 - it is what is found
    pass


@dataclass
class Truth:
    """What the exports so far are to have brought into a target.

    What an export has seen stays, even if it is gone later. Only what belongs to one run is replaced by what the run
    has instead.

    Attributes:
        left_out: folders of runs and days that were found damaged the last time.
    """

    left_out: set[Path] = field(default_factory=set)
    _seen: dict[str, dict[bytes, Row]] = field(default_factory=dict)
    _of_runs: dict[tuple[str, str], tuple[str, list[Row]]] = field(default_factory=dict)
    _sizes: dict[tuple[str, str], int] = field(default_factory=dict)

    def see(self, *outputs: Path, state: Path | None = None, source: str | None = None) -> Truth:
        """Look at folders of runs, and return itself.

        Args:
            outputs: each a PARTI_OUTPUT_DIR.
            state: PARTI_STATE_DIR, which has the checkpoints of unfinished runs.
            source: `mock` or `parti.com`; None: what there is, real data if there are both.
        """
        noted = _checkpoints(state)
        self.left_out.clear()
        files = [file for output in outputs for file in self._files(output, noted)]
        sources = {file.source for file in files}
        taken = source or ("parti.com" if "parti.com" in sources else "mock")
        for file in _best(each for each in files if each.source == taken):
            key = (file.run_uuid, file.name)
            if not file.is_described and file.size <= self._sizes.get(key, 0):
                # It may be a copy that was made before.
                continue
            self._sizes[key] = file.size
            lines = {json.dumps(row).encode(): row for row in file.rows}
            self._seen.setdefault(file.records, {}).update(lines)
            if file.records in {"live_channels", "quarantine", "api_calls"}:
                self._of_runs[key] = (file.records, file.rows)
        return self

    def tables(self) -> dict[str, list[Row]]:
        """Return the rows of every table, sorted by key."""
        tables = {
            "categories": _newest(self._rows("categories"), "category_id"),
            "livestreams": _livestreams(self._rows("livestreams")),
            "livestream_versions": _versions(self._rows("livestreams")),
            "live_channels": [row | {"run_uuid": uuid} for uuid, _, _, row in self._lines("live_channels")],
            "live_notifications": _first(self._rows("live_notifications"), "event_id"),
            "scheduled_livestreams": _newest(self._rows("scheduled_livestreams"), "event_id"),
            "quarantine": self._by_line("quarantine"),
            "api_calls": self._by_line("api_calls"),
        }
        return {name: in_order(name, rows) for name, rows in tables.items()}

    def every(self) -> dict[str, list[Row]]:
        """Return every record that was seen, by what it is; those that are the same once."""
        return {records: self._rows(records) for records in (*COLLECTIONS.values(), "quarantine")}

    def ties(self) -> set[int]:
        """Return the livestreams whose newest versions are of the same second."""
        groups = _by(self._rows("livestreams"), lambda row: row["event_id"])
        newest = {each: max(row["scraped_at"] for row in rows) for each, rows in groups.items()}
        return {each for each, rows in groups.items() if [row["scraped_at"] for row in rows].count(newest[each]) > 1}

    def _rows(self, records: str) -> list[Row]:
        return list(self._seen.get(records, {}).values())

    def _lines(self, records: str) -> Iterator[tuple[str, str, int, Row]]:
        """Yield run, file, number of the line, and what it says."""
        for (run_uuid, name), (kind, rows) in self._of_runs.items():
            if kind == records:
                yield from ((run_uuid, name, number, row) for number, row in enumerate(rows, 1))

    def _by_line(self, records: str) -> list[Row]:
        return [
            row | {"run_uuid": run_uuid, "file": name, "line": number}
            for run_uuid, name, number, row in self._lines(records)
        ]

    # Folders:

    def _files(self, output: Path, noted: Mapping[Path, Mapping[str, list[int]]]) -> Iterator[_File]:
        for spider in COLLECTIONS:
            runs = sorted((output / spider).iterdir()) if (output / spider).is_dir() else []
            for run in filter(Path.is_dir, runs):
                days = sorted(each for each in run.iterdir() if each.is_dir())
                for folder in (run, *days):
                    yield from self._files_of(folder, run, noted.get(run.absolute(), {}))

    def _files_of(self, folder: Path, run: Path, noted: Mapping[str, list[int]]) -> Iterator[_File]:
        """Yield the files of a run, or of a day of one, unless one of them is damaged."""
        path = folder / "datapackage.json"
        try:
            if path.exists():
                yield from list(_described(folder, run, _package(path, run)))
            else:
                yield from list(_unfinished(folder, run, noted))
        except _Damaged:
            self.left_out.add(folder)


def _package(path: Path, run: Path) -> Row:
    try:
        package = json.loads(path.read_bytes())
        is_known = package.get("format_version", 1) <= _LATEST_FORMAT and package["spider"] == run.parent.name
    except (ValueError, LookupError, AttributeError):
        is_known = False
    if not is_known:
        raise _Damaged(path)
    return dict(package)


def _described(folder: Path, run: Path, package: Row) -> Iterator[_File]:
    """Yield the files that a data package describes. Raises _Damaged."""
    for resource in [] if package.get("pruned") else package["resources"]:
        records = _records_of(resource["path"], run)
        if records is None or not resource["bytes"]:
            continue
        path = folder / resource["path"]
        # After a clock was set back, a day that is over may come again, and have more than was described.
        content = path.read_bytes()[: resource["bytes"]] if path.exists() else b""
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != resource["hash"]:
            raise _Damaged(path)
        rows = _parsed(content)
        if len(rows) != resource["rows"]:
            raise _Damaged(path)
        name = path.relative_to(run).as_posix()
        is_finished = not package.get("sealed")
        # The first format says neither who the run is nor where its data come from.
        uuid = package.get("run_uuid") or _old_uuid(package)
        source = package.get("source") or _source_of(package["host"])
        yield _File(folder, uuid, name, records, source, True, is_finished, len(content), rows)


def _old_uuid(package: Row) -> str:
    name = f"parti:{package['spider']}/{package['run_id']}/{package['created']}"
    return str(uuid5(NAMESPACE_URL, name))


def _unfinished(folder: Path, run: Path, noted: Mapping[str, Any]) -> Iterator[_File]:
    """Yield the files of a run without a data package, up to its last checkpoint. Raises _Damaged."""
    for path in sorted(folder.glob("*.jsonl")):
        name, records = path.relative_to(run).as_posix(), _records_of(path.name, run)
        size, _ = noted.get(name, (0, 0))
        if records and size:
            rows = _parsed(path.read_bytes()[:size])
            yield _File(folder, noted["run_uuid"], name, records, noted["source"], False, False, size, rows)


def _records_of(name: str, run: Path) -> str | None:
    """Return what is in a file; None for what is no file of records in JSON Lines, or belongs to a day."""
    collection = COLLECTIONS[run.parent.name]
    if name == "quarantine.jsonl":
        return "quarantine"
    is_ours = name.startswith(f"{collection}.") or name == "recovered.jsonl"
    return collection if is_ours and name.endswith(".jsonl") and "/" not in name else None


def _parsed(content: bytes) -> list[Row]:
    try:
        return [json.loads(line) for line in content.split(b"\n") if line]
    except ValueError as error:
        raise _Damaged(error) from None


def _checkpoints(state: Path | None) -> dict[Path, dict[str, Any]]:
    """Return the sizes and rows of the files of unfinished runs, and who they are, by their folders."""
    if state is None or not (state / "ledger.sqlite").exists():
        return {}
    with closing(sqlite3.connect(state / "ledger.sqlite")) as connection:
        query = "SELECT folder, run_uuid, files, progress, host FROM run WHERE progress IS NOT NULL"
        rows = connection.execute(query).fetchall()
    noted: dict[Path, dict[str, Any]] = {}
    for folder, run_uuid, files, progress, host in rows:
        kind = (json.loads(progress).get("source") or {}).get("kind")
        noted[Path(folder)] = json.loads(files) | {"run_uuid": run_uuid, "source": kind or _source_of(host)}
    return noted


def _source_of(host: str | None) -> str:
    return "mock" if host and "127.0.0.1" in host else "parti.com"


def _best(files: Iterable[_File]) -> list[_File]:
    """Return each file once: of copies that which is finished, or else has come furthest."""
    best: dict[tuple[str, str], _File] = {}
    for file in files:
        key = (file.run_uuid, file.name)
        if key not in best or (file.is_finished, file.size) > (best[key].is_finished, best[key].size):
            best[key] = file
    return list(best.values())


# --- Which rows a table has --------------------------------------------------------------------------------------


def _by(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _newest(rows: Iterable[Row], key: str) -> list[Row]:
    return [max(group, key=lambda row: row["scraped_at"]) for group in _by(rows, lambda row: row[key]).values()]


def _first(rows: Iterable[Row], key: str) -> list[Row]:
    return [min(group, key=lambda row: row["received_at"]) for group in _by(rows, lambda row: row[key]).values()]


def _livestreams(rows: list[Row]) -> list[Row]:
    first = {
        event_id: min(row["scraped_at"] for row in group)
        for event_id, group in _by(rows, lambda row: row["event_id"]).items()
    }
    return [row | {"first_scraped_at": first[row["event_id"]]} for row in _newest(rows, "event_id")]


def _versions(rows: list[Row]) -> list[Row]:
    versions = []
    for group in _by(rows, lambda row: json.dumps(row | {"scraped_at": None})).values():
        times = {each["scraped_at"] for each in group}
        fields = {name: value for name, value in group[0].items() if name != "scraped_at"}
        versions.append(fields | {"first_scraped_at": min(times), "last_scraped_at": max(times)})
    return versions


def in_order(table: str, rows: Iterable[Row]) -> list[Row]:
    """Return rows sorted by the key of their table, and their columns by name."""
    sorted_columns = ({name: row[name] for name in sorted(row)} for row in rows)
    key = KEYS.get(table) or DERIVED_KEYS[table]
    return sorted(sorted_columns, key=lambda row: ([str(row[name]).zfill(20) for name in key], json.dumps(row)))


def rounded(row: Row) -> Row:
    """Return a row with nine digits of its fractions: sums of them depend on the order in which they are added."""
    return {name: float(f"{value:.9g}") if isinstance(value, float) else value for name, value in row.items()}


# --- What a target holds -----------------------------------------------------------------------------------------


def tables_of(target: Path | str, tables: Iterable[str] = TABLES) -> dict[str, list[Row]]:
    """Return the rows of tables of a target, as those of `Truth`; the column that tells versions apart is left out.

    Args:
        target: a folder, one with Delta tables whose name ends in `.delta`, a file, or an address of PostgreSQL.
        tables: their names; of a file with one table, the name of that.
    """
    held = _tables_of(target, tables).items()
    return {table: [{name: row[name] for name in row if name not in _DELETION} for row in rows] for table, rows in held}


def derived_of(target: Path | str, tables: Iterable[str] = DERIVED) -> dict[str, list[Row]]:
    """Return the rows of derived tables of a target, and of `livestreams` with what is known of deletions."""
    return {table: [rounded(row) for row in rows] for table, rows in _tables_of(target, tables).items()}


def _tables_of(target: Path | str, tables: Iterable[str]) -> dict[str, list[Row]]:
    text = str(target)
    if text.startswith(("postgresql://", "postgres://")):
        found = _from_postgresql(text, tables)
    elif text.endswith(".sqlite"):
        found = _from_sqlite(text, tables)
    elif text.endswith(DELTA):
        found = _from_delta(text, tables)
    else:
        found = _from_duckdb(Path(text), tables)
    return {table: in_order(table, map(_plain, rows)) for table, rows in found}


def rows_of(target: Path | str, table: str) -> list[Row]:
    """Return the rows of one table, as `tables_of`."""
    return tables_of(target, [table])[table]


def _from_duckdb(path: Path, tables: Iterable[str]) -> Iterator[tuple[str, list[Row]]]:
    is_database = path.suffix == ".duckdb"
    with duckdb.connect(str(path) if is_database else ":memory:", read_only=is_database) as connection:
        for table in tables:
            relation = _relation(path, table)
            described = connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
            # Times come as numbers: as times they would be in the time of the machine.
            columns = ", ".join(
                f'epoch("{name}")::BIGINT AS "{name}"' if kind == "TIMESTAMP WITH TIME ZONE" else f'"{name}"'
                for name, kind, *_ in described
            )
            result = connection.execute(f"SELECT {columns} FROM {relation}")
            names = [column for column, *_ in result.description or []]
            yield table, [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _relation(path: Path, table: str) -> str:
    if path.suffix == ".duckdb":
        return f'"{table}"'
    paths = [path]
    if path.is_dir():
        package = json.loads((path / "datapackage.json").read_text(encoding="utf-8"))
        paths = [path / each["path"] for each in package["resources"] if each["table"] == table]
    texts = ", ".join(f"'{each}'" for each in paths)
    return f"read_parquet([{texts}], hive_partitioning = false)"


def _from_sqlite(path: str, tables: Iterable[str]) -> Iterator[tuple[str, list[Row]]]:
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        for table in tables:
            yield table, [dict(row) for row in connection.execute(f'SELECT * FROM "{table}"')]


def _from_delta(folder: str, tables: Iterable[str]) -> Iterator[tuple[str, list[Row]]]:
    for table in tables:
        rows = pl.read_delta(f"{folder}/{table}").to_dicts()
        yield table, [{name: value for name, value in row.items() if name not in _PARTS} for row in rows]


def _from_postgresql(address: str, tables: Iterable[str]) -> Iterator[tuple[str, list[Row]]]:
    import psycopg  # noqa: PLC0415 - only some tests need it
    from psycopg.rows import dict_row  # noqa: PLC0415

    address, _, query = address.partition("?schema=")
    with psycopg.connect(address, row_factory=dict_row) as connection:
        for table in tables:
            yield table, connection.execute(f'SELECT * FROM "{query or "parti"}"."{table}"').fetchall()


def _plain(row: Row) -> Row:
    return {name: _value(name, value) for name, value in row.items() if name != "content_hash"}


def _value(name: str, value: Any) -> Any:
    """Return a value as it is in the files of the runs."""
    if value is None:
        return None
    if name in _JSON:
        return json.loads(value)
    if name in _TRUTHS:
        return bool(value)
    if name.endswith("_at") or name in _TIMES:
        return _time(value)
    return value


def _time(value: Any) -> str:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    moment = value if isinstance(value, datetime) else datetime.fromtimestamp(value, UTC)
    return moment.astimezone(UTC).strftime(_SECONDS)
