"""Walks a set by offset with pages that overlap, as a state machine without I/O.

That nothing is missing is proved, not assumed: a page that begins with a record that ended later than the last one
served, or in a set without times with a record that was served, continues the page before without a hole, even if
records moved in between.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from parti_scraper.plan.identities import Identities
from parti_scraper.plan.page_size import SMALL_PAGE
from parti_scraper.plan.plan import Slice
from parti_scraper.plan.walker import EMPTY_TRIES, MAX_STALLED, Ended, Incomplete, PageTooSmall

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from parti_scraper.plan.page_size import PageSize
    from parti_scraper.plan.plan import Key, Page
    from parti_scraper.plan.walker import Step

# How often an empty page is asked for again if no record is known to be on it.
_BLIND_TRIES = 2
# How often pages that are too short to overlap are asked for again in one walk.
_SHORT_TRIES = 4
# Unreadable records in a row after which the walk ends.
_MAX_UNREADABLE = 5_000


class _Served:
    """What a walk was served, as far as is needed to recognize new records, and pages that continue the walk.

    Attributes:
        ordered: the set is in the order of its ends, as far as has been seen.
        frontier: every record that ended later was served; None while this is unknown.
        ties: the identities of those served that ended at the frontier.
        last_page: the identities on the last page.
        has_dated: a record with an end has come.
    """

    def __init__(
        self, *, ordered: bool, frontier: int | None, ties: frozenset[Hashable], undated: Identities | None
    ) -> None:
        self.ordered = ordered
        self.frontier = frontier
        self.ties = ties
        self.last_page: frozenset[Hashable] = frozenset()
        self.has_dated = False
        # Those of records without an end; in a set without order, those of all records of the walk.
        self._identities = Identities() if undated is None else undated

    def give_up_order(self) -> None:
        """Link pages by identities alone from now on."""
        self.ordered, self.ties = False, frozenset()

    def continued_by(self, first: Key) -> bool:
        """Return whether nothing can be missing above a page with this first record."""
        if self.ordered and first.end is not None:
            return self.frontier is not None and first.end > self.frontier
        return first.id in self.last_page

    def lacks_any(self, records: Sequence[Key]) -> bool:
        return any(self._lacks(key) for key in records)

    def _lacks(self, key: Key) -> bool:
        if not self.ordered or key.end is None:
            return key.id is not None and key.id not in self._identities
        if self.frontier is None or key.end < self.frontier:
            return True
        return key.end == self.frontier and key.id is not None and key.id not in self.ties

    def add(self, page: Page) -> None:
        self.last_page = frozenset(key.id for key in page.known if key.id is not None)
        for key in page.known:
            if key.id is not None and (key.end is None or not self.ordered):
                self._identities.add(key.id)
        if not self.ordered or not page.ends:
            return
        self.has_dated = True
        last_end = page.ends[-1]
        ties = page.ids_ended_at(last_end)
        if last_end == self.frontier:
            ties |= self.ties
        if self.frontier is None or last_end <= self.frontier:
            self.frontier, self.ties = last_end, ties


class _Detour:
    """The way to records that a probe has found, past a stretch where the server serves nothing new.

    Attributes:
        sure: it is certain that the records found are new.
    """

    def __init__(self) -> None:
        self.sure = False
        # Up to which offset pages may bring nothing new.
        self._target = -1
        # Where empty pages began: they are walked a second time if more comes after them.
        self._first_empty: int | None = None
        self._is_new_stretch = True

    @property
    def under_way(self) -> bool:
        """Whether pages may bring nothing new."""
        return self._target >= 0

    def begin(self, offset: int, *, sure: bool) -> None:
        """Begin the way to an offset."""
        self._target, self._first_empty, self.sure = offset, None, sure

    def stop(self) -> None:
        """Treat a page without new records as the end again."""
        self._target = -1

    def arrived(self) -> None:
        self._target, self._is_new_stretch = -1, True

    def leads_beyond(self, offset: int) -> bool:
        """Return whether the records found are further down than the offset."""
        return offset < self._target

    def note_empty(self, offset: int) -> None:
        """Note an empty page; the first one of a stretch is remembered."""
        if self._is_new_stretch:
            self._first_empty, self._is_new_stretch = offset, False

    def take_first_empty(self) -> int | None:
        """Return where the empty pages began that are to be walked a second time, and forget it."""
        offset, self._first_empty = self._first_empty, None
        return offset


class Paging:
    """Walks a set with overlapping pages, and goes back where they do not meet.

    A short page means nothing: the server may leave records out after it has cut the page. If a page brings nothing
    new, the walk has ended, perhaps by accident; `continue_to` then continues it, page by page without a hole.

    Args:
        size: the page size.
        ordered: records are in the order of their ends, latest first, except those without an end, which may be
            anywhere; else only identities link pages.
        frontier: where the walk begins, in Unix seconds: what ended later was served.
        ties: the identities of those served that ended at the frontier.
        lenient: pages need not meet, for a set whose order changes all the time and is walked repeatedly.
        undated: identities of the records without an end that were served; the walk adds to them.
        known: how many records the list is known to hold: a short page above that does not mean the end.
    """

    def __init__(
        self,
        size: PageSize,
        *,
        ordered: bool = True,
        frontier: int | None = None,
        ties: frozenset[Hashable] = frozenset(),
        lenient: bool = False,
        undated: Identities | None = None,
        known: int = 0,
    ) -> None:
        self.shifts = 0
        self.end = 0
        self.first: Hashable = None
        self._offset = 0
        self._size = size
        self._lenient = lenient
        self._served = _Served(ordered=ordered, frontier=frontier, ties=ties, undated=undated)
        self._detour = _Detour()
        # How many records pages are to overlap by, and how many the last step back was.
        self._margin = 1
        self._back = 0
        # The position after the last new record, and requests since then.
        self._deepest = known
        self._stalled = 0
        # In a row: pages without anything new, empty pages, and records of which nothing could be read.
        self._repeats = 0
        self._empties = 0
        self._unreadable = 0
        # How often a page was asked for again since it was too short to overlap.
        self._shorts = 0
        # The next page follows the last one by position, and need not share a record with it.
        self._blind = False

    @property
    def frontier(self) -> int | None:
        """Every record of the set that ended later was served; None while this is unknown."""
        return self._served.frontier

    def start(self) -> Slice:
        """Return the first slice."""
        return self._ask(0)

    def recheck(self, attempt: int) -> Slice:
        """Return the slice with the last record again, after `Ended`."""
        self._blind = True
        # If the set has shrunk, the last record is further up.
        return self._ask(max(self.end - 2 ** (attempt + 1), 0), attempt)

    def rechecked(self, page: Page) -> Step:
        """Take the answer to it: the walk has ended again, or continues."""
        return self.page(page)

    def continue_to(self, offset: int, *, is_sure: bool) -> Step:
        """Continue after `Ended`, see `Walker`."""
        self._detour.begin(offset, sure=is_sure)
        # An empty answer where a record is known to be does not show what follows.
        return self._ask(self._offset) if self._empties else self._advance(len(self._served.last_page))

    def page(self, page: Page) -> Step:
        """Take the answer to the last request."""
        self._size.saw(len(page.keys))
        if not page.keys:
            return self._empty()
        if not page.known:
            return self._skip(len(page.keys))
        if self._served.ordered and not _in_order(page.ends):
            self._served.give_up_order()
            self.shifts += 1
            return self._ask(0)
        first = page.known[0]
        if self._offset and not (self._lenient or self._blind or self._served.continued_by(first)):
            return self._go_back()
        if not self._offset:
            self.first = first.id
        elif first.id == self.first and not self._served.lacks_any(page.known):
            return self._came_again(page)
        return self._advance_with(page)

    def _empty(self) -> Step:
        self._empties += 1
        if self._detour.under_way and self._empties > _BLIND_TRIES:
            if self._offset < self.end or (not self._offset and self._served.ties):
                # Even a record that is known to be here is not served.
                self._detour.stop()
                return Ended(empty=True)
            self._detour.note_empty(self._offset)
            return self._nothing_new(0)
        if self._blind:
            if self._empties <= _BLIND_TRIES and not self._lenient:
                return self._ask(self._offset, attempt=self._empties)
            # Above the end, a record is known to be there.
            return Ended(empty=self._offset < self.end)
        # Pages overlap, so a record is known to be there: the server has a problem, or the record was deleted.
        tries = EMPTY_TRIES if self._served.last_page or self._served.ties else 1
        if self._empties <= tries:
            return self._ask(self._offset, attempt=self._empties)
        if self._offset and not self._lenient and self._empties <= 2 * tries:
            return self._go_back()
        return Ended(empty=True)

    def _came_again(self, page: Page) -> Step:
        """Find out whether the first record is on this page since the set has moved, or since `offset` is ignored."""
        self._shorts += 1
        if len(page.keys) >= self._size.largest or self._shorts > _SHORT_TRIES:
            return Incomplete("the server ignores `offset`")
        return self._ask(self._offset, attempt=self._shorts)

    def _skip(self, count: int) -> Step:
        """Skip a page on which no record could be read."""
        self._unreadable += count
        self.end = self._offset + count
        if self._unreadable > _MAX_UNREADABLE:
            return Incomplete(f"{self._unreadable} records in a row could not be read")
        self._blind = True
        return self._ask(self._offset + count)

    def _advance_with(self, page: Page) -> Step:
        if self._may_hide_ties(page.known[0]):
            return Incomplete("the server leaves out records among those that ended in the same second")
        is_new = self._served.lacks_any(page.known)
        self._empties = 0
        if is_new and (first_empty := self._detour.take_first_empty()) is not None:
            # Pages were empty on the way, perhaps for a moment only: walk them again.
            return self._ask(first_empty)
        self.end = self._offset + len(page.keys)
        self._served.add(page)
        if not is_new:
            return self._brought_nothing_new(page)
        self._repeats = self._unreadable = self._back = 0
        self._blind = False
        self._detour.arrived()
        if self.end > self._deepest:
            self._deepest, self._stalled = self.end, 0
        return self._next(page)

    def _may_hide_ties(self, first: Key) -> bool:
        """Return whether the page follows only by position, and begins in the second that the walk has reached."""
        is_behind = self._blind and self._served.ordered and 0 < self.end <= self._offset
        is_tied = first.end is not None and first.end == self.frontier
        return is_behind and is_tied and self._served.ties != {first.id}

    def _brought_nothing_new(self, page: Page) -> Step:
        self._repeats += 1
        if not self._served.ordered and self._repeats > MAX_STALLED and self._offset > self._deepest:
            return Incomplete("the server serves the same records at every `offset`")
        return self._next(page) if self._is_on_the_way(page) else self._nothing_new(len(page.keys))

    def _is_on_the_way(self, page: Page) -> bool:
        """Return whether a page without new records does not mean the end."""
        if self._detour.under_way:
            return False
        # A full page of records that were served before, at the start of the walk; a page that the walk went back to;
        # or records without an end, above those that the walk is about.
        is_head = self._served.ordered and self._served.ties and not self._served.has_dated
        return len(page.keys) >= self._size.largest or self._offset + len(page.keys) < self._deepest or bool(is_head)

    def _nothing_new(self, served: int) -> Step:
        if not self._detour.under_way:
            return Ended()
        if self._detour.leads_beyond(self._offset):
            return self._advance(served)
        if not self._detour.sure:
            self._detour.stop()
            return Ended()
        return Incomplete("there are records below a stretch that the server leaves out, which could not be reached")

    def _advance(self, served: int) -> Slice:
        """Ask for what follows by position; after an empty page, a quarter of that page is asked for again."""
        self._blind, self._empties = True, 0
        step = served or self._size.largest - self._size.largest // 4
        return self._ask(self._offset + max(step, 1))

    def _next(self, page: Page) -> Step:
        served = len(page.keys)
        if self._lenient:
            # Pages of one record cannot overlap.
            self._blind = served == 1
            return self._ask(self._offset + max(served - 1, 1))
        first_of_group = self._first_of_last_group(page)
        overlap = served - first_of_group + self._margin
        if overlap >= served and self._margin > 1:
            self._margin = 1
            overlap = served - first_of_group + 1
        if overlap >= served and served < self._size.largest:
            return self._go_past_short(first_of_group)
        if overlap >= served or (self._size.largest < SMALL_PAGE and self._offset):
            self._size.cannot_overlap()
            return PageTooSmall()
        return self._ask(self._offset + served - overlap)

    def _go_past_short(self, first_of_group: int) -> Slice:
        """Continue after a page that is too short to overlap with the next one, since most of it was left out."""
        self._shorts += 1
        if self._shorts <= _SHORT_TRIES:
            # Perhaps for a moment only.
            return self._ask(self._offset, attempt=self._shorts)
        return self._advance(first_of_group or 1)

    def _first_of_last_group(self, page: Page) -> int:
        """Return the place from which the next page has to show the records of this one."""
        last = max(place for place, key in enumerate(page.keys) if key is not None)
        end = page.known[-1].end
        if not self._served.ordered or end is None:
            return last + 1
        return next(place for place, key in enumerate(page.keys) if key is not None and key.end == end)

    def _go_back(self) -> Step:
        self.shifts += 1
        self._back = max(self._back * 2, self._margin + 1)
        self._margin = min(self._margin + 1, max(self._size.largest // 4, 1))
        self._stalled += 1
        if self._stalled > MAX_STALLED:
            return Incomplete("the set kept moving")
        return self._ask(max(self._offset - self._back, 0))

    def _ask(self, offset: int, attempt: int = 0) -> Slice:
        self._offset = offset
        return Slice(offset, self._size.limit, attempt)


def _in_order(ends: Sequence[int]) -> bool:
    return all(a >= b for a, b in pairwise(ends))
