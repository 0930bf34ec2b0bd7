"""Brings runs of jobs into the shared dataset, as `scrapy export` does."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from parti_scraper.dataset import sql
from parti_scraper.dataset.engine import TargetError
from parti_scraper.dataset.export import Export, Silent, export
from parti_scraper.dataset.tables import LOADED
from parti_scraper.dataset.targets.base import loaded_from, loaded_query
from parti_scraper.dataset.targets.postgres import PostgresSession, PostgresTarget
from parti_scraper.jobs.database import SCHEMA, WORKER_RIGHTS
from parti_scraper.jobs.payload import ENDLESS, is_run_id, queue_of
from parti_scraper.ledger.ledger import Ledger
from parti_scraper.run.catalog import Catalog, entries_of_run
from parti_scraper.run.catalog_cache import FILE_NAME as CACHE_NAME
from parti_scraper.run.entries import Status

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import psycopg

    from parti_scraper.dataset.export import Report
    from parti_scraper.dataset.plan import Key, Loaded
    from parti_scraper.dataset.tables import Table
    from parti_scraper.dataset.targets.postgres_address import Address
    from parti_scraper.run.entries import Entry


class Lost(TargetError):  # noqa: N818 - it says what the job is
    """The job has become another worker's, and nothing was loaded."""


class Owner(NamedTuple):
    """Who has a job.

    Attributes:
        job_id: the job.
        attempts: how many there were before this one.
        worker_id: the worker.
    """

    job_id: int
    attempts: int
    worker_id: int


class _JobSession(PostgresSession):
    """The session of an export of few runs, which looks at what it needs of them alone.

    The rows of a large dataset are not counted each minute, since nobody reads how many there are.
    """

    def __init__(self, connection: psycopg.Connection, address: Address, runs: Sequence[str], owner: Owner) -> None:
        super().__init__(connection, address)
        self._runs, self._owner = runs, owner

    def loaded(self) -> dict[Key, Loaded]:
        if not self._runs or not self.exists(LOADED):
            return {}
        runs = ", ".join(map(sql.literal, self._runs))
        return loaded_from(self.query(f"{loaded_query(self.into(LOADED))} WHERE run_uuid IN ({runs})"))

    def commit(self) -> None:
        """End the transaction if the job is still the worker's. Raises Lost."""
        job_id, attempts, worker_id = self._owner
        found = self.query(
            f"SELECT 1 FROM {SCHEMA}.procrastinate_jobs WHERE id = {job_id} AND attempts = {attempts} "  # noqa: S608 - numbers
            f"AND worker_id = {worker_id} AND status = 'doing' FOR UPDATE"
        )
        if not found:
            raise Lost(f"{self.shown}: job {job_id} has become another worker's")
        super().commit()

    def _count(self, table: Table) -> int:
        return 0


def load_run(address: Address, folder: Path, state: Path, owner: Owner) -> Report | None:
    """Bring what a run has into the shared dataset.

    Args:
        address: of the dataset.
        folder: of the run.
        state: PARTI_STATE_DIR.
        owner: whose job it is.

    Returns:
        What was done; None if there is nothing to load.

    Raises:
        TargetAway: the server does not answer.
        Lost: the job has become another worker's.
        TargetError, UsageError, LedgerError: it cannot be loaded.
    """
    with Ledger.existing(state) as ledger:
        entries = [each for each in entries_of_run(folder, ledger) if each.status is not Status.FOREIGN]
        if not entries:
            return None
        target = PostgresTarget(address, WORKER_RIGHTS)
        target.session = partial(_JobSession, runs=_uuids(entries), owner=owner)
        return export(target, Export(entries, state / "export"), Silent())


def load_left(address: Address, output: Path, state: Path) -> Report | None:
    """Load what jobs without an end had collected when their worker died, which nobody can collect again.

    Returns None if there is nothing of that kind. Raises as `load_run`.
    """
    with Ledger.existing(state) as ledger:
        entries, is_left = [], False
        for entry in Catalog([output], state / CACHE_NAME, ledger):
            # Days follow their run.
            is_left = is_left if entry.day else _is_left(entry)
            if is_left:
                entries.append(entry)
        target = PostgresTarget(address, WORKER_RIGHTS)
        return export(target, Export(entries, state / "export"), Silent()) if entries else None


def _is_left(entry: Entry) -> bool:
    """Tell whether a run is that of a job without an end."""
    is_job = entry.spider is not None and is_run_id(entry.run_id or "")
    is_run = entry.status not in {Status.FOREIGN, Status.UNREADABLE, Status.TOO_NEW}
    return is_job and is_run and queue_of(entry.spider or "", entry.arguments) == ENDLESS


def _uuids(entries: Sequence[Entry]) -> list[str]:
    return sorted({each.run_uuid for each in entries if each.run_uuid})
