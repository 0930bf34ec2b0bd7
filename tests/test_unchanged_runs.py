"""Which livestreams an incremental run saw unchanged: its data package names them, after kills too."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from parti_scraper.api.times import iso_to_timestamp
from parti_scraper.ledger.ledger import Ledger
from parti_scraper.mockserver import MockServer
from parti_scraper.run.entries import Entry, Status
from parti_scraper.run.sealing import seal
from parti_scraper.run.unchanged import decode, encode
from tests import forked
from tests.support import QUIET, Crawl, Run, Serve, environment_of, ids

HOUR = 3_600
# The crawls' clock limits the window, so the server has the true one.
STILL: dict[str, Any] = {"speed": 0, "live": 20}
EVENTS = 400
# Every run sees all livestreams of the server again, on so many pages that it takes several checkpoints.
ALL = {**STILL, "events": EVENTS, "years": 0.2, "page_cap": 10}
OVERLAP = ("-s", "PARTI_INCREMENTAL_OVERLAP=90d")
# A moment between two checkpoints of a run that writes nothing.
LATE = 4

Incremental = Callable[..., Crawl]


@pytest.fixture
def incremental(crawl: Run) -> Incremental:
    """Return a function that does an incremental run."""
    return lambda run_id, server, *options: crawl(
        "recent", *QUIET, *options, server=server, run_id=run_id, incremental="true"
    )


class Killed:
    """Incremental runs that are killed, and resumed."""

    def __init__(self, server: MockServer, output: Path, log: Path) -> None:
        self.server, self.output, self.log = server, output, log

    def kill_at(self, moment: int, run_id: str) -> bool:
        """Run, and kill it at a moment, see `forked.Trouble`; return whether it had not ended before."""
        return self._crawl(run_id, eager=True, crash_at=moment) == -signal.SIGKILL

    def resume(self, run_id: str) -> Crawl:
        """Resume a run and return what it has written."""
        code = self._crawl(run_id)
        assert code == 0, self.log.read_text(encoding="utf-8")
        return Crawl(code, "", "", self.output, "recent", run_id)

    def noted(self, run_id: str) -> tuple[int, ...]:
        """Return the livestreams that the last checkpoint of a run has as unchanged."""
        with closing(Ledger(self.output.with_name("state"))) as ledger:
            run = ledger.find((self.output / "recent" / run_id).absolute())
            checkpoint = ledger.last_checkpoint(run.id) if run else None
        return decode(checkpoint.progress["unchanged"]) if checkpoint else ()

    def _crawl(self, run_id: str, **trouble: Any) -> int | None:
        typed = ["recent", "-a", "incremental=true", "-a", f"run_id={run_id}", *OVERLAP, *QUIET]
        process = forked.crawl(typed, environment_of(self.output, self.server), self.log, **trouble)
        process.join()
        return process.exitcode


@pytest.fixture
def killed(serve: Serve, output: Path, tmp_path: Path, incremental: Incremental) -> Killed:
    """Return what kills runs, after a first one that has written everything."""
    server = serve(**ALL)
    assert len(incremental("first", server, *OVERLAP).rows) == EVENTS
    return Killed(server, output, tmp_path / "log")


def unchanged(run: Crawl) -> tuple[int, ...] | None:
    """Return the livestreams that the data package of a run calls unchanged, as the catalog reads them."""
    return Entry(str(run.folder), Status.FINISHED).unchanged()


# --- What runs say -----------------------------------------------------------------------------------------


def test_a_run_names_exactly_the_livestreams_of_the_overlap(serve: Serve, incremental: Incremental) -> None:
    server = serve(**STILL, events=2_000, years=0.3)
    first = incremental("first", server)
    assert (first.package["unchanged"], unchanged(first)) == ("", ())
    second = incremental("second", server)
    since = iso_to_timestamp(second.package["window"]["since"])
    again = sorted(each["event_id"] for each in server.world.recent_at() if each["event_end_ts"] >= since)
    assert 10 < len(again) < 200
    assert (second.rows, unchanged(second)) == ([], tuple(again))
    assert second.package["unchanged"] == encode(again)


def test_what_is_changed_new_or_deleted_is_not_unchanged(serve: Serve, incremental: Incremental) -> None:
    server = serve(**STILL, events=300, years=0.1)
    world = server.world
    incremental("first", server, *OVERLAP)
    before = {each["event_id"] for each in world.recent_at()}
    changed, deleted, *_ = sorted(before)
    world.change_now(changed)
    world.delete_now(deleted)
    new = world.insert_now(int(world.now()) - HOUR)["event_id"]
    run = incremental("second", server, *OVERLAP)
    assert set(ids(run.rows)) == {changed, new}
    assert unchanged(run) == tuple(sorted(before - {changed, deleted}))


def test_a_run_that_is_not_incremental_does_not_say(serve: Serve, crawl: Run) -> None:
    run = crawl("recent", server=serve(**STILL, events=50))
    assert "unchanged" not in run.package
    assert unchanged(run) is None


# --- Killed and resumed ------------------------------------------------------------------------------------


def test_a_run_that_was_killed_at_any_moment_has_seen_the_same_as_one_that_was_not(
    killed: Killed, incremental: Incremental
) -> None:
    expected = incremental("whole", killed.server, *OVERLAP).package["unchanged"]
    assert decode(expected) == tuple(sorted(killed.server.world.existed_throughout()))
    moment, resumed = 1, 0
    while killed.kill_at(moment, name := f"run-{moment}"):
        noted = killed.noted(name)
        assert set(noted) <= set(decode(expected))
        resumed += 0 < len(noted) < EVENTS
        run = killed.resume(name)
        assert (run.rows, run.package["unchanged"]) == ([], expected), moment
        moment += 1
    # Some were killed between two checkpoints.
    assert resumed > 2


def test_what_has_changed_since_it_was_seen_is_written_and_not_unchanged(killed: Killed) -> None:
    assert killed.kill_at(LATE, "run")
    before = set(killed.noted("run"))
    for event_id in killed.server.world.existed_throughout():
        killed.server.world.change_now(event_id)
    run = killed.resume("run")
    written, same = set(ids(run.rows)), set(unchanged(run) or ())
    # The last that the killed run saw come again.
    assert before & written
    assert same == before - written
    assert len(same | written) == EVENTS


def test_a_run_that_an_earlier_version_began_does_not_say(killed: Killed) -> None:
    assert killed.kill_at(LATE, "run")
    assert killed.noted("run")
    with closing(sqlite3.connect(killed.output.with_name("state") / "ledger.sqlite")) as ledger, ledger:
        ledger.execute("UPDATE run SET progress = json_remove(progress, '$.unchanged') WHERE run_id = 'run'")
    run = killed.resume("run")
    assert run.package["complete"]
    assert "unchanged" not in run.package
    assert unchanged(run) is None


def test_a_sealed_run_does_not_say_until_it_is_resumed(killed: Killed) -> None:
    assert killed.kill_at(LATE, "run")
    assert killed.noted("run")
    with closing(Ledger(killed.output.with_name("state"))) as ledger:
        assert [each.name for each in seal(ledger, "recent", time.time() + 2 * HOUR)] == ["run"]
    sealed = Crawl(0, "", "", killed.output, "recent", "run")
    assert sealed.package["sealed"]
    assert "unchanged" not in sealed.package
    assert len(unchanged(killed.resume("run")) or ()) == EVENTS
