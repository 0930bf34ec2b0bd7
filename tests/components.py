"""Components as users write them, most of them broken; the tests name them in settings."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator
from typing import IO, Any, Self
from urllib.parse import urlsplit

from scrapy import signals
from scrapy.exceptions import DropItem
from scrapy.pipelines import ItemPipelineManager
from scrapy.statscollectors import DummyStatsCollector

import parti_scraper.signals
from parti_scraper import scrapy_internals
from parti_scraper.feeds.exporter import FeedExporter
from parti_scraper.feeds.exporters import CsvItemExporter
from parti_scraper.feeds.log_formatter import LogFormatter
from parti_scraper.items import Livestream


class FailingMiddleware:
    """A spider middleware that fails after the output of a callback."""

    async def process_spider_output(self, response: Any, result: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for each in result:
            yield each
        raise RuntimeError("the middleware fails")


class FailingPipeline:
    """A pipeline that fails on every record."""

    def process_item(self, item: Any) -> Any:
        raise RuntimeError("the pipeline fails")


class UnclosablePipeline:
    """A pipeline that cannot save what it was given."""

    def process_item(self, item: Any) -> Any:
        return item

    def close_spider(self) -> None:
        raise RuntimeError("the pipeline cannot be closed")


class FailingFilter:
    """An item filter that fails on every record."""

    def __init__(self, feed_options: dict[str, Any] | None) -> None: ...

    def accepts(self, item: Any) -> bool:
        raise RuntimeError("the filter fails")


class EvenFilter:
    """An item filter that accepts livestreams with even ids."""

    def __init__(self, feed_options: dict[str, Any] | None) -> None: ...

    def accepts(self, item: Any) -> bool:
        return bool(item.event_id % 2 == 0)


class FarStorage:
    """A feed storage that looks like one on another host."""

    def __init__(self, uri: str, *, feed_options: dict[str, Any] | None = None) -> None: ...

    def open(self, spider: Any) -> IO[bytes]:
        return io.BytesIO()

    def store(self, file: IO[bytes]) -> None: ...


class Upper:
    """A pipeline that makes a dict of a livestream."""

    def process_item(self, item: Any) -> Any:
        return {"event_id": item.event_id, "event_title": (item.event_title or "").upper()}


class Waiting:
    """A pipeline that waits for something."""

    async def process_item(self, item: Any) -> Any:
        await asyncio.sleep(0)
        return item


class Seeing:
    """A spider middleware that looks at each item."""

    async def process_spider_output(self, response: Any, result: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for each in result:
            if isinstance(each, Livestream):
                print("seen")
            yield each


class SeeingProcessor(ItemPipelineManager):
    """An item processor that looks at each item."""

    async def process_item_async(self, item: Any) -> Any:
        print("seen")
        return await super().process_item_async(item)


class SeeingFormatter(LogFormatter):
    """A log formatter that looks at each item."""

    def scraped(self, item: Any, response: Any, spider: Any) -> None:  # type: ignore[override]
        print("seen")


class SeeingErrors:
    """An extension that listens for items that failed."""

    signal = signals.item_error

    @classmethod
    def from_crawler(cls, crawler: Any) -> Any:
        listener = cls()
        crawler.signals.connect(listener.see, cls.signal)
        return listener

    def see(self, item: Any) -> None:
        print("seen")


class SeeingDropped(SeeingErrors):
    """An extension that listens only for dropped items."""

    signal = signals.item_dropped


class SeeingCsv(CsvItemExporter):
    """An exporter that looks at each item."""

    def export_item(self, item: Any) -> None:
        print("seen")
        super().export_item(item)


class SeeingFeeds(FeedExporter):
    """The project's own feed exporter, changed for single items."""

    def item_scraped(self, item: Any, spider: Any) -> None:
        print("seen")
        super().item_scraped(item, spider)


class Reusing:
    """A pipeline that returns the same object each time."""

    def __init__(self) -> None:
        self.row: dict[str, Any] = {}

    def process_item(self, item: Any) -> Any:
        self.row.clear()
        self.row["event_id"] = item.event_id
        return self.row


class Listener:
    """An extension that prints at the end how many items it received."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    @classmethod
    def from_crawler(cls, crawler: Any) -> Any:
        listener = cls()
        crawler.signals.connect(listener.item_scraped, signals.item_scraped)
        crawler.signals.connect(listener.item_dropped, signals.item_dropped)
        crawler.signals.connect(listener.closed, signals.spider_closed)
        return listener

    def item_scraped(self, item: Any) -> None:
        self.counts["item_scraped"] += 1

    def item_dropped(self, item: Any, exception: BaseException) -> None:
        self.counts["item_dropped"] += 1

    def closed(self) -> None:
        print(json.dumps(self.counts))


class BatchListener(Listener):
    """The same, but it counts a batch as one."""

    @classmethod
    def from_crawler(cls, crawler: Any) -> Any:
        listener = cls()
        crawler.signals.connect(listener.closed, signals.spider_closed)
        crawler.signals.connect(listener.items_scraped, parti_scraper.signals.items_scraped)
        crawler.signals.connect(listener.items_dropped, parti_scraper.signals.items_dropped)
        return listener

    def items_scraped(self, items: Any) -> None:
        self.counts["items_scraped"] += 1

    def items_dropped(self, reasons: Any) -> None:
        self.counts["items_dropped"] += 1


class Hearing:
    """An extension that receives the parts of answers, and prints their total length at the end."""

    def __init__(self) -> None:
        self._heard: Counter[str] = Counter()

    @classmethod
    def from_crawler(cls, crawler: Any) -> Any:
        hearing = cls()
        crawler.signals.connect(hearing.bytes_received, signals.bytes_received)
        crawler.signals.connect(hearing.closed, signals.spider_closed)
        return hearing

    def bytes_received(self, data: bytes, request: Any) -> None:
        self._heard[urlsplit(request.url).path] += len(data)

    def closed(self) -> None:
        print(json.dumps(self._heard))


class Passing:
    """A pipeline that changes nothing."""

    def process_item(self, item: Any) -> Any:
        return item


class Unwanted(DropItem):
    """The reason for which the pipeline below drops records."""


class Dropping:
    """A pipeline that drops every third livestream."""

    def process_item(self, item: Any) -> Any:
        if getattr(item, "event_id", 1) % 3 == 0:
            raise Unwanted(str(item.event_id))
        return item


class NoStats(DummyStatsCollector):
    """A collector of stats that collects none."""


class LookingInside:
    """An extension that calls each function of `scrapy_internals`, and prints the results at the end."""

    def __init__(self, crawler: Any) -> None:
        self.crawler = crawler
        self.found: dict[str, Any] = {}

    @classmethod
    def from_crawler(cls, crawler: Any) -> Any:
        looking = cls(crawler)
        crawler.signals.connect(looking.response_received, signals.response_received)
        crawler.signals.connect(looking.closed, signals.spider_closed)
        return looking

    def response_received(self, response: Any, request: Any) -> None:
        if self.found or "categories" not in response.url:
            return
        crawler = self.crawler
        slots = sorted(crawler.get_extension(FeedExporter).slots, key=lambda slot: slot.format)
        records: list[logging.LogRecord] = []
        handler = logging.Handler()
        handler.emit = records.append  # type: ignore[method-assign]
        logging.root.addHandler(handler)
        scrapy_internals.log_item_error(crawler, {}, ValueError("x"), response)
        logging.root.removeHandler(handler)
        (record,) = records
        self.found = {
            "exporter_class": [scrapy_internals.exporter_class(slot).__name__ for slot in slots],
            "failed_feeds": scrapy_internals.failed_feeds(crawler, "FileFeedStorage"),
            "is_closing": [scrapy_internals.is_closing(crawler)],
            "item_processor": type(scrapy_internals.item_processor(crawler)).__name__,
            "local_path": [scrapy_internals.local_path(slot) for slot in slots],
            "log_item_error": [record.name, record.exc_info[0].__name__],  # type: ignore[index, union-attr]
            "output_middlewares": [type(each).__name__ for each in scrapy_internals.output_middlewares(crawler)],
            "pipelines": [type(each).__name__ for each in scrapy_internals.pipelines(crawler)],
            "receivers": len(scrapy_internals.receivers(crawler, signals.response_received)),
            "root_handler": type(scrapy_internals.root_handler()).__name__,
            "takes_every_item": [scrapy_internals.takes_every_item(slot.filter) for slot in slots],
        }
        scrapy_internals.close_spider(crawler, "probed")

    def closed(self, reason: str) -> None:
        self.found["is_closing"].append(scrapy_internals.is_closing(self.crawler))
        print(json.dumps({"close_spider": reason, **self.found}))


class LaterVersion:
    """An extension that stands for a later version of the project, which finishes a run just before it is begun."""

    @classmethod
    def from_crawler(cls, crawler: Any) -> Self:
        folder = crawler.spider.run.folder.path
        folder.mkdir(parents=True)
        (folder / "datapackage.json").write_text('{"format_version": 3}', encoding="utf-8")
        return cls()
