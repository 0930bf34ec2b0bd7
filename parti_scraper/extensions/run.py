"""The run's folder, the verdict on the run, and the data package that is written last."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast

from scrapy import signals
from scrapy.exceptions import CloseSpider, NotConfigured
from scrapy.extensions.feedexport import FeedExporter, ItemFilter

from parti_scraper import datapackage
from parti_scraper.exporters import RunFeedStorage
from parti_scraper.items import RejectedRecord
from parti_scraper.normalize import timestamp_to_iso
from parti_scraper.outcome import Counts, Ending, ExitCode, Verdict, judge
from parti_scraper.spiders.base import PartiSpider

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from scrapy.extensions.feedexport import FeedSlot

    from parti_scraper.items import Item

# The finish reason where the run that was named had finished before.
ALREADY_FINISHED = "already_finished"


class RunRecorder:
    """Makes the run's folder, and when the feeds are stored judges the run and describes its files.

    Attributes:
        verdict: how the run ended; None until it has.
        files: what it left.
        records_by_category: how many were written, by category name.
    """

    def __init__(self, crawler: Crawler) -> None:
        if not issubclass(crawler.spidercls, PartiSpider):
            raise NotConfigured
        self.crawler = crawler
        self.verdict: Verdict | None = None
        self.files: list[datapackage.File] = []
        self.records_by_category: Counter[str] = Counter()
        self._made_folder = False
        self._closed_slots: list[FeedSlot] = []
        self._storage_problems: list[str] = []
        self._finish_reason = ""

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Connect to the signals of a run."""
        recorder = cls(crawler)
        connect = crawler.signals.connect
        connect(recorder.spider_opened, signals.spider_opened)
        connect(recorder.item_scraped, signals.item_scraped)
        connect(recorder.feed_slot_closed, signals.feed_slot_closed)
        connect(recorder.spider_closed, signals.spider_closed)
        connect(recorder.feed_exporter_closed, signals.feed_exporter_closed)
        return recorder

    @property
    def spider(self) -> PartiSpider:
        """The spider of the run."""
        return cast("PartiSpider", self.crawler.spider)

    def spider_opened(self) -> None:
        """Make the folder; close the spider before anything is requested where nothing could be stored."""
        folder = self.spider.run_dir
        if (folder / datapackage.FILE_NAME).exists():
            self._close_at_once(ALREADY_FINISHED)
        if self._feed_exporter is None and self.crawler.settings["FEEDS"]:
            # One feed that cannot be set up disables all of them, and Scrapy goes on without.
            self._storage_problems.append("the feeds could not be set up, see the error above")
            self._close_at_once("feeds")
        try:
            self._made_folder = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            # A run of this name that did not finish is begun again.
            self.spider.quarantine_path.unlink(missing_ok=True)
        except OSError as error:
            self._storage_problems.append(f"the folder {folder} cannot be made: {error.strerror}")
            self._close_at_once("run_folder")

    def item_scraped(self, item: Item) -> None:
        """Count a record that was written."""
        name = getattr(item, "category_name", None) or getattr(item, "name", None) or "(no name)"
        self.records_by_category[name] += 1

    def feed_slot_closed(self, slot: FeedSlot) -> None:
        """Remember a feed that came to its end."""
        self._closed_slots.append(slot)

    def spider_closed(self, reason: str) -> None:
        """Remember why; without feeds there is nothing else to wait for."""
        self._finish_reason = reason
        if self._feed_exporter is None:
            self.conclude()

    def feed_exporter_closed(self) -> None:
        """The files are on disk."""
        self.conclude()

    def conclude(self) -> None:
        """Judge the run, and describe its files if it came to its end."""
        self._check_feeds()
        ending = self._ending()
        self.verdict = judge(ending)
        if self.verdict.exit_code is ExitCode.USAGE and self._made_folder:
            shutil.rmtree(self.spider.run_dir, ignore_errors=True)
        elif self.verdict.ended and not self.already_finished and self.spider.run_dir.is_dir():
            self._describe(ending)
        self.crawler.stats.set_value("parti/run/exit_code", int(self.verdict.exit_code))

    def counts(self) -> Counts:
        """Return what became of the records, from where each was counted."""
        count = self.crawler.stats.get_value
        return Counts(
            pages=count("parti/spider/pages", 0),
            served=count("parti/spider/served", 0),
            written=count("item_scraped_count", 0),
            duplicate=count("item_dropped_reasons_count/DuplicateRecord", 0),
            quarantined=count("item_dropped_reasons_count/BadRecord", 0),
            filtered=count("item_dropped_reasons_count/FilteredRecord", 0),
            unknown_fields=len(self.spider.unknown_fields),
        )

    @property
    def already_finished(self) -> bool:
        """Whether the run that was named had finished before, so that nothing was done."""
        return self._finish_reason == ALREADY_FINISHED

    @property
    def _feed_exporter(self) -> FeedExporter | None:
        return self.crawler.get_extension(FeedExporter)

    def _close_at_once(self, reason: str) -> NoReturn:
        if self._feed_exporter is not None:
            for slot in self._feed_exporter.slots:
                # Or an empty file would be stored, over the records of a finished run.
                slot.store_empty = False
        raise CloseSpider(reason)

    def _ending(self) -> Ending:
        return Ending(
            finish_reason="finished" if self.already_finished else self._finish_reason,
            counts=self.counts(),
            endless=self.spider.endless,
            usage_error=self.spider.usage_error,
            exceptions=self.crawler.stats.get_value("spider_exceptions/count", 0),
            gaps=self.spider.gaps,
            storage=self._storage_problems,
        )

    def _check_feeds(self) -> None:
        """Note feeds that are not whole: Scrapy logs such errors and goes on, and for some counts nothing."""
        exporter = self._feed_exporter
        if exporter is None:
            return
        failed = sum(
            value
            for name, value in self.crawler.stats.get_stats().items()
            if name.startswith("feedexport/failed_count/")
        )
        if failed:
            self._storage_problems.append(f"{failed} feeds could not be stored, see the error above")
        for slot in exporter.slots:
            if (slot.itemcount or (slot.store_empty and slot.batch_id == 1)) and slot not in self._closed_slots:
                self._storage_problems.append(f"the feed {slot.uri} could not be stored")
        rows: Counter[str] = Counter()
        for slot in self._closed_slots:
            rows[slot.uri_template] += slot.itemcount
        written = self.counts().written
        for template in exporter.feeds:
            takes_all = type(exporter.filters[template]) is ItemFilter and not exporter.filters[template].item_classes
            if takes_all and rows[template] != written:
                self._storage_problems.append(f"the feed {template} holds {rows[template]} of {written} records")

    def _describe(self, ending: Ending) -> None:
        spider = self.spider
        for slot in self._closed_slots:
            if isinstance(slot.storage, RunFeedStorage):
                self.files.append(datapackage.File(slot.storage.path(spider), spider.item_class, slot.itemcount))
        if ending.counts.quarantined:
            self.files.append(datapackage.File(spider.quarantine_path, RejectedRecord, ending.counts.quarantined))
        try:
            datapackage.write(spider.run_dir, self._descriptor(ending))
        except OSError as error:
            problem = f"{datapackage.FILE_NAME} cannot be written: {error.strerror}"
            self.verdict = Verdict(ExitCode.INCOMPLETE, problem)

    def _descriptor(self, ending: Ending) -> dict[str, Any]:
        spider, verdict = self.spider, judge(ending)
        return {
            "name": f"parti-{spider.name}-{spider.run_id}".lower(),
            "title": f"{spider.collection.replace('_', ' ')} of parti.com",
            "created": timestamp_to_iso(time.time()),
            "spider": spider.name,
            "run_id": spider.run_id,
            "arguments": spider.arguments.given(),
            "window": spider.window_as_json(),
            "host": spider.base_url,
            "failovers": spider.failovers,
            "counts": asdict(ending.counts),
            "unknown_fields": sorted(spider.unknown_fields),
            "complete": verdict.complete,
            "truncated": spider.truncated,
            "reason": verdict.reason,
            "resources": [datapackage.describe(file) for file in self.files],
        }
