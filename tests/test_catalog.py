"""The catalog: every run that any version has left is listed as it is, and what was noted changes nothing but the time.

`tests/golden/runs-1` was made by `tools/golden_runs.py` when data packages had no version yet.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.api.times import timestamp_to_iso
from parti_scraper.ledger.ledger import SUPERSEDED, Checkpoint, Ledger, RunEnd, RunRecord
from parti_scraper.ledger.locks import Lock
from parti_scraper.mockserver import MockServer
from parti_scraper.run import catalog
from parti_scraper.run.catalog import Catalog
from parti_scraper.run.datapackage import Feed, of_day
from parti_scraper.run.days import Days
from parti_scraper.run.entries import KINDS, CatalogError, Entry, File, Snapshot, Span, Status, Window
from parti_scraper.spiders.categories import CategoriesSpider
from parti_scraper.spiders.live import LiveSpider
from parti_scraper.spiders.notifications import NotificationsSpider
from parti_scraper.spiders.recent import RecentSpider
from parti_scraper.spiders.scheduled import ScheduledSpider
from parti_scraper.spiders.site import SiteSpider
from tests import forked
from tests.listening import STARTING
from tests.support import QUIET, Run, Serve, environment_of, read_csv, read_lines, typed_of, wait_until

GOLDEN = Path(__file__).parent / "golden" / "runs-1"
# In the ledger, in place of the folder.
PLACEHOLDER = "/golden-runs"
# Spider, run, status, exit code, complete, and rows of each file.
LEFT = {
    ("categories", "all"): ("finished", 0, True, {"categories.csv": 21, "categories.jsonl": 21}),
    ("live", "degraded"): ("finished", 4, True, {}),
    ("live", "many"): ("finished", 0, True, {"live_channels.csv": 4, "live_channels.jsonl": 4}),
    ("notifications", "killed"): (
        "unfinished",
        None,
        False,
        {"live_notifications.2026-11-27.csv": 3, "live_notifications.2026-11-27.jsonl": 3},
    ),
    ("notifications", "two-days"): (
        "finished",
        0,
        True,
        {
            "live_notifications.2026-11-27.csv": 3,
            "live_notifications.2026-11-27.jsonl": 3,
            "live_notifications.2026-11-28.csv": 2,
            "live_notifications.2026-11-28.jsonl": 2,
        },
    ),
    ("recent", "elsewhere"): ("finished", 0, True, {}),
    ("recent", "incomplete"): ("finished", 4, False, {"livestreams.csv": 2, "livestreams.jsonl": 2}),
    ("recent", "killed"): ("unfinished", None, False, {"livestreams.csv": 15, "livestreams.jsonl": 15}),
    ("recent", "whole"): ("finished", 0, True, {"livestreams.csv": 7, "livestreams.jsonl": 7, "quarantine.jsonl": 1}),
    ("scheduled", "all"): (
        "finished",
        0,
        True,
        {"scheduled_livestreams.csv": 2, "scheduled_livestreams.jsonl": 2},
    ),
    ("site", "page"): ("finished", 4, False, {"api_calls.csv": 4, "api_calls.jsonl": 4, "screenshot.png": None}),
}
SPIDERS = (CategoriesSpider, LiveSpider, NotificationsSpider, RecentSpider, ScheduledSpider, SiteSpider)
DAYS = ("2026-11-26", "2026-11-27")
MOMENT = "2026-11-27T10:00:00Z"


def long_after() -> int:
    """A clock by which no file has changed lately, so that all is noted."""
    return time.time_ns() + 10**12


def package(spider: str = "recent", run_id: str = "run", **more: Any) -> dict[str, Any]:
    """Return a data package of format 2, as small as one may be."""
    return {
        "format_version": 2,
        "run_uuid": "4a1f9a52-0000-4000-8000-000000000001",
        "source": "parti.com",
        "created": MOMENT,
        "spider": spider,
        "run_id": run_id,
        "arguments": {},
        "counts": {"written": 3},
        "complete": True,
        "exit_code": 0,
        "resources": [],
    } | more


def write(folder: Path, content: Any) -> Path:
    """Write a data package: a dict, or the bytes themselves."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "datapackage.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def entries(output: Path, cache: Path | None = None, **more: Any) -> list[Entry]:
    """Return all entries of an output folder."""
    return list(Catalog([output], cache, **more))


def entry(output: Path, **more: Any) -> Entry:
    """Return the only entry."""
    (only,) = entries(output, **more)
    return only


def named(found: list[Entry], spider: str, run_id: str) -> Entry:
    """Return the entry of a run."""
    (only,) = [each for each in found if (each.spider, each.run_id) == (spider, run_id)]
    return only


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return an output folder in which nothing is."""
    path = tmp_path / "output"
    path.mkdir()
    return path


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """Return a copy of what was left, whose ledger knows where it is."""
    folder = tmp_path / "left"
    shutil.copytree(GOLDEN, folder)
    with closing(sqlite3.connect(folder / "state/ledger.sqlite")) as ledger, ledger:
        ledger.execute("UPDATE run SET folder = replace(folder, ?, ?)", (PLACEHOLDER, str(folder)))
    return folder


# --- Format 1 --------------------------------------------------------------------------------------------------


def test_every_spider_has_its_kind() -> None:
    assert {spider.name: (spider.collection, spider.arguments_class) for spider in SPIDERS} == {
        name: (kind.collection, kind.arguments) for name, kind in KINDS.items()
    }


def test_what_the_first_version_left_is_listed_with_every_row(left: Path) -> None:
    with closing(Ledger(left / "state")) as ledger:
        found = entries(left / "output", ledger=ledger)
    assert [(each.spider, each.run_id) for each in found] == list(LEFT)
    for each in found:
        rows = {file.name: file.rows for file in each.files}
        assert (each.status, each.exit_code, each.complete, rows) == LEFT[each.spider, each.run_id]
        assert (each.source, each.day, each.days, each.pruned) == ("mock", None, (), False)


def test_the_files_of_the_first_version_are_as_the_catalog_says(left: Path) -> None:
    with closing(Ledger(left / "state")) as ledger:
        found = entries(left / "output", ledger=ledger)
    kinds: Counter[str | None] = Counter()
    for each in found:
        for file in each.files:
            kinds[file.kind] += 1
            body = (each.folder / file.name).read_bytes()[: file.bytes]
            assert len(body) == file.bytes
            if each.status is Status.FINISHED:
                assert (each.folder / file.name).stat().st_size == file.bytes
                assert hashlib.sha256(body).hexdigest() == file.sha256
            if file.form == "jsonl":
                assert (body.count(b"\n"), body[-1:]) == (file.rows, b"\n")
            elif file.form == "csv" and each.status is Status.FINISHED:
                assert len(read_csv(each.folder / file.name)) == file.rows
    assert kinds == {
        "categories": 2,
        "live_channels": 2,
        "live_notifications": 6,
        "livestreams": 6,
        "scheduled_livestreams": 2,
        "api_calls": 2,
        "quarantine": 1,
        None: 1,
    }


def test_a_killed_run_has_what_the_ledger_knows_up_to_its_last_checkpoint(left: Path) -> None:
    with closing(Ledger(left / "state")) as ledger:
        (killed,) = [
            each for each in entries(left / "output", ledger=ledger) if each.location.endswith("recent/killed")
        ]
    assert len(read_lines(killed.folder / "livestreams.jsonl")) > 15
    assert killed.counts["written"] == 15
    assert killed.window == Window("2021-08-03T00:00:00Z", "2026-11-01T01:00:00Z")
    assert (killed.started_at, killed.ended_at, killed.arguments) == ("2026-11-01T01:00:00Z", None, {})
    assert killed.run_uuid == str(uuid.uuid5(uuid.NAMESPACE_URL, "parti:recent/killed/2026-11-01T01:00:00Z"))


def test_a_killed_run_that_no_ledger_knows_has_its_files(left: Path) -> None:
    killed = named(entries(left / "output"), "recent", "killed")
    sizes = {name: (killed.folder / name).stat().st_size for name in ("livestreams.csv", "livestreams.jsonl")}
    assert (killed.status, killed.run_uuid) == (Status.UNFINISHED, None)
    assert {(file.name, file.bytes, file.rows) for file in killed.files} == {(*each, None) for each in sizes.items()}


def test_of_a_file_that_is_shorter_than_the_ledger_says_nothing_is_promised(left: Path) -> None:
    os.truncate(left / "output/recent/killed/livestreams.jsonl", 100)
    with closing(Ledger(left / "state")) as ledger:
        files = named(entries(left / "output", ledger=ledger), "recent", "killed").files
    assert [(file.name, file.rows, file.bytes) for file in files] == [
        ("livestreams.csv", 15, 5_603),
        ("livestreams.jsonl", None, 100),
    ]


def test_a_run_of_the_first_version_gets_the_same_name_everywhere(left: Path) -> None:
    whole = named(entries(left / "output"), "recent", "whole")
    assert whole.ended_at == whole.package()["created"]
    assert whole.run_uuid == str(uuid.uuid5(uuid.NAMESPACE_URL, f"parti:recent/whole/{whole.ended_at}"))
    assert (whole.format_version, whole.arguments, whole.unreadable_fields) == (
        1,
        {"incremental": True},
        {"avatar_link": 1},
    )
    assert (whole.counts["new"], whole.counts["quarantined"]) == (7, 1)


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("https://api-backend.parti.com", "parti.com"),
        ("http://[::1]:80", "mock"),
        ("http://[", "parti.com"),
        (None, "parti.com"),
    ],
)
def test_records_of_a_server_on_this_machine_are_made_up(output: Path, host: str | None, source: str) -> None:
    old = package(host=host)
    del old["format_version"], old["source"]
    write(output / "recent/run", old)
    assert entry(output).source == source


def test_the_arguments_of_an_unfinished_run_are_as_in_a_data_package(output: Path, tmp_path: Path) -> None:
    folder = output / "recent/run"
    folder.mkdir(parents=True)
    with closing(Ledger(tmp_path / "state")) as ledger:
        typed = {"categories": "Gaming,7", "incremental": "true"}
        ledger.begin(RunRecord(str(folder), "recent", "run", typed, 1_790_000_000.5, (1, 2), state=SUPERSEDED))
        found = entry(output, ledger=ledger)
    assert found.arguments == {"categories": ["Gaming", "7"], "incremental": True}
    assert (found.status, found.files) == (Status.UNFINISHED, ())
    assert found.reason == "a later run has written its records"


# --- Format 2 --------------------------------------------------------------------------------------------------


def with_days(output: Path, **more: Any) -> Path:
    """Write a run with two days, and return its folder."""
    folder, resources = output / "live/run", []
    for number, day in enumerate(DAYS, 1):
        resource = {"name": "x", "path": "live_channels.jsonl", "format": "jsonl"}
        resource |= {"rows": number, "bytes": 10, "hash": "sha256:ab"}
        counts = {"written": number}
        write(folder / day, package("live", day=day, counts=counts, resources=[resource]))
        resources.append(of_day(resource, day))
    write(folder, package("live", days=DAYS[::-1], resources=resources, **more))
    return folder


def test_a_run_with_days_has_an_entry_for_each_and_no_row_twice(output: Path) -> None:
    with_days(output)
    run, *days = entries(output)
    assert (run.day, run.days, run.files, run.counts) == (None, DAYS, (), {"written": 3})
    assert [each.day for each in days] == list(DAYS)
    assert {each.run_uuid for each in (run, *days)} == {package()["run_uuid"]}
    assert [each.status for each in (run, *days)] == [Status.FINISHED] * 3
    assert [each.files for each in days] == [
        (File("live_channels.jsonl", "jsonl", "live_channels", rows, 10, "ab"),) for rows in (1, 2)
    ]


def test_a_run_with_days_that_goes_on_has_those_that_are_over_and_the_one_that_is_not(
    output: Path, tmp_path: Path
) -> None:
    folder = with_days(output)
    (folder / "datapackage.json").unlink()
    (folder / DAYS[1] / "datapackage.json").unlink()
    for name in ("live_channels.jsonl", "quarantine.jsonl"):
        (folder / DAYS[1] / name).write_bytes(b"{}\n{}\n{")
    assert [each.status for each in entries(output)] == [Status.UNFINISHED, Status.FINISHED, Status.UNFINISHED]
    with closing(Ledger(tmp_path / "state")) as ledger:
        number = ledger.begin(RunRecord(str(folder), "live", "run", {"interval": "5m"}, 1_790_000_000))
        files = {f"{DAYS[1]}/live_channels.jsonl": (3, 1), f"{DAYS[0]}/live_channels.jsonl": (10, 1)}
        ledger.checkpoint(number, Checkpoint({}, {"written": 2}, files))
        ledger.stop(number, RunEnd(1_790_000_001, 3, "stopped"))
        run, _, day = entries(output, ledger=ledger)
    assert (run.days, run.files, run.counts, run.arguments) == (DAYS, (), {"written": 2}, {"interval": 300.0})
    assert (run.exit_code, run.reason, run.ended_at) == (3, "stopped", "2026-09-21T14:13:21Z")
    assert (day.day, day.counts, day.exit_code) == (DAYS[1], {}, None)
    assert day.files == (File("live_channels.jsonl", "jsonl", "live_channels", 1, 3),)


def test_a_day_that_is_written_again_after_it_was_described_has_its_whole_files(output: Path, tmp_path: Path) -> None:
    folder = with_days(output)
    (folder / "datapackage.json").unlink()
    (folder / DAYS[0] / "datapackage.json").unlink()
    (folder / DAYS[0] / "live_channels.jsonl").write_bytes(b"{}\n")
    days = Days((), 0)
    days.described[DAYS[0]] = 1
    with closing(Ledger(tmp_path / "state")) as ledger:
        number = ledger.begin(RunRecord(str(folder), "live", "run", {"interval": "5m"}, 1_790_000_000))
        ledger.checkpoint(number, Checkpoint({"days": days.as_json()}, {}, {}))
        _, day, _ = entries(output, ledger=ledger)
    assert day.files == (File("live_channels.jsonl", "jsonl", "live_channels", None, 3),)


def test_a_day_whose_data_package_is_gone_is_named(output: Path) -> None:
    folder = with_days(output)
    (folder / DAYS[0] / "datapackage.json").unlink()
    _, gone, _ = entries(output)
    assert (gone.day, gone.status, gone.reason) == (DAYS[0], Status.UNREADABLE, "its data package does not exist")


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ({"exit_code": None, "complete": False, "reason": "killed", "sealed": True}, Status.SEALED),
        ({"exit_code": 4, "complete": False, "reason": "the disk is full", "sealed": True}, Status.SEALED),
        ({"exit_code": 4, "complete": False, "reason": "a gap"}, Status.FINISHED),
        ({"exit_code": 4, "complete": True, "reason": "degraded: x"}, Status.FINISHED),
        ({"exit_code": 0}, Status.FINISHED),
    ],
)
def test_a_run_that_was_sealed_is_told_from_one_that_ended(
    output: Path, ending: dict[str, Any], status: Status
) -> None:
    write(output / "recent/run", package(**ending))
    found = entry(output)
    assert (found.status, found.exit_code, found.reason) == (status, ending["exit_code"], ending.get("reason"))


def test_of_a_sealed_run_the_days_that_were_over_are_finished(output: Path) -> None:
    sealed = {"exit_code": None, "complete": False, "reason": "killed", "sealed": True}
    folder = with_days(output, **sealed)
    write(folder / DAYS[1], package("live", day=DAYS[1], **sealed))
    assert [each.status for each in entries(output)] == [Status.SEALED, Status.FINISHED, Status.SEALED]


def test_all_that_format_2_says_is_in_the_entry(output: Path) -> None:
    said: dict[str, Any] = {
        "project_version": "9.1",
        "started_at": "2026-11-27T09:00:00Z",
        "ended_at": MOMENT,
        "duration_seconds": 3600.125,
        "retries": 5,
        "rate_limited": 2,
        "host": "https://api-backend.parti.com",
        "degraded": ["x"],
        "truncated": True,
        "unknown_fields": {"new": 3},
        "unreadable_fields": {"old": 1},
        "pruned": True,
    }
    write(output / "recent/run", package(**said, window={"since": MOMENT, "until": MOMENT}, later="is passed over"))
    found = entry(output)
    names = {"project_version": "version"}
    assert {name: getattr(found, names.get(name, name)) for name in said} == said | {"degraded": ("x",)}
    assert (found.window, found.format_version) == (Window(MOMENT, MOMENT), 2)


def test_snapshots_and_times_of_listening_are_read_when_they_are_asked_for(output: Path) -> None:
    snapshot = {"snapshot_id": "run-1", "started_at": MOMENT, "ended_at": MOMENT, "channels": 3, "complete": True}
    path = write(output / "live/run", package("live", snapshots=[snapshot]))
    write(output / "notifications/run", package("notifications", listened=[{"from": MOMENT, "to": MOMENT}]))
    live, notifications = entries(output)
    assert live.snapshots() == (Snapshot("run-1", MOMENT, MOMENT, 3, complete=True),)
    assert notifications.listened() == (Span(MOMENT, MOMENT),)
    assert notifications.snapshots() == ()
    path.write_text('{"snapshots": [7]}', encoding="utf-8")
    with pytest.raises(CatalogError, match="Expected"):
        live.snapshots()
    path.unlink()
    with pytest.raises(CatalogError, match="does not exist any more"):
        live.package()


def test_whether_a_run_is_at_work_is_known_by_its_lock(output: Path) -> None:
    folder = output / "live/run"
    (folder / DAYS[0]).mkdir(parents=True)
    run, day = entries(output)
    lock = Lock.take(folder)
    assert lock is not None
    assert (run.is_at_work(), day.is_at_work()) == (True, True)
    lock.release()
    assert (run.is_at_work(), day.is_at_work()) == (False, False)
    shutil.rmtree(folder)
    assert not run.is_at_work()


# --- Format 2 as crawls leave it -------------------------------------------------------------------------------


class Schedule:
    """Crawls of one run, at noon of one day after the other."""

    def __init__(self, spider: str, output: Path, server: MockServer, ledger: Ledger, **arguments: Any) -> None:
        self.folder = output / spider / "run"
        self._output, self._server, self._ledger = output, server, ledger
        self._log = output.with_name("log")
        self._typed = typed_of(spider, "run", arguments, QUIET)[1:]
        self._noon = (time.time() // 86_400 + 1.5) * 86_400

    def day(self, number: int) -> str:
        """Return one of the days, from 0."""
        return timestamp_to_iso(self._noon + number * 86_400)[:10]

    def crawl(self, number: int, signal_number: signal.Signals) -> list[Entry]:
        """Crawl on a day until more of its records are noted, and send a signal; return the entries of the run."""
        before = self._rows_of(self.day(number))
        # So that somebody has gone live since the day before.
        self._server.world.advance(3)
        ahead = self._noon + number * 86_400 - time.time()
        env = environment_of(self._output, self._server)
        process = forked.crawl(self._typed, env, self._log, clock=ahead)
        wait_until(lambda: process.exitcode is not None or self._is_noted(number, before))
        assert process.exitcode is None, self._log.read_text(encoding="utf-8")
        os.kill(process.pid or 0, signal_number)
        process.join()
        # Of notifications, something may still be missing when it ends.
        expected = {-signal_number} if signal_number == signal.SIGKILL else {0, 4}
        assert process.exitcode in expected, self._log.read_text(encoding="utf-8")
        found = entries(self._output, ledger=self._ledger)
        return [each for each in found if each.location.startswith(str(self.folder))]

    def _is_noted(self, number: int, before: int) -> bool:
        over = [self.folder / self.day(each) / "datapackage.json" for each in range(number)]
        return self._rows_of(self.day(number)) > before and all(path.exists() for path in over)

    def _rows_of(self, day: str) -> int:
        record = self._ledger.find(self.folder)
        noted = self._ledger.last_checkpoint(record.id) if record else None
        return sum(rows for name, (_, rows) in (noted.files if noted else {}).items() if name.startswith(day))


def check_files(found: Entry) -> None:
    """Compare the files of an entry with the disk."""
    for file in found.files:
        body = (found.folder / file.name).read_bytes()
        assert (file.bytes or 0) <= len(body)
        if found.status is Status.FINISHED:
            assert (file.bytes, file.sha256) == (len(body), hashlib.sha256(body).hexdigest())
        if file.form == "jsonl":
            assert body[: file.bytes].count(b"\n") == file.rows
            assert file.rows == found.counts["quarantined" if file.kind == "quarantine" else "written"]


def check_days(days: list[Entry], spider: str) -> None:
    """Check that each day has its own files, as they are."""
    collection = KINDS[spider].collection
    for day in days:
        assert (day.started_at or "")[:10] == day.day
        assert [file.name for file in day.files if file.kind == collection and file.form == "jsonl"] == [
            f"{collection}.jsonl"
        ]
        check_files(day)


def test_days_of_a_run_are_listed_while_it_lasts_after_it_was_killed_and_when_it_is_over(
    output: Path, serve: Serve
) -> None:
    known = []
    with closing(Ledger(output.with_name("state"))) as ledger:
        schedule = Schedule("live", output, serve(**STARTING), ledger, interval="0.2")
        for number, (signal_number, status) in enumerate(
            [
                (signal.SIGKILL, Status.UNFINISHED),
                (signal.SIGKILL, Status.UNFINISHED),
                (signal.SIGTERM, Status.FINISHED),
            ]
        ):
            run, *days = schedule.crawl(number, signal_number)
            assert [each.status for each in (run, *days)] == [status, *[Status.FINISHED] * number, status]
            assert run.days == tuple(each.day for each in days) == tuple(map(schedule.day, range(number + 1)))
            assert run.files == ()
            check_days(days, "live")
            for name in ("served", "written", "duplicate", "quarantined"):
                assert sum(day.counts[name] for day in days) == run.counts[name]
            assert {each.source for each in (run, *days)} == {"mock"}
            known += [each.run_uuid for each in (run, *days)]
    assert len(set(known)) == 1
    assert [bool(each.snapshots()) for each in (run, *days)] == [False, True, True, True]


def test_files_of_the_first_version_belong_to_the_run_that_goes_on_with_days(left: Path, serve: Serve) -> None:
    runs = left / "output/notifications"
    (runs / "killed").rename(runs / "run")
    with closing(sqlite3.connect(left / "state/ledger.sqlite")) as connection, connection:
        change = "UPDATE run SET folder = ?, run_id = 'run' WHERE spider = 'notifications' AND run_id = 'killed'"
        connection.execute(change, (str(runs / "run"),))
    with closing(Ledger(left / "state")) as ledger:
        schedule = Schedule("notifications", left / "output", serve(**STARTING), ledger)
        unfinished = schedule.crawl(0, signal.SIGKILL)
        finished = schedule.crawl(1, signal.SIGTERM)
    names = LEFT["notifications", "killed"][3].keys()
    for (run, *days), number in ((unfinished, 1), (finished, 2)):
        assert sorted(file.name for file in run.files) == sorted(names)
        assert [(file.kind, file.rows) for file in run.files] == [("live_notifications", 3)] * 2
        assert run.days == tuple(each.day for each in days) == tuple(map(schedule.day, range(number)))
        assert {each.run_uuid for each in days} == {run.run_uuid}
        check_days(days, "notifications")
    assert (finished[0].listened(), bool(finished[-1].listened())) == ((), True)


def test_feeds_of_the_user_are_not_files_of_the_run(output: Path, tmp_path: Path, serve: Serve, crawl: Run) -> None:
    feed = tmp_path / "mine.csv"
    crawl("categories", "-O", str(feed), server=serve())
    found = entry(output)
    assert (found.status, found.files) == (Status.FINISHED, ())
    assert found.feeds == (Feed(str(feed), "csv", len(read_csv(feed))),)


# --- What is no run, or no longer -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format_version": 2, "a": "' + b"\\ud800" + b'"}',
        json.dumps(package()).encode()[:-40],
        {"name": "somebody else's"},
        package(spider="live"),
        package(day=DAYS[0]),
        package(days=["../2026-11-26"]),
        package(days=[DAYS[0], DAYS[0]]),
        package(counts=[]),
        package(counts={"written": "3"}),
        package(complete="yes"),
        package(format_version=0),
        package(format_version="2"),
        package(resources=[{"path": "../../secret"}]),
        package(resources=[{"path": "."}]),
        package(resources=[{"path": "a/livestreams.jsonl"}], days=[DAYS[0]]),
        package(resources=[{"path": f"{DAYS[0]}/.."}], days=[DAYS[0]]),
        package(resources=[{"path": f"{DAYS[0]}/../livestreams.jsonl"}], days=[DAYS[0]]),
        package(feeds=[{"uri": "s3://bucket/key"}]),
        package(resources=[{"path": f"{DAYS[0]}/datapackage.json"}]),
        package(resources=[{"path": "livestreams.jsonl", "rows": -1}]),
        package(snapshots=[{}]),
    ],
)
def test_a_data_package_that_is_damaged_is_named_with_its_reason(output: Path, tmp_path: Path, content: Any) -> None:
    write(output / "recent/run", content)
    found = entry(output)
    assert (found.status, found.spider, found.run_id) == (Status.UNREADABLE, "recent", "run")
    assert (found.reason or "").startswith("datapackage.json: ")
    assert (found.reason or "").isprintable()
    for _ in range(2):
        assert entries(output, tmp_path / "cache", clock=long_after) == [found]


def test_a_run_of_a_later_version_is_named_whatever_else_has_changed(output: Path) -> None:
    write(output / "recent/a", package(format_version=3))
    write(output / "recent/b", {"format_version": 12, "counts": "other"})
    first, second = entries(output)
    assert first.status is second.status is Status.TOO_NEW
    assert first.reason == "made by a later version of this project (format 3, this one reads up to 2)"
    assert (second.run_id, second.format_version) == ("b", 12)


def test_what_is_no_run_is_foreign_and_no_link_is_followed(output: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", package())
    (output / "recent/mine").mkdir(parents=True)
    (output / "recent/mine/notes.txt").touch()
    (output / "recent/no name").mkdir()
    (output / "recent/stray.csv").touch()
    (output / "recent/up").symlink_to("..")
    (output / "recent/lost").symlink_to("nowhere")
    (output / "recent/elsewhere").symlink_to(tmp_path / "elsewhere")
    (output / "live").symlink_to("recent")
    (output / "of-somebody").mkdir()
    (output / "datapackage.json").touch()
    (output / ".hidden").touch()
    os.mkfifo(output / "recent/pipe")
    found = entries(output)
    assert {each.status for each in found} == {Status.FOREIGN}
    assert [os.path.relpath(each.location, output) for each in found] == [
        "of-somebody",
        "recent/mine",
        "recent/no name",
        "recent/elsewhere",
        "recent/lost",
        "recent/pipe",
        "recent/stray.csv",
        "recent/up",
        "datapackage.json",
        "live",
    ]
    assert all(each.reason for each in found)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("../other/datapackage.json")])
def test_a_data_package_that_is_no_file_is_not_read(output: Path, make: Callable[[Path], None]) -> None:
    write(output / "recent/other", package(run_id="other"))
    (output / "recent/run").mkdir()
    make(output / "recent/run/datapackage.json")
    _, found = entries(output)
    assert (found.status, found.reason) == (Status.UNREADABLE, "datapackage.json is no file")


def test_a_day_that_is_a_link_is_not_followed(output: Path) -> None:
    folder = with_days(output)
    (folder / DAYS[1]).rename(output.parent / "moved")
    (folder / DAYS[1]).symlink_to(output.parent / "moved")
    assert [each.status for each in entries(output)] == [Status.FINISHED, Status.FINISHED, Status.UNREADABLE]
    (folder / "datapackage.json").unlink()
    assert [each.day for each in entries(output)] == [None, DAYS[0]]


@pytest.mark.parametrize("name", ["livestreams.csv", "quarantine.jsonl", "recovered.jsonl", "datapackage.json.tmp", ""])
def test_a_folder_that_a_run_has_begun_to_fill_is_one_that_did_not_finish(output: Path, name: str) -> None:
    folder = output / "recent/run"
    folder.mkdir(parents=True)
    if name:
        (folder / name).touch()
    assert entry(output).status is Status.UNFINISHED


def test_names_that_are_no_text_are_listed_too(output: Path, tmp_path: Path) -> None:
    write(output / "recent" / os.fsdecode(b"run-\xff"), package())
    for _ in range(2):
        assert entry(output, cache=tmp_path / "cache", clock=long_after).status is Status.FINISHED


def test_several_output_folders_are_listed_one_after_the_other_and_none_twice(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("b", "a")]
    for folder in folders:
        write(folder / "recent/run", package())
    (tmp_path / "link").symlink_to("b")
    found = list(Catalog([*folders, tmp_path / "nowhere", folders[0], tmp_path / "link"]))
    assert [each.folder for each in found] == [folder / "recent/run" for folder in folders]
    (tmp_path / "file").touch()
    (unreadable,) = Catalog([tmp_path / "file"])
    assert (unreadable.status, unreadable.reason) == (Status.UNREADABLE, "Not a directory")


# --- The cache -------------------------------------------------------------------------------------------------


def replace_unseen(path: Path, content: Any) -> None:
    """Replace a data package by one of the same size and time of change."""
    before = path.stat()
    write(path.parent, json.dumps(content).encode().ljust(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def test_what_has_not_changed_is_not_read_again(output: Path, tmp_path: Path) -> None:
    path = write(output / "recent/run", package(reason="the first"))
    with_days(output)
    cache = tmp_path / "cache"
    before = entries(output, cache, clock=long_after)
    replace_unseen(path, package(reason="a"))
    replace_unseen(output / "live/run" / DAYS[0] / "datapackage.json", {})
    assert entries(output, cache, clock=long_after) == before
    assert entries(output) != before


def test_what_has_just_changed_is_read_again(output: Path, tmp_path: Path) -> None:
    path = write(output / "recent/run", package(reason="the first"))
    changed = path.stat().st_mtime_ns
    entry(output, cache=tmp_path / "cache", clock=lambda: changed + 1_999_999_999)
    replace_unseen(path, package(reason="a"))
    assert entry(output, cache=tmp_path / "cache", clock=lambda: changed + 2_000_000_000).reason == "a"


def test_a_day_that_came_or_changed_is_read_once(output: Path, tmp_path: Path) -> None:
    folder = with_days(output)
    (folder / "datapackage.json").unlink()
    cache = tmp_path / "cache"
    paths = [folder / day / "datapackage.json" for day in (*DAYS, "2026-11-28")]
    for path in paths[1:]:
        entries(output, cache, clock=long_after)
        write(path.parent, package("live", day=path.parent.name, reason="it came or changed"))
        before = entries(output, cache, clock=long_after)
        replace_unseen(path, package("live", day=path.parent.name))
        assert entries(output, cache, clock=long_after) == before
        assert "it came or changed" in {each.reason for each in before}


@pytest.mark.parametrize("runs", range(7))
def test_any_number_of_runs_is_noted(output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: int) -> None:
    monkeypatch.setattr(catalog, "_AT_ONCE", 3)
    names = [f"run-{number}" for number in range(runs)]
    paths = [write(output / "recent" / name, package(run_id=name, reason="the first")) for name in names]
    entries(output, tmp_path / "cache", clock=long_after)
    for path in paths:
        replace_unseen(path, package(run_id=path.parent.name, reason="a"))
    found = entries(output, tmp_path / "cache", clock=long_after)
    assert [(each.run_id, each.reason) for each in found] == [(name, "the first") for name in names]


@pytest.mark.parametrize("same", ["size", "time"])
def test_a_data_package_that_was_replaced_is_read_again(output: Path, tmp_path: Path, same: str) -> None:
    path = write(output / "recent/run", package(reason="first"))
    before = path.stat()
    entry(output, cache=tmp_path / "cache", clock=long_after)
    write(path.parent, package(reason="other" if same == "size" else "another"))
    os.utime(path, ns=(0, before.st_mtime_ns + (same == "size")))
    assert (path.stat().st_size == before.st_size) == (same == "size")
    assert entry(output, cache=tmp_path / "cache", clock=long_after).reason in {"other", "another"}


def test_what_is_gone_is_forgotten(output: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    other = tmp_path / "other"
    for folder in (output, other):
        for name in ("a", "b", "c"):
            write(folder / "recent" / name, package(run_id=name))
    list(Catalog([output, other], cache, clock=long_after))
    (output / "recent/a").rename(output / "recent/d")
    shutil.rmtree(output / "recent/c")
    shutil.rmtree(other)
    found = entries(output, cache, clock=long_after)
    assert [(each.run_id, each.folder.name) for each in found] == [("b", "b"), ("a", "d")]
    with closing(sqlite3.connect(cache)) as connection:
        assert connection.execute("SELECT name FROM run").fetchall() == [(b"b",), (b"d",)]
        assert connection.execute("SELECT path FROM folder").fetchall() == [(os.fsencode(output / "recent"),)]


def damaged_version(cache: Path) -> None:
    """Give it another version, and tables that are not as they should be."""
    with closing(sqlite3.connect(cache)) as connection:
        connection.executescript(
            "PRAGMA user_version = 7; DROP TABLE run; CREATE TABLE run (x); CREATE VIEW v AS SELECT 1"
        )


def damaged_tables(cache: Path) -> None:
    """Take a table from it."""
    with closing(sqlite3.connect(cache)) as connection:
        connection.execute("DROP TABLE run")


def damaged_rows(cache: Path) -> None:
    """Put into its rows what does not belong there."""
    with closing(sqlite3.connect(cache)) as connection, connection:
        connection.execute("UPDATE run SET read = 'text' WHERE name = ?", (b"a",))
        connection.execute("UPDATE run SET read = 7 WHERE name = ?", (b"b",))


def damaged_text(cache: Path) -> None:
    """Change a letter in each row."""
    with closing(sqlite3.connect(cache)) as connection, connection:
        for name, row in connection.execute("SELECT name, read FROM run").fetchall():
            values = (row.replace(b"the first", b"the worst"), name)
            connection.execute("UPDATE run SET read = ? WHERE name = ?", values)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda cache: cache.write_bytes(b""),
    "no database": lambda cache: cache.write_bytes(b"no database" * 1_000),
    "cut": lambda cache: os.truncate(cache, 20_000),
    "gone": Path.unlink,
    "version": damaged_version,
    "tables": damaged_tables,
    "rows": damaged_rows,
    "text": damaged_text,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_cache_that_is_damaged_is_made_again(output: Path, tmp_path: Path, damage: str) -> None:
    for name in ("a", "b", "c"):
        path = write(output / "recent" / name, package(run_id=name, reason="the first"))
    cache = tmp_path / "cache"
    before = entries(output, cache, clock=long_after)
    DAMAGE[damage](cache)
    assert entries(output, cache, clock=long_after) == before
    # Where it was found out late, it is made the next time.
    assert entries(output, cache, clock=long_after) == before
    replace_unseen(path, package(run_id="c"))
    assert entries(output, cache, clock=long_after) == before


def test_without_a_place_for_the_cache_all_is_listed(output: Path, tmp_path: Path) -> None:
    write(output / "recent/run", package())
    (tmp_path / "folder").mkdir()
    for cache in (tmp_path / "nowhere/cache", tmp_path / "folder"):
        assert entry(output, cache=cache, clock=long_after).run_id == "run"
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_cache_that_may_only_be_read_is_read(output: Path, tmp_path: Path) -> None:
    path = write(output / "recent/run", package(reason="the first"))
    cache = tmp_path / "cache"
    entry(output, cache=cache, clock=long_after)
    write(output / "recent/second", package(run_id="second"))
    replace_unseen(path, package(reason="a"))
    # Whoever writes to it waits in vain.
    with closing(sqlite3.connect(cache, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert [each.reason for each in entries(output, cache, clock=long_after)] == ["the first", None]
        other.execute("ROLLBACK")


def test_several_may_use_the_cache_at_once(output: Path, tmp_path: Path) -> None:
    for number in range(50):
        write(output / "recent" / f"run-{number:02}", package(run_id=f"run-{number:02}"))
    expected, found = entries(output), []
    listed = Catalog([output], tmp_path / "cache", clock=long_after)
    threads = [threading.Thread(target=lambda: found.append(list(listed))) for _ in range(4)]
    for thread in threads:
        thread.start()
    # And twice in turns.
    assert all(first == second for first, second in zip(listed, listed, strict=True))
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


def test_an_argument_that_the_cache_cannot_hold_is_listed_all_the_same(output: Path, tmp_path: Path) -> None:
    write(output / "recent/run", package(arguments={"max_records": 10**30}))
    for _ in range(2):
        assert entry(output, cache=tmp_path / "cache", clock=long_after).arguments == {"max_records": 10**30}


# Of a tree that changes at random.
NAMES = st.sampled_from(["a", "a-b", "b"])
PLACES = st.tuples(st.sampled_from(["recent", "live", "foreign"]), NAMES, st.sampled_from(["", *DAYS]))
CONTENTS: tuple[dict[str, Any], ...] = (
    package(),
    package("live"),
    package("live", days=DAYS),
    package("live", days=DAYS[:1]),
    package("live", day=DAYS[0]),
    package("live", day=DAYS[1], exit_code=None, complete=False, reason="killed"),
    package(format_version=3),
    package(arguments={"n": 10**30}),
    {},
)
STEPS = st.one_of(
    st.tuples(st.just("write"), PLACES, st.sampled_from(CONTENTS), st.booleans()),
    st.tuples(st.just("record"), PLACES, st.integers(0, 3)),
    st.tuples(st.just("unlink"), PLACES),
    st.tuples(st.just("remove"), PLACES),
    st.tuples(st.just("rename"), PLACES, PLACES),
    st.tuples(st.just("link"), PLACES, PLACES),
    st.tuples(st.just("damage"), st.floats(0, 1), st.binary(min_size=1, max_size=3)),
)


class Tree:
    """An output folder that changes, and the cache of what is in it."""

    def __init__(self, folder: Path) -> None:
        self.output, self.cache, self.step = folder / "output", folder / "cache", 0
        self.output.mkdir()

    def place(self, place: tuple[str, str, str]) -> Path:
        """Return a folder of the tree."""
        return self.output.joinpath(*filter(None, place))

    def do(self, what: str, *arguments: Any) -> None:
        """Change something; what cannot be done is left."""
        self.step += 1
        with suppress(OSError):
            getattr(self, what)(*arguments)

    def write(self, place: tuple[str, str, str], content: dict[str, Any], same_time: bool) -> None:
        """Write a data package that differs from all others, in size or in the time of change alone."""
        body = json.dumps(content | {"reason": str(self.step)}).encode().ljust(1_000 + self.step * same_time)
        os.utime(write(self.place(place), body), ns=(0, 0 if same_time else self.step))

    def record(self, place: tuple[str, str, str], size: int) -> None:
        """Write a file of records."""
        self.place(place).mkdir(parents=True, exist_ok=True)
        (self.place(place) / "live_channels.jsonl").write_bytes(b"\n" * size)

    def unlink(self, place: tuple[str, str, str]) -> None:
        """Remove a data package."""
        (self.place(place) / "datapackage.json").unlink()

    def remove(self, place: tuple[str, str, str]) -> None:
        """Remove a folder."""
        shutil.rmtree(self.place(place))

    def rename(self, place: tuple[str, str, str], other: tuple[str, str, str]) -> None:
        """Rename a folder, where the new name is free."""
        self.place(place).rename(self.place(other))

    def link(self, place: tuple[str, str, str], other: tuple[str, str, str]) -> None:
        """Make a link to a folder."""
        self.place(place).symlink_to(self.place(other))

    def damage(self, where: float, what: bytes) -> None:
        """Write anything somewhere into the cache."""
        body = bytearray(self.cache.read_bytes())
        position = int(where * len(body))
        body[position : position + len(what)] = what
        self.cache.write_bytes(body)

    def look(self) -> None:
        """List all, by the cache and without."""
        assert entries(self.output, self.cache, clock=long_after) == entries(self.output)


@given(st.lists(STEPS, min_size=5, max_size=30))
def test_what_was_noted_never_changes_what_is_listed(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder, patch.object(catalog, "_AT_ONCE", 2):
        tree = Tree(Path(folder))
        for step in steps:
            tree.do(*step)
            tree.look()
        tree.look()


@given(
    st.binary(max_size=300)
    | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists).map(
        lambda value: json.dumps(package(arguments=value, counts=value, days=value)).encode()
    )
)
def test_no_data_package_is_an_exception(body: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        write(output / "recent/run", body)
        assert len(entries(output, Path(folder) / "cache", clock=long_after)) >= 1
