"""Two workers that load runs with the same livestreams into one dataset at the same moment, again and again.

`python -m tests.loaders --rounds 1000` does it in a PostgreSQL of its own, and ends with 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from parti_scraper.dataset.targets.postgres_address import parse_address
from parti_scraper.jobs.database import connect, set_up
from parti_scraper.jobs.loading import Owner, load_run
from parti_scraper.jobs.queue import enqueue
from tests.made_runs import Row, livestream, make_run
from tests.postgresql import cluster_of, empty_database
from tools.postgresql import find_programs

# How many livestreams there are, and how many of them a run has.
STREAMS, OF_A_RUN = 60, 40
_FIRST = datetime(2026, 11, 1, tzinfo=UTC)


def race(url: str, folder: Path, rounds: int, seed: int = 1) -> Iterator[str]:
    """Load two runs at a time, so many times, and yield what is wrong in the end.

    Args:
        url: of an empty database.
        folder: for the runs.
        rounds: how many times.
        seed: of the random choices.
    """
    chance = random.Random(seed)
    address, newest, versions = parse_address(url), dict[int, Row](), set[tuple[int, int]]()
    set_up(address)
    with connect(address) as connection:
        for _ in range(2):
            enqueue(connection, "categories", {})
        connection.execute("INSERT INTO procrastinate_workers DEFAULT VALUES")
        connection.execute("UPDATE procrastinate_jobs SET status = 'doing', worker_id = 1")
    begin = threading.Barrier(2)

    def load(job: int, run: Path) -> None:
        begin.wait()
        load_run(address, run, folder / "state", Owner(job, 0, 1))

    with ThreadPoolExecutor(2) as pool:
        for number in range(rounds):
            # The newer version of each is now in this run, now in that.
            times = [_FIRST + timedelta(hours=number, seconds=second) for second in range(2)]
            chance.shuffle(times)
            loads = []
            for job, at in enumerate(times, 1):
                rows = [
                    livestream(
                        event_id,
                        scraped_at=at.isoformat().replace("+00:00", "Z"),
                        event_title=f"as of {at}",
                        total_viewers=number,
                    )
                    for event_id in chance.sample(range(STREAMS), OF_A_RUN)
                ]
                versions |= {(row["event_id"], hash(row["event_title"])) for row in rows}
                newest |= {
                    row["event_id"]: row
                    for row in rows
                    if row["scraped_at"] > newest.get(row["event_id"], {"scraped_at": ""})["scraped_at"]
                }
                run = make_run(folder / f"output-{job}", "recent", f"{job}-{number + 1}", rows)
                loads.append(pool.submit(load, job, run))
            for each in loads:
                each.result()
    yield from _wrong(url, newest, len(versions), 2 * rounds)


def _wrong(url: str, newest: dict[int, Row], versions: int, runs: int) -> Iterator[str]:
    """Yield what is wrong in the dataset."""
    with psycopg.connect(url, options="-c search_path=parti") as connection:
        found = connection.execute("SELECT event_id, event_title, total_viewers FROM livestreams").fetchall()
        if len(found) != len({number for number, *_ in found}):
            yield "a livestream is there twice"
        expected = {number: (row["event_title"], row["total_viewers"]) for number, row in newest.items()}
        for number, *content in found:
            if expected.pop(number, None) != tuple(content):
                yield f"livestream {number} is {content}"
        yield from (f"livestream {number} is not there" for number in expected)
        for statement, wanted in (
            ("SELECT count(*), count(DISTINCT (event_id, first_scraped_at)) FROM livestream_versions", versions),
            (
                "SELECT count(*), count(DISTINCT (run_uuid, file)) FROM loaded_files WHERE file = 'livestreams.jsonl'",
                runs,
            ),
            ("SELECT sum(rows), count(*) * 40 FROM loaded_files WHERE file = 'livestreams.jsonl'", runs * OF_A_RUN),
            ("SELECT count(*), count(DISTINCT run_uuid) FROM runs", runs),
            ("SELECT count(*), count(DISTINCT event_id) FROM streams", len(newest)),
        ):
            if connection.execute(statement.encode()).fetchone() != (wanted, wanted):
                yield f"not {wanted}: {statement}"


def main() -> None:
    """Race as often as was typed."""
    parser = argparse.ArgumentParser(prog="python -m tests.loaders", description="Two workers that load at once.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    typed = parser.parse_args()
    programs = find_programs()
    if programs is None:
        sys.exit("there is no PostgreSQL")
    with (
        tempfile.TemporaryDirectory() as folder,
        cluster_of(programs) as cluster,
        empty_database(cluster) as url,
    ):
        wrong = list(race(url, Path(folder), typed.rounds, typed.seed))
    print("\n".join(wrong) or f"{typed.rounds} rounds, and nothing is wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
