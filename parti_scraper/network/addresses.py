"""Which address of the WebSocket to connect to, and how long to wait before each attempt."""

from __future__ import annotations

from parti_scraper.network.backoff import reconnect_wait

# How long another address is used before the first one is tried again, in seconds.
_RETURN_AFTER = 600.0


class Addresses:
    """The addresses, tried in turn, with back-off. Every `now` is of one monotonic clock.

    Args:
        addresses: in the order in which they are tried.
        delay: longest wait before the first reconnect, in seconds.
        now: when the run begins to listen.
        position: of the address to begin with.
    """

    def __init__(self, addresses: tuple[str, ...], delay: float, now: float, position: int = 0) -> None:
        self._addresses = addresses
        self._delay = delay
        # Failures in a row since the last new notification, or the last useful connection.
        self._failures = 0
        # The address to try; the last one that was connected to, since when, and why that connection was lost.
        self._position = self._used = position
        self._used_since, self._left_for = now, ""
        # Useless attempts in a row, and the longest wait that a server asked for in one of them.
        self._useless, self._retry_after = 0, 0.0

    @property
    def current(self) -> str:
        """The address that is connected to, or tried next."""
        return self._addresses[self._position]

    def connected(self, now: float) -> tuple[str, str] | None:
        """Record a connection; return the address used before and why it was left, or None if it is the same."""
        if self._used == self._position:
            return None
        left = self._addresses[self._used], self._left_for
        self._used, self._used_since = self._position, now
        return left

    def heard(self, *, is_new: bool) -> None:
        """Record a notification; only one that is new ends the back-off."""
        self._useless = 0
        if is_new:
            self._failures = 0

    def asked_to_wait(self, seconds: float | None) -> None:
        """Record the wait that a server asked for, if any, in seconds; it applies to the next wait."""
        self._retry_after = max(self._retry_after, seconds or 0.0)

    def next_wait(self, now: float, random: float, reason: str, *, was_useful: bool) -> float:
        """Choose the next address; return the wait before it is tried, in seconds.

        It is 0 before another address, and grows each time that all were tried.

        Args:
            now: when the connection was lost, or failed.
            random: from 0 to 1.
            reason: why.
            was_useful: the connection brought notifications, or held.
        """
        if self._position == self._used:
            self._left_for = reason
        if was_useful:
            self._useless = 0
            self._failures = 0
            if now - self._used_since >= _RETURN_AFTER:
                self._position, self._used_since = 0, now
        else:
            self._useless += 1
            self._position = (self._position + 1) % len(self._addresses)
            if self._useless % len(self._addresses):
                return 0.0
        retry_after, self._retry_after = self._retry_after, 0.0
        self._failures += 1
        return max(reconnect_wait(self._failures, self._delay, random), retry_after)
