"""When to try again: bounds of the back-off, every form of Retry-After, and when a host is given up."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.backoff import (
    MAX_RETRY_AFTER,
    SECOND_CHANCE_AFTER,
    Attempts,
    HostHealth,
    advice,
    backoff_ceiling,
    equal_jitter,
    full_jitter,
    listing,
    parse_retry_after,
)

attempts = st.integers(1, 100_000)
delays = st.floats(0.001, 60)
fractions = st.floats(0, 1)
# Whole seconds of the years that a date of two digits can name.
moments = st.integers(0, int(datetime(2068, 1, 1, tzinfo=UTC).timestamp()))
FORMS = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y")


@given(attempts, delays, fractions)
def test_waits_stay_between_nothing_or_half_the_ceiling_and_the_ceiling(
    attempt: int, delay: float, random: float
) -> None:
    ceiling = backoff_ceiling(attempt, delay)
    assert delay <= ceiling <= 16 * delay
    assert 0 <= full_jitter(attempt, delay, random) <= ceiling
    assert ceiling / 2 <= equal_jitter(attempt, delay, random) <= ceiling


def test_the_ceiling_doubles_with_each_attempt_until_it_is_sixteen_times_the_first() -> None:
    assert [backoff_ceiling(attempt, 0.5) for attempt in range(1, 8)] == [0.5, 1, 2, 4, 8, 8, 8]


@given(st.integers(0, 10**6), st.sampled_from(["{}", " {} ", "00{}", "\t{}"]), moments)
def test_seconds_are_read_and_capped(seconds: int, written: str, now: int) -> None:
    assert parse_retry_after(written.format(seconds), now) == min(seconds, MAX_RETRY_AFTER)


@given(moments, st.integers(-100, 100), st.sampled_from(FORMS))
def test_a_date_in_each_form_is_read_and_capped(now: int, ahead: int, form: str) -> None:
    moment = max(now + ahead, 0)
    written = datetime.fromtimestamp(moment, UTC).strftime(form)
    assert parse_retry_after(written, now) == min(max(moment - now, 0), MAX_RETRY_AFTER)


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        ("Sun Nov  6 08:49:37 1994", 784111777),
    ],
)
def test_the_examples_of_rfc_9110_are_the_same_moment(written: str, moment: int) -> None:
    assert parse_retry_after(written, moment - 10) == 10


@pytest.mark.parametrize(
    "nonsense",
    ["", " ", "soon", "-1", "+5", "1.5", "1e3", "٣", "5 s", "Sun", "Sun, 31 Feb 1994 08:49:37 GMT", "None", "10:30"],
)
def test_nonsense_is_no_retry_after(nonsense: str) -> None:
    assert parse_retry_after(nonsense, 0) is None


@given(st.text() | st.from_regex(r"\A[A-Z][a-z]{2},? .{0,40}\Z"))
def test_no_text_raises_or_waits_longer_than_the_cap(text: str) -> None:
    seconds = parse_retry_after(text, 1_000_000_000)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER


def test_a_number_of_any_length_is_capped() -> None:
    assert parse_retry_after("9" * 10_000, 0) == MAX_RETRY_AFTER


@given(st.lists(st.tuples(st.floats(0, 1_000), st.floats(0, 100)), max_size=20))
def test_pauses_never_get_shorter_and_their_sum_is_the_time_covered(pauses: list[tuple[float, float]]) -> None:
    health, total, covered, end = HostHealth(60), 0.0, 0.0, 0.0
    for now, length in sorted(pauses):
        before = health.paused_until
        total += health.pause(now + length, now)
        assert health.paused_until == max(before, now + length)
        covered += max(0.0, now + length - max(now, end))
        end = max(end, now + length)
    assert total == pytest.approx(covered)


@given(st.lists(st.floats(0.1, 30), min_size=1, max_size=9), st.sampled_from([0.0, 1.0, 60.0]))
def test_a_host_is_given_up_by_the_first_failure_beyond_patience_but_never_by_a_single_one(
    gaps: list[float], patience: float
) -> None:
    health, now = HostHealth(patience), 0.0
    health.failed("timeout", now)
    assert not health.is_given_up(now)
    for gap in gaps:
        now += gap
        health.failed("timeout", now)
        assert health.is_given_up(now) == (now >= patience)


@given(st.lists(st.tuples(st.floats(0.1, 30), st.booleans()), max_size=100))
def test_a_host_with_a_success_in_every_minute_is_never_given_up(events: list[tuple[float, bool]]) -> None:
    health, now, last = HostHealth(60), 0.0, 0.0
    for gap, success in events:
        now += gap
        if success or now - last > 59:
            health.succeeded(now)
            last = now
        else:
            health.failed("HTTP 500", now)
    assert not health.is_given_up(now)


def test_an_idle_hour_is_no_evidence_against_a_host() -> None:
    health = HostHealth(60)
    health.succeeded(0)
    health.failed("timeout", 3600)
    health.failed("timeout", 3601)
    assert not health.is_given_up(3601)


def test_a_host_that_was_given_up_stays_so_until_its_second_chance() -> None:
    health = HostHealth(1)
    for now in (0, 2, 4):
        health.failed("timeout", now)
    assert health.is_given_up(2)
    health.succeeded(5)
    assert health.is_given_up(2 + SECOND_CHANCE_AFTER - 1)
    assert not health.is_given_up(2 + SECOND_CHANCE_AFTER)
    health.failed("timeout", 400)
    assert not health.is_given_up(400)
    health.failed("timeout", 401)
    assert health.is_given_up(401)


def test_a_request_is_exhausted_only_while_others_succeed() -> None:
    health, tried = HostHealth(60), Attempts(since=10)
    for _ in range(4):
        tried = tried.failed("HTTP 500", 11)
    assert not health.is_exhausted(tried, 3)
    health.succeeded(9)
    assert not health.is_exhausted(tried, 3)
    health.succeeded(11)
    assert health.is_exhausted(tried, 3)
    assert not health.is_exhausted(tried, 4)


def test_attempts_are_counted_by_kind_and_the_record_before_stays_as_it_was() -> None:
    first = Attempts(since=10)
    second = first.failed("timeout", 11).failed("HTTP 500", 13).failed("timeout", 15)
    assert (second.number, second.kinds, second.not_before) == (3, Counter({"timeout": 2, "HTTP 500": 1}), 15)
    assert first.number == 0


def test_why_a_host_was_given_up_is_one_readable_sentence() -> None:
    health = HostHealth(60)
    for now, kind in ((100, "HTTP 500"), (130, "timeout"), (161, "timeout")):
        health.failed(kind, now, "line one\nline two " + "x" * 500)
    sentence = health.explain("https://api.example")
    assert sentence.startswith(
        "gave up on https://api.example after 3 failures in 61 s without a single page "
        "(2 × timeout, 1 × HTTP 500; the last: line one line two xxx"
    )
    assert sentence.endswith("x…); check the network, and the setting PARTI_API_BASE_URLS")
    assert len(sentence) < 450


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("HTTP 429", "DOWNLOAD_DELAY"),
        ("HTTP 503", "in trouble"),
        ("challenge page", "robot"),
        ("answer cut short", "not whole"),
        ("answer unreadable", "not whole"),
        ("connection refused", "PARTI_API_BASE_URLS"),
        ("timeout", "PARTI_API_BASE_URLS"),
    ],
)
def test_the_advice_is_about_what_failed_most(kind: str, hint: str) -> None:
    kinds = Counter({kind: 2, "something else": 1})
    assert hint in advice(kinds)
    assert listing(kinds) == f"2 × {kind}, 1 × something else"
