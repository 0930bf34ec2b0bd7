"""Targets of exports that go on beside a schedule with kills, full disks and wrong clocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.exported import SIMULATIONS


# `python -m tests.exported` plays a week.
@pytest.mark.parametrize(
    ("spider", "days"),
    [
        ("categories", 2),
        ("deletions", 0.3),
        ("live", 0.25),
        ("notifications", 0.35),
        ("recent", 0.15),
        ("scheduled", 2),
    ],
)
def test_a_schedule_that_is_exported_meanwhile_is_in_every_target_as_it_was(
    spider: str, days: float, tmp_path: Path
) -> None:
    simulation = SIMULATIONS[spider](tmp_path, seed=4)
    simulation.play(days)
    assert simulation.wrong == []
    # Otherwise it would have proved little.
    assert simulation.exports > len(simulation.sessions)
