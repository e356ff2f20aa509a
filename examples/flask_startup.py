"""Attach sinks in a program without an event loop: a Flask application.

    python examples/flask_startup.py [--port 8000]

    curl -X POST localhost:8000/orders -H 'content-type: application/json' -d '{"item": "tea"}'
    curl localhost:8000/health

The queued sink runs on a separate thread and is drained when the program exits. If the server forks workers
after the application was created (gunicorn --preload), each worker has its own queue.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import Any

from codomyrmex.integrations import DeliveryPolicy, Sink, attach_blocking
from codomyrmex.integrations.logging_monitoring import StructlogSink, redact
from codomyrmex.streaming import Event, InMemoryStream, create_event
from flask import Flask, request

stream = InMemoryStream()
stream.add_interceptor(redact())  # runs before the sinks


async def count_orders(events: Sequence[Event]) -> None:
    """Stand in for something slow: a message broker, a mail server, a webhook."""
    sys.stdout.write(f"delivered {len(events)} orders\n")
    sys.stdout.flush()


def create_app() -> Flask:
    """Create the application and attach its sinks."""
    sinks = StructlogSink(), Sink.from_function(count_orders, name="counter")
    attachment = attach_blocking(stream, *sinks, policy=DeliveryPolicy(batch_age=0.5)).start()

    app = Flask(__name__)

    @app.post("/orders")
    def order() -> tuple[dict[str, str], int]:
        event = create_event(request.get_json(), topic="orders.created")
        stream.publish_nowait(event)
        return {"id": event.id}, 201

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {name: sink._asdict() for name, sink in attachment.health().items()}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # exit as on Ctrl-C, which drains the sinks
    create_app().run(port=parser.parse_args().port)
