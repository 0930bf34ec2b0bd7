"""`scrapy` outside of any project, where only `parti` knows this one: an entry point of the installed package.

In other projects of the environment everything works as usual; in this one, `commands` takes its place.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from scrapy.commands import crawl
from scrapy.utils.project import inside_project

from parti_scraper.exceptions import quoted
from parti_scraper.scrapy_internals import on_unknown_command_outside

if TYPE_CHECKING:
    import argparse


class Command(crawl.Command):
    """Scrapy's command, which says in one line what to type where there is no project."""

    def process_options(self, args: list[str], opts: argparse.Namespace) -> None:
        if not inside_project():
            _report("no scrapy.cfg here or in a folder above", " crawl")
            sys.exit(2)
        super().process_options(args, opts)


def _report(problem: str, command: str = "") -> None:
    accepted = f"`scrapy{command}` in the project's folder, or `parti{command}` in any"
    print(f"{problem} (accepted: {accepted})", file=sys.stderr)


# Scrapy imports this to list the commands, before it looks for the one that was typed.
on_unknown_command_outside(
    lambda name: _report(f"unknown command: {quoted(name)}, and no scrapy.cfg here or in a folder above")
)
