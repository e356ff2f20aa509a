"""`EventPages`: the events of a stream page by page, in memory and durable."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from codomyrmex.integrations.durable import DurableStream, Retention, SQLiteStore
from codomyrmex.integrations.web.event_pages import EventPage, EventPages
from codomyrmex.streaming import InMemoryStream, Stream, TopicError, create_event
from codomyrmex.streaming.testing import FakeClock
from helpers import in_time, settle


@pytest.fixture(params=["memory", "durable"])
async def stream(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stream]:
    if request.param == "memory":
        yield InMemoryStream()
        return
    async with DurableStream(SQLiteStore(tmp_path / "events.db")) as durable:
        yield durable


async def publish(stream: Stream, *numbers: int, topic: str = "a") -> None:
    for number in numbers:
        await stream.publish(create_event(number, topic=topic))


def numbers(page: EventPage) -> list[int]:
    return [event.data for _, event in page.events]


@in_time
async def test_without_a_cursor_it_has_the_newest_events_and_says_whether_there_are_older_ones(stream):
    await publish(stream, 1, 2, 3)
    pages = EventPages(stream)
    page = await pages.page(limit=2)
    assert (numbers(page), page.has_more, page.missed) == ([2, 3], True, False)
    assert not (await pages.page(limit=3)).has_more
    await pages.aclose()


@in_time
async def test_pages_follow_each_other_without_gaps_or_repetitions(stream):
    pages = EventPages(stream)
    page = await pages.page()
    await publish(stream, *range(25))
    found = []
    while True:
        page = await pages.page(after=page.cursor, limit=10)
        found += numbers(page)
        if not page.has_more:
            break
    assert found == list(range(25))
    await publish(stream, 25)
    assert numbers(await pages.page(after=page.cursor)) == [25]
    middle, _ = (await pages.page(limit=5)).events[2]
    assert numbers(await pages.page(after=middle)) == [24, 25]
    await pages.aclose()


@in_time
async def test_the_cursor_skips_events_of_other_topics_and_those_that_are_not_accepted(stream):
    pages = EventPages(stream)
    start = (await pages.page()).cursor
    await publish(stream, 1, topic="a.x")
    await publish(stream, 2, topic="b.x")
    await publish(stream, 3, topic="a.y")
    assert numbers(await pages.page("a.*")) == numbers(await pages.page("a.*", start)) == [1, 3]
    page = await pages.page("a.>", start, accepts=lambda event: event.topic != "a.y")
    assert numbers(page) == [1]
    assert numbers(await pages.page(after=page.cursor)) == []
    await pages.aclose()


@in_time
async def test_it_waits_for_the_first_event_that_matches(stream):
    pages = EventPages(stream)
    start = (await pages.page()).cursor
    waiting = asyncio.create_task(pages.page("b", start, wait=1_000))
    await settle()
    await publish(stream, 1, topic="a")
    await settle()
    assert not waiting.done()
    await publish(stream, 2, topic="b")
    assert numbers(await waiting) == [2]
    await pages.aclose()


@in_time
async def test_a_wait_ends_after_the_timeout_and_when_the_pages_are_closed(stream):
    clock = FakeClock()
    pages = EventPages(stream, clock=clock)
    start = (await pages.page()).cursor
    for end in (lambda: clock.advance(10), pages.aclose):
        waiting = asyncio.create_task(pages.page(after=start, wait=10))
        await settle()
        clock.advance(9)
        await settle()
        assert not waiting.done()
        if (ending := end()) is not None:
            await ending
        assert await waiting == EventPage([], start, has_more=False, missed=False)


@in_time
async def test_a_signal_ends_the_waits():
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        pages = EventPages(InMemoryStream(), signals=True)
        start = (await pages.page()).cursor
        waiting = [asyncio.create_task(pages.page(after=start, wait=1_000)) for _ in range(2)]
        await settle()
        signal.raise_signal(signal.SIGTERM)
        assert [(await each).events for each in waiting] == [[], []]
        assert received == [signal.SIGTERM]
        signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM] * 2
        await pages.aclose()
    finally:
        signal.signal(signal.SIGTERM, before)


@in_time
async def test_events_of_another_thread_end_a_wait():
    stream = InMemoryStream()
    pages = EventPages(stream)
    start = (await pages.page()).cursor
    waiting = asyncio.create_task(pages.page(after=start, wait=1_000))
    await settle()
    await asyncio.to_thread(stream.publish_nowait, create_event(1))
    assert numbers(await waiting) == [1]
    await pages.aclose()


@pytest.mark.parametrize("cursor", ["nonsense", "another:3", ":", "a:b", "\ud800:1"])
@in_time
async def test_a_cursor_of_another_log_gets_the_newest_events_and_is_reported(stream, cursor):
    await publish(stream, 1, 2, 3)
    pages = EventPages(stream)
    page = await pages.page(after=cursor, limit=2)
    assert (numbers(page), page.missed) == ([2, 3], True)
    page = await pages.page(after=page.cursor)
    assert (numbers(page), page.missed) == ([], False)
    await pages.aclose()


@in_time
async def test_events_that_are_no_longer_kept_are_reported_as_missed():
    stream = InMemoryStream()
    pages = EventPages(stream, buffer_size=3)
    start = (await pages.page()).cursor
    await publish(stream, *range(5))
    page = await pages.page(after=start)
    assert (numbers(page), page.missed) == ([2, 3, 4], True)
    await pages.aclose()


@in_time
async def test_events_that_the_retention_has_removed_are_reported_as_missed(tmp_path):
    path = tmp_path / "events.db"
    async with DurableStream(SQLiteStore(path)) as stream:
        pages = EventPages(stream)
        start = (await pages.page()).cursor
        await publish(stream, *range(5))
        await stream.call(stream.admin.trim(Retention(max_events=2), unread=True))
    async with DurableStream(SQLiteStore(path)) as stream:
        page = await EventPages(stream).page(after=start)
    assert (numbers(page), page.missed) == ([3, 4], True)


@in_time
async def test_a_cursor_of_a_durable_stream_continues_in_another_process_with_what_is_only_stored(
    tmp_path,
):
    path = tmp_path / "events.db"
    async with DurableStream(SQLiteStore(path)) as stream:
        start = (await EventPages(stream).page()).cursor
        for number in range(1_500):  # more than are read when the log is opened
            stream.publish_nowait(create_event(number, topic="a"))
    async with DurableStream(SQLiteStore(path)) as stream:
        pages = EventPages(stream)
        page = await pages.page(after=start, limit=3)
        assert (numbers(page), page.missed, page.has_more) == ([0, 1, 2], False, True)
        assert len((await pages.page(after=start, limit=500)).events) == 500


@pytest.mark.parametrize(
    ("arguments", "error", "problem"),
    [
        ({"limit": 0}, ValueError, "limit: must be from 1 to 500, got 0"),
        ({"limit": 501}, ValueError, "limit: must be from 1 to 500, got 501"),
        ({"topic": "a..b"}, TopicError, "a..b"),
    ],
)
@in_time
async def test_invalid_arguments_are_rejected(arguments, error, problem):
    with pytest.raises(error, match=problem):
        await EventPages(InMemoryStream()).page(**arguments)
