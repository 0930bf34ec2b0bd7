"""`scrapy version`: the version of the project before Scrapy's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scrapy.commands import version

import parti_scraper

if TYPE_CHECKING:
    import argparse


class Command(version.Command):
    """Scrapy's command, with a line for the project."""

    def short_desc(self) -> str:
        return "Print the version of the project, and Scrapy's"

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        print(f"parti_scraper {parti_scraper.__version__}")
        super().run(args, opts)
