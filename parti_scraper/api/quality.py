"""Whether the records still have the fields that they are known to have, counted over a run."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from parti_scraper.exceptions import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Hashable, Sequence

    from parti_scraper.api.pages import NormalizedPage

# A share of fewer records says nothing.
MIN_RECORDS = 20
# How many names are remembered: an API may make them up at random.
MAX_NAMES = 100
# Fields that the specification shows, by the names of the API, and the end of a livestream that has ended. If most
# records of a route that has it lack one, the API has changed.
SPECIFIED = ("user_name", "event_title", "category_name", "total_viewers", "viewers_count", "event_end_ts")


class Quality:
    """Counts what is wrong with single fields of records, each record once.

    Args:
        specified: fields of which most records are to be readable.

    Attributes:
        readable: how many could be read.
        records: how many of these were asked for; what follows is about them.
        unknown: how many had a field that no item declares, by its name.
        unreadable: how many had a field whose value could not be read, by the API's name of it.
        absent: how many lacked a field that they are known to have, by the API's name of it.
    """

    def __init__(self, specified: Sequence[str] = SPECIFIED) -> None:
        self._specified = specified
        self.readable = 0
        self.records = 0
        self.unknown: Counter[str] = Counter()
        self.unreadable: Counter[str] = Counter()
        self.absent: Counter[str] = Counter()

    def add(
        self, page: NormalizedPage[Any], seen: Container[Hashable], takes: Callable[[Any], bool] = lambda _: True
    ) -> None:
        """Count the records of a page, except those that came before; `takes` returns whether an item was asked for."""
        counted = set()
        for index, item in enumerate(page.items):
            identity = item.identity
            if identity in counted or identity in seen:
                continue
            counted.add(identity)
            self.readable += 1
            if not takes(item):
                continue
            self.records += 1
            remark = page.remarks.get(index)
            if remark is not None:
                _count(self.unknown, remark.unknown)
                _count(self.unreadable, remark.unreadable)
                _count(self.absent, remark.absent)

    def replace_unknown(self, counts: Counter[str]) -> None:
        """Take the counts of unknown fields from elsewhere: of answers that are no pages of this run."""
        self.unknown = counts

    def flaws(self, expected_absent: Container[str]) -> list[str]:
        """Return a part of a sentence for each specified field that most records lack, except `expected_absent`."""
        if self.records < MIN_RECORDS:
            return []
        return [
            self._flaw(name)
            for name in self._specified
            if 2 * (self.unreadable[name] + self.absent[name]) > self.records and name not in expected_absent
        ]

    def vanished(self) -> list[str]:
        """Return the other fields that records are known to have, and that none of these had."""
        if self.records < MIN_RECORDS:
            return []
        return sorted(name for name in self.absent.keys() - set(self._specified) if self.absent[name] == self.records)

    def as_json(self) -> dict[str, Any]:
        """Return the counts, for `restore`."""
        return {
            "readable": self.readable,
            "records": self.records,
            "unknown": dict(self.unknown),
            "unreadable": dict(self.unreadable),
            "absent": dict(self.absent),
        }

    def restore(self, counts: dict[str, Any]) -> None:
        """Continue from the counts that `as_json` returned."""
        self.records = counts["records"]
        # Earlier versions had one count for both.
        self.readable = counts.get("readable", self.records)
        self.unknown = Counter(counts["unknown"])
        self.unreadable = Counter(counts["unreadable"])
        self.absent = Counter(counts["absent"])

    def _flaw(self, name: str) -> str:
        lacks = {"unreadable in": self.unreadable[name], "absent from": self.absent[name]}
        shares = " and ".join(f"{how} {number:,}" for how, number in lacks.items() if number)
        return f"{name} is {shares} of {self.records:,} records"


def _count(counter: Counter[str], names: frozenset[str]) -> None:
    for name in names:
        if name in counter or len(counter) < MAX_NAMES:
            counter[name] += 1


def too_many_set_aside(set_aside: int, readable: int, most: float) -> str | None:
    """Return a part of a sentence if more than the share `most` of the records was set aside."""
    records = set_aside + readable
    if records < MIN_RECORDS or set_aside <= most * records:
        return None
    return f"{set_aside:,} of {records:,} records were set aside, see quarantine.jsonl"


def parse_expect_absent(text: str) -> frozenset[str]:
    """Return the fields that the setting `PARTI_EXPECT_ABSENT` names. Raises UsageError."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in SPECIFIED:
            problem, hint = "not a field whose absence is noticed", did_you_mean(name, SPECIFIED)
            raise UsageError.of("setting", "PARTI_EXPECT_ABSENT", problem, name, ", ".join(SPECIFIED), hint=hint)
    return frozenset(names)


def parse_max_rejected(text: str) -> float:
    """Return the share that the setting `PARTI_MAX_REJECTED` names. Raises UsageError."""
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError.of("setting", "PARTI_MAX_REJECTED", "not a share", text, "a number from 0 to 1, such as 0.05")
    return share
