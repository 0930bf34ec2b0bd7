"""Queries for what follows from records: streams, channels, hours, coverage, deletions. Pure; for DuckDB.

What each value means is in docs/data.md, "What follows from the records". Sums are of whole numbers, so that they are
the same in whatever order rows come.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

from parti_scraper.dataset.coverage import USUAL_TIMES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from parti_scraper.dataset.coverage import Interval

_MOST = 9_223_372_036_854_775_807
_UNKNOWN_CATEGORY = -1


class Look(NamedTuple):
    """A run that has looked at everything that ended within an interval, and when it began; Unix seconds."""

    interval: Interval
    began: int


def latest_looks(looks: Iterable[Look]) -> list[tuple[int, int | None]]:
    """Return from which second on which look is the latest, sorted; None: there is none from there on."""
    waiting = sorted(looks)
    seconds = sorted({each.interval.since for each in waiting} | {each.interval.until + 1 for each in waiting})
    waiting.reverse()
    heap: list[tuple[int, int]] = []
    found: list[tuple[int, int | None]] = []
    for second in seconds:
        while waiting and waiting[-1].interval.since <= second:
            look = waiting.pop()
            heapq.heappush(heap, (-look.began, look.interval.until))
        while heap and heap[0][1] < second:
            heapq.heappop(heap)
        found.append((second, -heap[0][0] if heap else None))
    return found


# --- Deletions ---------------------------------------------------------------------------------------------------


def last_seen(livestreams: str, confirmations: str) -> str:
    """Return the query for when each livestream that has an end was last seen."""
    return (
        "SELECT event_id, event_end, greatest(scraped_at, livestreams.last_confirmed_at, confirmed.last_confirmed_at) "
        f"AS seen_at FROM {livestreams} livestreams LEFT JOIN {confirmations} confirmed USING (event_id) "
        "WHERE event_end IS NOT NULL"
    )


def absences(seen: str, latest: str, looks: str) -> str:
    """Return the query for the livestreams that are missing, and since when.

    Args:
        seen: the result of `last_seen`.
        latest: the result of `latest_looks`: `since`, `began`.
        looks: `since`, `until` and `began` of each.
    """
    # Most were seen by the latest look; only for others all looks are gone through.
    return (
        f"WITH suspects AS (SELECT seen.* FROM {seen} seen ASOF JOIN {latest} latest "
        "ON seen.event_end >= latest.since WHERE latest.began > seen.seen_at) "
        f"SELECT event_id, min(looks.began) AS missing_since FROM suspects JOIN {looks} looks "
        "ON suspects.event_end BETWEEN looks.since AND looks.until AND looks.began > suspects.seen_at GROUP BY event_id"
    )


def with_deletions(livestreams: str, confirmations: str, missing: str) -> str:
    """Return the query for livestreams with when they were confirmed last, and since when they are missing."""
    return (
        "SELECT livestreams.* REPLACE (CASE WHEN event_end IS NOT NULL THEN "
        "greatest(livestreams.last_confirmed_at, confirmed.last_confirmed_at) END AS last_confirmed_at, "
        "missing.missing_since AS missing_since) "
        f"FROM {livestreams} livestreams LEFT JOIN {confirmations} confirmed USING (event_id) "
        f"LEFT JOIN {missing} missing USING (event_id)"
    )


# --- Snapshots ---------------------------------------------------------------------------------------------------


def unnoted_snapshots(live_channels: str, snapshots: str) -> str:
    """Return the query for snapshots of which there are channels, but no run says anything."""
    return (
        "SELECT run_uuid, snapshot_id, min(observed_at), max(observed_at), NULL, false, '{}', false "
        f"FROM {live_channels} ANTI JOIN {snapshots} USING (run_uuid, snapshot_id) GROUP BY run_uuid, snapshot_id"
    )


def usual_distances(snapshots: str) -> str:
    """Return the query for the usual distance of snapshots on each day, in seconds."""
    return (
        f"WITH moments AS (SELECT DISTINCT started_at::DATE AS day, run_uuid, started_at FROM {snapshots}), "
        "pooled AS (SELECT DISTINCT day, started_at, "
        "CASE WHEN count(*) OVER (PARTITION BY day, run_uuid) > 1 THEN run_uuid ELSE '' END AS run FROM moments), "
        "distances AS (SELECT day, run, "
        f"{_seconds_to('lead(started_at) OVER (PARTITION BY day, run ORDER BY started_at)', 'started_at')} AS seconds "
        "FROM pooled), "
        "medians AS (SELECT day, quantile_disc(seconds, 0.5) AS seconds FROM distances WHERE seconds IS NOT NULL "
        "GROUP BY day, run) "
        "SELECT day, min(seconds) AS seconds FROM medians GROUP BY day"
    )


def _as_bigint(number: str) -> str:
    """Return the expression for a sum of numbers that may be the largest ones."""
    return f"CASE WHEN {number} > {_MOST} THEN {_MOST} ELSE {number} END::BIGINT"


def _seconds_to(later: str, earlier: str) -> str:
    return f"epoch({later})::BIGINT - epoch({earlier})::BIGINT"


# --- Streams -----------------------------------------------------------------------------------------------------

_SHARED = ("user_id", "user_name", "event_title", "category_id", "category_name")


def observed(live_channels: str) -> str:
    """Return the query for what snapshots say of each livestream, but for what is weighted by time."""
    last = ", ".join(f"{each} := {each}" for each in (*_SHARED, "channel_url"))
    return (
        "SELECT event_id, count(DISTINCT hash(run_uuid, snapshot_id)) AS snapshots, "
        "min(observed_at) AS first_observed_at, max(observed_at) AS last_observed_at, "
        "max(viewers_count) AS peak_viewers, "
        "arg_max(observed_at, (viewers_count, -epoch(observed_at))) FILTER (viewers_count IS NOT NULL) AS peak_at, "
        f"arg_max(struct_pack({last}), (observed_at, run_uuid, snapshot_id)) AS last "
        f"FROM {live_channels} GROUP BY event_id"
    )


def weighted(live_channels: str, usual: str) -> str:
    """Return the query for what is weighted by time, of each livestream; `usual` is as of `usual_distances`."""
    window = "OVER (PARTITION BY event_id ORDER BY observed_at)"
    return (
        "WITH moments AS (SELECT event_id, observed_at, max(viewers_count)::HUGEINT AS viewers "
        f"FROM {live_channels} WHERE viewers_count IS NOT NULL GROUP BY event_id, observed_at), "
        f"steps AS (SELECT event_id, observed_at, viewers, viewers + lead(viewers) {window} AS twice, "
        f"{_seconds_to(f'lead(observed_at) {window}', 'observed_at')} AS length FROM moments), "
        "counted AS (SELECT event_id, viewers, length, "
        f"CASE WHEN length <= {USUAL_TIMES} * usual.seconds THEN length END AS counted, twice "
        f"FROM steps LEFT JOIN {usual} usual ON usual.day = observed_at::DATE) "
        "SELECT event_id, coalesce(sum(counted), 0)::BIGINT AS observed_seconds, max(length) AS longest_gap_seconds, "
        "coalesce(sum(counted * twice), 0) AS twice_viewer_seconds, sum(viewers)::DOUBLE / count(*) AS mean_viewers "
        "FROM counted GROUP BY event_id"
    )


class Sources(NamedTuple):
    """The names of what streams follow from; of each livestream there is one row at most.

    Attributes:
        events: the livestreams that are wanted, by `event_id`.
        livestreams, live_notifications, scheduled_livestreams: as in the tables.
        observed, weighted: the results of these functions.
    """

    events: str
    livestreams: str
    observed: str
    weighted: str
    live_notifications: str
    scheduled_livestreams: str


def streams(of: Sources) -> str:
    """Return the query for the rows of `streams`."""
    shared = ", ".join(
        f"coalesce(ended.{each}, observed.last.{each}, heard.{each}, announced.{each}) AS {each}" for each in _SHARED
    )
    # Without any number of viewers, there is nothing to weight.
    average = (
        "CASE WHEN weighted.observed_seconds > 0 "
        "THEN weighted.twice_viewer_seconds::DOUBLE / (2 * weighted.observed_seconds) ELSE weighted.mean_viewers END"
    )
    return (
        f"SELECT events.event_id, {shared}, ended.event_start AS started_at, ended.event_end AS ended_at, "
        "announced.event_start AS announced_at, ended.duration_seconds, ended.total_viewers, "
        "coalesce(observed.snapshots, 0) AS snapshots, observed.first_observed_at, observed.last_observed_at, "
        f"observed.peak_viewers, observed.peak_at, {average} AS average_viewers, "
        "CASE WHEN weighted.observed_seconds > 0 THEN weighted.twice_viewer_seconds::DOUBLE / 7200 END "
        "AS viewer_hours, "
        "coalesce(weighted.observed_seconds, 0) AS observed_seconds, "
        "weighted.longest_gap_seconds, "
        "coalesce(ended.channel_url, observed.last.channel_url, heard.channel_url) AS channel_url, ended.video_url "
        f"FROM {of.events} events LEFT JOIN {of.livestreams} ended USING (event_id) "
        f"LEFT JOIN {of.observed} observed USING (event_id) LEFT JOIN {of.weighted} weighted USING (event_id) "
        f"LEFT JOIN {of.live_notifications} heard USING (event_id) "
        f"LEFT JOIN {of.scheduled_livestreams} announced USING (event_id) "
        "WHERE coalesce(ended.event_id, observed.event_id, heard.event_id, announced.event_id) IS NOT NULL"
    )


# --- Channels ----------------------------------------------------------------------------------------------------


def channels(users: str, streams: str, live_notifications: str, names: str) -> str:
    """Return the query for the rows of `channels`.

    Args:
        users: the channels that are wanted, by `user_id`.
        streams: all of theirs.
        live_notifications: all of theirs.
        names: all of their names: `user_id`, `user_name`.
    """
    seconds = "coalesce(duration_seconds, observed_seconds, 0)::HUGEINT"
    twice = "round(viewer_hours * 7200)::HUGEINT"
    begun = "(started_at IS NOT NULL OR ended_at IS NOT NULL OR snapshots > 0 OR received_at IS NOT NULL)"
    latest = "(coalesce(started_at, first_observed_at, announced_at, to_timestamp(0)), event_id)"
    return (
        f"WITH of_users AS (SELECT streams.*, received_at, {begun} AS begun FROM {streams} streams "
        f"LEFT JOIN (SELECT event_id, received_at FROM {live_notifications}) heard USING (event_id)), "
        "sums AS (SELECT user_id, arg_max(user_name, "
        f"{latest}) FILTER (user_name IS NOT NULL) AS user_name, "
        f"count(*) FILTER (begun) AS streams, sum({seconds}) FILTER (begun) AS seconds, "
        f"{_as_bigint('sum(total_viewers) FILTER (begun)')} AS total_viewers, "
        "max(peak_viewers) AS peak_viewers, "
        f"sum({twice}) AS twice, sum(observed_seconds) AS observed_seconds, "
        "min(least(started_at, ended_at, first_observed_at)) AS first_at, "
        "max(greatest(started_at, ended_at, last_observed_at)) AS last_at FROM of_users GROUP BY user_id), "
        "heard AS (SELECT user_id, min(received_at) AS first_at, max(received_at) AS last_at "
        f"FROM {live_notifications} GROUP BY user_id), "
        f"of_category AS (SELECT user_id, category_name, sum({seconds}) AS seconds FROM of_users "
        "WHERE begun AND category_name IS NOT NULL GROUP BY user_id, category_name), "
        "top AS (SELECT user_id, category_name FROM of_category "
        "QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY seconds DESC, category_name) = 1), "
        f"called AS (SELECT user_id, to_json(list_sort(list(DISTINCT user_name)))::VARCHAR AS names FROM {names} "
        "WHERE user_name IS NOT NULL GROUP BY user_id) "
        "SELECT users.user_id, sums.user_name, coalesce(called.names, '[]') AS names, "
        "coalesce(sums.streams, 0) AS streams, coalesce(sums.seconds, 0)::DOUBLE / 3600 AS hours, sums.total_viewers, "
        "sums.peak_viewers, CASE WHEN sums.observed_seconds > 0 "
        "THEN sums.twice::DOUBLE / (2 * sums.observed_seconds)::DOUBLE END AS average_viewers, "
        "sums.twice::DOUBLE / 7200 AS viewer_hours, least(sums.first_at, heard.first_at) AS first_seen_at, "
        "greatest(sums.last_at, heard.last_at) AS last_seen_at, top.category_name AS top_category "
        f"FROM {users} users LEFT JOIN sums USING (user_id) LEFT JOIN heard USING (user_id) "
        "LEFT JOIN called USING (user_id) LEFT JOIN top USING (user_id)"
    )


# --- Hours -------------------------------------------------------------------------------------------------------


def hours(live_channels: str, snapshots: str, scope: str) -> str:
    """Return the query for the rows of `hours`; `scope` is the condition for the snapshots that are wanted."""
    return (
        "WITH good AS (SELECT run_uuid, snapshot_id, date_trunc('hour', started_at) AS hour "
        f"FROM {snapshots} snapshots WHERE complete AND filters = '{{}}' AND ({scope})), "
        "numbers AS (SELECT hour, count(*) AS number FROM good GROUP BY hour), "
        f"counted AS (SELECT hour, coalesce(category_id, {_UNKNOWN_CATEGORY}) AS category_id, run_uuid, snapshot_id, "
        "count(*) AS channels, coalesce(sum(viewers_count), 0) AS viewers, "
        "max((observed_at, category_name)) FILTER (category_name IS NOT NULL) AS named "
        f"FROM {live_channels} JOIN good USING (run_uuid, snapshot_id) "
        f"GROUP BY hour, coalesce(category_id, {_UNKNOWN_CATEGORY}), run_uuid, snapshot_id) "
        "SELECT hour, category_id, max(named)[2] AS category_name, any_value(number) AS snapshots, "
        "sum(channels)::DOUBLE / any_value(number) AS average_channels, max(channels) AS peak_channels, "
        "sum(viewers)::DOUBLE / any_value(number) AS average_viewers, "
        f"{_as_bigint('max(viewers)')} AS peak_viewers "
        "FROM counted JOIN numbers USING (hour) GROUP BY hour, category_id"
    )


# --- Coverage ----------------------------------------------------------------------------------------------------


def live_coverage(snapshots: str, usual: str, scope: str) -> str:
    """Return the query for the rows of `coverage` that snapshots prove.

    Args:
        snapshots: also those after the ones that are wanted.
        usual: the result of `usual_distances`.
        scope: the condition for the snapshots that are wanted; whole days.
    """
    window = "OVER (PARTITION BY filters ORDER BY started_at, run_uuid)"
    return (
        f"WITH steps AS (SELECT filters, run_uuid, started_at, lead(started_at) {window} AS next_at "
        f"FROM {snapshots} WHERE complete), "
        f"tiles AS (SELECT steps.*, started_at::DATE AS day, coalesce({_seconds_to('next_at', 'started_at')} "
        f"<= {USUAL_TIMES} * usual.seconds, false) AS is_near FROM steps "
        f"LEFT JOIN {usual} usual ON usual.day = started_at::DATE), "
        f"changes AS (SELECT *, NOT coalesce(lag(is_near) {window} AND lag(run_uuid) {window} = run_uuid "
        f"AND lag(day) {window} = day, false) AS begins FROM tiles), "
        f"numbered AS (SELECT *, sum(begins::INTEGER) {window} AS number FROM changes) "
        "SELECT 'live_channels' AS collection, filters, min(started_at) AS since, "
        "max(CASE WHEN is_near THEN next_at ELSE started_at END) AS until, run_uuid "
        f"FROM numbered WHERE {scope} GROUP BY filters, run_uuid, number"
    )
