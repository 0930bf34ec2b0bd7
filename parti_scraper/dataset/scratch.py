"""Temporary folders of exports: a killed one leaves its folder, which the next one deletes."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from parti_scraper.dataset.engine import TargetError
from parti_scraper.ledger.locks import Lock

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Make a temporary folder, and delete it in the end, together with those that killed exports have left.

    Raises TargetError.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for leftover in parent.iterdir():
            _sweep(leftover)
        folder = Path(tempfile.mkdtemp(dir=parent))
        # Another export may be about to sweep it; then there is another one.
        while (lock := Lock.take(folder)) is None or not folder.exists():
            folder = Path(tempfile.mkdtemp(dir=parent))
    except OSError as error:
        raise TargetError(f"{parent} cannot be written: {error.strerror}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _sweep(folder: Path) -> None:
    """Delete a temporary folder if no process works in it."""
    try:
        lock = Lock.take(folder)
    except FileNotFoundError:
        return
    if lock:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
