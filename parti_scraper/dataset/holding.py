"""Whether a target holds every record of files: these are read as for an export, and looked up in its tables.

What a target says of itself is not enough: somebody may have emptied a table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from parti_scraper.dataset import sql
from parti_scraper.dataset.reading import read_runs
from parti_scraper.dataset.scratch import scratch_folder
from parti_scraper.dataset.staging import Staging
from parti_scraper.dataset.tables import RUN_UUID, Column, record_tables
from parti_scraper.dataset.targets.base import Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from parti_scraper.dataset.plan import Key, LeftOut, Part
    from parti_scraper.dataset.tables import Table
    from parti_scraper.dataset.targets.base import Session

_FILE = "file"
# Where the rows of the target are copied to.
_HELD = "held"
# Which file a record comes from, for tables that do not say so.
_TRACE = tuple(Column(name, "VARCHAR", "", is_added=True) for name in (RUN_UUID, _FILE))


@dataclass(frozen=True, slots=True)
class LookedUp:
    """What was found out about files.

    Attributes:
        lacking: those with records that the target does not have.
        left_out: folders whose files are not what their data packages say, or cannot be read.
    """

    lacking: frozenset[Key]
    left_out: Sequence[LeftOut]


def look_up(
    session: Session, runs: Mapping[str, Sequence[Part]], scratch: Path, advance: Callable[[int], None]
) -> LookedUp:
    """Look up the records of files in a target.

    Args:
        session: the target, which is open.
        runs: the files of each run, or day of one, by its folder.
        scratch: a folder for temporary files, in the state folder.
        advance: is called with the number of bytes that were read.

    Raises:
        TargetError: the target cannot be read, or the folder cannot be written.
    """
    whole = {folder: [replace(part, before=None, confirms=None) for part in parts] for folder, parts in runs.items()}
    wanted = {part.records for parts in whole.values() for part in parts}
    tables = [table for table in record_tables().values() if table.records in wanted]
    traced = list(map(_traced, tables))
    lacking: set[Key] = set()
    with scratch_folder(scratch) as folder, Staging(folder, traced) as staging:
        reading = read_runs(whole, staging, traced, advance)
        for table in tables:
            lacking |= _lacking(session, table, staging)
    return LookedUp(frozenset(lacking), reading.left_out)


def _traced(table: Table) -> Table:
    """Return a table whose records say which file they come from."""
    missing = tuple(column for column in _TRACE if column.name not in table.names)
    return replace(table, columns=table.columns + missing, is_of_run=True)


def _lacking(session: Session, table: Table, staging: Staging) -> set[Key]:
    """Return the files with records whose keys a table of the target does not have."""
    read, connection = staging.read_of(table), staging.connection
    connection.execute(f"CREATE OR REPLACE TABLE {_HELD} ({sql.typed(table.columns)})")
    condition, parts = _stretch(table, staging)
    session.fetch(Wanted(table, _HELD, condition, (table.key[0], read), parts), staging)
    query = f"SELECT DISTINCT {RUN_UUID}, {_FILE} FROM {read} ANTI JOIN {_HELD} USING ({sql.names(table.key)})"
    return {(run, file) for run, file in connection.execute(query).fetchall()}


def _stretch(table: Table, staging: Staging) -> tuple[str, frozenset[str] | None]:
    """Return a condition for when the rows are, and the parts of the table that they are in.

    Only where a row belongs to one run, and so has the time that it has in the file. Such a run may go on for months,
    and have millions of rows that are not asked for.
    """
    if not (table.is_of_run and table.time):
        return "true", None
    read, time, run = staging.read_of(table), sql.name(table.time), staging.connection
    found = run.execute(f"SELECT DISTINCT {sql.part_of(table)} FROM {read}").fetchall()
    parts = frozenset(part for (part,) in found) if table.partition else None
    ends = ", ".join(sql.as_text(f"{extreme}({time})") for extreme in ("min", "max"))
    ((since, until, unknown),) = run.execute(f"SELECT {ends}, count(*) - count({time}) FROM {read}").fetchall()
    if since is None or unknown:
        return "true", parts
    return f"{time} >= {sql.literal(since)} AND {time} <= {sql.literal(until)}", parts
