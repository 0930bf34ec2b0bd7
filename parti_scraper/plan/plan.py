"""What a plan is: it names the pages of a route to ask for, and is given each page or the reason why it failed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

from parti_scraper.plan.page_size import REFUSALS

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from parti_scraper.plan.page_size import PageSize

# A window of time: (high, low) is what ended after `low` and not after `high`, in Unix seconds.
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Slice:
    """The `limit` records from `offset` on, counted in the order of the route.

    Attributes:
        attempt: how often it was asked for without success; the wait before the request grows with it.
    """

    offset: int
    limit: int
    attempt: int = 0


class Key(NamedTuple):
    """What paging needs of a record.

    Attributes:
        id: its identity; None where that cannot be read.
        end: when it ended in Unix seconds; None where that is not known.
    """

    id: Hashable
    end: int | None = None


@dataclass(frozen=True)
class Page:
    """The records of a page in the order served; None for one of which nothing could be read.

    Attributes:
        matching: of a control page, which is asked for without filters: the records that match the filters.
    """

    keys: Sequence[Key | None]
    matching: Sequence[Key] = ()

    @cached_property
    def known(self) -> list[Key]:
        """The records of which something could be read."""
        return [key for key in self.keys if key is not None]

    @cached_property
    def ends(self) -> list[int]:
        """When the records ended of which that is known, in the order served, in Unix seconds."""
        return [key.end for key in self.known if key.end is not None]

    def ids_ended_at(self, end: int) -> frozenset[Hashable]:
        """Return the identities of the records that ended in that second."""
        return frozenset(key.id for key in self.known if key.end == end)


class Purpose(Enum):
    """What a page is asked for.

    Attributes:
        WALK: to collect a window or a list.
        FIRST: the site's own first request.
        CONTROL: without any filter, to see whether the server serves anything at all; its records are not of the set.
        RECHECK: the last record of the list again.
        RECHECK_BESIDE: the same, at the same time as the probes.
        BY_OFFSET: a probe below the end of the list, by offset.
        BY_TIME: the same by time.
    """

    WALK = auto()
    FIRST = auto()
    CONTROL = auto()
    RECHECK = auto()
    RECHECK_BESIDE = auto()
    BY_OFFSET = auto()
    BY_TIME = auto()


@dataclass(frozen=True, slots=True)
class PageQuery:
    """One page to ask for.

    Attributes:
        slice: which page.
        from_ts, to_ts: Unix seconds, for the recent route.
        window: the number of the window that it belongs to; 0 for none.
        purpose: what it is asked for.
        ascending: first ended first; it is not known whether the server respects that.
        optional: it is not known whether the server accepts such a request; if it fails, others are enough.
    """

    slice: Slice
    from_ts: int = 0
    to_ts: int = 0
    window: int = 0
    purpose: Purpose = Purpose.WALK
    ascending: bool = False
    optional: bool = False

    @property
    def control(self) -> bool:
        """Whether the page is to be asked for without any filter."""
        return self.purpose is Purpose.CONTROL


class Plan(Protocol):
    """What a spider follows: it sends each `PageQuery` and returns the page, or the reason why it failed.

    Attributes:
        gaps: what may be incomplete, a part of a sentence each.
        warnings: what the server did not do as asked.
        shifts: how often records were seen to have moved.
    """

    gaps: list[str]
    warnings: list[str]
    shifts: int

    def remaining(self) -> list[Span] | None:
        """Return what is left of the windows, for another plan to continue; None: it cannot be continued."""
        ...

    def ahead(self) -> list[Span] | None:
        """Return what is left without what was given up; None: that is not known."""
        ...

    def start(self) -> list[PageQuery]:
        """Return the first pages to ask for."""
        ...

    def page(self, query: PageQuery, page: Page) -> list[PageQuery]:
        """Take a page; return what to ask for next, perhaps nothing."""
        ...

    def failure(self, query: PageQuery, reason: str, status: int | None = None) -> list[PageQuery]:
        """Take the failure of a page after all retries; return what to ask for next."""
        ...


def is_refusal(status: int | None) -> bool:
    """Return whether the server refuses the request itself."""
    return status is not None and 400 <= status < 500


def with_smaller_limit(query: PageQuery, size: PageSize, status: int | None) -> PageQuery | None:
    """Return the same query with a smaller limit if the status may mean that the limit was too large, else None."""
    if status in REFUSALS and size.refused(query.slice.limit):
        return replace(query, slice=replace(query.slice, limit=size.limit))
    return None
