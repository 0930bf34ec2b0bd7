"""What is kept out of the log: events of single records, which are counted or in a file, and secrets.

Lists of what Scrapy runs with, and of all that it has counted, are logged at DEBUG, where Scrapy does so at INFO.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from scrapy import logformatter

from parti_scraper.redact import is_typed_secret, redact_text

if TYPE_CHECKING:
    from scrapy import Request, Spider
    from scrapy.http import Response
    from twisted.python.failure import Failure

# These loggers show addresses of feeds and redirects, and settings, as they are.
_LOGGERS_WITH_SECRETS = (
    "scrapy.crawler",
    "scrapy.extensions.feedexport",
    "scrapy.core.engine",
    "scrapy.downloadermiddlewares.redirect",
)
# Name and password in an address, such as that of a feed; and a setting, as Scrapy lists it.
_USER = re.compile(r"(?<=://)[^\s/?#'\"]+@")
_SETTING = re.compile(r"""'(\w+)': (?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")


class _NoSecrets(logging.Filter):
    """Removes passwords from what Scrapy logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; it is logged all the same."""
        text = _USER.sub("", redact_text(record.getMessage()))
        record.msg = _SETTING.sub(lambda found: f"'{found[1]}': '***'" if is_typed_secret(found[1]) else found[0], text)
        record.args = None
        return True


# One for all crawls of a process: it is added to a logger once.
_NO_SECRETS = _NoSecrets()


# The loggers of Scrapy's lists, which take a hundred lines, and how each begins.
_LISTING = {
    "scrapy.addons": "Enabled addons",
    "scrapy.crawler": "Overridden settings",
    "scrapy.middleware": "Enabled ",
    "scrapy.statscollectors": "Dumping Scrapy stats",
    "scrapy.utils.log": "Versions",
}


class _Lists(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; handlers look at its level later."""
        if record.levelno == logging.INFO and record.getMessage().startswith(_LISTING[record.name]):
            record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
        return True


_LISTS = _Lists()


def log_lists_at_debug() -> None:
    """Have Scrapy log its lists at DEBUG, in this process."""
    for name in _LISTING:
        logging.getLogger(name).addFilter(_LISTS)


class LogFormatter(logformatter.LogFormatter):
    """Keeps records out of the log: their texts are free, so a line break in a title would forge a log line."""

    def __init__(self) -> None:
        """Keep secrets out of the log; Scrapy builds this before it logs anything of a crawl."""
        for name in _LOGGERS_WITH_SECRETS:
            logging.getLogger(name).addFilter(_NO_SECRETS)
        log_lists_at_debug()

    def crawled(  # type: ignore[override]
        self, request: Request, response: Response, spider: Spider
    ) -> logformatter.LogFormatterResult | None:
        # Without a handler for it, the line is not worth the time.
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
