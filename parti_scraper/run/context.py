"""One run of a spider: the object that spider, pipelines and extensions share."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from parti_scraper.api.quality import Quality
from parti_scraper.api.registry import specified_of
from parti_scraper.api.selection import Selection
from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.network.source import Source
from parti_scraper.network.traffic import Traffic
from parti_scraper.run import datapackage
from parti_scraper.run.datapackage import QUARANTINE
from parti_scraper.run.days import Days, day_from, day_of
from parti_scraper.run.problems import Problems
from parti_scraper.run.reasons import Reasons
from parti_scraper.run.rejected import RejectedMarks
from parti_scraper.run.tally import Tally
from parti_scraper.run.unchanged import Unchanged

if TYPE_CHECKING:
    from collections.abc import Container, Hashable, Mapping, Sequence
    from pathlib import Path

    from parti_scraper.api.pages import NormalizedPage
    from parti_scraper.items import Item
    from parti_scraper.ledger.ledger import Ledger, RunRecord
    from parti_scraper.network.hosts import Hosts
    from parti_scraper.run.arguments import Arguments
    from parti_scraper.run.outcome import Counts

# An outage may make as many as there are snapshots.
_GAPS_KEPT = 20


@dataclass(frozen=True, slots=True)
class Identity:
    """What a run is called, and what was asked for.

    Attributes:
        spider: the name of the spider.
        run_id: the name of the run, and of its folder.
        arguments: what was typed, parsed.
        raw_arguments: as typed, without what is about the run itself.
        started_at: when it was first started, in Unix seconds.
        job: scrapyd's id of the job; None on the command line.
        run_uuid: what no other run is called, on any machine; of a run that is finished later, what it was given then.
        places: the options by which the command line says where runs are, to be typed again to finish this one.
    """

    spider: str
    run_id: str
    arguments: Arguments
    raw_arguments: Mapping[str, str]
    started_at: float
    job: str | None = None
    run_uuid: str = field(default_factory=lambda: str(uuid4()))
    places: Sequence[str] = ()


class RunFolder:
    """The folder of a run, and what is written into it.

    Attributes:
        path: where it is.
        collection: the stem of the names of the record files.
        item_class: the kind of the records.
        day: the day that is written now, whose folder is in this one; empty where the run has no days.
        rows_before: rows of the files of the day, by name, where it was described before.
        is_resumed: whether its files are continued.
    """

    def __init__(self, path: Path, collection: str, item_class: type[Item]) -> None:
        self.path = path
        self.collection = collection
        self.item_class = item_class
        self.day = ""
        self.rows_before: Mapping[str, int] = {}
        self.is_resumed = False

    @property
    def current(self) -> Path:
        """The folder that is written to now."""
        return self.path / self.day

    @property
    def quarantine(self) -> Path:
        """Where records are set aside."""
        return self.current / QUARANTINE

    @property
    def appends(self) -> bool:
        """Whether files that are there already are continued."""
        return self.is_resumed or bool(self.day)

    def make_current(self) -> None:
        """Make the folder of the day. Raises OSError."""
        if self.day:
            self.current.mkdir(exist_ok=True)

    def name_of(self, path: Path) -> str:
        """Return the name of a file in the folder, with the day in front where it belongs to one."""
        return path.relative_to(self.path).as_posix()

    def enter_day(self, day: str, rows_before: Mapping[str, int]) -> None:
        """Write to the folder of a day, such as 2026-11-27, from now on; for `rows_before` see the attribute."""
        self.day = day
        self.rows_before = rows_before

    def resume(self) -> None:
        self.is_resumed = True


@dataclass(frozen=True, slots=True)
class SeriesPlace:
    """The place of a run among incremental runs with the same filters.

    Attributes:
        id: the series in the ledger.
        next_since: where the run after this one starts, in Unix seconds; None: this run does not change it.
        versions_since: from when on that run needs the versions that were written, in Unix seconds.
    """

    id: int
    next_since: int | None
    versions_since: int | None


class Seen(Protocol):
    """Identities of the records that were written; with snapshots, of the current one."""

    def __contains__(self, identity: Hashable, /) -> bool: ...

    def add(self, identity: Hashable, /) -> None:
        """Remember an identity."""

    def clear(self) -> None:
        """Forget all."""


class RecordLimit:
    """The argument `max_records`, and how many records were written."""

    def __init__(self, most: int | None) -> None:
        """Start with none written; `most` is None where all are wanted."""
        self.most = most
        self._taken = 0

    @property
    def is_reached(self) -> bool:
        return self._taken == self.most

    @property
    def share(self) -> float | None:
        """How much of what is wanted was written, from 0 to 1; None where all is wanted."""
        return None if self.most is None else self._taken / max(self.most, 1)

    def take(self) -> bool:
        """Tell whether one more record is wanted, and count it."""
        if self.is_reached:
            return False
        self._taken += 1
        return True

    def restore(self, taken: int) -> None:
        self._taken = taken


class Run:
    """One run, made of parts that each own a subject; it decides nothing itself.

    Attributes:
        identity: what it is called, and what was asked for.
        folder: where its files are.
        ledger: what runs have done.
        previous: the unfinished run that this one resumes, from the ledger.
        hosts: which host of the API is asked.
        source: where its data come from.
        traffic: how many requests were sent again or refused.
        window: the window of time that it collects, in Unix seconds; None where there is none.
        series: its place among incremental runs; None where it is not incremental.
        selection: the filters that the client applies.
        limit: how many records are wanted.
        seen: identities of the records that were written.
        rejected: marks of the records that were set aside.
        reasons: why records were set aside.
        tally: what became of the records.
        unchanged: livestreams that an incremental run saw and did not write again.
        quality: what is wrong with single fields of records.
        problems: what went wrong.
        days: what happened on each day; None where the run has no days.
        observations: snapshots of a run without days, as the data package has them.
    """

    def __init__(
        self,
        identity: Identity,
        folder: RunFolder,
        ledger: Ledger,
        hosts: Hosts,
        seen: Seen,
        *,
        source: Source | None = None,
        previous: RunRecord | None = None,
        by_day: bool = False,
    ) -> None:
        """Compose the run; nothing is read or written yet.

        Args:
            identity: what it is called, and what was asked for.
            folder: where its files are.
            ledger: what runs have done.
            hosts: which host of the API is asked.
            seen: what remembers the records that were written.
            source: where its data come from; None: that is not known before the first answer.
            previous: the run as the ledger has it, where this one is to finish it.
            by_day: it may last for days, and has a folder for each.
        """
        self.identity = identity
        self.folder = folder
        self.ledger = ledger
        self.hosts = hosts
        self.source = source or Source()
        self.traffic = Traffic()
        self.previous = previous
        self.window: tuple[int, int] | None = None
        self.series: SeriesPlace | None = None
        self.selection = Selection()
        self.limit = RecordLimit(getattr(identity.arguments, "max_records", None))
        self.seen = seen
        self.rejected = RejectedMarks()
        self.reasons = Reasons()
        self.tally = Tally()
        self.unchanged = Unchanged()
        self.quality = Quality(specified_of(folder.item_class))
        self.problems = Problems()
        self.days: Days | None = None
        self.observations: list[dict[str, Any]] = []
        if by_day:
            self.days = Days(specified_of(folder.item_class), time.time())
            folder.day = self.days.current.name

    def freeze_window(self, since: int, until: int) -> None:
        self.window = (since, until)

    def join(self, series: SeriesPlace) -> None:
        self.series = series

    def select(self, selection: Selection) -> None:
        """Set the filters that the client applies, once the categories are known."""
        self.selection = selection

    def window_as_json(self) -> dict[str, str] | None:
        if self.window is None:
            return None
        since, until = self.window
        return {"since": timestamp_to_iso(since), "until": timestamp_to_iso(until)}

    def enter_day(self, now: float) -> bool:
        """Go to the day of a moment, in Unix seconds, where the run has days and that is another one.

        What was counted until now belongs to the day before, so nothing is to be on its way through the pipelines.

        Returns:
            whether it is there. If a clock was set back to a day whose files were removed, the run stays where it is:
            new files would pass for all records of that day.

        Raises:
            OSError: the files of the day cannot be used.
        """
        if self.days is None or not self.days.is_over(now):
            return True
        name = day_of(now)
        described = datapackage.read(self.folder.path / name) if name in self.days.described else None
        if described and datapackage.is_pruned(described):
            return False
        self.count_day(now)
        specified = specified_of(self.folder.item_class)
        self.days.turn(now, day_from(described, specified) if described else None)
        resources = described["resources"] if described else []
        self.folder.enter_day(name, {f"{name}/{each['path']}": each["rows"] for each in resources if "rows" in each})
        return True

    def count_day(self, now: float) -> None:
        """Bring the account of the current day up to date, where the run has days; `now` is in Unix seconds."""
        if self.days is not None:
            self.days.count(self._counted(), self.problems.noted, now)

    def _counted(self) -> dict[str, int]:
        return {**self.tally.as_json(), **self.traffic.as_json()}

    def add_quality(self, page: NormalizedPage[Any], seen: Container[Hashable]) -> None:
        """Count what is wrong with the records of a page, see `Quality`."""
        for quality in (self.quality, *([] if self.days is None else [self.days.current.quality])):
            quality.add(page, seen, self.selection.takes)

    def observe(self, observation: dict[str, Any]) -> None:
        """Note a snapshot, or that something was listened to, for the data package of the day or of the run."""
        (self.observations if self.days is None else self.days.current.observations).append(observation)

    def listened(self, since: float, until: float) -> None:
        """Note that something was listened to from one moment to another, in Unix seconds."""
        start, end = timestamp_to_iso(since), timestamp_to_iso(until)
        stretches = self.observations if self.days is None else self.days.current.observations
        if stretches and stretches[-1]["to"] == start:
            stretches[-1]["to"] = end
        else:
            stretches.append({"from": start if stretches else end, "to": end})

    def counts(self) -> Counts:
        return self.tally.counts(len(self.quality.unknown))

    def progress(self) -> dict[str, Any]:
        """Return how far the run has come, without the spider's own part, as JSON takes it."""
        return {
            "failovers": self.hosts.failovers,
            "hosts": self.hosts.as_json(time.monotonic()),
            "quality": self.quality.as_json(),
            "reasons": self.reasons.as_json(),
            "source": self.source.as_json(),
            "traffic": self.traffic.as_json(),
            **({} if self.series is None else self.unchanged.as_json()),
            **({} if self.days is None else self._progress_by_day(self.days)),
        }

    def _progress_by_day(self, days: Days) -> dict[str, Any]:
        gaps = self.problems.noted[:_GAPS_KEPT]
        # Otherwise all records of earlier days would have to be read.
        return {"days": days.as_json(), "gaps": gaps, "categories": dict(self.tally.categories)}

    def restore(self, progress: Mapping[str, Any]) -> None:
        """Resume from there; called before anything is requested. Raises UsageError if data would be mixed."""
        # Earlier versions had no hosts, quality, reasons, source and traffic.
        self.source.restore(progress.get("source"), (progress.get("hosts") or {}).get("served", []))
        self.traffic.restore(progress.get("traffic", {}))
        self.hosts.restore(progress.get("hosts"), time.monotonic(), progress["failovers"])
        if "quality" in progress:
            self.quality.restore(progress["quality"])
        self.reasons.restore(progress.get("reasons", {}))
        self.unchanged.restore(progress.get("unchanged"))
        self.problems.restore(progress.get("gaps", ()))
        self.restore_days(progress)

    def restore_days(self, progress: Mapping[str, Any]) -> None:
        """Go back to the day, and to the account of each, that the run was at; what has been noted since stays so."""
        if self.days is None:
            return
        # Earlier versions had no days: what was counted until then belongs to none.
        if is_known := "days" in progress:
            self.days.restore(progress["days"])
        self.days.skip({} if is_known else self._counted(), self.problems.noted)
        self.folder.enter_day(self.days.current.name, {})


def run_of(crawler: Any) -> Run | None:
    """Return the run of a crawler; None where there is none, as in `scrapy shell`."""
    run = getattr(crawler.spider, "run", None)
    return run if isinstance(run, Run) else None


def present_run(crawler: Any) -> Run:
    """Return the run of a crawler, for a component that is used only where there is one."""
    run = run_of(crawler)
    assert run is not None  # noqa: S101 - `scrapy shell` builds such components too, and does not use them
    return run


def default_run_id(job: str | None, now: float) -> str:
    """Return the default name of a run: from scrapyd's id of the job, or from the time in Unix seconds."""
    if job:
        return re.sub(r"[^A-Za-z0-9._-]", "_", job, flags=re.ASCII).lstrip("._-")[:100] or default_run_id(None, now)
    # So many digits that machines which begin runs every second of a year give no name twice.
    return f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(5)}"
