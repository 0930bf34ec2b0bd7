"""Routes, queries and hosts, compared with the specification's own commands."""

from __future__ import annotations

import re
import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.api import routes, urls
from parti_scraper.exceptions import UsageError
from tests.support import HOST, SPECIFICATION, specified_url


@pytest.mark.parametrize(
    ("name", "categories"), [("recent-NaN-7", ("NaN", "7")), ("recent-NaN-7-7", ("NaN", "7", "7"))]
)
def test_recent_requests_are_those_of_the_specification(name: str, categories: tuple[str, ...]) -> None:
    query = routes.RecentQuery(from_ts=1627948800, to_ts=2229292800, categories=categories)
    assert query.url(HOST, offset=0, limit=15) == specified_url(name)


def test_live_requests_are_those_of_the_specification() -> None:
    assert routes.LiveQuery(("7",)).url(HOST, offset=0, limit=12) == specified_url("live-7")


def test_categories_requests_are_those_of_the_specification() -> None:
    assert routes.categories_url(HOST) == specified_url("categories")


def test_the_specifications_host_is_the_first_and_its_headers_are_sent() -> None:
    command = (SPECIFICATION / "live-7.sh").read_text(encoding="utf-8")
    specified = dict(re.findall(r"-H '([^:]+): ([^']+)'", command))
    assert routes.BASE_URLS[0] == HOST
    assert specified == routes.HEADERS | {"User-Agent": routes.USER_AGENT}


def test_one_channel_and_top_views_are_requested_with_the_reported_parameters() -> None:
    url = routes.RecentQuery(1, 2, user_id=603610, top_views=True).url(HOST, 30, 15)
    assert url.endswith(
        "recent?sort_by_date_desc=false&from_ts=1&to_ts=2&followed_only=false"
        "&offset=30&limit=15&top_views_sort=true&by_user_id=603610"
    )


@pytest.mark.parametrize(
    ("user_name", "url"),
    [
        ("ironway", "https://parti.com/ironway"),
        ("a b", "https://parti.com/a%20b"),
        ("../x?#é\ud83d", "https://parti.com/..%2Fx%3F%23%C3%A9%3F"),
        ("x" * 200, "https://parti.com/" + "x" * 200),
        (None, None),
        ("", None),
    ],
)
def test_a_channels_address_comes_from_its_name(user_name: str | None, url: str | None) -> None:
    assert routes.channel_url(user_name) == url


@given(st.text(st.characters(exclude_categories=()) | st.sampled_from(string.printable), min_size=1))
def test_any_name_of_a_channel_is_quoted_in_its_address(user_name: str) -> None:
    assert routes.channel_url(user_name) == f"https://parti.com/{quote(user_name, safe='', errors='replace')}"


def test_base_urls_are_split_and_trimmed() -> None:
    assert urls.parse_base_urls(" https://a.example/ , http://127.0.0.1:8765,") == (
        "https://a.example",
        "http://127.0.0.1:8765",
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        " , ",
        "api.parti.com",
        "ftp://api.parti.com",
        "https://",
        "https://a.example/path",
        "https://a.example?x=1",
        "https://user:secret@a.example",
        "https://a.example:99999",
        "https://a.example:x",
        "https://[::1",
    ],
)
def test_an_invalid_base_url_is_refused(text: str) -> None:
    problem = "a user's name, not only a scheme and host" if "@" in text else "not a scheme and host"
    with pytest.raises(UsageError, match=rf"^setting `PARTI_API_BASE_URLS`: {problem}: '.*' \(accepted: ") as raised:
        urls.parse_base_urls(text)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:1", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:80", True),
        ("http://localhost:8765", True),
        ("https://api.parti.com", False),
        ("https://localhost.example", False),
        ("http://10.0.0.1", False),
    ],
)
def test_only_servers_of_this_machine_are_loopback(url: str, expected: bool) -> None:
    assert urls.is_loopback(url) is expected
