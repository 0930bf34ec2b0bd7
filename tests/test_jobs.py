"""`scrapy jobs`, and the queue behind it, on a real PostgreSQL; what workers do is in `test_jobs_worker`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from procrastinate.jobs import Job
from procrastinate.periodic import PeriodicDeferrer
from procrastinate.schema import migrations_path
from procrastinate.utils import utcnow
from scrapy.settings import Settings

from parti_scraper.api.routes import FIRST_TS
from parti_scraper.api.times import DAY, iso_to_timestamp, timestamp_to_iso
from parti_scraper.commands.jobs import Command
from parti_scraper.dataset.coverage import Interval, union
from parti_scraper.dataset.engine import ExtraMissing, TargetError
from parti_scraper.dataset.targets.postgres import OWNERSHIP
from parti_scraper.dataset.targets.postgres_address import Address, parse_address
from parti_scraper.exceptions import UsageError
from parti_scraper.jobs import app, child, queue, worker
from parti_scraper.jobs.app import Answers
from parti_scraper.jobs.database import LOST_AFTER, WORKER_RIGHTS, connect, jobs_address, procrastinate_version, set_up
from parti_scraper.jobs.outcomes import DELAYS, LONG, Ended, Next, next_of
from parti_scraper.jobs.payload import CRAWL, ENDLESS, check_payload, is_run_id, queue_of, read_payload, run_id_of
from parti_scraper.jobs.queue import Missing
from parti_scraper.jobs.schedule import Scheduled
from parti_scraper.jobs.shards import BACKOFF, USUAL_SECONDS
from parti_scraper.jobs.worker import Machine, Worker, run_worker
from parti_scraper.redact import Secret
from parti_scraper.run.entries import KINDS
from tests.exporting import bring
from tests.loaders import race
from tests.machines import PROGRAM
from tests.made_runs import livestream, make_run
from tests.postgresql import PASSWORD, ROLE, SECRET, Cluster
from tests.servers import closed_port
from tests.support import Scrapy, environment_of

MINUTE, HOUR = 60, 3600
NUMBERS = "(accepted: 1 to 999,999,999)"
IDS = "(accepted: see scrapy jobs list)"
ACTIONS = "(accepted: setup, worker, enqueue, list, retry, cancel)"
SPIDERS = ", ".join(sorted(KINDS))


# --- Words and options -------------------------------------------------------------------------------------------

NOWHERE = {"PARTI_DATABASE_URL": f"postgresql://{ROLE}:{SECRET}@127.0.0.1:9/nowhere"}


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("", f"what to do is missing {ACTIONS}"),
        ("wroker", f"unknown: 'wroker' {ACTIONS}; did you mean `worker`?"),
        ("setup now", "unknown argument: 'now' (accepted: scrapy jobs setup)"),
        ("list 7", "unknown argument: '7' (accepted: scrapy jobs list)"),
        ("enqueue", "SPIDER is missing (accepted: scrapy jobs enqueue SPIDER)"),
        ("retry", "ID is missing (accepted: scrapy jobs retry ID)"),
        ("cancel 1 2", "unknown argument: '2' (accepted: see scrapy jobs --help)"),
        ("list --shard 1d", "option `--shard`: not for `list` (accepted: see scrapy jobs --help)"),
        ("worker -a since=7d", "option `-a`: not for `worker` (accepted: see scrapy jobs --help)"),
        ("setup --json", "option `--json`: not for `setup` (accepted: see scrapy jobs --help)"),
        ("cancel 1 --missing", "option `--missing`: not for `cancel` (accepted: see scrapy jobs --help)"),
        (
            "enqueue recent --concurrency 2",
            "option `--concurrency`: not for `enqueue` (accepted: see scrapy jobs --help)",
        ),
        (
            "list --jsno",
            (
                "unknown option: '--jsno' (accepted: --concurrency, -a, --shard, --missing, --json); "
                "did you mean `--json`?"
            ),
        ),
        ("worker --concurrency 0", f"option `--concurrency`: not a number from 1 on: '0' {NUMBERS}"),
        ("worker --concurrency=", f"option `--concurrency`: not a number from 1 on: '' {NUMBERS}"),
        ("list --concurrency=", "option `--concurrency`: not for `list` (accepted: see scrapy jobs --help)"),
        ("worker --concurrency two", f"option `--concurrency`: not a number from 1 on: 'two' {NUMBERS}"),
        (
            "worker -s PARTI_JOBS_AT_A_TIME=x",
            f"setting `PARTI_JOBS_AT_A_TIME`: not a number from 1 on: 'x' {NUMBERS}",
        ),
        (
            "worker -s PARTI_JOBS_AT_A_TIME=9999999999",
            f"setting `PARTI_JOBS_AT_A_TIME`: not a number from 1 on: '9999999999' {NUMBERS}",
        ),
        ("worker -s PARTI_SCHEDULE=nowhere.toml", "nowhere.toml: cannot be read: No such file or directory"),
        ("retry x", f"argument `ID`: not a number from 1 on: 'x' {NUMBERS}"),
        (f"cancel {'9' * 5000}", f"argument `ID`: not a number from 1 on: '{'9' * 100}…' {NUMBERS}"),
        ("enqueue recent -a since", "option `-a`: not NAME=VALUE: 'since' (accepted: such as -a since=7d)"),
        ("enqueue recent -a =7d", "option `-a`: not NAME=VALUE: '=7d' (accepted: such as -a since=7d)"),
        (
            "enqueue recnet",
            f"argument `SPIDER`: unknown spider: 'recnet' (accepted: {SPIDERS}); did you mean `recent`?",
        ),
        (
            "enqueue recent -a run_id=x",
            "argument `run_id`: not for jobs, since a job's run is named after the job: 'x' (accepted: none)",
        ),
        (
            "enqueue recent -a incremental=true",
            (
                "argument `incremental`: not for jobs, since it goes by what this machine has, and `--missing` by what "
                "all have: 'true' (accepted: none)"
            ),
        ),
        (
            "enqueue site -a url=https://example.com/",
            (
                "argument `url`: not for jobs, since addresses do not come from the queue: 'https://example.com/' "
                "(accepted: none)"
            ),
        ),
        (
            "enqueue recent -a categories=\udcff",
            "argument `categories`: not a text that the queue can hold: '\\udcff' (accepted: UTF-8)",
        ),
        ("enqueue recent -a _job=x", "argument `_job`: not for jobs: 'x' (accepted: none)"),
        (
            "enqueue live -a since=7d",
            (
                "argument `since`: not known to the spider `live`: '7d' "
                "(accepted: categories, duration, interval, limit, max_records, run_id)"
            ),
        ),
        ("enqueue live --missing", "option `--missing`: only for the spider recent: 'live' (accepted: recent)"),
    ],
)
def test_a_wrong_command_is_one_line_before_anything_is_asked(
    scrapy: Scrapy, output: Path, typed: str, line: str
) -> None:
    run = scrapy("jobs", *typed.split(), env=NOWHERE)
    assert (run.returncode, run.stdout, run.stderr) == (2, "", f"scrapy jobs: {line}\n")
    assert not output.exists()


def test_help_says_what_there_is(scrapy: Scrapy) -> None:
    run = scrapy("jobs", "--help")
    assert (run.returncode, run.stderr) == (0, "")
    assert "scrapy jobs setup | worker | enqueue SPIDER | list | retry ID | cancel ID" in run.stdout
    assert {"--concurrency N", "-a NAME=VALUE", "--shard LENGTH", "--missing", "--json"} <= {
        line.strip().partition("  ")[0] for line in run.stdout.splitlines()
    }


# --- Setup, and what keeps commands from the database ------------------------------------------------------------


@pytest.fixture
def address(postgres_url: str) -> Address:
    """Return the address of a database with a queue."""
    found = parse_address(postgres_url)
    set_up(found)
    return found


def opened(url: str) -> psycopg.Connection:
    """Return a connection that finds the tables of the queue and of the dataset."""
    return psycopg.connect(url, autocommit=True, options="-c search_path=parti_jobs,parti")


def execute(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with opened(url) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


NOTES = "SELECT name FROM parti_migrations ORDER BY name"
OWN = ["parti_001_tables", "parti_002_fetch", "parti_003_defer"]


def test_setup_makes_the_tables_and_can_be_repeated(scrapy: Scrapy, postgres_url: str) -> None:
    env = {"PARTI_DATABASE_URL": postgres_url}
    shown = f"postgresql://{postgres_url.partition('@')[2]}"
    migrations = [path.name for path in sorted(migrations_path.glob("*.sql"))]
    run = scrapy("jobs", "setup", env=env)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == f"{shown}: {1 + len(migrations) + len(OWN)} steps done\n"
    assert execute(postgres_url, NOTES) == [(name,) for name in [*migrations, *OWN, "schema"]]
    assert execute(postgres_url, "SELECT count(*) FROM livestreams") == [(0,)]
    run = scrapy("jobs", "setup", env=env)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{shown}: nothing to do\n", "")
    run = scrapy("jobs", "list", env=env)
    assert (run.returncode, run.stdout, run.stderr) == (0, "no jobs\n", "")


def test_two_that_set_up_at_once_do_it_once(postgres_url: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(set_up, [parse_address(postgres_url)] * 2))
    assert sorted(bool(steps) for steps, _ in done) == [False, True]
    assert execute(postgres_url, "SELECT name, count(*) FROM parti_migrations GROUP BY 1 HAVING count(*) > 1") == []


POST = "03.04.00_50_post_add_retry_failed_job_procedure.sql"
BEFORE = (
    "DROP TRIGGER procrastinate_trigger_status_events_update_v1 ON procrastinate_jobs",
    "DROP FUNCTION procrastinate_trigger_function_status_events_update_v1",
    "DROP FUNCTION parti_fetch_job",
    "DELETE FROM parti_migrations WHERE name LIKE '03.04.00_50%' OR name >= 'parti_002' AND name < 'parti_003'",
)


@pytest.fixture
def earlier(postgres_url: str, address: Address) -> Address:
    """Return the address of a queue that lacks the last steps."""
    for statement in BEFORE:
        execute(postgres_url, statement)
    return address


def add_worker(url: str, version: str, *, silent: int = 0) -> None:
    """Let the queue know a worker with a version of Procrastinate."""
    execute(
        url,
        "WITH worker AS (INSERT INTO procrastinate_workers (last_heartbeat) "
        f"VALUES (now() - make_interval(secs => {silent})) RETURNING id) "
        "INSERT INTO parti_workers (id, host, pid, version, procrastinate) "
        f"SELECT id, 'there', 1, '1', '{version}' FROM worker",
    )


def test_what_an_earlier_version_has_set_up_is_brought_up_to_date(postgres_url: str, earlier: Address) -> None:
    add_worker(postgres_url, procrastinate_version())
    add_worker(postgres_url, "2.0", silent=90)
    assert set_up(earlier) == ([POST, "parti_002_fetch"], [])
    assert set_up(earlier) == ([], [])
    with connect(earlier) as connection:
        (job,) = queue.enqueue(connection, "categories", {})
    assert execute(postgres_url, "SELECT id FROM parti_fetch_job(ARRAY['crawl']::varchar[], 1, 1)") == [(job,)]
    assert execute(postgres_url, "SELECT type::text FROM procrastinate_events ORDER BY id") == [
        ("deferred",),
        ("started",),
    ]


def test_what_workers_of_an_earlier_version_need_stays_as_long_as_one_is_there(
    scrapy: Scrapy, postgres_url: str, earlier: Address
) -> None:
    add_worker(postgres_url, "2.0")
    env = {"PARTI_DATABASE_URL": postgres_url}
    run = scrapy("jobs", "setup", env=env)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == (
        f"{earlier.shown}: 1 step done\n"
        "  1 step left, for when no worker of an earlier version goes on: scrapy jobs setup again then\n"
    )
    execute(postgres_url, "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '2 minutes'")
    assert scrapy("jobs", "setup", env=env).stdout == f"{earlier.shown}: 1 step done\n"


LATER = "has the queue of a later version of this project, or of Procrastinate: update this one\n"


def test_the_queue_of_a_later_version_is_left_as_it_is(scrapy: Scrapy, postgres_url: str, earlier: Address) -> None:
    env = {"PARTI_DATABASE_URL": postgres_url}
    execute(postgres_url, "INSERT INTO parti_migrations (name) VALUES ('03.99.00_01_pre_later.sql')")
    before = execute(postgres_url, NOTES)
    # What it lacks was removed by a later step, as far as this version can know.
    for typed in ("setup", "worker"):
        run = scrapy("jobs", typed, env=env)
        assert (run.returncode, run.stdout, run.stderr) == (1, "", f"scrapy jobs: {earlier.shown} {LATER}")
    assert execute(postgres_url, NOTES) == before
    # What is there can be used.
    assert scrapy("jobs", "enqueue", "categories", env=env).stdout == "job 1\n"


ANEW = (
    "(accepted: a database as it was backed up, or one without this schema; DROP SCHEMA parti_jobs CASCADE loses the "
    "queue, and no record)\n"
)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DROP FUNCTION parti_fetch_job", 'lacks what was made: function "parti_fetch_job" does not exist'),
        ("DROP TABLE parti_attempts", 'lacks what was made: relation "parti_attempts" does not exist'),
        # As Procrastinate's own command leaves it.
        (
            "DROP TABLE parti_migrations, parti_workers, parti_attempts",
            'is not of this project: type "procrastinate_job_status" already exists',
        ),
    ],
)
def test_setup_says_what_to_do_where_its_steps_do_not_help(
    scrapy: Scrapy, postgres_url: str, address: Address, statement: str, problem: str
) -> None:
    env = {"PARTI_DATABASE_URL": postgres_url}
    execute(postgres_url, statement)
    run = scrapy("jobs", "worker", env=env)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.endswith(" has no queue, or an older one: scrapy jobs setup\n")
    run = scrapy("jobs", "setup", env=env)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == f"scrapy jobs: {address.shown}: the schema parti_jobs {problem} {ANEW}"
    execute(postgres_url, "DROP SCHEMA parti_jobs CASCADE")
    assert scrapy("jobs", "setup", env=env).returncode == 0


EACH = ["setup", "list", "enqueue recent", "worker", "retry 1", "cancel 1"]


@pytest.mark.parametrize("typed", EACH)
def test_the_address_is_needed_and_not_to_be_typed(scrapy: Scrapy, typed: str) -> None:
    run = scrapy("jobs", *typed.split())
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
    assert run.stderr.startswith("scrapy jobs: the queue: PARTI_DATABASE_URL is not set (accepted: postgresql://")
    run = scrapy("jobs", *typed.split(), "-s", f"PARTI_DATABASE_URL=postgresql://me:{SECRET}@host/x")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == (
        "scrapy jobs: setting `PARTI_DATABASE_URL`: not to be typed, since others on the machine can read it there "
        "(accepted: the environment variable PARTI_DATABASE_URL)\n"
    )


@pytest.mark.parametrize("typed", EACH)
def test_a_database_that_cannot_be_used_is_one_line_without_the_password(
    scrapy: Scrapy, postgres_url: str, typed: str
) -> None:
    port = closed_port().rpartition(":")[2]
    for url, problem in (
        (postgres_url.replace(SECRET, f"{SECRET}x"), 'password authentication failed for user "parti"'),
        (f"postgresql://{ROLE}:{SECRET}@127.0.0.1:{port}/x", "Connection refused"),
        (postgres_url, "" if typed == "setup" else "has no queue, or an older one: scrapy jobs setup"),
    ):
        run = scrapy("jobs", *typed.split(), env={"PARTI_DATABASE_URL": url})
        if problem:
            assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
            assert run.stderr.startswith(f"scrapy jobs: postgresql://{url.partition('@')[2]}")
            assert problem in run.stderr
            assert SECRET not in run.stderr


def test_a_worker_does_not_begin_without_rights(scrapy: Scrapy, postgres_url: str, address: Address) -> None:
    execute(postgres_url, "REVOKE DELETE ON procrastinate_workers FROM CURRENT_USER")
    run = scrapy("jobs", "worker", env={"PARTI_DATABASE_URL": postgres_url})
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
    problem = "permission denied for table procrastinate_workers"
    assert run.stderr == f"scrapy jobs: {address.shown}: {problem} (needed: {WORKER_RIGHTS})\n"


@pytest.mark.parametrize("typed", ["list", "enqueue categories", "retry 1", "cancel 1", "worker", "setup"])
def test_a_role_without_rights_is_told_whose_are_needed(
    scrapy: Scrapy, postgresql: Cluster, postgres_url: str, address: Address, typed: str
) -> None:
    role, reader = f"{ROLE}_reader", postgres_url.replace(f"//{ROLE}:", f"//{ROLE}_reader:")
    postgresql.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    try:
        denied = "permission denied for schema parti_jobs"
        run = scrapy("jobs", *typed.split(), env={"PARTI_DATABASE_URL": reader})
        assert (run.returncode, run.stdout) == (1, "")
        needed = OWNERSHIP if typed == "setup" else WORKER_RIGHTS
        assert run.stderr == f"scrapy jobs: {address.shown}: {denied} (needed: {needed})\n"
        execute(postgres_url, f"GRANT USAGE ON SCHEMA parti_jobs TO {role}")
        run = scrapy("jobs", *typed.split(), env={"PARTI_DATABASE_URL": reader})
        assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
        assert run.stderr.endswith(f" (needed: {needed})\n")
    finally:
        execute(postgres_url, f"REVOKE ALL ON SCHEMA parti_jobs FROM {role}")
        postgresql.execute(f"DROP ROLE {role}")


def test_a_worker_that_loses_the_database_as_it_begins_ends_with_one_line(
    address: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise psycopg.OperationalError("no more connections")

    monkeypatch.setattr(app.Connector, "open_async", refuse)
    with pytest.raises(TargetError, match="no more connections"):
        run_worker(Machine(address, tmp_path, tmp_path, {}, 1, 1, [], lambda: Missing(None, None, HOUR)))


def test_a_worker_does_not_begin_on_a_queue_of_an_earlier_version(scrapy: Scrapy, postgres_url: str) -> None:
    set_up(parse_address(postgres_url))
    execute(postgres_url, "DROP FUNCTION parti_defer_periodic_job")
    run = scrapy("jobs", "worker", env={"PARTI_DATABASE_URL": postgres_url})
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.endswith(" has no queue, or an older one: scrapy jobs setup\n")


def test_a_lack_of_rights_is_one_line(scrapy: Scrapy, postgresql: Cluster, postgres_url: str) -> None:
    database = postgres_url.rpartition("/")[2]
    postgresql.execute(f"REVOKE ALL ON DATABASE {database} FROM parti")
    postgresql.execute(f"ALTER DATABASE {database} OWNER TO postgres")
    run = scrapy("jobs", "setup", env={"PARTI_DATABASE_URL": postgres_url})
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == (
        f"scrapy jobs: postgresql://{postgres_url.partition('@')[2]}: permission denied for database {database} "
        "(needed: CREATE on the database, or on the schema and ownership of its tables)\n"
    )


def test_without_procrastinate_an_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "procrastinate", None)
    with pytest.raises(ExtraMissing, match=r"^procrastinate is not installed \(extra `jobs`\): pip install "):
        jobs_address({"PARTI_DATABASE_URL": Secret("postgresql://host/x")})  # type: ignore[arg-type]


@pytest.mark.parametrize(("package", "extra"), [("procrastinate", "jobs"), ("duckdb", "dataset")])
def test_a_worker_without_a_package_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "parti_scraper.jobs.worker")
    command = Command()
    command.settings = Settings({"PARTI_DATABASE_URL": Secret("postgresql://host/x")})
    with pytest.raises(ExtraMissing, match=rf"^{package} is not installed \(extra `{extra}`\): pip install "):
        command.execute(
            ["worker"], argparse.Namespace(concurrency=None, arguments=None, shard=None, missing=None, json=None)
        )


# --- Payloads ----------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(sorted(KINDS)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["spider", "arguments", "since", "-s", "run_id"]) | st.text(max_size=5), inner
        )
    ),
    max_leaves=8,
)


@given(JSON)
def test_whatever_is_in_the_queue_is_a_job_or_one_line(stored: Any) -> None:
    try:
        spider, arguments = read_payload(stored)
        check_payload(spider, arguments)
    except UsageError as error:
        line = str(error)
        assert line.isprintable()
    else:
        assert stored == {"spider": spider, "arguments": arguments}
        assert spider in KINDS
        assert all(isinstance(each, str) for each in arguments.values())
        assert not arguments.keys() & {"run_id", "incremental", "url", "-s"}


@pytest.mark.parametrize(
    ("spider", "arguments", "expected"),
    [
        ("notifications", {}, ENDLESS),
        ("live", {"interval": "5m"}, ENDLESS),
        ("live", {}, CRAWL),
        ("recent", {}, CRAWL),
    ],
)
def test_a_job_is_in_the_queue_of_its_kind(spider: str, arguments: dict[str, str], expected: str) -> None:
    assert queue_of(spider, arguments) == expected


@given(st.integers(1, 10**12), st.integers(1, 10**6))
def test_the_runs_of_jobs_are_known_by_their_names(job: int, attempt: int) -> None:
    assert is_run_id(run_id_of(job, attempt))


@pytest.mark.parametrize("run_id", ["20261128T080000Z-3f", "0-1", "1-0", "1", "1-1-1", "1-1\n", "a-1"])
def test_runs_of_others_are_none_of_jobs(run_id: str) -> None:
    assert is_run_id(run_id) is False


# --- Into the queue ----------------------------------------------------------------------------------------------


def enqueue(address: Address, spider: str, shard: str | None = None, **arguments: str) -> list[int]:
    """Put jobs into the queue."""
    with connect(address) as connection:
        return queue.enqueue(connection, spider, arguments, shard)


def listed(address: Address) -> list[queue.Job]:
    """Return the jobs."""
    with connect(address) as connection:
        return queue.jobs(connection)


def windows(address: Address) -> list[Interval]:
    """Return the windows of the jobs, the oldest first."""
    found = [each.arguments for each in listed(address)]
    return sorted(Interval(iso_to_timestamp(each["since"]), iso_to_timestamp(each["until"])) for each in found)


def test_years_in_hours_are_put_there_at_once_the_newest_first(address: Address) -> None:
    numbers = enqueue(address, "recent", "1h", since="2022-01-01", until="2025-12-31")
    assert numbers == list(range(1, 1461 * 24 + 1))
    found = windows(address)
    assert all(older.until + 1 == newer.since for older, newer in pairwise(found))
    assert listed(address)[-1].arguments["until"] == "2025-12-31T23:59:59Z"


def test_the_times_of_a_job_are_counted_from_when_it_was_put_there(address: Address) -> None:
    before = int(time.time())
    enqueue(address, "recent", since="7d", categories="7")
    after = int(time.time())
    (job,) = listed(address)
    assert (job.spider, job.status, job.attempt, job.arguments["categories"]) == ("recent", "todo", 0, "7")
    ((since, until),) = windows(address)
    assert before <= until <= after
    assert before <= since + 7 * DAY <= after + 1
    enqueue(address, "live", interval="5m")
    assert listed(address)[0].arguments == {"interval": "5m"}


def test_pieces_cover_the_window_exactly(scrapy: Scrapy, postgres_url: str, address: Address) -> None:
    typed = ["enqueue", "recent", "-a", "since=2026-10-01", "-a", "until=2026-10-31", "--shard", "7d"]
    run = scrapy("jobs", *typed, env={"PARTI_DATABASE_URL": postgres_url})
    assert (run.returncode, run.stdout, run.stderr) == (0, "5 jobs: 1 to 5\n", "")
    found = windows(address)
    assert (found[0].since, found[-1].until) == (
        iso_to_timestamp("2026-10-01T00:00:00Z"),
        iso_to_timestamp("2026-10-31T23:59:59Z"),
    )
    assert all(older.until + 1 == newer.since for older, newer in pairwise(found))
    assert [each.seconds for each in found] == [3 * DAY, *[7 * DAY] * 4]
    # The newest is done first.
    assert listed(address)[-1].arguments["until"] == "2026-10-31T23:59:59Z"


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("live --shard 1d", "option `--shard`: only for the spider recent: '1d' (accepted: none)"),
        (
            "recent --shard 1d -a sort=views",
            "argument `sort`: not together with `--shard`: 'views' (accepted: none)",
        ),
        (
            "recent --shard 1d -a max_records=5",
            "argument `max_records`: not together with `--shard`: '5' (accepted: none)",
        ),
        (
            "recent --shard 0.1s",
            "option `--shard`: less than a second: '0.1s' (accepted: seconds, or 90s, 5m, 24h, 7d, 2w)",
        ),
        (
            "recent --shard 1s -a since=2021-08-03 -a until=2025-12-31",
            "option `--shard`: more than 100,000 pieces: '1s' (accepted: 1393s or more)",
        ),
        (
            "recent --missing --shard 1s -a since=2021-08-03 -a until=2025-12-31",
            "option `--shard`: more than 100,000 pieces: '1s' (accepted: 1393s or more)",
        ),
        (
            "recent --missing --shard often",
            "option `--shard`: not a length of time: 'often' (accepted: seconds, or 90s, 5m, 24h, 7d, 2w)",
        ),
        (
            "recent --missing -a categories=7",
            "argument `categories`: not together with `--missing`: '7' (accepted: since, until)",
        ),
        (
            "recent --missing -s PARTI_INCREMENTAL_OVERLAP=soon",
            (
                "setting `PARTI_INCREMENTAL_OVERLAP`: not a length of time: 'soon' "
                "(accepted: seconds, or 90s, 5m, 24h, 7d, 2w)"
            ),
        ),
    ],
)
def test_what_cannot_be_cut_or_looked_for_is_a_usage_error(
    scrapy: Scrapy, postgres_url: str, address: Address, typed: str, line: str
) -> None:
    run = scrapy("jobs", "enqueue", *typed.split(), env={"PARTI_DATABASE_URL": postgres_url})
    assert (run.returncode, run.stdout, run.stderr) == (2, "", f"scrapy jobs: {line}\n")
    assert listed(address) == []


# --- What is missing ---------------------------------------------------------------------------------------------


def enqueue_missing(address: Address, **wanted: Any) -> list[Interval]:
    """Put jobs into the queue for what is missing, and return their windows, the newest first."""
    with connect(address) as connection:
        numbers = queue.enqueue_missing(
            connection, address, Missing(**{"since": None, "until": None, "overlap": HOUR} | wanted)
        )
    jobs = {each.id: each.arguments for each in listed(address)}
    return [Interval(*(iso_to_timestamp(jobs[number][name]) for name in ("since", "until"))) for number in numbers]


def end_all(url: str, status: str, seconds_ago: float = 0) -> None:
    """Let all jobs that wait have ended."""
    execute(url, "UPDATE procrastinate_jobs SET status = 'doing' WHERE status = 'todo'")
    execute(url, f"UPDATE procrastinate_jobs SET status = '{status}' WHERE status = 'doing'")
    execute(url, f"UPDATE procrastinate_events SET at = at - make_interval(secs => {seconds_ago})")


def prove(url: str, since: str, until: str, output: Path, *rows: dict[str, Any]) -> None:
    """Let the shared dataset have a run that proves a window."""
    make_run(output, "recent", "run", rows, window={"since": since, "until": until})
    bring(url, output)


def test_the_first_history_is_missing_in_pieces_and_then_nothing_that_waits_or_goes_on(
    postgres_url: str, address: Address
) -> None:
    pieces = enqueue_missing(address)
    assert union(pieces) == [Interval(FIRST_TS, pieces[0].until)]
    assert abs(pieces[0].until - time.time()) < MINUTE
    assert {each.seconds for each in pieces[:-1]} == {USUAL_SECONDS}
    execute(postgres_url, "UPDATE procrastinate_jobs SET status = 'doing' WHERE id = 1")
    until = pieces[0].until
    assert enqueue_missing(address, until=until) == []
    # The seconds since then.
    execute(postgres_url, "UPDATE procrastinate_jobs SET status = 'cancelled' WHERE id = 1")
    assert enqueue_missing(address, until=until) == pieces[:1]


def test_what_is_proved_is_not_asked_again_but_for_its_end(
    scrapy: Scrapy, postgres_url: str, address: Address, output: Path
) -> None:
    prove(postgres_url, "2021-08-03T00:00:00Z", "2026-11-20T00:00:00Z", output, livestream(1))
    end = iso_to_timestamp("2026-11-20T00:00:00Z")
    until = end + 2 * DAY
    assert enqueue_missing(address, until=until) == [Interval(end - HOUR + 1, until)]
    execute(postgres_url, "DELETE FROM procrastinate_jobs")
    typed = ["-a", "until=2026-11-21", "-s", "PARTI_COVERAGE_SINCE=2026-11-10", "-s", "PARTI_INCREMENTAL_OVERLAP=2d"]
    run = scrapy("jobs", "enqueue", "recent", "--missing", *typed, env={"PARTI_DATABASE_URL": postgres_url})
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("job ")
    last = iso_to_timestamp("2026-11-21T23:59:59Z")
    assert windows(address) == [Interval(end - 2 * DAY + 1, last)]
    run = scrapy("jobs", "enqueue", "recent", "--missing", *typed, env={"PARTI_DATABASE_URL": postgres_url})
    nothing = "nothing is missing that is not queued or running, or was tried in vain a short while ago\n"
    assert (run.returncode, run.stdout, run.stderr) == (0, nothing, "")


def test_what_is_missing_begins_where_the_setting_says(scrapy: Scrapy, postgres_url: str, address: Address) -> None:
    typed = ["enqueue", "recent", "--missing", "-s", "PARTI_COVERAGE_SINCE=2026-11-10", "-a", "until=2026-11-19"]
    run = scrapy("jobs", *typed, "--shard", "5d", env={"PARTI_DATABASE_URL": postgres_url})
    assert (run.returncode, run.stderr) == (0, "")
    start = iso_to_timestamp("2026-11-10T00:00:00Z")
    assert windows(address) == [Interval(start, start + 5 * DAY - 1), Interval(start + 5 * DAY, start + 10 * DAY - 1)]


def test_an_age_in_the_setting_counts_from_when_a_schedule_asks_for_what_is_missing(
    address: Address, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines: list[Machine] = []
    monkeypatch.setattr(worker, "run_worker", machines.append)
    command = Command()
    values = {"PARTI_COVERAGE_SINCE": "30d", "PARTI_INCREMENTAL_OVERLAP": "48h", "PARTI_JOBS_AT_A_TIME": 2}
    folders = {"PARTI_OUTPUT_DIR": str(output), "PARTI_STATE_DIR": str(output.with_name("state"))}
    command.settings = Settings(values | folders)
    monkeypatch.setattr("parti_scraper.commands.jobs.jobs_address", lambda _: address)
    typed = argparse.Namespace(concurrency=None, arguments=None, shard=None, missing=None, json=None)
    command.execute(["worker"], typed)
    (machine,) = machines
    before = machine.missing().since
    assert before
    later = time.time() + 365 * DAY
    monkeypatch.setattr(time, "time", lambda: later)
    assert machine.missing().since == int(later) - 30 * DAY


def test_what_fails_is_asked_more_and_more_rarely(postgres_url: str, address: Address) -> None:
    now = int(time.time())
    since = now - DAY
    window = {"since": since, "until": now - HOUR}
    # What was tried in vain is in more pieces the next time.
    for pieces, wait in ((1, BACKOFF), (2, 4 * BACKOFF)):
        assert len(enqueue_missing(address, **window)) == pieces
        end_all(postgres_url, "failed")
        assert enqueue_missing(address, **window) == []
        execute(postgres_url, f"UPDATE procrastinate_events SET at = at - make_interval(secs => {wait - MINUTE})")
        assert enqueue_missing(address, **window) == []
        execute(postgres_url, f"UPDATE procrastinate_events SET at = at - make_interval(secs => {MINUTE})")
    assert len(enqueue_missing(address, **window)) == 8


def test_several_that_look_for_what_is_missing_at_once_do_not_put_it_there_twice(address: Address) -> None:
    now = int(time.time())
    begin = threading.Barrier(4)

    def look(number: int) -> list[Interval]:
        begin.wait()
        return enqueue_missing(address, since=now - 100 * DAY, until=now - HOUR * number, longest=(9 + number) * DAY)

    with ThreadPoolExecutor(4) as pool:
        found = [each for windows in pool.map(look, range(4)) for each in windows]
    assert sum(each.seconds for each in found) == 100 * DAY + 1
    assert union(found) == [Interval(now - 100 * DAY, now)]


def test_what_is_no_job_disturbs_neither_lists_nor_what_is_missing(
    scrapy: Scrapy, postgres_url: str, address: Address
) -> None:
    for payload in (
        [],
        {"spider": "recent"},
        {"spider": "recent", "arguments": [1]},
        {"spider": "recent", "arguments": {"since": 1, "until": 2}},
        {"spider": {}, "arguments": {"a": "b"}},
        5,
    ):
        execute(
            postgres_url,
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args) "
            f"VALUES ('crawl', 'crawl', '{json.dumps(payload)}')",
        )
    assert len(enqueue_missing(address, since=int(time.time()) - DAY)) == 1
    run = scrapy("jobs", "list", env={"PARTI_DATABASE_URL": postgres_url})
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines()[1:] == [f"{number:>6}  todo       ?" for number in range(6, 0, -1)] + ["7 todo"]


# --- Lists, and jobs that are tried again or cancelled -----------------------------------------------------------


def test_a_list_says_what_became_of_each_job(scrapy: Scrapy, postgres_url: str, address: Address) -> None:
    env = {"PARTI_DATABASE_URL": postgres_url}
    for _ in range(3):
        enqueue(address, "categories")
    enqueue(address, "live", interval="5m", categories="Just Chatting\x1b[31m")
    execute(postgres_url, "UPDATE procrastinate_jobs SET status = 'failed', attempts = 2 WHERE id = 1")
    execute(postgres_url, "UPDATE procrastinate_jobs SET scheduled_at = '2026-11-28T10:00Z', attempts = 1 WHERE id = 2")
    execute(
        postgres_url,
        "INSERT INTO parti_attempts VALUES "
        "(1, 1, 'one', '2026-11-28T08:00Z', '2026-11-28T08:01Z', 3, 'stopped', true), "
        "(1, 2, 'two', '2026-11-28T09:00Z', '2026-11-28T09:01Z', 2, 'wrong', true), "
        "(2, 1, 'one', '2026-11-28T09:00Z', '2026-11-28T09:02Z', 1, 'no\nroute', true)",
    )
    run = scrapy("jobs", "list", env=env)
    assert (run.returncode, run.stderr) == (0, "")
    indent = " " * 19
    assert run.stdout.splitlines() == [
        "     4  todo       live interval=5m categories=Just Chatting�[31m",
        "     3  todo       categories",
        "     2  todo       categories",
        f"{indent}attempt 1 on one, 2026-11-28T09:00:00Z to 2026-11-28T09:02:00Z",
        f"{indent}no�route",
        f"{indent}again at 2026-11-28T10:00:00Z",
        "     1  failed     categories",
        f"{indent}attempt 2 on two, 2026-11-28T09:00:00Z to 2026-11-28T09:01:00Z",
        f"{indent}wrong",
        "3 todo, 1 failed",
    ]
    found = json.loads(scrapy("jobs", "list", "--json", env=env).stdout)
    assert [each["id"] for each in found] == [4, 3, 2, 1]
    assert found[-1] == {
        "id": 1,
        "spider": "categories",
        "arguments": {},
        "status": "failed",
        "attempt": 2,
        "host": "two",
        "started_at": "2026-11-28T09:00:00Z",
        "ended_at": "2026-11-28T09:01:00Z",
        "exit_code": 2,
        "line": "wrong",
        "next_at": None,
    }


def test_a_list_is_readable_where_the_output_has_fewer_characters(
    postgres_url: str, address: Address, output: Path
) -> None:
    enqueue(address, "recent", categories="Kunst für Zoë,\U0001f388")
    env = environment_of(output, None, {"PARTI_DATABASE_URL": postgres_url, "PYTHONIOENCODING": "ascii"})

    def said(*typed: str) -> str:
        run = subprocess.run([*PROGRAM, "jobs", "list", *typed], env=env, capture_output=True, check=True)
        assert run.stderr == b""
        return run.stdout.decode("ascii")

    assert "categories=Kunst f\\u00fcr Zo\\u00eb,\\ud83c\\udf88\n" in said()
    assert json.loads(said("--json"))[0]["arguments"]["categories"] == "Kunst für Zoë,\U0001f388"


def test_only_some_of_the_jobs_that_are_done_are_shown_but_all_are_counted(
    scrapy: Scrapy, postgres_url: str, address: Address
) -> None:
    for _ in range(25):
        enqueue(address, "categories")
    execute(postgres_url, "UPDATE procrastinate_jobs SET status = 'succeeded'")
    lines = scrapy("jobs", "list", env={"PARTI_DATABASE_URL": postgres_url}).stdout.splitlines()
    assert [int(line.split()[0]) for line in lines] == [*range(25, 5, -1), 25]
    assert lines[-1] == "25 succeeded"


def test_a_job_is_tried_again_and_cancelled_only_while_that_can_be(
    scrapy: Scrapy, postgres_url: str, address: Address
) -> None:
    def said(action: str, number: int) -> tuple[int, str]:
        run = scrapy("jobs", action, str(number), env={"PARTI_DATABASE_URL": postgres_url})
        return run.returncode, (run.stdout + run.stderr).removeprefix("scrapy jobs: argument `ID`: ")

    (job,) = enqueue(address, "categories")
    assert said("retry", 7) == (2, f"there is no such job: '7' {IDS}\n")
    assert said("cancel", 7) == (2, f"there is no such job: '7' {IDS}\n")
    assert said("retry", job) == (2, f"the job is todo, not failed: '{job}' {IDS}\n")
    execute(postgres_url, "UPDATE procrastinate_jobs SET status = 'failed', attempts = 4")
    execute(postgres_url, f"INSERT INTO parti_attempts VALUES ({job}, 4, 'x', now(), now(), 1, '', true)")
    assert said("cancel", job) == (2, f"the job has ended: failed: '{job}' {IDS}\n")
    assert said("retry", job) == (0, f"job {job} is tried again\n")
    # As often as a new one, and under another name.
    assert execute(postgres_url, "SELECT status::text, attempts FROM procrastinate_jobs") == [("todo", 5)]
    assert execute(postgres_url, "SELECT count(*) FROM parti_attempts WHERE has_failed") == [(0,)]
    assert said("cancel", job) == (0, f"job {job} is cancelled\n")
    assert said("cancel", job) == (2, f"the job has ended: cancelled: '{job}' {IDS}\n")
    assert said("retry", job) == (2, f"the job is cancelled, not failed: '{job}' {IDS}\n")
    execute(postgres_url, "INSERT INTO procrastinate_jobs (queue_name, task_name) VALUES ('schedule', 'schedule')")
    assert said("cancel", 2) == (2, f"there is no such job: '2' {IDS}\n")


# --- What becomes of a job ---------------------------------------------------------------------------------------

DONE, AGAIN = Next(None, has_failed=False), Next(0.0, has_failed=False)


@pytest.mark.parametrize(
    ("ended", "failures", "expected"),
    [
        (Ended(0, has_package=True), 0, DONE),
        (Ended(0, has_package=True), 3, DONE),
        # It has collected what there is; what is missing is in the coverage.
        (Ended(4, has_package=True), 0, DONE),
        (Ended(4, has_package=False), 0, Next(DELAYS[0], has_failed=True)),
        (Ended(2, has_package=False), 0, Next(None, has_failed=True)),
        (Ended(1, has_package=False), 0, Next(DELAYS[0], has_failed=True)),
        (Ended(3, has_package=True), 1, Next(DELAYS[1], has_failed=True)),
        (Ended(-9, has_package=False), 2, Next(DELAYS[2], has_failed=True)),
        (Ended(-9, has_package=False), 3, Next(None, has_failed=True)),
        (Ended(3, has_package=True, was_told=True), 3, AGAIN),
        (Ended(-15, has_package=False, was_told=True), 3, AGAIN),
        # It was done before it heard of it.
        (Ended(0, has_package=True, was_told=True), 0, DONE),
        # But what has no end is never done: it ends well because it was told to.
        (Ended(0, has_package=True, was_told=True, is_endless=True), 0, AGAIN),
        (Ended(0, has_package=True, is_endless=True), 3, Next(DELAYS[0], has_failed=False)),
        (Ended(4, has_package=True, is_endless=True), 0, Next(DELAYS[0], has_failed=True)),
        (Ended(4, has_package=True, is_endless=True, seconds=LONG), 3, Next(DELAYS[0], has_failed=False)),
        (Ended(1, has_package=True, is_endless=True, seconds=LONG - 1), 3, Next(None, has_failed=True)),
        (Ended(3, has_package=True, seconds=LONG), 3, Next(None, has_failed=True)),
    ],
)
def test_what_becomes_of_a_job_follows_from_how_its_crawl_ended(ended: Ended, failures: int, expected: Next) -> None:
    assert next_of(ended, failures) == expected


@given(
    st.builds(Ended, st.integers(-64, 5), has_package=st.booleans(), was_told=st.booleans(), is_endless=st.booleans())
)
def test_a_job_that_keeps_failing_is_given_up(ended: Ended) -> None:
    then = next_of(ended, len(DELAYS))
    assert then.delay is None or not then.has_failed


@given(st.floats(0, 300), st.floats(0, 300), st.floats(0, 120), st.floats(0, 16))
def test_a_server_that_was_away_neither_kills_the_living_nor_hides_the_dead(
    before: float, away: float, later: float, comes_back: float
) -> None:
    answers = Answers(0.0)
    for second in range(int(before)):
        answers.note(float(second))
    answers.note(before)
    back = before + away
    answers.note(back)
    now = back + later
    lost_after = answers.lost_after(now)
    # Whoever is alive was heard of within the five seconds before, and is again when it has connected.
    if later < comes_back:
        assert now - (before - 5) < lost_after
    # Whoever is dead is given up 65 seconds after its last sign of life, or 20 after the server is back.
    if later >= 20:
        assert lost_after == LOST_AFTER
    # If it was dead already when the server went away, that one does not delay it.
    assert lost_after <= max(LOST_AFTER, now - (before - 15))


def give_back(address: Address) -> list[int]:
    """Have a worker give back what dead ones had, and return the numbers of the jobs."""

    async def rescue() -> list[int]:
        procrastinate, manager = app.make_app(address, {}, 1)
        async with procrastinate.open_async():
            return await manager.rescue(1)

    return asyncio.run(rescue())


def test_what_dead_workers_had_is_given_back_unless_it_is_what_kills_them(
    postgres_url: str, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        enqueue(address, "categories")
    # Not by seconds: on a busy machine this test takes some.
    monkeypatch.setattr(app, "LOST_AFTER", HOUR)
    for seconds in (0, HOUR - 10 * MINUTE, HOUR + 1):
        execute(
            postgres_url, f"INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '{seconds} s')"
        )
    # The fourth has no worker any more.
    execute(postgres_url, "UPDATE procrastinate_jobs SET status = 'doing', attempts = 20, worker_id = nullif(id, 4)")
    assert sorted(give_back(address)) == [3, 4]
    assert execute(postgres_url, "SELECT id, status::text, attempts FROM procrastinate_jobs ORDER BY 1") == [
        (1, "doing", 20),
        (2, "doing", 20),
        # However often they were given back, no worker was lost with them.
        (3, "todo", 21),
        (4, "todo", 21),
    ]
    for attempt in range(22, 32):
        execute(postgres_url, "UPDATE procrastinate_jobs SET status = 'doing' WHERE id = 3")
        execute(postgres_url, f"INSERT INTO parti_attempts (job_id, attempt, host) VALUES (3, {attempt}, 'x')")
        assert give_back(address) == [3]
    assert execute(postgres_url, "SELECT status::text FROM procrastinate_jobs WHERE id = 3") == [("failed",)]
    lost = "SELECT count(*) FROM parti_attempts WHERE line = 'its worker was lost' AND ended_at IS NOT NULL"
    assert execute(postgres_url, lost) == [(10,)]


def test_a_cancelled_job_whose_worker_is_dead_has_ended(postgres_url: str, address: Address) -> None:
    (job,) = enqueue(address, "categories")
    execute(postgres_url, "UPDATE procrastinate_jobs SET status = 'doing', attempts = 2")
    with connect(address) as connection:
        assert queue.cancel(connection, job)
    assert give_back(address) == [job]
    ended = "SELECT status::text, attempts, abort_requested FROM procrastinate_jobs"
    assert execute(postgres_url, ended) == [("aborted", 3, False)]


def test_a_job_that_is_cancelled_as_it_fails_is_not_tried_again(postgres_url: str, address: Address) -> None:
    (job,) = enqueue(address, "categories")
    execute(postgres_url, "INSERT INTO procrastinate_workers DEFAULT VALUES")
    execute(postgres_url, "UPDATE procrastinate_jobs SET status = 'doing', worker_id = 1, abort_requested = true")

    async def retry() -> None:
        procrastinate, manager = app.make_app(address, {}, 1)
        doing = Job(
            id=job, status="doing", queue="crawl", lock=None, queueing_lock=None, task_name="crawl", worker_id=1
        )
        async with procrastinate.open_async():
            await manager.retry_job(doing)

    asyncio.run(retry())
    assert execute(postgres_url, "SELECT status::text FROM procrastinate_jobs") == [("aborted",)]


def test_a_machine_whose_clock_is_wrong_tries_again_and_asks_for_what_is_missing_in_time(
    postgres_url: str, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = utcnow() + timedelta(hours=1)
    monkeypatch.setattr(time, "time", wrong.timestamp)
    for module in (app, worker):
        monkeypatch.setattr(module, "utcnow", lambda: wrong)
    ((now,),) = execute(postgres_url, "SELECT extract(epoch FROM now())::int")
    since = int(now) - DAY
    assert len(enqueue_missing(address, since=since)) == 1
    enqueue(address, "recent", since=timestamp_to_iso(since))
    ((later,),) = execute(postgres_url, "SELECT extract(epoch FROM now())::int")
    assert all(now - 1 <= each.until <= later for each in windows(address))

    execute(postgres_url, "INSERT INTO procrastinate_workers DEFAULT VALUES")
    execute(postgres_url, "UPDATE procrastinate_jobs SET status = 'doing', worker_id = 1")
    doing = Job(id=1, status="doing", queue="crawl", lock=None, queueing_lock=None, task_name="crawl", worker_id=1)
    decision = worker._Retry().get_retry_decision(exception=worker.Failed("", DELAYS[0]), job=doing)
    assert decision

    async def retry() -> None:
        procrastinate, manager = app.make_app(address, {}, 1)
        async with procrastinate.open_async():
            await manager.retry_job(doing, decision.retry_at)

    asyncio.run(retry())
    waits = (
        "SELECT extract(epoch FROM scheduled_at - at) FROM procrastinate_jobs AS jobs "
        "JOIN procrastinate_events ON job_id = jobs.id WHERE type = 'deferred_for_retry'"
    )
    assert execute(postgres_url, waits) == [(DELAYS[0],)]


def test_a_worker_whose_number_is_another_s_is_forgotten_and_leaves_the_other_alone(
    postgres_url: str, address: Address
) -> None:
    add_worker(postgres_url, procrastinate_version(), silent=MINUTE)
    execute(postgres_url, "INSERT INTO procrastinate_workers (last_heartbeat) SELECT now() - interval '1 minute'")
    told: list[str] = []

    async def work(number: int) -> None:
        procrastinate, manager = app.make_app(address, {}, 1)
        manager.on_heartbeat.append(lambda: told.append(f"{number} is known"))
        manager.on_forgotten.append(lambda: told.append(f"{number} is forgotten"))
        async with procrastinate.open_async():
            await manager.update_heartbeat(number)

    async def end(number: int) -> None:
        procrastinate, manager = app.make_app(address, {}, 1)
        async with procrastinate.open_async():
            await manager.unregister_worker(number)

    # The second has not said yet who it is, and there is no third.
    for number in (1, 2, 3):
        asyncio.run(work(number))
    assert told == ["1 is forgotten", "2 is known", "3 is forgotten"]
    heard = "SELECT id FROM procrastinate_workers WHERE last_heartbeat > now() - interval '30 seconds'"
    assert execute(postgres_url, heard) == [(2,)]
    for number in (1, 2):
        asyncio.run(end(number))
    assert execute(postgres_url, "SELECT id FROM procrastinate_workers") == [(1,)]


def test_nothing_piles_up_while_the_server_is_away(
    postgresql: Cluster, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_PAUSE", "_TIMEOUT", "_RECONNECT"):
        monkeypatch.setattr(app, name, 0.05)

    async def ask() -> dict[str, int]:
        procrastinate, manager = app.make_app(address, {}, 1)
        async with procrastinate.open_async():
            pool = manager.connector.pool
            with postgresql.stopped():
                asked = asyncio.create_task(manager.connector.execute_query_async("SELECT 1"))
                while pool.get_stats().get("requests_errors", 0) < 10:
                    await asyncio.sleep(0.01)
                    assert not asked.done()
                stats = pool.get_stats()
            monkeypatch.undo()
            await asked
            return stats

    # The one that waits now, and the last one.
    assert asyncio.run(ask())["requests_waiting"] <= 2


# --- The process of a crawl --------------------------------------------------------------------------------------

WATCHED = """
import os, signal, sys, threading
from parti_scraper.jobs.child import watch
if {deaf}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("there", flush=True)
threading.Thread(target=watch, args=(0, {silence}, 0.2), daemon=True).start()
threading.Event().wait(120)
"""


@pytest.mark.parametrize(
    ("silence", "deaf", "closes", "code"),
    [
        (0.3, False, False, -signal.SIGTERM),
        (0.3, True, False, -signal.SIGKILL),
        (120, False, True, -signal.SIGTERM),
    ],
)
def test_a_crawl_ends_when_there_are_no_more_heartbeats(silence: float, deaf: bool, closes: bool, code: int) -> None:
    program = WATCHED.format(silence=silence, deaf=deaf)
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"there\n"
        if closes:
            process.stdin.close()
        assert process.wait(60) == code


def test_a_crawl_goes_on_as_long_as_there_are_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(child.os, "kill", lambda _, number: killed.append(number))
    read, write = os.pipe()
    waits: list[float] = []

    def select(files: Sequence[int], *rest: Any) -> Any:
        waits.append(rest[-1])
        if len(waits) < 5:
            os.write(write, b".")
        return (files if len(waits) < 5 else [], [], [])

    monkeypatch.setattr(child.select, "select", select)
    try:
        child.watch(read, 60, 0)
    finally:
        os.close(read)
        os.close(write)
    assert (waits, killed) == ([60] * 5, [signal.SIGTERM, signal.SIGKILL])


# --- A schedule --------------------------------------------------------------------------------------------------

SCHEDULE = [
    Scheduled("hourly", "categories", "7 * * * *", {}, missing=False),
    Scheduled("often", "live", "*/15 * * * *", {"interval": "5m"}, missing=False),
    Scheduled("daily", "scheduled", "30 5 * * *", {}, missing=False),
]
NIGHT = 1_764_028_800


class Scheduler:
    """A worker that does nothing but what its schedule says, at moments that a test names."""

    def __init__(self, address: Address, folder: Path) -> None:
        self._worker = Worker(Machine(address, folder, folder, {}, 1, 1, SCHEDULE, lambda: Missing(None, None, HOUR)))
        self.app = self._worker._app
        self._deferrer = PeriodicDeferrer(self.app.periodic_registry, **self.app.periodic_defaults)

    async def look(self, at: float) -> None:
        """Look what is due, as it does at this moment."""
        await self._deferrer.defer_jobs(self._deferrer.get_previous_tasks(at=at))

    async def do(self, stored: dict[str, Any]) -> None:
        """Do what is due."""
        await self.app.tasks["schedule"].func(**stored)


async def simulate_a_day(
    database: psycopg.Connection, address: Address, folder: Path, chance: random.Random
) -> dict[str, list[int]]:
    """Let two schedulers go through a day, and return at which moments each job was due."""
    due: dict[str, list[int]] = {each.name: [] for each in SCHEDULE}
    schedulers = [Scheduler(address, folder) for _ in range(2)]
    async with schedulers[0].app.open_async(), schedulers[1].app.open_async():
        moments = sorted(chance.uniform(NIGHT, NIGHT + DAY) for _ in range(100))
        for moment in [*moments, NIGHT + DAY - 1]:
            # Both at the same moment, or only one of them, which then has missed what was due between.
            looking = chance.sample(schedulers, chance.choice([1, 2])) if moment in moments else schedulers
            await asyncio.gather(*(each.look(moment) for each in looking))
            rows = database.execute("DELETE FROM procrastinate_jobs WHERE task_name = 'schedule' RETURNING id, args")
            tasks = [stored for _, stored in sorted(rows.fetchall())]
            for stored in tasks:
                due[stored["name"]].append(stored["timestamp"])
            await asyncio.gather(*(chance.choice(schedulers).do(stored) for stored in tasks))
            piled = (
                "SELECT lock FROM procrastinate_jobs WHERE status IN ('todo', 'doing') GROUP BY 1 HAVING count(*) > 1"
            )
            assert database.execute(piled).fetchall() == []
            if chance.random() < 0.5:
                database.execute("UPDATE procrastinate_jobs SET status = 'doing' WHERE status = 'todo'")
            if chance.random() < 0.5:
                database.execute("UPDATE procrastinate_jobs SET status = 'succeeded' WHERE status = 'doing'")
    return due


@pytest.mark.parametrize("seed", [1, 2])
def test_two_workers_with_a_schedule_begin_each_job_once_and_none_on_top_of_another(
    postgres_url: str, address: Address, tmp_path: Path, seed: int
) -> None:
    with opened(postgres_url) as database:
        due = asyncio.run(simulate_a_day(database, address, tmp_path, random.Random(seed)))
    for name, step, first in (("hourly", HOUR, 7 * MINUTE), ("often", 15 * MINUTE, 0), ("daily", DAY, 5.5 * HOUR)):
        within = [moment for moment in due[name] if moment >= NIGHT]
        assert len(set(within)) == len(within), name
        # What was due while nobody looked is done once the next one looks; at the begin, only the last of each.
        expected = [int(moment) for moment in range(int(NIGHT + first), NIGHT + DAY, int(step))]
        assert sorted(within) == expected[-len(within) :]
        assert len(expected) - len(within) <= 2


def test_a_job_of_a_schedule_is_put_into_the_queue_again_once_the_last_one_has_ended(address: Address) -> None:
    def put(name: str, spider: str, **arguments: str) -> list[int]:
        with connect(address) as connection:
            return queue.put_scheduled(connection, name, spider, arguments)

    assert put("one", "recent", since="1d") == [1]
    assert put("one", "recent", since="1d") == []
    assert put("two", "recent", since="1d") == [2]
    with connect(address) as connection:
        queue.cancel(connection, 1)
    assert put("one", "recent", since="1d") == [3]
    assert all(each.seconds == DAY + 1 for each in windows(address))
    with pytest.raises(UsageError, match="unknown spider"):
        put("three", "--help")


# --- Into the dataset --------------------------------------------------------------------------------------------


def test_two_that_load_the_same_livestreams_at_once_leave_the_newest_of_each(postgres_url: str, tmp_path: Path) -> None:
    assert list(race(postgres_url, tmp_path, 10)) == []
