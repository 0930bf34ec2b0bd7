"""Which livestreams an incremental run saw in the version that an earlier run has written. Pure.

The run does not write them again, so its data package says that they were there: a livestream that is in neither was
deleted or hidden.
"""

from __future__ import annotations

import re
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from parti_scraper.api.values import MAX_INTEGER, MIN_INTEGER

if TYPE_CHECKING:
    from collections.abc import Iterable

_KEY = "unchanged"
# Not more digits than 64 bits have: `int` takes long for very many.
_ENCODED = re.compile(r"(?:0|-?[1-9][0-9]{0,18})(?: [1-9][0-9]{0,19})*", re.ASCII)


class Unchanged:
    """The account of the livestreams that a run saw unchanged, its earlier sessions included."""

    __slots__ = ("_event_ids", "_is_whole")

    def __init__(self) -> None:
        self._event_ids: set[int] = set()
        self._is_whole = True

    def add(self, event_id: int) -> None:
        """Note a livestream; a second time changes nothing."""
        self._event_ids.add(event_id)

    def discard(self, event_id: int) -> None:
        """Forget a livestream, if it was noted."""
        self._event_ids.discard(event_id)

    def as_json(self) -> dict[str, str]:
        """Return the key for the checkpoint and the data package; nothing where it is not known what was seen."""
        return {_KEY: encode(self._event_ids)} if self._is_whole else {}

    def restore(self, text: str | None) -> None:
        """Continue from a checkpoint.

        Args:
            text: what it has under the key; None: an earlier version took it, so what was seen until then is not known.

        Raises:
            ValueError: it is no such text.
        """
        self._is_whole = text is not None
        self._event_ids = set(decode(text or ""))


def encode(event_ids: Iterable[int]) -> str:
    """Return numbers as a text: in ascending order, each after the first as the difference from the one before.

    They are separated by spaces, such as `80658 1 3 12`, and each is there once; without any, the text is empty.
    """
    ordered = sorted(set(event_ids))
    differences = (after - before for before, after in pairwise(ordered))
    return " ".join(map(str, (*ordered[:1], *differences)))


def decode(text: str) -> tuple[int, ...]:
    """Return the numbers of a text of `encode`, in ascending order. Raises ValueError if it is no such text."""
    if not text:
        return ()
    if not _ENCODED.fullmatch(text):
        raise ValueError(f"`{_KEY}` is not a number and differences above 0, separated by spaces")
    event_ids = tuple(accumulate(map(int, text.split(" "))))
    if event_ids[0] < MIN_INTEGER or event_ids[-1] > MAX_INTEGER:
        raise ValueError(f"`{_KEY}` has a number of more than 64 bits")
    return event_ids
