"""What is lost, noticed and requested: this project against about a hundred lines of dlt, as a table in Markdown.

Both collect the same ended livestreams from the bundled mock server, into DuckDB, in the same situations. What is
true comes from the server's own set. Each situation begins in empty folders, with a server of its own:

- `moves`: after every request for a page a livestream ends and is listed first, or one by chance is removed, in turn.
  Lost is what was in the set from the first request to the last, and is not in the tables.
- `clamped`: the server sends at most 60 records a page, and both ask for 100.
- `cut`, `empty`: one page in the middle has one record only, or none.
- `killed`: SIGKILL while a page in the middle is sent; then it runs again, this project with `-a run_id=last`.
- `again`: a whole crawl; then livestreams end and others are removed, and the second, incremental crawl follows.
  Noticed as deleted is what a table marks as missing, or no longer has.

The peer is `peers/dlt_incremental.py`; its docstring says what it does beyond dlt's documentation. An exit code other
than 0 is in brackets: 4 is this project's for what is not proved to be complete.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, ClassVar

import duckdb

from benchmarks.throughput import PEERS, environment_of_peers
from parti_scraper.mockserver import MockServer, Options

if TYPE_CHECKING:
    from parti_scraper.mockserver.query import Page, RecentQuery
    from parti_scraper.mockserver.world import World

PAGE, CLAMPED = 100, 60
DAY = 86_400
# Of the livestreams that are removed before the second crawl, half are of the last day, half older than a week.
REMOVED, ENDED = 20, 30
_HANGS = 300


# --- The server ------------------------------------------------------------------------------------------------------


class Situation:
    """What happens while the pages of ended livestreams are served. Nothing, if not derived from."""

    def __init__(self, middle: int) -> None:
        """Begin before the first page; `middle` is the number of the page in the middle."""
        self.middle = middle
        self.pages = 0

    def serve(self, world: World, records: list[bytes]) -> list[bytes]:
        """Return what is sent in place of the records of a page."""
        self.pages += 1
        return records


class Moves(Situation):
    """A livestream ends after every page with an odd number, and one is removed after every other."""

    def serve(self, world: World, records: list[bytes]) -> list[bytes]:
        super().serve(world, records)
        if self.pages % 2:
            world.insert_now(end=int(world.now()))
        else:
            world.delete_now()
        return records


class Cut(Situation):
    """The page in the middle has so many records only."""

    left: ClassVar[int] = 1

    def serve(self, world: World, records: list[bytes]) -> list[bytes]:
        super().serve(world, records)
        return records[: self.left] if self.pages == self.middle else records


class Empty(Cut):
    """The page in the middle has no records."""

    left = 0


class Killed(Situation):
    """The process is killed while the page in the middle is sent."""

    def __init__(self, middle: int) -> None:
        super().__init__(middle)
        self.process: subprocess.Popen[bytes] | None = None
        self.was_killed = Event()

    def serve(self, world: World, records: list[bytes]) -> list[bytes]:
        super().serve(world, records)
        if self.pages == self.middle and self.process:
            self.process.kill()
            self.was_killed.set()
        return records


def watched(server: MockServer, situation: Situation) -> None:
    """Let the situation happen on the server."""
    world, page_of = server.world, server.world.recent_page

    def page(query: RecentQuery, page: Page) -> list[bytes]:
        return situation.serve(world, page_of(query, page))

    world.recent_page = page  # type: ignore[method-assign]


# --- What is compared ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """What a table of livestreams holds.

    Attributes:
        ids: of its rows.
        missing: those that it marks as missing; None if it has no such column yet.
    """

    ids: list[int]
    missing: set[int] | None = field(default_factory=set)


class Tool:
    """What collects livestreams into a folder, and is run again there. `lines` are those that its user writes."""

    lines: int

    def crawl(self, server: str, folder: Path, *, resumes: bool) -> subprocess.Popen[bytes]:
        """Begin to collect into a folder, again if it resumes what was killed."""
        raise NotImplementedError

    def held(self, folder: Path) -> Held:
        """Return what the table in the folder holds."""
        raise NotImplementedError


class Ours(Tool):
    """This project, by its own commands."""

    commands = ("scrapy crawl recent -a incremental=true", "scrapy export livestreams.duckdb")
    lines = len(commands)

    def crawl(self, server: str, folder: Path, *, resumes: bool) -> subprocess.Popen[bytes]:
        more = ["-a", "run_id=last"] if resumes else []
        return self._run(folder, [*self.commands[0].split()[1:], *more], {"PARTI_API_BASE_URLS": server})

    def held(self, folder: Path) -> Held:
        target = folder / "livestreams.duckdb"
        _ended(self._run(folder, ["export", str(target), "--quiet"], {}), folder)
        with duckdb.connect(str(target), read_only=True) as connection:
            rows = connection.sql("SELECT * FROM livestreams")
            ids = [number for (number,) in rows.select("event_id").fetchall()]
            if "missing_since" not in rows.columns:
                return Held(ids, None)
            missing = rows.filter("missing_since IS NOT NULL").select("event_id").fetchall()
            return Held(ids, {number for (number,) in missing})

    def _run(self, folder: Path, typed: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        own = {"PARTI_OUTPUT_DIR": str(folder / "output"), "PARTI_STATE_DIR": str(folder / "state")}
        return _started([sys.executable, "-m", "scrapy", *typed], folder, own | env)


class Dlt(Tool):
    """The peer, by the Python of its own environment."""

    script = PEERS / "dlt_incremental.py"

    def __init__(self, python: Path) -> None:
        self.python = python
        self.lines = lines_of_code(self.script)

    def crawl(self, server: str, folder: Path, *, resumes: bool) -> subprocess.Popen[bytes]:
        return _started([str(self.python), str(self.script), server, str(folder), "--limit", str(PAGE)], folder, {})

    def held(self, folder: Path) -> Held:
        with duckdb.connect(str(folder / "livestreams.duckdb"), read_only=True) as connection:
            return Held([number for (number,) in connection.sql("SELECT event_id FROM parti.livestreams").fetchall()])


def lines_of_code(path: Path) -> int:
    """Return how many lines a script has, without docstrings, comments and blank lines."""
    text = path.read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        number
        for node in ast.walk(ast.parse(text))
        if isinstance(node, documented) and ast.get_docstring(node)
        for number in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    lines = enumerate(map(str.strip, text.splitlines()), 1)
    return sum(1 for number, line in lines if line and not line.startswith("#") and number not in docstrings)


def _started(command: list[str], folder: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a command without settings of the project from outside; what it prints is in `log`."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PARTI_")}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, env=outside | env, stdout=log, stderr=log)


def _ended(process: subprocess.Popen[bytes], folder: Path) -> int:
    """Wait for the end, and return the exit code: 0, or 4 for what is not proved to be complete."""
    code = process.wait(_HANGS)
    if code not in {0, 4}:
        log = (folder / "log").read_text(encoding="utf-8", errors="replace")
        sys.exit(f"{process.args!r} ended with {code}\n{log[-2000:]}")
    return code


# --- The rows --------------------------------------------------------------------------------------------------------

MOVES = "records lost while the set moves"
CLAMPED_LIMIT = "records lost if the server sends fewer than asked for"
CUT = "records lost if a page is cut short"
EMPTY = "records lost if a page is empty"
KILLED = "rows after a kill and a second start"
KILLED_REQUESTS = "requests until the kill, and after it"
DELETED = "deletions noticed by a second, incremental crawl"
FOUND = "new livestreams found by it"
FIRST = "requests of the first crawl"
SECOND = "requests of the second"
LINES = "lines to write: commands, or code"
ROWS = (MOVES, CLAMPED_LIMIT, CUT, EMPTY, KILLED, KILLED_REQUESTS, DELETED, FOUND, FIRST, SECOND, LINES)


class Comparison:
    """The cells of one tool, each from a run of its own.

    Attributes:
        events: how many livestreams there are at the start.
        seed: of the server, and of what is removed.
    """

    def __init__(self, tool: Tool, events: int, seed: int) -> None:
        self.events, self.seed = events, seed
        self._tool = tool
        # The number of the page in the middle of a crawl.
        self._middle = events // PAGE // 2

    def cells(self) -> dict[str, str]:
        """Return the cell of each row."""
        return {
            MOVES: self._lost(Moves(self._middle)),
            CLAMPED_LIMIT: self._lost(Situation(self._middle), cap=CLAMPED),
            CUT: self._lost(Cut(self._middle)),
            EMPTY: self._lost(Empty(self._middle)),
            **self._killed(),
            **self._again(),
            LINES: str(self._tool.lines),
        }

    def _server(self, cap: int = PAGE) -> MockServer:
        """Return a server of five weeks of livestreams, in which nothing starts or ends by itself."""
        # A little latency, so that a kill is in the middle of a crawl and not after it.
        return MockServer(
            Options(events=self.events, seed=self.seed, years=0.1, live=0, start_every=0, page_cap=cap, latency=0.01)
        )

    def _crawl(self, server: MockServer, folder: Path, *, resumes: bool = False) -> tuple[int, int]:
        """Collect, and return the exit code and the number of requests."""
        before = len(server.requests)
        code = _ended(self._tool.crawl(server.base_url, folder, resumes=resumes), folder)
        return code, len(server.requests) - before

    def _lost(self, situation: Situation, cap: int = PAGE) -> str:
        """Crawl once, and return how many records of the set are lost."""
        with tempfile.TemporaryDirectory() as name, self._server(cap) as server:
            folder = Path(name)
            watched(server, situation)
            code, _ = self._crawl(server, folder)
            truth = server.world.existed_throughout()
            lost = truth - set(self._tool.held(folder).ids)
        return _number(len(lost)) + _noted(code)

    def _killed(self) -> dict[str, str]:
        """Kill a crawl, start it again, and return what the table holds and how many requests were made."""
        situation = Killed(self._middle)
        with tempfile.TemporaryDirectory() as name, self._server() as server:
            folder = Path(name)
            watched(server, situation)
            situation.process = self._tool.crawl(server.base_url, folder, resumes=False)
            situation.process.wait(_HANGS)
            if not situation.was_killed.is_set():
                sys.exit("a crawl was over before the page in the middle: more --events are needed")
            until_the_kill = len(server.requests)
            code, after = self._crawl(server, folder, resumes=True)
            ids = self._tool.held(folder).ids
            lost = server.world.existed_throughout() - set(ids)
        twice = len(ids) - len(set(ids))
        rows = f"{_number(len(ids))}: {_number(twice)} twice, {_number(len(lost))} lost{_noted(code)}"
        return {KILLED: rows, KILLED_REQUESTS: f"{until_the_kill}, {after}"}

    def _again(self) -> dict[str, str]:
        """Crawl twice, with changes between, and return what was noticed and how many requests were made."""
        with tempfile.TemporaryDirectory() as name, self._server() as server:
            folder = Path(name)
            code, first = self._crawl(server, folder)
            held = set(self._tool.held(folder).ids)
            ended, removed = self._change(server.world)
            again, second = self._crawl(server, folder)
            now = self._tool.held(folder)
        found = f"{len(ended & set(now.ids))} of {ENDED}"
        return {
            DELETED: noticed(removed, held - set(now.ids), now.missing),
            FOUND: found,
            FIRST: _number(first) + _noted(code),
            SECOND: _number(second) + _noted(again),
        }

    def _change(self, world: World) -> tuple[set[int], set[int]]:
        """Let livestreams end and remove others, and return the ids of both."""
        by_chance = random.Random(self.seed)
        now = int(world.now())
        ends = {each["event_id"]: each["event_end_ts"] for each in world.recent_at()}
        fresh = [event_id for event_id, end in ends.items() if end > now - DAY]
        old = [event_id for event_id, end in ends.items() if end < now - 7 * DAY]
        removed = {event_id for each in (fresh, old) for event_id in by_chance.sample(each, REMOVED // 2)}
        for event_id in removed:
            world.delete_now(event_id)
        return {world.insert_now(end=now)["event_id"] for _ in range(ENDED)}, removed


def noticed(removed: set[int], gone: set[int], missing: set[int] | None) -> str:
    """Return how many of the removed are known as deleted, and how many others are taken for deleted."""
    if missing is None:
        return "not yet"
    known = gone | missing
    wrongly = len(known - removed)
    return f"{len(known & removed)} of {len(removed)}" + (f", {wrongly} wrongly" if wrongly else "")


def _number(number: int) -> str:
    return f"{number:,}"


def _noted(code: int) -> str:
    return f" (exit code {code})" if code else ""


def main() -> None:
    """Run all situations with both, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=5_000, help="livestreams, at least 1000 (default 5000)")
    parser.add_argument("--seed", type=int, default=1, help="of the server, and of what is removed (default 1)")
    parser.add_argument("--peers", type=Path, help="python of an environment with peers/requirements.txt")
    options = parser.parse_args()
    if options.events < 1_000:
        parser.error("--events: fewer than 1000 have too few of a day")
    tools = {"this project": Ours(), "dlt": Dlt(options.peers or environment_of_peers())}
    columns = []
    for name, tool in tools.items():
        print(f"  {name} …", file=sys.stderr, flush=True)
        columns.append(Comparison(tool, options.events, options.seed).cells())
    print(f"| {options.events:,} livestreams, pages of {PAGE}, seed {options.seed} | {' | '.join(tools)} |")
    print("| --- |" + " --- |" * len(tools))
    for row in ROWS:
        print(f"| {row} | {' | '.join(cells[row] for cells in columns)} |")


if __name__ == "__main__":
    main()
