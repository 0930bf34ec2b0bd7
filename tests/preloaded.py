"""What a crawl imports, imported once for all: the server from which the tests fork their crawls begins with this.

The project's settings are not among it: they read the environment as they are imported.
"""

from __future__ import annotations

import gc
import importlib
import warnings

# As each crawl has it from its environment.
warnings.simplefilter("error", DeprecationWarning)

from scrapy.utils.misc import load_object, walk_modules_iter  # noqa: E402

for package in (
    "parti_scraper.commands",
    "parti_scraper.extensions",
    "parti_scraper.spiders",
    "scrapy.commands",
    "scrapy.downloadermiddlewares",
    "scrapy.spidermiddlewares",
):
    list(walk_modules_iter(package))
for component in (
    "parti_scraper.feeds.batching.BatchMiddleware",
    "parti_scraper.feeds.log_formatter.LogFormatter",
    "scrapy.core.downloader.handlers.datauri.DataURIDownloadHandler",
    "scrapy.core.downloader.handlers.file.FileDownloadHandler",
    "scrapy.dupefilters.RFPDupeFilter",
    "scrapy.extensions.closespider.CloseSpider",
    "scrapy.extensions.logcount.LogCount",
    "scrapy.extensions.memusage.MemoryUsage",
    "scrapy.extensions.remote_control.RemoteControl",
    "scrapy.extensions.spiderstate.SpiderState",
    "scrapy.extensions.telnet.TelnetConsole",
    "scrapy.extensions.throttle.AutoThrottle",
    "scrapy.robotstxt.ProtegoRobotParser",
    "scrapy.squeues.PickleLifoDiskQueue",
):
    load_object(component)
# What commands import only where they need it: the engine of exports, drivers of targets, and what draws reports.
for module in (
    "altair",
    "duckdb",
    "jinja2",
    "obstore.store",
    "psycopg.conninfo",
    "vl_convert",
    "xlsxwriter",
):
    importlib.import_module(module)
# So that no process looks at all that again when it collects garbage, and gets a copy of it by that.
gc.collect()
gc.freeze()
