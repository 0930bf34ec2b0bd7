"""What a job may be: a spider and its arguments, and nothing that decides where requests go or files are."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import msgspec

from parti_scraper.api.times import iso_to_timestamp, timestamp_to_iso
from parti_scraper.dataset.coverage import LIVESTREAMS, Interval, Series
from parti_scraper.exceptions import UsageError, did_you_mean
from parti_scraper.run.entries import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

# Jobs that have an end, and of which so many may go on at a time; those that have none; those that enqueue others.
CRAWL, ENDLESS, SCHEDULE = "crawl", "endless", "schedule"
# What a worker can do.
TASKS = (CRAWL, SCHEDULE)
# The arguments that a job must not have, and why.
_REFUSED = {
    "run_id": "a job's run is named after the job",
    "incremental": "it goes by what this machine has, and `--missing` by what all have",
    "url": "addresses do not come from the queue",
}
_RUN_ID = re.compile(r"[1-9]\d*-[1-9]\d*")


class _Payload(msgspec.Struct, forbid_unknown_fields=True):
    spider: str
    arguments: dict[str, str]


def read_payload(stored: object) -> tuple[str, dict[str, str]]:
    """Return the spider and the arguments of a job as the queue has it. Raises UsageError if it has something else."""
    try:
        payload = msgspec.convert(stored, _Payload)
    except msgspec.ValidationError:
        raise UsageError("not the payload of a job (accepted: spider and arguments, with texts for values)") from None
    return payload.spider, payload.arguments


def check_payload(spider: str, arguments: Mapping[str, str]) -> None:
    """Raise UsageError if a job must not be this."""
    if spider not in KINDS:
        accepted, hint = ", ".join(sorted(KINDS)), did_you_mean(spider, KINDS)
        raise UsageError.of("argument", "SPIDER", "unknown spider", spider, accepted, hint=hint)
    for name, why in _REFUSED.items():
        if name in arguments:
            raise UsageError.of("argument", name, f"not for jobs, since {why}", arguments[name], "none")
    for name, value in arguments.items():
        if name.startswith("_"):
            raise UsageError.of("argument", name, "not for jobs", value, "none")
        if value != value.encode(errors="replace").decode():
            raise UsageError.of("argument", name, "not a text that the queue can hold", value, "UTF-8")
    KINDS[spider].arguments.parse(arguments, spider, time.time())


def queue_of(spider: str, arguments: Mapping[str, str]) -> str:
    """Return the queue of a job."""
    return ENDLESS if spider == "notifications" or (spider == "live" and "interval" in arguments) else CRAWL


def run_id_of(job_id: int, attempt: int) -> str:
    """Return the id of a job's run; the first attempt is 1."""
    return f"{job_id}-{attempt}"


def is_run_id(text: str) -> bool:
    """Tell whether a run may be that of a job."""
    return _RUN_ID.fullmatch(text) is not None


def window_of(spider: str, arguments: Mapping[str, str]) -> Interval | None:
    """Return within which time a job would prove that every ended livestream is there; None if it proves nothing."""
    if spider != "recent" or not {"since", "until"} <= arguments.keys():
        return None
    if arguments.keys() & {"max_records", "sort"} or Series.of(LIVESTREAMS.collection, arguments) != LIVESTREAMS:
        return None
    try:
        window = Interval(iso_to_timestamp(arguments["since"]), iso_to_timestamp(arguments["until"]))
    except ValueError:
        return None
    return window if window.since <= window.until else None


def arguments_of(window: Interval, others: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the arguments of a job of `recent` for a window."""
    since, until = map(timestamp_to_iso, window)
    return {**(others or {}), "since": since, "until": until}
