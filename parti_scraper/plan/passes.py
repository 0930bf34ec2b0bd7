"""The plan for one list that moves: it is walked from its first record to its last, again if necessary."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from parti_scraper.plan.blocks import Blocks
from parti_scraper.plan.ends import MAX_ATTEMPTS, USUAL_PAGE, EndProbe, Verdict, doubt, probe_offsets
from parti_scraper.plan.overlap import Paging
from parti_scraper.plan.plan import Key, Page, PageQuery, Purpose, Slice, is_refusal, with_smaller_limit
from parti_scraper.plan.walker import Ended, Incomplete, PageTooSmall
from parti_scraper.wording import number_of

if TYPE_CHECKING:
    from collections.abc import Hashable

    from parti_scraper.plan.page_size import PageSize
    from parti_scraper.plan.walker import Step, Walker

_MAX_PASSES = 3
# Seconds; no longer livestream is known.
_LONGEST = 7 * 86_400
# How often the last page is asked for again, of a list with short pages.
_PATCHY_TRIES = 2
# How often one list may continue after it seemed to have ended.
_MAX_CONTINUED = 100


class Passes:
    """One list from its first record to its last, by offset.

    Args:
        size: the page size.
        what: what is listed, for the gaps.
        lenient: the order changes all the time: the list is walked until a pass brings nothing new, three times at
            most. Else it is walked again only if records were seen to move, and the number of records is compared with
            the number of places in the list: if records with the same sort key change places between requests, one may
            be missed although each page continues the one before.
        window: since and until, of the recent route: asked for once as they are, as the site does it, and then with a
            margin on both sides, so that no record is missed whether the bounds apply to its end or its start.
        before: how many records the same list held the last time; a much shorter one is walked again.
    """

    def __init__(
        self, size: PageSize, what: str, *, lenient: bool, window: tuple[int, int] | None = None, before: int = 0
    ) -> None:
        self.gaps: list[str] = []
        self.warnings: list[str] = []
        self.shifts = 0
        self._size, self._what, self._lenient, self._expected = size, what, lenient, before
        self._window = window
        # Places that hold no record of their own: records without an identity, or twice on the same page.
        self._idle_places: set[int] = set()
        self._bounds = window or (0, 0)
        self._seen: set[Hashable] = set()
        self._walker: Walker
        self._probe = EndProbe(size)
        # Passes begun; of the last one, the records and the pages that were new.
        self._passes = 0
        self._new = 0
        self._pages_with_new = 0
        # How often the list continued after it seemed to have ended.
        self._continued = 0
        # After how many records the list was probed below its end, and how far.
        self._looked_for: tuple[int, int] | None = None
        # No pass comes after this one; more than one page has brought something new.
        self._is_last = True
        self._is_long = False
        # The last pass ended with an empty page where a record was expected.
        self._ended_empty = False
        # The position after the last page, if that was short; and whether more came after such a page, so that a short
        # page does not mean the end.
        self._short_to: int | None = None
        self._is_patchy = False

    @property
    def count(self) -> int:
        """How many records the list has held."""
        return len(self._seen)

    def remaining(self) -> None:
        """Return nothing: a list that moves is walked as a whole."""

    def ahead(self) -> None:
        """Return nothing: how long the list is shows only at its end."""

    def start(self) -> list[PageQuery]:
        """Return the first page."""
        if self._window is not None:
            return [self._query(Slice(0, self._size.limit), Purpose.FIRST)]
        return self._begin_pass()

    def page(self, query: PageQuery, page: Page) -> list[PageQuery]:
        """Take a page; return what to ask for next."""
        if self._window is not None:
            since, until = self._window
            self._bounds, self._window = (max(since - _LONGEST, 0), until + 1), None
            return self._begin_pass()
        if query.control:
            return self._controlled(page)
        # The order is by viewers, or unknown: when records ended does not matter.
        page = Page([None if key is None or key.id is None else Key(key.id) for key in page.keys])
        new = {key.id for key in page.known} - self._seen
        if query.purpose is Purpose.BY_OFFSET:
            # If the head is left out, the walk has seen no page yet, and would continue by one record at a time.
            self._size.saw(len(page.keys))
            return self._looked_below(query, len(page.keys) if new else 0)
        self._note(new)
        self._note_idle(query.slice.offset, page)
        step = self._walker.page(page)
        self._note_short(query.slice.offset, len(page.keys))
        return self._take_step(step)

    def failure(self, query: PageQuery, reason: str, status: int | None = None) -> list[PageQuery]:
        """Take the failure of a page; a limit that was refused is asked for smaller."""
        if smaller := with_smaller_limit(query, self._size, status):
            return [smaller]
        if query.purpose is Purpose.BY_OFFSET and is_refusal(status):
            return self._looked_below(query, 0)
        self.gaps.append(f"{self._what}, the page at offset {query.slice.offset}: {reason}")
        return []

    # The walk:

    def _begin_pass(self, attempt: int = 0) -> list[PageQuery]:
        self._passes += 1
        self._new = self._pages_with_new = 0
        self._idle_places.clear()
        self._short_to = None
        self._walker = Paging(self._size, ordered=False, lenient=self._lenient, known=len(self._seen))
        return [self._query(replace(self._walker.start(), attempt=attempt))]

    def _note(self, new: set[Hashable]) -> None:
        self._seen |= new
        self._new += len(new)
        self._pages_with_new += bool(new)
        self._is_long = self._is_long or self._pages_with_new > 1

    def _note_idle(self, offset: int, page: Page) -> None:
        """Note which places of a page hold no record of their own."""
        ids: set[Hashable] = set()
        for place, key in enumerate(page.keys, offset):
            if key is None or key.id in ids:
                self._idle_places.add(place)
            else:
                ids.add(key.id)

    @property
    def _missing(self) -> int:
        """How many records were not seen, by the number of places; 0 if those do not show it."""
        if self._lenient or self._is_patchy:
            return 0
        return max(self._walker.end - len(self._idle_places) - len(self._seen), 0)

    def _note_short(self, offset: int, count: int) -> None:
        """Note whether a page was short, and whether it shows records after one that was."""
        if count and self._short_to is not None and offset + count > self._short_to:
            self._is_patchy = True
        self._short_to = offset + count if count < self._size.largest else None

    def _take_step(self, step: Step) -> list[PageQuery]:
        if isinstance(step, PageTooSmall):
            self._walker = Blocks(self._size)
            step = self._walker.start()
        if isinstance(step, Slice):
            return [self._query(step)]
        self.shifts += self._walker.shifts + (self._new if self._passes > 1 else 0)
        if isinstance(step, Incomplete):
            return self._give_up(step.reason)
        self._ended_empty = isinstance(step, Ended) and step.empty
        return self._pass_ended()

    def _pass_ended(self) -> list[PageQuery]:
        # What came on a single page cannot have moved.
        moved = self._pages_with_new > 1 if self._lenient else bool(self._walker.shifts or self._missing)
        is_settled = self._passes > 1 and not self._new and not self._missing
        self._is_last = not moved or self._passes >= _MAX_PASSES or is_settled
        if self._is_last and not self._lenient and moved and self._new and self._passes > 1:
            return self._give_up("the set kept moving")
        if self._lenient:
            return self._look_below(1 if self._passes == 1 else 4)
        return self._look_below() if self._is_last else self._begin_pass()

    # The end of the list:

    def _look_below(self, pages: int = 0) -> list[PageQuery]:
        """Probe below the end whether the list has ended, unless nothing is new since the last probe.

        Args:
            pages: how many pages below the end, in a list that is asked for all the time, where few requests have to be
                enough: one after each pass, since a short problem may hide what is there. 0: at many places.
        """
        looked, self._looked_for = self._looked_for, (len(self._seen), self._is_long and pages)
        if looked == self._looked_for:
            return self._look_again()
        self._probe.forget_found()
        end = self._walker.end
        return self._probe.send(
            [self._query(Slice(end + each, self._size.limit), Purpose.BY_OFFSET) for each in self._offsets(pages)]
        )

    def _offsets(self, pages: int) -> list[int]:
        """Return how far below the end to probe, in records."""
        largest = self._size.largest or self._size.limit
        if not pages:
            # If no page has held a record, the page size is unknown.
            return probe_offsets(self._size.largest or min(self._size.limit, USUAL_PAGE))
        # The last page began with the last record.
        return [pages * (max(largest, min(self._size.limit, USUAL_PAGE)) - 1 or 1)]

    def _looked_below(self, query: PageQuery, found: int) -> list[PageQuery]:
        """Take a probe that has found so many records; continue once all are answered."""
        self._probe.answered()
        if found:
            self._probe.found(query.slice.offset + found)
        if self._probe.waiting or self.gaps:
            return []
        if self._probe.found_offset is None:
            return self._look_again()
        self._looked_for = None
        self._continued += 1
        if self._continued > _MAX_CONTINUED:
            return self._give_up("its pages come and go")
        return self._take_step(self._walker.continue_to(self._probe.found_offset, is_sure=True))

    def _look_again(self) -> list[PageQuery]:
        """Ask again for what may have been incomplete: the last page, or the whole of a short list."""
        if not self._is_last:
            return self._begin_pass()
        if not self._seen and not self._expected and self._probe.attempts and not self._probe.controls:
            return [self._probe.control_query()]
        is_short = self._ended_empty or 2 * len(self._seen) < self._expected
        is_settled = self._lenient and self._passes > 1
        tries = MAX_ATTEMPTS if is_short else _PATCHY_TRIES if self._is_patchy else 0 if is_settled else 1
        if self._probe.attempts < tries:
            attempt = self._probe.next_attempt()
            return self._begin_pass(attempt) if is_short else [self._query(self._walker.recheck(attempt))]
        if self._ended_empty:
            return [self._probe.control_query()]
        if self._missing:
            known = number_of(len(self._seen) + self._missing, "records")
            return self._give_up(f"only {len(self._seen):,} of {known} could be seen")
        return []

    def _controlled(self, page: Page) -> list[PageQuery]:
        verdict = self._probe.judge(page, contradicts=bool(page.matching))
        if verdict is Verdict.AGAIN:
            # The server may serve them again.
            return self._begin_pass(min(self._probe.next_attempt(), MAX_ATTEMPTS))
        if verdict is not Verdict.SERVES:
            return self._give_up(doubt(verdict, "records").reason)
        if self._seen or self._expected:
            held = number_of(len(self._seen) or self._expected, "records")
            return self._give_up(f"the list is empty, and has held {held}")
        return []

    def _give_up(self, reason: str) -> list[PageQuery]:
        self.gaps.append(f"{self._what}: {reason}")
        return []

    def _query(self, slice_: Slice, purpose: Purpose = Purpose.WALK) -> PageQuery:
        return PageQuery(slice_, *self._bounds, purpose=purpose)
