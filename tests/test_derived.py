"""What exports make of small made-up histories in every kind of target, against an independent computation."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parti_scraper.dataset.selection import Selection
from tests.collecting import bring
from tests.dataset_truth import DERIVED, Row, derived_of
from tests.derived_truth import DerivedTruth
from tests.histories import Made, histories

EXAMPLES = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
TARGETS = ("folder", "dataset.duckdb", "dataset.sqlite")


@contextmanager
def empty_folder() -> Iterator[Path]:
    """Make a folder for an example, and remove it."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def true_tables(runs: list[Made], folder: Path) -> Mapping[str, list[Row]]:
    """Return what the derived tables are to hold once all runs have ended."""
    for run in runs:
        run.write(folder / "all")
    return DerivedTruth().see(folder / "all").tables()


def differing(target: Path, true: Mapping[str, list[Row]]) -> list[str]:
    """Return the rows that a target should not have, or lacks."""
    held = derived_of(target)
    found = [f"{name}: too much: {row}" for name in DERIVED for row in held[name] if row not in true[name]]
    found += [f"{name}: missing: {row}" for name in DERIVED for row in true[name] if row not in held[name]]
    return found + [f"{name}: twice" for name in DERIVED if len(held[name]) > len(true[name]) and not found]


@EXAMPLES
@given(histories())
def test_all_runs_at_once_give_what_follows_from_them_in_every_target(runs: list[Made]) -> None:
    with empty_folder() as folder:
        true = true_tables(runs, folder)
        for name in TARGETS:
            bring(folder / name, [folder / "all"], folder / "state")
            assert differing(folder / name, true) == []
        for table in DERIVED:
            path = folder / f"{table}.parquet"
            bring(path, [folder / "all"], folder / "state", selection=Selection(tables=(table,)))
            assert derived_of(path, [table])[table] == true[table]


@EXAMPLES
@given(histories(), st.integers(0, 999), st.sampled_from(TARGETS))
def test_runs_that_come_one_by_one_in_any_order_give_the_same(runs: list[Made], seed: int, name: str) -> None:
    with empty_folder() as folder:
        true = true_tables(runs, folder)
        random.Random(seed).shuffle(runs)
        for run in runs:
            run.write(folder / "output")
            bring(folder / name, [folder / "output"], folder / "state")
        assert differing(folder / name, true) == []


@EXAMPLES
@given(histories(), st.integers(0, 999), st.sampled_from(TARGETS))
def test_runs_that_are_exported_while_they_go_on_give_the_same(runs: list[Made], seed: int, name: str) -> None:
    with empty_folder() as folder:
        true = true_tables(runs, folder)
        by_chance = random.Random(seed)
        for run in runs:
            if by_chance.random() < 0.6:
                run.begin(folder / "output", folder / "state")
        bring(folder / name, [folder / "output"], folder / "state")
        by_chance.shuffle(runs)
        for number, run in enumerate(runs):
            shutil.rmtree(folder / "output" / run.spider / run.run_id, ignore_errors=True)
            run.write(folder / "output")
            if number % 2:
                bring(folder / name, [folder / "output"], folder / "state")
        bring(folder / name, [folder / "output"], folder / "state")
        assert differing(folder / name, true) == []
