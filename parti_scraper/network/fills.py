"""When a run that listens asks the live route for what it did not hear: such a walk is a *fill*. Pure."""

from __future__ import annotations

from math import inf

# Between two fills where the first one failed, and at least while there is no connection, in seconds.
RETRY_AFTER = 30.0


class Fills:
    """The fill that is due and the one under way. Every `now` is of one clock that never goes back.

    Args:
        now: when the run begins to listen.

    Attributes:
        failure: why the last fill failed; empty where it did not.
        last_began: when the last one began.
    """

    def __init__(self, now: float) -> None:
        self.failure = ""
        self.last_began = -inf
        # When a fill is due, and the earliest beginning of one that proves all there is to prove.
        self._due, self._wanted = inf, now
        self._began: float | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether the live route is being asked."""
        return self._began is not None

    def is_due(self, now: float) -> bool:
        """Tell whether the live route is to be asked now."""
        return self._began is None and now >= self._due

    def want(self, moment: float) -> None:
        """Have one begin at that moment or later; one that is due earlier is not put off."""
        self.want_early(moment)
        self._wanted = max(self._wanted, moment)

    def want_early(self, moment: float) -> None:
        """Have one begin at that moment, where none is due earlier."""
        self._due = min(self._due, moment)

    def began(self, now: float) -> None:
        """Record the beginning of a fill; where it is earlier than wanted, another one is due after it."""
        self._began = self.last_began = now
        self._due = self._wanted if self._wanted > now else inf

    def ended(self) -> float:
        """Record that the live route was asked to its end; return when that fill began."""
        assert self._began is not None  # noqa: S101 - `began`
        began, self._began, self.failure = self._began, None, ""
        return began

    def failed(self, now: float, why: str) -> None:
        """Record that the fill failed; the live route is asked again later."""
        self._began, self.failure = None, why
        self._wanted = max(self._wanted, now)
        self.want_early(now + RETRY_AFTER)
