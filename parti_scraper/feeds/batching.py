"""Page-sized batches: the records of a page pass the pipelines, the counts and the feeds together.

Scrapy processes each item on its own, which takes 200 µs and more before the first exporter gets it (measured, 2.19).
The middleware processes the items of a page at once. Spiders yield items, pipelines get items, and exporters write
items, as everywhere in Scrapy. Where a component of another project takes part, Scrapy processes them one by one.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Self

from scrapy import Request, signals
from scrapy.exceptions import DropItem, NotConfigured
from scrapy.extensions import corestats

from parti_scraper.scrapy_internals import item_processor, log_item_error, output_middlewares, pipelines, receivers
from parti_scraper.signals import items_dropped, items_scraped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from scrapy.crawler import Crawler
    from scrapy.http import Response

_OF_ITEMS = (signals.item_scraped, signals.item_dropped, signals.item_error)


class CoreStats(corestats.CoreStats):
    """Scrapy's, which counts batches too."""

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        core_stats = super().from_crawler(crawler)
        crawler.signals.connect(core_stats.items_scraped, items_scraped)
        crawler.signals.connect(core_stats.items_dropped, items_dropped)
        return core_stats

    def items_scraped(self, items: Sequence[Any]) -> None:
        self.stats.inc_value("item_scraped_count", len(items))

    def items_dropped(self, reasons: Counter[type[DropItem]]) -> None:
        self.stats.inc_value("item_dropped_count", reasons.total())
        for reason, number in reasons.items():
            self.stats.inc_value(f"item_dropped_reasons_count/{reason.__name__}", number)


class BatchMiddleware:
    """Next to the spider: collects the items it yields, until it yields a request or None, or ends.

    Scrapy ignores None. A spider yields it to have its items processed before it waits for something else.
    """

    def __init__(self, crawler: Crawler) -> None:
        if not crawler.settings.getbool("PARTI_BATCHING"):
            raise NotConfigured
        self.crawler = crawler

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        return cls(crawler)

    async def process_spider_output(self, response: Response, result: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Yield the requests; the items before each are processed or yielded first."""
        batch: list[Any] = []
        try:
            async for each in result:
                if each is not None and not isinstance(each, Request):
                    batch.append(each)
                    continue
                for item in self._take(batch, response):
                    yield item
                batch.clear()
                yield each
        except Exception:
            for item in self._take(batch, response):
                yield item
            raise
        for item in self._take(batch, response):
            yield item

    def _take(self, batch: Sequence[Any], response: Response) -> Sequence[Any]:
        """Take the items through the pipelines; return those that Scrapy must process one by one: all or none."""
        if not batch or not self._all_know_batches():
            return tuple(batch)
        pipes = pipelines(self.crawler)
        written: list[Any] = []
        reasons = Counter[type[DropItem]]()
        for item in batch:
            try:
                for pipeline in pipes:
                    pipeline.process_item(item)
            except DropItem as error:
                reasons[type(error)] += 1
            except Exception as error:  # noqa: BLE001 - as in Scrapy, it costs this item alone
                log_item_error(self.crawler, item, error, response)
            else:
                written.append(item)
        if written:
            self.crawler.signals.send_catch_log(items_scraped, items=written)
        if reasons:
            self.crawler.signals.send_catch_log(items_dropped, reasons=reasons)
        return ()

    def _all_know_batches(self) -> bool:
        """Tell whether all components that see items are this project's, or parts of Scrapy that do not look at them.

        Checked for each batch, since a component may begin to listen at any time.
        """
        crawler = self.crawler
        looking = [crawler.logformatter, *pipelines(crawler)]
        looking += [each for signal in _OF_ITEMS for each in receivers(crawler, signal)]
        passing = [item_processor(crawler), *output_middlewares(crawler)]
        return all(_is_of(each, "parti_scraper.") for each in looking) and all(
            _is_of(each, "parti_scraper.", "scrapy.") for each in passing
        )


def _is_of(component: Any, *packages: str) -> bool:
    """Tell whether a component, or the object of a bound method, is defined in one of the packages."""
    return str(getattr(getattr(component, "__self__", component), "__module__", "")).startswith(packages)
