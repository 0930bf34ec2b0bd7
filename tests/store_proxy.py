"""A proxy in front of a store, which can answer in its place, and act between a request and its answer."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

_CONDITIONS = {"if-match", "if-none-match"}
# They are of one connection, or follow from the body.
_OF_THE_WAY = {"connection", "content-length", "transfer-encoding", "host"}


@dataclass(frozen=True)
class Asked:
    """A request: method, path without the bucket, and number, from 1."""

    method: str
    path: str
    number: int

    @property
    def writes(self) -> bool:
        """Whether it changes something."""
        return self.method != "GET"


@dataclass(frozen=True)
class Answer:
    """An answer: status, body, headers. The status 0 closes the connection."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] | None = None


class StoreProxy:
    """A store whose answers can be changed, as a context manager.

    Attributes:
        url: its address.
        asked: what was asked.
        before: is called before a request is passed on; if it returns an answer, the request is not.
        after: is called after that; if it returns an answer, it is sent in place of the store's.
        keeps_conditions: whether the store learns of the conditions of writing.
    """

    def __init__(self, store: str) -> None:
        """Pass requests on to a store; `store` is its address."""
        self.asked: list[Asked] = []
        self.before: Callable[[Asked], Answer | None] = lambda _: None
        self.after: Callable[[Asked], Answer | None] = lambda _: None
        self.keeps_conditions = True
        self._store = urlsplit(store).netloc
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_request(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                answer = proxy.answer(self.command, self.path, dict(self.headers), body)
                if not answer.status:
                    self.close_connection = True
                    return
                self.send_response_only(answer.status)
                for name, value in (answer.headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            do_GET = do_PUT = do_POST = do_DELETE = handle_request  # noqa: N815 - their names are given

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Return the answer to a request."""
        asked = Asked(method, unquote(path).lstrip("/").partition("/")[2], len(self.asked) + 1)
        self.asked.append(asked)
        return self.before(asked) or self._passed_on(asked, method, path, headers, body)

    def _passed_on(self, asked: Asked, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        dropped = _OF_THE_WAY if self.keeps_conditions else _OF_THE_WAY | _CONDITIONS
        connection = http.client.HTTPConnection(self._store)
        connection.request(
            method, path, body, {name: each for name, each in headers.items() if name.lower() not in dropped}
        )
        response = connection.getresponse()
        kept = {name: each for name, each in response.getheaders() if name.lower() not in _OF_THE_WAY}
        answer = Answer(response.status, response.read(), kept)
        connection.close()
        return self.after(asked) or answer
