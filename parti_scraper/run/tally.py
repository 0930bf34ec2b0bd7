"""What became of the records of a run: the one place where they are counted. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from parti_scraper.run.outcome import Counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


class _Count:
    """A count that is read as an attribute, and changed by the tally alone."""

    def __set_name__(self, owner: type[Tally], name: str) -> None:
        self._key = name

    def __get__(self, tally: Tally, owner: type[Tally]) -> int:
        return tally[self._key]


class Tally:
    """What became of the records of a run, its earlier sessions included; in the ledger, the keys are the same.

    Attributes:
        pages, served, written, duplicate, quarantined, filtered, dropped: see `Counts`.
        new: livestreams written by an incremental run that no earlier run has written.
        changed: livestreams written by an incremental run that an earlier run has written in another version.
    """

    __slots__ = ("_callbacks", "_categories", "_numbers")

    pages = _Count()
    served = _Count()
    written = _Count()
    duplicate = _Count()
    quarantined = _Count()
    filtered = _Count()
    dropped = _Count()
    new = _Count()
    changed = _Count()

    def __init__(self) -> None:
        self._numbers = dict.fromkeys(KEYS, 0)
        self._categories: Counter[str] = Counter()
        self._callbacks: list[Callable[[], None]] = []

    def __getitem__(self, key: str) -> int:
        """Return a count. Raises KeyError for an unknown key."""
        return self._numbers[key]

    @property
    def categories(self) -> Counter[str]:
        """How many records were written, by category name: a copy."""
        return self._categories.copy()

    def add(self, key: str, number: int = 1) -> None:
        """Count records, or pages. Raises KeyError for an unknown key."""
        self._numbers[key] += number
        self._call_back()

    def wrote(self, categories: Iterable[str]) -> None:
        """Count records that were written, each by the name of its category."""
        names = list(categories)
        self._categories.update(names)
        self.add("written", len(names))

    def counts(self, unknown_fields: int = 0) -> Counts:
        """Return the counts as they are now, with the number of fields that no item declares."""
        numbers = {key: number for key, number in self._numbers.items() if key not in {"new", "changed"}}
        return Counts(**numbers, unknown_fields=unknown_fields)

    def balances(self) -> bool:
        return self.counts().balance()

    def call_when_balanced(self, callback: Callable[[], None]) -> None:
        """Call once, as soon as every record served is accounted for; now, if it already is.

        A component of the user's may cause more records than were served: that does not balance, but there is nothing
        to wait for, so it calls too.
        """
        self._callbacks.append(callback)
        self._call_back()

    def as_json(self) -> dict[str, int]:
        """Return the counts by their keys, for the ledger; the categories can be counted in the files."""
        return dict(self._numbers)

    def restore(self, numbers: Mapping[str, int], categories: Mapping[str, int]) -> None:
        """Continue from a checkpoint.

        Args:
            numbers: what `as_json` returned then; a count that it does not have is 0.
            categories: records written until then, by category name.

        Raises:
            KeyError: a count is not known; nothing was changed.
        """
        if unknown := numbers.keys() - self._numbers.keys():
            raise KeyError(*sorted(unknown))
        self._numbers = dict.fromkeys(KEYS, 0) | dict(numbers)
        self._categories = Counter(categories)
        self._call_back()

    def _call_back(self) -> None:
        if not self._callbacks or self.counts().accounted_for < self.served:
            return
        # A callback may count more, or ask to be called again.
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


KEYS = tuple(name for name, value in vars(Tally).items() if isinstance(value, _Count))
