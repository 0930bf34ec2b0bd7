"""Offset paging as a state machine without I/O: it takes a page and says what to ask for next.

The caller sends each `PageRequest`, and answers with `page` or `failure`; either gives the next step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Ask for `limit` records from `offset`, counted in the order of the route."""

    offset: int
    limit: int


@dataclass(frozen=True, slots=True)
class Page:
    """What came back.

    Attributes:
        served: records on the page.
        ids: the ids of those that could be normalized, in the order served.
    """

    served: int
    ids: Sequence[Hashable]


@dataclass(frozen=True, slots=True)
class Complete:
    """The end was reached: an empty page."""


@dataclass(frozen=True, slots=True)
class Incomplete:
    """It cannot be shown that everything was served; `reason` is a part of a sentence."""

    reason: str


Step = PageRequest | Complete | Incomplete


class Paging:
    """Walks from offset 0 to the first empty page, on by the records served, never by the limit asked for.

    A short page is not the end, since a server may serve fewer than asked for. A page that brings the ids of
    the page before it once more shows a server that ignores `offset`: it would never come to an end.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._offset = 0
        self._last_ids: frozenset[Hashable] = frozenset()

    def start(self) -> PageRequest:
        """Return the first request."""
        return PageRequest(0, self._limit)

    def page(self, page: Page) -> Step:
        """Take the answer to the last request."""
        if not page.served:
            return Complete()
        ids = frozenset(page.ids)
        if ids and ids == self._last_ids:
            return Incomplete(f"the page at offset {self._offset} repeats the one before it")
        self._last_ids = ids
        self._offset += page.served
        return PageRequest(self._offset, self._limit)

    def failure(self, reason: str) -> Step:
        """Take the failure of the last request, all retries included."""
        return Incomplete(f"the page at offset {self._offset} could not be had: {reason}")
