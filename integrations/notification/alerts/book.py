"""`Book`: what an alert engine knows: alerts, groups and their ticks, silences, and who was told what."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import count
from sys import intern
from typing import Any

from codomyrmex.integrations.notification.alerts.alert import Alert, fingerprint
from codomyrmex.integrations.notification.alerts.config import AlertConfig, ChannelConfig, Route
from codomyrmex.integrations.notification.alerts.group import ActiveAlert, Group
from codomyrmex.integrations.notification.alerts.group_key import RouteMatch
from codomyrmex.integrations.notification.alerts.inhibition import Inhibitor
from codomyrmex.integrations.notification.alerts.notification_log import LogEntry
from codomyrmex.integrations.notification.alerts.router import AlertRouter
from codomyrmex.integrations.notification.alerts.silences import KEPT_FOR, Silence

State = Mapping[tuple[str, str], Any]  # what is kept, by its kind and key

_SWEEP_EVERY = 600.0  # seconds
_SEPARATOR = "\n"


class Book:
    """Knows what is going on, and what of it has changed since it was saved.

    Args:
        config: the configuration.

    Attributes:
        config: the configuration.
        router: from labels to routes.
        inhibitor: which alerts keep others back.
        channels: each channel by its name, with the name of its receiver.
        alerts: by their fingerprints.
        groups: by their keys.
        silences: by their ids.
        log: what each channel was told last, by group and channel.
    """

    def __init__(self, config: AlertConfig) -> None:
        self._use(config)
        self.alerts: dict[str, ActiveAlert] = {}
        self.groups: dict[str, Group] = {}
        self.silences: dict[str, Silence] = {}
        self.log: dict[tuple[str, str], LogEntry] = {}
        self._ticks: list[tuple[float, int, Group]] = []
        self._order = count()
        self._sweep_at = -math.inf
        self._changed: dict[tuple[str, str], None] = {}

    def _use(self, config: AlertConfig) -> None:
        self.config = config
        self.router = AlertRouter(config)
        self.inhibitor = Inhibitor(config.inhibit_rules)
        self.channels = {
            channel.name: (receiver.name, channel)
            for receiver in config.receivers.values()
            for channel in receiver.channels
        }

    def mark(self, kind: str, key: str) -> None:
        """Note that something has changed, or is gone."""
        self._changed[kind, key] = None

    # Alerts and their groups

    def add(self, key: str, alert: Alert, now: float) -> ActiveAlert:
        """Take in an alert that is new."""
        active = self.alerts[key] = ActiveAlert(key, _shared(alert.labels))
        active.update(alert, now, self.config.resolve_timeout)
        self.inhibitor.add(active)
        self.enter(active, now)
        return active

    def enter(self, alert: ActiveAlert, now: float) -> None:
        for match in self.router.match_once(alert.labels):
            if match.group_key in alert.left:
                continue
            group = self.groups.get(match.group_key)
            if group is None:
                group = self._new_group(match, now)
            if alert.fingerprint in group.alerts:
                continue
            group.alerts[alert.fingerprint] = alert
            alert.groups = (*alert.groups, group)
            if not group.flushed and alert.starts_at + group.route.group_wait < now:
                self.schedule(group, now)  # it has waited long enough before it came

    def _new_group(self, match: RouteMatch, now: float) -> Group:
        group = Group(match.group_key, match.route, match.group_labels, math.inf)
        self.groups[group.key] = group
        self.schedule(group, now + match.route.group_wait)
        for channel in self.chain(match.route):
            entry = self.log.get((group.key, channel.name))
            if entry is not None and entry.expires <= now:  # whether or not it was swept
                self._forget_log(group.key, channel.name)
        return group

    def chain(self, route: Route) -> list[ChannelConfig]:
        """Give the channels of a route, and of all that take over from them."""
        receiver = self.config.receivers[route.receiver]
        channels = list(receiver.channels)
        while receiver.fallback is not None:
            receiver = self.config.receivers[receiver.fallback]
            channels += receiver.channels
        return channels

    def schedule(self, group: Group, at: float) -> None:
        group.next_tick = at
        heapq.heappush(self._ticks, (at, next(self._order), group))
        self.mark("group", group.key)

    def next_tick(self) -> float:
        """Give the moment of the next tick; infinity if there is none."""
        while self._ticks and not self._is_current(*self._ticks[0]):
            heapq.heappop(self._ticks)
        return self._ticks[0][0] if self._ticks else math.inf

    def take_ticking(self, now: float) -> Group | None:
        """Take out the next group whose tick is due; None if there is none."""
        while self._ticks and self._ticks[0][0] <= now:
            tick = heapq.heappop(self._ticks)
            if self._is_current(*tick):
                return tick[2]
        return None

    def _is_current(self, at: float, _: int, group: Group) -> bool:
        return group.next_tick == at and self.groups.get(group.key) is group

    def of_other_type(self, labels: Mapping[str, str]) -> ActiveAlert | None:
        """Give the alert that differs only in its `type`: an event that resolves is seldom an ERROR."""
        if "type" not in labels:
            return None
        others = (self.alerts.get(fingerprint({**labels, "type": each})) for each in ("error", "message"))
        return next((alert for alert in others if alert is not None), None)

    # What is kept back

    def muted(self, route: Route, now: float) -> tuple[str, str] | None:
        """Tell whether the time intervals of a route mute it now: `muted` or `not active`, and the names."""
        if not route.mute and not route.active:
            return None
        moment = datetime.fromtimestamp(now, UTC)
        if route.active and not any(interval.holds(moment) for interval in route.active):
            return "not active", ", ".join(interval.name for interval in route.active)
        muting = next((interval.name for interval in route.mute if interval.holds(moment)), None)
        return None if muting is None else ("muted", muting)

    def why_suppressed(
        self, labels: Mapping[str, str], muted: tuple[str, str] | None, now: float
    ) -> tuple[str, str] | None:
        found = self.inhibitor.inhibitor_of(labels, now)
        if found is not None:
            return "inhibited", found[0].fingerprint
        if muted is not None:
            return muted
        silence = self.silenced_by(labels, now)
        return None if silence is None else ("silenced", silence.id)

    def silenced_by(self, labels: Mapping[str, str], now: float) -> Silence | None:
        """Give the silence that keeps an alert with these labels back."""
        return next((silence for silence in self.silences.values() if silence.silences(labels, now)), None)

    # What is over

    def leave(self, alert: ActiveAlert, group: Group) -> None:
        del group.alerts[alert.fingerprint]
        group.suppressed.pop(alert.fingerprint, None)
        alert.groups = tuple(other for other in alert.groups if other is not group)
        alert.left = (*alert.left, group.key)
        if not alert.groups:
            self._forget(alert)
        self.mark("alert", alert.fingerprint)

    def _forget(self, alert: ActiveAlert) -> None:
        del self.alerts[alert.fingerprint]
        self.inhibitor.remove(alert)
        self.mark("alert", alert.fingerprint)

    def drop_group(self, group: Group) -> None:
        del self.groups[group.key]
        self.mark("group", group.key)

    # The notification log

    def note(
        self, key: str, channel: str, firing: frozenset[str], resolved: frozenset[str], now: float
    ) -> None:
        """Note what a channel was told of a group."""
        group = self.groups.get(key)
        repeat = (self.config.route if group is None else group.route).repeat_interval
        self.log[key, channel] = LogEntry(firing, resolved, now, now + 2 * repeat)
        self.mark("log", f"{key}{_SEPARATOR}{channel}")

    def _forget_log(self, key: str, channel: str) -> None:
        del self.log[key, channel]
        self.mark("log", f"{key}{_SEPARATOR}{channel}")

    def sweep(self, now: float) -> None:
        """Forget, now and then, what is too old to matter."""
        if now < self._sweep_at:
            return
        self._sweep_at = now + _SWEEP_EVERY
        for key in [key for key, entry in self.log.items() if entry.expires <= now]:
            if key[0] not in self.groups:  # what is kept back for long is still to be resolved
                self._forget_log(*key)
        for silence in [each for each in self.silences.values() if each.ends_at + KEPT_FOR <= now]:
            self.forget_silence(silence.id)

    # Silences

    def add_silence(self, silence: Silence) -> None:
        """Add a silence, or put it in the place of the one with its id."""
        self.silences[silence.id] = silence
        self.mark("silence", silence.id)

    def expire_silence(self, silence_id: str, now: float) -> None:
        """End a silence now.

        Raises:
            KeyError: there is none with this id.
        """
        silence = self.silences[silence_id]
        if now < silence.ends_at:
            self.add_silence(silence.ended(now))

    def forget_silence(self, silence_id: str) -> None:
        """Take a silence away without a trace."""
        del self.silences[silence_id]
        self.mark("silence", silence_id)

    # A new configuration

    def reload(self, config: AlertConfig, now: float) -> None:
        """Go on with another configuration: groups that it still has keep their timers, and the log stays."""
        old = self.groups
        self._use(config)
        self.groups = {}
        for alert in list(self.alerts.values()):
            self.inhibitor.add(alert)
            alert.groups = ()
            for match in self.router.match(alert.labels):
                self._adopt(match.route, old.get(match.group_key), now)
            self.enter(alert, now)
            if not alert.groups:
                self._forget(alert)
        routes = {route.key: route for route in config.route.walk()}
        for group in old.values():
            if group.held and group.route.key in routes:
                self._adopt(routes[group.route.key], group, now)
        for key in old:
            self.mark("group", key)

    def _adopt(self, route: Route, group: Group | None, now: float) -> None:
        """Take a group of before over, with its timers."""
        if group is None or group.key in self.groups:
            return
        group.route = route
        group.alerts = {}
        group.under_way = {name: each for name, each in group.under_way.items() if name in self.channels}
        group.rolled_up = {name: each for name, each in group.rolled_up.items() if name in self.channels}
        group.given_up &= self.channels.keys()
        self.groups[group.key] = group
        wait = route.group_interval if group.flushed else route.group_wait
        self.schedule(group, min(group.next_tick, now + wait))

    # What is kept

    def take_changes(self) -> dict[tuple[str, str], Any]:
        """Give what has changed since the last call, as built-in types; None for what is gone."""
        changed, self._changed = self._changed, {}
        return {each: self._value(*each) for each in changed}

    def forget_changes(self) -> None:
        """Forget what has changed, where nothing is kept."""
        self._changed.clear()

    def _value(self, kind: str, key: str) -> Any:
        if kind == "alert":
            alert = self.alerts.get(key)
            return None if alert is None else alert.to_dict()
        if kind == "group":
            group = self.groups.get(key)
            return None if group is None else group.to_dict()
        if kind == "silence":
            silence = self.silences.get(key)
            return None if silence is None else silence.to_dict()
        group_key, _, channel = key.partition(_SEPARATOR)
        entry = self.log.get((group_key, channel))
        return None if entry is None else entry.to_dict()

    def restore(self, state: State) -> None:
        kinds: dict[str, dict[str, Any]] = {"alert": {}, "group": {}, "log": {}, "silence": {}}
        for (kind, key), value in state.items():
            if kind in kinds and value is not None:
                kinds[kind][key] = value
        for key, value in kinds["log"].items():
            group_key, _, channel = key.partition(_SEPARATOR)
            self.log[group_key, channel] = LogEntry.from_dict(value)
        for key, value in kinds["silence"].items():
            self.silences[key] = Silence.from_dict(value)
        self._restore_groups(kinds["group"], kinds["alert"])
        # What the configuration has no place for any more is to be forgotten, and what is new to be kept.
        for kind, there in (("alert", self.alerts.keys()), ("group", self.groups.keys())):
            self._changed |= dict.fromkeys((kind, key) for key in sorted(kinds[kind].keys() ^ there))

    def _restore_groups(self, groups: Mapping[str, Any], alerts: Mapping[str, Any]) -> None:
        routes = {route.key: route for route in self.config.route.walk()}
        for key, value in groups.items():
            route = routes.get(value["route"])
            if route is not None:
                group = self.groups[key] = Group(key, route, value["labels"], math.inf)
                group.restore(value)
        for key, value in alerts.items():
            alert = self.alerts[key] = ActiveAlert.from_dict(key, value)
            self.inhibitor.add(alert)
            self.enter(alert, alert.updated_at)
            if not alert.groups:
                self._forget(alert)
        for group in list(self.groups.values()):
            if not group.alerts and not group.held:
                self.drop_group(group)
            elif group.key in groups:
                self.schedule(group, groups[group.key]["next_tick"])
        self._changed.clear()


# Of 100,000 alerts most names and values are the same few; with a copy of its own each takes 2 kB.
def _shared(labels: Mapping[str, str]) -> dict[str, str]:
    """Give labels whose texts are shared with those of other alerts."""
    return {_intern(name): _intern(value) for name, value in labels.items()}


def _intern(text: str) -> str:
    return intern(text) if text.__class__ is str else text
