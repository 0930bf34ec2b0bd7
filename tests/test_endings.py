"""Real crawls of lists that seem to end: they collect the whole list, or are not complete."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from parti_scraper.mockserver import MockServer
from tests.support import STILL, Run, Serve, sorted_ids

NUMBER = int(os.environ.get("PARTI_TEST_COMBINATIONS", "12"))
LARGE: dict[str, Any] = STILL | {"events": 3_000, "live": 250, "start_every": 0}


def expected(server: MockServer, spider: str) -> list[int]:
    """Return the livestreams that a spider should find."""
    records = server.world.live_at() if spider == "live" else server.world.recent_at()
    return sorted_ids(records)


HIDDEN: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("recent", {"hidden": 120}, {}),
    ("recent", {"hidden": 120, "hidden_at": 0.95}, {}),
    ("recent", {"hidden": 120, "hidden_at": 0}, {}),
    ("recent", {"hidden": 350, "time_filter": "start", "bounds": "open"}, {}),
    ("recent", {"hidden": 16, "page_cap": 15}, {}),
    ("recent", {"hidden": 120, "time_filter": "ignored", "ascending": "ignored"}, {}),
    ("recent", {"hidden": 120}, {"sort": "views"}),
    ("recent", {"hidden": 350, "hidden_at": 0}, {"sort": "views"}),
    ("recent", {"hidden": 120, "ascending": "refused"}, {"user_id": 0}),
    ("live", {"hidden": 14, "page_cap": 12}, {}),
    ("live", {"hidden": 30, "page_cap": 12, "hidden_at": 0.3}, {}),
    ("live", {"hidden": 120, "live": 400}, {}),
]


@pytest.mark.parametrize(("spider", "switches", "arguments"), HIDDEN, ids=str)
def test_records_below_a_hidden_stretch_are_found(
    spider: str, switches: dict[str, Any], arguments: dict[str, Any], crawl: Run, serve: Serve
) -> None:
    server = serve(**LARGE | switches)
    truth = expected(server, spider)
    if "user_id" in arguments:
        user_id = server.world.recent_at()[-1]["user_id"]
        arguments = {"user_id": user_id}
        truth = sorted(each["event_id"] for each in server.world.recent_at() if each["user_id"] == user_id)
    run = crawl(spider, server=server, **arguments)
    assert run.code == 0, run.stderr
    assert sorted_ids(run.rows) == truth


MOMENTS: list[tuple[str, dict[str, Any]]] = [
    ("recent", {"down_as": "empty", "down_after": 12, "down_for": 0.2}),
    ("recent", {"down_as": "empty", "down_after": 0, "down_for": 0.2}),
    ("recent", {"down_as": "empty", "down_after": 3, "down_for": 1}),
    ("recent", {"down_as": "short", "down_after": 12, "down_for": 0.2}),
    ("recent", {"down_as": "short", "down_after": 3, "down_for": 0.3}),
    ("recent", {"down_as": "short", "down_after": 33, "down_for": 0.1}),
    ("live", {"down_as": "empty", "down_after": 1, "down_for": 0.3}),
    ("live", {"down_as": "empty", "down_after": 2, "down_for": 0.3}),
    ("live", {"down_as": "short", "down_after": 1, "down_for": 0.1, "live": 40}),
    ("categories", {"down_as": "empty", "down_after": 0, "down_for": 0.3}),
]


@pytest.mark.parametrize(("spider", "switches"), MOMENTS, ids=str)
def test_a_short_time_of_empty_or_short_answers_loses_nothing(
    spider: str, switches: dict[str, Any], crawl: Run, serve: Serve
) -> None:
    server = serve(**LARGE | switches)
    run = crawl(spider, server=server)
    assert run.code == 0, run.stderr
    if spider == "categories":
        assert len(run.rows) == len(server.world.categories())
    else:
        assert sorted_ids(run.rows) == expected(server, spider)


@pytest.mark.parametrize(
    ("spider", "after", "reason"),
    [
        ("recent", 1, "the server answers with empty lists"),
        ("recent", 15, "the server answers with empty lists"),
        ("live", 1, "the server answers with empty lists"),
        ("live", 3, "the server answers with empty lists"),
        ("categories", 0, "the list of categories is empty"),
    ],
)
def test_empty_answers_that_last_do_not_prove_an_end(
    spider: str, after: int, reason: str, crawl: Run, serve: Serve
) -> None:
    server = serve(**LARGE, down_as="empty", down_after=after, down_for=600)
    run = crawl(spider, server=server, env={"PARTI_RETRY_PATIENCE": "1"})
    assert run.code == 4
    assert reason in run.stderr
    assert run.package["complete"] is False


@pytest.mark.parametrize("nulls", ["first", "last"])
@pytest.mark.parametrize("share", [0.002, 0.02, 0.1])
def test_records_without_an_end_are_written_once(share: float, nulls: str, crawl: Run, serve: Serve) -> None:
    server = serve(**LARGE | {"events": 1_500}, undated=share, nulls=nulls)
    run = crawl("recent", server=server)
    assert run.code == 0, run.stderr
    assert sorted_ids(run.rows) == expected(server, "recent")


def test_the_true_end_costs_few_requests(crawl: Run, serve: Serve) -> None:
    server = serve(**LARGE)
    # One request at a time: the number of repeated records depends on the order of the answers.
    one = ("-s", "CONCURRENT_REQUESTS_PER_DOMAIN=1")
    assert crawl("recent", *one, server=server).code == 0
    pages = [seen for seen in server.requests if seen.path.endswith("/recent")]
    # Pages that overlap, the site's own first request, and 15 for the end.
    assert len(pages) <= 3_000 / 98 + 6 + 15
    server = serve(**LARGE)
    since = server.world.recent_at()[500]["event_end_ts"]
    assert crawl("recent", server=server, run_id="new", since=since).code == 0
    assert len([seen for seen in server.requests if seen.path.endswith("/recent")]) <= 8


def test_a_server_that_fails_only_at_the_ascending_order_is_crawled(crawl: Run, serve: Serve) -> None:
    server = serve(**LARGE, ascending="failing")
    run = crawl("recent", server=server)
    assert run.code == 0, run.stderr
    assert sorted_ids(run.rows) == expected(server, "recent")
    assert len([seen for seen in server.requests if "sort_by_date_desc=false" in seen.query]) == 4


@pytest.mark.parametrize(("live", "most"), [(1, 5), (2, 5), (40, 4), (100, 4), (250, 10)])
def test_the_true_end_of_a_live_list_costs_two_requests(live: int, most: int, crawl: Run, serve: Serve) -> None:
    server = serve(**LARGE | {"live": live})
    run = crawl("live", server=server)
    assert run.code == 0, run.stderr
    assert sorted_ids(run.rows) == expected(server, "live")
    assert len([seen for seen in server.requests if seen.path.endswith("/live")]) <= most


def combinations(number: int) -> list[dict[str, Any]]:
    """Return so many combinations of switches, always the same ones."""
    by_chance = random.Random(5)

    def one() -> dict[str, Any]:
        moment = by_chance.choice([{}, {"down_as": "empty"}, {"down_as": "short"}])
        if moment:
            moment |= {"down_after": by_chance.randrange(30), "down_for": by_chance.choice([0.05, 0.2, 1, 600])}
        return {
            "seed": by_chance.randrange(1_000),
            "events": by_chance.choice([60, 400, 900]),
            "page_cap": by_chance.choice([12, 15, 40, 100]),
            "above_cap": by_chance.choice(["clamp", "ignore", "refuse"]),
            "time_filter": by_chance.choice(["end", "end", "start", "ignored"]),
            "bounds": by_chance.choice(["closed", "open", "half-open"]),
            "tie_order": by_chance.choice(["stable", "stable", "unstable"]),
            "ascending": by_chance.choice(["honored", "ignored", "refused"]),
            "hidden": by_chance.choice([0, 0, 5, 16, 60, 120]),
            "hidden_at": by_chance.choice([0.1, 0.4, 0.6]),
            "undated": by_chance.choice([0, 0, 0.01, 0.1]),
            "nulls": by_chance.choice(["first", "last"]),
            "malformed": by_chance.choice([0, 0, 0.02]),
            "empty_as": by_chance.choice(["list", "list", "404", "204", "null"]),
            "once_404": by_chance.choice([0, 0, 5]),
            **moment,
        }

    return [one() for _ in range(number)]


# PARTI_TEST_COMBINATIONS sets their number.
@pytest.mark.parametrize("switches", combinations(NUMBER), ids=lambda switches: str(switches["seed"]))
def test_a_run_is_complete_and_exact_or_says_that_it_is_not(switches: dict[str, Any], crawl: Run, serve: Serve) -> None:
    server = serve(**LARGE | {"live": 40} | switches)
    run = crawl("recent", server=server, env={"PARTI_RETRY_PATIENCE": "2"})
    assert run.code in {0, 4}, run.stderr
    rows = sorted_ids(run.rows)
    assert len(rows) == len(set(rows))
    truth = set(expected(server, "recent")) - server.world.malformed_ids
    assert set(rows) <= truth
    if run.package["complete"]:
        assert set(rows) == truth
    else:
        # Only lasting failures are a reason.
        assert switches.get("down_for") in {1, 600} or run.package["reason"]
