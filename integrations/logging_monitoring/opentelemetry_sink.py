"""`OpenTelemetrySink`: each event becomes an event on the current span, or a log record on its trace."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, get_args

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.errors import DroppedError
from codomyrmex.integrations.delivery.sink import InlineSink
from codomyrmex.integrations.logging_monitoring.attributes import attributes_of, is_exception, text_of
from codomyrmex.integrations.logging_monitoring.naming import event_level, event_name
from codomyrmex.streaming import Event

try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise MissingExtraError("OpenTelemetrySink", "opentelemetry-api", "otel") from error
from codomyrmex.integrations.logging_monitoring.naming import carrier_of
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
_LATEST = 2**64 - 1  # what OTLP can carry
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
        TypeError: something is no provider.
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
        for provider, method in ((tracer_provider, "get_tracer"), (logger_provider, "get_logger")):
            if provider is not None and not hasattr(provider, method):
                raise TypeError(f"a provider has {method}(), {provider!r} has not")
        self.name = name
        self._mode = mode
        self._tracer = None if tracer_provider is None else tracer_provider.get_tracer("codomyrmex.streaming")
        self._provider = logger_provider
        self._logger: Logger | None = None

    def emit(self, event: Event) -> None:
        mode = self._mode
        span = trace.get_current_span()
        on_span = mode != "log_event" and span.is_recording()
        if on_span:
            span.add_event(_name(event), attributes_of(event), _nanoseconds(event))
            if mode != "both":
                return
        context = _stamped(event, span)
        problem = "no_span"
        if mode != "span_event":
            logger = self._logger or self._find_logger()
            problem = "no_logger_provider" if mode == "log_event" else problem
            if logger is not None:
                problem = "not_enabled"
                logged = self._log(logger, event, context)
                if logged and mode != "both":
                    return
                on_span |= logged
        if mode != "log_event" and not span.is_recording() and self._make_span(event, context):
            return
        if not on_span:
            raise DroppedError(problem)

    def _log(self, logger: Logger, event: Event, context: Context | None) -> bool:
        """Emit a log record; False where the logger does not want it."""
        name, data = _name(event), event.data
        body = text_of(data) if issubclass(type(data), str) else name
        return emit_log(
            logger, name, event_level(event), _nanoseconds(event), body, attributes_of(event), context
        )

    def _find_logger(self) -> Logger | None:
        self._logger = find_logger(self._provider)
        return self._logger

    def _make_span(self, event: Event, context: Context | None) -> bool:
        """Put an event on a span of its own, in the trace of its stamp; False where that is not recorded."""
        if self._tracer is None or context is None:
            return False
        name, now = _name(event), _nanoseconds(event)
        span = self._tracer.start_span(name, context, start_time=now)
        recording = span.is_recording()
        if recording:
            span.add_event(name, attributes_of(event), now)
        span.end(now)
        return recording


def _name(event: Event) -> str:
    return "exception" if type(event.data) is not dict and is_exception(event) else event_name(event)


def _nanoseconds(event: Event) -> int:
    since = event.timestamp - _EPOCH
    nanoseconds = (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000
    return min(max(nanoseconds, 0), _LATEST)


def _stamped(event: Event, current: trace.Span) -> Context | None:
    """Give the context that an event was stamped with, where no span is current."""
    if "traceparent" not in event.metadata or current.get_span_context().is_valid:
        return None
    context = _PROPAGATOR.extract(carrier_of(event.metadata))
    return context if trace.get_current_span(context).get_span_context().is_valid else None
