"""`meter_delivery`: what an attachment delivers, as OpenTelemetry metrics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from weakref import WeakKeyDictionary, WeakSet

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.attachment import Attachment
from codomyrmex.integrations.delivery.blocking import BlockingAttachment
from codomyrmex.integrations.delivery.health import SinkState

try:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
except ImportError as error:
    raise MissingExtraError("meter_delivery", "opentelemetry-api", "otel") from error

_PREFIX = "codomyrmex.sink"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_lock = threading.Lock()
_metered: WeakKeyDictionary[MeterProvider, _Metered] = WeakKeyDictionary()


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
    with _lock:
        metered = _metered.get(meter_provider)
        if metered is None:
            metered = _metered[meter_provider] = _Metered(meter_provider)
    metered.attachments.add(attachment)
    record = metered.duration.record

    def attempted(sink: str, seconds: float, error: str | None) -> None:
        record(seconds, {"sink": sink} if error is None else {"sink": sink, "error.type": error})

    attachment.on_attempt(attempted)


class _Metered:
    """The instruments of one provider, which makes each but once, and the attachments that they measure."""

    def __init__(self, provider: MeterProvider) -> None:
        self.attachments: WeakSet[Attachment | BlockingAttachment] = WeakSet()
        meter = provider.get_meter("codomyrmex.streaming")
        for name, description, read in (
            ("delivered", "Events that the sink took.", _delivered),
            ("failed", "Events given up after they were tried.", _failed),
            ("retried", "Events sent again.", _retried),
            ("dropped", "Events that never came to the sink, by reason.", _dropped),
        ):
            meter.create_observable_counter(
                f"{_PREFIX}.{name}", [self._observe(read)], "{event}", description
            )
        for name, description, read in (
            ("queue.size", "Events that wait for the sink.", _queue_size),
            ("queue.capacity", "Events that may wait for the sink.", _queue_capacity),
        ):
            meter.create_observable_up_down_counter(
                f"{_PREFIX}.{name}", [self._observe(read)], "{event}", description
            )
        self.duration = meter.create_histogram(
            f"{_PREFIX}.operation.duration",
            "s",
            "The time of each attempt to send a batch.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )

    def _observe(self, read: Reading) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def callback(_: CallbackOptions) -> Iterable[Observation]:
            # Sinks of the same name in several attachments are one series.
            sums: dict[tuple[tuple[str, str], ...], int] = {}
            for attachment in list(self.attachments):
                for key, value in read(attachment):
                    sums[key] = sums.get(key, 0) + value
            return [Observation(value, dict(key)) for key, value in sums.items()]

        return callback


Key = tuple[tuple[str, str], ...]
Reading = Callable[[Attachment | BlockingAttachment], Iterator[tuple[Key, int]]]


def _key(sink: str, reason: str | None = None) -> Key:
    return (("sink", sink),) if reason is None else (("sink", sink), ("error.type", reason))


def _delivered(attachment: Attachment | BlockingAttachment) -> Iterator[tuple[Key, int]]:
    for name, report in attachment.report().sinks.items():
        yield _key(name), report.delivered


def _failed(attachment: Attachment | BlockingAttachment) -> Iterator[tuple[Key, int]]:
    for name, report in attachment.report().sinks.items():
        yield _key(name), report.given_up


def _retried(attachment: Attachment | BlockingAttachment) -> Iterator[tuple[Key, int]]:
    for name, report in attachment.report().sinks.items():
        yield _key(name), report.retried


def _dropped(attachment: Attachment | BlockingAttachment) -> Iterator[tuple[Key, int]]:
    living = {name for name, health in attachment.health().items() if health.state is not SinkState.CLOSED}
    for name, report in attachment.report().sinks.items():
        for reason, number in report.dropped.items():
            yield _key(name, reason), number
        if report.lost and name not in living:  # before, they are still queued
            yield _key(name, "lost"), report.lost


def _queue_size(attachment: Attachment | BlockingAttachment) -> Iterator[tuple[Key, int]]:
    for name, health in attachment.health().items():
        if health.capacity:
            yield _key(name), health.queued


def _queue_capacity(attachment: Attachment | BlockingAttachment) -> Iterator[tuple[Key, int]]:
    for name, health in attachment.health().items():
        if health.capacity:
            yield _key(name), health.capacity
