"""When snapshots and checkpoints are due, as state machines without a clock."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Due:
    """When the next snapshot is due.

    Attributes:
        wait: in how many seconds; None: the duration is over.
        missed: how many were skipped, since the last one took longer than the interval.
    """

    wait: float | None
    missed: int


@dataclass(slots=True)
class SnapshotTimer:
    """The moments 0, `interval`, 2 × `interval`, … before `duration`, however long snapshots take.

    Attributes:
        interval: seconds from one to the next.
        duration: until when, in seconds; None: without end.
        tick: the number of the last moment that was returned, from 0.
    """

    interval: float
    duration: float | None = None
    tick: int = 0

    def next(self, elapsed: float) -> Due:
        """Return the next moment, and how many were missed, including those at the end of the duration.

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
    """When a checkpoint is due; the first one is due after `pages` pages, however soon.

    Attributes:
        pages: least number of pages since the last one.
        seconds: least number of seconds since the last one.
    """

    pages: int
    seconds: float
    _pages_since: int = 0
    _last: float = -math.inf

    def is_due(self, now: float) -> bool:
        """Count a page; return whether a checkpoint is to be taken now.

        Args:
            now: seconds of any clock that never goes back.
        """
        self._pages_since += 1
        if self._pages_since < self.pages or now - self._last < self.seconds:
            return False
        self._pages_since, self._last = 0, now
        return True
