"""The rules by which a collection is healthy or not. Pure: what is known is passed in.

Moments are Unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with the collection.

    Attributes:
        rule: the name of the rule, such as `late`; docs/operations.md has a line for each.
        subject: the spider; of a series that not all runs of the spider belong to with its arguments, such as
            `recent user_id=5`; `disk` and the like for what is about no spider.
        text: what is wrong, one line without a word that the API chose but for names of fields.
        since: from when on it is so.
        command: what helps, to be typed in a shell; None where no command does.
    """

    rule: str
    subject: str
    text: str
    since: float
    command: str | None = None
