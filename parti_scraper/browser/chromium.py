"""Chromium: where it is, how it is started, and what its pages ask for.

Playwright is an extra of the project, so it is imported where it is used, and nowhere when a module is loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import json
import logging
import os
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parti_scraper.exceptions import BrowserError
from parti_scraper.network.backoff import one_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from playwright.async_api import Browser, CDPSession, Playwright
    from scrapy.settings import BaseSettings

logger = logging.getLogger(__name__)

_PACKAGES = ("playwright", "scrapy_playwright")
_DEBIAN = "/usr/bin/chromium"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_INSTALL = "install it with `apt-get install chromium` or `playwright install chromium`"
ARGUMENTS = (
    # What a page asks for is to be seen: QUIC would go past a proxy.
    "--disable-quic",
    # Nothing that no page asks for: updates, lists of sites, reports.
    "--disable-background-networking",
    # In containers /dev/shm is small, and a page that needs more crashes.
    "--disable-dev-shm-usage",
)
# For its end, in seconds, before it is left to die with the pipe to it.
_CLOSE_TIMEOUT = 5.0
# What driver and browser are not to inherit: DEBUG has the driver print what goes through it, token included.
_NOT_INHERITED = ("DEBUG", "PARTI_TOKEN")
# Of what Chromium prints when it crashes: functions, registers, and the lines around them.
_STACK = re.compile(r"\s|#\d+ |\[end of stack trace\]|Received signal|Calling _exit|$")
# With which the spider `site` has its pages opened; the browser's name is known once it has started.
CONTEXT_OPTIONS: dict[str, Any] = {
    # Nothing that a page wants to have stored fills the disk.
    "accept_downloads": False,
}
# For headers that are told apart, in seconds.
_LATE = 1.0
# What nobody looks at; the icon of a page that names none, Chromium asks for by itself.
_UNWANTED = (
    {"resourceType": "Image"},
    {"resourceType": "Font"},
    {"resourceType": "Media"},
    {"urlPattern": "*/favicon.ico"},
)
# Answers that are remembered though their requests are not known; most never will be.
_EARLY = 100


def find_chromium(setting: str) -> str:
    """Return the path of Chromium.

    Args:
        setting: the value of `PARTI_CHROMIUM`; where it is empty, the usual places are looked at.

    Raises:
        BrowserError: there is none.
    """
    if setting:
        found = shutil.which(setting)
        if found is None:
            raise BrowserError(
                f"setting `PARTI_CHROMIUM`: not a program: {setting!r} (accepted: the path of Chromium; {_INSTALL})"
            )
        return found
    for name in (_DEBIAN, *_NAMES):
        if found := shutil.which(name):
            return found
    own = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright")
    # The number of its version is in the name of the folder.
    for path in sorted(own.glob("chromium-*/chrome-linux*/chrome"), reverse=True):
        if os.access(path, os.X_OK):
            return str(path)
    raise BrowserError(f"no Chromium was found: {_INSTALL}, or set PARTI_CHROMIUM to the path of one")


def check_browser(settings: BaseSettings) -> None:
    """Check that there is what it takes to start a browser. Raises BrowserError."""
    if not all(map(importlib.util.find_spec, _PACKAGES)):
        raise BrowserError("the browser needs scrapy-playwright: install it with `pip install .[browser]`")
    find_chromium(settings["PARTI_CHROMIUM"])


def launch_options(settings: BaseSettings) -> dict[str, Any]:
    """Return how Playwright is to start the browser. Raises BrowserError."""
    return {
        "executable_path": find_chromium(settings["PARTI_CHROMIUM"]),
        "headless": True,
        "args": list(ARGUMENTS),
        # Chromium refuses its sandbox to root; everybody else gets it, for pages are written by strangers.
        "chromium_sandbox": os.geteuid() != 0,
        # Signals are for Scrapy, which closes the browser in its turn.
        "handle_sigint": False,
        "handle_sigterm": False,
        "handle_sighup": False,
    }


class _NotNews(logging.Filter):
    """Keeps out of the log that a browser which is gone did not answer: whoever had asked is told.

    A signal to the whole process group, such as that of Ctrl-C, ends the driver too.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record is to be logged."""
        error = record.exc_info[1] if record.exc_info else None
        return type(error).__name__ != "TargetClosedError" and "reading from the driver" not in record.getMessage()


_NOT_NEWS = _NotNews()


class Chromium:
    """A browser, with the driver that it is talked to through.

    Both hang on pipes of this process: where it is killed they end by themselves.

    Attributes:
        user_agent: its own, without the word that nobody sees it; empty until it has started.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.user_agent = ""
        self._options = dict(options)
        self._playwright: Playwright | None = None
        self._browser: Browser | None = None

    async def start(self) -> Browser:
        """Start it. Raises BrowserError, whose text is one line."""
        with _less_environment():
            # It looks at DEBUG when it is imported.
            from playwright.async_api import Error, async_playwright  # noqa: PLC0415 - an extra

        for name in ("asyncio", "playwright"):
            logging.getLogger(name).addFilter(_NOT_NEWS)
        try:
            with _less_environment():
                self._playwright = await async_playwright().start()
            self._browser = await self._launch()
            session = await self._browser.new_browser_cdp_session()
            version = await session.send("Browser.getVersion")
            await session.detach()
        except (Error, OSError) as error:
            await self.close()
            what = f"{self._options['executable_path']}: {_why(error)}"
            raise BrowserError(f"Chromium could not be started: {what} (PARTI_CHROMIUM names another)") from None
        self.user_agent = version["userAgent"].replace("Headless", "")
        return self._browser

    async def _launch(self) -> Browser:
        from playwright.async_api import Error  # noqa: PLC0415 - an extra

        assert self._playwright is not None  # noqa: S101 - `start`
        launch = self._playwright.chromium.launch
        try:
            return await launch(**self._options)
        except Error as error:
            if not self._options["chromium_sandbox"] or "sandbox" not in str(error).lower():
                raise
        # As in most containers, which are a sandbox themselves.
        logger.warning("The system gives Chromium no sandbox: it is started without")
        return await launch(**self._options | {"chromium_sandbox": False})

    async def close(self) -> None:
        """End it; what is gone already is no error."""
        browser, playwright = self._browser, self._playwright
        self._browser = self._playwright = None
        # The driver may be dead, and then answers nothing, or with errors of several kinds.
        with contextlib.suppress(Exception):
            if browser is not None:
                await asyncio.wait_for(browser.close(), _CLOSE_TIMEOUT)
        with contextlib.suppress(Exception):
            if playwright is not None:
                await asyncio.wait_for(playwright.stop(), _CLOSE_TIMEOUT)


class BrowserProvider:
    """Starts the browser for scrapy-playwright; named by its setting PLAYWRIGHT_BROWSER_PROVIDER."""

    def __init__(self, config: Any) -> None:
        self._chromium = Chromium(config.launch_options)

    async def start(self) -> None:
        """Do nothing yet: an error would be one of the engine's, with a traceback."""

    async def launch_browser(self) -> Browser:
        """Start the browser. Raises BrowserError."""
        browser = await self._chromium.start()
        CONTEXT_OPTIONS["user_agent"] = self._chromium.user_agent
        return browser

    async def close(self) -> None:
        """End the browser."""
        await self._chromium.close()


def first_line(error: BaseException | None) -> str:
    """Return what Playwright says of an error, without the log of its calls."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    # Nor the name of the function.
    return one_line(re.sub(r"^\w+\.\w+: ", "", lines[0])) if lines else type(error).__name__


def _why(error: BaseException) -> str:
    """Return why a program did not start: the last that it said itself, where it said anything.

    What comes before are warnings, such as those that Debian's launcher has for everybody; what may follow is a list of
    what it was about when it crashed.
    """
    said = [text for text in re.findall(r"\[(?:err|out)\] (.+)", str(error)) if not _STACK.match(text)]
    if said:
        return one_line(said[-1].strip())
    return "it ended at once" if "has been closed" in str(error) else first_line(error)


@contextlib.contextmanager
def _less_environment() -> Iterator[None]:
    """Take out of the environment what a process begun meanwhile is not to have."""
    taken = {name: os.environ.pop(name) for name in _NOT_INHERITED if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)


@dataclass(eq=False)
class Exchange:
    """A request as the browser sent it, and what came of it.

    Attributes:
        id: the browser's name of it.
        method, url: as sent, but for the fragment.
        fragment: of the URL; it is never sent.
        kind: Chromium's: Fetch, XHR, WebSocket, Document, …
        page_url: the page that made it.
        frame: the browser's name of the frame that made it.
        began: when, in Unix seconds.
        status: of the answer; None where none came.
        headers: of the answer, as they came, also those that a page may not see.
        media_type: of the answer.
        error: Chromium's name of what went wrong.
        cors_error: its name of why the page may not see the answer.
        ended: set once nothing more will be known of it.
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
    # The answer is in, but its headers are told apart.
    is_last: bool = False
    wants_headers: bool = False


class Background:
    """Tasks that nobody waits for; that the browser or the page is gone is no error of theirs."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __bool__(self) -> bool:
        """Tell whether one is under way."""
        return bool(self._tasks)

    def begin(self, work: Awaitable[Any]) -> None:
        """Begin one."""
        task = asyncio.ensure_future(self._run(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self, seconds: float) -> None:
        """Wait for what is under way, for so long."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def _run(self, work: Awaitable[Any]) -> None:
        from playwright.async_api import Error  # noqa: PLC0415 - an extra

        with contextlib.suppress(Error):
            await work


async def refuse_unwanted(session: CDPSession, background: Background) -> None:
    """Have pictures, fonts, sound and video of a page not loaded. All else goes its way without asking this process."""

    def refuse(event: Any) -> None:
        answer = {"requestId": event["requestId"], "errorReason": "BlockedByClient"}
        background.begin(session.send("Fetch.failRequest", answer))

    session.on("Fetch.requestPaused", refuse)
    await session.send("Fetch.enable", {"patterns": list(_UNWANTED)})


class WorkerSession:
    """What Playwright's `CDPSession` is to a page, to a worker of it: for these Playwright has none."""

    def __init__(self, page: CDPSession, session_id: str) -> None:
        self._page, self._id = page, session_id
        self._handlers: dict[str, Callable[[Any], None]] = {}
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)

    def on(self, event: str, handler: Callable[[Any], None]) -> None:
        """Have a function called with each event of a name."""
        self._handlers[event] = handler

    async def send(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Return the answer to a command. Raises Playwright's Error where it is refused, or the worker ends."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message = json.dumps({"id": number, "method": method, "params": params or {}})
        try:
            await self._page.send("Target.sendMessageToTarget", {"sessionId": self._id, "message": message})
            return await answer
        finally:
            del self._answers[number]

    def receive(self, text: str) -> None:
        """Take what the worker says."""
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
        """Fail what still waits for an answer."""
        for answer in self._answers.values():
            self._fail(answer, "the worker has ended")

    def _fail(self, answer: asyncio.Future[Any], why: str) -> None:
        from playwright.async_api import Error  # noqa: PLC0415 - an extra

        if not answer.done():
            answer.set_exception(Error(why))


class Workers:
    """Finds the workers of a page, service workers among them, as soon as they are there.

    Playwright has them wait until it listens to them, and not until we do: what they do at once may go unheard.
    """

    def __init__(
        self, session: CDPSession, background: Background, begun: Callable[[WorkerSession], Awaitable[None]]
    ) -> None:
        """Listen.

        Args:
            session: to the page.
            background: where what is to be done goes on.
            begun: called with each worker.
        """
        self._session, self._background, self._begun = session, background, begun
        self._sessions: dict[str, WorkerSession] = {}
        for event, handler in {
            "attachedToTarget": self._attached,
            "receivedMessageFromTarget": self._received,
            "detachedFromTarget": self._detached,
        }.items():
            session.on(f"Target.{event}", handler)

    async def enable(self) -> None:
        """Have the browser tell of workers from now on. Raises Playwright's Error where it can not."""
        kinds = [{"type": kind} for kind in ("worker", "service_worker")]
        # Not flat, since Playwright passes on no sessions but its own.
        options = {"autoAttach": True, "waitForDebuggerOnStart": False, "flatten": False, "filter": kinds}
        await self._session.send("Target.setAutoAttach", options)
        # What they would answer in place of the API is asked of the API.
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
    """What a page or a worker asks for, learned from Chromium itself: Playwright does not tell all of it.

    Attributes:
        open: requests that were sent and have not ended, WebSockets too.
    """

    def __init__(
        self,
        session: CDPSession | WorkerSession,
        *,
        begun: Callable[[Exchange], None],
        ended: Callable[[Exchange], None] = lambda _: None,
        message: Callable[[Exchange, str, bool], None] = lambda *_: None,
    ) -> None:
        """Listen.

        Args:
            session: to the page or worker.
            begun: called with each request that is sent.
            ended: called once it has its answer, or will have none.
            message: called with each text of a WebSocket, and whether the page sent it.
        """
        self.session = session
        self.open: dict[str, Exchange] = {}
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
        """Have the browser tell of the network from now on."""
        await self.session.send("Network.enable")

    def _sent(self, event: Any) -> None:
        before = self.open.pop(event["requestId"], None)
        if before is not None:
            # A redirect goes by the same name.
            before.status = event.get("redirectResponse", {}).get("status", before.status)
            self._end(before)
        request = event["request"]
        self._begin(
            Exchange(
                event["requestId"],
                request["method"],
                request["url"],
                request.get("urlFragment", ""),
                event.get("type", ""),
                event.get("documentURL", ""),
                event.get("frameId", ""),
            )
        )

    def _headers_came(self, event: Any) -> None:
        exchange = self.open.get(event["requestId"])
        if exchange is None:
            # Another process of Chromium tells of it than of the request, and may be the quicker one.
            self._early[event["requestId"]] = event
            if len(self._early) > _EARLY:
                del self._early[next(iter(self._early))]
            return
        exchange.status, exchange.headers = event["statusCode"], event["headers"]
        exchange.wants_headers = False
        if exchange.is_last:
            self._end(exchange)

    def _answered(self, event: Any) -> None:
        exchange = self.open.get(event["requestId"])
        if exchange is None:
            return
        response = event["response"]
        exchange.media_type = response.get("mimeType", "")
        if not exchange.headers:
            exchange.status, exchange.headers = response["status"], response["headers"]
            exchange.wants_headers = event.get("hasExtraInfo", False)

    def _finished(self, event: Any) -> None:
        exchange = self.open.get(event["requestId"])
        if exchange is None:
            return
        exchange.is_last = True
        # After a redirect they may have been taken for those of the answer before, and do not come again.
        asyncio.get_running_loop().call_later(_LATE if exchange.wants_headers else 0, self._end, exchange)

    def _failed(self, event: Any) -> None:
        exchange = self.open.get(event["requestId"])
        if exchange is None:
            return
        exchange.error = event["errorText"]
        exchange.cors_error = event.get("corsErrorStatus", {}).get("corsError", "")
        self._end(exchange)

    def _socket_created(self, event: Any) -> None:
        self._begin(Exchange(event["requestId"], "GET", event["url"], kind="WebSocket"))

    def _socket_answered(self, event: Any) -> None:
        if exchange := self.open.get(event["requestId"]):
            exchange.status = event["response"]["status"]

    def _socket_sent(self, event: Any) -> None:
        if exchange := self.open.get(event["requestId"]):
            self._message(exchange, event["response"]["payloadData"], True)

    def _socket_received(self, event: Any) -> None:
        if exchange := self.open.get(event["requestId"]):
            self._message(exchange, event["response"]["payloadData"], False)

    def _socket_closed(self, event: Any) -> None:
        if exchange := self.open.get(event["requestId"]):
            self._end(exchange)

    def _begin(self, exchange: Exchange) -> None:
        self.open[exchange.id] = exchange
        self._begun(exchange)
        if early := self._early.pop(exchange.id, None):
            self._headers_came(early)

    def _end(self, exchange: Exchange) -> None:
        if exchange.ended.is_set():
            return
        if self.open.get(exchange.id) is exchange:
            del self.open[exchange.id]
        exchange.ended.set()
        self._ended(exchange)
