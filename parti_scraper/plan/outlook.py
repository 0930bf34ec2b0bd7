"""How far a run has come, and how long it still takes, where that can be computed. Without a clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.wording import length_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from parti_scraper.plan.plan import Span

# The speed is that of so many seconds; within them, looks at least so many seconds apart are kept.
_OF_LATE = 300.0
_APART = 1.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a run knows at a moment of what it has done and has still to do.

    Attributes:
        share: how much is done, from 0 to 1; None where that cannot be computed.
        reached: all that ended later is there, in Unix seconds; None where nothing is walked by time.
        next_in: seconds until the next snapshot; None where none is waited for.
        left: seconds until it ends, where an argument says so.
    """

    share: float | None = None
    reached: int | None = None
    next_in: float | None = None
    left: float | None = None


def outlook_of(since: int, until: int, walks: Sequence[Iterable[Span]]) -> Outlook:
    """Return the outlook of walks through the same window of time: the share is that of the time.

    Args:
        since: the first second of the window, in Unix seconds.
        until: the last one.
        walks: what is still ahead of each.
    """
    spans = [
        (min(high, until), max(low, since - 1)) for walk in walks for high, low in walk if high >= since and low < until
    ]
    whole = max(until - since + 1, 1) * max(len(walks), 1)
    share = 1 - sum(max(high - low, 0) for high, low in spans) / whole
    return Outlook(max(share, 0.0), max((high for high, _ in spans), default=since))


class Pace:
    """How fast a run gets on, by looks at its outlook. What it has shown never goes back, though a walk may.

    Attributes:
        share, reached: as in `Outlook`, the most that was seen.
    """

    def __init__(self) -> None:
        self.share: float | None = None
        self.reached: int | None = None
        self._outlook = Outlook()
        # When the run was looked at, and the share then.
        self._looks: deque[tuple[float, float]] = deque()

    def note(self, outlook: Outlook, now: float) -> None:
        """Take the outlook at a moment, in seconds of a clock that never goes back."""
        self._outlook = outlook
        if outlook.reached is not None:
            self.reached = outlook.reached if self.reached is None else min(self.reached, outlook.reached)
        if outlook.share is None:
            return
        self.share = max(self.share or 0.0, min(max(outlook.share, 0.0), 1.0))
        if len(self._looks) > 1 and now - self._looks[-2][0] < _APART:
            self._looks.pop()
        self._looks.append((now, self.share))
        while len(self._looks) > 2 and now - self._looks[1][0] >= _OF_LATE:
            self._looks.popleft()

    @property
    def left(self) -> float | None:
        """Seconds until the run ends, by an argument or by the speed of late; None where there is no speed yet."""
        if self._outlook.left is not None or len(self._looks) < 2:
            return self._outlook.left
        (begin, before), (now, share) = self._looks[0], self._looks[-1]
        if now - begin < _APART or share <= before:
            return None
        return (1 - share) * (now - begin) / (share - before)

    def parts(self) -> list[str]:
        """Return what there is to show, the most important first: `12%`, `1h 20m left` and the like."""
        left, next_in, begun = self.left, self._outlook.next_in, bool(self.share)
        return [
            # The run has not ended, whatever is left.
            *([] if self.share is None else [f"{min(int(100 * self.share), 99)}%"]),
            *([] if next_in is None else [f"next snapshot in {length_of(round(next_in))}"]),
            *([] if left is None else [f"{length_of(round(left))} left"]),
            *([] if self.reached is None or not begun else [f"back to {_minute(self.reached)}"]),
        ]


def _minute(moment: int) -> str:
    return timestamp_to_iso(moment)[:16].replace("T", " ")
