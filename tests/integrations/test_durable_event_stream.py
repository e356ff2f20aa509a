"""`event_stream` on a durable stream: clients that go on at any process, wherever they were before."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from codomyrmex.integrations.durable import DurableStream, Retention, SQLiteStore, StoreUnavailableError
from codomyrmex.integrations.durable.store import Batch
from codomyrmex.integrations.web import EventStreamApp, event_stream, require_token
from codomyrmex.streaming import EventType, create_event
from codomyrmex.streaming.testing import FakeClock
from helpers import in_time, settle, until
from sse_connection import Connection

Open = Callable[..., DurableStream]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Open]:
    """Return a function that returns streams of the same log, each as another process has it."""
    async with AsyncExitStack() as streams:

        def make(**options: Any) -> DurableStream:
            stream = DurableStream(SQLiteStore(tmp_path / "events.db"), **options)
            streams.push_async_callback(stream.aclose)
            return stream

        yield make


@asynccontextmanager
async def serving(stream: DurableStream, **options: Any) -> AsyncIterator[EventStreamApp]:
    app = event_stream(stream, **{"data": "payload", "signals": False, **options})
    try:
        yield app
    finally:
        await app.aclose()


async def connect(app: EventStreamApp, last_event_id: str = "", **arguments: Any) -> Connection:
    if last_event_id:
        arguments["headers"] = [("last-event-id", last_event_id)]
    client = Connection(app, **arguments)
    await client.first(1)
    return client


async def publish(stream: DurableStream, *data: object, topic: str = "orders.created") -> None:
    for each in data:
        await stream.publish(create_event(each, topic=topic))


async def fill(stream: DurableStream, count: int) -> str:
    """Append events that are too many for the memory of another process; return the cursor before them."""
    await stream.open()
    start = await stream.cursor()
    entries = [b'{"data":%d,"metadata":{"topic":"orders.created"}}' % n for n in range(1, count + 1)]
    for number, index in enumerate(range(0, count, 500), 1):
        batch = Batch("filler", number, entries[index : index + 500])
        await stream.call(stream.store.append("events", batch))
    return start


def notice(client: Connection) -> Any:
    record = client.records[0]
    assert record.event == "connect"
    return json.loads(record.data)


@in_time
async def test_the_id_of_a_frame_is_the_cursor_and_the_event_keeps_its_own(make: Open):
    stream = make()
    async with serving(stream, data="event") as app:
        client = await connect(app)
        event = create_event({"order": 1}, EventType.ERROR, topic="orders.created")
        await stream.publish(event)
        await client.first(2)
        assert client.events[0].id == await stream.cursor()
        assert client.events[0].event == "error"
        assert json.loads(client.events[0].data) == event.to_dict()


@in_time
async def test_a_new_client_begins_at_the_end_with_the_cursor_of_the_end(make: Open):
    stream = make()
    await publish(stream, "before")
    async with serving(stream) as app:
        client = await connect(app)
        assert notice(client) == {"resumed": False, "replayed": 0}
        assert client.records[0].id == await stream.cursor()
        await publish(stream, "after")
        await client.first(2)
        assert client.data == ["after"]


@in_time
@pytest.mark.parametrize("parameter", [False, True])
async def test_a_client_goes_on_at_another_process_without_a_gap_or_a_duplicate(make: Open, parameter: bool):
    one, two = make(), make()
    async with serving(one) as first, serving(two) as second:
        client = await connect(first)
        await publish(one, 1, 2)
        await client.first(3)
        client.leave()
        await publish(two, 3, 4)
        last_id = client.events[-1].id
        client = await (
            connect(second, last_event_id="", query=f"last_event_id={last_id}")
            if parameter
            else connect(second, last_id)
        )
        assert notice(client) == {"resumed": True, "replayed": 2}
        await publish(one, 5)
        await client.first(4)
        assert client.data == [3, 4, 5]


@in_time
async def test_a_client_that_is_ahead_of_a_process_waits_for_it(make: Open, monkeypatch: pytest.MonkeyPatch):
    one, two = make(), make()
    clock = FakeClock()
    async with serving(two, clock=clock) as app:
        early = await connect(app)

        async def late(*_: object) -> None:
            await settle()
            raise StoreUnavailableError("late")

        with monkeypatch.context() as patch:
            patch.setattr(two.store, "wait", late)
            patch.setattr(two.store, "read", late)
            await publish(one, 1, 2)
            client = Connection(app, headers=[("last-event-id", await one.cursor())])
            await client.first(1)
            await settle()
            assert early.data == []
            assert len(client.records) == 1
        await publish(one, 3)
        await client.first(2)
        await early.first(4)
        assert notice(client) == {"resumed": True, "replayed": 0}
        assert (client.data, early.data) == ([3], [1, 2, 3])


@in_time
async def test_what_is_older_than_memory_is_read_from_the_store_while_more_is_published(make: Open):
    stream = make()
    start = await fill(stream, 3_000)
    other = make()  # whose memory begins in the middle
    async with serving(other) as app:
        client = await connect(app, start)
        for number in range(3_001, 3_051):
            await publish(stream, number)
        await client.first(3_051)
        assert notice(client) == {"resumed": True, "replayed": 3_000}
        assert client.data == list(range(1, 3_051))


@in_time
async def test_a_slow_client_reads_pages_at_its_own_pace(make: Open):
    stream = make()
    await stream.open()
    start = await stream.cursor()
    entries = [b'{"data":"%s"}' % (b"x" * 10_000)] * 500
    for number in (1, 2, 3):
        await stream.call(stream.store.append("events", Batch("filler", number, entries)))
    other = make()
    async with serving(other) as app:
        client = await connect(app, start)
        client.stop_reading()
        await until(lambda: client.held)
        await settle()
        assert len(client.writes) < 3
        client.read_again()
        await until(lambda: client.body.count(b"event: message") == 1_500)
        assert max(map(len, client.writes)) < 300_000


@in_time
async def test_a_slow_client_is_told_if_the_retention_removes_what_it_has_not_read(make: Open):
    stream = make()
    start = await fill(stream, 3_000)
    other = make()
    async with serving(other) as app:
        client = await connect(app, start)
        client.stop_reading()
        await until(lambda: client.held)
        await stream.call(stream.store.trim("events", Retention(max_events=1_200), 3_000))
        client.read_again()
        await client.until(lambda: client.body.endswith(b"data: 3000\n\n"))
        first, second = [record for record in client.records if record.event == "connect"]
        assert json.loads(first.data) == {"resumed": True, "replayed": 3_000}
        last = len(client.data) - 1_200
        epoch = start.partition(":")[0]
        assert client.data == [*range(1, last + 1), *range(1_801, 3_001)]
        assert json.loads(second.data) == {
            "resumed": False,
            "requested": f"{epoch}:{last}",
            "first_available": f"{epoch}:1801",
        }


@in_time
async def test_a_client_catches_up_when_the_store_is_available_again(
    make: Open, monkeypatch: pytest.MonkeyPatch
):
    start = await fill(make(), 3_000)
    other = make()
    await other.open()
    clock = FakeClock()

    async def read(*_: object) -> list[Any]:
        raise StoreUnavailableError("away")

    async with serving(other, clock=clock) as app:
        with monkeypatch.context() as patch:
            patch.setattr(other.store, "read", read)
            client, leaving = (Connection(app, headers=[("last-event-id", start)]) for _ in range(2))
            while b": hb\n" not in client.body or b": hb\n" not in leaving.body:
                clock.advance(1)
                await settle()
            leaving.leave()
            await leaving.task
        while len(client.body) < 100:
            clock.advance(1)
            await settle()
        await client.until(lambda: client.body.endswith(b"data: 3000\n\n"))
        assert notice(client) == {"resumed": True, "replayed": 3_000}
        assert client.data == list(range(1, 3_001))
        assert leaving.records == []


@in_time
async def test_a_client_that_catches_up_when_the_server_ends_goes_on_elsewhere(make: Open):
    start = await fill(make(), 3_000)
    one, two = make(), make()
    async with serving(one) as first, serving(two) as second:
        client = await connect(first, start)
        client.stop_reading()
        await until(lambda: client.held)
        closing = asyncio.create_task(first.aclose())
        await settle()
        client.read_again()
        await closing
        assert client.records[-1].event == "disconnect"
        assert client.records[-1].id == client.events[-1].id
        received = client.data
        client = await connect(second, client.records[-1].id)
        await client.until(lambda: client.body.endswith(b"data: 3000\n\n"))
        assert received + client.data == list(range(1, 3_001))


@in_time
async def test_only_topics_that_the_client_may_read_are_replayed_and_counted(make: Open):
    stream = make()
    await stream.open()
    start = await stream.cursor()
    for number in range(6):
        await publish(stream, number, topic="orders.created" if number % 2 else "payroll.paid")
    await publish(stream, 6, topic="orders.paid")
    async with serving(stream, authorize=require_token("secret", "orders.>")) as app:
        headers = [("authorization", "Bearer secret"), ("last-event-id", start)]
        client = await connect(app, headers=headers, topic="orders.created")
        await publish(stream, 7, topic="payroll.paid")
        await publish(stream, 9)
        await client.first(5)
        assert notice(client) == {"resumed": True, "replayed": 3}
        assert client.data == [1, 3, 5, 9]


@in_time
@pytest.mark.parametrize("cursor", ["unknown", "other:1", "{epoch}:99", "{epoch}:-1", "{epoch}:1x"])
async def test_a_client_with_a_cursor_that_is_not_of_this_log_gets_the_newest_events(make: Open, cursor: str):
    stream = make()
    await publish(stream, 1, 2, 3)
    requested = cursor.format(epoch=(await stream.cursor()).partition(":")[0])
    async with serving(stream, buffer_size=2) as app:
        client = await connect(app, requested)
        await client.first(3)
        first = client.events[0].id
        assert notice(client) == {"resumed": False, "requested": requested, "first_available": first}
        assert client.data == [2, 3]


@in_time
async def test_a_client_that_is_not_resumed_and_gets_nothing_has_a_cursor_to_go_on_from(make: Open):
    stream = make()
    async with serving(stream) as app:
        client = await connect(app, "unknown")
        assert notice(client) == {"resumed": False, "requested": "unknown", "first_available": None}
        client.leave()
        await publish(stream, 1)
        client = await connect(app, client.records[0].id)
        assert notice(client) == {"resumed": True, "replayed": 1}


@in_time
async def test_a_client_whose_cursor_is_no_longer_kept_is_told_so(make: Open):
    stream = make()
    await publish(stream, *range(1, 8))
    cursor = f"{(await stream.cursor()).partition(':')[0]}:2"
    await stream.call(stream.store.trim("events", Retention(max_events=3), 10))
    other = make()
    async with serving(other) as app:
        client = await connect(app, cursor)
        await client.first(4)
        assert notice(client)["resumed"] is False
        assert client.data == [5, 6, 7]


@in_time
async def test_a_client_that_missed_more_than_max_replay_gets_the_newest_events(make: Open):
    stream = make()
    await stream.open()
    start = await stream.cursor()
    await publish(stream, *range(1, 8))
    async with serving(stream, max_replay=5, buffer_size=3) as app:
        client = await connect(app, start)
        await client.first(4)
        assert notice(client)["resumed"] is False
        assert client.data == [5, 6, 7]


async def test_max_replay_must_not_be_negative(make: Open):
    with pytest.raises(ValueError, match="max_replay: must be an integer of at least 0, or None, got -1"):
        event_stream(make(), max_replay=-1)


@in_time
async def test_a_heartbeat_has_the_cursor_if_the_log_went_on_without_an_event_for_the_client(make: Open):
    stream = make()
    clock = FakeClock()
    async with serving(stream, clock=clock, heartbeat_interval=15) as app:
        client = await connect(app, topic="orders.paid")
        clock.advance(15)
        await client.until(lambda: client.body.endswith(b": hb\n"))
        assert len(client.records) == 1  # nothing has happened, so a comment is enough
        witness = await connect(app)
        await publish(stream, 1, 2)
        await witness.first(3)
        clock.advance(15)
        await client.first(2)
        heartbeat = client.records[-1]
        assert (heartbeat.event, heartbeat.data, heartbeat.id) == ("heartbeat", "null", await stream.cursor())
        clock.advance(15)
        await client.until(lambda: client.body.endswith(b": hb\n"))
        client.leave()
        client = await connect(app, heartbeat.id, topic="orders.paid")
        assert notice(client) == {"resumed": True, "replayed": 0}


@in_time
async def test_clients_of_a_closed_stream_get_its_last_events_and_a_disconnect(make: Open):
    stream = make()
    async with serving(stream) as app:
        client = await connect(app)
        await publish(stream, 1)
        await stream.aclose()
        await client.task
        assert client.data == [1]
        assert client.records[-1].event == "disconnect"
        assert client.records[-1].id == client.events[-1].id


@in_time
async def test_clients_get_what_is_stored_while_the_stream_closes(make: Open):
    stream = make()
    async with serving(stream) as app:
        client = await connect(app)
        for number in range(900):
            stream.publish_nowait(create_event(number))
        await stream.aclose()
        await client.task
        assert client.data == list(range(900))


@in_time
async def test_a_client_waits_with_heartbeats_until_the_store_is_available(
    make: Open, monkeypatch: pytest.MonkeyPatch
):
    stream = make(publish_timeout=0.05)
    clock = FakeClock()

    async def unavailable() -> None:
        raise StoreUnavailableError("away")

    async with serving(stream, clock=clock, heartbeat_interval=15) as app:
        with monkeypatch.context() as patch:
            patch.setattr(stream.store, "open", unavailable)
            client = Connection(app)
            await client.until(lambda: client.status == 200)
            await settle()
            clock.advance(15)
            await client.until(lambda: client.body == b": hb\n")
        await client.first(1)
        stream.publish_nowait(create_event(1))  # without a limit of time
        await client.first(2)
        assert client.data == [1]


@in_time
async def test_a_hundred_clients_share_what_is_sent(make: Open):
    stream = make()
    async with serving(stream) as app:
        clients = [await connect(app) for _ in range(100)]
        await publish(stream, *range(20))
        for client in clients:
            await client.first(21)
            assert client.data == list(range(20))


@in_time
async def test_an_application_that_was_closed_can_be_opened_again(make: Open):
    stream = make()
    async with serving(stream) as app:
        client = await connect(app)
        await app.aclose()
        await client.task
        assert client.records[-1].event == "disconnect"
        app.open()
        client = await connect(app, client.records[-1].id)
        await publish(stream, 1)
        await client.first(2)
        assert client.data == [1]


@in_time
async def test_if_the_end_of_the_log_goes_back_clients_come_again_and_are_not_resumed(
    make: Open, tmp_path: Path
):
    before = make()
    await publish(before, 1)
    await before.aclose()
    path = tmp_path / "events.db"
    backup = path.read_bytes()
    stream = make()
    async with serving(stream) as app:
        client = await connect(app)
        await publish(stream, 2, 3)
        await client.first(3)
        path.unlink()
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.write_bytes(backup)
        stream.publish_nowait(create_event(4))
        await client.task
        assert client.records[-1].event == "disconnect"
        last_id = client.records[-1].id
        client = await connect(app, last_id)
        await client.until(lambda: client.data[-1:] == [4])
        assert notice(client) == {
            "resumed": False,
            "requested": last_id,
            "first_available": client.events[0].id,
        }
        assert client.events[0].id.partition(":")[0] != last_id.partition(":")[0]


@in_time
async def test_after_a_long_block_of_the_event_loop_clients_come_again_and_miss_nothing(
    make: Open, tmp_path: Path
):
    async def append() -> None:
        entries = [b'{"data":1,"metadata":{"topic":"orders.created"}}'] * 1_000
        async with SQLiteStore(tmp_path / "events.db") as store:
            for number in range(1, 13):
                await store.append("events", Batch("filler", number, entries))

    def fill() -> None:
        asyncio.run(append())
        while stream.tail.last != 12_000:
            time.sleep(0.01)

    stream = make()
    async with serving(stream) as app:
        client = await connect(app)
        filling = threading.Thread(target=fill)
        filling.start()
        filling.join()  # blocks the event loop
        await client.task
        assert client.records[-1].event == "disconnect"
        client = await connect(app, client.records[-1].id)
        await client.until(lambda: client.body.count(b"event: message") == 12_000)
        assert notice(client) == {"resumed": True, "replayed": None}
