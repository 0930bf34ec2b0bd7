"""The files: the user's own feeds instead of the two, and data packages that Frictionless accepts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from frictionless import validate

from tests.support import NOW, QUIET, STILL, Crawl, Run, Serve, ids, read_csv, read_lines, truth


def assert_valid(crawl: Crawl) -> None:
    """Assert that the data package is valid by the reference implementation, files and rows included."""
    report = validate(str(crawl.folder / "datapackage.json"))
    assert report.valid, report.flatten(["type", "message"])[:5]


# --- The user's own feeds ----------------------------------------------------------------------------------


def test_a_feed_of_the_user_replaces_the_two_files(crawl: Run, serve: Serve, tmp_path: Path) -> None:
    server = serve(**STILL)
    csv, lines = tmp_path / "made/for it/x.csv", tmp_path / "x.txt"
    csv.parent.mkdir(parents=True)
    csv.write_text("what was there before\n", encoding="utf-8")
    run = crawl("recent", "-O", str(csv), "-O", f"{lines}:jsonlines", server=server)
    assert run.code == 0
    assert [int(row["event_id"]) for row in read_csv(csv)] == ids(read_lines(lines)) == ids(truth(server))
    assert list(read_csv(csv)[0]) == list(read_lines(lines)[0])
    assert [path.name for path in run.folder.iterdir()] == ["datapackage.json"]
    assert run.package["resources"] == []
    assert run.package["feeds"] == [
        {"uri": str(csv), "format": "csv", "rows": 300},
        {"uri": str(lines), "format": "jsonlines", "rows": 300},
    ]
    assert f"  {csv}  300 rows\n  {lines}  300 rows" in run.stderr
    assert_valid(run)


def test_records_are_appended_to_a_feed(crawl: Run, serve: Serve, tmp_path: Path) -> None:
    feed = tmp_path / "x.jsonl"
    feed.write_text('{"category_id": 0}\n', encoding="utf-8")
    server = serve(**STILL)
    assert crawl("categories", "-o", str(feed), server=server).code == 0
    categories = [category["category_id"] for category in server.world.categories()]
    assert [row["category_id"] for row in read_lines(feed)] == [0, *categories]


def test_nothing_is_appended_without_records(crawl: Run, serve: Serve, tmp_path: Path) -> None:
    feed = tmp_path / "x.csv"
    feed.write_text("category_id\r\n0\r\n", encoding="utf-8", newline="")
    assert crawl("recent", "-o", str(feed), server=serve(**STILL), since=NOW, until=NOW).code == 0
    assert feed.read_bytes() == b"category_id\r\n0\r\n"


def test_several_feeds_with_filters_and_batches(crawl: Run, serve: Serve, tmp_path: Path) -> None:
    server = serve(**STILL)
    feeds: dict[str, dict[str, Any]] = {
        str(tmp_path / "even.csv"): {"format": "csv", "item_filter": "tests.components.EvenFilter"},
        str(tmp_path / "part-%(batch_id)d.jl"): {"format": "jsonlines", "batch_item_count": 90},
        str(tmp_path / "none.json"): {"format": "json", "item_classes": ["parti_scraper.items.Category"]},
        "far://user:pa55word@host/all.csv": {"format": "csv"},
    }
    storages = '{"far": "tests.components.FarStorage"}'
    settings = ("-s", f"FEEDS={json.dumps(feeds)}", "-s", f"FEED_STORAGES={storages}", *QUIET)
    run = crawl("recent", *settings, server=server)
    assert run.code == 0
    served = ids(truth(server))
    assert [int(row["event_id"]) for row in read_csv(tmp_path / "even.csv")] == [n for n in served if n % 2 == 0]
    parts = [ids(read_lines(tmp_path / f"part-{number}.jl")) for number in (1, 2, 3, 4)]
    assert [len(part) for part in parts] == [90, 90, 90, 30]
    assert [number for part in parts for number in part] == served
    assert json.loads((tmp_path / "none.json").read_text(encoding="utf-8")) == []
    assert {feed["uri"]: feed["rows"] for feed in run.package["feeds"]} == {
        str(tmp_path / "even.csv"): sum(n % 2 == 0 for n in served),
        str(tmp_path / "part-%(batch_id)d.jl"): 300,
        str(tmp_path / "none.json"): 0,
        "far://host/all.csv": 300,
    }
    assert "pa55word" not in run.stderr


def test_fields_chosen_by_the_user_are_the_columns_and_the_schema(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    fields = {"event_title": "title", "event_id": "id"}
    run = crawl("recent", "-s", f"FEED_EXPORT_FIELDS={json.dumps(fields)}", server=server)
    assert run.code == 0
    assert list(run.rows[0]) == list(run.csv_rows[0]) == ["title", "id"]
    for described in run.package["resources"]:
        assert [column["name"] for column in described["schema"]["fields"]] == ["title", "id"]
        assert described["schema"]["primaryKey"] == ["id"]
    assert_valid(run)


def test_files_of_other_formats_in_the_runs_folder_are_described_too(crawl: Run, serve: Serve) -> None:
    run = crawl("categories", "-O", "run:Some Names.json", "-O", "run:names.xml", server=serve(**STILL))
    assert run.code == 0
    assert [(described["name"], described["type"], described["path"]) for described in run.package["resources"]] == [
        ("some-names-json", "file", "Some Names.json"),
        ("names-xml", "file", "names.xml"),
    ]
    assert_valid(run)


# --- Data packages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spider", "options", "arguments"),
    [
        ("categories", {}, {}),
        ("recent", {"malformed": 0.3}, {}),
        ("live", {"malformed": 0.3, "nameless": "null"}, {}),
        ("recent", {}, {"since": NOW, "until": NOW}),
    ],
    ids=["categories", "recent with quarantine", "live with quarantine", "nothing"],
)
def test_frictionless_accepts_the_data_package(
    crawl: Run, serve: Serve, spider: str, options: dict[str, Any], arguments: dict[str, Any]
) -> None:
    run = crawl(spider, "-s", "PARTI_MAX_REJECTED=1", server=serve(**STILL, **options), **arguments)
    assert run.code == 0
    assert (run.folder / "quarantine.jsonl").exists() is bool(options)
    described = {resource["path"]: resource for resource in run.package["resources"]}
    assert sorted(described) == sorted(path.name for path in run.folder.iterdir() if path.name != "datapackage.json")
    for resource in described.values():
        assert all(column["description"] for column in resource["schema"]["fields"])
        assert {"rows", "bytes", "hash"} <= set(resource)
    assert_valid(run)


def test_a_spreadsheet_runs_no_cell_and_the_lines_have_the_text_unchanged(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    run = crawl("recent", server=server)
    titles = {record["event_id"]: record["event_title"] for record in truth(server)}
    assert any(title.startswith(("=", "+", "-", "@")) for title in titles.values())
    for row, cells in zip(run.rows, run.csv_rows, strict=True):
        assert row["event_title"] == titles[row["event_id"]]
        assert cells["event_title"] in {titles[row["event_id"]], "'" + titles[row["event_id"]]}
        for cell in cells.values():
            assert not cell.startswith(("=", "+", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"))
            assert not cell.startswith("-") or cell.lstrip("-").isdigit()
