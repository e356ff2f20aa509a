"""`SQLiteStore`: logs, leases and values in one SQLite file, for all processes of a host."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import uuid4

from codomyrmex.integrations.delivery.loop_thread import LoopThread
from codomyrmex.integrations.durable.store import (
    READ_BYTES,
    Batch,
    Bounds,
    Lease,
    LeaseLostError,
    Retention,
    Store,
    StoreConfigError,
    Stored,
    StoreError,
)
from codomyrmex.integrations.durable.stores.sqlite_schema import (
    FORGET_AFTER,
    insert_rows,
    parse_url,
    replace_values,
)
from codomyrmex.integrations.durable.stores.sqlite_thread import SQLiteThread
from codomyrmex.streaming.clock import SYSTEM_CLOCK, Clock

_new_stored = partial(tuple.__new__, Stored)  # a third of the cost of `Stored._make`
_TRIM_ROWS = 10_000  # removed in one transaction, so that writers do not wait long
_FETCH = 16  # entries of up to 1 MiB each that are in memory at once beyond what is returned
_SMALL = 4_096  # bytes
_AFTER_ALL = "\U0010ffff"  # sorts after every character of a name


class _Seen(NamedTuple):
    """The last change of another owner's lease, and when this process saw it."""

    token: int
    renewals: int
    moment: float


class SQLiteStore(Store):
    """A store in one SQLite file, for all processes of a host. It needs no server and no package.

    One thread has the connection. Other processes are noticed by looking at the file every 5 to 60 ms.

    Args:
        path: the file, which is created with the mode 0600, or a URL: `sqlite:///relative.db`,
            `sqlite:////absolute.db`, with `?durability=power` if wanted. Not on a network file system.
        durability: what a committed entry survives: `"process"` means a kill of the process, `"power"`
            also a power failure of the machine, at about five times the cost of a single append.
        timeout: seconds to wait for another process that is writing.
        clock: measures the leases of other owners.

    Raises:
        StoreConfigError: the URL or an argument is not valid.
    """

    on_this_host = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Literal["process", "power"] = "process",
        timeout: float = 5.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        text, level = os.fspath(path), str(durability)
        if text.startswith("sqlite:"):
            text, level = parse_url(text, level)
        if level not in {"process", "power"}:
            raise StoreConfigError(f"durability: must be 'process' or 'power', got {level!r}")
        if not text or text == ":memory:" or text.endswith("/"):
            raise StoreConfigError(f"sqlite: the path must name a file, got {text!r}")
        self._thread = SQLiteThread(Path(text), level, timeout)
        self._connection, self._begin = self._thread.connection, self._thread.begin
        self._call = self._thread.call
        self._clock = clock
        self._seen: dict[str, _Seen] = {}

    @property
    def url(self) -> str:
        return self._thread.place

    def __repr__(self) -> str:
        return f"SQLiteStore({self.url!r})"

    async def open(self) -> None:
        self._thread.must_exist = self.must_exist
        await self._call(self._connection)

    async def close(self) -> None:
        await self._thread.close()

    def join_thread(self) -> LoopThread:
        return self._thread.join()

    def leave_thread(self) -> None:
        self._thread.leave()

    def abandon(self) -> None:
        """Do nothing: the file was closed before the fork."""

    # Logs

    async def create_log(self, log: str) -> Bounds:
        return await self._call(self._create_log, log)

    def _create_log(self, log: str) -> Bounds:
        bounds = self._bounds(log)
        if bounds is None:
            connection = self._begin()
            connection.execute(
                "INSERT OR IGNORE INTO logs (name, epoch, last, size) VALUES (?, ?, 0, 0)",
                (log, _new_epoch()),
            )
            connection.commit()
            bounds = self._bounds(log)
        if bounds is None:
            raise StoreError(f"{self.url}: log {log!r} was removed while it was created")
        return bounds

    async def bounds(self, log: str) -> Bounds | None:
        return await self._call(self._bounds, log)

    def _bounds(self, log: str) -> Bounds | None:
        rows = self._fetch(
            "SELECT epoch, last, size, (SELECT min(position) FROM entries WHERE log = id) FROM logs"
            " WHERE name = ?",
            log,
        )
        if not rows:
            return None
        epoch, last, size, first = rows[0]
        return Bounds(epoch, last + 1 if first is None else first, last, size)

    def _id(self, log: str) -> int:
        """Return the number of a log in the other tables; 0 if there is no such log."""
        rows = self._fetch("SELECT id FROM logs WHERE name = ?", log)
        return int(rows[0][0]) if rows else 0

    async def logs(self) -> list[str]:
        rows = await self._call(self._fetch, "SELECT name FROM logs ORDER BY name")
        return [row[0] for row in rows]

    def _fetch(self, statement: str, *values: object) -> list[Any]:
        return self._connection().execute(statement, values).fetchall()

    async def renew_epoch(self, log: str, epoch: str) -> Bounds:
        return await self._call(self._renew_epoch, log, epoch)

    def _renew_epoch(self, log: str, epoch: str) -> Bounds:
        connection = self._begin()
        connection.execute(
            "UPDATE logs SET epoch = ? WHERE name = ? AND epoch = ?", (_new_epoch(), log, epoch)
        )
        connection.commit()
        return self._create_log(log)

    async def append(self, log: str, batch: Batch) -> int:
        return await self._call(self._append, log, batch)

    def _append(self, log: str, batch: Batch) -> int:
        producer, number, entries = batch
        connection = self._begin()
        execute = connection.execute
        row = execute(
            "SELECT id, last, number, first FROM logs LEFT JOIN producers ON log = id AND producer = ?"
            " WHERE name = ?",
            (producer, log),
        ).fetchone()
        if row is None:
            raise StoreError(f"{self.url}: there is no log {log!r}; create it first")
        log_id, last, newest, first = row
        if newest == number:  # its answer was lost
            connection.rollback()
            return int(first)
        now = time.time()
        size = insert_rows(connection, log_id, last + 1, now, entries)
        execute("UPDATE logs SET last = ?, size = size + ? WHERE id = ?", (last + len(entries), size, log_id))
        execute(
            "INSERT OR REPLACE INTO producers (log, producer, number, first, time) VALUES (?, ?, ?, ?, ?)",
            (log_id, producer, number, last + 1, now),
        )
        connection.commit()
        self._thread.ring(log, last + len(entries))
        return int(last) + 1

    async def read(self, log: str, after: int, limit: int, max_bytes: int = READ_BYTES) -> list[Stored]:
        return await self._call(self._read, log, after, limit, max_bytes)

    def _read(self, log: str, after: int, limit: int, max_bytes: int) -> list[Stored]:
        rows = self._connection().execute(
            "SELECT position, time, value FROM entries WHERE log = ? AND position > ?"
            " ORDER BY position LIMIT ?",
            (self._id(log), after, limit),
        )
        entries: list[Stored] = []
        size = 0
        # In parts, so that one with large entries need not be read completely; small entries in larger parts.
        count = _FETCH
        while part := list(map(_new_stored, rows.fetchmany(count))):
            size += sum([len(stored.value) for stored in part])
            while size > max_bytes and len(entries) + len(part) > 1:
                size -= len(part.pop().value)
                limit = 0
            entries += part
            if not limit:
                break
            count = _FETCH if size > len(entries) * _SMALL else limit
        rows.close()
        return entries

    async def wait(self, log: str, after: int, seconds: float) -> None:
        await self._thread.wait(log, after, seconds)

    async def trim(self, log: str, retention: Retention, keep_after: int) -> int:
        removed = 0
        up_to = await self._call(self._first_to_keep, log, retention, keep_after) - 1
        while part := await self._call(self._remove, log, up_to):
            removed += part
        return removed

    def _first_to_keep(self, log: str, retention: Retention, keep_after: int) -> int:
        bounds = self._bounds(log)
        if bounds is None:
            return 0
        log_id, first = self._id(log), bounds.first
        if retention.max_events < bounds.last - first + 1:
            first = bounds.last + 1 - int(retention.max_events)
        rows = self._fetch(
            "SELECT position FROM entries WHERE log = ? AND time >= ? ORDER BY position LIMIT 1",
            log_id,
            time.time() - retention.max_age,
        )
        first = max(first, rows[0][0] if rows else bounds.last + 1)
        excess = bounds.size - retention.max_bytes
        if excess > 0:
            lengths = self._connection().execute(
                "SELECT position, length(value) FROM entries WHERE log = ? ORDER BY position", (log_id,)
            )
            for position, length in lengths:
                if excess <= 0:
                    break
                excess -= length
                first = max(first, position + 1)
            lengths.close()
        return int(min(first, keep_after + 1))

    def _remove(self, log: str, up_to: int) -> int:
        log_id = self._id(log)
        connection = self._begin()
        size, count, last = connection.execute(
            "SELECT coalesce(sum(size), 0), count(*), max(position) FROM"
            " (SELECT length(value) AS size, position FROM entries WHERE log = ? AND position <= ?"
            " ORDER BY position LIMIT ?)",
            (log_id, up_to, _TRIM_ROWS),
        ).fetchone()
        if count:
            connection.execute("DELETE FROM entries WHERE log = ? AND position <= ?", (log_id, last))
            connection.execute("UPDATE logs SET size = size - ? WHERE id = ?", (size, log_id))
        connection.execute(
            "DELETE FROM producers WHERE log = ? AND time < ?", (log_id, time.time() - FORGET_AFTER)
        )
        connection.commit()
        return int(count)

    # Leases

    async def acquire(self, name: str, owner: str, seconds: float) -> Lease | None:
        return await self._call(self._acquire, name, owner, seconds)

    def _acquire(self, name: str, owner: str, seconds: float) -> Lease | None:
        connection = self._begin()
        row = connection.execute(
            "SELECT owner, token, renewals, seconds FROM leases WHERE name = ?", (name,)
        ).fetchone()
        holder, token, renewals, duration = row or (None, 0, 0, 0.0)
        if holder not in {None, owner} and not self._has_expired(name, token, renewals, duration):
            connection.rollback()
            return None
        token += holder != owner
        connection.execute(
            "INSERT OR REPLACE INTO leases (name, owner, token, renewals, seconds) VALUES (?, ?, ?, ?, ?)",
            (name, owner, token, renewals + 1, seconds),
        )
        connection.commit()
        return Lease(name, owner, token)

    def _has_expired(self, name: str, token: int, renewals: int, duration: float) -> bool:
        """Return whether a lease has not changed for its duration, as far as this process has seen."""
        now, seen = self._clock.monotonic(), self._seen.get(name)
        if seen is None or seen[:2] != (token, renewals):
            self._seen[name] = _Seen(token, renewals, now)
            return False
        return now - seen.moment > duration

    async def renew(self, lease: Lease, seconds: float) -> None:
        statement = (
            "UPDATE leases SET renewals = renewals + 1, seconds = ?"
            " WHERE name = ? AND owner = ? AND token = ?"
        )
        if not await self._call(self._change, statement, seconds, *lease):
            raise LeaseLostError(f"{self.url}: the lease {lease.name!r} is not held any more")

    async def release(self, lease: Lease) -> None:
        statement = "UPDATE leases SET owner = NULL WHERE name = ? AND owner = ? AND token = ?"
        await self._call(self._change, statement, *lease)

    def _change(self, statement: str, *values: object) -> int:
        connection = self._begin()
        changed = connection.execute(statement, values).rowcount
        connection.commit()
        return changed

    async def leases(self, prefix: str) -> list[Lease]:
        return await self._call(self._leases, prefix)

    def _leases(self, prefix: str) -> list[Lease]:
        rows = self._fetch(
            "SELECT name, owner, token, renewals, seconds FROM leases WHERE owner IS NOT NULL"
            " AND name >= ? AND name < ? ORDER BY name",
            prefix,
            prefix + _AFTER_ALL,
        )
        return [Lease(*row[:3]) for row in rows if not self._has_expired(row[0], *row[2:])]

    # Values

    async def load(self, prefix: str) -> Mapping[str, bytes]:
        statement = "SELECT name, value FROM saved WHERE name >= ? AND name < ?"
        return dict(await self._call(self._fetch, statement, prefix, prefix + _AFTER_ALL))

    async def save(self, lease: Lease, values: Mapping[str, bytes | None]) -> None:
        await self._call(self._save, lease, dict(values))

    def _save(self, lease: Lease, values: Mapping[str, bytes | None]) -> None:
        connection = self._begin()
        held = "SELECT 1 FROM leases WHERE name = ? AND owner = ? AND token = ?"
        if connection.execute(held, lease).fetchone() is None:
            raise LeaseLostError(f"{self.url}: the lease {lease.name!r} is not held any more")
        replace_values(connection, values)
        connection.commit()


def _new_epoch() -> str:
    return uuid4().hex[:12]
