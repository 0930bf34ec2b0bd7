"""Why records of a run were set aside, and how often, counted as it happens. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# How many are told apart: the server words some of them itself, and may never word one twice.
MAX_REASONS = 100


class Reasons:
    """How often records were set aside for each reason, in the earlier sessions of the run too.

    The first `MAX_REASONS` of them are counted; how many records were set aside for others follows from the tally.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, reason: str, number: int = 1) -> bool:
        """Count records; tell whether the reason is one that is counted, and was not known yet."""
        is_known = reason in self._counts
        if not is_known and len(self._counts) >= MAX_REASONS:
            return False
        self._counts[reason] += number
        return not is_known

    def most_common(self, number: int) -> list[tuple[str, int]]:
        """Return so many of them, each with its count, the most frequent first."""
        return self._counts.most_common(number)

    def as_json(self) -> dict[str, int]:
        """Return the counts, for `restore`."""
        return dict(self._counts)

    def restore(self, counts: Mapping[str, int]) -> None:
        """Continue from the counts that `as_json` returned."""
        self._counts = Counter(counts)
