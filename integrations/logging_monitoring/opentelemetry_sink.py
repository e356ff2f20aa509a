"""`OpenTelemetrySink`: each event becomes an event on the current span, or a log record on its trace.

OpenTelemetry's API for logs is still in modules with an underscore; it is used only here.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, get_args

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.errors import DroppedError
from codomyrmex.integrations.delivery.sink import InlineSink
from codomyrmex.integrations.logging_monitoring.attributes import attributes_of, is_exception, text_of
from codomyrmex.integrations.logging_monitoring.naming import carrier_of, event_level, event_name
from codomyrmex.streaming import Event

try:
    from opentelemetry import trace
    from opentelemetry._logs import (
        Logger,
        LoggerProvider,
        NoOpLoggerProvider,
        SeverityNumber,
        get_logger_provider,
    )
    from opentelemetry._logs._internal import ProxyLoggerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise MissingExtraError("OpenTelemetrySink", "opentelemetry-api", "otel") from error

if TYPE_CHECKING:
    from opentelemetry.context import Context

Mode = Literal["auto", "span_event", "log_event", "both"]

_SCOPE = "codomyrmex.streaming"
_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)
_MAX_TIME = 2**64 - 1  # the largest timestamp in OTLP
_PROPAGATOR = TraceContextTextMapPropagator()
_SEVERITIES = {
    logging.DEBUG: (SeverityNumber.DEBUG, "DEBUG"),
    logging.INFO: (SeverityNumber.INFO, "INFO"),
    logging.WARNING: (SeverityNumber.WARN, "WARN"),
    logging.ERROR: (SeverityNumber.ERROR, "ERROR"),
    logging.CRITICAL: (SeverityNumber.FATAL, "FATAL"),
}


class OpenTelemetrySink(InlineSink):
    """Puts events on the traces they belong to, with their own timestamps and flat attributes.

    Modes: `span_event` adds an event to the span that is recording where the event is published; `log_event`
    emits an OpenTelemetry log record with an `event_name`, correlated with the span; `both` does both;
    `auto` does the first if a span is recording, else the second if there is a logger provider.

    An event that `stamp_trace_context` has stamped and that is delivered outside of a span belongs to the
    trace of its stamp: a log record is correlated with it, and a span event is put on a child span without
    duration, if there is a tracer provider.

    An event that could not be put anywhere is counted as dropped, with the reason `no_span`,
    `no_logger_provider`, or `not_enabled` if the logger is not enabled for it.

    Args:
        mode: one of the modes above.
        tracer_provider: makes spans for stamped events; without it, none are made.
        logger_provider: makes the logger; the global one by default.
        name: the name of the sink in reports.

    Raises:
        ValueError: the mode is unknown.
        TypeError: an argument is not a provider.
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
            raise ValueError(f"mode: must be one of {', '.join(get_args(Mode))}, got {mode!r}")
        if tracer_provider is not None and not hasattr(tracer_provider, "get_tracer"):
            raise TypeError(f"tracer_provider: must be a tracer provider, got {tracer_provider!r}")
        if logger_provider is not None and not hasattr(logger_provider, "get_logger"):
            raise TypeError(f"logger_provider: must be a logger provider, got {logger_provider!r}")
        self.name = name
        self._mode = mode
        self._tracer = None if tracer_provider is None else tracer_provider.get_tracer(_SCOPE)
        self._provider = logger_provider
        self._logger: Logger | None = None

    def emit(self, event: Event) -> None:
        mode = self._mode
        span = trace.get_current_span()
        done = mode != "log_event" and span.is_recording()
        if done:
            span.add_event(_name(event), attributes_of(event), _nanoseconds(event))
            if mode != "both":
                return
        context = _stamped_context(event, span)
        problem = "no_span"
        if mode != "span_event":
            logger = self._logger or self._find_logger()
            problem = "no_logger_provider" if mode == "log_event" else problem
            if logger is not None:
                problem = "not_enabled"
                logged = _log(logger, event, context)
                if logged and mode != "both":
                    return
                done |= logged
        if mode != "log_event" and not span.is_recording() and self._record_span(event, context):
            return
        if not done:
            raise DroppedError(problem)

    def _find_logger(self) -> Logger | None:
        provider = get_logger_provider() if self._provider is None else self._provider
        if not isinstance(provider, (ProxyLoggerProvider, NoOpLoggerProvider)):
            self._logger = provider.get_logger(_SCOPE)
        return self._logger

    def _record_span(self, event: Event, context: Context | None) -> bool:
        """Put an event on a new span, in the trace of its stamp; return whether it is recorded."""
        if self._tracer is None or context is None:
            return False
        name, timestamp = _name(event), _nanoseconds(event)
        span = self._tracer.start_span(name, context, start_time=timestamp)
        recording = span.is_recording()
        if recording:
            span.add_event(name, attributes_of(event), timestamp)
        span.end(timestamp)
        return recording


def _log(logger: Logger, event: Event, context: Context | None) -> bool:
    """Emit a log record; return False if the logger is not enabled for it."""
    name, data = _name(event), event.data
    number, text = _SEVERITIES[event_level(event)]
    if not logger.enabled(context=context, severity_number=number, event_name=name):
        return False
    logger.emit(
        timestamp=_nanoseconds(event),
        observed_timestamp=time.time_ns(),
        context=context,
        severity_number=number,
        severity_text=text,
        body=text_of(data) if issubclass(type(data), str) else name,
        attributes=attributes_of(event),
        event_name=name,
    )
    return True


def _name(event: Event) -> str:
    return "exception" if type(event.data) is not dict and is_exception(event) else event_name(event)


def _nanoseconds(event: Event) -> int:
    nanoseconds = (event.timestamp - _EPOCH) // _MICROSECOND * 1_000
    return nanoseconds if 0 <= nanoseconds <= _MAX_TIME else min(max(nanoseconds, 0), _MAX_TIME)


def _stamped_context(event: Event, current: trace.Span) -> Context | None:
    """Return the context that an event is stamped with, if no span is current."""
    if "traceparent" not in event.metadata or current.get_span_context().is_valid:
        return None
    context = _PROPAGATOR.extract(carrier_of(event.metadata))
    return context if trace.get_current_span(context).get_span_context().is_valid else None
