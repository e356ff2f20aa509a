"""A TCP proxy that does to connections what networks do: cut, stall and delay them, and lose answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self, TypeVar
from urllib.parse import urlsplit

from helpers import DEADLINE

T = TypeVar("T")


class Proxy:
    """Forwards connections to a port of this machine, on a thread of its own.

    It begins without faults; each method switches to another behaviour, also of the connections that are
    open, and `heal` switches back.

    Args:
        target: the port of the server.

    Attributes:
        port: the port for the clients.
        connections: how many have been accepted.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.connections = 0
        self._mode = "forward"
        self._seconds = 0.0
        self._answers = 0  # that are forwarded before one is lost
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="proxy")

    def url(self, url: str) -> str:
        """Return the URL that leads through the proxy."""
        user, at, place = urlsplit(url).netloc.rpartition("@")
        host = place.rpartition(":")[0]
        return url.replace(f"{user}{at}{place}", f"{user}{at}{host}:{self.port}", 1)

    def heal(self) -> None:
        """Forward everything at once, and what was held back first."""
        self._switch("forward")

    def cut(self) -> None:
        """Reset all connections, and each new one at once."""
        self._switch("cut")

    def stall(self) -> None:
        """Accept connections and requests, and forward nothing in either direction."""
        self._switch("stall")

    def delay(self, seconds: float) -> None:
        """Forward each part some seconds later, in both directions."""
        self._switch("delay", seconds=seconds)

    def lose_answer(self, after: int = 0) -> None:
        """Forward requests, but lose the answer after this many, reset its connection and all others."""
        self._switch("lose", answers=after)

    def _switch(self, mode: str, *, seconds: float = 0.0, answers: int = 0) -> None:
        def switch() -> None:
            self._mode, self._seconds, self._answers = mode, seconds, answers
            if mode == "cut":
                self._reset()
            self._changed.set()
            self._changed = asyncio.Event()

        self._run(switch)

    def _run(self, function: Callable[[], T]) -> T:
        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _reset(self) -> None:
        for writer in tuple(self._open):
            reset(writer)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed, self._end = asyncio.Event(), asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        self._reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._mode == "cut":
            reset(client)
            return
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:  # as the server would have done without a proxy
            reset(client)
            return
        self._open |= {client, server}
        both = [
            self._loop.create_task(self._pump(reader, server, answers=False)),
            self._loop.create_task(self._pump(answers, client, answers=True)),
        ]
        self._tasks.update(both)
        await asyncio.wait(both)
        self._tasks.difference_update(both)
        self._open -= {client, server}
        for writer in (client, server):
            writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        try:
            while data := await source.read(65_536):
                while self._mode == "stall":
                    await self._changed.wait()
                if self._mode == "delay":
                    await asyncio.sleep(self._seconds)
                if self._mode == "lose" and answers:
                    if self._answers <= 0:
                        self._mode = "cut"
                        self._reset()
                        return
                    self._answers -= 1
                sink.write(data)
                await sink.drain()
            if self._mode != "stall":
                sink.write_eof()
        except OSError:  # the other side of a killed server must not wait for an answer
            reset(sink)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(DEADLINE)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection so that the other side gets a reset."""
    with contextlib.suppress(OSError):
        found = writer.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
