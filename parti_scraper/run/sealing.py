"""Closes the folders of runs that were killed or stopped, and that nobody has gone on with: they are sealed.

Their files are cut to whole records, and they get the data packages that they lack, that of the run last. What the
ledger has noted is never cut, so a sealed run resumes like any other, see `recovery.unseal`. A process may be killed
while it seals: then the run is sealed again later.
"""

from __future__ import annotations

import csv
import json
import logging
from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from parti_scraper.api.quality import Quality
from parti_scraper.api.registry import specified_of
from parti_scraper.api.times import iso_to_timestamp, timestamp_to_iso
from parti_scraper.exceptions import LedgerError, PartiError, UsageError
from parti_scraper.items import LiveChannel, LiveNotification, RejectedRecord
from parti_scraper.ledger.locks import Lock
from parti_scraper.network.traffic import COUNTS as TRAFFIC
from parti_scraper.network.traffic import Traffic
from parti_scraper.run import datapackage, recovery
from parti_scraper.run.cutting import Whole
from parti_scraper.run.datapackage import FILE_NAME, QUARANTINE, SCREENSHOT, File
from parti_scraper.run.days import DAY, Day, Days, day_of
from parti_scraper.run.description import About, DayPackage, Outcome, describe, files_of_days
from parti_scraper.run.entries import KINDS, arguments_of, one_line, source_of
from parti_scraper.run.outcome import COUNTED, Counts
from parti_scraper.run.recovery import RECOVERED
from parti_scraper.run.series import finish_described

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from parti_scraper.ledger.ledger import Checkpoint, Ledger, RunRecord

logger = logging.getLogger(__name__)

KILLED = "killed"
# For so many seconds nothing has changed in the folder of a run that is left.
LEFT_AFTER = 3_600.0
# Those whose runs may have days, and what their data packages call the times at which they looked.
_OBSERVED = {LiveChannel: "snapshots", LiveNotification: "listened"}
_TEMPORARY = (f"{FILE_NAME}.tmp", str(Path(RECOVERED).with_suffix(".tmp")))
_FORMS = (".jsonl", ".csv")


def seal(ledger: Ledger, spider: str | None, now: float, *, but: Path | None = None) -> list[Path]:
    """Seal the runs in the ledger that were left; what goes wrong is a warning.

    Args:
        ledger: what runs have done.
        spider: whose; None: of all spiders.
        now: Unix seconds.
        but: the folder of a run that is about to be resumed.

    Returns:
        the folders that were sealed.
    """
    try:
        folders = [Path(run.folder) for run in ledger.left_unsealed(spider)]
    except LedgerError as error:
        logger.warning("No run can be sealed: %s", error)
        return []
    but = but and but.absolute()
    return [each for each in folders if each != but and _attempt(each, now, lambda: _seal_known(ledger, each))]  # noqa: B023 - called at once


def seal_folder(folder: Path, now: float) -> bool:
    """Seal a run that no ledger knows, by what its folder tells; what goes wrong is a warning.

    Args:
        folder: of the run, in one that is named like the spider.
        now: Unix seconds.

    Returns:
        whether it was sealed: it was left, and had no data package.
    """
    return folder.parent.name in KINDS and _attempt(folder, now, lambda: _seal_unknown(folder))


def _attempt(folder: Path, now: float, action: Callable[[], bool]) -> bool:
    """Do something with a run that was left, with its lock; tell whether that was done."""
    try:
        if not _is_left(folder, now) or (lock := Lock.take(folder)) is None:
            return False
        try:
            # Another process may have been at work on it until now.
            is_done = _is_left(folder, now) and action()
        finally:
            lock.release()
    except (FileNotFoundError, UsageError):  # It was removed, or is of a later version.
        return False
    except (OSError, PartiError, LookupError, TypeError, ValueError) as error:
        problem = one_line(error)
        logger.warning("The run in %s, which was killed or stopped, cannot be sealed: %s", folder, problem)
        return False
    if is_done:
        logger.info("The run in %s, which was killed or stopped, was sealed", folder)
    return is_done


def _is_left(folder: Path, now: float) -> bool:
    """Tell whether nothing has changed lately; a change in the future is none, since the clock was set back."""
    changes = (path.lstat().st_mtime for path in (folder, *folder.glob("*"), *folder.glob("*/*")))
    return abs(now - max(changes)) >= LEFT_AFTER


def _seal_known(ledger: Ledger, folder: Path) -> bool:
    run = ledger.find(folder)
    if run is None or run.sealed or run.state in {"complete", "incomplete"}:
        return False
    if package := datapackage.read_finished(folder):
        # It was killed before it could note that it had ended.
        finish_described(ledger, run.id, package)
        return False
    noted = ledger.last_checkpoint(run.id)
    if noted:
        _close_reopened(folder, run.spider, noted)
    _Sealing(_from_ledger(run, noted)).seal()
    ledger.seal(run.id)
    return True


def _close_reopened(folder: Path, spider: str, noted: Checkpoint) -> None:
    """Make the data packages of days right that the run came back to, after a clock was set back, and did not note.

    What it added there is cut off, and kept apart if it cannot be fetched again, as when the run resumes.
    """
    files = recovery.reopened(folder, noted.progress.get("days", {}).get("described", ()))
    saved = folder / RECOVERED
    lines = saved.read_bytes().split(b"\n")[:-1] if saved.exists() else []
    steps: list[recovery.Step] = []
    for name, (size, _) in files.items():
        added = recovery.tail(folder / name, size)
        is_kept = (
            KINDS[spider].item_class is LiveNotification and name.endswith(".jsonl") and not name.endswith(QUARANTINE)
        )
        lines += added.split(b"\n")[:-1] if is_kept else []
        steps += [recovery.Cut(name, size)] if added else []
    if steps:
        recovery.carry_out(folder, [*([recovery.Save(tuple(dict.fromkeys(lines)))] if lines else []), *steps])


def _seal_unknown(folder: Path) -> bool:
    if datapackage.read(folder) is not None:
        return False
    _Sealing(_from_folder(folder)).seal()
    return True


@dataclass(frozen=True, slots=True)
class _Left:
    """What is known of a run that was left.

    Attributes:
        folder: its own.
        about: who it is.
        started_at: when it was begun, in Unix seconds.
        ended_at: when it was stopped, in Unix seconds; None where it was killed.
        exit_code, reason: how it was stopped.
        noted: its last checkpoint.
        is_incremental: whether it counts what is new.
    """

    folder: Path
    about: About
    started_at: float
    ended_at: float | None = None
    exit_code: int | None = None
    reason: str = KILLED
    noted: Checkpoint | None = None
    is_incremental: bool = False

    @property
    def progress(self) -> Mapping[str, Any]:
        return self.noted.progress if self.noted else {}


def _from_ledger(run: RunRecord, noted: Checkpoint | None) -> _Left:
    progress = noted.progress if noted else {}
    about = About(
        run.spider,
        run.run_id,
        run.run_uuid,
        KINDS[run.spider].collection,
        arguments_of(run),
        run.window and dict(zip(("since", "until"), map(timestamp_to_iso, run.window), strict=True)),
        run.host,
        (progress.get("source") or {}).get("kind") or source_of(run.host),
        [*progress.get("failovers", []), *progress.get("ws_failovers", [])],
    )
    reason = KILLED if run.exit_code is None else run.reason or ""
    is_incremental = run.series is not None
    return _Left(Path(run.folder), about, run.started_at, run.ended_at, run.exit_code, reason, noted, is_incremental)


def _from_folder(folder: Path) -> _Left:
    """Return what a folder tells; where days were over before, their data packages tell more."""
    packages = (datapackage.read(path) for path in sorted(folder.iterdir()) if DAY.fullmatch(path.name))
    described = next(filter(None, packages), {})
    spider, host = folder.parent.name, described.get("host")
    about = About(
        spider,
        folder.name,
        described.get("run_uuid") or str(uuid4()),
        KINDS[spider].collection,
        described.get("arguments", {}),
        None,
        host,
        described.get("source") or source_of(host),
        [],
    )
    return _Left(folder, about, _start_of(folder))


def _start_of(folder: Path) -> float:
    """Return when the run of a folder was begun: as its name says by default, or else when it was first written to."""
    try:
        return datetime.strptime(folder.name[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return min(path.stat().st_mtime for path in (folder, *folder.rglob("*")))


@dataclass(frozen=True, slots=True)
class _Closed:
    """The files of a run, or of a day of one, cut and on the disk.

    Attributes:
        files: what they are.
        written: how many records there are.
        quarantined: how many were set aside.
        changed_at: when a file was changed last, in Unix seconds; None where there is none.
        snapshots: those in the files of the spider `live`, as far as the ledger has not noted them.
    """

    files: list[File] = field(default_factory=list)
    written: int = 0
    quarantined: int = 0
    changed_at: float | None = None
    snapshots: list[dict[str, Any]] = field(default_factory=list)


class _Sealing:
    """Seals one run, whose lock is held."""

    def __init__(self, left: _Left) -> None:
        self._left = left
        self._about = left.about
        self._item_class = KINDS[left.about.spider].item_class
        self._observed = _OBSERVED.get(self._item_class, "")
        self._days: dict[str, Day] = {}
        if "days" in left.progress:
            days = Days(specified_of(self._item_class), left.started_at)
            days.restore(left.progress["days"])
            self._days = {day.name: day for day in (*days.over, days.current)}

    def seal(self) -> None:
        """Cut the files and write the data packages. Raises OSError, UsageError."""
        folder = self._left.folder
        days = self._day_names()
        for day in days:
            if datapackage.read_finished(folder / day) is None:
                self._seal_day(day)
        self._seal_run(days)

    def _day_names(self) -> list[str]:
        """Return the days of the run, sorted: those that have a folder, and those that it had come to."""
        if not self._observed:
            return []
        found = (path.name for path in self._left.folder.iterdir() if path.is_dir() and not path.is_symlink())
        return sorted({*filter(DAY.fullmatch, found), *self._days})

    def _seal_day(self, name: str) -> None:
        folder = self._left.folder / name
        folder.mkdir(exist_ok=True)
        day = self._days.get(name)
        closed = self._close(name, is_noted=day is not None)
        known = day or self._unknown_day(name)
        stretch = (known.started_at, max(known.started_at, known.ended_at, closed.changed_at or 0.0))
        counts = asdict(_counts(known.counts, closed, known.quality))
        traffic = {key: known.counts[key] for key in TRAFFIC}
        descriptor = self._describe(stretch, counts, traffic, known.quality)
        descriptor |= {"day": name, "degraded": known.degraded, **self._observations(known.observations, closed)}
        DayPackage(folder, descriptor, closed.files).write()

    def _unknown_day(self, name: str) -> Day:
        """Return a day of which no more is known than what is in its folder."""
        since = self._left.started_at
        if day_of(since) != name:
            since = iso_to_timestamp(f"{name}T00:00:00Z")
        return Day(name, since, since, Quality())

    def _seal_run(self, days: Sequence[str]) -> None:
        folder, progress = self._left.folder, self._left.progress
        known = self._left.noted.counts if self._left.noted else {}
        closed = self._close("", is_noted=False)
        quality, traffic = Quality(specified_of(self._item_class)), Traffic()
        if "quality" in progress:
            quality.restore(progress["quality"])
        traffic.restore(progress.get("traffic", {}))
        counts = asdict(_counts(known, self._with_days(closed, days), quality))
        if self._left.is_incremental:
            counts |= {name: known.get(name, 0) for name in ("new", "changed")}
        stretch = (self._left.started_at, self._ended_at())
        descriptor = self._describe(stretch, counts, traffic.as_json(), quality)
        descriptor |= {"days": list(days)} if days else self._observations([], closed)
        descriptor["resources"] = datapackage.describe_all(closed.files, folder) + files_of_days(folder, days)
        datapackage.write(folder, descriptor)

    def _describe(
        self, stretch: tuple[float, float], counts: Mapping[str, int], traffic: Mapping[str, int], quality: Quality
    ) -> dict[str, Any]:
        outcome = Outcome(
            stretch,
            self._left.exit_code,
            counts,
            traffic,
            quality,
            complete=False,
            degraded=[],
            truncated=False,
            reason=self._left.reason,
        )
        return describe(self._about, outcome) | {"sealed": True}

    def _with_days(self, closed: _Closed, days: Sequence[str]) -> _Closed:
        """Add the records of the days, all of which have data packages."""
        described = [datapackage.read(self._left.folder / day) or {} for day in days]
        counted = [each["counts"] for each in described if "counts" in each]
        return replace(
            closed,
            written=closed.written + sum(each["written"] for each in counted),
            quarantined=closed.quarantined + sum(each["quarantined"] for each in counted),
        )

    def _ended_at(self) -> float:
        """Return when the run was stopped, or else when its files were changed last, in Unix seconds."""
        if self._left.ended_at is not None:
            return self._left.ended_at
        files = (path for path in self._left.folder.rglob("*") if path.is_file() and path.name != FILE_NAME)
        return max((path.stat().st_mtime for path in files), default=self._left.started_at)

    def _observations(self, listed: Sequence[Mapping[str, Any]], closed: _Closed) -> dict[str, Any]:
        """Return the snapshots, with those that the run has not come to the end of, or when it was listening."""
        if not self._observed:
            return {}
        if self._item_class is not LiveChannel:
            return {self._observed: list(listed)}
        known = {each["snapshot_id"] for each in listed}
        return {self._observed: [*listed, *(each for each in closed.snapshots if each["snapshot_id"] not in known)]}

    # The files:

    def _close(self, day: str, *, is_noted: bool) -> _Closed:
        """Cut the files of a day, or of the run itself; `is_noted` tells whether the ledger knows its snapshots."""
        folder = self._left.folder / day
        for name in _TEMPORARY:
            (folder / name).unlink(missing_ok=True)
        paths = sorted(path for path in folder.iterdir() if path.is_file() and self._is_ours(path.name))
        wholes = {path.name: Whole.of(path, self._noted(day, path)) for path in paths if path.suffix in _FORMS}
        most = self._most(wholes)
        rows = {
            # It is written in one step, and holds what was cut elsewhere.
            name: whole.rows if name == RECOVERED else whole.cut(most.get(name, whole.rows))
            for name, whole in wholes.items()
        }
        of_records = {name: number for name, number in rows.items() if name not in {QUARANTINE, RECOVERED}}
        in_lines = [number for name, number in of_records.items() if name.endswith(".jsonl")]
        of_live = [wholes[name] for name in of_records if name.endswith(".jsonl") and self._item_class is LiveChannel]
        return _Closed(
            [self._file(path, rows.get(path.name, 0)) for path in paths],
            sum(in_lines or of_records.values()),
            rows.get(QUARANTINE, 0),
            max((path.stat().st_mtime for path in paths), default=None),
            [each for whole in of_live for each in _snapshots(whole.path, whole.start if is_noted else 0)],
        )

    def _is_ours(self, name: str) -> bool:
        others = {QUARANTINE, RECOVERED, *([SCREENSHOT] if self._about.spider == "site" else [])}
        return name in others or name.startswith(f"{self._about.collection}.")

    def _noted(self, day: str, path: Path) -> tuple[int, int]:
        name = f"{day}/{path.name}" if day else path.name
        return self._left.noted.files.get(name, (0, 0)) if self._left.noted else (0, 0)

    def _most(self, wholes: Mapping[str, Whole]) -> dict[str, int]:
        """Return how many records are left of files that are to hold the same ones; of the others, all are.

        Only what cannot be fetched again is kept where it is in JSON Lines and not yet in CSV.
        """
        most = {}
        for name, whole in wholes.items():
            twin = wholes.get(f"{Path(name).stem}.jsonl") if name.endswith(".csv") else None
            if twin is None or twin.noted != whole.noted:
                continue
            most[name] = min(whole.rows, twin.rows)
            if self._item_class is not LiveNotification:
                most[twin.path.name] = most[name]
        return most

    def _file(self, path: Path, rows: int) -> File:
        if path.suffix not in _FORMS:
            return File(path, self._item_class, 0, path.suffix[1:].lower(), encoding=None, is_table=False)
        if path.name == QUARANTINE:
            return File(path, RejectedRecord, rows)
        return File(path, self._item_class, rows, path.suffix[1:], {name: name for name in _columns(path)} or None)


def _counts(noted: Mapping[str, int], closed: _Closed, quality: Quality) -> Counts:
    """Return what became of the records, of which those in the files are there, whatever was noted."""
    known = {name: noted.get(name, 0) for name in COUNTED}
    known |= {"written": closed.written, "quarantined": closed.quarantined}
    counts = Counts(**known, unknown_fields=len(quality.unknown))
    return replace(counts, served=counts.accounted_for)


def _snapshots(path: Path, start: int) -> Iterator[dict[str, Any]]:
    """Yield the snapshots in JSON Lines from a byte on, none of which is proved to be complete."""
    moments: defaultdict[str, set[str]] = defaultdict(set)
    channels: defaultdict[str, set[int]] = defaultdict(set)
    with path.open("rb") as lines:
        lines.seek(start)
        for row in map(json.loads, lines):
            moments[row["snapshot_id"]].add(row["observed_at"])
            channels[row["snapshot_id"]].add(row["user_id"])
    for snapshot_id, at in moments.items():
        yield {
            "snapshot_id": snapshot_id,
            "started_at": min(at),
            "ended_at": max(at),
            "channels": len(channels[snapshot_id]),
            "complete": False,
        }


def _columns(path: Path) -> list[str]:
    """Return the names of the columns of CSV or JSON Lines; none where it is empty."""
    with path.open(encoding="utf-8", errors="replace", newline="") as lines:
        if path.suffix == ".csv":
            return next(csv.reader(lines), [])
        return list(json.loads(next(lines, "{}")))
