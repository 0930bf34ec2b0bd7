"""The figures of what was streamed: the head of the report, activity, and the tables of channels and streams.

All of it by SQL, over the views of `period`; however large the dataset is, an answer has some thousand rows at most.
Times are Unix seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parti_scraper.report.period import LONGEST, UNITS, Rows, ask, ask_one, unit_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# Of each order of a table.
_MOST_ROWS = 60
_ORDERS = ("peak_viewers", "viewer_hours", "total_viewers", "stream_hours")
_SUMS = "count(*) AS streams, coalesce(sum(stream_hours), 0) AS hours, coalesce(sum(viewer_hours), 0) AS viewer_hours"


def key_figures(connection: DuckDBPyConnection) -> dict[str, Any]:
    """Return the figures of the head."""
    streams = ask_one(
        connection,
        f"""SELECT {_SUMS}, count(DISTINCT user_id) AS channels, max(peak_viewers) AS peak_viewers,
            epoch(min(began))::BIGINT AS since, epoch(max(coalesce(last_observed_at, ended_at, began)))::BIGINT AS until
        FROM report_streams""",
    )
    snapshots = ask_one(
        connection,
        "SELECT count(*) AS snapshots, epoch(max(started_at))::BIGINT AS last_snapshot FROM report_snapshots",
    )
    runs = ask_one(
        connection,
        """SELECT count(DISTINCT run_uuid) AS runs, epoch(max(as_of))::BIGINT AS as_of,
            list_sort(list(DISTINCT source)) AS sources FROM report_runs""",
    )
    return streams | snapshots | runs


def activity(connection: DuckDBPyConnection) -> tuple[str, Rows]:
    """Return what began, by time and category, and the unit of the time: day, week, month or year.

    Columns: `moment`, `category`, `streams`, `hours`, `viewer_hours`.
    """
    unit = unit_of(connection, "report_streams")
    query = f"SELECT {UNITS[unit]} AS bucket, label AS category, {_SUMS} FROM report_streams GROUP BY ALL ORDER BY ALL"
    return unit, ask(connection, f"SELECT bucket AS moment, * EXCLUDE (bucket) FROM ({query}) ORDER BY ALL")


def week(connection: DuckDBPyConnection) -> Rows:
    """Return what began, by hour of the week (UTC, from Monday at 0) and category.

    Columns: `hour` (0 to 167), `category`, `streams`, `hours`, `viewer_hours`.
    """
    hour = "(epoch(began)::BIGINT - 345600) // 3600 % 168"
    return ask(
        connection,
        f"""SELECT ({hour} + 168) % 168 AS hour, label AS category, {_SUMS} FROM report_streams
        GROUP BY ALL ORDER BY ALL""",
    )


def top_channels(connection: DuckDBPyConnection) -> Rows:
    """Return the channels that are the first by any figure.

    Columns: `user_id`, `user_name`, `url`, `category`, `streams`, `hours`, `viewer_hours`, `peak_viewers`,
    `total_viewers`, `last_at`.
    """
    # The name, its address and the category are those of the latest livestream that has them.
    return ask(
        connection,
        f"""WITH channel AS (
            SELECT user_id, max_by(user_name[:{LONGEST}], (began, event_id)) AS user_name,
                max_by(channel_url[:1000], (began, event_id)) AS url,
                max_by(category_name[:{LONGEST}], (began, event_id)) AS category, {_SUMS},
                max(peak_viewers) AS peak_viewers, sum(total_viewers)::BIGINT AS total_viewers,
                epoch(max(began))::BIGINT AS last_at
            FROM report_streams WHERE user_id IS NOT NULL GROUP BY user_id)
        FROM channel WHERE {_is_first("channel", "user_id", "viewer_hours", "total_viewers", "hours", "streams")}
        ORDER BY viewer_hours DESC, total_viewers DESC NULLS LAST, user_id""",
    )


def top_streams(connection: DuckDBPyConnection) -> Rows:
    """Return the livestreams that are the first by any figure.

    Columns: `event_id`, `title`, `url`, `user_name`, `channel_url`, `category`, `label` (of the charts), `moment`,
    `hours`, `viewer_hours`, `peak_viewers`, `average_viewers`, `total_viewers`.
    """
    return ask(
        connection,
        f"""SELECT event_id, event_title[:{LONGEST}] AS title, video_url[:1000] AS url,
            user_name[:{LONGEST}] AS user_name, channel_url[:1000] AS channel_url,
            category_name[:{LONGEST}] AS category, label,
            epoch(began)::BIGINT AS moment, stream_hours AS hours, viewer_hours, peak_viewers, average_viewers,
            total_viewers
        FROM report_streams
        WHERE {_is_first("report_streams", "event_id", *_ORDERS)}
        ORDER BY peak_viewers DESC NULLS LAST, total_viewers DESC NULLS LAST, event_id""",
    )


def _is_first(rows: str, key: str, *figures: str) -> str:
    """Return the condition for rows that are among the first by one of the figures."""
    # A limit keeps few rows in memory; ranks would keep all.
    tops = (f"(SELECT {key} FROM {rows} ORDER BY {each} DESC NULLS LAST, {key} LIMIT {_MOST_ROWS})" for each in figures)
    return f"{key} IN ({' UNION '.join(tops)})"
