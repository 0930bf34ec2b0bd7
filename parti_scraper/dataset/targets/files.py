"""Single files with one table each: Parquet, CSV and JSON Lines.

CSV is for people, in a spreadsheet, so it is as harmless as that of the runs, and lacks the hash of the content. The
others are for programs, and have all columns.
"""

from __future__ import annotations

import gzip
from abc import abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parti_scraper.dataset import sql
from parti_scraper.dataset.targets.base import Changes
from parti_scraper.dataset.targets.written import WrittenTarget, columns_for_people, ordered

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedIOBase
    from pathlib import Path

    from parti_scraper.dataset.staging import Rows, Staging
    from parti_scraper.dataset.tables import Column, Table
    from parti_scraper.dataset.targets.base import Load

# What is written is no other file than the one that is named, since that one is temporary.
# Larger row groups do not fit into DuckDB's memory beside what it sorts if the records are large.
_PARQUET = "USE_TMP_FILE false, FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE_BYTES '16MB'"
# What Python takes for white space; RE2's `\s` is less.
_SPACE = r"\t-\r\x{1c}-\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
_UNSAFE = rf"^([\t\r\n]|[{_SPACE}]*[-=+@＝＋－＠])"
_FETCHED = 1_000
# Higher levels take much longer for little.
_LEVEL = 6


class FileTarget(WrittenTarget):
    """A file with one table."""

    is_single = True

    def default_tables(self) -> tuple[str, ...]:
        return ("livestreams",)


class ParquetTarget(FileTarget):
    """A file `.parquet`."""

    def write(self, load: Load, path: Path) -> dict[str, Changes]:
        rows, _ = load.rows
        query = ordered(rows, sql.names(rows.table.names, "rows"))
        copied = load.staging.connection.execute(f"COPY ({query}) TO {sql.literal(str(path))} ({_PARQUET})").fetchall()
        count = int(copied[0][0])
        return {rows.table.name: Changes(count, count)}


@dataclass(frozen=True, slots=True)
class Lines:
    """How a table becomes lines.

    Attributes:
        line: the expression for that of a row.
        altered: the expression for how many texts of a row are otherwise than they came.
        end: what is after each line.
        header: the first line; empty: there is none.
    """

    line: str
    altered: str
    end: str
    header: str = ""


class LinesTarget(FileTarget):
    """A file with a line for each row, compressed if its name ends in `.gz`.

    DuckDB makes the lines, but does not write them: of sorted rows, its `COPY` holds so many that a million livestreams
    as JSON do not fit into its memory.
    """

    @abstractmethod
    def lines(self, table: Table) -> Lines:
        """Return how a table becomes lines."""

    def write(self, load: Load, path: Path) -> dict[str, Changes]:
        rows, _ = load.rows
        with self._open(path) as stream:
            return {rows.table.name: _write(self.lines(rows.table), rows, load.staging, stream)}

    @contextmanager
    def _open(self, path: Path) -> Iterator[BufferedIOBase]:
        with path.open("wb") as stream:
            if self.path.suffix != ".gz":
                yield stream
                return
            # With the name of the target in it, not that of the temporary file.
            with gzip.GzipFile(self.path.name, "wb", _LEVEL, stream) as compressed:
                yield compressed


def _write(lines: Lines, rows: Rows, staging: Staging, stream: BufferedIOBase) -> Changes:
    result = staging.connection.execute(ordered(rows, f"{lines.line}, {lines.altered}"))
    count = altered = 0
    if lines.header:
        stream.write(f"{lines.header}{lines.end}".encode())
    while fetched := result.fetchmany(_FETCHED):
        stream.write("".join([line + lines.end for line, _ in fetched]).encode())
        count += len(fetched)
        altered += sum(number for _, number in fetched)
    return Changes(count, count, altered=altered)


class JsonLinesTarget(LinesTarget):
    """A file `.jsonl`."""

    def lines(self, table: Table) -> Lines:
        fields = ", ".join(f"{sql.literal(each.name)}: {_json_value(each)}" for each in table.columns)
        return Lines(f"to_json({{{fields}}})", "0", "\n")


def _json_value(column: Column) -> str:
    value = f"rows.{sql.name(column.name)}"
    if column.type == "TIMESTAMPTZ":
        return sql.as_text(value)
    return f"{value}::JSON" if column.is_json else value


class CsvTarget(LinesTarget):
    """A file `.csv`, as `feeds.exporters.CsvItemExporter` writes it."""

    def lines(self, table: Table) -> Lines:
        columns = columns_for_people(table)
        cells = ", ',', ".join(map(_cell, columns))
        texts = [f"rows.{sql.name(each.name)}" for each in columns if each.type == "VARCHAR"]
        altered = " + ".join(f"coalesce({harmless(text)} <> {text}, false)::INTEGER" for text in texts)
        return Lines(f"concat({cells})", altered or "0", "\r\n", ",".join(each.name for each in columns))


def _cell(column: Column) -> str:
    """Return the expression for a cell; null is none."""
    value = f"rows.{sql.name(column.name)}"
    if column.type == "TIMESTAMPTZ":
        return sql.as_text(value)
    return _quoted(harmless(value)) if column.type == "VARCHAR" else value


def harmless(text: str) -> str:
    """Return the expression for a text as `feeds.exporters.harmless` returns it."""
    clean = f"replace({text}, chr(0), '\ufffd')"
    safe = f"concat(chr(39), {clean})"
    return f"CASE WHEN regexp_matches({clean}, {sql.literal(_UNSAFE)}) THEN {safe} ELSE {clean} END"


def _quoted(text: str) -> str:
    """Return the expression for a text in quotes if it needs them (RFC 4180)."""
    quoted = f"""concat('"', replace({text}, '"', '""'), '"')"""
    return f"""CASE WHEN regexp_matches({text}, '[",\\r\\n]') THEN {quoted} ELSE {text} END"""
