"""Exporters that bring runs into the same target at the same time, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.collecting import bring
from tests.folders import make_run_of
from tests.support import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

_READY = "ready\n"


def race(target: str, outputs: Sequence[Path], firsts: Sequence[int], rounds: int) -> None:
    """Let an exporter for each output folder make a run in it and bring all, `rounds` times, at the same time.

    Each must end well. The runs are those of `make_run_of`, each folder's from its number of `firsts` on.
    """
    exporters = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.racing", target, output, f"{output}-state", str(first), str(rounds)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        for first, output in zip(firsts, outputs, strict=True)
    ]
    for exporter in exporters:
        assert exporter.stdout
        assert exporter.stdout.readline() == _READY
    for exporter in exporters:
        assert exporter.stdin
        exporter.stdin.write("!")
        exporter.stdin.flush()
    assert [exporter.communicate()[1] for exporter in exporters] == [""] * len(outputs)


def _export() -> None:
    target, output, state = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    first, rounds = map(int, sys.argv[4:])
    sys.stdout.write(_READY)
    sys.stdout.flush()
    sys.stdin.read(1)
    for number in range(first, first + rounds):
        make_run_of(output, number)
        bring(target, [output], state)


if __name__ == "__main__":
    _export()
