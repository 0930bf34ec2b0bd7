"""The specification's own commands, with nothing but the host changed, and the answers that it shows."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from typing import Any

import aiohttp
import pytest

from parti_scraper.mockserver import MockServer
from tests.mockserver.client import STILL
from tests.test_api import SPECIFICATION
from tests.test_spiders import Serve

HTTP_HOST, WEBSOCKET = "https://api-backend.parti.com", "wss://ws-backend.parti.com/"
HTTP_COMMANDS = ["recent-NaN-7", "recent-NaN-7-7", "live-7", "categories"]


def command(name: str) -> str:
    """Return one of the specification's commands, as it is printed there."""
    return (SPECIFICATION / f"{name}.sh").read_text(encoding="utf-8")


def demo(name: str) -> Any:
    """Return what the specification shows as the answer."""
    return json.loads((SPECIFICATION / f"{name}.json").read_text(encoding="utf-8"))


def headers_of(text: str) -> list[tuple[str, str]]:
    """Return the headers of a command."""
    return re.findall(r"-H '([^:]+): ([^']+)'", text)


def shapes(records: list[dict[str, Any]]) -> set[tuple[tuple[str, type], ...]]:
    """Return the fields and types that records have, in their order."""
    return {tuple((name, type(value)) for name, value in record.items()) for record in records}


def answer(server: MockServer, name: str) -> Any:
    """Run one of the curl commands against the server, and return what is printed."""
    text = command(name).replace(HTTP_HOST, server.base_url)
    run = subprocess.run(["sh", "-c", text], capture_output=True, check=True, timeout=60)
    return json.loads(run.stdout)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("fields", ["demo", "full"])
@pytest.mark.parametrize("name", HTTP_COMMANDS)
def test_the_curl_commands_are_answered_in_the_demo_shapes(serve: Serve, name: str, fields: str) -> None:
    # `display_name`, since the demo shows no record of a nameless category.
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
    # IRL and Other stand under categories NaN and 7 in the demo: NaN takes the filter away.
    assert {record["category_name"] for record in recent} > {"Gaming", "IRL"}
    assert recent == answer(server, "recent-NaN-7-7") == server.world.recent_at()[:15]
    live = answer(server, "live-7")
    assert live == [record for record in server.world.live_at() if record["category_name"] == "Gaming"][:12]
    assert len(live) > 2
    categories = answer(server, "categories")
    assert all(row in categories for row in demo("categories"))


def test_the_wscat_command_is_answered_with_notifications(serve: Serve) -> None:
    """Not by wscat itself, but by another client with its address, its headers and the message."""
    server = serve(**STILL | {"speed": 100})
    text = command("subscribe")
    match = re.match(r"wscat -c '([^']+)'", text)
    assert match
    address = match[1].replace(WEBSOCKET, server.ws_url)

    async def listen() -> Any:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(address, headers=dict(headers_of(text))) as connection,
        ):
            await connection.send_str((SPECIFICATION / "subscribe.json").read_text(encoding="utf-8"))
            return await connection.receive_json(timeout=30)

    notification = asyncio.run(listen())
    assert {"event_id", "user_id", "user_name", "event_title", "channel_arn"} <= set(notification)
    (request,) = server.requests
    assert (request.path, dict(request.headers)["Origin"]) == ("/", "https://parti.com")
