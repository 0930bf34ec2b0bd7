"""Earlier exports as input: their rows are records again, and what they have of runs is not loaded from these."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from parti_scraper.dataset import sql
from parti_scraper.dataset.earlier_formats import open_export
from parti_scraper.dataset.engine import TargetError, one_line, require
from parti_scraper.dataset.inputs import shown
from parti_scraper.dataset.plan import LeftOut, Loaded
from parti_scraper.dataset.selection import Selection
from parti_scraper.dataset.staging import REMOVED_FILES, insert_all
from parti_scraper.dataset.tables import LAST_SCRAPED_AT, record_tables
from parti_scraper.network.source import MOCK, REAL

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from parti_scraper.dataset.earlier_formats import Held
    from parti_scraper.dataset.plan import Key
    from parti_scraper.dataset.staging import Staging
    from parti_scraper.dataset.tables import Table
    from parti_scraper.dataset.targets.postgres_address import Address

# In place of a run, where it is noted which earlier exports are in a target.
MARK = "earlier export"
_SKIPPED = "skipped_runs"

# What is known of the files of a run, by their names.
_Files = dict[str, Loaded]


@dataclass(slots=True)
class _Input:
    """An earlier export that is taken.

    Attributes:
        held: what it holds.
        whole: the records of which it has everything, in all tables that are wanted.
        runs: what it has of runs, as far as it has all of their records.
        known: the runs of which something was known before it.
        skipped: the runs of which others have more, or as much.
    """

    held: Held
    whole: frozenset[str]
    runs: Mapping[str, _Files]
    known: frozenset[str] = frozenset()
    skipped: set[str] = field(default_factory=set)

    def skips(self, table: Table) -> Collection[str]:
        """Return the runs of which no rows of a table are taken."""
        return self.skipped if table.records in self.whole else self.known


@contextmanager
def open_earlier(
    exports: Sequence[Address | str], scratch: Path, tables: Sequence[Table], known: Mapping[Key, Loaded]
) -> Iterator[Earlier]:
    """Open earlier exports.

    Args:
        exports: as in `Inputs`.
        scratch: a folder for temporary files.
        tables: those that are wanted.
        known: what the target has of the files of runs, and which earlier exports.

    Raises:
        UsageError: one is no export, or was made by a later version of this project.
        TargetError: a store or a database cannot be reached.
    """
    with ExitStack() as stack:
        earlier = Earlier(tables, known)
        for each in exports:
            try:
                earlier.add(stack.enter_context(open_export(each, scratch)))
            except _errors() as error:
                earlier.left_out.append(_left_out(shown(each), f"it cannot be read: {one_line(error)}"))
        earlier.choose()
        yield earlier


class Earlier:
    """What is taken of earlier exports for a target.

    Attributes:
        known: what the target has of the files of runs, or gets from earlier exports.
        left_out: exports that are not taken.
    """

    def __init__(self, tables: Sequence[Table], known: Mapping[Key, Loaded]) -> None:
        """Begin with none; for the arguments see `open_earlier`."""
        self._tables, self._before = tables, known
        self._inputs: list[_Input] = []
        self._replaced: set[str] = set()
        self.known = known
        self.left_out: list[LeftOut] = []

    @property
    def count(self) -> int:
        """How many exports are taken."""
        return len(self._inputs)

    @property
    def source(self) -> str | None:
        """Where their data come from, real data if there are both; None if there are none."""
        sources = {each.held.meta.source for each in self._inputs}
        return REAL if REAL in sources else MOCK if MOCK in sources else None

    def add(self, held: Held) -> None:
        """Take an export, unless the target has it already. Raises as `open_export`."""
        if (MARK, held.fingerprint) in self._before:
            return
        problem = held.problem()
        if problem:
            self.left_out.append(_left_out(held.shown, problem))
            return
        whole = _whole(held, self._tables)
        has_all = whole >= {table.records for table in self._tables}
        of_whole = {key: each for key, each in held.loaded().items() if has_all or _records_of(key[1]) in whole}
        self._inputs.append(_Input(held, whole, _by_run(of_whole)))

    def keep(self, source: str | None) -> None:
        """Leave out exports whose data come from elsewhere."""
        others = [each for each in self._inputs if each.held.meta.source not in {source, None}]
        if others:
            self._inputs = [each for each in self._inputs if each not in others]
            self.left_out += [
                _left_out(each.held.shown, f"its data come from {each.held.meta.source}, not {source}", is_wrong=False)
                for each in others
            ]
            self.choose()

    def choose(self) -> None:
        """Choose from which export the rows of each run are taken: that which has most of it."""
        if not self._inputs:
            self.known = self._before
            return
        runs = _by_run(self._before)
        before = frozenset(runs)
        self._replaced = set()
        taken: dict[str, list[_Input]] = {}
        for each in self._inputs:
            each.known, each.skipped = frozenset(runs), set()
            for run, files in each.runs.items():
                known = runs.setdefault(run, {})
                if _has(known, files):
                    each.skipped.add(run)
                    continue
                if known and _has(files, known):
                    # Another state of the run: rows of both must not be mixed.
                    for other in taken.pop(run, ()):
                        other.skipped.add(run)
                    self._replaced |= {run} & before
                taken.setdefault(run, []).append(each)
                known |= {name: more for name, more in files.items() if not _has(known, {name: more})}
        self.known = {(run, name): loaded for run, files in runs.items() for name, loaded in files.items()}

    def load(self, staging: Staging) -> dict[Key, Loaded]:
        """Add their rows to the records, but for those of files that were read again and are to be replaced.

        Returns what is loaded with them. Raises TargetError.
        """
        for each in self._inputs:
            try:
                self._copy(each, staging)
            except _errors() as error:
                raise TargetError(f"{each.held.shown} cannot be read: {one_line(error)}") from None
        # From now on, what is to be replaced is only what the target has.
        staging.remove_files((run, "") for run in self._replaced)
        loaded = {
            key: each for key, each in self.known.items() if self._before.get(key) != each or key[0] in self._replaced
        }
        marks = [each.held.fingerprint for each in self._inputs]
        return loaded | {(MARK, each): Loaded(0, 0, each) for each in marks}

    def _copy(self, each: _Input, staging: Staging) -> None:
        """Add the rows of an export."""
        wanted = {table.records for table in self._tables}
        tables = [table for name, table in record_tables().items() if name in each.held.tables]
        rows = {table.name: each.held.rows(table, staging.connection) for table in tables if table.records in wanted}
        for table in tables:
            if table.name not in rows:
                continue
            condition = "true"
            if table.is_of_run:
                staging.connection.execute(f"CREATE OR REPLACE TEMP TABLE {_SKIPPED} (run_uuid VARCHAR)")
                insert_all(staging.connection, _SKIPPED, [(run,) for run in each.skips(table)])
                is_removed = sql.is_removed(table, "rows", REMOVED_FILES)
                condition = f"run_uuid NOT IN (FROM {_SKIPPED}) AND NOT {is_removed}"
            staging.copy(table, rows[table.name], condition)


def _whole(held: Held, tables: Sequence[Table]) -> frozenset[str]:
    """Return the records of which an export has everything that is wanted."""
    if Selection.from_json(held.meta.selection).has_filters:
        return frozenset()
    known = record_tables()
    # From all versions of a livestream follows the newest one.
    versions = {known[name].records for name in held.tables & known.keys() if LAST_SCRAPED_AT in known[name].greatest}
    lacking = {
        table.records
        for table in tables
        if table.name not in held.tables and (table.records not in versions or LAST_SCRAPED_AT in table.greatest)
    }
    return frozenset({table.records for table in tables} - lacking)


def _records_of(file: str) -> str:
    """Return what is in a file of a run, by its name."""
    return file.rpartition("/")[2].partition(".")[0]


def _by_run(loaded: Mapping[Key, Loaded]) -> dict[str, _Files]:
    runs: dict[str, _Files] = {}
    for (run, name), each in loaded.items():
        runs.setdefault(run, {})[name] = each
    return runs


def _has(files: _Files, others: _Files) -> bool:
    """Tell whether there is as much of every other file."""
    return all(name in files and files[name].bytes >= each.bytes for name, each in others.items())


def _left_out(shown: str, reason: str, *, is_wrong: bool = True) -> LeftOut:
    return LeftOut(shown, reason, is_wrong, what="earlier exports")


def _errors() -> tuple[type[Exception], ...]:
    return (require("duckdb", "dataset").Error, sqlite3.Error, OSError)
