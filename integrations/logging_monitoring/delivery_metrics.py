"""`meter_delivery`: OpenTelemetry metrics of what an attachment delivers."""

from __future__ import annotations

import threading
from collections import Counter
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

AnyAttachment = Attachment | BlockingAttachment
Readings = Iterator[tuple[str, str | None, int]]  # the sink, `error.type` if any, and the value

_lock = threading.Lock()
_meters: WeakKeyDictionary[MeterProvider, _Meter] = WeakKeyDictionary()


def meter_delivery(attachment: AnyAttachment, meter_provider: MeterProvider) -> None:
    """Report the figures of an attachment through a meter provider, with the attribute `sink`.

    Names, kinds and units follow those of the SDK's own processors and exporters (semantic conventions for
    SDK metrics). `codomyrmex.sink.delivered`, `.failed`, `.retried` and `.dropped` count events, the last
    with the reason as `error.type`; `.queue.size` and `.queue.capacity` are up-down-counters;
    `.operation.duration` is a histogram in seconds, with `error.type` if the attempt failed.

    The attachment is not kept alive; its metrics end with it.

    Args:
        attachment: what `attach` or `attach_blocking` has returned.
        meter_provider: where to report; there is no default.

    Raises:
        TypeError: `meter_provider` is not a meter provider.
    """
    if not isinstance(meter_provider, MeterProvider):
        raise TypeError(f"meter_provider: must be a MeterProvider, got {type(meter_provider).__name__}")
    with _lock:
        meter = _meters.get(meter_provider)
        if meter is None:
            meter = _meters[meter_provider] = _Meter(meter_provider)
    meter.attachments.add(attachment)
    record = meter.duration.record

    def record_attempt(sink: str, seconds: float, error: str | None) -> None:
        record(seconds, _labels(sink, error))

    attachment.on_attempt(record_attempt)


class _Meter:
    """The instruments of one provider, which makes each of them only once, and their attachments."""

    def __init__(self, provider: MeterProvider) -> None:
        self.attachments: WeakSet[AnyAttachment] = WeakSet()
        meter = provider.get_meter("codomyrmex.streaming")
        for create, name, description, read in (
            (meter.create_observable_counter, "delivered", "Events that the sink has accepted.", _delivered),
            (meter.create_observable_counter, "failed", "Events given up after an attempt.", _failed),
            (meter.create_observable_counter, "retried", "Events sent again.", _retried),
            (meter.create_observable_counter, "dropped", "Events dropped unsent, by reason.", _dropped),
            (meter.create_observable_up_down_counter, "queue.size", "Events in the queue.", _queue_size),
            (
                meter.create_observable_up_down_counter,
                "queue.capacity",
                "Size of the queue.",
                _queue_capacity,
            ),
        ):
            create(f"{_PREFIX}.{name}", [self._callback(read)], "{event}", description)
        self.duration = meter.create_histogram(
            f"{_PREFIX}.operation.duration",
            "s",
            "The duration of each attempt to send a batch.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )

    def _callback(
        self, read: Callable[[AnyAttachment], Readings]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def callback(_: CallbackOptions) -> Iterable[Observation]:
            # Sinks with the same name in several attachments are one series.
            sums: Counter[tuple[str, str | None]] = Counter()
            for attachment in list(self.attachments):
                for sink, error_type, value in read(attachment):
                    sums[sink, error_type] += value
            return [Observation(value, _labels(*key)) for key, value in sums.items()]

        return callback


def _labels(sink: str, error_type: str | None) -> dict[str, str]:
    return {"sink": sink} if error_type is None else {"sink": sink, "error.type": error_type}


def _delivered(attachment: AnyAttachment) -> Readings:
    return ((name, None, report.delivered) for name, report in attachment.report().sinks.items())


def _failed(attachment: AnyAttachment) -> Readings:
    return ((name, None, report.given_up) for name, report in attachment.report().sinks.items())


def _retried(attachment: AnyAttachment) -> Readings:
    return ((name, None, report.retried) for name, report in attachment.report().sinks.items())


def _dropped(attachment: AnyAttachment) -> Readings:
    open_sinks = {
        name for name, health in attachment.health().items() if health.state is not SinkState.CLOSED
    }
    for name, report in attachment.report().sinks.items():
        for reason, number in report.dropped.items():
            yield name, reason, number
        if report.lost and name not in open_sinks:  # until a sink is closed, these are still in its queue
            yield name, "lost", report.lost


def _queue_size(attachment: AnyAttachment) -> Readings:
    return ((name, None, h.queued) for name, h in attachment.health().items() if h.capacity)


def _queue_capacity(attachment: AnyAttachment) -> Readings:
    return ((name, None, h.capacity) for name, h in attachment.health().items() if h.capacity)
