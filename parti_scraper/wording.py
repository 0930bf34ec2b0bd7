"""Numbers with their nouns, for messages."""

from __future__ import annotations

import re


def number_of(number: int, plural: str) -> str:
    """Return a number with its noun, which is given in the plural; in front of it there may be an adjective."""
    return f"{number:,} {plural if number != 1 else re.sub('ies$', 'y', plural).removesuffix('s')}"
