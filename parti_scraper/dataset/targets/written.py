"""Files that each export writes anew."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from parti_scraper.dataset import sql
from parti_scraper.dataset.engine import TargetError, one_line, require, with_memory
from parti_scraper.dataset.tables import CONTENT_HASH
from parti_scraper.dataset.targets.base import Target
from parti_scraper.dataset.targets.locked import locked, put_in_place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from parti_scraper.dataset.plan import Key, Loaded
    from parti_scraper.dataset.staging import Rows, Staging
    from parti_scraper.dataset.tables import Column, Table
    from parti_scraper.dataset.targets.base import Changes, Load, Wanted


class WrittenTarget(Target):
    """A file that each export writes anew."""

    # Packages that it needs.
    modules: ClassVar[tuple[str, ...]] = ("duckdb",)

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shown = str(path)

    @contextmanager
    def open(self) -> Iterator[_Session]:
        """Open it, and wait for other exports into it. Raises TargetError, ExtraMissing."""
        duckdb, *_ = (require(module, "dataset") for module in self.modules)
        with locked(self.path.parent, self.shown):
            try:
                yield _Session(self)
            except duckdb.Error as error:
                raise TargetError(f"{self.shown} cannot be written: {one_line(error)}") from None
            except OSError as error:
                raise TargetError(f"{self.shown} cannot be written: {error.strerror or error}") from None

    @abstractmethod
    def write(self, load: Load, path: Path) -> dict[str, Changes]:
        """Write the rows into a file, which takes the place of the target. Raises UsageError, TargetError.

        Returns what was done to each table.
        """


class _Session:
    meta = None

    def __init__(self, target: WrittenTarget) -> None:
        self._target = target

    def loaded(self) -> dict[Key, Loaded]:
        return {}

    def fetch(self, wanted: Wanted, staging: Staging) -> None:
        """Do nothing: nothing that was there stays."""

    def load(self, load: Load) -> dict[str, Changes]:
        path = self._target.path
        # Always the same one, so that the next export removes what a killed one has left.
        temporary = path.with_name(f".{path.name}.export")
        temporary.unlink(missing_ok=True)
        try:
            changes = with_memory(load.staging.connection, lambda: self._target.write(load, temporary))
            put_in_place(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return changes


def ordered(rows: Rows, values: str) -> str:
    """Return the query for expressions of rows, in the order of the table."""
    return f"SELECT {values} FROM {rows.relation} rows ORDER BY {sql.names(rows.table.sorting, 'rows')}"


def columns_for_people(table: Table) -> list[Column]:
    """Return the columns of a file that people open: the hash of the content only matters to programs."""
    return [column for column in table.columns if column.name != CONTENT_HASH]
