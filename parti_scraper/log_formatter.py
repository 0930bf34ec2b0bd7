"""Which events of single records are logged: none. They are counted, and what is set aside stands in a file."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from scrapy import logformatter

if TYPE_CHECKING:
    from scrapy import Request, Spider
    from scrapy.http import Response
    from twisted.python.failure import Failure


class LogFormatter(logformatter.LogFormatter):
    """Keeps records out of the log: their texts are free, so a line break in a title would forge a log line."""

    def crawled(  # type: ignore[override]
        self, request: Request, response: Response, spider: Spider
    ) -> logformatter.LogFormatterResult | None:
        """Log a page where somebody would see it."""
        is_seen = any(handler.level <= logging.DEBUG for handler in logging.root.handlers)
        return super().crawled(request, response, spider) if is_seen else None

    def scraped(self, item: Any, response: Response | Failure | None, spider: Spider) -> None:  # type: ignore[override]
        """Log nothing."""

    def dropped(  # type: ignore[override]
        self, item: Any, exception: BaseException, response: Response | Failure | None, spider: Spider
    ) -> None:
        """Log nothing; Scrapy counts the reasons in `item_dropped_reasons_count/`."""

    def item_error(
        self, item: Any, exception: BaseException, response: Response | Failure | None, spider: Spider
    ) -> logformatter.LogFormatterResult:
        """Log the error with the kind of the record alone."""
        return super().item_error(type(item).__name__, exception, response, spider)
