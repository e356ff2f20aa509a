"""`StateFile`: the state of an engine in SQLite, so that a process continues where a killed one stopped."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from codomyrmex.integrations.delivery.errors import DeliveryError
from codomyrmex.integrations.notification.alerts.silences import Silence, SilenceState
from codomyrmex.streaming.forks import renew_in_children

try:
    import fcntl
except ImportError:  # on Windows, where the file is not locked
    fcntl = None  # type: ignore[assignment]

_VERSION = 1
_SCHEMA = "CREATE TABLE state (kind TEXT, key TEXT, value TEXT, PRIMARY KEY (kind, key)) WITHOUT ROWID"
_MAGIC = b"SQLite format 3\0"  # https://www.sqlite.org/fileformat.html#the_database_header
_FORMAT = slice(60, 64)  # the user version
_NOT_OURS = "is not a state file of alerts or is damaged; move it away to start without it"

_BUSY_TIMEOUT = 100  # milliseconds

# The connections of the parent process: SQLite forbids closing them in a child.
_inherited: list[sqlite3.Connection] = []


class StateError(DeliveryError):
    """A state file cannot be used."""


class StateFile:
    """The state of an alert engine in a file; it is used from one thread. All methods raise `StateError`.

    What is saved survives a crash of the process at any time. After a power failure the last seconds may be
    missing, because SQLite's write-ahead log does not wait for the disk; their notifications are repeated.

    A new file can be read by its owner only. Links are not followed, so that two paths are two files. A file
    that is not a state file is never changed; only an empty one is made one, with the mode `rwc`.

    Args:
        path: the file.
        mode: as in SQLite's URIs: `rwc` creates the file if it does not exist, `rw` does not, and with `ro`
            nothing is written, neither to the file nor beside it.
    """

    def __init__(self, path: str | os.PathLike[str], mode: Literal["ro", "rw", "rwc"] = "rwc") -> None:
        self.path = Path(path)
        self._mode = mode
        self._lock: int | None = None
        self._data_version = -1
        with self._errors("cannot be opened"):
            folder = self.path.parent.resolve()  # each path through a folder that is a link has the same lock
            self._real_path = folder / self.path.name
            descriptor = self._open(self._real_path, os.O_CREAT if mode == "rwc" else 0)
            with os.fdopen(descriptor, "rb") as file:
                self._identity = _identity(os.fstat(descriptor))
                header = file.read(100)
        with self._errors(_NOT_OURS):
            self._check_header(header)
        with self._errors("cannot be opened"):
            self._database = sqlite3.connect(
                f"{self._real_path.as_uri()}?{self._access()}",
                uri=True,
                timeout=5,
                isolation_level=None,
                check_same_thread=False,
            )
        try:
            with self._errors(_NOT_OURS):
                self._initialize()
        except StateError:
            self._database.close()
            raise
        renew_in_children(self)

    def _open(self, path: Path, create: int = os.O_CREAT) -> int:
        """Open or create a regular file that is neither a link nor linked from elsewhere."""
        flags = create | (os.O_RDONLY if self._mode == "ro" else os.O_RDWR)
        for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK"):  # not all on Windows
            flags |= getattr(os, name, 0)
        if path.is_symlink():
            raise StateError(f"the state file {path} is a symbolic link; use the path that it leads to")
        descriptor = os.open(path, flags, 0o600)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            os.close(descriptor)
            problem = "has several hard links" if stat.S_ISREG(status.st_mode) else "is not a regular file"
            raise StateError(f"the state file {path} {problem}; use a separate path")
        return descriptor

    # SQLite would recover the database of another program, and write its journal into it.
    def _check_header(self, header: bytes) -> None:
        """Raise an error unless a file begins like a state file, or is empty and may become one."""
        if not header:
            if self._mode != "rwc":
                raise StateError(f"the state file {self.path} is not a state file of alerts: it is empty")
            return
        if not header.startswith(_MAGIC):
            raise ValueError("it is not an SQLite database")
        version = int.from_bytes(header[_FORMAT], "big")
        if version != _VERSION:
            raise ValueError(f"the format is {version}, expected {_VERSION}")

    def _access(self) -> str:
        # Without a write-ahead log no process uses the file, and SQLite would create one for reading.
        if self._mode == "ro" and not self._real_path.with_name(f"{self._real_path.name}-wal").exists():
            return "immutable=1"
        return f"mode={self._mode}"

    def _check_identity(self) -> None:
        """Raise an error if the path leads to another file than the open one."""
        try:
            identity = _identity(self._real_path.lstat())
        except FileNotFoundError:
            identity = None
        if identity != self._identity:
            change = "removed" if identity is None else "replaced"
            raise StateError(
                f"the state file {self.path} was {change} while it was in use; restart to use it"
            )

    def after_fork(self) -> None:
        """Leave the database and the lock to the parent process."""
        _inherited.append(self._database)
        self._unlock()

    def _initialize(self) -> None:
        run = self._database.execute
        [version] = run("PRAGMA user_version").fetchone()
        tables = {name for (name,) in run("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables - {"state"}:
            raise sqlite3.DatabaseError(f"it has other tables: {', '.join(sorted(tables)[:3])}")
        if version != _VERSION:  # in one transaction, so that the version is never that of another file
            run("BEGIN IMMEDIATE")
            if not run("SELECT 1 FROM sqlite_master").fetchone():  # another process may have been first
                run(_SCHEMA)
                run(f"PRAGMA user_version={_VERSION}")
            run("COMMIT")
        run("SELECT kind, key, value FROM state LIMIT 0")
        if self._mode != "ro":
            run("PRAGMA journal_mode=WAL")  # not written again: the disk may be full
            run("PRAGMA synchronous=NORMAL")

    def claim(self) -> None:
        """Lock the state for this process, which sends notifications. Silences do not need the lock.

        From now on, `save` does not wait for other processes, because notifications wait for it.
        """
        self._database.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT}")
        if fcntl is None:
            return
        try:
            with self._errors("cannot be locked"):
                self._lock = self._open(self._real_path.with_name(f"{self._real_path.name}.lock"))
                try:
                    fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    holder = os.read(self._lock, 20).decode(errors="replace").strip() or "unknown"
                    raise StateError(
                        f"the state file {self.path} is in use by process {holder}; "
                        "each process that sends notifications needs its own"
                    ) from None
        except StateError:
            self._unlock()
            raise
        with suppress(OSError):  # on a full disk the lock holds anyway
            os.truncate(self._lock, 0)
            os.write(self._lock, f"{os.getpid()}\n".encode())

    def load(self) -> dict[tuple[str, str], Any]:
        """Return the state, for `AlertEngine(config, state)`."""
        with self._errors("cannot be read"):
            rows = self._database.execute("SELECT kind, key, value FROM state").fetchall()
            return {(kind, _text(json.loads(key))): json.loads(value) for kind, key, value in rows}

    def save(self, changes: Mapping[tuple[str, str], Any], *, replace: bool = False) -> None:
        """Save changes of the state in one transaction.

        Args:
            changes: the values by kind and key; None removes a key.
            replace: whether these are all alerts, groups and entries of the log. Silences are kept, as other
                processes add some too.
        """
        # Keys are JSON too: labels may contain lone surrogates, which SQLite does not accept.
        rows = [(kind, json.dumps(key), value) for (kind, key), value in changes.items()]
        removed = [(kind, key) for kind, key, value in rows if value is None]
        saved = [(kind, key, json.dumps(value)) for kind, key, value in rows if value is not None]
        with self._errors("cannot be written"):
            try:
                self._check_identity()
                self._database.execute("BEGIN IMMEDIATE")
                if replace:
                    self._database.execute("DELETE FROM state WHERE kind != 'silence'")
                self._database.executemany("DELETE FROM state WHERE kind = ? AND key = ?", removed)
                self._database.executemany("INSERT OR REPLACE INTO state VALUES (?, ?, ?)", saved)
                self._database.execute("COMMIT")
            except sqlite3.Error:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def silences(self) -> list[Silence]:
        """Return the silences, the last to end first."""
        with self._errors("cannot be read"):
            rows = self._database.execute("SELECT value FROM state WHERE kind = 'silence'").fetchall()
            silences = [Silence.from_dict(json.loads(value)) for (value,) in rows]
            return sorted(silences, key=lambda silence: -silence.ends_at)

    def add_silence(self, silence: Silence) -> None:
        """Add a silence; a running sink with this state applies it within seconds."""
        self.save({("silence", silence.id): silence.to_dict()})

    def expire_silence(self, silence_id: str, now: float) -> Silence:
        """Expire a silence now, and return it.

        Raises:
            KeyError: no silence has this id.
            ValueError: the silence has expired already.
        """
        silence = next((each for each in self.silences() if each.id == silence_id), None)
        if silence is None:
            raise KeyError(silence_id)
        if silence.state(now) is SilenceState.EXPIRED:
            raise ValueError(f"silence {silence_id} has expired already")
        expired = silence.ended(now)
        self.add_silence(expired)
        return expired

    def changed_by_others(self) -> bool:
        """Return whether another process has written since the last call."""
        with self._errors("cannot be read"):
            self._check_identity()
            [version] = self._database.execute("PRAGMA data_version").fetchone()
        changed = self._data_version not in {-1, version}
        self._data_version = version
        return changed

    def close(self) -> None:
        """Close the file, and unlock it for other processes."""
        self._database.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextmanager
    def _errors(self, problem: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError, TypeError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StateError(f"the state file {self.path} {problem}: {reason}") from None


def _text(key: object) -> str:
    if not isinstance(key, str):
        raise ValueError(f"a key must be a string, got {type(key).__name__}")  # noqa: TRY004 - as damaged rows are
    return key


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
