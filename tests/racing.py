"""Exporters that bring runs into the same target at the same time, each in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from parti_scraper.dataset.selection import Selection
from tests import forked
from tests.collecting import bring
from tests.folders import make_run_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.synchronize import Barrier


def race(target: str, outputs: Sequence[Path], firsts: Sequence[int], rounds: int, tables: tuple[str, ...]) -> None:
    """Let an exporter for each output folder make a run in it and bring all, `rounds` times, at the same time.

    Each must end well. The runs are those of `make_run_of`, each folder's from its number of `firsts` on; what is
    brought of them are some tables, so that many exports are quick.
    """
    start = forked.barrier(len(outputs))
    exporters = [
        forked.start(_export, start, target, output, range(first, first + rounds), tables)
        for first, output in zip(firsts, outputs, strict=True)
    ]
    for exporter in exporters:
        exporter.join()
    assert [exporter.exitcode for exporter in exporters] == [0] * len(outputs)


def _export(start: Barrier, target: str, output: Path, numbers: range, tables: tuple[str, ...]) -> None:
    start.wait()
    for number in numbers:
        make_run_of(output, number)
        bring(target, [output], Path(f"{output}-state"), selection=Selection(tables=tables))
