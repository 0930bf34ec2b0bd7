"""What a run has cost: retries and answers of 429 in the data package, over all sessions and none of them twice."""

from __future__ import annotations

import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from parti_scraper.network.traffic import Traffic
from tests.listening import STARTING
from tests.servers import SMALL, Script, api_requests, json_answer, to
from tests.support import (
    NOW,
    QUIET,
    STILL,
    Run,
    Serve,
    environment_of,
    interrupted,
    sorted_ids,
    true_ids,
    typed_of,
)

LOUD = ("--loglevel", "DEBUG")
TROUBLE: dict[str, Any] = STILL | {"rate_429": 0.2, "rate_500": 0.2, "fault_burst": 0, "page_cap": 10}


def counted(log: str) -> Counter[str]:
    """Return the counts of one session, by its stats."""
    stats = {"retries": "count", "rate_limited": "rate_limited"}
    return Counter(
        {key: int(number) for key, stat in stats.items() for number in re.findall(rf"'parti/retry/{stat}': (\d+)", log)}
    )


def test_counts_go_on_from_those_of_the_session_before() -> None:
    before, after = Traffic(), Traffic()
    for status in (200, 429, 503, 429):
        assert before.answered(status) is (status == 429)
    before.retried()
    after.restore(before.as_json())
    after.answered(429)
    after.retried()
    assert after.as_json() == {"retries": 2, "rate_limited": 3}
    # Earlier versions counted nothing.
    after.restore({})
    assert after.as_json() == {"retries": 0, "rate_limited": 0}


def test_a_server_in_trouble_shows_in_the_data_package(crawl: Run, serve: Serve) -> None:
    server = serve(**SMALL | TROUBLE)
    run = crawl("recent", *LOUD, server=server)
    assert run.code == 0
    faults = [seen.status for seen in api_requests(server) if seen.fault]
    assert run.package["rate_limited"] == faults.count(429) > 0
    # Some requests are not worth another try.
    assert len(faults) / 2 < run.package["retries"] <= len(faults)
    assert counted(run.stderr) == {"retries": run.package["retries"], "rate_limited": run.package["rate_limited"]}


def test_a_server_that_is_well_costs_none(crawl: Run, serve: Serve) -> None:
    package = crawl("recent", *QUIET, server=serve(**SMALL)).package
    assert (package["retries"], package["rate_limited"]) == (0, 0)


def test_a_run_that_is_stopped_twice_counts_each_once(crawl: Run, serve: Serve, output: Path) -> None:
    server = serve(**TROUBLE, latency=0.02)
    total: Counter[str] = Counter()
    for number in (1, 2):
        typed = typed_of("recent", "run", {"until": NOW}, LOUD)
        running = interrupted(server, 19, typed, environment_of(output, server), signal.SIGINT)
        assert running.code == 3, number
        assert counted(running.stderr)["retries"]
        total += counted(running.stderr)
    run = crawl("recent", *LOUD, server=server)
    assert run.code == 0
    total += counted(run.stderr)
    assert sorted_ids(run.rows) == true_ids(server)
    statuses = [seen.status for seen in api_requests(server)]
    assert run.package["rate_limited"] == statuses.count(429)
    assert run.package["retries"] == total["retries"]


def test_a_handshake_that_is_answered_with_429_counts_too(crawl: Run, serve: Serve) -> None:
    server = serve(**STARTING, ws_refused=1.0)
    run = crawl("notifications", *QUIET, server=server, duration="8s")
    assert run.code == 4
    assert run.package["rate_limited"] == sum(seen.status == 429 for seen in server.requests) > 0


def test_so_does_a_robots_txt(crawl: Run, serve: Serve, script: Script) -> None:
    gaming = [{"category_id": 7, "name": "Gaming", "display_name": "Gaming"}]
    server = script(lambda path: json_answer(gaming, 429 if path == "/robots.txt" else 200))
    run = crawl("categories", *QUIET, env=to(server.base_url))
    assert (run.code, run.package["rate_limited"], run.package["retries"]) == (0, 1, 0)
