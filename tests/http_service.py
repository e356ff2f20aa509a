"""A stand-in for a service over HTTP: it records requests and answers as it is told to."""

from __future__ import annotations

import json
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from helpers import DEADLINE


class Received(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Reply(NamedTuple):
    status: int = 200
    body: str = ""
    type: str = "text/plain"
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


HANG, CUT = Reply(-1), Reply(-2)


class HttpService(ThreadingHTTPServer):
    """Answers each request with the next reply, and with `default` once none is left, or what it returns."""

    daemon_threads = True

    def __init__(self, default: Reply | Callable[[Received], Reply] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.default = default or Reply()
        self.replies: deque[Reply] = deque()
        self.received: list[Received] = []
        self.free = threading.Event()
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    @property
    def bodies(self) -> list[Any]:
        return [each.json for each in self.received]

    def use_tls(self, context: ssl.SSLContext) -> None:
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.scheme = "https"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing about clients that have left."""


class _Handler(BaseHTTPRequestHandler):
    server: HttpService

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        received = Received(self.path, dict(self.headers), body)
        self.server.received.append(received)
        reply = self.server.replies.popleft() if self.server.replies else self.server.default
        if not isinstance(reply, Reply):
            reply = reply(received)
        if reply is HANG:
            self.server.free.wait(DEADLINE)
        if reply.status < 0:
            self.close_connection = True
            return
        content = reply.body.encode()
        self.send_response(reply.status)
        headers = {"Content-Type": reply.type, "Content-Length": str(len(content)), **reply.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST  # noqa: N815 - as they are called there

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is called there
        """Log nothing."""


@contextmanager
def http_service(
    default: Reply | Callable[[Received], Reply] | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[HttpService]:
    with HttpService(default) as service:
        if tls is not None:
            service.use_tls(tls)
        thread = threading.Thread(target=service.serve_forever, args=(0.005,), daemon=True)
        thread.start()
        try:
            yield service
        finally:
            service.free.set()
            service.shutdown()
            thread.join(DEADLINE)
