"""`broadcast`: publishing to several streams at once, with failures in a group."""

import asyncio

import pytest
from codomyrmex.streaming import (
    InMemoryStream,
    SSEStream,
    StreamClosedError,
    TopicError,
    TopicStream,
    broadcast,
    create_event,
)
from codomyrmex.streaming.testing import collect
from helpers import DEADLINE


async def closed():
    stream = InMemoryStream()
    await stream.aclose()
    return stream


class Broken(InMemoryStream):
    """A stream whose publishing fails before there is anything to await."""

    def publish(self, event):
        raise OSError("broken")


class Interrupted(InMemoryStream):
    async def publish(self, event):
        raise asyncio.CancelledError


async def test_all_streams_get_the_event():
    streams = [InMemoryStream(), SSEStream(), TopicStream()]
    event = create_event(1, topic="a")
    with collect(streams[0]) as one, collect(streams[1]) as two, collect(streams[2]) as three:
        assert await broadcast(streams, event) is None
    assert one == two == three == [event]


@pytest.mark.parametrize("kind", [list, tuple, iter, lambda streams: (s for s in streams)])
async def test_any_iterable_of_streams_will_do(kind):
    streams = [InMemoryStream(), InMemoryStream()]
    await broadcast(kind(streams), create_event(1))
    assert [s.statistics().published for s in streams] == [1, 1]


async def test_no_streams_are_fine():
    await broadcast([], create_event(1))


async def test_a_stream_named_twice_gets_the_event_twice():
    stream = InMemoryStream()
    await broadcast([stream, stream], create_event(1))
    assert stream.statistics().published == 2


async def test_the_streams_are_published_to_at_the_same_time():
    streams = [InMemoryStream(), InMemoryStream()]
    together = asyncio.Barrier(2)
    for stream in streams:
        await stream.subscribe(lambda _: together.wait())
    async with asyncio.timeout(DEADLINE):
        await broadcast(streams, create_event(1))


async def test_every_stream_is_tried_and_the_failures_are_raised_together():
    good = [InMemoryStream(), InMemoryStream(), InMemoryStream()]
    streams = [good[0], await closed(), good[1], TopicStream(), good[2]]
    event = create_event("without a topic")
    with pytest.raises(ExceptionGroup, match="2 of 5") as caught:
        await broadcast(streams, event)
    assert [type(error) for error in caught.value.exceptions] == [StreamClosedError, TopicError]
    assert [s.get_recent_events() for s in good] == [[event]] * 3


async def test_a_single_failure_is_raised_in_a_group_too():
    with pytest.raises(ExceptionGroup) as caught:
        await broadcast([await closed()], create_event(1))
    assert len(caught.value.exceptions) == 1


async def test_an_error_raised_by_the_call_of_publish_is_one_of_the_failures():
    good = [InMemoryStream(), InMemoryStream()]
    with pytest.raises(ExceptionGroup) as caught:
        await broadcast([good[0], Broken(), good[1]], create_event(1))
    assert [type(error) for error in caught.value.exceptions] == [OSError]
    assert [s.statistics().published for s in good] == [1, 1]


async def test_exceptions_of_handlers_are_not_failures_of_the_stream():
    stream = InMemoryStream()
    await stream.subscribe(lambda _: 1 / 0)
    await broadcast([stream], create_event(1))
    assert stream.statistics().handler_errors == 1


async def test_cancelling_a_broadcast_cancels_what_it_waits_for():
    stream, quick = InMemoryStream(), InMemoryStream()
    started, ended = asyncio.Event(), []

    async def handler(event):
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(event)

    await stream.subscribe(handler)
    event = create_event(1)
    task = asyncio.create_task(broadcast([stream, quick], event))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [event]
    assert quick.statistics().published == 1


async def test_a_cancellation_from_a_stream_passes_and_the_others_have_the_event():
    stream = InMemoryStream()
    with pytest.raises(asyncio.CancelledError):
        await broadcast([Interrupted(), await closed(), stream], create_event(1))
    assert stream.statistics().published == 1
