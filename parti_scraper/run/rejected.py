"""Records that were set aside, recognized on another page although they have no identity."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from parti_scraper.items import RepeatedRecord

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence

    from parti_scraper.items import RejectedRecord


class RejectedMarks:
    """Marks by which records that were set aside are recognized; with snapshots, those of the current one.

    Attributes:
        snapshot_id: the current snapshot; empty where there are none.
    """

    def __init__(self) -> None:
        self.snapshot_id = ""
        self._marks: set[bytes] = set()
        self._new: list[bytes] = []

    def restore(self, marks: Iterable[bytes]) -> None:
        self._marks = set(marks)

    def drain_new(self) -> list[bytes]:
        """Return the marks that were added since the last call."""
        new, self._new = self._new, []
        return new

    def mark_repeats(
        self,
        rejected: Sequence[RejectedRecord],
        identities: Sequence[Hashable | None],
        snapshot_id: str,
        *,
        ascending: bool = False,
    ) -> Iterator[RejectedRecord]:
        """Yield the rejected records of a page; those of an earlier page become a `RepeatedRecord`.

        A record whose content names an id is recognized by its content. Any other may be as little as `null`, and is
        recognized by its content together with the readable record before or after it.

        Args:
            rejected: the records.
            identities: of all records of the page in the order served; None where a record has none.
            snapshot_id: the snapshot that the page belongs to.
            ascending: the page is in ascending order.
        """
        if snapshot_id != self.snapshot_id:
            self.snapshot_id, self._marks = snapshot_id, set()
            self._new.clear()
        for record in rejected:
            marks = _marks_of(record, identities, ascending=ascending)
            is_repeated = not marks.isdisjoint(self._marks)
            self._new += marks - self._marks
            self._marks |= marks
            yield RepeatedRecord(record.reason, record.url, record.position, record.record) if is_repeated else record


def _marks_of(record: RejectedRecord, identities: Sequence[Hashable | None], *, ascending: bool) -> set[bytes]:
    content = json.dumps(record.record, sort_keys=True).encode()
    if _names_an_id(record.record):
        # Where two windows meet, it may be last on one page and first on another.
        return {_mark(b"=", None, content)}
    before = next((id_ for id_ in reversed(identities[: record.position]) if id_ is not None), None)
    after = next((id_ for id_ in identities[record.position + 1 :] if id_ is not None), None)
    sides = (b">", b"<") if ascending else (b"<", b">")
    return {_mark(side, id_, content) for side, id_ in zip(sides, (before, after), strict=True) if id_ is not None}


def _names_an_id(record: Any) -> bool:
    """Tell whether the content of an unreadable record distinguishes it from all others."""
    if not isinstance(record, dict):
        return False
    return any(str(record.get(name)).isdecimal() for name in ("event_id", "user_id"))


def _mark(side: bytes, neighbor: Hashable, content: bytes) -> bytes:
    """Return a mark that is the same in every process."""
    return hashlib.blake2b(side + repr(neighbor).encode() + content, digest_size=16).digest()
