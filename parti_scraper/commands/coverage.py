"""`scrapy coverage`: what of the history is proved complete, what is missing, and the commands that fetch it."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import time
from typing import TYPE_CHECKING, Any, ClassVar

from scrapy.commands import ScrapyCommand

from parti_scraper.api.times import TIMES, UnparsableError, first_second, last_second, timestamp_to_iso
from parti_scraper.commands import refuse_options, report_in_one_line, say
from parti_scraper.commands.inputs import add_source_option, check_source, left_out_lines, open_runs
from parti_scraper.dataset.collected import collect
from parti_scraper.dataset.coverage import LIVESTREAMS, Bounds, crawl_for
from parti_scraper.dataset.inputs import Inputs
from parti_scraper.exceptions import LedgerError, UsageError, quoted
from parti_scraper.program import program
from parti_scraper.run.folders import output_dir, state_dir
from parti_scraper.run.outcome import ExitCode
from parti_scraper.run.summary import printable
from parti_scraper.wording import length_of, number_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from parti_scraper.dataset.coverage import Coverage, Interval
    from parti_scraper.dataset.plan import LeftOut

_SINCE = "PARTI_COVERAGE_SINCE"
# What is said of the intervals of a collection; of livestreams they are proved.
_DONE = {"live_channels": "observed", "live_notifications": "listened"}


class Command(ScrapyCommand):
    """Says which stretches of time the runs prove, and which are missing."""

    requires_project = True
    requires_crawler_process = False
    default_settings: ClassVar[dict[str, Any]] = {"LOG_ENABLED": False}

    def syntax(self) -> str:
        return "[options]"

    def short_desc(self) -> str:
        return "Say what of the history is proved complete, and what fetches the rest"

    def long_desc(self) -> str:
        return (
            "Print which stretches of time all runs together prove to be complete, and the gaps: for ended livestreams "
            "with the command that fills each, for live channels and notifications those that nothing can fill. "
            "The exit code is 4 if unfiltered livestreams have a gap, else 0."
        )

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        parser.formatter_class = argparse.HelpFormatter
        parser.allow_abbrev = False
        report_in_one_line(parser, "coverage")
        group = parser.add_argument_group(title="Coverage")
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
        self._group = group

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Print the coverage; sets the exit code."""
        try:
            self.exitcode = self._run(args, opts)
        except UsageError as error:
            self.exitcode = say("coverage", str(error), ExitCode.USAGE)
        except LedgerError as error:
            self.exitcode = say("coverage", str(error), ExitCode.NOT_STARTED)
        except KeyboardInterrupt:
            self.exitcode = say("coverage", "stopped", ExitCode.STOPPED)

    def _run(self, args: list[str], opts: argparse.Namespace) -> int:
        now = time.time()
        refuse_options(args, self._group)
        if args:
            raise UsageError(f"unknown argument: {quoted(args[0])} (accepted: see {program()} coverage --help)")
        check_source(opts.source)
        settings = self.settings
        assert settings is not None  # noqa: S101 - set by Scrapy
        bounds, since = _bounds(opts.since, opts.until, settings[_SINCE], now)
        folders = _folders(opts.inputs) or [output_dir(settings, {})]
        with open_runs(folders, state_dir(settings, {}), now) as runs:
            source, collected = collect(runs, bounds.now, opts.source)
        coverages = collected.coverages(bounds, since)
        if opts.json:
            print(json.dumps(_as_json(source, coverages, collected.left_out, bounds.now), indent=2))
        else:
            print("\n".join(_lines(source, coverages, collected.left_out, bounds.now)))
        return ExitCode.INCOMPLETE if _is_missing(coverages) else ExitCode.COMPLETE


def _bounds(since: str | None, until: str | None, setting: str, now: float) -> tuple[Bounds, int | None]:
    """Return what was typed, and from when on unfiltered livestreams are looked at otherwise. Raises UsageError."""
    present = math.floor(now)
    last = None if until is None else min(_time("option", "--until", until, last_second, now), present)
    first = None if since is None else _time("option", "--since", since, first_second, now)
    start = _time("setting", _SINCE, setting, first_second, now) if setting else None
    typed = ("setting", _SINCE, setting, start) if since is None else ("option", "--since", since, first)
    kind, name, text, earliest = typed
    latest = present if last is None else last
    if earliest is not None and earliest > latest:
        problem = "in the future" if last is None else "later than `--until`"
        raise UsageError.of(kind, name, problem, text, f"at or before {timestamp_to_iso(latest)}")
    return Bounds(first, last, present), start


def _time(kind: str, name: str, text: str, parser: Callable[[str, float], int], now: float) -> int:
    """Return a time that was typed, in Unix seconds. Raises UsageError."""
    try:
        return parser(text, now)
    except UnparsableError as problem:
        raise UsageError.of(kind, name, str(problem), text, TIMES, hint=problem.hint) from None


def _folders(texts: Sequence[str] | None) -> Sequence[Path]:
    """Return the folders that were typed. Raises UsageError if one is none, or an export."""
    inputs = Inputs.parse(texts or ())
    if inputs.exports:
        problem = "an export, which does not say what its runs prove"
        raise UsageError.of("option", "--from", problem, inputs.exports[0], "a folder of runs such as output/")
    return inputs.runs


def _is_missing(coverages: Sequence[Coverage]) -> bool:
    """Tell whether unfiltered livestreams have a gap."""
    return any(each.gaps for each in coverages if each.series == LIVESTREAMS)


def _command(coverage: Coverage, gap: Interval, now: int) -> str | None:
    """Return the command that fills a gap; None if nothing can."""
    words = crawl_for(gap, coverage.series, now)
    return f"{program()} {shlex.join(words)}" if words else None


def _as_json(source: str, coverages: Sequence[Coverage], left_out: Sequence[LeftOut], now: int) -> dict[str, Any]:
    return {
        "source": source,
        "complete": not _is_missing(coverages),
        "series": [
            {
                "collection": each.series.collection,
                "filters": each.series.filters,
                "intervals": [_times(interval) for interval in each.intervals],
                "gaps": [_times(gap) | {"command": _command(each, gap, now)} for gap in each.gaps],
            }
            for each in coverages
        ],
        "left_out": [{"folder": each.folder, "reason": each.reason} for each in left_out],
    }


def _times(interval: Interval) -> dict[str, Any]:
    since, until = map(timestamp_to_iso, interval)
    return {"since": since, "until": until, "seconds": interval.seconds}


def _lines(source: str, coverages: Sequence[Coverage], left_out: Sequence[LeftOut], now: int) -> Iterator[str]:
    """Yield a line for each series, one for each gap, and what was left out."""
    for each in coverages:
        yield printable(_heading(source, each))
        for gap in each.gaps:
            since, until = map(timestamp_to_iso, gap)
            command = _command(each, gap, now)
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
