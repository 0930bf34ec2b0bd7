"""The unfinished run that the arguments name, if any."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from parti_scraper.exceptions import NothingToFinish, UsageError
from parti_scraper.ledger.ledger import SUPERSEDED
from parti_scraper.run import datapackage
from parti_scraper.run.arguments import LAST
from parti_scraper.run.context import default_run_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from parti_scraper.ledger.ledger import Ledger, RunRecord
    from parti_scraper.run.arguments import Arguments


def find_previous(
    arguments_class: type[Arguments], raw: Mapping[str, str], folder: Path, ledger: Ledger | None, now: float
) -> RunRecord | None:
    """Return the unfinished run that the arguments name.

    Args:
        arguments_class: how they are parsed.
        raw: the arguments as typed.
        folder: where the runs of the spider have their folders; its name is the spider's.
        ledger: what runs have done; None where there is no ledger yet.
        now: Unix seconds.

    Raises:
        UsageError: an argument differs from that of the run, or cannot be parsed, or a later version of the project
            wrote the run.
        NothingToFinish: `run_id=last`, and no run is unfinished.
    """
    spider = folder.name
    arguments = arguments_class.parse(raw, spider, now)
    run_id = arguments.run_id or (default_run_id(raw["_job"], 0) if raw.get("_job") else None)
    run = None
    if run_id == LAST:
        runs = ledger.running(spider) if ledger else iter(())
        run = next(
            (each for each in runs if is_unfinished(each) and Path(each.folder).parent == folder.absolute()), None
        )
        if run is None:
            raise NothingToFinish(f"{spider}: no run is unfinished; nothing was requested")
    elif run_id:
        check_not_pruned(folder / run_id)
        run = ledger.find(folder / run_id) if ledger else None
    if run is None or not is_unfinished(run):
        return None
    if run.state == SUPERSEDED:
        problem = "left unfinished, and a later incremental run has written what it was to write"
        raise UsageError.of("argument", "run_id", problem, run.run_id, "another name")
    arguments_class.check_same(raw, run.arguments, run.run_id, spider, run.started_at)
    return run


def is_unfinished(run: RunRecord) -> bool:
    """Tell whether the folder of a run is there, and has no data package but one that sealed it, with all its files."""
    folder = Path(run.folder)
    try:
        check_not_pruned(folder)
        return folder.is_dir() and datapackage.read_finished(folder) is None
    except UsageError:  # One of a later version.
        return False


def check_not_pruned(folder: Path) -> None:
    """Raise UsageError if a run is to be resumed whose record files were removed, or that a later version wrote."""
    package = datapackage.read(folder)
    if package and datapackage.is_sealed(package) and datapackage.is_pruned(package):
        problem = "left unfinished, and `prune` has removed its records, so it cannot go on"
        raise UsageError.of("argument", "run_id", problem, folder.name, "another name")
