"""What exports make of small made-up histories in every kind of target, against an independent computation."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parti_scraper.dataset.export import Report
from parti_scraper.dataset.selection import Selection
from tests.collecting import bring
from tests.dataset_truth import DERIVED, Row, derived_of
from tests.derived_truth import DerivedTruth
from tests.histories import Made, histories
from tests.made_runs import live_channel, livestream, make_run, note_checkpoint, notification

STARTED, AT = "2026-11-26T12:00:00Z", "2026-11-26T12:00:02Z"
# Each takes a second or two; PARTI_TEST_EXAMPLES sets their number.
EXAMPLES = settings(
    max_examples=int(os.environ.get("PARTI_TEST_EXAMPLES", "4")), deadline=None, suppress_health_check=list(HealthCheck)
)
FEW_EXAMPLES = settings(EXAMPLES, max_examples=(EXAMPLES.max_examples + 1) // 2)
TARGETS = ("folder", "dataset.delta", "dataset.duckdb", "dataset.sqlite")


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


@pytest.mark.parametrize("name", TARGETS)
@FEW_EXAMPLES
@given(histories(), st.sampled_from(sorted(DERIVED)))
def test_all_runs_at_once_give_what_follows_from_them_in_every_target(name: str, runs: list[Made], table: str) -> None:
    with empty_folder() as folder:
        true = true_tables(runs, folder)
        bring(folder / name, [folder / "all"], folder / "state")
        assert differing(folder / name, true) == []
        alone = folder / f"{table}.parquet"
        bring(alone, [folder / "all"], folder / "state", selection=Selection(tables=(table,)))
        assert derived_of(alone, [table])[table] == true[table]


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


# --- Single cases --------------------------------------------------------------------------------------------------


def bring_both(output: Path, state: Path) -> tuple[Path, Report]:
    """Export into a database, and return it with what the export has done."""
    target = output.with_name("dataset.duckdb")
    return target, bring(target, [output], state)


def test_a_livestream_that_is_heard_of_later_keeps_what_was_known_of_it(output: Path, tmp_path: Path) -> None:
    make_run(output, "recent", "run", [livestream(1)])
    bring_both(output, tmp_path / "state")
    make_run(output, "notifications", "run", [notification(1)])
    target, _ = bring_both(output, tmp_path / "state")
    (stream,) = derived_of(target, ["streams"])["streams"]
    assert (stream["started_at"], stream["total_viewers"]) == ("2026-11-25T09:00:00Z", 10)


def test_a_channel_of_which_no_total_is_known_has_none(output: Path, tmp_path: Path) -> None:
    make_run(output, "notifications", "run", [notification(1)])
    target, _ = bring_both(output, tmp_path / "state")
    (channel,) = derived_of(target, ["channels"])["channels"]
    assert (channel["streams"], channel["total_viewers"]) == (1, None)


def test_an_incomplete_snapshot_is_as_its_run_says_once_that_is_over(output: Path, tmp_path: Path) -> None:
    rows = [live_channel(1, "one", observed_at=AT)]
    run = make_run(output, "live", "run", rows, status="running")
    note_checkpoint(tmp_path / "state", run)
    bring_both(output, tmp_path / "state")
    said = {"snapshot_id": "one", "started_at": STARTED, "ended_at": AT, "channels": 1, "complete": False}
    make_run(output, "live", "run", rows, status="incomplete", snapshots=[said], arguments={"user_id": 2})
    target, _ = bring_both(output, tmp_path / "state")
    (snapshot,) = derived_of(target, ["snapshots"])["snapshots"]
    assert (snapshot["started_at"], snapshot["channels"], snapshot["filters"]) == (STARTED, 1, {"user_id": "2"})


def test_a_run_that_ended_without_another_record_is_loaded_once(output: Path, tmp_path: Path) -> None:
    run = make_run(output, "recent", "run", [livestream(1)], status="running")
    note_checkpoint(tmp_path / "state", run)
    bring_both(output, tmp_path / "state")
    make_run(output, "recent", "run", [livestream(1)])
    _, second = bring_both(output, tmp_path / "state")
    assert "runs" in second.tables
    _, third = bring_both(output, tmp_path / "state")
    assert third.tables == {}


# --- Exports of earlier versions -----------------------------------------------------------------------------------


def make_first_version(target: Path) -> None:
    """Let an SQLite database look as the first version of the tables was."""
    with closing(sqlite3.connect(target)) as connection:
        for name in DERIVED:
            if name != "livestreams":
                connection.execute(f"DROP TABLE {name}")
        for column in ("last_confirmed_at", "missing_since"):
            connection.execute(f"ALTER TABLE livestreams DROP COLUMN {column}")
        connection.execute("DROP TABLE confirmed_livestreams")
        connection.execute("DELETE FROM loaded_files WHERE file LIKE '%datapackage.json'")
        replaced = "UPDATE export_state SET value = replace(value, '\"schema_version\": 2', '\"schema_version\": 1')"
        assert connection.execute(replaced).rowcount == 1
        connection.commit()


def test_what_an_earlier_version_has_exported_gets_all_that_follows(output: Path, tmp_path: Path) -> None:
    target, state = tmp_path / "dataset.sqlite", tmp_path / "state"
    times = [f"2026-11-26T12:{minute:02}:00Z" for minute in (0, 5, 10)]
    rows = [live_channel(1, f"snapshot {at}", observed_at=at, viewers_count=10) for at in times]
    make_run(output, "live", "run", rows)
    make_run(output, "recent", "run", [livestream(1), livestream(2)])
    bring(target, [output], state)
    make_first_version(target)
    make_run(output, "notifications", "run", [notification(3)])
    bring(target, [output], state)
    afresh = tmp_path / "afresh.sqlite"
    bring(afresh, [output], state)
    assert derived_of(target) == derived_of(afresh)
    (stream,) = (row for row in derived_of(target, ["streams"])["streams"] if row["event_id"] == 1)
    assert (stream["snapshots"], stream["observed_seconds"]) == (3, 600)


def test_the_example_in_the_documents_is_what_an_export_makes_of_it(output: Path, tmp_path: Path) -> None:
    times = [f"2026-11-27T{20 + minute // 60}:{minute % 60:02}:00Z" for minute in range(0, 61, 5)]
    viewers = {"20:00": 10, "20:05": 20, "20:10": 30, "20:40": 100, "20:45": 50}
    rows = [
        live_channel(1, f"snapshot {at}", observed_at=at, viewers_count=viewers[at[11:16]])
        for at in times
        if at[11:16] in viewers
    ]
    noted = [
        {"snapshot_id": f"snapshot {at}", "started_at": at, "ended_at": at, "channels": 1, "complete": True}
        for at in times
    ]
    make_run(output, "live", "run", rows, snapshots=noted)
    target, _ = bring_both(output, tmp_path / "state")
    made = derived_of(target, ["streams", "hours", "coverage"])
    (stream,), (hour,), (interval,) = made["streams"], made["hours"], made["coverage"]
    assert (stream["observed_seconds"], stream["longest_gap_seconds"], stream["snapshots"]) == (900, 1_800, 5)
    assert (round(stream["viewer_hours"], 3), round(stream["average_viewers"], 3)) == (9.583, 38.333)
    assert (stream["peak_viewers"], stream["peak_at"]) == (100, "2026-11-27T20:40:00Z")
    assert (hour["hour"], hour["snapshots"], hour["average_viewers"]) == ("2026-11-27T20:00:00Z", 12, 17.5)
    assert (round(hour["average_channels"], 6), hour["peak_viewers"]) == (round(5 / 12, 6), 100)
    assert (interval["since"], interval["until"]) == (times[0], times[-1])
