"""Crawls of a failing server: nothing is lost while it lives, a dead one is given up, and secrets are not stored."""

from __future__ import annotations

import gzip
import re
import signal
import socket
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from scrapy import Request
from scrapy.http import Response
from scrapy.settings import Settings

from parti_scraper.exceptions import UsageError
from parti_scraper.network.settings import RetrySettings, check_settings
from parti_scraper.network.token import TokenMiddleware
from parti_scraper.redact import Secret
from tests.servers import (
    GAMING,
    IMPATIENT,
    NOT_FOUND,
    SMALL,
    UNTHROTTLED,
    Answer,
    Script,
    api_requests,
    closed_port,
    elsewhere,
    json_answer,
    to,
)
from tests.support import (
    CATEGORIES,
    TIMEOUT,
    Crawl,
    Run,
    RunningCrawl,
    Scrapy,
    Serve,
    environment_of,
    hold,
    sorted_ids,
    true_ids,
    typed_of,
    wait_until,
)

TOKEN = "s3cr3t-t0k3n.of~the+user/=="

FAULTS: dict[str, dict[str, Any]] = {
    "429": {"rate_429": 0.5},
    # Each form once; more would only take longer.
    "429 with Retry-After": {"rate_429": 0.35, "retry_after": "mixed", "events": 60},
    "5xx": {"rate_500": 0.5},
    "truncated": {"rate_truncated": 0.5},
    "challenge": {"rate_challenge": 0.5},
    "reset": {"rate_reset": 0.5},
    "404": {"rate_404": 0.3},
    "404 which may mean that there is nothing": {"rate_404": 0.3, "empty_as": "404"},
    "all": {
        "rate_429": 0.15,
        "rate_500": 0.2,
        "rate_truncated": 0.15,
        "rate_challenge": 0.1,
        "rate_reset": 0.15,
    },
}


def traces(run: Crawl, *folders: Path) -> str:
    """Return all files and output of a run."""
    paths = [path for folder in (run.output, *folders) for path in folder.rglob("*") if path.is_file()]
    return run.stdout + run.stderr + "".join(path.read_bytes().decode("latin-1") for path in paths)


# --- A failing server ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("faults", FAULTS)
def test_a_failing_server_costs_requests_but_no_record(crawl: Run, serve: Serve, faults: str) -> None:
    server = serve(**SMALL | FAULTS[faults], fault_burst=0)
    run = crawl("recent", server=server)
    assert {seen.fault for seen in server.requests} > {None}
    assert run.code == 0
    assert sorted_ids(run.rows) == true_ids(server)
    assert "Traceback" not in run.stderr


def test_a_retry_is_the_same_request(crawl: Run, serve: Serve) -> None:
    server = serve(**SMALL, fault_burst=1, rate_500=0.5)
    assert crawl("recent", server=server).code == 0
    seen = api_requests(server)
    asked = [(each.method, each.path, each.query) for each in seen]
    faults = [number for number, each in enumerate(seen) if each.fault]
    assert faults
    assert all(asked[number] in asked[number + 1 :] for number in faults)
    assert all(sorted(each.headers) == sorted(seen[0].headers) for each in seen)


def test_a_429_pauses_every_request_to_the_host_also_those_in_the_queue(crawl: Run, serve: Serve) -> None:
    server = serve(**SMALL, rate_429=0.03, retry_after="seconds", latency=0.02)
    options = ("-s", "CONCURRENT_REQUESTS=16", "-s", "DOWNLOAD_DELAY=0.005")
    assert crawl("recent", *options, server=server, categories="all").code == 0
    refused = [seen.finished for seen in api_requests(server) if seen.status == 429]
    assert refused
    for finished in refused:
        assert finished
        # The pause ends a second after the client has the answer, so later than that; in flight at the same time
        # are at most three others.
        assert sum(finished < seen.started < finished + 1 for seen in api_requests(server)) <= 3


def test_a_body_that_cannot_be_decompressed_is_retried(crawl: Run, script: Script) -> None:
    status, headers, body = GAMING
    packed = gzip.compress(body)
    bodies = [packed[:12], b"no gzip", packed]

    def answer(path: str) -> Answer:
        if path != CATEGORIES:
            return NOT_FOUND
        return status, headers | {"Content-Encoding": "gzip"}, bodies.pop(0)

    server = script(answer)
    run = crawl("categories", env=to(server.base_url))
    assert run.code == 0
    assert [row["name"] for row in run.rows] == ["Gaming"]
    assert server.paths.count(CATEGORIES) == 3


# A refusal by the API, and by a proxy before it.
@pytest.mark.parametrize("body", [b'{"detail": "no"}', b"<html>413 Request Entity Too Large</html>"])
@pytest.mark.parametrize("status", [400, 413])
def test_a_refused_request_is_not_retried(crawl: Run, script: Script, status: int, body: bytes) -> None:
    server = script(lambda _path: (status, {}, body))
    run = crawl("categories", env=to(server.base_url))
    assert run.code == 4
    assert server.paths.count(CATEGORIES) == 1
    assert run.package["reason"].endswith(f" could not be fetched: HTTP {status}")


def test_a_403_of_the_api_is_not_retried(crawl: Run, script: Script) -> None:
    server = script(lambda _path: json_answer({"detail": "no"}, 403))
    assert crawl("categories", env=to(server.base_url)).code == 4
    assert server.paths.count(CATEGORIES) == 1


def test_if_only_one_request_fails_only_that_one_is_given_up(crawl: Run, script: Script) -> None:
    record = {"event_id": 1, "user_id": 1, "category_name": "Gaming", "event_start_ts": 1.7e9, "event_end_ts": 1.7e9}

    def answer(path: str) -> Answer:
        if path == CATEGORIES:
            return json_answer([{"category_id": n, "name": name} for n, name in enumerate(("Bad", "Gaming"), 1)])
        if "categories=1&" in path:
            return json_answer({}, 500)
        if "offset=" not in path:
            return NOT_FOUND
        # Pages, until the other request was tried often enough.
        bad = sum("categories=1&" in seen for seen in server.paths)
        return json_answer([record | {"event_id": len(server.requests)}] if bad < 4 else [])

    server = script(answer)
    run = crawl("recent", "-s", "RETRY_TIMES=3", env=to(server.base_url), categories="all")
    assert run.code == 4
    assert "failed 4 times (4 × HTTP 500) while others succeeded; the server is in trouble" in run.package["reason"]
    assert run.rows


# --- A dead server ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "kind"),
    [
        ({"rate_429": 1.0}, "HTTP 429"),
        ({"rate_500": 1.0}, "HTTP 503"),
        ({"rate_truncated": 1.0}, "answer cut short"),
        ({"rate_challenge": 1.0}, "challenge page"),
        ({"rate_reset": 1.0}, "answer cut short"),
    ],
)
def test_a_server_that_serves_only_errors_is_given_up(
    crawl: Run, serve: Serve, faults: dict[str, float], kind: str
) -> None:
    server = serve(**SMALL, fault_burst=0, **faults)
    run = crawl("recent", server=server, env=IMPATIENT)
    assert run.code == 4
    assert f"gave up on {server.base_url} after " in run.package["reason"]
    assert f" × {kind}" in run.package["reason"]
    assert run.package["reason"] in run.stderr
    assert "Traceback" not in run.stderr


def test_a_failing_server_is_not_overloaded(crawl: Run, serve: Serve) -> None:
    server = serve(**SMALL, fault_burst=0, rate_500=1.0)
    assert crawl("categories", "-s", "PARTI_RETRY_DELAY=0.5", server=server, env=IMPATIENT).code == 4
    # Without back-off there would be a hundred; with it, more than twenty are too unlikely.
    assert 2 <= len(api_requests(server)) < 20


@pytest.mark.parametrize("base_url", ["http://nowhere.invalid", "refused"])
def test_a_server_that_cannot_be_reached_is_given_up(crawl: Run, base_url: str) -> None:
    base_url = closed_port() if base_url == "refused" else base_url
    run = crawl("categories", *UNTHROTTLED, env=IMPATIENT | to(base_url))
    assert run.code == 4
    assert f"gave up on {base_url} after " in run.package["reason"]
    assert "check the network, and the setting PARTI_API_BASE_URLS" in run.package["reason"]
    assert "Traceback" not in run.stderr


def test_a_server_that_never_answers_is_given_up(crawl: Run) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        base_url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        run = crawl("categories", "-s", "DOWNLOAD_TIMEOUT=0.3", env=IMPATIENT | to(base_url))
    assert run.code == 4
    assert " × timeout; the last: Getting http" in run.package["reason"]
    assert "Traceback" not in run.stderr


def test_once_a_host_is_given_up_every_request_fails_at_once_and_the_reason_is_logged_once(
    crawl: Run, script: Script
) -> None:
    names = [{"category_id": number, "name": f"c{number}"} for number in range(1, 31)]
    server = script(
        lambda path: json_answer(names) if path == CATEGORIES else json_answer({}, 404 if "robots" in path else 500)
    )
    run = crawl("recent", env=IMPATIENT | to(server.base_url), categories="all")
    assert run.code == 4
    assert run.stderr.count("Not complete: ") == 30
    assert run.stderr.count("[parti_scraper.run.problems] ERROR") == 30
    assert run.stderr.count("Not complete: ") - run.stderr.count(" was given up\n") <= 2


@pytest.mark.parametrize("robots", ["429", "page", "silence"])
def test_a_failure_of_robots_txt_is_no_failure_of_the_api(crawl: Run, script: Script, robots: str) -> None:
    done = threading.Event()

    def answer(path: str) -> Answer:
        if path == CATEGORIES:
            return GAMING
        if robots == "silence":
            done.wait(30)
        return int(robots) if robots.isdigit() else 200, {"Retry-After": "60"}, b"<html>Just a moment</html>"

    server = script(answer)
    run = crawl("categories", "-s", "DOWNLOAD_TIMEOUT=0.5", env=to(server.base_url))
    done.set()
    assert run.code == 0
    assert server.paths == ["/robots.txt", CATEGORIES]
    assert "Traceback" not in run.stderr


def test_a_signal_ends_a_run_that_waits(script: Script, output: Path) -> None:
    server = script(lambda path: (429, {"Retry-After": "60"}, b"") if path == CATEGORIES else NOT_FOUND)
    running = RunningCrawl(typed_of("categories", "run", {}, ()), environment_of(output, None, to(server.base_url)))
    wait_until(lambda: re.search(r"again in (59|60)\.", running.process.stderr) is not None)
    running.process.send_signal(signal.SIGINT)
    # It would wait for a minute otherwise.
    assert running.process.wait(timeout=45) == 3, running.process.stderr
    assert "Not complete" not in running.process.stderr


# --- Another host ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "reason"),
    [("unknown", "host name not found"), ("refused", "connection refused"), ("404", "HTTP 404"), ("410", "HTTP 410")],
)
def test_if_a_host_cannot_be_reached_the_next_one_is_asked(
    crawl: Run, serve: Serve, script: Script, first: str, reason: str
) -> None:
    if first.isdigit():
        gone = script(lambda _path: (int(first), {"Content-Type": "text/html"}, b"<html>gone</html>"))
        left = elsewhere(gone.base_url)
    else:
        left = "http://nowhere.invalid" if first == "unknown" else elsewhere(closed_port())
    server, unused = serve(**SMALL), serve(**SMALL)
    host = elsewhere(server.base_url)
    run = crawl("recent", *UNTHROTTLED, env=to(left, host, elsewhere(unused.base_url)))
    assert run.code == 0
    assert sorted_ids(run.rows) == true_ids(server)
    assert run.package["host"] == host
    assert run.package["failovers"] == [{"from": left, "to": host, "reason": reason}]
    assert f"WARNING: {reason} from {left}: continuing with {host}" in run.stderr
    assert unused.requests == []
    assert "Traceback" not in run.stderr


def test_a_host_that_goes_away_in_the_middle_is_left_without_losing_a_record(serve: Serve, output: Path) -> None:
    first, second = serve(**SMALL), serve(**SMALL)
    reached = hold(first, 4)
    env = environment_of(output, None, to(first.base_url, second.base_url))
    running = RunningCrawl(typed_of("recent", "run", {}, ()), env)
    wait_until(reached.is_set)
    first.stop()
    stderr = running.process.communicate(timeout=TIMEOUT)[1]
    run = Crawl(running.process.returncode, "", stderr, output, "recent", "run")
    assert run.code == 0
    assert sorted_ids(run.rows) == true_ids(second)
    assert [each["to"] for each in run.package["failovers"]] == [second.base_url]


def test_the_next_host_is_asked_exactly_the_same(crawl: Run, serve: Serve, script: Script) -> None:
    first = script(lambda path: GAMING if path == CATEGORIES else NOT_FOUND)
    second = serve(**SMALL)
    run = crawl("recent", env=to(first.base_url, second.base_url), categories="NaN,7,7", limit=15)
    assert run.code == 0
    asked = api_requests(second)[0]
    assert f"{asked.path}?{asked.query}" == next(path for path in first.paths if "/recent?" in path)


def test_if_no_host_has_the_route_the_run_ends_and_names_all(crawl: Run, serve: Serve) -> None:
    hosts = [serve(**SMALL, gone=True) for _ in range(2)]
    run = crawl("recent", env=IMPATIENT | to(*(host.base_url for host in hosts)))
    assert run.code == 4
    for host in hosts:
        assert f"gave up on {host.base_url} after " in run.package["reason"]
    assert "does not have this route: set PARTI_API_BASE_URLS" in run.package["reason"]


def test_if_no_host_can_be_reached_all_are_named(crawl: Run) -> None:
    first, last = closed_port(), closed_port()
    run = crawl("categories", env=IMPATIENT | to(first, last, first))
    assert run.code == 4
    for host in (first, last):
        assert f"gave up on {host} after " in run.package["reason"]
    assert run.package["reason"].endswith("check the network, and the setting PARTI_API_BASE_URLS")


def test_if_no_host_can_be_reached_from_the_start_the_run_ends_within_ten_seconds(crawl: Run) -> None:
    hosts = closed_port(), closed_port()
    run = crawl("categories", env=to(*hosts))
    assert run.code == 4
    for host in hosts:
        assert re.search(rf"gave up on {host} after \d+ failures in \d s without", run.package["reason"])


@pytest.mark.parametrize(
    ("text", "patience"), [("", (50, 8)), ("30", (30, None)), ("1m", (60, None)), ("0", (0, None))]
)
def test_a_given_patience_applies_to_unreachable_hosts_too(text: str, patience: tuple[float, float | None]) -> None:
    read = RetrySettings.read(Settings({"PARTI_RETRY_PATIENCE": text}))
    assert (read.patience, read.patience_unreachable) == patience


# --- The token -------------------------------------------------------------------------------------------------


def test_the_token_is_sent_and_stored_nowhere(crawl: Run, serve: Serve, tmp_path: Path) -> None:
    # Faults lead to all kinds of retries; a job folder stores requests.
    server = serve(**SMALL, token=TOKEN, rate_500=0.2, rate_reset=0.2, rate_challenge=0.2)
    run = crawl(
        "recent", "--loglevel", "DEBUG", "-s", f"JOBDIR={tmp_path / 'job'}", server=server, env={"PARTI_TOKEN": TOKEN}
    )
    assert run.code == 0
    assert sorted_ids(run.rows) == true_ids(server)
    assert all(dict(seen.headers)["Authorization"] == f"Bearer {TOKEN}" for seen in api_requests(server))
    left = traces(run, tmp_path / "job")
    assert len(left) > 100_000
    assert TOKEN not in left
    assert "Bearer" not in left


def test_without_a_token_none_is_sent(crawl: Run, serve: Serve) -> None:
    server = serve(**SMALL, token=TOKEN)
    run = crawl("recent", server=server)
    assert run.code == 4
    assert "set the environment variable PARTI_TOKEN" in run.package["reason"]
    assert [name for seen in server.requests for name, _ in seen.headers if name.lower() == "authorization"] == []


def test_a_redirect_to_another_host_is_followed_without_the_token(crawl: Run, script: Script, tmp_path: Path) -> None:
    elsewhere = script(lambda path: GAMING if path == CATEGORIES else NOT_FOUND)
    location = {"Location": elsewhere.base_url + CATEGORIES}
    server = script(lambda path: (302, location, b"") if path == CATEGORIES else NOT_FOUND)
    # Scrapy's cache, because it stores the headers of requests.
    options = ("--loglevel", "DEBUG", "-s", "HTTPCACHE_ENABLED=True", "-s", f"HTTPCACHE_DIR={tmp_path / 'cache'}")
    run = crawl("categories", *options, env=to(server.base_url) | {"PARTI_TOKEN": TOKEN})
    assert run.code == 0
    assert [headers.get("Authorization") for path, headers in server.requests if path == CATEGORIES] == [
        f"Bearer {TOKEN}"
    ]
    assert CATEGORIES in elsewhere.paths
    assert all("Authorization" not in headers for _, headers in elsewhere.requests)
    left = traces(run, tmp_path / "cache")
    assert "request_headers" in "".join(map(str, (tmp_path / "cache").rglob("*")))
    assert TOKEN not in left


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://api.example/a", True),
        ("https://API.example:443/a", True),
        ("http://api.example/a", False),
        ("https://api.example:8443/a", False),
        ("https://api.example.evil.example/a", False),
        ("https://evil.example/https://api.example", False),
        ("http://plain.example/a", False),
        ("https://plain.example/a", False),
        ("http://127.0.0.1:8000/a", True),
        ("http://127.0.0.1:8001/a", False),
    ],
)
@pytest.mark.parametrize("ended", ["by a response", "by an exception"])
def test_the_token_is_in_the_request_only_on_its_way_to_a_configured_host(url: str, sent: bool, ended: str) -> None:
    configured = ("https://api.example", "http://plain.example", "http://127.0.0.1:8000")
    middleware = TokenMiddleware(Secret(TOKEN), configured)
    request = Request(url)
    middleware.process_request(request)
    assert request.headers.get("Authorization") == (f"Bearer {TOKEN}".encode() if sent else None)
    if ended == "by a response":
        middleware.process_response(request, Response(url))
    else:
        middleware.process_exception(request, OSError())
    assert "Authorization" not in request.headers


def test_a_token_on_the_command_line_is_a_usage_error(crawl: Run, serve: Serve) -> None:
    server = serve(**SMALL)
    run = crawl("recent", "-s", f"PARTI_TOKEN={TOKEN}", server=server)
    assert (run.code, run.stdout) == (2, "")
    assert run.stderr == (
        "setting `PARTI_TOKEN`: not to be typed, since others on the machine can read it there "
        "(accepted: the environment variable PARTI_TOKEN)\n"
    )
    assert server.requests == []


def test_a_token_that_cannot_be_in_a_header_is_a_usage_error_that_does_not_show_it(crawl: Run, serve: Serve) -> None:
    server = serve(**SMALL)
    run = crawl("recent", server=server, env={"PARTI_TOKEN": "two\nlines"})
    assert (run.code, run.stdout) == (2, "")
    assert run.stderr == (
        "environment variable `PARTI_TOKEN`: not a token; what it holds is not shown "
        "(accepted: printable ASCII without spaces and line breaks)\n"
    )
    assert server.requests == []


@pytest.mark.parametrize(
    "token",
    ["", Secret("two words"), Secret("line\n"), Secret("end\r"), Secret("tökén"), Secret(" "), Secret("\udcff")],
)
def test_an_invalid_token_is_refused(token: Any) -> None:
    with pytest.raises(UsageError):
        check_settings(Settings({"PARTI_TOKEN": token}))


@pytest.mark.parametrize("token", ["", TOKEN, "!", "~"])
def test_a_valid_token_or_no_token_is_accepted(token: str) -> None:
    check_settings(Settings({"PARTI_TOKEN": Secret(token)}))


def test_scrapys_settings_command_does_not_show_the_token(scrapy: Scrapy) -> None:
    shown = scrapy("settings", "--get", "PARTI_TOKEN", env={"PARTI_TOKEN": TOKEN})
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "***\n", "")


def test_a_setting_that_is_no_number_of_seconds_is_a_usage_error(crawl: Run) -> None:
    run = crawl("recent", "-s", "PARTI_RETRY_PATIENCE=-1")
    assert run.code == 2
    assert run.stderr == (
        "setting `PARTI_RETRY_PATIENCE`: not a number of seconds: '-1' (accepted: such as 0.5 or 60)\n"
    )
