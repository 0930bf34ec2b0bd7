"""The rules by which a collection is healthy or not. Pure: what is known is passed in.

Moments are Unix seconds. docs/operations.md says of each rule what clears it: none can hold for ever.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from parti_scraper.api.times import DAY, timestamp_to_iso
from parti_scraper.operations.content import few_records, new_fields, set_aside
from parti_scraper.operations.endings import last_run
from parti_scraper.operations.findings import LONGEST_REASON, RULES, Finding, Health
from parti_scraper.operations.history import PastRun, State
from parti_scraper.operations.watched import is_whole, judge_ages, series_of
from parti_scraper.run.summary import printable
from parti_scraper.wording import number_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from parti_scraper.operations.findings import Known
    from parti_scraper.operations.watched import Series

# Seconds. What began that much later than now did so by a wrong clock, and says nothing.
CLOCK_TOLERANCE = 3_600
# Seconds without anybody listening that count, in the last day.
SILENT_FOR, LISTENED_FOR = 600, DAY
# The share of a file system that must be free.
FREE_SHARE = 0.05


def examine(runs: Sequence[PastRun], known: Known, now: float) -> Health:
    """Apply all rules.

    Args:
        runs: of one source, oldest first; those of the last `USUAL_DAYS` at least.
        known: what else is known.
        now: the present.
    """
    past = [_by_this_clock(run, now) for run in runs if run.began <= now + CLOCK_TOLERANCE]
    spiders: dict[str, list[Series]] = {}
    for each in series_of(past, known, now):
        spiders.setdefault(each.spider, []).append(each)
    late = [*judge_ages(spiders, known, now)]
    watched = [each for each, _ in late]
    findings = [finding for _, finding in late if finding]
    for all_series in spiders.values():
        looked_at = [each for each in all_series if each.is_looked_at]
        for series in looked_at:
            findings += filter(None, [last_run(series, all_series, known, now)])
            findings += filter(None, [few_records(series, now), set_aside(series, now)])
        if looked_at:
            findings += new_fields(all_series, now)
    findings += _gaps(past, known)
    findings += _not_listening(spiders.get("notifications", ()), known, now)
    findings += _damaged(past)
    findings += _disks(known, now)
    if known.alerts_failing:
        since, why = known.alerts_failing
        findings.append(Finding("alerts", "alerts", f"no alert can be sent: {why}", since))
    findings.sort(key=lambda finding: (RULES.index(finding.rule), finding.since))
    return Health(findings, watched)


def _by_this_clock(run: PastRun, now: float) -> PastRun:
    """Return a run whose end is not in the future: else it would be good, and never late, until then."""
    latest = now + CLOCK_TOLERANCE
    if max(run.account.ended_at or 0.0, run.good_until or 0.0) <= latest:
        return run
    good = run.good_until if run.good_until is None or run.good_until <= latest else run.began
    return replace(run, account=replace(run.account, ended_at=run.began), good_until=good)


def _gaps(runs: Iterable[PastRun], known: Known) -> Iterator[Finding]:
    """Yield that stretches of time are missing that nobody is fetching."""
    windows = [run.window for run in runs if run.state is State.RUNNING and run.window and is_whole(run)]
    left = [
        gap
        for gap in known.gaps
        if not any(
            window.since <= timestamp_to_iso(gap.since) and timestamp_to_iso(gap.until) <= window.until
            for window in windows
        )
    ]
    if left:
        first = left[0]
        since, until = map(timestamp_to_iso, (first.since, first.until))
        more = f", and {number_of(len(left) - 1, 'more gaps')}, see {known.program} coverage" if len(left) > 1 else ""
        text = f"recent: livestreams that ended from {since} to {until} are missing{more}"
        yield Finding("gaps", "recent", text, first.since, first.command)


def _not_listening(all_series: Sequence[Series], known: Known, now: float) -> Iterator[Finding]:
    """Yield the last stretch of the last day in which nobody listened, though notifications are wanted."""
    if not any(series.is_watched for series in all_series) or not known.listened:
        return
    spans = sorted(known.listened)
    silences: list[tuple[float, float]] = []
    heard = spans[0][1]
    for since, until in [*spans[1:], (now, now)]:
        if since - heard > SILENT_FOR and since >= now - LISTENED_FOR:
            silences.append((heard, since))
        heard = max(heard, until)
    if silences:
        since, until = silences[-1]
        begun, ended = map(timestamp_to_iso, (since, until))
        until_now = "until now" if until == now else f"to {ended}"
        text = f"notifications: nobody was listening from {begun} {until_now}"
        more = f", and {number_of(len(silences) - 1, 'more times')} in 24 hours" if len(silences) > 1 else ""
        yield Finding("not_listening", "notifications", text + more, since)


def _damaged(runs: Iterable[PastRun]) -> Iterator[Finding]:
    """Yield that data packages cannot be read."""
    damaged = [run for run in runs if run.state is State.UNREADABLE]
    for spider, number in sorted(Counter(run.spider for run in damaged).items()):
        run = next(each for each in damaged if each.spider == spider)
        more = f" and {number - 1} more" if number > 1 else ""
        reason = printable(run.account.reason or "")[:LONGEST_REASON]
        text = f"{spider or 'output'}: {printable(run.folder or '')}{more} cannot be read: {reason}"
        yield Finding("damaged", spider or "output", text, run.began)


def _disks(known: Known, now: float) -> Iterator[Finding]:
    """Yield that a file system is nearly full."""
    for disk in known.disks:
        for free, size, what in ((disk.free, disk.size, "bytes"), (disk.free_files, disk.files, "files")):
            if size and free < FREE_SHARE * size:
                text = f"disk: {free / size:.1%} of the {what} are free in {printable(disk.folder)}"
                yield Finding("disk", "disk", text, now, f"{known.program} prune --help")
                break
