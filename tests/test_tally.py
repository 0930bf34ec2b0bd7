"""The tally: counts of a run's records by outcome."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.run.outcome import Counts
from parti_scraper.run.tally import KEYS, Tally

ACCOUNTS = ("written", "duplicate", "quarantined", "filtered", "dropped")
additions = st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 5)), max_size=30)


def tally_of(**numbers: int) -> Tally:
    """Return a tally with these counts."""
    tally = Tally()
    for key, number in numbers.items():
        tally.add(key, number)
    return tally


def test_the_keys_are_those_of_the_ledger() -> None:
    assert KEYS == (
        "pages",
        "served",
        "written",
        "duplicate",
        "quarantined",
        "filtered",
        "dropped",
        "new",
        "changed",
    )


@given(additions)
def test_each_count_is_the_sum_of_what_was_added_to_it(added: list[tuple[str, int]]) -> None:
    tally = Tally()
    expected = dict.fromkeys(KEYS, 0)
    for key, number in added:
        tally.add(key, number)
        expected[key] += number
    assert tally.as_json() == {key: getattr(tally, key) for key in KEYS} == expected
    counts = tally.counts(3)
    assert asdict(counts) == {key: expected[key] for key in KEYS[:-2]} | {"unknown_fields": 3}
    assert tally.balances() == counts.balance() == (expected["served"] == sum(expected[key] for key in ACCOUNTS))


def test_an_unknown_count_is_an_error() -> None:
    tally = Tally()
    with pytest.raises(KeyError):
        tally.add("severed")
    with pytest.raises(KeyError):
        tally["severed"]
    with pytest.raises(KeyError, match="item_scraped_count"):
        tally.restore({"served": 3, "item_scraped_count": 2}, {})
    assert tally.as_json() == dict.fromkeys(KEYS, 0)


@pytest.mark.parametrize("name", [*KEYS, "categories", "severed"])
def test_only_the_tally_changes_counts(name: str) -> None:
    tally = tally_of(served=2)
    with pytest.raises(AttributeError):
        setattr(tally, name, 1)
    tally.categories["Gaming"] += 1
    assert tally.categories == Counter()


def test_a_snapshot_of_the_counts_does_not_change() -> None:
    tally = tally_of(served=2)
    before = tally.counts()
    tally.add("served")
    assert (before, tally.counts()) == (Counts(served=2), Counts(served=3))
    with pytest.raises(AttributeError):
        before.served = 9  # type: ignore[misc]


def test_records_that_were_written_are_counted_by_category() -> None:
    tally = tally_of(served=4)
    tally.wrote(["Gaming", "Music"])
    tally.wrote(iter(["Gaming"]))
    tally.wrote([])
    assert (tally.written, tally.categories) == (3, {"Gaming": 2, "Music": 1})


@given(additions, st.dictionaries(st.text(max_size=3), st.integers(1, 5), max_size=3), additions)
def test_a_tally_continues_from_the_checkpoint(
    before: list[tuple[str, int]], categories: dict[str, int], since: list[tuple[str, int]]
) -> None:
    noted, undisturbed = Tally(), Tally()
    for key, number in before:
        noted.add(key, number)
    # One that had counts of its own, which are newer than the checkpoint.
    restored = tally_of(served=7, filtered=2)
    restored.wrote(["Gaming"])
    restored.restore(json.loads(json.dumps(noted.as_json())), categories)
    assert restored.categories == categories
    for key, number in since:
        restored.add(key, number)
    for key, number in before + since:
        undisturbed.add(key, number)
    assert restored.as_json() == undisturbed.as_json()


def test_a_count_that_is_not_in_the_checkpoint_starts_at_0() -> None:
    tally = tally_of(served=2, pages=3)
    tally.restore({"served": 1}, {})
    assert tally.as_json() == dict.fromkeys(KEYS, 0) | {"served": 1}


@given(st.lists(st.tuples(st.sampled_from(("served", *ACCOUNTS)), st.integers(0, 3)), max_size=30), st.integers(0, 30))
def test_a_callback_is_called_once_as_soon_as_every_record_is_counted(
    added: list[tuple[str, int]], asked_after: int
) -> None:
    tally = Tally()
    calls: list[int] = []
    due: list[int] = []
    for step, (key, number) in enumerate([*added, ("served", 0)]):
        if step == min(asked_after, len(added)):
            tally.call_when_balanced(lambda: calls.append(step))  # noqa: B023 - called within the step
        tally.add(key, number)
        expected = tally.served <= sum(tally[account] for account in ACCOUNTS)
        if step >= min(asked_after, len(added)) and not due and (expected or calls):
            due.append(step)
        assert calls == due


def test_a_callback_that_counts_and_registers_again_is_called_again() -> None:
    tally = tally_of(served=1)
    calls: list[str] = []

    def again() -> None:
        calls.append("again")
        tally.add("served")
        tally.call_when_balanced(lambda: calls.append("last"))

    tally.call_when_balanced(again)
    tally.call_when_balanced(lambda: calls.append("other"))
    assert calls == []
    tally.wrote(["Gaming"])
    assert calls == ["again", "other"]
    tally.add("duplicate")
    tally.add("duplicate")
    assert calls == ["again", "other", "last"]


def test_a_callback_is_called_at_once_if_every_record_is_counted_also_after_a_restore() -> None:
    calls: list[Any] = []
    tally = Tally()
    tally.call_when_balanced(lambda: calls.append(1))
    assert calls == [1]
    tally.add("served")
    tally.call_when_balanced(lambda: calls.append(2))
    tally.restore({"served": 5, "written": 5}, {"Gaming": 5})
    assert calls == [1, 2]
