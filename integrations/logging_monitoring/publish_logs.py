"""`PublishLogs`: a structlog processor that publishes log records as events."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from typing import Any

from codomyrmex.integrations.logging_monitoring.log_feed import FeedCounts, LogFeed, exception_text
from codomyrmex.integrations.logging_monitoring.naming import LEVELS
from codomyrmex.streaming import Stream

_PRIVATE = frozenset({"_record", "_from_structlog", "_logger", "_name", "exc_info"})
_INFO = LEVELS["info"]


class PublishLogs(FeedCounts):
    """Publishes log records to a stream, and gives each on as it was.

    It stands behind `add_log_level` and the like, and before the renderer. An event has the topic
    `logs.<level>`, the fields of the record as data, and its level in the metadata. What is logged
    because of such an event is not published again, also across tasks and threads.

    It never raises into who logs, never waits, and needs no event loop.

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

    def __call__(
        self, _logger: Any, method_name: str, event_dict: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        feed = self._feed
        try:
            level = _level(method_name, event_dict)
            if level >= feed.min_level:
                self._publish(level, event_dict)
        except Exception as error:  # noqa: BLE001 - to log must not fail
            feed.fail(error)
        return event_dict

    def _publish(self, level: int, event_dict: MutableMapping[str, Any]) -> None:
        record = _record(event_dict)
        if self._feed.suppresses(event_dict.get("logger") if record is None else record.name):
            return
        fields = {key: value for key, value in event_dict.items() if key not in _PRIVATE}
        text = exception_text(event_dict.get("exc_info"))
        if text is not None:
            fields.setdefault("exception", text)
        self._feed.publish(level, fields)


def _record(event_dict: Mapping[str, Any]) -> logging.LogRecord | None:
    """Give the record of the standard library that came through a ProcessorFormatter."""
    record = event_dict.get("_record")
    return record if isinstance(record, logging.LogRecord) else None


def _level(method_name: str, event_dict: Mapping[str, Any]) -> int:
    record = _record(event_dict)
    if record is not None:
        return record.levelno
    said = event_dict.get("level", method_name)
    known = LEVELS.get(said.lower()) if isinstance(said, str) else None
    return LEVELS.get(method_name, _INFO) if known is None else known
