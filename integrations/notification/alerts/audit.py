"""What a sink decides, as events for whoever wants to know."""

from __future__ import annotations

from typing import Any

from codomyrmex.integrations.configuration.problems import ConfigError
from codomyrmex.integrations.delivery.health import origin_for
from codomyrmex.integrations.notification.alerts.config import AlertConfig
from codomyrmex.integrations.notification.alerts.desk import Suppressed
from codomyrmex.integrations.notification.alerts.notification import Notification
from codomyrmex.integrations.notification.alerts.outbox import Outcome
from codomyrmex.streaming import Event, EventType, Stream, create_event
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.provenance import ORIGIN, marked

_log = Diagnostics(__name__)


class Audit:
    """Publishes what a sink decides; to nobody where there is no stream.

    Args:
        sink: the sink; it is not sent what is about itself.
        stream: where to, or None.
    """

    def __init__(self, sink: object, stream: Stream | None) -> None:
        self._origin = {ORIGIN: marked(origin_for(sink))}
        self._stream = stream

    def concluded(self, outcome: Outcome) -> None:
        """Tell what became of a notification."""
        data = _told(outcome.notification)
        if outcome.error is None:
            self._publish("notified", data)
        else:
            self._publish("failed", {**data, "error": outcome.error}, EventType.ERROR)

    def suppressed(self, suppressed: Suppressed) -> None:
        """Tell that an alert is kept back, and why."""
        self._publish(
            "suppressed",
            {
                "labels": dict(suppressed.labels),
                "group_key": suppressed.group_key,
                "route": suppressed.route_path,
                "reason": suppressed.why,
                "by": suppressed.by,
            },
        )

    def reloaded(self, config: AlertConfig) -> None:
        """Tell that another configuration is in force."""
        receivers = list(config.receivers)
        self._publish("reloaded", {"file": config.places.file, "receivers": receivers})

    def reload_failed(self, error: Exception) -> None:
        """Tell that a configuration was not taken; the one before it stays."""
        problems = [problem.to_dict() for problem in error.problems] if isinstance(error, ConfigError) else []
        self._publish("reload_failed", {"error": str(error), "problems": problems}, EventType.ERROR)

    def _publish(self, what: str, data: dict[str, Any], type: EventType = EventType.MESSAGE) -> None:
        if self._stream is None:
            return
        event: Event = create_event(data, type, topic=f"alerts.{what}", **self._origin)
        try:
            self._stream.publish_nowait(event)
        except Exception as error:  # noqa: BLE001 - what is told must not disturb the telling
            _log.warning(what, "event %s could not be published", event.topic, error=error)


def _told(notification: Notification) -> dict[str, Any]:
    firing = notification.firing
    return {
        "id": notification.id,
        "kind": notification.kind.value,
        "receiver": notification.receiver,
        "channel": notification.channel,
        "status": notification.status.value,
        "reason": notification.reason.value,
        "route": notification.route_path,
        "group_key": notification.group_key,
        "group_labels": dict(notification.group_labels),
        "firing": firing,
        "resolved": len(notification.alerts) - firing,
        "fallback_for": notification.fallback_for,
    }
