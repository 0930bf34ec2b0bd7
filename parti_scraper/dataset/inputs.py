"""What an export reads, as it is typed: folders of runs, and earlier exports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from parti_scraper.dataset.earlier_formats import ACCEPTED, is_export
from parti_scraper.dataset.targets.delta import PREFIX
from parti_scraper.exceptions import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is read.

    Attributes:
        runs: folders with runs, each such as PARTI_OUTPUT_DIR.
        exports: earlier exports, as typed; each once.
    """

    runs: Sequence[Path]
    exports: Sequence[str]

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Inputs:
        """Return what was typed. Raises UsageError."""
        runs, exports = [], {}
        for text in texts:
            if is_export(text):
                exports[_place(text)] = text
            elif Path(text).is_dir():
                runs.append(Path(text))
            else:
                raise UsageError.of("option", "--from", "neither a folder nor an export", text, ACCEPTED)
        return cls(runs, tuple(exports.values()))

    def check_apart(self, target: str) -> None:
        """Raise UsageError if a target, as typed, is or touches what is read."""
        place = _place(target)
        if place in map(_place, self.exports):
            raise UsageError.of("argument", "TARGET", "it is read by --from", target, "another target")
        is_folder = target.endswith("/") or Path(target.removeprefix(PREFIX)).is_dir()
        for text in (*map(str, self.runs), *self.exports):
            read = _place(text)
            if is_folder and isinstance(place, Path) and isinstance(read, Path) and _touch(place, read):
                accepted = f"a folder that neither holds {text!r} nor is in it"
                raise UsageError.of("argument", "TARGET", "what is read is there", target, accepted)


def _touch(one: Path, other: Path) -> bool:
    return one == other or one in other.parents or other in one.parents


def _place(text: str) -> Path | str:
    """Return what two names of one place have in common."""
    text = text.removeprefix(PREFIX)
    return text.rstrip("/") if "://" in text else Path(text).resolve()
