"""The transport `browser`: the same results as plain HTTP, also where plain HTTP is refused."""

from __future__ import annotations

import os
import re
import signal
import socket
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from parti_scraper.api import routes
from parti_scraper.mockserver import MockServer
from tests import expected
from tests.processes import descendants
from tests.support import (
    STILL,
    TIMEOUT,
    Crawl,
    Run,
    RunningCrawl,
    Serve,
    environment_of,
    hold,
    ids,
    needs_chromium,
    truth,
    typed_of,
    wait_until,
)

pytestmark = needs_chromium

BROWSER = ("-s", "PARTI_TRANSPORT=browser")
# All faults together.
FAULTS: dict[str, Any] = {
    "rate_429": 0.05,
    "retry_after": "seconds",
    "rate_500": 0.1,
    "rate_reset": 0.1,
    "rate_truncated": 0.15,
    "rate_challenge": 0.1,
}
TOKEN = "a-token-of-the-users"


def api_requests(server: MockServer) -> list[dict[str, str]]:
    """Return the headers of the project's requests, without those of the page."""
    page = {"limit=15", "limit=12"}
    return [
        {name.lower(): value for name, value in seen.headers}
        for seen in server.requests
        if seen.method == "GET" and seen.path.startswith("/parti_v2/") and not page & set(seen.query.split("&"))
    ]


@pytest.mark.parametrize(
    ("spider", "options"),
    [
        ("recent", {**FAULTS, "time_filter": "start", "bounds": "open", "above_cap": "refuse", "page_cap": 50}),
        ("live", {**FAULTS, "page_cap": 20}),
    ],
)
def test_it_fetches_everything_through_faults_as_the_browser(
    crawl: Run, serve: Serve, spider: str, options: dict[str, Any]
) -> None:
    server = serve(**STILL, **options)
    run = crawl(spider, *BROWSER, server=server)
    assert run.code == 0, run.stderr
    categories = server.world.categories()
    if spider == "recent":
        expect = [expected.livestream(record, categories) for record in truth(server)]
        found = [expected.without(row, "scraped_at") for row in run.rows]
    else:
        added = ("snapshot_id", "observed_at", "rank", "playback_url")
        expect = [expected.live_channel(record, categories) for record in server.world.live_at()]
        found = [expected.without(row, *added) for row in run.rows]
    assert sorted(found, key=itemgetter("event_id")) == sorted(expect, key=itemgetter("event_id"))
    sent = api_requests(server)
    assert sent
    # Those of the browser and of the page that it is in.
    assert {headers["referer"] for headers in sent} == {f"{server.base_url}/"}
    assert routes.USER_AGENT not in {headers["user-agent"] for headers in sent}
    # Plain HTTP requests robots.txt.
    (robots,) = [seen for seen in server.requests if seen.path == "/robots.txt"]
    assert dict(robots.headers)["User-Agent"] == routes.USER_AGENT


def test_it_works_if_only_a_browser_does_and_the_error_of_plain_http_names_it(crawl: Run, serve: Serve) -> None:
    # On another port than the page: its cookies go to another origin.
    server = serve(**STILL, browser_only=True, api_moved=True)
    env = {"PARTI_API_BASE_URLS": server.api_url, "PARTI_RETRY_PATIENCE": "0.2"}
    refused = crawl("recent", server=server, env=env)
    assert refused.code == 4
    assert refused.package["reason"].endswith("or through a browser with -s PARTI_TRANSPORT=browser")
    assert refused.package["reason"] in refused.stderr
    run = crawl("recent", *BROWSER, server=server, run_id="browser", env=env)
    assert run.code == 0, run.stderr
    assert sorted(ids(run.rows)) == sorted(ids(truth(server)))


def test_other_hosts_are_used_next_and_the_token_goes_only_to_the_api(crawl: Run, serve: Serve) -> None:
    site, gone, server = serve(**STILL), serve(**STILL, gone=True), serve(**STILL, token=TOKEN)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}"
    env = {
        "PARTI_SITE_URL": site.base_url,
        "PARTI_API_BASE_URLS": f"{closed},{gone.base_url},{server.base_url}",
        "PARTI_TOKEN": TOKEN,
        # Playwright would print all that it sends.
        "DEBUG": "pw:*",
    }
    run = crawl("recent", *BROWSER, "--loglevel", "DEBUG", server=server, env=env)
    assert run.code == 0, run.stderr
    assert sorted(ids(run.rows)) == sorted(ids(truth(server)))
    assert [each["reason"] for each in run.package["failovers"]] == ["connection refused", "HTTP 404"]
    assert {headers["origin"] for headers in api_requests(server)} == {site.base_url}
    assert TOKEN not in str([seen.headers for seen in site.requests])
    assert "Headless" not in str([headers["user-agent"] for headers in api_requests(server)])
    texts = [run.stderr, *(path.read_text(encoding="utf-8") for path in run.folder.iterdir())]
    assert not [text for text in texts if TOKEN in text]


def test_robots_txt_is_obeyed(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL, robots="disallow")
    run = crawl("recent", *BROWSER, server=server)
    assert run.code == 4
    assert [request.path for request in server.requests] == ["/robots.txt"]


def test_the_browser_does_not_get_the_secrets_of_the_environment(serve: Serve, output: Path) -> None:
    server = serve(**STILL)
    reached = hold(server, 1)
    secrets = {"PARTI_TOKEN": TOKEN, "PARTI_DATABASE_URL": "postgresql://me:hidden@127.0.0.1/x"}
    running = RunningCrawl(typed_of("recent", "run", {}, BROWSER), environment_of(output, server, secrets))
    wait_until(reached.is_set)
    browser = min(number for number, name in descendants(running.process.pid).items() if "chrom" in name)
    environment = Path(f"/proc/{browser}/environ").read_bytes()
    running.process.send_signal(signal.SIGINT)
    server.held = None
    running.stop(0)
    assert b"PATH=" in environment
    assert [name for name in secrets if name.encode() in environment] == []


def test_a_browser_that_crashes_is_started_again_and_nothing_is_lost(serve: Serve, output: Path) -> None:
    server = serve(**STILL, page_cap=10)
    reached = hold(server, 4)
    running = RunningCrawl(
        typed_of("recent", "run", {}, (*BROWSER, "-s", "LOG_LEVEL=DEBUG")), environment_of(output, server)
    )
    wait_until(reached.is_set)
    browser = min(number for number, name in descendants(running.process.pid).items() if "chrom" in name)
    os.kill(browser, signal.SIGKILL)
    server.held = None
    _, stderr = running.process.communicate(timeout=TIMEOUT)
    run = Crawl(running.process.returncode, "", stderr, output, "recent", "run")
    assert run.code == 0, stderr
    assert sorted(ids(run.rows)) == sorted(ids(truth(server)))
    assert "'parti/browser/starts': 2" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("options", "site", "reason"),
    [({}, "http://127.0.0.1:9", "site not open.*PARTI_SITE_URL"), ({"latency": 600}, "", "timeout")],
)
def test_a_server_that_never_answers_ends_the_run_with_the_reason(
    crawl: Run, serve: Serve, options: dict[str, Any], site: str, reason: str
) -> None:
    server = serve(**STILL, **options)
    env = {"PARTI_RETRY_PATIENCE": "0.2", "PARTI_SITE_URL": site or server.base_url}
    run = crawl("categories", *BROWSER, "-s", "DOWNLOAD_TIMEOUT=1", server=server, env=env)
    assert run.code == 4
    assert re.search(reason, run.package["reason"])
    assert "Traceback" not in run.stderr
