"""What targets that are databases have in common: the tables are brought up to date by the database itself."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from parti_scraper.dataset import sql
from parti_scraper.dataset.staging import REMOVED_COLUMNS, REMOVED_FILES
from parti_scraper.dataset.tables import LOADED, Column, Table
from parti_scraper.dataset.targets.base import Changes, Load, Meta, loaded_from

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from parti_scraper.dataset.plan import Key, Loaded
    from parti_scraper.dataset.staging import Rows, Staging

# A row for each thing that the target knows of itself; there is one.
_META = Table(
    "export_state",
    "What the exports of this dataset have to know: which tables and which data it holds.",
    (Column("name", "VARCHAR", "What."), Column("value", "VARCHAR", "Its value, JSON.")),
    ("name",),
    "",
)
_NAME = "export"


class DatabaseSession:
    """A database that is open; what differs between databases is in the subclasses."""

    types: ClassVar[Mapping[str, str]]

    def __init__(self, shown: str) -> None:
        self.shown = shown

    @property
    def meta(self) -> Meta | None:
        """What the target knows of itself; None if it is new."""
        if not self.exists(_META):
            return None
        rows = self.query(f"SELECT value FROM {self.into(_META)} WHERE name = '{_NAME}'")
        return Meta.from_json(rows[0][0], self.shown) if rows else None

    def loaded(self) -> dict[Key, Loaded]:
        """Return what was loaded before."""
        if not self.exists(LOADED):
            return {}
        return loaded_from(self.query(f"SELECT run_uuid, file, bytes, rows, sha256 FROM {self.into(LOADED)}"))

    def load(self, load: Load) -> dict[str, Changes]:
        """Bring rows into the database, in one transaction. Returns what was done to each table."""
        self.begin()
        try:
            changes = self._load(load)
        except BaseException:
            self.rollback()
            raise
        self.commit()
        return changes

    def _load(self, load: Load) -> dict[str, Changes]:
        self.create(_META)
        removed = load.staging.removed_files()
        if removed:
            self.note_removed(removed)
        changes = {}
        for rows in load.rows:
            self.create(rows.table)
            into = self.into(rows.table)
            if load.rebuild:
                self.execute(f"DELETE FROM {into}")
            elif removed and rows.table.is_of_run:
                self.execute(sql.delete_removed(rows.table, into, REMOVED_FILES))
            changes[rows.table.name] = self._upsert(rows, load.staging)
        self._note(load.meta)
        return changes

    def _upsert(self, rows: Rows, staging: Staging) -> Changes:
        table, into = rows.table, self.into(rows.table)
        new = changed = 0
        if rows.count:
            staged = self.stage(rows, staging)
            ((known,),) = self.query(sql.known_keys(table, into, staged))
            changed = self.execute(sql.upsert(table, into, staged))
            new = rows.count - known
            self.unstage(staged)
        ((count,),) = self.query(f"SELECT count(*) FROM {into}")
        return Changes(count, new, max(changed - new, 0))

    def _note(self, meta: Meta) -> None:
        into = self.into(_META)
        self.execute(f"DELETE FROM {into} WHERE name = '{_NAME}'")
        self.execute(f"INSERT INTO {into} VALUES ('{_NAME}', {sql.literal(meta.as_json())})")

    # What the subclasses do:

    def into(self, table: Table) -> str:
        """Return the name of a table as SQL takes it."""
        return sql.name(table.name)

    def create(self, table: Table) -> None:
        """Create a table if it is missing, and add the columns that it lacks."""
        self.execute(sql.create(table, self.into(table), self.types))
        held = self.columns(table)
        for column in (each for each in table.columns if each.name not in held):
            kind = self.types[column.type]
            self.execute(f"ALTER TABLE {self.into(table)} ADD COLUMN {sql.name(column.name)} {kind}")

    def exists(self, table: Table) -> bool:
        """Tell whether the database has a table."""
        return bool(self.columns(table))

    @abstractmethod
    def begin(self) -> None:
        """Begin a transaction."""

    @abstractmethod
    def commit(self) -> None:
        """End the transaction."""

    @abstractmethod
    def rollback(self) -> None:
        """Undo the transaction."""

    @abstractmethod
    def columns(self, table: Table) -> set[str]:
        """Return the names of the columns that a table has; none if it does not exist."""

    @abstractmethod
    def execute(self, statement: str) -> int:
        """Run a statement, and return how many rows it has inserted, updated or deleted."""

    @abstractmethod
    def query(self, statement: str) -> Sequence[tuple[Any, ...]]:
        """Return the rows of a query."""

    @abstractmethod
    def stage(self, rows: Rows, staging: Staging) -> str:
        """Bring rows to the database, and return what they are called there."""

    def unstage(self, staged: str) -> None:
        """Remove what `stage` has brought."""
        self.execute(f"DROP TABLE {staged}")

    def note_removed(self, removed: Sequence[tuple[str, ...]]) -> None:
        """Make a temporary table of the files whose rows are to be replaced, as that of `Staging`."""
        columns = ", ".join(f"{name} {self.types[kind]}" for name, kind in REMOVED_COLUMNS.items())
        self.execute(f"CREATE TEMPORARY TABLE {REMOVED_FILES} ({columns})")
        values = ", ".join(f"({', '.join(map(sql.literal, each))})" for each in removed)
        self.execute(f"INSERT INTO {REMOVED_FILES} VALUES {values}")
