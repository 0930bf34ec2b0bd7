"""Servers other than the mock server: scripted ones, some with TLS, and ones that do not exist."""

from __future__ import annotations

import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from parti_scraper.mockserver import MockServer
from parti_scraper.mockserver.app import ReceivedRequest
from tests.support import STILL

# A small world in several pages, for crawls with many failures.
SMALL: dict[str, Any] = STILL | {"seed": 4, "events": 150, "live": 10, "page_cap": 15}
# A dead host is given up after a second instead of a minute.
IMPATIENT = {"PARTI_RETRY_PATIENCE": "1"}
# For hosts that are not on this machine, or do not seem to be.
UNTHROTTLED = ("-s", "AUTOTHROTTLE_ENABLED=False", "-s", "DOWNLOAD_DELAY=0.001")

Answer = tuple[int, dict[str, str], bytes]


class ScriptedServer:
    """A server whose answers come from a function, if the mock server has no switch for them.

    Attributes:
        base_url: scheme, host and port.
        requests: path with query and headers of every request, in the order of arrival.
    """

    def __init__(self, answer: Callable[[str], Answer], tls: ssl.SSLContext | None = None) -> None:
        """Listen.

        Args:
            answer: gives status, headers and body for a path with its query; an empty header is not sent.
            tls: what it speaks TLS with; None: it does not.
        """
        self.requests: list[tuple[str, dict[str, str]]] = []
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:  # noqa: N805
                with lock:
                    self.requests.append((handler.path, dict(handler.headers)))
                status, headers, body = answer(handler.path)
                # The client may be gone.
                with suppress(ConnectionError):
                    handler.send_response(status)
                    for name, value in ({"Content-Length": str(len(body))} | headers).items():
                        if value:
                            handler.send_header(name, value)
                    handler.end_headers()
                    handler.wfile.write(body)

            do_CONNECT = do_GET  # noqa: N815

            def log_message(handler, *args: Any) -> None:  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.base_url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def paths(self) -> list[str]:
        """The paths with their queries."""
        return [path for path, _ in self.requests]

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


Script = Callable[[Callable[[str], Answer]], ScriptedServer]


def json_answer(value: Any, status: int = 200) -> Answer:
    """Return an answer of the API."""
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


GAMING = json_answer([{"category_id": 7, "name": "Gaming", "display_name": "Gaming"}])
NOT_FOUND = json_answer({"detail": "Not Found"}, 404)


# Bound and not listening: nobody else gets their ports, and whoever connects is refused.
_closed: list[socket.socket] = []


def closed_port() -> str:
    """Return the base URL of a server that does not exist."""
    _closed.append(socket.socket())
    # So that a server of the test can still listen there.
    _closed[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _closed[-1].bind(("127.0.0.1", 0))
    return f"http://127.0.0.1:{_closed[-1].getsockname()[1]}"


def elsewhere(base_url: str) -> str:
    """Return an address of a server on this machine that does not say where it is."""
    return base_url.replace("127.0.0.1", "0.0.0.0")  # noqa: S104 - nobody listens there


def to(*base_urls: str) -> dict[str, str]:
    """Return the environment that points a crawl to these hosts."""
    return {"PARTI_API_BASE_URLS": ",".join(base_urls)}


def api_requests(server: MockServer) -> list[ReceivedRequest]:
    """Return the requests for routes of the API."""
    return [seen for seen in server.requests if seen.path.startswith("/parti_v2/")]


def self_signed(folder: Path) -> ssl.SSLContext:
    """Return the TLS context of a server on 127.0.0.1 with an untrusted certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
