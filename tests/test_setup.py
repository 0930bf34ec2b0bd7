"""What is set up for users and for developers: the Makefile, `tools/setup.sh` and the two locks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.documents import blocks_of
from tests.support import ROOT, TIMEOUT

# Without what a `make` that runs these tests was called with; the project is built with what is installed.
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if "MAKE" not in name and name not in {"MFLAGS", "PYTHON"}
} | {"PIP_NO_BUILD_ISOLATION": "0"}


def make(folder: Path, *typed: str) -> subprocess.CompletedProcess[str]:
    """Run `make` to its end."""
    return subprocess.run(
        ["make", "--no-print-directory", *typed],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=False,
    )


def locked(name: str) -> dict[str, str]:
    """Return the versions that a lock has, by package."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE))


def test_the_developers_lock_contains_the_users_lock_in_the_same_versions() -> None:
    users, developers = locked("requirements.txt"), locked("requirements-dev.txt")
    assert users.items() < developers.items()
    assert {"duckdb", "tzdata", "xlsxwriter"} <= users.keys()
    extras = {"psycopg", "obstore", "scrapy-playwright", "scrapyd", "frictionless", "pytest", "ruff", "mypy", "uv"}
    assert extras <= developers.keys() - users.keys()


@pytest.mark.parametrize(
    ("target", "is_for_users"),
    [("demo", True), ("crawl", True)]
    + [(name, False) for name in ("test", "lint", "bench", "build", "format", "lock", "deploy", "demo-jobs")],
)
def test_a_target_sets_up_what_it_needs_and_uses_no_program_of_the_path(target: str, is_for_users: bool) -> None:
    shown = make(ROOT, "--dry-run", target)
    assert shown.returncode == 0, shown.stderr
    first, *rest = re.sub(r"\\\n\s*", "", shown.stdout).splitlines()
    assert first == 'PYTHON="" tools/setup.sh' + ("" if is_for_users else " --dev")
    assert rest
    for line in rest:
        assert re.match(r"(?:\w+=(?:\"[^\"]*\"|\S+) )*\.venv/bin/\w", line)


def test_what_to_type_without_make_is_what_it_would_run() -> None:
    (block,) = (block for block in blocks_of("docs/install.md") if block.run_by == "tests/test_setup.py")
    shown = [make(ROOT, "--dry-run", target).stdout.splitlines()[-1] for target in ("demo", "crawl")]
    assert block.code.splitlines() == shown


def test_the_setup_says_what_it_did_is_quick_when_repeated_and_goes_on_after_a_failure(tmp_path: Path) -> None:
    for name in ("Makefile", "README.md", "LICENSE", "pyproject.toml", "parti_scraper/__init__.py", "tools/setup.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    # To install pip into it would take most of the time.
    venv.create(tmp_path / ".venv", symlinks=True)
    (packages,) = tmp_path.glob(".venv/lib/python*/site-packages")
    (packages / "pip.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    lock = tmp_path / "requirements.txt"
    (tmp_path / "requirements-dev.txt").write_text("# more\n", encoding="utf-8")
    begins = "setup: installing the packages of requirements.txt into .venv\n"
    lock.write_text("./nowhere.whl\n", encoding="utf-8")
    failed = make(tmp_path, "setup")
    assert (failed.returncode, failed.stdout) == (2, begins)
    assert "nowhere.whl" in failed.stderr
    assert (
        "setup: the packages could not be installed; the lines above say why (the first set-up needs a network)\n"
        in failed.stderr
    )
    lock.write_text("# none\n", encoding="utf-8")
    done = make(tmp_path, "setup")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(begins + r"setup: done: Python 3\.\d+\.\d+\S*, \d+ MB\. Next: make demo, .*\n", done.stdout)
    assert make(tmp_path, "setup").stdout == "setup: .venv has all packages of requirements.txt\n"
    assert (tmp_path / ".venv/bin/parti").exists()
    # All of it is in what the developers have, too.
    shutil.copy(tmp_path / "requirements-dev.txt", tmp_path / ".venv/requirements.installed")
    assert make(tmp_path, "setup").stdout == "setup: .venv has all packages of requirements.txt\n"
