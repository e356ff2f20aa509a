"""`attach_pybreaker` with the real pybreaker: its state changes become events, and nothing else changes."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Any

import pybreaker
import pytest
from codomyrmex.integrations.service_mesh import PybreakerFeed, attach_pybreaker
from codomyrmex.streaming import Event, EventType, InMemoryStream, Overflow, create_event
from codomyrmex.streaming.testing import collect
from codomyrmex.streaming.topics import check_topic
from helpers import DEADLINE


class DownError(Exception):
    """The service is down."""


def fail() -> None:
    raise DownError


def work() -> str:
    return "done"


def a_breaker(name: Any = "orders", fail_max: int = 1) -> pybreaker.CircuitBreaker:
    return pybreaker.CircuitBreaker(fail_max=fail_max, reset_timeout=3_600, name=name)


def trip(breaker: pybreaker.CircuitBreaker) -> None:
    for _ in range(breaker.fail_max):
        with pytest.raises((DownError, pybreaker.CircuitBreakerError)):
            breaker.call(fail)


def changes(events: list[Event]) -> list[tuple[Any, Any]]:
    return [
        (event.data["from_state"], event.data["to_state"])
        for event in events
        if event.data["kind"] == "state_change"
    ]


# Published events


def test_a_breaker_that_opens_half_opens_and_closes_is_three_events():
    stream, breaker = InMemoryStream(), a_breaker(fail_max=3)
    attach_pybreaker(breaker, stream)
    with collect(stream) as events:
        trip(breaker)
        breaker.half_open()
        assert breaker.call(work) == "done"
    assert changes(events) == [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]
    assert [event.type for event in events] == [EventType.ERROR, EventType.MESSAGE, EventType.MESSAGE]
    assert {event.topic for event in events} == {"circuit_breaker.pybreaker.orders"}


def test_an_event_names_the_breaker_and_its_failures():
    stream, breaker = InMemoryStream(), a_breaker(fail_max=3)
    attach_pybreaker(breaker, stream)
    with collect(stream) as events:
        trip(breaker)
    expected = {
        "breaker": "orders",
        "kind": "state_change",
        "from_state": "closed",
        "to_state": "open",
        "native_state": "open",
        "failure_count": 3,
        "source": "pybreaker",
        "reason": "DownError",
    }
    assert expected.items() <= events[0].data.items()


def test_a_failure_while_half_open_opens_it_again():
    stream, breaker = InMemoryStream(), a_breaker()
    attach_pybreaker(breaker, stream)
    trip(breaker)
    with collect(stream) as events:
        breaker.half_open()
        with pytest.raises((DownError, pybreaker.CircuitBreakerError)):
            breaker.call(fail)
    assert changes(events) == [("open", "half_open"), ("half_open", "open")]


def test_a_breaker_half_opens_by_itself_after_its_timeout():
    stream = InMemoryStream()
    breaker = pybreaker.CircuitBreaker(fail_max=1, reset_timeout=0, name="quick")
    attach_pybreaker(breaker, stream)
    with collect(stream) as events:
        trip(breaker)
        breaker.call(work)
    assert changes(events) == [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]


def test_calls_that_change_nothing_publish_nothing():
    stream, breaker = InMemoryStream(), a_breaker(fail_max=3)
    attach_pybreaker(breaker, stream)
    with collect(stream) as events:
        breaker.call(work)
        with pytest.raises(DownError):
            breaker.call(fail)
        breaker.call(work)
    assert events == []


@pytest.mark.parametrize(
    ("name", "last_token"),
    [
        ("orders", "orders"),
        ("shop.orders", "shop_orders"),
        ("GET /orders/*", "GET_/orders/_"),
        ("a > b", "a_b"),
        ("a\nb", "a_b"),
        ("größe", "größe"),
        (None, "unnamed"),
        ("", "unnamed"),
    ],
    ids=repr,
)
def test_the_name_of_the_breaker_is_one_token_of_the_topic(name, last_token):
    stream, breaker = InMemoryStream(), a_breaker(name)
    attach_pybreaker(breaker, stream)
    with collect(stream, "circuit_breaker.pybreaker.*") as events:
        trip(breaker)
    assert [event.topic for event in events] == [f"circuit_breaker.pybreaker.{last_token}"]


@pytest.mark.parametrize("name", [".", "*", ">", " ", "...", "\x00", "a\x00b", 42, ("a", "b")], ids=repr)
def test_any_name_of_a_breaker_becomes_a_valid_topic(name):
    stream, breaker = InMemoryStream(), a_breaker(name)
    attach_pybreaker(breaker, stream)
    with collect(stream) as events:
        trip(breaker)
    assert changes(events) == [("closed", "open")]
    assert check_topic(events[0].topic) == events[0].topic
    assert str(events[0].topic).count(".") == 2


# Isolation


class BrokenStream(InMemoryStream):
    def publish_nowait(self, event: Event) -> None:
        raise RuntimeError("the stream is broken")


async def test_a_stream_that_raises_does_not_reach_the_guarded_call():
    closed = InMemoryStream()
    await closed.aclose()
    for stream in (BrokenStream(), closed):
        breaker = a_breaker(fail_max=2)
        attach_pybreaker(breaker, stream)
        with pytest.raises(DownError):
            breaker.call(fail)
        with pytest.raises(pybreaker.CircuitBreakerError):
            breaker.call(fail)
        breaker.half_open()
        assert breaker.call(work) == "done"
        assert breaker.current_state == "closed"


async def test_a_handler_that_raises_does_not_reach_the_guarded_call():
    stream, breaker = InMemoryStream(), a_breaker()

    def handler(event: Event) -> None:
        raise RuntimeError("handler")

    await stream.subscribe(handler)
    attach_pybreaker(breaker, stream)
    trip(breaker)
    breaker.half_open()
    assert breaker.call(work) == "done"
    assert stream.statistics().handler_errors == 4  # with the snapshot


async def test_a_full_queue_does_not_block_the_guarded_call():
    stream, breaker = InMemoryStream(), a_breaker()
    attach_pybreaker(breaker, stream)
    async with asyncio.timeout(DEADLINE), stream.listen(queue_size=1, overflow=Overflow.BLOCK):
        await stream.publish(create_event("full"))
        trip(breaker)
    assert breaker.current_state == "open"
    assert stream.statistics().dropped == 1


def test_a_handler_may_read_the_state_of_the_breaker():
    stream, breaker, states = InMemoryStream(), a_breaker(), []
    stream.subscribe_nowait(lambda event: states.append(breaker.current_state))
    attach_pybreaker(breaker, stream)
    trip(breaker)
    assert len(states) == 2  # the snapshot, and the change


def test_other_listeners_of_the_breaker_stay():
    class Mine(pybreaker.CircuitBreakerListener):
        states = 0

        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            self.states += 1

    mine, stream, breaker = Mine(), InMemoryStream(), a_breaker()
    breaker.add_listener(mine)
    feed = attach_pybreaker(breaker, stream)
    trip(breaker)
    feed.close()
    breaker.half_open()
    assert mine.states == 2
    assert breaker.listeners == (mine,)


# The end, threads and loops


def test_a_closed_feed_publishes_nothing():
    stream, breaker = InMemoryStream(), a_breaker()
    feed = attach_pybreaker(breaker, stream)
    assert isinstance(feed, PybreakerFeed)
    with collect(stream) as events:
        trip(breaker)
        feed.close()
        feed.close()
        breaker.half_open()
        breaker.call(work)
    assert changes(events) == [("closed", "open")]
    assert breaker.listeners == ()


def test_one_of_two_feeds_of_a_breaker_can_be_closed():
    first, second, breaker = InMemoryStream(), InMemoryStream(), a_breaker()
    feed = attach_pybreaker(breaker, first)
    attach_pybreaker(breaker, second)
    feed.close()
    trip(breaker)
    assert changes(first.get_recent_events()) == []
    assert changes(second.get_recent_events()) == [("closed", "open")]


def test_it_works_without_an_event_loop():
    stream, breaker = InMemoryStream(), a_breaker()
    attach_pybreaker(breaker, stream)
    trip(breaker)
    assert changes(stream.get_recent_events()) == [("closed", "open")]


async def test_changes_in_threads_reach_an_async_handler_on_its_loop():
    stream, got = InMemoryStream(), asyncio.Queue[tuple[int, Event]]()

    async def handler(event: Event) -> None:
        await got.put((threading.get_ident(), event))

    await stream.subscribe(handler)
    breakers = [a_breaker(f"b{number}") for number in range(4)]
    for breaker in breakers:
        attach_pybreaker(breaker, stream)
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*(asyncio.to_thread(trip, breaker) for breaker in breakers))
        arrived = [await got.get() for _ in breakers]
    assert {thread for thread, _ in arrived} == {threading.get_ident()}
    assert {event.data["breaker"] for _, event in arrived} == {"b0", "b1", "b2", "b3"}


def test_threads_that_share_a_breaker_publish_each_change_once():
    stream, breaker = InMemoryStream(), a_breaker(fail_max=5)
    attach_pybreaker(breaker, stream)

    def caller() -> None:
        for _ in range(20):
            with suppress(DownError, pybreaker.CircuitBreakerError):
                breaker.call(fail)

    threads = [threading.Thread(target=caller) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads)
    assert changes(stream.get_recent_events(100)) == [("closed", "open")]
