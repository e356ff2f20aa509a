"""The shop as a WSGI application, such as Flask or Django.

gunicorn wsgi:app --workers 4 --preload

    curl -X POST localhost:8000/orders/tea
    curl localhost:8000/readyz
"""

from __future__ import annotations

from codomyrmex.integrations import attach_blocking
from flask import Flask
from shop_stream import order_event, sinks, stream

attachment = attach_blocking(stream, *sinks).start()  # before or after the fork, as you like
app = Flask(__name__)


@app.post("/orders/<item>")
def place_order(item: str) -> tuple[dict[str, str], int]:
    """Publish an order, which is stored within some milliseconds."""
    event = order_event(item)
    stream.publish_nowait(event)
    return {"id": event.id}, 201


@app.get("/readyz")
def readyz() -> tuple[dict[str, str], int]:
    """Return 200 as long as the store answers."""
    ready = stream.health().available
    return {"status": "ready" if ready else "not ready"}, 200 if ready else 503
