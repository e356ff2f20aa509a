"""`listen()` on every stream, and what each `Overflow` policy does when its queue is full."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
import warnings

import pytest
from codomyrmex.streaming import (
    InMemoryStream,
    Overflow,
    SSEStream,
    Stream,
    StreamClosedError,
    StreamStatistics,
    Subscription,
    TopicError,
    TopicStream,
    create_event,
)
from helpers import DEADLINE, settle, until

each_stream = pytest.mark.parametrize("make", [InMemoryStream, SSEStream, TopicStream])
each_way_to_publish = pytest.mark.parametrize("wait", [True, False], ids=["publish", "publish_nowait"])


def event_of(data, topic="t"):
    return create_event(data, topic=topic)


async def send(stream, data, *, wait=True):
    if wait:
        await stream.publish(event_of(data))
    else:
        stream.publish_nowait(event_of(data))


async def rest_of(events):
    async with asyncio.timeout(DEADLINE):
        return [event.data async for event in events]


async def take(events, count):
    async with asyncio.timeout(DEADLINE):
        return [(await anext(events)).data for _ in range(count)]


class _Reading:
    """A task that reads a listener once `go` is set."""

    def __init__(self, stream, **options):
        self.seen = []
        self.go = asyncio.Event()
        self._entered = asyncio.Event()
        self._stream, self._options = stream, options
        self.events = None

    async def __aenter__(self):
        self.task = asyncio.create_task(self._read())
        await self._entered.wait()
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _read(self):
        async with self._stream.listen(**self._options) as self.events:
            self._entered.set()
            await self.go.wait()
            async for event in self.events:
                self.seen.append(event.data)
                await asyncio.sleep(0)


def full_queue(stream, size=1):
    return _Reading(stream, queue_size=size, overflow=Overflow.BLOCK)


@each_stream
class TestListening:
    async def test_events_arrive_in_order_and_only_while_the_context_lasts(self, make):
        stream = make()
        await send(stream, "before")
        async with stream.listen() as events:
            for number in range(3):
                await send(stream, number)
            assert await take(events, 3) == [0, 1, 2]
        await send(stream, "after")
        assert await rest_of(events) == []
        assert stream.statistics()[:4] == (5, 0, 0, 0)

    async def test_topic_and_filter_choose_the_events(self, make):
        stream = make()
        async with stream.listen("a.*", lambda event: event.data % 2) as events:
            for number, topic in enumerate(["a.b", "a.b", "b", "b", "a.c", "a.c"]):
                await stream.publish(event_of(number, topic))
            await stream.aclose()
            assert await rest_of(events) == [1, 5]
        assert stream.statistics()[:3] == (6, 0, 0)

    async def test_a_filter_that_raises_is_counted_and_drops_only_that_event(self, make):
        def picky(event):
            return 1 / event.data

        stream = make()
        async with stream.listen(filter_fn=picky) as events:
            for number in (1, 0, 2):
                await send(stream, number)
            assert await take(events, 2) == [1, 2]
        assert stream.statistics()[:3] == (3, 0, 1)

    @each_way_to_publish
    async def test_a_waiting_reader_is_woken(self, make, wait):
        stream = make()
        async with _Reading(stream) as reading:
            reading.go.set()
            await settle()
            for number in range(3):
                await send(stream, number, wait=wait)
                await until(lambda size=number + 1: len(reading.seen) == size)
            assert reading.seen == [0, 1, 2]

    async def test_a_waiting_reader_is_woken_from_another_thread_and_loop(self, make):
        stream = make()
        async with stream.listen() as events:
            reading = asyncio.create_task(take(events, 4))
            await settle()
            await asyncio.to_thread(stream.publish_nowait, event_of(0))
            await asyncio.to_thread(lambda: asyncio.run(stream.publish(event_of(1))))
            await asyncio.to_thread(stream.publish_nowait, event_of(2))
            await stream.publish(event_of(3))
            assert await reading == [0, 1, 2, 3]

    async def test_aclose_ends_it_after_the_queued_events(self, make):
        stream = make()
        async with stream.listen() as events:
            for number in range(3):
                await send(stream, number)
            await stream.aclose()
            assert await rest_of(events) == [0, 1, 2]
            assert await rest_of(events) == []

    async def test_aclose_ends_a_waiting_reader_also_from_another_thread(self, make):
        stream = make()
        async with stream.listen() as events:
            reading = asyncio.create_task(rest_of(events))
            await settle()
            await asyncio.to_thread(lambda: asyncio.run(stream.aclose()))
            assert await reading == []

    async def test_the_reader_itself_may_close_the_stream_and_reads_on_to_the_end(self, make):
        stream = make()
        seen = []
        async with asyncio.timeout(DEADLINE), stream.listen() as events:
            for number in range(3):
                await send(stream, number)
            async for event in events:
                seen.append(event.data)
                await stream.aclose()
        assert seen == [0, 1, 2]

    @pytest.mark.parametrize("how", ["cancel", "unsubscribe"])
    async def test_ending_its_subscription_ends_a_waiting_reader(self, make, how):
        stream = make()
        async with stream.listen() as events:
            reading = asyncio.create_task(_until_end(events))
            await settle()
            if how == "cancel":
                events.subscription.cancel()
            else:
                assert await stream.unsubscribe(events.subscription.id)
            await settle()
            ended = reading.done()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        assert ended

    async def test_leaving_the_context_ends_a_reader_in_another_task(self, make):
        stream = make()
        async with stream.listen() as events:
            reading = asyncio.create_task(rest_of(events))
            await settle()
        assert await reading == []
        assert stream.statistics().subscribers == 0

    async def test_a_cancelled_reader_loses_nothing(self, make):
        stream = make()
        async with stream.listen() as events:
            for _ in range(3):
                reading = asyncio.ensure_future(anext(events))
                await settle()
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
            await send(stream, 0)
            assert await take(events, 1) == [0]

    async def test_two_tasks_that_read_the_same_listener_both_end(self, make):
        stream = make()
        seen, ended = [], []

        async def read():
            with contextlib.suppress(RuntimeError):
                while (event := await anext(events, None)) is not None:
                    seen.append(event.data)
            ended.append(True)

        async with stream.listen() as events:
            readers = [asyncio.create_task(read()) for _ in range(2)]
            await settle()
            for number in range(4):
                await send(stream, number)
                await settle()
            await stream.aclose()
            await settle()
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
        assert seen == [0, 1, 2, 3]
        assert ended == [True, True]

    async def test_many_listeners_each_get_everything(self, make):
        stream = make()
        async with stream.listen() as one, stream.listen() as two, stream.listen("t") as three:
            for number in range(3):
                await send(stream, number)
            assert [await take(events, 3) for events in (one, two, three)] == [[0, 1, 2]] * 3
            assert stream.statistics().subscribers == 3

    @pytest.mark.parametrize("size", [0, -1])
    async def test_a_queue_without_room_is_refused(self, make, size):
        with pytest.raises(ValueError):
            make().listen(queue_size=size)

    async def test_an_unknown_policy_is_refused(self, make):
        with pytest.raises(ValueError):
            make().listen(overflow="whatever")

    @pytest.mark.parametrize("topic", ["", "a..b", ">.a", 5])
    async def test_a_malformed_topic_is_refused_on_entering(self, make, topic):
        stream = make()
        with pytest.raises(TopicError):
            async with stream.listen(topic):
                pass
        assert stream.statistics().subscribers == 0
        await stream.aclose()

    async def test_a_listener_is_entered_once_and_before_it_is_read(self, make):
        listener = make().listen()
        with pytest.raises(RuntimeError, match="entered first"):
            await anext(listener)
        async with listener:
            with pytest.raises(RuntimeError, match="entered once"):
                await listener.__aenter__()

    async def test_a_closed_stream_refuses_new_listeners(self, make):
        stream = make()
        await stream.aclose()
        with pytest.raises(StreamClosedError):
            async with stream.listen():
                pass

    async def test_one_cancelled_by_an_earlier_handler_gets_nothing(self, make):
        stream = make()
        await stream.subscribe(lambda _: events.subscription.cancel(), "u")
        async with stream.listen() as events:
            await stream.publish(event_of(0, "u"))
            assert await take_now(events) == []

    @pytest.mark.parametrize("interrupt", [asyncio.CancelledError, KeyboardInterrupt])
    def test_one_behind_an_interrupted_handler_gets_the_event(self, make, interrupt):
        def interrupted(_):
            raise interrupt

        async def scenario():
            stream.subscribe_nowait(interrupted)
            async with stream.listen() as events:
                with pytest.raises(interrupt):
                    await stream.publish(event_of(0))
                return await take_now(events)

        stream = make()
        assert asyncio.run(scenario()) == [0]
        assert stream.statistics()[:3] == (1, 0, 0)

    @pytest.mark.parametrize("published", [0, 2])
    async def test_a_listener_of_a_closed_loop_does_not_affect_publishers(self, make, published):
        stream = make()
        seen = []

        async def listen_for_ever():
            async with stream.listen() as events:
                seen.append(await anext(events, None))

        def leave_one_behind():
            loop = asyncio.new_event_loop()
            task = loop.create_task(listen_for_ever())
            loop.set_exception_handler(lambda *_: None)  # instead of logging the abandoned task
            loop.run_until_complete(asyncio.sleep(0.001))
            loop.close()
            for number in range(published):
                stream.publish_nowait(event_of(number))
            asyncio.run(stream.aclose())
            return task

        async with stream.listen() as here:
            left = await asyncio.to_thread(leave_one_behind)
            assert await rest_of(here) == list(range(published))
        assert seen == []
        assert stream.statistics().handler_errors == 0
        del left


async def _until_end(events):
    async for _ in events:
        pass


async def take_now(events):
    """Read what is queued without waiting for more."""
    found = []
    while True:
        reading = asyncio.ensure_future(anext(events, None))
        await settle()
        if not reading.done():
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            return found
        event = reading.result()
        if event is None:
            return found
        found.append(event.data)


@each_stream
@each_way_to_publish
class TestPolicies:
    async def test_drop_oldest_keeps_the_newest(self, make, wait):
        stream = make()
        async with stream.listen(queue_size=2, overflow=Overflow.DROP_OLDEST) as events:
            for number in range(5):
                await send(stream, number, wait=wait)
            assert events.subscription.dropped == 3
            assert await take_now(events) == [3, 4]
        assert stream.statistics()[:3] == (5, 3, 0)

    async def test_drop_newest_keeps_the_oldest(self, make, wait):
        stream = make()
        async with stream.listen(queue_size=2, overflow=Overflow.DROP_NEWEST) as events:
            for number in range(5):
                await send(stream, number, wait=wait)
            assert events.subscription.dropped == 3
            assert await take_now(events) == [0, 1]
        assert stream.statistics()[:3] == (5, 3, 0)

    async def test_disconnect_ends_it_after_the_queued_events(self, make, wait):
        stream = make()
        async with stream.listen(queue_size=2, overflow=Overflow.DISCONNECT) as events:
            for number in range(5):
                await send(stream, number, wait=wait)
            assert not events.subscription.active
            assert stream.statistics().subscribers == 0
            assert events.subscription.dropped == 1
            assert await rest_of(events) == [0, 1]
        assert stream.statistics()[:3] == (5, 1, 0)

    async def test_room_that_the_reader_has_made_is_used_again(self, make, wait):
        stream = make()
        async with stream.listen(queue_size=1, overflow=Overflow.DISCONNECT) as events:
            for number in range(5):
                await send(stream, number, wait=wait)
                assert await take(events, 1) == [number]
        assert stream.statistics()[:3] == (5, 0, 0)

    async def test_one_full_queue_does_not_concern_another(self, make, wait):
        stream = make()
        small = stream.listen(queue_size=1, overflow=Overflow.DROP_NEWEST)
        async with small, stream.listen(queue_size=9) as large:
            for number in range(3):
                await send(stream, number, wait=wait)
            assert await take_now(small) == [0]
            assert await take_now(large) == [0, 1, 2]
            assert (small.subscription.dropped, large.subscription.dropped) == (2, 0)
        assert stream.statistics()[:3] == (3, 2, 0)


@each_stream
class TestBackPressure:
    async def test_a_publisher_waits_until_the_reader_has_made_room(self, make):
        stream = make()
        async with full_queue(stream) as reading:
            await send(stream, 0)
            publishing = asyncio.create_task(send(stream, 1))
            await settle()
            assert not publishing.done()
            reading.go.set()
            async with asyncio.timeout(DEADLINE):
                await publishing
            await until(lambda: len(reading.seen) >= 2)
            assert reading.seen == [0, 1]
        assert stream.statistics()[:3] == (2, 0, 0)

    async def test_waiting_publishers_are_admitted_in_order(self, make):
        stream = make()
        async with full_queue(stream, size=2) as reading:
            publishers = []
            for number in range(8):
                publishers.append(asyncio.create_task(send(stream, number)))
                await settle()
            reading.go.set()
            async with asyncio.timeout(DEADLINE):
                await asyncio.gather(*publishers)
                await stream.aclose()
                await reading.task
            assert reading.seen == list(range(8))
        assert stream.statistics()[:3] == (8, 0, 0)

    async def test_nothing_is_lost_between_a_fast_publisher_and_a_slow_reader(self, make):
        stream = make()
        async with full_queue(stream, size=3) as reading:
            reading.go.set()
            async with asyncio.timeout(DEADLINE):
                for number in range(100):
                    await send(stream, number)
                await stream.aclose()
                await reading.task
            assert reading.seen == list(range(100))
        assert stream.statistics()[:3] == (100, 0, 0)

    async def test_a_publisher_cancelled_while_it_waits_drops_its_event_and_only_that(self, make, caplog):
        stream = make()
        async with full_queue(stream) as reading:
            await send(stream, 0)
            first, second = (asyncio.create_task(send(stream, number)) for number in (1, 2))
            await settle()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            reading.go.set()
            async with asyncio.timeout(DEADLINE):
                await second
            await until(lambda: len(reading.seen) >= 2)
            assert reading.seen == [0, 2]
            assert reading.events.subscription.dropped == 1
        assert "cancelled" in caplog.text
        assert stream.statistics()[:3] == (3, 1, 0)

    async def test_a_publisher_on_another_loop_waits_too(self, make):
        stream = make()
        async with full_queue(stream) as reading:
            await send(stream, 0)

            async def publish_all():
                for number in range(1, 20):
                    await send(stream, number)

            publishing = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(publish_all())))
            await asyncio.sleep(0.005)
            assert not publishing.done()
            reading.go.set()
            async with asyncio.timeout(DEADLINE):
                await publishing
                await stream.aclose()
                await reading.task
            assert reading.seen == list(range(20))
        assert stream.statistics()[:3] == (20, 0, 0)

    async def test_publishers_in_several_threads_lose_nothing(self, make):
        stream = make()
        count = 60

        async def publish_all(name):
            for number in range(count):
                await send(stream, (name, number))

        async with full_queue(stream, size=2) as reading:
            reading.go.set()
            async with asyncio.timeout(DEADLINE * 2):
                await asyncio.gather(
                    *(asyncio.to_thread(lambda n=name: asyncio.run(publish_all(n))) for name in range(3)),
                    publish_all(3),
                )
                await stream.aclose()
                await reading.task
        for name in range(4):
            assert [n for who, n in reading.seen if who == name] == list(range(count))
        assert stream.statistics()[:3] == (4 * count, 0, 0)

    @pytest.mark.parametrize("end", ["aclose", "cancel", "unsubscribe", "leave", "reader cancelled"])
    async def test_the_end_of_the_listener_releases_a_waiting_publisher(self, make, end):
        stream = make()
        reading = full_queue(stream)
        async with reading:
            await send(stream, 0)
            publishing = asyncio.create_task(send(stream, 1))
            await settle()
            if end == "aclose":
                await stream.aclose()
            elif end == "cancel":
                reading.events.subscription.cancel()
            elif end == "unsubscribe":
                await stream.unsubscribe(reading.events.subscription.id)
            elif end == "leave":
                await reading.events.__aexit__(None, None, None)
            else:
                reading.task.cancel()
            await settle()
            ended = publishing.done()
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        assert ended

    async def test_an_event_that_waited_when_the_stream_was_closed_is_counted_as_dropped(self, make):
        stream = make()
        async with full_queue(stream) as reading:
            await send(stream, 0)
            publishing = asyncio.create_task(send(stream, 1))
            await settle()
            await stream.aclose()
            reading.go.set()
            async with asyncio.timeout(DEADLINE):
                await asyncio.gather(publishing, reading.task)
        assert stream.statistics().dropped == 2 - len(reading.seen)

    async def test_a_publisher_on_another_loop_is_released_when_the_listener_ends(self, make):
        stream = make()
        async with full_queue(stream):
            await send(stream, 0)
            publishing = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(send(stream, 1))))
            await asyncio.sleep(0.005)
        async with asyncio.timeout(DEADLINE):
            await publishing

    async def test_a_publisher_whose_loop_has_died_while_it_waited_does_not_stop_the_reader(self, make):
        stream = make()

        def wait_and_die():
            loop = asyncio.new_event_loop()
            task = loop.create_task(send(stream, "dead"))
            loop.set_exception_handler(lambda *_: None)  # instead of logging the abandoned task
            loop.run_until_complete(asyncio.sleep(0.001))
            loop.close()
            return task

        async with full_queue(stream) as reading:
            await send(stream, 0)
            left = await asyncio.to_thread(wait_and_die)
            publishing = asyncio.create_task(send(stream, 1))
            await settle()
            reading.go.set()
            async with asyncio.timeout(DEADLINE):
                await publishing
                await stream.aclose()
                await reading.task
        assert [data for data in reading.seen if data != "dead"] == [0, 1]
        del left


@each_stream
class TestNoDeadlock:
    async def test_the_task_that_reads_may_publish(self, make, caplog):
        stream = make()
        seen = []
        async with asyncio.timeout(DEADLINE):
            async with stream.listen(queue_size=1, overflow=Overflow.BLOCK) as events:
                await send(stream, "a")
                async for event in events:
                    seen.append(event.data)
                    if event.data == "a":
                        await send(stream, "b")
                        await send(stream, "c")
                        await stream.aclose()
                assert events.subscription.dropped == 1
        assert seen == ["a", "b"]
        assert "task that reads the queue" in caplog.text
        assert stream.statistics()[:3] == (3, 1, 0)

    async def test_the_task_that_will_read_may_publish_before(self, make):
        stream = make()
        async with asyncio.timeout(DEADLINE):
            async with stream.listen(queue_size=1, overflow=Overflow.BLOCK) as events:
                await send(stream, 0)
                await send(stream, 1)
                assert await take(events, 1) == [0]
                assert events.subscription.dropped == 1
        assert stream.statistics()[:3] == (2, 1, 0)

    async def test_a_task_that_the_reader_has_started_waits_as_long_as_the_reader_reads(self, make):
        stream = make()
        seen = []

        async def publish_all():
            for number in range(1, 30):
                await send(stream, number)

        async with (
            asyncio.timeout(DEADLINE),
            stream.listen(queue_size=1, overflow=Overflow.BLOCK) as events,
        ):
            await send(stream, 0)
            publishing = None
            async for event in events:
                seen.append(event.data)
                if publishing is None:
                    publishing = asyncio.create_task(publish_all())
                await asyncio.sleep(0.001)
                if event.data == 29:
                    break
            await publishing
            assert events.subscription.dropped == 0
        assert seen == list(range(30))

    async def test_with_a_block_timeout_a_publisher_waits_no_longer_and_its_event_is_dropped(
        self, make, caplog
    ):
        stream = make()
        listener = stream.listen(queue_size=1, overflow=Overflow.BLOCK, block_timeout=0.01)
        release = asyncio.Event()

        async def read():
            async with listener:
                await send(stream, 0)
                entered.set()
                await release.wait()
                return await rest_of(listener)

        entered = asyncio.Event()
        reading = asyncio.create_task(read())
        async with asyncio.timeout(DEADLINE):
            await entered.wait()
            await send(stream, 1)
            assert listener.subscription.dropped == 1
            release.set()
            await settle()
            await send(stream, 2)
            await stream.aclose()
            assert await reading == [0, 2]
        assert "block_timeout" in caplog.text
        assert stream.statistics()[:3] == (3, 1, 0)

    async def test_publish_nowait_at_a_full_queue_drops_with_a_reason(self, make, caplog):
        stream = make()
        async with full_queue(stream) as reading:
            for number in range(4):
                stream.publish_nowait(event_of(number))
            assert reading.events.subscription.dropped == 3
            reading.go.set()
            await until(lambda: len(reading.seen) >= 1)
            assert reading.seen == [0]
        lines = [record for record in caplog.records if "cannot wait" in record.getMessage()]
        assert len(lines) == 1
        assert stream.statistics()[:3] == (4, 3, 0)

    async def test_a_handler_of_the_stream_that_publishes_while_the_reader_publishes(self, make):
        stream = make()

        async def echo(event):
            if event.data == "ping":
                await send(stream, "pong")

        await stream.subscribe(echo)
        async with (
            asyncio.timeout(DEADLINE),
            stream.listen(queue_size=1, overflow=Overflow.BLOCK) as events,
        ):
            await send(stream, "ping")
            assert events.subscription.dropped == 1
            assert len(await take(events, 1)) == 1
        assert stream.statistics().published == 2


@each_stream
class TestManyThreads:
    @pytest.fixture(autouse=True)
    def _eager_switching(self):
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        yield
        sys.setswitchinterval(before)

    @pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
    @pytest.mark.parametrize("size", [1, 3])
    async def test_each_event_is_read_or_counted_as_dropped(self, make, overflow, size):
        stream = make()
        threads, count = 2, 300
        seen = []
        done = threading.Barrier(threads)

        def publish(name):
            for number in range(count):
                stream.publish_nowait(event_of((name, number)))
            if done.wait(DEADLINE) == 0:
                asyncio.run(stream.aclose())

        async with asyncio.timeout(DEADLINE * 2), stream.listen(queue_size=size, overflow=overflow) as events:
            publishers = [asyncio.create_task(asyncio.to_thread(publish, n)) for n in range(threads)]
            async for event in events:
                seen.append(event.data)
                await asyncio.sleep(0)
            await asyncio.gather(*publishers)
        for name in range(threads):
            numbers = [number for who, number in seen if who == name]
            assert numbers == sorted(set(numbers))
        counts = stream.statistics()
        assert counts.published == threads * count
        assert counts.dropped == events.subscription.dropped == threads * count - len(seen)


class MinimalStream(Stream):
    """A third-party stream: only the abstract methods."""

    def __init__(self):
        self.table = {}

    async def publish(self, event):
        for subscription in list(self.table.values()):
            if subscription.should_receive(event):
                result = subscription.handler(event)
                if result is not None:
                    await result

    def publish_nowait(self, event):
        raise NotImplementedError

    async def subscribe(self, handler, topic="*", filter_fn=None):
        return self.subscribe_nowait(handler, topic, filter_fn)

    def subscribe_nowait(self, handler, topic="*", filter_fn=None):
        subscription = Subscription(None, topic, handler, filter_fn)
        subscription.on_end(lambda ended: self.table.pop(ended.id, None))
        self.table[subscription.id] = subscription
        return subscription

    async def aclose(self):
        for subscription in list(self.table.values()):
            subscription.cancel()

    async def unsubscribe(self, subscription_id):
        return self.table.pop(subscription_id, None) is not None

    def add_interceptor(self, fn):
        raise NotImplementedError

    def remove_interceptor(self, fn):
        raise NotImplementedError

    def statistics(self):
        return StreamStatistics(0, 0, 0, len(self.table), 0)


class TestAThirdPartyStream:
    async def test_it_can_be_listened_to(self):
        stream = MinimalStream()
        async with stream.listen("t", lambda event: event.data != 1) as events:
            for number in range(3):
                await send(stream, number)
            assert await take(events, 2) == [0, 2]

    async def test_leaving_its_context_ends_listeners_after_the_queued_events(self):
        async with MinimalStream() as stream:
            listener = await stream.listen().__aenter__()
            await send(stream, 0)
        assert await rest_of(listener) == [0]

    @pytest.mark.parametrize(
        ("overflow", "left", "dropped"),
        [
            (Overflow.DROP_OLDEST, [3, 4], 3),
            (Overflow.DROP_NEWEST, [0, 1], 3),
            (Overflow.DISCONNECT, [0, 1], 1),
        ],
    )
    async def test_each_policy_holds_and_counts_on_the_subscription(self, overflow, left, dropped):
        stream = MinimalStream()
        async with stream.listen(queue_size=2, overflow=overflow) as events:
            for number in range(5):
                await send(stream, number)
            assert events.subscription.dropped == dropped
            assert await take_now(events) == left

    async def test_back_pressure_works(self):
        stream = MinimalStream()
        async with full_queue(stream) as reading:
            await send(stream, 0)
            publishing = asyncio.create_task(send(stream, 1))
            await settle()
            assert not publishing.done()
            reading.go.set()
            async with asyncio.timeout(DEADLINE):
                await publishing
            await until(lambda: len(reading.seen) >= 2)
            assert reading.seen == [0, 1]

    async def test_leaving_the_context_removes_the_subscription(self):
        stream = MinimalStream()
        for _ in range(3):
            async with stream.listen():
                assert stream.statistics().subscribers == 1
            assert stream.statistics().subscribers == 0


class TestTopicStreamWithListeners:
    @pytest.mark.parametrize("when", ["before", "after"])
    async def test_a_topic_with_a_listener_is_dropped_last(self, when):
        stream = TopicStream(max_topics=2)
        if when == "after":
            await stream.publish(event_of(0, "a"))
        async with stream.listen("a"):
            if when == "before":
                await stream.publish(event_of(0, "a"))
            await stream.publish(event_of(0, "b"))
            await stream.publish(event_of(0, "c"))
            assert sorted(stream.list_topics()) == ["a", "c"]


class TestUnawaited:
    @pytest.mark.parametrize("make", [InMemoryStream, SSEStream, TopicStream])
    def test_publish_nowait_without_any_loop_reaches_a_listener_of_a_stopped_loop(self, make):
        stream = make()
        loop = asyncio.new_event_loop()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            events = loop.run_until_complete(stream.listen().__aenter__())
            for number in range(3):
                stream.publish_nowait(event_of(number))
            loop.run_until_complete(stream.aclose())
            assert loop.run_until_complete(rest_of(events)) == [0, 1, 2]
            loop.close()
            gc.collect()
