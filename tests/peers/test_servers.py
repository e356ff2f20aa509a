"""The applications under real servers: whatever a client does, answers come in bounded time and memory."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

import psutil
import pytest
from durable.servers import free_port

PATIENCE = 20.0

PROGRAM = textwrap.dedent("""
    import asyncio, sys

    from codomyrmex.integrations.web import dashboard, event_ingest, event_stream
    from codomyrmex.streaming import InMemoryStream
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.routing import Mount

    class PassesThrough(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            return await call_next(request)

    name, port, wrapped = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "wrapped"
    stream = InMemoryStream(1_000)
    app = Starlette(
        routes=[
            Mount("/events", event_stream(stream, send_timeout=1, max_clients=50, queue_size=100)),
            Mount("/ingest", event_ingest(stream, body_timeout=1)),
            Mount("/live", dashboard(stream)),
        ],
        middleware=[Middleware(PassesThrough)] if wrapped else [],
    )
    if name == "serve":
        from codomyrmex.integrations.web import serve
        serve(app, port=port)
    elif name == "uvicorn":
        import uvicorn
        uvicorn.run(app, port=port, log_level="critical", ws="none")
    elif name == "hypercorn":
        from hypercorn.asyncio import serve
        from hypercorn.config import Config
        asyncio.run(serve(app, Config.from_mapping(bind=[f"127.0.0.1:{port}"], errorlog=None)))
    else:
        from granian.server.embed import Server
        asyncio.run(Server(app, address="127.0.0.1", port=port, interface="asgi", log_enabled=False).serve())
""")


class Server:
    """A server in a process of its own."""

    def __init__(self, name: str, folder: Path, *, wrapped: bool = False, descriptors: int = 0) -> None:
        if name != "serve":
            need(name)
        self.name = name
        program = folder / "program.py"
        program.write_text(PROGRAM)
        self.port = free_port()
        command = [sys.executable, str(program), name, str(self.port), "wrapped" if wrapped else "bare"]
        if descriptors:
            command = ["sh", "-c", f"ulimit -n {descriptors}; exec " + " ".join(command)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE)

    def exchange(
        self, *parts: bytes, pause: float = 0.0, until: bytes | None = b"\r\n", silence: float = PATIENCE
    ) -> bytes:
        """Send a request in parts and return what comes up to some bytes, or until the connection ends.

        Unless told otherwise, these are the end of the line with the status.
        """
        with self.connect() as connection:
            answer = bytearray()
            with suppress(OSError):
                for part in parts:
                    connection.sendall(part)
                    time.sleep(pause)
            with suppress(OSError):
                connection.settimeout(silence)
                while until is None or until not in answer:
                    data = connection.recv(65_536)
                    if not data:
                        break
                    answer += data
            return bytes(answer)

    def works(self) -> bool:
        """Return whether a sane client is answered."""
        body = json.dumps({"data": 1}).encode()
        posted = self.exchange(post(f"Content-Length: {len(body)}", "Connection: close"), body)
        return b" 202 " in posted[:20]

    def connections(self) -> int:
        """Return how many clients are connected to it."""
        found = psutil.Process(self.process.pid).net_connections("tcp")
        return sum(each.status == psutil.CONN_ESTABLISHED for each in found)

    def peak(self) -> int:
        """Return the most memory that it has had, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def need(module: str) -> None:
    """Skip if a package is missing on a developer's machine; fail in CI, which installs it."""
    try:
        import_module(module)
    except ImportError:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{module} is absent, and CI should have installed it")
        pytest.skip(f"{module} is not installed here")


@contextmanager
def running(server: Server) -> Iterator[Server]:
    try:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert server.process.poll() is None
            with suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 1):
                break
            time.sleep(0.05)
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module", params=["serve", "uvicorn", "hypercorn", "granian"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(Server(request.param, tmp_path_factory.mktemp("server"))) as started:
        yield started


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def post(*headers: str) -> bytes:
    return "\r\n".join(["POST /ingest/ HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode()


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode()


def status_of(answer: bytes) -> int:
    """Return the status of a response, or 0 if the connection was closed without one."""
    return int(answer.split()[1]) if answer else 0


def test_half_open_requests_do_not_keep_others_out(server: Server):
    connections = [server.connect() for _ in range(100)]
    for number, connection in enumerate(connections):
        connection.sendall((b"GET / HTTP/1.1\r\nX: ", b"", post("Content-Length: 1000") + b"[")[number % 3])
    assert server.works()
    for connection in connections:
        connection.close()
    assert server.works()


def test_a_body_that_does_not_arrive_is_answered_in_time(server: Server):
    began = time.monotonic()
    assert status_of(server.exchange(post("Content-Length: 1000"), b'{"data"')) == 408
    assert time.monotonic() - began < PATIENCE
    assert server.works()


@pytest.mark.parametrize(
    ("request_bytes", "statuses"),
    [
        (get("/live/", "X: " + "x" * 300_000), {0, 200, 400, 413, 431}),
        (get("/live/", *(f"X-{n}: 1" for n in range(20_000))), {0, 400, 413, 431}),
        (get("/events/?topic=" + "a." * 20_000 + ">"), {0, 400, 414, 431}),
        (get("/events/?topic=" + "a." * 1_500 + ">"), {400}),
        (get("/events/?topic=a&topic=b"), {400}),
        (get("/live/api/state", "Cookie: " + 'a="\\1' * 6_000), {0, 200, 400, 431}),
        (get("/live/api/state", "Origin: https://evil.example"), {403}),
        (post("Content-Length: 5000000") + b"x" * 2_000_000, {0, 413}),
        (post("Content-Length: 12", "Content-Length: 13") + b'{"data": 1}  ', {0, 400}),
        (post("Content-Length: -1"), {0, 400}),
        (post("Transfer-Encoding: chunked") + b"zz\r\n", {0, 400, 500}),
        (post("Transfer-Encoding: chunked") + b"ffffffffffffffffffff\r\nx", {0, 400, 408, 413, 500}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500, {0, 400}),
        (b"GET / HTTP/9.9\r\n\r\n", {0, 400, 404, 505}),
        (b"\r\n" * 10_000, {0, 400}),
    ],
)
def test_an_odd_request_is_refused_soon_and_does_no_harm(
    server: Server, request_bytes: bytes, statuses: set[int]
):
    began = time.monotonic()
    silence = 3.0 if 0 in statuses else PATIENCE  # some servers neither answer nor end the connection
    assert status_of(server.exchange(request_bytes, silence=silence)) in statuses
    assert time.monotonic() - began < PATIENCE
    assert server.works()
    assert server.peak() < 300


def test_a_body_may_come_in_odd_chunks(server: Server):
    body = b'{"data": "odd"}'
    chunks = b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    head = post("Transfer-Encoding: chunked", "Connection: close")
    assert status_of(server.exchange(head + chunks)) == 202
    few_bytes = [chunks[start : start + 5] for start in range(0, len(chunks), 5)]
    assert status_of(server.exchange(head, *few_bytes, pause=0.001)) == 202


def test_pipelined_requests_are_answered_in_their_order(server: Server):
    many = get("/live/api/state") * 20 + get("/live/none", "Connection: close")
    answer = server.exchange(many, until=None)  # it is closed behind the last one
    statuses = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200"] * 20 + [b"404"]


@pytest.mark.parametrize("host", [b"", b"Host: 127.0.0.1\r\n"])
def test_a_request_of_http_1_0_is_answered_without_chunks(server: Server, host: bytes):
    """HTTP/1.0 knows neither `Host`, which is left out on this machine, nor chunks."""
    answer = server.exchange(b"GET /live/api/state HTTP/1.0\r\n" + host + b"\r\n", until=None)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status_of(answer) == 200
    assert b"chunked" not in head.lower()
    assert isinstance(json.loads(body), dict)
    stream = server.exchange(b"GET /events/ HTTP/1.0\r\n" + host + b"\r\n", until=b"event: connect\n")
    assert b"\r\n\r\nid:" in stream or b"\r\n\r\nevent: connect\n" in stream, stream
    foreign = server.exchange(b"GET /live/api/state HTTP/1.0\r\nHost: evil.example\r\n\r\n")
    assert status_of(foreign) == 421


def test_clients_that_leave_early_leave_nothing_behind(server: Server):
    for request in (post("Content-Length: 100") + b"[", get("/events/"), get("/live/api/state")) * 70:
        with server.connect() as connection:
            connection.sendall(request)
    deadline = time.monotonic() + PATIENCE
    connect = b"event: connect"
    # Until it has noticed all of them.
    while connect not in server.exchange(get("/events/", "Connection: close"), until=connect):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert server.works()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", ["serve", "uvicorn", "hypercorn", "granian"])
def test_clients_that_never_read_take_little_memory(name: str, wrapped: bool, tmp_path: Path):
    with running(Server(name, tmp_path, wrapped=wrapped)) as server:
        deaf = []
        for _ in range(10):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(get("/events/"))
            deaf.append(connection)
        body = json.dumps([{"data": "x" * 100_000}] * 9).encode()
        head = post(f"Content-Length: {len(body)}", "Connection: close")
        for _ in range(20):
            assert status_of(server.exchange(head, body)) == 202
        if name in {"serve", "uvicorn"}:  # others do not let an application end a connection
            until(lambda: server.connections() == 0)
        else:
            time.sleep(2)
        assert server.works()
        assert server.peak() < 600
        if name in {"serve", "uvicorn"}:
            for connection in deaf:
                connection.settimeout(PATIENCE)
                with suppress(ConnectionError):
                    while connection.recv(65_536):
                        pass
        for connection in deaf:
            connection.close()


def test_files_can_be_opened_while_all_connections_are_taken(tmp_path: Path):
    with running(Server("serve", tmp_path, descriptors=100)) as server:
        connections = [server.connect() for _ in range(110)]
        for connection in connections:
            connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        time.sleep(0.5)
        descriptors = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
        assert descriptors < 80
        time.sleep(12)  # the time for headers is over
        assert server.works()
        for connection in connections:
            connection.close()
