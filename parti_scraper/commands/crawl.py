"""`scrapy crawl`, with arguments checked first, a summary at the end, and an exit code for how the run ended."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import logging
import os
import sys
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from scrapy.commands import crawl
from scrapy.exceptions import UsageError as ScrapyUsageError
from scrapy.settings import default_settings
from scrapy.spiderloader import get_spider_loader
from scrapy.utils.conf import arglist_to_dict

from parti_scraper.commands import report_in_one_line
from parti_scraper.exceptions import (
    BrowserError,
    LedgerError,
    LedgerFormatError,
    NothingToFinish,
    PartiError,
    UsageError,
    did_you_mean,
    quoted,
)
from parti_scraper.extensions.recorder import RunRecorder
from parti_scraper.feeds.exporter import check_feeds, check_formats, check_names
from parti_scraper.feeds.log_formatter import log_lists_at_debug
from parti_scraper.operations.checkup import problems
from parti_scraper.operations.reporting import Reporting
from parti_scraper.run import datapackage
from parti_scraper.run.arguments import LAST, check_words
from parti_scraper.run.failed_starts import note_failed_start
from parti_scraper.run.folders import output_dir
from parti_scraper.run.outcome import Counts, Ending, ExitCode, judge
from parti_scraper.run.problems import LoggedExceptions
from parti_scraper.run.sealing import seal
from parti_scraper.run.summary import Left, how_to_finish, printable, summarize
from parti_scraper.secret_settings import SECRETS, forget_environment
from parti_scraper.spiders.base import PartiSpider

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scrapy import Spider
    from scrapy.crawler import Crawler, CrawlerProcessBase
    from scrapy.settings import Settings

    from parti_scraper.run.context import Run

logger = logging.getLogger(__name__)

# By the kind of a setting's default: how Scrapy reads it, what is wrong where it cannot, and what is accepted.
# A whole number by default may be read as a fraction too.
_KINDS = {
    bool: ("getbool", "not true or false", "True, False, 1, 0"),
    int: ("getfloat", "not a number", "a number"),
    float: ("getfloat", "not a number", "a number"),
}


class Command(crawl.Command):
    """Scrapy's command, but what was typed is checked first, and the exit code says how the run ended."""

    # Set by Scrapy before anything here is called.
    settings: Settings
    crawler_process: CrawlerProcessBase
    # Of the run, once there is one.
    _reporting: Reporting | None = None

    def syntax(self) -> str:
        return "SPIDER [options]"

    def short_desc(self) -> str:
        return "Run a spider, which collects"

    def long_desc(self) -> str:
        codes = ", ".join(f"{code.value} {code.name.lower().replace('_', ' ')}" for code in ExitCode)
        return f"Run a spider of this project. Exit codes: {codes}."

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add Scrapy's options, and the arguments of each spider to the help."""
        super().add_options(parser)
        # Scrapy's own underlines a line of help that ends with a colon, as a heading.
        parser.formatter_class = argparse.HelpFormatter
        report_in_one_line(parser, "crawl")
        if {"-h", "--help"}.intersection(sys.argv):
            for name, spider in sorted(self._spiders().items()):
                if not issubclass(spider, PartiSpider):
                    continue
                group = parser.add_argument_group(f"spider {name}", (spider.__doc__ or "").strip().partition("\n")[0])
                for argument, description in spider.arguments_class.help():
                    # For argparse these are positional arguments, which it only prints here.
                    group.add_argument(f"{name}.{argument}", metavar=f"-a {argument}=VALUE", help=description)

    def process_options(self, args: list[str], opts: argparse.Namespace) -> None:
        """Check everything that was typed, before anything is started or logged."""
        _open_what_is_closed()
        forget_environment()
        typed = list(opts.spargs)
        try:
            _check_encoding(sys.argv)
            try:
                super().process_options(args, opts)
            finally:
                # Replaces Scrapy's own errors, which do not show what to type; -s may have added spiders.
                spider = self._check_command(args, typed, opts.set)
                check_formats(self.settings, [*(opts.output or ()), *(opts.overwrite_output or ())])
            self._check_settings(opts)
            settings = self.settings.copy()
            spider.update_settings(settings)
            check_feeds(settings)
            if issubclass(spider, PartiSpider):
                # Before Scrapy logs the first of them.
                log_lists_at_debug()
                spider.check(settings, opts.spargs)
                identity = spider.identify(opts.spargs, time.time())
                check_names(settings, spider, identity)
            if self.settings["LOG_FILE"]:
                Path(self.settings["LOG_FILE"]).open("a").close()
        except (ScrapyUsageError, UsageError) as error:
            self._refuse(args, typed, ExitCode.USAGE, str(error))
        except NothingToFinish as nothing:
            sys.exit(self._say_unstarted(args[0], opts.spargs, ExitCode.COMPLETE, str(nothing)))
        except BrowserError as error:
            self._refuse(args, typed, _code_of(error), str(error))
        except LedgerError as error:
            # Nor can it be noted there.
            sys.exit(self._say_unstarted(args[0], opts.spargs, _code_of(error), str(error)))
        except OSError as error:
            # The file of --pidfile or of the log.
            line = f"{error.filename} cannot be written: {error.strerror}"
            self._refuse(args, typed, ExitCode.NOT_STARTED, line)

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Run the spider; sets the exit code."""
        started = time.monotonic()
        self._warn_of_unknown(opts.set)
        self._warn_of_new_run(args[0], opts.spargs)
        crawler = self._create_crawler(args[0])
        run = None
        if issubclass(crawler.spidercls, PartiSpider):
            try:
                run = crawler.spidercls.new_run(crawler.settings, opts.spargs)
            except PartiError as changed:
                # Since it was checked.
                self.exitcode = self._say_unstarted(args[0], opts.spargs, _code_of(changed), printable(str(changed)))
                return
            # Not before it is known which run goes on.
            seal(run.ledger, run.identity.spider, time.time(), but=run.folder.path)
            self._reporting = Reporting(
                self.settings, run.identity.spider, opts.spargs, run.identity.run_uuid, check=problems
            )
            self._reporting.began()
        exceptions = LoggedExceptions()
        crawling: Any = self.crawler_process.crawl(crawler, **({"run": run} if run else opts.spargs))
        self.crawler_process.start()
        error = crawling.exception() if crawling.done() and not crawling.cancelled() else None
        if error is not None:
            self.exitcode = self._conclude_unstarted(crawler, opts.spargs, error)
        elif run is None:
            self.exitcode = self._conclude_foreign(crawler, exceptions.count)
        else:
            recorder = crawler.get_extension(RunRecorder)
            self.exitcode = self._conclude(run, opts.spargs, recorder, time.monotonic() - started)
        # At the end of the process, a garbage collection would take longer than storing the feeds.
        gc.freeze()

    def _check_command(self, args: list[str], arguments: list[str], settings: list[str]) -> type[Spider]:
        """Return the spider that was typed, and check the rest of the words. Raises UsageError."""
        spiders = self._spiders()
        accepted = ", ".join(sorted(spiders))
        names = [word for word in args if word in spiders]
        arguments_class = getattr(spiders[names[0]], "arguments_class", None) if names else None
        flags = arguments_class.flags() if arguments_class else {}
        check_words([word for word in args if word not in spiders], arguments, settings, flags)
        _check_objects(settings)
        if len(args) != 1:
            problem = f"one spider at a time, not {len(args)}" if args else "the spider is missing"
            raise UsageError(f"{problem} (accepted: {accepted})")
        if not names:
            hint = did_you_mean(args[0], spiders)
            raise UsageError(f"unknown spider: {quoted(args[0])} (accepted: {accepted}){hint}")
        return spiders[names[0]]

    def _check_settings(self, opts: argparse.Namespace) -> None:
        """Check settings for which Scrapy would end with a traceback, or without their name. Raises UsageError."""
        for name, text in arglist_to_dict(opts.set).items():
            if name.startswith("PARTI_") and name not in _known_names():
                accepted, hint = ", ".join(_known_names()), did_you_mean(name, _known_names())
                # It may hold what was meant for the setting of a similar name.
                is_secret = hint and hint == did_you_mean(name, SECRETS)
                shown = "***" if is_secret else text
                raise UsageError.of("setting", name, "not known", shown, accepted, hint=hint)
            getter, problem, accepted = _KINDS.get(type(getattr(default_settings, name, None)), ("get", "", ""))
            try:
                getattr(self.settings, getter)(name)
            except ValueError:
                raise UsageError.of("setting", name, problem, text, accepted) from None
        levels = logging.getLevelNamesMapping()
        if self.settings["LOG_LEVEL"] not in levels:
            level = self.settings["LOG_LEVEL"]
            hint = did_you_mean(level, levels)
            raise UsageError.of("setting", "LOG_LEVEL", "not a level", level, ", ".join(levels), hint=hint)
        if self.settings.getfloat("DOWNLOAD_DELAY") <= 0:
            # Without a delay, Scrapy does not hold CONCURRENT_REQUESTS_PER_DOMAIN.
            self.settings.set("DOWNLOAD_DELAY", 0.001, priority="cmdline")

    def _warn_of_unknown(self, typed: list[str]) -> None:
        """Warn of environment variables and settings that are unknown, but look like a setting."""
        for name in sorted(os.environ):
            if name.startswith("PARTI_") and name not in _known_names():
                hint = did_you_mean(name, _known_names())
                logger.warning("The environment variable %s is not known and has no effect%s", name, hint)
        known = [*_known_names(), *filter(str.isupper, dir(default_settings))]
        for name in (each.partition("=")[0] for each in typed):
            # It may be a setting of the user's own component, unless it is very similar to a known one.
            hint = "" if name in known else did_you_mean(name, known, 0.85)
            if hint:
                logger.warning("Neither Scrapy nor the project knows the setting %s%s", name, hint)

    def _warn_of_new_run(self, spider: str, raw: Mapping[str, str]) -> None:
        """Warn if a `run_id` begins a new run, but is similar to one that resumes an unfinished run."""
        run_id = raw.get("run_id")
        if not self._is_own(spider) or not run_id or run_id == LAST:
            return
        folder = output_dir(self.settings, raw) / spider
        if (folder / run_id).exists():
            return
        unfinished = [each.name for each in folder.glob("*") if not (each / datapackage.FILE_NAME).exists()]
        hint = did_you_mean(run_id, [LAST], 0.75) or did_you_mean(run_id, unfinished, 0.9)
        if hint:
            logger.warning("The run_id `%s` begins a new run%s", run_id, hint)

    def _spiders(self) -> dict[str, type[Spider]]:
        loader = get_spider_loader(self.settings)
        return {name: loader.load(name) for name in loader.list()}

    def _conclude_unstarted(self, crawler: Crawler, raw: Mapping[str, str], error: BaseException) -> ExitCode:
        """Say why the spider could not be started, and return the exit code."""
        # For Scrapy's own errors, this is the only traceback.
        logger.debug("The traceback of the next error", exc_info=error)
        what = "" if isinstance(error, PartiError) else f"The spider could not be started: {type(error).__name__}: "
        return self._say_unstarted(crawler.spidercls.name, raw, _code_of(error), printable(f"{what}{error}"))

    def _conclude(self, run: Run, raw: Mapping[str, str], recorder: RunRecorder | None, seconds: float) -> ExitCode:
        """Say how the run ended, and return the exit code."""
        if recorder is None or recorder.verdict is None:  # after a second signal, which waits for nothing
            identity = run.identity
            line = f"{identity.spider} {identity.run_id}: STOPPED at once; {how_to_finish(identity)}"
            if recorder is not None:
                recorder.stopped_at_once()
            self._say(ExitCode.STOPPED, line)
            self._reported(identity.spider, raw).stopped_at_once(run, line)
            return ExitCode.STOPPED
        left = Left(recorder.files, recorder.feeds, recorder.spider.remarks(), recorder.before)
        finished_before = recorder.finished_before is not None
        summary = summarize(run, recorder.verdict, left, seconds, finished_before=finished_before)
        code = self._say(recorder.verdict.exit_code, summary)
        if recorder.left_no_trace and code is not ExitCode.STOPPED:
            note_failed_start(self.settings, run.identity.spider, raw, code, recorder.verdict.reason or "")
        reporting = self._reported(run.identity.spider, raw)
        reporting.ended(code, summary, recorder.verdict, None if finished_before else run)
        return code

    def _conclude_foreign(self, crawler: Crawler, exceptions: int) -> ExitCode:
        """Return the code for a spider that is not the project's, from what Scrapy reports; there is no summary."""
        stats = crawler.stats.get_stats()
        reason = str(stats.get("finish_reason", "shutdown"))
        # A spider that closes itself for a reason of its own has ended.
        is_stopped = reason in {"shutdown", "memusage_exceeded"} or reason.startswith("closespider_")
        verdict = judge(
            Ending(
                reason if is_stopped else "finished",
                Counts(),
                exceptions=exceptions,
                storage=[name for name in stats if name.startswith("feedexport/failed_count/")],
            )
        )
        if verdict.reason:
            return self._say(verdict.exit_code, f"{crawler.spidercls.name}: {verdict.reason}")
        return verdict.exit_code

    def _refuse(self, words: list[str], typed: list[str], code: ExitCode, line: str) -> NoReturn:
        """Say why nothing is started, and exit; note it where it is plain which spider was meant."""
        spiders = [word for word in words if self._is_own(word)]
        if len(spiders) == 1:
            raw = {name: value for name, _, value in (each.partition("=") for each in typed)}
            sys.exit(self._say_unstarted(spiders[0], raw, code, line))
        sys.exit(self._say(code, line))

    def _is_own(self, name: str) -> bool:
        spider = self._spiders().get(name)
        return spider is not None and issubclass(spider, PartiSpider)

    def _say_unstarted(self, spider: str, raw: Mapping[str, str], code: ExitCode, line: str) -> ExitCode:
        """Say why a run was not begun, note it, and report it. Returns the code."""
        self._say(code, line)
        if self._is_own(spider):
            if code is not ExitCode.COMPLETE:
                note_failed_start(self.settings, spider, raw, code, line)
            self._reported(spider, raw).ended(code, line)
        return code

    def _reported(self, spider: str, raw: Mapping[str, str]) -> Reporting:
        """Return what reports the end of the run, or of one that was not begun."""
        return self._reporting or Reporting(self.settings, spider, raw, check=problems)

    def _say(self, code: ExitCode, text: str) -> ExitCode:
        """Print how it ended, at any log level, and log it where the log is a file. Returns the code."""
        # Its reader may be gone: when scrapyd is stopped, its jobs continue.
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)
        if self.settings["LOG_FILE"]:
            level = logging.INFO if code is ExitCode.COMPLETE else logging.ERROR
            with contextlib.suppress(OSError), contextlib.closing(self._log_file()) as handler:
                for line in (text, f"Exit code {code.value}: {code.name.lower().replace('_', ' ')}"):
                    handler.handle(logging.LogRecord(__name__, level, __file__, 0, line, None, None))
        return code

    def _log_file(self) -> logging.Handler:
        # Not Scrapy's own handler, which does not exist before the start.
        handler = logging.FileHandler(self.settings["LOG_FILE"], encoding=self.settings["LOG_ENCODING"])
        handler.setFormatter(logging.Formatter(self.settings["LOG_FORMAT"], self.settings["LOG_DATEFORMAT"]))
        return handler


def _code_of(error: BaseException) -> ExitCode:
    """Return the code for an error that kept the spider from starting."""
    if isinstance(error, NothingToFinish):
        return ExitCode.COMPLETE
    if isinstance(error, UsageError):
        return ExitCode.USAGE
    cannot_store = isinstance(error, LedgerError) and not isinstance(error, LedgerFormatError)
    return ExitCode.INCOMPLETE if cannot_store else ExitCode.NOT_STARTED


@cache
def _known_names() -> list[str]:
    """Return the names of the project's settings."""
    # Not before a command runs: the settings read the environment when they are imported.
    from parti_scraper import settings  # noqa: PLC0415

    return [name for name in dir(settings) if name.startswith("PARTI_")]


def _check_encoding(words: list[str]) -> None:
    """Check that all words are UTF-8: Python accepts others, but cannot write them. Raises UsageError."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UsageError(f"not UTF-8: {word!r} (accepted: UTF-8)") from None


def _check_objects(typed: list[str]) -> None:
    """Check settings that are objects, for which Scrapy's errors are unclear. Raises UsageError."""
    for name, _, text in (each.partition("=") for each in typed):
        if isinstance(getattr(default_settings, name, None), dict):
            try:
                dict(json.loads(text))
            except (TypeError, ValueError):
                raise UsageError.of("setting", name, "not a JSON object", text, 'such as {"name": 1}') from None


def _open_what_is_closed() -> None:
    """Open those of the three standard streams that are closed (`2>&-`), on the null device.

    Otherwise the next file to be opened gets the number of the stream, and the output for the terminal.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # It gets the lowest free number, which is this one.
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for as long as the process lives
