"""A quarter of the schedule of `deploy/`, by virtual clocks, with incidents; what is said of it is compared with those.

`python -m tests.quarter --days 91 --seed 1` plays it, and prints what was measured. The commands are those of the
units, at the times of the timers, but for `deploy/schedule`: the jobs are started as scrapyd would start them. Health
is looked at once an hour, and every ten minutes around incidents; each crawl looks at it, too. Ctrl-C ends it before
its time, with what was measured so far.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from parti_scraper.mockserver.options import Options, instant_seconds
from parti_scraper.mockserver.world import World
from tests import deployed, forked, older
from tests.collecting import differences
from tests.dataset_reader import Reader
from tests.dataset_truth import Truth, rows_of
from tests.gated import LOOK, Gate, GatedStage, Told, Weather
from tests.incidents import ACKNOWLEDGED, DAY, HOUR, MINUTE, Incident, planned
from tests.support import QUIET, environment_of
from tests.virtual import Clock
from tests.watchers import watching

START = "2035-11-25T21:40:00Z"
OPTIONS: dict[str, Any] = {"events": 200, "years": 0.05, "live": 5, "start_every": 1_200, "page_cap": 50}
# So few channels go live that the default would open the connection again and again; and on this machine a host that
# fails would be asked again at once, as no real one is.
ENV = {"PARTI_WS_IDLE_TIMEOUT": "30m", "PARTI_RETRY_DELAY": "1"}
AGES = "recent=2h,live=15m,notifications=15m,categories=2d"
SERVICES = ("live", "notifications")
# In place of 90 days, so that it matters within a quarter.
OLDER_THAN = "30d"
# Seconds from the end of a service to its start; the second is while the disk is full, which saves processes.
RESTART, RESTART_FULL = 30.0, 600.0
# Real seconds after which a process hangs.
_HANGS = 300.0
# Real seconds between two reads of the dataset.
_BETWEEN_READS = 0.2

forked.preload("tests.gated")


@dataclass
class Measures:
    """What was measured.

    Attributes:
        false: what was said to be wrong and was not: when, the rule and the text.
        messages: when they came, and their titles and texts.
        reader: what a reader has seen of the dataset.
        ages: of the newest ended livestream, snapshot and notification, in seconds at each export.
        codes: how commands ended, by command and exit code.
        wrong: what else is wrong, a line each.
        looks: how often it was looked whether it is healthy.
    """

    false: list[tuple[float, str, str]] = field(default_factory=list)
    messages: list[tuple[float, str, str]] = field(default_factory=list)
    reader: Reader = field(default_factory=Reader)
    ages: list[tuple[float, ...]] = field(default_factory=list)
    codes: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    looks: int = 0

    def of(self, incident: Incident) -> list[tuple[float, str, str]]:
        """Return the messages while something was to be heard of an incident."""
        return [each for each in self.messages if incident.since <= each[0] <= incident.is_over_at]


def kind_of(title: str) -> str:
    """Return what a message is: of a problem, a reminder of one, or the all-clear."""
    if "all is well" in title:
        return "clear"
    return "reminder" if ": still " in title else "problem"


class Process:
    """A process of the schedule with its clock and gate; of a service also when it is started next."""

    def __init__(self, quarter: Quarter, name: str) -> None:
        self.name = name
        self.gate_path, self.clock_path = (quarter.folder / f"{kind}-{name}" for kind in ("gate", "clock"))
        self.gate, self.clock = Gate(self.gate_path), Clock(self.clock_path, quarter.began)
        self.gate.driver = os.getpid()
        self.process: BaseProcess | None = None
        self.starts_at: float | None = 0.0
        self._quarter = quarter

    def start(self, typed: list[str], at: float, trouble: forked.Trouble | None = None) -> None:
        """Start a crawl at a moment, up to which alone it goes."""
        self.clock.move(at)
        self.gate.limit, self.gate.parked = self.clock.elapsed, -1.0
        quarter = self._quarter
        stage = GatedStage(self.clock_path, self.gate_path, quarter.options, quarter.weathers, trouble)
        self.process = forked.command([*typed, *QUIET], quarter.env, quarter.folder / "log", before=stage.enter)

    def goes_to(self, limit: float) -> bool:
        """Let it go up to a moment; tell whether it still runs then."""
        assert self.process
        self.gate.limit = max(limit, self.gate.limit)
        since = time.monotonic()
        while self.gate.parked < self.gate.limit:
            self.process.join(LOOK)
            if self.process.exitcode is not None:
                return False
            if time.monotonic() - since > _HANGS:
                self._quarter.measures.wrong.append(f"{self.name} hangs at {self.clock.elapsed:.0f} s")
                self.process.kill()
        return True

    def ends(self) -> None:
        """Wait until it has ended, however long it takes."""
        while self.goes_to(self.gate.limit + 1):
            pass


class Quarter:
    """The schedule.

    Attributes:
        folder: /var/lib/parti_scraper, and what belongs to the simulation.
        now: the time that was reached, in seconds since the start of the clock.
        incidents: what happens.
        measures: what was measured.
        is_over: set to end it before its time.
        older: a checkout of an earlier version, with the first format; it runs before the first upgrade.
    """

    def __init__(self, folder: Path, seed: int, alert_host: str, incidents: Iterable[Incident]) -> None:
        """Begin in an empty folder."""
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir()
        self.options = Options(now=START, seed=seed, **OPTIONS)
        self.began = instant_seconds(START)
        self.now = 0.0
        self.chance = random.Random(seed)
        self.incidents = sorted(incidents, key=lambda each: each.since)
        self.weathers: list[Weather] = [each.weather for each in self.incidents if each.weather]
        self.measures = Measures()
        self.truth = Truth()
        env = environment_of(self.output, None, {"PARTI_ALERT_URLS": f"json://{alert_host}/", **ENV})
        self.env = env | {"PARTI_HOME": str(self.home), "PARTI_HEALTH_MAX_AGE": AGES}
        for name in ("PARTI_OUTPUT_DIR", "PARTI_STATE_DIR"):
            del self.env[name]
        self.services = [Process(self, name) for name in SERVICES]
        self.job = Process(self, "job")
        self.is_full = False
        self.is_over = False
        self.older: Path | None = None
        self._trouble: forked.Trouble | None = None

    @property
    def output(self) -> Path:
        """PARTI_OUTPUT_DIR, as it is by default."""
        return self.home / "output"

    @property
    def dataset(self) -> Path:
        """What is exported into."""
        return self.home / "dataset"

    # --- Time ----------------------------------------------------------------------------------------------------

    def pass_to(self, moment: float) -> None:
        """Let the services go on up to a moment."""
        for each in self.services:
            while each.starts_at is not None or (each.process and not each.goes_to(moment)):
                if each.starts_at is None:
                    self._ended(each)
                elif each.starts_at <= moment:
                    each.start(command_of(f"parti-{each.name}", self.home), each.starts_at)
                    each.starts_at = None
                else:
                    break
        self.now = max(self.now, moment)

    def _ended(self, service: Process) -> None:
        assert service.process
        self.measures.codes[service.name, service.process.exitcode or 0] += 1
        service.process = None
        self._age_files(service.name, service.clock.told())
        service.starts_at = service.clock.elapsed + (RESTART_FULL if self.is_full else RESTART)

    def stop_services(self, number: int, names: Iterable[str] = SERVICES) -> None:
        """Send the services a signal, and let them end."""
        for each in self.services:
            if each.process and each.name in names:
                os.kill(each.process.pid or 0, number)
                each.ends()
                self._ended(each)

    def _age_files(self, spider: str, told: float) -> None:
        """Give the files of the newest runs of a spider the time that they were told, in place of the real one."""
        for run in sorted((self.output / spider).glob("*"))[-3:]:
            for path in (run, *run.rglob("*")):
                if path.stat().st_mtime < self.began - 30 * DAY:
                    os.utime(path, (told, told))

    # --- Jobs ----------------------------------------------------------------------------------------------------

    def crawl(self, spider: str) -> None:
        """Run what scrapyd would start for a unit that schedules a job, while the services go on."""
        self.job.start(self._typed(spider), self.now, self._trouble)
        self._trouble = None
        while self.job.goes_to(self.job.gate.limit + MINUTE):
            self.pass_to(self.job.gate.limit)
        assert self.job.process
        self.measures.codes[spider, self.job.process.exitcode or 0] += 1
        self._age_files(spider, self.job.clock.told())
        self.now = max(self.now, self.job.clock.elapsed)

    def crawl_older(self, code: int) -> None:
        """Run `recent` as an earlier version, where there is one, which is to end with this exit code."""
        if not self.older:
            return
        self.job.clock.move(self.now)
        self.job.gate.limit = float("inf")
        options = {"now": START, "seed": self.options.seed, **OPTIONS}
        place = (self.job.clock_path, self.job.gate_path)
        ended, said = older.crawl(self.older, self._typed("recent"), *place, options, self.env)
        self.measures.codes["older recent", ended] += 1
        if ended != code or "Traceback" in said:
            self.measures.wrong.append(f"the earlier version ends with {ended}: {said[-300:]}")
        self._age_files("recent", self.job.clock.told())
        self.now = max(self.now, self.job.clock.elapsed)

    def _typed(self, spider: str) -> list[str]:
        """Return the words of what scrapyd would start for a unit that schedules a job."""
        words = command_of(f"parti-{spider}", self.home)
        at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.began + self.now))
        job = f"_job={at}-{spider}-{self.chance.randrange(16**10):010x}"
        return ["crawl", words[0], *(part for each in (*words[1:], job) for part in ("-a", each))]

    def run(self, typed: list[str]) -> forked.Scrapy:
        """Start a command that does not crawl."""
        return forked.Scrapy(typed, self.env, before=Told(self.began + self.now, self.is_full).enter)

    def export(self) -> None:
        """Bring the dataset up to date, while it is read."""
        process = self.run(command_of("parti-export", self.home))
        while process.poll() is None:
            self.measures.reader.read(self.dataset)
            time.sleep(_BETWEEN_READS)
        self._note("export", process)
        self.measures.reader.read(self.dataset)
        if not self.is_full:
            self.measures.ages.append(ages(self.dataset, self.began + self.now))

    def health(self) -> None:
        """Look whether it is healthy."""
        said, _ = self._note("health", self.run([*command_of("parti-health", self.home), "--json"]))
        self.measures.looks += 1
        for each in json.loads(said)["findings"] if said else []:
            if not any(incident.does_explain(each["rule"], each["subject"], self.now) for incident in self.incidents):
                self.measures.false.append((self.now, each["rule"], each["text"]))

    def prune(self) -> None:
        """Remove old records, where that can be done."""
        if not (forked.ROOT / "parti_scraper/commands/prune.py").exists():
            return
        self.truth.see(self.output, state=self.home / ".scrapy/parti")
        words = command_of("parti-prune", self.home)
        words[words.index("--older-than") + 1] = OLDER_THAN
        self._note("prune", self.run(words))

    def _note(self, name: str, process: forked.Scrapy) -> tuple[str, str]:
        printed = process.communicate(_HANGS)
        code = process.returncode or 0
        self.measures.codes[name, code] += 1
        if code not in ({0, 4} if name == "health" else {0}) and not self.is_full:
            self.measures.wrong.append(f"{name} ends with {code} at {self.now / DAY:.2f} days: {printed[1][-300:]}")
        return printed

    # --- The schedule --------------------------------------------------------------------------------------------

    def play(self, days: float, hear: Any) -> None:
        """Let so many days pass; `hear` returns the messages that have come so far."""
        actions = {name: getattr(self, name) for name in ("export", "health", "prune")}
        self.crawl_older(0)
        moments = [*self._timed(days), *self._happening()]
        for at, _, what in sorted(moments):
            if at > days * DAY or self.is_over:
                break
            self.pass_to(max(at, self.now))
            if what in {"recent", "categories"}:
                self.crawl(what)
            elif what in actions:
                actions[what]()
            else:
                self.happen(what)
            self._hear(hear())
        if self.is_full:
            self.happen("room")
        self.stop_services(signal.SIGTERM)
        for each in self.services:
            self.now = max(self.now, each.clock.elapsed)
        self.crawl("recent")
        self.export()
        self._check()

    def _timed(self, days: float) -> Iterator[tuple[float, int, str]]:
        for place, name in enumerate(("recent", "categories", "export", "prune", "health")):
            for at in times_of(f"parti-{name}", self.began, days):
                if name != "health" or self._is_looked_at(at):
                    yield at + self.chance.uniform(0, 60), place, name

    def _is_looked_at(self, at: float) -> bool:
        around = [(each.since, each.since + 1.2 * HOUR) for each in self.incidents]
        around += [(each.until, each.until + 1.2 * HOUR) for each in self.incidents]
        return at % HOUR < 10 * MINUTE or any(since <= at <= until for since, until in around)

    def _happening(self) -> Iterator[tuple[float, int, str]]:
        for each in self.incidents:
            if not each.weather:
                yield each.since, -1, each.what
            if each.what == "full":
                yield each.until, -1, "room"
            if each.what == "absent":
                yield each.since + ACKNOWLEDGED, -1, "acknowledged"

    def happen(self, what: str) -> None:
        """Let something happen that is no weather."""
        match what:
            case "full" | "room":
                self.is_full = what == "full"
                for each in (*self.services, self.job):
                    each.gate.is_full = self.is_full
                if what == "room":
                    self.stop_services(signal.SIGKILL)
            case "killed job":
                self._trouble = forked.Trouble(crash_at=self.chance.randrange(1, 5))
            case "killed live" | "killed notifications":
                self.stop_services(signal.SIGKILL, [what.split(" ")[1]])
            case "acknowledged":
                self.env["PARTI_EXPECT_ABSENT"] = "total_viewers,viewers_count"
                self.stop_services(signal.SIGTERM)
            case "upgrade":
                self.stop_services(signal.SIGTERM)
            case "rollback":
                self.stop_services(signal.SIGTERM)
                # Its ledger is not of that version.
                self.crawl_older(1)

    def _hear(self, messages: list[dict[str, str]]) -> None:
        for each in messages[len(self.measures.messages) :]:
            self.measures.messages.append((self.now, each["title"], each["message"]))

    def _check(self) -> None:
        """Compare the dataset with what is true."""
        self.truth.see(self.output, state=self.home / ".scrapy/parti")
        wrong = differences(self.dataset, self.truth.tables(), but=self.truth.ties())
        self.measures.wrong += [f"dataset: {line}" for line in wrong]
        world = World(Options(now=START, seed=self.options.seed, speed=0, **OPTIONS))
        world.advance(self.now)
        true = {each["event_id"] for each in world.recent_at() if each["event_end_ts"] < self.began + self.now - MINUTE}
        held = {each["event_id"] for each in rows_of(self.dataset, "livestreams")}
        if true - held:
            self.measures.wrong.append(f"dataset: of {len(true)} livestreams, {len(true - held)} are missing")


def command_of(name: str, home: Path) -> list[str]:
    """Return what a unit starts, without the program."""
    return deployed.command_of(name, home)[1:]


def times_of(name: str, began: float, days: float) -> Iterator[float]:
    """Yield when a timer of `deploy/` is due, in seconds since the start of the clock."""
    text = deployed.unit_of(deployed.DEPLOY / f"{name}.timer")["Timer"]["OnCalendar"]
    found = re.fullmatch(r"(?:(Sun) )?\*-\*-\* (\*|\d\d):(\d\d)(?:/(\d\d))?:00", text)
    assert found, text
    day, hour, minute, step = found.groups()
    minutes = set(range(int(minute), 60, int(step))) if step else {int(minute)}
    first = int(-(-began // MINUTE)) * 60
    for moment in range(first, int(began + days * DAY), 60):
        at = time.gmtime(moment)
        is_day = not day or at.tm_wday == 6
        if is_day and at.tm_min in minutes and hour in {"*", f"{at.tm_hour:02}"}:
            yield moment - began


def ages(dataset: Path, now: float) -> tuple[float, ...]:
    """Return how old the newest row of tables is, in seconds."""
    columns = {"livestreams": "scraped_at", "live_channels": "observed_at", "live_notifications": "received_at"}
    newest = (Reader.newest(dataset, table, column) for table, column in columns.items())
    return tuple(now - each for each in newest)


def report(quarter: Quarter) -> Iterator[str]:
    """Yield what was measured, a line each."""
    measures, days = quarter.measures, quarter.now / DAY
    yield f"{days:.1f} days, {measures.looks} looks at health, {measures.reader.reads} reads during exports"
    codes = (f"{name} {code}: {number}" for (name, code), number in sorted(measures.codes.items()))
    yield f"commands, by exit code: {', '.join(codes)}"
    yield f"days falsely unhealthy: {len({at // DAY for at, *_ in measures.false})}"
    yield from (f"  {at / DAY:.2f} {rule}: {text}" for at, rule, text in measures.false[:20])
    missed = [each for each in quarter.incidents if is_missed(measures, each)]
    yield f"incidents: {len(quarter.incidents)}, missed: {len(missed)}"
    for each in quarter.incidents:
        kinds = Counter(kind_of(title) for _, title, _ in measures.of(each))
        yield f"  {each.what:22}{each.since / DAY:6.2f} to {each.until / DAY:6.2f}  {dict(kinds)}"
        yield from (f"    {at / DAY:.2f} {title}: {text}" for at, title, text in measures.of(each))
    yield f"messages about nothing: {len(strays(quarter))}"
    yield from (f"  {at / DAY:.2f} {title}: {text}" for at, title, text in strays(quarter))
    yield f"rows lost: {measures.reader.lost}, doubled: {measures.reader.doubled}"
    for place, name in enumerate(("ended livestreams", "snapshots", "notifications")):
        values = sorted(each[place] for each in measures.ages)
        middle = values[len(values) // 2]
        yield f"age of the newest at an export, {name}: median {middle:.0f} s, most {values[-1]:.0f} s"
    for process in (*quarter.services, quarter.job):
        yield f"requests an hour, {process.name}: {process.gate.requests / (days * 24):.1f}"
    yield "Wrong is:" if measures.wrong else "Nothing else is wrong"
    yield from measures.wrong


def is_missed(measures: Measures, incident: Incident) -> bool:
    """Tell whether nobody was told of an incident of which somebody must be."""
    return incident.is_told and not any(kind_of(title) == "problem" for _, title, _ in measures.of(incident))


def strays(quarter: Quarter) -> list[tuple[float, str, str]]:
    """Return the messages that are about no incident."""
    heard = [message for each in quarter.incidents for message in quarter.measures.of(each)]
    return [each for each in quarter.measures.messages if each not in heard]


def play(
    folder: Path,
    days: float,
    seed: int,
    incidents: Iterable[Incident] | None = None,
    begun: Callable[[Quarter], object] = lambda _: None,
) -> Quarter:
    """Play so many days in an empty folder; without incidents, those of every kind.

    `begun` is called before the first moment.
    """
    midnight = DAY - instant_seconds(START) % DAY
    chosen = planned(days, random.Random(seed), midnight) if incidents is None else incidents
    with watching() as watcher:
        quarter = Quarter(folder, seed, watcher.host, chosen)
        begun(quarter)
        try:
            quarter.play(days, lambda: watcher.messages)
        finally:
            for each in (*quarter.services, quarter.job):
                if each.process:
                    each.process.kill()
    return quarter


def main() -> int:
    """Play, print what was measured, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=float, default=91)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--older", type=Path, help="checkout of an earlier version, which is run before and in between")
    parser.add_argument("--keep", type=Path, help="empty folder for what is left (default: it is deleted)")
    args = parser.parse_args()
    began = time.monotonic()

    def begin(quarter: Quarter) -> None:
        quarter.older = args.older

        def end(*_: object) -> None:
            quarter.is_over = True

        signal.signal(signal.SIGINT, end)

    with tempfile.TemporaryDirectory() as temporary:
        quarter = play(args.keep or Path(temporary), args.days, args.seed, begun=begin)
        print("\n".join(report(quarter)))
    print(f"took {time.monotonic() - began:.0f} s")
    return int(bool(quarter.measures.false or quarter.measures.wrong or strays(quarter)))


if __name__ == "__main__":
    sys.exit(main())
