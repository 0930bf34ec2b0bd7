"""What is noted of a run that was asked for and not begun, so that it has no folder to say so."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from parti_scraper.exceptions import PartiError
from parti_scraper.ledger.ledger import FailedStart, Ledger
from parti_scraper.redact import is_typed_secret, redact, redact_unparsed
from parti_scraper.run.arguments import LAST, without_run_id
from parti_scraper.run.context import default_run_id
from parti_scraper.run.folders import state_dir
from parti_scraper.run.summary import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scrapy.settings import BaseSettings


def note_failed_start(settings: BaseSettings, spider: str, raw: Mapping[str, str], exit_code: int, reason: str) -> None:
    """Note in the ledger that a run was not begun. Where that cannot be, nothing more is said: the user knows why.

    Args:
        settings: which name the folder of the ledger.
        spider: the name of the spider.
        raw: the arguments as typed.
        exit_code: how it ended.
        reason: what the user was told.
    """
    typed = {_encodable(name): _encodable(text) for name, text in raw.items() if not is_typed_secret(name)}
    now, run_id, job = time.time(), typed.get("run_id"), typed.get("_job")
    if not run_id and job:
        run_id = default_run_id(job, now)
    failed = FailedStart(
        spider,
        None if run_id == LAST else run_id,
        redact(without_run_id(typed)),
        now,
        exit_code,
        redact_unparsed(printable(reason)),
    )
    with contextlib.suppress(PartiError):
        ledger = Ledger(state_dir(settings, raw))
        with contextlib.closing(ledger):
            ledger.note_failed_start(failed)


def _encodable(text: str) -> str:
    """Return a text that can be stored: Python takes from the command line what is no UTF-8."""
    return text.encode(errors="replace").decode()
