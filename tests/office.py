"""Workbooks as LibreOffice reads them: another program than the one that wrote them, as their users have it."""

from __future__ import annotations

import csv
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support import TIMEOUT

SOFFICE = shutil.which("soffice")
needs_office = pytest.mark.skipif(SOFFICE is None, reason="there is no LibreOffice")

# Comma, double quote and UTF-8; quotes only where needed, cells as they are shown, every sheet into a file of its own.
_CSV = "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,true,true,false,false,-1"


def rows_of_sheet(workbook: Path, sheet: str) -> list[list[str]]:
    """Return the cells of a sheet, as they are shown."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                str(SOFFICE),
                # A profile of its own, because two processes cannot use the same one at once.
                f"-env:UserInstallation={Path(folder, 'profile').as_uri()}",
                "--headless",
                *("--convert-to", _CSV, "--outdir", folder, str(workbook)),
            ],
            stdout=subprocess.DEVNULL,
            # Always there: that it has no Java.
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT,
            check=True,
        )
        with Path(folder, f"{workbook.stem}-{sheet}.csv").open(encoding="utf-8", newline="") as stream:
            return list(csv.reader(stream))
