"""What happens to a schedule within a quarter, and what may be said of it: which rules, and until when."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.gated import Weather

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
# Until a run that follows an incident has made up for it: the next one of an hour, and a look after that.
HEALED = 2.2 * HOUR
# What is said for 24 hours, and a look after that.
FOR_A_DAY = DAY + 1.2 * HOUR
# What the maintainer does about a field that is gone comes so long after it.
ACKNOWLEDGED = 1.5 * DAY
ABSENT_FIELDS = ("total_viewers", "viewers_count")
_ENDINGS = ("late", "failed", "incomplete", "abandoned")


@dataclass(frozen=True)
class Incident:
    """Something that happens.

    Attributes:
        what: its name.
        since, until: when, in seconds since the start of the clock.
        explains: until when findings of a rule may be about it.
        is_told: whether somebody must be told of it.
        weather: what the server is like meanwhile, if that is it.
    """

    what: str
    since: float
    until: float
    explains: Mapping[str, float]
    is_told: bool
    weather: Weather | None = None

    def does_explain(self, rule: str, subject: str, now: float) -> bool:
        """Tell whether a finding of a rule about a subject may be about it."""
        # What runs once a day makes up for it a day later.
        until = self.explains.get(rule, 0.0) + (DAY if subject == "categories" and rule in _ENDINGS else 0)
        return self.since <= now <= until

    @property
    def is_over_at(self) -> float:
        """When nothing is to be heard of it any more."""
        return max(self.until + HOUR, *self.explains.values(), 0.0)


def incident(what: str, since: float, chance: random.Random) -> Incident:
    """Return an incident that begins at a moment; see `KINDS` for the names."""
    match what:
        case "absent":
            until = since + 2 * DAY
            # The last day of a service is the last that counts, until another has enough records.
            explains = {"degraded": since + ACKNOWLEDGED + HEALED, "fields": since + FOR_A_DAY + 6 * HOUR}
            return Incident(what, since, until, explains, True, Weather(since, until, "absent", ABSENT_FIELDS))
        case "new":
            until, name = since + DAY, f"field_{chance.randrange(1_000)}"
            explains = {"fields": since + FOR_A_DAY + HOUR}
            return Incident(what, since, until, explains, True, Weather(since, until, "new", (name,)))
        case "dead":
            until = since + chance.uniform(3, 8) * HOUR
            return Incident(what, since, until, _outage(until), True, Weather(since, until, "dead"))
        case "moved":
            return Incident(what, since, since + DAY, {}, False, Weather(since, since + DAY, "moved"))
        case "full":
            until = since + chance.uniform(2, 5) * HOUR
            return Incident(what, since, until, _outage(until) | {"disk": until + HOUR}, True)
        case "killed job":
            return Incident(what, since, since + HOUR, dict.fromkeys(_ENDINGS, since + HOUR + HEALED), False)
        case "killed live" | "killed notifications":
            # Within a second of midnight.
            return Incident(what, since, since, dict.fromkeys(_ENDINGS, since + HOUR), False)
        case "upgrade" | "rollback":
            return Incident(what, since, since + HOUR, {}, False)
        case _:
            raise ValueError(what)


KINDS = (
    "absent",
    "new",
    "dead",
    "moved",
    "full",
    "killed job",
    "killed live",
    "killed notifications",
    "rollback",
    "upgrade",
)


def _outage(until: float) -> dict[str, float]:
    return dict.fromkeys((*_ENDINGS, "gaps"), until + HEALED) | {"not_listening": until + FOR_A_DAY}


def planned(days: float, chance: random.Random, midnight: float) -> Iterator[Incident]:
    """Yield incidents of every kind, far enough from each other to be told apart.

    Args:
        days: how long the schedule is.
        chance: of it, when they happen.
        midnight: the first one, in seconds since the start of the clock.
    """
    kinds = list(KINDS)
    chance.shuffle(kinds)
    distance = (days - 4) * DAY / len(kinds)
    for place, what in enumerate(kinds):
        since = 3 * DAY + place * distance + chance.uniform(0, 0.2) * distance
        if what in {"killed live", "killed notifications"}:
            since = midnight + DAY * round((since - midnight) / DAY) + chance.uniform(-1, 1)
        yield incident(what, since, chance)
