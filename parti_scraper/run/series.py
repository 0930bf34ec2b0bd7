"""The place of an incremental run among those with the same filters: where it starts, and where the next one starts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parti_scraper.api.times import iso_to_timestamp, timestamp_to_iso
from parti_scraper.ledger.ledger import RunEnd
from parti_scraper.run import datapackage
from parti_scraper.run.context import SeriesPlace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from parti_scraper.ledger.ledger import Ledger
    from parti_scraper.ledger.series import Series
    from parti_scraper.run.context import Run

WRONG_CLOCK = "the clock of this machine was ahead then"
BEHIND_CLOCK = "the clock of this machine is behind now"


def join_series(run: Run, filters: Mapping[str, Any], until: int | None, overlap: int) -> None:
    """Let a run start where the last incremental run with the same filters ended.

    Args:
        run: the run; its window is the one asked for.
        filters: what is the same for all runs of a series, as JSON takes it.
        until: the argument; None: the start of the run.
        overlap: how far to go back from where the last one ended, in seconds.
    """
    assert run.window is not None  # noqa: S101 - only runs about a window of time are incremental
    since, end = run.window
    now = math.floor(run.identity.started_at)
    # None for a window in the past.
    next_since = None if until is not None and until < now else min(end, now)
    series = _settle(run.ledger, filters)
    if run.previous is None and next_since is not None and (series.until or 0) > next_since:
        series = _lower(run, series, next_since)
    start = series.since(overlap)
    if start is not None and next_since is not None:
        run.freeze_window(min(max(since, start), end), end)
    run.join(SeriesPlace(series.id, next_since, None if next_since is None else next_since - overlap))


def _settle(ledger: Ledger, filters: Mapping[str, Any]) -> Series:
    """Return the series, after finishing runs of it that were killed between their data package and their last note."""
    series = ledger.series(filters)
    for run in ledger.running_in(series.id):
        if package := datapackage.read_finished(Path(run.folder)):
            finish_described(ledger, run.id, package)
            series = ledger.series(filters)
    return series


def finish_described(ledger: Ledger, run: int, package: Mapping[str, Any]) -> None:
    """Note in the ledger that a run has ended, as its data package says. Raises LedgerError."""
    # The first format has no exit code.
    end = RunEnd(iso_to_timestamp(package["created"]), package.get("exit_code"), package["reason"])
    ledger.finish(run, end, complete=package["complete"], truncated=package["truncated"])


def _lower(run: Run, series: Series, now: int) -> Series:
    """Start earlier than the last run ended, where that is in the future."""
    lowered = run.ledger.lower(series, now)
    ended = f"earlier incremental runs ended at {timestamp_to_iso(series.until or 0)}, which is in the future"
    if lowered == series:
        run.problems.remark(f"{ended}, as did livestreams in them: {BEHIND_CLOCK}; nothing is collected until then")
        return lowered
    start = lowered.until
    where = "from the beginning" if start is None else f"from {timestamp_to_iso(start)}"
    run.problems.remark(f"{ended}; {WRONG_CLOCK}; this run collects everything {where} again")
    return lowered
