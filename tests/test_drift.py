"""Differences between the site's own requests and what the project knows."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from parti_scraper.api import drift, routes, urls
from parti_scraper.api.drift import WEBSOCKET, Call, Comparison, Configuration, Report
from parti_scraper.api.registry import source_of
from parti_scraper.api.routes import LiveQuery, RecentQuery

HOST, NEW = "https://api-backend.parti.com", "https://new.parti.com"
CONFIGURED = Configuration((HOST, "https://api.parti.com"), routes.WS_URL)


def seen(host: str = HOST, **changes: Any) -> list[Call]:
    """Return the requests of the page at a host, if nothing has changed."""
    return [
        Call("GET", routes.categories_url(host), status=200, is_json=True, **changes),
        Call("GET", RecentQuery(1, 2, ("NaN", "7")).url(host, 0, 15), status=200, is_json=True, **changes),
        Call("GET", LiveQuery(("7",)).url(host, 0, 12), status=200, is_json=True, **changes),
        Call("GET", routes.WS_URL, WEBSOCKET, status=101, subscribed=True),
    ]


def report(*calls: Call) -> Report:
    """Return the report on these calls."""
    comparison = Comparison(CONFIGURED)
    for call in calls:
        comparison.add(call)
    return comparison.report()


@pytest.mark.parametrize("host", [HOST, "https://api.parti.com", "https://API.parti.com:443"])
def test_nothing_is_found_where_site_and_project_agree(host: str) -> None:
    assert report(*seen(host)).lines() == []
    assert report(*seen(host)).as_json()["agrees"] is True
    assert all(CONFIGURED.knows(call) for call in seen(host))


def test_the_parameters_that_are_known_are_those_that_this_project_sends() -> None:
    for route, url in (
        (routes.RECENT, RecentQuery(1, 2, ("7",), user_id=5).url(HOST, 0, 1)),
        (routes.LIVE, LiveQuery(("7",)).url(HOST, 0, 1)),
        (routes.SCHEDULED, routes.scheduled_url(HOST, 0, 1)),
    ):
        source = source_of(url)
        assert source is not None
        assert source.route is route
        assert {name for name, _ in parse_qsl(urlsplit(url).query)} == route.always | route.sometimes


@pytest.mark.parametrize("host", [NEW, "http://127.0.0.1:8765", "http://[::1]:8765", "https://new.parti.com:8443"])
def test_the_setting_for_a_host_that_moved_is_named(host: str) -> None:
    found = report(*seen(host))
    assert found.lines() == [f"host not configured: {host}", f"to follow the site, set PARTI_API_BASE_URLS={host}"]
    assert urls.parse_base_urls(found.settings[0].partition("=")[2]) == (host,)
    assert found.gaps() == []
    assert not any(CONFIGURED.knows(call) for call in seen(host)[:3])


def test_if_hosts_share_the_routes_the_host_with_most_of_them_is_first() -> None:
    categories, recent, live, socket = seen(NEW)
    assert report(seen()[1], categories, live, socket).settings == [f"PARTI_API_BASE_URLS={NEW},{HOST}"]
    assert report(recent, *seen()).settings == [f"PARTI_API_BASE_URLS={HOST},{NEW}"]


def test_a_host_that_serves_no_known_route_is_not_to_be_set() -> None:
    other = Call("POST", "https://metrics.example/v1/t?key=abc", status=200, is_json=True)
    found = report(*seen(), other, Call("GET", "wss://chat.example/", WEBSOCKET, status=101))
    assert (found.lines(), found.other_hosts) == ([], ["https://metrics.example", "wss://chat.example"])
    failing = [Call("GET", each.url, status=503) for each in seen(NEW)[:3]]
    found = report(*failing, seen()[3])
    assert (found.unknown_hosts, found.settings) == ([NEW], [])
    assert found.routes_failed == dict.fromkeys(("categories", "recent", "live"), "1 × HTTP 503")


def test_a_socket_that_moved_is_named_without_secrets() -> None:
    socket = Call("GET", "wss://new.parti.com/ws?token=abc", WEBSOCKET, status=101, subscribed=True)
    assert report(*seen()[:3], socket).lines() == [
        "host not configured: wss://new.parti.com",
        "to follow the site, set PARTI_WS_URL=wss://new.parti.com/ws",
    ]


@pytest.mark.parametrize("order", [1, -1])
def test_a_socket_to_the_same_address_may_not_have_subscribed_yet(order: int) -> None:
    early = Call("GET", routes.WS_URL, WEBSOCKET, status=101)
    assert report(*[*seen(), early][::order]).agrees
    never = [call for call in seen() if not call.subscribed]
    assert report(*[*never, early][::order]).unknown_routes == [f"GET {routes.WS_URL}"]


def test_an_unknown_route_is_named_without_query_and_numbers() -> None:
    profile = f"{HOST}/parti_v2/profile"
    calls = [
        Call("GET", f"{profile}/user_profile/{number}?session_token=abc", status=200, is_json=True) for number in (1, 2)
    ]
    moved = Call("GET", f"{NEW}/parti_v3/get_livestream_channel_info/live?limit=1", status=200, is_json=True)
    posted = Call("POST", f"{profile}/get_livestream_channel_info/recent", status=200)
    found = report(*seen(), *calls, moved, posted)
    assert found.unknown_routes == [
        f"GET {profile}/user_profile/{{number}}",
        f"GET {NEW}/parti_v3/get_livestream_channel_info/live",
        f"POST {profile}/get_livestream_channel_info/recent",
    ]
    assert (found.unknown_hosts, found.settings) == ([NEW], [])


def test_a_renamed_parameter_is_both_unknown_and_missing() -> None:
    categories, recent, live, socket = seen()
    live.url = live.url.replace("limit=", "page_size=")
    assert report(categories, recent, live, socket).lines() == [
        "parameters unknown, route live: page_size",
        "parameters missing, route live: limit",
    ]
    # A parameter that only some requests lack is not missing.
    assert report(*seen(), live).missing_parameters == {}


def test_a_route_that_was_not_seen_or_never_answered_well_is_a_gap() -> None:
    categories, recent, live, socket = seen()
    recent.status, live.status, live.problem = 400, None, ""
    found = report(categories, recent, live, live)
    assert found.gaps() == [
        "route not seen: websocket",
        "route answered with errors: recent (1 × HTTP 400)",
        "route answered with errors: live (2 × no answer)",
    ]
    assert (found.lines(), found.agrees) == ([], False)
    # One failure among answers does not count, nor does a request that the page did not wait for.
    _, _, dropped, _ = seen(dropped=True)
    dropped.status = None
    assert report(*seen(), recent, dropped, socket).lines() == []


def test_a_known_route_that_the_page_need_not_request_is_not_missing() -> None:
    call = Call("GET", routes.scheduled_url(HOST, 0, 100), status=200, is_json=True)
    assert CONFIGURED.knows(call)
    assert report(*seen(), call).as_json()["agrees"] is True
    assert "scheduled" not in report().routes_not_seen
    call.status, call.url = 500, f"{call.url}&sort=1"
    found = report(*seen(), call)
    assert found.gaps() == ["route answered with errors: scheduled (1 × HTTP 500)"]
    assert found.lines() == ["parameters unknown, route scheduled: sort"]


def test_a_line_break_in_what_the_site_sends_stays_on_the_line() -> None:
    categories, recent, live, socket = seen()
    live.url += "&a%0Ab=1"
    recent.unknown_fields = Counter({"x\ny": 1})
    lines = report(categories, recent, live, socket).lines()
    assert lines == ["parameters unknown, route live: a\ufffdb", "fields unknown, route recent: x\ufffdy"]


class Unequal(Call):
    """A call that cannot be compared: comparing each of many with all others would take minutes."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError

    __hash__ = None  # type: ignore[assignment]


def test_any_number_of_calls_is_compared_one_by_one_in_limited_memory() -> None:
    comparison = drift.Comparison(CONFIGURED)
    for number in range(5_000):
        for method, url in (
            ("POST", f"https://m{number}.example/"),
            ("GET", f"https://m.example/parti_v2/profile/r{number}"),
            ("GET", f"{LiveQuery().url(NEW, 0, 1)}&p{number}=1"),
        ):
            comparison.add(Unequal(method, url, status=200, unknown_fields=Counter([f"f{number}"])))
    found = comparison.report()
    reported = (found.other_hosts, found.unknown_routes, found.unknown_parameters["live"], found.unknown_fields["live"])
    assert set(map(len, reported)) == {50}
    assert found.unknown_hosts == ["https://m.example", NEW]
    assert max(len(names) for names in (comparison._other_hosts, comparison._unknown_routes)) == 1_000


@pytest.mark.parametrize(
    ("records", "fields", "problem"),
    [
        ([{"event_id": 1, "user_id": 2, "stream_quality": "1080p60"}], {"stream_quality"}, ""),
        ([{"event_id": 1, "user_id": 2, "chat_auth_token": "secret"}], set(), ""),
        ([], set(), ""),
        ([None, {"event_id": 1, "user_id": 2}], set(), ""),
        ([{"uid": 1}, {"uid": 2}], set(), "no record can be read, "),
        ({"items": []}, set(), "the answer is no list of records but an object (13 bytes)"),
    ],
)
@pytest.mark.parametrize("route", ["recent", "live"])
def test_an_answer_shows_new_fields_and_records_that_cannot_be_read(
    route: str, records: Any, fields: set[str], problem: str
) -> None:
    found, said = drift.read(route, json.dumps(records).encode())
    assert found == dict.fromkeys(fields, 1)
    assert said.startswith(problem)
    assert bool(said) is bool(problem)


def test_a_category_is_found_by_its_display_name() -> None:
    body = b"""[{"category_id": 23, "name": "Crypto", "display_name": "CRYPTO"}, {"category_id": 3, "name": ""},
        {"category_id": 7, "name": "Gaming", "display_name": "Gaming"}]"""
    assert drift.names_of_categories(body) == [("CRYPTO", "Crypto"), ("Gaming",)]
    assert drift.names_of_categories(b"<html>") == []
