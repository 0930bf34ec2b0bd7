"""Single files: each format has the texts of the runs, or is as harmless as the docs say, and is never seen half."""

from __future__ import annotations

import csv
import gzip
import json
import random
import tempfile
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from resource import RLIMIT_FSIZE, getrlimit, setrlimit
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parti_scraper.dataset.engine import TargetError
from parti_scraper.dataset.export import Silent
from parti_scraper.dataset.targets import files
from parti_scraper.feeds.exporters import CsvItemExporter, harmless
from tests.exporting import FORMULAS, HOSTILE, bring, make_categories
from tests.made_runs import STARTED, Row, category, livestream, make_run, rejected
from tests.support import (
    Scrapy,
    environment_of,
    keep_permissions,
    kill_at_file_size,
    limit_file_size,
    read_csv,
    read_lines,
    run_to_its_end,
)

SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXTS, values, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=3)


# --- CSV ---------------------------------------------------------------------------------------------------------


def test_a_csv_file_is_as_the_runs_write_it_without_the_hash_of_the_content(output: Path, tmp_path: Path) -> None:
    odd = {"event_title": 'a "b", c\nd', "user_name": "=1+1", "category_name": "", "category_id": None}
    rows = [livestream(1, **odd, event_start=None, has_access_pass=True), livestream(2, user_name="a,\rb")]
    make_run(output, "recent", "run", rows)
    bring(tmp_path / "x.csv", output)
    added = {"first_scraped_at": STARTED, "last_confirmed_at": STARTED, "missing_since": None}
    exporter = CsvItemExporter(as_in_runs := BytesIO(), fields_to_export=[*rows[0], *added])
    for row in rows:
        exporter.export_item(row | added)
    exporter.finish_exporting()
    assert (tmp_path / "x.csv").read_bytes().decode() == as_in_runs.getvalue().decode()


def test_readers_of_csv_find_hostile_texts_as_they_came_or_harmless(output: Path, tmp_path: Path) -> None:
    make_categories(output, HOSTILE)
    path = tmp_path / "x.csv"
    report = bring(path, output, "categories")
    expected = [harmless(text) for text in HOSTILE]
    assert [row["name"] for row in read_csv(path)] == expected
    assert pd.read_csv(path, dtype=str, keep_default_na=False)["name"].tolist() == expected
    assert pl.read_csv(path, infer_schema=False)["name"].to_list() == expected
    query = "SELECT name FROM read_csv($path, all_varchar=true)"
    assert duckdb.execute(query, {"path": str(path)}).fetchall() == [(text,) for text in expected]
    # Those, "\x1f=1", "\r" and the one with NUL.
    assert report.tables["categories"].altered == len(FORMULAS) + 3


def test_a_text_is_as_harmless_as_in_the_runs() -> None:
    with duckdb.connect() as connection:
        query = f"SELECT {files.harmless('text')} FROM (SELECT unnest($texts) AS text)"

        @given(texts=st.lists(TEXTS | st.builds("".join, st.lists(st.sampled_from("=+-@＝＠\t\r\n\x1d\u3000\0 '")))))
        def check(texts: list[str]) -> None:
            assert connection.execute(query, {"texts": texts}).fetchall() == [(harmless(text),) for text in texts]

        check()


# --- JSON Lines --------------------------------------------------------------------------------------------------


def test_json_lines_are_those_of_the_run_with_the_columns_that_exports_add(output: Path, tmp_path: Path) -> None:
    rows = [category(n, name=text, extra={"n": 2**64 - 1, "x": -0.5, "l": [{}]}) for n, text in enumerate(HOSTILE)]
    folder = make_run(output, "categories", "run", rows)
    bring(tmp_path / "x.jsonl", output, "categories")
    own = [line.rpartition(b',"content_hash":"')[0] + b"}" for line in (tmp_path / "x.jsonl").read_bytes().splitlines()]
    # Control characters are escaped with small letters there, with capital ones here.
    assert [line.lower() for line in own] == (folder / "categories.jsonl").read_bytes().lower().splitlines()


def test_a_row_has_all_columns_in_order_with_null_for_what_is_unknown(output: Path, tmp_path: Path) -> None:
    row = livestream(1, user_id=None, has_access_pass=None, event_start=None)
    make_run(output, "recent", "run", [row])
    bring(tmp_path / "x.jsonl", output)
    (written,) = read_lines(tmp_path / "x.jsonl")
    digest = written.pop("content_hash")
    added = {"first_scraped_at": STARTED, "last_confirmed_at": STARTED, "missing_since": None}
    assert list(written.items()) == [*row.items(), *added.items()]
    assert len(digest) == 32


def test_a_record_that_was_set_aside_is_what_it_was_whatever_that_is(output: Path, tmp_path: Path) -> None:
    records = [{"a": 1}, "text", "1", 1, -0.5, None, True, [None], "{}"]
    rows = [rejected(position, record=record) for position, record in enumerate(records)]
    make_run(output, "recent", "run", [], quarantine=rows)
    bring(tmp_path / "x.jsonl", output, "quarantine")
    assert [row["record"] for row in read_lines(tmp_path / "x.jsonl")] == records


# --- Every format ------------------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(texts=st.lists(TEXTS, max_size=9), extra=OBJECTS)
def test_any_text_and_any_object_is_the_same_in_each_format(texts: list[str], extra: dict[str, Any]) -> None:
    rows = [category(number, name=text, extra=extra) for number, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "output")
        make_run(output, "categories", "run", rows)
        lines, sheet, columns = (Path(folder, f"x{suffix}") for suffix in (".jsonl.gz", ".csv.gz", ".parquet"))
        for path in (lines, sheet, columns):
            assert bring(path, output, "categories").tables["categories"].rows == len(rows)
        with gzip.open(lines) as stream:
            assert [without_hash(json.loads(line)) for line in stream] == rows
        with gzip.open(sheet, "rt", encoding="utf-8", newline="") as text:
            read = [(row["name"], json.loads(row["extra"])) for row in csv.DictReader(text)]
        assert read == [(harmless(row["name"]), extra) for row in rows]
        table = pq.read_table(columns)
        assert table["name"].to_pylist() == texts
        assert [json.loads(value) for value in table["extra"].to_pylist()] == [extra] * len(texts)


def without_hash(row: Row) -> Row:
    """Return a row without the column that exports add."""
    return {name: value for name, value in row.items() if name != "content_hash"}


def test_parquet_has_times_in_utc_numbers_and_truth_values(output: Path, tmp_path: Path) -> None:
    make_run(output, "recent", "run", [livestream(1, event_title="a\0b", event_start=None)])
    path = tmp_path / "x.parquet"
    bring(path, output)
    table = pq.read_table(path)
    (row,) = table.to_pylist()
    assert (row["event_id"], row["has_access_pass"], row["event_title"], row["extra"]) == (1, False, "a\0b", "{}")
    assert (row["event_start"], row["event_end"]) == (None, datetime(2026, 11, 25, 10, 30, tzinfo=UTC))
    assert str(table.schema.field("event_end").type) == "timestamp[us, tz=UTC]"
    assert len(row["content_hash"]) == 32
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    assert pl.read_parquet(path)["event_end"].to_list() == [row["event_end"]]
    assert pd.read_parquet(path)["event_end"].tolist() == [row["event_end"]]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_are_sorted_by_time_then_by_key_unknown_times_last(output: Path, tmp_path: Path, suffix: str) -> None:
    early, late = "2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z"
    ends = {5: early, 3: late, 4: early, 1: None, 2: late}
    make_run(output, "recent", "run", [livestream(number, event_end=end) for number, end in ends.items()])
    path = tmp_path / f"x{suffix}"
    bring(path, output)
    # DuckDB takes the format from the name.
    numbers = duckdb.execute("SELECT event_id FROM query_table($path)", {"path": str(path)}).fetchall()
    assert numbers == [(4,), (5,), (2,), (3,), (1,)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_without_rows_there_is_a_file_with_the_columns(output: Path, tmp_path: Path, suffix: str) -> None:
    output.mkdir()
    path = tmp_path / "new" / f"x{suffix}"
    bring(path, output, "api_calls")
    if suffix == ".parquet":
        assert pq.read_table(path).shape == (0, 12)
    else:
        body = gzip.decompress(path.read_bytes()) if suffix.endswith("gz") else path.read_bytes()
        assert body.startswith(b"page_url,method," if "csv" in suffix else b"")
        assert body.count(b"\n") == ("csv" in suffix)


# --- In one step -------------------------------------------------------------------------------------------------


def make_large_csv(output: Path) -> int:
    """Write a run whose CSV is much larger than its JSON Lines, and return a size between both."""
    folder = make_run(output, "categories", "run", [category(n, extra={"a": [""] * 20_000}) for n in range(20)])
    return (folder / "categories.jsonl").stat().st_size * 6 // 5


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_file_that_does_not_fit_on_the_disk_is_one_line_and_leaves_the_old_one(
    scrapy: Scrapy, output: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.csv").write_text("old", encoding="utf-8")
    command = ("export", str(tmp_path / "x.csv"), "--table", "categories", "--quiet")
    run = scrapy(*command, before=limit_file_size(make_large_csv(output)))
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == (f"scrapy export: {tmp_path}/x.csv cannot be written: File too large\n")
    assert contents(tmp_path) == {"x.csv": b"old"}


class FullWhenWriting(Silent):
    """Lets the disk be full from the moment on when all is read."""

    def begin(self, what: str, total: int = 0) -> None:
        if what.startswith("writing"):
            setrlimit(RLIMIT_FSIZE, (100_000, getrlimit(RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_is_full_while_a_file_is_written_leaves_the_old_one(
    output: Path, tmp_path: Path, suffix: str
) -> None:
    # As random as texts can be, so that they are large when they are compressed, too.
    make_categories(output, [f"{random.Random(number).getrandbits(20_000):x}" for number in range(99)])
    path = tmp_path / f"x{suffix}"
    path.write_text("old", encoding="utf-8")
    limits = getrlimit(RLIMIT_FSIZE)
    try:
        with pytest.raises(TargetError, match=rf"^{path} cannot be written: .*File too large$"):
            bring(path, output, "categories", progress=FullWhenWriting())
    finally:
        setrlimit(RLIMIT_FSIZE, limits)
    assert contents(tmp_path) == {path.name: b"old"}


def test_a_killed_export_leaves_the_old_file_and_is_finished_by_the_next(output: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("old", encoding="utf-8")
    size = make_large_csv(output)
    typed = ["export", str(tmp_path / "x.csv"), "--table", "categories"]
    assert (
        run_to_its_end(typed, environment_of(output, None), before=partial(kill_at_file_size, size)).returncode == -25
    )
    assert {name: len(body) for name, body in contents(tmp_path).items()} == {"x.csv": 3, ".x.csv.export": size}
    bring(tmp_path / "x.csv", output, "categories")
    assert [*contents(tmp_path)] == ["x.csv"]
    assert len(read_csv(tmp_path / "x.csv")) == 20


def test_nothing_is_written_through_a_link_that_lies_in_the_way(output: Path, tmp_path: Path) -> None:
    make_categories(output, ["Art"])
    (tmp_path / "other").write_text("mine", encoding="utf-8")
    (tmp_path / ".x.parquet.export").symlink_to(tmp_path / "other")
    bring(tmp_path / "x.parquet", output, "categories")
    assert pq.read_table(tmp_path / "x.parquet")["name"].to_pylist() == ["Art"]
    assert (tmp_path / "other").read_text(encoding="utf-8") == "mine"
    assert sorted(contents(tmp_path)) == ["other", "x.parquet"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("file/x.parquet", "{0}/file is no folder"),
        ("sealed/x.csv", "Permission denied"),
        ("sealed/x.parquet", 'IO Error: Cannot open file "{0}/sealed/.x.parquet.export": Permission denied'),
        ("sealed/new/x.jsonl", "Permission denied"),
    ],
)
def test_a_folder_that_is_not_writable_is_one_line(
    scrapy: Scrapy, output: Path, tmp_path: Path, name: str, problem: str
) -> None:
    make_categories(output, ["Art"])
    (tmp_path / "file").touch()
    (tmp_path / "sealed").mkdir(mode=0o555)
    path = tmp_path / name
    run = scrapy("export", str(path), "--table", "categories", "--quiet", before=keep_permissions)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == f"scrapy export: {path} cannot be written: {problem.format(tmp_path)}\n"
    assert [*(tmp_path / "sealed").iterdir()] == []
