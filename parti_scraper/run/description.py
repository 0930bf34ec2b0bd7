"""What the data package of a run, and of each of its days, says beside its files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from parti_scraper import __version__
from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.network.traffic import COUNTS as TRAFFIC
from parti_scraper.run import datapackage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from parti_scraper.api.quality import Quality
    from parti_scraper.run.context import Run
    from parti_scraper.run.days import Day
    from parti_scraper.run.outcome import Ending, Verdict


@dataclass(frozen=True, slots=True)
class About:
    """What a data package says of who the run is.

    Attributes:
        spider, run_id, run_uuid: what it is called.
        collection: the stem of the names of the record files.
        arguments: those that differ from the defaults, as JSON takes them.
        window: what it is about, as JSON takes it; None where that is no window of time.
        host: scheme and host of the API; None where it is not known.
        source: where its data come from.
        failovers: when it left a host for another, as JSON takes it.
    """

    spider: str
    run_id: str
    run_uuid: str
    collection: str
    arguments: Mapping[str, Any]
    window: Mapping[str, str] | None
    host: str | None
    source: str
    failovers: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a data package says of what became of the run, or of a day of it.

    Attributes:
        stretch: from when to when it was, in Unix seconds.
        exit_code: of `scrapy crawl`; None where there was none.
        counts: what became of the records, by name.
        traffic: what it has cost, by name.
        quality: what is wrong with single fields of records.
        complete: whether every record is there.
        degraded: fields that most records lack.
        truncated: whether `max_records` was reached.
        reason: why it did not end well, one line.
    """

    stretch: tuple[float, float]
    exit_code: int | None
    counts: Mapping[str, int]
    traffic: Mapping[str, int]
    quality: Quality
    complete: bool
    degraded: list[str]
    truncated: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class DayPackage:
    """The data package of a day that is over, to be written once its files are on the disk.

    Attributes:
        folder: of the day.
        descriptor: all but the resources.
        files: what is in the folder.
    """

    folder: Path
    descriptor: dict[str, Any]
    files: list[datapackage.File]

    def write(self) -> None:
        """Read the files for their digests, and write the data package. Raises OSError."""
        self.folder.mkdir(exist_ok=True)
        resources = datapackage.describe_all(self.files, self.folder)
        datapackage.write(self.folder, self.descriptor | {"resources": resources})


def describe_run(
    run: Run,
    ending: Ending,
    verdict: Verdict,
    files: Sequence[datapackage.File],
    feeds: Sequence[datapackage.Feed],
    *,
    ended_at: float,
) -> dict[str, Any]:
    """Return the descriptor of a run that ended; its files are read for their digests.

    Args:
        run: the run; its days have their data packages.
        ending: what bore on the verdict.
        verdict: how it ended.
        files: what is in its folder, except for those of days.
        feeds: what the user had stored elsewhere.
        ended_at: when, in Unix seconds.

    Raises:
        OSError: the files cannot be read.
    """
    folder = run.folder.path
    descriptor = _describe(run, ending, verdict, ended_at)
    if run.series is not None:
        descriptor |= run.unchanged.as_json()
    resources = datapackage.describe_all(files, folder)
    if run.days is not None:
        descriptor["days"] = run.days.names
        resources += files_of_days(folder, run.days.names)
    descriptor["resources"] = resources
    if ending.finish_reason == "shutdown":
        descriptor["stopped"] = True
    if feeds:
        descriptor["feeds"] = [asdict(feed) for feed in feeds]
    return descriptor


def describe_day(run: Run, day: Day, ending: Ending, verdict: Verdict, files: Sequence[datapackage.File]) -> DayPackage:
    """Return the data package of a day that is over.

    Args:
        run: the run.
        day: the day.
        ending: what bore on the verdict.
        verdict: how the day went.
        files: of the run; those of other days are left out.
    """
    folder = run.folder.path / day.name
    descriptor = _describe(run, ending, verdict, day.ended_at, day)
    descriptor["day"] = day.name
    return DayPackage(folder, descriptor, [file for file in files if file.path.parent == folder])


def _describe(run: Run, ending: Ending, verdict: Verdict, ended_at: float, day: Day | None = None) -> dict[str, Any]:
    """Return the descriptor of the run, or of a day of it, except for the files."""
    identity = run.identity
    if day is None:
        quality, traffic, started_at = run.quality, run.traffic.as_json(), identity.started_at
    else:
        quality, started_at = day.quality, day.started_at
        traffic = {name: day.counts[name] for name in TRAFFIC}
    counts = asdict(ending.counts)
    if run.series is not None:
        counts |= {"new": run.tally.new, "changed": run.tally.changed}
    about = About(
        identity.spider,
        identity.run_id,
        identity.run_uuid,
        run.folder.collection,
        identity.arguments.given(),
        run.window_as_json(),
        run.hosts.current,
        run.source.name,
        run.hosts.failovers,
    )
    outcome = Outcome(
        (started_at, ended_at),
        int(verdict.exit_code),
        counts,
        traffic,
        quality,
        verdict.complete,
        ending.degraded,
        run.limit.is_reached,
        verdict.reason,
    )
    return describe(about, outcome)


def describe(about: About, outcome: Outcome) -> dict[str, Any]:
    """Return the descriptor of a run, or of a day of one, but for the files."""
    since, until = outcome.stretch
    started_at, ended_at = map(timestamp_to_iso, outcome.stretch)
    return {
        "name": f"parti-{about.spider}-{about.run_id}".lower(),
        "title": f"{about.collection.replace('_', ' ')} of parti.com",
        "created": ended_at,
        "started_at": started_at,
        "ended_at": ended_at,
        "format_version": datapackage.FORMAT_VERSION,
        "project_version": __version__,
        "spider": about.spider,
        "run_id": about.run_id,
        "run_uuid": about.run_uuid,
        # Not below 0 if the clock was set back.
        "duration_seconds": round(max(0.0, until - since), 3),
        "exit_code": outcome.exit_code,
        "arguments": about.arguments,
        "window": about.window,
        "host": about.host,
        "source": about.source,
        "failovers": about.failovers,
        **outcome.traffic,
        "counts": outcome.counts,
        "unknown_fields": dict(sorted(outcome.quality.unknown.items())),
        "unreadable_fields": dict(sorted(outcome.quality.unreadable.items())),
        "vanished_fields": outcome.quality.vanished(),
        "complete": outcome.complete,
        "degraded": outcome.degraded,
        "truncated": outcome.truncated,
        "reason": outcome.reason,
    }


def files_of_days(folder: Path, days: Iterable[str]) -> list[dict[str, Any]]:
    """Return the Data Resources of the days of a run as they stand in its data package. Raises UsageError."""
    packages = ((day, datapackage.read(folder / day) or {"resources": []}) for day in days)
    return [datapackage.of_day(each, day) for day, package in packages for each in package["resources"]]
