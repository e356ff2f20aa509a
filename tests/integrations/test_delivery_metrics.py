"""`meter_delivery` with the real SDK: the figures of an attachment as metrics."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import pytest
from codomyrmex.integrations import (
    Binding,
    DeliveryPolicy,
    DroppedError,
    InlineSink,
    PermanentError,
    Sink,
    attach,
    attach_blocking,
)
from codomyrmex.integrations.logging_monitoring import OpenTelemetrySink, meter_delivery
from codomyrmex.streaming import Event, InMemoryStream, Overflow, create_event
from codomyrmex.streaming.testing import FakeClock
from helpers import in_time, settle
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram, InMemoryMetricReader, Metric, Sum
from opentelemetry.sdk.trace import TracerProvider

_numbers = count()

AT_ONCE = DeliveryPolicy(batch_age=0, batch_size=1, max_attempts=1, breaker_failures=1_000)
PREFIX = "codomyrmex.sink."


class Attempts(NamedTuple):
    """The attempts in a histogram."""

    number: int
    seconds: float


class Meter:
    """A meter provider and its metrics."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def metrics(self) -> dict[str, Metric]:
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name.removeprefix(PREFIX): metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def read(self, name: str) -> dict[tuple[str, ...], Any]:
        """Return the values of a metric by sink, or by sink and type of error."""
        metric = self.metrics().get(name)
        values: dict[tuple[str, ...], Any] = {}
        for point in () if metric is None else metric.data.data_points:
            attributes = dict(point.attributes or {})
            key = tuple(str(attributes.pop(part)) for part in ("sink", "error.type") if part in attributes)
            assert attributes == {}
            values[key] = Attempts(point.count, point.sum) if hasattr(point, "sum") else point.value
        return values


@pytest.fixture
def meter() -> Iterator[Meter]:
    meter = Meter()
    yield meter
    meter.provider.shutdown()


class Target(Sink):
    """Accepts events for which `refuses` returns no error."""

    def __init__(
        self, refuses: Callable[[Any], Exception | None] = lambda _: None, name: str | None = None
    ) -> None:
        self.name = name or f"target-{next(_numbers)}"
        self.refuses = refuses
        self.open_gate = asyncio.Event()
        self.open_gate.set()

    async def send(self, events: Sequence[Event]) -> None:
        await self.open_gate.wait()
        for event in events:
            error = self.refuses(event.data)
            if error is not None:
                raise error


async def publish(stream: InMemoryStream, *values: Any) -> None:
    for value in values:
        await stream.publish(create_event(value))
    await settle()


# Counters


@in_time
async def test_accepted_events_are_counted_as_delivered(meter):
    stream, sink = InMemoryStream(), Target(name="orders")
    async with attach(stream, sink, policy=AT_ONCE) as attachment:
        meter_delivery(attachment, meter.provider)
        assert meter.read("delivered") == {("orders",): 0}
        await publish(stream, 1, 2, 3)
        assert meter.read("delivered") == {("orders",): 3}
        await publish(stream, 4)
        assert meter.read("delivered") == {("orders",): 4}
        assert meter.read("failed") == {("orders",): 0}
        assert meter.read("retried") == {("orders",): 0}
        assert meter.read("dropped") == {}


@in_time
async def test_events_given_up_are_counted_as_failed(meter):
    stream, sink = InMemoryStream(), Target(lambda n: PermanentError("odd") if n % 2 else None, "orders")
    async with attach(stream, sink, policy=AT_ONCE) as attachment:
        meter_delivery(attachment, meter.provider)
        await publish(stream, 1, 2, 3)
        assert meter.read("failed") == {("orders",): 2}
        assert meter.read("delivered") == {("orders",): 1}


@in_time
async def test_each_retry_is_counted(meter):
    stream, clock = InMemoryStream(), FakeClock()
    errors: list[Exception | None] = [OSError("away"), OSError("away"), None]
    sink = Target(lambda _: errors.pop(0), "orders")
    rules = DeliveryPolicy(batch_age=0, backoff_initial=1, backoff_max=1)
    async with attach(stream, sink, policy=rules, clock=clock) as attachment:
        meter_delivery(attachment, meter.provider)
        await publish(stream, 1)
        for retried in (1, 2):
            clock.advance(1)
            await settle()
            assert meter.read("retried") == {("orders",): retried}
        assert meter.read("delivered") == {("orders",): 1}
        assert meter.read("failed") == {("orders",): 0}


@in_time
async def test_events_dropped_at_a_full_queue_are_counted_with_the_reason(meter):
    stream, sink = InMemoryStream(), Target(name="orders")
    sink.open_gate.clear()
    rules = DeliveryPolicy(batch_age=0, batch_size=1, queue_size=2, overflow=Overflow.DROP_NEWEST)
    async with attach(stream, sink, policy=rules) as attachment:
        meter_delivery(attachment, meter.provider)
        await publish(stream, 1)
        await publish(stream, 2, 3, 4, 5)
        assert meter.read("dropped") == {("orders", "queue_full"): 2}
        sink.open_gate.set()


class Choosy(InlineSink):
    name = "choosy"

    def emit(self, event: Event) -> None:
        if isinstance(event.data, str):
            raise DroppedError(event.data)
        if event.data is None:
            raise ValueError("nothing")


@in_time
async def test_an_inline_sink_is_counted_by_reason_too(meter):
    stream = InMemoryStream()
    async with attach(stream, Choosy(), OpenTelemetrySink("span_event")) as attachment:
        meter_delivery(attachment, meter.provider)
        await publish(stream, 1, 2, "too late", "too late", "too big", None)
    assert meter.read("delivered") == {("choosy",): 2, ("opentelemetry",): 0}
    assert meter.read("failed") == {("choosy",): 1, ("opentelemetry",): 0}
    assert meter.read("dropped") == {
        ("choosy", "too late"): 2,
        ("choosy", "too big"): 1,
        ("opentelemetry", "no_span"): 6,
    }


@in_time
async def test_the_size_of_the_queue_is_reported(meter):
    stream, clock, sink = InMemoryStream(), FakeClock(), Target(name="orders")
    rules = DeliveryPolicy(batch_age=1, queue_size=100)
    async with attach(stream, sink, policy=rules, clock=clock) as attachment:
        meter_delivery(attachment, meter.provider)
        assert meter.read("queue.size") == {("orders",): 0}
        await publish(stream, 1, 2, 3)
        assert meter.read("queue.size") == {("orders",): 3}
        assert meter.read("queue.capacity") == {("orders",): 100}
        clock.advance(1)
        await settle()
        assert meter.read("queue.size") == {("orders",): 0}
        assert meter.read("queue.capacity") == {("orders",): 100}


@in_time
async def test_an_inline_sink_has_no_queue(meter):
    stream = InMemoryStream()
    async with attach(stream, Choosy()) as attachment:
        meter_delivery(attachment, meter.provider)
        await publish(stream, 1)
        assert meter.read("queue.size") == {}
        assert meter.read("queue.capacity") == {}
        assert meter.read("operation.duration") == {}


@in_time
async def test_each_attempt_is_timed_and_a_failed_one_has_its_error(meter):
    stream, clock = InMemoryStream(), FakeClock()

    def take_a_while(what: Any) -> Exception | None:
        seconds, error = what
        clock.advance(seconds)
        return error

    sink = Target(take_a_while, "orders")
    async with attach(stream, sink, policy=AT_ONCE, clock=clock) as attachment:
        meter_delivery(attachment, meter.provider)
        await publish(stream, (0.25, None), (0.5, None))
        await publish(stream, (1, OSError("away")), (2, PermanentError("never")), (4, OSError("away")))
        assert meter.read("operation.duration") == {
            ("orders",): Attempts(2, 0.75),
            ("orders", "OSError"): Attempts(2, 5),
            ("orders", "PermanentError"): Attempts(1, 2),
        }


@in_time
async def test_an_attempt_that_times_out_has_its_error(meter):
    stream, clock, sink = InMemoryStream(), FakeClock(), Target(name="orders")
    sink.open_gate.clear()
    rules = DeliveryPolicy(batch_age=0, timeout=10, max_attempts=1)
    async with attach(stream, sink, policy=rules, clock=clock) as attachment:
        meter_delivery(attachment, meter.provider)
        await publish(stream, 1)
        clock.advance(10)
        await settle()
        assert meter.read("operation.duration") == {("orders", "TimeoutError"): Attempts(1, 10)}
        assert meter.read("failed") == {("orders",): 1}


@in_time
async def test_each_sink_has_its_own_numbers(meter):
    stream = InMemoryStream()
    good, bad = Target(name="good"), Target(lambda _: PermanentError("no"), "bad")
    bindings = [good, Binding(bad, topic="orders")]
    async with attach(stream, *bindings, policy=AT_ONCE) as attachment:
        meter_delivery(attachment, meter.provider)
        await stream.publish(create_event(1))
        await stream.publish(create_event(2, topic="orders"))
        await settle()
        assert meter.read("delivered") == {("good",): 2, ("bad",): 0}
        assert meter.read("failed") == {("good",): 0, ("bad",): 1}
        assert set(meter.read("operation.duration")) == {("good",), ("bad", "PermanentError")}


@in_time
async def test_a_sink_that_is_added_later_is_reported_too(meter):
    stream = InMemoryStream()
    async with attach(stream, policy=AT_ONCE) as attachment:
        meter_delivery(attachment, meter.provider)
        assert meter.read("delivered") == {}
        await attachment.add(Target(name="late"))
        await publish(stream, 1)
        assert meter.read("delivered") == {("late",): 1}
        assert meter.read("operation.duration").keys() == {("late",)}


@in_time
async def test_the_figures_remain_after_the_attachment_is_closed(meter):
    stream = InMemoryStream()
    attachment = attach(stream, Target(name="orders"), policy=AT_ONCE)
    meter_delivery(attachment, meter.provider)
    async with attachment:
        await publish(stream, 1, 2)
    assert meter.read("delivered") == {("orders",): 2}
    assert meter.read("queue.size") == {("orders",): 0}


@given(st.lists(st.sampled_from([1, None, "too late"]), max_size=30))
@settings(max_examples=40, deadline=None)
def test_every_event_is_counted_exactly_once(values):
    made, stream = Meter(), InMemoryStream()
    sink = Target(lambda value: PermanentError("nothing") if value is None else None, "queued")
    attachment = attach(stream, sink, Choosy(), policy=AT_ONCE)
    meter_delivery(attachment, made.provider)

    async def deliver() -> None:
        async with attachment:
            for value in values:
                await stream.publish(create_event(value))

    asyncio.run(deliver())
    taken, refused, too_late = (values.count(value) for value in (1, None, "too late"))
    assert made.read("delivered") == {("queued",): taken + too_late, ("choosy",): taken}
    assert made.read("failed") == {("queued",): refused, ("choosy",): refused}
    assert made.read("dropped") == ({("choosy", "too late"): too_late} if too_late else {})
    attempts = {key: attempt.number for key, attempt in made.read("operation.duration").items()}
    expected = {("queued",): taken + too_late, ("queued", "PermanentError"): refused}
    assert attempts == {key: number for key, number in expected.items() if number}
    made.provider.shutdown()


# Names, kinds and units


@in_time
async def test_names_kinds_and_units_follow_the_semantic_conventions(meter):
    stream = InMemoryStream()
    async with attach(stream, Target(), Choosy(), policy=AT_ONCE) as attachment:
        meter_delivery(attachment, meter.provider)
        await publish(stream, 1, "too late")
        metrics = meter.metrics()
    assert {name: metric.unit for name, metric in metrics.items()} == {
        "delivered": "{event}",
        "failed": "{event}",
        "retried": "{event}",
        "dropped": "{event}",
        "queue.size": "{event}",
        "queue.capacity": "{event}",
        "operation.duration": "s",
    }
    assert all(metric.name.startswith(PREFIX) and metric.description for metric in metrics.values())
    assert isinstance(metrics.pop("operation.duration").data, Histogram)
    sums = {name: metric.data for name, metric in metrics.items()}
    assert all(isinstance(data, Sum) for data in sums.values())
    assert {name for name, data in sums.items() if not data.is_monotonic} == {"queue.size", "queue.capacity"}


# Providers and attachments


@pytest.mark.parametrize("provider", [None, object(), "provider", MeterProvider, TracerProvider()])
def test_a_meter_provider_is_required(provider):
    attachment = attach(InMemoryStream(), Target())
    with pytest.raises(TypeError, match="meter_provider: must be a MeterProvider"):
        meter_delivery(attachment, provider)


@in_time
async def test_a_no_op_meter_provider_is_accepted():
    stream, sink = InMemoryStream(), Target()
    async with attach(stream, sink, policy=AT_ONCE) as attachment:
        meter_delivery(attachment, NoOpMeterProvider())
        await publish(stream, 1)
    assert attachment.report().sinks[sink.name].delivered == 1


@in_time
async def test_metering_does_not_keep_an_attachment_alive(meter, caplog):
    stream = InMemoryStream()
    attachment = attach(stream, Target(name="orders"), policy=AT_ONCE)
    meter_delivery(attachment, meter.provider)
    async with attachment:
        await publish(stream, 1)
    assert meter.read("delivered") == {("orders",): 1}
    watched = weakref.ref(attachment)
    del attachment
    await settle()
    gc.collect()
    assert watched() is None
    assert meter.read("delivered") == {}
    assert meter.read("queue.size") == {}
    assert caplog.records == []


def test_a_blocking_attachment_is_metered_too(meter):
    stream = InMemoryStream()
    attachment = attach_blocking(stream, Target(name="orders"), Choosy(), policy=AT_ONCE)
    meter_delivery(attachment, meter.provider)
    with attachment:
        for value in (1, 2, "too late"):
            stream.publish_nowait(create_event(value))
        assert attachment.flush(5)
        assert meter.read("delivered") == {("orders",): 3, ("choosy",): 2}
        assert meter.read("dropped") == {("choosy", "too late"): 1}
        assert meter.read("operation.duration")["orders",].number == 3
    watched = weakref.ref(attachment)
    del attachment
    gc.collect()
    assert watched() is None
    assert meter.read("delivered") == {}
