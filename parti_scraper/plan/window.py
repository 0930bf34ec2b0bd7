"""A window of time under way, and what all windows of a history have shown together."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from parti_scraper.api.routes import FIRST_TS
from parti_scraper.plan.blocks import Blocks
from parti_scraper.plan.ends import lower_of
from parti_scraper.plan.identities import Identities
from parti_scraper.plan.overlap import Paging
from parti_scraper.plan.plan import PageQuery, Purpose

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from parti_scraper.plan.page_size import PageSize
    from parti_scraper.plan.plan import Key, Page, Slice
    from parti_scraper.plan.walker import Step, Walker

# With fewer records on a page, distances between their ends mean nothing.
_MIN_ENDS = 8


class Overview:
    """What all windows of a history have shown together.

    Args:
        since, until: Unix seconds, both inclusive.
        size: the page size.

    Attributes:
        bottom: what all windows ask for as `from_ts`, in Unix seconds.
        respects_to_ts: the server was seen to respect `to_ts`.
        ignores_to_ts: the server was seen to ignore it.
        undated: identities of the records without an end, which come on pages of every window.
        lowest: the earliest end of a record, in Unix seconds; None if unknown.
    """

    def __init__(self, since: int, until: int, size: PageSize) -> None:
        self.until = until
        self.size = size
        self.bottom = max(min(since, FIRST_TS) - 1, 0)
        self.respects_to_ts = False
        self.ignores_to_ts = False
        self.undated = Identities()
        self.lowest: int | None = None
        # How many records the windows were served.
        self._records = 0
        # The anchors at which records have come.
        self._fruitful: set[int] = set()

    def note_first(self, page: Page) -> None:
        """Take the site's own first page, which belongs to no window."""
        self.size.saw(len(page.keys))
        self.lowest = min(page.ends, default=None)

    def note(self, page: Page, lowest: int | None) -> None:
        """Take a page of a window, and the earliest end in that window."""
        self._records += len(page.keys)
        if lowest is not None:
            self.lowest = lower_of(self.lowest, lowest)

    def note_anchor(self, anchor: int) -> None:
        """Note that records have come at an anchor."""
        self._fruitful.add(anchor)

    def anchor_above(self, anchor: int) -> int:
        """Return the next anchor above at which records have come."""
        return min((each for each in self._fruitful if each > anchor), default=self.until)

    def seconds_of(self, records: int, above: int) -> int:
        """Return how many seconds so many records cover, by the density of those that ended later than `above`."""
        return (self.until - above) * records // max(self._records, 1)

    def note_repeats(self) -> None:
        """Note that more than a quarter of what a window was served ended later than was asked for."""
        self.ignores_to_ts = self.ignores_to_ts or not self.respects_to_ts

    def note_progress(self, anchor: int) -> None:
        """Note that a window continues by time, from an anchor."""
        self.respects_to_ts = self.respects_to_ts or anchor < self.until

    def walker(self, frontier: int | None = None, ties: frozenset[Hashable] = frozenset()) -> Walker:
        """Return the walker of a window, from the end of its last page."""
        if self.size.small:
            return Blocks(self.size)
        return Paging(self.size, frontier=frontier, ties=ties, undated=self.undated)


class Window:
    """Livestreams that ended after `low`, at `high` at the latest, walked from `anchor` down.

    The plan, the backlog and the end probe read its attributes, and change it only through its methods.

    Args:
        high, low: Unix seconds.
        overview: what all windows have shown.

    Attributes:
        anchor: where its requests begin, as `to_ts`, in Unix seconds.
        number: its number among the windows begun; a new one each time that it is begun.
        walker: what walks it from the anchor down.
        pages: pages since it was begun or cut.
        records: how many it was served.
        lowest: the earliest end on its pages, in Unix seconds.
        found_end: the end of the latest record that a probe has found below a hole, in Unix seconds.
        ended_empty: the last page was empty although a record is known to be on it.
    """

    def __init__(self, high: int, low: int, overview: Overview) -> None:
        self.high = high
        self.low = low
        self.anchor = high
        self.number = 0
        self.walker: Walker = overview.walker()
        self.pages = 0
        self.records = 0
        self.lowest: int | None = None
        self.found_end: int | None = None
        self.ended_empty = False
        self._overview = overview
        self._lowest_ids: frozenset[Hashable] = frozenset()
        # The server repeats too much of what was served to continue by time.
        self._by_offset = False
        # Since the anchor: records, those of them that ended later than it, and those without an end that had come
        # before.
        self._served = 0
        self._above = 0
        self._repeated = 0

    @property
    def reached(self) -> int:
        """Down to where nothing is missing, in Unix seconds."""
        return self.anchor if self.walker.frontier is None else min(self.anchor, self.walker.frontier)

    @property
    def served_below(self) -> int:
        """How many records since the anchor ended at the anchor or before."""
        return self._served - self._above

    def begin(self, number: int) -> PageQuery:
        """Return the first query."""
        self.number = number
        return self.query(self.walker.start())

    def resume(self, number: int) -> None:
        """Continue under another number."""
        self.number = number

    def query(self, slice_: Slice, purpose: Purpose = Purpose.WALK) -> PageQuery:
        """Return the query for a slice of what lies below the anchor."""
        number = self.number if purpose is Purpose.WALK else 0
        # A second more: the server may not include the bound.
        return PageQuery(slice_, self._overview.bottom, self.anchor + 1, number, purpose)

    def take(self, page: Page) -> Step:
        """Take a page; return the next step of the walker."""
        self.pages += 1
        self._served += len(page.keys)
        self.records += len(page.keys)
        self._above += sum(end > self.anchor for end in page.ends)
        undated = [key.id for key in page.known if key.end is None and key.id is not None]
        self._repeated += sum(each in self._overview.undated for each in undated)
        self.note(page)
        if page.keys:
            self._overview.note_anchor(self.anchor)
        step = self.walker.page(page)
        for each in undated:
            self._overview.undated.add(each)
        return step

    def note(self, page: Page) -> None:
        """Remember which records on its pages ended first."""
        lowest = min(page.ends, default=None)
        if lowest is not None and (self.lowest is None or lowest <= self.lowest):
            ids = page.ids_ended_at(lowest)
            self._lowest_ids = ids | (self._lowest_ids if lowest == self.lowest else frozenset())
            self.lowest = lowest
        self._overview.note(page, self.lowest)

    def frontier(self, page: Page) -> int | None:
        """Return down to where nothing is missing.

        The last record of a page may have an end that is far too early, so that records which ended later come on the
        next page. So if it is much further from the record above than others from each other, it does not count yet.
        """
        frontier, ends = self.walker.frontier, page.ends
        if frontier is None or self._overview.size.small or len(ends) < _MIN_ENDS or ends[-1] != frontier:
            return frontier
        *gaps, last = [later - earlier for later, earlier in pairwise(ends)]
        return ends[-2] if last > 3 * max(gaps) and ends[-2] < self.anchor else frontier

    def continues_by_time(self) -> bool:
        """Return whether to continue by time: there is progress, and the server does not repeat what was served."""
        if self.reached == self.anchor or self._by_offset:
            return False
        self._by_offset = (self._above + self._repeated) * 4 > self._served
        if self._above * 4 > self._served:
            self._overview.note_repeats()
        return not self._by_offset

    def continue_by_time(self, page: Page, frontier: int) -> PageQuery:
        """Return the query for what ended at the frontier or before; the page shows some of it."""
        self._anchor_at(frontier)
        self.walker = self._overview.walker(frontier, page.ids_ended_at(frontier))
        return self.query(self.walker.start())

    @property
    def can_start_above(self) -> bool:
        """Whether it can be walked by offset from further up."""
        return not self._by_offset and self.anchor < self._overview.until

    def start_above(self) -> None:
        """Walk by offset, from where records have come: the server may have nothing for so early a `to_ts`."""
        self._anchor_at(self._overview.anchor_above(self.anchor))
        self._by_offset = True
        self.walker = self._overview.walker()

    def _anchor_at(self, anchor: int) -> None:
        self.anchor, self._served, self._above, self._repeated = anchor, 0, 0, 0

    def count(self) -> Slice:
        """Continue by counting, since pages are too small to overlap."""
        self.walker = Blocks(self._overview.size)
        return self.walker.start()

    def cut(self, low: int) -> None:
        """Leave to other windows what ended at `low` or before."""
        self.low, self.pages = low, 0

    def end(self, *, empty: bool) -> None:
        """Note that nothing more came, see `Ended`."""
        self.ended_empty = empty

    def continue_to(self, offset: int, found_end: int | None, *, is_sure: bool) -> Step:
        """Continue after all, see `Walker`; the latest record found ended at `found_end`, if known."""
        self.found_end = found_end
        return self.walker.continue_to(offset, is_sure=is_sure)

    def unserved(self, keys: Sequence[Key]) -> list[Key]:
        """Return the records that the window was not served."""
        return [key for key in keys if self._lacks(key)]

    def _lacks(self, key: Key) -> bool:
        if key.end is None:
            return key.id is not None and key.id not in self._overview.undated
        if self.lowest is None:
            return key.end <= self.anchor
        return key.end < self.lowest or (key.end == self.lowest and key.id not in self._lowest_ids)
