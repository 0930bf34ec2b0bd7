"""Lengths of time as they are typed, such as `90s`, `24h` or `2w`. Pure."""

from __future__ import annotations

import re

from parti_scraper.exceptions import UsageError

DAY = 86_400
UNITS = {"s": 1, "m": 60, "h": 3600, "d": DAY, "w": 7 * DAY}
LENGTHS = "seconds, or 90s, 5m, 24h, 7d, 2w"
_LENGTH = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhdw]?)", re.ASCII)


class UnparsableError(ValueError):
    """A value that a parser does not take; the text is what is wrong with it."""


def length(text: str, _now: float) -> float:
    """Return the seconds of a length of time. Raises UnparsableError."""
    match = _LENGTH.fullmatch(text)
    if not match:
        raise UnparsableError("not a length of time")
    seconds = float(match[1]) * UNITS[match[2] or "s"]
    if not seconds:
        raise UnparsableError("not longer than nothing")
    return seconds


def parse_length(setting: str, text: str) -> float:
    """Return the seconds of a setting that is a length of time. Raises UsageError."""
    try:
        return length(text, 0)
    except UnparsableError as problem:
        raise UsageError.of("setting", setting, str(problem), text, LENGTHS) from None
