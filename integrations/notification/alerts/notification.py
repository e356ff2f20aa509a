"""`Notification`: what the engine wants to have sent, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Any


class Reason(StrEnum):
    """Why a group is notified of; the six of Alertmanager's notification log."""

    FIRST = "first notification"
    NEW_ALERTS = "new alerts"
    SOME_RESOLVED = "some alerts resolved"
    ALL_RESOLVED = "all alerts resolved"
    REPEAT = "repeat interval"
    NONE = "nothing to tell"


class Kind(StrEnum):
    """What a notification is made of."""

    GROUP = "group"  # one group, at its tick
    QUIET_HOURS = "quiet_hours"  # what a route held while it was muted
    RATE_LIMIT = "rate_limit"  # what was over the rate of a channel


class Status(StrEnum):
    """Whether something is wrong."""

    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class NotifiedAlert:
    """An alert as it was when a notification was made. Times are in seconds since 1970."""

    fingerprint: str
    status: Status
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_at: float
    ends_at: float | None
    url: str | None = None
    trace_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give it as built-in types, as Alertmanager's web hook has it."""
        return {
            "status": self.status.value,
            "labels": dict(self.labels),
            "annotations": dict(self.annotations),
            "startsAt": iso(self.starts_at),
            "endsAt": None if self.ends_at is None else iso(self.ends_at),
            "generatorURL": self.url or "",
            "fingerprint": self.fingerprint,
            "traceId": self.trace_id,
        }


@dataclass(frozen=True, slots=True)
class Part:
    """What a notification says of one group.

    Args:
        group_key: the group.
        group_labels: its labels.
        reason: why.
        alerts: those it tells of, firing ones first.
        firing: the fingerprints that the log has as firing once it is delivered.
        resolved: the same of those that are resolved.
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
        id: unique for an engine.
        kind: what it is made of.
        receiver: the name of the receiver.
        channel: the name of the channel, such as `oncall[0]`.
        route_path: where the route stands in the file.
        route_labels: the labels of the route, for templates.
        parts: for each group what there is to say; one if it is of the kind `group`.
        made_at: seconds since 1970.
        fallback_for: the receiver that has given up, if this one takes over.
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
        """How many of the alerts fire; the others are resolved."""
        return firing_in(self.alerts)

    @property
    def reason(self) -> Reason:
        """Why; that of the first part."""
        return self.parts[0].reason

    @property
    def group_key(self) -> str:
        """The group; of several, the keys in a row."""
        return ", ".join(part.group_key for part in self.parts)

    @property
    def group_labels(self) -> Mapping[str, str]:
        """The labels of the group; of several, those that they have in common."""
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
        """Give it as built-in types, with the keys of Alertmanager's web hook (version 4) and some more."""
        return {
            "version": "4",
            "groupKey": self.group_key,
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


def firing_in(alerts: Iterable[NotifiedAlert]) -> int:
    """Count the alerts that fire."""
    return sum(alert.status is Status.FIRING for alert in alerts)


def common(each: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Give what some mappings have in common."""
    if not each:
        return {}
    first, *others = each
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def iso(seconds: float) -> str:
    """Give a moment as ISO 8601 text in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
