"""Exports without a command, and texts that programs are known to stumble over."""

from __future__ import annotations

from pathlib import Path

from parti_scraper.dataset.export import Export, Progress, Report, Silent, export
from parti_scraper.dataset.selection import Selection
from parti_scraper.dataset.targets.named import target_of
from parti_scraper.run.catalog import Catalog
from tests.made_runs import category, make_run

# What a spreadsheet would take for a formula, with all that it passes over in front of it.
FORMULAS = ("=1+1", "+1", "-1", "@x", "\t=1", "\u00a0=1", "\u2003@SUM(A1)", "＝1", "＋1", "－1", "＠x")
HOSTILE = (
    *FORMULAS,
    "NUL \0.",
    "\x1f=1",
    "👩\u200d🚀 Zoë",
    "\u202egnp.exe",
    "\x1b[31mred\x1b[0m",
    "lone\rCR",
    "CR\r\nLF",
    "LF\n",
    "\r",
    "x" * 40_000,
    "👾" * 20_000,
    "1e5",
    "0123",
    "TRUE",
    "null",
    "NaN",
    "#DIV/0!",
    "\\N",
    'say "hi", ok',
    '"',
    "''",
    "'=1",
    "</script><script>alert(1)</script>",
    "_x0041_",
    "_x005F_x000D_",
    "<r>&</r>",
    "<r>_x0041_</r>",
    " padded ",
    "\ufeffBOM",
    "\u2028",
    "\x85",
    "\ufffe",
    "#x;y\\",
)


def bring(target: Path | str, output: Path, *tables: str, progress: Progress | None = None) -> Report:
    """Bring tables of the runs in an output folder, by default those of the target, into a target."""
    what = Export(Catalog([output], None), output.with_name("scratch"), Selection(tables=tables or None))
    return export(target_of(str(target)), what, progress or Silent())


def make_categories(output: Path, names: list[str] | tuple[str, ...]) -> None:
    """Write a run with categories that have these names, numbered from 0."""
    make_run(output, "categories", "run", [category(number, name=name) for number, name in enumerate(names)])
