"""`Chain`: steps applied to one event after another; processors and pipelines share it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from codomyrmex.streaming import Event, StepResultError, create_event
from codomyrmex.streaming.chain import BATCH, FILTER, FLAT_MAP, MAP, SINK, Chain
from helpers import in_time


class Noted(Chain):
    """A chain that notes its failures and ends in a sink that notes what arrives."""

    def __init__(self, *steps: tuple[str, Any]) -> None:
        super().__init__(self.note)
        self.failures: list[tuple[str, Any, str]] = []
        self.arrived: list[Any] = []
        for kind, call in steps:
            self.add(kind, call)
        self.add(SINK, lambda event: self.arrived.append(event.data), "the end")

    def note(self, error: Exception, event: Event, step: str) -> None:
        self.failures.append((str(error), event.data, step))

    async def apply_to(self, *values: Any) -> None:
        for value in values:
            rest = self.apply(create_event(value))
            if rest is not None:
                await rest


def double(event: Event) -> Event:
    return event.replace(data=event.data * 2)


async def double_later(event: Event) -> Event:
    await asyncio.sleep(0)
    return double(event)


def test_plain_steps_leave_nothing_to_await():
    chain = Noted((MAP, double), (FILTER, lambda event: event.data > 2))
    assert [chain.apply(create_event(number)) for number in range(3)] == [None] * 3
    assert chain.arrived == [4]
    assert (chain.emitted, chain.filtered.total(), chain.errors.total()) == (1, 2, 0)


@in_time
async def test_async_steps_are_awaited_in_their_place():
    async def is_large(event: Event) -> bool:
        await asyncio.sleep(0)
        return event.data > 2

    chain = Noted(
        (MAP, double_later), (FILTER, is_large), (FLAT_MAP, lambda event: [event, event]), (MAP, double)
    )
    await chain.apply_to(1, 2)
    assert chain.arrived == [8, 8]


@in_time
async def test_a_chain_can_be_applied_from_any_step_on():
    chain = Noted((MAP, double), (MAP, double))
    chain.apply(create_event(1), 1)
    chain.apply(create_event(1), 2)
    assert chain.arrived == [2, 1]


@pytest.mark.parametrize("kind", [MAP, FILTER, FLAT_MAP, BATCH])
@in_time
async def test_a_step_that_raises_loses_only_its_event_and_reports_the_one_that_entered(kind):
    def step(event: Event) -> Any:
        if event.data == 2:
            raise ValueError("broken")
        return [event] if kind is FLAT_MAP else event

    chain = Noted((MAP, double), (kind, step))
    await chain.apply_to(0, 1, 2)
    assert chain.arrived == [0, 4]
    [(error, data, name)] = chain.failures
    assert (error, data) == ("broken", 1)
    assert name.startswith(f"{kind} ")
    assert name.endswith("step")
    assert chain.errors.total() == 1


@pytest.mark.parametrize("is_async", [True, False])
@in_time
async def test_after_a_sink_that_fails_the_event_continues(is_async):
    def fail(event: Event) -> None:
        raise ValueError("broken")

    async def fail_later(event: Event) -> None:
        fail(event)

    chain = Noted((SINK, fail_later if is_async else fail))
    await chain.apply_to(1)
    assert chain.arrived == [1]
    assert len(chain.failures) == 1


@in_time
async def test_an_async_failure_handler_is_awaited_before_the_event_continues():
    order: list[str] = []

    async def on_failure(error: Exception, event: Event, step: str) -> None:
        await asyncio.sleep(0)
        order.append("reported")

    chain = Chain(on_failure)
    chain.add(SINK, lambda _: 1 / 0)
    chain.add(SINK, lambda _: order.append("next"))
    rest = chain.apply(create_event(1))
    assert rest is not None
    await rest
    assert order == ["reported", "next"]


def test_without_a_failure_handler_failures_are_counted_and_logged(caplog):
    def divide(event: Event) -> Event:
        return event.replace(data=1 / event.data)

    chain = Chain()
    chain.add(MAP, divide)
    event = create_event(0)
    assert chain.apply(event) is None
    assert chain.errors.total() == 1
    assert f"divide failed on event {event.id}" in caplog.text


@pytest.mark.parametrize(("kind", "result"), [(MAP, 5), (FLAT_MAP, [5])])
@in_time
async def test_a_result_that_is_not_an_event_is_an_error_that_names_the_step(kind, result):
    errors: list[Exception] = []
    chain = Chain(lambda error, event, step: errors.append(error))
    chain.add(kind, lambda _: result, "mine")
    rest = chain.apply(create_event(1))
    if rest is not None:
        await rest
    [error] = errors
    assert isinstance(error, StepResultError)
    assert str(error) == "mine: must return events, got 5"


def test_a_batch_stands_for_its_events_from_then_on():
    events: list[Event] = []

    def pair(event: Event) -> Event | None:
        events.append(event)
        return create_event([e.data for e in events]) if len(events) == 2 else None

    chain = Noted((BATCH, pair), (MAP, lambda _: 1 / 0))
    assert [chain.apply(create_event(number)) for number in range(2)] == [None, None]
    assert [data for _, data, _ in chain.failures] == [[0, 1]]
    assert chain.filtered.total() == 0


@pytest.mark.parametrize("thing", [None, 5, "step"])
def test_a_step_that_cannot_be_called_is_refused(thing):
    with pytest.raises(TypeError, match=r"map: .* got"):
        Chain().add(MAP, thing)
