"""What the engine keeps: the alerts that are active, and the groups that they are in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
from codomyrmex.integrations.notification.alerts.alert import Alert
from codomyrmex.integrations.notification.alerts.config import Route
from codomyrmex.integrations.notification.alerts.notification import NotifiedAlert, Part, Status

MAX_HELD = 1_000  # alerts that a group holds for the end of its quiet hours


class ActiveAlert:
    """An alert and the groups it is in. There may be 100,000, so it has slots and few of them."""

    __slots__ = (
        "annotations",
        "ends_at",
        "fingerprint",
        "groups",
        "labels",
        "left",
        "starts_at",
        "timed",
        "trace_id",
        "updated_at",
        "url",
    )

    def __init__(self, fingerprint: str, labels: Mapping[str, str]) -> None:
        self.fingerprint = fingerprint
        self.labels = labels
        self.annotations: Mapping[str, str] = {}
        self.starts_at = math.inf
        self.ends_at = -math.inf
        self.timed = True  # it ends because nobody tells of it any more
        self.updated_at = -math.inf
        self.url: str | None = None
        self.trace_id: str | None = None
        self.groups: tuple[Group, ...] = ()
        self.left: tuple[str, ...] = ()  # groups that were told of its end, while others are still to be

    def fires(self, now: float) -> bool:
        """Tell whether it fires."""
        return self.ends_at > now

    def update(self, alert: Alert, now: float, resolve_timeout: float) -> None:
        """Take in what is told of it; of what goes on, the earliest beginning stays."""
        begun = now if alert.starts_at is None else alert.starts_at
        if alert.ends_at is None or self.starts_at == math.inf:
            self.starts_at = min(self.starts_at, begun) if self.fires(now) else begun
        self.timed = alert.ends_at is None
        self.ends_at = now + resolve_timeout if alert.ends_at is None else min(alert.ends_at, now)
        self.annotations = alert.annotations or self.annotations
        self.url = alert.url or self.url
        self.trace_id = alert.trace_id or self.trace_id
        self.updated_at = now

    def as_notified(self, now: float) -> NotifiedAlert:
        """Give it as it is now."""
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
        """Give it as built-in types."""
        names = (
            "labels",
            "annotations",
            "starts_at",
            "ends_at",
            "timed",
            "updated_at",
            "url",
            "trace_id",
            "left",
        )
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_dict(cls, key: str, data: dict[str, Any]) -> ActiveAlert:
        """Read it back."""
        alert = cls(key, data["labels"])
        for name, value in data.items():
            setattr(alert, name, value)
        alert.left = tuple(alert.left)
        return alert


class Group:
    """The alerts of a route that share the values of its `group_by` labels."""

    __slots__ = (
        "alerts",
        "flushed",
        "given_up",
        "held",
        "key",
        "labels",
        "next_tick",
        "resolved_at_tick",
        "rolled_up",
        "route",
        "suppressed",
        "under_way",
    )

    def __init__(self, key: str, route: Route, labels: Mapping[str, str], next_tick: float) -> None:
        self.key = key
        self.route = route
        self.labels = labels
        self.next_tick = next_tick
        self.flushed = False
        self.alerts: dict[str, ActiveAlert] = {}
        self.under_way: dict[str, str] = {}  # channel -> the notification that is being sent
        self.rolled_up: dict[str, Part] = {}  # channel -> what its rate does not let through yet
        self.given_up: set[str] = set()  # channels that did not deliver last time
        self.held: dict[str, NotifiedAlert] = {}  # for the end of the quiet hours
        self.suppressed: dict[str, str] = {}  # alert -> why it was not notified of, as last told
        self.resolved_at_tick: dict[str, float] = {}  # alert -> its update; to be forgotten once told

    @property
    def waits(self) -> bool:
        """Whether something of it is still to be told."""
        return bool(self.under_way or self.rolled_up or self.held)

    def hold(self, alert: NotifiedAlert) -> None:
        """Keep an alert for the end of the quiet hours."""
        if alert.fingerprint in self.held or len(self.held) < MAX_HELD:
            self.held[alert.fingerprint] = alert

    def held_now(self, now: float) -> list[NotifiedAlert]:
        """Give what is held, as it is now."""
        current = []
        for key, alert in self.held.items():
            active = self.alerts.get(key)
            if active is not None:
                current.append(active.as_notified(now))
            elif alert.status is Status.FIRING:  # it is gone: resolved and forgotten
                current.append(replace(alert, status=Status.RESOLVED, ends_at=alert.ends_at or now))
            else:
                current.append(alert)
        return sorted(current, key=lambda each: each.status is not Status.FIRING)

    def to_dict(self) -> dict[str, Any]:
        """Give as built-in types what cannot be found out anew."""
        return {
            "route": self.route.key,
            "labels": dict(self.labels),
            "next_tick": self.next_tick,
            "flushed": self.flushed,
            "given_up": sorted(self.given_up),
            "held": msgspec.to_builtins(list(self.held.values())),
        }

    def restore(self, data: dict[str, Any]) -> None:
        """Take back what `to_dict` gave."""
        self.next_tick = data["next_tick"]
        self.flushed = data["flushed"]
        self.given_up = set(data["given_up"])
        self.held = {each.fingerprint: each for each in msgspec.convert(data["held"], list[NotifiedAlert])}
