"""What `deploy/` has systemd do on a server, read from its files and run elsewhere."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support import ROOT, TIMEOUT

DEPLOY = ROOT / "deploy"
# Where the files of `deploy/` expect programs and data.
PROGRAMS, HOME = "/opt/parti/bin", "/var/lib/parti_scraper"


def unit_of(path: Path) -> configparser.ConfigParser:
    """Return the content of a unit of systemd."""
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(path)
    return unit


def command_of(name: str, home: Path) -> list[str]:
    """Return what a service of `deploy/` starts, with the programs of this environment and data in a folder."""
    line = unit_of(DEPLOY / f"{name}.service")["Service"]["ExecStart"]
    return shlex.split(line.replace(PROGRAMS, str(Path(sys.executable).parent)).replace(HOME, str(home)))


def cron_lines() -> list[str]:
    """Return what the lines of the crontab start."""
    text = (DEPLOY / "crontab").read_text(encoding="utf-8")
    return re.findall(r"^\S+ \S+ \S+ \S+ \S+ +scrapyd +(.*)$", text, flags=re.MULTILINE)


def run_service(name: str, home: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run what a service of `deploy/` starts, to its end."""
    return subprocess.run(
        command_of(name, home), env=env, capture_output=True, encoding="utf-8", timeout=TIMEOUT, check=False
    )
