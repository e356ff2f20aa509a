"""Sinks, log lines, span events and redaction against the same work done directly."""

from __future__ import annotations

import asyncio
import copy
import gc
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import structlog
from codomyrmex.integrations import Attachment, DeliveryPolicy, Sink, attach
from codomyrmex.integrations.logging_monitoring import OpenTelemetrySink, StructlogSink, redact
from codomyrmex.integrations.logging_monitoring.attributes import attributes_of
from codomyrmex.streaming import Event, InMemoryStream, create_event
from measure import Result, compare, compare_prepared
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from streams import EVENT, PAYLOAD, counting_handler, run

FLAT = {
    "order_id": "ord_8471",
    "customer": "Ada Lovelace",
    "email": "ada@example.org",
    "street": "12 St James's Square",
    "city": "London",
    "country": "GB",
    "status": "paid",
    "currency": "EUR",
    "total": 129.9,
    "items": 3,
    "weight": 1.25,
    "gift": False,
    "note": None,
    "channel": "web",
    "campaign": "autumn-2026",
    "created": "2026-11-24T10:15:00Z",
    "priority": 2,
    "tags": ["new", "vip"],
    "region": "eu-west-1",
    "host": "web-7",
}


def measure() -> Iterator[Result]:
    yield from logging()
    yield from tracing()
    yield from queueing()
    yield from redacting()
    yield from memory()


def logging() -> Iterator[Result]:
    with Path("/dev/null").open("wb") as nowhere:
        structlog.configure(
            cache_logger_on_first_use=True,
            wrapper_class=structlog.make_filtering_bound_logger(20),
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(serializer=orjson.dumps),
            ],
            logger_factory=structlog.BytesLoggerFactory(nowhere),
        )
        sink, logger, n = StructlogSink(), structlog.get_logger(), 1_000

        def through_the_sink() -> int:
            emit = sink.emit
            for _ in range(n):
                emit(EVENT)
            return n

        def directly() -> int:
            for _ in range(n):
                logger.info(
                    "orders.created",
                    event_id=EVENT.id,
                    event_type="message",
                    topic="orders.created",
                    data=PAYLOAD,
                    metadata=EVENT.metadata,
                )
            return n

        yield compare(
            "StructlogSink (orjson, BytesLogger, filtering, cached)",
            "the same structlog call",
            through_the_sink,
            directly,
            bar=1.3,
        )
    structlog.reset_defaults()


def tracing() -> Iterator[Result]:
    flat = create_event(FLAT, topic="orders.created")
    yield span_event(flat, "a flat payload")
    yield span_event(EVENT, "a payload with a nested list, which becomes JSON text")


def span_event(event: Event, what: str) -> Result:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("bench")
    sink, attributes, n = OpenTelemetrySink(mode="span_event"), attributes_of(event), 200

    def within_a_span(work: Callable[[trace.Span], None]) -> Callable[[], int]:
        def timed() -> int:
            with tracer.start_as_current_span("bench") as span:
                work(span)
            return n

        return timed

    def through_the_sink(_: trace.Span) -> None:
        for _i in range(n):
            sink.emit(event)

    def directly(span: trace.Span) -> None:
        for _ in range(n):
            span.add_event("orders.created", attributes, 1_700_000_000_000_000_000)

    return compare(
        f'OpenTelemetrySink(mode="span_event"), {len(attributes)} attributes, {what}',
        "span.add_event with the same attributes",
        within_a_span(through_the_sink),
        within_a_span(directly),
        bar=1.5,
    )


class NoOp(Sink):
    def __init__(self, name: str = "no-op") -> None:
        self.name = name
        self.sent = 0

    async def send(self, events: Sequence[Event]) -> None:
        self.sent += len(events)


class Hanging(Sink):
    name = "hanging"

    async def send(self, events: Sequence[Event]) -> None:  # noqa: ARG002 - it never uses them
        await asyncio.Event().wait()


ROOMY = DeliveryPolicy(queue_size=10_000, drain_timeout=0)


def attached(*sinks: Sink, policy: DeliveryPolicy = ROOMY) -> tuple[InMemoryStream, Attachment]:
    """Return a stream with sinks that stay attached for the whole measurement."""
    stream = InMemoryStream()
    attachment = attach(stream, *sinks, policy=policy)

    async def start() -> int:
        await attachment.start()
        return 0

    run(start())
    return stream, attachment


def close(attachment: Attachment) -> None:
    async def closing() -> int:
        await attachment.aclose(0)
        return 0

    run(closing())


def one_by_one(n: int, *, turns: bool, timeout: float | None) -> Callable[[], int]:
    """Publish to a queue whose one consumer task handles one event at a time, and wait for the last."""

    async def work() -> int:
        queue: asyncio.Queue[Event] = asyncio.Queue(10_000)
        sink = NoOp()

        async def consume() -> None:
            while True:
                event = await queue.get()
                if timeout is None:
                    await sink.send((event,))
                else:
                    await asyncio.wait_for(sink.send((event,)), timeout)
                queue.task_done()

        consumer = asyncio.create_task(consume())
        for _ in range(n):
            await queue.put(EVENT)
            if turns:
                await asyncio.sleep(0)
        await queue.join()
        consumer.cancel()
        assert sink.sent == n
        return n

    return lambda: run(work())


def queueing() -> Iterator[Result]:
    n = 5_000
    sink = NoOp()
    stream, attachment = attached(sink)

    async def work(turns: bool) -> int:  # noqa: FBT001 - local
        publish = stream.publish
        for _ in range(n):
            await publish(EVENT)
            if turns:
                await asyncio.sleep(0)
        assert await attachment.flush()
        return n

    yield compare(
        "queued no-op sink, published to delivered, one in each turn of the loop",
        "asyncio.Queue, a consumer task, and a timeout for each event",
        lambda: run(work(turns=True)),
        one_by_one(n, turns=True, timeout=10),
        bar=2.0,
        rate=True,
        rounds=15,
    )
    yield compare(
        "the same",
        "asyncio.Queue and a consumer task, without a timeout",
        lambda: run(work(turns=True)),
        one_by_one(n, turns=True, timeout=None),
        bar=2.0,
        rate=True,
        rounds=15,
    )
    yield compare(
        "the same, 5,000 published without letting the loop turn",
        "asyncio.Queue and a consumer task, without a timeout",
        lambda: run(work(turns=False)),
        one_by_one(n, turns=False, timeout=None),
        bar=2.0,
        rate=True,
        rounds=15,
    )
    yield cost_for_the_publisher(n)
    close(attachment)
    yield from isolation(n)


def cost_for_the_publisher(n: int) -> Result:
    queued, attachment = attached(NoOp(), policy=DeliveryPolicy(queue_size=1_000_000, batch_age=3_600))
    plain = InMemoryStream()
    plain.subscribe_nowait(counting_handler())

    async def publish_to(stream: InMemoryStream) -> int:
        publish = stream.publish
        for _ in range(n):
            await publish(EVENT)
        return n

    result = compare(
        "publish to one queued sink",
        "publish to one plain handler, which counts",
        lambda: run(publish_to(queued)),
        lambda: run(publish_to(plain)),
        bar=2.5,
    )
    assert not attachment.health()["no-op"].dropped
    close(attachment)
    return result


def isolation(n: int) -> Iterator[Result]:
    """Measure the rate of a sink beside one that hangs forever."""

    class Encoding(NoOp):
        async def send(self, events: Sequence[Event]) -> None:
            for event in events:
                event.to_sse()
            self.sent += len(events)

    async def publish(stream: InMemoryStream) -> None:
        for _ in range(n):
            await stream.publish(EVENT)

    alone, first = attached(Encoding("good"))
    beside, second = attached(Encoding("good"), Hanging())
    for stream in (alone, beside):  # fill the queue of the hanging sink
        run(deliver(stream, first if stream is alone else second, publish, n))

    def delivery(stream: InMemoryStream, attachment: Attachment) -> Callable[[], int]:
        return lambda: run(deliver(stream, attachment, publish, n))

    yield compare(
        "publish to a sink that encodes, beside one that hangs, and deliver",
        "without the hanging one, whose full queue drops one event for each",
        delivery(beside, second),
        delivery(alone, first),
        rate=True,
        rounds=21,
    )

    def backlog(
        stream: InMemoryStream, attachment: Attachment
    ) -> tuple[Callable[[], None], Callable[[], int]]:
        def fill() -> None:
            async def filling() -> int:
                await publish(stream)
                return 0

            run(filling())

        return fill, lambda: run(wait_for_the_good_one(attachment, n))

    yield compare_prepared(
        "one sink hangs forever, another works: rate of the other",
        "the same sink alone",
        backlog(beside, second),
        backlog(alone, first),
        bar=0.95,
    )
    close(first)
    close(second)


async def deliver(
    stream: InMemoryStream, attachment: Attachment, publish: Callable[[InMemoryStream], Any], n: int
) -> int:
    await publish(stream)
    return await wait_for_the_good_one(attachment, n)


async def wait_for_the_good_one(attachment: Attachment, n: int) -> int:
    """Flush, and wait for the good sink only, as the hanging one never finishes."""
    flushing = asyncio.ensure_future(attachment.flush())
    while attachment.health()["good"].queued or attachment.health()["good"].in_flight:  # noqa: ASYNC110
        await asyncio.sleep(0)
    flushing.cancel()
    return n


def redacting() -> Iterator[Result]:
    redactor, event, n = redact(), create_event(FLAT, topic="orders.created"), 1_000
    assert redactor(event) is event

    def redacted() -> int:
        for _ in range(n):
            redactor(event)
        return n

    def copied() -> int:
        for _ in range(n):
            copy.deepcopy(FLAT)
        return n

    yield compare(
        f"redact() of {len(FLAT)} keys with nothing to redact",
        "one copy.deepcopy of them",
        redacted,
        copied,
        bar=0.5,
    )
    runs = iter(range(1_000))

    def new_keys() -> int:
        run = next(runs)
        redactor(create_event({f"{run}-{key}": key for key in range(40_000)}))
        return 1

    yield compare(
        "redact() of 40,000 keys that are new",
        "one copy.deepcopy of them",
        new_keys,
        lambda: len([copy.deepcopy({f"0-{key}": key for key in range(40_000)})]),
        bar=2.0,
    )


def memory() -> Iterator[Result]:
    stream, attachment = attached(Hanging(), policy=DeliveryPolicy(queue_size=2_048))

    async def publish(n: int) -> int:
        for number in range(n):
            await stream.publish(create_event(number, topic="orders.created"))
            if number % 1_000 == 0:
                await asyncio.sleep(0)
        return n

    run(publish(10_000))  # fill the queue and the stream's own buffer
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    run(publish(1_000_000))
    gc.collect()
    grown = (tracemalloc.get_traced_memory()[0] - before) / 1024
    tracemalloc.stop()
    health = attachment.health()["hanging"]
    close(attachment)
    assert health.queued == 2_048
    dropped = health.dropped["queue_full"]
    yield Result(
        "1,000,000 events to a sink that hangs: memory beyond a full queue",
        "2,048 events of about 1 KiB each",
        max(grown, 0.0) / 2_048,
        bar=1.0,
        rate=False,
        detail=f"+{grown:.0f} KiB, {health.queued:,} queued, {dropped:,} dropped and counted",
    )
