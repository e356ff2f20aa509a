"""Records that are logged because of a log event are not published again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from itertools import count
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue
from threading import Event as Flag
from typing import Any

import pytest
import structlog
from codomyrmex.integrations import DeliveryPolicy, PermanentError, Sink, attach
from codomyrmex.integrations.logging_monitoring import PublishLogs, StreamLogHandler, StructlogSink
from codomyrmex.streaming import (
    Event,
    EventType,
    InMemoryStream,
    SSEStream,
    Stream,
    StreamProcessor,
    create_event,
)
from codomyrmex.streaming.provenance import cause
from codomyrmex.streaming.testing import FakeClock
from helpers import in_time, settle

NOW = DeliveryPolicy(batch_age=0, max_attempts=1, breaker_failures=10**6)
LIMIT = 50  # events until a loop is interrupted
_numbers = count()


class Logged:
    """A logger whose records are published to a stream that interrupts loops."""

    def __init__(self, stream: Stream | None = None) -> None:
        self.stream = InMemoryStream() if stream is None else stream
        self.logger = logging.getLogger(f"loops.{next(_numbers)}")
        self.logger.propagate = False
        self.handler = StreamLogHandler(self.stream)
        self.logger.addHandler(self.handler)
        self._passed = 0
        self.stream.add_interceptor(self._interrupt)

    def _interrupt(self, event: Event) -> Event | None:
        self._passed += 1
        return event if self._passed < LIMIT else None

    def write(self, *_: object) -> None:
        self.logger.warning("again")


@pytest.fixture
def logged() -> Iterator[Logged]:
    logged = Logged()
    yield logged
    logged.logger.removeHandler(logged.handler)


async def settled(logged: Logged, *, published: int = 1) -> None:
    for _ in range(20):
        await settle()
    assert logged.handler.published == published
    assert logged.handler.suppressed >= 1


def sink_that(does: Callable[[], None], *, fails: bool = False) -> Sink:
    async def send(events: Sequence[Event]) -> None:
        does()
        if fails:
            raise PermanentError("no")

    return Sink.from_function(send, name=f"loop-{next(_numbers)}")


@in_time
async def test_an_observer_of_attempts_causes_no_loop(logged):
    async with attach(logged.stream, sink_that(lambda: None), policy=NOW) as attachment:
        attachment.on_attempt(logged.write)
        logged.write()
        await settled(logged)


@in_time
async def test_dead_letters_in_another_stream_cause_no_loop(logged):
    dead = InMemoryStream()
    dead.subscribe_nowait(logged.write)
    async with attach(logged.stream, sink_that(lambda: None, fails=True), policy=NOW, dead_letters=dead):
        logged.write()
        await settled(logged)


@in_time
async def test_changes_of_health_cause_no_loop(logged):
    healthy = InMemoryStream()
    healthy.subscribe_nowait(logged.write)

    async def send(_: Sequence[Event]) -> None:
        raise OSError("away")

    sink = Sink.from_function(send, name=f"loop-{next(_numbers)}")
    async with attach(logged.stream, sink, policy=NOW, health_stream=healthy):
        logged.write()
        await settled(logged)


@in_time
async def test_sinks_of_derived_events_cause_no_loop(logged):
    derived = InMemoryStream()
    logged.stream.subscribe_nowait(lambda event: derived.publish_nowait(create_event("derived")))
    async with attach(derived, sink_that(logged.write), policy=NOW):
        logged.write()
        await settled(logged)


@in_time
async def test_listeners_of_derived_events_cause_no_loop(logged):
    derived = InMemoryStream()
    logged.stream.subscribe_nowait(lambda event: derived.publish_nowait(create_event("derived")))

    async def listen() -> None:
        async with derived.listen() as events:
            async for _ in events:
                logged.write()

    listening = asyncio.create_task(listen())
    await settle()
    logged.write()
    await settled(logged)
    listening.cancel()


@pytest.mark.parametrize("read", ["events", "sse_generator"])
@in_time
async def test_readers_of_server_sent_events_cause_no_loop(read):
    logged = Logged(SSEStream())
    subscription = await logged.stream.subscribe()

    async def serve() -> None:
        async for _ in getattr(logged.stream, read)(subscription.id):
            logged.write()

    serving = asyncio.create_task(serve())
    await settle()
    logged.write()
    await settled(logged)
    serving.cancel()


@in_time
async def test_batches_of_a_processor_cause_no_loop(logged):
    batches, clock = InMemoryStream(), FakeClock()
    batches.subscribe_nowait(logged.write)
    processor = StreamProcessor(logged.stream, clock=clock).batch(10, 60).sink(batches)
    await processor.start()
    async with attach(batches, sink_that(logged.write), policy=NOW):
        logged.write()
        clock.advance(60)
        await settled(logged)
    await processor.stop()


@in_time
async def test_a_sink_may_log_again_after_the_log_events(logged):
    async with attach(logged.stream, sink_that(logged.write), policy=NOW) as attachment:
        logged.write()
        await attachment.flush()
        assert (logged.handler.published, logged.handler.suppressed) == (1, 1)
        await logged.stream.publish(create_event("not a log", EventType.MESSAGE))
        await attachment.flush()
        assert logged.handler.published == 2


@in_time
async def test_a_listener_may_log_again_afterwards(logged):
    async with logged.stream.listen() as events:
        logged.write()
        async for _ in events:
            break
    assert cause.get() is None
    logged.write()
    assert logged.handler.published == 2


# Unusual records and lines


def record_of(stream: InMemoryStream) -> Any:
    [event] = stream.get_recent_events()
    return event


def test_a_level_that_is_not_a_string_is_not_a_failure():
    stream = InMemoryStream()
    feed = PublishLogs(stream, min_level="debug")
    for level in ([], None, 3):
        feed(None, "error", {"event": "x", "level": level})
    assert [event.topic for event in stream.get_recent_events()] == ["logs.error"] * 3


def test_a_record_of_the_standard_library_has_its_own_level():
    stream = InMemoryStream()
    record = logging.LogRecord("shop", 35, "shop.py", 1, "x", None, None)
    PublishLogs(stream)(None, "log", {"event": "x", "_record": record})
    PublishLogs(InMemoryStream())(None, "error", {"event": "x", "_record": "the user's own"})
    assert record_of(stream).topic == "logs.warning"


def test_a_filter_that_raises_does_not_affect_the_caller():
    stream = InMemoryStream()
    logged = Logged(stream)
    logged.handler.addFilter(lambda record: 1 / 0)
    logged.write()
    assert logged.handler.failed == 1


def test_the_traceback_of_a_structlog_record_is_kept():
    stream = InMemoryStream()
    logged = Logged(stream)
    try:
        1 / 0  # noqa: B018 - for the traceback
    except ZeroDivisionError:
        logged.logger.error({"event": "x", "exc_info": True})  # noqa: TRY400 - as structlog passes it on
    assert "ZeroDivisionError" in record_of(stream).data["exception"]


@pytest.mark.parametrize("level", [0, 5, 25, 35, 60])
def test_a_level_between_the_named_ones_is_the_one_below(level):
    with structlog.testing.capture_logs() as lines:
        StructlogSink(level=level).emit(create_event(1, topic="t"))
    assert lines[0]["log_level"] in {"debug", "info", "warning", "critical"}


def test_a_logger_without_numeric_levels_works_too():
    lines: list[dict[str, Any]] = []

    def keep(_: Any, method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
        lines.append({**event_dict, "method": method})
        raise structlog.DropEvent

    logger = structlog.wrap_logger(
        structlog.ReturnLogger(), processors=[keep], wrapper_class=structlog.BoundLogger
    )
    sink = StructlogSink(logger)
    sink.emit(create_event(1, topic="t"))
    sink.emit(create_event(2, EventType.ERROR, topic="t", more=1))
    assert [(line["method"], line["data"]) for line in lines] == [("info", 1), ("error", 2)]


def test_fields_with_reserved_names_are_all_logged():
    with structlog.testing.capture_logs() as lines:
        StructlogSink(fields={"data": 1, "data_": 2, "name": 3}).emit(create_event(0))
    assert {"data_": 1, "data__": 2, "name_": 3}.items() <= lines[0].items()


@pytest.mark.parametrize(
    "stamp",
    [
        "00-" + "0" * 32 + "-" + "b" * 16 + "-01",
        "00-" + "a" * 32 + "-" + "0" * 16 + "-01",
        "ff-" + "a" * 32 + "-" + "b" * 16 + "-01",
        "00-" + "a" * 32 + "-" + "b" * 16 + "-01-more",
    ],
    ids=["no trace", "no span", "version ff", "more parts than version 00 has"],
)
def test_a_stamp_that_the_standard_forbids_is_ignored(stamp):
    with structlog.testing.capture_logs() as lines:
        StructlogSink().emit(create_event(1, traceparent=stamp))
    assert "trace_id" not in lines[0]


# In another context


@pytest.mark.parametrize("published_by", ["handler", "processor"])
def test_a_record_behind_a_queue_is_known_to_stem_from_a_log_event(published_by):
    stream, name = InMemoryStream(), f"loops.{next(_numbers)}"
    logger, queue = logging.getLogger(name), SimpleQueue()
    logger.propagate = False
    logger.addHandler(QueueHandler(queue))
    feed: Any = StreamLogHandler(stream) if published_by == "handler" else PublishLogs(stream)
    last: logging.Handler = feed if published_by == "handler" else logging.StreamHandler(StringIO())
    if published_by == "processor":
        pre = [structlog.stdlib.add_log_level, feed]
        json = structlog.processors.JSONRenderer()
        last.setFormatter(structlog.stdlib.ProcessorFormatter(json, foreign_pre_chain=pre))
    wrapped = structlog.wrap_logger(
        logger,
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[structlog.processors.JSONRenderer()],
    )
    sink = StructlogSink(wrapped, level="error")

    def emit(event: Event) -> None:
        token = cause.set(event.metadata["codomyrmex.origin"])
        sink.emit(event)
        cause.reset(token)

    stream.subscribe_nowait(emit)
    listener = QueueListener(queue, last)
    listener.start()
    logger.warning("once")
    for _ in range(500):
        if feed.suppressed:
            break
        Flag().wait(0.01)
    listener.stop()
    assert (feed.published, feed.suppressed) == (1, 1)


def test_an_extra_with_the_name_of_a_field_is_kept():
    stream = InMemoryStream()
    logger = logging.getLogger(f"loops.{next(_numbers)}")
    logger.propagate = False
    logger.addHandler(StreamLogHandler(stream))
    extra = {"level": "gold", "logger": 1, "event": None, "location": "Bonn", "level_": 2, "plain": 3}
    logger.warning("hello", extra=extra)
    logger.warning({"event": "a dict", "thread": "of an argument", "level": "warning"})
    first, second = (event.data for event in stream.get_recent_events())
    assert (first["level"], first["event"]) == ("warning", "hello")
    kept = {name: first[name] for name in ("logger_", "event_", "location_", "plain")}
    assert kept == {"logger_": 1, "event_": None, "location_": "Bonn", "plain": 3}
    assert {first["level_"], first["level__"]} == {"gold", 2}
    assert (second["thread_"], "level_" in second) == ("of an argument", False)
