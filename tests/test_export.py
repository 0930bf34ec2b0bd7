"""Exports: in whatever steps runs come to a target, it holds what plain Python works out of their folders."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.dataset.export import Export, Silent, export
from parti_scraper.dataset.plan import LeftOut
from parti_scraper.dataset.selection import Selection
from parti_scraper.dataset.tables import dataset_tables
from parti_scraper.dataset.targets.named import target_of
from parti_scraper.run.catalog import Catalog
from parti_scraper.run.entries import Entry
from tests.collecting import LASTING, Collector, bring, differences, rows_at, typed
from tests.dataset_truth import COLLECTIONS, DERIVED, TABLES, Row, Truth, derived_of, in_order, rows_of, tables_of
from tests.made_runs import ENDINGS, STARTED, live_channel, livestream, make_run, rejected, uuid_of
from tests.support import ROOT, ids

# Each takes a second or two.
EXAMPLES = int(os.environ.get("PARTI_TEST_EXAMPLES", "3"))


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


@pytest.mark.parametrize("name", ["dataset.duckdb", "dataset.sqlite", "dataset", "dataset.delta"])
@given(steps=st.lists(STEPS, min_size=8, max_size=15))
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


VERSIONS = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=3)


@given(
    spider=st.sampled_from(["categories", "notifications", "recent", "scheduled"]),
    runs=st.lists(VERSIONS, min_size=2, max_size=4),
    by_chance=st.randoms(use_true_random=False),
)
@settings(max_examples=EXAMPLES)
def test_of_two_versions_of_the_same_second_the_same_one_is_kept_in_whatever_order_they_come(
    spider: str, runs: list[list[tuple[int, int]]], by_chance: random.Random
) -> None:
    table = COLLECTIONS[spider]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("one", "other"):
            numbers = [*range(len(runs))]
            by_chance.shuffle(numbers)
            output, target = Path(folder, name), Path(folder, f"{name}.sqlite")
            for number in numbers:
                make_run(output, spider, f"run-{number}", rows_at(spider, runs[number], STARTED, "run"))
                bring(target, [output], Path(folder, "state"), selection=Selection(tables=(table,)))
        assert differences(target, tables_of(Path(folder, "one.sqlite"), [table]), [table]) == []


# --- Runs that were cut ------------------------------------------------------------------------------------------


# A database and a folder of parts: what the others do differently, the steps above have shown.
@pytest.fixture(params=["dataset.sqlite", "dataset"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a target that does not exist yet."""
    return tmp_path / str(request.param)


def make_days(output: Path, days: dict[str, list[Row]], status: str = "sealed") -> Path:
    """Write a run of `live` whose last day ended like this; return its folder."""
    for day, rows in days.items():
        make_run(output, "live", "run", rows, day=day, status=status if day == [*days][-1] else "finished")
    return output / "live" / "run"


def channels(day: str, *event_ids: int, snapshot: str = "run-1") -> list[Row]:
    """Return the rows of a snapshot."""
    return [live_channel(event_id, snapshot, observed_at=f"{day}T10:00:00Z") for event_id in event_ids]


MONDAY, TUESDAY = "2026-11-23", "2026-11-24"


def test_only_the_day_that_was_cut_is_replaced_and_what_was_pruned_stays(target: Path, tmp_path: Path) -> None:
    output, monday = tmp_path / "output", channels(MONDAY, 1, 2)
    run = make_days(output, {MONDAY: monday, TUESDAY: channels(TUESDAY, 3, 4, snapshot="run-2")})
    bring(target, [output], tmp_path)
    # As `prune` leaves it.
    (run / MONDAY / "live_channels.jsonl").unlink()
    set_in_package(run / MONDAY, pruned=True)
    after = channels(TUESDAY, 4, 5, snapshot="run-2")
    make_days(output, {TUESDAY: after}, "finished")
    report = bring(target, [output], tmp_path)
    uuid = uuid_of("live", "run")
    true = in_order("live_channels", [row | {"run_uuid": uuid} for row in (*monday, *after)])
    assert differences(target, {"live_channels": true}, ["live_channels"]) == []
    assert (report.left_out, report.files) == ((), 1)
    assert bring(target, [output], tmp_path).tables == {}


def test_a_day_that_is_damaged_keeps_its_rows_while_another_is_replaced(target: Path, tmp_path: Path) -> None:
    output, monday = tmp_path / "output", channels(MONDAY, 1, 2)
    run = make_days(output, {MONDAY: monday, TUESDAY: channels(TUESDAY, 3, 4, snapshot="run-2")})
    bring(target, [output], tmp_path)
    (run / MONDAY / "datapackage.json").write_text("{")
    after = channels(TUESDAY, 5, snapshot="run-2")
    make_days(output, {TUESDAY: after}, "finished")
    report = bring(target, [output], tmp_path)
    assert [each.folder for each in report.left_out] == [str(run / MONDAY)]
    uuid = uuid_of("live", "run")
    true = in_order("live_channels", [row | {"run_uuid": uuid} for row in (*monday, *after)])
    assert differences(target, {"live_channels": true}, ["live_channels"]) == []


def test_a_clock_that_was_set_back_does_not_make_an_export_read_a_file_again_and_again(
    target: Path, tmp_path: Path
) -> None:
    output, now = tmp_path / "output", time.time()
    make_run(output, "recent", "run", [livestream(1), livestream(2)], status="sealed")
    bring(target, [output], tmp_path, now=now)
    make_run(output, "recent", "run", [livestream(3)])
    assert bring(target, [output], tmp_path, now=now - 86_400).files == 1
    assert bring(target, [output], tmp_path, now=now - 80_000).tables == {}


# --- What is damaged ---------------------------------------------------------------------------------------------


def set_in_package(folder: Path, **values: Any) -> None:
    """Change a data package."""
    path = folder / "datapackage.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | values))


def describe_as_it_is(folder: Path, rows: int) -> None:
    """Let a data package describe the file of livestreams as it is, with so many rows."""
    content = (folder / LIVESTREAMS).read_bytes()
    (resource,) = json.loads((folder / "datapackage.json").read_bytes())["resources"]
    resource |= {"rows": rows, "bytes": len(content), "hash": f"sha256:{hashlib.sha256(content).hexdigest()}"}
    set_in_package(folder, resources=[resource])


def change_a_byte(folder: Path) -> None:
    path = folder / LIVESTREAMS
    path.write_bytes(path.read_bytes().replace(b"user", b"uses", 1))


def cut(folder: Path) -> None:
    os.truncate(folder / LIVESTREAMS, 100)


def tear_and_describe(folder: Path) -> None:
    path = folder / LIVESTREAMS
    path.write_bytes(path.read_bytes()[:-9] + b"\n")
    describe_as_it_is(folder, 2)


def empty_a_record_and_describe(folder: Path) -> None:
    path = folder / LIVESTREAMS
    path.write_bytes(path.read_bytes() + b"{}\n")
    describe_as_it_is(folder, 3)


def replace_by_a_folder(folder: Path) -> None:
    (folder / LIVESTREAMS).unlink()
    (folder / LIVESTREAMS).mkdir()


LIVESTREAMS = "livestreams.jsonl"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (change_a_byte, f"{LIVESTREAMS} is not what its data package says (SHA-256)"),
        (lambda folder: describe_as_it_is(folder, 3), f"{LIVESTREAMS} has 2 rows, not 3 as is said of it"),
        (cut, f"{LIVESTREAMS} has 100 bytes, not {{size}} as is said of it"),
        (tear_and_describe, f"{LIVESTREAMS} cannot be read: Invalid Input Error: Malformed JSON"),
        (empty_a_record_and_describe, f"{LIVESTREAMS} cannot be read: a record has no event_id"),
        (lambda folder: (folder / LIVESTREAMS).unlink(), f"{LIVESTREAMS} cannot be read: No such file or directory"),
        (replace_by_a_folder, f"{LIVESTREAMS} cannot be read: Is a directory"),
        (lambda folder: (folder / "datapackage.json").write_text("{"), "datapackage.json: "),
        (lambda folder: set_in_package(folder, format_version=3), "made by a later version of this project (format 3"),
        (lambda folder: set_in_package(folder, spider="live"), "datapackage.json: it is of the spider 'live'"),
    ],
)
def test_a_run_that_is_damaged_is_named_and_left_out_until_it_is_healed(
    damage: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    output, target = tmp_path / "output", tmp_path / "dataset.sqlite"
    selection = Selection(tables=("livestreams", "quarantine"))
    for number, name in enumerate(("first", "last")):
        make_run(output, "recent", name, [livestream(number)], quarantine=[rejected(number)])
    others = Truth().see(output).tables()
    folder = make_run(output, "recent", "middle", [livestream(7), livestream(8)])
    whole = shutil.copytree(folder, tmp_path / "whole")
    damage(folder)
    size = (whole / LIVESTREAMS).stat().st_size
    for files in (4, 0):
        report = bring(target, [output], tmp_path, selection=selection)
        (left_out,) = report.left_out
        assert (left_out.folder, report.is_whole, report.files) == (str(folder), False, files)
        assert left_out.reason.startswith(reason.format(size=size))
        assert "\n" not in left_out.reason
        assert differences(target, others, selection.tables or ()) == []
    shutil.rmtree(folder)
    shutil.copytree(whole, folder)
    report = bring(target, [output], tmp_path)
    assert (report.left_out, report.files) == ((), 1)
    assert differences(target, Truth().see(output).tables(), selection.tables or ()) == []


@pytest.mark.parametrize("tables", [None, ("livestreams",)])
def test_what_was_loaded_stays_when_its_run_is_deleted(
    tables: tuple[str, ...] | None, target: Path, tmp_path: Path
) -> None:
    output, selection = tmp_path / "output", Selection(tables=tables)
    folder = make_run(output, "recent", "run", [livestream(1), livestream(2)])
    bring(target, [output], tmp_path, selection=selection)
    true = Truth().see(output).tables()
    shutil.rmtree(folder)
    make_run(output, "recent", "other", [livestream(1)])
    report = bring(target, [output], tmp_path)
    assert (report.left_out, report.files, [*report.tables]) == ((), 1, [*(tables or dataset_tables())])
    assert differences(target, true, tables or TABLES) == []
    assert bring(target, [output], tmp_path).tables == {}


def test_a_table_alone_is_as_in_the_whole_dataset(tmp_path: Path) -> None:
    output, said = tmp_path / "output", {"channels": 1, "complete": True}
    moments = [f"2026-11-26T12:0{number}:00Z" for number in range(3)]
    snapshots = [{"snapshot_id": at, "started_at": at, "ended_at": at, **said} for at in moments]
    make_run(output, "live", "run", [live_channel(1, at, observed_at=at) for at in moments], snapshots=snapshots)
    make_run(output, "recent", "run", [livestream(1)])
    bring(tmp_path / "whole.sqlite", [output], tmp_path)
    whole = derived_of(tmp_path / "whole.sqlite")
    for table in DERIVED:
        alone = tmp_path / f"{table}.parquet"
        bring(alone, [output], tmp_path, selection=Selection(tables=(table,)))
        assert derived_of(alone, [table]) == {table: whole[table]}
        assert whole[table]


class Changing:
    """The entries of a catalog, after which something happens the first time."""

    def __init__(self, output: Path, happens: Callable[[], Any]) -> None:
        self._catalog, self._happening = Catalog([output], None), [happens]

    def __iter__(self) -> Iterator[Entry]:
        yield from self._catalog
        while self._happening:
            self._happening.pop()()


def test_a_run_that_is_resumed_while_it_is_exported_is_for_the_next_export(target: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    make_run(output, "recent", "first", [livestream(1)])
    folder = make_run(output, "recent", "run", [livestream(2), livestream(3)], status="sealed")

    def resume() -> None:
        (folder / "datapackage.json").unlink()
        os.truncate(folder / LIVESTREAMS, 10)

    what = Export(Changing(output, resume), tmp_path / "scratch")
    report = export(target_of(typed(target)), what, Silent())
    assert report.left_out == (LeftOut(str(folder), "it has just changed, and is for the next export", False),)
    assert report.is_whole
    assert ids(rows_of(target, "livestreams")) == [1]
    make_run(output, "recent", "run", [livestream(2), livestream(4)])
    bring(target, [output], tmp_path)
    assert differences(target, Truth().see(output).tables()) == []


# --- What earlier versions have left -----------------------------------------------------------------------------


def test_runs_of_the_first_version_are_taken_and_those_that_were_killed_too(target: Path, tmp_path: Path) -> None:
    left = shutil.copytree(ROOT / "tests/golden/runs-1", tmp_path / "left")
    output, state = left / "output", left / "state"
    with closing(sqlite3.connect(state / "ledger.sqlite")) as ledger, ledger:
        ledger.execute("UPDATE run SET folder = replace(folder, '/golden-runs', ?)", (str(left),))
    report = bring(target, [output], state)
    assert (report.source, report.is_whole) == ("mock", True)
    assert {Path(each.folder).name for each in report.left_out} == {"degraded", "elsewhere"}
    true = Truth().see(output, state=state).tables()
    # Of two versions of the same second, this does not know which is kept.
    assert differences(target, true, [table for table in true if table != "livestreams"]) == []
    assert ids(rows_of(target, "livestreams")) == ids(true["livestreams"])
    assert {table: len(rows) for table, rows in true.items()} == {
        "api_calls": 4,
        "categories": 21,
        "live_channels": 4,
        "live_notifications": 5,
        "livestream_versions": 22,
        "livestreams": 17,
        "quarantine": 1,
        "scheduled_livestreams": 2,
    }


# --- What runs hold ----------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


LIVESTREAM = st.fixed_dictionaries(
    {
        "event_title": TEXTS | st.none(),
        "extra": st.dictionaries(TEXTS, VALUES, max_size=3),
        "total_viewers": NUMBERS | st.none(),
        "event_end": st.integers(0, 253_402_300_799).map(timestamp_to_iso) | st.none(),
        "has_access_pass": st.booleans() | st.none(),
    }
)


@given(values=st.lists(LIVESTREAM, min_size=1, max_size=5), records=st.lists(VALUES, max_size=5))
@settings(max_examples=2 * EXAMPLES)
def test_every_value_comes_out_as_it_went_in(values: list[Row], records: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output, target = Path(folder, "output"), Path(folder, "dataset.duckdb")
        rows = [livestream(number, **each) for number, each in enumerate(values)]
        quarantine = [rejected(number, record=record) for number, record in enumerate(records)]
        make_run(output, "recent", "run", rows, quarantine=quarantine)
        bring(target, [output], Path(folder, "state"), selection=Selection(tables=("livestreams", "quarantine")))
        assert differences(target, Truth().see(output).tables(), ["livestreams", "quarantine"]) == []
