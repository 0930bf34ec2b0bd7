"""The run's folder, the verdict on the run, and the data package that is written last."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections import Counter
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast

from scrapy import signals
from scrapy.exceptions import CloseSpider, NotConfigured
from scrapy.utils.defer import deferred_from_coro

from parti_scraper.api.quality import too_many_set_aside
from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.exceptions import LedgerError, UsageError
from parti_scraper.extensions.checkpoints import Checkpoints, category_of
from parti_scraper.feeds.exporter import FeedExporter
from parti_scraper.items import RejectedRecord
from parti_scraper.run import datapackage
from parti_scraper.run.outcome import Counts, Ending, ExitCode, Verdict, judge, judge_fields
from parti_scraper.signals import checkpoint, items_scraped, send_storage_failed, storage_failed
from parti_scraper.spiders.base import PartiSpider

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scrapy.crawler import Crawler

    from parti_scraper.items import Item


class RunRecorder:
    """Makes the run's folder, and when the feeds are stored judges the run and describes its files.

    Attributes:
        verdict: how the run ended; None until it has.
        finished_before: the data package, where the run that was named had finished before, so that nothing was done.
        files: what it left in its folder.
        feeds: what the user had stored elsewhere.
        records_by_category: how many were written, by category name.
    """

    def __init__(self, crawler: Crawler) -> None:
        # `scrapy shell` has no spider yet.
        if not isinstance(crawler.spider, PartiSpider) or not crawler.spider.is_run():
            raise NotConfigured
        self.crawler = crawler
        self.verdict: Verdict | None = None
        self.finished_before: dict[str, Any] | None = None
        self.files: list[datapackage.File] = []
        self.feeds: list[datapackage.Feed] = []
        self.records_by_category: Counter[str] = Counter()
        self.checkpoints = Checkpoints(crawler)
        self._made_folders: list[Path] = []
        self._storage_problems: list[str] = []
        self._exceptions = LoggedExceptions()
        self._finish_reason = ""

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Connect to the signals of a run."""
        recorder = cls(crawler)
        connect = crawler.signals.connect
        connect(recorder.spider_opened, signals.spider_opened)
        connect(recorder.item_scraped, signals.item_scraped)
        connect(recorder.items_scraped, items_scraped)
        connect(recorder.checkpoint, checkpoint)
        connect(recorder.storage_failed, storage_failed)
        connect(recorder.spider_closed, signals.spider_closed)
        connect(recorder.feed_exporter_closed, signals.feed_exporter_closed)
        return recorder

    @property
    def spider(self) -> PartiSpider:
        """The spider of the run."""
        return cast("PartiSpider", self.crawler.spider)

    def spider_opened(self) -> None:
        """Make the folder and begin; close the spider before anything is requested where that cannot be."""
        folder = self.spider.run_dir
        self._check_finished()
        self._check_feeds()
        self._made_folders = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._cannot_store(f"the folder {folder} cannot be made: {error.strerror}")
        if not os.access(folder, os.W_OK | os.X_OK):
            self._cannot_store(f"the folder {folder} cannot be written to")
        self._begin()

    def _begin(self) -> None:
        try:
            self.checkpoints.lock()
            self._check_finished()  # By another process, meanwhile.
            self.checkpoints.begin(self.records_by_category)
            if not self.spider.resumed:
                for path in self.spider.run_dir.glob(f"{self.spider.collection}.*"):
                    path.unlink()
                self.spider.quarantine_path.unlink(missing_ok=True)
        except UsageError as error:
            self.spider.usage_error = str(error)
            self._close_at_once("usage_error")
        except LedgerError as error:
            self._cannot_store(str(error))
        except OSError as error:
            self._cannot_store(f"{error.filename} cannot be written: {error.strerror}")

    def _check_finished(self) -> None:
        self.finished_before = datapackage.read(self.spider.run_dir)
        if self.finished_before:
            self._close_at_once("finished_before")

    def checkpoint(self) -> None:
        """Note how far the run has come, unless something went wrong: then the checkpoint before stands."""
        if self._exceptions.count or self._storage_problems or not self.counts().balance():
            return
        try:
            self.checkpoints.take(self.records_by_category)
        except LedgerError as error:
            self.storage_failed(str(error))
        except OSError as error:
            send_storage_failed(self.crawler, "a record", error)

    def item_scraped(self, item: Item) -> None:
        """Count a record that was written."""
        self.records_by_category[category_of(item)] += 1

    def items_scraped(self, items: Sequence[Item]) -> None:
        """Count the records of a batch."""
        self.records_by_category.update(map(category_of, items))

    def storage_failed(self, problem: str) -> None:
        """Stop the run: what follows would be lost too. The first problem is the cause of the others."""
        if not self._storage_problems:
            self._storage_problems.append(problem)
            # Also where the spider came to its end: its files are not whole.
            self._finish_reason = "storage"
            deferred_from_coro(self.crawler.engine.close_spider_async(reason="storage"))

    def spider_closed(self, reason: str) -> None:
        """Remember why; without feeds there is nothing else to wait for."""
        self._finish_reason = self._finish_reason or reason
        if self._feed_exporter is None:
            self.conclude()

    def feed_exporter_closed(self) -> None:
        """The files are on disk."""
        self.conclude()

    def conclude(self) -> None:
        """Judge the run, and describe its files if it came to its end."""
        if self.finished_before:
            package = self.finished_before
            self.verdict = Verdict(ExitCode.INCOMPLETE, package.get("reason"))
            if package.get("complete"):
                self.verdict = judge_fields(package.get("degraded", []))
        else:
            self._leave_out_what_is_half()
            self._take_stock()
            self._note_last()
            ending = self._ending()
            self.verdict = judge(ending)
            if self.verdict.exit_code is ExitCode.INCOMPLETE and not self.spider.has_begun:
                # An outage must not end what another try can finish.
                self.verdict = replace(self.verdict, ended=False)
            if self.verdict.exit_code in {ExitCode.USAGE, ExitCode.NOT_STARTED}:
                self._remove_folders()
            elif self.verdict.ended:
                self._describe(ending, self.verdict)
        self.checkpoints.release()
        self._exceptions.close()
        self.crawler.stats.set_value("parti/run/exit_code", int(self.verdict.exit_code))

    def counts(self) -> Counts:
        """Return what became of the records, from where each was counted."""
        count = self.crawler.stats.get_value
        reasons = ("DuplicateRecord", "BadRecord", "FilteredRecord")
        ours = sum(count(f"item_dropped_reasons_count/{reason}", 0) for reason in reasons)
        return Counts(
            pages=count("parti/spider/pages", 0),
            served=count("parti/spider/served", 0),
            written=count("item_scraped_count", 0),
            duplicate=count("item_dropped_reasons_count/DuplicateRecord", 0),
            quarantined=count("item_dropped_reasons_count/BadRecord", 0),
            filtered=count("item_dropped_reasons_count/FilteredRecord", 0),
            dropped=count("item_dropped_count", 0) - ours,
            unknown_fields=len(self.spider.quality.unknown),
        )

    def versions(self) -> tuple[int, int]:
        """Return how many livestreams an incremental run found new, and how many changed."""
        count = self.crawler.stats.get_value
        return count("parti/incremental/new", 0), count("parti/incremental/changed", 0)

    @property
    def _feed_exporter(self) -> FeedExporter | None:
        return self.crawler.get_extension(FeedExporter)

    def _check_feeds(self) -> None:
        """Close the spider where it is plain that a feed cannot be stored."""
        if self._feed_exporter is not None:
            for obstacle in self._feed_exporter.obstacles():
                self._cannot_store(obstacle)
        elif self.crawler.settings["FEEDS"]:
            # One feed that cannot be set up disables all of them, and Scrapy goes on without.
            self._cannot_store("the feeds could not be set up, see the log")

    def _cannot_store(self, problem: str) -> NoReturn:
        self._storage_problems.append(problem)
        self._close_at_once("storage")

    def _close_at_once(self, reason: str) -> NoReturn:
        if self._feed_exporter is not None:
            # Or empty files would be stored, over the records of a finished run.
            self._feed_exporter.discard()
        raise CloseSpider(reason)

    def _ending(self) -> Ending:
        spider, counts = self.spider, self.counts()
        return Ending(
            finish_reason=self._finish_reason,
            counts=counts,
            endless=spider.endless,
            usage_error=spider.usage_error,
            start_error=spider.start_error,
            exceptions=self._exceptions.count,
            gaps=spider.gaps,
            storage=self._storage_problems,
            set_aside=too_many_set_aside(counts.quarantined, spider.quality.readable, spider.max_rejected),
            degraded=spider.quality.flaws(spider.expect_absent),
        )

    def _take_stock(self) -> None:
        """List what was stored, and note what was not."""
        counts = self.counts()
        if self._feed_exporter is not None:
            self.files, self.feeds = self._feed_exporter.in_run_folder(), self._feed_exporter.elsewhere()
            if not self._storage_problems:
                self._storage_problems = list(self._feed_exporter.losses(counts.written))
        if counts.quarantined:
            self.files.append(datapackage.File(self.spider.quarantine_path, RejectedRecord, counts.quarantined))
        gone = [file.path for file in self.files if not file.path.exists()]
        if gone:
            self._storage_problems = self._storage_problems or [f"{gone[0]} was deleted meanwhile"]
            self._finish_reason = "storage"
            self.files = [file for file in self.files if file.path not in gone]

    def _leave_out_what_is_half(self) -> None:
        """Where an endless run was stopped, leave out what it had not finished: a snapshot is whole or not there."""
        failed = self._storage_problems or self.spider.usage_error or self.spider.start_error
        if failed or self.spider.at_rest or not self.spider.endless:
            return
        try:
            self.checkpoints.cut_back(self.records_by_category)
        except (LedgerError, OSError) as error:
            self._storage_problems.append(str(error))

    def _note_last(self) -> None:
        """Note what is in the files now, so that neither a stop nor a crash from here on costs a request."""
        failed = self._exceptions.count or self._storage_problems or self.spider.usage_error or self.spider.start_error
        if failed or not self.counts().balance():
            return
        try:
            self.checkpoints.take_last()
        except (LedgerError, OSError) as error:
            self._storage_problems.append(str(error))

    def _describe(self, ending: Ending, verdict: Verdict) -> None:
        try:
            datapackage.write(self.spider.run_dir, self._descriptor(ending, verdict))
            self.checkpoints.finish(complete=verdict.complete, truncated=self.spider.truncated)
        except OSError as error:
            problem = f"{datapackage.FILE_NAME} cannot be written: {error.strerror}"
            self.verdict = Verdict(ExitCode.INCOMPLETE, problem, ended=False)
        except LedgerError as error:
            self.verdict = Verdict(ExitCode.INCOMPLETE, str(error))

    def _descriptor(self, ending: Ending, verdict: Verdict) -> dict[str, Any]:
        spider = self.spider
        counts = asdict(ending.counts)
        if spider.series is not None:
            counts |= zip(("new", "changed"), self.versions(), strict=True)
        descriptor: dict[str, Any] = {
            "name": f"parti-{spider.name}-{spider.run_id}".lower(),
            "title": f"{spider.collection.replace('_', ' ')} of parti.com",
            "created": timestamp_to_iso(time.time()),
            "spider": spider.name,
            "run_id": spider.run_id,
            "arguments": spider.arguments.given(),
            "window": spider.window_as_json(),
            "host": spider.base_url,
            "failovers": spider.failovers,
            "counts": counts,
            "unknown_fields": dict(sorted(spider.quality.unknown.items())),
            "unreadable_fields": dict(sorted(spider.quality.unreadable.items())),
            "complete": verdict.complete,
            "degraded": ending.degraded,
            "truncated": spider.truncated,
            "reason": verdict.reason,
            "resources": [datapackage.describe(file) for file in (*self.files, *spider.other_files())],
            **spider.description(),
        }
        if self.feeds:
            descriptor["feeds"] = [asdict(feed) for feed in self.feeds]
        return descriptor

    def _remove_folders(self) -> None:
        """Remove the run's folder, and those above it, where the run made them and nobody else uses them."""
        for folder in self._made_folders:
            if folder == self.spider.run_dir:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    folder.rmdir()


class LoggedExceptions(logging.Handler):
    """Counts the exceptions that Scrapy logs and then goes on, whatever the log level is.

    Nothing else tells of those in signal handlers and of pipelines that cannot be closed.
    """

    _LOGGERS = ("scrapy.core.engine", "scrapy.core.scraper", "scrapy.utils.signal")

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.count = 0
        for name in self._LOGGERS:
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.count += bool(record.exc_info)

    def close(self) -> None:
        for name in self._LOGGERS:
            logging.getLogger(name).removeHandler(self)
        super().close()
