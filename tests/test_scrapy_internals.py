"""The parts of Scrapy's private interface that are used: names those that a new Scrapy has changed."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import pytest
from scrapy import cmdline
from scrapy.commands.crawl import Command
from scrapy.core.downloader.handlers._aiohttp import AiohttpDownloadHandler
from scrapy.downloadermiddlewares.httpproxy import HttpProxyMiddleware
from scrapy.exporters import CsvItemExporter
from scrapy.extensions.corestats import CoreStats
from scrapy.extensions.feedexport import FeedExporter, ItemFilter
from scrapy.http import Request
from scrapy.settings import Settings
from scrapy.utils._download_handlers import make_response

from parti_scraper import scrapy_internals
from tests.support import STILL, Run, Serve

# The parameters of methods that are overridden, or called without a wrapper.
METHODS: list[tuple[Callable[..., Any], str]] = [
    (AiohttpDownloadHandler._build_base_response_args, "response request headers"),
    (AiohttpDownloadHandler._extract_proxy, "request"),
    (AiohttpDownloadHandler._make_request, "self request timeout"),
    (AiohttpDownloadHandler._read_response, "self response request"),
    (AiohttpDownloadHandler._request_headers, "request"),
    (Command._create_crawler, "self spidercls"),
    (CoreStats.from_crawler, "crawler"),
    (CsvItemExporter._write_headers_and_set_fields_to_export, "self item"),
    (FeedExporter._start_new_batch, "self batch_id uri feed_options spider uri_template"),
    (FeedExporter.close_spider, "self spider"),
    (FeedExporter.item_scraped, "self item spider"),
    (HttpProxyMiddleware._set_proxy_and_creds, "self request proxy_url creds scheme"),
    (cmdline._get_commands_dict, "settings inproject"),
    (cmdline._print_unknown_command, "settings cmdname inproject"),
    (make_response, "url status headers body flags certificate ip_address protocol stop_download"),
]


@pytest.mark.parametrize(("method", "parameters"), METHODS, ids=lambda each: getattr(each, "__qualname__", ""))
def test_a_method_has_the_same_parameters(method: Callable[..., Any], parameters: str) -> None:
    assert " ".join(inspect.signature(method).parameters) == parameters


def test_the_parts_of_a_crawl_are_found(crawl: Run, serve: Serve) -> None:
    extensions = json.dumps({"tests.components.LookingInside": 1})
    run = crawl("recent", "-s", f"EXTENSIONS={extensions}", server=serve(**STILL))
    assert run.code == 3
    assert json.loads(run.stdout) == {
        "close_spider": "probed",
        "exporter_class": ["CsvItemExporter", "JsonLinesItemExporter"],
        "failed_feeds": 0,
        "is_closing": [False, True],
        "item_processor": "ItemPipelineManager",
        "local_path": [None, None],
        "log_item_error": ["scrapy.core.scraper", "ValueError"],
        "output_middlewares": ["RefererMiddleware", "MetaCopyDetectionMiddleware", "BatchMiddleware"],
        "pipelines": ["QuarantinePipeline", "SelectionPipeline", "DuplicatesPipeline"],
        "receivers": 2,
        "root_handler": "StreamHandler",
        "takes_every_item": [True, True],
    }


def test_feeds_are_completed_and_named_as_scrapy_does() -> None:
    feeds = scrapy_internals.feeds_of(Settings(), {"x.csv": {"format": "csv"}})
    assert {"encoding", "fields", "item_export_kwargs", "batch_item_count", "uri_params"} <= feeds["x.csv"].keys()
    assert scrapy_internals.fill_in("%(name)s 100% %(batch_id)d.csv", {"name": "x", "batch_id": 1}) == "x 100% 1.csv"
    assert not scrapy_internals.takes_every_item(ItemFilter({"item_classes": [dict]}))


def test_a_proxy_of_the_environment_is_distinguished_from_one_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://user:password@127.0.0.1:1")
    of_environment = Request("http://127.0.0.2/")
    own = Request("http://127.0.0.2/", meta={"proxy": "http://127.0.0.1:1"})
    for request in (of_environment, own):
        HttpProxyMiddleware().process_request(request)
    assert scrapy_internals.has_proxy_of_environment(of_environment)
    assert not scrapy_internals.has_proxy_of_environment(own)
    assert of_environment.meta.keys() == scrapy_internals.PROXY_META
