"""`OpenTelemetrySink` with the real SDK: span events, log records, and dropped events."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from codomyrmex.integrations import DroppedError, attach
from codomyrmex.integrations.logging_monitoring import OpenTelemetrySink, stamp_trace_context
from codomyrmex.streaming import Event, EventType, InMemoryStream, create_event
from codomyrmex.streaming.testing import collect
from helpers import in_time
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry._logs import LogRecord, NoOpLoggerProvider, SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import Event as SpanEvent
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOON = datetime(2026, 11, 24, 12, 0, 0, 7, tzinfo=UTC)
NOON_NS = 1_795_521_600_000_007_000
TRACE_ID, SPAN_ID = 0xA1B2C3D4E5F60718293A4B5C6D7E8F90, 0x1122334455667788
STAMP = {"traceparent": f"00-{TRACE_ID:032x}-{SPAN_ID:016x}-01"}


class Telemetry:
    """Providers and what they have exported."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._logs = InMemoryLogRecordExporter()
        self.tracing = TracerProvider(shutdown_on_exit=False)
        self.tracing.add_span_processor(SimpleSpanProcessor(self._spans))
        self.logging = LoggerProvider(shutdown_on_exit=False)
        self.logging.add_log_record_processor(SimpleLogRecordProcessor(self._logs))
        self.tracer = self.tracing.get_tracer("test")

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._spans.get_finished_spans()

    @property
    def readable_logs(self) -> tuple[ReadableLogRecord, ...]:
        return self._logs.get_finished_logs()

    @property
    def logs(self) -> list[LogRecord]:
        return [readable.log_record for readable in self.readable_logs]

    def span_events(self) -> list[SpanEvent]:
        return [event for span in self.spans for event in span.events]

    def clear(self) -> None:
        self._spans.clear()
        self._logs.clear()

    def shutdown(self) -> None:
        self.tracing.shutdown()
        self.logging.shutdown()


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    telemetry = Telemetry()
    yield telemetry
    telemetry.shutdown()


@pytest.fixture(scope="module")
def shared() -> Iterator[Telemetry]:
    telemetry = Telemetry()
    yield telemetry
    telemetry.shutdown()


async def reported(sink: OpenTelemetrySink, *events: Event) -> tuple[int, dict[str, int]]:
    """Deliver events through a stream; return the number delivered, and the numbers dropped by reason."""
    stream = InMemoryStream()
    async with attach(stream, sink) as attachment:
        for event in events:
            await stream.publish(event)
    report = attachment.report().sinks[sink.name]
    assert report.given_up == 0
    return report.delivered, dict(report.dropped)


def logged(telemetry: Telemetry, event: Event) -> LogRecord:
    telemetry.clear()
    OpenTelemetrySink("log_event", logger_provider=telemetry.logging).emit(event)
    [record] = telemetry.logs
    return record


def attributes_of(record: LogRecord | SpanEvent) -> dict[str, Any]:
    return dict(record.attributes or {})


# The modes


@pytest.mark.parametrize(
    ("mode", "with_span", "with_logger", "on_span", "as_log", "reason"),
    [
        ("span_event", True, True, 1, 0, None),
        ("span_event", True, False, 1, 0, None),
        ("span_event", False, True, 0, 0, "no_span"),
        ("span_event", False, False, 0, 0, "no_span"),
        ("log_event", True, True, 0, 1, None),
        ("log_event", True, False, 0, 0, "no_logger_provider"),
        ("log_event", False, True, 0, 1, None),
        ("log_event", False, False, 0, 0, "no_logger_provider"),
        ("both", True, True, 1, 1, None),
        ("both", True, False, 1, 0, None),
        ("both", False, True, 0, 1, None),
        ("both", False, False, 0, 0, "no_span"),
        ("auto", True, True, 1, 0, None),
        ("auto", True, False, 1, 0, None),
        ("auto", False, True, 0, 1, None),
        ("auto", False, False, 0, 0, "no_span"),
    ],
)
@in_time
async def test_each_mode_records_the_event_or_counts_it_as_dropped(
    telemetry, mode, with_span, with_logger, on_span, as_log, reason
):
    sink = OpenTelemetrySink(mode, logger_provider=telemetry.logging if with_logger else None)
    if with_span:
        with telemetry.tracer.start_as_current_span("work"):
            numbers = await reported(sink, create_event(1))
    else:
        numbers = await reported(sink, create_event(1))
    assert (len(telemetry.span_events()), len(telemetry.logs)) == (on_span, as_log)
    assert numbers == ((1, {}) if reason is None else (0, {reason: 1}))


def test_auto_is_the_default_mode(telemetry):
    sink = OpenTelemetrySink(logger_provider=telemetry.logging)
    sink.emit(create_event(1))
    with telemetry.tracer.start_as_current_span("work"):
        sink.emit(create_event(2))
    assert [attributes_of(record)["event.data"] for record in telemetry.logs] == [1]
    assert [attributes_of(event)["event.data"] for event in telemetry.span_events()] == [2]


@pytest.mark.parametrize("mode", ["", "span", "log", "AUTO", "span_event ", None, 1])
def test_an_unknown_mode_is_rejected_with_a_list_of_modes(mode):
    with pytest.raises(ValueError, match="auto, span_event, log_event, both"):
        OpenTelemetrySink(mode)


@in_time
async def test_a_no_op_logger_provider_counts_as_none():
    sink = OpenTelemetrySink("log_event", logger_provider=NoOpLoggerProvider())
    assert await reported(sink, create_event(1), create_event(2)) == (0, {"no_logger_provider": 2})


class OnlyErrors(LogRecordProcessor):
    """Enabled for ERROR and above, except for events named noise."""

    def __init__(self) -> None:
        self.emitted: list[str | None] = []

    def enabled(self, **record: Any) -> bool:
        return (
            record["severity_number"].value >= SeverityNumber.ERROR.value and record["event_name"] != "noise"
        )

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        self.emitted.append(log_record.log_record.event_name)

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


@in_time
async def test_an_event_for_which_the_logger_is_not_enabled_is_counted():
    provider, processor = LoggerProvider(shutdown_on_exit=False), OnlyErrors()
    provider.add_log_record_processor(processor)
    numbers = await reported(
        OpenTelemetrySink("log_event", logger_provider=provider),
        create_event(1, topic="orders"),
        create_event(2, EventType.ERROR, topic="orders"),
        create_event(3, topic="orders", level="critical"),
        create_event(4, EventType.ERROR, topic="noise"),
    )
    assert processor.emitted == ["orders", "orders"]
    assert numbers == (2, {"not_enabled": 2})


@pytest.mark.parametrize("mode", ["log_event", "auto"])
@in_time
async def test_a_logger_without_processors_is_not_enabled(mode):
    provider = LoggerProvider(shutdown_on_exit=False)
    sink = OpenTelemetrySink(mode, logger_provider=provider)
    assert await reported(sink, create_event(1)) == (0, {"not_enabled": 1})


@in_time
async def test_with_both_the_span_event_is_enough(telemetry):
    sink = OpenTelemetrySink("both", logger_provider=LoggerProvider(shutdown_on_exit=False))
    with telemetry.tracer.start_as_current_span("work"):
        assert await reported(sink, create_event(1)) == (1, {})
    assert len(telemetry.span_events()) == 1


def test_with_both_the_span_event_and_the_log_record_agree(telemetry):
    sink = OpenTelemetrySink("both", logger_provider=telemetry.logging)
    event = Event(data={"a": {"b": [1, 2]}, "c": None}, metadata={"topic": "orders"}, timestamp=NOON)
    with telemetry.tracer.start_as_current_span("work"):
        sink.emit(event)
    [span_event], [record] = telemetry.span_events(), telemetry.logs
    assert span_event.name == record.event_name == "orders"
    assert span_event.timestamp == record.timestamp == NOON_NS
    assert attributes_of(span_event) == attributes_of(record)
    assert attributes_of(record) == {
        "event.id": event.id,
        "event.type": "message",
        "event.topic": "orders",
        "event.data.a.b": (1, 2),
        "event.metadata.topic": "orders",
    }


# Log records


def test_a_log_record_belongs_to_the_span_it_is_published_in(telemetry):
    sink = OpenTelemetrySink("log_event", logger_provider=telemetry.logging)
    with telemetry.tracer.start_as_current_span("outer") as outer:
        with telemetry.tracer.start_as_current_span("inner") as inner:
            sink.emit(create_event(1))
        sink.emit(create_event(2))
    sink.emit(create_event(3))
    of_inner, of_outer, of_none = telemetry.logs
    for record, span in ((of_inner, inner), (of_outer, outer)):
        context = span.get_span_context()
        assert (record.trace_id, record.span_id) == (context.trace_id, context.span_id)
        assert record.trace_flags == context.trace_flags
    assert (of_none.trace_id, of_none.span_id) == (0, 0)
    assert telemetry.span_events() == []


@pytest.mark.parametrize("mode", ["log_event", "both", "auto"])
def test_an_ended_or_unsampled_span_still_determines_the_trace(telemetry, mode):
    sink = OpenTelemetrySink(mode, logger_provider=telemetry.logging)
    over = telemetry.tracer.start_span("over")
    over.end()
    unsampled = TracerProvider(ALWAYS_OFF, shutdown_on_exit=False).get_tracer("test").start_span("unsampled")
    for span in (over, unsampled):
        with trace.use_span(span):
            sink.emit(create_event(1))
    assert [record.span_id for record in telemetry.logs] == [
        over.get_span_context().span_id,
        unsampled.get_span_context().span_id,
    ]


@in_time
async def test_concurrent_publishers_have_their_log_records_on_their_own_traces(telemetry):
    stream = InMemoryStream()
    wanted: dict[int, int] = {}

    async def request(number: int) -> None:
        with telemetry.tracer.start_as_current_span("request") as span:
            wanted[number] = span.get_span_context().trace_id
            await asyncio.sleep(0)
            await stream.publish(create_event(number))

    async with attach(stream, OpenTelemetrySink("log_event", logger_provider=telemetry.logging)):
        await asyncio.gather(*(request(number) for number in range(5)))
    found = {attributes_of(record)["event.data"]: record.trace_id for record in telemetry.logs}
    assert found == wanted
    assert len(set(wanted.values())) == 5


@pytest.mark.parametrize(
    ("event_type", "metadata", "number", "text"),
    [
        (EventType.MESSAGE, {}, SeverityNumber.INFO, "INFO"),
        (EventType.CONNECT, {}, SeverityNumber.INFO, "INFO"),
        (EventType.DISCONNECT, {}, SeverityNumber.INFO, "INFO"),
        (EventType.ERROR, {}, SeverityNumber.ERROR, "ERROR"),
        (EventType.HEARTBEAT, {}, SeverityNumber.DEBUG, "DEBUG"),
        (EventType.MESSAGE, {"level": "debug"}, SeverityNumber.DEBUG, "DEBUG"),
        (EventType.MESSAGE, {"level": "warning"}, SeverityNumber.WARN, "WARN"),
        (EventType.MESSAGE, {"severity": "warn"}, SeverityNumber.WARN, "WARN"),
        (EventType.MESSAGE, {"severity": "ERROR"}, SeverityNumber.ERROR, "ERROR"),
        (EventType.MESSAGE, {"level": "Critical"}, SeverityNumber.FATAL, "FATAL"),
        (EventType.MESSAGE, {"level": "fatal"}, SeverityNumber.FATAL, "FATAL"),
        (EventType.ERROR, {"level": "info"}, SeverityNumber.INFO, "INFO"),
        (EventType.HEARTBEAT, {"severity": "error"}, SeverityNumber.ERROR, "ERROR"),
        (EventType.MESSAGE, {"level": "info", "severity": "error"}, SeverityNumber.INFO, "INFO"),
        (EventType.ERROR, {"level": "rather bad"}, SeverityNumber.ERROR, "ERROR"),
        (EventType.ERROR, {"level": None}, SeverityNumber.ERROR, "ERROR"),
        (EventType.MESSAGE, {"level": ["error"]}, SeverityNumber.INFO, "INFO"),
    ],
)
def test_the_severity_is_that_of_the_metadata_or_else_of_the_type(
    telemetry, event_type, metadata, number, text
):
    record = logged(telemetry, Event(type=event_type, metadata=metadata))
    assert (record.severity_number, record.severity_text) == (number, text)


@given(
    st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1)),  # noqa: DTZ001 - naive is UTC
)
@settings(deadline=None)
def test_the_time_of_a_log_record_is_the_events_own_to_the_microsecond(shared, moment):
    record = logged(shared, Event(timestamp=moment))
    assert record.timestamp == (moment.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1) * 1_000


def test_the_observed_time_differs_from_the_events_time(telemetry):
    before = time.time_ns()
    record = logged(telemetry, Event(timestamp=NOON))
    assert record.timestamp == NOON_NS
    assert record.observed_timestamp is not None
    assert before <= record.observed_timestamp <= time.time_ns()


@pytest.mark.parametrize(
    ("event_type", "metadata", "name"),
    [
        (EventType.MESSAGE, {}, "message"),
        (EventType.ERROR, {}, "error"),
        (EventType.MESSAGE, {"topic": "orders.created"}, "orders.created"),
        (EventType.MESSAGE, {"topic": "orders", "event": "order placed"}, "order placed"),
        (EventType.MESSAGE, {"event": "a\nb\udcff"}, "a\\nb\\udcff"),
    ],
)
def test_a_log_record_has_the_name_of_the_event(telemetry, event_type, metadata, name):
    assert logged(telemetry, Event(type=event_type, metadata=metadata)).event_name == name


def test_a_string_is_the_body_of_its_log_record(telemetry):
    assert logged(telemetry, create_event("it is done", topic="orders")).body == "it is done"
    assert logged(telemetry, create_event({"a": 1}, topic="orders")).body == "orders"


def test_a_log_record_has_the_name_of_the_library_as_its_scope(telemetry):
    logged(telemetry, create_event(1))
    [readable] = telemetry.readable_logs
    assert readable.instrumentation_scope is not None
    assert readable.instrumentation_scope.name == "codomyrmex.streaming"


# Exceptions


class OrderError(Exception):
    pass


class BrokenError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class OddError(Exception):
    def __str__(self) -> str:
        return None  # noqa: PLE0307 - this is what the test is about


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause  # noqa: TRY301 - to be caught
    except BaseException as caught:  # noqa: BLE001 - all types are recorded
        return caught


def raised_while_handling() -> BaseException:
    try:
        try:
            raise KeyError("first")  # noqa: TRY301 - this is what the test is about
        except KeyError:
            raise OrderError("second")  # noqa: B904 - this is what the test is about
    except OrderError as error:
        return error


EXCEPTIONS = {
    "builtin": raised(ValueError("no such order")),
    "own": raised(OrderError("no such order")),
    "never raised": OrderError("no such order"),
    "chained": raised(OrderError("second"), raised(KeyError("first"))),
    "while handling": raised_while_handling(),
    "group": raised(ExceptionGroup("two", [raised(ValueError("a")), raised(OrderError("b"))])),
    "without a message": raised(OrderError()),
    "no Exception": raised(KeyboardInterrupt("stop")),
}


def both_ways(telemetry: Telemetry, event: Event) -> list[dict[str, Any]]:
    """Return the attributes of an exception as a span event and as a log record."""
    telemetry.clear()
    with telemetry.tracer.start_as_current_span("work"):
        OpenTelemetrySink("both", logger_provider=telemetry.logging).emit(event)
    [span_event], [record] = telemetry.span_events(), telemetry.logs
    assert span_event.name == record.event_name == "exception"
    return [attributes_of(span_event), attributes_of(record)]


@pytest.mark.parametrize("kind", EXCEPTIONS)
def test_an_exception_is_recorded_as_the_sdk_records_it(telemetry, kind):
    error = EXCEPTIONS[kind]
    with telemetry.tracer.start_as_current_span("reference") as span:
        span.record_exception(error)
    [reference] = telemetry.span_events()
    expected = {
        key: value
        for key, value in attributes_of(reference).items()
        if key in {"exception.type", "exception.message", "exception.stacktrace"} and value
    }
    for attributes in both_ways(telemetry, create_event(error, EventType.ERROR, topic="orders")):
        recorded = {key: value for key, value in attributes.items() if key.startswith("exception.")}
        assert recorded == expected
        assert attributes["event.topic"] == "orders"
        assert not any(key.startswith("event.data") for key in attributes)


def test_the_causes_of_an_exception_are_in_the_stacktrace(telemetry):
    for kind in ("chained", "while handling"):
        for attributes in both_ways(telemetry, create_event(EXCEPTIONS[kind], EventType.ERROR)):
            assert attributes["exception.type"] == f"{__name__}.OrderError"
            assert attributes["exception.message"] == "second"
            assert "KeyError: 'first'" in attributes["exception.stacktrace"]
            assert "OrderError: second" in attributes["exception.stacktrace"]


@pytest.mark.parametrize("error", [BrokenError(), OddError(), raised(BrokenError(), BrokenError())])
def test_an_exception_whose_message_raises_is_recorded_too(telemetry, caplog, error):
    for attributes in both_ways(telemetry, create_event(error, EventType.ERROR)):
        assert attributes["exception.type"] == f"{__name__}.{type(error).__name__}"
        assert type(error).__name__ in attributes["exception.stacktrace"]
        assert isinstance(attributes["exception.message"], str)
    assert caplog.records == []


@pytest.mark.parametrize("message", ["\udcff", "x" * 1_000_000, "a\x00b", "line\nbreak"])
def test_an_exception_with_a_hostile_message_reaches_an_exporter(telemetry, caplog, message):
    for attributes in both_ways(telemetry, create_event(raised(OrderError(message)), EventType.ERROR)):
        assert {"exception.type", "exception.message", "exception.stacktrace"} <= attributes.keys()
        assert all(len(value) < 10_000 for value in attributes.values())
    assert_all_arrives(telemetry)
    assert caplog.records == []


def test_a_long_stacktrace_keeps_its_end(telemetry):
    def dig(depth: int) -> None:
        if depth == 0:
            raise OrderError("at the bottom")
        dig_further(depth)

    def dig_further(depth: int) -> None:
        dig(depth - 1)

    with pytest.raises(OrderError) as caught:
        dig(100)
    for attributes in both_ways(telemetry, create_event(caught.value, EventType.ERROR)):
        assert attributes["exception.stacktrace"].endswith("OrderError: at the bottom\n")


@pytest.mark.parametrize(
    "event",
    [
        create_event(ValueError("no"), topic="orders"),
        create_event("ValueError: no", EventType.ERROR, topic="orders"),
        create_event({"error": ValueError("no")}, EventType.ERROR, topic="orders"),
        create_event(ValueError, EventType.ERROR, topic="orders"),
    ],
)
def test_only_an_error_event_with_an_exception_is_named_exception(telemetry, event):
    record = logged(telemetry, event)
    assert record.event_name == "orders"
    assert not any(key.startswith("exception.") for key in attributes_of(record))


# Stamped events outside of a span


async def stamped_within_a_span(telemetry: Telemetry) -> tuple[Event, trace.SpanContext]:
    stream = InMemoryStream()
    stamp_trace_context(stream)
    with collect(stream) as events, telemetry.tracer.start_as_current_span("origin") as span:
        await stream.publish(Event(data={"order": 42}, metadata={"topic": "orders"}, timestamp=NOON))
    telemetry.clear()
    return events[0], span.get_span_context()


@pytest.mark.parametrize("mode", ["log_event", "both", "auto"])
@in_time
async def test_the_log_record_of_a_stamped_event_belongs_to_its_trace(telemetry, mode):
    event, origin = await stamped_within_a_span(telemetry)
    numbers = await reported(OpenTelemetrySink(mode, logger_provider=telemetry.logging), event)
    [record] = telemetry.logs
    assert (record.trace_id, record.span_id) == (origin.trace_id, origin.span_id)
    assert record.trace_flags == origin.trace_flags
    assert numbers == (1, {})


@pytest.mark.parametrize("mode", ["span_event", "auto"])
@in_time
async def test_a_stamped_event_has_a_span_without_duration_in_its_trace(telemetry, mode):
    event, origin = await stamped_within_a_span(telemetry)
    numbers = await reported(OpenTelemetrySink(mode, telemetry.tracing), event)
    [span] = telemetry.spans
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == (origin.trace_id, origin.span_id)
    assert span.context is not None
    assert span.context.trace_id == origin.trace_id
    assert (span.name, span.start_time, span.end_time) == ("orders", NOON_NS, NOON_NS)
    [span_event] = span.events
    assert (span_event.name, span_event.timestamp) == ("orders", NOON_NS)
    assert attributes_of(span_event)["event.data.order"] == 42
    assert numbers == (1, {})


@pytest.mark.parametrize("mode", ["span_event", "auto"])
@in_time
async def test_without_a_tracer_provider_a_stamped_event_has_no_span(telemetry, mode):
    event, _ = await stamped_within_a_span(telemetry)
    assert await reported(OpenTelemetrySink(mode), event) == (0, {"no_span": 1})
    assert telemetry.spans == ()


@in_time
async def test_an_event_without_a_stamp_has_no_span(telemetry):
    sink = OpenTelemetrySink("span_event", telemetry.tracing)
    assert await reported(sink, create_event(1)) == (0, {"no_span": 1})
    assert telemetry.spans == ()


@pytest.mark.parametrize("mode", ["span_event", "log_event", "both", "auto"])
def test_the_current_span_takes_precedence_over_the_stamp(telemetry, mode):
    sink = OpenTelemetrySink(mode, telemetry.tracing, telemetry.logging)
    with telemetry.tracer.start_as_current_span("here") as here:
        sink.emit(create_event(1, **STAMP))
    [span] = telemetry.spans
    assert span.name == "here"
    assert [record.span_id for record in telemetry.logs] == (
        [here.get_span_context().span_id] if mode in {"log_event", "both"} else []
    )


@pytest.mark.parametrize("mode", ["span_event", "log_event", "both", "auto"])
def test_an_ended_current_span_takes_precedence_over_the_stamp_too(telemetry, mode):
    over = telemetry.tracer.start_span("over")
    over.end()
    sink = OpenTelemetrySink(mode, telemetry.tracing, telemetry.logging)
    with trace.use_span(over):
        if mode == "span_event":
            with pytest.raises(DroppedError, match="no_span"):
                sink.emit(create_event(1, **STAMP))
        else:
            sink.emit(create_event(1, **STAMP))
    assert [span.name for span in telemetry.spans] == ["over"]
    assert telemetry.span_events() == []
    assert {record.span_id for record in telemetry.logs} <= {over.get_span_context().span_id}


def test_the_trace_state_is_passed_on(telemetry):
    event = create_event(1, **STAMP, tracestate="vendor=1,other=2")
    OpenTelemetrySink("span_event", telemetry.tracing).emit(event)
    [span] = telemetry.spans
    assert span.context is not None
    assert span.context.trace_state.to_header() == "vendor=1,other=2"


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 255))
@settings(deadline=None)
def test_any_stamp_is_read_back(shared, trace_id, span_id, flags):
    written: dict[str, Any] = {}
    context = trace.SpanContext(trace_id, span_id, is_remote=False, trace_flags=trace.TraceFlags(flags))
    TraceContextTextMapPropagator().inject(
        written, trace.set_span_in_context(trace.NonRecordingSpan(context))
    )
    record = logged(shared, create_event(1, **written))
    assert (record.trace_id, record.span_id, record.trace_flags) == (trace_id, span_id, flags)


GARBAGE = [
    "",
    "garbage",
    "00-0-0-01",
    f"00-{0:032x}-{SPAN_ID:016x}-01",
    f"00-{TRACE_ID:032x}-{0:016x}-01",
    f"ff-{TRACE_ID:032x}-{SPAN_ID:016x}-01",
    f"00-{TRACE_ID:032X}-{SPAN_ID:016x}-01",
    "\udcff",
    None,
    5,
    ["00", "01"],
    object(),
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_malformed_stamp_is_ignored(telemetry, caplog, garbage):
    event = create_event(1, traceparent=garbage)
    with pytest.raises(DroppedError, match="no_span"):
        OpenTelemetrySink("span_event", telemetry.tracing).emit(event)
    record = logged(telemetry, event)
    assert (record.trace_id, record.span_id) == (0, 0)
    assert caplog.records == []


# Without an SDK, and with one that is set up later


def run(code: str) -> Any:
    """Run a program in its own interpreter, and return its output, decoded from JSON."""
    program = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return json.loads(done.stdout)


def test_with_the_api_alone_every_event_is_counted_as_dropped():
    code = """
    import asyncio, json, sys

    class Hide:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[:2] == ["opentelemetry", "sdk"]:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Hide())

    from codomyrmex.integrations import attach
    from codomyrmex.integrations.logging_monitoring import (
        OpenTelemetrySink, stamp_trace_context, trace_publishing,
    )
    from codomyrmex.streaming import EventType, InMemoryStream, create_event
    from opentelemetry import trace

    STAMP = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    MODES = ["span_event", "log_event", "both", "auto"]

    async def main():
        stream = InMemoryStream()
        stamp = stamp_trace_context(stream)
        tracing = trace_publishing(stream)
        handled = []
        await stream.subscribe(handled.append)
        sinks = [OpenTelemetrySink(mode, trace.get_tracer_provider(), name=mode) for mode in MODES]
        async with attach(stream, *sinks) as attachment:
            await stream.publish(create_event({"a": 1}, topic="orders"))
            with trace.get_tracer("test").start_as_current_span("work"):
                await stream.publish(create_event(ValueError("no"), EventType.ERROR, topic="orders"))
        tracing.close()
        stamp.close()
        report = attachment.report().sinks
        assert not any(name.startswith("opentelemetry.sdk") for name in sys.modules)
        return {
            "handled": len(handled),
            "metadata": handled[1].metadata,
            "sinks": {n: [r.delivered, r.given_up, r.dropped] for n, r in report.items()},
        }

    print(json.dumps(asyncio.run(main())))
    """
    assert run(code) == {
        "handled": 2,
        "metadata": {"topic": "orders"},
        "sinks": {
            "span_event": [0, 0, {"no_span": 2}],
            "log_event": [0, 0, {"no_logger_provider": 2}],
            "both": [0, 0, {"no_span": 2}],
            "auto": [0, 0, {"no_span": 2}],
        },
    }


def test_the_global_logger_provider_may_be_set_later():
    code = """
    import json
    from codomyrmex.integrations import DroppedError
    from codomyrmex.integrations.logging_monitoring import OpenTelemetrySink
    from codomyrmex.streaming import create_event
    from opentelemetry._logs import set_logger_provider
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

    sink = OpenTelemetrySink("log_event")
    reasons = []
    try:
        sink.emit(create_event(1, topic="early"))
    except DroppedError as error:
        reasons.append(error.reason)
    provider, exporter = LoggerProvider(), InMemoryLogRecordExporter()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    set_logger_provider(provider)
    sink.emit(create_event(2, topic="late"))
    names = [readable.log_record.event_name for readable in exporter.get_finished_logs()]
    print(json.dumps([reasons, names]))
    """
    assert run(code) == [["no_logger_provider"], ["late"]]


# Payloads that an SDK or an exporter cannot handle


class Unrepresentable:
    def __repr__(self) -> str:
        raise ValueError("no")


class Slippery(dict[str, Any]):
    """Changes while it is being read."""

    def items(self) -> Any:
        raise RuntimeError("dictionary changed size during iteration")


def circle() -> list[Any]:
    inner: list[Any] = [1]
    inner.append({"self": inner})
    return inner


def deep(depth: int) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for _ in range(depth):
        data = {"x": data}
    return data


HOSTILE: dict[str, Any] = {
    "huge integers": {"x": 10**40, "y": [-(10**40)], "z": 2**63, "edges": [2**63 - 1, -(2**63)]},
    "numbers that are none": [float("nan"), float("inf"), float("-inf")],
    "surrogates": {"\udcff": "\ud800", "list": ["\udfff"], "nested": {"\ud800": {"x": "\udcff"}}},
    "sets": {"x": {1, 2}, "y": frozenset({"a"}), "z": set()},
    "times": [datetime(2026, 1, 1, tzinfo=UTC), timedelta(1), date(9999, 12, 31)],
    "nothing": {"x": None, "y": [None, [None, {"z": None}]], "": None, None: None},
    "bytes": {"x": b"\xff\x00", "y": bytearray(b"a"), "z": memoryview(b"a"), b"k": 1},
    "objects": {"x": object(), "y": Unrepresentable(), "z": lambda: None, "c": int, "m": json},
    "library types": [uuid.UUID(int=1), Decimal("1.5"), 1 + 2j, range(3), EventType.ERROR],
    "a generator": (x for x in ()),
    "a circle": circle(),
    "depth": deep(1_000),
    "a slippery mapping": Slippery(a=1),
    "a long text": {"x": "y" * 1_000_000, "k" * 100_000: 1, "list": ["z" * 100_000] * 10},
    "a thousand keys": {str(number): number for number in range(1_000)},
    "a thousand keys below": {"x": {str(number): number for number in range(1_000)}},
    "a thousand items": list(range(1_000)),
    "mixed lists": [1, "a", None, 2.5, True, [1], {"x": 1}],
    "numbers and truth": [True, 1, 0, False],
    "keys of all kinds": {1: 1, 1.5: 2, False: 3, (1, 2): 4, None: 5, "1": 6, "a.b": 7},
    "control characters": {"a\x00b": "c\x1bd\n"},
}


@contextmanager
def nothing_is_logged() -> Iterator[None]:
    """Fail if anything is logged; like `caplog`, but for each example of hypothesis."""
    messages: list[str] = []
    handler = logging.Handler(logging.NOTSET)
    handler.emit = lambda record: messages.append(record.getMessage())
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
    assert messages == []


def assert_all_arrives(telemetry: Telemetry) -> None:
    """Encode like the OTLP exporters, without losing an attribute."""
    spans = encode_spans(telemetry.spans)
    logs = encode_logs(telemetry.readable_logs)
    assert spans.SerializeToString()
    assert logs.SerializeToString()
    [span] = spans.resource_spans[0].scope_spans[0].spans
    [record] = logs.resource_logs[0].scope_logs[0].log_records
    [span_event], [log_record] = telemetry.span_events(), telemetry.logs
    for sent, made in ((span.events[0], span_event), (record, log_record)):
        assert {pair.key for pair in sent.attributes} == set(made.attributes or {})
        assert sent.dropped_attributes_count == 0
        assert len(sent.attributes) <= 128
        assert all(pair.value.WhichOneof("value") is not None for pair in sent.attributes)
    assert span.dropped_events_count == 0


def assert_harmless(telemetry: Telemetry, event: Event) -> None:
    telemetry.clear()
    with nothing_is_logged():
        with telemetry.tracer.start_as_current_span("work"):
            OpenTelemetrySink("both", logger_provider=telemetry.logging).emit(event)
        assert_all_arrives(telemetry)


@pytest.mark.parametrize("where", ["data", "metadata"])
@pytest.mark.parametrize("name", HOSTILE)
def test_no_hostile_payload_makes_the_sdk_or_an_exporter_complain(telemetry, name, where):
    value = HOSTILE[name]
    assert_harmless(telemetry, create_event(value) if where == "data" else create_event(1, value=value))


@pytest.mark.parametrize("where", ["data", "metadata"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_stamped_event_with_a_hostile_payload_gets_its_span(telemetry, name, where):
    value = HOSTILE[name]
    event = create_event(value, **STAMP) if where == "data" else create_event(1, value=value, **STAMP)
    with nothing_is_logged():
        OpenTelemetrySink("span_event", telemetry.tracing).emit(event)
        assert encode_spans(telemetry.spans).SerializeToString()


any_text = st.text(st.characters(), max_size=20)  # with lone surrogates
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, -(2**63) - 1, 10**40])
    | st.floats()
    | any_text
    | st.binary(max_size=20)
    | st.datetimes()
    | st.uuids()
    | st.decimals()
    | st.sets(st.integers() | st.text(max_size=5), max_size=5)
    | st.builds(object)
    | st.builds(Unrepresentable)
)
keys = any_text | st.integers() | st.none() | st.booleans() | st.tuples(st.integers())
payloads = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=6) | st.tuples(inner, inner) | st.dictionaries(keys, inner, max_size=6)
    ),
    max_leaves=30,
)


@given(
    st.dictionaries(keys, payloads, max_size=8) | st.lists(payloads, max_size=8) | st.text() | st.integers(),
    st.dictionaries(any_text, payloads, max_size=4),
    st.sampled_from(EventType),
)
@settings(deadline=None)
def test_no_payload_at_all_makes_the_sdk_or_an_exporter_complain(shared, data, metadata, event_type):
    for reserved in ("traceparent", "tracestate", "event"):
        metadata.pop(reserved, None)
    assert_harmless(shared, Event(data=data, metadata=metadata, type=event_type))


@given(any_text, any_text)
@settings(deadline=None)
def test_no_id_and_no_topic_makes_an_exporter_complain(shared, event_id, topic):
    assert_harmless(shared, Event(id=event_id, metadata={"topic": topic}))
    assert_harmless(shared, Event(id=event_id, metadata={"topic": topic, "event": topic, "x": 1}))
