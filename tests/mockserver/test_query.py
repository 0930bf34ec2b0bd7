"""Queries for each reading of the open questions, compared with a model that searches every record."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import MultiDict

from parti_scraper.mockserver import Options, World
from parti_scraper.mockserver.query import QueryError, parse_live, parse_recent
from tests.mockserver import model
from tests.support import NOW

# Small, with many ties, livestreams without a category and long ones, to reach every edge case.
CROWDED: dict[str, Any] = {
    "now": NOW,
    "speed": 0,
    "events": 120,
    "live": 30,
    "years": 0.05,
    "ties": 0.4,
    "uncategorized": 0.1,
    "nameless": "display_name",
}
WORLD = World(Options(**CROWDED))
RECORDS, LIVE = WORLD.recent_at(), WORLD.live_at()
TIMES = sorted({record[field] for record in RECORDS for field in ("event_start_ts", "event_end_ts")})

SWITCHES = st.fixed_dictionaries(
    {},
    optional={
        "page_cap": st.sampled_from([1, 15, 100]),
        "above_cap": st.sampled_from(["clamp", "refuse", "ignore"]),
        "offset": st.just("ignored"),
        "time_filter": st.sampled_from(["end", "start", "ignored"]),
        "bounds": st.sampled_from(["closed", "open", "half-open"]),
        "categories": st.sampled_from(["or", "last", "ignored"]),
        "nan": st.sampled_from(["unfiltered", "ignored", "none", "error"]),
        "user_filter": st.just("ignored"),
    },
).map(lambda switches: Options(**CROWDED | switches))
MOMENTS = st.builds(lambda time, shift: str(time + shift), st.sampled_from(TIMES), st.integers(-1, 1))
PAGES = {"offset": st.integers(0, 130).map(str), "limit": st.integers(0, 120).map(str)}
CATEGORIES = st.lists(st.sampled_from(["7", "21", "16", "NaN", "99"]), max_size=3)
QUERIES = st.builds(
    lambda single, categories: [*single.items(), *(("categories", each) for each in categories)],
    st.fixed_dictionaries(
        {},
        optional={
            "from_ts": MOMENTS,
            "to_ts": MOMENTS,
            "by_user_id": st.sampled_from([str(record["user_id"]) for record in RECORDS[:5]]),
            "sort_by_date_desc": st.sampled_from(["true", "false"]),
            "top_views_sort": st.sampled_from(["true", "false"]),
            "followed_only": st.sampled_from(["false", "false", "true"]),
            **PAGES,
        },
    ),
    CATEGORIES,
)
LIVE_QUERIES = st.builds(
    lambda single, categories: [*single.items(), *(("categories", each) for each in categories)],
    st.fixed_dictionaries({}, optional=PAGES),
    CATEGORIES,
)


def served(encoded: list[bytes]) -> list[int]:
    """Return the ids of records as they are served."""
    return [json.loads(record)["event_id"] for record in encoded]


def answered(answer: Callable[[], list[int]]) -> list[int] | int:
    """Return the ids of an answer, or the status of a refusal."""
    try:
        return answer()
    except QueryError as error:
        return error.status
    except model.RefusedError as error:
        return int(error.args[0])


def asked(world: World, query: model.Query, options: Options) -> list[int] | int:
    """Return the server's answer on the recent route."""
    return answered(lambda: served(world.recent_page(*parse_recent(MultiDict(query), options))))


def expected(world: World, query: model.Query, options: Options) -> list[int] | int:
    """Return the model's answer."""
    return answered(lambda: model.recent_ids(world.recent_at(), world.categories(), query, options))


@settings(max_examples=400)
@given(QUERIES, SWITCHES)
@example([("from_ts", str(TIMES[-1])), ("to_ts", str(TIMES[0]))], Options(**CROWDED))
@example([("from_ts", "0"), ("to_ts", "9" * 18), ("limit", "100")], Options(**CROWDED, time_filter="start"))
def test_a_page_of_recent_equals_that_of_a_linear_search(query: model.Query, options: Options) -> None:
    assert asked(WORLD, query, options) == expected(WORLD, query, options)


@given(LIVE_QUERIES, SWITCHES)
def test_a_page_of_live_equals_that_of_a_linear_search(query: model.Query, options: Options) -> None:
    answer = answered(lambda: served(WORLD.live_page(*parse_live(MultiDict(query), options))))
    assert answer == answered(lambda: model.live_ids(LIVE, WORLD.categories(), query, options))


@settings(max_examples=60)
@given(st.lists(st.one_of(QUERIES, st.sampled_from(["insert", "delete", "advance"])), max_size=12), SWITCHES)
def test_pages_follow_every_insertion_deletion_and_end(steps: list[Any], options: Options) -> None:
    world = World(options)
    queries: list[model.Query] = [[("top_views_sort", "true")], [("categories", "7"), ("categories", "21")]]
    for step in steps:
        if step == "insert":
            world.insert_now()
        elif step == "delete":
            world.delete_now()
        elif step == "advance":
            world.advance(60)
        else:
            queries.append(step)
        # The earlier queries too: their kept lists must not be stale.
        for query in queries:
            assert asked(world, query, options) == expected(world, query, options)


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "many"},
        {"limit": "-1"},
        {"offset": "-1"},
        {"offset": "1.5"},
        {"from_ts": "NaN"},
        {"to_ts": "2026-01-01"},
        {"by_user_id": "ironway"},
        {"categories": "Gaming"},
        {"categories": ""},
    ],
)
def test_an_invalid_number_is_refused_with_422(query: dict[str, str]) -> None:
    with pytest.raises(QueryError) as caught:
        parse_recent(MultiDict(query), Options())
    assert caught.value.status == 422
    assert next(iter(query)) in str(caught.value)


def test_without_parameters_the_sites_own_limits_apply() -> None:
    assert parse_recent(MultiDict(), Options())[1].limit == 15
    assert parse_live(MultiDict(), Options())[1].limit == 12


@pytest.mark.parametrize(("by_views", "field"), [("false", "event_end_ts"), ("true", "total_viewers")])
def test_ties_change_places_only_with_the_switch_and_only_among_themselves(by_views: str, field: str) -> None:
    query = [("limit", "100"), ("top_views_sort", by_views)]
    stable, unstable = (World(Options(**CROWDED, tie_order=order)) for order in ("stable", "unstable"))
    first = asked(stable, query, stable.options)
    assert first == asked(stable, query, stable.options)
    once, again = asked(unstable, query, unstable.options), asked(unstable, query, unstable.options)
    assert once != again
    keys = {record["event_id"]: record[field] for record in unstable.recent_at()}
    for page in (first, once, again):
        assert isinstance(page, list)
        assert [keys[each] for each in page] == sorted(keys.values(), reverse=True)[:100]


def test_ties_across_two_pages_can_hide_a_record_and_repeat_another() -> None:
    world = World(Options(**CROWDED, tie_order="unstable"))
    walked = [asked(world, [("offset", str(offset)), ("limit", "1")], world.options) for offset in range(120)]
    assert len(walked) > len({each[0] for each in walked if isinstance(each, list)})


def test_channels_with_equal_viewers_change_places_with_the_switch() -> None:
    world = World(Options(**CROWDED, tie_order="unstable"))
    query, page = parse_live(MultiDict(limit="100"), world.options)
    pages = [served(world.live_page(query, page)) for _ in range(5)]
    assert len({tuple(each) for each in pages}) > 1
    viewers = {record["event_id"]: record["viewers_count"] for record in world.live_at()}
    for each in pages:
        assert [viewers[event_id] for event_id in each] == sorted(viewers.values(), reverse=True)


def test_every_switch_of_a_question_is_drawn() -> None:
    drawn = {"page_cap", "above_cap", "offset", "time_filter", "bounds", "categories", "nan", "user_filter"}
    names = [field.name for field in dataclasses.fields(Options)]
    assert drawn | {"tie_order"} == set(names[names.index("page_cap") : names.index("tie_order") + 1])
