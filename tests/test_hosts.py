"""Which host is used: dead hosts are given up, those that answer in time are not, and none gets too many requests."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.network.hosts import TRIES, Host, Hosts

A, B, C = "https://a.example", "https://b.example", "https://c.example"
REFUSED, MOVED, TROUBLE, PROXY = "connection refused", "HTTP 404", "HTTP 500", "no connection to the proxy"
KINDS = ("connection refused", "host name not found", "HTTP 404", "HTTP 410", "HTTP 500", "timeout", "challenge page")
PATIENCE = 50.0
# The longest wait before a retry.
WAIT = 8.0

# The answer of a host at a time: a kind of failure, or None for a page.
Behaviour = Callable[[float], str | None]


def fail(hosts: Hosts, kind: str, now: float, attempts: int = TRIES) -> None:
    """Let one request fail at the current host as often as it is sent there, without time passing."""
    url = hosts.current
    for attempt in range(1, attempts + 1):
        if hosts.current == url:
            hosts.failed(url, kind, attempt, now)


def crawl(
    hosts: Hosts, behaviours: list[Behaviour], wait: float, now: float = 0.0
) -> tuple[list[tuple[float, str]], float]:
    """Send one request until it is answered or all hosts are given up; return the times by host, and the end."""
    behaves = dict(zip(hosts.urls, behaviours, strict=True))
    asked: list[tuple[float, str]] = []
    attempt, last = 0, ""
    while hosts.given_up_at is None:
        now = max(now + 0.01, hosts.may_be_sent_at(wait))
        url = hosts.current
        asked.append((now, url))
        kind = behaves[url](now)
        if kind is None:
            hosts.succeeded(url, now)
            break
        attempt, last = (attempt + 1 if url == last else 1), url
        hosts.failed(url, kind, attempt, now)
        assert len(asked) < 100_000
    return asked, now


def down(kind: str, since: float, until: float) -> Behaviour:
    """Return the behaviour of a host that fails for a while."""
    return lambda now: kind if since <= now < until else None


def dead(kind: str) -> Behaviour:
    """Return the behaviour of a host that always fails."""
    return lambda _now: kind


kinds = st.sampled_from(KINDS)
behaviours = st.one_of(
    kinds.map(dead),
    st.tuples(kinds, st.floats(0, PATIENCE), kinds, st.floats(0, PATIENCE)).map(
        lambda drawn: lambda now: drawn[0] if now < drawn[1] else drawn[2] if now < drawn[1] + drawn[3] else None
    ),
)


@given(st.lists(behaviours, min_size=1, max_size=4), st.floats(0.01, WAIT), st.sets(st.integers(0, 3)))
def test_all_are_given_up_only_if_none_would_have_answered_and_then_soon(
    drawn: list[Behaviour], wait: float, served: set[int]
) -> None:
    hosts = Hosts([f"https://{number}.example" for number in range(len(drawn))], PATIENCE)
    for number in served & set(range(len(drawn))):
        hosts.succeeded(hosts.urls[number], 0.0)
    asked, end = crawl(hosts, drawn, wait)
    if any(behaves(PATIENCE) is None and behaves(end) is None for behaves in drawn):
        assert hosts.given_up_at is None
    # After the patience each host is asked at most twice more.
    assert end <= PATIENCE + 2 * (wait + 1) * len(drawn)
    # No host is tried before the wait after its failure is over.
    for url in hosts.urls:
        moments = [now for now, host in asked if host == url]
        assert all(later - earlier >= wait - 1e-6 for earlier, later in pairwise(moments))


@given(st.lists(kinds, min_size=1, max_size=4), st.floats(0.01, WAIT))
def test_if_all_are_dead_each_is_named_with_its_failures(drawn: list[str], wait: float) -> None:
    hosts = Hosts([f"https://{number}.example" for number in range(len(drawn))], PATIENCE)
    crawl(hosts, list(map(dead, drawn)), wait)
    reason = hosts.explain()
    assert all(f"gave up on {url} after " in reason for url in hosts.urls)
    assert all(f" × {kind}" in reason for kind in drawn)


def unreachable(number: int) -> Hosts:
    """Return hosts with a shorter patience if none can be reached."""
    return Hosts([f"https://{each}.example" for each in range(number)], PATIENCE, patience_unreachable=8.0)


@given(st.lists(st.sampled_from(KINDS[:2]), min_size=1, max_size=4), st.floats(0.01, WAIT))
def test_if_none_can_be_reached_from_the_start_all_are_given_up_sooner(drawn: list[str], wait: float) -> None:
    hosts = unreachable(len(drawn))
    asked, end = crawl(hosts, list(map(dead, drawn)), wait)
    assert 8.0 <= end < 8.1
    assert all([url for _, url in asked].count(each) >= 2 for each in hosts.urls)
    # A host that works again by then is not given up either.
    hosts = unreachable(len(drawn))
    _, end = crawl(hosts, [down(kind, 0.0, 7.9) for kind in drawn], wait)
    assert (hosts.given_up_at, end < 8.1) == (None, True)


@pytest.mark.parametrize("served", ["in this process", "in an earlier one", "never"])
def test_a_host_that_served_or_answers_is_tried_for_the_whole_patience(served: str) -> None:
    hosts = unreachable(2)
    if served == "in this process":
        hosts.succeeded(hosts.urls[1], 0.0)
    elif served == "in an earlier one":
        hosts.restore({"current": hosts.urls[1], "served": [hosts.urls[1]], "rests": {}}, 0.0)
    other = TROUBLE if served == "never" else REFUSED
    assert crawl(hosts, [dead(REFUSED), dead(other)], 2.0)[1] >= PATIENCE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("patience", [0.0, 1.0, 60.0])
def test_one_host_is_given_up_by_the_first_failure_beyond_patience_but_never_by_a_single_one(
    kind: str, patience: float
) -> None:
    hosts = Hosts([A], patience)
    hosts.failed(A, kind, 1, 0.0)
    assert hosts.given_up_at is None
    for attempt, now in enumerate((0.5, 0.9, 10.0, 59.0, 61.0), 2):
        hosts.failed(A, kind, attempt, now)
        assert (hosts.given_up_at is not None) == (now >= patience)


@given(st.lists(st.tuples(st.floats(0.1, 30), st.booleans(), st.integers(0, 2), kinds), max_size=100))
def test_with_a_page_of_any_host_in_every_minute_none_is_given_up(
    events: list[tuple[float, bool, int, str]],
) -> None:
    hosts, now, last = Hosts([A, B, C], 60), 0.0, 0.0
    for gap, success, number, kind in events:
        now += gap
        if success or now - last > 59:
            hosts.succeeded(hosts.urls[number], now)
            last = now
        else:
            hosts.failed(hosts.current, kind, 1, now)
        assert hosts.given_up_at is None


def test_an_idle_hour_does_not_count_as_failure() -> None:
    hosts = Hosts([A, B], PATIENCE)
    hosts.succeeded(A, 0.0)
    fail(hosts, TROUBLE, 3_600.0)
    fail(hosts, TROUBLE, 3_601.0)
    assert (hosts.current, hosts.given_up_at) == (A, None)


@pytest.mark.parametrize(("kind", "attempts"), [(REFUSED, 1), ("host name not found", 1), (MOVED, TRIES)])
def test_a_host_that_never_served_is_left_at_once_if_it_cannot_be_reached(kind: str, attempts: int) -> None:
    hosts = Hosts([A, B], PATIENCE)
    fail(hosts, kind, 0.0, attempts - 1)
    assert hosts.current == A
    hosts.failed(A, kind, attempts, 0.0)
    assert hosts.current == B


@pytest.mark.parametrize("kind", [REFUSED, MOVED])
def test_a_host_that_served_is_retried_a_few_times(kind: str) -> None:
    hosts = Hosts([A, B], PATIENCE)
    hosts.succeeded(A, 0.0)
    # Many requests that fail at the same time do not count more.
    for _ in range(20):
        hosts.failed(A, kind, 1, 1.0)
    fail(hosts, kind, 1.0, TRIES - 1)
    assert hosts.current == A
    fail(hosts, kind, 1.0)
    assert hosts.current == B


def test_a_failing_host_is_left_after_half_of_the_patience() -> None:
    hosts = Hosts([A, B], PATIENCE)
    hosts.succeeded(A, 0.0)
    for now in (100.0, 110.0, 124.9):
        hosts.failed(A, TROUBLE, 9, now)
        assert hosts.current == A
    hosts.failed(A, TROUBLE, 10, 125.0)
    assert hosts.current == B


def test_a_failing_proxy_is_no_reason_to_use_another_host() -> None:
    hosts = Hosts([A, B], PATIENCE)
    for now in range(0, 60, 10):
        hosts.failed(A, PROXY, 1, float(now))
        assert hosts.current == A
    assert hosts.given_up_at == 50.0


def test_a_host_that_served_is_preferred_to_one_that_never_did() -> None:
    hosts = Hosts([A, B, C], PATIENCE)
    hosts.succeeded(C, 0.0)
    fail(hosts, REFUSED, 1.0)
    assert hosts.current == C


@pytest.mark.parametrize("kind", KINDS)
def test_the_host_that_served_is_found_again_if_the_others_never_did(kind: str) -> None:
    hosts = Hosts([A, B, C], PATIENCE)
    hosts.succeeded(A, 0.0)
    asked, end = crawl(hosts, [down(REFUSED, 0.0, 13.0), dead(kind), dead(REFUSED)], 0.5, now=10.0)
    assert (hosts.current, hosts.given_up_at) == (A, None)
    assert end <= 15.0
    assert len(asked) < 40


def test_an_endless_run_returns_to_a_host_after_as_long_as_it_has_been_failing() -> None:
    hosts = Hosts([A, B], PATIENCE)
    hosts.succeeded(A, 0.0)
    fail(hosts, REFUSED, 1.0)
    looked = []
    for now in range(2, 1_000):
        hosts.succeeded(B, float(now))
        hosts.begin_round(float(now))
        if hosts.current == A:
            looked.append(now)
            hosts.failed(A, TROUBLE, 1, float(now))
            # Any kind of failure is enough, even a single one.
            assert hosts.current == B
    assert looked[:4] == [2, 3, 5, 9]
    assert max(later - earlier for earlier, later in pairwise(looked)) <= 300
    hosts.begin_round(2_000.0)
    hosts.succeeded(A, 2_000.0)
    hosts.begin_round(2_001.0)
    assert hosts.current == A


def test_an_endless_run_starts_again_with_the_host_that_served() -> None:
    hosts = Hosts([A, B], PATIENCE)
    hosts.succeeded(B, 0.0)
    _, end = crawl(hosts, [dead(REFUSED), dead(REFUSED)], 1.0)
    assert hosts.given_up_at is not None
    hosts.begin_round(end)
    assert (hosts.current, hosts.given_up_at) == (B, None)
    hosts.failed(B, TROUBLE, 1, end + 1)
    assert (hosts.current, hosts.given_up_at) == (B, None)


def test_a_round_that_starts_while_hosts_fail_changes_nothing() -> None:
    hosts = Hosts([A, B], PATIENCE)
    fail(hosts, REFUSED, 0.0)
    fail(hosts, TROUBLE, 10.0)
    hosts.begin_round(20.0)
    assert hosts.current == B


def test_another_process_continues_with_the_host_that_was_used() -> None:
    hosts = Hosts([A, B, C], PATIENCE)
    hosts.succeeded(A, 0.0)
    fail(hosts, REFUSED, 40.0)
    hosts.succeeded(B, 41.0)
    noted = hosts.as_json(41.0)
    other = Hosts([A, B, C], PATIENCE)
    other.restore(noted, 1_000.0)
    assert other.current == B
    other.begin_round(1_000.0)
    assert other.current == A
    # It had failed, so one more failure is enough.
    fail(other, REFUSED, 1_000.0, 1)
    assert other.current == B
    elsewhere = Hosts([C], PATIENCE)
    elsewhere.restore(noted, 0.0)
    assert elsewhere.current == C


@given(st.lists(st.tuples(st.floats(0, 1_000), st.floats(0, 100)), max_size=20))
def test_pauses_never_get_shorter_and_their_sum_is_the_time_covered(pauses: list[tuple[float, float]]) -> None:
    host, total, covered, end = Host(), 0.0, 0.0, 0.0
    for now, length in sorted(pauses):
        before = host.paused_until
        total += host.pause(now + length, now)
        assert host.paused_until == max(before, now + length)
        covered += max(0.0, now + length - max(now, end))
        end = max(end, now + length)
    assert total == pytest.approx(covered)


def test_the_reason_of_a_wait_is_named_while_nothing_is_sent() -> None:
    hosts = Hosts([A, B], PATIENCE)
    # A request that waits while others are served.
    hosts.succeeded(A, 0.0)
    assert hosts.waits_for(9.0, 1.0) is None
    hosts.failed(A, TROUBLE, 1, 1.0)
    assert hosts.waits_for(9.0, 1.0) == "8 s: HTTP 500 from a.example"
    assert hosts.waits_for(1.9, 1.0) is None
    # A pause of the host holds for all requests, even if it still answers some.
    hosts.host(A).pause(31.0, 1.0)
    hosts.failed(A, "HTTP 429", 1, 1.0)
    hosts.succeeded(A, 1.5)
    assert hosts.waits_for(2.0, 2.0) == "29 s: HTTP 429 from a.example"
    assert hosts.waits_for(2.0, 31.0) is None


def test_a_single_failure_is_named_in_the_singular() -> None:
    hosts = Hosts([A], 10)
    hosts.failed(A, "timeout", 1, 0.0)
    hosts.failed(A, "timeout", 2, 11.0)
    assert f"gave up on {A} after 2 failures in 11 s " in hosts.explain()
    hosts = Hosts([A], 0)
    hosts.failed(A, "timeout", 1, 0.0)
    assert f"gave up on {A} after 1 failure in 0 s " in hosts.explain()


def test_why_a_host_was_given_up_is_one_readable_sentence() -> None:
    hosts = Hosts(["https://api.example"], 60)
    for now, kind in ((100, "HTTP 500"), (130, "timeout"), (161, "timeout")):
        hosts.failed("https://api.example", kind, 1, now, "line one\nline two " + "x" * 500)
    sentence = hosts.explain()
    assert sentence.startswith(
        "gave up on https://api.example after 3 failures in 61 s without a single page "
        "(2 × timeout, 1 × HTTP 500; the last: line one line two xxx"
    )
    assert sentence.endswith("x…); check the network, and the setting PARTI_API_BASE_URLS")
    assert len(sentence) < 450
