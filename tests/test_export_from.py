"""Earlier exports as input: a target made of them is as one made of the runs, and nothing is loaded twice."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import psycopg
import pytest

from parti_scraper.dataset.export import Report
from parti_scraper.dataset.inputs import Inputs
from parti_scraper.dataset.selection import Selection
from parti_scraper.dataset.targets.named import target_of
from tests.collecting import LASTING, Collector, bring, differences, typed
from tests.dataset_truth import COLLECTIONS, TABLES, Row, Truth, rows_of
from tests.folders import PACKAGE, make_run_of
from tests.made_runs import (
    ENDINGS,
    RUNNING,
    live_channel,
    livestream,
    make_run,
    note_checkpoint,
    rejected,
    uuid_of,
)
from tests.object_store import ObjectStore
from tests.postgresql import SECRET
from tests.support import environment_of, run_to_its_end

# Each is a collection in some twenty steps, with exports in between.
SEEDS = 2

Bring = Callable[..., Report]

LATER = {"scraped_at": "2026-11-27T12:00:00Z"}
# The kinds of target that can be read.
FORMS = ("export", "export.duckdb", "export.sqlite")


@pytest.fixture
def bring_from(tmp_path: Path) -> Bring:
    """Return a function that exports into a target from earlier exports and folders of runs."""

    def bring_from(target: Path | str, *earlier: Path | str, runs: Sequence[Path] = (), **what: Any) -> Report:
        exports = Inputs.parse([typed(each) for each in earlier], None).exports
        return bring(target, runs, tmp_path / "state", earlier=exports, **what)

    return bring_from


def scrapy_export(output: Path, *words: object, **settings: str) -> subprocess.CompletedProcess[str]:
    return run_to_its_end(["export", *map(str, words)], environment_of(output, None, settings))


# --- The same as from the runs -----------------------------------------------------------------------------------


def happen(collector: Collector, random: Random) -> None:
    """Let something happen to the runs."""
    events = [(event_id, random.randrange(3)) for event_id in random.sample(range(1, 8), random.randrange(1, 4))]
    which = random.randrange(10)
    steps: list[tuple[Callable[..., None], list[Any]]] = [
        (collector.collect, [random.choice(sorted(COLLECTIONS)), events, random.choice(sorted(ENDINGS))]),
        (collector.begin, [random.choice(LASTING), events]),
        (collector.go_on, [which, events]),
        (collector.finish, [which]),
        (collector.kill, [which, events]),
        (collector.resume, [which, events]),
        (collector.copy, [which]),
        (collector.move, [which]),
    ]
    step, values = random.choice(steps)
    step(*values)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_target_of_exports_and_runs_in_any_order_is_the_truth(
    tmp_path: Path, bring_from: Bring, postgres_url: str, seed: int
) -> None:
    random, collector, truth = Random(seed), Collector(tmp_path), Truth()
    exports, grown = [postgres_url, *(tmp_path / form for form in FORMS)], tmp_path / "grown.sqlite"
    for _ in range(3):
        for _ in range(9):
            happen(collector, random)
        export = random.choice(exports)
        bring(export, collector.outputs, collector.state)
        truth.see(*collector.outputs, state=collector.state)
        bring_from(grown, export)
    collector.end()
    for export in exports:
        bring(export, collector.outputs, collector.state)
    truth.see(*collector.outputs, state=collector.state)
    bring_from(grown, *random.sample(exports, len(exports)))
    # Of a run that was cut, an export may have a state that was longer.
    of_runs = {"live_channels", "quarantine", "api_calls"} if collector.was_cut else set()
    assert differences(grown, truth.tables(), {*TABLES} - of_runs) == []
    # With the runs, nothing of them is loaded that is in the exports.
    both = tmp_path / "both"
    report = bring_from(both, *random.sample(exports, len(exports)), runs=collector.outputs)
    assert (report.files, report.exports) == (0, len(exports))
    assert differences(both, truth.tables()) == []
    assert bring_from(both, *exports, runs=collector.outputs).tables == {}


def test_an_export_of_an_export_of_an_export_is_the_same(output: Path, tmp_path: Path, bring_from: Bring) -> None:
    for number in range(3):
        make_run_of(output, number)
    make_run(output, "live", "run", [live_channel(1)], quarantine=[rejected(1)])
    bring(tmp_path / "first", [output], tmp_path / "state")
    bring_from(tmp_path / "second.sqlite", tmp_path / "first")
    bring_from(tmp_path / "third.duckdb", tmp_path / "second.sqlite")
    bring_from(tmp_path / "fourth", tmp_path / "third.duckdb")
    assert differences(tmp_path / "fourth", Truth().see(output).tables()) == []
    # It knows what it has of the runs, and of the exports.
    assert bring_from(tmp_path / "fourth", tmp_path / "first", tmp_path / "second.sqlite", runs=[output]).tables == {}


def test_an_export_in_an_object_store_is_read_too(
    output: Path, tmp_path: Path, bring_from: Bring, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    make_run_of(output, 0)
    bring(f"{object_store.url}/data/", [output], tmp_path / "state")
    report = bring_from(tmp_path / "all.sqlite", f"{object_store.url}/data/")
    assert (report.files, report.exports) == (0, 1)
    assert differences(tmp_path / "all.sqlite", Truth().see(output).tables()) == []


def test_a_database_is_read_as_it_was_committed_also_while_an_export_into_it_goes_on(
    output: Path, tmp_path: Path, bring_from: Bring, postgres_url: str
) -> None:
    titles = ('a, "b"\r\nc', "", None, "\\N", " \t", "\n", "'")
    make_run(output, "recent", "run", [livestream(n, event_title=title) for n, title in enumerate(titles, 1)])
    make_run(output, "live", "run", [live_channel(1)], quarantine=[rejected(1)])
    true = Truth().see(output).tables()
    bring(postgres_url, [output], tmp_path / "state")
    with target_of(postgres_url).open() as session, psycopg.connect(postgres_url) as other:
        # It has the lock of exports, and has changed what it has not committed.
        session.begin()
        session.execute("DELETE FROM parti.livestreams")
        other.execute("UPDATE parti.livestream_versions SET event_title = 'not yet'")
        report = bring_from(tmp_path / "data.delta", postgres_url)
    assert (report.files, report.exports) == (0, 1)
    assert differences(tmp_path / "data.delta", true) == []
    assert bring_from(tmp_path / "data.delta", postgres_url, runs=[output]).tables == {}


def test_the_database_that_is_configured_is_read(output: Path, tmp_path: Path, postgres_url: str) -> None:
    make_run_of(output, 0)
    bring(postgres_url, [output], tmp_path / "state")
    words = (f"{tmp_path}/data/", "--from", "postgresql://")
    problem = refused(scrapy_export(output, *words))
    assert problem.startswith("option `--from`: PARTI_DATABASE_URL is not set (accepted: postgresql://USER")
    assert scrapy_export(output, *words, PARTI_DATABASE_URL=postgres_url).returncode == 0
    assert differences(tmp_path / "data", Truth().see(output).tables()) == []


def test_a_database_is_not_read_into_itself_and_its_password_is_not_shown(
    output: Path, tmp_path: Path, postgres_url: str
) -> None:
    make_run_of(output, 0)
    bring(postgres_url, [output], tmp_path / "state")
    shown = f"postgresql://{postgres_url.partition('@')[2]}"
    for target in ("postgresql://", postgres_url, postgres_url.replace("127.0.0.1", "localhost")):
        process = scrapy_export(output, target, "--from", postgres_url, PARTI_DATABASE_URL=postgres_url)
        problem = refused(process)
        assert problem.startswith("argument `TARGET`: it is read by --from: 'postgresql://")
        assert SECRET not in problem
    for command in (["coverage"], ["prune", "--older-than", "90d", "--exported-to", str(tmp_path)]):
        process = run_to_its_end([*command, "--from", postgres_url], environment_of(output, None))
        problem = refused(process, command[0])
        assert problem.startswith("option `--from`: an export")
        assert repr(shown) in problem
    # Nobody is there.
    gone = postgres_url.replace(postgres_url.rpartition("/")[0].rpartition(":")[2], "1")
    process = scrapy_export(output, tmp_path / "all.sqlite", "--from", gone)
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr.startswith("scrapy export: postgresql://127.0.0.1:1/")
    assert len(process.stderr.splitlines()) == 1
    assert SECRET not in process.stderr


def test_a_file_with_one_table_is_made_of_an_export(output: Path, tmp_path: Path, bring_from: Bring) -> None:
    make_run_of(output, 0)
    bring(tmp_path / "export", [output], tmp_path / "state")
    bring_from(tmp_path / "streams.parquet", tmp_path / "export")
    assert rows_of(tmp_path / "streams.parquet", "livestreams") == Truth().see(output).tables()["livestreams"]


# --- What is known of runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_records_whose_files_were_pruned_are_carried_over(
    output: Path, tmp_path: Path, bring_from: Bring, form: str
) -> None:
    make_run_of(output, 0)
    make_run(output, "live", "run", [live_channel(1)])
    true = Truth().see(output).tables()
    bring(tmp_path / form, [output], tmp_path / "state")
    for run in output.glob("*/*"):
        package = json.loads((run / PACKAGE).read_bytes())
        (run / PACKAGE).write_text(json.dumps(package | {"pruned": True}))
        for path in run.glob("*.jsonl"):
            path.unlink()
    report = bring_from(tmp_path / "anew.sqlite", tmp_path / form, runs=[output])
    assert report.left_out == ()
    assert differences(tmp_path / "anew.sqlite", true) == []
    report = bring_from(tmp_path / "empty.sqlite", runs=[output])
    assert {each.reason for each in report.left_out} == {
        "its files were removed by `prune`, and are not in this target"
    }


def test_of_a_run_that_goes_on_only_the_rest_is_read(output: Path, tmp_path: Path, bring_from: Bring) -> None:
    state = tmp_path / "state"
    rows = [live_channel(number) for number in range(1, 4)]
    note_checkpoint(state, make_run(output, "live", "run", rows, status=RUNNING))
    bring(tmp_path / "export", [output], state)
    rows += [live_channel(9, "run-2")]
    note_checkpoint(state, make_run(output, "live", "run", rows, status=RUNNING))
    report = bring_from(tmp_path / "all", tmp_path / "export", runs=[output])
    assert (report.files, report.exports) == (1, 1)
    assert len(rows_of(tmp_path / "all", "live_channels")) == 4
    assert loaded_of(tmp_path / "all", "live", "run") == {"live_channels.jsonl": 4, PACKAGE: 1}


def loaded_of(folder: Path, spider: str, run_id: str) -> dict[str, int]:
    """Return how many rows of each file of a run an export has."""
    package = json.loads((folder / PACKAGE).read_bytes())
    (path,) = (folder / each["path"] for each in package["resources"] if each["table"] == "loaded_files")
    query = "SELECT file, rows FROM read_parquet($path) WHERE run_uuid = $run"
    return dict(duckdb.execute(query, {"path": str(path), "run": uuid_of(spider, run_id)}).fetchall())


def test_states_of_a_run_that_was_cut_and_went_on_are_not_mixed(
    output: Path, tmp_path: Path, bring_from: Bring
) -> None:
    sealed = [rejected(number, record=f"cut {number}") for number in range(3)]
    make_run(output, "live", "run", [live_channel(1), live_channel(2)], quarantine=sealed, status="sealed")
    bring(tmp_path / "sealed", [output], tmp_path / "state")
    whole = [rejected(number, record=f"whole and longer {number}") for number in range(4)]
    make_run(output, "live", "run", [live_channel(1), live_channel(7), live_channel(8)], quarantine=whole)
    bring(tmp_path / "whole.duckdb", [output], tmp_path / "state")
    before, after = tmp_path / "sealed", tmp_path / "whole.duckdb"
    true = Truth().see(output).tables()
    # In each step, into the same target, several exports or one are read, with the runs or without them.
    for number, (runs, steps) in enumerate(
        (
            ([], [[after, before]]),
            ([], [[before, after]]),
            ([], [[before], [after]]),
            ([output], [[after, before]]),
            ([output], [[before, after]]),
            ([output], [[before], [after]]),
        )
    ):
        target = tmp_path / f"all-{number}.sqlite"
        for exports in steps:
            bring_from(target, *exports, runs=runs)
            # That of the run is whole in the runs, too.
            if runs or after in exports:
                assert differences(target, true) == []


@pytest.mark.parametrize("has_target", [False, True])
def test_of_a_run_with_days_only_the_day_that_was_cut_is_replaced(
    output: Path, tmp_path: Path, bring_from: Bring, has_target: bool
) -> None:
    first, second = "2026-11-26", "2026-11-27"
    last = {"observed_at": f"{second}T12:00:00Z"}
    make_run(output, "live", "run", [live_channel(1)], quarantine=[rejected(1)], day=first)
    cut = [live_channel(2, "run-2", **last), live_channel(3, "run-2", **last)]
    make_run(output, "live", "run", cut, quarantine=[rejected(2), rejected(3)], day=second, status="sealed")
    bring(tmp_path / "sealed", [output], tmp_path / "state")
    if has_target:
        bring(tmp_path / "all.sqlite", [output], tmp_path / "state")
    whole = [live_channel(2, "run-2", **last), live_channel(7, "run-2", **last), live_channel(8, "run-2", **last)]
    make_run(output, "live", "run", whole, quarantine=[rejected(4)], day=second)
    bring_from(tmp_path / "all.sqlite", tmp_path / "sealed", runs=[output])
    assert differences(tmp_path / "all.sqlite", Truth().see(output).tables()) == []


# --- When livestreams were received ------------------------------------------------------------------------------


def test_first_and_last_times_are_kept(output: Path, tmp_path: Path, bring_from: Bring) -> None:
    make_run(output, "recent", "first", [livestream(1, total_viewers=5)])
    make_run(output, "recent", "second", [livestream(1, total_viewers=6, **LATER)])
    make_run(output, "recent", "third", [livestream(1, total_viewers=5, scraped_at="2026-11-28T12:00:00Z")])
    bring(tmp_path / "export", [output], tmp_path / "state")
    bring_from(tmp_path / "all.sqlite", tmp_path / "export")
    times = [
        (row["total_viewers"], row["first_scraped_at"][:10], row["last_scraped_at"][:10])
        for row in rows_of(tmp_path / "all.sqlite", "livestream_versions")
    ]
    assert times == [(5, "2026-11-26", "2026-11-28"), (6, "2026-11-27", "2026-11-27")]
    (row,) = rows_of(tmp_path / "all.sqlite", "livestreams")
    assert (row["total_viewers"], row["scraped_at"][:10], row["first_scraped_at"][:10]) == (
        5,
        "2026-11-28",
        "2026-11-26",
    )


def only_livestreams(output: Path, tmp_path: Path) -> Path:
    """Return an export of livestreams only: one with two versions."""
    make_run(output, "recent", "first", [livestream(1, total_viewers=5), livestream(2)])
    make_run(output, "recent", "second", [livestream(1, total_viewers=6, **LATER)])
    bring(tmp_path / "only", [output], tmp_path / "state", selection=Selection(tables=("livestreams",)))
    return tmp_path / "only"


def test_an_export_without_versions_has_the_newest_and_when_the_livestream_was_first_received(
    output: Path, tmp_path: Path, bring_from: Bring
) -> None:
    only = only_livestreams(output, tmp_path)
    bring_from(tmp_path / "all.sqlite", only)
    assert rows_of(tmp_path / "all.sqlite", "livestreams") == Truth().see(output).tables()["livestreams"]
    versions = rows_of(tmp_path / "all.sqlite", "livestream_versions")
    assert [(row["event_id"], row["total_viewers"], row["first_scraped_at"][:10]) for row in versions] == [
        (1, 6, "2026-11-27"),
        (2, 20, "2026-11-26"),
    ]
    bring_from(tmp_path / "again.sqlite", tmp_path / "all.sqlite")
    assert rows_of(tmp_path / "again.sqlite", "livestreams") == rows_of(tmp_path / "all.sqlite", "livestreams")


def test_runs_are_loaded_again_where_the_export_lacks_a_table_that_is_made_of_them(
    output: Path, tmp_path: Path, bring_from: Bring
) -> None:
    only = only_livestreams(output, tmp_path)
    report = bring_from(tmp_path / "all.sqlite", only, runs=[output])
    assert (report.files, report.exports) == (2, 1)
    assert differences(tmp_path / "all.sqlite", Truth().see(output).tables()) == []
    livestreams = Selection(tables=("livestreams",))
    assert bring_from(tmp_path / "two.sqlite", only, runs=[output], selection=livestreams).files == 0


def test_an_export_with_filters_gives_what_it_has(output: Path, tmp_path: Path, bring_from: Bring) -> None:
    make_run(output, "recent", "run", [livestream(1, category_id=7), livestream(2, category_id=8)])
    make_run(output, "live", "run", [live_channel(1), live_channel(2, category_id=8)])
    bring(tmp_path / "filtered", [output], tmp_path / "state", selection=Selection(categories="8"))
    bring_from(tmp_path / "some.sqlite", tmp_path / "filtered")
    true = Truth().see(output).tables()
    for table in ("livestreams", "live_channels"):
        assert rows_of(tmp_path / "some.sqlite", table) == [row for row in true[table] if row["category_id"] == 8]
    report = bring_from(tmp_path / "some.sqlite", tmp_path / "filtered", runs=[output])
    assert (report.files, report.exports) == (2, 0)
    assert differences(tmp_path / "some.sqlite", true) == []


# --- Again -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_an_export_is_loaded_again_only_where_it_has_changed(
    output: Path, tmp_path: Path, bring_from: Bring, form: str
) -> None:
    make_run_of(output, 0)
    bring(tmp_path / form, [output], tmp_path / "state")
    assert bring_from(tmp_path / "all.sqlite", tmp_path / form).exports == 1
    assert bring_from(tmp_path / "all.sqlite", tmp_path / form) == Report({}, (), 0, None)
    make_run_of(output, 1)
    bring(tmp_path / form, [output], tmp_path / "state")
    report = bring_from(tmp_path / "all.sqlite", tmp_path / form)
    assert (report.exports, report.tables["livestreams"].new) == (1, 3)
    assert differences(tmp_path / "all.sqlite", Truth().see(output).tables()) == []


def test_a_target_that_is_filtered_is_made_of_all_of_it_each_time(
    output: Path, tmp_path: Path, bring_from: Bring
) -> None:
    make_run_of(output, 0)
    bring(tmp_path / "export", [output], tmp_path / "state")
    for _ in range(2):
        selection = Selection(user_id="2")
        report = bring_from(tmp_path / "some.sqlite", tmp_path / "export", selection=selection)
        assert report.exports == 1
        assert [row["event_id"] for row in rows_of(tmp_path / "some.sqlite", "livestreams")] == [1]


# --- Damaged, or of another source -------------------------------------------------------------------------------


def test_an_export_that_is_damaged_is_left_out_and_named_until_it_is_whole(output: Path, tmp_path: Path) -> None:
    make_run_of(output, 0)
    export, target = tmp_path / "export", tmp_path / "all.sqlite"
    bring(export, [output], tmp_path / "state")
    make_run_of(tmp_path / "more", 1)
    package = json.loads((export / PACKAGE).read_bytes())
    name = next(each["path"] for each in package["resources"] if each["table"] == "livestreams")
    content = (export / name).read_bytes()
    (export / name).write_bytes(content[:-5] + b"x" + content[-4:])
    typed = (target, "--from", f"{export}/", "--from", tmp_path / "more")
    process = scrapy_export(output, *typed)
    problem = f"{name} is not what its data package says (SHA-256)"
    assert (process.returncode, process.stderr) == (4, "")
    assert f"  left out: 1 earlier export: {problem}: {export}/\n" in process.stdout
    assert differences(target, Truth().see(tmp_path / "more").tables()) == []
    (export / name).unlink()
    assert "  left out: 1 earlier export: it cannot be read: " in scrapy_export(output, *typed).stdout
    (export / name).write_bytes(content)
    process = scrapy_export(output, *typed)
    assert process.returncode == 0
    assert process.stdout.startswith(f"{target}: 0 files and 1 earlier export read, of parti.com\n")
    assert differences(target, Truth().see(output, tmp_path / "more").tables()) == []


@pytest.mark.parametrize("form", FORMS[1:])
def test_a_file_that_is_no_database_is_left_out(output: Path, tmp_path: Path, bring_from: Bring, form: str) -> None:
    make_run_of(output, 0)
    (tmp_path / form).write_bytes(b"What is it?" * 1_000)
    report = bring_from(tmp_path / "all.sqlite", tmp_path / form, runs=[output])
    (left_out,) = report.left_out
    assert (left_out.folder, left_out.is_wrong) == (str(tmp_path / form), True)
    assert left_out.reason.startswith("it cannot be read: ")
    assert differences(tmp_path / "all.sqlite", Truth().see(output).tables()) == []


def test_made_up_data_do_not_come_beside_real_ones(output: Path, tmp_path: Path, bring_from: Bring) -> None:
    mock, real = tmp_path / "mock", tmp_path / "real"
    make_run(tmp_path / "made-up", "recent", "run", [livestream(1)], source="mock")
    bring(mock, [tmp_path / "made-up"], tmp_path / "state")
    make_run(output, "recent", "run", [livestream(2)])
    bring(real, [output], tmp_path / "state")
    for number, (exports, runs) in enumerate((([mock, real], []), ([mock], [output]), ([real, mock], [output]))):
        report = bring_from(tmp_path / f"all-{number}.sqlite", *exports, runs=runs)
        assert report.source == "parti.com"
        assert [(each.folder, each.reason, each.is_wrong) for each in report.left_out] == [
            (f"{mock}/", "its data come from mock, not parti.com", False)
        ]
        assert [row["event_id"] for row in rows_of(tmp_path / f"all-{number}.sqlite", "livestreams")] == [2]
    report = bring_from(tmp_path / "of-mock.sqlite", mock, real, source="mock")
    assert report.source == "mock"
    assert [row["event_id"] for row in rows_of(tmp_path / "of-mock.sqlite", "livestreams")] == [1]
    process = scrapy_export(output, f"{real}/", "--from", f"{mock}/")
    assert process.returncode == 2
    assert f"{real}/ holds data of parti.com, and these are of mock" in process.stderr


# --- Refused -----------------------------------------------------------------------------------------------------


def refused(process: subprocess.CompletedProcess[str], command: str = "export") -> str:
    """Return the one line of an error of usage."""
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith(f"scrapy {command}: ")
    assert process.stderr.count("\n") == 1
    return process.stderr.removeprefix(f"scrapy {command}: ").removesuffix("\n")


def test_a_target_that_touches_what_is_read_is_refused(output: Path, tmp_path: Path) -> None:
    make_run_of(output, 0)
    bring(tmp_path / "export", [output], tmp_path / "state")
    before = sorted(tmp_path.rglob("*"))
    for target, read in (
        (f"{output}/", output),
        (str(output), output),
        (f"{output}/dataset/", output),
        (f"{output}/recent/run-0/", output),
        (f"{tmp_path}/", output),
        (f"{tmp_path}/export/more/", f"{tmp_path}/export/"),
    ):
        accepted = f"(accepted: a folder that neither holds {str(read)!r} nor is in it)"
        process = scrapy_export(output, target, *([] if read == output else ["--from", read]))
        assert refused(process) == f"argument `TARGET`: what is read is there: {target!r} {accepted}"
    export = f"{tmp_path}/export/"
    for words in ([export, "--from", export], [export, "--from", output, "--from", f"{tmp_path}/./export"]):
        process = scrapy_export(output, *words)
        assert refused(process) == f"argument `TARGET`: it is read by --from: {export!r} (accepted: another target)"
    assert sorted(tmp_path.rglob("*")) == before
    assert scrapy_export(output, output / "streams.csv").returncode == 0


def test_what_is_neither_runs_nor_an_export_is_refused(output: Path, tmp_path: Path) -> None:
    run = make_run(output, "recent", "run", [livestream(1)])
    (tmp_path / "notes.txt").write_text("mine")
    problem = "neither a folder of runs nor an export"
    exports = "a folder, delta+FOLDER/, .duckdb, .sqlite, postgresql://"
    accepted = f"(accepted: a folder of runs such as output/, or an earlier export: {exports})"
    for read, error in (
        (tmp_path / "nothing", f"option `--from`: {problem}: '{tmp_path}/nothing' {accepted}"),
        (tmp_path / "notes.txt", f"option `--from`: {problem}: '{tmp_path}/notes.txt' {accepted}"),
        (run, f"{problem}: '{run}/' {accepted}"),
    ):
        assert refused(scrapy_export(output, tmp_path / "all.sqlite", "--from", read)) == error


def test_an_export_of_a_later_version_is_refused(output: Path, tmp_path: Path) -> None:
    bring(tmp_path / "export", [output], tmp_path / "state")
    package = json.loads((tmp_path / "export" / PACKAGE).read_bytes())
    package["export"]["schema_version"] = 99
    (tmp_path / "export" / PACKAGE).write_text(json.dumps(package))
    process = scrapy_export(output, tmp_path / "all.sqlite", "--from", tmp_path / "export")
    assert "was made by a later version of this project: its tables are of version 99" in refused(process)


def test_a_target_that_alone_holds_pruned_records_says_how_they_are_carried_over(
    output: Path, tmp_path: Path, bring_from: Bring
) -> None:
    run = make_run(output, "recent", "run", [livestream(1)])
    held = tmp_path / "held"
    bring(held, [output], tmp_path / "state")
    true: dict[str, list[Row]] = Truth().see(output).tables()
    package = json.loads((run / PACKAGE).read_bytes())
    (run / PACKAGE).write_text(json.dumps(package | {"pruned": True}))
    (run / "livestreams.jsonl").unlink()
    error = refused(scrapy_export(output, f"{held}/", "--rebuild"))
    assert error.endswith(f"such as {run} (accepted: a new target; --from takes over what this one has)")
    report = bring_from(tmp_path / "new.sqlite", held, runs=[output])
    assert report.is_whole
    assert differences(tmp_path / "new.sqlite", true) == []
    shutil.rmtree(held)
    assert bring_from(tmp_path / "new.sqlite", runs=[output]).is_whole
