"""Events end to end: the real SDK, its batch processors and OTLP/gRPC exporters, and a receiver.

Two traps of the SDK (1.45) affect these tests: `export_timeout_millis` of a batch processor has no effect,
and `force_flush(timeout_millis)` waits as long as the export takes. Only the `timeout` of the exporter limits
both. Async code must flush in a thread, with its own deadline.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from codomyrmex.integrations import DeliveryPolicy, InlineSink, PermanentError, Sink, attach
from codomyrmex.integrations.logging_monitoring import (
    OpenTelemetrySink,
    stamp_trace_context,
    trace_publishing,
)
from codomyrmex.streaming import Event, EventType, InMemoryStream, create_event
from codomyrmex.streaming.testing import collect
from google.rpc.error_details_pb2 import RetryInfo
from helpers import DEADLINE, in_time
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import (
    LogsServiceServicer,
    add_LogsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

NOON = datetime(2026, 11, 24, 12, 0, 0, 7, tzinfo=UTC)
NOON_NS = 1_795_521_600_000_007_000
SOON = 0.25  # seconds until an exporter gives up


class Receiver:
    """The receiving end, which keeps what it is sent.

    Attributes:
        spans: in the order of arrival.
        logs: likewise.
        refusals: how many more requests it refuses, asking for an immediate retry.
        refused: how many it has refused.
        gate: requests wait until it is set.
        contacted: set by the first request.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.logs: list[LogRecord] = []
        self.refusals = 0
        self.refused = 0
        self.gate = threading.Event()
        self.gate.set()
        self.contacted = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(4))
        add_TraceServiceServicer_to_server(_Traces(self), self._server)
        add_LogsServiceServicer_to_server(_Logs(self), self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def stop(self) -> None:
        self.gate.set()
        self._server.stop(None).wait()

    def admit(self, context: grpc.ServicerContext) -> None:
        self.contacted.set()
        self.gate.wait(DEADLINE)
        if self.refusals:
            self.refusals -= 1
            self.refused += 1
            again = RetryInfo()
            again.retry_delay.FromMilliseconds(1)
            context.set_trailing_metadata((("google.rpc.retryinfo-bin", again.SerializeToString()),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "ask again")


class _Traces(TraceServiceServicer):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: grpc.ServicerContext) -> ExportTraceServiceResponse:  # noqa: N802 - gRPC's name
        self._receiver.admit(context)
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self._receiver.spans += scope.spans
        return ExportTraceServiceResponse()


class _Logs(LogsServiceServicer):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: grpc.ServicerContext) -> ExportLogsServiceResponse:  # noqa: N802 - gRPC's name
        self._receiver.admit(context)
        for resource in request.resource_logs:
            for scope in resource.scope_logs:
                self._receiver.logs += scope.log_records
        return ExportLogsServiceResponse()


class Telemetry:
    """Providers, set up as in an application."""

    def __init__(self, port: int, timeout: float = DEADLINE) -> None:
        to = {"endpoint": f"127.0.0.1:{port}", "insecure": True, "timeout": timeout}
        self.tracing = TracerProvider(shutdown_on_exit=False)
        self.tracing.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(**to)))
        self.logging = LoggerProvider(shutdown_on_exit=False)
        self.logging.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(**to)))
        self.tracer = self.tracing.get_tracer("test")

    def sink(self, mode: Any) -> OpenTelemetrySink:
        return OpenTelemetrySink(mode, self.tracing, self.logging)

    async def flush(self) -> None:
        for provider in (self.tracing, self.logging):
            await asyncio.to_thread(provider.force_flush)

    async def shutdown(self) -> None:
        for provider in (self.tracing, self.logging):
            await asyncio.to_thread(provider.shutdown)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.stop()


@pytest.fixture
def telemetry(receiver: Receiver) -> Iterator[Telemetry]:
    made = Telemetry(receiver.port)
    yield made
    receiver.gate.set()
    made.tracing.shutdown()
    made.logging.shutdown()


@pytest.fixture
def nowhere() -> Iterator[Telemetry]:
    """Yield providers whose exporters cannot connect: the port is bound, but nothing listens on it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        made = Telemetry(bound.getsockname()[1], timeout=SOON)
        yield made
        made.tracing.shutdown()
        made.logging.shutdown()


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return None if kind is None else getattr(value, kind)


def attributes_of(sent: Any) -> dict[str, Any]:
    return {pair.key: plain(pair.value) for pair in sent.attributes}


def ids(sent: Span | LogRecord) -> tuple[bytes, bytes]:
    return sent.trace_id, sent.span_id


class Keep(InlineSink):
    name = "keep"

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def emit(self, event: Event) -> None:
        self.kept.append(event.data)


def keep_queued(kept: list[Any]) -> Sink:
    async def send(events: Sequence[Event]) -> None:
        kept.extend(event.data for event in events)

    return Sink.from_function(send, name="keep queued")


def of_the_library(records: Sequence[logging.LogRecord]) -> list[str]:
    return [record.getMessage() for record in records if record.name.startswith("codomyrmex")]


# Delivery


@in_time
async def test_an_event_arrives_on_its_span_with_its_own_time(receiver, telemetry):
    stream = InMemoryStream()
    event = Event(data={"order": 42, "tags": ["a", "b"]}, metadata={"topic": "orders"}, timestamp=NOON)
    async with attach(stream, telemetry.sink("span_event")):
        with telemetry.tracer.start_as_current_span("request"):
            await stream.publish(event)
    await telemetry.flush()
    [span] = receiver.spans
    [sent] = span.events
    assert (span.name, sent.name, sent.time_unix_nano) == ("request", "orders", NOON_NS)
    assert attributes_of(sent) == {
        "event.id": event.id,
        "event.type": "message",
        "event.topic": "orders",
        "event.data.order": 42,
        "event.data.tags": ["a", "b"],
        "event.metadata.topic": "orders",
    }
    assert receiver.logs == []


@in_time
async def test_an_event_arrives_as_a_log_record_with_its_name_and_severity(receiver, telemetry):
    stream = InMemoryStream()
    async with attach(stream, telemetry.sink("log_event")):
        await stream.publish(Event(data="it is done", metadata={"topic": "orders.done"}, timestamp=NOON))
        await stream.publish(create_event({"a": 1}, EventType.ERROR, topic="orders.failed"))
    await telemetry.flush()
    done, failed = receiver.logs
    assert (done.event_name, done.time_unix_nano) == ("orders.done", NOON_NS)
    assert done.observed_time_unix_nano > 0
    assert plain(done.body) == "it is done"
    assert (done.severity_number, done.severity_text) == (SeverityNumber.SEVERITY_NUMBER_INFO, "INFO")
    assert (failed.event_name, failed.severity_text) == ("orders.failed", "ERROR")
    assert attributes_of(failed)["event.data.a"] == 1
    assert ids(done) == (b"", b"")


@pytest.mark.parametrize("mode", ["log_event", "both"])
@in_time
async def test_a_log_record_and_the_span_it_was_published_in_have_the_same_ids(receiver, telemetry, mode):
    stream = InMemoryStream()
    async with attach(stream, telemetry.sink(mode)):
        for name in ("one", "two"):
            with telemetry.tracer.start_as_current_span(name):
                await stream.publish(create_event(name, topic="orders"))
    await telemetry.flush()
    spans = {span.name: span for span in receiver.spans}
    assert [plain(record.body) for record in receiver.logs] == ["one", "two"]
    for record in receiver.logs:
        assert ids(record) == ids(spans[plain(record.body)])
    assert ids(spans["one"]) != ids(spans["two"])
    assert [len(span.events) for span in spans.values()] == ([1, 1] if mode == "both" else [0, 0])


@in_time
async def test_an_exception_arrives_by_the_conventions(receiver, telemetry):
    stream = InMemoryStream()
    try:
        raise ValueError("no such order")  # noqa: TRY301 - for its traceback
    except ValueError as error:
        event = create_event(error, EventType.ERROR, topic="orders")
    async with attach(stream, telemetry.sink("both")):
        with telemetry.tracer.start_as_current_span("request"):
            await stream.publish(event)
    await telemetry.flush()
    [span], [record] = receiver.spans, receiver.logs
    assert record.event_name == span.events[0].name == "exception"
    for sent in (span.events[0], record):
        attributes = attributes_of(sent)
        assert attributes["exception.type"] == "ValueError"
        assert attributes["exception.message"] == "no such order"
        assert attributes["exception.stacktrace"].endswith("ValueError: no such order\n")


@in_time
async def test_a_later_event_arrives_in_the_trace_of_its_stamp(receiver, telemetry):
    stream = InMemoryStream()
    stamp_trace_context(stream)
    with collect(stream) as events, telemetry.tracer.start_as_current_span("request"):
        await stream.publish(create_event({"order": 42}, topic="orders"))
    later = InMemoryStream()
    log_records, spans = telemetry.sink("log_event"), telemetry.sink("span_event")
    spans.name = "spans"
    async with attach(later, log_records, spans):
        await later.publish(events[0])
    await telemetry.flush()
    by_name = {span.name: span for span in receiver.spans}
    [record] = receiver.logs
    assert ids(record) == ids(by_name["request"])
    child = by_name["orders"]
    assert (child.trace_id, child.parent_span_id) == ids(by_name["request"])
    assert [sent.name for sent in child.events] == ["orders"]


@in_time
async def test_producer_and_consumer_spans_arrive_linked(receiver, telemetry):
    async def fail(events: Sequence[Event]) -> None:
        raise PermanentError("no such order")

    stream = InMemoryStream()
    async with attach(stream, Sink.from_function(fail, name="orders")) as attachment:
        trace_publishing(stream, attachment, tracer_provider=telemetry.tracing)
        await stream.publish(create_event(1, topic="orders"))
    await telemetry.flush()
    by_name = {span.name: span for span in receiver.spans}
    producer, consumer = by_name["publish orders"], by_name["process orders"]
    assert (producer.kind, consumer.kind) == (Span.SPAN_KIND_PRODUCER, Span.SPAN_KIND_CONSUMER)
    assert [(link.trace_id, link.span_id) for link in consumer.links] == [ids(producer)]
    assert (consumer.trace_id, consumer.parent_span_id) == ids(producer)
    assert consumer.status.code == Status.STATUS_CODE_ERROR
    assert attributes_of(producer)["messaging.destination.name"] == "orders"
    assert attributes_of(consumer)["messaging.consumer.group.name"] == "orders"


HOSTILE = [
    {"huge": 10**40, "edges": [2**63 - 1, -(2**63)], "\udcff": "\ud800"},
    {"set": {1, 2}, "time": NOON, "bytes": b"\xff", "object": object(), "none": [None, {"x": None}]},
    [1, "a", None, [2], {"x": 1}],
    float("nan"),
    {"text": "x" * 1_000_000},
    {str(number): number for number in range(1_000)},
    {"nested": {"a": {"b": {"c": {"d": {"e": 1}}}}}},
]


@in_time
async def test_hostile_payloads_arrive_and_affect_nothing_else(receiver, telemetry, caplog):
    stream = InMemoryStream()
    events = [create_event(payload, topic="hostile") for payload in HOSTILE]
    async with attach(stream, telemetry.sink("both")):
        with telemetry.tracer.start_as_current_span("request"):
            for event in events:
                await stream.publish(event)
    await telemetry.flush()
    expected = [event.id for event in events]
    [span] = receiver.spans
    assert [attributes_of(sent)["event.id"] for sent in span.events] == expected
    assert [attributes_of(record)["event.id"] for record in receiver.logs] == expected
    assert span.dropped_events_count == 0
    assert not any(sent.dropped_attributes_count for sent in [*span.events, *receiver.logs])
    assert caplog.records == []


@in_time
async def test_more_than_a_batch_arrives_in_order(receiver, telemetry):
    stream = InMemoryStream()
    async with attach(stream, telemetry.sink("log_event")) as attachment:
        for number in range(1_500):
            stream.publish_nowait(create_event(number))
    await telemetry.flush()
    assert [attributes_of(record)["event.data"] for record in receiver.logs] == list(range(1_500))
    assert attachment.report().sinks["opentelemetry"].delivered == 1_500


# A receiver that is busy, slow or down


@in_time
async def test_a_request_that_a_busy_receiver_refuses_is_retried(receiver, telemetry):
    stream = InMemoryStream()
    receiver.refusals = 2
    async with attach(stream, telemetry.sink("log_event")) as attachment:
        await stream.publish(create_event(1))
    await telemetry.flush()
    assert receiver.refused == 2
    assert [attributes_of(record)["event.data"] for record in receiver.logs] == [1]
    assert attachment.report().complete


@in_time
async def test_publishing_does_not_wait_for_a_receiver_that_hangs(receiver, telemetry):
    stream, keep, queued = InMemoryStream(), Keep(), []
    receiver.gate.clear()
    sinks = [telemetry.sink("log_event"), keep, keep_queued(queued)]
    async with attach(stream, *sinks, policy=DeliveryPolicy(batch_age=0)) as attachment:
        await stream.publish(create_event(0))
        flushing = asyncio.create_task(telemetry.flush())
        assert await asyncio.to_thread(receiver.contacted.wait, DEADLINE)
        for number in range(1, 100):
            await stream.publish(create_event(number))
        assert await attachment.flush()
        assert keep.kept == queued == list(range(100))
    assert attachment.report().complete
    assert (receiver.logs, flushing.done()) == ([], False)
    receiver.gate.set()
    await flushing
    await telemetry.flush()
    assert [attributes_of(record)["event.data"] for record in receiver.logs] == list(range(100))


@pytest.mark.parametrize("mode", ["span_event", "log_event", "both", "auto"])
@in_time
async def test_a_receiver_that_is_down_affects_neither_publisher_nor_sinks(nowhere, caplog, mode):
    stream, keep, queued, handled = InMemoryStream(), Keep(), [], []
    await stream.subscribe(handled.append)
    sinks = [nowhere.sink(mode), keep, keep_queued(queued)]
    async with attach(stream, *sinks, policy=DeliveryPolicy(batch_age=0)) as attachment:
        with nowhere.tracer.start_as_current_span("request"):
            for number in range(50):
                await stream.publish(create_event(number))
        await nowhere.flush()
        stream.publish_nowait(create_event(50))
        assert await attachment.flush()
    assert keep.kept == queued == [event.data for event in handled] == list(range(51))
    report = attachment.report()
    assert report.complete
    assert report.sinks["opentelemetry"].given_up == 0
    assert stream.statistics().handler_errors == 0
    await nowhere.shutdown()
    assert of_the_library(caplog.records) == []


@in_time
async def test_shutdown_does_not_wait_for_a_receiver_that_is_down(nowhere):
    stream = InMemoryStream()
    async with attach(stream, nowhere.sink("both")):
        with nowhere.tracer.start_as_current_span("request"):
            for number in range(2_000):
                stream.publish_nowait(create_event(number))
    await nowhere.shutdown()


@in_time
async def test_shutdown_does_not_wait_for_a_receiver_that_hangs(receiver):
    telemetry = Telemetry(receiver.port, timeout=SOON)
    stream = InMemoryStream()
    receiver.gate.clear()
    async with attach(stream, telemetry.sink("both")):
        with telemetry.tracer.start_as_current_span("request"):
            await stream.publish(create_event(1))
    await telemetry.shutdown()


# The order of shutdown


@pytest.mark.parametrize("publish", [InMemoryStream.publish, InMemoryStream.publish_nowait])
@in_time
async def test_the_last_events_arrive_if_the_attachment_closes_before_the_providers(
    receiver, telemetry, publish: Callable[..., Any]
):
    stream = InMemoryStream()
    async with attach(stream, telemetry.sink("both")) as attachment:
        with telemetry.tracer.start_as_current_span("request"):
            for number in range(20):
                waiting = publish(stream, create_event(number))
                if waiting is not None:
                    await waiting
    await telemetry.shutdown()
    assert attachment.report().complete
    assert [attributes_of(record)["event.data"] for record in receiver.logs] == list(range(20))
    [span] = receiver.spans
    assert [attributes_of(sent)["event.data"] for sent in span.events] == list(range(20))


@in_time
async def test_events_after_the_attachment_has_closed_are_not_exported(receiver, telemetry):
    stream = InMemoryStream()
    async with attach(stream, telemetry.sink("log_event")):
        await stream.publish(create_event("before"))
    await stream.publish(create_event("after"))
    await telemetry.shutdown()
    assert [plain(record.body) for record in receiver.logs] == ["before"]


@in_time
async def test_providers_that_are_shut_down_too_early_cause_no_error(receiver, telemetry, caplog):
    stream, keep = InMemoryStream(), Keep()
    async with attach(stream, telemetry.sink("both"), keep) as attachment:
        await stream.publish(create_event("in time"))
        await telemetry.shutdown()
        with telemetry.tracer.start_as_current_span("request"):
            await stream.publish(create_event("too late"))
    assert keep.kept == ["in time", "too late"]
    assert attachment.report().sinks["opentelemetry"].given_up == 0
    assert [plain(record.body) for record in receiver.logs] == ["in time"]
    assert of_the_library(caplog.records) == []
