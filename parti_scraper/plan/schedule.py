"""When snapshots and checkpoints are due, as state machines without a clock."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Due:
    """When the next snapshot is due.

    Attributes:
        wait: in how many seconds; None: there is none any more, since the duration is over.
        missed: how many were left out, since the one before took longer than the interval.
    """

    wait: float | None
    missed: int


@dataclass(slots=True)
class SnapshotTimer:
    """The moments 0, `interval`, 2 × `interval`, … before `duration`, in seconds; the first one is taken at once.

    The time that snapshots take does not shift them.

    Attributes:
        interval: seconds from one to the next.
        duration: until when; None: without end.
        tick: the number of the moment that was last waited for.
    """

    interval: float
    duration: float | None = None
    tick: int = 0

    def next(self, elapsed: float) -> Due:
        """Return the next moment that is not over, and how many were, those at the end of the duration too.

        Args:
            elapsed: seconds since the first moment.
        """
        tick = max(self.tick + 1, math.ceil(elapsed / self.interval))
        wait: float | None = max(tick * self.interval - elapsed, 0.0)
        if self.duration is not None and tick * self.interval >= self.duration:
            wait, tick = None, max(self.tick + 1, math.ceil(self.duration / self.interval))
        due = Due(wait, tick - self.tick - 1)
        self.tick = tick
        return due


@dataclass(slots=True)
class CheckpointTimer:
    """When a checkpoint is due: after so many pages, and so many seconds since the one before at the least.

    The first one is due after so many pages, however soon: what follows can go on from there.

    Attributes:
        pages: pages since the one before.
        seconds: seconds since the one before.
    """

    pages: int
    seconds: float
    _pages_since: int = 0
    _last: float = -math.inf

    def is_due(self, now: float) -> bool:
        """Count a page, and tell whether a checkpoint is to be taken now.

        Args:
            now: seconds of any clock that never goes back.
        """
        self._pages_since += 1
        if self._pages_since < self.pages or now - self._last < self.seconds:
            return False
        self._pages_since, self._last = 0, now
        return True
