"""A folder with every table as Parquet."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from parti_scraper.dataset.targets.base import Target

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from parti_scraper.dataset.targets.base import Session


class FolderTarget(Target):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.shown = f"{path}/"

    @contextmanager
    def open(self) -> Iterator[Session]:
        yield NotImplemented
