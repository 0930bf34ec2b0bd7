"""Each spider as a real crawl of the mock server, its files compared with the ground truth."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from parti_scraper.api.build import Context
from parti_scraper.api.registry import LIVESTREAMS
from parti_scraper.items import RepeatedRecord
from parti_scraper.run.rejected import RejectedMarks
from tests import expected
from tests.support import (
    NOW,
    SPECIFICATION,
    STILL,
    Run,
    RunningCrawl,
    Serve,
    environment_of,
    ids,
    paths,
    specified_url,
    truth,
    typed_of,
    wait_until,
)
from tests.usage_errors import USAGE_ERRORS


def test_categories_are_those_of_the_route(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    run = crawl("categories", server=server)
    assert run.code == 0
    assert [expected.without(row, "scraped_at") for row in run.rows] == [
        category | {"extra": {}} for category in server.world.categories()
    ]
    assert list(run.csv_rows[0]) == list(run.rows[0])


def test_both_files_of_recent_have_every_livestream(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    run = crawl("recent", server=server)
    assert run.code == 0
    categories = server.world.categories()
    by_id = {row["event_id"]: expected.without(row, "scraped_at") for row in run.rows}
    assert len(by_id) == len(run.rows) == 300
    assert by_id == {record["event_id"]: expected.livestream(record, categories) for record in truth(server)}
    assert list(run.csv_rows[0]) == list(run.rows[0])
    assert [expected.without(row, "extra") for row in run.csv_rows] == [expected.as_csv(row) for row in run.rows]
    assert [json.loads(row["extra"]) for row in run.csv_rows] == [row["extra"] for row in run.rows]


def test_live_has_every_channel_with_its_rank_and_without_secrets(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    run = crawl("live", server=server)
    assert run.code == 0
    live = server.world.live_at()
    added = ("snapshot_id", "observed_at", "rank", "playback_url")
    categories = server.world.categories()
    assert [expected.without(row, *added) for row in run.rows] == [
        expected.live_channel(record, categories) for record in live
    ]
    assert [row["rank"] for row in run.rows] == list(range(1, len(live) + 1))
    assert {row["snapshot_id"] for row in run.rows} == {"run-1"}
    assert any("token=" in record["playback_url"] for record in live)
    files = "".join(path.read_text(encoding="utf-8") for path in run.folder.iterdir()) + run.stderr
    assert "eyJ" not in files
    assert "playback_auth_token" not in files


@pytest.mark.parametrize(
    ("specification", "spider", "route", "arguments"),
    [
        (
            "recent-NaN-7",
            "recent",
            "recent",
            {"categories": "NaN,7", "limit": 15, "since": 1627948800, "until": 2229292800},
        ),
        (
            "recent-NaN-7-7",
            "recent",
            "recent",
            {"categories": "NaN,7,7", "limit": 15, "since": "2021-08-03", "until": "2040-08-23T00:00Z"},
        ),
        ("live-7", "live", "live", {"categories": "7", "limit": 12}),
        ("categories", "categories", "categories", {}),
    ],
)
def test_the_first_request_is_the_specifications_own(
    crawl: Run, serve: Serve, specification: str, spider: str, route: str, arguments: dict[str, Any]
) -> None:
    server = serve(**STILL)
    assert crawl(spider, server=server, **arguments).code == 0
    first = next(seen for seen in server.requests if seen.path.endswith(route))
    url = f"https://api-backend.parti.com{first.path}" + (f"?{first.query}" if first.query else "")
    assert url == specified_url(specification)
    sent = {name.lower(): value for name, value in first.headers}
    command = (SPECIFICATION / f"{specification}.sh").read_text(encoding="utf-8")
    specified = dict(line.strip(" -H'\\\n").split(": ", 1) for line in command.splitlines() if "-H" in line)
    assert {name: sent.get(name.lower()) for name in specified} == specified
    assert set(sent) - {name.lower() for name in specified} == {"accept-encoding", "host"}
    assert "gzip" in sent["accept-encoding"]


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("7", {"Gaming"}),
        ("7,10", {"Gaming", "Music"}),
        ("music,IRL", {"Music", "IRL"}),
        ("crypto,7,7", {"Crypto", "Gaming"}),
    ],
)
@pytest.mark.parametrize("served", ["or", "ignored"])
def test_only_the_requested_categories_are_written(
    crawl: Run, serve: Serve, typed: str, names: set[str], served: str
) -> None:
    server = serve(**STILL, categories=served)
    run = crawl("recent", server=server, categories=typed)
    assert run.code == 0
    assert ids(run.rows) == ids([record for record in truth(server) if record["category_name"] in names])
    assert (run.package["counts"]["filtered"] > 0) is (served == "ignored")


def test_with_nan_nothing_is_filtered_and_the_values_are_sent_unchanged(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    run = crawl("recent", server=server, categories="Gaming,nan,7")
    assert run.code == 0
    assert ids(run.rows) == ids(truth(server))
    assert "&categories=7&categories=NaN&categories=7&" in paths(server, "/recent")[0]


@pytest.mark.parametrize("spider", ["recent", "live"])
def test_all_crawls_every_category_separately(crawl: Run, serve: Serve, spider: str) -> None:
    server = serve(**STILL)
    run = crawl(spider, server=server, categories="all")
    assert run.code == 0
    records = truth(server) if spider == "recent" else server.world.live_at()
    assert sorted(ids(run.rows)) == sorted(ids(records))
    asked = [path.partition("categories=")[2].split("&")[0] for path in paths(server, f"/{spider}")]
    # The request without a category only checks that the server works, because a category is empty.
    assert set(asked) - {""} == {str(category["category_id"]) for category in server.world.categories()}
    assert all(path.count("categories=") <= 1 for path in paths(server, f"/{spider}"))


@pytest.mark.parametrize("nameless", ["empty", "display_name", "null"])
def test_a_nameless_category_is_found_with_any_name_in_its_records(crawl: Run, serve: Serve, nameless: str) -> None:
    server = serve(**STILL, nameless=nameless)
    run = crawl("recent", server=server, categories="Valorant")
    assert run.code == 0
    assert paths(server, "/recent")[0].count("categories=16&") == 1
    named = serve(**STILL, nameless="display_name")
    assert ids(run.rows) == ids([record for record in truth(named) if record["category_name"] == "Valorant"])
    assert run.rows


def test_the_window_is_exact_and_includes_both_bounds(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL, time_filter="ignored")
    records = truth(server)
    until, since = records[50]["event_end_ts"], records[150]["event_end_ts"]
    run = crawl("recent", server=server, since=since, until=until)
    assert run.code == 0
    assert ids(run.rows) == [record["event_id"] for record in records if since <= record["event_end_ts"] <= until]
    assert run.package["window"] == {"since": expected.iso(since), "until": expected.iso(until)}


def test_top_views_are_in_the_sites_own_order(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    run = crawl("recent", server=server, sort="views")
    assert run.code == 0
    assert sorted(ids(run.rows)) == sorted(ids(truth(server)))
    viewers = [row["total_viewers"] for row in run.rows]
    assert viewers == sorted(viewers, reverse=True)
    assert all("top_views_sort=true" in path for path in paths(server, "/recent"))


@pytest.mark.parametrize("user_filter", ["honored", "ignored"])
def test_the_livestreams_of_one_channel_are_only_its_own(crawl: Run, serve: Serve, user_filter: str) -> None:
    server = serve(**STILL, user_filter=user_filter)
    user_id = truth(server)[7]["user_id"]
    run = crawl("recent", server=server, user_id=user_id)
    assert run.code == 0
    assert ids(run.rows) == ids([record for record in truth(server) if record["user_id"] == user_id])


@pytest.mark.parametrize(
    ("page_cap", "above_cap", "limit"), [(15, "clamp", 100), (15, "ignore", 100), (100, "clamp", 7)]
)
def test_paging_never_depends_on_the_requested_limit(
    crawl: Run, serve: Serve, page_cap: int, above_cap: str, limit: int
) -> None:
    server = serve(**STILL, page_cap=page_cap, above_cap=above_cap)
    run = crawl("recent", server=server, limit=limit)
    assert run.code == 0
    assert sorted(ids(run.rows)) == sorted(ids(truth(server)))


def test_max_records_stops_the_run_and_says_so(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    run = crawl("recent", server=server, max_records=120)
    assert run.code == 0
    assert ids(run.rows) == ids(truth(server))[:120]
    assert (run.package["complete"], run.package["truncated"]) == (True, True)
    assert len(paths(server, "/recent")) == 3


def test_an_empty_run_is_complete_and_its_files_have_their_columns(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    run = crawl("recent", server=server, since="2026-10-31T23:59:59Z", until="2026-10-31T23:59:59Z")
    assert run.code == 0
    assert run.rows == []
    assert (run.folder / "livestreams.csv").read_text(encoding="utf-8").startswith("event_id,user_id,user_name,")
    assert run.package["complete"] is True


def test_records_without_an_identity_are_set_aside_whole_and_the_others_are_written(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL, malformed=0.2, no_json=0.05)
    run = crawl("recent", "-s", "PARTI_MAX_REJECTED=0.2", server=server)
    assert run.code == 0
    malformed = server.world.malformed_ids & set(ids(truth(server)))
    assert malformed
    assert sorted(ids(run.rows)) == sorted(set(ids(truth(server))) - malformed)
    assert len(run.quarantine) == len(malformed) == run.package["counts"]["quarantined"]
    assert all(list(row) == ["reason", "url", "position", "record"] for row in run.quarantine)
    assert "eyJ" not in (run.folder / "quarantine.jsonl").read_text(encoding="utf-8")
    reasons = Counter(row["reason"] for row in run.quarantine)
    reason, number = reasons.most_common(1)[0]
    assert f"  {number:>9,}  set aside: {reason}\n" in run.stderr


# The columns that are made of fields of the API.
MADE_OF = {
    "event_start_ts": {"event_start", "duration_seconds"},
    "event_end_ts": {"event_end", "duration_seconds"},
    "user_name": {"user_name", "channel_url"},
}


def test_one_bad_field_costs_one_field(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL, malformed=0.9, no_json=0.1)
    run = crawl("recent", "-s", "PARTI_MAX_REJECTED=1", server=server)
    assert run.code == 0
    true = {record["event_id"]: record for record in truth(server)}
    unreadable = Counter[str]()
    for row in run.rows:
        lost = server.world.lost_fields(row["event_id"])
        unreadable.update(lost)
        gone = {column for name in lost for column in MADE_OF.get(name, {name})}
        assert {row[column] for column in gone} <= {None}
        assert lost <= row["extra"].keys()
        # The odd values of the other records are in these fields, which are read in another way.
        odd = {"event_title", "discord_discriminator", "extra", "scraped_at", *gone}
        livestream = expected.livestream(true[row["event_id"]], server.world.categories())
        assert expected.without(row, *odd) == expected.without(livestream, *odd)
    assert run.package["unreadable_fields"] == unreadable
    assert len(unreadable) >= 7
    assert all(f"{name} ({number})" in run.stderr for name, number in unreadable.items())


@pytest.mark.parametrize(
    ("spider", "options", "flaws", "others"),
    [
        ("recent", {"fields": "demo"}, ["event_end_ts is absent from 300 of 300 records"], "avatar_link, discord_"),
        ("recent", {"absent": "user_name,total_viewers"}, ["user_name is absent", "total_viewers is absent"], ""),
        ("live", {"unreadable": "viewers_count"}, ["viewers_count is unreadable in"], ""),
        ("live", {"fields": "2026", "category_ids": True, "absent": "avatar_link"}, [], "avatar_link\n"),
    ],
)
def test_a_changed_api_is_exit_code_4_with_every_record(
    crawl: Run, serve: Serve, spider: str, options: dict[str, Any], flaws: list[str], others: str
) -> None:
    server = serve(**STILL, **options)
    run = crawl(spider, server=server)
    assert run.code == (4 if flaws else 0)
    assert len(run.rows) == len(truth(server) if spider == "recent" else server.world.live_at())
    assert run.package["complete"] is True
    assert len(run.package["degraded"]) == len(flaws)
    assert all(flaw in told for flaw, told in zip(flaws, run.package["degraded"], strict=True))
    assert run.package["reason"] == (f"degraded: {'; '.join(run.package['degraded'])}" if flaws else None)
    assert (": complete, DEGRADED: " in run.stderr) is bool(flaws)
    assert (f"fields that no record has any more: {others}" in run.stderr) is bool(others)
    assert crawl(spider, server=server).code == run.code
    names = ",".join(flaw.split()[0] for flaw in flaws)
    acknowledged = crawl(spider, server=server, run_id="acknowledged", env={"PARTI_EXPECT_ABSENT": names})
    assert (acknowledged.code, acknowledged.package["degraded"]) == (0, [])


def test_the_records_of_each_snapshot_are_counted_again(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL | {"live": 200}, drift="field", malformed=0.05)
    run = crawl("live", server=server, interval=0.1, max_records=500)
    counts = run.package["counts"]
    assert run.package["unknown_fields"]["stream_quality"] == counts["written"] + counts["filtered"] >= 500
    # Of 200 records a few are set aside, each time.
    assert len(run.quarantine) > 0.05 * 200
    assert run.code == 0


def test_a_run_with_too_many_records_set_aside_is_not_complete(crawl: Run, serve: Serve) -> None:
    run = crawl("recent", server=serve(**STILL, malformed=0.2))
    assert run.code == 4
    assert (run.package["complete"], run.package["degraded"]) == (False, [])
    # Records in overlaps of pages may count twice.
    reason = rf"{len(run.quarantine)} of 30\d records were set aside, see quarantine\.jsonl"
    assert re.fullmatch(reason, run.package["reason"])


def test_a_channel_with_two_livestreams_at_a_time_has_two_rows(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL, doubled=0.5)
    run = crawl("live", server=server, limit=7)
    assert run.code == 0
    rows = [(row["user_id"], row["event_id"]) for row in run.rows]
    assert sorted(rows) == sorted((record["user_id"], record["event_id"]) for record in server.world.live_at())
    assert len({user_id for user_id, _ in rows}) < len(rows)


def test_an_invalid_setting_about_records_is_a_usage_error(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    for setting, problem in (
        ("PARTI_EXPECT_ABSENT=usr_name", "; did you mean `user_name`?"),
        ("PARTI_MAX_REJECTED=5%", "not a share"),
    ):
        run = crawl("recent", "-s", setting, server=server)
        assert run.code == 2
        assert problem in run.stderr
    assert server.requests == []


def test_snapshots_are_taken_at_intervals_until_the_duration_is_over(crawl: Run, serve: Serve) -> None:
    server = serve(now=NOW, speed=600, events=50, live=30, start_every=60)
    run = crawl("live", server=server, interval=1, duration=3)
    assert run.code == 0
    by_snapshot: dict[str, list[dict[str, Any]]] = {}
    for row in run.rows:
        by_snapshot.setdefault(row["snapshot_id"], []).append(row)
    # A busy machine skips some, and counts them.
    missed = sum(map(int, re.findall(r"longer than the interval; snapshots left out: (\d)", run.stderr)))
    assert list(by_snapshot) == [f"run-{number}" for number in range(1, 4 - missed)]
    for rows in by_snapshot.values():
        # A channel may end one livestream and start another during the walk.
        channels = [(row["user_id"], row["event_id"]) for row in rows]
        assert len(channels) == len(set(channels))
    counted = {tuple((row["user_id"], row["viewers_count"]) for row in rows) for rows in by_snapshot.values()}
    assert len(counted) == len(by_snapshot)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_at_intervals_is_complete_when_it_is_stopped(
    serve: Serve, output: Path, signal_number: signal.Signals
) -> None:
    server = serve(**STILL)
    running = RunningCrawl(
        typed_of("live", "run", {"interval": "1h", "duration": "1d"}, ()), environment_of(output, server)
    )
    wait_until(lambda: len(paths(server, "/live")) >= 2)
    assert running.stop(signal_number) == 0
    package = json.loads((output / "live/run/datapackage.json").read_text(encoding="utf-8"))
    assert package["complete"] is True


@pytest.mark.parametrize(("spider", "raw", "line"), USAGE_ERRORS)
def test_a_usage_error_is_one_line_and_nothing_is_requested(
    crawl: Run, serve: Serve, spider: str, raw: dict[str, str], line: str
) -> None:
    server = serve(**STILL)
    run = crawl(spider, server=server, **raw)
    # If a line has the time of the run, it differs here.
    moment = (
        re.compile(r"(?<=accepted: at or before )2\S+(?=\))")
        if spider == "recent" and "until" not in raw
        else re.compile("$^")
    )
    assert (run.code, moment.sub("NOW", run.stderr), run.stdout) == (2, moment.sub("NOW", line) + "\n", "")
    assert server.requests == []
    assert not run.output.exists()


@pytest.mark.parametrize("spider", ["recent", "live"])
def test_a_category_that_does_not_exist_is_a_usage_error_found_by_one_request(
    crawl: Run, serve: Serve, spider: str
) -> None:
    server = serve(**STILL)
    run = crawl(spider, "--loglevel", "ERROR", server=server, categories="7,Gamin")
    accepted = ", ".join(category["name"] or category["display_name"] for category in server.world.categories())
    assert run.code == 2
    line = f"argument `categories`: no such category: 'Gamin' (accepted: {accepted}); did you mean `Gaming`?\n"
    assert run.stderr == line
    assert [seen.path for seen in server.requests if "robots" not in seen.path] == [
        "/parti_v2/profile/livestream_calendar/events/categories"
    ]
    assert not run.folder.exists()


def test_an_unreadable_record_is_set_aside_once_for_any_page_size() -> None:
    marks = RejectedMarks()

    def is_new(*records: Any) -> list[bool]:
        page = LIVESTREAMS.normalize(json.dumps(records).encode(), "", Context(""))
        broken = {record.position for record in page.rejected}
        readable = iter(page.items)
        identities = [None if place in broken else next(readable).identity for place in range(page.served)]
        return [not isinstance(each, RepeatedRecord) for each in marks.mark_repeats(page.rejected, identities, "")]

    before, after = {"event_id": 1}, {"event_id": 2}
    broken = {"event_id": "x", "user_id": 3}
    assert is_new(before, broken) == [True]
    assert is_new(broken, after) == [False]
    assert is_new(before, None, after) == [True]
    assert is_new(None, after) == [False]
    assert is_new({"event_id": 4}, None) == [True]
