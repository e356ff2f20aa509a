"""What there is to see of a running engine: its groups, with what each channel knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codomyrmex.integrations.notification.alerts.notification import NotifiedAlert, Status, iso

if TYPE_CHECKING:
    from codomyrmex.integrations.notification.alerts.engine import AlertEngine
    from codomyrmex.integrations.notification.alerts.group import Group


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group as it is at a moment. Times are in seconds since 1970.

    Args:
        key: what names it.
        receiver: who is told.
        route: the path of its route in the file.
        labels: what its alerts have in common.
        status: FIRING if any alert fires.
        alerts: firing ones first.
        suppressed: why alerts are kept back, by their fingerprints, as of the last tick.
        next_tick: when it may be told of next.
        told: when each channel was told last.
        under_way: the channels that are being told now.
        given_up: the channels that could not be told last time.
    """

    key: str
    receiver: str
    route: str
    labels: Mapping[str, str]
    status: Status
    alerts: Sequence[NotifiedAlert]
    suppressed: Mapping[str, str]
    next_tick: float
    told: Mapping[str, float]
    under_way: Sequence[str]
    given_up: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """Give it as built-in types."""
        return {
            "key": self.key,
            "receiver": self.receiver,
            "route": self.route,
            "labels": dict(self.labels),
            "status": self.status.value,
            "alerts": [alert.to_dict() for alert in self.alerts],
            "suppressed": dict(self.suppressed),
            "next_tick": iso(self.next_tick),
            "told": {channel: iso(at) for channel, at in self.told.items()},
            "under_way": list(self.under_way),
            "given_up": list(self.given_up),
        }


def views_of(engine: AlertEngine, now: float) -> list[GroupView]:
    """Give the groups of an engine as they are now, firing ones first."""
    views = [_view(engine, group, now) for group in engine.groups()]
    return sorted(views, key=lambda view: (view.status is not Status.FIRING, view.receiver, view.key))


def _view(engine: AlertEngine, group: Group, now: float) -> GroupView:
    alerts = [alert.as_notified(now) for alert in group.alerts.values()]
    alerts.sort(key=lambda alert: (alert.status is not Status.FIRING, alert.starts_at))
    channels = [channel.name for channel in engine.config.receivers[group.route.receiver].channels]
    told = {name: entry.at for name in channels if (entry := engine.log_entry(group.key, name)) is not None}
    return GroupView(
        key=group.key,
        receiver=group.route.receiver,
        route=group.route.path,
        labels=group.labels,
        status=Status.FIRING if any(a.status is Status.FIRING for a in alerts) else Status.RESOLVED,
        alerts=alerts,
        suppressed=dict(group.suppressed),
        next_tick=group.next_tick,
        told=told,
        under_way=sorted(group.under_way),
        given_up=sorted(group.given_up),
    )
