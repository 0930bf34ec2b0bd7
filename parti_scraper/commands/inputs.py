"""What commands share that read the runs of output folders."""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing, contextmanager, nullcontext
from typing import TYPE_CHECKING

from parti_scraper.exceptions import UsageError, did_you_mean
from parti_scraper.ledger.ledger import Ledger
from parti_scraper.network.source import MOCK, REAL
from parti_scraper.run.catalog import Catalog
from parti_scraper.run.catalog_cache import FILE_NAME as CACHE_NAME
from parti_scraper.run.entries import Status
from parti_scraper.run.sealing import seal, seal_folder
from parti_scraper.wording import number_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from parti_scraper.dataset.plan import LeftOut
    from parti_scraper.run.entries import Entry

# How many folders of runs are named for each reason for which they are left out.
_NAMED = 3


class Runs:
    """The runs of a catalog, of which those that no ledger knows, and that were left, are sealed first."""

    def __init__(self, catalog: Catalog, now: float) -> None:
        self._catalog, self._now = catalog, now

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
    ledger = Ledger.existing(state)
    with closing(ledger) if ledger else nullcontext():
        if ledger:
            seal(ledger, None, now)
        yield Runs(Catalog(folders, state / CACHE_NAME, ledger), now)


def add_source_option(group: argparse._ArgumentGroup) -> None:
    """Add the option that chooses between real and made-up data."""
    group.add_argument("--source", metavar="SOURCE", help="mock or parti.com (default: parti.com, or what there is)")


def check_source(source: str | None) -> None:
    """Raise UsageError if what was typed is no source."""
    if source not in {None, MOCK, REAL}:
        hint = did_you_mean(source or "", (MOCK, REAL))
        raise UsageError.of("option", "--source", "no such source", source or "", f"{MOCK}, {REAL}", hint=hint)


def left_out_lines(left_out: Sequence[LeftOut], done: str = "left out") -> Iterator[str]:
    """Yield a line for each reason for which runs are left out, with the first of them; `done` is what was done."""
    by_reason: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for each in left_out:
        by_reason[each.what, each.reason].append(each.folder)
    for (what, reason), folders in by_reason.items():
        named = ", ".join(folders[:_NAMED]) + (", …" if len(folders) > _NAMED else "")
        yield f"  {done}: {number_of(len(folders), what)}: {reason}: {named}"
