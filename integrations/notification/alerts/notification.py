"""`Notification`: what is sent through a channel and why; and the entries of the notification log."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, Self

from codomyrmex.integrations.notification.alerts.alert import MAX_TIME

# The numbers in group keys that distinguish routes with equal matchers. Text in quotes is left alone.
_NUMBERS = re.compile(r"""("(?:\\.|[^"\\])*")|#\d+""")


class Reason(StrEnum):
    """Why a notification is sent, in the words of Alertmanager's notification reasons."""

    FIRST = "first notification"
    NEW_ALERTS = "new alerts added"
    SOME_RESOLVED = "some alerts resolved"
    ALL_RESOLVED = "all alerts resolved"
    REPEAT = "repeat interval elapsed"
    NONE = "none"


class Kind(StrEnum):
    """What caused a notification."""

    GROUP = "group"  # the tick of one group
    QUIET_HOURS = "quiet_hours"  # the end of a mute, on a route with `on_unmute: summary`
    RATE_LIMIT = "rate_limit"  # a rate limit that allows sending again


class Status(StrEnum):
    """The status of an alert, a group or a notification."""

    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class NotifiedAlert:
    """An alert as it was when a notification was created. Times are in seconds since 1970."""

    fingerprint: str
    status: Status
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_at: float
    ends_at: float | None
    url: str | None = None
    trace_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the alert with the keys of Alertmanager's webhook, and `traceId`."""
        return {
            "status": self.status.value,
            "labels": dict(self.labels),
            "annotations": dict(self.annotations),
            "startsAt": iso(self.starts_at, "microseconds"),
            "endsAt": None if self.ends_at is None else iso(self.ends_at, "microseconds"),
            "generatorURL": self.url or "",
            "fingerprint": self.fingerprint,
            "traceId": self.trace_id,
        }


@dataclass(frozen=True, slots=True)
class Part:
    """What a notification contains about one group.

    Args:
        group_key: the key of the group.
        group_labels: the labels of the group.
        reason: why the notification is sent for this group.
        alerts: the alerts that are shown, firing ones first.
        firing: the fingerprints that the log records as firing after delivery.
        resolved: the fingerprints that the log records as resolved after delivery.
    """

    group_key: str
    group_labels: Mapping[str, str]
    reason: Reason
    alerts: Sequence[NotifiedAlert]
    firing: frozenset[str]
    resolved: frozenset[str]


@dataclass(frozen=True)
class Notification:
    """Something to send through one channel.

    Args:
        id: unique within an engine.
        kind: what caused it.
        receiver: the name of the receiver.
        channel: the name of the channel, such as `oncall[0]`.
        route_path: the position of the route in the file.
        route_labels: the labels of the route, for templates.
        parts: one for each group; exactly one for the kind `group`.
        made_at: seconds since 1970.
        fallback_for: the receiver that failed, if this one is its fallback.
    """

    id: str
    kind: Kind
    receiver: str
    channel: str
    route_path: str
    route_labels: Mapping[str, str]
    parts: Sequence[Part]
    made_at: float
    fallback_for: str | None = None

    @cached_property
    def alerts(self) -> tuple[NotifiedAlert, ...]:
        """The alerts of all parts, firing ones first."""
        alerts = [alert for part in self.parts for alert in part.alerts]
        return tuple(sorted(alerts, key=lambda alert: alert.status is not Status.FIRING))

    @property
    def status(self) -> Status:
        """FIRING if any alert fires."""
        return Status.FIRING if self.firing else Status.RESOLVED

    @property
    def firing(self) -> int:
        """The number of firing alerts; the others are resolved."""
        return count_firing(self.alerts)

    @property
    def reason(self) -> Reason:
        """The reason of the first part."""
        return self.parts[0].reason

    @property
    def group_key(self) -> str:
        """The key of the group; of several groups, their keys joined by commas."""
        return ", ".join(part.group_key for part in self.parts)

    @property
    def group_labels(self) -> Mapping[str, str]:
        """The labels of the group; of several groups, those that they have in common."""
        return common([part.group_labels for part in self.parts])

    @cached_property
    def common_labels(self) -> Mapping[str, str]:
        """The labels that all alerts have in common."""
        return common([alert.labels for alert in self.alerts])

    @cached_property
    def common_annotations(self) -> Mapping[str, str]:
        """The annotations that all alerts have in common."""
        return common([alert.annotations for alert in self.alerts])

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of Alertmanager's webhook (version 4) and some more, as built-in types."""
        return {
            "version": "4",
            "groupKey": _NUMBERS.sub(r"\1", self.group_key),
            "truncatedAlerts": 0,
            "status": self.status.value,
            "receiver": self.receiver,
            "groupLabels": dict(self.group_labels),
            "commonLabels": dict(self.common_labels),
            "commonAnnotations": dict(self.common_annotations),
            "alerts": [alert.to_dict() for alert in self.alerts],
            "notificationReason": self.reason.value,
            "routeLabels": dict(self.route_labels),
            "id": self.id,
            "kind": self.kind.value,
            "channel": self.channel,
            "route": self.route_path,
            "fallbackFor": self.fallback_for,
        }


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An entry of the notification log: the last notification of a group that a channel delivered.

    Args:
        firing: the fingerprints that were firing.
        resolved: the fingerprints that were resolved.
        at: when it was delivered, in seconds since 1970.
        expires: when the entry may be deleted.
    """

    firing: frozenset[str]
    resolved: frozenset[str]
    at: float
    expires: float

    def to_dict(self) -> dict[str, Any]:
        sets = {"firing": sorted(self.firing), "resolved": sorted(self.resolved)}
        return {**sets, "at": self.at, "expires": self.expires}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(frozenset(data["firing"]), frozenset(data["resolved"]), data["at"], data["expires"])


def count_firing(alerts: Iterable[NotifiedAlert]) -> int:
    """Return how many alerts fire."""
    return sum(alert.status is Status.FIRING for alert in alerts)


def pairs(labels: Mapping[str, str]) -> str:
    """Return labels as text, like `alertname=disk host=a`."""
    return " ".join(f"{name}={value}" for name, value in labels.items())


def common(mappings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the items that all mappings have in common."""
    if not mappings:
        return {}
    first, *others = mappings
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def moment_of(seconds: float) -> datetime:
    """Return a time in UTC; one outside the years 1970 to 2999 is clamped, so that it can be shown."""
    return datetime.fromtimestamp(min(max(seconds, 0.0), MAX_TIME), UTC)


def iso(seconds: float, timespec: str = "milliseconds") -> str:
    """Return a time as ISO 8601 text in UTC."""
    return moment_of(seconds).isoformat(timespec=timespec).replace("+00:00", "Z")
