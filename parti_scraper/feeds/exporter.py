"""Scrapy's feed exports, but a lost record stops the run, and it is known what was stored."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from scrapy import signals
from scrapy.extensions import feedexport

from parti_scraper.exceptions import UsageError, did_you_mean
from parti_scraper.feeds.exporters import BULK_EXPORTERS, LINE_FORMATS, RunFeedStorage, are_plain
from parti_scraper.redact import redact_url
from parti_scraper.run.context import present_run
from parti_scraper.run.datapackage import Feed, File
from parti_scraper.scrapy_internals import (
    appends,
    close_spider,
    exporter_class,
    failed_feeds,
    feeds_of,
    fill_in,
    local_path,
    next_file,
    takes_every_item,
)
from parti_scraper.signals import items_scraped, send_storage_failed
from parti_scraper.wording import number_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from scrapy import Spider
    from scrapy.crawler import Crawler
    from scrapy.extensions.feedexport import FeedSlot
    from scrapy.settings import BaseSettings

    from parti_scraper.feeds.disk import FlushedFiles
    from parti_scraper.feeds.exporters import CsvItemExporter, JsonLinesItemExporter
    from parti_scraper.run.context import Identity, Run


class FeedExporter(feedexport.FeedExporter):
    """Scrapy's, but it stops at a record that cannot be exported, since later ones would be lost too."""

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self._failed = False
        self._closed_slots: list[FeedSlot] = []
        # Rows by name of the files of earlier days and sessions.
        self._earlier: dict[str, int] = {}
        # The day that the files belong to, once they are open.
        self._day: str | None = None
        # Where feeds elsewhere on this machine are, and which of them go on with what was there before.
        self._local: dict[FeedSlot, Path] = {}
        self._appended: set[FeedSlot] = set()
        crawler.signals.connect(self.feed_slot_closed, signals.feed_slot_closed)
        crawler.signals.connect(self.items_scraped, items_scraped)

    def item_scraped(self, item: Any, spider: Spider) -> None:
        """Export a record; close the spider where that fails."""
        if self._failed:
            return
        with self._closing_on_failure():
            self.rotate()
            super().item_scraped(item, spider)

    def items_scraped(self, items: Sequence[Any]) -> None:
        """Export the records of a batch: at once, where every feed takes them all as they are."""
        if not (are_plain(items) and all(map(_takes_batches, self.slots))):
            for item in items:
                self.item_scraped(item, cast("Spider", self.crawler.spider))
            return
        if self._failed:
            return
        with self._closing_on_failure():
            self.rotate()
            for slot in self.slots:
                slot.start_exporting()
                cast("CsvItemExporter | JsonLinesItemExporter", slot.exporter).export_items(items)
                slot.itemcount += len(items)

    @contextlib.contextmanager
    def _closing_on_failure(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failed = True
            for slot in self.slots:
                if isinstance(slot.storage, RunFeedStorage):
                    slot.storage.mark_torn()
            send_storage_failed(self.crawler, "a record", error)
        except Exception:
            self._failed = True
            close_spider(self.crawler, "feeds")
            raise

    @cached_property
    def _run(self) -> Run:
        # Not before it is used: `scrapy shell` has no spider yet.
        return present_run(self.crawler)

    def rotate(self) -> None:
        """Close the files of a day that is over, and begin those of another. Raises OSError."""
        day = self._run.folder.day
        if day == self._day:
            return
        is_first, self._day = self._day is None, day
        if is_first:
            return
        self.slots = [self._rotated(slot) for slot in self.slots]
        for slot in self.slots:
            if isinstance(slot.storage, RunFeedStorage):
                # A day without records has its files too.
                slot.start_exporting()

    def _rotated(self, slot: FeedSlot) -> FeedSlot:
        if not isinstance(slot.storage, RunFeedStorage) or slot.file is None:
            return slot
        slot.finish_exporting()
        slot.storage.store(slot.file)
        self._earlier[self._name_of(slot)] = slot.itemcount
        following = next_file(self, slot)
        name = self._name_of(following)
        following.itemcount = self._earlier.pop(name, 0) or self._run.folder.rows_before.get(name, 0)
        return following

    def _start_new_batch(self, *args: Any, **kwargs: Any) -> FeedSlot:
        """Begin a feed, or a batch of one; its file is not open yet, so that what was there before can be seen."""
        slot = super()._start_new_batch(*args, **kwargs)
        if (path := local_path(slot)) is not None:
            self._local[slot] = path = Path(os.path.realpath(path.parent), path.name)
            # Whether it can be written, `obstacles` finds out.
            with contextlib.suppress(OSError):
                if appends(slot) and path.stat().st_size:
                    self._appended.add(slot)
        return slot

    def feed_slot_closed(self, slot: FeedSlot) -> None:
        """Remember a feed, or a batch of one, that was closed."""
        self._closed_slots.append(slot)

    async def close_spider(self, spider: Spider) -> None:
        """Store the feeds, unless nothing could be crawled: then existing files stay."""
        if self._run.problems.keeps_nothing:
            self.discard()
        await super().close_spider(spider)

    def discard(self) -> None:
        """Store nothing, not even Scrapy's empty files."""
        self.slots = []

    def obstacles(self) -> Iterator[str]:
        """Yield what will certainly keep feeds from being stored, a part of a sentence each."""
        for slot in self.slots:
            if (path := local_path(slot)) is not None and not _is_writable(path):
                yield f"the feed {slot.uri} cannot be written there"

    def losses(self, written: int) -> Iterator[str]:
        """Yield what of the records written was not stored, a part of a sentence each: Scrapy does not count all."""
        for slot_type in {type(slot.storage).__name__ for slot in self._closed_slots}:
            if failed := failed_feeds(self.crawler, slot_type):
                yield f"{failed} of the feeds could not be stored ({slot_type}), see the log"
        for slot in self.slots:
            if (slot.itemcount or (slot.store_empty and slot.batch_id == 1)) and slot not in self._closed_slots:
                yield f"the feed {redact_url(slot.uri)} could not be stored"
        rows: Counter[str] = Counter()
        for slot in self._closed_slots:
            if (path := local_path(slot)) is not None and not path.exists():
                yield f"the feed {redact_url(slot.uri)} was deleted during the run"
            rows[slot.uri_template] += slot.itemcount
        for name, number in self._earlier.items():
            rows[f"run:%(collection)s{Path(name).suffix}"] += number
        described = 0 if self._run.days is None else sum(self._run.days.described.values())
        for template, accepts in self.filters.items():
            number = rows[template] + (described if template.startswith("run:") else 0)
            if takes_every_item(accepts) and number != written:
                yield f"the feed {redact_url(template)} holds {number:,} of {number_of(written, 'records')}"

    @property
    def is_all_in_run_folder(self) -> bool:
        """Whether the feeds are plain lines of whole records in the run's folder, JSON Lines among them."""
        forms = {_resumable_form(slot) for slot in [*self.slots, *self._closed_slots]}
        return "jsonl" in forms and None not in forms

    def names_in_run_folder(self) -> list[str]:
        """Return the names of the files that are written there now."""
        return [self._name_of(slot) for slot in self.slots if isinstance(slot.storage, RunFeedStorage)]

    def resume(self, rows: Mapping[str, int]) -> None:
        """Continue with so many rows in each file. Raises OSError where one cannot be opened."""
        for slot in self.slots:
            # Else Scrapy would open a file only with its next row.
            if self._name_of(slot) in rows:
                slot.start_exporting()
        self._day = self._run.folder.day
        self.restore_rows(rows)

    def restore_rows(self, rows: Mapping[str, int]) -> None:
        """Set how many rows each file holds, those of sessions and days before included."""
        if self._run.folder.day:
            # Of days that were entered since, the run knows no more.
            self._closed_slots = [slot for slot in self._closed_slots if self._name_of(slot) in rows]
        names = set()
        for slot in [*self._closed_slots, *self.slots]:
            slot.itemcount = rows.get(self._name_of(slot), 0)
            names.add(self._name_of(slot))
        self._earlier = {name: number for name, number in rows.items() if name not in names}

    def settle(self, day: str) -> None:
        """Forget the files of a day that has a data package."""
        self._earlier = {name: rows for name, rows in self._earlier.items() if not name.startswith(f"{day}/")}

    def flush_into(self, flushed: FlushedFiles) -> None:
        """Hand all records of the feeds in the run's folder to the system, and add their files.

        Raises:
            OSError: they cannot be written.
        """
        self.rotate()
        self.flush()
        folder = self._run.folder.path
        rows = dict(self._earlier)
        for slot in [*self._closed_slots, *self.slots]:
            name = self._name_of(slot)
            if slot.file is not None and not slot.file.closed:
                _check_linked(slot.file, folder / name)
                flushed.add_open(slot.file)
            rows[name] = slot.itemcount
        for name, number in rows.items():
            path = folder / name
            # A file with rows exists, or was deleted during the run, which raises.
            flushed.note({name: (path.stat().st_size if number or path.exists() else 0, number)})

    def flush(self) -> None:
        """Let others see what was written so far. Raises OSError."""
        for slot in self.slots:
            if slot.file is not None and slot.exporter is not None and not slot.file.closed:
                # CSV has a buffer of its own.
                getattr(slot.exporter, "stream", slot.file).flush()
                slot.file.flush()

    def _name_of(self, slot: FeedSlot) -> str:
        return self._run.folder.name_of(cast("RunFeedStorage", slot.storage).path)

    def in_run_folder(self) -> list[File]:
        """Return what was stored in the run's folder, except for days that have a data package."""
        stored = self._files_of(self._closed_slots)
        return [*self.earlier(stored), *stored]

    def earlier(self, like: Sequence[File] = ()) -> list[File]:
        """Return the files that were closed before, described as others of the same form are."""
        by_suffix = {file.path.suffix: file for file in like or self._files_of(self.slots)}
        folder = self._run.folder.path
        return [
            replace(by_suffix[Path(name).suffix], path=folder / name, rows=rows)
            for name, rows in self._earlier.items()
            if Path(name).suffix in by_suffix
        ]

    def _files_of(self, slots: Iterable[FeedSlot]) -> list[File]:
        return [self._file(slot, slot.storage.path) for slot in slots if isinstance(slot.storage, RunFeedStorage)]

    def elsewhere(self) -> list[Feed]:
        """Return what was stored elsewhere; the batches of a feed count as one."""
        by_template: defaultdict[str, list[FeedSlot]] = defaultdict(list)
        for slot in self._stored_elsewhere():
            by_template[slot.uri_template].append(slot)
        return [
            Feed(
                redact_url(slots[0].uri if len(slots) == 1 else template),
                slots[0].format,
                sum(slot.itemcount for slot in slots),
            )
            for template, slots in by_template.items()
        ]

    def files_elsewhere(self) -> list[File]:
        """Return the files on this machine that were stored elsewhere and hold records of this run alone, whole.

        Not among them is what was there before and was appended to, nor what is no file, such as a pipe.
        """
        slots = {slot: path for slot in self._stored_elsewhere() if (path := self._local.get(slot))}
        # Where several feeds were written into one file, none of them is whole.
        times = Counter(map(os.path.realpath, slots.values()))
        return [
            replace(self._file(slot, path), is_elsewhere=True)
            for slot, path in slots.items()
            if times[os.path.realpath(path)] == 1 and slot not in self._appended and _is_file(path)
        ]

    def _stored_elsewhere(self) -> Iterator[FeedSlot]:
        for slot in self._closed_slots:
            # Scrapy counts those that failed by the type of their storage alone.
            slot_type = type(slot.storage)
            if slot_type is not RunFeedStorage and not failed_feeds(self.crawler, slot_type.__name__):
                yield slot

    def _file(self, slot: FeedSlot, path: Path) -> File:
        item_class = self._run.folder.item_class
        options = slot.feed_options
        is_processed = bool(options.get("postprocessing"))
        columns = options["fields"] or [column.name for column in fields(item_class)]
        return File(
            path=path,
            item_class=item_class,
            rows=slot.itemcount,
            # What a file was made into, such as `gz`, only its name says.
            form=path.suffix[1:].lower() if is_processed else LINE_FORMATS.get(slot.format, slot.format),
            columns=columns if isinstance(columns, dict) else {name: name for name in columns},
            encoding=None if is_processed else options["encoding"],
            is_table=slot.format in LINE_FORMATS and not is_processed and not options["item_export_kwargs"],
        )


def check_formats(settings: BaseSettings, typed: Iterable[str]) -> None:
    """Check the formats of the feeds after `-o` and `-O`, in place of Scrapy's own error. Raises UsageError."""
    known = _names(settings, "FEED_EXPORTERS")
    for uri in typed:
        found = re.search(r"[.:](\w*)$", uri)
        form = found[1] if found else ""
        if form not in known and Path(uri).suffix[1:] not in known:
            raise _unknown(uri, "unknown format", form, known)


def check_feeds(settings: BaseSettings) -> None:
    """Check what would make Scrapy continue without any feed. Raises UsageError."""
    known = {name: _names(settings, name) for name in ("FEED_EXPORTERS", "FEED_STORAGES")}
    for uri, options in _feeds(settings).items():
        form, scheme, most = options["format"], urlsplit(uri).scheme, options["batch_item_count"]
        if form not in known["FEED_EXPORTERS"]:
            raise _unknown(uri, "unknown format", form, known["FEED_EXPORTERS"])
        if scheme == "stdout" and sys.stdout is None:
            raise _wrong(uri, "the standard output is closed", uri, "a file")
        if scheme not in known["FEED_STORAGES"]:
            raise _unknown(uri, "unknown scheme", scheme, list(filter(None, known["FEED_STORAGES"])))
        if not isinstance(most, int):
            raise _wrong(uri, "batch_item_count is not a whole number", str(most), "such as 1000")
        if most and not re.search(r"%\(batch_(time\)s|id\))", uri):
            problem = f"batches of {most} records would have the same name"
            raise _wrong(uri, problem, uri, "a name with %(batch_id)d or %(batch_time)s")


def check_names(settings: BaseSettings, spider: type[Spider], identity: Identity) -> None:
    """Check that the names of the feeds can be filled in. Raises UsageError."""
    set_later = dict.fromkeys(("crawler", "settings", "time", "batch_time"), "")
    known = {name: getattr(spider, name, "") for name in dir(spider)} | set_later | {"batch_id": 1}
    known |= {"run_id": identity.run_id, "started_at": identity.started_at}
    for uri, options in _feeds(settings).items():
        if options["uri_params"]:
            continue  # A function of the user's, which may add others.
        try:
            fill_in(uri, known)
        except KeyError as error:
            name, accepted = str(error.args[0]), "such as %(name)s, %(run_id)s, %(time)s"
            # Not methods and the like, which could be named too.
            names = [each for each, value in known.items() if isinstance(value, str | float)]
            raise _wrong(uri, "unknown name in it", name, accepted, did_you_mean(name, names)) from None
        except (TypeError, ValueError) as error:
            problem = f"its name cannot be filled in ({error})"
            raise UsageError.of("feed", uri, problem, uri, "such as %(name)s") from None


def _feeds(settings: BaseSettings) -> dict[str, dict[str, Any]]:
    """Return the options of each feed, as Scrapy completes them. Raises UsageError."""
    feeds = {str(uri): options for uri, options in settings.getdict("FEEDS").items()}
    for uri, options in feeds.items():
        if not isinstance(options, Mapping):
            raise _wrong(uri, "its options are no object", str(options), 'such as {"format": "csv"}')
    return feeds_of(settings, feeds)


def _unknown(uri: str, problem: str, name: str, known: list[str]) -> UsageError:
    return _wrong(uri, problem, name, ", ".join(known), did_you_mean(name, known))


def _wrong(uri: str, problem: str, value: str, accepted: str, hint: str = "") -> UsageError:
    # The address may hold a password.
    return UsageError.of("feed", redact_url(uri), problem, redact_url(value), accepted, hint=hint)


def _names(settings: BaseSettings, name: str) -> list[str]:
    return [each for each, component in settings.getwithbase(name).items() if component is not None]


def _is_file(path: Path) -> bool:
    """Tell whether a feed is a file that can be found again: no pipe or device, and not the output of this process."""
    try:
        found = path.stat()
    except OSError:
        return False
    # `/dev/stdout` is a file where the output goes into one.
    is_output = any(os.path.samestat(found, os.fstat(number)) for number in range(3))
    return stat.S_ISREG(found.st_mode) and not is_output and not path.is_relative_to("/proc")


def _takes_batches(slot: FeedSlot) -> bool:
    options = slot.feed_options
    return (
        exporter_class(slot) in BULK_EXPORTERS
        and takes_every_item(slot.filter)
        and not options["batch_item_count"]
        # In another encoding, one record may fail, which must not cost the others of its page.
        and (options["encoding"] or "utf-8").lower() == "utf-8"
    )


def _resumable_form(slot: FeedSlot) -> str | None:
    options = slot.feed_options
    changed = options.get("postprocessing") or options["item_export_kwargs"] or options["fields"]
    if not isinstance(slot.storage, RunFeedStorage) or changed or options["batch_item_count"]:
        return None
    return LINE_FORMATS.get(slot.format)


def _check_linked(file: IO[bytes], path: Path) -> None:
    """Raise OSError if an open file was deleted or replaced: what is written to it would be lost."""
    if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _is_writable(path: Path) -> bool:
    """Tell whether a file can be written, by making another beside it; makes missing folders."""
    if os.path.lexists(path):
        return not path.is_dir() and os.access(path, os.W_OK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError:
        return False
    return True
