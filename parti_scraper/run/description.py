"""What the data package of a run, and of each of its days, says beside its files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from parti_scraper import __version__
from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.run import datapackage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from parti_scraper.api.quality import Quality
    from parti_scraper.run.context import Run
    from parti_scraper.run.days import Day
    from parti_scraper.run.outcome import Ending, Verdict


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
    descriptor = _describe(run, run.quality, ending, verdict, (run.identity.started_at, ended_at))
    resources = datapackage.describe_all(files, folder)
    if run.days is not None:
        descriptor["days"] = run.days.names
        for day in run.days.names:
            package = datapackage.read(folder / day) or {"resources": []}
            resources += [datapackage.of_day(each, day) for each in package["resources"]]
    descriptor["resources"] = resources
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
    descriptor = _describe(run, day.quality, ending, verdict, (day.started_at, day.ended_at))
    descriptor["day"] = day.name
    descriptor |= {name: day.counts[name] for name in run.traffic.as_json()}
    return DayPackage(folder, descriptor, [file for file in files if file.path.parent == folder])


def _describe(
    run: Run, quality: Quality, ending: Ending, verdict: Verdict, stretch: tuple[float, float]
) -> dict[str, Any]:
    identity = run.identity
    counts = asdict(ending.counts)
    if run.series is not None:
        counts |= {"new": run.tally.new, "changed": run.tally.changed}
    started_at, ended_at = map(timestamp_to_iso, stretch)
    return {
        "name": f"parti-{identity.spider}-{identity.run_id}".lower(),
        "title": f"{run.folder.collection.replace('_', ' ')} of parti.com",
        "created": ended_at,
        "started_at": started_at,
        "ended_at": ended_at,
        "format_version": datapackage.FORMAT_VERSION,
        "project_version": __version__,
        "spider": identity.spider,
        "run_id": identity.run_id,
        "run_uuid": identity.run_uuid,
        # Not below 0 if the clock was set back.
        "duration_seconds": round(max(0.0, stretch[1] - stretch[0]), 3),
        "exit_code": int(verdict.exit_code),
        "arguments": identity.arguments.given(),
        "window": run.window_as_json(),
        "host": run.hosts.current,
        "source": run.source.name,
        "failovers": run.hosts.failovers,
        **run.traffic.as_json(),
        "counts": counts,
        "unknown_fields": dict(sorted(quality.unknown.items())),
        "unreadable_fields": dict(sorted(quality.unreadable.items())),
        "complete": verdict.complete,
        "degraded": ending.degraded,
        "truncated": run.limit.is_reached,
        "reason": verdict.reason,
    }
