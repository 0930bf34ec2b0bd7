"""The ledger: what is noted of runs, and where the next incremental one starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from parti_scraper.exceptions import LedgerError, LedgerFormatError
from parti_scraper.ledger.ledger import (
    FILE_NAME,
    Checkpoint,
    Ledger,
    Lock,
    Run,
    Series,
    Version,
    WindowDone,
    content_hash,
)

NOW = 1_800_000_000
FILTERS = {"categories": ["7"], "user_id": None}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Return an empty ledger."""
    return Ledger(tmp_path / "state")


def run_of(series: Series | None = None, name: str = "one", **more: int | None) -> Run:
    """Return a run to begin."""
    identity = None if series is None else series.id
    return Run(f"/output/recent/{name}", "recent", name, {"since": "7d"}, NOW, (NOW - 60, NOW), identity, **more)


def noted(*written: Version) -> Checkpoint:
    """Return a checkpoint at which these versions had been written."""
    return Checkpoint({"walks": []}, {"served": 2}, {"x.jsonl": (10, 2)}, "http://host", written=list(written))


def test_a_run_is_found_as_it_was_begun(ledger: Ledger, tmp_path: Path) -> None:
    number = ledger.begin(run_of())
    again = Ledger(tmp_path / "state").find(Path("/output/recent/one"))
    assert again == Run("/output/recent/one", "recent", "one", {"since": "7d"}, NOW, (NOW - 60, NOW), id=number)
    assert ledger.find(Path("/output/recent/other")) is None
    assert list(ledger.running("recent")) == [again]
    assert list(ledger.running("live")) == []


def test_a_checkpoint_comes_back_with_all_marks_until_the_run_begins_from_the_start(ledger: Ledger) -> None:
    number = ledger.begin(run_of())
    assert ledger.last_checkpoint(number) is None
    first = noted()
    first.rejected, first.windows = [b"a"], [WindowDone(0, NOW, NOW - 60, 3, 250)]
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
    ("complete", "truncated", "moves_to", "until"),
    [
        (True, False, NOW, NOW),
        (True, True, NOW, None),
        (False, False, NOW, None),
        (True, False, None, None),
    ],
)
def test_the_start_moves_over_what_is_proved_complete(
    ledger: Ledger, *, complete: bool, truncated: bool, moves_to: int | None, until: int | None
) -> None:
    number = ledger.begin(run_of(ledger.series(FILTERS), moves_to=moves_to, known_from=NOW - 100))
    ledger.checkpoint(number, noted(Version(1, NOW - 200, b"old"), Version(2, NOW - 50, b"new")))
    series = ledger.series(FILTERS)
    assert (series.until, ledger.known(series.id, 2)) == (None, None)
    for _ in range(2):
        ledger.finish(number, complete=complete, truncated=truncated)
    series = ledger.series(FILTERS)
    assert series.until == until
    assert ledger.known(series.id, 2) == b"new"
    # What the next run cannot come across is forgotten.
    assert ledger.known(series.id, 1) == (None if until else b"old")
    assert ledger.series({"categories": []}).until is None


def test_the_start_never_moves_back(ledger: Ledger) -> None:
    for name, moves_to in (("late", NOW), ("early", NOW - 500)):
        number = ledger.begin(run_of(ledger.series(FILTERS), name, moves_to=moves_to, known_from=moves_to - 100))
        ledger.finish(number, complete=True, truncated=False)
    assert ledger.series(FILTERS) == Series(1, NOW, NOW - 100)


YEARS = 100_000_000


def series_after(ledger: Ledger, now: int, *written: Version, name: str = "ahead") -> Series:
    """Return the series after a complete run, by whose clock it was so late."""
    series = ledger.series(FILTERS)
    number = ledger.begin(run_of(series, name, moves_to=now, known_from=now - 100))
    ledger.checkpoint(number, noted(*written))
    ledger.finish(number, complete=True, truncated=False)
    return ledger.series(FILTERS)


def test_after_a_clock_that_was_ahead_a_run_starts_where_the_newest_livestreams_are_known_from(ledger: Ledger) -> None:
    series_after(ledger, NOW, Version(1, NOW - 10, b"one"), Version(2, NOW - 90, b"two"), name="right")
    series = series_after(ledger, NOW + YEARS, Version(3, NOW, b"three"))
    assert series.until == NOW + YEARS
    lowered = ledger.lower(series, NOW + 5)
    assert lowered == ledger.series(FILTERS)
    assert lowered.since(100) == NOW - 100
    # None of what it comes across is written again.
    assert [ledger.known(series.id, event_id) for event_id in (1, 2, 3)] == [b"one", b"two", b"three"]
    # The next run by a right clock moves the start again.
    assert series_after(ledger, NOW + 60, name="next").until == NOW + 60


def test_a_clock_that_is_behind_leaves_the_start_where_it_is(ledger: Ledger) -> None:
    series = series_after(ledger, NOW, Version(1, NOW - 10, b"one"))
    assert ledger.lower(series, NOW - YEARS) == series == ledger.series(FILTERS)


def test_a_series_whose_versions_were_forgotten_by_a_wrong_clock_begins_from_the_start(ledger: Ledger) -> None:
    series = series_after(ledger, NOW + YEARS)
    assert series.known_from == NOW + YEARS - 100
    assert ledger.lower(series, NOW) == ledger.series(FILTERS) == Series(series.id)


def test_what_was_forgotten_once_is_not_known_again(ledger: Ledger) -> None:
    series_after(ledger, NOW, Version(1, NOW - 150, b"one"), Version(2, NOW - 1, b"two"), name="one")
    number = ledger.begin(run_of(ledger.series(FILTERS), "two", moves_to=NOW + 10, known_from=NOW - 500))
    ledger.finish(number, complete=True, truncated=False)
    assert ledger.series(FILTERS).since(500) == NOW - 101


def test_a_run_begun_over_an_unfinished_one_of_its_series_supersedes_it(ledger: Ledger) -> None:
    left = ledger.begin(run_of(ledger.series(FILTERS), "left", moves_to=NOW, known_from=NOW))
    ledger.checkpoint(left, noted(Version(1, NOW, b"x")))
    other = ledger.begin(run_of(ledger.series({}), "other"))
    ledger.begin(run_of(ledger.series(FILTERS), "next"))
    found = ledger.find(Path("/output/recent/left"))
    assert found is not None
    assert found.state == "superseded"
    ledger.finish(left, complete=True, truncated=False)
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


def test_the_hash_is_of_the_content_and_not_of_the_moment() -> None:
    row = {"event_id": 1, "event_title": "ü", "extra": {"a": [1, None]}, "scraped_at": "2026-01-01T00:00:00Z"}
    assert content_hash(row) == content_hash({**row, "scraped_at": "2026-01-02T00:00:00Z"})
    assert content_hash(row) == content_hash(dict(reversed(row.items())))
    assert content_hash(row) != content_hash({**row, "event_title": "u"})


def test_a_lock_is_one_processs_until_it_lets_go(tmp_path: Path) -> None:
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
