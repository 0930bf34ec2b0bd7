"""Days or weeks of a schedule in which crawls are killed, run out of disk and are told the wrong time.

`python -m tests.simulated --days 30 --seed 1` plays them, prints what was done and what is wrong with what was left,
and ends with 1 where something is. What is to be right is in `tests/left_behind.py`.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from parti_scraper.mockserver.history import Stream
from parti_scraper.mockserver.options import Options, instant_seconds
from parti_scraper.mockserver.world import World
from tests import forked, left_behind
from tests.left_behind import Session
from tests.support import QUIET, environment_of
from tests.virtual import Act, Change, Clock, Stage

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
# Far off, so that the times that files really have are told from those that they are given.
START = "2035-11-25T21:40:00Z"
# Real seconds after which a crawl hangs, however many days it was to last.
_HANGS = 300
# Shares of how a session ends that was begun to last.
_FATES = {"kill": 0.35, "crash": 0.3, "full": 0.2, "stop": 0.15}

forked.preload("tests.virtual")


class Simulation:
    """A spider on its schedule, by a clock and a world of its own; the same for the same seed.

    Attributes:
        spider: its name.
        output: PARTI_OUTPUT_DIR.
        log: what the crawls print.
        world: what is true, at the time that was reached.
        sessions: the crawls so far.
        wrong: what is wrong, a line each.
    """

    options: ClassVar[dict[str, Any]]
    env: ClassVar[dict[str, str]] = {}
    spider: ClassVar[str]
    arguments: ClassVar[tuple[str, ...]] = ()

    def __init__(self, folder: Path, seed: int) -> None:
        """Begin in an empty folder."""
        self.folder = folder
        self.output, self.log = folder / "output", folder / "log"
        self._options = Options(now=START, seed=seed, **self.options)
        # It is moved by hand.
        self.world = World(Options(now=START, seed=seed, speed=0, **self.options))
        self.clock = Clock(folder / "clock", instant_seconds(START))
        self.by_chance = random.Random(f"{self.spider} {seed}")
        self.sessions: list[Session] = []
        self.changes: list[Change] = []
        self.wrong: list[str] = []
        self._run = 0

    def play(self, days: float) -> None:
        """Let so many days pass, and look at what is left."""
        raise NotImplementedError

    def check(self) -> None:
        """Look at what is left."""
        runs = self.output / self.spider
        self.wrong += left_behind.wrong_runs(runs)
        self.wrong += self.wrong_rows(runs)

    def wrong_rows(self, runs: Path) -> Iterable[str]:
        """Return what is wrong with the rows in the folders of the runs, by the truth."""
        raise NotImplementedError

    def crawl(self, run_id: str, arguments: Iterable[str], *acts: Act, fate: str) -> Session:
        """Run the spider until it ends or is ended.

        Args:
            run_id: the name of the run.
            arguments: of the spider, such as `interval=5m`.
            acts: what happens to it.
            fate: what it ends with, for the report.
        """
        since, error, said = self.clock.elapsed, self.clock.error, self._said
        code = self._fork(run_id, arguments, acts)
        self._age_files()
        if (fate == "crash" and code >= 0) or (fate == "full" and code == 0):
            # It was over before that moment.
            fate = "well"
        jumps = [(act.at, act.value) for act in sorted(acts) if act.what == "jump" and act.at <= self.clock.elapsed]
        session = Session(run_id, since, self.clock.elapsed, fate, code, ((since, error), *jumps))
        self.sessions.append(session)
        self.wrong += left_behind.wrong_ending(session, self.log.read_text(encoding="utf-8")[said:])
        return session

    def _fork(self, run_id: str, arguments: Iterable[str], acts: tuple[Act, ...]) -> int:
        """Run the spider in a process of its own, and return the exit code."""
        typed = [part for each in (f"run_id={run_id}", *arguments) for part in ("-a", each)]
        stage = Stage(self.folder / "clock", self._options, acts, tuple(self.changes))
        env = environment_of(self.output, None, self.env)
        process = forked.crawl([self.spider, *typed, *QUIET], env, self.log, before=stage.enter)
        process.join(_HANGS)
        if process.exitcode is None:
            self.wrong.append(f"{run_id}: hangs at {self.clock.elapsed:.1f} s")
            process.kill()
            process.join()
        return process.exitcode or 0

    def _catch_up(self) -> None:
        """Let the world be at the time that was reached."""
        self.world.advance(max(self.clock.elapsed - (self.world.now() - self.clock.start), 0.0))

    @property
    def _said(self) -> int:
        return len(self.log.read_text(encoding="utf-8")) if self.log.exists() else 0

    def _age_files(self) -> None:
        """Give what a crawl has written the time that it was told last."""
        told = self.clock.told()
        for path in self.output.rglob("*"):
            if path.stat().st_mtime < self.clock.start - 30 * DAY:
                os.utime(path, (told, told))

    # What happens by chance:

    def next_run(self, *, resumed: float, of: int) -> str:
        """Return the name of a new run, or with a probability of an unfinished one among so many of the last."""
        last = [f"run-{number:04}" for number in range(max(self._run - of, 0) + 1, self._run + 1)]
        unfinished = [name for name in last if not left_behind.has_ended(self.output / self.spider / name)]
        if unfinished and self.by_chance.random() < resumed:
            return self.by_chance.choice(unfinished)
        self._run += 1
        return f"run-{self._run:04}"

    def wrong_time(self) -> float:
        """Return how far the clock is ahead from now on: not at all, by minutes, or by a day."""
        if self.clock.error and self.by_chance.random() < 0.6:
            return 0.0
        minutes = self.by_chance.randrange(60, 1_800)
        return self.by_chance.choice([-1, 1]) * self.by_chance.choice([minutes, minutes, DAY])

    def moment_after(self, since: float) -> float:
        """Return a moment in the day that follows; a third of them are within a second of midnight."""
        at = since + self.by_chance.uniform(0.1, 8) * HOUR
        if self.by_chance.random() < 0.35:
            midnight = DAY - (self.clock.told() - self.clock.elapsed + since) % DAY
            at = max(since + midnight + self.by_chance.uniform(-1, 1), since + MINUTE)
        return at


class Lasting(Simulation):
    """A spider that runs until it is stopped."""

    def play(self, days: float) -> None:
        """Let so many days pass, and look at what is left."""
        while self.clock.elapsed < days * DAY:
            self._session(days * DAY)
            if self.by_chance.random() < 0.5:
                self.clock.move(self.clock.elapsed + self.by_chance.uniform(0, 3) * HOUR)
            if self.by_chance.random() < 0.15:
                self.clock.error = self.wrong_time()
        self._last_session()
        self.check()

    def streams(self) -> list[Stream]:
        """Return who was on air until now."""
        self._catch_up()
        self.world.live_at()
        return list(self.world._timeline.streams)

    def _session(self, until: float) -> None:
        since = self.clock.elapsed
        at = self.moment_after(since)
        fate = self.by_chance.choices([*_FATES], [*_FATES.values()])[0]
        moment = self.by_chance.randrange(1, 8) if fate in {"crash", "full"} else 0
        acts = [Act(at, fate, moment)]
        if at > until:
            acts, fate = [Act(max(until, since + MINUTE), "stop")], "stop"
        if self.by_chance.random() < 0.5:
            jump = self.moment_after(since)
            jump = jump if jump < acts[0].at else self.by_chance.uniform(since, acts[0].at)
            acts.append(Act(jump, "jump", self.wrong_time()))
        self.crawl(self.next_run(resumed=0.6, of=3), self.arguments, *acts, fate=fate)

    def _last_session(self) -> None:
        """Run once more, long after everything, by a clock that is right: what was left is taken care of."""
        self.clock.move(self.clock.elapsed + 2 * DAY)
        self.clock.error = 0.0
        at = self.clock.elapsed + 11 * MINUTE
        self.crawl("run-last", self.arguments, Act(at, "stop"), fate="stop")


class LiveSimulation(Lasting):
    """Snapshots every five minutes."""

    spider = "live"
    arguments = ("interval=5m",)
    options: ClassVar = {"events": 20, "years": 0.01, "live": 5, "start_every": 1_200, "rate_500": 0.02}

    def wrong_rows(self, runs: Path) -> Iterable[str]:
        """Return what is wrong with the rows in the folders of the runs, by the truth."""
        return left_behind.wrong_snapshots(runs, self.sessions, self.streams(), self.clock.start)


class NotificationsSimulation(Lasting):
    """Who goes live, as it happens."""

    spider = "notifications"
    env: ClassVar = {"PARTI_WS_IDLE_TIMEOUT": "30m"}
    options: ClassVar = {
        "events": 20,
        "years": 0.01,
        "live": 5,
        "start_every": 600,
        "ws_drop_every": 40,
        "ws_refused": 0.05,
        "rate_500": 0.02,
    }

    def wrong_rows(self, runs: Path) -> Iterable[str]:
        """Return what is wrong with the rows in the folders of the runs, by the truth."""
        return left_behind.wrong_notifications(runs, self.sessions, self.streams(), self.clock.start)


class RecentSimulation(Simulation):
    """What has ended, once an hour."""

    spider = "recent"
    arguments = ("incremental=true",)
    options: ClassVar = {"events": 200, "years": 0.05, "live": 10, "start_every": 600, "rate_500": 0.1, "page_cap": 50}

    def play(self, days: float) -> None:
        """Let so many days pass, and look at what is left."""
        for hour in range(int(days * 24)):
            self._pass_to(hour * HOUR)
            self._change()
            self._hour()
        self.clock.error = 0.0
        self._pass_to(self.clock.elapsed + 3 * HOUR)
        self.crawl("run-last", self.arguments, fate="well")
        self.check()

    def wrong_rows(self, runs: Path) -> Iterable[str]:
        """Return what is wrong with the rows in the folders of the runs, by the truth."""
        return left_behind.wrong_versions(runs, self.world.recent_at())

    def _pass_to(self, elapsed: float) -> None:
        self.clock.move(elapsed)
        self._catch_up()

    def _change(self) -> None:
        """Let livestreams come late and change, in this world as in those of the crawls."""
        at, now = self.clock.elapsed, int(self.world.now())
        ends = [now - self.by_chance.randrange(int(DAY)) for _ in range(self.by_chance.randrange(2))]
        late = [Change(at, end=end) for end in ends]
        fresh = [each["event_id"] for each in self.world.recent_at() if (each["event_end_ts"] or 0) > now - DAY]
        changed = self.by_chance.sample(fresh, min(len(fresh), self.by_chance.randrange(3)))
        for change in (*late, *(Change(at, event_id=event_id) for event_id in changed)):
            change.happen(self.world, at)
            self.changes.append(change)

    def _hour(self) -> None:
        if self.by_chance.random() < 0.12:
            self.clock.error = self.wrong_time()
        fate = self.by_chance.choice(["well", "well", "well", "crash", "full"])
        moment = self.by_chance.randrange(2, 12)
        acts = [] if fate == "well" else [Act(self.clock.elapsed, fate, moment)]
        self.crawl(self.next_run(resumed=0.4, of=1), self.arguments, *acts, fate=fate)


SIMULATIONS = {each.spider: each for each in (LiveSimulation, NotificationsSimulation, RecentSimulation)}


def main() -> int:
    """Play, print what was done and found, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--spiders", default=",".join(SIMULATIONS))
    parser.add_argument("--keep", type=Path, help="folder for what the crawls leave (default: it is deleted)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(2) as threads:
        folder = args.keep or Path(temporary)

        def play(spider: str) -> tuple[Simulation, float]:
            (folder / spider).mkdir(parents=True)
            simulation, began = SIMULATIONS[spider](folder / spider, args.seed), time.monotonic()
            simulation.play(args.days)
            return simulation, time.monotonic() - began

        played = list(threads.map(play, args.spiders.split(",")))
    print("\n".join(report(played)))
    return int(any(simulation.wrong for simulation, _ in played))


def report(played: Iterable[tuple[Simulation, float]]) -> Iterator[str]:
    """Yield the lines of a table of what was done, and below it what is wrong."""
    yield f"{'spider':14}{'days':>6}{'took':>8}{'runs':>6}{'crawls':>8}  ended by"
    wrong: list[str] = []
    for simulation, seconds in played:
        sessions = simulation.sessions
        fates = ", ".join(f"{fate} {count}" for fate, count in sorted(Counter(each.fate for each in sessions).items()))
        runs = len({each.run_id for each in sessions})
        days = simulation.clock.elapsed / DAY
        yield f"{simulation.spider:14}{days:6.1f}{seconds:7.0f}s{runs:6}{len(sessions):8}  {fates}"
        wrong += [f"{simulation.spider}: {line}" for line in simulation.wrong]
        concerned = {line.partition(":")[0] for line in simulation.wrong}
        wrong += [f"  {each}" for each in sessions if each.run_id in concerned]
    yield "Wrong is, with the crawls of the runs concerned:" if wrong else "Nothing is wrong"
    yield from wrong


if __name__ == "__main__":
    sys.exit(main())
