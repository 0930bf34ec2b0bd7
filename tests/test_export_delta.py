"""Delta tables: others read them, versions stay for a week, and an export happens in all of them or in none."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import deltalake
import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable

from parti_scraper.dataset.engine import ExtraMissing, TargetError
from parti_scraper.dataset.export import _ATTEMPTS
from parti_scraper.dataset.selection import Selection
from parti_scraper.dataset.tables import LOADED, dataset_tables
from parti_scraper.dataset.targets import delta as targets
from parti_scraper.dataset.targets.named import target_of
from parti_scraper.exceptions import UsageError
from tests import forked
from tests.collecting import bring, differences, typed
from tests.dataset_truth import TABLES, Truth, rows_of
from tests.folders import make_run_of, make_runs
from tests.made_runs import category, live_channel, livestream, make_run, uuid_of
from tests.object_store import SECRET, ObjectStore
from tests.racing import race
from tests.support import environment_of, run_to_its_end

HELD = {*dataset_tables(), LOADED.name}
NOW = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()
DAY = timedelta(days=1).total_seconds()
LATER = "2026-11-27T12:00:00Z"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "dataset.delta"


@pytest.fixture
def bring_all(output: Path, target: Path) -> Callable[..., Any]:
    """Return a function that exports everything into the folder, and looks at what is there then."""

    def bring_all(**what: Any) -> Any:
        report = bring(target, [output], output.with_name("state"), **what)
        check(target)
        return report

    return bring_all


def check(folder: Path) -> None:
    """Compare what the logs say with the manifest and with `export_state`, and with the files."""
    manifest = json.loads((folder / "export.json").read_bytes())
    state = {row["name"]: row for row in pl.read_delta(str(folder / "export_state")).to_dicts()}
    assert [*state] == manifest["tables"]
    for name, row in state.items():
        table = DeltaTable(str(folder / name))
        parts = [each for each in manifest["parts"] if each["table"] == name]
        assert {f"{name}/{path}" for path in paths_of(table)} == {each["path"] for each in parts}
        assert (row["version"], row["rows"]) == (table.version(), sum(each["rows"] for each in parts))
        assert row["exported_at"] == datetime.fromisoformat(manifest["export"]["exported_at"])
        assert max(Counter(each["part"] for each in parts).values(), default=1) == 1
    assert not (folder / ".export").exists()
    needed = {each["path"] for each in manifest["parts"]} | {*manifest["removed"]}
    states = {each for each in needed if each.startswith("export_state/")} | {f"export_state/{manifest['id']}"}
    there = {
        path.relative_to(folder).as_posix() for path in folder.glob("*/**/*.parquet") if "_delta_log" not in path.parts
    }
    assert {
        name if not name.startswith("export_state/") else name.rpartition("-")[0] for name in there
    } == needed | states


def paths_of(table: DeltaTable) -> list[str]:
    paths: list[str] = table.get_add_actions(flatten=True).column("path").to_pylist()
    return paths


def versions(folder: Path) -> dict[str, int]:
    return {name: DeltaTable(str(folder / name)).version() for name in HELD}


def true_tables(*outputs: Path) -> dict[str, Any]:
    return Truth().see(*outputs).tables()


# --- What is there -----------------------------------------------------------------------------------------------


def test_every_table_is_one_that_any_reader_of_delta_can_read(
    output: Path, target: Path, bring_all: Callable[..., Any]
) -> None:
    make_runs(output, 0, 3)
    make_run(output, "live", "run", [live_channel(1)])
    make_run(output, "recent", "odd", [livestream(100, event_end=None)])
    bring_all()
    assert {path.name for path in target.iterdir()} == {*HELD, "export_state", "export.json"}
    for name, table in {**dataset_tables(), LOADED.name: LOADED}.items():
        found = DeltaTable(str(target / name))
        # The first protocol: no deletion vectors, no features that a reader has to know.
        assert (found.protocol().min_reader_version, found.protocol().min_writer_version) == (1, 2)
        assert found.metadata().partition_columns == ([str(table.partition)] if table.partition else [])
        assert (found.metadata().name, found.metadata().description) == (name, table.description)
        described = {each.name: each.metadata.get("comment") for each in found.schema().fields}
        assert [*described][: len(table.columns)] == [*table.names]
        assert described | {each.name: each.description for each in table.columns} == described
    path = str(target / "livestreams")
    frame = pl.scan_delta(path).collect()
    assert frame.schema["event_end"] == pl.Datetime("us", "UTC")
    assert Counter(frame["month"]) == {"2026-09": 4, "2026-10": 3, "2026-11": 3, "unknown": 1}
    files = DeltaTable(path).file_uris()
    assert duckdb.execute("SELECT count(*), count(DISTINCT event_id) FROM read_parquet($1)", [files]).fetchall() == [
        (11, 11)
    ]
    assert DeltaTable(path).count() == 11
    assert differences(target, true_tables(output)) == []


def test_a_filter_finds_a_row_at_the_ends_of_what_the_log_says_of_a_file(
    output: Path, target: Path, bring_all: Callable[..., Any]
) -> None:
    ends = ["2026-09-01T00:00:00Z", "2026-09-15T12:34:56Z", "2026-09-30T23:59:59Z", None]
    make_run(output, "recent", "run", [livestream(number, event_end=end) for number, end in enumerate(ends)])
    bring_all()
    table = pl.scan_delta(str(target / "livestreams"))
    for number, end in enumerate(ends):
        moment = None if end is None else datetime.fromisoformat(end)
        found = table.filter(pl.col("event_end").eq_missing(moment), event_id=number).collect()
        assert found["event_id"].to_list() == [number]
    actions = pl.DataFrame(DeltaTable(str(target / "livestreams")).get_add_actions(flatten=True)).sort(
        "partition.month"
    )
    assert actions["min.event_end"].to_list() == [datetime(2026, 9, 1, tzinfo=UTC), None]
    assert actions["max.event_id"].to_list() == [2, 3]
    assert actions["null_count.event_end"].to_list() == [0, 1]


def test_an_export_is_one_commit_of_each_table_that_it_changes(
    output: Path, target: Path, bring_all: Callable[..., Any]
) -> None:
    make_runs(output, 0, 2)
    bring_all(now=NOW)
    assert set(versions(target).values()) == {0}
    make_run(output, "categories", "run", [category(1)])
    bring_all(now=NOW + 60)
    assert {name for name, version in versions(target).items() if version} == {"categories", "runs", "loaded_files"}
    assert set(versions(target).values()) == {0, 1}
    notes = [each["userMetadata"] for each in DeltaTable(str(target / "categories")).history()]
    assert notes == ["export of 2026-11-28T12:01:00Z", "export of 2026-11-28T12:00:00Z"]
    before = versions(target)
    assert bring_all(now=NOW + 120).tables == {}
    assert versions(target) == before


def test_a_livestream_whose_month_changes_is_there_once(
    output: Path, target: Path, bring_all: Callable[..., Any]
) -> None:
    first = [livestream(1, event_end="2026-10-31T23:59:59Z"), livestream(2, event_end=None)]
    make_run(output, "recent", "first", [*first, livestream(3, event_end="2026-11-01T00:00:00Z")])
    bring_all()
    moved = [
        livestream(1, event_end="2026-11-01T00:00:01Z", scraped_at=LATER),
        livestream(2, event_end="2026-10-01T00:00:00Z", scraped_at=LATER),
    ]
    make_run(output, "recent", "second", moved)
    bring_all()
    frame = pl.read_delta(str(target / "livestreams"))
    assert sorted(zip(frame["month"], frame["event_id"], strict=True)) == [
        ("2026-10", 2),
        ("2026-11", 1),
        ("2026-11", 3),
    ]
    assert differences(target, true_tables(output)) == []


def test_where_there_are_no_runs_every_table_is_there(target: Path, bring_all: Callable[..., Any]) -> None:
    bring_all()
    assert {table: rows_of(target, table) for table in TABLES} == {table: [] for table in TABLES}
    assert bring_all().tables == {}


def test_tables_that_are_not_wanted_any_more_are_empty(
    output: Path, target: Path, bring_all: Callable[..., Any]
) -> None:
    make_runs(output, 0, 2)
    make_run(output, "categories", "run", [category(1)])
    bring_all()
    bring_all(selection=Selection(tables=("livestreams",)), rebuild=True)
    assert rows_of(target, "categories") == []
    assert len(rows_of(target, "livestreams")) == 7
    assert pl.read_delta(str(target / "categories"), version=0).height == 1
    (selection,) = set(pl.read_delta(str(target / "export_state"))["selection"])
    assert json.loads(selection) == {"tables": ["livestreams"]}
    bring_all(rebuild=True)
    assert differences(target, true_tables(output)) == []


# --- Versions ----------------------------------------------------------------------------------------------------


def test_an_earlier_export_is_there_for_a_week(output: Path, target: Path, bring_all: Callable[..., Any]) -> None:
    states = []
    for number in range(3):
        make_run_of(output, number)
        bring_all(now=NOW + number)
        states.append(true_tables(output)["livestreams"])

    def of_version(version: int) -> list[int]:
        """Read a table as it belongs to a version of `export_state`."""
        state = pl.read_delta(str(target / "export_state"), version=version)
        (held,) = state.filter(name="livestreams")["version"]
        return sorted(pl.read_delta(str(target / "livestreams"), version=held)["event_id"].to_list())

    assert [of_version(version) for version in range(3)] == [[row["event_id"] for row in rows] for rows in states]
    old = {*target.glob("livestreams/**/*.parquet")}
    make_run(output, "categories", "first", [category(1)])
    bring_all(now=NOW + 2 + 6.9 * DAY)
    assert {*target.glob("livestreams/**/*.parquet")} == old
    assert of_version(0) == [row["event_id"] for row in states[0]]
    make_run(output, "categories", "second", [category(2)])
    bring_all(now=NOW + 2 + 7.1 * DAY)
    assert {*target.glob("livestreams/**/*.parquet")} == {
        target / "livestreams" / path for path in paths_of(DeltaTable(str(target / "livestreams")))
    }
    assert differences(target, true_tables(output)) == []


def test_after_some_exports_the_log_is_read_from_a_checkpoint(
    output: Path, target: Path, bring_all: Callable[..., Any]
) -> None:
    only = Selection(tables=("categories",))
    for number in range(12):
        make_run(output, "categories", f"run-{number}", [category(number)])
        bring_all(selection=only)
    log = target / "categories" / "_delta_log"
    assert [path.name for path in log.glob("*.checkpoint.parquet")] == [f"{9:020}.checkpoint.parquet"]
    # What others may delete then.
    for number in range(9):
        (log / f"{number:020}.json").unlink()
    make_run(output, "categories", "last", [category(12)])
    bring_all()
    assert [row["category_id"] for row in rows_of(target, "categories")] == [*range(13)]


def test_vacuum_finds_nothing_that_is_not_older_than_a_week(
    output: Path, target: Path, bring_all: Callable[..., Any]
) -> None:
    for number in range(3):
        make_run_of(output, number)
        bring_all()
    for name in HELD:
        assert DeltaTable(str(target / name)).vacuum(full=True) == []
    assert len(DeltaTable(str(target / "livestreams")).vacuum(retention_hours=0, enforce_retention_duration=False)) > 0


def test_columns_that_an_earlier_version_did_not_have_are_added(
    output: Path, target: Path, bring_all: Callable[..., Any]
) -> None:
    make_run(output, "recent", "first", [livestream(1), livestream(2, event_end=None)])
    bring_all()
    forget_a_column(target, "user_avatar_id")
    assert "user_avatar_id" not in pl.read_delta(str(target / "livestreams")).columns
    make_run(output, "recent", "second", [livestream(3)])
    bring(target, [output], output.with_name("state"))
    assert [(row["event_id"], row["user_avatar_id"]) for row in rows_of(target, "livestreams")] == [
        (1, None),
        (2, None),
        (3, 4),
    ]
    schema = DeltaTable(str(target / "livestreams")).schema()
    assert {each.name for each in schema.fields} == {*dataset_tables()["livestreams"].names, "month"}
    assert pl.read_delta(str(target / "livestreams"), version=0).height == 2


def forget_a_column(folder: Path, column: str) -> None:
    """Make livestreams as if a version of the project had written them that did not know a column."""
    sizes = {}
    for path in folder.glob("livestreams/month=*/*.parquet"):
        without = duckdb.read_parquet(str(path), hive_partitioning=False).project(f"* EXCLUDE ({column})")
        without.write_parquet(f"{path}.new")
        path.with_name(f"{path.name}.new").replace(path)
        sizes[path.relative_to(folder / "livestreams").as_posix()] = path.stat().st_size
    log = folder / "livestreams" / "_delta_log" / f"{0:020}.json"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if "metaData" in line:
            schema = json.loads(line["metaData"]["schemaString"])
            schema["fields"] = [each for each in schema["fields"] if each["name"] != column]
            line["metaData"]["schemaString"] = json.dumps(schema)
        if "add" in line:
            line["add"]["size"] = sizes[line["add"]["path"]]
    log.write_text("\n".join(map(json.dumps, lines)))
    manifest = json.loads((folder / "export.json").read_bytes())
    manifest["export"]["schema_version"] = 1
    (folder / "export.json").write_text(json.dumps(manifest))


# --- Killed in between -------------------------------------------------------------------------------------------


def die_at(number: int, *, after: bool) -> None:
    """Let this process die at a commit, before or after it."""
    commit, left = targets._Log._commit, iter(range(number))

    def commit_or_die(self: Any, *arguments: Any) -> None:
        is_last = next(left, None) is None
        if is_last and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        commit(self, *arguments)
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)

    targets._Log._commit = commit_or_die  # type: ignore[method-assign]


@pytest.mark.parametrize(("number", "after"), [(0, False), (3, True), (8, False)])
def test_an_export_that_was_killed_between_commits_is_finished_by_the_next_also_if_its_runs_are_gone(
    output: Path, target: Path, tmp_path: Path, bring_all: Callable[..., Any], number: int, *, after: bool
) -> None:
    first = {"livestreams": [livestream(1), livestream(2)], "live": [live_channel(3), live_channel(4)]}
    make_run(output, "recent", "run", first["livestreams"])
    make_run(output, "live", "run", first["live"], status="sealed")
    bring_all()
    before = versions(target)
    # The run was resumed, and what it had after its last checkpoint is not there any more: nor is its livestream.
    make_run(output, "live", "run", [live_channel(3)])
    make_run(output, "recent", "second", [livestream(2, event_end="2026-10-01T00:00:00Z", scraped_at=LATER)])
    true = true_tables(output)
    process = forked.command(
        ["export", typed(target)],
        environment_of(output, None),
        tmp_path / "log",
        before=partial(die_at, number, after=after),
    )
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert sum(versions(target).values()) == sum(before.values()) + number + after
    frame = pl.read_delta(str(target / "livestreams"))
    assert sorted(frame["event_id"].to_list()) == [1, 2]
    (output / "live" / "run").rename(tmp_path / "gone")
    assert bring_all().tables == {}
    assert differences(target, true) == []
    assert {row["event_id"] for row in pl.read_delta(str(target / "streams")).to_dicts()} == {1, 2, 3}
    assert max(versions(target).values()) == 1


@pytest.mark.parametrize("moment", [1, 17])
def test_an_export_that_was_killed_before_it_happened_leaves_nothing(
    output: Path, target: Path, tmp_path: Path, bring_all: Callable[..., Any], moment: int
) -> None:
    make_runs(output, 0, 2)
    bring_all()
    make_runs(output, 2, 2)
    process = forked.command(["export", typed(target)], environment_of(output, None), tmp_path / "log", crash_at=moment)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(rows_of(target, "livestreams")) == 7
    bring_all()
    assert differences(target, true_tables(output)) == []


# --- Others at the same time -------------------------------------------------------------------------------------


class Place:
    """A place in a store, as a user knows it.

    Attributes:
        url: its address, as it is typed.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.url = f"delta+{store.url}/data sets/parti/"
        self._place = f"{store.url}/data%20sets/parti"
        self._options = {"AWS_ALLOW_HTTP": "true", **store.environment}

    def table(self, name: str) -> DeltaTable:
        return DeltaTable(f"{self._place}/{name}", storage_options=self._options)

    def rows(self, name: str) -> pl.DataFrame:
        # Polars itself does not find the files where there are spaces in the address.
        return pl.DataFrame(self.table(name).to_pyarrow_table())

    def check(self, *outputs: Path) -> None:
        """Compare what is there with the truth."""
        self.check_records(*outputs)
        streams = self.rows("streams")["event_id"].to_list()
        livestreams = self.rows("livestreams")["event_id"].to_list()
        assert len(streams) == len({*streams}) == len({*streams, *livestreams})

    def check_records(self, *outputs: Path) -> None:
        """Compare what is there of livestreams and of what was loaded with the truth."""
        true = true_tables(*outputs)
        assert sorted(self.rows("livestreams")["event_id"].to_list()) == [
            row["event_id"] for row in true["livestreams"]
        ]
        runs = {uuid_of(run.parent.name, run.name) for output in outputs for run in output.glob("*/*")}
        assert {*self.rows(LOADED.name)["run_uuid"]} == runs
        for row in self.rows("export_state").to_dicts():
            assert row["version"] == self.table(row["name"]).version(), row["name"]


@pytest.fixture
def place(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Return an empty place, which this process can reach."""
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    return Place(object_store)


def test_of_exporters_that_race_each_brings_all_of_its_runs(place: Place, tmp_path: Path) -> None:
    # PARTI_TEST_EXPORTERS=8 takes some minutes.
    outputs = [tmp_path / f"output-{number}" for number in range(int(os.environ.get("PARTI_TEST_EXPORTERS", "3")))]
    race(place.url, outputs, [2 * number for number in range(len(outputs))], 2, ("livestream_versions", "livestreams"))
    place.check_records(*outputs)


# The first table, and `export_state`, which is the last.
@pytest.mark.parametrize("number", [0, 16])
def test_an_export_that_is_overtaken_while_it_brings_the_logs_up_to_date_does_not_take_them_back(
    output: Path, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    other = tmp_path / "other"
    make_runs(output, 0, 2)
    make_runs(other, 2, 2)
    commit, left = targets._Log._commit, iter(range(number + 1))

    def overtake(self: Any, *arguments: Any) -> None:
        # After the look at whether the manifest is the newest, and before the commit.
        if next(left, None) == number:
            bring(place.url, [other], tmp_path / "other-state")
            assert next(left, None) is None
        commit(self, *arguments)

    monkeypatch.setattr(targets._Log, "_commit", overtake)
    bring(place.url, [output], tmp_path / "state")
    place.check(output, other)
    assert bring(place.url, [output], tmp_path / "state").tables == {}


def test_an_export_that_is_overtaken_before_it_happens_begins_again(
    output: Path, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    make_runs(output, 0, 2)
    bring(place.url, [output], tmp_path / "state")
    make_run_of(output, 2)
    make_runs(other, 3, 2)
    update, overtaking = targets._Session._update, iter([other])

    def overtaken(self: Any, load: Any) -> Any:
        done = update(self, load)
        for each in overtaking:
            bring(place.url, [each], tmp_path / "other-state")
        return done

    monkeypatch.setattr(targets._Session, "_update", overtaken)
    bring(place.url, [output], tmp_path / "state")
    place.check(output, other)


def test_it_is_tried_often_enough_for_eight_at_the_same_time() -> None:
    # The winner of each round is done, so the last one begins eight times, if all bring one export.
    assert _ATTEMPTS >= 2 * 8


def test_what_is_exported_into_a_store_is_read_from_there(output: Path, tmp_path: Path, place: Place) -> None:
    make_runs(output, 0, 2)
    environment = environment_of(output, None)
    process = run_to_its_end(["export", place.url], environment | {name: os.environ[name] for name in AWS})
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith(f"{place.url}: 2 files read, of parti.com\n")
    copy = tmp_path / "copy.duckdb"
    bring(copy, [], tmp_path / "state", earlier=[place.url])
    assert differences(copy, true_tables(output)) == []


AWS = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")


# --- Refused -----------------------------------------------------------------------------------------------------


def export_into(text: str, output: Path, *, code: int, **env: str) -> str:
    """Run `scrapy export`, which fails, and return the one line that it says."""
    process = run_to_its_end(["export", text], environment_of(output, None) | env)
    assert (process.returncode, process.stdout) == (code, "")
    assert SECRET not in process.stderr
    assert process.stderr.count("\n") == 1
    return process.stderr.removeprefix("scrapy export: ").rstrip()


@pytest.mark.parametrize(
    "text", ["delta+", "delta+data.csv", "delta+gs://bucket/data/", "delta+postgresql://host/x", "delta+data%20sets/"]
)
def test_what_is_no_place_of_delta_tables_is_a_usage_error(text: str) -> None:
    accepted = r"\(accepted: delta\+FOLDER/, delta\+s3://BUCKET/PREFIX/\)"
    with pytest.raises(UsageError, match=rf"^argument `TARGET`: not a place of Delta tables: .* {accepted}$"):
        target_of(text)


def test_a_folder_that_holds_something_else_is_refused(output: Path, target: Path, tmp_path: Path) -> None:
    make_run_of(output, 0)
    parquet = tmp_path / "parquet"
    bring(parquet, [output], tmp_path / "state")
    accepted = "(accepted: a new or empty folder, or an earlier export)"
    problem = f"argument `TARGET`: it holds 'datapackage.json': '{parquet}/' {accepted}"
    assert export_into(f"delta+{parquet}/", output, code=2) == problem
    bring(target, [output], tmp_path / "state")
    problem = f"argument `TARGET`: it holds 'export.json': '{target}/' {accepted}"
    assert export_into(f"{target}/", output, code=2) == problem
    (target / "export.json").write_text('{"name": "mine"}')
    assert export_into(typed(target), output, code=2).startswith(
        f"{target}/export.json is none of this project's exports"
    )


def test_delta_tables_of_others_are_left_alone(output: Path, target: Path) -> None:
    make_run_of(output, 0)
    deltalake.write_deltalake(str(target / "livestreams"), pl.DataFrame({"mine": [1]}))
    problem = f"{target}/ has a table `livestreams` that no export has made (accepted: another target)"
    assert export_into(typed(target), output, code=2) == problem
    assert pl.read_delta(str(target / "livestreams")).rows() == [(1,)]


def test_tables_of_a_later_version_are_refused(output: Path, target: Path, bring_all: Callable[..., Any]) -> None:
    bring_all()
    manifest = json.loads((target / "export.json").read_bytes())
    manifest["export"]["schema_version"] = 99
    manifest["later"] = True
    (target / "export.json").write_text(json.dumps(manifest))
    problem = export_into(typed(target), output, code=2)
    assert "was made by a later version of this project: its tables are of version 99" in problem


def test_a_folder_of_runs_is_no_target_also_with_the_prefix(output: Path) -> None:
    make_run_of(output, 0)
    problem = export_into(f"delta+{output}/", output, code=2)
    assert problem.startswith("argument `TARGET`: what is read is there: ")


def test_a_log_that_is_damaged_or_cannot_be_written_is_one_line(
    output: Path, target: Path, bring_all: Callable[..., Any]
) -> None:
    make_run_of(output, 0)
    bring_all()
    log = target / "channels" / "_delta_log"
    (log / f"{0:020}.json").write_text("{nonsense")
    make_run_of(output, 1)
    assert export_into(typed(target), output, code=1).startswith(f"{target}/: Kernel error: Json error: ")
    (log / f"{0:020}.json").unlink()
    log.rmdir()
    log.write_text("")
    assert export_into(typed(target), output, code=1) == f"{target}/: Not a directory (os error 20)"
    # What was exported is not lost: the next one brings the logs up to date.
    log.unlink()
    assert bring_all().tables == {}
    assert differences(target, true_tables(output)) == []


def test_a_commit_that_fails_for_another_reason_is_not_tried_for_ever(
    output: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise deltalake.exceptions.CommitFailedError("it does not work\nat all")

    monkeypatch.setattr(targets._Log, "_commit", fail)
    make_run_of(output, 0)
    with pytest.raises(TargetError, match=r"/: it does not work$"):
        bring(target, [output], output.with_name("state"))


@pytest.mark.parametrize(
    ("env", "text", "code", "problem"),
    [
        ({}, "s3://no-such-bucket/data/", 1, "s3://no-such-bucket/data/: there is no such bucket"),
        (
            {"AWS_SECRET_ACCESS_KEY": ""},
            "s3://bucket/data/",
            1,
            "s3://bucket/data/: no credentials (accepted: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY in the environment)",
        ),
        (
            {},
            f"s3://me:{SECRET}@bucket/data/",
            2,
            "argument `TARGET`: not a place: 's3://bucket/data/' (accepted: such as s3://BUCKET/PREFIX/)",
        ),
    ],
)
@pytest.mark.usefixtures("place")
def test_a_store_that_cannot_be_used_is_one_line(
    output: Path, env: dict[str, str], text: str, code: int, problem: str
) -> None:
    environment = {name: os.environ[name] for name in AWS} | env
    environment = {name: value for name, value in environment.items() if value}
    assert export_into(f"delta+{text}", output, code=code, **environment) == problem


def test_without_deltalake_an_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(ExtraMissing, match=r"^deltalake is not installed \(extra `delta`\): pip install deltalake$"):
        target_of("delta+data/")
