"""Exports: in whatever steps runs come to a target, it holds what plain Python works out of their folders."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.collecting import LASTING, Collector, bring, differences
from tests.dataset_truth import COLLECTIONS, Truth
from tests.made_runs import ENDINGS

# Each takes two or three seconds.
EXAMPLES = int(os.environ.get("PARTI_TEST_EXAMPLES", "6"))


# --- Steps -------------------------------------------------------------------------------------------------------

WHICH = st.integers(0, 9)
EVENTS = st.lists(
    st.tuples(st.integers(1, 5), st.integers(0, 2)), min_size=1, max_size=4, unique_by=lambda event: event[0]
)
# Methods of `Collector`, with what they take; and `export`.
STEPS = st.one_of(
    st.tuples(st.just("collect"), st.sampled_from(sorted(COLLECTIONS)), EVENTS, st.sampled_from(sorted(ENDINGS))),
    st.tuples(st.just("begin"), st.sampled_from(LASTING), EVENTS),
    st.tuples(st.just("go_on"), WHICH, EVENTS),
    st.tuples(st.just("finish"), WHICH),
    st.tuples(st.just("kill"), WHICH, EVENTS),
    st.tuples(st.just("resume"), WHICH, EVENTS),
    st.tuples(st.just("copy"), WHICH),
    st.tuples(st.just("move"), WHICH),
    st.tuples(st.just("damage"), WHICH),
    st.tuples(st.just("export")),
)


class Target:
    """A target that runs are brought into step by step, and what it is to hold."""

    def __init__(self, path: Path, collector: Collector) -> None:
        self.path, self.truth = path, Truth()
        self._collector = collector

    def export(self) -> None:
        """Export, and look at what the target holds then."""
        report = self._bring()
        self.truth.see(*self._collector.outputs, state=self._collector.state)
        assert {Path(each.folder) for each in report.left_out if each.is_wrong} <= self.truth.left_out
        assert differences(self.path, self.truth.tables()) == []
        again = self._bring()
        assert (again.tables, again.files, again.left_out) == ({}, 0, report.left_out)

    def _bring(self) -> Any:
        return bring(self.path, self._collector.outputs, self._collector.state)


@pytest.mark.parametrize("name", ["dataset.duckdb", "dataset"])
@given(steps=st.lists(STEPS, min_size=10, max_size=20))
@settings(max_examples=EXAMPLES)
def test_in_any_order_and_in_any_number_of_steps_runs_become_the_same_dataset(
    name: str, steps: list[tuple[Any, ...]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        collector = Collector(Path(folder))
        target = Target(Path(folder, name), collector)
        for step, *values in steps:
            if step != "export":
                getattr(collector, step)(*values)
            if step in {"export", "kill"}:
                target.export()
        target.export()
        collector.end()
        target.export()
        at_once = Target(Path(folder, f"at-once-{name}"), collector)
        at_once.export()
        # What was cut from a run that was sealed before may be in the one and is not in the other.
        if not collector.was_cut:
            assert at_once.truth.tables() == target.truth.tables()
