"""Workers of `scrapy jobs` as processes, with a real PostgreSQL and the mock server: what becomes of jobs."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import psycopg

from parti_scraper.api.times import iso_to_timestamp
from parti_scraper.jobs.child import SILENCE
from parti_scraper.jobs.database import ENQUEUE
from parti_scraper.ledger.ledger import Ledger
from parti_scraper.mockserver import MockServer, ReceivedRequest
from tests.expected import livestream
from tests.machines import Machines, Worker, differences, wait
from tests.postgresql import PASSWORD, ROLE, SECRET, Cluster, frozen
from tests.processes import is_alive
from tests.support import STILL, Serve, has_records, ids, read_lines, truth

MANY: dict[str, Any] = STILL | {"events": 2_000, "years": 0.5}
# Workers that are soon taken for dead, and soon believe the database again.
NERVOUS = {"worker._HEARTBEAT": 0.5, "worker._RESCUE": 0.5, "app.LOST_AFTER": 15, "app._STEADY": 1}
OF_HISTORY = ("-a", "since=2026-05-01", "-a", "until=2026-11-01")
# That in two shards of this length, and where the newer one begins.
SHARD, NEWER = "93d", iso_to_timestamp("2026-08-01T00:00:00Z")


def attempts(machines: Machines) -> list[tuple[Any, ...]]:
    """Return the attempts: number of the job, which attempt, exit code, whether it has failed, and its line."""
    return machines.query("SELECT job_id, attempt, exit_code, has_failed, line FROM parti_attempts ORDER BY 1, 2")


def all_ended(machines: Machines) -> bool:
    """Tell whether no job waits or goes on."""
    return not machines.statuses().keys() & {"todo", "doing"}


def count(machines: Machines, table: str, condition: str = "true") -> int:
    """Return how many rows a table has."""
    return int(machines.query(f"SELECT count(*) FROM {table} WHERE {condition}")[0][0])


def has_written(worker: Worker, run: str) -> bool:
    """Tell whether a crawl has records in a file."""
    return has_records(worker.output / run)


def serve_and_hold(serve: Serve) -> MockServer:
    """Serve a history: two pages of each crawl of `recent` are answered, and the others once `held` is None."""
    server = serve(**MANY)
    pages: Counter[bool] = Counter()

    def is_held(seen: ReceivedRequest) -> bool:
        if not seen.path.endswith("/recent"):
            return False
        is_newer = int(parse_qs(seen.query)["to_ts"][0]) > NEWER
        pages[is_newer] += 1
        return pages[is_newer] > 2

    server.held = is_held
    return server


def is_told(worker: Worker, run: str) -> bool:
    """Tell whether a crawl knows that it is to stop."""
    log = worker.output.with_name("state") / "jobs" / f"{run}.log"
    return log.exists() and "shutting down gracefully" in log.read_text(encoding="utf-8")


def expected_of(server: Any) -> dict[int, dict[str, Any]]:
    """Return the livestreams that are to be in the dataset, by number."""
    return {row["event_id"]: livestream(row, server.world.categories()) for row in truth(server)}


# --- Jobs --------------------------------------------------------------------------------------------------------


def test_a_stopped_worker_gives_back_what_another_one_does(postgres_url: str, tmp_path: Path, serve: Serve) -> None:
    server = serve_and_hold(serve)
    with Machines(postgres_url, tmp_path, server) as machines:
        machines.jobs("enqueue", "recent", *OF_HISTORY, "--shard", SHARD)
        first = machines.start(times={"worker._RESCUE": 0.5})
        wait(lambda: has_written(first, "recent/1-1") and has_written(first, "recent/2-1"), machines)
        with closing(psycopg.connect(postgres_url)) as blocking:
            # The dataset takes a while, and the jobs stay the worker's.
            blocking.execute("LOCK parti.livestreams")
            first.signal(signal.SIGTERM)
            wait(lambda: is_told(first, "1-1") and is_told(first, "2-1"), machines)
            server.held = None
            wait(lambda: not first.crawls, machines)
            ((ended,),) = machines.query("SELECT now()")
            wait(lambda: count(machines, "procrastinate_workers", f"last_heartbeat > '{ended}'"), machines)
            assert machines.statuses() == {"doing": 2}
        assert first.stop() == 0, first.said
        assert machines.statuses() == {"todo": 2}
        assert [(each[:4]) for each in attempts(machines)] == [(1, 1, 3, False), (2, 1, 3, False)]
        # They can be resumed by hand, and what they have is there already.
        collected = {row["event_id"] for path in first.output.rglob("livestreams.jsonl") for row in read_lines(path)}
        assert collected
        assert {number for (number,) in machines.query("SELECT event_id FROM livestreams")} == collected
        second = machines.start()
        wait(lambda: all_ended(machines), machines)
        assert machines.statuses() == {"succeeded": 2}
        assert list(differences(machines, expected_of(server))) == []
        assert [each[:4] for each in attempts(machines)] == [
            (1, 1, 3, False),
            (1, 2, 0, False),
            (2, 1, 3, False),
            (2, 2, 0, False),
        ]
        for worker, names in ((first, {"1-1.log", "2-1.log"}), (second, {"1-2.log", "2-2.log"})):
            logs = worker.output.with_name("state") / "jobs"
            assert {path.name for path in logs.iterdir()} == names
            assert all(path.stat().st_size for path in logs.iterdir())
            assert "Traceback" not in worker.said


def test_what_is_no_job_fails_with_its_line_and_nothing_is_started(
    postgres_url: str, tmp_path: Path, serve: Serve
) -> None:
    unknown = "argument `SPIDER`: unknown spider: "
    none = "not the payload of a job (accepted: spider and arguments, with texts for values)"
    wrong: list[tuple[Any, str]] = [
        ({"spider": "recent -s X=1", "arguments": {}}, f"{unknown}'recent -s X=1' "),
        ({"spider": "--help", "arguments": {}}, f"{unknown}'--help' "),
        ({"spider": "", "arguments": {}}, f"{unknown}'' "),
        ({"spider": "categories", "arguments": {"-s": "X=1"}}, "argument `-s`: not known to the spider `categories`"),
        ({"spider": "site", "arguments": {"url": "https://example.com/"}}, "argument `url`: not for jobs"),
        ({"spider": "recent", "arguments": {"limit": 5}}, none),
        ({"spider": "recent", "arguments": ["limit=5"]}, none),
        ({"spider": ["recent"], "arguments": {}}, none),
        ({"spider": "categories"}, none),
        ({"spider": "categories", "arguments": {}, "settings": {"X": "1"}}, none),
        ({"context": 1}, none),
        ([], none),
    ]
    with Machines(postgres_url, tmp_path, serve(**STILL)) as machines:
        for payload, _ in wrong:
            machines.query(
                "INSERT INTO procrastinate_jobs (queue_name, task_name, args) "
                f"VALUES ('crawl', 'crawl', '{json.dumps(payload)}')"
            )
        others = len(wrong)
        for task, payload in (
            ("rm -rf\\n", {"spider": "categories", "arguments": {}}),
            ("schedule", {"timestamp": 0, "name": "x", "spider": "--help", "arguments": {}, "missing": False}),
            ("schedule", {"spider": ["x"]}),
        ):
            machines.query(
                "INSERT INTO procrastinate_jobs (queue_name, task_name, args) "
                f"VALUES ('schedule', '{task}', '{json.dumps(payload)}')"
            )
        machines.jobs("enqueue", "categories")
        worker = machines.start()
        wait(lambda: count(machines, "procrastinate_jobs", "status IN ('todo', 'doing')") == 0, machines)
        found = machines.list()
        assert [each["status"] for each in found] == ["failed"] * others + ["succeeded"]
        for (_, line), job in zip(wrong, reversed(found[:-1]), strict=True):
            assert job["line"].startswith(f"job {job['id']}-1: {line}")
            assert (job["attempt"], job["exit_code"], job["ended_at"] is None) == (1, None, False)
            assert worker.said.count(f" {job['line']} (exit code 2)\n") == 1
        tried = "SELECT status::text FROM procrastinate_jobs WHERE task_name <> 'crawl'"
        assert machines.query(tried) == [("failed",)] * 3
        assert worker.said.count(f"job {others + 1}: there is no task 'rm -rf\\\\n'\n") == 1
        assert worker.said.count(f"schedule x: {unknown}'--help' ") == 1
        assert [path.name for path in worker.output.glob("*/*-*")] == [f"{others + 4}-1"]
        assert worker.stop() == 0


def test_settings_reach_the_crawls_and_secrets_are_nowhere(postgres_url: str, tmp_path: Path, serve: Serve) -> None:
    server = serve_and_hold(serve)
    hidden = {
        "PARTI_ALERT_URLS": f"json://127.0.0.1:9/{SECRET}-alerts",
        "PARTI_PING_URL": f"http://127.0.0.1:9/{SECRET}-ping",
        "PARTI_TOKEN": "token-of-this-machine",
    }
    with Machines(postgres_url, tmp_path) as machines:
        machines.jobs("enqueue", "recent", *OF_HISTORY)
        # Of the environment, crawls would have a server that is not there.
        worker = machines.start("-s", f"PARTI_API_BASE_URLS={server.base_url}", **hidden)
        wait(lambda: has_written(worker, "recent/1-1"), machines)
        (crawl,) = worker.crawls
        environment = Path(f"/proc/{crawl}/environ").read_bytes().split(b"\0")
        command = Path(f"/proc/{crawl}/cmdline").read_bytes()
        assert f"PARTI_API_BASE_URLS={server.base_url}".encode() in environment
        assert b"PARTI_TOKEN=token-of-this-machine" in environment
        assert not [each for each in environment if SECRET.encode() in each]
        assert SECRET.encode() not in command
        assert b"token-of-this-machine" not in command
        server.held = None
        wait(lambda: all_ended(machines), machines)
        assert machines.statuses() == {"succeeded": 1}
        assert worker.stop() == 0
        written = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert [path for path in written if SECRET.encode() in path.read_bytes()] == []
        tables = machines.query(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('parti', 'parti_jobs')"
        )
        texts = [str(machines.query(f'SELECT * FROM {schema}."{table}"')) for schema, table in tables]
        assert len(texts) > 10
        assert not [text for text in texts if SECRET in text or "token-of-this-machine" in text]


def test_a_crawl_that_fails_is_tried_three_times_more_and_then_left_to_a_person(
    postgres_url: str, tmp_path: Path, serve: Serve
) -> None:
    no_folder = tmp_path / "no-folder"
    no_folder.touch()
    with Machines(postgres_url, tmp_path, serve(**STILL)) as machines:
        machines.jobs("enqueue", "categories")
        options = ("-s", f"PARTI_OUTPUT_DIR={no_folder}")
        worker = machines.start(*options, times={"outcomes.DELAYS": (0.1, 0.2, 0.3)})
        wait(lambda: machines.statuses() == {"failed": 1}, machines)
        tried = attempts(machines)
        assert [each[1:4] for each in tried] == [(number, None, True) for number in range(1, 5)]
        assert all("no-folder" in each[4] for each in tried)
        no_folder.unlink()
        assert machines.jobs("retry", "1") == "job 1 is tried again\n"
        # This one only the API can tell from a right one.
        machines.jobs("enqueue", "recent", "-a", "categories=Nonsense")
        wait(lambda: all_ended(machines), machines)
        assert count(machines, "categories") > 0
        found = machines.list()
        assert [(each["id"], each["status"], each["exit_code"], each["attempt"]) for each in found] == [
            (2, "failed", 2, 1),
            # Procrastinate counts that it was tried again by hand.
            (1, "succeeded", 0, 6),
        ]
        assert found[0]["line"].startswith("argument `categories`: no such category: 'Nonsense' (accepted: ")
        assert "Traceback" not in worker.said


def test_the_cap_is_over_all_machines_and_jobs_are_cancelled_with_what_they_have(
    postgres_url: str, tmp_path: Path, serve: Serve
) -> None:
    server = serve_and_hold(serve)
    with Machines(postgres_url, tmp_path, server, PARTI_JOBS_AT_A_TIME="1") as machines:
        machines.jobs("enqueue", "recent", *OF_HISTORY)
        for spider in ("categories", "scheduled", "categories"):
            machines.jobs("enqueue", spider)
        machines.jobs("enqueue", "live", "-a", "interval=1")
        workers = [machines.start(), machines.start()]
        wait(lambda: any(has_written(each, "recent/1-1") for each in workers), machines)
        # It does not count, so it is begun beside the first one.
        wait(lambda: any(has_written(each, "live/5-1") for each in workers), machines)
        assert machines.query("SELECT id FROM procrastinate_jobs WHERE status = 'doing' ORDER BY 1") == [(1,), (5,)]
        assert machines.jobs("cancel", "4") == "job 4 is cancelled\n"
        assert machines.jobs("cancel", "1") == "job 1 is being stopped\n"
        wait(lambda: any(is_told(each, "1-1") for each in workers), machines)
        server.held = None
        wait(lambda: machines.statuses() == {"aborted": 1, "succeeded": 2, "doing": 1, "cancelled": 1}, machines)
        assert machines.jobs("cancel", "5") == "job 5 is being stopped\n"
        wait(lambda: all_ended(machines), machines)
        collected = {row["event_id"] for path in tmp_path.rglob("livestreams.jsonl") for row in read_lines(path)}
        assert 0 < len(collected) < len(truth(server))
        assert {number for (number,) in machines.query("SELECT event_id FROM livestreams")} == collected
        assert count(machines, "live_channels") > 0
        rows = machines.query("SELECT job_id, started_at, ended_at, exit_code FROM parti_attempts ORDER BY started_at")
        crawls = [each for each in rows if each[0] != 5]
        assert [(each[0], each[3]) for each in crawls] == [(1, 3), (2, 0), (3, 0)]
        assert all(earlier[2] <= later[1] for earlier, later in pairwise(crawls))
        ((began, ended),) = [each[1:3] for each in rows if each[0] == 5]
        assert began < crawls[0][2]
        assert ended > crawls[-1][2]
        assert [each.stop() for each in workers] == [0, 0]
        assert not [each.said for each in workers if "Traceback" in each.said]


def test_a_crawl_that_is_killed_is_tried_again_and_the_list_says_what_has_killed_it(
    postgres_url: str, tmp_path: Path, serve: Serve
) -> None:
    server = serve_and_hold(serve)
    with Machines(postgres_url, tmp_path, server) as machines:
        machines.jobs("enqueue", "recent", *OF_HISTORY)
        worker = machines.start(times={"outcomes.DELAYS": (600, 600)})
        wait(lambda: has_written(worker, "recent/1-1"), machines)
        for crawl in worker.crawls:
            os.kill(crawl, signal.SIGKILL)
        wait(lambda: machines.statuses() == {"todo": 1}, machines)
        line = "recent 1-1: ended by a signal: Killed, and said nothing"
        assert attempts(machines) == [(1, 1, -signal.SIGKILL, True, line)]
        assert f"{line}\n" in machines.jobs("list")
        assert worker.stop() == 0


def test_a_worker_that_is_stopped_while_the_database_is_away_ends_and_its_jobs_are_done_by_another(
    postgresql: Cluster, postgres_url: str, tmp_path: Path, serve: Serve
) -> None:
    server = serve_and_hold(serve)
    with Machines(postgres_url, tmp_path, server) as machines:
        machines.jobs("enqueue", "recent", *OF_HISTORY, "--shard", SHARD)
        worker = machines.start(times={"worker._LAST_PATIENCE": 2})
        wait(lambda: has_written(worker, "recent/1-1") and has_written(worker, "recent/2-1"), machines)
        with postgresql.stopped():
            # One has ended before it has anything to load, or while it waits for that, the other one goes on.
            os.kill(worker.crawls[0], signal.SIGKILL)
            worker.signal(signal.SIGTERM)
            wait(lambda: is_told(worker, "1-1") or is_told(worker, "2-1"), machines)
            server.held = None
            assert worker.stop() == 0
            assert worker.crawls == []
        assert "Traceback" not in worker.said
        # It says so once, and not whenever it has tried again.
        assert worker.said.count("The database does not answer") == 1
        assert machines.statuses() == {"doing": 2}
        machines.start(times=NERVOUS)
        wait(lambda: all_ended(machines), machines)
        assert machines.statuses() == {"succeeded": 2}
        assert list(differences(machines, expected_of(server))) == []


def test_a_worker_that_is_stopped_while_the_database_is_frozen_ends_after_its_crawls(
    postgresql: Cluster, postgres_url: str, tmp_path: Path, serve: Serve
) -> None:
    server = serve_and_hold(serve)
    with Machines(postgres_url, tmp_path, server) as machines:
        machines.jobs("enqueue", "recent", *OF_HISTORY)
        machines.jobs("enqueue", "live", "-a", "interval=1")
        worker = machines.start(times={"worker._LAST_PATIENCE": 1, "worker._LAST_GRACE": 1, "worker._LOAD": 1})
        wait(lambda: has_written(worker, "recent/1-1") and has_written(worker, "live/2-1"), machines)
        with frozen(postgresql):
            worker.signal(signal.SIGTERM)
            wait(lambda: is_told(worker, "1-1"), machines)
            server.held = None
            # Far less than it takes until the connection is given up.
            assert worker.stop(30) == 1
            assert worker.crawls == []
        assert worker.said.splitlines()[-1].endswith(
            "The database does not answer: the worker ends, and its jobs stay until it is taken for lost"
        )
        assert "Traceback" not in worker.said
        with Ledger.existing(worker.output.with_name("state")) as ledger:
            assert ledger
            ends = [ledger.find(worker.output / run) for run in ("recent/1-1", "live/2-1")]
        # It can be resumed, and the other one has ended as it should.
        assert [each and each.exit_code for each in ends] == [3, 0]
        assert machines.statuses() == {"doing": 2}
        again = machines.start(times=NERVOUS)
        wait(lambda: machines.statuses() == {"succeeded": 1, "doing": 1}, machines)
        assert list(differences(machines, expected_of(server))) == []
        assert again.stop() == 0


def test_old_logs_are_deleted_and_what_goes_on_while_the_database_is_away_is_said(
    postgresql: Cluster, postgres_url: str, tmp_path: Path, serve: Serve
) -> None:
    with Machines(postgres_url, tmp_path, serve(**STILL)) as machines:
        # Where the next one is: there is one folder.
        logs = tmp_path / "machine-2" / "state" / "jobs"
        logs.mkdir(parents=True)
        for name in ("1-1.log", "2-1.log"):
            (logs / name).touch()
        os.utime(logs / "1-1.log", (0, 0))
        worker = machines.start(times=NERVOUS)
        wait(lambda: not (logs / "1-1.log").exists(), machines)
        assert (logs / "2-1.log").exists()
        with postgresql.stopped():
            wait(lambda: "The database does not answer" in worker.said, machines)
        wait(lambda: "The database answers again" in worker.said, machines)
        assert worker.stop() == 0


def test_a_worker_says_once_why_the_database_refuses_and_goes_on_when_it_does_no_longer(
    postgresql: Cluster, postgres_url: str, tmp_path: Path, serve: Serve
) -> None:
    with Machines(postgres_url, tmp_path, serve(**STILL)) as machines:
        worker = machines.start(times=NERVOUS)
        wait(lambda: count(machines, "parti_workers"), machines)

        def does(jobs: int) -> None:
            """Wait until so many jobs are done."""
            wait(lambda: machines.statuses() == {"succeeded": jobs}, machines)

        # Only looking for dead workers needs this right, as long as there are no jobs.
        machines.query("REVOKE UPDATE ON parti_attempts FROM CURRENT_USER")
        wait(
            lambda: "permission denied for table parti_attempts (needed: the rights of a worker" in worker.said,
            machines,
        )
        machines.query(
            "WITH dead AS (INSERT INTO procrastinate_workers (last_heartbeat) VALUES ('2026-01-01') RETURNING id) "
            "INSERT INTO procrastinate_jobs (queue_name, task_name, status, worker_id, args) "
            """SELECT 'crawl', 'crawl', 'doing', id, '{"spider": "categories", "arguments": {}}' FROM dead"""
        )
        machines.query("GRANT UPDATE ON parti_attempts TO CURRENT_USER")
        does(1)

        machines.query("DROP SCHEMA parti_jobs CASCADE")
        wait(
            lambda: "has no queue, or an older one: parti jobs setup; it is tried again each second" in worker.said,
            machines,
        )
        machines.jobs("setup")
        wait(lambda: "The worker begins anew" in worker.said, machines)
        machines.jobs("enqueue", "categories")
        does(1)

        try:
            postgresql.execute(f"ALTER ROLE {ROLE} PASSWORD 'another'")
            postgresql.restart()
            wait(lambda: 'password authentication failed for user "parti"; it is tried' in worker.said, machines)
        finally:
            postgresql.execute(f"ALTER ROLE {ROLE} PASSWORD '{PASSWORD}'")
        machines.jobs("enqueue", "categories")
        does(2)
        for line in ("permission denied", "has no queue", "password authentication failed"):
            assert worker.said.count(line) == 1
        # Of statements that were prepared for the tables of before.
        assert "cached plan" not in worker.said
        assert SECRET not in worker.said
        assert "Traceback" not in worker.said
        # It ends also where the database refuses to let it go.
        machines.query("REVOKE ALL ON procrastinate_workers FROM CURRENT_USER")
        assert worker.stop() == 0


def test_a_worker_that_the_database_has_forgotten_begins_anew_and_its_jobs_too(
    postgres_url: str, tmp_path: Path, serve: Serve
) -> None:
    with Machines(postgres_url, tmp_path, serve(**STILL)) as machines:
        machines.jobs("enqueue", "live", "-a", "interval=1")
        # Without a schedule, one of the tasks of Procrastinate's worker has ended by then.
        worker = machines.start(times=NERVOUS)
        wait(lambda: has_written(worker, "live/1-1") and count(machines, "parti_workers"), machines)
        machines.query("DELETE FROM procrastinate_workers")
        wait(lambda: has_written(worker, "live/1-2"), machines, SILENCE - 10)
        wait(lambda: count(machines, "parti_workers") == 1, machines)
        assert worker.said.count("The worker begins anew: the database does not know it any more\n") == 1
        assert worker.stop() == 0
        assert "Traceback" not in worker.said


def test_what_was_collected_is_loaded_although_the_job_is_cancelled_meanwhile(
    postgres_url: str, tmp_path: Path, serve: Serve
) -> None:
    server = serve(**MANY)
    with Machines(postgres_url, tmp_path, server) as machines:
        machines.jobs("enqueue", "recent", *OF_HISTORY)
        with closing(psycopg.connect(postgres_url)) as blocking:
            blocking.execute("LOCK parti.livestreams")
            worker = machines.start()
            wait((worker.output / "recent" / "1-1" / "datapackage.json").exists, machines)
            wait(lambda: not worker.crawls, machines)
            waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'parti.livestreams'::regclass AND NOT granted"
            wait(lambda: machines.query(waiting) == [(1,)], machines)
            assert machines.jobs("cancel", "1") == "job 1 is being stopped\n"
            # It has heard of it, and begins to load what is being loaded.
            logged_in = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            wait(lambda: machines.query(logged_in) == [(1,)], machines)
        wait(lambda: all_ended(machines), machines)
        assert machines.statuses() == {"aborted": 1}
        assert list(differences(machines, expected_of(server))) == []
        assert [each[1:4] for each in attempts(machines)] == [(1, 0, False)]
        assert worker.stop() == 0


def test_a_crawl_whose_records_cannot_be_loaded_is_stopped(postgres_url: str, tmp_path: Path, serve: Serve) -> None:
    with Machines(postgres_url, tmp_path, serve(**STILL)) as machines:
        machines.jobs("enqueue", "live", "-a", "interval=1")
        machines.query("REVOKE INSERT ON live_channels FROM CURRENT_USER")
        worker = machines.start(times={"worker._LOAD": 1, "outcomes.DELAYS": (600,)})
        wait(lambda: count(machines, "parti_attempts", "has_failed"), machines)
        assert worker.crawls == []
        assert (worker.output / "live" / "1-1" / "datapackage.json").exists()
        assert worker.stop() == 0


def test_a_job_that_was_stopped_before_its_end_goes_on_although_its_crawl_has_ended_well(
    postgres_url: str, tmp_path: Path, serve: Serve
) -> None:
    with Machines(postgres_url, tmp_path, serve(speed=1, events=10, live=30, start_every=0.3)) as machines:
        machines.jobs("enqueue", "live", "-a", "interval=1")
        machines.jobs("enqueue", "notifications", "-a", "duration=1")
        machines.jobs("enqueue", "live", "-a", "interval=1", "-a", "max_records=1")
        machines.jobs("enqueue", "live", "-a", "interval=1", "-a", "duration=1h")
        machines.jobs("enqueue", "notifications", "-a", "duration=1h", "-a", "max_records=1000000")
        worker = machines.start(times={"outcomes.DELAYS": (0.1,)})
        stopped = ("live/1", "live/4", "notifications/5")
        wait(lambda: all(has_written(worker, f"{each}-1") for each in stopped), machines)
        wait(lambda: machines.statuses() == {"doing": 3, "succeeded": 2}, machines)
        # As each does to itself without heartbeats.
        for crawl in worker.crawls:
            os.kill(crawl, signal.SIGTERM)
        wait(lambda: all(has_written(worker, f"{each}-2") for each in stopped), machines)
        assert machines.statuses() == {"doing": 3, "succeeded": 2}
        first = [each for each in attempts(machines) if each[1] == 1]
        assert [each[2:4] for each in first] == [(0, False)] * 5
        assert worker.stop() == 0
        assert machines.statuses() == {"todo": 3, "succeeded": 2}


def test_a_worker_whose_job_was_given_to_another_loads_and_ends_nothing_of_it(
    postgres_url: str, tmp_path: Path, serve: Serve
) -> None:
    server = serve_and_hold(serve)
    with Machines(postgres_url, tmp_path, server) as machines:
        machines.jobs("enqueue", "recent", *OF_HISTORY)
        machines.jobs("enqueue", "live", "-a", "interval=1")
        worker = machines.start(times={"worker._LOAD": 1})
        wait(lambda: has_written(worker, "recent/1-1") and count(machines, "live_channels"), machines)
        machines.query(
            "WITH another AS (INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() + interval '1 hour') "
            "RETURNING id) UPDATE procrastinate_jobs SET attempts = attempts + 1, worker_id = another.id FROM another"
        )
        ours = "SELECT id, status::text, attempts, worker_id FROM procrastinate_jobs ORDER BY id"
        before = machines.query(ours)
        server.held = None
        wait(lambda: worker.said.count("has become another worker's") >= 2 and not worker.crawls, machines)
        (run,) = worker.output.glob("live/2-1")
        snapshots = [row for path in run.rglob("live_channels.jsonl") for row in read_lines(path)]
        # Nobody can collect it again, so it is loaded as what was left.
        wait(lambda: count(machines, "live_channels") == len(snapshots), machines)
        assert machines.query(ours) == before
        assert count(machines, "livestreams") == 0
        assert [each[2:4] for each in attempts(machines)] == [(None, False)] * 2
        assert worker.stop() == 0
        assert machines.query(ours) == before


def test_what_a_schedule_asks_for_is_not_lost_with_the_connection(
    postgresql: Cluster, postgres_url: str, tmp_path: Path, serve: Serve
) -> None:
    asked = {"timestamp": 0, "name": "x", "spider": "categories", "arguments": {}, "missing": False}
    with Machines(postgres_url, tmp_path, serve(**STILL)) as machines:
        machines.query(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args) "
            f"VALUES ('schedule', 'schedule', '{json.dumps(asked)}')"
        )
        with closing(psycopg.connect(postgres_url)) as blocking:
            blocking.execute("SELECT pg_advisory_xact_lock(%s)", [ENQUEUE])
            worker = machines.start()
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            wait(lambda: machines.query(waiting) == [(1,)], machines)
            postgresql.restart()
        wait(lambda: machines.statuses() == {"succeeded": 1}, machines)
        assert worker.stop() == 0


# --- Jobs without an end -----------------------------------------------------------------------------------------


def checkpointed(worker: Worker, spider: str, run_id: str) -> int:
    """Return how many records of a killed run are in files up to its last checkpoint."""
    with Ledger.existing(worker.output.with_name("state")) as ledger:
        assert ledger
        record = ledger.find(worker.output / spider / run_id)
        assert record
        checkpoint = ledger.last_checkpoint(record.id)
        assert checkpoint
        return sum(rows for name, (_, rows) in checkpoint.files.items() if name.endswith(".jsonl"))


def test_jobs_without_an_end_on_two_machines_leave_each_row_once_whichever_dies(
    postgres_url: str, tmp_path: Path, serve: Serve
) -> None:
    server = serve(speed=1, events=10, live=30, start_every=0.3)
    times = NERVOUS | {"worker._LOAD": 1.5}
    with Machines(postgres_url, tmp_path, server) as machines:

        def enqueue() -> None:
            machines.jobs("enqueue", "live", "-a", "interval=1")
            machines.jobs("enqueue", "notifications")

        enqueue()
        first = machines.start(times=times | {"worker._ENDLESS_AT_A_TIME": 2})
        wait(lambda: has_written(first, "live/1-1") and has_written(first, "notifications/2-1"), machines)
        enqueue()
        second = machines.start(times=times)
        wait(lambda: has_written(second, "live/3-1") and has_written(second, "notifications/4-1"), machines)
        loaded = "SELECT count(DISTINCT run_uuid) FROM live_channels"
        wait(lambda: machines.query(loaded) == [(2,)], machines)
        wait(lambda: count(machines, "live_notifications") > 5, machines)
        crawls = first.kill()
        # By themselves, they would only end after so many seconds.
        wait(lambda: not any(map(is_alive, crawls)), machines, SILENCE - 10)
        # The other one takes over.
        wait(lambda: has_written(second, "live/1-2") and has_written(second, "notifications/2-2"), machines)
        machines.workers.remove(first)
        # Before it is sealed.
        on_disk = checkpointed(first, "live", "1-1")
        again = machines.start(name=first.name, times=times)
        ((run,),) = machines.query("SELECT run_uuid FROM runs WHERE run_id = '1-1' AND spider = 'live' LIMIT 1")
        wait(lambda: count(machines, "live_channels", f"run_uuid = '{run}'") == on_disk, machines)
        for worker in (second, again):
            worker.signal(signal.SIGTERM)
        assert [worker.stop() for worker in (second, again)] == [0, 0]
        # What has no end is given back, although it has ended well.
        assert machines.statuses() == {"todo": 4}
        heard = {
            number
            for path in tmp_path.rglob("live_notifications.jsonl")
            if first.name not in path.parts
            for number in ids(read_lines(path))
        }
        found = [number for (number,) in machines.query("SELECT event_id FROM live_notifications")]
        assert len(found) == len(set(found))
        assert heard <= set(found)
        keys = "run_uuid, snapshot_id, user_id, event_id"
        assert machines.query(f"SELECT {keys} FROM live_channels GROUP BY {keys} HAVING count(*) > 1") == []
        written = sum(len(read_lines(path)) for path in second.output.rglob("live_channels.jsonl"))
        assert count(machines, "live_channels") == written + on_disk
        assert count(machines, "parti_attempts", "line = 'its worker was lost' AND NOT has_failed") == 2
        assert "Traceback" not in second.said + again.said
