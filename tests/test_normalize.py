"""From page bytes to items: the specification's own responses, and everything that an API may send instead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.api import pages, records, schema
from parti_scraper.api.build import Context
from parti_scraper.api.categories import CategoryIndex
from parti_scraper.api.pages import NormalizedPage
from parti_scraper.api.records import parse_page
from parti_scraper.api.registry import CATEGORIES, LIVE_CHANNELS, LIVESTREAMS, SCHEDULED_LIVESTREAMS
from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.exceptions import PageError
from parti_scraper.items import Category, LiveChannel, Livestream, ScheduledLivestream
from parti_scraper.redact import is_secret_name
from tests.support import SPECIFICATION

HERE = Path(__file__).parent
URL = "https://api-backend.parti.com/page"
NOW = "2026-11-23T21:45:00Z"


def specified(name: str) -> bytes:
    """Return one of the specification's demo responses, verbatim."""
    return (SPECIFICATION / f"{name}.json").read_bytes()


def golden(name: str) -> list[dict[str, Any]]:
    """Return the rows that a demo response normalizes to."""
    return [json.loads(line) for line in (HERE / "golden" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


CATEGORIES_PAGE = CATEGORIES.normalize(specified("categories"), URL, Context(NOW))
INDEX = CategoryIndex(CATEGORIES_PAGE.items)
CONTEXT = Context(NOW, INDEX)


def recent(*records: Any) -> NormalizedPage[Livestream]:
    """Normalize records as a page of the recent route."""
    return LIVESTREAMS.normalize(json.dumps(records).encode(), URL, CONTEXT)


def live(*records: Any, offset: int = 0) -> NormalizedPage[LiveChannel]:
    """Normalize records as a page of the live route."""
    return LIVE_CHANNELS.normalize(json.dumps(records).encode(), URL, Context(NOW, INDEX, "run-1", offset))


def scheduled(*records: Any) -> NormalizedPage[ScheduledLivestream]:
    """Normalize records as a page of the route of scheduled livestreams."""
    return SCHEDULED_LIVESTREAMS.normalize(json.dumps(records).encode(), URL, CONTEXT)


def rows(page: NormalizedPage[Any]) -> list[dict[str, Any]]:
    """Return the items as they go into the files, order of the fields included."""
    assert not page.rejected
    return [asdict(item) for item in page.items]


def test_the_specifications_categories_give_the_golden_rows() -> None:
    assert rows(CATEGORIES_PAGE) == golden("categories")
    assert list(rows(CATEGORIES_PAGE)[0]) == list(golden("categories")[0])


@pytest.mark.parametrize("name", ["recent-NaN-7", "recent-NaN-7-7"])
def test_the_specifications_livestreams_give_the_golden_rows(name: str) -> None:
    page = LIVESTREAMS.normalize(specified(name), URL, CONTEXT)
    assert rows(page) == golden("livestreams")
    assert list(rows(page)[0]) == list(golden("livestreams")[0])


def test_the_specifications_live_channels_give_the_golden_rows() -> None:
    page = LIVE_CHANNELS.normalize(specified("live-7"), URL, Context(NOW, INDEX, "run-1"))
    assert rows(page) == golden("live_channels")
    assert list(rows(page)[0]) == list(golden("live_channels")[0])


# The specification has no answer of this route: this one is made up, in the reported shape.
ANNOUNCED: dict[str, Any] = {
    "event_id": 81002, "user_id": 603610, "category_id": 10, "event_title": "🎤", "event_description": "=1+1\nsoon",
    "event_file": "https://https://assets.parti.com/81002.jpg", "event_start_ts": 1795550400,
    "event_end_ts": 1795557600, "livestream_visibility_type": "Public", "user_name": "ironway", "avatar_link": None,
    "user_avatar_id": 4711, "livestream_recording": None, "total_viewers": None,
}  # fmt: skip


def test_a_scheduled_livestream_of_the_reported_shape_gives_the_golden_row() -> None:
    page = scheduled(ANNOUNCED)
    assert rows(page) == golden("scheduled_livestreams")
    assert list(rows(page)[0]) == list(golden("scheduled_livestreams")[0])
    assert page.remarks == {}


@pytest.mark.parametrize(
    ("sent", "category_id", "name"),
    [
        ({"category_id": 7}, 7, "Gaming"),
        ({"category_id": "7.0", "category_name": ""}, 7, "Gaming"),
        ({"category_id": 7, "category_name": "Games"}, 7, "Games"),
        ({"category_id": 99}, 99, None),
        ({"category_id": None, "category_name": "crypto"}, 23, "crypto"),
        ({"category_id": None}, None, None),
        ({}, None, None),
    ],
)
def test_the_category_of_a_scheduled_livestream_is_found_by_its_id_or_name(
    sent: dict[str, Any], category_id: int | None, name: str | None
) -> None:
    (item,) = scheduled({"event_id": 1} | sent).items
    assert (item.category_id, item.category_name) == (category_id, name)


def test_a_category_without_a_name_has_its_display_name() -> None:
    index = CategoryIndex([Category(3, "", "Call of Duty", NOW, {}), Category(4, None, None, NOW, {})])
    assert [index.name_of(number) for number in (3, 4, 5, None)] == ["Call of Duty", None, None, None]


def test_what_scheduled_livestreams_do_not_have_yet_is_in_extra_and_nothing_new() -> None:
    page = scheduled(
        {"event_id": 1, "total_viewers": 5, "livestream_recording": "https://x.example/a?token=S3CRET", "mood": 1},
        {"event_id": 2},
    )
    assert [item.extra for item in page.items] == [
        {"total_viewers": 5, "livestream_recording": "https://x.example/a", "mood": 1},
        {},
    ]
    assert page.unknown_fields == {"mood": 1}
    assert {"total_viewers", "livestream_recording", "category_name"}.isdisjoint(page.remarks[1].absent)
    assert "event_description" in page.remarks[1].absent


def test_the_fields_are_those_of_the_interface_in_its_order() -> None:
    items = (Category, Livestream, LiveChannel, ScheduledLivestream)
    names = {item: ", ".join(field.name for field in fields(item)) for item in items}
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
        ScheduledLivestream: (
            "event_id, user_id, user_name, event_title, event_description, category_id, category_name, event_start, "
            "event_end, livestream_visibility_type, event_file, avatar_link, user_avatar_id, scraped_at, extra"
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
    assert page.unknown_fields == {"stars": 1, "scraped_at": 1, "mood": 1}


def test_secrets_are_dropped_and_playback_urls_lose_their_tokens() -> None:
    page = live(
        {
            "user_id": 1,
            "event_id": 2,
            "playback_auth_token": "S3CRET",
            "playback_url": "https://x.example/a.m3u8?token=S3CRET&dvr=1",
            "nested": {"chat_token": "S3CRET"},
        }
    )
    (item,) = page.items
    assert item.playback_url == "https://x.example/a.m3u8?dvr=1"
    assert item.extra == {"nested": {}}
    assert "S3CRET" not in repr(page)


def test_addresses_lose_their_tokens_in_any_text() -> None:
    url = "https://x.example/a?b=1&token=S3CRET"
    names = ("user_name", "event_title", "category_name", "social_media", "social_username", "discord_discriminator")
    texts = dict.fromkeys(names, f"see {url} = @me")
    pages = (
        recent({"event_id": 1, "livestream_visibility_type": url} | texts),
        live({"event_id": 1, "user_id": 2, "channel_arn": url} | texts),
        CATEGORIES.normalize(
            json.dumps([{"category_id": 1, "name": url, "display_name": url}]).encode(), URL, Context(NOW)
        ),
    )
    for page in pages:
        assert "S3CRET" not in repr(page)
    assert {getattr(pages[0].items[0], name) for name in names} == {"see https://x.example/a?b=1 = @me"}


def test_rank_continues_from_page_to_page() -> None:
    assert [
        item.rank for item in live({"user_id": 1, "event_id": 5}, {"user_id": 2, "event_id": 6}, offset=100).items
    ] == [101, 102]


@pytest.mark.parametrize(
    ("name", "category_id"),
    [("Gaming", 7), ("gaming", 7), ("CRYPTO", 23), ("crypto", 23), ("", None), (None, None), ("Nowhere", None)],
)
def test_a_category_is_found_by_its_names_ignoring_case(name: str | None, category_id: int | None) -> None:
    (item,) = recent({"event_id": 1, "category_name": name}).items
    assert (item.category_id, item.category_name) == (category_id, name)


def test_names_are_searched_before_display_names_and_empty_ones_are_ignored() -> None:
    body = json.dumps(
        [
            {"category_id": 16, "name": "", "display_name": "Valorant"},
            {"category_id": 1, "name": "Art", "display_name": "Music"},
            {"category_id": 10, "name": "Music", "display_name": "Sound"},
        ]
    ).encode()
    index = CategoryIndex(CATEGORIES.normalize(body, URL, Context(NOW)).items)
    assert [index.find(name) for name in ("Music", "valorant", "Sound", "")] == [10, 16, 10, None]
    assert [index.has_name(category_id) for category_id in (16, 1, 99)] == [False, True, False]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("a text", "not an object but a text"),
        (None, "not an object but null"),
        ([1], "not an object but a list"),
        ({}, "event_id: missing"),
        ({"event_id": None}, "event_id: missing"),
        ({"event_id": "abc"}, "event_id: not a whole number but a text"),
        ({"event_id": ""}, "event_id: not a whole number but a text"),
        ({"event_id": "42.5"}, "event_id: not a whole number but a text"),
        ({"event_id": str(2**63)}, "event_id: a number out of range"),
        ({"event_id": "\u0661"}, "event_id: not a whole number but a text"),
        ({"event_id": True}, "event_id: not a whole number but true or false"),
        ({"event_id": 1.5}, "event_id: not a whole number but a fraction"),
        ({"event_id": {}}, "event_id: not a whole number but an object"),
        ({"event_id": 2**63}, "event_id: a number out of range"),
    ],
)
def test_a_record_that_cannot_be_normalized_is_returned_with_its_reason(record: Any, reason: str) -> None:
    page = recent({"event_id": 7}, record)
    assert page.served == 2
    assert [item.event_id for item in page.items] == [7]
    (rejected,) = page.rejected
    assert (rejected.reason, rejected.url, rejected.position, rejected.record) == (reason, URL, 1, record)


def test_numbers_may_come_as_digits_or_as_whole_fractions() -> None:
    (item,) = recent({"event_id": "0042", "total_viewers": 3.0, "event_end_ts": "1795474861"}).items
    assert (item.event_id, item.total_viewers, item.event_end) == (42, 3, "2026-11-23T23:01:01Z")


def test_a_rejected_record_is_whole_except_for_secrets() -> None:
    page = live(
        {"user_id": "x", "playback_auth_token": "S3CRET", "playback_url": "https://x.example/?token=S3CRET&a=1"}
    )
    assert page.rejected[0].record == {"user_id": "x", "playback_url": "https://x.example/?a=1"}


def test_half_a_character_becomes_a_replacement_character() -> None:
    body = rb'[{"event_id": 1, "event_title": "a\ud83d b\ud83d\ude00 c", "odd\udc00": "\udfff"}]'
    (item,) = LIVESTREAMS.normalize(body, URL, CONTEXT).items
    assert (item.event_title, item.extra) == ("a\ufffd b\U0001f600 c", {"odd\ufffd": "\ufffd"})


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "empty (0 bytes)"),
        (b"\n", "empty (1 byte)"),
        (b"<!DOCTYPE html><title>Just a moment...</title>", "a web page (46 bytes)"),
        (b'[{"event_id": 1}, {"even', "broken JSON (24 bytes)"),
        (b'{"error": "rate limited"}', "an object (25 bytes)"),
        (b'"[]"', "a text (4 bytes)"),
        (b"[" * 100_000, "broken JSON (100,000 bytes)"),
        (b"[1,2", "broken JSON (4 bytes)"),
        (b'[{"a": 1]', "broken JSON (9 bytes)"),
        (b'[{"a": 1}}', "broken JSON (10 bytes)"),
        (b"[1],", "broken JSON (4 bytes)"),
        (b"[1] [2]", "broken JSON (7 bytes)"),
        (b"[1,,2]", "broken JSON (6 bytes)"),
        (b'[{"event_id": 1}, ]', "broken JSON (19 bytes)"),
        (b'[{"event_id": 1, "title": "un', "broken JSON (29 bytes)"),
        (b'{"error": NaN}', "broken JSON (14 bytes)"),
    ],
)
def test_a_page_that_is_no_list_of_records_is_an_error(body: bytes, what: str) -> None:
    with pytest.raises(PageError) as error:
        parse_page(body)
    assert str(error.value) == f"the answer is no list of records but {what}"


def test_a_number_too_large_for_one_is_kept_as_text() -> None:
    (item,) = LIVESTREAMS.normalize(b'[{"event_id": 1, "score": 1e999}]', URL, CONTEXT).items
    assert item.extra == {"score": "1e999"}


@pytest.mark.parametrize("body", [b"[]", b" [ ]\n", b"null", b"\xef\xbb\xbf[]"])
def test_an_empty_page_is_a_page(body: bytes) -> None:
    page = LIVESTREAMS.normalize(body, URL, CONTEXT)
    assert (page.served, page.items, page.rejected) == (0, [], [])


def fields_of(field: str, value: Any) -> tuple[Livestream, NormalizedPage[Livestream]]:
    """Return the item of a livestream with one odd field."""
    page = recent({"event_id": 1, "event_start_ts": 0} | {field: value}, {"event_id": 2})
    assert page.rejected == []
    return page.items[0], page


END = "2026-11-23T23:01:01Z"


@pytest.mark.parametrize(
    ("field", "value", "name", "read"),
    [
        ("user_id", "42", "user_id", 42),
        ("user_id", 42.0, "user_id", 42),
        ("user_id", "42.0", "user_id", 42),
        ("user_id", "42.", "user_id", 42),
        ("user_id", " 0042 ", "user_id", 42),
        ("user_id", "-1", "user_id", -1),
        ("user_id", "+1", "user_id", 1),
        ("user_id", -(2**63), "user_id", -(2**63)),
        ("total_viewers", "30.0", "total_viewers", 30),
        ("discord_discriminator", 0, "discord_discriminator", "0"),
        ("event_title", 12345, "event_title", "12345"),
        ("event_title", 1.5, "event_title", "1.5"),
        ("event_title", 10**30, "event_title", str(10**30)),
        ("has_access_pass", 0, "has_access_pass", False),
        ("has_access_pass", 1, "has_access_pass", True),
        ("has_access_pass", "true", "has_access_pass", True),
        ("has_access_pass", "False", "has_access_pass", False),
        ("has_access_pass", "0", "has_access_pass", False),
        ("event_end_ts", 1795474861, "event_end", END),
        ("event_end_ts", "1795474861", "event_end", END),
        ("event_end_ts", 1795474861.9, "event_end", END),
        ("event_end_ts", "1795474861.9", "event_end", END),
        ("event_end_ts", 1795474861000, "event_end", END),
        ("event_end_ts", "1795474861999", "event_end", END),
        ("event_end_ts", 1795474861000.0, "event_end", END),
        ("event_end_ts", "2026-11-23T23:01:01Z", "event_end", END),
        ("event_end_ts", "2026-11-23t23:01:01z", "event_end", END),
        ("event_end_ts", "2026-11-23T23:01:01", "event_end", END),
        ("event_end_ts", "2026-11-23 23:01:01", "event_end", END),
        ("event_end_ts", "2026-11-24T00:01:01+01:00", "event_end", END),
        ("event_end_ts", "2026-11-23T23:01:01.123456789Z", "event_end", END),
        ("event_end_ts", "20261123T230101Z", "event_end", END),
        ("category_id", 99, "category_id", 99),
        ("category_id", "99", "category_id", 99),
    ],
)
def test_a_value_with_one_meaning_is_read(field: str, value: Any, name: str, read: Any) -> None:
    item, page = fields_of(field, value)
    assert getattr(item, name) == read
    assert type(getattr(item, name)) is type(read)
    assert (item.extra, page.unreadable_fields) == ({}, {})


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        ("user_id", "abc", "abc"),
        ("user_id", "", ""),
        ("user_id", "\u0661", "\u0661"),
        ("user_id", "1e3", "1e3"),
        ("user_id", "1" * 5_000, "1" * 5_000),
        ("user_id", True, True),
        ("user_id", 1.5, 1.5),
        ("user_id", {"id": 5}, {"id": 5}),
        ("user_id", 2**63, str(2**63)),
        ("user_id", -(2**63) - 1, str(-(2**63) - 1)),
        ("total_viewers", 10**30, str(10**30)),
        ("event_title", ["a", {"token": "S3CRET", "b": 2**70}], ["a", {"b": str(2**70)}]),
        ("event_title", True, True),
        ("user_name", {"first": "a"}, {"first": "a"}),
        ("has_access_pass", "maybe", "maybe"),
        ("has_access_pass", 2, 2),
        ("has_access_pass", [], []),
        ("event_end_ts", -1, -1),
        ("event_end_ts", 10**18, 10**18),
        ("event_end_ts", 10**400, str(10**400)),
        ("event_end_ts", True, True),
        ("event_end_ts", "yesterday", "yesterday"),
        ("event_end_ts", "", ""),
        ("event_end_ts", "1969-12-31T23:59:59Z", "1969-12-31T23:59:59Z"),
        ("event_end_ts", {}, {}),
        ("category_id", "Gaming", "Gaming"),
    ],
)
def test_an_unreadable_value_affects_only_its_field(field: str, value: Any, kept: Any) -> None:
    item, page = fields_of(field, value)
    assert getattr(item, field.removesuffix("_ts")) is None
    assert item.extra == {field: kept}
    assert (page.unreadable_fields, page.unknown_fields) == ({field: 1}, {})
    assert item.event_id == 1
    assert page.items[1].extra == {}


def test_a_category_is_that_of_the_api_or_else_found_by_name() -> None:
    names: dict[str, Any] = {"event_id": 1, "user_id": 2, "category_name": "gaming"}
    for category_id, expected in ((21, 21), (None, 7), ("x", 7), (10**30, 7)):
        for page in (recent(names | {"category_id": category_id}), live(names | {"category_id": category_id})):
            assert page.items[0].category_id == expected


@pytest.mark.parametrize("ids", [{"user_id": 1}, {"event_id": 1}, {"user_id": 1, "event_id": "x"}, {"user_id": []}])
def test_a_live_channel_is_known_by_channel_and_livestream(ids: dict[str, Any]) -> None:
    page = live(ids, {"user_id": 1, "event_id": 2}, {"user_id": 1, "event_id": 3})
    assert [item.identity for item in page.items] == [(1, 2), (1, 3)]
    assert [record.position for record in page.rejected] == [0]


def test_the_end_of_a_record_that_is_set_aside_is_known_if_readable() -> None:
    page = recent({"event_end_ts": 1795474861000}, {"event_id": 1}, {"event_end_ts": "x"}, None, [1], "event_end_ts")
    assert len(page.rejected) == 5
    assert page.rejected_ends == [1795474861, None, None, None, None]
    assert live({"user_id": 1}).rejected_ends == [None]


@pytest.mark.parametrize(
    ("odd", "extra"),
    [
        (b'"x": NaN', {"x": "NaN"}),
        (b'"x": [Infinity, -Infinity]', {"x": ["Infinity", "-Infinity"]}),
        (b'"x": "a\xffb"', {"x": "a\ufffdb"}),
        (b'"x": "\\ud83d"', {"x": "\ufffd"}),
        (b'"x": "a\tb"', {"x": "a\tb"}),
        (b'"x": ' + b"9" * 5_000, {"x": "9" * 5_000}),
        (b'"x": 1e999', {"x": "1e999"}),
        (b'"x": "[{]}\\"", "y": "\\\\"', {"x": '[{]}"', "y": "\\"}),
        (b'"x": 1, "x": 2', {"x": 2}),
        (b'"total_viewers": NaN', {"total_viewers": "NaN"}),
    ],
)
def test_invalid_json_affects_at_most_its_field(odd: bytes, extra: dict[str, Any]) -> None:
    # The last one makes the page one that is parsed patiently, whatever the others are.
    body = b'[{"event_id": 1}, {"event_id": 2, ' + odd + b'}, {"event_id": 3, "z": NaN}]'
    page = LIVESTREAMS.normalize(body, URL, CONTEXT)
    assert [item.event_id for item in page.items] == [1, 2, 3]
    assert page.items[1].extra == extra


@pytest.mark.parametrize("depth", [60, 1_000, 100_000])
@pytest.mark.parametrize("sides", [(b"[", b"]"), (b'{"a": ', b"1}")])
def test_what_is_nested_too_deeply_is_cut(depth: int, sides: tuple[bytes, bytes]) -> None:
    deep = b"0".join((sides[0] * depth, sides[1].replace(b"1", b"") * depth))
    page = LIVESTREAMS.normalize(b'[{"event_id": 1, "x": ' + deep + b'}, {"event_id": 2}]', URL, CONTEXT)
    assert [item.event_id for item in page.items] == [1, 2]
    assert "nested more than 50 levels deep" in json.dumps(page.items[0].extra)


@pytest.mark.parametrize(
    "record",
    [
        b'{"event_id": 5, "playback_auth_token": "S3CRET", "x": tru}',
        b'{"event_id": 5, "url": "https://x.example/a?token=S3CRET" "y"}',
        b"{'event_id': 5, 'streamKey': 'S3CRET'}",
        b"undefined",
        b"<html>",
        b'{"event_id": 5, "x": "' + b"y" * 30_000 + b'", }',
    ],
)
def test_a_record_that_is_no_json_is_set_aside_alone_and_without_its_secrets(record: bytes) -> None:
    page = LIVESTREAMS.normalize(b'[{"event_id": 1},' + record + b',{"event_id": 2}]', URL, CONTEXT)
    assert [item.event_id for item in page.items] == [1, 2]
    (rejected,) = page.rejected
    assert (rejected.reason, rejected.position) == ("not an object but no JSON", 1)
    assert rejected.record[:10] == record.decode()[:10]
    assert "S3CRET" not in rejected.record
    assert len(rejected.record) < 11_000


def test_a_page_in_another_encoding_is_read() -> None:
    body = json.dumps([{"event_id": 1, "event_title": "é"}], ensure_ascii=False)
    for encoding in ("utf-8-sig", "utf-16", "utf-32-le"):
        (item,) = LIVESTREAMS.normalize(body.encode(encoding), URL, CONTEXT).items
        assert item.event_title == "é"


def test_addresses_lose_their_tokens_in_every_field() -> None:
    signed = "?w=5&Expires=1795474861&Signature=S3CRET&Key-Pair-Id=S3CRET"
    names = ("event_file", "avatar_link", "livestream_recording", "playback_url", "original_playback_url", "dvr_url")
    addresses = {name: f"https://media.parti.com/{name}{signed}" for name in names}
    record = {"event_id": 1, "user_id": 2, **addresses, "more": [{"at": f"path/x.m3u8{signed}"}]}
    for page in (recent(record), live(record)):
        (item,) = page.items
        assert item.event_file == "https://media.parti.com/event_file?w=5"
        row = asdict(item)
        assert {**row["extra"], **row}["livestream_recording"] == "https://media.parti.com/livestream_recording?w=5"
        assert item.extra["dvr_url"] == "https://media.parti.com/dvr_url?w=5"
        assert item.extra["more"] == [{"at": "path/x.m3u8?w=5"}]
        assert "S3CRET" not in repr(page)


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


def integers(value: Any) -> Iterator[int]:
    """Yield the whole numbers in a value."""
    if isinstance(value, int):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from integers(inner)


@given(st.sampled_from(sorted({*schema.RecentRecord.__struct_fields__} - {"event_id"})), VALUES)
def test_any_value_of_a_field_is_read_or_kept_and_affects_no_other_field(name: str, value: Any) -> None:
    whole: dict[str, Any] = {
        "event_id": 5, "user_name": "n", "total_viewers": 3, "has_access_pass": True, "event_start_ts": 7,
    }  # fmt: skip
    before, after = (recent(record).items[0] for record in (whole, whole | {name: value}))
    changed = {field.name for field in fields(Livestream) if getattr(before, field.name) != getattr(after, field.name)}
    derived = {
        "event_start_ts": {"event_start", "duration_seconds"},
        "event_end_ts": {"event_end", "duration_seconds"},
        "user_name": {"channel_url"},
        "category_name": {"category_id"},
    }
    assert changed <= {name, "extra"} | derived.get(name, set())
    assert after.extra.keys() <= {name}
    assert value is None or after.extra or getattr(after, name.removesuffix("_ts")) is not None


@given(
    st.lists(
        st.binary(max_size=30) | st.sampled_from([b"NaN", b"tru", b'{"event_id": 1e}', b'"\xff"', b"{}"]), max_size=5
    )
)
def test_bad_records_between_good_ones_lose_none(between: list[bytes]) -> None:
    # What opens or closes more than it should is no record, and the page no list.
    between = [each.translate(None, b'[]{},"\\').strip() or b"0" for each in between]
    good = [b'{"event_id": %d, "event_title": "]},\\""}' % number for number in range(len(between) + 1)]
    body = b"[" + b",".join(each for pair in zip(good, [*between, b"NaN"], strict=True) for each in pair) + b"]"
    page = LIVESTREAMS.normalize(body, URL, CONTEXT)
    assert [item.event_id for item in page.items] == list(range(len(good)))
    assert len(page.rejected) == len(good)


@given(st.lists(RECORDS, min_size=1, max_size=3), st.data())
def test_a_truncated_page_is_an_error(records: list[Any], data: st.DataObject) -> None:
    body = json.dumps([*records, float("nan")]).encode()
    cut = body[: data.draw(st.integers(1, len(body) - 1))]
    with pytest.raises(PageError):
        parse_page(cut)


RECORD_CLASSES = [
    schema.CategoryRecord,
    schema.RecentRecord,
    schema.LiveRecord,
    schema.NotificationRecord,
]


@given(st.lists(RECORDS, max_size=5))
def test_any_record_is_an_item_or_set_aside(records: list[Any]) -> None:
    for page in (recent(*records), live(*records)):
        assert page.served == len(records) == len(page.items) + len(page.rejected)
        for item in page.items:
            row = asdict(item)
            json.dumps(row, allow_nan=False).encode()
            assert all(-(2**63) <= number < 2**63 for number in integers(row))
            assert "playback_auth_token" not in row["extra"]
        for rejected in page.rejected:
            assert rejected.reason.isprintable()


@given(st.dictionaries(NAMES | st.text(max_size=8), VALUES, max_size=8))
def test_no_field_is_lost(record: dict[str, Any]) -> None:
    page = recent({"event_id": 5} | record)
    for item in page.items:
        declared = {field.name for field in fields(Livestream)} | {"event_start_ts", "event_end_ts"}
        for name in record:
            assert name in declared or name in item.extra or is_secret_name(name)


@given(st.integers(0, 253_402_300_799))
def test_times_sort_as_their_texts_do(ts: int) -> None:
    assert timestamp_to_iso(ts) <= timestamp_to_iso(min(ts + 1, 253_402_300_799))
    assert len(timestamp_to_iso(ts)) == 20


@given(RECORDS, st.sampled_from(RECORD_CLASSES))
def test_the_fast_check_and_the_slow_one_agree(record: Any, record_class: type[msgspec.Struct]) -> None:
    try:
        quick = msgspec.convert(record, record_class)
    except msgspec.ValidationError:
        return
    assert (quick, frozenset()) == pages._read(record, record_class)


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
def test_the_fast_parser_and_the_slow_one_agree(page: list[Any], escaped: bool) -> None:
    body = json.dumps(page, ensure_ascii=escaped).encode(errors="surrogatepass")
    try:
        quick = msgspec.json.decode(body)
    except ValueError:
        return
    assert (quick or []) == (records._parse_patiently(body) if isinstance(quick, list) else parse_page(body))


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
    assert (alone.items, alone.ends, alone.remarks) == (beside.items, beside.ends, beside.remarks)
    assert alone.rejected == beside.rejected[:-1]


def test_one_bad_record_does_not_cost_the_others_their_types() -> None:
    page = recent({"event_id": "7", "event_end_ts": 5.0}, {"event_id": None}, {"event_id": 8, "new": 2**70})
    assert [item.event_id for item in page.items] == [7, 8]
    assert page.ends == [5, None]
    assert page.items[1].extra == {"new": str(2**70)}
    assert [(each.position, each.reason) for each in page.rejected] == [(1, "event_id: missing")]
