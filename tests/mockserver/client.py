"""A plain HTTP client that adds nothing to a request and corrects nothing in an answer."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parti_scraper.mockserver import MockServer


@dataclass(frozen=True)
class Answer:
    """An unchanged answer; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed as JSON."""
        return json.loads(self.body)


def get(server: MockServer, path: str, *, method: str = "GET", **headers: str) -> Answer:
    """Return the answer to one request; hyphens in names of headers are written as underscores."""
    connection = http.client.HTTPConnection(server.base_url.removeprefix("http://"), timeout=30)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())
    finally:
        connection.close()
