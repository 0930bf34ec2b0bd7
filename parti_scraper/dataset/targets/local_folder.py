"""A folder on this machine as the place of an export."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from parti_scraper.dataset.engine import TargetError, one_line
from parti_scraper.dataset.targets.locked import locked, put_in_place
from parti_scraper.dataset.targets.parts import foreign
from parti_scraper.exceptions import UsageError
from parti_scraper.run.datapackage import FILE_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Files that are being written.
_SCRATCH = ".export"
_CAUSE = "↳"
_COLOUR = re.compile(r"\x1b\[\d+m")


class LocalFolder:
    """A folder; see `parts.Store`.

    Args:
        path: where it is.
        manifest: the name of the file by which exports describe themselves.
    """

    def __init__(self, path: Path, manifest: str = FILE_NAME) -> None:
        self._path, self._manifest = path, manifest
        self.shown = f"{str(path).rstrip('/')}/"
        self.uri = path.resolve().as_uri()

    @contextmanager
    def open(self) -> Iterator[None]:
        with locked(self._path, self.shown):
            self._check()
            shutil.rmtree(self.scratch(), ignore_errors=True)
            try:
                self.scratch().mkdir()
                yield
            except OSError as error:
                raise TargetError(f"{self.shown} cannot be written: {error.strerror}") from None
            finally:
                shutil.rmtree(self.scratch(), ignore_errors=True)

    def _check(self) -> None:
        """Raise UsageError if there is something else in the folder."""
        if (self._path / self._manifest).exists():
            return
        others = foreign((each.name for each in self._path.iterdir() if each.name != _SCRATCH), self._manifest)
        if others and not (self._path / _SCRATCH).exists():
            accepted = "a new or empty folder, or an earlier export"
            raise UsageError.of("argument", "TARGET", f"it holds {others[0]!r}", self.shown, accepted)

    def scratch(self) -> Path:
        return self._path / _SCRATCH

    def read_manifest(self) -> bytes | None:
        with suppress(FileNotFoundError):
            return (self._path / self._manifest).read_bytes()
        return None

    def local(self, name: str) -> str:
        return str(self._path / name)

    def put(self, path: Path, name: str) -> None:
        to = self._path / name
        to.parent.mkdir(parents=True, exist_ok=True)
        put_in_place(path, to)

    def publish(self, name: str, public: str) -> None:
        to, temporary = self._path / public, self.scratch() / "published"
        to.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        try:
            os.link(self._path / name, temporary)
        except OSError:  # The file system has no hard links.
            shutil.copyfile(self._path / name, temporary)
        put_in_place(temporary, to)

    def write(self, public: str, content: bytes) -> None:
        temporary = self.scratch() / "written"
        temporary.write_bytes(content)
        put_in_place(temporary, self._path / public)

    def write_manifest(self, content: bytes) -> None:
        self.write(self._manifest, content)

    def sizes(self) -> Mapping[str, int]:
        found = {}
        for folder, folders, files in os.walk(self._path):
            folders[:] = [each for each in folders if not each.startswith(".")]
            for path in (Path(folder, name) for name in files):
                with suppress(FileNotFoundError):  # Somebody else has deleted it.
                    found[path.relative_to(self._path).as_posix()] = path.lstat().st_size
        return found

    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            path = self._path / name
            path.unlink(missing_ok=True)
            with suppress(OSError):  # It is not empty.
                path.parent.rmdir()

    @property
    def options(self) -> Mapping[str, str]:
        return {}

    def reason(self, error: Exception) -> str:
        # Some libraries say in the first line what was tried, and in the last one, which is indented, what is wrong.
        causes = [line.partition(_CAUSE)[2] for line in _COLOUR.sub("", str(error)).splitlines() if _CAUSE in line]
        return causes[-1].strip() if causes else one_line(error)
