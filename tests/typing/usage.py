"""How the public names are typed; mypy and pyright read this file in strict mode, nothing runs it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Sequence
from datetime import datetime
from typing import Any, assert_type

from codomyrmex.integrations import (
    Binding,
    DeadLetter,
    DeadLetters,
    DeliveryPolicy,
    DrainReport,
    InlineSink,
    PartialDeliveryError,
    RetryableError,
    Sink,
    SinkHealth,
    SinkReport,
    attach,
    attach_blocking,
)
from codomyrmex.integrations.durable import DurableStream, FeedRunner, FeedState, Store, run_once
from codomyrmex.integrations.logging_monitoring import (
    DeliveryCollector,
    OpenTelemetrySink,
    PublishLogs,
    RedactionStatistics,
    StreamLogHandler,
    StructlogSink,
    redact,
    stamp_trace_context,
    trace_publishing,
)
from codomyrmex.integrations.notification import (
    Alert,
    AlertConfig,
    AlertEngine,
    AlertRouter,
    AlertSink,
    Explanation,
    Matcher,
    Notification,
    RouteMatch,
    load_alert_config,
    parse_matchers,
)
from codomyrmex.integrations.service_mesh import EnvoyAdmin
from codomyrmex.integrations.web import HealthApp, MetricsApp, health_app, metrics_app, require_token
from codomyrmex.streaming import (
    Event,
    EventType,
    Frame,
    InMemoryStream,
    Listener,
    Overflow,
    ProcessorStatistics,
    SSEDecoder,
    SSERecord,
    SSEStream,
    Stream,
    StreamProcessor,
    StreamStatistics,
    Subscription,
    TopicStream,
    broadcast,
    create_event,
)
from codomyrmex.streaming.testing import FakeClock, collect


def plain_handler(event: Event) -> None:
    assert_type(event.id, str)
    assert_type(event.type, EventType)
    assert_type(event.timestamp, datetime)
    assert_type(event.metadata, dict[str, Any])
    assert_type(event.topic, str | None)


async def async_handler(event: Event) -> int:
    return len(event.id)


def drop_heartbeats(event: Event) -> Event | None:
    return None if event.type is EventType.HEARTBEAT else event


def is_order(event: Event) -> bool:
    return event.topic == "orders.created"


def events() -> None:
    event = create_event({"order": 42}, topic="orders.created")
    assert_type(event, Event)
    assert_type(event.to_dict(), dict[str, Any])
    assert_type(Event.from_dict(event.to_dict()), Event)
    assert_type(event.replace(data=1), Event)
    assert_type(event.to_sse(), str)
    create_event(None, EventType.ERROR)
    create_event(None, "error")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    event.data = 1  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]


async def streams(stream: Stream) -> None:
    subscription = await stream.subscribe(plain_handler)
    assert_type(subscription, Subscription)
    await stream.subscribe(async_handler, topic="orders.*", filter_fn=is_order)
    await stream.subscribe("orders.*")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert_type(await stream.unsubscribe(subscription.id), bool)
    assert_type(stream.statistics(), StreamStatistics)
    stream.add_interceptor(drop_heartbeats)
    assert_type(stream.subscribe_nowait(plain_handler), Subscription)
    assert_type(stream.start_publish(create_event(1)), Awaitable[None] | None)
    listener = stream.listen("orders.>", overflow=Overflow.BLOCK, block_timeout=1.5)
    assert_type(listener, Listener)
    async with listener as arriving:
        async for event in arriving:
            assert_type(event, Event)
    async with InMemoryStream(on_error=lambda error, event, subscription: None) as memory:
        assert_type(memory, InMemoryStream)
        assert_type(memory.get_recent_events(3), list[Event])
    await broadcast([stream, memory], create_event(1))


async def server_sent_events(stream: SSEStream) -> None:
    subscription = await stream.subscribe(topic="orders.>", last_event_id="x")
    assert_type(stream.events(subscription.id), AsyncGenerator[Event, None])
    assert_type(stream.batches(subscription.id), AsyncGenerator[list[Frame], None])
    async for frame in stream.sse_generator(subscription.id):
        assert_type(frame, str)
    records = SSEDecoder().feed(b"data: 1\n\n")
    assert_type(records, list[SSERecord])
    assert_type(records[0].retry, int | None)


async def topics(stream: TopicStream, event: Event) -> None:
    await stream.publish("user.signup", event)
    await stream.publish(event)
    stream.publish_nowait("user.signup", event)
    await stream.publish("user.signup")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    assert_type(await stream.subscribe("user.signup", handler=plain_handler), Subscription)
    assert_type(await stream.subscribe(async_handler, topic="user.*"), Subscription)
    assert_type(stream.list_topics(), list[str])


async def processing(source: Stream, target: TopicStream) -> None:
    async def enrich(event: Event) -> Event | None:
        return event.replace(data=1)

    processor = StreamProcessor(source).filter(is_order).map(enrich).batch(100, 1.0).sink(target)
    assert_type(processor, StreamProcessor)
    assert_type(await processor.start(), Subscription)
    assert_type(processor.statistics(), ProcessorStatistics)
    processor.map(lambda event: event.data)
    processor.map(len)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


class Printer(InlineSink):
    name = "printer"

    def emit(self, event: Event) -> None:
        print(event)


class Poster(Sink):
    name = "poster"

    async def send(self, events: Sequence[Event]) -> None:
        print(len(events))


async def sinks(stream: Stream) -> None:
    async with attach(stream, Printer(), Poster(), topic="orders.>") as attachment:
        assert_type(await attachment.aclose(), DrainReport)
    attach(stream, print)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def post(events: Sequence[Event]) -> None:
    if len(events) > 1:
        raise PartialDeliveryError({events[0].id: RetryableError("busy", retry_after=1.5)})


async def delivery(stream: Stream) -> None:
    letters = DeadLetters(max_size=10)
    policy = DeliveryPolicy(queue_size=10, overflow=Overflow.BLOCK)
    DeliveryPolicy(queue_size="10")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    sink = Binding(Sink.from_function(post, name="post"), topic="orders.>", policy=policy)
    async with attach(stream, sink, dead_letters=letters, health_stream=stream) as attachment:
        assert_type(await attachment.flush(timeout=1), bool)
        assert_type(attachment.health()["post"], SinkHealth)
        assert_type(await attachment.replay(letters), int)
        await attachment.add(Printer())
        assert_type(await attachment.remove("printer"), SinkReport)
    for letter in letters:
        assert_type(letter, DeadLetter)
    with attach_blocking(stream, sink) as blocking:
        assert_type(blocking.flush(), bool)
        assert_type(blocking.close(), DrainReport)


def logs_and_traces(stream: InMemoryStream) -> None:
    StructlogSink(level="info", event_name=lambda event: event.id, fields={"service": "shop"})
    StructlogSink(level=lambda event: 20, fields=lambda event: {"topic": event.topic})
    OpenTelemetrySink(mode="both")
    OpenTelemetrySink(mode="neither")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert_type(PublishLogs(stream, min_level="info").suppressed, int)
    StreamLogHandler(stream, topic="logs")
    interceptor = redact(keys=["pin"])
    assert_type(interceptor.statistics(), RedactionStatistics)
    stream.add_interceptor(interceptor)
    stamp_trace_context(stream, baggage=True).close()
    trace_publishing(stream).close()


async def testing(stream: InMemoryStream) -> None:
    with collect(stream, "orders.>") as arrived:
        assert_type(await arrived.wait_for(2), list[Event])
    SSEStream(clock=FakeClock())


async def alerts(stream: Stream, sink: AlertSink) -> None:
    config = load_alert_config("alerts.yaml")
    assert_type(config, AlertConfig)
    router = AlertRouter(config)
    assert_type(router.match({"severity": "critical"}), list[RouteMatch])
    assert_type(router.explain({"severity": "critical"}), Explanation)
    assert_type(parse_matchers('severity="critical"'), list[Matcher])
    engine = AlertEngine(config)
    engine.observe([Alert({"alertname": "DiskFull"})], 0.0)
    due = engine.due(30.0)
    assert_type(due, list[Notification])
    assert_type(engine.next_deadline(), float | None)
    async with attach(stream, sink):
        assert_type(await sink.explain({"severity": "critical"}), Explanation)


async def monitoring(stream: DurableStream, store: Store, envoy: EnvoyAdmin) -> None:
    async with attach(stream) as attachment:
        assert_type(health_app(attachment, stream, sinks=["pager"]), HealthApp)
        DeliveryCollector(attachment, stream)
        assert_type(metrics_app(attachment, authorize=require_token("t0ken")), MetricsApp)
    async with run_once(stream, "envoy", lambda: envoy, lease=5.0) as runner:
        assert_type(runner, FeedRunner)
        assert_type(runner.health().state, FeedState)
    run_once(store, "envoy")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
