"""The spider `scheduled` as real crawls of the mock server, its files compared with the ground truth."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from parti_scraper.mockserver import MockServer
from parti_scraper.mockserver.malformed import malformation
from parti_scraper.plan.page_size import PageSize
from parti_scraper.plan.passes import Passes
from parti_scraper.plan.plan import Key, Page
from tests import expected, forked
from tests.servers import GAMING, IMPATIENT, Answer, Script, json_answer, to
from tests.support import STILL, Run, Serve, environment_of, ids, paths, requests, sorted_ids, typed_of, wait_until

# In several pages.
MANY: dict[str, Any] = STILL | {"scheduled": 90, "page_cap": 15}
# The columns that are made of fields of the API.
MADE_OF = {
    "event_start_ts": {"event_start"},
    "event_end_ts": {"event_end"},
    "category_id": {"category_id", "category_name"},
}


def broken_ids(server: MockServer) -> set[int]:
    """Return the ids of the scheduled livestreams whose records cannot be identified."""
    ways = {each: malformation(server.world.options, each, "scheduled") for each in ids(server.world.scheduled_at())}
    return {number for number, way in ways.items() if way and not way.repairable}


def test_both_files_have_every_scheduled_livestream(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    run = crawl("scheduled", server=server)
    assert run.code == 0
    categories = server.world.categories()
    assert [expected.without(row, "scraped_at") for row in run.rows] == [
        expected.scheduled(record, categories) for record in server.world.scheduled_at()
    ]
    assert len(run.rows) == 40
    assert list(run.csv_rows[0]) == list(run.rows[0])
    assert [expected.without(row, "extra") for row in run.csv_rows] == [expected.as_csv(row) for row in run.rows]
    assert {path.name for path in run.folder.iterdir()} == {
        "datapackage.json", "scheduled_livestreams.csv", "scheduled_livestreams.jsonl",
    }  # fmt: skip
    assert (run.package["complete"], run.package["degraded"], run.package["unknown_fields"]) == (True, [], {})
    assert {tuple(resource["schema"]["primaryKey"]) for resource in run.package["resources"]} == {("event_id",)}
    assert requests(server, "/events")[0] == "offset=0&limit=100"
    assert ": complete: 40 scheduled livestreams in " in run.stderr


@pytest.mark.parametrize(
    "reading",
    [
        {"page_cap": 1, "scheduled": 20},
        {"page_cap": 2},
        {"page_cap": 7, "above_cap": "ignore"},
        {"above_cap": "refuse"},
        {"hidden": 20, "hidden_at": 0},
        {"hidden": 20},
        {"hidden": 20, "hidden_at": 0.8},
        {"scheduled": 700, "page_cap": 100, "hidden": 250},
        {"empty_as": "404"},
        {"empty_as": "null"},
    ],
    ids=str,
)
def test_each_reading_of_the_api_gives_the_same(reading: dict[str, Any], crawl: Run, serve: Serve) -> None:
    server = serve(**MANY | reading)
    run = crawl("scheduled", server=server)
    assert run.code == 0, run.stderr
    assert sorted_ids(run.rows) == sorted_ids(server.world.scheduled_at())


def test_if_the_order_changes_nothing_is_lost_without_an_error() -> None:
    """Many start in the same minute; in 300 such lists, a walk with only overlapping pages loses records of 30."""
    verdicts = Counter(unstable(seed) for seed in range(300))
    assert (False, "") not in verdicts
    assert verdicts[True, ""] > 270


def unstable(seed: int) -> tuple[bool, str]:
    """Walk a list in which livestreams with the same start are in another order each time.

    Returns:
        Whether all came, and "gap" where the plan says that not all is proved.
    """
    by_chance = random.Random(seed)
    starts = [by_chance.randrange(60) for _ in range(90)]
    plan = Passes(PageSize(100), "the list", lenient=False)
    queries, found = plan.start(), set[int]()
    while queries:
        query = queries.pop()
        order = sorted(range(90), key=lambda number: (starts[number], by_chance.random()))
        page = order[query.slice.offset : query.slice.offset + 15]
        found |= set(page)
        queries += plan.page(query, Page([Key(number) for number in page]))
    return len(found) == 90, "gap" if plan.gaps else ""


def test_if_the_order_changes_the_files_have_each_once(crawl: Run, serve: Serve) -> None:
    server = serve(**MANY, tie_order="unstable")
    run = crawl("scheduled", server=server)
    assert run.code == 0, run.stderr
    assert sorted_ids(run.rows) == sorted_ids(server.world.scheduled_at())


@pytest.mark.parametrize("copies", [1, 2])
def test_a_record_that_is_in_the_list_twice_is_written_once(crawl: Run, script: Script, copies: int) -> None:
    records = [{"event_id": number, "user_name": "n", "event_title": "t"} for number in range(30)]
    records[10:10] = [records[10]] * copies

    def answer(path: str) -> Answer:
        if path.endswith("/categories"):
            return GAMING
        offset = int(re.findall(r"offset=(\d+)", path)[0]) if "offset" in path else 0
        return json_answer(records[offset : offset + 100])

    run = crawl("scheduled", env=to(script(answer).base_url))
    assert run.code == 0, run.stderr
    assert sorted_ids(run.rows) == list(range(30))


def test_a_server_that_ignores_the_offset_is_detected(crawl: Run, serve: Serve) -> None:
    run = crawl("scheduled", server=serve(**MANY, offset="ignored"))
    assert (run.code, len(run.rows)) == (4, 15)
    assert run.package["reason"] == "the scheduled livestreams: the server ignores `offset`"


def test_faults_cost_no_record(crawl: Run, serve: Serve) -> None:
    faults = dict.fromkeys(("rate_500", "rate_429", "rate_reset", "rate_truncated", "rate_challenge"), 0.08)
    server = serve(**MANY, **faults)
    run = crawl("scheduled", server=server)
    assert run.code == 0, run.stderr
    assert sorted_ids(run.rows) == sorted_ids(server.world.scheduled_at())


@pytest.mark.parametrize("empty_as", ["list", "204", "null"])
def test_an_empty_calendar_is_complete_if_it_is_empty_again_while_categories_are_served(
    crawl: Run, serve: Serve, empty_as: str
) -> None:
    server = serve(**STILL, scheduled=0, empty_as=empty_as)
    run = crawl("scheduled", server=server)
    assert (run.code, run.rows, run.package["complete"]) == (0, [], True), run.stderr
    asked = [seen.path.rpartition("/")[2] for seen in server.requests if "calendar" in seen.path]
    assert (asked[0], asked[-1], asked.count("categories")) == ("categories", "categories", 2)
    assert requests(server, "/events").count("offset=0&limit=100") >= 3
    assert (run.folder / "scheduled_livestreams.csv").read_text(encoding="utf-8").startswith("event_id,user_id,")


def test_an_empty_list_of_a_failing_server_is_not_complete(crawl: Run, serve: Serve) -> None:
    run = crawl("scheduled", server=serve(**STILL, down_after=1, down_for=600, down_as="empty"))
    assert (run.code, run.rows) == (4, [])
    assert run.package["reason"] == "the scheduled livestreams: the server answers with empty lists"


def test_a_server_that_is_empty_for_a_short_time_costs_no_record(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL, down_after=1, down_for=0.05, down_as="empty")
    run = crawl("scheduled", server=server)
    assert run.code == 0, run.stderr
    assert ids(run.rows) == ids(server.world.scheduled_at())


@pytest.mark.parametrize("status", [404, 410])
def test_a_missing_route_is_not_an_empty_one(crawl: Run, script: Script, status: int) -> None:
    gone = json_answer({"detail": "Not Found"}, status)
    server = script(lambda path: GAMING if path.endswith("/categories") else gone)
    run = crawl("scheduled", env=to(server.base_url) | IMPATIENT)
    assert (run.code, run.rows) == (4, [])
    assert f"HTTP {status}" in run.package["reason"]


def test_one_bad_field_costs_one_field(crawl: Run, serve: Serve) -> None:
    server = serve(**MANY | {"scheduled": 600, "page_cap": 100}, malformed=0.85, no_json=0.15)
    run = crawl("scheduled", "-s", "PARTI_MAX_REJECTED=1", server=server)
    assert run.code == 0, run.stderr
    records = {record["event_id"]: record for record in server.world.scheduled_at()}
    assert sorted_ids(run.rows) == sorted(records.keys() - broken_ids(server))
    unreadable = Counter[str]()
    for row in run.rows:
        lost = server.world.lost_fields(row["event_id"], "scheduled")
        unreadable.update(lost)
        gone = {column for name in lost for column in MADE_OF.get(name, {name})}
        assert {row[column] for column in gone} <= {None}
        assert lost <= row["extra"].keys()
        odd = {"event_title", "extra", "scraped_at", *gone}
        true = expected.scheduled(records[row["event_id"]], server.world.categories())
        assert expected.without(row, *odd) == expected.without(true, *odd)
    assert run.package["unreadable_fields"] == unreadable
    assert {"event_description", "category_id", "event_end_ts"} <= unreadable.keys()


def test_a_record_without_an_identity_is_set_aside_whole(crawl: Run, serve: Serve) -> None:
    server = serve(**MANY, malformed=0.2, no_json=0.05)
    run = crawl("scheduled", "-s", "PARTI_MAX_REJECTED=0.3", server=server)
    assert run.code == 0, run.stderr
    broken = broken_ids(server)
    assert sorted_ids(run.rows) == sorted(set(ids(server.world.scheduled_at())) - broken)
    assert len(run.quarantine) == run.package["counts"]["quarantined"] == len(broken) > 5
    assert "eyJ" not in (run.folder / "quarantine.jsonl").read_text(encoding="utf-8")


def test_addresses_lose_their_signatures(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL, signed=True)
    run = crawl("scheduled", server=server)
    assert run.code == 0
    true = {record["event_id"]: record["event_file"] for record in server.world.scheduled_at()}
    assert {row["event_id"]: row["event_file"] for row in run.rows} == true


@pytest.mark.parametrize(
    ("options", "degraded", "said"),
    [
        ({"absent": "user_name"}, ["user_name is absent from 40 of 40 records"], ""),
        ({"unreadable": "event_title"}, ["event_title is unreadable in 40 of 40 records"], "event_title (40)"),
        ({"absent": "total_viewers,category_name"}, [], ""),
        ({"absent": "event_end_ts"}, [], "fields that no record has any more: event_end_ts\n"),
        ({"unreadable": "event_end_ts"}, [], "unreadable fields: event_end_ts (40)"),
        ({"drift": "field"}, [], "unknown fields: stream_quality (40)"),
        ({"fields": "demo"}, [], "fields that no record has any more: avatar_link, category_id, event_description"),
    ],
    ids=str,
)
def test_a_changed_api_is_exit_code_4(
    crawl: Run, serve: Serve, options: dict[str, str], degraded: list[str], said: str
) -> None:
    run = crawl("scheduled", server=serve(**STILL, **options))
    assert (run.code, len(run.rows), run.package["complete"]) == (4 if degraded else 0, 40, True)
    assert run.package["degraded"] == degraded
    assert said in run.stderr


def test_a_killed_run_starts_over_and_ends_with_each_record_once(
    crawl: Run, serve: Serve, output: Path, tmp_path: Path
) -> None:
    server = serve(**MANY, malformed=0.1, latency=0.05)
    process = forked.crawl(typed_of("scheduled", "run", {}, ())[1:], environment_of(output, server), tmp_path / "log")
    wait_until(lambda: len(paths(server, "/events")) >= 4)
    process.kill()
    process.join()
    run = crawl("scheduled", "-s", "PARTI_MAX_REJECTED=1", server=server)
    assert run.code == 0, run.stderr
    broken = broken_ids(server)
    assert sorted_ids(run.rows) == sorted(set(ids(server.world.scheduled_at())) - broken)
    assert len(run.quarantine) == len(broken) > 0
    assert json.loads((run.folder / "datapackage.json").read_text(encoding="utf-8"))["complete"] is True
    again = crawl("scheduled", server=server)
    assert "finished before" in again.stderr
