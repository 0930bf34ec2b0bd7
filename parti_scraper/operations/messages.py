"""The texts of alerts and pings: plain, whatever a service makes of marks, and without anything that calls people.

Pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.operations.alerts import Kind, Message
from parti_scraper.program import program
from parti_scraper.run.summary import printable
from parti_scraper.wording import length_of, number_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from parti_scraper.operations.alerts import Trouble
    from parti_scraper.operations.findings import Finding

# Some services take 2,000 characters, and split what is longer.
_MOST_LINES = 12
_LONGEST_LINE = 300

# What calls people (`@everyone`, `<!channel>`), and what becomes a link of another text, as signs that look alike.
_CALLS = str.maketrans({"@": "\uff20", "<": "\u2039", ">": "\u203a"})
# A name of a host: services make links of those too. A file in a folder is none.
_HOST = re.compile(r"(?<![\w.-])(?<![^/]/)(?<!^/)((?:[\w-]+\.)*[\w-]+)\.(?=[a-z]{2,}(?![\w-]))", re.IGNORECASE)


def text_of(message: Message, host: str) -> tuple[str, str]:
    """Return the title and the text of a message, from a host of this name."""
    listed = [*message.new, *message.still]
    match message.kind:
        case Kind.ALL_CLEAR:
            what, lines = "all is well again", _cut([_was(each, message.at) for each in message.over])
        case Kind.REMINDER:
            what, lines = f"still {number_of(len(listed), 'problems')}", _cut(map(_line, listed))
        case Kind.WORSE:
            what, lines = number_of(len(listed), "problems"), _cut(map(_line, message.new))
            if message.still:
                lines += ["", "Still wrong:", *_cut(map(_line, message.still))]
    return plain(f"parti_scraper on {host}: {what}"), "\n".join(lines)


def plain(text: str) -> str:
    """Return a text as a line without links and without what calls people."""
    return _without_calls(_HOST.sub(r"\1[.]", text.replace("://", "[:]//").replace("](", "] (")))


def _without_calls(text: str) -> str:
    return printable(text).translate(_CALLS)


def _line(finding: Finding) -> str:
    """Return the line of a finding; its command is to be typed, so it keeps its dots."""
    about = "" if finding.subject in finding.text else f"{finding.subject}: "
    line = plain(f"{about}{finding.text}")[:_LONGEST_LINE] + f" (since {_shown(finding.since)})"
    return f"- {line}" + (f": {_without_calls(finding.command)}" if finding.command else "")


def _was(trouble: Trouble, now: float) -> str:
    gone = now if trouble.gone is None else trouble.gone
    about = "" if trouble.subject in trouble.text else f"{trouble.subject}: "
    line = plain(f"{about}{trouble.text}")[:_LONGEST_LINE]
    return f"- over: {line} (for {length_of(int(max(gone - trouble.since, 0)))}, since {_shown(trouble.since)})"


def _shown(moment: float) -> str:
    return f"{timestamp_to_iso(moment)[:16].replace('T', ' ')} UTC"


def _cut(lines: Iterable[str]) -> list[str]:
    every = list(lines)
    more = len(every) - _MOST_LINES
    return every[:_MOST_LINES] + ([f"- and {more} more: {program()} health lists them"] if more > 0 else [])
