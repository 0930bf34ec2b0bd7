"""What each run has done, also those that were killed, are going on, or could not be started.

Moments are Unix seconds.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import starmap
from typing import TYPE_CHECKING, Any

from parti_scraper.exceptions import UsageError
from parti_scraper.network.source import MOCK, REAL
from parti_scraper.run.entries import KINDS, CatalogError, Entry, Status
from parti_scraper.run.sealing import KILLED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from parti_scraper.ledger.ledger import FailedStart
    from parti_scraper.run.entries import Window


class State(StrEnum):
    """How a run stands.

    Members:
        RUNNING: a process is at work on it.
        ENDED: it has ended by itself, and is not to be resumed.
        STOPPED: it was stopped, and may be resumed.
        KILLED: no process is at work on it, and nothing says how it ended.
        NOT_STARTED: it was asked for and not begun, so it has no folder.
        UNREADABLE: its data package is damaged, or made by a later version.
    """

    RUNNING = "running"
    ENDED = "ended"
    STOPPED = "stopped"
    KILLED = "killed"
    NOT_STARTED = "not started"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Account:
    """What was found by a run that is over, or on a day of one that is over.

    Attributes:
        began_at, ended_at: from when to when it was; None where that is not known.
        complete: whether everything is there.
        degraded: fields that most records lack, a part of a sentence each.
        counts: what became of the records, by the names of `run.outcome.Counts`, and `new` and `changed`.
        unknown_fields: fields of the API that no item declares, and in how many records.
        unreadable_fields: fields that could not be read, and in how many records.
        vanished_fields: fields that records are known to have, and that none had.
        reason: why it is not complete, one line.
        day: such as 2026-11-27; None: it is of a whole run.
    """

    began_at: float | None
    ended_at: float | None
    complete: bool = False
    degraded: Sequence[str] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    unknown_fields: Mapping[str, int] = field(default_factory=dict)
    unreadable_fields: Mapping[str, int] = field(default_factory=dict)
    vanished_fields: Sequence[str] = ()
    reason: str | None = None
    day: str | None = None


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run as it stands.

    Attributes:
        spider: the name of the spider.
        run_id: the name of the run; None where it was given none.
        arguments: those that differ from the defaults, as JSON has them; of a run that was refused as typed.
        state: how it stands.
        account: what it has found, as far as it has come.
        exit_code: of `scrapy crawl`; None while it runs, and if it was killed.
        window: what it collects, in ISO 8601; None where that is no window of time.
        truncated: whether `max_records` was reached.
        sealed: whether its folder was closed for it after it was killed or stopped.
        good_until: the last moment at which it is known to have collected everything: the end of a complete run, of
            the last complete snapshot, or of listening as last noted; None: it never has.
        days: of a run with days, those that are over, oldest first.
        today: the last of its days, where that is not over.
        source: `parti.com` or `mock`; None where that is not known.
        folder: of the run; None if it has none.
        duration: how many seconds it took; None where that is not known.
    """

    spider: str
    run_id: str | None
    arguments: Mapping[str, Any]
    state: State
    account: Account
    exit_code: int | None = None
    window: Window | None = None
    truncated: bool = False
    sealed: bool = False
    good_until: float | None = None
    days: Sequence[Account] = ()
    today: Account | None = None
    source: str | None = None
    folder: str | None = None
    duration: float | None = None

    @property
    def began(self) -> float:
        """When it began; of runs of the first format only the end is known."""
        return self.account.began_at or self.account.ended_at or 0.0


def source_among(entries: Iterable[Entry]) -> str:
    """Return which source is meant if none is named: parti.com, or a mock server if no run asked anything else."""
    sources = {_source_of(entry) for entry in entries}
    return MOCK if MOCK in sources and REAL not in sources else REAL


def _source_of(entry: Entry) -> str | None:
    # Of a run that was killed before it asked for anything the data package says what is usual.
    return None if entry.status is Status.SEALED and entry.host is None else entry.source


def history(entries: Iterable[Entry], failed: Iterable[FailedStart], source: str) -> list[PastRun]:
    """Return the runs of a source, oldest first, with those whose source is not known.

    Args:
        entries: of the catalog.
        failed: runs that were not begun.
        source: where their data come from.
    """
    runs = [*starmap(past_run, _grouped(entries)), *map(_refused, failed)]
    chosen = [run for run in runs if run.source in {source, None}]
    return sorted(chosen, key=lambda run: (run.began, run.run_id or ""))


def last_runs(
    entries: Iterable[Entry], failed: Iterable[FailedStart], number: int, spider: str | None = None
) -> list[PastRun]:
    """Return the runs that began last, of all spiders or one, whatever their source, the newest first.

    Args:
        entries: of the catalog.
        failed: runs that were not begun.
        number: how many.
        spider: the name of the spider; None: all.
    """
    begun = (run for run in _grouped(entries) if spider in {None, run[0].spider})
    refused = [_refused(each) for each in failed if spider in {None, each.spider}]
    # Only those that are returned are looked at more closely: whether a process is at work on them.
    newest = heapq.nlargest(number, begun, key=lambda run: run[0].started_at or "")
    runs = [*starmap(past_run, newest), *refused]
    return heapq.nlargest(number, runs, key=lambda run: run.account.began_at or 0)


def past_run(own: Entry, days: Sequence[Entry] = ()) -> PastRun:
    """Return a run by its entry and those of its days."""
    state = _state(own)
    account = _account(own)
    return PastRun(
        own.spider,
        own.run_id,
        own.arguments,
        state,
        account,
        own.exit_code,
        own.window,
        own.truncated,
        own.status is Status.SEALED,
        _good_until(account, days),
        tuple(_account(day) for day in days if day.status in {Status.FINISHED, Status.SEALED}),
        _account(days[-1]) if days and days[-1].status is Status.UNFINISHED else None,
        _source_of(own),
        own.location,
        _duration(own, account),
    )


def _duration(own: Entry, account: Account) -> float | None:
    # Unfinished runs have no duration of their own.
    if own.duration_seconds is not None or account.began_at is None or account.ended_at is None:
        return own.duration_seconds
    return max(0.0, account.ended_at - account.began_at)


def _grouped(entries: Iterable[Entry]) -> Iterable[tuple[Entry, list[Entry]]]:
    """Yield each run with its days, which follow it; what is no run is left out."""
    run: Entry | None = None
    days: list[Entry] = []
    for entry in entries:
        if entry.day is not None:
            days.append(entry)
            continue
        if run:
            yield run, days
        # A folder of runs that cannot be read has no run either, but hides what it has.
        is_run = entry.status is not Status.FOREIGN and (entry.run_id or entry.status is Status.UNREADABLE)
        run, days = (entry if is_run else None), []
    if run:
        yield run, days


def _state(own: Entry) -> State:
    match own.status:
        case Status.FINISHED:
            return State.ENDED
        case Status.SEALED:
            return State.KILLED if own.reason == KILLED else State.STOPPED
        case Status.UNFINISHED:
            if own.is_at_work():
                return State.RUNNING
            return State.KILLED if own.ended_at is None else State.STOPPED
        case _:
            return State.UNREADABLE


def _account(entry: Entry) -> Account:
    return Account(
        _moment(entry.started_at),
        _moment(entry.ended_at),
        entry.complete,
        entry.degraded,
        entry.counts,
        entry.unknown_fields,
        entry.unreadable_fields,
        entry.vanished_fields,
        entry.reason,
        entry.day,
    )


def _good_until(account: Account, days: Sequence[Entry]) -> float | None:
    """Return the last moment at which a run had collected everything; None: it never had."""
    moments = [account.ended_at if account.complete else None]
    moments += [_moment(day.ended_at) for day in days if day.complete]
    # Of earlier days that are not complete, others tell more.
    moments += [_moment(text) for day in days[-2:] if not day.complete for text in _observed(day)]
    return max(filter(None, moments), default=None)


def _observed(day: Entry) -> list[str]:
    """Return when complete snapshots ended on a day, or listening."""
    if day.status is Status.UNFINISHED:
        # Snapshots have `ended_at` and `complete`, stretches of listening `to`.
        return [str(each.get("to") or each["ended_at"]) for each in day.noted if each.get("complete", True)]
    try:
        if day.spider == "notifications":
            return [each.until for each in day.listened()]
        return [each.ended_at for each in day.snapshots() if each.complete]
    except CatalogError:  # It is a finding of its own.
        return []


def _moment(text: str | None) -> float | None:
    """Return a time in ISO 8601 in Unix seconds; None if there is none, or it is none."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None


def _refused(failed: FailedStart) -> PastRun:
    try:
        arguments: Mapping[str, Any] = (
            KINDS[failed.spider].arguments.parse(failed.arguments, failed.spider, failed.at).given()
        )
    except (UsageError, KeyError):
        arguments = failed.arguments
    account = Account(failed.at, failed.at, reason=failed.reason)
    return PastRun(failed.spider, failed.run_id, arguments, State.NOT_STARTED, account, failed.exit_code)
