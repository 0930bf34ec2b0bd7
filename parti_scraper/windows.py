"""Plans that say which pages of a route to ask for, several at a time where that is safe, until all of it is had.

`History` crawls ended livestreams as windows of time, newest first. A window is walked downwards, each page asked for
by the end of the one before (`to_ts`) rather than by a deep offset, so that what moves above does not matter. `from_ts`
is left at the bottom of time: a window is done when a page reaches below it, which no reading of the bounds, by end or
by start, open or closed, can fake. `Passes` walks one moving list, again where it has to. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from parti_scraper.api import FIRST_TS
from parti_scraper.normalize import timestamp_to_iso
from parti_scraper.paging import (
    BLOCK_PAGES,
    REFUSALS,
    Blocks,
    Complete,
    Incomplete,
    Key,
    Page,
    PageRequest,
    PageSize,
    Paging,
    Stuck,
)

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from parti_scraper.paging import Step, Walker

_WINDOW_PAGES = 10
# So many times as long a window may be while much is left.
_MOST_LENGTHS = 4
_MAX_PASSES = 3
# Seconds; nobody is known to have streamed for longer.
_LONGEST = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Ask:
    """One page to ask for, in Unix seconds; `window` is the plan's own note of what it is for."""

    request: PageRequest
    from_ts: int = 0
    to_ts: int = 0
    window: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """A window that was walked to its end: what ended after `low`, at `high` at the latest, and what it took."""

    high: int
    low: int
    pages: int
    records: int


class Plan(Protocol):
    """What a spider follows: it sends each `Ask` and gives back the page, or why it could not be had.

    Attributes:
        gaps: what could not be shown to be complete, a part of a sentence each.
        warnings: what the server did not do as asked.
        shifts: how often records were seen to have moved.
        done: windows of time that were walked to their end.
    """

    gaps: list[str]
    warnings: list[str]
    shifts: int
    done: list[Done]

    def remaining(self) -> list[tuple[int, int]] | None:
        """Return what is left of the windows, from which another plan can go on; None: only as a whole."""
        ...

    def start(self) -> list[Ask]:
        """Return the first pages to ask for."""
        ...

    def page(self, ask: Ask, page: Page) -> list[Ask]:
        """Take a page; return what to ask for next, perhaps nothing."""
        ...

    def failure(self, ask: Ask, reason: str, status: int | None = None) -> list[Ask]:
        """Take the failure of a page, all retries included; likewise."""
        ...


@dataclass(slots=True, eq=False)
class _Window:
    """Livestreams that ended after `low`, at `high` at the latest, walked from `anchor` down."""

    high: int
    low: int
    anchor: int
    walker: Walker
    served: int = 0  # since the anchor
    above: int = 0  # of these, what ended later than the anchor, so was had before
    pages: int = 0
    by_offset: bool = False  # the server repeats too much of what was had to go on by time
    pages_in_all: int = 0
    records_in_all: int = 0


class History:
    """Ended livestreams of [since, until], latest first.

    The first page is asked for as the site does it, with the bounds as given. Then one window is walked alone, until
    it is seen that the server heeds `to_ts`; only then others are walked beside it.

    Args:
        since, until: Unix seconds; both belong to what is wanted.
        size: the page size.
        width: most windows at a time.
        remaining: what an earlier plan left.
    """

    def __init__(
        self, since: int, until: int, size: PageSize, width: int, remaining: Sequence[Sequence[int]] | None = None
    ) -> None:
        self.gaps: list[str] = []
        self.warnings: list[str] = []
        self.shifts = 0
        self._since, self._until = since, until
        self._bottom = max(min(since, FIRST_TS) - 1, 0)
        self._size = size
        self._width = width
        self._trusted = False
        self._length = until - since + 1
        self._windows: dict[int, _Window] = {}
        self._opened = 0
        self.done: list[Done] = []
        self._resumed = remaining is not None
        # Windows (high, low) that were not begun, the latest last.
        self._todo = [(until, since - 1)] if remaining is None else sorted(map(_pair, remaining))
        # Those that were given up.
        self._failed: list[tuple[int, int]] = []
        # Those that were proved by counting alone, to be walked again should the set be seen to move.
        self._counted: list[tuple[int, int]] = []

    def start(self) -> list[Ask]:
        """Return the site's own first request, or go on where an earlier plan was left."""
        if self._resumed:
            return self._fill()
        return [Ask(PageRequest(0, self._size.limit), self._since, self._until)]

    def page(self, ask: Ask, page: Page) -> list[Ask]:
        """Take a page; return what to ask for next."""
        if not ask.window:
            self._size.largest = max(self._size.largest, len(page.keys))
            return self._fill()
        window = self._windows[ask.window]
        window.pages += 1
        window.pages_in_all += 1
        window.served += len(page.keys)
        window.records_in_all += len(page.keys)
        window.above += sum(key.end is not None and key.end > window.anchor for key in page.known)
        shifts = window.walker.shifts
        step = window.walker.page(page)
        self.shifts += window.walker.shifts - shifts
        asks = self._go_on(ask.window, window, step, page)
        if self._size.moving and self._counted:
            self._todo = [*self._counted, *self._todo]
            self._counted = []
            asks += self._fill()
        return asks

    def failure(self, ask: Ask, reason: str, status: int | None = None) -> list[Ask]:
        """Take the failure of a page; a limit that was refused is asked for smaller."""
        if status in REFUSALS and self._size.refused(ask.request.limit):
            return [Ask(PageRequest(ask.request.offset, self._size.limit), ask.from_ts, ask.to_ts, ask.window)]
        if not ask.window:
            self._failed, self._todo = self._todo, []
            self.gaps.append(f"livestreams that ended {self._span(self._until, self._since)}: {reason}")
            return []
        return self._give_up(ask.window, self._windows[ask.window], reason)

    def _go_on(self, number: int, window: _Window, step: Step, page: Page) -> list[Ask]:
        frontier = window.walker.frontier
        if isinstance(step, Incomplete) and not self._can_anchor(window):
            return self._give_up(number, window, step.reason)
        if isinstance(step, Complete):
            reached = window.anchor if frontier is None else frontier
            self._todo = [each for each in self._todo if each[0] > reached]
            return self._close(number, reached)
        if frontier is not None and frontier <= window.low:
            if self._todo and self._todo[-1][0] == window.low:
                # The page reached into the next window, which begins where it ended.
                _, low = self._todo.pop()
                if frontier > low:
                    self._todo.append((frontier, low))
            return self._close(number, frontier)
        if self._can_anchor(window):
            return self._anchor(number, window, page)
        if isinstance(step, Stuck):
            window.walker = Blocks(self._size)
            step = window.walker.start()
        assert isinstance(step, PageRequest)  # noqa: S101 - the others are dealt with above
        return [self._ask(number, window, step), *self._fill()]

    def _can_anchor(self, window: _Window) -> bool:
        """Tell whether to go on by time: there is progress, and the server does not repeat what was had."""
        frontier = window.walker.frontier
        if frontier is None or frontier >= window.anchor or window.by_offset:
            return False
        window.by_offset = window.above * 4 > window.served
        if window.by_offset and not self._trusted and not self.warnings:
            self.warnings.append("The server does not end windows at `to_ts` as asked; they are walked as one list")
        return not window.by_offset

    def _anchor(self, number: int, window: _Window, page: Page) -> list[Ask]:
        frontier = window.walker.frontier
        assert frontier is not None  # noqa: S101 - `_can_anchor`
        self._trusted = self._trusted or window.anchor < self._until
        self._measure(window, frontier)
        self._remember_counted(window, frontier)
        window.anchor, window.served, window.above = frontier, 0, 0
        if self._trusted and window.pages >= self._window_pages // 2:
            self._cut(window, frontier)
        had = frozenset(key.id for key in page.known if key.end == frontier)
        window.walker = self._walker(frontier, had)
        return [self._ask(number, window, window.walker.start()), *self._fill()]

    @property
    def _window_pages(self) -> int:
        # Small pages are proved in blocks, of which a window holds as many.
        return _WINDOW_PAGES * (BLOCK_PAGES if self._size.small else 1)

    def _measure(self, window: _Window, frontier: int) -> None:
        """Let the length of windows follow the density since the last anchor."""
        records = max(window.served - window.above, 1)
        self._length = max((window.anchor - frontier) * self._window_pages * self._size.largest // records, 1)

    def _cut(self, window: _Window, frontier: int) -> None:
        """Leave to others what is far below, where there are any free."""
        low = frontier - self._piece
        if self._width > 1 and low > window.low:
            self._todo.append((low, window.low))
            window.low, window.pages = low, 0

    @property
    def _piece(self) -> int:
        """How long the next window is to be, in seconds.

        Where two windows meet, a part of a page comes twice, so they are long while much is left, and short in the end,
        so that all are done at the same time.
        """
        left = sum(high - low for high, low in self._todo) // (2 * self._width)
        return max(self._length, min(left, _MOST_LENGTHS * self._length))

    def _fill(self) -> list[Ask]:
        """Begin as many windows as there may be."""
        asks = []
        while self._todo and len(self._windows) < (self._width if self._trusted else 1):
            piece = self._piece
            high, low = self._todo.pop()
            if self._trusted and self._width > 1 and high - low > piece:
                self._todo.append((high - piece, low))
                low = high - piece
            self._opened += 1
            window = _Window(high, low, high, self._walker(None, frozenset()))
            self._windows[self._opened] = window
            asks.append(self._ask(self._opened, window, window.walker.start()))
        return asks

    def _walker(self, frontier: int | None, had: frozenset[Hashable]) -> Walker:
        return Blocks(self._size) if self._size.small else Paging(self._size, frontier=frontier, had=had)

    def _ask(self, number: int, window: _Window, request: PageRequest) -> Ask:
        # A second more: the bound may not belong to the window.
        return Ask(request, self._bottom, window.anchor + 1, number)

    def _remember_counted(self, window: _Window, reached: int) -> None:
        if not isinstance(window.walker, Blocks) or not window.walker.counted:
            return
        high = window.anchor
        if self._counted and self._counted[-1][1] == high:
            high, _ = self._counted.pop()
        self._counted.append((high, max(reached, window.low)))

    def _close(self, number: int, reached: int) -> list[Ask]:
        window = self._windows.pop(number)
        self.done.append(Done(window.high, window.low, window.pages_in_all, window.records_in_all))
        self._remember_counted(window, reached)
        if window.pages < self._window_pages // 2:
            # Fewer livestreams than thought.
            self._length *= 2
        return self._fill()

    def _give_up(self, number: int, window: _Window, reason: str) -> list[Ask]:
        self.gaps.append(f"livestreams that ended {self._span(window.anchor, window.low + 1)}: {reason}")
        self._failed.append((window.anchor, window.low))
        del self._windows[number]
        if not self._trusted:
            # What the server makes of windows is not known, so others would fare no better.
            self._failed += self._todo
            self._todo = []
        return self._fill()

    def remaining(self) -> list[tuple[int, int]]:
        """Return what is left: windows under way from where they have come to, and those not begun or given up."""
        under_way = []
        for window in self._windows.values():
            frontier = window.walker.frontier
            under_way.append((window.anchor if frontier is None else min(window.anchor, frontier), window.low))
        return [*under_way, *self._todo, *self._failed]

    @staticmethod
    def _span(high: int, low: int) -> str:
        return f"from {timestamp_to_iso(max(low, 0))} to {timestamp_to_iso(high)}"


def _pair(window: Sequence[int]) -> tuple[int, int]:
    high, low = window
    return high, low


class Passes:
    """One list from its first record to its last, by offset.

    Args:
        size: the page size.
        what: what is listed, for the gaps.
        lenient: the order changes all the time: the list is walked until a pass brings nothing new, three times at
            most. Else a second time only where records were seen to move.
        window: since and until, of the recent route: asked for as they are once, as the site does it, and then with
            so much more on either side that no reading of the bounds, by end or by start, can hide a record.
    """

    def __init__(self, size: PageSize, what: str, *, lenient: bool, window: tuple[int, int] | None = None) -> None:
        self.gaps: list[str] = []
        self.warnings: list[str] = []
        self.shifts = 0
        self.done: list[Done] = []
        self._size, self._what, self._lenient = size, what, lenient
        self._window = window
        self._bounds = window or (0, 0)
        self._passes = 0
        self._seen: set[Hashable] = set()
        self._walker: Walker

    def remaining(self) -> None:
        """Return nothing: a list that moves is walked as a whole."""

    def start(self) -> list[Ask]:
        """Return the first page."""
        if self._window is not None:
            return [self._ask(PageRequest(0, self._size.limit))]
        return self._begin_pass()

    def _begin_pass(self) -> list[Ask]:
        self._passes += 1
        self._new = self._pages_with_new = 0
        self._walker = Paging(self._size, ordered=False, lenient=self._lenient)
        return [self._ask(self._walker.start())]

    def page(self, ask: Ask, page: Page) -> list[Ask]:
        """Take a page; return what to ask for next."""
        if self._window is not None:
            since, until = self._window
            self._bounds, self._window = (max(since - _LONGEST, 0), until + 1), None
            return self._begin_pass()
        # By viewers, or by nothing that is known: when they ended says nothing about the order.
        page = Page([key and Key(key.id) for key in page.keys])
        new = {key.id for key in page.known} - self._seen
        self._seen |= new
        self._new += len(new)
        self._pages_with_new += bool(new)
        step = self._walker.page(page)
        if isinstance(step, Stuck):
            self._walker = Blocks(self._size)
            step = self._walker.start()
        if isinstance(step, PageRequest):
            return [self._ask(step)]
        self.shifts += self._walker.shifts + (self._new if self._passes > 1 else 0)
        if isinstance(step, Incomplete):
            self.gaps.append(f"{self._what}: {step.reason}")
            return []
        return self._pass_ended()

    def failure(self, ask: Ask, reason: str, status: int | None = None) -> list[Ask]:
        """Take the failure of a page; a limit that was refused is asked for smaller."""
        if status in REFUSALS and self._size.refused(ask.request.limit):
            return [self._ask(PageRequest(ask.request.offset, self._size.limit))]
        self.gaps.append(f"{self._what}, the page at offset {ask.request.offset}: {reason}")
        return []

    def _pass_ended(self) -> list[Ask]:
        # What came on one page was seen in one moment.
        moved = self._pages_with_new > 1 if self._lenient else bool(self._walker.shifts)
        if not moved or (self._passes > 1 and not self._new):
            return []
        if self._passes < _MAX_PASSES:
            return self._begin_pass()
        if not self._lenient:
            self.gaps.append(f"{self._what}: the set kept moving")
        return []

    def _ask(self, request: PageRequest) -> Ask:
        return Ask(request, *self._bounds)
