"""The specification's own commands, with only the host changed, and its example answers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from parti_scraper.mockserver import MockServer
from tests.support import ROOT, SPECIFICATION, STILL, TIMEOUT, Serve, ids, read_lines, wait_until

HTTP_HOST, WEBSOCKET = "https://api-backend.parti.com", "wss://ws-backend.parti.com/"
HTTP_COMMANDS = ["recent-NaN-7", "recent-NaN-7-7", "live-7", "categories"]


def command(name: str) -> str:
    """Return one of the specification's commands, unchanged."""
    return (SPECIFICATION / f"{name}.sh").read_text(encoding="utf-8")


def demo(name: str) -> Any:
    """Return the specification's example answer."""
    return json.loads((SPECIFICATION / f"{name}.json").read_text(encoding="utf-8"))


def headers_of(text: str) -> list[tuple[str, str]]:
    """Return the headers of a command."""
    return re.findall(r"-H '([^:]+): ([^']+)'", text)


def shapes(records: list[dict[str, Any]]) -> set[tuple[tuple[str, type], ...]]:
    """Return the fields and types that records have, in their order."""
    return {tuple((name, type(value)) for name, value in record.items()) for record in records}


def answer(server: MockServer, name: str) -> Any:
    """Run one of the curl commands against the server, and return its output."""
    text = command(name).replace(HTTP_HOST, server.base_url)
    run = subprocess.run(["sh", "-c", text], capture_output=True, check=True, timeout=60)
    return json.loads(run.stdout)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("fields", ["demo", "full"])
@pytest.mark.parametrize("name", HTTP_COMMANDS)
def test_the_curl_commands_are_answered_in_the_demo_shapes(serve: Serve, name: str, fields: str) -> None:
    # `display_name`, because the demo has no record of a nameless category.
    server = serve(**STILL, fields=fields, nameless="display_name")
    records = answer(server, name)
    shown = demo(name)
    assert len(records) == {"recent": 15, "live": min(12, len(records)), "categories": 21}[name.partition("-")[0]]
    if fields == "full":
        assert all(set(shown[0]) <= set(record) for record in records)
        records = [{field: record[field] for field in shown[0]} for record in records]
    assert shapes(records) == shapes(shown)
    (request,) = server.requests
    sent = {header.lower(): value for header, value in request.headers}
    assert {header: sent[header.lower()] for header, _ in headers_of(command(name))} == dict(headers_of(command(name)))
    assert "gzip" in sent["accept-encoding"]


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_answers_mean_what_the_demo_responses_show(serve: Serve) -> None:
    server = serve(**STILL)
    recent = answer(server, "recent-NaN-7")
    # IRL and Other are in the answer for categories NaN and 7 in the demo: NaN removes the filter.
    assert {record["category_name"] for record in recent} > {"Gaming", "IRL"}
    assert recent == answer(server, "recent-NaN-7-7") == server.world.recent_at()[:15]
    live = answer(server, "live-7")
    assert live == [record for record in server.world.live_at() if record["category_name"] == "Gaming"][:12]
    assert len(live) > 2
    categories = answer(server, "categories")
    assert all(row in categories for row in demo("categories"))


@contextmanager
def wscat(server: MockServer, heard: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the wscat command against the server, with the message to send; what it prints goes to a file."""
    path = f"{ROOT / 'node_modules' / '.bin'}{os.pathsep}{os.environ['PATH']}"
    assert shutil.which("wscat", path=path), (
        "wscat is not installed: run `make setup-dev`, which says why where it cannot"
    )
    message = (SPECIFICATION / "subscribe.json").read_text(encoding="utf-8").strip()
    # Sends the message after connecting, and listens until the server closes.
    text = f"{command('subscribe').strip()} -x '{message}' -w -1".replace(WEBSOCKET, server.ws_url)
    with (
        heard.open("wb") as stdout,
        # Its input stays open, as on a terminal: wscat disconnects when it ends.
        subprocess.Popen(
            ["sh", "-c", text], stdin=subprocess.PIPE, stdout=stdout, env=os.environ | {"PATH": path}
        ) as process,
    ):
        yield process


def test_the_wscat_command_is_answered_with_every_notification(serve: Serve, tmp_path: Path) -> None:
    server = serve(**STILL)
    world, heard = server.world, tmp_path / "heard"

    with wscat(server, heard) as process:

        def subscribed() -> bool:
            assert process.poll() is None, "wscat has ended"
            world.advance(10)
            return bool(server.notifications)

        wait_until(subscribed)
        truth = world.notifications_between(world.started_at, world.now())
        # From its first notification on: it subscribed after the earlier ones.
        truth = truth[ids(truth).index(server.notifications[0].event_id) :]
        wait_until(lambda: len(server.notifications) >= len(truth))
        server.stop()
        assert process.wait(TIMEOUT) == 0

    assert read_lines(heard) == truth
    (request,) = server.requests
    sent, headers = dict(request.headers), dict(headers_of(command("subscribe")))
    assert (request.path, {name: sent[name] for name in headers}) == ("/", headers)
