"""What the derived tables of a dataset are to hold, worked out in plain Python from the folders of runs.

Nothing of the package is used, and no SQL, so that a misunderstanding in either of them shows. Simple and slow. Moments
are whole Unix seconds, except in rows, where times are texts as in the files of the runs. What is defined in the
section "What follows from the records" of docs/data.md is not explained again here.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from itertools import pairwise
from math import fsum
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple

from tests.dataset_truth import Row, Truth, in_order, rounded

DAY, HOUR = 86_400, 3_600
_GAP = 3
# Where runs look for livestreams from, unless they are told otherwise.
_FIRST = "2021-08-03T00:00:00Z"
# These are told of a run by its data package as they are.
_SAME: tuple[str, ...] = (
    "run_id",
    "spider",
    "host",
    "started_at",
    "ended_at",
    "duration_seconds",
    "exit_code",
    "complete",
)
_SAME += ("degraded", "truncated", "reason", "retries", "rate_limited", "unknown_fields", "unreadable_fields")
_OF_CHANNELS = ("livestreams", "live_channels", "live_notifications", "scheduled_livestreams")
_COUNTS = ("pages", "served", "written", "duplicate", "quarantined", "filtered", "dropped", "new", "changed")


def moment(time: str) -> int:
    """Return a time as Unix seconds."""
    return int(datetime.fromisoformat(time).timestamp())


def text(seconds: int) -> str:
    """Return Unix seconds as a time."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def unchanged_ids(encoded: str) -> set[int]:
    """Return the numbers of ascending livestreams, each written as the difference from the one before."""
    numbers, last = set[int](), 0
    for each in encoded.split():
        last += int(each)
        numbers.add(last)
    return numbers


# --- What runs say -----------------------------------------------------------------------------------------------


class Proof(NamedTuple):
    """A run of `recent` that proves a stretch of time; `window` is the whole of it, in Unix seconds."""

    since: int
    until: int
    continues: bool


@dataclass(frozen=True)
class Package:
    """The data package of a run, or of a day of one, and the livestreams that it wrote."""

    content: Row
    written: frozenset[int] = frozenset()

    @property
    def key(self) -> tuple[str, str]:
        """The run and the day; empty for the run itself."""
        return self.content["run_uuid"], self.content.get("day") or ""

    @property
    def status(self) -> str:
        """How it ended."""
        return "sealed" if self.content.get("sealed") else "finished"

    @property
    def filters(self) -> dict[str, str]:
        """What it was told to leave out the rest of, in one spelling."""
        arguments = self.content["arguments"]
        found: dict[str, str] = {}
        if categories := arguments.get("categories"):
            spelled = {str(int(each)) if str(each).isdigit() else str(each).casefold() for each in categories}
            found["categories"] = ",".join(sorted(spelled))
        if (user_id := arguments.get("user_id")) is not None:
            found["user_id"] = str(user_id)
        return found

    def proof(self) -> Proof | None:
        """Return what a run of `recent` proves, if anything."""
        content, arguments = self.content, self.content["arguments"]
        is_whole = self.status == "finished" and content["complete"] and not content["truncated"]
        is_here = not (content.get("feeds") and not content["resources"])
        window = content.get("window")
        is_by_date = arguments.get("sort", "date") == "date"
        if content["spider"] != "recent" or not (is_whole and is_here and window and is_by_date):
            return None
        since, until = moment(window["since"]), min(moment(window["until"]), moment(content["started_at"]))
        begins = arguments.get("since", moment(_FIRST))
        continues = bool(arguments.get("incremental")) and since != begins
        return Proof(since, until, continues) if since <= until else None

    def seen(self) -> frozenset[int] | None:
        """Return the livestreams that a run has seen; None if it does not say."""
        unchanged = self.content.get("unchanged")
        if self.content["arguments"].get("incremental") and unchanged is None:
            return None
        return self.written | unchanged_ids(unchanged or "")


class Snapshot(NamedTuple):
    """A snapshot; when it began, in Unix seconds."""

    run_uuid: str
    snapshot_id: str
    began: int
    complete: bool
    filters: str


@dataclass
class DerivedTruth:
    """What the derived tables are to hold, after the exports so far.

    Attributes:
        records: what the tables of records are to hold.
    """

    records: Truth = field(default_factory=Truth)
    _packages: dict[tuple[str, str], Package] = field(default_factory=dict)
    _read: dict[Path, bytes] = field(default_factory=dict)

    def see(self, *outputs: Path, state: Path | None = None) -> DerivedTruth:
        """Look at folders of runs of one source, as `Truth.see`, and return itself."""
        self.records.see(*outputs, state=state)
        for output in outputs:
            for path in sorted([*output.glob("*/*/datapackage.json"), *output.glob("*/*/*/datapackage.json")]):
                body = path.read_bytes()
                if path.parent not in self.records.left_out and self._read.get(path) != body:
                    self._read[path] = body
                    self._take(path, json.loads(body))
        return self

    def _take(self, path: Path, content: Row) -> None:
        files = [] if content.get("pruned") else content["resources"]
        names = {each["path"] for each in files if content["spider"] == "recent" and each["path"].endswith(".jsonl")}
        lines = [
            json.loads(line)
            for name in sorted(names - {"quarantine.jsonl"})
            for line in (path.parent / name).read_text(encoding="utf-8").split("\n")
            if line
        ]
        written = frozenset(row["event_id"] for row in lines)
        package = Package(content, written)
        before = self._packages.get(package.key)
        # What was loaded stays when the files are gone, and of copies the one counts that has come furthest.
        if before is None or not (content.get("pruned") or content["ended_at"] < before.content["ended_at"]):
            self._packages[package.key] = package

    def packages(self) -> list[Package]:
        """Return the data packages of all runs and days."""
        return list(self._packages.values())

    def known(self) -> Known:
        """Return all that is known, to work the tables out of."""
        return Known(self.records.tables(), self.packages(), self.records.every())

    def tables(self) -> dict[str, list[Row]]:
        """Return the rows of `livestreams` and of every derived table, sorted by key."""
        return self.known().all_tables()


# --- What follows ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """What is known: the tables of records, data packages, and every record of the runs, by collection."""

    tables: Mapping[str, list[Row]]
    packages: list[Package]
    every: Mapping[str, list[Row]]

    def all_tables(self) -> dict[str, list[Row]]:
        """Return the rows of `livestreams`, `runs`, and of every derived table, sorted by key."""
        runs = [rounded(run_of(each)) for each in self.packages]
        return {"runs": in_order("runs", runs), **self.all_tables_but_runs()}

    def all_tables_but_runs(self) -> dict[str, list[Row]]:
        """Return the rows of `livestreams` and of every derived table but `runs`, sorted by key."""
        streams = self.streams()
        tables = {
            "livestreams": self.livestreams(),
            "snapshots": [row for each in self.packages for row in _listed(each)],
            "streams": streams,
            "channels": list(channels(streams, self.every, self.tables["live_notifications"])),
            "hours": list(self.hours()),
            "coverage": self.coverage(),
        }
        return {name: in_order(name, map(rounded, rows)) for name, rows in tables.items()}

    def snapshots(self) -> list[Snapshot]:
        """Return every snapshot."""
        return [
            Snapshot(row["run_uuid"], row["snapshot_id"], moment(row["started_at"]), row["complete"], _json(row))
            for each in self.packages
            for row in _listed(each)
        ]

    def livestreams(self) -> list[Row]:
        """Return the ended livestreams, with when they were last confirmed, and since when they are missing."""
        rows = self.tables["livestreams"]
        runs = [each for each in self.packages if each.proof() and not each.filters and not each.content.get("pruned")]
        return [row | deletion(row, runs) for row in rows]

    def streams(self) -> list[Row]:
        """Return a row for each livestream."""
        usual = usual_distances(self.snapshots())
        of_event: dict[int, dict[str, list[Row]]] = defaultdict(lambda: {kind: [] for kind in _OF_CHANNELS})
        for kind in _OF_CHANNELS:
            for row in self.tables[kind]:
                of_event[row["event_id"]][kind].append(row)
        return [stream_of(event_id, records, usual) for event_id, records in of_event.items()]

    def hours(self) -> Iterator[Row]:
        """Yield a row for each hour and category."""
        counted = {(each.run_uuid, each.snapshot_id): each for each in self.snapshots()}
        counted = {key: each for key, each in counted.items() if each.complete and each.filters == "{}"}
        in_hour: dict[int, int] = defaultdict(int)
        for each in counted.values():
            in_hour[each.began // HOUR] += 1
        rows: dict[tuple[int, int], list[Row]] = defaultdict(list)
        for row in self.tables["live_channels"]:
            if snapshot := counted.get((row["run_uuid"], row["snapshot_id"])):
                category = -1 if row["category_id"] is None else row["category_id"]
                rows[snapshot.began // HOUR, category].append(row)
        for (hour, category), found in rows.items():
            yield {"hour": text(hour * HOUR), "category_id": category} | hour_of(found, in_hour[hour])

    def coverage(self) -> list[Row]:
        """Return the stretches that runs prove."""
        return [*self._proved(), *self._listened(), *self._looked()]

    def _proved(self) -> Iterator[Row]:
        by_filters: dict[str, list[tuple[Package, Proof]]] = defaultdict(list)
        for each in self.packages:
            if proof := each.proof():
                by_filters[json.dumps(each.filters)].append((each, proof))
        unfiltered = accepted(by_filters["{}"], [])
        others = [proof for _, proof in unfiltered]
        for filters, runs in by_filters.items():
            for each, proof in unfiltered if filters == "{}" else accepted(runs, others):
                yield _covered("livestreams", each.filters, proof.since, proof.until, each.key[0])

    def _listened(self) -> Iterator[Row]:
        for each in self.packages:
            for span in each.content.get("listened", []):
                since, until = moment(span["from"]), moment(span["to"])
                yield _covered("live_notifications", each.filters, since, until, each.key[0])

    def _looked(self) -> Iterator[Row]:
        usual = usual_distances(self.snapshots())
        by_filters: dict[str, list[Snapshot]] = defaultdict(list)
        for each in self.snapshots():
            if each.complete:
                by_filters[each.filters].append(each)
        for filters, snapshots in by_filters.items():
            for run_uuid, since, until in looked(snapshots, usual):
                yield _covered("live_channels", json.loads(filters), since, until, run_uuid)


def _json(row: Row) -> str:
    return json.dumps(row["filters"], sort_keys=True)


def _covered(collection: str, filters: Row, since: int, until: int, run_uuid: str) -> Row:
    times = {"since": text(since), "until": text(until)}
    return {"collection": collection, "filters": filters, **times, "run_uuid": run_uuid}


def run_of(package: Package) -> Row:
    """Return the row of a run, or of a day of one."""
    content, proof = package.content, None if package.key[1] else package.proof()
    return {
        "run_uuid": package.key[0],
        "day": package.key[1],
        "status": package.status,
        "arguments": content["arguments"],
        "source": content["source"],
        "version": content["project_version"],
        **{name: content[name] for name in _SAME},
        **{name: content["counts"].get(name) for name in _COUNTS},
        "filters": package.filters,
        "proved_since": text(proof.since) if proof else None,
        "proved_until": text(proof.until) if proof else None,
        "continues": proof.continues if proof else None,
        "knows_missing": proof is not None and knows_missing(package),
        "is_over": True,
        "as_of": content["ended_at"],
    }


def knows_missing(package: Package) -> bool:
    """Tell whether what a run that proves something has not seen of that time was not there."""
    return not package.filters and package.seen() is not None and not package.content["counts"]["quarantined"]


def _listed(package: Package) -> list[Row]:
    """Return the rows of the snapshots that a data package lists."""
    added = {"run_uuid": package.key[0], "filters": package.filters, "is_noted": True}
    return [each | added for each in package.content.get("snapshots", [])]


# --- Snapshots ---------------------------------------------------------------------------------------------------


def usual_distances(snapshots: Iterable[Snapshot]) -> dict[int, int]:
    """Return how far snapshots are usually apart, in seconds, by the number of the day."""
    of_run: dict[tuple[int, str], set[int]] = defaultdict(set)
    for each in snapshots:
        of_run[each.began // DAY, each.run_uuid].add(each.began)
    single: dict[int, set[int]] = defaultdict(set)
    usual: dict[int, list[int]] = defaultdict(list)
    for (day, _), moments in of_run.items():
        if len(moments) == 1:
            single[day] |= moments
        else:
            usual[day].append(_median_distance(moments))
    for day, moments in single.items():
        if len(moments) > 1:
            usual[day].append(_median_distance(moments))
    return {day: min(medians) for day, medians in usual.items()}


def _median_distance(moments: set[int]) -> int:
    return median_low([later - earlier for earlier, later in pairwise(sorted(moments))])


def is_gap(earlier: int, later: int, usual: Mapping[int, int]) -> bool:
    """Tell whether nobody knows what was between two snapshots."""
    distance = usual.get(earlier // DAY)
    return distance is None or later - earlier > _GAP * distance


def looked(snapshots: Iterable[Snapshot], usual: Mapping[int, int]) -> Iterator[tuple[str, int, int]]:
    """Yield run, beginning and end of the stretches of complete snapshots of the same filters."""
    ordered = sorted(snapshots, key=lambda each: (each.began, each.run_uuid, each.snapshot_id))
    pieces: list[list[Snapshot]] = []
    for number, each in enumerate(ordered):
        last = ordered[number - 1] if number else None
        is_same = last and (last.run_uuid, last.began // DAY) == (each.run_uuid, each.began // DAY)
        if last and is_same and not is_gap(last.began, each.began, usual):
            pieces[-1].append(each)
        else:
            pieces.append([each])
    for piece, following in zip(pieces, [*pieces[1:], None], strict=True):
        last, after = piece[-1], following[0].began if following else None
        is_near = after is not None and not is_gap(last.began, after, usual)
        yield last.run_uuid, piece[0].began, after if after is not None and is_near else last.began


def observed(rows: Iterable[Row], usual: Mapping[int, int]) -> Row:
    """Return what the rows of a livestream in `live_channels` tell of how many have watched it."""
    viewers: dict[int, int] = {}
    for row in rows:
        if row["viewers_count"] is not None:
            at = moment(row["observed_at"])
            viewers[at] = max(row["viewers_count"], viewers.get(at, 0))
    stretches = list(pairwise(sorted(viewers)))
    kept = [(earlier, later) for earlier, later in stretches if not is_gap(earlier, later, usual)]
    seconds = sum(later - earlier for earlier, later in kept)
    viewer_seconds = sum(
        (Fraction(later - earlier) * (viewers[earlier] + viewers[later]) / 2 for earlier, later in kept), Fraction(0)
    )
    mean = Fraction(sum(viewers.values()), len(viewers)) if viewers else None
    average = viewer_seconds / seconds if seconds else mean
    peak = max(viewers.values(), default=None)
    return {
        "peak_viewers": peak,
        "peak_at": text(min(at for at, count in viewers.items() if count == peak)) if viewers else None,
        "average_viewers": None if average is None else float(average),
        "viewer_hours": float(viewer_seconds / HOUR) if seconds else None,
        "observed_seconds": seconds,
        "longest_gap_seconds": max((later - earlier for earlier, later in stretches), default=None),
    }


# --- Rows --------------------------------------------------------------------------------------------------------


def stream_of(event_id: int, records: Mapping[str, list[Row]], usual: Mapping[int, int]) -> Row:
    """Return the row of a livestream.

    Args:
        event_id: the livestream.
        records: its rows, by table.
        usual: how far snapshots are usually apart, by day.
    """
    rows = sorted(records["live_channels"], key=lambda row: row["observed_at"])
    ended = records["livestreams"][0] if records["livestreams"] else {}
    announced = records["scheduled_livestreams"][0] if records["scheduled_livestreams"] else {}
    order = [*records["livestreams"], *rows[-1:], *records["live_notifications"], *records["scheduled_livestreams"]]
    shared = ("user_id", "user_name", "event_title", "category_id", "category_name", "channel_url")
    return {
        "event_id": event_id,
        **{name: _first_known(name, order) for name in shared},
        "started_at": ended.get("event_start"),
        "ended_at": ended.get("event_end"),
        "announced_at": announced.get("event_start"),
        **{name: ended.get(name) for name in ("duration_seconds", "total_viewers", "video_url")},
        "snapshots": len({(row["run_uuid"], row["snapshot_id"]) for row in rows}),
        "first_observed_at": rows[0]["observed_at"] if rows else None,
        "last_observed_at": rows[-1]["observed_at"] if rows else None,
        **observed(rows, usual),
    }


def _first_known(name: str, rows: Iterable[Row]) -> Any:
    return next((row[name] for row in rows if row.get(name) is not None), None)


def channels(
    streams: Iterable[Row], every: Mapping[str, list[Row]], live_notifications: Iterable[Row]
) -> Iterator[Row]:
    """Yield a row for each channel in any record.

    Args:
        streams: as in the table.
        every: every record of the runs, by collection.
        live_notifications: as in the table.
    """
    names: dict[int, set[str | None]] = defaultdict(set)
    begun: set[int] = set()
    for kind in _OF_CHANNELS:
        for row in every[kind]:
            names[row["user_id"]].add(row["user_name"])
            if kind != "scheduled_livestreams":
                begun.add(row["event_id"])
    of_user: dict[int, list[Row]] = defaultdict(list)
    for stream in streams:
        of_user[stream["user_id"]].append(stream)
    for user_id in names.keys() - {None}:
        counted = [each for each in of_user[user_id] if each["event_id"] in begun]
        heard = [each["received_at"] for each in live_notifications if each["user_id"] == user_id]
        yield {
            "user_id": user_id,
            "user_name": latest_name(of_user[user_id]),
            "names": sorted(name for name in names[user_id] if name is not None),
            **totals(counted),
            **_seen(counted, heard),
        }


def latest_name(streams: Iterable[Row]) -> str | None:
    """Return the name of a channel in the latest of its livestreams that has one."""

    def when(row: Row) -> tuple[str, int]:
        return row["started_at"] or row["first_observed_at"] or row["announced_at"] or "", row["event_id"]

    named = [row for row in streams if row["user_name"] is not None]
    return max(named, key=when)["user_name"] if named else None


def totals(streams: list[Row]) -> Row:
    """Return the sums of the livestreams of a channel that have begun."""
    seconds = {
        row["event_id"]: row["observed_seconds"] if row["duration_seconds"] is None else row["duration_seconds"]
        for row in streams
    }
    in_category: dict[str, int] = defaultdict(int)
    for row in streams:
        if row["category_name"] is not None:
            in_category[row["category_name"]] += seconds[row["event_id"]]
    viewer_hours = fsum(row["viewer_hours"] or 0 for row in streams)
    watched = sum(row["observed_seconds"] for row in streams)
    viewers = [row["total_viewers"] for row in streams if row["total_viewers"] is not None]
    return {
        "streams": len(streams),
        "hours": float(Fraction(sum(seconds.values()), HOUR)),
        "total_viewers": sum(viewers) if viewers else None,
        "peak_viewers": max((row["peak_viewers"] for row in streams if row["peak_viewers"] is not None), default=None),
        "average_viewers": viewer_hours * HOUR / watched if watched else None,
        "viewer_hours": viewer_hours if watched else None,
        # Of several with as many hours, the first in the alphabet.
        "top_category": min(in_category, key=lambda name: (-in_category[name], name), default=None),
    }


def _seen(streams: Iterable[Row], heard: Iterable[str]) -> Row:
    """Return when a channel was live first and last."""
    names = ("started_at", "ended_at", "first_observed_at", "last_observed_at")
    times = [*heard, *(row[name] for row in streams for name in names if row[name] is not None)]
    return {"first_seen_at": min(times, default=None), "last_seen_at": max(times, default=None)}


def hour_of(rows: list[Row], snapshots: int) -> Row:
    """Return what the rows of a category tell of an hour in which there were so many snapshots."""
    in_snapshot: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        in_snapshot[row["run_uuid"], row["snapshot_id"]].append(row)
    viewers = [sum(row["viewers_count"] or 0 for row in each) for each in in_snapshot.values()]
    return {
        "category_name": max(rows, key=lambda row: (row["observed_at"], row["category_name"] or ""))["category_name"],
        "snapshots": snapshots,
        "average_channels": float(Fraction(len(rows), snapshots)),
        "peak_channels": max(map(len, in_snapshot.values())),
        "average_viewers": float(Fraction(sum(viewers), snapshots)),
        "peak_viewers": max(viewers),
    }


# --- What is proved, and what is missing -------------------------------------------------------------------------


def accepted(runs: Iterable[tuple[Package, Proof]], others: Iterable[Proof]) -> list[tuple[Package, Proof]]:
    """Return the runs of the same filters that count: those that continue others only if these do."""
    left = list(runs)
    found: list[tuple[Package, Proof]] = []
    while True:
        proofs = [*others, *(proof for _, proof in found)]

        def counts(proof: Proof, proofs: list[Proof] = proofs) -> bool:
            return not proof.continues or any(each.since <= proof.since <= each.until for each in proofs)

        more = [each for each in left if counts(each[1])]
        if not more:
            return found
        found += more
        left = [each for each in left if each not in more]


def deletion(row: Row, runs: Iterable[Package]) -> Row:
    """Return when a livestream was last confirmed, and since when it is missing.

    Args:
        row: of `livestreams`.
        runs: those without filters that prove something.
    """
    over = [each for each in runs if _is_over_its_end(each, row["event_end"])]
    saw: Callable[[Package], bool] = lambda each: row["event_id"] in (each.seen() or each.written)  # noqa: E731
    confirmed = max((each.content["started_at"] for each in over if saw(each)), default=None)
    last = max(filter(None, (row["scraped_at"], confirmed)))
    missed = [each.content["started_at"] for each in over if knows_missing(each) and each.content["started_at"] > last]
    return {"last_confirmed_at": confirmed, "missing_since": min(missed, default=None)}


def _is_over_its_end(package: Package, ended_at: str | None) -> bool:
    proof = package.proof()
    return proof is not None and ended_at is not None and proof.since <= moment(ended_at) <= proof.until
