"""Folders of Parquet: who reads one never sees half of an export, also where that is killed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import frictionless
import pandas as pd
import polars as pl
import pyarrow.dataset
import pytest

from parti_scraper.dataset.selection import Selection
from tests import forked
from tests.collecting import bring, differences
from tests.dataset_truth import TABLES, Truth, rows_of
from tests.folders import PACKAGE, check_folder, check_package, make_run_of, make_runs, parts_of, reader_of
from tests.made_runs import category, live_channel, livestream, make_run, notification, rejected
from tests.support import ROOT, environment_of, run_to_its_end

# Each is an export that is killed, and one after it.
KILLS = 3


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


@pytest.fixture
def bring_all(output: Path, target: Path) -> Callable[..., Any]:
    """Return a function that exports everything into the folder, and compares it with the truth."""

    def bring_all(**what: Any) -> Any:
        report = bring(target, [output], output.with_name("state"), **what)
        check_folder(target)
        return report

    return bring_all


def true_tables(output: Path) -> dict[str, Any]:
    return Truth().see(output).tables()


# --- Readers while exports go on ---------------------------------------------------------------------------------

# Both say once what they have seen, when their input ends: before the first export, between, and after the last one.
_LOOP = """
import os, select
seen = [read()]
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    seen.append(read())
seen.append(read())
print(json.dumps(seen), flush=True)
# Where Python ends as usual, Arrow's threads make it abort now and then.
os._exit(0)
"""
_BY_PACKAGE = """
import json
from pathlib import Path
from tests.folders import check_package, reader_of
folder = Path(sys.argv[1])

def read():
    started = json.loads((folder / "datapackage.json").read_bytes())
    read = lambda name: json.dumps(started).encode() if name == "datapackage.json" else reader_of(folder)(name)
    try:
        package = check_package(read)
    except FileNotFoundError:
        # A file is there until the export after next.
        now = json.loads((folder / "datapackage.json").read_bytes())
        return runs(started) + 2 - runs(now)
    return [runs(package), rows(package, "livestreams")]

def runs(package):
    return rows(package, "runs")

def rows(package, table):
    return sum(each["rows"] for each in package["resources"] if each["table"] == table)
"""
_BY_PATTERN = """
import json, duckdb
query = "SELECT count(*), count(DISTINCT event_id) FROM read_parquet($paths, hive_partitioning=false)"

def read():
    return duckdb.execute(query, {"paths": sys.argv[1] + "/livestreams/**/*.parquet"}).fetchone()
"""


class Reader:
    """A process that reads a folder again and again."""

    def __init__(self, script: str, folder: Path) -> None:
        command = [sys.executable, "-c", "import sys\n" + script + _LOOP, str(folder)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n", self._process.communicate()

    def end(self) -> list[Any]:
        """Return what it has seen, each time."""
        stdout, stderr = self._process.communicate()
        assert self._process.returncode == 0, stderr
        return list(json.loads(stdout))


def test_who_reads_through_the_data_package_sees_one_export_or_the_next(output: Path, target: Path) -> None:
    # Fewer tables, so that the reader, too, sees as much in less time.
    some = Selection(tables=("livestreams",))
    make_run_of(output, 0)
    bring(target, [output], output.with_name("state"), selection=some)
    reader = Reader(_BY_PACKAGE, target)
    for number in range(1, 6):
        make_run_of(output, number)
        bring(target, [output], output.with_name("state"))
    seen = reader.end()
    # A number is how many exports too early a file was gone.
    assert {each for each in seen if isinstance(each, int) and each > 0} == set()
    states = [tuple(each) for each in seen if isinstance(each, list)]
    assert set(states) <= {(number, 3 * number + 1) for number in range(1, 7)}
    assert states == sorted(states)
    assert (states[0], states[-1]) == ((1, 4), (6, 19))
    assert differences(target, true_tables(output), ["livestreams"]) == []


def test_who_reads_by_a_pattern_sees_no_row_twice(output: Path, target: Path) -> None:
    make_run_of(output, 0)
    bring(target, [output], output.with_name("state"), selection=Selection(tables=("livestreams",)))
    reader = Reader(_BY_PATTERN, target)
    for number in range(1, 6):
        make_run_of(output, number)
        bring(target, [output], output.with_name("state"))
    seen = reader.end()
    assert {rows - events for rows, events in seen} == {0}
    assert seen == sorted(seen)
    assert (seen[0][0], seen[-1][0]) == (4, 19)


# --- Parts -------------------------------------------------------------------------------------------------------


def test_a_livestream_whose_month_changes_moves_to_another_part(
    output: Path, target: Path, bring_all: Callable[..., Any]
) -> None:
    first = [livestream(1, event_end="2026-10-31T23:59:59Z"), livestream(2, event_end=None)]
    make_run(output, "recent", "first", [*first, livestream(3, event_end="2026-11-01T00:00:00Z")])
    bring_all()
    assert parts_of(target, "livestreams") == {"2026-10": 1, "2026-11": 1, "unknown": 1}
    later = {"scraped_at": "2026-11-27T12:00:00Z"}
    moved = [
        livestream(1, event_end="2026-11-01T00:00:01Z", **later),
        livestream(2, event_end="2026-10-01T00:00:00Z", **later),
    ]
    make_run(output, "recent", "second", moved)
    bring_all()
    assert parts_of(target, "livestreams") == {"2026-10": 1, "2026-11": 2}
    # Of these, both contents are there.
    assert parts_of(target, "livestream_versions") == {"2026-10": 2, "2026-11": 2, "unknown": 1}
    assert differences(target, true_tables(output)) == []
    assert sorted(path.name for path in (target / "livestreams").iterdir()) == [
        "_versions",
        "month=2026-10",
        "month=2026-11",
    ]


def test_only_the_parts_that_change_are_written_and_only_those_with_the_same_keys_are_read(
    output: Path, target: Path, bring_all: Callable[..., Any]
) -> None:
    months = ("2026-08", "2026-09", "2026-10")
    for number, month in enumerate(months):
        rows = [livestream(number * 10 + each, event_end=f"{month}-05T00:00:00Z") for each in range(10)]
        make_run(output, "recent", month, rows)
    bring_all()
    before = {each["part"]: each for each in of_table(target, "livestreams")}
    assert {part: each["keys"] for part, each in before.items()} == {
        "2026-08": [0, 9],
        "2026-09": [10, 19],
        "2026-10": [20, 29],
    }
    # It cannot be read, and need not be.
    (target / before["2026-08"]["path"]).write_bytes(b"")
    make_run(
        output,
        "recent",
        "new",
        [livestream(15, event_end="2026-09-05T00:00:00Z", total_viewers=1, scraped_at="2026-11-27T00:00:00Z")],
        # It has looked at September only, so only there livestreams may be missing.
        window={"since": "2026-09-01T00:00:00Z", "until": "2026-09-30T23:59:59Z"},
    )
    report = bring(target, [output], output.with_name("state"))
    assert (report.tables["livestreams"].new, report.tables["livestreams"].replaced) == (0, 1)
    after = {each["part"]: each for each in of_table(target, "livestreams")}
    assert {part for part in months if after[part] != before[part]} == {"2026-09"}
    assert after["2026-09"]["rows"] == 10


def of_table(folder: Path, table: str) -> list[dict[str, Any]]:
    return [each for each in json.loads((folder / PACKAGE).read_bytes())["resources"] if each["table"] == table]


def test_what_was_replaced_goes_with_the_export_after_next(
    output: Path, target: Path, bring_all: Callable[..., Any]
) -> None:
    versions = []
    for number in range(4):
        make_run_of(output, number)
        bring_all()
        versions.append({each["path"] for each in of_table(target, "livestreams")})
        there = {path.relative_to(target).as_posix() for path in (target / "livestreams" / "_versions").iterdir()}
        assert there == set().union(*versions[-2:])


def test_a_part_whose_rows_are_gone_goes_too(output: Path, target: Path, bring_all: Callable[..., Any]) -> None:
    make_run(output, "live", "run", [live_channel(1), live_channel(2, observed_at="2026-11-27T00:00:00Z")])
    bring_all()
    assert parts_of(target, "live_channels") == {"2026-11-26": 1, "2026-11-27": 1}
    make_run(output, "live", "run", [live_channel(3)])
    bring_all()
    assert parts_of(target, "live_channels") == {"2026-11-26": 1}
    assert not (target / "live_channels" / "date=2026-11-27").exists()
    assert differences(target, true_tables(output)) == []


def test_a_published_file_that_is_lost_or_cut_is_there_again_after_the_next_export(
    output: Path, target: Path, bring_all: Callable[..., Any]
) -> None:
    make_runs(output, 0, 2)
    bring_all()
    lost, cut = sorted((target / "livestreams").glob("month=*/livestreams.parquet"))[:2]
    lost.unlink()
    cut.unlink()
    cut.write_bytes(b"PAR1")
    make_run(output, "categories", "run", [category(1)])
    bring_all()


# --- Killed exports ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_killed_export_is_finished_by_the_next(
    output: Path, target: Path, tmp_path: Path, bring_all: Callable[..., Any], seed: int
) -> None:
    env = environment_of(output, None)
    make_runs(output, 0, 2)
    make_run(output, "live", "run", [live_channel(1)])
    if seed % 2:
        bring_all()
        make_runs(output, 2, 2)
        make_run(output, "notifications", "run", [notification(1)], quarantine=[rejected(1)])
    # An export into a new folder has some 60 moments, a later one 35.
    moment = Random(seed).randrange(1, 30)
    process = forked.command(["export", f"{target}/"], env, tmp_path / "log", crash_at=moment)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    if (target / PACKAGE).exists():
        check_package(reader_of(target))
    bring_all()
    assert differences(target, true_tables(output)) == []


# --- What others read --------------------------------------------------------------------------------------------


def test_the_readme_is_true(
    output: Path, target: Path, bring_all: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_runs(output, 0, 5)
    make_run(output, "recent", "odd", [livestream(100, event_end=None)])
    bring_all()
    monkeypatch.chdir(target)
    text = Path("README.md").read_text(encoding="utf-8")
    counts = {name: int(rows) for name, rows in re.findall(r"^\| `(\w+)` \| (\d+) \|", text, flags=re.MULTILINE)}
    tables = {each["table"] for each in json.loads(Path(PACKAGE).read_bytes())["resources"]}
    assert counts == {table: sum(parts_of(Path(), table).values()) for table in tables}
    assert counts["livestreams"] == 17
    codes = re.findall(r"`((?:duckdb|pandas|polars)\..+?)`(?:,|$)", text, flags=re.MULTILINE)
    read = [eval(code, {"duckdb": duckdb, "pandas": pd, "polars": pl}) for code in codes]  # noqa: S307 - our own
    assert [len(each) for each in read] == [17, 17, 17]
    with_a_time = pyarrow.dataset.dataset("livestreams", partitioning="hive").to_table().to_pylist()
    assert {row["month"] for row in with_a_time} == {"2026-09", "2026-10", "2026-11", "unknown"}


def test_types_are_those_of_the_data(output: Path, target: Path, bring_all: Callable[..., Any]) -> None:
    row = livestream(
        7, event_title="Zoë 👩\u200d🚀", discord_discriminator=None, extra={"a": [1, "x"]}, has_access_pass=True
    )
    make_run(output, "recent", "run", [row])
    bring_all()
    frame = pd.read_parquet(target / "livestreams")
    assert str(frame["event_end"].dtype) == "datetime64[us, UTC]"
    assert frame["event_end"][0].isoformat() == "2026-11-25T10:30:00+00:00"
    assert (frame["event_title"][0], frame["has_access_pass"][0]) == ("Zoë 👩\u200d🚀", True)
    assert json.loads(frame["extra"][0]) == {"a": [1, "x"]}
    assert pd.isna(frame["discord_discriminator"][0])


def test_the_data_package_is_one_by_the_standard(output: Path, target: Path, bring_all: Callable[..., Any]) -> None:
    make_runs(output, 0, 3)
    bring_all()
    package = frictionless.Package.from_descriptor(str(target / PACKAGE))
    assert list(package.metadata_validate(json.loads((target / PACKAGE).read_bytes()))) == []
    assert {each.path for each in package.resources} == {
        path.relative_to(target).as_posix() for path in target.glob("*/_versions/*")
    }
    (livestreams, *_) = (each for each in package.resources if each.name.startswith("livestreams"))
    assert livestreams.schema.primary_key == ["event_id"]
    assert {each.name: each.type for each in livestreams.schema.fields}["event_end"] == "datetime"


def test_where_there_are_no_runs_every_table_is_there(target: Path, bring_all: Callable[..., Any]) -> None:
    bring_all()
    assert {table: rows_of(target, table) for table in TABLES} == {table: [] for table in TABLES}
    schema = pl.read_parquet(target / "livestreams" / "livestreams.parquet").schema
    assert schema["event_end"] == pl.Datetime("us", "UTC")
    paths = {path: path.stat().st_ino for path in target.rglob("*.parquet")}
    assert bring_all().tables == {}
    assert {path: path.stat().st_ino for path in target.rglob("*.parquet")} == paths


# --- Refused -----------------------------------------------------------------------------------------------------


def test_a_folder_that_holds_something_else_is_refused(output: Path, target: Path) -> None:
    make_run_of(output, 0)
    target.mkdir()
    (target / "thesis.docx").write_text("mine")
    process = run_to_its_end(["export", f"{target}/"], environment_of(output, None))
    accepted = "(accepted: a new or empty folder, or an earlier export)"
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == f"scrapy export: argument `TARGET`: it holds 'thesis.docx': '{target}/' {accepted}\n"
    assert [path.name for path in target.iterdir()] == ["thesis.docx"]


def test_a_data_package_of_something_else_is_refused(output: Path, target: Path) -> None:
    make_run_of(output, 0)
    run = output / "recent" / "run-0"
    process = run_to_its_end(
        ["export", f"{run}/", "--from", str(output)], environment_of(output.with_name("none"), None)
    )
    assert process.returncode == 2
    target.mkdir()
    (target / PACKAGE).write_text('{"name": "mine"}')
    process = run_to_its_end(["export", f"{target}/"], environment_of(output, None))
    problem = f"{target}/{PACKAGE} is none of this project's exports (accepted: an empty folder, or an earlier export)"
    assert (process.returncode, process.stderr) == (2, f"scrapy export: {problem}\n")


def test_a_folder_of_a_later_version_is_refused(output: Path, target: Path, bring_all: Callable[..., Any]) -> None:
    bring_all()
    package = json.loads((target / PACKAGE).read_bytes())
    package["export"]["schema_version"] = 99
    (target / PACKAGE).write_text(json.dumps(package))
    process = run_to_its_end(["export", f"{target}/"], environment_of(output, None))
    assert process.returncode == 2
    assert "was made by a later version of this project: its tables are of version 99" in process.stderr


def test_a_column_that_all_files_of_an_earlier_version_lack_is_added_with_null(
    output: Path, target: Path, bring_all: Callable[..., Any]
) -> None:
    make_run(output, "recent", "first", [livestream(1), livestream(2)])
    bring_all()
    for path in target.glob("livestreams/_versions/*"):
        without = duckdb.read_parquet(str(path), hive_partitioning=False).project("* EXCLUDE (user_avatar_id)")
        without.write_parquet(f"{path}.new")
        path.with_name(f"{path.name}.new").replace(path)
    make_run(output, "recent", "second", [livestream(3)])
    bring(target, [output], output.with_name("state"))
    rows = rows_of(target, "livestreams")
    assert [(row["event_id"], row["user_avatar_id"]) for row in rows] == [(1, None), (2, None), (3, 4)]


def test_a_folder_that_cannot_be_made_is_named_in_one_line(output: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = run_to_its_end(["export", f"{tmp_path}/file/dataset/"], environment_of(output, None))
    problem = f"{tmp_path}/file/dataset/ cannot be written: Not a directory"
    assert (process.returncode, process.stderr) == (1, f"scrapy export: {problem}\n")
