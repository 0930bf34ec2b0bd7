"""Listening to channels that go live: none is missed and none is a duplicate, with any failure of the connection."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sqlite3
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import frictionless
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parti_scraper.api.build import Context
from parti_scraper.api.registry import LIVE_NOTIFICATIONS
from parti_scraper.mockserver import MockServer, Options
from parti_scraper.network.addresses import Addresses
from parti_scraper.spiders.notifications import SeenLately
from tests import forked
from tests.listening import STARTING, Listening, ended, heard_ids, live, settle, started
from tests.servers import closed_port
from tests.support import (
    QUIET,
    TIMEOUT,
    Run,
    RunningCrawl,
    Serve,
    check_books,
    environment_of,
    read_lines,
    requests,
    typed_of,
    wait_until,
)


def test_no_channel_is_missed_through_dropped_connections_and_failures(serve: Serve, output: Path) -> None:
    server = serve(**STARTING, ws_drop_every=20, ws_refused=0.3, rate_500=0.2)
    running = Listening(output, server)
    wait_until(lambda: live(server) <= heard_ids(output))
    while len(started(server)) < 100:
        before = len(started(server))
        while len(started(server)) == before:
            server.world.advance(1)
        # Some notifications are sent one by one, and some together.
        if before % 8 == 0:
            wait_until(lambda: started(server) <= heard_ids(output))
    wait_until(lambda: started(server) <= heard_ids(output))
    settle(server, running)
    assert running.stop(signal.SIGINT) == 0
    run = ended(output)
    assert run.package["complete"]
    assert {row["event_id"] for row in run.rows} >= started(server)
    assert {row["source"] for row in run.rows} == {"websocket", "live"}
    assert running.log.read_text(encoding="utf-8").count("WARNING: No connection to ws://127.0.0.1") == 1
    world = server.world
    truth = {each["event_id"]: each for each in world.notifications_between(world.started_at, world.now())}
    for row in run.rows:
        record = truth[row["event_id"]] if row["source"] == "websocket" else {}
        assert {name: row[name] for name in record} == record


def test_a_listener_that_was_killed_before_its_first_message_can_be_finished(serve: Serve, output: Path) -> None:
    running = Listening(output, serve(**STARTING, latency=60))
    ledger = output.with_name("state") / "ledger.sqlite"

    def has_checkpoint() -> bool:
        with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(ledger)) as connection:
            return connection.execute("SELECT 1 FROM run WHERE progress IS NOT NULL").fetchone() is not None
        return False

    wait_until(lambda: ledger.exists() and has_checkpoint())
    running.stop(signal.SIGKILL)
    server = serve(**STARTING)
    running = Listening(output, server)
    wait_until(lambda: live(server) <= heard_ids(output))
    settle(server, running)
    assert running.stop() == 0, running.stderr
    assert live(server) <= {row["event_id"] for row in ended(output).rows}


def test_a_killed_listener_resumes_without_duplicates(serve: Serve, output: Path) -> None:
    server = serve(**STARTING)
    for signal_number, code in ((signal.SIGKILL, -9), (signal.SIGKILL, -9), (signal.SIGTERM, 0)):
        before = len(requests(server, "/live"))
        running = Listening(output, server)
        # The live route is requested after the subscription.
        wait_until(lambda: len(requests(server, "/live")) > before)  # noqa: B023 - called at once
        server.world.advance(60)
        wait_until(lambda: started(server) | live(server) <= heard_ids(output))
        settle(server, running)
        assert running.stop(signal_number) == code
    assert ended(output).package["complete"]


@pytest.mark.parametrize("moment", range(3, 9))
def test_a_line_that_could_be_read_is_never_removed(serve: Serve, output: Path, tmp_path: Path, moment: int) -> None:
    server = serve(**STARTING)
    arguments = ["notifications", "-a", "run_id=run", *QUIET]
    # The second crash happens during the recovery from the first.
    for crash_at in (moment, moment % 4 + 1):
        process = forked.crawl(arguments, environment_of(output, server), tmp_path / "log", crash_at=crash_at)
        while process.is_alive():
            server.world.advance(1)
            process.join(0.05)
        assert process.exitcode == -signal.SIGKILL
        seen = heard_ids(output)
        # What is no longer on air cannot be fetched again.
        server.world.advance(7_200)
    running = Listening(output, server)
    wait_until(lambda: live(server) <= heard_ids(output))
    settle(server, running)
    assert running.stop() == 0
    assert seen <= {row["event_id"] for row in ended(output).rows}


def test_an_invalid_notification_is_set_aside_and_the_live_route_has_the_channel(serve: Serve, output: Path) -> None:
    server = serve(**STARTING, ws_malformed=0.3)
    running = Listening(output, server, "-s", "PARTI_WS_IDLE_TIMEOUT=3", "-s", "PARTI_MAX_REJECTED=1")
    wait_until(lambda: live(server) <= heard_ids(output))
    folder = output / "notifications/run"
    kinds = ("not a JSON object", "event_id: missing")

    def set_aside() -> str:
        return "".join(path.read_text(encoding="utf-8") for path in folder.glob("*/quarantine.jsonl"))

    while not all(kind in set_aside() for kind in kinds):
        server.world.advance(6)
        time.sleep(0.01)
    wait_until(lambda: live(server) <= heard_ids(output))
    # Or it may be stopped while it connects again, or after the live route has told of what was unheard: a line that
    # keeps silent of channels is not believed until it was asked again.
    wait_until(lambda: re.findall(r"route added (\d+)", running.log.read_text(encoding="utf-8"))[-1:] == ["0"])
    settle(server, running)
    assert running.stop(signal.SIGTERM) == 0, running.stderr
    run = ended(output)
    malformed = [each for each in server.notifications if each.malformed]
    assert 0 < len(run.quarantine) <= len(malformed)


def test_a_silent_connection_is_opened_again_without_a_warning(serve: Serve, output: Path) -> None:
    server = serve(**STARTING)
    running = Listening(output, server, "-s", "PARTI_WS_IDLE_TIMEOUT=0.3s")
    # Each new connection requests again who is live.
    wait_until(lambda: len(server.requests) > 16)
    assert running.stop() == 0
    assert running.stderr.startswith("notifications run: complete: ")


def stand_still_before_midnight(over: Path) -> None:
    """Let the clock of this process stand a second before a midnight until a file is there, and then go on."""
    moment, went_on = (time.time() // 86_400 + 1) * 86_400 - 1, list[float]()

    def clock() -> float:
        if not went_on and over.exists():
            went_on.append(time.monotonic())
        return moment + (time.monotonic() - went_on[0] if went_on else 0)

    time.time = clock


def test_each_day_has_a_folder_of_its_own_that_is_described_once_it_is_over(
    serve: Serve, output: Path, tmp_path: Path
) -> None:
    server, over = serve(**STARTING), tmp_path / "over"
    arguments = ["notifications", "-a", "run_id=run", *QUIET]
    before = partial(stand_still_before_midnight, over)
    process = forked.crawl(arguments, environment_of(output, server), tmp_path / "log", before=before)
    wait_until(lambda: live(server) <= heard_ids(output))
    over.touch()
    folder = output / "notifications/run"
    while not list(folder.glob("*/datapackage.json")):
        server.world.advance(3)
        wait_until(lambda: started(server) <= heard_ids(output))
    server.world.advance(3)
    wait_until(lambda: started(server) <= heard_ids(output))
    assert not (folder / "datapackage.json").exists()
    process.terminate()
    process.join()
    assert process.exitcode == 0, (tmp_path / "log").read_text(encoding="utf-8")
    run = ended(output)
    assert sorted(path.name for path in folder.iterdir()) == [*run.package["days"], "datapackage.json"]
    assert len(run.package["days"]) == 2
    for day in run.package["days"]:
        package = json.loads((folder / day / "datapackage.json").read_text(encoding="utf-8"))
        rows = read_lines(folder / day / "live_notifications.jsonl")
        assert {row["received_at"][:10] for row in rows} == {day} == {package["day"]}
        assert package["counts"]["written"] == len(rows) == package["resources"][0]["rows"]
        assert package["complete"]
        (stretch,) = package["listened"]
        assert package["started_at"] <= stretch["from"] <= stretch["to"] <= package["ended_at"]
        assert frictionless.validate(str(folder / day / "datapackage.json")).valid
    assert [each["path"] for each in run.package["resources"]] == [
        f"{day}/live_notifications.{form}" for day in run.package["days"] for form in ("jsonl", "csv")
    ]
    assert frictionless.validate(str(folder / "datapackage.json")).valid
    check_books(run)


def test_a_feed_elsewhere_continues_through_midnight_and_each_day_is_described(
    serve: Serve, output: Path, tmp_path: Path
) -> None:
    server, over = serve(**STARTING), tmp_path / "over"
    feed = tmp_path / "mine.jsonl"
    arguments = ["notifications", "-a", "run_id=run", "-O", str(feed), *QUIET]
    before = partial(stand_still_before_midnight, over)
    process = forked.crawl(arguments, environment_of(output, server), tmp_path / "log", before=before)
    folder = output / "notifications/run"
    wait_until(lambda: live(server) <= {row["event_id"] for row in whole_lines(feed)})
    over.touch()
    wait_until(lambda: bool(list(folder.glob("*/datapackage.json"))))
    while len({row["received_at"][:10] for row in whole_lines(feed)}) < 2:
        server.world.advance(3)
        wait_until(lambda: started(server) <= {row["event_id"] for row in whole_lines(feed)})
    process.terminate()
    process.join()
    assert process.exitcode == 0, (tmp_path / "log").read_text(encoding="utf-8")
    run = ended(output)
    rows = read_lines(feed)
    assert len({row["event_id"] for row in rows}) == len(rows) == run.package["counts"]["written"]
    assert [each["path"] for each in run.package["resources"]] == [str(feed)]
    by_day = Counter(row["received_at"][:10] for row in rows)
    assert len(by_day) == 2
    for day, number in by_day.items():
        package = json.loads((folder / day / "datapackage.json").read_text(encoding="utf-8"))
        assert package["resources"] == []
        assert package["counts"]["written"] == number


def whole_lines(path: Path) -> list[Any]:
    """Return the records of a file that is being written; the last line may be incomplete."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def test_listening_continues_without_the_http_routes(serve: Serve, output: Path) -> None:
    server = serve(**STARTING, gone=True)
    running = Listening(output, server, "-s", "PARTI_RETRY_PATIENCE=0.1")
    wait_until(lambda: len(requests(server, "/live")) > 0)
    server.world.advance(30)
    wait_until(lambda: started(server) <= heard_ids(output))
    assert running.stop() == 4
    assert "`category_id` is unknown" in running.stderr
    assert "channels that went live without a notification may be missing" in running.stderr
    assert all(row["category_id"] is None for row in ended(output).rows)


def test_received_notifications_are_never_deleted(serve: Serve, output: Path, tmp_path: Path, crawl: Run) -> None:
    server = serve(**STARTING)
    running = Listening(output, server)
    wait_until(lambda: live(server) <= heard_ids(output))
    running.stop(signal.SIGKILL)
    (path,) = (output / "notifications/run").glob("*/*.jsonl")
    before = path.read_bytes()
    for options, env in (
        (("-o", f"{tmp_path}/mine.jsonl"), {}),
        ((), {"PARTI_STATE_DIR": str(tmp_path / "other")}),
    ):
        run = crawl("notifications", *QUIET, *options, server=server, env=env)
        assert run.code == 2
        assert run.stderr.startswith("argument `run_id`: its folder holds records that cannot be fetched again")
        assert path.read_bytes() == before


def unheard(output: Path, server: MockServer, **options: Any) -> dict[str, Any]:
    """Stop a run that cannot connect, and return its data package."""
    running = Listening(output, server, **options)
    wait_until(lambda: "No connection to ws://127.0.0.1" in running.log.read_text(encoding="utf-8"))
    assert running.stop(signal.SIGTERM) == 4
    package: dict[str, Any] = ended(output).package
    assert package["complete"] is False
    return package


def test_a_run_that_never_listened_is_not_complete(serve: Serve, output: Path) -> None:
    package = unheard(output, serve(**STARTING, ws_refused=1.0))
    assert re.search(r"could not connect to ws://\S+: HTTP (429|503) in answer", package["reason"])


def test_it_listens_before_it_has_the_categories_and_stops_in_time(serve: Serve, output: Path) -> None:
    api, server = serve(**STARTING, latency=600), serve(**STARTING)
    env = environment_of(output, api, {"PARTI_WS_URL": server.ws_url})
    options = (*QUIET, "-s", "DOWNLOAD_TIMEOUT=2")
    running = RunningCrawl(typed_of("notifications", "run", {"duration": "15s"}, options), env)
    wait_until(lambda: len(server.requests) > 0)
    while not heard_ids(output):
        server.world.advance(3)
        time.sleep(0.05)
    _, stderr = running.process.communicate(timeout=TIMEOUT)
    assert running.process.returncode == 4
    # It did not continue until they were given up.
    assert "the categories did not come in time, so `category_id` is unknown" in stderr
    assert "could not be fetched" not in stderr
    assert heard_ids(output) <= started(server)


def test_it_stops_after_max_records_and_after_the_duration(serve: Serve, crawl: Run) -> None:
    server = serve(**STARTING)
    run = crawl("notifications", server=server, max_records=25)
    assert (run.code, len(run.rows), run.package["truncated"]) == (0, 25, True)
    run = crawl("notifications", server=server, run_id="short", duration="10s")
    assert run.code == 0
    assert {row["event_id"] for row in run.rows} == live(server)


def test_it_waits_for_a_server_that_starts_later(serve: Serve, output: Path) -> None:
    api, port = serve(**STARTING), int(closed_port().rpartition(":")[2])
    running = Listening(output, api, env={"PARTI_WS_URL": f"ws://127.0.0.1:{port}/"})
    wait_until(lambda: len(api.requests) >= 2)
    with MockServer(Options(**STARTING), port=port) as server:
        wait_until(lambda: live(api) <= heard_ids(output))
        server.world.advance(30)
        wait_until(lambda: started(server) <= heard_ids(output))
        settle(server, running)
        assert running.stop() == 0


def test_a_refused_connection_is_named_in_plain_words(serve: Serve, output: Path) -> None:
    url = closed_port().replace("http", "ws") + "/"
    package = unheard(output, serve(**STARTING), env={"PARTI_WS_URL": url})
    assert f"could not connect to {url}: connection refused" in package["reason"]
    assert "Cannot connect" not in package["reason"]


# --- The parts ---------------------------------------------------------------------------------------------


@given(st.text(max_size=40))
def test_whatever_a_message_is_it_is_an_item_or_set_aside_whole(text: str) -> None:
    page = LIVE_NOTIFICATIONS.normalize_message(text, "ws://host/", Context("2026-01-01T00:00:00Z", offset=7))
    assert (page.served, len(page.items) + len(page.rejected)) == (1, 1)
    for rejected in page.rejected:
        assert (rejected.position, rejected.url) == (7, "ws://host/")


def test_a_message_becomes_an_item_without_its_secrets() -> None:
    message = {"event_id": "12", "user_id": 3, "livestream_id": 9, "playback_auth_token": "t0p", "new": 1}
    page = LIVE_NOTIFICATIONS.normalize_message(json.dumps(message), "ws://host/", Context("2026-01-01T00:00:00Z"))
    (item,) = page.items
    assert (item.event_id, item.user_id, item.livestream_id, item.source) == (12, 3, 9, "websocket")
    assert item.extra == {"new": 1}
    assert page.unknown_fields == {"new": 1}


def test_waits_grow_until_a_connection_was_good() -> None:
    addresses = Addresses(("wss://host/",), 0.5, now=0)

    def wait(random: float = 1.0, *, was_useful: bool = False) -> float:
        return addresses.next_wait(0, random, "closed", was_useful=was_useful)

    assert [wait() for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 32, 32]
    addresses.asked_to_wait(20)
    assert (wait(random=0.0), wait()) == (20, 32)
    assert (wait(was_useful=True), wait()) == (0.5, 1)
    addresses.heard(is_new=False)
    assert wait() == 2
    addresses.heard(is_new=True)
    assert wait() == 0.5


def test_only_recent_notifications_are_remembered() -> None:
    seen = SeenLately(3600)
    seen.add(1)
    assert 1 in seen
    assert 2 not in seen
    short = SeenLately(0)
    for number in range(1_000):
        short.add(number)
        time.sleep(0)
    assert len(short) < 1_000
