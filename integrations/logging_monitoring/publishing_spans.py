"""`trace_publishing`: spans around publishing and handling, by the conventions for messaging."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.streaming import Event, Stream
from codomyrmex.streaming.dispatch import LocalStream
from codomyrmex.streaming.instrument import instrument

try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise MissingExtraError("trace_publishing", "opentelemetry-api", "otel") from error

_SYSTEM = "codomyrmex"
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
    stream.add_interceptor(around.stamp)

    def end() -> None:
        take_off()
        stream.remove_interceptor(around.stamp)

    return end


class _Spans:
    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    @contextmanager
    def publishing(self) -> Iterator[None]:
        with self._tracer.start_as_current_span("publish", kind=trace.SpanKind.PRODUCER) as span:
            token = _producing.set(span)
            try:
                yield
            finally:
                _producing.reset(token)

    def stamp(self, event: Event) -> Event:
        """Say on the producer span what is published, and in the event on which span that was."""
        span = _producing.get()
        if span is None:
            return event
        if span.is_recording():
            span.update_name(f"publish {event.topic or '(no topic)'}")
            span.set_attributes(_attributes(event, "publish", "send"))
        stamped = dict(event.metadata)
        _PROPAGATOR.inject(stamped, trace.set_span_in_context(span))
        return event.replace(metadata=stamped)

    @contextmanager
    def handling(self, event: Event) -> Iterator[None]:
        context = _PROPAGATOR.extract(
            {k: str(v) for k, v in event.metadata.items() if k in ("traceparent", "tracestate")}
        )
        sent = trace.get_current_span(context).get_span_context()
        with self._tracer.start_as_current_span(
            f"process {event.topic or '(no topic)'}",
            kind=trace.SpanKind.CONSUMER,
            links=[trace.Link(sent)] if sent.is_valid else [],
            attributes=_attributes(event, "process", "process"),
        ):
            yield


def _attributes(event: Event, name: str, kind: str) -> dict[str, str]:
    attributes = {
        "messaging.system": _SYSTEM,
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.message.id": event.id,
    }
    if event.topic is not None:
        attributes["messaging.destination.name"] = event.topic
    return attributes
