"""How crawls on several machines scale, and what the database can do.

- `workers`: the shards of a history by two workers, and by one, against a server that takes 50 ms for each page; what
  counts is the ratio.
- `queue`: how many jobs a second the queue gives out and takes back, and how many rows a second of livestreams that
  are in the dataset already, or not yet, are loaded. Where it ends with hundreds of machines follows from these.

The database is a PostgreSQL of its own that does not wait for the disk. Workers are processes, their start included.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psycopg

from parti_scraper.api.times import iso_to_timestamp
from parti_scraper.dataset.export import Export, Silent, export
from parti_scraper.dataset.targets.postgres import PostgresTarget
from parti_scraper.dataset.targets.postgres_address import parse_address
from parti_scraper.mockserver import MockServer, Options
from parti_scraper.run.catalog import entries_of_run
from tests.machines import Machines
from tools.postgresql import Cluster, find_programs, temporary_cluster

_BEGIN, _NOW = "2025-10-31T00:00:00Z", "2026-11-01T00:00:00Z"
_LATENCY = 0.05
_END = int(iso_to_timestamp(_NOW))
_ROLE = "parti"
# Seconds of a job of which the queue has thousands.
_JOB = 3_600
# Rows of a run that is loaded, and how many runs there are.
_ROWS, _RUNS = 1_000, 20


def main() -> None:
    """Run the case, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=("workers", "queue"), default="workers")
    parser.add_argument("--shards", type=int, default=100, help="how many jobs there are (default 100)")
    parser.add_argument("--events", type=int, default=50_000, help="livestreams of the history (default 50000)")
    parser.add_argument("--rounds", type=int, default=1, help="how often each is done (default 1)")
    options = parser.parse_args()
    if (programs := find_programs()) is None:
        sys.exit("There is no PostgreSQL; `make setup-dev` installs it.")
    with ExitStack() as stack:
        cluster = stack.enter_context(temporary_cluster(programs))
        cluster.execute(f"CREATE ROLE {_ROLE} LOGIN PASSWORD '{_ROLE}'")
        for number in range(options.rounds):
            if options.case == "queue":
                _queue(_database(cluster, f"round_{number}"))
                continue
            took = {
                workers: _crawl(_database(cluster, f"round_{number}_{workers}"), workers, options) for workers in (1, 2)
            }
            print(f"two workers are {took[1] / took[2]:.2f} times as fast as one", flush=True)


def _database(cluster: Cluster, name: str) -> str:
    cluster.execute(f"CREATE DATABASE {name} OWNER {_ROLE}")
    return f"postgresql://{_ROLE}:{_ROLE}@127.0.0.1:{cluster.port}/{name}"


def _crawl(address: str, workers: int, options: argparse.Namespace) -> float:
    """Return how many seconds some workers need for all jobs."""
    world = Options(events=options.events, years=1.0, now=_NOW, speed=0, live=1, latency=_LATENCY)
    with (
        tempfile.TemporaryDirectory() as folder,
        MockServer(world) as server,
        Machines(address, Path(folder), server, PARTI_JOBS_AT_A_TIME="1000") as machines,
    ):
        seconds = -(-366 * 86_400 // options.shards)
        window = ("-a", f"since={_BEGIN}", "-a", f"until={_NOW}")
        machines.jobs("enqueue", "recent", *window, "--shard", f"{seconds}s")
        began = time.perf_counter()
        for _ in range(workers):
            machines.start("--concurrency", "1")
        while set(machines.statuses()) != {"succeeded"}:
            time.sleep(0.2)
        took = time.perf_counter() - began
        ((found,),) = machines.query("SELECT count(*) FROM livestreams")
    print(f"{workers} workers: {found:,} livestreams in {options.shards} jobs in {took:.1f} s", flush=True)
    return took


def _queue(address: str) -> None:
    """Print how fast the queue and the loading are."""
    world = Options(events=_ROWS * _RUNS, years=1.0, now=_NOW, speed=0, live=1)
    with (
        tempfile.TemporaryDirectory() as folder,
        MockServer(world) as server,
        Machines(address, Path(folder), server, PARTI_JOBS_AT_A_TIME="1000") as machines,
        psycopg.connect(address, options="-c search_path=parti_jobs", autocommit=True) as connection,
    ):
        machines.jobs("enqueue", "recent", "-a", f"since={_BEGIN}", "-a", f"until={_NOW}", "--shard", f"{_JOB}s")
        worker = connection.execute("INSERT INTO procrastinate_workers DEFAULT VALUES RETURNING id").fetchone()
        began, done = time.perf_counter(), 0
        fetch = "SELECT (found).id FROM parti_fetch_job(ARRAY['crawl']::varchar[], %s, 1000) AS found"
        while (row := connection.execute(fetch, worker).fetchone()) and row[0] is not None:
            connection.execute("SELECT procrastinate_finish_job_v1(%s, 'succeeded', false)", row)
            done += 1
        print(f"queue: {done / (time.perf_counter() - began):,.0f} jobs a second, of {done:,}", flush=True)
        _load(address, Path(folder), machines.environment)


def _load(address: str, folder: Path, environment: dict[str, str]) -> None:
    """Print how fast runs are loaded one by one, as workers do, and again when their rows are there already."""
    output, target = folder / "output", PostgresTarget(parse_address(address))
    starts = [_END - (number + 1) * 366 * 86_400 // _RUNS for number in range(_RUNS)]
    for what in ("new", "known"):
        for number, since in enumerate(starts):
            window = ("-a", f"since={since}", "-a", f"until={since + 366 * 86_400 // _RUNS - 1}")
            typed = [sys.executable, "-m", "scrapy", "crawl", "recent", *window, "-a", f"run_id={what}-{number}"]
            own = environment | {"PARTI_OUTPUT_DIR": str(output), "PARTI_STATE_DIR": str(folder / "state")}
            subprocess.run(typed, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        runs = [entries_of_run(output / "recent" / f"{what}-{number}", None) for number in range(_RUNS)]
        began = time.perf_counter()
        for entries in runs:
            export(target, Export(entries, folder / "scratch"), Silent())
        took = time.perf_counter() - began
        rows = sum(entry.counts["written"] for entries in runs for entry in entries)
        print(
            f"load: {_RUNS / took:.2f} runs a second, {rows / took:,.0f} livestreams a second that are {what}",
            flush=True,
        )


if __name__ == "__main__":
    main()
