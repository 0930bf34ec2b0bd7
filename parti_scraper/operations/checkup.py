"""Looks at everything that the rules of health need to know."""

from __future__ import annotations

import gc
import heapq
import math
import os
import shlex
import shutil
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parti_scraper.api.quality import parse_expect_absent
from parti_scraper.api.times import LENGTHS, UnparsableError, first_second, iso_to_timestamp, length, parse_time
from parti_scraper.dataset.collected import collect
from parti_scraper.dataset.coverage import LIVESTREAMS, Bounds, crawl_for
from parti_scraper.exceptions import UsageError, did_you_mean
from parti_scraper.operations.alerting import alert_failure
from parti_scraper.operations.content import USUAL_DAYS
from parti_scraper.operations.findings import Disk, Gap, Known
from parti_scraper.operations.health import examine
from parti_scraper.operations.history import history, source_among
from parti_scraper.operations.watched import series_key
from parti_scraper.program import program
from parti_scraper.run.entries import KINDS, CatalogError, Status
from parti_scraper.run.folders import output_dir, state_dir, typed_places
from parti_scraper.run.open_runs import open_runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from scrapy.settings import BaseSettings

    from parti_scraper.dataset.collected import Collected
    from parti_scraper.operations.findings import Finding, Health
    from parti_scraper.run.entries import Entry

MAX_AGE, COVERAGE_SINCE = "PARTI_HEALTH_MAX_AGE", "PARTI_COVERAGE_SINCE"
# Seconds back from which stretches of listening are read.
_LISTENED = 2 * 86_400
# How many runs of a spider with the same arguments are looked at, the last ones: of one every five minutes, those of a
# month; and how many of them however old they are.
_RUNS_OF_A_SERIES, _ALWAYS = 10_000, 10
_DAY_LENGTH = len("2026-11-27")


@dataclass(frozen=True, slots=True)
class Checkup:
    """What was found, and of which source."""

    health: Health
    source: str


def parse_max_ages(text: str) -> dict[str, float]:
    """Return the seconds by spider of a setting such as `recent=2h,live=15m`. Raises UsageError."""
    ages: dict[str, float] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        spider, equals, age = map(str.strip, part.partition("="))
        if spider not in KINDS or not equals:
            hint = did_you_mean(spider, KINDS)
            problem = "no such spider" if equals else "not a spider and an age"
            accepted = f"such as recent=2h,live=15m; spiders are {', '.join(sorted(KINDS))}"
            raise UsageError.of("setting", MAX_AGE, problem, part, accepted, hint=hint)
        try:
            seconds = length(age, 0)
        except UnparsableError as problem:
            raise UsageError.of("setting", MAX_AGE, str(problem), part, LENGTHS, hint=problem.hint) from None
        if ages.setdefault(spider, seconds) != seconds:
            raise UsageError.of("setting", MAX_AGE, f"{spider} is named twice", part, "one age for each spider")
    return ages


def problems(settings: BaseSettings, raw_arguments: Mapping[str, str], now: float) -> list[Finding]:
    """Return what is wrong, as a crawl sees it; see `check_up`."""
    return check_up(settings, now, raw_arguments=raw_arguments).health.findings


def check_up(
    settings: BaseSettings,
    now: float,
    source: str | None = None,
    raw_arguments: Mapping[str, str] | None = None,
) -> Checkup:
    """Look at the runs, the disks and all else, and apply the rules. Runs that were left are sealed first.

    Args:
        settings: which name the folders, and what is watched.
        now: Unix seconds.
        source: where the data come from; None: parti.com, or a mock server if there are only made-up data.
        raw_arguments: of the crawl that looks, as typed: where the folders are depends on them.

    Raises:
        UsageError: a setting is wrong.
        LedgerError: the ledger cannot be read.
    """
    # Of a hundred thousand runs, garbage collection would take as long as all the rest: what is made here stays.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return _check_up(settings, now, source, raw_arguments)
    finally:
        if was_enabled:
            gc.enable()


def _check_up(
    settings: BaseSettings, now: float, source: str | None, raw_arguments: Mapping[str, str] | None
) -> Checkup:
    raw = raw_arguments or {}
    max_ages = parse_max_ages(settings[MAX_AGE])
    expect_absent = parse_expect_absent(settings["PARTI_EXPECT_ABSENT"])
    output, state = output_dir(settings, raw), state_dir(settings, raw)
    places = typed_places(settings)
    with open_runs([output], state, now) as runs:
        entries = list(runs)
        failed = list(runs.failed_starts)
    source, collected = collect(entries, math.floor(now), source or source_among(entries))
    known = Known(
        max_ages,
        [*_gaps(collected, settings[COVERAGE_SINCE], places, now)],
        [*_listened(entries, source, now)],
        _disks([output, state]),
        alert_failure(settings, now, raw),
        expect_absent=expect_absent,
        program=program(),
        places=places,
    )
    past = history(_lately(entries, now), failed, source)
    return Checkup(examine(past, known, now), source)


def _lately(entries: Iterable[Entry], now: float) -> Iterator[Entry]:
    """Yield the entries of runs that the rules look at: of a schedule of years, most are of no interest."""
    earliest = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(max(0.0, now - 1.5 * USUAL_DAYS)))
    plain: defaultdict[tuple[str, str], list[Entry]] = defaultdict(list)
    is_taken = True
    for entry in entries:
        if entry.day is None:
            is_plain = entry.status is Status.FINISHED and not entry.days
            is_old = entry.status is Status.FINISHED and (entry.ended_at or "") < earliest
            is_taken = not (is_old or is_plain)
            if is_plain:
                plain[entry.spider, series_key(entry.arguments)].append(entry)
        if is_taken:
            yield entry
    for finished in plain.values():
        newest = heapq.nlargest(_RUNS_OF_A_SERIES, finished, key=lambda entry: entry.started_at or "")
        yield from newest[:_ALWAYS]
        # What failed since then, of a spider that is named, must not hide when it was good last.
        good = next((entry for entry in newest if entry.complete), None)
        rest = newest[_ALWAYS:]
        yield from (entry for entry in rest if entry is good or (entry.ended_at or "") >= earliest)


def _gaps(collected: Collected, since: str, places: Sequence[str], now: float) -> Iterator[Gap]:
    """Yield the gaps between ended livestreams that a crawl can fill; without a run that proves any there are none."""
    start = parse_time("setting", COVERAGE_SINCE, since or None, first_second, now)
    for coverage in collected.coverages(Bounds(None, None, math.floor(now)), start):
        if coverage.series == LIVESTREAMS and any(proof.series == LIVESTREAMS for proof in collected.proofs):
            for gap in coverage.gaps:
                words = crawl_for(gap, LIVESTREAMS, math.floor(now))
                if words:
                    yield Gap(gap.since, gap.until, f"{program()} {shlex.join([*words, *places])}")


def _listened(entries: Iterable[Entry], source: str, now: float) -> Iterator[tuple[float, float]]:
    """Yield from when to when somebody has listened in the last days."""
    earliest = time.strftime("%Y-%m-%d", time.gmtime(max(0.0, now - _LISTENED)))
    for entry in entries:
        day = entry.day or (entry.ended_at or "")[:_DAY_LENGTH]
        if entry.spider != "notifications" or entry.source != source or entry.days or day < earliest:
            continue
        try:
            spans = (
                [(str(each["from"]), str(each["to"])) for each in entry.noted]
                if entry.status is Status.UNFINISHED
                else [(each.since, each.until) for each in entry.listened()]
            )
            yield from [(iso_to_timestamp(since), iso_to_timestamp(until)) for since, until in spans]
        except (CatalogError, LookupError, ValueError):
            # A damaged data package is a finding of its own.
            continue


def _disks(folders: Sequence[Path]) -> list[Disk]:
    """Return what is free for folders, once for each file system; those that do not exist yet have none."""
    disks: dict[int, Disk] = {}
    for folder in folders:
        try:
            device = folder.stat().st_dev
            usage, found = shutil.disk_usage(folder), os.statvfs(folder)
        except OSError:
            continue
        disks.setdefault(device, Disk(str(folder), usage.free, usage.free + usage.used, found.f_favail, found.f_files))
    return list(disks.values())
