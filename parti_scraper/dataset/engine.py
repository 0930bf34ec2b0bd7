"""DuckDB, which reads, merges and writes the tables."""

from __future__ import annotations

import importlib
import json
import os
from typing import TYPE_CHECKING, Any, TypeVar

from parti_scraper.exceptions import PartiError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from duckdb import DuckDBPyConnection

Result = TypeVar("Result")

# What is to be installed for each extra; `make setup` has the first three.
_PACKAGES = {
    "dataset": "duckdb tzdata xlsxwriter",
    "report": "altair jinja2 vl-convert-python",
    "operations": '"parti_scraper[operations]"',
    "postgres": "'psycopg[binary]'",
    "s3": "obstore",
    "delta": "deltalake",
    "jobs": "procrastinate 'psycopg[binary]'",
}
# How an error of one of DuckDB's threads begins, which is JSON within another error.
_INNER = '{"exception_type":'
# What DuckDB may hold in memory; beyond that it uses the disk. But each thread that sorts holds 122,880 rows, so there
# are few, and where rows are so large that even these do not fit, one has more.
_MEMORY, _MORE_MEMORY = "512MB", "4GB"
_THREADS = min(2, os.cpu_count() or 1)


class ExtraMissing(PartiError):  # noqa: N818 - it says what is missing
    """A package is not installed that only some users need; the text says how to install it.

    Raised by `require`; the commands print it and end with code 1.
    """


class TargetError(PartiError):
    """A target cannot be read or written; the text is one line without secrets.

    Raised by the targets; the commands print it and end with code 1.
    """


class TargetAway(TargetError):  # noqa: N818 - it says what the target is
    """A server does not answer, or has ended what was going on; later it may be there again."""


def require(module: str, extra: str) -> ModuleType:
    """Import a module of an extra. Raises ExtraMissing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package, packages = module.partition(".")[0], _PACKAGES[extra]
        raise ExtraMissing(f"{package} is not installed (extra `{extra}`): pip install {packages}") from None


def connect(path: Path | str = ":memory:", scratch: Path | None = None) -> DuckDBPyConnection:
    """Open a database; what it cannot hold in memory goes into the folder `scratch`. Raises ExtraMissing."""
    config: dict[str, Any] = {
        # They would be downloaded.
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "memory_limit": _MEMORY,
        "preserve_insertion_order": False,
        "threads": _THREADS,
    }
    if scratch is not None:
        config["temp_directory"] = str(scratch)
    duckdb: Any = require("duckdb", "dataset")
    connection: DuckDBPyConnection = duckdb.connect(str(path), config=config)
    connection.execute("SET timezone = 'UTC'")
    return connection


def with_memory(connection: DuckDBPyConnection, action: Callable[[], Result]) -> Result:
    """Do something that sorts; if rows are too large for that, do it again with one thread that has more memory."""
    duckdb: Any = require("duckdb", "dataset")
    try:
        return action()
    except duckdb.OutOfMemoryException:
        connection.execute(f"SET threads = 1; SET memory_limit = '{_MORE_MEMORY}'")
    try:
        return action()
    finally:
        connection.execute(f"SET threads = {_THREADS}; SET memory_limit = '{_MEMORY}'")


def one_line(error: Exception) -> str:
    """Return the first line of an error of DuckDB."""
    line = str(error).strip().partition("\n")[0]
    start = line.find(_INNER)
    return line if start == -1 else str(json.JSONDecoder().raw_decode(line, start)[0]["exception_message"])
