"""What went wrong in a run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from parti_scraper.redact import redact_text

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)


class Problems:
    """What keeps a run from being complete, or from starting.

    Attributes:
        noted: what is missing from the data set, a part of a sentence each.
        storage: what could not be stored, likewise; the first is the cause of the others.
        usage_error: a wrong argument that only the API could show.
        start_error: why nothing can be requested, which only the first request could show.
        remarks: other lines for the summary.
    """

    def __init__(self) -> None:
        self.noted: list[str] = []
        self._presumed: list[str] = []
        self.storage: list[str] = []
        self.usage_error: str | None = None
        self.start_error: str | None = None
        self.remarks: list[str] = []

    @property
    def gaps(self) -> list[str]:
        """What is missing from the data set, or presumed to be."""
        return [*self._presumed, *self.noted]

    @property
    def keeps_nothing(self) -> bool:
        """Whether the run failed right after the start, so that nothing of it is stored."""
        return bool(self.usage_error or self.start_error)

    def note_gap(self, gap: str) -> None:
        # The API may have redirected to an address with a token.
        gap = redact_text(gap)
        logger.error("Not complete: %s", gap)
        self.noted.append(gap)

    def presume_gap(self, gap: str) -> None:
        """Note a gap that is one unless `disprove_gap` is called for it before the end."""
        self._presumed.append(gap)

    def disprove_gap(self, gap: str) -> None:
        self._presumed.remove(gap)

    def restore(self, noted: Iterable[str]) -> None:
        """Go on with the gaps that earlier sessions of the run noted."""
        self.noted[:0] = noted

    def note_storage(self, problem: str) -> None:
        self.storage.append(problem)

    def refuse(self, usage_error: str) -> None:
        self.usage_error = usage_error

    def note_start_error(self, reason: str) -> None:
        self.start_error = reason

    def remark(self, line: str) -> None:
        """Log a line now, and repeat it in the summary."""
        logger.warning("%s", line[:1].upper() + line[1:])
        self.remarks.append(line)


class LoggedExceptions(logging.Handler):
    """Counts the exceptions that Scrapy only logs, at any log level.

    Nothing else shows those of signal handlers, and of pipelines that fail to close.
    """

    _LOGGERS = ("scrapy.core.engine", "scrapy.core.scraper", "scrapy.utils.signal")

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.count = 0
        for name in self._LOGGERS:
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.count += bool(record.exc_info)

    def close(self) -> None:
        for name in self._LOGGERS:
            logging.getLogger(name).removeHandler(self)
        super().close()
