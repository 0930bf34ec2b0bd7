"""What the data package says of a run, beside its files."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from parti_scraper import __version__
from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.run import datapackage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from parti_scraper.run.context import Run
    from parti_scraper.run.outcome import Ending, Verdict


def describe_run(
    run: Run,
    ending: Ending,
    verdict: Verdict,
    files: Sequence[datapackage.File],
    feeds: Sequence[datapackage.Feed],
    *,
    ended_at: float,
) -> dict[str, Any]:
    """Return the descriptor of a run that came to its end; its files are read for their digests.

    Args:
        run: the run.
        ending: what bore on the verdict.
        verdict: how it ended.
        files: what is in its folder.
        feeds: what the user had stored elsewhere.
        ended_at: when it came to its end, in Unix seconds.
    """
    identity = run.identity
    counts = asdict(ending.counts)
    if run.series is not None:
        counts |= {"new": run.tally.new, "changed": run.tally.changed}
    descriptor: dict[str, Any] = {
        "name": f"parti-{identity.spider}-{identity.run_id}".lower(),
        "title": f"{run.folder.collection.replace('_', ' ')} of parti.com",
        "created": timestamp_to_iso(ended_at),
        "format_version": datapackage.FORMAT_VERSION,
        "project_version": __version__,
        "spider": identity.spider,
        "run_id": identity.run_id,
        "run_uuid": identity.run_uuid,
        "started_at": timestamp_to_iso(identity.started_at),
        "ended_at": timestamp_to_iso(ended_at),
        # Not below 0 where the clock was put back meanwhile.
        "duration_seconds": round(max(0.0, ended_at - identity.started_at), 3),
        "exit_code": int(verdict.exit_code),
        "arguments": identity.arguments.given(),
        "window": run.window_as_json(),
        "host": run.hosts.current,
        "failovers": run.hosts.failovers,
        "counts": counts,
        "unknown_fields": dict(sorted(run.quality.unknown.items())),
        "unreadable_fields": dict(sorted(run.quality.unreadable.items())),
        "complete": verdict.complete,
        "degraded": ending.degraded,
        "truncated": run.limit.is_reached,
        "reason": verdict.reason,
        "resources": datapackage.describe_all(files),
    }
    if feeds:
        descriptor["feeds"] = [asdict(feed) for feed in feeds]
    return descriptor
