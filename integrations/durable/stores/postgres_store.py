"""`PostgresStore`: logs, leases and values in a PostgreSQL database.

Everything is one statement, so a client that is stopped or cut off never holds a lock. An append locks
the row of its log until it is committed: positions have no gaps and become visible in order, so a reader
that goes by position never passes over an entry.
"""

from __future__ import annotations

import asyncio
import ctypes
import secrets
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import accumulate, starmap
from math import inf
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.secrets import describe
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
    StoreUnavailableError,
)
from codomyrmex.integrations.durable.stores import postgres_sql as sql
from codomyrmex.integrations.durable.stores.postgres_url import parse_url

try:
    import asyncpg  # type: ignore[import-untyped] # it has no type hints
except ImportError as error:
    raise MissingExtraError("PostgresStore", "asyncpg", "postgres") from error

_MIN_SERVER = 13
_CONNECTIONS = 4  # and one more for the doorbell
_MAX_BATCH = 256 * 1024 * 1024  # bytes; PostgreSQL takes less than 1 GiB in a message
_TRIMMED = 10_000  # entries removed in one statement, which must end within the timeout
_VACUUM = 50_000  # entries removed before their space is reclaimed; autovacuum comes once a minute at most
_POLL = 1.0  # seconds between looks, in case the doorbell is broken
_FIRST_POLL, _LAST_POLL = 0.01, 0.1  # seconds between looks without a doorbell

# SQLSTATE: what is wrong until somebody changes something, and what may be over at the next try.
_CONFIG = ("28", "3D", "3F", "42")  # the role, the database, the schema, privileges
_TRANSIENT = ("08", "25006", "40", "53", "55", "57", "58")  # connection, read-only, conflict, shutdown
_DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_ERRORS = (OSError, EOFError, ValueError, *_DRIVER_ERRORS)  # ValueError: a host that makes no sense


class PostgresStore(Store):
    """A store in a schema of a PostgreSQL database, version 13 or newer.

    A process uses at most four connections, and one that listens. Behind a proxy that shares connections,
    such as PgBouncer, it prepares no statements, and instead of listening it looks every 100 ms.

    Args:
        dsn: `postgresql://user:password@host:port/database`; `?schema=` names the schema (`codomyrmex`), and
            `host`, `port`, `sslmode`, `sslrootcert`, `target_session_attrs` and others are those of libpq.
            What is missing is taken from libpq's environment variables and password file.
        timeout: seconds that one answer of the server may take.

    Raises:
        StoreConfigError: the URL is malformed.
        ValueError: `timeout` is not greater than 0.
    """

    def __init__(self, dsn: str, *, timeout: float = 5.0) -> None:
        if not timeout > 0:
            raise ValueError(f"timeout: must be greater than 0, got {timeout}s")
        self._timeout = timeout
        self._place = parse_url(dsn)
        self._dead = 0  # entries that were removed and still take space
        self._url = self._place.shown
        self._schema = self._place.schema
        self._reset()

    def _reset(self) -> None:
        self._opening = asyncio.Lock()
        self._slots = asyncio.Semaphore(_CONNECTIONS)
        self._connections: set[Any] = set()
        self._idle: list[Any] = []
        self._opened = False
        self._direct = False  # no proxy between; not known before the first connection
        self._listener: Any = None
        self._waiters: dict[asyncio.Future[StoreError | None], tuple[str, int]] = {}
        self._look = asyncio.Event()
        self._bell: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"PostgresStore({self._url!r})"

    @property
    def url(self) -> str:
        return self._url

    # Connections

    async def open(self) -> None:
        async with self._opening:
            if self._opened:
                self._check_loop()
                return
            async with self._limit():
                self._listener = await self._listen()
                try:
                    await self._prepare(self._listener)
                except BaseException:
                    self._drop(self._listener)
                    raise
            self._opened, self._loop = True, asyncio.get_running_loop()

    async def close(self) -> None:
        self._wake()
        connections, unused, bell = self._connections, [*self._idle, self._listener], self._bell
        self._reset()
        if bell is not None:
            bell.cancel()
            await asyncio.wait([bell])
        try:
            closing = [one.close(timeout=1) for one in unused if one is not None and not one.is_closed()]
            await asyncio.gather(*closing, return_exceptions=True)
        finally:
            for connection in connections:
                connection.terminate()

    def abandon(self) -> None:
        # A connection that is finalized, now or at the end of the interpreter, takes its socket out of the
        # epoll object that the parent waits on, too; so these references are never given back.
        for kept in (*self._connections, self._bell):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
        self._reset()

    async def _connect(self) -> Any:
        cached = 100 if self._direct else 0
        connection = await asyncpg.connect(
            self._place.dsn, timeout=self._timeout, statement_cache_size=cached
        )
        self._connections.add(connection)
        try:
            milliseconds = str(max(1, int(self._timeout * 1000)))
            server = await connection.fetchrow(sql.CHECK, connection.get_server_pid(), milliseconds)
            self._check(server)
        except BaseException:
            self._drop(connection)
            raise
        self._direct = server["direct"]
        if cached and not self._direct:  # a proxy is there now
            self._drop(connection)
            return await self._connect()
        return connection

    def _check(self, server: Mapping[str, Any]) -> None:
        if server["version"] < _MIN_SERVER:
            raise StoreConfigError(
                f"{self._url}: the server must be PostgreSQL {_MIN_SERVER} or newer, got {server['shown']}"
            )
        if server["replica"]:  # later, it may be a failover that is not complete yet
            kind = StoreUnavailableError if self._opened else StoreConfigError
            raise kind(f"{self._url}: the server is a replica, which cannot be written to; use the primary")
        if server["isolation"] != "read committed" and not server["direct"]:
            raise StoreConfigError(
                f"{self._url}: the isolation level must be read committed, got {server['isolation']};"
                " set default_transaction_isolation for the role"
            )

    async def _prepare(self, connection: Any) -> None:
        """Create the schema or check its version, and find out what will not be preserved."""
        if not await connection.fetch(sql.EXISTS, self._schema):
            if self.must_exist:
                raise StoreConfigError(f"{self._url}: there is no store in the schema {self._schema}")
            await connection.execute(sql.SCHEMA.format(self._schema))
        [(version, since)] = await connection.fetch(sql.VERSIONS.format(self._schema))
        if since > sql.VERSION:
            raise StoreConfigError(
                f"{self._url}: the schema has version {version}, which needs a newer codomyrmex-streaming"
            )
        losses = await connection.fetch(sql.LOSSES, self._schema)
        self.warnings = tuple(text for (text,) in losses)

    def _drop(self, connection: Any) -> None:
        self._connections.discard(connection)
        connection.terminate()

    @asynccontextmanager
    async def _limit(self) -> AsyncIterator[None]:
        """Limit the time, and raise this package's errors."""
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except _ERRORS as error:
            problem = self._problem(error)
            if isinstance(problem, StoreUnavailableError):  # idle connections may be dead as well
                while self._idle:
                    self._drop(self._idle.pop())
            raise problem from None

    def _problem(self, error: Exception) -> StoreError:
        if isinstance(error, TimeoutError):
            return StoreUnavailableError(f"{self._url}: no answer within {self._timeout:g}s")
        text = describe(error)
        for password in self._place.passwords:
            text = text.replace(password, "[redacted]")
        code = getattr(error, "sqlstate", None) or ""
        if isinstance(error, asyncpg.DataError) or (code and not code.startswith((*_CONFIG, *_TRANSIENT))):
            return StoreError(f"{self._url}: {text}")
        wrong = (asyncpg.ClientConfigurationError, ssl.SSLCertVerificationError, ValueError)
        if isinstance(error, wrong) or code.startswith(_CONFIG):
            return StoreConfigError(f"{self._url}: {text}; check the URL, the role and its privileges")
        return StoreUnavailableError(f"{self._url}: {text}")

    async def _fetch(self, query: str, *args: object) -> list[Any]:
        if not self._opened:
            await self.open()
        async with self._limit(), self._slots:
            while self._idle and self._idle[-1].is_closed():
                self._drop(self._idle.pop())
            connection = self._idle.pop() if self._idle else await self._connect()
            if not self._opened:
                self._drop(connection)
                raise StoreUnavailableError(f"{self._url}: the store was closed")
            try:
                rows: list[Any] = await connection.fetch(query.format(self._schema), *args)
            except BaseException as error:  # nobody will read what is still to come on it
                ended = connection.is_closed() and isinstance(error, AttributeError)  # asyncpg has no better
                self._drop(connection)
                if ended:
                    raise StoreUnavailableError(f"{self._url}: the connection was closed") from error
                raise
            self._idle.append(connection)
            return rows

    # Logs

    async def create_log(self, log: str) -> Bounds:
        [found] = await self._fetch(sql.CREATE_LOG, log, secrets.token_hex(8))
        return Bounds(*found)

    async def bounds(self, log: str) -> Bounds | None:
        found = await self._fetch(sql.BOUNDS, log)
        return Bounds(*found[0]) if found else None

    async def logs(self) -> list[str]:
        return [name for (name,) in await self._fetch(sql.LOGS)]

    async def renew_epoch(self, log: str, epoch: str) -> Bounds:
        found = await self._fetch(sql.RENEW_EPOCH, log, epoch, secrets.token_hex(8))
        if not found:
            raise self._no_log(log)
        return Bounds(*found[0])

    async def append(self, log: str, batch: Batch) -> int:
        producer, number, entries = batch
        offsets = list(accumulate(map(len, entries), initial=0))
        if offsets[-1] > _MAX_BATCH:
            raise StoreError(f"{self._url}: a batch has at most {_MAX_BATCH} bytes, got {offsets[-1]}")
        joined = b"".join(entries)
        [(position,)] = await self._fetch(sql.APPEND, log, producer, number, joined, offsets)
        if position is None:
            raise self._no_log(log)
        if position < 0:
            raise StoreError(f"{self._url}: batch {number} of {producer} comes after its batch {-position}")
        self._wake(log)
        return int(position)

    def _no_log(self, log: str) -> StoreError:
        return StoreError(f"{self._url}: there is no log {log!r}; create it first")

    async def read(self, log: str, after: int, limit: int, max_bytes: int = READ_BYTES) -> list[Stored]:
        return list(starmap(Stored, await self._fetch(sql.READ, log, after, limit, max_bytes)))

    async def trim(self, log: str, retention: Retention, keep_after: int) -> int:
        limits = float(retention.max_events), float(retention.max_bytes), float(retention.max_age)
        removed, count = 0, _TRIMMED
        while count == _TRIMMED:
            [(count,)] = await self._fetch(sql.TRIM, log, *limits, keep_after, _TRIMMED)
            removed += count
        self._dead += removed
        if self._dead >= _VACUUM:
            self._dead = 0
            with suppress(StoreError):  # if it takes too long, autovacuum does it later
                await self._fetch(sql.VACUUM)
        return removed

    # The doorbell

    async def wait(self, log: str, after: int, seconds: float) -> None:
        if not self._opened:
            await self.open()
        waiter: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()
        waiters = self._waiters
        waiters[waiter] = log, after
        self._look.set()
        if self._bell is None or self._bell.done():
            self._bell = asyncio.create_task(self._ring())
        try:
            await asyncio.wait([waiter], timeout=seconds)
        finally:
            del waiters[waiter]
        if waiter.done() and (problem := waiter.result()) is not None:
            raise problem

    def _wake(self, log: str | None = None, last: float = inf, problem: StoreError | None = None) -> int:
        """Wake those who wait for an entry up to `last`, of one log or of all."""
        due = [
            waiter
            for waiter, (name, after) in self._waiters.items()
            if (log is None or name == log) and last > after and not waiter.done()
        ]
        for waiter in due:
            waiter.set_result(problem)
        return len(due)

    def _notified(self, _connection: object, _pid: int, _channel: str, log: object) -> None:
        self._wake(str(log))

    async def _listen(self) -> Any:
        connection = await self._connect()
        try:
            if self._direct:
                await connection.add_listener(self._schema, self._notified)
        except BaseException:
            self._drop(connection)
            raise
        return connection

    async def _ring(self) -> None:
        """Look for entries as long as somebody waits: at once, and again in case the bell is broken."""
        delay = _FIRST_POLL
        while self._waiters:
            self._look.clear()
            try:
                woken = await self._look_around()
            except StoreError as problem:
                self._wake(problem=problem)
                return
            delay = _FIRST_POLL if woken else min(delay * 1.5, _LAST_POLL)
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL if self._direct else delay):
                    await self._look.wait()

    async def _look_around(self) -> int:
        async with self._limit():
            if self._listener.is_closed():
                self._drop(self._listener)
                self._listener = await self._listen()
            listener = self._listener  # None once the store is closed
            try:
                names = list({name for name, _ in self._waiters.values()})
                found = await listener.fetch(sql.LASTS.format(self._schema), names)
            except BaseException:
                self._drop(listener)
                raise
        return sum(self._wake(name, last) for name, last in found)

    # Leases

    async def acquire(self, name: str, owner: str, seconds: float) -> Lease | None:
        found = await self._fetch(sql.ACQUIRE, name, owner, float(seconds))
        return Lease(name, owner, found[0][0]) if found else None

    async def renew(self, lease: Lease, seconds: float) -> None:
        if not await self._fetch(sql.RENEW, *lease, float(seconds)):
            raise self._lost(lease)

    async def release(self, lease: Lease) -> None:
        await self._fetch(sql.RELEASE, *lease)

    async def leases(self, prefix: str) -> list[Lease]:
        return list(starmap(Lease, await self._fetch(sql.LEASES, prefix)))

    def _lost(self, lease: Lease) -> LeaseLostError:
        return LeaseLostError(f"{self._url}: {lease.owner} does not hold the lease {lease.name!r} any more")

    # Values

    async def load(self, prefix: str) -> Mapping[str, bytes]:
        return dict(await self._fetch(sql.LOAD, prefix))

    async def save(self, lease: Lease, values: Mapping[str, bytes | None]) -> None:
        kept = {name: value for name, value in values.items() if value is not None}
        gone = list(values.keys() - kept.keys())
        offsets = list(accumulate(map(len, kept.values()), initial=0))
        joined = b"".join(kept.values())
        [(held,)] = await self._fetch(sql.SAVE, *lease, gone, list(kept), joined, offsets)
        if not held:
            raise self._lost(lease)
