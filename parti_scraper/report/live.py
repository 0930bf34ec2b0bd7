"""The figures of what was live: channels and viewers over time, and the viewers of the largest livestreams.

Where nobody looked for longer than usual there is a gap: what is before it and what is after it are two stretches, with
numbers of their own, so that no line joins them. Times are Unix seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from parti_scraper.dataset.coverage import USUAL_TIMES
from parti_scraper.report.period import LONGEST, OTHERS, Rows, ask

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# Points of a line; where there are more snapshots, several are one point.
_MOST_POINTS = 800
_MOST_OF_A_STREAM = 300
_STREAMS = 6
_DAY = 86_400

# By day, the least of the medians of the distances between two snapshots of a run; runs with one snapshot on a day
# count as one run together. The discrete quantile takes the smaller of two middle ones.
_USUAL = f"""
    moments AS (
        SELECT epoch(started_at)::BIGINT AS moment, moment // {_DAY} AS day,
            CASE count(*) OVER (PARTITION BY run_uuid, moment // {_DAY}) WHEN 1 THEN '' ELSE run_uuid END AS run
        FROM snapshots),
    distances AS (
        SELECT day, run, moment - lag(moment) OVER (PARTITION BY day, run ORDER BY moment) AS distance
        FROM (SELECT DISTINCT * FROM moments)),
    medians AS (SELECT day, run, quantile_disc(distance, 0.5) AS median FROM distances GROUP BY ALL),
    usual AS (SELECT day, min(median) AS distance FROM medians GROUP BY day)"""


def _stretches(points: str, of: str) -> str:
    """Return the query that numbers the stretches of points, of which each has `moment`, and `of`, what it is of."""
    later = f"OVER (PARTITION BY {of} ORDER BY moment)"
    return f"""
        SELECT * EXCLUDE (is_first), sum(is_first::INT) {later} AS stretch
        FROM (
            SELECT points.*, coalesce(
                moment - lag(moment) {later} > {USUAL_TIMES} * coalesce(lag(distance) {later}, 0), true) AS is_first
            FROM ({points}) points LEFT JOIN usual ON usual.day = moment // {_DAY})"""


def _size(rows: str, of: str, most: int) -> str:
    """Return the query for how many seconds are one point, if there are to be so many points at most."""
    return f"""
        SELECT {of}, min(moment) AS start, count(*) <= {most} AS is_small,
            greatest(1, ceil((max(moment) - min(moment) + 1) / {most}))::BIGINT AS seconds
        FROM {rows} GROUP BY {of}"""


_POINT = "CASE WHEN is_small THEN moment ELSE moment // seconds * seconds END"
_HIGHEST = "any_value(start) AS start, max(viewers) AS viewers, arg_max(moment, (viewers, -moment)) AS moment"


def _points(placed: str, of: str, figures: str) -> str:
    """Return the query for the points, with their stretches.

    A gap within a point is too narrow to be seen; if it ended the point, many short gaps would make too many points.
    """
    later = f"OVER (PARTITION BY {of} ORDER BY point)"
    return f"""
        SELECT * EXCLUDE (is_new), sum(is_new::INT) {later} AS stretch
        FROM (
            SELECT *, coalesce(first_stretch <> lag(last_stretch) {later}, true) AS is_new
            FROM (
                SELECT {of}, point, min(stretch) AS first_stretch, max(stretch) AS last_stretch, {figures}
                FROM {placed} GROUP BY {of}, point))"""


def live(connection: DuckDBPyConnection) -> Rows:
    """Return channels and viewers of complete snapshots without filters, over time and by category.

    Where several snapshots are one point, these are means, and `peak` is the most viewers of all categories together
    in one of them. Columns: `moment`, `stretch`, `category`, `channels`, `viewers`, `peak`.
    """
    return ask(
        connection,
        f"""WITH {_USUAL},
        whole AS (SELECT run_uuid, snapshot_id, epoch(began)::BIGINT AS moment, true AS everything
            FROM report_snapshots WHERE complete AND coalesce(filters, '{{}}') = '{{}}'),
        numbered AS ({_stretches("SELECT * FROM whole", "everything")}),
        size AS ({_size("whole", "everything", _MOST_POINTS)}),
        placed AS (SELECT numbered.*, {_POINT} AS point FROM numbered JOIN size USING (everything)),
        points AS ({_points("placed", "everything", "count(*) AS snapshots, min(moment) AS moment")}),
        seen AS (SELECT point, placed.run_uuid, placed.snapshot_id, viewers_count,
                coalesce(labels.label, '{OTHERS}') AS category
            FROM placed JOIN live_channels USING (run_uuid, snapshot_id)
            LEFT JOIN report_categories labels ON labels.name = coalesce(category_name, '')),
        sums AS (SELECT point, sum(viewers_count) AS viewers FROM seen GROUP BY point, run_uuid, snapshot_id),
        peaks AS (SELECT point, max(viewers) AS peak FROM sums GROUP BY point),
        filled AS (SELECT point, category, count(*) AS channels, sum(viewers_count) AS viewers FROM seen GROUP BY ALL),
        categories AS (SELECT DISTINCT category FROM filled UNION SELECT '{OTHERS}' WHERE NOT EXISTS (FROM filled))
        SELECT moment, stretch::BIGINT AS stretch, category, coalesce(channels, 0) / snapshots AS channels,
            coalesce(viewers, 0)::DOUBLE / snapshots AS viewers, coalesce(peak, 0)::BIGINT AS peak
        FROM points CROSS JOIN categories LEFT JOIN filled USING (point, category) LEFT JOIN peaks USING (point)
        ORDER BY ALL""",
    )


def curves(connection: DuckDBPyConnection) -> Rows:
    """Return the viewers of the livestreams with the highest peaks, over time, the highest first.

    Where several snapshots are one point, it has the most viewers of them. Columns: `event_id`, `title`, `user_name`,
    `moment`, `since_start` (seconds since it was first observed), `stretch`, `viewers`, `is_peak`.
    """
    return ask(
        connection,
        f"""WITH {_USUAL},
        largest AS (SELECT event_id, event_title[:{LONGEST}] AS title, user_name[:{LONGEST}] AS user_name, peak_viewers
            FROM report_streams WHERE peak_viewers IS NOT NULL
            ORDER BY peak_viewers DESC, event_id LIMIT {_STREAMS}),
        seen AS (SELECT event_id, epoch(observed_at)::BIGINT AS moment, max(viewers_count) AS viewers
            FROM live_channels WHERE event_id IN (SELECT event_id FROM largest) AND viewers_count IS NOT NULL
            GROUP BY ALL),
        numbered AS ({_stretches("SELECT * FROM seen", "event_id")}),
        size AS ({_size("seen", "event_id", _MOST_OF_A_STREAM)}),
        placed AS (SELECT *, {_POINT} AS point FROM numbered JOIN size USING (event_id)),
        points AS ({_points("placed", "event_id", _HIGHEST)})
        SELECT event_id, title, user_name, moment, moment - start AS since_start, stretch::BIGINT AS stretch, viewers,
            row_number() OVER (PARTITION BY event_id ORDER BY viewers DESC, moment) = 1 AS is_peak
        FROM points JOIN largest USING (event_id) ORDER BY peak_viewers DESC, event_id, moment""",
    )
