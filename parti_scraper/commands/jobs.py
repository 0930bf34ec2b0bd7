"""`scrapy jobs`: crawls on several machines, from a queue in PostgreSQL."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from scrapy.commands import ScrapyCommand

from parti_scraper.api.times import first_second, last_second, parse_time
from parti_scraper.commands.base import Reading
from parti_scraper.dataset.engine import require
from parti_scraper.dataset.export import Export, Silent, export
from parti_scraper.dataset.targets.postgres import PostgresTarget
from parti_scraper.exceptions import UsageError, did_you_mean, quoted
from parti_scraper.jobs import queue
from parti_scraper.jobs.crawling import environment_of
from parti_scraper.jobs.database import check, connect, jobs_address, set_up
from parti_scraper.jobs.payload import check_payload
from parti_scraper.jobs.queue import Missing, parse_seconds
from parti_scraper.jobs.schedule import read_schedule
from parti_scraper.program import program
from parti_scraper.run.folders import output_dir, state_dir
from parti_scraper.run.outcome import ExitCode
from parti_scraper.run.summary import printable
from parti_scraper.secret_settings import forget_environment
from parti_scraper.wording import number_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from parti_scraper.jobs.queue import Job

# What each of them takes beside its name.
_WORDS = {"setup": "", "worker": "", "enqueue": "SPIDER", "list": "", "retry": "ID", "cancel": "ID"}
_OPTIONS = {
    "worker": {"concurrency"},
    "enqueue": {"shard", "missing", "arguments"},
    "list": {"json"},
}
_AT_A_TIME, _SCHEDULE = "PARTI_JOBS_AT_A_TIME", "PARTI_SCHEDULE"
_SINCE, _OVERLAP = "PARTI_COVERAGE_SINCE", "PARTI_INCREMENTAL_OVERLAP"
# Greater numbers are no ids, and no numbers of crawls.
_GREATEST = 999_999_999
# How many of the jobs that are done are listed.
_DONE_SHOWN = 20


class Command(Reading, ScrapyCommand):
    """Puts crawls into a queue, and does them."""

    name = "jobs"
    stopped = "stopped"
    most_arguments = 2

    def syntax(self) -> str:
        return "setup | worker | enqueue SPIDER | list | retry ID | cancel ID"

    def short_desc(self) -> str:
        return "Crawl on several machines, from a queue in PostgreSQL"

    def long_desc(self) -> str:
        return (
            "setup: make the tables of the queue and of the shared dataset in the database of PARTI_DATABASE_URL, or "
            "bring them up to date. worker: do jobs until stopped. enqueue: put a job into the queue, or several. "
            "list: what waits, goes on, has failed, and was done last. retry: have a job that has failed tried again. "
            "cancel: take a job out of the queue, or stop it. See docs/several-machines.md."
        )

    def options(self, group: argparse._ArgumentGroup) -> None:
        group.add_argument("--concurrency", metavar="N", help="worker: how many crawls it does at a time (default: 2)")
        group.add_argument(
            "-a",
            dest="arguments",
            metavar="NAME=VALUE",
            action="append",
            help="enqueue: an argument of the spider; repeatable",
        )
        group.add_argument(
            "--shard", metavar="LENGTH", help="enqueue recent: a job for each piece of the window: 30d, 12h"
        )
        group.add_argument(
            "--missing",
            action="store_true",
            help="enqueue recent: what the shared dataset lacks until now, and nothing that is queued or running",
        )
        group.add_argument("--json", action="store_true", help="list: print JSON, of all jobs")

    def execute(self, args: Sequence[str], opts: argparse.Namespace) -> int:
        action = args[0] if args else ""
        if action not in _WORDS:
            hint = did_you_mean(action, _WORDS)
            problem = f"unknown: {quoted(action)}" if args else "what to do is missing"
            raise UsageError(f"{problem} (accepted: {', '.join(_WORDS)}){hint}")
        given = {name for names in _OPTIONS.values() for name in names if getattr(opts, name) not in (None, False)}
        for name in sorted(given - _OPTIONS.get(action, set())):
            typed = "-a" if name == "arguments" else f"--{name}"
            raise UsageError(f"option `{typed}`: not for `{action}` (accepted: see {program()} jobs --help)")
        if bool(_WORDS[action]) != (len(args) > 1):
            problem = f"{_WORDS[action]} is missing" if _WORDS[action] else f"unknown argument: {quoted(args[1])}"
            accepted = f"{program()} jobs {action} {_WORDS[action]}".rstrip()
            raise UsageError(f"{problem} (accepted: {accepted})")
        actions: dict[str, Callable[[str, argparse.Namespace], None]] = {
            "setup": self._setup,
            "worker": self._worker,
            "enqueue": self._enqueue,
            "list": self._list,
            "retry": self._retry,
            "cancel": self._cancel,
        }
        actions[action](args[-1], opts)
        return ExitCode.COMPLETE

    def _setup(self, _: str, opts: argparse.Namespace) -> None:
        address = jobs_address(self.settings)
        done, waiting = set_up(address)
        # Its tables, as far as they are missing, so that workers need no right to make any.
        export(PostgresTarget(address), Export([], state_dir(self.settings, {}) / "export"), Silent())
        print(f"{address.shown}: {number_of(len(done), 'steps')} done" if done else f"{address.shown}: nothing to do")
        if waiting:
            steps = number_of(len(waiting), "steps")
            print(
                f"  {steps} left, for when no worker of an earlier version goes on: {program()} jobs setup again then"
            )

    def _worker(self, _: str, opts: argparse.Namespace) -> None:
        address = jobs_address(self.settings)
        # Without it, no job could be loaded.
        require("duckdb", "dataset")
        # Only workers have to load what is behind it, which is an extra.
        from parti_scraper.jobs.worker import Machine, run_worker  # noqa: PLC0415

        concurrency = _count("option", "--concurrency", "2" if opts.concurrency is None else opts.concurrency)
        most = _count("setting", _AT_A_TIME, str(self.settings[_AT_A_TIME]))
        path = self.settings[_SCHEDULE]
        schedule = read_schedule(Path(path), check_payload) if path else []
        # A setting that is wrong is said now; an age in it counts from when it is asked for.
        self._missing({})
        machine = Machine(
            address,
            output_dir(self.settings, {}).absolute(),
            state_dir(self.settings, {}).absolute(),
            environment_of(self.settings),
            concurrency,
            most,
            schedule,
            lambda: self._missing({}),
        )
        forget_environment()
        logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
        # What they say is said in other words, once; theirs has tracebacks, or is said again and again.
        for name in ("procrastinate", "psycopg.pool"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        check(address)
        run_worker(machine)

    def _enqueue(self, spider: str, opts: argparse.Namespace) -> None:
        arguments = _arguments(opts.arguments or ())
        address = jobs_address(self.settings)
        check_payload(spider, arguments)
        if opts.missing and spider != "recent":
            raise UsageError.of("option", "--missing", "only for the spider recent", spider, "recent")
        with connect(address) as connection:
            if opts.missing:
                wanted = self._missing(arguments)
                if opts.shard is not None:
                    wanted = wanted._replace(longest=parse_seconds("option", "--shard", opts.shard))
                found = queue.enqueue_missing(connection, address, wanted)
            else:
                found = queue.enqueue(connection, spider, arguments, opts.shard)
        if not found:
            print("nothing is missing that is not queued or running, or was tried in vain a short while ago")
        else:
            several = f"{number_of(len(found), 'jobs')}: {found[0]} to {found[-1]}"
            print(f"job {found[0]}" if len(found) == 1 else several)

    def _list(self, _: str, opts: argparse.Namespace) -> None:
        with connect(jobs_address(self.settings)) as connection:
            found = queue.jobs(connection)
        if opts.json:
            print(json.dumps([each._asdict() for each in found], indent=2, ensure_ascii=False))
        else:
            print("\n".join(_lines(found)))

    def _retry(self, text: str, opts: argparse.Namespace) -> None:
        job_id = _count("argument", "ID", text)
        with connect(jobs_address(self.settings)) as connection:
            queue.retry(connection, job_id)
        print(f"job {job_id} is tried again")

    def _cancel(self, text: str, opts: argparse.Namespace) -> None:
        job_id = _count("argument", "ID", text)
        with connect(jobs_address(self.settings)) as connection:
            has_begun = queue.cancel(connection, job_id)
        print(f"job {job_id} is {'being stopped' if has_begun else 'cancelled'}")

    def _missing(self, arguments: Mapping[str, str]) -> Missing:
        """Return where to look for what is missing. Raises UsageError."""
        for name, text in arguments.items():
            if name not in {"since", "until"}:
                raise UsageError.of("argument", name, "not together with `--missing`", text, "since, until")
        now = time.time()
        since = parse_time("argument", "since", arguments.get("since"), first_second, now)
        setting = parse_time("setting", _SINCE, self.settings[_SINCE] or None, first_second, now)
        until = parse_time("argument", "until", arguments.get("until"), last_second, now)
        overlap = parse_seconds("setting", _OVERLAP, self.settings[_OVERLAP])
        return Missing(setting if since is None else since, until, overlap)


def _arguments(typed: Sequence[str]) -> dict[str, str]:
    """Return the arguments of a spider, by name. Raises UsageError."""
    arguments = {}
    for text in typed:
        name, mark, value = text.partition("=")
        if not mark or not name:
            raise UsageError.of("option", "-a", "not NAME=VALUE", text, "such as -a since=7d")
        arguments[name] = value
    return arguments


def _count(kind: str, name: str, text: str) -> int:
    """Return a number that was typed. Raises UsageError."""
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(_GREATEST)) and int(text)):
        raise UsageError.of(kind, name, "not a number from 1 on", text, f"1 to {_GREATEST:,}")
    return int(text)


def _lines(found: Sequence[Job]) -> Iterator[str]:
    """Yield the lines of a list."""
    done = [each for each in found if each.status == "succeeded"]
    shown = [each for each in found if each.status != "succeeded"] + done[:_DONE_SHOWN]
    if not shown:
        yield "no jobs"
    for each in shown:
        typed = " ".join(f"{name}={value}" for name, value in each.arguments.items())
        yield printable(f"{each.id:>6}  {each.status:<9}  {each.spider} {typed}".rstrip())
        if each.attempt:
            began = f"attempt {each.attempt} on {each.host}, {each.started_at}"
            ended = f" to {each.ended_at}" if each.ended_at else ""
            yield printable(f"{'':>19}{began}{ended}")
        if each.line and each.status != "doing":
            yield printable(f"{'':>19}{each.line}")
        if each.next_at and each.attempt:
            yield f"{'':>19}again at {each.next_at}"
    counts = Counter(each.status for each in found)
    if found:
        yield ", ".join(f"{counts[status]:,} {status}" for status in queue.STATUSES if counts[status])
