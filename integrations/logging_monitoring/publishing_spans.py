"""`trace_publishing`: spans around publishing and handling, by the conventions for messaging."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.logging_monitoring.attributes import exception_attributes, text_of
from codomyrmex.integrations.logging_monitoring.naming import as_name, carrier_of
from codomyrmex.streaming import Event, Stream
from codomyrmex.streaming.dispatch import LocalStream
from codomyrmex.streaming.instrument import instrument

try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise MissingExtraError("trace_publishing", "opentelemetry-api", "otel") from error

_PROPAGATOR = TraceContextTextMapPropagator()

_producing: ContextVar[trace.Span | None] = ContextVar("codomyrmex.producer_span", default=None)


def trace_publishing(
    stream: Stream, tracer_provider: trace.TracerProvider | None = None
) -> Callable[[], None]:
    """Make a producer span around each publish and a consumer span around each call of a handler.

    Names and attributes follow the semantic conventions for messaging spans. The event is stamped with the
    producer span (`traceparent` in its metadata), and each consumer span is linked to that, so that the
    two are found together also where the handler runs later. What it costs is two spans and more for
    each event, so it is off unless asked for. Processors that publish to the stream are to be started
    after it; sinks and listeners, which have queues or context of their own, get no consumer span.

    Args:
        stream: an `InMemoryStream`, `TopicStream` or `SSEStream`.
        tracer_provider: makes the spans; the global one if left out.

    Returns:
        What ends it.

    Raises:
        TypeError: it is another kind of stream.
    """
    if not isinstance(stream, LocalStream):
        raise TypeError(f"trace_publishing takes a stream of this process, not {type(stream).__name__}")
    around = _Spans(trace.get_tracer("codomyrmex.streaming", tracer_provider=tracer_provider))
    take_off = instrument(stream, around)
    stamp = around.stamp
    stream.add_interceptor(stamp)

    def end() -> None:
        take_off()
        stream.remove_interceptor(stamp)

    return end


class _Spans:
    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    @contextmanager
    def publishing(self, event: Event | None, topic: str | None) -> Iterator[None]:
        destination = topic or (None if event is None else event.topic)
        span = self._tracer.start_span(
            _name("publish", destination),
            kind=trace.SpanKind.PRODUCER,
            attributes=_attributes("publish", "send", event, destination),
        )
        handling = _Span(span)
        token = _producing.set(span)
        try:
            with handling.current():
                yield
        except BaseException as error:
            handling.end(error)
            raise
        else:
            handling.end(None)
        finally:
            _producing.reset(token)

    def stamp(self, event: Event) -> Event:
        """Say in an event on which span it was published."""
        span = _producing.get()
        if span is None:
            return event
        stamped = {key: value for key, value in event.metadata.items() if key != "tracestate"}
        _PROPAGATOR.inject(stamped, trace.set_span_in_context(span))
        return event.replace(metadata=stamped)

    def handling(self, event: Event) -> _Span:
        context = _PROPAGATOR.extract(carrier_of(event.metadata))
        sent = trace.get_current_span(context).get_span_context()
        return _Span(
            self._tracer.start_span(
                _name("process", event.topic),
                kind=trace.SpanKind.CONSUMER,
                links=[trace.Link(sent)] if sent.is_valid else [],
                attributes=_attributes("process", "process", event, event.topic),
            )
        )


class _Span:
    """A span around something that may fail."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def current(self) -> AbstractContextManager[object]:
        return trace.use_span(self._span, record_exception=False, set_status_on_exception=False)

    def end(self, error: BaseException | None) -> None:
        span = self._span
        if error is not None and span.is_recording():
            told = exception_attributes(error)
            span.set_attribute("error.type", str(told["exception.type"]))
            span.add_event("exception", told)
            said = f"{told['exception.type']}: {told.get('exception.message', '')}"
            span.set_status(trace.Status(trace.StatusCode.ERROR, said))
        span.end()


def _name(operation: str, destination: str | None) -> str:
    return operation if destination is None else f"{operation} {as_name(destination)}"


def _attributes(name: str, kind: str, event: Event | None, destination: str | None) -> dict[str, str]:
    attributes = {
        "messaging.system": "codomyrmex",
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
    }
    if event is not None:
        attributes["messaging.message.id"] = text_of(event.id)
    if destination is not None:
        attributes["messaging.destination.name"] = text_of(destination)
    return attributes
