"""A processor with a group: over all processes, each event passes through it once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from codomyrmex.integrations.durable import DurableStream, SQLiteStore
from codomyrmex.streaming import Event, InMemoryStream, Stream, StreamProcessor, create_event
from helpers import in_time, until


async def publish(stream: Stream, count: int) -> None:
    await asyncio.gather(*(stream.publish(create_event(number)) for number in range(count)))


def times_ten(event: Event) -> Event:
    return event.replace(data=event.data * 10)


@in_time
async def test_each_event_passes_through_one_of_the_processors_of_a_group(tmp_path: Path) -> None:
    out = InMemoryStream()
    async with (
        DurableStream(SQLiteStore(tmp_path / "a.db")) as one,
        DurableStream(SQLiteStore(tmp_path / "a.db")) as two,
    ):
        processors = [StreamProcessor(one, group="tens"), StreamProcessor(two, group="tens")]
        for processor in processors:
            await processor.map(times_ten).sink(out).start()
        await publish(one, 20)
        await until(lambda: len(out.get_recent_events(100)) >= 20)
        assert [event.data for event in out.get_recent_events(100)] == [10 * number for number in range(20)]
        assert [group.name for group in await one.groups()] == ["tens"]
        for processor in processors:
            await processor.stop()


@in_time
async def test_a_group_continues_where_its_last_processor_was(tmp_path: Path) -> None:
    received: list[int] = []

    async def slowly(event: Event) -> Event:
        await asyncio.sleep(0)
        received.append(event.data)
        return event

    for start in (0, 3):
        async with DurableStream(SQLiteStore(tmp_path / "a.db")) as stream:
            if start:  # nobody reads these when they are published
                await publish(stream, 3)
            processor = StreamProcessor(stream, group="notes").map(slowly)
            await processor.start()
            if not start:
                await publish(stream, 3)
            await until(lambda count=start + 3: len(received) == count)
            while any(group.lag for group in await stream.groups()):
                await asyncio.sleep(0.01)
            await processor.stop()
    assert received == [0, 1, 2, 0, 1, 2]


@in_time
async def test_without_a_group_each_processor_gets_everything(tmp_path: Path) -> None:
    out = InMemoryStream()
    async with DurableStream(SQLiteStore(tmp_path / "a.db")) as stream:
        processors = [StreamProcessor(stream).sink(out) for _ in range(2)]
        for processor in processors:
            await processor.start()
        await publish(stream, 3)
        await until(lambda: len(out.get_recent_events(100)) == 6)
        for processor in processors:
            await processor.stop()


def test_a_group_needs_a_durable_stream() -> None:
    with pytest.raises(TypeError, match="group: needs a durable stream, got"):
        StreamProcessor(InMemoryStream(), group="tens")
