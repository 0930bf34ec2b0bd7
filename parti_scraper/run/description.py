"""What the data package says of a run, beside its files."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

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
    created: str,
) -> dict[str, Any]:
    """Return the descriptor of a run that came to its end; its files are read for their digests.

    Args:
        run: the run.
        ending: what bore on the verdict.
        verdict: how it ended.
        files: what is in its folder.
        feeds: what the user had stored elsewhere.
        created: the moment, in ISO 8601.
    """
    identity = run.identity
    counts = asdict(ending.counts)
    if run.series is not None:
        counts |= {"new": run.tally.new, "changed": run.tally.changed}
    descriptor: dict[str, Any] = {
        "name": f"parti-{identity.spider}-{identity.run_id}".lower(),
        "title": f"{run.folder.collection.replace('_', ' ')} of parti.com",
        "created": created,
        "spider": identity.spider,
        "run_id": identity.run_id,
        "arguments": identity.arguments.given(),
        "window": run.window_as_json(),
        "host": run.hosts.current,
        "source": run.source.name,
        "failovers": run.hosts.failovers,
        **run.traffic.as_json(),
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
