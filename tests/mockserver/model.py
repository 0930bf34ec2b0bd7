"""The expected answers of the routes, by a linear search of all records."""

from __future__ import annotations

from typing import Any

from parti_scraper.mockserver import Options

Record = dict[str, Any]
Query = list[tuple[str, str]]


class RefusedError(Exception):
    """The server should refuse the request; the argument is the status."""


def recent_ids(records: list[Record], categories: list[Record], query: Query, options: Options) -> list[int]:
    """Return the ids of a page of the recent route. Raises RefusedError."""
    single = dict(query)
    offset, limit = page_of(single, 15, options)
    field = {"end": "event_end_ts", "start": "event_start_ts"}.get(options.time_filter)
    chosen = [record for record in records if in_categories(record, categories, query, options)]
    if field and "from_ts" in single:
        low = int(single["from_ts"]) + (options.bounds == "open")
        chosen = [record for record in chosen if record[field] >= low]
    if field and "to_ts" in single:
        high = int(single["to_ts"]) - (options.bounds != "closed")
        chosen = [record for record in chosen if record[field] <= high]
    if "by_user_id" in single and options.user_filter == "honored":
        chosen = [record for record in chosen if record["user_id"] == int(single["by_user_id"])]
    by_views = single.get("top_views_sort") == "true"
    key = "total_viewers" if by_views else "event_end_ts"
    chosen.sort(
        key=lambda record: (record[key], record["event_id"]),
        reverse=by_views or single.get("sort_by_date_desc") != "false",
    )
    if single.get("followed_only") == "true":
        chosen = []
    return [record["event_id"] for record in chosen][offset : offset + limit]


def live_ids(records: list[Record], categories: list[Record], query: Query, options: Options) -> list[int]:
    """Return the ids of a page of the live route, from all records in its order. Raises RefusedError."""
    offset, limit = page_of(dict(query), 12, options)
    chosen = [record["event_id"] for record in records if in_categories(record, categories, query, options)]
    return chosen[offset : offset + limit]


def page_of(single: dict[str, str], default: int, options: Options) -> tuple[int, int]:
    """Return offset and limit as the server uses them."""
    limit = int(single.get("limit", default))
    if options.above_cap == "ignore":
        limit = options.page_cap
    if limit > options.page_cap:
        if options.above_cap == "refuse":
            raise RefusedError(400)
        limit = options.page_cap
    return (0 if options.offset == "ignored" else int(single.get("offset", 0))), limit


def in_categories(record: Record, categories: list[Record], query: Query, options: Options) -> bool:
    """Return whether a record may be in the answer. Nameless categories are found by their display_name."""
    asked = [value for name, value in query if name == "categories"]
    if not asked or options.categories == "ignored":
        return True
    if options.categories == "last":
        asked = [asked[-1]]
    numbers = [int(value) for value in asked if value != "NaN"]
    own = [row["category_id"] for row in categories if (row["name"] or row["display_name"]) == record["category_name"]]
    if "NaN" in asked:
        if options.nan == "error":
            raise RefusedError(400)
        if options.nan == "unfiltered" or (options.nan == "ignored" and not numbers):
            return True
        if options.nan == "none" and not own:
            return True
    return bool(own) and own[0] in numbers
