"""Which target is meant by what was typed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from parti_scraper.dataset.targets.duckdb_file import DuckDbTarget
from parti_scraper.dataset.targets.files import FORMS, FileTarget
from parti_scraper.dataset.targets.folder import FolderTarget
from parti_scraper.dataset.targets.local_folder import LocalFolder
from parti_scraper.dataset.targets.object_store import SCHEMES, ObjectStore
from parti_scraper.dataset.targets.xlsx import XlsxTarget
from parti_scraper.exceptions import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from parti_scraper.dataset.targets.base import Target

_SUFFIXES: dict[str, Callable[[Path], Target]] = {".duckdb": DuckDbTarget, ".xlsx": XlsxTarget}
ACCEPTED = (
    f"a folder (FOLDER/, s3://BUCKET/PREFIX/, gs://, az://), or a file: {', '.join(sorted({*_SUFFIXES, *FORMS}))}"
)


def target_of(text: str, scratch: Path | None = None) -> Target:
    """Return the target of a text such as `data/`, `streams.xlsx` or `postgresql://…`. Raises UsageError.

    Args:
        text: as typed.
        scratch: a folder for the temporary files of targets elsewhere; None: the system's.
    """
    if text.startswith(tuple(f"{scheme}://" for scheme in SCHEMES)):
        return FolderTarget(ObjectStore(text, scratch))
    if "://" not in text:
        path = Path(text)
        if text.endswith("/") or path.is_dir():
            return FolderTarget(LocalFolder(path))
        for suffix, make_target in _SUFFIXES.items():
            if text.endswith(suffix):
                return make_target(path)
        for suffix in sorted(FORMS, key=len, reverse=True):
            if text.endswith(suffix):
                return FileTarget(path, suffix)
    hint = did_you_mean(Path(text).suffix, [*_SUFFIXES, *FORMS])
    raise UsageError.of("argument", "TARGET", "not a target", text, ACCEPTED, hint=hint)
