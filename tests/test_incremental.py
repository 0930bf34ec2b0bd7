"""Incremental runs: each version of each livestream once, even if single runs fail."""

from __future__ import annotations

import json
import os
import random
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.mockserver import MockServer
from parti_scraper.mockserver.world import World
from parti_scraper.run.datapackage import is_sealed
from tests import forked
from tests.support import (
    QUIET,
    Crawl,
    Run,
    RunningCrawl,
    Scrapy,
    Serve,
    environment_of,
    hold,
    ids,
    read_lines,
    typed_of,
    wait_until,
)

HOUR = 3_600
# The crawls' clock limits the window, so the server has the true one.
STILL: dict[str, Any] = {"speed": 0, "live": 20}


@pytest.fixture
def incremental(crawl: Run) -> Callable[..., Crawl]:
    """Return a function that does an incremental run."""
    return lambda run_id, server, *options, **arguments: crawl(
        "recent", *QUIET, *options, server=server, run_id=run_id, incremental="true", **arguments
    )


def new_and_changed(run: Crawl) -> tuple[int, int, int]:
    """Return how many rows a run has written, and how many of them its data package calls new and changed."""
    counts = run.package["counts"]
    return len(run.rows), counts["new"], counts["changed"]


def ago(world: World, hours: float) -> int:
    """Return a time on the server's clock."""
    return int(world.now() - hours * HOUR)


Incremental = Callable[..., Crawl]


def test_a_run_writes_what_is_new_or_changed_since_the_last_one_with_few_requests(
    serve: Serve, incremental: Incremental
) -> None:
    server = serve(**STILL, events=1_500, years=0.3)
    world = server.world
    assert new_and_changed(incremental("first", server)) == (1_500, 1_500, 0)
    asked = len(server.requests)
    second = incremental("second", server)
    assert new_and_changed(second) == (0, 0, 0)
    assert second.package["complete"]
    assert second.csv_rows == []
    assert len(server.requests) - asked <= 12
    added = {world.insert_now(ago(world, hours))["event_id"] for hours in range(30)}
    recent = [record["event_id"] for record in world.recent_at() if record["event_end_ts"] > ago(world, 40)]
    changed = set([event_id for event_id in recent if event_id not in added][:5])
    for event_id in changed:
        world.change_now(event_id)
    third = incremental("third", server)
    assert new_and_changed(third) == (35, 30, 5)
    assert set(ids(third.rows)) == added | changed
    assert new_and_changed(incremental("fourth", server)) == (0, 0, 0)


def test_another_signature_of_an_address_is_no_change(serve: Serve, incremental: Incremental) -> None:
    server = serve(**STILL, events=60, years=0.01, signed=True, fields="2026")
    assert new_and_changed(incremental("first", server)) == (60, 60, 0)
    second = incremental("second", server)
    assert second.package["counts"]["served"] >= 50
    assert new_and_changed(second) == (0, 0, 0)


def test_a_degraded_run_moves_the_start_too(serve: Serve, incremental: Incremental) -> None:
    server = serve(**STILL, events=400, years=0.3, absent="event_title")
    first = incremental("first", server)
    assert (first.code, first.package["complete"], len(first.package["degraded"])) == (4, True, 1)
    assert incremental("second", server).package["window"]["since"] > timestamp_to_iso(ago(server.world, 72))


def test_each_combination_of_filters_has_its_own_start(serve: Serve, incremental: Incremental) -> None:
    server = serve(**STILL, events=500)
    assert len(incremental("gaming", server, categories="Gaming").rows) > 0
    assert len(incremental("all", server).rows) == 500
    assert len(incremental("gaming-again", server, categories="Gaming", limit=50).rows) == 0
    assert len(incremental("month", server, since="30d").rows) > 0


def test_the_start_moves_only_with_a_complete_run_up_to_now(serve: Serve, incremental: Incremental, crawl: Run) -> None:
    server = serve(**STILL, events=500)
    past = incremental("past", server, until="300d").package
    assert past["complete"]
    cut = incremental("cut", server, max_records=20)
    assert cut.package["truncated"]
    assert crawl("recent", server=server, run_id="plain").code == 0
    assert incremental("failed", serve(**STILL, gone=True), "-s", "PARTI_RETRY_PATIENCE=0.1").code == 4
    first = incremental("first", server)
    assert first.package["window"]["since"] == "2021-08-03T00:00:00Z"
    # Records of finished runs are not written again, though the start has not moved.
    assert set(ids(first.rows)).isdisjoint(ids(cut.rows))
    written = [event_id for name in ("past", "cut", "first") for event_id in ids(read_rows(first, name))]
    assert sorted(written) == sorted(server.world.existed_throughout())
    assert incremental("second", server).package["window"]["since"] != "2021-08-03T00:00:00Z"


def read_rows(run: Crawl, name: str) -> list[dict[str, Any]]:
    """Return the records of another run."""
    return read_lines(run.folder.with_name(name) / "livestreams.jsonl")


def test_a_feed_of_the_user_gets_new_livestreams_too(serve: Serve, incremental: Incremental, tmp_path: Path) -> None:
    server = serve(**STILL, events=500, years=0.1)
    for name, expected in (("first", 500), ("second", 0)):
        feed = tmp_path / f"{name}.jsonl"
        run = incremental(name, server, "-O", str(feed))
        assert (run.code, len(read_lines(feed))) == (0, expected)


def test_a_larger_overlap_writes_nothing_again(serve: Serve, incremental: Incremental) -> None:
    server = serve(**STILL, events=800)
    assert len(incremental("first", server).rows) == 800
    assert new_and_changed(incremental("second", server, "-s", "PARTI_INCREMENTAL_OVERLAP=90d")) == (0, 0, 0)
    assert new_and_changed(incremental("third", server, "-s", "PARTI_INCREMENTAL_OVERLAP=1h")) == (0, 0, 0)
    assert new_and_changed(incremental("fourth", server, "-s", "PARTI_INCREMENTAL_OVERLAP=90d")) == (0, 0, 0)


def test_a_run_left_unfinished_is_superseded_by_the_next(
    serve: Serve, incremental: Incremental, output: Path, scrapy: Scrapy
) -> None:
    server = serve(**STILL, events=1_000)
    reached = hold(server, 3)
    typed = typed_of("recent", "left", {"incremental": "true"}, QUIET)
    running = RunningCrawl(typed, environment_of(output, server))
    wait_until(reached.is_set)
    second = scrapy("crawl", "recent", "-a", "incremental=true", "-a", "run_id=other", *QUIET, server=server)
    assert (second.returncode, second.stderr) == (
        2,
        "another process is working on an incremental run with the same filters: wait until it has ended, or stop it\n",
    )
    running.stop(signal.SIGKILL)
    server.held = None
    assert len(incremental("next", server).rows) == 1_000
    left = scrapy("crawl", "recent", "-a", "run_id=left", server=server)
    assert left.returncode == 2
    assert left.stderr.startswith("argument `run_id`: left unfinished, and a later incremental run has written what")
    assert scrapy("crawl", "recent", "-a", "run_id=last", server=server).stderr.startswith(
        "recent: no run is unfinished"
    )


def test_a_wrong_overlap_is_one_line(serve: Serve, incremental: Incremental) -> None:
    server = serve(**STILL)
    run = incremental("run", server, "-s", "PARTI_INCREMENTAL_OVERLAP=2 days")
    assert (run.code, run.stderr) == (
        2,
        (
            "setting `PARTI_INCREMENTAL_OVERLAP`: not a length of time: '2 days' "
            "(accepted: seconds, or 90s, 5m, 24h, 7d, 2w); did you mean `2d`?\n"
        ),
    )


# --- A clock that is wrong ---------------------------------------------------------------------------------

YEARS = 5 * 365 * 24 * HOUR


def by_a_clock(server: MockServer, output: Path, log: Path, run_id: str, clock: float) -> Crawl:
    """Do an incremental run with a clock that is so many seconds ahead."""
    typed = ["recent", "-a", "incremental=true", "-a", f"run_id={run_id}", *QUIET]
    process = forked.crawl(typed, environment_of(output, server), log, clock=clock)
    process.join()
    return Crawl(process.exitcode or 0, "", log.read_text(encoding="utf-8"), output, "recent", run_id)


def test_a_run_with_a_clock_that_is_years_ahead_loses_nothing_and_repeats_nothing(
    serve: Serve, output: Path, tmp_path: Path, incremental: Incremental
) -> None:
    server = serve(**STILL, events=500, years=0.1)
    assert len(incremental("first", server).rows) == 500
    late = server.world.insert_now(ago(server.world, 30))["event_id"]
    wrong = by_a_clock(server, output, tmp_path / "log", "wrong", YEARS)
    assert (wrong.code, ids(wrong.rows)) == (0, [late])
    added = {server.world.insert_now(ago(server.world, hours))["event_id"] for hours in (0, 1, 40)}
    run = incremental("right", server)
    assert (run.code, set(ids(run.rows))) == (0, added)
    assert len(run.rows) == len(added)
    said = re.search(r"^  earlier incremental runs ended at 20\d\d-.*, which is in the future; ", run.stderr, re.M)
    assert said, run.stderr
    assert run.stderr.count("WARNING: Earlier incremental runs ended at ") == 1
    # That was put right.
    after = incremental("after", server)
    assert (after.code, after.rows) == (0, [])
    assert "in the future" not in after.stderr


def test_a_series_that_a_clock_ahead_started_continues(
    serve: Serve, output: Path, tmp_path: Path, incremental: Incremental
) -> None:
    server = serve(**STILL, events=200, years=0.1)
    assert len(by_a_clock(server, output, tmp_path / "log", "wrong", YEARS).rows) == 200
    added = server.world.insert_now(ago(server.world, 0))["event_id"]
    assert ids(incremental("right", server).rows) == [added]


def test_a_clock_that_is_behind_for_one_run_repeats_nothing(
    serve: Serve, output: Path, tmp_path: Path, incremental: Incremental
) -> None:
    server = serve(**STILL, events=500, years=0.1)
    assert len(incremental("first", server).rows) == 500
    behind = by_a_clock(server, output, tmp_path / "log", "behind", -YEARS / 5)
    assert (behind.code, behind.rows) == (0, [])
    assert "the clock of this machine is behind now" in behind.stderr
    added = server.world.insert_now(ago(server.world, 0))["event_id"]
    assert ids(incremental("right", server).rows) == [added]


def test_a_run_that_was_started_with_a_clock_ahead_can_be_finished(
    serve: Serve, output: Path, tmp_path: Path, incremental: Incremental
) -> None:
    server = serve(**STILL, events=300, years=0.1)
    typed = ["recent", "-a", "incremental=true", "-a", "run_id=left", *QUIET]
    process = forked.crawl(typed, environment_of(output, server), tmp_path / "log", clock=YEARS, crash_at=5)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    run = incremental("left", server)
    assert (run.code, len(run.rows)) == (0, 300)
    assert re.search(r"^  the run was started at 20\S+Z, which is in the future; ", run.stderr, re.M)
    added = server.world.insert_now(ago(server.world, 0))["event_id"]
    assert ids(incremental("right", server).rows) == [added]


# --- A schedule --------------------------------------------------------------------------------------------

# A week takes two minutes.
HOURS = int(os.environ.get("PARTI_TEST_HOURS", "20"))


class Schedule:
    """A run every hour while livestreams end, are added late and change; some runs are killed, and some fail.

    Attributes:
        rows: of the runs that have finished, in their order.
    """

    def __init__(self, server: MockServer, output: Path, log: Path, seed: int) -> None:
        self.server, self.world, self.output, self.log = server, server.world, output, log
        self.by_chance = random.Random(seed)
        self.clock = 0.0
        self.rows: list[dict[str, Any]] = []
        self.versions: set[tuple[int, int]] = set()
        self.exit_codes: list[int | None] = []
        self._read: set[str] = set()

    def hour(self, number: int) -> None:
        """Let an hour pass, and run once, or twice if the first run is resumed by its name."""
        self.world.advance(HOUR)
        self.clock += HOUR
        self._change()
        self.versions |= {(record["event_id"], record["total_viewers"]) for record in self.world.recent_at()}
        fate = self.by_chance.choice(["well", "well", "well", "killed", "finished", "failing", "crashed"])
        arguments = ["recent", "-a", "incremental=true", "-a", f"run_id={number:03}", *QUIET]
        if fate == "failing":
            # First without any server, so that one fails for sure; then with one that may fail half-way.
            nowhere = () if 4 in self.exit_codes else ("-s", "PARTI_API_BASE_URLS=http://127.0.0.1:9")
            self.run([*arguments, "-s", "PARTI_RETRY_PATIENCE=0.001", *nowhere])
        elif fate in {"killed", "finished"}:
            self.run(arguments, kill_after=self.by_chance.uniform(0.05, 0.3))
        elif fate == "crashed":
            self.run(arguments, crash_at=self.by_chance.randrange(4, 12))
        else:
            self.run(arguments)
        if fate == "finished":
            self.run(["recent", "-a", "run_id=last", *QUIET])

    def _change(self) -> None:
        for _ in range(self.by_chance.randrange(3)):
            self.world.insert_now(int(self.world.now() - self.by_chance.randrange(24 * HOUR)))
        fresh = [each for each in self.world.recent_at() if each["event_end_ts"] > self.world.now() - 24 * HOUR]
        for record in self.by_chance.sample(fresh, min(len(fresh), 2)):
            self.world.change_now(record["event_id"])

    def run(self, arguments: list[str], *, kill_after: float | None = None, crash_at: int = 0) -> None:
        env = environment_of(self.output, self.server)
        process = forked.crawl(arguments, env, self.log, clock=self.clock, crash_at=crash_at)
        process.join(kill_after)
        process.kill()
        process.join()
        self.exit_codes.append(process.exitcode)
        assert process.exitcode in {0, 4, -signal.SIGKILL}, self.log.read_text(encoding="utf-8")
        self._read_finished()

    def _read_finished(self) -> None:
        for package in sorted(self.output.glob("recent/*/datapackage.json")):
            if package.parent.name not in self._read and not is_sealed(json.loads(package.read_bytes())):
                self._read.add(package.parent.name)
                self.rows += read_lines(package.parent / "livestreams.jsonl")


def test_all_runs_of_a_schedule_together_have_each_version_once(serve: Serve, output: Path, tmp_path: Path) -> None:
    server = serve(speed=0, events=300, live=20, start_every=400, rate_500=0.5, fault_burst=0, page_cap=50)
    schedule = Schedule(server, output, tmp_path / "log", seed=3)
    for number in range(HOURS):
        schedule.hour(number)
    schedule.run(["recent", "-a", "incremental=true", "-a", "run_id=at-the-end"])
    written = [(row["event_id"], row["total_viewers"]) for row in schedule.rows]
    assert len(written) == len(set(written))
    assert set(written) <= schedule.versions
    newest = dict(written)
    assert newest == {record["event_id"]: record["total_viewers"] for record in server.world.recent_at()}
    assert len(written) > len(newest)
    assert {0, 4, -signal.SIGKILL} <= set(schedule.exit_codes)
