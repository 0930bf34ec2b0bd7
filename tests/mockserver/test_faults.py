"""Injected faults: their rate, their order, and what a client receives."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections import Counter
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from parti_scraper.mockserver import MockServer, Options
from parti_scraper.mockserver.faults import FaultPlan
from tests.mockserver.client import get
from tests.support import CATEGORIES, LIVE, RECENT, STILL, Serve

ALWAYS = {"fault_burst": 0}
MIXED = {"rate_429": 0.1, "rate_500": 0.1, "rate_reset": 0.1, "rate_truncated": 0.1, "rate_challenge": 0.1}


def plan(count: int, **options: Any) -> list[str | None]:
    """Return the faults of so many requests, each for another URL."""
    faults = FaultPlan(Options(**options))
    return [faults.next(str(number)) for number in range(count)]


def test_faults_have_the_given_rate_and_are_the_same_for_a_seed() -> None:
    drawn = plan(5_000, **MIXED)
    counts = Counter(drawn)
    for fault in ("429", "500", "reset", "truncated", "challenge"):
        assert counts[fault] == pytest.approx(500, abs=80)
    assert counts[None] == pytest.approx(2_500, abs=150)
    assert drawn == plan(5_000, **MIXED) != plan(5_000, **MIXED, seed=2)
    assert set(plan(100)) == {None}


def test_faults_in_a_row_on_a_url_are_limited() -> None:
    faults = FaultPlan(Options(rate_500=1, fault_burst=2))
    assert [faults.next("a") for _ in range(6)] == ["500", "500", None, "500", "500", None]
    assert [faults.next(url) for url in "bcbcbc"] == ["500", "500", "500", "500", None, None]
    assert set(plan(50, rate_500=1, fault_burst=0)) == {"500"}


def test_two_servers_with_the_same_seed_fail_the_same_requests(serve: Serve) -> None:
    seen = []
    for _ in range(2):
        server = serve(**STILL, **MIXED)
        for number in range(60):
            try:
                get(server, f"{RECENT}?offset={number}")
            except (ConnectionResetError, http.client.IncompleteRead):
                continue
        seen.append([request.fault for request in server.requests])
    assert seen[0] == seen[1]
    assert set(seen[0]) == {None, "429", "500", "reset", "truncated", "challenge"}


@pytest.mark.parametrize("form", ["none", "seconds", "date", "mixed"])
def test_429_has_each_form_of_retry_after(serve: Serve, form: str) -> None:
    server = serve(**STILL, **ALWAYS, rate_429=1, retry_after=form)
    answers = [get(server, RECENT) for _ in range(3)]
    assert [answer.status for answer in answers] == [429] * 3
    sent = [answer.headers.get("retry-after") for answer in answers]
    for expected, text in zip(["none", "seconds", "date"] if form == "mixed" else [form] * 3, sent, strict=True):
        if expected == "date":
            assert text is not None
            assert text.endswith(" GMT")
            assert parsedate_to_datetime(text).timestamp() <= time.time() + 2
        else:
            assert text == {"none": None, "seconds": "1"}[expected]


def test_5xx_alternate_on_every_route_of_the_api(serve: Serve) -> None:
    server = serve(**STILL, **ALWAYS, rate_500=1)
    assert [get(server, path).status for path in (RECENT, LIVE, CATEGORIES, RECENT)] == [500, 502, 503, 500]
    assert get(server, "/").status == 200


def test_the_challenge_is_a_web_page_with_status_200_or_403(serve: Serve) -> None:
    server = serve(**STILL, **ALWAYS, rate_challenge=1)
    answers = [get(server, RECENT) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 403]
    for answer in answers:
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.body.startswith(b"<!DOCTYPE html>")


def test_a_reset_comes_in_the_middle_of_the_body(serve: Serve) -> None:
    server = serve(**STILL, **ALWAYS, rate_reset=1)
    host, port = server.base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"GET {RECENT}?limit=100 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        received: list[bytes] = []
        with pytest.raises(ConnectionResetError):
            receive_all(connection, received)
    # A reset may overtake bytes that were sent before it, but the body is never complete.
    head, _, body = b"".join(received).partition(b"\r\n\r\n")
    assert not received or head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert len(body) < len(get_whole(server))
    (request,) = server.requests
    assert (request.fault, request.status) == ("reset", None)


def receive_all(connection: socket.socket, received: list[bytes]) -> None:
    """Receive until the other side ends the connection."""
    while chunk := connection.recv(65_536):
        received.append(chunk)


def get_whole(server: MockServer) -> bytes:
    """Return the page without faults."""
    return json.dumps(server.world.recent_at()[:100], ensure_ascii=False, separators=(",", ":")).encode()


def test_truncated_bodies_are_cut_on_the_wire_or_have_fitting_headers(serve: Serve) -> None:
    server = serve(**STILL, **ALWAYS, rate_truncated=1)
    whole = get_whole(server)
    for _ in range(2):
        with pytest.raises(http.client.IncompleteRead) as caught:
            get(server, f"{RECENT}?limit=100")
        assert whole.startswith(caught.value.partial)
        assert caught.value.expected
    answer = get(server, f"{RECENT}?limit=100")
    assert answer.status == 200
    assert int(answer.headers["content-length"]) == len(answer.body) < len(whole)
    assert whole.startswith(answer.body)


def test_even_an_empty_page_is_truncated(serve: Serve) -> None:
    server = serve(**STILL | {"events": 0}, **ALWAYS, rate_truncated=1)
    for _ in range(3):
        try:
            answer = get(server, RECENT)
        except http.client.IncompleteRead:
            continue
        with pytest.raises(ValueError, match="Expecting value"):
            json.loads(answer.body)


def test_after_a_burst_the_answer_comes(serve: Serve) -> None:
    server = serve(**STILL, rate_429=0.5, rate_500=0.5, fault_burst=3)
    statuses = [get(server, RECENT).status for _ in range(8)]
    assert [status == 200 for status in statuses] == [False, False, False, True] * 2


def test_one_request_is_answered_with_404(serve: Serve) -> None:
    server = serve(**STILL, once_404=2)
    assert [get(server, RECENT).status for _ in range(4)] == [200, 404, 200, 200]
    assert [seen.fault for seen in server.requests] == [None, "404", None, None]


@pytest.mark.parametrize(
    ("down_as", "statuses"), [("404", {404}), ("500", {500, 502, 503}), ("challenge", {200, 403}), ("429", {429})]
)
def test_the_server_is_down_for_a_while_after_so_many_requests(serve: Serve, down_as: str, statuses: set[int]) -> None:
    server = serve(**STILL, down_after=2, down_for=600, down_as=down_as)
    assert [get(server, RECENT).status for _ in range(2)] == [200, 200]
    assert {get(server, path).status for path in (RECENT, LIVE, CATEGORIES, RECENT)} == statuses
    assert [seen.fault for seen in server.requests] == [None] * 2 + [down_as] * 4


def test_a_server_that_was_down_is_up_again(serve: Serve) -> None:
    server = serve(**STILL, down_for=0.01, down_as="500")
    answers = [get(server, RECENT).status]
    time.sleep(0.01)
    answers.append(get(server, RECENT).status)
    assert answers == [500, 200]


@pytest.mark.parametrize(
    ("empty_as", "status", "body"),
    [("list", 200, b"[]"), ("404", 404, b'{"detail": "Not Found"}'), ("204", 204, b""), ("null", 200, b"null")],
)
def test_a_page_without_records_has_the_chosen_form(serve: Serve, empty_as: str, status: int, body: bytes) -> None:
    server = serve(**STILL, empty_as=empty_as)
    for path in (f"{RECENT}?by_user_id=999999999", f"{RECENT}?offset=100000", f"{LIVE}?offset=100000"):
        answer = get(server, path)
        assert (answer.status, answer.body) == (status, body)
    assert get(server, RECENT).status == get(server, LIVE).status == 200
