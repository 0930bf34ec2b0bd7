"""Files of records on their way to the disk."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class FlushedFiles:
    """Flushed files, which `sync` brings to the disk; with its own descriptors, so that they may be closed before.

    Attributes:
        sizes: size in bytes and rows of each file, by name.
    """

    def __init__(self) -> None:
        self.sizes: dict[str, tuple[int, int]] = {}
        self._descriptors: list[int] = []

    def add_open(self, file: IO[bytes]) -> None:
        """Add an open file, which has been flushed. Raises OSError."""
        self._descriptors.append(os.dup(file.fileno()))

    def note(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        """Note size in bytes and rows of files, by name; those that are closed are on the disk."""
        self.sizes.update(sizes)

    def sync(self) -> None:
        """Bring all of them to the disk, in any thread. Raises OSError."""
        try:
            for descriptor in self._descriptors:
                os.fsync(descriptor)
        finally:
            self.close()

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())
