"""`scrapy health`: whether the collection is healthy."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any

from scrapy.commands import ScrapyCommand

from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.commands.base import Reading
from parti_scraper.commands.inputs import add_source_option, check_source
from parti_scraper.exceptions import UsageError
from parti_scraper.operations.alerting import alert
from parti_scraper.operations.checkup import MAX_AGE, check_up
from parti_scraper.run.outcome import ExitCode
from parti_scraper.run.summary import printable
from parti_scraper.secret_settings import secret_from
from parti_scraper.wording import length_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from parti_scraper.operations.checkup import Checkup
    from parti_scraper.operations.findings import Watched


class Command(Reading, ScrapyCommand):
    """Says what is wrong with the collection."""

    name = "health"

    def short_desc(self) -> str:
        return "Say whether the collection is healthy, and what helps"

    def long_desc(self) -> str:
        return (
            f"Look at the runs, the coverage and the disk. Watched are the spiders that {MAX_AGE} names, such as "
            "recent=2h,live=15m; without it, all that have run five times and more. A line for each finding, and the "
            "exit code 4 if there is one, else 0. docs/operations.md says what each means."
        )

    def options(self, group: argparse._ArgumentGroup) -> None:
        group.add_argument("--json", action="store_true", help="print JSON")
        told = "tell through PARTI_ALERT_URLS what has got worse, and when all is well again"
        group.add_argument("--alert", action="store_true", help=told)
        add_source_option(group)

    def execute(self, args: Sequence[str], opts: argparse.Namespace) -> int:
        check_source(opts.source)
        if opts.alert and not secret_from(self.settings, "PARTI_ALERT_URLS"):
            accepted = "with PARTI_ALERT_URLS in the environment"
            raise UsageError(f"option `--alert`: nobody to tell (accepted: {accepted})")
        now = time.time()
        checkup = check_up(self.settings, now, opts.source)
        # Before anything is printed: who reads it may have enough, such as `head`.
        self.exitcode = ExitCode.INCOMPLETE if checkup.health.findings else ExitCode.COMPLETE
        if opts.alert:
            alert(self.settings, checkup.health.findings, now)
        if opts.json:
            print(json.dumps(_as_json(checkup, now), indent=2))
        else:
            print("\n".join(_lines(checkup, now)))
        return self.exitcode


def _as_json(checkup: Checkup, now: float) -> dict[str, Any]:
    return {
        "healthy": not checkup.health.findings,
        "checked_at": timestamp_to_iso(now),
        "source": checkup.source,
        "watched": [
            {
                "subject": each.subject,
                "good_at": None if each.good_at is None else timestamp_to_iso(each.good_at),
                "max_age_seconds": each.max_age,
            }
            for each in checkup.health.watched
        ],
        "findings": [
            {
                "rule": each.rule,
                "subject": each.subject,
                "text": each.text,
                "since": timestamp_to_iso(each.since),
                "command": each.command,
            }
            for each in checkup.health.findings
        ],
    }


def _lines(checkup: Checkup, now: float) -> Iterator[str]:
    """Yield a line for each finding; or one that says what is watched, and when it was good last."""
    health = checkup.health
    for each in health.findings:
        helps = f"; {each.command}" if each.command else ""
        yield printable(f"{each.rule}: {each.text}{helps}")
    if not health.findings:
        watched = ", ".join(_watched(each, now) for each in health.watched)
        yield printable(f"healthy: {watched or f'nothing is watched yet (see {MAX_AGE})'}")


def _watched(watched: Watched, now: float) -> str:
    if watched.good_at is None:
        return f"{watched.subject} runs for the first time"
    return f"{watched.subject} good {length_of(max(0, math.floor(now - watched.good_at)))} ago"
