"""Times and lengths of time in the API, in arguments and settings, and in files.

A time is in Unix seconds, in a file ISO 8601 in UTC, to the second. Pure: the current time is passed in.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from parti_scraper.api.values import refuse
from parti_scraper.exceptions import RecordError, UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = 86_400
UNITS = {"s": 1, "m": 60, "h": 3600, "d": DAY, "w": 7 * DAY}
# 9999-12-31T23:59:59Z; milliseconds, taken for seconds, are beyond it.
MAX_TS = 253_402_300_799

# What is accepted, for the errors.
LENGTHS = "seconds, or 90s, 5m, 24h, 7d, 2w"
TIMES = "2026-01-31, 2026-01-31T12:00Z, 1769860800, 7d, 2w, today, yesterday"

_LENGTH = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhdw]?)", re.ASCII)
_AGE = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
# What people write instead.
_IN_WORDS = re.compile(r"(\d{1,9}) ?(s|m|h|d|w|sec|second|min|minute|hr|hour|day|week)s?", re.ASCII | re.IGNORECASE)
# How many days before the current one each of these is.
_NAMED_DAYS = {"today": 0, "yesterday": 1}
# Of the API, with more digits than any time has, leading zeros included.
_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,40}(?:\.[0-9]*)?\s*", re.ASCII)


class UnparsableError(ValueError):
    """A value that a parser does not accept; the text is what is wrong with it.

    Attributes:
        hint: what may have been meant; see `did_you_mean`.
    """

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.hint = hint


# In files:


def timestamp_to_iso(ts: float) -> str:
    """Return Unix seconds as ISO 8601 in UTC, to the second."""
    return seconds_to_iso(math.floor(ts))


def seconds_to_iso(ts: int) -> str:
    """Return whole Unix seconds as `timestamp_to_iso` does, without its rounding, since records have many."""
    minute, second = divmod(ts, 60)
    day, minute = divmod(minute, _MINUTES_PER_DAY)
    return f"{_day_to_iso(day)}T{_MINUTES[minute]}:{_SECONDS[second]}Z"


_MINUTES_PER_DAY = 24 * 60
_MINUTES = [f"{minute // 60:02}:{minute % 60:02}" for minute in range(_MINUTES_PER_DAY)]
_SECONDS = [f"{second:02}" for second in range(60)]


# Formatting the date takes most of the time, and the livestreams of a page ended on the same few days.
@lru_cache(maxsize=1024)
def _day_to_iso(day: int) -> str:
    return datetime.fromtimestamp(day * DAY, UTC).strftime("%Y-%m-%d")


def iso_to_timestamp(text: str) -> int:
    """Return the Unix seconds that `timestamp_to_iso` made the text of."""
    return int(datetime.fromisoformat(text).timestamp())


# In the API:


def read_timestamp(value: Any) -> int:
    """Return a time in whole Unix seconds, from seconds, milliseconds or ISO 8601. Raises RecordError."""
    seconds = _read_seconds(value)
    if MAX_TS < seconds < (MAX_TS + 1) * 1000:
        seconds /= 1000
    if not 0 <= seconds < MAX_TS + 1:
        raise RecordError("not a time in Unix seconds")
    return math.floor(seconds)


def _read_seconds(value: Any) -> float:
    """Return a time as a number of seconds or milliseconds. Raises RecordError."""
    if isinstance(value, str):
        if _NUMBER.fullmatch(value):
            return float(value)
        try:
            return _in_utc(datetime.fromisoformat(value.strip().upper())).timestamp()
        except (ValueError, OverflowError):
            refuse("not a time", value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        refuse("not a time", value)
    return value


def _in_utc(moment: datetime) -> datetime:
    """Return a moment with its time zone: UTC unless it has one."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# In arguments and settings:


def parse_length(kind: str, name: str, text: str) -> float:
    """Return the seconds of a length of time that was typed; for the arguments see `parse_time`. Raises UsageError."""
    try:
        return length(text, 0)
    except UnparsableError as problem:
        raise UsageError.of(kind, name, str(problem), text, LENGTHS, hint=problem.hint) from None


def parse_time(kind: str, name: str, text: str | None, parser: Callable[[str, float], int], now: float) -> int | None:
    """Return a time that was typed, in Unix seconds; None if none was.

    Args:
        kind: `option` or `setting`.
        name: its name.
        text: as typed.
        parser: such as `first_second`.
        now: Unix seconds.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return None
    try:
        return parser(text, now)
    except UnparsableError as problem:
        raise UsageError.of(kind, name, str(problem), text, TIMES, hint=problem.hint) from None


def length(text: str, _now: float) -> float:
    """Return the seconds of a length of time. Raises UnparsableError."""
    match = _LENGTH.fullmatch(text)
    if not match:
        raise UnparsableError("not a length of time", _meant(text))
    seconds = float(match[1]) * UNITS[match[2] or "s"]
    if not seconds:
        raise UnparsableError("not more than 0 seconds")
    return seconds


def first_second(text: str, now: float) -> int:
    """Return the first second of a window from that time on, of a day its first one. Raises UnparsableError."""
    return math.ceil(_time(text, now))


def last_second(text: str, now: float) -> int:
    """Return the last second of a window up to that time, of a day its last one. Raises UnparsableError."""
    return math.floor(_time(text, now)) + (DAY - 1 if _is_day(text) else 0)


def _time(text: str, now: float) -> float:
    """Return Unix seconds, with a fraction where the text has one; of a day, its midnight (UTC)."""
    if text in _NAMED_DAYS:
        seconds = float(now // DAY - _NAMED_DAYS[text]) * DAY
    elif age := _AGE.fullmatch(text):
        seconds = math.floor(now) - float(int(age[1]) * UNITS[age[2]])
    elif re.fullmatch(r"\d{8}", text, re.ASCII):
        raise UnparsableError("a date or Unix seconds, it could be either")
    elif re.fullmatch(r"[1-9]\d{0,3}", text, re.ASCII):
        raise UnparsableError("days, a year or Unix seconds, it could be any", _meant_by_number(text))
    elif re.fullmatch(r"\d{1,12}", text, re.ASCII):
        seconds = float(text)
    else:
        seconds = _iso_8601(text)
    if not 0 <= seconds <= MAX_TS:
        raise UnparsableError("a time before 1970 or after 9999")
    return seconds


def _iso_8601(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UnparsableError("not a date or an age", _meant(text, *_NAMED_DAYS)) from None
    try:
        return _in_utc(moment).timestamp()
    except (OverflowError, ValueError):
        raise UnparsableError("a time before 1970 or after 9999") from None


def _meant(text: str, *words: str) -> str:
    """Return the hint for a time or length in another form, or for a word that is similar to one of these."""
    age = _IN_WORDS.fullmatch(text)
    meant = f"{age[1]}{age[2][0].lower()}" if age else ""
    return did_you_mean(meant, [meant]) if meant else did_you_mean(text, words)


def _meant_by_number(text: str) -> str:
    meant = f"{text}d" if len(text) < len("2026") else f"{text}-01-01"
    return did_you_mean(meant, [meant])


def _is_day(text: str) -> bool:
    try:
        return text in _NAMED_DAYS or bool(date.fromisoformat(text))
    except ValueError:
        return False
