"""The service: takes orders over HTTP. Its backend fails for a while in every cycle."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# A cycle, in fractions: the backend works, is unavailable, is slow, and works again.
FAILS_FROM, FAILS_UNTIL, SLOW_UNTIL = 0.25, 0.6, 0.85
SLOW = 0.4  # seconds


class Backend:
    """The storage of the service.

    Args:
        cycle: seconds from one failure to the next, starting with the first order.
    """

    def __init__(self, cycle: float) -> None:
        self._cycle = cycle
        self._started_at: float | None = None

    def store(self, order: str) -> None:
        """Store an order.

        Raises:
            ConnectionError: it is unavailable.
        """
        self._started_at = self._started_at or time.monotonic()
        now = (time.monotonic() - self._started_at) % self._cycle / self._cycle
        if FAILS_FROM <= now < FAILS_UNTIL:
            raise ConnectionError(f"{order} was not stored: no connection to the database")
        time.sleep(SLOW if FAILS_UNTIL <= now < SLOW_UNTIL else 0.01)


class Orders(BaseHTTPRequestHandler):
    """Accepts an order, `POST /orders/7`. Without its backend it responds with 503."""

    backend: Backend

    def do_POST(self) -> None:
        """Accept an order."""
        try:
            self.backend.store(self.path)
        except ConnectionError:
            self.send_response(503, "Backend unavailable")
        else:
            self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Log nothing: the client publishes events."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on threads on a free local port.

    Args:
        handler: handles the requests.

    Yields:
        The host and port.
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
    """Run the service.

    Args:
        cycle: seconds from one failure to the next.

    Yields:
        The host and port.
    """
    with serving(type("OurOrders", (Orders,), {"backend": Backend(cycle)})) as host:
        yield host
