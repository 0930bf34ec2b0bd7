"""How long it takes to list the runs of an output folder: the first time, and again with what was noted then.

Makes a tree of finished runs in a temporary folder, all with the data package of the same small run, and lists it in
one thread. The times of the files are set back, since what has just changed is not noted.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

from parti_scraper import __version__
from parti_scraper.items import Livestream
from parti_scraper.run import datapackage
from parti_scraper.run.catalog import Catalog


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
        print(f"  the cache holds        {cache.stat().st_size / 2**20:6.1f} MiB")


def _make(output: Path, runs: int) -> None:
    text = json.dumps(_package("RUN-ID"), indent=2)
    for number in range(runs):
        run_id = f"20261127T{number:06}Z-{number:06x}"
        folder = output / "recent" / run_id
        folder.mkdir(parents=True)
        path = folder / datapackage.FILE_NAME
        path.write_text(text.replace("RUN-ID", run_id), encoding="utf-8")
        os.utime(path, (number, number))


def _package(run_id: str) -> dict[str, Any]:
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
        "created": "2026-11-27T00:00:10Z",
        "started_at": "2026-11-27T00:00:00Z",
        "ended_at": "2026-11-27T00:00:10Z",
        "duration_seconds": 9.876,
        "spider": "recent",
        "run_id": run_id,
        "arguments": {"incremental": True},
        "window": {"since": "2026-11-26T22:00:00Z", "until": "2026-11-27T00:00:00Z"},
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
