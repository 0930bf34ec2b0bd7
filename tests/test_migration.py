"""Runs resume from what earlier versions left on disk: their ledgers, and the files of runs that were killed."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import frictionless
import pytest

from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.ledger.ledger import Ledger, RunRecord
from parti_scraper.ledger.uuids import run_uuid_of
from parti_scraper.mockserver import MockServer
from parti_scraper.run.datapackage import read
from tests import forked
from tests.support import Crawl, Serve, check_books, environment_of, ids, wait_until

GOLDEN = Path(__file__).parent / "golden"
# The versions; in their ledgers, `/ledger-1` and so on stands in place of PARTI_OUTPUT_DIR.
VERSIONS = (1, 2)
NOW = "2026-11-01T00:00:00Z"
# The server's switches, and the time on the crawls' clock, when the ledger was made.
SWITCHES: dict[str, Any] = {
    "seed": 8,
    "now": NOW,
    "speed": 0,
    "events": 180,
    "years": 0.05,
    "live": 10,
    "page_cap": 10,
    "malformed": 0.03,
}
MADE = datetime.fromisoformat(NOW).timestamp() + 60
HOUR = 3_600

LaterRun = Callable[..., Crawl]


def runs_of(state: Path, output: Path) -> list[RunRecord]:
    """Return the runs of `recent` that a ledger has."""
    with closing(Ledger(state)) as ledger:
        return [run for name in ("gaming", "stopped") if (run := ledger.find(output / "recent" / name))]


@pytest.fixture(params=VERSIONS)
def left(output: Path, request: pytest.FixtureRequest) -> Path:
    """Put what a version has left into the folders of a crawl, and return that of the ledger."""
    name = f"ledger-{request.param}"
    state = output.with_name("state")
    state.mkdir()
    shutil.copy(GOLDEN / f"{name}.sqlite", state / "ledger.sqlite")
    shutil.copytree(GOLDEN / name, output)
    connection = sqlite3.connect(state / "ledger.sqlite")
    with connection:
        connection.execute("UPDATE run SET folder = replace(folder, ?, ?)", (f"/{name}", str(output.absolute())))
    connection.close()
    return state


@pytest.fixture
def later(left: Path, output: Path, tmp_path: Path) -> LaterRun:
    """Return a function that runs `recent` hours after the ledger was created, at any time."""

    def run(server: MockServer, hours: int, run_id: str, **arguments: str) -> Crawl:
        typed = [part for each in arguments.items() for part in ("-a", "=".join(each))]
        log = tmp_path / f"log-{run_id}"
        command = ["recent", "-a", f"run_id={run_id}", *typed, "--loglevel", "WARNING"]
        process = forked.crawl(command, environment_of(output, server), log, clock=MADE + hours * HOUR - time.time())
        process.join()
        crawl = Crawl(process.exitcode or 0, "", log.read_text(encoding="utf-8"), output, "recent", run_id)
        check_books(crawl)
        return crawl

    return run


def test_an_unfinished_run_of_an_earlier_version_is_finished_with_each_record_once(
    serve: Serve, output: Path, later: LaterRun
) -> None:
    server = serve(**SWITCHES)
    noted = (output / "recent/stopped/livestreams.jsonl").read_bytes().split(b"\n")[:60]
    run = later(server, 1, "stopped")
    assert (run.code, run.package["complete"]) == (0, True), run.stderr
    assert sorted(ids(run.rows)) == sorted(server.world.existed_throughout() - server.world.malformed_ids)
    assert [int(row["event_id"]) for row in run.csv_rows] == ids(run.rows)
    assert len(run.quarantine) == len(server.world.malformed_ids)
    assert run.package["counts"]["new"] == len(run.rows)
    # It resumed, and did not start again.
    assert (run.folder / "livestreams.jsonl").read_bytes().split(b"\n")[:60] == noted


def test_a_run_of_an_earlier_version_is_called_by_its_data_package_or_else_its_start_and_stays_so(
    serve: Serve, output: Path, left: Path, later: LaterRun
) -> None:
    started = {run.run_id: timestamp_to_iso(run.started_at) for run in runs_of(left, output)}
    moments = started | {name: package["created"] for name in started if (package := read(output / "recent" / name))}
    called = {run.run_id: run.run_uuid for run in runs_of(left, output)}
    assert called == {name: run_uuid_of("recent", name, moment) for name, moment in moments.items()}
    run = later(serve(**SWITCHES), 1, "stopped")
    assert (run.package["run_uuid"], run.package["started_at"]) == (called["stopped"], started["stopped"])


def test_incremental_runs_after_it_write_only_what_is_new(serve: Serve, later: LaterRun) -> None:
    server = serve(**SWITCHES)
    later(server, 1, "stopped")
    assert later(server, 2, "nothing", incremental="true").rows == []
    assert later(server, 3, "no-gaming", incremental="true", categories="Gaming").rows == []
    made = [server.world.insert_now(int(MADE - hours * HOUR)) for hours in range(1, 30)]
    new = {record["event_id"] for record in made}
    run = later(server, 4, "new", incremental="true")
    assert (run.code, len(run.rows), set(ids(run.rows))) == (0, len(new), new)
    gaming = {record["event_id"] for record in made if record["category_name"] == "Gaming"}
    run = later(server, 5, "more-gaming", incremental="true", categories="Gaming")
    assert (run.code, len(run.rows), set(ids(run.rows))) == (0, len(gaming), gaming)


def test_a_killed_listener_of_format_1_resumes_and_its_days_get_folders(
    output: Path, tmp_path: Path, serve: Serve
) -> None:
    state = output.with_name("state")
    shutil.copytree(GOLDEN / "runs-1" / "state", state)
    shutil.copytree(GOLDEN / "runs-1" / "output", output)
    connection = sqlite3.connect(state / "ledger.sqlite")
    with connection:
        connection.execute("UPDATE run SET folder = replace(folder, '/golden-runs', ?)", (str(tmp_path.absolute()),))
        (folder,) = connection.execute("SELECT folder FROM run WHERE run_id = 'killed' AND spider = 'notifications'")
    connection.close()
    assert Path(*folder) == output / "notifications/killed"
    before = (Path(*folder) / "live_notifications.2026-11-27.jsonl").read_bytes()
    server = serve(events=30, live=12)
    command = ["notifications", "-a", "run_id=killed", "--loglevel", "WARNING"]
    process = forked.crawl(command, environment_of(output, server), tmp_path / "log")
    wait_until(lambda: bool(list(Path(*folder).glob("*/live_notifications.jsonl"))))
    wait_until(lambda: len(heard_by(output)) >= 12)
    process.terminate()
    process.join()
    assert process.exitcode == 0, (tmp_path / "log").read_text(encoding="utf-8")
    run = Crawl(0, "", "", output, "notifications", "killed")
    check_books(run)
    assert (run.folder / "live_notifications.2026-11-27.jsonl").read_bytes().startswith(before)
    assert len(set(ids(run.rows))) == len(run.rows) == run.package["counts"]["written"]
    assert {each["path"].split("/")[0] for each in run.package["resources"]} >= {"live_notifications.2026-11-27.jsonl"}
    assert frictionless.validate(str(run.folder / "datapackage.json")).valid


def heard_by(output: Path) -> set[int]:
    """Return the livestreams in the day folders of the run, whole lines only."""
    paths = (output / "notifications/killed").glob("*/live_notifications.jsonl")
    return {json.loads(line)["event_id"] for path in paths for line in path.read_bytes().split(b"\n")[:-1]}
