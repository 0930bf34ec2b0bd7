"""`parti` as users have it: a wheel in an environment with only the users' locked packages, run in another folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
import venv
import zipfile
from collections.abc import Mapping
from importlib.metadata import distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import parti_scraper
from parti_scraper.mockserver import MockServer
from tests.support import ROOT, STILL, TIMEOUT, Scrapy, Serve, environment_of, read_lines
from tests.usage_errors import SPIDERS

# One worker builds what all of them use.
pytestmark = pytest.mark.xdist_group("parti")

NAMES = {"parti": ["bin/parti"], "python -m parti_scraper": ["bin/python", "-m", "parti_scraper"]}


def call(*command: str | Path) -> None:
    """Run a program to its end, which must be successful."""
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what `make build` builds, without network."""
    folder = tmp_path_factory.mktemp("built")
    call(sys.executable, ROOT / "tools" / "build.py", folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    """Return the project as a wheel."""
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def archive(built: Path) -> Path:
    """Return the project as a source distribution."""
    (archive,) = built.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an environment with the wheel, and links to the installed packages of the users' lock."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line[:1] in {"#", " ", ""}:
            continue
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate():
            continue
        files = distribution(requirement.name).files or ()
        for part in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            target = packages / part
            if not target.exists():
                target.symlink_to(str(distribution(requirement.name).locate_file(part)))
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin/python")
    call(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel)
    # They include all that `pyproject.toml` requires.
    call(*pip, "check")
    return folder


@pytest.fixture
def working_folder(tmp_path: Path) -> Path:
    """Return a folder in another Scrapy project, whose settings cannot even be imported."""
    (tmp_path / "scrapy.cfg").write_text("[settings]\ndefault = other.settings\n", encoding="utf-8")
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def run(
    environment: Path, folder: Path, *typed: str, name: str = "parti", **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder."""
    first, *rest = NAMES[name]
    return subprocess.run(
        [environment / first, *rest, *typed],
        cwd=folder,
        env=environment_for(env),
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=False,
    )


def environment_for(env: Mapping[str, str], server: MockServer | None = None) -> dict[str, str]:
    """Return the variables of a user, without those for folders."""
    variables = environment_of(Path("/nowhere/output"), server, env)
    return {name: value for name, value in variables.items() if name not in {"PARTI_OUTPUT_DIR", "PARTI_STATE_DIR"}}


@pytest.mark.parametrize("name", NAMES)
def test_a_crawl_writes_into_the_working_folder_and_says_where(
    environment: Path, working_folder: Path, serve: Serve, name: str
) -> None:
    server = serve(**STILL)
    crawl = run(
        environment, working_folder, "crawl", "categories", "-a", "run_id=run", name=name, **environment_for({}, server)
    )
    assert crawl.returncode == 0, crawl.stderr
    file = "output/categories/run/categories.jsonl"
    rows = read_lines(working_folder / file)
    assert [row["category_id"] for row in rows] == [each["category_id"] for each in server.world.categories()]
    assert f"\n  {file}  {len(rows)} rows, " in crawl.stderr
    assert sorted(path.name for path in working_folder.iterdir()) == [".scrapy", "output"]
    assert (working_folder / ".scrapy/parti/ledger.sqlite").exists()


def test_parti_home_replaces_the_working_folder(
    environment: Path, working_folder: Path, tmp_path: Path, serve: Serve
) -> None:
    home = tmp_path / "home"
    variables = environment_for({"PARTI_HOME": str(home)}, serve(**STILL))
    crawl = run(environment, working_folder, "crawl", "categories", "-a", "run_id=run", **variables)
    assert crawl.returncode == 0, crawl.stderr
    assert f"\n  {home}/output/categories/run/categories.csv  " in crawl.stderr
    assert (home / ".scrapy/parti/ledger.sqlite").exists()
    assert list(working_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "folder"),
    [
        (["PARTI_OUTPUT_DIR=~/output", "PARTI_STATE_DIR=~/state"], "."),
        (["PARTI_HOME=~/collection", "PARTI_OUTPUT_DIR=output", "PARTI_STATE_DIR=state"], "collection"),
    ],
)
def test_a_tilde_in_settings_is_the_home_folder(
    environment: Path, working_folder: Path, tmp_path: Path, serve: Serve, settings: list[str], folder: str
) -> None:
    variables = environment_for({"HOME": str(tmp_path / "me")}, serve(**STILL))
    given = [word for setting in settings for word in ("-s", setting)]
    crawl = run(environment, working_folder, "crawl", "categories", "-a", "run_id=run", *given, **variables)
    assert crawl.returncode == 0, crawl.stderr
    assert (tmp_path / "me" / folder / "output/categories/run/datapackage.json").exists()
    assert (tmp_path / "me" / folder / "state/ledger.sqlite").exists()
    assert list(working_folder.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_advice_uses_the_name_of_the_program_that_was_called(
    environment: Path, working_folder: Path, serve: Serve, name: str
) -> None:
    variables = environment_for({}, serve(**STILL))
    typed = ("crawl", "recent", "-a", "run_id=run", "-s", "CLOSESPIDER_PAGECOUNT=2")
    stopped = run(environment, working_folder, *typed, name=name, **variables)
    assert stopped.returncode == 3
    assert stopped.stderr.endswith(f"to finish it: {name} crawl recent -a run_id=run\n")


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (
            ("crawl", "recent", "--sinse=7d"),
            "unknown option: '--sinse=7d' (accepted: see {} crawl --help); did you mean `since`?",
        ),
        (("mockserver", "--speeed"), "{} mockserver: unknown switch or argument: --speeed; did you mean `--speed`?"),
        (("spiders", "--json"), "{} spiders: unknown option: '--json' (accepted: no options)"),
        (("crwal",), "unknown command: 'crwal' (accepted: COMMANDS); did you mean `crawl`?"),
        (
            ("spiders", "recent"),
            "{0} spiders: unknown argument: 'recent' (accepted: see {0} spiders --help)",
        ),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_a_usage_error_is_one_line_with_the_name_of_the_program(
    environment: Path, working_folder: Path, name: str, typed: tuple[str, ...], line: str
) -> None:
    wrong = run(environment, working_folder, *typed, name=name)
    told = re.sub(r"accepted: bench, .+, view", "accepted: COMMANDS", wrong.stderr)
    assert (wrong.returncode, wrong.stdout, told) == (2, "", line.format(name) + "\n")


def test_an_unknown_command_is_one_line_with_all_commands(environment: Path, working_folder: Path) -> None:
    wrong = run(environment, working_folder, "crwal", "recent")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("unknown command: 'crwal' (accepted: ")
    assert wrong.stderr.endswith("; did you mean `crawl`?\n")
    assert {"crawl", "mockserver", "spiders", "shell"} < set(re.findall(r"\w+", wrong.stderr))


@pytest.mark.parametrize("name", NAMES)
def test_the_help_names_the_program_that_was_called(environment: Path, working_folder: Path, name: str) -> None:
    overview = run(environment, working_folder, name=name)
    assert (overview.returncode, overview.stderr) == (0, "")
    assert overview.stdout.startswith(f"usage: {name} COMMAND ")
    assert "  spiders      Describe the spiders and their arguments\n" in overview.stdout
    for typed in ("--help", "help"):
        assert run(environment, working_folder, typed, name=name).stdout == overview.stdout
    # A command of the project, and one of Scrapy, which sets its help in another way.
    assert (
        f"usage: {name} crawl SPIDER [options]\n" in run(environment, working_folder, "crawl", "-h", name=name).stdout
    )
    assert f"  {name} list" in run(environment, working_folder, "list", "-h", name=name).stdout


def test_a_reader_of_the_help_that_has_enough_is_no_error(environment: Path, working_folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        helped = subprocess.run(
            [environment / "bin/parti", "--help"],
            cwd=working_folder,
            env=environment_for({}),
            stdout=closed,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            timeout=TIMEOUT,
            check=False,
        )
    assert (helped.returncode, helped.stderr) == (0, "")


def test_ctrl_c_while_modules_are_loaded_is_no_traceback(environment: Path, working_folder: Path) -> None:
    # The first import of Scrapy finds this module, and gets the signal.
    (working_folder / "scrapy.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n", encoding="utf-8"
    )
    stopped = run(environment, working_folder, "runs", PYTHONPATH=str(working_folder))
    assert (stopped.returncode, stopped.stdout, stopped.stderr) == (3, "", "")


@pytest.mark.parametrize("typed", ["version", "--version"])
def test_the_version_is_the_projects_and_scrapys(environment: Path, working_folder: Path, typed: str) -> None:
    assert run(environment, working_folder, typed).stdout == (
        f"parti_scraper {parti_scraper.__version__}\nScrapy {distribution('scrapy').version}\n"
    )


def test_the_spiders_are_described_as_by_scrapy(environment: Path, working_folder: Path, scrapy: Scrapy) -> None:
    described = run(environment, working_folder, "spiders").stdout
    assert described == scrapy("spiders").stdout
    blocks = described.rstrip("\n").split("\n\n")
    assert [block.partition(":")[0] for block in blocks] == sorted(SPIDERS)
    for block in blocks:
        name, _, rest = block.partition(": ")
        collects, *lines = rest.splitlines()
        assert collects.endswith(".")
        arguments = SPIDERS[name].help()
        assert len(lines) == len(arguments)
        for line, (argument, meaning) in zip(lines, arguments, strict=True):
            assert re.fullmatch(rf"  -a {argument}=VALUE +{re.escape(meaning)}", line)


def test_the_mock_server_has_its_page(environment: Path, working_folder: Path) -> None:
    with subprocess.Popen(
        [environment / "bin/parti", "mockserver", "--port", "0"],
        cwd=working_folder,
        env=environment_for({}),
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            assert process.stdout
            match = re.match(r"Parti API mock server: (\S+) ", process.stdout.readline())
            assert process.stdout.readline().endswith(" parti crawl recent\n")
            assert match
            with urllib.request.urlopen(f"{match[1]}/categories", timeout=TIMEOUT) as page:
                assert page.read().startswith(b"<!")
        finally:
            process.terminate()


def test_without_the_extra_the_spider_site_says_what_to_install(environment: Path, working_folder: Path) -> None:
    site = run(environment, working_folder, "crawl", "site")
    line = "the browser needs scrapy-playwright: install it with `pip install scrapy-playwright`\n"
    assert (site.returncode, site.stdout, site.stderr) == (1, "", line)


def test_the_wheel_is_the_package_with_all_its_files(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = (path for path in (ROOT / "parti_scraper").rglob("*") if "__pycache__" not in path.parts)
    assert names == {path.relative_to(ROOT).as_posix() for path in package if path.is_file()}
    assert wheel.name.startswith(f"parti_scraper-{parti_scraper.__version__}-")


def test_the_source_distribution_is_the_project_without_what_git_ignores(archive: Path) -> None:
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames() if not opened.getmember(name).isdir()}
    made = {"PKG-INFO", "setup.cfg"} | {name for name in names if name.startswith("parti_scraper.egg-info/")}
    assert {"tests/test_parti.py", "docs/data.md", "deploy/crontab", "requirements.txt", "Makefile"} < names
    git = ("git", "-c", f"safe.directory={ROOT}", "-C", ROOT, "ls-files", "-z", "--exclude-standard")
    if subprocess.run(git, capture_output=True, check=False).returncode:
        pytest.skip("this is no checkout")
    added, others = (
        {
            name
            for name in subprocess.check_output([*git, which], encoding="utf-8").split("\0")
            if (ROOT / name).is_file()
        }
        for which in ("--cached", "--others")
    )
    assert added - {"output/.gitkeep"} <= names - made <= added | others


def test_the_same_files_are_built_into_the_same_bytes(built: Path, tmp_path: Path) -> None:
    umask = os.umask(0o077)
    try:
        call(sys.executable, ROOT / "tools" / "build.py", tmp_path)
    finally:
        os.umask(umask)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in built.iterdir()
    }


def test_the_metadata_of_the_wheel_are_those_of_the_project(environment: Path) -> None:
    (packages,) = environment.glob("lib/python*/site-packages")
    (described,) = distributions(name="parti_scraper", path=[str(packages)])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    about = described.metadata
    assert (about["Version"], about["Summary"]) == (parti_scraper.__version__, project["description"])
    assert (about["License-Expression"], about["License-File"]) == ("MIT", "LICENSE")
    assert about["Description-Content-Type"] == "text/markdown"
    assert about.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(about.get_all("Provides-Extra") or ()) == project["optional-dependencies"].keys()
    declared = {
        (group, *each)
        for group, entries in {"console_scripts": project["scripts"], **project["entry-points"]}.items()
        for each in entries.items()
    }
    assert {(each.group, each.name, each.value) for each in described.entry_points} == declared


def test_without_the_extra_the_jobs_are_described_and_say_what_to_install(
    environment: Path, working_folder: Path
) -> None:
    described = run(environment, working_folder, "jobs", "--help")
    assert (described.returncode, described.stderr) == (0, "")
    assert described.stdout.startswith("usage: parti jobs setup | worker | ")
    listed = run(environment, working_folder, "jobs", "list", PARTI_DATABASE_URL="postgresql://127.0.0.1:9/none")
    assert (listed.returncode, listed.stdout) == (1, "")
    assert "procrastinate is not installed (extra `jobs`)" in listed.stderr
