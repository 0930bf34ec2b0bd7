"""The tables of the ledger, and the migration from earlier versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.ledger.uuids import run_uuid_of

if TYPE_CHECKING:
    import sqlite3

_FAILED_START = """
CREATE TABLE failed_start ( -- of those that left no run
    id INTEGER PRIMARY KEY,
    spider TEXT NOT NULL,
    run_id TEXT,
    arguments TEXT NOT NULL, -- as typed but for secrets, JSON
    at REAL NOT NULL,
    exit_code INTEGER NOT NULL,
    reason TEXT NOT NULL     -- one line
)"""
_TABLES = f"""
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    filters TEXT NOT NULL UNIQUE,
    until INTEGER,         -- all that ended up to here was written, in Unix seconds
    versions_since INTEGER -- the versions of all that ended from here on are known
);
CREATE TABLE version (
    series INTEGER NOT NULL, event_id INTEGER NOT NULL, ended INTEGER, hash BLOB NOT NULL,
    PRIMARY KEY (series, event_id)
) WITHOUT ROWID;
CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    folder TEXT NOT NULL UNIQUE,
    spider TEXT NOT NULL,
    run_id TEXT NOT NULL,
    arguments TEXT NOT NULL, -- as typed, JSON
    started_at REAL NOT NULL,
    since INTEGER,
    until INTEGER,
    series INTEGER,
    next_since INTEGER,      -- where the next run of the series starts after this one
    versions_since INTEGER,
    state TEXT NOT NULL,     -- running, complete, incomplete, superseded
    host TEXT,
    progress TEXT,           -- of the last checkpoint, JSON
    counts TEXT,             -- by the keys of `run.tally.Tally`
    files TEXT,
    run_uuid TEXT NOT NULL DEFAULT '',
    ended_at REAL,           -- null while it runs, and after it was killed
    exit_code INTEGER,
    reason TEXT,
    sealed INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE rejected (run INTEGER NOT NULL, mark BLOB NOT NULL);
CREATE TABLE written (run INTEGER NOT NULL, event_id INTEGER NOT NULL, ended INTEGER, hash BLOB NOT NULL);
{_FAILED_START};
"""

# The stats in which version 1 stored its counts.
_COUNTS_OF_VERSION_1 = {
    "pages": "parti/spider/pages",
    "served": "parti/spider/served",
    "written": "item_scraped_count",
    "duplicate": "item_dropped_reasons_count/DuplicateRecord",
    "quarantined": "item_dropped_reasons_count/BadRecord",
    "filtered": "item_dropped_reasons_count/FilteredRecord",
    "new": "parti/incremental/new",
    "changed": "parti/incremental/changed",
}
# Those of them that `item_dropped_count` includes.
_OUR_REASONS = ("duplicate", "quarantined", "filtered")


def create(connection: sqlite3.Connection) -> None:
    """Create the tables, in the transaction that the caller has begun."""
    for statement in _TABLES.split(";\n"):
        connection.execute(statement)
    _note_version(connection)


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Migrate the tables from a version, 1 or later, in the transaction that the caller has begun."""
    for step in _STEPS[version - 1 :]:
        step(connection)
    _note_version(connection)


def _note_version(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _from_1_to_2(connection: sqlite3.Connection) -> None:
    """Rename columns and counts; drop the table of windows, which was never read."""
    connection.execute("ALTER TABLE series RENAME COLUMN known_from TO versions_since")
    connection.execute("ALTER TABLE run RENAME COLUMN known_from TO versions_since")
    connection.execute("ALTER TABLE run RENAME COLUMN moves_to TO next_since")
    connection.execute("DROP TABLE time_window")
    for run, counts in connection.execute("SELECT id, counts FROM run WHERE counts IS NOT NULL").fetchall():
        renamed = json.dumps(_counts_from_version_1(json.loads(counts)))
        connection.execute("UPDATE run SET counts = ? WHERE id = ?", (renamed, run))


def _counts_from_version_1(stats: dict[str, int]) -> dict[str, int]:
    counts = {key: stats.get(name, 0) for key, name in _COUNTS_OF_VERSION_1.items()}
    # What the user's own pipelines dropped was not counted separately.
    counts["dropped"] = stats.get("item_dropped_count", 0) - sum(counts[reason] for reason in _OUR_REASONS)
    return counts


def _from_2_to_3(connection: sqlite3.Connection) -> None:
    """Say of each run who it is; how earlier ones ended stands in their data packages alone."""
    for column in (
        "run_uuid TEXT NOT NULL DEFAULT ''",
        "ended_at REAL",
        "exit_code INTEGER",
        "reason TEXT",
        "sealed INTEGER NOT NULL DEFAULT 0",
    ):
        connection.execute(f"ALTER TABLE run ADD COLUMN {column}")
    connection.execute(_FAILED_START)
    for run, folder, spider, run_id, started_at in connection.execute(
        "SELECT id, folder, spider, run_id, started_at FROM run"
    ).fetchall():
        run_uuid = run_uuid_of(spider, run_id, _created(Path(folder)) or timestamp_to_iso(started_at))
        connection.execute("UPDATE run SET run_uuid = ? WHERE id = ?", (run_uuid, run))


def _created(folder: Path) -> str | None:
    """Return when the data package of a run was written, where there is one; as versions before 3 wrote them."""
    try:
        return str(json.loads((folder / "datapackage.json").read_text(encoding="utf-8"))["created"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


# One for each version except the last, to the next one; a change of the tables adds another.
_STEPS = (_from_1_to_2, _from_2_to_3)
# In PRAGMA user_version; a later one is refused.
VERSION = len(_STEPS) + 1
