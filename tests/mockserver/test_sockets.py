"""The WebSocket, with a client that is not the project's."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType

from parti_scraper.mockserver import MockServer, Options
from tests.support import SPECIFICATION, STILL, Serve, ids, wait_until

SUBSCRIBE = (SPECIFICATION / "subscribe.json").read_text(encoding="utf-8").strip()
FIELDS = {
    "user_id", "user_name", "user_avatar_id", "avatar_link", "event_id", "event_title", "event_file", "category_name",
    "viewers_count", "social_media", "social_username", "channel_arn", "livestream_id",
}  # fmt: skip
# A pong shows the tests that the server has read their messages.
ANSWERING = STILL | {"ws_ping": "answered"}


@asynccontextmanager
async def connected(server: MockServer) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """Connect as a client that sees every frame."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(server.ws_url, autoping=False, autoclose=False) as socket,
    ):
        yield socket


async def was_read(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Wait until the server has read everything that was sent."""
    await socket.ping(b"read?")
    message = await socket.receive(timeout=30)
    assert (message.type, message.data) == (WSMsgType.PONG, b"read?")


async def received(socket: aiohttp.ClientWebSocketResponse, count: int) -> list[Any]:
    """Return the next messages, read as JSON."""
    return [json.loads(await socket.receive_str(timeout=30)) for _ in range(count)]


def test_every_stream_that_starts_is_announced_once_to_each_subscriber(serve: Serve) -> None:
    server = serve(**ANSWERING)
    start = server.world.started_at

    async def listen() -> list[list[Any]]:
        async with connected(server) as one, connected(server) as other:
            for socket in (one, other):
                # Twice: a second subscription does not repeat notifications.
                await socket.send_str(SUBSCRIBE)
                await socket.send_str(SUBSCRIBE)
                await was_read(socket)
            server.world.advance(60)
            count = len(server.world.notifications_between(start, start + 60))
            heard = [await received(socket, count) for socket in (one, other)]
            for socket in (one, other):
                await was_read(socket)
            return heard

    heard = asyncio.run(listen())
    truth = server.world.notifications_between(start, start + 60)
    assert heard == [truth, truth]
    assert len(truth) > 10
    assert set(ids(truth)) <= set(ids(server.world.live_at())) | set(ids(server.world.recent_at()))


def test_notifications_have_the_specified_shape(serve: Serve) -> None:
    world = serve(**STILL).world
    records = world.notifications_between(world.started_at, world.started_at + 1_000)
    assert {frozenset(record) for record in records} == {frozenset(FIELDS)}
    for name, types in {"category_name": {str, type(None)}, "viewers_count": {int, type(None)}}.items():
        assert {type(record[name]) for record in records} == types
    assert all(type(record["livestream_id"]) is int for record in records)


def test_there_are_no_notifications_before_the_subscription(serve: Serve) -> None:
    server = serve(**ANSWERING)

    async def listen() -> Any:
        async with connected(server) as socket:
            for text in ("", "hello", "[]", "null", '{"subscribe_options":{}}', '{"subscribe_options":null}'):
                await socket.send_str(text)
            await was_read(socket)
            server.world.advance(60)
            # Any message would have arrived before the pong.
            await was_read(socket)
            await socket.send_str(SUBSCRIBE)
            await was_read(socket)
            server.world.advance(60)
            return await received(socket, 1)

    (first,) = asyncio.run(listen())
    start = server.world.started_at
    assert first == server.world.notifications_between(start + 60, start + 120)[0]


def test_no_ping_is_answered_by_default(serve: Serve) -> None:
    server = serve(**STILL)

    async def listen() -> aiohttp.WSMessage:
        async with connected(server) as socket:
            await socket.ping(b"anybody?")
            await socket.send_str(SUBSCRIBE)
            # Without a pong, a notification shows that the subscription was read.
            while not server.notifications:
                server.world.advance(10)
                await asyncio.sleep(0.01)
            return await socket.receive(timeout=30)

    assert asyncio.run(listen()).type is WSMsgType.TEXT


def test_streams_are_announced_as_the_clock_runs_by_itself(serve: Serve) -> None:
    server = serve(**STILL | {"speed": 100})

    async def listen() -> list[Any]:
        async with connected(server) as socket:
            await socket.send_str(SUBSCRIBE)
            return await received(socket, 3)

    heard = ids(asyncio.run(listen()))
    world = server.world
    announced = ids(world.notifications_between(world.started_at, world.now()))
    first = announced.index(heard[0])
    assert announced[first : first + 3] == heard


def test_the_server_closes_after_the_given_time(serve: Serve) -> None:
    server = serve(**STILL, ws_drop_after=0.05)

    async def listen() -> tuple[WSMsgType, int]:
        async with connected(server) as socket:
            await socket.send_str(SUBSCRIBE)
            message = await socket.receive(timeout=30)
            return message.type, message.data

    assert asyncio.run(listen()) == (WSMsgType.CLOSE, 1001)


def test_the_server_closes_connections_when_it_stops() -> None:
    async def listen() -> tuple[WSMsgType, int]:
        with MockServer(Options(**STILL)) as server:
            async with connected(server) as socket:
                await asyncio.to_thread(server.stop)
                message = await socket.receive(timeout=30)
                return message.type, message.data

    assert asyncio.run(listen()) == (WSMsgType.CLOSE, 1001)


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_a_share_of_the_messages_is_something_else_and_the_ground_truth_knows_which(serve: Serve, rate: float) -> None:
    server = serve(**ANSWERING, ws_malformed=rate)
    start = server.world.started_at

    async def listen() -> list[str | bytes]:
        async with connected(server) as socket:
            await socket.send_str(SUBSCRIBE)
            await was_read(socket)
            server.world.advance(600)
            count = len(server.world.notifications_between(start, start + 600))
            return [(await socket.receive(timeout=30)).data for _ in range(count)]

    heard = asyncio.run(listen())
    sent = server.notifications
    truth = server.world.notifications_between(start, start + 600)
    assert heard == [each.text for each in sent]
    assert [each.event_id for each in sent] == ids(truth)
    assert sum(each.malformed for each in sent) == pytest.approx(rate * len(sent), abs=0.1 * len(sent))
    for each, record in zip(sent, truth, strict=True):
        whole = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        assert (each.text == whole) is not each.malformed
    kinds = {each.text if len(each.text) < 25 else type(each.text) for each in sent if each.malformed}
    assert {"hello", "", "[]", "null", "42", "{}", str, b"\xff\xfe\x00"} <= kinds


def test_nothing_remains_of_clients_that_disconnect(serve: Serve) -> None:
    server = serve(**ANSWERING)

    async def come_and_go() -> None:
        async with connected(server) as socket:
            await socket.send_str(SUBSCRIBE)
            await was_read(socket)

    for _ in range(3):
        asyncio.run(come_and_go())
    wait_until(lambda: not server.world.listeners)
    server.world.advance(60)
    assert server.notifications == []
    assert server.peak_in_flight == 0


async def subscribed(server: MockServer, number: int) -> list[aiohttp.WSMessage]:
    """Subscribe, let streams start, and return the first three messages; beyond a number only if they come soon."""
    heard = []
    async with connected(server) as socket:
        await socket.send_str(SUBSCRIBE)
        # Pings are not answered, so nothing tells when it was read.
        await asyncio.sleep(1)
        server.world.advance(60)
        with contextlib.suppress(TimeoutError):
            while len(heard) < 3 and not socket.closed:
                heard.append(await socket.receive(timeout=30 if len(heard) < number else 0.3))
    return heard


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ({"ws_answer": "error"}, ['{"error":"unauthorized"}', 1000, None]),
        ({"ws_answer": "close"}, [1000, None]),
        ({"ws_answer": "silence"}, ['{"error":"unauthorized"}']),
        ({"ws_answer": "nonsense"}, ["[]", "[]", "[]"]),
        ({"ws_deaf_after": 0.01}, []),
    ],
)
def test_subscribers_get_useless_answers(serve: Serve, switches: dict[str, Any], expected: list[Any]) -> None:
    heard = asyncio.run(subscribed(serve(**STILL, **switches), len(expected)))
    assert [message.data for message in heard] == expected


def test_the_first_notification_is_padded_to_the_byte(serve: Serve) -> None:
    first, second, _ = asyncio.run(subscribed(serve(**STILL, ws_padding=100_000), 3))
    assert len(first.data.encode()) == 100_000
    assert set(json.loads(first.data)) == FIELDS | {"padding"}
    assert set(json.loads(second.data)) == FIELDS
