"""What makes a run survive its process: the lock on its folder, its notes in the ledger, and going on from them."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any, cast

from parti_scraper.exceptions import UsageError
from parti_scraper.feeds.exporter import FeedExporter
from parti_scraper.feeds.exporters import close_on_disk, encode_line
from parti_scraper.feeds.pipelines import QuarantinePipeline, VersionsPipeline
from parti_scraper.ledger.ledger import Checkpoint, RunRecord
from parti_scraper.ledger.locks import Lock

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator
    from pathlib import Path

    from scrapy.crawler import Crawler

    from parti_scraper.spiders.base import PartiSpider

logger = logging.getLogger(__name__)

# Records that came after the last checkpoint, while their files are put right.
RECOVERED = "recovered.jsonl"
# What is counted of records: a run that goes on counts on.
COUNTS = {
    "written": "item_scraped_count",
    "quarantined": "item_dropped_reasons_count/BadRecord",
    "duplicate": "item_dropped_reasons_count/DuplicateRecord",
    "filtered": "item_dropped_reasons_count/FilteredRecord",
    "changed": "parti/incremental/changed",
    "new": "parti/incremental/new",
    "pages": "parti/spider/pages",
    "served": "parti/spider/served",
}
_DROPPED = ("quarantined", "duplicate", "filtered", "dropped")


class Checkpoints:
    """Notes how far a run has come, and lets one that was stopped go on from there.

    Only records in the run's own folder can be gone on with; a run whose feeds are elsewhere begins from the start.
    """

    def __init__(self, crawler: Crawler) -> None:
        self.crawler = crawler
        self._locks: list[Lock] = []
        self._run = 0
        # Records by category at the last checkpoint.
        self._noted_categories: dict[str, int] = {}

    @property
    def spider(self) -> PartiSpider:
        """The spider of the run."""
        return cast("PartiSpider", self.crawler.spider)

    def lock(self) -> None:
        """Keep other processes from the run, and from the series that it belongs to. Raises UsageError."""
        spider = self.spider
        paths = [(spider.run_dir, False)]
        if spider.series is not None:
            paths.append((spider.ledger.path.with_name(f"series-{spider.series.id}.lock"), True))
        for path, make in paths:
            lock = Lock.take(path, make=make)
            if lock is None:
                what = "an incremental run with the same filters" if make else f"the run `{spider.run_id}`"
                raise UsageError(f"another process is at work on {what}: wait until it has ended, or stop it")
            self._locks.append(lock)

    def release(self) -> None:
        """Let others at the run."""
        while self._locks:
            self._locks.pop().release()
        self.spider.ledger.close()

    def begin(self, categories: Counter[str]) -> None:
        """Note the run, or go on with it where it was stopped; counts its records by category.

        Raises:
            UsageError: records would be lost.
            LedgerError: it cannot be noted.
            OSError: its files cannot be cut to where they were then.
        """
        spider = self.spider
        if spider.begun is None:
            self._refuse_to_lose()
            self._run = spider.ledger.begin(
                RunRecord(
                    str(spider.run_dir.absolute()),
                    spider.name,
                    spider.run_id,
                    spider.raw_arguments,
                    spider.started_at,
                    spider.window,
                    None if spider.series is None else spider.series.id,
                    spider.next_since,
                    spider.versions_since,
                )
            )
            return
        self._run = spider.begun.id
        noted = spider.ledger.last_checkpoint(self._run)
        if noted is not None and self._are_as_noted(noted):
            self._go_on(noted, categories)
        else:
            self._refuse_to_lose()
            spider.ledger.forget_progress(self._run)

    def _refuse_to_lose(self) -> None:
        """Raise UsageError where records would be deleted that cannot be asked for again."""
        spider = self.spider
        if not spider.can_refetch and any(map(_size, spider.run_dir.glob(f"{spider.collection}.*"))):
            problem = (
                "its folder holds records that cannot be had again, and it cannot go on with them as it was called"
            )
            raise UsageError.of("argument", "run_id", problem, spider.run_id, "another name")

    def take(self, categories: Counter[str]) -> None:
        """Bring the records to the disk, then note that they are there; `categories` counts them.

        Raises:
            LedgerError, OSError: one of the two cannot be done.
        """
        exporter = self._exporter
        if exporter is None:
            return
        if exporter.is_all_in_run_folder:
            self._note(exporter.sync() | self._sync_quarantine())
            self._noted_categories = dict(categories)
        else:
            exporter.flush()

    def take_last(self) -> None:
        """Note what is in the files, which are closed. Raises LedgerError."""
        exporter = self._exporter
        if not self.spider.at_rest:
            return
        if exporter is not None and exporter.is_all_in_run_folder:
            files = {file.path.name: (file.path.stat().st_size, file.rows) for file in exporter.in_run_folder()}
            self._note(files | self._sync_quarantine())
        elif self.spider.series is not None:
            # Nothing to go on with, but the next run is to know what was written.
            self._note({})

    def cut_back(self, categories: Counter[str]) -> None:
        """Leave out what came since the last checkpoint, once the files are closed. Raises LedgerError, OSError."""
        noted = self.spider.ledger.last_checkpoint(self._run)
        if noted is None:
            return
        assert self._exporter is not None  # noqa: S101 - or there would be none
        for name in self._exporter.sync() | self._sync_quarantine():
            os.truncate(self.spider.run_dir / name, noted.files.get(name, (0, 0))[0])
        self._count_as(noted)
        self._exporter.count_as(self._rows_of_feeds(noted))
        categories.clear()
        categories.update(self._noted_categories)
        if not noted.counts["quarantined"]:
            self.spider.quarantine_path.unlink(missing_ok=True)

    def finish(self, *, complete: bool, truncated: bool) -> None:
        """Note that the run has come to its end. Raises LedgerError."""
        self.spider.ledger.finish(self._run, complete=complete, truncated=truncated)

    @property
    def _exporter(self) -> FeedExporter | None:
        return self.crawler.get_extension(FeedExporter)

    def _sync_quarantine(self) -> dict[str, tuple[int, int]]:
        pipeline = self.crawler.get_item_pipeline(QuarantinePipeline)
        return {} if pipeline is None else pipeline.sync()

    def _note(self, files: dict[str, tuple[int, int]]) -> None:
        spider = self.spider
        count = self.crawler.stats.get_value
        counts = {key: count(name, 0) for key, name in COUNTS.items()}
        counts["dropped"] = count("item_dropped_count", 0) - sum(counts.get(key, 0) for key in _DROPPED)
        versions = self.crawler.get_item_pipeline(VersionsPipeline)
        checkpoint = Checkpoint(
            spider.progress(),
            counts,
            files,
            spider.base_url,
            spider.take_done(),
            versions.take_written() if versions else [],
        )
        spider.ledger.checkpoint(self._run, checkpoint)

    def _are_as_noted(self, noted: Checkpoint) -> bool:
        """Tell whether the files hold at least what they did, and what is to be written now belongs into them."""
        exporter = self._exporter
        if exporter is None or not exporter.is_all_in_run_folder:
            return False
        names = {slot.storage.path(self.spider).name for slot in exporter.slots}  # type: ignore[attr-defined]
        sizes = {name: size for name, (size, _) in noted.files.items()}
        whole = all(_size(self.spider.run_dir / name) >= size for name, size in sizes.items())
        # What rotates begins a file a day.
        if not whole or (names - sizes.keys() and not self.spider.part):
            logger.warning(
                "The files of the run %s are not as they were left; it begins from the start", self.spider.run_id
            )
            return False
        return True

    def _go_on(self, noted: Checkpoint, categories: Counter[str]) -> None:
        spider = self.spider
        tail = [] if spider.can_refetch else self._save_tail(noted)
        for name, (size, _) in noted.files.items():
            if not spider.can_refetch and name == spider.quarantine_path.name:
                continue
            # What came after was not noted, so it is asked for again; the last line may be torn.
            if _size(spider.run_dir / name) > size:
                os.truncate(spider.run_dir / name, size)
        if spider.can_refetch and spider.quarantine_path.name not in noted.files:
            spider.quarantine_path.unlink(missing_ok=True)
        for name in sorted(self._rows_of_feeds(noted)):
            for row in _rows(spider.run_dir / name) if name.endswith(".jsonl") else ():
                item = spider.item_class(**row)
                spider.seen.add(item.identity)
                categories[category_of(item)] += 1
        self._count_as(noted)
        assert self._exporter is not None  # noqa: S101 - `_are_as_noted`
        self._noted_categories = dict(categories)
        spider.resumed = True
        spider.truncated = noted.counts["written"] == spider.max_records
        spider.rejected = set(noted.rejected)
        spider.restore(noted.progress)
        self._exporter.go_on(self._rows_of_feeds(noted))
        if not spider.can_refetch:
            self._count_quarantine(noted)
            self._bring_back(tail, categories)
        logger.info("The run %s goes on after %d records", spider.run_id, noted.counts["written"] + len(tail))

    def _save_tail(self, noted: Checkpoint) -> list[dict[str, Any]]:
        """Put aside what came since the checkpoint, whole lines only, and return it."""
        folder, collection = self.spider.run_dir, self.spider.collection
        saved = folder / RECOVERED
        rows = list(_rows(saved)) if saved.exists() else []
        for path in sorted(folder.glob(f"{collection}.*")):
            if path.suffix == ".jsonl":
                rows += _rows(path, noted.files.get(path.name, (0, 0))[0])
        if rows:
            temporary = saved.with_suffix(".tmp")
            with temporary.open("wb") as file:
                file.writelines(map(encode_line, rows))
                close_on_disk(file, "jsonlines")
            temporary.replace(saved)
        for path in folder.glob(f"{collection}.*"):
            if path.name not in noted.files:
                path.unlink()
        return rows

    def _count_quarantine(self, noted: Checkpoint) -> None:
        """Keep what was set aside since the checkpoint, whole lines only."""
        path = self.spider.quarantine_path
        if not path.exists():
            return
        _, rows = noted.files.get(path.name, (0, 0))
        with path.open("r+b") as file:
            lines = [line for line in file if line.endswith(b"\n")]
            file.truncate(sum(map(len, lines)))
        for name in ("item_dropped_count", "item_dropped_reasons_count/BadRecord", "parti/spider/served"):
            self.crawler.stats.inc_value(name, len(lines) - rows)

    def _bring_back(self, tail: list[dict[str, Any]], categories: Counter[str]) -> None:
        spider = self.spider
        for row in tail:
            item = spider.item_class(**row)
            if item.identity in spider.seen:
                continue
            spider.seen.add(item.identity)
            categories[category_of(item)] += 1
            self.crawler.stats.inc_value("item_scraped_count")
            self.crawler.stats.inc_value("parti/spider/served")
            assert self._exporter is not None  # noqa: S101 - as above
            self._exporter.item_scraped(item, spider)
        self.take(categories)
        (spider.run_dir / RECOVERED).unlink(missing_ok=True)

    def _count_as(self, noted: Checkpoint) -> None:
        for key, name in COUNTS.items():
            self.crawler.stats.set_value(name, noted.counts[key])
        self.crawler.stats.set_value("item_dropped_count", sum(noted.counts[key] for key in _DROPPED))

    def _rows_of_feeds(self, noted: Checkpoint) -> dict[str, int]:
        return {name: rows for name, (_, rows) in noted.files.items() if name.startswith(self.spider.collection)}


def _rows(path: Path, offset: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the records of the whole lines of a file, from an offset on."""
    with path.open("rb") as lines:
        lines.seek(offset)
        yield from (json.loads(line) for line in lines if line.endswith(b"\n"))


def category_of(item: Any) -> str:
    """Return the name under which a record is counted in the summary."""
    return getattr(item, "category_name", None) or getattr(item, "name", None) or "(no name)"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
