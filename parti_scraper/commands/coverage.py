"""`scrapy coverage`: what of the history is proved complete, what is missing, and the commands that fetch it."""

from __future__ import annotations

import json
import math
import shlex
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from scrapy.commands import ScrapyCommand

from parti_scraper.api.times import first_second, last_second, parse_time, timestamp_to_iso
from parti_scraper.commands.base import Reading
from parti_scraper.commands.inputs import add_source_option, check_source, left_out_lines
from parti_scraper.dataset.collected import collect
from parti_scraper.dataset.coverage import LIVESTREAMS, Bounds, crawl_for
from parti_scraper.dataset.inputs import Inputs
from parti_scraper.exceptions import UsageError
from parti_scraper.program import program
from parti_scraper.run.folders import output_dir, state_dir, typed_places
from parti_scraper.run.open_runs import open_runs
from parti_scraper.run.outcome import ExitCode
from parti_scraper.run.summary import printable
from parti_scraper.secret_settings import secret_from
from parti_scraper.wording import length_of, number_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from parti_scraper.dataset.coverage import Coverage, Interval
    from parti_scraper.dataset.plan import LeftOut
    from parti_scraper.redact import Secret

    _CommandOf = Callable[[Coverage, Interval], str | None]

_SINCE = "PARTI_COVERAGE_SINCE"
# What is said of the intervals of a collection; of livestreams they are proved.
_DONE = {"live_channels": "observed", "live_notifications": "listened"}


class Command(Reading, ScrapyCommand):
    """Says which stretches of time the runs prove, and which are missing."""

    name = "coverage"

    def short_desc(self) -> str:
        return "Say what of the history is proved complete, and what fetches the rest"

    def long_desc(self) -> str:
        return (
            "Print which stretches of time all runs together prove to be complete, and the gaps: for ended livestreams "
            "with the command that fills each, for live channels and notifications those that nothing can fill. "
            "The exit code is 4 if unfiltered livestreams have a gap, else 0."
        )

    def options(self, group: argparse._ArgumentGroup) -> None:
        since = (
            f"look at this time and later, as for the spider recent (default: {_SINCE}, or what the runs begin with)"
        )
        group.add_argument("--since", metavar="TIME", help=since)
        until = "look at this time and earlier (default: what the runs end with)"
        group.add_argument("--until", metavar="TIME", help=until)
        group.add_argument("--json", action="store_true", help="print JSON")
        where = "folder of runs; repeatable (default: PARTI_OUTPUT_DIR)"
        group.add_argument("--from", dest="inputs", metavar="DIR", action="append", help=where)
        add_source_option(group)

    def execute(self, args: Sequence[str], opts: argparse.Namespace) -> int:
        now = time.time()
        check_source(opts.source)
        settings = self.settings
        bounds, since = _bounds(opts.since, opts.until, settings[_SINCE], now)
        folders = _folders(opts.inputs, secret_from(settings, "PARTI_DATABASE_URL")) or [output_dir(settings, {})]
        with open_runs(folders, state_dir(settings, {}), now) as runs:
            source, collected = collect(runs, bounds.now, opts.source)
        coverages = collected.coverages(bounds, since)
        # Before anything is printed: who reads it may have enough, such as `head`.
        self.exitcode = ExitCode.INCOMPLETE if _is_missing(coverages) else ExitCode.COMPLETE
        command_of = partial(_command, now=bounds.now, places=typed_places(settings))
        if opts.json:
            print(json.dumps(_as_json(source, coverages, collected.left_out, command_of), indent=2))
        else:
            print("\n".join(_lines(source, coverages, collected.left_out, command_of)))
        return self.exitcode


def _bounds(since: str | None, until: str | None, setting: str, now: float) -> tuple[Bounds, int | None]:
    """Return what was typed, and from when on unfiltered livestreams are looked at otherwise. Raises UsageError."""
    present = math.floor(now)
    last = parse_time("option", "--until", until, last_second, now)
    last = None if last is None else min(last, present)
    first = parse_time("option", "--since", since, first_second, now)
    start = parse_time("setting", _SINCE, setting or None, first_second, now)
    typed = ("setting", _SINCE, setting, start) if since is None else ("option", "--since", since, first)
    kind, name, text, earliest = typed
    latest = present if last is None else last
    if earliest is not None and earliest > latest:
        problem = "in the future" if last is None else "later than `--until`"
        raise UsageError.of(kind, name, problem, text, f"at or before {timestamp_to_iso(latest)}")
    return Bounds(first, last, present), start


def _folders(texts: Sequence[str] | None, database_url: Secret) -> Sequence[Path]:
    """Return the folders that were typed. Raises UsageError if one is none, or an export."""
    inputs = Inputs.parse(texts or (), database_url)
    inputs.check_only_runs("an export, which does not say what its runs prove")
    return inputs.runs


def _is_missing(coverages: Sequence[Coverage]) -> bool:
    """Tell whether unfiltered livestreams have a gap."""
    return any(each.gaps for each in coverages if each.series == LIVESTREAMS)


def _command(coverage: Coverage, gap: Interval, now: int, places: Sequence[str]) -> str | None:
    """Return the command that fills a gap; None if nothing can."""
    words = crawl_for(gap, coverage.series, now)
    return f"{program()} {shlex.join([*words, *places])}" if words else None


def _as_json(
    source: str, coverages: Sequence[Coverage], left_out: Sequence[LeftOut], command_of: _CommandOf
) -> dict[str, Any]:
    return {
        "source": source,
        "complete": not _is_missing(coverages),
        "series": [
            {
                "collection": each.series.collection,
                "filters": each.series.filters,
                "intervals": [_times(interval) for interval in each.intervals],
                "gaps": [_times(gap) | {"command": command_of(each, gap)} for gap in each.gaps],
            }
            for each in coverages
        ],
        "left_out": [{"folder": each.folder, "reason": each.reason} for each in left_out],
    }


def _times(interval: Interval) -> dict[str, Any]:
    since, until = map(timestamp_to_iso, interval)
    return {"since": since, "until": until, "seconds": interval.seconds}


def _lines(
    source: str, coverages: Sequence[Coverage], left_out: Sequence[LeftOut], command_of: _CommandOf
) -> Iterator[str]:
    """Yield a line for each series, one for each gap, and what was left out."""
    for each in coverages:
        yield printable(_heading(source, each))
        for gap in each.gaps:
            since, until = map(timestamp_to_iso, gap)
            command = command_of(each, gap)
            fill = f": {command}" if command else ""
            yield f"  gap from {since} to {until} ({length_of(gap.seconds)}){fill}"
    yield from map(printable, left_out_lines(left_out))


def _heading(source: str, coverage: Coverage) -> str:
    """Return what is proved of a series."""
    series, intervals = coverage.series, coverage.intervals
    filters = "".join(f", {name}={value}" for name, value in series.filters.items())
    name = f"{series.collection} of {source}{filters}"
    done = _DONE.get(series.collection, "proved")
    if not intervals:
        return f"{name}: nothing {done}"
    since, until = timestamp_to_iso(intervals[0].since), timestamp_to_iso(intervals[-1].until)
    counted = f"{number_of(len(intervals), 'intervals')}, {number_of(len(coverage.gaps), 'gaps')}"
    return f"{name}: {done} from {since} to {until}, {counted}"
