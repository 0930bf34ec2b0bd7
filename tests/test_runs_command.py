"""`scrapy runs`: what the last runs did, whatever became of them."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from parti_scraper.api.times import iso_to_timestamp, timestamp_to_iso
from parti_scraper.operations.history import past_run
from parti_scraper.run.catalog import Catalog
from tests.made_runs import category, live_channel, livestream, make_run
from tests.support import STILL, Run, RunningCrawl, Scrapy, Serve, environment_of, wait_until


def columns(scrapy: Scrapy, *typed: str) -> list[list[str]]:
    """Return the cells of each line that is printed, but for the head's; two spaces separate them."""
    run = scrapy("runs", *typed)
    assert (run.returncode, run.stderr) == (0, "")
    return [line.split() for line in run.stdout.splitlines()[1:]]


def test_without_runs_it_says_so(scrapy: Scrapy) -> None:
    run = scrapy("runs")
    assert (run.returncode, run.stdout, run.stderr) == (0, "no runs\n", "")
    assert json.loads(scrapy("runs", "--json").stdout) == []


def test_runs_are_listed_with_what_each_did(crawl: Run, scrapy: Scrapy, serve: Serve) -> None:
    server = serve(**STILL | {"live": 3})
    assert crawl("categories", server=server, run_id="all").code == 0
    assert crawl("recent", server=server, run_id="some", max_records=7).code == 0
    assert crawl("recent", server=server, run_id="first", incremental="true", since="2026-11-01").code == 0
    assert crawl("recent", server=server, run_id="wrong", sort="upwards").code == 2
    assert crawl("live", server=server, run_id="often", interval=0.2, duration=1).code == 0
    assert crawl("recent", "-s", "CLOSESPIDER_PAGECOUNT=1", server=server, run_id="cut", limit=5).code == 3
    found = {run["run_id"]: run for run in json.loads(scrapy("runs", "--json").stdout)}
    assert {name: (run["state"], run["exit_code"]) for name, run in found.items()} == {
        "cut": ("stopped", 3),
        "often": ("ended", 0),
        "wrong": ("not started", 2),
        "first": ("ended", 0),
        "some": ("ended", 0),
        "all": ("ended", 0),
    }
    assert found["some"]["truncated"]
    assert found["some"]["counts"]["written"] == 7
    assert found["wrong"]["reason"].startswith("argument `sort`: ")
    assert found["often"]["days"]
    assert found["often"]["source"] == "mock"
    lines = columns(scrapy)
    assert [line[1] for line in lines] == list(found)
    some, first = (next(line for line in lines if line[1] == name) for name in ("some", "first"))
    # Without new and changed, which only incremental runs count.
    assert some[5:] == ["0", "7", "0", "complete,", "cut", "at", "max_records"]
    new = found["first"]["counts"]["new"]
    assert first[5:] == ["0", f"{new:,}", f"{new:,}", "0", "0", "complete"]
    assert {line[1] for line in columns(scrapy, "recent")} == {"some", "first", "wrong", "cut"}


def test_runs_that_go_on_or_were_killed_are_listed(scrapy: Scrapy, serve: Serve, output: Path) -> None:
    server = serve(**STILL | {"live": 3})
    going = RunningCrawl(["crawl", "live", "-a", "interval=0.1", "-a", "run_id=going"], environment_of(output, server))
    try:
        wait_until(lambda: any(output.glob("live/going/*/live_channels.jsonl")))
        line = columns(scrapy)[0]
        assert (line[:2], line[-1]) == (["live", "going"], "running")
    finally:
        going.stop(signal.SIGKILL)
    (run,) = json.loads(scrapy("runs", "--json").stdout)
    assert (run["state"], run["exit_code"], run["ended_at"]) == ("killed", None, None)
    assert columns(scrapy)[0][-1] == "killed"


def test_of_many_runs_those_that_began_last_are_listed_in_any_order_of_names(scrapy: Scrapy, output: Path) -> None:
    for number in range(30):
        name = f"run-{number * 7 % 30:02}"
        make_run(output, "recent", name, [livestream(number)], started_at=timestamp_to_iso(1_790_000_000 + number))
    names = [run["run_id"] for run in json.loads(scrapy("runs", "--json").stdout)]
    assert names == [f"run-{number * 7 % 30:02}" for number in range(29, 9, -1)]


def test_damaged_and_foreign_folders_break_nothing(scrapy: Scrapy, output: Path) -> None:
    (make_run(output, "categories", "broken", [category(1)]) / "datapackage.json").write_text("{", encoding="utf-8")
    (output / "notes").mkdir()
    (output / "live").mkdir()
    (output / "live" / "a file").touch()
    (line,) = columns(scrapy)
    assert line[:3] == ["categories", "broken", "unreadable:"]


def test_a_usage_error_is_one_line(scrapy: Scrapy) -> None:
    for typed, expected in [
        (["recnt"], "unknown spider: 'recnt' (accepted: categories, live, notifications, recent, scheduled, site); "),
        (["recent", "live"], "unknown argument: 'live' (accepted: see scrapy runs --help)"),
        (["--last", "none"], "option `--last`: not a whole number above 0: 'none' (accepted: such as 20)"),
        (["--last", "0"], "option `--last`: not a whole number above 0: '0' (accepted: such as 20)"),
        (["--lats", "3"], "unknown option: '--lats' (accepted: --last, --json); did you mean `--last`?"),
    ]:
        run = scrapy("runs", *typed)
        assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
        assert run.stderr.startswith(f"scrapy runs: {expected}")


def test_a_day_that_is_not_complete_was_good_until_its_last_complete_snapshot(output: Path) -> None:
    snapshots = [
        {"snapshot_id": "a", "started_at": f"2026-11-27T22:0{minute}:00Z", "ended_at": f"2026-11-27T22:0{minute}:01Z"}
        | {"channels": 1, "complete": minute != 9}
        for minute in (1, 5, 9)
    ]
    gaps = {"complete": False, "reason": "a snapshot failed", "snapshots": snapshots}
    times = {"started_at": "2026-11-27T21:00:00Z", "ended_at": "2026-11-28T00:00:00Z"}
    make_run(output, "live", "run", [live_channel(1)], day="2026-11-27", **times, **gaps)
    (output / "live" / "run" / "datapackage.json").unlink()
    own, day = Catalog([output])
    assert past_run(own, [day]).good_until == iso_to_timestamp("2026-11-27T22:05:01Z")
