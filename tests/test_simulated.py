"""Days of a schedule by a clock of its own: whatever happens to single crawls, what they leave is right."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulated import DAY, HOUR, MINUTE, SIMULATIONS, LiveSimulation
from tests.virtual import Act


# `python -m tests.simulated` plays a month.
@pytest.mark.parametrize(("spider", "days"), [("live", 1.5), ("notifications", 3), ("recent", 0.5)])
def test_days_of_kills_full_disks_and_wrong_clocks_leave_every_row_once_and_described(
    spider: str, days: float, tmp_path: Path
) -> None:
    simulation = SIMULATIONS[spider](tmp_path, seed=3)
    simulation.play(days)
    assert simulation.wrong == []
    # Otherwise it would have proved little.
    assert {session.fate for session in simulation.sessions} & {"kill", "crash"}


def test_a_clock_that_was_set_back_does_not_put_off_the_snapshots_of_a_run_that_goes_on(tmp_path: Path) -> None:
    simulation = LiveSimulation(tmp_path, seed=1)
    simulation.crawl("run", simulation.arguments, Act(12 * MINUTE, "kill"), fate="kill")
    simulation.clock.error = -DAY
    simulation.crawl("run", simulation.arguments, Act(HOUR, "stop"), fate="stop")
    simulation.check()
    assert simulation.wrong == []


@pytest.mark.parametrize("spider", ["live", "notifications"])
@pytest.mark.parametrize(("fate", "moment"), [("crash", 1), ("crash", 3), ("crash", 6), ("full", 1), ("full", 4)])
def test_a_day_that_comes_again_since_the_clock_was_ahead_is_gone_on_with_whatever_happens_then(
    spider: str, fate: str, moment: int, tmp_path: Path
) -> None:
    simulation = SIMULATIONS[spider](tmp_path, seed=1)
    simulation.clock.error = DAY
    set_right, midnight = Act(HOUR, "jump", 0), DAY - simulation.clock.start % DAY
    trouble = Act(midnight - 5, fate, moment)
    simulation.crawl("run", simulation.arguments, set_right, trouble, fate=fate)
    simulation.crawl("run", simulation.arguments, Act(midnight + 2 * HOUR, "stop"), fate="stop")
    simulation.check()
    assert simulation.wrong == []


def _write_the_last_row_again(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content + content[content.rindex(b"\n", 0, -1) + 1 :])


def _write_a_row_less(path: Path) -> None:
    os.truncate(path, path.read_bytes().rindex(b"\n", 0, -1) + 1)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (_write_the_last_row_again, {"is not what is described", "1 rows twice", "rows were written"}),
        (_write_a_row_less, {"is not what is described", "is not who was live", "or others in CSV"}),
        (lambda path: os.truncate(path, 0), {"snapshots, not 4, from", "not valid"}),
        (Path.unlink, {"is not there"}),
    ],
)
def test_what_is_wrong_is_found(spoil: Callable[[Path], None], found: set[str], tmp_path: Path) -> None:
    simulation = LiveSimulation(tmp_path, seed=1)
    simulation.crawl("run", simulation.arguments, Act(29 * MINUTE, "stop"), fate="stop")
    spoil(next(simulation.output.rglob("live_channels.jsonl")))
    simulation.check()
    assert {text for text in found if not any(text in line for line in simulation.wrong)} == set()
