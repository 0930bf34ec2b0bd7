"""What each record passes on its way to the feeds. Dropped records are counted by reason."""

from __future__ import annotations

import logging
from typing import IO, TYPE_CHECKING, Self

from itemadapter import ItemAdapter
from scrapy.exceptions import DropItem, NotConfigured

from parti_scraper.api.times import iso_to_timestamp
from parti_scraper.feeds.exporters import close_on_disk, encode_line
from parti_scraper.items import LiveChannel, Livestream, RejectedRecord, RepeatedRecord
from parti_scraper.ledger.series import Version, content_hash
from parti_scraper.run.context import run_of
from parti_scraper.run.datapackage import QUARANTINE, File
from parti_scraper.signals import send_storage_failed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scrapy.crawler import Crawler

    from parti_scraper.feeds.disk import FlushedFiles
    from parti_scraper.items import Item
    from parti_scraper.run.context import Run

logger = logging.getLogger(__name__)

# Kinds of records that the arguments' filters apply to.
_SELECTED = (Livestream, LiveChannel)


class BadRecord(DropItem):
    """The record could not be normalized and is in `quarantine.jsonl`. Raised by QuarantinePipeline."""


class FilteredRecord(DropItem):
    """The arguments exclude the record. Raised by SelectionPipeline and MaxRecordsPipeline."""


class DuplicateRecord(DropItem):
    """The record was written before. Raised by DuplicatesPipeline and QuarantinePipeline."""


# The key of the tally for each reason to drop a record; for reasons of other pipelines it is `dropped`.
KEYS: dict[type[DropItem], str] = {BadRecord: "quarantined", FilteredRecord: "filtered", DuplicateRecord: "duplicate"}


class _Pipeline:
    def __init__(self, crawler: Crawler, run: Run) -> None:
        self.crawler = crawler
        self.run = run

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        run = run_of(crawler)
        if run is None:
            raise NotConfigured
        return cls(crawler, run)


class QuarantinePipeline(_Pipeline):
    """Sets aside records that could not be normalized, whole except for secrets."""

    def __init__(self, crawler: Crawler, run: Run) -> None:
        super().__init__(crawler, run)
        self._file: IO[bytes] | None = None
        self._path: Path | None = None
        # By the names of the files: one, or one a day.
        self._rows: dict[str, int] = {}

    def process_item(self, item: Item | RejectedRecord) -> Item:
        if not isinstance(item, RejectedRecord):
            return item
        if isinstance(item, RepeatedRecord):
            raise DuplicateRecord(item.reason)
        row = {"reason": item.reason, "url": item.url, "position": item.position, "record": item.record}
        try:
            self._write(encode_line(row))
        except OSError as error:
            send_storage_failed(self.crawler, str(self.run.folder.quarantine), error)
        if self.run.reasons.add(item.reason):
            # Once for each reason: a field that changes its type affects every record.
            logger.warning("A record was set aside: %s (position %d of %s)", item.reason, item.position, item.url)
        raise BadRecord(item.reason)

    def flush_into(self, flushed: FlushedFiles) -> None:
        """Hand the file to the system, and add it, where there is one.

        Raises:
            OSError: it cannot be written, or was deleted.
        """
        if self._path != self.run.folder.quarantine:
            self._close()
        elif self._file is not None and not self._file.closed:
            self._file.flush()
            flushed.add_open(self._file)
        for name, rows in self._rows.items():
            # Where there are rows and no file, it was deleted during the run, which raises.
            flushed.note({name: ((self.run.folder.path / name).stat().st_size, rows)})

    def files(self) -> list[File]:
        """Return the files of the records that were set aside, except for days that have a data package."""
        folder = self.run.folder.path
        return [File(folder / name, RejectedRecord, rows) for name, rows in self._rows.items() if rows]

    def restore_rows(self, rows: Mapping[str, int]) -> None:
        """Set how many rows each file holds, those of sessions and days before included."""
        self._rows = {name: number for name, number in rows.items() if number}

    def settle(self, day: str) -> None:
        """Forget the file of a day that has a data package."""
        self._rows.pop(f"{day}/{QUARANTINE}", None)

    def close_spider(self) -> None:
        self._close()

    def _write(self, line: bytes) -> None:
        folder = self.run.folder
        name = folder.name_of(folder.quarantine)
        if folder.quarantine != self._path:
            self._close()
            self._path = folder.quarantine
            folder.make_current()
            self._file = self._path.open("ab" if folder.appends else "wb")
            self._rows.setdefault(name, folder.rows_before.get(name, 0))
        assert self._file is not None  # noqa: S101 - it was opened with its path
        self._file.write(line)
        self._rows[name] += 1

    def _close(self) -> None:
        if self._file is None:
            return
        try:
            close_on_disk(self._file, "jsonlines")
        except OSError as error:
            send_storage_failed(self.crawler, str(self._path), error)


class SelectionPipeline(_Pipeline):
    """Applies the arguments' filters, since the server may not have."""

    def process_item(self, item: Item) -> Item:
        if isinstance(item, _SELECTED) and not self.run.selection.takes(item):
            raise FilteredRecord(str(item.event_id))
        return item


class DuplicatesPipeline(_Pipeline):
    """Lets each record through once: a livestream per run, a channel per snapshot."""

    def __init__(self, crawler: Crawler, run: Run) -> None:
        super().__init__(crawler, run)
        self._snapshot_id: str | None = None

    def process_item(self, item: Item) -> Item:
        seen = self.run.seen
        if isinstance(item, LiveChannel) and item.snapshot_id != self._snapshot_id:
            # Older snapshots do not come back, so a run of weeks need not remember them.
            self._snapshot_id = item.snapshot_id
            seen.clear()
        if item.identity in seen:
            raise DuplicateRecord(str(item.identity))
        seen.add(item.identity)
        return item


class VersionsPipeline(_Pipeline):
    """In an incremental run, lets through only what no earlier run has written in this version."""

    def __init__(self, crawler: Crawler, run: Run) -> None:
        super().__init__(crawler, run)
        if run.series is None:
            raise NotConfigured
        self._series = run.series
        self._written: list[Version] = []

    def process_item(self, item: Item) -> Item:
        if not isinstance(item, Livestream) or self.run.limit.is_reached:
            return item
        version = content_hash(ItemAdapter(item).asdict())
        known = self.run.ledger.known(self._series.id, item.event_id)
        if known == version:
            self.run.unchanged.add(item.event_id)
            raise DuplicateRecord(str(item.event_id))
        # A run that was resumed may have seen it before it changed.
        self.run.unchanged.discard(item.event_id)
        self.run.tally.add("changed" if known else "new")
        self.crawler.stats.inc_value("parti/incremental/changed" if known else "parti/incremental/new")
        end = item.event_end
        ended = iso_to_timestamp(end) if end is not None and self.run.selection.is_credible(end) else None
        self._written.append(Version(item.event_id, ended, version))
        return item

    def drain_written(self) -> list[Version]:
        """Return what was let through since the last call."""
        written, self._written = self._written, []
        return written


class MaxRecordsPipeline(_Pipeline):
    """Stops the run after the argument `max_records`."""

    def __init__(self, crawler: Crawler, run: Run) -> None:
        super().__init__(crawler, run)
        if run.limit.most is None:
            raise NotConfigured

    def process_item(self, item: Item) -> Item:
        if not self.run.limit.take():
            raise FilteredRecord(str(item.identity))
        return item
