"""The main job: categories, recent and live livestreams, and ten seconds of notifications.

`make crawl` runs it against the real API, for the last seven days; `make demo` against the bundled mock server, for all
that it has. It ends with a report.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# The path of a script has only its own folder, and `.venv` may have the project of another checkout.
sys.path.insert(0, str(Path(__file__).parent.parent))

from parti_scraper.mockserver import MockServer, Options
from parti_scraper.run.datapackage import FILE_NAME
from parti_scraper.run.outcome import ExitCode
from parti_scraper.wording import number_of

# Nobody knows how large the history of the real API is.
WEEK = ("-a", "since=7d")
HISTORY = ".venv/bin/parti crawl recent"
_SCRAPY = (sys.executable, "-m", "scrapy")


def main() -> int:
    """Run the spiders one after the other. Returns their highest exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mock", action="store_true", help="crawl the bundled mock server instead of the real API")
    options = parser.parse_args()
    started = time.monotonic()
    run_id = f"{'demo' if options.mock else 'crawl'}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    # Each with its arguments, without the name of the run.
    spiders: dict[str, tuple[str, ...]] = {
        "categories": (),
        "recent": () if options.mock else WEEK,
        "live": (),
        "notifications": ("-a", "duration=10s"),
    }
    environment = dict(os.environ)
    # A terminal shows a line of progress; without one, a real crawl logs its progress.
    level = "WARNING" if options.mock or sys.stderr.isatty() else "INFO"
    codes = {}
    received: list[int] = []
    with ExitStack() as stack:
        if options.mock:
            server = stack.enter_context(MockServer(Options()))
            environment |= {
                "PARTI_API_BASE_URLS": server.base_url,
                "PARTI_WS_URL": server.ws_url,
                "no_proxy": "127.0.0.1",
            }
            print(f"The mock server answers at {server.base_url}", flush=True)
        else:
            print("Ended livestreams: those of the last seven days. The end names the command for all.", flush=True)
        for spider, arguments in spiders.items():
            print(f"\nscrapy crawl {' '.join((spider, '-a', f'run_id={run_id}', *arguments))}", flush=True)
            command = [*_SCRAPY, "crawl", spider, "-a", f"run_id={run_id}", *arguments, "--loglevel", level]
            codes[spider] = _run(command, environment, received)
            if received:
                break
    output = Path(environment.get("PARTI_OUTPUT_DIR") or "output").expanduser()
    print(f"\nDone in {time.monotonic() - started:.0f} s. What was written:")
    for spider, code in codes.items():
        _report(output / spider / run_id, code)
    if not received:
        print("\nThe report, to be opened in a browser:", flush=True)
        page = ("report", *(("--source", "mock") if options.mock else ()), "-o", str(output / "report.html"))
        codes["report"] = _run([*_SCRAPY, *page], environment, received)
    if not received and not options.mock:
        print(f"\nThe whole history since August 2021, perhaps for hours; Ctrl-C stops it resumably:\n{HISTORY}")
    return max(codes.values())


def _run(command: list[str], environment: dict[str, str], received: list[int]) -> int:
    """Run a crawl and return its exit code; signals are passed on to it and added to `received`.

    It has its own process group, so that Ctrl-C reaches it only once: a second signal would stop it at once.
    """
    crawl = subprocess.Popen(command, env=environment, process_group=0)

    def pass_on(number: int, _frame: Any) -> None:
        received.append(number)
        crawl.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    code = crawl.wait()
    # Less than 0: killed by a signal that it does not handle.
    return ExitCode.STOPPED if code < 0 else code


def _report(folder: Path, code: int) -> None:
    package = folder / FILE_NAME
    if not package.exists():
        print(f"  {folder}: not finished, exit code {code}")
        return
    described = json.loads(package.read_text(encoding="utf-8"))
    for resource in described["resources"]:
        print(f"  {folder / resource['path']}  {number_of(resource['rows'], 'rows')}")
    print(f"  {package}  " + ("complete" if described["complete"] else f"NOT COMPLETE: {described['reason']}"))


if __name__ == "__main__":
    sys.exit(main())
