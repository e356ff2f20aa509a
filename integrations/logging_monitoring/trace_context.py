"""`stamp_trace_context`: events carry the trace that they were published on."""

from __future__ import annotations

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.streaming import Event, Interceptor, Stream

try:
    from opentelemetry import trace
    from opentelemetry.baggage.propagation import W3CBaggagePropagator
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise MissingExtraError("stamp_trace_context", "opentelemetry-api", "otel") from error

_TRACE = TraceContextTextMapPropagator()
_BAGGAGE = W3CBaggagePropagator()


def stamp_trace_context(stream: Stream, *, baggage: bool = False) -> Interceptor:
    """Write `traceparent` and `tracestate` into the metadata of events published within a span.

    So sinks that run later or elsewhere can tell the trace (W3C Trace Context). The event itself is not
    changed: subscribers get a stamped copy. One that already has a `traceparent` keeps it, and outside of
    a span events are passed on as they are.

    Args:
        stream: whose events.
        baggage: write the `baggage` too. It may hold personal data, and goes wherever the event goes.

    Returns:
        The interceptor, for `stream.remove_interceptor`.
    """

    def stamp(event: Event) -> Event:
        metadata = event.metadata
        if "traceparent" in metadata or not trace.get_current_span().get_span_context().is_valid:
            return event
        stamped = dict(metadata)
        _TRACE.inject(stamped)
        if baggage:
            _BAGGAGE.inject(stamped)
        return event.replace(metadata=stamped)

    stream.add_interceptor(stamp)
    return stamp
