"""The runs of output folders as one iterable, once those that were left are sealed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from parti_scraper.ledger.ledger import Ledger
from parti_scraper.run.catalog import Catalog
from parti_scraper.run.catalog_cache import FILE_NAME as CACHE_NAME
from parti_scraper.run.entries import Status
from parti_scraper.run.sealing import seal, seal_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from parti_scraper.ledger.ledger import FailedStart
    from parti_scraper.run.entries import Entry


class Runs:
    """The runs of a catalog, of which those that no ledger knows, and that were left, are sealed first.

    Attributes:
        failed_starts: those that were asked for and not begun, the last one first.
    """

    def __init__(self, catalog: Catalog, now: float, failed_starts: Iterable[FailedStart] = ()) -> None:
        self._catalog, self._now = catalog, now
        self.failed_starts = failed_starts

    def __iter__(self) -> Iterator[Entry]:
        sealed = set()
        for entry in self._catalog:
            is_unknown = entry.status is Status.UNFINISHED and entry.run_uuid is None and entry.day is None
            if is_unknown and seal_folder(entry.folder, self._now):
                sealed.add(entry.folder)
            else:
                yield entry
        if sealed:
            yield from (each for each in self._catalog if {each.folder, each.folder.parent} & sealed)


@contextmanager
def open_runs(folders: Sequence[Path], state: Path, now: float) -> Iterator[Runs]:
    """Open the runs of output folders, once those that were left are sealed.

    Args:
        folders: PARTI_OUTPUT_DIR, or what was typed in its place.
        state: PARTI_STATE_DIR.
        now: Unix seconds.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    with Ledger.existing(state) as ledger:
        if ledger:
            seal(ledger, None, now)
        failed_starts = ledger.failed_starts() if ledger else ()
        yield Runs(Catalog(folders, state / CACHE_NAME, ledger), now, failed_starts)
