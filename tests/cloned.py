"""A folder that is as a clone of the project after `make setup`, in which commands are typed as a user types them."""

from __future__ import annotations

import os
import signal
import subprocess
import sysconfig
import venv
from pathlib import Path

from parti_scraper.mockserver import MockServer
from tests.support import ROOT, TIMEOUT, environment_of, wait_until

_FILES = (
    "Makefile",
    "parti_scraper",
    "pyproject.toml",
    "requirements-dev.txt",
    "requirements.txt",
    "scrapy.cfg",
    "tools",
)
_PROGRAMS = {
    "frictionless": "from frictionless.__main__ import console as main",
    "parti": "from parti_scraper.__main__ import main",
    "scrapy": "from scrapy.cmdline import execute as main",
}


class Clone:
    """The folder, and what is typed in it.

    Attributes:
        folder: where it is.
        environment: the variables of a user who has set a mock server and activated `.venv`, and nothing else.
    """

    def __init__(self, folder: Path, server: MockServer | None) -> None:
        """Make the folder, which must not exist."""
        self.folder = folder
        folder.mkdir()
        for name in _FILES:
            (folder / name).symlink_to(ROOT / name)
        # To install the packages would take minutes.
        venv.create(folder / ".venv", symlinks=True)
        (packages,) = folder.glob(".venv/lib/python*/site-packages")
        (packages / "all.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n", encoding="utf-8")
        programs = folder / ".venv" / "bin"
        for name, line in _PROGRAMS.items():
            (programs / name).write_text(f"#!{programs / 'python'}\n{line}\n\nmain()\n", encoding="utf-8")
            (programs / name).chmod(0o755)
        (folder / ".venv" / "requirements.installed").symlink_to(ROOT / "requirements.txt")
        variables = environment_of(folder / "output", server)
        # Those of a `make` that runs the tests.
        unset = {"PARTI_OUTPUT_DIR", "PARTI_STATE_DIR", "PYTHON", "MFLAGS", "MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL"}
        kept = {name: value for name, value in variables.items() if name not in unset}
        self.environment = kept | {"PATH": f"{programs}{os.pathsep}{variables['PATH']}"}

    def type(self, line: str, *, is_endless: bool = False) -> subprocess.CompletedProcess[str]:
        """Type a line, and return how it ended; an endless one is ended by Ctrl-C once it has printed or written."""
        printed, logged = (self.folder.with_name(name) for name in ("stdout", "stderr"))
        before = self._records()
        with printed.open("wb") as stdout, logged.open("wb") as stderr:
            process = subprocess.Popen(
                # Ctrl-C would reach this shell too, in contrast to one that a user types in.
                ["sh", "-ec", f"exec {line}" if is_endless else line],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
        try:
            if is_endless:
                wait_until(lambda: process.poll() is not None or printed.stat().st_size > 0 or self._records() > before)
                process.send_signal(signal.SIGINT)
            process.wait(TIMEOUT)
        finally:
            process.kill()
            process.wait()
        told = (path.read_text(encoding="utf-8") for path in (printed, logged))
        return subprocess.CompletedProcess(line, process.returncode, *told)

    def _records(self) -> int:
        """Return how many bytes of records the runs have."""
        return sum(path.stat().st_size for path in self.folder.glob("output/*/*/**/*.jsonl"))
