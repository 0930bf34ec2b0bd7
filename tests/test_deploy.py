"""The files of `deploy/`: units of systemd, the crontab, and what they start."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.jobs.worker import _LAST_PATIENCE
from tests.deployed import DEPLOY, command_of, cron_lines, unit_of
from tests.support import ROOT, TIMEOUT, Run, Serve, ids, read_lines
from tests.watchers import watching

UNITS = {path.stem: path for path in DEPLOY.glob("parti-*.service")}
SERVICES = {"parti-live", "parti-notifications", "parti-worker"}
SCHEDULED = {f"parti-{name}" for name in ("recent", "categories", "export", "health", "prune")}


def test_each_unit_is_a_service_or_has_a_timer_and_a_line_of_the_crontab() -> None:
    assert UNITS.keys() == SERVICES | SCHEDULED | {"parti-failed@"}
    for name, path in UNITS.items():
        command = unit_of(path)["Service"]["ExecStart"]
        assert path.with_suffix(".timer").exists() == (name in SCHEDULED)
        assert any(command in line for line in cron_lines()) == (name in SCHEDULED)
    assert len(cron_lines()) == len(SCHEDULED)


def test_whatever_fails_is_told() -> None:
    for path in (*UNITS.values(), DEPLOY / "scrapyd.service"):
        if path.stem != "parti-failed@":
            assert unit_of(path)["Unit"]["OnFailure"] == "parti-failed@%n.service"


def test_a_worker_that_is_stopped_has_time_to_stop_its_crawls_and_load_them() -> None:
    worker, crawl = (unit_of(UNITS[name])["Service"] for name in ("parti-worker", "parti-live"))
    # Else systemd would send each crawl a signal too.
    assert worker["KillMode"] == "mixed"
    assert int(worker["TimeoutStopSec"]) > int(crawl["TimeoutStopSec"]) + _LAST_PATIENCE


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    # The programs that they start are not installed here; the rest is checked unchanged.
    for name in ("scrapyd/bin/scrapyd", "scrapyd/deploy/schedule", "parti/bin/parti", "parti/bin/apprise"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DEPLOY / "schedule", tmp_path / name)
    for path in (*DEPLOY.glob("*.service"), *DEPLOY.glob("*.timer")):
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8").replace("/opt", str(tmp_path)))
    units = sorted(str(path) for path in tmp_path.glob("*.*"))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, encoding="utf-8", check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_unit_that_fails_is_told_without_an_address_in_the_command(tmp_path: Path) -> None:
    command = [
        word.replace("%i", "parti-export.service").replace("%H", "host")
        for word in command_of("parti-failed@", tmp_path)
    ]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    with watching() as watcher:
        for urls in ({}, {"PARTI_ALERT_URLS": f"json://{watcher.host}/secret"}):
            subprocess.run(command, env=env | urls, timeout=TIMEOUT, check=True)
        (message,) = watcher.messages
    assert (message["title"], message["message"]) == (
        "parti-export.service has failed on host",
        "See: journalctl -u parti-export.service",
    )


def test_a_ledger_that_is_restored_costs_no_record(crawl: Run, serve: Serve, output: Path, tmp_path: Path) -> None:
    document = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    backup = re.search(r"^(backup\(\) .*)$", document, flags=re.MULTILINE)
    assert backup
    function = backup[1].replace("/opt/parti/bin/python", sys.executable)
    copy, ledger = tmp_path / "copy.sqlite", tmp_path / "state" / "ledger.sqlite"
    # Incremental runs go by this machine's clock.
    server = serve(now=timestamp_to_iso(time.time()), speed=0, events=300, years=0.1)
    world = server.world
    for number in range(6):
        run = crawl("recent", server=server, run_id=f"run-{number}", incremental="true")
        assert run.code == 0, run.stderr
        if number == 2:
            subprocess.run(["sh", "-ec", f'{function}; backup "$@"', "sh", ledger, copy], check=True)
        if number == 4:
            for suffix in ("", "-wal", "-shm"):
                ledger.with_name(ledger.name + suffix).unlink(missing_ok=True)
            shutil.copy(copy, ledger)
        world.insert_now(int(world.now()) - 60)
    assert crawl("recent", server=server, run_id="run-6", incremental="true").code == 0
    written = [event for path in output.glob("recent/*/livestreams.jsonl") for event in ids(read_lines(path))]
    assert set(written) == {each["event_id"] for each in world.recent_at()}
