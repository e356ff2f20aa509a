"""Health, dead letters, hooks, and adding and removing sinks."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from codomyrmex.integrations import (
    Binding,
    DeadLetter,
    DeadLetters,
    DeliveryPolicy,
    InlineSink,
    PermanentError,
    RetryableError,
    Sink,
    SinkState,
    attach,
)
from codomyrmex.streaming import Event, EventType, InMemoryStream, SSEStream, TopicStream, create_event
from codomyrmex.streaming.testing import FakeClock, collect
from helpers import in_time, settle

_numbers = count()

NOW = DeliveryPolicy(batch_age=0, max_attempts=1, breaker_failures=100)
SECRET = "https://user:hunter2@hooks.example.org/x?token=abcdef"


class Picky(Sink):
    """Takes what `refuses` does not name an error for."""

    def __init__(
        self, refuses: Callable[[Any], Exception | None] = lambda _: None, name: str | None = None
    ) -> None:
        self.name = name or f"picky-{next(_numbers)}"
        self.refuses = refuses
        self.taken: list[Any] = []
        self.calls: list[str] = []

    async def open(self) -> None:
        self.calls.append("open")

    async def send(self, events: Sequence[Event]) -> None:
        for event in events:
            error = self.refuses(event.data)
            if error is not None:
                raise error
        self.taken += [event.data for event in events]

    async def close(self) -> None:
        self.calls.append("close")


def always(error: Exception) -> Callable[[Any], Exception]:
    return lambda _: error


async def publish(stream: Any, *values: Any, **metadata: Any) -> None:
    for value in values:
        await stream.publish(create_event(value, **metadata))
    await settle()


# Health


@in_time
async def test_the_health_of_a_working_sink():
    stream, clock, sink = InMemoryStream(), FakeClock(), Picky()
    async with attach(stream, sink, policy=DeliveryPolicy(batch_age=1), clock=clock) as attachment:
        before = attachment.health()[sink.name]
        assert (before.state, before.last_error, before.last_success) == (SinkState.OK, None, None)
        assert (before.capacity, before.oldest_age) == (2_048, 0)
        await publish(stream, 1, 2)
        clock.advance(0.75)
        waiting = attachment.health()[sink.name]
        assert (waiting.queued, waiting.in_flight, waiting.oldest_age) == (2, 0, 0.75)
        clock.advance(0.25)
        await settle()
        after = attachment.health()[sink.name]
        assert (after.queued, after.delivered, after.oldest_age) == (0, 2, 0)
        assert after.last_success is not None
        assert abs(after.last_success - datetime.now(UTC)).total_seconds() < 60
    assert attachment.health()[sink.name].state is SinkState.CLOSED


@in_time
async def test_the_health_of_a_failing_sink_has_the_error_and_the_age():
    stream, clock = InMemoryStream(), FakeClock()
    sink = Picky(always(OSError(f"cannot reach {SECRET}")))
    rules = DeliveryPolicy(batch_age=0, breaker_failures=2, backoff_initial=1, backoff_max=1)
    async with attach(stream, sink, policy=rules, clock=clock) as attachment:
        await publish(stream, 1)
        health = attachment.health()[sink.name]
        assert (health.state, health.in_flight) == (SinkState.RETRYING, 1)
        clock.advance(1)
        await settle()
        health = attachment.health()[sink.name]
        assert (health.state, health.retried, health.oldest_age) == (SinkState.OPEN, 1, 1)
        assert (
            health.last_error
            == "OSError: cannot reach https://[redacted]@hooks.example.org/x?token=[redacted]"
        )
        await attachment.aclose(0)


@in_time
async def test_an_error_is_shortened_and_kept_to_one_line():
    stream, sink = InMemoryStream(), Picky(always(ValueError("x\n" * 5_000)))
    async with attach(stream, sink, policy=NOW) as attachment:
        await publish(stream, 1)
        error = attachment.health()[sink.name].last_error
        assert error is not None
        assert len(error) < 400
        assert "\n" not in error


@in_time
async def test_an_error_whose_message_raises_is_reported_nevertheless():
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise ValueError("no")

    stream, sink = InMemoryStream(), Picky(always(BrokenError()))
    async with attach(stream, sink, policy=NOW) as attachment:
        await publish(stream, 1)
        assert attachment.health()[sink.name].last_error == "BrokenError: <its message raised ValueError>"


@in_time
async def test_an_inline_sink_has_a_health_too():
    class Odd(InlineSink):
        name = f"odd-{next(_numbers)}"

        def emit(self, event: Event) -> None:
            if event.data % 2 == 0:
                raise ValueError(f"even, {SECRET}")

    stream, sink = InMemoryStream(), Odd()
    async with attach(stream, sink) as attachment:
        await publish(stream, 1, 2, 3)
        health = attachment.health()[sink.name]
        assert (health.state, health.delivered, health.dead) == (SinkState.LOSING, 2, 1)
        assert (
            health.last_error == "ValueError: even, https://[redacted]@hooks.example.org/x?token=[redacted]"
        )
        assert health.last_success is not None
    assert attachment.health()[sink.name].state is SinkState.CLOSED


@in_time
async def test_no_secret_of_an_error_reaches_a_log(caplog):
    caplog.set_level(logging.DEBUG)

    class Fails(InlineSink):
        name = f"fails-{next(_numbers)}"

        def emit(self, event: Event) -> None:
            raise ValueError(SECRET)

    stream = InMemoryStream()
    sinks = [Picky(always(kind(SECRET))) for kind in (ValueError, OSError, PermanentError, RetryableError)]
    async with attach(stream, Fails(), *sinks, policy=NOW):
        await publish(stream, 1)
    text = "\n".join(logging.Formatter().format(record) for record in caplog.records)
    assert "hunter2" not in text
    assert "abcdef" not in text
    assert text.count("[redacted]") >= 10
    assert "Traceback" in text  # of the ValueErrors, which may be bugs


# Changes of state as events


@in_time
async def test_changes_of_state_are_events_of_their_own_kind():
    stream, healthy, clock = InMemoryStream(), InMemoryStream(), FakeClock()
    away = True
    sink = Picky(lambda _: OSError("away") if away else None, name="ops.chat 1")
    rules = DeliveryPolicy(batch_age=0, breaker_failures=2, backoff_initial=1, backoff_max=1)
    async with attach(stream, sink, policy=rules, clock=clock, health_stream=healthy):
        with collect(healthy) as told:
            await publish(stream, 1)
            clock.advance(1)
            await settle()
            away = False
            clock.advance(30)
            await settle()
        assert [(event.type, event.topic) for event in told] == [
            (EventType.ERROR, "sink.ops_chat_1.retrying"),
            (EventType.ERROR, "sink.ops_chat_1.open"),
            (EventType.MESSAGE, "sink.ops_chat_1.ok"),
        ]
        assert told[1].data["last_error"] == "OSError: away"
        assert (told[2].data["from_state"], told[2].data["to_state"]) == ("open", "ok")
        assert told[0].metadata["sink"] == "ops.chat 1"
    assert healthy.get_recent_events(1)[0].topic == "sink.ops_chat_1.closed"
    assert healthy.get_recent_events(1)[0].type is EventType.MESSAGE


@in_time
async def test_a_sink_that_closes_with_a_loss_is_worse_than_before():
    stream, healthy = InMemoryStream(), InMemoryStream()
    sink = Picky(always(PermanentError("no")))
    async with attach(stream, sink, policy=NOW, health_stream=healthy):
        await publish(stream, 1)
    losing, closed = healthy.get_recent_events()
    assert (losing.type, losing.data["to_state"]) == (EventType.ERROR, "losing")
    assert (closed.type, closed.data["to_state"]) == (EventType.ERROR, "closed")


@in_time
async def test_no_sink_receives_events_about_itself_but_others_do():
    stream = InMemoryStream()
    failing, well = Picky(always(OSError("away"))), Picky()
    async with attach(stream, failing, well, policy=NOW, health_stream=stream) as attachment:
        await publish(stream, {"order": 1}, topic="orders")
        topics = [event.topic for event in stream.get_recent_events()]
        assert f"sink.{failing.name}.retrying" in topics
        assert any(isinstance(data, dict) and data.get("sink") == failing.name for data in well.taken)
        assert attachment.report().sinks[failing.name].dropped == {"about_itself": 1}
        assert attachment.report().sinks[failing.name].given_up == 1  # the order, and nothing about itself


@in_time
async def test_nor_does_it_over_another_stream_and_an_async_handler():
    stream, healthy = InMemoryStream(), InMemoryStream()
    failing = Picky(always(OSError("away")))

    async def back_again(event: Event) -> None:
        await stream.publish(event)

    await healthy.subscribe(back_again)
    async with attach(stream, failing, policy=NOW, health_stream=healthy) as attachment:
        await publish(stream, 1)
        assert attachment.report().sinks[failing.name].dropped == {"about_itself": 1}


@in_time
async def test_a_closed_health_stream_does_not_affect_the_delivery():
    stream, healthy = InMemoryStream(), InMemoryStream()
    await healthy.aclose()
    sink = Picky(lambda n: OSError("away") if n == 1 else None)
    async with attach(stream, sink, policy=NOW, health_stream=healthy):
        await publish(stream, 1)
        await publish(stream, 2)
    assert sink.taken == [2]


# Dead letters


@in_time
async def test_a_dead_letter_has_the_event_the_sink_the_reason_and_the_attempts():
    stream, letters = InMemoryStream(), DeadLetters()
    sink = Picky(always(PermanentError(f"refused by {SECRET}")))
    async with attach(stream, sink, policy=NOW, dead_letters=letters):
        await publish(stream, "a")
    [letter] = letters
    assert (letter.event.data, letter.sink, letter.attempts) == ("a", sink.name, 1)
    assert (
        letter.reason == "PermanentError: refused by https://[redacted]@hooks.example.org/x?token=[redacted]"
    )
    assert letter.first_attempt <= letter.died_at


def a_letter(number: int, sink: str = "archive") -> DeadLetter:
    now = datetime.now(UTC)
    return DeadLetter(create_event(number), sink, "OSError", 1, now, now)


def test_dead_letters_are_bounded_and_the_oldest_goes():
    letters = DeadLetters(max_size=3)
    for number in range(5):
        letters.put(a_letter(number))
    assert [letter.event.data for letter in letters] == [2, 3, 4]
    assert (len(letters), letters.evicted, bool(DeadLetters())) == (3, 2, True)


def test_dead_letters_can_be_removed_by_sink():
    letters = DeadLetters()
    for number, sink in enumerate("abab"):
        letters.put(a_letter(number, sink))
    assert [letter.event.data for letter in letters.get_all("a")] == [0, 2]
    assert [letter.event.data for letter in letters.get_all()] == [1, 3]
    assert len(letters) == 0


def test_a_size_below_one_is_refused():
    with pytest.raises(ValueError, match="max_size"):
        DeadLetters(0)


@in_time
async def test_a_stream_of_dead_letters_gets_an_error_event_for_each():
    stream, dead = InMemoryStream(), InMemoryStream()
    sink = Picky(lambda n: PermanentError("odd") if n % 2 else None)
    async with attach(stream, sink, policy=DeliveryPolicy(batch_age=0, batch_size=1), dead_letters=dead):
        await publish(stream, 1, 2, 3)
    events = dead.get_recent_events()
    assert [(event.type, event.topic, event.data["event"].data) for event in events] == [
        (EventType.ERROR, "dead_letter", 1),
        (EventType.ERROR, "dead_letter", 3),
    ]
    assert events[0].data["reason"] == "PermanentError: odd"
    assert events[0].metadata["sink"] == sink.name


@in_time
async def test_dead_letters_published_to_the_attached_stream_do_not_loop():
    stream = InMemoryStream()
    one, two = Picky(always(PermanentError("no"))), Picky(always(PermanentError("never")))
    async with attach(stream, one, two, policy=NOW, dead_letters=stream):
        await publish(stream, 1)
        for _ in range(50):
            await settle()
        # Each tells the other of one letter, and of that no letter is made.
        assert stream.statistics().published == 3


@in_time
async def test_replayed_dead_letters_are_delivered_and_removed():
    stream, letters, away = InMemoryStream(), DeadLetters(), True
    sink = Picky(lambda _: OSError("away") if away else None)
    async with attach(stream, sink, policy=NOW, dead_letters=letters) as attachment:
        await publish(stream, 1, 2)
        letters.put(a_letter(9, "a sink that is not here"))
        away = False
        assert await attachment.replay(letters) == 2
        assert await attachment.flush(1)
        assert sink.taken == [1, 2]
        assert [letter.event.data for letter in letters] == [9]
        assert attachment.report().sinks[sink.name].delivered == 2


@in_time
async def test_replayed_events_that_fail_again_become_dead_letters_again():
    stream, letters = InMemoryStream(), DeadLetters()
    sink = Picky(always(OSError("away")))
    async with attach(stream, sink, policy=NOW, dead_letters=letters) as attachment:
        await publish(stream, 1)
        assert await attachment.replay(letters) == 1
        assert await attachment.flush(1)
        assert [letter.event.data for letter in letters] == [1]


@pytest.mark.parametrize("kind", [InMemoryStream, TopicStream])
@in_time
async def test_letters_are_replayed_from_a_stream_that_keeps_them(kind):
    stream, dead, away = InMemoryStream(), kind(), True
    sink = Picky(lambda _: OSError("away") if away else None)
    async with attach(stream, sink, policy=NOW, dead_letters=dead) as attachment:
        await publish(stream, 1, 2)
        await dead.publish(create_event({"event": "something else"}, topic="dead_letter"))
        away = False
        assert await attachment.replay(dead) == 2
        assert await attachment.flush(1)
        assert sink.taken == [1, 2]


@in_time
async def test_more_dead_letters_can_be_replayed_than_the_queue_holds():
    sink = Picky(name="archive")
    async with attach(
        InMemoryStream(), sink, policy=DeliveryPolicy(queue_size=2, batch_age=60)
    ) as attachment:
        assert await attachment.replay(a_letter(number) for number in range(7)) == 7
        assert await attachment.flush(1)
        assert sink.taken == list(range(7))
        assert attachment.report().sinks["archive"].dropped == {}


@in_time
async def test_a_cancelled_replay_puts_back_the_letters_it_had_not_queued():
    hang, letters = asyncio.Event(), DeadLetters()

    async def send(_: Sequence[Event]) -> None:
        await hang.wait()

    sink = Sink.from_function(send, name="archive")
    async with attach(InMemoryStream(), sink, policy=DeliveryPolicy(queue_size=1, batch_age=0)) as attachment:
        for number in range(5):
            letters.put(a_letter(number))
        replaying = asyncio.create_task(attachment.replay(letters))
        await settle()
        replaying.cancel()
        await settle()
        queued = attachment.health()["archive"]
        assert [letter.event.data for letter in letters] == list(range(5))[queued.queued + queued.in_flight :]
        hang.set()


@in_time
async def test_a_stream_that_keeps_no_letters_cannot_be_replayed():
    async with attach(InMemoryStream()) as attachment:
        with pytest.raises(TypeError, match="SSEStream keeps no events"):
            await attachment.replay(SSEStream())


# Sinks that come and go


@in_time
async def test_a_sink_can_be_added_while_it_runs():
    stream, first, second = InMemoryStream(), Picky(), Picky()
    async with attach(stream, first, policy=NOW) as attachment:
        await publish(stream, 1)
        await attachment.add(second)
        await publish(stream, 2)
    assert (first.taken, second.taken) == ([1, 2], [2])
    assert second.calls == ["open", "close"]


@in_time
async def test_a_sink_added_before_the_beginning_begins_with_the_others():
    stream, sink = InMemoryStream(), Picky()
    attachment = attach(stream, policy=NOW)
    await attachment.add(sink)
    assert sink.calls == []
    async with attachment:
        await publish(stream, 1)
    assert sink.taken == [1]


@in_time
async def test_a_removed_sink_delivers_what_is_queued_and_stays_in_the_report():
    stream, first, second = InMemoryStream(), Picky(), Picky()
    async with attach(stream, first, second, policy=DeliveryPolicy(batch_age=60)) as attachment:
        await publish(stream, 1)
        assert (await attachment.remove(first)).delivered == 1
        assert first.calls == ["open", "close"]
        await publish(stream, 2)
        assert list(attachment.health()) == [second.name]
    assert (first.taken, second.taken) == ([1], [1, 2])
    assert attachment.report().sinks[first.name].delivered == 1


@in_time
async def test_a_name_that_was_removed_can_come_again_and_its_numbers_add_up():
    stream = InMemoryStream()
    async with attach(stream, Picky(name="archive"), policy=NOW) as attachment:
        await publish(stream, 1)
        await attachment.remove("archive")
        await attachment.add(Picky(always(PermanentError("full")), name="archive"))
        await publish(stream, 2, 3)
    report = attachment.report().sinks["archive"]
    assert (report.delivered, report.given_up) == (1, 2)


@in_time
async def test_an_unknown_name_cannot_be_removed_and_a_taken_one_not_added():
    sink = Picky(name="archive")
    async with attach(InMemoryStream(), sink) as attachment:
        with pytest.raises(KeyError, match="nothing"):
            await attachment.remove("nothing")
        with pytest.raises(ValueError, match="archive"):
            await attachment.add(Picky(name="archive"))
    with pytest.raises(RuntimeError, match="closed"):
        await attachment.add(Picky())


@in_time
async def test_a_sink_that_cannot_be_opened_is_not_added():
    class Closed(Picky):
        async def open(self) -> None:
            raise OSError("no")

    sink, stream = Closed(), InMemoryStream()
    async with attach(stream) as attachment:
        with pytest.raises(OSError, match="no"):
            await attachment.add(sink)
        assert sink.name not in attachment.health()
        await publish(stream, 1)


@in_time
async def test_an_attachment_closed_while_a_sink_opens_closes_that_sink_too():
    opening = asyncio.Event()

    class Slow(Picky):
        async def open(self) -> None:
            await super().open()
            await opening.wait()

    sink, stream = Slow(), InMemoryStream()
    attachment = attach(stream)
    await attachment.start()
    adding = asyncio.create_task(attachment.add(sink))
    await settle()
    await attachment.aclose()
    opening.set()
    with pytest.raises(RuntimeError, match="closed while"):
        await adding
    assert sink.calls == ["open", "close"]
    assert stream.statistics().subscribers == 0


@in_time
async def test_removing_and_closing_at_the_same_time_closes_the_sink_once():
    stream, sink = InMemoryStream(), Picky()
    attachment = attach(stream, sink, policy=NOW)
    await attachment.start()
    await publish(stream, 1)
    await asyncio.gather(attachment.remove(sink), attachment.aclose(), attachment.aclose())
    assert sink.calls == ["open", "close"]


# What one sink has of its own


@in_time
async def test_a_binding_sets_the_topic_filter_and_policy_of_a_sink():
    stream, all_orders, big_ones = InMemoryStream(), Picky(), Picky()
    attachment = attach(
        stream,
        Binding(all_orders, policy=NOW),
        Binding(big_ones, topic="orders.big", filter_fn=lambda event: event.data > 5, policy=NOW),
        topic="orders.>",
        policy=DeliveryPolicy(batch_age=3_600),
    )
    async with attachment:
        await publish(stream, 1, 10, topic="orders.big")
        await publish(stream, 2, topic="orders.small")
        await publish(stream, 3, topic="users")
        assert (all_orders.taken, big_ones.taken) == ([1, 10, 2], [10])


class Nothing(InlineSink):
    name = "nothing"

    def emit(self, event: Event) -> None:
        pass


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: attach(InMemoryStream(), Binding(Nothing(), policy=NOW)), "inline"),
        (
            lambda: attach(InMemoryStream(), Binding(Picky(), policy=3)),
            "policy: must be .*, got int",
        ),  # type: ignore[arg-type]
        (lambda: attach(InMemoryStream(), policy={}), "policy: must be DeliveryPolicy or None, got dict"),  # type: ignore[arg-type]
        (
            lambda: attach(InMemoryStream(), dead_letters=[]),
            "DeadLetters or Stream or None, got list",
        ),  # type: ignore[arg-type]
        (
            lambda: attach(InMemoryStream(), health_stream="x"),
            "health_stream: must be Stream",
        ),  # type: ignore[arg-type]
    ],
)
def test_options_of_the_wrong_type_are_refused(make, says):
    with pytest.raises(TypeError, match=says):
        make()


# Functions as sinks


@in_time
async def test_an_async_function_can_be_a_sink():
    taken: list[Any] = []

    async def keep(events: Sequence[Event]) -> None:
        taken.extend(event.data for event in events)

    stream = InMemoryStream()
    sinks = [
        Sink.from_function(keep, name="function"),
        Sink.from_function(functools.partial(keep), name="partial"),
    ]
    async with attach(stream, *sinks, policy=NOW):
        await publish(stream, 1)
    assert taken == [1, 1]


@pytest.mark.parametrize("thing", [print, lambda events: None, None, 3])
def test_from_function_refuses_anything_but_an_async_function(thing):
    with pytest.raises(TypeError, match="async def send"):
        Sink.from_function(thing, name="x")


@in_time
async def test_on_attempt_reports_each_attempt_and_an_error_of_it_does_not_matter():
    stream, clock, heard = InMemoryStream(), FakeClock(), []
    sink = Picky(lambda n: OSError("away") if n == 1 else None)
    async with attach(stream, sink, policy=NOW, clock=clock) as attachment:
        attachment.on_attempt(lambda *what: 1 / 0)
        attachment.on_attempt(lambda *what: heard.append(what))
        await publish(stream, 1)
        await publish(stream, 2)
    assert heard == [(sink.name, 0.0, "OSError"), (sink.name, 0.0, None)]


@in_time
async def test_a_worker_task_that_is_cancelled_from_outside_logs_the_loss(caplog):
    stream, sink = InMemoryStream(), Picky()
    attachment = attach(stream, sink, policy=DeliveryPolicy(batch_age=60))
    await attachment.start()
    await publish(stream, 1, 2)
    [worker] = [task for task in asyncio.all_tasks() if task.get_name() == f"sink {sink.name}"]
    worker.cancel()
    await settle()
    assert "2 events were not delivered" in caplog.text
    await attachment.aclose()
    assert attachment.report().sinks[sink.name].lost == 2


# Hooks around each send


@in_time
async def test_on_send_enters_a_context_around_each_send_in_the_task_that_sends():
    stream, clock = InMemoryStream(), FakeClock()
    calls: list[Any] = []
    current: ContextVar[str | None] = ContextVar("current", default=None)

    def refuse_first(n: Any) -> Exception | None:
        calls.append(current.get())
        return OSError("away") if n == 1 else None

    sink = Picky(refuse_first)

    def hook(label: str) -> Callable[..., Any]:
        @contextmanager
        def around(sink: Sink, events: Sequence[Event]) -> Iterator[None]:
            calls.append((label, sink.name, [event.data for event in events]))
            token = current.set(label)
            try:
                yield
            except OSError as error:
                calls.append((label, str(error)))
                raise
            finally:
                current.reset(token)

        return around

    async with attach(stream, sink, policy=NOW, clock=clock) as attachment:
        attachment.on_send(hook("outer"))
        attachment.on_send(hook("inner"))
        await publish(stream, 1)
        await publish(stream, 2)
    assert calls == [
        *[("outer", sink.name, [1]), ("inner", sink.name, [1]), "inner"],
        *[("inner", "away"), ("outer", "away")],
        *[("outer", sink.name, [2]), ("inner", sink.name, [2]), "inner"],
    ]


class Broken:
    """A context manager that raises when it is entered, or when it is left."""

    def __init__(self, at: str) -> None:
        self.at = at

    def __enter__(self) -> None:
        if self.at == "enter":
            raise ZeroDivisionError

    def __exit__(self, *_: object) -> bool:
        if self.at == "exit":
            raise ZeroDivisionError
        return True  # would suppress the sink's error


@in_time
@pytest.mark.parametrize("at", ["call", "enter", "exit", "nowhere"])
async def test_a_hook_that_raises_or_suppresses_changes_nothing_about_the_delivery(at, caplog):
    def hook(sink: Sink, events: Sequence[Event]) -> Broken:
        return Broken(at) if at != "call" else 1 / 0  # type: ignore[return-value]

    stream = InMemoryStream()
    sink = Picky(lambda n: PermanentError("no") if n == 1 else None)
    async with attach(stream, sink, policy=NOW) as attachment:
        attachment.on_send(hook)
        await publish(stream, 1)
        await publish(stream, 2)
        await attachment.flush()
        health = attachment.health()[sink.name]
    assert (health.delivered, health.dead) == (1, 1)
    assert sink.taken == [2]
