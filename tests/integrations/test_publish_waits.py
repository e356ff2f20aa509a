"""When the queue of a sink is more than half full, an awaited publish waits for a batch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
from codomyrmex.integrations import (
    Attachment,
    Binding,
    DeliveryPolicy,
    PermanentError,
    Sink,
    attach,
    attach_blocking,
)
from codomyrmex.streaming import Event, InMemoryStream, Overflow, create_event
from codomyrmex.streaming.testing import FakeClock
from helpers import in_time, settle

_numbers = count()  # as lines about one name are rate-limited across tests


class Timed(Sink):
    """Takes some seconds of the clock for each batch."""

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        self.name = f"timed-{next(_numbers)}"
        self.clock = clock
        self.seconds = seconds
        self.events: list[Any] = []
        self.batches = 0

    async def send(self, events: Sequence[Event]) -> None:
        done = asyncio.Event()
        self.clock.call_later(self.seconds, done.set)
        await done.wait()
        self.events += [event.data for event in events]
        self.batches += 1


class Stuck(Sink):
    """Does not complete a batch before it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.name = f"stuck-{next(_numbers)}"
        self.free = asyncio.Event()
        self.batches: list[list[Any]] = []
        self.error = error

    async def send(self, events: Sequence[Event]) -> None:
        self.batches.append([event.data for event in events])
        await self.free.wait()
        if self.error is not None:
            raise self.error


@asynccontextmanager
async def moving(clock: FakeClock, step: float = 0.001) -> AsyncIterator[None]:
    """Move the clock whenever the event loop has nothing else to do."""

    async def move() -> None:
        while True:
            await asyncio.sleep(0)
            clock.advance(step)

    mover = asyncio.create_task(move())
    try:
        yield
    finally:
        mover.cancel()


@asynccontextmanager
async def attached(stream: InMemoryStream, *sinks: Any, **options: Any) -> AsyncIterator[Attachment]:
    """Attach sinks, and do not wait for them at the end: the clock may stand still."""
    attachment = await attach(stream, *sinks, **options).start()
    try:
        yield attachment
    finally:
        await attachment.aclose(0)


async def publish(stream: InMemoryStream, n: int) -> None:
    for number in range(n):
        await stream.publish(create_event(number))


async def is_waiting(publishing: asyncio.Task[None]) -> bool:
    await settle()
    return not publishing.done()


# A healthy sink


@pytest.mark.parametrize("milliseconds", [0, 1, 10, 50, 95, 400])
async def test_a_plain_loop_over_a_healthy_sink_loses_nothing_by_default(milliseconds):
    stream, clock = InMemoryStream(), FakeClock()
    sink = Timed(clock, milliseconds / 1_000)
    async with asyncio.timeout(60), moving(clock), attached(stream, sink, clock=clock) as attachment:
        await publish(stream, 20_000)
        await attachment.flush()
        assert attachment.report().complete
        assert sink.events == list(range(20_000))
        assert sink.batches < 60  # they are still full


@pytest.mark.parametrize(
    "rules",
    [
        {"queue_size": 1},
        {"queue_size": 2},
        {"queue_size": 3, "batch_size": 2},
        {"queue_size": 100, "batch_size": 100},
        {"queue_size": 100, "batch_size": 7, "overflow": Overflow.DROP_NEWEST},
        {"queue_size": 64, "batch_age": 0},
        {"queue_size": 64, "batch_age": 3_600},
    ],
)
async def test_a_plain_loop_loses_nothing_with_other_sizes_and_ages(rules):
    stream, clock = InMemoryStream(), FakeClock()
    sink = Timed(clock, 0.01)
    options = {"policy": DeliveryPolicy(**rules), "clock": clock}
    async with asyncio.timeout(60), moving(clock), attached(stream, sink, **options) as attachment:
        await publish(stream, 500)
        await attachment.flush()
        assert attachment.report().complete
        assert sink.events == list(range(500))


async def test_several_publishing_tasks_lose_nothing():
    stream, clock = InMemoryStream(), FakeClock()
    sink = Timed(clock, 0.01)
    async with asyncio.timeout(60), moving(clock), attached(stream, sink, clock=clock) as attachment:
        await asyncio.gather(*(publish(stream, 500) for _ in range(20)))
        await attachment.flush()
        assert attachment.report().sinks[sink.name].delivered == 10_000


@in_time
async def test_a_half_full_queue_makes_a_batch_due():
    stream, clock, sink = InMemoryStream(), FakeClock(), Stuck()
    rules = DeliveryPolicy(queue_size=10, batch_size=10, batch_age=60)
    async with attached(stream, sink, policy=rules, clock=clock) as attachment:
        await publish(stream, 5)
        await settle()
        assert sink.batches == []
        publishing = asyncio.create_task(publish(stream, 1))
        assert await is_waiting(publishing)
        assert len(sink.batches[0]) == 6
        sink.free.set()
        await publishing
        assert await attachment.flush(1)


@in_time
async def test_a_publisher_continues_when_a_batch_is_given_up():
    stream, clock, sink = InMemoryStream(), FakeClock(), Stuck(PermanentError("no"))
    rules = DeliveryPolicy(queue_size=4, batch_size=2, batch_age=0)
    async with attached(stream, sink, policy=rules, clock=clock):
        await publish(stream, 1)
        await settle()
        publishing = asyncio.create_task(publish(stream, 3))
        assert await is_waiting(publishing)
        sink.free.set()
        await publishing


# A sink that hangs or fails


async def test_a_hanging_sink_costs_its_publishers_one_second_in_total():
    stream, clock, sink = InMemoryStream(), FakeClock(), Stuck()
    async with asyncio.timeout(60), moving(clock), attached(stream, sink, clock=clock) as attachment:
        began = clock.monotonic()
        await publish(stream, 3_000)
        assert 0.9 < clock.monotonic() - began < 1.2
        assert attachment.health()[sink.name].dropped
        clock.advance(60)  # the attempt times out, and others follow
        began = clock.monotonic()
        await publish(stream, 3_000)
        assert clock.monotonic() == began


@in_time
async def test_a_publisher_waits_no_longer_than_max_wait():
    stream, clock, sink = InMemoryStream(), FakeClock(), Stuck()
    rules = DeliveryPolicy(queue_size=4, batch_size=1, batch_age=0, max_wait=0.3)
    async with attached(stream, sink, policy=rules, clock=clock) as attachment:
        await publish(stream, 1)
        await settle()
        publishing = asyncio.create_task(publish(stream, 3))
        assert await is_waiting(publishing)
        clock.advance(0.29)
        assert await is_waiting(publishing)
        clock.advance(0.02)
        await publishing
        assert attachment.report().sinks[sink.name].dropped == {}


@in_time
async def test_no_publisher_waits_for_a_failing_sink_or_an_open_breaker():
    stream, clock, sink = InMemoryStream(), FakeClock(), Stuck(OSError("away"))
    sink.free.set()
    rules = DeliveryPolicy(queue_size=4, batch_size=1, batch_age=0, breaker_failures=2, backoff_initial=1)
    async with attached(stream, sink, policy=rules, clock=clock):
        await publish(stream, 1)
        await settle()
        await publish(stream, 10)  # between two attempts
        clock.advance(1)
        await settle()
        await publish(stream, 10)  # the breaker is open


@in_time
async def test_a_waiting_publisher_continues_when_the_sink_fails():
    stream, clock, sink = InMemoryStream(), FakeClock(), Stuck(OSError("away"))
    rules = DeliveryPolicy(queue_size=4, batch_size=1, batch_age=0)
    async with attached(stream, sink, policy=rules, clock=clock):
        await publish(stream, 1)
        await settle()
        publishing = asyncio.create_task(publish(stream, 10))
        assert await is_waiting(publishing)
        sink.free.set()
        await publishing


@pytest.mark.parametrize("how", ["aclose", "remove"])
@in_time
async def test_a_waiting_publisher_continues_when_the_sink_is_closed(how):
    stream, clock, sink = InMemoryStream(), FakeClock(), Stuck()
    rules = DeliveryPolicy(queue_size=4, batch_size=1, batch_age=0)
    attachment = await attach(stream, sink, policy=rules, clock=clock).start()
    await publish(stream, 1)
    await settle()
    publishing = asyncio.create_task(publish(stream, 10))
    assert await is_waiting(publishing)
    await (attachment.aclose(0) if how == "aclose" else attachment.remove(sink, 0))
    await publishing


@in_time
async def test_a_publisher_that_is_cancelled_while_it_waits_has_published():
    stream, clock, sink = InMemoryStream(), FakeClock(), Stuck()
    rules = DeliveryPolicy(queue_size=4, batch_size=1, batch_age=0)
    async with attached(stream, sink, policy=rules, clock=clock) as attachment:
        await publish(stream, 1)
        await settle()
        publishing = asyncio.create_task(publish(stream, 3))
        assert await is_waiting(publishing)
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        sink.free.set()
        assert await attachment.flush(1)
        assert attachment.report().sinks[sink.name].delivered == 4


# Who never waits


@pytest.mark.parametrize("rules", [{"max_wait": 0}, {"overflow": Overflow.BLOCK, "queue_size": 21}])
@in_time
async def test_without_max_wait_or_with_block_a_half_full_queue_has_no_effect(rules):
    stream, clock, sink = InMemoryStream(), FakeClock(), Stuck()
    policy = DeliveryPolicy(**{"queue_size": 20, "batch_size": 20, "batch_age": 60, **rules})
    async with attached(stream, sink, policy=policy, clock=clock):
        await publish(stream, 19)
        await settle()
        assert sink.batches == []


@in_time
async def test_publish_nowait_never_waits():
    stream, clock, sink = InMemoryStream(), FakeClock(), Stuck()
    rules = DeliveryPolicy(queue_size=4, batch_size=1, batch_age=0)
    async with attached(stream, sink, policy=rules, clock=clock) as attachment:
        for number in range(10):
            stream.publish_nowait(create_event(number))
        await settle()
        assert attachment.report().sinks[sink.name].dropped == {"queue_full": 6}


@in_time
async def test_a_sink_that_publishes_to_its_own_stream_does_not_wait_for_itself():
    stream, clock, sent = InMemoryStream(), FakeClock(), 0

    async def send(events: Sequence[Event]) -> None:
        nonlocal sent
        sent += len(events)
        if sent == len(events):  # the first time
            await publish(stream, 10)

    rules = DeliveryPolicy(queue_size=8, batch_size=1, batch_age=0)
    async with attached(
        stream, Sink.from_function(send, name="echo"), policy=rules, clock=clock
    ) as attachment:
        await publish(stream, 1)
        assert await attachment.flush(1)  # the clock stands still
        assert await attachment.flush(1)  # what the sink has published
    assert sent == 9  # the first one, and those that the queue has held


async def test_tasks_that_a_sink_starts_wait_for_it_within_the_limit():
    stream, clock, sent = InMemoryStream(), FakeClock(), 0

    async def send(events: Sequence[Event]) -> None:
        nonlocal sent
        sent += len(events)
        if sent == len(events):
            await asyncio.gather(*(publish(stream, 1) for _ in range(6)))

    rules = DeliveryPolicy(queue_size=8, batch_size=1, batch_age=0)
    sink = Sink.from_function(send, name="gather")
    options = {"policy": rules, "clock": clock}
    async with asyncio.timeout(60), moving(clock, 0.01), attached(stream, sink, **options) as attachment:
        await publish(stream, 1)
        assert await attachment.flush(3)
        assert await attachment.flush(3)  # what the tasks have published
    assert sent == 7
    assert clock.monotonic() < 2


@in_time
async def test_two_sinks_that_publish_to_each_others_streams_finish():
    one, two, clock = InMemoryStream(), InMemoryStream(), FakeClock()
    rules = DeliveryPolicy(queue_size=4, batch_size=1, batch_age=0)

    def forward(stream: InMemoryStream) -> Callable[[Sequence[Event]], Any]:
        async def send(events: Sequence[Event]) -> None:
            for event in events:
                if event.data:
                    for _ in range(3):
                        await stream.publish(create_event(event.data - 1))

        return send

    to_second = attached(one, Sink.from_function(forward(two), name="first"), policy=rules, clock=clock)
    to_first = attached(two, Sink.from_function(forward(one), name="second"), policy=rules, clock=clock)
    async with moving(clock, 0.01), to_second as first, to_first as second:
        await one.publish(create_event(4))
        assert await first.flush(60)
        assert await second.flush(60)


@in_time
async def test_a_hanging_sink_costs_another_sink_no_events():
    stream, clock, hanging = InMemoryStream(), FakeClock(), Stuck()
    good = Timed(clock, 0.001)
    bound = Binding(hanging, policy=DeliveryPolicy(queue_size=64, batch_age=0))
    async with moving(clock), attached(stream, bound, good, clock=clock) as attachment:
        await publish(stream, 10_000)
        assert attachment.report().sinks[good.name].dropped == {}
        await attachment.aclose(5)
        assert attachment.report().sinks[good.name].delivered == 10_000


# Threads and loops


def test_a_publisher_on_another_loop_waits_for_a_sink_on_the_delivery_thread():
    stream, sent = InMemoryStream(), []

    async def send(events: Sequence[Event]) -> None:
        await asyncio.sleep(0.001)
        sent.extend(event.data for event in events)

    with attach_blocking(stream, Sink.from_function(send, name="threaded")) as attachment:
        asyncio.run(publish(stream, 20_000))
        assert attachment.flush(10)
        assert attachment.report().complete
    assert sent == list(range(20_000))


def test_a_blocked_delivery_thread_costs_a_publisher_on_another_loop_one_second_in_total():
    stream, free = InMemoryStream(), threading.Event()

    async def send(_: Sequence[Event]) -> None:
        free.wait(20)

    attachment = attach_blocking(stream, Sink.from_function(send, name="blocking"))
    with attachment:

        async def timed() -> float:
            loop = asyncio.get_running_loop()
            began = loop.time()
            await publish(stream, 5_000)
            return loop.time() - began

        assert asyncio.run(timed()) < 4  # 397 waits of 100 ms would be forty seconds
        free.set()
