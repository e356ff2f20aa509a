"""`alertmanager_data`: a notification as Alertmanager's templates and web hooks see it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cmp_to_key, lru_cache
from typing import Any

_NOT_SET = "0001-01-01T00:00:00Z"  # how Go writes a time that is not set
_META = re.compile(r"[\\.+*?()|\[\]{}^$]")
_FNV_OFFSET, _FNV_PRIME = 14_695_981_039_346_656_037, 1_099_511_628_211

Data = Mapping[str, Any]


def alertmanager_data(notification: Data, external_url: str = "", max_alerts: int = 0) -> dict[str, Any]:
    """Return the data of a notification with the keys, the order and the texts of Alertmanager's templates.

    Args:
        notification: the data of the event of a notification.
        external_url: the URL at which this service is reached.
        max_alerts: how many alerts there may be; 0 for any number. As in Alertmanager, the status and what
            the alerts have in common are those of the alerts that remain.
    """
    alerts = sorted(map(_alert, notification.get("alerts", ())), key=cmp_to_key(_order))
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
    """Return the body of a web hook, version 4; the arguments are those of `alertmanager_data`."""
    data = alertmanager_data(notification, external_url, max_alerts)
    return {"version": "4", "notification_reason": data.pop("notificationReason"), **data}


@lru_cache(10_000)  # the alerts of a group are sent again and again
def fingerprint(labels: tuple[tuple[str, str], ...]) -> str:
    """Return Alertmanager's fingerprint of labels, sorted by name: the 64 bits of FNV-1a."""
    value = _FNV_OFFSET
    for name, text in labels:
        for byte in b"%b\xff%b\xff" % (name.encode(errors="replace"), text.encode(errors="replace")):
            value = ((value ^ byte) * _FNV_PRIME) & 0xFFFF_FFFF_FFFF_FFFF
    return f"{value:016x}"


def _alert(alert: Data) -> dict[str, Any]:
    ends_at = alert.get("endsAt")
    return {
        "status": alert["status"],
        "labels": dict(alert["labels"]),
        "annotations": dict(alert["annotations"]),
        "startsAt": _time(alert["startsAt"]),
        "endsAt": _NOT_SET if ends_at is None else _time(ends_at),
        "generatorURL": alert.get("generatorURL") or "",
        "fingerprint": fingerprint(tuple(sorted(alert["labels"].items()))),
    }


def _time(text: str) -> str:
    """Return a time as Go writes it: without the zeros at the end of the fraction."""
    moment = datetime.fromisoformat(text)
    fraction = f"{moment:.%f}".rstrip("0").rstrip(".")
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z"


def _common(mappings: Iterable[Mapping[str, str]]) -> dict[str, str]:
    first, *others = list(mappings) or [{}]
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def _order(one: Data, other: Data) -> int:
    """Compare alerts: by their job, by their instance, by the number of their labels, by their labels."""
    mine, theirs = one["labels"], other["labels"]
    for name in ("job", "instance"):
        if (name in mine) != (name in theirs):
            return -1 if name in mine else 1
        if mine.get(name) != theirs.get(name):
            return -1 if mine[name] < theirs[name] else 1
    if len(mine) != len(theirs):
        return len(mine) - len(theirs)
    for name in sorted({*mine, *theirs}):
        if (name in mine) != (name in theirs):
            return 1 if name in mine else -1
        if mine[name] != theirs[name]:
            return -1 if mine[name] < theirs[name] else 1
    return 0
