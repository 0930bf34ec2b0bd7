"""Recovery: how the files of a stopped run are prepared, also when it is killed again in the middle."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parti_scraper.run.recovery import (
    RECOVERED,
    Cut,
    Found,
    Obstacle,
    Remove,
    Resume,
    RunFiles,
    Save,
    StartOver,
    Step,
    carry_out,
    forget_tail,
    look,
    plan,
    roll_back,
    rows_before,
)

QUARANTINE = "quarantine.jsonl"
DESCRIBED = "2026-10-31"
# A run of the recent route: its pages can be fetched again.
PAGES = RunFiles("streams", can_refetch=True, by_day=False, feeds=frozenset({"streams.jsonl", "streams.csv"}))
# A run that listens: notifications cannot be fetched again, and each day has its own files.
HEARD = RunFiles(
    "streams",
    can_refetch=False,
    by_day=True,
    feeds=frozenset({"2026-11-03/streams.jsonl", "2026-11-03/streams.csv"}),
    described=frozenset({DESCRIBED}),
)
# Files that are not the run's, though some look like it.
FOREIGN = {
    "notes.txt": b"mine\n",
    "streams-2.jsonl": b'{"id": -1}\n',
    "my.streams.jsonl": b'{"id": -2}\n',
    "recovered.csv": b"id\r\n",
    "quarantine.csv": b"id\r\n",
    "datapackage.json.tmp": b"{",
    "pages/streams.jsonl": b'{"id": -3}\n',
    "pages/recovered.jsonl": b'{"id": -4}\n',
    "2026-11-01/notes.txt": b"mine\n",
    "2026-11-1/streams.jsonl": b'{"id": -5}\n',
    # A day that was described before.
    f"{DESCRIBED}/streams.jsonl": b'{"id": -6}\n',
    f"{DESCRIBED}/quarantine.jsonl": b"{}\n",
    f"{DESCRIBED}/datapackage.json": b"{}\n",
}
TWO = {"streams.jsonl": (20, 2), "streams.csv": (30, 2)}
DAYS = {"2026-11-01/streams.jsonl": (20, 2), "2026-11-01/streams.csv": (30, 2)}
AS_NOTED = {name: Found(size) for name, (size, _) in TWO.items()}


# The rules, one by one:


def test_files_that_are_as_they_were_noted_stay_so() -> None:
    assert plan(PAGES, AS_NOTED, TWO) == Resume((), {"streams.jsonl": 2, "streams.csv": 2})


def test_records_after_the_checkpoint_are_cut_if_they_can_be_fetched_again() -> None:
    found = AS_NOTED | {"streams.csv": Found(31), QUARANTINE: Found(15)}
    noted = TWO | {QUARANTINE: (12, 1)}
    assert plan(PAGES, found, noted) == Resume(
        (Cut("streams.csv", 30), Cut(QUARANTINE, 12)), {"streams.jsonl": 2, "streams.csv": 2}
    )


def test_a_quarantine_after_the_checkpoint_is_removed_if_it_can_be_fetched_again() -> None:
    going_on = plan(PAGES, AS_NOTED | {QUARANTINE: Found(15)}, TWO)
    assert going_on.steps == (Remove(QUARANTINE),)


def test_other_files_of_the_collection_stay_if_it_can_be_fetched_again() -> None:
    assert plan(PAGES, AS_NOTED | {"streams.xml": Found(15)}, TWO).steps == ()


def test_a_file_whose_name_only_starts_like_the_runs_own_is_not_one_of_them() -> None:
    found = {
        "2026-11-01/streams.jsonl": Found(20),
        "2026-11-01/streams.csv": Found(30),
        "streams-2.jsonl": Found(10, b'{"id": 3}\n'),
    }
    assert plan(HEARD, found, DAYS).steps == ()
    assert plan(replace(HEARD, can_refetch=True), {"streams-2.jsonl": Found(10)}, None).steps == ()


def test_records_that_cannot_be_fetched_again_are_saved_before_the_files_are_cut() -> None:
    found = {
        "2026-11-01/streams.jsonl": Found(36, b'{"id": 3}\n{"id"'),
        "2026-11-01/streams.csv": Found(40),
        "2026-11-02/streams.jsonl": Found(10, b'{"id": 4}\n'),
        "2026-11-02/streams.csv": Found(9),
        QUARANTINE: Found(19, b'"b"\n"c"\n"d'),
        RECOVERED: Found(10, b'{"id": 2}\n'),
    }
    assert plan(HEARD, found, DAYS | {QUARANTINE: (8, 2)}) == Resume(
        (
            Save((b'{"id": 2}', b'{"id": 3}', b'{"id": 4}')),
            Remove("2026-11-02/streams.csv"),
            Remove("2026-11-02/streams.jsonl"),
            Cut("2026-11-01/streams.jsonl", 20),
            Cut("2026-11-01/streams.csv", 30),
            Cut(QUARANTINE, 17),
        ),
        {"2026-11-01/streams.jsonl": 2, "2026-11-01/streams.csv": 2},
        ({"id": 2}, {"id": 3}, {"id": 4}),
        quarantined={QUARANTINE: 2},
    )


def test_a_saved_line_that_is_not_cut_yet_is_written_once() -> None:
    found = {"2026-11-01/streams.jsonl": Found(40, b'{"id": 3}\n{"id": 4}\n'), "2026-11-01/streams.csv": Found(30)}
    saved = Found(20, b'{"id": 3}\n{"id": 4}\n')
    going_on = plan(HEARD, found | {RECOVERED: saved}, DAYS)
    assert isinstance(going_on, Resume)
    assert going_on.tail == ({"id": 3}, {"id": 4})


def test_a_quarantine_without_a_checkpoint_that_cannot_be_fetched_again_is_counted_whole() -> None:
    found = {
        "2026-11-01/streams.jsonl": Found(20),
        "2026-11-01/streams.csv": Found(30),
        QUARANTINE: Found(8, b'"a"\n"b"\n'),
    }
    assert plan(HEARD, found, DAYS) == Resume(
        (), {"2026-11-01/streams.jsonl": 2, "2026-11-01/streams.csv": 2}, quarantined={QUARANTINE: 2}
    )


def test_a_whole_line_that_is_no_json_is_an_error_before_any_change() -> None:
    found = {"2026-11-01/streams.jsonl": Found(24, b"abc\n"), "2026-11-01/streams.csv": Found(30)}
    with pytest.raises(ValueError, match="Expecting value"):
        plan(HEARD, found, DAYS)


@pytest.mark.parametrize(
    ("files", "found", "noted", "obstacle"),
    [
        (PAGES, AS_NOTED, None, Obstacle.NOTHING_NOTED),
        (replace(PAGES, feeds=None), AS_NOTED, TWO, Obstacle.FEEDS_ELSEWHERE),
        (PAGES, AS_NOTED | {"streams.csv": Found(29)}, TWO, Obstacle.FILES_CHANGED),
        (PAGES, {"streams.csv": Found(30)}, TWO, Obstacle.FILES_CHANGED),
        (PAGES, AS_NOTED, TWO | {QUARANTINE: (5, 1)}, Obstacle.FILES_CHANGED),
        # A new feed lacks the earlier records.
        (PAGES, AS_NOTED, {"streams.jsonl": (20, 2)}, Obstacle.FILES_CHANGED),
        (PAGES, {}, {}, Obstacle.FILES_CHANGED),
    ],
)
def test_a_run_that_cannot_be_resumed_starts_over(
    files: RunFiles, found: Mapping[str, Found], noted: Mapping[str, tuple[int, int]] | None, obstacle: Obstacle
) -> None:
    removed = tuple(Remove(name) for name in sorted(found))
    assert plan(files, found, noted) == StartOver(obstacle, loses_records=False, steps=removed)
    kept = plan(replace(files, can_refetch=False), found, noted)
    loses_records = bool(found)
    assert kept == StartOver(obstacle, loses_records=loses_records, steps=() if loses_records else removed)


def test_fewer_feeds_than_before_are_no_reason_to_begin_from_the_start() -> None:
    assert isinstance(plan(replace(PAGES, feeds=frozenset({"streams.jsonl"})), AS_NOTED, TWO), Resume)


def test_a_file_that_had_nothing_at_the_checkpoint_may_be_missing(tmp_path: Path) -> None:
    noted = {"2026-11-03/streams.jsonl": (0, 0), "2026-11-03/streams.csv": (0, 0)}
    going_on = plan(HEARD, look(tmp_path, HEARD, noted), noted)
    assert going_on == Resume((), {"2026-11-03/streams.jsonl": 0, "2026-11-03/streams.csv": 0})
    carry_out(tmp_path, going_on.steps)
    assert isinstance(going_on, Resume)
    assert list(rows_before(tmp_path, going_on)) == []
    assert list(tmp_path.iterdir()) == []


def test_empty_files_have_no_records_to_lose() -> None:
    over = plan(HEARD, {"2026-11-03/streams.jsonl": Found(0), QUARANTINE: Found(4)}, None)
    assert over == StartOver(
        Obstacle.NOTHING_NOTED, loses_records=False, steps=(Remove("2026-11-03/streams.jsonl"), Remove(QUARANTINE))
    )


@pytest.mark.parametrize("quarantined", [0, 1])
def test_half_written_data_are_rolled_back_to_the_checkpoint(tmp_path: Path, quarantined: int) -> None:
    noted = {"2026-11-01/streams.jsonl": (4, 1)} | ({QUARANTINE: (2, quarantined)} if quarantined else {})
    written = {"2026-11-01/streams.jsonl": b"one\ntwo\n", "2026-11-02/streams.jsonl": b"three\n", QUARANTINE: b"a\nb\n"}
    with folder_of(written | FOREIGN) as folder:
        steps = roll_back(written, noted, HEARD)
        carry_out(folder, steps)
        left = {"2026-11-01/streams.jsonl": b"one\n"} | ({QUARANTINE: b"a\n"} if quarantined else {})
        assert content_of(folder) == left | FOREIGN


# Properties of every run:


@dataclass
class Stopped:
    """A killed run: its files, those of its checkpoint, and all records that were written whole."""

    files: RunFiles
    content: dict[str, bytes]
    noted: dict[str, tuple[int, int]]
    whole: list[Any]
    set_aside: list[bytes]
    quarantine: str = QUARANTINE


@st.composite
def stopped_runs(draw: Callable[[Any], Any], files: RunFiles) -> Stopped:
    """Return a run that was killed at some time, perhaps again during a recovery."""
    identities = itertools.count()
    stopped = Stopped(files, {}, {}, [], [])

    def lines() -> list[bytes]:
        rows = [{"id": next(identities), "text": draw(st.text(max_size=3))} for _ in range(draw(st.integers(0, 3)))]
        return [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows]

    days = ["2026-11-01/streams", "2026-11-02/streams", "2026-11-03/streams"] if files.by_day else ["streams"]
    for name in (f"{day}{suffix}" for day in days for suffix in (".jsonl", ".csv")):
        is_noted = not files.by_day or draw(st.booleans())
        before, after = lines() if is_noted else [], lines()
        stopped.content[name] = b"".join([*before, *after, draw(st.sampled_from([b"", b'{"id": 1', b'"']))])
        if is_noted:
            stopped.noted[name] = (sum(map(len, before)), len(before))
        if name.endswith(".jsonl"):
            stopped.whole += map(json.loads, before + ([] if files.can_refetch else after))
    if files.by_day:
        stopped.quarantine = draw(st.sampled_from([QUARANTINE, f"2026-11-02/{QUARANTINE}"]))
        if draw(st.booleans()):
            # Sealed, or described after the checkpoint.
            stopped.content["2026-11-02/datapackage.json"] = b"{}"
    before, after = lines() if draw(st.booleans()) else [], lines()
    if before or after:
        stopped.content[stopped.quarantine] = b"".join([*before, *after, draw(st.sampled_from([b"", b"{"]))])
    if before:
        stopped.noted[stopped.quarantine] = (sum(map(len, before)), len(before))
    stopped.set_aside = before + ([] if files.can_refetch else after)
    if not files.can_refetch and draw(st.booleans()):
        # Of a recovery that was killed after it had written any number of them.
        again = draw(st.lists(st.sampled_from(stopped.whole), max_size=2)) if stopped.whole else []
        saved = [*lines(), *map(encode, again)]
        stopped.content[RECOVERED] = b"".join(saved)
        stopped.whole += [row for row in map(json.loads, saved) if row not in stopped.whole]
    return stopped


def encode(row: Any) -> bytes:
    """Return a line."""
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


@contextmanager
def folder_of(content: Mapping[str, bytes]) -> Iterator[Path]:
    """Return a folder with these files."""
    with tempfile.TemporaryDirectory() as name:
        for path, written in content.items():
            (Path(name) / path).parent.mkdir(exist_ok=True)
            (Path(name) / path).write_bytes(written)
        yield Path(name)


def content_of(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def plan_in(folder: Path, stopped: Stopped) -> Resume:
    """Return the plan for what is in a folder."""
    going_on = plan(stopped.files, look(folder, stopped.files, stopped.noted), stopped.noted)
    assert isinstance(going_on, Resume)
    return going_on


def noted_part(stopped: Stopped, name: str) -> bytes:
    """Return the content of a file at the checkpoint."""
    return stopped.content[name][: stopped.noted[name][0]]


ANY_RUN = st.one_of(stopped_runs(PAGES), stopped_runs(HEARD))


@given(stopped_runs(PAGES))
def test_files_that_can_be_fetched_again_are_exactly_as_at_the_checkpoint(stopped: Stopped) -> None:
    with folder_of(stopped.content | FOREIGN) as folder:
        going_on = plan_in(folder, stopped)
        carry_out(folder, going_on.steps)
        assert content_of(folder) == {name: noted_part(stopped, name) for name in stopped.noted} | FOREIGN
        assert list(rows_before(folder, going_on)) == stopped.whole


@given(stopped_runs(HEARD))
def test_no_whole_line_that_cannot_be_fetched_again_is_lost(stopped: Stopped) -> None:
    with folder_of(stopped.content | FOREIGN) as folder:
        going_on = plan_in(folder, stopped)
        carry_out(folder, going_on.steps)
        left = content_of(folder)
        saved = left.pop(RECOVERED, b"")
        assert left.pop(stopped.quarantine, b"") == b"".join(stopped.set_aside)
        feeds = stopped.noted.keys() - {stopped.quarantine}
        assert left == {name: noted_part(stopped, name) for name in feeds} | FOREIGN
        assert b"".join(map(encode, going_on.tail)) == saved
        before = list(rows_before(folder, going_on))
        assert sorted_rows([*before, *(row for row in going_on.tail if row not in before)]) == sorted_rows(
            stopped.whole
        )
        number = len(stopped.set_aside) - stopped.noted.get(stopped.quarantine, (0, 0))[1]
        assert going_on.quarantined == ({stopped.quarantine: number} if number else {})


def sorted_rows(rows: list[Any]) -> list[Any]:
    """Return rows in a fixed order."""
    return sorted(rows, key=lambda row: (row.get("id", -1), row.get("text", "")))


@given(ANY_RUN)
def test_a_recovery_that_is_killed_after_any_step_or_done_twice_ends_the_same(stopped: Stopped) -> None:
    with folder_of(stopped.content | FOREIGN) as folder:
        expected = plan_in(folder, stopped)
        carry_out(folder, expected.steps)
        left = content_of(folder)
    for done in range(len(expected.steps) + 1):
        with folder_of(stopped.content | FOREIGN) as folder:
            steps = expected.steps[:done]
            carry_out(folder, steps)
            if isinstance(dict(enumerate(expected.steps)).get(done), Save):
                # Killed while writing them.
                (folder / RECOVERED).with_suffix(".tmp").write_bytes(b'{"id')
            again = plan_in(folder, stopped)
            carry_out(folder, again.steps)
            assert content_of(folder) == left
            assert replace(again, steps=expected.steps) == expected


@given(stopped_runs(HEARD), st.lists(st.integers(0, 12), max_size=4))
@settings(deadline=None)
def test_a_run_that_is_killed_repeatedly_during_recovery_ends_with_each_record_once(
    stopped: Stopped, kills: list[int]
) -> None:
    with folder_of(stopped.content | FOREIGN) as folder:
        for moments in [*kills, 1_000]:
            recover(folder, stopped, moments)
        left = content_of(folder)
        assert RECOVERED not in left
        written = [line for name in left if is_own(name) for line in left[name].splitlines()]
        # A record that only an earlier recovery had was written once, too.
        assert sorted_rows(list(map(json.loads, written))) == sorted_rows(stopped.whole)
        assert left.get(stopped.quarantine, b"") == b"".join(stopped.set_aside)
        assert {name: left[name] for name in FOREIGN} == FOREIGN


def is_own(name: str) -> bool:
    """Return whether a file has records of the run as JSON Lines."""
    return is_feed(name) and name.endswith(".jsonl")


def is_feed(name: str) -> bool:
    """Return whether a file has records of the run."""
    return name not in FOREIGN and Path(name).stem == "streams"


def recover(folder: Path, stopped: Stopped, moments: int) -> None:
    """Recover as a run does, unless it is killed before: put the files right, write the tail again, note, forget it."""
    going_on = plan_in(folder, stopped)
    carry_out(folder, going_on.steps[:moments])
    if moments < len(going_on.steps):
        return
    moments -= len(going_on.steps)
    before = list(rows_before(folder, going_on))
    rows = [row for row in going_on.tail if row not in before]
    name = "2026-11-03/streams.jsonl"
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        file.writelines(map(encode, rows[:moments]))
        if moments < len(rows):
            file.write(b'{"id"')
            return
    moments -= len(rows)
    if moments > 0:
        size, count = stopped.noted.get(name, (0, 0))
        stopped.noted[name] = (size + sum(map(len, map(encode, rows))), count + len(rows))
        if stopped.quarantine in stopped.content:
            stopped.noted[stopped.quarantine] = ((folder / stopped.quarantine).stat().st_size, len(stopped.set_aside))
    if moments > 1:
        forget_tail(folder)


@given(ANY_RUN, st.booleans(), st.sampled_from(["nothing noted", "elsewhere", "shorter"]))
def test_a_run_that_starts_over_removes_its_files_except_those_that_cannot_be_fetched_again(
    stopped: Stopped, can_refetch: bool, obstacle: str
) -> None:
    files = replace(stopped.files, can_refetch=can_refetch)
    files = replace(files, feeds=None) if obstacle == "elsewhere" else files
    noted = None if obstacle == "nothing noted" else dict(stopped.noted)
    if noted is not None and obstacle == "shorter":
        noted["2026-11-04/streams.csv" if files.by_day else "streams.xml"] = (1, 1)
    with folder_of(stopped.content | FOREIGN) as folder:
        over = plan(files, look(folder, files, noted), noted)
        assert isinstance(over, StartOver)
        carry_out(folder, over.steps)
        feeds = [written for name, written in stopped.content.items() if is_feed(name)]
        has_packages = any(name.endswith("datapackage.json") for name in stopped.content)
        has_days = files.by_day and (has_packages if noted is None else bool(files.described))
        assert over.loses_records == (has_days or (not can_refetch and any(feeds)))
        left = stopped.content if over.loses_records else {RECOVERED: stopped.content.get(RECOVERED)}
        assert content_of(folder) == {name: written for name, written in left.items() if written is not None} | FOREIGN


def test_a_step_that_fails_names_the_file(tmp_path: Path) -> None:
    steps: list[Step] = [Remove("gone"), Cut("missing.jsonl", 3)]
    with pytest.raises(FileNotFoundError) as raised:
        carry_out(tmp_path, steps)
    assert str(raised.value.filename) == str(tmp_path / "missing.jsonl")
