"""`stamp_trace_context` and `trace_publishing` with the real SDK."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from codomyrmex.integrations import DeliveryPolicy, InlineSink, Sink, attach, attach_blocking
from codomyrmex.integrations.logging_monitoring import (
    StructlogSink,
    stamp_trace_context,
    trace_publishing,
)
from codomyrmex.streaming import (
    Event,
    InMemoryStream,
    SSEStream,
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
    """A tracer provider and the spans that it has exported."""

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
    spans = Spans()
    yield spans
    spans.provider.shutdown()


def traceparent(span: trace.Span | ReadableSpan) -> str:
    context_of_span = span.get_span_context()
    assert context_of_span is not None
    return (
        f"00-{context_of_span.trace_id:032x}-{context_of_span.span_id:016x}-{context_of_span.trace_flags:02x}"
    )


def carried(event: Event) -> trace.SpanContext:
    """Return what a consumer reads from an event with the propagator that applications use."""
    return trace.get_current_span(propagate.extract(event.metadata)).get_span_context()


def ids(span: ReadableSpan | trace.SpanContext | None) -> tuple[int, int] | None:
    context_of_span = span.context if isinstance(span, ReadableSpan) else span
    return None if context_of_span is None else (context_of_span.trace_id, context_of_span.span_id)


def linked(span: ReadableSpan) -> list[tuple[int, int] | None]:
    return [ids(link.context) for link in span.links]


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
async def test_outside_of_a_span_an_event_is_passed_on_unchanged():
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
async def test_an_event_keeps_the_stamp_that_it_has(spans, earlier):
    stream = InMemoryStream()
    stamp_trace_context(stream, baggage=True)
    event = create_event(1, traceparent=earlier)
    with collect(stream) as events, spans.tracer.start_as_current_span("work"):
        await stream.publish(event)
    assert events[0] is event


@in_time
async def test_an_event_that_is_forwarded_to_another_stream_keeps_its_first_stamp(spans):
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
async def test_a_span_that_has_ended_or_is_not_sampled_is_stamped_too(spans):
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
    context_of_span = trace.SpanContext(
        TRACE_ID,
        SPAN_ID,
        is_remote=True,
        trace_flags=trace.TraceFlags(1),
        trace_state=TraceState.from_header([trace_state]) if trace_state else None,
    )
    return trace.NonRecordingSpan(context_of_span)


@in_time
async def test_the_trace_state_is_stamped_too():
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


@pytest.mark.parametrize("requested", [False, True])
@in_time
async def test_baggage_is_stamped_only_on_request(requested):
    stream = InMemoryStream()
    stamp_trace_context(stream, baggage=requested)
    with collect(stream) as events, trace.use_span(within()):
        await stream.publish(create_event(1))
        token = context.attach(baggage.set_baggage("tenant", "blue & green"))
        try:
            await stream.publish(create_event(2))
        finally:
            context.detach(token)
    without, with_baggage = events
    assert "baggage" not in without.metadata
    assert ("baggage" in with_baggage.metadata) == requested
    assert baggage.get_all(propagate.extract(with_baggage.metadata)) == (
        {"tenant": "blue & green"} if requested else {}
    )


@in_time
async def test_closing_the_stamp_removes_it_from_the_stream():
    stream = InMemoryStream()
    stamp = stamp_trace_context(stream)
    event = create_event(1)
    with collect(stream) as events, trace.use_span(within()):
        stamp.close()
        stamp.close()
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
def test_any_context_survives_and_other_metadata_are_unchanged(trace_id, span_id, flags, metadata):
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
    """Run a reader on the loop of another thread, and publish once it is ready."""
    ready, results = threading.Event(), []
    thread = threading.Thread(target=lambda: results.append(asyncio.run(read(ready))), daemon=True)
    thread.start()
    assert await asyncio.to_thread(ready.wait, DEADLINE)
    publish()
    await asyncio.to_thread(thread.join, DEADLINE)
    [result] = results
    return result


@in_time
async def test_a_listener_on_the_loop_of_another_thread_can_read_the_trace(spans):
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
        result = await read_in_another_thread(stream, read, lambda: stream.publish_nowait(create_event(1)))
    span_is_current, read_context = result
    assert not span_is_current  # only the event carries the trace
    assert read_context.is_remote
    assert (read_context.trace_id, read_context.span_id) == (
        work.get_span_context().trace_id,
        work.get_span_context().span_id,
    )


@in_time
async def test_an_async_handler_on_the_loop_of_another_thread_can_continue_the_trace(spans):
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
async def test_the_log_line_of_a_stamped_event_has_the_ids_of_its_trace(spans):
    stream = InMemoryStream()
    stamp_trace_context(stream)
    with capture_logs() as lines:
        async with attach(stream, StructlogSink()):
            with spans.tracer.start_as_current_span("work") as work:
                await stream.publish(create_event({"a": 1}, topic="orders"))
            await stream.publish(create_event({"a": 2}, topic="orders"))
    stamped, plain = lines
    context_of_span = work.get_span_context()
    assert stamped["trace_id"] == f"{context_of_span.trace_id:032x}"
    assert stamped["span_id"] == f"{context_of_span.span_id:016x}"
    assert stamped["event"] == "orders"
    assert "trace_id" not in plain
    assert "span_id" not in plain


@pytest.mark.parametrize(
    "garbage", ["", "garbage", "00-1-2-01", f"00-{'g' * 32}-{'g' * 16}-01", None, 5, ["00"], "\udcff"]
)
def test_a_log_line_has_no_ids_if_the_stamp_is_malformed(garbage):
    with capture_logs() as lines:
        StructlogSink().emit(create_event(1, traceparent=garbage))
    [line] = lines
    assert "trace_id" not in line
    assert "span_id" not in line


# Spans around publishing


async def publish_and_wait(stream: Any, event: Event) -> None:
    await stream.publish(event)


async def publish_nowait(stream: Any, event: Event) -> None:
    stream.publish_nowait(event)
    await settle()


WAYS = pytest.mark.parametrize("publish", [publish_and_wait, publish_nowait])
AT_ONCE = DeliveryPolicy(batch_age=0)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@STREAMS
@WAYS
@in_time
async def test_publishing_is_a_producer_span_by_the_semantic_conventions(spans, make_stream, publish):
    stream = make_stream()
    trace_publishing(stream, tracer_provider=spans.provider)
    event = create_event({"a": 1}, topic="orders.created")
    with collect(stream) as events:
        await publish(stream, event)
    [span] = spans.exporter.get_finished_spans()
    assert (span.name, span.kind, span.status.status_code) == (
        "publish orders.created",
        SpanKind.PRODUCER,
        StatusCode.UNSET,
    )
    assert attributes(span) == {
        "messaging.system": "codomyrmex",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders.created",
        "messaging.message.id": event.id,
    }
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "codomyrmex.streaming"
    assert events[0].metadata == {"topic": "orders.created", "traceparent": traceparent(span)}
    assert event.metadata == {"topic": "orders.created"}


@in_time
async def test_both_ways_of_passing_the_topic_name_the_span(spans):
    stream = TopicStream()
    trace_publishing(stream, tracer_provider=spans.provider)
    await stream.publish("orders.a", create_event(1))
    await stream.publish(topic="orders.b", event=create_event(2))
    stream.publish_nowait("orders.c", create_event(3))
    await stream.publish("orders.d", create_event(4, topic="elsewhere"))
    assert [span.name for span in spans.producers] == [f"publish orders.{letter}" for letter in "abcd"]


@in_time
async def test_without_a_topic_the_span_has_no_destination(spans):
    stream = InMemoryStream()
    trace_publishing(stream, tracer_provider=spans.provider)
    await stream.publish(create_event(1))
    [span] = spans.producers
    assert span.name == "publish"
    assert "messaging.destination.name" not in attributes(span)


@WAYS
@in_time
async def test_the_publishers_span_is_the_parent_and_stays_current(spans, publish):
    stream = InMemoryStream()
    trace_publishing(stream, tracer_provider=spans.provider)
    current: list[trace.Span] = []
    stream.subscribe_nowait(lambda event: current.append(trace.get_current_span()))
    with spans.tracer.start_as_current_span("request") as request:
        await publish(stream, create_event(1))
        assert trace.get_current_span() is request
    await publish(stream, create_event(2))
    assert not trace.get_current_span().get_span_context().is_valid
    inside, outside = spans.producers
    assert ids(inside.parent) == ids(request.get_span_context())
    assert outside.parent is None
    assert current[0] is request


@in_time
async def test_outside_of_a_span_an_event_continues_the_trace_of_its_stamp(spans):
    first, second = InMemoryStream(), InMemoryStream()
    for stream in (first, second):
        trace_publishing(stream, tracer_provider=spans.provider)
    await first.subscribe(second.publish)
    await first.publish(create_event(1, topic="orders", traceparent=EARLIER, tracestate="vendor=1"))
    one, two = spans.producers
    assert ids(one.parent) == (TRACE_ID, SPAN_ID)
    assert ids(two.parent) == ids(one)


@in_time
async def test_concurrent_publishers_have_their_own_spans(spans):
    stream = InMemoryStream()
    trace_publishing(stream, tracer_provider=spans.provider)

    async def handle(event: Event) -> None:
        for _ in range(event.data):
            await asyncio.sleep(0)

    stream.subscribe_nowait(handle)
    events = [create_event(number) for number in (5, 3, 1, 4, 2)]
    with collect(stream) as stamped:
        await asyncio.gather(*(stream.publish(event) for event in events))
    by_id = {attributes(span)["messaging.message.id"]: span for span in spans.producers}
    assert set(by_id) == {event.id for event in events}
    assert all(event.metadata["traceparent"] == traceparent(by_id[event.id]) for event in stamped)


@in_time
async def test_what_a_processor_publishes_is_traced(spans):
    source, target = InMemoryStream(), InMemoryStream()
    processor = StreamProcessor(source).sink(target)
    await processor.start()
    trace_publishing(target, tracer_provider=spans.provider)
    with collect(target) as events:
        await source.publish(create_event(1, topic="orders"))
    await processor.stop()
    [producer] = spans.producers
    assert producer.name == "publish orders"
    assert events[0].metadata["traceparent"] == traceparent(producer)


@pytest.mark.parametrize(
    "malformed", ["", "garbage", f"ff-{TRACE_ID:032x}-{SPAN_ID:016x}-01", None, 5, ["00"], object(), "\udcff"]
)
@WAYS
@in_time
async def test_a_malformed_stamp_is_replaced(spans, caplog, publish, malformed):
    stream = InMemoryStream()
    trace_publishing(stream, tracer_provider=spans.provider)
    handled: list[Event] = []
    stream.subscribe_nowait(handled.append)
    await publish(stream, create_event(1, traceparent=malformed))
    [producer] = spans.producers
    assert producer.parent is None
    assert handled[0].metadata["traceparent"] == traceparent(producer)
    assert caplog.records == []


@in_time
async def test_spans_that_are_not_sampled_are_stamped_as_such():
    provider = TracerProvider(ALWAYS_OFF, shutdown_on_exit=False)
    stream = InMemoryStream()
    trace_publishing(stream, tracer_provider=provider)
    handled: list[Event] = []
    stream.subscribe_nowait(handled.append)
    await stream.publish(create_event(1))
    assert carried(handled[0]).is_valid
    assert not carried(handled[0]).trace_flags.sampled


# Consumer spans


def sink_of(send: Callable[[Sequence[Event]], Any], name: str = "sink") -> Sink:
    async def sending(events: Sequence[Event]) -> None:
        send(events)

    return Sink.from_function(sending, name=name)


@STREAMS
@WAYS
@in_time
async def test_sending_one_event_is_a_consumer_span_below_its_producer_span(spans, make_stream, publish):
    stream, sent = make_stream(), []
    async with attach(stream, sink_of(sent.extend, "store"), policy=AT_ONCE) as attachment:
        trace_publishing(stream, attachment, tracer_provider=spans.provider)
        event = create_event({"a": 1}, topic="orders.created")
        await publish(stream, event)
    [producer], [consumer] = spans.producers, spans.consumers
    assert (consumer.name, consumer.status.status_code) == ("process orders.created", StatusCode.UNSET)
    assert ids(consumer.parent) == ids(producer)
    assert linked(consumer) == [ids(producer)]
    assert attributes(consumer) == {
        "messaging.system": "codomyrmex",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders.created",
        "messaging.message.id": event.id,
        "messaging.consumer.group.name": "store",
    }
    assert [event.metadata["traceparent"] for event in sent] == [traceparent(producer)]


@pytest.mark.parametrize("topics", [["orders", "orders", "orders"], ["orders", "invoices", None]])
@in_time
async def test_sending_a_batch_is_a_span_that_is_linked_to_all_producers(spans, topics):
    stream = InMemoryStream()
    with spans.tracer.start_as_current_span("startup"):  # must not become the parent of what is sent later
        attachment = await attach(stream, sink_of(len)).start()
    trace_publishing(stream, attachment, tracer_provider=spans.provider)
    for topic in topics:
        stream.publish_nowait(create_event(1, **({} if topic is None else {"topic": topic})))
    await attachment.aclose()
    [consumer] = spans.consumers
    assert consumer.parent is None
    assert linked(consumer) == [ids(producer) for producer in spans.producers]
    same = len(set(topics)) == 1
    assert consumer.name == ("process orders" if same else "process")
    assert ("messaging.destination.name" in attributes(consumer)) == same
    assert attributes(consumer)["messaging.batch.message_count"] == 3
    assert "messaging.message.id" not in attributes(consumer)


@in_time
async def test_events_without_a_stamp_are_sent_without_links(spans):
    stream, other = InMemoryStream(), InMemoryStream()
    async with attach(stream, sink_of(len)) as attachment:
        trace_publishing(other, attachment, tracer_provider=spans.provider)
        await stream.publish(create_event(1))
    [consumer] = spans.consumers
    assert (consumer.parent, consumer.links) == (None, ())


@in_time
async def test_the_consumer_span_is_current_while_a_sink_sends(spans):
    async def send(events: Sequence[Event]) -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.sleep(0)

    stream = InMemoryStream()
    async with attach(stream, Sink.from_function(send, name="http")) as attachment:
        trace_publishing(stream, attachment, tracer_provider=spans.provider)
        await stream.publish(create_event(1))
    [consumer], [request] = spans.consumers, spans.of(SpanKind.INTERNAL)
    assert ids(request.parent) == ids(consumer)


@in_time
async def test_each_attempt_has_a_span_and_a_failed_one_has_its_error(spans):
    attempts: list[int] = []

    def send(events: Sequence[Event]) -> None:
        attempts.append(len(events))
        if len(attempts) == 1:
            raise ConnectionError("no route to host")

    stream = InMemoryStream()
    policy = DeliveryPolicy(batch_age=0, backoff_initial=0)
    async with attach(stream, sink_of(send), policy=policy) as attachment:
        trace_publishing(stream, attachment, tracer_provider=spans.provider)
        await stream.publish(create_event(1))
    failed, succeeded = spans.consumers
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description == "ConnectionError: no route to host"
    assert [event.name for event in failed.events] == ["exception"]
    assert attributes(failed)["error.type"] == "ConnectionError"
    assert (succeeded.status.status_code, succeeded.events) == (StatusCode.UNSET, ())
    assert attachment.report().sinks["sink"].delivered == 1


@in_time
async def test_an_attempt_that_times_out_ends_its_span_with_an_error(spans):
    async def hang(events: Sequence[Event]) -> None:
        await asyncio.Event().wait()

    stream = InMemoryStream()
    policy = DeliveryPolicy(batch_age=0, timeout=0.01, max_attempts=1)
    async with attach(stream, Sink.from_function(hang, name="slow"), policy=policy) as attachment:
        trace_publishing(stream, attachment, tracer_provider=spans.provider)
        await stream.publish(create_event(1))
        await attachment.flush()
    [consumer] = spans.consumers
    assert consumer.status.status_code is StatusCode.ERROR


def test_a_blocking_attachment_is_traced_too(spans):
    stream, sent = InMemoryStream(), []
    with attach_blocking(stream, sink_of(sent.extend)) as attachment:
        trace_publishing(stream, attachment, tracer_provider=spans.provider)
        stream.publish_nowait(create_event(1, topic="orders"))
    [producer], [consumer] = spans.producers, spans.consumers
    assert ids(consumer.parent) == ids(producer)
    assert len(sent) == 1


@STREAMS
@in_time
async def test_each_queued_sink_has_consumer_spans_and_nothing_else_has(spans, make_stream):
    class Keep(InlineSink):
        name = "inline"

        def emit(self, event: Event) -> None:
            received.append(event.data)

    received: list[int] = []
    stream = make_stream()
    stream.subscribe_nowait(lambda event: received.append(event.data))
    async with (
        attach(stream, Keep(), sink_of(len, "a"), sink_of(len, "b")) as first,
        attach(stream, sink_of(len, "c")) as second,
        attach(stream, sink_of(len, "untraced")),
        stream.listen() as listener,
    ):
        trace_publishing(stream, first, second, tracer_provider=spans.provider)
        await stream.publish(create_event(1, topic="orders"))
        assert (await anext(listener)).data == 1
    assert received == [1, 1]
    sinks = sorted(attributes(span)["messaging.consumer.group.name"] for span in spans.consumers)
    assert sinks == ["a", "b", "c"]
    assert len(spans.producers) == 1


# The end


@STREAMS
@in_time
async def test_other_streams_are_not_traced(spans, make_stream):
    stream, other = make_stream(), make_stream()
    trace_publishing(stream, tracer_provider=spans.provider)
    event = create_event(1, topic="orders")
    with collect(other) as events:
        await other.publish(event)
        other.publish_nowait(event)
    assert [passed is event for passed in events] == [True, True]
    assert spans.exporter.get_finished_spans() == ()


@STREAMS
@in_time
async def test_closing_ends_producer_spans_consumer_spans_and_stamps(spans, make_stream):
    stream = make_stream()
    async with attach(stream, sink_of(len), policy=AT_ONCE) as attachment:
        tracing = trace_publishing(stream, attachment, tracer_provider=spans.provider)
        await stream.publish(create_event(1, topic="orders"))
        await attachment.flush()
        tracing.close()
        tracing.close()
        event = create_event(2, topic="orders")
        with collect(stream) as events:
            await stream.publish(event)
            stream.publish_nowait(event)
    assert [passed is event for passed in events] == [True, True]
    assert (len(spans.producers), len(spans.consumers)) == (1, 1)


@in_time
async def test_tracing_can_be_started_again(spans):
    stream = InMemoryStream()
    async with attach(stream, sink_of(len)) as attachment:
        trace_publishing(stream, attachment, tracer_provider=spans.provider).close()
        trace_publishing(stream, attachment, tracer_provider=spans.provider)
        await stream.publish(create_event(1))
    assert (len(spans.producers), len(spans.consumers)) == (1, 1)


@pytest.mark.parametrize("stream", [None, object(), InMemoryStream])
def test_only_a_stream_can_be_traced(spans, stream):
    with pytest.raises(TypeError, match="stream: must be a Stream"):
        trace_publishing(stream, tracer_provider=spans.provider)
    with pytest.raises(TypeError, match="stream: must be a Stream"):
        stamp_trace_context(stream)


def test_only_an_attachment_can_be_traced(spans):
    with pytest.raises(TypeError, match=r"attachments: must be made by attach\(\), got TracerProvider"):
        trace_publishing(InMemoryStream(), spans.provider)
