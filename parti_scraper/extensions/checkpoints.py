"""How a run survives its process: the lock on its folder, its checkpoints in the ledger, and how it resumes."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from parti_scraper.api.times import iso_to_timestamp
from parti_scraper.exceptions import UsageError
from parti_scraper.extensions.worker import Worker
from parti_scraper.feeds.disk import FlushedFiles
from parti_scraper.feeds.exporter import FeedExporter
from parti_scraper.feeds.pipelines import KEYS, QuarantinePipeline, VersionsPipeline
from parti_scraper.ledger.ledger import Checkpoint, RunRecord
from parti_scraper.ledger.locks import Lock
from parti_scraper.run import recovery
from parti_scraper.run.datapackage import FILE_NAME
from parti_scraper.run.days import day_of
from parti_scraper.wording import number_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scrapy.crawler import Crawler

    from parti_scraper.ledger.ledger import Ledger, RunEnd
    from parti_scraper.run.datapackage import File
    from parti_scraper.run.days import Day
    from parti_scraper.run.description import DayPackage
    from parti_scraper.spiders.base import PartiSpider

logger = logging.getLogger(__name__)


class Checkpoints:
    """Takes the checkpoints of a run, and resumes a stopped one from the last of them.

    Only a run whose records are in its own folder can resume; with feeds elsewhere, it starts over.

    Writing to the disk takes long, so a thread does it while more pages come. A checkpoint notes the state when it was
    taken: the files hold at least so much, and are cut to it when the run resumes.
    """

    def __init__(
        self,
        crawler: Crawler,
        spider: PartiSpider,
        failed: Callable[[BaseException], None],
        describe_day: Callable[[Day, list[File]], DayPackage],
    ) -> None:
        """Prepare to note how far a run has come.

        Args:
            crawler: Scrapy's.
            spider: whose run it is.
            failed: is called with what went wrong where a checkpoint could not be brought to the disk, at once; it is
                raised too, see `noted` and `settle`.
            describe_day: returns the data package of a day that is over; it is given the files of such days.
        """
        self.crawler = crawler
        self.spider = spider
        self.run = spider.run
        self._locks: list[Lock] = []
        # The run's id in the ledger.
        self._id = 0
        # Records by category at the last checkpoint.
        self._noted_categories: Counter[str] = self.run.tally.categories
        self._worker = Worker(failed)
        # The ledger as the thread has it.
        self._ledger: Ledger | None = None
        self._describe_day = describe_day
        # Days whose data packages are being written.
        self._describing: list[Day] = []

    def lock(self) -> None:
        """Keep other processes from the run, and from the series that it belongs to. Raises UsageError."""
        run = self.run
        paths = [(run.folder.path, False)]
        if run.series is not None:
            paths.append((run.ledger.path.with_name(f"series-{run.series.id}.lock"), True))
        for path, make in paths:
            lock = Lock.take(path, make=make)
            if lock is None:
                what = "an incremental run with the same filters" if make else f"the run `{run.identity.run_id}`"
                raise UsageError(f"another process is working on {what}: wait until it has ended, or stop it")
            self._locks.append(lock)

    def release(self) -> None:
        self._worker.close()
        while self._locks:
            self._locks.pop().release()
        for ledger in (self._ledger, self.run.ledger):
            if ledger is not None:
                ledger.close()

    def begin(self) -> None:
        """Resume the run if it was stopped, or note a new one and clear its folder of the files that a run writes.

        Raises:
            UsageError: records would be lost.
            LedgerError: it cannot be noted.
            OSError: its files cannot be prepared.
        """
        run = self.run
        self._ledger = run.ledger.again()
        noted = None if run.previous is None else run.ledger.last_checkpoint(run.previous.id)
        folder = run.folder.path
        reopened = recovery.reopened(folder, _described(noted))
        files = self._files(noted, frozenset(map(recovery.day_in, reopened)))
        files_noted = None if noted is None else noted.files | reopened
        found = recovery.look(folder, files, files_noted)
        sealed = recovery.sealed_packages(folder, files, found)
        plan = recovery.plan(files, {name: each for name, each in found.items() if name not in sealed}, files_noted)
        if noted is not None and isinstance(plan, recovery.Resume):
            self._id = run.previous.id if run.previous else 0
            run.ledger.resume(self._id)
            recovery.carry_out(folder, [*recovery.unseal(sealed), *plan.steps])
            self._resume(noted, plan, files)
            return
        assert isinstance(plan, recovery.StartOver)  # noqa: S101 - there is no checkpoint
        if plan.loses_records:
            problem = "its folder holds records that cannot be fetched again, and it cannot resume with these options"
            raise UsageError.of("argument", "run_id", problem, run.identity.run_id, "another name")
        if plan.obstacle is recovery.Obstacle.FILES_CHANGED:
            logger.warning("The files of the run %s are not as they were left; it starts over", run.identity.run_id)
        if run.previous is None:
            self._id = run.ledger.begin(self._record())
        else:
            self._id = run.previous.id
            run.ledger.resume(self._id)
            run.ledger.forget_progress(self._id)
        recovery.carry_out(folder, [*recovery.unseal(sealed), *plan.steps])

    def take(self) -> None:
        """Start a checkpoint, which a thread brings to the disk; the one before must be noted. Raises OSError."""
        exporter = self._exporter
        if exporter is None:
            return
        self.run.count_day(time.time())
        day = self.run.folder.day
        if not exporter.is_all_in_run_folder:
            exporter.flush()
            self._worker.begin(partial(self._bring_to_disk, self._flush(), None, self._packages(), day))
            return
        flushed = self._flush(exporter)
        self._noted_categories = self.run.tally.categories
        packages = self._packages()
        self._worker.begin(partial(self._bring_to_disk, flushed, self._checkpoint(flushed.sizes), packages, day))

    async def noted(self) -> None:
        """Wait until the last checkpoint is noted. Raises LedgerError, OSError: it cannot be."""
        await self._worker.join()
        self._settle_days()

    def settle(self) -> None:
        """Block until the last checkpoint is noted. Raises LedgerError, OSError: it cannot be."""
        self._worker.settle()
        self._settle_days()

    def take_last(self) -> None:
        """Note what is in the files, which are closed. Raises LedgerError, OSError."""
        exporter = self._exporter
        if not self.spider.can_checkpoint:
            return
        self.run.count_day(time.time())
        if exporter is not None and exporter.is_all_in_run_folder:
            name_of = self.run.folder.name_of
            files = {name_of(file.path): (file.path.stat().st_size, file.rows) for file in exporter.in_run_folder()}
            flushed = self._flush()
            flushed.sync()
            self._note(files | flushed.sizes)
        elif self.run.series is not None:
            # It cannot resume, but the next run needs the versions that were written.
            self._note({})

    def roll_back(self) -> None:
        """Remove what came since the last checkpoint, once the files are closed. Raises LedgerError, OSError."""
        noted = self.run.ledger.last_checkpoint(self._id)
        if noted is None:
            return
        assert self._exporter is not None  # noqa: S101 - or there would be none
        flushed = self._flush(self._exporter)
        flushed.sync()
        files = self._files(noted)
        recovery.carry_out(self.run.folder.path, recovery.roll_back(flushed.sizes, noted.files, files))
        self._restore_counts(noted, self._noted_categories)
        self.run.restore_days(noted.progress)
        self.run.reasons.restore(noted.progress.get("reasons", {}))
        self._exporter.restore_rows({name: rows for name, (_, rows) in noted.files.items() if files.is_feed(name)})
        self._restore_quarantine(files, noted)

    @property
    def has_begun(self) -> bool:
        """Whether the ledger has the run."""
        return bool(self._id)

    def finish(self, end: RunEnd, *, complete: bool, truncated: bool) -> None:
        """Note that the run has ended. Raises LedgerError."""
        self.run.ledger.finish(self._id, end, complete=complete, truncated=truncated)

    def stop(self, end: RunEnd) -> None:
        """Note how the run was stopped. Raises LedgerError."""
        if self._id:
            self.run.ledger.stop(self._id, end)

    def forget(self) -> None:
        """Forget that the run was begun, of which nothing is left. Raises LedgerError."""
        if self._id:
            self.run.ledger.forget(self._id)
            self._id = 0

    @property
    def _exporter(self) -> FeedExporter | None:
        return self.crawler.get_extension(FeedExporter)

    def _files(self, noted: Checkpoint | None, reopened: frozenset[str] = frozenset()) -> recovery.RunFiles:
        folder, exporter = self.run.folder, self._exporter
        is_resumable = exporter is not None and exporter.is_all_in_run_folder
        return recovery.RunFiles(
            folder.collection,
            can_refetch=self.spider.can_refetch,
            by_day=self.run.days is not None,
            feeds=frozenset(exporter.names_in_run_folder()) if exporter and is_resumable else None,
            described=_described(noted) - reopened,
            reopened=reopened,
        )

    def _record(self) -> RunRecord:
        run, identity = self.run, self.run.identity
        return RunRecord(
            str(run.folder.path.absolute()),
            identity.spider,
            identity.run_id,
            identity.raw_arguments,
            identity.started_at,
            run.window,
            None if run.series is None else run.series.id,
            None if run.series is None else run.series.next_since,
            None if run.series is None else run.series.versions_since,
            run_uuid=identity.run_uuid,
            host=run.hosts.current,
        )

    def _flush(self, exporter: FeedExporter | None = None) -> FlushedFiles:
        """Hand the records to the system, those that were set aside too. Raises OSError."""
        flushed = FlushedFiles()
        try:
            for each in (exporter, self.crawler.get_item_pipeline(QuarantinePipeline)):
                if each is not None:
                    each.flush_into(flushed)
        except OSError:
            flushed.close()
            raise
        return flushed

    def _bring_to_disk(
        self, flushed: FlushedFiles, checkpoint: Checkpoint | None, packages: list[DayPackage], day: str
    ) -> None:
        """Bring the records to the disk, then note that they are there, then describe days: in the thread."""
        assert self._ledger is not None  # noqa: S101 - `begin`
        flushed.sync()
        if checkpoint is not None:
            self._ledger.checkpoint(self._id, checkpoint)
        if self.run.days is not None:
            # Of a day that has been reopened, which is known now.
            (self.run.folder.path / day / FILE_NAME).unlink(missing_ok=True)
        for package in packages:
            package.write()

    def _packages(self) -> list[DayPackage]:
        """Return the data packages of the days that are over, to be written."""
        run, exporter = self.run, self._exporter
        if run.days is None or exporter is None:
            return []
        quarantine = self.crawler.get_item_pipeline(QuarantinePipeline)
        files = [*exporter.earlier(), *(quarantine.files() if quarantine else [])]
        self._describing = list(run.days.over)
        return [self._describe_day(day, files) for day in self._describing]

    def _settle_days(self) -> None:
        """Forget the files of days that have a data package now."""
        described, self._describing = self._describing, []
        for day in described:
            assert self.run.days is not None  # noqa: S101 - or there would be none
            if day not in self.run.days.over:
                # The clock was set back meanwhile.
                (self.run.folder.path / day.name / FILE_NAME).unlink(missing_ok=True)
                continue
            self.run.days.has_described(day)
            for each in (self._exporter, self.crawler.get_item_pipeline(QuarantinePipeline)):
                if each is not None:
                    each.settle(day.name)

    def _note(self, files: dict[str, tuple[int, int]]) -> None:
        self.run.ledger.checkpoint(self._id, self._checkpoint(files))

    def _checkpoint(self, files: dict[str, tuple[int, int]]) -> Checkpoint:
        versions = self.crawler.get_item_pipeline(VersionsPipeline)
        return Checkpoint(
            # A copy, since the run continues while the thread notes it.
            json.loads(json.dumps(self.spider.progress())),
            self.run.tally.as_json(),
            files,
            self.run.hosts.current,
            self.spider.drain_rejected(),
            versions.drain_written() if versions else [],
        )

    def _resume(self, noted: Checkpoint, plan: recovery.Resume, files: recovery.RunFiles) -> None:
        run = self.run
        categories = Counter[str]()
        for row in recovery.rows_before(run.folder.path, plan, self._days_before(noted)):
            item = run.folder.item_class(**row)
            run.seen.add(item.identity)
            categories[category_of(item)] += 1
        # The rows of days that are over were not read.
        categories = Counter(noted.progress.get("categories", categories))
        self._restore_counts(noted, categories)
        self._noted_categories = categories
        run.folder.resume()
        run.rejected.restore(noted.rejected)
        self.spider.restore(noted.progress)
        assert self._exporter is not None  # noqa: S101 - or it could not resume
        self._exporter.resume(plan.rows)
        self._restore_quarantine(files, noted, plan.quarantined)
        if not self.spider.can_refetch:
            self._bring_back(self._exporter, plan, noted)
        run.limit.restore(run.tally.written)
        written = noted.counts["written"] + len(plan.tail)
        logger.info("The run %s resumes after %s", run.identity.run_id, number_of(written, "records"))

    def _bring_back(self, exporter: FeedExporter, plan: recovery.Resume, noted: Checkpoint) -> None:
        """Write and count again what came after the checkpoint and cannot be fetched again."""
        run = self.run
        quarantined = sum(plan.quarantined.values())
        for name in plan.quarantined:
            size, _ = noted.files.get(name, (0, 0))
            for line in recovery.tail(run.folder.path / name, size).splitlines():
                run.reasons.add(json.loads(line)["reason"])
        run.tally.add("served", quarantined)
        run.tally.add("quarantined", quarantined)
        for row in plan.tail:
            item = run.folder.item_class(**row)
            if item.identity in run.seen:
                continue
            run.seen.add(item.identity)
            run.enter_day(iso_to_timestamp(row["received_at"]))
            run.tally.add("served")
            run.tally.wrote((category_of(item),))
            exporter.item_scraped(item, self.spider)
        self._publish()
        self.take()
        self.settle()
        recovery.forget_tail(run.folder.path)

    def _restore_counts(self, noted: Checkpoint, categories: Counter[str]) -> None:
        self.run.tally.restore(noted.counts, categories)
        self._publish()

    def _restore_quarantine(
        self, files: recovery.RunFiles, noted: Checkpoint, since: Mapping[str, int] | None = None
    ) -> None:
        """Set how many records each file of those set aside holds: at the checkpoint, and those found since."""
        if (quarantine := self.crawler.get_item_pipeline(QuarantinePipeline)) is not None:
            rows = Counter({name: rows for name, (_, rows) in noted.files.items() if files.is_quarantine(name)})
            quarantine.restore_rows(rows + Counter(since or {}))

    def _days_before(self, noted: Checkpoint) -> list[str]:
        """Return the days with a data package whose records are to be remembered."""
        oldest = day_of(time.time() - self.spider.remembered)
        return sorted(day for day in _described(noted) if day >= oldest)

    def _publish(self) -> None:
        """Set the stats, which Scrapy counts from the start of the process, to the run's."""
        tally, stats = self.run.tally, self.crawler.stats
        stats.set_value("item_scraped_count", tally.written)
        stats.set_value("item_dropped_count", tally.dropped + sum(tally[key] for key in KEYS.values()))
        for reason, key in KEYS.items():
            stats.set_value(f"item_dropped_reasons_count/{reason.__name__}", tally[key])
        stats.set_value("parti/incremental/new", tally.new)
        stats.set_value("parti/incremental/changed", tally.changed)
        stats.set_value("parti/spider/pages", tally.pages)
        stats.set_value("parti/spider/served", tally.served)


def _described(noted: Checkpoint | None) -> frozenset[str]:
    return frozenset(noted.progress.get("days", {}).get("described", ()) if noted else ())


def category_of(item: Any) -> str:
    """Return the name under which a record is counted in the summary."""
    return getattr(item, "category_name", None) or getattr(item, "name", None) or "(no name)"
