"""Runs resume from what the first version left on disk: its ledger, and the files of a run that was killed."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from parti_scraper.mockserver import MockServer
from tests import forked
from tests.support import Crawl, Serve, check_books, environment_of, ids

GOLDEN = Path(__file__).parent / "golden"
# In the ledger, instead of PARTI_OUTPUT_DIR.
PLACEHOLDER = "/ledger-1"
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


@pytest.fixture
def left(output: Path) -> Path:
    """Copy the files into the folders of a crawl, and return the folder of the ledger."""
    state = output.with_name("state")
    state.mkdir()
    shutil.copy(GOLDEN / "ledger-1.sqlite", state / "ledger.sqlite")
    shutil.copytree(GOLDEN / "ledger-1", output)
    connection = sqlite3.connect(state / "ledger.sqlite")
    with connection:
        connection.execute("UPDATE run SET folder = replace(folder, ?, ?)", (PLACEHOLDER, str(output.absolute())))
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
    run = later(server, 5, "gaming", incremental="true", categories="Gaming")
    assert (run.code, len(run.rows), set(ids(run.rows))) == (0, len(gaming), gaming)
