"""Workbooks: what people open in a spreadsheet has real dates, and texts that stay what they are."""

from __future__ import annotations

import random
import re
import tempfile
import zipfile
from datetime import datetime
from pathlib import Path

import openpyxl
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parti_scraper.dataset.targets import xlsx
from parti_scraper.exceptions import UsageError
from tests.exporting import HOSTILE, bring, make_categories
from tests.made_runs import livestream, make_run, rejected
from tests.office import needs_office, rows_of_sheet
from tests.support import Scrapy, limit_file_size

LONGEST = 32_767
# What becomes of the hostile texts that a workbook cannot hold.
ALTERED = {
    "NUL \0.": "NUL \ufffd.",
    "\x1f=1": "\ufffd=1",
    "\x1b[31mred\x1b[0m": "\ufffd[31mred\ufffd[0m",
    "lone\rCR": "lone\nCR",
    "CR\r\nLF": "CR\nLF",
    "\r": "\n",
    "x" * 40_000: "x" * LONGEST,
    "👾" * 20_000: "👾" * (LONGEST // 2),
    "\ufffe": "\ufffd",
}
READABLE = [ALTERED.get(text, text) for text in HOSTILE]

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
TRAPS = st.builds("".join, st.lists(st.sampled_from(["<r>", "</r>", "_", "x005F", "x0041", "_x0041_", "&", " ", "\r"])))


def as_read(text: str) -> str:
    """Return a short text as a workbook holds it."""
    return re.sub("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", re.sub("\r\n?", "\n", text))


def sheet_xml(path: Path) -> str:
    """Return the XML of the first sheet."""
    with zipfile.ZipFile(path) as archive:
        return archive.read("xl/worksheets/sheet1.xml").decode()


# --- Texts -------------------------------------------------------------------------------------------------------


def test_readers_find_hostile_texts_as_they_came_or_as_the_docs_say(output: Path, tmp_path: Path) -> None:
    make_categories(output, HOSTILE)
    path = tmp_path / "x.xlsx"
    report = bring(path, output, "categories")
    assert report.tables["categories"].altered == len(ALTERED)
    sheet = openpyxl.load_workbook(path)["categories"]
    cells = [cell for (cell,) in sheet.iter_rows(min_row=2, min_col=2, max_col=2)]
    assert [cell.value for cell in cells] == READABLE
    assert {cell.data_type for cell in cells} <= {"s", "inlineStr"}
    assert pd.read_excel(path, dtype=str, keep_default_na=False)["name"].tolist() == READABLE
    assert pl.read_excel(path, engine="openpyxl", infer_schema_length=0)["name"].to_list() == READABLE


@needs_office
def test_libreoffice_shows_hostile_texts_as_they_came_or_as_the_docs_say(output: Path, tmp_path: Path) -> None:
    make_categories(output, HOSTILE)
    bring(tmp_path / "x.xlsx", output, "categories")
    assert [row[1] for row in rows_of_sheet(tmp_path / "x.xlsx", "categories")] == ["name", *READABLE]


@settings(max_examples=15)
@given(texts=st.lists(TEXTS | TRAPS, max_size=20))
def test_any_text_is_read_as_it_came_but_for_control_characters_and_line_breaks(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.xlsx")
        make_categories(Path(folder, "output"), texts)
        report = bring(path, Path(folder, "output"), "categories")
        sheet = openpyxl.load_workbook(path)["categories"]
        assert [value or "" for (value,) in sheet.iter_rows(2, None, 2, 2, values_only=True)] == [*map(as_read, texts)]
        assert report.tables["categories"].altered == sum(as_read(text) != text for text in texts)


def test_no_cell_is_a_formula_or_a_link_and_what_is_typed_over_a_text_stays_one(output: Path, tmp_path: Path) -> None:
    make_categories(output, [*HOSTILE, "https://x.example/", "mailto:me@x.example"])
    bring(tmp_path / "x.xlsx", output, "categories")
    assert not re.search("<f>|<f |hyperlink", sheet_xml(tmp_path / "x.xlsx"), re.IGNORECASE)
    sheet = openpyxl.load_workbook(tmp_path / "x.xlsx")["categories"]
    assert {cell.number_format for (cell,) in sheet.iter_rows(min_row=2, min_col=2, max_col=2)} == {"@"}


def test_the_summary_says_how_many_texts_were_altered(scrapy: Scrapy, output: Path, tmp_path: Path) -> None:
    make_categories(output, ["a\0b", "x" * 40_000, "a\r\n\0b", "Art"])
    run = scrapy("export", str(tmp_path / "x.xlsx"), "--table", "categories")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == (
        f"{tmp_path}/x.xlsx: 1 file read, of parti.com\n  categories  4 rows (4 new, 3 texts altered)\n"
    )


# --- Other values ------------------------------------------------------------------------------------------------


def test_dates_numbers_and_truth_values_are_real_and_the_hash_is_left_out(output: Path, tmp_path: Path) -> None:
    row = livestream(1, has_access_pass=True, event_start="1970-01-01T00:00:00Z", event_end="9999-12-31T23:59:59Z")
    make_run(output, "recent", "run", [row, livestream(2, user_id=None, event_start=None, has_access_pass=None)])
    path = tmp_path / "x.xlsx"
    bring(path, output, "livestreams")
    sheet = openpyxl.load_workbook(path)["livestreams"]
    header, later, first = ([cell.value for cell in line] for line in sheet.iter_rows())
    assert header == [*row, "first_scraped_at", "last_confirmed_at", "missing_since"]
    read = dict(zip(header, first, strict=True))
    assert (read["event_id"], read["has_access_pass"], read["extra"]) == (1, True, "{}")
    assert read["event_start"] == datetime(1970, 1, 1)  # noqa: DTZ001 - workbooks have no time zones
    assert read["event_end"] == datetime(9999, 12, 31, 23, 59, 59)  # noqa: DTZ001
    unknown = dict(zip(header, later, strict=True))
    assert (unknown["user_id"], unknown["event_start"], unknown["has_access_pass"]) == (None, None, None)
    assert sheet.cell(2, 1 + header.index("scraped_at")).number_format == "yyyy-mm-dd hh:mm:ss"
    times = pd.read_excel(path)["scraped_at"]
    assert times.tolist() == [pd.Timestamp("2026-11-26 12:00:00")] * 2


def test_numbers_that_a_spreadsheet_would_round_are_texts(output: Path, tmp_path: Path) -> None:
    numbers = [0, -1, 10**15 - 1, 1 - 10**15, 10**15, 2**53 + 1, 2**63 - 1, -(2**63)]
    rows = [livestream(place, user_id=number) for place, number in enumerate(numbers)]
    make_run(output, "recent", "run", rows)
    bring(tmp_path / "x.xlsx", output, "livestreams")
    sheet = openpyxl.load_workbook(tmp_path / "x.xlsx")["livestreams"]
    read = [value for (value,) in sheet.iter_rows(2, None, 2, 2, values_only=True)]
    assert read == [*numbers[:4], *map(str, numbers[4:])]


@needs_office
def test_libreoffice_shows_dates_truth_values_and_large_numbers(output: Path, tmp_path: Path) -> None:
    make_run(output, "recent", "run", [livestream(999_999_999_999_999, user_id=2**53 + 1)])
    bring(tmp_path / "x.xlsx", output, "livestreams")
    header, row = rows_of_sheet(tmp_path / "x.xlsx", "livestreams")
    shown = dict(zip(header, row, strict=True))
    assert (shown["event_id"], shown["user_id"]) == ("999999999999999", "9007199254740993")
    assert (shown["event_end"], shown["has_access_pass"]) == ("2026-11-25 10:30:00", "FALSE")


# --- Sheets ------------------------------------------------------------------------------------------------------


def test_each_table_is_a_sheet_with_a_fixed_header_filters_and_columns_as_wide_as_needed(
    output: Path, tmp_path: Path
) -> None:
    make_run(output, "recent", "run", [livestream(1, event_title="x" * 99, user_name="x" * 20)])
    make_categories(output, ["Art", "Music"])
    report = bring(tmp_path / "x.xlsx", output, "categories", "livestreams")
    assert {name: changes.rows for name, changes in report.tables.items()} == {"categories": 2, "livestreams": 1}
    book = openpyxl.load_workbook(tmp_path / "x.xlsx")
    assert book.sheetnames == ["categories", "livestreams"]
    assert [(sheet.freeze_panes, sheet.auto_filter.ref) for sheet in book] == [("A2", "A1:E3"), ("A2", "A1:Z2")]
    widths = book["livestreams"].column_dimensions
    assert [round(widths[each].width) for each in ("A", "C", "D", "G")] == [12, 21, 51, 23]
    assert book["categories"]["A1"].font.bold


def test_by_default_there_are_the_tables_that_people_want(output: Path, tmp_path: Path) -> None:
    make_categories(output, ["Art"])
    tables = bring(tmp_path / "x.xlsx", output).tables
    assert openpyxl.load_workbook(tmp_path / "x.xlsx").sheetnames == [*tables]
    assert [*tables] == ["livestreams", "streams", "channels", "categories"]
    assert openpyxl.load_workbook(tmp_path / "x.xlsx")["livestreams"].max_row == 1


def test_more_rows_than_a_sheet_holds_are_refused_in_one_line(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert xlsx.MOST_ROWS == 1_048_576
    monkeypatch.setattr(xlsx, "MOST_ROWS", 1_500)
    make_run(output, "recent", "run", [], quarantine=[rejected(0)] * 1_500)
    path = tmp_path / "x.xlsx"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        bring(path, output, "quarantine")
    assert str(raised.value) == (
        f"{path}: quarantine has 1,500 rows, and a sheet holds 1,499 "
        "(accepted: --since, --until or --table for fewer rows, or another format, such as .csv)"
    )
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["x.xlsx"]
    assert path.read_text(encoding="utf-8") == "old"
    make_run(output, "recent", "run", [], quarantine=[rejected(0)] * 1_499)
    assert bring(path, output, "quarantine").tables["quarantine"].rows == 1_499


@pytest.mark.parametrize(
    ("name", "rows", "limit"),
    [
        # A sheet is larger than the limit, and than the records.
        ("&" * 1_000, 20, 40_000),
        # The workbook is, but none of its parts.
        (f"{random.Random(7).getrandbits(20_000):x}", 1, 7_500),
    ],
    ids=["sheet", "workbook"],
)
def test_a_workbook_that_does_not_fit_on_the_disk_is_one_line_and_leaves_the_old_one(
    scrapy: Scrapy, output: Path, tmp_path: Path, name: str, rows: int, limit: int
) -> None:
    make_categories(output, [name] * rows)
    path = tmp_path / "x.xlsx"
    path.write_text("old", encoding="utf-8")
    run = scrapy("export", str(path), "--table", "categories", "--quiet", before=limit_file_size(limit))
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == f"scrapy export: {path} cannot be written: File too large\n"
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["x.xlsx"]
    assert path.read_text(encoding="utf-8") == "old"
