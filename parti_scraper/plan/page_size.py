"""How many records to ask for in a page, and how many the server puts on one."""

from __future__ import annotations

# Statuses that may mean that the limit was too large.
REFUSALS = frozenset({400, 413, 414, 422})
# Limits to try after one was refused: the site itself asks for 12, 15, 30 and 100.
_SMALLER = (500, 250, 100, 50, 30, 15, 12, 10, 5, 2, 1)
# On pages with fewer records, overlap costs more than counting.
SMALL_PAGE = 8
# Pages that are counted at a time, at most and at least.
BLOCK_PAGES = 20
_MIN_BLOCK_PAGES = 4


class PageSize:
    """The limit to ask for and what the server makes of it; shared by all walks over one route.

    Attributes:
        limit: records to ask for.
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
        """Whether pages are too small to overlap, so that their records are counted."""
        return self.crowded and self.largest < SMALL_PAGE

    def saw(self, records: int) -> None:
        """Note how many records a page has held."""
        self.largest = max(self.largest, records)

    def restore(self, limit: int, largest: int) -> None:
        """Continue with what a stopped run had found."""
        self.limit, self.largest = limit, largest

    def cannot_overlap(self) -> None:
        """Note that a page was too small for the overlap that was needed."""
        self.crowded = True

    def moved(self) -> None:
        """Note a movement, and count fewer records at a time, so that they have less time to move."""
        self.moving = True
        self.block = max(self.block // 2, _MIN_BLOCK_PAGES)

    def counted(self) -> None:
        """Count more records at a time again."""
        self.block = min(self.block + 1, BLOCK_PAGES)

    def refused(self, limit: int) -> bool:
        """Step down after `limit` was refused; return whether there is a smaller one to try."""
        if self.largest:
            return False  # It was accepted before, so the limit is not the reason.
        if self.limit < limit:
            return True
        smaller = [each for each in _SMALLER if each < limit]
        if smaller:
            self.limit = smaller[0]
        return bool(smaller)
