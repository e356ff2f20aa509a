"""Faults that come from somewhere else: interrupts, readers that vanish, circles, and the ends of things."""

import asyncio
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
from codomyrmex.streaming.buffers import BoundedQueue, _reading
from codomyrmex.streaming.testing import FakeClock, collect

DEADLINE = 5


class Abort(BaseException):
    pass


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_handler_that_aborts_its_mailbox_does_not_keep_later_events_from_it():
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
    assert stream.statistics()[:4] == (4, 3, 1, 0)
    gc.collect()


async def test_what_a_task_left_behind_by_a_stage_publishes_is_an_event_like_any_other():
    source, sink, tasks = InMemoryStream(), InMemoryStream(), []

    async def later():
        await settle()
        source.publish_nowait(create_event("x"))

    async def leave_a_task(event):
        tasks.append(asyncio.create_task(later()))
        return event

    def stage(event):
        if event.data == "start":
            return leave_a_task(event)
        if event.data == "x":
            source.publish_nowait(create_event("y"))
        return event

    processor = StreamProcessor(source).map(stage).sink(sink)
    await processor.start()
    with collect(sink) as out:
        await source.publish(create_event("start"))
        await out.wait_for(3, DEADLINE)
    assert [event.data for event in out] == ["start", "x", "y"]
    assert processor.statistics()[:2] == (3, 3)


async def test_a_task_left_behind_by_a_stage_may_stop_the_processor():
    source, sink, tasks = InMemoryStream(), InMemoryStream(), []

    async def stop_later():
        await settle()
        await processor.stop()

    async def stage(event):
        tasks.append(asyncio.create_task(stop_later()))
        return event

    processor = StreamProcessor(source, clock=FakeClock()).map(stage).batch(10, 3600).sink(sink)
    await processor.start()
    with collect(sink) as out:
        await source.publish(create_event("a"))
        async with asyncio.timeout(DEADLINE):
            await tasks[0]
    assert [[event.data for event in batch.data] for batch in out] == [["a"]]


async def test_a_circle_is_seen_also_where_a_stage_waits_in_two_places():
    first, second, third = InMemoryStream(), InMemoryStream(), InMemoryStream()
    release = asyncio.Event()

    async def to_both(event):
        if event.data == "x":
            await asyncio.gather(third.publish(create_event("p")), second.publish(create_event("p")))
        return event

    async def back(event):
        if event.data == "start":
            await release.wait()
            await first.publish(create_event("back"))
        return event

    async def hold(event):
        if event.data == "start":
            await release.wait()
        return event

    for source, stage in ((first, to_both), (second, back), (third, hold)):
        await StreamProcessor(source).map(stage).sink(InMemoryStream()).start()
    async with asyncio.timeout(DEADLINE):
        publishing = [
            asyncio.create_task(stream.publish(create_event("start"))) for stream in (second, third)
        ]
        await settle()
        publishing.append(asyncio.create_task(first.publish(create_event("x"))))
        await settle()
        release.set()
        await asyncio.gather(*publishing)


async def test_stopping_a_processor_does_not_throw_away_what_was_published_without_waiting():
    source, sink = InMemoryStream(), InMemoryStream()

    async def stage(event):
        await asyncio.sleep(0)
        return event

    processor = StreamProcessor(source).map(stage).sink(sink)
    await processor.start()
    for number in range(5):
        source.publish_nowait(create_event(number))
    async with asyncio.timeout(DEADLINE):
        await processor.stop()
    assert [event.data for event in sink.get_recent_events()] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("is_async", [True, False])
async def test_cancelling_a_processor_closes_what_it_will_not_await(is_async, recwarn):
    source, sink, seen = InMemoryStream(), InMemoryStream(), []

    async def stage(event):
        return event

    async def handler(event):
        seen.append(event.data)

    await sink.subscribe(handler)
    processor = StreamProcessor(source).map(stage if is_async else lambda event: event).sink(sink)
    subscription = await processor.start()
    source.publish_nowait(create_event(1))
    subscription.cancel()
    await settle()
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []
    assert processor.statistics().dropped == 1


async def test_a_batch_that_comes_of_age_does_not_take_the_events_after_it_along():
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
async def test_a_publish_of_ones_own_is_used_by_a_processor_too(base):
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


async def test_two_readers_that_publish_to_each_other_do_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr("codomyrmex.streaming.buffers._PATIENCE", 0.01)
    left, right = InMemoryStream(), InMemoryStream()

    async def read(events, other):
        async for event in events:
            await other.publish(event)
            await other.publish(event)

    async with (
        asyncio.timeout(DEADLINE),
        left.listen(queue_size=1, overflow=Overflow.BLOCK) as from_left,
        right.listen(queue_size=1, overflow=Overflow.BLOCK) as from_right,
    ):
        readers = [asyncio.create_task(read(from_left, right)), asyncio.create_task(read(from_right, left))]
        await left.publish(create_event(1))
        await right.publish(create_event(1))
        while not (left.statistics().dropped and right.statistics().dropped):
            await asyncio.sleep(0.01)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


@pytest.mark.parametrize("how", ["closed", "dropped"])
async def test_a_reader_that_goes_lets_the_waiting_publisher_go(how):
    stream = SSEStream(queue_size=1, overflow=Overflow.BLOCK)
    subscription = await stream.subscribe()
    leave = asyncio.Event()

    async def read():
        reader = stream.events(subscription.id)
        await anext(reader)
        await leave.wait()
        if how == "closed":
            await reader.aclose()
        del reader
        await asyncio.Event().wait()

    reading = asyncio.create_task(read())
    await settle()
    async with asyncio.timeout(DEADLINE):
        await stream.publish(create_event(1))
        await settle()
        await stream.publish(create_event(2))
        publishing = asyncio.create_task(stream.publish(create_event(3)))
        await settle()
        assert not publishing.done()
        leave.set()
        await publishing
    reading.cancel()
    assert subscription.dropped == 1


def test_dropping_the_oldest_never_drops_the_newest():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    lost, done = [], threading.Event()
    queue = BoundedQueue(1, Overflow.DROP_OLDEST, lambda item, _: lost.append(item))

    def read():
        while not done.is_set():
            try:
                queue.take()
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
async def test_a_failing_handler_takes_nothing_from_what_its_queue_delivers(wait):
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
    assert stream.statistics()[:4] == (1, 1, 0, 1)


async def test_a_slow_handler_does_not_keep_subscribe_at_the_replay_for_ever():
    stream = SSEStream(buffer_size=10, queue_size=10)
    first = create_event("first")
    await stream.publish(first)
    await stream.publish(create_event("missed"))
    seen, go_on = [], asyncio.Event()

    async def slow(event):
        seen.append(event.data)
        await go_on.wait()

    subscribing = asyncio.create_task(stream.subscribe(slow, last_event_id=first.id))
    await settle()
    for number in range(50):
        await stream.publish(create_event(number))
    go_on.set()
    async with asyncio.timeout(DEADLINE):
        subscription = await subscribing
        await stream.aclose()
    assert seen[1:] == ["missed", *range(40, 50)]
    assert subscription.dropped >= 40


async def test_what_slow_clients_leave_behind_is_bounded():
    stream = SSEStream(queue_size=1, overflow=Overflow.DISCONNECT)
    ids = [(await stream.subscribe()).id for _ in range(150)]
    for number in range(2):
        await stream.publish(create_event(number))
    assert stream.statistics().subscribers == 0
    left = [client for client in ids if [event async for event in stream.events(client)]]
    assert left == ids[-100:]


async def test_closed_listeners_leave_no_mark_in_their_context():
    stream = InMemoryStream()
    for _ in range(3):
        async with stream.listen(overflow=Overflow.BLOCK):
            assert len(_reading.get()) == 1
    assert _reading.get() == frozenset()


@pytest.mark.parametrize("arguments", [(print, None), (None, print), (print, 5), (5, print)])
async def test_a_topic_that_is_no_string_is_a_value_error(arguments):
    with pytest.raises(ValueError, match="pattern is a string"):
        await TopicStream().subscribe(*arguments)


@pytest.mark.parametrize("make", [InMemoryStream, SSEStream])
async def test_a_filter_that_gives_an_awaitable_lets_nothing_through(make):
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
    with pytest.raises(TypeError, match="must not yield"):
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
def test_a_processor_says_at_once_what_is_wrong(wrong):
    with pytest.raises(TypeError, match="not 42"):
        wrong()


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_handler_that_ends_its_subscription_in_the_replay_gets_nothing_more(is_async):
    stream, seen = SSEStream(), []
    events = [create_event(number) for number in range(4)]
    for event in events:
        await stream.publish(event)

    def end(event):
        seen.append(event.data)
        for recipient in list(stream._recipients.values()):
            recipient.subscription.cancel()

    async def end_later(event):
        end(event)

    async with asyncio.timeout(DEADLINE):
        subscription = await stream.subscribe(end_later if is_async else end, last_event_id=events[0].id)
    await settle()
    assert seen == [{"resumed": True, "replayed": 3}]
    assert not subscription.active
