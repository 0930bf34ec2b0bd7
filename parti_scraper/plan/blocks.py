"""Walks a set by offset whose pages are too small to overlap, as a state machine without I/O.

It counts: as many different records were served as there are places before a border, and the border is at the same
place before and after. So any one change is noticed. An insertion and a deletion could hide each other, so once the
set is seen to move, each record has to come in two walks of its block, and what was walked once is walked again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from parti_scraper.plan.plan import Page, Slice
from parti_scraper.plan.walker import EMPTY_TRIES, MAX_STALLED, Ended, Incomplete

if TYPE_CHECKING:
    from collections.abc import Hashable

    from parti_scraper.plan.page_size import PageSize
    from parti_scraper.plan.plan import Key
    from parti_scraper.plan.walker import Step

# How often the last block is walked again since records were seen below it.
_MAX_CONTINUED = 2
_NOWHERE = 1 << 62


@dataclass(slots=True)
class _Count:
    """What was seen of a block.

    Attributes:
        walk: the records that the walk under way has brought.
        walks: in how many walks each record came.
        unread: positions of records that could not be read.
        border_ties_at: the position of the first record that ended in the same second as the border.
        begins_at: the position after the last record of the block before.
        walked_to: the position after the last record.
        before_border: how many records were before the border in the last walk; None: there was no walk.
    """

    walk: set[Hashable] = field(default_factory=set)
    walks: Counter[Hashable] = field(default_factory=Counter)
    unread: set[int] = field(default_factory=set)
    border_ties_at: int = _NOWHERE
    begins_at: int = 0
    walked_to: int = 0
    before_border: int | None = None

    def end_walk(self, base: int) -> tuple[int, int | None, int]:
        """Return how many places are before the border, now and in the last walk, and how many records to expect."""
        self.walks.update(self.walk)
        self.walk.clear()
        before, before_then = min(self.walked_to, self.border_ties_at), self.before_border
        self.before_border, self.border_ties_at = before, _NOWHERE
        begin = max(base, self.begins_at)
        unread = sum(begin <= position < before for position in self.unread)
        return before, before_then, before - begin - unread


class Blocks:
    """Walks a set block by block, and proves each by counting its records up to a border that stays where it is.

    Each block takes three phases: its border is asked for, its pages are walked, and the border is checked.

    Args:
        size: the page size.

    Attributes:
        counted: what was proved so far was walked once only.
    """

    def __init__(self, size: PageSize) -> None:
        self.frontier: int | None = None
        self.shifts = 0
        self.end = 0
        self.first: Hashable = None
        self.counted = False
        self._size = size
        self._base = 0
        self._length = size.block * max(size.largest, 1)
        self._border: Key | None = None
        # The record that has to come first in this block: the border of the one before.
        self._expected: Key | None = None
        self._count = _Count()
        self._phase: Literal["border", "walk", "check"] = "border"
        self._offset = 0
        # How often blocks were walked again since one was proved further down than `_deepest`.
        self._tries = 0
        self._deepest = 0
        # Empty pages in a row where a record is known to be, and how often the last block was walked again.
        self._empties = 0
        self._continued = 0

    def start(self) -> Slice:
        """Return the first slice: with the border of the first block."""
        return self._ask("border", self._base + self._length)

    def recheck(self, attempt: int) -> Slice:
        """Return the slice with the last record again, after `Ended`."""
        return Slice(max(self.end - 2 ** (attempt + 1), 0), self._size.limit, attempt)

    def rechecked(self, page: Page) -> Step:
        """Take the answer to it: the walk has ended again, or its last block begins again."""
        known = {*self._count.walks, *([self._expected.id] if self._expected else [])}
        return Ended() if known.issuperset(key.id for key in page.known) else self._begin_at(self._base, self._expected)

    def continue_to(self, offset: int, *, is_sure: bool) -> Step:
        """Walk the last block again: in such small pages, a record left out looks the same as one that moved."""
        self._continued += 1
        if self._continued > _MAX_CONTINUED:
            return Incomplete("the server leaves out records, in pages too small to find those below them")
        return self._begin_at(self._base, self._expected)

    def page(self, page: Page) -> Step:
        """Take the answer to the last request."""
        self._size.saw(len(page.keys))
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
        # A record that cannot be read cannot be a border.
        self._tries += 1
        if self._tries > MAX_STALLED:
            return Incomplete("too many records could not be read, so nothing can be counted")
        self._length += 1
        return self._ask("border", self._base + self._length)

    def _walked(self, page: Page) -> Step:
        is_first = self._offset == self._base
        if is_first and self._border is not None and self._border in page.keys[:1]:
            return Incomplete("the server ignores `offset`")
        if is_first and self._expected is not None and page.keys and not self._follows(page.keys[0]):
            self._size.moved()
            return self._begin_at(max(self._base - (1 if page.keys[0] is None else self._length), 0))
        for position, key in enumerate(page.keys, self._offset):
            if position < self._base + self._length:
                self._note(position, key)
        following = self._offset + len(page.keys)
        if not page.keys and (self._border is not None or is_first):
            return self._empty()
        self._empties = 0
        if page.keys and following < self._base + self._length:
            return self._ask("walk", following)
        self._count.walked_to = min(following, self._base + self._length)
        return self._ask("check", self._base + self._length)

    def _empty(self) -> Step:
        """Ask again for a page on which a record is known to be: the border, or that of the block before."""
        self._empties += 1
        if self._empties <= EMPTY_TRIES:
            return replace(self._ask("walk", self._offset), attempt=self._empties)
        if self._border is None and not self._base:
            return Ended(empty=True)
        return Incomplete("the server leaves out records, in pages too small to tell that from a movement")

    def _follows(self, first: Key | None) -> bool:
        """Return whether the block begins at the end of the one before, or above it."""
        expected = self._expected
        if first is None or expected is None:
            return False
        if first.end is None or expected.end is None:
            return first == expected
        return first.end > expected.end

    def _note(self, position: int, key: Key | None) -> None:
        count = self._count
        if key is None:
            count.unread.add(position)
        elif _are_tied(key, self._border):
            count.border_ties_at = min(count.border_ties_at, position)
        elif self._is_of_block_before(key):
            count.begins_at = max(count.begins_at, position + 1)
        else:
            count.walk.add(key.id)

    def _is_of_block_before(self, key: Key) -> bool:
        expected = self._expected
        return expected is not None and None not in {expected.end, key.end} and (key.end or 0) > (expected.end or 0)

    def _checked(self, page: Page, first: Key | None) -> Step:
        before, before_then, expected = self._count.end_walk(self._base)
        walks, moving = self._count.walks, self._size.moving
        tied = _are_tied(first, self._border)
        in_place = first == self._border and (first is not None or not page.keys)
        if moving and tied:
            # Records that ended in the same second may change places, but as many have to come before them.
            in_place = before_then in {None, before}
        if in_place and len(walks) == expected:
            fewest = min(walks.values(), default=2)
            # After the last block there is no border that would show a change.
            is_proved = fewest > 1 or not (moving or self._border is None)
            return self._proved(before, fewest) if is_proved else self._again()
        if not in_place or len(walks) > expected:
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
            self.end = self._count.walked_to
            return Ended()
        self.frontier = self._border.end
        self._expected = self._border
        # The next block begins one record earlier, so that none that ended with the border is skipped.
        base = self._base + self._length if self._border.end is None else max(before - 1, 0)
        if base <= self._base:
            # The whole block ended in the same second.
            self._length *= 2
        elif base > self._deepest:
            self._deepest, self._tries = base, 0
        self._base = base
        self._count = _Count()
        return self.start()

    def _again(self) -> Step:
        """Walk the block again."""
        self._tries += 1
        if self._tries > MAX_STALLED:
            return Incomplete("the set kept moving")
        self._count.unread.clear()
        return self._ask("walk", self._base)

    def _begin_at(self, base: int, expected: Key | None = None) -> Step:
        """Begin a block from its border, since it moved."""
        self.shifts += 1
        self._tries += 1
        if self._tries > MAX_STALLED:
            return Incomplete("the set kept moving")
        self._base, self._expected = base, expected
        self._length = self._size.block * max(self._size.largest, 1)
        self._count = _Count()
        return self.start()

    def _ask(self, phase: Literal["border", "walk", "check"], offset: int) -> Slice:
        self._phase, self._offset = phase, offset
        return Slice(offset, self._size.limit)


def _are_tied(key: Key | None, border: Key | None) -> bool:
    """Return whether two records ended in the same second, as far as is known."""
    return key is not None and border is not None and key.end is not None and key.end == border.end
