"""The database that has the queue and the shared dataset: how to get in, and its tables.

Procrastinate's tables and those below are in a schema of their own, so that who reads the dataset does not see them.
"""

from __future__ import annotations

import importlib.metadata
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from parti_scraper.dataset.engine import TargetError, require
from parti_scraper.dataset.targets.named import address_of
from parti_scraper.dataset.targets.postgres import OWNERSHIP, database_error
from parti_scraper.dataset.targets.postgres_address import SCHEMES
from parti_scraper.program import program
from parti_scraper.secret_settings import secret_from

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import LiteralString

    import psycopg
    from scrapy.settings import BaseSettings

    from parti_scraper.dataset.targets.postgres_address import Address

SCHEMA = "parti_jobs"
SEARCH_PATH = f"SET search_path TO {SCHEMA}"
# What is needed for everything but `setup`.
WORKER_RIGHTS = "the rights of a worker, see docs/several-machines.md"
# What is said where a step was done that this version does not know.
_LATER = " has the queue of a later version of this project, or of Procrastinate: update this one"
# The step that makes a new queue.
_SCHEMA_STEP = "schema"
# A worker without a heartbeat for so many seconds is alive no more for others. Its own crawls end before.
LOST_AFTER = 65
# The locks of transactions, of which only one may go on at a time; the functions below have 7170002 and 7170004.
SETUP, ENQUEUE = 7170001, 7170003

# What Procrastinate has no place for, by the names under which it is noted that they are there. What was released is
# never changed: a change is a new entry, that workers of the version before can live with.
_OWN: tuple[tuple[str, LiteralString], ...] = (
    (
        "parti_001_tables",
        """
        CREATE TABLE parti_workers (
            id bigint PRIMARY KEY REFERENCES procrastinate_workers ON DELETE CASCADE,
            host text NOT NULL,
            pid integer NOT NULL,
            version text NOT NULL,
            procrastinate text NOT NULL,
            started_at timestamptz NOT NULL DEFAULT now()
        );
        CREATE TABLE parti_attempts (
            job_id bigint NOT NULL REFERENCES procrastinate_jobs ON DELETE CASCADE,
            attempt integer NOT NULL,
            host text NOT NULL,
            started_at timestamptz NOT NULL DEFAULT now(),
            ended_at timestamptz,
            exit_code integer,
            line text NOT NULL DEFAULT '',
            has_failed boolean NOT NULL DEFAULT false,
            PRIMARY KEY (job_id, attempt)
        );
        """,
    ),
    (
        "parti_002_fetch",
        """
        CREATE FUNCTION parti_fetch_job(queues varchar[], worker bigint, most integer)
            RETURNS procrastinate_jobs LANGUAGE plpgsql AS $$
        DECLARE
            found procrastinate_jobs;
        BEGIN
            IF 'crawl' = ANY (queues) AND EXISTS (
                SELECT 1 FROM procrastinate_jobs WHERE status = 'todo' AND queue_name = 'crawl'
            ) THEN
                -- Who counts must see what those before have fetched.
                PERFORM pg_advisory_xact_lock(7170002);
                IF (SELECT count(*) FROM procrastinate_jobs WHERE status = 'doing' AND queue_name = 'crawl') >= most
                THEN
                    queues := array_remove(queues, 'crawl');
                END IF;
            END IF;
            SELECT * FROM procrastinate_fetch_job_v2(queues, worker) INTO found;
            RETURN found;
        END;
        $$;
        """,
    ),
    (
        "parti_003_defer",
        """
        CREATE FUNCTION parti_defer_periodic_job(
            queue varchar, task varchar, periodic varchar, moment bigint, args jsonb
        )
            RETURNS bigint LANGUAGE plpgsql AS $$
        BEGIN
            -- Procrastinate knows only the last moment: who is late would begin those before it a second time.
            PERFORM pg_advisory_xact_lock(7170004);
            IF EXISTS (
                SELECT 1 FROM procrastinate_periodic_defers
                WHERE task_name = task AND periodic_id = periodic AND defer_timestamp > moment
            ) THEN
                RETURN NULL;
            END IF;
            RETURN procrastinate_defer_periodic_job_v2(queue, NULL, NULL, task, 0, periodic, moment, args);
        END;
        $$;
        """,
    ),
)
# What workers need, as far as it shows without doing anything.
_NEEDED: tuple[LiteralString, ...] = (
    "SELECT 'parti_fetch_job'::regproc, 'parti_defer_periodic_job'::regproc",
    "SELECT FROM procrastinate_jobs, procrastinate_events, procrastinate_periodic_defers WHERE false",
    "SELECT FROM parti_workers, parti_attempts WHERE false",
    "DELETE FROM procrastinate_workers WHERE false",
)
_ALIVE = (
    "SELECT procrastinate FROM parti_workers JOIN procrastinate_workers USING (id) "
    "WHERE last_heartbeat > now() - make_interval(secs => %s)"
)


def jobs_address(settings: BaseSettings) -> Address:
    """Return the address of the database. Raises UsageError, ExtraMissing."""
    require("procrastinate", "jobs")
    return address_of(SCHEMES[0], secret_from(settings, "PARTI_DATABASE_URL"), "the queue")


@contextmanager
def connect(address: Address, needed: str = WORKER_RIGHTS) -> Iterator[psycopg.Connection]:
    """Open a connection that sees the tables of the queue; the transaction ends with it.

    Args:
        address: of the database.
        needed: the rights that are needed for what is to be done.

    Raises:
        TargetError: the database cannot be reached, has no queue, or refuses.
    """
    psycopg = require("psycopg", "jobs")
    try:
        with closing(psycopg.connect(**address.connection)) as connection:
            connection.execute(SEARCH_PATH)
            try:
                yield connection
            except absences():
                connection.rollback()
                # That was undone with the rest.
                connection.execute(SEARCH_PATH)
                # Whoever must not use a schema finds nothing there.
                if _is_denied(connection):
                    problem = f": permission denied for schema {SCHEMA} (needed: {needed})"
                elif _is_later(_known(connection)):
                    problem = _LATER
                else:
                    problem = f" has no queue, or an older one: {program()} jobs setup"
                raise TargetError(f"{address.shown}{problem}") from None
            connection.commit()
    except psycopg.Error as error:
        raise database_error(error, address, needed) from None


def absences() -> tuple[type[psycopg.Error], ...]:
    """Return the errors that say that a database has not the tables and functions of this version."""
    errors = require("psycopg", "jobs").errors
    return (errors.UndefinedTable, errors.UndefinedFunction, errors.UndefinedObject, errors.InvalidSchemaName)


def check(address: Address) -> None:
    """Raise TargetError if workers cannot work with a database: it cannot be reached, has no queue, or refuses."""
    with connect(address) as connection:
        for statement in _NEEDED:
            connection.execute(statement)


def _is_denied(connection: psycopg.Connection) -> bool:
    """Tell whether there is a queue that this role must not use."""
    found = connection.execute(
        "SELECT 1 FROM pg_namespace WHERE nspname = %s AND NOT has_schema_privilege(oid, 'USAGE')", [SCHEMA]
    )
    return found.fetchone() is not None


def set_up(address: Address) -> tuple[list[str], list[str]]:
    """Make the tables of the queue, or bring them up to date.

    Procrastinate's own call does that only once, and does not know what was done. Its migrations are files, of which
    those named `post` are for when no worker of the version before is left.

    Returns:
        The steps that were done, and those that wait for workers of an earlier version to end.

    Raises:
        TargetError: the database cannot be reached or refuses, or its queue is damaged, or of a later version.
    """
    errors = require("psycopg", "jobs").errors
    with connect(address, OWNERSHIP) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [SETUP])
        if not _has_schema(connection):
            connection.execute(f"CREATE SCHEMA {SCHEMA}")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS parti_migrations "
            "(name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        known = _known(connection)
        if _is_later(known):
            raise TargetError(f"{address.shown}{_LATER}")
        try:
            done, waiting = _set_up(connection, known)
            for statement in _NEEDED:
                connection.execute(statement)
        except (errors.DuplicateTable, errors.DuplicateObject, errors.DuplicateFunction) as error:
            raise TargetError(_damaged(address, error, "is not of this project")) from None
        except absences() as error:
            raise TargetError(_damaged(address, error, "lacks what was made")) from None
    return done, waiting


def _set_up(connection: psycopg.Connection, known: set[str]) -> tuple[list[str], list[str]]:
    """Do the steps that are not known. Returns those that were done, and those that wait."""
    waits = _has_older_workers(connection, known)
    done, waiting = [], []
    for name, statements in _steps(known):
        if waits and "_post_" in name:
            waiting.append(name)
            continue
        if statements:
            # Not with arguments: then there may be several statements.
            connection.execute(statements)
        connection.execute("INSERT INTO parti_migrations (name) VALUES (%s)", [name])
        done.append(name)
    return done, waiting


def _damaged(address: Address, error: psycopg.Error, problem: str) -> str:
    """Return what is said where no step helps."""
    return (
        f"{address.shown}: the schema {SCHEMA} {problem}: {error.diag.message_primary} (accepted: a database as it was "
        f"backed up, or one without this schema; DROP SCHEMA {SCHEMA} CASCADE loses the queue, and no record)"
    )


def _known(connection: psycopg.Connection) -> set[str]:
    """Return the names of the steps that were done."""
    found = connection.execute("SELECT to_regclass('parti_migrations') IS NOT NULL").fetchone()
    if not (found and found[0]):
        return set()
    return {name for (name,) in connection.execute("SELECT name FROM parti_migrations")}


def _is_later(known: set[str]) -> bool:
    """Tell whether a step was done that this version does not know."""
    return not known <= {_SCHEMA_STEP, *(each.name for each in _migrations()), *(name for name, _ in _OWN)}


def _has_schema(connection: psycopg.Connection) -> bool:
    found = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [SCHEMA])
    return found.fetchone() is not None


def _has_older_workers(connection: psycopg.Connection, known: set[str]) -> bool:
    """Tell whether a worker is alive that has another version of Procrastinate."""
    if not known:
        return False
    return any(version != procrastinate_version() for (version,) in connection.execute(_ALIVE, [LOST_AFTER]))


def _steps(known: set[str]) -> Iterator[tuple[str, LiteralString]]:
    """Yield the name and the statements of each step that is not known to be done, in order."""
    files = _migrations()
    if not known:
        # All migrations are in the schema of a new database.
        yield _SCHEMA_STEP, require("procrastinate.schema", "jobs").SchemaManager.get_schema()
        yield from ((each.name, "") for each in files)
    else:
        yield from ((each.name, each.read_text(encoding="utf-8")) for each in files if each.name not in known)
    yield from (step for step in _OWN if step[0] not in known)


def _migrations() -> list[Path]:
    """Return Procrastinate's migrations, in order."""
    return sorted(require("procrastinate.schema", "jobs").migrations_path.glob("*.sql"))


def procrastinate_version() -> str:
    """Return the version of Procrastinate that is installed."""
    return importlib.metadata.version("procrastinate")
