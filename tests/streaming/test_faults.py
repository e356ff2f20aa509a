"""Faults: interrupts, abandoned tasks, races, and wrong arguments."""

import asyncio
import functools
import gc
import logging
import sys
import threading

import pytest
from codomyrmex.streaming import (
    InMemoryStream,
    Overflow,
    SSEStream,
    StreamProcessor,
    TopicStream,
    create_event,
)
from codomyrmex.streaming.buffers import BoundedQueue
from codomyrmex.streaming.testing import FakeClock, collect
from helpers import DEADLINE, settle


class Abort(BaseException):
    pass


async def test_a_base_exception_of_an_async_handler_loses_one_event():
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    stream, seen = InMemoryStream(), []

    async def handler(event):
        if event.data == 0:
            raise Abort
        seen.append(event.data)

    await stream.subscribe(handler)
    async with asyncio.timeout(DEADLINE):
        for number in range(3):
            stream.publish_nowait(create_event(number))
        await settle()
        await stream.publish(create_event(3))
        await stream.aclose()
    assert seen == [1, 2, 3]
    assert stream.statistics()[:3] == (4, 1, 0)
    gc.collect()


async def test_events_published_by_a_task_of_a_step_are_processed():
    source, sink, tasks = InMemoryStream(), InMemoryStream(), []

    async def later():
        await settle()
        source.publish_nowait(create_event("x"))

    async def leave_a_task(event):
        tasks.append(asyncio.create_task(later()))
        return event

    def step(event):
        if event.data == "start":
            return leave_a_task(event)
        if event.data == "x":
            source.publish_nowait(create_event("y"))
        return event

    processor = StreamProcessor(source).map(step).sink(sink)
    await processor.start()
    with collect(sink) as out:
        await source.publish(create_event("start"))
        await out.wait_for(3, DEADLINE)
    assert [event.data for event in out] == ["start", "x", "y"]
    assert processor.statistics()[:2] == (3, 3)


async def test_a_task_started_by_a_step_may_stop_the_processor():
    source, sink, tasks = InMemoryStream(), InMemoryStream(), []

    async def stop_later():
        await settle()
        await processor.stop()

    async def step(event):
        tasks.append(asyncio.create_task(stop_later()))
        return event

    processor = StreamProcessor(source, clock=FakeClock()).map(step).batch(10, 3600).sink(sink)
    await processor.start()
    with collect(sink) as out:
        await source.publish(create_event("a"))
        async with asyncio.timeout(DEADLINE):
            await tasks[0]
    assert [[event.data for event in batch.data] for batch in out] == [["a"]]


async def test_stop_finishes_events_of_publish_nowait():
    source, sink = InMemoryStream(), InMemoryStream()

    async def step(event):
        await asyncio.sleep(0)
        return event

    processor = StreamProcessor(source).map(step).sink(sink)
    await processor.start()
    for number in range(5):
        source.publish_nowait(create_event(number))
    async with asyncio.timeout(DEADLINE):
        await processor.stop()
    assert [event.data for event in sink.get_recent_events()] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("is_async", [True, False])
async def test_an_event_in_progress_is_finished_after_its_processor_is_cancelled(is_async, recwarn):
    source, sink, seen = InMemoryStream(), InMemoryStream(), []

    async def step(event):
        return event

    async def handler(event):
        seen.append(event.data)

    await sink.subscribe(handler)
    processor = StreamProcessor(source).map(step if is_async else lambda event: event).sink(sink)
    subscription = await processor.start()
    source.publish_nowait(create_event(1))
    subscription.cancel()
    await settle()
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []
    assert seen == [1]
    assert processor.statistics()[:2] == (1, 1)


async def test_a_batch_that_reaches_its_age_leaves_later_events_to_the_next():
    source, sink, clock = InMemoryStream(), InMemoryStream(), FakeClock()
    processor = StreamProcessor(source, clock=clock).batch(2, 10).sink(sink)
    await processor.start()
    with collect(sink) as out:
        await source.publish(create_event(1))
        clock.advance(10)
        await source.publish(create_event(2))
        await source.publish(create_event(3))
        await settle()
    assert [[event.data for event in batch.data] for batch in out] == [[1], [2, 3]]


@pytest.mark.parametrize("base", [InMemoryStream, TopicStream])
async def test_a_processor_uses_the_overridden_publish_of_its_sink(base):
    calls = []

    class Mixin:
        async def publish(self, event):
            calls.append(event.data)
            await super().publish(event)

    class Mine(Mixin, base):
        pass

    source, sink = InMemoryStream(), Mine()
    await StreamProcessor(source).sink(sink).start()
    await source.publish(create_event(1, topic="t"))
    assert calls == [1]
    assert sink.statistics().published == 1


def test_dropping_the_oldest_never_drops_the_newest():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    lost, done = [], threading.Event()
    queue = BoundedQueue(1, Overflow.DROP_OLDEST, lambda item, _: lost.append(item))

    def read():
        while not done.is_set():
            try:
                queue.get()
            except IndexError:
                continue

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(20_000):
            before = len(lost)
            queue.put(number)
            assert number not in lost[before:]
    finally:
        done.set()
        reader.join(DEADLINE)
        sys.setswitchinterval(interval)


async def test_many_full_queues_make_few_log_lines(caplog):
    stream = SSEStream(queue_size=1, overflow=Overflow.BLOCK)
    for _ in range(1_100):
        await stream.subscribe()
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            stream.publish_nowait(create_event(number))
    assert stream.statistics().dropped == 2_200
    assert len(caplog.records) == 1


@pytest.mark.parametrize("wait", [True, False])
async def test_a_failing_handler_does_not_affect_the_queue_of_its_subscription(wait):
    stream = SSEStream()

    async def handler(event):
        raise ValueError(event)

    subscription = await stream.subscribe(handler)
    if wait:
        await stream.publish(create_event(1))
    else:
        stream.publish_nowait(create_event(1))
        await settle()
    assert (await anext(stream.events(subscription.id))).data == 1
    assert stream.statistics()[:3] == (1, 0, 1)


async def test_the_queues_of_disconnected_clients_are_bounded():
    stream = SSEStream(queue_size=1, overflow=Overflow.DISCONNECT)
    ids = [(await stream.subscribe()).id for _ in range(150)]
    for number in range(2):
        await stream.publish(create_event(number))
    assert stream.statistics().subscribers == 0
    left = [client for client in ids if [event async for event in stream.events(client)]]
    assert left == ids[-100:]


@pytest.mark.parametrize("arguments", [(print, None), (None, print), (print, 5), (5, print)])
async def test_a_topic_that_is_not_a_string_is_a_value_error(arguments):
    with pytest.raises(ValueError, match="must be a string"):
        await TopicStream().subscribe(*arguments)


@pytest.mark.parametrize("make", [InMemoryStream, SSEStream])
async def test_a_filter_that_returns_an_awaitable_rejects_the_event(make):
    stream, seen = make(), []

    async def no(data):
        return data is None

    await stream.subscribe(seen.append, filter_fn=lambda event: no(event.data))
    await stream.publish(create_event(1))
    assert seen == []
    assert stream.statistics().handler_errors == 1


def _yields(event):
    yield event


async def _yields_too(event):
    yield event


@pytest.mark.parametrize("handler", [_yields, _yields_too])
async def test_a_handler_that_yields_is_refused(handler):
    with pytest.raises(TypeError, match="generator"):
        await InMemoryStream().subscribe(handler)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: StreamProcessor(42),
        lambda: StreamProcessor(InMemoryStream()).sink(42),
        lambda: StreamProcessor(InMemoryStream()).dead_letters(42),
        lambda: StreamProcessor(InMemoryStream()).on_error(42),
    ],
)
def test_a_wrong_argument_of_a_processor_is_refused_at_once(wrong):
    with pytest.raises(TypeError, match="got 42"):
        wrong()


# What issue reports and attackers have sent


async def test_a_handler_that_returns_a_generator_counts_as_failed(caplog):
    def count(event):
        yield event

    def call(function, event):
        return function(event)

    class Counting:
        def __call__(self, event):
            yield event

    stream, received = InMemoryStream(), []
    await stream.subscribe(functools.partial(call, count))
    await stream.subscribe(Counting())
    await stream.subscribe(received.append)
    await stream.publish(create_event(1))
    assert len(received) == 1
    assert stream.statistics().handler_errors == 2
    assert "nothing would run it" in caplog.text


async def test_the_log_names_a_filter_that_fails(caplog):
    def broken_filter(event):
        raise LookupError("no such key")

    for stream in (InMemoryStream(), SSEStream()):
        stream.subscribe_nowait(lambda event: None, filter_fn=broken_filter)
        await stream.publish(create_event(1))
    async with InMemoryStream() as stream, stream.listen(filter_fn=broken_filter):
        await stream.publish(create_event(1))
    assert caplog.text.count("raised by the filter") == 3
    assert "broken_filter" in caplog.text


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_unusual_base_exception_of_a_handler_does_not_reach_the_publisher(asynchronous):
    class Unusual(BaseException):
        pass

    def fail(event):
        raise Unusual

    async def fail_later(event):
        raise Unusual

    stream, received = InMemoryStream(), []
    await stream.subscribe(fail_later if asynchronous else fail)
    await stream.subscribe(received.append)
    await stream.publish(create_event(1))
    assert len(received) == 1
    assert stream.statistics().handler_errors == 1


async def test_tracebacks_are_formatted_by_a_formatter_that_removes_secrets(caplog, monkeypatch):
    monkeypatch.setattr("codomyrmex.streaming.diagnostics.format_error", lambda error: "cleaned")
    stream = InMemoryStream()

    def fail(event):
        raise ValueError("password=hunter2")

    await stream.subscribe(fail)
    await stream.publish(create_event(1))
    assert "cleaned" in caplog.text
    assert "hunter2" not in caplog.text
