"""A run that listens to the WebSocket: where and when to connect, when to ask the live route, what is missing.

A notification is sent once, to those who are connected. What went live unheard is added from the live route: a walk
through it, a *fill*, finds all that is live when it begins. So every moment of a run is proved either by a fill that
began later, or by a notification that came later on the same connection, which keeps the order of its messages.
Silence proves nothing, but may be normal: it is accepted until the idle time-out; then the run reconnects. The spider
connects, asks, and passes the time in.
"""

from __future__ import annotations

from dataclasses import dataclass

from parti_scraper.network.addresses import Addresses
from parti_scraper.network.fills import RETRY_AFTER, Fills

# A connection that held for this long was a good one, in seconds.
_HELD = 30.0
# The server does not confirm the subscription, so the live route is asked a little later, in seconds.
_SETTLE = 0.5
# How long a reconnect after silence and its fill may take when a signal arrives, in seconds.
_GRACE = 3.0
# This many connections in a row with an error message or closed at once are more than a short problem.
_MANY_REFUSALS = 10


@dataclass(slots=True)
class _Connection:
    """A connection.

    Attributes:
        opened: when the subscription was sent.
        heard: when a notification came last, or `opened`.
        is_usable: a notification has come.
        is_joined: a fill has proved what was before it, so its notifications prove what is after.
        refused: the error that the server sent instead of notifications.
    """

    opened: float
    heard: float
    is_usable: bool = False
    is_joined: bool = False
    refused: str = ""

    def was_useful(self, now: float) -> bool:
        """Return whether a connection that is lost now brought notifications, or held."""
        return self.is_usable or (now - self.opened >= _HELD and not self.refused)


@dataclass(slots=True)
class _Refusals:
    """Connections since the last notification on which the server sent an error, or which it closed at once.

    Attributes:
        since: when the first of them was opened.
        count: how many they are.
        longest: the longest time until an error or the close, in seconds.
        last: the last error, or how the last one was closed; empty if there was none.
        has_heard: a notification has come in this run.
    """

    since: float
    count: int = 0
    longest: float = 0.0
    last: str = ""
    has_heard: bool = False

    def add(self, now: float, connection: _Connection, what: str) -> None:
        if not self.count:
            self.since = connection.opened
        self.count += 1
        self.longest = max(self.longest, now - connection.opened)
        self.last = what

    def heard(self) -> None:
        """Record a notification, which resets them."""
        self.has_heard = True
        self.count, self.longest, self.last = 0, 0.0, ""

    def are_final(self, now: float, connection: _Connection | None) -> bool:
        """Return whether the server seems to refuse every client.

        Args:
            now: when the run ends.
            connection: the one that is open, if any.
        """
        if not self.last or (self.has_heard and self.count < _MANY_REFUSALS):
            return False
        # An open connection that held longer than the others is not refused.
        return connection is None or bool(connection.refused) or now - connection.opened <= 2 * self.longest + 1


@dataclass(frozen=True, slots=True)
class Missed:
    """A stretch of time from which channels may be missing, and why."""

    since: float
    until: float
    reason: str


class Listener:
    """The state of a run that listens. Every `now` is of one monotonic clock.

    The spider reports the events of both connection and live route here: what is proved depends on both.

    Attributes:
        connections, failures: how many were made, and how many attempts or connections failed.
        fills: when the live route is asked.
        reason: why there was no connection the last time.
    """

    def __init__(
        self, addresses: tuple[str, ...], delay: float, idle_timeout: float, now: float, position: int = 0
    ) -> None:
        """Begin without a connection.

        Args:
            addresses: in the order in which they are tried.
            delay: longest wait before the first reconnect, in seconds.
            idle_timeout: after this many seconds of silence, the run reconnects.
            now: when the run begins to listen.
            position: of the address to begin with.
        """
        self.connections = self.failures = 0
        self.reason = ""
        self._addresses = Addresses(addresses, delay, now, position)
        self.fills = Fills(now)
        self._refusals = _Refusals(now)
        self._idle_timeout = idle_timeout
        self._settle = min(_SETTLE, idle_timeout / 2)
        self._connection: _Connection | None = None
        self._lost_at = now
        # Every moment before is proved; and whether a connection was lost or failed since.
        self._proved, self._is_broken = now, False
        # A connection was silent for too long; channels went live during that time without a notification.
        self._was_silent = self._missed_in_silence = False

    # The connection:

    @property
    def address(self) -> str:
        """The address that is connected to, or tried next."""
        return self._addresses.current

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    def connected(self, now: float) -> tuple[str, str] | None:
        """Record a connection; return the address used before and why it was left, or None if it is the same."""
        self._connection = _Connection(now, now)
        self.connections += 1
        self.fills.want(now + self._settle)
        return self._addresses.connected(now)

    def heard(self, now: float, *, is_new: bool = True) -> None:
        """Record a notification: nothing else shows that the connection works.

        Only a new one ends the back-off: a server may repeat the last ones, and close.
        """
        if self._connection is None:
            return
        self._connection.heard, self._connection.is_usable, self._connection.refused = now, True, ""
        self._missed_in_silence = False
        self._refusals.heard()
        self._addresses.heard(is_new=is_new)

    def refused(self, now: float, what: str) -> None:
        """Record that the server sent an error instead of a notification."""
        if self._connection is not None and not self._connection.refused:
            self._connection.refused = what
            self._refusals.add(now, self._connection, what)

    def is_idle(self, now: float) -> bool:
        """Return whether the connection was silent for too long."""
        if self._connection is None:
            return False
        # After an error, no notification is expected.
        patience = min(self._idle_timeout, _HELD) if self._connection.refused else self._idle_timeout
        return now - self._connection.heard >= patience

    def closed(self, now: float, random: float) -> float:
        """Record that a silent connection was closed; return the wait before the reconnect, in seconds."""
        connection = self._connection
        refused = connection.refused if connection else ""
        self.reason = refused or f"nothing was heard for {self._idle_timeout:g} s"
        self._was_silent = self._was_silent or (connection is not None and connection.is_joined)
        return self._next_wait(now, random)

    def lost(
        self, now: float, random: float, reason: str, retry_after: float | None = None, *, by_us: bool = False
    ) -> float:
        """Record that the connection was lost, or failed; return the wait before the next attempt, in seconds.

        Args:
            now: when.
            random: from 0 to 1.
            reason: how.
            retry_after: what the server asks for.
            by_us: it was closed on this side, which does not count against the server.
        """
        self.failures += 1
        self.reason = reason
        self._is_broken, self._was_silent = True, False
        self._addresses.asked_to_wait(retry_after)
        connection = self._connection
        if connection is None:
            # While there is no connection, fills find at least the channels that stay live.
            self.fills.want_early(max(now, self.fills.last_began + max(self._idle_timeout, RETRY_AFTER)))
        elif not (connection.is_usable or connection.refused or by_us) and now - connection.opened < _HELD:
            self._refusals.add(now, connection, reason)
        return self._next_wait(now, random)

    def _next_wait(self, now: float, random: float) -> float:
        """Forget the connection; return the wait before the next attempt, in seconds."""
        connection = self._connection
        self._proved = self._proved_until()
        self._connection = None
        self._lost_at = now if connection else self._lost_at
        was_useful = connection is not None and connection.was_useful(now)
        return self._addresses.next_wait(now, random, self.reason, was_useful=was_useful)

    # The live route:

    def filled(self, unheard: int) -> bool:
        """Record that a fill was complete; return whether nothing is missing before the connection.

        Args:
            unheard: how many channels it found without a notification.
        """
        began = self.fills.ended()
        self._proved = max(self._proved, began)
        connection = self._connection
        if connection is None or began < connection.opened + self._settle:
            return False
        connection.is_joined, self._is_broken = True, False
        if self._was_silent:
            # If channels went live while it was silent, silence was not normal.
            self._missed_in_silence = unheard > 0 and not connection.is_usable
            self._was_silent = False
        return True

    def is_proved(self, moment: float) -> bool:
        """Return whether nothing that went live before is missing."""
        return self._proved_until() >= moment

    def _proved_until(self) -> float:
        connection = self._connection
        if connection is None or not connection.is_joined:
            return self._proved
        return max(self._proved, connection.heard)

    # The end:

    def missed(self, now: float, *, stopped: bool) -> Missed | None:
        """Return what may be missing when the run ends, or None.

        Args:
            now: when the listening ended; a fill may have ended since.
            stopped: by a signal, without time for a last fill: then silence is accepted until the idle time-out.
        """
        since = self._proved_until()
        if self._refusals.are_final(now, self._connection):
            reason = f"no connection was of use, the last one: {self._refusals.last}"
            return Missed(min(since, self._refusals.since), now, reason)
        if self._connection is None and not (stopped and self._is_opening_again(now)):
            return Missed(min(since, self._lost_at), now, self.reason or "no connection")
        is_accepted = stopped and not (self._is_broken or self._missed_in_silence or self.fills.failure)
        allowed = self._idle_timeout + _GRACE if is_accepted else 0.0
        if now - since <= allowed:
            return None
        return Missed(since, now, self._why_not_proved())

    def _is_opening_again(self, now: float) -> bool:
        return bool(self.connections) and not self._is_broken and now - self._lost_at <= _GRACE

    def _why_not_proved(self) -> str:
        if self.fills.failure:
            return f"channels that went live without a notification may be missing: {self.fills.failure}"
        if self._missed_in_silence:
            return "channels went live without a notification while it was connected"
        why = f" after this: {self.reason}" if self.reason else ""
        return f"the live route was not asked{why}"
