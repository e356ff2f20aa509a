"""`GroupView`: a group of a running engine, with what each channel was notified about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from codomyrmex.integrations.notification.alerts.engine import AlertEngine
from codomyrmex.integrations.notification.alerts.group import Group
from codomyrmex.integrations.notification.alerts.notification import NotifiedAlert, Status, iso


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group at a point in time. Times are in seconds since 1970.

    Args:
        key: identifies the group.
        receiver: the name of the receiver.
        route: the path of the route in the file.
        labels: the labels that its alerts have in common.
        status: FIRING if any alert fires.
        alerts: the firing ones first.
        suppressed: why alerts are suppressed, by their fingerprints, as of the last tick.
        next_tick: when the next notification may be sent.
        notified: when each channel was last notified.
        in_flight: the channels with a notification in flight.
        failed: the channels whose last notification failed.
    """

    key: str
    receiver: str
    route: str
    labels: Mapping[str, str]
    status: Status
    alerts: Sequence[NotifiedAlert]
    suppressed: Mapping[str, str]
    next_tick: float
    notified: Mapping[str, float]
    in_flight: Sequence[str]
    failed: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the view as built-in types."""
        return {
            **{field.name: getattr(self, field.name) for field in fields(self)},
            "labels": dict(self.labels),
            "status": self.status.value,
            "alerts": [alert.to_dict() for alert in self.alerts],
            "next_tick": iso(self.next_tick),
            "notified": {channel: iso(at) for channel, at in self.notified.items()},
        }


def views_of(engine: AlertEngine, now: float) -> list[GroupView]:
    """Return the groups of an engine, firing ones first."""
    views = [_view(engine, group, now) for group in engine.groups()]
    return sorted(views, key=lambda view: (view.status is not Status.FIRING, view.receiver, view.key))


def _view(engine: AlertEngine, group: Group, now: float) -> GroupView:
    alerts = [alert.as_notified(now) for alert in group.alerts.values()]
    alerts.sort(key=lambda alert: (alert.status is not Status.FIRING, alert.starts_at))
    channels = [channel.name for channel in engine.config.receivers[group.route.receiver].channels]
    entries = {name: engine.log_entry(group.key, name) for name in channels}
    return GroupView(
        key=group.key,
        receiver=group.route.receiver,
        route=group.route.path,
        labels=group.labels,
        status=Status.FIRING if any(a.status is Status.FIRING for a in alerts) else Status.RESOLVED,
        alerts=alerts,
        suppressed=dict(group.suppressed),
        next_tick=group.next_tick,
        notified={name: entry.at for name, entry in entries.items() if entry is not None},
        in_flight=sorted(group.in_flight),
        failed=sorted(group.failed),
    )
