"""From real input to a log line, a span event and a notification.

    python examples/first_light.py                  the access log of a small server, requested here
    python examples/first_light.py /var/log/auth.log
    journalctl -u ssh | python examples/first_light.py -

Each line becomes an event. A processor keeps the failures and extracts their details. They are logged with
structlog, added to an OpenTelemetry span, and sent with Apprise to a receiver that this program starts. In
the first form a circuit breaker guards the requests; it opens and closes along the way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pybreaker
import structlog
from codomyrmex.integrations import attach
from codomyrmex.integrations.logging_monitoring import OpenTelemetrySink, StructlogSink
from codomyrmex.integrations.notification import AppriseChannel
from codomyrmex.integrations.service_mesh import attach_pybreaker
from codomyrmex.streaming import Event, EventType, InMemoryStream, StreamProcessor, create_event
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

LINES_OF_A_SPAN = 100

failures = InMemoryStream()  # logged, traced and notified

# 127.0.0.1 - - [17/May/2015:10:05:03 +0000] "GET /orders HTTP/1.1" 500 27 ...
ACCESS_LINE = re.compile(
    r'(?P<client>\S+) \S+ \S+ \[[^]]+\] "(?P<request>[^"]*)" (?P<status>\d{3}) (?P<size>\d+|-)'
)
# Dec 10 06:55:48 host sshd[24200]: Failed password for invalid user admin from 173.234.31.186 port 38926 ssh2
LOGIN_LINE = re.compile(
    r"(?:message repeated (?P<times>\d+) times: \[ )?"
    r"Failed password for (?:invalid user )?(?P<user>.*?) from (?P<client>\S+)"
)


def explain_failure(event: Event) -> Event | None:
    """Return an event with the details of a failure; None for any other line."""
    line = event.data["line"]
    access = ACCESS_LINE.match(line)
    if access is not None:
        status = int(access["status"])
        if status < 400:
            return None
        details: dict[str, Any] = {
            "client": access["client"],
            "request": access["request"],
            "status": status,
        }
        topic, level = "http.failure", "error" if status >= 500 else "warning"
    else:
        login = LOGIN_LINE.search(line)
        if login is None:
            return None
        details = {
            "client": login["client"],
            "user": login["user"],
            "attempts": int(login["times"] or 1),
        }
        topic, level = "login.failure", "warning"
    return event.replace(
        type=EventType.ERROR, data=details, metadata={**event.metadata, "topic": topic, "level": level}
    )


# Input


async def lines_of(name: str) -> AsyncIterator[str]:
    """Yield the lines of a file, or of the standard input for `-`."""
    file = sys.stdin.fileno() if name == "-" else name
    with await asyncio.to_thread(open, file, encoding="utf-8", errors="replace") as source:
        while line := await asyncio.to_thread(source.readline):
            yield line.rstrip("\n")


class OrderService(BaseHTTPRequestHandler):
    """A service whose backend is unavailable for a while; it writes an access log like any web server."""

    access_log: SimpleQueue[str | None]
    backend_is_down = False

    def do_GET(self) -> None:
        """Respond with 404 to unknown paths, and with 503 while the backend is down."""
        status = 503 if self.backend_is_down else 200 if self.path.startswith("/orders") else 404
        body = json.dumps({"status": status}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Write a line in the common log format."""
        self.access_log.put(
            f"{self.client_address[0]} - - [{self.log_date_time_string()}] "
            f'"{self.requestline}" {code:d} {size}'
        )


class Unavailable(Exception):  # noqa: N818 - named after the HTTP status
    """The service responded with an error."""


def shop(port: int, breaker: pybreaker.CircuitBreaker, service: type[OrderService]) -> int:
    """Place orders through the breaker while the service fails and recovers; return how many it refused."""

    def get(path: str) -> int:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            status = connection.getresponse().status
        finally:
            connection.close()
        if status >= 500:
            raise Unavailable(path)
        return status

    refused = 0
    tracer = trace.get_tracer("shop")
    for number in range(30):
        service.backend_is_down = 10 <= number < 16
        path = "/favicon.ico" if number == 5 else f"/orders/{number}"
        with tracer.start_as_current_span("order"):
            if number == 20:
                breaker.half_open()  # try again now instead of after the reset timeout
            refused += breaker.current_state == "open"
            with suppress(Unavailable, pybreaker.CircuitBreakerError):
                breaker.call(get, path)
    return refused


async def orders() -> AsyncIterator[str]:
    """Run the service and its customer, and yield the lines of the access log as they are written."""
    log: SimpleQueue[str | None] = SimpleQueue()
    service = type("Service", (OrderService,), {"access_log": log})

    def customer() -> None:
        refused = shop(port, breaker, service)
        sys.stdout.write(f"the circuit breaker refused {refused} requests\n")
        log.put(None)

    with serving(service) as port:
        breaker = pybreaker.CircuitBreaker(fail_max=3, reset_timeout=60, name="orders")
        with trace.get_tracer("shop").start_as_current_span("set up"):  # it publishes its state at once
            feed = attach_pybreaker(breaker, failures)
        shopping = asyncio.create_task(asyncio.to_thread(customer))
        while (line := await asyncio.to_thread(log.get)) is not None:
            yield line
        await shopping
        feed.close()


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """Serve HTTP on a free local port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


# Output


class Receiver(BaseHTTPRequestHandler):
    """Accepts what Apprise posts, in place of a chat or a pager."""

    received: list[dict[str, Any]]

    def do_POST(self) -> None:
        """Store the notification."""
        self.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Log nothing."""


def show_span(span: ReadableSpan) -> str:
    """Return a span as one line; the exporter's own format has thirty for each event."""
    names = ", ".join(sorted({event.name for event in span.events}))
    return f"span {span.name!r}: {len(span.events)} events {names}\n"


class SpansWithEvents(SimpleSpanProcessor):
    """Exports spans with events, and counts the events."""

    events = 0

    def on_end(self, span: ReadableSpan) -> None:
        """Export a span if it has events."""
        if span.events:
            self.events += len(span.events)
            super().on_end(span)


async def main(name: str | None, *, quiet: bool = False) -> dict[str, int]:
    """Run the program and return its counts."""
    # One write per line, because the thread of the customer logs too.
    lines = structlog.ReturnLoggerFactory() if quiet else structlog.WriteLoggerFactory(sys.stdout)
    structlog.configure(logger_factory=lines)
    spans = SpansWithEvents(
        ConsoleSpanExporter(formatter=(lambda _: "") if quiet else show_span, out=sys.stdout)
    )
    provider = TracerProvider(span_limits=SpanLimits(max_events=10 * LINES_OF_A_SPAN))
    provider.add_span_processor(spans)
    trace.set_tracer_provider(provider)
    tracer = trace.get_tracer("first_light")

    raw = InMemoryStream()
    keep_failures = StreamProcessor(raw).map(explain_failure).sink(failures)
    received: list[dict[str, Any]] = []
    receiver = type("Notifications", (Receiver,), {"received": received})
    with serving(receiver) as port:
        operations = AppriseChannel("operations", f"json://127.0.0.1:{port}/")
        async with attach(failures, StructlogSink(), OpenTelemetrySink(), operations) as attachment:
            await keep_failures.start()
            line_count = 0
            span = tracer.start_span("read lines")
            async for line in orders() if name is None else lines_of(name):
                with trace.use_span(span):
                    await raw.publish(create_event({"line": line}, topic="log.line"))
                line_count += 1
                if line_count % LINES_OF_A_SPAN == 0:
                    span.end()
                    span = tracer.start_span("read lines")
            span.end()
            await keep_failures.stop()
            report = await attachment.aclose(timeout=60)
    provider.shutdown()
    published = failures.statistics().published
    dropped = [sink.given_up + sink.lost + sum(sink.dropped.values()) for sink in report.sinks.values()]
    return {
        "lines received": line_count,
        "failures and state changes": published,
        "logged": report.sinks["structlog"].delivered,
        "added to a span": spans.events,
        "notified": len(received),
        "dropped": sum(dropped),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("input", nargs="?", help="a log file, or - for standard input")
    arguments = parser.parse_args()
    if arguments.input not in (None, "-") and not Path(arguments.input).is_file():
        parser.error(f"there is no file {arguments.input}")
    for label, count in asyncio.run(main(arguments.input)).items():
        print(f"{count:7,} {label}")
