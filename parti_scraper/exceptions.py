"""The errors of the pure core. The reasons for which a record is dropped are in `pipelines`."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from parti_scraper.redact import redact_typed

if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST_VALUE = 100


class PartiError(Exception):
    """The root of the tree; never raised itself."""


class UsageError(PartiError, ValueError):
    """Something that the user typed is wrong; the text is one line that says what is accepted.

    Raised by `arguments` and `urls.parse_base_urls` before anything is requested, and by the spiders for a
    category name that the categories route does not know. `scrapy crawl` prints it and ends with code 2.
    """

    @classmethod
    def of(cls, kind: str, name: str, problem: str, value: str, accepted: str, *, hint: str = "") -> UsageError:
        """Build the error in the project's one grammar.

        Args:
            kind: what was wrong: `argument`, `setting` or `feed`.
            name: its name, as typed.
            problem: what is wrong with it, such as "not a whole number".
            value: the value, as typed; see `quoted`.
            accepted: what would have been right.
            hint: see `did_you_mean`.
        """
        return cls(f"{kind} `{name}`: {problem}: {quoted(value, name)} (accepted: {accepted}){hint}")


def quoted(text: str, name: str = "") -> str:
    """Return what was typed as errors show it: on one line, cut if it is long, and without secrets.

    Args:
        text: a value, or another word of a command.
        name: the name of the value, if the text is one.
    """
    shown = redact_typed(text, name)
    return repr(shown if len(shown) <= _LONGEST_VALUE else shown[:_LONGEST_VALUE] + "…")


def did_you_mean(name: str, known: Iterable[str], similarity: float = 0.6) -> str:
    """Return the end of an error about an unknown name: the most similar known one, or nothing.

    Args:
        name: as typed; capital letters make no difference.
        known: the names that exist.
        similarity: the least that counts, from 0 to 1.
    """
    by_folded = {each.casefold(): each for each in known}
    nearest = difflib.get_close_matches(name.casefold(), by_folded, 1, similarity)
    return f"; did you mean `{by_folded[nearest[0]]}`?" if nearest else ""


class PageError(PartiError):
    """The body of an answer is not a page of records: HTML, cut JSON, an object instead of a list.

    Raised by `records.parse_page`; the spiders count the page as failed.
    """


class RecordError(PartiError):
    """A record cannot be normalized; the text says why, without any value of the record.

    Raised and caught inside `pages`, which returns the record with the reason.
    """


class BrowserError(PartiError):
    """There is no browser, or it cannot be started; the text is one line that says what to install.

    Raised by `browser`. `scrapy crawl` ends with code 1 where it is known before the start.
    """


class LedgerError(PartiError):
    """The ledger cannot be read or written; the text is one line.

    Raised by `ledger.Ledger`. The run ends with code 4, as where any of its files cannot be written.
    """


class LedgerFormatError(LedgerError):
    """The file is no ledger, or one of another version.

    Raised by `ledger.Ledger` when it is opened; `scrapy crawl` ends with code 1.
    """


class NothingToFinish(PartiError):  # noqa: N818 - it is no error
    """`run_id=last` was typed, and no run is unfinished.

    Raised by the spiders before anything is requested. `scrapy crawl` says so and ends with code 0.
    """
