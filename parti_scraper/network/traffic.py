"""What a run has cost: counts of all its sessions, in plain numbers. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# What is counted, by the names in the ledger and in the data package.
COUNTS = ("retries", "rate_limited")
_TOO_MANY_REQUESTS = 429


class Traffic:
    """How often a run was in trouble with servers, its earlier sessions included.

    Attributes:
        retries: failures after which a request to the API was to be sent again.
        rate_limited: answers with status 429, of whatever server.
    """

    def __init__(self) -> None:
        self.retries = 0
        self.rate_limited = 0

    def retried(self) -> None:
        self.retries += 1

    def answered(self, status: int) -> bool:
        """Note an answer; return whether it says that there were too many requests."""
        is_limited = status == _TOO_MANY_REQUESTS
        self.rate_limited += is_limited
        return is_limited

    def as_json(self) -> dict[str, int]:
        """Return the counts, for the ledger and the data package."""
        return {name: getattr(self, name) for name in COUNTS}

    def restore(self, noted: Mapping[str, int]) -> None:
        """Count on from what `as_json` has returned; a count that it does not have is 0."""
        self.retries, self.rate_limited = noted.get("retries", 0), noted.get("rate_limited", 0)
