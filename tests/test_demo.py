"""The main job as `make demo` runs it, and the progress that a user sees."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from frictionless import validate

from parti_scraper.api.times import iso_to_timestamp, timestamp_to_iso
from tests.cloned import Clone
from tests.documents import blocks_of
from tests.servers import GAMING, NOT_FOUND, Answer, Script, to
from tests.support import (
    ROOT,
    STILL,
    TIMEOUT,
    Run,
    Serve,
    command_of,
    environment_of,
    paths,
    read_csv,
    read_lines,
    sorted_ids,
    true_ids,
    truth,
    wait_until,
)

JOB = (sys.executable, "tools/main_job.py")

# The columns that are promised to users.
COLUMNS = {
    "categories": "category_id, name, display_name, scraped_at, extra",
    "livestreams": (
        "event_id, user_id, user_name, event_title, category_id, category_name, event_start, event_end, "
        "duration_seconds, total_viewers, livestream_visibility_type, has_access_pass, livestream_recording, "
        "event_file, avatar_link, user_avatar_id, social_media, social_username, discord_discriminator, "
        "channel_url, video_url, scraped_at, extra"
    ),
    "live_channels": (
        "snapshot_id, observed_at, rank, event_id, user_id, user_name, event_title, category_id, category_name, "
        "viewers_count, event_file, avatar_link, user_avatar_id, social_media, social_username, "
        "discord_discriminator, channel_arn, playback_url, channel_url, extra"
    ),
    "live_notifications": (
        "received_at, source, livestream_id, event_id, user_id, user_name, event_title, category_id, category_name, "
        "viewers_count, event_file, avatar_link, user_avatar_id, social_media, social_username, "
        "discord_discriminator, channel_arn, channel_url, extra"
    ),
}
FOLDERS = {
    "categories": "categories",
    "recent": "livestreams",
    "live": "live_channels",
    "notifications": "live_notifications",
}


def test_the_demo_writes_every_file_with_its_columns_and_a_summary_without_warnings(tmp_path: Path) -> None:
    (block,) = (block for block in blocks_of("README.md") if block.run_by == "tests/test_demo.py")
    # `make crawl` is the same job, see `tests/test_setup.py`.
    demo, crawl = block.code.splitlines()
    assert (demo.split()[:2], crawl.split()[:2]) == (["make", "demo"], ["make", "crawl"])
    clone = Clone(tmp_path / "clone", None)
    clone.environment["PYTHONWARNINGS"] = "always"
    job = clone.type(demo)
    output = clone.folder / "output"
    assert job.returncode == 0, job.stderr
    assert not re.search("warning|deprecat", job.stderr, re.IGNORECASE)
    for spider, name in FOLDERS.items():
        (folder,) = (output / spider).iterdir()
        assert re.fullmatch(r"demo-20\d{6}T\d{6}Z", folder.name)
        if spider == "notifications":
            day, package = sorted(folder.iterdir())
            assert re.fullmatch(r"20\d\d-\d\d-\d\d", day.name)
            assert validate(str(day / "datapackage.json")).valid
        else:
            day, package = folder, folder / "datapackage.json"
        found = {path.suffix: path for path in day.iterdir()}
        assert sorted(found) == [".csv", ".json", ".jsonl"]
        assert {found[".csv"].stem, found[".jsonl"].stem} == {name}
        rows, cells = read_lines(found[".jsonl"]), read_csv(found[".csv"])
        assert len(rows) == len(cells) > 20
        assert {", ".join(row) for row in (*rows, *cells)} == {COLUMNS[name]}
        assert validate(str(package)).valid
        assert f"  {found['.csv'].relative_to(clone.folder)}  {len(rows):,} rows\n" in job.stdout
        assert f"  {package.relative_to(clone.folder)}  complete\n" in job.stdout
        assert f"{spider} {folder.name}: complete: {len(rows):,} " in job.stderr
    page = output / "report.html"
    assert job.stdout.endswith("The report, to be opened in a browser:\noutput/report.html\n")
    assert "Made-up data of a mock server." in page.read_text(encoding="utf-8")


def test_the_main_job_begins_with_a_week_and_names_the_command_for_the_whole_history(
    serve: Serve, output: Path
) -> None:
    # Its week goes by this machine's clock.
    now = int(time.time())
    server = serve(now=timestamp_to_iso(now), speed=0, events=300, years=0.1, live=40)
    environment = environment_of(output, server, {"PYTHONPATH": "."})
    job = subprocess.run(
        JOB, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", check=False, timeout=TIMEOUT
    )
    assert job.returncode == 0, job.stderr
    said, _, rest = job.stdout.partition("\nscrapy crawl categories ")
    assert said == "Ended livestreams: those of the last seven days. The end names the command for all.\n"
    assert re.search(r"^scrapy crawl recent -a run_id=crawl-\S+ -a since=7d$", rest, flags=re.MULTILINE)
    *_, last, command = rest.splitlines()
    assert last == "The whole history since August 2021, perhaps for hours; Ctrl-C stops it resumably:"

    def written() -> dict[str, list[int]]:
        return {path.parent.name: sorted_ids(read_lines(path)) for path in output.glob("recent/*/livestreams.jsonl")}

    ((run_id, week),) = written().items()
    since = iso_to_timestamp(
        json.loads((output / "recent" / run_id / "datapackage.json").read_text(encoding="utf-8"))["window"]["since"]
    )
    assert abs(since - (now - 7 * 86400)) < TIMEOUT
    assert week == sorted_ids([each for each in truth(server) if each["event_end_ts"] >= since])
    history = subprocess.run(
        ["sh", "-ec", command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=False,
    )
    assert history.returncode == 0, history.stderr
    (whole,) = (ids for name, ids in written().items() if name != run_id)
    assert len(whole) > len(week) > 0
    assert whole == true_ids(server)


def test_the_main_job_passes_a_signal_on_and_starts_no_more_crawls(serve: Serve, output: Path) -> None:
    # In so many pages that it does not end before the signal has come to it.
    server = serve(**STILL, latency=0.2, page_cap=2)
    job = subprocess.Popen(
        JOB, cwd=ROOT, env=environment_of(output, server), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_until(lambda: bool(paths(server, "/recent")))
    job.send_signal(signal.SIGTERM)
    stdout, stderr = job.communicate(timeout=TIMEOUT)
    assert job.returncode == 3
    assert b"stopped before the end (shutdown)" in stderr
    assert re.search(rb"/recent/crawl-\S+: not finished, exit code 3\n$", stdout)
    assert paths(server, "/live") == []


def on_a_terminal(spider: str, env: dict[str, str], columns: int, **arguments: str) -> str:
    """Return the output of a crawl on a terminal with so many columns."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
    crawl = subprocess.Popen(
        command_of(spider, "run", arguments, ("--loglevel", "INFO")),
        cwd=ROOT,
        env=env,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    sent = b""
    try:
        while received := os.read(ours, 65536):
            sent += received
    except OSError:
        pass  # How Linux says that the other side is closed.
    os.close(ours)
    assert crawl.wait() == 0
    return sent.decode()


@pytest.mark.parametrize("columns", [0, 100])
def test_a_line_of_progress_is_on_a_terminal_until_the_summary(serve: Serve, output: Path, columns: int) -> None:
    server = serve(**STILL, latency=0.15)
    sent = on_a_terminal("recent", environment_of(output, server), columns)
    progress = re.compile(r"\rrecent: (\d+) records \[[^\]]*, (\d+) pages\]")
    assert any(int(match[1]) and int(match[2]) for match in progress.finditer(sent))
    # Log lines are above it, and the summary replaces it.
    assert re.search(r"\r +\r20[-\d]+ [:\d]+ \[scrapy.core.engine\] INFO: Closing spider \(finished\)\r\n", sent)
    assert not progress.search(sent[sent.index("recent run: complete") :])


@pytest.mark.parametrize("columns", [120, 60])
def test_a_terminal_shows_how_much_is_done_and_as_much_more_as_fits(serve: Serve, output: Path, columns: int) -> None:
    server = serve(**STILL, latency=0.15, page_cap=25)
    oldest = min(record["event_start_ts"] for record in server.world.recent_at())
    window = {"since": str(oldest), "until": STILL["now"]}
    sent = on_a_terminal("recent", environment_of(output, server), columns, **window)
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", sent) if line.startswith("recent: ")]
    percents = [int(match[1]) for line in lines if (match := re.search(r", (\d+)%, ", line))]
    assert percents == sorted(percents)
    assert len(set(percents)) > 2
    assert all(len(line) < columns for line in lines)
    whole = re.compile(r"\d+%, \w+ left, back to 2026-\d\d-\d\d \d\d:\d\d, \d+ pages\]$")
    assert any(map(whole.search, lines)) is (columns == 120)


@pytest.mark.parametrize("columns", [100, 60])
def test_a_terminal_shows_what_a_run_waits_for(script: Script, output: Path, columns: int) -> None:
    refusals = [(429, {"Retry-After": "3"}, b"")]

    def answer(path: str) -> Answer:
        return NOT_FOUND if "robots" in path else refusals.pop() if refusals else GAMING

    server = script(answer)
    sent = on_a_terminal("categories", environment_of(output, None, to(server.base_url)), columns)
    host = server.base_url.removeprefix("http://")
    shown = f"waiting 2 s: HTTP 429 from {host}]"
    lines = [line for line in re.split(r"[\r\n]+", sent) if line.startswith("categories: 0 records [")]
    waiting = [line for line in lines if ", waiting 2 s" in line]
    assert waiting
    if columns == 100:
        assert all(line.rstrip().endswith(shown) for line in waiting)
    else:
        assert {len(line.rstrip()) for line in waiting} == {columns - 1}


def test_a_terminal_shows_which_host_does_not_answer(serve: Serve, output: Path) -> None:
    server = serve(**STILL, latency=3.0)
    sent = on_a_terminal("categories", environment_of(output, server), 100)
    host = server.base_url.removeprefix("http://")
    assert f"waiting 2 s for {host}]" in sent
    assert f"waiting 0 s for {host}]" not in sent


def test_without_a_terminal_log_lines_show_the_progress(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL, latency=0.1)
    run = crawl("recent", "-s", "LOGSTATS_INTERVAL=0.1", server=server)
    assert run.code == 0
    lines = [line for line in run.stderr.splitlines() if "[scrapy.extensions.logstats] INFO: Crawled " in line]
    assert len(lines) > 2
    assert re.search(r"Crawled \d+ pages \(.*\), scraped \d+ items \(.*\)$", lines[-1])
    assert "\r" not in run.stderr
