"""Files that one process at a time writes, in one step."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from parti_scraper.dataset.engine import TargetError
from parti_scraper.run.datapackage import sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def locked(folder: Path, shown: str) -> Iterator[None]:
    """Hold the lock of a folder into which one export at a time writes; wait for another one to end.

    Raises TargetError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except FileExistsError:
        raise TargetError(f"{shown} cannot be written: {folder} is no folder") from None
    except OSError as error:
        raise TargetError(f"{shown} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def put_in_place(temporary: Path, path: Path) -> None:
    """Bring a file that was written to the disk, and give it its name. Raises OSError."""
    handle = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    temporary.replace(path)
    sync_folder(path.parent)
