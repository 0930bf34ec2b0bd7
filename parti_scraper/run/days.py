"""The days (UTC) of a run that may last for days: which one it is in, and what happened on each.

Pure: moments and counts are passed in. A day is a part of a run with a folder, counts and a data package of its own.
A clock may be set back, so a day that is over may come again.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from parti_scraper.api.quality import Quality
from parti_scraper.api.times import iso_to_timestamp, timestamp_to_iso

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The name of a day, which is also that of its folder.
DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
# Under which names the data package has snapshots and stretches of listening.
OBSERVATIONS = ("snapshots", "listened")


def day_of(moment: float) -> str:
    """Return the day of a moment in Unix seconds, such as 2026-11-27."""
    return timestamp_to_iso(moment)[:10]


@dataclass(slots=True)
class Day:
    """What happened on one day of a run.

    Attributes:
        name: such as 2026-11-27.
        started_at, ended_at: when the run came to the day first and left it last, in Unix seconds.
        quality: what is wrong with single fields of its records.
        counts: what was counted on it, by the keys that the caller of `Days` chooses.
        gaps: what is missing from it, a part of a sentence each.
        degraded: fields that most records lacked when it was described before.
        observations: snapshots, or stretches of listening, as the data package has them.
    """

    name: str
    started_at: float
    ended_at: float
    quality: Quality
    counts: Counter[str] = field(default_factory=Counter)
    gaps: list[str] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)
    observations: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the day, for `Days.restore`."""
        return {
            "name": self.name,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "quality": self.quality.as_json(),
            "counts": dict(self.counts),
            "gaps": self.gaps,
            "degraded": self.degraded,
            "observations": self.observations,
        }


class Days:
    """The days of a run.

    Attributes:
        current: the day that the run is in.
        over: days that the run has left and that have not been described since.
        described: how many records were written on those that have a data package, by name.
    """

    def __init__(self, specified: Sequence[str], now: float) -> None:
        """Begin on the day of a moment, in Unix seconds, with nothing counted."""
        self._specified = specified
        # What was counted, and how many gaps there were, at the last call of `count`.
        self._counted: dict[str, int] = {}
        self._gaps = 0
        # Whether this process has been there on the current day.
        self._was_there = True
        self.current = self._new(now)
        self.over: list[Day] = []
        self.described: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        """The names of all days, sorted."""
        return sorted({self.current.name, *(day.name for day in self.over), *self.described})

    def is_over(self, now: float) -> bool:
        """Tell whether a moment belongs to another day than the current one."""
        return day_of(now) != self.current.name

    def count(self, counted: Mapping[str, int], gaps: Sequence[str], now: float) -> None:
        """Add to the current day what came since the last call.

        Args:
            counted: what was counted since the run began; no count ever becomes less.
            gaps: all that is missing from the run.
            now: Unix seconds; if that is later than the day, the run has just left it.
        """
        if day_of(now) == self.current.name:
            self.current.ended_at, self._was_there = now, True
        elif self._was_there:
            # Not when the clock was set back, nor if the run was stopped before the day ended.
            self.current.ended_at = max(self.current.ended_at, min(now, _end_of(self.current.name)))
        self.current.counts.update({key: number - self._counted.get(key, 0) for key, number in counted.items()})
        self.current.gaps += gaps[self._gaps :]
        self.skip(counted, gaps)

    def skip(self, counted: Mapping[str, int], gaps: Sequence[str]) -> None:
        """Add to no day what came since the last call of `count`; a count that is not named stays as it is."""
        self._counted = {**self._counted, **counted}
        self._gaps = len(gaps)

    def turn(self, now: float, before: Day | None = None) -> None:
        """Go to the day of a moment; what was counted until now belongs to the one before.

        Args:
            now: Unix seconds.
            before: the day as it was described, where it was.
        """
        self.over.append(self.current)
        name = day_of(now)
        left = next((day for day in self.over if day.name == name), before)
        self.over = [day for day in self.over if day.name != name]
        self.described.pop(name, None)
        self.current = left or self._new(now)
        self._was_there = True

    def has_described(self, day: Day) -> None:
        """Note that a day that is over has a data package."""
        self.over.remove(day)
        self.described[day.name] = day.counts["written"]

    def as_json(self) -> dict[str, Any]:
        """Return all days, as JSON takes it."""
        return {
            "current": self.current.as_json(),
            "over": [day.as_json() for day in self.over],
            "described": self.described,
            "counted": dict(self._counted),
        }

    def restore(self, days: Mapping[str, Any]) -> None:
        """Continue from what `as_json` returned."""
        self.current = self._read(days["current"])
        self.over = [self._read(each) for each in days["over"]]
        self.described = dict(days["described"])
        self._counted = dict(days["counted"])
        self._was_there = False

    def _new(self, now: float) -> Day:
        return Day(day_of(now), now, now, Quality(self._specified))

    def _read(self, day: Mapping[str, Any]) -> Day:
        quality = Quality(self._specified)
        quality.restore(day["quality"])
        return Day(**{**day, "quality": quality, "counts": Counter(day["counts"])})


def _end_of(name: str) -> float:
    return iso_to_timestamp(f"{name}T00:00:00Z") + 86_400


def day_from(described: Mapping[str, Any], specified: Sequence[str]) -> Day:
    """Return a day as its data package describes it, to continue it."""
    quality = Quality(specified)
    counts = described["counts"]
    readable = counts["served"] - counts["quarantined"]
    quality.restore(
        {
            "records": readable,
            "unknown": described["unknown_fields"],
            "unreadable": described["unreadable_fields"],
            # Of the others it is not known how many records lacked them.
            "absent": dict.fromkeys(described.get("vanished_fields", ()), readable),
        }
    )
    observations: list[dict[str, Any]] = next((described[name] for name in OBSERVATIONS if name in described), [])
    return Day(
        described["day"],
        iso_to_timestamp(described["started_at"]),
        iso_to_timestamp(described["ended_at"]),
        quality,
        Counter({key: number for key, number in counts.items() if key != "unknown_fields"}),
        [described["reason"]] if not described["complete"] else [],
        described["degraded"],
        observations,
    )
