"""`ActiveAlert` and `Group`: active alerts, and the groups of a route that contain them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from codomyrmex.integrations.configuration.matchers import Labels, quote_group
from codomyrmex.integrations.notification.alerts.alert import MAX_TIME, Alert, past_or
from codomyrmex.integrations.notification.alerts.config import Route
from codomyrmex.integrations.notification.alerts.notification import (
    LogEntry,
    NotifiedAlert,
    Part,
    Reason,
    Status,
)
from codomyrmex.integrations.notification.channels import ChannelConfig

MAX_PENDING = 1_000  # alerts that a group keeps for the end of a mute
_SAVED = (
    *("labels", "annotations", "starts_at", "ends_at", "times_out", "updated_at", "url", "trace_id"),
    "closed",
)


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """A route that matches some labels, and the group that they belong to there.

    Args:
        route: the node of the tree, with its settings.
        group_labels: the labels that define the group.
        group_key: what identifies the group in the notification log.
    """

    route: Route
    group_labels: Mapping[str, str]
    group_key: str

    @property
    def receiver(self) -> str:
        """The name of the receiver."""
        return self.route.receiver

    @property
    def path(self) -> str:
        """The position of the route in the file."""
        return self.route.path


def route_matches(routes: Iterable[Route], labels: Labels) -> list[RouteMatch]:
    """Return the matches for routes that match labels, with the group of the labels at each."""
    matches, last, group, text = list[RouteMatch](), None, dict[str, str](), ""
    for route in routes:
        names = tuple(sorted(labels)) if route.group_names is None else route.group_names
        if names != last:  # as most routes have the same names
            last = names
            group = {name: value for name in names if (value := labels.get(name))}
            text = ", ".join([f"{name}={quote_group(value)}" for name, value in group.items()])
        matches.append(RouteMatch(route, group, f"{route.key}:{{{text}}}"))
    return matches


@dataclass(slots=True, eq=False)
class ActiveAlert:
    """An alert and the groups it is in. There may be 100,000, so it has few attributes, and slots.

    Attributes:
        times_out: whether it ends when no more events arrive.
        closed: the keys of groups that have sent its resolution, while others have not.
        alertmanager_id: Alertmanager's fingerprint of the alert; empty until it is first needed.
    """

    fingerprint: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str] = field(default_factory=dict)
    starts_at: float = math.inf
    ends_at: float = -math.inf
    times_out: bool = True
    updated_at: float = -math.inf
    url: str | None = None
    trace_id: str | None = None
    groups: tuple[Group, ...] = ()
    closed: tuple[str, ...] = ()
    alertmanager_id: str = ""

    def fires(self, now: float) -> bool:
        return self.ends_at > now

    def update(self, alert: Alert, now: float, resolve_timeout: float) -> None:
        """Merge a newer alert, as Alertmanager does.

        While the alert is firing, the earliest start is kept, and of two ends that were given, the later one.
        """
        started = past_or(alert.starts_at, now)
        times_out = alert.ends_at is None
        ends_at = now + resolve_timeout
        if alert.ends_at is not None:
            ends_at = alert.ends_at if 0 <= alert.ends_at <= MAX_TIME else now
        if self.fires(now):
            self.starts_at = min(self.starts_at, started)
            if now < ends_at < self.ends_at and not self.times_out:
                ends_at = self.ends_at  # until an alert without an end arrives, which times out
        elif ends_at > now or self.starts_at == math.inf:
            self.starts_at = started
        else:
            ends_at = max(ends_at, self.ends_at)
        self.times_out, self.ends_at = times_out, ends_at
        self.annotations = alert.annotations or self.annotations
        self.url = alert.url or self.url
        self.trace_id = alert.trace_id or self.trace_id
        self.updated_at = now

    def as_notified(self, now: float) -> NotifiedAlert:
        """Return the alert as it is now."""
        fires = self.fires(now)
        return NotifiedAlert(
            self.fingerprint,
            Status.FIRING if fires else Status.RESOLVED,
            self.labels,
            self.annotations,
            self.starts_at,
            None if fires else self.ends_at,
            self.url,
            self.trace_id,
        )

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _SAVED}

    def load(self, data: dict[str, Any]) -> None:
        """Continue with what `to_dict` returned, apart from the labels."""
        self.annotations = data["annotations"]
        self.starts_at = past_or(data["starts_at"], data["updated_at"])
        self.ends_at, self.times_out, self.updated_at = data["ends_at"], data["times_out"], data["updated_at"]
        self.url, self.trace_id, self.closed = data["url"], data["trace_id"], tuple(data["closed"])


@dataclass(slots=True, eq=False)
class Group:
    """The alerts of a route that have the same values of its `group_by` labels.

    Attributes:
        flushed: whether it has had a tick.
        in_flight: the id of the notification that each channel is sending. It is saved before it is sent, so
            that the next process sends it again if this one ends meanwhile.
        unsure: the channels that may have delivered what another process was sending when it ended.
        rate_limited: what the rate limit of each channel does not allow yet.
        failed: the channels that failed to deliver the last notification.
        pending: alerts for the summary at the end of a mute.
        suppressed: why alerts were suppressed at the last tick.
        resolved_at_tick: the update of each resolved alert; it is deleted once all channels were notified.
    """

    key: str
    route: Route
    labels: Mapping[str, str]
    next_tick: float = math.inf
    flushed: bool = False
    alerts: dict[str, ActiveAlert] = field(default_factory=dict)
    in_flight: dict[str, str] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)
    rate_limited: dict[str, Part] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    pending: dict[str, NotifiedAlert] = field(default_factory=dict)
    suppressed: dict[str, str] = field(default_factory=dict)
    resolved_at_tick: dict[str, float] = field(default_factory=dict)

    @property
    def is_waiting(self) -> bool:
        """Whether something about the group is still to be delivered."""
        return bool(self.in_flight or self.rate_limited or self.pending)

    def firing(self, now: float) -> frozenset[str]:
        """Return the fingerprints of the alerts that fire."""
        return frozenset([key for key, alert in self.alerts.items() if alert.fires(now)])

    def hold(self, alert: NotifiedAlert) -> None:
        """Keep an alert for the end of a mute."""
        if alert.fingerprint in self.pending or len(self.pending) < MAX_PENDING:
            self.pending[alert.fingerprint] = alert

    def pending_now(self, now: float) -> list[NotifiedAlert]:
        """Return the pending alerts as they are now, firing ones first."""
        alerts = []
        for key, alert in self.pending.items():
            active = self.alerts.get(key)
            if active is not None:
                alerts.append(active.as_notified(now))
            elif alert.status is Status.FIRING:  # it was resolved and deleted in the meantime
                alerts.append(replace(alert, status=Status.RESOLVED, ends_at=alert.ends_at or now))
            else:
                alerts.append(alert)
        return sorted(alerts, key=lambda alert: alert.status is not Status.FIRING)

    def to_dict(self) -> dict[str, Any]:
        return {
            "route": self.route.key,
            "labels": dict(self.labels),
            "next_tick": self.next_tick,
            "flushed": self.flushed,
            "failed": sorted(self.failed),
            "in_flight": {
                **dict.fromkeys(self.rate_limited, ""),
                **dict.fromkeys(sorted(self.unsure), "unsure"),
                **self.in_flight,
            },
            "pending": msgspec.to_builtins(list(self.pending.values())),
        }

    def load(self, data: dict[str, Any]) -> None:
        """Continue with what `to_dict` returned, apart from the tick."""
        self.flushed = data["flushed"]
        self.failed = set(data["failed"])
        self.in_flight, self.unsure = dict(data.get("in_flight", {})), set()
        pending = msgspec.convert(data["pending"], list[NotifiedAlert])
        self.pending = {alert.fingerprint: alert for alert in pending}


def reason_to_notify(
    entry: LogEntry | None,
    firing: frozenset[str],
    resolved: frozenset[str],
    now: float,
    channel: ChannelConfig,
    route: Route,
) -> Reason:
    """Return why a channel is notified about a group now, by Alertmanager's rules for deduplication.

    `ALL_RESOLVED` is returned without `send_resolved` too: nothing is sent then, but the log is updated.

    Args:
        entry: the last notification that the channel delivered for the group.
        firing: the fingerprints that fire.
        resolved: the fingerprints that are resolved.
        now: seconds since 1970.
        channel: the channel.
        route: the route of the group.
    """
    if entry is None:
        return Reason.FIRST if firing else Reason.NONE
    if not firing <= entry.firing:
        return Reason.NEW_ALERTS if entry.firing else Reason.FIRST
    if not firing:
        return Reason.ALL_RESOLVED if entry.firing else Reason.NONE
    if channel.send_resolved and not resolved <= entry.resolved:
        return Reason.SOME_RESOLVED
    return Reason.REPEAT if entry.at < now - route.repeat_interval else Reason.NONE
