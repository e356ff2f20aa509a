"""What `StreamProcessor` promises: stages in a row, events in order, failures that cost one event."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import pytest
from codomyrmex.streaming import (
    Event,
    EventType,
    InMemoryStream,
    Overflow,
    SSEStream,
    StageResultError,
    StreamClosedError,
    StreamProcessor,
    create_event,
)
from codomyrmex.streaming.testing import FakeClock, collect
from hypothesis import given, settings
from hypothesis import strategies as st

DEADLINE = 5.0
PLAIN_AND_ASYNC = pytest.mark.parametrize("as_coroutine", [False, True], ids=["plain", "async"])


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def stage(fn: Callable[[Event], Any], as_coroutine: bool) -> Callable[[Event], Any]:
    """Give the function as it is, or as an async one."""
    if not as_coroutine:
        return fn

    async def later(event: Event) -> Any:
        await asyncio.sleep(0)
        return fn(event)

    return later


def plus(number: int) -> Callable[[Event], Event]:
    return lambda event: event.replace(data=event.data + number)


def data_of(events: Iterable[Event]) -> list[Any]:
    return [event.data for event in events]


def numbers_in(batches: Iterable[Event]) -> list[list[Any]]:
    return [data_of(batch.data) for batch in batches]


async def publish_each(stream: Any, values: Iterable[Any], **metadata: Any) -> None:
    async with asyncio.timeout(DEADLINE):
        for value in values:
            await stream.publish(create_event(value, **metadata))


class Setup:
    """A source, a sink that remembers, and a processor to put between them."""

    def __init__(self) -> None:
        self.source = InMemoryStream()
        self.sink = InMemoryStream()
        self.clock = FakeClock()
        self.processor = StreamProcessor(self.source, clock=self.clock)
        self.failures: list[tuple[Exception, Any]] = []

    def note(self, error: Exception, event: Event) -> None:
        self.failures.append((error, event.data))

    @property
    def out(self) -> list[Event]:
        return self.sink.get_recent_events(1_000)

    @property
    def numbers(self) -> list[Any]:
        return data_of(self.out)

    async def start(self, processor: StreamProcessor | None = None) -> Any:
        assert processor in {None, self.processor}
        return await self.processor.sink(self.sink).start()


@pytest.fixture
def line() -> Setup:
    return Setup()


# Stages


async def test_without_stages_events_go_through_as_they_are(line):
    await line.start()
    event = create_event(1, topic="a")
    await line.source.publish(event)
    assert line.out == [event]


@PLAIN_AND_ASYNC
async def test_map_replaces_events(line, as_coroutine):
    await line.start(line.processor.map(stage(plus(10), as_coroutine)))
    await publish_each(line.source, range(3))
    assert line.numbers == [10, 11, 12]


@PLAIN_AND_ASYNC
async def test_a_map_that_gives_none_drops_the_event(line, as_coroutine):
    drop_odd = stage(lambda event: event if event.data % 2 == 0 else None, as_coroutine)
    await line.start(line.processor.map(drop_odd).on_error(line.note))
    await publish_each(line.source, range(5))
    assert line.numbers == [0, 2, 4]
    assert line.failures == []


@PLAIN_AND_ASYNC
@pytest.mark.parametrize(
    "answer",
    [bool, int, lambda odd: "yes" * odd, lambda odd: [0] * odd],
    ids=["bool", "int", "text", "list"],
)
async def test_filter_keeps_what_its_answer_is_true_for(line, as_coroutine, answer):
    def wants(event: Event) -> Any:
        return (
            "yes" if answer is str and event.data % 2 else answer(event.data % 2) if answer is not str else ""
        )

    await line.start(line.processor.filter(stage(wants, as_coroutine)))
    await publish_each(line.source, range(5))
    assert line.numbers == [1, 3]


async def _async_copies(event: Event) -> AsyncIterator[Event]:
    for _ in range(event.data):
        await asyncio.sleep(0)
        yield event


async def _awaited_copies(event: Event) -> list[Event]:
    await asyncio.sleep(0)
    return [event] * event.data


def _generated_copies(event: Event) -> Iterable[Event]:
    for _ in range(event.data):
        yield event


@pytest.mark.parametrize(
    "copies",
    [
        lambda event: [event] * event.data,
        lambda event: (event,) * event.data,
        _generated_copies,
        _awaited_copies,
        _async_copies,
    ],
    ids=["list", "tuple", "generator", "coroutine", "async generator"],
)
async def test_flat_map_makes_any_number_of_events_of_one(line, copies):
    await line.start(line.processor.flat_map(copies).map(plus(100)))
    await publish_each(line.source, [2, 0, 3, 1])
    assert line.numbers == [102, 102, 103, 103, 103, 101]


async def test_a_bound_method_and_an_object_with_a_call_are_stages_too(line):
    class Doubling:
        def __call__(self, event: Event) -> Event:
            return event.replace(data=event.data * 2)

        async def plus_one(self, event: Event) -> Event:
            return event.replace(data=event.data + 1)

    await line.start(line.processor.map(Doubling()).map(Doubling().plus_one))
    await publish_each(line.source, [1, 2])
    assert line.numbers == [3, 5]


async def test_each_method_gives_the_processor_back(line):
    processor = line.processor
    for returned in (
        processor.map(plus(1)),
        processor.filter(bool),
        processor.flat_map(lambda event: [event]),
        processor.batch(1, 1),
        processor.sink(line.sink),
        processor.on_error(line.note),
        processor.dead_letters(InMemoryStream()),
    ):
        assert returned is processor


async def test_a_sink_in_the_middle_gets_what_the_stages_before_it_made(line):
    middle = InMemoryStream()
    await line.start(line.processor.map(plus(1)).sink(middle).map(plus(1)))
    await publish_each(line.source, [0])
    assert data_of(middle.get_recent_events()) == [1]
    assert line.numbers == [2]


async def test_published_means_processed(line):
    handled: list[Any] = []

    async def slow(event: Event) -> None:
        await settle()
        handled.append(event.data)

    await line.sink.subscribe(slow)
    await line.start(line.processor.map(stage(plus(1), as_coroutine=True)))
    await publish_each(line.source, [1])
    assert handled == [2]


@pytest.mark.parametrize("source", [InMemoryStream, SSEStream], ids=["InMemoryStream", "SSEStream"])
async def test_processors_may_be_put_in_a_row(source):
    first, second, third = source(), source(), InMemoryStream()
    await StreamProcessor(first).map(plus(1)).sink(second).start()
    await StreamProcessor(second).map(plus(10)).sink(third).start()
    await publish_each(first, range(3))
    assert data_of(third.get_recent_events()) == [11, 12, 13]


@pytest.mark.parametrize("overflow", list(Overflow))
async def test_a_source_with_queues_loses_nothing_because_no_queue_is_read(overflow):
    source, sink = SSEStream(queue_size=2, overflow=overflow), InMemoryStream()
    subscription = await StreamProcessor(source).sink(sink).start()
    await publish_each(source, range(6))
    assert data_of(sink.get_recent_events()) == [0, 1, 2, 3, 4, 5]
    assert subscription.active
    assert source.statistics().dropped == 0


async def test_a_stream_of_ones_own_making_is_a_sink_too(line):
    class Recording(InMemoryStream):
        async def publish(self, event: Event) -> None:
            await asyncio.sleep(0)
            recorded.append(event.data)

    recorded: list[Any] = []
    await line.start(line.processor.sink(Recording()))
    await publish_each(line.source, range(2))
    assert recorded == [0, 1]
    assert line.numbers == [0, 1]


# Order


def unequal(event: Event) -> Awaitable[Event]:
    async def wait() -> Event:
        for _ in range((7 - event.data) % 5 * 2):
            await asyncio.sleep(0)
        return event

    return wait()


@pytest.mark.parametrize("kind", ["map", "filter", "flat_map"])
async def test_async_stages_of_unequal_latency_keep_the_order_of_a_gather(line, kind):
    async def wants(event: Event) -> bool:
        return bool(await unequal(event))

    async def one(event: Event) -> list[Event]:
        return [await unequal(event)]

    getattr(line.processor, kind)({"map": unequal, "filter": wants, "flat_map": one}[kind])
    await line.start()
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*(line.source.publish(create_event(n)) for n in range(20)))
    assert line.numbers == list(range(20))


async def test_events_published_without_waiting_keep_their_order_with_those_awaited(line):
    await line.start(line.processor.map(unequal))
    async with asyncio.timeout(DEADLINE):
        for number in range(20):
            if number % 4 == 3:
                await line.source.publish(create_event(number))
            else:
                line.source.publish_nowait(create_event(number))
    assert line.numbers == list(range(20))


@pytest.mark.parametrize("loops", [False, True], ids=["publish_nowait", "loops of their own"])
async def test_events_published_from_threads_arrive_in_each_threads_order(line, loops):
    await line.start(line.processor.map(stage(lambda event: event, as_coroutine=True)))

    def publish(name: str) -> None:
        if loops:
            asyncio.run(publish_each(line.source, [(name, number) for number in range(50)]))
        else:
            for number in range(50):
                line.source.publish_nowait(create_event((name, number)))

    with collect(line.sink) as events:
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*(asyncio.to_thread(publish, name) for name in "abc"))
            await events.wait_for(150)
    for name in "abc":
        assert [n for who, n in data_of(events) if who == name] == list(range(50))


# Failures


@PLAIN_AND_ASYNC
@pytest.mark.parametrize("kind", ["map", "filter", "flat_map"])
async def test_a_stage_that_raises_loses_only_that_event(line, kind, as_coroutine):
    def broken(event: Event) -> Any:
        if event.data == 1:
            raise ValueError("broken")
        return [event] if kind == "flat_map" else event

    getattr(line.processor, kind)(stage(broken, as_coroutine))
    await line.start(line.processor.on_error(line.note))
    await publish_each(line.source, range(3))
    assert line.numbers == [0, 2]
    assert [(type(error), str(error), data) for error, data in line.failures] == [(ValueError, "broken", 1)]


@pytest.mark.parametrize("made_of", ["generator", "async generator"])
async def test_what_a_flat_map_gave_before_it_raised_goes_on(line, made_of):
    def broken(event: Event) -> Iterable[Event]:
        yield event
        raise ValueError("broken")

    async def async_broken(event: Event) -> AsyncIterator[Event]:
        yield event
        raise ValueError("broken")

    fn = broken if made_of == "generator" else async_broken
    await line.start(line.processor.flat_map(fn).on_error(line.note))
    await publish_each(line.source, range(2))
    assert line.numbers == [0, 1]
    assert len(line.failures) == 2


async def test_an_event_that_fails_behind_a_flat_map_costs_only_itself(line):
    def broken(event: Event) -> Event:
        if event.data == "b":
            raise ValueError("broken")
        return event

    await line.start(
        line.processor.flat_map(lambda event: [event.replace(data=letter) for letter in event.data])
        .map(broken)
        .on_error(line.note)
    )
    await publish_each(line.source, ["abc"])
    assert line.numbers == ["a", "c"]
    assert [data for _, data in line.failures] == ["abc"]


@PLAIN_AND_ASYNC
async def test_on_error_gets_the_error_and_the_event_of_the_source(line, as_coroutine):
    def broken(event: Event) -> Event:
        raise ValueError("broken")

    async def note_later(error: Exception, event: Event) -> None:
        await asyncio.sleep(0)
        line.note(error, event)

    line.processor.map(plus(100)).map(broken).on_error(note_later if as_coroutine else line.note)
    await line.start()
    await publish_each(line.source, [1])
    assert [(str(error), data) for error, data in line.failures] == [("broken", 1)]


async def test_a_dead_letter_carries_the_original_the_reason_and_the_stage(line):
    def broken_stage(event: Event) -> Event:
        raise ValueError("broken")

    letters = InMemoryStream()
    await line.start(line.processor.map(plus(100)).map(broken_stage).dead_letters(letters))
    original = create_event(1, topic="orders")
    await line.source.publish(original)
    [letter] = letters.get_recent_events()
    assert letter.type is EventType.ERROR
    assert letter.topic == "dead_letter"
    assert letter.data["event"] is original
    assert letter.data["reason"] == "ValueError: broken"
    assert "broken_stage" in letter.data["stage"]
    assert Event.from_dict(letter.to_dict()["data"]["event"]) == original


@PLAIN_AND_ASYNC
async def test_an_on_error_that_raises_stops_neither_the_chain_nor_the_dead_letters(line, as_coroutine):
    def broken(event: Event) -> Event:
        if event.data == 0:
            raise ValueError("broken")
        return event

    def note(error: Exception, event: Event) -> None:
        raise RuntimeError("cannot note")

    async def note_later(error: Exception, event: Event) -> None:
        note(error, event)

    letters = InMemoryStream()
    line.processor.map(broken).on_error(note_later if as_coroutine else note).dead_letters(letters)
    await line.start()
    await publish_each(line.source, range(2))
    assert line.numbers == [1]
    assert [letter.data["reason"] for letter in letters.get_recent_events()] == ["ValueError: broken"]


async def test_dead_letters_that_cannot_be_published_do_not_stop_the_chain(line):
    def broken(event: Event) -> Event:
        raise ValueError("broken")

    letters = InMemoryStream()
    await letters.aclose()
    await line.start(line.processor.map(broken).dead_letters(letters).on_error(line.note))
    await publish_each(line.source, range(2))
    assert len(line.failures) == 2


async def test_one_failing_sink_does_not_keep_the_others_from_theirs(line):
    closed, other, letters = InMemoryStream(), InMemoryStream(), InMemoryStream()
    await closed.aclose()
    await line.start(line.processor.sink(other).sink(closed).on_error(line.note).dead_letters(letters))
    await publish_each(line.source, range(2))
    assert data_of(other.get_recent_events()) == [0, 1]
    assert line.numbers == [0, 1]
    assert [(type(error), data) for error, data in line.failures] == [
        (StreamClosedError, 0),
        (StreamClosedError, 1),
    ]
    assert len(letters.get_recent_events()) == 2
    assert line.processor.statistics().errors == 2


@PLAIN_AND_ASYNC
@pytest.mark.parametrize(
    ("kind", "result"), [("map", 5), ("map", "event"), ("map", {}), ("flat_map", [5]), ("flat_map", "ab")]
)
async def test_a_stage_that_gives_something_else_is_told_so(line, kind, result, as_coroutine):
    getattr(line.processor, kind)(stage(lambda event: result, as_coroutine))
    await line.start(line.processor.on_error(line.note))
    await publish_each(line.source, [1])
    assert line.numbers == []
    [(error, data)] = line.failures
    assert isinstance(error, StageResultError)
    assert isinstance(error, TypeError)
    assert kind in str(error)
    assert data == 1


@pytest.mark.parametrize("result", [None, 5, create_event(1)], ids=["None", "number", "event"])
async def test_a_flat_map_that_gives_nothing_to_iterate_loses_only_that_event(line, result):
    await line.start(line.processor.flat_map(lambda event: result).on_error(line.note))
    await publish_each(line.source, [1])
    assert line.numbers == []
    assert [type(error).__mro__[-4] for error, _ in line.failures] == [TypeError]


async def test_cancellation_passes_through_and_the_next_event_is_processed(line):
    async def stuck(event: Event) -> Event:
        if event.data == 0:
            await asyncio.Event().wait()
        return event

    await line.start(line.processor.map(stuck))
    publishing = asyncio.create_task(line.source.publish(create_event(0)))
    await settle()
    publishing.cancel()
    await asyncio.wait([publishing])
    assert publishing.cancelled()
    await publish_each(line.source, [1])
    assert line.numbers == [1]


@pytest.mark.parametrize("moment", ["while it waits", "as its turn comes"])
async def test_cancelling_a_publisher_that_waits_for_its_turn_does_not_block_the_others(line, moment):
    release = asyncio.Event()

    async def held(event: Event) -> Event:
        if event.data == 0:
            await release.wait()
        return event

    await line.start(line.processor.map(held))
    publishers: list[asyncio.Task[None]] = []

    async def first() -> None:
        await line.source.publish(create_event(0))
        if moment == "as its turn comes":
            publishers[0].cancel()

    async with asyncio.timeout(DEADLINE):
        running = asyncio.create_task(first())
        await settle()
        publishers += [asyncio.create_task(line.source.publish(create_event(n))) for n in (1, 2, 3)]
        await settle()
        if moment == "while it waits":
            publishers[0].cancel()
            await settle()
        release.set()
        await asyncio.wait([running, *publishers])
        await line.source.publish(create_event(4))
    assert publishers[0].cancelled()
    assert line.numbers == [0, 2, 3, 4]


async def test_cancelling_a_publisher_behind_those_that_do_not_wait_loses_none_of_theirs(line):
    release = asyncio.Event()

    async def held(event: Event) -> Event:
        await release.wait()
        return event

    await line.start(line.processor.map(held))
    with collect(line.sink) as events:
        line.source.publish_nowait(create_event(0))
        publishing = asyncio.create_task(line.source.publish(create_event(1)))
        await settle()
        line.source.publish_nowait(create_event(2))
        line.source.publish_nowait(create_event(3))
        publishing.cancel()
        await asyncio.wait([publishing])
        release.set()
        async with asyncio.timeout(DEADLINE):
            await line.source.publish(create_event(4))
    assert [number for number in data_of(events) if number != 1] == [0, 2, 3, 4]


# Start and stop


async def test_starting_twice_is_an_error(line):
    await line.start()
    with pytest.raises(RuntimeError):
        await line.processor.start()
    await publish_each(line.source, [1])
    assert line.numbers == [1]


async def test_starting_twice_at_the_same_time_is_an_error_too():
    class SlowToSubscribe(InMemoryStream):
        async def subscribe(self, *args: Any, **named: Any) -> Any:
            await asyncio.sleep(0)
            return await super().subscribe(*args, **named)

        async def _subscribe_listener(self, *args: Any, **named: Any) -> Any:
            await asyncio.sleep(0)
            return await super()._subscribe_listener(*args, **named)

    source, sink = SlowToSubscribe(), InMemoryStream()
    processor = StreamProcessor(source).sink(sink)
    async with asyncio.timeout(DEADLINE):
        results = await asyncio.gather(processor.start(), processor.start(), return_exceptions=True)
    await publish_each(source, [1])
    assert data_of(sink.get_recent_events()) == [1]
    assert sum(isinstance(result, RuntimeError) for result in results) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda processor: processor.map(plus(1)),
        lambda processor: processor.filter(bool),
        lambda processor: processor.flat_map(lambda event: [event]),
        lambda processor: processor.batch(1, 1),
        lambda processor: processor.sink(InMemoryStream()),
        lambda processor: processor.on_error(lambda error, event: None),
        lambda processor: processor.dead_letters(InMemoryStream()),
    ],
    ids=["map", "filter", "flat_map", "batch", "sink", "on_error", "dead_letters"],
)
async def test_a_running_chain_cannot_be_changed_and_a_stopped_one_can(line, change):
    await line.start()
    with pytest.raises(RuntimeError):
        change(line.processor)
    await publish_each(line.source, [1])
    await line.processor.stop()
    assert line.numbers == [1]
    assert change(line.processor) is line.processor


@pytest.mark.parametrize("way", ["cancel", "stop", "unsubscribe"])
async def test_an_ended_processor_takes_nothing_more(line, way):
    subscription = await line.start()
    await publish_each(line.source, [1])
    if way == "cancel":
        subscription.cancel()
    elif way == "stop":
        await line.processor.stop()
    else:
        await line.source.unsubscribe(subscription.id)
    await publish_each(line.source, [2])
    assert line.numbers == [1]
    assert not subscription.active
    assert line.source.statistics().subscribers == 0


@pytest.mark.parametrize("way", ["cancel", "stop"])
async def test_an_ended_processor_may_start_again(line, way):
    subscription = await line.start()
    if way == "cancel":
        subscription.cancel()
    else:
        await line.processor.stop()
    await publish_each(line.source, [1])
    again = await line.processor.map(plus(10)).sink(line.sink).start()
    await publish_each(line.source, [2])
    assert again.active
    assert line.numbers == [2, 12]
    assert line.processor.statistics().received == 1


async def test_stopping_what_does_not_run_does_nothing(line):
    await line.processor.stop()
    await line.start()
    await line.processor.stop()
    await line.processor.stop()


async def test_a_closed_source_cannot_be_started_on(line):
    await line.source.aclose()
    with pytest.raises(StreamClosedError):
        await line.start()
    with pytest.raises(StreamClosedError):
        await line.processor.start()


@pytest.mark.parametrize("chain", ["without a batch", "with a batch"])
async def test_a_stage_may_stop_its_own_processor(line, chain):
    async def stop_at_one(event: Event) -> Event:
        if event.data == 1:
            await line.processor.stop()
        return event

    line.processor.map(stop_at_one)
    if chain == "with a batch":
        line.processor.batch(10, 60)
    await line.start()
    await publish_each(line.source, range(3))
    await settle()
    line.clock.advance(60)
    await settle()
    if chain == "with a batch":
        assert [number for numbers in numbers_in(line.out) for number in numbers] == [0, 1]
    else:
        assert line.numbers == [0, 1]


async def test_a_handler_behind_the_sink_may_stop_a_processor_with_a_batch(line):
    async def stop(event: Event) -> None:
        await line.processor.stop()

    await line.sink.subscribe(stop)
    await line.start(line.processor.batch(2, 60))
    await publish_each(line.source, range(3))
    assert numbers_in(line.out) == [[0, 1]]


@pytest.mark.parametrize("thing", [None, 5, "stage"])
@pytest.mark.parametrize("kind", ["map", "filter", "flat_map"])
def test_a_stage_that_cannot_be_called_is_refused(line, kind, thing):
    with pytest.raises(TypeError):
        getattr(line.processor, kind)(thing)


@pytest.mark.parametrize(("size", "age"), [(0, 1), (-1, 1), (1, 0), (1, -1), (1, math.nan)])
def test_a_batch_without_a_size_or_an_age_is_refused(line, size, age):
    with pytest.raises(ValueError):
        line.processor.batch(size, age)


@pytest.mark.parametrize("method", ["sink", "dead_letters"])
def test_the_source_cannot_be_where_its_own_results_go(line, method):
    with pytest.raises(ValueError, match="source"):
        getattr(line.processor, method)(line.source)


# Batches


async def test_a_batch_goes_on_when_it_is_full(line):
    await line.start(line.processor.batch(3, 60))
    await publish_each(line.source, range(7))
    assert numbers_in(line.out) == [[0, 1, 2], [3, 4, 5]]


async def test_a_batch_goes_on_when_its_first_event_is_old_enough(line):
    await line.start(line.processor.batch(3, 60))
    await publish_each(line.source, [0])
    line.clock.advance(30)
    await publish_each(line.source, [1])
    line.clock.advance(29)
    await settle()
    assert line.out == []
    line.clock.advance(1)
    await settle()
    assert numbers_in(line.out) == [[0, 1]]


async def test_each_batch_has_its_own_age(line):
    await line.start(line.processor.batch(2, 60))
    await publish_each(line.source, [0])
    line.clock.advance(50)
    await publish_each(line.source, [1, 2])
    line.clock.advance(59)
    await settle()
    assert numbers_in(line.out) == [[0, 1]]
    line.clock.advance(1)
    await settle()
    assert numbers_in(line.out) == [[0, 1], [2]]
    assert line.clock.pending() == 0


async def test_a_batch_of_one_goes_on_at_once(line):
    await line.start(line.processor.batch(1, 60))
    await publish_each(line.source, range(2))
    assert numbers_in(line.out) == [[0], [1]]
    assert line.clock.pending() == 0


@pytest.mark.parametrize(
    ("topics", "topic"), [(["a", "a"], "a"), (["a", "b"], None), (["a", None], None), ([None, None], None)]
)
async def test_a_batch_has_the_topic_that_all_its_events_share(line, topics, topic):
    await line.start(line.processor.batch(2, 60))
    events = [create_event(0) if name is None else create_event(0, topic=name) for name in topics]
    for event in events:
        await line.source.publish(event)
    [batch] = line.out
    assert batch.data == events
    assert batch.topic == topic
    assert batch.metadata["count"] == 2


async def test_stages_behind_a_batch_see_the_batch(line):
    await line.start(
        line.processor.batch(2, 60).map(lambda batch: batch.replace(data=sum(data_of(batch.data))))
    )
    await publish_each(line.source, range(4))
    assert line.numbers == [1, 5]


async def test_a_failure_behind_a_batch_is_reported_with_the_batch(line):
    def broken(event: Event) -> Event:
        raise ValueError("broken")

    letters = InMemoryStream()
    await line.start(line.processor.batch(2, 60).map(broken).dead_letters(letters))
    await publish_each(line.source, range(2))
    [letter] = letters.get_recent_events()
    assert data_of(letter.data["event"].data) == [0, 1]


async def test_stop_sends_on_what_is_in_batches_in_the_order_of_the_chain(line):
    await line.start(line.processor.batch(2, 60).batch(2, 60))
    await publish_each(line.source, range(3))
    assert line.out == []
    await line.processor.stop()
    [outer] = line.out
    assert numbers_in(outer.data) == [[0, 1], [2]]
    assert line.clock.pending() == 0


async def test_stop_waits_for_the_events_that_came_before_it(line):
    await line.start(line.processor.map(unequal).batch(3, 60))
    async with asyncio.timeout(DEADLINE):
        publishing = [asyncio.create_task(line.source.publish(create_event(n))) for n in range(5)]
        await asyncio.sleep(0)
        await line.processor.stop()
        await asyncio.gather(*publishing)
    assert numbers_in(line.out) == [[0, 1, 2], [3, 4]]


async def test_a_cancelled_processor_still_sends_on_its_batch_when_its_age_is_over(line):
    subscription = await line.start(line.processor.batch(3, 60))
    await publish_each(line.source, [0])
    subscription.cancel()
    await publish_each(line.source, [1])
    line.clock.advance(60)
    await settle()
    assert numbers_in(line.out) == [[0]]


async def test_stop_after_cancel_sends_on_what_is_in_batches(line):
    subscription = await line.start(line.processor.batch(3, 60))
    await publish_each(line.source, [0])
    subscription.cancel()
    await line.processor.stop()
    assert numbers_in(line.out) == [[0]]


async def test_a_batch_that_comes_of_age_while_a_stage_runs_waits_for_its_turn(line):
    release = asyncio.Event()

    async def held(event: Event) -> Event:
        if event.data == 1:
            await release.wait()
        return event

    await line.start(line.processor.map(held).batch(5, 60))
    await publish_each(line.source, [0])
    publishing = asyncio.create_task(publish_each(line.source, [1]))
    await settle()
    line.clock.advance(60)
    await settle()
    assert line.out == []
    release.set()
    await publishing
    await settle()
    assert numbers_in(line.out) == [[0]]
    line.clock.advance(60)
    await settle()
    assert numbers_in(line.out) == [[0], [1]]
    assert line.clock.pending() == 0


async def test_a_batch_is_made_with_the_systems_clock_too():
    source, sink = InMemoryStream(), InMemoryStream()
    await StreamProcessor(source).batch(10, 0.002).sink(sink).start()
    with collect(sink) as batches:
        await publish_each(source, range(2))
        await batches.wait_for(1, DEADLINE)
    assert numbers_in(batches) == [[0, 1]]


# Feedback: what comes out leads to something new going in


async def test_a_sink_that_leads_back_to_the_source_does_not_wait_for_itself(line):
    async def count_down(event: Event) -> None:
        if event.data > 0:
            await line.source.publish(event.replace(data=event.data - 1))

    await line.sink.subscribe(count_down)
    await line.start()
    await publish_each(line.source, [3, 1])
    assert line.numbers == [3, 2, 1, 0, 1, 0]


@pytest.mark.parametrize("way", ["gather", "tasks", "task group", "thread"])
async def test_feedback_through_other_tasks_does_not_wait_for_itself(line, way):
    async def split(event: Event) -> None:
        if event.data < 2:
            return
        halves = [line.source.publish(event.replace(data=event.data // 2)) for _ in range(2)]
        match way:
            case "gather":
                await asyncio.gather(*halves)
            case "tasks":
                await asyncio.wait([asyncio.create_task(half) for half in halves])
            case "task group":
                async with asyncio.TaskGroup() as group:
                    for half in halves:
                        group.create_task(half)
            case "thread":
                for half in halves:
                    await asyncio.to_thread(asyncio.run, half)

    await line.sink.subscribe(split)
    await line.start(line.processor.map(stage(lambda event: event, as_coroutine=True)))
    await publish_each(line.source, [4, 2])
    await settle()
    assert line.numbers == [4, 2, 2, 1, 1, 1, 1, 2, 1, 1]


async def test_a_stage_may_publish_to_the_source_without_waiting(line):
    def count_down(event: Event) -> Event:
        if event.data > 0:
            line.source.publish_nowait(event.replace(data=event.data - 1))
        return event

    await line.start(line.processor.map(count_down))
    with collect(line.sink) as events:
        await publish_each(line.source, [3])
        await events.wait_for(4)
    assert line.numbers == [3, 2, 1, 0]


async def test_feedback_both_ways_at_once_does_not_wait_for_itself(line):
    async def twice(event: Event) -> Event:
        if event.data == 0:
            line.source.publish_nowait(create_event(1))
            await line.source.publish(create_event(2))
        return event

    await line.start(line.processor.map(twice))
    with collect(line.sink) as events:
        await publish_each(line.source, [0])
        await events.wait_for(3)
    assert sorted(data_of(events)) == [0, 1, 2]


async def test_feedback_does_not_wait_for_what_others_have_published_without_waiting(line):
    async def feed_back(event: Event) -> Event:
        if event.data == 0:
            await settle()
            await line.source.publish(create_event(2))
        return event

    await line.start(line.processor.map(feed_back))
    with collect(line.sink) as events:
        async with asyncio.timeout(DEADLINE):
            publishing = asyncio.create_task(line.source.publish(create_event(0)))
            await asyncio.sleep(0)
            line.source.publish_nowait(create_event(1))
            await publishing
            await events.wait_for(3)
    assert sorted(data_of(events)) == [0, 1, 2]


async def test_feedback_is_processed_even_if_its_publisher_is_cancelled(line):
    async def feed_back(event: Event) -> None:
        if event.data == 0:
            await line.source.publish(create_event(1))
            await asyncio.Event().wait()

    await line.sink.subscribe(feed_back)
    await line.start()
    publishing = asyncio.create_task(line.source.publish(create_event(0)))
    await settle()
    publishing.cancel()
    await asyncio.wait([publishing])
    await settle()
    assert line.numbers == [0, 1]


async def test_two_processors_in_a_circle_do_not_wait_for_each_other():
    left, right = InMemoryStream(), InMemoryStream()

    async def count_down(event: Event) -> Event | None:
        await settle()
        return event.replace(data=event.data - 1) if event.data > 0 else None

    await StreamProcessor(left).map(count_down).sink(right).start()
    await StreamProcessor(right).map(count_down).sink(left).start()
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(left.publish(create_event(4)), right.publish(create_event(4)))
    await settle()
    assert sorted(data_of(left.get_recent_events())) == [0, 1, 2, 3, 4]
    assert sorted(data_of(right.get_recent_events())) == [0, 1, 2, 3, 4]


# Statistics


async def test_statistics_count_what_became_of_the_events(line):
    def halve(event: Event) -> Event | None:
        if event.data == 5:
            raise ValueError("broken")
        return event.replace(data=event.data // 2) if event.data % 2 == 0 else None

    await line.start(
        line.processor.filter(lambda event: event.data != 0)
        .map(halve)
        .flat_map(lambda event: [event] * event.data)
    )
    await publish_each(line.source, range(6))
    assert line.numbers == [1, 2, 2]
    assert line.processor.statistics()._asdict() == {
        "received": 6,
        "emitted": 3,
        "filtered": 3,
        "errors": 1,
        "dropped": 0,
    }


async def test_feedback_beyond_what_may_wait_is_dropped_and_counted(line, monkeypatch):
    monkeypatch.setattr("codomyrmex.streaming.processor._MAX_FED_BACK", 3)

    async def flood(event: Event) -> Event:
        if event.data == "flood":
            await publish_each(line.source, range(5))
        return event

    await line.start(line.processor.map(flood))
    await publish_each(line.source, ["flood"])
    assert line.numbers == ["flood", 0, 1, 2]
    assert line.processor.statistics().dropped == 2


# A law


_STAGES = st.tuples(
    st.sampled_from(["add", "drop multiples", "keep multiples", "repeat"]),
    st.integers(1, 4),
    st.booleans(),
)


def _reference(numbers: list[int], stages: list[tuple[str, int, bool]]) -> list[int]:
    for name, k, _ in stages:
        match name:
            case "add":
                numbers = [n + k for n in numbers]
            case "drop multiples":
                numbers = [n for n in numbers if n % k != 0]
            case "keep multiples":
                numbers = [n for n in numbers if n % k == 0]
            case "repeat":
                numbers = [n for n in numbers for _ in range(n % k)]
    return numbers


def _compose(processor: StreamProcessor, stages: list[tuple[str, int, bool]]) -> None:
    for name, k, as_coroutine in stages:
        match name:
            case "add":
                processor.map(stage(plus(k), as_coroutine))
            case "drop multiples":
                processor.map(stage(lambda e, k=k: e if e.data % k != 0 else None, as_coroutine))
            case "keep multiples":
                processor.filter(stage(lambda e, k=k: e.data % k == 0, as_coroutine))
            case "repeat":
                processor.flat_map(stage(lambda e, k=k: [e] * (e.data % k), as_coroutine))


@settings(max_examples=80, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 30), max_size=12),
    stages=st.lists(_STAGES, max_size=5),
    size=st.none() | st.integers(1, 4),
    way=st.sampled_from(["one by one", "gather", "nowait"]),
)
def test_a_processor_gives_what_the_same_comprehensions_give(numbers, stages, size, way):
    result = asyncio.run(_process(numbers, stages, size, way))
    expected: list[Any] = _reference(numbers, stages)
    if size is not None:
        expected = [expected[start : start + size] for start in range(0, len(expected), size)]
    assert result == expected


async def _process(
    numbers: list[int], stages: list[tuple[str, int, bool]], size: int | None, way: str
) -> list[Any]:
    source, sink = InMemoryStream(), InMemoryStream(buffer_size=100_000)
    processor = StreamProcessor(source, clock=FakeClock())
    _compose(processor, stages)
    if size is not None:
        processor.batch(size, 60)
    await processor.sink(sink).start()
    async with asyncio.timeout(DEADLINE):
        if way == "one by one":
            await publish_each(source, numbers)
        elif way == "gather":
            await asyncio.gather(*(source.publish(create_event(number)) for number in numbers))
        else:
            for number in numbers:
                source.publish_nowait(create_event(number))
            await source.aclose()
        await processor.stop()
    out = sink.get_recent_events(100_000)
    return data_of(out) if size is None else numbers_in(out)
