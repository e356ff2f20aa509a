"""What a durable stream takes while nothing happens, while a handler is behind, and over many events.

`STREAM_EVENTS` says how many events go through the file of a SQLite store whose retention is 10,000; with
`-rP`, pytest shows its size and that of the process now and then.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from pathlib import Path

import psutil
import pytest
from codomyrmex.integrations import DeliveryPolicy, Sink, attach
from codomyrmex.integrations.durable import DurableStream, Retention, SQLiteStore
from codomyrmex.streaming import create_event
from durable.stores import make_place
from helpers import DEADLINE

EVENTS = int(os.environ.get("STREAM_EVENTS", "100000"))
MB = 1024 * 1024
AT_REST = 0.01  # of a core


class Counting(Sink):
    name = "counting"

    def __init__(self):
        self.number = 0

    async def send(self, events):
        self.number += len(events)


def memory():
    return psutil.Process().memory_info().rss / MB


def size_of(folder: Path):
    return sum(file.stat().st_size for file in folder.iterdir())


async def publish(stream, numbers):
    for number in numbers:
        stream.publish_nowait(create_event({"number": number, "text": "x" * 150}, topic="orders"))
        if number % 2_000 == 1_999:
            await stream.flush()
    await stream.flush()


@pytest.mark.skipif(sys.platform == "win32", reason="SQLite's files differ there")
async def test_many_events_leave_the_size_of_the_file_and_of_the_process_flat(tmp_path):
    path = tmp_path / "events.db"
    files: list[float] = []
    sizes: list[float] = []
    sink = Counting()
    stream = DurableStream(SQLiteStore(path), retention=Retention(max_events=10_000))
    begin = time.monotonic()
    async with stream, attach(stream, sink, policy=DeliveryPolicy(batch_size=500)) as attachment:
        step = EVENTS // 20
        for start in range(0, EVENTS, step):
            await publish(stream, range(start, start + step))
            assert await attachment.flush(60)
            async with asyncio.timeout(DEADLINE):
                while (await stream.bounds()).events >= 10_000 + 2 * step:  # until it is trimmed
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.3)  # the trimmer looks four times a second
            files.append(size_of(tmp_path) / MB)
            sizes.append(memory())
            print(f"{start + step} events: files {files[-1]:.1f} MB, process {sizes[-1]:.0f} MB")
        events = (await stream.bounds()).events
    print(f"{EVENTS / (time.monotonic() - begin):.0f} events/s with the pauses")
    assert sink.number == EVENTS
    assert events < 10_000 + 2 * step
    assert max(files[10:]) < 1.2 * max(files[4:10]) + 1
    assert max(sizes[10:]) < 1.1 * max(sizes[4:10]) + 5


async def test_a_handler_that_is_200_000_events_behind_takes_no_memory(tmp_path):
    gate, number, highest = asyncio.Event(), 0, 0

    async def handle(event):
        nonlocal number
        await gate.wait()
        assert event.data["number"] == number
        number += 1

    async with DurableStream(SQLiteStore(tmp_path / "events.db")) as stream:
        await stream.subscribe(handle)
        await publish(stream, range(20_000))  # fills the tail
        before = memory()
        await publish(stream, range(20_000, 200_000))
        behind = memory() - before
        gate.set()
        async with asyncio.timeout(120):
            while number < 200_000:
                await asyncio.sleep(0.1)
                highest = max(highest, memory() - before)
        assert stream.health().ok
    print(f"{behind:.1f} MB more while it was behind, {highest:.1f} MB while it caught up")
    assert max(behind, highest) < 20


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis", "nats"])
async def test_a_stream_that_waits_takes_hardly_any_time(kind, servers, tmp_path):
    sink = Counting()
    stream = DurableStream(make_place(kind, servers, tmp_path).store())
    async with stream, attach(stream, sink):
        await stream.subscribe(lambda event: None)
        await stream.publish(create_event(1))
        await asyncio.sleep(10 if kind == "sqlite" else 3)  # SQLite looks less often when nothing happens
        share = math.inf
        for _ in range(4):  # what else the machine does can only make it more
            begin = time.process_time()
            await asyncio.sleep(4)
            share = min(share, (time.process_time() - begin) / 4)
            if share <= AT_REST:
                break
    print(f"{kind}: {share:.2%} of a core")
    assert share <= AT_REST
