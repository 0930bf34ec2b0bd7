"""Crawls by an earlier version of the project, from a checkout of it, in the place and time of a simulation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.forked import ROOT

# What the earlier version's tests lack is taken from these.
_SCRIPT = """
import json, sys
from pathlib import Path
import tests
about = json.loads(sys.argv[1])
tests.__path__.append(about["tests"])
from parti_scraper.mockserver.options import Options
from tests.gated import GatedStage
stage = GatedStage(Path(about["clock"]), Path(about["gate"]), Options(**about["options"]))
sys.argv = ["scrapy", *about["typed"]]
stage.enter()
from scrapy.cmdline import execute
execute()
"""


def crawl(
    older: Path, typed: Sequence[str], clock: Path, gate: Path, options: Mapping[str, Any], env: Mapping[str, str]
) -> tuple[int, str]:
    """Run `scrapy` with these words in an earlier version.

    Args:
        older: the checkout.
        typed: the words.
        clock: see `GatedStage`.
        gate: see there; it is open.
        options: of the server.
        env: the environment.

    Returns:
        The exit code, and what was printed on standard error.
    """
    named = {"tests": ROOT / "tests", "clock": clock, "gate": gate}
    about = {name: str(path) for name, path in named.items()} | {"options": dict(options), "typed": list(typed)}
    known = {name: value for name, value in env.items() if name not in {"PARTI_ALERT_URLS", "PARTI_HEALTH_MAX_AGE"}}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, json.dumps(about)],
        cwd=older,
        env={**known, "PYTHONPATH": os.fspath(older)},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    return done.returncode, done.stderr
