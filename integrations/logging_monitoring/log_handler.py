"""`StreamLogHandler`: a handler of the standard library's `logging` that publishes records as events."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from codomyrmex.integrations.logging_monitoring.log_feed import FeedCounts, LogFeed, exception_text
from codomyrmex.streaming import Stream

# What every record has; the rest is what the caller gave as `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class StreamLogHandler(FeedCounts, logging.Handler):
    """Publishes log records to a stream.

    An event has the topic `logs.<level>`; its data have `event` (the message), `level`, `logger`, `location`,
    `thread`, what the caller gave as `extra`, and `exception` where there is one. What is logged because
    of such an event is not published again, also across tasks and threads; nor is what this package
    logs itself.

    It never raises into who logs, never waits, holds no lock while it publishes, and needs no event loop.

    Args:
        stream: where to.
        min_level: records below it are not published.
        topic: the first part of the topic.

    Raises:
        ValueError: there is no such level, or the topic is malformed (`TopicError`).
        TypeError: it is no stream.
    """

    def __init__(self, stream: Stream, min_level: str | int = "warning", topic: str = "logs") -> None:
        self._feed = LogFeed(stream, min_level, topic)
        super().__init__(self._feed.min_level)

    def createLock(self) -> None:  # noqa: N802 - as it is called there
        """Make none: handlers of the stream run while a record is published, and must not be locked in."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> Any:
        """Filter and publish a record; without the lock of other handlers."""
        try:
            accepted = self.filter(record)
        except Exception as error:  # noqa: BLE001 - to log must not fail
            self._feed.fail(error)
            return False
        if isinstance(accepted, logging.LogRecord):
            record = accepted
        if accepted:
            self.emit(record)
        return accepted

    def emit(self, record: logging.LogRecord) -> None:
        """Publish a record."""
        try:
            if not self._feed.suppresses(record.name):
                happened = datetime.fromtimestamp(record.created, UTC)
                self._feed.publish(record.levelno, _fields(record), happened)
        except Exception as error:  # noqa: BLE001 - to log must not fail
            self._feed.fail(error)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if isinstance(record.msg, dict):  # structlog's, on its way to a ProcessorFormatter
        fields.update(record.msg)
        fields.pop("exc_info", None)
        fields.setdefault("event", "")
    else:
        fields["event"] = record.getMessage()
    fields["level"] = record.levelname.lower()
    fields["logger"] = record.name
    fields["location"] = f"{record.pathname}:{record.lineno}"
    fields["thread"] = record.threadName
    given = record.msg.get("exc_info") if isinstance(record.msg, dict) else None
    text = exception_text(record.exc_info) or record.exc_text or exception_text(given)
    if text:
        fields["exception"] = text
    if record.stack_info:
        fields["stack"] = record.stack_info
    for key, value in vars(record).items():
        if key not in _STANDARD and not key.startswith("_"):
            fields.setdefault(key, value)
    return fields
