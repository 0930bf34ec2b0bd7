"""What a run that listens reports of bad connections, servers that refuse all, several addresses and proxies."""

from __future__ import annotations

import csv
import re
import signal
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.listening import STARTING, Listening, ended, handshakes, heard_ids, live, settle, started
from tests.relay import relay
from tests.support import QUIET, TIMEOUT, Run, Scrapy, Serve, wait_until

MEBIBYTE = 1024 * 1024


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("error", "no connection was of use, the last one: unauthorized"),
        ("silence", "no connection was of use, the last one: unauthorized"),
        ("close", "no connection was of use, the last one: closed by the server"),
    ],
)
def test_a_server_that_refuses_all_is_reported_and_the_live_route_asked(
    serve: Serve, output: Path, answer: str, words: str
) -> None:
    server = serve(**STARTING, ws_answer=answer)
    running = Listening(output, server, "-s", "PARTI_RETRY_DELAY=0.5")
    wait_until(lambda: len(handshakes(server)) > 2 and live(server) <= heard_ids(output))
    assert running.stop(signal.SIGTERM) == 4
    run = ended(output)
    assert run.package["complete"] is False
    assert words in run.package["reason"]
    assert {row["event_id"] for row in run.rows} == live(server)
    # Waits from one second on, doubled each time, are few.
    assert len(handshakes(server)) < 15


def test_a_silent_server_is_accepted_and_the_live_route_asked_again(serve: Serve, output: Path) -> None:
    server = serve(**STARTING, ws_deaf_after=0.001)
    running = Listening(output, server, duration="10s")
    settle(server, running)
    server.world.advance(30)
    stdout, stderr = running.process.communicate(timeout=TIMEOUT)
    assert (running.process.returncode, stdout) == (0, ""), stderr
    rows = ended(output).rows
    assert started(server) <= {row["event_id"] for row in rows}
    assert {row["source"] for row in rows} == {"live"}


def test_a_server_that_does_not_notify_of_live_channels_is_not_trusted(serve: Serve, output: Path) -> None:
    server = serve(**STARTING, ws_deaf_after=0.001)
    running = Listening(output, server, "-s", "PARTI_WS_IDLE_TIMEOUT=3")
    settle(server, running)
    server.world.advance(30)
    wait_until(lambda: len(re.findall("route added [1-9]", running.log.read_text(encoding="utf-8"))) == 2)
    assert running.stop(signal.SIGTERM) == 4
    assert "channels went live without a notification while it was connected" in running.stderr


def test_a_dead_connection_is_noticed_within_the_idle_time_out(serve: Serve, output: Path) -> None:
    server = serve(**STARTING)
    with relay(urlsplit(server.ws_url).port or 0) as line:
        env = {"PARTI_WS_URL": f"ws://127.0.0.1:{line.port}/"}
        # Long enough to be frozen before the silence since it has settled ends the connection.
        running = Listening(output, server, "-s", "PARTI_WS_IDLE_TIMEOUT=3", env=env)
        settle(server, running)
        line.frozen = True
        server.world.advance(30)
        wait_until(lambda: "No notification for 3 s" in running.log.read_text(encoding="utf-8"))
        # Longer than it may take to connect again.
        over = time.monotonic() + 4
        wait_until(lambda: time.monotonic() > over)
        assert running.stop(signal.SIGTERM) == 4
    assert re.search("not connected from 20.*: nothing was heard for 3 s\n", running.stderr)


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_server_that_pings_without_end_and_does_not_close_is_left_in_time(
    serve: Serve, output: Path, is_stopped: bool
) -> None:
    server = serve(**STARTING, ws_answer="pings")
    running = Listening(output, server, **({} if is_stopped else {"duration": "10s"}))
    settle(server, running)
    before = time.monotonic()
    if is_stopped:
        running.process.send_signal(signal.SIGTERM)
    stdout, stderr = running.process.communicate(timeout=TIMEOUT)
    assert (running.process.returncode, stdout) == (0, ""), stderr
    assert time.monotonic() - before < 40


def test_a_signal_ends_it_at_once_in_any_state_of_the_connection(serve: Serve, output: Path) -> None:
    server = serve(**STARTING)
    with relay(urlsplit(server.ws_url).port or 0) as line:
        line.frozen = True
        running = Listening(output, server, env={"PARTI_WS_URL": f"ws://127.0.0.1:{line.port}/"})
        wait_until(lambda: bool(line.asked))
        before = time.monotonic()
        assert running.stop(signal.SIGTERM) == 4
        assert time.monotonic() - before < 30
    assert "could not connect to ws://127.0.0.1" in running.stderr


def test_a_run_that_is_stopped_before_it_listens_is_not_complete(serve: Serve, output: Path) -> None:
    running = Listening(output, serve(**STARTING, latency=600))
    wait_until(lambda: "Spider opened" in running.log.read_text(encoding="utf-8"))
    # 3 if the signal was sent before the first request.
    assert running.stop(signal.SIGTERM) in {3, 4}
    assert not (output / "notifications/run/datapackage.json").exists() or not ended(output).package["complete"]


@pytest.mark.parametrize(("size", "is_taken"), [(16 * MEBIBYTE, True), (16 * MEBIBYTE + 1, False)])
def test_a_message_of_up_to_16_mib_is_accepted_and_only_a_larger_one_is_lost(
    serve: Serve, output: Path, size: int, is_taken: bool
) -> None:
    server = serve(**STARTING, ws_padding=size)
    running = Listening(output, server)
    settle(server, running)
    server.world.advance(30)
    wait_until(lambda: started(server) <= heard_ids(output))
    settle(server, running)
    assert running.stop() == 0
    csv.field_size_limit(32 * MEBIBYTE)
    run = ended(output)
    (padded,) = [row for row in run.rows if row["event_id"] == server.notifications[0].event_id]
    assert (padded["source"], "padding" in padded["extra"]) == (("websocket", True) if is_taken else ("live", False))
    if not is_taken:
        (record,) = run.quarantine
        assert record["reason"] == "a message larger than 16777216 bytes"
    assert len(handshakes(server)) == (1 if is_taken else 2)


def test_the_next_address_is_used_and_remembered_if_one_fails(serve: Serve, output: Path) -> None:
    server = serve(**STARTING)
    env = {"PARTI_WS_URL": f"ws://127.0.0.1:9/ws?token=t0p, {server.ws_url}"}
    for signal_number in (signal.SIGKILL, signal.SIGTERM):
        running = Listening(output, server, env=env)
        settle(server, running)
        wait_until(lambda: live(server) <= heard_ids(output))
        running.stop(signal_number)
    package = ended(output).package
    assert (package["complete"], package["websocket"]) == (True, server.ws_url)
    (failover,) = package["failovers"]
    assert (failover["from"], failover["to"]) == ("ws://127.0.0.1:9/ws", server.ws_url)
    assert failover["reason"] == "connection refused"


# --- Settings ----------------------------------------------------------------------------------------------

MOCK, REAL = "http://127.0.0.1:9", "https://api.parti.test"


@pytest.mark.parametrize(
    ("spider", "env", "line"),
    [
        (
            "notifications",
            {"PARTI_WS_URL": ""},
            (
                "setting `PARTI_WS_URL`: elsewhere, where PARTI_API_BASE_URLS is on this machine: "
                "'wss://ws-backend.parti.com/,wss://ws.parti.com/ws' "
                "(accepted: both on this machine, or both elsewhere; set PARTI_WS_URL or PARTI_API_BASE_URLS)"
            ),
        ),
        (
            "notifications",
            {"PARTI_API_BASE_URLS": REAL},
            (
                "setting `PARTI_WS_URL`: on this machine, where PARTI_API_BASE_URLS is elsewhere: 'ws://127.0.0.1:9/' "
                "(accepted: both on this machine, or both elsewhere; set PARTI_WS_URL or PARTI_API_BASE_URLS)"
            ),
        ),
        (
            "site",
            {"PARTI_SITE_URL": ""},
            (
                "setting `PARTI_SITE_URL`: elsewhere, where PARTI_API_BASE_URLS is on this machine: "
                "'https://parti.com' "
                "(accepted: both on this machine, or both elsewhere; set PARTI_SITE_URL or PARTI_API_BASE_URLS)"
            ),
        ),
        (
            "live",
            {"PARTI_SITE_URL": "http://localhost:9", "PARTI_API_BASE_URLS": REAL, "PARTI_TRANSPORT": "browser"},
            (
                "setting `PARTI_SITE_URL`: on this machine, where PARTI_API_BASE_URLS is elsewhere: "
                "'http://localhost:9' "
                "(accepted: both on this machine, or both elsewhere; set PARTI_SITE_URL or PARTI_API_BASE_URLS)"
            ),
        ),
        (
            "categories",
            {"PARTI_API_BASE_URLS": f"{MOCK},{REAL}"},
            (
                f"setting `PARTI_API_BASE_URLS`: some on this machine, others elsewhere: '{MOCK},{REAL}' "
                "(accepted: all on this machine, or all elsewhere)"
            ),
        ),
        (
            "notifications",
            {"PARTI_WS_URL": "wss://ws.parti.test/,ws://127.0.0.1:9/"},
            (
                "setting `PARTI_WS_URL`: some on this machine, others elsewhere: "
                "'wss://ws.parti.test/,ws://127.0.0.1:9/' (accepted: all on this machine, or all elsewhere)"
            ),
        ),
        (
            "notifications",
            {"PARTI_WS_URL": "ws://127.0.0.1:9/,nonsense"},
            (
                "setting `PARTI_WS_URL`: not the address of a WebSocket: 'nonsense' "
                "(accepted: comma-separated, such as wss://ws-backend.parti.com/)"
            ),
        ),
    ],
)
def test_made_up_and_real_servers_are_not_mixed(
    scrapy: Scrapy, output: Path, spider: str, env: dict[str, str], line: str
) -> None:
    run = scrapy("crawl", spider, env=env)
    assert (run.returncode, run.stdout, run.stderr) == (2, "", line + "\n")
    assert not output.exists()


def test_a_spider_that_uses_only_the_api_ignores_the_other_addresses(serve: Serve, crawl: Run) -> None:
    env = {"PARTI_WS_URL": "", "PARTI_SITE_URL": ""}
    assert crawl("categories", *QUIET, server=serve(**STARTING), env=env).code == 0


# --- Proxies -----------------------------------------------------------------------------------------------


def test_the_proxies_of_the_environment_are_used_for_the_websocket_too(serve: Serve, crawl: Run) -> None:
    server = serve(**STARTING)
    with relay(urlsplit(server.ws_url).port or 0) as proxy:
        env = {
            "PARTI_API_BASE_URLS": "http://api.parti.test",
            # The server behind the tunnel has no TLS, so the next address is used.
            "PARTI_WS_URL": "wss://one.parti.test/,ws://two.parti.test/",
            "HTTP_PROXY": f"http://127.0.0.1:{proxy.port}",
            "https_proxy": f"127.0.0.1:{proxy.port}",
        }
        run = crawl("notifications", *QUIET, env=env, max_records=3)
    assert run.code == 0, run.stderr
    assert "CONNECT one.parti.test:443 HTTP/1.1" in proxy.asked
    assert "GET ws://two.parti.test/ HTTP/1.1" in proxy.asked
    assert len(handshakes(server)) == 1


def test_a_proxy_that_refuses_is_named_without_its_password(serve: Serve, crawl: Run) -> None:
    server = serve(**STARTING)
    # A mock server refuses to be a proxy.
    env = {
        "PARTI_API_BASE_URLS": "http://api.parti.test",
        "PARTI_WS_URL": "wss://one.parti.test/",
        "HTTP_PROXY": server.base_url,
        "HTTPS_PROXY": server.base_url.replace("//", "//me:s3cret@"),
    }
    run = crawl("notifications", *QUIET, env=env, duration="8s")
    assert run.code == 4
    assert re.search(r"could not connect to wss://one\.parti\.test/: HTTP 4\d\d from the proxy", run.stderr)
    assert "s3cret" not in run.stderr + run.package["reason"]
