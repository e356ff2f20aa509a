"""`PublishLogs` and `StreamLogHandler`: publish log records as events, and never in a loop."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.logging_monitoring.naming import (
    LEVELS,
    NAMES,
    as_name,
    level_name,
    level_number,
)
from codomyrmex.streaming import EventType, Stream, create_event
from codomyrmex.streaming.counters import Counter
from codomyrmex.streaming.encoding import to_builtins
from codomyrmex.streaming.errors import ENDS_PROGRAM
from codomyrmex.streaming.provenance import LOGS, ORIGIN, cause, stems_from_logs
from codomyrmex.streaming.topics import check_topic

_PACKAGE = "codomyrmex"
_CAUSE = "_codomyrmex_cause"  # an attribute of log records

_log = Diagnostics(__name__)


class _MarkingFactory:
    """Makes log records that carry their cause, which a `QueueListener` handles in another context."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        origin = cause.get()
        if origin is not None:
            setattr(record, _CAUSE, origin)
        return record


def _mark_records() -> None:
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, _MarkingFactory):
        logging.setLogRecordFactory(_MarkingFactory(factory))


class _LogFeed:
    """Publishes log records to a stream; the base of both feeds."""

    def __init__(self, stream: Stream, min_level: str | int = "warning", topic: str = "logs") -> None:
        if not isinstance(stream, Stream):
            raise TypeError(f"stream: must be a Stream, got {type(stream).__name__}")
        self._min_level = level_number(min_level)
        self._stream = stream
        self._topics = {name: f"{check_topic(topic)}.{name}" for name in NAMES.values()}
        self._published = Counter()
        self._suppressed = Counter()
        self._failed = Counter()
        _mark_records()

    @property
    def published(self) -> int:
        return self._published.value()

    @property
    def suppressed(self) -> int:
        return self._suppressed.value()

    @property
    def failed(self) -> int:
        return self._failed.value()

    def _suppress(self, logger: object, record: logging.LogRecord | None) -> bool:
        """Return whether a record of this logger must not be published here and now, and count it."""
        own = isinstance(logger, str) and (logger == _PACKAGE or logger.startswith(f"{_PACKAGE}."))
        if own or stems_from_logs(cause.get()) or stems_from_logs(getattr(record, _CAUSE, None)):
            self._suppressed.tick()
            return True
        return False

    def _publish(self, level: int, fields: Mapping[str, Any], timestamp: datetime | None = None) -> None:
        """Publish an event whose data are the fields of a record, converted to built-in types.

        Args:
            level: the level, as `logging` numbers it.
            fields: the fields of the record; `event` is its message.
            timestamp: when it was logged; now by default.
        """
        token = cause.set(LOGS)
        try:
            name = level_name(level)
            event = create_event(
                to_builtins(fields),
                EventType.ERROR if level >= logging.ERROR else EventType.MESSAGE,
                topic=self._topics[name],
                level=name,
                event=as_name(fields.get("event", "")),
                **{ORIGIN: LOGS},
            )
            self._stream.publish_nowait(event if timestamp is None else event.replace(timestamp=timestamp))
        except ENDS_PROGRAM:
            raise
        except BaseException as error:  # noqa: BLE001 - logging must not fail
            self._fail(error)
        else:
            with suppress(Exception):  # as above: it was published, and must not count as failed too
                self._published.tick()
        finally:
            cause.reset(token)

    def _fail(self, error: BaseException) -> None:
        self._failed.tick()
        with suppress(Exception):  # near the recursion limit, even this may be impossible to log
            _log.warning(type(error).__name__, "a log record was not published", error=error)


class PublishLogs(_LogFeed):
    """A structlog processor that publishes log records to a stream and passes them on unchanged.

    Put it after `add_log_level` and similar processors, and before the renderer. An event has the topic
    `logs.<level>`, the fields of the record as its data, and the level in its metadata. Records that are
    logged because of such an event are not published again, not even from other tasks and threads.

    It never raises, never waits, and needs no event loop.

    Args:
        stream: where events are published.
        min_level: records below it are not published.
        topic: the first part of the topic.

    Attributes:
        published: records that became events.
        suppressed: records that were not published because a log event had caused them, or because they are
            the package's own.
        failed: records that could not be published, for example because the stream is closed.

    Raises:
        ValueError: the level is unknown, or the topic is malformed (`TopicError`).
        TypeError: `stream` is not a stream.
    """

    def __call__(
        self, _logger: Any, method_name: str, event_dict: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Publish a record, and return it unchanged."""
        try:
            # A record of the standard library that came through a ProcessorFormatter.
            record = event_dict.get("_record")
            record = record if isinstance(record, logging.LogRecord) else None
            level = _level(method_name, event_dict) if record is None else record.levelno
            logger = event_dict.get("logger") if record is None else record.name
            if level >= self._min_level and not self._suppress(logger, record):
                fields = {key: value for key, value in event_dict.items() if key not in _NOT_PUBLISHED}
                text = _exception_text(event_dict.get("exc_info"))
                if text is not None:
                    fields.setdefault("exception", text)
                self._publish(level, fields)
        except ENDS_PROGRAM:
            raise
        except BaseException as error:  # noqa: BLE001 - logging must not fail
            self._fail(error)
        return event_dict


_NOT_PUBLISHED = frozenset({"_record", "_from_structlog", "_logger", "_name", "exc_info"})


def _level(method_name: str, event_dict: Mapping[str, Any]) -> int:
    name = event_dict.get("level", method_name)
    level = LEVELS.get(name.lower()) if isinstance(name, str) else None
    return LEVELS.get(method_name, logging.INFO) if level is None else level


class StreamLogHandler(_LogFeed, logging.Handler):
    """A handler of the standard library's `logging` that publishes log records to a stream.

    An event has the topic `logs.<level>`. Its data are `event` (the message), `level`, `logger`, `location`,
    `thread`, the caller's `extra`, and `exception` if there is one. An `extra` with one of these names gets
    an underscore. Records that are logged because of such an event are not published again, not even from
    other tasks and threads, nor are this package's own.

    To know such records also behind a `QueueHandler`, the first feed extends the factory of log records
    (`logging.setLogRecordFactory`), so that each record carries its cause.

    It never raises, never waits, holds no lock while it publishes, and needs no event loop. Arguments,
    attributes and errors are those of `PublishLogs`.
    """

    def __init__(self, stream: Stream, min_level: str | int = "warning", topic: str = "logs") -> None:
        _LogFeed.__init__(self, stream, min_level, topic)
        logging.Handler.__init__(self, self._min_level)

    def createLock(self) -> None:  # noqa: N802 - logging's name
        """Create no lock: the stream's handlers run while a record is published."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> Any:
        """Filter and publish a record, without a lock."""
        try:
            accepted = self.filter(record)
        except ENDS_PROGRAM:
            raise
        except BaseException as error:  # noqa: BLE001 - logging must not fail
            self._fail(error)
            return False
        if accepted:
            self.emit(accepted if isinstance(accepted, logging.LogRecord) else record)
        return accepted

    def emit(self, record: logging.LogRecord) -> None:
        """Publish a record."""
        try:
            if not self._suppress(record.name, record):
                self._publish(record.levelno, _fields(record), datetime.fromtimestamp(record.created, UTC))
        except ENDS_PROGRAM:
            raise
        except BaseException as error:  # noqa: BLE001 - logging must not fail
            self._fail(error)


_MISSING = object()
# The attributes that every record has; the others are the caller's `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    exc_info: object = None
    if isinstance(record.msg, dict):  # of structlog, on its way to a ProcessorFormatter
        fields.update(record.msg)
        exc_info = fields.pop("exc_info", None)
        fields.setdefault("event", "")
    else:
        fields["event"] = record.getMessage()
    _put(fields, "level", record.levelname.lower())
    _put(fields, "logger", record.name)
    _put(fields, "location", f"{record.pathname}:{record.lineno}")
    _put(fields, "thread", record.threadName)
    text = _exception_text(record.exc_info) or record.exc_text or _exception_text(exc_info)
    if text:
        _put(fields, "exception", text)
    if record.stack_info:
        _put(fields, "stack", record.stack_info)
    for key, value in vars(record).items():
        if key not in _STANDARD and not key.startswith("_") and fields.get(key, _MISSING) is not value:
            fields[_free_name(fields, key)] = value
    return fields


def _put(fields: dict[str, Any], name: str, value: object) -> None:
    """Put a field of the record; the caller's field of that name, if it differs, gets an underscore."""
    previous = fields.get(name, value)
    if previous is not value and not (isinstance(previous, str) and previous == value):
        fields[_free_name(fields, name)] = previous
    fields[name] = value


def _free_name(fields: Mapping[str, Any], name: str) -> str:
    while name in fields:
        name += "_"
    return name


def _exception_text(exc_info: Any) -> str | None:
    """Return the traceback for `exc_info`: an exception, a triple, or True for the current exception."""
    if not exc_info:
        return None
    if isinstance(exc_info, BaseException):
        error: BaseException | None = exc_info
    elif isinstance(exc_info, tuple):
        error = exc_info[1]
    else:
        error = sys.exception()
    return None if error is None else "".join(traceback.format_exception(error)).rstrip()
