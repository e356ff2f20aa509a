"""`DeliveryCollector`: the figures of an attachment and its stream for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.attachment import Attachment
from codomyrmex.integrations.delivery.blocking import BlockingAttachment
from codomyrmex.integrations.delivery.health import DrainReport, SinkHealth, SinkState
from codomyrmex.integrations.durable.health import StreamHealth, health_of, with_groups
from codomyrmex.streaming import Stream
from codomyrmex.streaming.encoding import replace_surrogates

try:
    from prometheus_client import generate_latest
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
        StateSetMetricFamily,
    )
    from prometheus_client.openmetrics import exposition as openmetrics
    from prometheus_client.process_collector import ProcessCollector
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingExtraError("DeliveryCollector", "prometheus-client", "metrics") from error

_MAX_SINKS, _MAX_REASONS = 500, 100  # label values; the others are counted together
OTHERS = "others"
PLAIN_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = openmetrics.CONTENT_TYPE_LATEST

Counts = Counter[tuple[str, ...]]  # by the values of the labels
_FAMILIES = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class DeliveryCollector(Collector):
    """A collector of `prometheus_client` that reads `report()`, `health()` and `statistics()` at each scrape.

    `REGISTRY.register(DeliveryCollector(attachment, stream))` adds the metrics to those that an application
    serves already; `metrics_app` of `integrations.web` serves them alone.

    Every metric is about this process. A sink of a durable stream counts as queued what the shards that it
    reads here are behind the log, so a group's lag is exported by the processes that hold its leases, and the
    sum over all processes is right. At most 500 sinks and 100 reasons have a series of their own; the others
    are counted together as `others`.

    Args:
        attachment: what `attach` or `attach_blocking` has returned.
        stream: the stream, for its own counters; a durable one has those of its store and of its groups too.

    Raises:
        TypeError: an argument has the wrong type.
    """

    def __init__(
        self, attachment: Attachment | BlockingAttachment | None = None, stream: Stream | None = None
    ) -> None:
        if not isinstance(attachment, Attachment | BlockingAttachment | None):
            name = type(attachment).__name__
            raise TypeError(f"attachment: must be what attach() returned, got {name}")
        if not isinstance(stream, Stream | None):
            raise TypeError(f"stream: must be a Stream, got {type(stream).__name__}")
        self._attachment = attachment
        self._stream = stream
        self._sinks = _Names(_MAX_SINKS)
        self._reasons = _Names(_MAX_REASONS)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        store = health_of(self._stream)
        attached = {} if self._attachment is None else self._attachment.health()
        report = DrainReport({}) if self._attachment is None else self._attachment.report()
        sinks = with_groups(attached, store)
        yield from self._sink_counters(report, attached, sinks)
        yield from self._sink_gauges(sinks)
        if self._stream is not None:
            yield from _stream_metrics(self._stream)
        if store is not None:
            yield from self._store_metrics(store)

    # Sinks

    def _sink_counters(
        self, report: DrainReport, attached: Mapping[str, SinkHealth], sinks: Mapping[str, SinkHealth]
    ) -> Iterator[Metric]:
        delivered, retried, dead, dropped = Counts(), Counts(), Counts(), Counts()
        for name, sink in report.sinks.items():  # removed ones included
            label = self._sinks.label(name)
            delivered[label,] += sink.delivered
            retried[label,] += sink.retried
            dead[label,] += sink.given_up
            self._add_dropped(dropped, label, sink.dropped)
            if sink.lost and (name not in attached or attached[name].state is SinkState.CLOSED):
                self._add_dropped(dropped, label, {"lost": sink.lost})
        for name, health in sinks.items():
            if name in attached:
                continue
            label = self._sinks.label(name)
            delivered[label,] += health.delivered
            retried[label,] += health.retried
            dead[label,] += health.dead
            self._add_dropped(dropped, label, health.dropped)
        prefix = "codomyrmex_sink_"
        yield _counter(f"{prefix}delivered_events", "Events that the sink has accepted.", delivered)
        yield _counter(f"{prefix}retried_events", "Events sent again, counted each time.", retried)
        yield _counter(f"{prefix}dead_letters", "Events given up after at least one attempt.", dead)
        yield _counter(
            f"{prefix}dropped_events", "Events that never reached the sink.", dropped, "sink", "reason"
        )

    def _add_dropped(self, dropped: Counts, label: str, reasons: Mapping[str, int]) -> None:
        for reason, number in reasons.items():
            dropped[label, self._reasons.label(reason)] += number

    def _sink_gauges(self, sinks: Mapping[str, SinkHealth]) -> Iterator[Metric]:
        named: dict[str, SinkHealth] = {}
        for name, health in sinks.items():
            label = self._sinks.label(name)
            if label != OTHERS:
                named[label] = health

        def gauge(
            name: str, documentation: str, read: Callable[[SinkHealth], float | datetime | None]
        ) -> Metric:
            metric = GaugeMetricFamily(f"codomyrmex_sink_{name}", documentation, labels=["sink"])
            for label, health in named.items():
                value = read(health)
                if value is not None:
                    seconds = value.timestamp() if isinstance(value, datetime) else value
                    metric.add_metric([label], seconds)
            return metric

        yield gauge(
            "queued_events",
            "Events in the queue, or in the log of a durable stream behind what was delivered here.",
            lambda health: health.queued,
        )
        yield gauge("in_flight_events", "Events that are being sent.", lambda health: health.in_flight)
        yield gauge("queue_capacity_events", "The size of the queue.", lambda health: health.capacity or None)
        yield gauge(
            "oldest_event_age_seconds",
            "Age of the oldest event that was not delivered, 0 if there is none.",
            lambda health: health.oldest_age,
        )
        yield gauge(
            "last_success_timestamp_seconds",
            "When events were last delivered.",
            lambda health: health.last_success,
        )
        yield gauge(
            "last_loss_timestamp_seconds", "When an event was last lost.", lambda health: health.last_loss
        )
        states = StateSetMetricFamily("codomyrmex_sink_state", "The state of the sink.", labels=["sink"])
        for label, health in named.items():
            states.add_metric([label], {state.value: state is health.state for state in SinkState})
        yield states

    # The store of a durable stream

    def _store_metrics(self, health: StreamHealth) -> Iterator[Metric]:
        prefix = "codomyrmex_store_"
        yield GaugeMetricFamily(
            f"{prefix}available", "Whether the store answered last time.", float(health.available)
        )
        yield GaugeMetricFamily(
            f"{prefix}unavailable_seconds",
            "Seconds since the store stopped answering, 0 if it is available.",
            health.unavailable_for,
        )
        yield GaugeMetricFamily(
            f"{prefix}pending_events", "Events that are not in the store yet.", health.pending
        )
        dropped = Counts()
        for reason, number in health.dropped.items():
            dropped[self._reasons.label(reason),] += number
        yield _counter(
            f"{prefix}dropped_events", "Events that will never be in the store.", dropped, "reason"
        )
        for name, documentation, number in (
            (
                "unconfirmed_events",
                "Events whose publish timed out; they may be in the store.",
                health.unconfirmed,
            ),
            ("missed_events", "Events removed before a subscription received them.", health.missed),
            ("undecodable_entries", "Entries of the log that are not events.", health.undecodable),
        ):
            yield CounterMetricFamily(f"{prefix}{name}", documentation, number)


class _Names:
    """The values of a label: the first ones that were seen, and one that stands for all others."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._labels: dict[str, str] = {}

    def label(self, name: str) -> str:
        """Return the value for a name, which UTF-8 can encode."""
        label = self._labels.get(name)
        if label is None:
            if len(self._labels) >= self._most:
                return OTHERS
            label = self._labels[name] = replace_surrogates(name)
        return label


def _counter(name: str, documentation: str, counts: Counts, *labels: str) -> Metric:
    metric = CounterMetricFamily(name, documentation, labels=labels or ("sink",))
    for values, number in counts.items():
        metric.add_metric(values, number)
    return metric


def _stream_metrics(stream: Stream) -> Iterator[Metric]:
    prefix, statistics = "codomyrmex_stream_", stream.statistics()
    yield CounterMetricFamily(
        f"{prefix}published_events", "Events published in this process.", statistics.published
    )
    yield CounterMetricFamily(
        f"{prefix}dropped_events",
        "Events dropped by an interceptor, or lost by a subscription whose queue was full.",
        statistics.dropped,
    )
    yield CounterMetricFamily(
        f"{prefix}handler_errors",
        "Exceptions of handlers, filters and interceptors.",
        statistics.handler_errors,
    )
    yield GaugeMetricFamily(f"{prefix}subscribers", "Current subscriptions.", statistics.subscribers)
    yield GaugeMetricFamily(f"{prefix}buffered_events", "Events held for replay.", statistics.buffered)


class Figure(NamedTuple):
    """A metric with its samples.

    Attributes:
        kind: `counter`, `gauge`, or `histogram`.
        name: the name, without the suffix `_total`.
        documentation: one sentence.
        labels: the names of the labels.
        values: the samples, by the values of the labels; for a histogram, the buckets with their cumulative
            counts, and the sum.
    """

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    documentation: str
    labels: tuple[str, ...]
    values: Mapping[Any, Any]


class FigureCollector(Collector):
    """A collector of `prometheus_client` for figures, and for the metrics of the process.

    Args:
        figures: the figures.
    """

    def __init__(self, figures: Iterable[Figure]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        for kind, name, documentation, labels, values in self._figures:
            metric: Any = _FAMILIES[kind](name, documentation, labels=labels)
            for own, value in values.items():
                metric.add_metric(
                    [replace_surrogates(text) for text in own], *(value if kind == "histogram" else (value,))
                )
            yield metric
        yield from ProcessCollector(registry=None).collect()


def encode(collector: Collector, *, as_openmetrics: bool) -> bytes:
    """Return the metrics of a collector as OpenMetrics, or in the text format of Prometheus."""
    generate: Callable[[Collector], bytes] = (
        openmetrics.generate_latest if as_openmetrics else generate_latest
    )
    return generate(collector)
