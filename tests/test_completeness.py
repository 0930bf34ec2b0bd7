"""Real crawls for each reading of the API: they write the same livestreams, with few requests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import STILL, Run, Serve, ids, requests

MANY: dict[str, Any] = STILL | {"events": 1_500}

READINGS: list[dict[str, Any]] = [
    {"page_cap": 15},
    {"page_cap": 50, "above_cap": "ignore"},
    {"page_cap": 15, "above_cap": "refuse"},
    {"page_cap": 50, "offset": "ignored"},
    {"page_cap": 50, "time_filter": "start", "bounds": "open"},
    {"page_cap": 50, "time_filter": "ignored"},
    {"page_cap": 15, "bounds": "half-open", "tie_order": "unstable", "ties": 0.3},
    {"page_cap": 15, "insert_every": 3, "delete_every": 3},
    {"page_cap": 50, "time_filter": "ignored", "insert_every": 3, "delete_every": 3},
    {"page_cap": 1, "events": 300},
]


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: "-".join(map(str, reading.values())))
def test_each_reading_of_the_api_gives_the_same_livestreams(reading: dict[str, Any], crawl: Run, serve: Serve) -> None:
    server = serve(**{**MANY, **reading})
    run = crawl("recent", server=server)
    assert run.code == 0, run.stderr
    found = ids(run.rows)
    assert len(found) == len(set(found))
    assert set(server.world.existed_throughout()) <= set(found)
    records = reading.get("events", 1_500)
    assert len(requests(server)) <= 1.3 * records / reading["page_cap"] + 30


@pytest.mark.parametrize(
    "reading", [{}, {"time_filter": "start", "bounds": "open"}, {"time_filter": "ignored"}], ids=str
)
def test_since_and_until_are_applied_exactly(reading: dict[str, Any], crawl: Run, serve: Serve) -> None:
    server = serve(**{**MANY, **reading})
    truth = sorted(server.world.recent_at(), key=lambda record: record["event_end_ts"])
    since, until = truth[400]["event_end_ts"], truth[900]["event_end_ts"]
    run = crawl("recent", server=server, since=since, until=until)
    assert run.code == 0
    expected = [record["event_id"] for record in truth if since <= record["event_end_ts"] <= until]
    assert sorted(ids(run.rows)) == sorted(expected)


@pytest.mark.parametrize("reading", ["or", "last", "ignored"])
def test_several_categories_are_complete_for_every_reading_of_the_parameter(
    reading: str, crawl: Run, serve: Serve
) -> None:
    server = serve(**MANY, categories=reading)
    by_name = {record["category_id"]: record["name"] for record in server.world.categories()}
    run = crawl("recent", server=server, categories="7,10")
    assert run.code == 0
    wanted = {by_name[7], by_name[10]}
    expected = [each["event_id"] for each in server.world.recent_at() if each["category_name"] in wanted]
    assert sorted(ids(run.rows)) == sorted(expected)
    assert ("does not filter by `categories`" in run.stderr) == (reading == "ignored")
    assert any("categories=7&categories=10" not in query for query in requests(server)) == (reading == "last")


def test_only_one_channel_is_written_though_the_server_ignores_the_filter(crawl: Run, serve: Serve) -> None:
    server = serve(**MANY, user_filter="ignored")
    user_id = server.world.recent_at()[0]["user_id"]
    run = crawl("recent", server=server, user_id=user_id)
    assert run.code == 0
    expected = [each["event_id"] for each in server.world.recent_at() if each["user_id"] == user_id]
    assert sorted(ids(run.rows)) == sorted(expected)
    assert "does not filter by `user_id`" in run.stderr


@pytest.mark.parametrize("page_cap", [7, 100])
def test_a_snapshot_has_each_live_channel_once(page_cap: int, crawl: Run, serve: Serve) -> None:
    server = serve(**MANY, page_cap=page_cap, tie_order="unstable")
    run = crawl("live", server=server)
    assert run.code == 0
    users = [row["user_id"] for row in run.rows]
    assert sorted(users) == sorted(record["user_id"] for record in server.world.live_at())
