"""The bytes of the files: CSV that no spreadsheet runs."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scrapy import exporters

from parti_scraper.feeds.exporters import CsvItemExporter, JsonLinesItemExporter, encode_line, harmless
from parti_scraper.items import Category, Livestream

COLUMNS = ["category_id", "name", "display_name", "scraped_at", "extra"]


def as_csv(*items: Category) -> str:
    """Return what the exporter writes for the items."""
    stream = io.BytesIO()
    exporter = CsvItemExporter(stream, fields_to_export=COLUMNS)
    exporter.start_exporting()
    if items:
        exporter.export_items(items)
    exporter.finish_exporting()
    return stream.getvalue().decode()


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        '=HYPERLINK("http://x.example","free")',
        "+1+1",
        "-2+3",
        "@SUM(A1)",
        "\t=1+1",
        "\r=1+1",
        "\n=1+1",
        "  =1+1",
        "\u00a0=1",
        "＝1+1",
        "＋1",
        "－1",
        "＠a",
        "\tx",
    ],
)
def test_a_formula_becomes_a_text(text: str) -> None:
    assert harmless(text) == "'" + text


@pytest.mark.parametrize("text", ["", "Games & music", "1=1", "a+b", "'=1", '"=1"', " x", "…-1"])
def test_other_texts_do_not_change(text: str) -> None:
    assert harmless(text) == text


def test_nul_becomes_a_replacement_character() -> None:
    assert harmless("a\0b") == "a\ufffdb"
    assert as_csv(Category(1, "a\0b", None, "", {})).splitlines()[1] == "1,a\ufffdb,,,{}"


def test_the_header_is_written_without_records() -> None:
    assert as_csv() == "category_id,name,display_name,scraped_at,extra\r\n"


def test_cells_are_plain_and_objects_are_json() -> None:
    item = Category(7, None, 'a "b", c\nd', "2026-11-23T21:45:00Z", {"ü": [1, None, True]})
    assert as_csv(item) == (
        "category_id,name,display_name,scraped_at,extra\r\n"
        '7,,"a ""b"", c\nd",2026-11-23T21:45:00Z,"{""ü"": [1, null, true]}"\r\n'
    )


@given(st.text(st.characters(blacklist_categories=["Cs"])))
def test_a_text_is_read_back_as_it_was_written(text: str) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(Category(1, text, None, "", {})), newline="")))
    assert [row["name"] for row in rows] == [harmless(text)]
    assert not harmless(text).lstrip().startswith(("=", "+", "-", "@"))


@given(
    st.dictionaries(st.text(), st.text()).filter(
        lambda row: all(c < "\ud800" or c > "\udfff" for kv in row.items() for t in kv for c in t)
    )
)
def test_any_record_is_one_line(row: dict[str, str]) -> None:
    line = encode_line(row)
    assert line.count(b"\n") == 1
    assert json.loads(line) == row


def test_scrapys_options_are_obeyed() -> None:
    stream = io.BytesIO()
    exporter = CsvItemExporter(stream, fields_to_export=["category_id", "name"], delimiter=";")
    exporter.export_items([Category(1, "a,b", None, "", {})])
    exporter.finish_exporting()
    assert stream.getvalue() == b"category_id;name\r\n1;a,b\r\n"
    lines = io.BytesIO()
    JsonLinesItemExporter(lines, encoding="utf-8", ensure_ascii=True).export_items(
        [Category(1, "\u00fc", None, "", {})]
    )
    assert b'"name":"\\u00fc"' in lines.getvalue()


TEXTS = st.text(st.characters(blacklist_categories=["Cs"]))
EXTRA = st.dictionaries(
    TEXTS, st.none() | st.booleans() | st.integers() | TEXTS | st.lists(TEXTS, max_size=2), max_size=2
)
ITEMS = st.builds(Category, st.integers(), st.none() | TEXTS, st.none() | TEXTS, TEXTS, EXTRA)
# Numbers, texts and truth values, each with and without.
LIVESTREAMS = st.builds(
    Livestream,
    **{
        field.name: {"int": st.integers(), "int | None": st.none() | st.integers()}.get(
            field.type, {"bool | None": st.none() | st.booleans(), "str": TEXTS}.get(field.type, st.none() | TEXTS)
        )
        for field in fields(Livestream)
        if field.name != "extra"
    },
    extra=EXTRA,
)


@given(st.lists(ITEMS, max_size=4))
def test_lines_have_the_records_unchanged(items: list[Category]) -> None:
    stream = io.BytesIO()
    JsonLinesItemExporter(stream, encoding="utf-8").export_items(items)
    assert [json.loads(line) for line in stream.getvalue().split(b"\n") if line] == [asdict(item) for item in items]


@given(st.lists(ITEMS, min_size=1, max_size=4) | st.lists(LIVESTREAMS, min_size=1, max_size=3))
def test_many_at_a_time_are_written_as_scrapy_writes_one(items: list[Any]) -> None:
    columns = [field.name for field in fields(items[0])]
    as_scrapy_does = io.BytesIO()
    csv_of_scrapy = CsvItemExporter(as_scrapy_does, fields_to_export=columns)
    lines_of_scrapy = JsonLinesItemExporter(lines := io.BytesIO(), encoding="utf-8")
    for item in items:
        exporters.CsvItemExporter.export_item(csv_of_scrapy, item)
        exporters.JsonLinesItemExporter.export_item(lines_of_scrapy, item)
    csv_of_scrapy.finish_exporting()
    at_once = io.BytesIO()
    exporter = CsvItemExporter(at_once, fields_to_export=columns)
    exporter.export_items(items)
    exporter.finish_exporting()
    assert at_once.getvalue().decode() == as_scrapy_does.getvalue().decode()
    JsonLinesItemExporter(together := io.BytesIO(), encoding="utf-8").export_items(items)
    assert [json.loads(line) for line in together.getvalue().split(b"\n") if line] == [
        json.loads(line) for line in lines.getvalue().split(b"\n") if line
    ]


def test_the_only_cell_of_a_row_is_no_empty_line_if_it_is_empty() -> None:
    stream = io.BytesIO()
    exporter = CsvItemExporter(stream, fields_to_export=["name"])
    exporter.start_exporting()
    exporter.export_items([Category(1, None, None, "", {}), Category(2, "Art", None, "", {})])
    exporter.finish_exporting()
    assert stream.getvalue() == b'name\r\n""\r\nArt\r\n'


def test_a_record_that_a_pipeline_replaced_is_written_too() -> None:
    stream = io.BytesIO()
    JsonLinesItemExporter(stream, encoding="utf-8").export_items([{"a": 1, "b": None}])
    assert stream.getvalue() == b'{"a":1,"b":null}\n'
