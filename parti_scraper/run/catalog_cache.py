"""What the catalog has read before: one SQLite file, which may be deleted or damaged at any time and is made again.

A row holds all that was read in the folder of a run: each data package's size and time of change, and its entry. It is
right by itself, or it is not used: it has a checksum, and the entries name their folders. So nothing has to be kept
in step, whatever processes write at the same time.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from typing import TYPE_CHECKING, Self

import msgspec

from parti_scraper import __version__
from parti_scraper.run.entries import Entry, File

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

FILE_NAME = "catalog.sqlite"
# Seconds to wait for another process; whoever waits in vain does without.
_BUSY_TIMEOUT = 1.0
# To be raised when data packages come to be read otherwise between two versions of the project.
_READING = 1
_TABLES = """
CREATE TABLE folder (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE);
CREATE TABLE run (
    folder INTEGER NOT NULL, name BLOB NOT NULL, read BLOB NOT NULL, PRIMARY KEY (folder, name)
) WITHOUT ROWID
"""
_CHECKSUM = 4
# No name of a file sorts after it.
_LAST = b"\xff" * 256

# Size in bytes and time of change in nanoseconds.
Signature = tuple[int, int]


class Package(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A data package as it was when it was read, and its entry."""

    signature: Signature
    entry: Entry


class Read(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was read in the folder of a run: its own data package, if it had one, and those of its days."""

    own: Package | None = None
    days: tuple[Package, ...] = ()


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Read)
NOTHING = Read()


class Cache:
    """What was read before. Nothing that goes wrong with it is an error: then nothing was read before."""

    def __init__(self, connection: sqlite3.Connection | None, path: Path | None = None) -> None:
        """Use a database with the tables, or none."""
        self._connection = connection
        self._path = path
        self._writes = connection is not None

    @classmethod
    def open(cls, path: Path | None) -> Self:
        """Open a file, and make it where there is none that can be used; None: no file."""
        if path is None:
            return cls(None)
        for _ in range(2):
            try:
                return cls(_connect(path), path)
            except sqlite3.Error as error:
                if not _is_damage(error):
                    break
                _remove(path)
        return cls(None)

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self._writes = None, False

    def read_before(self, parent: str, after: str, last: str | None) -> dict[str, Read]:
        """Return what was read before in the folders of runs, by their names, where it is whole.

        Args:
            parent: path of the folder that they are in.
            after: names that sort after this one, as bytes.
            last: the last of them; None: all.
        """
        query = (
            "SELECT name, read FROM run WHERE folder = (SELECT id FROM folder WHERE path = ?) "
            "AND name > ? AND name <= ?"
        )
        bounds = (os.fsencode(parent), os.fsencode(after), _LAST if last is None else os.fsencode(last))
        with self._tolerant(self.close):
            if self._connection is not None:
                rows = self._connection.execute(query, bounds).fetchall()
                return {os.fsdecode(name): _decode(read) for name, read in rows}
        return {}

    def note(self, parent: str, changed: Mapping[str, Read]) -> None:
        """Note what was read in the folders of runs; nothing: it is forgotten."""
        if not changed or not self._writes:
            return
        path = os.fsencode(parent)
        with self._tolerant(self._stop_writing), self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO folder (path) VALUES (?)", (path,))
            (folder,) = connection.execute("SELECT id FROM folder WHERE path = ?", (path,)).fetchone()
            for name, read in changed.items():
                row = (folder, os.fsencode(name))
                connection.execute("DELETE FROM run WHERE folder = ? AND name = ?", row)
                encoded = _encode(read)
                if encoded is not None:
                    connection.execute("INSERT INTO run VALUES (?, ?, ?)", (*row, encoded))

    def forget_gone(self) -> None:
        """Forget the folders that are not there any more."""
        if self._connection is None or not self._writes:
            return
        with self._tolerant(self._stop_writing):
            folders = self._connection.execute("SELECT id, path FROM folder").fetchall()
            gone = [(folder,) for folder, path in folders if not os.path.isdir(path)]  # noqa: PTH112 - it is bytes
            if gone:
                with self._transaction() as connection:
                    connection.executemany("DELETE FROM run WHERE folder = ?", gone)
                    connection.executemany("DELETE FROM folder WHERE id = ?", gone)

    def _stop_writing(self) -> None:
        self._writes = False

    @contextlib.contextmanager
    def _tolerant(self, give_up: Callable[[], None]) -> Iterator[None]:
        """Give up where the file cannot be used now; where it is damaged, remove it for the next time."""
        try:
            yield
        except (sqlite3.Error, TypeError, ValueError) as error:
            if not isinstance(error, sqlite3.Error) or _is_damage(error):
                self.close()
                if self._path is not None:
                    _remove(self._path)
            else:
                give_up()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        assert self._connection is not None  # noqa: S101 - asked before
        with _transaction(self._connection):
            yield self._connection


def _connect(path: Path) -> sqlite3.Connection:
    """Open the file; tables of another version are made anew. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        # Several rows to a page; of no effect once there are tables.
        connection.execute("PRAGMA page_size = 16384")
        # What a crash takes is read again.
        connection.execute("PRAGMA synchronous = OFF")
        if connection.execute("PRAGMA user_version").fetchone() != (_VERSION,):
            with _transaction(connection):
                _make(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _make(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA user_version").fetchone() == (_VERSION,):
        return  # By another process, meanwhile.
    for kind, name in connection.execute("SELECT type, name FROM sqlite_schema WHERE sql IS NOT NULL").fetchall():
        connection.execute(f'DROP {kind} IF EXISTS "{name.replace(chr(34), chr(34) * 2)}"')
    for statement in _TABLES.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {_VERSION}")


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _is_damage(error: sqlite3.Error) -> bool:
    """Tell whether the file is no good; else another process is at it, the disk is full, or it may not be written."""
    passing = {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
    # The lower byte of an error's code is its kind.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in passing


def _remove(path: Path) -> None:
    """Remove the file, and what SQLite has left beside it."""
    for suffix in ("-journal", "-wal", "-shm", ""):
        with contextlib.suppress(OSError):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _encode(read: Read) -> bytes | None:
    """Return what stands in a row; None for nothing, and for what cannot be encoded, such as endless numbers."""
    if read == NOTHING:
        return None
    try:
        encoded = _encoder.encode(read)
    except (ValueError, OverflowError, RecursionError):
        return None
    return zlib.crc32(encoded).to_bytes(_CHECKSUM, "big") + encoded


def _decode(row: bytes) -> Read:
    """Return what stands in a row; nothing where it is not whole."""
    encoded = memoryview(row)[_CHECKSUM:]
    if int.from_bytes(row[:_CHECKSUM], "big") != zlib.crc32(encoded):
        return NOTHING
    try:
        return _decoder.decode(encoded)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return NOTHING


def _version() -> int:
    """Return a number that another version of the project does not have, nor one whose entries have other fields."""
    fields = [each.__struct_fields__ for each in (Read, Package, Entry, File)]
    return zlib.crc32(repr((_READING, __version__, fields)).encode()) & 0x7FFF_FFFF


_VERSION = _version()
