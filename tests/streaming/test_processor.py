"""`StreamProcessor`: a chain of steps, events in order, failures that lose one event."""

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
    StepResultError,
    StreamClosedError,
    StreamProcessor,
    create_event,
)
from codomyrmex.streaming.testing import FakeClock, collect
from helpers import DEADLINE, no_unawaited_coroutines, settle, until
from hypothesis import given, settings
from hypothesis import strategies as st

PLAIN_AND_ASYNC = pytest.mark.parametrize("as_coroutine", [False, True], ids=["plain", "async"])


def step(fn: Callable[[Event], Any], as_coroutine: bool) -> Callable[[Event], Any]:
    """Return the function, plain or async."""
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
    """A source, a sink with a buffer, and a processor between them."""

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


# Steps


async def test_without_steps_events_pass_unchanged(line):
    await line.start()
    event = create_event(1, topic="a")
    await line.source.publish(event)
    assert line.out == [event]


@PLAIN_AND_ASYNC
async def test_map_replaces_events(line, as_coroutine):
    await line.start(line.processor.map(step(plus(10), as_coroutine)))
    await publish_each(line.source, range(3))
    assert line.numbers == [10, 11, 12]


@PLAIN_AND_ASYNC
async def test_a_map_that_returns_none_drops_the_event(line, as_coroutine):
    drop_odd = step(lambda event: event if event.data % 2 == 0 else None, as_coroutine)
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
async def test_filter_keeps_events_by_the_truth_of_its_result(line, as_coroutine, answer):
    def wants(event: Event) -> Any:
        return (
            "yes" if answer is str and event.data % 2 else answer(event.data % 2) if answer is not str else ""
        )

    await line.start(line.processor.filter(step(wants, as_coroutine)))
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


async def test_bound_methods_and_callable_objects_can_be_steps(line):
    class Doubling:
        def __call__(self, event: Event) -> Event:
            return event.replace(data=event.data * 2)

        async def plus_one(self, event: Event) -> Event:
            return event.replace(data=event.data + 1)

    await line.start(line.processor.map(Doubling()).map(Doubling().plus_one))
    await publish_each(line.source, [1, 2])
    assert line.numbers == [3, 5]


async def test_each_method_returns_the_processor(line):
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


async def test_a_sink_in_the_middle_receives_the_results_of_the_steps_before_it(line):
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
    await line.start(line.processor.map(step(plus(1), as_coroutine=True)))
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


async def test_a_stream_subclass_can_be_a_sink(line):
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
async def test_async_steps_of_unequal_latency_keep_the_order(line, kind):
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
    await line.start(line.processor.map(step(lambda event: event, as_coroutine=True)))

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
async def test_a_step_that_raises_loses_only_that_event(line, kind, as_coroutine):
    def broken(event: Event) -> Any:
        if event.data == 1:
            raise ValueError("broken")
        return [event] if kind == "flat_map" else event

    getattr(line.processor, kind)(step(broken, as_coroutine))
    await line.start(line.processor.on_error(line.note))
    await publish_each(line.source, range(3))
    assert line.numbers == [0, 2]
    assert [(type(error), str(error), data) for error, data in line.failures] == [(ValueError, "broken", 1)]


@pytest.mark.parametrize("made_of", ["generator", "async generator"])
async def test_events_that_a_flat_map_yielded_before_it_raised_continue(line, made_of):
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


async def test_a_failure_behind_a_flat_map_loses_only_that_event(line):
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


async def test_a_dead_letter_has_the_original_event_the_reason_and_the_step(line):
    def broken_step(event: Event) -> Event:
        raise ValueError("broken")

    letters = InMemoryStream()
    await line.start(line.processor.map(plus(100)).map(broken_step).dead_letters(letters))
    original = create_event(1, topic="orders")
    await line.source.publish(original)
    [letter] = letters.get_recent_events()
    assert letter.type is EventType.ERROR
    assert letter.topic == "dead_letter"
    assert letter.data["event"] is original
    assert letter.data["reason"] == "ValueError: broken"
    assert "broken_step" in letter.data["step"]
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
async def test_a_result_that_is_not_an_event_is_an_error_of_the_step(line, kind, result, as_coroutine):
    getattr(line.processor, kind)(step(lambda event: result, as_coroutine))
    await line.start(line.processor.on_error(line.note))
    await publish_each(line.source, [1])
    assert line.numbers == []
    [(error, data)] = line.failures
    assert isinstance(error, StepResultError)
    assert isinstance(error, TypeError)
    assert kind in str(error)
    assert data == 1


@pytest.mark.parametrize("result", [None, 5, create_event(1)], ids=["None", "number", "event"])
async def test_a_flat_map_that_returns_no_iterable_loses_only_that_event(line, result):
    await line.start(line.processor.flat_map(lambda event: result).on_error(line.note))
    await publish_each(line.source, [1])
    assert line.numbers == []
    assert [type(error).__mro__[-4] for error, _ in line.failures] == [TypeError]


@pytest.mark.parametrize("moment", ["while it waits", "as its turn comes"])
async def test_the_event_of_a_publisher_cancelled_while_it_waits_is_processed_in_its_turn(line, moment):
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
    assert line.numbers == [0, 1, 2, 3, 4]


async def test_cancelling_a_publisher_in_the_backlog_loses_nothing(line):
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
    assert data_of(events) == [0, 1, 2, 3, 4]


# Start and stop


async def test_starting_twice_is_an_error(line):
    await line.start()
    with pytest.raises(RuntimeError):
        await line.processor.start()
    await publish_each(line.source, [1])
    assert line.numbers == [1]


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
async def test_an_ended_processor_receives_nothing_more(line, way):
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


async def test_stopping_a_stopped_processor_does_nothing(line):
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
async def test_a_step_may_stop_its_own_processor(line, chain):
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
def test_a_step_that_cannot_be_called_is_refused(line, kind, thing):
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


async def test_a_batch_is_sent_when_it_is_full(line):
    await line.start(line.processor.batch(3, 60))
    await publish_each(line.source, range(7))
    assert numbers_in(line.out) == [[0, 1, 2], [3, 4, 5]]


async def test_a_batch_is_sent_when_its_first_event_is_old_enough(line):
    await line.start(line.processor.batch(3, 60))
    await publish_each(line.source, [0])
    line.clock.advance(30)
    await publish_each(line.source, [1])
    line.clock.advance(29)
    await settle()
    assert line.out == []
    line.clock.advance(1)
    await until(lambda: len(line.out) >= 1)
    assert numbers_in(line.out) == [[0, 1]]


async def test_each_batch_has_its_own_age(line):
    await line.start(line.processor.batch(2, 60))
    await publish_each(line.source, [0])
    line.clock.advance(50)
    await publish_each(line.source, [1, 2])
    line.clock.advance(59)
    await until(lambda: len(line.out) >= 1)
    assert numbers_in(line.out) == [[0, 1]]
    line.clock.advance(1)
    await until(lambda: len(line.out) >= 2)
    assert numbers_in(line.out) == [[0, 1], [2]]
    assert line.clock.pending() == 0


async def test_a_batch_of_one_is_sent_at_once(line):
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


async def test_steps_behind_a_batch_receive_the_batch(line):
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


async def test_stop_flushes_batches_in_the_order_of_the_chain(line):
    await line.start(line.processor.batch(2, 60).batch(2, 60))
    await publish_each(line.source, range(3))
    assert line.out == []
    await line.processor.stop()
    [outer] = line.out
    assert numbers_in(outer.data) == [[0, 1], [2]]
    assert line.clock.pending() == 0


async def test_stop_waits_for_earlier_events(line):
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
    await until(lambda: len(line.out) >= 1)
    assert numbers_in(line.out) == [[0]]


async def test_stop_after_cancel_flushes_batches(line):
    subscription = await line.start(line.processor.batch(3, 60))
    await publish_each(line.source, [0])
    subscription.cancel()
    await line.processor.stop()
    assert numbers_in(line.out) == [[0]]


async def test_a_batch_that_reaches_its_age_while_a_step_runs_waits_for_its_turn(line):
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
    await until(lambda: len(line.out) >= 1)
    assert numbers_in(line.out) == [[0]]
    line.clock.advance(60)
    await until(lambda: len(line.out) >= 2)
    assert numbers_in(line.out) == [[0], [1]]
    assert line.clock.pending() == 0


async def test_a_batch_is_made_with_the_systems_clock_too():
    source, sink = InMemoryStream(), InMemoryStream()
    await StreamProcessor(source).batch(10, 0.002).sink(sink).start()
    with collect(sink) as batches:
        await publish_each(source, range(2))
        await batches.wait_for(1, DEADLINE)
    assert numbers_in(batches) == [[0, 1]]


# Feedback: results lead to new events at the source


@pytest.mark.parametrize("way", ["await", "thread"])
async def test_feedback_from_the_processors_own_task_or_another_loop_is_not_waited_for(line, way):
    async def split(event: Event) -> None:
        if event.data < 2:
            return
        for _ in range(2):
            half = line.source.publish(event.replace(data=event.data // 2))
            await (half if way == "await" else asyncio.to_thread(asyncio.run, half))

    await line.sink.subscribe(split)
    await line.start(line.processor.map(step(lambda event: event, as_coroutine=True)))
    with collect(line.sink) as events:
        await publish_each(line.source, [4])
        assert line.numbers == [4]
        await events.wait_for(7)
    assert data_of(events) == [4, 2, 2, 1, 1, 1, 1]


async def test_feedback_beyond_the_bound_of_the_backlog_is_dropped_and_counted(line, monkeypatch):
    monkeypatch.setattr("codomyrmex.streaming.processor._MAX_BACKLOG", 3)

    async def flood(event: Event) -> Event:
        if event.data == "flood":
            await publish_each(line.source, range(5))
        return event

    await line.start(line.processor.map(flood))
    with collect(line.sink) as events:
        await publish_each(line.source, ["flood"])
        await events.wait_for(4)
    assert line.numbers == ["flood", 0, 1, 2]
    assert line.processor.statistics().dropped == 2


async def test_a_batch_whose_time_is_over_while_the_backlog_is_full_loses_nothing(line, monkeypatch):
    monkeypatch.setattr("codomyrmex.streaming.processor._MAX_BACKLOG", 3)
    release = asyncio.Event()

    async def held(event: Event) -> Event:
        if event.data == "wait":
            await release.wait()
        return event

    await line.start(line.processor.map(held).batch(10, age=1))
    with collect(line.sink) as events:
        await publish_each(line.source, [1, 2, 3])
        for value in ("wait", 4, 5, 6, "dropped"):
            line.source.publish_nowait(create_event(value))
        await settle()
        line.clock.advance(1)
        stopping = asyncio.create_task(line.processor.stop())  # sends the rest, whatever waits before
        await settle()
        release.set()
        await stopping
    assert numbers_in(events) == [[1, 2, 3], ["wait", 4, 5, 6]]
    assert line.processor.statistics().dropped == 1


@pytest.mark.filterwarnings("ignore:coroutine")
def test_a_batch_that_waits_for_its_turn_when_the_loop_ends_is_counted_event_by_event():
    source, clock = InMemoryStream(), FakeClock()
    processor = StreamProcessor(source, clock=clock)

    async def held(event: Event) -> Event:
        if event.data == "wait":
            await asyncio.Event().wait()
        return event

    async def main() -> None:
        await processor.map(held).batch(10, age=1).start()
        for value in (1, 2, 3, "wait", 4):
            source.publish_nowait(create_event(value))
        await settle()
        clock.advance(1)

    asyncio.run(main())
    assert processor.statistics().dropped == 1 + 3


async def test_events_that_arrive_during_another_wait_in_the_order_of_their_arrival(line):
    release = asyncio.Event()

    async def held(event: Event) -> Event:
        if event.data == 0:
            await release.wait()
        return event

    await line.start(line.processor.map(held))
    publishing = []
    for number in range(6):
        if number % 2:
            line.source.publish_nowait(create_event(number))
        else:
            publishing.append(asyncio.create_task(line.source.publish(create_event(number))))
            await settle()
    assert line.numbers == []
    assert not any(task.done() for task in publishing)
    release.set()
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*publishing)
    assert line.numbers[:5] == [0, 1, 2, 3, 4]
    await line.processor.stop()
    assert line.numbers == [0, 1, 2, 3, 4, 5]


async def test_a_publisher_on_another_loop_does_not_wait_for_its_event(line):
    release = asyncio.Event()

    async def held(event: Event) -> Event:
        await release.wait()
        return event

    await line.start(line.processor.map(held))
    with collect(line.sink) as events:
        await asyncio.to_thread(asyncio.run, publish_each(line.source, [0, 1]))
        assert line.numbers == []
        release.set()
        await events.wait_for(2)
    assert line.numbers == [0, 1]


def test_events_published_while_its_loop_does_not_run_wait_for_it():
    source, sink, loop = InMemoryStream(), InMemoryStream(), asyncio.new_event_loop()
    processor = StreamProcessor(source).map(step(plus(1), as_coroutine=True)).sink(sink)
    loop.run_until_complete(processor.start())
    source.publish_nowait(create_event(0))
    source.publish_nowait(create_event(1))
    loop.run_until_complete(publish_each(source, [2]))
    loop.run_until_complete(processor.stop())
    loop.close()
    assert data_of(sink.get_recent_events()) == [1, 2, 3]


@pytest.mark.parametrize("in_thread", [True, False])
def test_events_for_a_processor_on_a_closed_loop_are_dropped_and_counted(in_thread):
    source, sink = InMemoryStream(), InMemoryStream()
    processor = StreamProcessor(source).map(step(plus(1), as_coroutine=True)).sink(sink)
    asyncio.run(processor.start())
    with no_unawaited_coroutines():
        for number in range(2):
            if in_thread:
                asyncio.run(asyncio.to_thread(source.publish_nowait, create_event(number)))
            else:
                source.publish_nowait(create_event(number))
    assert processor.statistics().dropped == 2
    assert sink.statistics().published == 0


async def test_a_publisher_cancelled_while_it_waits_does_not_interrupt_the_step(line):
    release = asyncio.Event()

    async def held(event: Event) -> Event:
        await release.wait()
        return event

    await line.start(line.processor.map(held))
    with collect(line.sink) as events:
        publishing = asyncio.create_task(line.source.publish(create_event(0)))
        await settle()
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        release.set()
        await events.wait_for(1)
        await publish_each(line.source, [1])
    assert line.numbers == [0, 1]


async def test_a_step_may_publish_to_the_source_without_waiting(line):
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


async def test_feedback_does_not_wait_for_events_of_publish_nowait(line):
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


# Statistics


async def test_statistics_count_the_events_by_outcome(line):
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


# A law


_STEPS_DRAWN = st.tuples(
    st.sampled_from(["add", "drop multiples", "keep multiples", "repeat"]),
    st.integers(1, 4),
    st.booleans(),
)


def _reference(numbers: list[int], steps: list[tuple[str, int, bool]]) -> list[int]:
    for name, k, _ in steps:
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


def _compose(processor: StreamProcessor, steps: list[tuple[str, int, bool]]) -> None:
    for name, k, as_coroutine in steps:
        match name:
            case "add":
                processor.map(step(plus(k), as_coroutine))
            case "drop multiples":
                processor.map(step(lambda e, k=k: e if e.data % k != 0 else None, as_coroutine))
            case "keep multiples":
                processor.filter(step(lambda e, k=k: e.data % k == 0, as_coroutine))
            case "repeat":
                processor.flat_map(step(lambda e, k=k: [e] * (e.data % k), as_coroutine))


@settings(max_examples=80, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 30), max_size=12),
    steps=st.lists(_STEPS_DRAWN, max_size=5),
    size=st.none() | st.integers(1, 4),
    way=st.sampled_from(["one by one", "gather", "nowait"]),
)
def test_a_processor_returns_what_equivalent_comprehensions_return(numbers, steps, size, way):
    result = asyncio.run(_process(numbers, steps, size, way))
    expected: list[Any] = _reference(numbers, steps)
    if size is not None:
        expected = [expected[start : start + size] for start in range(0, len(expected), size)]
    assert result == expected


async def _process(
    numbers: list[int], steps: list[tuple[str, int, bool]], size: int | None, way: str
) -> list[Any]:
    source, sink = InMemoryStream(), InMemoryStream(buffer_size=100_000)
    processor = StreamProcessor(source, clock=FakeClock())
    _compose(processor, steps)
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


@pytest.mark.parametrize("as_coroutine", [False, True])
@pytest.mark.parametrize("length", [2, 3])
async def test_an_event_travels_through_a_cycle_of_processors_until_one_drops_it(length, as_coroutine):
    streams = [InMemoryStream() for _ in range(length)]
    processors = []
    for number, stream in enumerate(streams):
        count = step(plus(1), as_coroutine=as_coroutine)
        processor = StreamProcessor(stream).filter(lambda event: event.data < 100).map(count)
        processors.append(processor.sink(streams[(number + 1) % length]))
        await processor.start()
    async with asyncio.timeout(DEADLINE):
        await streams[0].publish(create_event(0))
        streams[0].publish_nowait(create_event(0))
        while sum(processor.statistics().filtered for processor in processors) < 2:
            await asyncio.sleep(0)
        for processor in processors:
            await processor.stop()
    assert sum(processor.statistics().emitted for processor in processors) == 200
    assert sum(processor.statistics().errors for processor in processors) == 0


async def test_a_cycle_without_an_end_keeps_neither_the_loop_nor_the_processors_from_ending():
    streams = [InMemoryStream(0), InMemoryStream(0)]
    processors = [StreamProcessor(streams[0]).sink(streams[1]), StreamProcessor(streams[1]).sink(streams[0])]
    for processor in processors:
        await processor.start()
    async with asyncio.timeout(DEADLINE):
        streams[0].publish_nowait(create_event(0))
        while processors[0].statistics().emitted < 1_000:
            await asyncio.sleep(0)
        for processor in processors:
            await processor.stop()
