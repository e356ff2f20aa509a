"""A client of an event stream, driven as a server drives an ASGI application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlencode

from codomyrmex.streaming import SSEDecoder, SSERecord, Stream, create_event
from starlette.types import ASGIApp


class Connection:
    """A client and its server."""

    def __init__(
        self,
        app: ASGIApp,
        method: str = "GET",
        headers: Iterable[tuple[str, bytes | str]] = (),
        *,
        abortable: bool = True,
        path: str = "/",
        **query: str,
    ) -> None:
        self.writes: list[bytes] = []
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.complete = False
        self.aborted = False
        self.transport = self if abortable else None  # as uvicorn has it
        self.broken: OSError | None = None
        self.held = False  # a write waits until the client reads
        self._reads = asyncio.Event()
        self._reads.set()
        self._arrived = asyncio.Event()
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._inbox.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.pop("query", urlencode(query)).encode(),
            "headers": [(n.encode(), v.encode() if isinstance(v, str) else v) for n, v in headers],
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        return await self._inbox.get()

    def abort(self) -> None:
        self.aborted = True

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            self._arrived.set()
            return
        self.held = not self._reads.is_set()
        self._arrived.set()
        await self._reads.wait()
        self.held = False
        if self.broken is not None:
            raise self.broken
        if message.get("body"):
            self.writes.append(message["body"])
        self.complete = not message.get("more_body", False)
        self._arrived.set()

    @property
    def body(self) -> bytes:
        return b"".join(self.writes)

    @property
    def records(self) -> list[SSERecord]:
        return SSEDecoder().feed(self.body)

    @property
    def events(self) -> list[SSERecord]:
        return [record for record in self.records if record.event not in ("connect", "disconnect")]

    @property
    def data(self) -> list[Any]:
        return [json.loads(record.data) for record in self.events]

    async def until(self, holds: Callable[[], object]) -> None:
        while not holds():
            self._arrived.clear()
            await self._arrived.wait()

    async def first(self, count: int) -> list[SSERecord]:
        """Wait for a number of records, including CONNECT."""
        await self.until(lambda: len(self.records) >= count)
        return self.records

    def stop_reading(self) -> None:
        self._reads.clear()

    def read_again(self) -> None:
        self._reads.set()

    def leave(self) -> None:
        self._inbox.put_nowait({"type": "http.disconnect"})

    async def hold(self, stream: Stream) -> None:
        """Publish an event whose write waits, because the client stops reading."""
        self.stop_reading()
        await stream.publish(create_event("held up", topic="orders.created"))
        await self.until(lambda: self.held)

    async def answer(self) -> tuple[int | None, str]:
        await self.task
        return self.status, self.body.decode()
