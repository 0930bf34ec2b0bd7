"""`scrapy crawl`, with arguments checked first, a summary at the end, and an exit code that says how it went."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from scrapy.commands import crawl
from scrapy.exceptions import UsageError as ScrapyUsageError
from scrapy.spiderloader import get_spider_loader

from parti_scraper.exceptions import UsageError
from parti_scraper.extensions.run import RunRecorder
from parti_scraper.outcome import ExitCode
from parti_scraper.summary import summarize

if TYPE_CHECKING:
    import argparse
    import asyncio

    from scrapy.crawler import Crawler, CrawlerProcessBase
    from scrapy.settings import Settings

    from parti_scraper.spiders.base import PartiSpider

logger = logging.getLogger(__name__)


class Command(crawl.Command):
    """Scrapy's command, made honest: what was typed is checked first, and the exit code says how it went."""

    # Set by Scrapy before anything here is called.
    settings: Settings
    crawler_process: CrawlerProcessBase

    def long_desc(self) -> str:
        """Return what `--help` says first."""
        codes = ", ".join(f"{code.value} {code.name.lower().replace('_', ' ')}" for code in ExitCode)
        return f"Run a spider of this project. Exit codes: {codes}."

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add Scrapy's options, and the arguments of each spider to the help."""
        super().add_options(parser)
        if {"-h", "--help"}.intersection(sys.argv):
            for name, spider in sorted(self._spiders().items()):
                group = parser.add_argument_group(f"spider {name}", (spider.__doc__ or "").strip())
                for argument, description in spider.arguments_class.help():
                    # Positional as far as argparse is concerned, which here only prints them.
                    group.add_argument(f"{name}.{argument}", metavar=f"-a {argument}=VALUE", help=description)

    def process_options(self, args: list[str], opts: argparse.Namespace) -> None:
        """Check everything that was typed, before anything is started or logged."""
        if opts.output or opts.overwrite_output:
            # Scrapy would add them to the project's feeds; here they take their place.
            self.settings.set("FEEDS", {}, priority="project")
        try:
            super().process_options(args, opts)
            if len(args) == 1:
                self._check(args[0], opts)
        except (ScrapyUsageError, UsageError) as error:
            _exit_with(str(error))

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Run the spider; sets the exit code."""
        if len(args) != 1:
            _exit_with(f"one spider at a time (accepted: {', '.join(sorted(self._spiders()))})")
        started = time.monotonic()
        crawler = self._create_crawler(args[0])
        crawling: Any = self.crawler_process.crawl(crawler, **opts.spargs)
        self.crawler_process.start()
        self.exitcode = self._conclude(crawler, crawling, time.monotonic() - started)

    def _check(self, name: str, opts: argparse.Namespace) -> None:
        spiders = self._spiders()
        if name not in spiders:
            raise UsageError(f"unknown spider: {name!r} (accepted: {', '.join(sorted(spiders))})")
        spiders[name].check(self.settings, opts.spargs)

    def _spiders(self) -> dict[str, type[PartiSpider]]:
        loader = get_spider_loader(self.settings)
        spiders: Any = {name: loader.load(name) for name in loader.list()}
        return dict(spiders)

    def _conclude(self, crawler: Crawler, crawling: asyncio.Task[None], seconds: float) -> ExitCode:
        """Say how the run ended, and return the exit code."""
        error = crawling.exception() if crawling.done() and not crawling.cancelled() else None
        if error is not None:
            # Scrapy's own errors, such as a setting that is no number, can be had only here.
            logger.debug("The traceback of what follows", exc_info=error)
            print(f"The spider could not be started: {type(error).__name__}: {error}", file=sys.stderr)
            return ExitCode.NOT_STARTED
        recorder = crawler.get_extension(RunRecorder)
        if recorder is None or recorder.verdict is None:  # after a second signal, which waits for nothing
            return ExitCode.STOPPED
        print(summarize(recorder, recorder.verdict, seconds), file=sys.stderr)
        return recorder.verdict.exit_code


def _exit_with(line: str) -> NoReturn:
    print(line, file=sys.stderr)
    sys.exit(ExitCode.USAGE)
