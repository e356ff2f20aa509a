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

# What structlog's own methods and processors give a meaning to, and what the sink sets itself.
_TAKEN = frozenset(
    {"self", "level", "event", "method_name", "timestamp", "logger", "exc_info", "stack_info"}
    | {"name", "msg", "message", "args", "stacklevel", "extra"}
    | {"event_id", "event_type", "topic", "data", "metadata", "trace_id", "span_id", "positional_args"}
)


class StructlogSink(InlineSink):
    """Writes events with structlog, in the publisher's context and by the application's configuration.

    A line has `event_id`, `event_type`, `topic`, `data` and `metadata`, and `trace_id` and `span_id` where
    the event carries a `traceparent` (see `stamp_trace_context`). The payload is nested, so that no key
    of it can collide with structlog's, and copied, so that no processor can change the event.

    Args:
        logger: any structlog logger; `structlog.get_logger()` if left out.
        level: a level, by name or number, or a function that gives one for an event. Left out, it is
            `metadata["level"]` or `["severity"]`, else by type: ERROR is error, HEARTBEAT debug, the rest
            info.
        event_name: the line's `event`, or a function that gives it. Left out, it is
            `metadata["event"]`, else the topic, else the type.
        fields: further fields of each line, or a function that gives them for an event. A name that is
            taken gets an underscore behind it.
        name: what the sink is called in reports.

    Raises:
        ValueError: there is no such level.
        TypeError: it is no logger, or fields is neither a mapping nor a function.
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
            raise TypeError(f"a logger of structlog has methods such as info, {logger!r} has not")
        if fields is not None and not (callable(fields) or isinstance(fields, Mapping)):
            raise TypeError(f"fields is a mapping or a function of an event, not {fields!r}")
        self.name = name
        self._logger = structlog.get_logger() if logger is None else logger
        self._level = level if level is None or callable(level) else level_number(level)
        self._event_name = event_name if event_name is None or callable(event_name) else as_name(event_name)
        self._fields = fields
        self._has_no_rules = level is None and event_name is None and fields is None

    # The usual event, with a topic and no other metadata, is written by the short way: beside the line
    # itself it costs a copy of the payload, made in C, and a few looks at what may be printed as it is.
    def emit(self, event: Event) -> None:
        metadata = event.metadata
        try:
            data = decode_usual(encode_usual(event.data))
        except Exception:  # noqa: BLE001 - then by the way that takes anything
            data = to_builtins(event.data)
        if data.__class__ is str:
            data = printable(data)
        if len(metadata) == 1 and self._has_no_rules:
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
        self._emit_with_care(event, data)

    def _emit_with_care(self, event: Event, data: Any) -> None:
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
        more = self._fields(event) if callable(self._fields) else self._fields
        if more:
            for key, value in to_builtins(dict(more)).items():
                name = key
                while name in _TAKEN or name in fields:
                    name += "_"
                fields[name] = value
        level = event_level(event) if self._level is None else self._level_of(event)
        line = event_name(event) if self._event_name is None else self._name_of(event)
        # By the method of the level, which every kind of logger has.
        getattr(self._logger, level_name(level))(line, **fields)

    def _level_of(self, event: Event) -> int:
        level = self._level
        return level_number(level(event)) if callable(level) else level or 0

    def _name_of(self, event: Event) -> str:
        name = self._event_name
        return as_name(name(event)) if callable(name) else name or ""


def _trace_fields(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Give the ids of a `traceparent` (W3C Trace Context, section 3.2)."""
    parts = carrier_of(metadata).get("traceparent", "").split("-")
    return {"trace_id": parts[1], "span_id": parts[2]} if len(parts) > 2 else {}  # noqa: PLR2004 - as the standard says
