"""The windows of time that were not begun, and the length of the next one."""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING

from parti_scraper.plan.page_size import BLOCK_PAGES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from parti_scraper.plan.page_size import PageSize
    from parti_scraper.plan.plan import Span
    from parti_scraper.plan.window import Window

_WINDOW_PAGES = 10
# How many times longer a window may be while much is left.
_MAX_LENGTHS = 4


class Backlog:
    """Windows that were not begun, cut to a length that depends on the density of records.

    Args:
        spans: the windows.
        length: how long a window is to be at first, in seconds.
        width: most windows at a time.
        size: the page size.
    """

    def __init__(self, spans: Iterable[Span], length: int, width: int, size: PageSize) -> None:
        # Always the latest last: `History` begins none below the end of the list.
        self._spans = sorted(spans)
        self._length = length
        self._width = width
        self._size = size

    @property
    def spans(self) -> list[Span]:
        """The windows, the latest last."""
        return self._spans.copy()

    @property
    def latest(self) -> int | None:
        """When the latest window ends, in Unix seconds; None where there is none."""
        return self._spans[-1][0] if self._spans else None

    def add(self, spans: Iterable[Span]) -> None:
        self._spans = sorted([*spans, *self._spans])

    def clear(self) -> list[Span]:
        """Return the windows and forget them."""
        spans, self._spans = self._spans, []
        return spans

    def take(self, *, whole: bool) -> Span:
        """Return the latest window, whole or as long as the next one is to be."""
        piece = self._piece
        high, low = self._spans.pop()
        if not whole and self._width > 1 and high - low > piece:
            self._spans.append((high - piece, low))
            low = high - piece
        return high, low

    def reached(self, low: int, frontier: int) -> None:
        """Remove what a page has shown of the window right below `low`."""
        following = next((each for each in self._spans if each[0] == low), None)
        if following:
            self._spans.remove(following)
            if frontier > following[1]:
                insort(self._spans, (frontier, following[1]))

    def measure(self, window: Window, frontier: int) -> None:
        """Adapt the length of windows to the density of what ended between the anchor and `frontier`."""
        records = max(window.served_below, 1)
        self._length = max((window.anchor - frontier) * self._window_pages * self._size.largest // records, 1)

    def was_sparse(self, window: Window) -> bool:
        """Return whether a window took half as many pages as it should, or fewer."""
        return window.pages < self._window_pages // 2

    def lengthen(self) -> None:
        """Make windows longer, since there are fewer livestreams than expected."""
        self._length *= 2

    def cut(self, window: Window, frontier: int) -> None:
        """Take over the part of a window far below, which others can walk at the same time."""
        low = frontier - self._piece
        if self._width > 1 and low > window.low:
            insort(self._spans, (low, window.low))
            window.cut(low)

    @property
    def _window_pages(self) -> int:
        # Small pages are proved in blocks; a window holds as many blocks as it would hold pages.
        return _WINDOW_PAGES * (BLOCK_PAGES if self._size.small else 1)

    @property
    def _piece(self) -> int:
        """How long the next window is to be, in seconds.

        Where two windows meet, a part of a page comes twice, so they are long while much is left, and short at the end,
        so that all end at the same time.
        """
        left = sum(high - low for high, low in self._spans) // (2 * self._width)
        return max(self._length, min(left, _MAX_LENGTHS * self._length))
