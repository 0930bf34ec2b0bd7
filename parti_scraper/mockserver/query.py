"""The query of a request: what it asks for, depending on the switches for the API's open questions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parti_scraper.mockserver.words import NO_CATEGORY

if TYPE_CHECKING:
    from multidict import MultiMapping

    from parti_scraper.mockserver.options import Options

# For a request without a limit: those that the site sends; for scheduled livestreams that of other clients.
_RECENT_LIMIT = 15
_LIVE_LIMIT = 12
_SCHEDULED_LIMIT = 100
_FOREVER = 10**18
_WHOLE = re.compile(r"-?[0-9]{1,18}")


class QueryError(Exception):
    """A parameter that the server refuses.

    Attributes:
        status: the status to answer with.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True, slots=True)
class Page:
    """Which records of a list, counted from 0."""

    offset: int
    limit: int


@dataclass(frozen=True, slots=True)
class RecentQuery:
    """Which ended livestreams, and in what order.

    Attributes:
        low, high: the window in Unix seconds, `high` excluded.
        by_start: whether the window filters by start; otherwise by end.
        categories: None: any.
        user_id: the channel; None: any.
        by_views: most viewers first; otherwise by date.
        ascending: oldest first.
    """

    low: int = -_FOREVER
    high: int = _FOREVER
    by_start: bool = False
    categories: frozenset[int] | None = None
    user_id: int | None = None
    by_views: bool = False
    ascending: bool = False


def parse_recent(query: MultiMapping[str], options: Options) -> tuple[RecentQuery, Page]:
    """Return what a request to the recent route asks for. Raises QueryError if it is refused."""
    page = _page(query, options, _RECENT_LIMIT)
    low, high = _window(query, options)
    user_id = _whole(query, "by_user_id", None)
    ascending = query.get("sort_by_date_desc") == "false"
    if ascending and options.ascending in {"refused", "failing"} and query.get("top_views_sort") != "true":
        raise QueryError(422 if options.ascending == "refused" else 500, "sort_by_date_desc: must be true")
    if query.get("followed_only") == "true":
        # A request without a session follows no channel.
        page = Page(page.offset, 0)
    recent = RecentQuery(
        low=low,
        high=high,
        by_start=options.time_filter == "start",
        categories=_categories(query, options),
        user_id=user_id if options.user_filter == "honored" else None,
        by_views=query.get("top_views_sort") == "true",
        ascending=ascending and options.ascending == "honored",
    )
    return recent, page


def parse_live(query: MultiMapping[str], options: Options) -> tuple[frozenset[int] | None, Page]:
    """Return the categories (None for any) and page of a request to the live route. Raises QueryError."""
    return _categories(query, options), _page(query, options, _LIVE_LIMIT)


def parse_scheduled(query: MultiMapping[str], options: Options) -> Page:
    """Return the page of a request to the route of scheduled livestreams. Raises QueryError."""
    return _page(query, options, _SCHEDULED_LIMIT)


def _whole(query: MultiMapping[str], name: str, default: int | None) -> int | None:
    text = query.get(name)
    if text is None:
        return default
    if not _WHOLE.fullmatch(text):
        raise QueryError(422, f"{name}: not a whole number")
    return int(text)


def _page(query: MultiMapping[str], options: Options, default_limit: int) -> Page:
    named = "page_size" if options.drift in {"parameter", "all"} else "limit"
    offset, limit = _whole(query, "offset", 0) or 0, _whole(query, named, default_limit) or 0
    for name, value in (("offset", offset), (named, limit)):
        if value < 0:
            raise QueryError(422, f"{name}: less than 0")
    if options.above_cap == "ignore":
        limit = options.page_cap
    elif limit > options.page_cap and options.above_cap == "refuse":
        raise QueryError(400, f"limit: more than {options.page_cap}")
    return Page(offset if options.offset == "honored" else 0, min(limit, options.page_cap))


def _window(query: MultiMapping[str], options: Options) -> tuple[int, int]:
    """Return the window with its end excluded, for all values of `--bounds`."""
    low, high = _whole(query, "from_ts", None), _whole(query, "to_ts", None)
    if options.time_filter == "ignored":
        low = high = None
    if low is not None and options.bounds == "open":
        low += 1
    if high is not None and options.bounds == "closed":
        high += 1
    return -_FOREVER if low is None else low, _FOREVER if high is None else high


def _categories(query: MultiMapping[str], options: Options) -> frozenset[int] | None:
    """Return the categories that a record may have; None: any."""
    texts = query.getall("categories", [])
    for text in texts:
        if text != "NaN" and not _WHOLE.fullmatch(text):
            raise QueryError(422, "categories: not a whole number")
    if options.categories == "ignored" or not texts:
        return None
    if options.categories == "last":
        texts = texts[-1:]
    numbers = {int(text) for text in texts if text != "NaN"}
    if "NaN" not in texts:
        return frozenset(numbers)
    if options.nan == "error":
        raise QueryError(400, "categories: NaN is not a category")
    if options.nan == "none":
        return frozenset(numbers | {NO_CATEGORY})
    # With "ignored" and no other category there is no filter either.
    return frozenset(numbers) if options.nan == "ignored" and numbers else None
