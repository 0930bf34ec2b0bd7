"""One page that shows the dataset and the state of the collection: figures by SQL, charts, and the page around them."""

from __future__ import annotations

from parti_scraper.report.page import Options, Problem, make_report, write_report

__all__ = ["Options", "Problem", "make_report", "write_report"]
