"""Which target is meant by what was typed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from parti_scraper.dataset.targets.duckdb_file import DuckDbTarget
from parti_scraper.dataset.targets.files import CsvTarget, JsonLinesTarget, ParquetTarget
from parti_scraper.dataset.targets.folder import FolderTarget
from parti_scraper.dataset.targets.local_folder import LocalFolder
from parti_scraper.dataset.targets.xlsx import XlsxTarget
from parti_scraper.exceptions import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from parti_scraper.dataset.targets.base import Target

SUFFIXES: dict[str, Callable[[Path], Target]] = {
    ".csv": CsvTarget,
    ".csv.gz": CsvTarget,
    ".duckdb": DuckDbTarget,
    ".jsonl": JsonLinesTarget,
    ".jsonl.gz": JsonLinesTarget,
    ".parquet": ParquetTarget,
    ".xlsx": XlsxTarget,
}
ACCEPTED = f"a folder (FOLDER/), or a file: {', '.join(SUFFIXES)}"


def target_of(text: str) -> Target:
    """Return the target of a text such as `data/`, `streams.xlsx` or `postgresql://…`. Raises UsageError."""
    if "://" not in text:
        path = Path(text)
        if text.endswith("/") or path.is_dir():
            return FolderTarget(LocalFolder(path))
        for suffix, make_target in SUFFIXES.items():
            if text.endswith(suffix):
                return make_target(path)
    hint = did_you_mean(Path(text).suffix, SUFFIXES)
    raise UsageError.of("argument", "TARGET", "not a target", text, ACCEPTED, hint=hint)
