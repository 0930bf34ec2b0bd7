"""How fast records are collected: this project against its peers, in turn.

All of them crawl the same history from the bundled mock server, which runs in its own process and compresses answers
on request. Each runs once in each round. Compare the ratios of the medians.

- `this project`: `scrapy crawl recent` as it is: checks, duplicates, quarantine, both files, checkpoints.
- `plain Scrapy`, `dlt`, `crawlee`: as in their own documentation, see `peers/`. They request one page at a time.
- `handwritten`: an aiohttp script that does the same to each record, with 16 requests at a time.

`--case memory` crawls ten times as many records instead, and compares memory and CPU time per record.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from parti_scraper.mockserver import MockServer, Options

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

PEERS = Path(__file__).parent / "peers"
CONCURRENCY = 16
OURS = "this project"


@dataclass(frozen=True)
class Case:
    """Latency of the server in seconds, and records of a page."""

    title: str
    latency: float
    page: int


CASES = {
    "pages": Case("no latency, pages of 100", 0.0, 100),
    "small": Case("no latency, pages of 15", 0.0, 15),
    "latency": Case("50 ms latency, pages of 100", 0.05, 100),
}


@dataclass(frozen=True)
class Measured:
    """Time of one run in seconds, and its peak memory in MiB."""

    wall: float
    cpu: float
    memory: float


def main() -> None:
    """Run the cases and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=[*CASES, "memory", "all"], default="all", help="case to run (default all)")
    parser.add_argument("--events", type=int, default=100_000, help="records to crawl (default 100000)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each (default 5)")
    parser.add_argument("--peers", type=Path, help="python of an environment with peers/requirements.txt")
    options = parser.parse_args()
    python = options.peers or environment_of_peers()
    for name, case in CASES.items():
        if options.case in {name, "all"}:
            _compare(case, _commands(python), options.events, options.rounds)
    if options.case in {"memory", "all"}:
        _grow(options.events, options.rounds)


def environment_of_peers() -> Path:
    """Return the Python of the environment for the peers, made on the first call."""
    python = Path(".venv-bench/bin/python")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", ".venv-bench"], check=True)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]
    subprocess.run([python, *install, PEERS / "requirements.txt"], check=True)
    return python.absolute()


Command = Callable[[str, int, str], list[str]]


def _commands(python: Path) -> dict[str, Command]:
    """Return the command of each peer, by server, page size and folder."""

    def script(name: str) -> Command:
        return lambda server, page, folder: [str(python), str(PEERS / name), server, str(page), folder]

    def crawlee(server: str, page: int, folder: str) -> list[str]:
        return [str(python), str(PEERS / "with_crawlee.py"), _recent(server), str(page), folder]

    return {
        OURS: _ours,
        "handwritten": script("handwritten.py"),
        "crawlee": crawlee,
        "dlt": script("with_dlt.py"),
        "plain Scrapy": _plain,
    }


def _recent(server: str) -> str:
    return f"{server}/parti_v2/profile/get_livestream_channel_info/recent?sort_by_date_desc=true"


def _ours(server: str, page: int, folder: str) -> list[str]:
    settings = {
        "LOG_LEVEL": "ERROR",
        "CONCURRENT_REQUESTS": CONCURRENCY,
        "CONCURRENT_REQUESTS_PER_DOMAIN": CONCURRENCY,
        "PARTI_API_BASE_URLS": server,
        "PARTI_OUTPUT_DIR": folder,
        "PARTI_STATE_DIR": f"{folder}/state",
    }
    options = [part for name, value in settings.items() for part in ("-s", f"{name}={value}")]
    return [sys.executable, "-m", "scrapy", "crawl", "recent", "-a", f"limit={page}", *options]


def _plain(server: str, page: int, folder: str) -> list[str]:
    outputs = [part for suffix in ("jsonl", "csv") for part in ("-O", f"{folder}/plain.{suffix}")]
    arguments = ["-a", f"url={_recent(server)}", "-a", f"limit={page}"]
    return [sys.executable, "-m", "scrapy", "runspider", str(PEERS / "plain_scrapy.py"), *arguments, *outputs]


def _compare(case: Case, commands: dict[str, Command], events: int, rounds: int) -> None:
    print(f"\n{case.title}: {events:,} records, {CONCURRENCY} requests at a time", flush=True)
    runs: dict[str, list[Measured]] = {name: [] for name in commands}
    with _server(Options(events=events, latency=case.latency, speed=0)) as server:
        for number in range(rounds):
            for name, command in commands.items():
                runs[name].append(_measure(command, server, case.page))
                print(f"  round {number + 1}: {name:>14} {runs[name][-1].wall:7.2f} s", file=sys.stderr, flush=True)
    medians = {name: _median(measured) for name, measured in runs.items()}
    ours = medians[OURS]
    scale = 100_000 / events
    print(f"  {'':14} {'wall':>9} {'CPU':>9} {'memory':>9}   per 100,000 records; in brackets, times this project's")
    for name, each in medians.items():
        print(
            f"  {name:14} {each.wall * scale:7.2f} s {each.cpu * scale:7.2f} s {each.memory:5.0f} MiB"
            f"   ({each.wall / ours.wall:.2f}, {each.cpu / ours.cpu:.2f}, {each.memory / ours.memory:.2f})"
        )
    if case.latency:
        waiting = events / case.page * case.latency / CONCURRENCY
        print(f"  this project: {ours.wall / waiting:.2f} x pages x latency / concurrency, start-up included")


def _grow(events: int, rounds: int) -> None:
    print(f"\nmemory: {events:,} and {10 * events:,} records, pages of 100", flush=True)
    results = []
    for number in (events, 10 * events):
        with _server(Options(events=number, speed=0)) as server:
            results.append(_median([_measure(_ours, server, 100) for _ in range(rounds)]))
    few, many = results
    print(f"  peak {few.memory:.0f} and {many.memory:.0f} MiB: {many.memory - few.memory:+.0f} MiB")
    print(f"  CPU {few.cpu / events * 1e6:.1f} and {many.cpu / events / 10 * 1e6:.1f} us a record, start-up included")
    print(f"  CPU {(many.cpu - few.cpu) / (9 * events) * 1e6:.1f} us for each record more")


@contextmanager
def _server(options: Options) -> Iterator[str]:
    """Run a mock server in its own process, and yield its address."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(options, there), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        here.send(None)
        process.join()


def _serve(options: Options, pipe: Connection) -> None:
    with MockServer(options) as server:
        pipe.send(server.base_url)
        pipe.recv()


def _median(runs: list[Measured]) -> Measured:
    return Measured(*(statistics.median(getattr(run, name) for run in runs) for name in ("wall", "cpu", "memory")))


def _measure(command: Command, server: str, page: int) -> Measured:
    """Run a command in an empty folder; print its output only if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        is_ours = command is _ours
        started = time.perf_counter()
        with Path(folder, "log").open("w+b") as log:
            process = subprocess.Popen(
                command(server, page, folder), cwd=None if is_ours else folder, stdout=log, stderr=log
            )
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                log.seek(0)
                sys.exit(f"{' '.join(map(str, process.args))}\n{log.read().decode()[-2000:]}")  # type: ignore[arg-type]
        return Measured(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


if __name__ == "__main__":
    main()
