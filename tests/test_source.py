"""Where data come from: a mock is known by its address or by what it says, and made-up and real data never mix."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from parti_scraper.exceptions import UsageError
from parti_scraper.mockserver import MockServer
from parti_scraper.mockserver.app import SOURCE_HEADER
from parti_scraper.network.source import HEADER, MOCK, Source, says_so
from tests.listening import STARTING
from tests.mockserver.client import get
from tests.relay import relay
from tests.servers import GAMING, SMALL, UNTHROTTLED, Answer, Script, elsewhere, to
from tests.support import (
    NOW,
    QUIET,
    STILL,
    Run,
    Serve,
    environment_of,
    ids,
    interrupted,
    needs_chromium,
    sorted_ids,
    true_ids,
    typed_of,
)

A, B, HERE = "https://a.example", "https://b.example", "http://127.0.0.1:9"
MADE_UP = (f"{B}/x?token=s3cret", True, True)
DATA = (f"{A}/x", False, True)
NOTHING = (f"{A}/x", False, False)


def test_mock_server_and_collector_mean_the_same_header() -> None:
    assert (HEADER, MOCK) == SOURCE_HEADER


@pytest.mark.parametrize(
    ("headers", "is_mock"),
    [
        ({"X-Parti-Source": "mock"}, True),
        ({"x-parti-source": " Mock "}, True),
        ({"X-Parti-Source": ""}, False),
        ({"X-Parti-Source": "parti.com"}, False),
        ({"X-Other": "mock"}, False),
        ({}, False),
    ],
)
def test_a_mock_is_known_by_its_header_in_whatever_case(headers: dict[str, str], is_mock: bool) -> None:
    assert says_so(headers) is is_mock


@pytest.mark.parametrize(
    ("is_here", "answers", "name", "mixed"),
    [
        (False, [], "parti.com", ""),
        (True, [], "mock", ""),
        (False, [NOTHING, DATA], "parti.com", ""),
        (False, [MADE_UP, MADE_UP], "mock", ""),
        (False, [(f"{A}/x", True, False)], "mock", ""),
        (False, [(f"{HERE}/x", False, False)], "mock", ""),
        # Anything between here and a mock may answer for it.
        (False, [NOTHING, MADE_UP, NOTHING], "mock", ""),
        (True, [(f"{HERE}/x", False, True)], "mock", ""),
        (
            False,
            [DATA, MADE_UP, DATA],
            "parti.com",
            f"{B} serves made-up data, and what the run has is real, from {A}: the two must not be mixed",
        ),
        (
            False,
            [MADE_UP, DATA],
            "mock",
            f"{A} serves real data, and what the run has is made up, from {B}: the two must not be mixed",
        ),
        (
            False,
            [DATA, (f"{HERE}/x", False, False)],
            "parti.com",
            f"{HERE} serves made-up data, and what the run has is real, from {A}: the two must not be mixed",
        ),
        (
            True,
            [DATA],
            "mock",
            f"{A} serves real data, and what the run has is made up, from this machine: the two must not be mixed",
        ),
    ],
)
def test_what_the_answers_show(is_here: bool, answers: list[tuple[str, bool, bool]], name: str, mixed: str) -> None:
    source = Source(is_here=is_here)
    taken = [source.takes(url, says_mock=says_mock, has_data=has_data) for url, says_mock, has_data in answers]
    assert (source.name, source.mixed) == (name, mixed)
    assert all(taken) is not bool(mixed)


def test_what_is_known_survives_the_process() -> None:
    before = Source()
    before.takes(f"{A}/x", says_mock=False, has_data=True)
    after = Source()
    after.restore(before.as_json(), [])
    assert not after.takes(f"{B}/x", says_mock=True, has_data=False)
    assert A in after.mixed


@pytest.mark.parametrize(("served", "name"), [([A], "parti.com"), ([HERE], "mock"), ([], "mock")])
def test_of_a_run_of_an_earlier_version_the_hosts_tell(served: list[str], name: str) -> None:
    source = Source()
    source.restore(None, served)
    assert source.takes(f"{B}/x", says_mock=True, has_data=True) is (name == "mock")
    assert source.name == name


def test_real_data_are_not_gone_on_with_on_this_machine() -> None:
    with pytest.raises(UsageError, match=r"real, from https://a\.example"):
        Source(is_here=True).restore({"kind": "parti.com", "host": A}, [])


# --- What the mock server says -----------------------------------------------------------------------------


LIVE_ROUTE = "/parti_v2/profile/get_livestream_channel_info/live"


@pytest.mark.parametrize(
    ("options", "method", "path"),
    [
        ({}, "GET", "/parti_v2/profile/livestream_calendar/events/categories"),
        ({}, "GET", LIVE_ROUTE),
        ({}, "GET", f"{LIVE_ROUTE}?limit=x"),
        ({}, "OPTIONS", LIVE_ROUTE),
        ({}, "POST", LIVE_ROUTE),
        ({}, "GET", "/robots.txt"),
        ({}, "GET", "/categories"),
        ({}, "GET", "/worker.js"),
        ({}, "GET", "/there-is-none"),
        ({"rate_404": 1.0}, "GET", LIVE_ROUTE),
        ({"rate_429": 1.0}, "GET", LIVE_ROUTE),
        ({"rate_500": 1.0}, "GET", LIVE_ROUTE),
        ({"rate_challenge": 1.0}, "GET", LIVE_ROUTE),
        # Their bodies cannot be read.
        ({"rate_truncated": 1.0}, "HEAD", LIVE_ROUTE),
        ({"rate_reset": 1.0}, "HEAD", LIVE_ROUTE),
        ({"gone": True}, "GET", LIVE_ROUTE),
        ({"token": "t"}, "GET", LIVE_ROUTE),
        ({"browser_only": True}, "GET", "/"),
    ],
)
def test_every_answer_of_the_mock_server_says_so(serve: Serve, options: dict[str, Any], method: str, path: str) -> None:
    assert get(serve(**STILL, **options), path, method=method).headers[HEADER.lower()] == MOCK


@pytest.mark.parametrize("refused", [0.0, 1.0])
def test_so_does_the_handshake_of_its_websocket(serve: Serve, refused: float) -> None:
    keys = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13"}
    server = serve(**STILL, ws_refused=refused)
    answer = get(server, "/", **keys, Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==")
    assert (answer.status == 101) is not bool(refused)
    assert answer.headers[HEADER.lower()] == MOCK


# --- Crawls ------------------------------------------------------------------------------------------------


def stand_in(script: Script, server: MockServer, says_mock: Callable[[str], bool]) -> str:
    """Return the address of a server that passes on what the mock server answers, which it may not say.

    Args:
        script: starts it.
        server: the mock server.
        says_mock: tells for path and query of a request whether the answer says that it is made up.
    """

    def answer(path: str) -> Answer:
        found = get(server, path)
        passed = ("content-type", "access-control-allow-origin", "access-control-allow-headers")
        kept = {name: found.headers.get(name, "") for name in passed}
        return found.status, kept | ({HEADER: MOCK} if says_mock(path) else {}), found.body

    return elsewhere(script(answer).base_url)


@pytest.mark.parametrize("spider", ["categories", "recent", "live", "scheduled"])
def test_data_of_a_server_on_this_machine_are_made_up(crawl: Run, serve: Serve, spider: str) -> None:
    assert crawl(spider, *QUIET, server=serve(**STILL)).package["source"] == "mock"


def test_an_address_on_this_machine_is_enough(crawl: Run, script: Script) -> None:
    silent = script(lambda _path: GAMING)
    assert crawl("categories", *QUIET, env=to(silent.base_url)).package["source"] == "mock"


def test_a_mock_elsewhere_says_so_and_what_does_not_is_real(crawl: Run, serve: Serve, script: Script) -> None:
    server = serve(**SMALL)
    found = crawl("recent", *UNTHROTTLED, env=to(elsewhere(server.base_url)))
    assert (found.code, found.package["source"]) == (0, "mock")
    real = stand_in(script, server, lambda _path: False)
    found = crawl("recent", *UNTHROTTLED, env=to(real), run_id="real")
    assert (found.code, found.package["source"]) == (0, "parti.com")


def test_a_mock_behind_a_proxy_says_so_and_so_does_its_websocket(crawl: Run, serve: Serve) -> None:
    server = serve(**STARTING)
    with relay(urlsplit(server.ws_url).port or 0) as proxy:
        env = {"PARTI_WS_URL": "ws://two.parti.test/", "HTTP_PROXY": f"http://127.0.0.1:{proxy.port}"}
        api = {"PARTI_API_BASE_URLS": "http://api.parti.test"}
        run = crawl("notifications", *QUIET, *UNTHROTTLED, env=env | api, max_records=3)
    assert (run.code, run.package["source"]) == (0, "mock"), run.stderr


def test_a_host_that_turns_out_to_be_a_mock_ends_the_run_and_it_goes_on_with_the_real_one(
    crawl: Run, serve: Serve, script: Script
) -> None:
    server = serve(**SMALL)
    pages = 0

    def turns_out(path: str) -> bool:
        nonlocal pages
        pages += "/recent?" in path
        return pages > 5

    host = stand_in(script, server, turns_out)
    stopped = crawl("recent", *UNTHROTTLED, env=to(host))
    assert stopped.code == 3
    line = f"{host} serves made-up data, and what the run has is real, from {host}: the two must not be mixed"
    assert stopped.stderr.count(line) == 1
    assert "Traceback" not in stopped.stderr
    assert not (stopped.folder / "datapackage.json").exists()
    assert 0 < len(stopped.rows) == len(stopped.csv_rows) <= 75
    real = stand_in(script, server, lambda _path: False)
    run = crawl("recent", *UNTHROTTLED, env=to(real))
    assert (run.code, run.package["source"]) == (0, "parti.com")
    assert sorted_ids(run.rows) == true_ids(server)
    assert ids(run.rows)[: len(stopped.rows)] == ids(stopped.rows)


def test_real_data_do_not_follow_made_up_data_after_a_failover(crawl: Run, serve: Serve, script: Script) -> None:
    server = serve(**SMALL, down_after=4, down_for=60, down_as="404")
    real = stand_in(script, serve(**SMALL), lambda _path: False)
    host = elsewhere(server.base_url)
    run = crawl("recent", *UNTHROTTLED, env=to(host, real))
    assert run.code == 3
    assert f"{real} serves real data, and what the run has is made up, from {host}: " in run.stderr
    assert set(ids(run.rows)) <= set(true_ids(server))


def test_made_up_data_do_not_follow_real_data_after_one(crawl: Run, serve: Serve, script: Script) -> None:
    world = serve(**SMALL, down_after=4, down_for=60, down_as="404")
    real, mock = stand_in(script, world, lambda _path: False), serve(**SMALL)
    run = crawl("recent", *UNTHROTTLED, env=to(real, elsewhere(mock.base_url)))
    assert run.code == 3
    line = f"{elsewhere(mock.base_url)} serves made-up data, and what the run has is real, from {real}: "
    assert run.stderr.count(line) == 1
    assert "Traceback" not in run.stderr
    # Its robots.txt says enough.
    assert [seen.path for seen in mock.requests] == ["/robots.txt"]


def test_a_redirect_says_so_too(crawl: Run, script: Script) -> None:
    real = elsewhere(script(lambda _path: GAMING).base_url)
    leads_on = script(lambda path: (302, {HEADER: MOCK, "Location": f"{real}{path}"}, b""))
    run = crawl("categories", *UNTHROTTLED, "-s", "ROBOTSTXT_OBEY=False", env=to(elsewhere(leads_on.base_url)))
    assert run.code == 3
    assert (
        f"{real} serves real data, and what the run has is made up, from {elsewhere(leads_on.base_url)}: " in run.stderr
    )
    assert run.rows == []


def test_a_websocket_that_is_a_mock_is_not_listened_to_beside_a_real_api(
    crawl: Run, serve: Serve, script: Script
) -> None:
    server = serve(**STARTING)
    real = stand_in(script, serve(**STILL), lambda _path: False)
    env = to(real) | {"PARTI_WS_URL": elsewhere(server.ws_url)}
    run = crawl("notifications", *UNTHROTTLED, env=env, duration="60s")
    assert run.code == 3
    assert " serves made-up data, and what the run has is real, " in run.stderr
    assert "Traceback" not in run.stderr
    assert run.rows == []


def test_a_run_with_real_data_is_not_gone_on_with_on_this_machine(
    crawl: Run, serve: Serve, script: Script, output: Path
) -> None:
    server = serve(**STILL, page_cap=10, latency=0.02)
    real = stand_in(script, server, lambda _path: False)
    typed = typed_of("recent", "run", {"until": NOW}, UNTHROTTLED)
    assert interrupted(server, 14, typed, environment_of(output, None, to(real)), signal.SIGINT).code == 3
    before = {path.name: path.read_bytes() for path in (output / "recent/run").iterdir()}
    refused = crawl("recent", server=server)
    assert refused.code == 2
    assert refused.stderr.splitlines()[-1].startswith(
        f"setting `PARTI_API_BASE_URLS`: on this machine, where the data that the run has are real, from {real}: "
    )
    assert {path.name: path.read_bytes() for path in refused.folder.iterdir()} == before
    assert all(before.values())
    run = crawl("recent", *UNTHROTTLED, env=to(real))
    assert (run.code, run.package["source"]) == (0, "parti.com")
    assert sorted_ids(run.rows) == true_ids(server)


@needs_chromium
@pytest.mark.parametrize("spider", ["categories", "site"])
def test_what_a_browser_brings_says_so_too(crawl: Run, serve: Serve, spider: str) -> None:
    server = serve(**STILL)
    # A name that the browser alone takes for this machine.
    host = server.base_url.replace("127.0.0.1", "mock.localhost")
    env = {"PARTI_API_BASE_URLS": host, "PARTI_SITE_URL": host}
    run = crawl(spider, *QUIET, *UNTHROTTLED, "-s", "PARTI_TRANSPORT=browser", "-s", "ROBOTSTXT_OBEY=False", env=env)
    assert (run.code, run.package["source"]) == (0, "mock"), run.stderr


@needs_chromium
def test_a_page_of_a_mock_is_no_place_to_ask_the_real_api_from(crawl: Run, serve: Serve, script: Script) -> None:
    server = serve(**STILL)
    site = server.base_url.replace("127.0.0.1", "mock.localhost")
    real = stand_in(script, server, lambda _path: False).replace("0.0.0.0", "real.localhost")  # noqa: S104
    env = {"PARTI_API_BASE_URLS": real, "PARTI_SITE_URL": site}
    options = (*UNTHROTTLED, "-s", "PARTI_TRANSPORT=browser", "-s", "ROBOTSTXT_OBEY=False")
    run = crawl("categories", *options, env=env)
    assert run.code == 3
    assert f"{real} serves real data, and what the run has is made up, from {site}: " in run.stderr
    assert run.rows == []
