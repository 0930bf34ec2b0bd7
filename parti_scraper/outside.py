"""`scrapy crawl` outside of any project: where the package is installed, Scrapy finds this by its entry point.

It does so in every project of that environment, where the command stays what it is. In this project, that of
`commands.crawl` takes its place.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from scrapy.commands import crawl
from scrapy.utils.project import inside_project

if TYPE_CHECKING:
    import argparse


class Command(crawl.Command):
    """Scrapy's command; where there is no project, it says in one line what to type."""

    def process_options(self, args: list[str], opts: argparse.Namespace) -> None:
        """Refuse where there is no project."""
        if not inside_project():
            accepted = "`scrapy crawl` in the project's folder, or `parti crawl` in any"
            print(f"no scrapy.cfg here or in a folder above (accepted: {accepted})", file=sys.stderr)
            sys.exit(2)
        super().process_options(args, opts)
