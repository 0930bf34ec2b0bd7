"""The project as an egg in a real scrapyd: deployed with the real client, jobs against the mock server.

One scrapyd, with the configuration of `deploy/` and a password, serves all tests of this file.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from parti_scraper.mockserver import MockServer
from tests.servers import closed_port
from tests.support import (
    ROOT,
    STILL,
    TIMEOUT,
    Crawl,
    Run,
    Serve,
    check_books,
    has_records,
    hold,
    ids,
    requests,
    truth,
    wait_until,
)

pytestmark = pytest.mark.xdist_group("scrapyd")

PROJECT = "parti_scraper"
DEPLOY = ROOT / "deploy"
USER, PASSWORD = "deployer", "p%40 $HOME:s3cret"
SPIDERS = ("categories", "live", "notifications", "recent", "scheduled")
# In scrapyd's log.
ENDED = r"(?:finished:|died: exitstatus=(\d+))"
# A run of many pages, so that it can be stopped half-way.
MANY: dict[str, Any] = {**STILL, "events": 1_200, "page_cap": 20}


class Scrapyd:
    """A scrapyd as set up by `deploy/`, on a free port, and requests to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "scrapyd"
        self.home = folder / "home"
        self.log = folder / "scrapyd.log"
        self.output = self.home / "parti_scraper" / "output"
        for each in (self.folder, self.home):
            each.mkdir()
        self.url = closed_port()
        shutil.copy(DEPLOY / "scrapyd.conf", self.folder)
        (self.home / ".scrapyd.conf").write_text("[scrapyd]\npoll_interval = 0.05\n", encoding="utf-8")
        (self.home / ".scrapy.cfg").write_text(f"[deploy:test]\nurl = {self.url}/\n", encoding="utf-8")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PARTI_", "SCRAPY"))}
        self.environment = kept | {
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home),
            "SCRAPYD_USERNAME": USER,
            "SCRAPYD_PASSWORD": PASSWORD,
            "SCRAPYD_HTTP_PORT": self.url.rpartition(":")[2],
            "SCRAPYD_URL": self.url,
            "no_proxy": "127.0.0.1",
        }
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("scrapyd"), "--pidfile="],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(self.is_up)

    def stop(self) -> None:
        """Stop only scrapyd: jobs continue."""
        self.process.terminate()
        self.process.wait(TIMEOUT)

    def is_up(self) -> bool:
        """Return whether it answers."""
        assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
        try:
            return bool(self.ask("daemonstatus")["status"] == "ok")
        except urllib.error.URLError:
            return False

    def ask(self, name: str, password: str = PASSWORD, **query: str) -> Any:
        """Return the answer to a GET."""
        return self._answer(f"{name}.json?{urlencode(query)}", None, password)

    def tell(self, name: str, **fields: Any) -> Any:
        """Return the answer to a POST about the project."""
        body = urlencode({"project": PROJECT, **fields}, doseq=True).encode()
        return self._answer(f"{name}.json", body, PASSWORD)

    def _answer(self, path: str, body: bytes | None, password: str) -> Any:
        user = base64.b64encode(f"{USER}:{password}".encode()).decode()
        request = urllib.request.Request(f"{self.url}/{path}", body, {"Authorization": f"Basic {user}"})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            return json.load(response)

    def begin(self, spider: str, server: MockServer, job: str, *settings: str, **arguments: str) -> None:
        """Schedule a job and wait until it has started."""
        begun = self.happened("started:", job)
        given = (f"PARTI_API_BASE_URLS={server.base_url}", f"PARTI_WS_URL={server.ws_url}", *settings)
        answer = self.tell("schedule", spider=spider, jobid=job, setting=given, **arguments)
        assert answer == {"status": "ok", "jobid": job, "node_name": answer["node_name"]}
        wait_until(lambda: len(self.happened("started:", job)) > len(begun))

    def end(self, spider: str, job: str) -> Crawl:
        """Wait until a job has ended, and return its exit code, which is in scrapyd's log too."""
        # An id that is scheduled again is always listed as finished, so the test reads scrapyd's log.
        wait_until(lambda: len(self.happened(ENDED, job)) == len(self.happened("started:", job)))
        wait_until(lambda: not self.is_running(job))
        assert self.ask("status", job=job)["currstate"] == "finished"
        log = (self.folder / "logs" / PROJECT / spider / f"{job}.log").read_text(encoding="utf-8")
        (last,) = re.findall(r"Exit code (\d): ", log)[-1:]
        assert self.happened(ENDED, job)[-1] == last.strip("0"), log
        crawl = Crawl(int(last), "", log, self.output, spider, job)
        check_books(crawl)
        return crawl

    def happened(self, what: str, job: str) -> list[str]:
        """Return what scrapyd's own log says of a job's processes."""
        return re.findall(rf"Process {what} .*job='{job}'", self.log.read_text(encoding="utf-8"))

    def is_running(self, job: str) -> bool:
        """Return whether a job is in the list of running jobs."""
        return job in {each["id"] for each in self.ask("listjobs", project=PROJECT)["running"]}

    def run(self, spider: str, server: MockServer, job: str, *settings: str, **arguments: str) -> Crawl:
        """Run a job to its end."""
        self.begin(spider, server, job, *settings, **arguments)
        return self.end(spider, job)

    def versions(self) -> list[str]:
        """Return the versions that are deployed, the newest last."""
        return list(self.ask("listversions", project=PROJECT)["versions"])

    def deploy(self, project: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        """Deploy a project."""
        return self._call([sys.executable, project / "tools" / "deploy.py", "test"], environment)

    def schedule(self, *typed: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `deploy/schedule`."""
        return self._call([DEPLOY / "schedule", *typed], environment)

    def _call(self, command: list[Any], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.environment | environment,
            capture_output=True,
            encoding="utf-8",
            timeout=TIMEOUT,
            check=False,
        )


@pytest.fixture(scope="module")
def scrapyd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scrapyd]:
    """Return a scrapyd with the project deployed."""
    scrapyd = Scrapyd(tmp_path_factory.mktemp("deployment"))
    try:
        deployed = scrapyd.deploy()
        assert deployed.returncode == 0, deployed.stderr
        assert deployed.stdout.startswith(f"deploy: version {scrapyd.versions()[-1]}, ")
        yield scrapyd
    finally:
        for job in scrapyd.ask("listjobs")["running"]:
            os.kill(job["pid"], signal.SIGKILL)
        scrapyd.stop()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the project that may be changed."""
    project = tmp_path / "project"
    shutil.copytree(ROOT / "parti_scraper", project / "parti_scraper", ignore=shutil.ignore_patterns("__pycache__"))
    (project / "tools").mkdir()
    for name in ("pyproject.toml", "scrapy.cfg", "README.md", "LICENSE", "tools/deploy.py"):
        shutil.copy(ROOT / name, project / name)
    return project


def test_the_egg_is_the_package_and_works_without_being_unpacked(scrapyd: Scrapyd) -> None:
    (egg,) = (scrapyd.folder / "eggs" / PROJECT).glob(f"{scrapyd.versions()[0]}.egg")
    names = {name for name in zipfile.ZipFile(egg).namelist() if "__pycache__" not in name}
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / PROJECT).rglob("*.*") if path.suffix != ".pyc"}
    assert {name for name in names if not name.startswith("EGG-INFO/")} == package
    read = "import parti_scraper.mockserver.app as m; print(m.files(m.__package__).joinpath('page.html').read_text())"
    page = subprocess.run(
        [sys.executable, "-c", read],
        cwd=scrapyd.folder,
        env=scrapyd.environment | {"PYTHONPATH": str(egg)},
        capture_output=True,
        check=True,
    )
    assert page.stdout.startswith(b"<!")
    assert set(SPIDERS) <= set(scrapyd.ask("listspiders", project=PROJECT)["spiders"])


def test_each_spider_writes_its_files_in_one_place_and_a_readable_log(scrapyd: Scrapyd, serve: Serve) -> None:
    server = serve(**STILL)
    arguments = {"recent": {"categories": "7"}, "live": {"max_records": "30"}, "notifications": {"max_records": "20"}}
    for spider in SPIDERS:
        scrapyd.begin(spider, server, f"job-{spider}", "LOG_LEVEL=WARNING", **arguments.get(spider, {}))
    runs = {spider: scrapyd.end(spider, f"job-{spider}") for spider in SPIDERS}
    for spider, run in runs.items():
        assert (run.code, run.package["complete"], run.package["run_id"]) == (0, True, f"job-{spider}"), run.stderr
        assert run.package["arguments"].keys() == arguments.get(spider, {}).keys()
        assert len(run.csv_rows) == len(run.rows) > 0
        # The summary is there at every log level, with absolute paths.
        assert f"INFO: {spider} job-{spider}: complete" in run.stderr
        assert str(run.folder) in run.stderr
        assert "\r" not in run.stderr
    assert [row["category_id"] for row in runs["categories"].rows] == [
        category["category_id"] for category in server.world.categories()
    ]
    gaming = {record["event_id"] for record in truth(server) if record["category_name"] == "Gaming"}
    assert set(ids(runs["recent"].rows)) == gaming
    assert len(runs["live"].rows) == 30
    assert {row["source"] for row in runs["notifications"].rows} == {"live"}
    # In scrapyd's own folder there is nothing of them but their logs.
    assert sorted(path.name for path in scrapyd.folder.iterdir()) == ["dbs", "eggs", "logs", "scrapyd.conf"]
    assert {path.name for path in (scrapyd.home / "parti_scraper").iterdir()} == {"output", ".scrapy"}


def test_relative_folders_are_in_parti_home(scrapyd: Scrapyd, serve: Serve, tmp_path: Path, crawl: Run) -> None:
    server = serve(**STILL)
    home = tmp_path / "home"
    run = scrapyd.run("categories", server, "at-home", f"PARTI_HOME={home}", "PARTI_OUTPUT_DIR=data")
    assert run.code == 0, run.stderr
    assert (home / "data/categories/at-home/datapackage.json").exists()
    assert (home / ".scrapy/parti/ledger.sqlite").exists()
    # An absolute folder for state is not changed.
    assert crawl("categories", server=server, env={"PARTI_HOME": str(home), "PARTI_OUTPUT_DIR": "typed"}).code == 0
    assert (home / "typed/categories/run/datapackage.json").exists()
    wrong = crawl("categories", server=server, env={"PARTI_HOME": "parti"})
    accepted = "(accepted: an absolute path such as /srv/parti)"
    assert wrong.stderr == f"setting `PARTI_HOME`: not an absolute path: 'parti' {accepted}\n"


def test_a_cancelled_job_can_be_finished_under_the_same_id(scrapyd: Scrapyd, serve: Serve) -> None:
    server = serve(**MANY)
    reached = hold(server, 25, "/recent")
    scrapyd.begin("recent", server, "cancelled", categories="NaN")
    wait_until(reached.is_set)
    assert scrapyd.tell("cancel", job="cancelled")["prevstate"] == "running"
    log = scrapyd.folder / "logs" / PROJECT / "recent" / "cancelled.log"
    wait_until(lambda: "shutting down gracefully" in log.read_text(encoding="utf-8"))
    server.held = None
    stopped = scrapyd.end("recent", "cancelled")
    assert stopped.code == 3
    assert "to finish it: schedule recent again with jobid=cancelled" in stopped.stderr
    assert not (stopped.folder / "datapackage.json").exists()
    assert 0 < len(stopped.rows) < MANY["events"]
    again = scrapyd.run("recent", server, "cancelled")
    assert again.code == 0, again.stderr
    assert again.package["arguments"] == {"categories": ["NaN"]}
    assert sorted(ids(again.rows)) == sorted(record["event_id"] for record in truth(server))
    assert [int(row["event_id"]) for row in again.csv_rows] == ids(again.rows)
    assert re.search(r"The run cancelled resumes after [1-9][\d,]* records?", again.stderr)
    # A third time there is nothing to do, and the log says so.
    assert "finished before; nothing was requested" in scrapyd.run("recent", server, "cancelled").stderr


def test_a_job_outlives_its_version_and_scrapyd(scrapyd: Scrapyd, serve: Serve, copy: Path) -> None:
    (first,) = scrapyd.versions()
    settings = copy / "parti_scraper" / "settings.py"
    settings.write_text(settings.read_text("utf-8").replace('BOT_NAME = "parti_scraper"', 'BOT_NAME = "second"'))
    assert scrapyd.deploy(copy).returncode == 0
    assert len(scrapyd.versions()) == 2
    server = serve(**STILL)
    scrapyd.begin("live", server, "old", _version=first, interval="0.3")
    assert "(bot: second)" in scrapyd.run("categories", server, "new").stderr
    before = len(server.requests)
    wait_until(lambda: len(server.requests) >= before + 2)
    assert scrapyd.tell("delversion", version=first)["status"] == "ok"
    assert scrapyd.tell("schedule", spider="live", _version=first)["message"] == f"version '{first}' not found"
    jobs = scrapyd.ask("listjobs", project=PROJECT)
    assert [job["id"] for job in jobs["running"]] == ["old"]
    assert "new" in {job["id"] for job in jobs["finished"]}
    scrapyd.stop()
    try:
        before = len(server.requests)
        wait_until(lambda: len(server.requests) >= before + 2)
        os.kill(jobs["running"][0]["pid"], signal.SIGTERM)
        # Its output goes nowhere.
        path = scrapyd.folder / "logs" / PROJECT / "live" / "old.log"
        wait_until(lambda: "Exit code" in path.read_text(encoding="utf-8"))
    finally:
        scrapyd.start()
    log = path.read_text(encoding="utf-8")
    assert "(bot: parti_scraper)" in log
    assert "Exit code 0: complete" in log
    run = Crawl(0, "", log, scrapyd.output, "live", "old")
    check_books(run)
    snapshots = Counter(row["snapshot_id"] for row in run.rows)
    assert len(snapshots) > 2
    assert len(set(snapshots.values())) == 1
    # Ended jobs are in the list.
    assert "new" in {job["id"] for job in scrapyd.ask("listjobs", project=PROJECT)["finished"]}


def test_an_egg_that_scrapyd_cannot_use_fails_the_deployment_and_is_deleted(scrapyd: Scrapyd, copy: Path) -> None:
    before = scrapyd.versions()
    (copy / "parti_scraper/spiders/live.py").write_text("import no_such_module\n", encoding="utf-8")
    failed = scrapyd.deploy(copy)
    assert failed.returncode == 1
    assert "No module named 'no_such_module'" in failed.stderr
    assert "was deleted again" in failed.stderr
    assert scrapyd.versions() == before


def test_a_wrong_password_is_refused_and_named(scrapyd: Scrapyd) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        scrapyd.ask("daemonstatus", password="guess")
    scheduled = scrapyd.schedule("live", SCRAPYD_PASSWORD="guess")
    said = "live: nothing was scheduled: SCRAPYD_USERNAME or SCRAPYD_PASSWORD is wrong\n"
    assert (scheduled.returncode, scheduled.stdout, scheduled.stderr) == (3, "", said)
    deployed = scrapyd.deploy(SCRAPYD_PASSWORD="guess")
    assert deployed.returncode == 1
    assert "Deploy failed (401)" in deployed.stderr
    assert "SCRAPYD_PASSWORD" in deployed.stderr


def test_a_spider_that_scrapyd_does_not_know_is_named(scrapyd: Scrapyd) -> None:
    scheduled = scrapyd.schedule("recnet")
    said = "recnet: nothing was scheduled: spider 'recnet' not found\n"
    assert (scheduled.returncode, scheduled.stdout, scheduled.stderr) == (2, "", said)


def test_without_scrapyd_the_schedule_says_so(scrapyd: Scrapyd) -> None:
    scheduled = scrapyd.schedule("live", SCRAPYD_URL="http://127.0.0.1:9")
    assert scheduled.returncode == 1
    assert "http://127.0.0.1:9 cannot be reached: [Errno 111]" in scheduled.stderr


@pytest.mark.parametrize(
    ("job", "arguments", "line"),
    [
        ("typo", {"sinse": "7d"}, "ERROR: argument `sinse`: not known to the spider `recent`: '7d' (accepted: "),
        ("category", {"categories": "Gardening"}, "ERROR: argument `categories`: "),
    ],
)
def test_a_job_with_a_wrong_argument_fails_with_a_line_in_its_log(
    scrapyd: Scrapyd, serve: Serve, job: str, arguments: dict[str, str], line: str
) -> None:
    server = serve(**STILL)
    run = scrapyd.run("recent", server, job, **arguments)
    assert run.code == 2
    assert line in run.stderr
    assert "ERROR: Exit code 2: usage" in run.stderr
    assert not run.folder.exists()
    assert requests(server) == []


def test_the_schedule_does_not_pile_up(scrapyd: Scrapyd, serve: Serve) -> None:
    server = serve(**STILL)
    typed = ("live", "interval=1", f"setting=PARTI_API_BASE_URLS={server.base_url}")
    first = scrapyd.schedule(*typed)
    assert first.returncode == 0, first.stderr
    job = re.fullmatch(r"live: scheduled as job (20\d{6}T\d{6}Z-live-[0-9a-f]{10})\n", first.stdout)
    assert job
    wait_until(lambda: len(server.requests) >= 2)
    assert scrapyd.schedule(*typed).stdout == f"live: job {job[1]} is running; nothing was scheduled\n"
    scrapyd.tell("cancel", job=job[1])
    # The normal end of a run at intervals.
    assert scrapyd.end("live", job[1]).code == 0
    assert scrapyd.schedule("live", "limit").returncode == 2
    for job_id in ("a/b", "../evil", "", ".a"):
        refused = scrapyd.schedule("live", f"jobid={job_id}")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.startswith(f"live: nothing was scheduled: not a jobid: {job_id!r} (accepted: ")
    assert scrapyd.schedule().stderr.startswith("Schedule a spider on scrapyd")


def test_a_job_that_waits_for_hours_is_replaced(scrapyd: Scrapyd, serve: Serve) -> None:
    server = serve(**STILL)
    # As many as scrapyd runs at a time.
    running = [f"full-{number}" for number in range(4)]
    for job in running:
        scrapyd.begin("live", server, job, interval="60")
    scrapyd.tell("schedule", spider="recent", jobid="20200101T000000Z-recent-0123456789")
    replaced = scrapyd.schedule("recent", "max_records=1")
    job = re.fullmatch(r"recent: scheduled as job (20\d{6}T\d{6}Z-recent-[0-9a-f]{10})\n", replaced.stdout)
    assert job
    pattern = r"job 20200101T000000Z-recent-0123456789 was pending for [0-9]+ hours; it was cancelled\n"
    assert re.fullmatch(pattern, replaced.stderr)
    again = scrapyd.schedule("recent", "max_records=1")
    assert (again.stdout, again.stderr) == (f"recent: job {job[1]} is pending; nothing was scheduled\n", "")
    assert [each["id"] for each in scrapyd.ask("listjobs", project=PROJECT)["pending"]] == [job[1]]
    # Each has a snapshot; a process that is only just starting would be killed by the signal.
    wait_until(lambda: all(has_records(scrapyd.output / "live" / each) for each in running))
    for name in (job[1], *running):
        scrapyd.tell("cancel", job=name)
    for name in running:
        scrapyd.end("live", name)
