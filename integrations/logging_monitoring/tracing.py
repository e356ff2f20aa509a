"""`stamp_trace_context` and `trace_publishing`: events carry the trace on which they were published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.attachment import Attachment
from codomyrmex.integrations.delivery.blocking import BlockingAttachment
from codomyrmex.integrations.delivery.sink import Sink
from codomyrmex.integrations.logging_monitoring.attributes import exception_attributes, text_of
from codomyrmex.integrations.logging_monitoring.naming import as_name, carrier_of
from codomyrmex.streaming import Event, Stream

try:
    from opentelemetry import trace
    from opentelemetry.baggage.propagation import W3CBaggagePropagator
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise MissingExtraError("trace_publishing", "opentelemetry-api", "otel") from error

_TRACE_CONTEXT = TraceContextTextMapPropagator()
_BAGGAGE = W3CBaggagePropagator()


def stamp_trace_context(stream: Stream, *, baggage: bool = False) -> TraceContextStamp:
    """Write `traceparent` and `tracestate` into the metadata of events that are published within a span.

    Code that runs later or elsewhere can then continue the trace (W3C Trace Context). Subscribers receive a
    stamped copy of the event. An event that has a `traceparent` keeps it, and an event that is published
    outside of a span is passed on unchanged.

    Args:
        stream: the stream whose events are stamped.
        baggage: write `baggage` as well. It may contain personal data, and goes wherever the event goes.

    Returns:
        A handle, which is also the interceptor; its `close()` removes it from the stream.

    Raises:
        TypeError: `stream` is not a stream.
    """
    return TraceContextStamp(stream, baggage=baggage)


class TraceContextStamp:
    """An interceptor that stamps events with the current span; made by `stamp_trace_context`."""

    def __init__(self, stream: Stream, *, baggage: bool) -> None:
        if not isinstance(stream, Stream):
            raise TypeError(f"stream: must be a Stream, got {type(stream).__name__}")
        self._stream = stream
        self._baggage = baggage
        stream.add_interceptor(self)

    def __call__(self, event: Event) -> Event:
        """Return a stamped copy of the event, or the event itself if there is nothing to stamp it with."""
        metadata = event.metadata
        if "traceparent" in metadata or not trace.get_current_span().get_span_context().is_valid:
            return event
        stamped = dict(metadata)
        _TRACE_CONTEXT.inject(stamped)
        if self._baggage:
            _BAGGAGE.inject(stamped)
        return event.replace(metadata=stamped)

    def close(self) -> None:
        """Stop stamping. Closing twice is allowed."""
        self._stream.remove_interceptor(self)


def trace_publishing(
    stream: Stream,
    *attachments: Attachment | BlockingAttachment,
    tracer_provider: trace.TracerProvider | None = None,
) -> PublishTracing:
    """Record a producer span for each event that is published, and a consumer span for each batch sent.

    Names and attributes follow the semantic conventions for messaging spans. The producer span
    (`publish <topic>`) is recorded in an interceptor, so it marks the moment of publishing and has no
    duration. Its parent is the current span, or else the span that the event was stamped with before. The
    event is stamped with it (`traceparent` in the metadata).

    The consumer span (`process <topic>`) lasts as long as the `send` of a queued sink, is the current span
    within it, and records its error. It is linked to the producer spans of all events of the batch; if the
    batch is a single event, it is also a child of that event's producer span. `messaging.consumer.group.name`
    is the name of the sink. Inline sinks and handlers run within the publisher's own span.

    Args:
        stream: the stream whose events are traced.
        *attachments: what `attach` or `attach_blocking` has returned for the stream. Without one, only
            producer spans are recorded.
        tracer_provider: makes the spans; the global one by default.

    Returns:
        A handle; its `close()` ends the tracing.

    Raises:
        TypeError: `stream` is not a stream, or an attachment is not an attachment.
    """
    if not isinstance(stream, Stream):
        raise TypeError(f"stream: must be a Stream, got {type(stream).__name__}")
    for attachment in attachments:
        if not isinstance(attachment, (Attachment, BlockingAttachment)):
            raise TypeError(f"attachments: must be made by attach(), got {type(attachment).__name__}")
    if tracer_provider is not None and not isinstance(tracer_provider, trace.TracerProvider):
        raise TypeError(f"tracer_provider: must be a TracerProvider, got {type(tracer_provider).__name__}")
    tracer = trace.get_tracer("codomyrmex.streaming", tracer_provider=tracer_provider)
    tracing = PublishTracing(stream, tracer)
    for attachment in attachments:
        attachment.on_send(tracing.sending)
    return tracing


class PublishTracing:
    """An interceptor that records producer spans; made by `trace_publishing`."""

    def __init__(self, stream: Stream, tracer: trace.Tracer) -> None:
        self._stream = stream
        self._tracer = tracer
        self._closed = False
        stream.add_interceptor(self)

    def __call__(self, event: Event) -> Event:
        """Record a producer span, and return a copy of the event that is stamped with it."""
        context = None
        if not trace.get_current_span().get_span_context().is_valid:
            context = _stamped_context(event)
        span = self._tracer.start_span(
            _span_name("publish", event.topic),
            context,
            kind=trace.SpanKind.PRODUCER,
            attributes=_attributes("publish", "send", [event], event.topic),
        )
        span.end()
        metadata = {key: value for key, value in event.metadata.items() if key != "tracestate"}
        _TRACE_CONTEXT.inject(metadata, trace.set_span_in_context(span))
        return event.replace(metadata=metadata)

    @contextmanager
    def sending(self, sink: Sink, events: Sequence[Event]) -> Iterator[None]:
        """Record a consumer span around the sending of a batch: a hook for `Attachment.on_send`."""
        if self._closed:
            yield
            return
        contexts = [_stamped_context(event) for event in events]
        stamps = [trace.get_current_span(context).get_span_context() for context in contexts]
        unique = {(stamp.trace_id, stamp.span_id): stamp for stamp in stamps if stamp.is_valid}
        topics = {event.topic for event in events}
        topic = topics.pop() if len(topics) == 1 else None
        span = self._tracer.start_span(
            _span_name("process", topic),
            contexts[0] if len(contexts) == 1 else Context(),
            kind=trace.SpanKind.CONSUMER,
            links=[trace.Link(stamp) for stamp in unique.values()],
            attributes=_attributes("process", "process", events, topic)
            | {"messaging.consumer.group.name": text_of(sink.name)},
        )
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield
        except BaseException as error:
            if span.is_recording():
                attributes = exception_attributes(error)
                span.set_attribute("error.type", attributes["exception.type"])
                span.add_event("exception", attributes)
                description = f"{attributes['exception.type']}: {attributes.get('exception.message', '')}"
                span.set_status(trace.Status(trace.StatusCode.ERROR, description))
            raise
        finally:
            span.end()

    def close(self) -> None:
        """End the tracing. Closing twice is allowed."""
        self._closed = True
        self._stream.remove_interceptor(self)


def _stamped_context(event: Event) -> Context:
    """Return a context with the span that an event is stamped with, or an empty one."""
    return _TRACE_CONTEXT.extract(carrier_of(event.metadata), Context())


def _span_name(operation: str, topic: str | None) -> str:
    return operation if topic is None else f"{operation} {as_name(topic)}"


def _attributes(
    name: str, operation_type: str, events: Sequence[Event], topic: str | None
) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        "messaging.system": "codomyrmex",
        "messaging.operation.name": name,
        "messaging.operation.type": operation_type,
    }
    if len(events) == 1:
        attributes["messaging.message.id"] = text_of(events[0].id)
    else:
        attributes["messaging.batch.message_count"] = len(events)
    if topic is not None:
        attributes["messaging.destination.name"] = text_of(topic)
    return attributes
