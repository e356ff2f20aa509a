"""What `DurableStream` promises while operations of its store fail, hang or are late.

`FaultyStore` is a SQLite store whose operations can be made to do so, one by one.
"""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from codomyrmex.integrations import DeliveryPolicy, RetryableError, Sink, attach
from codomyrmex.integrations.durable import (
    DurableStream,
    Retention,
    SQLiteStore,
    StoreConfigError,
    StoreUnavailableError,
)
from codomyrmex.integrations.durable.admin import StreamAdmin
from codomyrmex.integrations.durable.store import Batch
from codomyrmex.streaming import create_event
from codomyrmex.streaming.testing import FakeClock
from faulty_store import FaultyStore
from helpers import DEADLINE

ONE = DeliveryPolicy(batch_size=1, batch_age=0, backoff_initial=0.01, drain_timeout=5)


class Collector(Sink):
    name = "collector"

    def __init__(self):
        self.seen = []

    async def send(self, events):
        self.seen += [event.data for event in events]


async def eventually(condition):
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.005)


async def publish(stream, *values):
    for value in values:
        await stream.publish(create_event(value))


async def publish_many(path, number):
    async with DurableStream(SQLiteStore(path)) as stream:
        for value in range(number):
            stream.publish_nowait(create_event(value))


async def place_of(path, group="collector"):
    async with SQLiteStore(path) as store:
        [found] = [each for each in await StreamAdmin(store, "events").saved_groups() if each.name == group]
    return found.places[0].position


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.db"


# Publishing while the store is away


async def test_publish_says_within_its_timeout_that_the_store_is_away(path):
    store = FaultyStore(path)
    async with DurableStream(store, publish_timeout=0.3) as stream:
        store.away = {"append"}
        results = await asyncio.gather(
            *(stream.publish(create_event(number)) for number in range(3)), return_exceptions=True
        )
        assert all(isinstance(result, StoreUnavailableError) for result in results)
        begin = time.monotonic()
        with pytest.raises(StoreUnavailableError, match=r"within 0\.3s; it was not stored"):
            await publish(stream, 3)
        assert time.monotonic() - begin < DEADLINE
        health = stream.health()
        assert (health.available, health.pending, health.dropped) == (False, health.unconfirmed, {})
        assert "append is switched off" in health.last_error
        assert health.unavailable_for > 0.3
        store.away = set()
        stream.publish_nowait(create_event(4))
        await stream.flush()  # which waits as long as it takes
        assert stream.health().available
        stored = [record.event.data for record in await stream.read()]
        assert stored == [*range(health.unconfirmed), 4]


async def test_the_buffer_of_publish_nowait_is_bounded_while_expired_events_are_removed_from_it(path):
    store = FaultyStore(path)
    accepted = attempts = 0
    async with DurableStream(store, publish_timeout=0.3) as stream:
        store.away = {"append"}
        waiting = asyncio.create_task(stream.publish(create_event("waits")))
        await eventually(lambda: not stream.health().available)
        end = threading.Event()

        def hammer():
            nonlocal accepted, attempts
            while not end.is_set():
                stream.publish_nowait(create_event(attempts))
                attempts += 1

        thread = threading.Thread(target=hammer, daemon=True)
        thread.start()
        highest = 0
        for _ in range(4):
            with pytest.raises(StoreUnavailableError):
                await publish(stream, "waits too")
            highest = max(highest, stream.health().pending)
        end.set()
        await asyncio.to_thread(thread.join)
        with pytest.raises(StoreUnavailableError):
            await waiting
        health = stream.health()
        assert highest <= 10_010 + health.unconfirmed  # an entry is not counted while it is moved
        store.away = set()
        await stream.flush()
        accepted = attempts - stream.health().dropped["buffer_full"]
        assert 9_990 <= accepted <= 10_010  # those that wait take room too
        assert (await stream.bounds()).events == accepted + health.unconfirmed


async def test_a_publish_that_waits_when_the_stream_is_closed_gets_an_error(path):
    store = FaultyStore(path)
    stream = DurableStream(store, publish_timeout=0.5)
    await stream.open()
    store.away = {"append"}
    tasks = [asyncio.create_task(publish(stream, number)) for number in range(3)]
    await asyncio.sleep(0.05)
    tasks += [asyncio.create_task(publish(stream, 3))]
    await asyncio.sleep(0)
    await stream.aclose()
    done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), DEADLINE)
    assert all(isinstance(error, StoreUnavailableError) for error in done)


async def test_a_damaged_file_is_an_error_and_stays_as_it_is(path):
    async with DurableStream(SQLiteStore(path)) as stream:
        for number in range(3_000):
            stream.publish_nowait(create_event({"number": number, "text": "x" * 200}))
    content = bytearray(path.read_bytes())
    content[8_192:-4_096] = b"\xa5" * (len(content) - 8_192 - 4_096)
    path.write_bytes(content)
    stream = DurableStream(SQLiteStore(path), publish_timeout=1)
    with pytest.raises(StoreConfigError, match=str(path)):
        await stream.open()
    with pytest.raises(StoreConfigError, match=str(path)):
        await stream.publish(create_event(1))
    stream.publish_nowait(create_event(2))
    await stream.flush()
    health = stream.health()
    assert (health.available, health.dropped) == (False, {"refused": 1})
    assert str(path) in health.last_error
    await stream.aclose()
    assert path.read_bytes() == content


# Readers


async def test_a_subscription_that_cannot_read_ends_with_its_stream(path):
    await publish_many(path, 1_050)
    store = FaultyStore(path)
    before = asyncio.all_tasks()
    stream = DurableStream(store, publish_timeout=0.2)
    await stream.open()
    store.away = {"read"}
    await stream.subscribe(print, after="earliest")
    await asyncio.sleep(0.02)
    await stream.aclose()
    await eventually(lambda: asyncio.all_tasks() == before)


async def test_a_group_that_could_not_read_goes_on_when_the_store_is_back_and_nothing_is_published(path):
    await publish_many(path, 1_050)
    store, sink = FaultyStore(path), Collector()
    async with DurableStream(store) as stream:
        store.away = {"read"}
        await stream.subscribe(lambda event: sink.seen.append(event.data), group="g", after="earliest")
        await asyncio.sleep(0.1)
        assert sink.seen == []
        store.away = set()
        await eventually(lambda: len(sink.seen) == 1_050)
    assert sink.seen == list(range(1_050))


async def test_a_group_that_is_behind_reads_the_log_once(path):
    await publish_many(path, 1_300)
    store, seen = FaultyStore(path), []
    async with DurableStream(store) as stream:
        store.calls.clear()
        await stream.subscribe(lambda event: seen.append(event.data), group="g", after="earliest")
        await eventually(lambda: len(seen) == 1_300)
    assert sum(call[0] == "read" for call in store.calls) < 5


async def test_publishing_while_the_log_is_checked_does_not_look_like_a_lost_end(path):
    store, received, later = FaultyStore(path), [], []
    async with DurableStream(store) as stream:
        await stream.subscribe(lambda event: received.append(event.data))
        await publish(stream, 1, 2, 3)
        epoch = (await stream.cursor()).partition(":")[0]

        async def append_meanwhile(args, result):
            if not result and not later:
                later.append(asyncio.ensure_future(stream.publish(create_event(5))))
                await asyncio.wait_for(later[0], DEADLINE)

        store.away = {"append"}
        waiting = asyncio.create_task(publish(stream, 4))
        await eventually(lambda: not stream.health().available)
        store.calls.clear()
        store.after["read"] = append_meanwhile
        store.away = set()
        await waiting
        await eventually(lambda: stream.health().available and any(c[0] == "read" for c in store.calls))
        await asyncio.sleep(0.1)
        await publish(stream, *([] if later else [5]), 6)
        await eventually(lambda: 6 in received)
        assert (await stream.cursor()).partition(":")[0] == epoch
    assert received == [1, 2, 3, 4, 5, 6]


async def test_entries_removed_while_a_process_was_cut_off_do_not_look_like_a_lost_end(path):
    store, received = FaultyStore(path), []
    async with DurableStream(store) as stream, DurableStream(SQLiteStore(path)) as other:
        await stream.subscribe(lambda event: received.append(event.data))
        await publish(stream, 0, 1, 2)
        await eventually(lambda: len(received) == 3)
        epoch = (await stream.cursor()).partition(":")[0]
        store.away = {"wait", "append"}
        await other.call(other.store.append("events", Batch("p", 1, [b"not an event"])))  # the bell
        await eventually(lambda: not stream.health().available)
        await publish(other, *range(3, 60))
        await other.call(other.store.trim("events", Retention(max_events=10), 2**62))
        store.away = set()
        await eventually(lambda: 59 in received)
        assert (await stream.cursor()).partition(":")[0] == epoch
        assert received == [0, 1, 2, *range(50, 60)]
        health = stream.health()  # the entry that is not an event may have been read before
        assert health.missed + health.undecodable == 61 - 10 - 3


# Groups


async def test_a_renewal_that_comes_too_late_repeats_nothing_that_was_delivered(path):
    store, clock, sink = FaultyStore(path), FakeClock(), Collector()
    stream = DurableStream(store, lease=1.0, clock=clock)
    async with stream, attach(stream, sink, policy=ONE):
        await publish(stream, *range(20))
        await eventually(lambda: len(sink.seen) == 20)
        go_on = store.held["renew"] = threading.Event()
        clock.advance(0.5)
        await eventually(lambda: any(call[0] == "renew" for call in store.calls))
        clock.advance(0.7)  # the lease is over for this process
        await publish(stream, 20)
        await asyncio.sleep(0.1)
        assert len(sink.seen) == 20
        go_on.set()
        await eventually(lambda: 20 in sink.seen)
        await asyncio.sleep(0.1)
    assert sink.seen == list(range(21))


async def test_a_process_whose_tail_is_behind_the_place_of_a_group_repeats_nothing(path):
    store, sink, other = FaultyStore(path), Collector(), Collector()
    async with DurableStream(store) as stream, DurableStream(SQLiteStore(path)) as first:
        await eventually(lambda: any(call[0] == "wait" for call in store.calls))
        go_on = store.held["read"] = threading.Event()
        async with attach(first, other, policy=ONE) as attachment:
            await publish(first, *range(20))
            assert await attachment.flush(DEADLINE)
        async with attach(stream, sink, policy=ONE):
            await asyncio.sleep(0.2)
            go_on.set()
            await publish(first, 20)
            await eventually(lambda: 20 in sink.seen)
        assert (other.seen, sink.seen) == (list(range(20)), [20])


async def test_a_place_behind_the_end_of_the_log_becomes_the_end(path):
    seen = []
    async with DurableStream(SQLiteStore(path)) as stream:
        subscription = await stream.subscribe(print, group="g")
        await publish(stream, 1, 2)
        epoch = (await stream.cursor()).partition(":")[0]
        await stream.unsubscribe(subscription.id)
        place = f'{{"epoch":"{epoch}","position":100}}'.encode()
        await stream.call(
            stream.admin.save("events/group/g/admin", "test", {"events/group/g/place/0": place})
        )
        await stream.subscribe(lambda event: seen.append(event.data), group="g")
        await asyncio.sleep(0.05)
        await publish(stream, 3)
        await eventually(lambda: seen == [3])


async def test_a_clock_that_jumps_beyond_the_lease_repeats_nothing_that_was_delivered(path):
    clock, sink = FakeClock(), Collector()
    stream = DurableStream(SQLiteStore(path), lease=1.0, clock=clock)
    async with stream, attach(stream, sink, policy=ONE):
        for jump in range(5):
            await publish(stream, *range(jump * 10, jump * 10 + 10))
            clock.advance(86_400.0)
        await eventually(lambda: len(sink.seen) >= 50)
    assert sink.seen == list(range(50))


async def test_nothing_more_is_sent_than_one_batch_while_the_place_cannot_be_saved(path):
    store, sink = FaultyStore(path), Collector()
    stream = DurableStream(store)
    async with stream, attach(stream, sink, policy=ONE):
        await publish(stream, 0)
        await eventually(lambda: sink.seen == [0])
        await asyncio.sleep(0.05)
        store.away = {"save"}
        await publish(stream, *range(1, 50))
        await asyncio.sleep(0.4)
        assert sink.seen == [0, 1, 2]
        store.away = set()
        await eventually(lambda: len(sink.seen) == 50)
    assert sink.seen == list(range(50))
    assert await place_of(path) == 50


async def test_a_stream_whose_place_cannot_be_saved_closes_in_time(path):
    store, sink = FaultyStore(path), Collector()
    stream = DurableStream(store, publish_timeout=0.5)
    begin = None
    async with stream, attach(stream, sink, policy=DeliveryPolicy(batch_age=0, drain_timeout=0.5)):
        store.away = {"save"}
        stream.publish_nowait(create_event(1))
        await eventually(lambda: sink.seen == [1])
        begin = time.monotonic()
    assert time.monotonic() - begin < DEADLINE


@pytest.mark.parametrize("works", [True, False], ids=["delivered", "failed"])
async def test_a_batch_that_was_in_hand_when_the_lease_was_lost_and_regained_changes_nothing(path, works):
    store, gate, other_seen = FaultyStore(path), asyncio.Event(), Collector()

    class Slow(Collector):
        async def send(self, events):
            await super().send(events)
            if len(self.seen) == 1:
                await gate.wait()
                if not works:
                    raise RetryableError("once more")

    slow = Slow()
    stream = DurableStream(store, lease=0.3)
    async with stream, attach(stream, slow, policy=ONE):
        await publish(stream, *range(10))
        await eventually(lambda: slow.seen == [0])
        store.away = {"renew", "acquire"}
        second = DurableStream(SQLiteStore(path), lease=0.3)
        async with second, attach(second, other_seen, policy=ONE) as attachment:
            await eventually(lambda: len(other_seen.seen) == 10)
            assert await attachment.flush(DEADLINE)
        assert await place_of(path) == 10
        store.away = set()
        store.calls.clear()
        await eventually(
            lambda: any(call[:2] == ("acquire", "events/group/collector/shard/0") for call in store.calls)
        )
        await asyncio.sleep(0.2)
        gate.set()
        await asyncio.sleep(0.3)
        assert await place_of(path) == 10
        await publish(stream, 10)
        await eventually(lambda: 10 in slow.seen)
    assert slow.seen == [0, 10]
    assert await place_of(path) == 11


async def test_a_holder_whose_event_loop_is_blocked_keeps_its_lease_and_the_order(path):
    blocked, received, end = threading.Event(), [], threading.Event()

    class Blocking(Collector):
        async def send(self, events):
            await super().send(events)
            received.extend(("blocking", event.data) for event in events)
            if 0 in self.seen and not blocked.is_set():
                blocked.set()
                time.sleep(1.5)  # noqa: ASYNC251 - this is the fault

    async def deliver(sink):
        stream = DurableStream(SQLiteStore(path), lease=1.0)
        async with stream, attach(stream, sink, policy=ONE):
            while not end.is_set():
                await asyncio.sleep(0.01)

    sink, other = Blocking(), Collector()
    await publish_many(path, 0)
    first = threading.Thread(target=lambda: asyncio.run(deliver(sink)))
    first.start()
    async with DurableStream(SQLiteStore(path)) as stream:
        while not (groups := await stream.groups()) or not groups[0].holders:
            await asyncio.sleep(0.01)
        second = threading.Thread(target=lambda: asyncio.run(deliver(other)))
        second.start()
        await publish(stream, *range(20))
        await eventually(lambda: len(sink.seen) + len(other.seen) >= 20)
        end.set()
        await asyncio.to_thread(first.join)
        await asyncio.to_thread(second.join)
    assert (sink.seen, other.seen) == (list(range(20)), [])


# A log whose end went back


async def test_groups_that_nobody_reads_continue_in_a_log_whose_end_went_back_although_the_store_is_away(
    path,
):
    async with DurableStream(SQLiteStore(path)) as stream:
        subscription = await stream.subscribe(print, group="g")
        await publish(stream, 1, 2)
        await eventually(lambda: True)
        await stream.unsubscribe(subscription.id)
        await stream.seek("g", None)
    backup = path.read_bytes()
    store, other = FaultyStore(path), FaultyStore(path)
    async with DurableStream(store) as stream, DurableStream(other) as second:
        await publish(stream, 3, 4)
        await publish(second, 5)
        await eventually(lambda: len(stream.get_recent_events(10)) == len(second.get_recent_events(10)) == 5)
        store.away = other.away = {"acquire"}
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.write_bytes(backup)
        for number in range(6, 12):
            stream.publish_nowait(create_event(number))
            second.publish_nowait(create_event(number))
        await asyncio.sleep(0.5)
        store.away = other.away = set()
        await stream.flush()
        await second.flush()
        await eventually(lambda: stream.health().available and second.health().available)
        assert stream.health().dropped == second.health().dropped == {}
        stored = [record.event.data for record in await stream.read()]
        assert stored[:2] == [1, 2]
        assert sorted(stored[2:]) == sorted([*range(6, 12)] * 2)
        seen = []
        await stream.subscribe(lambda event: seen.append(event.data), group="g")
        await eventually(lambda: len(seen) >= 12)
        assert seen == stored[2:]
