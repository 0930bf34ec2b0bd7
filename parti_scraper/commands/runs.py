"""`scrapy runs`: what the last runs did."""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from scrapy.commands import ScrapyCommand

from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.commands.base import Reading
from parti_scraper.exceptions import UsageError, did_you_mean, quoted
from parti_scraper.ledger.ledger import Ledger
from parti_scraper.operations.history import State, last_runs
from parti_scraper.run.catalog import Catalog
from parti_scraper.run.catalog_cache import FILE_NAME as CACHE_NAME
from parti_scraper.run.entries import KINDS
from parti_scraper.run.folders import output_dir, state_dir
from parti_scraper.run.outcome import ExitCode
from parti_scraper.run.summary import printable
from parti_scraper.wording import length_of, number_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from parti_scraper.operations.history import PastRun

_HEAD = ("spider", "run", "started", "took", "exit", "records", "new", "changed", "set aside", "result")
# Those that are written to the right of their column.
_NUMBERS = range(3, 9)

_COUNTS = ("written", "new", "changed", "quarantined")
# Those that only incremental runs count.
_OF_SERIES = {"new", "changed"}


class Command(Reading, ScrapyCommand):
    """Lists the runs that began last, whatever became of them."""

    name = "runs"
    most_arguments = 1

    def syntax(self) -> str:
        return "[SPIDER] [options]"

    def short_desc(self) -> str:
        return "List the last runs, and what each did"

    def long_desc(self) -> str:
        return (
            "List the runs that began last, the newest first: also those that are going on, were stopped or killed, or "
            "could not be started. Times are UTC."
        )

    def options(self, group: argparse._ArgumentGroup) -> None:
        group.add_argument("--last", metavar="N", default="20", help="how many (default: 20)")
        group.add_argument("--json", action="store_true", help="print JSON")

    def execute(self, args: Sequence[str], opts: argparse.Namespace) -> int:
        spider = args[0] if args else None
        if spider is not None and spider not in KINDS:
            hint = did_you_mean(spider, KINDS)
            raise UsageError(f"unknown spider: {quoted(spider)} (accepted: {', '.join(sorted(KINDS))}){hint}")
        number = _number(opts.last)
        state = state_dir(self.settings, {})
        with Ledger.existing(state) as ledger:
            # Nothing is sealed: only looking changes nothing.
            catalog = Catalog([output_dir(self.settings, {})], state / CACHE_NAME, ledger)
            runs = last_runs(catalog, ledger.failed_starts() if ledger else (), number, spider)
        if opts.json:
            print(json.dumps([_as_json(run) for run in runs], indent=2))
        elif runs:
            print("\n".join(_table([_HEAD, *(_row(run, time.time()) for run in runs)])))
        else:
            print("no runs")
        return ExitCode.COMPLETE


def _number(text: str) -> int:
    """Return the number of runs that was typed. Raises UsageError."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise UsageError.of("option", "--last", "not a whole number above 0", text, "such as 20")
    return number


def _as_json(run: PastRun) -> dict[str, Any]:
    account = run.account
    return {
        "spider": run.spider,
        "run_id": run.run_id,
        "state": run.state,
        "started_at": _iso(account.began_at),
        "ended_at": _iso(account.ended_at),
        "duration_seconds": run.duration,
        "exit_code": run.exit_code,
        "complete": account.complete,
        "degraded": list(account.degraded),
        "truncated": run.truncated,
        "reason": account.reason,
        "counts": dict(account.counts),
        "unknown_fields": dict(account.unknown_fields),
        "unreadable_fields": dict(account.unreadable_fields),
        "vanished_fields": list(account.vanished_fields),
        "days": [day.day for day in run.days],
        "arguments": dict(run.arguments),
        "source": run.source,
        "folder": run.folder,
    }


def _iso(moment: float | None) -> str | None:
    return None if moment is None else timestamp_to_iso(moment)


def _row(run: PastRun, now: float) -> Sequence[str]:
    """Return the cells of a run."""
    account = run.account
    is_incremental = bool(run.arguments.get("incremental"))
    counts = {name: each for name, each in account.counts.items() if is_incremental or name not in _OF_SERIES}
    began = account.began_at
    started = "" if began is None else datetime.fromtimestamp(began, UTC).strftime("%Y-%m-%d %H:%M:%S")
    seconds = max(0.0, now - began) if run.state is State.RUNNING and began is not None else run.duration
    return (
        run.spider,
        run.run_id or "",
        started,
        "" if seconds is None else length_of(math.floor(seconds)),
        "" if run.exit_code is None else str(run.exit_code),
        *(f"{counts[name]:,}" if name in counts else "" for name in _COUNTS),
        _ending(run),
    )


def _ending(run: PastRun) -> str:
    """Return how a run stands: complete, or why not."""
    account = run.account
    parts: list[str] = []
    if run.state is not State.ENDED:
        parts.append(run.state)
    elif account.complete:
        parts.append("complete")
    else:
        parts.append("not complete")
    parts += ["cut at max_records"] * run.truncated + ["degraded"] * bool(account.degraded)
    if run.days:
        parts.append(number_of(len(run.days), "whole days"))
    text = ", ".join(parts)
    # Of a killed run there is nothing more to say.
    reason = account.reason if account.reason != run.state else None
    return f"{text}: {reason}" if reason else text


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose columns are as wide as their longest cell, but for the last."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)][:-1]
    lines = []
    for row in shown:
        cells = [
            cell.rjust(width) if place in _NUMBERS else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return lines
