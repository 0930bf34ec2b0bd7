"""The figures of the collection: runs and how they ended, requests, what was set aside, fields, deletions.

Times are Unix seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from parti_scraper.report.period import LONGEST, UNITS, Period, Rows, ask, unit_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_MOST_ROWS = 50
# In the order in which they are drawn.
OUTCOMES = ("complete", "degraded", "not complete", "failed", "killed, closed later", "not over")
_OUTCOME = """CASE
    WHEN status = 'unfinished' THEN 'not over' WHEN status = 'sealed' THEN 'killed, closed later'
    WHEN coalesce(exit_code, 0) NOT IN (0, 3, 4) THEN 'failed'
    WHEN coalesce(degraded, '[]') NOT IN ('[]', 'null') THEN 'degraded'
    WHEN complete THEN 'complete' ELSE 'not complete' END"""
_SUMS = ", ".join(
    f"coalesce(sum({name}), 0)::BIGINT AS {name}"
    for name in ("pages", "served", "written", "quarantined", "retries", "rate_limited")
)


def runs_by_outcome(connection: DuckDBPyConnection) -> tuple[str, Rows]:
    """Return runs by time, spider and how they ended, and the unit of the time.

    Columns: `moment`, `spider`, `outcome`, `runs`, and sums.
    """
    unit = unit_of(connection, "report_runs")
    query = f"""SELECT {UNITS[unit]} AS bucket, spider, {_OUTCOME} AS outcome, count(DISTINCT run_uuid) AS runs, {_SUMS}
        FROM report_runs WHERE began IS NOT NULL GROUP BY ALL"""
    newest = "ORDER BY moment DESC, spider, outcome LIMIT 10000"
    return unit, ask(connection, f"SELECT bucket AS moment, * EXCLUDE (bucket) FROM ({query}) {newest}")


def spiders(connection: DuckDBPyConnection) -> Rows:
    """Return what all runs of each spider have cost and given, and how the last one ended.

    Columns: `spider`, `runs`, `whole` (complete ones), sums, `last_at`, `outcome`, `reason`.
    """
    return ask(
        connection,
        f"""SELECT spider[:{LONGEST}] AS spider, count(DISTINCT run_uuid) AS runs,
            count(DISTINCT run_uuid) FILTER ({_OUTCOME} = 'complete') AS whole, {_SUMS},
            epoch(max(began))::BIGINT AS last_at, max_by({_OUTCOME}, (began, run_uuid, day)) AS outcome,
            max_by(coalesce(reason, ''), (began, run_uuid, day))[:{LONGEST}] AS reason
        FROM report_runs GROUP BY ALL ORDER BY ALL LIMIT {_MOST_ROWS}""",
    )


def odd_fields(connection: DuckDBPyConnection) -> Rows:
    """Return the fields that no column takes or that could not be read.

    Columns: `field`, `problem`, `records`, `runs`, `last_at`.
    """
    parts = [
        f"""SELECT unnest(json_keys({column})) AS key, {column}::JSON AS counts, '{problem}' AS problem, run_uuid, began
        FROM report_runs WHERE json_valid({column}) AND json_type({column}) = 'OBJECT'"""
        for column, problem in (("unknown_fields", "unknown"), ("unreadable_fields", "unreadable"))
    ]
    pointer = "'/' || replace(replace(key, '~', '~0'), '/', '~1')"
    return ask(
        connection,
        f"""SELECT key[:{LONGEST}] AS field, problem,
            sum(TRY_CAST(json_extract_string(counts, {pointer}) AS BIGINT))::BIGINT AS records,
            count(DISTINCT run_uuid) AS runs, epoch(max(began))::BIGINT AS last_at
        FROM ({" UNION ALL ".join(parts)}) GROUP BY ALL ORDER BY records DESC, field, problem LIMIT {_MOST_ROWS}""",
    )


def set_aside(connection: DuckDBPyConnection) -> Rows:
    """Return why records were set aside, the commonest reason first. Columns: `reason`, `records`, `runs`."""
    return ask(
        connection,
        f"""SELECT reason[:{LONGEST}] AS reason, count(*) AS records, count(DISTINCT run_uuid) AS runs
        FROM quarantine JOIN (SELECT DISTINCT run_uuid FROM report_runs) USING (run_uuid)
        GROUP BY ALL ORDER BY records DESC, reason LIMIT {_MOST_ROWS}""",
    )


def deletions(connection: DuckDBPyConnection, period: Period) -> tuple[int, Rows]:
    """Return how many livestreams were deleted or hidden, and the last of them.

    Columns: `event_id`, `title`, `user_name`, `missing_since`, `last_confirmed_at`.
    """
    missing = f"FROM livestreams WHERE missing_since IS NOT NULL AND {period.condition('missing_since')}"
    count = ask(connection, f"SELECT count(*) AS number {missing}").rows[0][0]
    return count, ask(
        connection,
        f"""SELECT event_id, event_title[:{LONGEST}] AS title, user_name[:{LONGEST}] AS user_name,
            epoch(missing_since)::BIGINT AS missing_since, epoch(last_confirmed_at)::BIGINT AS last_confirmed_at
        {missing} ORDER BY livestreams.missing_since DESC, event_id LIMIT {_MOST_ROWS}""",
    )
