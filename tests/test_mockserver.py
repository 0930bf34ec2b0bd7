"""The mock server as its users meet it: the specification's own commands, and the command line."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from parti_scraper.mockserver import MockServer

from .conftest import ROOT

COMMANDS = sorted((Path(__file__).parent / "specification").glob("*.sh"))
MOCKSERVER = [sys.executable, "-m", "scrapy", "mockserver"]


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda path: path.stem)
def test_the_curl_commands_of_the_specification_are_answered(command: Path, serve: Callable[..., MockServer]) -> None:
    server = serve(fields="demo", speed=0, now="2026-11-01T00:00:00Z")
    text = command.read_text(encoding="utf-8").replace("https://api-backend.parti.com", server.base_url)
    assert server.base_url in text
    done = subprocess.run(["bash", "-c", text], capture_output=True, check=True, timeout=60)
    records = json.loads(done.stdout)
    demo = json.loads(command.with_suffix(".json").read_text(encoding="utf-8"))
    assert records
    assert set(records[0]) == set(demo[0])


def test_a_port_in_use_is_one_line_and_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = subprocess.run(
            [*MOCKSERVER, "--port", str(taken.getsockname()[1])], cwd=ROOT, capture_output=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("typed", [["--page-cap", "0"], ["--offset", "sometimes"], ["leftover"]], ids=" ".join)
def test_a_wrong_switch_is_one_line_and_2(typed: list[str]) -> None:
    done = subprocess.run([*MOCKSERVER, *typed], cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_answers_and_ends_with_0_on_a_signal(number: signal.Signals) -> None:
    with subprocess.Popen(
        [*MOCKSERVER, "--port", "0", "--events", "10"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert "http://127.0.0.1:" in process.stdout.readline()
        process.send_signal(number)
        assert process.wait(60) == 0
