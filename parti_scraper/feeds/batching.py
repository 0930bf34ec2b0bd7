"""Page-sized batches: the records of a page pass the pipelines, the counts and the feeds together.

Scrapy sends each item on its own way, which takes 200 µs and more before the first exporter sees it (measured, 2.19).
The middleware takes that way for the items of a page at once. Spiders yield items, pipelines get items, and exporters
write items, as everywhere in Scrapy. Where a component would miss something by it, items go one by one as ever.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, cast

from scrapy import Request, signals
from scrapy.exceptions import DropItem, NotConfigured
from scrapy.extensions import corestats
from scrapy.pipelines import ItemPipelineManager
from scrapy.utils.defer import ensure_awaitable
from scrapy.utils.log import logformatter_adapter

from parti_scraper.feeds.log_formatter import LogFormatter
from parti_scraper.signals import items_dropped, items_scraped, receivers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from scrapy import Spider
    from scrapy.crawler import Crawler
    from scrapy.http import Response

# Where Scrapy logs what fails in a pipeline.
logger = logging.getLogger("scrapy.core.scraper")

_OF_ITEMS = (signals.item_scraped, signals.item_dropped, signals.item_error, items_scraped, items_dropped)


class CoreStats(corestats.CoreStats):
    """Scrapy's, which counts batches too."""

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Connect to the signals of batches, beside those of Scrapy's."""
        core_stats = super().from_crawler(crawler)
        crawler.signals.connect(core_stats.items_scraped, items_scraped)
        crawler.signals.connect(core_stats.items_dropped, items_dropped)
        return core_stats

    def items_scraped(self, items: Sequence[Any]) -> None:
        """Count the items of a batch."""
        self.stats.inc_value("item_scraped_count", len(items))

    def items_dropped(self, reasons: Counter[type[DropItem]]) -> None:
        """Count the items of a batch that were dropped."""
        self.stats.inc_value("item_dropped_count", reasons.total())
        for reason, number in reasons.items():
            self.stats.inc_value(f"item_dropped_reasons_count/{reason.__name__}", number)


class BatchMiddleware:
    """Next to the spider: gathers what it yields, until it yields a request or None, or ends.

    Scrapy takes no notice of None. A spider yields it where what went before must be through, since it goes on to
    wait for something else.
    """

    def __init__(self, crawler: Crawler) -> None:
        if not crawler.settings.getbool("PARTI_BATCHING"):
            raise NotConfigured
        self.crawler = crawler
        # Who listened when it was last looked at, and whether some of them miss something where items go together.
        self._listeners: list[list[Any]] = []
        self._has_others = False

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Build the middleware; it takes what it needs from the crawler."""
        return cls(crawler)

    async def process_spider_output(self, response: Response, result: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Yield the requests; the items are through before the next one, or are yielded before it too."""
        batch: list[Any] = []
        try:
            async for each in result:
                if each is not None and not isinstance(each, Request):
                    batch.append(each)
                    continue
                for item in await self._take(batch, response):
                    yield item
                batch.clear()
                yield each
        except Exception:
            for item in await self._take(batch, response):
                yield item
            raise
        for item in await self._take(batch, response):
            yield item

    async def _take(self, batch: Sequence[Any], response: Response) -> Sequence[Any]:
        """Take the items through the pipelines; return those that are to go on their own, all or none."""
        if not batch:
            return ()
        pipelines = self._pipelines
        if self._goes_alone or self._is_listened_to():
            return tuple(batch)
        written: list[Any] = []
        reasons = Counter[type[DropItem]]()
        for item in batch:
            try:
                result = item
                for process_item in pipelines:
                    given, result = result, process_item(result)
                    if result is not given:
                        # Nearly all return what they were given, which need not be looked at.
                        result = await ensure_awaitable(result)
            except DropItem as error:
                reasons[type(error)] += 1
                continue
            except Exception as error:  # noqa: BLE001 - as Scrapy does: the others go on
                self._log_error(item, error, response)
                continue
            written.append(result)
            if result is not item:
                # What a pipeline made may be its own, to be filled anew for the next item.
                self._tell_scraped(written)
                written = []
        self._tell_scraped(written)
        if reasons:
            self.crawler.signals.send_catch_log(items_dropped, reasons=reasons)
        return ()

    def _tell_scraped(self, items: list[Any]) -> None:
        if items:
            self.crawler.signals.send_catch_log(items_scraped, items=items)

    def _log_error(self, item: Any, error: Exception, response: Response) -> None:
        spider = cast("Spider", self.crawler.spider)
        line = self.crawler.logformatter.item_error(item, error, response, spider)
        logger.log(*logformatter_adapter(line), extra={"spider": spider, "item": item}, exc_info=True)

    @cached_property
    def _pipelines(self) -> list[Callable[[Any], Any]]:
        processor = self.crawler.engine.scraper.itemproc
        return [each.process_item for each in processor.middlewares if hasattr(each, "process_item")]

    @cached_property
    def _goes_alone(self) -> bool:
        """Whether a component is there that has to see each item on its own."""
        scraper = self.crawler.engine.scraper
        return (
            type(scraper.itemproc) is not ItemPipelineManager
            or type(self.crawler.logformatter) is not LogFormatter
            or not all(map(_is_plain, self._pipelines))
            or any(map(_handles_output_of_others, scraper.spidermw.middlewares))
        )

    def _is_listened_to(self) -> bool:
        """Tell whether somebody listens for items who does not listen for batches."""
        listeners = [receivers(self.crawler, signal) for signal in _OF_ITEMS]
        if listeners != self._listeners:
            self._listeners = listeners
            self._has_others = bool(
                receivers(self.crawler, signals.item_error)
                or self._left_out(signals.item_scraped, items_scraped)
                or self._left_out(signals.item_dropped, items_dropped)
            )
        return self._has_others

    def _left_out(self, single: object, batch: object) -> bool:
        batched = {id(_owner(receiver)): receiver for receiver in receivers(self.crawler, batch)}
        return any(
            _is_newer(receiver, batched.get(id(_owner(receiver)))) for receiver in receivers(self.crawler, single)
        )


def _is_plain(process_item: Callable[[Any], Any]) -> bool:
    """Tell whether a pipeline takes an item and nothing else, and never waits."""
    return not inspect.iscoroutinefunction(process_item) and len(inspect.signature(process_item).parameters) == 1


def _handles_output_of_others(middleware: Any) -> bool:
    """Tell whether a spider middleware between the spider and the pipelines may want to see items."""
    is_known = type(middleware).__module__.startswith("scrapy.") or isinstance(middleware, BatchMiddleware)
    return not is_known and hasattr(middleware, "process_spider_output")


def _owner(receiver: Any) -> Any:
    """Return what tells components apart: Python makes bound methods anew each time."""
    return getattr(receiver, "__self__", receiver)


def _is_newer(single: Any, batch: Any) -> bool:
    """Tell whether what a component does with an item is not, or no longer, what it does with a batch.

    A class that was derived from it may have changed the one, and know nothing of the other.
    """
    if batch is None:
        return True
    classes = type(_owner(single)).__mro__
    places = [
        next((place for place, each in enumerate(classes) if getattr(method, "__name__", "") in vars(each)), 0)
        for method in (single, batch)
    ]
    return places[0] < places[1]
