"""Shared by all tests: the worlds that are crawled, and real crawls in their own processes."""

from __future__ import annotations

import csv
import ctypes
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from resource import RLIMIT_FSIZE, setrlimit
from typing import Any, ClassVar

import pytest

from parti_scraper.browser.chromium import find_chromium
from parti_scraper.exceptions import BrowserError, LedgerError
from parti_scraper.ledger.ledger import Ledger
from parti_scraper.mockserver import MockServer, ReceivedRequest
from tests import forked

ROOT = forked.ROOT
SCRAPY = (sys.executable, "-m", "scrapy")

# For what ends by itself; much longer than needed on a busy machine, so that only a hang times out.
TIMEOUT = 300
QUIET = ("--loglevel", "WARNING")

# The time at which the simulated clock is stopped. Crawls then need `until`, because their clock runs.
NOW = "2026-11-01T00:00:00Z"
STILL: dict[str, Any] = {"now": NOW, "speed": 0, "events": 300, "live": 40}

# The routes' paths.
PREFIX = "/parti_v2/profile/"
CATEGORIES = PREFIX + "livestream_calendar/events/categories"
SCHEDULED = PREFIX + "livestream_calendar/events"
RECENT = PREFIX + "get_livestream_channel_info/recent"
LIVE = PREFIX + "get_livestream_channel_info/live"

SPECIFICATION = ROOT / "tests" / "specification"
HOST = "https://api-backend.parti.com"

Serve = Callable[..., MockServer]


# --- What is served --------------------------------------------------------------------------------------------


def specified_url(name: str) -> str:
    """Return the URL of one of the specification's curl commands."""
    match = re.match(r"curl '([^']+)'", (SPECIFICATION / f"{name}.sh").read_text(encoding="utf-8"))
    assert match
    return match[1]


def paths(server: MockServer, route: str) -> list[str]:
    """Return path and query of the requests for a route, in the order received."""
    return [f"{seen.path}?{seen.query}" for seen in server.requests if seen.path.endswith(route)]


def requests(server: MockServer, route: str = "/recent") -> list[str]:
    """Return the queries of the requests for a route."""
    return [seen.query for seen in server.requests if seen.path.endswith(route)]


def ids(rows: list[dict[str, Any]]) -> list[int]:
    """Return the livestreams' numbers."""
    return [row["event_id"] for row in rows]


def truth(server: MockServer) -> list[dict[str, Any]]:
    """Return the ended livestreams that the server has, last ended first."""
    return list(server.world.recent_at())


def sorted_ids(rows: list[dict[str, Any]]) -> list[int]:
    """Return the livestreams' numbers, sorted."""
    return sorted(ids(rows))


def true_ids(server: MockServer) -> list[int]:
    """Return the numbers of the ended livestreams that the server has, sorted."""
    return sorted_ids(truth(server))


# --- Crawls ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crawl:
    """A crawl that has ended.

    Attributes:
        code: the exit code.
        stdout, stderr: what was printed.
        output: PARTI_OUTPUT_DIR.
        spider, run_id: as given.
    """

    code: int
    stdout: str
    stderr: str
    output: Path
    spider: str
    run_id: str

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.output / self.spider / self.run_id

    @property
    def package(self) -> Any:
        """The data package."""
        return json.loads((self.folder / "datapackage.json").read_text(encoding="utf-8"))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The records of the JSON Lines file."""
        paths = [path for path in self.files("*.jsonl") if path.name != "quarantine.jsonl"]
        return [row for path in paths for row in read_lines(path)]

    @property
    def csv_rows(self) -> list[dict[str, str]]:
        """The records of the CSV file."""
        return [row for path in self.files("*.csv") for row in read_csv(path)]

    @property
    def quarantine(self) -> list[dict[str, Any]]:
        """The records that were set aside."""
        return [row for path in self.files("quarantine.jsonl") for row in read_lines(path)]

    def files(self, pattern: str) -> list[Path]:
        """Return the files of the run, those of its days included."""
        return sorted(path for depth in ("", "*/") for path in self.folder.glob(depth + pattern))


def read_lines(path: Path) -> list[Any]:
    """Return the records of a JSON Lines file."""
    # Not str.splitlines: titles have other characters that it treats as line ends.
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the records of a CSV file."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


Run = Callable[..., Crawl]
Scrapy = Callable[..., subprocess.CompletedProcess[str]]


def typed_of(spider: str, run_id: str, arguments: Mapping[str, Any], options: tuple[str, ...]) -> list[str]:
    """Return the arguments of `scrapy` for a crawl."""
    typed = [
        part for name, value in ({"run_id": run_id} | dict(arguments)).items() for part in ("-a", f"{name}={value}")
    ]
    return ["crawl", spider, *typed, *options]


def command_of(spider: str, run_id: str, arguments: Mapping[str, Any], options: tuple[str, ...]) -> list[str]:
    """Return the command line of a crawl."""
    return [*SCRAPY, *typed_of(spider, run_id, arguments, options)]


def run_to_its_end(
    typed: list[str],
    env: Mapping[str, str],
    preexec_fn: Callable[[], object] | None = None,
    before: Callable[[], object] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a `scrapy` command in a forked process, or in a new interpreter if the test needs its start.

    Args:
        typed: the arguments of `scrapy`.
        env: its environment.
        preexec_fn: is called before a new interpreter begins.
        before: is called in the forked process before the command.
    """
    if preexec_fn or ("PYTHONPATH" in env and not before):
        return subprocess.run(
            [*SCRAPY, *typed],
            cwd=ROOT,
            env=env,
            capture_output=True,
            encoding="utf-8",
            timeout=TIMEOUT,
            check=False,
            preexec_fn=preexec_fn,
        )
    with closing(forked.Scrapy(typed, env, before=before)) as process:
        stdout, stderr = process.communicate(TIMEOUT)
        return subprocess.CompletedProcess(typed, process.wait(), stdout, stderr)


def environment_of(output: Path, server: MockServer | None, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a crawl: without settings of the machine, and with deprecation warnings as errors."""
    mine = ("PARTI_CHROMIUM",)
    others = ("PARTI_", "AWS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others) or name in mine}
    base_url = server.base_url if server else "http://127.0.0.1:9"
    return (
        kept
        | {
            "PARTI_OUTPUT_DIR": str(output),
            "PARTI_STATE_DIR": str(output.with_name("state")),
            "PARTI_API_BASE_URLS": base_url,
            "PARTI_WS_URL": server.ws_url if server else "ws://127.0.0.1:9/",
            "PARTI_SITE_URL": base_url,
            "PYTHONWARNINGS": "error::DeprecationWarning",
            # Nothing is reached by TLS, and to read the machine's certificates takes a fifth of a short crawl.
            "SSL_CERT_FILE": os.devnull,
        }
        | dict(env or {})
    )


def check_books(crawl: Crawl) -> None:
    """Compare the counts of a finished run with each other and with its files."""
    if not (crawl.folder / "datapackage.json").exists():
        return
    package = crawl.package
    counts = package["counts"]
    kept_back = sum(counts[reason] for reason in ("duplicate", "quarantined", "filtered", "dropped"))
    assert counts["served"] == counts["written"] + kept_back
    rows: dict[str, int] = {}
    in_folder = [resource for resource in package["resources"] if not Path(resource["path"]).is_absolute()]
    for resource in in_folder:
        kind = "quarantine" if resource["path"].endswith("quarantine.jsonl") else resource["format"]
        rows[kind] = rows.get(kind, 0) + resource.get("rows", counts["written"])
    for kind, number in rows.items():
        assert number == counts["quarantined" if kind == "quarantine" else "written"]


def wait_until(happened: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + TIMEOUT
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


class RunningCrawl:
    """A running crawl in a forked process; it is killed if its test fails."""

    begun: ClassVar[list[forked.Scrapy]] = []

    def __init__(self, typed: list[str], env: dict[str, str]) -> None:
        self.process = forked.Scrapy(typed, env)
        self.begun.append(self.process)

    def stop(self, signal_number: int = signal.SIGINT) -> int:
        """Send a signal, if it is not 0, and return the exit code."""
        self.process.send_signal(signal_number)
        self.stdout, self.stderr = self.process.communicate(timeout=TIMEOUT)
        self.code = self.process.wait()
        return self.code


def hold(server: MockServer, number: int, route: str = "") -> threading.Event:
    """Let a server answer so many more requests for a route of the API, and the next ones once `held` is None.

    Returns what is set once one of them waits.
    """
    numbers, reached = itertools.count(), threading.Event()

    def is_held(seen: ReceivedRequest) -> bool:
        if not seen.path.endswith(route) or next(numbers) < number:
            return False
        reached.set()
        return True

    server.held = is_held
    return reached


def interrupted(
    server: MockServer,
    number: int,
    typed: list[str],
    env: dict[str, str],
    signal_number: int = signal.SIGKILL,
    *,
    route: str = "",
    until: Callable[[], bool] = lambda: True,
) -> RunningCrawl:
    """Run a crawl, and send it a signal while it waits for an answer, so that it cannot have ended before.

    Args:
        server: what it asks.
        number: how many requests for the route are answered before.
        typed: the arguments of `scrapy`.
        env: its environment.
        signal_number: the signal.
        route: an end of the path.
        until: what is waited for before the signal.
    """
    reached = hold(server, number, route)
    running = RunningCrawl(typed, env)
    wait_until(lambda: reached.is_set() and until())
    running.process.send_signal(signal_number)
    server.held = None
    running.stop(0)
    return running


def has_records(folder: Path, name: str = "*.jsonl") -> bool:
    """Tell whether a file of a run has records; `folder` is that of the run, or one that it is in."""
    return any(path.stat().st_size for path in folder.rglob(name))


def is_noted(output: Path, spider: str = "recent", run_id: str = "run") -> bool:
    """Tell whether the ledger has a checkpoint of a run."""
    # It may be just being made.
    with suppress(LedgerError), Ledger.existing(output.with_name("state")) as ledger:
        record = ledger.find(output / spider / run_id) if ledger else None
        return bool(ledger and record and ledger.last_checkpoint(record.id))
    return False


# --- Trouble, for `before` ---------------------------------------------------------------------------------------


def keep_permissions() -> None:
    """Drop root's right to read and write everywhere; does nothing for other users."""
    version_3, cap_dac_override, cap_dac_read_search = 0x20080522, 1, 2
    # Of this process; then what is effective, permitted and inheritable, in two halves.
    header, data = (ctypes.c_uint32 * 2)(version_3, 0), (ctypes.c_uint32 * 6)()
    LIBC.capget(header, data)
    for each in range(2):
        data[each] &= ~(1 << cap_dac_override | 1 << cap_dac_read_search)
    LIBC.capset(header, data)


LIBC = ctypes.CDLL(None)


def limit_file_size(size: int) -> Callable[[], None]:
    """Return a function that makes the disk full for a process when a file has so many bytes."""
    return partial(setrlimit, RLIMIT_FSIZE, (size, size))


def kill_at_file_size(size: int) -> None:
    """Have the kernel kill this process when it writes beyond so many bytes of a file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    setrlimit(RLIMIT_FSIZE, (size, size))


# --- The browser ---------------------------------------------------------------------------------------------------


def chromium() -> str | None:
    """Return the path of the browser that the project would use; None if there is none."""
    try:
        return find_chromium(os.environ.get("PARTI_CHROMIUM", ""))
    except BrowserError:
        return None


CHROMIUM = chromium()
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
