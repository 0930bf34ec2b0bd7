"""The ledger: its records of runs, and where the next incremental run starts."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parti_scraper.exceptions import LedgerError, LedgerFormatError
from parti_scraper.ledger.ledger import (
    FILE_NAME,
    Checkpoint,
    FailedStart,
    Ledger,
    RunEnd,
    RunRecord,
)
from parti_scraper.ledger.locks import Lock
from parti_scraper.ledger.series import Series, Version, content_hash
from parti_scraper.ledger.uuids import run_uuid_of

NOW = 1_800_000_000
END = RunEnd(NOW + 5.5, 0)
UUID = "0b9fb8ff-5f0c-4c3a-9d59-0f4f9f3e2b11"
# What version 2 has left, as it was found then.
VERSION_2 = Path(__file__).parent / "golden" / "ledger-2.sqlite"
FILTERS = {"categories": ["7"], "user_id": None}
TABLES_OF_VERSION_1 = """
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    filters TEXT NOT NULL UNIQUE,
    until INTEGER,      -- all that ended up to here was written, in Unix seconds
    known_from INTEGER  -- the versions of all that ended from here on are known
);
CREATE TABLE version (
    series INTEGER NOT NULL, event_id INTEGER NOT NULL, ended INTEGER, hash BLOB NOT NULL,
    PRIMARY KEY (series, event_id)
) WITHOUT ROWID;
CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    folder TEXT NOT NULL UNIQUE,
    spider TEXT NOT NULL,
    run_id TEXT NOT NULL,
    arguments TEXT NOT NULL, -- as typed, JSON
    started_at REAL NOT NULL,
    since INTEGER,
    until INTEGER,
    series INTEGER,
    moves_to INTEGER,        -- where the next run of the series starts after this one
    known_from INTEGER,
    state TEXT NOT NULL,     -- running, complete, incomplete, superseded
    host TEXT,
    progress TEXT,           -- of the last checkpoint, JSON
    counts TEXT,
    files TEXT
);
CREATE TABLE time_window ( -- those that are done; what is left is in the progress
    run INTEGER NOT NULL, walk INTEGER NOT NULL, high INTEGER NOT NULL, low INTEGER NOT NULL,
    pages INTEGER NOT NULL, records INTEGER NOT NULL
);
CREATE TABLE rejected (run INTEGER NOT NULL, mark BLOB NOT NULL);
CREATE TABLE written (run INTEGER NOT NULL, event_id INTEGER NOT NULL, ended INTEGER, hash BLOB NOT NULL);
"""
COUNTS_OF_VERSION_1 = {
    "item_scraped_count": 10,
    "item_dropped_count": 15,
    "item_dropped_reasons_count/BadRecord": 1,
    "item_dropped_reasons_count/DuplicateRecord": 2,
    "item_dropped_reasons_count/FilteredRecord": 4,
    "parti/incremental/changed": 3,
    "parti/incremental/new": 7,
    "parti/spider/pages": 5,
    "parti/spider/served": 25,
}
COUNTS = {
    "pages": 5,
    "served": 25,
    "written": 10,
    "duplicate": 2,
    "quarantined": 1,
    "filtered": 4,
    "dropped": 8,
    "new": 7,
    "changed": 3,
}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Return an empty ledger."""
    return Ledger(tmp_path / "state")


def run_of(series: Series | None = None, name: str = "one", **more: int | None) -> RunRecord:
    """Return a run to start."""
    identity = None if series is None else series.id
    return RunRecord(f"/output/recent/{name}", "recent", name, {"since": "7d"}, NOW, (NOW - 60, NOW), identity, **more)


def noted(*written: Version) -> Checkpoint:
    """Return a checkpoint at which these versions had been written."""
    return Checkpoint({"walks": []}, {"served": 2}, {"x.jsonl": (10, 2)}, "http://host", written=list(written))


def test_a_run_is_found_as_it_was_started(ledger: Ledger, tmp_path: Path) -> None:
    number = ledger.begin(replace(run_of(), run_uuid=UUID))
    again = Ledger(tmp_path / "state").find(Path("/output/recent/one"))
    window = (NOW - 60, NOW)
    assert again == RunRecord(
        "/output/recent/one", "recent", "one", {"since": "7d"}, NOW, window, id=number, run_uuid=UUID
    )
    assert ledger.find(Path("/output/recent/other")) is None
    assert list(ledger.running("recent")) == [again]
    assert list(ledger.running("live")) == []


def ending_of(ledger: Ledger, name: str = "one") -> tuple[Any, ...]:
    """Return the state of a run, and how it ended."""
    run = ledger.find(Path(f"/output/recent/{name}"))
    assert run is not None
    return run.state, run.ended_at, run.exit_code, run.reason


@pytest.mark.parametrize(("complete", "end"), [(True, END), (False, RunEnd(NOW + 1.0, 4, "a page is missing"))])
def test_how_a_run_ended_is_noted_once(ledger: Ledger, *, complete: bool, end: RunEnd) -> None:
    number = ledger.begin(run_of())
    assert ending_of(ledger) == ("running", None, None, None)
    ledger.finish(number, end, complete=complete, truncated=False)
    ledger.finish(number, RunEnd(NOW + 99, 4, "later"), complete=complete, truncated=False)
    state = "complete" if complete else "incomplete"
    assert ending_of(ledger) == (state, end.ended_at, end.exit_code, end.reason)


def test_a_run_that_was_stopped_can_go_on_and_then_counts_as_running(ledger: Ledger) -> None:
    number = ledger.begin(run_of())
    ledger.checkpoint(number, noted())
    ledger.stop(number, RunEnd(NOW + 1.0, 3, "1 exception, see the log"))
    assert ending_of(ledger) == ("running", NOW + 1.0, 3, "1 exception, see the log")
    assert ledger.last_checkpoint(number) is not None
    ledger.seal(number)
    assert [run.sealed for run in ledger.running("recent")] == [True]
    ledger.resume(number)
    assert ending_of(ledger) == ("running", None, None, None)
    assert [run.sealed for run in ledger.running("recent")] == [False]


def test_runs_that_did_not_finish_are_to_be_sealed_once(ledger: Ledger) -> None:
    series = ledger.series(FILTERS)
    superseded, left = ledger.begin(run_of(series)), ledger.begin(run_of(series, "two"))
    ledger.finish(ledger.begin(run_of(name="three")), END, complete=True, truncated=False)
    assert [run.id for run in ledger.left_unsealed("recent")] == [left, superseded]
    assert list(ledger.left_unsealed("live")) == []
    ledger.seal(left)
    assert [run.id for run in ledger.left_unsealed(None)] == [superseded]


def test_a_run_that_left_nothing_is_forgotten_with_its_notes(ledger: Ledger) -> None:
    number = ledger.begin(run_of())
    ledger.checkpoint(number, noted(Version(1, NOW, b"x")))
    ledger.forget(number)
    assert list(ledger.running("recent")) == []
    # The number is given again, to a run that has written nothing.
    again = ledger.begin(run_of(ledger.series(FILTERS), "two"))
    ledger.finish(again, END, complete=True, truncated=False)
    assert (again, ledger.known(1, 1)) == (number, None)


def test_of_the_runs_that_were_not_begun_the_last_thousand_are_kept(ledger: Ledger) -> None:
    def failed(number: int) -> FailedStart:
        return FailedStart("live", None, {"limit": str(number)}, NOW + number, 2, "argument `limit`: too large")

    for number in range(1_003):
        ledger.note_failed_start(failed(number))
    assert list(ledger.failed_starts()) == [failed(number) for number in reversed(range(3, 1_003))]
    assert list(ledger.failed_starts(NOW + 1_001)) == [failed(1_002), failed(1_001)]


def test_a_run_that_was_given_no_uuid_has_the_same_one_on_every_machine() -> None:
    called = run_uuid_of("recent", "one", "2027-01-15T08:00:00Z")
    assert called == "a27af0bc-efd8-5643-9eab-682ddbe66c52"
    others = {run_uuid_of("live", "one", "2027-01-15T08:00:00Z"), run_uuid_of("recent", "one", "2027-01-15T08:00:01Z")}
    assert called not in others


def test_a_checkpoint_is_restored_with_all_marks_until_the_run_starts_over(ledger: Ledger) -> None:
    number = ledger.begin(run_of())
    assert ledger.last_checkpoint(number) is None
    first = noted()
    first.rejected = [b"a"]
    ledger.checkpoint(number, first)
    second = noted()
    second.rejected, second.files = [b"b"], {"x.jsonl": (20, 4)}
    ledger.checkpoint(number, second)
    found = ledger.last_checkpoint(number)
    assert found is not None
    assert (found.files, found.host, sorted(found.rejected)) == ({"x.jsonl": (20, 4)}, "http://host", [b"a", b"b"])
    ledger.forget_progress(number)
    assert ledger.last_checkpoint(number) is None
    assert ledger.find(Path("/output/recent/one")) is not None


@pytest.mark.parametrize(
    ("complete", "truncated", "next_since", "until"),
    [
        (True, False, NOW, NOW),
        (True, True, NOW, None),
        (False, False, NOW, None),
        (True, False, None, None),
    ],
)
def test_the_start_moves_over_what_is_proved_complete(
    ledger: Ledger, *, complete: bool, truncated: bool, next_since: int | None, until: int | None
) -> None:
    number = ledger.begin(run_of(ledger.series(FILTERS), next_since=next_since, versions_since=NOW - 100))
    ledger.checkpoint(number, noted(Version(1, NOW - 200, b"old"), Version(2, NOW - 50, b"new")))
    series = ledger.series(FILTERS)
    assert (series.until, ledger.known(series.id, 2)) == (None, None)
    for _ in range(2):
        ledger.finish(number, END, complete=complete, truncated=truncated)
    series = ledger.series(FILTERS)
    assert series.until == until
    assert ledger.known(series.id, 2) == b"new"
    # Versions that the next run cannot receive are deleted.
    assert ledger.known(series.id, 1) == (None if until else b"old")
    assert ledger.series({"categories": []}).until is None


def test_the_start_never_moves_back(ledger: Ledger) -> None:
    for name, next_since in (("late", NOW), ("early", NOW - 500)):
        number = ledger.begin(
            run_of(ledger.series(FILTERS), name, next_since=next_since, versions_since=next_since - 100)
        )
        ledger.finish(number, END, complete=True, truncated=False)
    assert ledger.series(FILTERS) == Series(1, NOW, NOW - 100)


YEARS = 100_000_000


def series_after(ledger: Ledger, now: int, *written: Version, name: str = "ahead") -> Series:
    """Return the series after a complete run at this time of its clock."""
    series = ledger.series(FILTERS)
    number = ledger.begin(run_of(series, name, next_since=now, versions_since=now - 100))
    ledger.checkpoint(number, noted(*written))
    ledger.finish(number, END, complete=True, truncated=False)
    return ledger.series(FILTERS)


def test_after_a_clock_ahead_a_run_starts_at_the_newest_known_livestreams(ledger: Ledger) -> None:
    series_after(ledger, NOW, Version(1, NOW - 10, b"one"), Version(2, NOW - 90, b"two"), name="right")
    series = series_after(ledger, NOW + YEARS, Version(3, NOW, b"three"))
    assert series.until == NOW + YEARS
    lowered = ledger.lower(series, NOW + 5)
    assert lowered == ledger.series(FILTERS)
    assert lowered.since(100) == NOW - 100
    # It writes no known version again.
    assert [ledger.known(series.id, event_id) for event_id in (1, 2, 3)] == [b"one", b"two", b"three"]
    # The next run with a correct clock moves the start again.
    assert series_after(ledger, NOW + 60, name="next").until == NOW + 60


def test_a_clock_that_is_behind_does_not_move_the_start(ledger: Ledger) -> None:
    series = series_after(ledger, NOW, Version(1, NOW - 10, b"one"))
    assert ledger.lower(series, NOW - YEARS) == series == ledger.series(FILTERS)


def test_a_series_that_lost_its_versions_by_a_wrong_clock_starts_over(ledger: Ledger) -> None:
    series = series_after(ledger, NOW + YEARS)
    assert series.versions_since == NOW + YEARS - 100
    assert ledger.lower(series, NOW) == ledger.series(FILTERS) == Series(series.id)


def test_deleted_versions_do_not_come_back(ledger: Ledger) -> None:
    series_after(ledger, NOW, Version(1, NOW - 150, b"one"), Version(2, NOW - 1, b"two"), name="one")
    number = ledger.begin(run_of(ledger.series(FILTERS), "two", next_since=NOW + 10, versions_since=NOW - 500))
    ledger.finish(number, END, complete=True, truncated=False)
    assert ledger.series(FILTERS).since(500) == NOW - 101


def test_a_run_supersedes_an_unfinished_one_of_its_series(ledger: Ledger) -> None:
    left = ledger.begin(run_of(ledger.series(FILTERS), "left", next_since=NOW, versions_since=NOW))
    ledger.checkpoint(left, noted(Version(1, NOW, b"x")))
    other = ledger.begin(run_of(ledger.series({}), "other"))
    ledger.begin(run_of(ledger.series(FILTERS), "next"))
    found = ledger.find(Path("/output/recent/left"))
    assert found is not None
    assert found.state == "superseded"
    ledger.finish(left, END, complete=True, truncated=False)
    assert (ledger.series(FILTERS).until, ledger.known(1, 1)) == (None, None)
    assert {run.id for run in ledger.running("recent")} >= {other}


@pytest.mark.parametrize(
    ("series", "overlap", "since"),
    [
        (Series(1), 100, None),
        (Series(1, NOW, NOW - 100), 100, NOW - 100),
        (Series(1, NOW, NOW - 100), 50, NOW - 50),
        (Series(1, NOW, NOW - 100), 500, NOW - 100),
    ],
)
def test_a_run_starts_an_overlap_before_the_last_one_ended_but_not_before_what_is_known(
    series: Series, overlap: int, since: int | None
) -> None:
    assert series.since(overlap) == since


def test_the_hash_depends_on_the_content_and_not_on_the_time() -> None:
    row = {"event_id": 1, "event_title": "ü", "extra": {"a": [1, None]}, "scraped_at": "2026-01-01T00:00:00Z"}
    assert content_hash(row) == content_hash({**row, "scraped_at": "2026-01-02T00:00:00Z"})
    assert content_hash(row) == content_hash(dict(reversed(row.items())))
    assert content_hash(row) != content_hash({**row, "event_title": "u"})


def test_a_lock_belongs_to_one_process_until_it_is_released(tmp_path: Path) -> None:
    lock = Lock.take(tmp_path)
    assert lock is not None
    assert Lock.take(tmp_path) is None
    lock.release()
    again = Lock.take(tmp_path)
    assert again is not None
    again.release()
    with pytest.raises(FileNotFoundError):
        Lock.take(tmp_path / "none")


def test_a_ledger_with_a_damaged_page_is_one_line_with_what_to_do(tmp_path: Path) -> None:
    Ledger(tmp_path).close()
    with (tmp_path / FILE_NAME).open("r+b") as file:
        # The header of the first page's tree.
        file.seek(100)
        file.write(b"\xff" * 14)
    with pytest.raises(LedgerFormatError, match="is damaged"):
        Ledger(tmp_path)


def test_a_ledger_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match=r"^the folder \S+/file/state cannot be made: Not a directory$"):
        Ledger(tmp_path / "file" / "state")


def version_1(folder: Path, run_folder: str = "/output/recent/one", counts: Any = COUNTS_OF_VERSION_1) -> Path:
    """Make a ledger of version 1 with a series, and an unfinished run of it with a checkpoint."""
    connection = sqlite3.connect(folder / FILE_NAME)
    connection.executescript(TABLES_OF_VERSION_1)
    execute = connection.execute
    execute("INSERT INTO series VALUES (1, ?, ?, ?)", (json.dumps(FILTERS, sort_keys=True), NOW - 60, NOW - 160))
    execute("INSERT INTO version VALUES (1, 8, ?, ?)", (NOW - 100, b"eight"))
    run = (run_folder, "recent", "one", '{"since": "7d"}', float(NOW), NOW - 160, NOW, 1, NOW, NOW - 100, "running")
    noted = ("http://host", '{"walks": []}', json.dumps(counts), '{"x.jsonl": [10, 2]}')
    execute("INSERT INTO run VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*run, *noted))
    execute(
        "INSERT INTO run (id, folder, spider, run_id, arguments, started_at, state) VALUES "
        "(2, '/output/live/two', 'live', 'two', '{}', 1.5, 'complete')"
    )
    execute("INSERT INTO time_window VALUES (1, 0, 9, 8, 7, 6)")
    execute("INSERT INTO rejected VALUES (1, ?)", (b"mark",))
    execute("INSERT INTO written VALUES (1, 9, ?, ?)", (NOW - 50, b"nine"))
    execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    return folder


def schema_of(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return the columns of each table of a ledger."""
    connection = sqlite3.connect(folder / FILE_NAME)
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    columns = {name: connection.execute(f"PRAGMA table_info({name})").fetchall() for name in sorted(names)}
    columns["version of the tables"] = connection.execute("PRAGMA user_version").fetchall()
    connection.close()
    return columns


def version_2(folder: Path) -> None:
    """Put a ledger of version 2 there."""
    shutil.copy(VERSION_2, folder / FILE_NAME)


@pytest.mark.parametrize("make", [version_1, version_2])
def test_a_ledger_of_an_earlier_version_has_the_tables_of_a_new_one_once_it_was_opened(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    (tmp_path / "old").mkdir()
    make(tmp_path / "old")
    for name in ("old", "old", "new"):
        Ledger(tmp_path / name).close()
    assert schema_of(tmp_path / "old") == schema_of(tmp_path / "new")


def test_a_run_of_a_ledger_of_version_1_resumes_and_moves_its_series(tmp_path: Path) -> None:
    ledger = Ledger(version_1(tmp_path))
    window = (NOW - 160, NOW)
    run_uuid = run_uuid_of("recent", "one", "2027-01-15T08:00:00Z")
    run = RunRecord(
        "/output/recent/one", "recent", "one", {"since": "7d"}, NOW, window, 1, NOW, NOW - 100, id=1, run_uuid=run_uuid
    )
    assert list(ledger.running("recent")) == [replace(run, host="http://host")]
    assert ledger.last_checkpoint(1) == Checkpoint(
        {"walks": []}, COUNTS, {"x.jsonl": (10, 2)}, "http://host", rejected=[b"mark"]
    )
    assert ledger.series(FILTERS) == Series(1, NOW - 60, NOW - 160)
    assert ledger.known(1, 8) == b"eight"
    finished = ledger.find(Path("/output/live/two"))
    run_uuid = run_uuid_of("live", "two", "1970-01-01T00:00:01Z")
    assert finished == RunRecord("/output/live/two", "live", "two", {}, 1.5, state="complete", id=2, run_uuid=run_uuid)
    ledger.checkpoint(1, noted(Version(10, NOW, b"ten")))
    ledger.finish(1, END, complete=True, truncated=False)
    assert ledger.series(FILTERS) == Series(1, NOW, NOW - 100)
    assert [ledger.known(1, event_id) for event_id in (8, 9, 10)] == [b"eight", b"nine", b"ten"]


def test_counts_that_are_missing_in_a_ledger_of_version_1_are_0(tmp_path: Path) -> None:
    version_1(tmp_path, counts={"item_scraped_count": 2, "parti/spider/served": 2})
    checkpoint = Ledger(tmp_path).last_checkpoint(1)
    assert checkpoint is not None
    assert checkpoint.counts == dict.fromkeys(COUNTS, 0) | {"written": 2, "served": 2}


def test_a_failed_migration_does_not_change_the_ledger(tmp_path: Path) -> None:
    before = schema_of(version_1(tmp_path, counts=["no object"]))
    with pytest.raises(AttributeError):
        Ledger(tmp_path)
    assert schema_of(tmp_path) == before
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    assert connection.execute("SELECT moves_to, counts FROM run WHERE id = 1").fetchone() == (NOW, '["no object"]')
    connection.close()


def open_at_once(folder: Path, barrier: Any, results: Any) -> None:
    """Open a ledger together with other processes, and send what its run had counted."""
    barrier.wait()
    try:
        checkpoint = Ledger(folder).last_checkpoint(1)
        results.put(checkpoint and checkpoint.counts)
    except Exception as error:  # noqa: BLE001 - the test says which
        results.put(repr(error))


def test_processes_that_open_a_ledger_of_version_1_at_once_migrate_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        version_1(folder)
        barrier, results = context.Barrier(4), context.Queue()
        processes = [context.Process(target=open_at_once, args=(folder, barrier, results)) for _ in range(4)]
        for process in processes:
            process.start()
        # One that migrated it again would find no column to rename.
        assert [results.get(timeout=300) for _ in processes] == [COUNTS] * 4
        for process in processes:
            process.join()


def test_a_ledger_of_version_1_is_not_migrated_while_a_run_uses_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    before = schema_of(version_1(tmp_path, str(tmp_path / "run")))
    lock = Lock.take(tmp_path / "run")
    assert lock is not None
    line = "is of version 1, not 3, and the run `one` is at work with it: wait until it has ended, or stop it"
    with pytest.raises(LedgerFormatError, match=line):
        Ledger(tmp_path)
    assert schema_of(tmp_path) == before
    lock.release()
    Ledger(tmp_path).close()
    assert schema_of(tmp_path) != before


@pytest.mark.parametrize("version", [4, 99, -1])
def test_a_ledger_of_an_unknown_version_is_refused(tmp_path: Path, version: int) -> None:
    Ledger(tmp_path).close()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    with pytest.raises(LedgerFormatError, match=f"is of version {version}, not 3: move it away"):
        Ledger(tmp_path)
