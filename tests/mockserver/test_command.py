"""`scrapy mockserver` as a process."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from parti_scraper.mockserver import Options, World
from parti_scraper.mockserver.options import switches
from tests.support import NOW, RECENT, ROOT, TIMEOUT, Scrapy, Serve


@contextmanager
def running(*typed: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command until it is ready; yields its process and its URL."""
    command = [sys.executable, "-m", "scrapy", "mockserver", *typed]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        try:
            assert process.stdout
            ready, use = process.stdout.readline(), process.stdout.readline()
            match = re.match(r"Parti API mock server: (http://127\.0\.0\.1:\d+)  \(seed ", ready)
            assert match
            websocket = match[1].replace("http", "ws") + "/"
            settings = f"PARTI_API_BASE_URLS={match[1]} PARTI_WS_URL={websocket} PARTI_SITE_URL={match[1]}"
            assert use == f"Use it: {settings} scrapy crawl recent\n"
            yield process, match[1]
        finally:
            process.kill()


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_address_and_serves_until_a_signal(signal_number: signal.Signals) -> None:
    typed = ("--port", "0", "--seed", "5", "--now", NOW, "--speed", "0", "--events", "50", "--nan=none")
    with running(*typed) as (process, url):
        with urllib.request.urlopen(f"{url}{RECENT}?limit=100", timeout=30) as response:
            served = json.load(response)
        # Another address of the same machine; a server on all of them would answer here.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", int(url.rpartition(":")[2])), timeout=30)
        process.send_signal(signal_number)
        stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, stdout, stderr) == (0, "", "")
    assert served == World(Options(seed=5, now=NOW, speed=0, events=50)).recent_at()


def test_a_port_in_use_is_one_line_and_exit_code_1(serve: Serve, scrapy: Scrapy) -> None:
    port = serve(events=0).base_url.rpartition(":")[2]
    run = scrapy("mockserver", "--port", port, "--events", "0")
    assert (run.returncode, run.stdout) == (1, "")
    advice = "stop what uses it, or choose another with --port (0: any free one)"
    assert run.stderr == f"scrapy mockserver: port {port} is in use: {advice}\n"


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (
            ("--bounds", "opne"),
            "option `bounds`: not one of the choices: 'opne' (accepted: closed, open, half-open); did you mean `open`?",
        ),
        (("--bounds", "shut"), "option `bounds`: not one of the choices: 'shut' (accepted: closed, open, half-open)"),
        (("--port", "http"), "option `port`: not a port: 'http' (accepted: 0 to 65535)"),
        (("--nan", "none", "--speeed", "3"), "unknown switch or argument: --speeed 3; did you mean `--speed`?"),
        (("recent",), "unknown switch or argument: recent"),
        (("--rate-42", "0.1"), "unknown switch or argument: --rate-42 0.1; did you mean `--rate-429`?"),
        (("--seed",), "argument --seed: expected one argument"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_2(scrapy: Scrapy, typed: tuple[str, ...], line: str) -> None:
    run = scrapy("mockserver", *typed)
    assert (run.returncode, run.stdout, run.stderr) == (2, "", f"scrapy mockserver: {line}\n")


def test_help_lists_every_switch_with_its_default(scrapy: Scrapy) -> None:
    # Narrow, so that all lines are wrapped.
    run = scrapy("mockserver", "--help", env={"COLUMNS": "60"})
    assert (run.returncode, run.stderr) == (0, "")
    text = " ".join(run.stdout.split())
    assert "--port N port on 127.0.0.1; 0: any free one (default: 8765)" in text
    for switch in switches():
        default = "" if switch.default == "" or switch.default is False else f" (default: {switch.default})"
        shown = " ".join([f"--{switch.name}", *switch.kind.metavar.split(), switch.explanation])
        assert shown + default in text


def test_aiohttp_is_not_imported_by_every_command_of_scrapy() -> None:
    code = "import sys, parti_scraper.commands.mockserver; print('aiohttp' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert run.stdout == "False\n"
