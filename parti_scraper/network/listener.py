"""What a listener knows of its line: where to connect and when, when to ask the live route, and what was missed.

A notification comes once, to those who are connected. What went live unheard is filled in from the live route: a walk
through it, a *fill*, finds whatever is on air when it begins. So every moment of a run is proved either by a fill that
began later, or by a notification that came later on the same connection, which keeps the order of what it carries.
Silence proves nothing, though it may be normal: for as long as the idle time-out it is believed, and then the
connection is opened again. Pure: the spider connects, asks, and says when.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from parti_scraper.network.backoff import Reconnection

# A connection that held for so long, in seconds, was a good one.
_HELD = 30.0
# The server does not say when it has read the subscription, so the live route is asked a little later, in seconds.
_SETTLE = 0.5
# After a fill that failed; while nobody is connected, no sooner than this after the last one, in seconds.
_FILL_AGAIN = 30.0
# So long, in seconds, another address is listened to before the first one is tried again.
_COME_BACK = 600.0
# What opening a silent connection again, and the fill after it, may take at the moment of a signal, in seconds.
_GRACE = 3.0
# So many connections in a row that are refused in words or closed at once tell of more than a bad moment.
_STRIKES = 10


@dataclass(slots=True)
class _Line:
    """A connection.

    Attributes:
        opened: when the subscription was sent.
        heard: when a notification came last, or `opened`.
        is_usable: a notification has come.
        is_joined: a fill has proved what was before it, so its notifications prove what is after.
        refused: what the server said in place of notifications.
    """

    opened: float
    heard: float
    is_usable: bool = False
    is_joined: bool = False
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Missed:
    """A stretch of time of which channels may be missing, and why."""

    since: float
    until: float
    reason: str


class Listener:
    """The state of a run that listens. Every `now` is of one clock that never goes back.

    Attributes:
        connections, failures: how many were made, and how many attempts or connections failed.
        unfilled: why the last fill failed; empty where it did not.
        reason: why there was no connection the last time.
    """

    def __init__(
        self, addresses: tuple[str, ...], delay: float, idle_timeout: float, now: float, position: int = 0
    ) -> None:
        """Begin without a connection.

        Args:
            addresses: in the order in which they are tried.
            delay: longest wait before the first new attempt, in seconds.
            idle_timeout: after so many seconds of silence a connection is opened again.
            now: when the run begins to listen.
            position: of the address to begin with.
        """
        self.connections = self.failures = 0
        self.unfilled = self.reason = ""
        self._addresses = addresses
        self._idle_timeout = idle_timeout
        self._settle = min(_SETTLE, idle_timeout / 2)
        self._reconnection = Reconnection(delay)
        # Addresses in a row that were of no use, and the longest wait that one of them asked for.
        self._useless, self._retry_after = 0, 0.0
        self._position = self._used = position
        self._used_since, self._left_for = now, ""
        self._line: _Line | None = None
        self._lost_at = now
        # Every moment before is proved; and whether more is known to be missed since than silence may hide.
        self._proved, self._is_broken = now, False
        # What was silent for too long, and then turned out to have been deaf.
        self._was_silent = self._is_deaf = False
        # When a fill is due; from when on one must begin to prove all there is; when the last one and the one under way
        # began.
        self._due, self._wanted, self._asked = inf, now, -inf
        self._filling: float | None = None
        # Since the last notification: connections that were of no use, and how long it took them to show it.
        self._strikes, self._useless_after, self._refused_since = 0, 0.0, now
        self._has_heard, self._refusal = False, ""

    # The connection:

    @property
    def address(self) -> str:
        """The address that is connected to, or is to be tried next."""
        return self._addresses[self._position]

    def connected(self, now: float) -> tuple[str, str] | None:
        """Take note of a connection; return which address was left for this one, and why, where there was another."""
        self._line = _Line(now, now)
        self.connections += 1
        self._wanted = now + self._settle
        # One that is due already is not put off.
        self._due = min(self._due, self._wanted)
        left = None if self._used == self._position else (self._addresses[self._used], self._left_for)
        if left:
            self._used, self._used_since = self._position, now
        return left

    def heard(self, now: float, *, is_new: bool = True) -> None:
        """Take note of a notification, the one thing that shows that the line is of use.

        Only one that is new ends the back-off: a server may repeat the last ones, and close.
        """
        if self._line is None:
            return
        self._line.heard, self._line.is_usable, self._line.refused = now, True, ""
        self._has_heard, self._is_deaf = True, False
        self._strikes, self._useless_after, self._refusal = 0, 0.0, ""
        self._useless = 0
        if is_new:
            self._reconnection.heard()

    def refused(self, now: float, what: str) -> None:
        """Take note that the server sent an error in place of a notification."""
        if self._line is not None and not self._line.refused:
            self._line.refused = what
            self._strike(now, self._line, what)

    def is_idle(self, now: float) -> bool:
        """Tell whether the connection was silent for too long."""
        if self._line is None:
            return False
        # From who has said no, nothing is to be expected.
        patience = min(self._idle_timeout, _HELD) if self._line.refused else self._idle_timeout
        return now - self._line.heard >= patience

    def closed(self, now: float, random: float) -> float:
        """Take note that a silent connection was closed, to be opened again; return the wait in seconds."""
        refused = self._line.refused if self._line else ""
        self.reason = refused or f"nothing was heard for {self._idle_timeout:g} s"
        self._was_silent = self._was_silent or (self._line is not None and self._line.is_joined)
        return self._next_wait(now, random)

    def lost(
        self, now: float, random: float, reason: str, retry_after: float | None = None, *, by_us: bool = False
    ) -> float:
        """Take note that the connection was lost, or failed; return the wait before the next attempt, in seconds.

        Args:
            now: when.
            random: from 0 to 1.
            reason: how.
            retry_after: what the server asks for.
            by_us: it was closed on this side, which says nothing of the server.
        """
        self.failures += 1
        self.reason = reason
        self._is_broken, self._was_silent = True, False
        self._retry_after = max(self._retry_after, retry_after or 0.0)
        line = self._line
        if line is None:
            # For as long as nobody is connected, at least what stays on air is found.
            self._due = min(self._due, max(now, self._asked + max(self._idle_timeout, _FILL_AGAIN)))
        is_silent = line is not None and not line.is_usable and not line.refused
        if line is not None and is_silent and not by_us and now - line.opened < _HELD:
            self._strike(now, line, reason)
        return self._next_wait(now, random)

    def _strike(self, now: float, line: _Line, what: str) -> None:
        if not self._strikes:
            self._refused_since = line.opened
        self._strikes += 1
        self._useless_after = max(self._useless_after, now - line.opened)
        self._refusal = what

    def _next_wait(self, now: float, random: float) -> float:
        """Leave the line; go to the next address at once where this one is of no use, and wait after the last one."""
        line = self._line
        if self._position == self._used:
            self._left_for = self.reason
        self._proved = self._proved_until()
        self._line = None
        self._lost_at = now if line else self._lost_at
        if line and (line.is_usable or (now - line.opened >= _HELD and not line.refused)):
            self._useless = 0
            self._reconnection.heard()
            if now - self._used_since >= _COME_BACK:
                self._position, self._used_since = 0, now
        else:
            self._useless += 1
            self._position = (self._position + 1) % len(self._addresses)
            if self._useless % len(self._addresses):
                return 0.0
        retry_after, self._retry_after = self._retry_after, 0.0
        return self._reconnection.lost(now, random, retry_after)

    # The live route:

    def is_fill_due(self, now: float) -> bool:
        """Tell whether the live route is to be asked now."""
        return self._filling is None and now >= self._due

    def want_fill(self, now: float) -> None:
        """Have the live route asked, whatever is proved."""
        self._due = min(self._due, now)
        self._wanted = max(self._wanted, now)

    def fill_began(self, now: float) -> None:
        """Take note that the live route is being asked; once more after that, where this one is too early."""
        self._filling = self._asked = now
        self._due = self._wanted if self._wanted > now else inf

    def filled(self, unheard: int) -> bool:
        """Take note that the live route was asked to its end; tell whether nothing is missing before the connection.

        Args:
            unheard: how many channels were on it that nobody had told of.
        """
        assert self._filling is not None  # noqa: S101 - `fill_began`
        began, self._filling, self.unfilled = self._filling, None, ""
        self._proved = max(self._proved, began)
        line = self._line
        if line is None or began < line.opened + self._settle:
            return False
        line.is_joined, self._is_broken = True, False
        if self._was_silent:
            # What began while the line was silent, and was not told, shows that it was deaf.
            self._is_deaf = unheard > 0 and not line.is_usable
            self._was_silent = False
        return True

    def fill_failed(self, now: float, why: str) -> None:
        """Take note that the live route was not had; it is asked again later."""
        self._filling, self.unfilled = None, why
        self._wanted = max(self._wanted, now)
        self._due = min(self._due, now + _FILL_AGAIN)

    @property
    def is_filling(self) -> bool:
        """Whether the live route is being asked."""
        return self._filling is not None

    def is_proved(self, moment: float) -> bool:
        """Tell whether nothing that went live before is missing."""
        return self._proved_until() >= moment

    def _proved_until(self) -> float:
        joined = self._line is not None and self._line.is_joined
        return max(self._proved, self._line.heard) if self._line and joined else self._proved

    # The end:

    def missed(self, now: float, *, stopped: bool) -> Missed | None:
        """Return what may be missing when the run ends, None where nothing is.

        Args:
            now: when the listening ended; a fill may have ended since.
            stopped: by a signal, which leaves no time for a last fill: then silence is believed as long as ever.
        """
        since = self._proved_until()
        if self._refusal and self._is_of_no_use(now):
            return Missed(
                min(since, self._refused_since), now, f"no connection was of use, the last one: {self._refusal}"
            )
        if self._line is None and not (stopped and self._is_opening_again(now)):
            return Missed(min(since, self._lost_at), now, self.reason or "no connection")
        is_believed = stopped and not (self._is_broken or self._is_deaf or self.unfilled)
        allowed = self._idle_timeout + _GRACE if is_believed else 0.0
        if now - since <= allowed:
            return None
        return Missed(since, now, self._why_not_proved())

    def _is_opening_again(self, now: float) -> bool:
        return bool(self.connections) and not self._is_broken and now - self._lost_at <= _GRACE

    def _is_of_no_use(self, now: float) -> bool:
        """Tell whether the server lets nobody listen, as far as can be told from what it did until now."""
        if self._has_heard and self._strikes < _STRIKES:
            return False
        line = self._line
        # An open connection is told from those that were closed by how long it holds.
        return line is None or bool(line.refused) or now - line.opened <= 2 * self._useless_after + 1

    def _why_not_proved(self) -> str:
        if self.unfilled:
            return f"channels that went live unheard may be missing: {self.unfilled}"
        if self._is_deaf:
            return "channels went live unheard while it was connected"
        why = f" after this: {self.reason}" if self.reason else ""
        return f"the live route was not asked{why}"
