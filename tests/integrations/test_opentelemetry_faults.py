"""OpenTelemetry with what is malformed, far away, huge or hostile; each of these once went wrong."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from codomyrmex.integrations import DeliveryPolicy, Sink, attach
from codomyrmex.integrations.logging_monitoring import (
    OpenTelemetrySink,
    meter_delivery,
    trace_publishing,
)
from codomyrmex.streaming import Event, InMemoryStream, SSEStream, create_event
from codomyrmex.streaming.testing import collect
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

STAMP = "00-" + "a" * 32 + "-" + "b" * 16


@pytest.fixture
def kit():
    class Kit:
        spans = InMemorySpanExporter()
        tracing = TracerProvider(shutdown_on_exit=False)
        logs = InMemoryLogRecordExporter()
        logging = LoggerProvider(shutdown_on_exit=False)

        def consumers(self):
            return [s for s in self.spans.get_finished_spans() if s.kind is SpanKind.CONSUMER]

    k = Kit()
    k.tracing.add_span_processor(SimpleSpanProcessor(k.spans))
    k.logging.add_log_record_processor(SimpleLogRecordProcessor(k.logs))
    return k


def both(kit, event):
    with kit.tracing.get_tracer("t").start_as_current_span("w"):
        OpenTelemetrySink("both", logger_provider=kit.logging).emit(event)
    encode_spans(kit.spans.get_finished_spans())
    encode_logs(kit.logs.get_finished_logs())


class Raises:
    def __repr__(self):
        raise ValueError("no")


class Lazy:  # like a proxy: says that it is a str
    @property
    def __class__(self):
        return str


@pytest.mark.parametrize(
    "event",
    [
        create_event({"x": 10**5000}),
        create_event([10**5000]),
        create_event(1, x=10**5000),  # 1
        create_event("\udcff"),  # 2 body
        Event(timestamp=datetime(1960, 1, 1, tzinfo=UTC)),
        Event(timestamp=datetime.max.replace(tzinfo=UTC)),  # 3
        create_event(1, event=Raises()),
        create_event(1, event=10**5000),  # 4 name
        create_event(Lazy()),
        create_event({"x": Lazy()}),  # 5
    ],
    ids=[
        "huge",
        "huge-list",
        "huge-meta",
        "surrogate-body",
        "1960",
        "9999",
        "name-raises",
        "name-huge",
        "proxy",
        "proxy-in",
    ],
)
def test_no_payload_keeps_an_event_from_being_encoded(kit, event):
    both(kit, event)


def test_a_long_text_is_bounded_in_the_body(kit):
    both(kit, create_event("x" * 1_000_000))
    assert len(kit.logs.get_finished_logs()[0].log_record.body) < 10_000


@pytest.mark.parametrize(
    "extra",
    [
        {"traceparent": Raises()},
        {"traceparent": 10**5000},
        {"traceparent": STAMP + "-01", "tracestate": Raises()},
        {"traceparent": "x" * 600},
        {"traceparent": STAMP + "-01", "tracestate": "=,;"},
    ],
)
def test_a_stamp_that_is_none_is_not_warned_about(kit, caplog, extra):
    event = create_event(1, **extra)
    OpenTelemetrySink("log_event", logger_provider=kit.logging).emit(event)
    assert caplog.records == []


async def test_unsampled_stamp_is_counted_as_delivered(kit):
    stream = InMemoryStream()
    async with attach(stream, OpenTelemetrySink("span_event", kit.tracing)) as attachment:
        await stream.publish(create_event(1, traceparent=STAMP + "-00"))
    assert kit.spans.get_finished_spans() == ()
    assert attachment.report().sinks["opentelemetry"].dropped == {"no_span": 1}


@pytest.mark.parametrize("make", [InMemoryStream, SSEStream])
async def test_handlers_from_before_get_consumer_spans(kit, make):
    stream = make()
    stream.subscribe_nowait(lambda e: None)
    trace_publishing(stream, kit.tracing)
    await stream.publish(create_event(1))
    assert len(kit.consumers()) == 1


async def test_sse_subscribe_with_a_handler_gets_consumer_spans(kit):
    stream = SSEStream()
    trace_publishing(stream, kit.tracing)
    await stream.subscribe(lambda e: None)
    await stream.publish(create_event(1))
    assert len(kit.consumers()) == 1


async def test_the_end_ends_consumer_spans(kit):
    stream = InMemoryStream()
    end = trace_publishing(stream, kit.tracing)
    stream.subscribe_nowait(lambda e: None)
    end()
    await stream.publish(create_event(1))
    assert kit.consumers() == []


async def test_two_on_one_stream_end_apart(kit):
    stream = InMemoryStream()
    end = trace_publishing(stream, TracerProvider(shutdown_on_exit=False))
    trace_publishing(stream, kit.tracing)
    end()
    await stream.publish(create_event(1))
    assert len(kit.spans.get_finished_spans()) == 1


async def test_a_plain_function_that_gives_a_coroutine_is_within_its_span(kit):
    stream = InMemoryStream()
    trace_publishing(stream, kit.tracing)

    async def fail(e):
        raise ValueError("no")

    stream.subscribe_nowait(fail)
    await stream.publish(create_event(1))
    assert kit.consumers()[0].status.status_code is StatusCode.ERROR


async def test_a_surrogate_topic_does_not_poison_the_batch(kit):
    stream = InMemoryStream()
    trace_publishing(stream, kit.tracing)
    await stream.publish(create_event(1, topic="a\udcff"))
    encode_spans(kit.spans.get_finished_spans())


async def test_garbage_tracestate_does_not_keep_the_event_from_the_handler(kit):
    stream, got = InMemoryStream(), []
    trace_publishing(stream, kit.tracing)
    stream.subscribe_nowait(got.append)
    await stream.publish(create_event(1, tracestate=Raises()))
    assert len(got) == 1


async def test_stale_tracestate_is_not_put_beside_a_new_traceparent(kit):
    stream = InMemoryStream()
    trace_publishing(stream, kit.tracing)
    with collect(stream) as events:
        await stream.publish(create_event(1, traceparent=STAMP + "-01", tracestate="old=1"))
    assert "tracestate" not in events[0].metadata


async def test_the_handlers_own_exception_reaches_on_error(kit):
    class BrokenError(Exception):
        def __str__(self):
            raise RuntimeError("no")

    told = []
    stream = InMemoryStream(on_error=lambda error, event, subscription: told.append(type(error)))
    trace_publishing(stream, kit.tracing)

    def fail(e):
        raise BrokenError

    stream.subscribe_nowait(fail)
    await stream.publish(create_event(1))
    assert told == [BrokenError]
    assert kit.consumers()[0].status.status_code is StatusCode.ERROR


async def test_semconv(kit):
    stream = InMemoryStream()
    trace_publishing(stream, kit.tracing)

    def fail(e):
        raise ValueError("no")

    stream.subscribe_nowait(fail)
    await stream.publish(create_event(1))
    assert kit.consumers()[0].attributes.get("error.type") == "ValueError"
    assert kit.consumers()[0].name == "process"  # no destination: it is left out


def points(reader, name):
    return {
        p.attributes["sink"]: p.value
        for r in reader.get_metrics_data().resource_metrics
        for s in r.scope_metrics
        for m in s.metrics
        if m.name.endswith(name)
        for p in m.data.data_points
    }


def target(name):
    async def send(events):
        pass

    return Sink.from_function(send, name=name)


async def test_a_second_attachment_is_measured_too():
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    one, two = (attach(InMemoryStream(), target(n)) for n in ("a", "b"))
    meter_delivery(one, provider)
    meter_delivery(two, provider)
    async with one, two:
        assert points(reader, "delivered") == {"a": 0, "b": 0}


async def test_a_monotonic_counter_does_not_go_back():
    reader, stream = InMemoryMetricReader(), InMemoryStream()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    attachment = attach(stream, target("a"), policy=DeliveryPolicy(batch_age=0))
    meter_delivery(attachment, provider)
    async with attachment:
        await stream.publish(create_event(1))
        await attachment.remove("a")
        await attachment.add(target("a"))
        assert points(reader, "delivered") == {"a": 1}


async def test_buckets_are_for_seconds():
    reader, stream = InMemoryMetricReader(), InMemoryStream()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    attachment = attach(stream, target("a"), policy=DeliveryPolicy(batch_age=0))
    meter_delivery(attachment, provider)
    async with attachment:
        await stream.publish(create_event(1))
        await attachment.flush()
    [bounds] = [
        m.data.data_points[0].explicit_bounds
        for r in reader.get_metrics_data().resource_metrics
        for s in r.scope_metrics
        for m in s.metrics
        if m.name.endswith("duration")
    ]
    assert bounds[1] < 1
