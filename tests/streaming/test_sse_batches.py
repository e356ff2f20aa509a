"""`SSEStream.batches`, `Frame` and `newest_id`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from codomyrmex.streaming import (
    Event,
    EventType,
    Frame,
    Overflow,
    SSEStream,
    StreamClosedError,
    create_event,
)
from codomyrmex.streaming.testing import FakeClock
from helpers import in_time, settle
from hypothesis import given, settings
from hypothesis import strategies as st

EVERYTHING_AT_ONCE = 1_000


async def publish(stream: SSEStream, *data: Any, **metadata: Any) -> list[Event]:
    events = [create_event(one, **metadata) for one in data]
    for event in events:
        await stream.publish(event)
    return events


def data_of(frames: list[Frame]) -> list[Any]:
    return [frame.event.data for frame in frames]


def kinds(frames: list[Frame]) -> list[tuple[EventType, bool]]:
    return [(frame.event.type, frame.notice) for frame in frames]


async def the_rest(reader: AsyncIterator[list[Frame]]) -> list[list[Frame]]:
    return [batch async for batch in reader]


@in_time
async def test_a_batch_has_everything_that_is_ready():
    stream = SSEStream()
    subscription = await stream.subscribe()
    reader = stream.batches(subscription.id)
    await publish(stream, 1, 2, 3)
    assert data_of(await anext(reader)) == [1, 2, 3]
    waiting = asyncio.create_task(anext(reader))
    await settle()
    assert not waiting.done()
    await publish(stream, 4)
    assert data_of(await waiting) == [4]


@in_time
async def test_a_batch_has_no_more_than_the_limit():
    stream = SSEStream()
    subscription = await stream.subscribe()
    await publish(stream, *range(7))
    reader = stream.batches(subscription.id, 3)
    assert [data_of(await anext(reader)) for _ in range(3)] == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit: int):
    with pytest.raises(ValueError, match="at least 1"):
        SSEStream().batches("any", limit)


@in_time
async def test_the_replay_follows_its_connect_and_precedes_live_events():
    stream = SSEStream()
    seen, *_ = await publish(stream, "seen", "missed", "missed too")
    subscription = await stream.subscribe(last_event_id=seen.id)
    await publish(stream, "new")
    reader = stream.batches(subscription.id)
    frames = await anext(reader) + await anext(reader)
    assert data_of(frames) == [{"resumed": True, "replayed": 2}, "missed", "missed too", "new"]
    assert [frame.notice for frame in frames] == [True, False, False, False]


@in_time
async def test_a_replay_longer_than_the_limit_continues_in_the_next_batch():
    stream = SSEStream()
    seen, *_ = await publish(stream, *range(6))
    subscription = await stream.subscribe(last_event_id=seen.id)
    await publish(stream, 6)
    reader = stream.batches(subscription.id, 4)
    assert data_of(await anext(reader))[1:] == [1, 2, 3]
    assert data_of(await anext(reader)) + data_of(await anext(reader)) == [4, 5, 6]


@in_time
async def test_all_subscribers_share_one_frame_and_its_attributes():
    stream = SSEStream()
    subscriptions = [await stream.subscribe() for _ in range(3)]
    first, *_ = await publish(stream, "one")
    [frame], *others = [await anext(stream.batches(each.id)) for each in subscriptions]
    assert frame.wire is None
    frame.wire = b"encoded"
    assert all(other is frame for [other] in others)
    late = await stream.subscribe(last_event_id="unknown")
    _, replayed = await anext(stream.batches(late.id))
    assert replayed.wire == b"encoded"
    assert replayed.event is first


@in_time
async def test_events_made_by_the_stream_are_notices_and_published_ones_are_not():
    clock = FakeClock()
    stream = SSEStream(heartbeat_interval=10, clock=clock)
    subscription = await stream.subscribe(last_event_id="unknown")
    reader = stream.batches(subscription.id)
    assert kinds(await anext(reader)) == [(EventType.CONNECT, True)]
    silence = asyncio.create_task(anext(reader))
    await settle()
    clock.advance(10)
    assert kinds(await silence) == [(EventType.HEARTBEAT, True)]
    for kind in EventType:
        await stream.publish(create_event(None, kind))
    assert kinds(await anext(reader)) == [(kind, False) for kind in EventType]
    await stream.aclose()
    assert kinds(await anext(reader)) == [(EventType.DISCONNECT, True)]
    assert await the_rest(reader) == []


@in_time
async def test_the_disconnect_follows_the_queued_events():
    stream = SSEStream()
    subscription = await stream.subscribe()
    await publish(stream, 1, 2)
    await stream.aclose()
    [frames] = await the_rest(stream.batches(subscription.id))
    assert data_of(frames) == [1, 2, None]
    assert frames[-1].event.type is EventType.DISCONNECT


@in_time
async def test_an_unknown_subscription_ends_at_once():
    assert await the_rest(SSEStream().batches("unknown")) == []


@in_time
async def test_cancelling_a_subscription_ends_a_waiting_reader():
    stream = SSEStream()
    subscription = await stream.subscribe()
    waiting = asyncio.create_task(the_rest(stream.batches(subscription.id)))
    await settle()
    subscription.cancel()
    assert await waiting == []


@in_time
async def test_a_reader_that_is_left_between_two_batches_is_replaced_by_the_next():
    stream = SSEStream()
    subscription = await stream.subscribe()
    await publish(stream, 1)
    first, second = stream.batches(subscription.id), stream.batches(subscription.id)
    await anext(first)
    await publish(stream, 2)
    assert data_of(await anext(second)) == [2]
    with pytest.raises(RuntimeError, match="another reader"):
        await anext(first)
    await publish(stream, 3)
    assert data_of(await anext(second)) == [3]


@in_time
async def test_a_full_queue_of_the_disconnecting_kind_is_read_to_its_end():
    stream = SSEStream(queue_size=2, overflow=Overflow.DISCONNECT)
    subscription = await stream.subscribe()
    await publish(stream, 1, 2, 3)
    [frames] = await the_rest(stream.batches(subscription.id))
    assert data_of(frames) == [1, 2]
    assert not subscription.active


@in_time
async def test_a_batch_makes_room_for_waiting_publishers():
    stream = SSEStream(queue_size=2, overflow=Overflow.BLOCK)
    subscription = await stream.subscribe()
    reader = stream.batches(subscription.id)
    waiting = asyncio.create_task(anext(reader))
    await settle()
    publishing = asyncio.create_task(publish(stream, *range(6)))
    read = data_of(await waiting)
    while len(read) < 6:
        read += data_of(await anext(reader))
    await publishing
    assert read == list(range(6))
    assert subscription.dropped == 0


@in_time
async def test_batches_lose_nothing_that_threads_publish_meanwhile():
    stream = SSEStream(queue_size=10_000)
    subscription = await stream.subscribe()

    def publish_many(thread: int) -> None:
        for number in range(500):
            stream.publish_nowait(create_event((thread, number)))

    threads = [threading.Thread(target=publish_many, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    read: list[tuple[int, int]] = []
    reader = stream.batches(subscription.id, 50)
    while len(read) < 2_000:
        frames = await anext(reader)
        assert len(frames) <= 50
        read += data_of(frames)
    for thread in threads:
        thread.join()
    for thread in range(4):
        assert [number for of, number in read if of == thread] == list(range(500))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 5) | st.none(), max_size=20),  # publish that many, or read a batch
    st.integers(1, 6),
    st.booleans(),
)
def test_batches_of_any_size_have_what_events_yields(steps: list[int | None], limit: int, resumes: bool):
    async def both() -> None:
        stream = SSEStream(queue_size=EVERYTHING_AT_ONCE)
        await publish(stream, "before", "before too")
        last = stream.newest_id() if resumes else None
        batched, single = [await stream.subscribe(last_event_id=last) for _ in range(2)]
        reader, read, waits = stream.batches(batched.id, limit), [], int(resumes)
        for step in steps:
            if step is not None:
                await publish(stream, *range(step))
                waits += step
            elif waits:
                frames = await anext(reader)
                assert 1 <= len(frames) <= limit
                waits -= len(frames)
                read += data_of(frames)
        await stream.aclose()
        read += [data for frames in await the_rest(reader) for data in data_of(frames)]
        assert read == [event.data async for event in stream.events(single.id)]

    asyncio.run(both())


async def test_the_newest_id_is_that_of_the_last_event_in_the_buffer():
    stream = SSEStream()
    assert stream.newest_id() is None
    *_, last = await publish(stream, 1, 2)
    assert stream.newest_id() == last.id


async def test_without_a_buffer_there_is_no_newest_id():
    stream = SSEStream(buffer_size=0)
    await publish(stream, 1)
    assert stream.newest_id() is None


def test_a_frame_is_encoded_once():
    event = create_event("data")
    frame = Frame(event)
    assert (frame.text, frame.wire, frame.notice) == (None, None, False)
    text = frame.encode()
    assert text == event.to_sse()
    assert frame.text is text


@in_time
async def test_a_frame_with_another_id_is_sent_and_resumed_from_with_that_id():
    stream = SSEStream()
    frames = [Frame(create_event(number), f"log:{number}") for number in range(4)]
    subscription = await stream.subscribe()
    for frame in frames:
        stream.publish_frame(frame)
    assert stream.newest_id() == "log:3"
    assert await anext(stream.batches(subscription.id)) == frames
    assert frames[0].encode() == "id: log:0\nevent: message\ndata: 0\n\n"
    later = await stream.subscribe(last_event_id="log:1")
    notice, *replayed = await anext(stream.batches(later.id))
    assert (notice.event.data, replayed) == ({"resumed": True, "replayed": 2}, frames[2:])


def test_a_frame_of_a_heartbeat_has_no_id_as_it_must_not_be_resumed_from():
    assert Frame(Event(type=EventType.HEARTBEAT)).encode() == "event: heartbeat\ndata: null\n\n"


async def test_a_closed_stream_accepts_no_frame():
    stream = SSEStream()
    await stream.aclose()
    with pytest.raises(StreamClosedError):
        stream.publish_frame(Frame(create_event(1)))
