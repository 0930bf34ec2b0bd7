"""What the report looks at: the views that its figures are made from, and the answers of its queries.

The views are temporary, so they need no right to write. Times are Unix seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from parti_scraper.dataset import sql
from parti_scraper.dataset.tables import dataset_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duckdb import DuckDBPyConnection

# So many categories have a colour of their own.
CATEGORIES = 8
OTHERS, NONE = "All others", "No category"
# A text of a stranger may be as long as he likes.
LONGEST = 200
# The units that bars are drawn in: the first that gives no more bars than that is taken.
MOST_BARS = 750
UNITS = {
    "day": "epoch(began)::BIGINT // 86400 * 86400",
    # From Monday on: day 0 of Unix time was a Thursday.
    "week": "(epoch(began)::BIGINT - 345600) // 604800 * 604800 + 345600",
    "month": "epoch(date_trunc('month', began))::BIGINT",
    "year": "epoch(date_trunc('year', began))::BIGINT",
}


class Period(NamedTuple):
    """What is looked at: its first and last second; None: as far as there are data."""

    since: int | None = None
    until: int | None = None

    def condition(self, time: str) -> str:
        """Return the condition for a time within the period, as SQL; a time that is not known is in it."""
        bounds = [(self.since, ">="), (self.until, "<=")]
        parts = [f"coalesce(epoch({time}) {sign} {bound}, true)" for bound, sign in bounds if bound is not None]
        return " AND ".join(parts) or "true"


EVERYTHING = Period()


class Rows(NamedTuple):
    """The answer of a query; a value is text, a number, a truth value or None."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    @property
    def as_dicts(self) -> list[dict[str, Any]]:
        """The rows with the names of the columns."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def ask(connection: DuckDBPyConnection, query: str, values: Sequence[Any] = ()) -> Rows:
    """Return the answer of a query."""
    answer = connection.execute(query, list(values))
    return Rows(tuple(column[0] for column in answer.description or ()), answer.fetchall())


def ask_one(connection: DuckDBPyConnection, query: str) -> dict[str, Any]:
    """Return the only row of an answer."""
    return ask(connection, query).as_dicts[0]


def prepare(connection: DuckDBPyConnection, period: Period) -> None:
    """Make the views of what is looked at.

    `report_streams` has the livestreams that have begun, with the time `began`, and `label`, the name of their category
    in the charts, by `report_categories`; `report_snapshots` has the snapshots, and `report_runs` each run once, or
    its days if only these are known.
    """
    begun = "coalesce(streams.started_at, streams.first_observed_at, heard.received_at, streams.ended_at)"
    statements = [
        f"""TEMP VIEW report_begun AS
        SELECT streams.*, {begun} AS began, coalesce(duration_seconds, observed_seconds, 0) / 3600.0 AS stream_hours
        FROM streams LEFT JOIN live_notifications heard USING (event_id)
        WHERE {begun} IS NOT NULL AND {period.condition(begun)}""",
        # A table, so that it is not worked out again for each figure.
        f"""TEMP TABLE report_categories AS
        SELECT coalesce(category_name, '') AS name, CASE name WHEN '' THEN '{NONE}' ELSE name[:{LONGEST}] END AS label
        FROM report_begun GROUP BY ALL ORDER BY count(*) DESC, name LIMIT {CATEGORIES}""",
        f"""TEMP VIEW report_streams AS
        SELECT begun.*, coalesce(labels.label, '{OTHERS}') AS label FROM report_begun begun
        LEFT JOIN report_categories labels ON labels.name = coalesce(begun.category_name, '')""",
        f"""TEMP VIEW report_snapshots AS
        SELECT *, started_at AS began FROM snapshots WHERE {period.condition("started_at")}""",
        f"""TEMP VIEW report_runs AS
        SELECT *, started_at AS began FROM runs WHERE {period.condition("started_at")}
        QUALIFY day = '' OR count(*) FILTER (day = '') OVER (PARTITION BY run_uuid) = 0""",
    ]
    _complete(connection)
    for statement in statements:
        connection.execute(f"CREATE OR REPLACE {statement}")


def _complete(connection: DuckDBPyConnection) -> None:
    """Make an empty view of each table that the dataset does not have: an export may have been told to leave it out."""
    known = {row[0] for row in ask(connection, "SELECT table_name FROM information_schema.tables").rows}
    for table in dataset_tables().values():
        if table.name not in known:
            columns = ", ".join(f"NULL::{each.type} AS {sql.name(each.name)}" for each in table.columns)
            connection.execute(f"CREATE TEMP VIEW {sql.name(table.name)} AS SELECT {columns} WHERE false")


def unit_of(connection: DuckDBPyConnection, relation: str) -> str:
    """Return the unit that the rows of a relation are counted in, by their time `began`."""
    counts = ", ".join(f"count(DISTINCT {bucket}) AS {unit}" for unit, bucket in UNITS.items())
    found = ask_one(connection, f"SELECT {counts} FROM {relation}")
    return next((unit for unit, count in found.items() if count <= MOST_BARS), "year")
