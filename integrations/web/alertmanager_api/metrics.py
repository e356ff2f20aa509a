"""The metrics of the API, with the names that Alertmanager's alerts and dashboards use."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.notification import AlertSink, NotifierRole
from codomyrmex.integrations.notification.alerts.alert_views import AlertFigures
from codomyrmex.integrations.notification.alerts.integration_counts import LATENCY_BOUNDS, Latency
from codomyrmex.integrations.web.alertmanager_api.parsing import PostedAlerts
from codomyrmex.integrations.web.alertmanager_api.status import VERSION
from starlette.exceptions import HTTPException

_HASH_DIGITS = 12  # 48 bits, which a float represents exactly


class ApiCounts:
    """Counts of the alerts that were posted to this process.

    Attributes:
        received: the accepted alerts, by `firing` and `resolved`.
        invalid: the number of refused alerts.
    """

    def __init__(self) -> None:
        self.received = Counter[str](firing=0, resolved=0)
        self.invalid = 0

    def add(self, posted: PostedAlerts, now: float) -> None:
        """Count the alerts of a body."""
        resolved = sum(alert.ends_at is not None and alert.ends_at <= now for alert in posted.alerts)
        self.received.update(firing=len(posted.alerts) - resolved, resolved=resolved)
        self.invalid += len(posted.problems)


def encode_metrics(sink: AlertSink, figures: AlertFigures, counts: ApiCounts) -> tuple[bytes, str]:
    """Return the metrics in the text format of Prometheus, and its media type.

    Raises:
        HTTPException: with status 501 if prometheus-client is not installed.
    """
    try:
        from codomyrmex.integrations.logging_monitoring import delivery_collector as formats
    except MissingExtraError as error:
        raise HTTPException(501, str(error)) from None
    found = (formats.Figure(*each) for each in _figures(sink, figures, counts))
    return formats.encode(formats.FigureCollector(found), as_openmetrics=False), formats.PLAIN_TYPE


_Figure = tuple[Any, str, str, tuple[str, ...], Mapping[Any, Any]]


def _figures(sink: AlertSink, figures: AlertFigures, counts: ApiCounts) -> Iterator[_Figure]:
    yield _gauge(
        "alerts",
        "The number of firing alerts by state.",
        {"active": figures.active, "suppressed": figures.suppressed, "unprocessed": 0},
        "state",
    )
    received = {(status, "v2"): count for status, count in counts.received.items()}
    yield (
        *("counter", "alertmanager_alerts_received", "The number of alerts that were posted."),
        ("status", "version"),
        received,
    )
    yield _counter(
        "alerts_invalid",
        "The number of alerts that were posted and refused.",
        {"v2": counts.invalid},
        "version",
    )
    version = (f"python{platform.python_version()}", VERSION)
    yield (
        *("gauge", "alertmanager_build_info", "Always 1; the labels have the versions."),
        ("goversion", "version"),
        {version: 1},
    )
    shares = sink.role is not NotifierRole.ALONE
    yield _gauge("cluster_enabled", "Whether processes share their alerts.", {"": shares})
    if shares:
        yield _gauge(
            "cluster_members", "The number of processes that share their alerts.", {"": figures.members}
        )
    state = sink.config_state
    hashed = int(state.id[:_HASH_DIGITS] or "0", 16)
    yield _gauge("config_hash", "Identifies the configuration that is in force.", {"": hashed})
    yield _gauge(
        "config_last_reload_success_timestamp_seconds",
        "When the configuration was last loaded.",
        {"": state.loaded_at},
    )
    yield _gauge(
        "config_last_reload_successful",
        "Whether the last reload of the configuration succeeded.",
        {"": not state.last_reload_failed},
    )
    yield _gauge("dispatcher_aggregation_groups", "The number of groups of alerts.", {"": figures.groups})
    yield _gauge("receivers", "The number of configured receivers.", {"": len(sink.config.receivers)})
    channels = sum(len(receiver.channels) for receiver in sink.config.receivers.values())
    yield _gauge("integrations", "The number of configured channels.", {"": channels})
    yield _gauge(
        "silences",
        "The number of silences by state.",
        {state.value: count for state, count in figures.silences.items()},
        "state",
    )
    yield from _sent(figures)


def _sent(figures: AlertFigures) -> Iterator[_Figure]:
    """Yield the figures of the notifications that this process has sent."""
    counts = figures.counts
    yield _counter(
        "notifications", "The number of notifications that were sent or failed.", counts.notifications
    )
    yield (
        *("counter", "alertmanager_notifications_failed", "The number of notifications that failed."),
        ("integration", "reason"),
        dict(counts.failed),
    )
    yield _counter("notification_requests", "The number of attempts to send.", counts.requests)
    yield _counter(
        "notification_requests_failed", "The number of failed attempts to send.", counts.failed_requests
    )
    yield (
        *("histogram", "alertmanager_notification_latency_seconds", "The duration of attempts in seconds."),
        ("integration",),
        {(kind,): _histogram(latency) for kind, latency in counts.latency.items()},
    )


def _gauge(name: str, documentation: str, values: dict[str, float], *labels: str) -> _Figure:
    """Return a gauge with one label, or none."""
    own = {(value,) if labels else (): float(number) for value, number in values.items()}
    return "gauge", f"alertmanager_{name}", documentation, labels, own


def _counter(name: str, documentation: str, values: dict[str, int], label: str = "integration") -> _Figure:
    own = {(value,): float(number) for value, number in values.items()}
    return "counter", f"alertmanager_{name}", documentation, (label,), own


def _histogram(latency: Latency) -> tuple[list[tuple[str, float]], float]:
    bounds = [*(f"{bound:g}" for bound in LATENCY_BOUNDS), "+Inf"]
    return list(zip(bounds, map(float, accumulate(latency.counts)), strict=True)), latency.total
