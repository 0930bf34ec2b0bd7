"""What targets that are databases have in common: the tables are brought up to date by the database itself."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from parti_scraper.dataset import sql
from parti_scraper.dataset.staging import REMOVED_COLUMNS, REMOVED_FILES
from parti_scraper.dataset.tables import LOADED, Column, Table, all_tables
from parti_scraper.dataset.targets.base import Changes, Load, Meta, loaded_from, loaded_query
from parti_scraper.exceptions import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from parti_scraper.dataset.plan import Key, Loaded
    from parti_scraper.dataset.staging import Rows, Staging
    from parti_scraper.dataset.targets.base import Wanted

# A row for each thing that the target knows of itself; there is one.
META = Table(
    "export_state",
    "What the exports of this dataset have to know: which tables and which data it holds.",
    (Column("name", "VARCHAR", "What."), Column("value", "VARCHAR", "Its value, JSON.")),
    ("name",),
    "",
)
_NAME = "export"


def meta_query(of: str) -> str:
    """Return the query for what a target knows of itself; `of` is the name of the table `META`."""
    return f"SELECT value FROM {of} WHERE name = '{_NAME}'"


class Upserted(NamedTuple):
    """What was done with the rows that were brought to a table.

    Attributes:
        changed: how many of them were inserted, or have replaced another one.
        altered: how many of their texts the database could not hold as they were.
    """

    changed: int
    altered: int = 0


class DatabaseSession:
    """A database that is open; what differs between databases is in the subclasses.

    Attributes:
        types: the names of the column types, by those of DuckDB.
        until_commit: what the statement that makes a temporary table says for it to go with the transaction.
    """

    types: ClassVar[Mapping[str, str]]
    until_commit: ClassVar[str] = ""

    def __init__(self, shown: str) -> None:
        self.shown = shown

    @property
    def meta(self) -> Meta | None:
        """What the target knows of itself; None if it is new."""
        if not self.exists(META):
            return None
        rows = self.query(meta_query(self.into(META)))
        return Meta.from_json(rows[0][0], self.shown) if rows else None

    def loaded(self) -> dict[Key, Loaded]:
        """Return what was loaded before."""
        if not self.exists(LOADED):
            return {}
        return loaded_from(self.query(loaded_query(self.into(LOADED))))

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
        if not self.exists(META):
            self._check_new()
        elif load.rebuild:
            self._empty()
        self.create(META)
        removed = load.staging.removed_files()
        if removed:
            self.note_removed(removed)
        changes = {}
        for rows in load.rows:
            self.create(rows.table)
            if removed and rows.table.is_of_run:
                self.execute(sql.delete_removed(rows.table, self.into(rows.table), REMOVED_FILES))
            if rows.table.name in load.gone:
                columns = [each for each in rows.table.columns if each.name in rows.table.key]
                gone = self.bring(load.gone[rows.table.name], columns, load.staging)
                self.execute(sql.delete_gone(rows.table, self.into(rows.table), gone))
            changes[rows.table.name] = self._upsert(rows, load.staging)
        self._note(load.meta)
        return changes

    def fetch(self, wanted: Wanted, staging: Staging) -> None:
        """Copy rows that were loaded before into the staging database."""
        has = self.columns(wanted.table)
        if not has:
            return
        values = ", ".join(f"rows.{sql.name(each)}" if each in has else "NULL" for each in wanted.table.names)
        query = f"SELECT {values} FROM {self.into(wanted.table)} AS rows WHERE ({wanted.condition})"
        if wanted.keys:
            name, relation = wanted.keys
            keys = self.bring(relation, [each for each in wanted.table.columns if each.name == name], staging)
            query += f" AND rows.{sql.name(name)} IN (SELECT {sql.name(name)} FROM {keys})"
        self.copy_out(query, wanted, staging)

    def _check_new(self) -> None:
        """Raise UsageError if a table is there that no export has made."""
        for table in all_tables().values():
            if self.exists(table):
                raise UsageError(
                    f"{self.shown} has a table `{table.name}` that no export has made (accepted: another target)"
                )

    def _empty(self) -> None:
        """Delete all rows, also those of tables that are not wanted any more; what is granted on the tables stays."""
        for table in all_tables().values():
            if self.exists(table):
                self.execute(f"DELETE FROM {self.into(table)}")

    def _upsert(self, rows: Rows, staging: Staging) -> Changes:
        before = self._count(rows.table)
        if not rows.count:
            return Changes(before)
        done = self.upsert(rows, staging)
        after = self._count(rows.table)
        new = after - before
        return Changes(after, new, done.changed - new, done.altered)

    def _count(self, table: Table) -> int:
        ((count,),) = self.query(f"SELECT count(*) FROM {self.into(table)}")
        return int(count)

    def _note(self, meta: Meta) -> None:
        into = self.into(META)
        self.execute(f"DELETE FROM {into} WHERE name = '{_NAME}'")
        self.execute(f"INSERT INTO {into} VALUES ('{_NAME}', {sql.literal(meta.as_json())})")

    # What the subclasses do:

    def into(self, table: Table) -> str:
        """Return the name of a table as SQL takes it."""
        return sql.name(table.name)

    def create(self, table: Table) -> None:
        """Create a table if it is missing, and add the columns that it lacks."""
        known = self.columns(table)
        if not known:
            self.execute(sql.create(table, self.into(table), self.types))
            return
        missing = [each for each in table.columns if each.name not in known]
        for column in missing:
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
    def upsert(self, rows: Rows, staging: Staging) -> Upserted:
        """Bring rows into their table, each key of which is there once."""

    @abstractmethod
    def bring(self, relation: str, columns: Sequence[Column], staging: Staging) -> str:
        """Return the name of a relation of the staging database in this one, where it may be a copy."""

    @abstractmethod
    def copy_out(self, query: str, wanted: Wanted, staging: Staging) -> None:
        """Add the rows of a query to the table in the staging database that they are wanted in."""

    def note_removed(self, removed: Sequence[tuple[str, ...]]) -> None:
        """Make a temporary table of the files whose rows are to be replaced, as that of `Staging`."""
        columns = ", ".join(f"{name} {self.types[kind]}" for name, kind in REMOVED_COLUMNS.items())
        self.execute(f"CREATE TEMPORARY TABLE {REMOVED_FILES} ({columns}) {self.until_commit}")
        values = ", ".join(f"({', '.join(map(sql.literal, each))})" for each in removed)
        self.execute(f"INSERT INTO {REMOVED_FILES} VALUES {values}")
