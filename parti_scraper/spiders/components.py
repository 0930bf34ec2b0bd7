"""The components of this project's spiders. Other spiders run with Scrapy's, which need no run.

They are in the settings whose names end in `_BASE`, like Scrapy's own: what a user sets in `ITEM_PIPELINES` and the
like is added to them. Each has its default beside it, and why it differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scrapy.settings import default_settings
from scrapy.statscollectors import DummyStatsCollector
from scrapy.utils.misc import load_object

from parti_scraper.exceptions import UsageError

if TYPE_CHECKING:
    from scrapy.settings import BaseSettings

_EXTENSIONS = {
    # In place of Scrapy's, which does not count batches.
    "scrapy.extensions.corestats.CoreStats": None,
    "parti_scraper.feeds.batching.CoreStats": 0,
    # In place of Scrapy's, which continues where a record cannot be stored.
    "scrapy.extensions.feedexport.FeedExporter": None,
    "parti_scraper.feeds.exporter.FeedExporter": 0,
    "parti_scraper.extensions.recorder.RunRecorder": 800,
    "parti_scraper.extensions.progress.Progress": 900,
    "parti_scraper.extensions.progress.LoggedProgress": 901,
    "parti_scraper.operations.going_on.GoingOn": 910,
}
_ITEM_PIPELINES = {
    "parti_scraper.feeds.pipelines.QuarantinePipeline": 100,
    "parti_scraper.feeds.pipelines.SelectionPipeline": 200,
    "parti_scraper.feeds.pipelines.DuplicatesPipeline": 300,
    "parti_scraper.feeds.pipelines.VersionsPipeline": 350,
    "parti_scraper.feeds.pipelines.MaxRecordsPipeline": 400,
}
_DOWNLOADER_MIDDLEWARES = {
    # Scrapy's neither waits nor reads Retry-After.
    "scrapy.downloadermiddlewares.retry.RetryMiddleware": None,
    "parti_scraper.network.retry.RetryMiddleware": 550,
    # Scrapy's does not know ALL_PROXY.
    "scrapy.downloadermiddlewares.httpproxy.HttpProxyMiddleware": None,
    "parti_scraper.network.proxies.ProxyMiddleware": 750,
    # Scrapy's gives up on a compressed body that was cut short.
    "scrapy.downloadermiddlewares.httpcompression.HttpCompressionMiddleware": None,
    "parti_scraper.network.http.DecompressionMiddleware": 590,
    # It sees redirects and what comes from the cache.
    "parti_scraper.network.source.SourceMiddleware": 940,
    # After all of Scrapy's, the last of which is the cache at 900, so that none sees the token.
    "parti_scraper.network.token.TokenMiddleware": 950,
    # Cookies are disabled; loading it would import requests, which takes a tenth of the start.
    "scrapy.downloadermiddlewares.cookies.CookiesMiddleware": None,
}
_SPIDER_MIDDLEWARES = {
    # Next to the spider.
    "parti_scraper.feeds.batching.BatchMiddleware": 1000,
    # Pages follow each other endlessly, so depth means nothing; each middleware costs every page some time.
    "scrapy.spidermiddlewares.depth.DepthMiddleware": None,
    "scrapy.spidermiddlewares.start.StartSpiderMiddleware": None,
}
_FEED_EXPORTERS = {
    "csv": "parti_scraper.feeds.exporters.CsvItemExporter",
    **dict.fromkeys(("jsonlines", "jsonl", "jl"), "parti_scraper.feeds.exporters.JsonLinesItemExporter"),
}
_ON_TOP: dict[str, dict[str, Any]] = {
    "DOWNLOADER_MIDDLEWARES": _DOWNLOADER_MIDDLEWARES,
    "EXTENSIONS": _EXTENSIONS,
    "FEED_EXPORTERS": _FEED_EXPORTERS,
    "FEED_STORAGES": {"run": "parti_scraper.feeds.exporters.RunFeedStorage"},
    "ITEM_PIPELINES": _ITEM_PIPELINES,
    "SPIDER_MIDDLEWARES": _SPIDER_MIDDLEWARES,
}
# By the settings that enable them: loading one imports a server, which takes time at the start.
_ENABLED_BY = {
    "scrapy.extensions.remote_control.RemoteControl": "REMOTE_CONTROL_ENABLED",
    "scrapy.extensions.telnet.TelnetConsole": "TELNETCONSOLE_ENABLED",
}
# Default: none. `run:` is the run's own folder; `-o`, `-O` and `-s FEEDS=` replace both.
_FEEDS = {"run:%(collection)s.jsonl": {"format": "jsonlines"}, "run:%(collection)s.csv": {"format": "csv"}}
# Default: Scrapy's, which writes each record, hostile titles and line breaks included, into the log.
_LOG_FORMATTER = "parti_scraper.feeds.log_formatter.LogFormatter"
# Default: 2. Ends a request that fails while others succeed; where none does, PARTI_RETRY_PATIENCE ends them all. Other
# spiders keep 2, since Scrapy's own retries do not wait.
_RETRY_TIMES = 60
# What the promises of a run depend on: the rest only saves time, or shows progress.
_NEEDED = {
    "DOWNLOADER_MIDDLEWARES": (
        "parti_scraper.network.retry.RetryMiddleware",
        "parti_scraper.network.source.SourceMiddleware",
    ),
    "EXTENSIONS": tuple(name for name in _EXTENSIONS if not name.endswith((".Progress", ".GoingOn"))),
    "ITEM_PIPELINES": tuple(_ITEM_PIPELINES),
}


def install(settings: BaseSettings, *, is_run: bool) -> None:
    """Add the project's components to a spider's settings; what a user has set stays.

    Args:
        settings: the spider's.
        is_run: whether there is a run, with a folder for its files.
    """
    for name, components in _ON_TOP.items():
        together = getattr(default_settings, f"{name}_BASE") | components
        # Those that are None or disabled are left out already here, since Scrapy loads what is named.
        enabled = {
            each: place
            for each, place in together.items()
            if place is not None and (each not in _ENABLED_BY or settings.getbool(_ENABLED_BY[each]))
        }
        settings.set(f"{name}_BASE", enabled, priority="spider")
    alone = {"FEEDS": _FEEDS if is_run else {}, "LOG_FORMATTER": _LOG_FORMATTER, "RETRY_TIMES": _RETRY_TIMES}
    for name, value in alone.items():
        if not settings.getpriority(name):
            settings.set(name, value, priority="spider")


def check(settings: BaseSettings) -> None:
    """Check that the components that a run's promises depend on are all there. Raises UsageError."""
    for setting, names in _NEEDED.items():
        try:
            found = settings.get_component_priority_dict_with_base(setting)
        except (AttributeError, ImportError):
            continue  # The crawl will not start, and says why.
        for name in names:
            place = _ON_TOP[setting][name]
            is_replaced = place is not None and name not in found and _is_derived(name, found)
            if found.get(name) != place and not is_replaced:
                problem = f"`{name}` is not to be moved, removed or enabled again"
                raise UsageError.of("setting", setting, problem, str(settings[setting].get(name)), f"{place}, or none")
    try:
        counts_nothing = issubclass(load_object(settings["STATS_CLASS"]), DummyStatsCollector)
    except (ImportError, NameError, TypeError, ValueError):
        return  # The same.
    if counts_nothing:
        problem = "it counts nothing, and a run is judged by its counts"
        raise UsageError.of("setting", "STATS_CLASS", problem, settings["STATS_CLASS"], default_settings.STATS_CLASS)


def _is_derived(name: str, components: BaseSettings) -> bool:
    """Tell whether a subclass of a component takes its place."""
    return any(issubclass(load_object(each), load_object(name)) for each in components)
