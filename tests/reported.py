"""Datasets for the report, filled by hand: every table, and rows such as a week of collecting leaves."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from typing import Any

from duckdb import DuckDBPyConnection

from parti_scraper.dataset import sql
from parti_scraper.dataset.engine import connect
from parti_scraper.dataset.tables import dataset_tables

Row = dict[str, Any]

# 2026-11-16T00:00:00Z, a Monday.
START = 1_794_787_200
HOUR, DAY = 3_600, 86_400
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>\u202egnp.exe & \"quoted\""
CATEGORIES = ("Gaming", "IRL", "Music", "NaN", "", HOSTILE, "Crypto", "Sports", "Talk", "Art", None)
_TYPES = {each: each for each in ("BIGINT", "BOOLEAN", "DOUBLE", "TIMESTAMPTZ", "VARCHAR")}


def empty_dataset() -> DuckDBPyConnection:
    """Return a connection with every table of the dataset, all empty."""
    connection = connect()
    for table in dataset_tables().values():
        connection.execute(sql.create(table, sql.name(table.name), _TYPES))
    return connection


def insert(connection: DuckDBPyConnection, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Insert rows; times are given in Unix seconds, and columns that are not given are null."""
    columns = {column.name: column.type for column in dataset_tables()[table].columns}
    for row in rows:
        values = [f"to_timestamp(${each})" if columns[each] == "TIMESTAMPTZ" else f"${each}" for each in row]
        names = sql.names(row)
        connection.execute(f"INSERT INTO {sql.name(table)} ({names}) VALUES ({', '.join(values)})", dict(row))


def made_week(seed: int, *, days: int = 7, killed: int | None = 3, streams: int = 60) -> DuckDBPyConnection:
    """Return the dataset of some days in which a snapshot was taken every half hour, except on the day that was killed.

    The tables agree with each other only as far as the report needs it; a few livestreams have hostile texts.
    """
    chance = random.Random(seed)
    connection = empty_dataset()
    connection.execute("BEGIN")
    days_of = [day for day in range(days) if day != killed]
    events = [_stream(chance, number, days_of) for number in range(streams)]
    for day in days_of:
        _day_of_snapshots(connection, day, events)
    for event in events:
        _ended(connection, chance, event)
    _runs(connection, chance, days, killed)
    connection.execute("COMMIT")
    return connection


def _stream(chance: random.Random, number: int, days: list[int]) -> Row:
    start = START + chance.choice(days) * DAY + chance.randrange(22 * HOUR)
    return {
        "event_id": number,
        "user_id": number % 17,
        "user_name": HOSTILE if number % 17 == 1 else f"channel {number % 17}",
        "event_title": HOSTILE if number % 5 == 1 else f"stream {number}",
        "category_name": chance.choice(CATEGORIES),
        "start": start,
        "end": start + chance.randrange(600, 2 * HOUR),
        "viewers": [chance.randrange(5_000) for _ in range(6)],
    }


def _day_of_snapshots(connection: DuckDBPyConnection, day: int, events: list[Row]) -> None:
    run = f"live-{day}"
    moments = range(START + day * DAY, START + (day + 1) * DAY, HOUR // 2)
    for moment in moments:
        seen = [each for each in events if each["start"] <= moment <= each["end"]]
        snapshot: Row = {"run_uuid": run, "snapshot_id": str(moment), "started_at": moment, "ended_at": moment + 1}
        insert(connection, "snapshots", [snapshot | {"channels": len(seen), "complete": True, "filters": "{}"}])
        insert(connection, "live_channels", [_channel(run, moment, each) for each in seen])
    covered: Row = {"collection": "live_channels", "filters": "{}", "run_uuid": run, "since": moments[0]}
    insert(connection, "coverage", [covered | {"until": moments[-1] + HOUR // 2}])


def _channel(run: str, moment: int, event: Row) -> Row:
    viewers = event["viewers"][(moment - event["start"]) // (HOUR // 2)]
    shared = {name: event[name] for name in ("event_id", "user_id", "user_name", "event_title", "category_name")}
    return {"run_uuid": run, "snapshot_id": str(moment), "observed_at": moment, "viewers_count": viewers, **shared}


def _ended(connection: DuckDBPyConnection, chance: random.Random, event: Row) -> None:
    """Insert a livestream into `livestreams` and `streams`."""
    shared = {name: event[name] for name in ("event_id", "user_id", "user_name", "event_title", "category_name")}
    row = connection.execute(
        "SELECT count(*), max(viewers_count), epoch(arg_max(observed_at, viewers_count))::BIGINT, sum(viewers_count) "
        "FROM live_channels WHERE event_id = ?",
        [event["event_id"]],
    ).fetchone()
    snapshots, peak, peak_at, viewers = row or (0, None, None, None)
    length, total = event["end"] - event["start"], chance.randrange(20_000)
    # As the site has it, an address that is none of it, and one that runs.
    url = chance.choice(
        [f"https://parti.com/channel-{event['user_id']}", "https://evil.example/", "javascript:alert(1)"]
    )
    ended = {"event_end": event["end"], "duration_seconds": length, "total_viewers": total}
    missing = {"missing_since": event["end"] + DAY} if event["event_id"] % 20 == 7 else {}
    insert(connection, "livestreams", [shared | ended | missing | {"event_start": event["start"], "channel_url": url}])
    of_stream = {
        "started_at": event["start"],
        "ended_at": event["end"],
        "duration_seconds": length,
        "total_viewers": total,
        "snapshots": snapshots,
        "peak_viewers": peak,
        "peak_at": peak_at,
        "viewer_hours": viewers / 2 if snapshots > 1 else None,
        "observed_seconds": max(0, snapshots - 1) * HOUR // 2,
        "channel_url": url,
        "video_url": f"https://parti.com/video/{event['event_id']}",
    }
    insert(connection, "streams", [shared | of_stream])


def _runs(connection: DuckDBPyConnection, chance: random.Random, days: int, killed: int | None) -> None:
    for day in range(days):
        at = START + (day + 1) * DAY
        shared: Row = {"day": "", "source": "mock", "started_at": at, "ended_at": at + 60, "as_of": at + 60}
        ok: Row = shared | {"status": "finished", "exit_code": 0, "complete": True, "degraded": "[]", "is_over": True}
        counts = {name: chance.randrange(1, 500) for name in ("pages", "served", "written", "quarantined", "retries")}
        odd = {"unknown_fields": json.dumps({HOSTILE: 2, "a/b~c": 3}), "unreadable_fields": '{"event_start": 1}'}
        run: Row = {"run_uuid": f"recent-{day}", "spider": "recent", "run_id": f"recent-{day}", **counts, **odd}
        if day == killed:
            dead: Row = {"status": "sealed", "exit_code": None, "complete": False, "reason": f"killed {HOSTILE}"}
            insert(connection, "runs", [shared | run | dead])
            continue
        insert(connection, "runs", [ok | run, ok | {"run_uuid": f"live-{day}", "spider": "live", "run_id": "l"}])
        insert(connection, "quarantine", [{"run_uuid": f"recent-{day}", "file": "q", "line": 1, "reason": HOSTILE}])
        covered: Row = {"collection": "livestreams", "filters": "{}", "run_uuid": f"recent-{day}"}
        insert(connection, "coverage", [covered | {"since": at - DAY, "until": at - 1}])
