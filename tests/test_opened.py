"""The dataset in Python: whatever is opened has the same tables, and nothing is left of it but the connection."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from duckdb import DuckDBPyConnection

import parti_scraper
from parti_scraper.dataset.engine import TargetError
from parti_scraper.dataset.selection import Selection
from parti_scraper.dataset.tables import dataset_tables
from parti_scraper.exceptions import UsageError
from parti_scraper.redact import Secret
from tests.collecting import bring, typed
from tests.dataset_truth import DELTA
from tests.made_runs import RUNNING, live_channel, livestream, make_run, note_checkpoint
from tests.object_store import ObjectStore

# Of each table, how many rows; of the others there are none.
HELD = {
    "livestreams": 2,
    "livestream_versions": 2,
    "live_channels": 1,
    "runs": 2,
    "snapshots": 1,
    "streams": 3,
    "channels": 3,
    "coverage": 1,
}
FORMS = ("data", "dataset.delta", "dataset.duckdb", "dataset.sqlite")

Opened = Callable[..., DuckDBPyConnection]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def opened(temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Return a function that opens a dataset, and leaves nothing in the temporary and the working folder."""
    here, connections = tmp_path / "here", list[DuckDBPyConnection]()
    here.mkdir()
    monkeypatch.chdir(here)

    def opened(*places: Path | str, **what: Any) -> DuckDBPyConnection:
        before = {*temporary.iterdir()}
        try:
            named = [typed(each) if str(each).endswith(DELTA) else each for each in places]
            connections.append(parti_scraper.open_dataset(*named, **what))
        finally:
            assert {*temporary.iterdir()} == before
        return connections[-1]

    yield opened
    for connection in connections:
        connection.close()
    assert [*here.iterdir()] == []


@pytest.fixture
def runs(output: Path) -> Path:
    """Return a folder of runs."""
    make_run(output, "recent", "run", [livestream(1), livestream(2)])
    make_run(output, "live", "run", [live_channel(3)])
    return output


def count(connection: DuckDBPyConnection, table: str) -> int:
    ((number,),) = connection.execute(f"SELECT count(*) FROM {table}").fetchall()
    return int(number)


def counts(connection: DuckDBPyConnection, tables: Iterable[str] = HELD) -> dict[str, int]:
    return {table: number for table in tables if (number := count(connection, table))}


def views(connection: DuckDBPyConnection) -> set[str]:
    found = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
    return {name for (name,) in found}


# --- What can be opened ------------------------------------------------------------------------------------------


def test_runs_are_opened_with_all_that_follows_from_them(runs: Path, opened: Opened) -> None:
    connection = opened(runs)
    assert views(connection) == {*dataset_tables()}
    assert counts(connection, dataset_tables()) == HELD
    (row,) = connection.execute("SELECT event_id, event_end::VARCHAR FROM livestreams WHERE event_id = 1").fetchall()
    assert row == (1, "2026-11-25 10:30:00+00")


@pytest.mark.parametrize("form", FORMS)
def test_an_export_is_opened_as_it_is(form: str, runs: Path, tmp_path: Path, opened: Opened) -> None:
    bring(tmp_path / form, [runs], tmp_path / "state")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if "here" not in path.parts}
    connection = opened(tmp_path / form)
    assert views(connection) == {*dataset_tables()}
    assert counts(connection, dataset_tables()) == HELD
    types = connection.execute("SELECT typeof(event_end), typeof(has_access_pass) FROM livestreams").fetchall()
    assert set(types) == {("TIMESTAMP WITH TIME ZONE", "BOOLEAN")}
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if "here" not in path.parts}
    assert {path for path in before if before[path] != after[path]} <= {tmp_path / "temporary"}


@pytest.mark.parametrize("form", FORMS)
def test_of_tables_that_an_export_does_not_have_there_is_no_view(
    form: str, runs: Path, tmp_path: Path, opened: Opened
) -> None:
    one = Selection(tables=("livestreams",))
    bring(tmp_path / form, [runs], tmp_path / "state", selection=one, rebuild=True)
    connection = opened(tmp_path / form)
    assert "live_channels" not in views(connection)
    assert count(connection, "livestreams") == 2


def test_a_database_is_opened_as_it_is_also_by_the_address_that_is_configured(
    runs: Path, tmp_path: Path, opened: Opened, postgres_url: str
) -> None:
    bring(postgres_url, [runs], tmp_path / "state")
    for connection in (opened(postgres_url), opened("postgresql://", database_url=Secret(postgres_url))):
        assert counts(connection, dataset_tables()) == HELD
        (row,) = connection.execute("SELECT event_end::VARCHAR, extra FROM livestreams WHERE event_id = 1").fetchall()
        assert row == ("2026-11-25 10:30:00+00", "{}")


def test_an_export_in_an_object_store_is_opened_as_it_is(
    runs: Path, tmp_path: Path, opened: Opened, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    bring(f"{object_store.url}/data/", [runs], tmp_path / "state")
    assert counts(opened(f"{object_store.url}/data/"), dataset_tables()) == HELD


def test_several_places_are_one_dataset(runs: Path, tmp_path: Path, opened: Opened) -> None:
    bring(tmp_path / "data", [runs], tmp_path / "state")
    make_run(tmp_path / "more", "recent", "more", [livestream(2), livestream(4)])
    bring(tmp_path / "dataset.sqlite", [tmp_path / "more"], tmp_path / "state")
    make_run(tmp_path / "others", "recent", "others", [livestream(5)])
    connection = opened(tmp_path / "data", tmp_path / "dataset.sqlite", tmp_path / "others")
    ids = connection.execute("SELECT event_id FROM livestreams ORDER BY event_id").fetchall()
    assert ids == [(1,), (2,), (4,), (5,)]
    assert (count(connection, "streams"), count(connection, "runs")) == (5, 4)


def test_made_up_data_are_opened_if_they_are_asked_for(runs: Path, opened: Opened) -> None:
    make_run(runs, "recent", "made-up", [livestream(9)], source="mock")
    for source, ids in ((None, [1, 2]), ("mock", [9])):
        found = opened(runs, source=source).execute("SELECT event_id FROM livestreams ORDER BY event_id").fetchall()
        assert found == [(each,) for each in ids]


def test_a_run_that_goes_on_is_read_with_its_ledger_only(runs: Path, tmp_path: Path, opened: Opened) -> None:
    note_checkpoint(tmp_path / "state", make_run(runs, "recent", "going", [livestream(9)], status=RUNNING))
    assert count(opened(runs), "livestreams") == 2
    assert count(opened(runs, state=tmp_path / "state"), "livestreams") == 3


# --- Meanwhile ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_what_an_export_does_meanwhile_does_not_show(form: str, runs: Path, tmp_path: Path, opened: Opened) -> None:
    bring(tmp_path / form, [runs], tmp_path / "state")
    connection = opened(tmp_path / form)
    make_run(runs, "recent", "new", [livestream(4)])
    bring(tmp_path / form, [runs], tmp_path / "state")
    assert counts(connection, dataset_tables()) == HELD
    assert count(opened(tmp_path / form), "livestreams") == 3


def test_who_has_it_open_can_add_tables_but_not_change_it(runs: Path, tmp_path: Path, opened: Opened) -> None:
    bring(tmp_path / "dataset.duckdb", [runs], tmp_path / "state")
    connection = opened(tmp_path / "dataset.duckdb")
    connection.execute("CREATE TABLE mine AS SELECT event_id FROM livestreams")
    assert count(connection, "mine") == 2
    with pytest.raises(duckdb.InvalidInputException, match="read-only"):
        connection.execute("DELETE FROM held.main.livestreams")


# --- Refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nothing", "nothing/", "nothing.duckdb", "nothing.sqlite", "notes.txt"])
def test_what_is_not_there_or_something_else_is_a_usage_error(name: str, tmp_path: Path, opened: Opened) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="neither a folder of runs nor an export"):
        opened(f"{tmp_path}/{name}")
    assert not (tmp_path / "nothing").exists()


def test_the_folder_of_a_single_run_is_a_usage_error(runs: Path, opened: Opened) -> None:
    with pytest.raises(UsageError, match="neither a folder of runs nor an export"):
        opened(runs / "recent" / "run")


def test_a_database_without_an_export_is_a_usage_error(tmp_path: Path, opened: Opened, postgres_url: str) -> None:
    with duckdb.connect(str(tmp_path / "other.duckdb")) as connection:
        connection.execute("CREATE TABLE livestreams (event_id BIGINT)")
    with pytest.raises(UsageError, match="neither a folder of runs nor an export"):
        opened(tmp_path / "other.duckdb")
    with pytest.raises(UsageError, match="neither a folder of runs nor an export"):
        opened(postgres_url)


@pytest.mark.parametrize("form", FORMS[2:])
def test_a_file_that_is_damaged_cannot_be_read(form: str, tmp_path: Path, opened: Opened) -> None:
    (tmp_path / form).write_bytes(b"What is it?" * 1_000)
    with pytest.raises(TargetError, match="cannot be read: "):
        opened(tmp_path / form)
