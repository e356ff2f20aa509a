"""`StateFile`: keeps in SQLite what an engine knows, so that a killed process goes on where it was."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from codomyrmex.integrations.delivery.errors import DeliveryError
from codomyrmex.integrations.notification.alerts.silences import Silence, SilenceState
from codomyrmex.streaming.forks import renew_in_children

try:
    import fcntl
except ImportError:  # not on Windows: there is no lock then
    fcntl = None  # type: ignore[assignment]

_VERSION = 1
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS state (kind TEXT, key TEXT, value TEXT, PRIMARY KEY (kind, key)) WITHOUT ROWID
"""

# In a child process: databases of its parent. They are kept, as SQLite says not to close them there.
_of_parents: list[sqlite3.Connection] = []


class StateError(DeliveryError):
    """A state file cannot be used."""


class StateFile:
    """The state of an alert engine in a file; used from one thread.

    What is saved survives the end of the process at any moment, though not that of the machine: SQLite
    writes ahead without waiting for the disk, so after a power failure the last seconds can be missing,
    and their notifications are sent again.

    Args:
        path: the file; made if there is none.

    Raises:
        StateError: it cannot be opened, or is no state file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock: int | None = None
        self._seen = -1
        try:
            self._database = sqlite3.connect(
                self.path, timeout=5, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise self._error("cannot be opened", error) from None
        try:
            self._begin()
        except sqlite3.Error as error:
            self._database.close()
            raise self._error(
                "is no state file of alerts, or is damaged; move it away to begin anew", error
            ) from None
        renew_in_children(self)

    def after_fork(self) -> None:
        """Leave it to the parent process, whose lock must not last as long as this one."""
        _of_parents.append(self._database)
        self._unlock()

    def _begin(self) -> None:
        run = self._database.execute
        run("PRAGMA journal_mode=WAL")
        run("PRAGMA synchronous=NORMAL")
        [version] = run("PRAGMA user_version").fetchone()
        if version == _VERSION:
            return  # nothing is written, as the disk may be full and others may be writing
        if version != 0:
            raise sqlite3.DatabaseError(f"it has the format {version}, this program knows {_VERSION}")
        run(_SCHEMA)
        run(f"PRAGMA user_version={_VERSION}")

    def claim(self) -> None:
        """Say that this process sends by this state. Silences can be set without.

        Raises:
            StateError: another process does, or it cannot be locked.
        """
        if fcntl is None:
            return
        try:
            self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._lock or 0, 20).decode(errors="replace").strip() or "unknown"
            self._unlock()
            raise StateError(
                f"the state file {self.path} is in use by the process {holder}; "
                "each process that sends needs a state file of its own"
            ) from None
        except OSError as error:
            self._unlock()
            raise self._error("cannot be locked", error) from None
        with suppress(OSError):  # on a full disk the lock holds all the same
            os.truncate(self._lock, 0)
            os.write(self._lock, f"{os.getpid()}\n".encode())

    def load(self) -> dict[tuple[str, str], Any]:
        """Give all that is kept, for `AlertEngine(config, state)`.

        Raises:
            StateError: it cannot be read.
        """
        try:
            rows = self._database.execute("SELECT kind, key, value FROM state").fetchall()
            return {(kind, json.loads(key)): json.loads(value) for kind, key, value in rows}
        except (sqlite3.Error, ValueError) as error:
            raise self._error("cannot be read", error) from None

    def save(self, changes: Mapping[tuple[str, str], Any]) -> None:
        """Save what `AlertEngine.take_changes` gave, all of it or nothing.

        Raises:
            StateError: it cannot be written, as on a full disk.
        """
        # Keys as JSON too: SQLite takes no text that UTF-8 cannot say, and labels come from outside.
        gone = [(kind, json.dumps(key)) for (kind, key), value in changes.items() if value is None]
        rows = [
            (kind, json.dumps(key), json.dumps(value))
            for (kind, key), value in changes.items()
            if value is not None
        ]
        run = self._database
        try:
            run.execute("BEGIN IMMEDIATE")
            run.executemany("DELETE FROM state WHERE kind = ? AND key = ?", gone)
            run.executemany("INSERT OR REPLACE INTO state VALUES (?, ?, ?)", rows)
            run.execute("COMMIT")
        except sqlite3.Error as error:
            if run.in_transaction:
                run.execute("ROLLBACK")
            raise self._error("cannot be written", error) from None

    def silences(self) -> list[Silence]:
        """Give the silences, the latest to end first.

        Raises:
            StateError: they cannot be read.
        """
        try:
            rows = self._database.execute("SELECT value FROM state WHERE kind = 'silence'").fetchall()
            found = [Silence.from_dict(json.loads(value)) for (value,) in rows]
        except (sqlite3.Error, ValueError) as error:
            raise self._error("cannot be read", error) from None
        return sorted(found, key=lambda silence: -silence.ends_at)

    def add_silence(self, silence: Silence) -> None:
        """Add a silence. A running sink with this state sees it within seconds.

        Raises:
            StateError: it cannot be written.
        """
        self.save({("silence", silence.id): silence.to_dict()})

    def expire_silence(self, silence_id: str, now: float) -> Silence:
        """End a silence now, and give it.

        Raises:
            KeyError: there is none with this id.
            ValueError: it has ended before.
            StateError: it cannot be written.
        """
        silence = next((each for each in self.silences() if each.id == silence_id), None)
        if silence is None:
            raise KeyError(silence_id)
        if silence.state(now) is SilenceState.EXPIRED:
            raise ValueError(f"the silence {silence_id} has ended before")
        ended = silence.ended(now)
        self.add_silence(ended)
        return ended

    def changed_by_others(self) -> bool:
        """Tell whether another process has written since the last call."""
        try:
            [version] = self._database.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error as error:
            raise self._error("cannot be read", error) from None
        changed = self._seen not in {-1, version}
        self._seen = version
        return changed

    def close(self) -> None:
        """Close it, and let other processes send by it."""
        self._database.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _error(self, what: str, error: Exception) -> StateError:
        return StateError(f"the state file {self.path} {what}: {error}")
