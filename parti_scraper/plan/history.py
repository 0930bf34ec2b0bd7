"""The plan for ended livestreams: windows of time, several at a time where that is safe.

A window is walked downwards. Each page is asked for by the end of the one before (`to_ts`), not by a deep offset, so
that movements above do not matter. `from_ts` stays at the beginning of time: a window is complete when a page reaches
below it, whether the server applies the bounds to end or start, inclusive or not.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.plan.backlog import Backlog
from parti_scraper.plan.blocks import Blocks
from parti_scraper.plan.ends import InDoubt
from parti_scraper.plan.plan import PageQuery, Purpose, Slice, with_smaller_limit
from parti_scraper.plan.walker import Ended, Incomplete, PageTooSmall
from parti_scraper.plan.window import Overview, Window
from parti_scraper.plan.window_end import Confirmed, StartAbove, WindowEnd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from parti_scraper.plan.page_size import PageSize
    from parti_scraper.plan.plan import Page, Span
    from parti_scraper.plan.walker import Step
    from parti_scraper.plan.window_end import Continues, Outcome

# How often one place may seem to be the end and turn out not to be.
_MAX_RESUMED = 5


class History:
    """Ended livestreams of [since, until], latest first.

    The first page is asked for as the site does it, with the bounds as given. Then one window is walked alone until the
    server is seen to respect `to_ts`; only then others are walked at the same time. A window in which nothing more
    comes waits until all above it are done; then the end of the list is probed, once for all windows below.

    Args:
        since, until: Unix seconds, both inclusive.
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
        self._size = size
        self._width = width
        self._resumed = remaining is not None
        self._overview = Overview(since, until, size)
        spans = [(until, since - 1)] if remaining is None else list(map(_span, remaining))
        self._backlog = Backlog(spans, until - since + 1, width, size)
        self._windows: dict[int, Window] = {}
        self._begun = 0
        # Those that were given up.
        self._failed: list[Span] = []
        # Those that were proved by counting alone, to be walked again if the set is seen to move.
        self._counted: list[Span] = []
        # Windows in which nothing more came, and the question whether the list has ended there.
        self._ended: list[Window] = []
        self._probe: WindowEnd | None = None
        # How often the list continued, by where it had seemed to end.
        self._resumptions: Counter[int] = Counter()

    def start(self) -> list[PageQuery]:
        """Return the site's own first request, or continue an earlier plan."""
        if self._resumed:
            return self._begin_windows()
        return [PageQuery(Slice(0, self._size.limit), self._since, self._until, purpose=Purpose.FIRST)]

    def page(self, query: PageQuery, page: Page) -> list[PageQuery]:
        """Take a page; return what to ask for next."""
        if query.purpose is Purpose.FIRST:
            self._overview.note_first(page)
            return self._begin_windows()
        if query.purpose is not Purpose.WALK:
            # Without a probe, other queries of it have failed.
            return self._conclude(probe, probe.answer(query, page)) if (probe := self._probe) else []
        window = self._windows[query.window]
        shifts = window.walker.shifts
        step = window.take(page)
        self.shifts += window.walker.shifts - shifts
        queries = self._take_step(window, step, page)
        if self._size.moving and self._counted:
            self._backlog.add(self._counted)
            self._counted = []
            queries += self._begin_windows()
        return queries

    def failure(self, query: PageQuery, reason: str, status: int | None = None) -> list[PageQuery]:
        """Take the failure of a page; a limit that was refused is asked for smaller."""
        if smaller := with_smaller_limit(query, self._size, status):
            return [smaller]
        if query.purpose is Purpose.FIRST:
            self._failed = self._backlog.clear()
            self.gaps.append(f"{_named(self._until, self._since)}: {reason}")
            return []
        if query.purpose is not Purpose.WALK:
            return self._conclude(probe, probe.failure(query, reason, status)) if (probe := self._probe) else []
        return self._give_up(self._windows[query.window], reason)

    def remaining(self) -> list[Span]:
        """Return what is left: windows under way from where they have come to, and those not begun or given up."""
        return [*self.ahead(), *self._failed]

    def ahead(self) -> list[Span]:
        """Return what is left without the windows that were given up."""
        under_way = [(window.reached, window.low) for window in (*self._windows.values(), *self._ended)]
        return [*under_way, *self._backlog.spans]

    # Windows:

    def _begin_windows(self) -> list[PageQuery]:
        """Begin as many windows as allowed, none below one in which nothing more came; in the end, probe there."""
        queries = []
        respected = self._overview.respects_to_ts
        ended = max((window.reached for window in self._ended), default=None)
        while (latest := self._backlog.latest) is not None and len(self._windows) < (self._width if respected else 1):
            if ended is not None and latest <= ended:
                break
            window = Window(*self._backlog.take(whole=not respected), self._overview)
            queries.append(window.begin(self._number(window)))
        if self._ended and not self._windows and self._probe is None:
            self._probe = WindowEnd(max(self._ended, key=lambda window: window.reached), self._overview)
            queries += self._conclude(self._probe, self._probe.start())
        return queries

    def _number(self, window: Window) -> int:
        self._begun += 1
        self._windows[self._begun] = window
        return self._begun

    def _take_step(self, window: Window, step: Step, page: Page) -> list[PageQuery]:
        frontier = window.frontier(page)
        if isinstance(step, Incomplete) and not self._continues_by_time(window):
            return self._give_up(window, step.reason)
        if frontier is not None and frontier <= window.low:
            # The page may have reached into the next window, which begins where it ended.
            self._backlog.reached(window.low, frontier)
            return self._close(window, frontier)
        if isinstance(step, Ended):
            window.end(empty=step.empty)
            self._ended.append(self._windows.pop(window.number))
            return self._begin_windows()
        if self._continues_by_time(window):
            assert frontier is not None  # noqa: S101 - `_continues_by_time`
            return self._continue_by_time(window, page, frontier)
        if isinstance(step, PageTooSmall):
            step = window.count()
        assert isinstance(step, Slice)  # noqa: S101 - the others are dealt with above
        return [window.query(step), *self._begin_windows()]

    def _continues_by_time(self, window: Window) -> bool:
        """Return whether to continue a window by time; warn once if the server does not respect that."""
        continues = window.continues_by_time()
        if self._overview.ignores_to_ts and not self.warnings:
            self.warnings.append("The server does not end windows at `to_ts` as asked; they are walked as one list")
        return continues

    def _continue_by_time(self, window: Window, page: Page, frontier: int) -> list[PageQuery]:
        self._overview.note_progress(window.anchor)
        self._backlog.measure(window, frontier)
        self._remember_counted(window, frontier)
        if self._overview.respects_to_ts and not self._backlog.was_sparse(window):
            self._backlog.cut(window, frontier)
        return [window.continue_by_time(page, frontier), *self._begin_windows()]

    def _remember_counted(self, window: Window, reached: int) -> None:
        if not isinstance(window.walker, Blocks) or not window.walker.counted:
            return
        high = window.anchor
        if self._counted and self._counted[-1][1] == high:
            high, _ = self._counted.pop()
        self._counted.append((high, max(reached, window.low)))

    def _close(self, window: Window, reached: int) -> list[PageQuery]:
        del self._windows[window.number]
        self._remember_counted(window, reached)
        if self._backlog.was_sparse(window):
            self._backlog.lengthen()
        return self._begin_windows()

    def _give_up(self, window: Window, reason: str) -> list[PageQuery]:
        del self._windows[window.number]
        low = window.low
        if window.found_end is not None and low < window.found_end < window.reached:
            # What is below the hole can still be collected.
            low = window.found_end
            self._backlog.add([(low, window.low)])
        elif not self._overview.respects_to_ts:
            # It is not known whether the server respects windows, so others would fail too.
            self._failed += self._backlog.clear()
        self.gaps.append(f"{_named(window.reached, low + 1)}: {reason}")
        self._failed.append((window.reached, low))
        return self._begin_windows()

    # The end of the list:

    def _conclude(self, probe: WindowEnd, outcome: Outcome) -> list[PageQuery]:
        """Act on the outcome of the end probe."""
        if isinstance(outcome, list):
            return outcome
        if isinstance(outcome, Confirmed):
            return self._list_ended()
        window = probe.window
        if isinstance(outcome, InDoubt):
            self._probe = None
            return self._leave_in_doubt(window.reached, self._forget_below(), outcome.reason)
        self._keep_only(window)
        if isinstance(outcome, StartAbove):
            window.start_above()
            return [window.begin(self._number(window))]
        return self._resume(probe, outcome)

    def _resume(self, probe: WindowEnd, found: Continues) -> list[PageQuery]:
        """Continue the window: the list has not ended where it seemed to."""
        window, reached = probe.window, probe.window.reached
        self._resumptions[reached] += 1
        if self._resumptions[reached] > _MAX_RESUMED:
            return self._leave_in_doubt(reached, window.low, "its pages come and go")
        step = probe.continue_walk() if found.step is None else found.step
        window.resume(self._number(window))
        return self._take_step(window, step, found.page)

    def _keep_only(self, window: Window) -> None:
        """End the probe, and put the other windows back into the backlog."""
        self._probe = None
        self._ended.remove(window)
        self._backlog.add((each.reached, each.low) for each in self._ended)
        self._ended = []

    def _forget_below(self) -> int:
        """Forget what is below the end that is probed; return the bottom of it."""
        spans = self._backlog.clear()
        low = min([window.low for window in self._ended] + [low for _, low in spans])
        self._ended = []
        return low

    def _list_ended(self) -> list[PageQuery]:
        """Note that all livestreams were served."""
        self._probe = None
        for window in self._ended:
            self._remember_counted(window, window.reached)
        self._forget_below()
        return []

    def _leave_in_doubt(self, reached: int, low: int, reason: str) -> list[PageQuery]:
        self.gaps.append(f"{_named(reached, low + 1)}: the end of the list could not be confirmed: {reason}")
        self._failed.append((reached, low))
        return self._begin_windows()


def _named(high: int, low: int) -> str:
    """Return how a gap names the livestreams that ended from `low` to `high`, in Unix seconds."""
    return f"livestreams that ended from {timestamp_to_iso(max(low, 0))} to {timestamp_to_iso(high)}"


def _span(window: Sequence[int]) -> Span:
    high, low = window
    return high, low
