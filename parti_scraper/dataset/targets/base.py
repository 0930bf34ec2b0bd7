"""What an export asks of a target."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from parti_scraper.dataset.engine import TargetError
from parti_scraper.dataset.plan import Loaded
from parti_scraper.dataset.tables import SCHEMA_VERSION, dataset_tables
from parti_scraper.exceptions import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from parti_scraper.dataset.plan import Key
    from parti_scraper.dataset.staging import Rows, Staging
    from parti_scraper.dataset.tables import Table


class Outdated(TargetError):  # noqa: N818 - it says what the target is
    """Another export has changed the target since this one has read it, and nothing was written.

    Raised by targets that cannot be locked; `export` begins again.
    """


@dataclass(frozen=True, slots=True)
class Meta:
    """What a target knows of itself.

    Attributes:
        selection: what of the dataset it holds, see `Selection.as_json`.
        source: where its data come from; None if there are none yet.
        project_version: of this project, when it wrote to the target last.
        exported_at: when that was.
        schema_version: of its tables.
    """

    selection: Mapping[str, object]
    source: str | None
    project_version: str
    exported_at: str
    schema_version: int = SCHEMA_VERSION

    def as_json(self) -> str:
        """Return it as a text."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, shown: str) -> Meta:
        """Do the reverse of `as_json`. Raises UsageError if a later version of this project has made the target."""
        values = json.loads(text)
        version = values.get("schema_version")
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise UsageError(
                f"{shown} was made by a later version of this project: its tables are of version {version!r} "
                f"(accepted: {SCHEMA_VERSION} or earlier; another target, or a later parti_scraper)"
            )
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Changes:
    """What an export has done to a table.

    Attributes:
        rows: how many rows it has now.
        new: how many of them it did not have before.
        replaced: how many of them have changed.
        altered: how many texts it has otherwise than they came, because it cannot hold them.
    """

    rows: int
    new: int = 0
    replaced: int = 0
    altered: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be brought into a target, in one step.

    Attributes:
        staging: the database with the rows.
        rows: of each table of the target; also those of `loaded_files`, last.
        meta: what the target is to know of itself.
        rebuild: whether everything that was there goes.
        gone: by table, the name of the keys of rows that are to go, in the staging database.
    """

    staging: Staging
    rows: Sequence[Rows]
    meta: Meta
    rebuild: bool
    gone: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Rows of a target that are wanted in the staging database.

    Attributes:
        table: whose.
        into: the table there that they are added to, with the same columns.
        condition: for the rows, in the SQL of every target: times as texts in ISO 8601.
        keys: a column, and the relation in the staging database that has it too: only rows with one of its values.
        parts: the parts of the table that may have such rows; None: all.
    """

    table: Table
    into: str
    condition: str = "true"
    keys: tuple[str, str] | None = None
    parts: frozenset[str] | None = None


class Session(Protocol):
    """A target that is open for one export, and locked for others."""

    @property
    def meta(self) -> Meta | None:
        """What the target knows of itself; None if it is new."""

    def loaded(self) -> dict[Key, Loaded]:
        """Return what was loaded before."""

    def fetch(self, wanted: Wanted, staging: Staging) -> None:
        """Copy rows that were loaded before into the staging database."""

    def load(self, load: Load) -> dict[str, Changes]:
        """Bring rows into the target, all of them or none. Returns what was done to each table."""


class Target(ABC):
    """A target that was named.

    Attributes:
        shown: its name for messages, without secrets.
        tables: the tables that it holds unless others were chosen; those that it may hold at all, if `is_single`.
        is_single: whether it is a file with one table.
    """

    is_single: ClassVar[bool] = False
    shown: str

    def default_tables(self) -> tuple[str, ...]:
        """Return the names of the tables that it holds unless others are chosen."""
        return tuple(dataset_tables())

    @abstractmethod
    def open(self) -> AbstractContextManager[Session]:
        """Open it, and wait for other exports into it. Raises TargetError, UsageError, ExtraMissing."""


def loaded_query(of: str) -> str:
    """Return the query for what `loaded_from` takes; `of` is the name of the table of loaded files."""
    return f"SELECT run_uuid, file, bytes, rows, sha256 FROM {of}"


def loaded_from(rows: Sequence[tuple[str, str, int, int, str]]) -> dict[Key, Loaded]:
    """Return what was loaded, from run, file, bytes, rows and SHA-256."""
    return {(run, file): Loaded(size, count, digest) for run, file, size, count, digest in rows}
