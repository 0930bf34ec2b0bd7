"""Spider arguments (`-a NAME=VALUE`): each declared once, with how it is parsed, what is accepted and what it means.

The declaration serves the parser, the one-line errors and `scrapy crawl --help`. Pure: the time is passed in.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

from parti_scraper.api.categories import parse_categories
from parti_scraper.api.routes import CATEGORIES_PAGE, FIRST_TS, SITE_URL
from parti_scraper.api.times import LENGTHS, TIMES, UnparsableError, first_second, last_second, length, timestamp_to_iso
from parti_scraper.exceptions import UsageError, did_you_mean, quoted
from parti_scraper.program import program
from parti_scraper.redact import is_typed_secret, redact_typed
from parti_scraper.run.parsers import Parser, choice, flag, folder_name, page_url, whole_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_LIMIT = 1000
DEFAULT_LIMIT = 100

# The value of `run_id` for the last unfinished run of the spider.
LAST = "last"


def _argument(parser: Parser, accepted: str, description: str, default: Any = None) -> Any:
    metadata = {"parser": parser, "accepted": accepted, "description": description}
    return field(default=default, metadata=metadata)


def without_run_id(raw: Mapping[str, str]) -> dict[str, str]:
    """Return the arguments without the run's name and without those that scrapyd adds."""
    return {name: text for name, text in raw.items() if not name.startswith("_") and name != "run_id"}


def check_words(
    words: Sequence[str], arguments: Sequence[str], settings: Sequence[str], flags: Mapping[str, bool]
) -> None:
    """Check the form of a command, and show what to type if it is wrong.

    Args:
        words: what is neither an option nor the name of a spider.
        arguments: what came after each `-a`.
        settings: what came after each `-s`.
        flags: the spider's arguments: whether they are true or false, by name.

    Raises:
        UsageError: an argument is not where it belongs, or has no value.
    """
    values = [word for word in words if not word.startswith("-") and word not in flags]

    def show(name: str, value: str) -> str:
        value = value or ("true" if flags.get(name) else next(iter(values), "VALUE"))
        value = "VALUE" if is_typed_secret(name) else redact_typed(value)
        return f"-{'s' if name.isupper() else 'a'} {name}={value}"

    for text in arguments:
        if "=" not in text:
            raise UsageError.of("argument", text, "without a value", text, show(text, ""))
    for text in settings:
        name, is_whole, value = text.partition("=")
        if is_whole and not name.isupper():
            accepted = show(name, value) if name in flags else "a name in capital letters"
            raise UsageError.of("setting", name, "not a setting", value, accepted)
    for word in words:
        name, is_whole, value = word.lstrip("-").partition("=")
        name = name if name.isupper() else name.replace("-", "_")
        if name in flags or (is_whole and not word.startswith("-")):
            hint = "" if name in flags else did_you_mean(name, flags)
            raise UsageError(f"not an option: {quoted(word)} (accepted: {show(name, value)}){hint}")
        if word.startswith("-"):
            hint = did_you_mean(name, flags)
            raise UsageError(f"unknown option: {quoted(word)} (accepted: see {program()} crawl --help){hint}")


def _categories_argument() -> Any:
    return _argument(
        parse_categories,
        "comma-separated ids, names or NaN, or `all` alone",
        "categories to collect, by id, name or NaN, comma-separated, sent in the order given; `all`: every "
        "category, each crawled on its own (default: no filter)",
        (),
    )


def _limit_argument() -> Any:
    return _argument(
        whole_number(1, MAX_LIMIT),
        f"1 to {MAX_LIMIT}",
        f"records to ask for a page, 1 to {MAX_LIMIT} (default: {DEFAULT_LIMIT})",
        DEFAULT_LIMIT,
    )


def _max_records_argument() -> Any:
    return _argument(whole_number(1), "1 or more", "stop after so many records (default: all)")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The arguments of every spider; each spider's own class adds to them."""

    run_id: str | None = _argument(
        folder_name,
        "letters, digits, `.`, `_` and `-`, at most 100",
        "name of the run's folder; the name of an unfinished run resumes it, with its own arguments; `last`: the last "
        "unfinished run (default: the start time and a suffix; under scrapyd the job's id)",
    )

    @classmethod
    def parse(cls, raw: Mapping[str, str], spider: str, now: float) -> Self:
        """Parse and check arguments as typed, except for those that scrapyd adds: `_job` and `_version`.

        Args:
            raw: values by name.
            spider: the spider's name, for the errors.
            now: Unix seconds, from which ages are counted.

        Raises:
            UsageError: a name is not known, a value cannot be parsed, or two contradict each other.
        """
        declared = {argument.name: argument for argument in fields(cls)}
        values = {}
        for name, text in raw.items():
            if name.startswith("_"):
                continue
            if name not in declared:
                problem = f"not known to the spider `{spider}`"
                hint = did_you_mean(name, declared)
                raise UsageError.of("argument", name, problem, text, ", ".join(sorted(declared)), hint=hint)
            metadata = declared[name].metadata
            try:
                values[name] = metadata["parser"](text, now)
            except UnparsableError as problem:
                accepted, hint = metadata["accepted"], problem.hint
                raise UsageError.of("argument", name, str(problem), text, accepted, hint=hint) from None
        arguments = cls(**values)
        arguments._check(raw, now)
        return arguments

    @classmethod
    def help(cls) -> list[tuple[str, str]]:
        # What every spider has comes last.
        shared = {argument.name for argument in fields(Arguments)}
        arguments = sorted(fields(cls), key=lambda argument: argument.name in shared)
        return [(argument.name, argument.metadata["description"]) for argument in arguments]

    @classmethod
    def flags(cls) -> dict[str, bool]:
        """Return by name whether an argument is true or false, and has no other values."""
        return {argument.name: isinstance(argument.default, bool) for argument in fields(cls)}

    def given(self) -> dict[str, Any]:
        """Return the values that differ from the defaults, as JSON takes them; without `run_id`."""
        return {
            argument.name: list(value) if isinstance(value, tuple) else value
            for argument in fields(self)
            if argument.name != "run_id"
            and (value := getattr(self, argument.name)) != argument.default
            and argument.default is not MISSING
        }

    @classmethod
    def check_same(cls, raw: Mapping[str, str], first: Mapping[str, str], run_id: str, spider: str, now: float) -> None:
        """Check that the arguments are those of the run that is resumed; any of them may be left out.

        Args:
            raw: values by name, as typed.
            first: those that the run was started with.
            run_id: the run's name.
            spider: the spider's name.
            now: when the run was started, in Unix seconds.

        Raises:
            UsageError: an argument differs.
        """
        was = cls.parse(first, spider, now)
        for name, text in without_run_id(raw).items():
            if getattr(cls.parse({**first, name: text}, spider, now), name) != getattr(was, name):
                accepted = f"{first[name]}, as at the start, or none" if name in first else "none, as at the start"
                raise UsageError.of("argument", name, f"not that of the run `{run_id}`", text, accepted)

    def _check(self, raw: Mapping[str, str], now: float) -> None:
        """Raise UsageError where arguments contradict each other."""


@dataclass(frozen=True, kw_only=True)
class CategoriesArguments(Arguments):
    """Arguments of the spider `categories`."""


@dataclass(frozen=True, kw_only=True)
class RecentArguments(Arguments):
    """Arguments of the spider `recent`. Times are Unix seconds; both bounds belong to the window."""

    categories: tuple[str, ...] = _categories_argument()
    since: int = _argument(
        first_second,
        TIMES,
        "only livestreams that ended at or after: a date or datetime (ISO 8601, UTC unless it says otherwise; a "
        "date alone is its midnight), Unix seconds, an age such as 90m, 24h, 7d, 2w, or today or yesterday "
        "(default: 2021-08-03)",
        FIRST_TS,
    )
    until: int | None = _argument(
        last_second,
        TIMES,
        "only livestreams that ended at or before, in the same forms, but a date alone includes that whole day "
        "(default: now)",
    )
    sort: str = _argument(
        choice("date", "views"),
        "date, views",
        "`date`: last ended first; `views`: the site's order by viewers (default: date)",
        "date",
    )
    limit: int = _limit_argument()
    max_records: int | None = _max_records_argument()
    user_id: int | None = _argument(whole_number(0), "a channel's number", "one channel's livestreams only")
    incremental: bool = _argument(
        flag,
        "true, false",
        "`true`: start where the last complete incremental run with the same filters ended, less the setting "
        "PARTI_INCREMENTAL_OVERLAP, and write only what is new or changed since; the first one takes all "
        "(default: false)",
        False,
    )

    def _check(self, raw: Mapping[str, str], now: float) -> None:
        until = math.floor(now) if self.until is None else self.until
        if self.since <= until:
            return
        # Of the two, name one that was typed.
        if "since" in raw:
            name, problem, accepted = "since", "later than `until`", f"at or before {timestamp_to_iso(until)}"
        else:
            name, problem, accepted = "until", "earlier than `since`", f"at or after {timestamp_to_iso(self.since)}"
        raise UsageError.of("argument", name, problem, raw.get(name, ""), accepted)


@dataclass(frozen=True, kw_only=True)
class LiveArguments(Arguments):
    """Arguments of the spider `live`. Lengths of time are seconds."""

    categories: tuple[str, ...] = _categories_argument()
    limit: int = _limit_argument()
    max_records: int | None = _max_records_argument()
    interval: float | None = _argument(
        length, LENGTHS, "a snapshot every so often: seconds, or 90s, 5m, 24h, 7d, 2w (default: one snapshot)"
    )
    duration: float | None = _argument(
        length, LENGTHS, "for how long to take snapshots, in the same forms (default: until stopped)"
    )

    def _check(self, raw: Mapping[str, str], _now: float) -> None:
        if self.duration is not None and self.interval is None:
            raise UsageError.of("argument", "duration", "needs `interval`", raw["duration"], "together with `interval`")


@dataclass(frozen=True, kw_only=True)
class NotificationsArguments(Arguments):
    """Arguments of the spider `notifications`. Lengths of time are seconds."""

    max_records: int | None = _max_records_argument()
    duration: float | None = _argument(
        length, LENGTHS, "for how long to listen: seconds, or 90s, 5m, 24h, 7d, 2w (default: until stopped)"
    )


@dataclass(frozen=True, kw_only=True)
class ScheduledArguments(Arguments):
    """Arguments of the spider `scheduled`."""


@dataclass(frozen=True, kw_only=True)
class SiteArguments(Arguments):
    """Arguments of the spider `site`."""

    url: str | None = _argument(
        page_url,
        f"such as {SITE_URL}{CATEGORIES_PAGE}",
        f"page to open (default: {CATEGORIES_PAGE} of the setting PARTI_SITE_URL)",
    )
