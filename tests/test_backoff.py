"""When to retry: bounds of the back-off, every form of Retry-After, and failures of a request."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.network.backoff import (
    MAX_RETRY_AFTER,
    Attempts,
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
# Whole seconds in the years that a two-digit year can mean.
moments = st.integers(0, int(datetime(2068, 1, 1, tzinfo=UTC).timestamp()))
FORMS = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y")


@given(attempts, delays, fractions)
def test_waits_are_between_zero_or_half_the_ceiling_and_the_ceiling(attempt: int, delay: float, random: float) -> None:
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
def test_an_invalid_retry_after_is_ignored(nonsense: str) -> None:
    assert parse_retry_after(nonsense, 0) is None


@given(st.text() | st.from_regex(r"\A[A-Z][a-z]{2},? .{0,40}\Z"))
def test_no_text_raises_or_waits_longer_than_the_cap(text: str) -> None:
    seconds = parse_retry_after(text, 1_000_000_000)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER


def test_a_number_of_any_length_is_capped() -> None:
    assert parse_retry_after("9" * 10_000, 0) == MAX_RETRY_AFTER


def test_attempts_are_counted_by_kind_and_earlier_counts_do_not_change() -> None:
    first = Attempts(since=10)
    second = first.failed("timeout", "a").failed("HTTP 500", "b").failed("timeout", "b")
    assert (second.number, second.kinds) == (3, Counter({"timeout": 2, "HTTP 500": 1}))
    assert (second.host, second.in_a_row, second.by_host) == ("b", 2, Counter({"b": 2, "a": 1}))
    assert first.number == 0


def test_only_answers_in_a_row_of_one_host_are_contradicted() -> None:
    twice = Attempts(since=10).was_contradicted("HTTP 404", "a").was_contradicted("HTTP 404", "a")
    assert (twice.number, twice.in_a_row, twice.contradicted) == (2, 0, 2)
    assert twice.failed("timeout", "a").contradicted == 0
    assert twice.was_contradicted("HTTP 404", "b").contradicted == 1


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("HTTP 429", "DOWNLOAD_DELAY"),
        ("HTTP 404", "this route"),
        ("HTTP 410", "this route"),
        ("HTTP 503", "in trouble"),
        ("challenge page", "robot"),
        ("answer cut short", "not whole"),
        ("answer unreadable", "not whole"),
        ("connection refused", "PARTI_API_BASE_URLS"),
        ("timeout", "PARTI_API_BASE_URLS"),
        ("no connection", "PARTI_API_BASE_URLS"),
        ("no connection to the proxy", "ALL_PROXY"),
    ],
)
def test_the_advice_is_about_what_failed_most(kind: str, hint: str) -> None:
    kinds = Counter({kind: 2, "something else": 1})
    assert hint in advice(kinds)
    assert listing(kinds) == f"2 × {kind}, 1 × something else"
