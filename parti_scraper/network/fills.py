"""When a run that listens asks the live route for what it did not hear: such a walk is a *fill*."""

from __future__ import annotations

from math import inf

# Wait after a fill that failed, and least time between fills while there is no connection, in seconds.
RETRY_AFTER = 30.0


class Fills:
    """The fill that is due and the one under way. Every `now` is of one monotonic clock.

    Args:
        now: when the run begins to listen.

    Attributes:
        failure: why the last fill failed; empty if it did not.
        last_began: when the last one began.
    """

    def __init__(self, now: float) -> None:
        self.failure = ""
        self.last_began = -inf
        # When a fill is due, and when one has to begin to prove all that came before.
        self._due, self._wanted = inf, now
        self._began: float | None = None

    @property
    def is_under_way(self) -> bool:
        return self._began is not None

    def is_due(self, now: float) -> bool:
        """Return whether a fill is to begin now."""
        return self._began is None and now >= self._due

    def want(self, moment: float) -> None:
        """Have one begin at that moment or later; one that is due earlier still begins then."""
        self.want_early(moment)
        self._wanted = max(self._wanted, moment)

    def want_early(self, moment: float) -> None:
        """Have one begin at that moment, unless one is due earlier."""
        self._due = min(self._due, moment)

    def began(self, now: float) -> None:
        """Record the beginning of a fill; if it is earlier than wanted, another one is due after it."""
        self._began = self.last_began = now
        self._due = self._wanted if self._wanted > now else inf

    def ended(self) -> float:
        """Record that the fill was complete; return when it began."""
        assert self._began is not None  # noqa: S101 - `began`
        began, self._began, self.failure = self._began, None, ""
        return began

    def failed(self, now: float, why: str) -> None:
        """Record that the fill failed; another one is due later."""
        self._began, self.failure = None, why
        self._wanted = max(self._wanted, now)
        self.want_early(now + RETRY_AFTER)
