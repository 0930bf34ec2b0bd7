"""The text that names which livestreams an incremental run saw unchanged, and how the catalog reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.api.values import MAX_INTEGER, MIN_INTEGER
from parti_scraper.run.entries import CatalogError, Entry, Status
from parti_scraper.run.unchanged import Unchanged, decode, encode

numbers = st.integers(MIN_INTEGER, MAX_INTEGER) | st.integers(80_000, 81_000)


# --- Reading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"unchanged": "7 0"}, "`unchanged` is not a number and differences above 0"),
        ({"unchanged": f"{MAX_INTEGER} 1"}, "`unchanged` has a number of more than 64 bits"),
        ({"unchanged": [7]}, "Expected `str | null`"),
        ({"format_version": 3, "unchanged": "7"}, "made by a later version of this project"),
        ([], "Expected `object`"),
    ],
)
def test_a_damaged_data_package_is_one_line(tmp_path: Path, content: Any, problem: str) -> None:
    path = tmp_path / "datapackage.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CatalogError) as raised:
        Entry(str(tmp_path), Status.FINISHED).unchanged()
    assert str(raised.value).startswith(f"{path}: {problem}")
    assert "\n" not in str(raised.value)


def test_bytes_that_are_no_data_package_and_none_at_all_are_errors(tmp_path: Path) -> None:
    entry = Entry(str(tmp_path), Status.FINISHED)
    with pytest.raises(CatalogError, match="does not exist any more"):
        entry.unchanged()
    for content in (b"", b"{", b'{"unchanged": "\xff"}', b"[" * 100_000):
        (tmp_path / "datapackage.json").write_bytes(content)
        with pytest.raises(CatalogError):
            entry.unchanged()


# --- The text ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event_ids", "text"),
    [([], ""), ([0], "0"), ([80_674, 80_658, 80_662, 80_659, 80_659], "80658 1 3 12"), ([-2, 5], "-2 7")],
)
def test_numbers_are_differences_in_ascending_order(event_ids: list[int], text: str) -> None:
    assert encode(event_ids) == text
    assert decode(text) == tuple(sorted(set(event_ids)))


@given(st.lists(numbers))
def test_each_number_comes_back_once_in_ascending_order(event_ids: list[int]) -> None:
    assert decode(encode(event_ids)) == tuple(sorted(set(event_ids)))


@given(st.text("0123456789 -+_.\n٣", max_size=12))
def test_a_text_is_the_one_of_its_numbers_or_refused(text: str) -> None:
    try:
        event_ids = decode(text)
    except ValueError:
        return
    assert encode(event_ids) == text


@pytest.mark.parametrize(
    "text",
    [" ", "1 ", " 1", "1  2", "01", "-0", "1 0", "1 -1", "1 02", "+1", "1_0", "٣", "1\n", "1.0", "x", "9" * 5_000],
)
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="`unchanged`"):
        decode(text)


@given(st.lists(numbers), st.lists(numbers), st.lists(numbers))
def test_an_account_continues_from_its_text(before: list[int], after: list[int], written: list[int]) -> None:
    first, second = Unchanged(), Unchanged()
    for event_id in before:
        first.add(event_id)
    second.restore(first.as_json()["unchanged"])
    for event_id in after:
        second.add(event_id)
    for event_id in written:
        second.discard(event_id)
    assert second.as_json() == {"unchanged": encode({*before, *after} - {*written})}


def test_an_account_that_lacks_its_beginning_says_nothing() -> None:
    account = Unchanged()
    account.restore(None)
    account.add(7)
    assert account.as_json() == {}
