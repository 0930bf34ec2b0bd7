"""Of what is wrong people are told once, reminded daily, and told when all is well again; nothing harms a crawl."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scrapy.settings import Settings

from parti_scraper.exceptions import UsageError
from parti_scraper.operations import alerting
from parti_scraper.operations.alerting import FILE_NAME, alert, alert_failure
from parti_scraper.operations.alerts import HOLD, REMIND_AFTER, Kind, Message, Told, decide, seen, told_from
from parti_scraper.operations.findings import Finding
from parti_scraper.operations.messages import plain, text_of
from parti_scraper.operations.sending import addresses_of
from parti_scraper.redact import Secret
from tests.servers import closed_port
from tests.support import ROOT
from tests.watchers import Watcher, watching

NOW = 1_790_000_000.0
HOUR, DAY = 3_600.0, 86_400.0
SECRET = "HIDDENWORD"


def finding(rule: str = "failed", subject: str = "recent", **parts: Any) -> Finding:
    """Return a finding."""
    usual: dict[str, Any] = {"text": f"{subject} has {rule}", "since": NOW - 60}
    return Finding(rule, subject, **usual | parts)


LATE, FAILED, INCOMPLETE = finding("late"), finding("failed"), finding("incomplete")
LIVE, DISK, UNSENT = finding("failed", "live"), finding("disk", "disk"), finding("alerts", "alerts")


def play(*steps: tuple[float, Sequence[Finding]], told: Told | None = None) -> list[tuple[float, Message]]:
    """Return the messages, with the hours at which they were sent, where these findings are looked at."""
    told, sent = told or Told(), []
    for hours, findings in steps:
        message, told = decide(told, findings, NOW + hours * HOUR)
        if message:
            sent.append((hours, message))
    return sent


def kinds(*steps: tuple[float, Sequence[Finding]]) -> list[tuple[float, str]]:
    """Return when which kind of message is sent."""
    return [(hours, message.kind.value) for hours, message in play(*steps)]


# --- When something is told ------------------------------------------------------------------------------------


def test_nothing_is_told_of_a_healthy_collection() -> None:
    assert kinds((0, []), (24, []), (48, [])) == []


def test_a_trouble_is_told_at_once_and_once_however_many_runs_fail() -> None:
    assert kinds((0, [FAILED]), (1, [FAILED, LATE]), (2, [LATE]), (3, [INCOMPLETE]), (23.9, [FAILED])) == [(0, "worse")]


def test_it_is_told_again_a_day_after_the_last_message_with_all_that_is_wrong() -> None:
    sent = play((0, [FAILED]), (2, [FAILED, LIVE]), (25.9, [FAILED, LIVE]), (26, [FAILED, LIVE]), (27, [FAILED, LIVE]))
    assert [(hours, message.kind) for hours, message in sent] == [(0, "worse"), (2, "worse"), (26, "reminder")]
    assert sent[-1][1].still == [FAILED, LIVE]


def test_what_else_fails_within_the_hour_waits_until_it_is_over_and_is_told_together() -> None:
    other = finding("failed", "categories")
    steps = ((0, [FAILED]), (0.2, [FAILED, LIVE]), (0.9, [FAILED, LIVE, other]), (1, [FAILED, LIVE, other]))
    sent = play(*steps, (2, [FAILED, LIVE, other]))
    assert [hours for hours, _ in sent] == [0, 1]
    assert (sent[1][1].new, sent[1][1].still) == ([LIVE, other], [FAILED])


def test_what_is_gone_before_its_hour_is_over_is_never_told() -> None:
    assert kinds((0, [FAILED]), (0.5, [FAILED, LIVE]), (1.5, [FAILED])) == [(0, "worse")]


def test_another_group_of_the_same_subject_is_another_trouble() -> None:
    assert kinds((0, [FAILED]), (2, [FAILED, finding("degraded")])) == [(0, "worse"), (2, "worse")]
    assert kinds((0, [FAILED]), (2, [FAILED, finding("a rule of later")])) == [(0, "worse")]


def test_a_spider_and_a_series_of_its_runs_are_one_trouble_and_two_series_are_two() -> None:
    hourly, of_user = finding("incomplete", "recent incremental=true"), finding("incomplete", "recent user_id=5")
    assert kinds((0, [hourly]), (2, [hourly, LATE])) == [(0, "worse")]
    assert kinds((0, [LATE]), (2, [hourly, LATE])) == [(0, "worse")]
    assert kinds((0, [hourly]), (2, [hourly, of_user])) == [(0, "worse"), (2, "worse")]
    assert kinds((0, [hourly]), (2, [hourly, finding("late", "recently")])) == [(0, "worse"), (2, "worse")]
    # It is told as soon as what it was a part of is gone.
    assert kinds((0, [hourly]), (2, [hourly, LATE]), (3, [LATE]), (4, [])) == [
        (0, "worse"),
        (3, "worse"),
        (4, "all clear"),
    ]


def test_all_is_well_is_told_once_and_says_what_was_wrong_and_for_how_long() -> None:
    sent = play((0, [FAILED]), (2, [FAILED, DISK]), (3, [DISK]), (4, []), (5, []), (30, []))
    assert [(hours, message.kind) for hours, message in sent] == [(0, "worse"), (2, "worse"), (4, "all clear")]
    over = {each.subject: (each.gone or 0) - each.since for each in sent[-1][1].over}
    assert over == {"recent": 3 * HOUR + 60, "disk": 4 * HOUR + 60}


def test_that_all_is_well_is_told_also_within_the_hour() -> None:
    assert kinds((0, [FAILED]), (0.1, [])) == [(0, "worse"), (0.1, "all clear")]


def test_what_begins_after_an_all_clear_is_told_at_once() -> None:
    steps = (0, [FAILED]), (0.1, []), (0.2, [FAILED]), (0.3, [FAILED])
    assert kinds(*steps) == [(0, "worse"), (0.1, "all clear"), (0.2, "worse")]


def test_what_comes_back_within_an_hour_never_went_away_and_after_it_is_told_again() -> None:
    flapping = [(2 + 0.5 * number, [DISK] if number % 2 else [DISK, FAILED]) for number in range(9)]
    assert kinds((0, [DISK, FAILED]), *flapping) == [(0, "worse")]
    assert kinds((0, [DISK, FAILED]), (2, [DISK]), (3.1, [DISK, FAILED])) == [(0, "worse"), (3.1, "worse")]


def test_that_alerts_fail_is_listed_but_is_no_reason_to_send_one() -> None:
    assert kinds((0, [UNSENT]), (30, [UNSENT])) == []
    ((_, message), (_, last)) = play((0, [FAILED, UNSENT]), (1, [UNSENT]))
    assert (message.new, message.still) == ([FAILED], [UNSENT])
    assert last.kind is Kind.ALL_CLEAR


@pytest.mark.parametrize("hours", [-5, -100, 5_000])
def test_a_clock_that_is_set_neither_silences_nor_multiplies_messages(hours: float) -> None:
    steps = [(hours + number / 2, [FAILED, LIVE]) for number in range(40)]
    assert [kind for _, kind in kinds((0, [FAILED]), *steps)] in (["worse", "worse"], ["worse", "worse", "reminder"])


def test_older_findings_than_those_that_were_looked_at_are_passed_over() -> None:
    assert kinds((0, []), (-0.01, [FAILED])) == []


def test_what_could_not_be_sent_is_still_to_be_told() -> None:
    message, _ = decide(Told(), [FAILED], NOW)
    assert message
    again, after = decide(seen(Told(), [FAILED], NOW), [FAILED], NOW + 60)
    assert again
    assert again.new == [FAILED]
    # The all-clear too.
    unsent = seen(after, [], NOW + 120)
    assert [message.kind for _, message in play((1, []), (2, []), told=unsent)] == ["all clear"]


rules = st.sampled_from(["late", "failed", "incomplete", "degraded", "fields", "disk", "alerts", "new"])
findings_of_a_moment = st.lists(st.builds(finding, rules, st.sampled_from(["recent", "live", "site"])), max_size=4)
steps_of_hours = st.lists(st.tuples(st.floats(0.01, 30), findings_of_a_moment, st.booleans()), max_size=40)


@given(steps_of_hours)
def test_nothing_is_lost_nothing_told_twice_and_there_is_one_all_clear(
    steps: list[tuple[float, list[Finding], bool]],
) -> None:
    told, now, kinds_sent, last_worse = Told(), NOW, [], -HOLD
    for hours, findings, arrives in steps:
        now += hours * HOUR
        message, after = decide(told, findings, now)
        wrong = {each.subject for each in findings if each.rule != "alerts"}
        known = {each.subject for each in told.troubles}
        told = after if arrives or not message else seen(told, findings, now)
        if message and arrives:
            kinds_sent.append(message.kind)
            assert {each.subject for each in [*message.new, *message.still]} >= wrong
            if message.kind is Kind.WORSE:
                assert now - last_worse >= HOLD
                last_worse = now
            assert (message.kind is Kind.ALL_CLEAR) == (not wrong)
            assert not wrong or {each.subject for each in told.troubles if each.gone is None} == wrong
        elif not message and wrong - known:
            assert told.messaged is not None
            assert now - told.messaged < HOLD
        assert told_from(json.loads(json.dumps(told.as_json()))) == told
    # Whoever hears that all is well has heard that something was wrong before, and not again.
    told_so_far = "".join("c" if kind is Kind.ALL_CLEAR else "w" for kind in kinds_sent)
    assert not re.search("^c|cc", told_so_far)


@given(st.floats(0.02, 3), st.integers(1, 400))
def test_an_incident_makes_two_messages_a_reminder_a_day_and_an_all_clear(between: float, evaluations: int) -> None:
    stopped = [FAILED, LIVE, finding("failed", "categories")]
    steps = [(between * number, stopped[: number + 1]) for number in range(evaluations)]
    sent = [kind for _, kind in kinds(*steps, (between * evaluations, []))]
    days = between * evaluations * HOUR / REMIND_AFTER
    assert sent.count("worse") <= (2 if 2 * between <= 1 else 3)
    assert sent.count("reminder") <= days
    assert (sent[-1], sent.count("all clear")) == ("all clear", 1)


# --- What is told ------------------------------------------------------------------------------------------------


def test_a_message_has_a_line_for_each_finding_with_since_when_and_what_helps() -> None:
    new = [finding("late", text="recent: no good run for 3h", command="scrapy crawl recent"), DISK]
    title, body = text_of(Message(Kind.WORSE, NOW, new, [LIVE]), "collector")
    assert title == "parti_scraper on collector: 3 problems"
    assert body.splitlines() == [
        "- recent: no good run for 3h (since 2026-09-21 14:12 UTC): scrapy crawl recent",
        "- disk has disk (since 2026-09-21 14:12 UTC)",
        "",
        "Still wrong:",
        "- live has failed (since 2026-09-21 14:12 UTC)",
    ]


def test_many_findings_are_counted_and_not_all_listed() -> None:
    many = [finding("failed", f"recent user_id={number}") for number in range(50)]
    title, body = text_of(Message(Kind.REMINDER, NOW, (), many), "host")
    assert title == "parti_scraper on host: still 50 problems"
    assert body.splitlines()[-1] == "- and 38 more: scrapy health lists them"
    assert len(body) < 2_000


@pytest.mark.parametrize(
    "text",
    [
        "@everyone",
        "@channel @here",
        "<!channel> <@U123>",
        "[click](https://evil.example/)",
        "https://evil.example",
        "www.evil.example",
        "evil.com",
        "a\nb\x1b[31m\u202e",
        "<b>bold</b>",
        "tg://user?id=1",
    ],
)
def test_hostile_text_calls_nobody_and_makes_no_link(text: str) -> None:
    _, body = text_of(Message(Kind.WORSE, NOW, [finding(text=f"recent: {text}", command=f"scrapy {text}")]), "host")
    assert body.isprintable()
    assert not set("@<>") & set(body)
    assert "://" not in plain(text)
    assert "](" not in plain(text)
    assert not re.search(r"evil\.|example\.", plain(text))


def test_files_and_numbers_stay_as_they_are() -> None:
    text = "2.5 of 3.0 GB at /srv/parti/datapackage.json"
    assert plain(text) == text


# --- To whom ----------------------------------------------------------------------------------------------------


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    """Return a server that is told."""
    with watching() as watcher:
        yield watcher


def settings_of(folder: Path, *addresses: str) -> Settings:
    """Return settings whose state is in a folder."""
    secret = Secret(" ".join(addresses))
    return Settings({"PARTI_ALERT_URLS": secret, "PARTI_STATE_DIR": str(folder), "PARTI_HOME": ""})


def test_an_alert_is_sent_as_plain_text_and_noted(watcher: Watcher, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, f"json://user:{SECRET}@{watcher.host}/{SECRET}")
    for hours in (0, 1, 2):
        alert(settings, [FAILED], NOW + hours * HOUR)
    alert(settings, [], NOW + 3 * HOUR)
    first, last = watcher.messages
    assert "recent has failed" in first["message"]
    assert "all is well again" in last["title"]
    state = tmp_path / FILE_NAME
    assert state.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if SECRET.encode() in path.read_bytes()] == []
    assert alert_failure(settings, NOW) is None


def test_without_addresses_nothing_is_done(tmp_path: Path) -> None:
    alert(settings_of(tmp_path / "state"), [FAILED], NOW)
    assert not (tmp_path / "state").exists()


def test_addresses_that_were_typed_are_refused(tmp_path: Path) -> None:
    settings = Settings({"PARTI_ALERT_URLS": f"json://{SECRET}", "PARTI_STATE_DIR": str(tmp_path)})
    with pytest.raises(UsageError, match="not to be typed") as refused:
        alert(settings, [FAILED], NOW)
    assert SECRET not in str(refused.value)


def test_addresses_are_separated_as_apprise_does_and_what_is_none_is_counted() -> None:
    text = "json://a/x, json://b?to=a@b.c,d@e.f\n junk slack://t/a/b, "
    assert addresses_of(f"junk,{text}") == [
        "junk",
        "json://a/x",
        "json://b?to=a@b.c,d@e.f",
        "junk",
        "slack://t/a/b",
    ]
    assert addresses_of("junk") == ["junk"]


def test_where_some_addresses_fail_it_counts_as_told_and_they_are_named_by_number(
    watcher: Watcher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead = closed_port().removeprefix("http://")
    addresses = f"json://{dead}/{SECRET}", f"json://{watcher.host}/", f"nope://{SECRET}"
    settings = settings_of(tmp_path, *addresses)
    with caplog.at_level(logging.DEBUG):
        alert(settings, [FAILED], NOW)
        alert(settings, [FAILED], NOW + 60)
    assert len(watcher.told) == 1
    problem = "2 of 3 addresses in PARTI_ALERT_URLS failed: number 1, 3"
    assert [each.message for each in caplog.records if each.levelno > logging.DEBUG] == [
        f"An alert could not be sent to everyone: {problem}"
    ]
    assert alert_failure(settings, NOW + 60) == (NOW, problem)
    # Until the next try nothing is known of it, and nobody is unhealthy for ever.
    assert alert_failure(settings, NOW + 2 * DAY) is None


def test_where_all_fail_it_is_tried_again_until_it_arrives(
    watcher: Watcher, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(tmp_path, f"json://{watcher.host}/{SECRET}")
    watcher.status = 500
    for minutes in (0, 5):
        alert(settings, [FAILED], NOW + minutes * 60)
        assert alert_failure(settings, NOW + minutes * 60) == (NOW, "1 of 1 address in PARTI_ALERT_URLS failed")
    watcher.status = 200
    alert(settings, [FAILED], NOW + 600)
    alert(settings, [FAILED], NOW + 900)
    assert len(watcher.told) == 3
    assert alert_failure(settings, NOW + 900) is None
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize("address", ["macosx://", "gnome://", "dbus://", "file:///etc/passwd", "exec://ls", SECRET])
def test_addresses_that_do_something_on_this_machine_fail(tmp_path: Path, address: str) -> None:
    settings = settings_of(tmp_path, address)
    alert(settings, [FAILED], NOW)
    assert alert_failure(settings, NOW) == (NOW, "1 of 1 address in PARTI_ALERT_URLS failed")


def test_a_server_that_never_answers_is_left_after_the_limit_and_the_others_are_told(
    watcher: Watcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Enough for the others on a busy machine.
    monkeypatch.setattr(alerting, "TIME_LIMIT", 8.0)
    with watching() as hanging:
        hanging.status = 0
        settings = settings_of(tmp_path, f"json://{hanging.host}/?rto=120", f"json://{watcher.host}/")
        began = time.monotonic()
        alert(settings, [FAILED], NOW)
        assert time.monotonic() - began < 60
    assert len(watcher.told) == 1
    assert alert_failure(settings, NOW) == (NOW, "1 of 2 addresses in PARTI_ALERT_URLS failed: number 1")


def test_without_apprise_a_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "apprise.utils.parse", None)
    settings = settings_of(tmp_path, "json://localhost")
    alert(settings, [FAILED], NOW)
    assert 'pip install "parti_scraper[operations]"' in caplog.text
    failure = alert_failure(settings, NOW)
    assert failure
    assert "apprise is not installed" in failure[1]


# --- What was told ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b"\xff", b'{"format": 1, "troubles": [[1]]}'])
def test_a_damaged_state_is_as_if_nothing_was_told(watcher: Watcher, tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    settings = settings_of(tmp_path, f"json://{watcher.host}/")
    assert alert_failure(settings, NOW) is None
    alert(settings, [FAILED], NOW)
    alert(settings, [FAILED], NOW)
    assert len(watcher.told) == 1


def test_a_state_of_a_later_version_is_left_alone(
    watcher: Watcher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    later = b'{"format": 2, "other": true}'
    (tmp_path / FILE_NAME).write_bytes(later)
    settings = settings_of(tmp_path, f"json://{watcher.host}/")
    alert(settings, [FAILED], NOW)
    assert (tmp_path / FILE_NAME).read_bytes() == later
    assert watcher.told == []
    assert "is of a later version" in caplog.text
    assert alert_failure(settings, NOW) is None


def test_where_the_disk_is_full_it_is_told_once_all_the_same(watcher: Watcher, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, f"json://{watcher.host}/")
    alert(settings, [], NOW)
    # As if no file could get another byte.
    script = f"""
import errno, os
from pathlib import Path
from scrapy.settings import Settings
from parti_scraper.operations.alerting import alert
from parti_scraper.operations.findings import Finding
from parti_scraper.redact import Secret
def full(handle):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
os.fsync = full
settings = Settings({{"PARTI_ALERT_URLS": Secret("json://{watcher.host}/"), "PARTI_STATE_DIR": {str(tmp_path)!r}}})
for minutes in (1, 2):
    alert(settings, [Finding("disk", "disk", "full", {NOW})], {NOW} + minutes * 60)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)
    assert len(watcher.told) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alerts.json", "alerts.lock"]


def test_a_folder_that_cannot_be_written_is_a_warning(
    watcher: Watcher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    alert(settings_of(tmp_path / "file" / "state", f"json://{watcher.host}/"), [FAILED], NOW)
    assert "Nobody is told of problems" in caplog.text


def test_two_processes_at_once_send_once(watcher: Watcher, tmp_path: Path) -> None:
    script = f"""
import sys
from scrapy.settings import Settings
from parti_scraper.operations.alerting import alert
from parti_scraper.operations.findings import Finding
from parti_scraper.redact import Secret
settings = Settings({{"PARTI_ALERT_URLS": Secret("json://{watcher.host}/"), "PARTI_STATE_DIR": {str(tmp_path)!r}}})
print(flush=True)
sys.stdin.readline()
alert(settings, [Finding("failed", "recent", "failed", {NOW})], {NOW})
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout
        process.stdout.readline()
    for process in processes:
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(watcher.told) == 1


def test_a_failure_is_since_its_first() -> None:
    told = Told().with_failure("wrong", NOW).with_failure("still wrong", NOW + HOUR)
    assert told.failure
    assert (told.failure.since, told.failure.last, told.failure.text) == (NOW, NOW + HOUR, "still wrong")
    assert replace(told).with_failure(None, NOW).failure is None
