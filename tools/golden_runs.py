"""Make `tests/golden/runs-<format>`: small runs of every spider, as this checkout leaves them, and their ledger.

`PYTHONPATH=. python tools/golden_runs.py FOLDER` makes FOLDER, which must not be there. In what it leaves,
`/golden-runs` stands in place of the folder, so that whoever reads the ledger puts the place there that the runs were
copied to. It needs Chromium.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sqlite3
import tempfile
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parti_scraper.mockserver import MockServer, Options
from tests import forked
from tests.listening import STARTING
from tests.support import QUIET, environment_of, read_lines, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess

PLACEHOLDER = "/golden-runs"
NOW = "2026-11-01T00:00:00Z"
SMALL: dict[str, Any] = {"seed": 8, "now": NOW, "speed": 0, "events": 8, "years": 0.05, "live": 5, "scheduled": 2}
LISTENED: dict[str, Any] = {**STARTING, "seed": 8, "live": 3, "start_every": 60}
# The server's switches, what is typed, and the exit code. Descriptions of files are large, so that few runs have any.
CASES: tuple[tuple[dict[str, Any], str, int], ...] = (
    ({}, "categories -a run_id=all", 0),
    ({"malformed": 0.4}, "recent -a run_id=whole -a incremental=true -s PARTI_MAX_REJECTED=1", 0),
    ({"down_as": "500", "down_after": 4, "down_for": 600, "page_cap": 2}, "recent -a run_id=incomplete", 4),
    ({}, "recent -a run_id=elsewhere -a categories=NaN,Gaming -a max_records=2 -O {folder}/elsewhere.jsonl", 0),
    ({"live": 2}, "live -a run_id=many -a interval=0.5 -a duration=1", 0),
    ({"live": 22, "absent": "viewers_count"}, "live -a run_id=degraded -O {folder}/elsewhere.csv", 4),
    ({}, "scheduled -a run_id=all", 0),
    # Little to see.
    ({"gone": True}, "site -a run_id=page", 4),
)


class Maker:
    """Runs spiders into a folder, an hour after the servers' clocks stopped, or by the true clock."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "output"
        self.log = folder / "log"

    def begin(self, server: MockServer, typed: str, **trouble: Any) -> BaseProcess:
        """Begin a run."""
        arguments = typed.format(folder=self.output.parent).split()
        environment = environment_of(self.output, server, {"PARTI_RETRY_PATIENCE": "1"})
        return forked.crawl([*arguments, *QUIET], environment, self.log, **trouble)

    def crawl(self, switches: dict[str, Any], typed: str, code: int, **trouble: Any) -> None:
        """Do a run, which has to end with an exit code."""
        with MockServer(Options(**SMALL | switches)) as server:
            clock = datetime.fromisoformat(NOW).timestamp() + 3_600 - time.time()
            process = self.begin(server, typed, clock=clock, **trouble)
            process.join()
        if process.exitcode != code:
            raise SystemExit(f"{typed}: {process.exitcode}\n{self.log.read_text(encoding='utf-8')}")

    def listen(self, run_id: str, end: Callable[[BaseProcess], None], until_days: int, before_midnight: int) -> None:
        """Listen until there are files of so many days, from seconds before midnight on, and end it."""
        with MockServer(Options(**LISTENED)) as server:
            now = time.time()
            clock = (now // 86_400 + 1) * 86_400 - now - before_midnight
            process = self.begin(server, f"notifications -a run_id={run_id}", clock=clock)

            def is_heard() -> bool:
                files = list((self.output / "notifications" / run_id).glob("*.jsonl"))
                if len(files) == until_days and all(read_lines(path) for path in files):
                    return True
                if files and now + before_midnight < time.time():
                    server.world.advance(120)
                    time.sleep(0.5)
                return False

            wait_until(is_heard)
            end(process)
            process.join()


def main() -> None:
    """Make them, with the place that they were made in taken out of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as made:
        maker = Maker(Path(made))
        for switches, typed, code in CASES:
            maker.crawl(switches, typed, code)
        # At the second checkpoint, so that the files hold more than is noted.
        killed = "recent -a run_id=killed -s CONCURRENT_REQUESTS=1"
        maker.crawl({"events": 20, "page_cap": 2}, killed, -signal.SIGKILL, crash_at=7, eager=True)
        maker.listen("killed", lambda process: process.kill(), 1, 7_200)
        maker.listen("two-days", lambda process: process.terminate(), 2, 4)
        shutil.copytree(maker.output, folder / "output")
        _copy_ledger(Path(made), folder)
    for path in folder.rglob("datapackage.json"):
        # Without indentation it is a third smaller.
        text = json.dumps(json.loads(path.read_bytes()), ensure_ascii=False, separators=(",", ":"))
        path.write_text(text.replace(made, PLACEHOLDER) + "\n", encoding="utf-8")


def _copy_ledger(made: Path, folder: Path) -> None:
    """Copy the ledger as one file."""
    (folder / "state").mkdir()
    target = folder / "state/ledger.sqlite"
    with closing(sqlite3.connect(made / "state/ledger.sqlite")) as ledger:
        ledger.execute("UPDATE run SET folder = replace(folder, ?, ?)", (str(made), PLACEHOLDER))
        ledger.commit()
        ledger.execute("PRAGMA journal_mode = DELETE")
        ledger.execute("PRAGMA page_size = 512")
        ledger.execute("VACUUM INTO ?", (str(target),))


if __name__ == "__main__":
    main()
