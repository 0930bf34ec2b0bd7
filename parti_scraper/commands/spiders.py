"""`scrapy spiders`: what each spider collects, and its arguments."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar

from scrapy.commands import ScrapyCommand
from scrapy.spiderloader import get_spider_loader

from parti_scraper.exceptions import quoted
from parti_scraper.program import program
from parti_scraper.run.outcome import ExitCode
from parti_scraper.spiders.base import PartiSpider

if TYPE_CHECKING:
    import argparse

    from scrapy import Spider


class Command(ScrapyCommand):
    """Describes the spiders; `scrapy list` has their names alone."""

    requires_project = True
    requires_crawler_process = False
    default_settings: ClassVar[dict[str, Any]] = {"LOG_ENABLED": False}

    def short_desc(self) -> str:
        return "Describe the spiders and their arguments"

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        if args:
            accepted = "no arguments; all spiders are described"
            print(f"{program()} spiders: unknown argument: {quoted(args[0])} (accepted: {accepted})", file=sys.stderr)
            self.exitcode = ExitCode.USAGE
            return
        assert self.settings is not None  # noqa: S101 - set by Scrapy
        loader = get_spider_loader(self.settings)
        print("\n\n".join(_describe(name, loader.load(name)) for name in sorted(loader.list())))


def _describe(name: str, spider: type[Spider]) -> str:
    """Return a spider's name and what it collects, and a line for each of its arguments."""
    summary = (spider.__doc__ or "").strip().partition("\n")[0]
    arguments = spider.arguments_class.help() if issubclass(spider, PartiSpider) else []
    width = max((len(argument) for argument, _ in arguments), default=0) + len("-a =VALUE")
    lines = [f"  {f'-a {argument}=VALUE':<{width}}  {description}" for argument, description in arguments]
    return "\n".join([f"{name}: {summary}", *lines])
