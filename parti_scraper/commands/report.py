"""`scrapy report`: one page that shows the dataset and the state of the collection."""

from __future__ import annotations

import argparse
import math
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from scrapy.commands import ScrapyCommand

from parti_scraper.api.routes import SITE_URL
from parti_scraper.api.times import TIMES, UnparsableError, first_second, last_second
from parti_scraper.api.urls import check_site_url
from parti_scraper.commands import refuse_options, report_in_one_line, say
from parti_scraper.commands.inputs import add_source_option, check_source
from parti_scraper.dataset.engine import ExtraMissing, TargetError
from parti_scraper.dataset.opened import open_dataset
from parti_scraper.exceptions import LedgerError, UsageError, quoted
from parti_scraper.program import program
from parti_scraper.report import Options, make_report, write_report
from parti_scraper.report.period import Period
from parti_scraper.run.folders import output_dir, state_dir
from parti_scraper.run.outcome import ExitCode
from parti_scraper.secret_settings import secret_from

if TYPE_CHECKING:
    from collections.abc import Callable

_DEFAULT = "report.html"


class Command(ScrapyCommand):
    """Makes the report."""

    requires_project = True
    requires_crawler_process = False
    default_settings: ClassVar[dict[str, Any]] = {"LOG_ENABLED": False}

    def syntax(self) -> str:
        return "[options]"

    def short_desc(self) -> str:
        return "Make one HTML page that shows the dataset and the state of the collection"

    def long_desc(self) -> str:
        return (
            "Make one HTML page of all runs, or of an export: what was streamed, when, with how many viewers, what is "
            "proved complete, and how the runs ended. It needs no network to be looked at."
        )

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        parser.formatter_class = argparse.HelpFormatter
        parser.allow_abbrev = False
        report_in_one_line(parser, "report")
        # Scrapy has an option `--output` only where something is crawled.
        group = parser.add_argument_group(title="Report")
        where = "folder of runs, or an export; repeatable (default: PARTI_OUTPUT_DIR)"
        group.add_argument("--from", dest="inputs", metavar="DIR", action="append", help=where)
        group.add_argument("--dataset", metavar="TARGET", help="an export, in place of runs")
        group.add_argument("-o", dest="page", metavar="FILE", default=_DEFAULT, help=f"the page (default: {_DEFAULT})")
        group.add_argument("--since", metavar="TIME", help="only this time and later, as for the spider recent")
        group.add_argument("--until", metavar="TIME", help="only this time and earlier")
        add_source_option(group)
        self._group = group

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Make the report; sets the exit code."""
        try:
            self.exitcode = self._run(args, opts)
        except UsageError as error:
            self.exitcode = say("report", str(error), ExitCode.USAGE)
        except (TargetError, ExtraMissing, LedgerError) as error:
            self.exitcode = say("report", str(error), ExitCode.NOT_STARTED)
        except KeyboardInterrupt:
            self.exitcode = say("report", "stopped", ExitCode.STOPPED)

    def _run(self, args: list[str], opts: argparse.Namespace) -> int:
        now = time.time()
        refuse_options(args, self._group)
        if args:
            raise UsageError(f"unknown argument: {quoted(args[0])} (accepted: see {program()} report --help)")
        check_source(opts.source)
        if opts.inputs and opts.dataset:
            accepted = "one of --from and --dataset"
            raise UsageError.of("option", "--dataset", "given together with `--from`", opts.dataset, accepted)
        settings = self.settings
        assert settings is not None  # noqa: S101 - set by Scrapy
        options = Options(
            math.floor(now),
            Period(_time("--since", opts.since, first_second, now), _time("--until", opts.until, last_second, now)),
            tuple(dict.fromkeys([SITE_URL, check_site_url(settings["PARTI_SITE_URL"])])),
            program(),
        )
        path = _path(opts.page)
        sources = [opts.dataset] if opts.dataset else opts.inputs or [output_dir(settings, {})]
        state, database_url = state_dir(settings, {}), secret_from(settings, "PARTI_DATABASE_URL")
        opened = open_dataset(*sources, source=opts.source, state=state, database_url=database_url)
        with closing(opened) as connection:
            page = make_report(connection, options)
        try:
            write_report(page, path)
        except OSError as error:
            raise TargetError(f"{path} cannot be written: {error.strerror}") from None
        print(path)
        return ExitCode.COMPLETE


def _time(option: str, text: str | None, parser: Callable[[str, float], int], now: float) -> int | None:
    """Return a time that was typed, in Unix seconds. Raises UsageError."""
    if text is None:
        return None
    try:
        return parser(text, now)
    except UnparsableError as problem:
        raise UsageError.of("option", option, str(problem), text, TIMES, hint=problem.hint) from None


def _path(text: str) -> Path:
    """Return the path of the page. Raises UsageError."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        problem = "a folder" if path.is_dir() else "no such folder"
        raise UsageError.of("option", "-o", problem, text, f"a file such as {_DEFAULT}")
    return path
