"""Batches: apart from the time it takes, nothing distinguishes them from items that are processed one by one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support import STILL, Crawl, Run, Scrapy, Serve, ids, read_lines, truth

# One request at a time, because the order of the pages is that of the answers.
ALONE = ("-s", "CONCURRENT_REQUESTS=1", "-s", "CONCURRENT_REQUESTS_PER_DOMAIN=1", "--loglevel", "WARNING")
OFF = ("-s", "PARTI_BATCHING=false")
# Only the times of receipt differ in every run.
MOMENT = re.compile(rb'("(?:scraped|observed|received)_at": ?"[^"]*"|(?<=,)2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\dZ(?=,))')
PORT = re.compile(rb"127\.0\.0\.1:\d+")


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of a run, without times of receipt and the port of the server."""
    return {
        path.name: PORT.sub(b"", MOMENT.sub(b"", path.read_bytes()))
        for path in sorted(folder.iterdir())
        if path.suffix in {".csv", ".jsonl", ".json", ".jl", ".xml"} and path.name != "datapackage.json"
    }


FEEDS: dict[str, dict[str, Any]] = {
    "run:all.json": {"format": "json"},
    "run:some.csv": {"format": "csv", "fields": ["event_title", "event_id"]},
    "run:titles.xml": {"format": "xml", "fields": {"event_title": "title"}},
}


PIPELINES = {"tests.components.Upper": 500}
REUSING = {"tests.components.Reusing": 500}


@pytest.mark.parametrize(
    ("spider", "server_options", "options", "arguments"),
    [
        ("categories", {"malformed": 0.3}, (), {}),
        ("recent", {}, (), {}),
        (
            "recent",
            {
                "malformed": 0.06,
            },
            (),
            {"limit": 20},
        ),
        ("recent", {"categories": "ignored"}, (), {"categories": "7,IRL", "since": "2026-08-01"}),
        ("recent", {}, (), {"max_records": 130, "limit": 15}),
        ("recent", {}, (), {"incremental": "true", "limit": 40}),
        ("recent", {}, ("-s", f"FEEDS={json.dumps(FEEDS)}"), {"limit": 70}),
        ("recent", {}, ("-s", f"ITEM_PIPELINES={json.dumps(PIPELINES)}"), {}),
        ("recent", {}, ("-s", f"ITEM_PIPELINES={json.dumps(REUSING)}"), {}),
        ("live", {"malformed": 0.06, "live": 200}, (), {"limit": 15}),
        ("scheduled", {"malformed": 0.06, "scheduled": 200, "page_cap": 15}, (), {}),
    ],
    ids=[
        "categories",
        "recent",
        "malformed",
        "filtered",
        "cut",
        "incremental",
        "feeds",
        "pipeline",
        "reusing",
        "live",
        "scheduled",
    ],
)
def test_the_files_are_the_same_with_and_without(
    crawl: Run,
    serve: Serve,
    tmp_path: Path,
    spider: str,
    server_options: dict[str, Any],
    options: tuple[str, ...],
    arguments: dict[str, Any],
) -> None:
    def run(number: int, *more: str) -> Crawl:
        return crawl(
            spider,
            *(*ALONE, *options, *more),
            server=serve(**(STILL | server_options)),
            run_id=f"run-{number}",
            # Its own state, because the ledger knows what an incremental run has written.
            env={"PARTI_STATE_DIR": str(tmp_path / f"state-{number}")},
            **arguments,
        )

    together, alone = run(0), run(1, *OFF)
    assert together.code == alone.code
    assert together.package["counts"] == alone.package["counts"]
    assert together.package["counts"]["written"] > 0
    assert {name: text.replace(b"run-1", b"run-0") for name, text in files(alone.folder).items()} == files(
        together.folder
    )


# --- Components that need single items get them ------------------------------------------------------------


def heard(run: Crawl) -> dict[str, int]:
    """Return how often the extension of a run received something."""
    return dict(json.loads(run.stdout))


def with_extension(name: str) -> tuple[str, str]:
    """Return the options for a run with one more extension."""
    extensions = {f"tests.components.{name}": 1}
    return ("-s", f"EXTENSIONS={json.dumps(extensions)}")


def test_the_records_of_a_page_are_passed_on_together(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    run = crawl("recent", *with_extension("BatchListener"), *ALONE, server=server)
    assert run.code == 0
    pages = run.package["counts"]["pages"]
    # Most of the pages only probe the end of the list, and are empty.
    assert 3 <= heard(run)["items_scraped"] <= 8 < pages
    assert run.package["counts"]["written"] == 300


@pytest.mark.parametrize("options", [(), OFF], ids=["with", "without"])
def test_an_extension_that_listens_for_items_gets_each(crawl: Run, serve: Serve, options: tuple[str, ...]) -> None:
    run = crawl("recent", *with_extension("Listener"), *ALONE, *options, server=serve(**STILL, malformed=0.05))
    assert run.code == 0
    counts = run.package["counts"]
    dropped = counts["duplicate"] + counts["quarantined"]
    assert heard(run) == {"item_scraped": counts["written"], "item_dropped": dropped}
    assert dropped > 0


SPIDER_MIDDLEWARES = {"tests.components.Seeing": 950}
EXPORTERS = {"csv": "tests.components.SeeingCsv"}
EXTENSIONS = {
    "parti_scraper.feeds.exporter.FeedExporter": None,
    "tests.components.SeeingFeeds": 0,
}
FAILING = {"tests.components.FailingPipeline": 500}


@pytest.mark.parametrize(
    "options",
    [
        ("-s", f"SPIDER_MIDDLEWARES={json.dumps(SPIDER_MIDDLEWARES)}"),
        ("-s", "ITEM_PROCESSOR=tests.components.SeeingProcessor"),
        ("-s", "LOG_FORMATTER=tests.components.SeeingFormatter"),
        ("-s", f"FEED_EXPORTERS={json.dumps(EXPORTERS)}"),
        ("-s", f"EXTENSIONS={json.dumps(EXTENSIONS)}"),
        (*with_extension("SeeingErrors"), "-s", f"ITEM_PIPELINES={json.dumps(FAILING)}"),
        (*with_extension("SeeingDropped"), "-a", "since=2026-10-31T23:59:59Z"),
    ],
    ids=["middleware", "processor", "formatter", "exporter", "feeds", "errors", "dropped"],
)
def test_a_component_that_needs_each_item_gets_each(crawl: Run, serve: Serve, options: tuple[str, ...]) -> None:
    # If the server ignores the filter, nearly all records are dropped.
    server = serve(**STILL | {"events": 60}, time_filter="ignored")
    run = crawl("recent", *options, *ALONE, server=server)
    assert run.stdout.count("seen") >= 50


def test_records_before_a_failing_callback_are_written(crawl: Run, serve: Serve, tmp_path: Path) -> None:
    spider = tmp_path / "spiders_of_a_user.py"
    spider.write_text(
        "from parti_scraper.spiders.categories import CategoriesSpider\n"
        "class Failing(CategoriesSpider):\n"
        "    name = 'failing'\n"
        "    def categories_received(self, page):\n"
        "        yield from super().categories_received(page)\n"
        "        raise RuntimeError('half-way')\n",
        encoding="utf-8",
    )
    modules = ("-s", "SPIDER_MODULES=parti_scraper.spiders,spiders_of_a_user")
    run = crawl("failing", *modules, "--nolog", server=serve(**STILL), env={"PYTHONPATH": str(tmp_path)})
    assert run.code == 3
    assert len(run.rows) == len(serve(**STILL).world.categories())


def test_a_pipeline_that_waits_gets_each_item(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    pipelines = {"tests.components.Waiting": 500}
    run = crawl("recent", "-s", f"ITEM_PIPELINES={json.dumps(pipelines)}", *ALONE, server=server)
    assert run.code == 0
    assert ids(run.rows) == ids(truth(server))


SETTINGS_OF_A_USER = """
from parti_scraper.items import Livestream
from parti_scraper.settings import *

ITEM_PIPELINES = {"spidermon.contrib.scrapy.pipelines.ItemValidationPipeline": 500}
SPIDERMON_VALIDATION_SCHEMAS = {Livestream: {"properties": {"total_viewers": {"minimum": 500}}}}
"""


def test_a_foreign_validating_pipeline_gets_each_record_once(crawl: Run, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "settings_of_a_user.py").write_text(SETTINGS_OF_A_USER, encoding="utf-8")
    server = serve(**STILL)
    env = {"PYTHONPATH": str(tmp_path), "SCRAPY_SETTINGS_MODULE": "settings_of_a_user", "PYTHONWARNINGS": "error"}
    run = crawl("recent", "-s", "SPIDERMON_ENABLED=1", "-s", "LOG_LEVEL=DEBUG", server=server, env=env)
    assert run.code == 0, run.stderr
    assert sorted(ids(run.rows)) == sorted(ids(truth(server)))
    wrong = sum(record["total_viewers"] < 500 for record in truth(server))
    assert 0 < wrong < 300
    assert "'spidermon/validation/items': 300,\n" in run.stderr
    assert f"'spidermon/validation/items/errors': {wrong},\n" in run.stderr
    assert "WARNING" not in run.stderr


def test_scrapys_limit_on_items_ends_the_run(crawl: Run, serve: Serve) -> None:
    run = crawl("recent", "-s", "CLOSESPIDER_ITEMCOUNT=50", *ALONE, server=serve(**STILL), limit=20)
    assert run.code == 3
    assert "STOPPED" in run.stderr
    assert 50 <= len(read_lines(run.folder / "livestreams.jsonl")) < 100


def test_a_value_that_is_neither_true_nor_false_is_a_usage_error(scrapy: Scrapy, serve: Serve) -> None:
    server = serve(**STILL)
    run = scrapy("crawl", "recent", "-s", "PARTI_BATCHING=perhaps", server=server)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "setting `PARTI_BATCHING`: neither true nor false: 'perhaps' (accepted: true, false)\n"
    assert server.requests == []
