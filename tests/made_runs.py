"""Folders of runs as crawls leave them, made without crawling, and records to put into them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from parti_scraper.api.quality import Quality
from parti_scraper.api.times import iso_to_timestamp
from parti_scraper.items import (
    ApiCall,
    Category,
    LiveChannel,
    LiveNotification,
    Livestream,
    RejectedRecord,
    ScheduledLivestream,
)
from parti_scraper.ledger.ledger import Checkpoint, Ledger, RunRecord
from parti_scraper.network.source import MOCK, REAL
from parti_scraper.run import datapackage
from parti_scraper.run.datapackage import QUARANTINE, File
from parti_scraper.run.days import DAY
from parti_scraper.run.description import About, Outcome, describe, files_of_days
from parti_scraper.run.entries import KINDS
from parti_scraper.run.outcome import Counts

Row = dict[str, Any]

# When runs and records are, unless it is said otherwise.
STARTED = "2026-11-26T12:00:00Z"
ENDED = "2026-11-26T12:01:00Z"
HOSTS = {REAL: "https://api-backend.parti.com", MOCK: "http://127.0.0.1:8000"}
# What data packages say of how a run ended. One that is `running` has none.
ENDINGS: dict[str, dict[str, Any]] = {
    "finished": {},
    "incomplete": {"exit_code": 4, "complete": False, "reason": "1 page could not be fetched"},
    "degraded": {
        "exit_code": 4,
        "degraded": ["user_name is absent from 20 of 20 records"],
        "reason": "degraded: user_name is absent from 20 of 20 records",
    },
    "truncated": {"truncated": True},
    "sealed": {"exit_code": None, "complete": False, "reason": "killed", "sealed": True},
}
RUNNING = "running"

_TRAFFIC = {"retries": 0, "rate_limited": 0}


# --- Runs ------------------------------------------------------------------------------------------------------


def make_run(
    output: Path,
    spider: str,
    run_id: str,
    rows: Sequence[Row],
    *,
    quarantine: Sequence[Row] = (),
    day: str | None = None,
    status: str = "finished",
    **package_fields: Any,
) -> Path:
    """Write the folder of a run, or a day of one, and return the folder that the records are in.

    Args:
        output: PARTI_OUTPUT_DIR.
        spider: its name.
        run_id: the name of the run, by which its `run_uuid` is made.
        rows: its records. What was there is replaced; to let a running run grow, pass its earlier rows too.
        quarantine: records that were set aside.
        day: such as 2026-11-26, of a run of `live` or `notifications` that has days. It gets a data package of its
            own unless it is `running`; then the run has none either, and if it had one, that is removed.
        status: one of `ENDINGS`, or `running`.
        package_fields: of the data package, such as `source="mock"` or `arguments={"categories": ["7"]}`.
    """
    run = output / spider / run_id
    folder = run / day if day else run
    folder.mkdir(parents=True, exist_ok=True)
    files = [_write(folder / f"{KINDS[spider].collection}.jsonl", KINDS[spider].item_class, rows)]
    if quarantine:
        files.append(_write(folder / QUARANTINE, RejectedRecord, quarantine))
    if status == RUNNING:
        for leftover in {folder, run}:
            (leftover / datapackage.FILE_NAME).unlink(missing_ok=True)
        return folder
    descriptor = _descriptor(spider, run_id, _counts(len(rows), len(quarantine)), package_fields)
    descriptor |= ENDINGS[status] | package_fields
    described = {"resources": datapackage.describe_all(files, folder)}
    datapackage.write(folder, descriptor | described | ({"day": day} if day else {}))
    if day:
        _describe_days(run, descriptor)
    return folder


def note_checkpoint(state: Path, run: Path, *, source: str = REAL) -> None:
    """Let a ledger know a run that is going on, with all that is in its files now; they end with whole lines.

    Args:
        state: PARTI_STATE_DIR.
        run: the folder of the run, not that of a day.
        source: where its data come from.
    """
    ledger = Ledger(state)
    try:
        record = ledger.find(run)
        number = record.id if record else ledger.begin(_record(run, source))
        found = [path for pattern in ("*.jsonl", "*/*.jsonl") for path in run.glob(pattern)]
        files = {
            path.relative_to(run).as_posix(): (path.stat().st_size, path.read_bytes().count(b"\n")) for path in found
        }
        written = sum(rows for name, (_, rows) in files.items() if not name.endswith(QUARANTINE))
        ledger.checkpoint(number, Checkpoint({"source": {"kind": source}}, {"written": written}, files, HOSTS[source]))
    finally:
        ledger.close()


def uuid_of(spider: str, run_id: str) -> str:
    """Return the `run_uuid` of a run that was made."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{spider}/{run_id}"))


def lines_of(rows: Iterable[Row]) -> bytes:
    """Return rows as JSON Lines."""
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def _write(path: Path, item_class: type, rows: Sequence[Row]) -> File:
    path.write_bytes(lines_of(rows))
    return File(path, item_class, len(rows))


def _counts(written: int, quarantined: int) -> dict[str, Any]:
    return asdict(Counts(1, written + quarantined, written, quarantined=quarantined))


def _descriptor(
    spider: str, run_id: str, counts: Mapping[str, int], package_fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the data package of a run that ended well, but for its files."""
    source = package_fields.get("source", REAL)
    window = {"since": "2021-08-03T00:00:00Z", "until": STARTED} if spider == "recent" else None
    about = About(
        spider, run_id, uuid_of(spider, run_id), KINDS[spider].collection, {}, window, HOSTS[source], source, []
    )
    started_at = iso_to_timestamp(package_fields.get("started_at", STARTED))
    ended_at = iso_to_timestamp(package_fields.get("ended_at", ENDED))
    stretch = (started_at, max(started_at, ended_at))
    outcome = Outcome(stretch, 0, counts, _TRAFFIC, Quality(), complete=True, degraded=[], truncated=False, reason=None)
    return describe(about, outcome)


def _describe_days(run: Path, descriptor: Mapping[str, Any]) -> None:
    """Write the data package of a run, with the counts of its days together, once all of these have theirs."""
    days = sorted(path.name for path in run.iterdir() if DAY.fullmatch(path.name))
    packages = [package for day in days if (package := datapackage.read(run / day))]
    if len(packages) < len(days):
        return
    counts = {name: sum(each["counts"][name] for each in packages) for name in packages[0]["counts"]}
    # These are told of the days only.
    of_run = {name: value for name, value in descriptor.items() if name not in {"snapshots", "listened"}}
    times = {"started_at": min(each["started_at"] for each in packages)}
    datapackage.write(run, of_run | times | {"counts": counts, "days": days, "resources": files_of_days(run, days)})


def _record(run: Path, source: str) -> RunRecord:
    spider, run_id = run.parent.name, run.name
    began = iso_to_timestamp(STARTED)
    return RunRecord(
        str(run.absolute()), spider, run_id, {}, began, run_uuid=uuid_of(spider, run_id), host=HOSTS[source]
    )


# --- Records ---------------------------------------------------------------------------------------------------


def category(category_id: int, **fields: Any) -> Row:
    """Return a category."""
    return _row(
        Category,
        {
            "category_id": category_id,
            "name": f"Category {category_id}",
            "display_name": f"category {category_id}",
            "scraped_at": STARTED,
            "extra": {},
        },
        fields,
    )


def livestream(event_id: int, **fields: Any) -> Row:
    """Return a livestream that has ended."""
    return _row(
        Livestream,
        _stream(event_id)
        | {
            "event_start": "2026-11-25T09:00:00Z",
            "event_end": "2026-11-25T10:30:00Z",
            "duration_seconds": 5_400,
            "total_viewers": event_id * 10,
            "livestream_visibility_type": "Public",
            "has_access_pass": False,
            "livestream_recording": f"https://media.parti.com/recordings/{event_id}/master.m3u8",
            "video_url": f"https://parti.com/video/{event_id}",
            "scraped_at": STARTED,
        },
        fields,
    )


def live_channel(event_id: int, snapshot_id: str = "run-1", **fields: Any) -> Row:
    """Return a channel in a snapshot."""
    return _row(
        LiveChannel,
        _stream(event_id)
        | {
            "snapshot_id": snapshot_id,
            "observed_at": STARTED,
            "rank": 1,
            "viewers_count": event_id * 10,
            "channel_arn": f"arn:aws:ivs:us-west-2:1:channel/{event_id}",
            "playback_url": f"https://video.example/{event_id}.m3u8",
        },
        fields,
    )


def notification(event_id: int, **fields: Any) -> Row:
    """Return a livestream that has begun."""
    return _row(
        LiveNotification,
        _stream(event_id)
        | {
            "received_at": STARTED,
            "source": "websocket",
            "livestream_id": event_id + 1_000,
            "viewers_count": 0,
            "channel_arn": f"arn:aws:ivs:us-west-2:1:channel/{event_id}",
        },
        fields,
    )


def scheduled(event_id: int, **fields: Any) -> Row:
    """Return a scheduled livestream."""
    known = {
        "event_description": "We will play.",
        "event_start": "2026-12-01T18:00:00Z",
        "event_end": "2026-12-01T20:00:00Z",
        "livestream_visibility_type": "Public",
        "scraped_at": STARTED,
    }
    lacks = {"social_media", "social_username", "discord_discriminator", "channel_url"}
    stream = {name: value for name, value in _stream(event_id).items() if name not in lacks}
    return _row(ScheduledLivestream, stream | known, fields)


def api_call(path: str, **fields: Any) -> Row:
    """Return a request of the site's page."""
    return _row(
        ApiCall,
        {
            "page_url": "https://parti.com/categories",
            "method": "GET",
            "host": "api-backend.parti.com",
            "path": path,
            "query": "",
            "status": 200,
            "resource": "http",
            "known": True,
            "observed_at": STARTED,
        },
        fields,
    )


def rejected(position: int, **fields: Any) -> Row:
    """Return a record that was set aside."""
    return _row(
        RejectedRecord,
        {
            "reason": "event_id is missing",
            "url": "https://api-backend.parti.com/parti_v2/profile/get_livestream_channel_info/recent",
            "position": position,
            "record": {"event_title": "nobody"},
        },
        fields,
    )


def _stream(event_id: int) -> Row:
    """Return the fields that most records of livestreams have."""
    user_id = event_id % 7 + 1
    return {
        "event_id": event_id,
        "user_id": user_id,
        "user_name": f"user {user_id}",
        "event_title": f"Live on Parti {event_id}",
        "category_id": 7,
        "category_name": "Category 7",
        "event_file": f"https://assets.parti.com/{event_id}.png",
        "avatar_link": f"https://assets.parti.com/avatars/{user_id}.png",
        "user_avatar_id": user_id,
        "social_media": "parti",
        "social_username": f"user {user_id}",
        "discord_discriminator": None,
        "channel_url": f"https://parti.com/user%20{user_id}",
        "extra": {},
    }


def _row(item_class: type, known: Row, fields: Row) -> Row:
    """Return a record with all fields of its kind, in their order."""
    return asdict(item_class(**(known | fields)))
