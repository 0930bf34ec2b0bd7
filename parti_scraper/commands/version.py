"""`scrapy version`: the version of the project before Scrapy's."""

from __future__ import annotations

import argparse

from scrapy.commands import version

import parti_scraper


class Command(version.Command):
    """Scrapy's command, with a line for the project."""

    def short_desc(self) -> str:
        return "Print the version of the project, and Scrapy's"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        # As the help of the project's other commands.
        parser.formatter_class = argparse.HelpFormatter

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        print(f"parti_scraper {parti_scraper.__version__}")
        super().run(args, opts)
