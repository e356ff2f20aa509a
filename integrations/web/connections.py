"""Limits of uvicorn's connections, so that no client can exhaust the process; all that is used of uvicorn."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

import h11
import uvicorn
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 1_000
HEADER_TIMEOUT = 10.0  # seconds
BODY_TIMEOUT = 60.0
WRITE_TIMEOUT = 60.0  # without any progress
_MAX_HEADER_BYTES = 32_768
_MAX_BACKLOG = 128
_TICKS_PER_SECOND = 10  # of uvicorn's main loop
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5\r\ncontent-length: 0\r\n\r\n"
)

_log = Diagnostics(__name__)


class _LimitedLines(logging.LoggerAdapter[logging.Logger]):
    """Limits the lines about requests, as clients can send any number, and removes secrets from errors."""

    @property
    def level(self) -> int:
        """The level, which uvicorn looks at."""
        return self.logger.level

    def log(self, level: int, msg: object, *args: object, **named: Any) -> None:
        if level < logging.WARNING:
            super().log(level, msg, *args, **named)
            return
        error = named.get("exc_info")
        text = str(msg).rstrip()
        _log.warning(text, text, *args, error=error if isinstance(error, BaseException) else None)


class LimitedProtocol(H11Protocol):
    """A connection with limits on how long a request may take to arrive and a response to be read.

    Attributes:
        max_connections: the number of connections of the server; others are closed at once.
    """

    max_connections = MAX_CONNECTIONS
    _stage: Any = None
    _deadline: float | None = None
    _unsent = 0
    _stalled_at: float | None = None

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.logger: Any = _LimitedLines(self.logger, {})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self.max_connections:
            _log.warning("full", "a connection was refused: %d are open (the limit)", self.max_connections)
            self.transport = transport
            self.connections.add(self)  # until it is gone
            self._deadline = self.loop.time()
            transport.write(_TOO_MANY)
            transport.close()
            return
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def _watch(self) -> None:
        """Set the time by which the request has to have arrived."""
        stage = self.conn.their_state
        if stage not in {h11.IDLE, h11.SEND_BODY}:
            self._deadline = None
        elif self._deadline is None or stage is not self._stage:
            self._deadline = self.loop.time() + (HEADER_TIMEOUT if stage is h11.IDLE else BODY_TIMEOUT)
        self._stage = stage

    def expire(self, now: float) -> None:
        """Abort the connection if the request or the reading of the response takes too long."""
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent < self._unsent:
            self._stalled_at = None
        elif self._stalled_at is None:
            self._stalled_at = now
        self._unsent = unsent
        late = self._deadline is not None and now >= self._deadline
        if late or (self._stalled_at is not None and now - self._stalled_at >= WRITE_TIMEOUT):
            self.transport.abort()


class LimitedServer(uvicorn.Server):
    """A server whose connections are limited, so that files and other connections can still be opened.

    Args:
        app: an ASGI application.
        max_connections: the number of connections at once; at most half of the descriptors that the process
            may have.
        shutdown_timeout: seconds for open requests when the server stops.
    """

    def __init__(self, app: Any, max_connections: int, shutdown_timeout: int) -> None:
        descriptors = _max_descriptors()
        limit = max(1, min(max_connections, descriptors // 2))
        protocol = type("Protocol", (LimitedProtocol,), {"max_connections": limit})
        super().__init__(
            uvicorn.Config(
                _without_tracebacks(app),
                http=protocol,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=shutdown_timeout,
                h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
                backlog=max(1, min(_MAX_BACKLOG, descriptors // 8)),  # that many are accepted at once
                ws="none",
            )
        )

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_PER_SECOND == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, LimitedProtocol):
                    connection.expire(now)
        return await super().on_tick(counter)


def _without_tracebacks(app: Any) -> Any:
    """Return an application that does not print a traceback when its lifespan is cancelled, as by Ctrl-C."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        async def forward(message: Any) -> None:
            task = asyncio.current_task()
            if message["type"] == "lifespan.shutdown.failed" and task is not None and task.cancelling():
                message = {"type": message["type"]}
            await send(message)

        await app(scope, receive, forward if scope["type"] == "lifespan" else send)

    return call


def _max_descriptors() -> int:
    """Return the number of descriptors that the process may have."""
    with suppress(ImportError):  # Windows has no such limit
        import resource

        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if descriptors != resource.RLIM_INFINITY:
            return descriptors
    return 1 << 20
