"""Which target is meant by what was typed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from parti_scraper.api.times import UnparsableError
from parti_scraper.dataset.targets.delta import ACCEPTED as ACCEPTED_DELTA
from parti_scraper.dataset.targets.delta import DeltaTarget, is_delta, store_of
from parti_scraper.dataset.targets.duckdb_file import DuckDbTarget
from parti_scraper.dataset.targets.files import CsvTarget, JsonLinesTarget, ParquetTarget
from parti_scraper.dataset.targets.folder import FolderTarget
from parti_scraper.dataset.targets.local_folder import LocalFolder
from parti_scraper.dataset.targets.object_store import SCHEMES as STORES
from parti_scraper.dataset.targets.object_store import ObjectStore
from parti_scraper.dataset.targets.postgres import PostgresTarget
from parti_scraper.dataset.targets.postgres_address import ACCEPTED as ACCEPTED_ADDRESS
from parti_scraper.dataset.targets.postgres_address import SCHEMES, parse_address
from parti_scraper.dataset.targets.sqlite import SqliteTarget
from parti_scraper.dataset.targets.xlsx import XlsxTarget
from parti_scraper.exceptions import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from parti_scraper.dataset.targets.base import Target
    from parti_scraper.dataset.targets.postgres_address import Address
    from parti_scraper.redact import Secret

SUFFIXES: dict[str, Callable[[Path], Target]] = {
    ".csv": CsvTarget,
    ".csv.gz": CsvTarget,
    ".duckdb": DuckDbTarget,
    ".jsonl": JsonLinesTarget,
    ".jsonl.gz": JsonLinesTarget,
    ".parquet": ParquetTarget,
    ".sqlite": SqliteTarget,
    ".xlsx": XlsxTarget,
}
ACCEPTED = (
    f"a folder (FOLDER/, s3://BUCKET/PREFIX/, gs://, az://), Delta tables ({ACCEPTED_DELTA}), "
    f"a file ({', '.join(SUFFIXES)}), or a database ({SCHEMES[0]}…)"
)


def target_of(text: str, database_url: Secret | None = None, scratch: Path | None = None) -> Target:
    """Return the target of a text such as `data/`, `streams.xlsx` or `postgresql://…`.

    Args:
        text: as typed.
        database_url: the address that `postgresql://` alone stands for.
        scratch: a folder for the temporary files of targets elsewhere; None: the system's.

    Raises:
        UsageError: there is no such target.
        ExtraMissing: a package is not installed.
    """
    if text.startswith(SCHEMES):
        return PostgresTarget(address_of(text, database_url))
    if text.startswith(tuple(f"{scheme}://" for scheme in STORES)):
        return FolderTarget(ObjectStore(text, scratch))
    if is_delta(text):
        return DeltaTarget(store_of(text, scratch))
    if "://" not in text:
        path = Path(text)
        if text.endswith("/") or path.is_dir():
            return FolderTarget(LocalFolder(path))
        for suffix, make_target in SUFFIXES.items():
            if text.endswith(suffix):
                return make_target(path)
    hint = did_you_mean(Path(text).suffix, SUFFIXES)
    raise UsageError.of("argument", "TARGET", "not a target", text, ACCEPTED, hint=hint)


def address_of(text: str, database_url: Secret | None, of: str = "argument `TARGET`") -> Address:
    """Return the address of a database.

    Args:
        text: as typed; `postgresql://` alone stands for `database_url`.
        database_url: of the environment variable PARTI_DATABASE_URL.
        of: what was typed, for errors.

    Raises:
        UsageError: it is none; its text shows nothing of it.
        ExtraMissing: psycopg is not installed.
    """
    if text in SCHEMES:
        if not database_url:
            raise UsageError(f"{of}: PARTI_DATABASE_URL is not set (accepted: {ACCEPTED_ADDRESS})")
        of, text = "environment variable `PARTI_DATABASE_URL`", database_url.reveal()
    try:
        return parse_address(text)
    except UnparsableError as problem:
        raise UsageError(f"{of}: {problem} (accepted: {ACCEPTED_ADDRESS}){problem.hint}") from None
