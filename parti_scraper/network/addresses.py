"""Which address of the WebSocket to connect to, and how long to wait before each attempt. Pure."""

from __future__ import annotations

from parti_scraper.network.backoff import Reconnection

# Another address is used for so long, in seconds, before the first one is tried again.
_RETURN_AFTER = 600.0


class Addresses:
    """The addresses that are tried in turn, with back-off. Every `now` is of one clock that never goes back.

    Args:
        addresses: in the order in which they are tried.
        delay: longest wait before the first new attempt, in seconds.
        now: when the run begins to listen.
        position: of the address to begin with.
    """

    def __init__(self, addresses: tuple[str, ...], delay: float, now: float, position: int = 0) -> None:
        self._addresses = addresses
        self._reconnection = Reconnection(delay)
        # The address to try, and the last one that there was a connection to: since when, and why it was lost.
        self._position = self._used = position
        self._used_since, self._left_for = now, ""
        # Attempts in a row that were of no use, and the longest wait that a server asked for in one of them.
        self._useless, self._retry_after = 0, 0.0

    @property
    def current(self) -> str:
        """The address that is connected to, or is to be tried next."""
        return self._addresses[self._position]

    def connected(self, now: float) -> tuple[str, str] | None:
        """Record a connection; return which address was left for this one, and why, where there was another."""
        if self._used == self._position:
            return None
        left = self._addresses[self._used], self._left_for
        self._used, self._used_since = self._position, now
        return left

    def heard(self, *, is_new: bool) -> None:
        """Record a notification; only one that is new ends the back-off."""
        self._useless = 0
        if is_new:
            self._reconnection.heard()

    def asked_to_wait(self, seconds: float | None) -> None:
        """Record what a server asked for, if anything; it applies to the next wait."""
        self._retry_after = max(self._retry_after, seconds or 0.0)

    def next_wait(self, now: float, random: float, reason: str, *, was_useful: bool) -> float:
        """Choose the next address; return the wait before it is tried, in seconds.

        There is none before another address, and a growing one after the last of them.

        Args:
            now: when there was no connection any more.
            random: from 0 to 1.
            reason: why.
            was_useful: there was a connection that brought notifications, or held.
        """
        if self._position == self._used:
            self._left_for = reason
        if was_useful:
            self._useless = 0
            self._reconnection.heard()
            if now - self._used_since >= _RETURN_AFTER:
                self._position, self._used_since = 0, now
        else:
            self._useless += 1
            self._position = (self._position + 1) % len(self._addresses)
            if self._useless % len(self._addresses):
                return 0.0
        retry_after, self._retry_after = self._retry_after, 0.0
        return self._reconnection.lost(now, random, retry_after)
