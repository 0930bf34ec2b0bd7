"""What makes a run survive its process: the lock on its folder, its notes in the ledger, and going on from them."""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from parti_scraper.exceptions import UsageError
from parti_scraper.extensions.worker import Worker
from parti_scraper.feeds.disk import FlushedFiles
from parti_scraper.feeds.exporter import FeedExporter
from parti_scraper.feeds.pipelines import KEYS, QuarantinePipeline, VersionsPipeline
from parti_scraper.ledger.ledger import Checkpoint, RunRecord
from parti_scraper.ledger.locks import Lock
from parti_scraper.run import recovery

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from scrapy.crawler import Crawler

    from parti_scraper.ledger.ledger import Ledger, RunEnd
    from parti_scraper.spiders.base import PartiSpider

logger = logging.getLogger(__name__)


class Checkpoints:
    """Notes how far a run has come, and lets one that was stopped go on from there.

    Only records in the run's own folder can be gone on with; a run whose feeds are elsewhere begins from the start.

    The disk takes long, so it is waited for in a thread while pages go on. What is noted then is what was true when the
    checkpoint was taken: the files hold at least so much, and are cut to it where the run goes on from there.
    """

    def __init__(self, crawler: Crawler, spider: PartiSpider, failed: Callable[[BaseException], None]) -> None:
        """Prepare to note how far a run has come.

        Args:
            crawler: Scrapy's.
            spider: whose run it is.
            failed: is called with what went wrong where a checkpoint could not be brought to the disk, at once; it is
                raised too, see `noted` and `settle`.
        """
        self.crawler = crawler
        self.spider = spider
        self.run = spider.run
        self._locks: list[Lock] = []
        # Of the ledger.
        self._id = 0
        # Records by category at the last checkpoint.
        self._noted_categories: Counter[str] = self.run.tally.categories
        self._worker = Worker(failed)
        # The ledger as the thread has it.
        self._ledger: Ledger | None = None

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
                raise UsageError(f"another process is at work on {what}: wait until it has ended, or stop it")
            self._locks.append(lock)

    def release(self) -> None:
        self._worker.close()
        while self._locks:
            self._locks.pop().release()
        for ledger in (self._ledger, self.run.ledger):
            if ledger is not None:
                ledger.close()

    def begin(self) -> None:
        """Note the run, or go on with it where it was stopped; else its folder is emptied of what a run writes.

        Raises:
            UsageError: records would be lost.
            LedgerError: it cannot be noted.
            OSError: its files cannot be put right.
        """
        run = self.run
        self._ledger = run.ledger.again()
        noted = None if run.previous is None else run.ledger.last_checkpoint(run.previous.id)
        files = self._files()
        folder = run.folder.path
        files_noted = None if noted is None else noted.files
        plan = recovery.plan(files, recovery.look(folder, files, files_noted), files_noted)
        if noted is not None and isinstance(plan, recovery.GoOn):
            self._id = run.previous.id if run.previous else 0
            run.ledger.resume(self._id)
            recovery.carry_out(folder, plan.steps)
            self._go_on(noted, plan)
            return
        assert isinstance(plan, recovery.StartOver)  # noqa: S101 - there is nothing to go on from
        if plan.loses_records:
            problem = (
                "its folder holds records that cannot be had again, and it cannot go on with them as it was called"
            )
            raise UsageError.of("argument", "run_id", problem, run.identity.run_id, "another name")
        if plan.obstacle is recovery.Obstacle.FILES_CHANGED:
            logger.warning(
                "The files of the run %s are not as they were left; it begins from the start", run.identity.run_id
            )
        if run.previous is None:
            self._id = run.ledger.begin(self._record())
        else:
            self._id = run.previous.id
            run.ledger.resume(self._id)
            run.ledger.forget_progress(self._id)
        recovery.carry_out(folder, plan.steps)

    def take(self) -> None:
        """Begin to bring the records to the disk, then to note that they are there; the one before has to be noted.

        Raises:
            OSError: the records cannot be written.
        """
        exporter = self._exporter
        if exporter is None:
            return
        if not exporter.is_all_in_run_folder:
            exporter.flush()
            return
        flushed = self._flush(exporter)
        self._noted_categories = self.run.tally.categories
        self._worker.begin(partial(self._bring_to_disk, flushed, self._checkpoint(flushed.sizes)))

    async def noted(self) -> None:
        """Wait until the last checkpoint is noted. Raises LedgerError, OSError: it cannot be."""
        await self._worker.join()

    def settle(self) -> None:
        """Let everything wait until the last checkpoint is noted. Raises LedgerError, OSError: it cannot be."""
        self._worker.settle()

    def take_last(self) -> None:
        """Note what is in the files, which are closed. Raises LedgerError, OSError."""
        exporter = self._exporter
        if not self.spider.can_checkpoint:
            return
        if exporter is not None and exporter.is_all_in_run_folder:
            files = {file.path.name: (file.path.stat().st_size, file.rows) for file in exporter.in_run_folder()}
            flushed = self._flush()
            flushed.sync()
            self._note(files | flushed.sizes)
        elif self.run.series is not None:
            # Nothing to go on with, but the next run is to know what was written.
            self._note({})

    def roll_back(self) -> None:
        """Leave out what came since the last checkpoint, once the files are closed. Raises LedgerError, OSError."""
        noted = self.run.ledger.last_checkpoint(self._id)
        if noted is None:
            return
        assert self._exporter is not None  # noqa: S101 - or there would be none
        flushed = self._flush(self._exporter)
        flushed.sync()
        files = self._files()
        recovery.carry_out(self.run.folder.path, recovery.roll_back(flushed.sizes, noted.files, files.quarantine))
        self._restore_counts(noted, self._noted_categories)
        self._exporter.restore_rows(_rows_of_feeds(files, noted))

    @property
    def has_begun(self) -> bool:
        """Whether the ledger has the run."""
        return bool(self._id)

    def finish(self, end: RunEnd, *, complete: bool, truncated: bool) -> None:
        """Note that the run has come to its end. Raises LedgerError."""
        self.run.ledger.finish(self._id, end, complete=complete, truncated=truncated)

    def stop(self, end: RunEnd) -> None:
        """Note how the run ended without having come to its end. Raises LedgerError."""
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

    def _files(self) -> recovery.RunFiles:
        folder, exporter = self.run.folder, self._exporter
        is_resumable = exporter is not None and exporter.is_all_in_run_folder
        return recovery.RunFiles(
            folder.collection,
            folder.quarantine.name,
            can_refetch=self.spider.can_refetch,
            rotates=bool(folder.suffix),
            feeds=frozenset(exporter.names_in_run_folder()) if exporter and is_resumable else None,
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

    def _bring_to_disk(self, flushed: FlushedFiles, checkpoint: Checkpoint) -> None:
        """Bring the records to the disk, then note that they are there: in the thread."""
        assert self._ledger is not None  # noqa: S101 - `begin`
        flushed.sync()
        self._ledger.checkpoint(self._id, checkpoint)

    def _note(self, files: dict[str, tuple[int, int]]) -> None:
        self.run.ledger.checkpoint(self._id, self._checkpoint(files))

    def _checkpoint(self, files: dict[str, tuple[int, int]]) -> Checkpoint:
        versions = self.crawler.get_item_pipeline(VersionsPipeline)
        return Checkpoint(
            # A copy: while the thread notes it, the run goes on.
            json.loads(json.dumps(self.spider.progress())),
            self.run.tally.as_json(),
            files,
            self.run.hosts.current,
            self.spider.drain_rejected(),
            versions.drain_written() if versions else [],
        )

    def _go_on(self, noted: Checkpoint, plan: recovery.GoOn) -> None:
        run = self.run
        categories: Counter[str] = self.run.tally.categories
        for row in recovery.rows_before(run.folder.path, plan):
            item = run.folder.item_class(**row)
            run.seen.add(item.identity)
            categories[category_of(item)] += 1
        self._restore_counts(noted, categories)
        self._noted_categories = categories
        run.folder.resume()
        run.rejected.restore(noted.rejected)
        self.spider.restore(noted.progress)
        assert self._exporter is not None  # noqa: S101 - or there would be nothing to go on with
        self._exporter.resume(plan.rows)
        if not self.spider.can_refetch:
            self._bring_back(self._exporter, plan)
        run.limit.restore(run.tally.written)
        written = noted.counts["written"] + len(plan.tail)
        logger.info("The run %s goes on after %d records", run.identity.run_id, written)

    def _bring_back(self, exporter: FeedExporter, plan: recovery.GoOn) -> None:
        """Write and count once more what came after the checkpoint and cannot be asked for again."""
        run = self.run
        run.tally.add("served", plan.quarantined)
        run.tally.add("quarantined", plan.quarantined)
        for row in plan.tail:
            item = run.folder.item_class(**row)
            if item.identity in run.seen:
                continue
            run.seen.add(item.identity)
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

    def _publish(self) -> None:
        """Set the stats that Scrapy and others count from the beginning of the process."""
        tally, stats = self.run.tally, self.crawler.stats
        stats.set_value("item_scraped_count", tally.written)
        stats.set_value("item_dropped_count", tally.dropped + sum(tally[key] for key in KEYS.values()))
        for reason, key in KEYS.items():
            stats.set_value(f"item_dropped_reasons_count/{reason.__name__}", tally[key])
        stats.set_value("parti/incremental/new", tally.new)
        stats.set_value("parti/incremental/changed", tally.changed)
        stats.set_value("parti/spider/pages", tally.pages)
        stats.set_value("parti/spider/served", tally.served)


def _rows_of_feeds(files: recovery.RunFiles, noted: Checkpoint) -> dict[str, int]:
    return {name: rows for name, (_, rows) in noted.files.items() if files.is_feed(name)}


def category_of(item: Any) -> str:
    """Return the name under which a record is counted in the summary."""
    return getattr(item, "category_name", None) or getattr(item, "name", None) or "(no name)"
