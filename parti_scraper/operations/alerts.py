"""What is told of what is wrong with the collection, and when. Pure: what was told, findings and time are passed in.

Told is that something got worse, not each failing run: a subject is of the same trouble as long as findings of one
group are about it. Moments are Unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from parti_scraper.operations.findings import Finding

    Key = tuple[str, str]

# Between two messages that something got worse: a host that dies stops spiders one after another.
HOLD = 3_600.0
# After so long without a message, what is still wrong is told again.
REMIND_AFTER = 86_400.0
# What comes back within that time never went away.
FLAPPING = 3_600.0
# How long it is remembered that an alert could not be sent: after that only the next one shows whether it can.
FAILURE_LASTS = 86_400.0
# What went away so long ago is not named in the all-clear.
_FORGOTTEN_AFTER = 30 * 86_400.0
# The end of the year 9999.
_LAST_MOMENT = 253_402_300_800.0

_GROUPS = {
    **dict.fromkeys(("degraded", "few_records", "set_aside", "fields"), "content"),
    **{each: each for each in ("alerts", "damaged", "disk")},
}
# Of these nobody is told because of them alone: the message could not be sent either.
_NO_REASON = {"alerts"}


def group_of(rule: str) -> str:
    """Return the group of a rule: findings about the same subject in the same group are one trouble."""
    return _GROUPS.get(rule, "runs")


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that was told.

    Attributes:
        subject, group: what it is about, and the group of its findings.
        text: of one of the findings.
        since: from when on it was so.
        gone: from when on there were no such findings; None: there still are.
    """

    subject: str
    group: str
    text: str
    since: float
    gone: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """That alerts could not be sent, or not to every address.

    Attributes:
        since: when it was so first.
        last: when it was so last.
        text: what is wrong, one line without an address.
    """

    since: float
    last: float
    text: str


@dataclass(frozen=True, slots=True)
class Told:
    """What was told so far.

    Attributes:
        troubles: what was told since the last all-clear, also what went away.
        messaged: when the last message was sent; None: none was, or it was an all-clear.
        checked: of when the last findings were that were looked at.
        failure: that the last message did not reach everyone; None: it did.
    """

    troubles: tuple[Trouble, ...] = ()
    messaged: float | None = None
    checked: float | None = None
    failure: Failure | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it for `told_from`."""
        troubles = [[each.subject, each.group, each.text, each.since, each.gone] for each in self.troubles]
        failure = self.failure and [self.failure.since, self.failure.last, self.failure.text]
        return {"troubles": troubles, "messaged": self.messaged, "checked": self.checked, "failure": failure}

    def with_failure(self, text: str | None, now: float) -> Told:
        """Return it with how the sending of a message went: `text` says what failed, None: nothing did."""
        if text is None:
            return replace(self, failure=None)
        since = self.failure.since if self.failure and _is_within(self.failure.last, now, FAILURE_LASTS) else now
        return replace(self, failure=Failure(since, now, text))


def told_from(noted: Mapping[str, Any]) -> Told:
    """Return what `Told.as_json` returned. Raises ValueError if it is something else."""
    try:
        troubles = tuple(
            Trouble(str(subject), str(group), str(text), _known_moment(since), _moment(gone))
            for subject, group, text, since, gone in noted["troubles"]
        )
        failure = None
        if noted["failure"]:
            since, last, text = noted["failure"]
            failure = Failure(_known_moment(since), _known_moment(last), str(text))
        return Told(troubles, _moment(noted["messaged"]), _moment(noted["checked"]), failure)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError("not what was told") from error


def _moment(value: Any) -> float | None:
    return None if value is None else _known_moment(value)


def _known_moment(value: Any) -> float:
    """Return a moment that a calendar has. Raises TypeError, ValueError."""
    moment = float(value)
    if not 0 <= moment < _LAST_MOMENT:
        raise ValueError("not a moment")
    return moment


class Kind(StrEnum):
    """Why there is a message: something got worse, nothing has changed for a day, or nothing is wrong any more."""

    WORSE = "worse"
    REMINDER = "reminder"
    ALL_CLEAR = "all clear"


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be told.

    Attributes:
        kind: why.
        at: the moment of the findings.
        new: findings that were not told before.
        still: findings that were.
        over: troubles that went away, in an all-clear.
    """

    kind: Kind
    at: float
    new: Sequence[Finding] = ()
    still: Sequence[Finding] = ()
    over: Sequence[Trouble] = ()


def decide(told: Told, findings: Sequence[Finding], now: float) -> tuple[Message | None, Told]:
    """Return what is to be told, if anything, and what was told once that has been sent; if it cannot be, see `seen`.

    Args:
        told: what was told so far.
        findings: everything that is wrong.
        now: the moment of the findings.
    """
    if told.checked is not None and 0 < told.checked - now < HOLD:
        # Another process has looked at later ones meanwhile. Where a clock was set back, there is more between them.
        return None, told
    after = seen(told, findings, now)
    reasons = _by_key(findings)
    if not reasons:
        if not after.troubles:
            return None, after
        # What begins after it is told at once.
        return Message(Kind.ALL_CLEAR, now, over=after.troubles), replace(after, troubles=(), messaged=None)
    known = {(each.subject, each.group) for each in after.troubles if each.gone is None}
    unknown = {each for each in reasons if not _is_part_of(each, known)}
    new = [each for each in findings if _key(each) in unknown]
    still = [each for each in findings if each not in new]
    if new and not _is_within(told.messaged, now, HOLD):
        return Message(Kind.WORSE, now, new, still), _told(after, reasons, now)
    if known and not _is_within(told.messaged, now, REMIND_AFTER):
        return Message(Kind.REMINDER, now, new, still), _told(after, reasons, now)
    return None, after


def seen(told: Told, findings: Sequence[Finding], now: float) -> Told:
    """Return what was told, with what went away meanwhile and what came back; nothing more is told."""
    present = _by_key(findings)
    troubles = []
    for each in told.troubles:
        if (each.subject, each.group) not in present:
            gone = now if each.gone is None else each.gone
            if _is_within(gone, now, _FORGOTTEN_AFTER):
                troubles.append(replace(each, gone=gone))
        elif _is_within(each.gone, now, FLAPPING):
            troubles.append(replace(each, gone=None))
        else:
            # It is still there; or it is new again, and that is to be told first.
            troubles.append(each)
    return replace(told, troubles=tuple(troubles), checked=now)


def _told(after: Told, present: Mapping[Key, Finding], now: float) -> Told:
    """Return what was told once everything that is wrong has been told."""
    before = {(each.subject, each.group): each for each in after.troubles}
    current = {
        key: Trouble(*key, finding.text, min(finding.since, before[key].since if key in before else now))
        for key, finding in present.items()
    }
    return replace(after, troubles=tuple((before | current).values()), messaged=now)


def _by_key(findings: Sequence[Finding]) -> dict[Key, Finding]:
    """Return those of which somebody is to be told, the oldest of each trouble."""
    ordered = sorted(findings, key=lambda each: -each.since)
    return {_key(each): each for each in ordered if group_of(each.rule) not in _NO_REASON}


def _is_part_of(key: Key, known: set[Key]) -> bool:
    """Tell whether a trouble was told: that of a spider is that of its series too, and the other way round."""
    subject, group = key
    spider = _spider_of(subject)
    if key in known or (spider, group) in known:
        return True
    return subject == spider and any(_spider_of(each) == spider and other == group for each, other in known)


def _spider_of(subject: str) -> str:
    return subject.partition(" ")[0]


def _key(finding: Finding) -> Key:
    return finding.subject, group_of(finding.rule)


def _is_within(moment: float | None, now: float, seconds: float) -> bool:
    """Tell whether a moment is less than so long from now, before or after: a clock may be set."""
    return moment is not None and abs(now - moment) < seconds
