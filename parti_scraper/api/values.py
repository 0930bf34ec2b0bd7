"""What a value of the API means: read generously where there is one meaning, refused where there is none or several.

A reason never quotes a value: it goes to logs, and the value may be a secret or hostile.

Pure: no Scrapy, no network, no clock.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from math import floor
from typing import Any, NoReturn

from parti_scraper.api.records import kind_of
from parti_scraper.exceptions import RecordError

# What a signed 64-bit number holds; a database or a spreadsheet takes no more.
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
# 9999-12-31T23:59:59Z; milliseconds, taken for seconds, are beyond it.
MAX_TS = 253_402_300_799

_INTEGER = re.compile(r"\s*([+-]?[0-9]+)(?:\.0*)?\s*", re.ASCII)
# More digits than any number has that is read, leading zeros included.
_MAX_DIGITS = 40
_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,40}(?:\.[0-9]*)?\s*", re.ASCII)
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


def read_text(value: Any) -> str:
    """Return a text; a number is taken for the text of it. Raises RecordError."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    _refuse("not a text", value)


def read_boolean(value: Any) -> bool:
    """Return true or false, in words or as 1 or 0. Raises RecordError."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in {0, 1}:
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in _TRUTHS:
        return _TRUTHS[value.strip().lower()]
    _refuse("not true or false", value)


def read_integer(value: Any) -> int:
    """Return a whole number, of digits or with nothing behind its point too. Raises RecordError."""
    if isinstance(value, str):
        match = _INTEGER.fullmatch(value)
        number = int(match[1]) if match and len(match[1]) <= _MAX_DIGITS else value
    else:
        number = int(value) if isinstance(value, float) and value.is_integer() else value
    if not isinstance(number, int) or isinstance(number, bool):
        _refuse("not a whole number", value)
    if not MIN_INTEGER <= number <= MAX_INTEGER:
        raise RecordError("a number out of range")
    return number


def read_timestamp(value: Any) -> int:
    """Return a time in whole Unix seconds, from seconds, milliseconds or ISO 8601. Raises RecordError."""
    seconds = _seconds(value)
    if MAX_TS < seconds < (MAX_TS + 1) * 1000:
        seconds /= 1000
    if not 0 <= seconds < MAX_TS + 1:
        raise RecordError("not a time in Unix seconds")
    return floor(seconds)


def _seconds(value: Any) -> float:
    """Return what a time is as a number. Raises RecordError."""
    if isinstance(value, str):
        if _NUMBER.fullmatch(value):
            return float(value)
        try:
            moment = datetime.fromisoformat(value.strip().upper())
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            _refuse("not a time", value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        _refuse("not a time", value)
    return value


def _refuse(problem: str, value: Any) -> NoReturn:
    raise RecordError(f"{problem} but {kind_of(value)}")
