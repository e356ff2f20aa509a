"""The feeds of all Python libraries in the same scenario, with the real libraries."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import aiobreaker
import circuitbreaker
import purgatory
import pybreaker
import pyresilience
import pytest
from codomyrmex.integrations.configuration.process import process_name
from codomyrmex.integrations.service_mesh import (
    CircuitBreakerEvent,
    attach_aiobreaker,
    attach_circuitbreaker,
    attach_purgatory,
    attach_pybreaker,
    attach_pyresilience,
)
from codomyrmex.streaming import EventType, InMemoryStream

RESET = 0.05  # seconds that a breaker stays open; circuitbreaker accepts whole seconds only

# pyresilience uses deprecated lookups; aiobreaker uses utcnow
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class DownError(Exception):
    """The service is down."""


def works() -> str:
    return "fine"


def fails() -> str:
    raise DownError("token=s3cret")


class Subject:
    """A breaker of a library that opens after two failures, and how it is called."""

    name = "orders"

    def __init__(self, stream: InMemoryStream, **options: Any) -> None:
        self.handle = self.attach(stream, **options)

    def attach(self, stream: InMemoryStream, **options: Any) -> Any:
        raise NotImplementedError

    def call(self, function: Callable[[], str]) -> str:
        raise NotImplementedError

    def wait(self) -> None:
        """Wait until the breaker half-opens."""
        time.sleep(RESET * 1.5)


class Pybreaker(Subject):
    def attach(self, stream: InMemoryStream, **options: Any) -> Any:
        self.breaker = pybreaker.CircuitBreaker(fail_max=2, reset_timeout=RESET, name=self.name)
        return attach_pybreaker(self.breaker, stream, **options)

    def call(self, function: Callable[[], str]) -> str:
        return self.breaker.call(function)


class Aiobreaker(Subject):
    def attach(self, stream: InMemoryStream, **options: Any) -> Any:
        self.breaker = aiobreaker.CircuitBreaker(
            fail_max=2, timeout_duration=timedelta(seconds=RESET), name=self.name
        )
        return attach_aiobreaker(self.breaker, stream, **options)

    def call(self, function: Callable[[], str]) -> str:
        return self.breaker.call(function)


class Purgatory(Subject):
    def attach(self, stream: InMemoryStream, **options: Any) -> Any:
        self.factory = purgatory.SyncCircuitBreakerFactory(default_threshold=2, default_ttl=RESET)
        handle = attach_purgatory(self.factory, stream, **options)
        self.factory.get_breaker(self.name)  # made after the feed was attached
        return handle

    def call(self, function: Callable[[], str]) -> str:
        with self.factory.get_breaker(self.name):
            return function()


class Circuitbreaker(Subject):
    def attach(self, stream: InMemoryStream, **options: Any) -> Any:
        self.breaker = circuitbreaker.CircuitBreaker(failure_threshold=2, recovery_timeout=1, name=self.name)
        self.guarded = self.breaker.decorate(lambda function: function())
        return attach_circuitbreaker(self.breaker, stream, **options)

    def call(self, function: Callable[[], str]) -> str:
        return self.guarded(function)

    def wait(self) -> None:
        time.sleep(1.05)


class Pyresilience(Subject):
    def attach(self, stream: InMemoryStream, **options: Any) -> Any:
        config = pyresilience.CircuitBreakerConfig(
            failure_threshold=2, recovery_timeout=RESET, success_threshold=1
        )

        @pyresilience.resilient(circuit_breaker=config)
        def orders(function: Callable[[], str]) -> str:
            return function()

        self.guarded = orders
        return attach_pyresilience(orders, stream, **options)

    def call(self, function: Callable[[], str]) -> str:
        return self.guarded(function)


ALL = [Pybreaker, Aiobreaker, Purgatory, Circuitbreaker, Pyresilience]
each = pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__.lower())


def try_to(call: Callable[[], object]) -> object:
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - each library has its own
        return error


def run_scenario(subject: Subject) -> list[object]:
    """Closed, failures, open, rejected, half open, closed."""
    results = [try_to(lambda: subject.call(works))]
    results += [try_to(lambda: subject.call(fails)) for _ in range(2)]
    results.append(try_to(lambda: subject.call(works)))  # rejected
    subject.wait()
    results.append(try_to(lambda: subject.call(works)))
    return results


def published(stream: InMemoryStream) -> list[CircuitBreakerEvent]:
    events = [CircuitBreakerEvent.from_event(event) for event in stream.get_recent_events(100)]
    return [event for event in events if event is not None]


SCENARIO = [
    ("snapshot", None, "closed"),
    ("state_change", "closed", "open"),
    ("rejected", None, "open"),
    ("state_change", "open", "half_open"),
    ("state_change", "half_open", "closed"),
]


def short(events: list[CircuitBreakerEvent]) -> list[tuple[str, str | None, str | None]]:
    return [(event.kind, event.from_state, event.to_state) for event in events]


def in_this_thread(work: Callable[[], Any]) -> Any:
    return work()


def in_another_thread(work: Callable[[], Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join(20)
    return results[0]


def in_a_task(work: Callable[[], Any]) -> Any:
    async def run() -> Any:
        return work()

    return asyncio.run(run())


@each
@pytest.mark.parametrize("where", [in_this_thread, in_another_thread, in_a_task])
def test_each_library_publishes_the_same_events(kind, where):
    stream = InMemoryStream()
    subject = kind(stream)
    results = where(lambda: run_scenario(subject))
    assert (results[0], results[-1]) == ("fine", "fine")
    assert isinstance(results[3], Exception)
    events = published(stream)
    assert short(events) == SCENARIO
    assert {event.breaker for event in events} == {"orders"}
    assert {event.source for event in events} == {kind.__name__.lower()}
    assert all(event.native_state for event in events)


@each
def test_the_events_are_alerts_with_the_same_labels_when_it_opens_and_when_it_closes(kind):
    stream = InMemoryStream()
    run_scenario(kind(stream, service="shop"))
    events = stream.get_recent_events(100)
    assert {event.topic for event in events} == {f"circuit_breaker.{kind.__name__.lower()}.orders"}
    opened, closed = (event for event in events if "status" in event.metadata)
    assert (opened.metadata["status"], closed.metadata["status"]) == ("firing", "resolved")
    assert (opened.type, closed.type) == (EventType.ERROR, EventType.MESSAGE)
    assert [event.type for event in events].count(EventType.ERROR) == 1
    assert opened.metadata["labels"] == closed.metadata["labels"]
    assert opened.metadata["labels"] == {
        "alertname": "CircuitBreakerOpen",
        "breaker": "orders",
        "service": "shop",
        "source": kind.__name__.lower(),
        "severity": "critical",
        "instance": process_name(),
    }
    assert opened.metadata["starts_at"] == closed.metadata["starts_at"]
    assert opened.metadata["transition_id"] != closed.metadata["transition_id"]


@pytest.mark.parametrize("kind", [k for k in ALL if k is not Purgatory], ids=lambda k: k.__name__.lower())
def test_the_reason_contains_no_secret(kind):
    stream = InMemoryStream()
    run_scenario(kind(stream))
    [opened] = [event for event in published(stream) if event.opens]
    assert opened.reason == "DownError: token=[redacted]"


@each
def test_calls_are_published_on_request(kind):
    stream = InMemoryStream()
    run_scenario(kind(stream, calls=True))
    kinds = [event.kind for event in published(stream)]
    assert kinds.count("failure") >= 2
    if kind is not Purgatory:  # it reports only successes that end a row of failures
        assert kinds.count("success") >= 2


@each
def test_a_stream_that_raises_or_is_closed_reaches_no_guarded_call(kind):
    stream = InMemoryStream()
    stream.subscribe_nowait(lambda event: 1 / 0)
    subject = kind(stream)
    asyncio.run(stream.aclose())
    results = run_scenario(subject)
    assert (results[0], results[-1]) == ("fine", "fine")
    assert [type(result) for result in results[1:2]] == [DownError]


@each
def test_a_closed_feed_publishes_nothing_and_restores_the_breaker(kind):
    stream = InMemoryStream()
    subject = kind(stream)
    subject.handle.close()
    subject.handle.close()
    before = len(published(stream))
    results = run_scenario(subject)
    assert (results[0], results[-1]) == ("fine", "fine")
    assert len(published(stream)) == before


@pytest.mark.parametrize("kind", [Pybreaker, Aiobreaker, Pyresilience])  # they have lists of listeners
def test_two_feeds_of_one_breaker_are_independent(kind):
    first = InMemoryStream()
    subject = kind(first)
    second = InMemoryStream()
    attach = {Pybreaker: attach_pybreaker, Aiobreaker: attach_aiobreaker, Pyresilience: attach_pyresilience}
    attach[kind](subject.breaker if hasattr(subject, "breaker") else subject.guarded, second)
    run_scenario(subject)
    assert short(published(first)) == short(published(second)) == SCENARIO


@pytest.mark.parametrize(
    "attach",
    [attach_aiobreaker, attach_circuitbreaker, attach_purgatory, attach_pybreaker, attach_pyresilience],
    ids=lambda attach: attach.__name__,
)
def test_something_other_than_a_breaker_of_the_library_is_rejected(attach, stream):
    library = attach.__name__.removeprefix("attach_")
    with pytest.raises(TypeError, match=library):
        attach(object(), stream)
    assert stream.get_recent_events() == []


@each
def test_something_other_than_a_stream_is_rejected(kind):
    with pytest.raises(TypeError, match="must be a Stream"):
        kind("stream")


# Async calls


async def attempt(call: Awaitable[Any]) -> object:
    try:
        return await call
    except Exception as error:  # noqa: BLE001 - each library has its own
        return error


async def works_async() -> str:
    return "fine"


async def fails_async() -> str:
    raise DownError("no")


def aiobreaker_calls(stream: InMemoryStream) -> Callable[[Any], Awaitable[Any]]:
    breaker = aiobreaker.CircuitBreaker(fail_max=2, timeout_duration=timedelta(seconds=RESET), name="orders")
    attach_aiobreaker(breaker, stream)
    return lambda function: breaker.call_async(function)  # noqa: PLW0108 - looked up when it is called


def purgatory_calls(stream: InMemoryStream) -> Callable[[Any], Awaitable[Any]]:
    factory = purgatory.AsyncCircuitBreakerFactory(default_threshold=2, default_ttl=RESET)
    attach_purgatory(factory, stream)

    async def call(function: Any) -> Any:
        async with await factory.get_breaker("orders"):
            return await function()

    return call


def pyresilience_calls(stream: InMemoryStream) -> Callable[[Any], Awaitable[Any]]:
    config = pyresilience.CircuitBreakerConfig(
        failure_threshold=2, recovery_timeout=RESET, success_threshold=1
    )

    @pyresilience.resilient(circuit_breaker=config)
    async def orders(function: Any) -> Any:
        return await function()

    attach_pyresilience(orders, stream)
    return orders


@pytest.mark.parametrize("calls", [aiobreaker_calls, purgatory_calls, pyresilience_calls])
async def test_async_calls_publish_the_same_events(calls):
    stream = InMemoryStream()
    call = calls(stream)
    for function in (works_async, fails_async, fails_async, works_async):
        await attempt(call(function))
    await asyncio.sleep(RESET * 1.5)
    assert await attempt(call(works_async)) == "fine"
    assert short(published(stream)) == SCENARIO


# Features of single libraries


@pytest.fixture
def stream() -> InMemoryStream:
    return InMemoryStream()


def test_processes_that_share_a_store_give_the_same_transition_the_same_id():
    class Shared(pybreaker.CircuitBreakerStorage):
        """A store that several processes share, like the one for Redis."""

        def __init__(self) -> None:
            super().__init__("shared")
            self._state, self._count, self._opened_at = "closed", 0, None

        state = property(lambda self: self._state, lambda self, state: setattr(self, "_state", state))
        counter = property(lambda self: self._count)
        success_counter = property(lambda self: 0)
        opened_at = property(lambda self: self._opened_at, lambda self, at: setattr(self, "_opened_at", at))

        def increment_counter(self) -> None:
            self._count += 1

        def reset_counter(self) -> None:
            self._count = 0

        def increment_success_counter(self) -> None:
            """Not needed here."""

        def reset_success_counter(self) -> None:
            """Not needed here."""

    store, streams = Shared(), [InMemoryStream(), InMemoryStream()]
    breakers = [
        pybreaker.CircuitBreaker(fail_max=1, reset_timeout=60, state_storage=store, name="orders")
        for _ in streams
    ]
    for breaker, one in zip(breakers, streams, strict=True):
        attach_pybreaker(breaker, one)
    try_to(lambda: breakers[0].call(fails))
    assert breakers[1].state.name == "open"  # reading the state notifies the listeners
    first, second = ([event for event in published(one) if event.opens] for one in streams)
    assert first[0].transition_id == second[0].transition_id


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_forked_workers_have_transitions_of_their_own():
    program = """
import os, sys
import pybreaker
from codomyrmex.integrations.service_mesh import CircuitBreakerEvent, attach_pybreaker
from codomyrmex.streaming import InMemoryStream

for _ in range(2):
    if os.fork() == 0:
        stream, breaker = InMemoryStream(), pybreaker.CircuitBreaker(name="orders")
        attach_pybreaker(breaker, stream)
        breaker.open()
        print(CircuitBreakerEvent.from_event(stream.get_recent_events()[-1]).transition_id, flush=True)
        os._exit(0)
    os.wait()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, second = done.stdout.split()
    assert first != second


def test_a_reset_of_circuitbreaker_is_published(stream):
    breaker = circuitbreaker.CircuitBreaker(failure_threshold=1, recovery_timeout=60, name="orders")
    guarded = breaker.decorate(lambda function: function())
    attach_circuitbreaker(breaker, stream)
    try_to(lambda: guarded(fails))
    breaker.reset()
    assert short(published(stream))[-2:] == [("state_change", "open", "closed"), ("reset", None, "closed")]


def test_reading_the_state_of_a_breaker_is_not_a_rejection(stream):
    breaker = circuitbreaker.CircuitBreaker(failure_threshold=1, recovery_timeout=60, name="orders")
    guarded = breaker.decorate(lambda function: function())
    attach_circuitbreaker(breaker, stream)
    try_to(lambda: guarded(fails))
    assert list(circuitbreaker.CircuitBreakerMonitor.get_open()) == [breaker]
    assert "rejected" not in [event.kind for event in published(stream)]
    circuitbreaker.CircuitBreakerMonitor.circuit_breakers.pop("orders")


def test_a_fallback_is_called_and_the_rejection_published_once(stream):
    breaker = circuitbreaker.CircuitBreaker(
        failure_threshold=1, recovery_timeout=60, name="orders", fallback_function=lambda function: "instead"
    )
    guarded = breaker.decorate(lambda function: function())
    attach_circuitbreaker(breaker, stream)
    try_to(lambda: guarded(fails))
    assert guarded(works) == "instead"
    assert [event.kind for event in published(stream)].count("rejected") == 1


def test_a_configuration_of_pyresilience_can_be_attached_before_it_is_used(stream):
    config = pyresilience.ResilienceConfig(
        circuit_breaker=pyresilience.CircuitBreakerConfig(failure_threshold=1, recovery_timeout=60)
    )
    attach_pyresilience(config, stream)
    registry = pyresilience.ResilienceRegistry()
    registry.register("shop", config)

    @registry.decorator("shop")
    def orders() -> None:
        raise DownError("no")

    try_to(orders)
    try_to(orders)
    assert short(published(stream)) == [("state_change", "closed", "open"), ("rejected", None, "open")]
    with pytest.raises(TypeError, match="guarded: must be a function or ResilienceConfig of pyresilience"):
        attach_pyresilience(works, stream)
