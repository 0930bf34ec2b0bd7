"""What is in the folder of an export, read through its data package as a user would, and held against it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet

from tests.made_runs import Row, livestream, make_run

README, PACKAGE = "README.md", "datapackage.json"

Read = Callable[[str], bytes]


def check_package(read: Read) -> dict[str, Any]:
    """Return a data package, each file of which is as it says.

    Args:
        read: returns the content of a file, by its name.
    """
    package: dict[str, Any] = json.loads(read(PACKAGE))
    for resource in package["resources"]:
        content = read(resource["path"])
        assert resource["bytes"] == len(content), resource["path"]
        assert resource["hash"] == f"sha256:{hashlib.sha256(content).hexdigest()}", resource["path"]
        table = pyarrow.parquet.read_table(BytesIO(content))
        assert resource["rows"] == table.num_rows, resource["path"]
        assert [each["name"] for each in resource["schema"]["fields"]] == table.column_names
    return package


def check_names(names: set[str], read: Read) -> None:
    """Compare the names of the files of a folder with those that its data package has, now and before."""
    package = json.loads(read(PACKAGE))
    now = {each["path"] for each in package["resources"]}
    published = {each["published"] for each in package["resources"]}
    assert now | published | {README, PACKAGE} <= names
    assert names - (now | published | {README, PACKAGE}) <= {*package["export"]["before"]}
    assert {name for name in names if name.endswith(".parquet")} == published


def check_published(read: Read) -> None:
    """Compare the files for those who read by a pattern with those of the data package."""
    for resource in json.loads(read(PACKAGE))["resources"]:
        assert read(resource["published"]) == read(resource["path"]), resource["published"]


def check_folder(folder: Path) -> None:
    """Compare all that is in a folder, hidden or not, with its data package."""
    check_package(reader_of(folder))
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    check_names(names, reader_of(folder))
    check_published(reader_of(folder))


def reader_of(folder: Path) -> Read:
    """Return a function that reads files of a folder."""
    return lambda name: (folder / name).read_bytes()


def parts_of(folder: Path, table: str) -> dict[str, int]:
    """Return how many rows each part of a table has."""
    package = json.loads((folder / PACKAGE).read_bytes())
    return {each["part"]: each["rows"] for each in package["resources"] if each["table"] == table}


def make_runs(output: Path, first: int, count: int, each: int = 3) -> list[list[Row]]:
    """Make runs of livestreams, and return the rows of each.

    Args:
        output: PARTI_OUTPUT_DIR.
        first: the number of the first run.
        count: how many.
        each: how many livestreams a run has; the last one is also in the next run, with more viewers.
    """
    return [make_run_of(output, number, each) for number in range(first, first + count)]


def make_run_of(output: Path, number: int, each: int = 3) -> list[Row]:
    """Make one run; see `make_runs`. Its livestreams have ended in one of three months."""
    rows = list(_rows(number, each))
    make_run(output, "recent", f"run-{number}", rows)
    return rows


def _rows(number: int, each: int) -> Iterator[Row]:
    scraped_at = f"2026-11-26T{number // 60:02}:{number % 60:02}:00Z"
    for event_id in range(number * each, (number + 1) * each + 1):
        ended = f"2026-{9 + event_id % 3:02}-25T10:30:00Z"
        yield livestream(event_id, event_end=ended, scraped_at=scraped_at, total_viewers=number)
