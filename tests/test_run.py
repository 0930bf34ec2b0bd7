"""Start and end of a run from outside: exit codes, files, and run ids."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parti_scraper.mockserver import MockServer
from parti_scraper.spiders.recent import RecentSpider
from tests.support import (
    QUIET,
    STILL,
    Run,
    RunningCrawl,
    Scrapy,
    Serve,
    environment_of,
    hold,
    ids,
    interrupted,
    keep_permissions,
    limit_file_size,
    paths,
    read_csv,
    read_lines,
    run_to_its_end,
    truth,
    typed_of,
    wait_until,
)

PACKAGE = "datapackage.json"


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_whole(folder: Path, server: MockServer) -> None:
    """Assert that both files have only whole records, the first ones of the server."""
    for name, rows in (
        ("livestreams.jsonl", read_lines(folder / "livestreams.jsonl")),
        ("livestreams.csv", read_csv(folder / "livestreams.csv")),
    ):
        assert (folder / name).read_bytes().endswith(b"\n")
        assert rows
        assert [int(row["event_id"]) for row in rows] == ids(truth(server))[: len(rows)]
    with (folder / "livestreams.csv").open(encoding="utf-8", newline="") as stream:
        assert {len(row) for row in csv.reader(stream)} == {23}


# --- Stopped before the end --------------------------------------------------------------------------------


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_run_with_its_records_whole(
    serve: Serve, output: Path, signal_number: signal.Signals
) -> None:
    server = serve(**STILL, page_cap=20, latency=0.05)
    typed = typed_of("recent", "run", {}, QUIET)
    running = interrupted(server, 4, typed, environment_of(output, server), signal_number, route="/recent")
    assert running.code == 3
    folder = output / "recent/run"
    assert sorted(contents(folder)) == ["livestreams.csv", "livestreams.jsonl"]
    assert_whole(folder, server)
    assert len(read_lines(folder / "livestreams.jsonl")) == len(read_csv(folder / "livestreams.csv")) < 300
    assert running.stderr.splitlines()[0].startswith("recent run: STOPPED: ")
    assert running.stderr.splitlines()[-2:] == [
        "  stopped before the end (shutdown)",
        "  to finish it: scrapy crawl recent -a run_id=run",
    ]


def test_a_run_is_finished_by_the_line_that_it_ends_with_also_where_its_folders_were_typed(
    serve: Serve, output: Path, tmp_path: Path
) -> None:
    server = serve(**STILL, page_cap=20, latency=0.05)
    places = [f"PARTI_OUTPUT_DIR={tmp_path}/my runs", f"PARTI_STATE_DIR={tmp_path}/state"]
    typed = typed_of("recent", "run", {}, (*QUIET, "-s", places[0], "-s", places[1]))
    environment = environment_of(output, server)
    stopped = interrupted(server, 4, typed, environment, signal.SIGTERM, route="/recent")
    assert stopped.code == 3
    program, *words = shlex.split(stopped.stderr.splitlines()[-1].removeprefix("  to finish it: "))
    assert (program, words) == (
        "scrapy",
        ["crawl", "recent", "-a", "run_id=run", "-s", places[0], "-s", places[1]],
    )
    assert run_to_its_end(words, environment).returncode == 0
    assert len(read_lines(tmp_path / "my runs/recent/run/livestreams.jsonl")) == 300
    assert not output.exists()


def test_a_second_signal_stops_at_once_and_says_how_to_finish(serve: Serve, output: Path, tmp_path: Path) -> None:
    server = serve(**STILL, latency=600)
    log = tmp_path / "log"
    running = RunningCrawl(typed_of("recent", "run", {}, ("--logfile", str(log))), environment_of(output, server))
    wait_until(lambda: bool(paths(server, "/categories")))
    running.process.send_signal(signal.SIGINT)
    wait_until(lambda: "Send again to force" in log.read_text(encoding="utf-8"))
    assert running.stop(signal.SIGINT) == 3
    assert running.stderr == ("recent run: STOPPED at once; to finish it: scrapy crawl recent -a run_id=run\n")


@pytest.mark.parametrize("setting", ["CLOSESPIDER_ITEMCOUNT=50", "CLOSESPIDER_TIMEOUT=0.1"])
def test_scrapys_limits_stop_the_run(crawl: Run, serve: Serve, setting: str) -> None:
    server = serve(**STILL, latency=0.3)
    run = crawl("recent", "-s", setting, *QUIET, server=server)
    assert run.code == 3
    assert not (run.folder / PACKAGE).exists()
    assert "stopped before the end (closespider_" in run.stderr


@pytest.mark.parametrize(
    "setting",
    [
        'SPIDER_MIDDLEWARES={"tests.components.FailingMiddleware": 1}',
        'ITEM_PIPELINES={"tests.components.FailingPipeline": 1}',
        'ITEM_PIPELINES={"tests.components.UnclosablePipeline": 1}',
        'FEEDS={"stdout:": {"format": "csv", "item_filter": "tests.components.FailingFilter"}}',
    ],
)
def test_an_exception_anywhere_is_never_a_complete_run(crawl: Run, serve: Serve, setting: str) -> None:
    server = serve(**STILL)
    run = crawl("categories", "-s", setting, "--nolog", server=server)
    assert run.code == 3
    assert not (run.folder / PACKAGE).exists()
    assert re.search(r"^  \d+ exceptions?, see the log$", run.stderr, re.MULTILINE)


# --- Ended, but not complete -------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [{"gone": True}, {"rate_challenge": 1.0, "fault_burst": 0}])
def test_an_api_that_does_not_answer_with_records_is_no_complete_run(
    crawl: Run, serve: Serve, fault: dict[str, Any]
) -> None:
    server = serve(**STILL, **fault)
    run = crawl("recent", *QUIET, server=server, env={"PARTI_RETRY_PATIENCE": "1"})
    assert run.code == 4
    assert run.package["complete"] is False
    assert "/livestream_calendar/events/categories could not be fetched: " in run.package["reason"]
    assert run.package["reason"] in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("sealed", ["output/recent", "output/recent/run"])
def test_a_folder_that_is_not_writable_is_noticed_before_anything_is_requested(
    scrapy: Scrapy, serve: Serve, tmp_path: Path, sealed: str
) -> None:
    (tmp_path / sealed).mkdir(parents=True)
    (tmp_path / sealed).chmod(0o555)
    server = serve(**STILL)
    run = scrapy("crawl", "recent", "-a", "run_id=run", *QUIET, server=server, before=keep_permissions)
    assert run.returncode == 4
    assert re.fullmatch(r"recent run: NOT COMPLETE: the folder \S+ cannot be (made|written to)\b.*\n", run.stderr)
    assert server.requests == []


def test_a_folder_below_a_file_is_noticed_before_anything_is_requested(
    scrapy: Scrapy, serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file/output"
    server = serve(**STILL)
    command = ("crawl", "recent", "-a", "run_id=run", *QUIET)
    run = scrapy(*command, server=server, env={"PARTI_OUTPUT_DIR": str(folder)})
    assert run.returncode == 4
    assert run.stderr == (f"recent run: NOT COMPLETE: the folder {folder}/recent/run cannot be made: Not a directory\n")
    assert server.requests == []


@pytest.mark.parametrize("name", ["file/x.csv", "/proc/x.csv", "/proc/nosuch/x.csv"])
def test_a_feed_that_cannot_be_written_is_noticed_before_anything_is_requested(
    crawl: Run, serve: Serve, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").touch()
    server = serve(**STILL)
    feed = tmp_path / name
    run = crawl("recent", "-O", str(feed), *QUIET, server=server)
    assert run.code == 4
    assert run.stderr == f"recent run: NOT COMPLETE: the feed {feed} cannot be written there\n"
    assert server.requests == []
    assert not run.output.exists()


@pytest.mark.skipif(importlib.util.find_spec("boto3") is not None, reason="boto3 is installed")
def test_a_feed_that_cannot_be_set_up_is_noticed_before_anything_is_requested(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    run = crawl("recent", "-O", "s3://bucket/x.csv", *QUIET, server=server)
    assert run.code == 4
    assert "missing boto3 library" in run.stderr
    assert "NOT COMPLETE: the feeds could not be set up, see the log\n" in run.stderr
    assert server.requests == []
    assert not run.output.exists()


def test_a_feed_that_could_not_be_stored_in_the_end_is_in_the_data_package_without_its_password(
    crawl: Run, serve: Serve
) -> None:
    server = serve(**STILL)
    run = crawl("categories", "-O", "ftp://user:pa55word@127.0.0.1:9/x.csv", server=server)
    assert run.code == 4
    assert run.package["complete"] is False
    assert run.package["reason"] == "1 of the feeds could not be stored (FTPFeedStorage), see the log"
    assert "feeds" not in run.package
    assert "Error storing csv feed (21 items) in: ftp://127.0.0.1:9/x.csv" in run.stderr
    assert "pa55word" not in run.stderr + json.dumps(run.package)


def test_a_full_disk_stops_the_run_with_its_records_whole_and_the_same_command_finishes_it(
    crawl: Run, scrapy: Scrapy, serve: Serve, output: Path
) -> None:
    server = serve(**STILL)
    # The second page does not fit.
    command = ("crawl", "recent", "-a", "run_id=run", "-a", "limit=50", *QUIET)
    run = scrapy(*command, server=server, before=limit_file_size(60_000))
    assert (run.returncode, run.stdout) == (4, "")
    assert run.stderr == (
        "recent run: NOT COMPLETE: a record cannot be written: File too large; "
        "to finish it: scrapy crawl recent -a run_id=run\n"
    )
    assert sorted(contents(output / "recent/run")) == ["livestreams.csv", "livestreams.jsonl"]
    assert_whole(output / "recent/run", server)
    assert len(paths(server, "/recent")) < 5
    finished = crawl("recent", server=server)
    assert finished.code == 0
    assert ids(finished.rows) == ids(truth(server))


def test_a_disk_that_is_full_only_when_the_files_are_closed_leaves_the_run_unfinished(
    scrapy: Scrapy, serve: Serve, output: Path
) -> None:
    # So many records that only the last bytes, at the closing of the file, do not fit.
    command = ("crawl", "recent", "-a", "run_id=run", "-a", "max_records=80", *QUIET)
    run = scrapy(*command, server=serve(**STILL), before=limit_file_size(60_000))
    file = output / "recent/run/livestreams.jsonl"
    assert run.returncode == 4
    assert run.stderr == (
        f"recent run: NOT COMPLETE: {file} cannot be written: File too large; "
        "to finish it: scrapy crawl recent -a run_id=run\n"
    )
    assert 0 < len(read_lines(file)) < 80
    assert not (file.parent / PACKAGE).exists()


def test_a_disk_that_is_full_for_the_quarantine_stops_the_run_too(scrapy: Scrapy, serve: Serve, output: Path) -> None:
    server = serve(**STILL, malformed=1.0)
    run = scrapy(*("crawl", "recent", "-a", "run_id=run", "--nolog"), server=server, before=limit_file_size(60_000))
    assert run.returncode == 4
    quarantine = output / "recent/run/quarantine.jsonl"
    assert f"NOT COMPLETE: {quarantine} cannot be written: File too large; " in run.stderr
    assert read_lines(quarantine)
    assert not (quarantine.parent / PACKAGE).exists()


def test_a_disk_that_is_full_for_the_data_package_leaves_none(scrapy: Scrapy, serve: Serve, output: Path) -> None:
    folder = output / "recent/run"
    folder.mkdir(parents=True)
    (folder / "datapackage.json.tmp").symlink_to("/dev/full")
    command = ("crawl", "recent", "-a", "run_id=run", "-a", "max_records=2", *QUIET)
    run = scrapy(*command, server=serve(**STILL))
    assert run.returncode == 4
    assert "NOT COMPLETE: datapackage.json cannot be written: No space left on device; to finish it: " in run.stderr
    assert sorted(contents(folder)) == ["livestreams.csv", "livestreams.jsonl"]


def test_a_disk_that_is_full_for_the_ledger_stops_the_run(scrapy: Scrapy, serve: Serve, tmp_path: Path) -> None:
    server = serve(**STILL)
    run = scrapy("crawl", "recent", *QUIET, server=server, before=limit_file_size(10_000))
    assert run.returncode == 4
    assert run.stderr.endswith(f"{tmp_path}/state/ledger.sqlite cannot be used: disk I/O error\n")
    assert server.requests == []


# --- Run ids -----------------------------------------------------------------------------------------------


def test_a_finished_run_is_left_as_it_is(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    before = contents(crawl("categories", server=server).folder)
    asked = len(server.requests)
    run = crawl("categories", *QUIET, server=server)
    assert run.code == 0
    assert run.stderr == f"categories run: finished before; nothing was requested; see {run.folder}\n"
    assert contents(run.folder) == before
    assert len(server.requests) == asked


def test_a_finished_run_that_was_not_complete_does_not_become_so(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL, gone=True)
    before = contents(crawl("categories", server=server, env={"PARTI_RETRY_PATIENCE": "0.1"}).folder)
    asked = len(server.requests)
    run = crawl("categories", *QUIET, server=server)
    assert run.code == 4
    assert run.stderr.startswith("categories run: finished before, NOT COMPLETE: http")
    assert run.stderr.count("\n") == 1
    assert contents(run.folder) == before
    assert len(server.requests) == asked


def test_an_unfinished_run_is_started_again_and_ends_complete(crawl: Run, serve: Serve, output: Path) -> None:
    server = serve(**STILL)
    folder = output / "categories/run"
    folder.mkdir(parents=True)
    for name in ("categories.jsonl", "categories.csv", "quarantine.jsonl"):
        (folder / name).write_text('{"category_id": 7, "na', encoding="utf-8")
    run = crawl("categories", server=server)
    assert run.code == 0
    assert sorted(contents(folder)) == ["categories.csv", "categories.jsonl", PACKAGE]
    names = [category["name"] for category in server.world.categories()]
    assert [row["name"] for row in run.rows] == [row["name"] for row in run.csv_rows] == names


def test_a_run_is_named_after_its_start_or_scrapyds_job(scrapy: Scrapy, serve: Serve, output: Path) -> None:
    server = serve(**STILL)
    assert scrapy("crawl", "categories", server=server).returncode == 0
    job = "6487ec79947edab326d6db28a2d86511e8247444"
    assert scrapy("crawl", "categories", "-a", f"_job={job}", "-a", "_version=1", server=server).returncode == 0
    by_start, by_job = sorted((path.name for path in (output / "categories").iterdir()), key=len)
    assert by_job == job
    assert re.fullmatch(r"20\d{6}T\d{6}Z-[0-9a-f]{10}", by_start)
    assert json.loads((output / "categories" / job / PACKAGE).read_text(encoding="utf-8"))["run_id"] == job


def test_two_runs_of_one_second_have_different_names() -> None:
    assert RecentSpider.identify({}, time.time()).run_id != RecentSpider.identify({}, time.time()).run_id


# --- Missing streams and folders --------------------------------------------------------------------------


def closing(*numbers: int) -> Callable[[], None]:
    """Return a function that closes standard streams of a process, like `2>&-`."""
    return lambda: [os.close(number) for number in numbers] and None


@pytest.mark.parametrize("numbers", [(2,), (1,), (0,), (0, 1, 2)])
def test_a_run_needs_no_standard_streams(crawl: Run, scrapy: Scrapy, serve: Serve, numbers: tuple[int, ...]) -> None:
    server = serve(**STILL)
    command = ("crawl", "recent", "-a", "run_id=run", *QUIET)
    run = scrapy(*command, server=server, preexec_fn=closing(*numbers))
    assert (run.returncode, run.stdout) == (0, "")
    # It ended with whole files, and there is nothing to resume.
    finished = crawl("recent", server=server)
    assert (finished.code, "finished before" in finished.stderr) == (0, True)
    assert ids(finished.rows) == ids(truth(server))


def test_an_error_without_standard_error_still_is_an_exit_code(scrapy: Scrapy) -> None:
    run = scrapy("crawl", "recnet", preexec_fn=closing(2))
    assert (run.returncode, run.stdout, run.stderr) == (2, "", "")


def test_a_feed_to_a_standard_output_that_is_closed_is_a_usage_error(scrapy: Scrapy, serve: Serve) -> None:
    server = serve(**STILL)
    run = scrapy("crawl", "recent", "-O", "-:csv", server=server, preexec_fn=closing(1))
    assert run.returncode == 2
    assert run.stderr == "feed `stdout:`: the standard output is closed: 'stdout:' (accepted: a file)\n"
    assert server.requests == []


@pytest.mark.parametrize("name", ["PARTI_OUTPUT_DIR", "PARTI_STATE_DIR"])
def test_a_folder_whose_name_is_not_utf_8_is_a_usage_error(
    scrapy: Scrapy, serve: Serve, tmp_path: Path, name: str
) -> None:
    server = serve(**STILL)
    folder = f"{tmp_path}/caf\udce9"
    line = f"setting `{name}`: not UTF-8: {folder!r} (accepted: a folder whose name is)\n"
    # An environment in bytes, like the system's names of folders.
    run = scrapy("crawl", "recent", server=server, env={name: folder}, preexec_fn=closing())
    assert (run.returncode, run.stdout, run.stderr) == (2, "", line)
    assert server.requests == []
    # The other folder may be there: that nothing was started is noted in the ledger.
    assert [path.name for path in tmp_path.iterdir() if path.name != "state"] == []


@pytest.mark.parametrize("typed", [("-O", "caf\udce9.csv"), ("-a", "categories=caf\udce9")])
def test_an_argument_that_is_not_utf_8_is_a_usage_error(scrapy: Scrapy, serve: Serve, typed: tuple[str, str]) -> None:
    server = serve(**STILL)
    run = scrapy("crawl", "recent", *typed, server=server, preexec_fn=closing())
    assert (run.returncode, run.stdout, run.stderr) == (2, "", f"not UTF-8: {typed[1]!r} (accepted: UTF-8)\n")
    assert server.requests == []


def delete(folder: Path) -> None:
    """Delete a folder."""
    shutil.rmtree(folder)


def replace_by_file(folder: Path) -> None:
    """Replace a folder with a file."""
    shutil.rmtree(folder)
    folder.touch()


def replace_by_folder(folder: Path) -> None:
    """Replace a folder with an empty one."""
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize("what", [delete, replace_by_file, replace_by_folder])
@pytest.mark.parametrize("pages", [2, 20])
def test_a_run_whose_folder_is_deleted_ends_with_one_line_and_can_be_repeated(
    crawl: Run, serve: Serve, output: Path, pages: int, what: Callable[[Path], None]
) -> None:
    # The folder is deleted before the last pages; with few pages, the run would notice only at the end.
    server = serve(**STILL, page_cap=300 // pages, malformed=0.02)
    hold(server, 1, "/recent")
    running = RunningCrawl(typed_of("recent", "run", {}, ("-L", "ERROR")), environment_of(output, server))
    wait_until((output / "recent/run/livestreams.csv").exists)
    what(output / "recent/run")
    server.held = None
    assert running.stop(0) == 4
    assert re.fullmatch(
        r"recent run: NOT COMPLETE: .*(was deleted during the run|No such file or directory|Not a directory)(;.*)?\n",
        running.stderr,
    )
    assert not (output / "recent/run" / PACKAGE).exists()
    if what is replace_by_file:
        (output / "recent/run").unlink()
    finished = crawl("recent", server=server)
    assert finished.code == 0
    assert len(finished.rows) + len(finished.quarantine) == 300


def test_a_feed_of_the_user_that_is_deleted_during_the_run_is_not_complete(
    serve: Serve, output: Path, tmp_path: Path
) -> None:
    server = serve(**STILL, page_cap=100)
    hold(server, 1, "/recent")
    feed = tmp_path / "own.jsonl"
    running = RunningCrawl(typed_of("recent", "run", {}, (*QUIET, "-O", str(feed))), environment_of(output, server))
    wait_until(feed.exists)
    feed.unlink()
    server.held = None
    assert running.stop(0) == 4
    assert f"the feed {feed} was deleted during the run" in running.stderr
