"""The demo of several machines: two workers crawl a history together, and one of them is killed in the middle.

`make demo-jobs` runs it, against the bundled mock server and a PostgreSQL that goes when it ends.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

# The project is not installed in `.venv`, and the path of a script has only its own folder.
sys.path.insert(0, str(Path(__file__).parent.parent))

import psycopg

from parti_scraper.dataset.coverage import Interval, gaps
from parti_scraper.jobs.database import LOST_AFTER
from parti_scraper.mockserver import MockServer, Options
from parti_scraper.run.outcome import ExitCode
from parti_scraper.wording import number_of
from tools.postgresql import find_programs, temporary_cluster

if TYPE_CHECKING:
    from collections.abc import Callable

_SCRAPY = (sys.executable, "-m", "scrapy")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WORKERS = 2
# What is compared, by its names in the dataset, which are those of the API.
_FIELDS = ("event_id", "user_id", "user_name", "event_title", "total_viewers")
# Seconds between two looks at the queue, and between two lines while nothing changes.
_LOOK, _SAY = 0.5, 10.0
# How each of the workers is doing, by its process.
_DOING = (
    "SELECT pid, count(jobs.id) FROM parti_workers AS workers LEFT JOIN procrastinate_jobs AS jobs "
    "ON jobs.worker_id = workers.id AND jobs.status = 'doing' GROUP BY pid"
)


class Stopped(Exception):  # noqa: N818 - it says what has become of the demo
    """The demo was stopped by a signal; the argument is its number."""


class Failure(Exception):  # noqa: N818 - as above
    """The demo cannot go on."""


class Worker:
    """A worker as a process, as if on a machine of its own."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str]) -> None:
        """Start it."""
        self.name = name
        self._log = folder / f"{name}.log"
        own = {"PARTI_OUTPUT_DIR": str(folder / name / "output"), "PARTI_STATE_DIR": str(folder / name / "state")}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*_SCRAPY, "jobs", "worker"],
                env=environment | own,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the demo, which ends it.
                start_new_session=True,
            )
        self.pid = self._process.pid

    def check(self) -> None:
        """Raise Failure if it has ended."""
        if self._process.poll() is not None:
            raise Failure(f"{self.name} has ended:\n{self._log.read_text(encoding='utf-8')}")

    def end(self, number: int) -> None:
        """Send it a signal, and wait for its end."""
        if self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait()

    def hold(self) -> None:
        """Let it do nothing for a while."""
        self._process.send_signal(signal.SIGSTOP)

    def release(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)


class Queue:
    """What the database says of the jobs."""

    def __init__(self, address: str) -> None:
        self._address = address

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query, which finds the tables of the queue and of the dataset."""
        with psycopg.connect(self._address, options="-c search_path=parti_jobs,parti") as connection:
            return connection.execute(statement.encode()).fetchall()

    def look(self) -> Progress:
        """Return how far the jobs are."""
        statuses = dict(self.query("SELECT status::text, count(*) FROM procrastinate_jobs GROUP BY status"))
        return Progress(
            sum(statuses.values()),
            statuses.get("succeeded", 0),
            statuses.get("failed", 0),
            dict(self.query(_DOING)),
        )


class Progress(NamedTuple):
    """How far the jobs are.

    Attributes:
        all, done, failed: how many there are, are done, and were given up.
        doing: how many each worker has, by its process.
    """

    all: int
    done: int
    failed: int
    doing: dict[int, int]


def main() -> int:
    """Run the demo. Returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5_000, help="livestreams of the history (default: 5000)")
    parser.add_argument("--shards", type=int, default=24, help="jobs that it is crawled in (default: 24)")
    options = parser.parse_args()
    if (programs := find_programs()) is None:
        print("There is no PostgreSQL; `make setup-dev` installs it.", file=sys.stderr)
        return ExitCode.NOT_STARTED
    for number in _SIGNALS:
        signal.signal(number, _stop)
    try:
        return _demo(programs, options.events, options.shards)
    except Stopped as stopped:
        print("\nStopped; nothing is left.", file=sys.stderr)
        return 128 + int(stopped.args[0])
    except Failure as failure:
        print(failure, file=sys.stderr)
        return ExitCode.INCOMPLETE


def _stop(number: int, _frame: object) -> None:
    # What has to be ended and removed now takes a moment.
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


def _demo(programs: Path, events: int, shards: int) -> int:
    started = time.monotonic()
    with ExitStack() as stack:
        # An answer that takes its time, as that of the real API: else the jobs would be done before one can look.
        server = stack.enter_context(MockServer(Options(speed=0, years=1.0, events=events, latency=0.2)))
        _say(f"The mock server answers at {server.base_url}, with {number_of(events, 'livestreams')}")
        cluster = stack.enter_context(temporary_cluster(programs))
        _say(f"PostgreSQL answers at 127.0.0.1:{cluster.port}, in {cluster.folder}")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parti-demo-")))
        password = secrets.token_hex(16)
        cluster.execute(f"CREATE ROLE parti LOGIN PASSWORD '{password}'")
        cluster.execute("CREATE DATABASE parti OWNER parti")
        address = f"postgresql://parti:{password}@127.0.0.1:{cluster.port}/parti"
        environment = os.environ | {
            "PARTI_API_BASE_URLS": server.base_url,
            "PARTI_WS_URL": server.ws_url,
            "PARTI_DATABASE_URL": address,
            "PARTI_JOBS_AT_A_TIME": "4",
            "PARTI_SCHEDULE": "",
            "PARTI_STATE_DIR": str(folder / "state"),
            "no_proxy": "127.0.0.1",
        }
        truth = {record["event_id"]: record for record in server.world.recent_at()}
        ended = [record["event_end_ts"] for record in truth.values()]
        window = Interval(min(ended), max(ended))
        queue = Queue(address)

        _run(environment, "jobs", "setup")
        workers = []
        for number in range(1, _WORKERS + 1):
            workers.append(Worker(f"worker {number}", folder, environment))
            stack.callback(workers[-1].end, signal.SIGKILL)
        named = ", ".join(f"{each.name} (process {each.pid})" for each in workers)
        _say(f"Starting, with logs in {folder}: {named}")
        _wait(queue, workers, lambda progress: len(progress.doing) == _WORKERS)
        bounds = ("-a", f"since={window.since}", "-a", f"until={window.until}")
        _run(environment, "jobs", "enqueue", "recent", *bounds, "--shard", f"{-(-window.seconds // shards)}s")
        _kill(queue, workers)
        progress = _wait(queue, workers, lambda progress: progress.done + progress.failed == progress.all)
        for each in workers:
            each.end(signal.SIGTERM)
        if progress.failed:
            _run(environment, "jobs", "list")
            raise Failure(f"{number_of(progress.failed, 'jobs')} failed")

        _say(f"Done in {time.monotonic() - started:.0f} s. The shared dataset, compared with what the mock server has:")
        is_equal = _compare(queue, truth, window)
        page = Path(environment.get("PARTI_OUTPUT_DIR") or "output") / "jobs-report.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        _run(environment, "report", "--dataset", "postgresql://", "-o", str(page), shown=False)
        _say(f"The report, to be opened in a browser:\n{page}")
    return ExitCode.COMPLETE if is_equal else ExitCode.INCOMPLETE


def _kill(queue: Queue, workers: list[Worker]) -> None:
    """Kill the first worker once a third of the jobs is done, while it does some; it is taken from the list."""
    victim = workers[0]

    def is_time(now: Progress) -> bool:
        return now.done == now.all or (3 * now.done >= now.all and now.doing[victim.pid] > 0)

    while True:
        progress = _wait(queue, workers, is_time)
        if progress.done == progress.all:
            raise Failure("all jobs were done before a worker could be killed: more of --shards or --events")
        # What it has does not change while one looks.
        victim.hold()
        if taken := queue.look().doing[victim.pid]:
            break
        victim.release()
    victim.end(signal.SIGKILL)
    workers.remove(victim)
    done = f"{progress.done} of {number_of(progress.all, 'jobs')} done"
    _say(f"{done}: {victim.name} is killed (SIGKILL) with the {taken} that it does")
    print(f"Others get them when it was silent for {LOST_AFTER} s; wait for somewhat more than a minute.", flush=True)
    killed = time.monotonic()
    _wait(queue, workers, lambda now: now.doing[victim.pid] == 0)
    _say(f"{number_of(taken, 'jobs')} given back after {time.monotonic() - killed:.0f} s")


def _wait(queue: Queue, workers: list[Worker], happened: Callable[[Progress], bool]) -> Progress:
    """Wait until the jobs are so far, and show meanwhile how far they are. Returns that."""
    shown, said = None, 0.0
    while not happened(progress := queue.look()):
        for each in workers:
            each.check()
        now = time.monotonic()
        if progress.all and (progress.done != shown or now - said >= _SAY):
            doing = sum(progress.doing.values())
            print(f"  {progress.done} of {number_of(progress.all, 'jobs')} done, {doing} go on", flush=True)
            shown, said = progress.done, now
        time.sleep(_LOOK)
    return progress


def _compare(queue: Queue, truth: dict[int, dict[str, Any]], window: Interval) -> bool:
    """Print how the dataset differs from what it is to be, and tell whether it does not."""
    rows = queue.query(f"SELECT {', '.join(_FIELDS)} FROM livestreams")
    found = {row[0]: row for row in rows}
    expected = {number: tuple(record[name] for name in _FIELDS) for number, record in truth.items()}
    proved = queue.query("SELECT extract(epoch FROM since)::bigint, extract(epoch FROM until)::bigint FROM coverage")
    ((versions,),) = queue.query("SELECT count(*) FROM livestream_versions")
    differences = {
        "missing": len(expected.keys() - found.keys()),
        "not of the mock server": len(found.keys() - expected.keys()),
        "wrong": sum(found[number] != expected[number] for number in found.keys() & expected.keys()),
        "double": len(rows) - len(found),
        "versions too many": versions - len(expected),
        "gaps of the coverage": len(gaps([Interval(*each) for each in proved], *window)),
    }
    print(f"  {'livestreams':<24}{len(rows):>6,}")
    for name, count in differences.items():
        print(f"  {name:<24}{count:>6,}")
    return not any(differences.values())


def _run(environment: dict[str, str], *typed: str, shown: bool = True) -> None:
    """Run a command of the project. Raises Failure if it ends with another code than 0."""
    if shown:
        _say(f"scrapy {' '.join(typed)}")
    done = subprocess.run(
        [*_SCRAPY, *typed], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if shown or done.returncode:
        print(done.stdout.rstrip(), flush=True)
    if done.returncode:
        raise Failure(f"scrapy {typed[0]} has ended with {done.returncode}")


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
