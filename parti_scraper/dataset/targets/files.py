"""Single files with one table each: Parquet, CSV and JSON Lines. They are written anew each time."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from parti_scraper.dataset import sql
from parti_scraper.dataset.engine import TargetError, one_line, require
from parti_scraper.dataset.targets.base import Changes, Target
from parti_scraper.dataset.targets.locked import locked, put_in_place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from parti_scraper.dataset.plan import Key, Loaded
    from parti_scraper.dataset.tables import Column, Table
    from parti_scraper.dataset.targets.base import Load

_CSV = "FORMAT csv, HEADER true"
_JSON = "FORMAT json"
FORMS = {
    ".parquet": "FORMAT parquet, COMPRESSION zstd",
    ".csv": _CSV,
    ".csv.gz": f"{_CSV}, COMPRESSION gzip",
    ".jsonl": _JSON,
    ".jsonl.gz": f"{_JSON}, COMPRESSION gzip",
}


class FileTarget(Target):
    """A file with one table."""

    is_single = True

    def __init__(self, path: Path, suffix: str) -> None:
        self.path, self._suffix = path, suffix
        self.shown = str(path)

    def default_tables(self) -> tuple[str, ...]:
        return ("livestreams",)

    @contextmanager
    def open(self) -> Iterator[_Session]:
        """Open it, and wait for other exports into it. Raises TargetError, ExtraMissing."""
        duckdb = require("duckdb", "dataset")
        with locked(self.path.parent, self.shown):
            try:
                yield _Session(self.path, self._suffix)
            except (duckdb.Error, OSError) as error:
                raise TargetError(f"{self.path} cannot be written: {one_line(error)}") from None


class _Session:
    meta = None

    def __init__(self, path: Path, suffix: str) -> None:
        self._path, self._suffix = path, suffix

    def loaded(self) -> dict[Key, Loaded]:
        return {}

    def load(self, load: Load) -> dict[str, Changes]:
        (rows,) = (each for each in load.rows if each.table.name != "loaded_files")
        table = rows.table
        temporary = self._path.with_name(f".{self._path.name}.export")
        columns = ", ".join(f"{_shown(each, self._suffix)} AS {sql.name(each.name)}" for each in table.columns)
        query = f"SELECT {columns} FROM {rows.relation} rows ORDER BY {_order(table)}"
        load.staging.connection.execute(f"COPY ({query}) TO {sql.literal(str(temporary))} ({FORMS[self._suffix]})")
        put_in_place(temporary, self._path)
        return {table.name: Changes(rows.count, rows.count)}


def _order(table: Table) -> str:
    return sql.names(dict.fromkeys([*([table.time] if table.time else []), *table.key]), "rows")


def _shown(column: Column, suffix: str) -> str:
    """Return the expression for a column in a file of a format."""
    text = f"rows.{sql.name(column.name)}"
    if column.type == "TIMESTAMPTZ" and suffix != ".parquet":
        return f"strftime({text}, '%Y-%m-%dT%H:%M:%SZ')"
    if column.is_json and suffix.startswith(".jsonl"):
        return f"{text}::JSON"
    return text
