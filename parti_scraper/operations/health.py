"""The rules by which a collection is healthy or not. Pure: what is known is passed in.

Moments are Unix seconds. docs/operations.md says of each rule what clears it: none can hold for ever.
"""

from __future__ import annotations

import json
import math
import shlex
from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from parti_scraper.api.quality import MIN_RECORDS
from parti_scraper.api.times import DAY, iso_to_timestamp, timestamp_to_iso
from parti_scraper.operations.history import Account, PastRun, State
from parti_scraper.run.summary import printable
from parti_scraper.wording import length_of, number_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

# Seconds. What began that much later than now did so by a wrong clock, and says nothing.
CLOCK_TOLERANCE = 3_600
# Runs, or days of runs, that make a series, which is then expected to go on.
RUNS_OF_A_SERIES = 5
# A series is late after so many times its usual distance, but never sooner than after so many seconds.
LATE_TIMES, LATE_AT_LEAST = 3, 300
# The usual distance, in seconds, of what a run that goes on for days observes, unless its interval is longer.
USUAL_OBSERVATIONS = 600
# Seconds after which a series that does not go on is given up: as long as it has lasted, but within these.
GIVEN_UP_AFTER = (DAY, 30 * DAY)
# Seconds for which a few runs that are no series yet are looked at.
FEW_RUNS_FOR = 7 * DAY
# A series has a usual break where it had one at the same time on so many days before, or in so many weeks.
USUAL_BREAKS = ((DAY, 3), (7 * DAY, 2))
# Seconds; no break is longer.
LONGEST_BREAK = 8 * DAY
# A run that is the first of its spider may last so many seconds.
FIRST_RUN_LASTS = DAY
# Seconds that rules look back which compare with what is usual.
USUAL_DAYS = 30 * DAY
# Half of the usual is few, unless chance explains it: so many standard deviations of a count.
FEW_SHARE, BY_CHANCE = 0.5, 3.0
# Of records set aside, too: that many standard deviations, and that many records, above what is usual.
ASIDE_BY_CHANCE, ASIDE_AT_LEAST = 4.0, 2
# Days before, and the share of a day's usual runs, that are needed to compare days.
DAYS_TO_COMPARE, DAYS_COMPARED, RUNS_TO_COMPARE = 3, 14, 0.8
# Seconds for which a field is new.
NEW_FOR = DAY
# A field that is unreadable in a smaller share of the records is no news.
UNREADABLE_SHARE = 0.01
# An API that makes up so many names of fields in a month has no news.
NAMES_MADE_UP = 20
# Seconds without anybody listening that count, in the last day.
SILENT_FOR, LISTENED_FOR = 600, DAY
# The share of a file system that must be free.
FREE_SHARE = 0.05

# The most pressing first.
RULES = (
    "late",
    "failed",
    "incomplete",
    "abandoned",
    "gaps",
    "not_listening",
    "degraded",
    "few_records",
    "set_aside",
    "fields",
    "damaged",
    "disk",
    "alerts",
)
_FIELDS_NAMED, _LONGEST_NAME, _LONGEST_REASON = 5, 60, 200
_FILTERS = ("categories", "user_id")
# What differs between runs of a series: `since=24h` is stored as the moment that it meant.
_MOVING = {"since", "until"}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with the collection.

    Attributes:
        rule: the name of the rule, such as `late`; docs/operations.md has a line for each.
        subject: the spider; of a series with arguments also these, such as `recent user_id=5`; `disk` and the like for
            what is about no spider.
        text: what is wrong, one line without a word that the API chose but for names of fields.
        since: from when on it is so.
        command: what helps, to be typed in a shell; None where no command does.
    """

    rule: str
    subject: str
    text: str
    since: float
    command: str | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of time that no run proves, and the command that fetches it."""

    since: float
    until: float
    command: str


@dataclass(frozen=True, slots=True)
class Disk:
    """What is free on the file system of a folder: bytes, and numbers of files (0 in all where it has no limit)."""

    folder: str
    free: int
    size: int
    free_files: int = 0
    files: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """What is known beside the runs.

    Attributes:
        max_ages: spiders that are watched, and the age in seconds at which each is late; empty: series are watched.
        gaps: of unfiltered ended livestreams, oldest first.
        listened: from when to when somebody listened to notifications, in the last days.
        disks: the file systems that are written to.
        alerts_failing: since when no alert could be sent, and why; None if all could.
        expect_absent: fields that are known to be absent, see PARTI_EXPECT_ABSENT.
        program: what is typed before a command.
    """

    max_ages: Mapping[str, float] = field(default_factory=dict)
    gaps: Sequence[Gap] = ()
    listened: Sequence[tuple[float, float]] = ()
    disks: Sequence[Disk] = ()
    alerts_failing: tuple[float, str] | None = None
    expect_absent: frozenset[str] = frozenset()
    program: str = "scrapy"


@dataclass(frozen=True, slots=True)
class Watched:
    """A spider or a series that is expected to go on, when it was good last, and the age at which it is late."""

    subject: str
    good_at: float | None
    max_age: float


@dataclass(frozen=True, slots=True)
class Health:
    """What was found, the most pressing first, and what is watched."""

    findings: list[Finding]
    watched: list[Watched]


def examine(runs: Sequence[PastRun], known: Known, now: float) -> Health:
    """Apply all rules.

    Args:
        runs: of one source, oldest first; those of the last `USUAL_DAYS` at least.
        known: what else is known.
        now: the present.
    """
    past = [_by_this_clock(run, now) for run in runs if run.began <= now + CLOCK_TOLERANCE]
    spiders: dict[str, list[_Series]] = {}
    for each in _series(past, known, now):
        spiders.setdefault(each.spider, []).append(each)
    late = [*_late(spiders, known, now)]
    watched = [each for each, _ in late]
    findings = [finding for _, finding in late if finding]
    for all_series in spiders.values():
        looked_at = [each for each in all_series if each.is_looked_at]
        for series in looked_at:
            findings += filter(None, [_last_run(series, all_series, known, now)])
            findings += filter(None, [_few_records(series, now), _set_aside(series, now)])
        if looked_at:
            findings += _new_fields(all_series, now)
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


# --- Series ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Series:
    """Runs of a spider with the same arguments, oldest first.

    Attributes:
        spider: its name.
        subject: the spider and the arguments.
        arguments: the arguments, without what differs from run to run.
        runs: those that are on disk, and those that were refused.
        usual: seconds from one to the next: the median of the distances between their starts, or what is usual for the
            snapshots of a run with days.
        is_watched: whether it is expected to go on.
        is_looked_at: whether what its last run did matters.
        is_replaced: whether another series goes on in its place.
    """

    spider: str
    subject: str
    arguments: Mapping[str, Any]
    runs: list[PastRun]
    usual: float = 0.0
    is_watched: bool = False
    is_looked_at: bool = False
    is_replaced: bool = False

    @property
    def size(self) -> int:
        """How many runs there are, or days of runs."""
        return sum(max(1, len(run.days)) for run in self.runs)

    @property
    def last(self) -> PastRun:
        return self.runs[-1]

    def good_at(self) -> float | None:
        """Return the last moment at which one of the runs had everything."""
        return max((run.good_until for run in self.runs if run.good_until is not None), default=None)


def _series(runs: Sequence[PastRun], known: Known, now: float) -> list[_Series]:
    by_key: dict[tuple[str, str], _Series] = {}
    for run in runs:
        if run.state is State.UNREADABLE:
            continue
        key = series_key(run.arguments)
        series = by_key.get((run.spider, key))
        if series is None:
            arguments = {name: value for name, value in run.arguments.items() if name not in _MOVING}
            series = by_key[run.spider, key] = _Series(run.spider, _subject(run.spider, arguments), arguments, [])
        series.runs.append(run)
    found = list(by_key.values())
    for series in found:
        series.usual = _usual_distance(series)
    for series in found:
        if series.spider in known.max_ages or not known.max_ages:
            _watch(series, found, known.max_ages.get(series.spider), now)
    return found


def _watch(series: _Series, others: Sequence[_Series], max_age: float | None, now: float) -> None:
    """Set whether a series is watched and looked at; `max_age` is that of its spider, if it is named."""
    series.is_replaced = _is_replaced(series, others)
    silent = now - _last_sign(series)
    if series.size >= RUNS_OF_A_SERIES:
        is_given_up = silent > (max_age or 0.0) and _is_given_up(series, now)
        series.is_looked_at = not (is_given_up or series.is_replaced)
        series.is_watched = series.is_looked_at or max_age is not None
        return
    # Of a typing error at the keyboard nobody needs to hear.
    is_begun = max_age is not None or any(run.state is not State.NOT_STARTED for run in series.runs)
    series.is_looked_at = is_begun and silent <= max(FEW_RUNS_FOR, max_age or 0.0)
    series.is_watched = max_age is not None


def series_key(arguments: Mapping[str, Any]) -> str:
    """Return what is the same for the runs of a spider that make a series: their arguments, but for those that move."""
    kept = {name: value for name, value in arguments.items() if name not in _MOVING} if arguments else None
    return json.dumps(kept, sort_keys=True) if kept else ""


def _usual_distance(series: _Series) -> float:
    if any(run.days or run.today for run in series.runs):
        interval = series.arguments.get("interval")
        return max(interval if isinstance(interval, (int, float)) else 0.0, USUAL_OBSERVATIONS)
    distances = [after.began - before.began for before, after in pairwise(series.runs[-50:])]
    return median(distances) if distances else 0.0


def _subject(spider: str, arguments: Mapping[str, Any]) -> str:
    words = [spider]
    for name, value in arguments.items():
        # A length of time is a number with a fraction, as it is stored.
        plain = int(value) if isinstance(value, float) and value.is_integer() else value
        text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(plain)
        words.append(f"{name}={text.lower() if isinstance(value, bool) else text}")
    return printable(" ".join(words))[:_LONGEST_REASON]


def _last_sign(series: _Series) -> float:
    """Return when a series was last known to go on."""
    last = series.last
    return max(last.began, last.account.ended_at or 0.0, last.good_until or 0.0)


def _is_given_up(series: _Series, now: float) -> bool:
    """Tell whether a series was silent for as long as it had lasted."""
    if any(run.state is State.RUNNING for run in series.runs):
        return False
    least, most = GIVEN_UP_AFTER
    lasted = _last_sign(series) - series.runs[0].began
    return now - _last_sign(series) > min(max(lasted, least), most)


def _is_replaced(series: _Series, others: Iterable[_Series]) -> bool:
    """Tell whether another series of the spider has begun after the last run of this one, and goes well."""
    for other in others:
        if other.spider == series.spider and other is not series:
            later = [run for run in other.runs if run.account.complete and run.began > _last_sign(series)]
            if len(later) >= RUNS_OF_A_SERIES and len(later) == sum(run.account.complete for run in other.runs):
                return True
    return False


def _is_whole(run: PastRun) -> bool:
    """Tell whether a run was to take everything."""
    return not run.truncated and not any(name in run.arguments for name in _FILTERS)


# --- Runs --------------------------------------------------------------------------------------------------------


def _late(
    spiders: Mapping[str, Sequence[_Series]], known: Known, now: float
) -> Iterator[tuple[Watched, Finding | None]]:
    """Yield what is watched, and what is wrong where no run was good for too long."""
    begun = min((run.began for each in spiders.values() for series in each for run in series.runs), default=None)
    for spider, max_age in known.max_ages.items():
        runs = [run for series in spiders.get(spider, ()) for run in series.runs]
        goods = [run.good_until for run in _wanted(spiders.get(spider, ())) if run.good_until is not None]
        watched = Watched(spider, max(goods, default=None), max_age)
        if not runs and begun is not None and now - begun <= max_age:
            # The schedule is so new that its turn has not come.
            yield watched, None
            continue
        yield _judge_age(watched, runs, spider, known, now)
    for series in (each for all_series in spiders.values() for each in all_series):
        if series.is_watched and not known.max_ages:
            max_age = max(LATE_TIMES * series.usual, LATE_AT_LEAST)
            good_at = series.good_at()
            if good_at is not None and _is_on_break(series, good_at, max_age, now):
                yield Watched(series.subject, good_at, max_age), None
                continue
            words = series.subject.split(" ")
            command = " ".join([words[0], *(f"-a {shlex.quote(word)}" for word in words[1:])])
            yield _judge_age(Watched(series.subject, good_at, max_age), series.runs, command, known, now)


def _wanted(all_series: Iterable[_Series]) -> Sequence[PastRun]:
    """Return the runs that keep a named spider from being late: those without filters, if they are not an exception."""
    begun = [(run, series) for series in all_series for run in series.runs if run.state is not State.NOT_STARTED]
    whole = [run for run, series in begun if _is_whole(run) and not series.is_replaced]
    is_usual = len(whole) >= RUNS_OF_A_SERIES or 2 * len(whole) >= len(begun)
    return whole if is_usual else [run for run, _ in begun]


def _is_on_break(series: _Series, good_at: float, max_age: float, now: float) -> bool:
    """Tell whether a series was silent as long only at times of the day or week at which it usually is."""
    if not good_at + max_age < now <= good_at + LONGEST_BREAK or any(run.days or run.today for run in series.runs):
        return False
    starts = sorted(run.began for run in series.runs)
    # The step is so small that none of the runs that were to come is stepped over.
    step = max(series.usual, LATE_AT_LEAST / LATE_TIMES) / 2
    moments = [good_at + max_age + step * number for number in range(math.ceil((now - good_at - max_age) / step))]
    return all(_is_usually_silent(starts, series.usual, max_age, good_at, moment) for moment in (*moments, now))


def _is_usually_silent(starts: Sequence[float], usual: float, max_age: float, good_at: float, moment: float) -> bool:
    """Tell whether nothing began before the same time on earlier days or in earlier weeks; a late start is no end."""
    for period, times in USUAL_BREAKS:
        # Only what was before the silence says what is usual.
        first = max(1, math.ceil((moment - good_at) / period))
        earlier = [moment - period * number for number in range(first, first + times)]
        if earlier[-1] - max_age < starts[0]:
            continue
        if all(bisect_right(starts, each - max_age) == bisect_right(starts, each - usual) for each in earlier):
            return True
    return False


def _judge_age(
    watched: Watched, runs: Sequence[PastRun], command: str, known: Known, now: float
) -> tuple[Watched, Finding | None]:
    good_at = watched.good_at
    if good_at is not None and now - good_at <= watched.max_age:
        return watched, None
    if good_at is None and any(run.state is State.RUNNING and now - run.began <= FIRST_RUN_LASTS for run in runs):
        return watched, None
    if good_at is None:
        what = "no run was ever complete" if runs else "it has never run"
        since = min((run.began for run in runs), default=now)
        if runs and now - since <= watched.max_age:
            # How they have ended is told by other rules.
            return watched, None
    else:
        what, since = f"no complete run since {timestamp_to_iso(good_at)}", good_at
    age = f"{length_of(math.floor(now - since))} ago, late after {length_of(math.floor(watched.max_age))}"
    going = ", one is going on" if any(run.state is State.RUNNING for run in runs) else ""
    text = f"{watched.subject}: {what} ({age}{going})" if runs else f"{watched.subject}: {what}"
    return watched, Finding("late", watched.subject, text, since, f"{known.program} crawl {command}")


def _last_run(series: _Series, all_series: Sequence[_Series], known: Known, now: float) -> Finding | None:
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


def _to_judge(series: _Series, known: Known, now: float) -> Iterator[PastRun]:
    """Yield the runs of a series whose end may be wrong: the last, and those before whose time no gap would show."""
    runs = list(reversed(series.runs))
    if runs[0].state is State.RUNNING and not _flaws(runs[0], known):
        # It says nothing yet of how it will end.
        runs = [run for run in runs if run.state is not State.RUNNING]
    yield from runs[:1]
    if any(name in series.arguments for name in _FILTERS):
        yield from (run for run in runs[1:] if run.window and now - run.began <= FEW_RUNS_FOR)


def _of_a_run(rule: str, what: str, series: _Series, last: PastRun, known: Known) -> Finding:
    which = "the last run" if last is series.last else "the run"
    since = last.account.ended_at or _judged(last).began_at or last.began
    name = f" {printable(last.run_id)}" if last.run_id else ""
    can_resume = last.state in {State.STOPPED, State.KILLED} and last.run_id
    command = f"{known.program} crawl {last.spider} -a {shlex.quote(f'run_id={last.run_id}')}" if can_resume else None
    return Finding(rule, series.subject, f"{series.subject}: {which}{name} {what}", since, command)


def _ending(run: PastRun, known: Known) -> tuple[str, str]:
    """Return the rule by which the end of a run is a finding, and what to say; the rule is empty if it was good."""
    reason = printable(run.account.reason or "")[:_LONGEST_REASON]
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
    return ("degraded", f"is degraded: {printable(', '.join(flaws))[:_LONGEST_REASON]}") if flaws else ("", "")


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
    return not any(name in later.arguments and later.arguments[name] != bad.arguments.get(name) for name in _FILTERS)


def _is_later(later: PastRun, bad: PastRun) -> bool:
    """Tell whether a run began after another; both are known in whole seconds, but for those that could not start."""
    began, second = later.began, math.floor(bad.began)
    if bad.state is State.NOT_STARTED or began != second:
        return began >= second
    return (later.account.ended_at or 0.0) > (bad.account.ended_at or math.inf)


def _second_after(moment: str) -> str:
    return timestamp_to_iso(iso_to_timestamp(moment) + 1)


# --- Content -----------------------------------------------------------------------------------------------------


def _accounts(series: _Series, now: float) -> list[Account]:
    """Return what runs of a series that were complete, or days of them, have found lately, oldest first."""
    found: list[Account] = []
    for run in series.runs:
        if run.days:
            found += run.days
        elif run.state is State.ENDED:
            found.append(run.account)
    return [each for each in found if each.began_at is not None and now - each.began_at <= USUAL_DAYS]


def _few_records(series: _Series, now: float) -> Finding | None:
    """Return that a series brings less than half of its usual records."""
    good = [each for each in _accounts(series, now) if each.complete and each.ended_at is not None]
    if not good or series.arguments.get("max_records"):
        return None
    last = good[-1]
    compared = _day_means(good, now) if last.day is None else _whole_days(good)
    if compared is None and last.day is None and len(good) > RUNS_OF_A_SERIES:
        compared = _written(last), min(map(_written, good[:-1]))
    if compared is None:
        return None
    written, usual = compared
    if written >= FEW_SHARE * usual or usual - written <= BY_CHANCE * math.sqrt(usual):
        return None
    what = f"{series.subject}: {written:,.0f} records a {'day' if last.day else 'run'}, usual are {usual:,.0f}"
    return Finding("few_records", series.subject, what, last.began_at or now)


def _written(account: Account) -> int:
    return account.counts.get("written", 0)


def _day_means(good: Sequence[Account], now: float) -> tuple[float, float] | None:
    """Return the mean records of the runs of the last 24 hours, and the median of such means of days before.

    None if there are too few days or runs to compare: it matters which hours of the day they are from.
    """
    days: defaultdict[int, list[int]] = defaultdict(list)
    for each in good:
        days[math.floor((now - (each.ended_at or now)) / DAY)].append(_written(each))
    before = [days[ago] for ago in range(1, DAYS_COMPARED + 1) if ago in days]
    if len(before) < DAYS_TO_COMPARE:
        return None
    usual_runs = median(map(len, before))
    today = days.get(0, [])
    if usual_runs < 2 or len(today) < RUNS_TO_COMPARE * usual_runs:
        return None
    means = {ago: sum(days[ago]) / len(days[ago]) for ago in days if len(days[ago]) >= RUNS_TO_COMPARE * usual_runs}
    now_mean = means.pop(0)
    return now_mean, _usual(means, now_mean)


def _usual(days: Mapping[int, float], of_now: float) -> float:
    """Return what is usual, by how many days ago it was: of all days, or of the same weekday if that is less."""
    same = [days[ago] for ago in (7, 14) if ago in days]
    return min([median(days.values()), *same]) if days else of_now


def _whole_days(good: Sequence[Account]) -> tuple[float, float] | None:
    """Return the records of the last whole day of a run that goes on for days, and the median of the days before."""
    whole = [each for each in good if each.day and (each.ended_at or 0) - (each.began_at or 0) >= 0.95 * DAY]
    if len(whole) <= DAYS_TO_COMPARE or whole[-1] is not good[-1]:
        return None
    before = {
        round(((whole[-1].began_at or 0) - (each.began_at or 0)) / DAY): float(_written(each))
        for each in whole[-DAYS_COMPARED - 1 : -1]
    }
    return _written(whole[-1]), _usual(before, _written(whole[-1]))


def _set_aside(series: _Series, now: float) -> Finding | None:
    """Return that the last run, or day, of a series has set more records aside than usual."""
    accounts = _accounts(series, now)
    if len(accounts) < 2:
        return None
    last = series.last.today or accounts.pop()
    before = accounts
    aside, served = (last.counts.get(name, 0) for name in ("quarantined", "served"))
    earlier = sum(each.counts.get("quarantined", 0) for each in before)
    served_earlier = sum(each.counts.get("served", 0) for each in before)
    # Half a record more than there were: that few records had none says little.
    expected = served * (earlier + 0.5) / (served_earlier + 1)
    if aside <= expected + ASIDE_BY_CHANCE * math.sqrt(expected) + ASIDE_AT_LEAST:
        return None
    share = earlier / max(1, served_earlier)
    what = f"{number_of(aside, 'records')} of {served:,} were set aside, usual are {share:.1%}; see quarantine.jsonl"
    return Finding("set_aside", series.subject, f"{series.subject}: {what}", last.began_at or now)


def _new_fields(all_series: Sequence[_Series], now: float) -> Iterator[Finding]:
    """Yield the fields that records of a spider have, or lack, for the first time."""
    accounts = sorted(
        (each for series in all_series for each in (*_accounts(series, now), *_going_on(series))),
        key=lambda each: each.began_at or 0,
    )
    first: dict[tuple[str, str], float] = {}
    is_first = True
    for each in accounts:
        for problem in _field_problems(each):
            # What the first run has is not new.
            first.setdefault(problem, 0.0 if is_first else each.began_at or 0.0)
        is_first = is_first and not each.counts.get("served", 0)
    earlier = sum(0 < moment < now - NEW_FOR for moment in first.values())
    new = {problem: moment for problem, moment in first.items() if moment and now - moment <= NEW_FOR}
    if not new or earlier > NAMES_MADE_UP:
        return
    spider = all_series[0].spider
    for kind in dict.fromkeys(kind for kind, _ in new):
        names = sorted(name for each, name in new if each == kind)
        shown = ", ".join(printable(name[:_LONGEST_NAME]) for name in names[:_FIELDS_NAMED])
        more = f" and {len(names) - _FIELDS_NAMED} more" if len(names) > _FIELDS_NAMED else ""
        yield Finding("fields", spider, f"{spider}: {kind}: {shown}{more}", min(new[kind, name] for name in names))


def _going_on(series: _Series) -> Iterator[Account]:
    if series.last.state is State.RUNNING:
        yield series.last.today or series.last.account


def _field_problems(account: Account) -> Iterator[tuple[str, str]]:
    """Yield what is odd about fields: what, and which."""
    for name in account.unknown_fields:
        yield "fields that were unknown before", name
    served = account.counts.get("served", 0)
    for name, number in account.unreadable_fields.items():
        if number >= UNREADABLE_SHARE * served:
            yield "fields that could be read before", name
    for name in account.vanished_fields:
        yield "fields that no record has any more", name


# --- The rest ----------------------------------------------------------------------------------------------------


def _gaps(runs: Iterable[PastRun], known: Known) -> Iterator[Finding]:
    """Yield that stretches of time are missing that nobody is fetching."""
    windows = [run.window for run in runs if run.state is State.RUNNING and run.window and _is_whole(run)]
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


def _not_listening(all_series: Sequence[_Series], known: Known, now: float) -> Iterator[Finding]:
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
        reason = printable(run.account.reason or "")[:_LONGEST_REASON]
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
