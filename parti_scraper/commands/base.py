"""What the commands share that read what there is: options by argparse alone, errors in one line, and exit codes."""

from __future__ import annotations

import argparse
import codecs
import io
import json
import sys
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from parti_scraper.commands import refuse_options, report_in_one_line, say
from parti_scraper.dataset.engine import ExtraMissing, TargetError
from parti_scraper.exceptions import LedgerError, UsageError, quoted
from parti_scraper.program import discard_output, program
from parti_scraper.run.outcome import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scrapy.commands import ScrapyCommand as _Base
    from scrapy.settings import Settings
else:
    # Scrapy takes every class of this package that derives from its own for a command, named like the module.
    _Base = object


# The name of what is done with characters that the output cannot have.
_ESCAPE = "parti_escape"


class Reading(_Base):
    """A command that starts no crawl; to be derived from together with Scrapy's class.

    Attributes:
        name: as typed.
        stopped: what is said after Ctrl-C.
        most_arguments: how many words beside options it takes; None: any number.
    """

    requires_project = True
    requires_crawler_process = False
    default_settings: ClassVar[dict[str, Any]] = {"LOG_ENABLED": False}
    name: ClassVar[str]
    stopped: ClassVar[str] = "stopped"
    most_arguments: ClassVar[int | None] = 0

    # Set by Scrapy before anything here is called.
    settings: Settings

    @abstractmethod
    def options(self, group: argparse._ArgumentGroup) -> None:
        """Add the command's own options."""

    @abstractmethod
    def execute(self, args: Sequence[str], opts: argparse.Namespace) -> int:
        """Do what the command does, and return the exit code.

        Raises:
            UsageError: what was typed is wrong: code 2.
            LedgerError, TargetError, ExtraMissing: it cannot be done: code 1.
        """

    def syntax(self) -> str:
        return "[options]"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        # Scrapy's own underlines a line of help that ends with a colon, as a heading.
        parser.formatter_class = argparse.HelpFormatter
        parser.allow_abbrev = False
        report_in_one_line(parser, self.name)
        self._group = parser.add_argument_group(title=self.name.capitalize())
        self.options(self._group)

    def run(self, args: list[str], opts: argparse.Namespace) -> None:
        """Execute the command; sets the exit code."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors=_ESCAPE)
        try:
            self._check(args)
            self.exitcode = self.execute(args, opts)
            sys.stdout.flush()
        except UsageError as error:
            self.exitcode = say(self.name, str(error), ExitCode.USAGE)
        except (TargetError, ExtraMissing, LedgerError) as error:
            self.exitcode = say(self.name, str(error), ExitCode.NOT_STARTED)
        except KeyboardInterrupt:
            self.exitcode = say(self.name, self.stopped, ExitCode.STOPPED)
        except BrokenPipeError:
            discard_output()

    def _check(self, args: Sequence[str]) -> None:
        """Raise UsageError if there are too many words, or options that are not known."""
        refuse_options(args, self._group)
        if self.most_arguments is not None and len(args) > self.most_arguments:
            unknown = quoted(args[self.most_arguments])
            raise UsageError(f"unknown argument: {unknown} (accepted: see {program()} {self.name} --help)")


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Return what JSON has in place of characters that the encoding of the output lacks, so that it stays JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(_ESCAPE, _escape)
