"""A process with 100 file descriptors and 256 MB of memory, under load and under attack."""

from __future__ import annotations

import json
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from helpers import DEADLINE

DESCRIPTORS = 100
MEMORY = 256 << 20
ATTACK = 6.0  # seconds
PATIENCE = 30.0
TOKEN = "t0k3n"

CONFIG = """\
route:
  receiver: ops
  group_by: [alertname]
  group_wait: 50ms
  group_interval: 100ms
  repeat_interval: 1h
receivers:
  - name: ops
    apprise_configs:
      - {url: "json://127.0.0.1:PORT", title: "{{ group_labels.alertname }}", body: "{{ status }}"}
state: state.db
"""

# An application as the documentation has it, with 100 events and 4 alerts a second.
PROGRAM = """
import asyncio, signal, sys
from codomyrmex.integrations import attach
from codomyrmex.integrations.logging_monitoring.jsonl_sink import JsonlSink
from codomyrmex.integrations.notification import AlertSink
from codomyrmex.integrations.web import dashboard, event_ingest, event_stream, serving
from codomyrmex.streaming import InMemoryStream, create_event
from starlette.applications import Starlette
from starlette.routing import Mount

async def main():
    stream, alerts, stopping = InMemoryStream(), AlertSink("alerts.yaml"), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    streams = event_stream(stream, signals=False)
    page = dashboard(stream, alerts=alerts, signals=False)
    app = Starlette(routes=[Mount("/in", event_ingest(stream)), Mount("/out", streams), Mount("/", page)])
    attached = attach(stream, alerts, JsonlSink("out.jsonl"))
    async with attached, serving(app, port=0, token=sys.argv[1]) as url:
        print(url, flush=True)
        number = 0
        while not stopping.is_set():
            labels = {"labels": {"alertname": f"A{number // 25}"}} if number % 25 == 0 else {}
            await stream.publish(create_event({"n": number, "fill": "x" * 500}, topic="load", **labels))
            number += 1
            await asyncio.sleep(0.01)
        await streams.aclose()
        await page.aclose()
    lost = int(not attached.report().complete)
    # Not ru_maxrss, which begins with what the process had that started this one.
    [used] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")]
    print(number, lost, used, flush=True)

asyncio.run(main())
"""


class Service(ThreadingHTTPServer):
    """Receives the notifications."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.received.append(body["title"])
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
        """Log nothing."""


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    # Not RLIMIT_AS: what a thread or an arena reserves of the address space is no memory yet.
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


class Program:
    def __init__(self, process: subprocess.Popen[str], folder: Path, service: Service) -> None:
        assert process.stdout is not None
        self.process = process
        self.url = process.stdout.readline().strip()
        parts = urlsplit(self.url)
        self.address = (parts.hostname, parts.port)
        self.folder = folder
        self.service = service

    def connect(self) -> socket.socket:
        """Return a connection, which the server may never accept."""
        connection = socket.socket()
        connection.setblocking(False)
        with suppress(BlockingIOError):
            connection.connect(self.address)
        select.select([], [connection], [], 0.2)
        return connection

    def lines(self) -> int:
        return (self.folder / "out.jsonl").read_bytes().count(b"\n")

    def goes_on(self, seconds: float) -> None:
        """Fail unless alerts go out and lines are written while this takes."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            alerts, lines, at = len(self.service.received), self.lines(), time.monotonic()
            until(
                lambda alerts=alerts, lines=lines: (
                    len(self.service.received) > alerts and self.lines() > lines
                )
            )
            assert time.monotonic() - at < DEADLINE, "it goes on, but much too slowly"

    def get(self) -> int:
        """Return the status of a request with the token, once the server takes connections again."""

        def answers() -> bool:
            nonlocal status
            with suppress(httpx.HTTPError):
                status = httpx.get(
                    f"{self.url}api/state", headers={"Authorization": f"Bearer {TOKEN}"}
                ).status_code
            return status == 200

        status = 0
        until(answers)
        return status

    def stop(self) -> tuple[int, int, int]:
        """Stop it, and return the number of events, whether some were lost, and the memory in kB."""
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, (self.folder / "stderr").read_text()
        published, lost, memory = map(int, out.split())
        return published, lost, memory


@pytest.fixture
def program(service: Service, tmp_path: Path) -> Iterator[Program]:
    (tmp_path / "alerts.yaml").write_text(CONFIG.replace("PORT", str(service.server_port)))
    command = [sys.executable, "-c", PROGRAM, TOKEN]
    with (
        (tmp_path / "stderr").open("w") as errors,
        subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=limit,  # noqa: PLW1509 - it only sets limits
        ) as process,
    ):
        try:
            started = Program(process, tmp_path, service)
            until(lambda: service.received)
            yield started
        finally:
            process.kill()


def requests(program: Program, begin: bytes, count: int) -> ExitStack:
    """Open connections that begin a request and never end it."""
    stack = ExitStack()
    for _ in range(count):
        connection = stack.enter_context(closing(program.connect()))
        with suppress(OSError):
            connection.send(begin)
    return stack


HALF_OPEN = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "
UNFINISHED = (
    b"POST /in/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1048577\r\n"
    b"Authorization: Bearer " + TOKEN.encode() + b"\r\n\r\n" + b"[" * 1_000_000
)
READERS = b"GET /out/ HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n\r\n"
ATTACKS = {
    "nothing sent": b"",
    "half-open": HALF_OPEN,
    "unfinished bodies": UNFINISHED,
    "readers that read nothing": READERS,
}


@contextmanager
def load(program: Program) -> Iterator[list[int]]:
    """Post events and read the stream while this lasts, as long as the server allows it."""
    headers, ended, statuses = {"Authorization": f"Bearer {TOKEN}"}, threading.Event(), []

    def post() -> None:
        while not ended.is_set():
            with suppress(httpx.HTTPError), httpx.Client(headers=headers, timeout=2) as client:
                while not ended.is_set():
                    content: Any = [{"data": {"posted": "x" * 200}, "metadata": {"topic": "load"}}] * 20
                    statuses.append(client.post(f"{program.url}in/", json=content).status_code)
                    ended.wait(0.02)
            ended.wait(0.1)

    def read() -> None:
        while not ended.is_set():
            with (
                suppress(httpx.HTTPError),
                httpx.stream("GET", f"{program.url}out/", headers=headers, timeout=2) as body,
            ):
                for _ in body.iter_bytes():
                    if ended.is_set():
                        return
            ended.wait(0.1)

    threads = [threading.Thread(target=each) for each in (post, post, read, read, read)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_under_load_alerts_go_out_and_files_are_written(program):
    with load(program) as statuses:
        program.goes_on(ATTACK)
    assert set(statuses) == {202}
    published, lost, memory = program.stop()
    assert lost == 0
    assert program.lines() >= published
    assert memory < MEMORY >> 10


@pytest.mark.parametrize("begin", ATTACKS.values(), ids=ATTACKS)
def test_under_attack_alerts_go_out_and_files_are_written(program, begin):
    with load(program), requests(program, begin, 300):
        program.goes_on(ATTACK)
    assert program.get() == 200  # afterwards it serves as before
    published, lost, memory = program.stop()
    assert lost == 0
    assert program.lines() >= published
    assert memory < MEMORY >> 10
