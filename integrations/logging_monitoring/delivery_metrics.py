"""`meter_delivery`: what an attachment delivers, as OpenTelemetry metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING
from weakref import ref

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.attachment import Attachment
from codomyrmex.integrations.delivery.blocking import BlockingAttachment
from codomyrmex.integrations.delivery.health import SinkHealth

try:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
except ImportError as error:
    raise MissingExtraError("meter_delivery", "opentelemetry-api", "otel") from error

if TYPE_CHECKING:
    Reading = Callable[[str, SinkHealth], Iterator[Observation]]

_PREFIX = "codomyrmex.sink"


def meter_delivery(attachment: Attachment | BlockingAttachment, meter_provider: MeterProvider) -> None:
    """Report an attachment's numbers through a meter provider, with `sink` as the attribute.

    The names, kinds and units follow those of the SDK's own processors and exporters (semantic
    conventions for SDK metrics): `codomyrmex.sink.delivered`, `.failed`, `.retried` and `.dropped` count
    events, the last with the reason as `error.type`; `.queue.size` and `.queue.capacity` are
    up-down-counters; `.operation.duration` is a histogram in seconds, with `error.type` where the attempt
    failed. The attachment is not kept alive by it.

    Args:
        attachment: what `attach` or `attach_blocking` gave.
        meter_provider: where to report; there is no default.

    Raises:
        TypeError: there is no meter provider.
    """
    if not isinstance(meter_provider, MeterProvider):
        raise TypeError(f"a meter provider is needed, not {type(meter_provider).__name__}")
    meter = meter_provider.get_meter("codomyrmex.streaming")
    watched = ref(attachment)

    def observe(read: Reading) -> list[Callable[[CallbackOptions], Iterable[Observation]]]:
        def callback(_: CallbackOptions) -> Iterable[Observation]:
            living = watched()
            if living is None:
                return []
            return [seen for name, health in living.health().items() for seen in read(name, health)]

        return [callback]

    counters = (
        ("delivered", "Events that the sink took.", _delivered),
        ("failed", "Events given up after they were tried.", _failed),
        ("retried", "Events sent again.", _retried),
        ("dropped", "Events that never came to the sink, by reason.", _dropped),
    )
    for name, description, read in counters:
        meter.create_observable_counter(f"{_PREFIX}.{name}", observe(read), "{event}", description)
    queue = (
        ("queue.size", "Events that wait for the sink.", _queue_size),
        ("queue.capacity", "Events that may wait for the sink.", _queue_capacity),
    )
    for name, description, read in queue:
        meter.create_observable_up_down_counter(f"{_PREFIX}.{name}", observe(read), "{event}", description)
    duration = meter.create_histogram(
        f"{_PREFIX}.operation.duration", "s", "The time of each attempt to send a batch."
    )

    def attempted(sink: str, seconds: float, error: str | None) -> None:
        attributes = {"sink": sink} if error is None else {"sink": sink, "error.type": error}
        duration.record(seconds, attributes)

    attachment.on_attempt(attempted)


def _delivered(name: str, health: SinkHealth) -> Iterator[Observation]:
    yield Observation(health.delivered, {"sink": name})


def _failed(name: str, health: SinkHealth) -> Iterator[Observation]:
    yield Observation(health.dead, {"sink": name})


def _retried(name: str, health: SinkHealth) -> Iterator[Observation]:
    yield Observation(health.retried, {"sink": name})


def _dropped(name: str, health: SinkHealth) -> Iterator[Observation]:
    for reason, number in health.dropped.items():
        yield Observation(number, {"sink": name, "error.type": reason})


def _queue_size(name: str, health: SinkHealth) -> Iterator[Observation]:
    if health.capacity:
        yield Observation(health.queued, {"sink": name})


def _queue_capacity(name: str, health: SinkHealth) -> Iterator[Observation]:
    if health.capacity:
        yield Observation(health.capacity, {"sink": name})
