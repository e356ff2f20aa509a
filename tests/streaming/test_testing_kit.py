"""`collect` and `FakeClock`."""

import asyncio
import threading
from time import monotonic

import pytest
from codomyrmex.streaming import (
    EventType,
    InMemoryStream,
    Overflow,
    SSEStream,
    TopicError,
    TopicStream,
    create_event,
)
from codomyrmex.streaming.testing import FakeClock, collect
from helpers import DEADLINE

STREAMS = pytest.mark.parametrize("make", [InMemoryStream, SSEStream, TopicStream])


def some(count, topic="a.b"):
    return [create_event(n, topic=topic) for n in range(count)]


# collect


@STREAMS
async def test_collect_is_the_list_of_events_in_order(make):
    async with make() as stream:
        with collect(stream) as seen:
            events = some(5)
            for event in events:
                await stream.publish(event)
        assert seen == events
        assert isinstance(seen, list)


async def test_collect_works_with_async_with_too():
    stream = InMemoryStream()
    async with collect(stream) as seen:
        await stream.publish(create_event(0))
    assert len(seen) == 1
    assert stream.statistics().subscribers == 0


def test_collect_works_in_plain_code():
    stream = InMemoryStream()
    events = some(3)
    with collect(stream) as seen:
        for event in events:
            stream.publish_nowait(event)
    assert seen == events


@STREAMS
async def test_collect_receives_only_its_topics(make):
    stream = make()
    with collect(stream, "a.*") as seen:
        [wanted] = some(1)
        await stream.publish(create_event(None, topic="b.a"))
        await stream.publish(wanted)
        assert await seen.wait_for(1) == [wanted]
        assert seen == [wanted]


def test_collect_refuses_a_malformed_pattern():
    with pytest.raises(TopicError), collect(InMemoryStream(), "a..b"):
        pass


@STREAMS
async def test_collecting_ends_with_the_context_and_leaves_no_subscription(make):
    async with make() as stream:
        with collect(stream) as plain:
            pass
        with collect(stream):
            assert stream.statistics().subscribers == 1
        assert stream.statistics().subscribers == 0
        await stream.publish(create_event(None, topic="a"))
        assert plain == []


async def test_collecting_ends_when_the_block_raises():
    stream = InMemoryStream()
    with pytest.raises(ZeroDivisionError), collect(stream):
        raise ZeroDivisionError
    assert stream.statistics().subscribers == 0


async def test_collecting_from_a_stream_for_clients_loses_nothing_at_a_full_queue():
    stream = SSEStream(queue_size=1, overflow=Overflow.DISCONNECT)
    with collect(stream) as seen:
        events = some(5)
        for event in events:
            await stream.publish(event)
        assert seen == events
        assert stream.statistics().dropped == 0


async def test_wait_for_returns_the_first_n_events():
    stream = InMemoryStream()
    events = some(3)
    with collect(stream) as seen:
        for event in events:
            await stream.publish(event)
        assert await seen.wait_for(2) == events[:2]
        assert await seen.wait_for(0) == []


async def test_wait_for_waits_until_there_are_enough():
    stream = InMemoryStream()
    events = some(3)
    with collect(stream) as seen:
        waiting = asyncio.create_task(seen.wait_for(3))
        for event in events:
            await asyncio.sleep(0)
            assert not waiting.done()
            await stream.publish(event)
        assert await waiting == events


async def test_several_can_wait_for_different_numbers():
    stream = InMemoryStream()
    with collect(stream) as seen:
        waiting = [asyncio.create_task(seen.wait_for(n)) for n in (3, 1, 2)]
        await asyncio.sleep(0)
        for event in some(3):
            await stream.publish(event)
        assert [len(events) for events in await asyncio.gather(*waiting)] == [3, 1, 2]


async def test_wait_for_reports_how_many_arrived_in_time():
    stream = InMemoryStream()
    with collect(stream) as seen:
        await stream.publish(create_event(None))
        with pytest.raises(TimeoutError, match=r"1 of 3 .*0\.001"):
            await seen.wait_for(3, timeout=0.001)
        with pytest.raises(TimeoutError, match="1 of 2"):
            await seen.wait_for(2, 0)


async def test_a_wait_that_was_cancelled_does_not_disturb_the_collecting():
    stream = InMemoryStream()
    with collect(stream) as seen:
        waiting = asyncio.create_task(seen.wait_for(1))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await stream.publish(create_event(None))
        assert len(await seen.wait_for(1)) == 1


async def test_events_published_in_another_thread_are_waited_for():
    stream = InMemoryStream()
    events = some(100)

    def publish():
        for event in events:
            stream.publish_nowait(event)

    with collect(stream) as seen:
        thread = threading.Thread(target=publish)
        thread.start()
        assert await seen.wait_for(100) == events
        thread.join()


# FakeClock


def test_a_fake_clock_stands_still_until_it_is_moved():
    clock = FakeClock(start=100.0)
    assert clock.monotonic() == clock.monotonic() == 100.0
    clock.advance(2.5)
    assert clock.monotonic() == 102.5
    clock.advance(0)
    assert clock.monotonic() == 102.5


def test_calendar_time_passes_with_monotonic_time():
    clock = FakeClock(start=10.0, epoch=1_000.0)
    assert clock.time() == 1_010.0
    clock.advance(5)
    assert (clock.time(), clock.monotonic()) == (1_015.0, 15.0)


def test_it_starts_at_zero():
    assert FakeClock().monotonic() == 0


def test_calls_are_made_in_the_order_of_their_times_and_then_of_asking():
    clock, made = FakeClock(), []
    for delay, name in [(3, "c"), (1, "a"), (2, "b1"), (2, "b2"), (9, "never")]:
        clock.call_later(delay, lambda name=name: made.append((name, clock.monotonic())))
    clock.advance(5)
    assert made == [("a", 1), ("b1", 2), ("b2", 2), ("c", 3)]
    assert clock.monotonic() == 5


def test_a_call_is_due_at_its_very_time_and_made_once():
    clock, made = FakeClock(), []
    clock.call_later(2, lambda: made.append(1))
    clock.advance(1.5)
    assert made == []
    clock.advance(0.5)
    assert made == [1]
    clock.advance(10)
    assert made == [1]


def test_a_cancelled_call_is_not_made():
    clock, made = FakeClock(), []
    first = clock.call_later(1, lambda: made.append("first"))
    clock.call_later(2, lambda: made.append("second"))
    first.cancel()
    first.cancel()
    clock.advance(5)
    assert made == ["second"]


def test_a_call_can_cancel_a_later_one():
    clock, made = FakeClock(), []

    def take_back():
        later.cancel()

    clock.call_later(1, take_back)
    later = clock.call_later(2, lambda: made.append("later"))
    clock.advance(5)
    assert made == []


def test_cancelling_after_the_call_does_nothing():
    clock, made = FakeClock(), []
    timer = clock.call_later(1, lambda: made.append(1))
    clock.advance(1)
    timer.cancel()
    assert made == [1]


def test_a_call_can_ask_for_the_next_one_within_the_same_move():
    clock, times = FakeClock(), []

    def tick():
        times.append(clock.monotonic())
        clock.call_later(10, tick)

    clock.call_later(10, tick)
    clock.advance(35)
    assert times == [10, 20, 30]
    assert clock.pending() == 1


def test_pending_counts_the_scheduled_calls():
    clock = FakeClock()
    timers = [clock.call_later(n, lambda: None) for n in (1, 2, 3)]
    assert clock.pending() == 3
    timers[2].cancel()
    assert clock.pending() == 2
    clock.advance(1)
    assert clock.pending() == 1


def test_time_does_not_go_back():
    clock = FakeClock()
    with pytest.raises(ValueError, match="-1"):
        clock.advance(-1)
    assert clock.monotonic() == 0


def test_time_does_not_go_back_for_a_call_that_should_have_been_made_already():
    clock, times = FakeClock(start=10.0), []
    clock.call_later(-5, lambda: times.append(clock.monotonic()))
    clock.advance(0)
    assert times == [10]


def test_time_does_not_go_back_after_a_call_that_moved_it_itself():
    clock, times = FakeClock(), []
    clock.call_later(1, lambda: clock.advance(10))
    clock.call_later(2, lambda: times.append(clock.monotonic()))
    clock.advance(3)
    assert times == [2]
    assert clock.monotonic() == 11


def test_an_error_in_a_call_is_raised_and_later_calls_stay_scheduled():
    clock, made = FakeClock(), []
    clock.call_later(1, lambda: 1 / 0)
    clock.call_later(2, lambda: made.append(1))
    with pytest.raises(ZeroDivisionError):
        clock.advance(5)
    assert clock.monotonic() == 1
    clock.advance(1)
    assert made == [1]


async def test_a_stream_with_a_fake_clock_needs_no_waiting():
    clock = FakeClock()
    started = monotonic()
    async with SSEStream(heartbeat_interval=3_600, clock=clock) as stream:
        subscription = await stream.subscribe()
        reading = asyncio.create_task(anext(stream.events(subscription.id)))
        await asyncio.sleep(0)
        clock.advance(3_600)
        async with asyncio.timeout(DEADLINE):
            assert (await reading).type is EventType.HEARTBEAT
    assert monotonic() - started < 3_600
