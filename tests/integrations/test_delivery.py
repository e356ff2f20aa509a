"""Queued sinks: batches, retries, breaker, drain; all with a fake clock."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any, Self

import pytest
from codomyrmex.integrations import (
    Attachment,
    Binding,
    DeadLetters,
    DeliveryPolicy,
    DroppedError,
    InlineSink,
    PartialDeliveryError,
    PermanentError,
    RetryableError,
    Sink,
    SinkHealth,
    SinkState,
    attach,
)
from codomyrmex.integrations.delivery.policy import Breaker, backoff
from codomyrmex.streaming import Event, InMemoryStream, Overflow, create_event
from codomyrmex.streaming.testing import FakeClock
from helpers import in_time, settle
from hypothesis import given, settings
from hypothesis import strategies as st

_numbers = count()  # as lines about one name are rate-limited across tests


class Scripted(Sink):
    """Does with each batch what its script says: nothing, raise, or wait; then takes everything."""

    def __init__(self, *script: object, name: str | None = None) -> None:
        self.name = name or f"scripted-{next(_numbers)}"
        self.script = list(script)
        self.attempts: list[list[Any]] = []
        self.delivered: list[Any] = []
        self.cancelled = 0
        self.calls: list[str] = []

    async def open(self) -> None:
        self.calls.append("open")

    async def close(self) -> None:
        self.calls.append("close")

    async def send(self, events: Sequence[Event]) -> None:
        data = [event.data for event in events]
        self.attempts.append(data)
        step = self.script.pop(0) if self.script else None
        if callable(step):
            step = step(events)
        if step is HANG:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if isinstance(step, BaseException):
            if isinstance(step, PartialDeliveryError):
                self.delivered += [event.data for event in events if event.id not in step.failed]
            raise step
        self.delivered += data


HANG = object()
AWAY = OSError("the network is away")


def partly(which: Callable[[Any], bool], error: Exception) -> Callable[[Sequence[Event]], object]:
    return lambda events: PartialDeliveryError({e.id: error for e in events if which(e.data)})


def policy(**changes: Any) -> DeliveryPolicy:
    return DeliveryPolicy(**{"batch_age": 0, "backoff_initial": 1.0, "breaker_failures": 100, **changes})


class Bench:
    """A stream, one sink, and a clock."""

    def __init__(self, sink: Sink, policy: DeliveryPolicy, **options: Any) -> None:
        self.stream = InMemoryStream()
        self.clock = FakeClock(1_000.0)
        self.sink = sink
        self.attachment = attach(self.stream, sink, policy=policy, clock=self.clock, **options)

    async def __aenter__(self) -> Self:
        await self.attachment.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.attachment.aclose(0)

    async def publish(self, *values: Any) -> None:
        for value in values:
            await self.stream.publish(create_event(value))
        await settle()

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await settle()

    @property
    def health(self) -> Any:
        return self.attachment.health()[self.sink.name]

    @property
    def report(self) -> Any:
        return self.attachment.report().sinks[self.sink.name]


# The policy


def test_the_defaults_are_those_of_the_field():
    assert DeliveryPolicy() == DeliveryPolicy(
        queue_size=2_048,
        overflow=Overflow.DROP_OLDEST,
        block_timeout=None,
        max_wait=0.1,
        batch_size=512,
        batch_age=1.0,
        timeout=10.0,
        max_attempts=5,
        backoff_initial=0.5,
        backoff_max=30.0,
        max_elapsed=300.0,
        breaker_failures=5,
        breaker_reset=30.0,
        drain_timeout=5.0,
    )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"queue_size": 0}, "queue_size: must be at least 1, got 0"),
        ({"batch_size": -1}, "batch_size: must be at least 1, got -1"),
        ({"max_attempts": 0}, "max_attempts: must be at least 1"),
        ({"breaker_failures": 0}, "breaker_failures: must be at least 1"),
        ({"timeout": 0}, "timeout: must be greater than 0, got 0s"),
        ({"max_elapsed": -1}, "max_elapsed: must be greater than 0, got -1s"),
        ({"batch_age": -0.1}, "batch_age: must be at least 0, got -0.1s"),
        ({"drain_timeout": math.nan}, "drain_timeout: must be at least 0, got nans"),
        ({"max_wait": -1}, "max_wait: must be at least 0, got -1s"),
        ({"block_timeout": 0}, "block_timeout: must be greater than 0, got 0s"),
        ({"backoff_initial": 10, "backoff_max": 5}, "backoff_max: must be at least backoff_initial"),
        ({"overflow": "explode"}, "overflow: must be one of block, drop_oldest, drop_newest, got 'explode'"),
        ({"overflow": Overflow.DISCONNECT}, "overflow: must be one of .*, got 'disconnect'"),
    ],
)
def test_a_number_out_of_range_is_named(wrong, says):
    with pytest.raises(ValueError, match=says):
        DeliveryPolicy(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"queue_size": 1.5}, {"timeout": "10"}, {"max_attempts": True}, {"timeout": None}]
)
def test_a_value_that_is_not_a_number_is_refused(wrong):
    with pytest.raises(TypeError, match=next(iter(wrong))):
        DeliveryPolicy(**wrong)


def test_an_overflow_may_be_named_by_its_value():
    assert DeliveryPolicy(overflow="drop_newest").overflow is Overflow.DROP_NEWEST  # type: ignore[arg-type]


def test_a_policy_cannot_be_changed():
    with pytest.raises(AttributeError):
        DeliveryPolicy().timeout = 1  # type: ignore[misc]


# Backoff and breaker, by themselves


@given(st.floats(0, 100), st.floats(0, 1_000), st.integers(1, 10_000), st.floats(0, 1))
def test_a_wait_is_never_longer_than_the_doubled_first_nor_than_the_most(initial, most, failures, chance):
    wait = backoff(initial, most, failures, lambda: chance)
    assert 0 <= wait <= most
    assert wait <= initial * 2.0 ** min(failures - 1, 60)


def test_waits_double_up_to_the_most_with_full_jitter():
    assert [backoff(0.5, 30, n, lambda: 1.0) for n in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff(0.5, 30, 4, lambda: 0.0) == 0
    assert len({backoff(0.5, 30, 4) for _ in range(50)}) > 25


@given(st.integers(1, 5), st.lists(st.tuples(st.sampled_from(["fail", "succeed"]), st.floats(0, 50))))
def test_a_breaker_is_open_exactly_while_the_last_failures_in_a_row_are_enough(threshold, story):
    breaker, now, in_a_row = Breaker(threshold, 30), 0.0, 0
    for happened, later in story:
        now += later
        if happened == "fail":
            breaker.fail(now)
            in_a_row += 1
        else:
            breaker.succeed()
            in_a_row = 0
        assert breaker.is_open == (in_a_row >= threshold)
        assert breaker.wait(now) == pytest.approx(30 if breaker.is_open else 0)
        assert breaker.wait(now + 31) == 0


# Batches


@in_time
async def test_a_batch_waits_for_its_age():
    sink = Scripted()
    async with Bench(sink, policy(batch_age=1.0)) as bench:
        await bench.publish(1)
        await bench.advance(0.6)
        await bench.publish(2)
        assert sink.attempts == []
        await bench.advance(0.5)  # the age of the oldest counts
        assert sink.attempts == [[1, 2]]


@in_time
async def test_a_full_batch_goes_at_once():
    sink = Scripted()
    async with Bench(sink, policy(batch_age=60, batch_size=3)) as bench:
        await bench.publish(1, 2)
        assert sink.attempts == []
        await bench.publish(3, 4)
        assert sink.attempts == [[1, 2, 3]]


@in_time
async def test_flush_sends_earlier_events_at_once():
    sink = Scripted()
    async with Bench(sink, policy(batch_age=60)) as bench:
        await bench.publish(1, 2)
        assert await bench.attachment.flush(1)
        assert sink.delivered == [1, 2]
        await bench.publish(3)  # and that was that: the next batch waits again
        assert sink.attempts == [[1, 2]]
        assert await bench.attachment.flush(1)
        assert await bench.attachment.flush(1)  # nothing to do


@in_time
async def test_a_batch_is_never_larger_than_the_queue():
    sink = Scripted()
    async with Bench(sink, policy(batch_age=60, queue_size=2, batch_size=512)) as bench:
        await bench.publish(1, 2)
        assert sink.attempts == [[1, 2]]


@in_time
async def test_without_an_age_each_event_goes_at_once():
    sink = Scripted()
    async with Bench(sink, policy(batch_age=0)) as bench:
        await bench.publish(1)
        assert sink.attempts == [[1]]


# Overflow


@pytest.mark.parametrize(
    ("overflow", "kept"), [(Overflow.DROP_OLDEST, [0, 3, 4]), (Overflow.DROP_NEWEST, [0, 1, 2])]
)
@in_time
async def test_a_full_queue_drops_by_its_policy_and_counts(overflow, kept):
    sink = Scripted(AWAY)
    async with Bench(sink, policy(queue_size=2, batch_size=1, overflow=overflow)) as bench:
        await bench.publish(0)  # in flight, and to be sent again
        await bench.publish(1, 2, 3, 4)
        assert bench.health.dropped == {"queue_full": 2}
        assert (bench.health.queued, bench.health.in_flight) == (2, 1)
        await bench.advance(1)
        assert sink.delivered == kept


@in_time
async def test_with_block_a_publisher_waits_for_room_and_nothing_is_dropped():
    sink = Scripted(AWAY)
    async with Bench(sink, policy(queue_size=2, batch_size=1, overflow=Overflow.BLOCK)) as bench:
        await bench.publish(0)
        publishing = asyncio.create_task(bench.publish(1, 2, 3, 4))
        await settle()
        assert not publishing.done()
        await bench.advance(1)
        await publishing
        assert sink.delivered == [0, 1, 2, 3, 4]
        assert bench.health.dropped == {}


@in_time
async def test_with_block_publish_nowait_drops_the_new_event():
    sink = Scripted(AWAY)
    async with Bench(sink, policy(queue_size=1, batch_size=1, overflow=Overflow.BLOCK)) as bench:
        await bench.publish(0, 1)
        bench.stream.publish_nowait(create_event(2))
        assert bench.health.dropped == {"queue_full": 1}


@in_time
async def test_with_block_and_a_timeout_a_publisher_waits_that_long_and_the_event_is_dropped_and_counted():
    sink = Scripted(HANG)
    rules = policy(queue_size=1, batch_size=1, timeout=60, overflow=Overflow.BLOCK, block_timeout=2)
    async with Bench(sink, rules) as bench:
        await bench.publish(0, 1)
        publishing = asyncio.create_task(bench.publish(2))
        await settle()
        await bench.advance(1.9)
        assert not publishing.done()
        await bench.advance(0.2)
        await publishing
        assert bench.health.dropped == {"queue_full": 1}
        assert (bench.health.queued, bench.health.in_flight) == (1, 1)


@in_time
async def test_with_block_and_a_timeout_an_event_that_gets_room_in_time_is_delivered():
    sink = Scripted(AWAY)
    rules = policy(queue_size=1, batch_size=1, overflow=Overflow.BLOCK, block_timeout=2)
    async with Bench(sink, rules) as bench:
        await bench.publish(0, 1)
        publishing = asyncio.create_task(bench.publish(2))
        await settle()
        await bench.advance(1)
        await publishing
        assert sink.delivered == [0, 1, 2]
        assert bench.health.dropped == {}


@in_time
async def test_with_block_tasks_that_a_sink_starts_wait_for_it_until_the_block_timeout():
    bench: Bench
    sent: list[Any] = []

    async def gather(events: Sequence[Event]) -> None:
        sent.extend(event.data for event in events)
        if events[0].data == 0:
            await asyncio.gather(*(bench.stream.publish(create_event(number)) for number in (1, 2)))

    sink = Sink.from_function(gather, name="gathering")
    rules = policy(queue_size=1, batch_size=1, overflow=Overflow.BLOCK, block_timeout=2)
    bench = Bench(sink, rules)
    async with bench:
        await bench.publish(0)
        assert sent == [0]
        await bench.advance(2)
        assert sent == [0, 1]
        assert bench.health.dropped == {"queue_full": 1}


@in_time
async def test_with_block_closing_lets_waiting_publishers_go_and_counts_them():
    sink = Scripted(HANG)
    bench = Bench(sink, policy(queue_size=1, batch_size=1, overflow=Overflow.BLOCK))
    await bench.attachment.start()
    await bench.publish(0, 1)
    publishing = asyncio.create_task(bench.publish(2))
    await settle()
    await bench.attachment.aclose(0)
    await publishing
    assert bench.report.dropped == {"closed": 1}
    assert bench.report.lost == 2


@in_time
async def test_with_block_a_sink_that_publishes_to_its_own_stream_does_not_wait_for_itself():
    bench: Bench

    async def echo(events: Sequence[Event]) -> None:
        for event in events:
            if event.data < 3:
                await bench.stream.publish(create_event(event.data + 10))
                await bench.stream.publish(create_event(event.data + 20))

    sink = Sink.from_function(echo, name="echo")
    bench = Bench(sink, policy(queue_size=1, batch_size=1, timeout=5, overflow=Overflow.BLOCK))
    async with bench:
        await bench.publish(0)
        await bench.advance(5)  # at the latest, the timeout ends it
        report = bench.report
        assert report.delivered + sum(report.dropped.values()) + report.lost >= 1


# Retries


@in_time
async def test_a_failed_batch_is_sent_again_with_doubling_waits_until_it_is_given_up():
    sink = Scripted(*[AWAY] * 10)
    letters = DeadLetters()
    async with Bench(
        sink, policy(max_attempts=4, backoff_initial=1, backoff_max=3), dead_letters=letters
    ) as bench:
        await bench.publish("a")
        for attempts, longest_wait in enumerate((1, 2, 3), 1):
            assert len(sink.attempts) >= attempts
            await bench.advance(longest_wait)
        assert sink.attempts == [["a"]] * 4
        assert (bench.health.dead, bench.health.retried) == (1, 3)
        [letter] = letters
        assert (letter.event.data, letter.attempts, letter.sink) == ("a", 4, sink.name)
        assert letter.reason == "OSError: the network is away"
        assert letter.first_attempt <= letter.died_at


@in_time
async def test_order_is_kept_over_retries():
    sink = Scripted(None, AWAY, AWAY)
    async with Bench(sink, policy(batch_size=2)) as bench:
        await bench.publish(*range(6))
        await bench.advance(1)
        await bench.advance(2)
        assert sink.delivered == list(range(6))


@in_time
async def test_retry_after_is_respected():
    sink = Scripted(RetryableError("busy", retry_after=77))
    async with Bench(sink, policy(backoff_initial=1, backoff_max=1)) as bench:
        await bench.publish("a")
        await bench.advance(76.9)
        assert len(sink.attempts) == 1
        await bench.advance(0.2)
        assert sink.delivered == ["a"]


@in_time
async def test_a_retry_after_beyond_max_elapsed_gives_the_events_up():
    sink = Scripted(RetryableError("busy", retry_after=301))
    async with Bench(sink, policy()) as bench:
        await bench.publish("a")
        assert (bench.health.dead, len(sink.attempts)) == (1, 1)


@in_time
async def test_after_max_elapsed_an_event_is_given_up():
    sink = Scripted(*[RetryableError(retry_after=10)] * 20)
    async with Bench(sink, policy(max_attempts=100, max_elapsed=35)) as bench:
        await bench.publish("a")
        for _ in range(10):
            await bench.advance(10)
        assert len(sink.attempts) == 4  # at 0, 10, 20 and 30 seconds
        assert bench.health.dead == 1


@pytest.mark.parametrize("retry_after", [-1, math.nan])
def test_a_wait_that_is_not_a_time_is_refused(retry_after):
    with pytest.raises(ValueError, match="retry_after"):
        RetryableError(retry_after=retry_after)


@in_time
async def test_a_permanent_error_gives_up_at_once_and_does_not_count_against_the_sink():
    sink = Scripted(*[PermanentError("no such channel")] * 3)
    async with Bench(sink, policy(batch_size=1, breaker_failures=2)) as bench:
        await bench.publish(1, 2, 3, 4)
        assert sink.delivered == [4]
        assert bench.health.dead == 3
        assert bench.health.state is SinkState.LOSING
        assert bench.health.last_error == "PermanentError: no such channel"


@in_time
async def test_after_a_partial_failure_only_the_named_events_are_sent_again():
    sink = Scripted(partly(lambda n: n % 2 == 1, RetryableError("odd")))
    async with Bench(sink, policy(batch_age=1)) as bench:
        await bench.publish(*range(5))
        await bench.advance(1)
        assert sink.delivered == [0, 2, 4]
        assert (bench.health.delivered, bench.health.in_flight) == (3, 2)
        await bench.advance(1)
        assert sink.attempts == [[0, 1, 2, 3, 4], [1, 3]]
        assert sorted(sink.delivered) == list(range(5))


@in_time
async def test_permanent_errors_of_a_partial_failure_give_up_at_once():
    sink = Scripted(
        lambda events: PartialDeliveryError(
            {events[0].id: PermanentError("malformed"), events[1].id: RetryableError("busy")}
        )
    )
    letters = DeadLetters()
    async with Bench(sink, policy(batch_age=1), dead_letters=letters) as bench:
        await bench.publish("a", "b", "c")
        await bench.advance(1)
        await bench.advance(1)
        assert [letter.event.data for letter in letters] == ["a"]
        assert sink.delivered == ["c", "b"]


@in_time
async def test_the_longest_wait_that_a_part_asks_for_is_waited():
    sink = Scripted(
        lambda events: PartialDeliveryError(
            {events[0].id: RetryableError(retry_after=5), events[1].id: RetryableError(retry_after=9)}
        )
    )
    async with Bench(sink, policy(batch_age=1)) as bench:
        await bench.publish("a", "b")
        await bench.advance(1)
        await bench.advance(8)
        assert len(sink.attempts) == 1
        await bench.advance(1)
        assert sink.delivered == ["a", "b"]


@in_time
async def test_the_same_event_twice_in_a_batch_is_counted_twice():
    sink = Scripted(lambda events: PartialDeliveryError({events[0].id: PermanentError("no")}))
    async with Bench(sink, policy(batch_age=1)) as bench:
        event = create_event("a")
        for _ in range(2):
            await bench.stream.publish(event)
        await bench.advance(1)
        assert bench.report.given_up == 2


@in_time
async def test_an_attempt_that_times_out_is_cancelled_and_repeated():
    sink = Scripted(HANG)
    async with Bench(sink, policy(timeout=10)) as bench:
        await bench.publish("a")
        await bench.advance(9.9)
        assert sink.cancelled == 0
        await bench.advance(0.1)
        assert sink.cancelled == 1
        assert bench.health.last_error == "TimeoutError: send() did not finish within 10s"
        assert bench.health.state is SinkState.RETRYING
        await bench.advance(1)
        assert sink.delivered == ["a"]
        assert bench.health.state is SinkState.OK


@in_time
async def test_a_sink_that_times_out_may_report_its_progress():
    class Slow(Scripted):
        async def send(self, events: Sequence[Event]) -> None:
            self.attempts.append([event.data for event in events])
            left = list(events)
            try:
                while left:
                    if left[0].data == "slow" and len(self.attempts) == 1:
                        await asyncio.Event().wait()
                    self.delivered.append(left.pop(0).data)
            except asyncio.CancelledError:
                raise PartialDeliveryError({e.id: RetryableError("cut off") for e in left}) from None

    sink = Slow()
    async with Bench(sink, policy(batch_age=1)) as bench:
        await bench.publish("quick", "slow", "last")
        await bench.advance(1)
        await bench.advance(10)
        await bench.advance(1)
        assert sink.attempts == [["quick", "slow", "last"], ["slow", "last"]]
        assert sink.delivered == ["quick", "slow", "last"]


@in_time
async def test_a_sink_that_ignores_its_cancellation_is_not_called_again_meanwhile():
    free = asyncio.Event()

    class Stubborn(Scripted):
        async def send(self, events: Sequence[Event]) -> None:
            self.attempts.append([event.data for event in events])
            while not free.is_set():
                try:
                    await free.wait()
                except asyncio.CancelledError:
                    self.cancelled += 1

    sink = Stubborn()
    async with Bench(sink, policy(batch_size=1)) as bench:
        await bench.publish("a", "b")
        await bench.advance(60)
        assert (sink.attempts, sink.cancelled) == ([["a"]], 1)
        assert bench.health.state is SinkState.RETRYING
        free.set()
        await settle()
        assert sink.attempts == [["a"], ["b"]]
        assert bench.report.delivered == 2


# The breaker


@in_time
async def test_failures_in_a_row_open_the_breaker_and_then_one_batch_is_tried():
    sink = Scripted(*[AWAY] * 3)
    async with Bench(
        sink, policy(batch_size=1, max_attempts=1, breaker_failures=3, breaker_reset=30)
    ) as bench:
        await bench.publish(0, 1, 2, 3, 4)
        assert sink.attempts == [[0], [1], [2]]
        assert bench.health.state is SinkState.OPEN
        await bench.advance(29.9)
        assert len(sink.attempts) == 3
        assert (bench.health.queued, bench.health.in_flight) == (2, 0)
        await bench.advance(0.1)
        assert sink.delivered == [3, 4]
        assert bench.health.state is SinkState.LOSING  # three were given up


@in_time
async def test_a_failure_of_that_one_batch_opens_it_again():
    sink = Scripted(*[AWAY] * 4)
    async with Bench(
        sink, policy(batch_size=1, max_attempts=1, breaker_failures=3, breaker_reset=30)
    ) as bench:
        await bench.publish(*range(6))
        await bench.advance(30)
        assert len(sink.attempts) == 4
        assert bench.health.state is SinkState.OPEN
        await bench.advance(29)
        assert len(sink.attempts) == 4
        await bench.advance(1)
        assert sink.delivered == [4, 5]


@in_time
async def test_a_batch_that_is_being_tried_waits_while_the_breaker_is_open():
    sink = Scripted(*[AWAY] * 2)
    async with Bench(sink, policy(max_attempts=5, breaker_failures=2, breaker_reset=30)) as bench:
        await bench.publish("a")
        await bench.advance(1)
        assert len(sink.attempts) == 2
        await bench.advance(29)
        assert len(sink.attempts) == 2
        await bench.advance(1)
        assert sink.delivered == ["a"]


@in_time
async def test_while_the_breaker_is_open_the_queue_stays_bounded_and_counts():
    sink = Scripted(*[AWAY] * 2)
    async with Bench(sink, policy(queue_size=3, batch_size=3, max_attempts=1, breaker_failures=1)) as bench:
        await bench.publish("first")
        await bench.publish(*range(10))
        assert bench.health.queued == 3
        assert bench.health.dropped == {"queue_full": 7}


@in_time
async def test_a_success_resets_the_count_of_failures():
    sink = Scripted(AWAY, AWAY, None, AWAY, AWAY, None)
    async with Bench(sink, policy(batch_size=1, max_attempts=1, breaker_failures=3)) as bench:
        await bench.publish(*range(6))
        assert len(sink.attempts) == 6


# Flush


@in_time
async def test_flush_returns_false_when_its_timeout_is_over():
    sink = Scripted(HANG)
    async with Bench(sink, policy()) as bench:
        await bench.publish("a")
        flushing = asyncio.create_task(bench.attachment.flush(3))
        await settle()
        await bench.advance(2.9)
        assert not flushing.done()
        await bench.advance(0.1)
        assert await flushing is False


@in_time
async def test_flush_waits_for_retries_and_is_done_when_they_are_given_up():
    sink = Scripted(AWAY, AWAY)
    async with Bench(sink, policy(max_attempts=2)) as bench:
        await bench.publish("a")
        flushing = asyncio.create_task(bench.attachment.flush())
        await settle()
        assert not flushing.done()
        await bench.advance(1)
        assert await flushing is True
        assert bench.health.dead == 1


@in_time
async def test_flush_does_not_wait_for_later_events():
    sink = Scripted(AWAY, None, HANG)
    async with Bench(sink, policy(batch_size=1)) as bench:
        await bench.publish("before")
        flushing = asyncio.create_task(bench.attachment.flush())
        await settle()
        await bench.publish("later")
        await bench.advance(1)
        assert await flushing is True
        assert sink.delivered == ["before"]


@in_time
async def test_flush_is_not_fooled_by_newer_events_that_push_older_ones_out():
    sink = Scripted(AWAY)
    async with Bench(sink, policy(queue_size=2, batch_size=1)) as bench:
        await bench.publish("in flight")
        await bench.publish(1, 2)
        flushing = asyncio.create_task(bench.attachment.flush())
        await settle()
        await bench.publish(3, 4, 5, 6)  # 1 and 2 are gone, but what is in flight is not
        assert not flushing.done()
        await bench.advance(1)
        assert await flushing is True
        assert sink.delivered[0] == "in flight"


@in_time
async def test_a_cancelled_flush_leaves_the_delivery_alone():
    sink = Scripted(AWAY)
    async with Bench(sink, policy()) as bench:
        await bench.publish("a")
        flushing = asyncio.create_task(bench.attachment.flush())
        await settle()
        flushing.cancel()
        await settle()
        assert flushing.cancelled()
        await bench.advance(1)
        assert sink.delivered == ["a"]


# The end


@in_time
async def test_the_drain_keeps_trying_within_its_deadline():
    sink = Scripted(AWAY)
    bench = Bench(sink, policy(batch_age=60, backoff_initial=1))
    await bench.attachment.start()
    await bench.publish("a")
    closing = asyncio.create_task(bench.attachment.aclose(5))
    await settle()
    await bench.advance(1)
    report = await closing
    assert report.sinks[sink.name].delivered == 1
    assert sink.calls == ["open", "close"]


@in_time
async def test_a_wait_between_attempts_is_ended_by_the_drain():
    sink = Scripted(AWAY)
    bench = Bench(sink, policy(backoff_initial=60, backoff_max=60, max_elapsed=600))
    await bench.attachment.start()
    await bench.publish("a")
    report = await bench.attachment.aclose(5)  # the clock stands still
    assert report.sinks[sink.name].delivered == 1


@in_time
async def test_a_retry_after_beyond_the_drain_timeout_ends_the_drain_at_once():
    sink = Scripted(RetryableError("busy", retry_after=20))
    bench = Bench(sink, policy())
    await bench.attachment.start()
    await bench.publish("a")
    report = await bench.attachment.aclose(5)  # the clock stands still: it ends at once
    assert len(sink.attempts) == 1
    assert report.sinks[sink.name].lost == 1


@in_time
async def test_a_retry_after_within_the_drain_timeout_is_respected_in_the_drain():
    sink = Scripted(RetryableError("busy", retry_after=4))
    bench = Bench(sink, policy())
    await bench.attachment.start()
    await bench.publish("a")
    closing = asyncio.create_task(bench.attachment.aclose(5))
    await settle()
    assert len(sink.attempts) == 1
    await bench.advance(4)
    assert (await closing).sinks[sink.name].delivered == 1


@in_time
async def test_an_open_breaker_lets_one_last_attempt_through_in_the_drain():
    sink = Scripted(AWAY)
    bench = Bench(sink, policy(batch_size=1, max_attempts=1, breaker_failures=1))
    await bench.attachment.start()
    await bench.publish(1, 2, 3)
    report = await bench.attachment.aclose(5)
    assert sink.delivered == [2, 3]
    assert report.sinks[sink.name].given_up == 1


@in_time
async def test_and_ends_at_once_where_that_fails_too():
    sink = Scripted(AWAY, AWAY)
    bench = Bench(sink, policy(batch_size=1, max_attempts=1, breaker_failures=1))
    await bench.attachment.start()
    await bench.publish(1, 2, 3)
    report = await bench.attachment.aclose(5)  # the clock stands still
    assert report.sinks[sink.name].lost == 1
    assert report.sinks[sink.name].given_up == 2


@in_time
async def test_at_the_deadline_a_hanging_sink_is_cut_off_and_the_rest_is_lost():
    sink = Scripted(HANG)
    bench = Bench(sink, policy(batch_size=1, timeout=60))
    await bench.attachment.start()
    await bench.publish(1, 2, 3)
    closing = asyncio.create_task(bench.attachment.aclose())
    await settle()
    await bench.advance(4.9)
    assert not closing.done()
    await bench.advance(0.1)
    report = (await closing).sinks[sink.name]
    assert (report.delivered, report.given_up, report.lost) == (0, 0, 3)
    assert sink.cancelled == 1
    assert sink.calls[-1] == "close"


@in_time
async def test_each_sink_drains_as_long_as_its_own_policy_says():
    slow, quick = Scripted(HANG), Scripted(HANG)
    stream, clock = InMemoryStream(), FakeClock()
    attachment = attach(
        stream,
        Binding(slow, policy=policy(drain_timeout=20, timeout=60)),
        Binding(quick, policy=policy(drain_timeout=1, timeout=60)),
        clock=clock,
    )
    await attachment.start()
    await stream.publish(create_event(1))
    await settle()
    closing = asyncio.create_task(attachment.aclose())
    await settle()
    clock.advance(1)
    await settle()
    assert (quick.cancelled, slow.cancelled) == (1, 0)
    clock.advance(19)
    await closing
    assert slow.cancelled == 1


@in_time
async def test_a_sink_that_does_not_open_in_time_is_an_error_that_names_it():
    class NeverOpens(Scripted):
        async def open(self) -> None:
            await asyncio.Event().wait()

    sink = NeverOpens()
    with pytest.raises(Exception, match=r"open\(\) did not finish within 0.01s"):
        await attach(InMemoryStream(), sink, policy=policy(timeout=0.01)).start()


async def run_and_cancel_after(
    steps: int, body: Callable[[Attachment, InMemoryStream], Awaitable[None]]
) -> bool:
    """Run a life of an attachment, cancel it after so many steps of the loop, and check the balance."""
    stream, clock = InMemoryStream(), FakeClock()
    sink = Scripted(None, AWAY, partly(lambda n: n == 4, RetryableError()), None, PermanentError("no"))
    inline = Counting()
    letters = DeadLetters()
    attachment = attach(stream, sink, inline, policy=policy(batch_size=2), clock=clock, dead_letters=letters)
    published = 0

    async def life() -> None:
        nonlocal published
        async with attachment:
            for number in range(9):
                await stream.publish(create_event(number))
                published += 1
                clock.advance(0.5)
                await asyncio.sleep(0)
            await body(attachment, stream)

    task = asyncio.create_task(life())
    for _ in range(steps):
        await asyncio.sleep(0)
        clock.advance(0.05)
    finished = task.done()
    task.cancel()
    for _ in range(300):
        await asyncio.sleep(0)
        clock.advance(0.5)
        if task.done():
            break
    assert task.done()
    report = attachment.report().sinks[sink.name]
    assert report.delivered + report.given_up + sum(report.dropped.values()) + report.lost == published
    assert report.delivered == len(sink.delivered)
    assert report.given_up == len(letters)
    assert sink.calls in ([], ["open", "close"])
    assert inline.seen == published
    assert stream.statistics().subscribers == (0 if steps else 2)  # at first, `life` has not begun
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [other for other in others if other.get_name().startswith("sink ")]
    return finished


class Counting(InlineSink):
    def __init__(self) -> None:
        self.name = f"counting-{next(_numbers)}"
        self.seen = 0

    def emit(self, event: Event) -> None:
        self.seen += 1


async def flush(attachment: Attachment, _: InMemoryStream) -> None:
    await attachment.flush(5)


async def add_and_remove(attachment: Attachment, stream: InMemoryStream) -> None:
    other = Scripted(AWAY)
    await attachment.add(Binding(other, policy=policy()))
    await stream.publish(create_event("other"))  # not counted: its numbers are its own
    await attachment.remove(other, 3)


async def replay(attachment: Attachment, _: InMemoryStream) -> None:
    await attachment.flush()
    await attachment.flush()


@pytest.mark.parametrize("body", [flush, replay])
async def test_cancelled_at_any_step_it_ends_closes_and_accounts_for_every_event(body):
    async with asyncio.timeout(60):
        steps = 0
        while not await run_and_cancel_after(steps, body):
            steps += 1
            assert steps < 500
        assert steps > 20


# Faults together


@settings(deadline=None)
@given(st.integers(0, 2**32))
async def test_under_random_faults_and_concurrent_publishers_every_event_is_accounted_for(seed):  # noqa: C901
    chance = random.Random(seed)
    seen: dict[str, int] = {}
    delivered: dict[str, int] = {}

    class Moody(Sink):
        name = "moody"

        async def send(self, events: Sequence[Event]) -> None:
            for event in events:
                seen[event.id] = seen.get(event.id, 0) + 1
            mood = chance.randrange(8)
            if mood == 0:
                raise RetryableError(retry_after=chance.choice([None, 0, 2.5]))
            if mood == 1:
                raise PermanentError("never")
            if mood == 2:
                await asyncio.Event().wait()
            if mood == 3:
                raise ValueError("a bug")
            failed: dict[str, Exception] = {}
            for event in events:
                if mood == 4 and chance.random() < 0.5:
                    failed[event.id] = chance.choice([RetryableError("later"), PermanentError("never")])
                else:
                    delivered[event.id] = delivered.get(event.id, 0) + 1
            if mood == 5:
                raise OSError("the answer got lost")  # delivered, and not known to be
            if failed:
                raise PartialDeliveryError(failed)
            await asyncio.sleep(0)

    stream, clock, letters = InMemoryStream(), FakeClock(), DeadLetters(10_000)
    rules = DeliveryPolicy(
        queue_size=chance.randrange(1, 30),
        overflow=chance.choice(["drop_oldest", "drop_newest", "block"]),
        batch_size=chance.randrange(1, 12),
        batch_age=chance.choice([0, 0.5]),
        timeout=3,
        max_attempts=chance.randrange(1, 4),
        backoff_initial=0.5,
        breaker_failures=chance.randrange(1, 4),
        breaker_reset=2,
        max_elapsed=20,
    )
    attachment = attach(stream, Moody(), policy=rules, clock=clock, dead_letters=letters)
    await attachment.start()
    published = 0

    async def publisher() -> None:
        nonlocal published
        for number in range(40):
            published += 1
            await stream.publish(create_event(number))
            if chance.random() < 0.3:
                await asyncio.sleep(0)

    green_after_a_loss: list[SinkHealth] = []

    async def move_time() -> None:
        while True:
            await asyncio.sleep(0)
            clock.advance(0.1)
            health = attachment.health()["moody"]
            if health.state is SinkState.OK and (health.dead or health.dropped or health.last_loss):
                green_after_a_loss.append(health)

    mover = asyncio.create_task(move_time())
    async with asyncio.timeout(20):
        await asyncio.gather(*(publisher() for _ in range(4)))
        if chance.random() < 0.5:
            await attachment.flush(1)
        report = (await attachment.aclose(chance.choice([0.0, 1.0, 100.0]))).sinks["moody"]
    mover.cancel()
    assert green_after_a_loss == []
    assert published == 160
    assert report.delivered + report.given_up + sum(report.dropped.values()) + report.lost == published
    assert report.given_up == len(letters)
    twice = {event_id for event_id, times in delivered.items() if times > 1}
    assert all(seen[event_id] > 1 for event_id in twice)
    assert report.delivered <= len(delivered)
    assert len(delivered) <= published


# What a review found


class ForgetfulError(RetryableError):
    """A subclass that does not call the constructor above."""

    def __init__(self, code: int) -> None:
        self.code = code


class OddError(RetryableError):
    retry_after: Any = None

    def __init__(self, asked: Any) -> None:
        super().__init__("odd")
        self.retry_after = asked


@pytest.mark.parametrize(
    "error",
    [ForgetfulError(429), OddError("soon"), OddError(-1), OddError(math.nan), SystemExit(3)],
    ids=["forgetful", "text", "negative", "nan", "exit"],
)
@in_time
async def test_an_odd_error_is_a_failure_like_others_and_the_delivery_continues(error):
    sink = Scripted(error)
    async with Bench(sink, policy()) as bench:
        await bench.publish("a")
        await bench.advance(1)
        await bench.publish("b")
        assert sink.delivered == ["a", "b"]


@in_time
async def test_a_retry_after_that_overflows_a_float_gives_the_events_up():
    sink = Scripted(OddError(int("9" * 400)))
    async with Bench(sink, policy()) as bench:
        await bench.publish("a")
        assert bench.health.dead == 1


@in_time
async def test_retry_after_applies_to_the_next_batch_as_well():
    sink = Scripted(RetryableError(retry_after=400))
    async with Bench(sink, policy(batch_size=1)) as bench:
        await bench.publish("too late", "later")
        assert (bench.health.dead, len(sink.attempts)) == (1, 1)
        await bench.advance(399)
        assert len(sink.attempts) == 1
        await bench.advance(1)
        assert sink.delivered == ["later"]


@in_time
async def test_a_sink_that_fills_its_own_blocking_queue_does_not_wait_for_itself_at_all():
    bench: Bench
    sent: list[Any] = []

    async def echo(events: Sequence[Event]) -> None:
        for event in events:
            sent.append(event.data)
            if event.data == 0:
                for number in range(1, 5):
                    await bench.stream.publish(create_event(number))

    sink = Sink.from_function(echo, name="filling")
    bench = Bench(sink, policy(queue_size=1, batch_size=1, overflow=Overflow.BLOCK))
    async with bench:
        await bench.publish(0)  # the clock stands still: nothing timed out
        assert sent == [0, 1]
        assert bench.report.dropped == {"queue_full": 3}


@in_time
async def test_refused_events_are_accounted_for_at_every_moment():
    sums: list[int] = []
    sink = Scripted(partly(lambda n: n == 1, PermanentError("no")))
    async with Bench(sink, policy(batch_age=1)) as bench:

        def observe(*_: object) -> None:
            report = bench.report
            sums.append(report.delivered + report.given_up + report.lost)

        bench.attachment.on_attempt(observe)
        await bench.publish(1, 2, 3)
        await bench.advance(1)
    assert sums == [3]


@in_time
async def test_dead_letters_that_raise_do_not_affect_the_delivery():
    class Full(DeadLetters):
        def put(self, letter: object) -> None:
            raise OSError("disk full")

    sink = Scripted(PermanentError("no"))
    async with Bench(sink, policy(batch_size=1), dead_letters=Full()) as bench:
        await bench.publish(1, 2)
        assert sink.delivered == [2]
        assert bench.health.dead == 1


@in_time
async def test_dead_letters_remain_when_the_attachment_is_closed():
    sink, letters = Scripted(PermanentError("no")), DeadLetters()
    async with Bench(sink, policy(), dead_letters=letters) as bench:
        await bench.publish(1)
        await bench.attachment.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await bench.attachment.replay(letters)
    assert len(letters) == 1


@in_time
async def test_a_sink_removed_while_it_is_opened_is_closed_again():
    opening = asyncio.Event()

    class Slow(Scripted):
        async def open(self) -> None:
            await super().open()
            await opening.wait()

    sink, stream = Slow(), InMemoryStream()
    async with attach(stream, clock=FakeClock()) as attachment:
        adding = asyncio.create_task(attachment.add(sink))
        await settle()
        await attachment.remove(sink)
        opening.set()
        with pytest.raises(RuntimeError, match="removed while"):
            await adding
        assert sink.calls == ["open", "close"]
        assert stream.statistics().subscribers == 0
        await attachment.add(Scripted(name=sink.name))  # the name is free again


@in_time
async def test_another_sink_with_the_same_name_is_not_removed():
    attached, stranger = Scripted(name="archive"), Scripted(name="archive")
    async with attach(InMemoryStream(), attached, clock=FakeClock()) as attachment:
        with pytest.raises(KeyError, match="another sink"):
            await attachment.remove(stranger)
        assert "archive" in attachment.health()


@pytest.mark.parametrize("method", ["open", "close"])
def test_a_sink_whose_open_or_close_is_not_async_is_refused(method):
    kind = type("Odd", (Scripted,), {method: lambda self: None})
    with pytest.raises(TypeError, match=rf"Odd.{method}: must be async"):
        attach(InMemoryStream(), kind())


@pytest.mark.parametrize("name", [None, 5, ""])
def test_a_sink_needs_a_name(name):
    sink = Scripted()
    sink.name = name
    with pytest.raises(TypeError, match=r"Scripted\.name: must be a non-empty string"):
        attach(InMemoryStream(), sink)


def test_an_attachment_whose_loop_has_ended_can_still_be_closed():
    stream, sink = InMemoryStream(), Scripted(HANG)
    attachment = attach(stream, sink, policy=policy(batch_size=1))

    async def begin() -> None:
        await attachment.start()
        for number in range(3):
            await stream.publish(create_event(number))
        await settle()

    asyncio.run(begin())
    report = asyncio.run(attachment.aclose()).sinks[sink.name]
    assert report.lost == 3
    assert sink.calls == ["open", "close"]


@in_time
async def test_an_inline_sink_that_is_interrupted_has_not_delivered():
    class Interrupted(InlineSink):
        name = "interrupted"

        def emit(self, event: Event) -> None:
            raise KeyboardInterrupt

    stream = InMemoryStream()
    async with attach(stream, Interrupted()) as attachment:
        with pytest.raises(KeyboardInterrupt):
            await stream.publish(create_event(1))
        report = attachment.report().sinks["interrupted"]
        assert (report.delivered, report.dropped) == (0, {"interrupted": 1})


@in_time
async def test_a_reason_that_was_forgotten_is_the_name_of_the_error():
    class LeftOutError(DroppedError):
        def __init__(self) -> None:
            """Forget to call the one above."""

    class Leaves(InlineSink):
        name = "leaves"

        def emit(self, event: Event) -> None:
            raise LeftOutError

    stream = InMemoryStream()
    async with attach(stream, Leaves()) as attachment:
        await stream.publish(create_event(1))
        assert attachment.report().sinks["leaves"].dropped == {"LeftOutError": 1}
