"""`OldState`: the state file of earlier versions, from which a shared state continues."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.durable.store import StoreConfigError

try:
    import fcntl
except ImportError:  # on Windows, where the file was not locked
    fcntl = None  # type: ignore[assignment]

_MAGIC = b"SQLite format 3\0"  # https://www.sqlite.org/fileformat.html#the_database_header
_VERSION, _APPLICATION_ID = slice(60, 64), slice(68, 72)
_LOCK_TIMEOUT = 1.0  # seconds; another process may be moving the file as well
_OLD = (b"\0\0\0\1", b"\0\0\0\0")
_DAMAGED = (sqlite3.Error, UnicodeDecodeError)  # the latter for a message with bytes of the file

_log = Diagnostics(__name__)


class OldState:
    """An old state file. It is `<path>.old` from when it was moved until a shared state continues from it.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[tuple[str, str], Any]:
        """Return the state by kind and key, for `AlertEngine(config, state)`; nothing is written.

        A row that is damaged is skipped and logged. There is nothing if the file is not there any more.

        Raises:
            StoreConfigError: the file is damaged.
        """
        if not self.path.exists():
            return {}
        try:
            with closing(_connect(self.path, self.access())) as database:
                database.text_factory = bytes
                rows = database.execute("SELECT kind, key, value FROM state").fetchall()
        except _DAMAGED as error:
            raise _damaged(self.path, error) from None
        state = {}
        for kind, key, value in rows:
            try:
                state[str(kind, "utf-8"), str(json.loads(key))] = json.loads(value)
            except (ValueError, TypeError, RecursionError) as error:
                _log.warning("row", "%s: a row of kind %r is skipped: %s", self.path, kind, error)
        return state

    def access(self) -> str:
        """Return how SQLite reads the file without writing anything."""
        # Without a write-ahead log no process uses the file, and SQLite would create one for reading.
        wal = self.path.with_name(f"{self.path.name}-wal")
        return "mode=ro" if wal.exists() else "mode=ro&immutable=1"

    def finish(self) -> None:
        """Rename it to `<path>.migrated`, as a shared state continues from it now."""
        with suppress(OSError):  # another process was faster; or it is not used anyway, as there is a state
            self.path.replace(self.path.with_suffix(".migrated"))


def find_old_state(path: Path) -> OldState | None:
    """Return the old state file at a path, or the one that was moved from there; None if there is none."""
    if _is_old(path):
        return OldState(path)
    old = _moved(path)
    return OldState(old) if old.is_file() else None


def move_old_state(path: Path) -> OldState | None:
    """Move an old state file to `<path>.old` if there is one, and return it; None if there is none.

    Several processes may do this at the same time.

    Raises:
        StoreConfigError: a process of an older version uses the file, or it is damaged.
    """
    old = _moved(path)
    if _is_old(path):
        with _Lock(path.with_name(f"{path.name}.lock")):
            if _is_old(path):
                _empty_log(path)
                path.rename(old)
    return OldState(old) if old.is_file() else None


def _moved(path: Path) -> Path:
    return path.with_name(f"{path.name}.old")


def _empty_log(path: Path) -> None:
    """Move what is in the write-ahead log into the file."""
    try:
        with closing(_connect(path, "mode=rw")) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except _DAMAGED as error:
        raise _damaged(path, error) from None


def _connect(path: Path, access: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?{access}", uri=True)


def _damaged(path: Path, error: Exception) -> StoreConfigError:
    return StoreConfigError(f"state: {path}: it is damaged, {error}; move it away to start without it")


def _is_old(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            header = file.read(100)
    except OSError:
        return False
    if not header.startswith(_MAGIC) or (header[_VERSION], header[_APPLICATION_ID]) != _OLD:
        return False
    try:  # it may be the database of another program
        with closing(_connect(path, OldState(path).access())) as database:
            database.execute("SELECT kind, key, value FROM state LIMIT 0")
            [tables] = database.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()
    except _DAMAGED:
        return False
    return bool(tables == 1)


class _Lock:
    """The lock that a process of an older version holds while it uses its state file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1

    def __enter__(self) -> None:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        end = time.monotonic() + _LOCK_TIMEOUT
        while fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() > end:
                    os.close(self._file)
                    problem = "it is in use by a process of an older version; stop it first"
                    raise StoreConfigError(f"state: {self._path.with_suffix('')}: {problem}") from None
                time.sleep(_LOCK_TIMEOUT / 20)
            else:
                return

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._file)
