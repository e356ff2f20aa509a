"""`OpenTelemetrySink`: each event becomes an event on the publisher's current span."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.errors import DroppedError
from codomyrmex.integrations.delivery.sink import InlineSink
from codomyrmex.integrations.logging_monitoring.naming import event_name
from codomyrmex.streaming import Event

try:
    from opentelemetry import trace
except ImportError as error:
    raise MissingExtraError("OpenTelemetrySink", "opentelemetry-api", "otel") from error

_MAX_DEPTH = 4
_MAX_ATTRIBUTES = 100  # the SDK keeps 128 for each event
_EPOCH = datetime.fromtimestamp(0, UTC)
_INT64 = range(-(2**63), 2**63)  # what OTLP can carry


class OpenTelemetrySink(InlineSink):
    """Adds events to the span that records where they are published.

    Attributes are `event.id`, `event.type`, `event.topic`, `event.data.*` and `event.metadata.*`,
    flattened with dots; the time is the event's own.

    Args:
        name: what the sink is called in reports; an event that is published where no span is recording
            is in them as dropped, with the reason `no_span`.
    """

    def __init__(self, *, name: str = "opentelemetry") -> None:
        self.name = name

    def emit(self, event: Event) -> None:
        span = trace.get_current_span()
        if not span.is_recording():
            raise DroppedError("no_span")
        nanoseconds = (event.timestamp - _EPOCH) // timedelta(microseconds=1) * 1_000
        span.add_event(event_name(event), _attributes(event), nanoseconds)


def _attributes(event: Event) -> dict[str, str | bool | int | float]:
    plain = event.to_dict()  # so that there is no value the SDK would warn about
    attributes: dict[str, str | bool | int | float] = {
        "event.id": plain["id"],
        "event.type": plain["type"],
    }
    if event.topic is not None:
        attributes["event.topic"] = plain["metadata"]["topic"]
    for part in ("data", "metadata"):
        for key, value in _flatten(f"event.{part}", plain[part], 0):
            if len(attributes) < _MAX_ATTRIBUTES:
                attributes[key] = value
    return attributes


def _flatten(key: str, value: Any, depth: int) -> Iterator[tuple[str, str | bool | int | float]]:
    if isinstance(value, dict) and depth < _MAX_DEPTH:
        for name, inner in value.items():
            yield from _flatten(f"{key}.{name}", inner, depth + 1)
    elif isinstance(value, (bool, float, str)) or (isinstance(value, int) and value in _INT64):
        yield key, value
    elif value is not None:
        yield key, str(value)
