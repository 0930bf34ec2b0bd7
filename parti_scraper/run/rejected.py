"""Records that were set aside, told from the same ones on another page though they have no identity."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from parti_scraper.items import RepeatedRecord

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence

    from parti_scraper.items import RejectedRecord


class RejectedMarks:
    """What the records that were set aside are known by; of the snapshot at hand where there are snapshots.

    Attributes:
        snapshot_id: the snapshot that they are of; empty where there are none.
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
        """Yield the records of a page that were set aside, as repeated those that an earlier page had brought.

        Such a record is known by its content where that names an id, in whatever field is of use. Else it may be as
        little as `null`, and is known by either of the readable records that stand before and after it.

        Args:
            rejected: the records.
            identities: of all records of the page in the order served; None where there is none.
            snapshot_id: the snapshot that the page belongs to.
            ascending: the page is in the other order.
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
        # Where two windows meet, it may be the last of one page and the first of another.
        return {_mark(b"=", None, content)}
    before = next((id_ for id_ in reversed(identities[: record.position]) if id_ is not None), None)
    after = next((id_ for id_ in identities[record.position + 1 :] if id_ is not None), None)
    sides = (b">", b"<") if ascending else (b"<", b">")
    return {_mark(side, id_, content) for side, id_ in zip(sides, (before, after), strict=True) if id_ is not None}


def _names_an_id(record: Any) -> bool:
    """Tell whether the content of a record that cannot be read is that of no other."""
    if not isinstance(record, dict):
        return False
    return any(str(record.get(name)).isdecimal() for name in ("event_id", "user_id"))


def _mark(side: bytes, neighbor: Hashable, content: bytes) -> bytes:
    """Return what a record that cannot be read is known by, the same in every process."""
    return hashlib.blake2b(side + repr(neighbor).encode() + content, digest_size=16).digest()
