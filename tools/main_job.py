"""The main job: categories, recent and live livestreams, from the real API or from the bundled mock server.

Called by `make crawl` and `make demo`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from parti_scraper.datapackage import FILE_NAME
from parti_scraper.mockserver import MockServer, Options

SPIDERS = ("categories", "recent", "live")
_SCRAPY = (sys.executable, "-m", "scrapy")


def main() -> int:
    """Run the spiders one after the other; the worst exit code is the job's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mock", action="store_true", help="crawl the bundled mock server instead of the real API")
    options = parser.parse_args()
    started = time.monotonic()
    run_id = f"{'demo' if options.mock else 'crawl'}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    environment = dict(os.environ)
    codes = {}
    with ExitStack() as stack:
        if options.mock:
            server = stack.enter_context(MockServer(Options()))
            environment["PARTI_API_BASE_URLS"] = server.base_url
            print(f"The mock server answers at {server.base_url}", flush=True)
        for spider in SPIDERS:
            print(f"\nscrapy crawl {spider} -a run_id={run_id}", flush=True)
            command = [*_SCRAPY, "crawl", spider, "-a", f"run_id={run_id}", "--loglevel", "WARNING"]
            codes[spider] = subprocess.run(command, env=environment, check=False).returncode
    output = Path(environment.get("PARTI_OUTPUT_DIR", "output"))
    print(f"\nDone in {time.monotonic() - started:.0f} s. What was written:")
    for spider, code in codes.items():
        _report(output / spider / run_id, code)
    return max(codes.values())


def _report(folder: Path, code: int) -> None:
    package = folder / FILE_NAME
    if not package.exists():
        print(f"  {folder}: not finished, exit code {code}")
        return
    described = json.loads(package.read_text(encoding="utf-8"))
    for resource in described["resources"]:
        print(f"  {folder / resource['path']}  {resource['rows']:,} rows")
    print(f"  {package}  " + ("complete" if described["complete"] else f"NOT COMPLETE: {described['reason']}"))


if __name__ == "__main__":
    sys.exit(main())
