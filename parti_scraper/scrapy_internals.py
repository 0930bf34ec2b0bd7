"""Every place that touches what Scrapy does not promise, each as a function that says what breaks without it.

All work with Scrapy 2.19, the one minor version that `pyproject.toml` allows; for another version,
`tests/test_scrapy_internals.py` names those that it breaks. What a subclass of one of Scrapy's classes overrides, or
reads of itself, stays in that subclass:

- `feeds/exporter.py`, of `FeedExporter`: `slots`, `filters`, `item_scraped`, `close_spider`, `_start_new_batch`, and
  the attributes of `FeedSlot` without an underscore.
- `feeds/exporters.py`, of `CsvItemExporter`: `stream`, `fields_to_export`, `_kwargs`, `_headers_not_written`,
  `_write_headers_and_set_fields_to_export`.
- `feeds/batching.py`, of `CoreStats`: `stats`. `feeds/log_formatter.py`: names of loggers.
- `network/http.py`, of `AiohttpDownloadHandler`: `_make_request`, `_read_response` and what they use; `make_response`.
- `network/proxies.py`, of `HttpProxyMiddleware`: `_set_proxy_and_creds`.
- `commands/crawl.py`, of `scrapy crawl`: `_create_crawler`, and what `CrawlerProcess.crawl` returns.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydispatch.dispatcher import getAllReceivers, liveReceivers
from scrapy import cmdline
from scrapy.extensions import feedexport
from scrapy.utils.conf import feed_complete_default_values_from_settings
from scrapy.utils.defer import deferred_from_coro
from scrapy.utils.log import get_scrapy_root_handler, logformatter_adapter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scrapy import Request
    from scrapy.commands import ScrapyCommand
    from scrapy.core.downloader.handlers._aiohttp import _ClientResponse
    from scrapy.crawler import Crawler
    from scrapy.exporters import BaseItemExporter
    from scrapy.extensions.feedexport import FeedSlot, ItemFilter
    from scrapy.http import Response
    from scrapy.settings import BaseSettings

# The commands:


def commands(settings: BaseSettings, inproject: bool) -> dict[str, ScrapyCommand]:
    """Return the commands by name, as Scrapy finds them; or neither `parti` nor an error could list them."""
    return cmdline._get_commands_dict(settings, inproject)  # noqa: SLF001 - see above


def on_unknown_command(report: Callable[[BaseSettings, str, bool], None]) -> None:
    """Have a function called for a word that is no command; or Scrapy would print several lines without a hint."""
    cmdline._print_unknown_command = report  # type: ignore[assignment] # noqa: SLF001 - see above


def on_unknown_command_outside(report: Callable[[str], None]) -> None:
    """Have a function called for a word that is no command outside of any project; or nothing would name `parti`."""
    usual = cmdline._print_unknown_command  # noqa: SLF001 - see above

    def print_unknown(settings: BaseSettings, name: str, inproject: bool) -> None:
        if inproject:
            usual(settings, name, inproject)
        else:
            report(name)

    on_unknown_command(print_unknown)


def name_in_usage(program: str) -> None:
    """Have the usage of commands name this program; or it would name `scrapy`, which works in the project alone."""

    class Parser(cmdline.ScrapyArgumentParser):
        def __init__(self, *, usage: str, **options: Any) -> None:
            super().__init__(usage=usage.replace("scrapy", program, 1), **options)

    cmdline.ScrapyArgumentParser = Parser  # type: ignore[misc, assignment]


# The engine:


def is_closing(crawler: Crawler) -> bool:
    """Tell whether the crawl is about to end; or requests would wait for their turn long after a stop.

    `needs_backout()` of the engine is true too while the downloader is full.
    """
    engine = crawler.engine
    slot = engine._slot  # noqa: SLF001 - see above
    return not engine.running or slot is None or slot.closing is not None


def close_spider(crawler: Crawler, reason: str) -> None:
    """Close the spider; the reason becomes its finish reason. Without it, a full disk would not stop a run."""
    deferred_from_coro(crawler.engine.close_spider_async(reason=reason))


def receivers(crawler: Crawler, signal: object) -> list[Any]:
    """Return who listens for a signal; or others would miss what is done in batches, or read at once."""
    return list(liveReceivers(getAllReceivers(crawler, signal)))


# The way of an item:


def item_processor(crawler: Crawler) -> Any:
    """Return what takes items through the pipelines; or another one would miss the items of batches."""
    return crawler.engine.scraper.itemproc


def pipelines(crawler: Crawler) -> list[Any]:
    """Return the item pipelines in their order; or batches would pass none."""
    return [each for each in item_processor(crawler).middlewares if hasattr(each, "process_item")]


def output_middlewares(crawler: Crawler) -> list[Any]:
    """Return the spider middlewares that see what spiders yield; or others would miss the items of batches."""
    spider_middlewares = crawler.engine.scraper.spidermw.middlewares
    return [each for each in spider_middlewares if hasattr(each, "process_spider_output")]


def log_item_error(crawler: Crawler, item: Any, error: Exception, response: Response) -> None:
    """Log an exception of a pipeline as Scrapy does; or a run in which one fails would seem good."""
    spider = crawler.spider
    assert spider is not None  # noqa: S101 - it has yielded the item
    line = crawler.logformatter.item_error(item, error, response, spider)
    logger = logging.getLogger("scrapy.core.scraper")
    logger.log(*logformatter_adapter(line), extra={"spider": spider, "item": item}, exc_info=error)


def root_handler() -> logging.Handler | None:
    """Return what writes the log of the process; or log lines would be written into the line of progress."""
    return get_scrapy_root_handler()


# Feeds:


def feeds_of(settings: BaseSettings, feeds: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the options of each feed, completed as Scrapy will; or the check would miss wrong ones."""
    return {uri: feed_complete_default_values_from_settings(dict(feeds[uri]), settings, uri) for uri in feeds}


def fill_in(uri: str, names: dict[str, Any]) -> str:
    """Return the address of a feed as Scrapy fills it in; or the check would miss wrong names.

    Raises:
        KeyError, TypeError, ValueError: it cannot be filled in.
    """
    return feedexport.apply_uri_params(uri, names)


def next_file(exporter: feedexport.FeedExporter, slot: FeedSlot) -> FeedSlot:
    """Return a slot like this one, with a file of its own; or a run could not have one file a day."""
    return exporter._start_new_batch(  # noqa: SLF001 - see above
        slot.batch_id, slot.uri, slot.feed_options, slot.spider, slot.uri_template
    )


def exporter_class(slot: FeedSlot) -> type[BaseItemExporter]:
    """Return what writes the file, which need not be open; or others would miss the items of batches."""
    return slot.exporters[slot.format]


def takes_every_item(accepts: ItemFilter) -> bool:
    """Tell whether the filter of a feed is none; or records left out would seem lost."""
    return type(accepts) is feedexport.ItemFilter and not accepts.item_classes


def local_path(slot: FeedSlot) -> Path | None:
    """Return where a feed is stored on this machine; or one that cannot be written would cost all records."""
    return Path(slot.storage.path) if isinstance(slot.storage, feedexport.FileFeedStorage) else None


def appends(slot: FeedSlot) -> bool:
    """Tell whether a feed goes on with what is in its file; or records of others would be taken for this run's."""
    return isinstance(slot.storage, feedexport.FileFeedStorage) and slot.storage.write_mode == "ab"


def failed_feeds(crawler: Crawler, storage: str) -> int:
    """Return how many feeds could not be stored, by the class name of their storage; or it would stay unnoticed."""
    failed: int = crawler.stats.get_value(f"feedexport/failed_count/{storage}", 0)
    return failed


# Requests:

# What Scrapy's middleware for proxies writes into the `meta` of a request.
PROXY_META = frozenset({"proxy", "_auth_proxy", "_scheme_proxy"})


def has_proxy_of_environment(request: Request) -> bool:
    """Tell whether the proxy was taken from the environment; or a retry at another host would keep it."""
    return bool(request.meta.get("_scheme_proxy"))


def has_peer(response: _ClientResponse) -> bool:
    """Tell whether the connection was still open when the answer came; if not, Scrapy fails with a traceback."""
    return response._peername is not None  # noqa: SLF001 - see above
