"""Components as users write them, most of them broken; the tests name them in settings."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import IO, Any

from scrapy import signals

import parti_scraper.signals


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
    """An item filter that takes livestreams of even numbers."""

    def __init__(self, feed_options: dict[str, Any] | None) -> None: ...

    def accepts(self, item: Any) -> bool:
        return bool(item.event_id % 2 == 0)


class FarStorage:
    """A feed storage on another host, as far as anybody can tell."""

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


class Listener:
    """An extension that says at the end how often it was told of an item."""

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
    """The same, and it is told of batches too, which it counts as one each."""

    @classmethod
    def from_crawler(cls, crawler: Any) -> Any:
        listener = super().from_crawler(crawler)
        crawler.signals.connect(listener.items_scraped, parti_scraper.signals.items_scraped)
        crawler.signals.connect(listener.items_dropped, parti_scraper.signals.items_dropped)
        return listener

    def items_scraped(self, items: Any) -> None:
        self.counts["items_scraped"] += 1

    def items_dropped(self, reasons: Any) -> None:
        self.counts["items_dropped"] += 1
