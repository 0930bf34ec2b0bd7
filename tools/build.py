"""Build the source distribution, and the wheel out of it; called by `make build`.

Without network, and the same bytes for the same files: nothing in them says when or where they were built.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Files and folders of the source distribution, all of which MANIFEST.in takes.
_FOLDERS = (".ci", ".github", "benchmarks", "deploy", "docs", "parti_scraper", "tests", "tools")
_FILES = (
    ".dockerignore",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Dockerfile",
    "LICENSE",
    "MANIFEST.in",
    "Makefile",
    "README.md",
    "compose.workers.yaml",
    "compose.yaml",
    "pyproject.toml",
    "requirements-dev.txt",
    "requirements.txt",
    "scrapy.cfg",
)
# The earliest time that a wheel can have.
_TIME = 315532800


def main() -> int:
    """Build both into a folder. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist", help="where they go (default: dist)")
    into = parser.parse_args().folder
    # Files that are made here have the same modes everywhere.
    os.umask(0o022)
    # In a temporary folder: no old build gets into them, and no new one stays in the project.
    with tempfile.TemporaryDirectory(prefix="parti-build-") as folder:
        project, built = Path(folder, "project"), Path(folder, "built")
        _copy_to(project)
        if code := _build("--sdist", project, built):
            return code
        (archive,) = built.iterdir()
        _make_timeless(archive)
        if code := _build("--wheel", archive, built):
            return code
        into.mkdir(parents=True, exist_ok=True)
        for path in sorted(built.iterdir()):
            print(shutil.copy(path, into))
    return 0


def _copy_to(folder: Path) -> None:
    folder.mkdir()
    for name in _FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in _FILES:
        shutil.copy(ROOT / name, folder)
    # Whatever the umask was with which the project was checked out.
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _build(kind: str, source: Path, into: Path) -> int:
    """Run uv with the packages of this environment, quietly unless it fails. Returns its exit code."""
    options = ("--no-build-isolation", "--offline", "--no-cache", "--no-create-gitignore", "--python", sys.executable)
    done = subprocess.run(
        [Path(sys.executable).with_name("uv"), "build", kind, *options, "--out-dir", into, source],
        env=os.environ | {"SOURCE_DATE_EPOCH": str(_TIME)},
        stderr=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        print(done.stderr, end="", file=sys.stderr)
    return done.returncode


def _make_timeless(path: Path) -> None:
    """Write an archive anew, with neither times nor owners."""
    with tarfile.open(path) as archive:
        files = [
            (member, stream.read() if (stream := archive.extractfile(member)) else None)
            for member in sorted(archive.getmembers(), key=lambda each: each.name)
        ]
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=_TIME) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for member, content in files:
            about = tarfile.TarInfo(member.name)
            about.type, about.mode, about.size, about.mtime = member.type, member.mode, member.size, _TIME
            archive.addfile(about, None if content is None else io.BytesIO(content))


if __name__ == "__main__":
    sys.exit(main())
