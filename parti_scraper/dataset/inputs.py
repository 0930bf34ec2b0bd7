"""What an export reads, as it is typed: folders of runs, and earlier exports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from parti_scraper.dataset.earlier_formats import ACCEPTED, is_export
from parti_scraper.dataset.targets.delta import PREFIX
from parti_scraper.dataset.targets.named import address_of
from parti_scraper.dataset.targets.postgres_address import SCHEMES, Address
from parti_scraper.exceptions import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from parti_scraper.redact import Secret


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is read.

    Attributes:
        runs: folders with runs, each such as PARTI_OUTPUT_DIR.
        exports: earlier exports, as typed, or the addresses of databases; each once.
    """

    runs: Sequence[Path]
    exports: Sequence[Address | str]

    @classmethod
    def parse(cls, texts: Sequence[str], database_url: Secret | None) -> Inputs:
        """Return what was typed; `postgresql://` alone stands for `database_url`. Raises UsageError, ExtraMissing."""
        runs = []
        exports: dict[object, Address | str] = {}
        for text in texts:
            if is_export(text):
                export = _named(text, database_url, "option `--from`")
                exports[_place(export)] = export
            elif Path(text).is_dir():
                runs.append(Path(text))
            else:
                raise UsageError.of("option", "--from", "neither a folder of runs nor an export", text, ACCEPTED)
        return cls(runs, tuple(exports.values()))

    @property
    def missing(self) -> Path | None:
        """The folder of runs that is not there, as where the command was started in a wrong folder.

        Those that were typed are there.
        """
        return next((folder for folder in self.runs if not folder.is_dir()), None)

    def check_only_runs(self, problem: str = "an export") -> None:
        """Raise UsageError if there are exports."""
        if self.exports:
            raise UsageError.of("option", "--from", problem, shown(self.exports[0]), "a folder of runs such as output/")

    def check_apart(self, target: str, database_url: Secret | None) -> None:
        """Raise UsageError if a target, as typed, is or touches what is read."""
        named = _named(target, database_url, "argument `TARGET`")
        place = _place(named)
        if place in map(_place, self.exports):
            raise UsageError.of("argument", "TARGET", "it is read by --from", shown(named), "another target")
        is_folder = target.endswith("/") or Path(target.removeprefix(PREFIX)).is_dir()
        for read_from in (*self.runs, *self.exports):
            text = shown(read_from)
            read = _place(read_from)
            if is_folder and isinstance(place, Path) and isinstance(read, Path) and _touch(place, read):
                accepted = f"a folder that neither holds {text!r} nor is in it"
                raise UsageError.of("argument", "TARGET", "what is read is there", target, accepted)


def shown(place: Address | Path | str) -> str:
    """Return the name of a place for messages."""
    return place.shown if isinstance(place, Address) else str(place)


def _named(text: str, database_url: Secret | None, of: str) -> Address | str:
    """Return a place as typed, or its address if it is a database. Raises UsageError, ExtraMissing."""
    return address_of(text, database_url, of) if text.startswith(SCHEMES) else text


def _touch(one: Path, other: Path) -> bool:
    return one == other or one in other.parents or other in one.parents


def _place(named: Address | Path | str) -> Path | str | tuple[str, ...]:
    """Return what two names of one place have in common."""
    if isinstance(named, Address):
        return named.place
    text = str(named).removeprefix(PREFIX)
    return text.rstrip("/") if "://" in text else Path(text).resolve()
