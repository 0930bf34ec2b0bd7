"""Procrastinate, as this project uses it: waits for a server that is away, and lets only its owner end a job."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg
from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager
from procrastinate.utils import utcnow
from psycopg_pool import PoolTimeout

from parti_scraper.api.times import DAY
from parti_scraper.dataset.engine import TargetError
from parti_scraper.dataset.targets.postgres import database_error
from parti_scraper.exceptions import quoted
from parti_scraper.jobs.database import LOST_AFTER, SEARCH_PATH, WORKER_RIGHTS, absences, check
from parti_scraper.jobs.payload import SCHEDULE, TASKS

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from procrastinate.connector import Notify

    from parti_scraper.dataset.targets.postgres_address import Address

logger = logging.getLogger(__name__)

# Seconds between two tries to reach a server that is away, or refuses.
_PAUSE = 1.0
# Seconds that a query waits for a connection before it is tried again.
_TIMEOUT = 5.0
# How many connections a worker has beside the one that listens.
_CONNECTIONS = 4
# Seconds that a pool goes on trying to connect by itself, at growing distances; then it begins anew when it is asked.
_RECONNECT = 5.0
# After the server was away for longer than the first, all workers seem to be dead, until they have had so many seconds
# to tell that they are not. Whoever had been silent for longer than the third before that is dead.
_SHORT, _STEADY, _MISSED = 40.0, 20.0, 15.0
# How many workers may lose a job before nobody tries it any more: perhaps it is what kills them.
_MOST_LOSSES = 10
# What is said of an attempt that ended so.
_LOST = "its worker was lost"

_FETCH = "SELECT (found).* FROM parti_fetch_job(%(queues)s::varchar[], %(worker_id)s, %(most)s) AS found"
_DEFER = (
    "SELECT parti_defer_periodic_job(%(queue)s, %(task_name)s, %(periodic_id)s, %(defer_timestamp)s, %(args)s) AS id"
)
_OWNED = (
    "FROM procrastinate_jobs WHERE id = %(job_id)s AND worker_id = %(worker_id)s AND attempts = %(attempts)s "
    "AND status = 'doing' FOR UPDATE"
)
_FINISH = f"SELECT procrastinate_finish_job_v1(id, %(status)s, %(delete_job)s) {_OWNED}"
# What was cancelled is not done again. Procrastinate would call it failed, and could not try it again then.
_RETRY = (
    "SELECT CASE WHEN abort_requested THEN procrastinate_finish_job_v1(id, 'aborted', false) "
    "ELSE procrastinate_retry_job_v2(id, now() + make_interval(secs => %(delay)s), NULL, NULL, NULL) END "
    f"{_OWNED}"
)
# A database that takes the place of another one, such as one from a backup, gives numbers of workers a second time.
_IS_ME = (
    "id = %(worker_id)s AND NOT EXISTS (SELECT FROM parti_workers WHERE id = %(worker_id)s "
    "AND (host, pid) <> (%(host)s, %(pid)s))"
)
_HEARTBEAT = f"UPDATE procrastinate_workers SET last_heartbeat = now() WHERE {_IS_ME} RETURNING id"  # noqa: S608
_UNREGISTER = f"DELETE FROM procrastinate_workers WHERE {_IS_ME}"  # noqa: S608
_RESCUE = """
WITH lost AS (
    SELECT jobs.id, jobs.attempts, jobs.abort_requested FROM procrastinate_jobs AS jobs
    LEFT JOIN procrastinate_workers AS workers ON workers.id = jobs.worker_id
    WHERE jobs.status = 'doing' AND (
        workers.id IS NULL OR workers.last_heartbeat < now() - make_interval(secs => %(lost_after)s)
        OR (workers.id = %(worker_id)s AND jobs.id = ANY (%(unknown)s))
    )
    FOR UPDATE OF jobs SKIP LOCKED
), noted AS (
    UPDATE parti_attempts SET ended_at = now(), line = %(line)s FROM lost
    WHERE job_id = lost.id AND attempt = lost.attempts + 1 AND ended_at IS NULL
)
SELECT id, CASE WHEN abort_requested THEN procrastinate_finish_job_v1(id, 'aborted', false)
    WHEN (SELECT count(*) FROM parti_attempts WHERE job_id = lost.id AND line = %(line)s) < %(most)s
    THEN procrastinate_retry_job_v2(id, now(), NULL, NULL, NULL)
    ELSE procrastinate_finish_job_v1(id, 'failed', false) END FROM lost
"""
_MINE = "SELECT id FROM procrastinate_jobs WHERE status = 'doing' AND worker_id = %(worker_id)s"


class ServerAway(ConnectorException):
    """The server does not answer, and there is no time to wait for it."""


def is_away(error: BaseException) -> bool:
    """Tell whether an error says that the server cannot be reached, or has ended the connection."""
    cause = error.__cause__ or error
    return isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError)


def is_refused(error: BaseException) -> bool:
    """Tell whether an error says that the database is not as it has to be, which only a person can change."""
    refusals = (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)
    return isinstance(error.__cause__ or error, refusals + absences())


class Answers:
    """Knows from when the server has answered how long others must have been silent to be dead.

    A server that is frozen, or a network that loses all, gives no error: only its answers tell.
    """

    def __init__(self, now: float) -> None:
        """Begin; all times are of the monotonic clock."""
        self._last = self._silent_since = now
        self._steady_at = 0.0

    def note(self, now: float) -> None:
        """Note that the server has answered."""
        if now - self._last > _SHORT:
            self._silent_since, self._steady_at = self._last, now + _STEADY
        self._last = now

    def lost_after(self, now: float) -> float:
        """Return for how many seconds the database has not heard of a worker that is lost."""
        if now >= self._steady_at:
            return LOST_AFTER
        return max(LOST_AFTER, now - self._silent_since + _MISSED)


class Connector(PsycopgConnector):
    """Waits for a server that is away or refuses, where Procrastinate's worker would end.

    A query whose answer was lost is sent again; all that are sent are either harmless to repeat, or looked after by
    `Manager.rescue`.

    Attributes:
        gives_up_at: of the monotonic clock; None: never.
    """

    gives_up_at: float | None = None

    def __init__(self, address: Address) -> None:
        super().__init__(
            # A statement that was prepared fails for good once a table is another one, such as after `jobs setup`.
            kwargs=address.connection | {"prepare_threshold": None},
            configure=_configure,
            min_size=1,
            max_size=_CONNECTIONS,
            timeout=_TIMEOUT,
            reconnect_timeout=_RECONNECT,
        )
        self._address = address
        self._away_since: float | None = None
        # What was said of why it does not do what it is asked for, and whether that is being looked for.
        self._told: set[str] = set()
        self._is_asking = False
        self._answers = Answers(time.monotonic())

    @property
    def lost_after(self) -> float:
        """For how many seconds the database has not heard of a worker that is lost."""
        return self._answers.lost_after(time.monotonic())

    async def execute_query_async(self, query: Any, **arguments: Any) -> None:
        await self._patiently(lambda: super(Connector, self).execute_query_async(query, **arguments))

    async def execute_query_one_async(self, query: Any, **arguments: Any) -> dict[str, Any]:
        row: dict[str, Any] = await self._patiently(
            lambda: super(Connector, self).execute_query_one_async(query, **arguments)
        )
        return row

    async def execute_query_all_async(self, query: Any, **arguments: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = await self._patiently(
            lambda: super(Connector, self).execute_query_all_async(query, **arguments)
        )
        return rows

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        names = list(channels)
        await self._patiently(lambda: super(Connector, self).listen_notify(on_notification, names))

    async def _patiently(self, action: Callable[[], Awaitable[Any]]) -> Any:
        has_waited = False
        while True:
            waits = has_waited or self._away_since is not None
            if waits and self.gives_up_at is not None and time.monotonic() >= self.gives_up_at:
                raise ServerAway("the server does not answer")
            try:
                answer = await action()
            except ConnectorException as error:
                if not (is_away(error) or is_refused(error)):
                    self._told.clear()
                    raise
                if is_away(error) and self._away_since is None:
                    logger.warning("The database does not answer; it is tried again each second")
                    self._away_since = time.monotonic()
                self._forget_waiting()
                await self._tell_why(error.__cause__ or error)
                has_waited = True
            else:
                if has_waited:
                    # What is refused after this is news.
                    self._told.clear()
                self._is_there()
                return answer
            await asyncio.sleep(_PAUSE)

    def _forget_waiting(self) -> None:
        """Drop what the pool keeps, until it has a connection again, of queries that have waited in vain for one."""
        # There is no pool any more once the worker has ended.
        waiting: Any = getattr(self._async_pool, "_waiting", ())
        for each in [each for each in waiting if each.error]:
            waiting.remove(each)

    async def _tell_why(self, error: BaseException) -> None:
        """Say what a person has to do, once for each reason.

        That a server is away is not worth more than was said, unless it lasts; the pool does not say why.
        """
        is_known = str(error) in self._told or (is_away(error) and not isinstance(error, PoolTimeout))
        if self._is_asking or is_known:
            return
        self._is_asking, line = True, ""
        try:
            await asyncio.to_thread(check, self._address)
            if isinstance(error, psycopg.Error) and not is_away(error):
                line = str(database_error(error, self._address, WORKER_RIGHTS))
        except TargetError as why:
            line = str(why)
        finally:
            self._is_asking = False
        if not is_away(error):
            self._told.add(str(error))
        if line and line not in self._told:
            self._told.add(line)
            logger.warning("%s; it is tried again each second", line)

    def _is_there(self) -> None:
        now = time.monotonic()
        self._answers.note(now)
        if self._away_since is not None:
            logger.info("The database answers again, after %.0f s", now - self._away_since)
            self._away_since = None


async def _configure(connection: psycopg.AsyncConnection) -> None:
    await connection.execute(SEARCH_PATH)
    await connection.commit()


class Manager(JobManager):
    """Fetches what this worker has a place for, and ends a job only while it is this worker's.

    Attributes:
        who: host and pid, by which the database tells this worker from another one that had its number.
        on_heartbeat: are called when the database has taken a heartbeat.
        on_forgotten: are called when it does not know the worker any more.
    """

    connector: Connector

    def __init__(self, connector: Connector, places: Mapping[str, int], most: int) -> None:
        """Prepare.

        Args:
            connector: of the database.
            places: how many jobs of each queue this worker may do at a time.
            most: how many crawls may go on at a time on all machines.
        """
        super().__init__(connector)
        self._places, self._most = places, most
        self.who: dict[str, str | int] = {"host": socket.gethostname(), "pid": os.getpid()}
        self._running: dict[int, str] = {}
        self._unknown: set[int] = set()
        self.on_heartbeat: list[Callable[[], None]] = []
        self.on_forgotten: list[Callable[[], None]] = []

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        taken = Counter(self._running.values())
        free = [queue for queue, places in self._places.items() if taken[queue] < places]
        row = await self.connector.execute_query_one_async(_FETCH, queues=free, worker_id=worker_id, most=self._most)
        if row["id"] is None:
            return None
        # Of what is no object, Procrastinate could not even note that it has failed.
        job = Job.from_row(row | {"args": row["args"] if isinstance(row["args"], dict) else {}})
        self._running[row["id"]] = job.queue
        if job.task_name not in TASKS:
            logger.warning("job %d: there is no task %s", row["id"], quoted(job.task_name))
        return job

    async def defer_periodic_job(self, job: Job, periodic_id: str, defer_timestamp: int) -> int | None:
        row = await self.connector.execute_query_one_async(
            _DEFER,
            queue=job.queue,
            task_name=job.task_name,
            periodic_id=periodic_id,
            defer_timestamp=defer_timestamp,
            args=job.task_kwargs,
        )
        number: int | None = row["id"]
        return number

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        # What only enqueues others is not kept.
        is_noise = job.queue == SCHEDULE and status is Status.SUCCEEDED
        await self._end(job, _FINISH, status=status.value, delete_job=delete_job or is_noise)

    async def retry_job(
        self,
        job: Job,
        retry_at: dt.datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        # By the clock of the database, as all see it.
        delay = (retry_at - utcnow()).total_seconds() if retry_at else 0.0
        await self._end(job, _RETRY, delay=delay)

    async def _end(self, job: Job, query: str, **arguments: Any) -> None:
        owner = {"job_id": job.id, "worker_id": job.worker_id, "attempts": job.attempts}
        try:
            await self.connector.execute_query_all_async(query, **owner, **arguments)
        except ServerAway:
            logger.warning(
                "Job %s stays as it is until its worker is taken for lost: the server does not answer", job.id
            )
        finally:
            self._running.pop(job.id or 0, None)

    async def update_heartbeat(self, worker_id: int) -> None:
        # Not by an error, of which Procrastinate hears only until the first of its own tasks has ended.
        is_known = False
        with suppress(ConnectorException):
            is_known = await self.beat(worker_id)
        for tell in self.on_heartbeat if is_known else self.on_forgotten:
            tell()

    async def beat(self, worker_id: int) -> bool:
        """Tell the database that this worker is alive, and return whether it knows it."""
        return bool(await self.connector.execute_query_all_async(_HEARTBEAT, worker_id=worker_id, **self.who))

    async def unregister_worker(self, worker_id: int) -> None:
        await self.connector.execute_query_async(_UNREGISTER, worker_id=worker_id, **self.who)

    async def rescue(self, worker_id: int) -> list[int]:
        """Give back the jobs of workers that are dead or cut off. Returns their numbers.

        So are those that this worker has, but does not know of, because the answer was lost when it fetched them.
        """
        mine = {row["id"] for row in await self.connector.execute_query_all_async(_MINE, worker_id=worker_id)}
        unknown = mine - self._running.keys()
        # Twice in a row: what is being fetched is not known yet.
        lost, self._unknown = unknown & self._unknown, unknown
        rows = await self.connector.execute_query_all_async(
            _RESCUE,
            worker_id=worker_id,
            unknown=list(lost),
            lost_after=self.connector.lost_after,
            line=_LOST,
            most=_MOST_LOSSES - 1,
        )
        return [row["id"] for row in rows]


def make_app(address: Address, places: Mapping[str, int], most: int) -> tuple[App, Manager]:
    """Return the app without tasks; for the arguments see `Manager`."""
    connector = Connector(address)
    # Jobs of a schedule that were missed because no worker was there are done within a day, the last one of each.
    app = App(connector=connector, periodic_defaults={"max_delay": DAY})
    manager = Manager(connector, places, most)
    app.job_manager = manager
    return app, manager
