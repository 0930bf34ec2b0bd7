"""`scrapy report`: one page that shows the dataset and the state of the collection."""

from __future__ import annotations

import math
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from scrapy.commands import ScrapyCommand

from parti_scraper.api.routes import SITE_URL
from parti_scraper.api.times import first_second, last_second, parse_time
from parti_scraper.api.urls import check_site_url
from parti_scraper.commands.base import Reading
from parti_scraper.commands.inputs import add_source_option, check_source
from parti_scraper.dataset.engine import TargetError
from parti_scraper.dataset.opened import open_dataset
from parti_scraper.exceptions import UsageError, quoted
from parti_scraper.operations.checkup import check_up
from parti_scraper.program import program
from parti_scraper.report import Options, Problem, make_report, write_report
from parti_scraper.report.period import Period
from parti_scraper.run.folders import output_dir, state_dir, typed_places
from parti_scraper.run.outcome import ExitCode
from parti_scraper.secret_settings import secret_from

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from scrapy.settings import Settings

_DEFAULT = "report.html"


class Command(Reading, ScrapyCommand):
    """Makes the report."""

    name = "report"

    def short_desc(self) -> str:
        return "Make one HTML page that shows the dataset and the state of the collection"

    def long_desc(self) -> str:
        return (
            "Make one HTML page of all runs, or of an export: what was streamed, when, with how many viewers, what is "
            "proved complete, and how the runs ended. It needs no network to be looked at."
        )

    def options(self, group: argparse._ArgumentGroup) -> None:
        where = "folder of runs, or an export; repeatable (default: PARTI_OUTPUT_DIR)"
        group.add_argument("--from", dest="inputs", metavar="DIR", action="append", help=where)
        group.add_argument("--dataset", metavar="TARGET", help="an export, in place of runs")
        group.add_argument("-o", dest="page", metavar="FILE", default=_DEFAULT, help=f"the page (default: {_DEFAULT})")
        group.add_argument("--since", metavar="TIME", help="only this time and later, as for the spider recent")
        group.add_argument("--until", metavar="TIME", help="only this time and earlier")
        add_source_option(group)

    def execute(self, args: Sequence[str], opts: argparse.Namespace) -> int:
        now = time.time()
        check_source(opts.source)
        if opts.inputs and opts.dataset:
            accepted = "one of --from and --dataset"
            raise UsageError.of("option", "--dataset", "given together with `--from`", opts.dataset, accepted)
        settings = self.settings
        options = Options(
            math.floor(now),
            Period(
                parse_time("option", "--since", opts.since, first_second, now),
                parse_time("option", "--until", opts.until, last_second, now),
            ),
            tuple(dict.fromkeys([SITE_URL, check_site_url(settings["PARTI_SITE_URL"])])),
            program(),
            typed_places(settings),
            None if opts.inputs or opts.dataset else _problems(settings, now, opts.source),
        )
        path = _path(opts.page)
        sources = [opts.dataset] if opts.dataset else opts.inputs or [_output(settings)]
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


def _output(settings: Settings) -> Path:
    """Return the folder of the runs. Raises UsageError."""
    folder = output_dir(settings, {})
    if not folder.is_dir():
        accepted = "the folder of PARTI_OUTPUT_DIR; or --from or --dataset with another place"
        raise UsageError(f"no runs are in {quoted(str(folder.absolute()))} (accepted: {accepted})")
    return folder


def _problems(settings: Settings, now: float, source: str | None) -> list[Problem]:
    """Return what is wrong with the collection."""
    findings = check_up(settings, now, source).health.findings
    return [Problem(each.text, each.since, each.command) for each in findings]


def _path(text: str) -> Path:
    """Return the path of the page. Raises UsageError."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        problem = "a folder" if path.is_dir() else "no such folder"
        raise UsageError.of("option", "-o", problem, text, f"a file such as {_DEFAULT}")
    return path
