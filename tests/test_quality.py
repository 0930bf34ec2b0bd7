"""What a run reports about new, unreadable and missing fields, and from how many records on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from parti_scraper.api.build import Context
from parti_scraper.api.quality import (
    MAX_NAMES,
    SPECIFIED,
    Quality,
    parse_expect_absent,
    parse_max_rejected,
    too_many_set_aside,
)
from parti_scraper.api.registry import (
    LIVE_CHANNELS,
    LIVE_NOTIFICATIONS,
    LIVESTREAMS,
    SCHEDULED_LIVESTREAMS,
    specified_of,
)
from parti_scraper.exceptions import UsageError
from parti_scraper.items import ScheduledLivestream

CONTEXT = Context("2026-01-01T00:00:00Z")
WHOLE: dict[str, Any] = {
    "user_id": 1, "user_name": "n", "user_avatar_id": None, "avatar_link": None, "event_title": "t", "event_file": None,
    "event_start_ts": 1, "event_end_ts": None, "category_name": None, "total_viewers": 0, "has_access_pass": False,
    "livestream_visibility_type": "Public", "livestream_recording": None, "social_media": "parti",
    "social_username": "n", "discord_discriminator": None,
}  # fmt: skip


def quality_of(*records: dict[str, Any], seen: tuple[int, ...] = ()) -> Quality:
    """Return the counts of a page of the recent route."""
    quality = Quality()
    body = json.dumps([{"event_id": number} | record for number, record in enumerate(records)]).encode()
    quality.add(LIVESTREAMS.normalize(body, "", CONTEXT), seen)
    return quality


def without(name: str) -> dict[str, Any]:
    """Return a record that lacks a field."""
    return {each: value for each, value in WHOLE.items() if each != name}


@pytest.mark.parametrize("name", ["user_name", "event_title", "category_name", "total_viewers", "event_end_ts"])
def test_a_field_of_the_specification_that_most_records_lack_is_a_flaw(name: str) -> None:
    lacking, unreadable = without(name), WHOLE | {name: {"a": "b"}}
    assert quality_of(*[lacking] * 20).flaws(()) == [f"{name} is absent from 20 of 20 records"]
    assert quality_of(*[unreadable] * 20).flaws(()) == [f"{name} is unreadable in 20 of 20 records"]
    mixed = quality_of(*[lacking] * 9, *[unreadable] * 12, *[WHOLE] * 19)
    assert mixed.flaws(()) == [f"{name} is unreadable in 12 and absent from 9 of 40 records"]
    assert mixed.flaws({name}) == []
    # Neither half of them, nor most of a few, nor null.
    assert quality_of(*[lacking] * 20, *[WHOLE] * 20).flaws(()) == []
    assert quality_of(*[lacking] * 19).flaws(()) == []
    assert quality_of(*[WHOLE | {name: None}] * 20).flaws(()) == []


def test_a_duplicate_does_not_count_again() -> None:
    quality = quality_of(*[without("user_name")] * 30, seen=tuple(range(11)))
    assert (quality.records, quality.absent["user_name"], quality.flaws(())) == (19, 19, [])


def test_another_field_that_no_record_has_is_named_but_is_no_flaw() -> None:
    quality = quality_of(*[without("avatar_link")] * 20)
    assert (quality.vanished(), quality.flaws(())) == (["avatar_link"], [])
    assert quality_of(*[without("avatar_link")] * 20, WHOLE).vanished() == []
    assert quality_of(*[without("avatar_link")] * 19).vanished() == []


def test_notifications_may_lack_fields_but_not_have_unreadable_ones() -> None:
    for value, flaws in ((None, []), ([], ["user_name is unreadable in 20 of 20 records"])):
        body = json.dumps([{"event_id": number, "user_name": value} for number in range(20)]).encode()
        quality = Quality()
        quality.add(LIVE_NOTIFICATIONS.normalize(body, "", CONTEXT), ())
        assert quality.flaws(()) == flaws


def test_live_channels_must_have_viewers_but_no_end() -> None:
    body = json.dumps([{"event_id": number, "user_id": 1} for number in range(20)]).encode()
    quality = Quality()
    quality.add(LIVE_CHANNELS.normalize(body, "", CONTEXT), ())
    assert [flaw.split()[0] for flaw in quality.flaws(())] == [
        "user_name", "event_title", "category_name", "viewers_count",
    ]  # fmt: skip


def test_scheduled_livestreams_may_lack_the_category_and_viewers_and_their_end_is_a_plan() -> None:
    quality = Quality(specified_of(ScheduledLivestream))
    body = json.dumps([{"event_id": number, "category_name": []} for number in range(20)]).encode()
    quality.add(SCHEDULED_LIVESTREAMS.normalize(body, "", CONTEXT), ())
    assert [flaw.split()[0] for flaw in quality.flaws(())] == ["user_name", "event_title"]
    assert "event_end_ts" in quality.vanished()
    assert "user_name" not in quality.vanished()


def test_the_counts_continue_where_they_were() -> None:
    before = quality_of(*[WHOLE | {"new": 1, "user_id": "x"}] * 3, without("user_name"))
    after = Quality()
    after.restore(json.loads(json.dumps(before.as_json())))
    assert vars(after) == vars(before)
    assert (after.unknown, after.unreadable, after.records) == ({"new": 3}, {"user_id": 3}, 4)


def test_names_at_random_do_not_fill_the_memory() -> None:
    quality = quality_of(*[{f"x{number}": 1, "x0": 1} for number in range(MAX_NAMES * 2)])
    assert len(quality.unknown) == MAX_NAMES
    assert quality.unknown["x0"] == MAX_NAMES * 2


@pytest.mark.parametrize(
    ("set_aside", "readable", "most", "is_too_many"),
    [(2, 18, 0.05, True), (1, 19, 0.05, False), (19, 0, 0.05, False), (1, 19, 0.0, True), (20, 0, 1.0, False)],
)
def test_more_than_a_share_may_not_be_set_aside(set_aside: int, readable: int, most: float, is_too_many: bool) -> None:
    assert (too_many_set_aside(set_aside, readable, most) is not None) is is_too_many


def test_fields_that_are_expected_to_be_absent_are_those_of_the_specification() -> None:
    assert parse_expect_absent("") == frozenset()
    assert parse_expect_absent(" user_name, event_end_ts,") == {"user_name", "event_end_ts"}
    with pytest.raises(UsageError) as error:
        parse_expect_absent("user_name,event_end")
    assert str(error.value) == (
        "setting `PARTI_EXPECT_ABSENT`: not a field whose absence is noticed: 'event_end' "
        f"(accepted: {', '.join(SPECIFIED)}); did you mean `event_end_ts`?"
    )


@pytest.mark.parametrize("text", ["", "x", "-0.1", "1.1", "nan", "5%"])
def test_a_share_is_a_number_from_0_to_1(text: str) -> None:
    assert parse_max_rejected("0.25") == 0.25
    with pytest.raises(UsageError, match=r"^setting `PARTI_MAX_REJECTED`: not a share: "):
        parse_max_rejected(text)
