"""How a log record becomes an event, and how what comes of it is kept from coming back."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from codomyrmex.integrations.logging_monitoring.naming import NAMES, as_name, level_name, level_number
from codomyrmex.streaming import EventType, Stream, create_event
from codomyrmex.streaming.counters import Counter
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.encoding import to_builtins
from codomyrmex.streaming.provenance import LOGS, ORIGIN, cause, stems_from_logs
from codomyrmex.streaming.topics import check_topic

_OWN = "codomyrmex"
_ERROR_FROM = level_number("error")

_log = Diagnostics(__name__)


class LogFeed:
    """Publishes log records to a stream. Never raises, never waits, needs no event loop.

    Attributes:
        published: records that became events.
        suppressed: records that were not published because such an event had caused them, or because
            they are the package's own.
        failed: records that could not be published.
    """

    def __init__(self, stream: Stream, min_level: str | int, topic: str) -> None:
        if not isinstance(stream, Stream):
            raise TypeError(f"logs are published to a stream, not to {type(stream).__name__}")
        self.min_level = level_number(min_level)
        self._stream = stream
        self._topics = {name: f"{check_topic(topic)}.{name}" for name in NAMES.values()}
        self.published = Counter()
        self.suppressed = Counter()
        self.failed = Counter()

    def suppresses(self, logger: object) -> bool:
        """Tell, and count, whether a record of this logger must not be published here and now."""
        own = isinstance(logger, str) and (logger == _OWN or logger.startswith(f"{_OWN}."))
        if own or stems_from_logs(cause.get()):
            self.suppressed.tick()
            return True
        return False

    def publish(self, level: int, fields: Mapping[str, Any], happened: datetime | None = None) -> None:
        """Publish a record as an event; its data are the fields, converted to built-in types.

        Args:
            level: the level of `logging`.
            fields: what the record says; `event` is its message.
            happened: when it was logged; now if left out.
        """
        token = cause.set(LOGS)
        try:
            name = level_name(level)
            event = create_event(
                to_builtins(fields),
                EventType.ERROR if level >= _ERROR_FROM else EventType.MESSAGE,
                topic=self._topics[name],
                level=name,
                event=as_name(fields.get("event", "")),
                **{ORIGIN: LOGS},
            )
            self._stream.publish_nowait(event if happened is None else event.replace(timestamp=happened))
        except Exception as error:  # noqa: BLE001 - to log must not fail
            self.fail(error)
        else:
            with suppress(Exception):  # as above: it is published, and must not count as failed too
                self.published.tick()
        finally:
            cause.reset(token)

    def fail(self, error: Exception) -> None:
        """Count a record that could not be published."""
        self.failed.tick()
        with suppress(Exception):  # at the end of the stack there may be no way left to say it
            _log.warning(type(error).__name__, "a log record was not published", error=error)


class FeedCounts:
    """The counts of what publishes through a feed."""

    _feed: LogFeed

    @property
    def published(self) -> int:
        """Records that became events."""
        return self._feed.published.value()

    @property
    def suppressed(self) -> int:
        """Records not published because such an event had caused them, or as they are the package's own."""
        return self._feed.suppressed.value()

    @property
    def failed(self) -> int:
        """Records that could not be published, for example as the stream is closed."""
        return self._feed.failed.value()


def exception_text(exc_info: Any) -> str | None:
    """Give the traceback that `exc_info` stands for: an exception, a triple, or True for the present one."""
    if not exc_info:
        return None
    if isinstance(exc_info, BaseException):
        error: BaseException | None = exc_info
    elif isinstance(exc_info, tuple):
        error = exc_info[1]
    else:
        error = sys.exception()
    return None if error is None else "".join(traceback.format_exception(error)).rstrip()
