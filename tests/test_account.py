"""What a run says of itself: fields that have vanished, what is new, and why records were set aside."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.ledger.ledger import Ledger
from parti_scraper.mockserver import MockServer
from parti_scraper.run.catalog import Catalog
from parti_scraper.run.days import day_from
from parti_scraper.run.entries import Entry, Status
from parti_scraper.run.reasons import MAX_REASONS, Reasons
from parti_scraper.run.sealing import LEFT_AFTER, seal
from tests import forked
from tests.listening import Listening, ended, heard_ids, live, settle
from tests.support import STILL, Crawl, Run, Serve, environment_of, wait_until

# So many seconds from now, whatever is not at work was left.
LATER = 2 * LEFT_AFTER
MANY: dict[str, Any] = {**STILL, "events": 600, "page_cap": 25}
EAGER = ["recent", "-a", "run_id=run", "--loglevel", "WARNING"]


def crash_and_log(output: Path, server: MockServer, log: Path, moment: int) -> str:
    """Run a crawl that is killed at a moment, see `forked.Trouble`; return its log. At 0 it runs to its end."""
    process = forked.crawl(EAGER, environment_of(output, server), log, crash_at=moment, eager=True)
    process.join()
    assert (process.exitcode == 0) is (moment == 0)
    return log.read_text(encoding="utf-8")


def entries(output: Path) -> list[Entry]:
    """Return what the catalog has."""
    with closing(Ledger(output.with_name("state"))) as ledger:
        return list(Catalog([output], ledger=ledger))


def told(stderr: str) -> Counter[str]:
    """Return how many records the summary says were set aside, by reason."""
    found = re.findall(r"^ +([\d,]+)  set aside: (.*)$", stderr, re.MULTILINE)
    return Counter({reason: int(number.replace(",", "")) for number, reason in found})


def set_aside(run: Crawl) -> Counter[str]:
    """Return how many records are in the files of those set aside, by reason."""
    return Counter(row["reason"] for row in run.quarantine)


# --- Fields that have vanished ---------------------------------------------------------------------------------


def test_a_field_that_no_record_has_any_more_is_in_the_data_package(crawl: Run, serve: Serve) -> None:
    assert crawl("recent", server=serve(**STILL), run_id="whole").package["vanished_fields"] == []
    run = crawl("recent", server=serve(**STILL, absent="social_media,avatar_link"))
    assert (run.code, run.package["vanished_fields"]) == (0, ["avatar_link", "social_media"])


def test_a_field_that_vanished_is_in_the_data_packages_of_days_and_of_the_run(
    crawl: Run, serve: Serve, output: Path
) -> None:
    server = serve(**STILL, absent="avatar_link")
    run = crawl("live", server=server, interval=0.1, duration=0.15)
    assert run.package["vanished_fields"] == ["avatar_link"]
    days = [run.folder / day / "datapackage.json" for day in run.package["days"]]
    assert {tuple(json.loads(day.read_text(encoding="utf-8"))["vanished_fields"]) for day in days} == {("avatar_link",)}
    assert {each.vanished_fields for each in entries(output)} == {("avatar_link",)}


def test_a_field_that_vanished_is_known_of_a_run_that_was_killed_before_and_after_it_is_sealed(
    serve: Serve, output: Path, tmp_path: Path
) -> None:
    crash_and_log(output, serve(**MANY, absent="avatar_link"), tmp_path / "log", 8)
    (unfinished,) = entries(output)
    assert (unfinished.status, unfinished.vanished_fields) == (Status.UNFINISHED, ("avatar_link",))
    with closing(Ledger(output.with_name("state"))) as ledger:
        assert seal(ledger, None, time.time() + LATER)
    (sealed,) = entries(output)
    assert (sealed.status, sealed.vanished_fields) == (Status.SEALED, ("avatar_link",))


def test_a_day_that_comes_again_remembers_which_fields_had_vanished() -> None:
    described = {
        "day": "2026-11-27",
        "started_at": "2026-11-27T12:00:00Z",
        "ended_at": "2026-11-27T12:00:01Z",
        "counts": {"served": 30, "written": 30, "quarantined": 0},
        "unknown_fields": {},
        "unreadable_fields": {},
        "vanished_fields": ["avatar_link"],
        "complete": True,
        "degraded": [],
    }
    assert day_from(described, ()).quality.vanished() == ["avatar_link"]


# --- What is new -----------------------------------------------------------------------------------------------


def test_a_field_that_the_run_before_did_not_have_is_named_once_as_new(crawl: Run, serve: Serve) -> None:
    assert "new: " not in crawl("recent", server=serve(**STILL), run_id="first").stderr
    server = serve(**STILL, drift="field", unreadable="social_media")
    second = crawl("recent", server=server, run_id="second")
    found = "field `stream_quality` in 300 records, field `social_media` unreadable in 300 records"
    assert f"\n  new: {found}; not so in the run first\n" in second.stderr
    third = crawl("recent", server=server, run_id="third")
    assert "new: " not in third.stderr
    assert "  unknown fields: stream_quality (300)\n" in third.stderr


def test_a_run_is_not_compared_with_one_that_saw_too_little_or_did_not_end_well(crawl: Run, serve: Serve) -> None:
    server = serve(**STILL, drift="field")
    assert crawl("recent", server=server, run_id="known").code == 0
    few = {"since": "2026-10-31T23:59:59Z", "until": "2026-10-31T23:59:59Z"}
    assert crawl("recent", server=serve(**STILL), run_id="empty", **few).code == 0
    assert crawl("recent", "-s", "PARTI_RETRY_PATIENCE=0.1", server=serve(**STILL, gone=True), run_id="gone").code == 4
    assert "new: " not in crawl("recent", server=server, run_id="last").stderr


def test_without_a_run_before_the_fields_are_listed_and_none_is_called_new(crawl: Run, serve: Serve) -> None:
    run = crawl("recent", server=serve(**STILL, drift="field"))
    assert "  unknown fields: stream_quality (300)\n" in run.stderr
    assert "new: " not in run.stderr


# --- Why records were set aside --------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([f"reason {number}" for number in range(2 * MAX_REASONS)])), st.integers(0, 9))
def test_each_reason_that_is_counted_is_counted_right_also_by_a_run_that_resumes(
    given_reasons: list[str], resumed_at: int
) -> None:
    reasons = Reasons()
    for number, reason in enumerate(given_reasons):
        if number == resumed_at:
            noted = json.loads(json.dumps(reasons.as_json()))
            reasons = Reasons()
            reasons.restore(noted)
        assert reasons.add(reason) is (reason not in given_reasons[:number] and is_counted(reason, given_reasons))
    expected = {each: given_reasons.count(each) for each in given_reasons if is_counted(each, given_reasons)}
    assert reasons.as_json() == expected
    assert Counter(dict(reasons.most_common(5))) <= Counter(expected)


def is_counted(reason: str, reasons: Iterable[str]) -> bool:
    """Return whether a reason is among the first so many."""
    return reason in list(dict.fromkeys(reasons))[:MAX_REASONS]


def test_reasons_without_number_do_not_fill_the_memory() -> None:
    reasons = Reasons()
    for number in range(3 * MAX_REASONS):
        reasons.add(f"reason {number}")
        reasons.add("reason 0")
    assert len(reasons.as_json()) == MAX_REASONS
    assert reasons.most_common(1) == [("reason 0", 3 * MAX_REASONS + 1)]


def test_the_summary_of_a_run_that_was_killed_counts_the_reasons_of_all_its_sessions(
    serve: Serve, output: Path, tmp_path: Path
) -> None:
    server = serve(**MANY, malformed=0.04)
    crash_and_log(output, server, tmp_path / "first", 8)
    assert not (output / "recent/run/datapackage.json").exists()
    assert (output / "recent/run/quarantine.jsonl").exists()
    log = crash_and_log(output, server, tmp_path / "second", 0)
    run = Crawl(0, "", "", output, "recent", "run")
    assert told(log) == Counter(dict(set_aside(run).most_common(5)))
    assert sum(told(log).values()) > 5


def test_a_listener_that_was_killed_counts_the_reasons_that_it_had_not_noted(serve: Serve, output: Path) -> None:
    server = serve(now="2026-11-01T00:00:00Z", speed=0, live=20, ws_malformed=0.5)
    running = Listening(output, server)
    wait_until(lambda: live(server) <= heard_ids(output))
    running.process.kill()
    running.process.wait()
    # As if it had been killed between a record and the checkpoint after it.
    day = max((output / "notifications/run").glob("20*"))
    with (day / "quarantine.jsonl").open("a", encoding="utf-8") as lines:
        lines.write('{"reason": "made up", "url": "", "position": 0, "record": null}\n')
    again = Listening(output, server)
    settle(server, again)
    again.stop()
    run = ended(output)
    assert told(again.stderr) == Counter(dict(set_aside(run).most_common(5)))
    assert told(again.stderr)["made up"] == 1
