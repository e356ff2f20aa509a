"""Alert routing, from events to the notifications that arrive.

    python examples/alert_routing/alert_routing.py

Starts a receiver on this machine, attaches an `AlertSink` with `shop.alerts.yaml`, publishes alerts about
latency and payments, and prints the notifications.
"""

from __future__ import annotations

import asyncio
import json
import os
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, SimpleQueue

from codomyrmex.integrations import attach
from codomyrmex.integrations.notification import AlertConfigError, AlertSink, load_alert_config
from codomyrmex.streaming import Event, EventType, InMemoryStream, create_event

CONFIG = Path(__file__).with_name("shop.alerts.yaml")

arrived: SimpleQueue[tuple[str, dict[str, str]]] = SimpleQueue()


class Receiver(BaseHTTPRequestHandler):
    """Receives the requests of Apprise: the path is the receiver, the body is JSON."""

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        arrived.put((self.path.strip("/"), message))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Log nothing."""


@contextmanager
def receiver() -> Iterator[str]:
    """Listen on this machine, and yield the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def alert(summary: str, labels: dict[str, str], *, resolved: bool = False) -> Event:
    """Return an event for an alert, which is identified by its labels."""
    return create_event(
        summary,
        EventType.MESSAGE if resolved else EventType.ERROR,
        topic=f"shop.{labels['service']}",
        labels=labels,
        status="resolved" if resolved else "firing",
    )


def print_notifications(count: int) -> None:
    """Wait for `count` notifications and print them."""
    for _ in range(count):
        try:
            receiver_name, message = arrived.get(timeout=10)
        except Empty:
            raise SystemExit("a notification did not arrive within 10 s") from None
        print(f"\n{receiver_name} gets [{message['type']}] {message['title']}")
        print(textwrap.indent(message["message"], "    "))


async def main() -> None:
    """Publish the alerts."""
    with receiver() as address:
        os.environ["RECEIVER"] = address
        stream, audit = InMemoryStream(), InMemoryStream()
        try:
            config = load_alert_config(CONFIG)
        except AlertConfigError as error:
            raise SystemExit(str(error)) from None
        async with attach(stream, AlertSink(config, audit=audit)):
            declined = {"alertname": "CardsDeclined", "service": "payments", "severity": "critical"}
            latency = {"alertname": "HighLatency", "service": "cart", "severity": "warning"}
            for instance in "abc":
                await stream.publish(alert("p99 is 3 s", {**latency, "instance": instance}))
            await stream.publish(alert("1 of 5 cards is declined", declined))
            await asyncio.to_thread(print_notifications, 1)  # the pager, at once
        # When the sink closes, pending notifications are sent, as this configuration has no shared state.
        await asyncio.to_thread(print_notifications, 2)

        print("\nWhat the sink decided:")
        for event in audit.get_recent_events():
            print(f"  {event.topic}: {event.data.get('receiver')}, {event.data.get('reason')}")


if __name__ == "__main__":
    asyncio.run(main())
