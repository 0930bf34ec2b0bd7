"""Stopped or killed runs: the same name resumes them, without lost or duplicate records."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parti_scraper.mockserver import MockServer
from tests import forked
from tests.support import (
    NOW,
    QUIET,
    Crawl,
    Run,
    RunningCrawl,
    Scrapy,
    Serve,
    check_books,
    environment_of,
    hold,
    ids,
    interrupted,
    is_noted,
    read_lines,
    requests,
    typed_of,
    wait_until,
)

STILL: dict[str, Any] = {"now": NOW, "speed": 0, "live": 20}
RUN = ["recent", "-a", "run_id=run", *QUIET]
COLLECTIONS = {"live": "live_channels", "notifications": "live_notifications"}
KILLS = int(os.environ.get("PARTI_TEST_KILLS", "12"))

Fork = Callable[..., Any]


@pytest.fixture
def fork(output: Path, tmp_path: Path) -> Fork:
    """Return a function that starts a crawl in a forked process, whose log is `log`."""
    return lambda arguments, server, **how: forked.crawl(
        arguments, environment_of(output, server), tmp_path / "log", **how
    )


def assert_finished(output: Path, server: MockServer) -> Crawl:
    """Assert that both files have exactly the server's records, and that the counts add up."""
    run = Crawl(0, "", "", output, "recent", "run")
    expected = server.world.existed_throughout() - server.world.malformed_ids
    assert sorted(ids(run.rows)) == sorted(expected)
    assert [int(row["event_id"]) for row in run.csv_rows] == ids(run.rows)
    assert run.package["complete"]
    check_books(run)
    lost = Counter(name for row in run.rows for name in server.world.lost_fields(row["event_id"]))
    assert run.package["unreadable_fields"] == lost
    if server.world.malformed_ids:
        assert len(run.quarantine) == run.package["counts"]["quarantined"] == len(server.world.malformed_ids)
    return run


@pytest.mark.parametrize("killed_at", [22, 34, 46])
def test_a_run_that_is_killed_in_a_hidden_stretch_resumes_below_it(
    killed_at: int, fork: Fork, serve: Serve, output: Path
) -> None:
    server = serve(**STILL, events=1_500, hidden=180, hidden_at=0.87, latency=0.02)
    process = fork(RUN, server)
    wait_until(lambda: len(requests(server)) >= killed_at or not process.is_alive())
    process.kill()
    process.join()
    fork(RUN, server).join()
    run = Crawl(0, "", "", output, "recent", "run")
    assert run.package["complete"], run.package["reason"]
    assert sorted(ids(run.rows)) == sorted(record["event_id"] for record in server.world.recent_at())
    check_books(run)


def test_a_run_that_is_killed_repeatedly_ends_with_each_record_once(
    fork: Fork, serve: Serve, output: Path, tmp_path: Path
) -> None:
    by_chance = random.Random(4)
    kills = 0
    while kills < KILLS:
        server = serve(**STILL, events=2_000, malformed=0.01, page_cap=by_chance.choice([25, 100]), latency=0.01)
        for _ in range(100):
            # By pages and not by time: on a busy machine the start takes longer than the rest.
            killed_at = len(requests(server)) + by_chance.randrange(40)
            process = fork(RUN, server, eager=True)
            wait_until(lambda: len(requests(server)) >= killed_at or not process.is_alive())  # noqa: B023 - called at once
            process.join(by_chance.uniform(0, 0.05))
            if not process.is_alive():
                break
            process.kill()
            process.join()
            kills += 1
        assert process.exitcode == 0, (tmp_path / "log").read_text(encoding="utf-8")
        assert_finished(output, server)
        shutil.rmtree(output)


def test_a_run_that_crashes_at_any_step_of_a_checkpoint_ends_with_each_record_once(
    fork: Fork, serve: Serve, output: Path
) -> None:
    moment = 0
    crashed = True
    while crashed:
        moment += 1
        server = serve(**STILL, events=600, malformed=0.01, page_cap=25)
        process = fork(RUN, server, crash_at=moment, eager=True)
        process.join()
        crashed = process.exitcode == -signal.SIGKILL
        again = fork(RUN, server)
        again.join()
        assert (process.exitcode, again.exitcode) == (-signal.SIGKILL if crashed else 0, 0), moment
        assert_finished(output, server)
        shutil.rmtree(output)
    # Each checkpoint and the end have several.
    assert moment > 15


@pytest.mark.parametrize(
    ("moment", "why"),
    # Each checkpoint syncs two files, and then the ledger; the first moment is the start of the run.
    [(number, "a record cannot be written: " if number % 3 != 1 else "") for number in range(2, 8)],
)
def test_a_full_disk_during_a_checkpoint_stops_the_run_at_the_one_before(
    fork: Fork, serve: Serve, output: Path, tmp_path: Path, moment: int, why: str
) -> None:
    server = serve(**STILL, events=1_000, page_cap=20, latency=0.01)
    process = fork(RUN, server, full_at=moment, eager=True)
    process.join()
    assert process.exitcode == 4
    log = (tmp_path / "log").read_text(encoding="utf-8")
    line = f"recent run: NOT COMPLETE: {why}{forked.FULL}; to finish it: scrapy crawl recent -a run_id=run\n"
    assert log.endswith(line)
    # It was stopped at once.
    assert len(requests(server)) < 45
    fork(RUN, server).join()
    assert_finished(output, server)


@pytest.mark.parametrize("moment", [2, 4])
@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGINT], 3),
        ([signal.SIGTERM], 3),
        ([signal.SIGINT, signal.SIGINT], 3),
        ([signal.SIGKILL], -signal.SIGKILL),
    ],
)
def test_pages_continue_during_a_checkpoint_and_the_run_can_be_stopped(
    fork: Fork, serve: Serve, output: Path, tmp_path: Path, moment: int, signals: list[signal.Signals], code: int
) -> None:
    log = tmp_path / "log"

    def said(text: str) -> bool:
        return log.exists() and f"{text}\n" in log.read_text(encoding="utf-8")

    server = serve(**STILL, events=1_500, page_cap=20, malformed=0.01, latency=0.02)
    fast_again = tmp_path / "fast again"
    process = fork(RUN, server, slow_at=moment, fast_again=fast_again, eager=True)
    wait_until(lambda: said(forked.SLOW))
    before = len(requests(server))
    wait_until(lambda: len(requests(server)) > before + 3)
    assert not said(forked.OVER)
    for number in signals:
        os.kill(process.pid, number)
        time.sleep(0.05)
    if code == 3:
        # What is under way is finished first, unless the process was killed.
        assert process.is_alive()
        fast_again.touch()
    process.join()
    assert process.exitcode == code
    assert said(forked.OVER) is (code == 3)
    assert "Traceback" not in log.read_text(encoding="utf-8")
    fork(RUN, server).join()
    assert_finished(output, server)


def test_a_stopped_run_resumes_and_fetches_few_pages_again(fork: Fork, serve: Serve, output: Path, crawl: Run) -> None:
    options = {**STILL, "events": 1_600, "page_cap": 20, "latency": 0.02}
    undisturbed = serve(**options)
    assert crawl("recent", server=undisturbed, run_id="undisturbed").code == 0
    for number, signal_number in enumerate((signal.SIGINT, signal.SIGTERM, signal.SIGKILL)):
        server = serve(**options)
        reached = hold(server, 39, "/recent")
        process = fork(RUN, server, eager=True)
        wait_until(reached.is_set)
        os.kill(process.pid, signal_number)
        server.held = None
        process.join()
        assert process.exitcode == (-9 if signal_number == signal.SIGKILL else 3)
        assert crawl("recent", server=server).code == 0
        assert_finished(output, server)
        # Up to ten pages since the last checkpoint, those under way, and what each window requests again.
        assert len(requests(server)) <= len(requests(undisturbed)) + 25, number
        shutil.rmtree(output / "recent/run")


def test_a_run_resumes_with_its_own_arguments_and_window(
    serve: Serve, output: Path, crawl: Run, scrapy: Scrapy
) -> None:
    server = serve(speed=0, events=3_000, latency=0.05)
    arguments = {"since": "900d", "categories": "Gaming,7", "max_records": 500}
    typed = typed_of("recent", "run", arguments, QUIET)
    assert interrupted(server, 4, typed, environment_of(output, server), route="/recent").code == -9
    asked = len(server.requests)
    other = scrapy("crawl", "recent", "-a", "run_id=run", "-a", "since=800d", server=server)
    assert (other.returncode, other.stderr) == (
        2,
        "argument `since`: not that of the run `run`: '800d' (accepted: 900d, as at the start, or none)\n",
    )
    other = scrapy("crawl", "recent", "-a", "run_id=run", "-a", "user_id=7", server=server)
    assert (other.returncode, other.stderr) == (
        2,
        "argument `user_id`: not that of the run `run`: '7' (accepted: none, as at the start)\n",
    )
    assert len(server.requests) == asked
    server.world.insert_now(int(server.world.now()))
    run = crawl("recent", server=server, since="900d")
    assert run.code == 0
    assert len(run.rows) == len(run.csv_rows) == len(set(ids(run.rows))) == 500
    assert run.package["truncated"]
    given = run.package["arguments"]
    assert (given["categories"], given["max_records"]) == (["Gaming", "7"], 500)
    assert {row["category_id"] for row in run.rows} == {7}


def test_a_run_stopped_before_its_first_page_has_everything_before_it(serve: Serve, output: Path, crawl: Run) -> None:
    broken, server = (serve(**STILL, events=300, rate_500=rate, fault_burst=0) for rate in (1.0, 0.0))
    running = RunningCrawl(typed_of("recent", "run", {}, QUIET), environment_of(output, broken))
    wait_until(lambda: len(requests(broken, "/categories")) > 3)
    assert running.stop(signal.SIGINT) == 3
    assert crawl("recent", server=server).code == 0
    assert_finished(output, server)


def test_an_outage_does_not_end_a_run_that_is_to_be_finished(serve: Serve, output: Path, crawl: Run) -> None:
    gone, server = serve(**STILL, gone=True), serve(**STILL, events=3_000, latency=0.05)
    env = environment_of(output, server)
    interrupted(server, 20, typed_of("recent", "run", {}, QUIET), env, route="/recent", until=lambda: is_noted(output))
    outage = crawl("recent", *QUIET, server=gone, env={"PARTI_RETRY_PATIENCE": "0.1"})
    assert outage.code == 4
    assert outage.stderr.endswith("to finish it: scrapy crawl recent -a run_id=run\n")
    before = len(requests(server))
    assert crawl("recent", server=server).code == 0
    assert_finished(output, server)
    # It did not start over.
    assert len(requests(server)) - before < 30 + 15


def test_a_run_through_all_categories_resumes_each(serve: Serve, output: Path, crawl: Run) -> None:
    server = serve(**STILL, events=800, page_cap=20, latency=0.01)
    undisturbed = crawl("recent", server=server, run_id="undisturbed", categories="all")
    for pages in (12, 60):
        typed = typed_of("recent", "run", {"categories": "all"}, QUIET)
        assert interrupted(server, pages, typed, environment_of(output, server), route="/recent").code == -9
    run = crawl("recent", server=server)
    assert run.code == 0
    assert sorted(ids(run.rows)) == sorted(ids(undisturbed.rows))
    assert [int(row["event_id"]) for row in run.csv_rows] == ids(run.rows)


def test_last_is_the_last_run_that_did_not_finish(serve: Serve, output: Path, scrapy: Scrapy) -> None:
    server = serve(**STILL, events=2_000, latency=0.05)
    nothing = scrapy("crawl", "recent", "-a", "run_id=last", server=server)
    assert (nothing.returncode, nothing.stderr) == (0, "recent: no run is unfinished; nothing was requested\n")
    for name in ("one", "two"):
        interrupted(server, 5, typed_of("recent", name, {}, QUIET), environment_of(output, server), route="/recent")
    for name in ("two", "one"):
        run = scrapy("crawl", "recent", "-a", "run_id=last", *QUIET, server=server)
        assert run.returncode == 0
        assert run.stderr.startswith(f"recent {name}: complete: 2,000 livestreams")
    assert scrapy("crawl", "recent", "-a", "run_id=last", *QUIET, server=server).stderr == nothing.stderr


def test_two_processes_do_not_work_on_one_run_and_a_dead_one_blocks_no_other(
    serve: Serve, output: Path, crawl: Run
) -> None:
    server = serve(**STILL, events=1_000)
    reached = hold(server, 3)
    running = RunningCrawl(typed_of("recent", "run", {}, QUIET), environment_of(output, server))
    wait_until(reached.is_set)
    second = crawl("recent", *QUIET, server=server)
    assert (second.code, second.stderr) == (
        2,
        "another process is working on the run `run`: wait until it has ended, or stop it\n",
    )
    assert running.process.poll() is None
    running.stop(signal.SIGKILL)
    server.held = None
    assert crawl("recent", server=server).code == 0
    assert_finished(output, server)


def test_a_run_whose_files_were_changed_starts_over(serve: Serve, output: Path, crawl: Run) -> None:
    server = serve(**STILL, events=3_000, latency=0.05)
    typed = typed_of("recent", "run", {}, QUIET)
    interrupted(server, 20, typed, environment_of(output, server), signal.SIGINT, route="/recent")
    (output / "recent/run/livestreams.csv").write_text("nothing\n", encoding="utf-8")
    run = crawl("recent", server=server)
    assert run.code == 0
    assert "it starts over" in run.stderr
    assert_finished(output, server)


def test_a_run_with_a_feed_of_the_user_starts_over(serve: Serve, output: Path, tmp_path: Path, crawl: Run) -> None:
    server = serve(**STILL, events=2_000, latency=0.05)
    feed = tmp_path / "mine.jsonl"
    options = ("-O", str(feed), *QUIET)
    typed = typed_of("recent", "run", {}, options)
    interrupted(server, 15, typed, environment_of(output, server), signal.SIGINT, route="/recent")
    assert crawl("recent", *options, server=server).code == 0
    assert sorted(ids(read_lines(feed))) == sorted(server.world.existed_throughout())


def snapshots(run: Crawl) -> dict[str, list[int]]:
    """Return the channels of each snapshot of a run."""
    found: dict[str, list[int]] = {}
    for row in run.rows:
        found.setdefault(row["snapshot_id"], []).append(row["user_id"])
    return {snapshot_id: sorted(users) for snapshot_id, users in found.items()}


def test_snapshots_are_resumed_and_all_are_whole(serve: Serve, output: Path) -> None:
    server = serve(**STILL, events=10, page_cap=7, latency=0.005)
    arguments = {"interval": "0.1", "duration": "3600"}
    everyone = sorted(record["user_id"] for record in server.world.live_at())
    for typed, signal_number, code in ((arguments, signal.SIGKILL, -9), ({}, signal.SIGINT, 0)):
        before = len(requests(server, "/live"))
        running = RunningCrawl(typed_of("live", "run", typed, QUIET), environment_of(output, server))
        wait_until(lambda: len(requests(server, "/live")) >= before + 44)  # noqa: B023 - called at once
        assert running.stop(signal_number) == code
    run = Crawl(0, "", "", output, "live", "run")
    found = snapshots(run)
    assert list(found) == [f"run-{number}" for number in range(1, len(found) + 1)]
    assert len(found) > 2
    assert all(users == everyone for users in found.values())
    assert [row["snapshot_id"] for row in run.csv_rows] == [row["snapshot_id"] for row in run.rows]
    check_books(run)


# Not of time: on a busy machine nothing would be there by then. `live` is stopped in its second snapshot, of which it
# may have taken a part: the first has all of 40 channels.
@pytest.mark.parametrize(("spider", "items"), [("live", 41), ("notifications", 5)])
def test_a_run_with_days_that_a_limit_of_scrapys_stopped_resumes(
    spider: str, items: int, crawl: Run, serve: Serve, output: Path
) -> None:
    server = serve(**STILL)
    arguments = {"interval": "0.2", "duration": "4"} if spider == "live" else {"duration": "4"}
    first = crawl(spider, "-s", f"CLOSESPIDER_ITEMCOUNT={items}", server=server, **arguments)
    assert first.code == 3, first.stderr
    assert not (first.folder / "datapackage.json").exists()
    (today,) = (path.name for path in first.folder.iterdir() if path.is_dir())
    lines = (first.folder / today / f"{COLLECTIONS[spider]}.jsonl").read_bytes().splitlines(keepends=True)
    before = b"".join(lines[:40] if spider == "live" else lines)
    assert before
    again = crawl(spider, server=server, **arguments)
    assert again.code == 0, again.stderr
    assert (again.folder / today / f"{COLLECTIONS[spider]}.jsonl").read_bytes().startswith(before)
    keys = [(row.get("snapshot_id"), row["user_id"], row["event_id"]) for row in again.rows]
    assert len(set(keys)) == len(keys) == len(again.csv_rows)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "{state}/ledger.sqlite is of version 99, not 3: "),
        (b"not a database" * 100, "{state}/ledger.sqlite is damaged (file is not a database): "),
    ],
)
def test_a_ledger_of_another_version_is_refused_and_not_changed(
    serve: Serve, tmp_path: Path, scrapy: Scrapy, content: bytes | None, line: str
) -> None:
    server = serve(**STILL)
    state = tmp_path / "state"
    state.mkdir()
    ledger = state / "ledger.sqlite"
    if content is None:
        connection = sqlite3.connect(ledger)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
    else:
        ledger.write_bytes(content)
    before = ledger.read_bytes()
    run = scrapy("crawl", "recent", server=server)
    assert run.returncode == 1
    assert run.stderr == line.format(state=state) + "move it away, or set PARTI_STATE_DIR to another folder\n"
    assert ledger.read_bytes() == before
    assert server.requests == []
