"""The stream of the shop and its sinks, which all of its programs import.

CODOMYRMEX_STORE is where the events are. The default is a file for all processes of this host; with the URL
of a PostgreSQL, Redis or NATS server it is all processes of all hosts. Nothing else changes.
"""

from __future__ import annotations

import os
from pathlib import Path

from codomyrmex.integrations.durable import DurableStream, open_store
from codomyrmex.integrations.logging_monitoring import StructlogSink
from codomyrmex.integrations.notification import AlertSink
from codomyrmex.streaming import Event, EventType, create_event

stream = DurableStream(open_store(os.environ.get("CODOMYRMEX_STORE", "sqlite:///shop.db")))
alerts = AlertSink(Path(__file__).with_name("alerts.yaml"))
sinks = (StructlogSink(), alerts)


def order_event(item: str) -> Event:
    """Return the event of an order; one of something that is sold out is an alert."""
    if item.startswith("unicorn"):
        labels = {"alertname": "SoldOut", "item": item}
        return create_event(f"{item} is sold out", EventType.ERROR, topic="orders.failed", labels=labels)
    return create_event({"item": item}, topic="orders.created")
