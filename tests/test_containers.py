"""The image, the services of the compose files, and the workflow: read from their files, and their steps run here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.deployed import DEPLOY, HOME, PROGRAMS, unit_of
from tests.support import ROOT, STILL, TIMEOUT, Serve, environment_of, wait_until

# One worker builds what all of them use.
pytestmark = pytest.mark.xdist_group("containers")

DATA = "/data"
ENVIRONMENT = "/opt/parti"


# --- What the files say --------------------------------------------------------------------------------------------


class Instruction(NamedTuple):
    """An instruction of the Dockerfile, and its arguments in one line."""

    name: str
    text: str


def stages() -> list[list[Instruction]]:
    """Return the instructions of each stage of the Dockerfile."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    instructions = [Instruction(*line.split(maxsplit=1)) for line in re.sub(r"\\\n\s*", "", text).splitlines() if line]
    starts = [number for number, each in enumerate(instructions) if each.name == "FROM"]
    return [instructions[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


def is_in_context(path: str) -> bool:
    """Tell whether the builder gets a file, by `.dockerignore`."""
    found = True
    parents = [path, *(str(parent) for parent in Path(path).parents)]
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!")
        names = [Path(each).name if pattern.startswith("**/") else each for each in parents]
        if line and not line.startswith("#") and any(fnmatch(name, pattern.removeprefix("**/")) for name in names):
            found = line.startswith("!")
    return found


def services_of(name: str) -> dict[str, dict[str, Any]]:
    """Return the services of a compose file."""
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))["services"]


def command_of_unit(name: str) -> list[str]:
    """Return what a service of systemd does, as `parti` in a container does it."""
    program, *words = shlex.split(unit_of(DEPLOY / f"parti-{name}.service")["Service"]["ExecStart"].replace(HOME, DATA))
    if program == f"{PROGRAMS}/parti":
        return ["parti", *words]
    spider, *arguments = words
    return ["parti", "crawl", spider, *(word for argument in arguments for word in ("-a", argument))]


def test_a_container_does_what_a_unit_of_systemd_does() -> None:
    units = {path.stem.removeprefix("parti-") for path in DEPLOY.glob("parti-*.service")} - {"failed@", "worker"}
    services = services_of("compose.yaml")
    assert services.keys() == units
    for name, service in services.items():
        words = shlex.split(service["command"])
        if (DEPLOY / f"parti-{name}.timer").exists():
            every, pause, *words = words
            assert every == "every"
            assert int(pause) > 0
        assert words == command_of_unit(name)
    (ages,) = {service["environment"]["PARTI_HEALTH_MAX_AGE"] for service in services.values()}
    assert f"PARTI_HEALTH_MAX_AGE={ages}\n" in (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")


def test_the_worker_is_that_of_systemd_and_all_have_as_long_to_end() -> None:
    services = services_of("compose.yaml") | services_of("compose.workers.yaml")
    assert shlex.split(services["worker"]["command"]) == command_of_unit("worker")
    for name in ("live", "notifications", "worker"):
        unit = unit_of(DEPLOY / f"parti-{name}.service")["Service"]
        assert services[name]["stop_grace_period"] == f"{unit['TimeoutStopSec']}s"


def test_containers_have_few_rights_and_no_secret_is_in_a_file() -> None:
    for file in ("compose.yaml", "compose.workers.yaml"):
        for name, service in services_of(file).items():
            for variable, value in service["environment"].items():
                assert not re.search("PASSWORD|TOKEN|URL", variable) or value.startswith("${")
            if name != "postgres":
                assert service["read_only"]
                assert service["cap_drop"] == ["ALL"]
                assert service["volumes"] == [f"data:{DATA}"]
    of_image = dict(stages()[-1])
    assert of_image["USER"] not in {"0", "root"}
    assert of_image["VOLUME"] == DATA


@pytest.mark.parametrize(
    "path",
    [
        *("parti.env", ".env", ".git/config", ".scrapy/parti/ledger.sqlite", "output/recent/run/livestreams.jsonl"),
        *(".venv/bin/python", "dist/parti_scraper.whl", "deploy/scrapyd.conf", "parti_scraper/__pycache__/x.pyc"),
    ],
)
def test_what_an_image_must_not_have_does_not_reach_its_builder(path: str) -> None:
    assert not is_in_context(path)


# --- The image -----------------------------------------------------------------------------------------------------


class Image(NamedTuple):
    """A folder in which the steps of the Dockerfile were done.

    Attributes:
        root: the root of the image's file system.
        variables: those of its environment.
    """

    root: Path
    variables: dict[str, str]

    def placed(self, text: str) -> str:
        """Return a text of the files with the folders of this image."""
        return re.sub(rf"(?<![\w.])({ENVIRONMENT}|{DATA}|/src|/usr/local/bin|/etc/parti)\b", rf"{self.root}\1", text)

    def environment(self, service: dict[str, Any], extra: dict[str, str]) -> dict[str, str]:
        """Return the environment of a service that crawls a server."""
        of_service = {name: self.placed(value) for name, value in service["environment"].items()}
        kept = {name: value for name, value in extra.items() if name not in {"PARTI_OUTPUT_DIR", "PARTI_STATE_DIR"}}
        return kept | of_service | self.variables

    def run(self, command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, as a shell in the container would."""
        return subprocess.run(
            ["sh", "-c", self.placed(command)],
            cwd=self.root / DATA[1:],
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=TIMEOUT,
            check=False,
        )


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Do the steps of the Dockerfile that copy files and that are the project's own: of Python and pip."""
    root = tmp_path_factory.mktemp("image")
    image = Image(root, {})
    variables = dict(os.environ) | {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    for number, stage in enumerate(stages()):
        folder = root
        for name, text in stage:
            words = text.split()
            if name == "WORKDIR":
                folder = Path(image.placed(text))
                folder.mkdir(exist_ok=True)
            elif name == "ARG":
                variables |= dict([text.split("=", 1)])
            elif name == "ENV":
                image.variables.update(pair.split("=", 1) for pair in image.placed(text).split())
            elif name == "COPY" and "--from=build" not in words:
                *sources, target = (word for word in words if not word.startswith("--"))
                copy(sources, folder, image.placed(target))
            elif name == "RUN" and re.match(r"python |pip ", text):
                python, pip = sys.executable, f"{sys.executable} -m pip"
                command = re.sub(r"^python", python, re.sub(r"^pip", pip, image.placed(text)))
                call(command, folder, variables)
                if "-m venv" in command:
                    lend_packages(root)
        assert number or (root / "opt/parti/bin/parti").exists()
    image.variables["PATH"] = image.variables["PATH"].replace("$PATH", f"{root}/usr/local/bin:{os.environ['PATH']}")
    return image


def copy(sources: list[str], folder: Path, target: str) -> None:
    """Copy files that the builder gets, as COPY does."""
    for source in sources:
        found = [ROOT / source] if (ROOT / source).is_file() else (ROOT / source).rglob("*")
        paths = [path for path in found if path.is_file() and is_in_context(path.relative_to(ROOT).as_posix())]
        assert paths, source
        for path in paths:
            inside = target + path.name if target.endswith("/") else target
            place = folder / inside / path.relative_to(ROOT / source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)


def call(command: str, folder: Path, variables: dict[str, str]) -> None:
    """Run a command to its end, which must be successful."""
    done = subprocess.run(
        ["sh", "-ec", command], cwd=folder, env=variables, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def lend_packages(root: Path) -> None:
    """Let the environment find the installed packages, since there is no network; the project is none of them."""
    packages = root / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "parti_scraper" not in path.name:
            (packages / path.name).symlink_to(path)
    (of_environment,) = (root / "opt/parti").glob("lib/python*/site-packages")
    (of_environment / "lent.pth").write_text(f"{packages}\n", encoding="utf-8")


def test_the_services_collect_export_and_are_healthy_with_what_the_dockerfile_installs(
    image: Image, serve: Serve
) -> None:
    services = services_of("compose.yaml")
    environment = image.environment(services["recent"], environment_of(image.root, serve(**STILL)))
    data = image.root / DATA[1:]
    every, *words = shlex.split(services["recent"]["command"])
    recent = subprocess.Popen([image.root / "usr/local/bin" / every, *words], cwd=data, env=environment)
    try:
        wait_until(lambda: any(data.glob("output/recent/*/datapackage.json")))
    finally:
        recent.send_signal(signal.SIGTERM)
        assert recent.wait(TIMEOUT) == 0
    exported = image.run(services["export"]["command"].removeprefix("every 86400 "), environment)
    assert (exported.returncode, exported.stderr) == (0, "")
    assert (data / "dataset/datapackage.json").exists()
    check = shlex.join(yaml.safe_load(dict(stages()[-1])["HEALTHCHECK"].partition("CMD ")[2]))
    healthy = image.run(check, environment)
    assert (healthy.returncode, healthy.stdout[:9]) == (0, "healthy: ")
    # Nobody can be told.
    assert image.run("parti health --alert", environment).returncode == 2
    # As if the run had been killed.
    (package,) = data.glob("output/recent/*/datapackage.json")
    package.unlink()
    sick = image.run(check, environment)
    assert (sick.returncode, sick.stderr) == (1, "")


def test_the_workers_have_their_tables_and_reach_their_queue(image: Image, postgres_url: str) -> None:
    services = services_of("compose.workers.yaml")
    extra = environment_of(image.root, None)
    environment = image.environment(services["setup"], extra) | {"PARTI_DATABASE_URL": postgres_url}
    check = services["worker"]["healthcheck"]["test"]
    assert image.run(check, environment).returncode == 1
    made = image.run(services["setup"]["command"], environment)
    assert made.returncode == 0, made.stderr
    assert image.run(check, environment).returncode == 0
    assert Path(environment["PARTI_SCHEDULE"]).read_bytes() == (DEPLOY / "schedule.toml").read_bytes()


# --- `every` -------------------------------------------------------------------------------------------------------


def test_every_goes_on_after_a_failure_and_ends_when_told(tmp_path: Path) -> None:
    said = tmp_path / "said"
    process = subprocess.Popen([DEPLOY / "every", "0", "sh", "-c", 'echo done >>"$0"; exit 4', said])
    wait_until(lambda: said.exists() and len(said.read_bytes().split()) > 2)
    process.terminate()
    assert process.wait(TIMEOUT) == 0


def test_every_ends_after_wrong_usage() -> None:
    assert subprocess.run([DEPLOY / "every", "60", "sh", "-c", "exit 2"], timeout=TIMEOUT, check=False).returncode == 2


def test_every_stops_its_command_and_waits_for_its_end(tmp_path: Path) -> None:
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    code = (
        "import pathlib, signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path(sys.argv[2]).touch(), sys.exit(3)))\n"
        "pathlib.Path(sys.argv[1]).touch()\n"
        "signal.pause()\n"
    )
    process = subprocess.Popen([DEPLOY / "every", "60", sys.executable, "-c", code, begun, ended])
    wait_until(begun.exists)
    process.terminate()
    assert process.wait(TIMEOUT) == 0
    assert ended.exists()


# --- The workflow --------------------------------------------------------------------------------------------------


def test_the_workflow_may_only_read_and_installs_what_the_tests_need() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert job["container"].startswith("python:3.11-")
    steps = job["steps"]
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step["uses"]) for step in steps if "uses" in step)
    assert steps[-1]["run"] == ".ci/run"
    (installed,) = re.findall(r"apt-get install --yes --no-install-recommends (.+)$", text, flags=re.MULTILINE)
    needed = re.findall(r"^ *need \w+ ([\w-]+) ", (ROOT / "tools" / "setup.sh").read_text("utf-8"), flags=re.MULTILINE)
    assert sorted(installed.split()) == sorted(needed)
