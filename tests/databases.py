"""Databases that are exported into, as their users see them: a file of SQLite, and a schema of PostgreSQL."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import psycopg


class Database(Protocol):
    """A database.

    Attributes:
        target: what `scrapy export` is told.
    """

    target: str

    def query(self, statement: str) -> Sequence[tuple[Any, ...]]:
        """Execute a statement, and return its rows, if it has any."""

    def another(self) -> str:
        """Return another target, in which nothing is."""


class Sqlite:
    """A file of SQLite, which does not exist yet."""

    def __init__(self, folder: Path) -> None:
        """Name a file in an existing folder."""
        self._targets = (str(folder / f"dataset-{number}.sqlite") for number in itertools.count())
        self.target = next(self._targets)

    def query(self, statement: str) -> Sequence[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.target)) as connection, connection:
            return connection.execute(statement).fetchall()

    def another(self) -> str:
        return next(self._targets)


class Postgres:
    """An empty database of PostgreSQL."""

    def __init__(self, address: str) -> None:
        """Take the database with this address."""
        self.target = address
        self._schemas = itertools.count()

    def query(self, statement: str) -> Sequence[tuple[Any, ...]]:
        with psycopg.connect(self.target, options="-c search_path=parti,public") as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def another(self) -> str:
        return f"{self.target}?schema=schema_{next(self._schemas)}"
