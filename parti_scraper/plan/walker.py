"""What a walker is: it takes the pages of one set and says what to ask for next, as a state machine without I/O.

Next is a `Slice`, or that it has `Ended`, which has to be probed, is `Incomplete` with the reason, or `PageTooSmall`,
since its pages cannot overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from parti_scraper.plan.plan import Slice

if TYPE_CHECKING:
    from collections.abc import Hashable

    from parti_scraper.plan.plan import Page

# Requests in a row that bring nothing new, until the set is said to move too much.
MAX_STALLED = 12
# How often a page is asked for again that is empty though a record is known to be on it.
EMPTY_TRIES = 3


@dataclass(frozen=True, slots=True)
class Ended:
    """No more records come from here on. It may be the end of the list, or an accident: it has to be probed.

    Attributes:
        empty: no record came at all, not even one that is known to be there.
    """

    empty: bool = False


@dataclass(frozen=True, slots=True)
class PageTooSmall:
    """Pages are too small for the overlap that is needed; `Blocks` can go on."""


@dataclass(frozen=True, slots=True)
class Incomplete:
    """It cannot be shown that everything was served; `reason` is a part of a sentence."""

    reason: str


Step = Slice | Ended | Incomplete | PageTooSmall


class Walker(Protocol):
    """What walks the pages of one set."""

    @property
    def frontier(self) -> int | None:
        """Every record of the set that ended later has been served; None where nothing can be said yet."""

    @property
    def shifts(self) -> int:
        """How often records were seen to have moved."""

    @property
    def end(self) -> int:
        """The position behind the last record of the last page."""

    @property
    def first(self) -> Hashable:
        """The identity of the first record of the list; None where none is known."""

    def start(self) -> Slice:
        """Return the first slice."""
        ...

    def page(self, page: Page) -> Step:
        """Take the answer to the last request."""
        ...

    def recheck(self, attempt: int) -> Slice:
        """Return the slice with the last record once more, after `Ended`."""
        ...

    def rechecked(self, page: Page) -> Step:
        """Take the answer to it: it has ended again, or goes on."""
        ...

    def continue_to(self, offset: int, *, is_sure: bool) -> Step:
        """Go on after `Ended`, since a probe has found records further down.

        Args:
            offset: the position behind those records.
            is_sure: the records are surely ones that were not served yet.
        """
        ...
