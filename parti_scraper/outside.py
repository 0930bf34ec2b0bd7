"""`scrapy crawl` outside of any project: an entry point of the installed package.

In other projects of the environment the command works as usual; in this one, `commands.crawl` takes its place.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from scrapy.commands import crawl
from scrapy.utils.project import inside_project

if TYPE_CHECKING:
    import argparse


class Command(crawl.Command):
    """Scrapy's command, which says in one line what to type where there is no project."""

    def process_options(self, args: list[str], opts: argparse.Namespace) -> None:
        if not inside_project():
            accepted = "`scrapy crawl` in the project's folder, or `parti crawl` in any"
            print(f"no scrapy.cfg here or in a folder above (accepted: {accepted})", file=sys.stderr)
            sys.exit(2)
        super().process_options(args, opts)
