"""The schedule of periodic jobs: the TOML file that PARTI_SCHEDULE names; deploy/schedule.toml is an example."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parti_scraper.dataset.engine import require
from parti_scraper.exceptions import UsageError, did_you_mean, quoted
from parti_scraper.run.summary import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_NAME = re.compile(r"[a-z0-9_-]{1,64}", re.ASCII)
# croniter draws such a field at random: it would be another time in each process.
_RANDOM = re.compile(r"\b[hr]\b", re.IGNORECASE)
# The keys of a job: the type of the value, and what is said of another one.
_TYPES = {
    "name": (str, "not a text", 'such as "recent"'),
    "spider": (str, "not a text", 'such as "recent"'),
    "cron": (str, "not a text", 'such as "7 * * * *"'),
    "arguments": (dict, "not a table", 'such as { interval = "5m" }'),
    "missing": (bool, "neither true nor false", "true, false"),
}
_REQUIRED = ("spider", "cron")
# What every reader of TOML accepts; Python's accepts more.
_WHOLE_NUMBERS = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A periodic job.

    Attributes:
        name: its own, which no other job of the schedule has.
        spider: the name of the spider.
        cron: when it is begun: minute, hour, day, month and weekday, in UTC.
        arguments: the spider's, as typed.
        missing: whether it crawls what the shared coverage lacks, in place of arguments.
    """

    name: str
    spider: str
    cron: str
    arguments: dict[str, str]
    missing: bool


def read_schedule(path: Path, check: Callable[[str, Mapping[str, str]], None]) -> list[Scheduled]:
    """Return the jobs of a schedule, in the order of the file.

    Args:
        path: the TOML file.
        check: raises UsageError if there is no such spider, or its arguments are wrong.

    Raises:
        UsageError: the file cannot be read, or something in it is wrong; one line with file, job and key.
        ExtraMissing: a package is not installed.
    """
    shown = printable(str(path))
    jobs: dict[str, Scheduled] = {}
    for number, table in enumerate(_tables(path, shown), 1):
        named = table.get("name", table.get("spider"))
        label = f"`{named}`" if isinstance(named, str) and _NAME.fullmatch(named) else str(number)
        try:
            job = _job(table)
            if job.name in jobs:
                raise UsageError.of("key", "name", "of an earlier job too", job.name, "a name for each job")
            check(job.spider, job.arguments)
        except UsageError as error:
            # The names of arguments are the user's.
            raise UsageError(f"{shown}: job {label}: {printable(str(error))}") from None
        jobs[job.name] = job
    return list(jobs.values())


def _tables(path: Path, shown: str) -> list[dict[str, Any]]:
    """Return the tables of the jobs. Raises UsageError."""
    try:
        # Some editors put a mark before UTF-8.
        known = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{shown}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{shown}: not UTF-8 (accepted: a TOML file in UTF-8)") from None
    except RecursionError:
        raise UsageError(f"{shown}: nested too deep (accepted: [[job]] tables)") from None
    except ValueError as error:
        raise UsageError(f"{shown}: not TOML: {printable(str(error))}") from None
    for key in known:
        if key != "job":
            hint = did_you_mean(key, ["job"])
            raise UsageError(f"{shown}: unknown key: {quoted(key)} (accepted: [[job]] tables){hint}")
    jobs = known.get("job", [])
    if not isinstance(jobs, list) or not all(isinstance(each, dict) for each in jobs):
        raise UsageError(f"{shown}: key `job`: not a list of tables (accepted: [[job]] before the keys of each job)")
    return jobs


def _job(table: Mapping[str, Any]) -> Scheduled:
    """Return a job without knowing the spiders. Raises UsageError."""
    for key, value in table.items():
        if key not in _TYPES:
            hint = did_you_mean(key, _TYPES)
            raise UsageError(f"unknown key: {quoted(key)} (accepted: {', '.join(_TYPES)}){hint}")
        type_, problem, accepted = _TYPES[key]
        if not isinstance(value, type_):
            raise UsageError.of("key", key, problem, _shown(value), accepted)
    for key in _REQUIRED:
        if key not in table:
            raise UsageError(f"key `{key}` is missing (accepted: {_TYPES[key][2]})")
    spider, missing = table["spider"], table.get("missing", False)
    name = table.get("name", spider)
    if not _NAME.fullmatch(name):
        raise UsageError.of("key", "name", "not a name", name, "1 to 64 of a-z, 0-9, _ and -")
    _check_cron(table["cron"])
    arguments = {key: _typed(key, value) for key, value in table.get("arguments", {}).items()}
    if missing and spider != "recent":
        raise UsageError.of("key", "missing", "not known to the spider", spider, "only the spider `recent`")
    if missing and arguments:
        names = ", ".join(arguments)
        raise UsageError.of("key", "missing", "together with arguments", names, "one of both")
    return Scheduled(name, spider, table["cron"], arguments, missing)


def _check_cron(cron: str) -> None:
    accepted = "minute hour day month weekday, in UTC, such as `7 * * * *`"
    if len(cron.split()) != 5:
        raise UsageError.of("key", "cron", "not five fields", cron, accepted)
    croniter: Any = require("croniter", "jobs").croniter
    try:
        # From any moment on: that there is no February 31 shows only where the next one is looked for.
        croniter(cron, 0).get_next(float)
        is_known = not _RANDOM.search(cron)
    except ValueError:
        is_known = False
    if not is_known:
        raise UsageError.of("key", "cron", "not a time", cron, accepted)


def _typed(name: str, value: object) -> str:
    """Return an argument's value as it would be typed in a command. Raises UsageError."""
    # `true` is a number to Python.
    if not isinstance(value, str) and not (isinstance(value, int) and value in _WHOLE_NUMBERS):
        accepted = "a text, a whole number, true, false"
        raise UsageError.of("argument", name, "of a wrong type", _shown(value), accepted)
    text = _shown(value)
    if "\0" in text:
        raise UsageError.of("argument", name, "with a NUL", text, "a text without")
    return text


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict):
        return "[…]" if isinstance(value, list) else "{…}"
    # Python does not make a text of a whole number of thousands of digits.
    return hex(value) if isinstance(value, int) and value not in _WHOLE_NUMBERS else str(value)
