"""Which unknown and unreadable fields are new in a run: the last complete run of the spider did not have them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from parti_scraper.api.quality import MIN_RECORDS
from parti_scraper.exceptions import LedgerError
from parti_scraper.run.datapackage import FILE_NAME
from parti_scraper.run.entries import Entry, entry_of

if TYPE_CHECKING:
    from parti_scraper.run.context import Run

# Complete runs that are looked at: some have seen too few records to tell, or made-up ones.
_RUNS_READ = 20


def run_before(run: Run) -> Entry | None:
    """Return the last complete run of the same spider and source that has seen enough records to compare with.

    Only for a run in which fields are unknown or unreadable: for any other, nothing is read. What cannot be read does
    no harm.

    Returns:
        its entry; None if there is none.
    """
    if not (run.quality.unknown or run.quality.unreadable):
        return None
    try:
        before = list(run.ledger.last_complete(run.identity.spider, _RUNS_READ))
    except LedgerError:
        return None
    for record in before:
        folder = Path(record.folder)
        try:
            body = (folder / FILE_NAME).read_bytes()
        except OSError:  # It was removed.
            continue
        entry = entry_of(body, record.folder, record.spider, folder.name)
        if entry.complete and entry.source == run.source.name and entry.counts.get("served", 0) >= MIN_RECORDS:
            return entry
    return None
