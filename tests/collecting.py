"""Runs that come, grow, are killed, sealed, resumed, copied and damaged, in any order, for tests of exports."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.dataset.export import Export, Report, Silent, export
from parti_scraper.dataset.targets.named import target_of
from parti_scraper.ledger.ledger import Ledger
from parti_scraper.run import datapackage
from parti_scraper.run.catalog import Catalog
from parti_scraper.run.catalog_cache import FILE_NAME as CACHE_NAME
from parti_scraper.run.sealing import LEFT_AFTER, seal
from tests.dataset_truth import DELTA, TABLES, Row, tables_of
from tests.made_runs import (
    api_call,
    category,
    live_channel,
    livestream,
    make_run,
    note_checkpoint,
    notification,
    rejected,
    scheduled,
)

# Each moment is by so many seconds later than the one before: some are of the next day.
_STEP = 5 * 3_600
_BEGINNING = 1_790_000_000
# Of these, runs may go on: what comes after the last checkpoint is fetched again.
LASTING = ("live", "recent")
_WITH_DAYS = ("live", "notifications")

# An event and a version of what is said of it.
Event = tuple[int, int]


def bring(target: Path | str, outputs: Iterable[Path], state: Path, **what: Any) -> Report:
    """Export runs into a target, in this process; `what` as in `Export`, and the target as in `typed`."""
    with Ledger.existing(state) as ledger:
        catalog = Catalog([*outputs], state / CACHE_NAME, ledger)
        return export(target_of(typed(target)), Export(catalog, state / "export", **what), Silent())


def typed(target: Path | str) -> str:
    """Return a target as it is typed. A path without a suffix is a folder, and one with `.delta` has Delta tables."""
    is_folder = isinstance(target, Path) and target.suffix in {"", DELTA}
    head = "delta+" if str(target).endswith(DELTA) else ""
    return f"{head}{target}/" if is_folder else str(target)


def differences(
    target: Path | str,
    true: Mapping[str, list[Row]],
    tables: Iterable[str] = TABLES,
    but: Container[int] = (),
) -> list[str]:
    """Return the rows that a target has and should not have, or should have and has not; some of them.

    Args:
        target: see `tables_of`.
        true: the rows of every table.
        tables: those that are compared.
        but: livestreams of which no more is known than all of their versions.
    """
    found = []
    for table, rows in tables_of(target, tables).items():
        passed_over = but if table == "livestreams" else ()
        held, wanted = (
            Counter(repr(row) for row in each if row.get("event_id") not in passed_over) for each in (rows, true[table])
        )
        found += [f"{table}: too much: {row}" for row in islice(held - wanted, 3)]
        found += [f"{table}: missing: {row}" for row in islice(wanted - held, 3)]
    return found


@dataclass
class _Going:
    """A run that goes on: its rows, and how many of them are noted."""

    spider: str
    folder: Path
    rows: list[Row] = field(default_factory=list)
    noted: int = 0
    is_sealed: bool = False


class Collector:
    """Makes folders of runs, as by a clock of its own.

    Attributes:
        output, state: PARTI_OUTPUT_DIR and PARTI_STATE_DIR.
        copies: a folder to which runs are copied.
        was_cut: whether records were cut from a run that was sealed: an export before that may have them.
    """

    def __init__(self, folder: Path) -> None:
        """Begin in an empty folder."""
        self.output, self.copies, self.state = folder / "output", folder / "copies", folder / "state"
        self.output.mkdir()
        self.was_cut = False
        self._moments = 0
        self._going: list[_Going] = []
        self._damaged: dict[Path, bytes] = {}

    @property
    def outputs(self) -> tuple[Path, Path]:
        """The folders of runs."""
        return self.output, self.copies

    def collect(self, spider: str, events: Iterable[Event], status: str) -> None:
        """Make a run that has ended, and has set some records aside."""
        now = self._now()
        run_id = f"run-{self._moments}"
        day = now[:10] if spider in _WITH_DAYS else None
        quarantine = [rejected(each, record=[now, None, "as it came"][each]) for each in range(self._moments % 4)]
        rows = rows_at(spider, events, now, run_id)
        make_run(self.output, spider, run_id, rows, quarantine=quarantine, day=day, status=status)

    def begin(self, spider: str, events: Iterable[Event]) -> None:
        """Make a run that goes on."""
        now = self._now()
        run = _Going(spider, self.output / spider / f"run-{self._moments}")
        self._going.append(run)
        self._add(run, events, now)
        self._note(run)

    def go_on(self, which: int, events: Iterable[Event]) -> None:
        """Add records to a run that goes on, and note them."""
        for run in self._one(which, is_sealed=False):
            self._add(run, events, self._now())
            self._note(run)
            self._tear(run)

    def finish(self, which: int) -> None:
        """Let a run end."""
        for run in self._one(which, is_sealed=False):
            self._write(run, "finished")
            self._going.remove(run)

    def end(self) -> None:
        """Let all runs go on and end, and undo all damage."""
        self.heal()
        while self._going:
            self.resume(0, [(1, 0)])
            self.finish(0)

    def kill(self, which: int, events: Iterable[Event]) -> None:
        """Add records to a run that goes on, note them only if they are of a new day, and seal all runs that go on."""
        for run in self._one(which, is_sealed=False):
            now, last = self._now(), run.rows[-1]
            self._add(run, events, now)
            # Then the day before was described.
            if run.spider in _WITH_DAYS and _day(last) != _day({"observed_at": now}):
                self._note(run)
            self._tear(run)
        with closing(Ledger(self.state)) as ledger:
            seal(ledger, None, time.time() + 2 * LEFT_AFTER)
        for run in self._going:
            run.is_sealed = True

    def resume(self, which: int, events: Iterable[Event]) -> None:
        """Let a sealed run go on from its last checkpoint, and find something."""
        for run in self._one(which, is_sealed=True):
            self.was_cut |= len(run.rows) > run.noted
            run.rows, run.is_sealed = run.rows[: run.noted], False
            if run.spider in _WITH_DAYS:
                shutil.rmtree(run.folder)
            self._write(run, "running")
            with closing(Ledger(self.state)) as ledger:
                record = ledger.find(run.folder)
                assert record
                ledger.resume(record.id)
            self._add(run, events, self._now())
            self._note(run)

    def forget_pruned(self) -> None:
        """Let no run go on whose record files were removed."""
        pruned = (datapackage.is_pruned(datapackage.read(run.folder) or {}) for run in self._going)
        self._going = [run for run, is_pruned in zip(self._going, pruned, strict=True) if not is_pruned]

    def copy(self, which: int) -> None:
        """Copy a run to the other folder, in place of an earlier copy."""
        for run in self._any(which):
            self._copy(run)

    def move(self, which: int) -> None:
        """Move a run that has ended to the other folder."""
        for run in self._any(which, has_ended=True):
            self._copy(run)
            shutil.rmtree(run)

    def damage(self, which: int) -> None:
        """Change a byte in a file of a run that has ended, and has no copy; everything else is healed."""
        self.heal()
        for run in self._any(which, has_ended=True):
            paths = [] if self._copy_of(run).exists() else sorted(run.rglob("*.jsonl"))
            for path in paths[:1]:
                content = path.read_bytes()
                self._damaged[path] = content
                path.write_bytes(content.replace(b"a", b"b", 1))

    def heal(self) -> None:
        """Undo all damage."""
        for path, content in self._damaged.items():
            path.write_bytes(content)
        self._damaged.clear()

    def _now(self) -> str:
        self._moments += 1
        return timestamp_to_iso(_BEGINNING + self._moments * _STEP)

    def _one(self, which: int, *, is_sealed: bool) -> list[_Going]:
        """Return one of the runs that go on, or none if there are none."""
        runs = [run for run in self._going if run.is_sealed == is_sealed]
        return [runs[which % len(runs)]] if runs else []

    def _any(self, which: int, *, has_ended: bool = False) -> list[Path]:
        """Return the folder of any run, or none if there are none; what is damaged stays where it is."""
        going = [each.folder for each in self._going] if has_ended else []
        damaged = [folder for path in self._damaged for folder in path.parents]
        runs = [run for run in sorted(self.output.glob("*/*")) if run not in (*going, *damaged)]
        return [runs[which % len(runs)]] if runs else []

    def _copy(self, run: Path) -> None:
        shutil.rmtree(self._copy_of(run), ignore_errors=True)
        shutil.copytree(run, self._copy_of(run))

    def _copy_of(self, run: Path) -> Path:
        return self.copies / run.relative_to(self.output)

    def _add(self, run: _Going, events: Iterable[Event], now: str) -> None:
        run.rows += rows_at(run.spider, events, now, run.folder.name)
        self._write(run, "running")

    def _note(self, run: _Going) -> None:
        note_checkpoint(self.state, run.folder)
        run.noted = len(run.rows)

    def _tear(self, run: _Going) -> None:
        """Add a record of which only the beginning was written."""
        for path in sorted(run.folder.rglob("*.jsonl"))[-1:]:
            with path.open("ab") as file:
                file.write(b'{"torn":')

    def _write(self, run: _Going, status: str) -> None:
        """Write the files of a run; those of days that are over are described."""
        parts = list(_days(run.rows)) if run.spider in _WITH_DAYS else [(None, run.rows)]
        for number, (day, rows) in enumerate(parts, 1):
            is_last = number == len(parts)
            make_run(
                self.output,
                run.spider,
                run.folder.name,
                rows,
                day=day,
                status=status if is_last else "finished",
            )
        run.folder.mkdir(parents=True, exist_ok=True)


def _days(rows: Iterable[Row]) -> Iterator[tuple[str, list[Row]]]:
    by_day: dict[str, list[Row]] = {}
    for row in rows:
        by_day.setdefault(_day(row), []).append(row)
    yield from by_day.items()


def _day(row: Row) -> str:
    return str(row.get("observed_at", ""))[:10]


def rows_at(spider: str, events: Iterable[Event], now: str, run_id: str) -> list[Row]:
    """Return what a spider finds at a moment."""
    return [_row_at(spider, event_id, version, now, run_id) for event_id, version in events]


def _row_at(spider: str, event_id: int, version: int, now: str, run_id: str) -> Row:
    match spider:
        case "recent":
            # Some have no end, and of some it moves to another month.
            end = None if event_id == 5 else f"2026-{event_id + version:02}-25T10:30:00Z"
            extra = {"version": version} if version else {}
            return livestream(event_id, total_viewers=version, event_end=end, scraped_at=now, extra=extra)
        case "live":
            return live_channel(event_id, f"{run_id}-{now}", viewers_count=version, observed_at=now)
        case "notifications":
            return notification(event_id, viewers_count=version, received_at=now)
        case "scheduled":
            return scheduled(event_id, event_title=f"title {version}", scraped_at=now)
        case "categories":
            return category(event_id, display_name=f"name {version}", scraped_at=now)
    return api_call(f"/{event_id}/{version}", observed_at=now)
