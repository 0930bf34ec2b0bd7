"""Databases as targets: what SQLite and PostgreSQL have in common, each with real files and a real server."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.dataset.selection import Selection
from parti_scraper.exceptions import UsageError
from tests import forked
from tests.collecting import Collector, bring
from tests.databases import Database, Postgres, Sqlite
from tests.dataset_truth import COLLECTIONS, DERIVED, TABLES, Row, Truth, derived_of, rows_of, tables_of
from tests.exporting import HOSTILE
from tests.made_runs import category, live_channel, livestream, make_run, rejected
from tests.support import TIMEOUT, environment_of, read_lines, run_to_its_end

# Of one moment: how many livestreams, versions of them, and records of files that were loaded.
STATE = """
    SELECT (SELECT count(*) FROM livestreams), (SELECT count(*) FROM livestream_versions),
    (SELECT sum(rows) FROM loaded_files WHERE file LIKE '%.jsonl')
"""
# Any text, with more of what is hard than chance would give.
TEXTS = st.lists(st.sampled_from(HOSTILE[:20]) | st.text(max_size=20)).map("".join)
OBJECTS = st.dictionaries(TEXTS, st.recursive(st.none() | st.booleans() | st.integers() | TEXTS, st.lists), max_size=3)
BEGINNING = 1_790_000_000
# What `STATE` is of; exports of them are quick.
LIVESTREAMS = ("livestream_versions", "livestreams")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Return an empty database."""
    if request.param == "sqlite":
        (tmp_path / "databases").mkdir()
        return Sqlite(tmp_path / "databases")
    return Postgres(request.getfixturevalue("postgres_url"))


def make_livestreams(output: Path, number: int, events: range, **fields: Any) -> None:
    """Write a run of `recent` with livestreams; runs have numbers, later ones have later records."""
    scraped_at = timestamp_to_iso(BEGINNING + number * 60)
    rows = [livestream(event, scraped_at=scraped_at, **fields) for event in events]
    make_run(output, "recent", f"run-{number}", rows)


def collect_some(folder: Path) -> Collector:
    """Write runs of all spiders, complete or not."""
    collector = Collector(folder)
    for number, spider in enumerate(("categories", "recent", "live", "notifications", "scheduled", "site", "recent")):
        collector.collect(spider, [(event, number % 3) for event in range(1, 5)], "finished")
    collector.begin("live", [(1, 1), (2, 1)])
    collector.go_on(0, [(3, 1)])
    return collector


def contents(database: Database) -> dict[str, list[str]]:
    """Return all rows of records."""
    return {table: sorted(map(repr, database.query(f"SELECT * FROM {table}"))) for table in TABLES}


# --- Which rows there are ----------------------------------------------------------------------------------------


def test_every_table_has_the_rows_that_the_runs_have_and_those_of_a_duckdb_file(
    database: Database, tmp_path: Path
) -> None:
    collector, now = collect_some(tmp_path), time.time()
    report = bring(database.target, collector.outputs, collector.state, now=now)
    truth = Truth().see(*collector.outputs, state=collector.state).tables()
    assert {table: report.tables[table].rows for table in TABLES} == {table: len(truth[table]) for table in TABLES}
    assert all(truth[table] for table in TABLES)
    assert tables_of(database.target) == truth
    bring(tmp_path / "x.duckdb", collector.outputs, collector.state, now=now)
    assert tables_of(tmp_path / "x.duckdb") == truth
    derived = derived_of(database.target)
    assert {table: report.tables[table].rows for table in DERIVED} == {table: len(derived[table]) for table in DERIVED}
    assert derived_of(tmp_path / "x.duckdb") == derived


def test_in_whatever_order_and_steps_runs_come_the_rows_are_those_of_one_step(
    database: Database, tmp_path: Path
) -> None:
    (tmp_path / "all").mkdir()
    collector = Collector(tmp_path / "all")
    for number, spider in enumerate((*COLLECTIONS, *COLLECTIONS, "recent", "recent", "categories")):
        collector.collect(spider, [(event, number % 3) for event in range(1 + number % 2, 5)], "finished")
    runs = sorted(collector.output.glob("*/*"))
    truth = Truth().see(collector.output).tables()
    by_chance = random.Random(1)
    for number in range(2):
        target, output = database.another(), tmp_path / f"output-{number}"
        by_chance.shuffle(runs)
        for run in runs:
            shutil.copytree(run, output / run.relative_to(collector.output))
            if by_chance.random() < 0.4:
                bring(target, [output], tmp_path / "state")
        bring(target, [output], tmp_path / "state")
        assert tables_of(target) == truth


def test_what_is_new_and_what_is_replaced_is_counted(database: Database, output: Path, tmp_path: Path) -> None:
    make_livestreams(output, 1, range(4))
    first = bring(database.target, [output], tmp_path / "state")
    assert (first.tables["livestreams"].rows, first.tables["livestreams"].new) == (4, 4)
    # Seen again, changed, and new.
    make_livestreams(output, 2, range(2))
    make_livestreams(output, 3, range(3, 6), total_viewers=77)
    second = bring(database.target, [output], tmp_path / "state")
    livestreams, versions = second.tables["livestreams"], second.tables["livestream_versions"]
    assert (livestreams.rows, livestreams.new, livestreams.replaced) == (6, 2, 3)
    assert (versions.rows, versions.new, versions.replaced) == (7, 3, 2)
    assert second.tables["categories"].rows == 0


def test_a_second_export_changes_nothing(database: Database, tmp_path: Path) -> None:
    collector = collect_some(tmp_path)
    bring(database.target, collector.outputs, collector.state)
    before = contents(database)
    report = bring(database.target, collector.outputs, collector.state)
    assert (report.tables, report.files) == ({}, 0)
    # A run with records of another one.
    seen = read_lines(sorted(collector.output.glob("recent/*/livestreams.jsonl"))[0])
    make_run(collector.output, "recent", "again", seen)
    report = bring(database.target, collector.outputs, collector.state)
    assert report.files == 1
    changed = {table: (each.new, each.replaced) for table, each in report.tables.items() if each.new or each.replaced}
    assert changed == {"runs": (1, 0), "coverage": (1, 0)}
    assert contents(database) == before


# --- Texts -------------------------------------------------------------------------------------------------------


def held(database: Database, value: Any) -> Any:
    """Return a JSON value as a database holds it: PostgreSQL has no NUL."""
    if isinstance(value, dict):
        return {held(database, name): held(database, each) for name, each in value.items()}
    if isinstance(value, list):
        return [held(database, each) for each in value]
    return value.replace("\0", "\ufffd") if isinstance(value, str) and isinstance(database, Postgres) else value


def bring_categories(database: Database, output: Path, rows: list[Row], **what: Any) -> int:
    """Bring categories into a database, and return how many texts were altered."""
    make_run(output, "categories", "run", rows)
    report = bring(database.target, [output], output.with_name("state"), **what)
    return report.tables["categories"].altered


TRICKY = ("\\.", "a\n\\.\nb", "\\", "\\\\", "\\u0000", "\\\\u0000", "\\\0", "\0\0", "\0\\u0000", '\\"\0', "", ",", "\t")


def test_a_text_is_the_same_except_for_nul_in_postgresql(database: Database, output: Path) -> None:
    texts = [*HOSTILE, *TRICKY]
    rows = [category(number, name=text, extra={"text": text, text: [text]}) for number, text in enumerate(texts)]
    altered = bring_categories(database, output, rows)
    assert altered == (2 * sum("\0" in text for text in texts) if isinstance(database, Postgres) else 0)
    found = database.query("SELECT name, extra FROM categories ORDER BY category_id")
    assert [(name, json.loads(extra)) for name, extra in found] == [
        (held(database, row["name"]), held(database, row["extra"])) for row in rows
    ]


def test_an_empty_text_is_not_null(database: Database, output: Path) -> None:
    bring_categories(database, output, [category(1, name="", display_name=None), category(2, name=None)])
    found = database.query("SELECT category_id, name, display_name FROM categories ORDER BY category_id")
    assert found == [(1, "", None), (2, None, "category 2")]


def test_any_text_and_any_object_comes_out_as_it_went_in(database: Database, output: Path) -> None:
    @settings(max_examples=10, suppress_health_check=[*HealthCheck])
    @given(st.lists(st.tuples(TEXTS, OBJECTS), min_size=1, max_size=9))
    def check(values: list[tuple[str, dict[str, Any]]]) -> None:
        rows = [category(number, name=name, extra=extra) for number, (name, extra) in enumerate(values)]
        bring_categories(database, output, rows, rebuild=True, selection=Selection(tables=("categories",)))
        found = database.query("SELECT name, extra FROM categories ORDER BY category_id")
        assert [(name, json.loads(extra)) for name, extra in found] == [
            (held(database, name), held(database, extra)) for name, extra in values
        ]
        if isinstance(database, Postgres):
            database.query("SELECT extra::jsonb FROM categories")

    check()


# --- What else is in the database --------------------------------------------------------------------------------


def test_the_users_own_tables_and_views_stay(database: Database, output: Path, tmp_path: Path) -> None:
    database.query("CREATE TABLE notes (event_id integer, note text)")
    database.query("INSERT INTO notes VALUES (1, 'mine')")
    make_livestreams(output, 1, range(3))
    bring(database.target, [output], tmp_path / "state")
    database.query("CREATE VIEW noted AS SELECT note, total_viewers FROM livestreams JOIN notes USING (event_id)")
    database.query("CREATE INDEX by_user ON livestreams (user_id)")
    make_livestreams(output, 2, range(3), total_viewers=5)
    for rebuild in (False, True):
        bring(database.target, [output], tmp_path / "state", rebuild=rebuild)
        assert database.query("SELECT * FROM noted") == [("mine", 5)]


def test_a_column_that_is_added_is_null_in_rows_that_were_there(
    database: Database, output: Path, tmp_path: Path
) -> None:
    make_livestreams(output, 1, range(2))
    bring(database.target, [output], tmp_path / "state")
    database.query("CREATE VIEW mine AS SELECT event_id, event_title FROM livestreams")
    # As an earlier version would have left it.
    for table in ("livestreams", "livestream_versions"):
        database.query(f"ALTER TABLE {table} DROP COLUMN video_url")
    make_livestreams(output, 2, range(1, 3), video_url="https://parti.com/video/new")
    bring(database.target, [output], tmp_path / "state")
    assert database.query("SELECT event_id, video_url FROM livestreams ORDER BY event_id") == [
        (0, None),
        (1, "https://parti.com/video/new"),
        (2, "https://parti.com/video/new"),
    ]
    assert len(database.query("SELECT * FROM mine")) == 3


def test_a_table_that_no_export_has_made_is_a_usage_error_and_stays(
    database: Database, output: Path, tmp_path: Path
) -> None:
    make_livestreams(output, 1, range(3))
    if isinstance(database, Postgres):
        database.query("CREATE SCHEMA parti")
    database.query("CREATE TABLE livestreams (mine integer)")
    for rebuild in (False, True):
        with pytest.raises(UsageError, match="has a table `livestreams` that no export has made"):
            bring(database.target, [output], tmp_path / "state", rebuild=rebuild)
    assert database.query("SELECT * FROM livestreams") == []


def test_a_rebuild_with_fewer_tables_empties_the_others(database: Database, tmp_path: Path) -> None:
    collector = collect_some(tmp_path)
    bring(database.target, collector.outputs, collector.state)
    one = Selection(tables=("categories",))
    bring(database.target, collector.outputs, collector.state, selection=one, rebuild=True)
    truth = Truth().see(*collector.outputs, state=collector.state).tables()
    assert tables_of(database.target) == {table: truth[table] if table == "categories" else [] for table in TABLES}
    bring(database.target, collector.outputs, collector.state, rebuild=True)
    assert tables_of(database.target) == truth


# --- In one step -------------------------------------------------------------------------------------------------


def test_a_killed_export_is_finished_by_the_next(database: Database, output: Path, tmp_path: Path) -> None:
    tables = [part for table in LIVESTREAMS for part in ("--table", table)]
    command, environment = ["export", database.target, "--quiet", *tables], environment_of(output, None)
    make_livestreams(output, 0, range(1_000))
    # The first process of all takes longer to start.
    assert run_to_its_end(["version"], environment).returncode == 0
    begun = time.monotonic()
    with closing(forked.Scrapy(command, environment)) as process:
        assert process.wait(TIMEOUT) == 0
    took = time.monotonic() - begun
    by_chance = random.Random(1)
    states = {(1_000, 1_000, 1_000)}
    for number in range(1, 4):
        # Half of them change what is there.
        make_livestreams(output, number, range(number * 500, number * 500 + 1_000), total_viewers=number)
        states.add((1_000 + number * 500, 1_000 + number * 1_000, 1_000 + number * 1_000))
        with closing(forked.Scrapy(command, environment)) as process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(by_chance.uniform(took / 2, took))
            process.kill()
        assert database.query(STATE)[0] in states
    bring(database.target, [output], tmp_path / "state")
    truth = Truth().see(output).tables()
    assert tables_of(database.target, LIVESTREAMS) == {table: truth[table] for table in LIVESTREAMS}


def test_two_exports_at_once_into_the_same_target_are_one_after_the_other(database: Database, tmp_path: Path) -> None:
    outputs = [tmp_path / "one" / "output", tmp_path / "two" / "output"]
    truth = Truth()
    with ThreadPoolExecutor(2) as pool:
        for number in range(3):
            for side, output in enumerate(outputs):
                # The same livestreams, in another order; what is newer comes from the one, then from the other.
                events = range(30) if side else range(29, -1, -1)
                make_livestreams(output, number * 2 + (side + number) % 2, events, total_viewers=number * 2 + side)
            [*pool.map(lambda output: bring(database.target, [output], output.with_name("state")), outputs)]
            truth.see(*outputs)
            assert rows_of(database.target, "livestreams") == truth.tables()["livestreams"]
    assert tables_of(database.target) == truth.tables()


def test_a_reader_never_sees_half_of_an_export_and_is_never_refused(
    database: Database, output: Path, tmp_path: Path
) -> None:
    over = Event()

    def read() -> Iterator[tuple[int, ...]]:
        while not over.wait(0.005):
            yield database.query(STATE)[0]

    some = Selection(tables=LIVESTREAMS)
    make_livestreams(output, 0, range(500))
    bring(database.target, [output], tmp_path / "state", selection=some)
    states = [(500, 500, 500)]
    with ThreadPoolExecutor(1) as pool:
        seen = pool.submit(lambda: [*read()])
        for number in range(1, 4):
            make_livestreams(output, number, range(number * 500, number * 500 + 1_000), total_viewers=number)
            states.append((number * 500 + 1_000, number * 1_000 + 500, number * 1_000 + 500))
            bring(database.target, [output], tmp_path / "state")
        # What was exported is deleted and comes again, in one step too.
        bring(database.target, [output], tmp_path / "state", selection=some, rebuild=True)
        over.set()
    assert set(seen.result()) <= {*states}
    assert len(set(seen.result())) > 2


def test_rows_of_a_run_that_has_changed_are_replaced(database: Database, output: Path, tmp_path: Path) -> None:
    make_run(output, "live", "run", [live_channel(1), live_channel(2)], quarantine=[rejected(1), rejected(2)])
    bring(database.target, [output], tmp_path / "state")
    make_run(output, "live", "run", [live_channel(3)], quarantine=[rejected(3)])
    bring(database.target, [output], tmp_path / "state")
    assert tables_of(database.target) == Truth().see(output).tables()
