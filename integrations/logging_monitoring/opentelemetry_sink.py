"""`OpenTelemetrySink`: each event becomes an event on the current span, or a log record on its trace."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, get_args

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.errors import DroppedError
from codomyrmex.integrations.delivery.sink import InlineSink
from codomyrmex.integrations.logging_monitoring.attributes import attributes_of, is_exception
from codomyrmex.integrations.logging_monitoring.naming import event_level, event_name
from codomyrmex.streaming import Event

try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise MissingExtraError("OpenTelemetrySink", "opentelemetry-api", "otel") from error
from codomyrmex.integrations.logging_monitoring.otel_logs import (
    Logger,
    LoggerProvider,
    emit_log,
    find_logger,
)

if TYPE_CHECKING:
    from opentelemetry.context import Context

Mode = Literal["auto", "span_event", "log_event", "both"]

_EPOCH = datetime.fromtimestamp(0, UTC)
_PROPAGATOR = TraceContextTextMapPropagator()


class OpenTelemetrySink(InlineSink):
    """Puts events on the trace that they belong to, with their own time and as flat attributes.

    Modes: `span_event` adds an event to the span that records where it is published; `log_event` emits an
    OpenTelemetry log record with an `event_name`, correlated with the span; `both` does both; `auto` does
    the first where a span is recording, else the second where a logger provider is there.

    An event that was stamped by `stamp_trace_context` and is delivered where no span is current belongs
    to the trace of its stamp: a log record is correlated with that, and for a span event a span of no
    length is made as its child, if a tracer provider is given.

    What could be put nowhere is counted as dropped, with the reason `no_span`, `no_logger_provider`, or
    `not_enabled` where the logger does not want it.

    Args:
        mode: as above.
        tracer_provider: makes spans for stamped events; without one, none are made.
        logger_provider: makes the logger; the global one if left out.
        name: what the sink is called in reports.

    Raises:
        ValueError: there is no such mode.
    """

    def __init__(
        self,
        mode: Mode = "auto",
        tracer_provider: trace.TracerProvider | None = None,
        logger_provider: LoggerProvider | None = None,
        *,
        name: str = "opentelemetry",
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode is one of {', '.join(get_args(Mode))}, not {mode!r}")
        self.name = name
        self._mode = mode
        self._tracer = None if tracer_provider is None else tracer_provider.get_tracer("codomyrmex.streaming")
        self._provider = logger_provider
        self._logger: Logger | None = None

    def emit(self, event: Event) -> None:
        mode = self._mode
        span = trace.get_current_span()
        recording = span.is_recording()
        if recording and mode != "log_event":
            span.add_event(_name(event), attributes_of(event), _nanoseconds(event))
            if mode != "both":
                return
        elif mode == "span_event":
            self._make_span(event, _stamped(event, span))
            return
        logger = self._logger or self._find_logger()
        context = None if span.get_span_context().is_valid else _stamped(event, span)
        if logger is None:
            if mode == "log_event":
                raise DroppedError("no_logger_provider")
            if not recording:
                self._make_span(event, context)
            return
        name, data = _name(event), event.data
        body = data if isinstance(data, str) else name
        attributes = attributes_of(event)
        took = emit_log(logger, name, event_level(event), _nanoseconds(event), body, attributes, context)
        if not took and not (mode == "both" and recording):
            raise DroppedError("not_enabled")

    def _find_logger(self) -> Logger | None:
        self._logger = find_logger(self._provider)
        return self._logger

    def _make_span(self, event: Event, context: Context | None) -> None:
        """Put an event on a span of its own, in the trace of its stamp."""
        if self._tracer is None or context is None:
            raise DroppedError("no_span")
        name, now = _name(event), _nanoseconds(event)
        span = self._tracer.start_span(name, context, start_time=now)
        span.add_event(name, attributes_of(event), now)
        span.end(now)


def _name(event: Event) -> str:
    return "exception" if event.data.__class__ is not dict and is_exception(event) else event_name(event)


def _nanoseconds(event: Event) -> int:
    since = event.timestamp - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000


def _stamped(event: Event, current: trace.Span) -> Context | None:
    """Give the context that an event was stamped with, where no span is current."""
    metadata: dict[str, Any] = event.metadata
    if "traceparent" not in metadata or current.get_span_context().is_valid:
        return None
    carrier = {key: str(metadata[key]) for key in ("traceparent", "tracestate") if key in metadata}
    context = _PROPAGATOR.extract(carrier)
    return context if trace.get_current_span(context).get_span_context().is_valid else None
