"""Compare what two checkouts of the project do: the same commands against the same mock server.

For changes that must not change the behaviour: `python tools/same_runs.py BEFORE AFTER` runs each of `CASES` in both,
and compares exit codes, output, files, and the order of the requests. Times, ports and folders of a run are masked
first, because they differ in every run. Both run with the interpreter of this script, against the mock server of
AFTER, which runs in this process so that requests can be compared. Ends with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from importlib import import_module
from pathlib import Path
from typing import Any

# Long before any run: no time of a record is masked as one of the run.
NOW = "2026-11-01T00:00:00Z"
LATER = "2026-11-08T00:00:00Z"
STILL: dict[str, Any] = {"seed": 5, "now": NOW, "speed": 0, "events": 600, "live": 40}
# Streams go live while it runs.
MOVING: dict[str, Any] = {**STILL, "speed": 20, "events": 30, "start_every": 2}
# One request at a time, and no random wait before a retry, in which other requests would overtake it.
IN_ORDER = "-s CONCURRENT_REQUESTS=1 -s CONCURRENT_REQUESTS_PER_DOMAIN=1 -s PARTI_RETRY_DELAY=0"
WHOLE = "-a until=2026-11-01"
# The overlap covers all earlier records, however long ago NOW is.
INCREMENTAL = "recent -a incremental=true -s PARTI_INCREMENTAL_OVERLAP=500w"
FAULTS = dict.fromkeys(("rate_500", "rate_429", "rate_reset", "rate_truncated", "rate_challenge"), 0.08)
ODD: dict[str, Any] = {"malformed": 0.03, "drift": "field", "signed": True, "category_ids": True}
IMPATIENT = {"PARTI_RETRY_PATIENCE": "1"}
NOWHERE = {**IMPATIENT, "PARTI_API_BASE_URLS": "http://127.0.0.1:9"}
FEEDS = '{{"{folder}/f.csv": {{"format": "csv", "fields": ["event_id", "event_title"]}}}}'
TIMEOUT = 120
LINES_SHOWN = 30


class Certain(IntEnum):
    """What two runs of the same code have in common; each value means less than the one before."""

    ALL = 0  # everything, in order
    FILES = 1  # everything except the order of requests; several at a time look for the end of a list
    RECORDS = 2  # the records, but not their order, and not the number of requests
    SHAPE = 3  # names of files and fields, and the output without numbers


@dataclass(frozen=True)
class Step:
    """One `scrapy crawl`.

    Attributes:
        typed: what follows `crawl`; `{folder}` is a temporary folder.
        run_id: empty: not given.
        env: added to the environment; `{server}` is the address of the mock server.
        kill_at: send the signal `by` after this many requests, and compare only the exit code; 0: never.
        server: switches of a new mock server for this step; None: keep the server.
    """

    typed: str
    run_id: str = "run"
    env: dict[str, str] = field(default_factory=dict)
    kill_at: int = 0
    by: int = signal.SIGKILL
    server: dict[str, Any] | None = None


@dataclass(frozen=True)
class Case:
    """Steps one after the other, with the same folders, and `switches` of the mock server."""

    name: str
    steps: tuple[Step, ...]
    switches: dict[str, Any]
    certain: Certain


def case(name: str, *steps: str | Step, certain: Certain = Certain.ALL, **switches: Any) -> Case:
    """Return a case. If `certain` is ALL or FILES, its requests are made one at a time."""
    made = (step if isinstance(step, Step) else Step(step) for step in steps)
    return Case(name, tuple(made), {**STILL, **switches}, certain)


INCREMENTALS = (Step(INCREMENTAL, "one"), Step(INCREMENTAL, "two", server={"now": LATER}), Step(INCREMENTAL, "three"))
FILES, RECORDS, SHAPE = Certain.FILES, Certain.RECORDS, Certain.SHAPE
CASES = (
    case("categories", "categories"),
    case("recent", f"recent {WHOLE}", events=1_500),
    case("recent up to now", "recent", certain=RECORDS),
    case("recent at full width", f"recent {WHOLE}", certain=RECORDS, events=1_500),
    case("records malformed, signed, with a new field", f"recent {WHOLE}", **ODD),
    case("pages that are no strict JSON", f"recent {WHOLE}", no_json=0.02),
    case("records left out by the server", f"recent {WHOLE}", events=3_000, hidden=120),
    case("fields that vanished", f"recent {WHOLE}", absent="event_title", unreadable="user_name"),
    case("two categories", f"recent {WHOLE} -a categories=Gaming,23"),
    case("all categories", f"recent {WHOLE} -a categories=all", certain=RECORDS),
    case("no category", f"recent {WHOLE} -a categories=NaN", uncategorized=0.1, nan="none"),
    case("sorted by views", f"recent {WHOLE} -a sort=views"),
    case("one channel", f"recent {WHOLE} -a user_id=428004", certain=FILES),
    case("max_records", f"recent {WHOLE} -a max_records=250"),
    case("since and until", "recent -a since=2025-03-01 -a until=2026-02-01T12:00Z -a limit=40"),
    case("incremental", *INCREMENTALS, certain=RECORDS),
    case("faults", f"recent {WHOLE}", certain=RECORDS, **FAULTS),
    case("first host dead", Step(f"recent {WHOLE}", env={"PARTI_API_BASE_URLS": "http://127.0.0.1:9,{server}"})),
    case("every host dead", Step(f"recent {WHOLE}", env=NOWHERE), certain=RECORDS),
    case("every host fails", Step(f"recent {WHOLE}", env=IMPATIENT), certain=RECORDS, gone=True),
    case("order of ties unstable", f"recent {WHOLE}", tie_order="unstable", ties=0.3, events=400),
    case("pages of 15", f"recent {WHOLE}", page_cap=15),
    case("a set that moves", f"recent {WHOLE}", page_cap=15, insert_every=3, delete_every=3),
    case("to_ts ignored", f"recent {WHOLE}", page_cap=50, time_filter="ignored", certain=FILES),
    case("empty pages as 404", f"recent {WHOLE}", empty_as="404"),
    case("live", "live"),
    case("live by categories", "live -a categories=Gaming,23 -a limit=10"),
    case("live at an interval", "live -a interval=1 -a duration=2.5"),
    case("live until stopped", Step("live -a interval=0.5", kill_at=8, by=signal.SIGINT), certain=SHAPE),
    case("live doubled", "live", doubled=0.3, malformed=0.05),
    case("notifications up to max_records", "notifications -a max_records=10", certain=SHAPE, **MOVING),
    case("notifications for a while", "notifications -a duration=3s", certain=SHAPE, **MOVING),
    case("notifications where nothing happens", "notifications -a duration=1s"),
    case("site", "site", certain=SHAPE),
    case("site that has changed", "site", certain=SHAPE, drift="all"),
    case("unknown arguments", "recent -a sinse=7d", "live -a user_id=7", "recent -a duration=5s"),
    case("invalid values", "recent -a since=never", "live -a duration=5s", Step("recent", run_id="a/b")),
    case("unknown category", "recent -a categories=Gamign", "live -a categories=Gamign"),
    case("unknown settings and invalid values", "recent -s PARTI_OUTPUTDIR=x", "recent -s PARTI_MAX_REJECTED=2"),
    case("invalid words", "recnt", "recent live", "recent since=7d", "recent -a since"),
    case("last, and nothing to finish", Step("recent", run_id="last")),
    case("finished before", f"recent {WHOLE}", f"recent {WHOLE}"),
    case("CSV by -O", f"recent {WHOLE} -O {{folder}}/x.csv"),
    case("JSON by -O", f"recent {WHOLE} -O {{folder}}/x.json"),
    case("FEEDS with fields", f"recent {WHOLE} -s 'FEEDS={FEEDS}'"),
    case("no batches", f"recent {WHOLE} -s PARTI_BATCHING=false", **ODD),
    case("by a browser", f"recent {WHOLE} -s PARTI_TRANSPORT=browser", certain=RECORDS, browser_only=True),
    case("run_id not given", Step(f"recent {WHOLE} -a max_records=5", run_id="")),
    case("stopped and finished", f"recent {WHOLE} -s CLOSESPIDER_PAGECOUNT=25", "recent", page_cap=15),
    case("killed and finished", Step(f"recent {WHOLE}", kill_at=25), "recent", certain=RECORDS, page_cap=15),
)


def main() -> int:
    """Run the cases in both checkouts. Returns 1 if any differs, otherwise 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, metavar="BEFORE", help="a checkout of the project")
    parser.add_argument("after", type=Path, metavar="AFTER", help="another one")
    parser.add_argument("--only", metavar="NAME", choices=[each.name for each in CASES], help="run only this case")
    options = parser.parse_args()
    checkouts = (options.before.resolve(), options.after.resolve())
    for checkout in checkouts:
        check_imports(checkout)
    sys.path.insert(0, str(checkouts[1]))
    different = 0
    with ThreadPoolExecutor(len(checkouts)) as pool:
        for each in CASES:
            if options.only in {None, each.name}:
                before, after = pool.map(lambda checkout, each=each: Observed(checkout, each).all(), checkouts)
                difference = compare(before, after)
                different += bool(difference)
                print(f"{'DIFFERENT' if difference else 'same':<9}  {each.name}", *difference, sep="\n    ", flush=True)
    return int(different > 0)


def environment(added: dict[str, str]) -> dict[str, str]:
    """Return the environment of a crawl, without variables that change what it imports or how it is set."""
    prefixes = ("PARTI_", "SCRAPY_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    return kept | {name: os.environ[name] for name in ("PARTI_CHROMIUM",) if name in os.environ} | added


def check_imports(checkout: Path) -> None:
    """Exit if a command in a checkout does not import that checkout's package."""
    command = [sys.executable, "-c", "import parti_scraper as package; print(package.__file__)"]
    found = subprocess.run(command, cwd=checkout, env=environment({}), capture_output=True, text=True, check=False)
    if not Path(found.stdout.strip()).is_relative_to(checkout / "parti_scraper") or not found.stdout:
        sys.exit(f"{checkout}: imports {found.stdout.strip() or found.stderr.strip()}, not its own parti_scraper")


class Observed:
    """The results of a case in one checkout: lines by name of file or output."""

    def __init__(self, checkout: Path, case: Case) -> None:
        self._checkout, self._case = checkout, case
        self._found: dict[str, list[str]] = {}
        self._folder = Path()
        self._server: Any = None
        self._began = time.time()

    def all(self) -> dict[str, list[str]]:
        """Run the case and return its results."""
        with tempfile.TemporaryDirectory(prefix="same-") as folder, ExitStack() as stack:
            self._folder = Path(folder)
            for number, step in enumerate(self._case.steps, 1):
                if number == 1 or step.server is not None:
                    self._server = stack.enter_context(serve({**self._case.switches, **(step.server or {})}))
                self._run(f"step {number}", step)
            for path in sorted(self._folder.rglob("*")):
                if path.is_file() and "state" not in path.parts:
                    self._found[self._mask(str(path))] = self._contents(path)
        return self._found

    def _run(self, name: str, step: Step) -> None:
        places = {"folder": self._folder, "server": self._server.base_url}
        typed = shlex.split(step.typed.format(**places))
        if step.run_id:
            typed += ["-a", f"run_id={step.run_id}"]
        if self._case.certain < Certain.RECORDS:
            typed += shlex.split(IN_ORDER)
        env = environment(
            {
                "PARTI_OUTPUT_DIR": str(self._folder / "output"),
                "PARTI_STATE_DIR": str(self._folder / "state"),
                "PARTI_API_BASE_URLS": self._server.base_url,
                "PARTI_WS_URL": self._server.ws_url,
                "PARTI_SITE_URL": self._server.base_url,
            }
            | {name: value.format(**places) for name, value in step.env.items()}
        )
        asked = len(self._server.requests)
        process = self._crawl([sys.executable, "-m", "scrapy", "crawl", *typed, "--nolog"], env, step)
        self._found[f"{name}: exit code"] = [str(process.returncode)]
        if not step.kill_at:
            self._found[f"{name}: stdout"] = self._said(process.stdout)
            self._found[f"{name}: stderr"] = self._said(process.stderr)
        if self._case.certain < Certain.RECORDS:
            seen = [self._mask(f"{each.method} {each.path}?{each.query}") for each in self._server.requests[asked:]]
            self._found[f"{name}: requests"] = seen if self._case.certain is Certain.ALL else sorted(seen)

    def _crawl(self, command: list[str], env: dict[str, str], step: Step) -> subprocess.CompletedProcess[str]:
        process = subprocess.Popen(
            command, cwd=self._checkout, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            while step.kill_at and process.poll() is None:
                if len(self._server.requests) >= step.kill_at:
                    process.send_signal(step.by)
                    break
                time.sleep(0.002)
            stdout, stderr = process.communicate(timeout=TIMEOUT)
            return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
        finally:
            process.kill()

    def _mask(self, text: str) -> str:
        """Return a text without what differs in every run."""
        text = text.replace(str(self._folder), "FOLDER").replace(str(self._checkout), "CHECKOUT")
        text = re.sub(r"127\.0\.0\.1:\d{5}", "127.0.0.1:PORT", text)
        text = re.sub(r"\d{8}[Tt]\d{6}[Zz]-\w+", "RUN_ID", text)
        text = re.sub(r"\bin \d[\d,.]* s\b", "in SECONDS s", text)
        text = re.sub(r"\bafter \d+ failures|\b\d+ ×", "SOME failures", text)
        return re.sub(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ|\b[12]\d{9}\b", self._moment, text)

    def _moment(self, found: re.Match[str]) -> str:
        text = found[0]
        seconds = float(text) if text.isdigit() else datetime.fromisoformat(text).timestamp()
        # A little later than now, as the run may continue.
        return "TIME" if self._began - 2 <= seconds <= time.time() + 2 else text

    def _said(self, text: str) -> list[str]:
        text = self._mask(text)
        if self._case.certain >= Certain.RECORDS:
            text = re.sub(r"^ +[\d,]+ pages?, .*(?=, [\d,]+ set aside)", "PAGES", text, flags=re.MULTILINE)
        if self._case.certain is Certain.SHAPE:
            text = re.sub(r"^ +[\d,]+  \S.*\n", "", text, flags=re.MULTILINE)
            text = re.sub(r"\d[\d,.]*", "N", text)
        return text.splitlines()

    def _contents(self, path: Path) -> list[str]:
        if path.suffix == ".png":
            return ["a picture"]
        if path.name == "datapackage.json":
            return self._package(path)
        lines = self._mask(path.read_bytes().decode()).split("\n")
        if self._case.certain is Certain.RECORDS:
            return sorted(lines)
        if self._case.certain is Certain.SHAPE:
            return lines[:1] if path.suffix == ".csv" else sorted({str(list(json.loads(each))) for each in lines[:-1]})
        return lines

    def _package(self, path: Path) -> list[str]:
        package = json.loads(path.read_bytes())
        for resource in package["resources"]:
            digest = hashlib.sha256((path.parent / resource["path"]).read_bytes()).hexdigest()
            resource["hash"] = resource["hash"].replace(digest, "OF THE FILE")
            if resource["format"] == "png":
                del resource["bytes"]
        for name in {"run_uuid", "duration_seconds"} & package.keys():
            package[name] = "OF THE RUN"
        if self._case.certain >= Certain.RECORDS:
            for name in ("pages", "served", "duplicate", "filtered"):
                package["counts"][name] = "UNCERTAIN"
        lines = self._mask(json.dumps(package, ensure_ascii=False, indent=1)).split("\n")
        return [re.sub(r"\d+", "N", line) for line in lines] if self._case.certain is Certain.SHAPE else lines


def serve(switches: dict[str, Any]) -> Any:
    """Return a mock server of AFTER, whose package is first on the path."""
    mockserver = import_module("parti_scraper.mockserver")
    return mockserver.MockServer(mockserver.Options(**switches))


def compare(before: dict[str, list[str]], after: dict[str, list[str]]) -> list[str]:
    """Return the first lines that differ."""
    lines: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        old, new = (found.get(name, ["missing"]) for found in (before, after))
        lines += difflib.unified_diff(old, new, f"BEFORE {name}", f"AFTER {name}", n=1, lineterm="")
    more = [f"and {len(lines) - LINES_SHOWN} lines more"] if len(lines) > LINES_SHOWN else []
    return [line[:200] for line in lines[:LINES_SHOWN]] + more


if __name__ == "__main__":
    sys.exit(main())
