"""`SSEStream`: queues, replay, heartbeats and overflow."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import random
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import pytest
from codomyrmex.streaming import (
    Event,
    EventType,
    Overflow,
    SSEDecoder,
    SSERecord,
    SSEStream,
    StreamClosedError,
    Subscription,
    create_event,
)
from codomyrmex.streaming.testing import FakeClock, collect
from helpers import DEADLINE, frequent_thread_switches, settle, until
from hypothesis import given, settings
from hypothesis import strategies as st

EACH_POLICY = pytest.mark.parametrize("overflow", list(Overflow))


async def take(reader: AsyncIterator[Any], count: int) -> list[Any]:
    async with asyncio.timeout(DEADLINE):
        return [await anext(reader) for _ in range(count)]


async def rest(reader: AsyncIterator[Any]) -> list[Any]:
    async with asyncio.timeout(DEADLINE):
        return [item async for item in reader]


def decode(frames: list[str]) -> list[SSERecord]:
    return SSEDecoder().feed("".join(frames).encode())


def data_of(events: list[Event]) -> list[Any]:
    return [event.data for event in events]


async def published(stream: SSEStream, count: int, **metadata: Any) -> list[Event]:
    events = [create_event(number, **metadata) for number in range(count)]
    async with asyncio.timeout(DEADLINE):
        for event in events:
            await stream.publish(event)
    return events


# Queues and handlers


async def test_each_subscription_has_its_own_queue():
    stream = SSEStream()
    one, two = await stream.subscribe(), await stream.subscribe()
    events = await published(stream, 3)
    assert await take(stream.events(one.id), 3) == events
    assert await take(stream.events(two.id), 3) == events


async def test_a_queue_holds_only_what_was_published_after_the_subscription():
    stream = SSEStream()
    await published(stream, 2)
    subscription = await stream.subscribe()
    later = await published(stream, 1)
    assert await take(stream.events(subscription.id), 1) == later


async def test_the_topic_and_the_filter_decide_what_is_queued():
    stream = SSEStream()
    subscription = await stream.subscribe(topic="orders.*", filter_fn=lambda event: event.data != 1)
    await published(stream, 3, topic="orders.created")
    await published(stream, 3, topic="users.created")
    await published(stream, 1)
    await stream.aclose()
    assert data_of(await rest(stream.events(subscription.id))) == [0, 2, None]


@pytest.mark.parametrize("as_coroutine", [False, True], ids=["plain", "async"])
@pytest.mark.parametrize("nowait", [False, True], ids=["publish", "publish_nowait"])
async def test_a_handler_is_called_besides_the_queue(as_coroutine, nowait):
    stream = SSEStream()
    handled: list[Event] = []

    async def append(event: Event) -> None:
        await asyncio.sleep(0)
        handled.append(event)

    subscription = await stream.subscribe(append if as_coroutine else handled.append)
    events = [create_event(number) for number in range(3)]
    for event in events:
        if nowait:
            stream.publish_nowait(event)
        else:
            await stream.publish(event)
    assert await take(stream.events(subscription.id), 3) == events
    await settle()
    assert handled == events


async def test_publish_returns_after_the_async_handlers_are_done():
    stream = SSEStream()
    done: list[int] = []

    async def slow(event: Event) -> None:
        await settle()
        done.append(event.data)

    await stream.subscribe(slow)
    await stream.publish(create_event(1))
    assert done == [1]


@pytest.mark.parametrize("nowait", [False, True], ids=["publish", "publish_nowait"])
async def test_a_handler_that_raises_does_not_affect_other_subscriptions(nowait):
    failures: list[tuple[str, Any, str]] = []
    stream = SSEStream(on_error=lambda error, event, sub: failures.append((str(error), event.data, sub.id)))

    def broken(event: Event) -> None:
        raise ValueError("broken")

    failing, healthy = await stream.subscribe(broken), await stream.subscribe()
    event = create_event(1)
    if nowait:
        stream.publish_nowait(event)
    else:
        await stream.publish(event)
    assert await take(stream.events(failing.id), 1) == [event]
    assert await take(stream.events(healthy.id), 1) == [event]
    assert failures == [("broken", 1, failing.id)]
    assert stream.statistics().handler_errors == 1


async def test_a_filter_that_raises_affects_only_its_own_subscription():
    failures: list[str] = []
    stream = SSEStream(on_error=lambda error, event, sub: failures.append(sub.id))

    def broken(event: Event) -> bool:
        if event.data == 1:
            raise ValueError("broken")
        return True

    failing, healthy = await stream.subscribe(filter_fn=broken), await stream.subscribe()
    await published(stream, 3)
    assert data_of(await take(stream.events(failing.id), 2)) == [0, 2]
    assert data_of(await take(stream.events(healthy.id), 3)) == [0, 1, 2]
    assert failures == [failing.id]


async def test_a_handler_may_publish_subscribe_and_cancel_on_the_same_stream():
    stream = SSEStream()
    made: list[Subscription] = []

    async def handler(event: Event) -> None:
        if event.data == "first":
            made.append(await stream.subscribe())
            await stream.publish(create_event("second"))
            subscription.cancel()

    subscription = await stream.subscribe(handler)
    async with asyncio.timeout(DEADLINE):
        await stream.publish(create_event("first"))
    assert data_of(await take(stream.events(made[0].id), 1)) == ["second"]
    assert not subscription.active


async def test_events_published_from_threads_reach_a_waiting_reader():
    stream = SSEStream(queue_size=10_000)
    subscription = await stream.subscribe()
    reading = asyncio.create_task(take(stream.events(subscription.id), 300))
    await settle()

    def publish(name: str) -> None:
        for number in range(100):
            stream.publish_nowait(create_event((name, number)))

    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*(asyncio.to_thread(publish, name) for name in "abc"))
    received = data_of(await reading)
    for name in "abc":
        assert [n for who, n in received if who == name] == list(range(100))


def test_a_reader_whose_loop_was_closed_does_not_fail_the_publisher():
    stream = SSEStream()
    loop = asyncio.new_event_loop()
    subscription = loop.run_until_complete(stream.subscribe())
    reader = stream.events(subscription.id)
    loop.set_exception_handler(lambda *_: None)  # instead of logging the abandoned task
    waiting = loop.create_task(anext(reader))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    asyncio.run(stream.publish(create_event(1)))
    assert not waiting.done()


async def test_a_collection_that_reads_no_queue_is_not_ended_by_a_full_one():
    stream = SSEStream(queue_size=2, overflow=Overflow.DISCONNECT)
    with collect(stream) as events:
        await published(stream, 5)
    assert data_of(events) == [0, 1, 2, 3, 4]


# Frames


async def test_frames_decode_to_what_was_published():
    stream = SSEStream()
    subscription = await stream.subscribe()
    event = create_event({"a": [1, None]}, EventType.ERROR, topic="t")
    await stream.publish(event)
    [frame] = await take(stream.sse_generator(subscription.id), 1)
    assert frame == event.to_sse()
    [record] = decode([frame])
    assert record == SSERecord("error", '{"a":[1,null]}', event.id, None)


async def test_all_subscribers_and_the_replay_share_one_frame():
    stream = SSEStream()
    before = (await published(stream, 1))[0]
    subscriptions = [await stream.subscribe() for _ in range(3)]
    await stream.publish(create_event("shared"))
    late = await stream.subscribe(last_event_id=before.id)
    frames = [(await take(stream.sse_generator(s.id), 1))[0] for s in subscriptions]
    frames.append((await take(stream.sse_generator(late.id), 2))[1])
    assert "shared" in frames[0]
    assert all(frame is frames[0] for frame in frames)


async def test_frames_that_the_stream_makes_have_no_id():
    clock = FakeClock()
    stream = SSEStream(clock=clock)
    [event] = await published(stream, 1)
    subscription = await stream.subscribe(last_event_id=event.id)
    reader = stream.sse_generator(subscription.id)
    frames = await take(reader, 1)
    waiting = asyncio.create_task(anext(reader))
    await settle()
    clock.advance(30)
    async with asyncio.timeout(DEADLINE):
        frames.append(await waiting)
    await stream.aclose()
    frames += await rest(reader)
    assert [record.event for record in decode(frames)] == ["connect", "heartbeat", "disconnect"]
    assert not any(line.startswith("id") for frame in frames for line in frame.splitlines())


@pytest.mark.parametrize("type_", [EventType.CONNECT, EventType.DISCONNECT])
async def test_a_published_event_keeps_its_id_whatever_its_type(type_):
    stream = SSEStream()
    subscription = await stream.subscribe()
    event = Event(type=type_)
    await stream.publish(event)
    [frame] = await take(stream.sse_generator(subscription.id), 1)
    assert decode([frame])[0].id == event.id


# Heartbeats


async def test_a_heartbeat_comes_after_each_interval_of_silence():
    clock = FakeClock()
    stream = SSEStream(heartbeat_interval=10, clock=clock)
    subscription = await stream.subscribe()
    reader = stream.events(subscription.id)
    for _ in range(3):
        waiting = asyncio.create_task(anext(reader))
        await settle()
        clock.advance(9.9)
        await settle()
        assert not waiting.done()
        clock.advance(0.1)
        async with asyncio.timeout(DEADLINE):
            assert (await waiting).type is EventType.HEARTBEAT


async def test_no_heartbeat_is_sent_while_events_flow():
    clock = FakeClock()
    stream = SSEStream(heartbeat_interval=10, clock=clock)
    subscription = await stream.subscribe()
    received: list[Event] = []

    async def read() -> None:
        async for event in stream.events(subscription.id):
            received.append(event)  # noqa: PERF401 - looked at while it grows

    reading = asyncio.create_task(read())
    await settle()
    for number in range(10):
        clock.advance(6)
        await settle()
        await stream.publish(create_event(number))
        await settle()
    assert data_of(received) == list(range(10))
    clock.advance(9)
    await settle()
    assert len(received) == 10
    clock.advance(1)
    await settle()
    assert received[-1].type is EventType.HEARTBEAT
    subscription.cancel()
    async with asyncio.timeout(DEADLINE):
        await reading


async def test_events_for_other_topics_do_not_put_off_a_heartbeat():
    clock = FakeClock()
    stream = SSEStream(heartbeat_interval=10, clock=clock)
    subscription = await stream.subscribe(topic="mine")
    waiting = asyncio.create_task(take(stream.events(subscription.id), 1))
    await settle()
    clock.advance(5)
    await published(stream, 1, topic="other")
    await settle()
    clock.advance(5)
    assert [event.type for event in await waiting] == [EventType.HEARTBEAT]


async def test_heartbeats_leave_the_last_event_id_of_a_client_where_it_is():
    clock = FakeClock()
    stream = SSEStream(heartbeat_interval=10, clock=clock)
    subscription = await stream.subscribe()
    reader = stream.sse_generator(subscription.id)
    decoder = SSEDecoder()
    [event] = await published(stream, 1)
    decoder.feed((await take(reader, 1))[0].encode())
    for _ in range(3):
        waiting = asyncio.create_task(anext(reader))
        await settle()
        clock.advance(10)
        async with asyncio.timeout(DEADLINE):
            [record] = decoder.feed((await waiting).encode())
        assert (record.event, record.id) == ("heartbeat", event.id)
    assert decoder.last_event_id == event.id


async def test_heartbeats_are_neither_counted_nor_replayed():
    clock = FakeClock()
    stream = SSEStream(heartbeat_interval=10, clock=clock)
    [event] = await published(stream, 1)
    subscription = await stream.subscribe()
    waiting = asyncio.create_task(take(stream.events(subscription.id), 1))
    await settle()
    clock.advance(10)
    await waiting
    assert stream.statistics().published == 1
    assert stream.statistics().buffered == 1
    again = await stream.subscribe(last_event_id=event.id)
    [connect] = await take(stream.events(again.id), 1)
    assert connect.data == {"resumed": True, "replayed": 0}


async def test_without_heartbeats_a_reader_waits_forever():
    clock = FakeClock()
    stream = SSEStream(heartbeat_interval=math.inf, clock=clock)
    subscription = await stream.subscribe()
    waiting = asyncio.create_task(take(stream.events(subscription.id), 1))
    await settle()
    clock.advance(1e9)
    await settle()
    assert not waiting.done()
    await published(stream, 1)
    assert data_of(await waiting) == [0]


# Replay


async def test_a_client_that_reconnects_is_replayed_the_events_after_its_last_one():
    stream = SSEStream()
    events = await published(stream, 5)
    subscription = await stream.subscribe(last_event_id=events[1].id)
    reader = stream.events(subscription.id)
    connect, *replayed = await take(reader, 4)
    assert connect.type is EventType.CONNECT
    assert connect.data == {"resumed": True, "replayed": 3}
    assert replayed == events[2:]
    live = await published(stream, 1)
    assert await take(reader, 1) == live


async def test_the_replay_goes_through_the_topic_and_the_filter():
    stream = SSEStream()
    [seen] = await published(stream, 1, topic="elsewhere")
    await published(stream, 4, topic="a.b")
    await published(stream, 4, topic="a.b.c")
    subscription = await stream.subscribe(
        topic="a.*", filter_fn=lambda event: event.data % 2 == 0, last_event_id=seen.id
    )
    await stream.aclose()
    connect, *events = await rest(stream.events(subscription.id))
    assert connect.data == {"resumed": True, "replayed": 2}
    assert [(event.topic, event.data) for event in events[:-1]] == [("a.b", 0), ("a.b", 2)]


@pytest.mark.parametrize(("buffer_size", "first"), [(2, 3), (0, None)])
async def test_an_id_that_is_not_in_the_buffer_replays_the_whole_buffer(buffer_size, first):
    stream = SSEStream(buffer_size=buffer_size)
    events = await published(stream, 5)
    subscription = await stream.subscribe(last_event_id=events[1].id)
    await stream.aclose()
    connect, *replayed, _ = await rest(stream.events(subscription.id))
    assert connect.type is EventType.CONNECT
    assert connect.data == {
        "resumed": False,
        "requested": events[1].id,
        "first_available": None if first is None else events[first].id,
    }
    assert replayed == events[5 - buffer_size :]


async def test_an_id_that_never_was_is_shown_as_it_was_asked_for():
    stream = SSEStream()
    subscription = await stream.subscribe(last_event_id="no such\u2028id")
    [frame] = await take(stream.sse_generator(subscription.id), 1)
    [record] = decode([frame])
    assert json.loads(record.data) == {
        "resumed": False,
        "requested": "no such\u2028id",
        "first_available": None,
    }
    assert len(frame.splitlines()) == 3


@pytest.mark.parametrize("last_event_id", ["", None])
async def test_without_a_last_event_id_there_is_neither_replay_nor_connect(last_event_id):
    stream = SSEStream()
    await published(stream, 2)
    subscription = await stream.subscribe(last_event_id=last_event_id)
    [event] = await published(stream, 1)
    assert await take(stream.events(subscription.id), 1) == [event]


@pytest.mark.parametrize("event_id", ["a\r\nb", "a\nb", "a\0b", "\ud800ab"])
async def test_a_client_resumes_from_an_id_as_it_received_it(event_id):
    stream = SSEStream()
    first = await stream.subscribe()
    await stream.publish(Event(id=event_id, data=0))
    frames = await take(stream.sse_generator(first.id), 1)
    await published(stream, 2)
    again = await stream.subscribe(last_event_id=decode(frames)[0].id)
    connect, *events = await take(stream.events(again.id), 3)
    assert connect.data == {"resumed": True, "replayed": 2}
    assert data_of(events) == [0, 1]


async def test_the_id_of_an_event_resumes_after_it_even_if_the_wire_could_not_carry_it():
    stream = SSEStream()
    event = Event(id="a\nb", data="seen")
    await stream.publish(event)
    await published(stream, 1)
    subscription = await stream.subscribe(last_event_id=event.id)
    [connect] = await take(stream.events(subscription.id), 1)
    assert connect.data == {"resumed": True, "replayed": 1}


async def test_an_id_that_was_published_twice_resumes_after_the_later_one():
    stream = SSEStream()
    for number in range(4):
        await stream.publish(Event(id="twice" if number in {0, 2} else str(number), data=number))
    subscription = await stream.subscribe(last_event_id="twice")
    _, event = await take(stream.events(subscription.id), 2)
    assert event.data == 3


async def test_a_filter_that_raises_during_replay_drops_only_that_event():
    stream = SSEStream()
    events = await published(stream, 4)

    def broken(event: Event) -> bool:
        if event.data == 2:
            raise ValueError("broken")
        return True

    subscription = await stream.subscribe(filter_fn=broken, last_event_id=events[0].id)
    connect, *replayed = await take(stream.events(subscription.id), 3)
    assert connect.data == {"resumed": True, "replayed": 2}
    assert data_of(replayed) == [1, 3]
    assert stream.statistics().handler_errors == 1


async def test_a_stream_that_is_closed_during_the_replay_does_not_break_the_subscribe():
    stream = SSEStream()
    events = await published(stream, 3)

    def closing(event: Event) -> bool:
        closer = threading.Thread(target=asyncio.run, args=(stream.aclose(),))
        closer.start()
        closer.join(DEADLINE)
        return True

    try:
        subscription = await stream.subscribe(
            lambda event: None, filter_fn=closing, last_event_id=events[1].id
        )
    except StreamClosedError:
        return
    assert not subscription.active


async def test_breaking_off_in_the_replay_leaves_the_rest_of_it_for_the_next_reader():
    stream = SSEStream()
    events = await published(stream, 4)
    subscription = await stream.subscribe(last_event_id=events[0].id)
    await take(stream.events(subscription.id), 2)
    await published(stream, 1)
    assert data_of(await take(stream.events(subscription.id), 3)) == [2, 3, 0]


@pytest.mark.parametrize("action", ["cancel", "unsubscribe"])
async def test_an_ended_subscription_replays_nothing_more(action):
    stream = SSEStream()
    events = await published(stream, 4)
    subscription = await stream.subscribe(last_event_id=events[0].id)
    reader = stream.events(subscription.id)
    await take(reader, 2)
    await end(stream, subscription, action)
    assert await rest(reader) == []


_TOPICS = ["a", "a.b", "a.b.c", "b"]
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(_TOPICS)),
        st.tuples(st.just("read"), st.integers(1, 4)),
        st.tuples(st.just("reconnect"), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(
    steps=_STEPS,
    buffer_size=st.integers(0, 6) | st.just(1_000),
    topic=st.sampled_from(["*", ">", "a", "a.*", "a.>", "*.b", "b"]),
    divisor=st.none() | st.integers(2, 3),
)
def test_a_client_that_reconnects_is_replayed_what_the_buffer_holds(steps, buffer_size, topic, divisor):
    asyncio.run(_come_and_go(steps, buffer_size, topic, divisor))


async def _come_and_go(
    steps: list[tuple[str, Any]], buffer_size: int, topic: str, divisor: int | None
) -> None:
    filter_fn = None if divisor is None else (lambda event: event.data % divisor != 0)
    wants = Subscription("model", topic, None, filter_fn).should_receive
    stream = SSEStream(buffer_size=buffer_size)
    log = [create_event(0, topic="nowhere.to.be.found")]
    await stream.publish(log[0])
    last_id, seen = log[0].id, []
    subscription = await stream.subscribe(topic=topic, filter_fn=filter_fn)
    reader = stream.sse_generator(subscription.id)
    expected: deque[Any] = deque()

    async def read(count: int) -> None:
        nonlocal last_id
        for frame in await take(reader, min(count, len(expected))):
            [record] = decode([frame])
            wanted = expected.popleft()
            if isinstance(wanted, Event):
                assert (record.id, json.loads(record.data)) == (wanted.id, wanted.data)
                last_id = record.id
                seen.append(wanted)
            else:
                assert (record.event, record.id, json.loads(record.data)) == ("connect", "", wanted)

    for step, value in steps:
        if step == "publish":
            log.append(create_event(len(log), topic=value))
            await stream.publish(log[-1])
            if wants(log[-1]):
                expected.append(log[-1])
        elif step == "read":
            await read(value)
        else:
            await stream.unsubscribe(subscription.id)
            subscription = await stream.subscribe(topic=topic, filter_fn=filter_fn, last_event_id=last_id)
            reader = stream.sse_generator(subscription.id)
            buffer = log[len(log) - min(buffer_size, len(log)) :]
            ids = [event.id for event in buffer]
            accepted = [event.id for event in buffer if filter_fn is None or filter_fn(event)]
            missed = [
                event for event in buffer[ids.index(last_id) + 1 if last_id in ids else 0 :] if wants(event)
            ]
            expected = deque(
                [
                    {"resumed": True, "replayed": len(missed)}
                    if last_id in ids
                    else {
                        "resumed": False,
                        "requested": last_id,
                        "first_available": accepted[0] if accepted else None,
                    },
                    *missed,
                ]
            )
    await read(len(expected))
    if buffer_size >= len(log):
        assert seen == [event for event in log[1:] if wants(event)]
    await stream.aclose()


async def _wandering_client(stream: SSEStream, chance: random.Random) -> list[str]:
    """Read until the end, with a reconnection from the last event id now and then."""
    seen: list[str] = []
    decoder = SSEDecoder()
    while True:
        resuming = bool(decoder.last_event_id)
        subscription = await stream.subscribe(topic=">", last_event_id=decoder.last_event_id)
        reader = stream.sse_generator(subscription.id)
        if resuming:
            [record] = decoder.feed((await anext(reader)).encode())
            assert json.loads(record.data)["resumed"] is True
        for _ in range(chance.randrange(1, 40)):
            [record] = decoder.feed((await anext(reader)).encode())
            seen.append(record.id)
            if json.loads(record.data) == "end":
                return seen
            if chance.random() < 0.1:
                await asyncio.sleep(0)
        subscription.cancel()
        await asyncio.sleep(chance.random() / 1_000)


@pytest.mark.parametrize("seed", range(3))
async def test_clients_that_reconnect_while_threads_publish_see_no_gap_and_no_duplicate(seed):
    stream = SSEStream(buffer_size=10_000, queue_size=10_000)
    reference = await stream.subscribe()
    threads, events_each = 3, 150

    def publish(name: int) -> None:
        for number in range(events_each):
            stream.publish_nowait(create_event(number, topic=f"t.{name}"))

    with frequent_thread_switches():
        async with asyncio.timeout(2 * DEADLINE):
            clients = [
                asyncio.create_task(_wandering_client(stream, random.Random(4 * seed + n))) for n in range(4)
            ]
            await settle()
            await asyncio.gather(*(asyncio.to_thread(publish, name) for name in range(threads)))
            await stream.publish(create_event("end", topic="t.end"))
            seen_by_each = await asyncio.gather(*clients)
    order = [event.id for event in await take(stream.events(reference.id), threads * events_each + 1)]
    assert all(seen == order for seen in seen_by_each)


# Ends


async def end(stream: SSEStream, subscription: Subscription, action: str) -> None:
    match action:
        case "cancel":
            subscription.cancel()
        case "cancel in a thread":
            await asyncio.to_thread(subscription.cancel)
        case "unsubscribe":
            assert await stream.unsubscribe(subscription.id) is True
        case "aclose":
            await stream.aclose()


@pytest.mark.parametrize(
    ("action", "last"),
    [
        ("cancel", []),
        ("cancel in a thread", []),
        ("unsubscribe", []),
        ("aclose", [EventType.DISCONNECT]),
    ],
)
async def test_a_waiting_iteration_ends_at_once(action, last):
    stream = SSEStream()
    subscription = await stream.subscribe()
    reading = asyncio.create_task(rest(stream.events(subscription.id)))
    await settle()
    await end(stream, subscription, action)
    assert [event.type for event in await reading] == last
    assert not subscription.active
    assert stream.statistics().subscribers == 0


@pytest.mark.parametrize("action", ["cancel", "unsubscribe"])
async def test_an_ended_subscription_discards_its_queue(action):
    stream = SSEStream()
    subscription = await stream.subscribe()
    await published(stream, 3)
    reader = stream.events(subscription.id)
    await take(reader, 1)
    await end(stream, subscription, action)
    assert await rest(reader) == []
    assert await rest(stream.events(subscription.id)) == []


@pytest.mark.parametrize("begin", ["before", "after"])
async def test_closing_delivers_what_is_queued_then_a_disconnect_then_the_end(begin):
    stream = SSEStream()
    subscription = await stream.subscribe()
    events = await published(stream, 3)
    reader = stream.events(subscription.id)
    received = await take(reader, 1) if begin == "before" else []
    await stream.aclose()
    if begin == "after":
        reader = stream.events(subscription.id)
    *queued, last = await rest(reader)
    assert received + queued == events
    assert last.type is EventType.DISCONNECT
    assert await rest(stream.events(subscription.id)) == []


async def test_a_full_queue_ends_with_a_disconnect_too():
    stream = SSEStream(queue_size=2)
    subscription = await stream.subscribe()
    await published(stream, 5)
    await stream.aclose()
    assert [event.type for event in await rest(stream.events(subscription.id))] == [
        EventType.MESSAGE,
        EventType.MESSAGE,
        EventType.DISCONNECT,
    ]
    assert subscription.dropped == 3


async def test_a_closed_stream_refuses_everything_and_may_be_closed_again():
    stream = SSEStream()
    subscription = await stream.subscribe()
    async with stream:
        pass
    await stream.aclose()
    with pytest.raises(StreamClosedError):
        await stream.publish(create_event(1))
    with pytest.raises(StreamClosedError):
        stream.publish_nowait(create_event(1))
    with pytest.raises(StreamClosedError):
        await stream.subscribe()
    with pytest.raises(StreamClosedError):
        await stream.subscribe(last_event_id="1")
    assert [e.type for e in await rest(stream.events(subscription.id))] == [EventType.DISCONNECT]


@pytest.mark.parametrize("read", [SSEStream.events, SSEStream.sse_generator])
async def test_an_unknown_id_ends_at_once(read):
    assert await rest(read(SSEStream(), "nobody")) == []


async def test_unsubscribing_an_unknown_or_ended_subscription_returns_false():
    stream = SSEStream()
    subscription = await stream.subscribe()
    assert await stream.unsubscribe("nobody") is False
    assert await stream.unsubscribe(subscription.id) is True
    assert await stream.unsubscribe(subscription.id) is False
    subscription.cancel()


# Readers


async def test_a_second_reader_at_the_same_time_is_an_error_and_leaves_the_first_alone():
    stream = SSEStream()
    subscription = await stream.subscribe()
    first = stream.events(subscription.id)
    waiting = asyncio.create_task(anext(first))
    await settle()
    for second in (stream.events(subscription.id), stream.sse_generator(subscription.id), first):
        with pytest.raises(RuntimeError):
            await take(second, 1)
    [event] = await published(stream, 1)
    async with asyncio.timeout(DEADLINE):
        assert await waiting == event


async def test_a_reader_that_breaks_off_is_replaced_by_the_next():
    stream = SSEStream()
    subscription = await stream.subscribe()
    events = await published(stream, 2)
    async for event in stream.events(subscription.id):
        assert event == events[0]
        break
    async for event in stream.events(subscription.id):
        assert event == events[1]
        break


async def test_a_closed_reader_is_replaced_by_the_next():
    stream = SSEStream()
    subscription = await stream.subscribe()
    events = await published(stream, 2)
    first = stream.events(subscription.id)
    await take(first, 1)
    await first.aclose()
    await first.aclose()
    assert await rest(first) == []
    assert await take(stream.events(subscription.id), 1) == events[1:]


async def test_a_read_that_timed_out_loses_nothing_and_may_be_repeated():
    stream = SSEStream()
    subscription = await stream.subscribe()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream.events(subscription.id)), 0.001)
    events = await published(stream, 3)
    assert await take(stream.events(subscription.id), 3) == events


async def test_a_read_that_is_cancelled_as_the_event_arrives_leaves_it_in_the_queue():
    stream = SSEStream()
    subscription = await stream.subscribe()
    reader = stream.events(subscription.id)
    waiting = asyncio.create_task(anext(reader))
    await settle()
    [event] = await published(stream, 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()
    assert await take(stream.events(subscription.id), 1) == [event]


async def test_a_reader_and_threads_that_overflow_its_queue_do_not_trip_over_each_other():
    stream = SSEStream(queue_size=1)
    subscription = await stream.subscribe()
    reading = asyncio.create_task(rest(stream.events(subscription.id)))
    await settle()

    def publish() -> None:
        for number in range(2_000):
            stream.publish_nowait(create_event(number))

    with frequent_thread_switches():
        async with asyncio.timeout(2 * DEADLINE):
            await asyncio.gather(*(asyncio.to_thread(publish) for _ in range(3)))
            await stream.aclose()
            received = await reading
    assert len(received) - 1 + subscription.dropped == 6_000


# Overflow


@pytest.mark.parametrize(
    ("overflow", "kept", "dropped"),
    [
        (Overflow.DROP_OLDEST, [2, 3, 4], 2),
        (Overflow.DROP_NEWEST, [0, 1, 2], 2),
        (Overflow.DISCONNECT, [0, 1, 2], 1),
        (Overflow.BLOCK, [0, 1, 2], 2),
    ],
)
@pytest.mark.parametrize("nowait", [False, True], ids=["publish", "publish_nowait"])
async def test_a_full_queue_keeps_and_counts_events_by_its_policy(overflow, kept, dropped, nowait):
    stream = SSEStream(queue_size=3, overflow=overflow)
    subscription = await stream.subscribe()
    if nowait or overflow is Overflow.BLOCK:
        for number in range(5):
            stream.publish_nowait(create_event(number))
    else:
        await published(stream, 5)
    statistics = stream.statistics()
    assert (subscription.dropped, statistics.dropped) == (dropped, dropped)
    assert statistics.published == 5
    assert data_of(await take(stream.events(subscription.id), 3)) == kept


@pytest.mark.parametrize("overflow", [each for each in Overflow if each is not Overflow.BLOCK])
async def test_a_slow_subscriber_does_not_affect_the_others(overflow):
    stream = SSEStream(queue_size=2, overflow=overflow)
    await stream.subscribe()
    other = await stream.subscribe()
    reading = asyncio.create_task(take(stream.events(other.id), 5))
    async with asyncio.timeout(DEADLINE):
        for number in range(5):
            await settle()
            await stream.publish(create_event(number))
    assert data_of(await reading) == list(range(5))
    assert other.dropped == 0


@EACH_POLICY
async def test_a_policy_may_be_named_by_its_value(overflow):
    assert SSEStream(overflow=str(overflow)).statistics().dropped == 0


async def test_disconnect_ends_the_subscription_after_the_queued_events():
    stream = SSEStream(queue_size=2, overflow=Overflow.DISCONNECT)
    subscription = await stream.subscribe()
    await published(stream, 4)
    assert not subscription.active
    assert stream.statistics().subscribers == 0
    assert data_of(await rest(stream.events(subscription.id))) == [0, 1]
    assert await rest(stream.events(subscription.id)) == []


async def test_a_client_disconnected_by_overflow_is_replayed_what_it_missed():
    stream = SSEStream(queue_size=2, overflow=Overflow.DISCONNECT)
    subscription = await stream.subscribe()
    events = await published(stream, 5)
    decoder = SSEDecoder()
    for frame in await rest(stream.sse_generator(subscription.id)):
        decoder.feed(frame.encode())
    again = await stream.subscribe(last_event_id=decoder.last_event_id)
    connect, *missed = await take(stream.events(again.id), 4)
    assert connect.data == {"resumed": True, "replayed": 3}
    assert missed == events[2:]


@pytest.mark.parametrize("action", ["cancel", "unsubscribe"])
async def test_ending_a_subscription_that_overflow_has_disconnected_frees_its_queue(action):
    stream = SSEStream(buffer_size=0, queue_size=2, overflow=Overflow.DISCONNECT)
    subscription = await stream.subscribe()
    events = [create_event(number) for number in range(3)]
    left = [weakref.ref(event) for event in events]
    while events:
        await stream.publish(events.pop())
    if action == "cancel":
        subscription.cancel()
    else:
        await stream.unsubscribe(subscription.id)
    gc.collect()
    assert [ref() for ref in left] == [None, None, None]


async def test_a_publisher_waits_for_a_reader_where_the_policy_is_to_block():
    stream = SSEStream(queue_size=1, overflow=Overflow.BLOCK)
    subscription = await stream.subscribe()
    permits = asyncio.Semaphore(0)
    received: list[Any] = []

    async def read() -> None:
        async for event in stream.events(subscription.id):
            received.append(event.data)
            await permits.acquire()

    reading = asyncio.create_task(read())
    await settle()
    publishing = asyncio.create_task(published(stream, 5))
    await until(lambda: len(received) >= 1)
    assert received == [0]
    assert not publishing.done()
    for _ in range(5):
        permits.release()
    async with asyncio.timeout(DEADLINE):
        await publishing
    await until(lambda: len(received) >= 5)
    assert received == [0, 1, 2, 3, 4]
    assert subscription.dropped == 0
    subscription.cancel()
    permits.release()
    async with asyncio.timeout(DEADLINE):
        await reading


async def test_blocking_loses_nothing_to_a_reader_that_limits_each_wait():
    stream = SSEStream(queue_size=1, overflow=Overflow.BLOCK)
    subscription = await stream.subscribe()
    reader = stream.events(subscription.id)
    received: list[Any] = []

    async def read() -> None:
        while len(received) < 5:
            event = await asyncio.wait_for(anext(reader), DEADLINE)
            await settle()
            received.append(event.data)

    reading = asyncio.create_task(read())
    await settle()
    await published(stream, 5)
    await settle()
    assert subscription.dropped == 0
    async with asyncio.timeout(DEADLINE):
        await reading
    assert received == [0, 1, 2, 3, 4]


async def test_blocking_keeps_the_order_of_the_buffer_between_publishers():
    stream = SSEStream(queue_size=1, overflow=Overflow.BLOCK)
    held = asyncio.Event()

    async def hold(event: Event) -> None:
        if event.data == "held":
            await held.wait()

    stream.subscribe_nowait(hold)
    subscription = await stream.subscribe()
    permits = asyncio.Semaphore(0)
    received: list[Any] = []

    async def read() -> None:
        async for event in stream.events(subscription.id):
            received.append(event.data)
            await permits.acquire()

    reading = asyncio.create_task(read())
    await settle()
    tasks = []
    for data in ("read", "queued", "held"):
        tasks.append(asyncio.create_task(stream.publish(create_event(data))))
        await settle()
    permits.release()
    await settle()
    tasks.append(asyncio.create_task(stream.publish(create_event("later"))))
    await settle()
    held.set()
    for _ in range(4):
        permits.release()
        await settle()
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*tasks)
    assert received == ["read", "queued", "held", "later"]
    reading.cancel()


async def test_a_cancelled_publisher_that_waited_for_room_drops_and_counts_its_event():
    stream = SSEStream(queue_size=1, overflow=Overflow.BLOCK)
    subscription = await stream.subscribe()
    permits = asyncio.Semaphore(0)

    async def read() -> None:
        async for _ in stream.events(subscription.id):
            await permits.acquire()

    reading = asyncio.create_task(read())
    await settle()
    publishing = asyncio.create_task(published(stream, 3))
    await settle()
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    assert (subscription.dropped, stream.statistics().dropped) == (1, 1)
    reading.cancel()


async def test_a_publisher_cancelled_in_a_handler_counts_the_event_that_never_got_room():
    stream = SSEStream(queue_size=1, overflow=Overflow.BLOCK)

    async def stuck(event: Event) -> None:
        if event.data == 1:
            await asyncio.Event().wait()

    subscription = await stream.subscribe(stuck)
    publishing = asyncio.create_task(published(stream, 2))
    await settle()
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    assert data_of(await take(stream.events(subscription.id), 1)) == [0]
    assert (subscription.dropped, stream.statistics().dropped) == (1, 1)


@pytest.mark.parametrize("action", ["cancel", "unsubscribe", "aclose"])
async def test_ending_the_subscription_releases_a_waiting_publisher(action):
    stream = SSEStream(queue_size=1, overflow=Overflow.BLOCK)
    subscription = await stream.subscribe()
    permits = asyncio.Semaphore(0)

    async def read() -> None:
        async for _ in stream.events(subscription.id):
            await permits.acquire()

    reading = asyncio.create_task(read())
    await settle()
    publishing = asyncio.create_task(published(stream, 3))
    await settle()
    assert not publishing.done()
    await end(stream, subscription, action)
    async with asyncio.timeout(DEADLINE):
        await publishing
    reading.cancel()


async def test_the_reading_task_may_publish_to_its_own_full_queue():
    stream = SSEStream(queue_size=1, overflow=Overflow.BLOCK)
    subscription = await stream.subscribe()
    reader = stream.events(subscription.id)
    await published(stream, 1)
    await take(reader, 1)
    await published(stream, 3)
    assert subscription.dropped == 2
    assert data_of(await take(reader, 1)) == [0]


async def test_a_handler_that_publishes_waits_for_the_reader_of_its_queue():
    stream = SSEStream(queue_size=1, overflow=Overflow.BLOCK)

    async def handler(event: Event) -> None:
        if event.data < 3:
            await stream.publish(create_event(event.data + 1))

    subscription = await stream.subscribe(handler)
    reading = asyncio.create_task(take(stream.events(subscription.id), 4))
    await settle()
    async with asyncio.timeout(DEADLINE):
        await stream.publish(create_event(0))
    assert sorted(data_of(await reading)) == [0, 1, 2, 3]
    assert subscription.dropped == 0


async def test_a_publisher_in_its_own_thread_waits_for_the_reader():
    stream = SSEStream(queue_size=1, overflow=Overflow.BLOCK)
    subscription = await stream.subscribe()
    reading = asyncio.create_task(take(stream.events(subscription.id), 50))
    await settle()
    async with asyncio.timeout(DEADLINE):
        await asyncio.to_thread(asyncio.run, published(stream, 50))
    assert data_of(await reading) == list(range(50))
    assert subscription.dropped == 0


# Interceptors and statistics


async def test_interceptors_change_and_drop_events_before_buffer_and_queues():
    stream = SSEStream()
    [before] = await published(stream, 1)
    subscription = await stream.subscribe()
    stream.add_interceptor(lambda event: None if event.data == 1 else event.replace(data=event.data * 10))
    await published(stream, 3)
    assert data_of(await take(stream.events(subscription.id), 2)) == [0, 20]
    replay = await stream.subscribe(last_event_id=before.id)
    assert data_of(await take(stream.events(replay.id), 3))[1:] == [0, 20]
    assert (stream.statistics().published, stream.statistics().dropped) == (3, 1)


async def test_an_interceptor_that_raises_drops_nothing_and_can_be_removed():
    stream = SSEStream()
    subscription = await stream.subscribe()

    def broken(event: Event) -> Event:
        raise ValueError("broken")

    stream.add_interceptor(broken)
    await published(stream, 2)
    assert stream.remove_interceptor(broken) is True
    assert stream.remove_interceptor(broken) is False
    await published(stream, 1)
    assert data_of(await take(stream.events(subscription.id), 3)) == [0, 1, 0]
    assert stream.statistics().handler_errors == 2


async def test_statistics_count_the_events_by_outcome():
    stream = SSEStream(buffer_size=3, queue_size=2)
    await stream.subscribe()
    await stream.subscribe(topic="a", filter_fn=lambda event: event.data == 0)
    await published(stream, 4, topic="a")
    statistics = stream.statistics()
    assert statistics._asdict() == {
        "published": 4,
        "dropped": 2,
        "handler_errors": 0,
        "subscribers": 2,
        "buffered": 3,
    }


async def test_listeners_read_from_queues_of_their_own():
    stream = SSEStream(queue_size=1)
    async with stream.listen("a", queue_size=5) as listener:
        await published(stream, 3, topic="a")
        await published(stream, 1, topic="b")
        await stream.aclose()
        assert data_of(await rest(listener)) == [0, 1, 2]


# Arguments


@pytest.mark.parametrize(
    "arguments",
    [
        {"buffer_size": -1},
        {"queue_size": 0},
        {"queue_size": -1},
        {"heartbeat_interval": 0},
        {"heartbeat_interval": -1.0},
        {"heartbeat_interval": math.nan},
        {"overflow": "sometimes"},
    ],
    ids=str,
)
def test_a_size_an_interval_or_a_policy_that_makes_no_sense_is_refused(arguments):
    with pytest.raises(ValueError):
        SSEStream(**arguments)


@pytest.mark.parametrize("topic", ["", "a..b", ".a", "a.>.b", 5, None])
async def test_a_malformed_topic_is_refused_and_leaves_nothing_behind(topic):
    stream = SSEStream()
    with pytest.raises(ValueError):
        await stream.subscribe(topic=topic)
    assert stream.statistics().subscribers == 0


@pytest.mark.parametrize("arguments", [{"handler": 5}, {"filter_fn": 5}, {"handler": "topic"}], ids=str)
async def test_handlers_and_filters_must_be_callable(arguments):
    with pytest.raises(TypeError):
        await SSEStream().subscribe(**arguments)


async def test_an_async_filter_is_refused():
    async def wants(event: Event) -> bool:
        return True

    with pytest.raises(TypeError):
        await SSEStream().subscribe(filter_fn=wants)


@pytest.mark.parametrize("thing", [None, "event", {"data": 1}])
async def test_only_events_can_be_published(thing):
    stream = SSEStream()
    with pytest.raises(TypeError):
        await stream.publish(thing)
    with pytest.raises(TypeError):
        stream.publish_nowait(thing)


# Memory


class _Payload:
    pass


async def test_a_cancelled_subscription_leaves_nothing_behind():
    clock = FakeClock()
    stream = SSEStream(buffer_size=0, clock=clock)
    left: list[weakref.ref[Any]] = []

    async def client() -> None:
        payload = _Payload()

        def handler(event: Event, payload: _Payload = payload) -> None:
            pass

        subscription = await stream.subscribe(handler, filter_fn=lambda event: payload is not None)
        left.extend(weakref.ref(thing) for thing in (payload, handler, subscription))
        waiting = asyncio.create_task(rest(stream.events(subscription.id)))
        await settle()
        subscription.cancel()
        assert await waiting == []

    for _ in range(3):
        await client()
    gc.collect()
    assert [ref() for ref in left] == [None] * 9
    assert clock.pending() == 0
    assert stream.statistics().subscribers == 0


async def test_a_client_whose_task_is_cancelled_leaves_nothing_behind_once_unsubscribed():
    stream = SSEStream(buffer_size=0)
    left: list[weakref.ref[Any]] = []

    async def client() -> None:
        subscription = await stream.subscribe()
        left.append(weakref.ref(subscription))
        try:
            async for event in stream.events(subscription.id):
                left.append(weakref.ref(event.data))  # noqa: PERF401 - looked at while it grows
        finally:
            await stream.unsubscribe(subscription.id)

    serving = asyncio.create_task(client())
    await settle()
    await stream.publish(create_event(_Payload()))
    await settle()
    serving.cancel()
    await asyncio.wait([serving])
    del serving
    gc.collect()
    assert [ref() for ref in left] == [None, None]


async def test_unread_events_are_freed_when_the_subscription_ends():
    stream = SSEStream(buffer_size=0)
    subscription = await stream.subscribe()
    payload = _Payload()
    left = weakref.ref(payload)
    await stream.publish(create_event(payload))
    del payload
    gc.collect()
    assert left() is not None
    subscription.cancel()
    gc.collect()
    assert left() is None
