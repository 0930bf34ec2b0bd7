"""Folders of Parquet in an object store: nothing can be locked there, and yet nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import obstore
import pytest
from obstore.store import S3Store

from parti_scraper.dataset import export
from parti_scraper.dataset.engine import TargetError
from parti_scraper.dataset.selection import Selection
from parti_scraper.dataset.targets import object_store as targets
from tests import forked
from tests.collecting import bring, differences
from tests.dataset_truth import TABLES, Truth
from tests.folders import PACKAGE, check_names, check_package, check_published, make_run_of, make_runs
from tests.made_runs import category, live_channel, livestream, make_run, notification
from tests.object_store import SECRET, ObjectStore
from tests.racing import race
from tests.store_proxy import Answer, Asked, StoreProxy
from tests.support import environment_of, run_to_its_end

PREFIX = "data sets/parti"
KILLS = 4
ROUNDS = 2
# What is enough where it does not matter which tables there are.
SOME = ("livestream_versions", "livestreams")


class Place:
    """A place in a store, as a user knows it.

    Attributes:
        url: its address.
        environment: what a process needs to reach it.
    """

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self.url = f"{store.url}/{PREFIX}/"
        self.environment = store.environment
        self._folder = folder
        self._store = S3Store(
            store.bucket,
            prefix=PREFIX,
            endpoint=store.environment["AWS_ENDPOINT_URL"],
            access_key_id=store.environment["AWS_ACCESS_KEY_ID"],
            secret_access_key=SECRET,
            client_options={"allow_http": True},
        )

    def names(self) -> set[str]:
        return {each["path"] for some in obstore.list(self._store) for each in some}

    def read(self, name: str) -> bytes:
        return bytes(obstore.get(self._store, name).bytes())

    def put(self, name: str, content: bytes) -> None:
        obstore.put(self._store, name, content)

    def differences(self, *outputs: Path, tables: Iterable[str] = TABLES) -> list[str]:
        """Compare tables of a copy of the place with the truth."""
        copy = self._folder / "copy"
        for name in self.names():
            path = copy / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.read(name))
        return differences(copy, Truth().see(*outputs).tables(), tables)

    def check(self) -> None:
        """Compare all that is there with the data package."""
        check_package(self.read)
        check_names(self.names(), self.read)
        check_published(self.read)


@pytest.fixture
def place(object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Return an empty place, which this process can reach."""
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    # Otherwise files are kept for an hour.
    monkeypatch.setattr(targets, "GRACE", timedelta())
    return Place(object_store, tmp_path)


@pytest.fixture
def proxy(place: Place, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreProxy]:
    """Return a proxy, through which everything goes that the project asks of the store."""
    with StoreProxy(s3_server) as proxy:
        place.environment["AWS_ENDPOINT_URL"] = proxy.url
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def bring_all(output: Path, place: Place) -> Callable[..., Any]:
    """Return a function that exports everything into the place, or some tables, and checks what is there then."""

    def bring_all(*tables: str) -> Any:
        report = bring(place.url, [output], output.with_name("state"), selection=Selection(tables=tables or None))
        place.check()
        return report

    return bring_all


def scrapy_export(place: Place, output: Path, *typed: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `scrapy export` into a place; its output shows no secret."""
    environment = environment_of(output, None, place.environment | env)
    environment = {name: value for name, value in environment.items() if value}
    process = run_to_its_end(["export", *(typed or (place.url,))], environment)
    assert SECRET not in process.stdout + process.stderr
    assert "Traceback" not in process.stderr
    return process


def is_manifest(asked: Asked) -> bool:
    return asked.method == "PUT" and asked.path.endswith(PACKAGE)


# --- What is there -----------------------------------------------------------------------------------------------


def test_exports_in_steps_are_the_truth(output: Path, place: Place, bring_all: Callable[..., Any]) -> None:
    for number in range(2):
        make_run_of(output, number)
        make_run(output, "live", f"run-{number}", [live_channel(number)])
        bring_all()
    make_run(output, "live", "run-0", [live_channel(7)])
    bring_all()
    assert bring_all().tables == {}
    assert place.differences(output) == []


def test_the_command_says_what_it_does_and_leaves_nothing_on_the_disk(output: Path, place: Place) -> None:
    make_runs(output, 0, 2)
    process = scrapy_export(place, output)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith(f"{place.url}: 2 files read, of parti.com\n")
    assert list((output.with_name("state") / "export").iterdir()) == []
    assert scrapy_export(place, output).stdout == f"{place.url}: nothing is new\n"
    place.check()


def test_only_what_changes_is_sent_and_only_what_may_have_the_same_keys_is_fetched(
    output: Path, proxy: StoreProxy, bring_all: Callable[..., Any]
) -> None:
    for number, month in enumerate(("2026-08", "2026-09", "2026-10")):
        rows = [livestream(number * 10 + each, event_end=f"{month}-05T00:00:00Z") for each in range(10)]
        make_run(output, "recent", month, rows)
    bring_all(*SOME)
    changed = livestream(15, event_end="2026-09-05T00:00:00Z", total_viewers=1, scraped_at="2026-11-27T00:00:00Z")
    # In the months that it has looked at, livestreams may be missing.
    window = {"since": "2026-09-01T00:00:00Z", "until": "2026-09-30T23:59:59Z"}
    make_run(output, "recent", "new", [changed], window=window)
    proxy.asked.clear()
    bring_all()
    of_livestreams = [
        (each.method, each.path.split("/livestreams/")[-1][:17]) for each in proxy.asked if "/livestreams/" in each.path
    ]
    assert of_livestreams == [
        ("GET", "_versions/2026-09"),
        ("PUT", "_versions/2026-09"),
        ("PUT", "month=2026-09/liv"),
    ]


def test_what_was_replaced_goes_with_the_export_after_next_and_after_an_hour(
    output: Path, place: Place, bring_all: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        make_run_of(output, number)
        bring_all(*SOME)
    monkeypatch.setattr(targets, "GRACE", timedelta(hours=1))
    before = place.names()
    for number in range(3, 5):
        make_run_of(output, number)
        bring(place.url, [output], output.with_name("state"))
    assert before <= place.names()
    check_package(place.read)


# --- Others at the same time -------------------------------------------------------------------------------------


def test_of_two_exporters_that_race_each_brings_all_of_its_runs(place: Place, tmp_path: Path) -> None:
    outputs = [tmp_path / f"output-{number}" for number in range(2)]
    # The last run of the one is in the other too.
    race(place.url, outputs, (0, ROUNDS - 1), ROUNDS, SOME)
    check_package(place.read)
    check_published(place.read)
    assert place.differences(*outputs, tables=SOME) == []
    # What was put in vain goes too.
    make_run(outputs[0], "recent", "last", [livestream(99)])
    bring(place.url, [outputs[0]], tmp_path / "state")
    place.check()
    assert place.differences(*outputs, tables=SOME) == []


def test_an_export_that_was_overtaken_begins_again(
    output: Path, tmp_path: Path, place: Place, proxy: StoreProxy, bring_all: Callable[..., Any]
) -> None:
    other = tmp_path / "other"
    make_runs(output, 0, 2)
    make_runs(other, 2, 2)
    overtaking = iter([lambda: bring(place.url, [other], tmp_path / "other-state")])

    def overtake(asked: Asked) -> None:
        if is_manifest(asked) and (act := next(overtaking, None)):
            act()

    proxy.before = overtake
    bring_all()
    assert place.differences(output, other) == []


def test_an_export_that_was_overtaken_by_one_of_the_same_and_more_leaves_no_part_half_published(
    output: Path, tmp_path: Path, place: Place, proxy: StoreProxy, bring_all: Callable[..., Any]
) -> None:
    both = tmp_path / "both"
    make_runs(output, 0, 2)
    make_runs(both, 0, 4)
    overtaking = iter([lambda: bring(place.url, [both], tmp_path / "other-state")])

    def overtake(asked: Asked) -> None:
        # Its files are published, and then this export publishes some of them.
        if asked.method == "PUT" and "/month=" in asked.path and (act := next(overtaking, None)):
            act()

    proxy.before = overtake
    assert bring_all().tables == {}
    assert place.differences(both) == []


def test_an_export_that_is_overtaken_each_time_says_so(
    output: Path, place: Place, proxy: StoreProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_ATTEMPTS", 3)
    make_run_of(output, 0)
    proxy.before = lambda asked: (
        Answer(412, b"<Error><Code>PreconditionFailed</Code></Error>") if is_manifest(asked) else None
    )
    with pytest.raises(TargetError) as caught:
        bring(place.url, [output], output.with_name("state"), selection=Selection(tables=("livestreams",)))
    assert str(caught.value) == f"{place.url}: another export has changed it; run it again"
    assert len([each for each in proxy.asked if is_manifest(each)]) == 3


def test_a_data_package_whose_answer_is_lost_is_not_taken_for_that_of_another(
    output: Path, place: Place, proxy: StoreProxy, bring_all: Callable[..., Any]
) -> None:
    make_run_of(output, 0)
    lost = iter([Answer(0)])
    proxy.after = lambda asked: next(lost, None) if is_manifest(asked) else None
    bring_all()
    assert len([each for each in proxy.asked if is_manifest(each)]) == 2
    assert place.differences(output) == []


def test_a_store_that_does_not_honour_conditions_is_told_of_once(output: Path, place: Place, proxy: StoreProxy) -> None:
    proxy.keeps_conditions = False
    make_run_of(output, 0)
    process = scrapy_export(place, output)
    warning = "this store does not honour conditional writes: of two exports into it at the same time, one may be lost"
    assert (process.returncode, process.stderr) == (0, f"{place.url}: {warning}\n")
    make_run_of(output, 1)
    assert scrapy_export(place, output).returncode == 0
    check_package(place.read)
    assert not {name for name in place.names() if name.startswith(".")}
    assert place.differences(output) == []


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_killed_export_is_finished_by_the_next(
    output: Path, tmp_path: Path, place: Place, proxy: StoreProxy, bring_all: Callable[..., Any], seed: int
) -> None:
    make_runs(output, 0, 2)
    if seed % 2:
        bring_all()
        make_runs(output, 2, 2)
        make_run(output, "notifications", "run", [notification(1)])
    proxy.asked.clear()
    last, is_passed_on = Random(seed).randrange(2, 25), seed % 3 > 0

    def kill(asked: Asked) -> Answer | None:
        if not asked.writes or sum(each.writes for each in proxy.asked) != last:
            return None
        os.kill(process.pid or 0, signal.SIGKILL)
        return Answer(0)

    proxy.before, proxy.after = (lambda _: None, kill) if is_passed_on else (kill, lambda _: None)
    environment = environment_of(output, None, place.environment)
    process = forked.command(["export", place.url], environment, tmp_path / "log")
    process.join()
    assert process.exitcode == -signal.SIGKILL
    if PACKAGE in place.names():
        check_package(place.read)
    proxy.before = proxy.after = lambda _: None
    make_run(output, "categories", "run", [category(1)])
    bring_all()
    assert place.differences(output) == []


# --- Refused -----------------------------------------------------------------------------------------------------


def test_a_place_that_holds_something_else_is_refused(output: Path, place: Place) -> None:
    place.put("theses/mine.docx", b"mine")
    process = scrapy_export(place, output)
    accepted = "(accepted: a new or empty place, or an earlier export)"
    assert process.returncode == 2
    assert process.stderr == f"scrapy export: argument `TARGET`: it holds 'theses': '{place.url}' {accepted}\n"
    assert place.names() == {"theses/mine.docx"}


DENIED = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>%s</Code><Message>No. %s</Message>'
    b"<AWSAccessKeyId>tester</AWSAccessKeyId><StringToSign>AWS4 %s</StringToSign></Error>"
)


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"])
def test_wrong_keys_are_one_line(output: Path, place: Place, proxy: StoreProxy, code: str) -> None:
    secret = SECRET.encode()
    proxy.before = lambda _: Answer(403, DENIED % (code.encode(), secret, secret))
    process = scrapy_export(place, output)
    credentials = "credentials: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY in the environment"
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr == f"scrapy export: {place.url}: access denied ({code}; {credentials})\n"


def test_a_store_that_fails_in_the_middle_is_one_line_and_leaves_what_was_there(
    output: Path, place: Place, proxy: StoreProxy, bring_all: Callable[..., Any]
) -> None:
    make_run_of(output, 0)
    bring_all()
    before = place.read(PACKAGE)
    make_run_of(output, 1)
    proxy.before = lambda asked: Answer(403, DENIED % (b"AccessDenied", b"", b"")) if asked.writes else None
    process = scrapy_export(place, output)
    assert (process.returncode, process.stderr.count("\n")) == (1, 1)
    assert "access denied (AccessDenied" in process.stderr
    assert place.read(PACKAGE) == before
    check_package(place.read)


@pytest.mark.parametrize(
    ("env", "typed", "code", "problem"),
    [
        ({}, "s3://no-such-bucket/data/", 1, "s3://no-such-bucket/data/: there is no such bucket"),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
            "s3://bucket/data/",
            1,
            "s3://bucket/data/: http://127.0.0.1:1 cannot be reached",
        ),
        (
            {"AWS_ENDPOINT_URL": f"https://me:{SECRET}@s3.example.com"},
            "s3://bucket/data/",
            2,
            (
                "setting `AWS_ENDPOINT_URL`: not the address of a store: 'https://s3.example.com' "
                "(accepted: such as https://s3.example.com)"
            ),
        ),
        (
            {"AWS_ENDPOINT_URL": "not an address"},
            "s3://bucket/data/",
            2,
            (
                "setting `AWS_ENDPOINT_URL`: not the address of a store: 'not an address' "
                "(accepted: such as https://s3.example.com)"
            ),
        ),
        (
            {"AWS_SECRET_ACCESS_KEY": ""},
            "s3://bucket/data/",
            1,
            "s3://bucket/data/: no credentials (accepted: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY in the environment)",
        ),
        ({}, "s3://", 2, "argument `TARGET`: not a place: 's3://' (accepted: such as s3://BUCKET/PREFIX/)"),
        (
            {},
            "s3://bucket/data/../",
            2,
            "argument `TARGET`: not a place: 's3://bucket/data/../' (accepted: such as s3://BUCKET/PREFIX/)",
        ),
        (
            {},
            f"s3://me:{SECRET}@bucket/data/",
            2,
            "argument `TARGET`: not a place: 's3://bucket/data/' (accepted: such as s3://BUCKET/PREFIX/)",
        ),
        (
            {},
            "az://container/data/",
            1,
            (
                "az://container/data/: no credentials "
                "(accepted: AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY in the environment)"
            ),
        ),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line(
    output: Path, place: Place, env: dict[str, str], typed: str, code: int, problem: str
) -> None:
    process = scrapy_export(place, output, typed, **env)
    assert (process.returncode, process.stdout, process.stderr) == (code, "", f"scrapy export: {problem}\n")
