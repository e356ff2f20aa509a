"""`RedisStore`: logs, leases and values in Redis or Valkey."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

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
from codomyrmex.integrations.durable.stores import redis_scripts as scripts
from codomyrmex.integrations.durable.stores.redis_connections import Connections, ask, run

if TYPE_CHECKING:
    from redis.asyncio.connection import Connection

_SCHEMA = 1  # the version of the keys
_COMPATIBLE_SINCE = 1  # the oldest version of this file that can use them
_BLOCK = 5.0  # seconds that one XREAD waits
_PAUSE = 0.002  # seconds after news in which readers read and wait again, before the next XREAD
_TRIMMED = 10_000  # entries that one call removes at most, as the server does nothing else meanwhile


class _Waiter(NamedTuple):
    log: str
    after: int
    news: asyncio.Future[StoreError | None]


class RedisStore(Store):
    """A store in Redis >= 6.2 or Valkey: a server of its own, not a cluster, a replica or Sentinel.

    Each log is a Redis stream, whose ids are `<position>-<milliseconds since 1970>`. Leases are
    measured by the server's clock.

    Args:
        url: `redis://user:password@host:6379/0`, or `rediss://` for TLS, with certificates checked against
            those of the system or `SSL_CERT_FILE`. `?prefix=` begins every key, `codomyrmex` by default.
        timeout: seconds to wait for any answer of the server.

    Raises:
        StoreConfigError: the URL is malformed.
        ValueError: the timeout is not greater than 0.
    """

    def __init__(self, url: str, timeout: float = 5.0) -> None:
        if not timeout > 0:
            raise ValueError(f"timeout: must be greater than 0, got {timeout}")
        self._timeout = timeout
        self._connections = Connections(url, timeout)
        self._url = self._connections.url
        self._forget()

    def _forget(self) -> None:
        self._waiters: set[_Waiter] = set()
        self._armed: dict[str, int] | None = None  # what XREAD is waiting for now: logs and positions
        self._bell = f"bell:{secrets.token_hex(8)}"
        self._rings = 0
        self._listener: asyncio.Task[None] | None = None
        self._ringer: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return self._url

    async def open(self) -> None:
        if self._connections.opened:
            self._check_loop()
            return
        try:
            async with self._connections.borrow(self._timeout) as connection:
                self.warnings = tuple(await self._prepare(connection))
        except BaseException:
            await self._connections.drop_idle()
            raise
        self._connections.opened, self._loop = True, asyncio.get_running_loop()

    async def _prepare(self, connection: Connection) -> list[str]:
        arguments = (str(_SCHEMA), str(_COMPATIBLE_SINCE), str(int(self.must_exist)))
        version, compatible_since = await run(connection, scripts.OPEN, self._keys("schema"), *arguments)
        if version is None:
            raise StoreConfigError(f"{self._url}: there is no store; check ?prefix= and the database")
        if int(compatible_since) > _SCHEMA:
            raise StoreConfigError(
                f"{self._url}: the keys are of version {int(version)}, which this version of "
                "codomyrmex-streaming cannot use; install a newer one, or choose another ?prefix="
            )
        return await self._connections.inspect(connection)

    async def close(self) -> None:
        self._connections.opened = False
        tasks = [task for task in (self._listener, self._ringer) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._wake({}, StoreUnavailableError(f"{self._url}: the store was closed"))
        self._forget()
        await self._connections.close()

    def abandon(self) -> None:
        self._connections.abandon(self._waiters, self._listener, self._ringer)
        self._forget()

    # Logs

    async def create_log(self, log: str) -> Bounds:
        keys = self._keys(f"log:{log}", "logs", f"entries:{log}", f"producers:{log}", f"seen:{log}", "schema")
        return _bounds(
            await self._call(
                scripts.CREATE_LOG, keys, log, secrets.token_hex(8), str(_SCHEMA), str(_COMPATIBLE_SINCE)
            )
        )

    async def bounds(self, log: str) -> Bounds | None:
        found = await self._call(scripts.BOUNDS, self._keys(f"log:{log}"))
        return _bounds(found) if found else None

    async def logs(self) -> list[str]:
        return sorted(name.decode() for name in await self._call(scripts.LOGS, self._keys("logs")))

    async def renew_epoch(self, log: str, epoch: str) -> Bounds:
        found = await self._call(scripts.RENEW_EPOCH, self._keys(f"log:{log}"), epoch, secrets.token_hex(8))
        if not found:
            raise StoreError(f"{self._url}: there is no log {log!r}; create it first")
        return _bounds(found)

    async def append(self, log: str, batch: Batch) -> int:
        keys = self._keys(f"log:{log}", f"entries:{log}", f"producers:{log}", f"seen:{log}")
        first: int = await self._call(scripts.APPEND, keys, batch.producer, str(batch.number), *batch.entries)
        if first == scripts.NO_LOG:
            raise StoreError(f"{self._url}: there is no log {log!r}; create it first")
        if first == scripts.OLD_BATCH:
            raise StoreError(
                f"{self._url}: batch {batch.number} of producer {batch.producer!r} is older than its newest; "
                "a producer repeats only its newest batch"
            )
        return first

    async def read(self, log: str, after: int, limit: int, max_bytes: int = READ_BYTES) -> list[Stored]:
        keys = self._keys(f"log:{log}", f"entries:{log}")
        found = await self._call(scripts.READ, keys, str(after), str(limit), str(max_bytes))
        if not found:
            return []
        heads, values = found
        entries = []
        start = 0
        for head in heads.split():
            position, time, size = map(int, head.split(b"-"))
            entries.append(Stored(position, time / 1000, values[start : start + size]))
            start += size
        return entries

    async def trim(self, log: str, retention: Retention, keep_after: int) -> int:
        limits = (retention.max_events, retention.max_bytes, retention.max_age * 1000, keep_after, _TRIMMED)
        arguments = [str(int(min(limit, 2**53))) for limit in limits]
        removed = 0
        while True:
            count: int = await self._call(
                scripts.TRIM, self._keys(f"log:{log}", f"entries:{log}"), *arguments
            )
            removed += count
            if count < _TRIMMED:
                return removed

    # Leases

    async def acquire(self, name: str, owner: str, seconds: float) -> Lease | None:
        keys = self._keys("leases", "expiry", "token")
        token: int = await self._call(scripts.ACQUIRE, keys, name, owner, _milliseconds(seconds))
        return Lease(name, owner, token) if token else None

    async def renew(self, lease: Lease, seconds: float) -> None:
        keys = self._keys("leases", "expiry")
        if not await self._call(scripts.RENEW, keys, lease.name, _holder(lease), _milliseconds(seconds)):
            raise self._lost(lease)

    async def release(self, lease: Lease) -> None:
        await self._call(scripts.RELEASE, self._keys("leases", "expiry"), lease.name, _holder(lease))

    async def leases(self, prefix: str) -> list[Lease]:
        found = await self._call(scripts.LEASES, self._keys("leases", "expiry"), prefix)
        leases = []
        for name, held in zip(found[::2], found[1::2], strict=True):
            token, _, owner = held.decode().partition(" ")
            leases.append(Lease(name.decode(), owner, int(token)))
        return sorted(leases)

    def _lost(self, lease: Lease) -> LeaseLostError:
        return LeaseLostError(
            f"{self._url}: the lease {lease.name!r} with token {lease.token} was lost by {lease.owner!r}"
        )

    # Values

    async def load(self, prefix: str) -> Mapping[str, bytes]:
        found = await self._call(scripts.LOAD, self._keys("values", "names"), prefix)
        return {name.decode(): value for name, value in zip(found[::2], found[1::2], strict=True)}

    async def save(self, lease: Lease, values: Mapping[str, bytes | None]) -> None:
        removed = [name for name, value in values.items() if value is None]
        kept = [part for name, value in values.items() if value is not None for part in (name, value)]
        keys = self._keys("leases", "values", "names")
        if not await self._call(
            scripts.SAVE, keys, lease.name, _holder(lease), str(len(removed)), *removed, *kept
        ):
            raise self._lost(lease)

    # Waiting: one connection and one XREAD for all that wait. A call that waits for something that the XREAD
    # under way does not cover ends it, by adding to a stream that each XREAD of this process includes.

    async def wait(self, log: str, after: int, seconds: float) -> None:
        waiter = _Waiter(log, after, asyncio.get_running_loop().create_future())
        self._waiters.add(waiter)
        try:
            if self._listener is None or self._listener.done():
                self._listener = asyncio.create_task(self._listen(), name=f"{self._url} listens")
            elif self._armed is not None and self._armed.get(log, after + 1) > after:
                self._armed = None
                self._ringer = asyncio.create_task(self._ring(), name=f"{self._url} rings")
            await asyncio.wait((waiter.news,), timeout=seconds)
        finally:
            self._waiters.discard(waiter)
        if waiter.news.done() and (error := waiter.news.result()) is not None:
            raise error

    def _wake(self, logs: Mapping[str, int], error: StoreError | None = None) -> None:
        """Wake those whose log has reached its position here, or all if there is an error."""
        for waiter in [w for w in self._waiters if error or logs.get(w.log, 0) > w.after]:
            self._waiters.discard(waiter)
            waiter.news.set_result(error)

    async def _ring(self) -> None:
        self._rings += 1
        try:
            await self._call(scripts.RING, self._keys(self._bell), str(self._rings))
        except StoreError as error:
            self._wake({}, error)

    async def _listen(self) -> None:
        try:
            await self.open()
            async with self._connections.borrow(None) as connection:
                while self._waiters:
                    await self._listen_once(connection)
                self._listener = None  # the next call that waits starts another
        except StoreError as error:
            self._listener = None
            self._wake({}, error)
        finally:
            self._armed = None

    async def _listen_once(self, connection: Connection) -> None:
        logs = list({waiter.log for waiter in self._waiters})
        async with asyncio.timeout(self._timeout):
            found = await run(connection, scripts.LAST, self._keys(*(f"log:{log}" for log in logs)))
        last = {log: int(position) for log, position in zip(logs, found, strict=True)}
        self._wake(last)
        armed = {waiter.log: last.get(waiter.log, -1) for waiter in self._waiters}
        if not armed or -1 in armed.values():  # nobody waits any more, or for another log meanwhile
            return
        streams = self._keys(self._bell, *(f"entries:{log}" for log in armed))
        positions = [f"{position}-{2**64 - 1}" for position in (self._rings, *armed.values())]
        options = ("COUNT", 1, "BLOCK", int(_BLOCK * 1000))
        self._armed = armed
        async with asyncio.timeout(_BLOCK + self._timeout):
            found = await ask(connection, "XREAD", *options, "STREAMS", *streams, *positions) or ()
        self._armed = None
        names = dict(zip(streams, ("", *armed), strict=True))
        news = {names[key.decode()]: 2**64 for key, _ in found}
        self._wake(news)
        if any(news):
            await asyncio.sleep(_PAUSE)

    def _keys(self, *names: str) -> list[str]:
        return [f"{{{self._connections.prefix}}}:{name}" for name in names]

    async def _call(self, script: scripts.Script, keys: list[str], *arguments: str | bytes) -> Any:
        await self.open()
        async with self._connections.borrow(self._timeout) as connection:
            return await run(connection, script, keys, *arguments)


def _bounds(found: list[bytes]) -> Bounds:
    epoch, first, last, total, removed = found
    return Bounds(epoch.decode(), int(first), int(last), int(total) - int(removed))


def _holder(lease: Lease) -> str:
    return f"{lease.token} {lease.owner}"


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))
