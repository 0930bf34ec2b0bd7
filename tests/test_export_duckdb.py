"""A file of DuckDB as a target: what is its own beside what all targets have in common."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.collecting import bring, differences
from tests.dataset_truth import Truth
from tests.made_runs import ENDED, livestream, make_run
from tests.support import Scrapy, limit_file_size

# Writes to a database, and is killed before DuckDB brings that into the file itself.
_WRITES_AND_DIES = """
import duckdb, os, signal, sys
connection = duckdb.connect(sys.argv[1])
connection.execute("CREATE TABLE mine AS SELECT 7 AS number")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Return a target that does not exist yet."""
    return tmp_path / "dataset.duckdb"


def query(target: Path, statement: str) -> list[tuple[object, ...]]:
    """Return the rows of a query, by a connection of its own."""
    with duckdb.connect(str(target), read_only=True) as connection:
        return connection.execute(statement).fetchall()


def make_runs(output: Path, name: str, first: int, count: int) -> None:
    """Make a run with so many livestreams."""
    make_run(output, "recent", name, [livestream(first + each, scraped_at=ENDED) for each in range(count)])


def test_tables_and_views_of_others_stay(output: Path, target: Path, tmp_path: Path) -> None:
    make_runs(output, "first", 1, 2)
    bring(target, [output], tmp_path)
    with duckdb.connect(str(target)) as connection:
        connection.execute("CREATE VIEW titles AS SELECT event_title FROM livestreams")
        connection.execute("CREATE TABLE mine AS SELECT 7 AS number")
    make_runs(output, "second", 3, 1)
    bring(target, [output], tmp_path)
    for rebuild in (False, True):
        bring(target, [output], tmp_path, rebuild=rebuild)
        assert query(target, "SELECT count(*), any_value(number) FROM titles, mine") == [(3, 7)]


def test_what_a_killed_program_has_left_in_its_log_is_in_the_file(output: Path, target: Path, tmp_path: Path) -> None:
    make_runs(output, "first", 1, 2)
    bring(target, [output], tmp_path)
    subprocess.run([sys.executable, "-c", _WRITES_AND_DIES, str(target)], check=False, timeout=300)
    log = target.with_name(f"{target.name}.wal")
    assert log.exists()
    make_runs(output, "second", 3, 1)
    bring(target, [output], tmp_path)
    assert not log.exists()
    assert query(target, "FROM mine") == [(7,)]
    assert differences(target, Truth().see(output).tables()) == []


def test_who_has_the_file_open_is_not_in_the_way_and_goes_on_to_see_what_was_there(
    scrapy: Scrapy, output: Path, target: Path
) -> None:
    make_runs(output, "first", 1, 2)
    assert scrapy("export", str(target)).returncode == 0
    with duckdb.connect(str(target), read_only=True) as reader:
        make_runs(output, "second", 3, 1)
        assert scrapy("export", str(target)).returncode == 0
        assert reader.execute("SELECT count(*) FROM livestreams").fetchall() == [(2,)]
    assert query(target, "SELECT count(*) FROM livestreams") == [(3,)]


def test_a_full_disk_is_one_line_and_leaves_what_was_there(
    scrapy: Scrapy, output: Path, target: Path, tmp_path: Path
) -> None:
    make_runs(output, "first", 1, 2)
    assert scrapy("export", str(target)).returncode == 0
    true, content = Truth().see(output).tables(), target.read_bytes()
    make_runs(output, "second", 3, 100)
    # Between the size of what is read, and that of the database.
    done = scrapy("export", str(target), before=limit_file_size(500_000))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"scrapy export: {target} cannot be written: File too large\n"
    assert target.read_bytes() == content
    assert differences(target, true) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset.duckdb", "output", "state"]
    assert scrapy("export", str(target)).returncode == 0
    assert differences(target, Truth().see(output).tables()) == []


def test_a_new_file_that_does_not_fit_on_the_disk_is_not_there(scrapy: Scrapy, output: Path, target: Path) -> None:
    make_runs(output, "first", 1, 2)
    done = scrapy("export", str(target), before=limit_file_size(500_000))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"scrapy export: {target}")
    assert not target.exists()
