"""`OpenTelemetrySink` with the real SDK: events on the current span."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from codomyrmex.integrations import DroppedError, InlineSink, attach
from codomyrmex.integrations.logging_monitoring import OpenTelemetrySink
from codomyrmex.streaming import Event, EventType, InMemoryStream, create_event
from helpers import DEADLINE
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import Event as SpanEvent
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Spans:
    """A tracer provider and what it has exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    def events(self) -> dict[str, list[SpanEvent]]:
        return {span.name: list(span.events) for span in self.exporter.get_finished_spans()}


@pytest.fixture
def spans() -> Iterator[Spans]:
    spans = Spans()
    yield spans
    spans.provider.shutdown()


def on_a_span(event: Event) -> SpanEvent:
    spans = Spans()
    with spans.tracer.start_as_current_span("work"):
        OpenTelemetrySink().emit(event)
    [span_event] = spans.events()["work"]
    spans.provider.shutdown()
    return span_event


def attributes_of(event: Event) -> dict[str, Any]:
    attributes = on_a_span(event).attributes
    assert attributes is not None
    return dict(attributes)


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int


class Unrepresentable:
    def __repr__(self) -> str:
        raise ValueError("no")


# The event on the span


def test_an_event_becomes_an_event_of_the_current_span():
    event = create_event({"order": 42, "paid": True}, EventType.ERROR, topic="orders.failed", tenant="blue")
    span_event = on_a_span(event)
    assert span_event.name == "orders.failed"
    assert dict(span_event.attributes or {}) == {
        "event.id": event.id,
        "event.type": "error",
        "event.topic": "orders.failed",
        "event.data.order": 42,
        "event.data.paid": True,
        "event.metadata.topic": "orders.failed",
        "event.metadata.tenant": "blue",
    }


@given(
    st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1)),  # noqa: DTZ001 - naive is UTC
)
def test_the_time_is_the_events_own_to_the_microsecond(moment):
    event = Event(timestamp=moment)
    expected = (moment.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1) * 1_000
    assert on_a_span(event).timestamp == expected


@pytest.mark.parametrize("microsecond", [1, 7, 111_113, 999_999])
def test_no_microsecond_of_today_is_lost(microsecond):
    moment = datetime(2026, 11, 24, 12, 0, 0, microsecond, tzinfo=UTC)
    assert on_a_span(Event(timestamp=moment)).timestamp % 10**9 == microsecond * 1_000


def test_nested_data_is_flattened_with_dots():
    attributes = attributes_of(create_event({"a": {"b": {"c": 1}}, "d": "x"}))
    assert attributes["event.data.a.b.c"] == 1
    assert attributes["event.data.d"] == "x"


@pytest.mark.parametrize(
    ("data", "value"), [("text", "text"), (1, 1), (1.5, 1.5), (False, False), (0, 0), ("", "")]
)
def test_data_other_than_a_mapping_is_one_attribute(data, value):
    attributes = attributes_of(create_event(data))
    assert attributes["event.data"] == value
    assert type(attributes["event.data"]) is type(value)


def test_without_data_there_is_no_attribute():
    attributes = attributes_of(create_event(None))
    assert not any(key.startswith("event.data") for key in attributes)
    assert "event.topic" not in attributes


def test_the_event_is_not_changed():
    data = {"a": {"b": [1, 2]}}
    event = create_event(data)
    before = event.to_dict()
    on_a_span(event)
    assert event.to_dict() == before
    assert event.data is data


# Values that no backend accepts


def circle() -> dict[str, Any]:
    inner: dict[str, Any] = {}
    inner["self"] = inner
    return inner


def deep() -> dict[str, Any]:
    data: dict[str, Any] = {}
    for _ in range(200):
        data = {"x": data}
    return data


HOSTILE: dict[str, Any] = {
    "set": {1, 2},
    "datetime": datetime(2026, 1, 1, tzinfo=UTC),
    "uuid": uuid.UUID(int=1),
    "decimal": Decimal("1.5"),
    "enum": Colour.RED,
    "bytes": b"\xff",
    "dataclass": Point(1),
    "list": [1, "a", None, [2]],
    "mixed keys": {1: "a", None: "b", "": "c", ("a",): "d"},
    "none": {"x": None},
    "nan": {"x": float("nan"), "y": float("inf")},
    "big": {"x": 2**63, "y": -(2**63) - 1, "z": 10**40},
    "largest": {"x": 2**63 - 1, "y": -(2**63)},
    "surrogate": {"x": "\udcff", "\udcff": 1},
    "object": object(),
    "no repr": Unrepresentable(),
    "generator": (x for x in ()),
    "circle": circle(),
    "deep": deep(),
    "many": {str(number): number for number in range(500)},
}


def is_safe(value: Any) -> bool:
    """Return whether OTLP can carry a value."""
    if isinstance(value, str):
        value.encode()  # raises for a lone surrogate
        return True
    if isinstance(value, tuple):  # of one type, as SDKs before 1.45 require
        return len({type(item) for item in value}) <= 1 and all(map(is_safe, value))
    return isinstance(value, (bool, float)) or (isinstance(value, int) and -(2**63) <= value < 2**63)


@pytest.mark.parametrize("where", ["data", "metadata"])
@pytest.mark.parametrize("name", HOSTILE)
def test_the_sdk_logs_no_warning(name, where, caplog):
    value = HOSTILE[name]
    event = create_event(value) if where == "data" else create_event(None, value=value)
    attributes = attributes_of(event)
    assert all(key and is_safe(key) and is_safe(value) for key, value in attributes.items())
    assert len(attributes) <= 128
    assert attributes["event.id"] == event.id
    assert caplog.records == []


@pytest.mark.parametrize("field", ["id", "topic", "event"])
def test_a_lone_surrogate_never_reaches_an_exporter(field):
    text = "a\udcffb"
    event = Event(id=text) if field == "id" else Event(metadata={field: text})
    span_event = on_a_span(event)
    assert is_safe(span_event.name)
    assert all(is_safe(value) for value in (span_event.attributes or {}).values())


def test_a_name_is_shortened_and_its_control_characters_are_escaped():
    name = on_a_span(create_event(None, event="a\n\x1b[31m" + "x" * 10_000)).name
    assert name.isprintable()
    assert len(name) <= 200


# Which span


async def publish(stream: InMemoryStream, *events: Event) -> None:
    for event in events:
        await stream.publish(event)


async def test_concurrent_publishers_have_their_events_on_their_own_spans(spans):
    stream = InMemoryStream()

    async def request(number: int) -> None:
        with spans.tracer.start_as_current_span(f"request {number}"):
            await asyncio.sleep(0)
            await stream.publish(create_event(number))
            await asyncio.sleep(0)

    async with asyncio.timeout(DEADLINE), attach(stream, OpenTelemetrySink()):
        await asyncio.gather(*(request(number) for number in range(5)))
    assert {
        name: [(e.attributes or {})["event.data"] for e in events] for name, events in spans.events().items()
    } == {f"request {number}": [number] for number in range(5)}


async def test_the_event_is_on_the_inner_span(spans):
    stream, sink = InMemoryStream(), OpenTelemetrySink()
    async with asyncio.timeout(DEADLINE), attach(stream, sink):
        with spans.tracer.start_as_current_span("outer"):
            with spans.tracer.start_as_current_span("inner"):
                await stream.publish(create_event(1))
            await stream.publish(create_event(2))
    numbers = {name: len(events) for name, events in spans.events().items()}
    assert numbers == {"inner": 1, "outer": 1}


async def test_a_context_copied_to_a_thread_keeps_its_span(spans):
    stream = InMemoryStream()
    async with asyncio.timeout(DEADLINE), attach(stream, OpenTelemetrySink()):
        with spans.tracer.start_as_current_span("work"):
            await asyncio.to_thread(stream.publish_nowait, create_event(1))
    assert len(spans.events()["work"]) == 1


async def test_without_a_recording_span_the_event_is_counted_as_dropped(caplog):
    stream, sink = InMemoryStream(), OpenTelemetrySink()
    async with asyncio.timeout(DEADLINE), attach(stream, sink) as attachment:
        await publish(stream, create_event(1), create_event(2))
    assert attachment.report().sinks[sink.name].dropped == {"no_span": 2}
    assert caplog.records == []


async def test_a_dropped_event_is_not_reported_as_delivered():
    stream, sink = InMemoryStream(), OpenTelemetrySink(name="traces without spans")
    async with asyncio.timeout(DEADLINE), attach(stream, sink) as attachment:
        await stream.publish(create_event(1))
    report = attachment.report().sinks[sink.name]
    assert report.delivered == 0
    assert sum(report.dropped.values()) + report.given_up == 1


def test_an_ended_span_receives_no_event_and_logs_no_warning(spans, caplog):
    sink = OpenTelemetrySink()
    span = spans.tracer.start_span("over")
    span.end()
    with trace.use_span(span), pytest.raises(DroppedError, match="no_span"):
        sink.emit(create_event(1))
    assert spans.events() == {"over": []}
    assert caplog.records == []


def test_a_span_that_is_not_sampled_receives_no_event():
    sink = OpenTelemetrySink()
    context = trace.SpanContext(1, 1, is_remote=False, trace_flags=trace.TraceFlags(0))
    with trace.use_span(trace.NonRecordingSpan(context)), pytest.raises(DroppedError, match="no_span"):
        sink.emit(create_event(1))


def test_it_is_an_inline_sink_whose_name_can_be_chosen():
    assert isinstance(OpenTelemetrySink(), InlineSink)
    assert OpenTelemetrySink().name == "opentelemetry"
    assert OpenTelemetrySink(name="traces").name == "traces"
