"""Locks that keep runs apart."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Lock:
    """A lock on a file or folder; the system releases it when the process ends, in any way."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    @classmethod
    def take(cls, path: Path, *, make: bool = False) -> Lock | None:
        """Return the lock, or None if another process has it. Raises OSError if there is no such file."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644) if make else os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        return cls(handle)

    def release(self) -> None:
        os.close(self._handle)
