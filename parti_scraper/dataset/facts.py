"""What data packages say of runs, as rows of tables.

Of a run, and of each day of one, its account is loaded as a file is: by the name of the data package. It is known by
a hash of what the account says, so it is loaded again when that has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from parti_scraper.api.times import iso_to_timestamp, timestamp_to_iso
from parti_scraper.dataset.coverage import LIVESTREAMS, Interval, Series, interval_of, proof_of
from parti_scraper.dataset.tables import CONFIRMED, RUNS, SNAPSHOTS, record_tables
from parti_scraper.run.datapackage import FILE_NAME
from parti_scraper.run.entries import Status

if TYPE_CHECKING:
    from parti_scraper.run.entries import Entry

# What an account says, and is hashed; not where the run is, and which files are still there.
_SAID = (
    *("status", "reason", "spider", "run_id", "day", "run_uuid", "version", "source", "host", "started_at", "ended_at"),
    *("duration_seconds", "arguments", "window", "exit_code", "complete", "degraded", "truncated", "counts", "retries"),
    *("rate_limited", "unknown_fields", "unreadable_fields"),
)
_LIVE, _NOTIFICATIONS = "live", "notifications"
_COUNTS = ("pages", "served", "written", "duplicate", "quarantined", "filtered", "dropped", "new", "changed")


def name_of(entry: Entry) -> str:
    """Return the name by which it is noted that the account of a run, or of a day of one, is loaded."""
    return f"{entry.day}/{FILE_NAME}" if entry.day else FILE_NAME


def digest_of(entry: Entry) -> str:
    """Return a hash of what is said of a run, or of a day of one, in hexadecimal."""
    said = msgspec.json.encode([getattr(entry, name) for name in _SAID], order="deterministic")
    return hashlib.sha256(said).hexdigest()


def size_of(entry: Entry) -> int:
    """Return how many bytes of records a run, or a day of one, has."""
    return sum(file.bytes or 0 for file in entry.files)


@dataclass(slots=True)
class Facts:
    """Rows of tables that data packages fill, and what else follows from them.

    Attributes:
        rows: by table, in the order of its columns.
        spans: when runs of `notifications` were connected: run and interval.
    """

    rows: defaultdict[str, list[tuple[Any, ...]]] = field(default_factory=lambda: defaultdict(list))
    spans: list[tuple[str, Interval]] = field(default_factory=list)

    def add(self, entry: Entry, now: str) -> None:
        """Take the account of a run, or of a day of one; `now` is when the export is made. Raises CatalogError."""
        snapshots, spans, unchanged = _snapshots(entry), _spans(entry), _unchanged(entry)
        self.rows[RUNS].append(_run(entry, now, knows_unchanged=unchanged is not None))
        self.rows[SNAPSHOTS] += snapshots
        self.rows[CONFIRMED] += unchanged or ()
        self.spans += spans


def _run(entry: Entry, now: str, *, knows_unchanged: bool) -> tuple[Any, ...]:
    """Return the row of a run, or of a day of one; `now` is when it was looked at."""
    proof = proof_of(entry)
    is_over = entry.status is not Status.UNFINISHED
    values = {
        "run_uuid": entry.run_uuid,
        "day": entry.day or "",
        "arguments": _json(entry.arguments),
        "degraded": _json(entry.degraded),
        "unknown_fields": _json(entry.unknown_fields),
        "unreadable_fields": _json(entry.unreadable_fields),
        **{name: entry.counts.get(name) for name in _COUNTS},
        "filters": _filters(entry),
        "started_at": _time(entry.started_at),
        "ended_at": _time(entry.ended_at),
        "proved_since": timestamp_to_iso(proof.since) if proof else None,
        "proved_until": timestamp_to_iso(proof.until) if proof else None,
        "continues": proof.continues if proof else None,
        "knows_missing": knows_unchanged and confirms(entry) is not None and not entry.counts.get("quarantined"),
        "is_over": is_over,
        "as_of": (_time(entry.ended_at) if is_over else None) or now,
    }
    return tuple(values[name] if name in values else getattr(entry, name) for name in record_tables()[RUNS].names)


def confirms(entry: Entry) -> tuple[Interval, str] | None:
    """Return within which interval a run confirms the livestreams that it has seen, and when it began.

    None if it confirms nothing: only runs without filters do, that are proved complete.
    """
    proof = proof_of(entry)
    started_at = _time(entry.started_at)
    if proof is None or proof.series != LIVESTREAMS or started_at is None:
        return None
    return Interval(proof.since, proof.until), started_at


def _snapshots(entry: Entry) -> list[tuple[Any, ...]]:
    """Return the rows of the snapshots of a day, or of a run without days. Raises CatalogError."""
    if entry.spider != _LIVE or entry.days:
        return []
    filters = _filters(entry)
    return [
        (
            entry.run_uuid,
            each.snapshot_id,
            each.started_at,
            each.ended_at,
            each.channels,
            each.complete and not entry.truncated,
            filters,
            True,
        )
        for each in entry.snapshots()
        if _time(each.started_at) and _time(each.ended_at)
    ]


def _spans(entry: Entry) -> list[tuple[str, Interval]]:
    """Return when a run of `notifications` was connected, on a day of it. Raises CatalogError."""
    if entry.spider != _NOTIFICATIONS or entry.days or entry.status is Status.UNFINISHED:
        return []
    found = (interval_of(each.since, each.until) for each in entry.listened())
    return [(entry.run_uuid or "", each) for each in found if each]


def _unchanged(entry: Entry) -> list[tuple[int, str]] | None:
    """Return the livestreams that a run confirms without having written them; None if it does not say.

    Only incremental runs have any. Raises CatalogError.
    """
    confirmed = confirms(entry)
    if confirmed is None or not entry.arguments.get("incremental"):
        return []
    _, began = confirmed
    unchanged = entry.unchanged()
    return None if unchanged is None else [(event_id, began) for event_id in unchanged]


def _filters(entry: Entry) -> str:
    return _json(Series.of("", entry.arguments).filters)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _time(text: str | None) -> str | None:
    """Return a time in ISO 8601, or None if it is none: in a data package, anything may stand."""
    try:
        return None if text is None else timestamp_to_iso(iso_to_timestamp(text))
    except (ValueError, OverflowError):
        return None
