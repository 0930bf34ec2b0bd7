"""What a value of the API means: other types are accepted where the meaning is clear, and refused where it is not.

A reason never quotes a value: it goes to logs, and the value may be a secret or hostile.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

from parti_scraper.api.records import kind_of
from parti_scraper.exceptions import RecordError

# The range of a signed 64-bit number, which is all that databases take.
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1

_INTEGER = re.compile(r"\s*([+-]?[0-9]+)(?:\.0*)?\s*", re.ASCII)
# More digits than any valid number has, leading zeros included.
_MAX_DIGITS = 40
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


def read_text(value: Any) -> str:
    """Return a text; a number is converted to one. Raises RecordError."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    refuse("not a text", value)


def read_boolean(value: Any) -> bool:
    """Return true or false, in words or as 1 or 0. Raises RecordError."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in {0, 1}:
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in _TRUTHS:
        return _TRUTHS[value.strip().lower()]
    refuse("not true or false", value)


def read_integer(value: Any) -> int:
    """Return a whole number, also from a text, or from a fraction of zero such as 7.0. Raises RecordError."""
    if isinstance(value, str):
        match = _INTEGER.fullmatch(value)
        number = int(match[1]) if match and len(match[1]) <= _MAX_DIGITS else value
    else:
        number = int(value) if isinstance(value, float) and value.is_integer() else value
    if not isinstance(number, int) or isinstance(number, bool):
        refuse("not a whole number", value)
    if not MIN_INTEGER <= number <= MAX_INTEGER:
        raise RecordError("a number out of range")
    return number


def refuse(problem: str, value: Any) -> NoReturn:
    """Raise RecordError, which names the type of the value and does not quote it."""
    raise RecordError(f"{problem} but {kind_of(value)}")
