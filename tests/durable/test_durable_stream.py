"""What `DurableStream` promises, on each kind of store."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from contextlib import asynccontextmanager, closing
from functools import partial

import pytest
from codomyrmex.integrations import Binding, DeliveryPolicy, PermanentError, Sink, SinkState, attach
from codomyrmex.integrations.durable import (
    CursorError,
    DurableStream,
    EventTooLargeError,
    GroupError,
    Retention,
    SQLiteStore,
    StoreConfigError,
    StoreUnavailableError,
)
from codomyrmex.integrations.durable.store import Batch
from codomyrmex.streaming import StreamClosedError, create_event
from codomyrmex.streaming.provenance import ORIGIN
from helpers import DEADLINE

QUICK = DeliveryPolicy(batch_age=0, max_attempts=1, backoff_initial=0.01, drain_timeout=5)


async def eventually(condition, seconds=DEADLINE):
    """Wait until a condition holds, as the tail of another stream needs some time."""
    async with asyncio.timeout(seconds):
        while not (result := condition()):
            await asyncio.sleep(0.005)
    return result


class Recorder(Sink):
    """A sink that keeps the data of its events."""

    def __init__(self, name="recorder", fail=None):
        self.name, self.seen, self.fail = name, [], fail
        self.batches = []

    async def send(self, events):
        if self.fail is not None:
            await self.fail(events)
        self.batches.append(len(events))
        self.seen += [event.data for event in events]


@pytest.fixture
async def streams(place):
    """Return a function that opens a stream as another process would, on a store of its own."""
    opened = []

    @asynccontextmanager
    async def open_stream(**options):
        async with DurableStream(place.store(), **{"lease": 1.0, **options}) as stream:
            yield stream

    async def make(**options):
        context = open_stream(**options)
        opened.append(context)
        return await context.__aenter__()

    yield make
    for context in reversed(opened):
        await context.__aexit__(None, None, None)


async def publish(stream, *values, topic="orders"):
    for value in values:
        await stream.publish(create_event(value, topic=topic))


# Publishing and subscribing


async def test_an_event_that_publish_has_returned_for_is_in_the_store_and_reaches_every_process(streams):
    first, second = await streams(), await streams()
    here, there = [], []
    await first.subscribe(here.append)
    await second.subscribe(there.append)
    event = create_event({"order": 42, "price": 1.5}, topic="orders.created", tenant="a")
    await first.publish(event)
    assert [record.event for record in await second.read()] == [event]
    await eventually(lambda: here and there)
    assert here == there == [event]
    assert here[0].metadata == {"topic": "orders.created", "tenant": "a"}


async def test_every_process_receives_the_events_of_all_in_the_order_of_the_log(streams):
    processes = [await streams() for _ in range(3)]
    received = [[] for _ in processes]
    for stream, events in zip(processes, received, strict=True):
        await stream.subscribe(lambda event, events=events: events.append(event.data))

    async def work(number, stream):
        for count in range(40):
            await stream.publish(create_event([number, count]))

    await asyncio.gather(*(work(number, stream) for number, stream in enumerate(processes) for _ in range(2)))
    await eventually(lambda: all(len(events) == 240 for events in received))
    assert received[0] == received[1] == received[2]
    for number in range(3):
        counts = [count for sender, count in received[0] if sender == number]
        assert sorted(counts) == sorted([*range(40), *range(40)])


async def test_handlers_receive_what_json_keeps_of_the_payload_in_the_process_of_the_publisher_too(streams):
    stream = await streams()
    received = []
    await stream.subscribe(received.append)
    await stream.publish(create_event({"when": (1, 2), "odd": {3}, "text": "\ud800x\u2028"}))
    await eventually(lambda: received)
    assert received[0].data == {"when": [1, 2], "odd": [3], "text": "\ufffdx\u2028"}


async def test_publish_nowait_works_in_any_thread_and_close_stores_what_is_waiting(streams, place):
    async with DurableStream(place.store()) as stream:

        def work(number):
            for count in range(100):
                stream.publish_nowait(create_event([number, count]))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in threads))
    again = await streams()
    data = [record.event.data for record in await again.read(limit=1_000)]
    assert len(data) == 400
    for number in range(4):
        assert [count for sender, count in data if sender == number] == list(range(100))


async def test_a_loop_that_stops_while_it_publishes_does_not_hold_up_the_others(streams):
    stream = await streams()
    await publish(stream, 1)
    stopped = asyncio.new_event_loop()
    first = stopped.create_task(stream.publish(create_event(2)))
    stopped.call_soon(stopped.stop)  # in the turn in which it publishes
    await asyncio.to_thread(stopped.run_forever)
    async with asyncio.timeout(DEADLINE):
        await publish(stream, 3)
        await asyncio.to_thread(stopped.run_until_complete, first)
    stopped.close()
    assert [record.event.data for record in await stream.read()] == [1, 2, 3]


async def test_topics_and_filters_select_and_a_failing_handler_is_reported_and_affects_no_other(place):
    errors = []
    stream = DurableStream(
        place.store(), on_error=lambda error, event, _: errors.append((str(error), event.data))
    )
    async with stream:
        orders, odd, all_of_them = [], [], []

        def fail(event):
            raise ValueError(f"no {event.data}")

        await stream.subscribe(fail, "orders.*")
        await stream.subscribe(lambda event: orders.append(event.data), "orders.*")
        await stream.subscribe(lambda event: odd.append(event.data), "*", lambda event: event.data % 2 == 1)

        async def slowly(event):
            await asyncio.sleep(0)
            all_of_them.append(event.data)

        subscription = await stream.subscribe(slowly)
        for number in range(6):
            await stream.publish(create_event(number, topic="orders.new" if number < 3 else "invoices.new"))
        await eventually(lambda: len(all_of_them) == 6)
        assert (orders, odd) == ([0, 1, 2], [1, 3, 5])
        assert errors == [("no 0", 0), ("no 1", 1), ("no 2", 2)]
        assert stream.statistics().handler_errors == 3
        assert await stream.unsubscribe(subscription.id)
        await publish(stream, 7)
        await eventually(lambda: odd == [1, 3, 5, 7])
        assert all_of_them == list(range(6))


async def test_a_handler_without_an_event_loop_runs_on_a_thread_that_holds_up_nobody(streams):
    stream = await streams()
    free, names = threading.Event(), []

    def handle(event):
        names.append(threading.current_thread().name)
        free.wait(DEADLINE)

    subscribing = threading.Thread(target=stream.subscribe_nowait, args=(handle,))
    subscribing.start()
    await asyncio.to_thread(subscribing.join)
    await publish(stream, 1)
    await eventually(lambda: names)
    await publish(stream, 2, 3)  # although the handler still runs
    free.set()
    await eventually(lambda: len(names) == 3)
    assert set(names) == {"codomyrmex events handlers"}


async def test_a_slow_handler_falls_behind_and_loses_nothing(streams):
    stream = await streams()
    gate, received = asyncio.Event(), []

    async def slowly(event):
        await gate.wait()
        received.append(event.data)

    await stream.subscribe(slowly)
    for number in range(12_000):  # more than the tail keeps
        stream.publish_nowait(create_event(number))
        if number % 4_000 == 0:
            await stream.flush()
    await stream.flush()
    gate.set()
    await eventually(lambda: len(received) == 12_000, 60)
    assert received == list(range(12_000))
    assert stream.health().ok


async def test_interceptors_and_inline_handlers_run_before_the_event_is_stored(streams):
    stream = await streams()
    seen = []
    stream.add_interceptor(
        lambda event: None if event.data == "drop" else event.replace(data=event.data.upper())
    )
    stream.subscribe_inline(lambda event: seen.append((event.data, threading.current_thread())))
    await publish(stream, "a", "drop", "b")
    assert seen == [("A", threading.main_thread()), ("B", threading.main_thread())]
    assert [record.event.data for record in await stream.read()] == ["A", "B"]
    assert stream.statistics()[:2] == (2, 1)


async def test_a_handler_can_begin_with_the_newest_events(streams):
    first = await streams()
    await publish(first, *range(5), topic="orders")
    for number in range(5, 1_205):
        first.publish_nowait(create_event(number, topic="other"))
    await first.flush()
    await publish(first, "c", topic="orders.created")
    second = await streams()
    newest, entries, of_topic = [], [], []
    second.subscribe_newest(lambda event: newest.append(event.data), count=3)
    second.subscribe_newest(entries.append, "orders", 10_000, records=True)
    second.subscribe_newest(lambda event: of_topic.append(event.data), "orders.>", 10_000)
    await publish(first, "new", topic="orders.created")
    await eventually(lambda: newest == [1_203, 1_204, "c", "new"])
    await eventually(lambda: of_topic == ["c", "new"])
    await eventually(lambda: len(entries) == 5)
    assert [(entry.position, entry.event.data) for entry in entries] == [(n + 1, n) for n in range(5)]
    assert entries[0].time == pytest.approx(time.time(), abs=60)
    assert second.health().missed == 0


async def test_listen_reads_at_its_own_pace(streams):
    stream = await streams()
    async with stream.listen("orders", queue_size=10) as events:
        await publish(stream, *range(50))
        assert [(await anext(events)).data for _ in range(50)] == list(range(50))


async def test_recent_events_are_known_when_the_stream_is_opened(streams):
    await publish(await streams(), *range(20))
    assert [event.data for event in (await streams()).get_recent_events(3)] == [17, 18, 19]


async def test_an_event_that_is_too_large_is_refused_and_counted(streams):
    stream = await streams()
    large = create_event("x" * 1024 * 1024)
    with pytest.raises(EventTooLargeError, match=r"encoded it has 10487\d\d bytes, the limit is 1048576"):
        await stream.publish(large)
    stream.publish_nowait(large)
    assert stream.health().dropped == {"too_large": 1}
    assert not stream.health().ok
    await stream.publish(create_event("x" * 1_000_000))
    assert len((await stream.read())[0].event.data) == 1_000_000


async def test_a_closed_stream_refuses_events_and_handlers(place):
    stream = DurableStream(place.store())
    received = []
    async with stream:
        await stream.subscribe(received.append)
        stream.publish_nowait(create_event(1))
    assert [event.data for event in received] == [1]
    with pytest.raises(StreamClosedError):
        await stream.publish(create_event(2))
    with pytest.raises(StreamClosedError):
        stream.publish_nowait(create_event(2))
    with pytest.raises(StreamClosedError):
        await stream.subscribe(received.append)
    with pytest.raises(StreamClosedError):
        stream.subscribe_nowait(received.append)
    await stream.aclose()


# Cursors


async def test_reading_and_subscribing_continue_behind_a_cursor_in_another_process(streams):
    first, second = await streams(), await streams()
    await publish(first, *range(10))
    records = await first.read(limit=4)
    assert [record.event.data for record in records] == [0, 1, 2, 3]
    rest = await second.read(after=records[-1].cursor)
    assert [record.event.data for record in rest] == [4, 5, 6, 7, 8, 9]
    received = []
    await second.subscribe(lambda event: received.append(event.data), after=records[-1].cursor)
    await publish(first, 10)
    await eventually(lambda: len(received) == 7)
    assert received == [4, 5, 6, 7, 8, 9, 10]
    assert await second.read(after=None) == []
    assert await second.cursor() == (await first.bounds()).last


async def test_subscribing_at_the_earliest_event_replays_everything_once(streams):
    stream = await streams()
    for number in range(3_000):
        stream.publish_nowait(create_event(number))
    await stream.flush()
    received = []
    await stream.subscribe(lambda event: received.append(event.data), after="earliest")
    await publish(stream, 3_000)
    await eventually(lambda: len(received) > 3_000)
    assert received == list(range(3_001))


@pytest.mark.parametrize("after", ["", "x", "1", "epoch:", ":1", "a:-1", "a:1e3", "a:" + "9" * 30, 7])
async def test_a_malformed_cursor_is_one_sentence(after, tmp_path):
    async with DurableStream(SQLiteStore(tmp_path / "events.db")) as stream:
        with pytest.raises(CursorError, match="after: must be a cursor, 'earliest' or None, got"):
            await stream.read(after=after)


async def test_a_cursor_of_another_log_beyond_the_end_or_no_longer_kept_is_not_trusted(tmp_path):
    store = SQLiteStore(tmp_path / "events.db")
    async with DurableStream(store) as stream:
        await publish(stream, *range(10))
        epoch = (await stream.cursor()).partition(":")[0]
        with pytest.raises(CursorError, match="is not a position of this log"):
            await stream.read(after="another:3")
        with pytest.raises(CursorError, match="is not a position of this log"):
            await stream.subscribe(print, after=f"{epoch}:11")
        assert await stream.call(store.trim("events", Retention(max_events=3), 10)) == 7
        with pytest.raises(CursorError, match="are no longer kept"):
            await stream.read(after=f"{epoch}:6")
        assert [record.event.data for record in await stream.read(after=f"{epoch}:7")] == [7, 8, 9]


async def test_what_is_not_an_event_is_counted_and_passed_over(tmp_path):
    store = SQLiteStore(tmp_path / "events.db")
    async with DurableStream(store) as stream:
        received = []
        await stream.subscribe(lambda event: received.append(event.data))
        await publish(stream, 1)
        await stream.call(store.append("events", Batch("other", 1, [b"\xff not an event", b'{"id": 3}'])))
        await publish(stream, 2)
        await eventually(lambda: received == [1, 2])
        assert [record.event.data for record in await stream.read()] == [1, 2]
        assert stream.health().undecodable == 2
        assert not stream.health().ok


# Groups


async def test_a_group_delivers_each_event_in_one_process_and_continues_where_it_was(streams):
    first, second = await streams(), await streams()
    received = []
    for stream in (first, second):
        await stream.subscribe(
            lambda event, stream=stream: received.append((event.data, stream)), group="mail"
        )
    await publish(first, *range(10))
    await eventually(lambda: len(received) == 10)
    holders = {stream for _, stream in received}
    assert len(holders) == 1
    assert [data for data, _ in received] == list(range(10))
    [group] = await first.groups()
    assert (group.name, group.topic, group.shards, len(group.holders)) == ("mail", "*", 1, 1)
    await holders.pop().aclose()
    other = second if received[0][1] is first else first
    await publish(other, 10)
    await eventually(lambda: len(received) == 11)
    assert received[-1] == (10, other)


async def test_events_that_a_process_did_not_deliver_are_left_for_the_next_one(streams, place):
    never = asyncio.Event()

    async def hang(_):
        await never.wait()

    stuck, sink = Recorder(fail=hang), Recorder()
    async with DurableStream(place.store(), lease=1.0) as stream:
        async with attach(stream, stuck, policy=DeliveryPolicy(batch_age=0, drain_timeout=0.1)) as attachment:
            await publish(stream, *range(5))
            await eventually(lambda: attachment.health()["recorder"].in_flight)
        report = attachment.report().sinks["recorder"]
        assert (report.left, report.lost, report.complete) == (5, 0, True)
    stream = await streams()
    async with attach(stream, sink, policy=QUICK):
        await eventually(lambda: sink.seen == [0, 1, 2, 3, 4])


async def test_a_new_group_starts_at_the_end_or_where_it_is_told(streams):
    stream = await streams()
    await publish(stream, 1, 2)
    cursor = await stream.cursor()
    await publish(stream, 3)
    new, early, behind = Recorder("new"), Recorder("early"), Recorder("behind")
    sinks = new, Binding(early, after="earliest"), Binding(behind, after=cursor, group="another name")
    async with attach(stream, *sinks, policy=QUICK) as attachment:
        await publish(stream, 4)
        assert await attachment.flush(10)
    assert (new.seen, early.seen, behind.seen) == ([4], [1, 2, 3, 4], [3, 4])
    assert [group.name for group in await stream.groups()] == ["another name", "early", "new"]


async def test_a_sink_whose_store_was_away_says_so_and_gets_what_was_published_meanwhile(tmp_path):
    path = tmp_path / "events.db"
    sink = Recorder()
    policy = DeliveryPolicy(open="retry", batch_age=0, backoff_initial=0.01, backoff_max=0.1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        stream = DurableStream(SQLiteStore(path, timeout=0.05), publish_timeout=0.2)
        with pytest.raises(StoreUnavailableError, match=r"^sqlite:///.*: another process has been writing"):
            await stream.open()
        attachment = attach(stream, sink, policy=policy)
        await attachment.start()
        assert attachment.health()["recorder"].state is SinkState.NOT_OPEN
        stream.publish_nowait(create_event(1))
        other.rollback()
        await eventually(lambda: sink.seen == [1])
        assert attachment.health()["recorder"].state is SinkState.OK
    await attachment.aclose()
    await stream.aclose()


async def test_a_group_keeps_its_definition(streams):
    stream = await streams()
    await stream.subscribe(print, "a.*", group="g")
    with pytest.raises(GroupError, match=r"group g: it exists with topic='a.\*', shards=1, shard_by='topic'"):
        await stream.subscribe(print, "b.*", group="g")
    with pytest.raises(GroupError, match="use another name, or delete the group"):
        await (await streams()).subscribe(print, "a.*", group="g", shards=2)


async def test_an_event_that_is_given_up_becomes_a_dead_letter_and_can_be_replayed(streams):
    stream = await streams()
    works = False

    async def refuse(events):
        if not works and any(event.data == "bad" for event in events):
            raise PermanentError("the card was refused")

    sink, other = Recorder("payments", refuse), Recorder("other")
    policy = DeliveryPolicy(batch_age=0, batch_size=1)
    async with attach(stream, sink, other, policy=policy) as attachment:
        await publish(stream, "good", "bad", "good")
        await eventually(lambda: len(sink.seen) == 2)
        [letter] = await stream.dead_letters()
        assert (letter.group, letter.reason, letter.attempts) == (
            "payments",
            "PermanentError: the card was refused",
            1,
        )
        assert letter.event.data == "bad"
        assert attachment.health()["payments"].state is SinkState.LOSING
        [_, group] = await stream.groups()
        assert (group.name, group.dead) == ("payments", 1)
        works = True
        assert await attachment.replay(stream) == 1
        await eventually(lambda: sink.seen == ["good", "good", "bad"])
        assert await stream.dead_letters() == []
        await attachment.flush(10)
        assert other.seen == ["good", "bad", "good"]
    assert [record.event.data for record in await stream.read()] == ["good", "bad", "good"]


async def test_dead_letters_can_be_dropped(streams):
    stream = await streams()

    async def refuse(events):
        raise PermanentError("no")

    async with attach(stream, Recorder("a", refuse), Recorder("b", refuse), policy=QUICK):
        await publish(stream, 1, 2)
        async with asyncio.timeout(DEADLINE):
            while len(await stream.dead_letters()) < 4:
                await asyncio.sleep(0.02)
    assert await stream.drop_dead_letters("a") == 2
    assert [letter.group for letter in await stream.dead_letters()] == ["b", "b"]
    with pytest.raises(GroupError, match="there is no such group of stream 'events'; there are: a, b"):
        await stream.drop_dead_letters("c")


async def test_a_handler_of_a_group_is_called_again_and_its_event_then_becomes_a_dead_letter(streams):
    stream = await streams()
    calls = []

    def handle(event):
        calls.append(event.data)
        if event.data == 2 or (event.data == 1 and calls.count(1) == 1):
            raise ValueError("not now")

    policy = DeliveryPolicy(
        batch_size=1, batch_age=0, max_attempts=3, backoff_initial=0.001, breaker_failures=9
    )
    await stream.subscribe(handle, group="g", policy=policy)
    await publish(stream, 1, 2, 3)
    await eventually(lambda: 3 in calls)
    assert calls == [1, 1, 2, 2, 2, 3]
    await eventually(lambda: True)
    [letter] = await stream.dead_letters("g")
    assert (letter.event.data, letter.attempts, letter.reason) == (2, 3, "ValueError: not now")


async def test_shards_spread_over_the_processes_and_keep_the_order_of_each_key(streams):
    first, second = await streams(), await streams()
    received = []

    async def handle(event, stream):
        await asyncio.sleep(0.001)
        received.append((event.metadata["key"], event.data, stream))

    for stream in (first, second):
        await stream.subscribe(
            lambda event, stream=stream: handle(event, stream), group="g", shards=4, shard_by="key"
        )
    await asyncio.sleep(1.5)  # a lease, after which the shards are spread
    for number in range(100):
        await first.publish(create_event(number, key=f"k{number % 10}"))
    await eventually(lambda: len(received) == 100)
    for key in {key for key, _, _ in received}:
        mine = [(data, stream) for name, data, stream in received if name == key]
        assert [data for data, _ in mine] == sorted(data for data, _ in mine)
        assert len({stream for _, stream in mine}) == 1
    assert len({stream for _, _, stream in received}) == 2
    assert [len(group.holders) for group in await first.groups()] == [1]  # one process, although two streams


async def test_seek_moves_a_group_that_is_read_and_one_that_is_not(streams):
    stream = await streams()
    received = []
    subscription = await stream.subscribe(lambda event: received.append(event.data), group="g")
    await publish(stream, 1, 2)
    await eventually(lambda: received == [1, 2])
    await stream.seek("g", "earliest")
    await eventually(lambda: received == [1, 2, 1, 2])
    await stream.unsubscribe(subscription.id)
    await publish(stream, 3)
    await stream.seek("g", None)
    await stream.subscribe(lambda event: received.append(event.data), group="g")
    await publish(stream, 4)
    await eventually(lambda: received[-1] == 4)
    assert received == [1, 2, 1, 2, 4]
    with pytest.raises(GroupError, match="there is no such group"):
        await stream.seek("h", None)


async def test_a_group_can_be_deleted_once_nobody_reads_it(streams):
    stream = await streams()
    subscription = await stream.subscribe(print, group="g")
    with pytest.raises(GroupError, match=r"group 'g': it is in use by .*; stop that process first"):
        await stream.delete_group("g")
    await stream.unsubscribe(subscription.id)
    await stream.delete_group("g")
    assert await stream.groups() == []


async def test_reports_on_a_sink_do_not_go_to_that_sink_in_any_process(streams):
    stream = await streams()
    sink, other = Recorder("mine"), Recorder("other")
    async with attach(stream, sink, other, policy=QUICK) as attachment:
        await stream.publish(create_event("about mine", sink="mine", **{ORIGIN: "sink:7f00"}))
        await attachment.flush(10)
    assert (sink.seen, other.seen) == ([], ["about mine"])


async def test_health_says_which_process_delivers_and_how_far_it_is_behind(streams):
    first, second = await streams(), await streams()
    gate = asyncio.Event()

    async def wait(_):
        await gate.wait()

    async with attach(first, Recorder("s", wait), policy=QUICK) as holder:
        await eventually(lambda: holder.health()["s"].state is SinkState.OK)
        async with attach(second, Recorder("s"), policy=QUICK) as waiting:
            assert waiting.health()["s"].state is SinkState.STANDBY
            await publish(first, *range(5))
            await eventually(lambda: sum(holder.health()["s"][1:3]) == 5)
            gate.set()
            await eventually(lambda: holder.health()["s"].delivered == 5)
            assert waiting.report().complete


# Retention


async def test_the_log_is_trimmed_but_not_what_a_group_has_not_read(place):
    gate = asyncio.Event()

    async def wait(_):
        await gate.wait()

    sink = Recorder("slow", wait)
    retention = Retention(max_events=100)
    async with (
        DurableStream(place.store(), lease=1.0, retention=retention) as stream,
        attach(stream, sink, policy=DeliveryPolicy(batch_age=0, timeout=60)),
    ):
        for number in range(1_000):
            stream.publish_nowait(create_event(number))
        await stream.flush()
        await asyncio.sleep(0.6)  # the log is trimmed after a quarter of a second when it grows
        assert (await stream.bounds()).events == 1_000
        gate.set()
        await eventually(lambda: len(sink.seen) == 1_000)
        async with asyncio.timeout(DEADLINE):
            while (await stream.bounds()).events >= 600:
                stream.publish_nowait(create_event(-1))
                await asyncio.sleep(0.02)
    assert sink.seen[:1_000] == list(range(1_000))


async def test_a_group_that_is_too_far_behind_gets_a_counted_gap(tmp_path):
    store = SQLiteStore(tmp_path / "events.db")
    async with DurableStream(store) as stream:
        sink = Recorder("late")
        async with attach(stream, sink, policy=QUICK) as attachment:
            await publish(stream, 0)
            await attachment.flush(10)
        await publish(stream, *range(1, 10))
        await stream.call(store.trim("events", Retention(max_events=4), 10))
    async with DurableStream(SQLiteStore(tmp_path / "events.db")) as stream:
        assert [group.missed for group in await stream.groups()] == [5]
        async with attach(stream, sink, policy=QUICK) as attachment:
            await eventually(lambda: sink.seen == [0, 6, 7, 8, 9])
            health = attachment.health()["late"]
            assert (health.dropped, health.state) == ({"removed": 5}, SinkState.LOSING)


# Stores that lose their end, and stores that are not there


async def test_a_log_whose_end_went_back_gets_a_new_epoch_and_readers_continue(tmp_path):
    path = tmp_path / "events.db"
    async with DurableStream(SQLiteStore(path)) as stream:
        await publish(stream, 1, 2)
    backup = path.read_bytes()
    received, grouped = [], []
    async with DurableStream(SQLiteStore(path), lease=1.0) as stream:
        await stream.subscribe(lambda event: received.append(event.data))
        await stream.subscribe(lambda event: grouped.append(event.data), group="g")
        await publish(stream, 3, 4)
        await eventually(lambda: received == grouped == [3, 4])
        old = await stream.cursor()
        path.unlink()
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.write_bytes(backup)
        await eventually(lambda: _published(stream, 5))
        await publish(stream, 6)
        await eventually(lambda: received[-1] == 6)
        assert received == [3, 4, 5, 6]
        with pytest.raises(CursorError):
            await stream.read(after=old)
        assert [record.event.data for record in await stream.read()] == [1, 2, 5, 6]


def _published(stream, value):
    stream.publish_nowait(create_event(value))
    return True


async def test_a_store_that_cannot_be_used_is_an_error_at_once(tmp_path):
    (tmp_path / "events.db").write_bytes(b"not a database" * 1_000)
    stream = DurableStream(SQLiteStore(tmp_path / "events.db"))
    with pytest.raises(StoreConfigError, match="it was left as it is"):
        await stream.open()
    with pytest.raises(StoreConfigError, match="it was left as it is"):
        await stream.publish(create_event(1))
    assert not stream.health().available
    await stream.aclose()
    assert (tmp_path / "events.db").read_bytes() == b"not a database" * 1_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a b"}, "name: must be 1 to 64 characters"),
        ({"name": 3}, "name: must be 1 to 64 characters"),
        ({"lease": 0}, "lease: must be greater than 0"),
        ({"linger": -1}, "linger: must be"),
        ({"publish_timeout": "soon"}, "publish_timeout: must be"),
    ],
)
def test_arguments_are_checked(options, message, tmp_path):
    with pytest.raises((TypeError, ValueError), match=message):
        DurableStream(SQLiteStore(tmp_path / "events.db"), **options)
    assert not (tmp_path / "events.db").exists()


def collector(received: list[object]):
    return lambda event: received.append(event.data)


async def test_a_group_whose_subscription_was_cancelled_just_before_the_end_is_left_to_others_at_once(place):
    for number in range(5):
        received: list[object] = []
        async with DurableStream(place.store(), lease=60.0) as stream:
            subscription = await stream.subscribe(collector(received), group="notes")
            await stream.publish(create_event(number))
            await eventually(partial([number].__eq__, received))
            subscription.cancel()
