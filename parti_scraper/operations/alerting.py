"""Tells what is wrong, through the addresses of PARTI_ALERT_URLS; what was told is kept in PARTI_STATE_DIR."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from parti_scraper.dataset.engine import ExtraMissing
from parti_scraper.exceptions import PartiError
from parti_scraper.ledger.locks import Lock
from parti_scraper.operations.alerts import FAILURE_LASTS, Told, decide, seen, told_from
from parti_scraper.operations.messages import text_of
from parti_scraper.operations.sending import addresses_of, send
from parti_scraper.run.folders import state_dir
from parti_scraper.secret_settings import secret_from

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from scrapy.settings import BaseSettings

    from parti_scraper.operations.alerts import Message
    from parti_scraper.operations.findings import Finding

logger = logging.getLogger(__name__)

FILE_NAME = "alerts.json"
_LOCK_NAME = "alerts.lock"
_FORMAT = 1
# Seconds that all of it may take: a crawl ends so much later at most.
TIME_LIMIT = 15.0
_BETWEEN_TRIES = 0.05
# Bytes: with room to be written anew in the same place where the disk is full.
_BLOCK = 4_096


class _NewerFormatError(PartiError):
    """What was told is in the format of a later version, which tells from now on."""


def alert(
    settings: BaseSettings, findings: Sequence[Finding], now: float, raw_arguments: Mapping[str, str] | None = None
) -> None:
    """Tell what has got worse, what is still wrong after a day, or that all is well again; does nothing else.

    Whatever goes wrong with it is a line in the log, and, if a message was to be sent, the finding `alerts`.

    Args:
        settings: with the addresses; where there are none, nothing is done.
        findings: everything that is wrong.
        now: the moment of the findings.
        raw_arguments: of the crawl that tells, as typed: where the state is depends on them.

    Raises:
        UsageError: the addresses were typed, or the folder of the state is no folder.
    """
    urls = secret_from(settings, "PARTI_ALERT_URLS")
    if not urls:
        return
    deadline = time.monotonic() + TIME_LIMIT
    folder = state_dir(settings, raw_arguments or {})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / _LOCK_NAME, deadline - TIME_LIMIT / 2):
            _tell(folder / FILE_NAME, urls.reveal(), findings, now, deadline)
    except _NewerFormatError:
        logger.warning("Nobody is told of problems: %s is of a later version", folder / FILE_NAME)
    except TimeoutError:
        logger.warning("Nobody is told of problems: another process is at it")
    except OSError as error:
        logger.warning("Nobody is told of problems: %s: %s", folder, error.strerror)


def alert_failure(
    settings: BaseSettings, now: float, raw_arguments: Mapping[str, str] | None = None
) -> tuple[float, str] | None:
    """Return since when alerts do not reach everyone, and what is wrong, a line; None if they do, as far as is known.

    It is over when a message has reached every address, and a day after the last try: nobody knows it any more.

    Raises:
        UsageError: the folder of the state is no folder.
    """
    try:
        failure = _read(state_dir(settings, raw_arguments or {}) / FILE_NAME).failure
    except (OSError, _NewerFormatError):
        return None
    if failure is None or abs(now - failure.last) >= FAILURE_LASTS:
        return None
    return failure.since, failure.text


@contextlib.contextmanager
def _locked(path: Path, deadline: float) -> Iterator[None]:
    """Wait for the lock, so that of two crawls that end together only one tells it. Raises TimeoutError, OSError."""
    while (lock := Lock.take(path, make=True)) is None:
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(_BETWEEN_TRIES)
    try:
        yield
    finally:
        lock.release()


def _tell(path: Path, urls: str, findings: Sequence[Finding], now: float, deadline: float) -> None:
    told = _read(path)
    message, after = decide(told, findings, now)
    if message is not None:
        arrived, problem = _send(message, urls, deadline)
        if problem:
            logger.warning("An alert could not be sent to everyone: %s", problem)
        after = (after if arrived else seen(told, findings, now)).with_failure(problem, now)
    if after == told and path.exists():
        return
    try:
        _write(path, after)
    except OSError as error:
        # Rather twice than never: who is told of a full disk may be told again.
        logger.warning("What was told of problems cannot be noted in %s: %s", path, error.strerror)


def _send(message: Message, urls: str, deadline: float) -> tuple[bool, str | None]:
    """Send a message; return whether it has reached anyone, and whom it has not, None where it has reached all."""
    try:
        addresses = addresses_of(urls)
        title, body = text_of(message, socket.gethostname())
        arrived = send(addresses, title, body, deadline - time.monotonic())
    except ExtraMissing as missing:
        return False, str(missing)
    except Exception as error:  # noqa: BLE001 - of Apprise; its text may hold an address
        return False, f"Apprise failed with {type(error).__name__}"
    failed = [str(number) for number, has_arrived in enumerate(arrived, 1) if not has_arrived]
    if not failed and addresses:
        return True, None
    which = f": number {', '.join(failed)}" if len(addresses) > 1 else ""
    noun = "address" if len(addresses) == 1 else "addresses"
    return any(arrived), f"{len(failed)} of {len(addresses)} {noun} in PARTI_ALERT_URLS failed{which}"


def _read(path: Path) -> Told:
    """Return what was told; nothing, if it is not known. Raises OSError, _NewerFormatError."""
    try:
        noted: Any = json.loads(path.read_bytes())
        if isinstance(noted, dict) and isinstance(noted.get("format"), int) and noted["format"] > _FORMAT:
            raise _NewerFormatError
        return told_from(noted)
    except FileNotFoundError:
        return Told()
    except (RecursionError, ValueError):
        return Told()


def _write(path: Path, told: Told) -> None:
    """Write what was told, whole; in place of the old file, or into it where the disk is full. Raises OSError."""
    text = json.dumps({"format": _FORMAT, **told.as_json()}).encode()
    content = text.ljust(-(-(len(text) + 1) // _BLOCK) * _BLOCK - 1) + b"\n"
    temporary = path.with_name(f"{path.name}.new")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123 - its mode
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno not in {errno.ENOSPC, errno.EDQUOT} or path.stat().st_size < len(content):
            raise
        with path.open("r+b") as file:
            file.write(content)
            file.truncate()
