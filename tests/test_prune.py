"""`scrapy prune`: nothing goes that the target lacks, that goes on, or is young; what is left is read as before."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.commands.prune import Pruning
from parti_scraper.dataset.export import Silent
from parti_scraper.dataset.targets.named import target_of
from parti_scraper.ledger.ledger import Checkpoint, FailedStart, Ledger
from parti_scraper.ledger.locks import Lock
from parti_scraper.mockserver import MockServer
from parti_scraper.operations.prune import NEEDED_FOR, Terms
from parti_scraper.operations.removal import Account, Work
from parti_scraper.run.catalog import Catalog
from parti_scraper.spiders import notifications
from tests import forked
from tests.collecting import LASTING, Collector, bring, differences, typed
from tests.dataset_truth import COLLECTIONS, Row, Truth, rows_of
from tests.listening import STARTING
from tests.made_runs import (
    ENDINGS,
    HOSTS,
    RUNNING,
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
from tests.object_store import ObjectStore
from tests.support import (
    NOW,
    QUIET,
    TIMEOUT,
    Run,
    RunningCrawl,
    Scrapy,
    Serve,
    environment_of,
    has_records,
    interrupted,
    typed_of,
    wait_until,
)

PACKAGE = "datapackage.json"
OLD: dict[str, Any] = {"started_at": "2025-03-10T10:00:00Z", "ended_at": "2025-03-10T10:01:00Z"}
LATER = "2026-11-27T12:00:00Z"
MONDAY, TUESDAY = "2025-03-10", "2025-03-11"
# Long enough for everything that a test makes now.
AGE = "30d"


def now() -> dict[str, Any]:
    """Return when a run is that has just ended."""
    moment = timestamp_to_iso(time.time())
    return {"started_at": moment, "ended_at": moment}


def make_runs(output: Path) -> None:
    """Make an old run of each spider, one of `live` with days, and a young run."""
    make_run(output, "recent", "old", [livestream(1), livestream(2)], quarantine=[rejected(0)], **OLD)
    make_run(output, "recent", "again", [livestream(1, total_viewers=7, scraped_at=LATER)], **OLD)
    make_run(output, "live", "days", channels(MONDAY, 1, 2), day=MONDAY, **OLD)
    make_run(output, "live", "days", channels(TUESDAY, 3), day=TUESDAY, **OLD)
    make_run(output, "notifications", "old", [notification(4)], **OLD)
    make_run(output, "categories", "old", [category(1)], **OLD)
    make_run(output, "scheduled", "old", [scheduled(5)], **OLD)
    make_run(output, "site", "old", [api_call("/recent")], **OLD)
    make_run(output, "recent", "young", [livestream(9)], **now())


def channels(day: str, *event_ids: int) -> list[Row]:
    """Return the rows of a snapshot."""
    return [live_channel(each, f"{day}-1", observed_at=f"{day}T10:00:00Z") for each in event_ids]


def files_of(output: Path) -> set[str]:
    """Return the files of records that are there."""
    return {path.relative_to(output).as_posix() for path in output.rglob("*") if path.suffix in {".jsonl", ".csv"}}


def package_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / PACKAGE).read_bytes()))


def tree(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder, with their contents."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


Prune = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Return a target that does not exist yet."""
    return tmp_path / "dataset.sqlite"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return PARTI_STATE_DIR."""
    return tmp_path / "state"


@pytest.fixture
def prune(scrapy: Scrapy, target: Path) -> Prune:
    """Return a function that prunes what the target has, and is old."""
    return lambda *options: scrapy("prune", "--older-than", AGE, "--exported-to", str(target), *options)


@pytest.fixture(
    params=["folder", "dataset.delta", "dataset.sqlite", "dataset.duckdb", "postgresql", "s3", "delta on s3"]
)
def any_target(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, dict[str, str]]:
    """Return a target of each kind, and what the environment of a process needs."""
    match request.param:
        case "postgresql":
            address = request.getfixturevalue("postgres_url")
            return str(address), {}
        case "s3" | "delta on s3":
            store: ObjectStore = request.getfixturevalue("object_store")
            for name, value in store.environment.items():
                monkeypatch.setenv(name, value)
            return f"{'delta+' if 'delta' in request.param else ''}{store.url}/data/", store.environment
    return typed(tmp_path / request.param), {}


def run_to_end(typed: list[str], env: dict[str, str], **trouble: Any) -> tuple[int, str, str]:
    """Run a command that gets into trouble, and return its exit code and what it has printed."""
    process = forked.Scrapy(typed, env, **trouble)
    stdout, stderr = process.communicate(TIMEOUT)
    return process.wait(), stdout, stderr


def readable(target: str, folder: Path) -> Path | str:
    """Return a target as `differences` takes it; an object store is copied."""
    if "s3:" in target:
        copy = folder / "copy.duckdb"
        copy.unlink(missing_ok=True)
        bring(copy, [], folder / "state", earlier=[target])
        return copy
    return target if "://" in target else Path(target.removeprefix("delta+"))


# --- What goes ---------------------------------------------------------------------------------------------------


def test_what_is_old_and_in_the_target_goes_and_the_target_stays_as_it_is(
    any_target: tuple[str, dict[str, str]], scrapy: Scrapy, output: Path, state: Path, tmp_path: Path
) -> None:
    target, env = any_target
    make_runs(output)
    bring(target, [output], state)
    true = Truth().see(output).tables()
    typed = ("prune", "--older-than", AGE, "--exported-to", target)
    done = scrapy(*typed, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert files_of(output) == {"recent/young/livestreams.jsonl"}
    for package in output.rglob(PACKAGE):
        is_old = package.parent.name != "young"
        assert (package_of(package.parent).get("pruned", False), "pruned_at" in package_of(package.parent)) == (
            is_old,
            is_old,
        )
    assert differences(readable(target, tmp_path), true) == []
    exported = scrapy("export", target, env=env)
    assert (exported.returncode, exported.stdout.splitlines()[0].endswith(": nothing is new")) == (0, True)
    assert differences(readable(target, tmp_path), true) == []
    again = scrapy(*typed, env=env)
    assert (again.returncode, again.stdout, again.stderr) == (0, "nothing to remove\n", "")


def test_a_dry_run_says_the_same_and_changes_nothing(prune: Prune, output: Path, target: Path, state: Path) -> None:
    make_runs(output)
    bring(target, [output], state)
    make_run(output, "recent", "lacking", [livestream(8)], **OLD)
    before = tree(output) | tree(target.parent / "dataset.sqlite")
    dry = prune("--dry-run")
    assert tree(output) | tree(target.parent / "dataset.sqlite") == before
    real = prune()
    assert (dry.returncode, real.returncode) == (4, 4)
    assert dry.stdout.splitlines()[0] == "would be removed:"
    assert dry.stdout.splitlines()[1:] == real.stdout.splitlines()[1:]
    assert real.stdout.startswith("removed:\n  categories     1 run, 1 file, ")
    assert "  live           1 run (2 days), 2 files, " in real.stdout
    assert f"kept: 1 run: not in {target}: {output / 'recent' / 'lacking'}\n" in real.stdout
    assert real.stdout.endswith(f"  next: scrapy export {target}\n")


def test_files_in_csv_go_with_those_in_json_lines_and_others_stay(
    crawl: Run, serve: Serve, scrapy: Scrapy, output: Path, target: Path, state: Path
) -> None:
    server = serve(now=NOW, speed=0, events=30)
    folder = crawl("recent", server=server, until=NOW, run_id="run").folder
    (folder / "mine.txt").write_text("kept")
    bring(target, [output], state)
    assert {path.name for path in folder.iterdir()} >= {"livestreams.csv", "livestreams.jsonl"}
    done = scrapy("prune", "--older-than", "0.001", "--exported-to", str(target))
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in folder.iterdir()} == {PACKAGE, "mine.txt"}


def test_records_in_csv_alone_stay_because_exports_do_not_read_them(
    crawl: Run, serve: Serve, scrapy: Scrapy, output: Path, target: Path, state: Path
) -> None:
    server = serve(now=NOW, speed=0, events=30)
    path = output / "recent" / "run" / "livestreams.csv"
    crawl("recent", "-O", str(path), server=server, until=NOW)
    bring(target, [output], state)
    done = scrapy("prune", "--older-than", "0.001", "--exported-to", str(target))
    assert (done.returncode, files_of(output)) == (0, {"recent/run/livestreams.csv"}), done.stdout


# --- What stays --------------------------------------------------------------------------------------------------


def test_what_the_target_lacks_stays_and_the_command_that_brings_it_there_is_named(
    prune: Prune, output: Path, target: Path, state: Path
) -> None:
    make_run(output, "recent", "exported", [livestream(1)], **OLD)
    bring(target, [output], state)
    make_run(output, "recent", "later", [livestream(2)], **OLD)
    done = prune("--quiet")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == (
        f"  kept: 1 run: not in {target}: {output / 'recent' / 'later'}\n  next: scrapy export {target}\n"
    )
    assert files_of(output) == {"recent/later/livestreams.jsonl"}
    bring(target, [output], state)
    assert (prune().returncode, files_of(output)) == (0, set())


@pytest.mark.parametrize(
    ("statement", "kept"),
    [
        ("DELETE FROM live_channels WHERE event_id = 3", {f"live/days/{TUESDAY}/live_channels.jsonl"}),
        ("DELETE FROM livestream_versions WHERE total_viewers = 7", {"recent/again/livestreams.jsonl"}),
        ("DELETE FROM quarantine", {"recent/old/livestreams.jsonl", "recent/old/quarantine.jsonl"}),
        ("DELETE FROM categories", {"categories/old/categories.jsonl"}),
        ("DELETE FROM api_calls", {"site/old/api_calls.jsonl"}),
    ],
)
def test_a_target_that_was_emptied_by_hand_does_not_count(
    statement: str, kept: set[str], prune: Prune, output: Path, target: Path, state: Path
) -> None:
    make_runs(output)
    bring(target, [output], state)
    with closing(sqlite3.connect(target)) as connection, connection:
        assert connection.execute(statement).rowcount
    done = prune()
    assert (done.returncode, files_of(output)) == (4, {*kept, "recent/young/livestreams.jsonl"}), done.stdout
    assert "does not have all records that it says it has" in done.stdout
    if "live_channels" in statement:
        assert "pruned" not in package_of(output / "live" / "days")


@pytest.mark.parametrize("name", ["livestreams.jsonl", "quarantine.jsonl"])
def test_a_file_that_is_not_what_its_data_package_says_stays_and_is_named(
    name: str, prune: Prune, output: Path, target: Path, state: Path
) -> None:
    run = make_run(output, "recent", "run", [livestream(1)], quarantine=[rejected(0)], **OLD)
    bring(target, [output], state)
    path = run / name
    path.write_bytes(path.read_bytes().replace(b"a", b"b", 1))
    done = prune()
    assert (done.returncode, len(files_of(output))) == (4, 2)
    assert f"kept: 1 run: {name} is not what its data package says (SHA-256): {run}" in done.stdout


def test_a_data_package_that_is_damaged_is_named(prune: Prune, output: Path, target: Path, state: Path) -> None:
    run = make_run(output, "recent", "run", [livestream(1)], **OLD)
    bring(target, [output], state)
    (run / PACKAGE).write_text("{")
    done = prune()
    assert (done.returncode, len(files_of(output))) == (4, 1)
    assert f"  kept: 1 run: {PACKAGE}: " in done.stdout


def test_a_run_whose_lock_is_held_stays(prune: Prune, output: Path, target: Path, state: Path) -> None:
    run = make_run(output, "recent", "run", [livestream(1)], **OLD)
    bring(target, [output], state)
    lock = Lock.take(run)
    assert lock
    done = prune()
    assert (done.returncode, len(files_of(output))) == (0, 1)
    assert f"kept: 1 run: a process is at work on it: {run}" in done.stdout
    lock.release()
    assert (prune().returncode, files_of(output)) == (0, set())


def test_made_up_data_beside_real_ones_stay(prune: Prune, output: Path, target: Path, state: Path) -> None:
    make_run(output, "recent", "real", [livestream(1)], **OLD)
    make_run(output, "recent", "mock", [livestream(2)], source="mock", **OLD)
    bring(target, [output], state)
    done = prune()
    assert (done.returncode, files_of(output)) == (0, {"recent/mock/livestreams.jsonl"})
    assert "kept: 1 run: its data come from mock, not parti.com" in done.stdout


# --- Runs that go on ---------------------------------------------------------------------------------------------


def note_days(state: Path, run: Path, current: str, *described: str) -> None:
    """Let the ledger know a run that goes on, and which days it has left and described."""
    note_checkpoint(state, run)
    with closing(Ledger(state)) as ledger:
        record = ledger.find(run)
        assert record
        noted = ledger.last_checkpoint(record.id)
        assert noted
        day = {"name": current, "started_at": 0, "ended_at": 0, "quality": {}, "counts": {}, "observations": []}
        days = {"current": day, "over": [], "described": dict.fromkeys(described, 1), "counted": {}}
        progress = noted.progress | {"days": days}
        ledger.checkpoint(record.id, Checkpoint(progress, noted.counts, noted.files, HOSTS["parti.com"]))


def make_going(output: Path) -> Path:
    """Make a run of `live` that goes on, with a day that is over; return its folder."""
    make_run(output, "live", "run", channels(MONDAY, 1, 2), day=MONDAY, **OLD)
    make_run(output, "live", "run", channels(TUESDAY, 3), day=TUESDAY, status=RUNNING)
    return output / "live" / "run"


@pytest.mark.parametrize("is_at_work", [True, False])
def test_days_that_a_run_has_left_go_while_it_goes_on(
    is_at_work: bool, prune: Prune, output: Path, target: Path, state: Path
) -> None:
    run = make_going(output)
    note_days(state, run, TUESDAY, MONDAY)
    bring(target, [output], state)
    lock = Lock.take(run) if is_at_work else None
    done = prune()
    assert (done.returncode, files_of(output)) == (0, {f"live/run/{TUESDAY}/live_channels.jsonl"})
    assert package_of(run / MONDAY)["pruned"]
    if lock:
        lock.release()


def test_a_day_stays_that_the_last_checkpoint_does_not_know_to_be_described(
    prune: Prune, output: Path, target: Path, state: Path
) -> None:
    run = make_going(output)
    # It was killed between the data package of the day and the next checkpoint, and describes the day again.
    note_days(state, run, TUESDAY)
    bring(target, [output], state)
    done = prune()
    assert (done.returncode, len(files_of(output))) == (0, 2)
    assert f"kept: 1 day: its run may come back to it: {run / MONDAY}" in done.stdout


def test_the_days_that_notifications_look_up_again_are_as_many_as_are_kept() -> None:
    assert NEEDED_FOR["notifications"] >= notifications.NotificationsSpider.remembered + 86_400


def test_a_run_that_was_sealed_goes_as_a_whole_and_is_not_resumed(
    crawl: Run, serve: Serve, output: Path, target: Path, state: Path
) -> None:
    server = serve(now=NOW, speed=0, events=2_000, page_cap=25, latency=0.02)
    interrupted(server, 13, typed_of("recent", "run", {"until": NOW}, QUIET), environment_of(output, server))
    env = environment_of(output, None)
    assert run_to_end(["export", str(target)], env, clock=7_200)[0] == 0
    assert package_of(output / "recent" / "run")["sealed"]
    true = Truth().see(output, source="mock").tables()
    typed = ["prune", "--older-than", "1h", "--exported-to", str(target)]
    assert run_to_end(typed, env, clock=7_200)[::2] == (0, "")
    assert files_of(output) == set()
    for run_id in ("run", "last"):
        after = crawl("recent", *QUIET, server=server, run_id=run_id, until=NOW)
        assert after.code == (2 if run_id == "run" else 0)
        assert ("`prune` has removed its records" in after.stderr) == (run_id == "run"), after.stderr
    assert package_of(output / "recent" / "run")["pruned"]
    assert differences(target, true) == []


def test_of_a_sealed_run_of_which_the_target_lacks_a_day_nothing_goes(
    prune: Prune, output: Path, target: Path, state: Path
) -> None:
    make_run(output, "live", "run", channels(MONDAY, 1), day=MONDAY, **OLD)
    make_run(output, "live", "run", channels(TUESDAY, 2), day=TUESDAY, status="sealed", **OLD)
    bring(target, [output], state)
    with closing(sqlite3.connect(target)) as connection, connection:
        connection.execute("DELETE FROM live_channels WHERE event_id = 1")
    assert (prune().returncode, len(files_of(output))) == (4, 2)
    assert "pruned" not in package_of(output / "live" / "run")


def _by(clock: Path) -> None:
    """Let the clock of this process be ahead by so many seconds as a file says."""
    true_time = time.time
    time.time = lambda: true_time() + float(clock.read_text())


def described_days(state: Path, run: Path) -> set[str]:
    """Return the days that the last checkpoint of a run says it has left and described."""
    with closing(Ledger(state)) as ledger:
        record = ledger.find(run)
        noted = ledger.last_checkpoint(record.id) if record else None
        return set(noted.progress["days"]["described"]) if noted else set()


def test_a_run_whose_clock_is_set_back_stays_out_of_a_day_whose_files_were_removed(
    serve: Serve, output: Path, target: Path, state: Path, tmp_path: Path
) -> None:
    server, run, clock = serve(now=NOW, speed=0, events=30, live=5), output / "live" / "run", tmp_path / "clock"
    clock.write_text("0")
    typed = typed_of("live", "run", {"interval": "1"}, QUIET)
    env = environment_of(output, server)
    process = forked.Scrapy(typed, env, before=partial(_by, clock))
    RunningCrawl.begun.append(process)
    first = timestamp_to_iso(time.time())[:10]
    wait_until((run / first / "live_channels.jsonl").exists)
    set_clock(clock, "86400")
    wait_until(lambda: (state / "ledger.sqlite").exists() and first in described_days(state, run))
    bring(target, [output], state)
    true = Truth().see(output, state=state, source="mock").tables()["live_channels"]
    options = ["--older-than", "1h", "--exported-to", str(target)]
    assert run_to_end(["prune", *options], env, clock=2 * 86_400)[::2] == (0, "")
    assert package_of(run / first)["pruned"]
    set_clock(clock, "0")
    asked = len(server.requests)
    wait_until(lambda: len(server.requests) > asked + 3)
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT) == 0, process.stderr
    days = sorted(path.name for path in run.iterdir() if path.is_dir())
    assert (len(days), [path.name for path in (run / first).iterdir()]) == (2, [PACKAGE])
    assert package_of(run / first)["pruned"]
    bring(target, [output], state)
    held = rows_of(target, "live_channels")
    assert [each for each in true if each not in held] == []
    assert len(held) > len(true)


def set_clock(clock: Path, seconds: str) -> None:
    """Set the clock of a process."""
    temporary = clock.with_suffix(".tmp")
    temporary.write_text(seconds)
    temporary.replace(clock)


# --- What is left is still read ----------------------------------------------------------------------------------


def test_a_new_target_says_what_it_lacks_and_takes_it_from_the_old_one(
    prune: Prune, scrapy: Scrapy, output: Path, target: Path, state: Path, tmp_path: Path
) -> None:
    make_runs(output)
    bring(target, [output], state)
    true = Truth().see(output).tables()
    assert prune().returncode == 0
    lacking = scrapy("export", str(tmp_path / "lacking.duckdb"))
    assert lacking.returncode == 4
    assert "its files were removed by `prune`, and are not in this target" in lacking.stdout
    assert "--from, with an earlier export" in lacking.stdout
    whole = scrapy("export", str(tmp_path / "whole.duckdb"), "--from", str(output), "--from", str(target))
    assert (whole.returncode, whole.stderr) == (0, "")
    assert differences(tmp_path / "whole.duckdb", true) == []


def test_only_a_target_that_holds_what_was_pruned_refuses_to_be_emptied(
    prune: Prune, scrapy: Scrapy, output: Path, target: Path, state: Path, tmp_path: Path
) -> None:
    make_run(output, "recent", "old", [livestream(1)], **OLD)
    bring(target, [output], state)
    assert prune().returncode == 0
    make_run(output, "recent", "young", [livestream(2)], **now())
    other = tmp_path / "other.duckdb"
    assert scrapy("export", str(other)).returncode == 4
    assert scrapy("export", str(other), "--rebuild").returncode == 4
    assert len(rows_of(other, "livestreams")) == 1
    refused = scrapy("export", str(target), "--rebuild")
    assert refused.returncode == 2
    assert "may alone hold the records of 1 run that `prune` has removed" in refused.stderr


def test_coverage_is_the_same_after_it(prune: Prune, scrapy: Scrapy, output: Path, target: Path, state: Path) -> None:
    make_runs(output)
    bring(target, [output], state)
    before = scrapy("coverage", "--json", "--until", "2026-01-01")
    assert prune().returncode == 0
    after = scrapy("coverage", "--json", "--until", "2026-01-01")
    assert (after.returncode, after.stdout) == (before.returncode, before.stdout)


def test_an_incremental_series_goes_on_after_its_runs_were_pruned(
    crawl: Run, serve: Serve, scrapy: Scrapy, output: Path, target: Path, state: Path
) -> None:
    server = serve(now=NOW, speed=0, events=200)
    first = crawl("recent", *QUIET, server=server, run_id="first", incremental="true", until=NOW)
    bring(target, [output], state)
    with closing(Ledger(state)) as ledger:
        ledger.note_failed_start(FailedStart("recent", "x", {}, 0.0, 2, "no"))
        ledger.note_failed_start(FailedStart("recent", "y", {}, time.time() + 60, 2, "no"))
    assert scrapy("prune", "--older-than", "0.001", "--exported-to", str(target)).returncode == 0
    with closing(Ledger(state)) as ledger:
        assert ledger.find(first.folder) is None
        assert [each.run_id for each in ledger.failed_starts()] == ["y"]
    again = crawl("recent", *QUIET, server=server, run_id="first", incremental="true", until=NOW)
    assert (again.code, files_of(output)) == (0, set())
    second = crawl("recent", *QUIET, server=server, run_id="second", incremental="true", until=NOW)
    assert (second.code, second.package["counts"]["new"], second.package["counts"]["changed"]) == (0, 0, 0)
    assert first.package["counts"]["new"] > 100


# --- How it is typed ---------------------------------------------------------------------------------------------


def test_what_is_no_export_of_everything_is_a_usage_error_and_is_not_made(
    scrapy: Scrapy, output: Path, state: Path, tmp_path: Path
) -> None:
    make_run(output, "recent", "old", [livestream(1)], **OLD)
    some, filtered = tmp_path / "some.duckdb", tmp_path / "filtered.sqlite"
    assert scrapy("export", str(some), "--table", "livestreams").returncode == 0
    assert scrapy("export", str(filtered), "--since", "2020-01-01").returncode == 0
    assert scrapy("export", str(tmp_path / "one.csv")).returncode == 0
    before = tree(tmp_path)
    problems = {
        str(some): "it holds a selection",
        str(filtered): "it holds a selection",
        str(tmp_path / "one.csv"): "a file that each export writes anew",
        str(tmp_path / "one.xlsx"): "a file that each export writes anew",
        str(tmp_path / "none.sqlite"): "no export is there",
        f"{tmp_path / 'none'}/": "no export is there",
        f"{output}/": "no export is there",
        "nothing": "not a target",
    }
    for target, problem in problems.items():
        done = scrapy("prune", "--older-than", AGE, "--exported-to", target)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert problem in done.stderr
    assert {name: content for name, content in tree(tmp_path).items() if not name.startswith("state/")} == {
        name: content for name, content in before.items() if not name.startswith("state/")
    }


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ((), "option `--older-than` is missing"),
        (("--older-than", "90d"), "option `--exported-to` is missing"),
        (("--older-than", "soon", "--exported-to", "x"), "option `--older-than`: not a length of time: 'soon'"),
        (("--older-than", "0d", "--exported-to", "x"), "option `--older-than`: not more than 0 seconds: '0d'"),
        (("recent",), "unknown argument: 'recent'"),
        (("--dryrun",), "unknown option: '--dryrun'"),
        (("--older-than", "1d", "--exported-to", "x.sqlite", "--from", "none"), "option `--from`"),
    ],
)
def test_other_mistakes_are_one_line(options: tuple[str, ...], problem: str, scrapy: Scrapy) -> None:
    done = scrapy("prune", *options)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(f"scrapy prune: {problem}")


# --- Killed at any moment ----------------------------------------------------------------------------------------


def _die_at(number: int) -> None:
    """Kill this process before it changes something in a file system for the so-manieth time."""
    moments = itertools.count(1)

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(moments) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    Path.unlink = deadly(Path.unlink)  # type: ignore[method-assign]
    Path.replace = deadly(Path.replace)  # type: ignore[method-assign]
    os.fsync = deadly(os.fsync)


def test_killed_at_any_moment_it_loses_nothing_and_the_next_one_does_the_rest(
    output: Path, target: Path, state: Path, tmp_path: Path
) -> None:
    make_run(output, "recent", "old", [livestream(1)], quarantine=[rejected(0)], **OLD)
    make_run(output, "live", "days", channels(MONDAY, 1), day=MONDAY, **OLD)
    make_run(output, "live", "days", channels(TUESDAY, 2), day=TUESDAY, status="sealed", **OLD)
    bring(target, [output], state)
    true, whole = Truth().see(output).tables(), tmp_path / "whole"
    shutil.copytree(output, whole)
    typed = ["prune", "--older-than", AGE, "--exported-to", str(target)]
    for number in itertools.count(1):
        code, _, _ = run_to_end(typed, environment_of(output, None), before=partial(_die_at, number))
        assert differences(target, true) == []
        for run in ("recent/old", "live/days"):
            # What is gone is said to be.
            for path in (whole / run).rglob("*.jsonl"):
                there = output / path.relative_to(whole)
                assert there.exists() or package_of(there.parent)["pruned"]
        assert bring(target, [output], state).left_out == ()
        assert run_to_end(typed, environment_of(output, None))[::2] == (0, "")
        assert files_of(output) == set()
        assert package_of(output / "live" / "days")["pruned"]
        if code == 0:
            break
        assert code == -signal.SIGKILL
        shutil.rmtree(output)
        shutil.copytree(whole, output)
    assert number > 10


# --- Beside others -----------------------------------------------------------------------------------------------


def prune_all(target: Path, collector: Collector) -> Account:
    """Prune all that has ended, in this process."""
    with closing(Ledger(collector.state)) as ledger, target_of(typed(target)).open() as session:
        assert session.meta
        moment = time.time() + 365 * 86_400
        terms = Terms(moment, moment, typed(target), session.meta.source, session.loaded())
        work = Work(session, typed(target), collector.state / "export", moment)
        return Pruning(Catalog([*collector.outputs], None, ledger), terms, work, ledger, Silent()).prune()


def happen(collector: Collector, by_chance: random.Random) -> None:
    """Let something happen to the runs."""
    events = [(each, by_chance.randrange(3)) for each in by_chance.sample(range(1, 6), by_chance.randrange(1, 4))]
    which = by_chance.randrange(10)
    steps: list[tuple[Callable[..., None], list[Any]]] = [
        (collector.collect, [by_chance.choice(sorted(COLLECTIONS)), events, by_chance.choice(sorted(ENDINGS))]),
        (collector.begin, [by_chance.choice(LASTING), events]),
        (collector.go_on, [which, events]),
        (collector.finish, [which]),
        (collector.kill, [which, events]),
        (collector.resume, [which, events]),
        (collector.copy, [which]),
        (collector.damage, [which]),
    ]
    step, values = by_chance.choice(steps)
    step(*values)


@pytest.mark.parametrize("name", ["dataset", "dataset.delta", "dataset.sqlite", "dataset.duckdb"])
@pytest.mark.parametrize("seed", range(2))
def test_pruned_at_any_time_the_target_and_one_that_is_made_of_it_stay_the_truth(
    name: str, seed: int, tmp_path: Path
) -> None:
    collector, truth, by_chance = Collector(tmp_path), Truth(), random.Random(seed)
    target, gone = tmp_path / name, 0
    for step in range(40):
        happen(collector, by_chance)
        if step % 4 == 3:
            bring(target, collector.outputs, collector.state)
            truth.see(*collector.outputs, state=collector.state)
            if by_chance.random() < 0.5:
                # It may be that something has happened since the export.
                happen(collector, by_chance)
                truth.see(*collector.outputs, state=collector.state)
            gone += sum(each.files for each in prune_all(target, collector).removed.values())
            collector.forget_pruned()
    collector.end()
    bring(target, collector.outputs, collector.state)
    true = truth.see(*collector.outputs, state=collector.state).tables()
    assert gone > 5
    lost = [each for each in differences(target, true) if ": missing: " in each]
    if not collector.was_cut:
        assert differences(target, true) == []
    assert lost == []
    bring(tmp_path / "anew", collector.outputs, collector.state, earlier=[typed(target)])
    assert [each for each in differences(tmp_path / "anew", true) if ": missing: " in each] == []


class _Beside:
    """Collectors that go on, by a clock that is set; and exports and prunes by the same clock."""

    def __init__(self, server: MockServer, output: Path, target: Path) -> None:
        self.clock, self.output, self.target = output.with_name("clock"), output, target
        self.state, self.env = output.with_name("state"), environment_of(output, server)
        self.clock.write_text("0")
        self.before = partial(_by, self.clock)
        self.truth = Truth()

    def start(self, spider: str, arguments: dict[str, str]) -> forked.Scrapy:
        """Start a collector that does not end."""
        before = partial(_by_often, self.clock)
        process = forked.Scrapy(typed_of(spider, "run", arguments, QUIET), self.env, before=before)
        RunningCrawl.begun.append(process)
        return process

    def pass_days(self, days: int) -> None:
        """Let days pass, until the collectors have left the day that they were in."""
        today = timestamp_to_iso(time.time() + float(self.clock.read_text()))[:10]
        set_clock(self.clock, str(float(self.clock.read_text()) + days * 86_400))
        for spider in ("live", "notifications"):
            run = self.output / spider / "run"
            wait_until(partial(self._has_left, run, today))

    def _has_left(self, run: Path, day: str) -> bool:
        return day in described_days(self.state, run)

    def run(self, *typed: str, **trouble: Any) -> int:
        """Run a command to its end, and return its exit code."""
        code, stdout, stderr = run_to_end([*typed], self.env, **({"before": self.before} | trouble))
        assert code in {0, -signal.SIGKILL}, stdout + stderr
        return code

    def prune(self, killed_at: int) -> int:
        """Prune, and be killed if it comes so far."""
        self.truth.see(self.output, state=self.state, source="mock")
        before = partial(_by_and_die, self.clock, killed_at)
        return self.run("prune", "--older-than", "1d", "--exported-to", str(self.target), before=before)


def _by_often(clock: Path) -> None:
    """Let `notifications` note how far it is within a second, where it would take a minute if nothing is heard."""
    notifications._SECONDS_BETWEEN_NOTES = 0.5
    _by(clock)


def _by_and_die(clock: Path, number: int) -> None:
    _by(clock)
    _die_at(number)


def test_beside_three_collectors_and_killed_again_and_again_it_loses_nothing(
    serve: Serve, output: Path, target: Path, tmp_path: Path
) -> None:
    server = serve(**STARTING)
    beside = _Beside(server, output, target)
    collectors = [beside.start("live", {"interval": "1"}), beside.start("notifications", {})]
    for spider, name in (("live", "live_channels.jsonl"), ("notifications", "live_notifications.jsonl")):
        wait_until(partial(has_records, output / spider, name))
    by_chance, killed = random.Random(1), 0
    for number in range(3):
        typed = typed_of("recent", f"run-{number}", {"until": NOW}, QUIET)
        assert beside.run(*typed) == 0
        beside.pass_days(10)
        assert beside.run("export", str(target)) == 0
        killed += beside.prune(by_chance.randrange(1, 25)) == -signal.SIGKILL
    assert beside.prune(0) == 0
    assert killed
    for process in collectors:
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0, process.stderr
    assert beside.run("export", str(target)) == 0
    true = beside.truth.see(output, state=beside.state, source="mock").tables()
    assert differences(target, true) == []
    assert beside.run("export", str(tmp_path / "anew.duckdb"), "--from", str(target), "--from", str(output)) == 0
    assert differences(tmp_path / "anew.duckdb", true) == []
    pruned = [path.parts[-4] for path in output.glob(f"*/run/*/{PACKAGE}") if package_of(path.parent).get("pruned")]
    assert set(pruned) == {"live", "notifications"}
    assert {name.split("/")[0] for name in files_of(output)} <= {"live", "notifications"}
