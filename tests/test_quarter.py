"""Hours of the schedule of `deploy/` by virtual clocks: nothing is said of what is well, and all of what is not."""

from __future__ import annotations

import random
from pathlib import Path

from tests.incidents import HOUR, MINUTE, incident
from tests.quarter import is_missed, kind_of, play, strays


# `python -m tests.quarter` plays a quarter, with incidents of every kind.
def test_of_hours_in_which_services_are_killed_and_the_disk_is_full_only_that_is_told(tmp_path: Path) -> None:
    chance = random.Random(1)
    incidents = [incident("killed live", 0.8 * HOUR, chance), incident("full", 1.4 * HOUR, chance)]
    quarter = play(tmp_path, 6.7 / 24, 1, incidents)
    measures, disk = quarter.measures, incidents[1]
    assert (measures.false, measures.wrong, strays(quarter)) == ([], [], [])
    assert [each.what for each in incidents if is_missed(measures, each)] == []
    assert 1 <= sum(kind_of(title) == "problem" for _, title, _ in measures.of(disk)) <= 2
    assert (measures.reader.lost, measures.reader.doubled) == (0, 0)
    assert measures.reader.reads > 1
    # Of the last export before the end: of the last hour, the last five minutes.
    assert measures.ages[0][0] < 62 * MINUTE
    assert measures.ages[0][1] < 6 * MINUTE


def test_what_is_missed_and_what_is_said_of_nothing_is_found(tmp_path: Path) -> None:
    quarter = play(tmp_path, 1.7 / 24, 1, [incident("absent", HOUR, random.Random(1))])
    assert [each.what for each in quarter.incidents if is_missed(quarter.measures, each)] == []
    quarter.measures.messages = [(0.0, "host: 1 problem", "of nothing")]
    assert [each.what for each in quarter.incidents if is_missed(quarter.measures, each)] == ["absent"]
    assert len(strays(quarter)) == 1
