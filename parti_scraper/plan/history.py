"""Plans that say which pages of a route to ask for, several at a time where that is safe, until all of it is served.

`History` crawls ended livestreams as windows of time, newest first. A window is walked downwards, each page asked for
by the end of the one before (`to_ts`) rather than by a deep offset, so that what moves above does not matter. `from_ts`
is left at the bottom of time: a window is done when a page reaches below it, which no reading of the bounds, by end or
by start, open or closed, can fake. `Passes` walks one moving list, again where it has to.

Where a list seems to end, its end is probed: asked for again, and further down, by time and by offset. Pure.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from parti_scraper.api.routes import FIRST_TS, LAST_TS
from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.plan.identities import Identities
from parti_scraper.plan.overlap import (
    BLOCK_PAGES,
    REFUSALS,
    Blocks,
    Ended,
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

    from parti_scraper.plan.overlap import Step, Walker

_WINDOW_PAGES = 10
# Of fewer records on a page it says nothing which of them are far apart.
_FEWEST_ENDS = 8
# So many times as long a window may be while much is left.
_MOST_LENGTHS = 4
_MAX_PASSES = 3
# Seconds; nobody is known to have streamed for longer.
_LONGEST = 7 * 86_400
# The longest run of records in a list that a server may leave out, that is still looked beyond.
_LONGEST_HIDDEN = 600
_OFFSET_PROBES = 7
_TIME_PROBES = 4
# Where pages hold fewer records than the site ever asks for, a run is long, and more probes do not matter.
_USUAL_PAGE = 12
_SMALL_OFFSET_PROBES = 20
# How often an answer that cannot be right is asked for again, after a wait that doubles.
_MOST_ATTEMPTS = 5
# The same of the last page of a list, some of whose pages were short.
_PATCHY_TRIES = 2
# How often one place may seem to be the end and turn out not to be.
_MOST_REVIVALS = 5
# How often one list may go on after it seemed to have ended.
_MOST_CROSSINGS = 100


@dataclass(frozen=True, slots=True)
class Ask:
    """One page to ask for.

    Attributes:
        request: which page.
        from_ts, to_ts: Unix seconds, for the recent route.
        window: the plan's own note of what it is for.
        ascending: the first to end come first; nobody knows whether the server heeds that.
        control: the page is to be asked for without any filter, to see whether the server serves anything at all;
            its records are not of the set.
        optional: nobody knows whether the server takes such a request; where it fails at it, others will do.
    """

    request: PageRequest
    from_ts: int = 0
    to_ts: int = 0
    window: int = 0
    ascending: bool = False
    control: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """A window that was walked to its end: what ended after `low`, at `high` at the latest, and what it took."""

    high: int
    low: int
    pages: int
    records: int


def probe_offsets(largest: int, more: int = 0) -> list[int]:
    """Return how far behind the last record of a list to look for more, in records.

    The first lie page by page, so that nothing hides between them; where pages are small, the others further apart.

    Args:
        largest: most records that a page has held.
        more: so many more probes than usual.
    """
    page = max(largest, 1)
    most = more + (_OFFSET_PROBES if page >= _USUAL_PAGE else _SMALL_OFFSET_PROBES)
    near = [page * number for number in range(most) if page * (number - 1) < _LONGEST_HIDDEN]
    if near[-1] >= _LONGEST_HIDDEN - page:
        return near
    near = near[: most // 2]
    growth = (_LONGEST_HIDDEN / near[-1]) ** (1 / (most - len(near)))
    return near + [round(near[-1] * growth**number) for number in range(1, most - len(near) + 1)]


def probe_times(end: int, bottom: int, step: int, number: int = _TIME_PROBES) -> list[int]:
    """Return moments below the end of a list at which to look for more records, down to the bottom of time.

    Args:
        end: where the list seems to end, in Unix seconds.
        bottom: nothing is older, likewise.
        step: how long it takes, about, until there is a page of records, in seconds.
        number: how many moments, apart from that right below the end.
    """
    distance = max(end - bottom, 1)
    growth = max(distance / max(step, 1), 1.0) ** (1 / max(number, 1))
    return [end - 2, *(end - max(round(distance / growth**place), 3) for place in range(number, 0, -1))]


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
    above: int = 0  # of these, what ended later than the anchor, so was served before
    repeated: int = 0  # of these, records without an end that were served before
    pages: int = 0
    by_offset: bool = False  # the server repeats too much of what was served to go on by time
    pages_in_all: int = 0
    records_in_all: int = 0
    lowest: int | None = None  # the earliest end on its pages
    lowest_ids: frozenset[Hashable] = frozenset()
    found_end: int | None = None  # of the latest record that a probe has found below a hole
    ended_empty: bool = False  # the last page was empty although a record is known to be on it

    @property
    def reached(self) -> int:
        """Down to where nothing is missing, as far as the walk knows."""
        return self.anchor if self.walker.frontier is None else min(self.anchor, self.walker.frontier)

    def note(self, page: Page) -> None:
        """Remember which records ended first."""
        lowest = min((key.end for key in page.known if key.end is not None), default=None)
        if lowest is None or (self.lowest is not None and lowest > self.lowest):
            return
        ids = frozenset(key.id for key in page.known if key.end == lowest)
        self.lowest, self.lowest_ids = lowest, ids | (self.lowest_ids if lowest == self.lowest else frozenset())


@dataclass(slots=True, eq=False)
class _EndProbe:
    """The question whether a list has ended where a window saw nothing more.

    Attributes:
        window: the window.
        waiting: requests that were sent and not answered.
        attempts: how often the last page of the window was asked for again.
        looked: it was looked further down, and nothing was found.
        in_trouble: meanwhile a page was empty on which a record is known to be.
        is_far: it was looked at all places, not only at the first ones.
        is_timed: these were chosen by time alone.
        is_deaf: the server does not heed `offset`.
        is_failing: it fails at an `offset` further down.
        is_alive: the server serves something, and nothing that should have come here.
        is_dead: it serves nothing, as far as could be seen.
        controls: how often that was looked at.
        rounds: how often it was looked.
        found_offset: down to which offset there are more records; None where not known.
        found_end: when the latest of them ended, in Unix seconds; likewise.
        shown_offset: down to which offset there are records that were served before; likewise.
    """

    window: _Window
    waiting: int = 0
    attempts: int = 0
    looked: bool = False
    in_trouble: bool = False
    is_far: bool = False
    is_timed: bool = False
    is_deaf: bool = False
    is_failing: bool = False
    is_alive: bool = False
    is_dead: bool = False
    controls: int = 0
    rounds: int = 0
    found_offset: int | None = None
    found_end: int | None = None
    shown_offset: int | None = None


# What an `Ask` is for, where it is not for a window: whether the server serves anything, the last record once more, the
# same beside the probes, and the probes.
_CONTROL, _AGAIN, _BESIDE, _BY_OFFSET, _BY_TIME = -1, -2, -3, -4, -5


class History:
    """Ended livestreams of [since, until], latest first.

    The first page is asked for as the site does it, with the bounds as given. Then one window is walked alone, until
    it is seen that the server heeds `to_ts`; only then others are walked beside it. A window in which nothing more
    comes waits until all above it are done; then the end of the list is probed, once for all windows below.

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
        # Windows (high, low) that were not begun, always the latest last: `_fill` stops at the first below the end.
        self._todo = [(until, since - 1)] if remaining is None else sorted(map(_pair, remaining))
        # Those that were given up.
        self._failed: list[tuple[int, int]] = []
        # Those that were proved by counting alone, to be walked again should the set be seen to move.
        self._counted: list[tuple[int, int]] = []
        # Records without an end come on pages of every window.
        self._undated = Identities()
        # Windows in which nothing more came, and the question whether the list has ended there.
        self._parked: list[_Window] = []
        self._probe: _EndProbe | None = None
        # Over all windows: records served, and the earliest end of one.
        self._records = 0
        self._lowest: int | None = None
        # The anchors at which records have come.
        self._fruitful: set[int] = set()
        # How often the list went on after all, by where it had seemed to end.
        self._revivals: Counter[int] = Counter()

    def start(self) -> list[Ask]:
        """Return the site's own first request, or go on where an earlier plan was left."""
        if self._resumed:
            return self._fill()
        return [Ask(PageRequest(0, self._size.limit), self._since, self._until)]

    def page(self, ask: Ask, page: Page) -> list[Ask]:
        """Take a page; return what to ask for next."""
        if ask.window < 0:
            return self._probed(ask, page)
        if not ask.window:
            self._size.largest = max(self._size.largest, len(page.keys))
            self._lowest = min((key.end for key in page.known if key.end is not None), default=None)
            return self._fill()
        window = self._windows[ask.window]
        window.pages += 1
        window.pages_in_all += 1
        window.served += len(page.keys)
        window.records_in_all += len(page.keys)
        window.above += sum(key.end is not None and key.end > window.anchor for key in page.known)
        undated = [key.id for key in page.known if key.end is None and key.id is not None]
        window.repeated += sum(each in self._undated for each in undated)
        self._note(window, page)
        if page.keys:
            self._fruitful.add(window.anchor)
        shifts = window.walker.shifts
        step = window.walker.page(page)
        for each in undated:
            self._undated.add(each)
        self.shifts += window.walker.shifts - shifts
        asks = self._go_on(ask.window, window, step, page)
        if self._size.moving and self._counted:
            self._todo = sorted([*self._counted, *self._todo])
            self._counted = []
            asks += self._fill()
        return asks

    def _note(self, window: _Window, page: Page) -> None:
        window.note(page)
        self._records += len(page.keys)
        self._lowest = min((low for low in (self._lowest, window.lowest) if low is not None), default=None)

    def failure(self, ask: Ask, reason: str, status: int | None = None) -> list[Ask]:
        """Take the failure of a page; a limit that was refused is asked for smaller."""
        if status in REFUSALS and self._size.refused(ask.request.limit):
            return [replace(ask, request=replace(ask.request, limit=self._size.limit))]
        if ask.ascending or (ask.window == _BY_TIME and _is_refusal(status)):
            # Nothing is there that could be asked for.
            return self._probed(ask, Page([]))
        if ask.window == _BY_OFFSET and self._probe is not None and status is not None:
            # Where the server has trouble with that itself, time has to do.
            self._probe.is_deaf = True
            self._probe.is_failing = not _is_refusal(status)
            if _is_refusal(status) or self._times(self._probe.window, _TIME_PROBES):
                return self._probed(ask, Page([]))
        if ask.window < 0:
            return self._probe_failed(reason)
        if not ask.window:
            self._failed, self._todo = self._todo, []
            self.gaps.append(f"livestreams that ended {self._span(self._until, self._since)}: {reason}")
            return []
        return self._give_up(ask.window, self._windows[ask.window], reason)

    def _go_on(self, number: int, window: _Window, step: Step, page: Page) -> list[Ask]:
        frontier = self._frontier(window, page)
        if isinstance(step, Incomplete) and not self._can_anchor(window):
            return self._give_up(number, window, step.reason)
        if frontier is not None and frontier <= window.low:
            following = next((each for each in self._todo if each[0] == window.low), None)
            if following:
                # The page reached into the next window, which begins where it ended.
                self._todo.remove(following)
                if frontier > following[1]:
                    insort(self._todo, (frontier, following[1]))
            return self._close(number, frontier)
        if isinstance(step, Ended):
            window.ended_empty = step.empty
            self._parked.append(self._windows.pop(number))
            return self._fill()
        if self._can_anchor(window):
            assert frontier is not None  # noqa: S101 - `_can_anchor`
            return self._anchor(number, window, page, frontier)
        if isinstance(step, Stuck):
            window.walker = Blocks(self._size)
            step = window.walker.start()
        assert isinstance(step, PageRequest)  # noqa: S101 - the others are dealt with above
        return [self._ask(number, window, step), *self._fill()]

    def _frontier(self, window: _Window, page: Page) -> int | None:
        """Return down to where nothing is missing.

        The last record of a page may have an end that is far too early, and what ended before it be on the next page.
        So one that is much further from the record above than any two others from each other is believed only where
        those below it are seen too.
        """
        frontier = window.walker.frontier
        ends = [key.end for key in page.known if key.end is not None]
        if frontier is None or self._size.small or len(ends) < _FEWEST_ENDS or ends[-1] != frontier:
            return frontier
        *gaps, last = [later - earlier for later, earlier in pairwise(ends)]
        return ends[-2] if last > 3 * max(gaps) and ends[-2] < window.anchor else frontier

    def _can_anchor(self, window: _Window) -> bool:
        """Tell whether to go on by time: there is progress, and the server does not repeat what was served."""
        frontier = window.walker.frontier
        if frontier is None or frontier >= window.anchor or window.by_offset:
            return False
        window.by_offset = (window.above + window.repeated) * 4 > window.served
        if window.above * 4 > window.served and not self._trusted and not self.warnings:
            self.warnings.append("The server does not end windows at `to_ts` as asked; they are walked as one list")
        return not window.by_offset

    def _anchor(self, number: int, window: _Window, page: Page, frontier: int) -> list[Ask]:
        self._trusted = self._trusted or window.anchor < self._until
        self._measure(window, frontier)
        self._remember_counted(window, frontier)
        window.anchor, window.served, window.above, window.repeated = frontier, 0, 0, 0
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
            insort(self._todo, (low, window.low))
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
        """Begin as many windows as there may be, none below one in which nothing more came; probe there at last."""
        asks = []
        ended = max((window.reached for window in self._parked), default=None)
        while self._todo and len(self._windows) < (self._width if self._trusted else 1):
            if ended is not None and self._todo[-1][0] <= ended:
                break
            piece = self._piece
            high, low = self._todo.pop()
            if self._trusted and self._width > 1 and high - low > piece:
                self._todo.append((high - piece, low))
                low = high - piece
            asks.append(self._open(_Window(high, low, high, self._walker(None, frozenset()))))
        if self._parked and not self._windows and self._probe is None:
            asks += self._probe_end(_EndProbe(max(self._parked, key=lambda window: window.reached)))
        return asks

    def _open(self, window: _Window) -> Ask:
        self._opened += 1
        self._windows[self._opened] = window
        return self._ask(self._opened, window, window.walker.start())

    def _walker(self, frontier: int | None, had: frozenset[Hashable]) -> Walker:
        if self._size.small:
            return Blocks(self._size)
        return Paging(self._size, frontier=frontier, had=had, undated=self._undated)

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
        self._finish(window, reached)
        if window.pages < self._window_pages // 2:
            # Fewer livestreams than thought.
            self._length *= 2
        return self._fill()

    def _finish(self, window: _Window, reached: int) -> None:
        self.done.append(Done(window.high, window.low, window.pages_in_all, window.records_in_all))
        self._remember_counted(window, reached)

    def _give_up(self, number: int, window: _Window, reason: str) -> list[Ask]:
        del self._windows[number]
        low = window.low
        if window.found_end is not None and low < window.found_end < window.reached:
            # What is below the hole can be collected all the same.
            low = window.found_end
            insort(self._todo, (low, window.low))
        elif not self._trusted:
            # What the server makes of windows is not known, so others would fare no better.
            self._failed += self._todo
            self._todo = []
        self.gaps.append(f"livestreams that ended {self._span(window.reached, low + 1)}: {reason}")
        self._failed.append((window.reached, low))
        return self._fill()

    # The end of the list:

    def _probe_end(self, probe: _EndProbe) -> list[Ask]:
        """Begin to probe; of a window in which no record was seen, the server has to serve something first."""
        self._probe = probe
        if not probe.window.records_in_all:
            return self._ask_for_control(probe)
        return self._ask_again(probe) if probe.window.ended_empty else self._look_below(probe)

    def _ask_for_control(self, probe: _EndProbe) -> list[Ask]:
        probe.waiting = 1
        return [Ask(PageRequest(0, self._size.limit), FIRST_TS, LAST_TS, _CONTROL, control=True)]

    def _look_below(self, probe: _EndProbe) -> list[Ask]:
        """Look further down, by offset and by time; at once, since each is a request like any other."""
        probe.rounds += 1
        if probe.rounds > _MOST_ATTEMPTS:
            return self._probe_failed("the server answers with empty lists now and then")
        window, reached = probe.window, probe.window.reached
        ended_at = reached if window.lowest is None else window.lowest
        if self._lowest is not None and self._lowest < ended_at and not probe.is_dead:
            if not window.records_in_all and not probe.is_alive:
                return self._ask_for_control(probe)
            # The list goes on there, as other windows have seen.
            probe.found_end = self._lowest
            return self._revive(probe, Page([]))
        asks = [self._probe_ask(_BY_OFFSET, window.walker.end, window.anchor)]
        asks += [self._probe_ask(_BY_TIME, 0, end) for end in self._times(window, _TIME_PROBES)]
        # Not by time too: it is to hold where nothing comes for whatever ended as early.
        asks.append(replace(self._probe_ask(_BY_TIME, 0, self._until), ascending=True, optional=True))
        if window.records_in_all:
            asks.append(self._ask(_BESIDE, window, replace(window.walker.recheck(1), attempt=0)))
        probe.looked, probe.attempts, probe.waiting = True, 0, len(asks)
        probe.in_trouble, probe.is_deaf, probe.is_far, probe.is_timed = False, False, False, False
        return asks

    def _look_further(self, probe: _EndProbe) -> list[Ask]:
        """Look at more places: by offset, or by time where the server does not heed `offset`."""
        window = probe.window
        if probe.is_deaf:
            probe.is_timed = True
            number = (4 if probe.is_failing else 2) * _TIME_PROBES
            asks = [self._probe_ask(_BY_TIME, 0, end) for end in self._times(window, number)]
        else:
            more = 0 if self._times(window, 0) else _TIME_PROBES
            offsets = probe_offsets(self._size.largest or self._size.limit, more)[1:]
            asks = [self._probe_ask(_BY_OFFSET, window.walker.end + offset, window.anchor) for offset in offsets]
        probe.is_far, probe.waiting = True, len(asks)
        return asks or self._ask_again(probe)

    def _times(self, window: _Window, number: int) -> list[int]:
        """Return at which moments to look; none without ends, or where the server does not heed `to_ts`."""
        if self.warnings or (window.records_in_all and window.lowest is None):
            return []
        step = (self._until - window.reached) * self._size.largest // max(self._records, 1)
        return probe_times(window.reached, self._bottom, step, number)

    def _ask_again(self, probe: _EndProbe) -> list[Ask]:
        """Ask for the last page of the window once more, after a wait that grows."""
        probe.attempts += 1
        probe.waiting = 1
        return [self._ask(_AGAIN, probe.window, probe.window.walker.recheck(probe.attempts))]

    def _probe_ask(self, kind: int, offset: int, anchor: int) -> Ask:
        optional = kind == _BY_OFFSET
        return Ask(PageRequest(offset, self._size.limit), self._bottom, anchor + 1, kind, optional=optional)

    def _probed(self, ask: Ask, page: Page) -> list[Ask]:
        """Take the answer to a probe."""
        probe = self._probe
        if probe is None:
            return []  # The others have failed.
        probe.waiting -= 1
        if ask.window == _CONTROL:
            return self._controlled(probe, page)
        if ask.window == _AGAIN:
            return self._asked_again(probe, page)
        self._note_probe(probe, ask, page)
        if probe.waiting:
            return []
        if any(found is not None for found in (probe.found_offset, probe.found_end, probe.shown_offset)):
            if probe.in_trouble and self._can_lift(probe.window):
                # The way there leads through the page that is empty.
                probe.looked = False
                return self._ask_again(probe)
            return self._revive(probe, page)
        if not (probe.is_timed if probe.is_deaf else probe.is_far) and not probe.in_trouble:
            return self._look_further(probe)
        if probe.is_dead:
            return self._probe_failed("the server answers with empty lists")
        probe.looked = not probe.in_trouble
        return self._ask_again(probe)

    def _note_probe(self, probe: _EndProbe, ask: Ask, page: Page) -> None:
        self._size.largest = max(self._size.largest, len(page.keys))
        new = [key for key in page.known if self._is_below(probe.window, key)]
        if ask.window == _BY_TIME:
            ends = [key.end for key in new if key.end is not None]
            probe.found_end = max([*ends, *([] if probe.found_end is None else [probe.found_end])], default=None)
        elif new:
            found = ask.request.offset + len(page.keys)
            probe.found_offset = found if probe.found_offset is None else min(probe.found_offset, found)
        elif ask.window == _BESIDE:
            probe.in_trouble = not page.keys
        elif page.known and page.known[0].id == probe.window.walker.first:
            probe.is_deaf = True
        elif page.keys:
            shown = ask.request.offset + len(page.keys)
            probe.shown_offset = shown if probe.shown_offset is None else min(probe.shown_offset, shown)

    def _asked_again(self, probe: _EndProbe, page: Page) -> list[Ask]:
        window = probe.window
        if page.keys:
            is_new = any(self._is_below(window, key) for key in page.known)
            self._note(window, page)
            step = window.walker.rechecked(page)
            if is_new or not isinstance(step, Ended):
                # What was missing was so for a moment.
                return self._revive(probe, page, step)
            return self._list_ended() if probe.looked else self._look_below(probe)
        if probe.is_alive and probe.looked and not window.records_in_all:
            return self._list_ended()
        if probe.attempts < _MOST_ATTEMPTS:
            # What the probes have said is not to be believed either, should it come back.
            probe.looked = False
            return self._ask_again(probe)
        return self._ask_for_control(probe)

    def _controlled(self, probe: _EndProbe, page: Page) -> list[Ask]:
        contradicts = any(self._is_below(probe.window, key) for key in page.belonging)
        if page.keys and not contradicts:
            probe.is_alive = True
            if self._can_lift(probe.window):
                return self._lift(probe.window)
            # Where the last page was empty all the same, the record has gone.
            return self._list_ended() if probe.rounds > 1 else self._look_below(probe)
        probe.controls += 1
        if probe.attempts < _MOST_ATTEMPTS or (contradicts and probe.controls <= _MOST_ATTEMPTS):
            # Perhaps it serves them again.
            return self._ask_again(probe)
        if contradicts:
            return self._probe_failed("the server answers with an empty list, though it has livestreams for it")
        if probe.looked:
            return self._probe_failed("the server answers with empty lists")
        # Perhaps it only leaves out what is at the head.
        probe.is_dead = True
        return self._look_below(probe)

    def _is_below(self, window: _Window, key: Key) -> bool:
        """Tell whether a record has not been served by the window."""
        if key.end is None:
            return key.id is not None and key.id not in self._undated
        if window.lowest is None:
            return key.end <= window.anchor
        return key.end < window.lowest or (key.end == window.lowest and key.id not in window.lowest_ids)

    def _revive(self, probe: _EndProbe, page: Page, step: Step | None = None) -> list[Ask]:
        """Go on with the window, by a step of its walker: the list has not ended where it seemed to."""
        window, reached = probe.window, probe.window.reached
        self._unpark_only(window)
        self._revivals[reached] += 1
        if self._revivals[reached] > _MOST_REVIVALS:
            return self._end_in_doubt(reached, window.low, "its pages come and go")
        if step is None:
            window.found_end = probe.found_end
            is_sure = probe.found_offset is not None or probe.found_end is not None
            found = probe.found_offset if is_sure else (probe.shown_offset or 0) + self._size.largest
            offset = window.walker.end + 2 * _LONGEST_HIDDEN if found is None else found
            step = window.walker.cross(offset, is_sure=is_sure)
        self._opened += 1
        self._windows[self._opened] = window
        return self._go_on(self._opened, window, step, page)

    def _can_lift(self, window: _Window) -> bool:
        return not window.by_offset and window.anchor < self._until

    def _lift(self, window: _Window) -> list[Ask]:
        """Walk by offset, from where records have come: the server may have nothing for so early a `to_ts`."""
        self._unpark_only(window)
        window.anchor = min((each for each in self._fruitful if each > window.anchor), default=self._until)
        window.served, window.above, window.repeated, window.by_offset = 0, 0, 0, True
        window.walker = self._walker(None, frozenset())
        return [self._open(window)]

    def _unpark_only(self, window: _Window) -> None:
        """End the probe, and have the other windows wait to be begun."""
        self._probe = None
        self._parked.remove(window)
        self._todo = sorted([*self._todo, *((each.reached, each.low) for each in self._parked)])
        self._parked = []

    def _unpark(self) -> int:
        """Forget what is below the end that is probed; return the bottom of it."""
        low = min([window.low for window in self._parked] + [low for _, low in self._todo])
        self._parked, self._todo = [], []
        return low

    def _list_ended(self) -> list[Ask]:
        """Note that all of it was served."""
        self._probe = None
        for window in self._parked:
            self._finish(window, window.reached)
        self._unpark()
        return []

    def _probe_failed(self, reason: str) -> list[Ask]:
        probe, self._probe = self._probe, None
        if probe is None:
            return []
        return self._end_in_doubt(probe.window.reached, self._unpark(), reason)

    def _end_in_doubt(self, reached: int, low: int, reason: str) -> list[Ask]:
        span = self._span(reached, low + 1)
        self.gaps.append(f"livestreams that ended {span}: the end of the list could not be confirmed: {reason}")
        self._failed.append((reached, low))
        return self._fill()

    def remaining(self) -> list[tuple[int, int]]:
        """Return what is left: windows under way from where they have come to, and those not begun or given up."""
        under_way = [(window.reached, window.low) for window in (*self._windows.values(), *self._parked)]
        return [*under_way, *self._todo, *self._failed]

    @staticmethod
    def _span(high: int, low: int) -> str:
        return f"from {timestamp_to_iso(max(low, 0))} to {timestamp_to_iso(high)}"


def _is_refusal(status: int | None) -> bool:
    return status is not None and 400 <= status < 500


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
        before: how many records the same list held the last time; one that is much shorter is looked at again.
    """

    def __init__(
        self, size: PageSize, what: str, *, lenient: bool, window: tuple[int, int] | None = None, before: int = 0
    ) -> None:
        self.gaps: list[str] = []
        self.warnings: list[str] = []
        self.shifts = 0
        self.done: list[Done] = []
        self._size, self._what, self._lenient, self._expected = size, what, lenient, before
        self._window = window
        self._bounds = window or (0, 0)
        self._passes = 0
        self._seen: set[Hashable] = set()
        self._walker: Walker
        # Of the end of the list: requests not answered, where more records were found, how often it was looked again.
        self._waiting = 0
        self._found_offset: int | None = None
        self._attempts = self._controls = 0
        self._crossings = 0
        # After how many records it was looked further down, and how far.
        self._looked_for: tuple[int, int] | None = None
        # There is no pass to come after this one; more than one page has brought something new.
        self._is_last = True
        self._is_long = False
        # The last pass ended with an empty page where a record was expected.
        self._ended_empty = False
        # The position behind the page before, where that was short; and whether more came behind such a page, so that
        # one is no sign of the end.
        self._short_to: int | None = None
        self._is_patchy = False

    @property
    def count(self) -> int:
        """How many records the list has held."""
        return len(self._seen)

    def remaining(self) -> None:
        """Return nothing: a list that moves is walked as a whole."""

    def start(self) -> list[Ask]:
        """Return the first page."""
        if self._window is not None:
            return [self._ask(PageRequest(0, self._size.limit))]
        return self._begin_pass()

    def _begin_pass(self, attempt: int = 0) -> list[Ask]:
        self._passes += 1
        self._new = self._pages_with_new = 0
        self._short_to = None
        self._walker = Paging(self._size, ordered=False, lenient=self._lenient, known=len(self._seen))
        return [self._ask(replace(self._walker.start(), attempt=attempt))]

    def page(self, ask: Ask, page: Page) -> list[Ask]:
        """Take a page; return what to ask for next."""
        if self._window is not None:
            since, until = self._window
            self._bounds, self._window = (max(since - _LONGEST, 0), until + 1), None
            return self._begin_pass()
        if ask.window == _CONTROL:
            return self._controlled(page)
        # By viewers, or by nothing that is known: when they ended says nothing about the order.
        page = Page([None if key is None or key.id is None else Key(key.id) for key in page.keys])
        new = {key.id for key in page.known} - self._seen
        if ask.window == _BY_OFFSET:
            # Where the head is left out, the walk has seen no page yet, and would go on by one record at a time.
            self._size.largest = max(self._size.largest, len(page.keys))
            return self._looked_below(ask, len(page.keys) if new else 0)
        self._seen |= new
        self._new += len(new)
        self._pages_with_new += bool(new)
        self._is_long = self._is_long or self._pages_with_new > 1
        step = self._walker.page(page)
        reached = ask.request.offset + len(page.keys)
        if page.keys and self._short_to is not None and reached > self._short_to:
            self._is_patchy = True
        self._short_to = reached if len(page.keys) < self._size.largest else None
        return self._go_on(step)

    def _go_on(self, step: Step) -> list[Ask]:
        if isinstance(step, Stuck):
            self._walker = Blocks(self._size)
            step = self._walker.start()
        if isinstance(step, PageRequest):
            return [self._ask(step)]
        self.shifts += self._walker.shifts + (self._new if self._passes > 1 else 0)
        if isinstance(step, Incomplete):
            self.gaps.append(f"{self._what}: {step.reason}")
            return []
        self._ended_empty = isinstance(step, Ended) and step.empty
        return self._pass_ended()

    def failure(self, ask: Ask, reason: str, status: int | None = None) -> list[Ask]:
        """Take the failure of a page; a limit that was refused is asked for smaller."""
        if status in REFUSALS and self._size.refused(ask.request.limit):
            return [replace(ask, request=replace(ask.request, limit=self._size.limit))]
        if ask.window == _BY_OFFSET and _is_refusal(status):
            return self._looked_below(ask, 0)
        self.gaps.append(f"{self._what}, the page at offset {ask.request.offset}: {reason}")
        return []

    def _pass_ended(self) -> list[Ask]:
        # What came on one page was seen in one moment.
        moved = self._pages_with_new > 1 if self._lenient else bool(self._walker.shifts)
        self._is_last = not moved or self._passes >= _MAX_PASSES or (self._passes > 1 and not self._new)
        if self._is_last and not self._lenient and moved and self._new and self._passes > 1:
            self.gaps.append(f"{self._what}: the set kept moving")
            return []
        if self._lenient:
            return self._look_below(1 if self._passes == 1 else 4)
        return self._look_below() if self._is_last else self._begin_pass()

    def _look_below(self, pages: int = 0) -> list[Ask]:
        """Look further down whether the list has ended where it seemed to, unless nothing is new since.

        Args:
            pages: how many pages below the end, in a list that is asked for again all the time, so that few requests
                must do: one after each pass, since a moment of trouble may hide what is there. 0: at many places.
        """
        largest = self._size.largest or self._size.limit
        # The last page was asked for from the last record on.
        offsets = (
            [pages * (max(largest, min(self._size.limit, _USUAL_PAGE)) - 1 or 1)] if pages else probe_offsets(largest)
        )
        looked, self._looked_for = self._looked_for, (len(self._seen), self._is_long and pages)
        if looked == self._looked_for:
            return self._look_again()
        self._waiting, self._found_offset = len(offsets), None
        return [self._ask(PageRequest(self._walker.end + each, self._size.limit), _BY_OFFSET) for each in offsets]

    def _looked_below(self, ask: Ask, found: int) -> list[Ask]:
        self._waiting -= 1
        if found:
            offset = ask.request.offset + found
            self._found_offset = offset if self._found_offset is None else min(self._found_offset, offset)
        if self._waiting or self.gaps:
            return []
        if self._found_offset is None:
            return self._look_again()
        self._looked_for = None
        self._crossings += 1
        if self._crossings > _MOST_CROSSINGS:
            self.gaps.append(f"{self._what}: its pages come and go")
            return []
        return self._go_on(self._walker.cross(self._found_offset, is_sure=True))

    def _look_again(self) -> list[Ask]:
        """Ask once more for what may have been less than there is: the last page, or the whole of a short list."""
        if not self._is_last:
            return self._begin_pass()
        if not self._seen and not self._expected and self._attempts and not self._controls:
            return self._ask_for_control()
        is_short = self._ended_empty or 2 * len(self._seen) < self._expected
        is_settled = self._lenient and self._passes > 1
        tries = _MOST_ATTEMPTS if is_short else _PATCHY_TRIES if self._is_patchy else 0 if is_settled else 1
        if self._attempts < tries:
            self._attempts += 1
            if is_short:
                return self._begin_pass(self._attempts)
            return [self._ask(self._walker.recheck(self._attempts))]
        return self._ask_for_control() if self._ended_empty else []

    def _ask_for_control(self) -> list[Ask]:
        return [self._ask(PageRequest(0, self._size.limit), _CONTROL)]

    def _controlled(self, page: Page) -> list[Ask]:
        self._controls += 1
        is_in_order = page.keys and not page.belonging
        if not is_in_order and (
            self._attempts < _MOST_ATTEMPTS or (page.belonging and self._controls < _MOST_ATTEMPTS)
        ):
            # Perhaps it serves them again.
            self._attempts = min(self._attempts + 1, _MOST_ATTEMPTS)
            return self._begin_pass(self._attempts)
        if not page.keys:
            self.gaps.append(f"{self._what}: the server answers with empty lists")
        elif page.belonging:
            self.gaps.append(f"{self._what}: the server answers with an empty list, though it has records for it")
        elif self._seen or self._expected:
            number = len(self._seen) or self._expected
            self.gaps.append(f"{self._what}: the list is empty, and has held {number} records")
        return []

    def _ask(self, request: PageRequest, window: int = 0) -> Ask:
        bounds = (FIRST_TS, LAST_TS) if window == _CONTROL else self._bounds
        return Ask(request, *bounds, window, control=window == _CONTROL)
