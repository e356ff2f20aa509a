"""Logs, traces and events tied together: structlog, the standard library's logging, and OpenTelemetry.

    python examples/logging_and_tracing.py

An order is handled within a span. Its event is stamped with the trace, stripped of its secret, logged with
the trace's id, and put on the span. A warning that structlog writes and one of the standard library become
events themselves, and reach a sink that could be a pager. What that sink logs does not come back to it.
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
)
from codomyrmex.streaming import Event, InMemoryStream, create_event
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.trace import format_trace_id

orders, logs = InMemoryStream(), InMemoryStream()


def configure() -> TracerProvider:
    """Set up structlog, logging and OpenTelemetry as an application does."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            PublishLogs(logs),  # warnings and worse become events of the topic logs.<level>
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
    )
    logging.getLogger("shop").addHandler(StreamLogHandler(logs))
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stdout, formatter=show_span)))
    return provider


def show_span(span: ReadableSpan) -> str:
    """Show a span in one line."""
    events = [f"{event.name} {dict(event.attributes or {}).get('event.data.item')}" for event in span.events]
    context = span.get_span_context()
    trace_id = "" if context is None else format_trace_id(context.trace_id)
    return f"span {span.name!r} of trace {trace_id} has {events}\n"


async def page(events: Sequence[Event]) -> None:
    """Stand for a pager."""
    for event in events:
        sys.stdout.write(f"paged: {event.topic}: {event.metadata['event']}\n")
    structlog.get_logger().warning("the pager is slow today")  # caused by a log event: not published again


async def main() -> None:
    """Handle an order, and log two warnings."""
    tracer = configure().get_tracer("shop")
    stamp_trace_context(orders)
    orders.add_interceptor(redact())
    pager = Sink.from_function(page, name="pager")
    async with (
        attach(orders, StructlogSink(), OpenTelemetrySink()),
        attach(logs, pager, policy=DeliveryPolicy(batch_age=0.1)),
    ):
        with tracer.start_as_current_span("order"), structlog.contextvars.bound_contextvars(user="ada"):
            order = {"item": "tea", "api_key": "c4f3"}
            await orders.publish(create_event(order, topic="orders.created"))
        structlog.get_logger().warning("stock is low", item="tea")
        logging.getLogger("shop").error("the printer is on fire")


if __name__ == "__main__":
    asyncio.run(main())
