"""Small made-up histories of runs: livestreams that are watched, end, change, are deleted and come back.

Everything that a run has seen is by chance, so that nothing in it follows from what another run has seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.derived_truth import DAY, moment, text
from tests.made_runs import live_channel, livestream, make_run, note_checkpoint, notification, rejected, scheduled

Row = dict[str, Any]

# Two hours before midnight.
BEGINNING = moment("2026-11-26T22:00:00Z")
FIRST = moment("2021-08-03T00:00:00Z")
EVENTS = range(1, 7)
MINUTE = 60
_FILTERS: tuple[dict[str, Any], ...] = ({}, {}, {}, {"categories": ["7"]}, {"user_id": 2})
_STATUSES = ("finished", "finished", "finished", "incomplete", "truncated", "sealed", "degraded")


@dataclass(frozen=True)
class Part:
    """A run, or a day of one, as `make_run` takes it."""

    rows: list[Row]
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Made:
    """A run that is to be written.

    Attributes:
        spider, run_id: what it is called.
        parts: the run, or its days.
    """

    spider: str
    run_id: str
    parts: list[Part]

    def write(self, output: Path) -> None:
        """Write the run with the end that it comes to."""
        for part in self.parts:
            make_run(output, self.spider, self.run_id, part.rows, **part.fields)

    def begin(self, output: Path, state: Path) -> None:
        """Write the run as it is while it goes on: half of its last records are there, and the ledger knows them."""
        *whole, last = self.parts
        for part in whole:
            make_run(output, self.spider, self.run_id, part.rows, **part.fields)
        rows = last.rows[: len(last.rows) // 2]
        make_run(output, self.spider, self.run_id, rows, day=last.fields.get("day"), status="running")
        note_checkpoint(state, output / self.spider / self.run_id)


# --- Runs that watch ---------------------------------------------------------------------------------------------


def _shown(event_id: int, at: int) -> Row:
    """Return the fields of a livestream that change with time: another name, category and channel from midnight on."""
    is_late = at // DAY > BEGINNING // DAY
    user_id = 9 if event_id == 5 and is_late else event_id % 3 + 1
    name = None if event_id == 4 else f"user {user_id}{' (new)' if is_late else ''}"
    category = None if event_id == 3 else 7 + (event_id + is_late) % 2
    title = None if event_id == 5 else f"title {event_id}"
    return {
        "user_id": user_id,
        "user_name": name,
        "event_title": title,
        "category_id": category,
        "category_name": None if category is None else f"Category {category}",
    }


@st.composite
def live_runs(draw: st.DrawFn, number: int) -> Made:
    """Return a run of `live`: one snapshot, or several with a folder for each day."""
    # A snapshot may begin in another hour, or on another day, than it ends.
    began = BEGINNING + MINUTE * draw(st.integers(0, 240)) - 1
    steps = draw(st.lists(st.sampled_from([1, 5, 5, 5, 6, 15, 16, 60, 1_500]), max_size=7))
    arguments: dict[str, Any] = dict(draw(st.sampled_from(_FILTERS)))
    moments = [began]
    for step in steps:
        moments.append(moments[-1] + MINUTE * step)
    run_id = f"live-{number}"
    taken = [_snapshot(draw, f"{run_id}-{place}", at) for place, at in enumerate(moments)]
    if not steps:
        status = draw(st.sampled_from(_STATUSES))
        return Made("live", run_id, [_watched(taken, status, arguments)])
    arguments["interval"] = 300.0
    days = [list(group) for _, group in groupby(taken, lambda each: each[0]["ended_at"][:10])]
    parts = [_watched(each, "finished", arguments, each[0][0]["ended_at"][:10]) for each in days]
    return Made("live", run_id, parts)


def _snapshot(draw: st.DrawFn, snapshot_id: str, at: int) -> tuple[Row, list[Row]]:
    """Return a snapshot as a data package has it, and its rows."""
    viewers = draw(st.dictionaries(st.sampled_from(EVENTS), st.none() | st.integers(0, 50), max_size=4))
    rows = [
        live_channel(event_id, snapshot_id, observed_at=text(at + 2), viewers_count=count, **_shown(event_id, at + 2))
        for event_id, count in viewers.items()
    ]
    is_whole = draw(st.sampled_from([True, True, True, False]))
    about = {"snapshot_id": snapshot_id, "started_at": text(at), "ended_at": text(at + 2)}
    return about | {"channels": len(rows), "complete": is_whole}, rows


def _watched(taken: list[tuple[Row, list[Row]]], status: str, arguments: Row, day: str | None = None) -> Part:
    about = [each for each, _ in taken]
    # A run with one snapshot is as whole as this.
    if day is None:
        about = [each | {"complete": status in {"finished", "degraded"}} for each in about]
    times = {"started_at": about[0]["started_at"], "ended_at": about[-1]["ended_at"]}
    fields = {"status": status, "day": day, "arguments": arguments, "snapshots": about, **times}
    return Part([row for _, rows in taken for row in rows], fields)


@st.composite
def notification_runs(draw: st.DrawFn, number: int) -> Made:
    """Return a run of `notifications` that was connected once or twice on each of its days."""
    parts = []
    # No two runs hear of something in the same second.
    began = BEGINNING + number + MINUTE * draw(st.integers(0, 90))
    for _ in range(draw(st.integers(1, 2))):
        lengths = draw(st.lists(st.integers(0, 20), min_size=1, max_size=2))
        starts = [began + 1_800 * place for place in range(len(lengths))]
        spans = [
            {"from": text(start), "to": text(start + MINUTE * length)}
            for start, length in zip(starts, lengths, strict=True)
        ]
        heard = draw(st.lists(st.sampled_from(EVENTS), unique=True, max_size=3))
        rows = [notification(each, received_at=text(began), **_shown(each, began)) for each in heard]
        times = {"started_at": text(began), "ended_at": spans[-1]["to"]}
        parts.append(Part(rows, {"day": text(began)[:10], "listened": spans, **times}))
        began += DAY
    return Made("notifications", f"notifications-{number}", parts)


@st.composite
def scheduled_runs(draw: st.DrawFn, number: int) -> Made:
    """Return a run of `scheduled`; some livestreams are in nothing else."""
    at = BEGINNING + number + MINUTE * draw(st.integers(0, 600))
    found = draw(st.lists(st.sampled_from([*EVENTS, 21, 22, 23]), unique=True, max_size=4))
    rows = [
        scheduled(each, scraped_at=text(at + MINUTE), event_start=text(at + each * DAY), **_shown(each, at))
        for each in found
    ]
    fields = {"started_at": text(at), "ended_at": text(at + 2 * MINUTE)}
    return Made("scheduled", f"scheduled-{number}", [Part(rows, fields)])


# --- Runs that look at what has ended ----------------------------------------------------------------------------


def ended(event_id: int, at: int, *, version: int) -> Row:
    """Return a livestream as a run that began at a moment found it."""
    end = BEGINNING + 1_800 * event_id
    # Of one it is not known when it ended.
    end_text, length = (None, None) if event_id == 6 else (text(end), 1_200)
    return livestream(
        event_id,
        **_shown(event_id, BEGINNING) | ({"user_name": "renamed"} if version == 2 else {}),
        event_start=text(end - 1_200),
        event_end=end_text,
        duration_seconds=length,
        total_viewers=None if version == 1 else version * 10,
        scraped_at=text(at + MINUTE),
    )


@st.composite
def recent_runs(draw: st.DrawFn, number: int) -> Made:
    """Return a run of `recent`: all, a window or incremental; whole or not; what it has seen is by chance."""
    # No two runs receive something in the same second.
    began = BEGINNING + number + 1_800 * draw(st.integers(1, 16))
    is_incremental, is_first = draw(st.booleans()), draw(st.booleans())
    since = FIRST if is_first else BEGINNING + 1_800 * draw(st.integers(-2, 6))
    until = began if draw(st.booleans()) else max(since, began + 1_800 * draw(st.integers(-6, 2)))
    arguments: dict[str, Any] = dict(draw(st.sampled_from(_FILTERS)))
    arguments |= {"incremental": True} if is_incremental else {}
    arguments |= {"sort": "views"} if not is_incremental and draw(st.integers(0, 5)) == 0 else {}
    arguments |= {} if is_first or is_incremental else {"since": since}
    there = [each for each in EVENTS if since <= BEGINNING + 1_800 * each <= min(until, began)]
    seen = draw(st.lists(st.sampled_from(there), unique=True)) if there else []
    same = draw(st.sets(st.sampled_from(seen))) if is_incremental and seen else set()
    rows = [ended(each, began, version=draw(st.integers(0, 2))) for each in seen if each not in same]
    fields: dict[str, Any] = {
        "status": draw(st.sampled_from(_STATUSES)),
        "arguments": arguments,
        "window": {"since": text(since), "until": text(until)},
        "started_at": text(began),
        "ended_at": text(began + 2 * MINUTE),
        "quarantine": [rejected(1)] if draw(st.integers(0, 4)) == 0 else [],
    }
    fields |= {"unchanged": encoded(same)} if is_incremental and fields["status"] != "sealed" else {}
    return Made("recent", f"recent-{number}", [Part(rows, fields)])


def encoded(event_ids: Iterable[int]) -> str:
    """Return livestreams as the key `unchanged` of a data package has them."""
    numbers = sorted(event_ids)
    return " ".join(str(each - before) for each, before in zip(numbers, [0, *numbers], strict=False))


# --- All -----------------------------------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> list[Made]:
    """Return a few runs, several of which go on at once."""
    kinds = (live_runs, live_runs, live_runs, recent_runs, recent_runs, recent_runs, notification_runs, scheduled_runs)
    chosen = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=10))
    return [draw(kind(number)) for number, kind in enumerate(chosen)]
