"""The files of `deploy/`: units of systemd, the crontab, and what they start."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deployed import DEPLOY, cron_lines, unit_of

UNITS = {path.stem: path for path in DEPLOY.glob("parti-*.service")}
SERVICES = {"parti-live", "parti-notifications"}
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
