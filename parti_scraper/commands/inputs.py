"""What commands share that read the runs of output folders."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from parti_scraper.exceptions import UsageError, did_you_mean
from parti_scraper.network.source import MOCK, REAL
from parti_scraper.wording import number_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from parti_scraper.dataset.plan import LeftOut

# How many folders of runs are named for each reason for which they are left out.
_NAMED = 3


def add_source_option(group: argparse._ArgumentGroup) -> None:
    """Add the option that chooses between real and made-up data."""
    group.add_argument("--source", metavar="SOURCE", help="mock or parti.com (default: parti.com, or what there is)")


def check_source(source: str | None) -> None:
    """Raise UsageError if what was typed is no source."""
    if source not in {None, MOCK, REAL}:
        hint = did_you_mean(source or "", (MOCK, REAL))
        raise UsageError.of("option", "--source", "no such source", source or "", f"{MOCK}, {REAL}", hint=hint)


def left_out_lines(left_out: Sequence[LeftOut], done: str = "left out") -> Iterator[str]:
    """Yield a line for each reason for which runs are left out, with the first of them; `done` is what was done."""
    by_reason: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for each in left_out:
        by_reason[each.what, each.reason].append(each.folder)
    for (what, reason), folders in by_reason.items():
        named = ", ".join(folders[:_NAMED]) + (", …" if len(folders) > _NAMED else "")
        yield f"  {done}: {number_of(len(folders), what)}: {reason}: {named}"
