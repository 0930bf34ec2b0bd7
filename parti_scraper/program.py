"""The program that was called, for help, errors and hints that say what to type."""

from __future__ import annotations

import os
import sys

PARTI = "parti"
MODULE = "python -m parti_scraper"


def program() -> str:
    """Return how the program was called: `scrapy`, or one of the project's own names, which `__main__` puts there."""
    return sys.argv[0] if sys.argv[0] in {PARTI, MODULE} else "scrapy"


def discard_output() -> None:
    """Drop what is still to be printed: who reads has enough, such as `head`, and the end would fail at it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
