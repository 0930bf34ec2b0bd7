"""Offset paging over a set that may move, as state machines without I/O.

A walker takes a page and says what to ask for next: a `PageRequest`, or that it has `Ended`, which has to be probed, is
`Incomplete` with the reason, or `Stuck`, since pages are too small to overlap. That there is no hole is proved, not
assumed:

- `Paging` lets each page overlap the one before. A page that begins with a record that ended later than the last one
  had, or in a set without times with a record that was had, continues it without a hole, whatever moved in between.
- `Blocks` is for pages too small to overlap. It counts: so many records stand before a border, the border stood at the
  same place before and after, and as many different ones were served. Any one change is noticed so. An insertion and a
  deletion could hide each other, so once the set is seen to move, each record has to come in two walks of its block,
  and what was only counted before is walked again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol

from parti_scraper.plan.identities import Identities

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

# Statuses that may mean that the limit was too large.
REFUSALS = frozenset({400, 413, 414, 422})
# What is asked for after a limit was refused: the site itself asks for 12, 15, 30 and 100.
_SMALLER = (500, 250, 100, 50, 30, 15, 12, 10, 5, 2, 1)
# Below, overlapping costs more than counting.
_SMALL = 8
# Requests in a row that bring nothing new, until the set is said to move too much.
_MAX_STALLED = 12
# How often a page is asked for again that is empty though a record is known to be on it.
_EMPTY_TRIES = 3
# How often the last block is walked again since records were seen below it.
_MOST_CROSSED = 2
# The same where no record is known to be on it, since the page before was left out.
_BLIND_TRIES = 2
# How often pages are asked for again in one walk, since they were too short to overlap.
_SHORT_TRIES = 4
# Records in a row of which nothing can be read, until the walk ends.
_MOST_UNREADABLE = 5_000
# Pages that are counted at a time, at most and at least.
BLOCK_PAGES = 20
_LEAST_BLOCK = 4
_NOWHERE = 1 << 62


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Ask for `limit` records from `offset`, counted in the order of the route.

    Attributes:
        attempt: how often the same was asked for in vain; the wait before it grows with it.
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
        belonging: of a control page, which is asked for without filters: the records that belong into the set.
    """

    keys: Sequence[Key | None]
    belonging: Sequence[Key] = ()

    @cached_property
    def known(self) -> list[Key]:
        """The records of which something could be read."""
        return [key for key in self.keys if key is not None]


@dataclass(frozen=True, slots=True)
class Ended:
    """No more records come from here on. It may be the end of the list, or an accident: it has to be probed.

    Attributes:
        empty: no record came at all, not even one that is known to be there.
    """

    empty: bool = False


@dataclass(frozen=True, slots=True)
class Stuck:
    """Pages are too small for the overlap that is needed; `Blocks` can go on."""


@dataclass(frozen=True, slots=True)
class Incomplete:
    """It cannot be shown that everything was served; `reason` is a part of a sentence."""

    reason: str


Step = PageRequest | Ended | Incomplete | Stuck


class PageSize:
    """The limit to ask for and what the server makes of it; shared by all walks over one route.

    Attributes:
        limit: what to ask for.
        largest: most records that a page has held.
        crowded: a page was too small for the overlap that was needed.
        moving: records were seen to have moved while they were counted.
        block: how many pages are counted at a time; fewer, the more the set moves.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.largest = 0
        self.crowded = False
        self.moving = False
        self.block = BLOCK_PAGES

    @property
    def small(self) -> bool:
        """Whether pages hold fewer records than an overlap is worth."""
        return self.crowded and self.largest < _SMALL

    def moved(self) -> None:
        """Count fewer records at a time, which leaves less time for them to move."""
        self.moving = True
        self.block = max(self.block // 2, _LEAST_BLOCK)

    def counted(self) -> None:
        """Count more records at a time again."""
        self.block = min(self.block + 1, BLOCK_PAGES)

    def refused(self, limit: int) -> bool:
        """Step down after `limit` was refused; return whether there is a smaller one to try."""
        if self.largest:
            return False  # It has been taken before, so it is not the limit.
        if self.limit < limit:
            return True
        smaller = [each for each in _SMALLER if each < limit]
        if smaller:
            self.limit = smaller[0]
        return bool(smaller)


class Walker(Protocol):
    """What walks the pages of one set.

    Attributes:
        frontier: every record of the set that ended later has been served; None where nothing can be said yet.
        shifts: how often records were seen to have moved.
        end: the position behind the last record of the last page.
        first: the identity of the first record of the list; None where none is known.
    """

    frontier: int | None
    shifts: int
    end: int
    first: Hashable

    def start(self) -> PageRequest:
        """Return the first request."""
        ...

    def page(self, page: Page) -> Step:
        """Take the answer to the last request."""
        ...

    def recheck(self, attempt: int) -> PageRequest:
        """Return the request for the last record once more, after `Ended`."""
        ...

    def rechecked(self, page: Page) -> Step:
        """Take the answer to it: it has ended again, or goes on."""
        ...

    def cross(self, offset: int, *, is_sure: bool) -> Step:
        """Go on after `Ended`, since a probe has found records at an offset further down; surely ones that are new?"""
        ...


class Paging:
    """Walks a set with overlapping pages, back where they do not meet.

    A short page means nothing: the server may leave records out after it has cut the page. Where a page brings nothing
    new, the walk has ended, perhaps by accident; `cross` then goes on, page by page without a hole.

    Args:
        size: the page size.
        ordered: the set is in the order of its ends, latest first, apart from records without an end, which may be
            anywhere; else only identities link pages.
        frontier: where the walk begins: what ended later has been served.
        had: of those that ended at the frontier, which have been served.
        lenient: pages need not meet, for a set whose order changes all the time and is walked repeatedly.
        undated: identities of the records without an end that were served; the walk adds to them.
        known: how many records the list is known to hold: a short page above that is no sign of the end.
    """

    def __init__(
        self,
        size: PageSize,
        *,
        ordered: bool = True,
        frontier: int | None = None,
        had: frozenset[Hashable] = frozenset(),
        lenient: bool = False,
        undated: Identities | None = None,
        known: int = 0,
    ) -> None:
        self.frontier = frontier
        self.shifts = 0
        self.end = 0
        self.first: Hashable = None
        self._offset = 0
        self._size = size
        self._ordered = ordered
        self._lenient = lenient
        self._had = had
        # Without an order: those of all records of the walk.
        self._served = Identities() if undated is None else undated
        self._last: frozenset[Hashable] = frozenset()
        self._margin = 1
        self._back = 0
        self._stalled = 0
        self._deepest = known
        self._repeats = 0
        self._empties = 0
        self._unreadable = 0
        # A record with an end has come.
        self._has_dated = False
        # How often a page was asked for again since it was too short to overlap.
        self._shorts = 0
        # The next page follows the last one by position, and need not hold a record of it.
        self._blind = False
        # Up to which offset pages may bring nothing new.
        self._cross_to = -1
        # Where a stretch of empty pages began that is still to be walked a second time.
        self._cross_from: int | None = None
        self._is_sure = False
        self._is_new_stretch = True

    def start(self) -> PageRequest:
        """Return the first request."""
        return self._ask(0)

    def recheck(self, attempt: int) -> PageRequest:
        """Return the request for the last record once more, after `Ended`."""
        self._blind = True
        # Where the set shrinks, the last record is further up.
        return self._ask(max(self.end - 2 ** (attempt + 1), 0), attempt)

    def rechecked(self, page: Page) -> Step:
        """Take the answer to it: it has ended again, or goes on."""
        return self.page(page)

    def cross(self, offset: int, *, is_sure: bool) -> Step:
        """Go on after `Ended`, since a probe has found records at an offset further down; surely ones that are new?"""
        self._cross_to, self._cross_from, self._is_sure = offset, None, is_sure
        # An empty answer where a record is known to be says nothing about what follows.
        return self._ask(self._offset) if self._empties else self._advance(len(self._last))

    def page(self, page: Page) -> Step:
        """Take the answer to the last request."""
        self._size.largest = max(self._size.largest, len(page.keys))
        if not page.keys:
            return self._empty()
        known = page.known
        if not known:
            return self._skip(len(page.keys))
        if self._ordered and not _in_order(known):
            self._ordered, self._had = False, frozenset()
            self.shifts += 1
            return self._ask(0)
        if self._offset and not self._meets(known[0]):
            return self._go_back()
        if not self._offset:
            self.first = known[0].id
        elif known[0].id == self.first and not self._brings_new(known):
            return self._came_again(page)
        return self._go_on(page, known)

    def _empty(self) -> Step:
        self._empties += 1
        if self._cross_to >= 0 and self._empties > _BLIND_TRIES:
            if self._offset < self.end or (not self._offset and self._had):
                # Not even the record is served that is known to be here.
                self._cross_to = -1
                return Ended(empty=True)
            self._note_empty()
            return self._nothing_new(0)
        if self._blind:
            if self._empties <= _BLIND_TRIES and not self._lenient:
                return self._ask(self._offset, attempt=self._empties)
            # Above the end a record is known to be.
            return Ended(empty=self._offset < self.end)
        # Pages overlap, so a record is known to be there: the server is in trouble, or the record was deleted.
        tries = _EMPTY_TRIES if self._last or self._had else 1
        if self._empties <= tries:
            return self._ask(self._offset, attempt=self._empties)
        if self._offset and not self._lenient and self._empties <= 2 * tries:
            return self._go_back()
        return Ended(empty=True)

    def _note_empty(self) -> None:
        """Remember where a stretch of empty pages begins, which is walked twice."""
        if self._is_new_stretch:
            self._cross_from, self._is_new_stretch = self._offset, False

    def _came_again(self, page: Page) -> Step:
        """Tell whether the first record stands here because the set has moved, or since `offset` means nothing."""
        self._shorts += 1
        if len(page.keys) >= self._size.largest or self._shorts > _SHORT_TRIES:
            return Incomplete("the server ignores `offset`")
        return self._ask(self._offset, attempt=self._shorts)

    def _skip(self, count: int) -> Step:
        """Pass over a page of which nothing could be read."""
        self._unreadable += count
        self.end = self._offset + count
        if self._unreadable > _MOST_UNREADABLE:
            return Incomplete(f"{self._unreadable} records in a row could not be read")
        self._blind = True
        return self._ask(self._offset + count)

    def _meets(self, first: Key) -> bool:
        if self._lenient or self._blind:
            return True
        if self._ordered and first.end is not None:
            return self.frontier is not None and first.end > self.frontier
        return first.id in self._last

    def _brings_new(self, known: list[Key]) -> bool:
        return any(self._is_new(key) for key in known)

    def _is_new(self, key: Key) -> bool:
        if not self._ordered or key.end is None:
            return key.id is not None and key.id not in self._served
        if self.frontier is None or key.end < self.frontier:
            return True
        return key.end == self.frontier and key.id is not None and key.id not in self._had

    def _go_on(self, page: Page, known: list[Key]) -> Step:
        is_behind = self._blind and self._ordered and 0 < self.end <= self._offset
        if is_behind and known[0].end is not None and known[0].end == self.frontier and self._had != {known[0].id}:
            return Incomplete("the server leaves out records among those that ended in the same second")
        new = self._brings_new(known)
        self._empties = 0
        if new and self._cross_from is not None:
            # Pages were empty on the way, perhaps for a moment only: the same way once more.
            self._offset, self._cross_from = self._cross_from, None
            return self._ask(self._offset)
        self.end = self._offset + len(page.keys)
        self._remember(known)
        if not new:
            self._repeats += 1
            if not self._ordered and self._repeats > _MAX_STALLED and self._offset > self._deepest:
                return Incomplete("the server serves the same records at every `offset`")
            return self._next(page) if self._is_on_the_way(page) else self._nothing_new(len(page.keys))
        self._repeats = 0
        self._blind, self._cross_to, self._unreadable, self._is_new_stretch = False, -1, 0, True
        reached = self._offset + len(page.keys)
        if reached > self._deepest:
            self._deepest, self._stalled = reached, 0
        self._back = 0
        return self._next(page)

    def _is_on_the_way(self, page: Page) -> bool:
        """Tell whether a page without anything new is no sign of the end."""
        if self._cross_to >= 0:
            return False
        # A full page of what was served, which the server serves once more where the walk begins; a page that was gone
        # back to; or records without an end, above those that the walk is about.
        is_head = self._ordered and self._had and not self._has_dated
        return len(page.keys) >= self._size.largest or self._offset + len(page.keys) < self._deepest or bool(is_head)

    def _remember(self, known: list[Key]) -> None:
        self._last = frozenset(key.id for key in known if key.id is not None)
        for key in known:
            if key.id is not None and (key.end is None or not self._ordered):
                self._served.add(key.id)
        ends = [key.end for key in known if key.end is not None]
        if not self._ordered or not ends:
            return
        self._has_dated = True
        last_end = ends[-1]
        group = frozenset(key.id for key in known if key.end == last_end)
        if last_end == self.frontier:
            group |= self._had
        if self.frontier is None or last_end <= self.frontier:
            self.frontier, self._had = last_end, group

    def _nothing_new(self, served: int) -> Step:
        if self._cross_to < 0:
            return Ended()
        if self._offset < self._cross_to:
            return self._advance(served)
        if not self._is_sure:
            self._cross_to = -1
            return Ended()
        return Incomplete("records stand below a stretch that the server leaves out, and could not be reached")

    def _advance(self, served: int) -> PageRequest:
        """Ask for what follows by position; where the page was empty, for a quarter of it once more."""
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
        if overlap >= served or (self._size.largest < _SMALL and self._offset):
            self._size.crowded = True
            return Stuck()
        return self._ask(self._offset + served - overlap)

    def _go_past_short(self, first_of_group: int) -> PageRequest:
        """Go on after a page that is too short to overlap with the next one, since most of it was left out."""
        self._shorts += 1
        if self._shorts <= _SHORT_TRIES:
            # Perhaps for a moment only.
            return self._ask(self._offset, attempt=self._shorts)
        return self._advance(first_of_group or 1)

    def _first_of_last_group(self, page: Page) -> int:
        """Return from where on the next page has to show the records of this one."""
        last = max(place for place, key in enumerate(page.keys) if key is not None)
        end = page.known[-1].end
        if not self._ordered or end is None:
            return last + 1
        return next(place for place, key in enumerate(page.keys) if key is not None and key.end == end)

    def _go_back(self) -> Step:
        self.shifts += 1
        self._back = max(self._back * 2, self._margin + 1)
        self._margin = min(self._margin + 1, max(self._size.largest // 4, 1))
        self._stalled += 1
        if self._stalled > _MAX_STALLED:
            return Incomplete("the set kept moving")
        return self._ask(max(self._offset - self._back, 0))

    def _ask(self, offset: int, attempt: int = 0) -> PageRequest:
        self._offset = offset
        return PageRequest(offset, self._size.limit, attempt)


class Blocks:
    """Walks a set block by block, and proves each by counting its records up to a border that stays where it is.

    Attributes:
        counted: what was proved so far was walked once only.
    """

    def __init__(self, size: PageSize) -> None:
        self.frontier: int | None = None
        self.shifts = 0
        self.counted = False
        self._size = size
        self._base = 0
        self._length = size.block * max(size.largest, 1)
        self._border: Key | None = None
        # What has to stand first in this block: the border of the one before.
        self._expected: Key | None = None
        self._phase = "border"
        self._tries = 0
        self._deepest = 0
        self.end = 0
        self.first: Hashable = None
        self._offset = 0
        # Of this block: what this walk has brought, and in how many walks each record came.
        self._walk: set[Hashable] = set()
        self._walks: Counter[Hashable] = Counter()
        # At which positions something that could not be read, and where the first record stands that ended when the
        # border did.
        self._unread: set[int] = set()
        self._border_group_at = _NOWHERE
        self._begins_at = 0
        self._walked_to = 0
        # How many stood before the border in the walk before.
        self._before: int | None = None
        # Empty pages in a row where a record is known to be, and how often the last block was walked again.
        self._empties = 0
        self._crossed = 0

    def start(self) -> PageRequest:
        """Return the first request: for the border of the first block."""
        return self._ask("border", self._base + self._length)

    def recheck(self, attempt: int) -> PageRequest:
        """Return the request for the last record once more, after `Ended`."""
        return PageRequest(max(self.end - 2 ** (attempt + 1), 0), self._size.limit, attempt)

    def rechecked(self, page: Page) -> Step:
        """Take the answer to it: the walk has ended again, or its last block begins again."""
        known = {*self._walks, *([self._expected.id] if self._expected else [])}
        return Ended() if known.issuperset(key.id for key in page.known) else self._begin_at(self._base, self._expected)

    def cross(self, offset: int, *, is_sure: bool) -> Step:
        """Walk the last block again: what the server leaves out in so small pages cannot be told from a movement."""
        self._crossed += 1
        if self._crossed > _MOST_CROSSED:
            return Incomplete("the server leaves out records, in pages too small to find those below them")
        return self._begin_at(self._base, self._expected)

    def page(self, page: Page) -> Step:
        """Take the answer to the last request."""
        self._size.largest = max(self._size.largest, len(page.keys))
        # A record is counted by its identity; without one it only takes up its place.
        page = Page([None if key is None or key.id is None else key for key in page.keys])
        if self._size.moving and self.counted:
            self.counted, self._deepest = False, 0
            return self._begin_at(0)
        first = page.keys[0] if page.keys else None
        if self._phase == "border":
            if page.keys and first is None:
                return self._move_border()
            self._border = first
            return self._ask("walk", self._base)
        if self._phase == "walk":
            return self._walked(page)
        return self._checked(page, first)

    def _move_border(self) -> Step:
        # A record that cannot be read is no border.
        self._tries += 1
        if self._tries > _MAX_STALLED:
            return Incomplete("so many records could not be read that nothing can be counted")
        self._length += 1
        return self._ask("border", self._base + self._length)

    def _walked(self, page: Page) -> Step:
        if self._offset == self._base and self._border is not None and self._border in page.keys[:1]:
            return Incomplete("the server ignores `offset`")
        if self._offset == self._base and self._expected is not None and page.keys and not self._follows(page.keys[0]):
            self._size.moved()
            return self._begin_at(max(self._base - (1 if page.keys[0] is None else self._length), 0))
        for position, key in enumerate(page.keys, self._offset):
            if position < self._base + self._length:
                self._note(position, key)
        following = self._offset + len(page.keys)
        if not page.keys and (self._border is not None or self._offset == self._base):
            return self._empty()
        self._empties = 0
        if page.keys and following < self._base + self._length:
            return self._ask("walk", following)
        self._walked_to = min(following, self._base + self._length)
        return self._ask("check", self._base + self._length)

    def _empty(self) -> Step:
        """Ask again for a page on which a record is known to be: the border, or that of the block before."""
        self._empties += 1
        if self._empties <= _EMPTY_TRIES:
            return replace(self._ask("walk", self._offset), attempt=self._empties)
        if self._border is None and not self._base:
            return Ended(empty=True)
        return Incomplete("the server leaves out records, in pages too small to tell that from a movement")

    def _follows(self, first: Key | None) -> bool:
        """Tell whether the block begins where the one before has reached, or before."""
        expected = self._expected
        if first is None or expected is None:
            return False
        if first.end is None or expected.end is None:
            return first == expected
        return first.end > expected.end

    def _note(self, position: int, key: Key | None) -> None:
        if key is None:
            self._unread.add(position)
        elif self._border is not None and key.end is not None and key.end == self._border.end:
            self._border_group_at = min(self._border_group_at, position)
        elif self._is_of_block_before(key):
            self._begins_at = max(self._begins_at, position + 1)
        else:
            self._walk.add(key.id)

    def _is_of_block_before(self, key: Key) -> bool:
        expected = self._expected
        return expected is not None and None not in {expected.end, key.end} and (key.end or 0) > (expected.end or 0)

    def _checked(self, page: Page, first: Key | None) -> Step:
        self._walks.update(self._walk)
        self._walk.clear()
        before, before_then = min(self._walked_to, self._border_group_at), self._before
        self._before, self._border_group_at = before, _NOWHERE
        begin = max(self._base, self._begins_at)
        expected = before - begin - sum(begin <= position < before for position in self._unread)
        border, moving = self._border, self._size.moving
        tied = first is not None and border is not None and first.end is not None and first.end == border.end
        in_place = first == border and (first is not None or not page.keys)
        if moving and tied:
            # Records that ended in the same second may change places; but as many have to stand before them.
            in_place = before_then in {None, before}
        if in_place and len(self._walks) == expected:
            walks = min(self._walks.values(), default=2)
            return self._proved(before, walks) if walks > 1 or not moving else self._again()
        if not in_place or len(self._walks) > expected:
            if not tied:
                self._size.moved()
            return self._begin_at(self._base, self._expected)
        # Some came twice, and hid others.
        self.shifts += 1
        return self._again()

    def _proved(self, before: int, walks: int) -> Step:
        self.counted = self.counted or walks == 1
        self._size.counted()
        if self._border is None:
            self.end = self._walked_to
            return Ended()
        self.frontier = self._border.end
        self._expected = self._border
        # One that ended later comes first again, so that none of those that ended with the border slides past.
        base = self._base + self._length if self._border.end is None else max(before - 1, 0)
        if base <= self._base:
            # As many ended in the same second.
            self._length *= 2
        elif base > self._deepest:
            self._deepest, self._tries = base, 0
        self._base = base
        self._forget()
        return self.start()

    def _again(self) -> Step:
        """Walk the block once more."""
        self._tries += 1
        if self._tries > _MAX_STALLED:
            return Incomplete("the set kept moving")
        self._unread.clear()
        return self._ask("walk", self._base)

    def _begin_at(self, base: int, expected: Key | None = None) -> Step:
        """Begin a block anew, since it moved."""
        self.shifts += 1
        self._tries += 1
        if self._tries > _MAX_STALLED:
            return Incomplete("the set kept moving")
        self._base, self._expected = base, expected
        self._length = self._size.block * max(self._size.largest, 1)
        self._forget()
        return self.start()

    def _forget(self) -> None:
        self._walk.clear()
        self._walks.clear()
        self._unread.clear()
        self._border_group_at = _NOWHERE
        self._begins_at = 0
        self._walked_to = 0
        self._before = None

    def _ask(self, phase: str, offset: int) -> PageRequest:
        self._phase, self._offset = phase, offset
        return PageRequest(offset, self._size.limit)


def _in_order(known: list[Key]) -> bool:
    """Tell whether each record ended as late as the next or later, of those of which that is known."""
    ends = [key.end for key in known if key.end is not None]
    return all(a >= b for a, b in pairwise(ends))
