"""The SQLite file of a `SQLiteStore`: opening and checking it, its tables, and its errors."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from codomyrmex.integrations.durable.store import (
    StoreConfigError,
    StoreError,
    StoreUnavailableError,
)

FORGET_AFTER = 7 * 86_400.0  # seconds after which the newest batch of a producer is forgotten

_APPLICATION_ID = 0x636F6D79  # of the file's header, as `file` shows it
_VERSION = 1  # of the schema
_COMPATIBLE_SINCE = 1  # the oldest version of this library's schema that can use the file as well
_NETWORK = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "fuse.sshfs",
    "fuse.s3fs",
    "ceph",
    "glusterfs",
    "afs",
}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_ROWS = 1_024  # inserted by one statement at most

_SCHEMA = f"""
CREATE TABLE logs (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, epoch TEXT NOT NULL, last INTEGER NOT NULL,
    size INTEGER NOT NULL
);
CREATE TABLE entries (
    log INTEGER NOT NULL, position INTEGER NOT NULL, time REAL NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (log, position)
) WITHOUT ROWID;
CREATE TABLE producers (
    log INTEGER NOT NULL, producer TEXT NOT NULL, number INTEGER NOT NULL, first INTEGER NOT NULL,
    time REAL NOT NULL, PRIMARY KEY (log, producer)
) WITHOUT ROWID;
CREATE TABLE leases (
    name TEXT PRIMARY KEY, owner TEXT, token INTEGER NOT NULL, renewals INTEGER NOT NULL,
    seconds REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE saved (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE compatibility AS SELECT {_COMPATIBLE_SINCE} AS since;
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_VERSION}
"""


def parse_url(url: str, durability: str) -> tuple[str, str]:
    """Return the path and the durability that a `sqlite:` URL names."""
    rest = url.removeprefix("sqlite:")
    location, _, query = rest.partition("?")
    host, slash, path = location.removeprefix("//").partition("/")
    if not rest.startswith("//") or host or not slash or not path:
        raise StoreConfigError(
            f"{url}: a SQLite URL has no host: sqlite:///relative.db, or sqlite:////absolute.db"
        )
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name != "durability":
            raise StoreConfigError(f"{url}: unknown parameter {name!r}; only durability is known")
        durability = value
    return unquote(path), durability


def connect(path: Path, durability: str, timeout: float, *, must_exist: bool) -> sqlite3.Connection:
    """Open the file; create it or its tables if they are missing, unless they must exist."""
    _check_place(path)
    if must_exist and not path.exists():
        raise StoreConfigError(f"sqlite:///{path}: there is no such file")
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, path, timeout, must_exist=must_exist)
        connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
        connection.execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_place(path: Path) -> None:
    directory = path.parent
    if not directory.is_dir():
        raise StoreConfigError(f"sqlite:///{path}: there is no directory {directory}; create it")
    if path.exists() and not path.is_file():
        raise StoreConfigError(f"sqlite:///{path}: it is not a regular file")
    kind = _file_system(directory.resolve())
    if kind in _NETWORK:
        raise StoreConfigError(
            f"sqlite:///{path}: SQLite cannot share a file on a network file system ({kind}); "
            "use a local directory, or PostgreSQL, Redis or NATS"
        )


def _file_system(directory: Path) -> str:
    """Return the type of the file system of a directory; an empty string where that is not known."""
    best, kind = "", ""
    try:
        lines = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        _, place, type_, *_ = [*line.split(" "), "", ""]
        place = place.replace("\\040", " ")
        if len(place) >= len(best) and directory.is_relative_to(place or "-"):
            best, kind = place, type_
    return kind


def _prepare(connection: sqlite3.Connection, path: Path, timeout: float, *, must_exist: bool) -> None:
    execute = connection.execute
    execute("BEGIN")  # one state of the file, as another process may be making the tables
    application, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
    tables = execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    connection.commit()
    if application != _APPLICATION_ID and (tables or application or version):
        raise StoreConfigError(
            f"sqlite:///{path}: the file is a database of another program; choose another path"
        )
    if must_exist and not version:
        raise StoreConfigError(f"sqlite:///{path}: the file is empty, it holds no store")
    _set_wal(connection, timeout)
    if version != _VERSION:
        execute("BEGIN IMMEDIATE")
        version = _pragma(connection, "user_version")  # another process may have been faster
        if version == 0:
            for statement in _SCHEMA.split(";"):
                execute(statement)
        connection.commit()
        since = execute("SELECT since FROM compatibility").fetchone()[0]
        if since > _VERSION:
            raise StoreConfigError(
                f"sqlite:///{path}: the file has version {version} of its tables, which this version of the "
                "library does not know; upgrade codomyrmex-streaming"
            )


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _set_wal(connection: sqlite3.Connection, timeout: float) -> None:
    """Switch to a write-ahead log; SQLite does not wait for others that are doing the same."""
    end = time.monotonic() + timeout
    while True:
        try:
            if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                raise StoreConfigError("sqlite: the file system does not support a write-ahead log")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)  # on the store's own thread
        else:
            return


_ENTRIES = "INSERT INTO entries (log, position, time, value)"
_VALUES = "INSERT OR REPLACE INTO saved (name, value)"


@lru_cache(maxsize=32)
def _insert(statement: str, columns: int, rows: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"{statement} VALUES {', '.join([row] * rows)}"


def insert_rows(
    connection: sqlite3.Connection, log: int, position: int, now: float, entries: Sequence[bytes]
) -> int:
    """Insert entries from a position on, and return their size."""
    _insert_all(connection, _ENTRIES, list(zip(repeat(log), count(position), repeat(now), entries)))
    return sum(map(len, entries))


def replace_values(connection: sqlite3.Connection, values: Mapping[str, bytes | None]) -> None:
    """Insert or replace values by name, and delete those that are None."""
    gone = [(name,) for name, value in values.items() if value is None]
    if gone:
        connection.executemany("DELETE FROM saved WHERE name = ?", gone)
    _insert_all(connection, _VALUES, [row for row in values.items() if row[1] is not None])


def _insert_all(connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows; the number of rows of each statement is a power of two.

    A statement for all rows gives up the GIL once rather than for each row, and few statements need to be
    compiled.
    """
    start, number = 0, _ROWS
    while start < len(rows):
        while number > len(rows) - start:
            number //= 2
        part = rows[start : start + number]
        connection.execute(_insert(statement, len(part[0]), number), list(chain.from_iterable(part)))
        start += number


def convert_os_error(error: OSError, place: str) -> StoreError:
    """Return the error to raise for one of the operating system."""
    kind = StoreConfigError if error.errno in _FORBIDDEN else StoreUnavailableError
    return kind(f"{place}: the file cannot be opened ({error.strerror or type(error).__name__})")


def convert_error(error: sqlite3.Error, place: str, timeout: float) -> StoreError:
    """Return the error to raise for one of SQLite."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreUnavailableError(f"{place}: another process has been writing for {timeout:g}s")
    if code == sqlite3.SQLITE_FULL:
        return StoreUnavailableError(f"{place}: the disk is full, or the file has reached a size limit")
    if code in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
        return StoreConfigError(
            f"{place}: the file is damaged or not a SQLite database ({error}); it was left as it is: "
            "restore a backup, or move it away to begin with a new one"
        )
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}:
        return StoreConfigError(
            f"{place}: the file cannot be opened for writing ({error}); check its permissions"
        )
    if code == sqlite3.SQLITE_IOERR:
        return StoreUnavailableError(f"{place}: reading or writing the file failed ({error})")
    return StoreError(f"{place}: {error}")
