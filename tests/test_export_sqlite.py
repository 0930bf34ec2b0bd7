"""SQLite as a target: one plain file that others may read and write meanwhile."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from parti_scraper.dataset.engine import TargetError
from parti_scraper.dataset.targets import sqlite
from tests.dataset_truth import Truth, tables_of
from tests.exporting import bring, make_categories
from tests.made_runs import category, livestream, make_run
from tests.support import (
    TIMEOUT,
    Scrapy,
    environment_of,
    keep_permissions,
    kill_at_file_size,
    limit_file_size,
    run_to_its_end,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file in a folder of its own; there is none yet."""
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "x.sqlite"


@contextmanager
def opened(path: Path, patience: float = 0) -> Iterator[sqlite3.Connection]:
    """Open a file as another program, which waits so many seconds where it is refused."""
    with closing(sqlite3.connect(path, timeout=patience, isolation_level=None)) as connection:
        yield connection


def count(connection: sqlite3.Connection) -> int:
    """Return how many categories a program sees."""
    ((number,),) = connection.execute("SELECT count(*) FROM categories").fetchall()
    return int(number)


def is_plain(path: Path) -> bool:
    """Return whether the file is one that anybody can copy or open for reading: alone, and not in WAL mode."""
    return [*path.parent.iterdir()] == [path] and path.read_bytes()[18:20] == b"\1\1"


def make_large(output: Path) -> int:
    """Write a run that is much larger in the file than in JSON Lines, and return a size between both."""
    rows = [livestream(number, extra={"a": "x" * 100_000}) for number in range(50)]
    folder = make_run(output, "recent", "large", rows)
    return (folder / "livestreams.jsonl").stat().st_size * 5 // 4


# --- What is in the file -----------------------------------------------------------------------------------------


def test_times_are_texts_truths_are_numbers_and_the_file_is_plain(output: Path, path: Path) -> None:
    make_run(output, "recent", "run", [livestream(1, has_access_pass=True, event_start=None, event_title="a\0b")])
    bring(path, output)
    with opened(path) as connection:
        query = "SELECT event_id, has_access_pass, event_start, event_end, event_title, extra, user_id FROM livestreams"
        assert connection.execute(query).fetchall() == [(1, 1, None, "2026-11-25T10:30:00Z", "a\0b", "{}", 2)]
        # What SQLite has by itself for times can be used.
        query = "SELECT unixepoch(event_end) - unixepoch(first_scraped_at) FROM livestreams"
        assert connection.execute(query).fetchall() == [(-91_800,)]
        query = "SELECT typeof(has_access_pass), typeof(event_end), typeof(duration_seconds) FROM livestreams"
        assert connection.execute(query).fetchall() == [("integer", "text", "integer")]
    assert is_plain(path)


def test_a_text_that_looks_like_a_number_is_a_text(output: Path, path: Path) -> None:
    texts = ["1e5", "0123", "1", " 1", "0x1F", "NaN", "1.0"]
    make_categories(output, texts)
    bring(path, output)
    with opened(path) as connection:
        rows = connection.execute("SELECT name, typeof(name) FROM categories ORDER BY category_id").fetchall()
    assert rows == [(text, "text") for text in texts]


def test_the_file_of_a_link_is_written(output: Path, path: Path, tmp_path: Path) -> None:
    make_categories(output, ["Art"])
    (tmp_path / "link.sqlite").symlink_to(path)
    bring(tmp_path / "link.sqlite", output)
    assert is_plain(path)
    assert (tmp_path / "link.sqlite").is_symlink()
    with opened(path) as connection:
        assert count(connection) == 1


# --- Beside others -----------------------------------------------------------------------------------------------


def test_who_reads_sees_one_moment_and_later_the_file_is_plain_again(
    output: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_categories(output, ["Art"])
    bring(path, output)
    commit = sqlite._Session.commit
    with opened(path) as reader, opened(path) as other:

        def read_and_commit(session: sqlite._Session) -> None:
            if not reader.in_transaction:
                reader.execute("BEGIN")
            assert count(reader) == 1
            commit(session)

        monkeypatch.setattr(sqlite._Session, "commit", read_and_commit)
        for number in (2, 3):
            make_run(output, "categories", f"run-{number}", [category(number)])
            bring(path, output)
            assert (count(reader), count(other)) == (1, number)
            assert not is_plain(path)
        monkeypatch.undo()
        reader.execute("COMMIT")
        assert count(reader) == 3
    make_run(output, "categories", "last", [category(9)])
    bring(path, output)
    assert is_plain(path)


def test_an_export_waits_for_one_who_writes_and_lets_others_read(output: Path, path: Path) -> None:
    make_categories(output, ["Art"])
    bring(path, output)
    make_run(output, "categories", "second", [category(7)])
    with opened(path, TIMEOUT) as writer, opened(path) as reader, ThreadPoolExecutor(1) as pool:
        writer.execute("CREATE TABLE mine (text)")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO mine VALUES ('mine')")
        done = pool.submit(bring, path, output)
        for _ in range(50):
            # While the export begins and waits, nobody is refused.
            assert count(reader) == 1
        assert not done.done()
        writer.execute("COMMIT")
        done.result(TIMEOUT)
        assert (count(reader), writer.execute("SELECT * FROM mine").fetchall()) == (2, [("mine",)])


@pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE", "BEGIN; SELECT * FROM categories"])
def test_one_who_keeps_the_file_for_too_long_is_one_line(
    output: Path, path: Path, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    make_categories(output, ["Art"])
    bring(path, output)
    make_run(output, "categories", "second", [category(7)])
    monkeypatch.setattr(sqlite, "_PATIENCE", 0.1)
    with opened(path) as other:
        for statement in lock.split("; "):
            other.execute(statement).fetchall()
        with pytest.raises(TargetError) as caught:
            bring(path, output)
    assert str(caught.value) == f"{path}: another program has used it for 0.1 s: database is locked"
    assert bring(path, output).tables["categories"].rows == 2
    assert is_plain(path)


# --- Trouble -----------------------------------------------------------------------------------------------------


def test_an_export_that_is_killed_while_it_writes_leaves_what_was_there(output: Path, path: Path) -> None:
    make_categories(output, ["Art"])
    bring(path, output)
    size = make_large(output)
    for _ in range(2):
        # The file that gets too large is that of the transaction.
        killed = run_to_its_end(
            ["export", str(path)], environment_of(output, None), before=partial(kill_at_file_size, size)
        )
        assert killed.returncode == -signal.SIGXFSZ
        assert path.with_name("x.sqlite-wal").stat().st_size == size
        with opened(path) as reader:
            assert count(reader) == 1
            assert reader.execute("SELECT count(*) FROM livestreams").fetchall() == [(0,)]
    bring(path, output)
    assert tables_of(path) == Truth().see(output).tables()
    assert is_plain(path)


def test_a_full_disk_is_one_line_and_leaves_what_was_there(scrapy: Scrapy, output: Path, path: Path) -> None:
    make_categories(output, ["Art"])
    bring(path, output)
    size = make_large(output)
    run = scrapy("export", str(path), before=limit_file_size(size))
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == f"scrapy export: {path}: disk I/O error\n"
    with opened(path) as reader:
        assert reader.execute("SELECT count(*) FROM livestreams").fetchall() == [(0,)]
    bring(path, output)
    assert tables_of(path) == Truth().see(output).tables()
    assert is_plain(path)


def test_a_file_of_something_else_is_one_line_and_stays(scrapy: Scrapy, output: Path, path: Path) -> None:
    make_categories(output, ["Art"])
    path.write_bytes(b"not a database" * 100)
    for option in ("--quiet", "--rebuild"):
        run = scrapy("export", str(path), option)
        assert (run.returncode, run.stdout) == (1, "")
        assert run.stderr == f"scrapy export: {path}: file is not a database\n"
    assert path.read_bytes() == b"not a database" * 100


def test_a_file_that_is_not_writable_is_one_line(scrapy: Scrapy, output: Path, path: Path) -> None:
    make_categories(output, ["Art"])
    bring(path, output)
    make_run(output, "categories", "second", [category(7)])
    path.chmod(0o444)
    path.parent.chmod(0o555)
    run = scrapy("export", str(path), before=keep_permissions)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == f"scrapy export: {path}: attempt to write a readonly database\n"
    run = scrapy("export", str(path.with_name("new.sqlite")), before=keep_permissions)
    assert (run.returncode, run.stderr) == (
        1,
        f"scrapy export: {path.parent}/new.sqlite: unable to open database file\n",
    )
