"""Injected faults: which request is hit, and how it is answered."""

from __future__ import annotations

import time
from collections import Counter
from email.utils import formatdate
from typing import TYPE_CHECKING

from aiohttp import web

from parti_scraper.mockserver.history import fraction

if TYPE_CHECKING:
    from parti_scraper.mockserver.options import Options

_SALT = 201
_CHALLENGE = """<!DOCTYPE html>
<html lang="en-US"><head><title>Just a moment...</title><meta name="robots" content="noindex,nofollow"></head>
<body><div class="main-wrapper"><h1>parti.com</h1><h2>Verifying you are human. This may take a few seconds.</h2>
<noscript>Enable JavaScript and cookies to continue</noscript></div></body></html>
"""


def not_found() -> web.Response:
    """Return the answer of a server that does not have the route."""
    return web.json_response({"detail": "Not Found"}, status=404)


class FaultPlan:
    """Decides by seed and request number which requests are hit; a fault goes through its variants in turn."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._rates = options.fault_rates()
        self._any = any(self._rates.values())
        self._requests = 0
        self._down_until: float | None = None
        # Faults in a row by URL; a URL that was not hit last is not in it.
        self._in_a_row: Counter[str] = Counter()
        self._turns: Counter[str] = Counter()

    def next(self, url: str) -> str | None:
        """Return the fault of the next request, or None."""
        self._requests += 1
        if self._requests == self._options.once_404:
            return "404"
        if self._is_down():
            return self._options.down_as
        fault = self._drawn() if self._any else None
        limit = self._options.fault_burst
        if fault is None or (limit and self._in_a_row[url] >= limit):
            self._in_a_row.pop(url, None)
            return None
        self._in_a_row[url] += 1
        return fault

    def _is_down(self) -> bool:
        """Return whether the server is down, which begins with a request."""
        if self._options.down_for and self._down_until is None and self._requests > self._options.down_after:
            self._down_until = time.monotonic() + self._options.down_for
        return self._down_until is not None and time.monotonic() < self._down_until

    def turn(self, fault: str) -> int:
        """Count a fault, and return how often it was counted before: this chooses its variant."""
        self._turns[fault] += 1
        return self._turns[fault] - 1

    def answer(self, fault: str) -> web.Response:
        """Return the answer of a fault that replaces the whole answer."""
        turn = self.turn(fault)
        if fault == "404":
            return not_found()
        if fault == "429":
            return self._too_many(turn)
        if fault == "challenge":
            headers = {"Server": "cloudflare"}
            return web.Response(status=(200, 403)[turn % 2], text=_CHALLENGE, content_type="text/html", headers=headers)
        status = (500, 502, 503)[turn % 3]
        return web.Response(status=status, text=f"{status} upstream error\n")

    def _too_many(self, turn: int) -> web.Response:
        form = self._options.retry_after
        if form == "mixed":
            form = ("none", "seconds", "date")[turn % 3]
        headers = {}
        if form == "seconds":
            headers["Retry-After"] = "1"
        elif form == "date":
            # A date has whole seconds: this one is at least a second away.
            headers["Retry-After"] = formatdate(int(time.time()) + 2, usegmt=True)
        return web.json_response({"detail": "Too many requests"}, status=429, headers=headers)

    def _drawn(self) -> str | None:
        drawn = fraction(self._options.seed, self._requests, _SALT)
        for fault, rate in self._rates.items():
            if drawn < rate:
                return fault
            drawn -= rate
        return None
