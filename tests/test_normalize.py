"""From page bytes to items: the specification's own responses, and everything an API may send instead."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parti_scraper import normalize
from parti_scraper.exceptions import PageError
from parti_scraper.items import Category, LiveChannel, Livestream
from parti_scraper.normalize import (
    CategoryIndex,
    NormalizedPage,
    normalize_categories,
    normalize_live,
    normalize_recent,
    parse_page,
    timestamp_to_iso,
)

HERE = Path(__file__).parent
URL = "https://api-backend.parti.com/page"
NOW = "2026-11-23T21:45:00Z"


def specified(name: str) -> bytes:
    """Return one of the specification's demo responses, verbatim."""
    return (HERE / "specification" / f"{name}.json").read_bytes()


def golden(name: str) -> list[dict[str, Any]]:
    """Return the rows that a demo response normalizes to."""
    return [json.loads(line) for line in (HERE / "golden" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


CATEGORIES = normalize_categories(specified("categories"), URL, NOW)
INDEX = CategoryIndex(CATEGORIES.items)


def recent(*records: Any) -> NormalizedPage[Livestream]:
    """Normalize records as a page of the recent route."""
    return normalize_recent(json.dumps(records).encode(), URL, NOW, INDEX)


def live(*records: Any, offset: int = 0) -> NormalizedPage[LiveChannel]:
    """Normalize records as a page of the live route."""
    return normalize_live(json.dumps(records).encode(), URL, NOW, INDEX, snapshot_id="run-1", offset=offset)


def rows(page: NormalizedPage[Any]) -> list[dict[str, Any]]:
    """Return the items as they go into the files, order of the fields included."""
    assert not page.rejected
    return [asdict(item) for item in page.items]


def test_the_specifications_categories_give_the_golden_rows() -> None:
    assert rows(CATEGORIES) == golden("categories")
    assert list(rows(CATEGORIES)[0]) == list(golden("categories")[0])


@pytest.mark.parametrize("name", ["recent-NaN-7", "recent-NaN-7-7"])
def test_the_specifications_livestreams_give_the_golden_rows(name: str) -> None:
    page = normalize_recent(specified(name), URL, NOW, INDEX)
    assert rows(page) == golden("livestreams")
    assert list(rows(page)[0]) == list(golden("livestreams")[0])


def test_the_specifications_live_channels_give_the_golden_rows() -> None:
    page = normalize_live(specified("live-7"), URL, NOW, INDEX, snapshot_id="run-1", offset=0)
    assert rows(page) == golden("live_channels")
    assert list(rows(page)[0]) == list(golden("live_channels")[0])


def test_the_fields_are_those_of_the_interface_in_its_order() -> None:
    names = {item: ", ".join(field.name for field in fields(item)) for item in (Category, Livestream, LiveChannel)}
    assert names == {
        Category: "category_id, name, display_name, scraped_at, extra",
        Livestream: (
            "event_id, user_id, user_name, event_title, category_id, category_name, event_start, event_end, "
            "duration_seconds, total_viewers, livestream_visibility_type, has_access_pass, livestream_recording, "
            "event_file, avatar_link, user_avatar_id, social_media, social_username, discord_discriminator, "
            "channel_url, video_url, scraped_at, extra"
        ),
        LiveChannel: (
            "snapshot_id, observed_at, rank, event_id, user_id, user_name, event_title, category_id, category_name, "
            "viewers_count, event_file, avatar_link, user_avatar_id, social_media, social_username, "
            "discord_discriminator, channel_arn, playback_url, channel_url, extra"
        ),
    }


def test_times_are_iso_and_the_duration_is_between_them() -> None:
    (item,) = recent({"event_id": 1, "event_start_ts": 1795468800, "event_end_ts": 1795474861}).items
    assert (item.event_start, item.event_end) == ("2026-11-23T21:20:00Z", "2026-11-23T23:01:01Z")
    assert item.duration_seconds == 6061


def test_an_end_before_the_start_gives_no_duration() -> None:
    (item,) = recent({"event_id": 1, "event_start_ts": 10, "event_end_ts": 9}).items
    assert item.duration_seconds is None


def test_unknown_fields_are_kept_in_extra_and_named() -> None:
    page = recent({"event_id": 1, "stars": [1, {"a": None}], "scraped_at": "theirs"}, {"event_id": 2, "mood": "x"})
    assert [item.extra for item in page.items] == [{"stars": [1, {"a": None}], "scraped_at": "theirs"}, {"mood": "x"}]
    assert page.unknown_fields == {"stars", "scraped_at", "mood"}


def test_secrets_are_dropped_and_playback_urls_lose_their_tokens() -> None:
    page = live(
        {
            "user_id": 1,
            "playback_auth_token": "S3CRET",
            "playback_url": "https://x.example/a.m3u8?token=S3CRET&dvr=1",
            "nested": {"chat_token": "S3CRET"},
        }
    )
    (item,) = page.items
    assert item.playback_url == "https://x.example/a.m3u8?dvr=1"
    assert item.extra == {"nested": {}}
    assert "S3CRET" not in repr(page)


def test_rank_goes_on_from_page_to_page() -> None:
    assert [item.rank for item in live({"user_id": 1}, {"user_id": 2}, offset=100).items] == [101, 102]


@pytest.mark.parametrize(
    ("name", "category_id"),
    [("Gaming", 7), ("gaming", 7), ("CRYPTO", 23), ("crypto", 23), ("", None), (None, None), ("Nowhere", None)],
)
def test_a_category_is_found_by_its_names_ignoring_case(name: str | None, category_id: int | None) -> None:
    (item,) = recent({"event_id": 1, "category_name": name}).items
    assert (item.category_id, item.category_name) == (category_id, name)


def test_a_name_is_looked_for_before_a_display_name_and_an_empty_one_not_at_all() -> None:
    body = json.dumps(
        [
            {"category_id": 16, "name": "", "display_name": "Valorant"},
            {"category_id": 1, "name": "Art", "display_name": "Music"},
            {"category_id": 10, "name": "Music", "display_name": "Sound"},
        ]
    ).encode()
    index = CategoryIndex(normalize_categories(body, URL, NOW).items)
    assert [index.find(name) for name in ("Music", "valorant", "Sound", "")] == [10, 16, 10, None]
    assert [index.is_tellable(category_id) for category_id in (16, 1, 99)] == [False, True, False]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("a text", "not an object but a text"),
        (None, "not an object but null"),
        ([1], "not an object but a list"),
        ({}, "event_id: missing"),
        ({"event_id": None}, "event_id: missing"),
        ({"event_id": "abc"}, "event_id: not a whole number but a text"),
        ({"event_id": "-1"}, "event_id: not a whole number but a text"),
        ({"event_id": "\u0661"}, "event_id: not a whole number but a text"),
        ({"event_id": True}, "event_id: not a whole number but true or false"),
        ({"event_id": 1.5}, "event_id: not a whole number but a fraction"),
        ({"event_id": {}}, "event_id: not a whole number but an object"),
        ({"event_id": 2**63}, "event_id: a number out of range"),
        ({"event_id": 1, "event_title": 5}, "event_title: not a text but a number"),
        ({"event_id": 1, "event_title": ["S3CRET"]}, "event_title: not a text but a list"),
        ({"event_id": 1, "has_access_pass": "yes"}, "has_access_pass: not true or false but a text"),
        ({"event_id": 1, "event_end_ts": 1795474861000}, "event_end_ts: not a time in Unix seconds"),
        ({"event_id": 1, "event_end_ts": -1}, "event_end_ts: not a time in Unix seconds"),
        ({"event_id": 1, "event_end_ts": 10**18}, "event_end_ts: not a time in Unix seconds"),
    ],
)
def test_a_record_that_cannot_be_normalized_comes_back_with_its_reason(record: Any, reason: str) -> None:
    page = recent({"event_id": 7}, record)
    assert page.served == 2
    assert [item.event_id for item in page.items] == [7]
    (rejected,) = page.rejected
    assert (rejected.reason, rejected.url, rejected.position, rejected.record) == (reason, URL, 1, record)


def test_numbers_may_come_as_digits_or_as_whole_fractions() -> None:
    (item,) = recent({"event_id": "0042", "total_viewers": 3.0, "event_end_ts": "1795474861"}).items
    assert (item.event_id, item.total_viewers, item.event_end) == (42, 3, "2026-11-23T23:01:01Z")


def test_a_rejected_record_is_whole_but_for_secrets() -> None:
    page = live(
        {"user_id": "x", "playback_auth_token": "S3CRET", "playback_url": "https://x.example/?token=S3CRET&a=1"}
    )
    assert page.rejected[0].record == {"user_id": "x", "playback_url": "https://x.example/?a=1"}


def test_half_a_character_becomes_a_replacement_character() -> None:
    body = rb'[{"event_id": 1, "event_title": "a\ud83d b\ud83d\ude00 c", "odd\udc00": "\udfff"}]'
    (item,) = normalize_recent(body, URL, NOW, INDEX).items
    assert (item.event_title, item.extra) == ("a\ufffd b\U0001f600 c", {"odd\ufffd": "\ufffd"})


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "empty (0 bytes)"),
        (b" \n", "empty (2 bytes)"),
        (b"<!DOCTYPE html><title>Just a moment...</title>", "a web page (46 bytes)"),
        (b'[{"event_id": 1}, {"even', "broken JSON (24 bytes)"),
        (b'{"error": "rate limited"}', "an object (25 bytes)"),
        (b"null", "null (4 bytes)"),
        (b'"[]"', "a text (4 bytes)"),
        (b"[NaN]", "broken JSON (5 bytes)"),
        (b"[" + b"9" * 5000 + b"]", "broken JSON (5002 bytes)"),
        (b"[" * 100_000, "broken JSON (100000 bytes)"),
        (b'["\xff"]', "broken JSON (5 bytes)"),
    ],
)
def test_what_is_no_list_of_records_is_an_error_of_the_page(body: bytes, what: str) -> None:
    with pytest.raises(PageError) as error:
        parse_page(body)
    assert str(error.value) == f"the answer is no list of records but {what}"


def test_a_number_too_large_for_one_is_kept_as_text() -> None:
    (item,) = normalize_recent(b'[{"event_id": 1, "score": 1e999}]', URL, NOW, INDEX).items
    assert item.extra == {"score": "1e999"}


def test_an_empty_page_is_a_page() -> None:
    page = recent()
    assert (page.served, page.items, page.rejected) == (0, [], [])


NAMES = st.sampled_from(
    [
        *(field.name for field in fields(Livestream)),
        *(field.name for field in fields(LiveChannel)),
        "event_start_ts",
        "event_end_ts",
        "playback_auth_token",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
RECORDS = VALUES | st.dictionaries(NAMES | st.text(max_size=8), VALUES, max_size=8).map(
    lambda record: {"event_id": 5} | record
)


RECORD_CLASSES = [
    normalize._CategoryRecord,
    normalize._RecentRecord,
    normalize._LiveRecord,
    normalize._NotificationRecord,
]


@given(st.lists(RECORDS, max_size=5))
def test_whatever_comes_is_an_item_or_set_aside(records: list[Any]) -> None:
    for page in (recent(*records), live(*records)):
        assert page.served == len(records) == len(page.items) + len(page.rejected)
        for item in page.items:
            row = asdict(item)
            json.dumps(row, allow_nan=False).encode()
            assert "playback_auth_token" not in row["extra"]
        for rejected in page.rejected:
            assert rejected.reason.isprintable()


@given(st.dictionaries(NAMES | st.text(max_size=8), VALUES, max_size=8))
def test_no_field_is_lost(record: dict[str, Any]) -> None:
    page = recent({"event_id": 5} | record)
    for item in page.items:
        declared = {field.name for field in fields(Livestream)} | {"event_start_ts", "event_end_ts"}
        for name in record:
            assert name in declared or name in item.extra or name == "playback_auth_token" or "token" in name.lower()


@given(st.integers(0, 253_402_300_799))
def test_times_sort_as_their_texts_do(ts: int) -> None:
    assert timestamp_to_iso(ts) <= timestamp_to_iso(min(ts + 1, 253_402_300_799))
    assert len(timestamp_to_iso(ts)) == 20


@given(RECORDS, st.sampled_from(RECORD_CLASSES))
def test_the_quick_check_and_the_patient_one_agree(record: Any, record_class: type[msgspec.Struct]) -> None:
    try:
        quick = msgspec.convert(record, record_class)
    except msgspec.ValidationError:
        return
    assert quick == record_class(**dict(normalize._read(record, record_class)))


@given(
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
            max_leaves=8,
        )
    ),
    st.booleans(),
)
def test_the_quick_parser_and_the_patient_one_agree(page: list[Any], escaped: bool) -> None:
    body = json.dumps(page, ensure_ascii=escaped).encode(errors="surrogatepass")
    try:
        quick = msgspec.json.decode(body)
    except ValueError:
        return
    assert quick == normalize._parse_patiently(body)


@given(
    st.fixed_dictionaries(
        {"event_id": st.integers(0, 2**63)},
        optional={
            "user_id": st.none() | st.integers(),
            "user_name": st.none() | st.text(),
            "event_end_ts": st.none() | st.integers(-1, 253_402_300_800) | st.sampled_from([7.0, 7.5, "7"]),
            "has_access_pass": st.none() | st.booleans() | st.just(1),
            "new": VALUES,
        },
    )
)
def test_a_page_that_is_read_at_once_gives_what_one_read_record_by_record_does(record: dict[str, Any]) -> None:
    alone, beside = recent(record), recent(record, None)
    assert (alone.items, alone.ends, alone.unknown_fields) == (beside.items, beside.ends, beside.unknown_fields)
    assert alone.rejected == beside.rejected[:-1]


def test_one_bad_record_does_not_cost_the_others_their_types() -> None:
    page = recent({"event_id": "7", "event_end_ts": 5.0}, {"event_id": None}, {"event_id": 8, "new": 2**70})
    assert [item.event_id for item in page.items] == [7, 8]
    assert page.ends == [5, None]
    assert page.items[1].extra == {"new": 2**70}
    assert [(each.position, each.reason) for each in page.rejected] == [(1, "event_id: missing")]
