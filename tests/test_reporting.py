"""Crawls tell others how they went: pings, metrics, and no secret to anyone else."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from prometheus_client.parser import text_string_to_metric_families

from parti_scraper.exceptions import LedgerError
from parti_scraper.operations import pings as pings_module
from parti_scraper.operations.metrics import Metrics, write_metrics
from parti_scraper.operations.pings import Pings, address_of
from parti_scraper.operations.reporting import Reporting
from parti_scraper.redact import Secret
from parti_scraper.run.outcome import ExitCode
from parti_scraper.secret_settings import SECRETS
from tests.forked import Scrapy as ForkedScrapy
from tests.processes import descendants
from tests.servers import IMPATIENT, closed_port
from tests.support import (
    NOW,
    STILL,
    TIMEOUT,
    Run,
    RunningCrawl,
    Scrapy,
    Serve,
    environment_of,
    hold,
    keep_permissions,
    needs_chromium,
    typed_of,
    wait_until,
)
from tests.watchers import Watcher, watching

HIDDEN = "hidden-word"


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    """Return a server that is pinged."""
    with watching() as watcher:
        yield watcher


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    """Return an empty PARTI_METRICS_DIR."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    return folder


def pinging(watcher: Watcher, query: str = "") -> dict[str, str]:
    """Return the environment of crawls that ping."""
    return {"PARTI_PING_URL": f"http://{watcher.host}/{HIDDEN}/{{spider}}{query}"}


def pings(watcher: Watcher) -> list[str]:
    """Return method and path of each ping, without the secret part."""
    return [f"{method} {urlsplit(path).path.removeprefix(f'/{HIDDEN}')}" for method, path, _ in watcher.told]


def read(folder: Path, spider: str) -> dict[str, float]:
    """Return a spider's metrics, without `parti_` and the label, which is checked."""
    text = (folder / f"parti_{spider}.prom").read_text(encoding="utf-8")
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert {tuple(sample.labels.items()) for sample in samples} == {(("spider", spider),)}
    return {sample.name.removeprefix("parti_"): sample.value for sample in samples}


# --- Pings -----------------------------------------------------------------------------------------------------


def test_a_run_pings_its_begin_and_its_end_with_its_uuid(crawl: Run, serve: Serve, watcher: Watcher) -> None:
    run = crawl("categories", server=serve(**STILL), env=pinging(watcher, "?create=1"))
    assert (run.code, pings(watcher)) == (0, ["GET /categories/start", "POST /categories/0"])
    assert [urlsplit(path).query for _, path, _ in watcher.told] == [f"create=1&rid={run.package['run_uuid']}"] * 2
    assert watcher.told[1][2].startswith("categories run: complete: ")
    assert "\n" not in watcher.told[1][2]


def test_an_incomplete_run_pings_4_with_the_reason(crawl: Run, serve: Serve, watcher: Watcher) -> None:
    server = serve(**STILL, gone=True)
    run = crawl("recent", server=server, until=NOW, env=pinging(watcher) | IMPATIENT)
    assert (run.code, pings(watcher)) == (4, ["GET /recent/start", "POST /recent/4"])
    assert "HTTP 404" in watcher.told[1][2]


@pytest.mark.parametrize("typed", [("-a", "limit=0"), ("-s", "PARTI_TRANSPORT=fax"), ("-a", "limt=5")])
def test_a_usage_error_pings_2_with_a_uuid_of_its_own(scrapy: Scrapy, watcher: Watcher, typed: tuple[str, ...]) -> None:
    run = scrapy("crawl", "recent", *typed, env=pinging(watcher))
    assert (run.returncode, pings(watcher)) == (2, ["POST /recent/2"])
    assert UUID(watcher.told[0][1].rpartition("rid=")[2])


def test_a_run_that_cannot_start_pings_its_exit_code(scrapy: Scrapy, output: Path, watcher: Watcher) -> None:
    ledger = output.with_name("state") / "ledger.sqlite"
    ledger.parent.mkdir()
    ledger.write_bytes(b"not a database" * 100)
    run = scrapy("crawl", "recent", env=pinging(watcher))
    assert run.returncode
    assert pings(watcher)[-1] == f"POST /recent/{run.returncode}"


def test_a_run_that_had_finished_before_pings_like_any_other(crawl: Run, serve: Serve, watcher: Watcher) -> None:
    server = serve(**STILL)
    for _ in range(2):
        assert crawl("categories", server=server, env=pinging(watcher)).code == 0
    assert pings(watcher) == ["GET /categories/start", "POST /categories/0"] * 2


def test_nothing_to_finish_pings_like_any_other(scrapy: Scrapy, watcher: Watcher) -> None:
    run = scrapy("crawl", "recent", "-a", "run_id=last", env=pinging(watcher))
    assert (run.returncode, pings(watcher)) == (0, ["GET /recent/start", "POST /recent/0"])


@pytest.mark.parametrize("signals", [1, 2])
def test_a_stopped_run_pings_3_also_where_it_waits_for_nothing(
    serve: Serve, output: Path, watcher: Watcher, signals: int
) -> None:
    server = serve(**STILL, latency=0.3, page_cap=5)
    running = RunningCrawl(
        typed_of("recent", "run", {"until": NOW}, ()), environment_of(output, server, pinging(watcher))
    )
    wait_until(lambda: len(server.requests) > 3)
    for _ in range(signals - 1):
        running.process.send_signal(signal.SIGINT)
        wait_until(lambda: "again to force" in running.process.stderr)
    assert running.stop() == 3
    assert pings(watcher) == ["GET /recent/start", "POST /recent/3"]


@pytest.mark.parametrize("status", [404, 500])
def test_a_ping_that_fails_is_one_warning_without_the_address(
    crawl: Run, serve: Serve, watcher: Watcher, status: int
) -> None:
    watcher.status = status
    run = crawl("categories", server=serve(**STILL), env=pinging(watcher))
    assert run.code == 0
    assert run.stderr.count("A ping of PARTI_PING_URL failed: HTTP") == 1
    assert HIDDEN not in run.stderr


@pytest.mark.parametrize(
    ("url", "line"),
    [
        (f"http://127.0.0.1:9/{HIDDEN}", "A ping of PARTI_PING_URL failed: Connection refused"),
        (f"file:///{HIDDEN}", "PARTI_PING_URL is no address of http or https"),
        (HIDDEN, "PARTI_PING_URL is no address of http or https"),
        (f"http://[{HIDDEN}", "PARTI_PING_URL is no address of http or https"),
        (f"http://127.0.0.1:99999/{HIDDEN}", "PARTI_PING_URL is no address of http or https"),
    ],
)
def test_a_watcher_that_is_not_there_changes_nothing(crawl: Run, serve: Serve, url: str, line: str) -> None:
    run = crawl("categories", server=serve(**STILL), env={"PARTI_PING_URL": url})
    assert run.code == 0
    assert run.stderr.count(line) == 1
    assert HIDDEN not in run.stderr


def ping_patiently() -> None:
    """Let the ping of the begin take longer than any test waits for something."""
    pings_module._START_LIMIT = 5 * TIMEOUT


def test_a_watcher_that_never_answers_delays_no_begin_and_the_end_not_for_long(
    serve: Serve, output: Path, watcher: Watcher
) -> None:
    watcher.status = 0
    env = environment_of(output, serve(**STILL), pinging(watcher))
    running = ForkedScrapy(typed_of("categories", "run", {}, ()), env, before=ping_patiently)
    RunningCrawl.begun.append(running)
    wait_until((output / "categories" / "run" / "datapackage.json").exists)
    assert running.wait(TIMEOUT) == 0
    assert "A ping of PARTI_PING_URL failed: timeout" in running.stderr


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://hc-ping.com/uuid", "https://hc-ping.com/uuid/start?rid=R"),
        ("https://hc-ping.com/uuid/", "https://hc-ping.com/uuid/start?rid=R"),
        ("http://host:1/ping/a?create=1&x=%20#part", "http://host:1/ping/a/start?create=1&x=%20&rid=R"),
    ],
)
def test_what_is_pinged_is_added_to_the_path(url: str, expected: str) -> None:
    assert address_of(url, "start", "R") == expected


def test_user_and_password_of_the_address_are_sent_as_such(watcher: Watcher) -> None:
    secret = Secret(f"http://me:p%40ss@{watcher.host}/{{spider}}")
    sent = Pings.from_settings({"PARTI_PING_URL": secret}, "a spider/?", "R")  # type: ignore[arg-type] # as much as it reads
    assert sent
    sent.ended(0, "x" * 20_000)
    assert watcher.headers[0]["Authorization"] == "Basic bWU6cEBzcw=="
    assert watcher.told == [("POST", "/a%20spider%2F%3F/0?rid=R", "x" * 10_000)]


# --- Metrics ---------------------------------------------------------------------------------------------------


def test_metrics_say_what_the_run_did(crawl: Run, serve: Serve, metrics: Path) -> None:
    before = time.time()
    run = crawl("recent", server=serve(**STILL), until=NOW, env={"PARTI_METRICS_DIR": str(metrics)})
    found, counts = read(metrics, "recent"), run.package["counts"]
    assert found["last_run_records"] == counts["written"] == len(run.rows)
    assert found["last_run_pages"] == counts["pages"]
    assert [found[f"last_run_{name}"] for name in ("exit_code", "complete", "degraded", "quarantined")] == [0, 1, 0, 0]
    assert before < found["last_success_timestamp_seconds"] <= found["last_run_timestamp_seconds"] <= time.time()
    assert 0 < found["last_run_duration_seconds"] < 60
    assert {"last_run_retries", "last_run_rate_limited"} < found.keys()
    assert [path.name for path in metrics.iterdir()] == ["parti_recent.prom"]


def test_the_last_success_stays_known_through_failed_and_refused_runs(
    crawl: Run, scrapy: Scrapy, serve: Serve, metrics: Path
) -> None:
    env = {"PARTI_METRICS_DIR": str(metrics)}
    crawl("recent", server=serve(**STILL), until=NOW, env=env)
    success = read(metrics, "recent")["last_success_timestamp_seconds"]
    failed = crawl("recent", server=serve(**STILL, gone=True), run_id="failed", env=env | IMPATIENT)
    found = read(metrics, "recent")
    assert (failed.code, found["last_run_exit_code"], found["last_run_complete"]) == (4, 4, 0)
    assert found["last_success_timestamp_seconds"] == success
    assert scrapy("crawl", "recent", "-a", "limit=0", env=env).returncode == 2
    found = read(metrics, "recent")
    assert (found["last_run_exit_code"], found["last_run_records"]) == (2, 0)
    assert found["last_success_timestamp_seconds"] == success
    # Nothing was done, so nothing became newer.
    crawl("recent", server=serve(**STILL), until=NOW, env=env)
    found = read(metrics, "recent")
    assert (found["last_run_exit_code"], found["last_success_timestamp_seconds"]) == (0, success)


def test_before_the_first_good_run_there_is_no_success(scrapy: Scrapy, metrics: Path) -> None:
    scrapy("crawl", "recent", "-a", "limit=0", env={"PARTI_METRICS_DIR": str(metrics)})
    assert "last_success_timestamp_seconds" not in read(metrics, "recent")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe{",
        b'parti_last_success_timestamp_seconds{spider="recent"',
        b'parti_last_success_timestamp_seconds{spider="recent"} NaN\n',
        b'parti_last_success_timestamp_seconds{spider="other"} 5\n',
        b'parti_last_success_timestamp_seconds{spider="recent"} 9e9\n',
    ],
)
def test_a_damaged_file_is_replaced(metrics: Path, content: bytes) -> None:
    path = metrics / "parti_recent.prom"
    path.write_bytes(content)
    settings: Any = {"PARTI_METRICS_DIR": str(metrics)}
    assert write_metrics(settings, "recent", Metrics(100.0, 1.0, 4)) is None
    assert "last_success_timestamp_seconds" not in read(metrics, "recent")
    assert write_metrics(settings, "recent", Metrics(100.0, 1.0, 0, success=99.0)) is None
    assert read(metrics, "recent")["last_success_timestamp_seconds"] == 99


def test_others_can_read_the_file_whatever_the_umask(metrics: Path) -> None:
    before = os.umask(0o077)
    try:
        write_metrics({"PARTI_METRICS_DIR": str(metrics)}, "recent", Metrics(100.0, 1.0, 0))  # type: ignore[arg-type] # as much as it reads
    finally:
        os.umask(before)
    assert stat.S_IMODE((metrics / "parti_recent.prom").stat().st_mode) == 0o644


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_that_is_missing_or_not_writable_is_a_warning(
    scrapy: Scrapy, serve: Serve, tmp_path: Path, is_there: bool
) -> None:
    folder = tmp_path / "closed"
    if is_there:
        folder.mkdir(mode=0o500)
    env = {"PARTI_METRICS_DIR": str(folder)}
    run = scrapy("crawl", "categories", server=serve(**STILL), env=env, before=keep_permissions)
    assert run.returncode == 0
    assert run.stderr.count("No metrics are written: ") == 1
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(("spider", "arguments"), [("live", {"interval": "1h"}), ("notifications", {})])
def test_a_run_without_end_writes_its_metrics_while_it_goes_on(
    serve: Serve, output: Path, metrics: Path, spider: str, arguments: dict[str, str]
) -> None:
    before = time.time()
    env = environment_of(output, serve(**STILL), {"PARTI_METRICS_DIR": str(metrics)})
    running = RunningCrawl(typed_of(spider, "run", arguments, ()), env)
    # As soon as there is a snapshot, or somebody listens.
    path = metrics / f"parti_{spider}.prom"
    wait_until(lambda: path.exists() and "last_success_timestamp_seconds" in read(metrics, spider))
    found = read(metrics, spider)
    assert "last_run_exit_code" not in found
    assert found["last_run_timestamp_seconds"] > before
    # To the second.
    assert found["last_success_timestamp_seconds"] > before - 1
    if spider == "live":
        assert found["last_run_records"] > 0
    assert running.stop() == 0
    assert read(metrics, spider)["last_run_exit_code"] == 0


# --- Nothing else ------------------------------------------------------------------------------------------------


def test_whatever_fails_in_reporting_raises_nothing(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    def check(*of: Any) -> Any:
        raise LedgerError(HIDDEN)

    settings: Any = {
        "PARTI_ALERT_URLS": Secret(f"json://{HIDDEN}"),
        "PARTI_METRICS_DIR": "\0",
        "PARTI_PING_URL": Secret(""),
        "PARTI_STATE_DIR": str(tmp_path),
    }
    reporting = Reporting(settings, "recent", {}, check=check)
    reporting.began()
    reporting.ended(ExitCode.INCOMPLETE, "text")
    assert [each.message for each in caplog.records] == [
        "Nothing is reported through metrics: ValueError",
        "Nothing is reported through alerts: LedgerError",
    ]


def test_what_is_wrong_is_checked_and_told_after_the_crawl(watcher: Watcher, tmp_path: Path) -> None:
    from parti_scraper.operations.findings import Finding  # noqa: PLC0415

    settings: Any = {"PARTI_ALERT_URLS": Secret(f"json://{watcher.host}/"), "PARTI_STATE_DIR": str(tmp_path)}
    settings |= {"PARTI_HOME": "", "PARTI_METRICS_DIR": ""}
    found = [Finding("failed", "recent", "recent: the last run failed", time.time())]
    Reporting(settings, "recent", {}, check=lambda *_: found).ended(ExitCode.INCOMPLETE, "text")
    (message,) = watcher.messages
    assert "recent: the last run failed" in message["message"]


@pytest.mark.parametrize("name", ["PARTI_ALERT_URLS", "PARTI_PING_URL"])
def test_addresses_that_are_typed_are_refused_and_not_shown(scrapy: Scrapy, output: Path, name: str) -> None:
    value = f"https://a/{HIDDEN}"
    wrong: list[tuple[str, ...]] = [
        ("-s", f"{name}={value}"),
        ("-s", f"{name}X={value}"),
        ("-s", f"{name.lower()}={value}"),
    ]
    wrong += [("-a", f"{name}={value}"), (f"{name}={value}",), (f"--{name}={value}",)]
    for typed in wrong:
        run = scrapy("crawl", "recent", *typed)
        assert (run.returncode, HIDDEN in run.stderr + run.stdout) == (2, False), typed
    assert all(HIDDEN.encode() not in path.read_bytes() for path in output.with_name("state").iterdir())
    expected = f"setting `{name}`: not to be typed, since others on the machine can read it there"
    assert expected in scrapy("crawl", "recent", *wrong[0]).stderr


def test_no_secret_is_in_the_log_or_in_a_file(crawl: Run, serve: Serve, watcher: Watcher, tmp_path: Path) -> None:
    watcher.status = 500
    env = pinging(watcher) | {"PARTI_ALERT_URLS": f"json://{watcher.host}/{HIDDEN}"}
    log = tmp_path / "log"
    run = crawl("categories", "-s", "LOG_LEVEL=DEBUG", "-s", f"LOG_FILE={log}", server=serve(**STILL), env=env)
    assert run.code == 0
    assert "A ping of PARTI_PING_URL failed: HTTP 500" in log.read_text(encoding="utf-8")
    assert HIDDEN not in run.stderr + run.stdout
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if HIDDEN.encode() in path.read_bytes()] == []


def test_settings_show_no_secret(scrapy: Scrapy) -> None:
    for name in SECRETS:
        assert scrapy("settings", "--get", name, env={name: HIDDEN}).stdout == "***\n"


def leave_a_child() -> None:
    """Start a program when the first request is sent, as a component of the user's might."""
    import subprocess  # noqa: PLC0415

    from scrapy.core.engine import ExecutionEngine  # noqa: PLC0415

    original = ExecutionEngine.open_spider_async

    async def open_spider(self: Any, *args: Any, **kwargs: Any) -> None:
        subprocess.run(["sh", "-c", 'env > "$ENVIRONMENT_FILE"'], check=True)  # noqa: ASYNC221 - it is quick
        await original(self, *args, **kwargs)

    ExecutionEngine.open_spider_async = open_spider  # type: ignore[method-assign] # in this process only


def test_programs_that_a_crawl_starts_get_no_secret(serve: Serve, output: Path, tmp_path: Path) -> None:
    found = tmp_path / "environment"
    env = environment_of(output, serve(**STILL), dict.fromkeys(SECRETS, HIDDEN) | {"ENVIRONMENT_FILE": str(found)})
    del env["PARTI_PING_URL"], env["PARTI_ALERT_URLS"]
    env |= {"PARTI_PING_URL": f"{closed_port()}/{HIDDEN}", "PARTI_ALERT_URLS": f"json://{HIDDEN}"}
    running = ForkedScrapy(typed_of("categories", "run", {}, ()), env, before=leave_a_child)
    running.wait(TIMEOUT)
    assert (running.returncode, HIDDEN in running.stderr) == (0, False)
    running.close()
    text = found.read_text(encoding="utf-8")
    assert "PATH=" in text
    assert HIDDEN not in text


def environment_of_process(number: int) -> bytes:
    """Return the environment of a process; nothing if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{number}/environ").read_bytes()
    return b""


@needs_chromium
def test_the_browser_gets_no_secret(serve: Serve, output: Path, watcher: Watcher) -> None:
    server = serve(**STILL)
    reached = hold(server, 1)
    env = dict.fromkeys(SECRETS, HIDDEN) | pinging(watcher) | {"PARTI_ALERT_URLS": f"json://{watcher.host}/{HIDDEN}"}
    typed = typed_of("recent", "run", {}, ("-s", "PARTI_TRANSPORT=browser"))
    running = RunningCrawl(typed, environment_of(output, server, env))
    wait_until(reached.is_set)
    environments = [environment_of_process(number) for number in descendants(running.process.pid)]
    running.process.send_signal(signal.SIGINT)
    server.held = None
    running.stop(0)
    assert [each for each in environments if b"PATH=" in each]
    assert [each for each in environments if HIDDEN.encode() in each or re.search(rb"PARTI_(ALERT|PING)", each)] == []
    assert json.dumps(pings(watcher)).count("start") == 1
