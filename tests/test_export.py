"""Exports: in whatever steps runs come to a target, it holds what plain Python works out of their folders."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import ClassVar

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.collecting import LASTING, Collector, bring, differences
from tests.dataset_truth import COLLECTIONS, Truth
from tests.made_runs import ENDINGS

# Each takes a second or two.
EXAMPLES = int(os.environ.get("PARTI_TEST_EXAMPLES", "5"))

NUMBERS = st.integers(0, 9)
EVENTS = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2)), max_size=4, unique_by=lambda event: event[0])


# --- Steps -------------------------------------------------------------------------------------------------------


class _Steps(RuleBasedStateMachine):
    """Collects and exports in any order."""

    target_name: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.collector, self.truth = Collector(self.folder), Truth()
        self.target = self.folder / self.target_name

    @rule(
        spider=st.sampled_from(sorted(COLLECTIONS)),
        events=EVENTS,
        status=st.sampled_from(sorted(ENDINGS)),
        set_aside=st.integers(0, 2),
    )
    def collect(self, spider: str, events: list[tuple[int, int]], status: str, set_aside: int) -> None:
        self.collector.collect(spider, events, status, set_aside)

    @rule(spider=st.sampled_from(LASTING), events=EVENTS)
    def begin(self, spider: str, events: list[tuple[int, int]]) -> None:
        self.collector.begin(spider, events)

    @rule(which=NUMBERS, events=EVENTS, noted=st.booleans())
    def go_on(self, which: int, events: list[tuple[int, int]], noted: bool) -> None:
        self.collector.go_on(which, events, noted=noted)

    @rule(which=NUMBERS)
    def finish(self, which: int) -> None:
        self.collector.finish(which)

    @rule()
    def seal(self) -> None:
        self.collector.seal()

    @rule(which=NUMBERS)
    def resume(self, which: int) -> None:
        self.collector.resume(which)

    @rule(which=NUMBERS, leaves=st.booleans())
    def copy(self, which: int, leaves: bool) -> None:
        self.collector.copy(which, leaves=leaves)

    @rule(which=NUMBERS)
    def damage(self, which: int) -> None:
        self.collector.damage(which)

    @rule()
    def heal(self) -> None:
        self.collector.heal()

    @rule()
    def export(self) -> None:
        report = bring(self.target, self.collector.outputs, self.collector.state)
        self.truth.see(*self.collector.outputs, state=self.collector.state)
        assert {Path(each.folder) for each in report.left_out if each.is_wrong} <= self.truth.left_out
        assert differences(self.target, self.truth.tables()) == []

    @rule()
    def export_again(self) -> None:
        self.export()
        report = bring(self.target, self.collector.outputs, self.collector.state)
        assert (report.tables, report.files) == ({}, 0)

    def teardown(self) -> None:
        self.collector.heal()
        self.export()
        anew = self.folder / f"anew-{self.target_name}"
        bring(anew, self.collector.outputs, self.collector.state)
        assert differences(anew, Truth().see(*self.collector.outputs, state=self.collector.state).tables()) == []
        if not self.collector.was_cut:
            assert differences(anew, self.truth.tables()) == []
        shutil.rmtree(self.folder)


_SETTINGS = settings(max_examples=EXAMPLES, stateful_step_count=15, phases=[Phase.generate])


class _StepsOfDuckDb(_Steps):
    target_name = "dataset.duckdb"


class _StepsOfFolder(_Steps):
    target_name = "dataset"


TestStepsOfDuckDb = _StepsOfDuckDb.TestCase
TestStepsOfDuckDb.settings = _SETTINGS
TestStepsOfFolder = _StepsOfFolder.TestCase
TestStepsOfFolder.settings = _SETTINGS
