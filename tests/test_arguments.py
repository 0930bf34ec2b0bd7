"""Spider arguments: their values and their usage errors."""

from __future__ import annotations

import string
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.exceptions import UsageError
from parti_scraper.run.arguments import (
    LiveArguments,
    RecentArguments,
)
from tests.usage_errors import SPIDERS, USAGE_ERRORS

NOW = 1_795_478_400.9  # 2026-11-24T00:00:00.9Z


def recent(**raw: str) -> RecentArguments:
    """Parse arguments of the spider `recent`."""
    return RecentArguments.parse(raw, "recent", NOW)


def live(**raw: str) -> LiveArguments:
    """Parse arguments of the spider `live`."""
    return LiveArguments.parse(raw, "live", NOW)


def test_defaults_are_those_of_the_interface() -> None:
    assert recent() == RecentArguments(
        run_id=None,
        categories=(),
        since=1627948800,
        until=None,
        sort="date",
        limit=100,
        max_records=None,
        user_id=None,
        incremental=False,
    )
    assert live() == LiveArguments(
        run_id=None, categories=(), limit=100, max_records=None, interval=None, duration=None
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-01-31T12:00", 1769860800),
        ("2026-01-31T12:00Z", 1769860800),
        ("2026-01-31 12:00:00+02:00", 1769853600),
        ("1769860800", 1769860800),
        ("90s", 1795478310),
        ("90m", 1795473000),
        ("24h", 1795392000),
        ("7d", 1794873600),
        ("2w", 1794268800),
        ("0", 0),
    ],
)
def test_times_are_dates_unix_seconds_or_ages(text: str, seconds: int) -> None:
    assert recent(since=text).since == seconds
    assert recent(since="0", until=text).until == seconds


@pytest.mark.parametrize(
    ("text", "first"),
    [("2026-01-31", 1769817600), ("2026-W05-6", 1769817600), ("yesterday", 1795392000), ("today", 1795478400)],
)
def test_a_day_starts_at_midnight_and_as_until_is_included_whole(text: str, first: int) -> None:
    assert recent(since=text).since == first
    assert recent(since=text, until=text).until == first + 86_399


def test_fractions_of_a_second_never_widen_the_window() -> None:
    parsed = recent(since="2026-01-31T12:00:00.5Z", until="2026-01-31T12:00:09.5Z")
    assert (parsed.since, parsed.until) == (1769860801, 1769860809)


@pytest.mark.parametrize(
    ("text", "categories"),
    [
        ("7", ("7",)),
        ("NaN,7", ("NaN", "7")),
        ("nan, 7 ,7", ("NaN", "7", "7")),
        ("Gaming,call of duty", ("Gaming", "call of duty")),
        ("all", ("all",)),
    ],
)
def test_categories_keep_their_order_and_repeats(text: str, categories: tuple[str, ...]) -> None:
    assert recent(categories=text).categories == categories


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("300", 300), ("90s", 90), ("5m", 300), ("24h", 86400), ("7d", 604800), ("2w", 1209600), ("0.5", 0.5)],
)
def test_lengths_of_time_are_seconds_or_have_a_unit(text: str, seconds: float) -> None:
    assert live(interval=text).interval == seconds
    assert live(interval="1", duration=text).duration == seconds


def test_scrapyds_own_arguments_are_ignored() -> None:
    assert recent(_job="6487ec79947edab326d6db28a2d86511e8247444", _version="1") == recent()


def test_given_has_the_values_that_are_not_defaults_as_json() -> None:
    assert recent(categories="NaN,7", limit="15", run_id="x", sort="date").given() == {
        "categories": ["NaN", "7"],
        "limit": 15,
    }


@pytest.mark.parametrize(("spider", "raw", "line"), USAGE_ERRORS)
def test_a_usage_error_names_argument_value_and_what_is_accepted(spider: str, raw: dict[str, str], line: str) -> None:
    with pytest.raises(UsageError) as error:
        SPIDERS[spider].parse(raw, spider, NOW)
    assert str(error.value) == line


def test_every_argument_except_the_numberless_has_a_usage_error_in_the_table() -> None:
    tested = {(spider, name) for spider, raw, _ in USAGE_ERRORS for name in raw}
    names = {name for name, _ in RecentArguments.help()} | {name for name, _ in LiveArguments.help()}
    assert names <= {name for _, name in tested}


@given(st.sampled_from(sorted(SPIDERS)), st.data())
def test_any_text_is_parsed_or_refused_in_one_line(spider: str, data: st.DataObject) -> None:
    names = [name for name, _ in SPIDERS[spider].help()]
    text = st.one_of(st.text(max_size=30), st.text(string.digits + ".smhdw-:TZ,", max_size=30))
    raw = data.draw(st.dictionaries(st.sampled_from(names), text))
    try:
        arguments = SPIDERS[spider].parse(raw, spider, NOW)
    except UsageError as error:
        line = str(error)
        assert line.splitlines() == [line]
        assert any(line.startswith(f"argument `{name}`: ") for name in raw)
        assert line.endswith((")", "`?"))
    else:
        assert set(arguments.given()) <= set(raw)


@given(st.datetimes(min_value=datetime(2021, 8, 3), max_value=datetime(2026, 11, 24)))  # noqa: DTZ001 - made aware below
def test_all_forms_of_a_time_give_the_same(moment: datetime) -> None:
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    texts = [
        moment.isoformat(),
        moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        moment.strftime("%Y-%m-%d %H:%M:%S"),
        str(int(moment.timestamp())),
    ]
    assert {recent(since=text).since for text in texts} == {int(moment.timestamp())}
