"""OpenTelemetry with malformed, huge or hostile input; each of these was a bug once."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from codomyrmex.integrations import DeliveryPolicy, Sink, attach
from codomyrmex.integrations.logging_monitoring import (
    OpenTelemetrySink,
    meter_delivery,
    trace_publishing,
)
from codomyrmex.streaming import Event, InMemoryStream, create_event
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


class Lazy:  # like a proxy that claims to be a str
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
def test_any_payload_can_be_encoded(kit, event):
    both(kit, event)


def test_a_long_body_is_shortened(kit):
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
def test_a_malformed_stamp_causes_no_warning(kit, caplog, extra):
    event = create_event(1, **extra)
    OpenTelemetrySink("log_event", logger_provider=kit.logging).emit(event)
    assert caplog.records == []


async def test_an_event_with_an_unsampled_stamp_is_counted_as_dropped(kit):
    stream = InMemoryStream()
    async with attach(stream, OpenTelemetrySink("span_event", kit.tracing)) as attachment:
        await stream.publish(create_event(1, traceparent=STAMP + "-00"))
    assert kit.spans.get_finished_spans() == ()
    assert attachment.report().sinks["opentelemetry"].dropped == {"no_span": 1}


async def test_two_tracings_of_one_stream_end_independently(kit):
    stream = InMemoryStream()
    first = trace_publishing(stream, tracer_provider=TracerProvider(shutdown_on_exit=False))
    trace_publishing(stream, tracer_provider=kit.tracing)
    first.close()
    await stream.publish(create_event(1))
    assert len(kit.spans.get_finished_spans()) == 1


async def test_a_surrogate_in_the_topic_does_not_spoil_the_export(kit):
    stream = InMemoryStream()
    trace_publishing(stream, tracer_provider=kit.tracing)
    await stream.publish(create_event(1, topic="a\udcff"))
    encode_spans(kit.spans.get_finished_spans())


async def test_an_event_with_a_malformed_trace_state_reaches_its_handler(kit):
    stream, got = InMemoryStream(), []
    trace_publishing(stream, tracer_provider=kit.tracing)
    stream.subscribe_nowait(got.append)
    await stream.publish(create_event(1, tracestate=Raises()))
    assert len(got) == 1


async def test_a_new_traceparent_removes_the_old_trace_state(kit):
    stream = InMemoryStream()
    trace_publishing(stream, tracer_provider=kit.tracing)
    with collect(stream) as events, kit.tracing.get_tracer("t").start_as_current_span("other trace"):
        await stream.publish(create_event(1, traceparent=STAMP + "-01", tracestate="old=1"))
    assert "tracestate" not in events[0].metadata


async def test_an_exception_that_cannot_be_shown_is_recorded_and_retried(kit):
    class BrokenError(Exception):
        def __str__(self):
            raise RuntimeError("no")

    async def send(events):
        raise BrokenError

    stream = InMemoryStream()
    policy = DeliveryPolicy(batch_age=0, max_attempts=2, backoff_initial=0)
    async with attach(stream, Sink.from_function(send, name="broken"), policy=policy) as attachment:
        trace_publishing(stream, attachment, tracer_provider=kit.tracing)
        await stream.publish(create_event(1))
        await attachment.flush()
    assert [span.status.status_code for span in kit.consumers()] == [StatusCode.ERROR] * 2
    assert attachment.report().sinks["broken"].given_up == 1


async def test_a_surrogate_in_the_name_of_a_sink_does_not_spoil_the_export(kit):
    stream = InMemoryStream()
    async with attach(stream, target("a\udcff")) as attachment:
        trace_publishing(stream, attachment, tracer_provider=kit.tracing)
        await stream.publish(create_event(1))
    encode_spans(kit.spans.get_finished_spans())


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


async def test_several_attachments_report_to_one_provider():
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    one, two = (attach(InMemoryStream(), target(n)) for n in ("a", "b"))
    meter_delivery(one, provider)
    meter_delivery(two, provider)
    async with one, two:
        assert points(reader, "delivered") == {"a": 0, "b": 0}


async def test_a_counter_never_decreases():
    reader, stream = InMemoryMetricReader(), InMemoryStream()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    attachment = attach(stream, target("a"), policy=DeliveryPolicy(batch_age=0))
    meter_delivery(attachment, provider)
    async with attachment:
        await stream.publish(create_event(1))
        await attachment.remove("a")
        await attachment.add(target("a"))
        assert points(reader, "delivered") == {"a": 1}


async def test_the_buckets_are_in_seconds():
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
