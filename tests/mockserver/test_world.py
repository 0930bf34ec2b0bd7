"""The synthetic world: the same for the same seed, with realistic changes and a correct ground truth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from parti_scraper.mockserver import Options, World
from parti_scraper.mockserver.options import EARLIEST
from parti_scraper.mockserver.query import Page, RecentQuery
from tests.support import NOW, ROOT, STILL, ids

MINUTE, HOUR = 60, 3_600
# A description of a whole world, for every process.
DIGEST = """
import hashlib, json
from parti_scraper.mockserver import Options, World
world = World(Options(seed={seed}, now="2026-11-01T00:00:00Z", speed=0, events=500, malformed=0.1))
start = world.started_at
world.advance(3600)
held = [world.recent_at(), world.live_at(), world.notifications_between(start, start + 3600), sorted(world.odd_ids)]
held += world.scheduled_at()
print(hashlib.sha256(json.dumps(held).encode()).hexdigest())
"""


def digest(seed: int, hash_seed: str) -> str:
    """Return the description of a seed's world in another process."""
    return subprocess.run(
        [sys.executable, "-c", DIGEST.format(seed=seed)],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout


def everything(world: World) -> list[dict[str, Any]]:
    """Return the whole recent set as served by the route."""
    return [json.loads(record) for record in world.recent_page(RecentQuery(), Page(0, 1_000_000))]


def test_a_seed_gives_the_same_world_in_every_process_and_another_seed_another() -> None:
    one, again, other = digest(7, "1"), digest(7, "2"), digest(8, "1")
    assert one == again != other


def test_the_world_does_not_depend_on_how_often_it_is_asked() -> None:
    often, once = World(Options(**STILL)), World(Options(**STILL))
    for _ in range(60):
        often.advance(10)
        everything(often)
    once.advance(600)
    assert often.recent_at() == once.recent_at()
    assert often.live_at() == once.live_at()


@pytest.mark.parametrize("events", [0, 1, 1_234])
def test_there_are_as_many_livestreams_as_given_all_within_the_history(events: int) -> None:
    world = World(Options(now=NOW, speed=0, events=events, years=2))
    records = world.recent_at()
    assert len(set(ids(records))) == len(records) == events
    for record in records:
        assert world.started_at - 2 * 366 * 24 * HOUR <= record["event_start_ts"] < record["event_end_ts"]
        assert record["event_end_ts"] <= world.started_at


def test_announced_livestreams_start_within_eighteen_months_and_leave_the_list_then() -> None:
    world = World(Options(now=NOW, speed=0, events=0, scheduled=500))
    records = world.scheduled_at()
    starts = [record["event_start_ts"] for record in records]
    assert starts == sorted(starts)
    assert world.started_at < starts[0] < starts[-1] < world.started_at + 541 * 24 * HOUR
    assert len(set(starts)) < len(set(ids(records))) == len(records) == 500
    world.advance(starts[100] - world.started_at)
    assert world.scheduled_at() == [record for record in records if record["event_start_ts"] > starts[100]]
    assert World(Options(now=NOW, speed=0, scheduled=0)).scheduled_at() == []


def test_ties_move_no_start_to_before_the_first_day() -> None:
    for seed in range(20):
        world = World(Options(seed=seed, now="2021-09-10", speed=0, events=1_500, years=20, ties=1))
        assert min(record["event_start_ts"] for record in world.recent_at()) >= EARLIEST


def test_evenings_and_weekends_are_busiest_channels_have_habits_and_a_few_are_giants() -> None:
    records = World(Options(now=NOW, speed=0, events=20_000, years=5)).recent_at()
    starts = [datetime.fromtimestamp(record["event_start_ts"], UTC) for record in records]
    assert starts[0].year - starts[-1].year == 5
    hours = Counter(start.hour for start in starts)
    assert min(hours[hour] for hour in range(18, 23)) > 2 * max(hours[hour] for hour in range(2, 7))
    days = Counter(start.weekday() for start in starts)
    assert min(days[day] for day in (4, 5, 6)) > max(days[day] for day in (0, 1, 2))
    by_channel: dict[int, list[int]] = {}
    viewers: Counter[int] = Counter()
    for record, start in zip(records, starts, strict=True):
        by_channel.setdefault(record["user_id"], []).append(start.weekday() * 24 + start.hour)
        viewers[record["user_id"]] += record["total_viewers"]
    regular = [slots for slots in by_channel.values() if len(slots) >= 20]
    habitual = [sum(count for _, count in Counter(slots).most_common(5)) / len(slots) for slots in regular]
    assert len(habitual) > 100
    assert sorted(habitual)[len(habitual) // 10] > 0.6
    most = viewers.most_common(len(viewers) // 25)
    assert sum(count for _, count in most) > viewers.total() / 2
    assert sum(record["total_viewers"] == 0 for record in records) > 100


def test_every_category_of_the_specification_is_used_also_the_nameless_ones() -> None:
    world = World(Options(now=NOW, speed=0, nameless="display_name"))
    categories = world.categories()
    assert len(categories) == 21
    nameless = {row["category_id"]: row["display_name"] for row in categories if not row["name"]}
    assert nameless == {
        16: "Valorant", 13: "Axie Infinity", 14: "Wreck League", 15: "Farlight 84", 3: "Call of Duty",
    }  # fmt: skip
    assert {"category_id": 23, "name": "Crypto", "display_name": "CRYPTO"} in categories
    used = {record["category_name"] for record in world.recent_at()}
    assert used == {row["name"] or row["display_name"] for row in categories}


@pytest.mark.parametrize(("nameless", "name"), [("empty", ""), ("null", None)])
def test_records_of_nameless_categories_have_the_name_of_the_switch(nameless: str, name: str | None) -> None:
    names = [record["category_name"] for record in World(Options(**STILL, nameless=nameless)).recent_at()]
    assert name in names
    assert "Valorant" not in names


def test_some_livestreams_have_no_category_with_the_switch() -> None:
    assert all(record["category_name"] is None for record in World(Options(**STILL, uncategorized=1)).recent_at())


def test_titles_have_every_text_that_breaks_programs() -> None:
    titles = {record["event_title"] for record in World(Options(now=NOW, speed=0)).recent_at()}
    for piece in (
        '"',
        "'",
        "\n",
        "\r\n",
        "🔥",
        "\u200d",
        "مرحبا",
        "\u202e",
        "=HYPERLINK(",
        "@SUM",
        "<script>",
        "\x1b[31m",
    ):
        assert any(piece in title for title in titles), piece


def test_a_share_of_the_history_ties() -> None:
    for ties in (0.0, 0.3, 1.0):
        world = World(Options(now=NOW, speed=0, events=2_000, ties=ties))
        ends = Counter(record["event_end_ts"] for record in world.recent_at())
        assert sum(count for count in ends.values() if count > 1) / 2_000 == pytest.approx(ties, abs=0.03)


def test_streams_that_end_move_from_live_to_recent_and_others_take_their_place() -> None:
    world = World(Options(**STILL))
    before = {record["event_id"]: record for record in world.live_at()}
    past = set(ids(world.recent_at()))
    now = world.advance(HOUR)
    live, recent = world.live_at(), world.recent_at()
    ended = {record["event_id"]: record for record in recent if record["event_id"] not in past}
    assert set(ids(live)).isdisjoint(ids(recent))
    assert set(before) <= set(ids(live)) | set(ended)
    assert len(set(before) & set(ended)) > 10
    assert len(live) == pytest.approx(40, abs=3)
    for event_id, record in ended.items():
        assert world.started_at < record["event_end_ts"] <= now
        shared = ("user_id", "user_name", "event_title", "category_name")
        assert all(before[event_id][name] == record[name] for name in shared if event_id in before)
    # No channel has two livestreams at a time.
    assert len({record["user_id"] for record in live}) == len(live)


def test_no_stream_is_lost_or_on_both_routes_at_any_moment() -> None:
    world = World(Options(**STILL))
    seen: set[int] = set()
    for _ in range(120):
        world.advance(5)
        live, recent = set(ids(world.live_at())), set(ids(everything(world)))
        assert live.isdisjoint(recent)
        assert seen <= live | recent
        seen = live | recent


def test_a_stream_that_starts_is_notified_and_live_with_a_new_id() -> None:
    world = World(Options(**STILL))
    known = set(ids(world.live_at())) | set(ids(world.recent_at()))
    start = world.started_at
    world.advance(600)
    announced = ids(world.notifications_between(start, start + 600))
    assert len(announced) == pytest.approx(200, abs=30)
    assert set(announced).isdisjoint(known)
    assert set(ids(world.live_at())) | set(ids(world.recent_at())) == known | set(announced)


def test_viewers_of_live_channels_change_with_time_and_the_order_with_them() -> None:
    world = World(Options(**STILL, start_every=0))
    before = {record["event_id"]: record["viewers_count"] for record in world.live_at()}
    world.advance(5 * MINUTE)
    after = {record["event_id"]: record["viewers_count"] for record in world.live_at()}
    assert set(before) == set(after)
    assert sum(before[each] != after[each] for each in before) > 25
    for viewers in (before, after):
        assert list(viewers.values()) == sorted(viewers.values(), reverse=True)
    assert list(before) != list(after)


def test_the_clock_runs_at_its_speed_or_stands_still_and_never_runs_back() -> None:
    still, fast = World(Options(now=NOW, speed=0, events=0)), World(Options(now=NOW, speed=100_000, events=0))
    assert still.now() == still.started_at == datetime(2026, 11, 1, tzinfo=UTC).timestamp()
    times = [fast.now() for _ in range(100)]
    assert fast.started_at < times[0]
    assert times == sorted(set(times))
    with pytest.raises(ValueError, match="backwards"):
        still.advance(-1)


def test_insertions_and_deletions_do_not_change_the_past() -> None:
    world = World(Options(**STILL))
    start, before = world.started_at, world.recent_at()
    live = world.live_at()
    world.advance(MINUTE)
    inserted = world.insert_now()
    gone, passing = world.delete_now(), world.insert_now()["event_id"]
    world.advance(MINUTE)
    world.delete_now(passing)
    world.advance(HOUR)
    assert world.recent_at(start) == before
    assert world.live_at(start) == live
    assert passing in ids(world.recent_at(start + MINUTE))
    held = ids(world.recent_at())
    assert inserted["event_id"] in held
    assert {gone, passing}.isdisjoint(held)
    assert world.recent_at() == everything(world)


def test_a_livestream_is_inserted_at_the_given_end_and_a_missing_one_cannot_be_deleted() -> None:
    world = World(Options(**STILL))
    end = int(world.started_at) - 1_000_000
    record = world.insert_now(end)
    assert record["event_end_ts"] == end
    assert record in world.recent_at()
    assert world.delete_now(record["event_id"]) == record["event_id"]
    with pytest.raises(KeyError):
        world.delete_now(record["event_id"])
    assert World(Options(**STILL | {"events": 0})).delete_now() is None


@pytest.mark.parametrize(("insert_every", "delete_every"), [(1, 0), (0, 1), (3, 2)])
def test_records_are_inserted_and_deleted_after_every_n_requests(insert_every: int, delete_every: int) -> None:
    world = World(Options(**STILL, insert_every=insert_every, delete_every=delete_every))
    held = set(ids(world.recent_at()))
    before, inserted, deleted = held, set(), set()
    for request in range(1, 31):
        served = set(ids(everything(world)))
        # The answer of the request itself is from before the change.
        assert served == held
        held = set(ids(world.recent_at()))
        inserted |= held - served
        deleted |= served - held
        assert len(inserted) == (request // insert_every if insert_every else 0)
        assert len(deleted) == (request // delete_every if delete_every else 0)
    assert world.existed_throughout() == before - deleted
    assert inserted.isdisjoint(before)


def test_existed_throughout_starts_with_the_first_request() -> None:
    world = World(Options(**STILL))
    early = world.insert_now()["event_id"]
    everything(world)
    late = world.insert_now()["event_id"]
    world.advance(HOUR)
    assert early in world.existed_throughout()
    assert late not in world.existed_throughout()
    assert world.existed_throughout() <= set(ids(world.recent_at()))
