"""Logs, traces and events: structlog, the standard library's logging, and OpenTelemetry.

    python examples/logging_and_tracing.py

An order is handled within a span. Its event is stamped with the trace, its secret is removed, it is logged
with the id of the trace, and it is put on the span. A warning of structlog and one of the standard library
become events, which reach a sink that could be a pager; `trace_publishing` records a producer and a consumer
span for each of them. Log lines of that sink are not published again.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence

import structlog
from codomyrmex.integrations import DeliveryPolicy, Sink, attach
from codomyrmex.integrations.logging_monitoring import (
    OpenTelemetrySink,
    PublishLogs,
    StreamLogHandler,
    StructlogSink,
    redact,
    stamp_trace_context,
    trace_publishing,
)
from codomyrmex.streaming import Event, InMemoryStream, create_event
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.trace import format_trace_id

orders, logs = InMemoryStream(), InMemoryStream()


def configure() -> TracerProvider:
    """Set up structlog, logging and OpenTelemetry like an application."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            PublishLogs(logs),  # warnings and errors become events with the topic logs.<level>
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
    )
    logging.getLogger("shop").addHandler(StreamLogHandler(logs))
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stdout, formatter=show_span)))
    return provider


def show_span(span: ReadableSpan) -> str:
    """Return a span as one line."""
    events = [f"{event.name} {dict(event.attributes or {}).get('event.data.item')}" for event in span.events]
    context = span.get_span_context()
    trace_id = "" if context is None else format_trace_id(context.trace_id)
    return f"{span.kind.name.lower()} span {span.name!r} of trace {trace_id} has {events}\n"


async def page(events: Sequence[Event]) -> None:
    """Page someone; here, print a line."""
    for event in events:
        sys.stdout.write(f"paged: {event.topic}: {event.metadata['event']}\n")
    structlog.get_logger().warning("the pager is slow today")  # caused by a log event, so not published again


async def main() -> None:
    """Handle an order, and log two warnings."""
    provider = configure()
    tracer = provider.get_tracer("shop")
    stamp_trace_context(orders)
    orders.add_interceptor(redact())
    pager = Sink.from_function(page, name="pager")
    async with (
        attach(orders, StructlogSink(), OpenTelemetrySink()),
        attach(logs, pager, policy=DeliveryPolicy(batch_age=0.1)) as paging,
    ):
        trace_publishing(logs, paging, tracer_provider=provider)
        with tracer.start_as_current_span("order"), structlog.contextvars.bound_contextvars(user="ada"):
            order = {"item": "tea", "api_key": "c4f3"}
            await orders.publish(create_event(order, topic="orders.created"))
        structlog.get_logger().warning("stock is low", item="tea")
        logging.getLogger("shop").error("the printer is on fire")


if __name__ == "__main__":
    asyncio.run(main())
