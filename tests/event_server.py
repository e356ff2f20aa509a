"""A server of events beside a test, for the command `tail`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from codomyrmex.integrations.web import event_stream, serving
from codomyrmex.streaming import Event, InMemoryStream, create_event
from durable.servers import free_port

PATIENCE = 60.0  # seconds


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def order(number: int, topic: str = "orders.placed", **more: Any) -> Event:
    return create_event({"order": number, **more}, topic=topic)


class Server:
    """An event stream that is served on a thread, and can be restarted with or without its events."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.stream = InMemoryStream()
        self.options: dict[str, Any] = {"reconnect_within": 0, "signals": False}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = AsyncExitStack()

    def run(self, work: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result(PATIENCE)

    def up(self, served: Any = None) -> None:
        self.app = served or event_stream(self.stream, **self.options)
        self.run(self._server.enter_async_context(serving(self, port=self.port)))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self._task = asyncio.current_task()
        await self.app(scope, receive, send)

    async def aclose(self) -> None:
        await self.app.aclose()

    def break_connection(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        until(lambda: self.app.clients == 0)

    def down(self) -> None:
        self.run(self._server.aclose())

    def publish(self, *events: Event) -> None:
        for event in events:
            self.run(self.stream.publish(event))

    def end(self) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
