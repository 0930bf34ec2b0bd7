"""The commands that are typed after `scrapy` or `parti`; any other word there is answered here, in one line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

from scrapy.spiderloader import get_spider_loader

from parti_scraper.exceptions import UsageError, did_you_mean, quoted
from parti_scraper.program import program
from parti_scraper.scrapy_internals import commands, on_unknown_command

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from scrapy.settings import BaseSettings


def report_unknown(settings: BaseSettings, cmdname: str, inproject: bool) -> None:
    """Print what could have been typed; Scrapy then ends with code 2."""
    known = commands(settings, inproject)
    crawls = [f"{program()} crawl {spider}" for spider in get_spider_loader(settings).list()]
    typed = f"{program()} crawl {cmdname}"
    # The name of a spider comes first, as the likeliest mistake; a name that is only similar, after similar commands.
    hint = did_you_mean(typed, crawls, 1.0) or did_you_mean(cmdname, known) or did_you_mean(typed, crawls, 0.9)
    print(f"unknown command: {quoted(cmdname)} (accepted: {', '.join(sorted(known))}){hint}", file=sys.stderr)


def report_in_one_line(parser: argparse.ArgumentParser, command: str) -> None:
    """Have a parser print its errors in one line; the usual ones have the usage before them."""

    def refuse(message: str) -> NoReturn:
        sys.exit(say(command, message, 2))

    parser.error = refuse  # type: ignore[method-assign]


def refuse_options(args: Sequence[str], group: argparse._ArgumentGroup) -> None:
    """Raise UsageError if one of the arguments is an option, since Scrapy passes on those that it does not know."""
    known = [option for action in group._group_actions for option in action.option_strings]  # noqa: SLF001 - no other way
    for text in args:
        if text.startswith("-"):
            name = text.partition("=")[0]
            problem = f"unknown option: {quoted(text)} (accepted: {', '.join(known) or 'no options'})"
            raise UsageError(problem + did_you_mean(name, known))


def say(command: str, text: str, code: int) -> int:
    """Print why a command ends, and return its exit code."""
    print(f"{program()} {command}: {text}", file=sys.stderr)
    return code


# Scrapy imports this package to list the commands, before it looks for the one that was typed.
on_unknown_command(report_unknown)
