"""The registry of routes: its rows are complete, and match the items."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args

import pytest

from parti_scraper.api.build import Context
from parti_scraper.api.categories import CategoryIndex
from parti_scraper.api.registry import BY_NAME, SOURCES, Source, source_of
from parti_scraper.items import ApiRecord

CONTEXT = Context("2026-01-01T00:00:00Z", CategoryIndex(), "snapshot", 0)
ROWS = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.route.name)


def test_every_kind_of_record_of_the_api_has_one_row() -> None:
    assert sorted(source.item_class.__name__ for source in SOURCES) == sorted(
        each.__name__ for each in get_args(ApiRecord)
    )
    for names in ([source.route.name for source in SOURCES], [source.item_class.collection for source in SOURCES]):
        assert len(set(names)) == len(names)


@ROWS
def test_a_row_is_found_by_its_route(source: Source[Any, Any]) -> None:
    assert BY_NAME[source.route.name] is source
    if source.route.path:
        assert source_of(f"https://host.example{source.route.path}?limit=1") is source


def test_no_row_is_found_for_another_address() -> None:
    for url in ("https://host.example", "https://host.example/", "wss://ws-backend.parti.com/"):
        assert source_of(url) is None


@ROWS
def test_items_with_the_same_key_are_duplicates(source: Source[Any, Any]) -> None:
    record = source.record_class(
        **{name: number for number, name in enumerate(source.record_class.__struct_fields__, 1) if name.endswith("_id")}
    )
    item = source.builder(CONTEXT)(record, {}, 0)
    assert set(source.key) <= {field.name for field in fields(item)}
    key = tuple(getattr(item, name) for name in source.key if name != "snapshot_id")
    assert key in {item.identity, (item.identity,)}


@ROWS
def test_the_items_of_a_row_are_of_its_class(source: Source[Any, Any]) -> None:
    body = b'[{"event_id": 1, "user_id": 2, "category_id": 3}, {}]'
    page = source.normalize(body, "https://host.example/", CONTEXT)
    assert [type(item) for item in page.items] == [source.item_class]
    assert len(page.rejected) == 1
