"""A small HTTP proxy on this machine: it passes requests on, and makes tunnels for TLS and WebSockets."""

from __future__ import annotations

import socket
import socketserver
import threading
from typing import Self
from urllib.parse import urlsplit


class ForwardingProxy:
    """A proxy, as a context manager.

    Attributes:
        url: its address.
        asked: what it was asked for: `host:port` of a tunnel, or a whole address.
        logins: the values of `Proxy-Authorization` that came with these; empty where there was none.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.logins: list[str] = []
        proxy = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                line = self.rfile.readline().decode("latin-1")
                if line:
                    method, target, _ = line.split(" ")
                    proxy.pass_on(self.connection, method, target, self._headers())

            def _headers(self) -> list[str]:
                return [line.decode("latin-1") for line in iter(self.rfile.readline, b"\r\n")]

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def pass_on(self, client: socket.socket, method: str, target: str, headers: list[str]) -> None:
        """Answer one request; later ones on the connection are passed on too."""
        self.asked.append(target)
        logins = [line.partition(":")[2].strip() for line in headers if line.lower().startswith("proxy-authorization:")]
        self.logins.append(logins[0] if logins else "")
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        try:
            server = socket.create_connection((parts.hostname, parts.port or 80))
        except OSError:
            client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        with server:
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                own = ("proxy-", "connection:")
                kept = "".join(line for line in headers if not line.lower().startswith(own))
                path = f"{parts.path}?{parts.query}" if parts.query else parts.path
                server.sendall(f"{method} {path} HTTP/1.1\r\n{kept}Connection: close\r\n\r\n".encode("latin-1"))
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Copy bytes until the end."""
    try:
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass
