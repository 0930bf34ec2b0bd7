"""What the rules of `scrapy health` are given beside the runs, and what they find. Moments are Unix seconds."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The most pressing first.
RULES = (
    "late",
    "failed",
    "incomplete",
    "abandoned",
    "gaps",
    "not_listening",
    "degraded",
    "few_records",
    "set_aside",
    "fields",
    "damaged",
    "disk",
    "alerts",
)
# Characters of a reason, or of the arguments of a series, that are shown.
LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with the collection.

    Attributes:
        rule: the name of the rule, such as `late`; docs/operations.md has a line for each.
        subject: the spider; of a series with arguments also these, such as `recent user_id=5`; `disk` and the like for
            what is about no spider.
        text: what is wrong, one line without a word that the API chose but for names of fields.
        since: from when on it is so.
        command: what helps, to be typed in a shell; None where no command does.
    """

    rule: str
    subject: str
    text: str
    since: float
    command: str | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of time that no run proves, and the command that fetches it."""

    since: float
    until: float
    command: str


@dataclass(frozen=True, slots=True)
class Disk:
    """What is free on the file system of a folder: bytes, and numbers of files (0 in all where it has no limit)."""

    folder: str
    free: int
    size: int
    free_files: int = 0
    files: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """What is known beside the runs.

    Attributes:
        max_ages: spiders that are watched, and the age in seconds at which each is late; empty: series are watched.
        gaps: of unfiltered ended livestreams, oldest first.
        listened: from when to when somebody listened to notifications, in the last days.
        disks: the file systems that are written to.
        alerts_failing: since when no alert could be sent, and why; None if all could.
        expect_absent: fields that are known to be absent, see PARTI_EXPECT_ABSENT.
        program: what is typed before a command.
        places: the options by which the command line says where runs are, to be typed again.
    """

    max_ages: Mapping[str, float] = field(default_factory=dict)
    gaps: Sequence[Gap] = ()
    listened: Sequence[tuple[float, float]] = ()
    disks: Sequence[Disk] = ()
    alerts_failing: tuple[float, str] | None = None
    expect_absent: frozenset[str] = frozenset()
    program: str = "scrapy"
    places: Sequence[str] = ()

    def crawl(self, *words: str) -> str:
        """Return the command that crawls, for a shell."""
        return f"{self.program} {shlex.join(['crawl', *words, *self.places])}"


@dataclass(frozen=True, slots=True)
class Watched:
    """A spider or a series that is expected to go on, when it was good last, and the age at which it is late."""

    subject: str
    good_at: float | None
    max_age: float


@dataclass(frozen=True, slots=True)
class Health:
    """What was found, the most pressing first, and what is watched."""

    findings: list[Finding]
    watched: list[Watched]
