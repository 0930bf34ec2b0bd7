"""What becomes of a job, by how its crawl ended. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from parti_scraper.run.outcome import ExitCode

# Seconds before each next attempt after one that has failed. After that many, the job stays failed.
DELAYS = (10, 40, 160)
# An attempt of a job without an end that had gone on for so many seconds was no failure to speak of.
LONG = 600


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt has ended.

    Attributes:
        exit_code: of the crawl; negative: the signal that has killed it.
        has_package: whether its run has a data package.
        line: what the crawl said in the end.
        was_told: whether the worker has told it to stop.
        seconds: how long it went on.
        is_endless: whether the job has no end of its own, or was stopped before it.
    """

    exit_code: int
    has_package: bool
    line: str = ""
    was_told: bool = False
    seconds: float = 0.0
    is_endless: bool = False


@dataclass(frozen=True, slots=True)
class Next:
    """What is to be done.

    Attributes:
        delay: seconds before the next attempt; None: there is none.
        has_failed: whether the attempt has failed, and so counts.
    """

    delay: float | None
    has_failed: bool


def next_of(ended: Ended, failures: int) -> Next:
    """Return what becomes of a job.

    Args:
        ended: how its attempt has ended.
        failures: how many attempts had failed before.
    """
    code = ended.exit_code
    if ended.was_told and (ended.is_endless or code != ExitCode.COMPLETE):
        # It is given back, and another worker goes on.
        return Next(0.0, has_failed=False)
    is_done = code == ExitCode.COMPLETE or (code == ExitCode.INCOMPLETE and ended.has_package)
    if is_done and not ended.is_endless:
        return Next(None, has_failed=False)
    if code == ExitCode.USAGE:
        return Next(None, has_failed=True)
    # It ends well only if it was told to, such as by the silence of its worker while that had no database.
    if ended.is_endless and (code == ExitCode.COMPLETE or ended.seconds >= LONG):
        return Next(DELAYS[0], has_failed=False)
    return Next(DELAYS[failures] if failures < len(DELAYS) else None, has_failed=True)
