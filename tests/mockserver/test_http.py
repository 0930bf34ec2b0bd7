"""The HTTP routes serve the ground truth, in the specified shapes."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from parti_scraper.mockserver import MockServer, Options
from parti_scraper.mockserver.malformed import BROKEN, NO_JSON, ODD
from tests.mockserver.client import Answer, get
from tests.support import CATEGORIES, LIVE, NOW, PREFIX, RECENT, SCHEDULED, STILL, Serve, ids, wait_until

Json = dict[str, Any]
# The fields of the specification with their types; None is one of them.
COMMON: dict[str, set[type | None]] = {
    "user_id": {int},
    "user_name": {str},
    "user_avatar_id": {int},
    "avatar_link": {str, None},
    "event_id": {int},
    "event_title": {str},
    "event_file": {str, None},
    "category_name": {str},
    "social_media": {str},
    "social_username": {str},
}
RECENT_FIELDS = COMMON | {
    "event_start_ts": {int},
    "event_end_ts": {int},
    "total_viewers": {int},
    "livestream_visibility_type": {str},
    "livestream_recording": {str, None},
    "has_access_pass": {bool},
    "discord_discriminator": {str, None},
}
LIVE_FIELDS = COMMON | {
    "viewers_count": {int},
    "discord_discriminator": {str, None},
    "channel_arn": {str},
    "playback_url": {str},
    "playback_auth_token": {str},
}
# The fields of scheduled livestreams in the specification.
SCHEDULED_FIELDS: dict[str, set[type | None]] = {
    "user_id": {int},
    "user_name": {str},
    "user_avatar_id": {int},
    "avatar_link": {str, None},
    "event_id": {int},
    "event_title": {str},
    "event_file": {str, None},
    "category_id": {int},
    "event_description": {str},
    "event_start_ts": {int},
    "event_end_ts": {int},
    "livestream_visibility_type": {str},
    "livestream_recording": {None},
    "total_viewers": {None},
}


def types_of(records: list[Json]) -> dict[str, set[type | None]]:
    """Return the types that each field has in some record, after checking that all have the same fields."""
    assert len({tuple(record) for record in records}) == 1
    return {name: {None if record[name] is None else type(record[name]) for record in records} for name in records[0]}


def test_recent_serves_the_ground_truth_page_by_page_in_the_specified_shape(serve: Serve) -> None:
    server = serve(**STILL)
    pages = [get(server, f"{RECENT}?limit=100&offset={offset}") for offset in (0, 100, 200, 300)]
    records = [record for page in pages for record in page.json]
    assert records == server.world.recent_at()
    assert pages[3].body == b"[]"
    assert types_of(records) == RECENT_FIELDS
    for page in pages:
        assert page.status == 200
        assert page.headers["content-type"] == "application/json"


def test_live_serves_the_ground_truth_in_the_specified_shape(serve: Serve) -> None:
    server = serve(**STILL | {"live": 150})
    first = get(server, f"{LIVE}?limit=100").json
    assert first + get(server, f"{LIVE}?limit=100&offset=100").json == server.world.live_at()
    assert types_of(first) == LIVE_FIELDS
    # Some playback URLs have their own token.
    assert {"token=" in record["playback_url"] for record in first} == {True, False}


def test_scheduled_serves_the_ground_truth_page_by_page_in_the_specified_shape(serve: Serve) -> None:
    server = serve(**STILL, scheduled=150)
    first = get(server, f"{SCHEDULED}?offset=0&limit=1000").json
    records = first + get(server, f"{SCHEDULED}?offset=100").json
    assert records == server.world.scheduled_at()
    assert (len(first), len(set(ids(records)))) == (100, 150)
    assert types_of(records) == SCHEDULED_FIELDS
    assert any((record["event_file"] or "").startswith("https://https://") for record in records)


def test_categories_serves_every_category(serve: Serve) -> None:
    server = serve(**STILL)
    assert get(server, CATEGORIES).json == server.world.categories()


def test_the_set_moves_with_the_clock(serve: Serve) -> None:
    server = serve(**STILL)
    before = {record["event_id"]: record for record in get(server, f"{LIVE}?limit=100").json}
    server.world.advance(240)
    live = {record["event_id"]: record for record in get(server, f"{LIVE}?limit=100").json}
    recent = ids(get(server, f"{RECENT}?limit=100").json)
    ended = set(before) - set(live)
    assert ended
    assert ended <= set(recent)
    assert any(before[each]["viewers_count"] != live[each]["viewers_count"] for each in set(before) & set(live))


def test_the_clock_runs_by_itself(serve: Serve) -> None:
    server = serve(now=NOW, speed=10_000, events=10, live=20)
    first = get(server, f"{RECENT}?limit=100").json
    wait_until(lambda: get(server, f"{RECENT}?limit=100").json != first)


def test_records_that_existed_throughout_a_crawl_are_those_that_a_walk_of_a_still_set_finds(serve: Serve) -> None:
    server = serve(**STILL, insert_every=1, delete_every=1)
    before = set(ids(server.world.recent_at()))
    walked: set[int] = set()
    for offset in range(0, 400, 50):
        walked |= set(ids(get(server, f"{RECENT}?limit=100&offset={offset}").json))
    throughout = server.world.existed_throughout()
    assert throughout == before & set(ids(server.world.recent_at()))
    assert throughout <= walked


@pytest.mark.parametrize(("fields", "recent", "live"), [("demo", 6, 6), ("full", 17, 15), ("2026", 17, 17)])
def test_records_have_all_fields_or_those_of_the_specifications_demo(
    serve: Serve, fields: str, recent: int, live: int
) -> None:
    server = serve(**STILL, fields=fields)
    assert {len(record) for record in get(server, RECENT).json} == {recent}
    assert {len(record) for record in get(server, LIVE).json} == {live}


def test_malformed_records_are_the_same_each_time_and_the_ground_truth_names_them(serve: Serve) -> None:
    server = serve(**STILL, malformed=0.3)
    world = server.world
    truth = [record for record in world.recent_at() if record["event_id"] is not None]
    served = [record for offset in (0, 100, 200) for record in get(server, f"{RECENT}?limit=100&offset={offset}").json]
    assert len(served) == len(truth)
    # As texts: to Python, 1 is the same as 1.0 and true.
    wrong = {true["event_id"] for true, seen in zip(truth, served, strict=True) if json.dumps(seen) != json.dumps(true)}
    on_air = set(ids(world.live_at()))
    assert wrong == (world.malformed_ids | world.odd_ids) - on_air
    assert world.malformed_ids.isdisjoint(world.odd_ids)
    assert len(wrong) == pytest.approx(90, abs=20)
    assert len(world.odd_ids) == pytest.approx(len(world.malformed_ids) / 2, abs=20)
    assert served[:100] == get(server, f"{RECENT}?limit=100").json


def test_every_way_to_be_malformed_differs_from_the_truth_and_can_be_sent(serve: Serve) -> None:
    server = serve(**STILL)
    records = {
        "recent": server.world.recent_at(),
        "live": server.world.live_at(),
        "scheduled": server.world.scheduled_at(),
    }
    for route, (record, *_) in records.items():
        ways = (*BROKEN[route], *ODD[route])
        assert len({way.name for way in ways}) == len(ways)
        for way in ways:
            assert json.dumps(way.apply(record)) != json.dumps(record), way.name
        assert {way.repairable for way in BROKEN[route]} == {False}
        assert {way.repairable for way in ODD[route]} == {True}


def test_what_a_strict_parser_rejects_is_within_its_record(serve: Serve) -> None:
    server = serve(**STILL, no_json=0.05)
    for way in NO_JSON:
        with pytest.raises((ValueError, RecursionError)):
            msgspec.json.decode(way.apply({"event_id": 1}))
    with pytest.raises((ValueError, RecursionError)):
        msgspec.json.decode(get(server, f"{RECENT}?limit=100").body)
    assert server.world.odd_ids
    assert server.world.malformed_ids


def test_fields_are_absent_or_unreadable_in_every_record(serve: Serve) -> None:
    server = serve(**STILL, absent="user_name,avatar_link", unreadable="event_title")
    for route in (RECENT, LIVE, SCHEDULED):
        for record in get(server, route).json:
            assert record.keys().isdisjoint({"user_name", "avatar_link"})
            assert isinstance(record["event_title"], dict)


def test_addresses_have_another_signature_each_time(serve: Serve) -> None:
    server = serve(**STILL, signed=True)
    one, other = (get(server, RECENT).json for _ in range(2))
    for first, second, true in zip(one, other, server.world.recent_at(), strict=False):
        assert (first == second) is not any(
            first[name] for name in ("event_file", "avatar_link", "livestream_recording")
        )
        assert first["event_file"] is None or first["event_file"].startswith(f"{true['event_file']}?Expires=")


def test_records_may_have_the_number_of_their_category(serve: Serve) -> None:
    server = serve(**STILL, category_ids=True)
    numbers = {row["name"]: row["category_id"] for row in server.world.categories() if row["name"]}
    for record in get(server, f"{RECENT}?limit=100").json:
        assert numbers.get(record["category_name"], record["category_id"]) == record["category_id"]


def test_a_channel_may_have_two_livestreams_at_a_time(serve: Serve) -> None:
    server = serve(**STILL, doubled=0.5)
    records = get(server, f"{LIVE}?limit=100").json
    channels = Counter(record["user_id"] for record in records)
    assert set(channels.values()) == {1, 2}
    assert len({record["event_id"] for record in records}) == len(records)


@pytest.mark.parametrize(
    ("query", "status", "detail"),
    [("limit=x", 422, "limit: not a whole number"), ("limit=101", 400, "limit: more than 100")],
)
def test_a_refusal_is_json_with_its_reason(serve: Serve, query: str, status: int, detail: str) -> None:
    server = serve(**STILL, above_cap="refuse")
    answer = get(server, f"{RECENT}?{query}")
    assert (answer.status, answer.json) == (status, {"detail": detail})


@pytest.mark.parametrize(
    ("robots", "status", "rule"),
    [("none", 404, b""), ("allow", 200, b"Disallow:\n"), ("disallow", 200, b"Disallow: /\n")],
)
def test_robots_txt_is_what_the_switch_says(serve: Serve, robots: str, status: int, rule: bytes) -> None:
    answer = get(serve(**STILL, robots=robots), "/robots.txt")
    assert answer.status == status
    assert status == 404 or answer.body == b"User-agent: *\n" + rule


def test_a_token_is_required_on_every_route_of_the_api_and_nowhere_else(serve: Serve) -> None:
    server = serve(**STILL, token="s3cret")
    for path in (CATEGORIES, RECENT, LIVE, SCHEDULED):
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "s3cret"}):
            refused = get(server, path, **headers)
            assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert get(server, path, Authorization="Bearer s3cret").status == 200
    assert get(server, "/categories").status == 200


def test_a_host_that_was_moved_answers_404_on_every_route_of_the_api(serve: Serve) -> None:
    server = serve(**STILL, gone=True)
    answers = [get(server, path) for path in (CATEGORIES, RECENT, LIVE, SCHEDULED)]
    assert [(answer.status, answer.json) for answer in answers] == [(404, {"detail": "Not Found"})] * 4


@pytest.mark.parametrize("accepted", ["gzip", "gzip, deflate, br, zstd", "br;q=1, gzip;q=0.5", "*"])
def test_pages_are_compressed_for_clients_that_accept_it(serve: Serve, accepted: str) -> None:
    server = serve(**STILL)
    plain, packed = get(server, f"{RECENT}?limit=100"), get(server, f"{RECENT}?limit=100", Accept_Encoding=accepted)
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["vary"] == "Accept-Encoding"
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < len(plain.body) / 3


@pytest.mark.parametrize("accepted", ["identity", "br", "gzip;q=0", "br, gzip; q=0.0"])
def test_pages_are_not_compressed_for_other_clients(serve: Serve, accepted: str) -> None:
    assert "content-encoding" not in get(serve(**STILL), RECENT, Accept_Encoding=accepted).headers


def test_pages_of_any_origin_may_call_the_api(serve: Serve) -> None:
    server = serve(**STILL, rate_500=0.5)
    for answer in (get(server, RECENT, Origin="https://parti.com") for _ in range(4)):
        assert answer.headers["access-control-allow-origin"] == "*"
    preflight = get(server, RECENT, method="OPTIONS", Origin="https://parti.com", Access_Control_Request_Method="GET")
    assert preflight.status == 204
    assert "GET" in preflight.headers["access-control-allow-methods"]
    assert "Authorization" in preflight.headers["access-control-allow-headers"]


def test_an_unknown_route_is_not_found(serve: Serve) -> None:
    server = serve(**STILL)
    assert [get(server, path).status for path in ("/none", PREFIX + "none", RECENT + "/")] == [404] * 3


def test_requests_are_recorded_unchanged(serve: Serve) -> None:
    server = serve(**STILL)
    get(server, f"{RECENT}?categories=NaN&categories=7&limit=%31", X_Odd="Yes")
    get(server, "/none")
    first, second = server.requests
    assert (first.method, first.path, first.query) == ("GET", RECENT, "categories=NaN&categories=7&limit=%31")
    assert ("X-Odd", "Yes") in first.headers
    assert (first.status, second.status) == (200, 404)
    assert first.finished is not None
    assert first.started <= first.finished <= second.started


def test_slow_answers_are_slow_at_the_same_time(serve: Serve) -> None:
    server = serve(**STILL, latency=0.2)
    start = threading.Barrier(8)

    def ask(_: int) -> Answer:
        start.wait()
        return get(server, LIVE)

    with ThreadPoolExecutor(8) as pool:
        assert {answer.status for answer in pool.map(ask, range(8))} == {200}
    assert server.peak_in_flight > 1
    assert all(request.finished - request.started >= 0.2 for request in server.requests if request.finished)


def test_a_held_answer_comes_once_it_is_held_no_longer_and_others_meanwhile(serve: Serve) -> None:
    server = serve(**STILL)
    server.held = lambda seen: seen.path == LIVE
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(get, server, LIVE)
        wait_until(lambda: bool(server.requests))
        assert get(server, CATEGORIES).status == 200
        assert (asked.done(), server.requests[0].finished) == (False, None)
        server.held = None
        assert asked.result().status == 200


def test_only_this_machine_can_connect(serve: Serve) -> None:
    server = serve(**STILL)
    port = int(server.base_url.rpartition(":")[2])
    assert server.base_url == f"http://127.0.0.1:{port}"
    with socket.create_connection(("127.0.0.1", port), timeout=30):
        pass
    # Another address of the same machine; a server on all of them would answer here.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=30)


def test_a_port_in_use_is_an_error_and_a_server_starts_once(serve: Serve) -> None:
    server = serve(**STILL)
    port = int(server.base_url.rpartition(":")[2])
    other = MockServer(Options(**STILL), port=port)
    with pytest.raises(OSError, match="Address already in use"):
        other.start()
    with pytest.raises(RuntimeError):
        server.start()


def test_a_server_that_was_stopped_is_gone_and_its_port_free_again() -> None:
    with MockServer(Options(**STILL)) as server:
        port = int(server.base_url.rpartition(":")[2])
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        get(server, LIVE)
    with MockServer(Options(**STILL), port=port) as again:
        assert get(again, LIVE).status == 200
