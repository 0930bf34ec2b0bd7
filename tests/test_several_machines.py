"""What `docs/several-machines.md` has people type, as it is written."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.deployed import DEPLOY
from tests.expected import livestream
from tests.machines import PROGRAM, Machines, Worker, differences, wait
from tests.postgresql import Cluster
from tests.support import ROOT, STILL, Serve, has_records, true_ids, truth, wait_until

PAGE = (ROOT / "docs" / "several-machines.md").read_text(encoding="utf-8")
BACKUP, RESTORE, BEGIN_ANEW = re.findall(
    r"^```sh\n(.*?)^```", PAGE.partition("## Back up and restore")[2].partition("\n## ")[0], re.MULTILINE | re.DOTALL
)
ROLES, GRANTS, QUESTIONS = re.findall(r"^```postgresql\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
PASSWORD = "0f1e2d"
ENDED = {(spider, "succeeded") for spider in ("categories", "recent", "scheduled")}


def statements(block: str) -> list[str]:
    """Return the statements of a block."""
    return [each for each in re.sub(r"^--.*\n", "", block, flags=re.MULTILINE).split(";\n") if each]


# What the commands of the page need of a server, as its administrator.
STUBS = f"""
admin() {{ psql --quiet --no-psqlrc "$@"; }}
runuser() {{ shift 3; "$@"; }}
systemctl() {{ :; }}
date() {{ echo 2026-11-28; }}
parti() {{ {sys.executable} -m parti_scraper "$@"; }}
"""


class Database:
    """The database of the page.

    Attributes:
        cluster: where it is.
        owner, worker, reader: its address for each role.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        place = f"127.0.0.1:{cluster.port}/parti"
        self.owner, self.worker, self.reader = (
            f"postgresql://parti_{role}:{PASSWORD}@{place}" for role in ("owner", "worker", "reader")
        )


@pytest.fixture
def database(postgresql: Cluster) -> Iterator[Database]:
    """Make roles and database as the administrator does."""
    roles = re.findall(r"CREATE ROLE (\w+)", ROLES)
    try:
        for statement in statements(ROLES):
            postgresql.execute(statement)
        for role in roles:
            postgresql.execute(f"ALTER ROLE {role} PASSWORD '{PASSWORD}'")
        yield Database(postgresql)
    finally:
        postgresql.execute("DROP DATABASE IF EXISTS parti WITH (FORCE)")
        for role in roles:
            postgresql.execute(f"DROP ROLE IF EXISTS {role}")


def is_refused(address: str, statement: str) -> bool:
    """Tell whether a role lacks the right for a statement."""
    with psycopg.connect(address) as connection:
        try:
            connection.execute(statement.encode())
        except psycopg.errors.InsufficientPrivilege:
            return True
        finally:
            connection.rollback()
    return False


def crawled(machines: Machines) -> set[tuple[str, str]]:
    """Return the spider and status of each job."""
    time.sleep(0.2)
    query = "SELECT args ->> 'spider', status::text FROM procrastinate_jobs WHERE task_name = 'crawl'"
    return {(spider, status) for spider, status in machines.query(query)}


def test_the_roles_have_the_rights_that_they_need_and_no_others(
    database: Database, serve: Serve, tmp_path: Path
) -> None:
    server = serve(**STILL, years=0.2)
    settings = {"PARTI_COVERAGE_SINCE": "2026-08-01", "PARTI_JOBS_AT_A_TIME": "4"}
    with Machines(database.owner, tmp_path, server, **settings) as machines:
        machines.environment["PARTI_DATABASE_URL"] = database.worker
        assert "schema parti_jobs (needed: the rights of a worker, see docs/" in machines.jobs("list", code=1)
        with psycopg.connect(database.owner) as connection:
            connection.execute(GRANTS.encode())

        # It begins with what is due, and so does everything that a worker does.
        worker = machines.start(PARTI_SCHEDULE=str(DEPLOY / "schedule.toml"))
        machines.jobs("enqueue", "scheduled")
        (number,) = re.findall(r"\d+", machines.jobs("enqueue", "recent", "-a", "since=1d", "-a", "user_id=1"))
        machines.jobs("enqueue", "recent", "--missing")
        wait(lambda: crawled(machines) == ENDED | {("live", "doing"), ("notifications", "doing")}, machines, 300)
        wait(lambda: machines.query("SELECT 1 FROM parti_workers"), machines)
        # Their jobs go on before they have begun to collect.
        collected = ("live_channels.jsonl", "live_notifications.jsonl")
        wait(lambda: all(has_records(worker.output, each) for each in collected), machines)
        assert "the job has ended" in machines.jobs("cancel", number, code=2)
        expected = {row["event_id"]: livestream(row, server.world.categories()) for row in truth(server)}
        assert list(differences(machines, expected)) == []
        assert worker.stop() == 0
        assert "denied" not in worker.said
        assert machines.query("SELECT count(*) > 0 FROM live_channels") == [(True,)]

        page = tmp_path / "report.html"
        command = [*PROGRAM, "report", "--dataset", "postgresql://", "-o", str(page)]
        subprocess.run(
            command, env=machines.environment | {"PARTI_DATABASE_URL": database.reader}, cwd=ROOT, check=True
        )
        assert page.exists()
        tables = [name for (name,) in machines.query("SELECT tablename FROM pg_tables WHERE schemaname = 'parti'")]
    with psycopg.connect(database.reader) as connection:
        for name in tables:
            connection.execute(f"SELECT * FROM parti.{name} LIMIT 1".encode())
        rows = connection.execute("SELECT event_id FROM parti.livestreams ORDER BY 1").fetchall()
        assert [event for (event,) in rows] == true_ids(server)
        assert connection.execute(statements(QUESTIONS)[-1].encode()).fetchall()
    with psycopg.connect(database.worker) as connection:
        failed, _, ages = (connection.execute(each.encode()).fetchall() for each in statements(QUESTIONS))
        assert failed == [(0,)]
        assert {name for name, _ in ages} == {"livestreams", "live_channels", "live_notifications"}
    for statement in (
        "SELECT * FROM parti_jobs.procrastinate_jobs",
        "INSERT INTO parti.categories (category_id) VALUES (1)",
        "DELETE FROM parti.livestreams",
        "CREATE TEMPORARY TABLE mine (id int)",
        "CREATE TABLE public.mine (id int)",
    ):
        assert is_refused(database.reader, statement), statement
    for statement in (
        "CREATE TABLE parti.mine (id int)",
        "CREATE TABLE parti_jobs.mine (id int)",
        "CREATE TABLE public.mine (id int)",
        "CREATE SCHEMA mine",
        "DROP TABLE parti.livestreams",
        "TRUNCATE parti.livestreams",
        "ALTER TABLE parti_jobs.procrastinate_jobs ADD COLUMN mine int",
    ):
        assert is_refused(database.worker, statement), statement


def type_in(block: str, machines: Machines, worker: Worker, database: Database) -> None:
    """Type in a block of commands on the machine of a worker."""
    places = {"/var/backups": machines.folder, "/var/lib/parti_scraper": worker.output.parent, ".scrapy": "state"}
    for place, folder in places.items():
        block = block.replace(place, str(folder))
    here = {"PARTI_OUTPUT_DIR": str(worker.output), "PARTI_STATE_DIR": str(worker.output.with_name("state"))}
    administrator = {"PGHOST": str(database.cluster.folder), "PGPORT": str(database.cluster.port), "PGUSER": "postgres"}
    subprocess.run(
        ["bash", "-euc", STUBS + block.replace("DATE", "$(date +%F)")],
        cwd=ROOT,
        env=machines.environment | here | administrator | {"PYTHONPATH": str(ROOT)},
        check=True,
    )


def start_again(machines: Machines, worker: Worker) -> Worker:
    """Start a worker that was stopped, on its machine."""
    machines.workers.append(Worker(worker.output.parent, machines.environment))
    return machines.workers[-1]


def test_an_old_dump_is_restored_and_what_machines_have_is_loaded_again(
    database: Database, serve: Serve, tmp_path: Path
) -> None:
    server = serve(**STILL, years=0.2)
    window = ("-a", "since=2026-08-01")
    with Machines(database.owner, tmp_path, server) as machines:
        machines.environment["PARTI_DATABASE_URL"] = database.worker
        with psycopg.connect(database.owner) as connection:
            connection.execute(GRANTS.encode())
        worker = machines.start()
        machines.jobs("enqueue", "categories")
        wait_until(lambda: crawled(machines) == {("categories", "succeeded")})
        type_in(BACKUP, machines, worker, database)
        machines.jobs("enqueue", "recent", *window)
        wait_until(lambda: ("recent", "succeeded") in crawled(machines))
        assert worker.stop() == 0

        type_in(RESTORE, machines, worker, database)
        assert machines.query("SELECT count(*) FROM livestreams") == [(0,)]
        assert crawled(machines) == {("categories", "succeeded")}
        worker = start_again(machines, worker)
        machines.jobs("enqueue", "recent", *window)
        wait_until(lambda: "is there already" in machines.list()[0]["line"])
        assert worker.stop() == 0

        type_in(RESTORE, machines, worker, database)
        type_in(BEGIN_ANEW, machines, worker, database)
        expected = {row["event_id"]: livestream(row, server.world.categories()) for row in truth(server)}
        assert list(differences(machines, expected)) == []
        worker = start_again(machines, worker)
        machines.jobs("enqueue", "recent", *window)
        wait_until(lambda: ("recent", "succeeded") in crawled(machines))
        assert list(differences(machines, expected)) == []
        assert worker.stop() == 0
