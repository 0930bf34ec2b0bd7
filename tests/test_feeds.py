"""The files: the user's own feeds instead of the two, and data packages that Frictionless accepts."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from frictionless import system, validate

from tests.support import (
    NOW,
    QUIET,
    ROOT,
    STILL,
    TIMEOUT,
    Crawl,
    Run,
    RunningCrawl,
    Serve,
    command_of,
    environment_of,
    hold,
    ids,
    read_csv,
    read_lines,
    truth,
    typed_of,
    wait_until,
)


def assert_valid(crawl: Crawl) -> None:
    """Assert that the data package is valid by the reference implementation, files and rows included."""
    # Feeds elsewhere have whole paths, which nobody follows that does not trust the file.
    with system.use_context(trusted=True):
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
    assert list(described(run)) == [str(csv), str(lines)]
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
    assert {path: resource.get("rows") for path, resource in described(run).items()} == {
        str(tmp_path / "even.csv"): sum(n % 2 == 0 for n in served),
        **{str(tmp_path / f"part-{number}.jl"): rows for number, rows in ((1, 90), (2, 90), (3, 90), (4, 30))},
        str(tmp_path / "none.json"): None,
    }
    assert_valid(run)


def test_fields_chosen_by_the_user_are_the_columns_and_the_schema(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL)
    fields = {"event_title": "title", "event_id": "id"}
    run = crawl("recent", "-s", f"FEED_EXPORT_FIELDS={json.dumps(fields)}", server=server)
    assert run.code == 0
    assert list(run.rows[0]) == list(run.csv_rows[0]) == ["title", "id"]
    for resource in run.package["resources"]:
        assert [column["name"] for column in resource["schema"]["fields"]] == ["title", "id"]
        assert resource["schema"]["primaryKey"] == ["id"]
    assert_valid(run)


def test_files_of_other_formats_in_the_runs_folder_are_described_too(crawl: Run, serve: Serve) -> None:
    run = crawl("categories", "-O", "run:Some Names.json", "-O", "run:names.xml", server=serve(**STILL))
    assert run.code == 0
    assert [(resource["name"], resource["type"], resource["path"]) for resource in run.package["resources"]] == [
        ("some-names-json", "file", "Some Names.json"),
        ("names-xml", "file", "names.xml"),
    ]
    assert_valid(run)


# --- Feeds elsewhere, in the data package ------------------------------------------------------------------


def described(run: Crawl) -> dict[str, dict[str, Any]]:
    """Return the resources of a data package by their paths."""
    return {resource["path"]: resource for resource in run.package["resources"]}


def test_feeds_elsewhere_are_described_like_the_files_of_the_runs_folder(
    crawl: Run, serve: Serve, tmp_path: Path
) -> None:
    server = serve(**STILL)
    paths = {form: tmp_path / f"livestreams.{form}" for form in ("jsonl", "csv")}
    # As it was typed, it would lead out of the data package's folder.
    typed = [os.path.relpath(path, ROOT) for path in paths.values()]
    run = crawl("recent", "-O", typed[0], "-O", typed[1], server=server)
    usual = crawl("recent", server=server, run_id="usual")
    assert (run.code, usual.code) == (0, 0)
    for form, path in paths.items():
        found, like = described(run)[str(path)], described(usual)[path.name]
        same = found.keys() - {"path", "bytes", "hash"}
        assert {key: found[key] for key in same} == {key: like[key] for key in same}
        assert found.keys() == like.keys()
        assert found["bytes"] == path.stat().st_size
        assert found["hash"] == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        assert (found["format"], found["rows"]) == (form, 300)
    assert_valid(run)


def test_their_columns_are_those_that_they_have(crawl: Run, serve: Serve, tmp_path: Path) -> None:
    fields = ("-s", 'FEED_EXPORT_FIELDS={"event_title": "title", "event_id": "id"}')
    run = crawl("recent", "-O", str(tmp_path / "x.csv"), "-O", str(tmp_path / "x.jl"), *fields, server=serve(**STILL))
    assert run.code == 0
    assert len(described(run)) == 2
    for resource in described(run).values():
        assert [column["name"] for column in resource["schema"]["fields"]] == ["title", "id"]
    assert_valid(run)


def test_what_is_packed_is_a_file_with_bytes_and_digest(crawl: Run, serve: Serve, tmp_path: Path) -> None:
    packed = tmp_path / "x.jsonl.gz"
    options = {"format": "jsonlines", "postprocessing": ["scrapy.extensions.postprocessing.GzipPlugin"]}
    run = crawl("recent", "-s", f"FEEDS={json.dumps({str(packed): options})}", server=serve(**STILL))
    assert run.code == 0
    assert len(gzip.decompress(packed.read_bytes()).splitlines()) == 300
    assert run.package["resources"] == [
        {
            "name": "x.jsonl-gz",
            "type": "file",
            "path": str(packed),
            "format": "gz",
            "mediatype": "application/gzip",
            "bytes": packed.stat().st_size,
            "hash": f"sha256:{hashlib.sha256(packed.read_bytes()).hexdigest()}",
        }
    ]
    # As the README has it; within this process, Frictionless would leave the file open.
    typed = [sys.executable, "-m", "frictionless", "validate", "--trusted", str(run.folder / "datapackage.json")]
    assert subprocess.run(typed, capture_output=True, timeout=TIMEOUT, check=False).returncode == 0


def test_files_of_one_name_in_several_folders_have_names_of_their_own(crawl: Run, serve: Serve, tmp_path: Path) -> None:
    paths = [tmp_path / folder / "categories.jsonl" for folder in ("a", "b", "c")]
    typed = [part for path in paths for part in ("-O", str(path))]
    run = crawl("categories", *typed, "-O", "run:categories.jsonl", server=serve(**STILL))
    assert run.code == 0
    assert {path: resource["name"] for path, resource in described(run).items()} == {
        "categories.jsonl": "categories-jsonl",
        str(paths[0]): "categories-jsonl-2",
        str(paths[1]): "categories-jsonl-3",
        str(paths[2]): "categories-jsonl-4",
    }
    assert_valid(run)


@pytest.mark.parametrize(("before", "is_described"), [(None, True), ("", True), ('{"category_id": 0}\n', False)])
def test_a_file_with_records_of_other_runs_is_no_resource(
    crawl: Run, serve: Serve, tmp_path: Path, before: str | None, is_described: bool
) -> None:
    feed = tmp_path / "x.jsonl"
    if before is not None:
        feed.write_text(before, encoding="utf-8")
    run = crawl("categories", "-o", str(feed), server=serve(**STILL))
    assert run.code == 0
    assert list(described(run)) == [str(feed)] * is_described
    (told,) = run.package["feeds"]
    assert (told["uri"], told["rows"]) == (str(feed), run.package["counts"]["written"])
    assert_valid(run)


def test_nor_is_one_that_two_feeds_were_written_into(crawl: Run, serve: Serve, tmp_path: Path) -> None:
    feed = tmp_path / "x.jsonl"
    run = crawl("categories", "-O", str(feed), "-O", f"{tmp_path}/./x.jsonl", server=serve(**STILL))
    assert described(run) == {}
    assert [told["uri"] for told in run.package["feeds"]] == [str(feed), f"{tmp_path}/./x.jsonl"]


@pytest.mark.parametrize("feed", ["/dev/null:jsonl", "/dev/stdout:jsonl", "stdout:-:jsonl", "-:jsonl", "fifo"])
def test_nor_is_what_is_no_file(crawl: Run, serve: Serve, tmp_path: Path, feed: str) -> None:
    if feed == "fifo":
        os.mkfifo(tmp_path / "fifo.jsonl")
        reader = subprocess.Popen(["cat", str(tmp_path / "fifo.jsonl")], stdout=subprocess.DEVNULL)
        feed = str(tmp_path / "fifo.jsonl")
    run = crawl("categories", "-O" if feed.startswith("/") else "-o", feed, server=serve(**STILL))
    if "fifo" in feed:
        assert reader.wait(TIMEOUT) == 0
    assert run.code == 0
    assert run.package["resources"] == []
    assert [told["rows"] for told in run.package["feeds"]] == [run.package["counts"]["written"]]


def test_nor_is_the_output_of_the_program_where_that_goes_into_a_file(
    serve: Serve, output: Path, tmp_path: Path
) -> None:
    typed = command_of("categories", "run", {}, ("-O", "/dev/stdout:jsonl", *QUIET))
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run(typed, cwd=ROOT, env=environment_of(output, serve(**STILL)), stdout=out, check=False)
    run = Crawl(done.returncode, "", "", output, "categories", "run")
    assert run.code == 0
    assert len(read_lines(tmp_path / "out")) == run.package["counts"]["written"]
    assert run.package["resources"] == []


def test_one_that_was_deleted_meanwhile_is_missing_and_the_others_are_described(
    serve: Serve, output: Path, tmp_path: Path
) -> None:
    server = serve(**STILL, page_cap=20)
    hold(server, 1, "/recent")
    gone, kept = tmp_path / "gone.jsonl", tmp_path / "kept.jsonl"
    typed = typed_of("recent", "run", {}, ("-O", str(gone), "-O", str(kept), *QUIET))
    running = RunningCrawl(typed, environment_of(output, server))
    wait_until(gone.exists)
    gone.unlink()
    server.held = None
    _, stderr = running.process.communicate(timeout=TIMEOUT)
    run = Crawl(running.process.wait(), "", stderr, output, "recent", "run")
    assert run.code == 4
    assert run.package["reason"] == f"the feed {gone} was deleted during the run"
    assert list(described(run)) == [str(kept)]
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
    files = sorted(path.name for path in run.folder.iterdir() if path.name != "datapackage.json")
    assert sorted(described(run)) == files
    for resource in described(run).values():
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
