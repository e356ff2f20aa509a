"""Wrong use of a durable stream is one clear sentence, and what happens at its end loses nothing."""

from __future__ import annotations

import asyncio
import threading

import pytest
from codomyrmex.integrations import Binding, DeliveryPolicy, InlineSink, Sink, attach
from codomyrmex.integrations.durable import (
    CursorError,
    DurableStream,
    Retention,
    SQLiteStore,
    StoreConfigError,
    StoreUnavailableError,
    open_store,
)
from codomyrmex.streaming import InMemoryStream, StreamClosedError, create_event
from helpers import DEADLINE

NOW = DeliveryPolicy(batch_age=0)


class Quiet(Sink):
    def __init__(self, name="quiet"):
        self.name, self.seen = name, []

    async def send(self, events):
        self.seen += [event.data for event in events]


class Inline(InlineSink):
    name = "inline"

    def emit(self, event):
        pass


@pytest.fixture
def store(tmp_path):
    return SQLiteStore(tmp_path / "events.db")


@pytest.fixture
async def stream(store):
    async with DurableStream(store) as stream:
        yield stream


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retention": 1_000}, "retention: must be Retention or None, got int"),
        ({"retention": {"max_events": 3}}, "retention: must be Retention or None, got dict"),
        ({"retention": False}, "retention: must be Retention or None, got bool"),
        ({"unread_limit": None}, "unread_limit: must be Retention, got NoneType"),
        ({"lease": float("inf")}, "lease: must be finite, got infs"),
        ({"lease": float("nan")}, "lease: must be greater than 0, got nan"),
        ({"linger": float("inf")}, "linger: must be finite"),
        ({"publish_timeout": float("inf")}, "publish_timeout: must be finite"),
        ({"on_error": "log"}, "on_error: must be a plain function, got 'log'"),
    ],
)
def test_options_of_a_stream_are_checked(options, message, store):
    with pytest.raises((TypeError, ValueError), match=message):
        DurableStream(store, **options)


@pytest.mark.parametrize(
    "store",
    ["sqlite:///events.db", None, SQLiteStore, InMemoryStream()],
    ids=["URL", "None", "class", "stream"],
)
def test_a_stream_needs_a_store_and_no_url(store):
    with pytest.raises(TypeError, match=r"store: must be a Store, got .*; open_store\(url\) returns one"):
        DurableStream(store)


@pytest.mark.parametrize("url", [None, 3, b"sqlite:///x"])
def test_a_store_is_opened_by_a_string(url):
    with pytest.raises(TypeError, match=r"store: must be the URL of a store, got"):
        open_store(url)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("max_events", 0, "max_events: must be greater than 0, got 0"),
        ("max_events", float("nan"), "max_events: must be greater than 0, got nan"),
        ("max_bytes", True, "max_bytes: must be a number, got True"),
        ("max_age", "7d", "max_age: must be a number, got '7d'"),
    ],
)
def test_limits_of_the_retention_are_checked(option, value, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Retention(**{option: value})


WRONG_GROUPS = [
    ({"group": 7}, TypeError, "group: must be a string, got 7"),
    ({"group": ""}, ValueError, "group: must be 1 to 200 printable characters, got ''"),
    ({"group": "x" * 201}, ValueError, r"group: must be 1 to 200 printable characters, got .*203 characters"),
    ({"group": "\ud800"}, ValueError, r"group: must be 1 to 200 printable characters, got '\\ud800'"),
    ({"group": "a\nb"}, ValueError, r"group: must be 1 to 200 printable characters, got 'a\\nb'"),
    ({"shards": 0}, ValueError, "shards: must be from 1 to 1000, got 0"),
    ({"shards": 1_001}, ValueError, "shards: must be from 1 to 1000, got 1001"),
    ({"shards": "2"}, TypeError, "shards: must be an int, got '2'"),
    ({"shards": 2.0}, TypeError, "shards: must be an int, got 2.0"),
    ({"shards": True}, TypeError, "shards: must be an int, got True"),
    ({"shard_by": 3}, TypeError, "shard_by: must be 'topic' or a key of the metadata, got 3"),
    ({"shard_by": ""}, TypeError, "shard_by: must be 'topic' or a key of the metadata, got ''"),
    ({"after": 7}, CursorError, "after: must be a cursor, 'earliest' or None, got 7"),
    ({"after": []}, CursorError, r"after: must be a cursor, 'earliest' or None, got \[\]"),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG_GROUPS)
async def test_what_a_group_is_must_make_sense_for_a_handler_and_for_a_sink(options, error, message, stream):
    with pytest.raises(error, match=message):
        await stream.subscribe(print, **{"group": "g", **options})
    with pytest.raises(error, match=message):
        attach(stream, Binding(Quiet(), **options))
    assert await stream.groups() == []


@pytest.mark.parametrize("options", [{}, {"group": "g"}])
async def test_a_handler_is_a_function_and_has_a_policy_only_in_a_group(options, stream):
    with pytest.raises(TypeError, match="handler: must be a function of one event, got None"):
        await stream.subscribe(None, **options)
    with pytest.raises(TypeError, match="handler: must be a function of one event, got 3"):
        await stream.subscribe(3, **options)
    with pytest.raises(TypeError, match=r"policy: must be DeliveryPolicy|need the name of a group"):
        await stream.subscribe(print, policy="often", **options)


@pytest.mark.parametrize("options", [{"group": "g"}, {"shards": 2}, {"shard_by": "k"}, {"after": "earliest"}])
async def test_only_a_queued_sink_on_a_durable_stream_has_a_group(options, stream):
    for where, sink in ((InMemoryStream(), Quiet()), (stream, Inline())):
        with pytest.raises(TypeError, match="cannot have group, shards, shard_by or after"):
            attach(where, Binding(sink, **options))


async def test_two_sinks_of_an_attachment_cannot_share_a_group_as_one_would_receive_nothing(stream):
    with pytest.raises(ValueError, match="sink 'b': the group 'same' is that of another sink"):
        attach(stream, Binding(Quiet("a"), group="same"), Binding(Quiet("b"), group="same"))
    with pytest.raises(ValueError, match="sink 'b': the group 'a' is that of another sink"):
        attach(stream, Quiet("a"), Binding(Quiet("b"), group="a"))


@pytest.mark.parametrize("name", ["a/b", "ops alerts (Slack)", "größe ß~@%.*>", "名" * 200])
async def test_a_sink_may_have_any_printable_name_and_a_process_too(name, place, monkeypatch):
    monkeypatch.setenv("CODOMYRMEX_PROCESS", "web 1/a:é")
    sink = Quiet(name)
    async with DurableStream(place.store()) as stream, attach(stream, sink, policy=NOW) as attachment:
        await stream.publish(create_event(1))
        assert await attachment.flush(10)
        assert sink.seen == [1]
        assert [(group.name, group.holders) for group in await stream.groups()] == [(name, ("web 1/a:é",))]


@pytest.mark.parametrize("limit", ["3", None, 2.0])
async def test_the_limit_of_a_read_is_a_number(limit, stream):
    with pytest.raises(TypeError, match="limit: must be int"):
        await stream.read(limit=limit)


async def test_a_stream_that_is_closed_says_so_whatever_is_asked(store):
    stream = DurableStream(store)
    async with stream:
        pass
    await stream.aclose()
    await stream.flush()
    for call in (stream.read, stream.groups, stream.bounds, stream.cursor, stream.dead_letters, stream.open):
        with pytest.raises(StreamClosedError):
            await call()
    for sink in (Quiet(), Inline()):
        with pytest.raises(StreamClosedError):
            await attach(stream, sink).start()
    assert stream.health().ok


async def test_two_streams_use_one_store_object_and_one_closes_before_the_other(place):
    store = place.store()
    first, second = DurableStream(store, "a"), DurableStream(store, "b")
    await first.open()
    await second.open()
    await first.publish(create_event(1))
    await first.aclose()
    await second.publish(create_event(2))
    assert [record.event.data for record in await second.read()] == [2]
    await second.aclose()
    async with DurableStream(store, "a") as again:
        assert [record.event.data for record in await again.read()] == [1]


async def test_a_store_that_was_opened_on_another_event_loop_is_one_sentence(served):
    async with served.store() as store:
        stream = DurableStream(store)
        with pytest.raises(StoreConfigError, match="this store object was opened on another event loop"):
            await stream.open()
        with pytest.raises(StoreConfigError, match="this store object was opened on another event loop"):
            await stream.publish(create_event(1))
        await stream.aclose()
        assert await store.logs() == []
    async with DurableStream(store) as stream:  # it was closed, so the stream opens it
        await stream.publish(create_event(1))


def test_a_stream_and_its_store_outlive_an_event_loop(store):
    stream, seen = DurableStream(store), []

    async def use(value):
        await stream.subscribe(lambda event: seen.append((value, event.data)))
        await stream.publish(create_event(value))
        async with asyncio.timeout(DEADLINE):
            while (value, value) not in seen:
                await asyncio.sleep(0.001)

    asyncio.run(use(1))
    asyncio.run(use(2))
    assert seen == [(1, 1), (2, 2)]
    assert stream.statistics().subscribers == 0
    asyncio.run(stream.aclose())


async def test_events_that_a_thread_publishes_until_the_stream_is_closed_are_stored_or_counted(store):
    stream = DurableStream(store, publish_timeout=0.3)
    await stream.open()
    accepted, refused = [], []

    def work():
        try:
            while True:
                stream.publish_nowait(create_event(len(accepted)))
                accepted.append(1)
        except StreamClosedError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    await asyncio.sleep(0.05)
    await stream.aclose()
    for thread in threads:
        await asyncio.to_thread(thread.join, DEADLINE)
    assert refused == ["DurableStream is closed"] * 2
    health = stream.health()
    assert health.pending == 0
    async with DurableStream(store) as again:
        stored = (await again.bounds()).events
    assert stored + sum(health.dropped.values()) == len(accepted)


async def test_a_publish_that_is_under_way_while_the_stream_is_closed_ends(store):
    stream = DurableStream(store)
    await stream.open()
    tasks = [asyncio.create_task(stream.publish(create_event(number))) for number in range(100)]
    await asyncio.sleep(0)
    await stream.aclose()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    async with DurableStream(store) as again:
        assert (await again.bounds()).events == results.count(None)
    errors = [result for result in results if result is not None]
    assert all(isinstance(error, StreamClosedError | StoreUnavailableError) for error in errors)


async def test_a_publish_to_a_store_that_is_away_fails_when_the_stream_is_closed(served):
    stream = DurableStream(served.store(0.3), publish_timeout=0.5)
    stream.publish_nowait(create_event(1))
    await stream.flush()  # which waits as long as it takes
    served.server.pause()
    try:
        publishing = asyncio.create_task(stream.publish(create_event(2)))
        await asyncio.sleep(0)
        stream.publish_nowait(create_event(3))
        await stream.aclose()
        with pytest.raises(StoreUnavailableError):
            await publishing
        assert stream.health().pending == 0
        assert stream.health().dropped == {"refused": 1}
    finally:
        served.server.resume()
