"""`BoundedQueue`: the queue between publishers in any thread and one reader."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from codomyrmex.streaming import InMemoryStream, Overflow, SSEStream, create_event
from codomyrmex.streaming.buffers import BoundedQueue, PublishWait
from codomyrmex.streaming.testing import FakeClock
from helpers import DEADLINE, LoopThread, in_time, settle, until


class Queue(BoundedQueue[int]):
    """A queue that notes what it drops."""

    def __init__(self, size: int = 1, overflow: Overflow = Overflow.BLOCK, **options: Any) -> None:
        self.drops: list[tuple[int, str | None]] = []
        super().__init__(size, overflow, lambda item, reason: self.drops.append((item, reason)), **options)


async def wait_for(put: PublishWait | None) -> None:
    assert put is not None
    await put


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "queue_size: must be at least 1, got 0"),
        ({"block_timeout": 0}, "block_timeout: must be greater than 0, got 0"),
        ({"block_timeout": math.nan}, "block_timeout: must be greater than 0, got nan"),
        ({"overflow": "sometimes"}, "overflow: must be one of block, .* got 'sometimes'"),
    ],
    ids=str,
)
def test_a_parameter_out_of_range_is_refused_with_its_value(options, message):
    with pytest.raises(ValueError, match=message):
        Queue(**options)
    names = {"size": "queue_size"}
    named = {names.get(name, name): value for name, value in options.items()}
    with pytest.raises(ValueError, match=message):
        SSEStream(**named)
    with pytest.raises(ValueError, match=message):
        InMemoryStream().listen(**named)


def test_items_come_out_in_the_order_of_putting_one_or_many_at_once():
    queue = Queue(5, Overflow.DROP_OLDEST)
    for number in range(5):
        assert queue.put(number) is None
    assert queue.get() == 0
    assert queue.get_many(2) == [1, 2]
    assert queue.get_many(9) == [3, 4]
    for get in (queue.get, lambda: queue.get_many(1)):
        with pytest.raises(IndexError):
            get()


@pytest.mark.parametrize("overflow", list(Overflow))
def test_the_position_counts_every_item_that_has_been_in_the_queue(overflow):
    queue = Queue(2, overflow)
    for number in range(4):
        put = queue.put(number)
        if put is not None:
            put.skip()
    queue.get_many(1)
    assert queue.position() == (4 if overflow is Overflow.DROP_OLDEST else 2)
    assert queue.evicted == (2 if overflow is Overflow.DROP_OLDEST else 0)


def test_disconnect_closes_the_queue_once_and_what_is_queued_can_be_read():
    calls: list[str] = []
    queue = Queue(1, Overflow.DISCONNECT, on_disconnect=lambda: calls.append("disconnected"))
    for number in range(3):
        queue.put(number)
    assert queue.closed
    assert calls == ["disconnected"]
    assert queue.drops == [(1, None), (2, None)]
    assert queue.get() == 0


@pytest.mark.parametrize("discard", [False, True])
def test_a_closed_queue_keeps_its_items_unless_they_are_discarded_and_the_final_one(discard):
    queue = Queue(2)
    queue.put(0)
    queue.close(discard=discard, final=9)
    queue.put(1)
    assert queue.get_many(9) == ([9] if discard else [0, 9])
    assert queue.drops == [(1, None)]


@in_time
async def test_a_put_waits_for_room_and_keeps_its_place_in_the_line():
    queue = Queue()
    queue.put(0)
    first, second = queue.put(1), queue.put(2)
    waiting = [asyncio.create_task(wait_for(second)), asyncio.create_task(wait_for(first))]
    await settle()
    assert not any(task.done() for task in waiting)
    assert [queue.get(), queue.get(), queue.get()] == [0, 1, 2]
    await asyncio.gather(*waiting)
    assert queue.drops == []


@in_time
async def test_a_put_that_is_accepted_before_it_is_awaited_does_not_wait():
    queue = Queue()
    queue.put(0)
    put = queue.put(1)
    queue.get()
    await wait_for(put)
    assert queue.get() == 1
    assert queue.drops == []


@in_time
async def test_a_skipped_put_is_dropped_unless_it_has_been_accepted():
    queue = Queue()
    queue.put(0)
    accepted, skipped = queue.put(1), queue.put(2)
    assert queue.get() == 0
    for put in (accepted, skipped):
        assert put is not None
        put.skip()
    assert [number for number, _ in queue.drops] == [2]
    assert "publish_nowait" in str(queue.drops[0][1])
    assert queue.get_many(9) == [1]


@pytest.mark.parametrize("when", ["before it waits", "while it waits"])
@in_time
async def test_closing_releases_a_waiting_publisher_and_drops_its_item(when):
    queue = Queue()
    queue.put(0)
    put = queue.put(1)
    if when == "before it waits":
        queue.close()
        await wait_for(put)
    else:
        waiting = asyncio.create_task(wait_for(put))
        await settle()
        queue.close()
        await waiting
    [(number, reason)] = queue.drops
    assert number == 1
    assert "closed" in str(reason)
    assert queue.get() == 0


@in_time
async def test_the_task_that_reads_does_not_wait_for_itself():
    queue = Queue()
    queue.reader = asyncio.current_task()
    queue.put(0)
    await wait_for(queue.put(1))
    [(number, reason)] = queue.drops
    assert number == 1
    assert "task that reads" in str(reason)
    another = asyncio.create_task(wait_for(queue.put(2)))
    await settle()
    assert not another.done()
    queue.get()
    await another


@in_time
async def test_after_the_block_timeout_the_item_is_dropped():
    clock = FakeClock()
    queue = Queue(block_timeout=3, clock=clock)
    queue.put(0)
    waiting = asyncio.create_task(wait_for(queue.put(1)))
    await settle()
    clock.advance(2.9)
    await settle()
    assert not waiting.done()
    clock.advance(0.1)
    await waiting
    assert [number for number, _ in queue.drops] == [1]
    assert "block_timeout" in str(queue.drops[0][1])
    queue.get()
    assert queue.put(2) is None
    assert queue.get_many(9) == [2]


@in_time
async def test_room_within_the_block_timeout_leaves_no_timer_behind():
    clock = FakeClock()
    queue = Queue(block_timeout=3, clock=clock)
    queue.put(0)
    waiting = asyncio.create_task(wait_for(queue.put(1)))
    await settle()
    assert clock.pending() == 1
    queue.get()
    await waiting
    assert clock.pending() == 0
    assert queue.drops == []


@in_time
async def test_the_reader_is_woken_once_there_are_enough_items():
    queue, loop = Queue(9), asyncio.get_running_loop()
    queue.wake_size = 2
    waiter = queue.wait(loop)
    assert waiter is not None
    with pytest.raises(RuntimeError, match="two tasks"):
        queue.wait(loop)
    queue.put(0)
    await settle()
    assert not waiter.done()
    queue.put(1)
    await waiter
    assert queue.wait(loop) is None


@pytest.mark.parametrize("how", ["put", "wake", "close"])
@in_time
async def test_the_reader_is_woken_from_another_thread(how):
    queue = Queue()
    waiter = queue.wait(asyncio.get_running_loop())
    assert waiter is not None
    await asyncio.to_thread({"put": lambda: queue.put(1), "wake": queue.wake, "close": queue.close}[how])
    await waiter


@in_time
async def test_a_publisher_on_another_loop_is_woken_by_the_reader():
    queue = Queue()
    queue.put(0)
    with LoopThread() as other:
        waiting = other.start(wait_for(queue.put(1)))
        await asyncio.to_thread(other.run, settle())
        assert not waiting.done()
        queue.get()
        await asyncio.to_thread(waiting.result, DEADLINE)
    assert queue.get() == 1


# What streams do with a `PublishWait`


class Wait(PublishWait):
    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def __await__(self):
        self.calls.append("begins")
        yield from asyncio.sleep(0).__await__()
        self.calls.append("ends")

    def skip(self) -> None:
        self.calls.append("skipped")


@in_time
async def test_publish_waits_for_a_publish_wait_and_publish_nowait_skips_it():
    stream, calls = InMemoryStream(), []
    stream.subscribe_nowait(lambda _: Wait(calls))
    stream.subscribe_nowait(lambda event: calls.append(event.data))
    await stream.publish(create_event("next"))
    assert calls == ["begins", "ends", "next"]
    calls.clear()
    stream.publish_nowait(create_event("next"))
    assert calls == ["skipped", "next"]


@in_time
async def test_a_publisher_on_any_loop_waits_for_a_publish_wait():
    stream, calls = InMemoryStream(), []
    with LoopThread() as other:
        other.run(stream.subscribe(lambda _: Wait(calls)))
        await stream.publish(create_event(None))
    assert calls == ["begins", "ends"]


def test_a_publish_wait_must_define_await():
    with pytest.raises(NotImplementedError):
        PublishWait().__await__()


@in_time
async def test_start_publish_returns_an_awaitable_for_the_rest_or_none():
    stream, handled = InMemoryStream(), []

    async def handler(event):
        await asyncio.sleep(0)
        handled.append(event.data)

    assert stream.start_publish(create_event(0)) is None
    await stream.subscribe(handler)
    rest = stream.start_publish(create_event(1))
    assert handled == []
    await rest
    assert handled == [1]


@pytest.mark.parametrize("waits", [True, False])
@in_time
async def test_an_sse_stream_drops_an_event_without_room_after_the_block_timeout(waits):
    clock = FakeClock()
    stream = SSEStream(queue_size=1, overflow=Overflow.BLOCK, block_timeout=5, clock=clock)
    subscription = await stream.subscribe()
    await stream.publish(create_event(0))
    publishing = asyncio.create_task(stream.publish(create_event(1)))
    await settle()
    assert not publishing.done()
    if waits:
        clock.advance(5)
        await publishing
    else:
        assert (await anext(stream.events(subscription.id))).data == 0
        await publishing
    assert subscription.dropped == stream.statistics().dropped == waits
    assert (await anext(stream.events(subscription.id))).data == (0 if waits else 1)


@in_time
async def test_a_block_queue_that_nobody_reads_holds_publishers_until_it_is_read():
    stream = SSEStream(queue_size=1, overflow=Overflow.BLOCK)
    subscription = await stream.subscribe()
    publishing = [asyncio.create_task(stream.publish(create_event(number))) for number in range(3)]
    await settle()
    assert [task.done() for task in publishing] == [True, False, False]
    events = stream.events(subscription.id)
    assert [(await anext(events)).data for _ in range(3)] == [0, 1, 2]
    await until(lambda: all(task.done() for task in publishing))
    assert subscription.dropped == 0
