"""Runs, and days of them, that have no data package: what the ledger knows of them, or else their folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.exceptions import UsageError
from parti_scraper.ledger.ledger import SUPERSEDED
from parti_scraper.run import datapackage
from parti_scraper.run.descriptors import source_of
from parti_scraper.run.entries import KINDS, Entry, File, Status, Window, derived_uuid, kind_of_file
from parti_scraper.run.recovery import RECOVERED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from parti_scraper.ledger.ledger import Checkpoint, RunRecord

_TEMPORARY = f"{datapackage.FILE_NAME}.tmp"


class Lookup(Protocol):
    """Who knows of runs that were begun: the ledger."""

    def find(self, folder: Path) -> RunRecord | None:
        """Return the run of a folder."""

    def last_checkpoint(self, run: int) -> Checkpoint | None:
        """Return how far a run has come; None where it has not begun to."""


class Unfinished:
    """A run without a data package.

    Attributes:
        is_known: whether the ledger knows it.
    """

    def __init__(self, location: str, spider: str, name: str, ledger: Lookup | None) -> None:
        """Look it up.

        Args:
            location: path of its folder.
            spider: whose it is.
            name: of its folder.
            ledger: who knows of runs; None: nobody does.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        self._location, self._spider = location, spider
        record = ledger.find(Path(location)) if ledger else None
        self._noted = ledger.last_checkpoint(record.id) if ledger and record else None
        self.is_known = record is not None
        self._facts = {"spider": spider, "run_id": name} | (_facts(record, self._noted) if record else {})

    def entry(self, sizes: Mapping[str, int], days: Sequence[str]) -> Entry:
        """Return the entry of the run.

        Args:
            sizes: bytes of the files in its folder, by name.
            days: those that it has entries for; then the files are theirs.
        """
        counts = {} if self._noted is None else dict(self._noted.counts)
        files = () if days else self._files(sizes, "")
        return Entry(
            self._location, Status.UNFINISHED, **self._facts | {"days": tuple(days), "counts": counts}, files=files
        )

    def entry_of_day(self, day: str, sizes: Mapping[str, int]) -> Entry:
        """Return the entry of a day, with the sizes in bytes of the files in its folder."""
        files = self._files(sizes, f"{day}/")
        return Entry(f"{self._location}/{day}", Status.UNFINISHED, **self._facts, day=day, files=files)

    def _files(self, sizes: Mapping[str, int], folder: str) -> tuple[File, ...]:
        """Return the files of records, as far as they are noted; whole where nothing is, or more than there is."""
        collection = KINDS[self._spider].collection
        files = []
        for name, size in sorted(sizes.items()):
            kind = kind_of_file(name, collection)
            noted = None if self._noted is None else self._noted.files.get(folder + name, (0, 0))
            if kind is None or noted == (0, 0):
                continue
            good, rows = noted if noted is not None and noted[0] <= size else (size, None)
            files.append(File(name, name.rpartition(".")[2], kind, rows, good))
        return tuple(files)


def is_ours(name: str, spider: str) -> bool:
    """Tell whether a file in the folder of a run that did not finish is one that such runs leave."""
    collection = KINDS[spider].collection
    return kind_of_file(name, collection) is not None or name in {RECOVERED, _TEMPORARY}


def _facts(record: RunRecord, noted: Checkpoint | None) -> dict[str, Any]:
    """Return what the ledger knows of a run, as an entry has it."""
    began = timestamp_to_iso(record.started_at)
    host = noted.host if noted and noted.host else None
    return {
        "reason": "a later run has written what it was to write" if record.state == SUPERSEDED else None,
        "run_id": record.run_id,
        # Of runs that were begun by earlier versions there is none.
        "run_uuid": getattr(record, "run_uuid", None) or derived_uuid(record.spider, record.run_id, began),
        "source": source_of(host) if host else None,
        "host": host,
        "started_at": began,
        "arguments": arguments_of(record),
        "window": record.window and Window(*map(timestamp_to_iso, record.window)),
    }


def arguments_of(record: RunRecord) -> dict[str, Any]:
    """Return the arguments as a data package has them; as typed where they are not understood any more."""
    kind = KINDS.get(record.spider)
    try:
        return kind.arguments.parse(record.arguments, record.spider, record.started_at).given() if kind else {}
    except UsageError:
        return dict(record.arguments)
