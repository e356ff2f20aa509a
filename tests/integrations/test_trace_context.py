"""`stamp_trace_context` and `trace_publishing` with the real SDK: events carry traces, and make spans."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from codomyrmex.integrations import InlineSink, Sink, attach
from codomyrmex.integrations.logging_monitoring import (
    OpenTelemetrySink,
    StructlogSink,
    stamp_trace_context,
    trace_publishing,
)
from codomyrmex.streaming import (
    Event,
    InMemoryStream,
    SSEStream,
    StreamClosedError,
    StreamProcessor,
    TopicStream,
    create_event,
)
from codomyrmex.streaming.testing import collect
from helpers import DEADLINE, in_time, settle
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode, TraceState
from structlog.testing import capture_logs

STREAMS = pytest.mark.parametrize("make_stream", [InMemoryStream, TopicStream, SSEStream])
TRACE_ID, SPAN_ID = 0xA1B2C3D4E5F60718293A4B5C6D7E8F90, 0x1122334455667788
EARLIER = f"00-{TRACE_ID:032x}-{SPAN_ID:016x}-01"


class Spans:
    """A provider of its own, and what it has exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    def of(self, kind: SpanKind) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.kind is kind]

    @property
    def producers(self) -> list[ReadableSpan]:
        return self.of(SpanKind.PRODUCER)

    @property
    def consumers(self) -> list[ReadableSpan]:
        return self.of(SpanKind.CONSUMER)


@pytest.fixture
def spans() -> Iterator[Spans]:
    made = Spans()
    yield made
    made.provider.shutdown()


def traceparent(span: trace.Span | ReadableSpan) -> str:
    found = span.get_span_context()
    assert found is not None
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


def carried(event: Event) -> trace.SpanContext:
    """Give what a consumer reads out of an event, by the propagator that applications use."""
    return trace.get_current_span(propagate.extract(event.metadata)).get_span_context()


def is_linked(consumer: ReadableSpan, producer: ReadableSpan) -> bool:
    assert producer.context is not None
    return [(link.context.trace_id, link.context.span_id) for link in consumer.links] == [
        (producer.context.trace_id, producer.context.span_id)
    ]


# Stamps


@STREAMS
@in_time
async def test_an_event_that_is_published_within_a_span_is_stamped_with_it(spans, make_stream):
    stream = make_stream()
    stamp_trace_context(stream)
    event = create_event({"a": 1}, topic="orders")
    with collect(stream) as events:
        with spans.tracer.start_as_current_span("one") as one:
            await stream.publish(event)
        with spans.tracer.start_as_current_span("two") as two:
            stream.publish_nowait(event)
    assert [e.metadata for e in events] == [
        {"topic": "orders", "traceparent": traceparent(one)},
        {"topic": "orders", "traceparent": traceparent(two)},
    ]
    assert carried(events[0]).trace_id == one.get_span_context().trace_id


@in_time
async def test_the_event_itself_is_not_changed(spans):
    stream = InMemoryStream()
    stamp_trace_context(stream)
    event = create_event({"a": 1}, topic="orders")
    before, metadata = event.to_dict(), event.metadata
    with collect(stream) as events, spans.tracer.start_as_current_span("work"):
        await stream.publish(event)
    assert event.to_dict() == before
    assert event.metadata is metadata
    [stamped] = events
    assert stamped is not event
    assert stamped.data is event.data
    assert (stamped.id, stamped.timestamp, stamped.type) == (event.id, event.timestamp, event.type)


@in_time
async def test_outside_of_a_span_an_event_is_passed_on_as_it_is():
    stream = InMemoryStream()
    stamp_trace_context(stream, baggage=True)
    event = create_event(1, topic="orders")
    token = context.attach(baggage.set_baggage("tenant", "blue"))
    try:
        with collect(stream) as events:
            await stream.publish(event)
            stream.publish_nowait(event)
    finally:
        context.detach(token)
    assert all(passed is event for passed in events)
    assert len(events) == 2


@pytest.mark.parametrize("earlier", [EARLIER, "", None, "garbage"])
@in_time
async def test_an_event_that_has_a_stamp_keeps_it(spans, earlier):
    stream = InMemoryStream()
    stamp_trace_context(stream, baggage=True)
    event = create_event(1, traceparent=earlier)
    with collect(stream) as events, spans.tracer.start_as_current_span("work"):
        await stream.publish(event)
    assert events[0] is event


@in_time
async def test_an_event_that_goes_on_through_other_streams_keeps_its_first_stamp(spans):
    first, second = InMemoryStream(), InMemoryStream()
    for stream in (first, second):
        stamp_trace_context(stream)
    await first.subscribe(second.publish)
    with collect(second) as events, spans.tracer.start_as_current_span("origin") as origin:
        await first.publish(create_event(1))
    with collect(second) as again, spans.tracer.start_as_current_span("later"):
        await second.publish(events[0])
    assert again[0].metadata == events[0].metadata == {"traceparent": traceparent(origin)}


@in_time
async def test_a_span_that_is_over_or_not_sampled_is_stamped_all_the_same(spans):
    stream = InMemoryStream()
    stamp_trace_context(stream)
    over = spans.tracer.start_span("over")
    over.end()
    unsampled = TracerProvider(ALWAYS_OFF, shutdown_on_exit=False).get_tracer("test").start_span("unsampled")
    with collect(stream) as events:
        for span in (over, unsampled):
            with trace.use_span(span):
                await stream.publish(create_event(1))
    assert [event.metadata["traceparent"] for event in events] == [traceparent(over), traceparent(unsampled)]
    assert not carried(events[1]).trace_flags.sampled


def within(trace_state: str = "") -> trace.Span:
    found = trace.SpanContext(
        TRACE_ID,
        SPAN_ID,
        is_remote=True,
        trace_flags=trace.TraceFlags(1),
        trace_state=TraceState.from_header([trace_state]) if trace_state else None,
    )
    return trace.NonRecordingSpan(found)


@in_time
async def test_what_vendors_have_added_is_stamped_too():
    stream = InMemoryStream()
    stamp_trace_context(stream)
    with collect(stream) as events:
        with trace.use_span(within("vendor=1,other=2")):
            await stream.publish(create_event(1))
        with trace.use_span(within()):
            await stream.publish(create_event(2))
    assert events[0].metadata == {"traceparent": EARLIER, "tracestate": "vendor=1,other=2"}
    assert events[1].metadata == {"traceparent": EARLIER}
    assert carried(events[0]).trace_state.to_header() == "vendor=1,other=2"


@pytest.mark.parametrize("asked", [False, True])
@in_time
async def test_baggage_goes_along_only_if_asked_for(asked):
    stream = InMemoryStream()
    stamp_trace_context(stream, baggage=asked)
    with collect(stream) as events, trace.use_span(within()):
        await stream.publish(create_event(1))
        token = context.attach(baggage.set_baggage("tenant", "blue & green"))
        try:
            await stream.publish(create_event(2))
        finally:
            context.detach(token)
    without, with_baggage = events
    assert "baggage" not in without.metadata
    assert ("baggage" in with_baggage.metadata) == asked
    assert baggage.get_all(propagate.extract(with_baggage.metadata)) == (
        {"tenant": "blue & green"} if asked else {}
    )


@in_time
async def test_what_it_returns_takes_it_off_again():
    stream = InMemoryStream()
    stamp = stamp_trace_context(stream)
    event = create_event(1)
    with collect(stream) as events, trace.use_span(within()):
        assert stream.remove_interceptor(stamp)
        assert not stream.remove_interceptor(stamp)
        await stream.publish(event)
    assert events[0] is event


@in_time
async def test_other_streams_are_not_stamped():
    stream, other = InMemoryStream(), InMemoryStream()
    stamp_trace_context(stream)
    with collect(other) as events, trace.use_span(within()):
        await other.publish(create_event(1))
    assert events[0].metadata == {}


@given(
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.integers(0, 255),
    st.dictionaries(st.text().filter(lambda key: key not in {"traceparent", "tracestate"}), st.integers()),
)
@settings(deadline=None)
def test_any_context_survives_the_way_and_nothing_else_is_touched(trace_id, span_id, flags, metadata):
    stream = InMemoryStream()
    stamp_trace_context(stream)
    sent = trace.SpanContext(trace_id, span_id, is_remote=False, trace_flags=trace.TraceFlags(flags))
    with collect(stream) as events, trace.use_span(trace.NonRecordingSpan(sent)):
        stream.publish_nowait(Event(metadata=metadata))
    [event] = events
    read = carried(event)
    assert (read.trace_id, read.span_id, read.trace_flags) == (trace_id, span_id, flags)
    assert {key: value for key, value in event.metadata.items() if key != "traceparent"} == metadata


async def read_in_another_thread(
    stream: InMemoryStream, read: Callable[[threading.Event], Any], publish: Callable[[], None]
) -> Any:
    """Run a reader on a loop in a thread of its own, and publish once it is ready."""
    ready, results = threading.Event(), []
    thread = threading.Thread(target=lambda: results.append(asyncio.run(read(ready))), daemon=True)
    thread.start()
    assert await asyncio.to_thread(ready.wait, DEADLINE)
    publish()
    await asyncio.to_thread(thread.join, DEADLINE)
    [result] = results
    return result


@in_time
async def test_a_listener_on_another_threads_loop_can_tell_the_trace(spans):
    stream = InMemoryStream()
    stamp_trace_context(stream)

    async def read(ready: threading.Event) -> tuple[bool, trace.SpanContext]:
        async with stream.listen() as events:
            ready.set()
            async for event in events:
                here = trace.get_current_span().get_span_context()
                return here.is_valid, carried(event)
        raise AssertionError("the stream has ended")

    with spans.tracer.start_as_current_span("work") as work:
        seen = await read_in_another_thread(stream, read, lambda: stream.publish_nowait(create_event(1)))
    span_is_current, read_context = seen
    assert not span_is_current  # so it is the event that tells
    assert read_context.is_remote
    assert (read_context.trace_id, read_context.span_id) == (
        work.get_span_context().trace_id,
        work.get_span_context().span_id,
    )


@in_time
async def test_an_async_handler_on_another_threads_loop_can_go_on_with_the_trace(spans):
    stream = InMemoryStream()
    stamp_trace_context(stream)

    async def read(ready: threading.Event) -> None:
        done = asyncio.get_running_loop().create_future()

        async def handle(event: Event) -> None:
            with spans.tracer.start_as_current_span("elsewhere", propagate.extract(event.metadata)):
                await asyncio.sleep(0)
            done.set_result(None)

        await stream.subscribe(handle)
        ready.set()
        await done

    with spans.tracer.start_as_current_span("work") as work:
        await read_in_another_thread(stream, read, lambda: stream.publish_nowait(create_event(1)))
    [elsewhere] = [span for span in spans.exporter.get_finished_spans() if span.name == "elsewhere"]
    assert elsewhere.parent is not None
    assert elsewhere.parent.span_id == work.get_span_context().span_id
    assert elsewhere.parent.trace_id == work.get_span_context().trace_id


@in_time
async def test_the_log_line_of_a_stamped_event_shows_the_ids_of_its_trace(spans):
    stream = InMemoryStream()
    stamp_trace_context(stream)
    with capture_logs() as lines:
        async with attach(stream, StructlogSink()):
            with spans.tracer.start_as_current_span("work") as work:
                await stream.publish(create_event({"a": 1}, topic="orders"))
            await stream.publish(create_event({"a": 2}, topic="orders"))
    stamped, plain = lines
    found = work.get_span_context()
    assert stamped["trace_id"] == f"{found.trace_id:032x}"
    assert stamped["span_id"] == f"{found.span_id:016x}"
    assert stamped["event"] == "orders"
    assert "trace_id" not in plain
    assert "span_id" not in plain


@pytest.mark.parametrize(
    "garbage", ["", "garbage", "00-1-2-01", f"00-{'g' * 32}-{'g' * 16}-01", None, 5, ["00"], "\udcff"]
)
def test_a_log_line_shows_no_ids_where_the_stamp_is_garbage(garbage):
    with capture_logs() as lines:
        StructlogSink().emit(create_event(1, traceparent=garbage))
    [line] = lines
    assert "trace_id" not in line
    assert "span_id" not in line


# Spans around publishing


async def publish_waiting(stream: Any, event: Event) -> None:
    await stream.publish(event)


async def publish_not_waiting(stream: Any, event: Event) -> None:
    stream.publish_nowait(event)
    await settle()


WAYS = pytest.mark.parametrize("publish", [publish_waiting, publish_not_waiting])


@STREAMS
@WAYS
@in_time
async def test_publishing_is_a_producer_span_by_the_conventions(spans, make_stream, publish):
    stream = make_stream()
    trace_publishing(stream, spans.provider)
    event = create_event({"a": 1}, topic="orders.created")
    await publish(stream, event)
    [span] = spans.exporter.get_finished_spans()
    assert (span.name, span.kind, span.status.status_code) == (
        "publish orders.created",
        SpanKind.PRODUCER,
        StatusCode.UNSET,
    )
    assert {
        "messaging.system": "codomyrmex",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders.created",
        "messaging.message.id": event.id,
    }.items() <= dict(span.attributes or {}).items()
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "codomyrmex.streaming"


@STREAMS
@WAYS
@in_time
async def test_handling_is_a_consumer_span_by_the_conventions_with_a_link_to_the_producer(
    spans, make_stream, publish
):
    stream = make_stream()
    trace_publishing(stream, spans.provider)
    handled: list[Event] = []

    async def handle(event: Event) -> None:
        await asyncio.sleep(0)
        handled.append(event)

    stream.subscribe_nowait(handled.append)
    stream.subscribe_nowait(handle)
    event = create_event({"a": 1}, topic="orders.created")
    await publish(stream, event)
    [producer] = spans.producers
    assert len(spans.consumers) == 2
    for span in spans.consumers:
        assert (span.name, span.status.status_code) == ("process orders.created", StatusCode.UNSET)
        assert {
            "messaging.system": "codomyrmex",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": "orders.created",
            "messaging.message.id": event.id,
        }.items() <= dict(span.attributes or {}).items()
        assert is_linked(span, producer)
    assert [e.metadata["traceparent"] for e in handled] == [traceparent(producer)] * 2
    assert event.metadata == {"topic": "orders.created"}


@in_time
async def test_both_ways_of_naming_the_topic_are_the_same_to_it(spans):
    stream = TopicStream()
    trace_publishing(stream, spans.provider)
    await stream.subscribe("orders.*", lambda event: None)
    await stream.publish("orders.a", create_event(1))
    await stream.publish(topic="orders.b", event=create_event(2))
    stream.publish_nowait("orders.c", create_event(3))
    await stream.publish("orders.d", create_event(4, topic="elsewhere"))
    assert [span.name for span in spans.producers] == [f"publish orders.{letter}" for letter in "abcd"]
    assert [span.name for span in spans.consumers] == [f"process orders.{letter}" for letter in "abcd"]


@WAYS
@in_time
async def test_within_a_handler_its_consumer_span_is_the_current_one(spans, publish):
    stream = InMemoryStream()
    trace_publishing(stream, spans.provider)

    def handle(event: Event) -> None:
        with spans.tracer.start_as_current_span("plain work"):
            pass

    async def handle_async(event: Event) -> None:
        await asyncio.sleep(0)
        with spans.tracer.start_as_current_span("async work"):
            await asyncio.sleep(0)

    stream.subscribe_nowait(handle)
    stream.subscribe_nowait(handle_async)
    await publish(stream, create_event(1))
    work = {span.name: span for span in spans.of(SpanKind.INTERNAL)}
    consumers = {span.context.span_id for span in spans.consumers if span.context is not None}
    parents = {span.parent.span_id for span in work.values() if span.parent is not None}
    assert set(work) == {"plain work", "async work"}
    assert parents == consumers


@WAYS
@in_time
async def test_the_publishers_own_span_is_the_parent_and_current_again_afterwards(spans, publish):
    stream = InMemoryStream()
    trace_publishing(stream, spans.provider)
    stream.subscribe_nowait(lambda event: None)
    with spans.tracer.start_as_current_span("request") as request:
        await publish(stream, create_event(1))
        assert trace.get_current_span() is request
    await publish(stream, create_event(2))
    assert not trace.get_current_span().get_span_context().is_valid
    inside, outside = spans.producers
    assert inside.parent is not None
    assert inside.parent.span_id == request.get_span_context().span_id
    assert outside.parent is None


@in_time
async def test_concurrent_publishers_have_spans_of_their_own(spans):
    stream = InMemoryStream()
    trace_publishing(stream, spans.provider)

    async def handle(event: Event) -> None:
        for _ in range(event.data):
            await asyncio.sleep(0)

    stream.subscribe_nowait(handle)
    events = [create_event(number) for number in (5, 3, 1, 4, 2)]
    await asyncio.gather(*(stream.publish(event) for event in events))
    by_id = {(span.attributes or {})["messaging.message.id"]: span for span in spans.producers}
    assert set(by_id) == {event.id for event in events}
    assert len(spans.consumers) == 5
    for consumer in spans.consumers:
        assert is_linked(consumer, by_id[(consumer.attributes or {})["messaging.message.id"]])


@in_time
async def test_events_that_wait_for_an_async_handler_keep_their_own_links(spans):
    stream = InMemoryStream()
    trace_publishing(stream, spans.provider)
    go = asyncio.Event()
    order: list[int] = []

    async def handle(event: Event) -> None:
        await go.wait()
        order.append(event.data)

    stream.subscribe_nowait(handle)
    for number in range(5):
        with spans.tracer.start_as_current_span(f"request {number}"):
            stream.publish_nowait(create_event(number))
    await settle()
    assert (len(spans.producers), len(spans.consumers)) == (5, 0)
    go.set()
    await stream.aclose()
    assert order == list(range(5))
    for producer, consumer in zip(spans.producers, spans.consumers, strict=True):
        assert is_linked(consumer, producer)


@in_time
async def test_a_handler_on_another_threads_loop_is_linked_too(spans):
    stream = InMemoryStream()
    trace_publishing(stream, spans.provider)

    async def read(ready: threading.Event) -> int:
        done = asyncio.get_running_loop().create_future()

        async def handle(event: Event) -> None:
            await asyncio.sleep(0)
            done.set_result(trace.get_current_span().get_span_context().span_id)

        await stream.subscribe(handle)
        ready.set()
        span_id = await done
        await settle()
        return span_id

    span_id = await read_in_another_thread(stream, read, lambda: stream.publish_nowait(create_event(1)))
    [producer], [consumer] = spans.producers, spans.consumers
    assert is_linked(consumer, producer)
    assert consumer.context is not None
    assert consumer.context.span_id == span_id


# What fails


@WAYS
@pytest.mark.parametrize("is_async", [False, True])
@in_time
async def test_what_a_handler_raises_is_on_its_span_and_nobody_elses(spans, publish, is_async):
    told: list[Exception] = []
    stream = InMemoryStream(on_error=lambda error, event, subscription: told.append(error))
    trace_publishing(stream, spans.provider)
    mistake = ValueError("no such order")

    def fail(event: Event) -> None:
        raise mistake

    async def fail_async(event: Event) -> None:
        await asyncio.sleep(0)
        raise mistake

    stream.subscribe_nowait(fail_async if is_async else fail)
    stream.subscribe_nowait(lambda event: None)
    await publish(stream, create_event(1))
    [producer] = spans.producers
    failed = [span for span in spans.consumers if span.status.status_code is StatusCode.ERROR]
    assert len(spans.consumers) == 2
    assert [span.status.description for span in failed] == ["ValueError: no such order"]
    assert [event.name for event in failed[0].events] == ["exception"]
    assert (producer.status.status_code, producer.events) == (StatusCode.UNSET, ())
    assert told == [mistake]
    assert stream.statistics().handler_errors == 1


@WAYS
@in_time
async def test_what_publishing_raises_is_on_the_producer_span_and_reaches_the_publisher(spans, publish):
    stream = InMemoryStream()
    trace_publishing(stream, spans.provider)
    await stream.aclose()
    with pytest.raises(StreamClosedError):
        await publish(stream, create_event(1))
    [producer] = spans.producers
    assert producer.status.status_code is StatusCode.ERROR


@in_time
async def test_a_publisher_that_is_cancelled_ends_its_spans(spans):
    stream = InMemoryStream()
    trace_publishing(stream, spans.provider)

    async def never(event: Event) -> None:
        await asyncio.get_running_loop().create_future()

    stream.subscribe_nowait(never)
    publishing = asyncio.create_task(stream.publish(create_event(1)))
    await settle()
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    assert (len(spans.producers), len(spans.consumers)) == (1, 1)


@pytest.mark.parametrize(
    "garbage", ["", "garbage", f"ff-{TRACE_ID:032x}-{SPAN_ID:016x}-01", None, 5, ["00"], object(), "\udcff"]
)
@WAYS
@in_time
async def test_garbage_in_place_of_a_stamp_does_no_harm(spans, caplog, publish, garbage):
    stream = InMemoryStream()
    trace_publishing(stream, spans.provider)
    handled: list[Event] = []
    stream.subscribe_nowait(handled.append)
    await publish(stream, create_event(1, traceparent=garbage))
    [producer], [consumer] = spans.producers, spans.consumers
    assert is_linked(consumer, producer)
    assert handled[0].metadata["traceparent"] == traceparent(producer)
    assert caplog.records == []


@in_time
async def test_spans_that_are_not_sampled_do_no_harm():
    provider = TracerProvider(ALWAYS_OFF, shutdown_on_exit=False)
    stream = InMemoryStream()
    trace_publishing(stream, provider)
    handled: list[Event] = []
    stream.subscribe_nowait(handled.append)
    await stream.publish(create_event(1))
    assert carried(handled[0]).is_valid
    assert not carried(handled[0]).trace_flags.sampled


# Who gets none, and the end


@STREAMS
@in_time
async def test_sinks_and_listeners_get_no_consumer_span(spans, make_stream):
    class Keep(InlineSink):
        name = "inline"

        def emit(self, event: Event) -> None:
            kept.append(event.data)

    async def send(events: Any) -> None:
        kept.extend(event.data for event in events)

    kept: list[int] = []
    stream = make_stream()
    trace_publishing(stream, spans.provider)
    async with attach(stream, Keep(), Sink.from_function(send, name="queued")), stream.listen() as heard:
        await stream.publish(create_event(1, topic="orders"))
        assert (await anext(heard)).data == 1
    assert kept == [1, 1]
    assert (len(spans.producers), len(spans.consumers)) == (1, 0)


@in_time
async def test_a_sink_for_span_events_has_the_producer_span(spans):
    stream = InMemoryStream()
    trace_publishing(stream, spans.provider)
    async with attach(stream, OpenTelemetrySink("span_event")) as attachment:
        await stream.publish(create_event(1, topic="orders"))
    [producer] = spans.producers
    assert [event.name for event in producer.events] == ["orders"]
    assert attachment.report().sinks["opentelemetry"].delivered == 1


@STREAMS
@in_time
async def test_nobody_is_traced_who_has_not_asked_for_it(spans, make_stream):
    stream, other = make_stream(), make_stream()
    trace_publishing(stream, spans.provider)
    event = create_event(1, topic="orders")
    with collect(other) as events:
        await other.publish(event)
        other.publish_nowait(event)
    assert all(passed is event for passed in events)
    assert len(events) == 2
    assert spans.exporter.get_finished_spans() == ()


@in_time
async def test_two_streams_with_one_publishing_to_the_other_make_one_trace(spans):
    first, second = InMemoryStream(), InMemoryStream()
    for stream in (first, second):
        trace_publishing(stream, spans.provider)

    async def forward(event: Event) -> None:
        await second.publish(create_event(2, topic="second"))

    first.subscribe_nowait(forward)
    second.subscribe_nowait(lambda event: None)
    await first.publish(create_event(1, topic="first"))
    made = {span.name: span for span in spans.exporter.get_finished_spans()}
    assert set(made) == {"process first", "process second", "publish first", "publish second"}
    assert len({span.context.trace_id for span in made.values() if span.context}) == 1
    assert made["publish second"].parent == made["process first"].context
    assert is_linked(made["process second"], made["publish second"])


@in_time
async def test_what_a_processor_publishes_is_traced_if_it_is_built_afterwards(spans):
    source, target = InMemoryStream(), InMemoryStream()
    trace_publishing(target, spans.provider)
    processor = StreamProcessor(source).sink(target)
    await processor.start()
    with collect(target) as events:
        await source.publish(create_event(1, topic="orders"))
    await processor.stop()
    [producer], [consumer] = spans.producers, spans.consumers
    assert producer.name == "publish orders"
    assert is_linked(consumer, producer)
    assert len(events) == 1


@in_time
async def test_what_goes_past_it_is_not_taken_for_the_event_before(spans):
    source, target = InMemoryStream(), InMemoryStream()
    processor = StreamProcessor(source).sink(target)  # built too early to be traced
    await processor.start()
    trace_publishing(target, spans.provider)
    with collect(target) as events:
        target.publish_nowait(create_event(1))
        await target.publish(create_event(2))
        await source.publish(create_event(3))
    await processor.stop()
    stamps = [event.metadata.get("traceparent") for event in events]
    assert len(set(stamps)) == 3


@STREAMS
@in_time
async def test_what_it_returns_ends_the_producer_spans_and_the_stamps(spans, make_stream):
    stream = make_stream()
    end = trace_publishing(stream, spans.provider)
    await stream.publish(create_event(1, topic="orders"))
    end()
    event = create_event(2, topic="orders")
    with collect(stream) as events:
        await stream.publish(event)
        stream.publish_nowait(event)
    assert [passed is event for passed in events] == [True, True]
    assert len(spans.exporter.get_finished_spans()) == 1


@in_time
async def test_it_can_be_begun_anew_after_its_end(spans):
    stream = InMemoryStream()
    trace_publishing(stream, spans.provider)()
    trace_publishing(stream, spans.provider)
    stream.subscribe_nowait(lambda event: None)
    await stream.publish(create_event(1))
    [producer], [consumer] = spans.producers, spans.consumers
    assert is_linked(consumer, producer)


@pytest.mark.parametrize("stream", [None, object(), InMemoryStream])
def test_only_a_stream_of_this_process_is_taken(spans, stream):
    with pytest.raises(TypeError, match="a stream of this process"):
        trace_publishing(stream, spans.provider)
