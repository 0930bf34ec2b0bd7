"""The demo of several machines, as `make demo-jobs` runs it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import descendants, is_alive
from tests.support import ROOT, environment_of, wait_until
from tools.postgresql import find_programs

pytestmark = pytest.mark.skipif(find_programs() is None, reason="there is no PostgreSQL")

DEMO = (sys.executable, "tools/demo_jobs.py", "--events", "300", "--shards", "6")
# Seconds, of which most are waited until the jobs of a dead worker are another's; more where others use the machine.
LONGEST = 300


def check_all_is_gone(said: str) -> None:
    """Check that the demo has left no folder and no database, by what it has said."""
    folders = re.findall(r" in (/\S+?)[:\n]", said)
    assert len(folders) == 2
    assert not any(Path(each).exists() for each in folders)
    port = re.search(r"PostgreSQL answers at 127\.0\.0\.1:(\d+)", said)
    assert port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port[1])))


def test_the_demo_kills_a_worker_and_ends_with_the_truth(output: Path) -> None:
    demo = subprocess.run(
        DEMO,
        cwd=ROOT,
        env=environment_of(output, None),
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=LONGEST,
    )
    assert (demo.returncode, demo.stderr) == (0, "")
    assert re.search(r"\d of 6 jobs done: worker 1 is killed \(SIGKILL\) with the [12] that it does\n", demo.stdout)
    assert re.search(r"\n[12] jobs? given back after \d+ s\n", demo.stdout)
    compared = re.search(r"compared with what the mock server has:\n((?: .*\n)+)", demo.stdout)
    assert compared
    counts = dict(re.findall(r"^ +(.*?) {2,}(\S+)$", compared[1], flags=re.MULTILINE))
    assert counts.pop("livestreams") == "300"
    assert counts == dict.fromkeys(
        ("missing", "not of the mock server", "wrong", "double", "versions too many", "gaps of the coverage"), "0"
    )
    page = output / "jobs-report.html"
    assert demo.stdout.endswith(f"The report, to be opened in a browser:\n{page}\n")
    assert "Made-up data of a mock server." in page.read_text(encoding="utf-8")
    check_all_is_gone(demo.stdout)


def test_after_control_c_nothing_of_the_demo_is_left(output: Path) -> None:
    demo = subprocess.Popen(
        DEMO,
        cwd=ROOT,
        env=environment_of(output, None),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    assert demo.stdout
    said = ""
    while not re.search("[1-4] go on", said):
        line = demo.stdout.readline()
        assert line, said
        said += line
    started = descendants(demo.pid)
    # As a terminal does it.
    os.killpg(demo.pid, signal.SIGINT)
    stdout, stderr = demo.communicate(timeout=LONGEST)
    assert (demo.returncode, stderr) == (128 + signal.SIGINT, "\nStopped; nothing is left.\n")
    # Two workers, what stops PostgreSQL, and crawls that have not ended meanwhile.
    assert len(started) >= 3
    wait_until(lambda: not any(map(is_alive, started)))
    check_all_is_gone(said + stdout)
