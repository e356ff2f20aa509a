"""`StructlogSink`: each event becomes a structured log line."""

from __future__ import annotations

from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.sink import InlineSink
from codomyrmex.integrations.logging_monitoring.naming import event_level, event_name, printable
from codomyrmex.streaming import Event

try:
    import structlog
except ImportError as error:
    raise MissingExtraError("StructlogSink", "structlog", "structlog") from error


class StructlogSink(InlineSink):
    """Writes events with structlog, in the publisher's context and by the application's configuration.

    The payload is nested as `data` and `metadata`, so that no key of it can collide with structlog's.

    Args:
        logger: any structlog logger; `structlog.get_logger()` if left out.
        name: what the sink is called in reports.
    """

    def __init__(self, logger: Any = None, *, name: str = "structlog") -> None:
        self.name = name
        self._logger = structlog.get_logger() if logger is None else logger

    def emit(self, event: Event) -> None:
        plain = event.to_dict()  # what any renderer can take, and a copy that processors may change
        data = plain["data"]
        self._logger.log(
            event_level(event),
            event_name(event),
            event_id=printable(plain["id"]),
            event_type=plain["type"],
            topic=None if event.topic is None else printable(event.topic),
            data=printable(data) if isinstance(data, str) else data,
            metadata=plain["metadata"],
        )
