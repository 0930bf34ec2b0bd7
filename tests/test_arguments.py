"""Spider arguments: what they mean, and what is said where they mean nothing."""

from __future__ import annotations

import string
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.exceptions import UsageError
from parti_scraper.run.arguments import (
    Arguments,
    CategoriesArguments,
    LiveArguments,
    NotificationsArguments,
    RecentArguments,
    SiteArguments,
)

NOW = 1_795_478_400.9  # 2026-11-24T00:00:00.9Z
SPIDERS: dict[str, type[Arguments]] = {
    "categories": CategoriesArguments,
    "recent": RecentArguments,
    "live": LiveArguments,
    "notifications": NotificationsArguments,
    "site": SiteArguments,
}


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
def test_a_day_begins_at_midnight_and_as_the_end_is_in_it_as_a_whole(text: str, first: int) -> None:
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


def test_scrapyds_own_arguments_are_passed_over() -> None:
    assert recent(_job="6487ec79947edab326d6db28a2d86511e8247444", _version="1") == recent()


def test_given_holds_what_differs_from_the_defaults_as_json_takes_it() -> None:
    assert recent(categories="NaN,7", limit="15", run_id="x", sort="date").given() == {
        "categories": ["NaN", "7"],
        "limit": 15,
    }


TIMES = "2026-01-31, 2026-01-31T12:00Z, 1769860800, 7d, 2w, today, yesterday"
LENGTHS = "seconds, or 90s, 5m, 24h, 7d, 2w"
CATEGORIES = "comma-separated ids, names or NaN, or `all` alone"
RUN_IDS = "letters, digits, `.`, `_` and `-`, at most 100"
RECENT = "categories, incremental, limit, max_records, run_id, since, sort, until, user_id"

# Spider, arguments, and the line that is printed: a promise, to the letter.
USAGE_ERRORS: list[tuple[str, dict[str, str], str]] = [
    (
        "recent",
        {"sinse": "7d"},
        f"argument `sinse`: not known to the spider `recent`: '7d' (accepted: {RECENT}); did you mean `since`?",
    ),
    (
        "live",
        {"since": "7d"},
        (
            "argument `since`: not known to the spider `live`: '7d' "
            "(accepted: categories, duration, interval, limit, max_records, run_id)"
        ),
    ),
    ("categories", {"limit": "5"}, "argument `limit`: not known to the spider `categories`: '5' (accepted: run_id)"),
    (
        "recent",
        {"since": "yesterdayish"},
        f"argument `since`: not a date or an age: 'yesterdayish' (accepted: {TIMES})",
    ),
    ("recent", {"until": ""}, f"argument `until`: not a date or an age: '' (accepted: {TIMES})"),
    ("recent", {"since": "2026-02-30"}, f"argument `since`: not a date or an age: '2026-02-30' (accepted: {TIMES})"),
    ("recent", {"since": "-7d"}, f"argument `since`: not a date or an age: '-7d' (accepted: {TIMES})"),
    (
        "recent",
        {"since": "20260131"},
        f"argument `since`: a date or Unix seconds, it could be either: '20260131' (accepted: {TIMES})",
    ),
    (
        "recent",
        {"since": "999999999d"},
        f"argument `since`: a time before 1970 or after 9999: '999999999d' (accepted: {TIMES})",
    ),
    (
        "recent",
        {"since": "1769860800000"},
        f"argument `since`: not a date or an age: '1769860800000' (accepted: {TIMES})",
    ),
    (
        "recent",
        {"since": "2026-11-01", "until": "2026-10-01"},
        "argument `since`: later than `until`: '2026-11-01' (accepted: at or before 2026-10-01T23:59:59Z)",
    ),
    (
        "recent",
        {"since": "2027-01-01"},
        "argument `since`: later than `until`: '2027-01-01' (accepted: at or before 2026-11-24T00:00:00Z)",
    ),
    (
        "recent",
        {"until": "2020-01-01"},
        "argument `until`: earlier than `since`: '2020-01-01' (accepted: at or after 2021-08-03T00:00:00Z)",
    ),
    ("recent", {"sort": "length"}, "argument `sort`: not one of the choices: 'length' (accepted: date, views)"),
    ("recent", {"limit": "0"}, "argument `limit`: out of range: '0' (accepted: 1 to 1000)"),
    ("live", {"limit": "1001"}, "argument `limit`: out of range: '1001' (accepted: 1 to 1000)"),
    ("live", {"limit": "ten"}, "argument `limit`: not a whole number: 'ten' (accepted: 1 to 1000)"),
    ("live", {"limit": "1_0"}, "argument `limit`: not a whole number: '1_0' (accepted: 1 to 1000)"),
    ("live", {"limit": "\u0661"}, "argument `limit`: not a whole number: '\u0661' (accepted: 1 to 1000)"),
    ("live", {"limit": "9" * 5000}, f"argument `limit`: not a whole number: '{'9' * 100}…' (accepted: 1 to 1000)"),
    ("live", {"max_records": "0"}, "argument `max_records`: out of range: '0' (accepted: 1 or more)"),
    (
        "recent",
        {"incremental": "yes"},
        "argument `incremental`: neither true nor false: 'yes' (accepted: true, false)",
    ),
    (
        "recent",
        {"user_id": "ironway"},
        "argument `user_id`: not a whole number: 'ironway' (accepted: a channel's number)",
    ),
    ("recent", {"categories": ""}, f"argument `categories`: an empty list: '' (accepted: {CATEGORIES})"),
    (
        "live",
        {"categories": "7,,10"},
        f"argument `categories`: an empty name in the list: '7,,10' (accepted: {CATEGORIES})",
    ),
    ("live", {"categories": "all,7"}, f"argument `categories`: `all` stands alone: 'all,7' (accepted: {CATEGORIES})"),
    ("live", {"interval": "often"}, f"argument `interval`: not a length of time: 'often' (accepted: {LENGTHS})"),
    ("live", {"interval": "0"}, f"argument `interval`: not longer than nothing: '0' (accepted: {LENGTHS})"),
    (
        "live",
        {"interval": "5", "duration": "1y"},
        f"argument `duration`: not a length of time: '1y' (accepted: {LENGTHS})",
    ),
    ("live", {"duration": "5m"}, "argument `duration`: needs `interval`: '5m' (accepted: together with `interval`)"),
    *(
        ("site", {"url": url}, f"argument `url`: {problem}: {url!r} (accepted: such as https://parti.com/categories)")
        for url, problem in (
            ("parti.com", "not the address of a page"),
            ("file:///etc/passwd", "not the address of a page"),
            ("https://x:99999/", "not the address of a page"),
            ("https://parti.com/a b", "not the address of a page"),
            ("https://me:secret@parti.com/", "an address with a user's name, which would be stored"),
        )
    ),
    (
        "recent",
        {"run_id": "../x"},
        f"argument `run_id`: not usable as the name of a folder: '../x' (accepted: {RUN_IDS})",
    ),
    ("recent", {"run_id": ".x"}, f"argument `run_id`: not usable as the name of a folder: '.x' (accepted: {RUN_IDS})"),
    (
        "recent",
        {"sort": "a\nb"},
        "argument `sort`: not one of the choices: 'a\\nb' (accepted: date, views)",
    ),
]


@pytest.mark.parametrize(("spider", "raw", "line"), USAGE_ERRORS)
def test_a_usage_error_names_argument_value_and_what_is_accepted(spider: str, raw: dict[str, str], line: str) -> None:
    with pytest.raises(UsageError) as error:
        SPIDERS[spider].parse(raw, spider, NOW)
    assert str(error.value) == line


def test_every_argument_but_the_numberless_has_a_usage_error_in_the_table() -> None:
    tested = {(spider, name) for spider, raw, _ in USAGE_ERRORS for name in raw}
    names = {name for name, _ in RecentArguments.help()} | {name for name, _ in LiveArguments.help()}
    assert names <= {name for _, name in tested}


@given(st.sampled_from(sorted(SPIDERS)), st.data())
def test_whatever_is_typed_is_parsed_or_refused_in_one_line(spider: str, data: st.DataObject) -> None:
    names = [name for name, _ in SPIDERS[spider].help()]
    text = st.one_of(st.text(max_size=30), st.text(string.digits + ".smhdw-:TZ,", max_size=30))
    raw = data.draw(st.dictionaries(st.sampled_from(names), text))
    try:
        arguments = SPIDERS[spider].parse(raw, spider, NOW)
    except UsageError as error:
        line = str(error)
        assert line.splitlines() == [line]
        assert any(line.startswith(f"argument `{name}`: ") for name in raw)
        assert line.endswith(")")
    else:
        assert set(arguments.given()) <= set(raw)


@given(st.datetimes(min_value=datetime(2021, 8, 3), max_value=datetime(2026, 11, 24)))  # noqa: DTZ001 - made aware below
def test_every_way_to_write_a_time_gives_the_same(moment: datetime) -> None:
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    texts = [
        moment.isoformat(),
        moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        moment.strftime("%Y-%m-%d %H:%M:%S"),
        str(int(moment.timestamp())),
    ]
    assert {recent(since=text).since for text in texts} == {int(moment.timestamp())}
