"""Several machines: workers as processes, each with folders of its own, and one database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Self

import psycopg

from parti_scraper.mockserver import MockServer
from tests.forked import Scrapy
from tests.processes import descendants, is_alive
from tests.support import TIMEOUT, environment_of

PROGRAM = [sys.executable, "-m", "scrapy"]
# A worker of which some times are shorter, so that no test has to wait for minutes.
HURRIED = """
from importlib import import_module
for name, seconds in {}.items():
    module, _, name = name.partition(".")
    setattr(import_module("parti_scraper.jobs." + module), name, seconds)
from parti_scraper.__main__ import main
main()
"""


class Worker:
    """A machine with a worker.

    Attributes:
        name: of its folder.
        output: its PARTI_OUTPUT_DIR.
        pid: of its process.
    """

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        options: Sequence[str] = (),
        times: Mapping[str, Any] | None = None,
    ) -> None:
        """Start it.

        Args:
            folder: its own.
            environment: as it is for all; the folders are added.
            options: of the command.
            times: those of modules of `jobs` that are to be otherwise, such as `worker._LOAD`.
        """
        self.name = folder.name
        self.output = folder / "output"
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "worker.log"
        program = [*PROGRAM] if times is None else [sys.executable, "-c", HURRIED.format(times)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*program, "jobs", "worker", *options],
                env=environment | {"PARTI_OUTPUT_DIR": str(self.output), "PARTI_STATE_DIR": str(folder / "state")},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def said(self) -> str:
        """What it has logged so far."""
        return self._log.read_text(encoding="utf-8")

    @property
    def crawls(self) -> list[int]:
        """The processes of its crawls."""
        return list(descendants(self.pid))

    @property
    def is_alive(self) -> bool:
        """Whether it goes on."""
        return self._process.poll() is None and is_alive(self.pid)

    def signal(self, number: int) -> None:
        """Send it a signal, and not its crawls."""
        os.kill(self.pid, number)

    def kill(self) -> list[int]:
        """Kill it, and return the processes that its crawls were."""
        crawls = self.crawls
        self.signal(signal.SIGKILL)
        self._process.wait()
        return crawls

    def stop(self, seconds: float = 90) -> int:
        """Stop it as systemd does, and return its exit code."""
        self.signal(signal.SIGTERM)
        return self._process.wait(seconds)

    def close(self) -> None:
        """End it, however it is."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)
            self.kill()


class Machines:
    """Machines that share a database and an API.

    Attributes:
        workers: those that were started and not closed.
    """

    def __init__(self, address: str, folder: Path, server: MockServer | None = None, **settings: str) -> None:
        """Set up the database.

        Args:
            address: of the database.
            folder: for the folders of all.
            server: the API.
            settings: such as PARTI_JOBS_AT_A_TIME.
        """
        self.address, self.folder = address, folder
        own = {"PARTI_DATABASE_URL": address} | settings
        self.environment = environment_of(folder / "home" / "output", server, own)
        self.workers: list[Worker] = []
        self.jobs("setup")

    def jobs(self, *typed: str, code: int = 0) -> str:
        """Run `scrapy jobs` to its end, and return what it has printed; errors, if it is to have another code."""
        with closing(Scrapy(["jobs", *typed], self.environment)) as command:
            stdout, stderr = command.communicate(TIMEOUT)
        assert command.returncode == code, (typed, stdout, stderr)
        assert (stderr == "") is (code == 0), stderr
        return stderr if code else stdout

    def list(self) -> list[dict[str, Any]]:
        """Return what `jobs list --json` prints."""
        found: list[dict[str, Any]] = json.loads(self.jobs("list", "--json"))
        return found

    def start(
        self, *options: str, times: Mapping[str, Any] | None = None, name: str | None = None, **settings: str
    ) -> Worker:
        """Start a worker on a machine of its own, unless the name of another one is given."""
        name = name or f"machine-{len(list(self.folder.glob('machine-*'))) + 1}"
        worker = Worker(self.folder / name, self.environment | settings, options, times)
        self.workers.append(worker)
        return worker

    def replace(self, worker: Worker) -> Worker:
        """Start another worker for one that is dead."""
        self.workers.remove(worker)
        return self.start()

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query, which finds the tables of the queue and of the dataset."""
        with psycopg.connect(self.address, options="-c search_path=parti_jobs,parti") as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def statuses(self) -> dict[str, int]:
        """Return how many jobs that crawl have each status."""
        rows = self.query("SELECT status::text, count(*) FROM procrastinate_jobs WHERE task_name = 'crawl' GROUP BY 1")
        return dict(rows)  # type: ignore[arg-type]

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers:
            worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wait(happened: Callable[[], object], machines: Machines, seconds: float = TIMEOUT) -> None:
    """Wait until something has happened, or fail with what the workers have said."""
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, "\n".join(each.said for each in machines.workers)
        time.sleep(0.2)


def differences(machines: Machines, expected: dict[int, dict[str, Any]]) -> Iterator[str]:
    """Yield how the livestreams of the shared dataset differ from what they are to be, by number."""
    names = ("user_id", "event_title", "total_viewers", "category_id")
    found = {row[0]: row[1:] for row in machines.query(f"SELECT event_id, {', '.join(names)} FROM livestreams")}
    for number in sorted(expected.keys() - found.keys()):
        yield f"{number} is missing"
    for number in sorted(found.keys() - expected.keys()):
        yield f"{number} should not be there"
    for number in sorted(found.keys() & expected.keys()):
        wanted = tuple(expected[number][name] for name in names)
        if found[number] != wanted:
            yield f"{number} is {found[number]}, and not {wanted}"
