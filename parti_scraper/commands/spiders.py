"""`scrapy spiders`: what each spider collects, and its arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scrapy.commands import ScrapyCommand
from scrapy.spiderloader import get_spider_loader

from parti_scraper.commands.base import Reading
from parti_scraper.run.outcome import ExitCode
from parti_scraper.spiders.base import PartiSpider

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from scrapy import Spider


class Command(Reading, ScrapyCommand):
    """Describes the spiders; `scrapy list` has their names alone."""

    name = "spiders"

    def short_desc(self) -> str:
        return "Describe the spiders and their arguments"

    def options(self, group: argparse._ArgumentGroup) -> None:
        """Add none."""

    def execute(self, args: Sequence[str], opts: argparse.Namespace) -> int:
        loader = get_spider_loader(self.settings)
        print("\n\n".join(_describe(name, loader.load(name)) for name in sorted(loader.list())))
        return ExitCode.COMPLETE


def _describe(name: str, spider: type[Spider]) -> str:
    """Return a spider's name and what it collects, and a line for each of its arguments."""
    summary = (spider.__doc__ or "").strip().partition("\n")[0]
    arguments = spider.arguments_class.help() if issubclass(spider, PartiSpider) else []
    width = max((len(argument) for argument, _ in arguments), default=0) + len("-a =VALUE")
    lines = [f"  {f'-a {argument}=VALUE':<{width}}  {description}" for argument, description in arguments]
    return "\n".join([f"{name}: {summary}", *lines])
