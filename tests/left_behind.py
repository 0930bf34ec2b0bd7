"""What is wrong with what simulated runs have left: their files against their descriptions, and against the truth."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from frictionless import validate

from parti_scraper.mockserver.history import Stream
from tests.support import read_csv
from tests.virtual import SLICE

INTERVAL = 300.0
# Those that were live for less may go unheard while the connection is opened again, in seconds.
_SHORT = 300
_TIMES = ("observed_at", "received_at")
# Exit codes that a crawl may end with, by what happened to it.
_ENDINGS = {"kill": {-9}, "crash": {-9}, "stop": {0, 4}, "full": {4}, "well": {0, 4}}


@dataclass(frozen=True)
class Session:
    """A crawl that has ended; times are seconds since the start of the clock.

    Attributes:
        run_id: the run that it began or went on with.
        since, until: when it ran.
        fate: what it ended with.
        code: its exit code.
        clocks: since when what it was told was ahead of the true time, and by how many seconds.
    """

    run_id: str
    since: float
    until: float
    fate: str
    code: int
    clocks: tuple[tuple[float, float], ...]

    def moments(self, told: float) -> Iterator[float]:
        """Yield when it may have been told a time; both are seconds since the start, to the second."""
        ends = [*(since for since, _ in self.clocks[1:]), self.until]
        for (since, error), until in zip(self.clocks, ends, strict=True):
            if since - 1 < told - error <= until:
                yield told - error


def wrong_ending(session: Session, said: str) -> Iterator[str]:
    """Yield what is wrong with how a crawl ended, and with what it said."""
    if session.code not in _ENDINGS[session.fate]:
        yield f"{session.run_id}: exit code {session.code} after {session.fate} at {session.until:.1f} s: {said[-300:]}"
    if "Traceback" in said:
        yield f"{session.run_id}: a traceback at {session.until:.1f} s: {said[-600:]}"


def wrong_runs(spider: Path) -> Iterator[str]:
    """Yield what is wrong with the runs of a spider by themselves."""
    # Runs of the first format that were killed are left without a record of it.
    has_ends = any(_read(path).get("format_version", 1) > 1 for path in spider.glob("*/datapackage.json"))
    for run in sorted(spider.iterdir()):
        yield from (f"{run.name}: {line}" for line in _wrong_run(run, has_ends=has_ends))


def _wrong_run(run: Path, *, has_ends: bool) -> Iterator[str]:
    top, days = run / "datapackage.json", sorted(path for path in run.iterdir() if path.is_dir())
    if has_ends and not top.exists():
        yield "no record of how it ended"
    if top.exists() and _read(top).get("days", []) != [day.name for day in days]:
        yield f"has {[day.name for day in days]}, described are {_read(top).get('days')}"
    for day in days if has_ends or top.exists() else []:
        if not (day / top.name).exists():
            yield f"{day.name}: not described"
    packages = sorted(run.rglob(top.name))
    if len({_read(package).get("run_uuid") for package in packages}) > 1:
        yield "has several run_uuid"
    for package in packages:
        yield from _wrong_package(package)
    yield from _wrong_rows(run)


def _wrong_package(path: Path) -> Iterator[str]:
    """Yield what is wrong with a data package: it is valid, and its files are what it says."""
    package, name = _read(path), f"{path.parent.name}/{path.name}"
    if package["resources"]:
        report = validate(str(path))
        if not report.valid:
            yield f"{name}: not valid: {report.flatten(['code', 'message'])[:3]}"
    described = {resource["path"] for resource in package["resources"]}
    there = {each.name for each in path.parent.iterdir() if each.is_file()} - {path.name}
    if there - described:
        yield f"{name}: does not describe {sorted(there - described)}"
    for resource in package["resources"]:
        yield from (f"{name}: {resource['path']}: {line}" for line in _wrong_resource(path.parent, resource))
    rows = [row for records in _record_files(path.parent) for row in rows_of(records)]
    if len(rows) != package["counts"]["written"]:
        yield f"{name}: {package['counts']['written']} rows were written, {len(rows)} are there"
    listed = {each["snapshot_id"]: each["channels"] for each in package.get("snapshots", [])}
    held = Counter(snapshot_id for snapshot_id, _ in {(row.get("snapshot_id"), row.get("user_id")) for row in rows})
    if listed and listed != held:
        yield f"{name}: snapshots that are not as they are listed: {sorted(listed.items() ^ held.items())[:4]}"


def _wrong_resource(folder: Path, resource: dict[str, Any]) -> Iterator[str]:
    path = folder / resource["path"]
    if not path.exists():
        yield "is not there"
        return
    content = path.read_bytes()
    if len(content) != resource["bytes"] or f"sha256:{hashlib.sha256(content).hexdigest()}" != resource["hash"]:
        yield "is not what is described"
    if "rows" in resource:
        rows = len(read_csv(path)) if path.suffix == ".csv" else content.count(b"\n")
        if rows != resource["rows"]:
            yield f"has {rows} rows, not {resource['rows']}"


def _wrong_rows(run: Path) -> Iterator[str]:
    """Yield which rows are twice in a run, in the file of another day, or not in both files."""
    keys: Counter[tuple[Any, ...]] = Counter()
    for path in _record_files(run):
        rows = rows_of(path)
        keys.update(_key(row) for row in rows)
        found = re.search(r"\d{4}-\d\d-\d\d", str(path.relative_to(run)))
        misplaced = [row for row in rows if found and _time(row)[:10] != found[0]]
        if misplaced:
            yield f"{path.relative_to(run)}: {len(misplaced)} rows of other days, such as {_time(misplaced[0])}"
        if (path.parent / "datapackage.json").exists():
            number = "category_id" if path.stem == "categories" else "event_id"
            in_csv = [row[number] for row in read_csv(path.with_suffix(".csv"))]
            if in_csv != [str(row[number]) for row in rows]:
                yield f"{path.relative_to(run)}: {len(rows)} rows, but {len(in_csv)} or others in CSV"
    twice = [key for key, count in keys.items() if count > 1]
    if twice:
        yield f"{len(twice)} rows twice, such as {twice[0]}"


def wrong_snapshots(spider: Path, sessions: Sequence[Session], streams: list[Stream], start: float) -> Iterator[str]:
    """Yield which snapshots do not hold who was live, and where there are too few.

    Args:
        spider: the folder of the runs.
        sessions: the crawls.
        streams: who was live when.
        start: of the clock, in Unix seconds.
    """
    by_run = _by_run(sessions)
    for run in sorted(spider.iterdir()):
        moments = []
        snapshots = _snapshots(run)
        for name, rows in snapshots.items():
            possible = _moments_of(rows, by_run[run.name], start)
            held = {row["event_id"] for row in rows}
            true = [moment for moment in possible if held == _on_air(streams, start + moment)]
            is_cut = name == [*snapshots][-1] and not has_ended(run)
            if not (true or (is_cut and any(held < _on_air(streams, start + moment) for moment in possible))):
                yield f"{run.name}: {name} of {_time(rows[0])} is not who was live: {sorted(held)}"
            moments.append(true or possible)
        yield from (f"{run.name}: {line}" for line in _wrong_intervals(by_run[run.name], moments))


def _snapshots(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each snapshot, in their order."""
    snapshots: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in (row for path in _record_files(run) for row in rows_of(path)):
        snapshots[row["snapshot_id"]].append(row)
    return dict(sorted(snapshots.items(), key=lambda each: int(each[0].rpartition("-")[2])))


def has_ended(run: Path) -> bool:
    """Tell whether a run came to its own end."""
    package = _read(run / "datapackage.json")
    return bool(package) and not package.get("sealed")


def _moments_of(rows: list[dict[str, Any]], sessions: Iterable[Session], start: float) -> list[float]:
    """Return when a snapshot may have been taken."""
    told = {datetime.fromisoformat(_time(row)).timestamp() - start for row in rows}
    return [moment for session in sessions for each in told for moment in session.moments(each)]


def _wrong_intervals(sessions: Sequence[Session], moments: Iterable[list[float]]) -> Iterator[str]:
    """Yield during which sessions there are fewer snapshots than there should be."""
    found = Counter(place for each in moments for place in {_place(sessions, moment) for moment in each})
    for place, session in enumerate(sessions):
        # Of a run that goes on the first one may be a while off, and the last one may be cut.
        expected = int((session.until - session.since) / INTERVAL) - 1
        if found[place] < expected:
            yield f"{found[place]} snapshots, not {expected}, from {session}"


def _place(sessions: Sequence[Session], moment: float) -> int:
    return next(place for place, each in enumerate(sessions) if each.since - 1 < moment <= each.until)


def wrong_notifications(
    spider: Path, sessions: Sequence[Session], streams: Iterable[Stream], start: float
) -> Iterator[str]:
    """Yield who went live while a run listened, and is not in it. Arguments as of `wrong_snapshots`."""
    by_run = _by_run(sessions)
    for run in sorted(spider.iterdir()):
        heard = {row["event_id"] for path in _record_files(run) for row in rows_of(path)}
        for session in by_run[run.name]:
            # What comes last may be lost with the process.
            since, until = start + session.since, start + session.until - 3 * SLICE
            told = [each for each in streams if since < each.start < until and _lasts(each)]
            missed = [each.event_id for each in told if each.event_id not in heard]
            if missed:
                yield f"{run.name}: {len(missed)} of {len(told)} unheard, such as {missed[0]}, from {session}"


def _lasts(stream: Stream) -> bool:
    return stream.end is None or stream.end - stream.start > _SHORT


def wrong_versions(spider: Path, truth: list[dict[str, Any]]) -> Iterator[str]:
    """Yield which livestreams that have ended are missing, old or twice in the runs that came to an end."""
    rows = []
    for run in sorted(spider.iterdir()):
        # One that was not was superseded: the runs after it have its records too.
        if has_ended(run):
            rows += [row for path in _record_files(run) for row in rows_of(path)]
    versions = Counter((row["event_id"], row["total_viewers"]) for row in rows)
    twice = [version for version, count in versions.items() if count > 1]
    if twice:
        yield f"{len(twice)} versions twice, such as {twice[0]}"
    true = {record["event_id"]: record["total_viewers"] for record in truth}
    newest: dict[int, int] = {}
    for event_id, viewers in versions:
        newest[event_id] = max(viewers, newest.get(event_id, 0))
    wrong = {event_id for event_id in true if newest.get(event_id) != true[event_id]}
    if wrong:
        yield f"{len(wrong)} of {len(true)} are missing or old, such as {min(wrong)}"


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON Lines whose last line may be torn."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def _record_files(run: Path) -> list[Path]:
    return sorted(path for path in run.rglob("*.jsonl") if path.name not in {"quarantine.jsonl", "recovered.jsonl"})


def _by_run(sessions: Iterable[Session]) -> defaultdict[str, list[Session]]:
    by_run: defaultdict[str, list[Session]] = defaultdict(list)
    for session in sessions:
        by_run[session.run_id].append(session)
    return by_run


def _on_air(streams: Iterable[Stream], now: float) -> set[int]:
    return {each.event_id for each in streams if each.start <= now and (each.end is None or now < each.end)}


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return (row.get("snapshot_id"), row.get("total_viewers"), row.get("event_id", row.get("category_id")))


def _time(row: dict[str, Any]) -> str:
    return str(next((row[name] for name in _TIMES if name in row), ""))


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
