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
from parti_scraper.exceptions import LedgerError, UsageError
from parti_scraper.extensions.checkpoints import Checkpoints, category_of
from parti_scraper.feeds.exporter import FeedExporter
from parti_scraper.feeds.pipelines import KEYS, QuarantinePipeline
from parti_scraper.ledger.ledger import RunEnd
from parti_scraper.run import datapackage
from parti_scraper.run.description import DayPackage, describe_day, describe_run
from parti_scraper.run.news import run_before
from parti_scraper.run.outcome import COUNTED, Counts, Ending, ExitCode, Verdict, judge, judge_fields
from parti_scraper.run.previous import check_not_pruned
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
    from parti_scraper.run.days import Day
    from parti_scraper.run.entries import Entry


class RunRecorder:
    """Makes the run's folder, counts its records, and when the feeds are stored judges the run and describes its files.

    Attributes:
        verdict: how the run ended; None until it has.
        finished_before: the data package of a run that had finished before, so that nothing was done.
        files: the files in its folder.
        feeds: the feeds outside of it.
        before: the run that its fields are compared with, see `run_before`.
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
        self.before: Entry | None = None
        # Of these, what is on this machine, whole and described like the files.
        self._files_elsewhere: list[datapackage.File] = []
        self._expect_absent = parse_expect_absent(settings["PARTI_EXPECT_ABSENT"])
        self._max_rejected = parse_max_rejected(settings["PARTI_MAX_REJECTED"])
        self._checkpoints = Checkpoints(crawler, spider, self._cannot_note, self._day_package)
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
        connect(recorder.conclude, signals.feed_exporter_closed)
        return recorder

    def spider_opened(self) -> None:
        """Make the folder and begin; where that fails, close the spider before anything is requested."""
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
            self._check_finished()  # Perhaps by another process, before the lock.
            self._checkpoints.begin()
        except UsageError as error:
            self.run.problems.refuse(str(error))
            self._close_at_once("usage_error")
        except LedgerError as error:
            self._cannot_store(str(error))
        except OSError as error:
            self._cannot_store(f"{error.filename} cannot be written: {error.strerror}")

    def _check_finished(self) -> None:
        try:
            check_not_pruned(self.run.folder.path)
            self.finished_before = datapackage.read_finished(self.run.folder.path)
        except UsageError as error:
            self.run.problems.refuse(str(error))
            self._close_at_once("usage_error")
        if self.finished_before:
            self._close_at_once("finished_before")

    async def checkpoint(self) -> None:
        """Take a checkpoint, unless something went wrong: then the one before stays the last.

        More pages come while it is brought to the disk, unless its records cannot be fetched again.
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
        """Stop the run, since later records would be lost too. The first problem causes the others."""
        if not self.run.problems.storage:
            self.run.problems.note_storage(problem)
            # Also where the spider has ended: its files are not whole.
            self._finish_reason = "storage"
            close_spider(self.crawler, "storage")

    def spider_closed(self, reason: str) -> None:
        """Remember the reason; without feeds, conclude."""
        self._finish_reason = self._finish_reason or reason
        if self._feed_exporter is None:
            self.conclude()

    def conclude(self) -> None:
        """Judge the run, and describe its files if it ended; the files are on disk."""
        if self.finished_before:
            package = self.finished_before
            self.verdict = Verdict(ExitCode.INCOMPLETE, package.get("reason"))
            if package.get("complete"):
                self.verdict = judge_fields(package.get("degraded", []))
        else:
            self._settle()
            self._remove_unfinished_snapshot()
            self._take_stock()
            self._note_last()
            ending = self._ending()
            self.verdict = judge(ending)
            # It is not among the complete ones yet.
            self.before = run_before(self.run)
            if self.verdict.exit_code is ExitCode.INCOMPLETE and not self.spider.made_progress:
                # An outage must not end a run that can still be finished.
                self.verdict = replace(self.verdict, ended=False)
            if self.verdict.exit_code in {ExitCode.USAGE, ExitCode.NOT_STARTED}:
                self._remove_folders()
            elif self.verdict.ended:
                self._describe(ending, self.verdict)
            if not self.verdict.ended:
                self._note_stop(self.verdict)
        self._checkpoints.release()
        self._exceptions.close()
        self.crawler.stats.set_value("parti/run/exit_code", int(self.verdict.exit_code))

    @property
    def left_no_trace(self) -> bool:
        """Whether the run could not begin, so that nothing on disk says how it ended."""
        return not self.finished_before and not self._checkpoints.has_begun

    def stopped_at_once(self) -> None:
        """Note that nothing was waited for when the run was stopped."""
        self._note_stop(Verdict(ExitCode.STOPPED, "stopped at once", ended=False))

    @property
    def _feed_exporter(self) -> FeedExporter | None:
        return self.crawler.get_extension(FeedExporter)

    def _check_feeds(self) -> None:
        """Close the spider if a feed certainly cannot be stored."""
        if self._feed_exporter is not None:
            for obstacle in self._feed_exporter.obstacles():
                self._cannot_store(obstacle)
        elif self.crawler.settings["FEEDS"]:
            # One feed that cannot be set up disables all of them, and Scrapy continues without.
            self._cannot_store("the feeds could not be set up, see the log")

    def _cannot_note(self, error: BaseException) -> None:
        """Stop the run where a checkpoint failed; other exceptions are raised where it is waited for, and counted."""
        if isinstance(error, LedgerError):
            self.storage_failed(str(error))
        elif isinstance(error, OSError):
            send_storage_failed(self.crawler, "a record", error)

    def _settle(self) -> None:
        """Block until a checkpoint under way is noted; nothing else is left to do."""
        try:
            self._checkpoints.settle()
        except (LedgerError, OSError) as error:
            self._cannot_note(error)

    def _cannot_store(self, problem: str) -> NoReturn:
        self.run.problems.note_storage(problem)
        self._close_at_once("storage")

    def _close_at_once(self, reason: str) -> NoReturn:
        if self._feed_exporter is not None:
            # Or empty files would replace the records of a finished run.
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
        """List what was stored, and note losses."""
        problems, tally = self.run.problems, self.run.tally
        if self._feed_exporter is not None:
            self.files, self.feeds = self._feed_exporter.in_run_folder(), self._feed_exporter.elsewhere()
            self._files_elsewhere = self._feed_exporter.files_elsewhere()
            if not problems.storage:
                for loss in self._feed_exporter.losses(tally.written):
                    problems.note_storage(loss)
        if (quarantine := self.crawler.get_item_pipeline(QuarantinePipeline)) is not None:
            self.files += quarantine.files()
        gone = [file.path for file in self.files if not file.path.exists()]
        if gone:
            if not problems.storage:
                problems.note_storage(f"{gone[0]} was deleted during the run")
            self._finish_reason = "storage"
            self.files = [file for file in self.files if file.path not in gone]

    def _remove_unfinished_snapshot(self) -> None:
        """Remove the unfinished snapshot of a run without end: a snapshot is stored whole or not at all."""
        failed = self.run.problems.storage or self.run.problems.keeps_nothing
        if failed or self.spider.can_checkpoint or not self.spider.until_stopped:
            return
        try:
            self._checkpoints.roll_back()
        except (LedgerError, OSError) as error:
            self.run.problems.note_storage(str(error))

    def _note_last(self) -> None:
        """Take the last checkpoint, so that neither a stop nor a crash from here on costs a request."""
        failed = self._exceptions.count or self.run.problems.storage or self.run.problems.keeps_nothing
        if failed or not self.run.tally.balances():
            return
        try:
            self._checkpoints.take_last()
        except (LedgerError, OSError) as error:
            self.run.problems.note_storage(str(error))

    def _describe(self, ending: Ending, verdict: Verdict) -> None:
        try:
            end = _end_of(verdict)
            self._describe_days(end.ended_at)
            folder = self.run.folder.path
            files = [file for file in self.files if file.path.parent == folder]
            files += [*self.spider.other_files(), *self._files_elsewhere]
            descriptor = describe_run(self.run, ending, verdict, files, self.feeds, ended_at=end.ended_at)
            if self.run.days is None:
                descriptor |= self._observed(self.run.observations)
            datapackage.write(folder, descriptor | self.spider.description())
            self._checkpoints.finish(end, complete=verdict.complete, truncated=self.run.limit.is_reached)
        except OSError as error:
            problem = f"{datapackage.FILE_NAME} cannot be written: {error.strerror}"
            self.verdict = Verdict(ExitCode.INCOMPLETE, problem, ended=False)
        except LedgerError as error:
            self.verdict = Verdict(ExitCode.INCOMPLETE, str(error))

    def _describe_days(self, now: float) -> None:
        """Write the data packages of the days that have none. Raises OSError."""
        if self.run.days is None:
            return
        self.run.count_day(now)
        for day in (*self.run.days.over, self.run.days.current):
            self._day_package(day, self.files).write()

    def _day_package(self, day: Day, files: list[datapackage.File]) -> DayPackage:
        """Judge a day as a run that ended, and return its data package."""
        counts = Counts(**{name: day.counts[name] for name in COUNTED}, unknown_fields=len(day.quality.unknown))
        ending = Ending(
            finish_reason="finished",
            counts=counts,
            gaps=day.gaps,
            set_aside=too_many_set_aside(counts.quarantined, day.quality.readable, self._max_rejected),
            degraded=sorted({*day.degraded, *day.quality.flaws(self._expect_absent)}),
        )
        package = describe_day(self.run, day, ending, judge(ending), files)
        package.descriptor.update(self._observed(day.observations))
        return package

    def _observed(self, observations: list[dict[str, Any]]) -> dict[str, Any]:
        return {self.spider.observed: observations} if self.spider.observed else {}

    def _note_stop(self, verdict: Verdict) -> None:
        """Note how the run ended, which may go on later; a run whose folder was removed again never began."""
        has_not_begun = verdict.exit_code in {ExitCode.USAGE, ExitCode.NOT_STARTED}
        # Where the ledger cannot be written, the verdict says what went wrong before.
        with contextlib.suppress(LedgerError):
            if has_not_begun and not self.run.folder.path.exists():
                self._checkpoints.forget()
            else:
                self._checkpoints.stop(_end_of(verdict))

    def _remove_folders(self) -> None:
        """Remove the folders that the run made: its own, and those above that are empty."""
        for folder in self._made_folders:
            if folder == self.run.folder.path:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _end_of(verdict: Verdict) -> RunEnd:
    return RunEnd(time.time(), int(verdict.exit_code), verdict.reason)


def key_of(reason: type[BaseException]) -> str:
    """Return the key of the tally for records that were dropped for a reason."""
    return next((key for kind, key in KEYS.items() if issubclass(reason, kind)), "dropped")
