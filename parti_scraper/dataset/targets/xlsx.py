"""Workbooks: a sheet for each table.

What spreadsheets cannot hold is replaced, and counted. A text stays a text, whatever it looks like: there are no
formulas and no links.
"""

from __future__ import annotations

import re
from io import FileIO
from itertools import chain
from typing import TYPE_CHECKING, Any

from parti_scraper.dataset import sql
from parti_scraper.dataset.engine import require
from parti_scraper.dataset.targets.base import Changes
from parti_scraper.dataset.targets.written import WrittenTarget, columns_for_people, ordered
from parti_scraper.exceptions import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from _typeshed import ReadableBuffer

    from parti_scraper.dataset.staging import Rows, Staging
    from parti_scraper.dataset.tables import Column
    from parti_scraper.dataset.targets.base import Load

_SHEETS = ("livestreams", "streams", "channels", "categories")
# Rows of a sheet, the header included; UTF-16 units of a text; digits of a number, of which later ones are shown as 0.
MOST_ROWS = 1_048_576
LONGEST = 32_767
_DIGITS = 15
_LONGEST_NAME = 31

_FORMATS = {"BIGINT": "0", "BOOLEAN": "General", "DOUBLE": "0.00", "TIMESTAMPTZ": "yyyy-mm-dd hh:mm:ss", "VARCHAR": "@"}
_HEADER = {"bold": True, "num_format": "@"}
# In characters: the least and the most for a column, and what the header needs for the button of its filter.
_NARROWEST, _WIDEST, _BUTTON = 8, 50, 3
# Days from 1899-12-30, from which spreadsheets count, to 1970-01-01.
_EPOCH = 25_569
_DAY = 86_400
_FETCHED = 10_000

_BREAK = re.compile("\r\n?")
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
# What would be taken for an escape of a character (`_x0041_` is "A"), or by XlsxWriter for markup, if it were not cut.
_CUTS = re.compile(r"(?<=_)(?=x[0-9a-fA-F]{4}_)|(?<=\A<)(?=r>)")


class XlsxTarget(WrittenTarget):
    """A file `.xlsx`."""

    modules = ("duckdb", "xlsxwriter")

    def default_tables(self) -> tuple[str, ...]:
        return _SHEETS

    def write(self, load: Load, path: Path) -> dict[str, Changes]:
        *tables, _ = load.rows
        for rows in tables:
            if rows.count >= MOST_ROWS:
                raise UsageError(
                    f"{self.shown}: {rows.table.name} has {rows.count:,} rows, and a sheet holds {MOST_ROWS - 1:,} "
                    "(accepted: --since, --until or --table for fewer rows, or another format, such as .csv)"
                )
        with _File(path, "wb") as file:
            return _write(tables, load.staging, file)


class _File(FileIO):
    """A file that takes for nothing what follows its first error.

    A ZIP file that could not be written is written to once more when Python deletes it, which would print a traceback.
    """

    _is_broken = False

    def write(self, data: ReadableBuffer) -> int:
        left = whole = memoryview(data)
        while left and not self._is_broken:
            try:
                left = left[super().write(left) :]
            except OSError:
                self._is_broken = True
                raise
        return whole.nbytes


def _write(tables: Sequence[Rows], staging: Staging, file: _File) -> dict[str, Changes]:
    """Write a workbook. Raises OSError."""
    xlsxwriter = require("xlsxwriter", "dataset")
    # ZIP64 is used for a sheet of more than 2 GB only.
    book = xlsxwriter.Workbook(file, {"constant_memory": True, "tmpdir": str(staging.folder), "use_zip64": True})
    changes = {rows.table.name: _Sheet(book, rows).write(staging) for rows in tables}
    problem = None
    try:
        book.close()
    except xlsxwriter.exceptions.FileCreateError as error:
        # Without its traceback, which would keep the ZIP file until the file is closed.
        problem = OSError(error.args[0].errno, error.args[0].strerror)
    if problem:
        raise problem
    return changes


class _Sheet:
    """A sheet with a table."""

    def __init__(self, book: Any, rows: Rows) -> None:
        self._book, self._rows = book, rows
        self._columns = columns_for_people(rows.table)
        self._sheet = book.add_worksheet(rows.table.name[:_LONGEST_NAME])
        self._plain = book.add_format()
        self._altered = 0

    def write(self, staging: Staging) -> Changes:
        self._format(staging)
        writers = [self._writer(column) for column in self._columns]
        count = 0
        for count, values in enumerate(self._values(staging), 1):
            for number, (write, value) in enumerate(zip(writers, values, strict=True)):
                if value is not None:
                    write(count, number, value)
        self._sheet.autofilter(0, 0, count, len(self._columns) - 1)
        return Changes(count, count, altered=self._altered)

    def _format(self, staging: Staging) -> None:
        """Write the header, and set what the cells look like."""
        formats = {each: self._book.add_format({"num_format": form}) for each, form in _FORMATS.items()}
        header = self._book.add_format(_HEADER)
        self._sheet.freeze_panes(1, 0)
        for number, (column, length) in enumerate(zip(self._columns, self._lengths(staging), strict=True)):
            width = min(max(_NARROWEST, len(column.name) + _BUTTON, length), _WIDEST)
            self._sheet.set_column(number, number, width, formats[column.type])
            self._sheet.write_string(0, number, column.name, header)

    def _lengths(self, staging: Staging) -> tuple[int, ...]:
        """Return how many characters the longest value of each column has."""
        lengths = ", ".join(f"coalesce(max(length({sql.name(each.name)}::VARCHAR)), 0)" for each in self._columns)
        (row,) = staging.connection.execute(f"SELECT {lengths} FROM {self._rows.relation}").fetchall()
        return row

    def _values(self, staging: Staging) -> Iterator[tuple[Any, ...]]:
        """Yield the rows in their order; a time is in Unix seconds."""
        names = {each.name: f"rows.{sql.name(each.name)}" for each in self._columns}
        values = ", ".join(
            f"epoch({names[each.name]})" if each.type == "TIMESTAMPTZ" else names[each.name] for each in self._columns
        )
        result = staging.connection.execute(ordered(self._rows, values))
        while fetched := result.fetchmany(_FETCHED):
            yield from fetched

    def _writer(self, column: Column) -> Callable[[int, int, Any], object]:
        """Return what writes the cells of a column."""
        writers: dict[str, Callable[[int, int, Any], object]] = {
            "BIGINT": self._write_integer,
            "BOOLEAN": self._sheet.write_boolean,
            "DOUBLE": self._sheet.write_number,
            "TIMESTAMPTZ": self._write_time,
            "VARCHAR": self._write_text,
        }
        return writers[column.type]

    def _write_integer(self, row: int, column: int, value: int) -> None:
        if abs(value) < 10**_DIGITS:
            self._sheet.write_number(row, column, value)
        else:
            self._sheet.write_string(row, column, str(value))

    def _write_time(self, row: int, column: int, seconds: float) -> None:
        self._sheet.write_number(row, column, seconds / _DAY + _EPOCH)

    def _write_text(self, row: int, column: int, value: str) -> None:
        text = as_cell(value)
        self._altered += text != value
        parts = _CUTS.split(text)
        if len(parts) == 1:
            self._sheet.write_string(row, column, text)
        else:
            # Each part after a format, because XlsxWriter wants more than two of both.
            self._sheet.write_rich_string(row, column, *chain.from_iterable((self._plain, part) for part in parts))


def as_cell(text: str) -> str:
    """Return a text as a cell can hold it.

    Every line break is a line feed, a control character is U+FFFD, and there are at most 32,767 characters.
    """
    text = _NOT_IN_XML.sub("\ufffd", _BREAK.sub("\n", text))
    if len(text) <= LONGEST // 2:
        return text
    return text.encode("utf-16-le")[: 2 * LONGEST].decode("utf-16-le", "ignore")
