"""What `DurableStream` promises while its server is away, its answers are lost, or its disk is full."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import time

import pytest
from codomyrmex.integrations import DeliveryPolicy, Sink, attach
from codomyrmex.integrations.durable import (
    DurableStream,
    StoreUnavailableError,
)
from codomyrmex.streaming import create_event
from durable.proxy import Proxy
from durable.stores import make_place
from helpers import DEADLINE

SLACK = DEADLINE  # for a machine that is busy


@pytest.fixture(params=["postgres", "redis", "nats"])
def served(request, servers, tmp_path):
    return make_place(request.param, servers, tmp_path)


@pytest.fixture(params=["sqlite", "postgres", "redis", "nats"])
def place(request, servers, tmp_path):
    return make_place(request.param, servers, tmp_path)


async def eventually(condition):
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.01)


async def data_of(stream):
    return [record.event.data for record in await stream.read(limit=100_000)]


class Collector(Sink):
    name = "collector"

    def __init__(self):
        self.seen = []

    async def send(self, events):
        self.seen += [event.data for event in events]


async def test_while_the_server_is_away_publish_fails_in_time_and_the_buffer_is_kept_and_counted(served):
    stream, received, sink = DurableStream(served.store(), publish_timeout=0.5), [], Collector()
    async with stream, attach(stream, sink, policy=DeliveryPolicy(batch_age=0)):
        await stream.subscribe(lambda event: received.append(event.data))
        await stream.publish(create_event("before"))
        begin = time.monotonic()
        served.server.kill()
        with pytest.raises(StoreUnavailableError, match=r"could not be stored within 0\.5s"):
            await stream.publish(create_event("while away"))
        assert time.monotonic() - begin < 0.5 + SLACK
        uncertain = stream.health().unconfirmed
        for number in range(10_200):
            stream.publish_nowait(create_event(number))
        health = stream.health()
        assert not health.available
        assert 0 < health.unavailable_for < time.monotonic() - begin
        dropped = health.dropped["buffer_full"]
        assert 190 <= dropped <= 200  # those before may have been taken into a batch
        served.server.start()
        await asyncio.wait_for(stream.flush(), 30)
        await eventually(lambda: stream.health().available)
        await stream.publish(create_event("after"))
        stored = await data_of(stream)
        expected = ["before", *["while away"] * uncertain, *range(10_200 - dropped), "after"]
        assert stored in (expected, [each for each in expected if each != "while away"])
        await eventually(lambda: received == stored and sink.seen == stored)


async def test_an_answer_that_is_lost_stores_nothing_twice(served):
    with Proxy(served.server.port) as proxy:
        stream = DurableStream(served.store(url=proxy.url(served.url)), publish_timeout=20)
        received = []
        async with stream:
            await stream.subscribe(lambda event: received.append(event.data))

            async def work(task):
                for number in range(15):
                    await stream.publish(create_event(f"{task}.{number}"))

            for lost in range(4):
                proxy.lose_answer(after=lost)
                working = [asyncio.create_task(work(f"{lost}.{task}")) for task in range(3)]
                await asyncio.sleep(0.2)
                proxy.heal()
                await asyncio.wait_for(asyncio.gather(*working), 30)
            stored = await data_of(stream)
            assert sorted(stored) == sorted(
                f"{lost}.{task}.{number}" for lost in range(4) for task in range(3) for number in range(15)
            )
            await eventually(lambda: len(received) >= len(stored))
            assert received == stored


FULL = """
    import asyncio, resource, sys
    from codomyrmex.integrations.durable import DurableStream, SQLiteStore, StoreUnavailableError
    from codomyrmex.streaming import create_event

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    async def main():
        received, stored, uncertain = [], [], 0
        async with DurableStream(SQLiteStore(sys.argv[1]), publish_timeout=0.5) as stream:
            await stream.subscribe(lambda event: received.append(event.data["number"]))
            limit(512 * 1024)
            for number in range(10_000):
                try:
                    await stream.publish(create_event({"number": number, "text": "x" * 1_000}))
                except StoreUnavailableError as error:
                    print("full:", error)
                    break
                stored.append(number)
            health = stream.health()
            print("available", health.available, "because", health.last_error)
            for number in range(20_000, 20_100):
                stream.publish_nowait(create_event({"number": number}))
            async with asyncio.timeout(20):
                while stream.health().pending != 100 + health.unconfirmed:
                    await asyncio.sleep(0.01)
            limit(resource.RLIM_INFINITY)
            await stream.flush()
            await stream.publish(create_event({"number": 30_000}))
            assert stream.health().available
            found = [record.event.data["number"] for record in await stream.read(limit=100_000)]
            async with asyncio.timeout(20):
                while len(received) < len(found):
                    await asyncio.sleep(0.01)
        unconfirmed = [len(stored)] * health.unconfirmed
        assert found == [*stored, *unconfirmed, *range(20_000, 20_100), 30_000], found[-110:]
        assert received == found
        print("works again")

    asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="this system does not limit the size of files")
async def test_a_full_disk_is_an_error_for_publishers_and_loses_nothing(tmp_path):
    program = subprocess.run(  # noqa: ASYNC221 - nothing else runs on this loop
        [sys.executable, "-c", textwrap.dedent(FULL), tmp_path / "events.db"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    full, available, works = program.stdout.splitlines()
    assert "could not be stored within 0.5s" in full
    assert available.startswith("available False because ")
    assert works == "works again"


AT_ONCE = """
    import asyncio, sys
    from codomyrmex.integrations.durable import DurableStream, open_store
    from codomyrmex.streaming import create_event

    async def main():
        async with DurableStream(open_store(sys.argv[1]), publish_timeout=20) as stream:
            await stream.subscribe(lambda event: None, "a.*", group="g", shards=3)
            for number in range(20):
                await stream.publish(create_event(f"{sys.argv[2]}.{number}"))

    asyncio.run(main())
"""


async def test_processes_that_begin_at_once_make_one_stream_and_one_group(place):
    command = [sys.executable, "-c", textwrap.dedent(AT_ONCE), place.url]
    programs = [subprocess.Popen([*command, str(number)]) for number in range(4)]  # noqa: ASYNC220
    for program in programs:
        assert await asyncio.to_thread(program.wait, 60) == 0
    async with DurableStream(place.store()) as stream:
        assert sorted(await data_of(stream)) == sorted(
            f"{one}.{two}" for one in range(4) for two in range(20)
        )
        [group] = await stream.groups()
        assert (group.name, group.topic, group.shards, group.holders) == ("g", "a.*", 3, ())
