"""Crawls of several hosts, some of which are down for a while: they find a working host, and return to it."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from parti_scraper.mockserver import MockServer, Options
from tests.servers import GAMING, IMPATIENT, SMALL, Script, api_requests, closed_port, to
from tests.support import (
    CATEGORIES,
    TIMEOUT,
    Crawl,
    Run,
    RunningCrawl,
    Serve,
    environment_of,
    hold,
    is_noted,
    sorted_ids,
    true_ids,
    typed_of,
    wait_until,
)

DOWN = ("404", "500", "challenge", "reset")


def finished(running: RunningCrawl, output: Path, spider: str, run_id: str = "run") -> Crawl:
    """Return a crawl that has ended by itself."""
    stdout, stderr = running.process.communicate(timeout=TIMEOUT)
    return Crawl(running.process.wait(), stdout, stderr, output, spider, run_id)


# --- A host that is down for a while ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 5, 11])
def test_a_single_404_loses_neither_a_record_nor_the_host(crawl: Run, serve: Serve, number: int) -> None:
    first, second = serve(**SMALL, once_404=number), serve(**SMALL)
    run = crawl("recent", env=to(first.base_url, second.base_url))
    assert run.code == 0
    assert sorted_ids(run.rows) == true_ids(first)
    assert (run.package["failovers"], second.requests) == ([], [])


@pytest.mark.parametrize("down_as", DOWN)
@pytest.mark.parametrize("after", [0, 4])
def test_the_only_host_may_be_down_for_a_while_without_losing_a_record(
    crawl: Run, serve: Serve, down_as: str, after: int
) -> None:
    server = serve(**SMALL, down_after=after, down_for=0.5, down_as=down_as)
    run = crawl("recent", server=server)
    assert run.code == 0
    assert sorted_ids(run.rows) == true_ids(server)
    assert {seen.fault for seen in api_requests(server)} == {None, down_as}


@pytest.mark.parametrize("other", ["404", "refused", "500"])
@pytest.mark.parametrize("down_as", ["404", "500"])
def test_a_run_returns_to_its_first_host_if_the_others_are_useless(
    crawl: Run, serve: Serve, down_as: str, other: str
) -> None:
    first = serve(**SMALL, down_after=4, down_for=1, down_as=down_as)
    dead = {"404": {"gone": True}, "500": {"rate_500": 1.0, "fault_burst": 0}}
    others = [serve(**SMALL, **dead[other]).base_url if other in dead else closed_port() for _ in range(2)]
    # With the short waits for this machine, a request might be sent too often within the second.
    waits = {"PARTI_RETRY_PATIENCE": "20", "PARTI_RETRY_DELAY": "0.05"}
    run = crawl("recent", env=to(first.base_url, *others) | waits)
    assert run.code == 0, run.stderr
    assert sorted_ids(run.rows) == true_ids(first)
    assert run.package["host"] == first.base_url


def test_a_live_run_returns_to_a_host_that_refused_for_a_while(serve: Serve, output: Path) -> None:
    # Of a port that nobody else gets meanwhile.
    first, gone = closed_port(), serve(**SMALL, gone=True)
    port = int(first.rpartition(":")[2])
    env = environment_of(output, None, to(first, gone.base_url, closed_port()))
    with MockServer(Options(**SMALL), port=port) as server:
        running = RunningCrawl(typed_of("live", "run", {"interval": 0.2}, ()), env)
        wait_until(lambda: len(api_requests(server)) > 4)
    wait_until(lambda: len(api_requests(gone)) > 4)
    with MockServer(Options(**SMALL), port=port) as again:
        before = len(api_requests(gone))
        wait_until(lambda: len(api_requests(again)) > 20)
        assert running.stop() == 0, running.stderr
        assert len(api_requests(gone)) < before + 20
    run = Crawl(0, running.stdout, running.stderr, output, "live", "run")
    assert run.package["host"] == first
    # Each failover is logged once, however often it happens.
    assert run.stderr.count("continuing with") < 8


@pytest.mark.parametrize("down_as", ["404", "500"])
def test_a_live_run_returns_to_its_first_host_though_the_second_one_serves(
    serve: Serve, output: Path, down_as: str
) -> None:
    first, second = serve(**SMALL, down_after=6, down_for=1, down_as=down_as), serve(**SMALL)
    env = environment_of(output, None, to(first.base_url, second.base_url) | {"PARTI_RETRY_PATIENCE": "0.4"})
    running = RunningCrawl(typed_of("live", "run", {"interval": 0.2}, ()), env)
    wait_until(lambda: bool(api_requests(second)))
    wait_until(lambda: [seen.status for seen in api_requests(first)][-3:] == [200] * 3)
    came_back = len(api_requests(second))
    served = len(api_requests(first))
    wait_until(lambda: len(api_requests(first)) > served + 6)
    assert running.stop() == 0, running.stderr
    assert len(api_requests(second)) == came_back
    run = Crawl(0, running.stdout, running.stderr, output, "live", "run")
    assert [each["to"] for each in run.package["failovers"]] == [second.base_url, first.base_url]


def test_a_live_run_survives_the_death_of_all_hosts(serve: Serve, output: Path) -> None:
    first = serve(**SMALL, down_after=6, down_for=1.5, down_as="500")
    env = environment_of(output, None, to(first.base_url, closed_port()) | {"PARTI_RETRY_PATIENCE": "0.3"})
    running = RunningCrawl(typed_of("live", "run", {"interval": 0.2}, ()), env)
    wait_until(lambda: "Not complete: " in running.process.stderr)
    wait_until(lambda: {seen.status for seen in api_requests(first)[-16:]} == {200})
    assert running.stop() == 4
    run = Crawl(4, running.stdout, running.stderr, output, "live", "run")
    assert "gave up on " in run.package["reason"]
    # One for the whole patience, not one for each snapshot.
    assert run.stderr.count("Not complete: ") <= 6
    assert len({row["snapshot_id"] for row in run.rows}) > 2


# --- A host that is down for good ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"rate_challenge": 1.0}, "challenge page"),
        ({"rate_500": 1.0}, "HTTP 50"),
        ({"rate_429": 1.0}, "HTTP 429"),
        ({"rate_truncated": 1.0}, "answer"),
        ({"gone": True}, "HTTP 404"),
    ],
)
def test_a_useless_host_is_left_for_a_good_one(crawl: Run, serve: Serve, faults: dict[str, Any], reason: str) -> None:
    first, second = serve(**SMALL, fault_burst=0, **faults), serve(**SMALL)
    run = crawl("recent", env=IMPATIENT | to(first.base_url, second.base_url))
    assert run.code == 0
    assert sorted_ids(run.rows) == true_ids(second)
    (move,) = run.package["failovers"]
    assert (move["from"], move["to"]) == (first.base_url, second.base_url)
    assert move["reason"].startswith(reason)


def test_dead_hosts_are_asked_in_turn_and_not_overloaded(crawl: Run, serve: Serve) -> None:
    hosts = [serve(**SMALL, gone=True), serve(**SMALL, gone=True), serve(**SMALL, rate_500=1.0, fault_burst=0)]
    began = time.monotonic()
    run = crawl(
        "categories",
        "-s",
        "PARTI_RETRY_DELAY=0.3",
        env=to(closed_port(), *(host.base_url for host in hosts)) | {"PARTI_RETRY_PATIENCE": "2"},
    )
    assert run.code == 4
    assert time.monotonic() - began < 60
    for host in hosts:
        assert f"gave up on {host.base_url} after " in run.package["reason"]
        # Without waits there would be hundreds.
        assert 2 <= len(api_requests(host)) <= 25


# --- An empty result or a missing route ------------------------------------------------------------------------


@pytest.mark.parametrize("empty_as", ["list", "404", "204"])
@pytest.mark.parametrize(
    ("spider", "arguments"),
    [
        ("recent", {}),
        ("recent", {"sort": "views"}),
        ("recent", {"user_id": 999_999_999}),
        ("recent", {"since": "2021-08-04", "until": "2021-08-05"}),
        ("live", {}),
        ("live", {"categories": "NaN", "limit": 3}),
    ],
)
def test_an_empty_result_may_look_like_a_missing_route(
    crawl: Run, serve: Serve, spider: str, arguments: dict[str, Any], empty_as: str
) -> None:
    first, second = serve(**SMALL, empty_as=empty_as), serve(**SMALL)
    run = crawl(spider, env=to(first.base_url, second.base_url), **arguments)
    assert run.code == 0, run.stderr
    expected = len(true_ids(first)) if spider == "recent" else len(first.world.live_at())
    assert len(run.rows) == (0 if "user_id" in arguments or "since" in arguments else expected)
    assert (run.package["failovers"], second.requests) == ([], [])


def test_a_host_without_the_route_is_left_even_if_the_result_is_empty(crawl: Run, script: Script, serve: Serve) -> None:
    categories_only = script(lambda path: GAMING if path == CATEGORIES else (404, {}, b"<html>not here</html>"))
    server = serve(**SMALL, empty_as="404")
    run = crawl("recent", env=to(categories_only.base_url, server.base_url), user_id=999_999_999)
    assert run.code == 0
    assert run.rows == []
    assert run.package["host"] == server.base_url


# --- A run that resumes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spider", ["recent", "live"])
def test_a_run_that_resumes_asks_the_host_it_used_last(serve: Serve, output: Path, spider: str) -> None:
    gone, server = serve(**SMALL, gone=True), serve(**SMALL | {"events": 1_500}, latency=0.03)
    env = environment_of(output, None, to(gone.base_url, server.base_url))
    arguments = {"interval": 0.3, "duration": 600} if spider == "live" else {}
    typed = typed_of(spider, "run", arguments, ())
    reached = hold(server, 30)
    killed = RunningCrawl(typed, env)
    # There is a checkpoint after ten pages, or a snapshot.
    wait_until(lambda: reached.is_set() and is_noted(output, spider))
    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait(timeout=TIMEOUT)
    server.held = None
    asked, served = len(api_requests(gone)), len(api_requests(server))
    again = RunningCrawl(typed, env)
    wait_until(lambda: len(api_requests(server)) > served + 3)
    if spider == "recent":
        assert finished(again, output, spider).code == 0
        assert len(api_requests(gone)) == asked
        assert sorted_ids(Crawl(0, "", "", output, spider, "run").rows) == true_ids(server)
    else:
        assert again.stop() == 0
    moves = [(each["from"], each["reason"]) for each in Crawl(0, "", "", output, spider, "run").package["failovers"]]
    assert len(moves) == len(set(moves))
    assert moves.count((gone.base_url, "HTTP 404")) == 1
