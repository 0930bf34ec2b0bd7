"""What each record passes on its way to the feeds. Whatever is dropped is counted, by the name of its reason."""

from __future__ import annotations

import logging
import os
from functools import cached_property
from typing import IO, TYPE_CHECKING, Self, cast

from itemadapter import ItemAdapter
from scrapy.exceptions import DropItem, NotConfigured

from parti_scraper.api.times import iso_to_timestamp
from parti_scraper.feeds.exporters import close_on_disk, encode_line
from parti_scraper.items import LiveChannel, Livestream, RejectedRecord, RepeatedRecord
from parti_scraper.ledger.ledger import Version, content_hash
from parti_scraper.signals import send_storage_failed

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

    from parti_scraper.items import Item
    from parti_scraper.spiders.base import PartiSpider

logger = logging.getLogger(__name__)

# Kinds of records that the arguments' filters are about.
_SELECTED = (Livestream, LiveChannel)


class BadRecord(DropItem):
    """The record could not be normalized and stands in `quarantine.jsonl`. Raised by QuarantinePipeline."""


class FilteredRecord(DropItem):
    """The record was not asked for. Raised by SelectionPipeline and MaxRecordsPipeline."""


class DuplicateRecord(DropItem):
    """The record was written before. Raised by DuplicatesPipeline and QuarantinePipeline."""


class _Pipeline:
    def __init__(self, crawler: Crawler) -> None:
        self.crawler = crawler

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        return cls(crawler)

    @cached_property
    def spider(self) -> PartiSpider:
        return cast("PartiSpider", self.crawler.spider)


class QuarantinePipeline(_Pipeline):
    """Sets records aside that could not be normalized, whole but for secrets."""

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self._file: IO[bytes] | None = None
        self._reasons: set[str] = set()

    def process_item(self, item: Item | RejectedRecord) -> Item:
        if not isinstance(item, RejectedRecord):
            return item
        if isinstance(item, RepeatedRecord):
            raise DuplicateRecord(item.reason)
        row = {"reason": item.reason, "url": item.url, "position": item.position, "record": item.record}
        try:
            self._write(encode_line(row))
        except OSError as error:
            send_storage_failed(self.crawler, str(self.spider.quarantine_path), error)
        if item.reason not in self._reasons:
            # Once a reason: a field that changes its type spoils every record.
            self._reasons.add(item.reason)
            logger.warning("A record was set aside: %s (position %d of %s)", item.reason, item.position, item.url)
        raise BadRecord(item.reason)

    def sync(self) -> dict[str, tuple[int, int]]:
        """Bring the file to the disk; return its size and rows by its name, nothing where there is none.

        Raises:
            OSError: it cannot be written, or was deleted.
        """
        if self._file is not None and not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
        path = self.spider.quarantine_path
        rows = self.crawler.stats.get_value("item_dropped_reasons_count/BadRecord", 0)
        # Where there are rows and no file, it was deleted meanwhile, which raises.
        return {path.name: (path.stat().st_size, rows)} if rows or path.exists() else {}

    def close_spider(self) -> None:
        if self._file is None:
            return
        try:
            close_on_disk(self._file, "jsonlines")
        except OSError as error:
            send_storage_failed(self.crawler, str(self.spider.quarantine_path), error)

    def _write(self, line: bytes) -> None:
        if self._file is None:
            self._file = self.spider.quarantine_path.open("ab" if self.spider.resumed else "wb")
        self._file.write(line)


class SelectionPipeline(_Pipeline):
    """Applies the arguments' filters once more, since the server may not have."""

    def process_item(self, item: Item) -> Item:
        if isinstance(item, _SELECTED) and not self.spider.selection.takes(item):
            raise FilteredRecord(str(item.event_id))
        return item


class DuplicatesPipeline(_Pipeline):
    """Lets each record through once: a livestream a run, a channel a snapshot."""

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self._snapshot_id: str | None = None

    def process_item(self, item: Item) -> Item:
        seen = self.spider.seen
        if isinstance(item, LiveChannel) and item.snapshot_id != self._snapshot_id:
            # Snapshots follow each other, so a spider that runs for weeks need not remember the old ones.
            self._snapshot_id = item.snapshot_id
            seen.clear()
        if item.identity in seen:
            raise DuplicateRecord(str(item.identity))
        seen.add(item.identity)
        return item


class VersionsPipeline(_Pipeline):
    """Lets through of an incremental run what no run before has written, or not as it is now."""

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        # `scrapy shell` has no spider yet.
        if crawler.spider is None or self.spider.series is None:
            raise NotConfigured
        self._series = self.spider.series
        self._written: list[Version] = []

    def process_item(self, item: Item) -> Item:
        if not isinstance(item, Livestream) or self.spider.truncated:
            return item
        version = content_hash(ItemAdapter(item).asdict())
        known = self.spider.ledger.known(self._series.id, item.event_id)
        if known == version:
            raise DuplicateRecord(str(item.event_id))
        self.crawler.stats.inc_value("parti/incremental/changed" if known else "parti/incremental/new")
        end = item.event_end
        ended = iso_to_timestamp(end) if end is not None and self.spider.selection.is_credible(end) else None
        self._written.append(Version(item.event_id, ended, version))
        return item

    def take_written(self) -> list[Version]:
        """Return what was let through since the last call."""
        written, self._written = self._written, []
        return written


class MaxRecordsPipeline(_Pipeline):
    """Stops the run after the argument `max_records`."""

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        if crawler.spider is None or self.spider.max_records is None:
            raise NotConfigured
        self._count: int | None = None

    def process_item(self, item: Item) -> Item:
        if self._count is None:
            # A run that goes on has written some.
            self._count = self.crawler.stats.get_value("item_scraped_count", 0)
            self.spider.truncated = self._count == self.spider.max_records
        if self.spider.truncated:
            raise FilteredRecord(str(item.identity))
        self._count += 1
        self.spider.truncated = self._count == self.spider.max_records
        return item
