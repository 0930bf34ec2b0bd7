"""Whether a list has ended where it seems to: the end is asked for again, and probed further down."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from parti_scraper.api.routes import FIRST_TS, LAST_TS
from parti_scraper.plan.plan import PageQuery, Purpose, Slice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from parti_scraper.plan.page_size import PageSize
    from parti_scraper.plan.plan import Page

# The longest run of records that a server may leave out of a list, and that probes still look beyond.
LONGEST_HIDDEN = 600
_OFFSET_PROBES = 7
TIME_PROBES = 4
# If pages hold fewer records than the site asks for, the whole run is long, and more probes do not matter.
USUAL_PAGE = 12
_SMALL_OFFSET_PROBES = 20
# How often an answer that cannot be right is asked for again, after a wait that doubles.
MAX_ATTEMPTS = 5


class Verdict(Enum):
    """What a control page shows, which is asked for without filters since nothing came with them.

    Attributes:
        SERVES: the server serves something, and nothing that should have come before.
        AGAIN: it may have a short problem; the list is to be asked for again.
        CONTRADICTS: it has records that it does not serve in the list.
        EMPTY: it serves nothing at all.
    """

    SERVES = auto()
    AGAIN = auto()
    CONTRADICTS = auto()
    EMPTY = auto()


@dataclass(frozen=True, slots=True)
class InDoubt:
    """It is not certain that the list has ended; `reason` is a part of a sentence."""

    reason: str


class EndProbe:
    """The question whether one list has ended where it seems to.

    Args:
        size: the page size.
        max_contradictions: how many control pages may contradict the list before that is believed.

    Attributes:
        waiting: probes that were sent and not answered.
        attempts: how often the last page of the list was asked for again.
        controls: control pages after which doubt is left.
        found_offset: down to which offset there are more records; None where not known.
    """

    def __init__(self, size: PageSize, *, max_contradictions: int = MAX_ATTEMPTS - 1) -> None:
        self.waiting = 0
        self.attempts = 0
        self.controls = 0
        self.found_offset: int | None = None
        self._size = size
        self._max_contradictions = max_contradictions

    def send(self, queries: Sequence[PageQuery]) -> list[PageQuery]:
        """Wait for the answers to these queries."""
        self.waiting = len(queries)
        return list(queries)

    def answered(self) -> None:
        self.waiting -= 1

    def next_attempt(self) -> int:
        """Count that the last page is asked for again; return how often it was."""
        self.attempts += 1
        return self.attempts

    def found(self, offset: int) -> None:
        """Note that there are more records down to an offset."""
        self.found_offset = lower_of(self.found_offset, offset)

    def forget_found(self) -> None:
        """Forget what was found, since the list is probed from another place."""
        self.found_offset = None

    def control_query(self) -> PageQuery:
        return PageQuery(Slice(0, self._size.limit), FIRST_TS, LAST_TS, purpose=Purpose.CONTROL)

    def judge(self, page: Page, *, contradicts: bool) -> Verdict:
        """Say what a control page shows.

        Args:
            page: the control page.
            contradicts: records are on it that should have come in the list.
        """
        if page.keys and not contradicts:
            return Verdict.SERVES
        self.controls += 1
        if self.attempts < MAX_ATTEMPTS or (contradicts and self.controls <= self._max_contradictions):
            return Verdict.AGAIN
        return Verdict.CONTRADICTS if contradicts else Verdict.EMPTY


def doubt(verdict: Verdict, what: str) -> InDoubt:
    """Return what a control page leaves in doubt about a list of such records."""
    if verdict is Verdict.CONTRADICTS:
        return InDoubt(f"the server answers with an empty list, though it has {what} for it")
    return InDoubt("the server answers with empty lists")


def lower_of(number: int | None, other: int) -> int:
    """Return the lower of two numbers; the first may be unknown."""
    return other if number is None else min(number, other)


def probe_offsets(largest: int, more: int = 0) -> list[int]:
    """Return how far after the last record of a list to look for more, in records.

    The first lie page by page, so that nothing hides between them; where pages are small, the others further apart.

    Args:
        largest: most records that a page has held.
        more: how many more probes than usual.
    """
    page = max(largest, 1)
    most = more + (_OFFSET_PROBES if page >= USUAL_PAGE else _SMALL_OFFSET_PROBES)
    near = [page * number for number in range(most) if page * (number - 1) < LONGEST_HIDDEN]
    if near[-1] >= LONGEST_HIDDEN - page:
        return near
    near = near[: most // 2]
    growth = (LONGEST_HIDDEN / near[-1]) ** (1 / (most - len(near)))
    return near + [round(near[-1] * growth**number) for number in range(1, most - len(near) + 1)]


def probe_times(end: int, bottom: int, step: int, number: int = TIME_PROBES) -> list[int]:
    """Return moments below the end of a list at which to look for more records, down to the bottom of time.

    Args:
        end: where the list seems to end, in Unix seconds.
        bottom: where time begins, in Unix seconds.
        step: about how many seconds a page of records covers.
        number: how many moments, besides the one right below the end.
    """
    distance = max(end - bottom, 1)
    growth = max(distance / max(step, 1), 1.0) ** (1 / max(number, 1))
    return [end - 2, *(end - max(round(distance / growth**place), 3) for place in range(number, 0, -1))]
