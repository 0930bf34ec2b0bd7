"""Workers that are killed, stopped, and cut off from the database, while they crawl a history together."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parti_scraper.jobs.child import SILENCE
from parti_scraper.mockserver import MockServer
from tests.expected import livestream
from tests.machines import Machines, Worker, differences, wait
from tests.postgresql import Cluster
from tests.processes import is_alive
from tests.support import STILL, truth

# Seconds; what `docs/several-machines.md` promises.
RESCUE = 90
HISTORY: dict[str, Any] = STILL | {"events": 20_000, "years": 1.0, "latency": 0.2}


class Watch:
    """Notes when a worker was lost, and for how long its jobs were still its own."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines
        self._lost: dict[int, float] = {}
        self._away = (0.0, 0.0)

    def lost(self, worker: Worker) -> None:
        """Note that a worker is dead or stopped from now on."""
        query = (
            "SELECT jobs.id FROM procrastinate_jobs AS jobs JOIN parti_workers AS workers "
            f"ON workers.id = jobs.worker_id WHERE status = 'doing' AND pid = {worker.pid}"
        )
        now = time.time()
        self._lost |= {number: now for (number,) in self._machines.query(query)}

    def stop(self, postgresql: Cluster, seconds: float) -> None:
        """Have the database be away for a while."""
        went = time.time()
        with postgresql.stopped():
            time.sleep(seconds)
        self._away = (went, time.time())

    def seconds(self) -> list[float]:
        """Return how long it took until each of these jobs had ended or was given to another worker.

        Without the time that the database was away: nothing can be given then, and how long it takes to end and to
        start again is a matter of the machine.
        """
        rows = self._machines.query("SELECT job_id, extract(epoch FROM at) FROM procrastinate_events ORDER BY at")
        found = []
        for number, since in self._lost.items():
            until = next(float(at) for job_id, at in rows if job_id == number and at > since)
            went, came = self._away
            found.append(until - since - max(0.0, min(until, came) - max(since, went)))
        return found


def gaps(machines: Machines, since: int, until: int) -> list[tuple[int, int]]:
    """Return the stretches of a window that the shared dataset does not prove."""
    found, start = [], since
    rows = machines.query("SELECT extract(epoch FROM since), extract(epoch FROM until) FROM coverage ORDER BY since")
    for first, last in rows:
        if first > start:
            found.append((start, int(first) - 1))
        start = max(start, int(last) + 1)
    return [*found, (start, until)] if start <= until else found


@pytest.mark.parametrize("seed", [1])
def test_whatever_happens_to_workers_and_database_the_dataset_is_the_truth(
    seed: int, postgresql: Cluster, postgres_url: str, tmp_path: Path, serve: Callable[..., MockServer]
) -> None:
    server = serve(**HISTORY)
    chance = random.Random(seed)
    with Machines(postgres_url, tmp_path, server, PARTI_JOBS_AT_A_TIME="20") as machines:
        ended = [record["event_end_ts"] for record in truth(server)]
        shard = -(-(max(ended) - min(ended)) // 40)
        machines.jobs(
            *("enqueue", "recent", "-a", f"since={min(ended)}", "-a", f"until={max(ended)}", "--shard", f"{shard}s")
        )
        assert machines.statuses() == {"todo": 40}
        machines.start()
        machines.start()
        watch = Watch(machines)

        wait(lambda: machines.statuses().get("succeeded", 0) >= 4, machines)
        sleeper = machines.workers[0]
        wait(lambda: sleeper.crawls, machines)
        frozen, stopped = sleeper.crawls, time.monotonic()
        watch.lost(sleeper)
        sleeper.signal(signal.SIGSTOP)

        for number in range(1, 6):
            wait(lambda goal=4 + 5 * number: machines.statuses().get("succeeded", 0) >= goal, machines, 300)
            victim = chance.choice([worker for worker in machines.workers if worker is not sleeper])
            watch.lost(victim)
            crawls = victim.kill()
            machines.replace(victim)
            wait(lambda gone=crawls: not any(map(is_alive, gone)), machines, SILENCE - 10)
            if number == 3:
                wait(lambda: machines.workers[-1].crawls, machines)
                watch.stop(postgresql, 30)

        # Nobody told these to stop, but their worker had no heartbeats for them.
        wait(lambda: not any(map(is_alive, frozen)), machines, RESCUE)
        wait(lambda: time.monotonic() > stopped + 120, machines, 130)
        sleeper.signal(signal.SIGCONT)

        wait(lambda: set(machines.statuses()) == {"succeeded"}, machines, 400)
        assert 0 < len(watch.seconds()) <= 12
        assert max(watch.seconds()) < RESCUE
        assert all(worker.is_alive for worker in machines.workers)

        expected = {row["event_id"]: livestream(row, server.world.categories()) for row in truth(server)}
        assert len(expected) == 20_000
        assert list(differences(machines, expected)) == []
        assert gaps(machines, min(ended), max(ended)) == []
        assert machines.query("SELECT count(*) FROM livestream_versions") == [(20_000,)]
        for worker in machines.workers:
            assert worker.stop() == 0, worker.said
            assert "Traceback" not in worker.said
