"""The run's folder, the verdict on the run, and the data package that is written last."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, Self

from scrapy import signals
from scrapy.exceptions import CloseSpider, NotConfigured

from parti_scraper.api.quality import parse_expect_absent, parse_max_rejected, too_many_set_aside
from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.exceptions import LedgerError, UsageError
from parti_scraper.extensions.checkpoints import Checkpoints, category_of
from parti_scraper.feeds.exporter import FeedExporter
from parti_scraper.feeds.pipelines import KEYS
from parti_scraper.items import RejectedRecord
from parti_scraper.run import datapackage
from parti_scraper.run.description import describe_run
from parti_scraper.run.outcome import Ending, ExitCode, Verdict, judge, judge_fields
from parti_scraper.run.problems import LoggedExceptions
from parti_scraper.scrapy_internals import close_spider
from parti_scraper.signals import checkpoint, items_dropped, items_scraped, send_storage_failed, storage_failed
from parti_scraper.spiders.base import PartiSpider

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence
    from pathlib import Path

    from scrapy.crawler import Crawler
    from scrapy.exceptions import DropItem

    from parti_scraper.items import Item


class RunRecorder:
    """Makes the run's folder, counts its records, and when the feeds are stored judges the run and describes its files.

    Its public methods are the handlers of the signals of a run, one each.

    Attributes:
        verdict: how the run ended; None until it has.
        finished_before: the data package, where the run that was named had finished before, so that nothing was done.
        files: what it left in its folder.
        feeds: what the user had stored elsewhere.
    """

    def __init__(self, crawler: Crawler, spider: PartiSpider) -> None:
        settings = crawler.settings
        self.crawler = crawler
        self.spider = spider
        self.run = spider.run
        self.verdict: Verdict | None = None
        self.finished_before: dict[str, Any] | None = None
        self.files: list[datapackage.File] = []
        self.feeds: list[datapackage.Feed] = []
        # Of these, what is on this machine, whole and described like the files.
        self._files_elsewhere: list[datapackage.File] = []
        self._expect_absent = parse_expect_absent(settings["PARTI_EXPECT_ABSENT"])
        self._max_rejected = parse_max_rejected(settings["PARTI_MAX_REJECTED"])
        self._checkpoints = Checkpoints(crawler, spider, self._cannot_note)
        self._made_folders: list[Path] = []
        self._exceptions = LoggedExceptions()
        self._finish_reason = ""

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        # `scrapy shell` has no spider yet.
        if not isinstance(crawler.spider, PartiSpider) or not crawler.spider.is_run():
            raise NotConfigured
        recorder = cls(crawler, crawler.spider)
        connect = crawler.signals.connect
        connect(recorder.spider_opened, signals.spider_opened)
        connect(recorder.item_scraped, signals.item_scraped)
        connect(recorder.items_scraped, items_scraped)
        connect(recorder.item_dropped, signals.item_dropped)
        connect(recorder.items_dropped, items_dropped)
        connect(recorder.checkpoint, checkpoint)
        connect(recorder.storage_failed, storage_failed)
        connect(recorder.spider_closed, signals.spider_closed)
        connect(recorder.feed_exporter_closed, signals.feed_exporter_closed)
        return recorder

    def spider_opened(self) -> None:
        """Make the folder and begin; close the spider before anything is requested where that cannot be."""
        folder = self.run.folder.path
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
            self._checkpoints.lock()
            self._check_finished()  # By another process, meanwhile.
            self._checkpoints.begin()
        except UsageError as error:
            self.run.problems.refuse(str(error))
            self._close_at_once("usage_error")
        except LedgerError as error:
            self._cannot_store(str(error))
        except OSError as error:
            self._cannot_store(f"{error.filename} cannot be written: {error.strerror}")

    def _check_finished(self) -> None:
        self.finished_before = datapackage.read(self.run.folder.path)
        if self.finished_before:
            self._close_at_once("finished_before")

    async def checkpoint(self) -> None:
        """Note how far the run has come, unless something went wrong: then the checkpoint before stands.

        Pages go on while it is brought to the disk, but for records that cannot be asked for again.
        """
        try:
            await self._checkpoints.noted()
            if self._exceptions.count or self.run.problems.storage or not self.run.tally.balances():
                return
            self._checkpoints.take()
            if not self.spider.can_refetch:
                await self._checkpoints.noted()
        except (LedgerError, OSError) as error:
            self._cannot_note(error)

    def item_scraped(self, item: Item) -> None:
        self.run.tally.wrote((category_of(item),))

    def items_scraped(self, items: Sequence[Item]) -> None:
        self.run.tally.wrote(map(category_of, items))

    def item_dropped(self, exception: BaseException) -> None:
        self.run.tally.add(key_of(type(exception)))

    def items_dropped(self, reasons: Counter[type[DropItem]]) -> None:
        for reason, number in reasons.items():
            self.run.tally.add(key_of(reason), number)

    def storage_failed(self, problem: str) -> None:
        """Stop the run: what follows would be lost too. The first problem is the cause of the others."""
        if not self.run.problems.storage:
            self.run.problems.note_storage(problem)
            # Also where the spider came to its end: its files are not whole.
            self._finish_reason = "storage"
            close_spider(self.crawler, "storage")

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
            self._settle()
            self._leave_out_what_is_half()
            self._take_stock()
            self._note_last()
            ending = self._ending()
            self.verdict = judge(ending)
            if self.verdict.exit_code is ExitCode.INCOMPLETE and not self.spider.made_progress:
                # An outage must not end what another try can finish.
                self.verdict = replace(self.verdict, ended=False)
            if self.verdict.exit_code in {ExitCode.USAGE, ExitCode.NOT_STARTED}:
                self._remove_folders()
            elif self.verdict.ended:
                self._describe(ending, self.verdict)
        self._checkpoints.release()
        self._exceptions.close()
        self.crawler.stats.set_value("parti/run/exit_code", int(self.verdict.exit_code))

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

    def _cannot_note(self, error: BaseException) -> None:
        """Stop the run where a checkpoint failed; other exceptions are raised to whoever waits for it, and counted."""
        if isinstance(error, LedgerError):
            self.storage_failed(str(error))
        elif isinstance(error, OSError):
            send_storage_failed(self.crawler, "a record", error)

    def _settle(self) -> None:
        """Wait for a checkpoint that is under way: nothing more is written, and the disk is all there is to do."""
        try:
            self._checkpoints.settle()
        except (LedgerError, OSError) as error:
            self._cannot_note(error)

    def _cannot_store(self, problem: str) -> NoReturn:
        self.run.problems.note_storage(problem)
        self._close_at_once("storage")

    def _close_at_once(self, reason: str) -> NoReturn:
        if self._feed_exporter is not None:
            # Or empty files would be stored, over the records of a finished run.
            self._feed_exporter.discard()
        raise CloseSpider(reason)

    def _ending(self) -> Ending:
        problems, quality, counts = self.run.problems, self.run.quality, self.run.counts()
        return Ending(
            finish_reason=self._finish_reason,
            counts=counts,
            until_stopped=self.spider.until_stopped,
            usage_error=problems.usage_error,
            start_error=problems.start_error,
            exceptions=self._exceptions.count,
            gaps=problems.gaps,
            storage=problems.storage,
            mixed=self.run.source.mixed,
            set_aside=too_many_set_aside(counts.quarantined, quality.readable, self._max_rejected),
            degraded=quality.flaws(self._expect_absent),
        )

    def _take_stock(self) -> None:
        """List what was stored, and note what was not."""
        problems, tally = self.run.problems, self.run.tally
        if self._feed_exporter is not None:
            self.files, self.feeds = self._feed_exporter.in_run_folder(), self._feed_exporter.elsewhere()
            self._files_elsewhere = self._feed_exporter.files_elsewhere()
            if not problems.storage:
                for loss in self._feed_exporter.losses(tally.written):
                    problems.note_storage(loss)
        if tally.quarantined:
            self.files.append(datapackage.File(self.run.folder.quarantine, RejectedRecord, tally.quarantined))
        gone = [file.path for file in self.files if not file.path.exists()]
        if gone:
            if not problems.storage:
                problems.note_storage(f"{gone[0]} was deleted meanwhile")
            self._finish_reason = "storage"
            self.files = [file for file in self.files if file.path not in gone]

    def _leave_out_what_is_half(self) -> None:
        """Leave out what a run without end had not finished when it was stopped: a snapshot is whole or not there."""
        failed = self.run.problems.storage or self.run.problems.keeps_nothing
        if failed or self.spider.can_checkpoint or not self.spider.until_stopped:
            return
        try:
            self._checkpoints.roll_back()
        except (LedgerError, OSError) as error:
            self.run.problems.note_storage(str(error))

    def _note_last(self) -> None:
        """Note what is in the files now, so that neither a stop nor a crash from here on costs a request."""
        failed = self._exceptions.count or self.run.problems.storage or self.run.problems.keeps_nothing
        if failed or not self.run.tally.balances():
            return
        try:
            self._checkpoints.take_last()
        except (LedgerError, OSError) as error:
            self.run.problems.note_storage(str(error))

    def _describe(self, ending: Ending, verdict: Verdict) -> None:
        try:
            files = [*self.files, *self.spider.other_files(), *self._files_elsewhere]
            now = timestamp_to_iso(time.time())
            descriptor = describe_run(self.run, ending, verdict, files, self.feeds, created=now)
            datapackage.write(self.run.folder.path, descriptor | self.spider.description())
            self._checkpoints.finish(complete=verdict.complete, truncated=self.run.limit.is_reached)
        except OSError as error:
            problem = f"{datapackage.FILE_NAME} cannot be written: {error.strerror}"
            self.verdict = Verdict(ExitCode.INCOMPLETE, problem, ended=False)
        except LedgerError as error:
            self.verdict = Verdict(ExitCode.INCOMPLETE, str(error))

    def _remove_folders(self) -> None:
        """Remove the run's folder, and those above it, where the run made them and nobody else uses them."""
        for folder in self._made_folders:
            if folder == self.run.folder.path:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def key_of(reason: type[BaseException]) -> str:
    """Return under which key of the tally a record counts that was dropped for a reason."""
    return next((key for kind, key in KEYS.items() if issubclass(reason, kind)), "dropped")
