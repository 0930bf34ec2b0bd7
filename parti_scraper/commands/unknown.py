"""What is said where the word after `scrapy` or `parti` is no command: one line, as of everything that is typed wrong.

Scrapy has no place for it, so its function is replaced when it imports the project's commands. Where a later Scrapy has
no such function, it says what it says by itself.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from scrapy import cmdline
from scrapy.spiderloader import get_spider_loader

from parti_scraper.exceptions import did_you_mean
from parti_scraper.program import program

if TYPE_CHECKING:
    from scrapy.settings import BaseSettings


def print_unknown_command(settings: BaseSettings, cmdname: str, inproject: bool) -> None:
    """Say what could have been typed; Scrapy ends with code 2 then."""
    commands = cmdline._get_commands_dict(settings, inproject)  # noqa: SLF001 - it is asked for nowhere else
    crawls = [f"{program()} crawl {each}" for each in get_spider_loader(settings).list()]
    typed = f"{program()} crawl {cmdname}"
    # A spider first, as it is the likeliest; one that is only alike comes after commands that are.
    hint = did_you_mean(typed, crawls, 1.0) or did_you_mean(cmdname, commands) or did_you_mean(typed, crawls, 0.9)
    print(f"unknown command: {cmdname!r} (accepted: {', '.join(sorted(commands))}){hint}", file=sys.stderr)


cmdline._print_unknown_command = print_unknown_command  # noqa: SLF001 - see above
