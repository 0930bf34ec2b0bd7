"""What of the dataset goes to a target: which tables, and which rows of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from parti_scraper.api.categories import ALL, parse_categories
from parti_scraper.api.routes import NAN
from parti_scraper.api.times import TIMES, UnparsableError, first_second, last_second
from parti_scraper.dataset import sql
from parti_scraper.dataset.tables import dataset_tables
from parti_scraper.exceptions import UsageError, did_you_mean
from parti_scraper.run.parsers import whole_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from parti_scraper.dataset.tables import Table

_PARSERS = {
    "since": (first_second, TIMES),
    "until": (last_second, TIMES),
    "categories": (parse_categories, "comma-separated numbers and names of categories"),
    "user_id": (whole_number(0), "a channel's number"),
}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What was asked for, as it was typed, so that `7d` are the last seven days at each export.

    Attributes:
        tables: names of tables; None: those that the target has by default.
        since, until: only rows of this time, by the time of the table.
        categories: only rows of these categories.
        user_id: only rows of this channel.
    """

    tables: tuple[str, ...] | None = None
    since: str | None = None
    until: str | None = None
    categories: str | None = None
    user_id: str | None = None

    @classmethod
    def parse(cls, *, tables: Sequence[str] = (), now: float, **filters: str | None) -> Selection:
        """Check what was typed. Raises UsageError."""
        known = dataset_tables()
        for table in tables:
            if table not in known:
                hint = did_you_mean(table, known)
                raise UsageError.of("option", "--table", "no such table", table, ", ".join(sorted(known)), hint=hint)
        selection = cls(tables=tuple(sorted(set(tables))) or None, **filters)
        selection._parsed(now)
        return selection

    @property
    def has_filters(self) -> bool:
        """Whether rows are left out."""
        return any(getattr(self, name) is not None for name in _PARSERS)

    def as_json(self) -> dict[str, Any]:
        """Return what was asked for, as JSON takes it."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Selection:
        """Do the reverse of `as_json`."""
        known: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**known)

    def condition(self, table: Table, now: float) -> str:
        """Return the condition for the rows of a table, as SQL.

        As for the spiders, a time or a channel that is null leaves no row out.
        """
        values, conditions = self._parsed(now), []
        if table.time:
            for name, sign in (("since", ">="), ("until", "<=")):
                if name in values:
                    time = f"to_timestamp({values[name]})"
                    conditions.append(f"coalesce({sql.time_of(table)} {sign} {time}, true)")
        if "user_id" in values and "user_id" in table.names:
            conditions.append(f"coalesce(user_id = {values['user_id']}, true)")
        if "categories" in values and "category_id" in table.names:
            conditions.append(_of_categories(values["categories"], table))
        return " AND ".join(conditions) or "true"

    def _parsed(self, now: float) -> dict[str, Any]:
        """Return the values that were typed. Raises UsageError."""
        values = {}
        for name, (parser, accepted) in _PARSERS.items():
            text = getattr(self, name)
            if text is None:
                continue
            try:
                values[name] = parser(text, now)
            except UnparsableError as problem:
                option = f"--{name.replace('_', '-')}"
                raise UsageError.of("option", option, str(problem), text, accepted, hint=problem.hint) from None
        return values


def _of_categories(categories: Sequence[str], table: Table) -> str:
    """Return the condition for rows of categories: numbers, or names, whose case makes no difference."""
    if ALL in categories or NAN in categories:
        return "true"
    numbers = [str(int(each)) for each in categories if each.isascii() and each.isdigit()]
    # By the same function on both sides: others make something else of `Straße`.
    texts = [f"lower({sql.literal(each)})" for each in categories if not (each.isascii() and each.isdigit())]
    names = [each for each in ("category_name", "name", "display_name") if each in table.names]
    conditions = [f"category_id IN ({', '.join(numbers)})"] if numbers else []
    conditions += [f"lower({sql.name(each)}) IN ({', '.join(texts)})" for each in names if texts]
    return f"coalesce({' OR '.join(conditions) or 'false'}, false)"
