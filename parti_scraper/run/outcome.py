"""How a run ended, decided from what was counted: the verdict in the data package and the exit code.

Pure, and never built on counts that depend on the log level.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
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
    """What became of the records of a run so far; `run.tally.Tally` counts them.

    Attributes:
        pages: answers that were a page of records.
        served: records on them.
        written: records that passed every pipeline and were handed to the feeds.
        duplicate: records that had been written before.
        quarantined: records that could not be normalized.
        filtered: records that the server sent although the arguments exclude them.
        dropped: records that the user's pipelines dropped.
        unknown_fields: how many fields of the API no item declares.
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
        """How many records were written, set aside or dropped."""
        return self.written + self.duplicate + self.quarantined + self.filtered + self.dropped

    def balance(self) -> bool:
        """Tell whether every record served is accounted for."""
        return self.served == self.accounted_for


# The counts of a tally among them.
COUNTED = tuple(each.name for each in fields(Counts) if each.name != "unknown_fields")


@dataclass(slots=True)
class Ending:
    """Everything that the verdict depends on.

    Attributes:
        finish_reason: Scrapy's; "finished" when the spider ran out of requests.
        until_stopped: the run has no end of its own and is meant to be stopped by a signal.
        usage_error: text of a usage error found after the start.
        start_error: why nothing could be requested, found after the start.
        exceptions: how many there were in callbacks, pipelines and other components.
        gaps: what is missing; each a part of a sentence, as all below.
        storage: what could not be stored.
        mixed: that made-up and real data were about to be mixed; a sentence, empty if they were not.
        set_aside: that too many records were set aside.
        degraded: fields that most records lack.
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
        ended: whether the run reached its end, complete or not; only then it gets a data package.
        degraded: whether the data set is complete, and the code is not 0 because the API has changed.
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
        return Verdict(ExitCode.INCOMPLETE, f"the counts do not balance: {ending.counts}")
    if ending.set_aside:
        return Verdict(ExitCode.INCOMPLETE, ending.set_aside)
    return judge_fields(ending.degraded)


def judge_fields(degraded: list[str]) -> Verdict:
    """Return the verdict on a run that has every record; `degraded` names fields that most of them lack."""
    if degraded:
        return Verdict(ExitCode.INCOMPLETE, f"degraded: {_listing(degraded)}", degraded=True)
    return Verdict(ExitCode.COMPLETE)


def _listing(parts: list[str]) -> str:
    shown = 5
    more = f"; and {len(parts) - shown} more" if len(parts) > shown else ""
    return "; ".join(parts[:shown]) + more
