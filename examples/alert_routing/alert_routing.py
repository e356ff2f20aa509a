"""Alert routing from an event to a notification that arrives, and to its end.

    python examples/alert_routing/alert_routing.py

Starts a receiver on this machine, attaches an `AlertSink` with `shop.alerts.yaml` beside this file, and
publishes what a shop might: a storm, money, and the end of both. Prints what arrives.
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
    """Takes what Apprise posts: who it is for is the path, what it says is JSON."""

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        arrived.put((self.path.strip("/"), message))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Keep quiet."""


@contextmanager
def receiver() -> Iterator[str]:
    """Listen on this machine, and give the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def alert(summary: str, labels: dict[str, str], *, resolved: bool = False) -> Event:
    """Make an event that is an alert: labels say which one, and `status` whether it is over."""
    return create_event(
        summary,
        EventType.MESSAGE if resolved else EventType.ERROR,
        topic=f"shop.{labels['service']}",
        labels=labels,
        status="resolved" if resolved else "firing",
    )


def show_what_arrived(count: int) -> None:
    """Wait for so many notifications and print them."""
    for _ in range(count):
        try:
            who, message = arrived.get(timeout=10)
        except Empty:
            raise SystemExit("a notification did not arrive within 10 s") from None
        print(f"\n{who} gets [{message['type']}] {message['title']}")
        print(textwrap.indent(message["message"], "    "))


async def main() -> None:
    """Run the play."""
    with receiver() as address:
        os.environ["RECEIVER"] = address
        stream, decided = InMemoryStream(), InMemoryStream()
        try:
            config = load_alert_config(CONFIG)
        except AlertConfigError as error:
            raise SystemExit(str(error)) from None
        async with attach(stream, AlertSink(config, audit=decided)):
            money = {"alertname": "CardsDeclined", "service": "payments", "severity": "critical"}
            for instance in "abc":
                storm = {"alertname": "HighLatency", "service": "cart", "severity": "warning"}
                await stream.publish(alert("p99 is 3 s", {**storm, "instance": instance}))
            await stream.publish(alert("1 of 5 cards is declined", money))
            await asyncio.to_thread(show_what_arrived, 1)  # the pager, at once
        # At the end nothing waits any longer, as this configuration keeps no state.
        await asyncio.to_thread(show_what_arrived, 2)

        print("\nWhat the sink decided:")
        for event in decided.get_recent_events():
            print(f"  {event.topic}: {event.data.get('receiver')}, {event.data.get('reason')}")


if __name__ == "__main__":
    asyncio.run(main())
