"""How long it takes to list the runs of an output folder: the first time, and again with what was noted then.

Makes a tree of finished runs in a temporary folder, one every five minutes up to now, all with the data package of the
same small run, and lists it in one thread. The times of the files are set back, since what has just changed is not
noted. The commands are whole processes, the start of Scrapy included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

from parti_scraper import __version__
from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.items import Livestream
from parti_scraper.run import datapackage
from parti_scraper.run.catalog import Catalog

# Seconds from the start of one run to that of the next.
_BETWEEN = 300
# What is replaced in the data package of each; moments by the seconds from the start of the run.
_RUN_ID, _SINCE, _BEGIN, _END = "RUN-ID", "SINCE", "BEGIN", "END"
_MOMENTS = {_SINCE: -7_200, _BEGIN: 0, _END: 10}


def main() -> None:
    """Make the tree, list it some times and print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000, help="how many there are (default 100000)")
    parser.add_argument("--rounds", type=int, default=3, help="how often they are listed again (default 3)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        output, cache = Path(folder) / "output", Path(folder) / "catalog.sqlite"
        _make(output, options.runs)
        print(f"{options.runs:,} runs")
        print(f"  without a cache        {_seconds(Catalog([output]), options.runs):6.2f} s")
        print(f"  the first time         {_seconds(Catalog([output], cache), options.runs):6.2f} s")
        for _ in range(options.rounds):
            print(f"  again                  {_seconds(Catalog([output], cache), options.runs):6.2f} s", flush=True)
        for command in (["runs"], ["health"], ["coverage"]):
            for _ in range(options.rounds):
                took, cpu = _run(command, Path(folder))
                print(f"  scrapy {command[0]:<15} {took:6.2f} s, {cpu:.2f} s of CPU", flush=True)
        print(f"  the cache holds        {cache.stat().st_size / 2**20:6.1f} MiB")


def _make(output: Path, runs: int) -> None:
    now = int(time.time())
    # Describing a table takes longer than writing a file.
    package = json.dumps(_package(), indent=2)
    for number in range(runs):
        began = now - _BETWEEN * (runs - number)
        run_id = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(began))}-{number:06x}"
        folder = output / "recent" / run_id
        folder.mkdir(parents=True)
        path = folder / datapackage.FILE_NAME
        text = package.replace(_RUN_ID, run_id)
        for mark, seconds in _MOMENTS.items():
            text = text.replace(mark, timestamp_to_iso(began + seconds))
        path.write_text(text, encoding="utf-8")
        os.utime(path, (number, number))


def _run(command: list[str], folder: Path) -> tuple[float, float]:
    """Run a command on the tree; return how long it took, and its CPU seconds."""
    env = os.environ | {"PARTI_OUTPUT_DIR": str(folder / "output"), "PARTI_STATE_DIR": str(folder)}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    typed = [sys.executable, "-m", "scrapy", *command]
    run = subprocess.run(typed, env=env, stdout=subprocess.DEVNULL, check=False)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if run.returncode not in {0, 4}:
        raise SystemExit(f"scrapy {command[0]} ended with {run.returncode}")
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _package() -> dict[str, Any]:
    """Return the data package of a run, with marks in place of its name and moments."""
    file = {
        "bytes": 123_456,
        "rows": 250,
        "hash": "sha256:" + "01" * 32,
        "schema": datapackage.table_schema(Livestream),
    }
    names = ("pages", "served", "written", "duplicate", "quarantined", "filtered", "dropped", "new", "changed")
    return {
        "format_version": datapackage.FORMAT_VERSION,
        "project_version": __version__,
        "run_uuid": "9b2f5a1e-7c1e-4c0e-9a52-6d7c2e3f4a5b",
        "source": "parti.com",
        "created": _END,
        "started_at": _BEGIN,
        "ended_at": _END,
        "duration_seconds": 9.876,
        "spider": "recent",
        "run_id": _RUN_ID,
        "arguments": {"incremental": True},
        "window": {"since": _SINCE, "until": _BEGIN},
        "host": "https://api-backend.parti.com",
        "counts": dict.fromkeys(names, 123),
        "unknown_fields": {"is_new": 250},
        "unreadable_fields": {},
        "complete": True,
        "degraded": [],
        "truncated": False,
        "reason": None,
        "exit_code": 0,
        "failovers": [],
        "retries": 1,
        "rate_limited": 0,
        "resources": [file | {"path": f"livestreams.{form}", "format": form} for form in ("jsonl", "csv")],
    }


def _seconds(catalog: Catalog, runs: int) -> float:
    began = time.perf_counter()
    entries = deque(enumerate(catalog, 1), maxlen=1)
    seconds = time.perf_counter() - began
    if entries.pop()[0] != runs:
        raise SystemExit("not every run is listed")
    return seconds


if __name__ == "__main__":
    main()
