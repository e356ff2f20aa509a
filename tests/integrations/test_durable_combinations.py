"""Everything that takes a stream works on a durable one, with the publisher in another process as well.

Another process is a second `DurableStream` on the same file here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

import pybreaker
import pytest
import structlog
from alert_channels import fires, instead_of_apprise, routing, until, urls
from codomyrmex.integrations import DeliveryPolicy, PermanentError, Sink, attach
from codomyrmex.integrations.durable import DurableStream, SQLiteStore
from codomyrmex.integrations.logging_monitoring import (
    OpenTelemetrySink,
    PublishLogs,
    StreamLogHandler,
    StructlogSink,
    stamp_trace_context,
    trace_publishing,
)
from codomyrmex.integrations.notification import AlertSink
from codomyrmex.integrations.service_mesh import CircuitBoard
from codomyrmex.integrations.service_mesh.pybreaker_feed import attach_pybreaker
from codomyrmex.integrations.web import event_ingest
from codomyrmex.streaming import Event, InMemoryStream, StreamProcessor, create_event
from httpx import ASGITransport, AsyncClient
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from structlog.testing import capture_logs

NOW = DeliveryPolicy(batch_age=0, max_attempts=1)


class Keeper(Sink):
    def __init__(self, name: str = "keeper") -> None:
        self.name = name
        self.events: list[Event] = []

    async def send(self, events: Sequence[Event]) -> None:
        self.events += events


@pytest.fixture
async def processes(tmp_path) -> AsyncIterator[tuple[DurableStream, DurableStream]]:
    """Return the stream of two processes: that which publishes, and another one."""
    path = tmp_path / "events.db"
    async with DurableStream(SQLiteStore(path)) as here, DurableStream(SQLiteStore(path)) as there:
        yield here, there


async def stored(stream: DurableStream) -> list[object]:
    await stream.flush()
    return [record.event.data for record in await stream.read(limit=1_000)]


async def test_a_board_in_every_process_shows_the_circuit_breakers_of_all(processes):
    here, there = processes
    with CircuitBoard(here) as mine, CircuitBoard(there) as other:
        breaker = pybreaker.CircuitBreaker(fail_max=1, name="payments")
        feed = attach_pybreaker(breaker, here)
        with pytest.raises(pybreaker.CircuitBreakerError):
            breaker.call(lambda: 1 / 0)
        for board in (mine, other):
            await until(lambda board=board: [status.state for status in board.snapshot()] == ["open"])
        feed.close()


async def test_log_records_become_events_but_not_those_about_the_store(processes):
    here, _ = processes
    handler = StreamLogHandler(here)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        logging.getLogger("shop").warning("the shop is open")
        here.publish_nowait(create_event("x" * 2_000_000))  # logged as dropped
        assert here.health().dropped == {"too_large": 1}
        await asyncio.sleep(0.05)
    finally:
        root.removeHandler(handler)
    assert [data["event"] for data in await stored(here)] == ["the shop is open"]


async def test_a_store_that_is_away_is_logged_and_causes_no_events_about_itself(tmp_path):
    (tmp_path / "events.db").mkdir()
    stream = DurableStream(SQLiteStore(tmp_path / "events.db"), publish_timeout=0.2)
    handler = StreamLogHandler(stream)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        logging.getLogger("shop").warning("the shop is open")
        await until(lambda: stream.health().dropped or not stream.health().available)
        await asyncio.sleep(0.3)
        assert stream.statistics().published == 1
    finally:
        root.removeHandler(handler)
        await stream.aclose()


async def test_structlog_publishes_into_a_durable_stream_from_a_thread_without_a_loop(processes):
    here, _ = processes
    structlog.configure(
        processors=[PublishLogs(here), structlog.processors.JSONRenderer()],
        logger_factory=structlog.ReturnLoggerFactory(),
    )
    await asyncio.to_thread(structlog.get_logger().warning, "paid", amount=3)
    assert [(data["event"], data["amount"]) for data in await stored(here)] == [("paid", 3)]


async def test_structlog_writes_a_line_where_an_event_is_published_and_with_the_context_of_the_publisher(
    processes,
):
    here, there = processes
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        async with attach(here, StructlogSink()), attach(there, Keeper(), policy=NOW) as attachment:
            with structlog.contextvars.bound_contextvars(request="r1"):
                await here.publish(create_event({"order": 1}, topic="orders"))
            await there.publish(create_event({"order": 2}, topic="orders"))
            assert await attachment.flush(10)
    assert [(line["data"], line["request"]) for line in lines] == [({"order": 1}, "r1")]


class Traces:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def spans(self, kind: SpanKind) -> list:
        return [span for span in self.exporter.get_finished_spans() if span.kind is kind]


async def test_a_sink_in_another_process_continues_the_trace_of_the_publisher(processes):
    here, there = processes
    traces, sink = Traces(), Keeper()
    trace_publishing(here, tracer_provider=traces.provider)
    async with attach(there, sink, policy=NOW) as attachment:
        trace_publishing(there, attachment, tracer_provider=traces.provider)
        with trace.use_span(
            traces.provider.get_tracer("test").start_span("request"), end_on_exit=True
        ) as request:
            await here.publish(create_event({"order": 1}, topic="orders"))
        await until(lambda: traces.spans(SpanKind.CONSUMER))
    [producer], [consumer] = traces.spans(SpanKind.PRODUCER), traces.spans(SpanKind.CONSUMER)
    assert producer.parent.span_id == request.get_span_context().span_id
    assert consumer.context.trace_id == producer.context.trace_id == request.get_span_context().trace_id
    assert producer.context.span_id in {
        consumer.parent.span_id,
        *(link.context.span_id for link in consumer.links),
    }
    assert sink.events[0].metadata["traceparent"].split("-")[2] == f"{producer.context.span_id:016x}"


async def test_an_event_is_on_the_span_of_its_publisher_and_only_there(processes):
    here, there = processes
    traces = Traces()
    tracer = traces.provider.get_tracer("test")
    stamp_trace_context(here)
    async with attach(here, OpenTelemetrySink()), attach(there, OpenTelemetrySink()):
        with tracer.start_as_current_span("one") as one:
            await here.publish(create_event({"order": 1}, topic="orders"))
        with tracer.start_as_current_span("two") as two:
            await there.publish(create_event({"order": 2}, topic="orders"))
        await asyncio.sleep(0.05)
    assert [len(span.events) for span in (one, two)] == [1, 1]


async def test_an_alert_of_any_process_is_sent_by_the_one_that_delivers(processes, monkeypatch):
    here, there = processes
    apprise = instead_of_apprise(monkeypatch)
    config = routing(urls(), route={"group_wait": "0s"})
    async with attach(there, AlertSink(config), policy=NOW), attach(here, AlertSink(config), policy=NOW):
        await here.publish(fires("disk full"))
        await until(lambda: "ops[0]" in apprise and apprise["ops[0]"].received)
        await asyncio.sleep(0.1)
        assert apprise["ops[0]"].summaries == ["firing: disk full"]


@pytest.mark.parametrize("source_is_durable", [True, False])
async def test_a_processor_reads_and_writes_memory_and_durable_streams(source_is_durable, processes):
    durable, there = processes
    memory = InMemoryStream()
    source, target = (durable, memory) if source_is_durable else (memory, durable)
    results: list[object] = []
    await (there if target is durable else memory).subscribe(lambda event: results.append(event.data))
    steps = (
        StreamProcessor(source)
        .filter(lambda event: event.data % 2)
        .map(lambda event: event.replace(data=event.data * 10))
    )
    processor = steps.sink(target)
    await processor.start()
    for number in range(6):
        await (there if source is durable else source).publish(create_event(number))
    await until(lambda: len(results) == 3)
    await processor.stop()
    assert results == [10, 30, 50]


async def test_an_event_that_ingest_has_acknowledged_is_in_the_store(processes):
    here, there = processes
    transport = ASGITransport(app=event_ingest(here))
    async with AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.post("/", json={"type": "message", "data": {"order": 1}})
        assert answer.is_success, answer.text
        assert await stored(there) == [{"order": 1}]


async def test_a_stream_may_receive_the_health_and_the_dead_letters_of_its_own_sinks(processes):
    here, there = processes

    async def refuse(_: Sequence[Event]) -> None:
        raise PermanentError("no")

    other = Keeper("other")
    failing = Sink.from_function(refuse, name="failing")
    options = {"policy": NOW, "dead_letters": here, "health_stream": here}
    async with attach(here, failing, **options), attach(there, other, policy=NOW) as attachment:
        await here.publish(create_event("order", topic="orders"))
        await until(lambda: len(other.events) >= 3)
        await asyncio.sleep(0.1)
        assert await attachment.flush(10)
    topics = [event.topic for event in other.events]
    assert sorted(topics) == ["dead_letter", "orders", "sink.failing.losing"]
