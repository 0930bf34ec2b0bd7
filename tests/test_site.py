"""The spider `site` in a real browser, with the mock server's page as it is and with possible changes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from frictionless import validate
from scrapy.settings import Settings

from parti_scraper import settings as project
from parti_scraper.api.drift import Configuration
from parti_scraper.browser import visit as visits
from parti_scraper.browser.requests import Exchange
from parti_scraper.browser.visit import MOST_REPEATS, Visit
from parti_scraper.mockserver import MockServer
from parti_scraper.mockserver.app import SECRET
from parti_scraper.spiders.site import SiteSpider
from tests.processes import descendants, is_alive
from tests.servers import Answer, ScriptedServer, json_answer
from tests.support import (
    QUIET,
    ROOT,
    STILL,
    TIMEOUT,
    Crawl,
    Run,
    RunningCrawl,
    Scrapy,
    Serve,
    command_of,
    environment_of,
    hold,
    needs_chromium,
    typed_of,
    wait_until,
)

pytestmark = needs_chromium

COLUMNS = "page_url, method, host, path, query, status, resource, known, observed_at"


def drift(run: Crawl) -> dict[str, Any]:
    """Return the findings that are not empty."""
    return {name: found for name, found in run.package["drift"].items() if found}


def test_it_collects_the_requests_of_the_page_and_reports_no_drift_if_nothing_changed(crawl: Run, serve: Serve) -> None:
    # Only a browser gets an answer.
    server = serve(**STILL, browser_only=True)
    run = crawl("site", "--loglevel", "DEBUG", server=server)
    assert run.code == 0, run.stderr
    assert drift(run) == {"agrees": True}
    assert "the site and this project agree\n" in run.stderr
    rows = run.rows
    assert {", ".join(row) for row in (*rows, *run.csv_rows)} == {COLUMNS}
    assert {(row["page_url"], row["known"]) for row in rows} == {(f"{server.base_url}/categories", True)}
    assert {(row["resource"], row["status"]) for row in rows} == {("http", 200), ("websocket", 101)}
    # Each request to the API once, and no others; images are not even requested.
    asked = [f"{seen.path}?{seen.query}" for seen in server.requests if seen.path.startswith("/parti_v2/")]
    http = [f"{row['path']}?{row['query']}" for row in rows if row["resource"] == "http"]
    assert sorted(http) == sorted(asked)
    assert {seen.path for seen in server.requests} - {row["path"] for row in rows} == {"/robots.txt", "/categories"}
    # It scrolled, and it clicked on every category.
    recent = [parse_qs(row["query"]) for row in rows if row["path"].endswith("/recent")]
    assert max(int(query["offset"][0]) for query in recent) > 15
    ids = {str(category["category_id"]) for category in server.world.categories()}
    assert {query["categories"][-1] for query in recent} == ids
    assert (run.folder / "screenshot.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert validate(str(run.folder / "datapackage.json")).valid
    assert "eyJ" not in run.stderr
    assert "Headless" not in str([seen.headers for seen in server.requests if seen.path != "/robots.txt"])


def test_if_a_host_moved_the_setting_is_named_with_which_recent_is_complete(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL, api_moved=True)
    assert crawl("categories", server=server).code == 4
    run = crawl("site", server=server)
    line = f"PARTI_API_BASE_URLS={server.api_url}"
    assert run.code == 0
    assert drift(run) == {"unknown_hosts": [server.api_url], "settings": [line]}
    assert run.stderr.endswith(f"  to follow the site, set {line}\n")
    assert {row["known"] for row in run.rows if row["resource"] == "http"} == {False}
    recent = crawl("recent", "-s", line, server=server)
    assert (recent.code, len(recent.rows)) == (0, 300)


def test_new_routes_and_fields_are_reported_without_secrets(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL, drift="all")
    run = crawl("site", "--loglevel", "DEBUG", server=server)
    assert run.code == 0
    assert drift(run) == {
        "unknown_routes": [f"GET {server.base_url}/parti_v2/profile/featured_channels"],
        "unknown_parameters": {"recent": ["page_size"], "live": ["page_size"]},
        "missing_parameters": {"recent": ["limit"], "live": ["limit"]},
        "unknown_fields": {"recent": ["stream_quality"], "live": ["stream_quality"]},
    }
    assert list(run.package["unknown_fields"]) == ["stream_quality"]
    assert run.package["unknown_fields"]["stream_quality"] > 10
    assert run.package["host"] == server.base_url
    assert run.stderr.count("Drift: ") == 7
    texts = [run.stderr, *(path.read_text(errors="replace") for path in run.folder.iterdir())]
    assert not [text for text in texts if SECRET in text or "eyJ" in text]
    assert [row["query"] for row in run.rows if not row["known"]] == ["limit=5"]


def test_routes_that_answer_with_errors_are_exit_code_4(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL, token="abc", ws_refused=1)
    run = crawl("site", server=server)
    assert run.code == 4
    assert set(drift(run)["routes_failed"]) == {"categories", "recent", "live"}
    assert drift(run)["routes_not_seen"] == ["websocket"]
    assert "route answered with errors: live (1 × HTTP 401)" in run.package["reason"]
    # Once in the log, and once in the summary.
    assert run.stderr.count("route answered with errors: live") == 2
    assert "Traceback" not in run.stderr


def test_a_page_that_cannot_be_opened_is_one_line(crawl: Run) -> None:
    run = crawl("site", env={"PARTI_SITE_URL": "http://127.0.0.1:9"})
    assert run.code == 4
    assert re.search("http://127.0.0.1:9/categories could not be opened: net::ERR_\\w+ at", run.package["reason"])
    assert "Traceback" not in run.stderr


def test_a_page_that_never_answers_is_given_up(crawl: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        run = crawl("site", "-s", "DOWNLOAD_TIMEOUT=1", env={"PARTI_SITE_URL": url})
    assert run.code == 4
    assert run.package["reason"] == f"{url}/categories could not be opened: Timeout 1000ms exceeded."
    assert "Traceback" not in run.stderr


def test_robots_txt_is_obeyed(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL, robots="disallow")
    run = crawl("site", server=server)
    assert run.code == 4
    assert run.package["reason"].endswith("/categories could not be opened: Forbidden by robots.txt")
    assert [request.path for request in server.requests] == ["/robots.txt"]


@contextmanager
def leaving_for(server: MockServer) -> Iterator[str]:
    """Serve a page that navigates to that of the mock server before it has loaded; yields its address."""

    def answer(path: str) -> Answer:
        if path == "/":
            script = f"fetch('/data').then(() => {{ location.href = '{server.base_url}/categories' }})"
            page = f"<!doctype html><script>{script}</script><script src=/held></script>"
            return 200, {"Content-Type": "text/html"}, page.encode()
        if path == "/data":
            return json_answer({})
        if path == "/held":
            wait_until(lambda: any(seen.path == "/categories" for seen in server.requests))
        return 404, {"Content-Type": "text/plain"}, b""

    with closing(ScriptedServer(answer)) as leaving:
        yield f"{leaving.base_url}/"


def test_a_page_that_navigates_to_another_is_followed(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    with leaving_for(server) as url:
        run = crawl("site", "-a", f"url={url}", "-s", "LOG_LEVEL=DEBUG", server=server)
    assert run.code == 0, run.stderr
    assert run.package["drift"]["agrees"], run.package["drift"]
    assert {row["page_url"] for row in run.rows} == {url, f"{server.base_url}/categories"}
    # The visit continued with the other page to its end.
    assert f"'parti/site/clicks': {len(server.world.categories())}," in run.stderr


# Requests everything that this project knows, and shows no category to click on.
ASKS = """
const profile = "SERVER/parti_v2/profile/";
const recent = profile + "get_livestream_channel_info/recent?sort_by_date_desc=true&from_ts=1&to_ts=2"
  + "&followed_only=false&offset=0&limit=1&top_views_sort=false";
const live = profile + "get_livestream_channel_info/live?limit=1&offset=0";
const ask = () => [profile + "livestream_calendar/events/categories", recent, live].map((url) => fetch(url));
"""
SUBSCRIBES = """
const socket = new WebSocket("SERVER/".replace("http", "ws"));
socket.onopen = () => socket.send('{"subscribe_options":{"NewChannelLiveNotify":{}}}');
"""


@contextmanager
def pages_of(server: MockServer, script: str, **files: str) -> Iterator[str]:
    """Serve a page with a script that calls the mock server, workers, and `/loop`, which redirects to itself.

    Yields the page's address.
    """
    texts = {"/": f"<!doctype html><body><script>{ASKS}{SUBSCRIBES}{script}</script>"}
    texts |= {f"/{name}.js": ASKS + text for name, text in files.items()}
    bodies = {path: text.replace("SERVER", server.base_url).encode() for path, text in texts.items()}

    def answer(path: str) -> Answer:
        if path == "/loop":
            return 302, {"Location": "/loop"}, b""
        kind = {"Content-Type": "text/javascript" if path.endswith(".js") else "text/html"}
        return 200 if path in bodies else 404, kind, bodies.get(path, b"")

    with closing(ScriptedServer(answer)) as site:
        yield f"{site.base_url}/"


def test_without_a_click_on_a_category_the_summary_says_what_was_compared(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    with pages_of(server, "ask()") as url:
        run = crawl("site", "-a", f"url={url}", server=server)
    assert run.code == 0, run.stderr
    line = "  the site and this project agree in what the page asked for by itself: no category was clicked\n"
    assert run.stderr.endswith(line)
    categories = len(server.world.categories())
    assert run.package["visit"] == {"requests": 4, "without_row": 0, "categories": categories, "clicked": 0}


@pytest.mark.parametrize("kind", ["awaited", "answers", "asks"])
def test_a_page_has_its_service_worker_and_the_workers_requests_are_seen(crawl: Run, serve: Serve, kind: str) -> None:
    server = serve(**STILL, service_worker=kind)
    run = crawl("site", server=server)
    assert run.code == 0, run.stderr
    assert drift(run) == {"agrees": True}
    asked = [f"{seen.path}?{seen.query}" for seen in server.requests if seen.path.startswith("/parti_v2/")]
    assert sorted(f"{row['path']}?{row['query']}" for row in run.rows if row["resource"] == "http") == sorted(asked)
    assert {row["page_url"] for row in run.rows} == {f"{server.base_url}/categories"}
    assert run.package["visit"]["clicked"] == len(server.world.categories())


def test_the_requests_of_a_worker_are_seen(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    with pages_of(server, "const worker = new Worker('/worker.js')", worker="setTimeout(ask, 1000)") as url:
        run = crawl("site", "-a", f"url={url}", server=server)
    assert run.code == 0, run.stderr
    assert {row["page_url"] for row in run.rows} == {url}
    assert [row["status"] for row in run.rows if row["resource"] == "http"] == [200] * 3


NUISANCE = """
ask();
onbeforeunload = (event) => event.preventDefault();
for (let n = 0; n < 20; n += 1) {
  open("/");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["x".repeat(100000)]));
  link.download = "x";
  link.click();
}
setInterval(() => { for (let n = 0; n < 100; n += 1) console.log("x".repeat(1000)); }, 10);
setInterval(() => { if (socket.readyState === 1) socket.send("x".repeat(10000)); }, 1);
setInterval(() => { alert(1); confirm(2); prompt(3); }, 300);
"""


RELOADS = """
const opened = new Promise((resolve) => socket.addEventListener("open", resolve));
Promise.all([opened, ...ask()]).then(() => location.reload());
"""


@pytest.mark.parametrize("script", [NUISANCE, RELOADS])
def test_a_page_that_is_always_busy_is_visited_to_the_end(crawl: Run, serve: Serve, script: str) -> None:
    server = serve(**STILL)
    with pages_of(server, script) as url:
        run = crawl("site", "-a", f"url={url}", server=server)
    assert run.code == 0, run.stderr
    assert run.package["drift"]["agrees"], run.package["drift"]
    assert {row["page_url"] for row in run.rows} == {url}
    assert "Traceback" not in run.stderr


def test_redirects_without_end_are_one_line(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    with pages_of(server, "") as url:
        run = crawl("site", "-a", f"url={url}loop", server=server)
    assert run.code == 4
    assert run.package["reason"].startswith(f"{url}loop could not be opened: net::ERR_TOO_MANY_REDIRECTS")
    assert "Traceback" not in run.stderr


# Requests that are given up before they are sent count too.
REPEATS = """
Promise.all(ask()).then(() => {
  const given = new AbortController();
  for (let n = 0; n < 1500; n += 1) fetch(live, { signal: given.signal }).catch(() => {});
  setTimeout(() => given.abort(), 100);
});
"""


def test_an_endlessly_repeated_request_has_some_rows_and_all_are_counted(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    with pages_of(server, REPEATS) as url:
        run = crawl("site", "-a", f"url={url}", server=server)
    assert run.code == 0, run.stderr
    assert Counter(row["path"].rpartition("/")[2] for row in run.rows) == {
        "live": MOST_REPEATS,
        "": 1,
        "recent": 1,
        "categories": 1,
    }
    assert (run.package["visit"]["requests"], run.package["visit"]["without_row"]) == (1_504, 501)
    assert "  501 of 1,504 requests have no row: the same one has at most 1,000, all together 20,000\n" in run.stderr


def test_a_busy_page_is_left_at_a_signal(serve: Serve, output: Path) -> None:
    server = serve(**STILL, busy=400)
    running = RunningCrawl(typed_of("site", "run", {}, ()), environment_of(output, server))
    wait_until(lambda: len(server.requests) > 100)
    assert running.stop(signal.SIGTERM) == 3
    assert "Traceback" not in running.stderr


def test_if_requests_that_were_made_once_have_no_row_the_run_is_not_complete(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(visits, "MOST_CALLS", 10)
    configuration = Configuration(("http://127.0.0.1",), "ws://127.0.0.1/")
    visit = Visit(Any, configuration, lambda: False)  # type: ignore[arg-type]
    for number in range(100):
        visit.calls._begun(
            Exchange(str(number), "GET", f"http://127.0.0.1/{number}", kind="Fetch", page_url="/"), is_worker=False
        )
    assert (visit.calls.made, len(visit.calls.rows)) == (100, 10)
    folders = {"PARTI_OUTPUT_DIR": tmp_path / "output", "PARTI_STATE_DIR": tmp_path / "state"}
    settings = Settings({name: getattr(project, name) for name in dir(project) if name.isupper()} | folders)
    spider = SiteSpider(SiteSpider.new_run(settings, {}))
    spider._conclude(visit)
    assert spider.run.problems.gaps[0] == " made 100 requests, of which 10 have a row"


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'a warning' >&2; echo 'the cause' >&2", "the cause"),
        (
            "printf '%s\\n' 'a warning' '[1:FATAL:x.cc] the cause' '#0 0x5' '  r8: 0' '[end of stack trace]' >&2",
            "[1:FATAL:x.cc] the cause",
        ),
    ],
)
def test_the_error_of_a_browser_that_did_not_start_is_its_last_line(
    scrapy: Scrapy, serve: Serve, tmp_path: Path, script: str, why: str
) -> None:
    program = tmp_path / "chromium"
    program.write_text(f"#!/bin/sh\n{script}\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    run = scrapy("crawl", "site", server=serve(**STILL), env={"PARTI_CHROMIUM": str(program)})
    assert run.returncode == 1
    assert f"Chromium could not be started: {program}: {why} (PARTI_CHROMIUM names another)\n" in run.stderr


@pytest.mark.parametrize("typed", [("site",), ("recent", "-s", "PARTI_TRANSPORT=browser")])
def test_a_program_that_is_no_browser_is_one_line(
    scrapy: Scrapy, serve: Serve, output: Path, typed: tuple[str, ...]
) -> None:
    run = scrapy("crawl", *typed, "--loglevel", "CRITICAL", server=serve(**STILL), env={"PARTI_CHROMIUM": "/bin/false"})
    assert run.returncode == 1
    line = "Chromium could not be started: /bin/false: it ended at once (PARTI_CHROMIUM names another)\n"
    assert run.stderr == line
    assert not output.exists()


@pytest.mark.parametrize("typed", [("site",), ("recent", "-s", "PARTI_TRANSPORT=browser")])
def test_without_a_browser_one_line_says_how_to_get_it(scrapy: Scrapy, output: Path, typed: tuple[str, ...]) -> None:
    run = scrapy("crawl", *typed, env={"PARTI_CHROMIUM": "/nowhere/chromium"})
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
    assert "'/nowhere/chromium'" in run.stderr
    assert "apt-get install chromium" in run.stderr
    assert not output.exists()


def test_without_the_extra_one_line_says_so_and_the_other_spiders_work(
    scrapy: Scrapy, serve: Serve, tmp_path: Path
) -> None:
    hidden = "import sys\nsys.modules['playwright'] = sys.modules['scrapy_playwright'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(hidden, encoding="utf-8")
    env = {"PYTHONPATH": str(tmp_path)}
    run = scrapy("crawl", "site", env=env)
    line = "the browser needs scrapy-playwright: install it with `pip install scrapy-playwright`\n"
    assert (run.returncode, run.stderr) == (1, line)
    assert scrapy("crawl", "categories", server=serve(**STILL), env=env).returncode == 0


class Watched:
    """A crawl in its own process group, and every process that it has started."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.begun: dict[int, str] = {}
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, process_group=0)

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Wait until a condition that needs a browser is true."""
        wait_until(happened)
        self.begun = descendants(self.process.pid)
        assert any("chrom" in name for name in self.begun.values())

    def signal(self, number: int) -> None:
        """Send a signal to the process group."""
        os.killpg(self.process.pid, number)

    def end(self) -> int:
        """Wait until it and all its processes have ended; return the exit code."""
        _, stderr = self.process.communicate(timeout=TIMEOUT)
        assert b"Traceback" not in stderr
        wait_until(lambda: not any(map(is_alive, self.begun)))
        return self.process.returncode


@pytest.mark.parametrize("spider", ["site", "recent"])
def test_no_process_is_left_behind_and_the_next_run_needs_no_clean_up(serve: Serve, output: Path, spider: str) -> None:
    server = serve(**STILL, page_cap=30)
    env = environment_of(output, server, {"PARTI_TRANSPORT": "browser"})
    command = command_of(spider, "run", {}, QUIET)

    for number, code in ((signal.SIGTERM, 3), (signal.SIGKILL, -9), (0, 0)):
        reached = hold(server, 3)
        crawl = Watched(command, env)
        crawl.wait_until(reached.is_set)
        crawl.signal(number)
        server.held = None
        assert crawl.end() == code
