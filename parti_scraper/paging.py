"""Offset paging over a set that may move, as state machines without I/O.

A walker takes a page and says what to ask for next: a `PageRequest`, or that it is `Complete`, `Incomplete` with the
reason, or `Stuck`, since pages are too small to overlap. What is had is proved, not assumed:

- `Paging` lets each page overlap the one before. A page that begins with a record that ended later than the last one
  had, or in a set without times with a record that was had, continues it without a hole, whatever moved in between.
- `Blocks` is for pages too small to overlap. It counts: so many records stand before a border, the border stood at the
  same place before and after, and as many different ones were served. Any one change is noticed so. An insertion and a
  deletion could hide each other, so once the set is seen to move, each record has to come in two walks of its block,
  and what was only counted before is walked again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

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
# Pages that are counted at a time, at most and at least.
BLOCK_PAGES = 20
_LEAST_BLOCK = 4
_NOWHERE = 1 << 62


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Ask for `limit` records from `offset`, counted in the order of the route."""

    offset: int
    limit: int


class Key(NamedTuple):
    """What paging needs of a record: its identity, and when it ended in Unix seconds, if that is known."""

    id: Hashable
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """The records of a page in the order served; None for one that could not be read."""

    keys: Sequence[Key | None]

    @property
    def known(self) -> list[Key]:
        """The records that could be read."""
        return [key for key in self.keys if key is not None]


@dataclass(frozen=True, slots=True)
class Complete:
    """The end was reached, and it is no accident."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """Pages are too small for the overlap that is needed; `Blocks` can go on."""


@dataclass(frozen=True, slots=True)
class Incomplete:
    """It cannot be shown that everything was served; `reason` is a part of a sentence."""

    reason: str


Step = PageRequest | Complete | Incomplete | Stuck


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
    """

    frontier: int | None
    shifts: int

    def start(self) -> PageRequest:
        """Return the first request."""
        ...

    def page(self, page: Page) -> Step:
        """Take the answer to the last request."""
        ...


class Paging:
    """Walks a set with overlapping pages, back where they do not meet.

    Args:
        size: the page size.
        ordered: the set is in the order of its ends, latest first; else only identities link pages.
        frontier: where the walk begins: what ended later is had already.
        had: of those that ended at the frontier, which are had.
        lenient: pages need not meet, for a set whose order changes all the time and is walked repeatedly.
    """

    def __init__(
        self,
        size: PageSize,
        *,
        ordered: bool = True,
        frontier: int | None = None,
        had: frozenset[Hashable] = frozenset(),
        lenient: bool = False,
    ) -> None:
        self.frontier = frontier
        self.shifts = 0
        self._size = size
        self._ordered = ordered
        self._lenient = lenient
        self._had = had
        self._offset = 0
        self._margin = 1
        self._back = 0
        self._stalled = 0
        self._deepest = 0
        self._first: Hashable = None
        self._empties = 0

    def start(self) -> PageRequest:
        """Return the first request."""
        return self._ask(0)

    def page(self, page: Page) -> Step:
        """Take the answer to the last request."""
        self._size.largest = max(self._size.largest, len(page.keys))
        if not page.keys:
            return self._empty()
        known = page.known
        if not known:
            return self._stall(self._offset + len(page.keys))
        if self._ordered and not _in_order(known):
            self._ordered, self._had = False, frozenset()
            self.shifts += 1
            return self._ask(0)
        if self._offset and not self._meets(known):
            return self._go_back()
        if not self._offset:
            self._first = known[0].id
        elif known[0].id == self._first and len(page.keys) >= self._size.largest and not self._brings_new(known):
            return Incomplete("the server ignores `offset`")
        return self._go_on(page, known)

    def _empty(self) -> Step:
        if self._offset:
            # A page that was to overlap the last one is empty only by accident, or where the set shrank.
            return Complete() if self._lenient else self._go_back()
        self._empties += 1
        # An empty list may be an accident; the more so where a record is known to be in it.
        return Complete() if self._empties > (2 if self._had else 1) else self._ask(0)

    def _meets(self, known: list[Key]) -> bool:
        if self._lenient:
            return True
        if self._ordered:
            end, frontier = known[0].end, self.frontier
            return end is not None and frontier is not None and end > frontier
        return known[0].id in self._had

    def _brings_new(self, known: list[Key]) -> bool:
        return any(self._is_new(key) for key in known)

    def _is_new(self, key: Key) -> bool:
        if not self._ordered or self.frontier is None or key.end is None:
            return key.id not in self._had
        return key.end < self.frontier or (key.end == self.frontier and key.id not in self._had)

    def _go_on(self, page: Page, known: list[Key]) -> Step:
        new = self._brings_new(known)
        last_end = known[-1].end
        if self._ordered and last_end is not None:
            group = {key.id for key in known if key.end == last_end}
            if last_end == self.frontier:
                group |= self._had
            if self.frontier is None or last_end <= self.frontier:
                self.frontier, self._had = last_end, frozenset(group)
        elif not self._ordered:
            self._had = self._had | {key.id for key in known} if self._lenient else frozenset(key.id for key in known)
        if not new:
            if len(page.keys) < self._size.largest:
                return Complete()
            # A full page of what was had, which the server serves once more where the walk begins.
            return self._next(page, last_end)
        reached = self._offset + len(page.keys)
        if reached > self._deepest:
            self._deepest, self._stalled = reached, 0
        self._back = self._empties = 0
        return self._next(page, last_end)

    def _next(self, page: Page, last_end: int | None) -> Step:
        served = len(page.keys)
        if self._lenient:
            return self._ask(self._offset + max(served - 1, 1))
        if self._ordered:
            first_of_group = next(i for i, key in enumerate(page.keys) if key is not None and key.end == last_end)
        else:
            first_of_group = max(i for i, key in enumerate(page.keys) if key is not None) + 1
        overlap = served - first_of_group + self._margin
        if overlap >= served and self._margin > 1:
            self._margin = 1
            overlap = served - first_of_group + 1
        if overlap >= served or (self._size.largest < _SMALL and self._offset):
            return self._stuck()
        return self._ask(self._offset + served - overlap)

    def _stuck(self) -> Stuck:
        self._size.crowded = True
        return Stuck()

    def _go_back(self) -> Step:
        self.shifts += 1
        self._back = max(self._back * 2, self._margin + 1)
        self._margin = min(self._margin + 1, max(self._size.largest // 4, 1))
        return self._stall(max(self._offset - self._back, 0))

    def _stall(self, offset: int) -> Step:
        self._stalled += 1
        if self._stalled > _MAX_STALLED:
            return Incomplete("the set kept moving")
        return self._ask(offset)

    def _ask(self, offset: int) -> PageRequest:
        self._offset = offset
        return PageRequest(offset, self._size.limit)


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

    def start(self) -> PageRequest:
        """Return the first request: for the border of the first block."""
        return self._ask("border", self._base + self._length)

    def page(self, page: Page) -> Step:
        """Take the answer to the last request."""
        self._size.largest = max(self._size.largest, len(page.keys))
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
        if page.keys and following < self._base + self._length:
            return self._ask("walk", following)
        self._walked_to = min(following, self._base + self._length)
        return self._ask("check", self._base + self._length)

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
            return Complete()
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
    """Tell whether all ends are known, each as late as the next or later."""
    ends = [key.end for key in known]
    return all(a is not None and b is not None and a >= b for a, b in zip(ends, ends[1:] or ends, strict=False))
