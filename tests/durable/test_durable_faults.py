"""What a durable stream does with entries, stores, handlers and programs that misbehave."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from codomyrmex.integrations import DeliveryPolicy
from codomyrmex.integrations.durable import (
    DurableStream,
    Retention,
    SQLiteStore,
    StoreError,
    StoreUnavailableError,
)
from codomyrmex.integrations.durable.store import Batch
from codomyrmex.streaming import StreamClosedError, create_event
from durable.test_durable_stream import eventually
from helpers import DEADLINE


def open_files():
    return [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]


DEEP = b"[" * 5_000 + b"]" * 5_000


@pytest.mark.parametrize(
    "entry",
    [
        b'{"id":"x","data":' + DEEP + b"}",
        b'{"for":"group","id":"x","data":' + DEEP + b"}",
        b'{"for":' + DEEP + b"}",
        b"[" * 100_000,
        b'{"id":"\xff"}',
        b'{"for":"\xff","id":"x"}',
    ],
)
async def test_an_entry_that_cannot_be_decoded_stops_no_reader(tmp_path, entry):
    async with DurableStream(SQLiteStore(tmp_path / "store.db")) as stream:
        received, of_group = [], []
        await stream.subscribe(received.append)
        await stream.subscribe(of_group.append, group="group")
        await stream.call(stream.store.append("events", Batch("other", 1, [entry])))
        await stream.publish(create_event("next"))
        await eventually(lambda: received and of_group)
        assert [event.data for event in received + of_group] == ["next", "next"]
        assert [record.event.data for record in await stream.read()] == ["next"]
        await stream.call(stream.admin.verify())
        await stream.replay_dead_letters("group")
        assert [group.name for group in await stream.groups()] == ["group"]
        assert stream.get_recent_events() == received


async def test_a_store_whose_directory_was_replaced_is_unavailable_until_it_is_back(tmp_path):
    place, elsewhere = tmp_path / "place", tmp_path / "elsewhere"
    place.mkdir()
    async with DurableStream(SQLiteStore(place / "store.db"), publish_timeout=0.5) as stream:
        place.rename(elsewhere)
        place.touch()
        with pytest.raises(StoreUnavailableError):
            await stream.publish(create_event(1))
        stream.publish_nowait(create_event(2))
        await eventually(lambda: not stream.health().available)
        place.unlink()
        elsewhere.rename(place)
        await stream.flush()
        stream.publish_nowait(create_event(3))
        await stream.flush()
        assert [record.event.data for record in await stream.read()][-2:] == [2, 3]
        await eventually(lambda: stream.health().ok)


async def test_a_bug_in_a_store_does_not_end_the_appending(tmp_path):
    class Store(SQLiteStore):
        broken = False

        async def append(self, log, batch):
            if self.broken:
                raise LookupError("a bug")
            return await super().append(log, batch)

    store = Store(tmp_path / "store.db")
    async with DurableStream(store) as stream:
        store.broken = True
        stream.publish_nowait(create_event(1))
        await eventually(lambda: not stream.health().ok)
        assert "a bug" in stream.health().last_error
        store.broken = False
        await stream.flush()
        assert [record.event.data for record in await stream.read()] == [1]


# Closing


async def test_every_publish_ends_when_the_stream_is_closed_and_what_was_accepted_is_stored(tmp_path):
    class Store(SQLiteStore):
        async def append(self, log, batch):
            await asyncio.sleep(0.02)
            return await super().append(log, batch)

    stream = await DurableStream(Store(tmp_path / "store.db"), publish_timeout=1).__aenter__()
    stored, accepted = [], []

    async def slow(_):
        await asyncio.sleep(0.05)

    async def publish():
        with suppress(StreamClosedError):
            while True:
                await stream.publish(create_event(None))
                stored.append(None)

    def publish_nowait():
        with suppress(StreamClosedError):
            while True:
                stream.publish_nowait(create_event(None))
                accepted.append(None)
                time.sleep(0.001)

    await stream.subscribe(slow)
    thread = threading.Thread(target=publish_nowait)
    thread.start()
    publishers = [asyncio.create_task(publish()) for _ in range(10)]
    await asyncio.sleep(0.2)
    await stream.aclose()
    thread.join()
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*publishers)
    async with DurableStream(SQLiteStore(tmp_path / "store.db")) as again:
        assert (await again.bounds()).events == len(stored) + len(accepted)
    assert stream.health().ok


async def test_what_could_not_be_stored_until_the_end_is_an_error_or_counted(tmp_path):
    class Store(SQLiteStore):
        async def append(self, log, batch):
            await asyncio.Event().wait()

    stream = await DurableStream(Store(tmp_path / "store.db"), publish_timeout=0.3).__aenter__()
    publishing = asyncio.create_task(stream.publish(create_event(1)))
    await asyncio.sleep(0.05)
    stream.publish_nowait(create_event(2))
    await stream.aclose()
    with pytest.raises(StoreUnavailableError):
        await publishing
    assert (stream.health().pending, stream.health().dropped) == (0, {"refused": 1})
    assert not stream.health().ok


async def test_closing_that_is_cancelled_at_any_point_leaves_no_thread_and_no_open_file(tmp_path):
    before = threading.enumerate()

    def new_threads():
        return [thread for thread in threading.enumerate() if thread not in before]

    for step in range(40):
        stream = DurableStream(SQLiteStore(tmp_path / "store.db"))
        await stream.subscribe(lambda _: None)
        closing = asyncio.create_task(stream.aclose())
        await asyncio.sleep(step / 8_000)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await stream.aclose()
    await eventually(lambda: len(asyncio.all_tasks()) == 1)
    await eventually(lambda: not [thread for thread in new_threads() if thread.name.startswith("codomyrmex")])
    assert str(tmp_path) not in " ".join(open_files())


async def test_a_stream_that_is_closed_twice_at_once_does_not_end_another_one_on_its_store(tmp_path):
    store = SQLiteStore(tmp_path / "store.db")
    async with DurableStream(store, "other") as other:
        stream = await DurableStream(store).__aenter__()
        await asyncio.gather(stream.aclose(), stream.aclose())
        await other.publish(create_event(1))


# Positions


async def test_a_handler_receives_what_is_published_behind_its_subscription_before_the_stream_is_open(
    tmp_path,
):
    async with DurableStream(SQLiteStore(tmp_path / "store.db")) as stream:
        await stream.publish(create_event("earlier"))
    stream = DurableStream(SQLiteStore(tmp_path / "store.db"))
    received = []
    stream.subscribe_nowait(lambda event: received.append(event.data))
    stream.publish_nowait(create_event("later"))
    while stream.tail.last != 2:  # the event loop is busy meanwhile
        time.sleep(0.005)  # noqa: ASYNC251
    await stream.aclose()
    assert received == ["later"]


async def test_events_that_were_all_removed_before_they_were_received_are_counted(tmp_path):
    async with DurableStream(SQLiteStore(tmp_path / "store.db")) as stream:
        received, of_group, proceed = [], [], asyncio.Event()

        async def receive(event):
            await proceed.wait()
            received.append(event)

        async def receive_as_group(event):
            await proceed.wait()
            of_group.append(event)

        await stream.subscribe(receive)
        await stream.subscribe(receive_as_group, group="group")
        await stream.publish(create_event(None))
        for _ in range(22):
            await asyncio.gather(*[stream.publish(create_event("x" * 100_000)) for _ in range(10)])
        await stream.call(stream.admin.trim(Retention(max_age=1e-9), unread=True))
        proceed.set()
        await eventually(lambda: stream.health().missed)
        assert len(received) + stream.health().missed == 221
        assert not stream.health().ok
        [group] = await stream.groups()
        assert group.missed
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 4  # nothing waits for what is not there


async def test_a_log_of_large_events_is_opened_without_reading_all_of_them(tmp_path):
    class Store(SQLiteStore):
        size = 0

        async def read(self, *args):
            entries = await super().read(*args)
            self.size += sum(len(stored.value) for stored in entries)
            return entries

    async with DurableStream(SQLiteStore(tmp_path / "store.db")) as stream:
        for _ in range(15):
            await asyncio.gather(*[stream.publish(create_event("x" * 1_000_000)) for _ in range(8)])
        await stream.publish(create_event("last"))
    store = Store(tmp_path / "store.db")
    async with DurableStream(store) as stream:
        assert stream.get_recent_events(1)[0].data == "last"
        assert store.size < 80_000_000


# Dead letters


async def test_any_number_of_dead_letters_is_stored_in_batches_that_every_store_accepts(place):
    def broken(_):
        raise ValueError("a bug in a filter")

    async with DurableStream(place.store()) as stream:
        await asyncio.gather(*[stream.publish(create_event(None)) for _ in range(2_100)])
        await stream.subscribe(print, filter_fn=broken, group="group", after="earliest")
        async with asyncio.timeout(20):
            while (await stream.groups())[0].lag:
                await asyncio.sleep(0.05)
        assert (await stream.groups())[0].dead == 2_100


async def test_a_dead_letter_that_the_store_refuses_loses_its_event_and_stops_no_other(tmp_path):
    class Store(SQLiteStore):
        async def append(self, log, batch):
            if max(map(len, batch.entries)) > 10_000 and log == "events.dead":
                raise StoreError("too large")
            return await super().append(log, batch)

    def fail(_):
        raise ValueError("a bug")

    async with DurableStream(Store(tmp_path / "store.db")) as stream:
        policy = DeliveryPolicy(batch_size=10, batch_age=0, max_attempts=1, backoff_initial=0.001)
        for size in (1, 9_900, 1):
            await stream.publish(create_event("x" * size))
        await stream.subscribe(fail, group="group", after="earliest", policy=policy)
        async with asyncio.timeout(DEADLINE):
            while len(letters := await stream.dead_letters()) < 3:
                await asyncio.sleep(0.02)
        assert [letter.event is None for letter in letters] == [False, True, False]
        assert {letter.reason for letter in letters} == {"ValueError: a bug"}


# Groups


async def test_calls_that_are_cancelled_leave_no_member_of_a_group_behind(tmp_path):
    # No lease expires while the test waits.
    async with DurableStream(SQLiteStore(tmp_path / "store.db"), lease=3 * DEADLINE) as stream:

        async def come_and_go(number):
            with suppress(TimeoutError):
                async with asyncio.timeout(number / 4_000):
                    subscription = await stream.subscribe(print, group="group")
                    await stream.unsubscribe(subscription.id)

        for number in range(100):
            await come_and_go(number)
        subscriptions = [await stream.subscribe(print, group="group") for _ in range(20)]
        for number, subscription in enumerate(subscriptions):
            with suppress(TimeoutError):
                async with asyncio.timeout(number / 4_000):
                    await stream.unsubscribe(subscription.id)
        async with asyncio.timeout(DEADLINE):
            while await stream.call(stream.store.leases("events/group/")):
                await asyncio.sleep(0.05)
