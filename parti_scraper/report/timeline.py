"""Coverage as a time line: what is proved of each series, and its gaps. Times are Unix seconds."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parti_scraper.dataset.coverage import (
    LIVESTREAMS,
    Bounds,
    Coverage,
    Interval,
    Series,
    coverage_of,
    listened,
    union,
)
from parti_scraper.items import LiveNotification
from parti_scraper.report.period import Period, ask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duckdb import DuckDBPyConnection

# Of a series, the longest gaps are drawn, and so many series.
_MOST_GAPS = 400
_MOST_SERIES = 12


@dataclass(frozen=True, slots=True)
class Line:
    """The coverage of a series.

    Attributes:
        coverage: what is proved of it, and all its gaps.
        drawn: the longest of its gaps, sorted by time.
    """

    coverage: Coverage
    drawn: Sequence[Interval]

    @property
    def label(self) -> str:
        """What it is called in the report."""
        series = self.coverage.series
        return series.collection + "".join(f", {name}={value}" for name, value in series.filters.items())

    @property
    def share(self) -> float:
        """Which share of the time is proved, from its first moment to its last."""
        proved, missing = (sum(each.seconds for each in part) for part in (self.coverage.intervals, self.coverage.gaps))
        return proved / (proved + missing) if proved else 0.0


def lines(connection: DuckDBPyConnection, period: Period, now: int) -> list[Line]:
    """Return the coverage of each series, livestreams first; without filters before those with filters."""
    found = _intervals(connection)
    bounds = Bounds(period.since, period.until, now)
    covered = []
    for series in sorted(found, key=lambda each: (bool(each.filters), each != LIVESTREAMS, each))[:_MOST_SERIES]:
        unfiltered = found.get(Series(series.collection), []) if series.filters else []
        if coverage := coverage_of(series, found[series], bounds, unfiltered):
            longest = sorted(coverage.gaps, key=lambda each: (-each.seconds, each))[:_MOST_GAPS]
            covered.append(Line(coverage, sorted(longest)))
    return covered


def _intervals(connection: DuckDBPyConnection) -> dict[Series, list[Interval]]:
    """Return what is proved of each series, sorted and joined."""
    rows = ask(
        connection,
        """SELECT collection, coalesce(filters, '{}') AS filters, epoch(since)::BIGINT AS since,
            epoch("until")::BIGINT AS "until"
        FROM coverage WHERE since <= "until" """,
    ).rows
    by_series: defaultdict[Series, list[Interval]] = defaultdict(list)
    for collection, filters, since, until in rows:
        by_series[Series.of(collection, json.loads(filters))].append(Interval(since, until))
    joins = {LiveNotification.collection: listened}
    return {series: joins.get(series.collection, union)(each) for series, each in by_series.items()}
