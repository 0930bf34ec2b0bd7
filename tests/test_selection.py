"""The filters that the client applies itself."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.api.build import Context
from parti_scraper.api.categories import CategoryIndex, resolve_categories, unknown_ids
from parti_scraper.api.registry import CATEGORIES, LIVESTREAMS
from parti_scraper.api.selection import Selection, select_categories
from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.exceptions import UsageError
from parti_scraper.items import Livestream

INDEX = CategoryIndex(
    CATEGORIES.normalize(
        json.dumps(
            [
                {"category_id": 7, "name": "Gaming", "display_name": "Gaming"},
                {"category_id": 23, "name": "Crypto", "display_name": "CRYPTO"},
                {"category_id": 16, "name": "", "display_name": "Valorant"},
            ]
        ).encode(),
        "",
        Context(""),
    ).items
)


def livestream(**record: object) -> Livestream:
    """Return a livestream as the API would send it."""
    (item,) = LIVESTREAMS.normalize(json.dumps([{"event_id": 1} | record]).encode(), "", Context("", INDEX)).items
    return item


@pytest.mark.parametrize(
    ("names", "values"),
    [
        ((), ()),
        (("NaN", "7", "7"), ("NaN", "7", "7")),
        (("gaming", "007", "valorant", "CRYPTO"), ("7", "7", "16", "23")),
        (("99",), ("99",)),
        (("all",), ("7", "23", "16")),
    ],
)
def test_names_become_ids_in_the_order_given(names: tuple[str, ...], values: tuple[str, ...]) -> None:
    assert resolve_categories(names, INDEX) == values


def test_a_name_that_the_route_does_not_know_is_a_usage_error() -> None:
    with pytest.raises(UsageError) as error:
        resolve_categories(("7", "Gamin"), INDEX)
    assert str(error.value) == (
        "argument `categories`: no such category: 'Gamin' (accepted: Gaming, Crypto, Valorant); did you mean `Gaming`?"
    )


def test_ids_that_the_route_does_not_have_are_reported() -> None:
    assert unknown_ids(("NaN", "7", "99"), INDEX) == ["99"]


@pytest.mark.parametrize(
    ("values", "names_taken"),
    [
        ((), {"Gaming", "Crypto", "", "Nowhere"}),
        (("NaN", "7"), {"Gaming", "Crypto", "", "Nowhere"}),
        (("7",), {"Gaming"}),
        (("7", "23"), {"Gaming", "Crypto"}),
        # What a record of a category without a name has is unknown, so records of unknown categories are kept.
        (("16",), {"", "Nowhere"}),
        (("99", "7"), {"Gaming", "", "Nowhere"}),
    ],
)
def test_only_the_requested_categories_are_selected(values: tuple[str, ...], names_taken: set[str]) -> None:
    selection = Selection(*select_categories(values, INDEX))
    names = ("Gaming", "Crypto", "", "Nowhere")
    assert {name for name in names if selection.takes(livestream(category_name=name))} == names_taken


@given(st.integers(0, 10**10), st.integers(0, 10**10), st.integers(0, 10**10))
def test_the_window_includes_both_bounds(since: int, until: int, end: int) -> None:
    selection = Selection(since=timestamp_to_iso(since), until=timestamp_to_iso(until))
    assert selection.takes(livestream(event_end_ts=end)) is (since <= end <= until)


def test_a_record_without_an_end_is_selected() -> None:
    assert Selection(since="2026-01-01T00:00:00Z", until="2026-01-02T00:00:00Z").takes(livestream())


@pytest.mark.parametrize(("user_id", "taken"), [(5, True), (6, False), (None, True)])
def test_only_the_requested_channel_is_selected(user_id: int | None, taken: bool) -> None:
    assert Selection(user_id=5).takes(livestream(user_id=user_id)) is taken


def test_a_record_with_an_impossible_end_is_taken() -> None:
    credible = ("2021-08-02T00:00:00Z", "2040-01-01T00:00:00Z")
    selection = Selection(since="2026-01-01T00:00:00Z", until="2026-01-02T00:00:00Z", credible=credible)
    ends = ("1970-01-01T00:00:00Z", "2025-12-31T23:59:59Z", "2026-01-03T00:00:00Z", "9999-12-31T23:59:59Z")
    assert [selection.takes(livestream(event_end_ts=end)) for end in ends] == [True, False, False, True]
