"""A server that notes what it is told, as those to which alerts and pings are sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support import wait_until


class Watcher:
    """Listens on this machine.

    Attributes:
        told: method, path with query, and body of each request.
        headers: of each request.
        status: what it answers; 0: nothing, until it is closed.
    """

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self._closed = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:  # noqa: N805
                body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0)).decode()
                self.headers.append(dict(handler.headers))
                self.told.append((handler.command, handler.path, body))
                if not self.status:
                    self._closed.wait()
                    return
                handler.send_response(self.status)
                handler.send_header("Content-Length", "0")
                handler.end_headers()

            do_POST = do_GET  # noqa: N815

            def log_message(handler, *args: Any) -> None:  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def messages(self) -> list[dict[str, str]]:
        """What Apprise's `json://` has sent."""
        return [json.loads(body) for _, _, body in self.told]

    def wait_for(self, number: int) -> None:
        """Wait until so many requests have come."""
        wait_until(lambda: len(self.told) >= number)

    def close(self) -> None:
        """Stop listening."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def watching() -> Iterator[Watcher]:
    """Listen within the context."""
    watcher = Watcher()
    try:
        yield watcher
    finally:
        watcher.close()
