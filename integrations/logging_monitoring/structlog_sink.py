"""`StructlogSink`: each event becomes a structured log line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.sink import InlineSink
from codomyrmex.integrations.logging_monitoring.naming import (
    MAX_NAME,
    as_name,
    carrier_of,
    event_level,
    event_name,
    level_name,
    level_number,
    printable,
)
from codomyrmex.streaming import Event, EventType
from codomyrmex.streaming.encoding import decode_usual, encode_usual, to_builtins

try:
    import structlog
except ImportError as error:
    raise MissingExtraError("StructlogSink", "structlog", "structlog") from error

_METHOD_BY_TYPE = {kind: level_name(event_level(Event(type=kind))) for kind in EventType}

# Names that have a meaning for structlog's methods and processors, and names that the sink sets itself.
_RESERVED = frozenset(
    {"self", "level", "event", "method_name", "timestamp", "logger", "exc_info", "stack_info"}
    | {"name", "msg", "message", "args", "stacklevel", "extra"}
    | {"event_id", "event_type", "topic", "data", "metadata", "trace_id", "span_id", "positional_args"}
)


class StructlogSink(InlineSink):
    """Logs events with structlog, in the publisher's context and with the application's configuration.

    A line has `event_id`, `event_type`, `topic`, `data` and `metadata`, and `trace_id` and `span_id` if the
    event carries a `traceparent` (see `stamp_trace_context`). The payload is nested, so that its keys cannot
    collide with structlog's, and copied, so that processors cannot change the event.

    Args:
        logger: any structlog logger; `structlog.get_logger()` by default.
        level: a name or number, or a function that returns one for an event. By default, it is
            `metadata["level"]` or `metadata["severity"]`, else by type: ERROR is error, HEARTBEAT is debug,
            the others are info.
        event_name: the `event` of the line, or a function that returns it. By default, it is
            `metadata["event"]`, else the topic, else the type.
        fields: more fields for each line, or a function that returns them for an event. A reserved name gets
            a trailing underscore.
        name: the name of the sink in reports.

    Raises:
        ValueError: the level is unknown.
        TypeError: `logger` is not a logger, or `fields` is neither a mapping nor a function.
    """

    def __init__(
        self,
        logger: Any = None,
        level: str | int | Callable[[Event], str | int] | None = None,
        event_name: str | Callable[[Event], str] | None = None,
        fields: Mapping[str, Any] | Callable[[Event], Mapping[str, Any]] | None = None,
        *,
        name: str = "structlog",
    ) -> None:
        if logger is not None and not callable(getattr(logger, "info", None)):
            raise TypeError(f"logger: must have methods such as info, got {logger!r}")
        if fields is not None and not (callable(fields) or isinstance(fields, Mapping)):
            raise TypeError(f"fields: must be a mapping or a function of an event, got {fields!r}")
        self.name = name
        self._logger = structlog.get_logger() if logger is None else logger
        self._level = level if level is None or callable(level) else level_number(level)
        self._event_name = event_name
        self._fields = fields
        self._is_default = level is None and event_name is None and fields is None

    # The fast path for the usual event, which has a topic and no other metadata: a copy of the payload, made
    # in C, and a few checks of what can be printed unchanged.
    def emit(self, event: Event) -> None:
        metadata = event.metadata
        try:
            data = decode_usual(encode_usual(event.data))
        except Exception:  # noqa: BLE001 - the slower encoder accepts anything
            data = to_builtins(event.data)
        if data.__class__ is str:
            data = printable(data)
        if len(metadata) == 1 and self._is_default:
            topic, event_id = metadata.get("topic"), event.id
            if (
                topic.__class__ is str
                and 0 < len(topic) <= MAX_NAME
                and topic.isprintable()
                and event_id.isprintable()
            ):
                kind = event.type
                getattr(self._logger, _METHOD_BY_TYPE[kind])(
                    topic,
                    event_id=event_id,
                    event_type=kind._value_,
                    topic=topic,
                    data=data,
                    metadata={"topic": topic},
                )
                return
        self._emit_any(event, data)

    def _emit_any(self, event: Event, data: Any) -> None:
        topic = event.topic
        fields: dict[str, Any] = {
            "event_id": printable(event.id),
            "event_type": event.type._value_,
            "topic": None if topic is None else printable(topic),
            "data": data,
            "metadata": to_builtins(event.metadata),
        }
        if "traceparent" in event.metadata:
            fields.update(_trace_fields(event.metadata))
        extra = self._fields(event) if callable(self._fields) else self._fields
        if extra:
            for key, value in to_builtins(dict(extra)).items():
                free_key = key
                while free_key in _RESERVED or free_key in fields:
                    free_key += "_"
                fields[free_key] = value
        level, name = self._level, self._event_name
        if level is None:
            level = event_level(event)
        elif callable(level):
            level = level_number(level(event))
        if name is None:
            name = event_name(event)
        elif callable(name):
            name = name(event)
        getattr(self._logger, level_name(level))(as_name(name), **fields)


def _trace_fields(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the ids in a `traceparent` (W3C Trace Context, section 3.2)."""
    parts = carrier_of(metadata).get("traceparent", "").split("-")
    return {"trace_id": parts[1], "span_id": parts[2]} if len(parts) > 2 else {}  # noqa: PLR2004 - by the standard
