"""The rules that look at how runs have ended: failed, incomplete, abandoned, degraded. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from parti_scraper.api.quality import MIN_RECORDS
from parti_scraper.api.times import iso_to_timestamp, timestamp_to_iso
from parti_scraper.operations.findings import LONGEST_REASON, Finding
from parti_scraper.operations.history import Account, PastRun, State
from parti_scraper.operations.watched import FEW_RUNS_FOR, FILTERS
from parti_scraper.run.summary import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from parti_scraper.operations.findings import Known
    from parti_scraper.operations.watched import Series


def last_run(series: Series, all_series: Sequence[Series], known: Known, now: float) -> Finding | None:
    """Return what is wrong with how a run of a series has ended, the last one first, unless a later one was good."""
    others = [run for each in all_series for run in each.runs]
    for last in _to_judge(series, known, now):
        rule, what = _ending(last, known)
        if rule == "degraded":
            is_cleared = any(run.began > last.began and _is_good(run, known) for run in others)
        else:
            is_cleared = not rule or _is_covered(last, [run for run in others if run is not last])
        if not is_cleared:
            return _of_a_run(rule, what, series, last, known)
    return None


def _to_judge(series: Series, known: Known, now: float) -> Iterator[PastRun]:
    """Yield the runs of a series whose end may be wrong: the last, and those before whose time no gap would show."""
    runs = list(reversed(series.runs))
    if runs[0].state is State.RUNNING and not _flaws(runs[0], known):
        # It says nothing yet of how it will end.
        runs = [run for run in runs if run.state is not State.RUNNING]
    yield from runs[:1]
    if any(name in series.arguments for name in FILTERS):
        yield from (run for run in runs[1:] if run.window and now - run.began <= FEW_RUNS_FOR)


def _of_a_run(rule: str, what: str, series: Series, last: PastRun, known: Known) -> Finding:
    which = "the last run" if last is series.last else "the run"
    since = last.account.ended_at or _judged(last).began_at or last.began
    name = f" {printable(last.run_id)}" if last.run_id else ""
    can_resume = last.state in {State.STOPPED, State.KILLED} and last.run_id
    command = known.crawl(last.spider, "-a", f"run_id={last.run_id}") if can_resume else None
    return Finding(rule, series.subject, f"{series.subject}: {which}{name} {what}", since, command)


def _ending(run: PastRun, known: Known) -> tuple[str, str]:
    """Return the rule by which the end of a run is a finding, and what to say; the rule is empty if it was good."""
    reason = printable(run.account.reason or "")[:LONGEST_REASON]
    because = f": {reason}" if reason else ""
    match run.state:
        case State.NOT_STARTED:
            return "failed", f"could not start (exit code {run.exit_code}){because}"
        case State.KILLED:
            return ("failed" if run.sealed else "abandoned"), "was killed"
        case State.RUNNING:
            pass
        case State.STOPPED:
            return ("failed" if run.sealed else "abandoned"), f"was stopped{because}"
    # Of a run of days, what was missing from earlier ones is past.
    last = run.days[-1] if run.days else run.account
    if not last.complete and run.state is not State.RUNNING:
        return "incomplete", f"is not complete (exit code {run.exit_code}){because}"
    flaws = _flaws(run, known)
    return ("degraded", f"is degraded: {printable(', '.join(flaws))[:LONGEST_REASON]}") if flaws else ("", "")


def _flaws(run: PastRun, known: Known) -> list[str]:
    """Return the fields that most records lack, of a run, or of the last of its days that has enough records."""
    # The first word of each part is the field.
    return [each for each in _judged(run).degraded if each.split(" ")[0] not in known.expect_absent]


def _judged(run: PastRun) -> Account:
    """Return what tells whether most records of a run lack a field: the last of its days that has enough of them."""
    days = [day for day in (*run.days[-1:], run.today) if day and day.counts.get("served", 0) >= MIN_RECORDS]
    return days[-1] if days else run.account


def _is_good(run: PastRun, known: Known) -> bool:
    return (run.account.complete or run.good_until is not None) and not _flaws(run, known)


def _is_covered(bad: PastRun, others: Iterable[PastRun]) -> bool:
    """Tell whether later runs have what one that did not end well was to bring."""
    windows = []
    for later in others:
        if bad.state is State.NOT_STARTED and _was_at_work(later, bad.began):
            # Of an incremental run there is only one at a time: the first may take hours.
            return True
        if not _has_all_of(later, bad):
            continue
        if bad.state is State.NOT_STARTED or bad.window is None or later.window is None:
            return True
        if later.arguments == bad.arguments:
            return True
        windows.append((later.window.since, later.window.until))
    if bad.window is None:
        return False
    reached = bad.window.since
    for since, until in sorted(windows):
        if since <= _second_after(reached):
            reached = max(reached, until)
    return bool(windows) and reached >= bad.window.until and min(windows)[0] <= bad.window.since


def _was_at_work(run: PastRun, moment: float) -> bool:
    """Tell whether a run was going on at a moment."""
    ended = math.inf if run.state is State.RUNNING else run.account.ended_at
    is_begun = run.state is not State.NOT_STARTED and run.began <= moment
    return is_begun and ended is not None and moment <= ended


def _has_all_of(later: PastRun, bad: PastRun) -> bool:
    """Tell whether a run is good and later, and has the records that one that did not end well was to bring.

    They may be of another window of time.
    """
    if later.state is State.RUNNING or not later.account.complete:
        # One that goes on is good as far as it has come, if it does not work towards an end.
        end = bad.account.ended_at or bad.began
        return later.window is None and (later.good_until or 0.0) > end and later.began >= bad.began
    if not _is_later(later, bad) or (later.truncated and not bad.truncated):
        return False
    if bad.state is State.NOT_STARTED:
        return True
    return not any(name in later.arguments and later.arguments[name] != bad.arguments.get(name) for name in FILTERS)


def _is_later(later: PastRun, bad: PastRun) -> bool:
    """Tell whether a run began after another; both are known in whole seconds, but for those that could not start."""
    began, second = later.began, math.floor(bad.began)
    if bad.state is State.NOT_STARTED or began != second:
        return began >= second
    return (later.account.ended_at or 0.0) > (bad.account.ended_at or math.inf)


def _second_after(moment: str) -> str:
    return timestamp_to_iso(iso_to_timestamp(moment) + 1)
