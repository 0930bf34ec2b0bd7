"""Runs that listen to a mock server's WebSocket, and their notifications so far."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from parti_scraper.mockserver import MockServer, ReceivedRequest
from tests.support import Crawl, RunningCrawl, check_books, environment_of, typed_of, wait_until

# Streams last fifteen minutes, so none ends before the gap in which it started is filled.
STARTING: dict[str, Any] = {"speed": 0, "events": 10, "live": 300, "start_every": 3}


def handshakes(server: MockServer) -> list[ReceivedRequest]:
    """Return those that were sent on a connection."""
    sockets = [request for request in server.requests if ("Upgrade", "websocket") in request.headers]
    return [request for request in sockets if request.status not in {429, 503}]


class Listening(RunningCrawl):
    """A run that listens, with its own log."""

    def __init__(self, output: Path, server: MockServer, *options: str, **arguments: Any) -> None:
        env = arguments.pop("env", {})
        self.log = output.with_name(f"log-{len(list(output.parent.glob('log-*')))}")
        typed = typed_of("notifications", "run", arguments, ("--logfile", str(self.log), *options))
        self.log.touch()
        self.earlier = len(handshakes(server))
        super().__init__(typed, environment_of(output, server, env))


def settle(server: MockServer, running: Listening) -> None:
    """Wait until the run is connected, and has requested the live route."""

    def is_settled() -> bool:
        marks = re.findall("Connected to|Nothing is missing", running.log.read_text(encoding="utf-8"))
        accepted = handshakes(server)[running.earlier :]
        is_open = bool(accepted) and accepted[-1].finished is None
        return is_open and marks.count("Connected to") == len(accepted) and marks[-1] == "Nothing is missing"

    wait_until(is_settled)


def heard(output: Path) -> list[dict[str, Any]]:
    """Return the whole lines of the files."""
    rows = []
    for path in sorted((output / "notifications/run").glob("*/live_notifications.jsonl")):
        rows += [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    return rows


def heard_ids(output: Path) -> set[int]:
    """Return the livestreams that are in the files."""
    return {row["event_id"] for row in heard(output)}


def started(server: MockServer) -> set[int]:
    """Return the livestreams that have started since the clock was moved."""
    world = server.world
    return {record["event_id"] for record in world.notifications_between(world.started_at, world.now())}


def live(server: MockServer) -> set[int]:
    """Return the livestreams that are on air."""
    return {record["event_id"] for record in server.world.live_at()}


def ended(output: Path) -> Crawl:
    """Return a finished run, after checking that its files have no duplicates."""
    run = Crawl(0, "", "", output, "notifications", "run")
    check_books(run)
    rows = [row["event_id"] for row in run.rows]
    assert len(rows) == len(set(rows))
    assert [int(row["event_id"]) for row in run.csv_rows] == rows
    return run
