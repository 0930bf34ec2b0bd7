"""Whether the history has ended where a window saw nothing more: the end probe by offset and by time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from parti_scraper.plan.ends import (
    LONGEST_HIDDEN,
    MAX_ATTEMPTS,
    TIME_PROBES,
    EndProbe,
    InDoubt,
    Verdict,
    doubt,
    lower_of,
    probe_offsets,
    probe_times,
)
from parti_scraper.plan.plan import Page, PageQuery, Purpose, Slice, is_refusal
from parti_scraper.plan.walker import Ended

if TYPE_CHECKING:
    from parti_scraper.plan.walker import Step
    from parti_scraper.plan.window import Overview, Window


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The list has ended, and all of it was served."""


@dataclass(frozen=True, slots=True)
class Continues:
    """The list has not ended where it seemed to.

    Attributes:
        page: the page that showed it.
        step: the next step of the walker; None: it is to continue to what was found.
    """

    page: Page
    step: Step | None = None


@dataclass(frozen=True, slots=True)
class StartAbove:
    """Nothing comes for so early a `to_ts`: the window is to be walked by offset, from where records have come."""


Outcome = list[PageQuery] | Confirmed | Continues | StartAbove | InDoubt


class WindowEnd(EndProbe):
    """The question whether the list has ended where a window saw nothing more.

    Args:
        window: the window.
        overview: what all windows have shown.
    """

    def __init__(self, window: Window, overview: Overview) -> None:
        super().__init__(overview.size, max_contradictions=MAX_ATTEMPTS)
        self.window = window
        self._overview = overview
        # How often it was probed below the end; and whether it was since the last page was asked for, without a find.
        self._rounds = 0
        self._looked = False
        # At the same time, a page was empty although a record is known to be on it.
        self._in_trouble = False
        # All places were probed, not only the first ones; and all of them by time.
        self._is_far = False
        self._is_timed = False
        # The server ignores `offset`, or fails at one further down.
        self._ignores_offset = False
        self._fails_at_offset = False
        # Control pages have shown that it serves other records, or nothing at all.
        self._serves_others = False
        self._serves_nothing = False
        # When the latest of the records found ended, in Unix seconds; None if unknown.
        self._found_end: int | None = None
        # Down to which offset there are records that were served before; None if unknown.
        self._shown_offset: int | None = None

    def start(self) -> Outcome:
        """Begin; if the window saw no record, the server has to serve something first."""
        if not self.window.records:
            return self._ask_for_control()
        return self._ask_again() if self.window.ended_empty else self._look_below()

    def answer(self, query: PageQuery, page: Page) -> Outcome:
        self.answered()
        if query.control:
            return self._controlled(page)
        if query.purpose is Purpose.RECHECK:
            return self._rechecked(page)
        self._note(query, page)
        return [] if self.waiting else self._conclude(page)

    def failure(self, query: PageQuery, reason: str, status: int | None) -> Outcome:
        if query.ascending or (query.purpose is Purpose.BY_TIME and is_refusal(status)):
            # There is nothing to ask for.
            return self.answer(query, Page([]))
        if query.purpose is Purpose.BY_OFFSET and status is not None:
            # If the server has a problem with offsets, time has to be enough.
            self._ignores_offset = True
            self._fails_at_offset = not is_refusal(status)
            if is_refusal(status) or self._times(TIME_PROBES):
                return self.answer(query, Page([]))
        return InDoubt(reason)

    def continue_walk(self) -> Step:
        """Return the next step of the window's walker to what was found."""
        is_sure = self.found_offset is not None or self._found_end is not None
        found = self.found_offset if is_sure else (self._shown_offset or 0) + self._size.largest
        offset = self.window.walker.end + 2 * LONGEST_HIDDEN if found is None else found
        return self.window.continue_to(offset, self._found_end, is_sure=is_sure)

    # What is asked for:

    def _ask_for_control(self) -> Outcome:
        return self.send([self.control_query()])

    def _ask_again(self) -> Outcome:
        """Ask for the last page of the window again, after a wait that grows."""
        return self.send([self.window.query(self.window.walker.recheck(self.next_attempt()), Purpose.RECHECK)])

    def _look_below(self) -> Outcome:
        """Probe below the end, by offset and by time at once."""
        self._rounds += 1
        if self._rounds > MAX_ATTEMPTS:
            return InDoubt("the server answers with empty lists now and then")
        if self._others_are_lower() and not self._serves_nothing:
            if not self.window.records and not self._serves_others:
                return self._ask_for_control()
            # The list continues there.
            self._found_end = self._overview.lowest
            return Continues(Page([]))
        window = self.window
        queries = [self._by_offset(0)]
        queries += [self._by_time(end) for end in self._times(TIME_PROBES)]
        # Not by time too: the server may have nothing for so early a `to_ts`.
        queries.append(replace(self._by_time(self._overview.until), ascending=True, optional=True))
        if window.records:
            queries.append(window.query(replace(window.walker.recheck(1), attempt=0), Purpose.RECHECK_BESIDE))
        self._looked, self.attempts = True, 0
        self._in_trouble = self._ignores_offset = self._is_far = self._is_timed = False
        return self.send(queries)

    def _others_are_lower(self) -> bool:
        """Return whether other windows have seen records below the end that is probed."""
        ended_at = self.window.reached if self.window.lowest is None else self.window.lowest
        return self._overview.lowest is not None and self._overview.lowest < ended_at

    def _look_further(self) -> Outcome:
        """Probe more places: by offset, or by time if the server ignores `offset`."""
        if self._ignores_offset:
            self._is_timed = True
            number = (4 if self._fails_at_offset else 2) * TIME_PROBES
            queries = [self._by_time(end) for end in self._times(number)]
        else:
            more = 0 if self._times(0) else TIME_PROBES
            offsets = probe_offsets(self._size.largest or self._size.limit, more)[1:]
            queries = [self._by_offset(offset) for offset in offsets]
        self._is_far = True
        return self.send(queries) or self._ask_again()

    def _times(self, number: int) -> list[int]:
        """Return which moments to probe; none without ends, or if the server ignores `to_ts`."""
        if self._overview.ignores_to_ts or (self.window.records and self.window.lowest is None):
            return []
        reached = self.window.reached
        step = self._overview.seconds_of(self._size.largest, reached)
        return probe_times(reached, self._overview.bottom, step, number)

    def _by_offset(self, offset: int) -> PageQuery:
        slice_ = Slice(self.window.walker.end + offset, self._size.limit)
        return replace(self.window.query(slice_, Purpose.BY_OFFSET), optional=True)

    def _by_time(self, end: int) -> PageQuery:
        return PageQuery(Slice(0, self._size.limit), self._overview.bottom, end + 1, purpose=Purpose.BY_TIME)

    # What the answers mean:

    def _note(self, query: PageQuery, page: Page) -> None:
        self._size.saw(len(page.keys))
        new = self.window.unserved(page.known)
        end_of_page = query.slice.offset + len(page.keys)
        if query.purpose is Purpose.BY_TIME:
            ends = [end for end in (self._found_end, *(key.end for key in new)) if end is not None]
            self._found_end = max(ends, default=None)
        elif new:
            self.found(end_of_page)
        elif query.purpose is Purpose.RECHECK_BESIDE:
            self._in_trouble = not page.keys
        elif page.known and page.known[0].id == self.window.walker.first:
            self._ignores_offset = True
        elif page.keys:
            self._shown_offset = lower_of(self._shown_offset, end_of_page)

    def _conclude(self, page: Page) -> Outcome:
        """Judge all answers together; `page` is the last of them."""
        if any(found is not None for found in (self.found_offset, self._found_end, self._shown_offset)):
            if self._in_trouble and self.window.can_start_above:
                # The way there includes the page that was empty.
                self._looked = False
                return self._ask_again()
            return Continues(page)
        if not (self._is_timed if self._ignores_offset else self._is_far) and not self._in_trouble:
            return self._look_further()
        if self._serves_nothing:
            return doubt(Verdict.EMPTY, "livestreams")
        self._looked = not self._in_trouble
        return self._ask_again()

    def _rechecked(self, page: Page) -> Outcome:
        window = self.window
        if page.keys:
            is_new = bool(window.unserved(page.known))
            window.note(page)
            step = window.walker.rechecked(page)
            if is_new or not isinstance(step, Ended):
                # It was missing for a moment only.
                return Continues(page, step)
            return Confirmed() if self._looked else self._look_below()
        if self._serves_others and self._looked and not window.records:
            return Confirmed()
        if self.attempts < MAX_ATTEMPTS:
            # If it comes back, the answers to the probes cannot be trusted either.
            self._looked = False
            return self._ask_again()
        return self._ask_for_control()

    def _controlled(self, page: Page) -> Outcome:
        verdict = self.judge(page, contradicts=bool(self.window.unserved(page.matching)))
        if verdict is Verdict.SERVES:
            self._serves_others = True
            if self.window.can_start_above:
                return StartAbove()
            # If the last page is still empty, the record was deleted.
            return Confirmed() if self._rounds > 1 else self._look_below()
        if verdict is Verdict.AGAIN:
            # The server may serve them again.
            return self._ask_again()
        if verdict is Verdict.CONTRADICTS or self._looked:
            return doubt(verdict, "livestreams")
        # It may leave out only what is at the head.
        self._serves_nothing = True
        return self._look_below()
