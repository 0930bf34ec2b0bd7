"""Days or weeks of a schedule, exported again and again, also while runs are going on.

`python -m tests.exported --days 7 --seed 1` plays them as `tests.simulated` does, and says what is wrong with the
targets too.
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any, ClassVar

from tests import left_behind, simulated
from tests.collecting import bring, differences
from tests.dataset_truth import Row, derived_of, rows_of
from tests.derived_truth import DerivedTruth, Package, knows_missing, moment
from tests.left_behind import Session, has_ended
from tests.simulated import DAY, MINUTE, LiveSimulation, NotificationsSimulation, RecentSimulation, Simulation
from tests.virtual import Act, Change

# Of these, readers do not see half while others write, so runs that are going on are exported into them.
_MEANWHILE = "meanwhile"
_AFTER = ("dataset.duckdb", "dataset.sqlite")


class Exported(Simulation):
    """A schedule whose runs are exported: into one target while they go on, into others after them, in turns."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        self.derived = DerivedTruth()
        self.truth = self.derived.records
        self.copies = folder / "copies"
        self.targets = [folder / name for name in (_MEANWHILE, *_AFTER)]
        self._turns = cycle(self.targets[1:])
        self.exports = 0

    @property
    def outputs(self) -> list[Path]:
        """The folders of runs; some runs are in two of them."""
        return [each for each in (self.output, self.copies) if each.exists()]

    def crawl(self, run_id: str, arguments: Iterable[str], *acts: Act, fate: str) -> Session:
        """Run the spider, and export while it runs and after it."""
        is_over = threading.Event()
        thread = threading.Thread(target=self._export_until, args=(is_over,))
        thread.start()
        try:
            session = super().crawl(run_id, arguments, *acts, fate=fate)
        finally:
            is_over.set()
            thread.join()
        self._copy(run_id)
        self.derived.see(*self.outputs, state=self.folder / "state")
        for target in (self.targets[0], next(self._turns)):
            self._export(target)
        return session

    def check(self) -> None:
        """Look at what is left, and at the targets."""
        for target in self.targets:
            self._export(target)
        super().check()
        tables, ties = self.truth.tables(), self.truth.ties()
        derived = self.derived.tables()
        for target in self.targets:
            self.wrong += [f"{target.name}: {line}" for line in differences(target, tables, but=ties)]
            self.wrong += [f"{target.name}: {line}" for line in derived_differences(target, derived, ties)]
            if bring(target, self.outputs, self.folder / "state").tables:
                self.wrong.append(f"{target.name}: another export has changed something")

    def _export_until(self, is_over: threading.Event) -> None:
        """Export what there is, again and again."""
        while not is_over.is_set():
            self._export(self.targets[0])
            self.exports += 1

    def _export(self, target: Path) -> None:
        report = bring(target, self.outputs, self.folder / "state")
        self.wrong += [f"{target.name}: left out: {each}" for each in report.left_out if each.is_wrong]

    def _copy(self, run_id: str) -> None:
        """Copy a run that has ended elsewhere, by chance: what is in both is to be one row."""
        run, copy = self.output / self.spider / run_id, self.copies / self.spider / run_id
        if has_ended(run) and not copy.exists() and self.by_chance.random() < 0.3:
            shutil.copytree(run, copy)


def derived_differences(target: Path, true: Mapping[str, list[Row]], ties: set[int]) -> Iterable[str]:
    """Yield the rows of derived tables that a target should not have, or lacks; some of them.

    Args:
        target: a folder or a file.
        true: the rows of every table.
        ties: livestreams of which no more is known than all of their versions, nor of their channels.
    """
    users = {row["user_id"] for row in true["streams"] if row["event_id"] in ties}
    for table, rows in derived_of(target).items():
        left_out = {"channels": ("user_id", users)}.get(table, ("event_id", ties))
        held, wanted = (
            Counter(repr(row) for row in each if row.get(left_out[0]) not in left_out[1])
            for each in (rows, true[table])
        )
        yield from (f"{table}: too much: {row}" for row in islice(held - wanted, 3))
        yield from (f"{table}: missing: {row}" for row in islice(wanted - held, 3))


class ExportedLive(Exported, LiveSimulation):
    """Snapshots every five minutes."""


class ExportedNotifications(Exported, NotificationsSimulation):
    """Who goes live, as it happens."""


class ExportedRecent(Exported, RecentSimulation):
    """What has ended, once an hour, and now and then what has ended in a category or in the last hours.

    Some records are bad, and now and then all lack fields.
    """

    options: ClassVar = {**RecentSimulation.options, "malformed": 0.04, "undated": 0.05, "uncategorized": 0.1}

    def _hour(self) -> None:
        whole = self._options
        if self.by_chance.random() < 0.15:
            self._options = replace(whole, absent="user_name,event_title")
        super()._hour()
        self._options = whole
        chosen = self.by_chance.choice([(), ("categories=7",), ("since=6h",), ("since=2d", "max_records=30")])
        if chosen:
            # What is received in the same second cannot be told apart by its time.
            self._pass_to(self.clock.elapsed + MINUTE)
            self.crawl(f"other-{len(self.sessions):04}", chosen, fate="well")

    def wrong_rows(self, runs: Path) -> Iterable[str]:
        """Return what is wrong with the newest versions, by the truth."""
        true = self._true_viewers()
        doubtful = self._doubtful()
        for target in self.targets:
            held = {row["event_id"]: row["total_viewers"] for row in rows_of(target, "livestreams")}
            versions = {(row["event_id"], row["total_viewers"]) for row in rows_of(target, "livestream_versions")}
            missing = [each for each in true.items() if each not in versions]
            old = sorted({each for each, _ in held.items() ^ true.items()} - doubtful)
            if missing or old or held.keys() != true.keys():
                yield f"{target.name}: of {len(true)} livestreams, {missing[:3]} are missing, and {old[:3]} old"

    def _true_viewers(self) -> dict[int, int | None]:
        """Return how many have watched each livestream; None where the server says it in a way that nobody can read."""
        return {
            event_id: None if "total_viewers" in self.world.lost_fields(event_id) else record["total_viewers"]
            for record in self.world.recent_at()
            if (event_id := record["event_id"]) not in self.world.malformed_ids
        }

    def _doubtful(self) -> set[int]:
        """Return the livestreams that were received when the clock was wrong: it may say that an old version is new."""
        runs = {each.run_id for each in self.sessions if any(error for _, error in each.clocks)}
        paths = [self.output / self.spider / run_id / "livestreams.jsonl" for run_id in runs]
        return {row["event_id"] for path in paths if path.exists() for row in left_behind.rows_of(path)}


class ExportedDeletions(Exported, RecentSimulation):
    """What has ended, once an hour, while livestreams are deleted; now and then all from the first on.

    No record is set aside: a run that has set any aside does not tell what is missing.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        # When each was, in seconds since the start of the clock.
        self.deleted: dict[int, float] = {}

    def _change(self) -> None:
        super()._change()
        there = [each["event_id"] for each in self.world.recent_at()]
        # Most are of the last hours.
        fresh = sorted(there)[-60:]
        for _ in range(self.by_chance.randrange(3)):
            event_id = self.by_chance.choice(there if self.by_chance.random() < 0.3 else fresh)
            if event_id not in self.deleted:
                change = Change(self.clock.elapsed, event_id=event_id, is_deleted=True)
                change.happen(self.world, self.clock.elapsed)
                self.changes.append(change)
                self.deleted[event_id] = self.clock.elapsed

    def _hour(self) -> None:
        whole = self._options
        if self.by_chance.random() < 0.06:
            # An outage.
            self._options = replace(whole, rate_500=1.0)
        super()._hour()
        self._options = whole
        if self.by_chance.random() < 0.08:
            self._pass_to(self.clock.elapsed + MINUTE)
            self.crawl(f"whole-{len(self.sessions):04}", (), fate="well")

    def wrong_rows(self, runs: Path) -> Iterable[str]:
        """Yield which livestreams are missing and were not deleted, and which of the deleted ones are not missing."""
        for target in self.targets:
            rows = derived_of(target, ["livestreams"])["livestreams"]
            doubtful = self._doubtful(rows)
            missing = {row["event_id"] for row in rows if row["missing_since"]} - doubtful
            knowable = self._knowable(rows) - doubtful
            if wrong := sorted(missing - self.deleted.keys()):
                yield f"{target.name}: of {len(rows)} livestreams, not deleted but missing: {wrong[:5]}"
            if wrong := sorted(knowable - missing):
                yield f"{target.name}: of {len(knowable)} deleted ones, not missing: {wrong[:5]}"

    def _knowable(self, rows: Iterable[Row]) -> set[int]:
        """Return those that were deleted before a run began that could tell."""
        began = {each.run_id: each.since for each in reversed(self.sessions)}
        # By the clock of the run, which was right, its proof does not go beyond what it looked at.
        telling = [
            (began[each.content["run_id"]], proof)
            for each in self.derived.packages()
            if (proof := each.proof()) and knows_missing(each) and not self._was_wrong(each)
        ]
        return {
            row["event_id"]
            for row in rows
            if row["event_id"] in self.deleted
            and any(
                since >= self.deleted[row["event_id"]] and proof.since <= moment(row["event_end"]) <= proof.until
                for since, proof in telling
            )
        }

    def _doubtful(self, rows: Iterable[Row]) -> set[int]:
        """Return the livestreams that a run has seen, or was the first not to see, when the clock was wrong."""
        wrong = [each for each in self.derived.packages() if self._was_wrong(each)]
        seen = {event_id for each in wrong for event_id in each.seen() or each.written}
        starts = {each.content["started_at"] for each in wrong}
        return seen | {row["event_id"] for row in rows if row["missing_since"] in starts}

    def _was_wrong(self, package: Package) -> bool:
        """Tell whether a run was told a wrong time."""
        sessions = [each for each in self.sessions if each.run_id == package.content["run_id"]]
        return any(error for each in sessions for _, error in each.clocks)


SIMULATIONS: dict[str, Any] = {each.spider: each for each in (ExportedLive, ExportedNotifications, ExportedRecent)}


class _Once(Exported):
    """A spider that is run every day."""

    options: ClassVar = {"events": 20, "years": 0.01, "live": 5}

    def play(self, days: float) -> None:
        """Let so many days pass, and look at what is left."""
        for day in range(int(days)):
            self.clock.move(day * DAY)
            self._catch_up()
            self.crawl(f"run-{day}", (), fate="well")
        self.check()

    def wrong_rows(self, runs: Path) -> Iterable[str]:
        """Return nothing: what the targets hold is compared with the runs."""
        return ()


class ExportedCategories(_Once):
    """The categories."""

    spider = "categories"


class ExportedScheduled(_Once):
    """Announced livestreams."""

    spider = "scheduled"
    options: ClassVar = {**_Once.options, "scheduled": 30}


SIMULATIONS |= {each.spider: each for each in (ExportedCategories, ExportedScheduled)}
SIMULATIONS["deletions"] = ExportedDeletions


if __name__ == "__main__":
    simulated.SIMULATIONS.update(SIMULATIONS)
    sys.exit(simulated.main())
