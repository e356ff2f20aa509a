"""A circuit breaker around a service that fails and recovers, as log lines, alerts and a board.

    python examples/circuit_breaker_feed.py

A client orders from a small HTTP service through pybreaker. The service fails for a while: the circuit opens,
calls are rejected, it half-opens, and closes. Each step is logged. The opening and the closing are alerts
with the same labels, ready for alert routing.
"""

from __future__ import annotations

import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pybreaker
import structlog
from codomyrmex.integrations import attach_blocking
from codomyrmex.integrations.logging_monitoring import StructlogSink
from codomyrmex.integrations.service_mesh import CircuitBoard, attach_pybreaker
from codomyrmex.streaming import Event, InMemoryStream
from rich.console import Console

stream = InMemoryStream()


class Orders(BaseHTTPRequestHandler):
    """A service whose back end may be down."""

    back_end_is_down = False

    def do_GET(self) -> None:
        """Answer 503 while the back end is down."""
        self.send_response(503 if Orders.back_end_is_down else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Log nothing; the breaker reports failures."""


@contextmanager
def serving() -> Iterator[str]:
    """Serve on a free local port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Orders)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/orders"
    finally:
        server.shutdown()
        server.server_close()


def order(url: str) -> None:
    """Place an order."""
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own service
        answer.read()


def show_alert(event: Event) -> None:
    """Print what alert routing would receive."""
    if "status" in event.metadata:
        labels = event.metadata["labels"]
        sys.stdout.write(f"alert {event.metadata['status']}: {labels['alertname']} {labels['breaker']}\n")


def main() -> None:
    """Order while the service works, fails, and works again."""
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.dev.ConsoleRenderer(colors=False)],
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
    )
    breaker = pybreaker.CircuitBreaker(fail_max=3, reset_timeout=0.3, name="orders")
    stream.subscribe_nowait(show_alert)
    board = CircuitBoard(stream)
    with serving() as url, attach_blocking(stream, StructlogSink()):
        feed = attach_pybreaker(breaker, stream, service="shop")
        for number in range(12):
            Orders.back_end_is_down = 2 <= number < 7
            if number == 8:
                time.sleep(0.4)  # until the breaker half-opens
            try:
                breaker.call(order, url)
            except pybreaker.CircuitBreakerError:
                sys.stdout.write(f"order {number} was not placed: the circuit is open\n")
            except urllib.error.HTTPError as error:
                sys.stdout.write(f"order {number} has failed: {error}\n")
        feed.close()
    Console(file=sys.stdout, width=110).print(board.render())


if __name__ == "__main__":
    main()
