"""The project's own signals, beside those of Scrapy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

# Sent with `problem`, a part of a sentence, where something cannot be stored.
storage_failed = object()
# Sent for a batch in place of Scrapy's `item_scraped` and `item_dropped` for each item: with `items`, those that were
# scraped; with `reasons`, a Counter of the exceptions' classes for which others were dropped.
items_scraped = object()
items_dropped = object()
# Sent by the spiders where a run could later resume from; its handlers may be coroutines.
checkpoint = object()


def send_storage_failed(crawler: Crawler, what: str, error: OSError) -> None:
    """Tell the run that something cannot be written."""
    crawler.signals.send_catch_log(storage_failed, problem=f"{what} cannot be written: {error.strerror or error}")
