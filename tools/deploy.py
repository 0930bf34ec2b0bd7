"""Build the project's egg and upload it to scrapyd with `scrapyd-deploy`; called by `make deploy`.

`scrapyd-deploy` ends with 0 even if scrapyd cannot use the egg, and scrapyd would start every job from it, as the
newest version. Here that is an error, and the egg is deleted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scrapyd_client.exceptions import ErrorResponse
from scrapyd_client.pyclient import ScrapydClient
from scrapyd_client.utils import _get_targets

ROOT = Path(__file__).resolve().parent.parent
# Files and folders of the egg.
_PARTS = ("parti_scraper", "pyproject.toml", "scrapy.cfg", "README.md", "LICENSE")
_HINT = "Do SCRAPYD_USERNAME and SCRAPYD_PASSWORD say who may deploy, and does scrapyd run where the target says?"


def main() -> int:
    """Deploy to one target. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", nargs="?", default="default", help="[deploy:TARGET] of scrapy.cfg")
    target = parser.parse_args().target
    # scrapy.cfg refers to both; without them the client reads ~/.netrc.
    for name in ("SCRAPYD_USERNAME", "SCRAPYD_PASSWORD"):
        os.environ.setdefault(name, "")
    version = _version()
    # In a temporary folder: no old build gets into the egg, and no new one stays in the project.
    with tempfile.TemporaryDirectory(prefix="parti-deploy-") as folder:
        _copy_to(Path(folder))
        client = subprocess.run(
            [Path(sys.executable).with_name("scrapyd-deploy"), target, "--version", version],
            cwd=folder,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            check=False,
        )
        os.chdir(folder)
        if client.returncode:
            known = _get_targets()
            hint = _HINT if target in known else f"Targets in scrapy.cfg: {', '.join(known)}."
            print(f"{client.stdout}deploy: nothing was deployed. {hint}", file=sys.stderr)
            return 1
        answer = _parse(client.stdout)
        if answer.get("status") == "ok":
            print(f"deploy: version {version}, {answer['spiders']} spiders")
            return 0
        print(answer.get("message", client.stdout), file=sys.stderr)
        return _take_back(target, version)


def _version() -> str:
    """Return a name that sorts after all earlier ones, and contains the commit."""
    commit = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"],  # noqa: S607
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    return "-".join(filter(None, (f"{datetime.now(UTC):%Y%m%dT%H%M%S}", commit.stdout.strip())))


def _copy_to(folder: Path) -> None:
    for part in _PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder)


def _parse(text: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _take_back(name: str, version: str) -> int:
    """Delete the version that scrapyd could not use. Returns the exit code."""
    target = _get_targets()[name]
    client = ScrapydClient(target["url"].rstrip("/"), target.get("username"), target.get("password"))
    try:
        client.delversion(target["project"], version)
        print(f"deploy: scrapyd could not use the egg, see above; version {version} was deleted again", file=sys.stderr)
    except (ErrorResponse, OSError) as error:
        print(f"deploy: scrapyd could not use the egg, see above; version {version}: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
