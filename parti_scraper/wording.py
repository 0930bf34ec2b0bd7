"""Numbers with their nouns and lengths of time, for messages."""

from __future__ import annotations

import re


def number_of(number: int, plural: str) -> str:
    """Return a number with its noun, which is given in the plural; in front of it there may be an adjective."""
    return f"{number:,} {plural if number != 1 else re.sub('ies$', 'y', plural).removesuffix('s')}"


def length_of(seconds: int) -> str:
    """Return a length of time in its two greatest units, such as `2d 4h` or `59s`."""
    numbers = [(seconds // 86_400, "d"), (seconds // 3_600 % 24, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s")]
    first = next((place for place, (number, _) in enumerate(numbers) if number), 0)
    return " ".join(f"{number:,}{unit}" for number, unit in numbers[first : first + 2] if number) or "0s"
