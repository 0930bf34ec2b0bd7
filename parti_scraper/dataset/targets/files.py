"""Single files with one table each: Parquet, CSV and JSON Lines.

CSV is for people, in a spreadsheet, so it is as harmless as that of the runs, and lacks the hash of the content. The
others are for programs, and have all columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from parti_scraper.dataset import sql
from parti_scraper.dataset.targets.base import Changes
from parti_scraper.dataset.targets.written import WrittenTarget, columns_for_people

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from parti_scraper.dataset.staging import Rows
    from parti_scraper.dataset.tables import Column
    from parti_scraper.dataset.targets.base import Load

# As in the runs' own CSV. What is written is no other file than the one that was named, since that one is temporary.
_CSV = r"USE_TMP_FILE false, FORMAT csv, HEADER true, NEW_LINE '\r\n'"
_JSON = "USE_TMP_FILE false, FORMAT json"
FORMS = {
    ".parquet": "USE_TMP_FILE false, FORMAT parquet, COMPRESSION zstd",
    ".csv": _CSV,
    ".csv.gz": f"{_CSV}, COMPRESSION gzip",
    ".jsonl": _JSON,
    ".jsonl.gz": f"{_JSON}, COMPRESSION gzip",
}

# What Python takes for white space; RE2's `\s` is less.
_SPACE = r"\t-\r\x{1c}-\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
_UNSAFE = rf"^([\t\r\n]|[{_SPACE}]*[-=+@＝＋－＠])"


class FileTarget(WrittenTarget):
    """A file with one table."""

    is_single = True

    def __init__(self, path: Path, suffix: str) -> None:
        super().__init__(path)
        self._options = FORMS[suffix]
        self._form = suffix.split(".")[1]

    def default_tables(self) -> tuple[str, ...]:
        return ("livestreams",)

    def write(self, load: Load, path: Path) -> dict[str, Changes]:
        rows, _ = load.rows
        table, connection = rows.table, load.staging.connection
        columns: Sequence[Column] = columns_for_people(table) if self._form == "csv" else table.columns
        values = ", ".join(f"{self._value(each)} AS {sql.name(each.name)}" for each in columns)
        query = f"SELECT {values} FROM {rows.relation} rows ORDER BY {sql.names(table.sorting, 'rows')}"
        copied = connection.execute(f"COPY ({query}) TO {sql.literal(str(path))} ({self._options})").fetchall()
        count = int(copied[0][0])
        altered = _altered(rows, columns, load) if self._form == "csv" else 0
        return {table.name: Changes(count, count, altered=altered)}

    def _value(self, column: Column) -> str:
        """Return the expression for a column, as it stands in a file of the format."""
        text = f"rows.{sql.name(column.name)}"
        if column.type == "TIMESTAMPTZ" and self._form != "parquet":
            return sql.as_text(text)
        if column.is_json and self._form == "jsonl":
            return f"{text}::JSON"
        if column.type == "VARCHAR" and self._form == "csv":
            return harmless(text)
        return text


def harmless(text: str) -> str:
    """Return the expression for a text as `feeds.exporters.harmless` returns it."""
    clean = f"replace({text}, chr(0), '\ufffd')"
    return f"CASE WHEN regexp_matches({clean}, {sql.literal(_UNSAFE)}) THEN concat('''', {clean}) ELSE {clean} END"


def _altered(rows: Rows, columns: Sequence[Column], load: Load) -> int:
    """Count the texts that `harmless` changes."""
    names = [f"rows.{sql.name(each.name)}" for each in columns if each.type == "VARCHAR"]
    counts = " + ".join(f"count(*) FILTER (WHERE {harmless(each)} <> {each})" for each in names)
    ((count,),) = load.staging.connection.execute(f"SELECT {counts or '0'} FROM {rows.relation} rows").fetchall()
    return int(count)
