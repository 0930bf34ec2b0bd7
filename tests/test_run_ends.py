"""Who a run is, and how it ended: the same in its data package and in the ledger, which knows what never began too."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from parti_scraper import __version__
from parti_scraper.exceptions import UsageError
from parti_scraper.ledger.ledger import FailedStart, Ledger, RunRecord
from parti_scraper.mockserver import MockServer
from parti_scraper.run import datapackage
from tests.support import (
    QUIET,
    STILL,
    Run,
    RunningCrawl,
    Scrapy,
    Serve,
    environment_of,
    interrupted,
    typed_of,
    wait_until,
)

Noted = Callable[[], RunRecord]
FailedStarts = Callable[[], list[FailedStart]]
LATER = '{"format_version": 3}'


@pytest.fixture
def noted(output: Path) -> Noted:
    """Return a function that returns the run `run` of the spider `recent` as the ledger has it."""

    def find() -> RunRecord:
        with closing(Ledger(output.with_name("state"))) as ledger:
            run = ledger.find(output / "recent/run")
        assert run is not None
        return run

    return find


@pytest.fixture
def failed_starts(output: Path) -> FailedStarts:
    """Return a function that returns what was not begun, and checks that no run was."""

    def find() -> list[FailedStart]:
        with closing(Ledger(output.with_name("state"))) as ledger:
            assert list(ledger.running("recent")) == []
            return list(ledger.failed_starts())

    return find


def killed(serve: Serve, output: Path, *options: str) -> MockServer:
    """Kill a run after some pages, and return the server."""
    server = serve(**STILL | {"events": 2_000}, page_cap=20, latency=0.05)
    interrupted(
        server, 4, typed_of("recent", "run", {}, (*QUIET, *options)), environment_of(output, server), route="/recent"
    )
    return server


# --- Runs ------------------------------------------------------------------------------------------------------


def test_a_complete_run_says_who_it_is_and_how_it_ended(crawl: Run, serve: Serve, noted: Noted) -> None:
    package = crawl("recent", *QUIET, server=serve(**STILL)).package
    run = noted()
    assert UUID(package["run_uuid"]).version == 4
    assert (package["format_version"], package["project_version"], package["exit_code"]) == (2, __version__, 0)
    assert package["created"] == package["ended_at"]
    started, ended = (datetime.fromisoformat(package[key]).timestamp() for key in ("started_at", "ended_at"))
    assert 0 < package["duration_seconds"] == round(package["duration_seconds"], 3)
    # The moments are to the second.
    assert abs(ended - started - package["duration_seconds"]) < 1
    assert run.ended_at is not None
    assert (int(run.started_at), int(run.ended_at), run.run_uuid) == (started, ended, package["run_uuid"])
    assert (run.state, run.exit_code, run.reason) == ("complete", 0, None)


def test_an_incomplete_run_has_its_reason_in_the_ledger(crawl: Run, serve: Serve, noted: Noted) -> None:
    server = serve(**STILL, gone=True)
    package = crawl("recent", *QUIET, server=server, env={"PARTI_RETRY_PATIENCE": "0.1"}).package
    run = noted()
    assert package["exit_code"] == 4
    assert (run.state, run.exit_code, run.reason) == ("incomplete", 4, package["reason"])


def test_a_run_that_was_stopped_says_so_until_it_goes_on_and_stays_who_it_is(
    crawl: Run, serve: Serve, output: Path, noted: Noted
) -> None:
    server = serve(**STILL, page_cap=20, latency=0.05)
    assert crawl("recent", "-s", "CLOSESPIDER_ITEMCOUNT=50", *QUIET, server=server).code == 3
    stopped = noted()
    reason = "stopped before the end (closespider_itemcount)"
    assert (stopped.state, stopped.exit_code, stopped.reason) == ("running", 3, reason)
    assert stopped.ended_at is not None
    assert stopped.ended_at > stopped.started_at
    silent = serve(**STILL, latency=600)
    running = RunningCrawl(typed_of("recent", "run", {}, QUIET), environment_of(output, silent))
    wait_until(lambda: noted().ended_at is None)
    running.stop(signal.SIGKILL)
    killed = noted()
    assert (killed.state, killed.ended_at, killed.exit_code, killed.reason) == ("running", None, None, None)
    package = crawl("recent", *QUIET, server=server).package
    assert package["run_uuid"] == noted().run_uuid == stopped.run_uuid
    assert datetime.fromisoformat(package["started_at"]).timestamp() == int(stopped.started_at)
    assert package["duration_seconds"] > stopped.ended_at - stopped.started_at
    assert (noted().state, noted().exit_code) == ("complete", 0)


def test_a_run_that_begins_from_the_start_again_stays_who_it_is(
    crawl: Run, serve: Serve, output: Path, noted: Noted
) -> None:
    server = killed(serve, output)
    called = noted().run_uuid
    (output / "recent/run/livestreams.jsonl").unlink(missing_ok=True)
    run = crawl("recent", *QUIET, server=server)
    assert (run.code, run.package["run_uuid"], noted().run_uuid) == (0, called, called)


def test_an_exception_is_noted_as_the_end(crawl: Run, serve: Serve, noted: Noted) -> None:
    setting = 'SPIDER_MIDDLEWARES={"tests.components.FailingMiddleware": 1}'
    assert crawl("recent", "-s", setting, "--nolog", server=serve(**STILL)).code == 3
    run = noted()
    assert (run.state, run.exit_code) == ("running", 3)
    assert re.fullmatch(r"\d+ exceptions?, see the log", run.reason or "")


def test_a_second_signal_is_noted_as_the_end(serve: Serve, output: Path, tmp_path: Path, noted: Noted) -> None:
    server = serve(**STILL, latency=600)
    for number in range(5):
        log, before = tmp_path / f"log-{number}", len(server.requests)
        typed = typed_of("recent", "run", {}, ("--logfile", str(log)))
        running = RunningCrawl(typed, environment_of(output, server))
        wait_until(lambda before=before: len(server.requests) > before)
        running.process.send_signal(signal.SIGINT)
        wait_until(lambda log=log: "Send again to force" in log.read_text(encoding="utf-8"))
        assert running.stop(signal.SIGINT) == 3
        run = noted()
        # On a busy machine, a run may end before it gets the second one; then it is resumed, and stopped again.
        if run.reason != "stopped before the end (shutdown)":
            break
    assert (run.state, run.exit_code, run.reason) == ("running", 3, "stopped at once")


def test_a_run_that_is_to_be_finished_and_cannot_start_has_that_in_its_row(
    crawl: Run, serve: Serve, output: Path, tmp_path: Path, noted: Noted
) -> None:
    server = killed(serve, output)
    browser = tmp_path / "browser"
    browser.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    browser.chmod(0o755)
    env = {"PARTI_CHROMIUM": str(browser)}
    run = crawl("recent", "-s", "PARTI_TRANSPORT=browser", "--nolog", server=server, env=env)
    assert run.code == 1
    assert (noted().state, noted().exit_code, noted().reason) == ("running", 1, run.stderr.rstrip("\n"))
    assert crawl("recent", *QUIET, server=server).code == 0


# --- What was not begun ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "run_id", "arguments"),
    [
        (("-a", "sinse=7d", "-a", "run_id=mine"), "mine", {"sinse": "7d"}),
        (("-a", "limit=0", "-a", "_job=a/b", "-a", "_version=1"), "a_b", {"limit": "0"}),
        (("-a", "limit"), None, {"limit": ""}),
        (("--nonsense", "-a", "limit=5"), None, {"limit": "5"}),
        (("-s", "PARTI_TRANSPORT=fax"), None, {}),
        (("-a", "user_id=caf\udce9"), None, {"user_id": "caf?"}),
    ],
)
def test_what_was_typed_wrong_is_noted_as_it_was_typed(
    scrapy: Scrapy, failed_starts: FailedStarts, typed: tuple[str, ...], run_id: str | None, arguments: dict[str, str]
) -> None:
    run = scrapy("crawl", "recent", *typed)
    assert run.returncode == 2
    (failed,) = failed_starts()
    assert (failed.spider, failed.run_id, failed.arguments, failed.exit_code) == ("recent", run_id, arguments, 2)
    assert failed.reason == run.stderr.rstrip("\n")


def test_an_argument_that_only_the_api_shows_to_be_wrong_leaves_no_run_in_the_ledger(
    crawl: Run, serve: Serve, failed_starts: FailedStarts
) -> None:
    run = crawl("recent", *QUIET, server=serve(**STILL), categories="Nonsense")
    assert (run.code, run.folder.exists()) == (2, False)
    (failed,) = failed_starts()
    assert (failed.run_id, failed.arguments, failed.exit_code) == ("run", {"categories": "Nonsense"}, 2)
    assert failed.reason in run.stderr


def test_what_could_not_be_started_is_noted(
    crawl: Run, serve: Serve, tmp_path: Path, failed_starts: FailedStarts
) -> None:
    log = tmp_path / "nosuch" / "log"
    run = crawl("recent", "--logfile", str(log), server=serve(**STILL))
    (failed,) = failed_starts()
    assert (run.code, failed.exit_code, failed.run_id) == (1, 1, "run")
    assert failed.reason == f"{log} cannot be written: No such file or directory"


def test_a_folder_that_cannot_be_made_is_noted(
    crawl: Run, serve: Serve, output: Path, failed_starts: FailedStarts
) -> None:
    output.touch()
    run = crawl("recent", *QUIET, server=serve(**STILL))
    (failed,) = failed_starts()
    assert (run.code, failed.exit_code) == (4, 4)
    assert failed.reason == f"the folder {output}/recent/run cannot be made: Not a directory"


@pytest.mark.parametrize("typed", [("recnet", "-a", "sinse=7d"), ("recent", "live"), ("recent", "-a", "run_id=last")])
def test_no_spider_two_spiders_and_nothing_to_finish_are_not_noted(
    scrapy: Scrapy, failed_starts: FailedStarts, typed: tuple[str, ...]
) -> None:
    assert scrapy("crawl", *typed).returncode in {0, 2}
    assert failed_starts() == []


def test_where_the_ledger_cannot_be_written_the_error_is_the_same(scrapy: Scrapy, output: Path) -> None:
    typed = ("crawl", "recent", "-s", "PARTI_TRANSPORT=fax")
    line = scrapy(*typed).stderr
    ledger = output.with_name("state") / "ledger.sqlite"
    ledger.write_bytes(b"not a database" * 100)
    for folder in (ledger.parent, ledger / "below"):
        run = scrapy(*typed, env={"PARTI_STATE_DIR": str(folder)})
        assert (run.returncode, run.stdout, run.stderr) == (2, "", line)


@pytest.mark.parametrize(
    "typed",
    [
        ("-a", "token=HIDDEN"),
        ("-a", "token=HIDDEN" + "x" * 200),
        ("-a", "api_key=HID'DEN: HIDDEN"),
        ("-s", "token=HIDDEN"),
        ("-s", "PARTI_TOKEN=HIDDEN"),
        ("--token=HIDDEN",),
        ("-a", "url=https://parti.com/?token=HIDDEN"),
        ("-a", "since=https://me:HIDDEN@parti.com/"),
        ("-s", "PARTI_TOKN=HIDDEN"),
        ("-s", "PARTI_API_BASE_URLS=https://me:HIDDEN@parti.com"),
        ("-s", "PARTI_API_BASE_URLS=https://me:HID/HIDDEN@parti.com"),
        ("-s", "PARTI_API_BASE_URLS=me:HIDDEN@parti.com"),
        ("-s", "PARTI_SITE_URL=https://HIDDEN@parti.com", "-s", "PARTI_TRANSPORT=browser"),
        ("-s", "FEEDS=s3://KEY:HIDDEN@bucket/x"),
        ("PARTI_TOKEN=HIDDEN",),
        ("token=HIDDEN",),
        ("-a", "limit=0"),
    ],
)
def test_no_secret_is_shown_or_noted(
    scrapy: Scrapy, output: Path, failed_starts: FailedStarts, typed: tuple[str, ...]
) -> None:
    run = scrapy("crawl", "recent", *typed, env={"PARTI_TOKEN": "HIDDEN-too"})
    assert run.returncode == 2
    assert "HIDDEN" not in run.stderr
    (failed,) = failed_starts()
    assert "HIDDEN" not in f"{failed}"
    assert all(b"HIDDEN" not in path.read_bytes() for path in output.with_name("state").iterdir())


# --- Data packages of later versions ---------------------------------------------------------------------------


def refusal(folder: Path) -> str:
    """Return the line that refuses a run of a later version."""
    accepted = "version 2 or earlier; another run_id, or a later parti_scraper"
    return f"{folder / 'datapackage.json'}: of format version 3 (accepted: {accepted})\n"


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_of_a_later_version_is_neither_gone_on_with_nor_written_over(
    scrapy: Scrapy, serve: Serve, output: Path, *, begun: bool
) -> None:
    server = killed(serve, output) if begun else serve(**STILL)
    package = output / "recent/run/datapackage.json"
    package.parent.mkdir(parents=True, exist_ok=True)
    package.write_text(LATER, encoding="utf-8")
    before = {path.name: path.read_bytes() for path in package.parent.iterdir()}
    server.requests.clear()
    run = scrapy("crawl", "recent", "-a", "run_id=run", *QUIET, server=server)
    assert (run.returncode, run.stderr) == (2, refusal(package.parent))
    assert server.requests == []
    assert {path.name: path.read_bytes() for path in package.parent.iterdir()} == before


def test_last_passes_over_a_run_that_a_later_version_has_finished(scrapy: Scrapy, serve: Serve, output: Path) -> None:
    server = killed(serve, output)
    (output / "recent/run/datapackage.json").write_text(LATER, encoding="utf-8")
    run = scrapy("crawl", "recent", "-a", "run_id=last", server=server)
    assert (run.returncode, run.stderr) == (0, "recent: no run is unfinished; nothing was requested\n")


def test_a_run_that_a_later_version_finishes_meanwhile_is_left_alone(
    scrapy: Scrapy, serve: Serve, output: Path
) -> None:
    server = serve(**STILL)
    setting = 'EXTENSIONS={"tests.components.LaterVersion": 1}'
    run = scrapy("crawl", "recent", "-a", "run_id=run", "-s", setting, *QUIET, server=server)
    assert (run.returncode, run.stderr) == (2, refusal(output / "recent/run"))
    assert server.requests == []
    assert [path.read_text(encoding="utf-8") for path in (output / "recent/run").iterdir()] == [LATER]


def test_an_incremental_run_does_not_supersede_one_of_a_later_version(
    scrapy: Scrapy, serve: Serve, output: Path, noted: Noted
) -> None:
    server = killed(serve, output, "-a", "incremental=true")
    (output / "recent/run/datapackage.json").write_text(LATER, encoding="utf-8")
    server.requests.clear()
    run = scrapy("crawl", "recent", "-a", "incremental=true", *QUIET, server=server)
    assert (run.returncode, run.stderr) == (2, refusal(output / "recent/run"))
    assert (server.requests, noted().state) == ([], "running")


@pytest.mark.parametrize("version", [3, 2.5, "2", None])
def test_a_format_version_that_is_not_known_is_refused(tmp_path: Path, version: Any) -> None:
    (tmp_path / "datapackage.json").write_text(json.dumps({"format_version": version}), encoding="utf-8")
    with pytest.raises(UsageError, match=f"of format version {re.escape(repr(version))} "):
        datapackage.read(tmp_path)


@pytest.mark.parametrize("descriptor", [{}, {"format_version": 1}, {"format_version": 2}])
def test_the_formats_up_to_this_one_are_read(tmp_path: Path, descriptor: dict[str, Any]) -> None:
    (tmp_path / "datapackage.json").write_text(json.dumps(descriptor), encoding="utf-8")
    assert datapackage.read(tmp_path) == descriptor
