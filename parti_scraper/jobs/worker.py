"""A worker: does jobs until it is stopped, and gives back those of workers that are dead."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from procrastinate import BaseRetryStrategy, RetryDecision
from procrastinate.exceptions import ConnectorException, JobAborted
from procrastinate.utils import utcnow
from procrastinate.worker import Worker as ProcrastinateWorker

from parti_scraper import __version__
from parti_scraper.api.times import DAY
from parti_scraper.dataset.engine import TargetAway
from parti_scraper.dataset.targets.postgres import database_error
from parti_scraper.exceptions import PartiError, UsageError
from parti_scraper.jobs import queue
from parti_scraper.jobs.app import ServerAway, make_app
from parti_scraper.jobs.crawling import Crawl
from parti_scraper.jobs.database import WORKER_RIGHTS, connect, procrastinate_version
from parti_scraper.jobs.loading import Lost, Owner, load_left, load_run
from parti_scraper.jobs.outcomes import Ended, next_of
from parti_scraper.jobs.payload import CRAWL, ENDLESS, SCHEDULE, check_payload, read_payload, run_id_of
from parti_scraper.run import datapackage
from parti_scraper.run.outcome import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from procrastinate import App, JobContext
    from procrastinate.jobs import Job
    from procrastinate.middleware import AsyncCallNext

    from parti_scraper.dataset.export import Report
    from parti_scraper.dataset.targets.postgres_address import Address
    from parti_scraper.jobs.queue import Missing
    from parti_scraper.jobs.schedule import Scheduled

logger = logging.getLogger(__name__)

# How many jobs without an end a worker does at a time, beside its crawls.
_ENDLESS_AT_A_TIME = 8
# Seconds between two heartbeats, two looks for jobs that nobody has told of, and two looks for dead workers.
_HEARTBEAT, _POLL, _RESCUE = 5.0, 1.0, 5.0
# Seconds between two times that what a job without an end has collected is loaded.
_LOAD = 60.0
# Seconds between two tries to load into a server that is away.
_PAUSE = 2.0
# Seconds that a worker that was told to stop waits for a server that is away.
_LAST_PATIENCE = 20.0
# Seconds after that until it ends at once. Where a server that is away lets it end by itself, it has ended by then.
_LAST_GRACE = 15.0
# Workers are known to the database for so many seconds after their last heartbeat.
_REMEMBERED = 3600.0

_NOTE_WORKER = (
    "INSERT INTO parti_workers (id, host, pid, version, procrastinate) "
    "VALUES (%(id)s, %(host)s, %(pid)s, %(version)s, %(procrastinate)s) ON CONFLICT DO NOTHING"
)
_NOTE_BEGIN = (
    "INSERT INTO parti_attempts (job_id, attempt, host) VALUES (%(job_id)s, %(attempt)s, %(host)s) "
    "ON CONFLICT (job_id, attempt) DO UPDATE SET host = excluded.host"
)
_NOTE_END = (
    "UPDATE parti_attempts SET ended_at = now(), exit_code = %(exit_code)s, line = %(line)s, "
    "has_failed = %(has_failed)s WHERE job_id = %(job_id)s AND attempt = %(attempt)s AND ended_at IS NULL"
)
_FAILURES = "SELECT count(*) AS failures FROM parti_attempts WHERE job_id = %(job_id)s AND has_failed"


class Failed(Exception):  # noqa: N818 - it says what has become of it
    """An attempt has ended, and the job is not done.

    Attributes:
        delay: seconds before the next attempt; None: there is none.
    """

    def __init__(self, line: str, delay: float | None) -> None:
        super().__init__(line)
        self.delay = delay


class _Retry(BaseRetryStrategy):
    """Tries again when the exception says so, or the server has not answered."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        if isinstance(exception, Failed):
            delay = exception.delay
        else:
            delay = _PAUSE if isinstance(exception, ServerAway | TargetAway) else None
        return None if delay is None else RetryDecision(retry_at=utcnow() + timedelta(seconds=delay))


@dataclass(frozen=True, slots=True)
class Machine:
    """What a worker is given.

    Attributes:
        address: of the queue and the shared dataset.
        output, state: PARTI_OUTPUT_DIR and PARTI_STATE_DIR.
        environment: of its crawls.
        concurrency: how many crawls that have an end it does at a time.
        most: how many of them go on at a time on all machines.
        schedule: what is enqueued when.
        missing: says what `missing` means in a schedule at the moment.
    """

    address: Address
    output: Path
    state: Path
    environment: Mapping[str, str]
    concurrency: int
    most: int
    schedule: Sequence[Scheduled]
    missing: Callable[[], Missing]


class Worker:
    """Does jobs until it is stopped."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        places = {CRAWL: machine.concurrency, ENDLESS: _ENDLESS_AT_A_TIME, SCHEDULE: 1}
        self._app, self._manager = make_app(machine.address, places, machine.most)
        self._places = sum(places.values())
        self._logs = machine.state / "jobs"
        self._crawls: set[Crawl] = set()
        self._stopping = asyncio.Event()
        self._worker: ProcrastinateWorker | None = None
        self._leaving: asyncio.Task[None] | None = None
        # Under which number the database knows who this is, and when old jobs were forgotten.
        self._noted: int | None = None
        self._swept = 0.0
        self._manager.on_heartbeat.append(self._beat)
        self._manager.on_forgotten.append(self._begin_anew)
        _add_tasks(self._app, self)

    async def run(self) -> None:
        """Work until `stop` is called. Raises psycopg.Error if it cannot begin."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        async with self._app.open_async():
            leftovers = asyncio.create_task(self._load_left())
            while not self._stopping.is_set():
                await self._work()
            await leftovers
        if self._leaving:
            self._leaving.cancel()

    def stop(self) -> None:
        """Take no more jobs, have crawls stop so that they can be resumed, and give the jobs back."""
        if self._stopping.is_set():
            return
        logger.info("Stopping: %d crawls are told to", len(self._crawls))
        self._stopping.set()
        self._manager.connector.gives_up_at = time.monotonic() + _LAST_PATIENCE
        for crawl in self._crawls:
            crawl.tell()
        if self._worker:
            self._worker.stop()  # type: ignore[no-untyped-call]
        self._leaving = asyncio.create_task(self._leave())

    async def _leave(self) -> None:
        """End this process if the server stops to answer while the worker stops.

        A query that was sent to a server that is frozen is waited for as long as the connection is there.
        """
        answers = True
        while answers:
            answers = await self._answers()
            await asyncio.sleep(_PAUSE)
        await asyncio.gather(*(crawl.stop() for crawl in self._crawls))
        logger.critical("The database does not answer: the worker ends, and its jobs stay until it is taken for lost")
        # Nothing else would end the threads that wait.
        os._exit(ExitCode.NOT_STARTED)

    async def _answers(self) -> bool:
        """Tell whether the server answers while there is patience."""
        asked = asyncio.create_task(self._ask())
        done, _ = await asyncio.wait([asked], timeout=_LAST_PATIENCE)
        if not (done and asked.result()):
            await asyncio.sleep(_LAST_GRACE)
        return asked.done() and asked.result()

    async def _ask(self) -> bool:
        try:
            await self._note("SELECT 1")
        except ConnectorException:
            return False
        return True

    async def _work(self) -> None:
        """Be one worker of the database, until it is stopped or the database has forgotten it."""
        self._worker = ProcrastinateWorker(
            self._app,
            queues=[CRAWL, ENDLESS, SCHEDULE],
            concurrency=self._places,
            fetch_job_polling_interval=_POLL,
            update_heartbeat_interval=_HEARTBEAT,
            stalled_worker_timeout=_REMEMBERED,
            install_signal_handlers=False,
            worker_middleware=[_report],
        )
        # The number may be the same where the tables are others.
        self._noted = None
        rescue = asyncio.create_task(self._rescue(self._worker))
        try:
            await self._worker.run()  # type: ignore[no-untyped-call]
        except (ConnectorException, AssertionError) as error:
            # Its row in the database is gone, or the server is, as it stops.
            if not self._stopping.is_set():
                logger.warning("The worker begins anew: %s", _first_line(error))
        finally:
            rescue.cancel()
        if not self._stopping.is_set():
            # Not at once: what has ended it may last.
            await asyncio.sleep(_PAUSE)

    def _begin_anew(self) -> None:
        """Be another worker of the database, which does not know this one any more; its jobs are others' by now."""
        if self._worker is None or self._stopping.is_set():
            # It is about to end.
            return
        logger.warning("The worker begins anew: the database does not know it any more")
        for crawl in self._crawls:
            crawl.tell()
        self._worker.stop()  # type: ignore[no-untyped-call]
        self._worker = None

    async def _rescue(self, worker: ProcrastinateWorker) -> None:
        """Give back the jobs of workers that are dead, as long as this one lives; forget old jobs once a day."""
        while True:
            await asyncio.sleep(_RESCUE)
            if worker.worker_id is None:
                continue
            try:
                await self._look(worker.worker_id)
            except ConnectorException as error:
                # Such as while somebody changes the tables. The next time may be better.
                if not self._stopping.is_set():
                    logger.warning("Nothing is given back for now: %s", _first_line(error))

    async def _look(self, worker_id: int) -> None:
        """Do once what `_rescue` does again and again."""
        if worker_id != self._noted:
            await self._note(
                _NOTE_WORKER,
                id=worker_id,
                version=__version__,
                procrastinate=procrastinate_version(),
                **self._manager.who,
            )
            self._noted = worker_id
        if self._stopping.is_set():
            # Procrastinate's own have ended then, and it may take a while until all is loaded. None for the crawls.
            await self._manager.beat(worker_id)
        for job_id in await self._manager.rescue(worker_id):
            logger.warning("Job %d is given back: its worker is dead, or cut off", job_id)
        if time.monotonic() - self._swept > DAY or not self._swept:
            self._swept = time.monotonic()
            await self._manager.delete_old_jobs(
                queue.KEPT_HOURS, include_failed=True, include_cancelled=True, include_aborted=True
            )
            self._sweep_logs()

    def _sweep_logs(self) -> None:
        """Delete the logs of jobs that are not known any more."""
        oldest = time.time() - queue.KEPT_HOURS * 3_600
        for log in self._logs.glob("*.log"):
            # Another worker may have done it.
            with suppress(OSError):
                if log.stat().st_mtime < oldest:
                    log.unlink()

    def _beat(self) -> None:
        for crawl in self._crawls:
            crawl.beat()

    async def _note(self, query: Any, **arguments: Any) -> None:
        await self._manager.connector.execute_query_async(query, **arguments)

    # Jobs:

    async def crawl(self, job: Job) -> None:
        """Do a job. Raises Failed if it is not done then."""
        attempt = job.attempts + 1
        number = {"job_id": job.id, "attempt": attempt}
        run_id = run_id_of(job.id or 0, attempt)
        await self._note(_NOTE_BEGIN, host=self._manager.who["host"], **number)
        exit_code = None
        try:
            ended = await self._crawl(job, *read_payload(job.task_kwargs), run_id)
            exit_code = ended.exit_code
        except Lost as error:
            logger.warning("job %s: %s", run_id, error)
            if job.queue == ENDLESS:
                await self._load_left()
            raise Failed(str(error), None) from None
        except TargetAway as error:
            logger.warning("job %s: %s", run_id, error)
            raise Failed(str(error), 0.0) from None
        except (PartiError, OSError) as error:
            # As of a crawl that could not be started.
            code = ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.NOT_STARTED
            ended = Ended(code, has_package=False, line=f"job {run_id}: {error}")
        failures = await self._manager.connector.execute_query_one_async(_FAILURES, job_id=job.id)
        then = next_of(ended, failures["failures"])
        await self._note(_NOTE_END, exit_code=exit_code, line=ended.line, has_failed=then.has_failed, **number)
        level = logging.WARNING if then.has_failed else logging.INFO
        logger.log(level, "%s (exit code %d)", ended.line or run_id, ended.exit_code)
        if then.delay is not None or then.has_failed:
            # Not all at once, where the same has kept several from being done.
            raise Failed(ended.line, then.delay and then.delay * random.uniform(1, 1.5))  # noqa: S311 - no secret

    async def _crawl(self, job: Job, spider: str, arguments: Mapping[str, str], run_id: str) -> Ended:
        """Crawl, and load the run."""
        check_payload(spider, arguments)
        folder = self.machine.output / spider / run_id
        if folder.exists():
            raise PartiError(f"{folder} is there already, of another queue: let each have its own PARTI_OUTPUT_DIR")
        owner = Owner(job.id or 0, job.attempts, job.worker_id or 0)
        log = self._logs / f"{run_id}.log"
        # How a crawl says how it has ended.
        begin = f"{spider} {run_id}:"
        logger.info("%s begins", begin)
        begun = time.monotonic()
        crawl = await Crawl.start(spider, arguments, run_id, log, self.machine.environment)
        self._crawls.add(crawl)
        try:
            if self._stopping.is_set():
                crawl.tell()
            code = await self._wait(crawl, folder, owner, is_endless=job.queue == ENDLESS)
            await self._load(folder, owner)
        except asyncio.CancelledError:
            # Of `jobs cancel`. What there is, is kept.
            code = await crawl.stop()
            await self._load(folder, owner)
            end = {"exit_code": code, "line": await crawl.said(begin), "has_failed": False}
            await self._note(_NOTE_END, job_id=job.id, attempt=job.attempts + 1, **end)
            raise JobAborted from None
        finally:
            # It goes on if what it has could not be loaded.
            await crawl.stop()
            self._crawls.discard(crawl)
        package = datapackage.read(folder)
        has_no_end = job.queue == ENDLESS and not arguments.keys() & {"duration", "max_records"}
        return Ended(
            code,
            has_package=package is not None,
            line=await crawl.said(begin),
            was_told=crawl.was_told and self._stopping.is_set(),
            seconds=time.monotonic() - begun,
            is_endless=has_no_end or datapackage.is_stopped(package or {}),
        )

    async def _wait(self, crawl: Crawl, folder: Path, owner: Owner, *, is_endless: bool) -> int:
        """Wait for the end of a crawl, and load what there is each minute if that is far. Returns the exit code."""
        while (code := await crawl.wait(_LOAD if is_endless else None)) is None:
            try:
                await asyncio.to_thread(self._load_once, folder, owner)
            except TargetAway:
                logger.warning("%s is not loaded yet: the server does not answer", folder.name)
            except Lost:
                crawl.tell()
        return code

    async def _load(self, folder: Path, owner: Owner) -> None:
        """Load a run, also if the server is away for a while."""
        while True:
            try:
                await asyncio.to_thread(self._load_once, folder, owner)
            except TargetAway:
                gives_up_at = self._manager.connector.gives_up_at
                if gives_up_at is not None and time.monotonic() >= gives_up_at:
                    raise
                await asyncio.sleep(_PAUSE)
            else:
                return

    def _load_once(self, folder: Path, owner: Owner) -> None:
        report = load_run(self.machine.address, folder, self.machine.state, owner)
        if report:
            _check_whole(report)

    async def _load_left(self) -> None:
        """Load what jobs without an end have left on this machine when their worker died."""
        machine = self.machine
        while not self._stopping.is_set():
            try:
                await asyncio.to_thread(load_left, machine.address, machine.output, machine.state)
            except TargetAway:
                await asyncio.sleep(_PAUSE)
            except PartiError as error:
                logger.warning("What is left of earlier jobs is not loaded: %s", error)
                return
            else:
                return

    async def schedule(self, name: str, spider: str, arguments: Mapping[str, str], *, is_missing: bool) -> None:
        """Put what a schedule asks for into the queue, unless it waits there or goes on."""
        try:
            found = await asyncio.to_thread(self._schedule, name, spider, arguments, is_missing=is_missing)
        except PartiError as error:
            logger.warning("schedule %s: %s", name, error)
            raise
        logger.info("schedule %s: %s", name, f"jobs {', '.join(map(str, found))}" if found else "nothing to do")

    def _schedule(self, name: str, spider: str, arguments: Mapping[str, str], *, is_missing: bool) -> list[int]:
        with connect(self.machine.address) as connection:
            if is_missing:
                return queue.enqueue_missing(connection, self.machine.address, self.machine.missing())
            return queue.put_scheduled(connection, name, spider, arguments)


async def _report(process: AsyncCallNext, context: JobContext, _: ProcrastinateWorker) -> Any:
    """Do a job, and log what nobody has expected of it."""
    try:
        return await process()
    except (PartiError, Failed, JobAborted, ServerAway):
        raise
    except Exception:
        logger.exception("job %s has failed", context.job.id)
        raise


def _first_line(error: BaseException) -> str:
    """Return what has led to an error of Procrastinate, in one line."""
    return str(error.__cause__ or error).partition("\n")[0]


def _check_whole(report: Report) -> None:
    """Raise PartiError if something of a run could not be loaded."""
    wrong = [each for each in report.left_out if each.is_wrong]
    if wrong:
        raise PartiError(f"not loaded: {wrong[0].folder}: {wrong[0].reason}")


def _add_tasks(app: App, worker: Worker) -> None:
    """Let an app know what a worker does."""

    @app.task(name=CRAWL, queue=CRAWL, pass_context=True, retry=_Retry())
    async def crawl(context: JobContext, /, **_: object) -> None:
        await worker.crawl(context.job)

    @app.task(name=SCHEDULE, queue=SCHEDULE, retry=_Retry())
    async def schedule(timestamp: int, name: str, spider: str, arguments: dict[str, str], missing: bool) -> None:  # noqa: ARG001 - Procrastinate gives it
        await worker.schedule(name, spider, arguments, is_missing=missing)

    for each in worker.machine.schedule:
        values: dict[str, Any] = {"name": each.name, "spider": each.spider, "arguments": each.arguments}
        values["missing"] = each.missing
        app.periodic(cron=each.cron, periodic_id=each.name, task_kwargs=values)(schedule)


def run_worker(machine: Machine) -> None:
    """Work until a signal stops it. Raises TargetError if the database refuses."""

    async def work() -> None:
        await Worker(machine).run()

    try:
        asyncio.run(work())
    except psycopg.Error as error:
        # As it has begun; later it waits.
        raise database_error(error, machine.address, WORKER_RIGHTS) from None
