"""What the catalog has read before: an SQLite file that may be deleted or damaged at any time, and is made again.

A row has all that was read in the folder of a run: the size and time of change of each data package, and its entry.
Rows do not depend on each other: each has a checksum, and entries name their folders. So several processes may write at
the same time.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from parti_scraper import __version__
from parti_scraper.run.entries import Entry, File

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FILE_NAME = "catalog.sqlite"
# Seconds to wait for another process, before doing without the file.
_BUSY_TIMEOUT = 1.0
# To be raised if data packages are read in another way within one version of the project.
_READING = 1
_TABLES = """
CREATE TABLE folder (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE);
CREATE TABLE run (
    folder INTEGER NOT NULL, name BLOB NOT NULL, read BLOB NOT NULL, PRIMARY KEY (folder, name)
) WITHOUT ROWID
"""
# Bytes.
_CHECKSUM = 4
_MEMORY = ":memory:"
# No name of a file sorts after it.
_LAST = b"\xff" * 256

# Size in bytes and time of change in nanoseconds.
Signature = tuple[int, int]


class Package(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A data package as it was when it was read, and its entry."""

    signature: Signature
    entry: Entry


class Read(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was read in the folder of a run: its own data package, if there is one, and those of its days."""

    own: Package | None = None
    days: tuple[Package, ...] = ()


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Read)
NOTHING = Read()


class Cache:
    """What was read before. No failure of the file is an error; it only means that nothing was read before."""

    def __init__(self, path: Path | None) -> None:
        """Open a file, and make it anew if it cannot be used; None: no file."""
        self._path = path
        self._writes = path is not None
        self._connection = self._open()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def read_before(self, parent: str, after: str, last: str | None) -> dict[str, Read]:
        """Return what was read before in the folders of runs, by their names; damaged rows are empty.

        Args:
            parent: path of the folder that they are in.
            after: only names that sort after this one, as bytes.
            last: only names up to this one; None: all.
        """
        query = (
            "SELECT name, read FROM run WHERE folder = (SELECT id FROM folder WHERE path = ?) "
            "AND name > ? AND name <= ?"
        )
        bounds = (os.fsencode(parent), os.fsencode(after), _LAST if last is None else os.fsencode(last))
        found: dict[str, Read] = {}
        with self._tolerant(is_read=True):
            rows = self._connection.execute(query, bounds).fetchall()
            found |= {os.fsdecode(name): _decode(read) for name, read in rows}
        return found

    def note(self, parent: str, changed: Mapping[str, Read]) -> None:
        """Note what was read in the folders of runs; those with `NOTHING` are forgotten."""
        if not changed or not self._writes:
            return
        path = os.fsencode(parent)
        with self._tolerant(), _transaction(self._connection) as connection:
            connection.execute("INSERT OR IGNORE INTO folder (path) VALUES (?)", (path,))
            (folder,) = connection.execute("SELECT id FROM folder WHERE path = ?", (path,)).fetchone()
            rows = [(folder, os.fsencode(name), _encode(read)) for name, read in changed.items()]
            connection.executemany("DELETE FROM run WHERE folder = ? AND name = ?", [row[:2] for row in rows])
            connection.executemany("INSERT INTO run VALUES (?, ?, ?)", [row for row in rows if row[2]])

    def forget_gone(self) -> None:
        """Forget the folders that do not exist any more."""
        if not self._writes:
            return
        with self._tolerant():
            folders = self._connection.execute("SELECT id, path FROM folder").fetchall()
            gone = [(folder,) for folder, path in folders if not os.path.isdir(path)]  # noqa: PTH112 - it is bytes
            if gone:
                with _transaction(self._connection) as connection:
                    connection.executemany("DELETE FROM run WHERE folder = ?", gone)
                    connection.executemany("DELETE FROM folder WHERE id = ?", gone)

    @contextlib.contextmanager
    def _tolerant(self, *, is_read: bool = False) -> Iterator[None]:
        """Go on without the file if it cannot be read, and read only if it cannot be written; remove it if damaged."""
        try:
            yield
        except (sqlite3.Error, TypeError, ValueError) as error:
            self._writes = False
            is_damaged = not isinstance(error, sqlite3.Error) or _is_damage(error)
            if is_read or is_damaged:
                self.close()
                self._connection = _connect(_MEMORY)
            if is_damaged:
                self._remove()

    def _open(self) -> sqlite3.Connection:
        if self._path:
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2 if self._path else 0):
            try:
                return _connect(str(self._path))
            except sqlite3.Error as error:
                if not _is_damage(error):
                    break
                self._remove()
        self._writes = False
        return _connect(_MEMORY)

    def _remove(self) -> None:
        """Remove the file, and what SQLite left beside it."""
        for suffix in ("-journal", "-wal", "-shm", ""):
            with contextlib.suppress(OSError):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)


def _connect(path: str) -> sqlite3.Connection:
    """Open a file; tables of another version are replaced. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        # Several rows to a page; has no effect once there are tables.
        connection.execute("PRAGMA page_size = 16384")
        # What a crash destroys is read again.
        connection.execute("PRAGMA synchronous = OFF")
        if not _is_current(connection):
            with _transaction(connection):
                _make(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_current(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("PRAGMA user_version").fetchone() == (_VERSION,))


def _make(connection: sqlite3.Connection) -> None:
    if _is_current(connection):  # Another process has made them in the meantime.
        return
    for kind, name in connection.execute("SELECT type, name FROM sqlite_schema WHERE sql IS NOT NULL").fetchall():
        connection.execute(f'DROP {kind} IF EXISTS "{name.replace(chr(34), chr(34) * 2)}"')
    for statement in _TABLES.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {_VERSION}")


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _is_damage(error: sqlite3.Error) -> bool:
    """Tell whether the file is damaged, not locked by another process, on a full disk, or without permission."""
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


def _encode(read: Read) -> bytes | None:
    """Return the content of a row; None if there is nothing, or if it cannot be encoded, such as very large numbers."""
    if read == NOTHING:
        return None
    try:
        encoded = _encoder.encode(read)
    except (ValueError, OverflowError, RecursionError):
        return None
    return zlib.crc32(encoded).to_bytes(_CHECKSUM, "big") + encoded


def _decode(row: bytes) -> Read:
    """Return what a row says; `NOTHING` if it is damaged."""
    encoded = memoryview(row)[_CHECKSUM:]
    if int.from_bytes(row[:_CHECKSUM], "big") != zlib.crc32(encoded):
        return NOTHING
    try:
        return _decoder.decode(encoded)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return NOTHING


def _version() -> int:
    """Return a number that differs for other versions of the project, and for entries with other fields."""
    fields = [each.__struct_fields__ for each in (Read, Package, Entry, File)]
    return zlib.crc32(repr((_READING, __version__, fields)).encode()) & 0x7FFF_FFFF


_VERSION = _version()
