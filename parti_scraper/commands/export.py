"""`scrapy export`: one dataset out of all runs."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from scrapy.commands import ScrapyCommand
from tqdm import tqdm

from parti_scraper.commands.base import Reading
from parti_scraper.commands.inputs import add_source_option, check_source, left_out_lines
from parti_scraper.dataset.export import Export, Silent, export
from parti_scraper.dataset.inputs import Inputs
from parti_scraper.dataset.plan import PRUNED
from parti_scraper.dataset.selection import Selection
from parti_scraper.dataset.targets.named import ACCEPTED, target_of
from parti_scraper.dataset.targets.written import WrittenTarget
from parti_scraper.exceptions import UsageError, quoted
from parti_scraper.run.folders import output_dir, state_dir
from parti_scraper.run.open_runs import open_runs
from parti_scraper.run.outcome import ExitCode
from parti_scraper.secret_settings import secret_from
from parti_scraper.wording import number_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from parti_scraper.dataset.export import Report
    from parti_scraper.dataset.targets.base import Target


class Command(Reading, ScrapyCommand):
    """Brings targets up to date with all runs."""

    name = "export"
    stopped = "stopped; the next export does the rest"
    most_arguments = None

    def syntax(self) -> str:
        return "TARGET... [options]"

    def short_desc(self) -> str:
        return "Bring one dataset out of all runs into a folder, a file or a database"

    def long_desc(self) -> str:
        return (
            "Read all runs, complete or not, merge them, and bring each target up to date. "
            f"TARGET is {ACCEPTED}. docs/data.md says what the tables are."
        )

    def options(self, group: argparse._ArgumentGroup) -> None:
        group.add_argument(
            "--from",
            dest="inputs",
            metavar="DIR",
            action="append",
            help="folder of runs, or an earlier export; repeatable (default: PARTI_OUTPUT_DIR)",
        )
        group.add_argument(
            "--table", dest="tables", metavar="NAME", action="append", help="only this table; repeatable"
        )
        group.add_argument("--since", metavar="TIME", help="only rows of this time and later, as for the spider recent")
        group.add_argument("--until", metavar="TIME", help="only rows of this time and earlier")
        group.add_argument("--categories", metavar="LIST", help="only rows of these categories: numbers or names")
        group.add_argument("--user-id", metavar="ID", help="only rows of this channel")
        add_source_option(group)
        group.add_argument("--rebuild", action="store_true", help="fill the target anew, possibly with other options")
        group.add_argument("--quiet", action="store_true", help="print errors only")

    def execute(self, args: Sequence[str], opts: argparse.Namespace) -> int:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        now = time.time()
        if not args:
            raise UsageError(f"no target (accepted: {ACCEPTED})")
        check_source(opts.source)
        filters = {name: getattr(opts, name) for name in ("since", "until", "categories", "user_id")}
        selection = Selection.parse(tables=opts.tables or (), now=now, **filters)
        settings = self.settings
        database_url = secret_from(settings, "PARTI_DATABASE_URL")
        inputs = Inputs.parse(opts.inputs, database_url) if opts.inputs else Inputs([output_dir(settings, {})], ())
        state = state_dir(settings, {})
        targets = [target_of(text, database_url, state / "export") for text in args]
        for text in args:
            inputs.check_apart(text, database_url)
        worst = ExitCode.COMPLETE
        with open_runs(inputs.runs, state, now) as runs:
            what = Export(runs, state / "export", selection, opts.source, opts.rebuild, now, inputs.exports)
            for target in targets:
                _check_tables(target, selection)
                _check_not_emptied(target, inputs.missing)
                if not _bring(target, what, inputs.missing, is_quiet=opts.quiet):
                    worst = ExitCode.INCOMPLETE
        return worst


def _bring(target: Target, what: Export, missing: Path | None, *, is_quiet: bool) -> bool:
    """Export into a target, and say what was done; tell whether nothing was left out that should be there."""
    progress = Silent() if is_quiet else Line()
    report = export(target, what, progress)
    if not is_quiet:
        progress.begin("")
        print("\n".join(_summary(target, report, missing)))
    elif not report.is_whole:
        print("\n".join(left_out_lines(report.left_out)), file=sys.stderr)
    return report.is_whole


class Line:
    """A line of progress, on a terminal."""

    def __init__(self) -> None:
        self._line: tqdm[NoReturn] | None = None

    def begin(self, what: str, total: int = 0) -> None:
        """Begin a step of so many bytes; 0: unknown. An empty text ends the line."""
        if self._line is not None:
            self._line.close()
        shape = None if total else "{desc} [{elapsed}]"
        self._line = tqdm(
            desc=what, total=total or None, unit="B", unit_scale=True, leave=False, disable=None, bar_format=shape
        )
        if not what:
            self._line.close()

    def advance(self, size: int) -> None:
        """Note that so many bytes are done."""
        if self._line is not None:
            self._line.update(size)


def _check_tables(target: Target, selection: Selection) -> None:
    """Raise UsageError if several tables are to go into a file that holds one."""
    if target.is_single and len(selection.tables or ()) > 1:
        tables = ", ".join(selection.tables or ())
        raise UsageError.of("option", "--table", f"{target.shown} holds one table", tables, "one table")


def _check_not_emptied(target: Target, missing: Path | None) -> None:
    """Raise UsageError if a file would be emptied only because the folder of the runs is missing."""
    if missing and isinstance(target, WrittenTarget) and target.path.exists():
        accepted = "the folder of PARTI_OUTPUT_DIR, or --from with another one"
        where = quoted(str(missing.absolute()))
        raise UsageError(f"no runs are in {where}, so {target.shown} would be emptied (accepted: {accepted})")


def _summary(target: Target, report: Report, missing: Path | None) -> Iterator[str]:
    """Yield the lines that say what was exported; `missing` is the folder of the runs if it is not there."""
    if not report.tables:
        yield f"{target.shown}: nothing is new"
    else:
        source = f", of {report.source}" if report.source else ""
        earlier = f" and {number_of(report.exports, 'earlier exports')}" if report.exports else ""
        yield f"{target.shown}: {number_of(report.files, 'files')}{earlier} read{source}"
        width = max(map(len, report.tables))
        for name, changes in report.tables.items():
            done = f"{changes.new:,} new" + (f", {changes.replaced:,} replaced" if changes.replaced else "")
            done += f", {number_of(changes.altered, 'texts')} altered" if changes.altered else ""
            yield f"  {name:<{width}}  {number_of(changes.rows, 'rows')} ({done})"
    if missing:
        yield f"  no runs are in {missing.absolute()}"
    yield from left_out_lines(report.left_out)
    if any(each.reason == PRUNED for each in report.left_out):
        yield "  to carry such records over: --from, with an earlier export"
