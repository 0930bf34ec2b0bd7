"""Tells others of a crawl as it begins and ends: pings, metrics and alerts. None of it changes how the crawl ends."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING
from uuid import uuid4

from parti_scraper.operations.alerting import alert
from parti_scraper.operations.messages import plain
from parti_scraper.operations.metrics import Metrics, counts_of, write_metrics
from parti_scraper.operations.pings import Pings
from parti_scraper.run.outcome import ExitCode, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from scrapy.settings import BaseSettings

    from parti_scraper.operations.findings import Finding
    from parti_scraper.run.context import Run

    # What is wrong with the collection, by settings, the crawl's arguments as typed, and the moment.
    Check = Callable[[BaseSettings, Mapping[str, str], float], Sequence[Finding]]

logger = logging.getLogger(__name__)

# Seconds that a run that was stopped at once waits for its pings.
_AT_ONCE = 2.0


class Reporting:
    """What is told of one crawl; its methods raise nothing."""

    def __init__(
        self,
        settings: BaseSettings,
        spider: str,
        raw_arguments: Mapping[str, str],
        run_uuid: str | None = None,
        check: Check | None = None,
    ) -> None:
        """Prepare to report; nothing is sent or written yet.

        Args:
            settings: which say to whom and where.
            spider: the name of the spider.
            raw_arguments: as typed.
            run_uuid: of the run; None where none begins.
            check: returns what is wrong with the collection; None: of that nobody is told.
        """
        self._settings = settings
        self._spider = spider
        self._raw_arguments = raw_arguments
        self._check = check
        self._started = time.monotonic()
        self._pings: Pings | None = None
        self._has_begun = False
        with _harmless("pings"):
            self._pings = Pings.from_settings(settings, spider, run_uuid or str(uuid4()))

    def began(self) -> None:
        """Tell that the crawl begins; waits for nothing."""
        self._has_begun = True
        if self._pings is not None:
            with _harmless("pings"):
                self._pings.began()

    def ended(self, code: ExitCode, text: str, verdict: Verdict | None = None, run: Run | None = None) -> None:
        """Tell how the crawl ended.

        Args:
            code: its exit code.
            text: what the user was told; its first line is passed on.
            verdict: on the run; None where none was begun.
            run: the run; None where nothing was done.
        """
        if code is ExitCode.COMPLETE and not self._has_begun:
            # There was nothing to do, which is as good as done.
            self.began()
        self._write(code, verdict or Verdict(code), run)
        if self._pings is not None:
            with _harmless("pings"):
                self._pings.ended(int(code), _line_of(text, verdict))
        if self._check is not None and self._settings.get("PARTI_ALERT_URLS"):
            with _harmless("alerts"):
                now = time.time()
                alert(self._settings, self._check(self._settings, self._raw_arguments, now), now, self._raw_arguments)

    def stopped_at_once(self, run: Run, text: str) -> None:
        """Tell that the run was stopped without waiting for anything; nothing is checked, which could take long."""
        self._write(ExitCode.STOPPED, Verdict(ExitCode.STOPPED), run)
        if self._pings is not None:
            with _harmless("pings"):
                self._pings.ended(ExitCode.STOPPED, _line_of(text, None), _AT_ONCE)

    def _write(self, code: ExitCode, verdict: Verdict, run: Run | None) -> None:
        with _harmless("metrics"):
            now = time.time()
            counts = counts_of(run) if run else {}
            success = now if run and verdict.complete else None
            seconds = time.monotonic() - self._started
            metrics = Metrics(now, seconds, int(code), counts, verdict.complete, verdict.degraded, success)
            if problem := write_metrics(self._settings, self._spider, metrics):
                logger.warning("No metrics are written: %s", problem)


def _line_of(text: str, verdict: Verdict | None) -> str:
    """Return what is sent with a ping: the first line of what the user was told, and why it was not complete."""
    line, reason = text.partition("\n")[0], (verdict and verdict.reason) or ""
    return plain(line if reason in line else f"{line}; {reason}")


@contextlib.contextmanager
def _harmless(what: str) -> Iterator[None]:
    """Turn whatever is raised within the context into a warning without its text, which may hold an address."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the crawl is to end as it ended
        logger.warning("Nothing is reported through %s: %s", what, type(error).__name__)
