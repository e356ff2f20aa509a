"""`alerts_of` and `event_of`: convert the alerts in a webhook of Alertmanager or Grafana to events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codomyrmex.streaming import EventDecodeError

_EVENT_KEYS = frozenset({"id", "type", "data", "metadata", "timestamp"})
_LINKS = {
    "dashboardURL": "dashboard_url",
    "panelURL": "panel_url",
    "silenceURL": "silence_url",
    "valueString": "values",
}
"""Fields that Grafana adds to an alert, and the names of the annotations that they become."""

_TEXTS = ("summary", "description", "message")


def alerts_of(body: Any) -> list[Any] | None:
    """Return the alerts in the body of a webhook; None if the body is something else.

    Alertmanager's webhook (version 4) and a webhook contact point of Grafana send the same fields, and
    Grafana some more.
    """
    if isinstance(body, Mapping) and not body.keys() & _EVENT_KEYS:
        alerts = body.get("alerts")
        if isinstance(alerts, list):
            return alerts
    return None


def event_of(alert: Any, topic: str) -> dict[str, Any]:
    """Convert an alert of a webhook to a mapping for `Event.from_dict`.

    A firing alert becomes an event of type ERROR. `AlertSink` reads labels, annotations, status, times and
    link from the metadata; links and values of Grafana become annotations.

    Args:
        alert: an item of `alerts`.
        topic: the topic of the event.

    Raises:
        EventDecodeError: the alert has no labels, or its status is neither `firing` nor `resolved`.
    """
    if not isinstance(alert, Mapping):
        raise EventDecodeError("alert", "must be a mapping", alert)
    labels, annotations = _texts(alert, "labels"), _texts(alert, "annotations")
    if not labels:
        raise EventDecodeError("labels", "must not be empty", alert.get("labels"))
    status = alert.get("status")
    if status not in {"firing", "resolved"}:
        raise EventDecodeError("status", "must be 'firing' or 'resolved'", status)
    text = next((annotations[name] for name in _TEXTS if annotations.get(name)), None)
    for key, name in _LINKS.items():
        if isinstance(alert.get(key), str) and alert[key]:
            annotations.setdefault(name, alert[key])
    metadata = {
        "topic": topic,
        "labels": labels,
        "annotations": annotations,
        "status": status,
        "starts_at": alert.get("startsAt"),
        "ends_at": alert.get("endsAt") if status == "resolved" else None,
        "generator_url": alert.get("generatorURL"),
    }
    return {
        "type": "error" if status == "firing" else "message",
        "data": text or labels.get("alertname") or "an alert without a name",
        "metadata": {key: value for key, value in metadata.items() if value},
    }


def _texts(alert: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = alert.get(key) or {}
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
        raise EventDecodeError(key, "must be a mapping of texts", value)
    return dict(value)
