"""`scrapy health` as a whole command: after real crawls, and over runs of the past that were made."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.network.source import MOCK
from tests.listening import Listening, settle
from tests.made_runs import Row, category, livestream, make_run, notification, rejected
from tests.support import (
    QUIET,
    ROOT,
    SCRAPY,
    STILL,
    Run,
    RunningCrawl,
    Scrapy,
    Serve,
    environment_of,
    hold,
    keep_permissions,
    requests,
    typed_of,
    wait_until,
)

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
GOLDEN = Path(__file__).parent / "golden" / "runs-1"
NAMED = {"PARTI_HEALTH_MAX_AGE": "recent=2h"}
NOTHING_WATCHED = "healthy: nothing is watched yet (see PARTI_HEALTH_MAX_AGE)\n"


def check(scrapy: Scrapy, code: int, *typed: str, **how: Any) -> list[str]:
    """Return the lines that `scrapy health` prints, after checking its exit code, and that it complains of nothing."""
    run = scrapy("health", *typed, **how)
    assert (run.returncode, run.stderr) == (code, ""), run.stdout + run.stderr
    return run.stdout.splitlines()


def checked(scrapy: Scrapy, *typed: str, **how: Any) -> Any:
    """Return what `scrapy health --json` prints, after checking that its exit code goes with it."""
    run = scrapy("health", "--json", *typed, **how)
    found = json.loads(run.stdout)
    assert (run.returncode, run.stderr) == (0 if found["healthy"] else 4, "")
    assert found["healthy"] == (found["findings"] == [])
    return found


def rules(scrapy: Scrapy, *typed: str, **how: Any) -> list[str]:
    """Return the rules by which something is found."""
    return [finding["rule"] for finding in checked(scrapy, *typed, **how)["findings"]]


def make(output: Path, ago: float, spider: str = "recent", rows: list[Row] | None = None, **about: Any) -> Path:
    """Make a run that began so many seconds ago, and took a minute unless it is said otherwise."""
    began = time.time() - ago
    times = {"started_at": timestamp_to_iso(began), "ended_at": timestamp_to_iso(began + MINUTE)}
    window = {"window": {"since": "2021-08-03T00:00:00Z", "until": times["started_at"]}} if spider == "recent" else {}
    records = [livestream(1)] if rows is None else rows
    return make_run(output, spider, f"run-{ago:09.0f}", records, **times | window | about)


def set_back(folder: Path, seconds: float = 2 * HOUR) -> None:
    """Set back the times of all that is in a folder, as if nothing had changed there for so long."""
    for path in [folder, *folder.rglob("*")]:
        moment = path.stat().st_mtime - seconds
        os.utime(path, (moment, moment))


def typed_in(command: str) -> list[str]:
    """Return what a printed command passes to `scrapy`."""
    program, *typed = shlex.split(command)
    assert program == "scrapy"
    return typed


# --- Nothing yet -------------------------------------------------------------------------------------------------


def test_where_nothing_ever_ran_nothing_is_wrong_and_nothing_is_made(scrapy: Scrapy, output: Path) -> None:
    assert scrapy("health").stdout == NOTHING_WATCHED
    found = checked(scrapy)
    assert (found["healthy"], found["watched"], found["findings"]) == (True, [], [])
    assert not output.exists()


def test_a_named_spider_that_never_ran_is_late(scrapy: Scrapy) -> None:
    (line,) = check(scrapy, 4, env=NAMED)
    assert line == "late: recent: it has never run; scrapy crawl recent"


def test_runs_without_a_ledger_are_looked_at(scrapy: Scrapy, output: Path) -> None:
    make(output, HOUR)
    (line,) = check(scrapy, 0, env=NAMED)
    assert line.startswith("healthy: recent good 59m")


# --- Settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "typed", ["recent=2h", " recent = 2h , ", "recent=7200", "recent=120m,", "recent=2h,recent=2h"]
)
def test_ages_are_read_from_the_environment_and_as_typed(scrapy: Scrapy, output: Path, typed: str) -> None:
    make(output, HOUR)
    for how in (
        checked(scrapy, "-s", f"PARTI_HEALTH_MAX_AGE={typed}"),
        checked(scrapy, env={"PARTI_HEALTH_MAX_AGE": typed}),
    ):
        assert [(each["subject"], each["max_age_seconds"]) for each in how["watched"]] == [("recent", 7_200)]


def test_what_is_typed_wins_over_the_environment(scrapy: Scrapy, output: Path) -> None:
    make(output, HOUR)
    assert rules(scrapy, "-s", "PARTI_HEALTH_MAX_AGE=recent=30m", env=NAMED) == ["late"]


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("recent", "not a spider and an age: 'recent' (accepted: such as recent=2h,live=15m; spiders are categories, "),
        ("recent=", "not a length of time: 'recent='"),
        ("=2h", "no such spider: '=2h'"),
        ("recnt=2h", "no such spider: 'recnt=2h'"),
        ("recent=2x", "not a length of time: 'recent=2x'"),
        ("recent=-2h", "not a length of time: 'recent=-2h'"),
        ("recent=0", "not more than 0 seconds: 'recent=0'"),
        ("recent=2h=3h", "not a length of time: 'recent=2h=3h'"),
        ("recent=2h live=15m", "not a length of time: 'recent=2h live=15m'"),
        ("recent=2h,recent=3h", "recent is named twice: 'recent=3h'"),
    ],
)
def test_a_wrong_age_is_a_usage_error_of_one_line(scrapy: Scrapy, typed: str, says: str) -> None:
    for run in (
        scrapy("health", "-s", f"PARTI_HEALTH_MAX_AGE={typed}"),
        scrapy("health", "--json", env={"PARTI_HEALTH_MAX_AGE": typed}),
    ):
        assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
        assert run.stderr.startswith(f"scrapy health: setting `PARTI_HEALTH_MAX_AGE`: {says}")


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["recent"], "unknown argument: 'recent'"),
        (["--jsn"], "unknown option: '--jsn'"),
        (["--source", "elsewhere"], "option `--source`"),
        (["--alert"], "option `--alert`: nobody to tell"),
    ],
)
def test_a_usage_error_is_one_line(scrapy: Scrapy, typed: list[str], says: str) -> None:
    run = scrapy("health", *typed)
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert run.stderr.startswith(f"scrapy health: {says}")


# --- How runs end ------------------------------------------------------------------------------------------------


def test_a_page_that_fails_is_found_until_a_later_run_is_good(crawl: Run, scrapy: Scrapy, serve: Serve) -> None:
    down = serve(**STILL, gone=True)
    quick = ("-s", "PARTI_RETRY_PATIENCE=1", "-s", "PARTI_RETRY_DELAY=0.1", *QUIET)
    assert crawl("recent", *quick, server=down, run_id="bad").code == 4
    (finding,) = (each for each in checked(scrapy)["findings"] if each["rule"] != "gaps")
    assert (finding["rule"], finding["subject"], finding["command"]) == ("incomplete", "recent", None)
    assert finding["text"].startswith("recent: the last run bad is not complete (exit code 4): ")
    assert crawl("recent", *QUIET, server=serve(**STILL), run_id="good").code == 0
    assert check(scrapy, 0, env=NAMED)[0].startswith("healthy: recent good ")


def test_a_killed_run_is_abandoned_then_failed_until_the_next_is_good(
    crawl: Run, scrapy: Scrapy, serve: Serve, output: Path
) -> None:
    slow = serve(**STILL, page_cap=10)
    reached = hold(slow, 5)
    # Not in the same second as the next: what is set back below would seem to have ended before it.
    make(output, HOUR, source=MOCK)
    running = RunningCrawl(typed_of("recent", "left", {}, QUIET), environment_of(output, slow))
    wait_until(reached.is_set)
    assert rules(scrapy, env=NAMED) == []
    running.stop(signal.SIGKILL)
    (finding,) = checked(scrapy, env=NAMED)["findings"]
    assert (finding["rule"], finding["command"]) == ("abandoned", "scrapy crawl recent -a run_id=left")
    set_back(output / "recent" / "left")
    (finding,) = checked(scrapy, env=NAMED)["findings"]
    assert (finding["rule"], finding["command"]) == ("failed", "scrapy crawl recent -a run_id=left")
    assert json.loads((output / "recent" / "left" / "datapackage.json").read_text(encoding="utf-8"))["sealed"]
    assert crawl("recent", *QUIET, server=serve(**STILL), run_id="next").code == 0
    assert rules(scrapy, env=NAMED) == []


def test_the_printed_command_finishes_a_run_that_was_stopped(crawl: Run, scrapy: Scrapy, serve: Serve) -> None:
    server = serve(**STILL)
    assert crawl("recent", "-s", "CLOSESPIDER_PAGECOUNT=1", *QUIET, server=server, run_id="by-hand", limit=5).code == 3
    found = checked(scrapy)["findings"]
    (command,) = (each["command"] for each in found if each["rule"] == "abandoned")
    run = subprocess.run(
        [*SCRAPY, *shlex.split(command)[1:]],
        cwd=ROOT,
        env=environment_of(crawl("categories", server=server).output, server),
        capture_output=True,
        check=False,
    )
    assert run.returncode == 0
    assert rules(scrapy) == []


def test_a_run_that_could_not_start_is_found_until_one_is_good(crawl: Run, scrapy: Scrapy, serve: Serve) -> None:
    assert crawl("recent", *QUIET, server=serve(**STILL), sort="upwards").code == 2
    (failed,) = checked(scrapy, env=NAMED)["findings"]
    assert failed["rule"] == "failed"
    assert failed["text"].startswith("recent sort=upwards: the last run run could not start (exit code 2): ")
    # Of a typing error at the keyboard nobody needs to hear where the spider is not named.
    assert scrapy("health").stdout == NOTHING_WATCHED
    assert crawl("recent", *QUIET, server=serve(**STILL)).code == 0
    assert rules(scrapy, env=NAMED) == []


def test_what_was_tried_by_hand_and_left_is_no_finding_for_ever(scrapy: Scrapy, output: Path) -> None:
    make(output, 8 * DAY, status="sealed", arguments={"user_id": 5})
    assert rules(scrapy) == []
    make(output, 2 * DAY, status="sealed", arguments={"user_id": 6})
    assert rules(scrapy) == ["failed"]


def test_an_hourly_incremental_series_is_healthy_and_late_when_it_stops(
    crawl: Run, scrapy: Scrapy, serve: Serve, output: Path
) -> None:
    server = serve(**STILL)
    for number in range(5):
        assert crawl("recent", *QUIET, server=server, run_id=f"run-{number}", incremental="true").code == 0
    (line,) = check(scrapy, 0)
    assert line.startswith("healthy: recent incremental=true good ")
    for number in range(5):
        path = output / "recent" / f"run-{number}" / "datapackage.json"
        _move(path, (9 - number) * HOUR)
    (finding,) = (each for each in checked(scrapy)["findings"] if each["rule"] == "late")
    assert finding["command"] == "scrapy crawl recent -a incremental=true"


def _move(path: Path, seconds: float) -> None:
    """Let a finished run have been so many seconds earlier."""
    package = json.loads(path.read_text(encoding="utf-8"))
    times = {name: timestamp_to_iso(time.time() - seconds) for name in ("started_at", "ended_at", "created")}
    path.write_text(json.dumps(package | times), encoding="utf-8")
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


def test_of_a_spider_whose_age_is_longer_than_a_month_old_runs_are_known(scrapy: Scrapy, output: Path) -> None:
    make(output, 60 * DAY, "categories", [category(1)])
    assert rules(scrapy, "-s", "PARTI_HEALTH_MAX_AGE=categories=90d") == []
    (line,) = check(scrapy, 4, "-s", "PARTI_HEALTH_MAX_AGE=categories=30d")
    assert line.startswith("late: categories: no complete run since 20")


# --- Coverage ----------------------------------------------------------------------------------------------------


def test_the_printed_command_fills_the_gap(crawl: Run, scrapy: Scrapy, serve: Serve) -> None:
    server = serve(**STILL)
    assert crawl("recent", *QUIET, server=server, run_id="a", since="2024-01-01", until="2024-02-01").code == 0
    assert crawl("recent", *QUIET, server=server, run_id="b", since="2024-03-01").code == 0
    env = {"PARTI_COVERAGE_SINCE": "2024-01-01"}
    (finding,) = checked(scrapy, env=env)["findings"]
    assert (finding["rule"], finding["subject"]) == ("gaps", "recent")
    assert scrapy(*typed_in(finding["command"]), *QUIET, server=server).returncode == 0
    assert rules(scrapy, env=env) == []


@pytest.mark.parametrize("command", ["coverage", "health"])
def test_the_printed_command_crawls_into_the_folder_that_was_typed(
    scrapy: Scrapy, serve: Serve, tmp_path: Path, command: str
) -> None:
    server = serve(**STILL)
    env, place = {"PARTI_COVERAGE_SINCE": "2024-01-01"}, ["-s", f"PARTI_OUTPUT_DIR={tmp_path / 'else where'}"]
    assert scrapy("crawl", "recent", "-a", "since=2024-03-01", *QUIET, *place, server=server).returncode == 0
    said = scrapy(command, *place, env=env)
    assert said.returncode == 4
    (fills,) = re.findall("scrapy crawl recent .*", said.stdout)
    assert scrapy(*typed_in(fills), *QUIET, server=server).returncode == 0
    assert scrapy(command, *place, env=env).returncode == 0


# --- Sources -----------------------------------------------------------------------------------------------------


def test_made_up_data_beside_real_ones_are_not_looked_at_unless_asked_for(scrapy: Scrapy, output: Path) -> None:
    make(output, HOUR)
    make(output, HOUR / 2, source=MOCK, status="incomplete")
    assert checked(scrapy, env=NAMED)["source"] == "parti.com"
    assert rules(scrapy, env=NAMED) == []
    assert "incomplete" in rules(scrapy, "--source", "mock", env=NAMED)


# --- Content -----------------------------------------------------------------------------------------------------


def test_a_degraded_run_is_found_unless_the_absence_is_acknowledged(crawl: Run, scrapy: Scrapy, serve: Serve) -> None:
    server = serve(**STILL, absent="total_viewers")
    assert crawl("recent", *QUIET, server=server).code == 4
    (finding,) = checked(scrapy)["findings"]
    assert finding["rule"] == "degraded"
    assert "total_viewers is absent" in finding["text"]
    assert rules(scrapy, env={"PARTI_EXPECT_ABSENT": "total_viewers"}) == []
    assert crawl("recent", *QUIET, server=serve(**STILL), run_id="well").code == 0
    assert rules(scrapy) == []


@pytest.mark.parametrize(
    ("spider", "after", "says"),
    [
        ("live", {"fields": "2026"}, "fields that were unknown before: "),
        ("recent", {"unreadable": "user_avatar_id"}, "fields that could be read before: user_avatar_id"),
        ("recent", {"absent": "avatar_link"}, "fields that no record has any more: avatar_link"),
    ],
)
def test_a_change_of_the_api_is_found(
    crawl: Run, scrapy: Scrapy, serve: Serve, spider: str, after: dict[str, Any], says: str
) -> None:
    assert crawl(spider, *QUIET, server=serve(**STILL), run_id="a").code == 0
    assert rules(scrapy) == []
    assert crawl(spider, *QUIET, server=serve(**STILL | after), run_id="b").code == 0
    found = [each["text"] for each in checked(scrapy)["findings"]]
    assert any(text.startswith(f"{spider}: {says}") for text in found), found


def test_records_that_are_set_aside_are_found_until_a_run_without(scrapy: Scrapy, output: Path) -> None:
    rows = [livestream(number) for number in range(100)]
    for number in range(4):
        make(output, HOUR + number * HOUR, rows=rows)
    make(output, HOUR / 2, rows=rows, quarantine=[rejected(number) for number in range(5)])
    (line,) = check(scrapy, 4)
    assert line == "set_aside: recent: 5 records of 105 were set aside, usual are 0.0%; see quarantine.jsonl"
    make(output, HOUR / 4, rows=rows)
    assert rules(scrapy) == []


# --- Runs with days ----------------------------------------------------------------------------------------------


def test_a_silence_of_listeners_is_found(scrapy: Scrapy, output: Path) -> None:
    now = time.time()
    day = timestamp_to_iso(now - DAY)[:10]
    spans = [(now - 20 * HOUR, now - 9 * HOUR), (now - 8 * HOUR, now - MINUTE)]
    listened = [{"from": timestamp_to_iso(since), "to": timestamp_to_iso(until)} for since, until in spans]
    times = {"started_at": timestamp_to_iso(spans[0][0]), "ended_at": timestamp_to_iso(spans[-1][1])}
    make_run(output, "notifications", "run", [notification(1)], day=day, listened=listened, **times)
    env = {"PARTI_HEALTH_MAX_AGE": "notifications=2h"}
    (line,) = check(scrapy, 4, env=env)
    silence = f"from {timestamp_to_iso(spans[0][1])} to {timestamp_to_iso(spans[1][0])}"
    assert line == f"not_listening: notifications: nobody was listening {silence}"


def test_a_service_is_healthy_as_it_runs_and_again_once_it_was_killed_and_goes_on(
    scrapy: Scrapy, serve: Serve, output: Path
) -> None:
    server = serve(**STILL)
    env = {"PARTI_HEALTH_MAX_AGE": "live=15m"}
    typed = typed_of("live", "service", {"interval": 0.2}, QUIET)
    for _ in range(2):
        before = len(requests(server, "/live"))
        running = RunningCrawl(typed, environment_of(output, server))
        wait_until(lambda before=before: len(requests(server, "/live")) > before + 3)  # type: ignore[misc]
        wait_until(lambda: rules(scrapy, env=env) == [])
        assert check(scrapy, 0, env=env)[0].startswith("healthy: live good ")
        running.stop(signal.SIGKILL)
        (finding,) = checked(scrapy, env=env)["findings"]
        assert (finding["rule"], finding["command"]) == ("abandoned", "scrapy crawl live -a run_id=service")


def test_a_listener_is_healthy_as_it_runs_and_again_once_it_was_killed_and_goes_on(
    scrapy: Scrapy, serve: Serve, output: Path
) -> None:
    server = serve(live=5)
    env = {"PARTI_HEALTH_MAX_AGE": "notifications=15m"}
    for _ in range(2):
        running = Listening(output, server)
        settle(server, running)
        wait_until(lambda: rules(scrapy, env=env) == [])
        running.stop(signal.SIGKILL)
        assert "abandoned" in rules(scrapy, env=env)


# --- Trouble with files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["{", "[]", '{"spider": "recent"}', "\0" * 4_096])
def test_a_damaged_data_package_is_found_until_it_is_removed(scrapy: Scrapy, output: Path, content: str) -> None:
    make(output, HOUR)
    damaged = make(output, 9 * HOUR)
    (damaged / "datapackage.json").write_text(content, encoding="utf-8")
    (line,) = check(scrapy, 4, env=NAMED)
    assert line.startswith(f"damaged: recent: {damaged} cannot be read: ")
    shutil.rmtree(damaged)
    assert rules(scrapy, env=NAMED) == []


@pytest.mark.parametrize("where", ["", "recent", "recent/run-000032400"])
def test_a_folder_that_cannot_be_read_is_found(scrapy: Scrapy, output: Path, where: str) -> None:
    make(output, HOUR)
    make(output, 9 * HOUR)
    closed = output / where
    closed.chmod(0)
    try:
        lines = check(scrapy, 4, env=NAMED, before=keep_permissions)
    finally:
        closed.chmod(0o755)
    assert any(line.startswith("damaged: ") and f"{closed} cannot be read: " in line for line in lines), lines
    assert rules(scrapy, env=NAMED) == []


def test_a_ledger_that_cannot_be_written_is_one_line(crawl: Run, scrapy: Scrapy, serve: Serve, output: Path) -> None:
    assert crawl("recent", *QUIET, server=serve(**STILL)).code == 0
    state = output.with_name("state")
    for path in [state, *state.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        run = scrapy("health", env=NAMED, before=keep_permissions)
        assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
        assert run.stderr.startswith(f"scrapy health: {state / 'ledger.sqlite'} cannot be used: ")
    finally:
        state.chmod(0o755)


def test_a_ledger_of_a_later_version_is_one_line(crawl: Run, scrapy: Scrapy, serve: Serve, output: Path) -> None:
    assert crawl("categories", *QUIET, server=serve(**STILL)).code == 0
    (path,) = output.with_name("state").glob("ledger*.sqlite")
    with closing(sqlite3.connect(path)) as ledger:
        ledger.execute("PRAGMA user_version = 99")
    for typed in (["health"], ["health", "--json"], ["runs"]):
        run = scrapy(*typed)
        assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
        assert run.stderr.startswith(f"scrapy {typed[0]}: ")


def test_a_full_file_system_is_found(scrapy: Scrapy, tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", output], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        make(output, HOUR)
        assert rules(scrapy, env=NAMED) == []
        (output / "ballast").write_bytes(bytes(980 * 1_024))
        (line,) = check(scrapy, 4, env=NAMED)
        assert line.startswith("disk: disk: ")
        assert line.endswith(f"of the bytes are free in {output}; scrapy prune --help")
    finally:
        subprocess.run(["umount", output], check=True)


def test_runs_of_the_first_format_are_looked_at(scrapy: Scrapy, output: Path) -> None:
    shutil.copytree(GOLDEN / "output", output)
    shutil.copytree(GOLDEN / "state", output.with_name("state"))
    found = checked(scrapy, env={"PARTI_HEALTH_MAX_AGE": "recent=2h,live=15m,categories=2d,notifications=2h"})
    assert {each["rule"] for each in found["findings"]} >= {"late"}
    assert all("\n" not in each["text"] for each in found["findings"])


# --- Readers that have enough ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an output folder of which more is to be said than a pipe holds; no test changes it."""
    output = tmp_path_factory.mktemp("many") / "output"
    for number in range(300):
        make(output, HOUR + number, rows=[], arguments={"user_id": number}, status="incomplete", reason="x" * 400)
    return output


@pytest.mark.parametrize(
    "typed", [["health"], ["health", "--json"], ["runs"], ["runs", "--json"], ["coverage", "--json"]]
)
def test_a_reader_that_has_enough_is_no_error(many_runs: Path, typed: list[str]) -> None:
    many = ["--last", "300"] if typed[0] == "runs" else []
    command = " ".join([*SCRAPY, *typed, *many])
    run = subprocess.run(
        ["bash", "-c", f"{command} | head -1; exit ${{PIPESTATUS[0]}}"],
        cwd=ROOT,
        env=environment_of(many_runs, None, NAMED),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert run.stderr == ""
    assert run.stdout.count("\n") == 1
    assert run.returncode == (0 if typed[0] == "runs" else 4)
