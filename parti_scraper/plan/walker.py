"""What a walker is: it takes the pages of one set and returns the next step, as a state machine without I/O.

A step is a `Slice` to ask for, `Ended`, which has to be probed, `Incomplete` with the reason, or `PageTooSmall`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from parti_scraper.plan.plan import Slice

if TYPE_CHECKING:
    from collections.abc import Hashable

    from parti_scraper.plan.plan import Page

# Requests in a row that bring nothing new, after which the set counts as moving too much.
MAX_STALLED = 12
# How often a page is asked for again that is empty though a record is known to be on it.
EMPTY_TRIES = 3


@dataclass(frozen=True, slots=True)
class Ended:
    """No more records come. It may be the end of the list, or an accident: it has to be probed.

    Attributes:
        empty: no record came at all, not even one that is known to be there.
    """

    empty: bool = False


@dataclass(frozen=True, slots=True)
class PageTooSmall:
    """Pages are too small for the overlap that is needed; `Blocks` can continue."""


@dataclass(frozen=True, slots=True)
class Incomplete:
    """It is not certain that everything was served; `reason` is a part of a sentence."""

    reason: str


Step = Slice | Ended | Incomplete | PageTooSmall


class Walker(Protocol):
    """What walks the pages of one set."""

    @property
    def frontier(self) -> int | None:
        """Every record of the set that ended later was served; None while this is unknown."""

    @property
    def shifts(self) -> int:
        """How often records were seen to have moved."""

    @property
    def end(self) -> int:
        """The position after the last record of the last page."""

    @property
    def first(self) -> Hashable:
        """The identity of the first record of the list; None if unknown."""

    def start(self) -> Slice:
        """Return the first slice."""
        ...

    def page(self, page: Page) -> Step:
        """Take the answer to the last request."""
        ...

    def recheck(self, attempt: int) -> Slice:
        """Return the slice with the last record again, after `Ended`."""
        ...

    def rechecked(self, page: Page) -> Step:
        """Take the answer to it: the walk has ended again, or continues."""
        ...

    def continue_to(self, offset: int, *, is_sure: bool) -> Step:
        """Continue after `Ended`, since a probe has found records further down.

        Args:
            offset: the position after those records.
            is_sure: it is certain that the records were not served yet.
        """
        ...
