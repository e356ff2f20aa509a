"""`alertmanager_data`: a notification as Alertmanager's templates and webhooks see it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from codomyrmex.integrations.notification.alertmanager import alert_order, alertmanager_fingerprint

_NOT_SET = "0001-01-01T00:00:00Z"  # how Go writes a time that is not set
_META = re.compile(r"[\\.+*?()|\[\]{}^$]")

Data = Mapping[str, Any]


def alertmanager_data(notification: Data, external_url: str = "", max_alerts: int = 0) -> dict[str, Any]:
    """Return the data of a notification with the keys, the order and the texts of Alertmanager's templates.

    Args:
        notification: the data of the event of a notification.
        external_url: the URL at which this service is reached.
        max_alerts: how many alerts there may be; 0 for any number. As in Alertmanager, the status and what
            the alerts have in common are those of the alerts that remain.
    """
    alerts = sorted(map(_alert, notification.get("alerts", ())), key=lambda each: alert_order(each["labels"]))
    kept = alerts[:max_alerts] if max_alerts else alerts
    return {
        "receiver": _META.sub(r"\\\g<0>", str(notification.get("receiver", ""))),
        "status": "firing" if any(alert["status"] == "firing" for alert in kept) else "resolved",
        "alerts": kept,
        "groupLabels": dict(notification.get("groupLabels") or {}),
        "commonLabels": _common(alert["labels"] for alert in kept),
        "commonAnnotations": _common(alert["annotations"] for alert in kept),
        "externalURL": external_url,
        "notificationReason": notification.get("notificationReason", ""),
        "routeLabels": dict(notification.get("routeLabels") or {}),
        "groupKey": notification.get("groupKey", ""),
        "truncatedAlerts": len(alerts) - len(kept),
    }


def webhook_body(notification: Data, external_url: str, max_alerts: int) -> dict[str, Any]:
    """Return the body of a webhook, version 4; the arguments are those of `alertmanager_data`."""
    data = alertmanager_data(notification, external_url, max_alerts)
    return {"version": "4", "notification_reason": data.pop("notificationReason"), **data}


def _alert(alert: Data) -> dict[str, Any]:
    ends_at = alert.get("endsAt")
    return {
        "status": alert["status"],
        "labels": dict(alert["labels"]),
        "annotations": dict(alert["annotations"]),
        "startsAt": _time(alert["startsAt"]),
        "endsAt": _NOT_SET if ends_at is None else _time(ends_at),
        "generatorURL": alert.get("generatorURL") or "",
        "fingerprint": alertmanager_fingerprint(alert["labels"]),
    }


def _time(text: str) -> str:
    """Return a time as Go writes it: without the zeros at the end of the fraction."""
    moment = datetime.fromisoformat(text)
    fraction = f"{moment:.%f}".rstrip("0").rstrip(".")
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z"


def _common(mappings: Iterable[Mapping[str, str]]) -> dict[str, str]:
    first, *others = list(mappings) or [{}]
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}
