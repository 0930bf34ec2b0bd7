"""The project's components: its own spiders always have them, and other spiders never."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from parti_scraper.api import routes
from parti_scraper.mockserver import MockServer
from tests.support import STILL, Run, Scrapy, Serve, read_lines

OWN = """
import scrapy
from scrapy.exceptions import CloseSpider

class OwnSpider(scrapy.Spider):
    name = "own"

    def __init__(self, url, fault="", **kwargs):
        super().__init__(**kwargs)
        self.start_urls, self.fault = [url], fault

    def parse(self, response):
        for number, category in enumerate(response.json()):
            if number == 3 and self.fault == "enough":
                raise CloseSpider("enough")
            if number == 3 and self.fault == "raises":
                raise RuntimeError("half-way")
            yield {"id": category["category_id"]}
"""


# The beginnings of Scrapy's lists.
LISTS = ("Versions:", "Enabled extensions:", "Enabled item pipelines:", "Overridden settings:", "Dumping Scrapy stats:")


def categories_of(server: MockServer) -> str:
    """Return the address of the categories."""
    return routes.categories_url(server.base_url)


# --- Foreign spiders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spider", [(), ("--spider=recent",)], ids=["none", "recent"])
def test_scrapys_shell_and_fetch_work_and_make_no_run(
    scrapy: Scrapy, serve: Serve, output: Path, spider: tuple[str, ...]
) -> None:
    server = serve(**STILL)
    fetched = scrapy("fetch", "-L", "WARNING", *spider, categories_of(server), server=server)
    assert (fetched.returncode, fetched.stderr) == (0, "")
    assert len(json.loads(fetched.stdout)) == len(server.world.categories())
    shell = scrapy("shell", "-L", "WARNING", *spider, categories_of(server), "-c", "response.status", server=server)
    assert (shell.returncode, shell.stdout, shell.stderr) == (0, "200\n", "")
    assert not output.exists()


def test_scrapys_parse_works_and_makes_no_run(scrapy: Scrapy, serve: Serve, output: Path) -> None:
    server = serve(**STILL)
    typed = ("--nocolour", "--spider=categories", "-c", "parse_categories", categories_of(server))
    parsed = scrapy("parse", "-L", "ERROR", *typed, server=server)
    assert (parsed.returncode, parsed.stderr) == (0, "")
    assert parsed.stdout.count("'category_id':") == len(server.world.categories())
    assert not output.exists()


def test_scrapys_bench_works(scrapy: Scrapy) -> None:
    bench = scrapy("bench", "-L", "ERROR", "-s", "CLOSESPIDER_PAGECOUNT=20")
    assert (bench.returncode, bench.stderr) == (0, "")


def test_a_spider_in_its_own_file_runs(scrapy: Scrapy, serve: Serve, tmp_path: Path, output: Path) -> None:
    server = serve(**STILL)
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    typed = ("-a", f"url={categories_of(server)}", "-L", "WARNING", "-O", str(tmp_path / "own.jsonl"))
    run = scrapy("runspider", str(tmp_path / "own.py"), *typed, server=server)
    assert (run.returncode, run.stderr) == (0, "")
    assert len(read_lines(tmp_path / "own.jsonl")) == len(server.world.categories())
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        ((), 0, ""),
        (("-a", "fault=enough"), 0, ""),
        (("-s", 'ITEM_PIPELINES={"tests.components.Waiting": 1}', "-O", "-:csv"), 0, ""),
        (("-a", "fault=raises"), 3, "own: 1 exception, see the log\n"),
        (("-s", "CLOSESPIDER_ITEMCOUNT=2"), 3, "own: stopped before the end (closespider_itemcount)\n"),
        (("-a", "fault"), 2, "argument `fault`: without a value: 'fault' (accepted: -a fault=VALUE)\n"),
        (
            ("-O", "x://y.csv"),
            2,
            "feed `x://y.csv`: unknown scheme: 'x' (accepted: file, ftp, ftps, gs, s3, stdout)\n",
        ),
    ],
    ids=["well", "enough", "pipeline", "raises", "limit", "usage", "feed"],
)
def test_a_foreign_spider_runs_too(
    scrapy: Scrapy, serve: Serve, tmp_path: Path, output: Path, options: tuple[str, ...], code: int, text: str
) -> None:
    server = serve(**STILL)
    (tmp_path / "spiders_of_a_user.py").write_text(OWN, encoding="utf-8")
    typed = (
        "own",
        "-s",
        "SPIDER_MODULES=parti_scraper.spiders,spiders_of_a_user",
        "-a",
        f"url={categories_of(server)}",
    )
    env = {"PYTHONPATH": str(tmp_path)}
    run = scrapy("crawl", *typed, "--nolog", *options, server=server, env=env)
    assert (run.returncode, run.stderr) == (code, text)
    assert not output.exists()


def test_a_foreign_spider_retries_a_dead_host_as_often_as_scrapy_does(scrapy: Scrapy, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    typed = ("-a", "url=http://127.0.0.1:1/", "-s", "ROBOTSTXT_OBEY=False", "-s", "DOWNLOAD_DELAY=0.01")
    run = scrapy("runspider", str(tmp_path / "own.py"), *typed, "-s", "AUTOTHROTTLE_ENABLED=False")
    assert "'retry/count': 2," in run.stderr


def test_a_foreign_spider_is_logged_as_scrapy_logs_it(scrapy: Scrapy, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    server = serve(**STILL)
    run = scrapy("runspider", str(tmp_path / "own.py"), "-a", f"url={categories_of(server)}", server=server)
    assert all(f"INFO: {beginning}" in run.stderr for beginning in LISTS)


# --- The project's spiders ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("spider", "most"), [("categories", 12), ("recent", 25)])
def test_a_small_crawl_logs_a_few_lines_and_what_scrapy_lists_at_debug(
    crawl: Run, serve: Serve, spider: str, most: int
) -> None:
    server = serve(**STILL)
    run = crawl(spider, server=server)
    assert run.code == 0
    lines = run.stderr.splitlines()
    assert len(lines) <= most
    # The rest is the summary.
    assert sum(" INFO: " in line for line in lines) == 7
    assert len([line for line in lines if re.match(r"\d{4}-", line)]) == 7
    detailed = crawl(spider, "-L", "DEBUG", server=server, run_id="detailed").stderr
    assert all(f"DEBUG: {beginning}" in detailed for beginning in LISTS)


NONE_OF_OURS = [
    ("-s", f'{name}={{"{component}": 600}}')
    for name, component in [
        ("ITEM_PIPELINES", "tests.components.Passing"),
        ("EXTENSIONS", "scrapy.extensions.periodic_log.PeriodicLog"),
        ("SPIDER_MIDDLEWARES", "scrapy.spidermiddlewares.depth.DepthMiddleware"),
        ("DOWNLOADER_MIDDLEWARES", "scrapy.downloadermiddlewares.httpauth.HttpAuthMiddleware"),
    ]
]


@pytest.mark.parametrize(
    "option",
    [
        *NONE_OF_OURS,
        *(("-s", f"{name}={{}}") for name in ("ITEM_PIPELINES", "EXTENSIONS", "FEED_STORAGES", "FEED_EXPORTERS")),
    ],
)
def test_components_of_a_user_are_added_to_the_projects(crawl: Run, serve: Serve, option: tuple[str, ...]) -> None:
    many = ("-s", "PARTI_MAX_REJECTED=1")
    run = crawl("recent", *option, *many, server=serve(**STILL, malformed=0.1, page_cap=40), max_records=150)
    assert run.code == 0
    counts = run.package["counts"]
    assert run.package["truncated"]
    assert (len(run.rows), len(run.csv_rows), counts["written"]) == (150, 150, 150)
    assert min(counts["duplicate"], counts["quarantined"]) > 0


@pytest.mark.parametrize(
    ("setting", "value", "problem"),
    [
        (
            "ITEM_PIPELINES",
            '{"parti_scraper.feeds.pipelines.MaxRecordsPipeline": null}',
            "'None' (accepted: 400, or none)",
        ),
        ("ITEM_PIPELINES", '{"parti_scraper.feeds.pipelines.DuplicatesPipeline": 50}', "'50' (accepted: 300, or none)"),
        ("EXTENSIONS", '{"parti_scraper.extensions.recorder.RunRecorder": null}', "'None' (accepted: 800, or none)"),
        ("EXTENSIONS", '{"scrapy.extensions.feedexport.FeedExporter": 0}', "'0' (accepted: None, or none)"),
        (
            "DOWNLOADER_MIDDLEWARES",
            '{"parti_scraper.network.retry.RetryMiddleware": null}',
            "'None' (accepted: 550, or none)",
        ),
    ],
)
def test_a_run_without_the_components_that_keep_its_promises_is_refused(
    scrapy: Scrapy, output: Path, setting: str, value: str, problem: str
) -> None:
    run = scrapy("crawl", "recent", "-s", f"{setting}={value}")
    (name,) = json.loads(value)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == f"setting `{setting}`: `{name}` is not to be moved, removed or enabled again: {problem}\n"
    assert not output.exists()


@pytest.mark.parametrize(
    "setting", ["EXTENSIONS_BASE={}", "ITEM_PIPELINES_BASE={}", "STATS_CLASS=tests.components.NoStats"]
)
def test_there_is_no_other_way_around_these_components(scrapy: Scrapy, output: Path, setting: str) -> None:
    run = scrapy("crawl", "recent", "-s", setting)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
    assert run.stderr.startswith("setting `")
    assert not output.exists()


@pytest.mark.parametrize("name", ["nosuch", "nosuch.Stats", "parti_scraper.Nosuch", "parti_scraper.api.routes"])
def test_an_invalid_stats_collector_is_one_line(scrapy: Scrapy, output: Path, name: str) -> None:
    run = scrapy("crawl", "recent", "-s", f"STATS_CLASS={name}", "-L", "ERROR")
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
    assert run.stderr.startswith("The spider could not be started: ")
    assert not output.exists()


@pytest.mark.parametrize("options", [(), ("-s", "PARTI_BATCHING=false")], ids=["together", "alone"])
@pytest.mark.parametrize("place", [50, 600])
def test_records_that_a_users_pipeline_drops_are_counted_separately(
    crawl: Run, serve: Serve, place: int, options: tuple[str, ...]
) -> None:
    server = serve(**STILL, page_cap=40)
    pipelines = json.dumps({"tests.components.Dropping": place})
    run = crawl("recent", "-s", f"ITEM_PIPELINES={pipelines}", *options, server=server)
    assert run.code == 0, run.stderr
    counts = run.package["counts"]
    kept = sorted(record["event_id"] for record in server.world.recent_at() if record["event_id"] % 3)
    assert sorted(row["event_id"] for row in run.rows) == kept
    assert counts["dropped"] >= 300 - len(kept) > 50
    assert f"{counts['dropped']} dropped by other pipelines" in run.stderr
