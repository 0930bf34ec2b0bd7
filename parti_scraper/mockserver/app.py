"""The HTTP routes of the mock server, and a record of what was asked."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
import zlib
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from aiohttp import web

from parti_scraper.mockserver.faults import FaultPlan, not_found
from parti_scraper.mockserver.query import QueryError, parse_live, parse_recent, parse_scheduled
from parti_scraper.mockserver.records import category_records, encode
from parti_scraper.mockserver.sockets import Notifier

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from parti_scraper.mockserver.options import Options
    from parti_scraper.mockserver.world import World

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PREFIX = "/parti_v2/profile/"
# In every answer, so that nobody takes what is made up for data of the site.
SOURCE_HEADER = ("X-Parti-Source", "mock")
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, OPTIONS",
    "Access-Control-Allow-Headers": "*, Authorization",
    "Access-Control-Max-Age": "600",
}
# SO_LINGER on, for 0 seconds: closing sends a reset.
_RESET = struct.pack("ii", 1, 0)
# A route that is reported for the API, and that the collector does not use.
_MORE = "featured_channels"
# The page sends it with that route.
SECRET = "eyJhbGciOiJIUzI1NiJ9.eyJzZXNzaW9uIjoxfQ.sessionsession"  # noqa: S105 - made up
_LOGO = '<svg xmlns="http://www.w3.org/2000/svg" width="24" height="24"><circle cx="12" cy="12" r="9"/></svg>'
_CHALLENGE_SCRIPT = """<!DOCTYPE html>
<html lang="en-US"><head><title>Just a moment...</title></head><body><h1>Verifying you are human.</h1>
<script>
document.cookie = "clearance=" + [..."BACKWARDS"].reverse().join("") + "; path=/";
setTimeout(() => location.reload(), 100);
</script></body></html>
"""
_WORKER = """self.oninstall = () => self.skipWaiting();
self.onactivate = (event) => event.waitUntil(self.clients.claim());
self.onmessage = async (event) => {
  const answer = await fetch(...event.data);
  event.ports[0].postMessage({ status: answer.status, body: await answer.text() });
};
"""
_WORKER_ANSWERS = """self.onfetch = (event) => {
  const { url, headers } = event.request;
  if (url.includes("/parti_v2/")) event.respondWith(fetch(url, { headers }));
};
"""
_ROBOTS = {"allow": "User-agent: *\nDisallow:\n", "disallow": "User-agent: *\nDisallow: /\n"}
# Seconds between two looks whether a request is still held.
_LOOK = 0.01
# The request that the current task answers: aiohttp runs each in a task of its own.
_current: ContextVar[ReceivedRequest] = ContextVar("_current")


@dataclass(slots=True)
class ReceivedRequest:
    """One HTTP request as received, and how it was answered.

    Attributes:
        method: such as `GET`.
        path: without the query, as on the wire.
        query: the raw query, as on the wire, without the question mark.
        headers: names and values as received, in their order.
        started: when it was received, by `time.monotonic()`.
        status: of the answer; None before it, and after a reset.
        fault: the fault that was injected: 404, 429, 500, reset, truncated or challenge.
        finished: when it was answered, by `time.monotonic()`; None before.
    """

    method: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    started: float
    status: int | None = None
    fault: str | None = None
    finished: float | None = None


class Site:
    """The application: the routes of the API, the page, robots.txt and the WebSocket.

    Attributes:
        requests: every request so far, in the order of arrival.
        peak_in_flight: most requests in flight at the same time, without WebSockets.
        notifier: the WebSocket.
        api_url: scheme, host and port of the API if it is not on the page's port; otherwise empty.
        held: tells of each request to the API whether it waits until this is another function, or None.
    """

    def __init__(self, options: Options, world: World) -> None:
        self.requests: list[ReceivedRequest] = []
        self.peak_in_flight = 0
        self.notifier = Notifier(options, world)
        self.api_url = ""
        self.held: Callable[[ReceivedRequest], bool] | None = None
        self._options = options
        self._world = world
        self._faults = FaultPlan(options)
        self._in_flight = 0
        # The cookie that the script of the challenge page sets.
        self._clearance = f"{options.seed}-clearance"
        self._page = files(__package__).joinpath("page.html").read_text(encoding="utf-8")

    def application(self) -> web.Application:
        """Return the aiohttp application; call it in the event loop that will run it."""
        application = web.Application(middlewares=[self._observe, _preflight])
        application.on_response_prepare.append(_say_so)
        application.on_response_prepare.append(self._allow_origin)
        application.on_shutdown.append(self.notifier.shut_down)
        routes = {
            "livestream_calendar/events/categories": self._categories,
            "livestream_calendar/events": self._scheduled,
            "get_livestream_channel_info/recent": self._recent,
            "get_livestream_channel_info/live": self._live,
        }
        if self._options.drift in {"route", "all"}:
            routes[_MORE] = self._live
        add = application.router.add_get
        for route, answer in routes.items():
            add(PREFIX + route, self._api(answer))
        add("/", self._root)
        add("/categories", self._categories_page)
        if self._options.robots != "none":
            add("/robots.txt", _static(_ROBOTS[self._options.robots], "text/plain"))
        add("/logo.svg", _static(_LOGO, "image/svg+xml"))
        worker = _WORKER + (_WORKER_ANSWERS if self._options.service_worker == "answers" else "")
        add("/worker.js", _static(worker, "text/javascript"))
        return application

    # --- Around every request ------------------------------------------------------------------------------

    @web.middleware
    async def _observe(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers]
        received = ReceivedRequest(request.method, path, query, headers, time.monotonic())
        self.requests.append(received)
        _current.set(received)
        counted = request.headers.get("Upgrade", "").lower() != "websocket"
        self._in_flight += counted
        self.peak_in_flight = max(self.peak_in_flight, self._in_flight)
        try:
            response = await handler(request)
            received.status = None if received.fault == "reset" else response.status
        except web.HTTPException as error:
            received.status = error.status
            raise
        finally:
            self._in_flight -= counted
            received.finished = time.monotonic()
        return response

    def _api(self, answer: Callable[[web.Request], bytes]) -> Handler:
        """Return the handler of an API route: its answer, after refusals, faults and latency."""

        async def handle(request: web.Request) -> web.StreamResponse:
            await self._wait()
            refusal = self._refusal(request)
            if refusal:
                return refusal
            fault = self._faults.next(request.raw_path)
            _current.get().fault = fault
            if fault in {"404", "429", "500", "challenge"}:
                return self._faults.answer(fault)
            try:
                body = answer(request)
            except QueryError as error:
                return web.json_response({"detail": str(error)}, status=error.status)
            if fault == "empty":
                body = b"[]"
            elif fault == "short":
                body = encode(json.loads(body)[:1])
            if body == b"[]" and self._options.empty_as in {"404", "204"}:
                return not_found() if self._options.empty_as == "404" else web.Response(status=204)
            return await self._sent(request, body, fault)

        return handle

    async def _wait(self) -> None:
        """Wait as long as the answer is held, and then the latency."""
        held = self.held
        if held and held(_current.get()):
            while self.held is held:  # noqa: ASYNC110 - another thread sets it
                await asyncio.sleep(_LOOK)
        if self._options.latency:
            await asyncio.sleep(self._options.latency)

    async def _sent(self, request: web.Request, body: bytes, fault: str | None) -> web.StreamResponse:
        """Send the body, cut short if the fault says so."""
        if fault == "truncated" and self._faults.turn(fault) % 3 == 2:
            # Broken JSON with headers that fit it.
            return self._response(request, _cut(body))
        response = self._response(request, body)
        return await _cut_off(request, response, fault) if fault in {"reset", "truncated"} else response

    def _refusal(self, request: web.Request) -> web.Response | None:
        if self._options.browser_only and not self._has_cookie(request):
            _current.get().fault = "challenge"
            return self._faults.answer("challenge")
        is_elsewhere = self.api_url and self.api_url != f"http://{request.host}"
        if self._options.gone or is_elsewhere:
            return not_found()
        token = self._options.token
        if token and request.headers.get("Authorization") != f"Bearer {token}":
            return web.json_response(
                {"detail": "Not authenticated"}, status=401, headers={"WWW-Authenticate": "Bearer"}
            )
        return None

    def _response(self, request: web.Request, body: bytes) -> web.Response:
        headers = {"Vary": "Accept-Encoding"}
        if _accepts_gzip(request.headers.get("Accept-Encoding", "")):
            packer = zlib.compressobj(1, wbits=31)
            body = packer.compress(body) + packer.flush()
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, content_type="application/json", headers=headers)

    # --- The API -------------------------------------------------------------------------------------------

    def _categories(self, _request: web.Request) -> bytes:
        return encode(category_records())

    def _recent(self, request: web.Request) -> bytes:
        return self._list(self._world.recent_page(*parse_recent(request.query, self._options)))

    def _live(self, request: web.Request) -> bytes:
        return self._list(self._world.live_page(*parse_live(request.query, self._options)))

    def _scheduled(self, request: web.Request) -> bytes:
        return self._list(self._world.scheduled_page(parse_scheduled(request.query, self._options)))

    def _list(self, records: list[bytes]) -> bytes:
        if not records and self._options.empty_as == "null":
            return b"null"
        return b"[" + b",".join(records) + b"]"

    # --- The rest of the site ------------------------------------------------------------------------------

    async def _root(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self.notifier.handle(request)
        return await self._categories_page(request)

    async def _categories_page(self, request: web.Request) -> web.StreamResponse:
        if self._options.browser_only and not self._has_cookie(request):
            script = _CHALLENGE_SCRIPT.replace("BACKWARDS", self._clearance[::-1])
            return web.Response(status=403, text=script, content_type="text/html", headers={"Server": "cloudflare"})
        config = {
            "api": self.api_url,
            # A browser sends no cookies to another origin unless it is told to.
            "credentials": "include" if self._options.browser_only else "same-origin",
            "limit": "page_size" if self._options.drift in {"parameter", "all"} else "limit",
            "more": _MORE if self._options.drift in {"route", "all"} else "",
            "secret": SECRET,
            "busy": self._options.busy,
            "worker": self._options.service_worker,
        }
        return web.Response(text=self._page.replace("__CONFIG__", json.dumps(config)), content_type="text/html")

    def _has_cookie(self, request: web.Request) -> bool:
        return request.cookies.get("clearance") == self._clearance

    async def _allow_origin(self, request: web.Request, response: web.StreamResponse) -> None:
        if not request.path.startswith(PREFIX):
            return
        response.headers.update(_CORS)
        origin = request.headers.get("Origin")
        if self._options.browser_only and origin:
            # After a request with cookies, a browser does not accept `*`.
            response.headers.update(
                {"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true", "Vary": "Origin"}
            )


async def _say_so(_request: web.Request, response: web.StreamResponse) -> None:
    name, value = SOURCE_HEADER
    response.headers[name] = value


@web.middleware
async def _preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer the preflight request of a browser that calls the API from another origin."""
    if request.method == "OPTIONS" and request.path.startswith(PREFIX):
        return web.Response(status=204)
    return await handler(request)


def _static(text: str, content_type: str) -> Handler:
    async def handle(_request: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type=content_type)

    return handle


async def _cut_off(request: web.Request, response: web.Response, fault: str) -> web.StreamResponse:
    """Send the headers of a response and a part of its body, then reset or close the connection."""
    body: Any = response.body
    sent = web.StreamResponse(status=response.status, headers=response.headers)
    sent.content_length = len(body)
    await sent.prepare(request)
    await sent.write(_cut(body))
    if request.transport is not None and fault == "reset":
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        request.transport.abort()
    elif request.transport is not None:
        request.transport.close()
    return sent


def _cut(body: bytes) -> bytes:
    return body[: len(body) * 3 // 5]


def _accepts_gzip(header: str) -> bool:
    """Return whether an Accept-Encoding header allows gzip."""
    for each in header.split(","):
        name, _, weight = each.partition(";")
        if name.strip().lower() in {"gzip", "*"}:
            return weight.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False
