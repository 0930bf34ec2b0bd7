"""Which record files may go: those of runs and days that are over, old enough, and in a target. Pure.

What a target says of itself is judged here. Whether it really has the records is looked up before a file goes, see
`removal`. Moments are Unix seconds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from parti_scraper.api.times import DAY, iso_to_timestamp
from parti_scraper.dataset.plan import LeftOut, held_parts, readable_files
from parti_scraper.network.source import REAL
from parti_scraper.run.entries import Entry, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from parti_scraper.dataset.plan import Key, Loaded, Part
    from parti_scraper.run.entries import File

# For so many seconds after a day, a run that goes on may need its files: it looks up there what it has told already,
# see `remembered` of the spider, and a day longer.
NEEDED_FOR = {"notifications": 8 * DAY}
_OVER = frozenset({Status.FINISHED, Status.SEALED})
_DAMAGED = frozenset({Status.UNREADABLE, Status.TOO_NEW})


@dataclass(frozen=True, slots=True)
class Terms:
    """Under which terms files may go.

    Attributes:
        now: the present moment.
        before: only of runs and days that ended before this moment.
        shown: the name of the target.
        source: where its data come from; None if it has none.
        known: what was loaded into it.
    """

    now: float
    before: float
    shown: str
    source: str | None
    known: Mapping[Key, Loaded]

    @property
    def not_held(self) -> str:
        """Why a run is kept that the target does not have."""
        return f"not in {self.shown}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A run, or a day of one, whose record files may go.

    Attributes:
        entry: of the catalog.
        parts: those of the files whose records are looked up in the target.
        files: all of its record files that are there.
    """

    entry: Entry
    parts: Sequence[Part]
    files: Sequence[File]


@dataclass(frozen=True, slots=True)
class Removal:
    """What may go of a run.

    Attributes:
        run: its entry.
        days: its days that may go.
        own: the run itself, only together with all of its days; None: more of it stays.
    """

    run: Entry
    days: Sequence[Candidate] = ()
    own: Candidate | None = None

    @property
    def candidates(self) -> Sequence[Candidate]:
        """The run and its days, in the order in which they go."""
        own = [self.own] if self.own else []
        # A sealed run could be resumed until its own data package says that its files are gone.
        return [*own, *self.days] if self.is_resumable else [*self.days, *own]

    @property
    def is_resumable(self) -> bool:
        """Whether the run may go on, unless all of it goes."""
        return not self.run.pruned and self.run.status is not Status.FINISHED

    @property
    def is_whole(self) -> bool:
        """Whether it goes as a whole or not at all."""
        return self.own is not None and self.is_resumable


def removals(
    entries: Iterable[Entry],
    terms: Terms,
    described: Callable[[Entry], Collection[str]],
    exists: Callable[[Path], bool],
) -> Iterator[Removal | LeftOut]:
    """Yield what may go of each run, and what is kept though it is old, with the reason.

    Args:
        entries: of the catalog.
        terms: under which terms.
        described: returns which days of a run that may go on it has left and described, by its last checkpoint.
        exists: tells whether a file is there.
    """
    for _, group in groupby(entries, key=lambda each: each.folder.parent if each.day else each.folder):
        own, *days = group
        yield from _Run(own, days, terms, exists).judge(described)


class _Run:
    """A run with its days, of which it is judged what may go."""

    def __init__(self, own: Entry, days: Sequence[Entry], terms: Terms, exists: Callable[[Path], bool]) -> None:
        self._own, self._days, self._terms, self._exists = own, days, terms, exists
        # What is kept, by folder.
        self._kept: dict[str, LeftOut] = {}

    def judge(self, described: Callable[[Entry], Collection[str]]) -> Iterator[Removal | LeftOut]:
        """Yield what may go, and what is kept."""
        own = self._own
        if own.status is Status.FOREIGN:
            return
        if own.status in _DAMAGED:
            self._keep(own, own.reason or own.status, is_wrong=True)
        elif own.status is Status.UNFINISHED and (_moment(own.started_at) or 0) < self._terms.before:
            self._keep(own, "not finished")
        for day in self._days:
            if day.status in _DAMAGED:
                self._keep(day, day.reason or day.status, is_wrong=True)
        removal = self._of_ended()
        if removal.is_resumable and not removal.own:
            removal = Removal(own, self._of_going_on(described))
        if removal.candidates:
            yield removal
        yield from self._kept.values()

    def _of_ended(self) -> Removal:
        """Return what may go if the run does not go on."""
        own = self._own
        is_over = own.status in _OVER and (own.pruned or self._is_old(own))
        if own.status is not Status.FINISHED and not is_over:
            return Removal(own)
        days = self._candidates(self._old_days())
        gone = {each.entry.location for each in days}
        stays = any(each.location not in gone and not self._is_gone(each) for each in self._days)
        has_any = self._left(own) or (not own.pruned and (days or any(each.pruned for each in self._days)))
        return Removal(own, days, self._candidate(own) if is_over and has_any and not stays else None)

    def _of_going_on(self, described: Callable[[Entry], Collection[str]]) -> list[Candidate]:
        """Return the days that may go of a run that may go on: it does not come back to those that are described."""
        latest = self._terms.now - NEEDED_FOR.get(self._own.spider, 0)
        days = [each for each in self._old_days() if (_moment(each.ended_at) or 0) < latest]
        known = described(self._own) if days else ()
        settled = [each for each in days if each.status is Status.FINISHED and each.day in known]
        for each in days:
            if each not in settled:
                self._keep(each, "its run may come back to it")
        return self._candidates(settled)

    def _old_days(self) -> list[Entry]:
        """Return the days that are over and old, and of which something is left."""
        left = [each for each in self._days if each.status in _OVER and self._left(each)]
        return [each for each in left if each.pruned or self._is_old(each)]

    def _candidates(self, entries: Iterable[Entry]) -> list[Candidate]:
        return [each for each in map(self._candidate, entries) if each]

    def _candidate(self, entry: Entry) -> Candidate | None:
        """Return a run or a day whose files may go; if it is kept, that is noted."""
        terms, files, source = self._terms, self._left(entry), entry.source or REAL
        parts = held_parts(entry, terms.known)
        if terms.source not in {source, None}:
            self._keep(entry, f"its data come from {source}, not {terms.source}")
        elif unread := _unread(entry):
            self._keep(entry, f"exports do not read {unread[0]}")
        elif parts is None:
            self._keep(entry, terms.not_held, is_wrong=True)
        else:
            names = {each.name for each in files}
            return Candidate(entry, [each for each in parts if each.path.name in names], files)
        return None

    def _left(self, entry: Entry) -> list[File]:
        """Return the record files of a run or a day; of those that were removed, what a killed `prune` has left."""
        files = [each for each in entry.files if each.kind]
        return [each for each in files if self._exists(entry.folder / each.name)] if entry.pruned else files

    def _is_gone(self, day: Entry) -> bool:
        """Tell whether a day that is over has no record files any more, or never had any."""
        return day.status in _OVER and not self._left(day)

    def _is_old(self, entry: Entry) -> bool:
        """Tell whether a run or a day is old, also by when it began: its clock may have been set back meanwhile."""
        moments = [_moment(entry.started_at), _moment(entry.ended_at)]
        return moments[1] is not None and max(each for each in moments if each is not None) < self._terms.before

    def _keep(self, entry: Entry, reason: str, *, is_wrong: bool = False) -> None:
        kept = LeftOut(entry.location, reason, is_wrong, "days" if entry.day else "runs")
        self._kept.setdefault(entry.location, kept)


def _moment(text: str | None) -> float | None:
    """Return a time in ISO 8601 in Unix seconds; None if there is none, or it is none."""
    try:
        return iso_to_timestamp(text) if text else None
    except (ValueError, OverflowError):  # In a data package, anything may stand.
        return None


def _unread(entry: Entry) -> list[str]:
    """Return the record files that exports do not read, and that have more records than those that they do.

    CSV has what is in JSON Lines too, unless somebody has chosen otherwise.
    """
    read = {each.name for each in readable_files(entry)}
    rows = Counter[str | None]()
    for each in entry.files:
        rows[each.kind] += (each.rows or 0) if each.name in read else 0
    others = [each for each in entry.files if each.kind and each.bytes != 0 and each.name not in read]
    return [each.name for each in others if each.rows is None or each.rows > rows[each.kind]]
