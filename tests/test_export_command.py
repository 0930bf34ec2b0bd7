"""`scrapy export` as it is typed: what it prints, which runs and rows it takes, and what ends it."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from parti_scraper.api.times import iso_to_timestamp
from parti_scraper.dataset.scratch import scratch_folder
from parti_scraper.dataset.selection import Selection
from parti_scraper.dataset.targets.named import ACCEPTED
from tests import forked
from tests.collecting import bring, differences
from tests.dataset_truth import Row, Truth, rows_of, tables_of
from tests.made_runs import (
    ENDED,
    category,
    live_channel,
    livestream,
    make_run,
    notification,
    rejected,
    scheduled,
)
from tests.support import (
    NOW,
    QUIET,
    TIMEOUT,
    Run,
    Scrapy,
    Serve,
    environment_of,
    interrupted,
    run_to_its_end,
    typed_of,
    wait_until,
)

LIVESTREAMS = ["livestream_versions", "livestreams"]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Return a target that does not exist yet."""
    return tmp_path / "dataset.duckdb"


Export = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def export(scrapy: Scrapy, target: Path) -> Export:
    """Return a function that exports into the target, with options."""
    return lambda *options: scrapy("export", str(target), *options)


def make_runs(output: Path) -> None:
    """Make two runs of livestreams."""
    make_run(output, "recent", "first", [livestream(1), livestream(2)], quarantine=[rejected(0)])
    make_run(output, "recent", "second", [livestream(1, total_viewers=11, scraped_at=ENDED), livestream(3)])


def damage(output: Path, name: str) -> Path:
    """Make a run whose file is not what it should be; return its folder."""
    folder = make_run(output, "recent", name, [livestream(9)])
    (folder / "livestreams.jsonl").write_bytes(b"{")
    return folder


def assert_error(done: subprocess.CompletedProcess[str], code: int, line: str) -> None:
    """Assert that a command has printed one line, and nothing else."""
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"scrapy export: {line}\n")


# --- What it prints ----------------------------------------------------------------------------------------------


def test_the_summary_says_what_was_read_and_what_became_of_each_table(
    export: Export, target: Path, output: Path
) -> None:
    make_runs(output)
    done = export("--table", "livestreams", "--table", "livestream_versions", "--table", "quarantine")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"{target}: 3 files read, of parti.com\n"
        "  livestream_versions  4 rows (4 new)\n"
        "  livestreams          3 rows (3 new)\n"
        "  quarantine           1 row (1 new)\n"
    )
    assert export().stdout == f"{target}: nothing is new\n"
    make_run(output, "recent", "third", [livestream(2, total_viewers=0, scraped_at=ENDED), livestream(4)])
    assert export().stdout == (
        f"{target}: 1 file read, of parti.com\n"
        "  livestream_versions  6 rows (2 new)\n"
        "  livestreams          4 rows (1 new, 1 replaced)\n"
        "  quarantine           1 row (0 new)\n"
    )


def test_each_target_has_its_summary(scrapy: Scrapy, output: Path, tmp_path: Path) -> None:
    make_runs(output)
    texts = [str(tmp_path / name) for name in ("dataset.sqlite", "livestreams.csv")]
    done = scrapy("export", *texts, f"{tmp_path}/folder/", "--table", "livestreams")
    assert done.returncode == 0
    assert [line.partition(":")[0] for line in done.stdout.splitlines()[::2]] == [*texts, f"{tmp_path}/folder/"]
    true = Truth().see(output).tables()
    for name in ("dataset.sqlite", "folder"):
        assert differences(tmp_path / name, true, ["livestreams"]) == []


def test_runs_that_are_left_out_are_named_once_for_each_reason_and_the_code_is_4(
    export: Export, target: Path, output: Path
) -> None:
    make_runs(output)
    true = Truth().see(output).tables()
    folders = [damage(output, f"damaged-{number}") for number in range(4)]
    problem = "livestreams.jsonl has 1 bytes, not 705 as is said of it"
    line = f"  left out: 4 runs: {problem}: {', '.join(map(str, folders[:3]))}, …\n"
    done = export()
    assert (done.returncode, done.stderr) == (4, "")
    assert done.stdout.endswith(line)
    assert differences(target, true) == []
    done = export("--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (4, "", line)


def test_nothing_is_printed_if_all_is_well_and_quiet_is_wanted(export: Export, output: Path) -> None:
    make_runs(output)
    done = export("--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_runs_there_is_an_empty_dataset(export: Export, target: Path, output: Path) -> None:
    done = export()
    assert (done.returncode, done.stderr) == (0, "")
    # Somebody in the wrong folder sees it there.
    assert done.stdout.endswith(f"\n  no runs are in {output}\n")
    assert export().stdout == f"{target}: nothing is new\n  no runs are in {output}\n"
    assert {name: len(rows) for name, rows in tables_of(target).items() if rows} == {}


def test_a_file_is_not_emptied_because_the_folder_of_the_runs_is_not_there(output: Path, tmp_path: Path) -> None:
    make_run(output, "recent", "run", [livestream(1)])
    path = tmp_path / "streams.csv"
    environment = environment_of(output, None)
    assert run_to_its_end(["export", "--quiet", str(path)], environment).returncode == 0
    before = path.read_bytes()
    elsewhere = environment_of(tmp_path / "elsewhere/output", None)
    refused = run_to_its_end(["export", "--quiet", str(path)], elsewhere)
    assert (refused.returncode, refused.stdout) == (2, "")
    problem = f"no runs are in '{tmp_path}/elsewhere/output', so {path} would be emptied"
    accepted = "(accepted: the folder of PARTI_OUTPUT_DIR, or --from with another one)"
    assert refused.stderr == f"scrapy export: {problem} {accepted}\n"
    assert path.read_bytes() == before
    assert run_to_its_end(["export", str(tmp_path / "new.csv")], elsewhere).returncode == 0


# --- Which runs --------------------------------------------------------------------------------------------------


def test_made_up_data_stays_apart_from_real_data(
    export: Export, scrapy: Scrapy, target: Path, output: Path, tmp_path: Path
) -> None:
    mock = make_run(output, "recent", "mock", [livestream(7)], source="mock")
    assert f"{target}: 1 file read, of mock\n" in export().stdout
    make_run(output, "recent", "real", [livestream(8)])
    accepted = "(accepted: another target, --source mock, or --rebuild)"
    assert_error(export(), 2, f"{target} holds data of mock, and these are of parti.com {accepted}")
    assert [row["event_id"] for row in rows_of(target, "livestreams")] == [7]
    # The target goes on with what it is of, if that is said.
    make_run(output, "recent", "more", [livestream(9)], source="mock")
    assert export("--source", "mock").returncode == 0
    assert [row["event_id"] for row in rows_of(target, "livestreams")] == [7, 9]
    other = tmp_path / "real.duckdb"
    done = scrapy("export", str(other))
    left_out = f"  left out: 2 runs: its data come from mock, not parti.com: {mock}, {mock.with_name('more')}\n"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{other}: 1 file read, of parti.com\n")
    assert done.stdout.endswith(left_out)
    assert [row["event_id"] for row in rows_of(other, "livestreams")] == [8]
    assert export("--rebuild").returncode == 0
    assert [row["event_id"] for row in rows_of(target, "livestreams")] == [8]


def test_what_a_crawl_has_written_is_in_the_target(
    crawl: Run, export: Export, serve: Serve, target: Path, output: Path
) -> None:
    server = serve(now=NOW, speed=0, events=60, malformed=0.05)
    arguments = {"until": NOW}
    runs = [
        crawl("recent", server=server, env={"PARTI_MAX_REJECTED": "1"}, **arguments),
        crawl("categories", server=server),
        crawl("scheduled", server=server),
        crawl("live", server=server),
    ]
    assert export().returncode == 0
    assert differences(target, Truth().see(output).tables()) == []
    held = tables_of(target)
    for run, table in zip(runs, ("livestreams", "categories", "scheduled_livestreams", "live_channels"), strict=True):
        assert len(held[table]) == len(run.rows) > 0
    assert len(held["quarantine"]) == sum(len(run.quarantine) for run in runs) > 0


def test_a_run_that_was_killed_and_left_is_sealed_and_what_it_has_is_taken(
    export: Export, serve: Serve, target: Path, output: Path, tmp_path: Path
) -> None:
    server = serve(now=NOW, speed=0, events=2_000, page_cap=25, latency=0.02)
    interrupted(server, 13, typed_of("recent", "run", {"until": NOW}, QUIET), environment_of(output, server))
    # No ledger knows this one.
    make_run(output, "recent", "unknown", [livestream(1)], status="running", source="mock")
    typed = ["export", str(target), "--source", "mock"]
    now = forked.Scrapy(typed, environment_of(output, None), clock=7_200)
    stdout, stderr = now.communicate(TIMEOUT)
    assert (now.wait(), stderr) == (0, ""), stdout
    for name in ("run", "unknown"):
        assert (output / "recent" / name / "datapackage.json").exists()
    assert differences(target, Truth().see(output, source="mock").tables()) == []
    assert len(rows_of(target, "livestreams")) > 25


# --- Which tables and rows ---------------------------------------------------------------------------------------


def test_a_target_remembers_its_selection(export: Export, target: Path, output: Path) -> None:
    make_runs(output)
    chosen = ("--table", "livestreams", "--user-id", "3")
    assert export(*chosen).returncode == 0
    held = "--table livestreams --user-id 3"
    accepted = "(accepted: no options of a selection, the same ones, or --rebuild)"
    for others in (("--table", "categories"), ("--user-id", "3"), (*chosen, "--since", "7d")):
        assert_error(export(*others), 2, f"{target} holds another selection: {held} {accepted}")
    for same in ((), chosen):
        assert export(*same).returncode == 0
        assert [row["event_id"] for row in rows_of(target, "livestreams")] == [2]
    assert export("--rebuild").returncode == 0
    assert differences(target, Truth().see(output).tables()) == []
    assert_error(export(*chosen), 2, f"{target} holds another selection: everything {accepted}")


def times(output: Path) -> None:
    """Make runs with records of different times, categories and channels."""
    rows = [
        livestream(1, event_end="2026-11-01T00:00:00Z"),
        livestream(2, event_end="2026-11-20T23:59:59Z", category_id=9, category_name="Straße"),
        livestream(3, event_end="2026-11-21T00:00:00Z", category_id=None, category_name=None),
        livestream(4, event_end=None, user_id=None, user_name=None),
    ]
    make_run(output, "recent", "first", rows)
    # A newer version is of another time and category.
    moved = livestream(1, event_end="2026-11-22T12:00:00Z", category_id=9, category_name="STRASSE", scraped_at=ENDED)
    make_run(output, "recent", "second", [moved])
    observed = [(1, "2026-11-20T10:00:00Z", 7), (2, "2026-11-22T10:00:00Z", 9)]
    channels = [live_channel(each, f"{at}", observed_at=at, category_id=number) for each, at, number in observed]
    for number, row in enumerate(channels):
        make_run(output, "live", f"live-{number}", [row])
    notes = [notification(each, received_at=at, category_id=number) for each, at, number in observed]
    make_run(output, "notifications", "run", notes)
    make_run(output, "scheduled", "run", [scheduled(5, event_start="2026-11-22T10:00:00Z"), scheduled(6)])
    make_run(output, "categories", "run", [category(7), category(9, name="Straße", display_name="other")])


TIMES = {
    "livestreams": "event_end",
    "livestream_versions": "event_end",
    "live_channels": "observed_at",
    "live_notifications": "received_at",
    "scheduled_livestreams": "event_start",
}


def in_time(since: str, until: str = "9999") -> Callable[[str, Row], bool]:
    """Return whether a row is of a time; one without a time always is."""
    return lambda table, row: table not in TIMES or since <= (row[TIMES[table]] or since) <= until


def of_category(numbers: set[int], names: set[str]) -> Callable[[str, Row], bool]:
    """Return whether a row is of a category, by its number or one of its names."""

    def is_wanted(_table: str, row: Row) -> bool:
        held = {str(row.get(name)).lower() for name in ("category_name", "name", "display_name")}
        return "category_id" not in row or row["category_id"] in numbers or bool(held & names)

    return is_wanted


@pytest.mark.parametrize(
    ("options", "is_wanted"),
    [
        ({"since": "2026-11-21"}, in_time("2026-11-21T00:00:00Z")),
        ({"until": "2026-11-20"}, in_time("", "2026-11-20T23:59:59Z")),
        ({"since": "2026-11-20", "until": "2026-11-21T00:00Z"}, in_time("2026-11-20", "2026-11-21T00:00:00Z")),
        ({"categories": "9"}, of_category({9}, set())),
        ({"categories": "7,straße"}, of_category({7}, {"straße"})),
        ({"categories": "CATEGORY 7"}, of_category(set(), {"category 7"})),
        ({"categories": "all"}, lambda _table, _row: True),
        ({"user_id": "3"}, lambda _table, row: row.get("user_id", 3) in {3, None}),
        (
            {"user_id": "2", "since": "2026-11-21", "categories": "7"},
            lambda table, row: (
                in_time("2026-11-21T00:00:00Z")(table, row)
                and of_category({7}, set())(table, row)
                and row.get("user_id", 2) in {2, None}
            ),
        ),
    ],
)
def test_only_rows_that_are_wanted_are_taken_by_the_newest_version_of_each(
    options: dict[str, str], is_wanted: Callable[[str, Row], bool], output: Path, target: Path
) -> None:
    times(output)
    true = {
        table: [row for row in rows if is_wanted(table, row)] for table, rows in Truth().see(output).tables().items()
    }
    bring(target, [output], target.parent, selection=Selection(**options))
    assert differences(target, true) == []
    # And when more comes later, by the same selection.
    make_run(output, "recent", "third", [livestream(2, event_end="2026-11-25T00:00:00Z", scraped_at=ENDED)])
    true = {
        table: [row for row in rows if is_wanted(table, row)] for table, rows in Truth().see(output).tables().items()
    }
    bring(target, [output], target.parent)
    assert differences(target, true) == []


def test_filters_are_typed_as_for_the_spiders(export: Export, output: Path, target: Path) -> None:
    times(output)
    done = export("--since", "2026-11-20", "--until=2026-11-21", "--categories", "9,Category 7", "--user-id", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert {table: len(rows) for table, rows in tables_of(target).items() if rows} == {
        "categories": 2,
        "livestream_versions": 2,
        "livestreams": 2,
    }
    # Of the other one, neither the time nor the channel is known.
    assert [row["event_id"] for row in rows_of(target, "livestreams")] == [2, 4]


def test_an_age_is_that_of_each_export(output: Path, target: Path) -> None:
    make_run(output, "recent", "run", [livestream(1, event_end="2026-11-20T00:00:00Z"), livestream(2)])
    for now, expected in (("2026-11-25", [1, 2]), ("2026-11-30", [2]), ("2026-12-31", [])):
        seconds = iso_to_timestamp(f"{now}T00:00:00Z")
        bring(target, [output], target.parent, selection=Selection(since="7d"), now=seconds)
        assert [row["event_id"] for row in rows_of(target, "livestreams")] == expected


# --- Usage errors ------------------------------------------------------------------------------------------------

DATES = "2026-01-31, 2026-01-31T12:00Z, 1769860800, 7d, 2w, today, yesterday"
TABLES = (
    "api_calls, categories, channels, confirmed_livestreams, coverage, hours, live_channels, live_notifications, "
    "livestream_versions, livestreams, quarantine, runs, scheduled_livestreams, snapshots, streams"
)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ((), f"no target (accepted: {ACCEPTED})"),
        (("data",), f"argument `TARGET`: not a target: 'data' (accepted: {ACCEPTED})"),
        (
            ("x.paruet",),
            f"argument `TARGET`: not a target: 'x.paruet' (accepted: {ACCEPTED}); did you mean `.parquet`?",
        ),
        (
            ("x.duckdb", "--since", "yesterdayish"),
            (f"option `--since`: not a date or an age: 'yesterdayish' (accepted: {DATES}); did you mean `yesterday`?"),
        ),
        (
            ("x.duckdb", "--until", "2026-02-30"),
            f"option `--until`: not a date or an age: '2026-02-30' (accepted: {DATES})",
        ),
        (
            ("x.duckdb", "--categories", "7,,8"),
            (
                "option `--categories`: an empty name in the list: '7,,8' "
                "(accepted: comma-separated numbers and names of categories)"
            ),
        ),
        (
            ("x.duckdb", "--user-id", "me"),
            "option `--user-id`: not a whole number: 'me' (accepted: a channel's number)",
        ),
        (
            ("x.duckdb", "--table", "livestream"),
            (f"option `--table`: no such table: 'livestream' (accepted: {TABLES}); did you mean `livestreams`?"),
        ),
        (
            ("x.csv", "--table", "livestreams", "--table", "categories"),
            "option `--table`: x.csv holds one table: 'categories, livestreams' (accepted: one table)",
        ),
        (
            ("x.duckdb", "--source", "mok"),
            "option `--source`: no such source: 'mok' (accepted: mock, parti.com); did you mean `mock`?",
        ),
        (
            ("x.duckdb", "--from", "nowhere"),
            (
                "option `--from`: neither a folder of runs nor an export: 'nowhere' "
                "(accepted: a folder of runs such as output/, or an earlier export: a folder, delta+FOLDER/, .duckdb, "
                ".sqlite, postgresql://)"
            ),
        ),
        (("x.duckdb", "--since"), "argument --since: expected one argument"),
        (
            ("x.duckdb", "--sinc", "7d"),
            (
                "unknown option: '--sinc' (accepted: --from, --table, --since, --until, --categories, --user-id, "
                "--source, --rebuild, --quiet); did you mean `--since`?"
            ),
        ),
    ],
)
def test_a_usage_error_is_one_line(typed: tuple[str, ...], line: str, scrapy: Scrapy) -> None:
    assert_error(scrapy("export", *typed), 2, line)


def test_a_place_that_cannot_be_written_is_one_line(scrapy: Scrapy, output: Path, tmp_path: Path) -> None:
    make_runs(output)
    (tmp_path / "file").touch()
    done = scrapy("export", f"{tmp_path}/file/dataset.duckdb")
    assert_error(done, 1, f"{tmp_path}/file/dataset.duckdb cannot be written: {tmp_path}/file is no folder")
    (tmp_path / "text.duckdb").write_text("no database")
    done = scrapy("export", f"{tmp_path}/text.duckdb")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"scrapy export: {tmp_path}/text.duckdb: ")
    assert (tmp_path / "text.duckdb").read_text() == "no database"


def test_a_state_folder_that_cannot_be_made_is_one_line(export: Export, scrapy: Scrapy, target: Path) -> None:
    done = scrapy("export", str(target), env={"PARTI_STATE_DIR": "/dev/null/state"})
    assert_error(done, 1, "/dev/null/state/export cannot be written: Not a directory")


# --- Exports that are killed, and others at the same time --------------------------------------------------------


def many(output: Path, first: int, count: int) -> None:
    """Make runs of which an export takes a while."""
    for number in range(first, first + count):
        rows = [livestream(number * 500 + each, scraped_at=ENDED) for each in range(600)]
        make_run(output, "recent", f"run-{number}", rows)


def of_livestreams(tables: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """Return the tables that are brought where exports are killed."""
    return {table: tables[table] for table in LIVESTREAMS}


def test_an_export_that_was_killed_is_finished_by_the_next_and_leaves_nothing_behind(
    scrapy: Scrapy, target: Path, output: Path, tmp_path: Path
) -> None:
    by_chance = random.Random(7)
    typed = ["export", str(target), *(part for table in LIVESTREAMS for part in ("--table", table))]
    many(output, 0, 2)
    # The first process of all takes longer to start.
    assert scrapy("version").returncode == 0
    began = time.monotonic()
    assert scrapy(*typed).returncode == 0
    took = time.monotonic() - began
    before = of_livestreams(Truth().see(output).tables())
    many(output, 2, 6)
    true = of_livestreams(Truth().see(output).tables())
    killed = 0
    for _ in range(5):
        process = forked.Scrapy(typed, environment_of(output, None))
        try:
            process.wait(by_chance.uniform(0.1, 1.1) * took)
        except subprocess.TimeoutExpired:
            killed += 1
        process.close()
        # All of it or nothing.
        assert tables_of(target, LIVESTREAMS) in (before, true)
    assert killed
    assert scrapy(*typed).returncode == 0
    assert tables_of(target, LIVESTREAMS) == true
    assert [*(tmp_path / "state/export").iterdir()] == []
    assert [path.name for path in tmp_path.iterdir() if "dataset" in path.name] == ["dataset.duckdb"]


def test_an_export_that_is_interrupted_says_so_and_leaves_nothing_behind(
    scrapy: Scrapy, target: Path, output: Path, tmp_path: Path
) -> None:
    many(output, 0, 8)
    scratch, typed = tmp_path / "state/export", ["export", str(target)]
    process = forked.Scrapy(typed, environment_of(output, None))
    # A folder that is only just made is left to the next export.
    wait_until(lambda: any(scratch.glob("*/*")))
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(TIMEOUT)
    # On a busy machine, it may be too late.
    stopped = (3, "", "scrapy export: stopped; the next export does the rest\n")
    assert (process.wait(), stdout, stderr) == stopped or process.wait() == 0
    assert [*scratch.iterdir()] == []
    assert scrapy(*typed).returncode == 0
    assert differences(target, Truth().see(output).tables()) == []


def test_exports_at_the_same_time_into_one_target_come_one_after_the_other(
    scrapy: Scrapy, target: Path, output: Path, tmp_path: Path
) -> None:
    many(output, 0, 2)
    other = tmp_path / "other.duckdb"
    processes = [
        forked.Scrapy(["export", str(each)], environment_of(output, None)) for each in (target, target, other, target)
    ]
    ended = [process.communicate(120) for process in processes]
    assert [process.wait() for process in processes] == [0] * 4, ended
    into_target = [stdout for stdout, _ in ended if str(target) in stdout]
    assert sum("nothing is new" in stdout for stdout in into_target) == 2
    true: dict[str, Any] = Truth().see(output).tables()
    assert differences(target, true) == []
    assert differences(other, true) == []
    assert [*(tmp_path / "state/export").iterdir()] == []


def test_an_export_that_begins_does_not_delete_the_temporary_folder_of_another(tmp_path: Path) -> None:
    def work(_number: int) -> None:
        for _ in range(100):
            with scratch_folder(tmp_path) as folder:
                (folder / "file").touch()
                assert (folder / "file").exists()

    with ThreadPoolExecutor(4) as threads:
        assert [*threads.map(work, range(4))] == [None] * 4
    assert [*tmp_path.iterdir()] == []
