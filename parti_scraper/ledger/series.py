"""Incremental runs with the same filters, and the versions of livestreams that they have written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Series:
    """Incremental runs with the same filters.

    Attributes:
        id: in the ledger.
        until: all that ended up to here was written, in Unix seconds; None before the first complete run.
        versions_since: the versions of all that ended from here on are known; Unix seconds.
    """

    id: int
    until: int | None = None
    versions_since: int | None = None

    def since(self, overlap: int) -> int | None:
        """Return where the next run starts, `overlap` seconds before `until`; None: at the beginning."""
        if self.until is None:
            return None
        # Not before `versions_since`, or older livestreams would be written again.
        return min(self.until, max(self.until - overlap, self.versions_since or 0))


@dataclass(frozen=True, slots=True)
class Version:
    """A livestream as it was written: its id, its end in Unix seconds, and a hash of its content."""

    event_id: int
    ended: int | None
    hash: bytes


def content_hash(row: Mapping[str, Any]) -> bytes:
    """Return a hash of a record, without the time when it was collected."""
    content = {name: value for name, value in row.items() if name != "scraped_at"}
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).digest()
