"""The requests of a page and its workers, as Chromium itself reports them: `Network`, and `Workers` to find workers.

Playwright leaves out answers that the page may not read, and the first requests of workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from playwright.async_api import CDPSession

# How long to wait for headers that Chromium reports separately, in seconds.
_LATE_HEADERS = 1.0
# Not needed. Chromium requests an icon even for a page that names none.
_UNWANTED = (
    {"resourceType": "Image"},
    {"resourceType": "Font"},
    {"resourceType": "Media"},
    {"urlPattern": "*/favicon.ico"},
)
# How many headers that came before their request are kept; most of these requests never come.
_MOST_EARLY = 100


@dataclass(eq=False)
class Exchange:
    """A request as the browser sent it, and its answer: all that Chromium reports of it in several events.

    Attributes:
        id: the browser's identifier of the request.
        method, url: as sent; the URL without the fragment.
        fragment: of the URL; it is never sent.
        kind: Chromium's resource type: Fetch, XHR, WebSocket, Document, …
        page_url: the page that made the request.
        frame: the browser's identifier of the frame that made it.
        began: when it was made, in Unix seconds.
        status: of the answer; None if there was none.
        headers: of the answer, unfiltered: also those that a page may not read.
        media_type: of the answer.
        error: Chromium's name of what went wrong.
        cors_error: Chromium's name of the reason why the page may not read the answer.
        ended: set once nothing more will be reported.
    """

    id: str
    method: str
    url: str
    fragment: str = ""
    kind: str = ""
    page_url: str = ""
    frame: str = ""
    began: float = field(default_factory=time.time)
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    media_type: str = ""
    error: str = ""
    cors_error: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    _is_received: bool = False
    _lacks_headers: bool = False

    @classmethod
    def of(cls, event: Any) -> Exchange:
        """Return the exchange that Chromium's event `requestWillBeSent` begins."""
        request = event["request"]
        return cls(
            event["requestId"],
            request["method"],
            request["url"],
            request.get("urlFragment", ""),
            event.get("type", ""),
            event.get("documentURL", ""),
            event.get("frameId", ""),
        )

    def take_status(self, status: int | None) -> None:
        """Note the status of a redirect or of a WebSocket's handshake, which have nothing else."""
        self.status = status

    def take_response(self, response: Any, *, headers_follow: bool) -> None:
        """Note the answer; its headers are filtered, and do not replace those that were reported before.

        Args:
            response: as Chromium reports it.
            headers_follow: all headers are reported separately.
        """
        self.media_type = response.get("mimeType", "")
        if not self.headers:
            self.status, self.headers = response["status"], response["headers"]
            self._lacks_headers = headers_follow

    def take_headers(self, status: int, headers: dict[str, str]) -> bool:
        """Note the unfiltered headers; return whether the answer is complete with them."""
        self.status, self.headers = status, headers
        self._lacks_headers = False
        return self._is_received

    def take_body(self) -> bool:
        """Note that the whole body has come; return whether the answer is complete with it."""
        self._is_received = True
        return not self._lacks_headers

    def take_failure(self, error: str, cors_error: str) -> None:
        self.error, self.cors_error = error, cors_error


class Background:
    """Tasks in the background; Playwright's errors, such as that the page is closed, are ignored in them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def begin(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(self._run(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self, seconds: float) -> None:
        """Wait for the running tasks, up to so many seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def _run(self, work: Awaitable[Any]) -> None:
        from playwright.async_api import Error  # noqa: PLC0415 - an extra

        with contextlib.suppress(Error):
            await work


async def refuse_unwanted(session: CDPSession, background: Background) -> None:
    """Block pictures, fonts, sound and video of a page. Other requests do not pass through this process."""

    def refuse(event: Any) -> None:
        answer = {"requestId": event["requestId"], "errorReason": "BlockedByClient"}
        background.begin(session.send("Fetch.failRequest", answer))

    session.on("Fetch.requestPaused", refuse)
    await session.send("Fetch.enable", {"patterns": list(_UNWANTED)})


class WorkerSession:
    """A session to a worker of a page; Playwright's `CDPSession` is for pages alone."""

    def __init__(self, page: CDPSession, session_id: str) -> None:
        self._page, self._id = page, session_id
        self._handlers: dict[str, Callable[[Any], None]] = {}
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)

    def on(self, event: str, handler: Callable[[Any], None]) -> None:
        """Call a function with each event of this name."""
        self._handlers[event] = handler

    async def send(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Return the answer to a command. Raises Playwright's Error if it is refused or the worker ends."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message = json.dumps({"id": number, "method": method, "params": params or {}})
        try:
            await self._page.send("Target.sendMessageToTarget", {"sessionId": self._id, "message": message})
            return await answer
        finally:
            del self._answers[number]

    def receive(self, text: str) -> None:
        """Take a message of the worker: an event, or the answer to a command."""
        message = json.loads(text)
        answer = self._answers.get(message.get("id"))
        if answer is None:
            if handler := self._handlers.get(message.get("method")):
                handler(message["params"])
        elif not answer.done() and "result" in message:
            answer.set_result(message["result"])
        else:
            self._fail(answer, message.get("error", {}).get("message", ""))

    def end(self) -> None:
        """Fail the commands that still wait for an answer."""
        for answer in self._answers.values():
            self._fail(answer, "the worker has ended")

    def _fail(self, answer: asyncio.Future[Any], why: str) -> None:
        from playwright.async_api import Error  # noqa: PLC0415 - an extra

        if not answer.done():
            answer.set_exception(Error(why))


class Workers:
    """Finds the workers of a page, service workers included, as soon as they exist.

    Playwright pauses new workers only until it listens to them itself, so their first requests may be missed.
    """

    def __init__(
        self, session: CDPSession, background: Background, begun: Callable[[WorkerSession], Awaitable[None]]
    ) -> None:
        """Listen for the workers of the page; `begun` is called in the background with each new one."""
        self._session, self._background, self._begun = session, background, begun
        self._sessions: dict[str, WorkerSession] = {}
        for event, handler in {
            "attachedToTarget": self._attached,
            "receivedMessageFromTarget": self._received,
            "detachedFromTarget": self._detached,
        }.items():
            session.on(f"Target.{event}", handler)

    async def enable(self) -> None:
        """Have the browser report workers from now on. Raises Playwright's Error if it cannot."""
        kinds = [{"type": kind} for kind in ("worker", "service_worker")]
        # Not flat: Playwright passes on the messages of its own sessions only.
        options = {"autoAttach": True, "waitForDebuggerOnStart": False, "flatten": False, "filter": kinds}
        await self._session.send("Target.setAutoAttach", options)
        # A service worker may answer in place of the API, whose answers are wanted.
        await self._session.send("Network.setBypassServiceWorker", {"bypass": True})

    def _attached(self, event: Any) -> None:
        worker = self._sessions[event["sessionId"]] = WorkerSession(self._session, event["sessionId"])
        self._background.begin(self._begun(worker))

    def _received(self, event: Any) -> None:
        if worker := self._sessions.get(event["sessionId"]):
            worker.receive(event["message"])

    def _detached(self, event: Any) -> None:
        if worker := self._sessions.pop(event["sessionId"], None):
            worker.end()


class Network:
    """The requests of a page or of a worker, as Chromium reports them."""

    def __init__(
        self,
        session: CDPSession | WorkerSession,
        *,
        begun: Callable[[Exchange], None],
        ended: Callable[[Exchange], None] = lambda _: None,
        message: Callable[[Exchange, str, bool], None] = lambda *_: None,
    ) -> None:
        """Listen for the events about requests.

        Args:
            session: to the page or worker.
            begun: called with each request that is sent.
            ended: called when its answer is complete, or none will come.
            message: called with each text of a WebSocket, and whether the page sent it.
        """
        self.session = session
        # Requests that were sent and have not ended, WebSockets too.
        self._open: dict[str, Exchange] = {}
        self._early: dict[str, Any] = {}
        self._begun, self._ended, self._message = begun, ended, message
        for event, handler in {
            "requestWillBeSent": self._sent,
            "responseReceivedExtraInfo": self._headers_came,
            "responseReceived": self._answered,
            "loadingFinished": self._finished,
            "loadingFailed": self._failed,
            "webSocketCreated": self._socket_created,
            "webSocketHandshakeResponseReceived": self._socket_answered,
            "webSocketFrameSent": self._socket_sent,
            "webSocketFrameReceived": self._socket_received,
            "webSocketClosed": self._socket_closed,
        }.items():
            session.on(f"Network.{event}", handler)

    async def enable(self) -> None:
        """Have the browser report requests from now on."""
        await self.session.send("Network.enable")

    def _sent(self, event: Any) -> None:
        before = self._open.pop(event["requestId"], None)
        if before is not None:
            # The request that follows a redirect has the same identifier.
            before.take_status(event.get("redirectResponse", {}).get("status", before.status))
            self._end(before)
        self._begin(Exchange.of(event))

    def _headers_came(self, event: Any) -> None:
        exchange = self._open.get(event["requestId"])
        if exchange is None:
            # They are reported by another process of Chromium than the request, and may come first.
            self._early[event["requestId"]] = event
            if len(self._early) > _MOST_EARLY:
                del self._early[next(iter(self._early))]
        elif exchange.take_headers(event["statusCode"], event["headers"]):
            self._end(exchange)

    def _answered(self, event: Any) -> None:
        if exchange := self._open.get(event["requestId"]):
            exchange.take_response(event["response"], headers_follow=event.get("hasExtraInfo", False))

    def _finished(self, event: Any) -> None:
        exchange = self._open.get(event["requestId"])
        if exchange is None:
            return
        # After a redirect, late headers may have been taken for those of the answer before, and do not come again.
        delay = 0 if exchange.take_body() else _LATE_HEADERS
        asyncio.get_running_loop().call_later(delay, self._end, exchange)

    def _failed(self, event: Any) -> None:
        if exchange := self._open.get(event["requestId"]):
            exchange.take_failure(event["errorText"], event.get("corsErrorStatus", {}).get("corsError", ""))
            self._end(exchange)

    def _socket_created(self, event: Any) -> None:
        self._begin(Exchange(event["requestId"], "GET", event["url"], kind="WebSocket"))

    def _socket_answered(self, event: Any) -> None:
        if exchange := self._open.get(event["requestId"]):
            exchange.take_status(event["response"]["status"])

    def _socket_sent(self, event: Any) -> None:
        if exchange := self._open.get(event["requestId"]):
            self._message(exchange, event["response"]["payloadData"], True)

    def _socket_received(self, event: Any) -> None:
        if exchange := self._open.get(event["requestId"]):
            self._message(exchange, event["response"]["payloadData"], False)

    def _socket_closed(self, event: Any) -> None:
        if exchange := self._open.get(event["requestId"]):
            self._end(exchange)

    def _begin(self, exchange: Exchange) -> None:
        self._open[exchange.id] = exchange
        self._begun(exchange)
        if early := self._early.pop(exchange.id, None):
            self._headers_came(early)

    def _end(self, exchange: Exchange) -> None:
        if exchange.ended.is_set():
            return
        if self._open.get(exchange.id) is exchange:
            del self._open[exchange.id]
        exchange.ended.set()
        self._ended(exchange)
