"""`Audit`: the decisions of an alert sink as events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codomyrmex.integrations.configuration.problems import ConfigError
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.health import origin_for
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.notification.alerts.channel_dispatcher import Outcome
from codomyrmex.integrations.notification.alerts.config import AlertConfig
from codomyrmex.integrations.notification.alerts.planner import Suppressed
from codomyrmex.streaming import Event, EventType, Stream, create_event
from codomyrmex.streaming.provenance import ORIGIN, marked

_log = Diagnostics(__name__)


class Audit:
    """Publishes the decisions of a sink, but not to the sink itself; does nothing without a stream."""

    def __init__(self, sink: object, stream: Stream | None) -> None:
        self._origin = {ORIGIN: marked(origin_for(sink))}
        self._stream = stream

    def concluded(self, outcome: Outcome) -> None:
        """Publish the outcome of a notification."""
        notification = outcome.notification
        data = {
            "id": notification.id,
            "kind": notification.kind.value,
            "receiver": notification.receiver,
            "channel": notification.channel,
            "status": notification.status.value,
            "reason": notification.reason.value,
            "route": notification.route_path,
            "group_key": notification.group_key,
            "group_labels": dict(notification.group_labels),
            "firing": notification.firing,
            "resolved": len(notification.alerts) - notification.firing,
            "fallback_for": notification.fallback_for,
        }
        if outcome.error is None:
            self._publish("notified", data)
        else:
            self._publish("failed", {**data, "error": outcome.error}, EventType.ERROR)

    def would_notify(self, event: Event) -> None:
        """Publish the rendered event of a notification that a dry run does not send."""
        keys = ("receiver", "channel", "status", "title", "body", "format", "payload")
        data = {key: event.metadata[key] for key in keys if key in event.metadata}
        self._publish("would_notify", {**data, "notification": event.data})

    def suppressed(self, suppressed: Suppressed) -> None:
        """Publish that an alert is suppressed, and why."""
        self._publish(
            "suppressed",
            {
                "labels": dict(suppressed.labels),
                "group_key": suppressed.group_key,
                "route": suppressed.route_path,
                "reason": suppressed.reason,
                "by": suppressed.by,
            },
        )

    def reloaded(self, config: AlertConfig, removed: Sequence[str]) -> None:
        """Publish that another configuration is in force."""
        data = {"file": config.source_map.file, "receivers": list(config.receivers), "removed": list(removed)}
        self._publish("reloaded", data)

    def reload_failed(self, error: Exception) -> None:
        """Publish that a configuration was rejected."""
        problems = [problem.to_dict() for problem in error.problems] if isinstance(error, ConfigError) else []
        self._publish("reload_failed", {"error": str(error), "problems": problems}, EventType.ERROR)

    def _publish(self, name: str, data: dict[str, Any], type: EventType = EventType.MESSAGE) -> None:
        if self._stream is None:
            return
        event = create_event(data, type, topic=f"alerts.{name}", **self._origin)
        try:
            self._stream.publish_nowait(event)
        except Exception as error:  # noqa: BLE001 - the audit must not affect the notifications
            _log.warning(name, "event %s could not be published: %s", event.topic, describe(error))
