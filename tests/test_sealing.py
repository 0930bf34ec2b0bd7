"""Runs that were killed or stopped and left: they are sealed, and can be resumed all the same."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.ledger.ledger import Ledger
from parti_scraper.mockserver import MockServer
from parti_scraper.run.cutting import Whole, whole_records
from parti_scraper.run.sealing import seal, seal_folder
from tests import forked, left_behind
from tests.listening import STARTING, Listening, ended, heard_ids, live, settle
from tests.support import (
    NOW,
    QUIET,
    Crawl,
    Run,
    RunningCrawl,
    Serve,
    check_books,
    environment_of,
    hold,
    ids,
    interrupted,
    requests,
    true_ids,
    typed_of,
    wait_until,
)

STILL: dict[str, Any] = {"now": NOW, "speed": 0, "live": 20}
RUN = ["recent", "-a", "run_id=run", *QUIET]
HOUR = 3_600

Fork = Callable[..., int]


@pytest.fixture
def fork(output: Path, tmp_path: Path) -> Fork:
    """Return a function that runs a crawl in a forked process, whose log is `log`, and returns the exit code."""

    def run(arguments: list[str], server: MockServer, **how: Any) -> int:
        process = forked.crawl(arguments, environment_of(output, server), tmp_path / "log", **how)
        process.join()
        return process.exitcode or 0

    return run


def seal_at(output: Path, later: float = 2 * HOUR, spider: str | None = None) -> list[str]:
    """Seal what was left, so many seconds from now; return the names of the runs."""
    with closing(Ledger(output.with_name("state"))) as ledger:
        return [folder.name for folder in seal(ledger, spider, time.time() + later)]


def crawl_of(output: Path, spider: str = "recent", run_id: str = "run") -> Crawl:
    """Return what a run has left."""
    return Crawl(0, "", "", output, spider, run_id)


def assert_sealed(run: Crawl, exit_code: int | None = None, reason: str = "killed") -> None:
    """Assert that a run is sealed, and that all that is there is as described."""
    package = run.package
    assert (package["sealed"], package["complete"], package["exit_code"]) == (True, False, exit_code)
    assert package["reason"] == reason
    assert list(left_behind.wrong_runs(run.folder.parent)) == []
    check_books(run)


def kill_after(output: Path, server: MockServer, number: int, typed: list[str]) -> None:
    """Run a crawl, and kill it after so many answers."""
    assert interrupted(server, number, typed, environment_of(output, server)).code == -signal.SIGKILL


def leave(output: Path, server: MockServer) -> None:
    """Leave a run of `recent` that was killed between two checkpoints."""
    kill_after(output, server, 13, typed_of("recent", "run", {}, QUIET))


# --- What is left ----------------------------------------------------------------------------------------------


def test_a_run_that_crashed_at_any_step_of_a_checkpoint_is_sealed_and_still_resumes(
    fork: Fork, serve: Serve, output: Path
) -> None:
    sealed = []
    for moment in range(2, 60, 3):
        server = serve(**STILL, events=600, malformed=0.01, page_cap=25)
        if fork(RUN, server, crash_at=moment, eager=True) == 0:
            break
        run = crawl_of(output)
        # The last steps come after the data package.
        was_described = (run.folder / "datapackage.json").exists()
        names = seal_at(output)
        assert names == ([] if was_described or not run.folder.exists() else ["run"]), moment
        sealed += names
        if names:
            assert_sealed(run)
        assert fork(RUN, server) == 0, moment
        expected = server.world.existed_throughout() - server.world.malformed_ids
        assert sorted(ids(run.rows)) == sorted(expected)
        assert (run.package["complete"], run.package.get("sealed")) == (True, None)
        check_books(run)
        shutil.rmtree(output)
        shutil.rmtree(output.with_name("state"))
    assert len(sealed) > 4


@pytest.mark.parametrize("number", [0, 6, 12, 31])
def test_a_run_that_was_killed_at_any_time_keeps_what_the_ledger_has_noted(
    number: int, serve: Serve, output: Path
) -> None:
    server = serve(**STILL, events=2_000, page_cap=25, latency=0.02, malformed=0.01)
    kill_after(output, server, number, typed_of("recent", "run", {}, QUIET))
    with closing(Ledger(output.with_name("state"))) as ledger:
        record = next(ledger.running("recent"), None)
        noted = ledger.last_checkpoint(record.id) if record else None
    if record is None:
        return
    assert seal_at(output) == ["run"]
    run = crawl_of(output)
    assert_sealed(run)
    for name, (size, rows) in (noted.files if noted else {}).items():
        resource = next(each for each in run.package["resources"] if each["path"] == name)
        assert (resource["bytes"], resource["rows"]) >= (size, rows)
    assert (run.package["source"], run.package["host"]) == ("mock", server.base_url)
    assert run.package["run_uuid"] == record.run_uuid
    assert seal_at(output) == []


def test_a_run_that_was_stopped_says_so(serve: Serve, output: Path, crawl: Run) -> None:
    server = serve(**STILL, events=2_000, page_cap=25, latency=0.02)
    typed = typed_of("recent", "run", {"since": "2024-01-01"}, QUIET)
    assert interrupted(server, 12, typed, environment_of(output, server), signal.SIGINT).code == 3
    assert seal_at(output) == ["run"]
    run = crawl_of(output)
    assert_sealed(run, 3, "stopped before the end (shutdown)")
    assert run.package["arguments"] == {"since": 1_704_067_200}
    assert run.package["window"]["since"] == "2024-01-01T00:00:00Z"
    again = crawl("recent", server=server)
    assert (again.code, again.package["run_uuid"]) == (0, run.package["run_uuid"])


def test_a_run_on_a_full_disk_says_so(fork: Fork, serve: Serve, output: Path) -> None:
    server = serve(**STILL, events=600, page_cap=25)
    assert fork(RUN, server, full_at=5, eager=True) == 4
    assert seal_at(output) == ["run"]
    run = crawl_of(output)
    assert_sealed(run, 4, run.package["reason"])
    assert forked.FULL in run.package["reason"]
    assert fork(RUN, server) == 0
    assert sorted(ids(run.rows)) == true_ids(server)


def test_snapshots_are_listed_those_that_were_cut_too_and_a_sealed_run_takes_the_next_ones(
    serve: Serve, output: Path
) -> None:
    server = serve(**STILL, events=10, page_cap=7, latency=0.005)
    everyone = sorted(record["user_id"] for record in server.world.live_at())
    arguments = {"interval": "0.1", "duration": "3600"}
    run = crawl_of(output, "live")
    for typed, signal_number in ((arguments, signal.SIGKILL), ({}, signal.SIGKILL), ({}, signal.SIGINT)):
        before = len(requests(server, "/live"))
        running = RunningCrawl(typed_of("live", "run", typed, QUIET), environment_of(output, server))
        wait_until(lambda: len(requests(server, "/live")) >= before + 44)  # noqa: B023 - called at once
        running.stop(signal_number)
        if signal_number == signal.SIGKILL:
            assert seal_at(output) == ["run"]
            assert_sealed(run)
            listed = [each for day in run.package["days"] for each in day_package(run, day)["snapshots"]]
            assert all(each["complete"] for each in listed[:-1])
    found: dict[str, list[int]] = {}
    for row in run.rows:
        found.setdefault(row["snapshot_id"], []).append(row["user_id"])
    assert list(found) == [f"run-{number}" for number in range(1, len(found) + 1)]
    assert all(sorted(users) == everyone for users in found.values())
    assert run.package["exit_code"] == 0
    assert list(left_behind.wrong_runs(run.folder.parent)) == []


def day_package(run: Crawl, day: str) -> dict[str, Any]:
    """Return the data package of a day."""
    return dict(json.loads((run.folder / day / "datapackage.json").read_text(encoding="utf-8")))


def test_no_notification_is_lost_by_sealing_and_none_is_twice_after_it(serve: Serve, output: Path) -> None:
    server = serve(**STARTING)
    for signal_number in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        before = len(requests(server, "/live"))
        running = Listening(output, server)
        wait_until(lambda: len(requests(server, "/live")) > before)  # noqa: B023 - called at once
        server.world.advance(60)
        wait_until(lambda: live(server) <= heard_ids(output))
        settle(server, running)
        running.stop(signal_number)
        if signal_number == signal.SIGKILL:
            heard = heard_ids(output)
            assert seal_at(output) == ["run"]
            assert heard_ids(output) == heard
            run = crawl_of(output, "notifications")
            assert_sealed(run)
            assert all(day_package(run, day)["listened"] for day in run.package["days"])
    assert ended(output).package["complete"]
    assert list(left_behind.wrong_runs(output / "notifications")) == []


def test_what_the_machine_has_left_after_the_last_whole_record_is_cut_off(serve: Serve, output: Path) -> None:
    server = serve(**STILL, events=600, page_cap=25, latency=0.02)
    leave(output, server)
    run = crawl_of(output)
    for name, rest in (("livestreams.jsonl", b"\0" * 4_096 + b"\n{}\n"), ("livestreams.csv", b"\0" * 999 + b"\r\n1,2")):
        with (run.folder / name).open("ab") as file:
            file.write(rest)
    assert seal_at(output) == ["run"]
    assert_sealed(run)


# --- When, and by whom -----------------------------------------------------------------------------------------


def test_a_crawl_seals_what_was_left_for_an_hour_and_no_other_spiders(fork: Fork, serve: Serve, output: Path) -> None:
    server = serve(**STILL, events=600, page_cap=25, latency=0.02)
    leave(output, server)
    package = crawl_of(output).folder / "datapackage.json"
    assert fork(["recent", "-a", "max_records=1", *QUIET], server, clock=HOUR / 2) == 0
    assert fork(["categories", *QUIET], server, clock=2 * HOUR) == 0
    assert not package.exists()
    assert fork(["recent", "-a", "max_records=1", *QUIET], server, clock=2 * HOUR) == 0
    assert_sealed(crawl_of(output))


def test_a_clock_that_was_set_back_does_not_keep_a_run_from_being_sealed(serve: Serve, output: Path) -> None:
    leave(output, serve(**STILL, events=600, page_cap=25, latency=0.02))
    assert seal_at(output, -HOUR / 2) == []
    assert seal_at(output, -24 * HOUR) == ["run"]


def test_a_change_in_a_day_is_one_of_the_run(serve: Serve, output: Path) -> None:
    server = serve(**STILL, events=10, page_cap=7, latency=0.005)
    kill_after(output, server, 20, typed_of("live", "run", {"interval": "0.1"}, QUIET))
    folder = crawl_of(output, "live").folder
    old = time.time() - 2 * HOUR
    paths = [*folder.rglob("*"), folder]
    for path in paths[1:]:
        os.utime(path, (old, old))
    assert seal_at(output, 0) == []
    os.utime(paths[0], (old, old))
    assert seal_at(output, 0) == ["run"]


def test_a_run_at_work_is_not_touched(fork: Fork, serve: Serve, output: Path) -> None:
    server = serve(**STILL, events=1_000, page_cap=25)
    reached = hold(server, 12)
    running = RunningCrawl(typed_of("recent", "run", {}, QUIET), environment_of(output, server))
    wait_until(reached.is_set)
    assert fork(["recent", "-a", "max_records=1", *QUIET], serve(**STILL), clock=2 * HOUR) == 0
    assert running.process.poll() is None
    assert not (crawl_of(output).folder / "datapackage.json").exists()
    server.held = None
    assert running.stop(0) == 0
    assert sorted(ids(crawl_of(output).rows)) == true_ids(server)


def test_the_run_that_is_named_is_not_sealed_before_it_goes_on(fork: Fork, serve: Serve, output: Path) -> None:
    server = serve(**STILL, events=600, page_cap=25, latency=0.02)
    leave(output, server)
    assert fork([*RUN[:3], "--loglevel", "INFO"], server, clock=2 * HOUR) == 0
    assert "was sealed" not in output.with_name("log").read_text(encoding="utf-8")


def test_what_cannot_be_sealed_is_one_warning_and_the_crawl_goes_on(fork: Fork, serve: Serve, output: Path) -> None:
    server = serve(**STILL, events=600, page_cap=25, latency=0.02)
    leave(output, server)
    obstacle = crawl_of(output).folder / "datapackage.json.tmp"
    obstacle.mkdir()
    assert fork(["recent", "-a", "run_id=next", "-a", "max_records=1", *QUIET], server, clock=2 * HOUR) == 0
    log = output.with_name("log").read_text(encoding="utf-8").splitlines()
    (warning,) = (line for line in log if "WARNING" in line)
    assert f"The run in {obstacle.parent}, which was killed or stopped, cannot be sealed: Is a directory" in warning
    obstacle.rmdir()
    assert seal_at(output) == ["run"]
    assert_sealed(crawl_of(output))


@pytest.mark.parametrize(("spider", "arguments"), [("recent", {}), ("live", {"interval": "0.1"})])
def test_a_sealing_that_was_killed_at_any_step_is_finished_by_the_next(
    spider: str, arguments: dict[str, str], fork: Fork, serve: Serve, output: Path
) -> None:
    server = serve(**STILL, events=600, page_cap=7, latency=0.01)
    kill_after(output, server, 20, typed_of(spider, "run", arguments, QUIET))
    kept = output.with_name("kept")
    shutil.copytree(output, kept / "output")
    shutil.copytree(output.with_name("state"), kept / "state")
    for moment in range(1, 10):
        typed = [spider, "-a", "run_id=other", "-a", "max_records=1", *QUIET]
        assert fork(typed, server, clock=2 * HOUR, crash_at=moment) == -signal.SIGKILL
        seal_at(output, 4 * HOUR)
        # It may have been killed before the ledger knew it.
        shutil.rmtree(output / spider / "other", ignore_errors=True)
        assert_sealed(crawl_of(output, spider))
        for name in ("output", "state"):
            shutil.rmtree(output.with_name(name))
            shutil.copytree(kept / name, output.with_name(name))


# --- Incremental runs ------------------------------------------------------------------------------------------


def test_a_sealed_incremental_run_does_not_move_its_series_and_is_superseded_by_the_next(
    fork: Fork, serve: Serve, output: Path
) -> None:
    server = serve(**STILL, events=600, page_cap=25, latency=0.02)
    kill_after(output, server, 13, typed_of("recent", "run", {"incremental": "true"}, QUIET))
    assert seal_at(output) == ["run"]
    assert fork(["recent", "-a", "run_id=next", "-a", "incremental=true", *QUIET], server) == 0
    assert sorted(ids(crawl_of(output, run_id="next").rows)) == true_ids(server)
    assert_sealed(crawl_of(output))
    assert fork(RUN, server) == 2
    assert "a later incremental run has written what it was to write" in output.with_name("log").read_text()
    assert_sealed(crawl_of(output))


def test_a_sealed_incremental_run_that_is_resumed_moves_its_series(fork: Fork, serve: Serve, output: Path) -> None:
    server = serve(**STILL, events=600, page_cap=25, latency=0.02)
    kill_after(output, server, 13, typed_of("recent", "run", {"incremental": "true"}, QUIET))
    assert seal_at(output) == ["run"]
    assert fork(["recent", "-a", "run_id=last", *QUIET], server) == 0
    run = crawl_of(output)
    assert (sorted(ids(run.rows)), run.package["counts"]["new"]) == (true_ids(server), len(true_ids(server)))
    assert fork(["recent", "-a", "run_id=next", "-a", "incremental=true", *QUIET], server) == 0
    assert crawl_of(output, run_id="next").rows == []


def test_a_superseded_run_is_sealed_too(fork: Fork, serve: Serve, output: Path) -> None:
    server = serve(**STILL, events=600, page_cap=25, latency=0.02)
    kill_after(output, server, 13, typed_of("recent", "run", {"incremental": "true"}, QUIET))
    assert fork(["recent", "-a", "run_id=next", "-a", "incremental=true", *QUIET], server) == 0
    assert seal_at(output) == ["run"]
    assert_sealed(crawl_of(output))


# --- Without a ledger ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spider", "arguments"), [("recent", {}), ("live", {"interval": "0.1"})])
def test_a_folder_that_no_ledger_knows_is_sealed_by_what_it_tells(
    spider: str, arguments: dict[str, str], serve: Serve, output: Path, tmp_path: Path
) -> None:
    server = serve(**STILL, events=2_000, page_cap=7, latency=0.01)
    kill_after(output, server, 60, typed_of(spider, "20261101T120000Z-a", arguments, QUIET))
    shutil.rmtree(output.with_name("state"))
    run = crawl_of(output, spider, "20261101T120000Z-a")
    assert not seal_folder(run.folder, time.time())
    assert seal_folder(run.folder, time.time() + 2 * HOUR)
    assert not seal_folder(run.folder, time.time() + 4 * HOUR)
    assert_sealed(run)
    assert (run.package["arguments"], run.package["started_at"]) == ({}, "2026-11-01T12:00:00Z")
    assert run.rows


def test_of_a_folder_with_a_day_that_was_over_its_run_is_known(tmp_path: Path) -> None:
    folder = tmp_path / "live/run"
    (folder / "2026-11-01").mkdir(parents=True)
    (folder / "2026-11-02").mkdir()
    described = {"format_version": 2, "run_uuid": "a", "source": "mock", "host": "http://127.0.0.1:9"}
    counts = {"written": 0, "quarantined": 0}
    about = described | {"arguments": {"interval": 300.0}, "counts": counts, "resources": []}
    (folder / "2026-11-01/datapackage.json").write_text(json.dumps(about), encoding="utf-8")
    assert seal_folder(folder, time.time() + 2 * HOUR)
    run = Crawl(0, "", "", tmp_path, "live", "run")
    for package in (run.package, day_package(run, "2026-11-02")):
        assert package | described == package
        assert package["arguments"] == {"interval": 300.0}
    assert run.package["days"] == ["2026-11-01", "2026-11-02"]


def test_what_was_to_be_written_again_stays_a_file_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "notifications/run"
    folder.mkdir(parents=True)
    lines = b'{"event_id": 1}\n{"event_id": 2}\n'
    (folder / "recovered.jsonl").write_bytes(lines)
    (folder / "recovered.tmp").write_bytes(lines[:-3])
    assert seal_folder(folder, time.time() + 2 * HOUR)
    package = Crawl(0, "", "", tmp_path, "notifications", "run").package
    (resource,) = package["resources"]
    assert (resource["path"], resource["rows"], package["counts"]["written"]) == ("recovered.jsonl", 2, 0)
    assert (folder / "recovered.jsonl").read_bytes() == lines
    assert not (folder / "recovered.tmp").exists()
    assert list(left_behind.wrong_runs(folder.parent)) == []


def test_what_is_no_run_is_not_sealed(tmp_path: Path) -> None:
    folder = tmp_path / "notes/mine"
    folder.mkdir(parents=True)
    assert not seal_folder(folder, time.time() + 2 * HOUR)
    assert not seal_folder(tmp_path / "live/gone", time.time())
    assert list(folder.iterdir()) == []


# --- Whole records ---------------------------------------------------------------------------------------------

TEXTS = st.text(st.sampled_from('a", \r\n\u2028ä'), max_size=5)


def as_csv(rows: list[list[str]]) -> bytes:
    """Return rows as a file, the first of which is the header."""
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows(rows)
    return stream.getvalue().encode()


def as_lines(rows: list[list[str]]) -> bytes:
    """Return rows as JSON Lines."""
    return b"".join(json.dumps({"a": row}, ensure_ascii=False).encode() + b"\n" for row in rows)


@given(rows=st.lists(st.lists(TEXTS, min_size=2, max_size=2)), form=st.sampled_from(["jsonl", "csv"]), data=st.data())
def test_a_file_is_cut_to_its_whole_records_and_never_below_what_was_noted(
    rows: list[list[str]], form: str, data: st.DataObject
) -> None:
    write, header = (as_csv, [["x", "y"]]) if form == "csv" else (as_lines, [])
    content = write([*header, *rows])
    noted = data.draw(st.integers(0, len(rows)))
    start = len(write([*header, *rows[:noted]])) if noted else 0
    size = data.draw(st.integers(start, len(content)))
    most = data.draw(st.integers(0, len(rows)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"records.{form}"
        path.write_bytes(content[:size])
        whole = Whole.of(path, (start, noted))
        kept = whole.cut(most)
        left = path.read_bytes()
    assert noted <= kept <= whole.rows <= len(rows)
    assert kept == max(noted, min(most, whole.rows))
    assert len(write([*header, *rows[: whole.rows + 1]])) > size or whole.rows == len(rows)
    assert left == write([*header, *rows[:kept]]) or (not left and size < len(write(header)))


def test_a_line_end_in_quotes_ends_no_record() -> None:
    lines = [b'1,"a\r\n', b'b ""\r\n', b'"\r\n', b"2,\r\n", b'3,"\r\n']
    assert list(whole_records(lines, quoted=True)) == [15, 19]
