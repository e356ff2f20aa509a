"""A stream over HTTP, with uvicorn on loopback: the server in one process, its clients in this one."""

from __future__ import annotations

import asyncio
import json
import resource
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs

from codomyrmex.integrations.durable import DurableStream, SQLiteStore
from codomyrmex.integrations.web import event_stream
from codomyrmex.streaming import Event, InMemoryStream, Stream, create_event
from measure import Result

CLIENTS, EVENTS, ROUNDS = 100, 300, 5
MANY, RATE, SECONDS = 1_000, 100, 10
MARK = b"~"  # occurs once in each event, so that clients can count events

# The servers. Each publishes the same events, encoded as the same bytes.


def events_to_send(count: int) -> list[Event]:
    return [create_event({"number": n, "text": f"{n} ".ljust(150, "x"), "mark": "~"}) for n in range(count)]


class Ours:
    """`event_stream` with its defaults."""

    def __init__(self) -> None:
        self.stream: Stream = InMemoryStream()
        self.app = event_stream(self.stream, data="payload")

    def clients(self) -> int:
        return self.app.clients

    def prepare(self, events: list[Event]) -> list[Any]:
        return events

    async def publish(self, event: Event) -> None:
        await self.stream.publish(event)


class Durable(Ours):
    """The same on a durable stream; its store is a SQLite file in the working directory."""

    def __init__(self) -> None:
        self.stream: DurableStream = DurableStream(SQLiteStore("events.db"))
        self.app = event_stream(self.stream, data="payload")

    def clients(self) -> int:
        return 0 if self.stream.tail.last is None else super().clients()  # it opens with the first client


class SSEStarlette:
    """The usual code with sse-starlette: a queue per client and a generator that reads it."""

    def __init__(self) -> None:
        self.queues: set[asyncio.Queue[Any]] = set()

    def clients(self) -> int:
        return len(self.queues)

    def prepare(self, events: list[Event]) -> list[Any]:
        return [(event.id, json.dumps(event.data)) for event in events]  # generous: encoded once

    async def publish(self, item: Any) -> None:
        for queue in self.queues:
            queue.put_nowait(item)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        from sse_starlette import EventSourceResponse

        async def frames() -> AsyncIterator[dict[str, str]]:
            queue: asyncio.Queue[Any] = asyncio.Queue()
            self.queues.add(queue)
            try:
                while True:
                    event_id, data = await queue.get()
                    yield {"id": event_id, "event": "message", "data": data}
            finally:
                self.queues.discard(queue)

        await EventSourceResponse(frames(), sep="\n")(scope, receive, send)


class Raw:
    """The lower bound: encoded bytes, all that are queued in one write, and nothing else."""

    def __init__(self) -> None:
        self.waiting: dict[int, tuple[deque[bytes], list[asyncio.Future[None]]]] = {}

    def clients(self) -> int:
        return len(self.waiting)

    def prepare(self, events: list[Event]) -> list[Any]:
        return [event.to_sse().encode() for event in events]

    async def publish(self, frame: bytes) -> None:
        for queue, waiters in self.waiting.values():
            queue.append(frame)
            if waiters:
                waiters.pop().set_result(None)

    async def app(self, _: Any, receive: Any, send: Any) -> None:
        loop, queue, waiters = asyncio.get_running_loop(), deque[bytes](), list[asyncio.Future[None]]()
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b":\n", "more_body": True})
        task = asyncio.ensure_future(self.gone(receive, asyncio.current_task()))
        self.waiting[id(queue)] = queue, waiters
        try:
            while True:
                if not queue:
                    waiters.append(loop.create_future())
                    await waiters[0]
                body = b"".join(queue)
                queue.clear()
                await send({"type": "http.response.body", "body": body, "more_body": True})
        except asyncio.CancelledError:
            pass
        finally:
            del self.waiting[id(queue)]
            task.cancel()

    async def gone(self, receive: Any, task: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        task.cancel()


KINDS: dict[str, Callable[[], Any]] = {
    "ours": Ours,
    "durable": Durable,
    "sse-starlette": SSEStarlette,
    "raw": Raw,
}


class Control:
    """Serves the stream at `/` and executes the commands of the measuring process at other paths."""

    def __init__(self, kind: str) -> None:
        self.served = KINDS[kind]()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/":
            await self.served.app(scope, receive, send)
            return
        arguments = {name: int(value[0]) for name, value in parse_qs(scope["query_string"].decode()).items()}
        while scope["path"] == "/ready" and self.served.clients() != arguments["clients"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        if scope["path"] == "/publish":
            await self.publish(arguments["events"], arguments["rate"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def publish(self, count: int, rate: int) -> None:
        """Publish at a rate or, if it is 0, as fast as possible while yielding to other tasks."""
        start = time.monotonic()
        for number, item in enumerate(self.served.prepare(events_to_send(count))):
            ahead = start + number / rate - time.monotonic() if rate else 0.0
            if ahead >= 0:
                await asyncio.sleep(ahead)
            await self.served.publish(item)


def serve(kind: str, port: int) -> None:
    import uvicorn

    allow_many_files()
    uvicorn.run(Control(kind), port=port, log_level="error", lifespan="off", ws="none", backlog=2 * MANY)


# The clients, which are cheap: they read every few milliseconds and count


class Clients:
    """The clients of one server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.received = self.lost = 0
        self.sockets: list[socket.socket] = []
        self.selector = selectors.DefaultSelector()
        self.buffer = bytearray(1_000_000)

    def connect(self, count: int) -> None:
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", self.port), 10)
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
            connection.setblocking(False)  # noqa: FBT003
            self.sockets.append(connection)
            self.selector.register(connection, selectors.EVENT_READ)
        self.command(f"ready?clients={len(self.sockets)}").close()

    def receive(self, events: int, rate: int = 0, patience: float = 30.0) -> float:
        """Have events published, and return the seconds until all clients have received them."""
        self.read()
        self.received, expected = 0, events * len(self.sockets)
        start = time.perf_counter()
        command = self.command(f"publish?events={events}&rate={rate}", wait=False)
        while self.received < expected and time.perf_counter() - start < patience:
            time.sleep(0.003)
            self.read()
        taken = time.perf_counter() - start
        command.close()
        return taken

    def read(self) -> None:
        for key, _ in self.selector.select(0):
            size = key.fileobj.recv_into(self.buffer)  # type: ignore[union-attr]
            self.received += self.buffer.count(MARK, 0, size)
            if not size:
                self.lost += 1
                self.selector.unregister(key.fileobj)

    def leave(self) -> None:
        self.selector.close()
        for connection in self.sockets:
            connection.close()
        self.command("ready?clients=0").close()

    def command(self, text: str, *, wait: bool = True) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), 10)
        connection.sendall(f"GET /{text} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        if wait:
            assert connection.recv(10_000).startswith(b"HTTP/1.1 200")
        return connection


@contextmanager
def server(kind: str) -> Iterator[tuple[int, int]]:
    """Run a server in its own process; yield its port and process id."""
    port = free_port()
    program = [sys.executable, str(Path(__file__).resolve()), kind, str(port)]
    with TemporaryDirectory() as folder, subprocess.Popen(program, cwd=folder) as process:
        try:
            wait_for_port(port, process)
            yield port, process.pid
        finally:
            process.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the server exited with code {process.returncode}")


def allow_many_files() -> None:
    _, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 4 * MANY if maximum == resource.RLIM_INFINITY else min(4 * MANY, maximum)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, maximum))


# Measurements


def measure() -> Iterator[Result]:
    allow_many_files()
    with ExitStack() as stack:
        ports = {kind: stack.enter_context(server(kind))[0] for kind in KINDS}
        rates = fan_out(ports)
    for against, bar in (("sse-starlette", 2.0), ("raw", 0.85)):
        yield frames_a_second(rates["ours"], rates[against], against, bar)
    yield frames_a_second(rates["durable"], rates["ours"], "a stream in memory", 0.8, " of a durable stream")
    yield from many_clients()


def fan_out(ports: dict[str, int]) -> dict[str, list[float]]:
    """Return the frames per second of each server in each round."""
    rates: dict[str, list[float]] = {kind: [] for kind in ports}
    for round_number in range(ROUNDS + 1):
        for kind, port in ports.items():
            clients = Clients(port)
            clients.connect(CLIENTS)
            taken = clients.receive(EVENTS)
            assert clients.received == CLIENTS * EVENTS, f"{kind}: {clients.received}"
            clients.leave()
            if round_number:  # the first one warms up
                rates[kind].append(CLIENTS * EVENTS / taken)
    return rates


def frames_a_second(
    ours: Sequence[float], theirs: Sequence[float], against: str, bar: float, of: str = ""
) -> Result:
    ratios = [own / base for own, base in zip(ours, theirs, strict=True)]
    medians = [statistics.median(rates) / 1_000 for rates in (ours, theirs)]
    detail = "{:.1f} k frames/s against {:.1f} k, ratios {:.2f} to {:.2f}"
    detail = detail.format(*medians, min(ratios), max(ratios))
    name = "an ASGI application that writes the same ready bytes" if against == "raw" else against
    work = f"event_stream{of}, {CLIENTS} clients x {EVENTS} events over uvicorn"
    return Result(work, name, statistics.median(ratios), bar, rate=True, detail=detail)


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 if the system does not report it."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def idle_clients(port: int, pid: int) -> tuple[Clients, float]:
    """Connect many clients; return them and the memory in kB that each takes in the server."""
    clients = Clients(port)
    clients.connect(10)
    before = resident(pid)
    clients.connect(MANY - 10)
    return clients, (resident(pid) - before) / (MANY - 10) / 1024


def many_clients() -> Iterator[Result]:
    with server("sse-starlette") as address:
        _, their_memory = idle_clients(*address)
    with server("ours") as address:
        clients, memory = idle_clients(*address)
        taken = clients.receive(RATE * SECONDS, RATE)
    late = max(0.0, taken - SECONDS)
    detail = (
        f"{clients.received:,} frames, {clients.lost} connections lost, the last {late:.1f} s after the end"
    )
    if memory and their_memory:
        yield Result(
            f"event_stream, memory of each of {MANY:,} idle clients",
            "sse-starlette",
            memory / their_memory,
            None,
            rate=False,
            detail=f"{memory:.1f} kB against {their_memory:.1f} kB",
        )
    yield Result(
        f"event_stream, {MANY:,} clients at {RATE} events a second for {SECONDS} s: what arrived",
        "what was published",
        clients.received / (MANY * RATE * SECONDS),
        1.0,
        rate=True,
        detail=detail,
    )


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
