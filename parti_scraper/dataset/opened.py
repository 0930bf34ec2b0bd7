"""The dataset in Python: `open_dataset`."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from parti_scraper.dataset import sql
from parti_scraper.dataset.earlier_formats import is_export, not_an_export, open_export
from parti_scraper.dataset.engine import TargetError, connect, one_line, require
from parti_scraper.dataset.export import Export, Silent, export
from parti_scraper.dataset.inputs import Inputs, shown
from parti_scraper.dataset.tables import dataset_tables
from parti_scraper.dataset.targets.duckdb_file import DuckDbTarget
from parti_scraper.dataset.targets.postgres_address import Address
from parti_scraper.ledger.ledger import Ledger
from parti_scraper.run.catalog import Catalog

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from duckdb import DuckDBPyConnection

    from parti_scraper.dataset.earlier_formats import Held
    from parti_scraper.redact import Secret

_HELD = "held"
_FILE = "dataset.duckdb"


def open_dataset(
    *places: str | Path, source: str | None = None, state: str | Path | None = None, database_url: Secret | None = None
) -> DuckDBPyConnection:
    """Open the dataset as a connection of DuckDB with a view for each table.

    Exports are read as they are: a folder, `s3://…`, `delta+…`, a file `.duckdb` or `.sqlite`, `postgresql://…`.
    Folders of runs, or several places, are brought together first, as `scrapy export` does it, into a temporary file.
    Nothing is written to what is opened, and what exports do to it meanwhile does not show; but a folder can be read up
    to the export after next only, and one with Delta tables for a week. Of tables that an export does not have, there
    is no view.

    Args:
        places: folders of runs such as `output/`, and exports.
        source: `mock` for made-up data where there are real ones too.
        state: PARTI_STATE_DIR of runs that are going on; None: only runs that are over are read.
        database_url: the address that `postgresql://` alone stands for.

    Raises:
        UsageError: there is no such place, or it is none of both.
        TargetError: it cannot be read.
        ExtraMissing: a package is not installed; the text says which.
    """
    texts = [str(each) for each in places]
    with tempfile.TemporaryDirectory(prefix="parti-") as name:
        folder = Path(name)
        for text in texts:
            if not is_export(text) and not Path(text).is_dir():
                raise not_an_export(text)
        inputs = Inputs.parse(texts, database_url)
        if not inputs.runs and len(inputs.exports) == 1:
            return _open_export(inputs.exports[0], folder)
        # The file is gone afterwards, but not for the connection that has it open.
        return _open_file(_bring_together(inputs, folder, source, state))


def _open_export(named: Address | str, folder: Path) -> DuckDBPyConnection:
    """Make views of the tables of an export, or of a copy of them."""
    duckdb = require("duckdb", "dataset")
    try:
        with open_export(named, folder) as held:
            if isinstance(named, str) and named.endswith(".duckdb"):
                return _open_file(Path(named))
            if isinstance(named, Address) or named.endswith(".sqlite") or "://" in named:
                # DuckDB cannot read some, and what is fetched from others does not stay.
                return _open_copy(held, folder)
            return _open_folder(held)
    except (duckdb.Error, sqlite3.Error, OSError) as error:
        raise TargetError(f"{shown(named)} cannot be read: {one_line(error)}") from None


def _open_copy(held: Held, folder: Path) -> DuckDBPyConnection:
    path = folder / _FILE
    with connect(path, folder / "scratch") as connection:
        for name in held.tables:
            rows = held.rows(dataset_tables()[name], connection)
            connection.execute(f"CREATE TABLE {sql.name(name)} AS FROM {rows}")
    return _open_file(path)


def _open_folder(held: Held) -> DuckDBPyConnection:
    connection = connect()
    for name in held.tables:
        rows = held.rows(dataset_tables()[name], connection)
        connection.execute(f"CREATE VIEW {sql.name(name)} AS FROM {rows}")
    return connection


def _open_file(path: Path) -> DuckDBPyConnection:
    """Make views of the tables of a file of DuckDB."""
    duckdb = require("duckdb", "dataset")
    connection = connect()
    try:
        connection.execute(f"ATTACH {sql.literal(str(path))} AS {_HELD} (READ_ONLY)")
        known = connection.execute(
            f"SELECT table_name FROM duckdb_tables() WHERE database_name = {sql.literal(_HELD)}"
        ).fetchall()
        for (name,) in known:
            if name in dataset_tables():
                connection.execute(f"CREATE VIEW {sql.name(name)} AS FROM {_HELD}.main.{sql.name(name)}")
    except duckdb.Error as error:
        connection.close()
        raise TargetError(f"{path} cannot be read: {one_line(error)}") from None
    return connection


def _bring_together(inputs: Inputs, folder: Path, source: str | None, state: str | Path | None) -> Path:
    """Export everything into a temporary file, and return it."""
    path = folder / _FILE
    with _catalog(inputs.runs, state) as entries:
        what = Export(entries, folder / "scratch", source=source, earlier=inputs.exports)
        export(DuckDbTarget(path), what, Silent())
    return path


@contextmanager
def _catalog(folders: Sequence[Path], state: str | Path | None) -> Iterator[Catalog]:
    with nullcontext() if state is None else Ledger.existing(Path(state)) as ledger:
        yield Catalog(folders, None, ledger)
