"""The connections of `RedisStore`: URLs, the checks of servers, and errors without credentials."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.durable.store import StoreConfigError, StoreError, StoreUnavailableError
from codomyrmex.integrations.durable.stores.redis_scripts import Script

try:
    from redis import exceptions
    from redis.asyncio.connection import Connection, SSLConnection
except ImportError as error:
    raise MissingExtraError("RedisStore", "redis", "redis") from error

_PREFIX = "codomyrmex"
_MIN_VERSION = (6, 2)
_CONNECTIONS = 9  # for eight calls and for waiting
_DRIVER_ERRORS = (exceptions.RedisError, OSError, TimeoutError)
_LOSSES = {"everysec": "the last second", "no": "what the operating system has not written, often 30 seconds"}
# In answers to scripts, the code may be anywhere.
_TEMPORARY = re.compile(r"\b(?:BUSY|MASTERDOWN|MISCONF|NOREPLICAS|READONLY|UNBLOCKED)\b")
_MEMORY = re.compile(r"\bOOM\b")
# Connections whose process has been forked: they are the parent's, and closing them would disturb it.
_abandoned: list[object] = []
# Before redis-py 8 the method had another name.
_can_read = getattr(Connection, "can_read", None) or Connection.can_read_destructive


class Connections:
    """Connections to one server, each used by one call at a time.

    redis-py's own pools either have no limit or lose connections when calls are cancelled.

    Args:
        url: the URL of the store.
        timeout: seconds to wait for any answer of the server.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.timeout = timeout
        self.url, self.prefix, self._options = _parse(url)
        self._kind = SSLConnection if self.url.startswith("rediss:") else Connection
        self.forget()

    def forget(self) -> None:
        """Start over, without any connection."""
        self.opened = False
        self._connected: set[Connection] = set()
        self._idle: list[Connection] = []
        self._slots = asyncio.Semaphore(_CONNECTIONS)

    def abandon(self, *others: object) -> None:
        """Forget the connections without closing them, and keep them and other objects alive."""
        _abandoned.append((self._connected, self._idle, others))
        self.forget()

    async def close(self) -> None:
        """Close the connections when the calls under way have ended, which they do within their timeout."""
        self.opened = False
        slots = self._slots
        try:
            for _ in range(_CONNECTIONS):
                await slots.acquire()
        finally:
            await self._drop(*self._connected)
            self.forget()
            for _ in range(_CONNECTIONS):  # for calls that came meanwhile, and open the store again
                slots.release()

    @asynccontextmanager
    async def borrow(self, seconds: float | None) -> AsyncIterator[Connection]:
        """Lend a connection, for some seconds if there is a limit.

        Errors of the driver are raised as errors of a store.
        """
        with self._translated():
            async with asyncio.timeout(seconds), self._slots:
                connection = await self._take_idle() or await self._connect()
                try:
                    yield connection
                except _DRIVER_ERRORS as error:
                    if isinstance(error, exceptions.ResponseError) and not _is_temporary(error):
                        self._put_back(connection)
                    else:  # the others are to the same server, which is lost, or a replica now
                        await self._drop(connection)
                        await self.drop_idle()
                    raise
                except BaseException:  # an answer may still come
                    await self._drop(connection)
                    raise
                self._put_back(connection)

    async def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            try:
                if await _can_read(connection) is False:  # neither data nor the end
                    return connection
            except _DRIVER_ERRORS:
                pass
            await self._drop(connection)
        return None

    def _put_back(self, connection: Connection) -> None:
        if connection in self._connected:
            self._idle.append(connection)

    async def drop_idle(self) -> None:
        """Close the connections that nobody uses now."""
        await self._drop(*self._idle)

    async def _drop(self, *connections: Connection) -> None:
        for connection in connections:
            if connection in self._connected:  # otherwise it is the parent's
                self._connected.discard(connection)
                with suppress(*_DRIVER_ERRORS):
                    await connection.disconnect(nowait=True)
        self._idle = [connection for connection in self._idle if connection in self._connected]

    async def _connect(self) -> Connection:
        connection = self._kind(**self._options, socket_connect_timeout=self.timeout)
        self._connected.add(connection)
        try:
            async with asyncio.timeout(self.timeout):
                await connection.connect()  # type: ignore[no-untyped-call] # has no annotations
                self._check(await ask(connection, "HELLO", 2))
        except exceptions.ResponseError as error:
            await self._drop(connection)
            if isinstance(error, exceptions.NoPermissionError) or _is_temporary(error):
                raise
            raise StoreConfigError(
                f"{self.url}: the server did not accept the connection ({describe(error)}); "
                "Redis >= 6.2 and a database that exists are required"
            ) from None
        except BaseException:
            await self._drop(connection)
            raise
        return connection

    def _check(self, hello: list[Any]) -> None:
        server = dict(zip(hello[::2], hello[1::2], strict=True))
        version, mode = server[b"version"].decode(), server[b"mode"].decode()
        role = server.get(b"role", b"master").decode()  # Sentinel has none
        if mode != "standalone":
            raise StoreConfigError(
                f"{self.url}: Redis in {mode} mode is not supported; use the URL of a single server"
            )
        if tuple(map(int, version.split(".")[:2])) < _MIN_VERSION:
            raise StoreConfigError(f"{self.url}: Redis >= 6.2 is required, got {version}; upgrade the server")
        if role != "master":
            kind = StoreUnavailableError if self.opened else StoreConfigError  # a failover may be under way
            raise kind(f"{self.url}: the server is a {role}; use the URL of the primary")

    async def inspect(self, connection: Connection) -> list[str]:
        """Return sentences about what the server will not preserve."""
        found = []
        try:
            settings: dict[str, str] = {}
            for pattern in ("append*", "maxmemory-policy"):
                answer = [part.decode() for part in await ask(connection, "CONFIG", "GET", pattern)]
                settings.update(zip(answer[::2], answer[1::2], strict=True))
        except exceptions.ResponseError:
            settings = {}
            found.append("CONFIG GET is not permitted, so what a restart of the server loses is unknown")
        if settings.get("appendonly") == "no":
            found.append(
                "there is no append-only file, so a restart of the server loses what was appended since its "
                "last snapshot; set appendonly to yes"
            )
        elif (fsync := settings.get("appendfsync")) in _LOSSES:
            found.append(
                f"appendfsync is {fsync}, so a power failure loses {_LOSSES[fsync]}; set it to always if "
                "that is too much"
            )
        if (policy := settings.get("maxmemory-policy", "")).startswith("allkeys"):
            found.append(
                f"maxmemory-policy is {policy}, so the server may remove any key when its memory is full; "
                "set it to noeviction"
            )
        try:
            replicated = b"connected_slaves:0" not in await ask(connection, "INFO", "replication")
        except exceptions.ResponseError:
            replicated = True
        if replicated:
            found.append(
                "a failover to a replica may lose the newest entries, even if they were acknowledged"
            )
        return found

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise errors of the driver as errors of the store, whose texts contain no credentials."""
        try:
            yield
        except exceptions.ResponseError as error:
            raise self._refusal(error) from None
        except _DRIVER_ERRORS as error:
            raise self._failure(error) from None

    def _refusal(self, error: exceptions.ResponseError) -> StoreError:
        text = describe(error)
        if isinstance(error, exceptions.NoPermissionError):
            return StoreConfigError(
                f"{self.url}: the user is not permitted to do this ({text}); "
                f"grant +@read +@write +@scripting +@connection +time and ~{{{self.prefix}}}:*"
            )
        if "WRONGTYPE" in text:
            return StoreConfigError(
                f"{self.url}: keys that start with {{{self.prefix}}}: hold other data; "
                "choose another ?prefix="
            )
        if isinstance(error, exceptions.OutOfMemoryError) or _MEMORY.search(text):
            return StoreUnavailableError(
                f"{self.url}: the server has reached its maxmemory; raise it, or keep fewer entries"
            )
        if _is_temporary(error):
            return StoreUnavailableError(f"{self.url}: the server cannot do this now: {text}")
        return StoreError(f"{self.url}: {text}")

    def _failure(self, error: Exception) -> StoreError:
        text = describe(error)
        if isinstance(error, exceptions.AuthenticationError):
            return StoreConfigError(
                f"{self.url}: the server did not accept the user or the password ({text}); correct the URL"
            )
        if isinstance(error, exceptions.BusyLoadingError):
            return StoreUnavailableError(f"{self.url}: the server has just started and is loading its data")
        if isinstance(error, (TimeoutError, exceptions.TimeoutError)):
            return StoreUnavailableError(
                f"{self.url}: there was no answer within {self.timeout:g} s; is the server overloaded?"
            )
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return StoreConfigError(
                f"{self.url}: the certificate of the server was not accepted ({text}); "
                "name a file with that of its authority in SSL_CERT_FILE"
            )
        return StoreUnavailableError(f"{self.url}: the server cannot be reached ({text}); is it running?")


def _is_temporary(error: exceptions.ResponseError) -> bool:
    return isinstance(error, exceptions.ReadOnlyError) or _TEMPORARY.search(str(error)) is not None


async def ask(connection: Connection, *command: str | bytes | int) -> Any:
    """Return the answer to one command."""
    await connection.send_command(*command)
    return await connection.read_response()


async def run(connection: Connection, script: Script, keys: list[str], *arguments: str | bytes) -> Any:
    """Return the result of a script, which the server may not know yet."""
    try:
        return await ask(connection, "EVALSHA", script.digest, len(keys), *keys, *arguments)
    except exceptions.NoScriptError:  # new to this server, or it was restarted
        return await ask(connection, "EVAL", script.text, len(keys), *keys, *arguments)


def _parse(url: str) -> tuple[str, str, dict[str, Any]]:
    """Return the URL without credentials, the prefix of keys, and the options of connections."""
    example = "for example redis://user:password@host:6379/0?prefix=shop"
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        parts, port, query = urlsplit(""), 0, []
    # No part is quoted if it may be a piece of a password.
    if (
        parts.scheme not in {"redis", "rediss"}
        or parts.fragment
        or "@" in f"{parts.path}{parts.query}"
        or not re.fullmatch(r"/?|/\d{1,5}", parts.path)
    ):
        raise StoreConfigError(
            f"store: the URL is malformed, {example}; write special characters in a password like @ as %40"
        )
    if not parts.hostname or "," in parts.hostname:
        raise StoreConfigError(f"store: the URL must name one host, {example}")
    database = int(parts.path[1:] or 0)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    shown = f"{parts.scheme}://{host}:{port}/{database}"
    if unknown := sorted({name for name, _ in query} - {"prefix"}):
        raise StoreConfigError(f"{shown}: unknown parameters {', '.join(unknown)}; the only one is prefix")
    if len(query) > 1:
        raise StoreConfigError(f"{shown}: prefix: can be used once, got it {len(query)} times")
    prefix = dict(query).get("prefix", _PREFIX)
    if not re.fullmatch(r"[A-Za-z0-9_./:-]{1,100}", prefix):
        raise StoreConfigError(
            f"{shown}: prefix: must be 1 to 100 characters of A-Z, a-z, 0-9, -, _, ., / and :, got {prefix!r}"
        )
    options: dict[str, Any] = {
        "host": parts.hostname,
        "port": port,
        "db": database,
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        "socket_timeout": None,  # each use has its limit
        "socket_keepalive": True,
        "protocol": 2,
    }
    if parts.scheme == "rediss":
        options["ssl_check_hostname"] = True  # redis-py before 6 does not do it by itself
    return shown if prefix == _PREFIX else f"{shown}?prefix={prefix}", prefix, options
