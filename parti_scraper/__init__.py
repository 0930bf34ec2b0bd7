"""The collector of parti.com livestreams: a Scrapy project.

`parti_scraper.open_dataset(…)` opens what was collected in Python; see `dataset.opened`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parti_scraper.dataset.opened import open_dataset

__version__ = "1.0.0"
__all__ = ["__version__", "open_dataset"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: a crawl needs none of it."""
    if name == "open_dataset":
        return import_module("parti_scraper.dataset.opened").open_dataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
