"""Days of a schedule by a clock of its own: whatever happens to single crawls, what they leave is right."""

from __future__ import annotations

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
