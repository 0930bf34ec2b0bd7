"""How a run ended, decided from what was counted: the verdict in the data package and the exit code.

Pure, and never built on counts that depend on the log level.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of `scrapy crawl`."""

    COMPLETE = 0
    NOT_STARTED = 1
    USAGE = 2
    STOPPED = 3
    INCOMPLETE = 4


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the records of a run, at one moment; `run.tally.Tally` counts them.

    Attributes:
        pages: answers that were a page of records.
        served: records on them.
        written: records that passed every pipeline and were handed to the feeds.
        duplicate: records that had been written before.
        quarantined: records that could not be normalized.
        filtered: records that the arguments did not ask for, though the server sent them.
        dropped: records that pipelines of the user's dropped.
        unknown_fields: how many fields of the API there are that no item declares.
    """

    pages: int = 0
    served: int = 0
    written: int = 0
    duplicate: int = 0
    quarantined: int = 0
    filtered: int = 0
    dropped: int = 0
    unknown_fields: int = 0

    @property
    def accounted_for(self) -> int:
        """Of how many records it is known what became of them."""
        return self.written + self.duplicate + self.quarantined + self.filtered + self.dropped

    def balance(self) -> bool:
        """Tell whether every record served is accounted for."""
        return self.served == self.accounted_for


@dataclass(slots=True)
class Ending:
    """Everything that bears on the verdict.

    Attributes:
        finish_reason: Scrapy's; "finished" when the spider ran out of requests.
        until_stopped: the run has no end of its own and is meant to be stopped by a signal.
        usage_error: text of a usage error found after the start.
        start_error: why nothing could be asked for, found after the start.
        exceptions: in callbacks, pipelines and other components.
        gaps: what was not had, a part of a sentence each.
        storage: what could not be stored, likewise.
        mixed: that made-up and real data were about to be mixed, in a sentence; empty where they were not.
        set_aside: that too many records were, likewise.
        degraded: fields that most records lack, likewise.
    """

    finish_reason: str
    counts: Counts
    until_stopped: bool = False
    usage_error: str | None = None
    start_error: str | None = None
    exceptions: int = 0
    gaps: list[str] = field(default_factory=list)
    storage: list[str] = field(default_factory=list)
    mixed: str = ""
    set_aside: str | None = None
    degraded: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The exit code, and why it is not 0.

    Attributes:
        exit_code: how the run ended.
        reason: why it is not 0, a part of a sentence.
        ended: whether the run came to its end, complete or not; only then it gets a data package.
        degraded: whether the data set is all that was asked for, and a changed API is why the code is not 0.
    """

    exit_code: ExitCode
    reason: str | None = None
    ended: bool = True
    degraded: bool = False

    @property
    def complete(self) -> bool:
        return self.exit_code is ExitCode.COMPLETE or self.degraded


def judge(ending: Ending) -> Verdict:
    if ending.usage_error:
        return Verdict(ExitCode.USAGE, ending.usage_error, ended=False)
    if ending.start_error:
        return Verdict(ExitCode.NOT_STARTED, ending.start_error, ended=False)
    if ending.exceptions:
        noun = "exception" if ending.exceptions == 1 else "exceptions"
        return Verdict(ExitCode.STOPPED, f"{ending.exceptions} {noun}, see the log", ended=False)
    expected = {"finished", "shutdown"} if ending.until_stopped else {"finished"}
    ended = ending.finish_reason in expected
    if ending.storage:
        # Before the finish reason: a run that cannot store closes itself.
        return Verdict(ExitCode.INCOMPLETE, _listing(ending.storage), ended)
    if ending.mixed:
        return Verdict(ExitCode.STOPPED, ending.mixed, ended=False)
    if not ended:
        return Verdict(ExitCode.STOPPED, f"stopped before the end ({ending.finish_reason})", ended)
    if ending.gaps:
        return Verdict(ExitCode.INCOMPLETE, _listing(ending.gaps))
    if not ending.counts.balance():
        return Verdict(ExitCode.INCOMPLETE, f"the books do not balance: {ending.counts}")
    if ending.set_aside:
        return Verdict(ExitCode.INCOMPLETE, ending.set_aside)
    return judge_fields(ending.degraded)


def judge_fields(degraded: list[str]) -> Verdict:
    """Return the verdict on a run that has every record, some fields of which may be missing in most of them."""
    if degraded:
        return Verdict(ExitCode.INCOMPLETE, f"degraded: {_listing(degraded)}", degraded=True)
    return Verdict(ExitCode.COMPLETE)


def _listing(parts: list[str]) -> str:
    shown = 5
    more = f"; and {len(parts) - shown} more" if len(parts) > shown else ""
    return "; ".join(parts[:shown]) + more
