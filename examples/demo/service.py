"""The service: it takes orders over HTTP, and its back end fails for a while in every cycle."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# A cycle: all is well, the back end is away, it is back and slow, all is well.
FAILS_FROM, FAILS_UNTIL, SLOW_UNTIL = 0.25, 0.6, 0.85
SLOW = 0.4  # seconds


class BackEnd:
    """What the service needs to do its work.

    Args:
        cycle: seconds from one failure to the next; it begins with the first order.
    """

    def __init__(self, cycle: float) -> None:
        self._cycle = cycle
        self._began: float | None = None

    def store(self, order: str) -> None:
        """Store an order.

        Raises:
            ConnectionError: it is away.
        """
        self._began = self._began or time.monotonic()
        now = (time.monotonic() - self._began) % self._cycle / self._cycle
        if FAILS_FROM <= now < FAILS_UNTIL:
            raise ConnectionError(f"{order} was not stored: no connection to the database")
        time.sleep(SLOW if FAILS_UNTIL <= now < SLOW_UNTIL else 0.01)


class Orders(BaseHTTPRequestHandler):
    """Takes an order: `POST /orders/7`. Without its back end it answers 503."""

    back_end: BackEnd

    def do_POST(self) -> None:
        """Take an order."""
        try:
            self.back_end.store(self.path)
        except ConnectionError:
            self.send_response(503, "Back end is away")
        else:
            self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is called there
        """Say nothing: the client's events tell."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a free port of this machine, on threads.

    Args:
        handler: what to serve.

    Yields:
        The host with the port.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def order_service(cycle: float) -> Iterator[str]:
    """Run the service, and give its host with the port.

    Args:
        cycle: seconds from one failure to the next.
    """
    with serving(type("OurOrders", (Orders,), {"back_end": BackEnd(cycle)})) as host:
        yield host
